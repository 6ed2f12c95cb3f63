//! Plain HTTP answers, and the checks for headers that an application gives.
//!
//! Comes in: status, headers, body. Goes out: a complete response with `Connection: close`,
//! appended to a `Vec<u8>`; on an error not a single byte. It never keeps a connection alive and
//! never adds a Date, for want of a clock: give one as a header (RFC 9110 6.6.1).

use std::fmt;

use super::grammar::{is_field_value, is_token};

/// Why a header that the application gave was not written. Nothing was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidHeader {
    /// The name is no token (RFC 9110 5.1).
    Name,
    /// The value has a control character (CR, LF, NUL, ...), or a blank at one end
    /// (RFC 9110 5.5).
    Value,
    /// A header that this library writes itself, or that would contradict it.
    Reserved,
    /// The subprotocol is not one that the client offered (RFC 6455 4.2.2 step 5.5).
    SubprotocolNotOffered,
    /// A subprotocol to offer is no token, or stands there twice (RFC 6455 4.1).
    Subprotocol,
    /// The host is no host with optional port (RFC 9110 7.2).
    Host,
    /// The request target does not start with `/`, or has a fragment, a blank, a control
    /// character or a character outside ASCII (RFC 9112 3.2.1).
    Target,
    /// The status is not between 200 and 599.
    Status,
}

impl fmt::Display for InvalidHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InvalidHeader::Name => "the header name is not a token",
            InvalidHeader::Value => "the header value has a control character or outer blanks",
            InvalidHeader::Reserved => "the header is reserved for the library",
            InvalidHeader::SubprotocolNotOffered => "the subprotocol was not offered by the client",
            InvalidHeader::Subprotocol => "the subprotocol is not a token or is given twice",
            InvalidHeader::Host => "the host is not a host with optional port",
            InvalidHeader::Target => {
                "the request target does not start with '/', or has a '#', a blank or a character \
                 that is not ASCII"
            }
            InvalidHeader::Status => "the status is not between 200 and 599",
        })
    }
}

impl std::error::Error for InvalidHeader {}

/// Appends a complete plain HTTP response with `Connection: close` and, except for 204 and 304,
/// `Content-Length`. With `head_only` (the request was HEAD) the body is counted but left out.
///
/// ```
/// use wirelane::protocol::upgrade::write_http_response;
///
/// let mut out = Vec::new();
/// write_http_response(&mut out, 200, &[("Content-Type", "text/plain")], b"ok\n", false)?;
/// assert_eq!(
///     out,
///     b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\n\
///       Content-Length: 3\r\n\r\nok\n"
/// );
/// # Ok::<(), wirelane::protocol::upgrade::InvalidHeader>(())
/// ```
///
/// # Errors
///
/// [`InvalidHeader`], with `out` unchanged: a name that is no token, a value with control
/// characters, a status outside 200 to 599, or one of Connection, Content-Length,
/// Transfer-Encoding, which are written here.
pub fn write_http_response(
    out: &mut Vec<u8>,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
    head_only: bool,
) -> Result<(), InvalidHeader> {
    if !(200..=599).contains(&status) {
        return Err(InvalidHeader::Status);
    }
    check_headers(headers, |name| {
        ["Connection", "Content-Length", "Transfer-Encoding"]
            .iter()
            .any(|reserved| name.eq_ignore_ascii_case(reserved))
    })?;
    begin_response(out, status);
    out.extend_from_slice(b"Connection: close\r\n");
    push_headers(out, headers);
    if matches!(status, 204 | 304) {
        // RFC 9110 8.6, 15.3.5, 15.4.5: these end with the head.
        out.extend_from_slice(b"\r\n");
    } else {
        push_body(out, &[body], !head_only);
    }
    Ok(())
}

/// Appends the status line.
pub(crate) fn begin_response(out: &mut Vec<u8>, status: u16) {
    let line = format!("HTTP/1.1 {status} {}\r\n", reason_phrase(status));
    out.extend_from_slice(line.as_bytes());
}

/// Appends header lines that [`check_headers`] accepted.
pub(super) fn push_headers(out: &mut Vec<u8>, headers: &[(&str, &str)]) {
    for (name, value) in headers {
        push_header(out, name, value.as_bytes());
    }
}

/// Appends one header line.
pub(crate) fn push_header(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Appends Content-Length, the empty line and, if wanted, the body.
pub(super) fn push_body(out: &mut Vec<u8>, parts: &[&[u8]], with_body: bool) {
    let body_len: usize = parts.iter().map(|part| part.len()).sum();
    out.extend_from_slice(format!("Content-Length: {body_len}\r\n\r\n").as_bytes());
    if with_body {
        parts.iter().for_each(|part| out.extend_from_slice(part));
    }
}

/// Checks headers that the application gave, so that none of them can end a line or the head.
pub(super) fn check_headers(
    headers: &[(&str, &str)],
    is_reserved: impl Fn(&str) -> bool,
) -> Result<(), InvalidHeader> {
    headers.iter().try_for_each(|(name, value)| check_header(name, value, &is_reserved))
}

/// Checks one of them.
pub(crate) fn check_header(
    name: &str,
    value: &str,
    is_reserved: impl Fn(&str) -> bool,
) -> Result<(), InvalidHeader> {
    if !is_token(name) {
        return Err(InvalidHeader::Name);
    }
    if !is_field_value(value.as_bytes()) {
        return Err(InvalidHeader::Value);
    }
    if is_reserved(name) {
        return Err(InvalidHeader::Reserved);
    }
    Ok(())
}

/// Whether a header belongs to the opening handshake or would give it a body.
pub(super) fn is_handshake_header(name: &str) -> bool {
    const PREFIX: &str = "sec-websocket-";
    ["Connection", "Upgrade", "Content-Length", "Transfer-Encoding"]
        .iter()
        .any(|reserved| name.eq_ignore_ascii_case(reserved))
        || name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// The phrase that RFC 9110 15 and RFC 6585 give a status; empty for others, as RFC 9112 4
/// allows.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        511 => "Network Authentication Required",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(status: u16, headers: &[(&str, &str)], body: &[u8], head_only: bool) -> String {
        let mut out = Vec::new();
        write_http_response(&mut out, status, headers, body, head_only).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn response_has_headers_in_order_and_its_length() {
        assert_eq!(
            text(503, &[("Retry-After", "1"), ("X", "")], b"later", false),
            "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nX: \r\n\
             Content-Length: 5\r\n\r\nlater"
        );
        assert!(text(599, &[], b"", false).starts_with("HTTP/1.1 599 \r\n"));
    }

    #[test]
    fn answer_to_head_and_statuses_without_content_have_no_body() {
        assert!(text(200, &[], b"body", true).ends_with("\r\nContent-Length: 4\r\n\r\n"));
        for status in [204, 304] {
            let response = text(status, &[], b"body", false);
            assert!(response.ends_with("\r\nConnection: close\r\n\r\n"), "{response}");
            assert!(!response.contains("Content-Length"), "{response}");
        }
    }

    #[test]
    fn headers_of_the_application_cannot_split_the_response() {
        let cases: [(&str, &str, InvalidHeader); 12] = [
            ("", "a", InvalidHeader::Name),
            ("a b", "a", InvalidHeader::Name),
            ("a:", "a", InvalidHeader::Name),
            ("a\r\nb", "a", InvalidHeader::Name),
            ("\u{e9}", "a", InvalidHeader::Name),
            ("a", "b\r\nc: d", InvalidHeader::Value),
            ("a", "b\nc", InvalidHeader::Value),
            ("a", "b\rc", InvalidHeader::Value),
            ("a", "\0", InvalidHeader::Value),
            ("a", " b", InvalidHeader::Value),
            ("content-length", "1", InvalidHeader::Reserved),
            ("CONNECTION", "keep-alive", InvalidHeader::Reserved),
        ];
        for (name, value, expected) in cases {
            let mut out = b"before".to_vec();
            let headers = [("Fine", "1"), (name, value)];
            let result = write_http_response(&mut out, 200, &headers, b"", false);
            assert_eq!(result, Err(expected), "{name:?}: {value:?}");
            assert_eq!(out, b"before");
        }
    }

    #[test]
    fn only_final_statuses_are_written() {
        for status in [0, 99, 101, 199, 600, 1000] {
            let mut out = Vec::new();
            let result = write_http_response(&mut out, status, &[], b"", false);
            assert_eq!((result, out.len()), (Err(InvalidHeader::Status), 0), "{status}");
        }
    }

    #[test]
    fn handshake_headers_are_recognised() {
        for name in
            ["upgrade", "Connection", "SEC-WebSocket-Accept", "sec-websocket-", "Content-Length"]
        {
            assert!(is_handshake_header(name), "{name}");
        }
        for name in ["Origin", "Set-Cookie", "sec-websocket", "Sec-Fetch-Mode", ""] {
            assert!(!is_handshake_header(name), "{name}");
        }
    }
}
