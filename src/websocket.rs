//! What a handler may do with a connection.

use std::net::SocketAddr;

use crate::driver::ConnectionId;
use crate::error::SendError;
use crate::protocol::{CloseCode, Message};
use crate::worker::Core;

/// What became of a message given to [`WebSocket::send`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendStatus {
    /// Taken: it leaves at the end of this turn, and the socket had room the last time.
    Sent,
    /// Taken, but it waits behind earlier bytes that the peer is slow to read. Sending more now
    /// uses memory; [`on_drain`](crate::Handler::on_drain) says when the queue is empty.
    Queued,
    /// Refused: the queue would pass `max_backpressure`, or the connection is closing. Nothing
    /// of it will be sent.
    Dropped,
}

/// A connection, as long as a handler's method runs.
///
/// Everything sent is collected and leaves once, in call order, when the worker's turn ends. To
/// reach the connection later, keep its [`id`](Self::id).
pub struct WebSocket<'a, S> {
    pub(crate) core: &'a mut Core,
    pub(crate) id: ConnectionId,
    pub(crate) session: &'a mut S,
}

impl<S> WebSocket<'_, S> {
    /// Sends a message in one frame (RFC 6455 5.6). The payload is copied or handed to the
    /// kernel before the call returns; nothing is allocated while the queue has room.
    ///
    /// A message that meets an empty queue is always taken; otherwise the queue may grow up to
    /// `max_backpressure` bytes.
    #[inline]
    pub fn send<'m>(&mut self, message: impl Into<Message<'m>>) -> SendStatus {
        self.core.send(self.id, message.into()).unwrap_or(SendStatus::Dropped)
    }

    /// Sends a message to another connection of any worker of this server.
    ///
    /// To a connection of the same worker this is as cheap as [`send`](Self::send). To another
    /// worker the message is copied once and posted to that worker's mailbox; `Queued` is the
    /// answer then, and a message that finds its connection gone or full is counted in
    /// [`Stats::undelivered`](crate::Stats::undelivered).
    ///
    /// # Errors
    ///
    /// [`SendError::Gone`] if the connection is closing or gone, [`SendError::Full`] if its queue
    /// would pass `max_backpressure`, [`SendError::MailboxFull`] or [`SendError::Stopped`] for
    /// another worker. The message was not queued then.
    pub fn send_to<'m>(
        &mut self,
        id: ConnectionId,
        message: impl Into<Message<'m>>,
    ) -> Result<SendStatus, SendError> {
        self.core.send_to(id, message.into())
    }

    /// Sends a Ping (RFC 6455 5.5.2). The payload is cut at 125 bytes. `Dropped` if the
    /// connection is closing; backpressure does not apply to control frames.
    pub fn ping(&mut self, payload: &[u8]) -> SendStatus {
        self.core.ping(self.id, payload)
    }

    /// Starts the close handshake (RFC 6455 7.1.2): sends a Close with this code and reason,
    /// after everything sent before. The reason is cut at a character boundary at 123 bytes.
    /// Messages that still arrive are discarded; `on_close` follows when the peer has answered,
    /// or after `close_timeout`. A second call does nothing.
    pub fn close(&mut self, code: CloseCode, reason: &str) {
        self.core.close(self.id, code, reason);
    }

    /// Ends the TCP connection at once, without a close handshake; what is queued is lost.
    /// `on_close` follows with 1006 as soon as the present method has returned.
    pub fn terminate(&mut self) {
        self.core.terminate(self.id);
    }

    /// Bytes taken by `send` that the socket has not taken.
    pub fn buffered_amount(&self) -> usize {
        self.core.buffered_amount(self.id)
    }

    /// The subprotocol that was agreed on in the opening handshake (RFC 6455 1.9), if any.
    pub fn subprotocol(&self) -> Option<&str> {
        self.core.subprotocol(self.id)
    }

    /// The state of this connection.
    pub fn session(&mut self) -> &mut S {
        self.session
    }

    /// The name of this connection for ever; see [`ConnectionId`].
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// The peer's address, asked of the kernel (one system call). `None` on Unix sockets and
    /// after the peer has gone: whoever needs it in `on_close` keeps it in the session.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.core.peer_addr(self.id)
    }
}

impl<S: std::fmt::Debug> std::fmt::Debug for WebSocket<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebSocket").field("id", &self.id).field("session", &self.session).finish()
    }
}
