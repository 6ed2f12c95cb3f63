//! The client's side of the opening handshake (RFC 6455 4.1).
//!
//! Comes in: where to connect, 16 random bytes, and then the bytes of the response in pieces of
//! any size. Goes out: the request, and what was agreed on, or the exact reason why the connection
//! must not be used. It never draws random numbers, follows no redirect and offers no extension
//! but permessage-deflate.

use std::fmt;
use std::mem::MaybeUninit;

use super::MAX_HEADERS;
use super::accept_key::{AcceptKey, KEY_LEN, key_of_nonce};
use super::grammar::{is_token, list_elements};
use super::head::HeadScanner;
use super::negotiate::extensions_in;
use super::permessage_deflate;
use super::response::{
    InvalidHeader, check_headers, is_handshake_header, push_header, push_headers,
};
use super::target::{Target, is_authority};
use crate::protocol::{Deflate, DeflateParameters, Limits};

/// One opening handshake of a client: first [`write_request`](Self::write_request), then
/// [`read_response`](Self::read_response) until it answers.
///
/// ```
/// use wirelane::protocol::Limits;
/// use wirelane::protocol::upgrade::ClientHandshake;
///
/// // Sixteen bytes that nobody can predict, new for every connection.
/// let nonce = *b"the sample nonce";
/// let mut handshake = ClientHandshake::new(nonce);
/// let mut out = Vec::new();
/// handshake.write_request("example.com", "/chat", &["wamp"], &[], &mut out).unwrap();
/// assert!(out.starts_with(b"GET /chat HTTP/1.1\r\nHost: example.com\r\n"));
///
/// let response = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
///     Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
///     Sec-WebSocket-Protocol: wamp\r\n\r\n";
/// let limits = Limits::new();
/// assert_eq!(handshake.read_response(&response[..40], &limits)?, None);
/// let established = handshake.read_response(response, &limits)?.unwrap();
/// assert_eq!(established.head_len, response.len());
/// assert_eq!(established.subprotocol.as_deref(), Some("wamp"));
/// # Ok::<(), wirelane::protocol::upgrade::HandshakeError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClientHandshake {
    key: [u8; KEY_LEN],
    offered: Vec<String>,
    deflate: Deflate,
    scanner: HeadScanner,
}

/// The server agreed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Established {
    /// Length of the response head, in bytes. What follows it are frames.
    pub head_len: usize,
    /// The subprotocol that the server chose, one of those offered.
    pub subprotocol: Option<String>,
    /// The parameters of permessage-deflate, if the server accepted it: for
    /// [`Endpoint::with_deflate`](crate::protocol::Endpoint::with_deflate).
    pub deflate: Option<DeflateParameters>,
}

/// Why the response of the server does not establish a connection (RFC 6455 4.1). The client
/// must close it and send nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The response head is longer than the limit.
    HeadTooLarge,
    /// The response has more header lines than the limit.
    TooManyHeaders,
    /// What came is no HTTP/1 response head (RFC 9112).
    MalformedResponse,
    /// The response is HTTP/1.0, which knows no upgrade.
    HttpVersion,
    /// A status other than 101.
    Status(u16),
    /// Upgrade is missing or not `websocket`.
    Upgrade,
    /// Connection does not list `upgrade`.
    Connection,
    /// Sec-WebSocket-Accept is missing.
    MissingAccept,
    /// More than one Sec-WebSocket-Accept (RFC 6455 11.3.3).
    RepeatedAccept,
    /// Sec-WebSocket-Accept does not belong to the key that was sent.
    WrongAccept,
    /// The server wants an extension that was not offered.
    UnexpectedExtension,
    /// The server accepted permessage-deflate with parameters that are not valid or not what was
    /// offered, or twice (RFC 7692 7.1).
    InvalidDeflate,
    /// The server chose a subprotocol that was not offered.
    UnexpectedSubprotocol,
    /// More than one Sec-WebSocket-Protocol (RFC 6455 11.3.4).
    RepeatedSubprotocol,
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HandshakeError::HeadTooLarge => "the response head is too large",
            HandshakeError::TooManyHeaders => "the response has too many header lines",
            HandshakeError::MalformedResponse => "the response is not an HTTP/1 response",
            HandshakeError::HttpVersion => "the response is not HTTP/1.1",
            HandshakeError::Status(status) => {
                return write!(f, "the server answered with status {status} instead of 101");
            }
            HandshakeError::Upgrade => "Upgrade is not websocket",
            HandshakeError::Connection => "Connection does not list upgrade",
            HandshakeError::MissingAccept => "Sec-WebSocket-Accept is missing",
            HandshakeError::RepeatedAccept => "Sec-WebSocket-Accept is given more than once",
            HandshakeError::WrongAccept => "Sec-WebSocket-Accept does not belong to the key sent",
            HandshakeError::UnexpectedExtension => "the server wants an extension not offered",
            HandshakeError::InvalidDeflate => "the server's permessage-deflate is not the offer's",
            HandshakeError::UnexpectedSubprotocol => "the server chose a subprotocol not offered",
            HandshakeError::RepeatedSubprotocol => "the server chose more than one subprotocol",
        })
    }
}

impl std::error::Error for HandshakeError {}

impl ClientHandshake {
    /// A handshake with this nonce, which must be random and new for each connection
    /// (RFC 6455 4.1 item 7).
    pub fn new(nonce: [u8; 16]) -> Self {
        ClientHandshake {
            key: key_of_nonce(&nonce),
            offered: Vec::new(),
            deflate: Deflate::off(),
            scanner: HeadScanner::for_response(),
        }
    }

    /// Has the request offer permessage-deflate (RFC 7692) with these settings;
    /// [`Established::deflate`] says what the server made of it. Call it before
    /// [`write_request`](Self::write_request).
    pub fn offer_deflate(&mut self, settings: Deflate) {
        self.deflate = settings;
    }

    /// Appends the request, and remembers which subprotocols it offers, the preferred one first.
    /// Origin, Cookie or Authorization go into `extra_headers`. `host` has its port unless that is
    /// the default one of the scheme; `target` is path and query.
    ///
    /// # Errors
    ///
    /// [`InvalidHeader`], with `out` unchanged: an invalid host, target or subprotocol, or a
    /// header that is malformed or belongs to the handshake (Host, Upgrade, Connection,
    /// Sec-WebSocket-*, Content-Length, Transfer-Encoding).
    pub fn write_request(
        &mut self,
        host: &str,
        target: &str,
        subprotocols: &[&str],
        extra_headers: &[(&str, &str)],
        out: &mut Vec<u8>,
    ) -> Result<(), InvalidHeader> {
        if !is_authority(host.as_bytes()) {
            return Err(InvalidHeader::Host);
        }
        if !target.starts_with('/') || Target::split("GET", target).is_none() {
            return Err(InvalidHeader::Target);
        }
        // RFC 6455 4.1 item 10: the elements MUST be unique tokens.
        for (index, subprotocol) in subprotocols.iter().enumerate() {
            if !is_token(subprotocol) || subprotocols[..index].contains(subprotocol) {
                return Err(InvalidHeader::Subprotocol);
            }
        }
        check_headers(extra_headers, |name| {
            is_handshake_header(name) || name.eq_ignore_ascii_case("Host")
        })?;

        for part in ["GET ", target, " HTTP/1.1\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        push_header(out, "Host", host.as_bytes());
        push_header(out, "Upgrade", b"websocket");
        push_header(out, "Connection", b"Upgrade");
        push_header(out, "Sec-WebSocket-Key", &self.key);
        push_header(out, "Sec-WebSocket-Version", b"13");
        if !subprotocols.is_empty() {
            push_header(out, "Sec-WebSocket-Protocol", subprotocols.join(", ").as_bytes());
        }
        if let Some(offer) = permessage_deflate::offer(&self.deflate) {
            push_header(out, "Sec-WebSocket-Extensions", offer.as_bytes());
        }
        push_headers(out, extra_headers);
        out.extend_from_slice(b"\r\n");
        self.offered = subprotocols.iter().map(|&subprotocol| subprotocol.into()).collect();
        Ok(())
    }

    /// Looks at the bytes of the response that are new since the last call; `bytes` starts with
    /// the first byte of the response, each time. `None`: the head is not complete yet.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`], as soon as it is certain. The same bytes give the same error, in
    /// whatever pieces they came.
    pub fn read_response(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<Option<Established>, HandshakeError> {
        let scanned = self.scanner.scan(bytes, limits).map_err(HandshakeError::of_head)?;
        match scanned {
            Some(head_len) => self.check(&bytes[..head_len]).map(Some),
            None => Ok(None),
        }
    }

    /// RFC 6455 4.1, the numbered list behind "the client MUST validate the server's response".
    fn check(&self, head: &[u8]) -> Result<Established, HandshakeError> {
        let mut table = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut response,
            head,
            &mut table,
        );
        let (Ok(httparse::Status::Complete(_)), Some(status)) = (parsed, response.code) else {
            return Err(HandshakeError::MalformedResponse);
        };
        if status != 101 {
            return Err(HandshakeError::Status(status));
        }
        if response.version != Some(1) {
            return Err(HandshakeError::HttpVersion);
        }
        let values = |name: &'static str| {
            let named = response.headers.iter();
            named.filter(move |line| line.name.eq_ignore_ascii_case(name)).map(|line| line.value)
        };
        // RFC 6455 4.1(2): nothing but "websocket".
        let mut upgrades = values("Upgrade").flat_map(list_elements).peekable();
        if upgrades.peek().is_none() || !upgrades.all(|it| it.eq_ignore_ascii_case(b"websocket")) {
            return Err(HandshakeError::Upgrade);
        }
        // RFC 6455 4.1(3): "upgrade" among others.
        let mut options = values("Connection").flat_map(list_elements);
        if !options.any(|option| option.eq_ignore_ascii_case(b"upgrade")) {
            return Err(HandshakeError::Connection);
        }
        // RFC 6455 4.1(4)
        let mut accepts = values("Sec-WebSocket-Accept");
        match (accepts.next(), accepts.next()) {
            (None, _) => return Err(HandshakeError::MissingAccept),
            (Some(_), Some(_)) => return Err(HandshakeError::RepeatedAccept),
            (Some(value), None) if value != AcceptKey::of(&self.key).as_bytes() => {
                return Err(HandshakeError::WrongAccept);
            }
            (Some(_), None) => {}
        }
        // RFC 6455 4.1(5)
        let mut deflate = None;
        for line in values("Sec-WebSocket-Extensions") {
            let extensions = extensions_in(line).ok_or(HandshakeError::MalformedResponse)?;
            for extension in extensions {
                if !self.deflate.is_on() || extension.name() != permessage_deflate::NAME {
                    return Err(HandshakeError::UnexpectedExtension);
                }
                let accepted = permessage_deflate::accepted(&extension, &self.deflate)
                    .ok_or(HandshakeError::InvalidDeflate)?;
                // RFC 7692 5: what was offered once is accepted once.
                if deflate.replace(accepted).is_some() {
                    return Err(HandshakeError::InvalidDeflate);
                }
            }
        }
        // RFC 6455 4.1(6)
        let mut chosen = values("Sec-WebSocket-Protocol");
        let subprotocol = match (chosen.next(), chosen.next()) {
            (None, _) => None,
            (Some(_), Some(_)) => return Err(HandshakeError::RepeatedSubprotocol),
            (Some(value), None) => {
                let offered = self.offered.iter().find(|offered| offered.as_bytes() == value);
                Some(offered.ok_or(HandshakeError::UnexpectedSubprotocol)?.clone())
            }
        };
        Ok(Established { head_len: head.len(), subprotocol, deflate })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits::new();
    const VALID: [&str; 3] = [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
    ];

    /// A client that offered `soap` and `wamp`.
    fn client() -> ClientHandshake {
        let mut client = ClientHandshake::new(*b"the sample nonce");
        client.write_request("a", "/", &["soap", "wamp"], &[], &mut Vec::new()).unwrap();
        client
    }

    fn response(status_line: &str, lines: &[&str]) -> Vec<u8> {
        format!("{status_line}\r\n{}\r\n\r\n", lines.join("\r\n")).into_bytes()
    }

    /// The answer to a valid response in which the lines beginning with `instead_of` are replaced.
    fn read_with(
        instead_of: &str,
        replacements: &[&str],
    ) -> Result<Option<Established>, HandshakeError> {
        let kept = VALID.iter().filter(|it| instead_of.is_empty() || !it.starts_with(instead_of));
        let lines: Vec<&str> = kept.chain(replacements).copied().collect();
        client().read_response(&response("HTTP/1.1 101 Switching Protocols", &lines), &LIMITS)
    }

    #[test]
    fn request_is_that_of_the_rfc() {
        let mut out = Vec::new();
        let mut client = ClientHandshake::new(*b"the sample nonce");
        let origin = [("Origin", "http://example.com")];
        client
            .write_request("server.example.com", "/chat", &["chat", "superchat"], &origin, &mut out)
            .unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat, superchat\r\n\
             Origin: http://example.com\r\n\r\n"
        );
    }

    #[test]
    fn invalid_requests_are_not_written() {
        for (host, target, subprotocols, header, expected) in [
            ("", "/", &[][..], ("A", "b"), InvalidHeader::Host),
            ("a\r\nb", "/", &[], ("A", "b"), InvalidHeader::Host),
            ("u@a", "/", &[], ("A", "b"), InvalidHeader::Host),
            ("a", "", &[], ("A", "b"), InvalidHeader::Target),
            ("a", "/ HTTP/1.1\r\nX: y", &[], ("A", "b"), InvalidHeader::Target),
            ("a", "/#b", &[], ("A", "b"), InvalidHeader::Target),
            ("a", "http://a/", &[], ("A", "b"), InvalidHeader::Target),
            ("a", "/", &["b c"], ("A", "b"), InvalidHeader::Subprotocol),
            ("a", "/", &[""], ("A", "b"), InvalidHeader::Subprotocol),
            ("a", "/", &["b", "c", "b"], ("A", "b"), InvalidHeader::Subprotocol),
            ("a", "/", &[], ("A\n", "b"), InvalidHeader::Name),
            ("a", "/", &[], ("A", "\r\n"), InvalidHeader::Value),
            ("a", "/", &[], ("host", "b"), InvalidHeader::Reserved),
            ("a", "/", &[], ("Sec-WebSocket-Extensions", "b"), InvalidHeader::Reserved),
        ] {
            let mut out = Vec::new();
            let mut client = ClientHandshake::new([0; 16]);
            let result = client.write_request(host, target, subprotocols, &[header], &mut out);
            assert_eq!((result, out.len()), (Err(expected), 0), "{host:?} {target:?}");
        }
    }

    #[test]
    fn valid_responses_establish() {
        let none = |established: Option<Established>| established.map(|it| it.subprotocol);
        assert_eq!(read_with("", &[]).map(none), Ok(Some(None)));
        assert_eq!(read_with("Upgrade", &["UPGRADE:\tWebSocket"]).map(none), Ok(Some(None)));
        let options = &["Connection: keep-alive", "connection: x,UPGRADE"];
        assert_eq!(read_with("Connection", options).map(none), Ok(Some(None)));
        let chosen = read_with("", &["Sec-WebSocket-Protocol: wamp"]).unwrap().unwrap();
        assert_eq!(chosen.subprotocol.as_deref(), Some("wamp"));
    }

    #[test]
    fn bytes_behind_the_head_are_frames() {
        let head = response("HTTP/1.1 101 ", &VALID);
        let bytes = [&head[..], b"\x81\x02hi\r\n\r\n"].concat();
        let established = client().read_response(&bytes, &LIMITS).unwrap().unwrap();
        assert_eq!(established.head_len, head.len());
    }

    #[test]
    fn every_failure_has_its_own_error() {
        let accept = "Sec-WebSocket-Accept";
        let protocol = "Sec-WebSocket-Protocol: wamp";
        for (instead_of, replacements, expected) in [
            ("Upgrade", &[][..], HandshakeError::Upgrade),
            ("Upgrade", &["Upgrade: h2c"], HandshakeError::Upgrade),
            ("Upgrade", &["Upgrade: websocket, h2c"], HandshakeError::Upgrade),
            ("Upgrade", &["Upgrade:"], HandshakeError::Upgrade),
            ("Connection", &[], HandshakeError::Connection),
            ("Connection", &["Connection: keep-alive"], HandshakeError::Connection),
            (accept, &[], HandshakeError::MissingAccept),
            ("", &[VALID[2]], HandshakeError::RepeatedAccept),
            (accept, &["Sec-WebSocket-Accept:"], HandshakeError::WrongAccept),
            (
                accept,
                &["Sec-WebSocket-Accept: S3pPLMBiTxaQ9kYGzzhZRbK+xOo="],
                HandshakeError::WrongAccept,
            ),
            (
                "",
                &["Sec-WebSocket-Extensions: permessage-deflate"],
                HandshakeError::UnexpectedExtension,
            ),
            ("", &["Sec-WebSocket-Protocol: mqtt"], HandshakeError::UnexpectedSubprotocol),
            ("", &["Sec-WebSocket-Protocol: WAMP"], HandshakeError::UnexpectedSubprotocol),
            ("", &["Sec-WebSocket-Protocol: soap, wamp"], HandshakeError::UnexpectedSubprotocol),
            ("", &["Sec-WebSocket-Protocol:"], HandshakeError::UnexpectedSubprotocol),
            ("", &[protocol, protocol], HandshakeError::RepeatedSubprotocol),
            ("", &["a b"], HandshakeError::MalformedResponse),
            ("", &["a : b"], HandshakeError::MalformedResponse),
            ("", &["a: b\nc: d"], HandshakeError::MalformedResponse),
            ("", &["a: b\r\n c"], HandshakeError::MalformedResponse),
        ] {
            let result = read_with(instead_of, replacements);
            assert_eq!(result, Err(expected), "{instead_of} {replacements:?}");
        }
    }

    #[cfg(feature = "deflate")]
    #[test]
    fn compression_is_offered_and_the_answer_is_checked() {
        let (shared, wide, narrow) =
            (Deflate::shared(), Deflate::dedicated(15), Deflate::dedicated(10));
        let both = "; server_no_context_takeover; client_no_context_takeover";
        for (settings, parameters) in [
            (shared, format!("{both}; client_max_window_bits")),
            (wide, "; client_max_window_bits".to_owned()),
            (narrow, "; server_max_window_bits=10; client_max_window_bits=10".to_owned()),
        ] {
            let mut out = Vec::new();
            let mut client = ClientHandshake::new([0; 16]);
            client.offer_deflate(settings);
            client.write_request("a", "/", &[], &[], &mut out).unwrap();
            let line = format!("\r\nSec-WebSocket-Extensions: permessage-deflate{parameters}\r\n");
            assert!(String::from_utf8(out).unwrap().contains(&line), "{line}");
        }

        let invalid = || Err(HandshakeError::InvalidDeflate);
        for (settings, answer, expected) in [
            (shared, "permessage-deflate; server_no_context_takeover", Ok((true, false, 15, 15))),
            (wide, "permessage-deflate", Ok((false, false, 15, 15))),
            (wide, &format!("permessage-deflate{both}"), Ok((true, true, 15, 15))),
            (
                wide,
                "permessage-deflate; server_max_window_bits=9; client_max_window_bits=8",
                Ok((false, false, 9, 8)),
            ),
            (narrow, "permessage-deflate; server_max_window_bits=9", Ok((false, false, 9, 10))),
            // What was asked for is not there.
            (shared, "permessage-deflate", invalid()),
            (narrow, "permessage-deflate", invalid()),
            (narrow, "permessage-deflate; server_max_window_bits=11", invalid()),
            // More than was offered.
            (
                narrow,
                "permessage-deflate; server_max_window_bits=10; client_max_window_bits=11",
                invalid(),
            ),
            // Not valid at all.
            (wide, "permessage-deflate; client_max_window_bits", invalid()),
            (wide, "permessage-deflate; client_max_window_bits=16", invalid()),
            (wide, "permessage-deflate; server_max_window_bits", invalid()),
            (wide, "permessage-deflate; unknown", invalid()),
            (wide, "permessage-deflate, permessage-deflate", invalid()),
            (wide, "permessage-bzip2", Err(HandshakeError::UnexpectedExtension)),
        ] {
            let mut client = client();
            client.offer_deflate(settings);
            let answer = format!("Sec-WebSocket-Extensions: {answer}");
            let lines = [&VALID[..], &[&answer]].concat();
            let head = response("HTTP/1.1 101 Switching Protocols", &lines);
            let agreed = client.read_response(&head, &LIMITS).map(|established| {
                let agreed = established.unwrap().deflate.unwrap();
                (
                    agreed.server_no_context_takeover,
                    agreed.client_no_context_takeover,
                    agreed.server_max_window_bits,
                    agreed.client_max_window_bits,
                )
            });
            assert_eq!(agreed, expected, "{settings:?} {answer}");
        }
    }

    #[test]
    fn status_line_is_checked() {
        let read = |line: &str| client().read_response(&response(line, &VALID), &LIMITS);
        for status in [100, 200, 301, 401, 426, 503] {
            let result = read(&format!("HTTP/1.1 {status} x"));
            assert_eq!(result, Err(HandshakeError::Status(status)));
        }
        assert_eq!(read("HTTP/1.0 101 x"), Err(HandshakeError::HttpVersion));
        for line in ["", "HTTP/2 101", "http/1.1 101 x", "HTTP/1.1 1x1 x", "HTTP/1.1", "SSH-2.0"] {
            assert_eq!(read(line), Err(HandshakeError::MalformedResponse), "{line:?}");
        }
    }

    #[test]
    fn what_is_not_http_is_noticed_at_once() {
        let result = client().read_response(b"SSH-", &LIMITS);
        assert_eq!(result, Err(HandshakeError::MalformedResponse));
        let result = client().read_response(b"HTTP/1.1 101 x\n", &LIMITS);
        assert_eq!(result, Err(HandshakeError::MalformedResponse));
    }

    #[test]
    fn response_heads_are_limited() {
        let head = response("HTTP/1.1 101 x", &VALID);
        let limits = LIMITS.max_head(head.len() as u32);
        assert!(client().read_response(&head, &limits).is_ok_and(|it| it.is_some()));
        let limits = LIMITS.max_head(head.len() as u32 - 1);
        assert_eq!(client().read_response(&head, &limits), Err(HandshakeError::HeadTooLarge));
        let limits = LIMITS.max_headers(2);
        assert_eq!(client().read_response(&head, &limits), Err(HandshakeError::TooManyHeaders));
    }
}
