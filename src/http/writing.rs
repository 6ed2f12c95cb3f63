//! The head of an answer.
//!
//! Comes in: what the application answers, and how this connection has to be answered. Goes out:
//! bytes appended to a `Vec<u8>`; on an error not a single one.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::protocol::upgrade::{InvalidHeader, begin_response, check_header, push_header};

/// Name and value.
pub(crate) type Header = (Cow<'static, str>, Cow<'static, str>);

/// How a request has to be answered, apart from the answer itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Manner {
    /// The request was HEAD (RFC 9110 9.3.2).
    pub(crate) head_only: bool,
    /// Chunks are understood.
    pub(crate) http11: bool,
    /// Another request may follow.
    pub(crate) keep_alive: bool,
}

impl Manner {
    /// For a connection that ends with this answer.
    pub(crate) const LAST: Self = Self { head_only: false, http11: true, keep_alive: false };
}

/// How the client finds the end of the body (RFC 9112 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

/// Whether answers of this status have no body, whatever was asked (RFC 9112 6.3(1)).
pub(crate) fn is_without_body(status: u16) -> bool {
    matches!(status, 204 | 304)
}

/// Appends status line and headers, with the empty line behind them.
///
/// # Errors
///
/// A status outside 200 to 599, a header that is malformed or one of Connection, Content-Length,
/// Transfer-Encoding.
pub(crate) fn write_head(
    out: &mut Vec<u8>,
    status: u16,
    headers: &[Header],
    framing: Framing,
    manner: Manner,
    date: &str,
) -> Result<(), InvalidHeader> {
    if !(200..=599).contains(&status) {
        return Err(InvalidHeader::Status);
    }
    let is_reserved = |name: &str| {
        let reserved = ["Connection", "Content-Length", "Transfer-Encoding"];
        reserved.iter().any(|reserved| name.eq_ignore_ascii_case(reserved))
    };
    let mut has_date = false;
    for (name, value) in headers {
        check_header(name, value, is_reserved)?;
        has_date |= name.eq_ignore_ascii_case("Date");
    }
    begin_response(out, status);
    if !has_date {
        push_header(out, "Date", date.as_bytes());
    }
    if !manner.keep_alive {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    for (name, value) in headers {
        push_header(out, name, value.as_bytes());
    }
    // RFC 9110 8.6, RFC 9112 6.1: neither of the two for these.
    if !is_without_body(status) {
        match framing {
            Framing::Length(len) => {
                out.extend_from_slice(b"Content-Length: ");
                push_decimal(out, len);
                out.extend_from_slice(b"\r\n");
            }
            Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            Framing::UntilClose => {}
        }
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

fn push_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Bytes in front of a chunk that [`begin_chunk`] leaves room for: eight digits and CRLF.
const CHUNK_HEADER_LEN: usize = 10;

/// Leaves room for the size of a chunk; what is appended from here on is its data.
pub(crate) fn begin_chunk(out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(b"00000000\r\n");
    out.len()
}

/// Writes the size of the chunk whose data starts at `start`; of one without data nothing is left.
pub(crate) fn end_chunk(out: &mut Vec<u8>, start: usize) {
    let len = out.len() - start;
    let header = start - CHUNK_HEADER_LEN;
    if len == 0 {
        // A chunk without data would be the last one.
        out.truncate(header);
        return;
    }
    for (index, digit) in out[header..header + 8].iter_mut().enumerate() {
        let nibble = (len >> (4 * (7 - index))) & 0xf;
        *digit = b"0123456789abcdef"[nibble];
    }
    out.extend_from_slice(b"\r\n");
}

/// What ends a chunked body.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The present moment as a text, made once a second (RFC 9110 6.6.1).
#[derive(Debug, Default)]
pub(crate) struct DateText {
    text: String,
    /// On the clock of the worker.
    until_ms: u64,
}

impl DateText {
    /// For Date; `now_ms` is the time of the turn.
    pub(crate) fn at(&mut self, now_ms: u64) -> &str {
        if self.text.is_empty() || now_ms >= self.until_ms {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let secs = Duration::from_secs(since.as_secs());
            self.text = httpdate::fmt_http_date(UNIX_EPOCH + secs);
            self.until_ms = now_ms + 1000 - u64::from(since.subsec_millis());
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Manner = Manner { head_only: false, http11: true, keep_alive: true };

    fn head(status: u16, headers: &[Header], framing: Framing, manner: Manner) -> String {
        let mut out = Vec::new();
        write_head(&mut out, status, headers, framing, manner, "now").expect("possible");
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn a_head_says_how_the_body_ends() {
        let length = Framing::Length(u64::MAX);
        assert_eq!(
            head(200, &[("X".into(), "y".into())], length, PLAIN),
            "HTTP/1.1 200 OK\r\nDate: now\r\nX: y\r\nContent-Length: 18446744073709551615\r\n\r\n"
        );
        assert_eq!(
            head(200, &[], Framing::Chunked, PLAIN),
            "HTTP/1.1 200 OK\r\nDate: now\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        assert_eq!(
            head(404, &[("date".into(), "then".into())], Framing::Length(0), Manner::LAST),
            "HTTP/1.1 404 Not Found\r\nConnection: close\r\ndate: then\r\n\
             Content-Length: 0\r\n\r\n"
        );
        for status in [204, 304] {
            let head = head(status, &[], Framing::Length(0), PLAIN);
            assert!(head.ends_with("\r\nDate: now\r\n\r\n"), "{head}");
        }
    }

    #[test]
    fn what_would_split_or_contradict_the_answer_is_refused() {
        for (status, name, value) in [
            (199, "X", ""),
            (600, "X", ""),
            (200, "content-length", "1"),
            (200, "Transfer-Encoding", "chunked"),
            (200, "connection", "close"),
            (200, "X", "a\r\nb: c"),
            (200, "a b", ""),
        ] {
            let mut out = b"before".to_vec();
            let headers = [("Fine".into(), "1".into()), (name.into(), value.into())];
            let framing = Framing::Length(0);
            assert!(write_head(&mut out, status, &headers, framing, PLAIN, "now").is_err());
            assert_eq!(out, b"before", "{status} {name}");
        }
    }

    #[test]
    fn chunks_have_their_size_in_front() {
        let mut out = b"x".to_vec();
        let start = begin_chunk(&mut out);
        end_chunk(&mut out, start);
        assert_eq!(out, b"x", "no data, no chunk");
        let start = begin_chunk(&mut out);
        out.extend_from_slice(&[b'a'; 300]);
        end_chunk(&mut out, start);
        assert!(out.starts_with(b"x0000012c\r\naaa") && out.ends_with(b"a\r\n"));
        assert_eq!(out.len(), 1 + 10 + 300 + 2);
    }

    #[test]
    fn the_date_is_made_once_a_second() {
        let mut date = DateText::default();
        let first = date.at(5000).to_owned();
        assert_eq!(first.len(), 29);
        assert!(httpdate::parse_http_date(&first).is_ok());
        assert!((5001..=6000).contains(&date.until_ms));
        date.text = "kept".into();
        assert_eq!(date.at(5000), "kept");
        assert_ne!(date.at(6000), "kept");
    }
}
