//! From the queue of a connection to its socket.
//!
//! What comes in: connections that were touched. What goes out: one `send` per connection and turn.
//! What the socket does not take stays in the queue, is counted, and leaves when the socket is
//! writable again; meanwhile its peer is not read if too much waits.

use std::io::{self, IoSlice};

use super::Crank;
use super::core::{Core, LINGER_MS, after};
use crate::connection::Phase;
use crate::driver::{ConnectionId, Driver};
use crate::error::CloseCause;

impl Core {
    /// Has the connection flushed at the end of the turn.
    pub(crate) fn mark_dirty(&mut self, id: ConnectionId) {
        if let Some(connection) = self.table.get_mut(id)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(id);
        }
    }

    /// Gives the socket what is queued, unless it is known to be full.
    pub(crate) fn flush(&mut self, id: ConnectionId) {
        self.flush_usual::<false>(id);
    }

    /// The same for a connection that leaves the list of those to flush.
    #[inline(always)]
    pub(super) fn flush_listed(&mut self, id: ConnectionId) {
        self.flush_usual::<true>(id);
    }

    #[inline(always)]
    fn flush_usual<const LISTED: bool>(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get_mut(id) else { return };
        if LISTED {
            connection.dirty = false;
        }
        // The usual case: a few frames, and a socket that takes them all.
        if let Some(outgoing) = &connection.outgoing
            && outgoing.is_plain()
            && !outgoing.unsent().is_empty()
            && !connection.blocked
            && !connection.reading_paused
            && connection.tls.is_none()
            && matches!(connection.phase, Phase::Live(_))
        {
            let unsent = outgoing.unsent();
            let sent = self.driver.send_bytes(id, unsent);
            if matches!(sent, Ok(taken) if taken == unsent.len()) {
                self.tally.bytes_sent += unsent.len() as u64;
                if let Some(outgoing) = connection.outgoing.take() {
                    self.outgoing.give_plain(outgoing);
                }
                return;
            }
            return self.sent_in_part(id, sent);
        }
        self.flush_any(id);
    }

    /// Has the answers of a connection collected that is about to be read. Nothing of it waits, and
    /// its frames go out as they are.
    #[inline(always)]
    pub(super) fn cork(&mut self, id: ConnectionId) {
        let cork = self.table.cork();
        if cork.needs_queue() {
            cork.give_queue(self.outgoing.take());
        }
        cork.begin(id.slot());
    }

    /// Sends what was corked; false if that went to the connection's queue: somebody has asked
    /// for it, or others are to be flushed, too, and then everybody is at the end of the turn.
    #[inline(always)]
    pub(super) fn pull_cork(&mut self, id: ConnectionId) -> bool {
        let cork = self.table.cork();
        if self.dirty.is_empty()
            && let Some(batch) = cork.batch_of(id.slot())
        {
            if !batch.is_empty() {
                let sent = self.driver.send_bytes(id, batch);
                if !matches!(sent, Ok(taken) if taken == batch.len()) {
                    self.pulled_in_part(id, sent);
                    return true;
                }
                self.tally.bytes_sent += batch.len() as u64;
            }
            cork.end();
            return true;
        }
        self.spill(id);
        false
    }

    /// What was corked goes to the connection's queue, if it is not there yet.
    #[inline(never)]
    fn spill(&mut self, id: ConnectionId) {
        self.table.get_mut(id);
        if self.table.cork().take_spilled() {
            self.dirty.push(id);
        }
    }

    /// The socket did not take everything that was corked.
    #[cold]
    fn pulled_in_part(&mut self, id: ConnectionId, sent: io::Result<usize>) {
        if let Some(connection) = self.table.get_mut(id) {
            connection.dirty = false;
        }
        self.table.cork().take_spilled();
        self.sent_in_part(id, sent);
    }

    /// The socket is full, or dead.
    #[cold]
    fn sent_in_part(&mut self, id: ConnectionId, sent: io::Result<usize>) {
        let Some(connection) = self.table.get_mut(id) else { return };
        match sent {
            Ok(taken) => {
                self.tally.bytes_sent += taken as u64;
                if let Some(outgoing) = &mut connection.outgoing {
                    outgoing.advance(taken);
                }
                self.block(id);
            }
            Err(error) => self.doom(id, CloseCause::Io(error.kind())),
        }
    }

    /// Every case, the usual one included.
    #[inline(never)]
    fn flush_any(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get_mut(id) else { return };
        if connection.blocked {
            // What others sent to it counts, too.
            self.note_buffered(id);
            return self.pause_if_backlogged(id);
        }
        if matches!(connection.phase, Phase::Gone) {
            return;
        }
        if connection.tls.is_some() {
            return self.flush_sealed(id);
        }
        let ends = connection.phase.ends_when_drained();
        let Some(outgoing) = connection.outgoing.as_mut() else { return self.drained(id) };
        while outgoing.has_shared() || !outgoing.unsent().is_empty() {
            let driver = &mut self.driver;
            let left = if ends { outgoing.unsent_len() } else { usize::MAX };
            let mut send = |slices: &[IoSlice<'_>]| {
                // Not with something behind them: a socket that takes nothing of that would keep
                // what is left of a packet.
                let len: usize = slices.iter().map(|slice| slice.len()).sum();
                if len == left { driver.send_last(id, slices) } else { driver.send(id, slices) }
            };
            let (len, sent) = if outgoing.has_shared() {
                outgoing.gather(send)
            } else {
                let unsent = outgoing.unsent();
                (unsent.len(), send(&[IoSlice::new(unsent)]))
            };
            match sent {
                Ok(taken) => {
                    self.tally.bytes_sent += taken as u64;
                    outgoing.advance(taken);
                    if taken < len {
                        return self.block(id);
                    }
                }
                Err(error) => return self.doom(id, CloseCause::Io(error.kind())),
            }
        }
        self.drained(id);
    }

    /// The socket is full: wait for `Writable`, watch the time, and stop reading from a peer that
    /// does not read.
    pub(super) fn block(&mut self, id: ConnectionId) {
        let now_ms = self.now_ms;
        let Some(connection) = self.table.get_mut(id) else { return };
        connection.blocked = true;
        if let Some(outgoing) = &mut connection.outgoing {
            outgoing.progress_ms = now_ms;
        }
        self.note_buffered(id);
        self.pause_if_backlogged(id);
        self.arm_timer(id);
    }

    /// Takes the present length of a connection's queue into the worker's sum.
    pub(super) fn note_buffered(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get_mut(id) else { return };
        if let Some(outgoing) = &mut connection.outgoing {
            let unsent = outgoing.unsent_len();
            let before = outgoing.note(unsent);
            self.buffered = self.buffered + unsent - before;
        }
    }

    /// True if so many bytes more would pass `max_worker_backpressure`.
    pub(super) fn is_over_limit(&self, more: usize) -> bool {
        let max = self.config.max_worker_backpressure;
        max != 0 && self.buffered + more > max
    }

    /// Stops reading from a peer for which too much waits. The socket must be full: `Writable`
    /// sees to it that reading goes on.
    pub(super) fn pause_if_backlogged(&mut self, id: ConnectionId) {
        let high_water = self.config.high_water();
        let Some(connection) = self.table.get_mut(id) else { return };
        // Whoever drains is read until the end, and has no input that would cost memory.
        let live = matches!(connection.phase, Phase::Live(_));
        if live && connection.unsent_len() > high_water && !connection.reading_paused {
            connection.reading_paused = true;
            self.driver.pause_reading(id);
        }
    }

    /// Nothing is left to send: the buffer goes back to the pool, and a connection that was only
    /// waiting for that sends its FIN.
    pub(super) fn drained(&mut self, id: ConnectionId) {
        let now_ms = self.now_ms;
        let Some(connection) = self.table.get_mut(id) else { return };
        if let Some(outgoing) = &mut connection.outgoing {
            self.buffered -= outgoing.noted();
            if outgoing.noted() != 0 {
                outgoing.note(0);
            }
        }
        if connection.outgoing.as_ref().is_some_and(|outgoing| !outgoing.holds_input())
            && let Some(outgoing) = connection.outgoing.take()
        {
            self.outgoing.give(outgoing);
            let live = matches!(connection.phase, Phase::Live(_));
            if live && connection.reading_paused && !connection.paused_by_handler {
                // The socket was never full since, so no `Writable` will see to it.
                self.resume_reading(id);
            }
        }
        let Some(connection) = self.table.get_mut(id) else { return };
        if let Phase::Draining { finished, server_first, .. } = &mut connection.phase
            && !*finished
        {
            *finished = true;
            if connection.peer_ended {
                self.release(id);
            } else if *server_first {
                // RFC 6455 7.1.1: the server ends TCP, so that waiting in TIME_WAIT is its part.
                connection.deadline_ms = connection.deadline_ms.min(after(now_ms, LINGER_MS));
                self.arm_timer(id);
            } else {
                connection.deadline_ms = connection.deadline_ms.min(after(now_ms, LINGER_MS));
                self.driver.finish_sending(id);
                self.arm_timer(id);
            }
        }
    }
}

impl Crank {
    /// Flushes every connection that has something to send, each once.
    pub(super) fn flush_all(&mut self) {
        let mut next = 0;
        loop {
            while let Some(&id) = self.core.dirty.get(next) {
                next += 1;
                self.core.flush_listed(id);
            }
            if self.core.doomed.is_empty() && self.core.resumed.is_empty() {
                break;
            }
            // on_close may send to others: those are appended to the list.
            self.bury();
            self.resume_all();
        }
        self.core.dirty.clear();
    }
}
