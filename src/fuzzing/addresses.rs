//! Where requests are said to come from: PROXY headers, forwarded headers, networks; and where ours
//! go to: URLs.

use std::net::IpAddr;

use crate::client::url::{Endpoint, Url};
use crate::protocol::Limits;
use crate::protocol::upgrade::{ClientHandshake, Request, ServerHandshake};
use crate::trust::network::Peers;
use crate::trust::proxy_protocol::{self, MAX_LEN};
use crate::trust::{ForwardedHeader, Trust};

/// The beginning of a connection from a proxy.
pub fn proxy_header(input: &[u8]) {
    // Once there is an answer, more bytes do not change it.
    let answers = (0..=input.len()).map(|len| proxy_protocol::parse(&input[..len]));
    let whole = proxy_protocol::parse(input);
    let mut decided = None;
    for (len, answer) in answers.enumerate().take(MAX_LEN + 2) {
        match decided {
            Some(earlier) => assert_eq!(answer, earlier, "at {len}"),
            None if answer != Ok(None) => decided = Some(answer),
            None => assert!(len < MAX_LEN, "undecided at {len}"),
        }
        if let Ok(Some(header)) = answer {
            assert!(header.len <= len && header.len <= MAX_LEN);
        }
    }
    assert_eq!(decided.unwrap_or(Ok(None)), whole);
}

/// Header lines of a request that comes from a trusted proxy, each with its number.
pub fn forwarded(input: &[u8]) {
    let mut head = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
    for line in input.split(|byte| *byte == b'\n').take(8) {
        let (number, value) = line.split_first().unwrap_or((&b'0', line));
        let name = if number % 2 == 0 { "X-Forwarded-For:" } else { "Forwarded:" };
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    let Ok(request) = Request::parse(&head, &Limits::new().max_head(1 << 20)) else { return };
    let proxies = ["10.0.0.0/8", "fd00::/8"];
    let proxy: IpAddr = [10, 0, 0, 1].into();
    let stranger: IpAddr = [192, 0, 2, 1].into();
    for header in [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded] {
        let hops = header.hops(&request);
        assert!(hops.len() <= input.len() + 8, "more hops than bytes");
        let peers = Peers::parse(proxies).expect("networks");
        let trust = Trust { forwarded: Some((header, peers)), ..Trust::default() };
        assert_eq!(trust.client_ip(Some(stranger), &request), Some(stranger), "not listed");
        let client = trust.client_ip(Some(proxy), &request).expect("at least the proxy");
        assert!(client == proxy || hops.contains(&Some(client)), "{client} is nowhere");
        // Somebody to the left of an unknown hop is not believed.
        let known = hops.iter().rev().map_while(|hop| *hop);
        assert!(client == proxy || known.into_iter().any(|hop| hop == client));
    }
}

/// Texts of the builder, with line ends in between; then 16 bytes of an address.
pub fn networks(input: &[u8]) {
    let (text, address) = input.split_at(input.len().saturating_sub(16));
    let Ok(text) = std::str::from_utf8(text) else { return };
    let all: Result<Peers, String> = Peers::parse(text.lines());
    let each = text.lines().map(|line| Peers::parse([line]));
    let each: Result<Vec<Peers>, String> = each.collect();
    assert_eq!(all.is_ok(), each.is_ok());
    let (Ok(all), Ok(each)) = (all, each) else { return };
    let Ok(address) = <[u8; 16]>::try_from(address) else { return };
    let [a, b, c, d, ..] = address;
    for ip in [IpAddr::from(address), IpAddr::from([a, b, c, d])] {
        let in_one = each.iter().any(|peers| peers.contain(Some(ip)));
        assert_eq!(all.contain(Some(ip)), in_one, "{ip} in {text:?}");
        assert_eq!(all.contain(Some(ip.to_canonical())), in_one, "{ip} written otherwise");
    }
}

/// A URL that a client is told.
pub fn url(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(url) = Url::parse(text) else { return };
    match &url.endpoint {
        Endpoint::Tcp { host, port } => {
            assert!(!host.is_empty());
            let default_port = if url.secure { 443 } else { 80 };
            assert_eq!(url.host.ends_with(&format!(":{port}")), *port != default_port, "{url:?}");
            let scheme = if url.secure { "wss" } else { "ws" };
            let again = Url::parse(&format!("{scheme}://{}{}", url.host, url.target));
            assert_eq!(again.as_ref(), Ok(&url), "written otherwise");
        }
        Endpoint::Unix(path) => assert!(!path.as_os_str().is_empty() && !url.secure),
    }
    // What would be written: nothing, or a request that says what the URL says and nothing else.
    let mut head = Vec::new();
    let mut client = ClientHandshake::new([7; 16]);
    if client.write_request(&url.host, &url.target, &[], &[], &mut head).is_err() {
        assert!(head.is_empty());
        return;
    }
    let limits = Limits::new().max_head(1 << 20).max_target(1 << 16);
    let request = Request::parse(&head, &limits).expect("a request");
    assert_eq!((request.host(), request.target()), (Some(&*url.host), &*url.target));
    assert_eq!(request.headers().count(), 5, "{}", head.escape_ascii());
    ServerHandshake::check(&request).expect("an upgrade");
}
