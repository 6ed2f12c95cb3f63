//! Buffers that outlive the messages they are lent to.
//!
//! Comes in: buffers of messages that were handled. Goes out: the same buffers, for the next
//! messages that do not arrive whole. This never holds more than its bound and never looks into a
//! buffer.

use super::deflate::Codecs;

/// Buffers up to this capacity, in bytes, are small: any connection may hold one for a single
/// byte, and `2 x received + 64 KiB` still holds.
pub(super) const SMALL_MAX: usize = 64 * 1024;

/// Buffers below this capacity, in bytes, are not worth keeping.
const KEPT_MIN: usize = 1024;

/// Buffers for messages that do not arrive whole in one read, and shared codecs for those that are
/// compressed (RFC 7692); one pool per worker.
///
/// Two shelves. The small one (up to 64 KiB each) serves tails and fragments, last in, first out,
/// so that the warmest memory is used again; it may fill a quarter of the bound. The large one is
/// asked only for messages over 64 KiB and gives the smallest buffer that fits, so that a message
/// of 1 MiB touches no fresh page once one like it has been through. A buffer that finds its shelf
/// full is freed.
#[derive(Debug)]
pub struct BufferPool {
    small: Shelf,
    large: Shelf,
    /// Made when the first message is compressed or inflated.
    codecs: Option<Box<Codecs>>,
    /// Bytes that were inflated.
    inflated: u64,
}

impl BufferPool {
    /// An empty pool that will keep at most `max_retained_bytes` of capacity. A few times the
    /// largest usual message is a good figure; zero keeps nothing.
    pub const fn new(max_retained_bytes: usize) -> Self {
        let small = max_retained_bytes / 4;
        let large = max_retained_bytes - small;
        Self { small: Shelf::new(small), large: Shelf::new(large), codecs: None, inflated: 0 }
    }

    /// An empty buffer of any capacity up to 64 KiB, often zero.
    pub fn take(&mut self) -> Vec<u8> {
        self.small.take_last().unwrap_or_default()
    }

    /// An empty buffer for about `wish` bytes: up to 64 KiB like [`BufferPool::take`]; above, the
    /// smallest one that fits, or else the last one given, which will have to grow. Often of capacity zero: nothing is
    /// ever allocated here.
    pub fn take_for(&mut self, wish: usize) -> Vec<u8> {
        if wish <= SMALL_MAX {
            return self.take();
        }
        self.large.take_fitting(wish).or_else(|| self.large.take_last()).unwrap_or_default()
    }

    /// An empty buffer that holds `wish` bytes and more than [`SMALL_MAX`], if there is one.
    pub(super) fn take_large(&mut self, wish: usize) -> Option<Vec<u8>> {
        self.large.take_fitting(wish)
    }

    /// Takes a buffer back, whatever is in it, and keeps or frees it.
    pub fn give(&mut self, buffer: Vec<u8>) {
        match buffer.capacity() {
            0..KEPT_MIN => {}
            KEPT_MIN..=SMALL_MAX => self.small.give(buffer),
            _ => self.large.give(buffer),
        }
    }

    /// The shared codecs.
    pub(in crate::protocol) fn codecs(&mut self) -> &mut Codecs {
        self.codecs.get_or_insert_default()
    }

    /// Bytes that came out of decompressors so far, for whoever shares time out.
    pub fn inflated(&self) -> u64 {
        self.inflated
    }

    pub(in crate::protocol) fn note_inflated(&mut self, bytes: usize) {
        self.inflated += bytes as u64;
    }

    /// Capacity of buffers that is kept at the moment, in bytes. Codecs are not counted.
    pub fn retained(&self) -> usize {
        self.small.retained + self.large.retained
    }
}

/// Buffers sorted by nothing but their arrival, with a bound on the sum of their capacities.
#[derive(Debug)]
struct Shelf {
    buffers: Vec<Vec<u8>>,
    retained: usize,
    max_retained: usize,
}

impl Shelf {
    const fn new(max_retained: usize) -> Self {
        Self { buffers: Vec::new(), retained: 0, max_retained }
    }

    fn give(&mut self, mut buffer: Vec<u8>) {
        let retained = self.retained.saturating_add(buffer.capacity());
        if retained <= self.max_retained {
            buffer.clear();
            self.retained = retained;
            self.buffers.push(buffer);
        }
    }

    fn take_last(&mut self) -> Option<Vec<u8>> {
        let buffer = self.buffers.pop()?;
        self.retained -= buffer.capacity();
        Some(buffer)
    }

    /// The smallest buffer that holds `wish` bytes, the warmest of several equal ones. Linear:
    /// the bound keeps the large shelf to a few dozen buffers.
    fn take_fitting(&mut self, wish: usize) -> Option<Vec<u8>> {
        let fitting = self.buffers.iter().enumerate().rev();
        let fitting = fitting.filter(|(_, buffer)| buffer.capacity() >= wish);
        let (index, _) = fitting.min_by_key(|(_, buffer)| buffer.capacity())?;
        let buffer = self.buffers.remove(index);
        self.retained -= buffer.capacity();
        Some(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    fn buffer(capacity: usize) -> Vec<u8> {
        Vec::with_capacity(capacity)
    }

    #[test]
    fn an_empty_pool_gives_buffers_without_memory() {
        let mut pool = BufferPool::new(1024 * KIB);
        assert_eq!(pool.take().capacity(), 0);
        assert_eq!(pool.take_for(16 * 1024 * KIB).capacity(), 0);
        assert_eq!(pool.take_large(1), None);
        assert_eq!(pool.retained(), 0);
    }

    #[test]
    fn small_buffers_come_back_last_in_first_out_and_empty() {
        let mut pool = BufferPool::new(1024 * KIB);
        pool.give(buffer(4 * KIB));
        pool.give(vec![7; 2 * KIB]);
        assert_eq!(pool.retained(), 6 * KIB);
        let last = pool.take();
        assert_eq!((last.capacity(), last.len()), (2 * KIB, 0));
        assert_eq!(pool.take().capacity(), 4 * KIB);
        assert_eq!(pool.retained(), 0);
    }

    #[test]
    fn a_small_wish_never_gets_a_large_buffer() {
        let mut pool = BufferPool::new(4096 * KIB);
        pool.give(buffer(1024 * KIB));
        assert_eq!(pool.take_for(20).capacity(), 0);
        assert_eq!(pool.take_for(SMALL_MAX).capacity(), 0);
        assert_eq!(pool.take_for(SMALL_MAX + 1).capacity(), 1024 * KIB);
    }

    #[test]
    fn a_large_wish_gets_the_smallest_that_fits_or_else_the_last() {
        let mut pool = BufferPool::new(8192 * KIB);
        pool.give(buffer(1024 * KIB));
        pool.give(buffer(256 * KIB));
        pool.give(buffer(512 * KIB));
        assert_eq!(pool.take_large(2048 * KIB), None);
        assert_eq!(pool.take_for(300 * KIB).capacity(), 512 * KIB);
        assert_eq!(pool.take_for(2048 * KIB).capacity(), 256 * KIB);
        assert_eq!(pool.take_for(2048 * KIB).capacity(), 1024 * KIB);
    }

    #[test]
    fn the_bound_holds_whatever_is_given() {
        let mut pool = BufferPool::new(256 * KIB);
        for _ in 0..100 {
            pool.give(buffer(16 * KIB));
            pool.give(buffer(96 * KIB));
            pool.give(buffer(1024 * KIB));
            pool.give(buffer(10));
            assert!(pool.retained() <= 256 * KIB);
        }
        // A quarter for the small shelf, the rest for the large one.
        assert_eq!(pool.retained(), (64 + 2 * 96) * KIB);
        assert_eq!(BufferPool::new(0).retained(), 0);
    }
}
