//! RFC 6455 5: every broken rule of framing is answered with its own close code in a Close frame,
//! then FIN and not a reset; what was right before it is still answered; and what a peer only
//! announces costs nothing.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::{Echo, TestServer, frame, memory, request};
use wirelane::{Driver, Handler, Limits, Message, WebSocket};

on_every_driver!(
    unmasked_frames_get_1002,
    reserved_bits_get_1002,
    reserved_opcodes_get_1002_before_their_length_is_read,
    a_length_with_the_top_bit_gets_1002,
    a_length_not_in_its_shortest_form_gets_1002,
    an_announced_length_over_the_limit_gets_1009_at_the_header,
    a_peer_in_the_middle_of_a_message_that_is_too_long_learns_1009,
    announced_bytes_cost_nothing,
    the_limit_itself_is_accepted,
    fragments_count_together,
    a_frame_limit_of_its_own_is_kept,
    fragments_out_of_order_get_1002,
    empty_fragments_are_legal,
    too_many_fragments_get_1008,
    long_or_fragmented_control_frames_get_1002,
    pings_are_answered_also_inside_a_message,
    a_ping_flood_of_a_peer_that_reads_is_answered_in_full,
    a_ping_flood_of_a_peer_that_does_not_read_keeps_the_latest_pong_only,
    pongs_that_nobody_asked_for_are_ignored,
    what_came_before_the_bad_frame_is_answered_first,
    frames_may_arrive_byte_by_byte,
    a_fin_inside_a_frame_ends_the_connection_without_the_message,
    garbage_never_harms_anyone_else,
);

/// The limit of one message on the servers of this file.
const LIMIT: usize = 100_000;

fn start(driver: Driver) -> TestServer {
    let limits = Limits::new().max_message(LIMIT as u32);
    TestServer::start(driver, |server| server.limits(limits).websocket("/", |_| Echo))
}

/// A peer that sends these bytes is told this code, and sees FIN.
fn violates(server: &TestServer, bytes: &[u8], code: u16) {
    let mut peer = server.open();
    peer.send(bytes);
    let close = peer.read_frame();
    assert_eq!(close.first, 0x88, "{bytes:x?}");
    assert_eq!(close.close_code(), code, "{bytes:x?}");
    let reason = std::str::from_utf8(&close.payload[2..]).expect("UTF-8");
    assert!(!reason.is_empty() && reason.is_ascii(), "{reason}");
    peer.expect_end();
}

/// A masked header that announces `len` bytes in the 64-bit form.
fn long_header(first: u8, len: u64) -> Vec<u8> {
    let mut header = vec![first, 0xff];
    header.extend_from_slice(&len.to_be_bytes());
    header
}

fn unmasked_frames_get_1002(driver: Driver) {
    let server = start(driver);
    violates(&server, b"\x81\x05Hello", 1002);
    // As soon as the second byte is there.
    for first in [0x81, 0x82, 0x01, 0x88, 0x89, 0x8a] {
        violates(&server, &[first, 0x00], 1002);
        violates(&server, &[first, 0x05], 1002);
    }
    violates(&server, &[0x82, 126], 1002);
    violates(&server, &[0x82, 127], 1002);
}

fn reserved_bits_get_1002(driver: Driver) {
    let server = start(driver);
    for bits in 1..8_u8 {
        for first in [0x81, 0x82, 0x01, 0x88, 0x89, 0x8a] {
            violates(&server, &frame(first | bits << 4, b"a"), 1002);
        }
        // The first byte is enough.
        violates(&server, &[0x81 | bits << 4], 1002);
    }
    let mut fragments = frame(0x01, b"a");
    fragments.extend(frame(0xc0, b"b"));
    violates(&server, &fragments, 1002);
}

fn reserved_opcodes_get_1002_before_their_length_is_read(driver: Driver) {
    let server = start(driver);
    for opcode in [3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        for fin in [0, 0x80] {
            violates(&server, &[fin | opcode], 1002);
            violates(&server, &long_header(fin | opcode, u64::MAX >> 1), 1002);
        }
    }
}

fn a_length_with_the_top_bit_gets_1002(driver: Driver) {
    let server = start(driver);
    for len in [1 << 63, u64::MAX, (1 << 63) | 5] {
        violates(&server, &long_header(0x82, len), 1002);
        violates(&server, &long_header(0x81, len), 1002);
    }
}

fn a_length_not_in_its_shortest_form_gets_1002(driver: Driver) {
    let server = start(driver);
    for len in [0_u16, 1, 125] {
        let mut header = vec![0x82, 0xfe];
        header.extend_from_slice(&len.to_be_bytes());
        violates(&server, &header, 1002);
    }
    for len in [0, 1, 125, 126, 65_535] {
        violates(&server, &long_header(0x82, len), 1002);
    }
}

fn an_announced_length_over_the_limit_gets_1009_at_the_header(driver: Driver) {
    let server = start(driver);
    for len in [
        LIMIT as u64 + 1,
        (1 << 31) - 1,
        1 << 31,
        (1 << 32) - 1,
        1 << 32,
        (1 << 32) + 5,
        u64::MAX >> 1,
    ] {
        for first in [0x81, 0x82, 0x01] {
            violates(&server, &long_header(first, len), 1009);
        }
        // The sum with an earlier fragment must not wrap.
        let mut bytes = frame(0x02, b"0123456789");
        bytes.extend(long_header(0x80, len));
        violates(&server, &bytes, 1009);
    }
}

fn a_peer_in_the_middle_of_a_message_that_is_too_long_learns_1009(driver: Driver) {
    let server = start(driver);
    let bytes = frame(0x82, &vec![7; 700_000]);
    for _ in 0..5 {
        let mut peer = server.open();
        peer.send(&bytes);
        peer.expect_close(1009);
    }
}

fn announced_bytes_cost_nothing(driver: Driver) {
    const PEERS: usize = 250;
    const ANNOUNCED: usize = 16 << 20;
    let server = TestServer::start(driver, |server| {
        server.limits(Limits::new().max_message(ANNOUNCED as u32)).websocket("/", |_| Echo)
    });
    let before = memory();
    let peers: Vec<_> = (0..PEERS)
        .map(|i| {
            let mut peer = server.open();
            peer.send(&long_header(0x81 + (i % 2) as u8, ANNOUNCED as u64));
            peer.send(b"keysx");
            peer
        })
        .collect();
    // Everybody's bytes have been looked at when a later message of everybody's worker returns.
    thread::sleep(Duration::from_millis(20));
    let mut witness = server.open();
    witness.send_text("after them");
    assert_eq!(witness.read_frame().payload, b"after them");
    let after = memory();
    // 250 times 16 MiB would be 4 GiB. Other tests of this program run in the same process.
    let resident = after.resident.saturating_sub(before.resident);
    assert!(resident < 300 << 20, "{resident} bytes resident for {PEERS} bytes received");
    let reserved = after.reserved.saturating_sub(before.reserved);
    assert!(reserved < 2 << 30, "{reserved} bytes reserved for {PEERS} bytes received");
    drop(peers);
}

fn the_limit_itself_is_accepted(driver: Driver) {
    let server = start(driver);
    let mut peer = server.open();
    for first in [0x82, 0x81] {
        let payload = vec![b'a'; LIMIT];
        peer.send_frame(first, &payload);
        let echo = peer.read_frame();
        assert!(echo.first == first && echo.payload == payload);
    }
    violates(&server, &frame(0x82, &vec![0; LIMIT + 1]), 1009);
    violates(&server, &frame(0x81, &vec![b'a'; LIMIT + 1]), 1009);
}

fn fragments_count_together(driver: Driver) {
    let server = start(driver);
    let mut peer = server.open();
    peer.send_frame(0x02, &vec![1; LIMIT - 10]);
    peer.send_frame(0x00, &[2; 9]);
    peer.send_frame(0x80, &[3; 1]);
    assert_eq!(peer.read_frame().payload.len(), LIMIT);

    let mut bytes = frame(0x02, &vec![1; LIMIT - 10]);
    bytes.extend(frame(0x00, &[2; 9]));
    // The header of the fragment that passes the limit is enough.
    bytes.extend_from_slice(&[0x00, 0x82]);
    violates(&server, &bytes, 1009);
}

fn a_frame_limit_of_its_own_is_kept(driver: Driver) {
    let limits = Limits::new().max_message(1000).max_frame(100);
    let server = TestServer::start(driver, |server| server.limits(limits).websocket("/", |_| Echo));
    let mut peer = server.open();
    peer.send_frame(0x02, &[0; 100]);
    for _ in 0..8 {
        peer.send_frame(0x00, &[0; 100]);
    }
    peer.send_frame(0x80, &[0; 100]);
    assert_eq!(peer.read_frame().payload.len(), 1000);
    violates(&server, &frame(0x82, &[0; 101]), 1009);
    violates(&server, &frame(0x02, &[0; 101]), 1009);
}

fn fragments_out_of_order_get_1002(driver: Driver) {
    let server = start(driver);
    violates(&server, &frame(0x80, b"nothing to continue"), 1002);
    violates(&server, &frame(0x00, b""), 1002);
    for (first, second) in [(0x01, 0x81), (0x01, 0x82), (0x02, 0x01), (0x02, 0x02)] {
        let mut bytes = frame(first, b"begun");
        // The first byte of the second frame is enough.
        bytes.push(second);
        violates(&server, &bytes, 1002);
    }
    let mut peer = server.open();
    peer.send(&[frame(0x01, b"a"), frame(0x80, b"b"), frame(0x80, b"c")].concat());
    assert_eq!(peer.read_frame().payload, b"ab");
    peer.expect_close(1002);
}

fn empty_fragments_are_legal(driver: Driver) {
    let server = start(driver);
    let mut peer = server.open();
    let pieces =
        [frame(0x01, b""), frame(0x00, b""), frame(0x00, b"x"), frame(0x00, b""), frame(0x80, b"")];
    peer.send(&pieces.concat());
    let echo = peer.read_frame();
    assert_eq!((echo.first, &echo.payload[..]), (0x81, &b"x"[..]));
    peer.send(&[frame(0x02, b""), frame(0x80, b"")].concat());
    let echo = peer.read_frame();
    assert_eq!((echo.first, &echo.payload[..]), (0x82, &b""[..]));
}

fn too_many_fragments_get_1008(driver: Driver) {
    let limits = Limits::new().max_fragments(1000);
    let server = TestServer::start(driver, |server| server.limits(limits).websocket("/", |_| Echo));
    let many = |count: usize, last: &[u8]| {
        let mut bytes = frame(0x02, b"");
        for _ in 2..count {
            bytes.extend(frame(0x00, b""));
        }
        bytes.extend_from_slice(last);
        bytes
    };
    let mut peer = server.open();
    peer.send(&many(1000, &frame(0x80, b"end")));
    assert_eq!(peer.read_frame().payload, b"end");
    // Also in the next message, and at the first byte of the fragment that is one too many.
    peer.send(&many(1001, &[0x80]));
    peer.expect_close(1008);
    // A flood that nobody stops has no end of its own.
    let mut peer = server.open();
    peer.send(&many(50_000, b""));
    peer.expect_close(1008);
}

fn long_or_fragmented_control_frames_get_1002(driver: Driver) {
    let server = start(driver);
    for opcode in [8, 9, 0xa] {
        // The first byte is enough for the one, the second for the other.
        violates(&server, &[opcode], 1002);
        violates(&server, &[0x80 | opcode, 0x80 | 126], 1002);
        violates(&server, &[0x80 | opcode, 0x80 | 127], 1002);
    }
}

fn pings_are_answered_also_inside_a_message(driver: Driver) {
    let server = start(driver);
    let mut peer = server.open();
    for len in [0, 1, 124, 125] {
        peer.send_frame(0x89, &vec![len as u8; len]);
        let pong = peer.read_frame();
        assert_eq!((pong.first, pong.payload), (0x8a, vec![len as u8; len]));
    }
    peer.send_frame(0x01, b"be");
    peer.send_frame(0x89, b"now");
    let pong = peer.read_frame();
    assert_eq!((pong.first, &pong.payload[..]), (0x8a, &b"now"[..]));
    peer.send_frame(0x80, b"gun");
    assert_eq!(peer.read_frame().payload, b"begun");
}

fn a_ping_flood_of_a_peer_that_reads_is_answered_in_full(driver: Driver) {
    let server = start(driver);
    let mut peer = server.open();
    for round in 0..20_u32 {
        let bytes: Vec<u8> =
            (0..500).flat_map(|i| frame(0x89, &(round * 500 + i).to_be_bytes())).collect();
        peer.send(&bytes);
        for i in 0..500 {
            let pong = peer.read_frame();
            assert_eq!((pong.first, pong.payload), (0x8a, (round * 500 + i).to_be_bytes().into()));
        }
    }
}

/// Notes the longest queue that it has seen.
struct Watcher {
    longest: Arc<AtomicUsize>,
}

impl Handler for Watcher {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        ws.send(message);
    }

    fn on_ping(&mut self, ws: &mut WebSocket<'_, ()>, _payload: &[u8]) {
        self.longest.fetch_max(ws.buffered_amount(), Ordering::AcqRel);
    }
}

fn a_ping_flood_of_a_peer_that_does_not_read_keeps_the_latest_pong_only(driver: Driver) {
    let longest = Arc::new(AtomicUsize::new(0));
    let watched = Arc::clone(&longest);
    let server = TestServer::start(driver, |server| {
        server
            .max_backpressure(1 << 20)
            .websocket("/", move |_| Watcher { longest: Arc::clone(&watched) })
    });
    let mut peer = server.open();
    // More than the two sockets can hold, so that most pongs must give way to later ones.
    let mut ping = [0; 125];
    let mut count = 0_u32;
    for _ in 0..120 {
        let mut bytes = Vec::with_capacity(1000 * 131);
        for _ in 0..1000 {
            count += 1;
            ping[..4].copy_from_slice(&count.to_be_bytes());
            bytes.extend(frame(0x89, &ping));
        }
        peer.send(&bytes);
    }
    peer.send_text("last");
    let (mut pongs, mut previous) = (0, 0);
    loop {
        let answer = peer.read_frame();
        if answer.first == 0x81 {
            assert_eq!(answer.payload, b"last");
            break;
        }
        assert_eq!((answer.first, answer.payload.len()), (0x8a, 125));
        let number = u32::from_be_bytes(answer.payload[..4].try_into().expect("4 bytes"));
        assert!(number > previous, "pong {number} after {previous}");
        (pongs, previous) = (pongs + 1, number);
    }
    // RFC 6455 5.5.3: the latest ping is the one that is owed an answer.
    assert_eq!(previous, count);
    assert!(pongs < count, "the flood was too small to fill the sockets");
    let longest = longest.load(Ordering::Acquire);
    assert!(longest <= 1 << 20, "{longest} bytes were queued");
}

fn pongs_that_nobody_asked_for_are_ignored(driver: Driver) {
    let server = start(driver);
    let mut peer = server.open();
    for _ in 0..1000 {
        peer.send_frame(0x8a, b"unasked");
    }
    peer.send_text("answer");
    assert_eq!(peer.read_frame().payload, b"answer");
}

fn what_came_before_the_bad_frame_is_answered_first(driver: Driver) {
    let server = start(driver);
    for _ in 0..20 {
        let mut peer = server.open();
        let mut bytes = frame(0x81, b"one");
        bytes.extend(frame(0x89, b"two"));
        bytes.extend(frame(0x82, &vec![3; LIMIT]));
        bytes.extend_from_slice(b"\xff\xff\xff\xff never looked at");
        bytes.extend(frame(0x81, b"never answered"));
        peer.send(&bytes);
        assert_eq!(peer.read_frame().payload, b"one");
        assert_eq!(peer.read_frame().payload, b"two");
        assert_eq!(peer.read_frame().payload, vec![3; LIMIT]);
        peer.expect_close(1002);
    }
    // The same behind the request itself.
    let mut peer = server.connect();
    peer.send(&[&request("/")[..], &frame(0x81, b"early"), b"\x81\x00"].concat());
    assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
    assert_eq!(peer.read_frame().payload, b"early");
    peer.expect_close(1002);
}

fn frames_may_arrive_byte_by_byte(driver: Driver) {
    let server = start(driver);
    let mut peer = server.open();
    let mut bytes = frame(0x81, "dré".as_bytes());
    bytes.extend(frame(0x89, b"ping"));
    bytes.extend(frame(0x82, &[5; 200]));
    bytes.extend(frame(0x88, &1000_u16.to_be_bytes()));
    for byte in bytes {
        peer.send(&[byte]);
        thread::sleep(Duration::from_micros(200));
    }
    assert_eq!(peer.read_frame().payload, "dré".as_bytes());
    assert_eq!(peer.read_frame().payload, b"ping");
    assert_eq!(peer.read_frame().payload, [5; 200]);
    peer.expect_close(1000);
}

fn a_fin_inside_a_frame_ends_the_connection_without_the_message(driver: Driver) {
    let server = start(driver);
    let whole = frame(0x81, &[b'a'; 300]);
    for cut in [1, 2, 3, 4, 7, 8, 9, 200, whole.len() - 1] {
        let mut peer = server.open();
        peer.send(&whole[..cut]);
        peer.finish();
        peer.expect_end();
    }
    let stats = server.wait_for("every slot to be free", |stats| stats.connections == 0);
    assert_eq!((stats.closed, stats.messages_received), (9, 0));
}

fn garbage_never_harms_anyone_else(driver: Driver) {
    let server = start(driver);
    let mut witness = server.open();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..200 {
        let len = random() as usize % 400 + 1;
        let mut garbage: Vec<u8> = (0..len).map(|_| random() as u8).collect();
        if round % 2 == 0 {
            // Closer to the truth: valid frames with one byte changed.
            garbage = [frame(0x81, b"text"), frame(0x02, &[0; 130]), frame(0x80, b"x")].concat();
            let index = random() as usize % garbage.len();
            garbage[index] ^= random() as u8 | 1;
        }
        let mut peer = server.open();
        peer.send(&garbage);
        peer.finish();
        // Whatever the answer is, it ends with FIN.
        peer.read_to_end().unwrap_or_else(|error| panic!("{error} for {garbage:x?}"));
    }
    witness.send_text("unharmed");
    assert_eq!(witness.read_frame().payload, b"unharmed");
    let stats = server.wait_for("every slot to be free", |stats| stats.connections == 1);
    assert_eq!((stats.handler_panics, stats.opened, stats.closed), (0, 201, 200));
}
