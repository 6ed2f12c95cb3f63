//! Compressed messages on their way out (RFC 7692).
//!
//! What comes in: messages to connections that agreed on permessage-deflate. What goes out: frames
//! in the connection's queue. A message that is refused is refused before it is compressed,
//! because what has gone through a dedicated compressor has to reach the peer.

use super::core::Core;
use crate::connection::Phase;
use crate::driver::ConnectionId;
use crate::error::SendError;
use crate::protocol::Message;
use crate::websocket::SendStatus;

/// The most that a frame is longer than what it holds: a header, and what an incompressible
/// payload grows by.
const fn longest_frame(len: usize) -> usize {
    len + len / 8 + 64
}

impl Core {
    /// Queues a message, compressed.
    #[inline(never)]
    pub(super) fn send_compressed(
        &mut self,
        id: ConnectionId,
        message: Message<'_>,
    ) -> Result<SendStatus, SendError> {
        self.look_again = true;
        let needed = longest_frame(message.len());
        let high_water = self.config.high_water();
        let Some(connection) = self.table.get_mut(id) else { return Err(SendError::Gone) };
        let Phase::Live(live) = &mut connection.phase else { return Err(SendError::Gone) };
        if !live.endpoint.may_send() {
            return Err(self.why_not(id));
        }
        let unsent = connection.unsent_len();
        if connection.blocked || unsent + needed > high_water {
            if !connection.blocked && unsent != 0 {
                self.flush(id);
            }
            let over_limit = self.is_over_limit(needed);
            let Some(connection) = self.table.get_mut(id) else { return Err(SendError::Gone) };
            let unsent = connection.unsent_len();
            if unsent != 0 && unsent + needed > self.config.max_backpressure {
                self.tally.dropped += 1;
                return Err(SendError::Full);
            }
            if connection.blocked && over_limit {
                self.tally.dropped_worker_full += 1;
                return Err(SendError::Full);
            }
        }
        let Some(connection) = self.table.get_mut(id) else { return Err(SendError::Gone) };
        let Phase::Live(live) = &mut connection.phase else { return Err(SendError::Gone) };
        let outgoing = connection.outgoing.get_or_insert_with(|| self.outgoing.take());
        let sent = live.endpoint.send_compressed(message, &mut self.buffers, outgoing.append());
        if sent.is_err() {
            return Err(SendError::Gone);
        }
        self.tally.messages_sent += 1;
        let blocked = connection.blocked;
        if blocked {
            self.note_buffered(id);
        }
        self.mark_dirty(id);
        Ok(if blocked { SendStatus::Queued } else { SendStatus::Sent })
    }
}
