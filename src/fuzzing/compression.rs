//! Compressed messages (RFC 7692), received and sent.

use super::frames::{Seen, run, run_in_parts};
use super::{byte, lengths, pieces};
use crate::protocol::{
    BufferPool, Deflate, DeflateParameters, Endpoint, Event, Limits, Message, Opcode, frame,
};

const KEY: [u8; 4] = [0xA5, 0x01, 0xFF, 0x10];

/// Both sides of a connection on which compression was agreed on.
struct Sides {
    flags: u8,
    limits: Limits,
}

impl Sides {
    fn deflate(&self) -> (Deflate, DeflateParameters) {
        let alone = self.flags & 1 != 0;
        let window = 9 + (self.flags >> 4) % 7;
        let settings = if alone { Deflate::shared() } else { Deflate::dedicated(window) };
        let agreed = DeflateParameters {
            server_no_context_takeover: alone,
            client_no_context_takeover: alone,
            server_max_window_bits: window,
            client_max_window_bits: 15,
        };
        (settings.threshold(0).level(1 + (self.flags >> 2) % 9), agreed)
    }

    fn server(&self) -> Endpoint {
        let (settings, agreed) = self.deflate();
        Endpoint::server(self.limits).with_deflate(settings, agreed)
    }

    fn client(&self) -> Endpoint {
        let (settings, agreed) = self.deflate();
        Endpoint::client(self.limits, Box::new(|| KEY)).with_deflate(settings, agreed)
    }
}

/// Flags, lengths of pieces, lengths of fragments; then what a client calls a compressed message,
/// twice, and a message as it is.
pub fn inflate(mut input: &[u8]) {
    let flags = byte(&mut input);
    let limits = match flags >> 6 {
        0 => Limits::new(),
        1 => Limits::new().max_frame(300).max_message(300).max_fragments(5),
        2 => Limits::new().max_frame(100).max_message(70_000),
        _ => Limits::new().max_message(1),
    };
    let sides = Sides { flags, limits };
    let cuts = lengths(&mut input);
    let fragments = lengths(&mut input);
    let opcode = if flags & 2 != 0 { Opcode::Text } else { Opcode::Binary };
    let mut stream = Vec::new();
    for _ in 0..2 {
        let fragments = pieces(input, &fragments);
        for (nth, payload) in fragments.iter().enumerate() {
            let opcode = if nth == 0 { opcode } else { Opcode::Continuation };
            let fin = nth + 1 == fragments.len();
            put_frame(fin, nth == 0, opcode, payload, &mut stream);
            put_frame(true, false, Opcode::Ping, b"", &mut stream);
        }
    }
    put_frame(true, false, Opcode::Text, b"x", &mut stream);

    let whole = run(sides.server(), &stream, &[], None);
    let cut = run(sides.server(), &stream, &cuts, None);
    assert_eq!(whole, cut, "cut into {cuts:?}");
    let max = limits.message() as usize;
    for seen in &whole.seen {
        if let Seen::Binary(bytes) = seen {
            assert!(bytes.len() <= max, "{} bytes", bytes.len());
        }
    }
    // Of a message that breaks several rules, parts may break another one first.
    let mut parts = run_in_parts(sides.server(), &stream, &cuts, &limits);
    let mut expected = whole.seen;
    for seen in [&mut parts, &mut expected] {
        if let Some(Seen::Failed(_)) = seen.last() {
            seen.pop();
            seen.push(Seen::Close(None));
        }
    }
    assert_eq!(parts, expected, "in parts, cut into {cuts:?}");

    // Whoever has closed inflates nothing, whatever comes.
    let mut pool = BufferPool::new(1 << 20);
    let mut endpoint = sides.server();
    assert!(endpoint.close(None, "", &mut Vec::new()));
    let mut rest = &mut stream[..];
    if let Ok(Some(event)) = endpoint.receive(&mut rest, &mut pool) {
        panic!("{event:?} after our Close");
    }
    assert_eq!((pool.inflated(), endpoint.buffered()), (0, 0));
}

fn put_frame(fin: bool, rsv1: bool, opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    let len = payload.len() as u64;
    out.extend_from_slice(&frame::encode_header(fin, rsv1, opcode, len, Some(KEY)));
    out.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// Flags, lengths of messages, then their content: what one side compresses the other can read,
/// also when its compressor is taken away in between.
pub fn deflate(mut input: &[u8]) {
    let flags = byte(&mut input);
    let sides = Sides { flags, limits: Limits::new().max_message(1 << 24) };
    let (mut sender, mut receiver) = match flags & 2 {
        0 => (sides.server(), sides.client()),
        _ => (sides.client(), sides.server()),
    };
    let mut pool = BufferPool::new(1 << 20);
    for (nth, payload) in pieces(input, &lengths(&mut { input })).into_iter().enumerate() {
        if payload.len() % 5 == 0 {
            sender.release_idle_compressor(&mut pool);
        }
        // Longer than a window, for the short inputs of a fuzzer.
        let payload = payload.repeat(if payload.len() % 3 == 0 { 400 } else { 1 });
        let mut out = Vec::new();
        let message = Message::Binary(&payload);
        assert_eq!(sender.send_compressed(message, &mut pool, &mut out), Ok(()), "message {nth}");
        let mut rest = &mut out[..];
        match receiver.receive(&mut rest, &mut pool) {
            Ok(Some(Event::Binary(bytes))) => {
                assert!(bytes.as_slice() == payload, "message {nth}");
                Event::Binary(bytes).recycle(&mut pool);
            }
            other => panic!("message {nth}: {other:?}"),
        }
        assert!(rest.is_empty(), "one frame");
    }
}
