//! How connections end: `on_close` exactly once, then what remains of the connection.
//!
//! What comes in: Close frames, violations, FIN, dead sockets, deadlines, and what the core put on
//! `doomed`. What goes out: the last frames, `on_close`, and the connection in `Draining` or
//! `Gone`.

use super::Crank;
use super::core::Core;
use super::route::{Outcome, guard};
use super::schedule::Owner;
use crate::connection::Phase;
use crate::driver::{ConnectionId, Driver};
use crate::error::{Close, CloseCause};
use crate::protocol::{CloseCode, ProtocolError};

/// What follows `on_close`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Flush, FIN, linger.
    Drain,
    /// Close the socket now.
    Release,
}

impl Core {
    /// Drops what a connection was at: an upload of the application among it, whose end may panic.
    pub(super) fn drop_phase(&mut self, phase: Phase) {
        if guard(move || drop(phase)) == Outcome::Panicked {
            self.tally.handler_panics += 1;
        }
    }
}

impl Crank {
    /// Carries out the ends that became due inside the core.
    #[inline]
    pub(super) fn bury(&mut self) {
        if !self.core.doomed.is_empty() {
            self.bury_all();
        }
    }

    #[cold]
    fn bury_all(&mut self) {
        while let Some((id, cause)) = self.core.doomed.pop() {
            self.end(id, cause);
        }
    }

    /// The peer sent FIN.
    pub(super) fn ended(&mut self, id: ConnectionId) {
        self.hear_out(id);
        self.core.note_truncation(id);
        let Some(connection) = self.core.table.get_mut(id) else { return };
        connection.peer_ended = true;
        match &connection.phase {
            // The messages that were held come before the end.
            Phase::Live(_) if connection.holds_input() => {}
            Phase::Live(_) => {
                // What was queued before the FIN was seen still gets its one chance.
                self.core.flush(id);
                self.core.say_close_notify(id);
                self.end(id, CloseCause::Ended);
            }
            Phase::Http(_) => self.http_ended(id),
            Phase::Dialing(_) => self.dialing_ended(id),
            Phase::Draining { finished, .. } => {
                if *finished {
                    self.core.release(id);
                }
            }
            Phase::Gone => {}
        }
    }

    /// A Close frame arrived (RFC 6455 5.5.1): answer it, tell the handler, end.
    pub(super) fn closed_by_peer(&mut self, id: ConnectionId, code: u16, reason: &str) {
        let core = &mut self.core;
        let Some(connection) = core.table.get_mut(id) else { return };
        let Phase::Live(live) = &mut connection.phase else { return };
        let outgoing = connection.outgoing.get_or_insert_with(|| core.outgoing.take());
        core.counters.tables.note_close_received(code);
        let cause = if live.endpoint.reply_close(outgoing.append_close()) {
            core.counters.tables.note_close_sent(code);
            CloseCause::Peer
        } else {
            CloseCause::Local
        };
        self.finish(id, Close { code, reason, cause }, After::Drain);
    }

    /// The peer broke the protocol: it gets the close code, then the end (RFC 6455 7.1.7).
    pub(super) fn violated(&mut self, id: ConnectionId, error: ProtocolError) {
        let core = &mut self.core;
        let Some(connection) = core.table.get_mut(id) else { return };
        let Phase::Live(live) = &mut connection.phase else { return };
        let outgoing = connection.outgoing.get_or_insert_with(|| core.outgoing.take());
        let code = u16::from(error.close_code());
        if live.endpoint.fail(error, outgoing.append_close()) {
            core.tables().note_close_sent(code);
        }
        let cause = CloseCause::Protocol(error);
        self.finish(id, Close { code, reason: error.reason(), cause }, After::Drain);
    }

    /// The socket is dead.
    pub(super) fn failed(&mut self, id: ConnectionId, error: std::io::Error) {
        match self.core.table.get(id).map(|connection| &connection.phase) {
            Some(Phase::Dialing(_)) => self.dialing_failed(id, error),
            _ => self.end(id, CloseCause::Io(error.kind())),
        }
    }

    /// The connection is over for any other reason.
    pub(super) fn end(&mut self, id: ConnectionId, cause: CloseCause) {
        let core = &mut self.core;
        let Some(connection) = core.table.get_mut(id) else { return };
        let live = match &mut connection.phase {
            Phase::Live(live) => live,
            Phase::Dialing(_) => {
                let CloseCause::Io(kind) = cause else { return core.release(id) };
                return self.dialing_failed(id, kind.into());
            }
            _ => return core.release(id),
        };
        let mut close = Close { code: 1006, reason: "", cause };
        let mut after = After::Release;
        if cause == CloseCause::HandlerPanicked {
            core.tally.handler_panics += 1;
            let outgoing = connection.outgoing.get_or_insert_with(|| core.outgoing.take());
            if live.endpoint.close(Some(CloseCode::INTERNAL_ERROR), "", outgoing.append_close()) {
                core.tables().note_close_sent(1011);
            }
            close.code = 1011;
            after = After::Drain;
        }
        self.finish(id, close, after);
    }

    /// Ends the session: `on_close`, exactly once, then what remains of the connection.
    pub(super) fn finish(&mut self, id: ConnectionId, close: Close<'_>, then: After) {
        let core = &mut self.core;
        let deadline_ms = core.drain_deadline();
        let Some(connection) = core.table.get_mut(id) else { return };
        let clean = matches!(close.cause, CloseCause::Peer | CloseCause::Local);
        let server_first = clean && matches!(&connection.phase, Phase::Live(live) if live.client);
        let draining = Phase::Draining { discarded: 0, finished: false, server_first };
        let Phase::Live(mut live) = std::mem::replace(&mut connection.phase, draining) else {
            debug_assert!(false, "only a live connection has a session to end");
            return core.release(id);
        };
        connection.deadline_ms = deadline_ms;
        connection.pinged = false;
        connection.paused_by_handler = false;
        if let Some(outgoing) = &mut connection.outgoing {
            outgoing.take_held();
        }
        if connection.reading_paused {
            // What still comes is read and discarded, so that the end is seen.
            connection.reading_paused = false;
            core.driver.resume_reading(id);
        }
        live.endpoint.release(&mut core.buffers);
        core.lifetimes.clear(id.slot() as u32);
        core.schedule.cancel_all(Owner::Connection(id));
        core.tally.closed += 1;
        core.stopping.note_end(close.cause);
        core.ending_route = live.route;
        let panics = self.unsubscribe_all(id, live.route, live.session);
        let core = &mut self.core;
        core.tally.handler_panics += panics;
        let route = &mut self.routes[usize::from(live.route)];
        if route.end(core, id, live.session, close) == Outcome::Panicked {
            core.tally.handler_panics += 1;
        }
        if live.client {
            core.dials.note_end(id);
        }
        match then {
            After::Drain => {
                core.mark_dirty(id);
                core.arm_timer(id);
            }
            After::Release => core.release(id),
        }
    }
}
