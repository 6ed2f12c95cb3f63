//! What became of a dial: its name, why an attempt failed, what a server answered.
//!
//! In: what the worker found out. Out: words for it. No logic beyond reading an HTTP body's prefix.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::protocol::upgrade::HandshakeError;

/// Names one call of `connect` for ever, over all its attempts and connections. 16 bytes.
///
/// The connection of the moment has a [`ConnectionId`](crate::ConnectionId) of its own, which
/// changes with every reconnect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DialId {
    pub(crate) serial: u64,
    pub(crate) worker: u16,
}

impl DialId {
    /// The worker that the connection lives on, from 0.
    pub const fn worker(self) -> u16 {
        self.worker
    }
}

impl fmt::Display for DialId {
    /// For log lines: `dial 7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dial {}", self.serial)
    }
}

/// Why `connect` did not take a [`Dial`](super::Dial). Nothing was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectError {
    /// A setting of the dial is impossible.
    Invalid {
        /// The method of [`Dial`](super::Dial) that set it.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The worker has 65,536 handlers already.
    TooManyHandlers,
    /// No handler runs here that the connection could belong to: in a closure of
    /// [`Handle::run_on`](crate::Handle::run_on), use
    /// [`WorkerContext::connect_with`](crate::WorkerContext::connect_with).
    NoHandler,
    /// There is no worker of this number, or, inside a handler, it is another worker's.
    NoSuchWorker,
    /// The mailbox of the worker is full.
    MailboxFull,
    /// The workers have stopped.
    Stopped,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid { field, reason } => return write!(f, "setting `{field}`: {reason}"),
            Self::TooManyHandlers => "the worker has 65,536 handlers",
            Self::NoHandler => "no handler runs here that the connection could belong to",
            Self::NoSuchWorker => "there is no such worker here",
            Self::MailboxFull => "the worker's mailbox is full",
            Self::Stopped => "the workers have stopped",
        })
    }
}

impl std::error::Error for ConnectError {}

/// How far an attempt to connect had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DialStage {
    /// Waiting for the addresses of the host.
    Resolving,
    /// Waiting for TCP, or a Unix socket, to connect.
    Connecting,
    /// Waiting for the proxy's answer to CONNECT.
    Tunnel,
    /// Waiting for the TLS handshake.
    Tls,
    /// Waiting for the server's answer (RFC 6455 4.1).
    Handshake,
}

impl fmt::Display for DialStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolving => "looking up the host",
            Self::Connecting => "connecting",
            Self::Tunnel => "waiting for the proxy",
            Self::Tls => "waiting for TLS",
            Self::Handshake => "waiting for the server's answer",
        })
    }
}

/// Why one attempt to connect failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum DialError {
    /// The host has no address, or nobody could be asked.
    Resolve(io::Error),
    /// No address could be connected to; this is what the last one said, for example
    /// [`io::ErrorKind::ConnectionRefused`].
    Connect(io::Error),
    /// [`connect_timeout`](super::Dial::connect_timeout) was over at this stage.
    Timeout(DialStage),
    /// The connection broke at this stage.
    Broken(DialStage, io::Error),
    /// The other side ended the connection at this stage instead of answering.
    Ended(DialStage),
    /// The proxy said no: 407 if it wants other credentials.
    Proxy(Box<DialResponse>),
    /// The proxy's answer is not one.
    ProxyHandshake(HandshakeError),
    /// The server failed to show that it is the one of the URL, or TLS failed otherwise: what is
    /// wrong, in words.
    Tls(String),
    /// The server answered with another status than 101: 401, 404, a redirect, ...
    Refused(Box<DialResponse>),
    /// The server's answer is not that of a WebSocket server, or agrees to what was not offered.
    Handshake(HandshakeError),
    /// The handler's [`on_connect`](crate::Handler::on_connect) gave no session, or panicked.
    Declined,
    /// There are `max_connections` already.
    TooManyConnections,
    /// The application has taken the dial back.
    Cancelled,
    /// The workers stop.
    Stopped,
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve(error) => return write!(f, "the host was not found: {error}"),
            Self::Connect(error) => return write!(f, "cannot connect: {error}"),
            Self::Timeout(stage) => return write!(f, "timed out while {stage}"),
            Self::Broken(stage, error) => return write!(f, "broken while {stage}: {error}"),
            Self::Ended(stage) => return write!(f, "ended by the other side while {stage}"),
            Self::Proxy(response) => {
                return write!(f, "the proxy answered with status {}", response.status);
            }
            Self::ProxyHandshake(error) => return write!(f, "the proxy failed: {error}"),
            Self::Refused(response) => {
                return write!(f, "the server answered with status {}", response.status);
            }
            Self::Handshake(HandshakeError::MalformedResponse) => {
                "the opening handshake failed: the response is not an HTTP/1 response; a server that \
                 speaks TLS wants wss://"
            }
            Self::Handshake(error) => return write!(f, "the opening handshake failed: {error}"),
            Self::Tls(reason) => return write!(f, "TLS failed: {reason}"),
            Self::Declined => "the handler gave no session",
            Self::TooManyConnections => "there are max_connections already",
            Self::Cancelled => "taken back by the application",
            Self::Stopped => "the workers stop",
        })
    }
}

impl std::error::Error for DialError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Resolve(error) | Self::Connect(error) | Self::Broken(_, error) => Some(error),
            Self::ProxyHandshake(error) | Self::Handshake(error) => Some(error),
            _ => None,
        }
    }
}

/// What a server, or a proxy, answered. Its `Debug` shows headers and body as text.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DialResponse {
    /// The status; 101 in [`on_connect`](crate::Handler::on_connect).
    pub status: u16,
    /// Names and values as they were sent, in order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The beginning of the body, at most [`DialResponse::MAX_BODY`] bytes of it. What does not
    /// come within a second is left out.
    pub body: Vec<u8>,
}

impl fmt::Debug for DialResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes| String::from_utf8_lossy(bytes);
        let headers = self.headers.iter().map(|(name, value)| format!("{name}: {}", text(value)));
        f.debug_struct("DialResponse")
            .field("status", &self.status)
            .field("headers", &headers.collect::<Vec<_>>())
            .field("body", &text(&self.body))
            .finish()
    }
}

impl DialResponse {
    /// The most that is kept of a body, in bytes.
    pub const MAX_BODY: usize = 4096;

    /// The first header of this name, compared without regard to case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let mut headers = self.headers.iter();
        headers.find(|(this, _)| this.eq_ignore_ascii_case(name)).map(|(_, value)| &value[..])
    }

    /// The same as text; `None` also if it is no UTF-8.
    pub fn header_text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.header(name)?).ok()
    }

    pub(crate) fn is_chunked(&self) -> bool {
        let coding = self.header("Transfer-Encoding").unwrap_or_default();
        coding.trim_ascii().to_ascii_lowercase().ends_with(b"chunked")
    }

    /// Received bytes behind the head after which nothing of interest follows.
    pub(crate) fn wanted(&self, received: &[u8]) -> usize {
        if matches!(self.status, 204 | 304) {
            return 0;
        }
        if self.is_chunked() {
            // A little more than the body, for the lines between the chunks.
            let complete = received.ends_with(b"0\r\n\r\n");
            return if complete { received.len() } else { 2 * Self::MAX_BODY };
        }
        let len = self.header_text("Content-Length").and_then(|len| len.trim().parse().ok());
        len.unwrap_or(Self::MAX_BODY).min(Self::MAX_BODY)
    }

    /// Takes what was received behind the head as the body.
    pub(crate) fn set_body(&mut self, received: &[u8]) {
        let mut body = if self.is_chunked() { unchunk(received) } else { received.to_vec() };
        body.truncate(Self::MAX_BODY);
        self.body = body;
    }
}

/// What is there of a chunked body (RFC 9112 7.1), without its chunk lines.
fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(line_end) = bytes.windows(2).position(|two| two == b"\r\n") {
        let (line, rest) = (&bytes[..line_end], &bytes[line_end + 2..]);
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = std::str::from_utf8(&line[..digits]).ok();
        let Some(size) = size.and_then(|size| usize::from_str_radix(size, 16).ok()) else { break };
        if size == 0 {
            break;
        }
        body.extend_from_slice(&rest[..size.min(rest.len())]);
        bytes = rest.get(size.saturating_add(2)..).unwrap_or_default();
    }
    body
}

/// Something happened to a [`Dial`](super::Dial), as [`Handler::on_dial`](crate::Handler::on_dial)
/// learns it.
#[derive(Debug)]
#[non_exhaustive]
pub struct DialEvent<'a> {
    /// Which one.
    pub dial: DialId,
    /// Why an attempt failed; `None` if there was a connection and it has ended, which `on_close`
    /// has said more about.
    pub error: Option<&'a DialError>,
    /// Failures in a row, this one included; 0 if the connection was
    /// [stable](super::Reconnect::stable_after).
    pub failures: u32,
    /// When the next attempt begins, from now on; `None` if there will be none: this is the last
    /// that is heard of this dial.
    pub retry_in: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(headers: &[(&str, &str)]) -> DialResponse {
        let headers =
            headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
        DialResponse { status: 401, headers: headers.collect(), body: Vec::new() }
    }

    #[test]
    fn a_body_is_waited_for_as_long_as_it_matters() {
        assert_eq!(response(&[("content-length", "7")]).wanted(b""), 7);
        assert_eq!(response(&[("Content-Length", "99999")]).wanted(b""), 4096);
        assert_eq!(response(&[]).wanted(b""), 4096);
        assert_eq!(DialResponse { status: 304, ..response(&[]) }.wanted(b""), 0);
        let chunked = response(&[("Transfer-Encoding", "gzip, Chunked")]);
        assert_eq!(chunked.wanted(b"3\r\nabc"), 8192);
        assert_eq!(chunked.wanted(b"3\r\nabc\r\n0\r\n\r\n"), 13);
    }

    #[test]
    fn chunk_lines_are_left_out_of_a_body() {
        let mut chunked = response(&[("Transfer-Encoding", "chunked")]);
        for (received, body) in [
            (&b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"[..], &b"abcde"[..]),
            (b"3\r\nab", b"ab"),
            (b"3\r\nabc\r", b"abc"),
            (b"3", b""),
            (b"x\r\nabc", b""),
            (b"ffffffffffffffff\r\nabc", b"abc"),
        ] {
            chunked.set_body(received);
            assert_eq!(chunked.body, body, "{}", received.escape_ascii());
        }
        let mut plain = response(&[]);
        plain.set_body(&[b'a'; 5000]);
        assert_eq!(plain.body.len(), 4096);
    }

    #[test]
    fn errors_are_displayed_for_log_lines() {
        let refused = DialError::Connect(io::ErrorKind::ConnectionRefused.into());
        assert_eq!(refused.to_string(), "cannot connect: connection refused");
        assert_eq!(
            DialError::Timeout(DialStage::Tunnel).to_string(),
            "timed out while waiting for the proxy"
        );
        let refused = DialError::Refused(Box::new(response(&[])));
        assert_eq!(refused.to_string(), "the server answered with status 401");
    }
}
