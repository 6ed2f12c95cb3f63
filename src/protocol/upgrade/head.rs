//! Where a head ends, found while its bytes arrive (RFC 9112 2.1, 2.2).
//!
//! Comes in: the bytes received so far, from the first byte of the connection on. Goes out: the
//! length of the head once its empty line is there, or the reason why it can no longer become
//! one. It never keeps a byte, never looks at a byte twice, and gives the same answer for every
//! segmentation of the same bytes. It checks line structure, request line and limits; names and
//! values of the header fields are the parser's job ([`Request`](super::Request)).

use super::MAX_HEADERS;
use super::grammar::{find_control, is_token_char};
use super::refusal::Refusal;
use super::target::{Target, is_target_char, may_start_target};
use crate::protocol::Limits;

/// Finds the end of a request head, with constant work for each new byte.
///
/// Feed it with everything received so far, each time more bytes have come. What it refuses, it
/// refuses at the first impossible byte: a TLS greeting, an HTTP/2 preface or a PROXY line never
/// waits for a line end that does not come. Memory: 16 bytes.
///
/// # Example
///
/// ```
/// use wirelane::protocol::Limits;
/// use wirelane::protocol::upgrade::{HeadScanner, Refusal};
///
/// let limits = Limits::new();
/// let mut scanner = HeadScanner::new();
/// assert_eq!(scanner.scan(b"GET / HTTP/1.1\r\nHost: a\r\n", &limits), Ok(None));
/// assert_eq!(scanner.scan(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nframes", &limits), Ok(Some(27)));
///
/// let tls_greeting = [0x16];
/// assert_eq!(
///     HeadScanner::new().scan(&tls_greeting, &limits),
///     Err(Refusal::MalformedRequestLine)
/// );
/// ```
#[derive(Clone, Copy, Debug)]
pub struct HeadScanner {
    /// Everything before this index was looked at.
    at: u32,
    /// Where the part of the start line that is being read began.
    part_start: u32,
    /// Header lines that have begun.
    lines: u32,
    state: State,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Method,
    Target,
    Version,
    /// `HTTP/` at the start of a status line.
    StatusLine,
    /// Anything up to the end of the line.
    Line,
    LineFeed,
    LineStart,
    FinalLineFeed,
    Complete,
}

/// The protocol name at the start of every version (RFC 9112 2.3).
const VERSION_PREFIX: &[u8] = b"HTTP/";

impl HeadScanner {
    /// A scanner for a request that has not begun.
    pub const fn new() -> Self {
        HeadScanner { at: 0, part_start: 0, lines: 0, state: State::Method }
    }

    /// True once a byte was looked at.
    pub(crate) const fn has_begun(&self) -> bool {
        self.at != 0
    }

    /// A scanner for the response to a client's request.
    pub(super) const fn for_response() -> Self {
        HeadScanner { at: 0, part_start: 0, lines: 0, state: State::StatusLine }
    }

    /// Looks at the bytes that are new since the last call and returns the length of the head
    /// once it is complete. `head_so_far` starts with the first byte of the head, each time, and
    /// may go on behind its end.
    ///
    /// Called again after an answer other than `Ok(None)` it gives the same answer.
    ///
    /// # Errors
    ///
    /// [`Refusal::HeadTooLarge`], [`Refusal::TooManyHeaders`] and [`Refusal::TargetTooLong`] as
    /// soon as a limit is passed; a 400 or 505 at the first byte that cannot belong to a
    /// well-formed head.
    pub fn scan(&mut self, head_so_far: &[u8], limits: &Limits) -> Result<Option<usize>, Refusal> {
        let mut ahead = *self;
        // An error leaves `self` before the byte that caused it, so that it stays the answer.
        let complete = ahead.advance(head_so_far, limits)?;
        *self = ahead;
        Ok(complete)
    }

    fn advance(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Refusal> {
        let max_head = limits.head() as usize;
        let max_headers = limits.headers().min(MAX_HEADERS as u32);
        let window = &bytes[..bytes.len().min(max_head)];
        let mut at = self.at as usize;

        while self.state != State::Complete
            && let Some(&byte) = window.get(at)
        {
            match self.state {
                State::Method => match next_not(window, at, is_token_char) {
                    None => at = window.len(),
                    Some(end) if end > 0 && window[end] == b' ' => {
                        at = end + 1;
                        self.part_start = at as u32;
                        self.state = State::Target;
                    }
                    // RFC 9112 2.2: a server SHOULD ignore an empty line before the request
                    // line. On a new connection nobody has a reason to send one.
                    Some(0) if matches!(byte, b'\r' | b'\n') => {
                        return Err(Refusal::LeadingEmptyLine);
                    }
                    Some(_) => return Err(Refusal::MalformedRequestLine),
                },
                State::Target => {
                    let start = self.part_start as usize;
                    let method = &window[..start - 1];
                    if at == start && byte != b' ' && !may_start_target(method, byte) {
                        return Err(Refusal::InvalidTarget);
                    }
                    // The target and the one byte behind it.
                    let room = (limits.target() as usize).saturating_add(start + 1);
                    let reach = &window[..window.len().min(room)];
                    match next_not(reach, at, is_target_char) {
                        None if reach.len() == room => return Err(Refusal::TargetTooLong),
                        None => at = reach.len(),
                        Some(end) => {
                            check_target(method, &window[start..end], window[end])?;
                            at = end + 1;
                            self.part_start = at as u32;
                            self.state = State::Version;
                        }
                    }
                }
                State::Version
                    if at == self.part_start as usize
                        && window[at..].starts_with(USUAL_VERSION) =>
                {
                    at += USUAL_VERSION.len();
                    self.state = State::LineStart;
                }
                State::Version => {
                    let index = at - self.part_start as usize;
                    check_version_byte(index, byte)?;
                    if index == VERSION_LEN {
                        self.state = State::LineFeed;
                    }
                    at += 1;
                }
                State::StatusLine => {
                    if byte != VERSION_PREFIX[at] {
                        return Err(Refusal::MalformedRequestLine);
                    }
                    at += 1;
                    if at == VERSION_PREFIX.len() {
                        self.state = State::Line;
                    }
                }
                State::Line => match find_control(&window[at..]) {
                    None => at = window.len(),
                    Some(offset) => {
                        at += offset;
                        match window[at] {
                            b'\t' => {}
                            b'\r' if window.get(at + 1) == Some(&b'\n') => {
                                at += 1;
                                self.state = State::LineStart;
                            }
                            b'\r' => self.state = State::LineFeed,
                            b'\n' => return Err(Refusal::BareLineFeed),
                            _ => return Err(Refusal::ControlCharacter),
                        }
                        at += 1;
                    }
                },
                State::LineFeed => {
                    self.state = expect_line_feed(byte, State::LineStart)?;
                    at += 1;
                }
                State::LineStart => match byte {
                    b'\r' => {
                        self.state = State::FinalLineFeed;
                        at += 1;
                    }
                    b'\n' => return Err(Refusal::BareLineFeed),
                    // RFC 9112 5.2: a server that receives an obs-fold MUST reject it or
                    // replace it. 2.2: the same for blanks before the first header.
                    b' ' | b'\t' => return Err(Refusal::FoldedHeader),
                    _ if self.lines == max_headers => return Err(Refusal::TooManyHeaders),
                    _ => {
                        self.lines += 1;
                        self.state = State::Line;
                    }
                },
                State::FinalLineFeed => {
                    self.state = expect_line_feed(byte, State::Complete)?;
                    at += 1;
                }
                State::Complete => break,
            }
        }

        self.at = at as u32;
        if self.state == State::Complete {
            return Ok(Some(at));
        }
        if window.len() == max_head {
            // Its last byte would lie behind the limit.
            return Err(Refusal::HeadTooLarge);
        }
        Ok(None)
    }
}

impl Default for HeadScanner {
    fn default() -> Self {
        HeadScanner::new()
    }
}

/// Digit, dot and digit behind the prefix.
const VERSION_LEN: usize = VERSION_PREFIX.len() + 3;
/// What almost every request line ends with, if it comes in one piece.
const USUAL_VERSION: &[u8] = b"HTTP/1.1\r\n";

/// Index of the first byte from `at` on that is not `wanted`.
fn next_not(bytes: &[u8], at: usize, wanted: impl Fn(u8) -> bool) -> Option<usize> {
    bytes[at..].iter().position(|&byte| !wanted(byte)).map(|offset| at + offset)
}

/// `delimiter` is the first byte that cannot belong to the target.
fn check_target(method: &[u8], target: &[u8], delimiter: u8) -> Result<(), Refusal> {
    match delimiter {
        b' ' if target.is_empty() => Err(Refusal::MalformedRequestLine),
        b' ' if target[0] == b'/' => Ok(()),
        b' ' => match (str::from_utf8(method), str::from_utf8(target)) {
            (Ok(method), Ok(target)) if Target::split(method, target).is_some() => Ok(()),
            _ => Err(Refusal::InvalidTarget),
        },
        // A request line without version, as HTTP/0.9 had it.
        b'\r' | b'\n' => Err(Refusal::MalformedRequestLine),
        _ => Err(Refusal::InvalidTarget),
    }
}

/// RFC 9112 2.3: `HTTP/` DIGIT `.` DIGIT, then CR.
fn check_version_byte(index: usize, byte: u8) -> Result<(), Refusal> {
    let fits = match index {
        0..5 => byte == VERSION_PREFIX[index],
        5 if byte.is_ascii_digit() && byte != b'1' => return Err(Refusal::HttpVersion),
        5 => byte == b'1',
        6 => byte == b'.',
        7 => byte.is_ascii_digit(),
        _ if byte == b'\n' => return Err(Refusal::BareLineFeed),
        _ => byte == b'\r',
    };
    if fits { Ok(()) } else { Err(Refusal::MalformedRequestLine) }
}

// RFC 9112 2.2: a recipient MAY take a bare LF for a line end; here there is one grammar only. A
// bare CR is invalid.
fn expect_line_feed(byte: u8, next: State) -> Result<State, Refusal> {
    if byte == b'\n' { Ok(next) } else { Err(Refusal::BareCarriageReturn) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits::new();

    fn scan(bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        HeadScanner::new().scan(bytes, &LIMITS)
    }

    /// The first prefix that gives an answer, and the answer.
    fn first_answer(bytes: &[u8], limits: &Limits) -> (usize, Result<Option<usize>, Refusal>) {
        let mut scanner = HeadScanner::new();
        for len in 0..=bytes.len() {
            let answer = scanner.scan(&bytes[..len], limits);
            if answer != Ok(None) {
                return (len, answer);
            }
        }
        (bytes.len(), Ok(None))
    }

    #[test]
    fn head_ends_behind_its_empty_line() {
        assert_eq!(scan(b"GET / HTTP/1.1\r\n\r\n"), Ok(Some(18)));
        assert_eq!(scan(b"GET / HTTP/1.1\r\nA:\r\n\r\n\x81\x00\r\n\r\n"), Ok(Some(22)));
        assert_eq!(scan(b"GET / HTTP/1.1\r\nA:\tb\xff\tc\r\n\r\n"), Ok(Some(27)));
        assert_eq!(scan(b"GET / HTTP/1.1\r\n\r"), Ok(None));
        assert_eq!(scan(b""), Ok(None));
    }

    #[test]
    fn refuses_at_the_first_impossible_byte() {
        let cases: [(&[u8], usize, Refusal); 32] = [
            // TLS, HTTP/2, PROXY v1 and v2.
            (b"\x16\x03\x01", 1, Refusal::MalformedRequestLine),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 5, Refusal::InvalidTarget),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", 7, Refusal::InvalidTarget),
            (b"PROXY UNKNOWN\r\n", 7, Refusal::InvalidTarget),
            (b"\r\n\r\n\0\r\nQUIT\n", 1, Refusal::LeadingEmptyLine),
            (b"\n", 1, Refusal::LeadingEmptyLine),
            (b" GET", 1, Refusal::MalformedRequestLine),
            (b"GET\r\n", 4, Refusal::MalformedRequestLine),
            (b"G@T", 2, Refusal::MalformedRequestLine),
            (b"GET\t/", 4, Refusal::MalformedRequestLine),
            (b"GET  /", 5, Refusal::MalformedRequestLine),
            (b"GET /\r\n", 6, Refusal::MalformedRequestLine),
            (b"GET /a#b", 7, Refusal::InvalidTarget),
            (b"GET /\xc3\xa9", 6, Refusal::InvalidTarget),
            (b"GET /\0", 6, Refusal::InvalidTarget),
            (b"GET http:/a HTTP", 12, Refusal::InvalidTarget),
            (b"CONNECT a:80 HTTP", 9, Refusal::InvalidTarget),
            (b"GET / http/1.1", 7, Refusal::MalformedRequestLine),
            (b"GET / HTTP/2.0", 12, Refusal::HttpVersion),
            (b"GET / HTTP/0.9", 12, Refusal::HttpVersion),
            (b"GET / HTTP/1,1", 13, Refusal::MalformedRequestLine),
            (b"GET / HTTP/1.1 \r\n", 15, Refusal::MalformedRequestLine),
            // A good version behind a bad one.
            (b"GET / HTTP/1.5HTTP/1.1\r\n", 15, Refusal::MalformedRequestLine),
            (b"GET / HTTHTTP/1.1\r\n", 10, Refusal::MalformedRequestLine),
            (b"GET / HTTP/1.1\n", 15, Refusal::BareLineFeed),
            (b"GET / HTTP/1.1\rH", 16, Refusal::BareCarriageReturn),
            (b"GET / HTTP/1.1\r\n\n", 17, Refusal::BareLineFeed),
            (b"GET / HTTP/1.1\r\n\rA", 18, Refusal::BareCarriageReturn),
            (b"GET / HTTP/1.1\r\nA: b\n", 21, Refusal::BareLineFeed),
            (b"GET / HTTP/1.1\r\nA: b\rc", 22, Refusal::BareCarriageReturn),
            (b"GET / HTTP/1.1\r\nA: b\r\n c", 23, Refusal::FoldedHeader),
            (b"GET / HTTP/1.1\r\nA: \0", 20, Refusal::ControlCharacter),
        ];
        for (bytes, len, refusal) in cases {
            let text = bytes.escape_ascii();
            assert_eq!(first_answer(bytes, &LIMITS), (len, Err(refusal)), "{text}");
            assert_eq!(scan(bytes), Err(refusal), "{text}");
        }
    }

    #[test]
    fn an_answer_is_given_again() {
        let mut scanner = HeadScanner::new();
        let head = b"GET / HTTP/1.1\r\n\r\nmore";
        assert_eq!(scanner.scan(head, &LIMITS), Ok(Some(18)));
        assert_eq!(scanner.scan(head, &LIMITS), Ok(Some(18)));
        let mut scanner = HeadScanner::new();
        for _ in 0..2 {
            assert_eq!(scanner.scan(b"\x16", &LIMITS), Err(Refusal::MalformedRequestLine));
        }
    }

    #[test]
    fn head_of_exactly_the_limit_is_complete_and_one_more_is_refused() {
        let head = b"GET / HTTP/1.1\r\nA: b\r\n\r\n";
        let exact = LIMITS.max_head(head.len() as u32);
        assert_eq!(HeadScanner::new().scan(head, &exact), Ok(Some(head.len())));
        let short = LIMITS.max_head(head.len() as u32 - 1);
        // Decided by the byte before: the head can no longer fit.
        assert_eq!(first_answer(head, &short), (head.len() - 1, Err(Refusal::HeadTooLarge)));
    }

    #[test]
    fn target_of_exactly_the_limit_is_complete_and_one_more_is_refused() {
        let limits = LIMITS.max_target(4);
        let fits = b"GET /abc HTTP/1.1\r\n\r\n";
        assert_eq!(first_answer(fits, &limits), (21, Ok(Some(21))));
        let long = b"GET /abcd HTTP/1.1\r\n\r\n";
        assert_eq!(first_answer(long, &limits), (9, Err(Refusal::TargetTooLong)));
        assert_eq!(HeadScanner::new().scan(long, &limits), Err(Refusal::TargetTooLong));
    }

    #[test]
    fn header_lines_are_counted_when_they_begin() {
        let limits = LIMITS.max_headers(2);
        let fits = b"GET / HTTP/1.1\r\nA:\r\nB:\r\n\r\n";
        assert_eq!(first_answer(fits, &limits), (26, Ok(Some(26))));
        let many = b"GET / HTTP/1.1\r\nA:\r\nB:\r\nC:\r\n\r\n";
        assert_eq!(first_answer(many, &limits), (25, Err(Refusal::TooManyHeaders)));
    }

    #[test]
    fn no_limit_allows_more_lines_than_the_table_holds() {
        let limits = LIMITS.max_headers(u32::MAX);
        let mut head = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
        for _ in 1..MAX_HEADERS {
            head.extend_from_slice(b"A:\r\n");
        }
        let fits = [&head[..], b"\r\n"].concat();
        assert_eq!(HeadScanner::new().scan(&fits, &limits), Ok(Some(fits.len())));
        assert!(super::super::Request::parse(&fits, &limits).is_ok());
        let many = [&head[..], b"A:\r\n\r\n"].concat();
        assert_eq!(HeadScanner::new().scan(&many, &limits), Err(Refusal::TooManyHeaders));
        let parsed = super::super::Request::parse(&many, &limits);
        assert_eq!(parsed.unwrap_err(), Refusal::TooManyHeaders);
    }

    #[test]
    fn a_head_that_trickles_is_looked_at_once() {
        // Looking again at what was seen would take 64 thousand million steps here.
        let limits = Limits::new().max_head(u32::MAX).max_target(u32::MAX);
        let line = [b'a'; 128 * 1024];
        let head =
            [b"GET /", &line[..], b" HTTP/1.1\r\nA:", &line[..], &line[..], b"\r\n\r\n"].concat();
        assert_eq!(first_answer(&head, &limits), (head.len(), Ok(Some(head.len()))));
    }

    #[test]
    fn scanner_is_small() {
        assert!(size_of::<HeadScanner>() <= 16);
    }
}
