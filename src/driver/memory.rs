//! The memory that received bytes land in, and the only way to look at it.
//!
//! One region per worker. The driver keeps a share of it (so that it outlives every operation of
//! the kernel), the worker keeps the one [`ReceiveMemory`], and a slice exists only while that is
//! borrowed mutably: two slices, or a slice and a recycled buffer, cannot exist at once.

#![allow(unsafe_code)]

use std::ptr::{self, NonNull};
use std::sync::Arc;

/// An anonymous mapping (mmap(2)), unmapped when its last share goes. It is resident from the
/// start: no receive waits for a page, and what a connection costs later is only its own.
#[derive(Debug)]
pub(crate) struct Region {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: `Region` is plain memory without thread affinity; access goes through the unique
// `ReceiveMemory` or through the kernel, as the module documentation says.
unsafe impl Send for Region {}
// SAFETY: as above; `&Region` gives out the address only.
unsafe impl Sync for Region {}

impl Region {
    const PAGE: usize = 4096;

    fn new(len: usize) -> Self {
        let len = len.max(1).next_multiple_of(Self::PAGE);
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no
        // memory that exists.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        match NonNull::new(base.cast::<u8>()) {
            Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => Self { base, len },
            _ => panic!("no address space for {len} bytes of receive memory"),
        }
    }

    /// First byte; what io_uring registers.
    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length, and unmapped only here. The result can only
        // say that this was not so.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// The worker's view of its region. Not `Clone`: see the module documentation.
#[derive(Debug)]
pub(crate) struct ReceiveMemory {
    region: Arc<Region>,
}

impl ReceiveMemory {
    /// `len` bytes, rounded up to whole pages, all of them resident.
    pub(crate) fn new(len: usize) -> Self {
        Self { region: Arc::new(Region::new(len)) }
    }

    /// A share that keeps the region alive, for the driver.
    pub(crate) fn region(&self) -> Arc<Region> {
        Arc::clone(&self.region)
    }

    /// Total bytes.
    pub(crate) fn len(&self) -> usize {
        self.region.len()
    }

    /// The bytes `offset..offset + len`.
    ///
    /// # Safety
    ///
    /// Until the returned borrow ends, nothing else may write to this range: a range that the
    /// kernel may still fill must not be passed.
    ///
    /// # Panics
    ///
    /// When the range leaves the region.
    pub(crate) unsafe fn slice(&mut self, offset: usize, len: usize) -> &mut [u8] {
        assert!(offset <= self.len() && len <= self.len() - offset, "range outside the region");
        // SAFETY: inside the allocation (asserted), initialised (zeroed, then only written),
        // exclusive by `&mut self` and by the caller's promise about the kernel.
        unsafe { std::slice::from_raw_parts_mut(self.region.base().add(offset), len) }
    }
}
