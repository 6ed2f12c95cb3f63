//! The provided-buffer ring: receive buffers lent to the kernel, lent to the reader, recycled.
//!
//! In: completions that say "buffer `bid`, `len` bytes". Out: where in the receive memory these
//! bytes lie, and when the buffer is empty and has to go back. It never looks at the bytes.
//!
//! ```text
//!  region   | pad+head | buffer 0        | pad+head | buffer 1        | ...
//!                      ^ position[0]                ^ position[1]
//! ```
//!
//! Each buffer has [`HEADROOM`] bytes of its own in front, so that whoever writes there touches
//! neither a neighbour nor bytes that the kernel may be filling. Inside an incremental buffer the
//! headroom is the older, already consumed bytes of that same buffer.
//!
//! Two ways of consumption (io_uring_register_buf_ring(3)):
//!
//! - **whole**: every completion uses up one buffer, however few bytes it holds.
//! - **incremental** (`IOU_PBUF_RING_INC`, Linux 6.12): completions eat one buffer from its front
//!   to its end. The kernel does not say where a piece begins; `positions` counts along in the
//!   order of the completions. A piece without `IORING_CQE_F_BUF_MORE` is the buffer's last.

#![allow(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use crate::driver::HEADROOM;
use crate::driver::memory::{ReceiveMemory, Region};

/// How the receive memory is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Bytes of one buffer.
    pub(super) buffer_len: u32,
    /// Number of buffers.
    pub(super) count: u16,
}

impl Geometry {
    /// Headroom in front of every buffer: a whole cache line, which also keeps the first lines
    /// of all buffers from competing for one set of the cache.
    const LEAD: usize = HEADROOM.next_multiple_of(64);

    /// Most buffers that a ring of the kernel can name.
    pub(super) const MAX_COUNT: u16 = 1 << 15;

    /// Bytes of receive memory that all buffers need together.
    pub(super) fn region_len(self) -> usize {
        self.stride() * usize::from(self.count)
    }

    /// First byte of buffer `bid`.
    fn start(self, bid: u16) -> usize {
        usize::from(bid) * self.stride() + Self::LEAD
    }

    fn stride(self) -> usize {
        Self::LEAD + (self.buffer_len as usize).next_multiple_of(64)
    }

    /// Entries of the ring: a power of two.
    fn entries(self) -> u16 {
        self.count.next_power_of_two()
    }
}

/// Bytes that one completion brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where they begin in the receive memory.
    pub(super) offset: usize,
    /// The buffer to [`Buffers::recycle`] once they were read, if they were its last.
    pub(super) spent: Option<u16>,
}

/// One group of provided buffers, registered with one ring.
#[derive(Debug)]
pub(super) struct Buffers {
    /// What the kernel writes into. Kept alive for it, see [`Buffers::leak`].
    region: Arc<Region>,
    /// Entries shared with the kernel: page aligned, as it demands.
    ring: Arc<Region>,
    geometry: Geometry,
    group: u16,
    incremental: bool,
    /// The next entry to write; published to the kernel after every write.
    tail: u16,
    /// Bytes of each buffer that completions have named since it was provided.
    positions: Box<[u32]>,
}

impl Buffers {
    /// `IOU_PBUF_RING_INC` of `linux/io_uring.h`.
    const INCREMENTAL: u16 = 2;

    /// Registers `group` and provides all buffers of `region`.
    ///
    /// # Errors
    ///
    /// What io_uring_register(2) answers: EINVAL where the kernel does not know buffer rings or,
    /// with `incremental`, does not know partial consumption.
    pub(super) fn register(
        submitter: &Submitter<'_>,
        region: Arc<Region>,
        geometry: Geometry,
        group: u16,
        incremental: bool,
    ) -> io::Result<Self> {
        assert!(geometry.count >= 1 && geometry.count <= Geometry::MAX_COUNT);
        assert!(geometry.region_len() <= region.len(), "buffers outside the region");
        let entries = geometry.entries();
        let ring = ReceiveMemory::new(usize::from(entries) * size_of::<BufRingEntry>()).region();
        let flags = if incremental { Self::INCREMENTAL } else { 0 };
        // SAFETY: the ring memory is page aligned, holds `entries` zeroed entries and lives until
        // the group is unregistered, or for ever (`leak`).
        unsafe {
            submitter.register_buf_ring_with_flags(ring.base() as u64, entries, group, flags)?;
        }
        let positions = vec![0; usize::from(geometry.count)].into_boxed_slice();
        let mut buffers = Self { region, ring, geometry, group, incremental, tail: 0, positions };
        for bid in 0..geometry.count {
            buffers.recycle(bid);
        }
        Ok(buffers)
    }

    /// The group that receive operations name.
    pub(super) fn group(&self) -> u16 {
        self.group
    }

    /// Bytes of one buffer.
    pub(super) fn buffer_len(&self) -> u32 {
        self.geometry.buffer_len
    }

    /// Number of buffers.
    pub(super) fn count(&self) -> u16 {
        self.geometry.count
    }

    /// Whether the pieces lie in `memory`.
    pub(super) fn is_of(&self, memory: &ReceiveMemory) -> bool {
        Arc::ptr_eq(&self.region, &memory.region())
    }

    /// Whether buffers are consumed piece by piece.
    #[cfg(test)]
    pub(super) fn is_incremental(&self) -> bool {
        self.incremental
    }

    /// Takes note of a completion that names buffer `bid`: must be called for each of them, in
    /// their order, also for those that nobody wants any more.
    pub(super) fn advance(&mut self, bid: u16, len: u32, buffer_more: bool) -> Piece {
        if buffer_more && let Some(offset) = self.advance_within(bid, len) {
            return Piece { offset, spent: None };
        }
        let position = self.positions[usize::from(bid)];
        debug_assert!(len <= self.geometry.buffer_len - position, "piece longer than its buffer");
        Piece { offset: self.geometry.start(bid) + position as usize, spent: Some(bid) }
    }

    /// [`Self::advance`] for a piece that is not its buffer's last: where it lies. `None` where
    /// buffers are not consumed piece by piece; nothing is noted then.
    #[inline(always)]
    pub(super) fn advance_within(&mut self, bid: u16, len: u32) -> Option<usize> {
        if !self.incremental {
            return None;
        }
        let position = self.positions.get_mut(usize::from(bid))?;
        debug_assert!(len <= self.geometry.buffer_len - *position, "piece longer than its buffer");
        let offset = self.geometry.start(bid) + *position as usize;
        *position += len;
        Some(offset)
    }

    /// Gives an empty buffer back to the kernel. Nobody may read its bytes any more.
    pub(super) fn recycle(&mut self, bid: u16) {
        self.positions[usize::from(bid)] = 0;
        let address = self.region.base() as u64 + self.geometry.start(bid) as u64;
        let index = usize::from(self.tail & (self.geometry.entries() - 1));
        let entries = self.ring.base().cast::<BufRingEntry>();
        // SAFETY: `index` is below the number of entries that the ring memory holds.
        let entry = unsafe { entries.add(index) };
        // SAFETY: in bounds, aligned and initialised (zeroed); the kernel reads an entry only
        // after the tail has passed it, and consumed this one before its buffer came here.
        let entry = unsafe { &mut *entry };
        // Only these three fields: in entry 0 the fourth one is the tail.
        entry.set_addr(address);
        entry.set_len(self.geometry.buffer_len);
        entry.set_bid(bid);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the argument is the first entry of the ring.
        let tail = unsafe { BufRingEntry::tail(entries) };
        // SAFETY: a valid, aligned u16 that only this thread writes; the kernel reads it.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Release: the kernel must see the entry before the tail that covers it.
        tail.store(self.tail, Ordering::Release);
    }

    /// Takes all buffers away from the kernel. No receive operation may be in flight.
    pub(super) fn unregister(&self, submitter: &Submitter<'_>) -> io::Result<()> {
        submitter.unregister_buf_ring(self.group)
    }

    /// Gives up the memory for good, for the case that the kernel may still write to it.
    pub(super) fn leak(&self) {
        std::mem::forget(Arc::clone(&self.region));
        std::mem::forget(Arc::clone(&self.ring));
    }

    /// Bytes of buffer `bid` that completions have named since it was provided.
    #[cfg(test)]
    pub(super) fn position(&self, bid: u16) -> u32 {
        self.positions[usize::from(bid)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_neither_overlap_nor_leave_the_region() {
        for (buffer_len, count) in [(64, 1), (100, 3), (4096, 8), (256 * 1024, 16)] {
            let geometry = Geometry { buffer_len, count };
            let mut free_from = 0;
            for bid in 0..count {
                let start = geometry.start(bid);
                assert!(start - HEADROOM >= free_from, "headroom is the neighbour's");
                free_from = start + buffer_len as usize;
            }
            assert!(free_from <= geometry.region_len());
        }
    }

    #[test]
    fn buffers_start_on_cache_lines() {
        let geometry = Geometry { buffer_len: 1000, count: 5 };
        assert!((0..5).all(|bid| geometry.start(bid).is_multiple_of(64)));
    }

    #[test]
    fn ring_has_a_power_of_two_of_entries() {
        assert_eq!(Geometry { buffer_len: 64, count: 1 }.entries(), 1);
        assert_eq!(Geometry { buffer_len: 64, count: 5 }.entries(), 8);
        assert_eq!(Geometry { buffer_len: 64, count: Geometry::MAX_COUNT }.entries(), 1 << 15);
    }
}
