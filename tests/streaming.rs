//! Messages that nobody buffers: delivered in parts as they arrive, sent in parts over many turns.

mod common;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, Peer, TestServer, frame};
use wirelane::{
    Close, CloseCode, ConnectionId, Driver, Fragment, Handler, Limits, Message, SendError,
    SendStatus, ServerBuilder, WebSocket,
};

on_every_driver!(
    a_long_message_arrives_in_parts_and_costs_no_memory,
    texts_are_cut_between_characters,
    flags_say_where_messages_begin_and_end,
    control_frames_are_served_in_between,
    broken_text_is_refused_at_once,
    limits_are_those_of_streams,
    a_message_may_stay_unfinished,
    parts_wait_while_reading_is_paused,
    what_comes_in_parts_can_go_out_in_parts,
    other_routes_are_not_touched,
    a_long_message_is_sent_while_others_are_served,
    nothing_gets_between_the_fragments,
    the_order_of_fragments_is_checked,
    a_fragment_that_is_refused_can_be_tried_again,
    a_close_may_interrupt_a_message,
);

const MIB: usize = 1 << 20;

/// What a handler saw of one message, or of the end.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Part { text: bool, first: bool, last: bool, payload: Vec<u8> },
    Ping(Vec<u8>),
    Close(u16),
}

/// Reports every part.
struct Parts {
    seen: Sender<Seen>,
}

impl Handler for Parts {
    type Session = ();
    const STREAM: bool = true;

    fn on_fragment(&mut self, ws: &mut WebSocket<'_, ()>, fragment: Fragment<'_>) {
        let Fragment { payload, first, last, .. } = fragment;
        if payload == Message::Text("pause") {
            ws.pause_reading();
            ws.set_timer(Duration::from_millis(100), 0).expect("room");
        }
        let payload_bytes = payload.payload().to_vec();
        let text = payload.is_text();
        let _ = self.seen.send(Seen::Part { text, first, last, payload: payload_bytes });
    }

    fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {
        panic!("messages come in parts");
    }

    fn on_timer(&mut self, ws: &mut WebSocket<'_, ()>, _key: u64) {
        ws.resume_reading();
    }

    fn on_ping(&mut self, _ws: &mut WebSocket<'_, ()>, payload: &[u8]) {
        let _ = self.seen.send(Seen::Ping(payload.to_vec()));
    }

    fn on_close(&mut self, _ws: &mut WebSocket<'_, ()>, close: Close<'_>) {
        let _ = self.seen.send(Seen::Close(close.code));
    }
}

fn start(
    driver: Driver,
    configure: impl FnOnce(ServerBuilder) -> ServerBuilder,
) -> (TestServer, Receiver<Seen>) {
    let (seen, told) = channel();
    let server = TestServer::start(driver, |server| {
        configure(server).websocket("/", move |_| Parts { seen: seen.clone() })
    });
    (server, told)
}

fn next(seen: &Receiver<Seen>) -> Seen {
    seen.recv_timeout(PATIENCE).expect("a call")
}

/// All parts of the next message, put together, with their number.
fn whole(seen: &Receiver<Seen>) -> (bool, Vec<u8>, usize) {
    let (mut bytes, mut parts) = (Vec::new(), 0);
    loop {
        match next(seen) {
            Seen::Part { text, first, last, payload } => {
                assert_eq!(first, parts == 0);
                assert!(last || !payload.is_empty());
                assert!(!text || std::str::from_utf8(&payload).is_ok(), "{payload:x?}");
                bytes.extend(payload);
                parts += 1;
                if last {
                    return (text, bytes, parts);
                }
            }
            other => panic!("{other:?} after {} bytes", bytes.len()),
        }
    }
}

/// Counts, and keeps nothing.
struct Counter {
    bytes: u64,
    total: Sender<(u64, usize)>,
    longest: usize,
}

impl Handler for Counter {
    type Session = ();
    const STREAM: bool = true;

    fn on_fragment(&mut self, _ws: &mut WebSocket<'_, ()>, fragment: Fragment<'_>) {
        self.bytes += fragment.payload.len() as u64;
        self.longest = self.longest.max(fragment.payload.len());
        if fragment.last {
            self.total.send((self.bytes, self.longest)).expect("the test waits");
        }
    }

    fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {}
}

fn a_long_message_arrives_in_parts_and_costs_no_memory(driver: Driver) {
    // One frame of 160 MiB, far beyond `max_message`.
    const LEN: usize = 160 * MIB;
    let (total, told) = channel();
    let server = TestServer::start(driver, |server| {
        server.limits(Limits::new().max_message(1000)).websocket("/", move |_| Counter {
            bytes: 0,
            total: total.clone(),
            longest: 0,
        })
    });
    let mut peer = server.open();
    let piece = vec![7_u8; MIB];
    let mut header = vec![0x82, 0x80 | 127];
    header.extend_from_slice(&(LEN as u64).to_be_bytes());
    header.extend_from_slice(&[0; 4]);
    peer.send(&header);
    peer.send(&piece);
    let before = common::memory().resident;
    for _ in 1..LEN / MIB {
        peer.send(&piece);
    }
    let (bytes, longest) = told.recv_timeout(PATIENCE).expect("the end of the message");
    assert_eq!(bytes, LEN as u64);
    assert!(longest <= 256 * 1024, "{longest} bytes in one part");
    let grown = common::memory().resident.saturating_sub(before);
    // Other tests of this process run at the same time.
    assert!(grown < LEN / 2, "{grown} bytes more");
    server.wait_for("the figure", |stats| stats.messages_received == 1);
}

fn texts_are_cut_between_characters(driver: Driver) {
    let (server, seen) = start(driver, |server| server);
    let text = "aé€𝄞 ÿ\u{10ffff}z";
    let mut peer = server.open();
    // Byte by byte, each with time to be received alone: more of it while they come in one.
    let in_parts = |pause| {
        for byte in frame(0x81, text.as_bytes()) {
            peer.send(&[byte]);
            thread::sleep(Duration::from_millis(pause));
        }
        let (is_text, bytes, parts) = whole(&seen);
        assert_eq!((is_text, &bytes[..]), (true, text.as_bytes()));
        parts > 1
    };
    assert!([2, 10, 50, 250].into_iter().any(in_parts), "the parts are put together");
    // Every fragment cuts a character.
    for (nth, byte) in text.bytes().enumerate() {
        peer.send_frame(if nth == 0 { 0x01 } else { 0x00 }, &[byte]);
    }
    peer.send_frame(0x80, b"");
    let (is_text, bytes, parts) = whole(&seen);
    assert_eq!((is_text, &bytes[..]), (true, text.as_bytes()));
    assert!(parts <= text.chars().count() + 1);
}

fn flags_say_where_messages_begin_and_end(driver: Driver) {
    let (server, seen) = start(driver, |server| server);
    let mut peer = server.open();
    let bytes = [
        frame(0x81, b"whole"),
        frame(0x82, b""),
        frame(0x02, b"1"),
        frame(0x00, b""),
        frame(0x00, b"2"),
        frame(0x80, b""),
        frame(0x81, b"end"),
    ];
    peer.send(&bytes.concat());
    let expected = [
        (true, true, true, "whole"),
        (false, true, true, ""),
        (false, true, false, "1"),
        (false, false, false, "2"),
        (false, false, true, ""),
        (true, true, true, "end"),
    ];
    for (text, first, last, payload) in expected {
        let payload = payload.as_bytes().to_vec();
        assert_eq!(next(&seen), Seen::Part { text, first, last, payload });
    }
    assert_eq!(server.wait_for("all of them", |s| s.messages_received == 4).handler_panics, 0);
}

fn control_frames_are_served_in_between(driver: Driver) {
    let (server, seen) = start(driver, |server| server);
    let mut peer = server.open();
    peer.send(&[frame(0x01, b"a"), frame(0x89, b"ping"), frame(0x80, b"b")].concat());
    let part = |first, payload: &[u8]| Seen::Part {
        text: true,
        first,
        last: !first,
        payload: payload.to_vec(),
    };
    assert_eq!(next(&seen), part(true, b"a"));
    assert_eq!(next(&seen), Seen::Ping(b"ping".to_vec()));
    assert_eq!(next(&seen), part(false, b"b"));
    let pong = peer.read_frame();
    assert_eq!((pong.first, &pong.payload[..]), (0x8a, &b"ping"[..]));
    peer.send_frame(0x88, &1000_u16.to_be_bytes());
    peer.expect_close(1000);
    assert_eq!(next(&seen), Seen::Close(1000));
}

fn broken_text_is_refused_at_once(driver: Driver) {
    let (server, seen) = start(driver, |server| server);
    let cases: [&[u8]; 3] = [
        // In the middle of a message that is far from its end.
        &[&frame(0x01, b"fine")[..], &frame(0x00, b"\xff")].concat(),
        // Half a character at the end.
        &[&frame(0x01, b"fine")[..], &frame(0x80, b"\xe2\x82")].concat(),
        // A character goes on with something else.
        &[&frame(0x01, b"fine\xe2")[..], &frame(0x00, b"a")].concat(),
    ];
    for bytes in cases {
        let mut peer = server.open();
        peer.send(bytes);
        peer.expect_close(1007);
        let payload = b"fine".to_vec();
        assert_eq!(next(&seen), Seen::Part { text: true, first: true, last: false, payload });
        assert_eq!(next(&seen), Seen::Close(1007));
    }
    let mut peer = server.open();
    peer.send(&[frame(0x01, b"a"), frame(0x81, b"b")].concat());
    peer.expect_close(1002);
}

fn limits_are_those_of_streams(driver: Driver) {
    let (server, seen) = start(driver, |server| {
        server.limits(Limits::new().max_message(100).max_frame(5000)).max_streamed_message(20_000)
    });
    let mut peer = server.open();
    for nth in 0..4 {
        peer.send_frame([0x02, 0x00, 0x00, 0x80][nth], &[7; 5000]);
    }
    assert_eq!(whole(&seen).1.len(), 20_000);
    peer.send_frame(0x02, &[7; 5000]);
    peer.send(&frame(0x80, &[7; 5001])[..8]);
    peer.expect_close(1009);
    let mut peer = server.open();
    for first in [0x02, 0x00, 0x00, 0x00] {
        peer.send_frame(first, &[7; 5000]);
    }
    peer.send(&frame(0x80, &[7; 1])[..6]);
    peer.expect_close(1009);
}

fn a_message_may_stay_unfinished(driver: Driver) {
    let (server, seen) = start(driver, |server| server);
    let mut peer = server.open();
    peer.send_frame(0x01, b"begun");
    let payload = b"begun".to_vec();
    assert_eq!(next(&seen), Seen::Part { text: true, first: true, last: false, payload });
    peer.send_frame(0x88, &1001_u16.to_be_bytes());
    peer.expect_close(1001);
    assert_eq!(next(&seen), Seen::Close(1001));
    assert_eq!(server.stats().messages_received, 0);
}

fn parts_wait_while_reading_is_paused(driver: Driver) {
    let (server, seen) = start(driver, |server| server);
    let mut peer = server.open();
    let start = Instant::now();
    let bytes =
        [frame(0x01, b"pause"), frame(0x00, b"held"), frame(0x80, b"end"), frame(0x81, b"next")];
    peer.send(&bytes.concat());
    assert!(matches!(next(&seen), Seen::Part { first: true, .. }));
    for expected in ["held", "end", "next"] {
        match next(&seen) {
            Seen::Part { payload, .. } => assert_eq!(payload, expected.as_bytes()),
            other => panic!("{other:?}"),
        }
    }
    assert!(start.elapsed() >= Duration::from_millis(100));
}

/// Sends every part back.
struct StreamEcho;

impl Handler for StreamEcho {
    type Session = ();
    const STREAM: bool = true;

    fn on_fragment(&mut self, ws: &mut WebSocket<'_, ()>, fragment: Fragment<'_>) {
        ws.send_fragment(fragment).expect("an echo is never too much");
    }

    fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {}
}

/// The next message, put together; its first opcode and the number of its frames.
fn read_message(peer: &mut Peer) -> (u8, Vec<u8>, usize) {
    let mut frame = peer.read_frame();
    let (kind, mut payload, mut frames) = (frame.first & 0xf, Vec::new(), 1);
    loop {
        payload.extend(frame.payload);
        if frame.first & 0x80 != 0 {
            return (kind, payload, frames);
        }
        frame = peer.read_frame();
        assert_eq!(frame.first & 0xf, 0, "a continuation");
        frames += 1;
    }
}

fn what_comes_in_parts_can_go_out_in_parts(driver: Driver) {
    let server = TestServer::start(driver, |server| server.websocket("/", |_| StreamEcho));
    let mut peer = server.open();
    let text = "añ€𝄞".repeat(100_000);
    let mut writer = peer.stream.try_clone().expect("a descriptor");
    let bytes = [frame(0x81, text.as_bytes()), frame(0x82, &[9; 10]), frame(0x81, b"")].concat();
    let writing = thread::spawn(move || std::io::Write::write_all(&mut writer, &bytes));
    let (kind, payload, _) = read_message(&mut peer);
    assert_eq!(kind, 1);
    assert!(payload == text.as_bytes());
    assert_eq!(read_message(&mut peer), (2, vec![9; 10], 1));
    assert_eq!(read_message(&mut peer), (1, vec![], 1));
    writing.join().expect("no panic").expect("it is read");
    let stats = server.wait_for("three messages", |stats| stats.messages_sent == 3);
    assert_eq!((stats.messages_received, stats.dropped_out_of_order), (3, 0));
}

fn other_routes_are_not_touched(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        server
            .limits(Limits::new().max_message(1000))
            .websocket("/stream", |_| StreamEcho)
            .websocket("/", |_| common::Echo)
    });
    let mut whole = server.open();
    for nth in 0..3 {
        whole.send_frame([0x01, 0x00, 0x80][nth], b"abc");
    }
    assert_eq!(whole.read_frame().payload, b"abcabcabc");
    whole.send(&frame(0x82, &[1; 1001])[..8]);
    whole.expect_close(1009);
    let mut stream = server.connect();
    stream.handshake("/stream");
    stream.send_frame(0x82, &[1; 1001]);
    assert_eq!(read_message(&mut stream).1.len(), 1001);
}

/// Bytes of each fragment of a long message.
const PIECE: usize = 50_000;

/// Sends a long message in pieces, as fast as the peer reads; echoes everything else.
#[derive(Default)]
struct Long {
    sender: Option<ConnectionId>,
    left: usize,
    begun: bool,
}

impl Long {
    fn go_on(&mut self, ws: &mut WebSocket<'_, ()>) {
        while self.left > 0 {
            let bytes = [self.left as u8; PIECE];
            let payload = &bytes[..];
            let fragment = match (self.begun, self.left) {
                (false, _) => Fragment::first(payload),
                (true, 1) => Fragment::last(payload),
                (true, _) => Fragment::next(payload),
            };
            let status = ws.send_fragment(fragment).expect("in order, and there is room");
            assert_ne!(status, SendStatus::Dropped);
            self.begun = true;
            self.left -= 1;
            if status == SendStatus::Queued {
                return;
            }
        }
    }
}

impl Handler for Long {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        match message {
            Message::Text("long") => {
                self.sender = Some(ws.id());
                self.left = 400;
                self.go_on(ws);
            }
            Message::Text("interrupt") => {
                let sender = self.sender.expect("somebody sends");
                assert_eq!(ws.send_to(sender, "no"), Err(SendError::OutOfOrder));
                ws.send("refused");
            }
            other => {
                ws.send(other);
            }
        }
    }

    fn on_drain(&mut self, ws: &mut WebSocket<'_, ()>) {
        if self.sender == Some(ws.id()) {
            self.go_on(ws);
        }
    }
}

fn a_long_message_is_sent_while_others_are_served(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        server.max_backpressure(200_000).websocket("/", |_| Long::default())
    });
    let mut peer = server.open();
    socket2::SockRef::from(&peer.stream).set_recv_buffer_size(64 * 1024).expect("a socket");
    peer.send_text("long");
    server.wait_for("bytes that wait", |stats| stats.buffered_bytes > 0);
    let mut other = server.open();
    for round in 0..50 {
        other.send_text(&round.to_string());
        assert_eq!(other.read_frame().payload, round.to_string().as_bytes());
    }
    other.send_text("interrupt");
    assert_eq!(other.read_frame().payload, b"refused");
    let buffered = server.stats().buffered_bytes;
    assert!(buffered <= 200_000 + PIECE as u64, "{buffered} bytes wait");
    let (kind, payload, frames) = read_message(&mut peer);
    assert_eq!((kind, payload.len(), frames), (2, 400 * PIECE, 400));
    let pieces = payload.chunks(PIECE).zip((1..=400_usize).rev());
    assert!(pieces.into_iter().all(|(piece, left)| piece.iter().all(|&b| b == left as u8)));
    let stats = server.wait_for("one message", |stats| stats.messages_sent == 52);
    assert_eq!(stats.dropped_out_of_order, 1);
    peer.send_text("done");
    assert_eq!(peer.read_frame().payload, b"done");
}

/// Does what the test wants with the fragments.
struct Steps {
    step: fn(&mut WebSocket<'_, ()>),
}

impl Handler for Steps {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {
        (self.step)(ws);
    }
}

fn run_steps(driver: Driver, step: fn(&mut WebSocket<'_, ()>)) -> (TestServer, Peer) {
    let server = TestServer::start(driver, |server| server.websocket("/", move |_| Steps { step }));
    let mut peer = server.open();
    peer.send_text("go");
    (server, peer)
}

fn nothing_gets_between_the_fragments(driver: Driver) {
    let (server, mut peer) = run_steps(driver, |ws| {
        let id = ws.id();
        ws.send_fragment(Fragment::first("one ")).expect("in order");
        assert_eq!(ws.send("whole"), SendStatus::Dropped);
        assert_eq!(ws.send(&[0; 100_000][..]), SendStatus::Dropped);
        assert_eq!(ws.send_to(id, "whole"), Err(SendError::OutOfOrder));
        assert_eq!(ws.send_fragment(Fragment::whole("w")), Err(SendError::OutOfOrder));
        assert_eq!(ws.worker().send_to(id, "whole"), Err(SendError::OutOfOrder));
        assert_eq!(ws.subscribe("topic"), Ok(true));
        assert_eq!(ws.publish_to_all("topic", "whole").dropped, 1);
        assert_eq!(ws.ping(b"ping"), SendStatus::Sent);
        ws.send_fragment(Fragment::next("two ")).expect("in order");
        ws.send_fragment(Fragment::last("three")).expect("in order");
        assert_eq!(ws.send("whole"), SendStatus::Sent);
    });
    let frames: Vec<_> = (0..5).map(|_| peer.read_frame()).collect();
    let expected: [(u8, &str); 5] =
        [(0x01, "one "), (0x89, "ping"), (0x00, "two "), (0x80, "three"), (0x81, "whole")];
    for (frame, (first, payload)) in frames.iter().zip(expected) {
        assert_eq!((frame.first, &frame.payload[..]), (first, payload.as_bytes()));
    }
    let stats = server.wait_for("the refusals", |stats| stats.dropped_out_of_order == 5);
    assert_eq!((stats.messages_sent, stats.handler_panics), (2, 0));
}

fn the_order_of_fragments_is_checked(driver: Driver) {
    let (server, mut peer) = run_steps(driver, |ws| {
        let refused = Err(SendError::OutOfOrder);
        assert_eq!(ws.send_fragment(Fragment::next("no")), refused);
        assert_eq!(ws.send_fragment(Fragment::last("no")), refused);
        ws.send_fragment(Fragment::first("")).expect("in order");
        assert_eq!(ws.send_fragment(Fragment::first("no")), refused);
        // A text does not go on with bytes.
        assert_eq!(ws.send_fragment(Fragment::next(&b"no"[..])), refused);
        ws.send_fragment(Fragment::last("yes")).expect("in order");
        assert_eq!(ws.send_fragment(Fragment::last("no")), refused);
    });
    assert_eq!(read_message(&mut peer), (1, b"yes".to_vec(), 2));
    assert_eq!(server.wait_for("five", |s| s.dropped_out_of_order == 5).handler_panics, 0);
}

/// Fills the queue with fragments until one is refused, and tries that one again after the drain.
#[derive(Default)]
struct Stubborn {
    sent: usize,
    refused: usize,
}

impl Stubborn {
    fn go_on(&mut self, ws: &mut WebSocket<'_, ()>) {
        while self.sent < 1000 {
            let bytes = [self.sent as u8; 20_000];
            let payload = &bytes[..];
            let fragment = match self.sent {
                0 => Fragment::first(payload),
                999 => Fragment::last(payload),
                _ => Fragment::next(payload),
            };
            match ws.send_fragment(fragment) {
                Ok(_) => self.sent += 1,
                Err(error) => {
                    assert_eq!(error, SendError::Full);
                    self.refused += 1;
                    return;
                }
            }
        }
        assert!(self.refused > 0, "the peer was not slow");
    }
}

impl Handler for Stubborn {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {
        self.go_on(ws);
    }

    fn on_drain(&mut self, ws: &mut WebSocket<'_, ()>) {
        self.go_on(ws);
    }
}

fn a_fragment_that_is_refused_can_be_tried_again(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        server.max_backpressure(100_000).websocket("/", |_| Stubborn::default())
    });
    let mut peer = server.open();
    socket2::SockRef::from(&peer.stream).set_recv_buffer_size(64 * 1024).expect("a socket");
    peer.send_text("go");
    server.wait_for("a refusal", |stats| stats.dropped > 0);
    let (_, payload, frames) = read_message(&mut peer);
    assert_eq!((payload.len(), frames), (20_000_000, 1000));
    assert!(payload.chunks(20_000).enumerate().all(|(nth, piece)| piece[0] == nth as u8));
    assert_eq!(server.stats().handler_panics, 0);
}

fn a_close_may_interrupt_a_message(driver: Driver) {
    let (server, mut peer) = run_steps(driver, |ws| {
        ws.send_fragment(Fragment::first("begun")).expect("in order");
        ws.close(CloseCode::INTERNAL_ERROR, "no more");
        assert_eq!(ws.send_fragment(Fragment::last("")), Err(SendError::Gone));
        assert_eq!(ws.send("whole"), SendStatus::Dropped);
    });
    assert_eq!(peer.read_frame().first, 0x01);
    assert_eq!(peer.read_frame().close_code(), 1011);
    peer.send_frame(0x88, &1011_u16.to_be_bytes());
    peer.expect_end();
    let stats = server.wait_for("the end", |stats| stats.closed == 1);
    assert_eq!((stats.dropped_out_of_order, stats.messages_sent), (0, 0));
    assert_eq!(stats.closes_sent.count(1011), 1);
}
