//! Connections that another server has accepted and upgraded.
//!
//! Comes in: what was agreed on with the client. Goes out: nothing but words; the sockets are
//! the drivers' affair and the handing over is the worker's.

use std::fmt;
use std::io;

use crate::driver::ConnectedSocket;
use crate::protocol::upgrade::is_token;
use crate::protocol::{Deflate, DeflateParameters};

/// What another server and a client have agreed on in the opening handshake, for
/// [`Handle::adopt`](crate::Handle::adopt).
///
/// ```
/// use wirelane::Negotiated;
///
/// let negotiated = Negotiated::new("/chat").subprotocol("chat.v2");
/// # let _ = negotiated;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "give it to `Handle::adopt`"]
pub struct Negotiated {
    pub(crate) path: String,
    pub(crate) subprotocol: Option<String>,
    pub(crate) deflate: Option<(Deflate, DeflateParameters)>,
}

impl Negotiated {
    /// No subprotocol and no extension. The route is the one that would answer a request for this
    /// path; from a `?` on it is not looked at. It need not be the path that the client asked for.
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), subprotocol: None, deflate: None }
    }

    /// The client was told this subprotocol (RFC 6455 1.9). It need not be in the list of the
    /// route.
    pub fn subprotocol(mut self, name: impl Into<String>) -> Self {
        self.subprotocol = Some(name.into());
        self
    }

    /// The client was told permessage-deflate with these parameters (RFC 7692 7.1). The settings
    /// are those of this connection, whatever the route's are. A handler with
    /// [`Handler::STREAM`](crate::Handler::STREAM) cannot have it.
    pub fn deflate(mut self, settings: Deflate, agreed: DeflateParameters) -> Self {
        self.deflate = Some((settings, agreed));
        self
    }

    /// Says what is impossible about it; `streams` if the route's handler takes messages in parts.
    pub(crate) fn check(&self, streams: bool) -> Result<(), AdoptError> {
        if !self.subprotocol.as_deref().is_none_or(is_token) {
            return Err(AdoptError::InvalidSubprotocol);
        }
        match &self.deflate {
            Some((settings, agreed)) => {
                let windows = (9..=15).contains(&agreed.server_max_window_bits)
                    && (8..=15).contains(&agreed.client_max_window_bits);
                let possible = settings.is_on() && settings.check().is_ok() && windows && !streams;
                if possible { Ok(()) } else { Err(AdoptError::InvalidDeflate) }
            }
            None => Ok(()),
        }
    }
}

/// Why a connection was not taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdoptError {
    /// `max_connections` are there already.
    Full,
    /// Its address has `max_connections_per_ip` connections already.
    AddressFull,
    /// The server has stopped, or takes no new connections any more.
    Stopped,
    /// No WebSocket route fits the path.
    NoSuchPath,
    /// The route's handler has sessions of another type.
    WrongSession,
    /// The subprotocol is no token (RFC 6455 4.1).
    InvalidSubprotocol,
    /// The compression is switched off in its settings, has an impossible window, or the route's
    /// handler takes messages in parts.
    InvalidDeflate,
    /// Not a connected stream socket (TCP or Unix), or its peer has gone.
    NotConnected,
    /// The operating system refused to set an option of the socket.
    Io(io::ErrorKind),
}

impl fmt::Display for AdoptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the server has as many connections as it may have",
            Self::AddressFull => "this address has as many connections as it may have",
            Self::Stopped => "the server takes no new connections any more",
            Self::NoSuchPath => "no WebSocket route fits the path",
            Self::WrongSession => "the handler of this route has sessions of another type",
            Self::InvalidSubprotocol => "the subprotocol is no token",
            Self::InvalidDeflate => "the compression is not possible on this route",
            Self::NotConnected => "not a connected stream socket",
            Self::Io(kind) => return write!(f, "an option of the socket cannot be set: {kind}"),
        })
    }
}

/// A connection that was not taken over, and why. Dropping it closes the connection.
#[derive(Debug)]
pub struct NotAdopted {
    pub(crate) error: AdoptError,
    pub(crate) socket: ConnectedSocket,
}

impl NotAdopted {
    /// Why.
    pub fn error(&self) -> AdoptError {
        self.error
    }

    /// The socket as it was given, to say a last word on it.
    pub fn into_socket(self) -> ConnectedSocket {
        self.socket
    }
}

impl fmt::Display for NotAdopted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a connection was not adopted: {}", self.error)
    }
}

impl std::error::Error for NotAdopted {}
