//! What the application implements.

use crate::client::{DialEvent, DialId, DialResponse};
use crate::context::WorkerContext;
use crate::error::Close;
use crate::fragment::Fragment;
use crate::protocol::Message;
use crate::publish::{Dropped, Subscription};
use crate::upgrade::{Session, Upgrade, UpgradeRequest};
use crate::websocket::WebSocket;

/// The application's side of a route: one value per worker, so nothing in it needs a lock.
///
/// The worker calls these methods on its own thread, one at a time. While one runs, every other
/// connection of that worker waits, so it should not block. Whatever a method sends is collected
/// and leaves when the worker's turn ends, one system call per connection.
///
/// Per connection the order is: `on_upgrade` once ([`on_connect`](Self::on_connect) if this side has
/// made the connection); if it accepts, `on_open` once, then any number of the others, then
/// `on_close` exactly once, after which the session is dropped. A method that panics costs its
/// connection (close code 1011), not the worker; with `panic = "abort"` it costs the process.
///
/// ```
/// use wirelane::{Close, Handler, Message, WebSocket};
///
/// /// Counts the messages of each connection.
/// struct Counter;
///
/// impl Handler for Counter {
///     type Session = u64;
///
///     fn on_message(&mut self, ws: &mut WebSocket<'_, u64>, _message: Message<'_>) {
///         *ws.session_mut() += 1;
///         ws.send(&ws.session().to_string());
///     }
///
///     fn on_close(&mut self, ws: &mut WebSocket<'_, u64>, close: Close<'_>) {
///         println!("{:?} sent {} messages, then {}", ws.id(), ws.session(), close.code);
///     }
/// }
/// ```
pub trait Handler: 'static {
    /// State of one connection, kept by the worker from the opening handshake until `on_close`
    /// has returned. Costs its size plus 8 bytes per connection. Any type that has a [`Default`]
    /// will do; for others see [`Session`].
    type Session: Session;

    /// Somebody asks for a connection: a correct request (RFC 6455 4.2.1) for this route, from an
    /// origin that may connect ([`Origins`](crate::Origins)). The answer decides; without an
    /// `on_upgrade` everybody is accepted with [`Session::initial`]. A panic is answered with
    /// 500.
    ///
    /// ```
    /// use wirelane::{Handler, Message, Upgrade, UpgradeRequest, WebSocket};
    ///
    /// struct Members;
    ///
    /// impl Handler for Members {
    ///     type Session = String;
    ///
    ///     fn on_upgrade(&mut self, request: &UpgradeRequest<'_>) -> Upgrade<String> {
    ///         match request.header("Authorization") {
    ///             Some(b"Bearer open sesame") => Upgrade::accept("Ali Baba".to_owned()),
    ///             _ => Upgrade::reject(401, "Members only.\n")
    ///                 .header("WWW-Authenticate", "Bearer"),
    ///         }
    ///     }
    ///
    ///     fn on_message(&mut self, ws: &mut WebSocket<'_, String>, _message: Message<'_>) {
    ///         let answer = format!("You are {}.", ws.session());
    ///         ws.send(&answer);
    ///     }
    /// }
    /// ```
    fn on_upgrade(&mut self, request: &UpgradeRequest<'_>) -> Upgrade<Self::Session> {
        let _ = request;
        Upgrade::by_default()
    }

    /// Delivers messages in parts as they arrive, through [`on_fragment`](Self::on_fragment) instead
    /// of [`on_message`](Self::on_message): for messages that are too long to be buffered. Default
    /// false.
    const STREAM: bool = false;

    /// The worker is ready; it accepts connections after this has returned. The place to set the
    /// first worker timer, and to [connect](crate::WorkerContext::connect) to other servers. A panic
    /// here is counted in [`Stats::handler_panics`](crate::Stats::handler_panics) and stops nothing:
    /// what may be misconfigured is better checked before the server is built.
    fn on_start(&mut self, worker: &mut WorkerContext<'_>) {
        let _ = worker;
    }

    /// The opening handshake is complete; the first message has not been looked at. Sending is
    /// possible.
    fn on_open(&mut self, ws: &mut WebSocket<'_, Self::Session>) {
        let _ = ws;
    }

    /// A whole message arrived (RFC 6455 5.4: fragments were put together; 8.1: text is valid
    /// UTF-8). The message borrows the receive buffer and ends with the call; it may be sent on
    /// from there without a copy of one's own.
    fn on_message(&mut self, ws: &mut WebSocket<'_, Self::Session>, message: Message<'_>);

    /// A part of a message arrived; only with [`STREAM`](Self::STREAM), and then for every message,
    /// also for one that arrives whole.
    ///
    /// Where parts begin and end says nothing: it depends on the frames of the peer and on how its
    /// bytes were received. No part is empty but possibly the last one, and none is longer than a
    /// `receive_buffer`. A text has whole, validated characters in each part (RFC 6455 8.1); of one
    /// that was cut in between, the part is that character alone. A message may stay without its
    /// last part: `on_close` follows then. Parts borrow the receive buffer; nothing is copied and
    /// no memory is kept. Limit: [`max_streamed_message`](crate::ServerBuilder::max_streamed_message).
    fn on_fragment(&mut self, ws: &mut WebSocket<'_, Self::Session>, fragment: Fragment<'_>) {
        let _ = (ws, fragment);
    }

    /// A Ping arrived; the Pong has already been queued (RFC 6455 5.5.2). At most 125 bytes.
    fn on_ping(&mut self, ws: &mut WebSocket<'_, Self::Session>, payload: &[u8]) {
        let _ = (ws, payload);
    }

    /// A Pong arrived, asked for or not (RFC 6455 5.5.3). At most 125 bytes.
    fn on_pong(&mut self, ws: &mut WebSocket<'_, Self::Session>, payload: &[u8]) {
        let _ = (ws, payload);
    }

    /// A server has accepted a connection of this handler's own making
    /// ([`Dial`](crate::client::Dial)); `response` is its 101. Gives the session that the connection
    /// begins with, or `None` to drop it ([`DialError::Declined`](crate::client::DialError)).
    /// Without an `on_connect` it is [`Session::initial`]. `on_open` follows.
    fn on_connect(&mut self, dial: DialId, response: &DialResponse) -> Option<Self::Session> {
        let _ = (dial, response);
        Self::Session::initial()
    }

    /// An attempt to connect has failed, or a connection of this handler's own making has ended
    /// (after its `on_close`); `event` says which, and when the next attempt begins. One without a
    /// next attempt is the last of its dial.
    fn on_dial(&mut self, worker: &mut WorkerContext<'_>, event: &DialEvent<'_>) {
        let _ = (worker, event);
    }

    /// Everything that the socket had not taken at once has now been taken: whoever stopped
    /// sending at [`SendStatus::Queued`](crate::SendStatus::Queued) or
    /// [`Dropped`](crate::SendStatus::Dropped) may go on.
    ///
    /// It cannot be lost: each time the socket was full, this follows exactly once as soon as the
    /// queue is empty, unless the connection ends first (`on_close`), however the queue came to
    /// be filled: by this handler, another connection, another thread. It never runs inside of
    /// `send`. It is no promise that the socket is empty now: what another call sent in between
    /// may have filled it again, and then it comes again.
    fn on_drain(&mut self, ws: &mut WebSocket<'_, Self::Session>) {
        let _ = ws;
    }

    /// A timer of this connection is due, set with
    /// [`WebSocket::set_timer`](crate::WebSocket::set_timer) under this key. Comes in any order
    /// with messages, also while reading is paused and during the close handshake, never after
    /// `on_close`.
    fn on_timer(&mut self, ws: &mut WebSocket<'_, Self::Session>, key: u64) {
        let _ = (ws, key);
    }

    /// A timer of this handler is due, set with
    /// [`WorkerContext::set_timer`](crate::WorkerContext::set_timer) under this key. A panic here is
    /// counted and costs nobody a connection.
    fn on_worker_timer(&mut self, worker: &mut WorkerContext<'_>, key: u64) {
        let _ = (worker, key);
    }

    /// The connection missed published messages, because its peer reads too slowly; see
    /// [`SlowSubscriber`](crate::SlowSubscriber). Called in the turn in which they were published,
    /// after the publisher's method has returned, once for each topic and reason.
    fn on_dropped(&mut self, ws: &mut WebSocket<'_, Self::Session>, dropped: Dropped<'_>) {
        let _ = (ws, dropped);
    }

    /// The connection was subscribed to a topic, or no longer is. Called in the same turn, after
    /// the method that subscribed or unsubscribed has returned; a connection that ends is told of
    /// every subscription that ends with it before `on_close`, and cannot be sent to any more.
    fn on_subscription(
        &mut self,
        ws: &mut WebSocket<'_, Self::Session>,
        subscription: Subscription<'_>,
    ) {
        let _ = (ws, subscription);
    }

    /// The connection is over, for the reason in `close`. Nothing can be sent to it any more;
    /// other connections can be sent to.
    fn on_close(&mut self, ws: &mut WebSocket<'_, Self::Session>, close: Close<'_>) {
        let _ = (ws, close);
    }
}
