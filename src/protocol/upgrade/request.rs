//! A complete request head, parsed (RFC 9112, RFC 9110).
//!
//! Comes in: the bytes of one head, as [`HeadScanner`](super::HeadScanner) found it. Goes out:
//! method, target, fields and body length, as slices of these bytes. It never allocates, never
//! decodes percent signs, and never guesses: a head that two readers could understand differently
//! is refused.

use std::fmt;
use std::mem::MaybeUninit;

use httparse::{Header, Status};

use super::MAX_HEADERS;
use super::grammar::list_elements;
use super::refusal::Refusal;
use super::target::{Target, is_authority};
use crate::protocol::Limits;

/// The minor version of HTTP/1 that a request is treated as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1, or a higher minor version (RFC 9110 2.5).
    Http11,
}

/// How long the body of a request is (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// Neither Content-Length nor Transfer-Encoding: there is none.
    None,
    /// Content-Length, in bytes; zero is possible.
    Bytes(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
}

impl BodyLength {
    /// Whether no byte of a body follows the head.
    pub fn is_empty(self) -> bool {
        matches!(self, BodyLength::None | BodyLength::Bytes(0))
    }
}

/// What a client waits for before it sends the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expectation {
    None,
    /// For 100.
    Continue,
    /// For something that nobody knows.
    Unknown,
}

/// A well-formed request head. Borrows the bytes it was parsed from; about 2 KiB on the stack for
/// the header table, no heap memory.
///
/// ```
/// use wirelane::protocol::Limits;
/// use wirelane::protocol::upgrade::Request;
///
/// let head = b"GET /chat?room=1 HTTP/1.1\r\nHost: example.com:9001\r\nCookie: a=b\r\n\r\n";
/// let request = Request::parse(head, &Limits::new())?;
/// assert_eq!((request.method(), request.path()), ("GET", "/chat"));
/// assert_eq!(request.query(), Some("room=1"));
/// assert_eq!(request.host(), Some("example.com:9001"));
/// assert_eq!(request.header("cookie"), Some(&b"a=b"[..]));
/// assert!(request.body_length().is_empty());
/// assert!(!request.asks_for_websocket());
/// # Ok::<(), wirelane::protocol::upgrade::Refusal>(())
/// ```
#[derive(Clone)]
pub struct Request<'a> {
    method: &'a str,
    raw_target: &'a str,
    target: Target<'a>,
    version: HttpVersion,
    body: BodyLength,
    known: Known<'a>,
    head: &'a [u8],
    line_count: usize,
    table: [Line; MAX_HEADERS],
}

/// Where a header line stands in the head, in bytes from its start. Half the size of the slices,
/// because a request is moved.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    name_start: u32,
    name_len: u32,
    value_start: u32,
    value_len: u32,
}

impl Line {
    fn name<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        &head[self.name_start as usize..][..self.name_len as usize]
    }

    fn value<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        &head[self.value_start as usize..][..self.value_len as usize]
    }
}

impl<'a> Request<'a> {
    /// Parses a head, from the first byte of the request line to the empty line. Bytes behind it
    /// are not looked at.
    ///
    /// # Errors
    ///
    /// 400 for anything malformed, for a Host that is missing (HTTP/1.1), repeated or invalid,
    /// and for a body length that is ambiguous; 414 and 431 for what passes the limits; 505
    /// for another major version of HTTP. A head that the scanner accepts never fails for its
    /// line structure, and what the scanner refuses is refused here too.
    pub fn parse(head: &'a [u8], limits: &Limits) -> Result<Request<'a>, Refusal> {
        if let [b'\r' | b'\n', ..] = head {
            return Err(Refusal::LeadingEmptyLine);
        }
        // Left uninitialised: the parser fills and returns only as many as there are lines.
        let mut uninit = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut parser = httparse::Request::new(&mut []);
        match parser.parse_with_uninit_headers(head, &mut uninit) {
            Ok(Status::Complete(head_len)) => {
                let line = RequestLine {
                    method: parser.method.unwrap_or_default(),
                    target: parser.path.unwrap_or_default(),
                    version: match parser.version {
                        Some(0) => HttpVersion::Http10,
                        _ => HttpVersion::Http11,
                    },
                };
                Request::check(&head[..head_len], line, parser.headers, limits)
            }
            Ok(Status::Partial) => Err(Refusal::IncompleteHead),
            Err(httparse::Error::Version) => Request::parse_other_version(head, limits),
            Err(error) => Err(refusal_of(error)),
        }
    }

    /// The parser stops at every version but 1.0 and 1.1. RFC 9110 2.5: a higher minor version
    /// SHOULD be treated as the highest one that is understood; 15.6.6: another major version
    /// gets 505.
    fn parse_other_version(head: &'a [u8], limits: &Limits) -> Result<Request<'a>, Refusal> {
        let malformed = Refusal::MalformedRequestLine;
        let line_len = head.iter().position(|&byte| byte == b'\n').ok_or(malformed)?;
        let line = head[..line_len].strip_suffix(b"\r").ok_or(Refusal::BareLineFeed)?;
        let line = str::from_utf8(line).map_err(|_| malformed)?;
        let mut parts = line.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed);
        };
        match version.as_bytes() {
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                if *major != b'1' {
                    return Err(Refusal::HttpVersion);
                }
            }
            _ => return Err(malformed),
        }
        let mut table = [httparse::EMPTY_HEADER; MAX_HEADERS];
        match httparse::parse_headers(&head[line_len + 1..], &mut table) {
            Ok(Status::Complete((fields_len, headers))) => {
                let head = &head[..line_len + 1 + fields_len];
                let version = HttpVersion::Http11;
                Request::check(head, RequestLine { method, target, version }, headers, limits)
            }
            Ok(Status::Partial) => Err(Refusal::IncompleteHead),
            Err(error) => Err(refusal_of(error)),
        }
    }

    /// Everything that the parser does not check.
    #[inline]
    fn check(
        head: &'a [u8],
        line: RequestLine<'a>,
        headers: &[Header<'a>],
        limits: &Limits,
    ) -> Result<Request<'a>, Refusal> {
        if head.len() > limits.head() as usize {
            return Err(Refusal::HeadTooLarge);
        }
        if line.target.len() > limits.target() as usize {
            return Err(Refusal::TargetTooLong);
        }
        if headers.len() > limits.headers() as usize {
            return Err(Refusal::TooManyHeaders);
        }
        if has_bare_line_feed(head) {
            return Err(Refusal::BareLineFeed);
        }
        let target = Target::split(line.method, line.target).ok_or(Refusal::InvalidTarget)?;
        let (known, framing) = Known::read(headers)?;
        let body = framing.body_length(line.version)?;
        match known.host {
            // RFC 9112 3.2: a server MUST answer 400 to any of these three.
            Field::Absent if line.version == HttpVersion::Http11 => {
                return Err(Refusal::MissingHost);
            }
            Field::Repeated => return Err(Refusal::RepeatedHost),
            Field::Once(value) if host_of(value).is_none() => return Err(Refusal::InvalidHost),
            Field::Absent | Field::Once(_) => {}
        }
        let mut request = Request {
            method: line.method,
            raw_target: line.target,
            target,
            version: line.version,
            body,
            known,
            head,
            line_count: headers.len(),
            table: [Line::default(); MAX_HEADERS],
        };
        for (line, header) in request.table.iter_mut().zip(headers) {
            // Both are slices of the head, which the limit keeps below 4 GiB.
            let start_of = |slice: &[u8]| (slice.as_ptr().addr() - head.as_ptr().addr()) as u32;
            *line = Line {
                name_start: start_of(header.name.as_bytes()),
                name_len: header.name.len() as u32,
                value_start: start_of(header.value),
                value_len: header.value.len() as u32,
            };
        }
        Ok(request)
    }

    /// The method, as sent; methods are compared with regard to case.
    pub fn method(&self) -> &'a str {
        self.method
    }

    /// The request target, as sent.
    pub fn target(&self) -> &'a str {
        self.raw_target
    }

    /// The path, not decoded: it starts with `/`, or is `*`.
    pub fn path(&self) -> &'a str {
        self.target.path
    }

    /// What stands behind the first `?` of the target, not decoded.
    pub fn query(&self) -> Option<&'a str> {
        self.target.query
    }

    /// The version of HTTP.
    pub fn version(&self) -> HttpVersion {
        self.version
    }

    /// Host with optional port, as sent. `None` only for HTTP/1.0.
    pub fn host(&self) -> Option<&'a str> {
        // RFC 9112 3.2.2: the authority of an absolute form replaces Host.
        match (self.target.authority, self.known.host) {
            (Some(authority), _) => Some(authority),
            (None, Field::Once(value)) => host_of(value),
            (None, _) => None,
        }
    }

    /// How long the body is that follows the head.
    pub fn body_length(&self) -> BodyLength {
        self.body
    }

    /// The value of the first header line of this name, in any case, without blanks at its ends.
    /// Values may hold bytes from 0x80 on and HTAB, but no other control character.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.lines().find(name).map(|line| line.value(self.head))
    }

    /// The values of every header line of this name, in the order in which they were sent.
    pub fn header_values<'r>(&'r self, name: &'r str) -> HeaderValues<'r> {
        HeaderValues { lines: self.lines(), name }
    }

    /// Name and value of every header line, in the order in which they were sent.
    pub fn headers(&self) -> Headers<'_> {
        Headers { lines: self.lines() }
    }

    /// Whether Upgrade lists `websocket` and Connection lists `upgrade`, both in any case
    /// (RFC 6455 4.2.1). If not, this is a plain HTTP request.
    pub fn asks_for_websocket(&self) -> bool {
        self.known.upgrade_to_websocket && self.known.connection_upgrade
    }

    /// Whether the client wants the connection to end after the answer (RFC 9112 9.6), or speaks
    /// HTTP/1.0.
    pub(crate) fn asks_to_close(&self) -> bool {
        self.known.connection_close || self.version == HttpVersion::Http10
    }

    /// What Expect says (RFC 9110 10.1.1).
    pub(crate) fn expectation(&self) -> Expectation {
        match self.known.expect {
            // RFC 9110 10.1.1: a server MUST ignore it in an HTTP/1.0 request.
            _ if self.version == HttpVersion::Http10 => Expectation::None,
            Field::Absent => Expectation::None,
            Field::Once(value) if value.eq_ignore_ascii_case(b"100-continue") => {
                Expectation::Continue
            }
            Field::Once(_) | Field::Repeated => Expectation::Unknown,
        }
    }

    pub(super) fn known(&self) -> &Known<'a> {
        &self.known
    }

    fn lines(&self) -> Lines<'_> {
        Lines { head: self.head, table: self.table[..self.line_count].iter() }
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("target", &self.raw_target)
            .field("version", &self.version)
            .field("headers", &self.headers().collect::<Vec<_>>())
            .finish()
    }
}

/// Iterator over header lines; see [`Request::headers`].
#[derive(Clone, Debug)]
pub struct Headers<'r> {
    lines: Lines<'r>,
}

impl<'r> Iterator for Headers<'r> {
    type Item = (&'r str, &'r [u8]);

    fn next(&mut self) -> Option<(&'r str, &'r [u8])> {
        let line = self.lines.table.next()?;
        // A name is a token, hence ASCII.
        let name = str::from_utf8(line.name(self.lines.head)).unwrap_or_default();
        Some((name, line.value(self.lines.head)))
    }
}

/// Iterator over the values of one name; see [`Request::header_values`].
#[derive(Clone, Debug)]
pub struct HeaderValues<'r> {
    lines: Lines<'r>,
    name: &'r str,
}

impl<'r> Iterator for HeaderValues<'r> {
    type Item = &'r [u8];

    fn next(&mut self) -> Option<&'r [u8]> {
        self.lines.find(self.name).map(|line| line.value(self.lines.head))
    }
}

/// The header lines that an iterator has not passed yet.
#[derive(Clone, Debug)]
struct Lines<'r> {
    head: &'r [u8],
    table: std::slice::Iter<'r, Line>,
}

impl<'r> Lines<'r> {
    fn find(&mut self, name: &str) -> Option<&'r Line> {
        let head = self.head;
        self.table.find(|line| line.name(head).eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// A field that may appear once only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field<'a> {
    Absent,
    Once(&'a [u8]),
    Repeated,
}

impl<'a> Field<'a> {
    fn add(&mut self, value: &'a [u8]) {
        *self = match self {
            Field::Absent => Field::Once(value),
            Field::Once(_) | Field::Repeated => Field::Repeated,
        };
    }
}

/// The fields that every request is asked for, found in one pass over the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub(super) host: Field<'a>,
    pub(super) key: Field<'a>,
    pub(super) version: Field<'a>,
    pub(super) upgrade_to_websocket: bool,
    pub(super) connection_upgrade: bool,
    pub(super) connection_close: bool,
    pub(super) expect: Field<'a>,
    pub(super) has_extensions: bool,
    pub(super) has_subprotocols: bool,
    /// No Transfer-Encoding, and no Content-Length or one that is literally `0`.
    pub(super) is_without_body: bool,
}

impl<'a> Known<'a> {
    fn read(lines: &[Header<'a>]) -> Result<(Known<'a>, Framing<'a>), Refusal> {
        let mut known = Known {
            host: Field::Absent,
            key: Field::Absent,
            version: Field::Absent,
            upgrade_to_websocket: false,
            connection_upgrade: false,
            connection_close: false,
            expect: Field::Absent,
            has_extensions: false,
            has_subprotocols: false,
            is_without_body: true,
        };
        let mut framing = Framing { content_length: None, transfer_encoding: Field::Absent };
        let mut content_length = Field::Absent;
        for &Header { name, value } in lines {
            let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
            // The length tells almost all other names apart without looking at their letters.
            match name.len() {
                4 if is("host") => known.host.add(value),
                7 if is("upgrade") => known.upgrade_to_websocket |= lists(value, b"websocket"),
                6 if is("expect") => known.expect.add(value),
                10 if is("connection") => {
                    known.connection_upgrade |= lists(value, b"upgrade");
                    known.connection_close |= lists(value, b"close");
                }
                14 if is("content-length") => {
                    content_length.add(value);
                    framing.add_content_length(value)?;
                }
                17 if is("sec-websocket-key") => known.key.add(value),
                17 if is("transfer-encoding") => framing.transfer_encoding.add(value),
                21 if is("sec-websocket-version") => known.version.add(value),
                22 if is("sec-websocket-protocol") => known.has_subprotocols = true,
                24 if is("sec-websocket-extensions") => known.has_extensions = true,
                _ => {}
            }
        }
        known.is_without_body = framing.transfer_encoding == Field::Absent
            && matches!(content_length, Field::Absent | Field::Once(b"0"));
        Ok((known, framing))
    }
}

/// What the head says about the length of the body.
struct Framing<'a> {
    content_length: Option<u64>,
    transfer_encoding: Field<'a>,
}

impl Framing<'_> {
    // RFC 9112 6.3(5): one number. A list of equal ones may be taken for one or refused; nobody
    // honest sends it, so it is refused.
    fn add_content_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        let length = decimal(value).ok_or(Refusal::InvalidContentLength)?;
        if self.content_length.replace(length).is_some() {
            return Err(Refusal::InvalidContentLength);
        }
        Ok(())
    }

    fn body_length(&self, version: HttpVersion) -> Result<BodyLength, Refusal> {
        match (self.transfer_encoding, self.content_length) {
            (Field::Absent, None) => Ok(BodyLength::None),
            (Field::Absent, Some(length)) => Ok(BodyLength::Bytes(length)),
            // RFC 9112 6.1: this may be an attempt to smuggle a request.
            (_, Some(_)) => Err(Refusal::ConflictingBodyLength),
            // RFC 9112 6.1: framing of an HTTP/1.0 message with it is faulty.
            (Field::Once(coding), None)
                if coding.eq_ignore_ascii_case(b"chunked") && version == HttpVersion::Http11 =>
            {
                Ok(BodyLength::Chunked)
            }
            (Field::Once(_) | Field::Repeated, None) => Err(Refusal::InvalidTransferEncoding),
        }
    }
}

/// What the first line says.
struct RequestLine<'a> {
    method: &'a str,
    target: &'a str,
    version: HttpVersion,
}

fn refusal_of(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::HeaderName => Refusal::MalformedHeader,
        httparse::Error::HeaderValue => Refusal::ControlCharacter,
        httparse::Error::NewLine => Refusal::BareCarriageReturn,
        httparse::Error::TooManyHeaders => Refusal::TooManyHeaders,
        httparse::Error::Token | httparse::Error::Version | httparse::Error::Status => {
            Refusal::MalformedRequestLine
        }
    }
}

fn host_of(value: &[u8]) -> Option<&str> {
    // What `is_authority` accepts is ASCII.
    is_authority(value).then(|| str::from_utf8(value).unwrap_or_default())
}

/// Whether the comma-separated list has this element, in any case.
fn lists(value: &[u8], wanted: &[u8]) -> bool {
    list_elements(value).any(|element| element.eq_ignore_ascii_case(wanted))
}

/// RFC 9110 8.6: `1*DIGIT`.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// The parser lets LF alone end a line; here there is one grammar only (RFC 9112 2.2). Looks at all
/// bytes without a branch, which the compiler turns into a few wide instructions.
fn has_bare_line_feed(head: &[u8]) -> bool {
    let pairs = head.iter().zip(head.iter().skip(1));
    let bare = pairs.fold(0_u8, |bare, (&before, &byte)| {
        bare | (u8::from(byte == b'\n') & u8::from(before != b'\r'))
    });
    // A head starts with the first byte of its method: only later bytes can be LF.
    bare != 0
}
