//! Request targets (RFC 9112 3.2) and host names with port (RFC 3986 3.2).
//!
//! Comes in: a method and the target that stands behind it. Goes out: authority, path and query
//! as slices of the target. It never decodes percent signs and never resolves dot segments.

use super::grammar::is_token_char;

/// The parts of a request target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    /// Host and port, of the absolute form only.
    pub(super) authority: Option<&'a str>,
    /// Starts with `/`, or is `*`.
    pub(super) path: &'a str,
    /// What stands behind the first `?`.
    pub(super) query: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Splits a target; `None` if it has none of the forms that a server may be asked with:
    /// origin form, absolute form, or `*` for OPTIONS. CONNECT's authority form is not one.
    pub(super) fn split(method: &str, target: &'a str) -> Option<Target<'a>> {
        // One pass without an early end, which the compiler turns into a few wide instructions.
        if !target.bytes().fold(true, |valid, byte| valid & is_target_char(byte)) {
            return None;
        }
        if target.starts_with('/') {
            return Some(Target::of(None, target));
        }
        if target == "*" {
            return (method == "OPTIONS").then_some(Target::of(None, target));
        }
        // RFC 9112 3.2.2: a server MUST accept the absolute form.
        let (scheme, rest) = target.split_once("://")?;
        if !SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return None;
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        is_authority(authority.as_bytes()).then_some(Target::of(Some(authority), rest))
    }

    fn of(authority: Option<&'a str>, rest: &'a str) -> Target<'a> {
        let (path, query) = match rest.bytes().position(|byte| byte == b'?') {
            Some(end) => (&rest[..end], Some(&rest[end + 1..])),
            None => (rest, None),
        };
        // RFC 9110 4.2.3: an empty path means "/".
        Target { authority, path: if path.is_empty() { "/" } else { path }, query }
    }
}

/// Schemes of the absolute form; RFC 6455 3 defines the last two.
const SCHEMES: [&str; 4] = ["http", "https", "ws", "wss"];

/// Whether a target may start with this byte after this method; the earliest moment to notice
/// that something is not HTTP/1.1 (`PRI * HTTP/2.0`, `PROXY TCP4 ...`).
pub(super) fn may_start_target(method: &[u8], byte: u8) -> bool {
    match byte {
        b'/' => true,
        b'*' => method == b"OPTIONS",
        // The first letters of `SCHEMES`.
        _ => matches!(byte.to_ascii_lowercase(), b'h' | b'w'),
    }
}

/// Visible ASCII without `#`: RFC 9112 3.2 knows no fragment in a request target.
pub(super) fn is_target_char(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e) && byte != b'#'
}

/// Whether the bytes are `uri-host [":" port]` with a host that is not empty, and no user name
/// (RFC 9110 7.2, RFC 3986 3.2.2). Such bytes are ASCII.
pub(crate) fn is_authority(bytes: &[u8]) -> bool {
    let host_len = match bytes {
        // The address of an IP literal is not read, only its alphabet is checked.
        [b'[', rest @ ..] => match rest.iter().position(|&byte| !is_address_char(byte)) {
            Some(len) if len > 0 && rest[len] == b']' => len + 2,
            _ => return false,
        },
        _ => match bytes.iter().position(|&byte| !is_reg_name_char(byte)) {
            Some(0) => return false,
            Some(len) => len,
            None => return !bytes.is_empty(),
        },
    };
    match &bytes[host_len..] {
        [] => true,
        [b':', port @ ..] => port.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

fn is_address_char(byte: u8) -> bool {
    byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')
}

/// RFC 3986 3.2.2: unreserved, sub-delims and the percent sign of an encoded byte.
fn is_reg_name_char(byte: u8) -> bool {
    (is_token_char(byte) && !matches!(byte, b'#' | b'^' | b'`' | b'|'))
        || matches!(byte, b'(' | b')' | b',' | b';' | b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_form_is_split_at_the_first_question_mark() {
        let target = Target::split("GET", "/chat/a?b=c?d").unwrap();
        assert_eq!(target, Target { authority: None, path: "/chat/a", query: Some("b=c?d") });
        assert_eq!(Target::split("GET", "/").unwrap().query, None);
        assert_eq!(Target::split("GET", "/?").unwrap().query, Some(""));
        assert_eq!(Target::split("GET", "//host/x").unwrap().path, "//host/x");
    }

    #[test]
    fn absolute_form_gives_the_authority() {
        let target = Target::split("GET", "HTTP://h.example:80/x?y").unwrap();
        assert_eq!(
            target,
            Target { authority: Some("h.example:80"), path: "/x", query: Some("y") }
        );
        assert_eq!(Target::split("GET", "ws://h").unwrap().path, "/");
        assert_eq!(Target::split("GET", "wss://[::1]:9?q").unwrap().query, Some("q"));
    }

    #[test]
    fn other_targets_are_refused() {
        for target in [
            "",
            "chat",
            "*",
            "ftp://h/",
            "http:/h",
            "http://",
            "http:///x",
            "http://user@h/",
            "h:80",
            "/a#b",
            "/a b",
            "/\u{e9}",
            "/\u{7f}",
            "http://h:x/",
            "?",
            "//h#",
        ] {
            assert_eq!(Target::split("GET", target), None, "{target:?}");
        }
        assert_eq!(Target::split("CONNECT", "h:80"), None);
        assert_eq!(Target::split("OPTIONS", "*").unwrap().path, "*");
        assert_eq!(Target::split("OPTIONS", "**"), None);
    }

    #[test]
    fn every_valid_target_may_start_as_it_does() {
        for target in ["/x", "http://h", "HTTPS://h", "ws://h", "Wss://h"] {
            assert!(Target::split("GET", target).is_some(), "{target:?}");
            assert!(may_start_target(b"GET", target.as_bytes()[0]), "{target:?}");
        }
        assert!(may_start_target(b"OPTIONS", b'*'));
        assert!(!may_start_target(b"PRI", b'*'));
        assert!(!may_start_target(b"PROXY", b'T'));
    }

    #[test]
    fn authorities() {
        for valid in ["a", "a:", "a:80", "127.0.0.1:1", "[::1]", "[::ffff:1.2.3.4]:443", "a_b%41"] {
            assert!(is_authority(valid.as_bytes()), "{valid:?}");
        }
        for invalid in [
            "", ":80", "a b", "a:b", "a:80:90", "u@a", "[::1", "[]", "[g]", "[::1]x", "a/b", "a\"",
            "a, b", "a|b", "\u{e9}", "a?b",
        ] {
            assert!(!is_authority(invalid.as_bytes()), "{invalid:?}");
        }
    }
}
