//! What of a file a request wants (RFC 9110 13, 14).
//!
//! Comes in: a request and what is known about the file: its length, its entity tag, when it was
//! changed. Goes out: whether all of it is sent, a part, or nothing. It never opens the file.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::protocol::upgrade::{Request, list_elements};

/// What is known about the present state of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Validators {
    pub(crate) len: u64,
    /// A strong one, with its quotes.
    pub(crate) etag: String,
    /// In whole seconds since 1970, as the dates of HTTP count; `None` if it is not known.
    pub(crate) modified_secs: Option<u64>,
}

impl Validators {
    /// For a file of this length, changed at this moment.
    pub(crate) fn new(len: u64, modified: Option<SystemTime>) -> Self {
        let since = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        // Nanoseconds and length change with nearly every change of the file.
        let etag = format!("\"{:x}-{len:x}\"", since.unwrap_or_default().as_nanos());
        Self { len, etag, modified_secs: since.map(|since| since.as_secs()) }
    }

    /// For `Last-Modified`.
    pub(crate) fn last_modified(&self) -> Option<String> {
        let since = Duration::from_secs(self.modified_secs?);
        Some(httpdate::fmt_http_date(UNIX_EPOCH + since))
    }
}

/// What the request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    All,
    /// 206: so many bytes from this one on; never none.
    Part {
        start: u64,
        len: u64,
    },
    /// 304: the client has it.
    Nothing,
    /// 412: it has changed.
    Changed,
    /// 416: it is shorter than that.
    Beyond,
}

/// Evaluates the preconditions and the range of a GET or HEAD, in the order of RFC 9110 13.2.2.
pub(crate) fn wanted(request: &Request<'_>, file: &Validators) -> Wanted {
    let date = |name| request.header(name).and_then(date_secs);
    if request.header("If-Match").is_some() {
        if !lists_tag(request, "If-Match", file, Comparison::Strong) {
            return Wanted::Changed;
        }
    } else if let (Some(limit), Some(modified)) = (date("If-Unmodified-Since"), file.modified_secs)
        && modified > limit
    {
        return Wanted::Changed;
    }
    if request.header("If-None-Match").is_some() {
        if lists_tag(request, "If-None-Match", file, Comparison::Weak) {
            return Wanted::Nothing;
        }
    } else if let (Some(since), Some(modified)) = (date("If-Modified-Since"), file.modified_secs)
        && modified <= since
    {
        return Wanted::Nothing;
    }
    // RFC 9110 14.2: Range means something for GET only.
    if request.method() != "GET" || !may_be_part(request, file) {
        return Wanted::All;
    }
    let mut ranges = request.header_values("Range");
    match (ranges.next(), ranges.next()) {
        (Some(range), None) => part(range, file.len),
        _ => Wanted::All,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

/// Whether a list of entity tags has the one of the file (RFC 9110 8.8.3.2), or is `*`.
fn lists_tag(request: &Request<'_>, name: &str, file: &Validators, how: Comparison) -> bool {
    // A tag may hold commas; those of this library never do, so no other one can match by its
    // parts.
    request.header_values(name).flat_map(list_elements).any(|element| {
        let weak = element.strip_prefix(b"W/");
        match (weak, how) {
            _ if element == b"*" => true,
            (Some(tag), Comparison::Weak) => tag == file.etag.as_bytes(),
            (Some(_), Comparison::Strong) => false,
            (None, _) => element == file.etag.as_bytes(),
        }
    })
}

/// RFC 9110 13.1.5: If-Range lets a part of the file that the client knows be sent only.
fn may_be_part(request: &Request<'_>, file: &Validators) -> bool {
    match request.header("If-Range") {
        None => true,
        Some(tag) if tag.starts_with(b"\"") => tag == file.etag.as_bytes(),
        // A weak tag never fits; a date has to be exactly the one that was given.
        Some(date) => date_secs(date).is_some_and(|date| Some(date) == file.modified_secs),
    }
}

/// RFC 9110 14.1.2. What is malformed, of another unit or more than one range is ignored: all of
/// the file is a correct answer to that.
fn part(range: &[u8], len: u64) -> Wanted {
    let Some((unit, set)) = split(range, b'=') else { return Wanted::All };
    let Some((first, last)) = split(set, b'-') else { return Wanted::All };
    if !unit.eq_ignore_ascii_case(b"bytes") {
        return Wanted::All;
    }
    let (start, end) = match (decimal(first), decimal(last)) {
        (None, Some(count)) if first.is_empty() => (len - count.min(len), len),
        (Some(start), None) if last.is_empty() => (start, len),
        (Some(start), Some(last)) if start <= last => (start, len.min(last.saturating_add(1))),
        _ => return Wanted::All,
    };
    if start >= end { Wanted::Beyond } else { Wanted::Part { start, len: end - start } }
}

fn split(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let index = bytes.iter().position(|&byte| byte == at)?;
    Some((&bytes[..index], &bytes[index + 1..]))
}

/// Digits only. More of them than fit are as good as the greatest number.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0_u64, |value, digit| {
        value.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    }))
}

/// A date of HTTP in seconds since 1970; `None` if it is none (RFC 9110 13.1.3: ignore it then).
fn date_secs(value: &[u8]) -> Option<u64> {
    let date = httpdate::parse_http_date(str::from_utf8(value).ok()?).ok()?;
    Some(date.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::Limits;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn file() -> Validators {
        let modified = UNIX_EPOCH + Duration::new(784_111_777, 5);
        Validators::new(1000, Some(modified))
    }

    fn ask(method: &str, lines: &str) -> Wanted {
        let lines = lines.replace("TAG", &file().etag);
        let head = format!("{method} / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let request = Request::parse(head.as_bytes(), &Limits::new()).expect("well-formed");
        wanted(&request, &file())
    }

    #[test]
    fn a_file_says_what_it_is() {
        assert_eq!(file().etag, "\"ae1b981bc490a05-3e8\"");
        assert_eq!(file().last_modified().as_deref(), Some(DATE));
        assert_eq!(Validators::new(1, None).last_modified(), None);
    }

    #[test]
    fn preconditions_come_in_the_order_of_the_rfc() {
        for (lines, expected) in [
            ("", Wanted::All),
            ("If-None-Match: TAG\r\n", Wanted::Nothing),
            ("If-None-Match: W/TAG\r\n", Wanted::Nothing),
            ("If-None-Match: \"x\", TAG\r\n", Wanted::Nothing),
            ("If-None-Match: \"x\"\r\nIf-None-Match: TAG\r\n", Wanted::Nothing),
            ("If-None-Match: *\r\n", Wanted::Nothing),
            ("If-None-Match: \"x\"\r\n", Wanted::All),
            (&format!("If-Modified-Since: {DATE}\r\n"), Wanted::Nothing),
            (&format!("If-Modified-Since: {AFTER}\r\n"), Wanted::Nothing),
            (&format!("If-Modified-Since: {BEFORE}\r\n"), Wanted::All),
            ("If-Modified-Since: yesterday\r\n", Wanted::All),
            // If-None-Match goes before it.
            (&format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {DATE}\r\n"), Wanted::All),
            ("If-Match: TAG\r\n", Wanted::All),
            ("If-Match: W/TAG\r\n", Wanted::Changed),
            ("If-Match: *\r\n", Wanted::All),
            ("If-Match: \"x\"\r\n", Wanted::Changed),
            (&format!("If-Unmodified-Since: {BEFORE}\r\n"), Wanted::Changed),
            (&format!("If-Unmodified-Since: {DATE}\r\n"), Wanted::All),
            ("If-Match: TAG\r\nIf-None-Match: TAG\r\n", Wanted::Nothing),
        ] {
            assert_eq!(ask("GET", lines), expected, "{lines}");
        }
    }

    #[test]
    fn one_range_is_a_part() {
        let part = |start, len| Wanted::Part { start, len };
        for (range, expected) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=0-499", part(0, 500)),
            ("Bytes=500-", part(500, 500)),
            ("bytes=-1", part(999, 1)),
            ("bytes=-5000", part(0, 1000)),
            ("bytes=999-5000", part(999, 1)),
            ("bytes=5-99999999999999999999999", part(5, 995)),
            ("bytes=1000-", Wanted::Beyond),
            ("bytes=99999999999999999999999-", Wanted::Beyond),
            ("bytes=-0", Wanted::Beyond),
            ("bytes=5-4", Wanted::All),
            ("bytes=-", Wanted::All),
            ("bytes=", Wanted::All),
            ("bytes", Wanted::All),
            ("bytes=0-1,5-6", Wanted::All),
            ("bytes=+0-1", Wanted::All),
            ("bytes= 0-1", Wanted::All),
            ("lines=0-1", Wanted::All),
        ] {
            assert_eq!(ask("GET", &format!("Range: {range}\r\n")), expected, "{range}");
        }
        assert_eq!(ask("HEAD", "Range: bytes=0-0\r\n"), Wanted::All);
        assert_eq!(ask("GET", "Range: bytes=0-0\r\nRange: bytes=1-1\r\n"), Wanted::All);
    }

    #[test]
    fn a_part_of_another_state_is_never_sent() {
        for (value, is_part) in [
            ("TAG", true),
            ("W/TAG", false),
            ("\"x\"", false),
            (DATE, true),
            (BEFORE, false),
            (AFTER, false),
            ("never", false),
        ] {
            let wanted = ask("GET", &format!("Range: bytes=0-0\r\nIf-Range: {value}\r\n"));
            assert_eq!(wanted != Wanted::All, is_part, "{value}");
        }
    }

    #[test]
    fn an_empty_file_has_no_parts() {
        assert_eq!(part(b"bytes=0-", 0), Wanted::Beyond);
        assert_eq!(part(b"bytes=-5", 0), Wanted::Beyond);
    }

    proptest! {
        #[test]
        fn a_part_lies_inside_of_the_file(range in "bytes=[0-9]{0,22}-[0-9]{0,22}", len: u64) {
            if let Wanted::Part { start, len: count } = part(range.as_bytes(), len) {
                prop_assert!(count > 0);
                prop_assert!(start.checked_add(count).is_some_and(|end| end <= len));
            }
        }
    }
}
