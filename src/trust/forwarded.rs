//! `X-Forwarded-For` and `Forwarded` (RFC 7239).
//!
//! Comes in: the header lines of a request. Goes out: the addresses in them, in the order of the
//! hops. It never decides whom to believe, and what it cannot read it gives as unknown, never as
//! an address.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::protocol::upgrade::{Request, is_token};

/// The header in which proxies name the client that they work for.
///
/// Choose the one that your proxy *sets*. The other one it may pass on as the client sent it, and
/// then anybody could claim any address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardedHeader {
    /// `X-Forwarded-For: 192.0.2.43, 198.51.100.17`: what most proxies set.
    XForwardedFor,
    /// `Forwarded: for=192.0.2.43, for="[2001:db8::1]:4711";proto=https` (RFC 7239).
    Forwarded,
}

/// One element, of which `None` says that it has no address.
type Hop = Option<IpAddr>;

impl ForwardedHeader {
    /// The hops, the one that is furthest away first. As many as the head has room for.
    pub(crate) fn hops(self, head: &Request<'_>) -> Vec<Hop> {
        let mut hops = Vec::new();
        match self {
            Self::XForwardedFor => {
                for line in head.header_values("X-Forwarded-For") {
                    let elements = line.split(|&byte| byte == b',');
                    hops.extend(elements.map(|element| address(element.trim_ascii())));
                }
            }
            Self::Forwarded => {
                for line in head.header_values("Forwarded") {
                    let before = hops.len();
                    if read_elements(line, &mut hops).is_none() {
                        // Nobody knows where the elements of a malformed line begin and end.
                        hops.truncate(before);
                        hops.push(None);
                    }
                }
            }
        }
        hops
    }
}

/// RFC 7239 4: `1#( [ pair ] *( ";" [ pair ] ) )`, and empty elements, which do not count
/// (RFC 9110 5.6.1.2).
fn read_elements(line: &[u8], hops: &mut Vec<Hop>) -> Option<()> {
    let mut rest = line.trim_ascii_start();
    loop {
        let mut for_whom = None;
        let mut is_empty = true;
        loop {
            if !matches!(rest, [] | [b',' | b';', ..]) {
                is_empty = false;
                let (name, value, behind) = pair(rest)?;
                rest = behind;
                if name.eq_ignore_ascii_case(b"for") {
                    // RFC 7239 4: each parameter must not occur more than once per element.
                    if for_whom.is_some() {
                        return None;
                    }
                    for_whom = Some(address(&value));
                }
            }
            rest = rest.trim_ascii_start();
            match rest {
                [b';', behind @ ..] => {
                    is_empty = false;
                    rest = behind.trim_ascii_start();
                }
                [] | [b',', ..] => break,
                _ => return None,
            }
        }
        if !is_empty {
            hops.push(for_whom.flatten());
        }
        match rest {
            [b',', behind @ ..] => rest = behind.trim_ascii_start(),
            _ => return Some(()),
        }
    }
}

/// `token "=" ( token | quoted-string )`: name, value, and what follows.
fn pair(text: &[u8]) -> Option<(&[u8], Vec<u8>, &[u8])> {
    let equals = text.iter().position(|&byte| byte == b'=')?;
    let (name, value) = (&text[..equals], &text[equals + 1..]);
    let is_token = |bytes: &[u8]| str::from_utf8(bytes).is_ok_and(is_token);
    if !is_token(name) {
        return None;
    }
    let [b'"', quoted @ ..] = value else {
        let end = value.iter().position(|byte| b",; \t".contains(byte)).unwrap_or(value.len());
        let (value, behind) = value.split_at(end);
        return is_token(value).then(|| (name, value.to_vec(), behind));
    };
    // RFC 9110 5.6.4: quoted-string.
    let mut value = Vec::new();
    let mut bytes = quoted.iter().enumerate();
    loop {
        match bytes.next()? {
            (end, b'"') => return Some((name, value, &quoted[end + 1..])),
            (_, b'\\') => value.push(*bytes.next()?.1),
            (_, byte) => value.push(*byte),
        }
    }
}

/// RFC 7239 6: an address, with brackets if it is IPv6, with or without a port. `unknown`,
/// obfuscated names and everything else are no address. X-Forwarded-For has IPv6 addresses
/// without brackets, too.
fn address(node: &[u8]) -> Hop {
    let node = str::from_utf8(node).ok()?;
    let ip = if let Some(rest) = node.strip_prefix('[') {
        let (ip, behind) = rest.split_once(']')?;
        let port = behind.strip_prefix(':');
        if !behind.is_empty() && !port.is_some_and(is_port) {
            return None;
        }
        IpAddr::V6(ip.parse::<Ipv6Addr>().ok()?)
    } else {
        match node.parse::<IpAddr>() {
            Ok(ip) => ip,
            Err(_) => node.parse::<SocketAddr>().ok().filter(|_| !node.contains('['))?.ip(),
        }
    };
    Some(ip.to_canonical())
}

/// RFC 7239 6: up to five digits, or an obfuscated one.
fn is_port(text: &str) -> bool {
    let digits = !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
    digits || text.strip_prefix('_').is_some_and(is_token)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn forwarded(line: &str) -> Option<Vec<String>> {
        let mut hops = Vec::new();
        read_elements(line.as_bytes(), &mut hops)?;
        let text = |hop: Hop| hop.map_or("-".to_owned(), |ip| ip.to_string());
        Some(hops.into_iter().map(text).collect())
    }

    #[test]
    fn the_examples_of_rfc_7239_are_understood() {
        for (line, expected) in [
            (r#"for="_gazonk""#, &["-"][..]),
            (r#"For="[2001:db8:cafe::17]:4711""#, &["2001:db8:cafe::17"]),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", &["192.0.2.60"]),
            ("for=192.0.2.43, for=198.51.100.17", &["192.0.2.43", "198.51.100.17"]),
            (
                r#"for=192.0.2.43,for="[2001:db8:cafe::17]",for=unknown"#,
                &["192.0.2.43", "2001:db8:cafe::17", "-"],
            ),
            ("for=_hidden, for=_SEVKISEK", &["-", "-"]),
            (r#"proto=http;for="192.0.2.43:47011";host="a, b""#, &["192.0.2.43"]),
            (r#"for="\1.2.3.4""#, &["1.2.3.4"]),
            (" , for=1.2.3.4 ; proto=http ,, ;for=1.2.3.5;", &["1.2.3.4", "1.2.3.5"]),
            ("by=1.2.3.4", &["-"]),
            ("", &[]),
        ] {
            assert_eq!(
                forwarded(line).as_deref(),
                Some(expected)
                    .map(|e| { e.iter().map(|s| s.to_string()).collect::<Vec<_>>() })
                    .as_deref(),
                "{line}"
            );
        }
    }

    #[test]
    fn a_malformed_line_names_nobody() {
        for line in [
            "for",
            "for=",
            "=1.2.3.4",
            "for =1.2.3.4",
            "for= 1.2.3.4",
            "for=[::1]",
            "for=1.2.3.4:80",
            r#"for="1.2.3.4"#,
            r#"for="1.2.3.4\"#,
            r#"for="1.2.3.4"x"#,
            "for=1.2.3.4;for=1.2.3.5",
            "1.2.3.4",
            "for=1.2.3.4 for=1.2.3.5",
            "for=1.2.3.4,x",
        ] {
            assert_eq!(forwarded(line), None, "{line}");
        }
    }

    #[test]
    fn a_quote_of_the_client_cannot_hide_what_the_proxy_adds() {
        for client in [r#"for=6.6.6.6, for=""#, r#"for=6.6.6.6, for="\"#, r#"for=6.6.6.6;x=""#] {
            for proxy in [", for=1.2.3.4", r#", for="[2001:db8::1]""#, r#", for=1.2.3.4;by="""#] {
                assert_eq!(forwarded(&format!("{client}{proxy}")), None, "{client}{proxy}");
            }
        }
    }

    #[test]
    fn only_addresses_are_addresses() {
        for (node, expected) in [
            ("1.2.3.4", "1.2.3.4"),
            ("1.2.3.4:80", "1.2.3.4"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("[::1]:65535", "::1"),
            ("[::1]:_port", "::1"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
        ] {
            assert_eq!(address(node.as_bytes()).expect(node).to_string(), expected);
        }
        for node in [
            "",
            "unknown",
            "_hidden",
            "1.2.3",
            "1.2.3.4:",
            "1.2.3.4:x",
            "1.2.3.4:99999",
            "[1.2.3.4]",
            "[::1",
            "::1]",
            "[::1]x",
            "[::1]:",
            "01.2.3.4",
            "1.2.3.4 ",
            "localhost",
            "fe80::1%eth0",
        ] {
            assert_eq!(address(node.as_bytes()), None, "{node}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(line in r#"[ -~]{0,60}|([for=,;"\\ 1.2:\[\]]{0,40})"#) {
            let mut hops = Vec::new();
            let _ = read_elements(line.as_bytes(), &mut hops);
            prop_assert!(hops.len() <= line.len());
        }

        #[test]
        fn what_is_written_is_read(ips in prop::collection::vec(any::<IpAddr>(), 1..8)) {
            let element = |ip: &IpAddr| match ip {
                IpAddr::V4(ip) => format!("for={ip}"),
                IpAddr::V6(ip) => format!("proto=http;FOR=\"[{ip}]:1\""),
            };
            let line = ips.iter().map(element).collect::<Vec<_>>().join(", ");
            let ips: Vec<String> = ips.iter().map(|ip| ip.to_canonical().to_string()).collect();
            prop_assert_eq!(forwarded(&line), Some(ips));
        }
    }
}
