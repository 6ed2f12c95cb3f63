//! What the application implements.

use crate::error::Close;
use crate::protocol::Message;
use crate::upgrade::{Session, Upgrade, UpgradeRequest};
use crate::websocket::WebSocket;

/// The application's side of a route: one value per worker, so nothing in it needs a lock.
///
/// The worker calls these methods on its own thread, one at a time. While one runs, every other
/// connection of that worker waits, so it should not block. Whatever a method sends is collected
/// and leaves when the worker's turn ends, one system call per connection.
///
/// Per connection the order is: `on_upgrade` once; if it accepts, `on_open` once, then any number
/// of the others, then `on_close` exactly once, after which the session is dropped. A method that
/// panics costs its connection (close code 1011), not the worker; with `panic = "abort"` it costs
/// the process.
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
///         *ws.session() += 1;
///         let count = ws.session().to_string();
///         ws.send(&count);
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

    /// The opening handshake is complete; the first message has not been looked at. Sending is
    /// possible.
    fn on_open(&mut self, ws: &mut WebSocket<'_, Self::Session>) {
        let _ = ws;
    }

    /// A whole message arrived (RFC 6455 5.4: fragments were put together; 8.1: text is valid
    /// UTF-8). The message borrows the receive buffer and ends with the call; it may be sent on
    /// from there without a copy of one's own.
    fn on_message(&mut self, ws: &mut WebSocket<'_, Self::Session>, message: Message<'_>);

    /// A Ping arrived; the Pong has already been queued (RFC 6455 5.5.2). At most 125 bytes.
    fn on_ping(&mut self, ws: &mut WebSocket<'_, Self::Session>, payload: &[u8]) {
        let _ = (ws, payload);
    }

    /// A Pong arrived, asked for or not (RFC 6455 5.5.3). At most 125 bytes.
    fn on_pong(&mut self, ws: &mut WebSocket<'_, Self::Session>, payload: &[u8]) {
        let _ = (ws, payload);
    }

    /// Everything that the socket had not taken at once has now been taken: whoever stopped
    /// sending at [`SendStatus::Queued`](crate::SendStatus::Queued) or
    /// [`Dropped`](crate::SendStatus::Dropped) may go on.
    fn on_drain(&mut self, ws: &mut WebSocket<'_, Self::Session>) {
        let _ = ws;
    }

    /// The connection is over, for the reason in `close`. Nothing can be sent to it any more;
    /// other connections can be sent to.
    fn on_close(&mut self, ws: &mut WebSocket<'_, Self::Session>, close: Close<'_>) {
        let _ = (ws, close);
    }
}
