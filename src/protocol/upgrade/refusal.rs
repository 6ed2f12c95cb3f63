//! Every reason to answer a request with an error, and that answer.
//!
//! Comes in: a [`Refusal`]. Goes out: its status, a short name for counters, and the complete
//! response. Nothing that the peer sent is ever part of it (RFC 6455 10.3: what a server
//! reflects can poison caches between it and the client).

use std::fmt;

use super::response::{begin_response, push_body};

/// Why a request is refused: one variant for each rule, with the status that goes with it.
///
/// ```
/// use wirelane::protocol::upgrade::Refusal;
///
/// let refusal = Refusal::MethodNotAllowed;
/// assert_eq!((refusal.status(), refusal.reason()), (405, "method_not_allowed"));
///
/// let mut out = Vec::new();
/// refusal.write_response(&mut out);
/// let text = String::from_utf8(out).unwrap();
/// assert!(text.starts_with("HTTP/1.1 405 Method Not Allowed\r\nConnection: close\r\n"));
/// assert!(text.contains("\r\nAllow: GET\r\n"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// The request line is not `method SP target SP HTTP/1.x` (RFC 9112 3). 400.
    MalformedRequestLine,
    /// An empty line stands before the request line (RFC 9112 2.2). 400.
    LeadingEmptyLine,
    /// The target is in none of the forms of RFC 9112 3.2, or has a fragment. 400.
    InvalidTarget,
    /// LF without CR (RFC 9112 2.2). 400.
    BareLineFeed,
    /// CR without LF (RFC 9112 2.2). 400.
    BareCarriageReturn,
    /// A line that begins with a blank (RFC 9112 5.2: `obs-fold`). 400.
    FoldedHeader,
    /// NUL or another control character (RFC 9110 5.5). 400.
    ControlCharacter,
    /// A header line without colon, without name, or with a name that is no token
    /// (RFC 9112 5.1). 400.
    MalformedHeader,
    /// Bytes were given as a complete head that are not one. 400.
    IncompleteHead,
    /// HTTP/1.1 without Host (RFC 9112 3.2). 400.
    MissingHost,
    /// More than one Host (RFC 9112 3.2). 400.
    RepeatedHost,
    /// Host is no host with optional port (RFC 9112 3.2). 400.
    InvalidHost,
    /// Content-Length is no number, or there are several (RFC 9112 6.3). 400.
    InvalidContentLength,
    /// Transfer-Encoding is not exactly `chunked`, or the request is HTTP/1.0
    /// (RFC 9112 6.1, 6.3). 400.
    InvalidTransferEncoding,
    /// Content-Length and Transfer-Encoding in one request (RFC 9112 6.1). 400.
    ConflictingBodyLength,
    /// Upgrade asked over HTTP/1.0 (RFC 6455 4.2.1). 400.
    UpgradeNeedsHttp11,
    /// The chunked body is malformed (RFC 9112 7.1). 400.
    InvalidChunk,
    /// An upgrade request that announces a body. 400.
    UpgradeWithBody,
    /// No Sec-WebSocket-Key (RFC 6455 4.2.1). 400.
    MissingKey,
    /// More than one Sec-WebSocket-Key (RFC 6455 11.3.1). 400.
    RepeatedKey,
    /// Sec-WebSocket-Key is not the canonical base64 of 16 bytes (RFC 6455 4.2.1). 400.
    InvalidKey,
    /// Sec-WebSocket-Extensions does not match its grammar (RFC 6455 9.1). 400.
    InvalidExtensions,
    /// Sec-WebSocket-Protocol is not a list of tokens (RFC 6455 4.3). 400.
    InvalidSubprotocols,
    /// A proxy that has to begin with a PROXY header did not, or sent a malformed one. 400.
    InvalidProxyHeader,
    /// The server does not accept this origin (RFC 6455 10.2). 403.
    Forbidden,
    /// Nothing is served under this path. 404.
    NotFound,
    /// A method other than GET (RFC 6455 4.2.1). 405.
    MethodNotAllowed,
    /// The request did not arrive in time. 408.
    Timeout,
    /// The request has a body, and nobody here reads one. 413.
    BodyNotAccepted,
    /// The body is longer than the limit. 413.
    BodyTooLarge,
    /// The target is longer than the limit. 414.
    TargetTooLong,
    /// Expect asks for something else than `100-continue` (RFC 9110 10.1.1). 417.
    ExpectationFailed,
    /// Host is not one of this server's names (RFC 9110 7.4). 421.
    Misdirected,
    /// A plain request for something that is served over WebSocket only. 426.
    UpgradeRequired,
    /// No Sec-WebSocket-Version (RFC 6455 4.2.1). 426.
    MissingVersion,
    /// More than one Sec-WebSocket-Version (RFC 6455 11.3.5). 426.
    RepeatedVersion,
    /// A Sec-WebSocket-Version other than 13 (RFC 6455 4.2.2, 4.4). 426.
    UnsupportedVersion,
    /// This peer asks too often. 429.
    TooManyRequests,
    /// The head is longer than the limit. 431.
    HeadTooLarge,
    /// The head has more header lines than the limit. 431.
    TooManyHeaders,
    /// The server has no room for another connection. 503.
    Busy,
    /// The application did not decide about the upgrade in time. 503.
    Undecided,
    /// The application did not answer the request in time. 503.
    Unanswered,
    /// A major version of HTTP other than 1 (RFC 9110 15.6.6). 505.
    HttpVersion,
}

impl Refusal {
    /// Every refusal, for tables of counters.
    pub const ALL: [Refusal; 44] = [
        Refusal::MalformedRequestLine,
        Refusal::LeadingEmptyLine,
        Refusal::InvalidTarget,
        Refusal::BareLineFeed,
        Refusal::BareCarriageReturn,
        Refusal::FoldedHeader,
        Refusal::ControlCharacter,
        Refusal::MalformedHeader,
        Refusal::IncompleteHead,
        Refusal::MissingHost,
        Refusal::RepeatedHost,
        Refusal::InvalidHost,
        Refusal::InvalidContentLength,
        Refusal::InvalidTransferEncoding,
        Refusal::ConflictingBodyLength,
        Refusal::UpgradeNeedsHttp11,
        Refusal::InvalidChunk,
        Refusal::UpgradeWithBody,
        Refusal::MissingKey,
        Refusal::RepeatedKey,
        Refusal::InvalidKey,
        Refusal::InvalidExtensions,
        Refusal::InvalidSubprotocols,
        Refusal::InvalidProxyHeader,
        Refusal::Forbidden,
        Refusal::NotFound,
        Refusal::MethodNotAllowed,
        Refusal::Timeout,
        Refusal::BodyNotAccepted,
        Refusal::BodyTooLarge,
        Refusal::TargetTooLong,
        Refusal::ExpectationFailed,
        Refusal::Misdirected,
        Refusal::UpgradeRequired,
        Refusal::MissingVersion,
        Refusal::RepeatedVersion,
        Refusal::UnsupportedVersion,
        Refusal::TooManyRequests,
        Refusal::HeadTooLarge,
        Refusal::TooManyHeaders,
        Refusal::Busy,
        Refusal::Undecided,
        Refusal::Unanswered,
        Refusal::HttpVersion,
    ];

    /// The HTTP status of the answer.
    pub const fn status(self) -> u16 {
        self.row().0
    }

    /// A short name that does not change between releases, for counters and logs.
    pub const fn reason(self) -> &'static str {
        self.row().1
    }

    /// Appends the complete answer: `Connection: close`, a `Content-Length`, and one sentence
    /// that says what was wrong.
    pub fn write_response(self, out: &mut Vec<u8>) {
        self.write(out, true);
    }

    /// Appends the answer to a HEAD request: the same without its body (RFC 9110 9.3.2).
    pub fn write_response_to_head(self, out: &mut Vec<u8>) {
        self.write(out, false);
    }

    fn write(self, out: &mut Vec<u8>, with_body: bool) {
        begin_response(out, self.status());
        out.extend_from_slice(self.extra_lines().as_bytes());
        out.extend_from_slice(b"Content-Type: text/plain; charset=utf-8\r\n");
        let (_, _, sentence) = self.row();
        // One line feed behind the sentence, for terminals.
        push_body(out, &[sentence.as_bytes(), b"\n"], with_body);
    }

    /// Connection, and what else the status demands.
    const fn extra_lines(self) -> &'static str {
        match self {
            // RFC 9110 15.5.6: a server MUST generate Allow.
            Refusal::MethodNotAllowed => "Connection: close\r\nAllow: GET\r\n",
            // RFC 9110 15.5.22: a server MUST send Upgrade; 7.8: and name it in Connection.
            Refusal::UpgradeRequired => "Connection: close, Upgrade\r\nUpgrade: websocket\r\n",
            // RFC 6455 4.4: and the versions that it understands.
            Refusal::MissingVersion | Refusal::RepeatedVersion | Refusal::UnsupportedVersion => {
                "Connection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            }
            _ => "Connection: close\r\n",
        }
    }

    /// Status, name, sentence.
    const fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            Refusal::MalformedRequestLine => {
                (400, "malformed_request_line", "The request line is malformed.")
            }
            Refusal::LeadingEmptyLine => {
                (400, "leading_empty_line", "There is an empty line before the request line.")
            }
            Refusal::InvalidTarget => (400, "invalid_target", "The request target is invalid."),
            Refusal::BareLineFeed => {
                (400, "bare_line_feed", "A line of the head ends with LF instead of CRLF.")
            }
            Refusal::BareCarriageReturn => {
                (400, "bare_carriage_return", "The head contains CR without LF.")
            }
            Refusal::FoldedHeader => (400, "folded_header", "A header line begins with a blank."),
            Refusal::ControlCharacter => {
                (400, "control_character", "The head contains a control character.")
            }
            Refusal::MalformedHeader => (400, "malformed_header", "A header line is malformed."),
            Refusal::IncompleteHead => (400, "incomplete_head", "The head is incomplete."),
            Refusal::MissingHost => (400, "missing_host", "Host is missing."),
            Refusal::RepeatedHost => (400, "repeated_host", "Host is given more than once."),
            Refusal::InvalidHost => (400, "invalid_host", "Host is invalid."),
            Refusal::InvalidContentLength => {
                (400, "invalid_content_length", "Content-Length is invalid.")
            }
            Refusal::InvalidTransferEncoding => {
                (400, "invalid_transfer_encoding", "Transfer-Encoding is not understood here.")
            }
            Refusal::ConflictingBodyLength => (
                400,
                "conflicting_body_length",
                "Content-Length and Transfer-Encoding exclude each other.",
            ),
            Refusal::UpgradeNeedsHttp11 => {
                (400, "upgrade_needs_http_1_1", "An upgrade to WebSocket needs HTTP/1.1.")
            }
            Refusal::InvalidChunk => (400, "invalid_chunk", "The chunked body is malformed."),
            Refusal::UpgradeWithBody => {
                (400, "upgrade_with_body", "An upgrade to WebSocket must not have a body.")
            }
            Refusal::MissingKey => (400, "missing_key", "Sec-WebSocket-Key is missing."),
            Refusal::RepeatedKey => {
                (400, "repeated_key", "Sec-WebSocket-Key is given more than once.")
            }
            Refusal::InvalidKey => {
                (400, "invalid_key", "Sec-WebSocket-Key is not the base64 of 16 bytes.")
            }
            Refusal::InvalidExtensions => {
                (400, "invalid_extensions", "Sec-WebSocket-Extensions is malformed.")
            }
            Refusal::InvalidSubprotocols => {
                (400, "invalid_subprotocols", "Sec-WebSocket-Protocol is malformed.")
            }
            Refusal::InvalidProxyHeader => {
                (400, "invalid_proxy_header", "The PROXY header is missing or malformed.")
            }
            Refusal::Forbidden => (403, "forbidden", "This is not allowed."),
            Refusal::NotFound => (404, "not_found", "There is nothing here."),
            Refusal::MethodNotAllowed => (405, "method_not_allowed", "Only GET is allowed here."),
            Refusal::Timeout => (408, "timeout", "The request did not arrive in time."),
            Refusal::BodyNotAccepted => {
                (413, "body_not_accepted", "A request body is not accepted here.")
            }
            Refusal::BodyTooLarge => (413, "body_too_large", "The request body is too large."),
            Refusal::TargetTooLong => (414, "target_too_long", "The request target is too long."),
            Refusal::ExpectationFailed => {
                (417, "expectation_failed", "Only 100-continue can be expected here.")
            }
            Refusal::Misdirected => {
                (421, "misdirected", "This server does not answer to that name.")
            }
            Refusal::UpgradeRequired => {
                (426, "upgrade_required", "This is served over WebSocket only.")
            }
            Refusal::MissingVersion => {
                (426, "missing_version", "Sec-WebSocket-Version is missing.")
            }
            Refusal::RepeatedVersion => {
                (426, "repeated_version", "Sec-WebSocket-Version is given more than once.")
            }
            Refusal::UnsupportedVersion => {
                (426, "unsupported_version", "Only version 13 of WebSocket is understood.")
            }
            Refusal::TooManyRequests => (429, "too_many_requests", "These are too many requests."),
            Refusal::HeadTooLarge => (431, "head_too_large", "The request head is too large."),
            Refusal::TooManyHeaders => {
                (431, "too_many_headers", "The request has too many header lines.")
            }
            Refusal::Busy => (503, "busy", "The server is busy."),
            Refusal::Undecided => (503, "undecided", "The server could not decide in time."),
            Refusal::Unanswered => (503, "unanswered", "The server could not answer in time."),
            Refusal::HttpVersion => (505, "http_version", "Only HTTP/1.1 is understood."),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (status, _, sentence) = self.row();
        write!(f, "{status}: {sentence}")
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn response(refusal: Refusal) -> String {
        let mut out = Vec::new();
        refusal.write_response(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_response_is_complete_and_closes() {
        let mut reasons = HashSet::new();
        for refusal in Refusal::ALL {
            assert!(reasons.insert(refusal.reason()), "{refusal:?} shares its name");
            let text = response(refusal);
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {} ", refusal.status())), "{head}");
            assert!(head.contains("\r\nConnection: close"), "{head}");
            assert!(head.ends_with(&format!("\r\nContent-Length: {}", body.len())), "{head}");
            assert!(!body.trim().is_empty() && body.is_ascii());
            assert_eq!(refusal.to_string(), format!("{}: {}", refusal.status(), body.trim()));
        }
    }

    #[test]
    fn status_demands_further_lines() {
        assert!(response(Refusal::MethodNotAllowed).contains("\r\nAllow: GET\r\n"));
        let upgrade = "\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\n";
        for refusal in Refusal::ALL {
            let text = response(refusal);
            assert_eq!(text.contains(upgrade), refusal.status() == 426, "{refusal:?}");
            assert_eq!(
                text.contains("\r\nSec-WebSocket-Version: 13\r\n"),
                refusal.reason().ends_with("_version") && refusal.status() == 426,
                "{refusal:?}"
            );
        }
    }

    #[test]
    fn answer_to_head_has_the_length_but_no_body() {
        let mut out = Vec::new();
        Refusal::NotFound.write_response_to_head(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.ends_with("\r\nContent-Length: 23\r\n\r\n"), "{text}");
        assert!(response(Refusal::NotFound).starts_with(&text));
    }
}
