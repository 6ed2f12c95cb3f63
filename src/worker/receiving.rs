//! Received bytes, to the stage that the connection is in; and what follows when a socket that was
//! full takes bytes again.
//!
//! What comes in: lent bytes and `Writable`. What goes out: calls of handlers.

use super::Crank;
use super::core::after;
use super::reading::LARGE_READ;
use super::route::{Call, Fed, Outcome};
use crate::connection::{NEVER, Phase};
use crate::driver::ConnectionId;
use crate::error::CloseCause;
use crate::protocol::Event;

/// Input that is discarded after our FIN before the connection is cut. More than one receive
/// buffer, so that a peer in the middle of a message that is too big still learns 1009.
const LINGER_BYTES: usize = 1024 * 1024;

impl Crank {
    /// Takes what a peer has sent.
    #[inline(always)]
    pub(super) fn received(&mut self, id: ConnectionId, bytes: &mut [u8]) {
        let (core, len) = (&mut self.core, bytes.len());
        core.begin_share();
        let Some(connection) = core.table.get_mut(id) else { return };
        connection.last_received_ms = core.soon_ms;
        core.tally.bytes_received += len as u64;
        match &connection.phase {
            Phase::Live(live)
                if !connection.reading_paused
                    && !connection.pinged
                    && !live.streams
                    && connection.tls.is_none() =>
            {
                let (route, session) = (usize::from(live.route), live.session);
                // Who has nothing queued is not ahead: whom the handler paused is not read.
                let waits = connection.outgoing.is_some();
                debug_assert!(waits || !connection.blocked);
                // Behind others that are to be flushed it would have to be spilled.
                let corked = !waits && core.dirty.is_empty() && live.endpoint.sends_plainly();
                core.look_again = waits;
                if corked {
                    core.cork(id);
                }
                let mut input = &mut *bytes;
                let fed = self.routes[route].feed(core, id, session, &mut input);
                if matches!(fed, Fed::Everything) {
                    // Not dropped: there is nothing in it, which the compiler does not see.
                    std::mem::forget(fed);
                } else {
                    let rest = self.feed_on(id, fed, input);
                    self.core.hold(id, &bytes[bytes.len() - rest..]);
                }
                if corked && self.core.pull_cork(id) {
                    // There was nothing but whole messages, so there is none to be read on.
                    return;
                }
            }
            _ => self.received_otherwise(id, bytes),
        }
        if len >= LARGE_READ {
            self.core.read_on(id, len);
        }
        // If only this connection was touched, its answers leave while they are in the cache and
        // the peer can already work on them. Otherwise everybody is flushed at the end.
        if let [only] = self.core.dirty[..]
            && only == id
        {
            self.core.dirty.clear();
            self.core.flush_listed(id);
        }
    }

    /// Input that is not simply that of an open connection in the clear.
    #[inline(never)]
    fn received_otherwise(&mut self, id: ConnectionId, bytes: &mut [u8]) {
        let core = &mut self.core;
        let Some(connection) = core.table.get_mut(id) else { return };
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
    }

    /// Gives plaintext to the stage that the connection is in.
    #[inline]
    pub(super) fn dispatch(&mut self, id: ConnectionId, bytes: &mut [u8]) {
        let core = &mut self.core;
        let Some(connection) = core.table.get_mut(id) else { return };
        match &mut connection.phase {
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
    #[inline]
    pub(super) fn feed(&mut self, id: ConnectionId, mut input: &mut [u8]) -> usize {
        match self.feed_once(id, &mut input) {
            Fed::Everything => 0,
            fed => self.feed_on(id, fed, input),
        }
    }

    #[inline]
    fn feed_once<'b>(&mut self, id: ConnectionId, input: &mut &'b mut [u8]) -> Fed<'b> {
        let Some(connection) = self.core.table.get(id) else { return Fed::Everything };
        let Phase::Live(live) = &connection.phase else { return Fed::Everything };
        let (route, session) = (usize::from(live.route), live.session);
        self.core.look_again = self.core.is_ahead(id);
        self.routes[route].feed(&mut self.core, id, session, input)
    }

    /// Does what `fed` is about, which is no message, and goes on.
    #[inline(never)]
    fn feed_on<'b>(
        &mut self,
        id: ConnectionId,
        mut fed: Fed<'b>,
        mut input: &'b mut [u8],
    ) -> usize {
        loop {
            let core = &mut self.core;
            let outcome = match fed {
                Fed::Everything => return 0,
                Fed::Interrupted => Outcome::Returned,
                Fed::Panicked => Outcome::Panicked,
                Fed::Violated(error) => {
                    self.violated(id, error);
                    return 0;
                }
                Fed::Event(Event::Ping(payload)) => {
                    core.count_message();
                    core.pong(id, payload.as_slice());
                    self.call_live(id, Call::Ping(payload.as_slice()))
                }
                Fed::Event(Event::Pong(payload)) => {
                    core.count_message();
                    self.call_live(id, Call::Pong(payload.as_slice()))
                }
                Fed::Event(Event::Close(frame)) => {
                    let (code, reason) = match &frame {
                        Some((code, reason)) => (u16::from(*code), reason.as_str()),
                        None => (1005, ""),
                    };
                    self.closed_by_peer(id, code, reason);
                    return 0;
                }
                Fed::Event(message) => {
                    debug_assert!(false, "a route keeps no message: {message:?}");
                    Outcome::Returned
                }
            };
            if outcome == Outcome::Panicked {
                self.end(id, CloseCause::HandlerPanicked);
                return 0;
            }
            self.bury();
            if self.must_wait(id) {
                return input.len();
            }
            fed = self.feed_once(id, &mut input);
        }
    }

    /// Calls the handler of a connection that has a session.
    fn call_live(&mut self, id: ConnectionId, call: Call<'_>) -> Outcome {
        let core = &mut self.core;
        let Some(connection) = core.table.get(id) else { return Outcome::Returned };
        let Phase::Live(live) = &connection.phase else { return Outcome::Returned };
        let (route, session) = (usize::from(live.route), live.session);
        self.routes[route].call(core, id, session, call)
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
