//! Parts of messages.

use crate::protocol::Message;

/// A part of a message, received in [`Handler::on_fragment`](crate::Handler::on_fragment) or sent
/// with [`WebSocket::send_fragment`](crate::WebSocket::send_fragment) (RFC 6455 5.4). `Copy`.
///
/// What was received can be sent as it is:
///
/// ```
/// use wirelane::{Fragment, Handler, Message, WebSocket};
///
/// struct Echo;
///
/// impl Handler for Echo {
///     type Session = ();
///     const STREAM: bool = true;
///
///     fn on_fragment(&mut self, ws: &mut WebSocket<'_, ()>, fragment: Fragment<'_>) {
///         if ws.send_fragment(fragment).is_err() {
///             ws.terminate();
///         }
///     }
///
///     fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {
///         // With `STREAM` nobody calls this.
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fragment<'a> {
    /// The bytes of this part, and of which kind its message is. A text has whole characters in
    /// each part.
    pub payload: Message<'a>,
    /// Its message begins with it.
    pub first: bool,
    /// Its message ends with it.
    pub last: bool,
}

impl<'a> Fragment<'a> {
    /// The beginning of a message.
    pub fn first(payload: impl Into<Message<'a>>) -> Self {
        Self { payload: payload.into(), first: true, last: false }
    }

    /// More of a message.
    pub fn next(payload: impl Into<Message<'a>>) -> Self {
        Self { payload: payload.into(), first: false, last: false }
    }

    /// The end of a message; its payload may be empty.
    pub fn last(payload: impl Into<Message<'a>>) -> Self {
        Self { payload: payload.into(), first: false, last: true }
    }

    /// A message in one part.
    pub fn whole(payload: impl Into<Message<'a>>) -> Self {
        Self { payload: payload.into(), first: true, last: true }
    }
}
