//! The memory that received bytes land in, and the only way to look at it.
//!
//! One region per worker. The driver keeps a share of it (so that it outlives every operation of
//! the kernel), the worker keeps the one [`ReceiveMemory`], and a slice exists only while that is
//! borrowed mutably: two slices, or a slice and a recycled buffer, cannot exist at once.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;

/// A page-aligned, zeroed allocation that is freed when its last share goes.
#[derive(Debug)]
pub(crate) struct Region {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: `Region` is a plain allocation without thread affinity; access goes through the unique
// `ReceiveMemory` or through the kernel, as the module documentation says.
unsafe impl Send for Region {}
// SAFETY: as above; `&Region` gives out the address only.
unsafe impl Sync for Region {}

impl Region {
    const PAGE: usize = 4096;

    fn new(len: usize) -> Self {
        let len = len.max(1).next_multiple_of(Self::PAGE);
        let layout = Layout::from_size_align(len, Self::PAGE).expect("below isize::MAX");
        // SAFETY: the layout has a non-zero size.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
        Self { base, layout }
    }

    /// First byte; what io_uring registers.
    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed only here.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

/// The worker's view of its region. Not `Clone`: see the module documentation.
#[derive(Debug)]
pub(crate) struct ReceiveMemory {
    region: Arc<Region>,
}

impl ReceiveMemory {
    /// `len` bytes, rounded up to whole pages; untouched pages cost nothing.
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
