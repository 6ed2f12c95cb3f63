//! What an application sees of an upgrade request, and what it decides about it.
//!
//! Comes in: a request that passed every check of RFC 6455 4.2.1 and the origin policy. Goes out:
//! an [`Upgrade`]. Writing the answer is the worker's part.

mod ticket;

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

pub use self::ticket::UpgradeTicket;
use crate::http::{Request, Response};
use crate::promise::Waiting;
use crate::protocol::upgrade::{ExtensionOffers, ServerHandshake, Subprotocols};

/// State of one connection, kept by the worker from the accepted upgrade until `on_close` has
/// returned.
///
/// Every type with a [`Default`] is one already. For any other type write `impl Session for
/// MyType {}` and make its values in [`Handler::on_upgrade`](crate::Handler::on_upgrade):
///
/// ```
/// use wirelane::{Handler, Message, Session, Upgrade, UpgradeRequest, WebSocket};
///
/// struct Player {
///     name: String,
/// }
///
/// impl Session for Player {}
///
/// struct Game;
///
/// impl Handler for Game {
///     type Session = Player;
///
///     fn on_upgrade(&mut self, request: &UpgradeRequest<'_>) -> Upgrade<Player> {
///         match request.query_value("name") {
///             Some(name) => Upgrade::accept(Player { name: name.into_owned() }),
///             None => Upgrade::reject(400, "Who are you?\n"),
///         }
///     }
///
///     fn on_message(&mut self, ws: &mut WebSocket<'_, Player>, message: Message<'_>) {
///         ws.send(message);
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the state of a connection",
    note = "derive `Default` for it, or write `impl wirelane::Session for {Self} {{}}` and make \
            its values in `Handler::on_upgrade`"
)]
pub trait Session: Sized + 'static {
    /// The state that a connection begins with if `on_upgrade` is left as it is; `None` if there
    /// is no such state, and then every upgrade is answered with 500.
    fn initial() -> Option<Self> {
        None
    }
}

impl<T: Default + 'static> Session for T {
    fn initial() -> Option<Self> {
        Some(Self::default())
    }
}

/// A request for a WebSocket connection: a correct one (RFC 6455 4.2.1), from an origin that may
/// connect. Everything that any [`Request`] has can be asked of it, too.
pub struct UpgradeRequest<'r> {
    request: Request<'r>,
    handshake: ServerHandshake<'r>,
}

impl<'r> UpgradeRequest<'r> {
    pub(crate) fn new(request: Request<'r>, handshake: ServerHandshake<'r>) -> Self {
        Self { request, handshake }
    }

    /// The subprotocols that the client offers, the preferred one first, as sent; they are
    /// compared with regard to case.
    pub fn subprotocols(&self) -> Subprotocols<'r> {
        self.handshake.subprotocols()
    }

    /// The extensions that the client offers, the preferred one first.
    pub fn extensions(&self) -> ExtensionOffers<'r> {
        self.handshake.extensions()
    }
}

impl<'r> Deref for UpgradeRequest<'r> {
    type Target = Request<'r>;

    fn deref(&self) -> &Request<'r> {
        &self.request
    }
}

impl fmt::Debug for UpgradeRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UpgradeRequest").field(&self.request).finish()
    }
}

/// What becomes of an upgrade request; see [`Handler::on_upgrade`](crate::Handler::on_upgrade).
#[must_use = "an upgrade request is answered by returning this"]
pub struct Upgrade<S> {
    pub(crate) decision: Decision<S>,
    pub(crate) subprotocol: Option<Cow<'static, str>>,
    pub(crate) headers: Vec<Header>,
}

/// Name and value.
type Header = (Cow<'static, str>, Cow<'static, str>);

pub(crate) enum Decision<S> {
    Accept(S),
    Reject(Response),
    Defer(Waiting<Upgrade<S>>),
}

impl<S> Upgrade<S> {
    /// 101: the connection opens with this state.
    ///
    /// Of the subprotocols that the client offers it is told the one that comes first in the
    /// route's own list ([`RouteOptions::subprotocols`](crate::RouteOptions::subprotocols)), or
    /// none, unless [`subprotocol`](Self::subprotocol) says otherwise.
    pub fn accept(session: S) -> Self {
        Self::new(Decision::Accept(session))
    }

    /// Another status, 300 to 599 as a rule, with this text as its body; the connection is closed
    /// after it. For an answer that is no plain text make an `Upgrade` out of a [`Response`]:
    /// `Response::new(302).header("Location", "/login").into()`.
    pub fn reject(status: u16, body: impl Into<Cow<'static, str>>) -> Self {
        Response::text(body).status(status).into()
    }

    /// Puts the decision off: the ticket decides, on any thread, within
    /// [`upgrade_timeout`](crate::ServerBuilder::upgrade_timeout). What the client sends in the
    /// meantime waits and is delivered after `on_open`.
    pub fn defer() -> (UpgradeTicket<S>, Self) {
        let (ticket, waiting) = ticket::ticket();
        (ticket, Self::new(Decision::Defer(waiting)))
    }

    /// Answers with this subprotocol, whatever the route's list says. It must be one that the
    /// client offered, compared with regard to case (RFC 6455 4.2.2); another one is answered
    /// with 500 and a line in the log. It is for [`accept`](Self::accept) only.
    pub fn subprotocol(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.subprotocol = Some(name.into());
        self
    }

    /// Adds a header to the answer, for example a cookie. A name that is no token, a value with
    /// control characters (RFC 9110 5.5) and headers of the handshake itself (Upgrade,
    /// Connection, Sec-WebSocket-*, Content-Length, Transfer-Encoding) are answered with 500 and
    /// a line in the log instead of being sent. A deferral has no headers: they come with the
    /// ticket's answer.
    pub fn header(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> Self {
        match &mut self.decision {
            Decision::Reject(response) => response.headers.push((name.into(), value.into())),
            _ => self.headers.push((name.into(), value.into())),
        }
        self
    }

    /// What is answered when the application fails to.
    pub(crate) fn failed() -> Self {
        Response::failed().into()
    }

    fn new(decision: Decision<S>) -> Self {
        Self { decision, subprotocol: None, headers: Vec::new() }
    }
}

impl<S: Session> Upgrade<S> {
    /// What a handler without an `on_upgrade` of its own decides.
    pub(crate) fn by_default() -> Self {
        S::initial().map_or_else(
            || {
                log::error!(
                    "a handler whose session has no default needs an on_upgrade that accepts"
                );
                Self::failed()
            },
            Self::accept,
        )
    }
}

impl<S> From<Response> for Upgrade<S> {
    /// A rejection with this answer.
    fn from(response: Response) -> Self {
        Self::new(Decision::Reject(response))
    }
}

impl<S> fmt::Debug for Upgrade<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut upgrade = f.debug_struct("Upgrade");
        match &self.decision {
            Decision::Accept(_) => upgrade.field("status", &101),
            Decision::Reject(response) => upgrade.field("status", &response.status),
            Decision::Defer(_) => upgrade.field("status", &"deferred"),
        };
        upgrade
            .field("subprotocol", &self.subprotocol)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}
