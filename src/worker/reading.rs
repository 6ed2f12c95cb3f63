//! Whether a connection is read, and what happens to input that came too early.
//!
//! There are two reasons not to read: too much waits for a peer that does not read itself
//! (automatic), and the application asked for it. As long as either holds, the driver does not
//! read, so that the kernel's buffers fill and the peer feels it. What had been received before
//! waits in the connection's `Outgoing`, and goes first when both reasons are gone.
//!
//! ```text
//!  received --+--> feed --> Endpoint --> Handler
//!             |      |  rest, if a reason came up in between
//!             +-> held <----+
//!                  |  go_on: no reason is left
//!                  +-----> feed
//! ```

use super::Crank;
use super::core::Core;
use crate::connection::Phase;
use crate::driver::{ConnectionId, Driver};

/// Messages that a turn takes of one connection: those of a few bytes cost time, too, and a receive
/// buffer holds tens of thousands of them.
const MESSAGES_PER_TURN: u32 = 1024;

/// Connections whose input waits for the next turn because they had so many messages. What waits is
/// copied, up to a receive buffer each; of many that do this at once, the others are not made to
/// wait.
const MOST_POSTPONED: usize = 16;

/// Bytes that a turn inflates for one connection, give or take a message: about 5 ms of work.
const INFLATED_PER_TURN: u64 = 4 * 1024 * 1024;

/// Reads of this many bytes may belong to a message that is worth being read to its end.
pub(super) const LARGE_READ: usize = 64 * 1024;

/// Bytes that one connection may bring per turn while it is in the middle of a large message: less
/// than a millisecond of work.
const READ_ON_BYTES: usize = 2 * 1024 * 1024;

impl Core {
    /// True while the connection has a session.
    pub(crate) fn is_live(&self, id: ConnectionId) -> bool {
        self.table.get(id).is_some_and(|connection| matches!(connection.phase, Phase::Live(_)))
    }

    /// Somebody's share of this turn begins. Each has its own, so that nobody waits for what
    /// another one has made of it.
    #[inline]
    pub(super) fn begin_share(&mut self) {
        self.inflate_until = self.buffers.inflated() + INFLATED_PER_TURN;
        self.messages_left = MESSAGES_PER_TURN;
    }

    /// A message, ping or pong of this share was taken.
    #[inline]
    pub(super) fn count_message(&mut self) {
        self.messages_left = self.messages_left.saturating_sub(1);
    }

    /// True if so much was done for this connection that others shall have their share.
    #[inline]
    pub(super) fn had_its_share(&self) -> bool {
        self.messages_left == 0 || self.inflated_enough()
    }

    #[inline]
    pub(super) fn inflated_enough(&self) -> bool {
        self.buffers.inflated() > self.inflate_until
    }

    /// Has a connection read on, before others, that has just brought `len` bytes and is in the
    /// middle of a large message. If many such messages grew side by side, none of them would be in
    /// the cache when it is complete, and all of them would need memory at once.
    #[cold]
    pub(super) fn read_on(&mut self, id: ConnectionId, len: usize) {
        let Some(connection) = self.table.get(id) else { return };
        let Phase::Live(live) = &connection.phase else { return };
        // Few bytes can become many when they are inflated: then a read is share enough.
        let has_inflated = self.buffers.inflated() + INFLATED_PER_TURN > self.inflate_until;
        if has_inflated || live.endpoint.assembled_len() < LARGE_READ {
            return;
        }
        let before = match self.reading_on {
            Some((same, before)) if same == id => before,
            _ => 0,
        };
        self.reading_on = Some((id, before + len));
        if before + len < READ_ON_BYTES {
            self.driver.read_on(id);
        }
    }

    /// Stops reading because the application wants it.
    pub(crate) fn pause_for_handler(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get_mut(id) else { return };
        // After our Close the answer must be read.
        if matches!(&connection.phase, Phase::Live(live) if live.endpoint.is_open()) {
            connection.paused_by_handler = true;
            self.look_again = true;
            self.pause_driver(id);
        }
    }

    /// The application wants to read on. The crank sees to it after the handler has returned,
    /// because what waits is delivered first.
    pub(crate) fn resume_for_handler(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get_mut(id) else { return };
        if std::mem::take(&mut connection.paused_by_handler) && !connection.resume_due {
            connection.resume_due = true;
            self.resumed.push(id);
        }
    }

    pub(crate) fn pause_driver(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get_mut(id) else { return };
        if !connection.reading_paused {
            connection.reading_paused = true;
            self.driver.pause_reading(id);
        }
    }

    /// True if a connection should perhaps not be read any more.
    #[inline]
    pub(super) fn is_ahead(&self, id: ConnectionId) -> bool {
        let Some(connection) = self.table.get(id) else { return false };
        // What is corked is less, and need not be counted.
        connection.unsent_len() > self.high_water || connection.paused_by_handler
    }

    /// Keeps received bytes until reading goes on.
    pub(crate) fn hold(&mut self, id: ConnectionId, input: &[u8]) {
        let Some(connection) = self.table.get_mut(id) else { return };
        if !input.is_empty() && matches!(connection.phase, Phase::Live(_)) {
            connection.outgoing.get_or_insert_with(|| self.outgoing.take()).hold(input);
        }
    }
}

impl Crank {
    /// Received bytes of a live connection: to the endpoint, or behind those that wait.
    pub(super) fn take_input(&mut self, id: ConnectionId, bytes: &mut [u8]) {
        let Some(connection) = self.core.table.get(id) else { return };
        // Received before the pause took effect, or behind input that waits already.
        let waits = connection.reading_paused
            && (connection.blocked || connection.paused_by_handler || connection.holds_input());
        let rest = if waits { bytes.len() } else { self.look_at(id, bytes) };
        if rest != 0 {
            self.core.hold(id, &bytes[bytes.len() - rest..]);
        }
    }

    /// True if more of this connection's input has to wait; it is not read any more then.
    #[inline]
    pub(super) fn must_wait(&mut self, id: ConnectionId) -> bool {
        if self.core.is_ahead(id) && self.wait_if_needed(id) {
            return true;
        }
        self.core.had_its_share() && self.postpone(id)
    }

    /// Others wait: the rest of this connection's input comes in the next turn.
    #[cold]
    fn postpone(&mut self, id: ConnectionId) -> bool {
        let core = &mut self.core;
        if !core.inflated_enough() && core.postponed.len() >= MOST_POSTPONED {
            core.messages_left = MESSAGES_PER_TURN;
            return false;
        }
        if let Some(connection) = core.table.get_mut(id)
            && matches!(connection.phase, Phase::Live(_))
        {
            if !std::mem::replace(&mut connection.postponed, true) {
                core.postponed.push(id);
            }
            core.pause_driver(id);
        }
        true
    }

    /// Begins a turn. Gives the connections whose input had to wait for it.
    pub(super) fn take_postponed(&mut self) -> Vec<ConnectionId> {
        std::mem::take(&mut self.core.postponed)
    }

    /// Sees to the connections whose input had to wait for this turn.
    pub(super) fn go_on_postponed(&mut self, postponed: Vec<ConnectionId>) {
        for id in postponed {
            if let Some(connection) = self.core.table.get_mut(id) {
                connection.postponed = false;
            }
            self.go_on(id);
            self.bury();
        }
    }

    #[cold]
    fn wait_if_needed(&mut self, id: ConnectionId) -> bool {
        self.core.flush(id);
        self.bury();
        let high_water = self.core.config.high_water();
        let Some(connection) = self.core.table.get(id) else { return false };
        let waits = matches!(connection.phase, Phase::Live(_))
            && (connection.paused_by_handler || connection.unsent_len() > high_water);
        if waits {
            self.core.pause_driver(id);
        }
        waits
    }

    /// Sees to the connections that the application wants to read again.
    #[inline]
    pub(super) fn resume_all(&mut self) {
        while let Some(id) = self.core.resumed.pop() {
            if let Some(connection) = self.core.table.get_mut(id) {
                connection.resume_due = false;
                self.go_on(id);
                self.bury();
            }
        }
    }

    /// A reason not to read is gone. If none is left: delivers what waits, then reads again.
    pub(super) fn go_on(&mut self, id: ConnectionId) {
        let low_water = self.core.config.high_water() / 2;
        let Some(connection) = self.core.table.get_mut(id) else { return };
        if connection.paused_by_handler
            || connection.postponed
            || connection.blocked && connection.unsent_len() > low_water
        {
            return;
        }
        self.core.begin_share();
        let Some(connection) = self.core.table.get_mut(id) else { return };
        if let Some(outgoing) = &mut connection.outgoing
            && outgoing.holds_input()
        {
            let (mut held, start) = outgoing.take_held();
            let rest = self.look_at(id, &mut held[start..]);
            let start = held.len() - rest;
            if let Some(connection) = self.core.table.get_mut(id)
                && matches!(connection.phase, Phase::Live(_))
            {
                let outgoing = &mut connection.outgoing;
                if rest != 0 {
                    outgoing.get_or_insert_with(|| self.core.outgoing.take()).put_back(held, start);
                } else if let Some(outgoing) = outgoing {
                    outgoing.put_back(held, start);
                }
            }
        }
        // Nothing may stay behind unflushed here: without `Writable` nobody would look again
        // whether reading can go on.
        self.core.flush(id);
        self.bury();
        let core = &mut self.core;
        let Some(connection) = core.table.get_mut(id) else { return };
        if connection.holds_input()
            || connection.paused_by_handler
            || !matches!(connection.phase, Phase::Live(_))
        {
            return;
        }
        if connection.peer_ended {
            return self.ended(id);
        }
        if connection.reading_paused && connection.unsent_len() <= low_water {
            core.resume_reading(id);
        }
    }
}
