//! The deadlines of one connection: which is next, and what happens when it has passed.
//!
//! What comes in: the time of the turn. What goes out: pings, refusals, ends. A timer that fires
//! too early looks again: activity moves deadlines back without a word to the wheel.

use std::sync::Arc;

use super::Crank;
use super::core::{Core, LINGER_MS, after};
use super::time::jitter;
use crate::connection::{Connection, NEVER, Phase};
use crate::driver::ConnectionId;
use crate::error::CloseCause;

impl Core {
    /// Sets the connection's timer to the earliest of its deadlines.
    pub(crate) fn arm_timer(&mut self, id: ConnectionId) {
        let deadline = self.next_deadline(id);
        let slot = id.slot() as u32;
        if deadline == NEVER {
            self.timers.clear(slot);
        } else if self.timers.deadline(slot).is_none_or(|armed| deadline < armed) {
            // A timer that is armed too early looks again when it fires: activity moves
            // deadlines back without a word to the wheel.
            self.timers.set(slot, deadline);
            self.alarm_ms = self.alarm_ms.min(self.timers.next_deadline_ms());
        }
    }

    /// The earliest moment at which time alone changes something for this connection.
    pub(crate) fn next_deadline(&self, id: ConnectionId) -> u64 {
        let config = &self.config;
        let Some(connection) = self.table.get(id) else { return NEVER };
        if matches!(connection.phase, Phase::Gone | Phase::Dialing(_)) {
            // The driver has the last word: `Released`. And a dial watches its own time.
            return NEVER;
        }
        let mut deadline = connection.deadline_ms;
        if connection.pinged {
            // It is that of the pong, which may be on its way, or may not have been asked for yet.
            if connection.reading_paused || connection.blocked {
                deadline = NEVER;
            }
        } else if deadline != NEVER {
            // Nothing else counts while a phase with a deadline lasts.
            return deadline;
        }
        if let Phase::Live(live) = &connection.phase {
            // A peer that is not read cannot prove that it is alive; the write timeout watches it.
            if !connection.reading_paused {
                deadline = deadline.min(after(connection.last_received_ms, config.idle_timeout_ms));
                if !connection.pinged && live.endpoint.is_open() {
                    deadline = deadline.min(self.ping_due_ms(id, connection));
                }
            }
        }
        if connection.blocked
            && let Some(outgoing) = &connection.outgoing
        {
            deadline = deadline.min(after(outgoing.progress_ms, config.write_timeout_ms));
        }
        deadline
    }

    /// When a connection is cut whose last bytes begin to leave now. With `close_timeout` off, the
    /// write timeout watches it.
    pub(crate) fn drain_deadline(&self) -> u64 {
        match self.config.close_timeout_ms {
            0 => NEVER,
            close_timeout_ms => after(self.soon_ms, close_timeout_ms.max(LINGER_MS)),
        }
    }

    /// When the connection is sent a ping if nothing comes. Up to a quarter of the interval early,
    /// so that connections that were opened together are not pinged together.
    pub(crate) fn ping_due_ms(&self, id: ConnectionId, connection: &Connection) -> u64 {
        let interval_ms = self.config.ping_interval_ms;
        after(connection.last_received_ms, interval_ms - jitter(id, interval_ms / 4))
    }
}

impl Crank {
    pub(super) fn expire(&mut self) {
        let now_ms = self.core.now_ms;
        while let Some(slot) = self.core.timers.expired(now_ms) {
            let Some(id) = self.core.table.id_of(slot) else { continue };
            if self.core.next_deadline(id) <= now_ms {
                self.timed_out(id);
                self.bury();
            }
            self.core.arm_timer(id);
        }
        self.fire_timers();
        self.end_lives();
        if self.accept_retry_ms <= now_ms {
            self.resume_accepting();
        }
        if self.announced_until_ms <= now_ms {
            self.heed_shutdown(&Arc::clone(&self.core.shared));
        }
        if self.stop_deadline_ms.is_some_and(|deadline| deadline <= now_ms) {
            // Without any grace, the Closes of this very turn have not left yet.
            self.flush_all();
            for id in self.core.table.ids() {
                self.http_cut(id);
                // Without any grace the Close was queued in this very turn.
                self.core.flush(id);
                self.end(id, CloseCause::Shutdown);
            }
        }
    }

    /// One of the connection's deadlines has passed; find out which.
    pub(super) fn timed_out(&mut self, id: ConnectionId) {
        let core = &mut self.core;
        let (now_ms, soon_ms) = (core.now_ms, core.soon_ms);
        let config = Arc::clone(&core.config);
        if core.waits_for_reader(id) {
            return;
        }
        let Some(connection) = core.table.get_mut(id) else { return };
        match &connection.phase {
            Phase::Draining { .. } => core.release(id),
            Phase::Http(_) => self.http_timed_out(id),
            Phase::Dialing(_) | Phase::Gone => {}
            Phase::Live(_) => {
                let idle_ms = after(connection.last_received_ms, config.idle_timeout_ms);
                if !connection.pinged && connection.deadline_ms <= now_ms {
                    self.end(id, CloseCause::CloseTimeout);
                } else if !connection.reading_paused && idle_ms <= now_ms {
                    self.end(id, CloseCause::IdleTimeout);
                } else if connection.pinged
                    && !connection.reading_paused
                    && !connection.blocked
                    && connection.deadline_ms <= now_ms
                {
                    self.end(id, CloseCause::PongTimeout);
                } else if connection.blocked
                    && let Some(outgoing) = &connection.outgoing
                    && after(outgoing.progress_ms, config.write_timeout_ms) <= now_ms
                {
                    self.try_again(id);
                } else {
                    connection.pinged = true;
                    connection.deadline_ms = after(soon_ms, config.pong_timeout_ms);
                    if let Phase::Live(live) = &mut connection.phase {
                        live.endpoint.release_idle_compressor(&mut core.buffers);
                    }
                    core.ping(id, b"");
                }
            }
        }
    }

    /// The socket did not become writable for `write_timeout`. The kernel says so only once a third
    /// of its buffer is free, for which a slow peer may need longer: it is cut if it took nothing.
    pub(super) fn try_again(&mut self, id: ConnectionId) {
        let before = self.core.buffered_amount(id);
        if let Some(connection) = self.core.table.get_mut(id) {
            connection.blocked = false;
        }
        self.core.flush(id);
        if self.core.buffered_amount(id) == before {
            return self.end(id, CloseCause::WriteTimeout);
        }
        if let Some(connection) = self.core.table.get_mut(id) {
            connection.blocked = true;
        }
        self.writable(id);
    }
}
