//! Asking an HTTP proxy for a way through (RFC 9110 9.3.6), and reading answers that end a
//! handshake.
//!
//! Comes in: whom to reach, then the bytes of the answer. Goes out: the request, and where the
//! tunnel begins. It never follows a redirect and never answers a challenge.

use std::mem::MaybeUninit;

use super::client::HandshakeError;
use super::head::HeadScanner;
use super::refusal::Refusal;
use super::response::push_header;
use super::{MAX_HEADERS, is_authority};
use crate::protocol::Limits;

/// One CONNECT: first [`write_request`](Self::write_request), then
/// [`read_response`](Self::read_response) until it answers.
#[derive(Clone, Debug)]
pub(crate) struct ProxyHandshake {
    scanner: HeadScanner,
}

impl ProxyHandshake {
    pub(crate) fn new() -> Self {
        Self { scanner: HeadScanner::for_response() }
    }

    /// Appends the request. `authority` is host and port of the server; `authorization` must have
    /// no control characters.
    pub(crate) fn write_request(
        &self,
        authority: &str,
        authorization: Option<&str>,
        out: &mut Vec<u8>,
    ) {
        debug_assert!(is_authority(authority.as_bytes()));
        for part in ["CONNECT ", authority, " HTTP/1.1\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        push_header(out, "Host", authority.as_bytes());
        if let Some(authorization) = authorization {
            push_header(out, "Proxy-Authorization", authorization.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }

    /// As `ClientHandshake::read_response`; gives the length of the head, behind which the tunnel
    /// begins: the answer to CONNECT has no body (RFC 9112 6.3).
    pub(crate) fn read_response(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<Option<usize>, HandshakeError> {
        let scanned = self.scanner.scan(bytes, limits).map_err(HandshakeError::of_head)?;
        let Some(head_len) = scanned else { return Ok(None) };
        let (status, _) = read_head(&bytes[..head_len]).ok_or(HandshakeError::MalformedResponse)?;
        match status {
            200..=299 => Ok(Some(head_len)),
            status => Err(HandshakeError::Status(status)),
        }
    }
}

/// Status and headers of a response head, and its length, if it is complete.
pub(crate) fn read_answer(bytes: &[u8], limits: &Limits) -> Option<(u16, OwnedHeaders, usize)> {
    let head_len = HeadScanner::for_response().scan(bytes, limits).ok()??;
    let (status, headers) = read_head(&bytes[..head_len])?;
    Some((status, headers, head_len))
}

/// Names and values, in order.
pub(crate) type OwnedHeaders = Vec<(String, Vec<u8>)>;

fn read_head(head: &[u8]) -> Option<(u16, OwnedHeaders)> {
    let mut table = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        head,
        &mut table,
    );
    let (Ok(httparse::Status::Complete(_)), Some(status)) = (parsed, response.code) else {
        return None;
    };
    let headers = response.headers.iter();
    Some((status, headers.map(|line| (line.name.to_owned(), line.value.to_vec())).collect()))
}

impl HandshakeError {
    pub(super) fn of_head(refusal: Refusal) -> Self {
        match refusal {
            Refusal::HeadTooLarge => HandshakeError::HeadTooLarge,
            Refusal::TooManyHeaders => HandshakeError::TooManyHeaders,
            _ => HandshakeError::MalformedResponse,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits::new();

    #[test]
    fn the_request_names_the_server_twice() {
        let mut out = Vec::new();
        let proxy = ProxyHandshake::new();
        proxy.write_request("a:80", Some("Basic dTpw"), &mut out);
        assert_eq!(
            out,
            b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nProxy-Authorization: Basic dTpw\r\n\r\n"
        );
    }

    #[test]
    fn the_tunnel_begins_behind_the_head_in_any_cut() {
        let answer = b"HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\nframes";
        let mut proxy = ProxyHandshake::new();
        for end in 0..answer.len() - 6 {
            assert_eq!(proxy.read_response(&answer[..end], &LIMITS), Ok(None), "{end}");
        }
        assert_eq!(proxy.read_response(answer, &LIMITS), Ok(Some(answer.len() - 6)));
    }

    #[test]
    fn whatever_is_not_2xx_is_a_refusal() {
        for (answer, expected) in [
            (&b"HTTP/1.1 407 No\r\n\r\n"[..], HandshakeError::Status(407)),
            (b"HTTP/1.1 301 \r\nLocation: /\r\n\r\n", HandshakeError::Status(301)),
            (b"HTTP/1.1 101 \r\n\r\n", HandshakeError::Status(101)),
            (b"SSH-2.0-x\r\n", HandshakeError::MalformedResponse),
        ] {
            assert_eq!(ProxyHandshake::new().read_response(answer, &LIMITS), Err(expected));
        }
        let long = [b"HTTP/1.1 200 OK\r\nA: ", &[b'a'; 20_000][..]].concat();
        let error = ProxyHandshake::new().read_response(&long, &LIMITS);
        assert_eq!(error, Err(HandshakeError::HeadTooLarge));
    }

    #[test]
    fn answers_are_read_whole_or_not_at_all() {
        let answer = b"HTTP/1.1 401 Who\r\nWWW-Authenticate: Basic\r\nA: \xff\r\n\r\nbody";
        let (status, headers, head_len) = read_answer(answer, &LIMITS).expect("complete");
        assert_eq!((status, head_len), (401, answer.len() - 4));
        assert_eq!(headers[1], ("A".to_owned(), vec![0xff]));
        assert_eq!(read_answer(&answer[..30], &LIMITS), None);
    }
}
