//! The PROXY protocol, versions 1 and 2 (haproxy.org, `proxy-protocol.txt`).
//!
//! Comes in: the first bytes of a connection, from a peer that must send such a header. Goes out:
//! its length and the address of the client, or the news that it is none, at the first byte that
//! cannot belong to one. It never looks at more than [`MAX_LEN`] bytes and allocates nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header that is accepted. Version 1 ends within 107 bytes; of version 2 the
/// specification asks that it fits into one segment everywhere, which has 536 bytes.
pub(crate) const MAX_LEN: usize = 536;

/// The longest line of version 1, its CRLF included.
const MAX_LINE: usize = 107;

/// How version 2 begins; no request of HTTP does.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// A complete header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// What follows it is the client's.
    pub(crate) len: usize,
    /// The client; `None` if the proxy speaks for itself (health checks) or does not know.
    pub(crate) source: Option<SocketAddr>,
}

/// The bytes are no PROXY header, whatever follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Reads a header from the front of what was received so far; `Ok(None)` if it goes on.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    match bytes {
        [] => Ok(None),
        [b'P', ..] => parse_line(bytes),
        _ => parse_binary(bytes),
    }
}

/// Version 1: `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n`.
fn parse_line(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let start = b"PROXY ";
    let common = start.len().min(bytes.len());
    if bytes[..common] != start[..common] {
        return Err(Malformed);
    }
    let visible = &bytes[..bytes.len().min(MAX_LINE)];
    let end = visible.windows(2).position(|two| two == b"\r\n");
    let line = match end {
        Some(end) => &visible[..end],
        None => visible.strip_suffix(b"\r").unwrap_or(visible),
    };
    if !line.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(Malformed);
    }
    let Some(end) = end else {
        return if bytes.len() < MAX_LINE { Ok(None) } else { Err(Malformed) };
    };
    let len = end + 2;
    let line = str::from_utf8(&bytes[start.len()..end]).map_err(|_| Malformed)?;
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        // The specification: whatever follows up to the end of the line must be ignored.
        return Ok(Some(Header { len, source: None }));
    }
    let mut parts = line.split(' ');
    let (Some(family), Some(source), Some(destination), Some(port), Some(other), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Malformed);
    };
    let (source, destination) = (ip(source)?, ip(destination)?);
    let fits = match family {
        "TCP4" => source.is_ipv4() && destination.is_ipv4(),
        "TCP6" => source.is_ipv6() && destination.is_ipv6(),
        _ => false,
    };
    let (port, _) = (decimal(port)?, decimal(other)?);
    if fits {
        Ok(Some(Header { len, source: Some(SocketAddr::new(source, port)) }))
    } else {
        Err(Malformed)
    }
}

fn ip(text: &str) -> Result<IpAddr, Malformed> {
    text.parse().map_err(|_| Malformed)
}

/// A port without leading zeroes.
fn decimal(text: &str) -> Result<u16, Malformed> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) || (text.len() > 1 && text.starts_with('0'))
    {
        return Err(Malformed);
    }
    text.parse().map_err(|_| Malformed)
}

/// Version 2: signature, version and command, family and protocol, length, addresses, extensions.
fn parse_binary(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let common = SIGNATURE.len().min(bytes.len());
    if bytes[..common] != SIGNATURE[..common] {
        return Err(Malformed);
    }
    let (is_proxied, family) = match bytes[common..] {
        [] => return Ok(None),
        [0x20, ..] => (false, None),
        [0x21, ..] => (true, bytes.get(13).copied()),
        _ => return Err(Malformed),
    };
    // Only streams come in here; how long the addresses are at least.
    let addresses_len = match family {
        None | Some(0x00) => 0,
        Some(0x11) => 12,
        Some(0x21) => 36,
        // Unix sockets on the proxy's side: nothing that could be an address here.
        Some(0x31) => 216,
        Some(_) => return Err(Malformed),
    };
    let Some(&[high, low]) = bytes.get(14..16) else { return Ok(None) };
    let body_len = usize::from(u16::from_be_bytes([high, low]));
    let len = 16 + body_len;
    if len > MAX_LEN || body_len < addresses_len {
        return Err(Malformed);
    }
    let Some(body) = bytes.get(16..len) else { return Ok(None) };
    let source = match (is_proxied, family, body) {
        (true, Some(0x11), [a, b, c, d, _, _, _, _, high, low, ..]) => {
            let ip = Ipv4Addr::new(*a, *b, *c, *d);
            Some(SocketAddr::new(ip.into(), u16::from_be_bytes([*high, *low])))
        }
        (true, Some(0x21), _) => {
            let ip: [u8; 16] = body[..16].try_into().map_err(|_| Malformed)?;
            let port = u16::from_be_bytes([body[32], body[33]]);
            Some(SocketAddr::new(Ipv6Addr::from(ip).into(), port))
        }
        _ => None,
    };
    Ok(Some(Header { len, source }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend_from_slice(&[command, family]);
        bytes.extend_from_slice(&(body.len() as u16).to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    /// 192.0.2.1:56324 to 198.51.100.1:443.
    const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb];

    fn v6() -> Vec<u8> {
        let mut body = Ipv6Addr::LOCALHOST.octets().to_vec();
        body.extend_from_slice(&[0; 16]);
        body.extend_from_slice(&[0x12, 0x34, 0, 80]);
        body
    }

    fn valid() -> Vec<(Vec<u8>, Option<&'static str>)> {
        let mut with_extensions = V4.to_vec();
        with_extensions.resize(MAX_LEN - 16, 0x04);
        vec![
            (b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n".to_vec(), Some("192.0.2.1:56324")),
            (b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n".to_vec(), Some("[2001:db8::1]:0")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN whatever it is\r\n".to_vec(), None),
            (binary(0x21, 0x11, &V4), Some("192.0.2.1:56324")),
            (binary(0x21, 0x11, &with_extensions), Some("192.0.2.1:56324")),
            (binary(0x21, 0x21, &v6()), Some("[::1]:4660")),
            (binary(0x21, 0x31, &[7; 216]), None),
            (binary(0x21, 0x00, b""), None),
            (binary(0x21, 0x00, b"extensions"), None),
            (binary(0x20, 0x00, b""), None),
            (binary(0x20, 0x11, &V4), None),
        ]
    }

    #[test]
    fn headers_are_read_whatever_follows_and_however_they_are_cut() {
        for (header, source) in valid() {
            let source = source.map(|source| source.parse().expect("an address"));
            let expected = Header { len: header.len(), source };
            let mut bytes = header.clone();
            bytes.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
            for cut in 0..header.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "{cut} of {header:?}");
            }
            for cut in header.len()..=bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(Some(expected)), "{cut} of {header:?}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused_at_its_first_impossible_byte() {
        for bytes in [
            &b"GET"[..],
            b"G",
            b"PRI",
            b"proxy",
            b"PROXYTCP4",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 1\r\n",
            b"PROXY TCP4 192.0.2.1  198.51.100.1 56324 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 65536\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 056 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 +56 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1  443\r\n",
            b"PROXY TCP4 192.0.2 198.51.100.1 56324 443\r\n",
            b"PROXY TCP4 ::1 ::1 56324 443\r\n",
            b"PROXY TCP6 192.0.2.1 198.51.100.1 56324 443\r\n",
            b"PROXY UDP4 192.0.2.1 198.51.100.1 56324 443\r\n",
            b"PROXY UNKNOWNX\r\n",
            b"PROXY \r\n",
            b"PROXY TCP4 \n",
            b"PROXY TCP4 \0",
            b"PROXY UNKNOWN \0\r\n",
            b"PROXY UNKNOWN \r \r\n",
            b"\r\n\r\n\0\r\nQUIT\r",
            b"\r\n\r\n\r",
            b"\x16\x03\x01",
            b"\0",
        ] {
            assert_eq!(parse(bytes), Err(Malformed), "{:?}", String::from_utf8_lossy(bytes));
        }
        let endless = [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat();
        assert_eq!(parse(&endless[..MAX_LINE - 1]), Ok(None));
        assert_eq!(parse(&endless[..MAX_LINE]), Err(Malformed));
        let exact = [&endless[..MAX_LINE - 2], b"\r\n"].concat();
        assert_eq!(parse(&exact), Ok(Some(Header { len: MAX_LINE, source: None })));
        let over = [&endless[..MAX_LINE - 1], b"\r\n"].concat();
        assert_eq!(parse(&over), Err(Malformed));
        for (command, family, len) in [
            (0x11, 0x11, 12),
            (0x22, 0x11, 12),
            (0x00, 0x11, 12),
            (0x21, 0x12, 12),
            (0x21, 0x41, 12),
            (0x21, 0x11, 11),
            (0x21, 0x21, 35),
            (0x21, 0x31, 215),
            (0x21, 0x11, MAX_LEN - 15),
            (0x21, 0x11, usize::from(u16::MAX)),
        ] {
            let bytes = binary(command, family, &vec![0; len]);
            // The length is judged before anything is waited for.
            assert_eq!(parse(&bytes[..16]), Err(Malformed), "{command:#x} {family:#x} {len}");
        }
    }

    proptest! {
        #[test]
        fn mutated_headers_never_panic_and_never_wait_for_ever(
            which in 0..12_usize,
            changes in prop::collection::vec((0..MAX_LEN, any::<u8>()), 0..4),
            more in prop::collection::vec(any::<u8>(), 0..700),
        ) {
            let mut bytes = valid()[which].0.clone();
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            bytes.extend(more);
            let whole = parse(&bytes);
            if bytes.len() >= MAX_LEN {
                prop_assert_ne!(whole, Ok(None));
            }
            // However it is cut, the answer is the same once there is one.
            for cut in 0..bytes.len() {
                let part = parse(&bytes[..cut]);
                if part != Ok(None) {
                    prop_assert_eq!(part, whole);
                }
            }
        }
    }
}
