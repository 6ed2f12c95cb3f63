//! The opening handshake (RFC 6455 4), both sides of it.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::{byte, lengths, pieces};
use crate::protocol::Limits;
use crate::protocol::upgrade::{
    BodyLength, ClientHandshake, HeadScanner, Refusal, Request, ServerHandshake,
};

fn limits(flags: u8) -> Limits {
    match flags & 1 {
        0 => Limits::new(),
        _ => Limits::new().max_head(300).max_target(20).max_headers(7),
    }
}

/// The answer of the scanner, and after which piece it came.
fn scan(head: &[u8], cuts: &[usize], limits: &Limits) -> Result<Option<usize>, Refusal> {
    let mut scanner = HeadScanner::new();
    let mut received = 0;
    for piece in pieces(head, cuts) {
        received += piece.len();
        let answer = scanner.scan(&head[..received], limits);
        if answer != Ok(None) {
            assert_eq!(scanner.scan(&head[..received], limits), answer, "asked again");
            assert_eq!(scanner.scan(head, limits), answer, "asked again, with all of it");
            return answer;
        }
        assert!(received < limits.head() as usize, "undecided at {received} bytes");
    }
    Ok(None)
}

/// Flags, lengths of pieces, then a request.
pub fn request(mut input: &[u8]) {
    let limits = limits(byte(&mut input));
    let cuts = lengths(&mut input);
    let whole = scan(input, &[], &limits);
    assert_eq!(scan(input, &cuts, &limits), whole, "cut into {cuts:?}");
    let checked = match whole {
        Ok(None) => {
            assert!(Request::parse(input, &limits).is_err(), "no request without an end");
            return;
        }
        Ok(Some(head_len)) => {
            let head = &input[..head_len];
            assert!(head.ends_with(b"\r\n\r\n"));
            Request::parse(head, &limits).and_then(|request| check_request(&request))
        }
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = checked {
        let mut out = Vec::new();
        refusal.write_response(&mut out);
        let status = refusal.status();
        assert!(matches!(status, 400..=431 | 503 | 505), "{status}");
        assert!(out.starts_with(format!("HTTP/1.1 {status} ").as_bytes()));
    }
}

fn check_request(request: &Request<'_>) -> Result<(), Refusal> {
    assert!(request.target().starts_with(request.path()) || request.target().contains("://"));
    assert!(!request.path().contains(['?', '#', ' ', '\r', '\n', '\0']));
    for (name, value) in request.headers() {
        assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'), "{name:?}");
        let ok = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7F);
        assert!(value.iter().all(ok), "{value:?}");
        assert_eq!(value, value.trim_ascii(), "no blanks at the ends");
        assert!(request.header_values(name).any(|other| other == value));
    }
    let has = |name| request.header(name).is_some();
    match request.body_length() {
        BodyLength::None => assert!(!has("Transfer-Encoding"), "a body overlooked"),
        _ => assert!(has("Content-Length") != has("Transfer-Encoding")),
    }
    let handshake = ServerHandshake::check(request)?;
    assert!(request.asks_for_websocket(), "more than it asks for");
    assert_eq!(request.method(), "GET");
    assert!(request.body_length().is_empty());
    check_offers(&handshake);

    // The client that sent this key takes our answer.
    let key = request.header("Sec-WebSocket-Key").expect("checked");
    let nonce = BASE64_STANDARD.decode(key).expect("checked").try_into().expect("16 bytes");
    let mut client = ClientHandshake::new(nonce);
    let offered = handshake.subprotocols().next();
    let unique = offered.as_slice();
    client.write_request("a", "/", unique, &[], &mut Vec::new()).expect("tokens");
    let mut out = Vec::new();
    handshake.write_response(offered, &[("X-Extra", "1")], &mut out).expect("offered");
    let established = client.read_response(&out, &Limits::new()).expect("a good answer");
    let established = established.expect("a whole one");
    assert_eq!(established.head_len, out.len());
    assert_eq!(established.subprotocol.as_deref(), offered);
    Ok(())
}

fn check_offers(handshake: &ServerHandshake<'_>) {
    for name in handshake.subprotocols() {
        assert!(crate::protocol::upgrade::is_token(name), "{name:?}");
    }
    for offer in handshake.extensions() {
        assert!(crate::protocol::upgrade::is_token(offer.name()), "{offer:?}");
        for parameter in offer.parameters() {
            assert!(crate::protocol::upgrade::is_token(parameter.name), "{parameter:?}");
            if let Some(value) = parameter.value {
                // RFC 6455 9.1: what a quoted value means must be a token, too.
                let meant: Vec<u8> = value.bytes().collect();
                let meant = String::from_utf8(meant).expect("ASCII");
                assert!(crate::protocol::upgrade::is_token(&meant), "{meant:?}");
            }
        }
    }
}

/// Two values of Sec-WebSocket-Extensions, with a line end in between.
pub fn extensions(input: &[u8]) {
    let mut head = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        .to_vec();
    let lines = input.splitn(2, |byte| *byte == b'\n');
    for line in lines {
        head.extend_from_slice(b"Sec-WebSocket-Extensions:");
        head.extend_from_slice(line);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    let limits = Limits::new().max_head(1 << 20);
    let Ok(request) = Request::parse(&head, &limits) else { return };
    match ServerHandshake::check(&request) {
        Ok(handshake) => check_offers(&handshake),
        Err(refusal) => assert_eq!(refusal, Refusal::InvalidExtensions),
    }
}

/// Flags, lengths of pieces, then a response to a client.
pub fn response(mut input: &[u8]) {
    let limits = limits(byte(&mut input));
    let cuts = lengths(&mut input);
    let client = || {
        let mut client = ClientHandshake::new(*b"the sample nonce");
        let offered = ["chat", "superchat"];
        client.write_request("a", "/", &offered, &[], &mut Vec::new()).expect("tokens");
        client
    };
    let whole = client().read_response(input, &limits);
    let mut cut_client = client();
    let mut received = 0;
    let mut cut = Ok(None);
    for piece in pieces(input, &cuts) {
        received += piece.len();
        cut = cut_client.read_response(&input[..received], &limits);
        if !matches!(cut, Ok(None)) {
            break;
        }
    }
    assert_eq!(cut, whole, "cut into {cuts:?}");
    if let Ok(Some(established)) = whole {
        let head = &input[..established.head_len];
        assert!(head.starts_with(b"HTTP/1.1 101") && head.ends_with(b"\r\n\r\n"));
        let accept = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        assert!(head.windows(accept.len()).any(|window| window == accept));
    }
}
