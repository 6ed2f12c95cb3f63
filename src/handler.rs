//! What the application implements.

use crate::error::Close;
use crate::protocol::Message;
use crate::publish::{Dropped, Subscription};
use crate::websocket::WebSocket;

/// The application's side of a route: one value per worker, so nothing in it needs a lock.
///
/// The worker calls these methods on its own thread, one at a time. While one runs, every other
/// connection of that worker waits, so it should not block. Whatever a method sends is collected
/// and leaves when the worker's turn ends, one system call per connection.
///
/// Per connection the order is: `on_open` once, then any number of the others, then `on_close`
/// exactly once, after which the session is dropped. A method that panics costs its connection
/// (close code 1011), not the worker; with `panic = "abort"` it costs the process.
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
    /// has returned. Costs its size plus 8 bytes per connection.
    type Session: Default + 'static;

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
