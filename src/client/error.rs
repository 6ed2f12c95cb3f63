//! The one error type of the client's side.

use std::fmt;
use std::io;

use crate::protocol::ProtocolError;
use crate::protocol::upgrade::{HandshakeError, InvalidHeader};

/// Why a client could not connect, send or receive.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// The address is not one.
    Url {
        /// The address as it was given.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The settings of compression are impossible; the text says which.
    Deflate(&'static str),
    /// A header, subprotocol or target of the builder cannot be sent.
    Request(InvalidHeader),
    /// The operating system could not connect, read or write.
    Io(io::Error),
    /// The time of the builder's timeout is over.
    TimedOut,
    /// TLS cannot be set up, or the server failed to show who it is: what is wrong, in words.
    Tls(String),
    /// The server answered the request, but not as a WebSocket server would.
    Handshake(HandshakeError),
    /// The server broke a rule of RFC 6455; it was told with [`ProtocolError::close_code`].
    Protocol(ProtocolError),
    /// The server ended the TCP connection without a Close (1006 in RFC 6455 7.1.5).
    Ended,
    /// The connection was closed before.
    Closed,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url { url, reason } => write!(f, "cannot connect to {url:?}: {reason}"),
            Self::Deflate(problem) => write!(f, "compression is impossible: {problem}"),
            Self::Request(error) => write!(f, "the request cannot be sent: {error}"),
            Self::Io(error) => write!(f, "the connection failed: {error}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Tls(reason) => write!(f, "TLS failed: {reason}"),
            Self::Handshake(error) => write!(f, "the opening handshake failed: {error}"),
            Self::Protocol(error) => write!(f, "the server broke the protocol: {error}"),
            Self::Ended => f.write_str("the server ended the connection without a Close"),
            Self::Closed => f.write_str("the connection is closed"),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Request(error) => Some(error),
            Self::Io(error) => Some(error),
            Self::Handshake(error) => Some(error),
            Self::Protocol(error) => Some(error),
            Self::Url { .. }
            | Self::Deflate(_)
            | Self::Tls(_)
            | Self::TimedOut
            | Self::Ended
            | Self::Closed => None,
        }
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Which of the two a socket's own timeout gives depends on the call.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Io(error),
        }
    }
}
