//! Messages on their way out: bytes that wait for the socket.
//!
//! What comes in: frames, copied or shared, in call order. What goes out: the slices of one
//! flush. Nothing here knows a socket: the worker hands the slices to the driver and reports what
//! was taken.
//!
//! ```text
//!            taken          unsent
//!        |-----------|=====|====|=========|            bytes: frames that were copied
//!        0         sent    at   at   bytes.len()       sent <= at, at <= bytes.len()
//!                          |    |
//!                        [frame][frame]                shared: frames of others, by reference
//! ```
//!
//! With TLS, records that were made of such bytes and that the socket did not take wait in front of
//! them all, as `sealed`.
//!
//! A shared frame leaves after the first `at` bytes of the copied ones, so the order of the stream
//! is the order of the calls, whichever way each frame was queued.
//!
//! A connection borrows an [`Outgoing`] from its worker's [`OutgoingPool`] with the first frame
//! of a turn and gives it back as soon as the socket took everything, so an idle connection owns
//! none, and the few that are in use stay in the cache.

mod latest;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

pub(crate) use latest::{Latest, LatestKey};

/// Slices that one flush hands to the driver at most: one page of the kernel's `struct iovec`
/// array would hold 256, and [`SHARE_FROM`] makes 64 of them 64 KiB at least.
const MAX_SLICES: usize = 64;

/// Frames from here on are shared by all connections that they go to, one reference each; shorter
/// ones are copied into each batch, which costs less than a slice of its own.
pub(crate) const SHARE_FROM: usize = 1024;

/// What one connection has to send, and what of its input waits until that is sent.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    /// Frames that were not copied, in the order of the stream.
    shared: VecDeque<Shared>,
    /// Bytes of the first of them that the socket has taken.
    shared_sent: usize,
    /// Bytes of all of them, and of `sealed`, that the socket has not taken.
    aside_len: usize,
    /// Records of TLS that leave before anything else; empty without TLS.
    sealed: Vec<u8>,
    /// Bytes of those that the socket has taken.
    sealed_sent: usize,
    /// Frames of which only the newest of its kind waits while the socket is full.
    latest: Option<Box<Latest>>,
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
    noted: usize,
    /// False if `bytes`, none of them sent, are all there is, as in most turns of most connections:
    /// one test then stands for a look at every other field. Stays true until [`Self::reset`].
    special: bool,
    /// Capacity of everything but `bytes`, as of the last time that this was not plain.
    aside_capacity: usize,
}

impl Outgoing {
    /// Where frames are appended, in call order. A pong that was waiting goes first.
    #[inline]
    pub(crate) fn append(&mut self) -> &mut Vec<u8> {
        if self.special && !self.pong.is_empty() {
            self.bytes.extend_from_slice(&self.pong);
            self.pong.clear();
        }
        &mut self.bytes
    }

    /// Takes frames that were collected elsewhere, in exchange for an empty batch.
    pub(crate) fn swap_batch(&mut self, batch: &mut Vec<u8>) {
        debug_assert!(self.is_plain() && self.bytes.is_empty());
        std::mem::swap(&mut self.bytes, batch);
    }

    /// Where frames are appended if they are all there is, input that waits included.
    #[inline]
    pub(crate) fn plain(&mut self) -> Option<&mut Vec<u8>> {
        (!self.special).then_some(&mut self.bytes)
    }

    /// True if [`Self::unsent`] is all there is, input that waits included.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        !self.special
    }

    /// Notes how many unsent bytes the worker counts for it from now on; gives what it had noted.
    pub(crate) fn note(&mut self, unsent: usize) -> usize {
        self.special = true;
        std::mem::replace(&mut self.noted, unsent)
    }

    /// What the worker counts for it.
    pub(crate) fn noted(&self) -> usize {
        self.noted
    }

    /// Replaces the waiting pong.
    pub(crate) fn replace_pong(&mut self) -> &mut Vec<u8> {
        self.special = true;
        self.pong.clear();
        &mut self.pong
    }

    /// Queues a frame that others have, too, without a copy. Counts with its whole length.
    pub(crate) fn append_shared(&mut self, frame: Arc<[u8]>) {
        self.special = true;
        let at = self.append().len();
        self.aside_len += frame.len();
        self.shared.push_back(Shared { at, frame });
    }

    /// Where a Close frame is appended: nothing may follow it (RFC 6455 5.5.1), so what is parked
    /// goes first.
    pub(crate) fn append_close(&mut self) -> &mut Vec<u8> {
        if self.latest.is_some() {
            self.release_latest();
        }
        self.append()
    }

    /// Keeps a frame until everything else has left. The socket must be full, or nobody would
    /// send it, and no frame may be parked under this key.
    pub(crate) fn park(&mut self, key: LatestKey, frame: Arc<[u8]>) {
        self.special = true;
        self.latest.get_or_insert_default().park(key, frame);
    }

    /// Forgets the frame that is parked under this key; false if there is none.
    pub(crate) fn unpark(&mut self, key: LatestKey) -> bool {
        self.latest.as_mut().is_some_and(|latest| latest.unpark(key))
    }

    /// True if shared frames wait: then [`Self::unsent`] is not everything.
    #[inline]
    pub(crate) fn has_shared(&self) -> bool {
        self.special && !self.shared.is_empty()
    }

    /// Copied bytes that the socket has not taken, shared frames between them left out.
    #[inline]
    pub(crate) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Number of bytes that the socket has not taken, a waiting pong and other frames that wait
    /// included.
    #[inline]
    pub(crate) fn unsent_len(&self) -> usize {
        if !self.special {
            return self.bytes.len();
        }
        let parked = self.latest.as_ref().map_or(0, |latest| latest.len());
        self.bytes.len() - self.sent + self.aside_len + self.pong.len() + parked
    }

    /// Queues records of TLS behind those that wait, in front of everything else.
    pub(crate) fn append_sealed(&mut self, records: &[u8]) {
        self.special = true;
        self.sealed.extend_from_slice(records);
        self.aside_len += records.len();
    }

    /// Records of TLS that the socket has not taken.
    pub(crate) fn sealed(&self) -> &[u8] {
        &self.sealed[self.sealed_sent..]
    }

    /// The socket took `count` bytes of them.
    pub(crate) fn advance_sealed(&mut self, count: usize) {
        self.sealed_sent += count;
        self.aside_len -= count;
        if self.sealed_sent == self.sealed.len() {
            self.sealed_sent = 0;
            self.sealed.clear();
            if self.latest.is_some() && self.sent == self.bytes.len() && self.shared.is_empty() {
                self.refill();
            }
        }
    }

    /// True if something waits that is not sealed yet and need not be put off.
    pub(crate) fn has_unsealed(&self) -> bool {
        self.has_shared() || !self.unsent().is_empty()
    }

    /// The next bytes of the stream for TLS, at most `most` of them: those that lie in one piece
    /// are lent as they are, others are put together in `gathered`.
    pub(crate) fn batch<'b>(&'b self, most: usize, gathered: &'b mut Vec<u8>) -> &'b [u8] {
        if self.shared.is_empty() {
            let unsent = self.unsent();
            return &unsent[..unsent.len().min(most)];
        }
        gathered.clear();
        self.gather(|slices| {
            for slice in slices {
                let room = most - gathered.len();
                gathered.extend_from_slice(&slice[..slice.len().min(room)]);
            }
        });
        gathered
    }

    /// Gives up what was queued and is not sealed: nobody can read it any more.
    pub(crate) fn forget_unsealed(&mut self) {
        self.bytes.clear();
        self.sent = 0;
        self.shared.clear();
        self.shared_sent = 0;
        self.aside_len = self.sealed.len() - self.sealed_sent;
        self.latest = None;
        self.pong.clear();
    }

    /// Calls `send` with the next slices of the stream, as many as one call takes, and gives their
    /// length and what `send` gave.
    pub(crate) fn gather<R>(&self, send: impl FnOnce(&[IoSlice<'_>]) -> R) -> (usize, R) {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let (mut count, mut len) = (0, 0);
        let mut push = |slice| {
            slices[count] = IoSlice::new(slice);
            count += 1;
            len += slice.len();
        };
        let (mut copied, mut offset) = (self.sent, self.shared_sent);
        let mut shared = self.shared.iter();
        // Two slices per step: the copied bytes in front of a shared frame, and the frame.
        for _ in 0..MAX_SLICES / 2 {
            let next = shared.next();
            let end = next.map_or(self.bytes.len(), |shared| shared.at);
            if copied < end {
                push(&self.bytes[copied..end]);
                copied = end;
            }
            let Some(shared) = next else { break };
            push(&shared.frame[offset..]);
            offset = 0;
        }
        (len, send(&slices[..count]))
    }

    /// The socket took `count` bytes of the stream.
    #[inline]
    pub(crate) fn advance(&mut self, count: usize) {
        self.special |= count < self.bytes.len();
        if self.shared.is_empty() {
            self.sent += count;
        } else {
            self.advance_shared(count);
        }
        debug_assert!(self.sent <= self.bytes.len());
        if self.sent == self.bytes.len() && self.shared.is_empty() {
            self.refill();
        } else if self.sent >= self.bytes.len() / 2 && self.sent >= 64 * 1024 {
            // At most as much is moved as was sent since the last time: linear in total.
            self.bytes.drain(..self.sent);
            for shared in &mut self.shared {
                shared.at -= self.sent;
            }
            self.sent = 0;
        }
    }

    /// Everything has left but what was put off until then.
    #[inline]
    fn refill(&mut self) {
        self.sent = 0;
        self.bytes.clear();
        if !self.pong.is_empty() {
            std::mem::swap(&mut self.bytes, &mut self.pong);
        }
        if self.latest.is_some() && self.sealed.is_empty() {
            self.release_latest();
        }
    }

    fn advance_shared(&mut self, mut count: usize) {
        while let Some(first) = self.shared.front()
            && count > 0
        {
            let copied = count.min(first.at - self.sent);
            self.sent += copied;
            count -= copied;
            let taken = count.min(first.frame.len() - self.shared_sent);
            self.shared_sent += taken;
            self.aside_len -= taken;
            count -= taken;
            if self.shared_sent == first.frame.len() {
                self.shared_sent = 0;
                self.shared.pop_front();
            }
        }
        self.sent += count;
    }

    /// Queues what is parked, in the order in which it came.
    #[cold]
    pub(crate) fn release_latest(&mut self) {
        let Some(latest) = self.latest.take() else { return };
        for frame in latest.in_order() {
            if frame.len() < SHARE_FROM {
                self.append().extend_from_slice(&frame);
            } else {
                self.append_shared(frame);
            }
        }
    }

    /// True if the socket took everything.
    #[cfg(test)]
    pub(crate) fn is_drained(&self) -> bool {
        self.unsent_len() == 0
    }

    /// Keeps received bytes for later.
    pub(crate) fn hold(&mut self, input: &[u8]) {
        self.special = true;
        if self.held_start > self.held.len() / 2 {
            self.held.drain(..self.held_start);
            self.held_start = 0;
        }
        self.held.extend_from_slice(input);
    }

    /// True if received bytes wait.
    pub(crate) fn holds_input(&self) -> bool {
        self.special && self.held.len() > self.held_start
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
        self.special = true;
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

    /// Memory that a plain one keeps.
    fn capacity(&self) -> usize {
        debug_assert!(self.is_plain());
        self.bytes.capacity() + self.aside_capacity
    }

    #[inline]
    fn reset(&mut self) {
        self.bytes.clear();
        if self.special {
            self.reset_special();
        }
    }

    fn reset_special(&mut self) {
        self.special = false;
        let shared = self.shared.capacity() * size_of::<Shared>();
        let (pong, held) = (self.pong.capacity(), self.held.capacity());
        self.aside_capacity = pong + held + shared + self.sealed.capacity();
        self.pong.clear();
        self.held.clear();
        self.held_start = 0;
        self.noted = 0;
        self.sent = 0;
        self.shared.clear();
        self.shared_sent = 0;
        self.aside_len = 0;
        self.sealed.clear();
        self.sealed_sent = 0;
        self.latest = None;
    }
}

/// A frame that lies outside of the batch.
#[derive(Debug)]
struct Shared {
    /// It leaves when so many of the copied bytes have left.
    at: usize,
    frame: Arc<[u8]>,
}

/// Capacity up to which a buffer is kept whatever the pool holds.
const NEAREST_BYTES: usize = 256 * 1024;

/// Spare [`Outgoing`]s of one worker, last in first out, bounded in bytes.
// Connections hold theirs boxed, so that an idle one pays for a pointer only; the pool keeps the
// boxes, too.
#[allow(clippy::vec_box)]
#[derive(Debug)]
pub(crate) struct OutgoingPool {
    /// The one that came back last, if it had nothing special: all that most turns need.
    nearest: Option<Box<Outgoing>>,
    spare: Vec<Box<Outgoing>>,
    spare_bytes: usize,
    max_spare_bytes: usize,
    lent: usize,
}

impl OutgoingPool {
    /// Keeps at most `max_spare_bytes` for reuse; what is beyond goes back to the allocator.
    pub(crate) fn new(max_spare_bytes: usize) -> Self {
        Self { nearest: None, spare: Vec::new(), spare_bytes: 0, max_spare_bytes, lent: 0 }
    }

    /// An empty one.
    #[inline]
    pub(crate) fn take(&mut self) -> Box<Outgoing> {
        self.lent += 1;
        if let Some(outgoing) = self.nearest.take() {
            return outgoing;
        }
        match self.spare.pop() {
            Some(outgoing) => {
                self.spare_bytes -= outgoing.capacity();
                outgoing
            }
            None => Box::default(),
        }
    }

    /// Has an empty one held by who holds none.
    #[inline(always)]
    pub(crate) fn lend<'a>(&mut self, holder: &'a mut Option<Box<Outgoing>>) -> &'a mut Outgoing {
        holder.get_or_insert_with(|| self.take())
    }

    /// Takes one back that [is plain](Outgoing::is_plain); whatever it still holds is dropped.
    #[inline(always)]
    pub(crate) fn give_plain(&mut self, mut outgoing: Box<Outgoing>) {
        if self.nearest.is_some() || outgoing.bytes.capacity() > NEAREST_BYTES {
            return self.give(outgoing);
        }
        debug_assert!(outgoing.is_plain());
        self.lent -= 1;
        outgoing.bytes.clear();
        self.nearest = Some(outgoing);
    }

    /// Takes one back; whatever it still holds is dropped.
    pub(crate) fn give(&mut self, mut outgoing: Box<Outgoing>) {
        self.lent -= 1;
        outgoing.reset();
        let capacity = outgoing.capacity();
        if self.spare.len() < 1024 && self.spare_bytes + capacity <= self.max_spare_bytes {
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
    fn copied_and_shared_frames_leave_in_call_order_whatever_the_socket_takes() {
        for step in [7, 100, 1500, 70_000, 1 << 20] {
            let mut outgoing = Outgoing::default();
            let (mut all, mut taken) = (Vec::new(), Vec::new());
            let take = |outgoing: &mut Outgoing, most: usize, taken: &mut Vec<u8>| {
                let (_, bytes) = outgoing.gather(|slices| {
                    slices
                        .iter()
                        .flat_map(|slice| &slice[..])
                        .take(most)
                        .copied()
                        .collect::<Vec<u8>>()
                });
                taken.extend_from_slice(&bytes);
                outgoing.advance(bytes.len());
            };
            for turn in 0..200_usize {
                let frame: Vec<u8> = (0..turn * 7 % 1200 + 1).map(|i| (i + turn) as u8).collect();
                all.extend_from_slice(&frame);
                if turn % 3 == 0 {
                    outgoing.append().extend_from_slice(&frame);
                } else {
                    outgoing.append_shared(frame.into());
                }
                take(&mut outgoing, step.min(turn), &mut taken);
                assert_eq!(outgoing.unsent_len(), all.len() - taken.len(), "step {step}");
            }
            while !outgoing.is_drained() {
                take(&mut outgoing, step, &mut taken);
            }
            assert!(taken == all, "step {step}: the stream is not what was queued");
            assert!(!outgoing.has_shared() && outgoing.unsent().is_empty());
        }
    }

    #[test]
    fn one_gathering_takes_no_more_slices_than_it_has() {
        let mut outgoing = Outgoing::default();
        for _ in 0..3 * MAX_SLICES {
            outgoing.append().push(b'c');
            outgoing.append_shared(Arc::from(*b"ss"));
        }
        let (len, slices) = outgoing.gather(|slices| slices.len());
        assert_eq!((len, slices), (MAX_SLICES / 2 * 3, MAX_SLICES));
        outgoing.advance(len);
        assert_eq!(outgoing.unsent_len(), 3 * 3 * MAX_SLICES - len);
    }

    #[test]
    fn the_newest_of_a_kind_leaves_when_all_else_has_left() {
        let key = |key| LatestKey { topic: 1, key: Some(key) };
        let mut outgoing = Outgoing::default();
        outgoing.append().extend_from_slice(b"queued ");
        outgoing.park(key(1), Arc::from(*b"old"));
        outgoing.park(key(2), Arc::from(*b"other "));
        assert!(outgoing.unpark(key(1)) && !outgoing.unpark(key(1)));
        outgoing.park(key(1), Arc::from(*b"newest"));
        outgoing.append().extend_from_slice(b"sent ");
        assert_eq!(outgoing.unsent_len(), 24);
        outgoing.replace_pong().extend_from_slice(b"pong ");
        outgoing.advance(12);
        // In the order of publishing, as the publisher's order demands.
        assert_eq!(outgoing.unsent(), b"pong other newest");
        outgoing.advance(17);
        assert!(outgoing.is_drained());
    }

    #[test]
    fn nothing_leaves_after_a_close() {
        let mut outgoing = Outgoing::default();
        outgoing.append().extend_from_slice(b"queued ");
        outgoing.park(LatestKey { topic: 1, key: None }, Arc::from(*b"newest "));
        outgoing.append_close().extend_from_slice(b"close");
        assert_eq!(outgoing.unsent(), b"queued newest close");
        outgoing.advance(19);
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
