//! What a handler may do with a connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::client::DialId;
use crate::config::millis;
use crate::context::{TimerError, TimerId, WorkerContext};
use crate::driver::ConnectionId;
use crate::error::SendError;
use crate::fragment::Fragment;
use crate::handle::Handle;
use crate::protocol::{CloseCode, DeflateParameters, Endpoint, Message};
use crate::publish::{PreparedMessage, Publication, Published, SubscribeError};
use crate::worker::Core;
use crate::worker::schedule::Owner;

/// What became of a message given to [`WebSocket::send`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendStatus {
    /// Taken: it leaves at the end of this turn, and the socket had room the last time.
    Sent,
    /// Taken, but it waits behind earlier bytes that the peer is slow to read. Sending more now
    /// uses memory; [`on_drain`](crate::Handler::on_drain) says when the queue is empty.
    Queued,
    /// Refused: the queue would pass `max_backpressure` or the worker's queues together
    /// `max_worker_backpressure`, or the connection is closing, or a message in fragments is
    /// unfinished. Nothing of it will be sent.
    Dropped,
}

/// How one message is sent: see [`WebSocket::send_with`].
///
/// ```
/// use wirelane::SendOptions;
///
/// let secret = SendOptions::new().compress(false);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use = "give it to `WebSocket::send_with`"]
pub struct SendOptions {
    compress: Option<bool>,
}

impl SendOptions {
    /// As [`WebSocket::send`] does it.
    pub const fn new() -> Self {
        Self { compress: None }
    }

    /// Compresses the message whatever its length is, or not at all, on a connection with
    /// compression; without one, nothing changes. An empty message is never compressed. Default:
    /// from [`Deflate::threshold`](crate::Deflate::threshold) on.
    pub const fn compress(mut self, compress: bool) -> Self {
        self.compress = Some(compress);
        self
    }

    #[inline]
    pub(crate) fn insists_on_compression(self) -> bool {
        self.compress == Some(true)
    }

    #[inline]
    pub(crate) fn compresses(self, endpoint: &Endpoint, len: usize) -> bool {
        match self.compress {
            None => endpoint.should_compress(len),
            Some(compress) => compress && len > 0 && endpoint.deflate().is_some(),
        }
    }
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
    /// Sends a message in one frame (RFC 6455 5.6): text from a `&str` or `&String`, binary from
    /// bytes, or a [`Message`] as it was received. The payload is lent, so write
    /// `ws.send(&format!("..."))` with the `&`. It is copied or handed to the
    /// kernel before the call returns; nothing is allocated while the queue has room.
    ///
    /// A message that meets an empty queue is always taken; otherwise the queue may grow up to
    /// `max_backpressure` bytes. With compression ([`Deflate`](crate::Deflate)) it is compressed
    /// if it is long enough for that.
    #[inline]
    pub fn send<'m>(&mut self, message: impl Into<Message<'m>>) -> SendStatus {
        let options = SendOptions::new();
        self.core.answer(self.id, message.into(), options).unwrap_or(SendStatus::Dropped)
    }

    /// Sends a message in one frame with options that differ from those of the connection.
    #[inline]
    pub fn send_with<'m>(
        &mut self,
        message: impl Into<Message<'m>>,
        options: SendOptions,
    ) -> SendStatus {
        self.core.answer(self.id, message.into(), options).unwrap_or(SendStatus::Dropped)
    }

    /// Sends a part of a message (RFC 6455 5.4), so that a long one need not be in memory at once,
    /// and others are served in between. The parts may come from different callbacks:
    /// [`Fragment::first`], then any number of [`Fragment::next`], then [`Fragment::last`].
    ///
    /// Until the last one, every whole message to this connection is refused, whoever sends it:
    /// [`SendStatus::Dropped`], [`SendError::OutOfOrder`]. Pings, pongs and the Close may be sent;
    /// a Close leaves the message unfinished for ever. The parts count as one message. They are
    /// never compressed, whatever was agreed on.
    ///
    /// After `Queued`, wait for [`on_drain`](crate::Handler::on_drain).
    ///
    /// # Errors
    ///
    /// In every case nothing was queued and the same message can go on later.
    /// [`SendError::OutOfOrder`] for a first part while a message is unfinished, or another part
    /// without one or of the other kind; [`SendError::Full`] if a limit would be passed;
    /// [`SendError::Gone`] if the connection is closing.
    pub fn send_fragment(&mut self, fragment: Fragment<'_>) -> Result<SendStatus, SendError> {
        self.core.send_fragment(self.id, fragment)
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
    /// would pass a limit, [`SendError::OutOfOrder`] while a message to it in fragments is
    /// unfinished, [`SendError::MailboxFull`] or [`SendError::Stopped`] for
    /// another worker. The message was not queued then.
    pub fn send_to<'m>(
        &mut self,
        id: ConnectionId,
        message: impl Into<Message<'m>>,
    ) -> Result<SendStatus, SendError> {
        self.core.send_to(id, message.into())
    }

    /// Sends a message that was framed before: nothing is encoded, and a long one is not even
    /// copied; the queue holds a reference.
    pub fn send_prepared(&mut self, message: &PreparedMessage) -> SendStatus {
        self.core.send_prepared(self.id, message).unwrap_or(SendStatus::Dropped)
    }

    /// The same to another connection of any worker of this server. For many of them, prepare a
    /// message once instead of sending it with [`send_to`](Self::send_to).
    ///
    /// # Errors
    ///
    /// As [`send_to`](Self::send_to).
    pub fn send_prepared_to(
        &mut self,
        id: ConnectionId,
        message: &PreparedMessage,
    ) -> Result<SendStatus, SendError> {
        self.core.send_prepared_to(id, message)
    }

    /// Subscribes this connection to a topic; false if it was already. A topic exists as long as
    /// it has subscribers; any text of up to 256 bytes names one. The subscription ends with the
    /// connection or with [`unsubscribe`](Self::unsubscribe). Takes 24 bytes per subscription, and
    /// about 300 more per topic and worker.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`] names the limit that is reached, or says that the connection is closing.
    pub fn subscribe(&mut self, topic: &str) -> Result<bool, SubscribeError> {
        self.core.subscribe(self.id, topic)
    }

    /// Ends a subscription; false if there was none. What was published before is still sent.
    pub fn unsubscribe(&mut self, topic: &str) -> bool {
        self.core.unsubscribe(self.id, topic)
    }

    /// True if this connection is subscribed to the topic.
    pub fn is_subscribed(&self, topic: &str) -> bool {
        self.core.is_subscribed(self.id, topic)
    }

    /// The topics that this connection is subscribed to, the latest first.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.core.topics.of_connection(self.id.slot() as u32)
    }

    /// Publishes a message to the subscribers of a topic on all workers, except this connection,
    /// which need not be a subscriber. The payload is lent, as for [`send`](Self::send): write
    /// `ws.publish(topic, &format!("..."))` with the `&`.
    ///
    /// The message is framed once. Up to 1 KiB it is copied into each queue, and nothing is
    /// allocated unless another worker has subscribers; from there on all queues share one copy.
    /// Each subscriber is sent everything once, when the turn ends. To each of them the messages
    /// of one publisher keep their order, also among those that it [`send`](Self::send)s to
    /// subscribers of its own worker.
    pub fn publish<'m>(&mut self, topic: &str, message: impl Into<Publication<'m>>) -> Published {
        self.core.publish(topic, message.into(), Some(self.id))
    }

    /// The same to every subscriber, this connection included if it is one.
    pub fn publish_to_all<'m>(
        &mut self,
        topic: &str,
        message: impl Into<Publication<'m>>,
    ) -> Published {
        self.core.publish(topic, message.into(), None)
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

    /// Ends the TCP connection at once, without a close handshake; what is queued is lost, and
    /// nothing more is taken. `on_close` follows with 1006 as soon as the present method has
    /// returned.
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

    /// How this connection is compressed, as agreed on in the opening handshake (RFC 7692); `None`
    /// if it is not. See [`ServerBuilder::deflate`](crate::ServerBuilder::deflate).
    pub fn deflate(&self) -> Option<DeflateParameters> {
        self.core.deflate(self.id)
    }

    /// The state of this connection. `ws.send(&format!("{}", ws.session().name))` compiles; to send
    /// a part of it as it is, or to name a topic with it, see [`split`](Self::split).
    pub fn session(&self) -> &S {
        self.session
    }

    /// The state of this connection, to change it.
    pub fn session_mut(&mut self) -> &mut S {
        self.session
    }

    /// The state and the connection apart, so that the one can be used in calls of the other. Free.
    ///
    /// ```
    /// # use wirelane::{Message, WebSocket};
    /// struct Guest {
    ///     room: String,
    /// }
    ///
    /// fn say(ws: &mut WebSocket<'_, Guest>, message: Message<'_>) {
    ///     let (guest, mut ws) = ws.split();
    ///     ws.publish(&guest.room, message);
    /// }
    /// ```
    pub fn split(&mut self) -> (&mut S, WebSocket<'_, ()>) {
        // Nothing has no size: this allocates nothing and leaks nothing.
        let nothing = Box::leak(Box::new(()));
        (self.session, WebSocket { core: self.core, id: self.id, session: nothing })
    }

    /// A handle of the server, for what goes on after this method has returned: another thread
    /// that answers later, a timer, closing a connection other than this one.
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.core.shared) }
    }

    /// The name of this connection for ever; see [`ConnectionId`].
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// The dial that this connection came of, if this side has made it
    /// ([`WorkerContext::connect`](crate::WorkerContext::connect)); `None` for one that was
    /// accepted.
    pub fn dial(&self) -> Option<DialId> {
        self.core.dial_of(self.id)
    }

    /// Stops reading from the peer, so that its kernel's buffers and ours fill up and it has to
    /// wait; for whoever needs time for what was received: a database, another connection.
    ///
    /// In `on_message` the present message is the last one. What has been received already, at
    /// most one `receive_buffer` (a few of those with io_uring), waits in memory and is delivered
    /// in order after [`resume_reading`](Self::resume_reading). Nothing of the peer is seen in
    /// between, neither its pongs nor its Close nor its FIN, so idle and pong timeout do not
    /// count; the write timeout does. Calls do not add up: one resume is enough. Without effect
    /// after [`close`](Self::close), which reads on by itself to see the answer.
    ///
    /// A connection whose queue is long is paused anyway (see
    /// [`max_backpressure`](crate::ServerBuilder::max_backpressure)); it is read again when neither
    /// reason is left.
    pub fn pause_reading(&mut self) {
        self.core.pause_for_handler(self.id);
    }

    /// Reads again after [`pause_reading`](Self::pause_reading): first the messages that waited,
    /// after the present method has returned. Nothing happens if reading was not paused.
    pub fn resume_reading(&mut self) {
        self.core.resume_for_handler(self.id);
    }

    /// Has [`on_timer`](crate::Handler::on_timer) called for this connection with `key`, once,
    /// after `delay`: not earlier, and at the end of a turn that takes longer, later. Whole
    /// milliseconds, rounded up; zero is the next turn. Several timers may have the same key.
    /// Those left when the connection ends never fire. Costs about 100 bytes until then.
    ///
    /// # Errors
    ///
    /// [`TimerError::TooMany`] if the connection has
    /// [`max_timers`](crate::ServerBuilder::max_timers), [`TimerError::Gone`] in `on_close`.
    pub fn set_timer(&mut self, delay: Duration, key: u64) -> Result<TimerId, TimerError> {
        self.core.set_timer(Owner::Connection(self.id), millis(delay), key)
    }

    /// Takes back a timer of this connection. False if it has fired or is not one of its own.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.core.schedule.cancel(Owner::Connection(self.id), timer)
    }

    /// The worker that this runs on: timers of the handler, and other connections by id.
    pub fn worker(&mut self) -> WorkerContext<'_> {
        let handler = self.core.route_of(self.id);
        WorkerContext::new(self.core, Some(handler))
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
