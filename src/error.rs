//! The public words for failure. Three families that never mix: the peer broke the protocol
//! ([`ProtocolError`](crate::protocol::ProtocolError)), a connection ended ([`CloseCause`]), the
//! caller asked for something impossible ([`Error`] when starting, [`SendError`] later).

use std::fmt;
use std::io;

use crate::protocol::ProtocolError;

/// Why a server could not be built, started or kept running.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A setting of the builder is impossible.
    Config {
        /// The builder method that set it.
        field: &'static str,
        /// What is wrong with it and what to write instead.
        reason: String,
    },
    /// An address could not be bound.
    Listen {
        /// The address as it was given.
        address: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The chosen driver cannot run here; the source says which kernel feature is missing.
    Driver {
        /// `"epoll"` or `"io_uring"`.
        driver: &'static str,
        /// What is missing.
        source: io::Error,
    },
    /// The operating system failed a running worker.
    Worker {
        /// Number of the worker, from 0.
        worker: u16,
        /// What it said.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn config(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Config { field, reason: reason.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config { field, reason } => write!(f, "setting `{field}`: {reason}"),
            Self::Listen { address, source } => write!(f, "cannot listen on {address}: {source}"),
            Self::Driver { driver, source } => {
                write!(f, "the {driver} driver cannot start: {source}")
            }
            Self::Worker { worker, source } => write!(f, "worker {worker} failed: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config { .. } => None,
            Self::Listen { source, .. }
            | Self::Driver { source, .. }
            | Self::Worker { source, .. } => Some(source),
        }
    }
}

/// Why something could not be sent to a connection named by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The connection has gone or is closing. Its slot may have a new tenant, who got nothing.
    Gone,
    /// The connection's outgoing queue would pass `max_backpressure`, or those of its worker
    /// together `max_worker_backpressure`; the message was not queued.
    Full,
    /// The mailbox of the connection's worker is full; the message was not queued.
    MailboxFull,
    /// The server has stopped.
    Stopped,
    /// A message to a connection to which one is sent in fragments that is not finished; or a
    /// fragment that does not continue one, or is of the other kind (RFC 6455 5.4). Nothing was
    /// queued.
    OutOfOrder,
    /// The server has no worker of this number.
    NoSuchWorker,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "the connection has gone",
            Self::Full => "the connection's outgoing queue is full",
            Self::MailboxFull => "the worker's mailbox is full",
            Self::Stopped => "the server has stopped",
            Self::OutOfOrder => "the fragments of another message are not complete",
            Self::NoSuchWorker => "the server has no such worker",
        })
    }
}

impl std::error::Error for SendError {}

/// What ended a connection; see [`Close`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseCause {
    /// The peer started the close handshake (RFC 6455 7.1.2) and it was answered.
    Peer,
    /// This side started the close handshake, and the peer answered.
    Local,
    /// The peer broke the protocol and was told so with [`ProtocolError::close_code`].
    Protocol(ProtocolError),
    /// The peer ended the TCP connection without a close handshake.
    Ended,
    /// The socket failed, most often by a reset.
    Io(io::ErrorKind),
    /// The peer broke TLS: a record was forged or damaged, or it sent a fatal alert.
    Tls,
    /// Nothing came from the peer for `idle_timeout`.
    IdleTimeout,
    /// The peer did not answer a ping within `pong_timeout`, nor sent anything else.
    PongTimeout,
    /// The peer took none of the queued bytes for `write_timeout`.
    WriteTimeout,
    /// The peer did not answer our Close within `close_timeout`.
    CloseTimeout,
    /// The application called [`WebSocket::terminate`](crate::WebSocket::terminate).
    Terminated,
    /// The server stopped before the peer answered the Close.
    Shutdown,
    /// The handler panicked; the peer was sent 1011.
    HandlerPanicked,
}

impl fmt::Display for CloseCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Peer => "closed by the peer",
            Self::Local => "closed by this side",
            Self::Protocol(error) => return write!(f, "protocol error: {error}"),
            Self::Ended => "ended by the peer without a close handshake",
            Self::Io(kind) => return write!(f, "the socket failed: {kind}"),
            Self::Tls => "the peer broke TLS",
            Self::IdleTimeout => "idle timeout",
            Self::PongTimeout => "pong timeout",
            Self::WriteTimeout => "write timeout",
            Self::CloseTimeout => "close timeout",
            Self::Terminated => "terminated by this side",
            Self::Shutdown => "server shut down",
            Self::HandlerPanicked => "the handler panicked",
        })
    }
}

/// How a connection ended, as [`Handler::on_close`](crate::Handler::on_close) learns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Close<'a> {
    /// The close code that the peer sent, or that was sent to it if it sent none: 1005 for a
    /// Close without a code, 1006 if no Close came (RFC 6455 7.1.5).
    pub code: u16,
    /// The reason that came with it; empty if there was none. At most 123 bytes.
    pub reason: &'a str,
    /// What ended the connection.
    pub cause: CloseCause,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_displayed_for_log_lines() {
        let broken = CloseCause::Protocol(ProtocolError::UnmaskedFrame);
        assert_eq!(broken.to_string(), "protocol error: frame not masked");
        let reset = CloseCause::Io(io::ErrorKind::ConnectionReset);
        assert_eq!(reset.to_string(), "the socket failed: connection reset");
        assert_eq!(CloseCause::Peer.to_string(), "closed by the peer");
    }
}
