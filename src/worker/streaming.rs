//! Messages in parts: received ones on their way to `on_fragment`, sent ones on their way out.
//!
//! What comes in: bytes of connections whose handler streams, and fragments to be sent. What goes
//! out: calls of the handler, and frames in the connection's queue. Nothing of a message is kept.

use super::Crank;
use super::core::Core;
use super::route::{Call, Outcome};
use crate::connection::Phase;
use crate::driver::ConnectionId;
use crate::error::{CloseCause, SendError};
use crate::fragment::Fragment;
use crate::protocol::endpoint::Received;
use crate::protocol::{Event, Opcode, frame};
use crate::websocket::SendStatus;

impl Crank {
    /// Received bytes of a live connection that is not paused. Answers how many of them have to
    /// wait.
    pub(super) fn look_at(&mut self, id: ConnectionId, bytes: &mut [u8]) -> usize {
        let Some(connection) = self.core.table.get(id) else { return 0 };
        match &connection.phase {
            Phase::Live(live) if live.streams => self.feed_parts(id, bytes),
            _ => self.feed(id, bytes),
        }
    }

    /// As `feed`, for a handler that takes messages in parts.
    #[inline(never)]
    fn feed_parts(&mut self, id: ConnectionId, mut input: &mut [u8]) -> usize {
        loop {
            let core = &mut self.core;
            let Some(connection) = core.table.get_mut(id) else { return 0 };
            let Phase::Live(live) = &mut connection.phase else { return 0 };
            let (route, session) = (usize::from(live.route), live.session);
            let max_message = core.config.max_streamed_message;
            let received = live.endpoint.receive_part(&mut input, max_message, &mut core.buffers);
            let outcome = match received {
                Ok(None) => {
                    core.expect_more(false);
                    return 0;
                }
                Ok(Some(Received::Part(part))) => {
                    core.tally.messages_received += u64::from(part.last);
                    core.expect_more(!input.is_empty());
                    let fragment =
                        Fragment { payload: part.payload(), first: part.first, last: part.last };
                    let call = Call::Fragment(fragment);
                    let outcome = self.routes[route].call(core, id, session, call);
                    part.recycle(&mut core.buffers);
                    outcome
                }
                Ok(Some(Received::Control(Event::Ping(payload)))) => {
                    core.pong(id, payload.as_slice());
                    self.routes[route].call(core, id, session, Call::Ping(payload.as_slice()))
                }
                Ok(Some(Received::Control(Event::Pong(payload)))) => {
                    self.routes[route].call(core, id, session, Call::Pong(payload.as_slice()))
                }
                Ok(Some(Received::Control(Event::Close(frame)))) => {
                    let (code, reason) = match &frame {
                        Some((code, reason)) => (u16::from(*code), reason.as_str()),
                        None => (1005, ""),
                    };
                    self.closed_by_peer(id, code, reason);
                    return 0;
                }
                Ok(Some(Received::Control(Event::Text(_) | Event::Binary(_)))) => {
                    debug_assert!(false, "messages come in parts");
                    Outcome::Returned
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
            self.core.count_message();
            self.bury();
            if self.must_wait(id) {
                return input.len();
            }
        }
    }
}

impl Core {
    /// Queues one fragment. See [`WebSocket::send_fragment`](crate::WebSocket::send_fragment).
    pub(crate) fn send_fragment(
        &mut self,
        id: ConnectionId,
        fragment: Fragment<'_>,
    ) -> Result<SendStatus, SendError> {
        let Fragment { payload, first, last } = fragment;
        if first && last {
            return self.send(id, payload);
        }
        let Some(connection) = self.table.get_mut(id) else { return Err(SendError::Gone) };
        let Phase::Live(live) = &mut connection.phase else { return Err(SendError::Gone) };
        if !live.endpoint.is_open() {
            return Err(SendError::Gone);
        }
        // RFC 6455 5.4: fragments of one message must not be interleaved with those of another.
        let expected = if first { None } else { Some(payload.opcode()) };
        if live.endpoint.sending() != expected {
            self.tally.dropped_out_of_order += 1;
            return Err(SendError::OutOfOrder);
        }
        let opcode = if first { payload.opcode() } else { Opcode::Continuation };
        let header = frame::encode_header(last, false, opcode, payload.len() as u64, None);
        let needed = header.len() + payload.len();
        let unsent = connection.unsent_len();
        if !connection.blocked && unsent + needed > self.config.high_water() {
            self.flush(id);
        }
        let over_limit = self.is_over_limit(needed);
        let Some(connection) = self.table.get_mut(id) else { return Err(SendError::Gone) };
        let Phase::Live(live) = &mut connection.phase else { return Err(SendError::Gone) };
        let outgoing = connection.outgoing.get_or_insert_with(|| self.outgoing.take());
        if first {
            // What waits for the socket to drain must not come between the fragments.
            outgoing.release_latest();
        }
        let unsent = outgoing.unsent_len();
        self.look_again = true;
        // Not even a fragment in the middle is taken beyond the limit: its message waits.
        if unsent != 0 && unsent + needed > self.config.max_backpressure {
            self.tally.dropped += 1;
            return Err(SendError::Full);
        }
        let blocked = connection.blocked;
        if blocked && over_limit {
            self.tally.dropped_worker_full += 1;
            return Err(SendError::Full);
        }
        let out = outgoing.append();
        if live.endpoint.send_fragment(opcode, last, payload.payload(), out).is_err() {
            return Err(SendError::Gone);
        }
        self.tally.messages_sent += u64::from(last);
        if blocked {
            self.note_buffered(id);
        }
        self.mark_dirty(id);
        Ok(if blocked { SendStatus::Queued } else { SendStatus::Sent })
    }

    /// Why the endpoint of a live connection took no message.
    #[cold]
    pub(super) fn why_not(&mut self, id: ConnectionId) -> SendError {
        let connection = self.table.get(id);
        match connection.map(|connection| &connection.phase) {
            Some(Phase::Live(live)) if live.endpoint.is_open() => {
                self.tally.dropped_out_of_order += 1;
                SendError::OutOfOrder
            }
            _ => SendError::Gone,
        }
    }
}
