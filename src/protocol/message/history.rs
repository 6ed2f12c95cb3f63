//! The last bytes of one direction of a connection, from which a codec goes on (RFC 7692 7.1.1).
//!
//! Comes in: messages as they are in the window of both sides. Goes out: the end of them all, as
//! much of it as a window holds. This never holds more than its bound, nor more than twice what
//! came in.

use std::collections::VecDeque;

/// The smallest capacity, in bytes.
const FRESH_MIN: usize = 64;

/// The end of what was said in one direction. A connection with context takeover keeps this instead
/// of a codec: one of the worker's loads it before a message.
#[derive(Default)]
pub(in crate::protocol) struct History {
    text: VecDeque<u8>,
    /// Bytes that are kept; zero for no context takeover.
    max: usize,
    stamp: Option<Stamp>,
}

/// A moment in the life of a history: a codec with the same stamp has this very text in its window
/// and need not load it. No two moments have the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) struct Stamp {
    pub(super) pool: u64,
    pub(super) count: u64,
}

impl History {
    /// An empty one that keeps `max` bytes. Holds no memory yet.
    pub(in crate::protocol) const fn new(max: usize) -> Self {
        Self { text: VecDeque::new(), max, stamp: None }
    }

    #[cfg(test)]
    pub(in crate::protocol) fn len(&self) -> usize {
        self.text.len()
    }

    pub(in crate::protocol) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// True if it keeps as much as it may.
    pub(super) fn is_full(&self) -> bool {
        self.text.len() >= self.max
    }

    /// The text, oldest bytes first, in two parts.
    pub(super) fn parts(&self) -> [&[u8]; 2] {
        let (older, newer) = self.text.as_slices();
        [older, newer]
    }

    /// The codec that has this text in its window, if one has.
    pub(super) const fn stamp(&self) -> Option<Stamp> {
        self.stamp
    }

    /// Says which codec has this text in its window, until the next change.
    pub(super) const fn set_stamp(&mut self, stamp: Option<Stamp>) {
        self.stamp = stamp;
    }

    /// Appends what is in the window of both sides from now on. Amortised, no allocation.
    pub(in crate::protocol) fn append(&mut self, bytes: &[u8]) {
        self.stamp = None;
        let bytes = &bytes[bytes.len().saturating_sub(self.max)..];
        let needed = self.text.len() + bytes.len();
        if needed > self.max {
            self.text.drain(..needed - self.max);
        }
        let needed = self.text.len() + bytes.len();
        if needed > self.text.capacity() {
            let capacity = needed.next_power_of_two().max(FRESH_MIN).min(self.max);
            self.text.reserve_exact(capacity - self.text.len());
        }
        self.text.extend(bytes);
    }

    /// Nothing earlier counts any more.
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.stamp = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_are_kept_whatever_comes() {
        for max in [0, 1, 250, 512, 1786] {
            let mut history = History::new(max);
            let mut all = Vec::new();
            for round in 0..200_usize {
                let len = [0, 1, 3, 64, 700, 4000][round % 6];
                let bytes: Vec<u8> = (0..len).map(|at| (at * 7 + round) as u8).collect();
                history.append(&bytes);
                all.extend_from_slice(&bytes);
                let expected = &all[all.len().saturating_sub(max)..];
                assert_eq!(history.parts().concat(), expected, "{max}, round {round}");
                assert_eq!(history.len(), expected.len());
                assert_eq!(history.is_empty(), expected.is_empty());
                assert_eq!(history.is_full(), expected.len() == max);
                let most = max.min((2 * expected.len()).max(FRESH_MIN));
                assert!(history.text.capacity() <= most, "{} > {most}", history.text.capacity());
            }
        }
    }

    #[test]
    fn a_stamp_holds_until_the_next_change() {
        let stamp = Some(Stamp { pool: 1, count: 2 });
        let mut history = History::new(100);
        history.append(b"text");
        history.set_stamp(stamp);
        assert_eq!(history.stamp(), stamp);
        history.append(b"more");
        assert_eq!(history.stamp(), None);
        history.set_stamp(stamp);
        history.clear();
        assert_eq!((history.stamp(), history.len()), (None, 0));
    }
}
