//! Received bytes, to the stage that the connection is in; and what follows when a socket that was
//! full takes bytes again.
//!
//! What comes in: lent bytes and `Writable`. What goes out: calls of handlers.

use super::Crank;
use super::core::after;
use super::route::{Call, Outcome};
use crate::connection::{NEVER, Phase};
use crate::driver::ConnectionId;
use crate::error::CloseCause;
use crate::protocol::{self, Message};

/// Input that is discarded after our FIN before the connection is cut. More than one receive
/// buffer, so that a peer in the middle of a message that is too big still learns 1009.
const LINGER_BYTES: usize = 1024 * 1024;

impl Crank {
    #[inline]
    pub(super) fn received(&mut self, id: ConnectionId, bytes: &mut [u8]) {
        let core = &mut self.core;
        let soon_ms = core.soon_ms;
        let Some(connection) = core.table.get_mut(id) else { return };
        connection.last_received_ms = soon_ms;
        core.tally.bytes_received += bytes.len() as u64;
        if connection.pinged {
            connection.pinged = false;
            connection.deadline_ms = NEVER;
            core.arm_timer(id);
        }
        let Some(connection) = core.table.get_mut(id) else { return };
        if connection.tls.is_some() {
            self.unseal(id, bytes);
        } else {
            self.dispatch(id, bytes);
        }
        // If only this connection was touched, its answers leave while they are in the cache and
        // the peer can already work on them. Otherwise everybody is flushed at the end.
        if self.core.dirty.len() == 1 && self.core.dirty[0] == id {
            self.core.dirty.clear();
            if let Some(connection) = self.core.table.get_mut(id) {
                connection.dirty = false;
            }
            self.core.flush(id);
        }
    }

    /// Gives plaintext to the stage that the connection is in.
    #[inline]
    pub(super) fn dispatch(&mut self, id: ConnectionId, bytes: &mut [u8]) {
        let core = &mut self.core;
        let Some(connection) = core.table.get_mut(id) else { return };
        match &mut connection.phase {
            Phase::Live(live) if !connection.reading_paused && !live.streams => {
                let rest = self.feed(id, bytes);
                if rest != 0 {
                    self.core.hold(id, &bytes[bytes.len() - rest..]);
                }
            }
            Phase::Live(_) => self.take_input(id, bytes),
            Phase::Http(_) => self.http(id, bytes),
            Phase::Dialing(_) => self.dialing_received(id, bytes),
            Phase::Draining { discarded, .. } => {
                *discarded += bytes.len();
                if *discarded > LINGER_BYTES {
                    core.release(id);
                }
            }
            Phase::Gone => {}
        }
    }

    /// Gives received bytes to the endpoint and its events to the handler. Answers how many bytes
    /// at the end of `input` have to wait, because the connection is not to be read any more.
    pub(super) fn feed(&mut self, id: ConnectionId, mut input: &mut [u8]) -> usize {
        loop {
            let core = &mut self.core;
            let Some(connection) = core.table.get_mut(id) else { return 0 };
            let Phase::Live(live) = &mut connection.phase else { return 0 };
            let (route, session) = (usize::from(live.route), live.session);
            let outcome = match live.endpoint.receive(&mut input, &mut core.buffers) {
                Ok(None) => {
                    core.expect_more(false);
                    return 0;
                }
                Ok(Some(protocol::Event::Text(text))) => {
                    core.tally.messages_received += 1;
                    core.expect_more(!input.is_empty());
                    let call = Call::Message(Message::Text(text.as_str()));
                    let outcome = self.routes[route].call(core, id, session, call);
                    text.recycle(&mut core.buffers);
                    outcome
                }
                Ok(Some(protocol::Event::Binary(bytes))) => {
                    core.tally.messages_received += 1;
                    core.expect_more(!input.is_empty());
                    let call = Call::Message(Message::Binary(bytes.as_slice()));
                    let outcome = self.routes[route].call(core, id, session, call);
                    bytes.recycle(&mut core.buffers);
                    outcome
                }
                Ok(Some(protocol::Event::Ping(payload))) => {
                    core.pong(id, payload.as_slice());
                    self.routes[route].call(core, id, session, Call::Ping(payload.as_slice()))
                }
                Ok(Some(protocol::Event::Pong(payload))) => {
                    self.routes[route].call(core, id, session, Call::Pong(payload.as_slice()))
                }
                Ok(Some(protocol::Event::Close(frame))) => {
                    let (code, reason) = match &frame {
                        Some((code, reason)) => (u16::from(*code), reason.as_str()),
                        None => (1005, ""),
                    };
                    self.closed_by_peer(id, code, reason);
                    return 0;
                }
                Err(error) => {
                    self.violated(id, error);
                    return 0;
                }
            };
            if outcome == Outcome::Panicked {
                self.end(id, CloseCause::HandlerPanicked);
                return 0;
            }
            if !self.core.doomed.is_empty() {
                self.bury();
            }
            if self.must_wait(id) {
                return input.len();
            }
        }
    }

    pub(super) fn writable(&mut self, id: ConnectionId) {
        let core = &mut self.core;
        let low_water = core.config.high_water() / 2;
        let Some(connection) = core.table.get_mut(id) else { return };
        if !connection.blocked {
            return;
        }
        connection.blocked = false;
        if connection.pinged {
            // The ping may have waited behind what leaves only now.
            connection.deadline_ms = after(core.soon_ms, core.config.pong_timeout_ms);
            core.arm_timer(id);
        }
        core.flush(id);
        core.note_goodbye_left(id);
        self.bury();
        let core = &mut self.core;
        let Some(connection) = core.table.get_mut(id) else { return };
        let live = match &connection.phase {
            Phase::Live(live) => live,
            Phase::Http(_) => return self.http_writable(id),
            Phase::Dialing(_) | Phase::Draining { .. } | Phase::Gone => return,
        };
        let (route, session) = (usize::from(live.route), live.session);
        if connection.unsent_len() > low_water {
            return;
        }
        if !connection.blocked
            && self.routes[route].call(core, id, session, Call::Drain) == Outcome::Panicked
        {
            return self.end(id, CloseCause::HandlerPanicked);
        }
        self.bury();
        self.go_on(id);
    }
}
