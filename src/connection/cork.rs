//! Where the answers of the connection that is being read are collected.
//!
//! What comes in: frames, from the handler of that connection. What goes out: one batch. Most
//! messages are answered to whoever sent them, with a few bytes; these need no look into the table
//! and no queue of the connection's own.
//!
//! ```text
//!  cork ---> frame, frame, frame ---> pull: to the socket at once
//!                    |
//!                    +--> spill: to the connection's queue, because somebody wants
//!                                to see or to change the connection
//! ```
//!
//! [`Table`](super::Table) spills before it lends a connection to anybody, so whoever appends to
//! its queue appends behind what was collected here.

use super::Connection;
use crate::outgoing::Outgoing;

/// No slot.
const NONE: usize = usize::MAX;

/// Capacity that is kept from one connection to the next: there is one such batch per worker.
const KEPT_BYTES: usize = 1024 * 1024;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Cork {
    /// Whose answers are collected.
    slot: usize,
    batch: Vec<u8>,
    /// What a connection gets when its answers are spilled, from the pool of the worker.
    queue: Option<Box<Outgoing>>,
    /// That has happened, and the connection is not in the list of those to flush yet.
    spilled: bool,
}

impl Cork {
    pub(super) fn new() -> Self {
        Self { slot: NONE, batch: Vec::new(), queue: None, spilled: false }
    }

    /// Begins to collect. Nothing of the connection may wait, its frames must go out as they are,
    /// and [`Self::needs_queue`] must have been seen to.
    #[inline(always)]
    pub(crate) fn begin(&mut self, slot: usize) {
        debug_assert!(self.slot == NONE && self.batch.is_empty() && !self.spilled);
        debug_assert!(self.queue.is_some());
        self.slot = slot;
    }

    /// True if a queue has to be [given](Self::give_queue).
    #[inline(always)]
    pub(crate) fn needs_queue(&self) -> bool {
        self.queue.is_none()
    }

    pub(crate) fn give_queue(&mut self, queue: Box<Outgoing>) {
        self.queue = Some(queue);
    }

    /// Whether answers of this slot are being collected.
    #[inline(always)]
    pub(crate) fn is_of(&self, slot: usize) -> bool {
        self.slot == slot
    }

    /// What was collected for this slot, if that is still so: where further frames are appended.
    #[inline(always)]
    pub(crate) fn batch_of(&mut self, slot: usize) -> Option<&mut Vec<u8>> {
        self.is_of(slot).then_some(&mut self.batch)
    }

    /// How many bytes were collected for this slot.
    pub(crate) fn len_of(&self, slot: usize) -> usize {
        if self.is_of(slot) { self.batch.len() } else { 0 }
    }

    /// Ends it: everything was sent.
    #[inline(always)]
    pub(crate) fn end(&mut self) {
        self.slot = NONE;
        self.batch.clear();
        if self.batch.capacity() > KEPT_BYTES {
            self.batch = Vec::new();
        }
    }

    /// Moves what was collected to the connection's own queue.
    pub(crate) fn spill_to(&mut self, connection: &mut Connection) {
        self.slot = NONE;
        if self.batch.is_empty() {
            return;
        }
        debug_assert!(connection.outgoing.is_none(), "nothing of it waited");
        let mut queue = self.queue.take().unwrap_or_default();
        queue.swap_batch(&mut self.batch);
        connection.outgoing = Some(queue);
        self.spilled = !std::mem::replace(&mut connection.dirty, true);
    }

    /// Whether somebody has spilled, so that the connection has to be put into the list of those to
    /// flush. Answers true once.
    #[inline(always)]
    pub(crate) fn take_spilled(&mut self) -> bool {
        std::mem::take(&mut self.spilled)
    }

    /// Queues that are kept here.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        usize::from(self.queue.is_some())
    }
}
