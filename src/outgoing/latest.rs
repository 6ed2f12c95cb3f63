//! Frames of which only the newest of its kind is worth sending.
//!
//! What comes in: frames with a key, while the socket is full. What goes out: the newest frame of
//! each key, in the order in which they came. Nothing here knows why the socket is full.

use std::collections::HashMap;
use std::sync::Arc;

/// What makes a frame replace another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LatestKey {
    /// Number of the topic; no two topics of one worker ever have the same.
    pub(crate) topic: u64,
    /// The publisher's key inside the topic.
    pub(crate) key: Option<u64>,
}

/// The frames that wait for one connection.
// the keys come from the application's users, so the hash is a keyed one.
#[derive(Debug, Default)]
pub(crate) struct Latest {
    frames: HashMap<LatestKey, (u64, Arc<[u8]>)>,
    /// Bytes of all frames.
    len: usize,
    /// Number of the next frame, for the order.
    next: u64,
}

impl Latest {
    pub(crate) fn park(&mut self, key: LatestKey, frame: Arc<[u8]>) {
        self.len += frame.len();
        let earlier = self.frames.insert(key, (self.next, frame));
        debug_assert!(earlier.is_none(), "two frames of one key");
        self.next += 1;
    }

    /// Forgets the frame of this key; false if there is none.
    pub(crate) fn unpark(&mut self, key: LatestKey) -> bool {
        let Some((_, frame)) = self.frames.remove(&key) else { return false };
        self.len -= frame.len();
        true
    }

    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// All frames, the one that came first first.
    pub(crate) fn in_order(self) -> impl Iterator<Item = Arc<[u8]>> {
        let mut frames: Vec<_> = self.frames.into_values().collect();
        frames.sort_unstable_by_key(|(number, _)| *number);
        frames.into_iter().map(|(_, frame)| frame)
    }
}
