//! Messages on their way out: bytes that wait for the socket.
//!
//! What comes in: frames, appended in call order. What goes out: one contiguous slice per flush.
//! Nothing here knows a socket: the worker hands the slice to the driver and reports what was
//! taken.
//!
//! ```text
//!            taken          unsent
//!        |-----------|====================|            bytes
//!        0         sent              bytes.len()       sent <= bytes.len()
//! ```
//!
//! A connection borrows an [`Outgoing`] from its worker's [`OutgoingPool`] with the first frame
//! of a turn and gives it back as soon as the socket took everything, so an idle connection owns
//! none, and the few that are in use stay in the cache.

/// What one connection has to send, and what of its input waits until that is sent.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    /// The one pong that may wait while the socket is full, as a whole frame; empty if none does.
    /// RFC 6455 5.5.3: only the most recent ping needs an answer.
    pong: Vec<u8>,
    /// Received bytes that are looked at only when the socket has taken enough again.
    held: Vec<u8>,
    /// How many of those were looked at after all.
    held_start: usize,
    /// When the socket last took something while it was full.
    pub(crate) progress_ms: u64,
    /// How many unsent bytes its worker has counted.
    pub(crate) noted: usize,
}

impl Outgoing {
    /// Where frames are appended, in call order. A pong that was waiting goes first.
    pub(crate) fn append(&mut self) -> &mut Vec<u8> {
        if !self.pong.is_empty() {
            self.bytes.extend_from_slice(&self.pong);
            self.pong.clear();
        }
        &mut self.bytes
    }

    /// Replaces the waiting pong.
    pub(crate) fn replace_pong(&mut self) -> &mut Vec<u8> {
        self.pong.clear();
        &mut self.pong
    }

    /// Bytes that the socket has not taken.
    pub(crate) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Number of bytes that the socket has not taken, a waiting pong included.
    pub(crate) fn unsent_len(&self) -> usize {
        self.bytes.len() - self.sent + self.pong.len()
    }

    /// The socket took `count` bytes of [`Self::unsent`].
    pub(crate) fn advance(&mut self, count: usize) {
        self.sent += count;
        debug_assert!(self.sent <= self.bytes.len());
        if self.sent == self.bytes.len() {
            self.sent = 0;
            self.bytes.clear();
            if !self.pong.is_empty() {
                std::mem::swap(&mut self.bytes, &mut self.pong);
            }
        } else if self.sent >= self.bytes.len() / 2 && self.sent >= 64 * 1024 {
            // At most as much is moved as was sent since the last time: linear in total.
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// True if the socket took everything.
    #[cfg(test)]
    pub(crate) fn is_drained(&self) -> bool {
        self.unsent_len() == 0
    }

    /// Keeps received bytes for later.
    pub(crate) fn hold(&mut self, input: &[u8]) {
        if self.held_start > self.held.len() / 2 {
            self.held.drain(..self.held_start);
            self.held_start = 0;
        }
        self.held.extend_from_slice(input);
    }

    /// True if received bytes wait.
    pub(crate) fn holds_input(&self) -> bool {
        self.held.len() > self.held_start
    }

    /// The received bytes that waited, from the index that comes with them.
    pub(crate) fn take_held(&mut self) -> (Vec<u8>, usize) {
        (std::mem::take(&mut self.held), std::mem::take(&mut self.held_start))
    }

    /// Gives back what [`Self::take_held`] took; `start` is what waits still.
    pub(crate) fn put_back(&mut self, mut held: Vec<u8>, start: usize) {
        debug_assert!(self.held.is_empty(), "nothing is received while a worker looks at input");
        if start == held.len() {
            held.clear();
        }
        self.held_start = if held.is_empty() { 0 } else { start };
        self.held = held;
    }

    /// The pong that waits, as a frame; empty if none does.
    #[cfg(test)]
    pub(crate) fn waiting_pong(&self) -> &[u8] {
        &self.pong
    }

    /// Received bytes that wait.
    #[cfg(test)]
    pub(crate) fn held_len(&self) -> usize {
        self.held.len() - self.held_start
    }

    fn capacity(&self) -> usize {
        self.bytes.capacity() + self.pong.capacity() + self.held.capacity()
    }

    fn reset(&mut self) {
        self.bytes.clear();
        self.pong.clear();
        self.held.clear();
        self.held_start = 0;
        self.noted = 0;
        self.sent = 0;
    }
}

/// Spare [`Outgoing`]s of one worker, last in first out, bounded in bytes.
// Connections hold theirs boxed, so that an idle one pays for a pointer only; the pool keeps the
// boxes, too.
#[allow(clippy::vec_box)]
#[derive(Debug)]
pub(crate) struct OutgoingPool {
    spare: Vec<Box<Outgoing>>,
    spare_bytes: usize,
    max_spare_bytes: usize,
    lent: usize,
}

impl OutgoingPool {
    /// Keeps at most `max_spare_bytes` for reuse; what is beyond goes back to the allocator.
    pub(crate) fn new(max_spare_bytes: usize) -> Self {
        Self { spare: Vec::new(), spare_bytes: 0, max_spare_bytes, lent: 0 }
    }

    /// An empty one.
    pub(crate) fn take(&mut self) -> Box<Outgoing> {
        self.lent += 1;
        match self.spare.pop() {
            Some(outgoing) => {
                self.spare_bytes -= outgoing.capacity();
                outgoing
            }
            None => Box::default(),
        }
    }

    /// Takes one back; whatever it still holds is dropped.
    pub(crate) fn give(&mut self, mut outgoing: Box<Outgoing>) {
        self.lent -= 1;
        let capacity = outgoing.capacity();
        if self.spare.len() < 1024 && self.spare_bytes + capacity <= self.max_spare_bytes {
            outgoing.reset();
            self.spare_bytes += capacity;
            self.spare.push(outgoing);
        }
    }

    /// How many are in the hands of connections.
    #[cfg(test)]
    pub(crate) fn lent(&self) -> usize {
        self.lent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_call_order_whatever_the_socket_takes() {
        let mut outgoing = Outgoing::default();
        let all: Vec<u8> = (0..400_000_u32).map(|i| i as u8).collect();
        let mut taken = Vec::new();
        for (turn, piece) in all.chunks(777).enumerate() {
            outgoing.append().extend_from_slice(piece);
            let count = outgoing.unsent().len().min(turn * 13 % 1500);
            taken.extend_from_slice(&outgoing.unsent()[..count]);
            outgoing.advance(count);
        }
        taken.extend_from_slice(outgoing.unsent());
        outgoing.advance(outgoing.unsent().len());
        assert_eq!(taken, all);
        assert!(outgoing.is_drained());
    }

    #[test]
    fn only_the_latest_pong_waits_and_goes_before_later_data() {
        let mut outgoing = Outgoing::default();
        outgoing.append().extend_from_slice(b"data1");
        outgoing.replace_pong().extend_from_slice(b"pong1");
        outgoing.replace_pong().extend_from_slice(b"pong2");
        assert_eq!(outgoing.unsent_len(), 10);
        outgoing.append().extend_from_slice(b"data2");
        assert_eq!(outgoing.unsent(), b"data1pong2data2");
    }

    #[test]
    fn a_pong_without_later_data_follows_the_backlog() {
        let mut outgoing = Outgoing::default();
        outgoing.append().extend_from_slice(b"data");
        outgoing.replace_pong().extend_from_slice(b"pong");
        outgoing.advance(4);
        assert!(!outgoing.is_drained());
        assert_eq!(outgoing.unsent(), b"pong");
        outgoing.advance(4);
        assert!(outgoing.is_drained());
    }

    #[test]
    fn the_pool_is_bounded_and_counts() {
        let mut pool = OutgoingPool::new(1000);
        let mut small = pool.take();
        small.append().reserve_exact(600);
        let mut large = pool.take();
        large.append().reserve_exact(600);
        assert_eq!(pool.lent(), 2);
        pool.give(small);
        pool.give(large);
        assert_eq!(pool.lent(), 0);
        assert!(pool.spare_bytes <= 1000);
        assert_eq!(pool.spare.len(), 1);
        let again = pool.take();
        assert!(again.is_drained() && again.capacity() >= 600);
    }
}
