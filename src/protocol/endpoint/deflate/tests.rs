//! Compressed messages, against another implementation of deflate (miniz_oxide).

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use proptest::prelude::*;

use super::*;
use crate::protocol::close::CloseCode;
use crate::protocol::endpoint::tests::{Seen, feed, frame};
use crate::protocol::{Limits, State};

pub(super) const TEXT_DEFLATED: u8 = 0xC1;
pub(super) const BINARY_DEFLATED: u8 = 0xC2;
pub(super) const TAIL: &[u8] = &[0, 0, 0xff, 0xff];

pub(super) const TAKEOVER: DeflateParameters = DeflateParameters {
    server_no_context_takeover: false,
    client_no_context_takeover: false,
    server_max_window_bits: 15,
    client_max_window_bits: 15,
};

const ALONE: DeflateParameters = DeflateParameters {
    server_no_context_takeover: true,
    client_no_context_takeover: true,
    ..TAKEOVER
};

pub(super) fn server(limits: Limits, settings: Deflate, agreed: DeflateParameters) -> Endpoint {
    Endpoint::server(limits).with_deflate(settings, agreed)
}

fn alone() -> Endpoint {
    server(Limits::new(), Deflate::shared(), ALONE)
}

fn takeover() -> Endpoint {
    server(Limits::new(), Deflate::dedicated(15), TAKEOVER)
}

/// Another implementation's compressor, with context.
pub(super) struct Other(pub(super) Compress);

impl Other {
    pub(super) fn new() -> Self {
        Self(Compress::new(Compression::new(6), false))
    }

    pub(super) fn deflate(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(payload.len() * 2 + 100);
        self.0.compress_vec(payload, &mut out, FlushCompress::Sync).expect("compresses");
        assert!(out.ends_with(TAIL), "{out:x?}");
        out.truncate(out.len() - TAIL.len());
        out
    }
}

/// Another implementation's decompressor.
pub(super) fn inflate(decoder: &mut Decompress, payload: &[u8], len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 16);
    let payload = [payload, TAIL].concat();
    let status = decoder.decompress_vec(&payload, &mut out, FlushDecompress::Sync);
    assert!(matches!(status, Ok(Status::Ok | Status::BufError)), "{status:?}");
    out
}

fn see(endpoint: &mut Endpoint, input: &[u8]) -> Vec<Seen> {
    feed(endpoint, input, &mut BufferPool::new(1 << 20))
}

/// What it sees, which must be the same for the whole input, for single bytes, and for sevens.
fn seen(make: impl Fn() -> Endpoint, input: &[u8]) -> Vec<Seen> {
    let whole = see(&mut make(), input);
    for len in [1, 7] {
        let mut endpoint = make();
        let pieces = input.chunks(len).flat_map(|piece| see(&mut endpoint, piece));
        assert_eq!(pieces.collect::<Vec<_>>(), whole, "in pieces of {len}");
    }
    whole
}

pub(super) fn json(len: usize) -> String {
    let mut text = String::new();
    let mut number = 17_u64;
    while text.len() < len {
        number = number.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let (id, price) = (number >> 44, (number >> 20) % 100_000);
        text += &format!("{{\"id\":{id},\"symbol\":\"EURUSD\",\"price\":1.{price:05}}},");
    }
    text.truncate(len);
    text
}

#[test]
fn the_examples_of_the_rfc() {
    // RFC 7692 7.2.3.1, 7.2.3.2: one frame, then two fragments of the same bytes.
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let text = |payload: &str| Seen::Text(payload.to_owned());
    assert_eq!(seen(alone, &frame(TEXT_DEFLATED, &hello)), [text("Hello")]);
    let fragments = [frame(0x41, &hello[..3]), frame(0x80, &hello[3..])].concat();
    assert_eq!(seen(alone, &fragments), [text("Hello")]);
    // 7.2.3.2: the second one refers to the first.
    let shared = [0xf2, 0x00, 0x11, 0x00, 0x00];
    let both = [frame(TEXT_DEFLATED, &hello), frame(TEXT_DEFLATED, &shared)].concat();
    assert_eq!(seen(takeover, &both), [text("Hello"), text("Hello")]);
    // Without context takeover there is nothing to refer to.
    let without = seen(alone, &both);
    assert_eq!(without, [text("Hello"), Seen::Failed(ProtocolError::CorruptDeflate)]);
    // 7.2.3.3: a block without compression.
    let stored = [0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00];
    assert_eq!(seen(alone, &frame(TEXT_DEFLATED, &stored)), [text("Hello")]);
    // 7.2.3.4: a block that calls itself the last one, and the beginning of another.
    let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
    let twice = [frame(TEXT_DEFLATED, &last), frame(TEXT_DEFLATED, &last)].concat();
    for make in [alone, takeover] {
        assert_eq!(seen(make, &twice), [text("Hello"), text("Hello")]);
    }
    // 7.2.3.5: two blocks.
    let two = [0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
    assert_eq!(seen(alone, &frame(TEXT_DEFLATED, &two)), [text("Hello")]);
    // 7.2.3.6: an empty message; and one of a compressor that flushes once too often.
    for empty in [&[0x00][..], &[]] {
        for make in [alone, takeover] {
            let input = [frame(BINARY_DEFLATED, empty), frame(TEXT_DEFLATED, &hello)].concat();
            assert_eq!(seen(make, &input), [Seen::Binary(Vec::new()), text("Hello")]);
        }
    }
}

#[test]
fn rsv1_is_for_the_first_frame_of_a_message() {
    let reserved = [Seen::Failed(ProtocolError::ReservedBits)];
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    // Not agreed on.
    assert_eq!(seen(|| Endpoint::server(Limits::new()), &frame(TEXT_DEFLATED, &hello)), reserved);
    // On control frames and continuations, and the other bits.
    for first in [0xC8, 0xC9, 0xCA, 0xC0, 0xA1, 0x91, 0xE1, 0xD2] {
        assert_eq!(seen(alone, &frame(first, &hello)), reserved, "{first:x}");
    }
    let continued = [frame(0x41, &hello[..3]), frame(0xC0, &hello[3..])].concat();
    assert_eq!(seen(alone, &continued), reserved);
    // A message without it is as it is.
    let mixed = [frame(0x81, b"Hello"), frame(TEXT_DEFLATED, &hello), frame(0x82, b"x")].concat();
    let text = || Seen::Text("Hello".to_owned());
    assert_eq!(seen(takeover, &mixed), [text(), text(), Seen::Binary(b"x".to_vec())]);
}

#[test]
fn control_frames_come_between_compressed_fragments() {
    let payload = Other::new().deflate(b"Hello, Hello, Hello");
    let input = [
        frame(0x41, &payload[..4]),
        frame(0x89, b"ping"),
        frame(0x00, b""),
        frame(0x8A, b""),
        frame(0x80, &payload[4..]),
        frame(0x88, b"\x03\xe8"),
    ]
    .concat();
    let expected = [
        Seen::Ping(b"ping".to_vec()),
        Seen::Pong(Vec::new()),
        Seen::Text("Hello, Hello, Hello".to_owned()),
        Seen::Close(Some((1000, String::new()))),
    ];
    assert_eq!(seen(alone, &input), expected);
}

#[test]
fn corrupt_data_is_1007_and_data_behind_the_last_block_1002() {
    let corrupt = [Seen::Failed(ProtocolError::CorruptDeflate)];
    // A block of the reserved type; a distance to nowhere; a stored block that ends early.
    for bad in [&[0x07][..], &[0xf2, 0x00, 0x11, 0x00, 0x00], &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48]]
    {
        assert_eq!(seen(alone, &frame(BINARY_DEFLATED, bad)), corrupt, "{bad:x?}");
    }
    // Cut in the middle of a block, without takeover.
    let whole = Other::new().deflate(json(2000).as_bytes());
    let cut = &whole[..whole.len() / 2];
    assert_eq!(seen(alone, &frame(TEXT_DEFLATED, cut)), corrupt);
    // Behind the last block.
    let behind = [Seen::Failed(ProtocolError::BlockAfterLast)];
    let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    for more in [&[0x01][..], &[0x00, 0x00], &last] {
        let payload = [&last[..], more].concat();
        assert_eq!(seen(alone, &frame(TEXT_DEFLATED, &payload)), behind, "{more:x?}");
    }
    assert_eq!(ProtocolError::CorruptDeflate.close_code(), CloseCode::INVALID_PAYLOAD);
    assert_eq!(ProtocolError::BlockAfterLast.close_code(), CloseCode::PROTOCOL_ERROR);
}

/// What comes out in front of a mistake is looked at before the mistake, however it is cut.
#[test]
fn the_rule_that_is_broken_first_counts() {
    let last = |payload: &[u8]| {
        let mut out = Vec::with_capacity(100);
        let mut compress = Compress::new(Compression::new(6), false);
        let status = compress.compress_vec(payload, &mut out, FlushCompress::Finish);
        assert_eq!(status.expect("compresses"), Status::StreamEnd);
        out
    };
    let corrupt = [&Other::new().deflate(b"\xff")[..], TAIL, &[0x07]].concat();
    let block_after_last = [last(b"\xff"), last(b"x")].concat();
    for payload in [corrupt, block_after_last] {
        let text = frame(TEXT_DEFLATED, &payload);
        assert_eq!(seen(alone, &text), [Seen::Failed(ProtocolError::InvalidUtf8)]);
        let binary = frame(BINARY_DEFLATED, &payload);
        let Seen::Failed(error) = &seen(alone, &binary)[0] else { panic!("it is no message") };
        assert!(
            matches!(error, ProtocolError::CorruptDeflate | ProtocolError::BlockAfterLast),
            "{error:?}"
        );
    }
}

#[test]
fn inflated_text_is_checked_as_it_comes() {
    let invalid = [Seen::Failed(ProtocolError::InvalidUtf8)];
    let long = [json(40_000).as_bytes(), b"\xff"].concat();
    for bad in [&b"\xff"[..], b"gr\xc3", b"\xed\xa0\x80", &long] {
        let payload = Other::new().deflate(bad);
        assert_eq!(seen(alone, &frame(TEXT_DEFLATED, &payload)), invalid);
        let binary = Seen::Binary(bad.to_vec());
        assert_eq!(seen(alone, &frame(BINARY_DEFLATED, &payload)), [binary]);
    }
    // In the first fragment, before the message is complete.
    let payload = Other::new().deflate(b"a\xff");
    assert_eq!(seen(alone, &frame(0x41, &payload)), invalid);
}

#[test]
fn a_bomb_stops_at_the_limit() {
    let max = 1 << 20;
    let limits = Limits::new().max_message(max);
    let make = || server(limits, Deflate::shared(), ALONE);
    let fits = Other::new().deflate(&vec![0; max as usize]);
    let whole = see(&mut make(), &frame(BINARY_DEFLATED, &fits));
    assert_eq!(whole, [Seen::Binary(vec![0; max as usize])]);

    let too_long = [Seen::Failed(ProtocolError::MessageTooLong)];
    let bomb = Other::new().deflate(&vec![0; 64 << 20]);
    for len in [1, 100, bomb.len()] {
        let mut endpoint = make();
        let mut pool = BufferPool::new(0);
        let mut seen = Vec::new();
        for piece in frame(BINARY_DEFLATED, &bomb).chunks(len) {
            seen.extend(feed(&mut endpoint, piece, &mut pool));
            assert!(endpoint.buffered() <= max as usize, "{}", endpoint.buffered());
        }
        assert_eq!(seen, too_long);
        assert_eq!(endpoint.state(), State::Failed(ProtocolError::MessageTooLong));
    }
    // One byte too much, also if it comes in a fragment of its own.
    let longer = Other::new().deflate(&vec![7; max as usize + 1]);
    let fragments = [frame(0x42, &longer[..20]), frame(0x80, &longer[20..])].concat();
    assert_eq!(see(&mut make(), &fragments), too_long);
    // A limit that is no power of two is kept to, as well.
    let limits = Limits::new().max_message(100_000);
    let mut endpoint = server(limits, Deflate::shared(), ALONE);
    let part = frame(0x02 | 0x40, &Other::new().deflate(&[1; 99_000]));
    assert_eq!(see(&mut endpoint, &part), []);
    assert!(endpoint.buffered() <= 100_000, "{}", endpoint.buffered());
}

#[test]
fn what_does_not_shrink_may_be_a_little_longer_than_a_message() {
    let limits = Limits::new().max_message(1000);
    let mut noise = 1_u64;
    let mut random = || {
        noise = noise.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (noise >> 56) as u8
    };
    let payload: Vec<u8> = (0..1000).map(|_| random()).collect();
    let stored = Compress::new(Compression::none(), false);
    let deflated = Other(stored).deflate(&payload);
    assert!(deflated.len() > payload.len());
    let make = || server(limits, Deflate::shared(), ALONE);
    assert_eq!(seen(make, &frame(BINARY_DEFLATED, &deflated)), [Seen::Binary(payload)]);
    let announced = frame(BINARY_DEFLATED, &[0; 1200]);
    assert_eq!(seen(make, &announced[..8]), [Seen::Failed(ProtocolError::FrameTooLong)]);
    // A limit for frames holds for them as they are.
    let make = || server(limits.max_frame(500), Deflate::shared(), ALONE);
    let announced = frame(BINARY_DEFLATED, &[0; 501]);
    assert_eq!(seen(make, &announced[..8]), [Seen::Failed(ProtocolError::FrameTooLong)]);
}

/// Sends the messages of `endpoint`, a server, and reads them with another implementation.
fn sent_and_read(endpoint: &mut Endpoint, messages: &[Vec<u8>], fresh: bool) -> Vec<usize> {
    let mut pool = BufferPool::new(1 << 20);
    let mut decoder = Decompress::new(false);
    let mut sizes = Vec::new();
    for message in messages {
        let mut out = Vec::new();
        let sent = endpoint.send_compressed(Message::Binary(message), &mut pool, &mut out);
        assert_eq!(sent, Ok(()));
        let (header, len) = crate::protocol::FrameHeader::decode(&out)
            .expect("a valid header")
            .expect("a whole header");
        assert!(header.fin && header.opcode == Opcode::Binary);
        assert_eq!(header.payload_len as usize, out.len() - len);
        let payload = &out[len..];
        if header.rsv1 {
            if fresh {
                decoder = Decompress::new(false);
            }
            assert_eq!(inflate(&mut decoder, payload, message.len()), *message);
        } else {
            assert_eq!(payload, message);
        }
        sizes.push(out.len());
    }
    sizes
}

#[test]
fn what_is_sent_shrinks_and_can_be_read() {
    let messages: Vec<Vec<u8>> =
        [64, 1024, 1024, 16_384, 300_000].map(|len| json(len).into_bytes()).to_vec();
    for level in 1..=9 {
        let settings = Deflate::shared().level(level);
        let mut endpoint = server(Limits::new(), settings, ALONE);
        let sizes = sent_and_read(&mut endpoint, &messages, true);
        for (message, size) in messages.iter().zip(&sizes).skip(1) {
            assert!(size * 10 < message.len() * 6, "level {level}: {} to {size}", message.len());
        }
        assert_eq!(sizes[1], sizes[2], "no context is taken over");

        let settings = Deflate::dedicated(15).level(level);
        let mut endpoint = server(Limits::new(), settings, TAKEOVER);
        let sizes = sent_and_read(&mut endpoint, &messages, false);
        assert!(sizes[2] * 3 < sizes[1], "level {level}: {sizes:?}");
    }
}

#[test]
fn what_does_not_shrink_is_sent_as_it_is_unless_the_window_needs_it() {
    let short = [vec![1], vec![1, 2, 3], b"The quick brown fox.".to_vec()];
    let sizes = sent_and_read(&mut alone(), &short, true);
    assert_eq!(sizes, [3, 5, 22]);
    sent_and_read(&mut takeover(), &short, false);
    for endpoint in [&mut alone(), &mut takeover()] {
        let mut out = Vec::new();
        let mut pool = BufferPool::new(0);
        assert_eq!(endpoint.send_compressed(Message::Text(""), &mut pool, &mut out), Ok(()));
        assert_eq!(out, b"\x81\0");
    }
}

#[test]
fn the_window_that_was_agreed_on_is_kept_to() {
    // Long enough to refer far back, if it could.
    let messages: Vec<Vec<u8>> = (0..8).map(|_| json(6000).into_bytes()).collect();
    for bits in 9..=15 {
        for level in [1, 2, 3, 6, 9] {
            for takeover in [false, true] {
                let agreed = DeflateParameters {
                    server_no_context_takeover: !takeover,
                    server_max_window_bits: bits,
                    ..TAKEOVER
                };
                let settings = Deflate::dedicated(15).level(level);
                let mut endpoint = server(Limits::new(), settings, agreed);
                let mut pool = BufferPool::new(0);
                // A byte at a time, so that nothing is left of the output but the window.
                let mut decoder = zlib_rs::Inflate::new(false, bits);
                for message in &messages {
                    let mut out = Vec::new();
                    let message = Message::Binary(message);
                    assert_eq!(endpoint.send_compressed(message, &mut pool, &mut out), Ok(()));
                    assert_eq!(out[0], 0xC2);
                    let header = if out[1] < 126 { 2 } else { 4 };
                    let mut payload = [&out[header..], TAIL].concat();
                    let mut rest = &mut payload[..];
                    let mut inflated = Vec::new();
                    loop {
                        let mut byte = [0];
                        let (read, written) = (decoder.total_in(), decoder.total_out());
                        decoder
                            .decompress(rest, &mut byte, zlib_rs::InflateFlush::SyncFlush)
                            .unwrap_or_else(|error| panic!("{bits} {level}: {error:?}"));
                        rest = &mut rest[(decoder.total_in() - read) as usize..];
                        if decoder.total_out() == written {
                            break;
                        }
                        inflated.push(byte[0]);
                    }
                    assert!(rest.is_empty());
                    assert_eq!(inflated, message.payload(), "{bits} {level} {takeover}");
                    if !takeover {
                        decoder = zlib_rs::Inflate::new(false, bits);
                    }
                }
            }
        }
    }
}

#[test]
fn a_window_of_eight_bits_means_nothing_is_compressed() {
    let agreed = DeflateParameters { client_max_window_bits: 8, ..TAKEOVER };
    let settings = Deflate::dedicated(15);
    let keys = Box::new(|| [1, 2, 3, 4]);
    let mut client = Endpoint::client(Limits::new(), keys).with_deflate(settings, agreed);
    assert!(!client.should_compress(1 << 20));
    let mut out = Vec::new();
    let sent = client.send_compressed(Message::Text("Hello"), &mut BufferPool::new(0), &mut out);
    assert_eq!((sent, out[0]), (Ok(()), 0x81));
    assert_eq!(client.deflate().map(|agreed| agreed.client_max_window_bits), Some(8));
}

#[test]
fn both_roles_understand_each_other() {
    for agreed in [ALONE, TAKEOVER] {
        for settings in [Deflate::shared(), Deflate::dedicated(10)] {
            let mut server = server(Limits::new(), settings, agreed);
            let keys = Box::new(|| [9, 8, 7, 6]);
            let mut client = Endpoint::client(Limits::new(), keys).with_deflate(settings, agreed);
            let mut pool = BufferPool::new(1 << 20);
            let text = json(5000);
            for _ in 0..3 {
                let mut out = Vec::new();
                let message = Message::Text(&text);
                assert_eq!(client.send_compressed(message, &mut pool, &mut out), Ok(()));
                assert!(out.len() < text.len() * 6 / 10);
                assert_eq!(see(&mut server, &out), [Seen::Text(text.clone())]);
                out.clear();
                assert_eq!(server.send_compressed(message, &mut pool, &mut out), Ok(()));
                assert_eq!(see(&mut client, &out), [Seen::Text(text.clone())]);
            }
        }
    }
}

#[test]
fn nothing_is_held_between_messages_without_takeover() {
    let mut endpoint = alone();
    let mut pool = BufferPool::new(1 << 20);
    let payload = Other::new().deflate(json(3000).as_bytes());
    assert_eq!(feed(&mut endpoint, &frame(TEXT_DEFLATED, &payload)[..500], &mut pool), []);
    assert!(endpoint.buffered() > 0 && endpoint.extension.held.is_some());
    endpoint.release(&mut pool);
    assert!(endpoint.buffered() == 0 && endpoint.extension.held.is_none());

    let mut endpoint = alone();
    let whole = feed(&mut endpoint, &frame(TEXT_DEFLATED, &payload), &mut pool);
    assert_eq!(whole, [Seen::Text(json(3000))]);
    assert!(endpoint.buffered() == 0 && endpoint.extension.held.is_none());
    let mut out = Vec::new();
    assert_eq!(endpoint.send_compressed(Message::Text("x"), &mut pool, &mut out), Ok(()));
    assert!(endpoint.extension.held.is_none());
}

#[test]
fn a_compressor_that_is_not_used_is_freed_and_made_anew() {
    let mut endpoint = takeover();
    let mut pool = BufferPool::new(1 << 20);
    let mut decoder = Decompress::new(false);
    let text = json(1000);
    let mut sent = |endpoint: &mut Endpoint, pool: &mut BufferPool| {
        let mut out = Vec::new();
        assert_eq!(endpoint.send_compressed(Message::Text(&text), pool, &mut out), Ok(()));
        let header = if out[1] == 126 { 4 } else { 2 };
        assert_eq!(inflate(&mut decoder, &out[header..], text.len()), text.as_bytes());
        out.len()
    };
    endpoint.release_idle_compressor(&mut pool);
    let first = sent(&mut endpoint, &mut pool);
    let second = sent(&mut endpoint, &mut pool);
    assert!(second < first / 4);
    endpoint.release_idle_compressor(&mut pool);
    assert!(sent(&mut endpoint, &mut pool) <= second, "it was in use");
    endpoint.release_idle_compressor(&mut pool);
    assert!(endpoint.extension.held.is_some());
    endpoint.release_idle_compressor(&mut pool);
    assert!(endpoint.extension.held.is_none());
    assert_eq!(sent(&mut endpoint, &mut pool), first);
    assert_eq!(sent(&mut endpoint, &mut pool), second);

    // What the peer sends still goes on with its window.
    let mut other = Other::new();
    for _ in 0..3 {
        let payload = other.deflate(text.as_bytes());
        let seen = feed(&mut endpoint, &frame(TEXT_DEFLATED, &payload), &mut pool);
        assert_eq!(seen, [Seen::Text(text.clone())]);
        endpoint.release_idle_compressor(&mut pool);
    }
    let held = endpoint.extension.held.as_ref().expect("the decompressor");
    assert!(held.deflater.is_none() && held.inflater.is_some());
}

#[test]
fn after_our_close_nothing_is_inflated_and_no_codec_is_held() {
    let mut endpoint = takeover();
    let mut pool = BufferPool::new(1 << 20);
    let (mut other, mut out) = (Other::new(), Vec::new());
    let text = json(3000);
    let payload = other.deflate(text.as_bytes());
    assert_eq!(
        feed(&mut endpoint, &frame(TEXT_DEFLATED, &payload), &mut pool),
        [Seen::Text(text.clone())]
    );
    assert_eq!(endpoint.send_compressed(Message::Text(&text), &mut pool, &mut out), Ok(()));
    assert_eq!(feed(&mut endpoint, &frame(0x41, b"\xaa"), &mut pool), []);
    assert!(endpoint.extension.held.is_some());
    assert!(endpoint.close(Some(CloseCode::NORMAL), "", &mut out));
    assert!(endpoint.buffered() == 0 && endpoint.extension.held.is_none());

    let inflated = pool.inflated();
    // The rest of a message, no deflate stream, a bomb; but RSV1 has its place.
    let bomb = Other::new().deflate(&vec![0; 64 << 20]);
    for input in
        [frame(0x80, b"rest"), frame(TEXT_DEFLATED, b"\x07"), frame(BINARY_DEFLATED, &bomb)]
    {
        for piece in input.chunks(1000) {
            assert_eq!(feed(&mut endpoint, piece, &mut pool), []);
        }
    }
    assert_eq!((pool.inflated(), endpoint.buffered()), (inflated, 0));
    assert!(endpoint.extension.held.is_none());
    assert_eq!(feed(&mut endpoint, &frame(0x88, b"\x03\xe8"), &mut pool).len(), 1);
    assert_eq!(endpoint.state(), State::Closed);

    let mut endpoint = takeover();
    assert!(endpoint.close(None, "", &mut out));
    assert_eq!(feed(&mut endpoint, &frame(0x41, &payload), &mut pool), []);
    assert_eq!(
        feed(&mut endpoint, &frame(0xC0, b""), &mut pool),
        [Seen::Failed(ProtocolError::ReservedBits)]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 128 }))]

    /// Whatever another implementation compresses arrives, however it is cut into fragments and
    /// segments, and with pings in between.
    #[test]
    fn any_cut_gives_the_same_messages(
        payloads in prop::collection::vec((prop::collection::vec(0..4_u8, 0..3000), 1..50_usize), 1..5),
        piece in 1..300_usize,
        with_takeover: bool,
    ) {
        let mut other = Other::new();
        let mut input = Vec::new();
        let mut expected = Vec::new();
        for (payload, fragment) in &payloads {
            if !with_takeover {
                other = Other::new();
            }
            let deflated = other.deflate(payload);
            let count = deflated.chunks(*fragment).count();
            for (index, part) in deflated.chunks(*fragment).enumerate() {
                let fin = if index + 1 == count { 0x80 } else { 0 };
                let first = if index == 0 { 0x42 } else { 0 };
                input.extend(frame(fin | first, part));
                if fin == 0 && index % 7 == 0 {
                    input.extend(frame(0x89, b"p"));
                    expected.push(Seen::Ping(b"p".to_vec()));
                }
            }
            expected.push(Seen::Binary(payload.clone()));
        }
        let make = || if with_takeover { takeover() } else { alone() };
        prop_assert_eq!(see(&mut make(), &input), expected.clone());
        let mut endpoint = make();
        let pieces: Vec<_> = input.chunks(piece).flat_map(|it| see(&mut endpoint, it)).collect();
        prop_assert_eq!(pieces, expected);
    }

    /// Whatever is sent can be read by another implementation.
    #[test]
    fn any_message_can_be_read(
        messages in prop::collection::vec(prop::collection::vec(0..8_u8, 0..5000), 1..6),
        level in 1..=9_u8,
        with_takeover: bool,
    ) {
        let (settings, agreed) = match with_takeover {
            true => (Deflate::dedicated(15), TAKEOVER),
            false => (Deflate::shared(), ALONE),
        };
        let mut endpoint = server(Limits::new(), settings.level(level), agreed);
        sent_and_read(&mut endpoint, &messages, !with_takeover);
    }

    /// Any bytes at all lead to events or a failure, the same ones for every cut.
    #[test]
    fn garbage_is_judged_the_same_for_any_cut(
        payload in prop::collection::vec(any::<u8>(), 0..200),
        cut in 1..50_usize,
        with_takeover: bool,
    ) {
        let make = || if with_takeover { takeover() } else { alone() };
        let input = frame(BINARY_DEFLATED, &payload);
        let whole = see(&mut make(), &input);
        let mut endpoint = make();
        let pieces: Vec<_> = input.chunks(cut).flat_map(|it| see(&mut endpoint, it)).collect();
        prop_assert_eq!(pieces, whole);
    }
}
