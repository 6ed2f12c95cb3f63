//! What handlers and other threads send to one connection: messages, pings, pongs, Close.
//!
//! What comes in: messages. What goes out: frames in the connection's queue, in call order. A large
//! payload is offered to the kernel where it lies before any of it is copied.

use std::io::IoSlice;

use super::core::{Core, after};
use super::mailbox::{Command, Shared};
use crate::connection::Phase;
use crate::driver::{ConnectionId, Driver};
use crate::error::{CloseCause, SendError};
use crate::protocol::frame::MAX_HEADER_LEN;
use crate::protocol::{CloseCode, Message, frame};
use crate::websocket::{SendOptions, SendStatus};

/// Payloads from here on are offered to the kernel where they lie, together with the batch so
/// far, instead of being copied into it, if they are the last of their turn.
pub(super) const DIRECT_SEND: usize = 16 * 1024;

/// The same for payloads that more input follows: from here on a copy costs more than a system
/// call of its own.
const DIRECT_SEND_AMID: usize = 64 * 1024;

// `frame::append_short` takes what is shorter.
const _: () = assert!(DIRECT_SEND <= DIRECT_SEND_AMID && DIRECT_SEND_AMID <= 0x1_0000);

impl Core {
    /// Says whether more input of this turn will follow the message that is handed out now, so
    /// that its answers can leave together.
    #[inline]
    pub(crate) fn expect_more(&mut self, more: bool) {
        self.direct_send = if more { DIRECT_SEND_AMID } else { DIRECT_SEND };
    }

    /// Takes note of a message that a handler gets now.
    #[inline]
    pub(super) fn begin_message(&mut self, more_follows: bool) {
        self.tally.messages_received += 1;
        self.expect_more(more_follows);
    }

    /// Notes an end that is due; the crank carries it out.
    #[cold]
    pub(crate) fn doom(&mut self, id: ConnectionId, cause: CloseCause) {
        self.look_again = true;
        self.doomed.push((id, cause));
    }

    /// Queues one message to the connection whose handler runs. See
    /// [`WebSocket::send`](crate::WebSocket::send).
    #[inline]
    pub(crate) fn answer(
        &mut self,
        id: ConnectionId,
        message: Message<'_>,
        options: SendOptions,
    ) -> Result<SendStatus, SendError> {
        // The usual case: a short message to the connection that is being read.
        let len = message.len();
        if let Some(batch) = self.table.cork().batch_of(id.slot())
            && !options.insists_on_compression()
            && len < self.direct_send
            && append_below(self.high_water, batch, message)
        {
            self.tally.messages_sent += 1;
            return Ok(SendStatus::Sent);
        }
        self.send_with(id, message, options)
    }

    /// Queues one message to a connection.
    pub(crate) fn send(
        &mut self,
        id: ConnectionId,
        message: Message<'_>,
    ) -> Result<SendStatus, SendError> {
        self.send_with(id, message, SendOptions::new())
    }

    /// The same with options of the application.
    #[inline(never)]
    fn send_with(
        &mut self,
        id: ConnectionId,
        message: Message<'_>,
        options: SendOptions,
    ) -> Result<SendStatus, SendError> {
        // The usual case: a short message to an open connection whose socket has room.
        let len = message.len();
        if let Some(connection) = self.table.get_mut(id)
            && let Phase::Live(live) = &mut connection.phase
            && live.endpoint.sends_plainly()
            && !options.insists_on_compression()
            && !connection.blocked
            && len < self.direct_send
        {
            let outgoing = match &mut connection.outgoing {
                Some(outgoing) => outgoing,
                none => self.outgoing.lend(none),
            };
            if let Some(batch) = outgoing.plain()
                && append_below(self.high_water, batch, message)
            {
                self.tally.messages_sent += 1;
                if !connection.dirty {
                    connection.dirty = true;
                    self.dirty.push(id);
                }
                return Ok(SendStatus::Sent);
            }
        }
        self.send_any(id, message, options)
    }

    /// Every case, the usual one included.
    #[inline(never)]
    fn send_any(
        &mut self,
        id: ConnectionId,
        message: Message<'_>,
        options: SendOptions,
    ) -> Result<SendStatus, SendError> {
        let len = message.len();
        let Some(connection) = self.table.get_mut(id) else { return Err(SendError::Gone) };
        let Phase::Live(live) = &mut connection.phase else { return Err(SendError::Gone) };
        if !live.endpoint.may_send() {
            return Err(self.why_not(id));
        }
        if options.compresses(&live.endpoint, len) {
            return self.send_compressed(id, message);
        }
        let outgoing = connection.outgoing.get_or_insert_with(|| self.outgoing.take());
        let unsent = outgoing.unsent_len() + MAX_HEADER_LEN;
        let long = len >= self.direct_send || unsent + len > self.high_water;
        if long || connection.blocked {
            return self.send_large(id, message);
        }
        if live.endpoint.send(message, outgoing.append()).is_err() {
            return Err(self.why_not(id));
        }
        self.tally.messages_sent += 1;
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(id);
        }
        Ok(SendStatus::Sent)
    }

    /// The same for a message that is large or meets a queue that waits: the kernel is asked to take
    /// what it can before anything is copied or refused.
    #[cold]
    pub(super) fn send_large(
        &mut self,
        id: ConnectionId,
        message: Message<'_>,
    ) -> Result<SendStatus, SendError> {
        self.look_again = true;
        let len = message.len();
        let Some(connection) = self.table.get_mut(id) else { return Err(SendError::Gone) };
        let Phase::Live(live) = &mut connection.phase else { return Err(SendError::Gone) };
        if !live.endpoint.is_open() || live.endpoint.sending().is_some() {
            return Err(self.why_not(id));
        }
        let blocked = connection.blocked;
        // RFC 6455 5.3: what a client sends has to be masked, which is done while it is copied.
        let copied = len < self.direct_send || live.client;
        let shared = connection.outgoing.as_ref().is_some_and(|outgoing| outgoing.has_shared());
        if !blocked && (shared || copied) {
            self.flush(id);
        }
        let header = frame::encode_header(true, false, message.opcode(), len as u64, None);
        let over_limit = self.is_over_limit(header.len() + len);
        let Some(connection) = self.table.get_mut(id) else { return Err(SendError::Gone) };
        let Phase::Live(live) = &mut connection.phase else { return Err(SendError::Gone) };
        let outgoing = connection.outgoing.get_or_insert_with(|| self.outgoing.take());
        let unsent = outgoing.unsent_len();
        if connection.blocked || copied {
            if unsent != 0 && unsent + header.len() + len > self.config.max_backpressure {
                self.tally.dropped += 1;
                return Err(SendError::Full);
            }
            if connection.blocked && over_limit {
                self.tally.dropped_worker_full += 1;
                return Err(SendError::Full);
            }
            if live.endpoint.send(message, outgoing.append()).is_err() {
                return Err(SendError::Gone);
            }
            self.tally.messages_sent += 1;
            let blocked = connection.blocked;
            if blocked {
                self.note_buffered(id);
            }
            self.mark_dirty(id);
            return Ok(if blocked { SendStatus::Queued } else { SendStatus::Sent });
        }

        if outgoing.has_shared() {
            // The flush failed, and the connection is about to end.
            return Err(SendError::Gone);
        }
        if connection.tls.is_some() {
            return self.send_sealed(id, &header, message.payload());
        }
        // The batch so far, the header and the payload in one call, in order.
        outgoing.append();
        let payload = message.payload();
        let slices =
            [IoSlice::new(outgoing.unsent()), IoSlice::new(&header), IoSlice::new(payload)];
        let batch = outgoing.unsent().len();
        let slices = if batch == 0 { &slices[1..] } else { &slices[..] };
        let taken = match self.driver.send(id, slices) {
            Ok(taken) => taken,
            Err(error) => {
                self.doom(id, CloseCause::Io(error.kind()));
                return Err(SendError::Gone);
            }
        };
        if taken < batch {
            // Not even the batch went out. The message is one more in the queue, or too much.
            self.tally.bytes_sent += taken as u64;
            outgoing.advance(taken);
            let full = outgoing.unsent_len() + header.len() + len > self.config.max_backpressure;
            if !full {
                outgoing.append().extend_from_slice(&header);
                outgoing.append().extend_from_slice(payload);
                self.tally.messages_sent += 1;
            } else {
                self.tally.dropped += 1;
            }
            self.block(id);
            return if full { Err(SendError::Full) } else { Ok(SendStatus::Queued) };
        }
        self.tally.bytes_sent += taken as u64;
        outgoing.advance(batch);
        self.tally.messages_sent += 1;
        let taken = taken - batch;
        if taken == header.len() + len {
            self.drained(id);
            return Ok(SendStatus::Sent);
        }
        // A frame that has begun to leave must be completed, whatever the limit says.
        let rest = outgoing.append();
        if taken < header.len() {
            rest.extend_from_slice(&header[taken..]);
            rest.extend_from_slice(payload);
        } else {
            rest.extend_from_slice(&payload[taken - header.len()..]);
        }
        self.block(id);
        Ok(SendStatus::Queued)
    }

    /// Sends to a connection of any worker.
    pub(crate) fn send_to(
        &mut self,
        id: ConnectionId,
        message: Message<'_>,
    ) -> Result<SendStatus, SendError> {
        if id.worker() == self.worker {
            return self.send(id, message);
        }
        post_message(&self.shared, id, message)?;
        Ok(SendStatus::Queued)
    }

    pub(crate) fn ping(&mut self, id: ConnectionId, payload: &[u8]) -> SendStatus {
        self.look_again = true;
        let payload = &payload[..payload.len().min(125)];
        let Some(connection) = self.table.get_mut(id) else { return SendStatus::Dropped };
        let Phase::Live(live) = &mut connection.phase else { return SendStatus::Dropped };
        if !live.endpoint.is_open() {
            return SendStatus::Dropped;
        }
        let outgoing = connection.outgoing.get_or_insert_with(|| self.outgoing.take());
        if live.endpoint.ping(payload, outgoing.append()).is_err() {
            return SendStatus::Dropped;
        }
        let blocked = connection.blocked;
        self.mark_dirty(id);
        if blocked { SendStatus::Queued } else { SendStatus::Sent }
    }

    /// Answers a ping. While the socket is full only the latest answer waits.
    pub(crate) fn pong(&mut self, id: ConnectionId, payload: &[u8]) {
        let Some(connection) = self.table.get_mut(id) else { return };
        let Phase::Live(live) = &mut connection.phase else { return };
        if !live.endpoint.is_open() {
            // After our Close no pong is due.
            return;
        }
        let outgoing = connection.outgoing.get_or_insert_with(|| self.outgoing.take());
        let out = if connection.blocked { outgoing.replace_pong() } else { outgoing.append() };
        // A payload that was received is not too long.
        let _ = live.endpoint.pong(payload, out);
        self.mark_dirty(id);
    }

    /// Starts the close handshake.
    pub(crate) fn close(&mut self, id: ConnectionId, code: CloseCode, reason: &str) -> bool {
        self.look_again = true;
        let close_timeout_ms = self.config.close_timeout_ms;
        let now_ms = self.now_ms;
        let Some(connection) = self.table.get_mut(id) else { return false };
        let Phase::Live(live) = &mut connection.phase else { return false };
        if !live.endpoint.is_open() {
            return false;
        }
        let outgoing = connection.outgoing.get_or_insert_with(|| self.outgoing.take());
        if !live.endpoint.close(Some(code), reason, outgoing.append_close()) {
            return false;
        }
        connection.deadline_ms = after(now_ms, close_timeout_ms);
        connection.pinged = false;
        self.tables().note_close_sent(code.get());
        // The answer must be read.
        self.resume_for_handler(id);
        self.mark_dirty(id);
        self.arm_timer(id);
        true
    }

    pub(crate) fn terminate(&mut self, id: ConnectionId) {
        if let Some(connection) = self.table.get_mut(id)
            && let Phase::Live(live) = &mut connection.phase
        {
            // Nothing is written, but nothing more is taken either: `send` says so from here on.
            live.endpoint.close(None, "", &mut Vec::new());
            self.doom(id, CloseCause::Terminated);
        }
    }
}

/// Appends a short message to a batch that stays below the high-water mark; false if it would not.
#[inline(always)]
fn append_below(high_water: usize, batch: &mut Vec<u8>, message: Message<'_>) -> bool {
    let below = batch.len() + MAX_HEADER_LEN + message.len() <= high_water;
    if below {
        frame::append_short(message.opcode(), message.payload(), batch);
    }
    below
}

/// Posts a message to the mailbox of the connection's worker.
pub(crate) fn post_message(
    shared: &Shared,
    id: ConnectionId,
    message: Message<'_>,
) -> Result<(), SendError> {
    let mailbox = shared.mailboxes.get(usize::from(id.worker())).ok_or(SendError::Gone)?;
    let text = matches!(message, Message::Text(_));
    mailbox.post(Command::Send { id, text, payload: message.payload().into() })
}
