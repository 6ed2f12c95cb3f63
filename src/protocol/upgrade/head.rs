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

/// `HTTP/1.1`
const VERSION_LEN: usize = 8;

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
