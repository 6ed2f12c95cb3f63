//! Promises of the whole handshake: one test for each kind of hostile input in `requests`, and
//! what holds for any bytes in `properties`.

mod properties;
mod requests;

use super::*;
use crate::protocol::Limits;

const LIMITS: Limits = Limits::new();
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// The header lines of a valid upgrade request.
const VALID: [&str; 5] = [
    "Host: h.example",
    "Upgrade: websocket",
    "Connection: Upgrade",
    KEY,
    "Sec-WebSocket-Version: 13",
];

fn head(request_line: &str, lines: &[&str]) -> Vec<u8> {
    let mut head = format!("{request_line}\r\n");
    for line in lines {
        head += line;
        head += "\r\n";
    }
    (head + "\r\n").into_bytes()
}

/// A valid upgrade request, except that the lines beginning with `instead_of` are replaced.
fn upgrade_with(instead_of: &str, replacements: &[&str]) -> Vec<u8> {
    let kept = VALID.iter().filter(|line| instead_of.is_empty() || !line.starts_with(instead_of));
    let lines: Vec<&str> = kept.chain(replacements).copied().collect();
    head("GET /chat HTTP/1.1", &lines)
}

/// What a server answers to these bytes, fed in pieces that end at `cuts`: `None` while it waits
/// for more, else the 101 response and the length of the head.
fn answer_in_pieces(
    bytes: &[u8],
    cuts: &[usize],
    limits: &Limits,
) -> Result<Option<(String, usize)>, Refusal> {
    let mut scanner = HeadScanner::new();
    for end in cuts.iter().copied().chain([bytes.len()]) {
        if let Some(head_len) = scanner.scan(&bytes[..end], limits)? {
            let request = Request::parse(&bytes[..head_len], limits)?;
            let mut out = Vec::new();
            ServerHandshake::check(&request)?.write_response(None, &[], &mut out).unwrap();
            return Ok(Some((String::from_utf8(out).unwrap(), head_len)));
        }
    }
    Ok(None)
}

fn answer(bytes: &[u8]) -> Result<Option<(String, usize)>, Refusal> {
    answer_in_pieces(bytes, &[], &LIMITS)
}

fn assert_accepted(bytes: &[u8]) {
    let (response, head_len) = answer(bytes).unwrap().unwrap();
    assert_eq!(head_len, bytes.len());
    assert_eq!(
        response,
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        )
    );
}

#[track_caller]
fn assert_refused(bytes: &[u8], refusal: Refusal, status: u16) {
    assert_eq!(answer(bytes), Err(refusal), "{}", bytes.escape_ascii());
    assert_eq!(refusal.status(), status);
}

fn parse(bytes: &[u8]) -> Result<Request<'_>, Refusal> {
    Request::parse(bytes, &LIMITS)
}
