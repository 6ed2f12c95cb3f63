//! Context takeover: what each side says goes on from everything before, however little of it is
//! kept and whoever else uses the codecs in between.

use flate2::Decompress;
use proptest::prelude::*;
use zlib_rs::{DeflateConfig, DeflateFlush, InflateFlush};

use super::tests::{BINARY_DEFLATED, Other, TAIL, TAKEOVER, inflate, json, server};
use super::*;
use crate::protocol::endpoint::Received;
use crate::protocol::endpoint::tests::{Seen, feed, frame};
use crate::protocol::{FrameHeader, Limits};

const KEY: [u8; 4] = [0x21, 0x43, 0x65, 0x87];

/// A peer that knows no more than it has to.
struct Peer {
    compressor: zlib_rs::Deflate,
    /// Keeps the window that was agreed on and not a byte more.
    narrow: zlib_rs::Inflate,
    /// Another implementation.
    other: Decompress,
}

impl Peer {
    fn new(own_bits: u8, their_bits: u8) -> Self {
        let config = DeflateConfig {
            window_bits: -i32::from(own_bits),
            level: 6,
            ..DeflateConfig::default()
        };
        Self {
            compressor: zlib_rs::Deflate::new_with_config(config),
            narrow: zlib_rs::Inflate::new(false, their_bits),
            other: Decompress::new(false),
        }
    }

    fn deflate(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0; payload.len() + payload.len() / 8 + 64];
        let before = self.compressor.total_out();
        self.compressor.compress(payload, &mut out, DeflateFlush::SyncFlush).expect("compresses");
        out.truncate((self.compressor.total_out() - before) as usize);
        assert!(out.ends_with(TAIL));
        out.truncate(out.len() - TAIL.len());
        out
    }

    /// Reads a frame, which must hold `expected`.
    fn read(&mut self, frame: &[u8], expected: &[u8]) {
        let (header, header_len) =
            FrameHeader::decode(frame).expect("a valid header").expect("a whole header");
        let mut payload = frame[header_len..].to_vec();
        assert_eq!(header.payload_len as usize, payload.len());
        if let Some(key) = header.masking_key {
            unmask(&mut payload, key, 0);
        }
        if !header.rsv1 {
            assert!(payload == expected);
            return;
        }
        assert!(inflate(&mut self.other, &payload, expected.len()) == expected);
        payload.extend_from_slice(TAIL);
        // Byte by byte, so that nothing is left of the output but the window.
        let (mut rest, mut inflated) = (&payload[..], Vec::new());
        loop {
            let mut byte = [0];
            let (read, written) = (self.narrow.total_in(), self.narrow.total_out());
            let status = self.narrow.decompress(rest, &mut byte, InflateFlush::SyncFlush);
            assert!(status.is_ok(), "{status:?}");
            rest = &rest[(self.narrow.total_in() - read) as usize..];
            if self.narrow.total_out() == written {
                break;
            }
            inflated.push(byte[0]);
        }
        assert!(rest.is_empty() && inflated == expected);
    }
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// Sent to the peer, compressed.
    Send,
    SendPlain,
    /// Compressed by itself, for many.
    Publish,
    /// Sent by the peer, in one frame or in fragments of so many bytes.
    Receive(usize),
    ReceivePlain,
    Idle,
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        4 => Just(What::Send),
        1 => Just(What::SendPlain),
        2 => Just(What::Publish),
        3 => (1..2000_usize).prop_map(What::Receive),
        1 => Just(What::ReceivePlain),
        1 => Just(What::Idle),
    ]
}

/// One connection and its peer.
struct Pair {
    endpoint: Endpoint,
    peer: Peer,
    is_server: bool,
    /// Messages are handed out in parts.
    in_parts: bool,
}

impl Pair {
    fn new(is_server: bool, level: u8, own_bits: u8, peer_bits: u8) -> Self {
        let (server_bits, client_bits) =
            if is_server { (own_bits, peer_bits) } else { (peer_bits, own_bits) };
        let agreed = DeflateParameters {
            server_max_window_bits: server_bits,
            client_max_window_bits: client_bits,
            ..TAKEOVER
        };
        let endpoint = match is_server {
            true => Endpoint::server(Limits::new()),
            false => Endpoint::client(Limits::new(), Box::new(|| KEY)),
        };
        let endpoint = endpoint.with_deflate(Deflate::dedicated(15).level(level), agreed);
        Self { endpoint, peer: Peer::new(peer_bits, own_bits), is_server, in_parts: false }
    }

    /// A frame of the peer.
    fn frame(&self, first: u8, payload: &[u8]) -> Vec<u8> {
        if self.is_server {
            return frame(first, payload);
        }
        let (fin, rsv1) = (first & 0x80 != 0, first & 0x40 != 0);
        let opcode = if first & 0xF == 0 { Opcode::Continuation } else { Opcode::Binary };
        let header = encode_header(fin, rsv1, opcode, payload.len() as u64, None);
        [&*header, payload].concat()
    }

    fn play(&mut self, what: What, payload: &[u8], pool: &mut BufferPool) {
        let (message, mut out) = (Message::Binary(payload), Vec::new());
        match what {
            What::Send => {
                assert_eq!(self.endpoint.send_compressed(message, pool, &mut out), Ok(()));
                self.peer.read(&out, payload);
                return;
            }
            What::SendPlain => {
                assert_eq!(self.endpoint.send(message, &mut out), Ok(()));
                self.peer.read(&out, payload);
                return;
            }
            What::Publish => {
                let compression = self.endpoint.shared_compression(payload.len().max(100));
                let compression = compression.expect("compression is on");
                let join = |header: &[u8], payload: &[u8]| [header, payload].concat();
                if let Some(frame) = compression.frame(message, pool, join) {
                    self.endpoint.note_shared_message(payload);
                    self.peer.read(&frame, payload);
                }
                return;
            }
            What::Idle => {
                self.endpoint.release_idle_compressor(pool);
                return;
            }
            What::Receive(fragment) => {
                let deflated = self.peer.deflate(payload);
                let count = deflated.chunks(fragment).count();
                for (index, part) in deflated.chunks(fragment).enumerate() {
                    let fin = if index + 1 == count { 0x80 } else { 0 };
                    out.extend(self.frame(fin | if index == 0 { 0x42 } else { 0 }, part));
                }
            }
            What::ReceivePlain => out = self.frame(0x82, payload),
        }
        if self.in_parts {
            let (mut input, mut received) = (&mut out[..], Vec::new());
            let mut ended = false;
            while let Some(step) =
                self.endpoint.receive_part(&mut input, 1 << 20, pool).expect("it is valid")
            {
                let Received::Part(part) = step else { panic!("{step:?}") };
                received.extend_from_slice(part.payload().payload());
                ended = part.last;
                part.recycle(pool);
            }
            assert!(ended && received == payload);
        } else {
            let seen = feed(&mut self.endpoint, &out, pool);
            assert!(seen == [Seen::Binary(payload.to_vec())]);
        }
        let held = self.endpoint.extension.held.as_ref();
        let keeps = self.endpoint.extension.agreed.keeps_inflater();
        assert!(held.is_none_or(|held| keeps || held.inflater.is_none()));
    }
}

/// Text that is like that of other connections, and not the same.
fn text(seed: usize, len: usize) -> Vec<u8> {
    json(len + seed % 700).split_off(seed % 700).into_bytes()
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![1..200_usize, 200..3000_usize, 3000..40_000_usize]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 160 }))]

    /// Three connections take turns with the codecs of two workers. Every window, level and role.
    #[test]
    fn whatever_happens_both_sides_understand_each_other(
        pairs in prop::collection::vec(any::<(bool, bool, u8, u8, u8)>(), 3),
        alike: bool,
        steps in prop::collection::vec(
            (0..3_usize, what(), 0..5000_usize, len(), 0..8_usize),
            1..40,
        ),
    ) {
        let mut pools = [BufferPool::new(1 << 20), BufferPool::new(1 << 20)];
        let first = pairs[0];
        let make = |(is_server, in_parts, level, own, peer): (bool, bool, u8, u8, u8)| {
            // Those that are alike have the same compressor.
            let (level, own) = if alike { (first.2, first.3) } else { (level, own) };
            let pair = Pair::new(is_server, 1 + level % 9, 9 + own % 7, 9 + peer % 7);
            Pair { in_parts, ..pair }
        };
        let mut pairs: Vec<Pair> = pairs.into_iter().map(make).collect();
        for (pair, what, seed, len, pool) in steps {
            pairs[pair].play(what, &text(seed, len), &mut pools[usize::from(pool == 0)]);
        }
    }
}

#[test]
fn more_messages_than_decompressors_are_half_received() {
    for bits in [9, 11, 12] {
        let mut pool = BufferPool::new(1 << 20);
        let mut pairs: Vec<Pair> = (0..20).map(|_| Pair::new(true, 1, 9, bits)).collect();
        for round in 0..6 {
            let messages: Vec<Vec<u8>> = (0..20).map(|nth| text(37 * nth + round, 900)).collect();
            let mut rests = Vec::new();
            for (pair, message) in pairs.iter_mut().zip(&messages) {
                let deflated = pair.peer.deflate(message);
                let (begin, rest) = deflated.split_at(deflated.len() / 2);
                let begin = pair.frame(0x42, begin);
                assert!(feed(&mut pair.endpoint, &begin, &mut pool).is_empty());
                rests.push(pair.frame(0x80, rest));
            }
            // As they came, and the other way round.
            let mut order: Vec<usize> = (0..20).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for nth in order {
                let seen = feed(&mut pairs[nth].endpoint, &rests[nth], &mut pool);
                assert!(seen == [Seen::Binary(messages[nth].clone())]);
            }
        }
    }
}

/// What the worker's compressor has in its window is another connection's, up to the byte before
/// the history that it loads.
#[test]
fn the_text_of_others_is_out_of_reach() {
    let mut noise = 1_u64;
    let mut random = |len: usize| -> Vec<u8> {
        let mut byte = || {
            noise = noise.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (noise >> 56) as u8
        };
        (0..len).map(|_| byte()).collect()
    };
    for bits in 9..=HISTORY_BITS {
        let history_len = (1 << bits) - OUT_OF_REACH;
        for level in 1..=9 {
            let mut pool = BufferPool::new(1 << 20);
            let mut other = Pair::new(true, level, bits, 15);
            for reach in 1..40 {
                let (secret, history) = (random(300), random(history_len));
                let mut pair = Pair::new(true, level, bits, 15);
                pair.play(What::Send, &history, &mut pool);
                other.play(What::Send, &secret, &mut pool);
                let edge = [&secret[300 - reach..], &history[..40]].concat();
                pair.play(What::Send, &edge, &mut pool);
                other.play(What::Send, &secret, &mut pool);
                pair.play(What::Send, &secret, &mut pool);
            }
        }
    }
}

#[test]
fn a_history_is_as_long_as_the_window_and_no_longer() {
    for bits in 9..=15 {
        let mut pool = BufferPool::new(1 << 20);
        let mut pair = Pair::new(true, 1, bits, bits);
        for len in [1, 300, 40_000, 10] {
            pair.play(What::Send, &text(1, len), &mut pool);
            pair.play(What::Receive(4000), &text(2, len), &mut pool);
            pair.play(What::Publish, &text(3, 300), &mut pool);
        }
        let held = pair.endpoint.extension.held.as_ref().expect("histories");
        let kept = bits <= HISTORY_BITS;
        assert_eq!(held.received.len(), if kept { 1 << bits } else { 0 });
        assert_eq!(held.sent.len(), if kept { (1 << bits) - 262 } else { 0 });
        assert_eq!((held.inflater.is_none(), held.deflater.is_none()), (kept, kept));
    }
}

/// RFC 7692 allows 8 bits, for which no library has a compressor: what we send stays as it is, and
/// what we receive is read.
#[test]
fn who_may_only_use_256_bytes_still_reads() {
    let mut pool = BufferPool::new(1 << 20);
    for is_server in [false, true] {
        for peer_bits in [9, 12, 15] {
            let mut pair = Pair::new(is_server, 1, 8, peer_bits);
            for len in [300, 40_000, 20] {
                pair.play(What::Receive(4000), &text(2, len), &mut pool);
                pair.play(What::Send, &text(3, len), &mut pool);
            }
        }
    }
}

#[test]
fn what_was_published_can_be_referred_to_afterwards() {
    let settings = Deflate::dedicated(10);
    let mut pool = BufferPool::new(1 << 20);
    let published = text(5, 600);
    let sent_after = |messages: &[&[u8]], pool: &mut BufferPool| {
        let agreed = DeflateParameters { server_max_window_bits: 10, ..TAKEOVER };
        let mut endpoint = server(Limits::new(), settings, agreed);
        let mut out = Vec::new();
        for message in messages {
            out.clear();
            assert_eq!(endpoint.send_compressed(Message::Binary(message), pool, &mut out), Ok(()));
            endpoint.note_shared_message(&published);
        }
        out.len()
    };
    let alone = sent_after(&[&published], &mut pool);
    let after = sent_after(&[b"Hello", &published], &mut pool);
    assert!(after * 5 < alone, "{after} bytes, without context {alone}");
}

#[test]
fn a_message_that_ends_a_stream_ends_the_history() {
    for client_max_window_bits in [9, 15] {
        ends_a_stream(DeflateParameters { client_max_window_bits, ..TAKEOVER });
    }
}

fn ends_a_stream(agreed: DeflateParameters) {
    use flate2::{Compress, Compression, FlushCompress};
    let mut endpoint = server(Limits::new(), Deflate::dedicated(15), agreed);
    let mut pool = BufferPool::new(1 << 20);
    let payload = text(1, 9000);
    let mut last = Vec::with_capacity(10_000);
    let mut compress = Compress::new(Compression::new(6), false);
    compress.compress_vec(&payload, &mut last, FlushCompress::Finish).expect("compresses");
    for input in [Other::new().deflate(&payload), last] {
        let seen = feed(&mut endpoint, &frame(BINARY_DEFLATED, &input), &mut pool);
        assert_eq!(seen, [Seen::Binary(payload.clone())]);
    }
    let next = Other::new().deflate(b"Hello");
    let seen = feed(&mut endpoint, &frame(BINARY_DEFLATED, &next), &mut pool);
    assert_eq!(seen, [Seen::Binary(b"Hello".to_vec())]);
    // A distance to what came before it leads nowhere.
    let far = Other::new().deflate(&payload[..20]);
    let mut peer = Other::new();
    peer.deflate(&payload);
    let back = peer.deflate(&payload[..200]);
    assert!(back.len() < far.len());
    let seen = feed(&mut endpoint, &frame(BINARY_DEFLATED, &back), &mut pool);
    assert_eq!(seen, [Seen::Failed(ProtocolError::CorruptDeflate)]);
}
