//! A peer that does not read costs bounded memory, loses nothing of what was taken for it, and
//! delays nobody else.

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{Echo, PATIENCE, Peer, TestServer, frame};
use wirelane::{Driver, Handler, Limits, Message, SendError, SendStatus, WebSocket};

on_every_driver!(
    tiny_echoes_are_all_there_when_the_peer_reads_again,
    medium_echoes_are_all_there_when_the_peer_reads_again,
    large_echoes_are_all_there_when_the_peer_reads_again,
    a_limit_below_one_receive_loses_nothing_small,
    a_limit_below_one_receive_loses_nothing_large,
    the_smallest_limit_loses_nothing,
    a_limit_below_one_message_lets_one_through_at_a_time,
    a_peer_that_reads_in_bursts_never_stalls,
    a_fin_behind_input_that_waits_comes_after_its_messages,
    a_close_behind_input_that_waits_is_answered_after_its_messages,
    a_handler_that_floods_is_told_and_can_go_on_after_the_drain,
    a_message_is_queued_whole_or_not_at_all,
    a_slow_receiver_of_others_is_full_and_the_sender_is_told,
    one_firehose_does_not_starve_another_connection,
    thousands_of_tiny_messages_are_taken_in_turns,
    a_pause_does_not_begin_another_turn,
    many_floods_at_once_are_all_there,
    one_clogged_peer_does_not_delay_another,
);

const KIB: usize = 1024;

/// Returns every message and notes the longest queue.
struct Watcher {
    longest: Arc<AtomicUsize>,
}

impl Handler for Watcher {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        assert_ne!(ws.send(message), SendStatus::Dropped, "an echo is never too much");
        self.longest.fetch_max(ws.buffered_amount(), Ordering::AcqRel);
    }
}

/// The number of the message, then a pattern.
fn payload(number: usize, len: usize) -> Vec<u8> {
    let mut payload = vec![(number * 7) as u8; len.max(4)];
    payload[..4].copy_from_slice(&(number as u32).to_be_bytes());
    payload
}

/// A peer that only sends until the server takes no more, and then only reads: every echo is
/// there, whole and in order, and the server never queued much more than `max_backpressure`.
fn stuck_then_read(driver: Driver, max_backpressure: usize, len: usize) {
    let longest = Arc::new(AtomicUsize::new(0));
    let watched = Arc::clone(&longest);
    let server = TestServer::start(driver, |server| {
        server
            .limits(Limits::new().max_message(8 << 20))
            .max_backpressure(max_backpressure)
            .websocket("/", move |_| Watcher { longest: Arc::clone(&watched) })
    });
    let mut peer = server.open();
    socket2::SockRef::from(&peer.stream).set_recv_buffer_size(64 * KIB).expect("a socket");
    let mut count = 0;
    let mut make = || {
        let mut bytes = Vec::new();
        while bytes.len() < 64 * KIB {
            bytes.extend(frame(0x82, &payload(count, len)));
            count += 1;
        }
        bytes
    };
    peer.send_until_stuck(256 << 20, &mut make);
    let rest = std::mem::take(&mut peer.unsent);
    let mut writer = peer.stream.try_clone().expect("a descriptor");
    let writing = thread::spawn(move || writer.write_all(&rest));
    for number in 0..count {
        let echo = peer.read_frame();
        assert!(echo.first == 0x82 && echo.payload == payload(number, len), "echo {number}");
    }
    writing.join().expect("no panic").expect("the server reads again");
    // The connection is as good as new.
    peer.send_text("end");
    assert_eq!(peer.read_frame().payload, b"end");
    let longest = longest.load(Ordering::Acquire);
    assert!(longest <= max_backpressure.max(len + 14), "{longest} bytes were queued");
}

fn tiny_echoes_are_all_there_when_the_peer_reads_again(driver: Driver) {
    stuck_then_read(driver, 1 << 20, 24);
}

fn medium_echoes_are_all_there_when_the_peer_reads_again(driver: Driver) {
    stuck_then_read(driver, 1 << 20, 5000);
}

fn large_echoes_are_all_there_when_the_peer_reads_again(driver: Driver) {
    stuck_then_read(driver, 8 << 20, 2_000_000);
}

fn a_limit_below_one_receive_loses_nothing_small(driver: Driver) {
    stuck_then_read(driver, 16 * KIB, 100);
}

fn a_limit_below_one_receive_loses_nothing_large(driver: Driver) {
    stuck_then_read(driver, 16 * KIB, 4000);
}

fn the_smallest_limit_loses_nothing(driver: Driver) {
    stuck_then_read(driver, 1024, 50);
}

fn a_limit_below_one_message_lets_one_through_at_a_time(driver: Driver) {
    let server =
        TestServer::start(driver, |server| server.max_backpressure(1024).websocket("/", |_| Echo));
    let mut peer = server.open();
    for round in 0..5 {
        let message = payload(round, 900_000);
        peer.send_frame(0x82, &message);
        assert!(peer.read_frame().payload == message);
    }
}

fn a_peer_that_reads_in_bursts_never_stalls(driver: Driver) {
    for max_backpressure in [4 * KIB, 32 * KIB] {
        let server = TestServer::start(driver, |server| {
            server.max_backpressure(max_backpressure).websocket("/", |_| Echo)
        });
        let mut peer = server.open();
        socket2::SockRef::from(&peer.stream).set_recv_buffer_size(32 * KIB).expect("a socket");
        let mut writer = peer.stream.try_clone().expect("a descriptor");
        // Several times what the sockets hold, so that the server stops and goes on again often.
        let longest = (max_backpressure / 3).min(3000);
        let (count, len) = (26_000_000 / longest, move |number: usize| number * 31 % longest);
        let writing = thread::spawn(move || {
            for start in (0..count).step_by(100) {
                let piece: Vec<u8> = (start..count.min(start + 100))
                    .flat_map(|number| frame(0x82, &payload(number, len(number))))
                    .collect();
                writer.write_all(&piece).expect("the server reads");
            }
        });
        for number in 0..count {
            if number % 3000 == 0 {
                // Long enough for both directions to fill.
                thread::sleep(Duration::from_millis(50));
            }
            let echo = peer.read_frame();
            assert!(echo.payload == payload(number, len(number)), "echo {number}");
        }
        writing.join().expect("no panic");
    }
}

/// Sends more than the server can answer while nobody reads; gives the number of messages.
fn overfill(peer: &mut Peer) -> usize {
    socket2::SockRef::from(&peer.stream).set_recv_buffer_size(64 * KIB).expect("a socket");
    let mut count = 0;
    peer.send_until_stuck(256 << 20, || {
        count += 1;
        frame(0x82, &payload(count - 1, 3000))
    });
    count
}

/// Sends `last` behind the messages of [`overfill`], and expects their echoes.
fn catch_up(peer: &mut Peer, count: usize, last: &[u8]) {
    let mut rest = std::mem::take(&mut peer.unsent);
    rest.extend_from_slice(last);
    let mut writer = peer.stream.try_clone().expect("a descriptor");
    let writing = thread::spawn(move || {
        writer.write_all(&rest).expect("the server reads again");
    });
    for number in 0..count {
        assert!(peer.read_frame().payload == payload(number, 3000), "echo {number}");
    }
    writing.join().expect("no panic");
}

fn a_fin_behind_input_that_waits_comes_after_its_messages(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        server.max_backpressure(64 * KIB).websocket("/", |_| Echo)
    });
    let mut peer = server.open();
    let count = overfill(&mut peer);
    let rest = std::mem::take(&mut peer.unsent);
    let mut writer = peer.stream.try_clone().expect("a descriptor");
    let writing = thread::spawn(move || {
        writer.write_all(&rest).expect("the server reads again");
        writer.shutdown(Shutdown::Write).expect("a connected socket");
    });
    // Who ends without a Close gives up the answers that have not left: what comes is a part.
    let received = peer.read_to_end().expect("FIN, not a reset");
    writing.join().expect("no panic");
    assert!(!received.is_empty() && received.len() <= count * 3004);
    let stats = server.wait_for("the end", |stats| stats.connections == 0);
    let all = count as u64;
    assert_eq!((stats.messages_received, stats.messages_sent, stats.closed), (all, all, 1));
}

fn a_close_behind_input_that_waits_is_answered_after_its_messages(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        server.max_backpressure(64 * KIB).websocket("/", |_| Echo)
    });
    let mut peer = server.open();
    let count = overfill(&mut peer);
    catch_up(&mut peer, count, &frame(0x88, &4000_u16.to_be_bytes()));
    peer.expect_close(4000);
    drop(peer);
    server.wait_for("the end", |stats| stats.connections == 0);
}

/// What became of the messages of a [`Flooder`], in order.
type Log = Arc<Mutex<Vec<Step>>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Sent(u32),
    Queued(u32),
    Dropped(u32),
    Drained(usize),
}

/// Sends until it is told to stop; after the drain it starts again, twice.
struct Flooder {
    log: Log,
    next: u32,
    floods: u32,
}

impl Flooder {
    fn flood(&mut self, ws: &mut WebSocket<'_, ()>) {
        let mut log = self.log.lock().expect("no panic");
        self.floods += 1;
        loop {
            let number = self.next;
            let status = ws.send(&payload(number as usize, 10_000)[..]);
            let step = match status {
                SendStatus::Sent => Step::Sent(number),
                SendStatus::Queued => Step::Queued(number),
                SendStatus::Dropped => Step::Dropped(number),
            };
            log.push(step);
            if status == SendStatus::Dropped {
                // Nothing of it was taken, so its number is free for the next try.
                assert!(ws.buffered_amount() <= 300_000, "{} bytes", ws.buffered_amount());
                return;
            }
            self.next += 1;
        }
    }
}

impl Handler for Flooder {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {
        self.flood(ws);
    }

    fn on_drain(&mut self, ws: &mut WebSocket<'_, ()>) {
        self.log.lock().expect("no panic").push(Step::Drained(ws.buffered_amount()));
        if self.floods < 3 {
            self.flood(ws);
        } else {
            ws.send("end");
        }
    }
}

fn a_handler_that_floods_is_told_and_can_go_on_after_the_drain(driver: Driver) {
    let log = Log::default();
    let noted = Arc::clone(&log);
    let server = TestServer::start(driver, |server| {
        server.max_backpressure(300_000).websocket("/", move |_| Flooder {
            log: Arc::clone(&noted),
            next: 0,
            floods: 0,
        })
    });
    let mut peer = server.open();
    socket2::SockRef::from(&peer.stream).set_recv_buffer_size(64 * KIB).expect("a socket");
    peer.send_text("go");
    let dropped = server.wait_for("a full queue", |stats| stats.dropped == 1);
    assert!(dropped.messages_sent > 0);
    let mut received = 0;
    loop {
        let message = peer.read_frame();
        if message.first == 0x81 {
            break;
        }
        assert!(message.payload == payload(received, 10_000), "message {received}");
        received += 1;
    }
    let log = log.lock().expect("no panic");
    let taken = log.iter().filter(|step| matches!(step, Step::Sent(_) | Step::Queued(_))).count();
    // All that was taken arrived, and nothing else did.
    assert_eq!(received, taken);
    let drains: Vec<_> = log.iter().filter(|step| matches!(step, Step::Drained(_))).collect();
    assert_eq!(drains, [&Step::Drained(0); 3], "empty, and once after each refusal");
    // Sent comes before Queued, Queued before Dropped, Dropped before the drain.
    for flood in log.split(|step| matches!(step, Step::Drained(_))) {
        let rank = |step: &Step| match step {
            Step::Sent(_) => 0,
            Step::Queued(_) => 1,
            Step::Dropped(_) | Step::Drained(_) => 2,
        };
        assert!(flood.is_sorted_by_key(rank), "{flood:?}");
        assert_eq!(flood.iter().filter(|step| rank(step) == 2).count(), flood.len().min(1));
    }
    assert_eq!(server.wait_for("three refusals", |stats| stats.dropped == 3).handler_panics, 0);
}

/// Fills its own queue with messages of many sizes, once.
struct Sizes {
    taken: Sender<Vec<usize>>,
}

impl Handler for Sizes {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {
        let mut taken = Vec::new();
        let (mut refused, mut number) = (0, 0);
        while refused < 20 {
            // Up to the limit itself, and on both sides of every way to send.
            let len = number * 7919 % 120_000;
            if ws.send(&payload(number, len)[..]) == SendStatus::Dropped {
                refused += 1;
            } else {
                taken.push(number);
            }
            assert!(ws.buffered_amount() <= 200_000, "{} bytes", ws.buffered_amount());
            number += 1;
        }
        self.taken.send(taken).expect("the test waits");
    }
}

fn a_message_is_queued_whole_or_not_at_all(driver: Driver) {
    let (sender, numbers) = channel();
    let server = TestServer::start(driver, |server| {
        server.max_backpressure(100_000).websocket("/", move |_| Sizes { taken: sender.clone() })
    });
    let mut peer = server.open();
    peer.send_text("go");
    for number in numbers.recv_timeout(PATIENCE).expect("the handler is done") {
        let message = peer.read_frame();
        assert!(message.payload == payload(number, number * 7919 % 120_000), "message {number}");
    }
    peer.send_frame(0x88, b"");
    assert_eq!(peer.read_frame().payload, b"");
    peer.expect_end();
}

/// Sends everything to the first connection that was opened, until that one is full.
#[derive(Default)]
struct ToTheFirst {
    first: Option<wirelane::ConnectionId>,
}

impl Handler for ToTheFirst {
    type Session = ();

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        self.first.get_or_insert(ws.id());
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {
        let first = self.first.expect("someone is open");
        let mut taken = 0_u32;
        let error = loop {
            match ws.send_to(first, &payload(taken as usize, 5000)[..]) {
                Ok(_) => taken += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error, SendError::Full);
        ws.send(&taken.to_string());
    }
}

fn a_slow_receiver_of_others_is_full_and_the_sender_is_told(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        server.max_backpressure(100_000).websocket("/", |_| ToTheFirst::default())
    });
    let mut slow = server.open();
    let mut sender = server.open();
    sender.send_text("go");
    let taken = sender.read_frame().payload;
    let taken: usize = String::from_utf8(taken).expect("digits").parse().expect("a number");
    for number in 0..taken {
        assert!(slow.read_frame().payload == payload(number, 5000), "message {number}");
    }
    sender.send_text("again");
    assert_eq!(slow.read_frame().payload, payload(0, 5000));
}

fn one_firehose_does_not_starve_another_connection(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        server.max_backpressure(4 << 20).websocket("/", |_| Echo)
    });
    let stop = Arc::new(AtomicBool::new(false));
    let mut hose = server.open();
    let mut other = server.open();
    let mut drain = hose.stream.try_clone().expect("a descriptor");
    let reading = thread::spawn(move || {
        // Reads and looks at nothing, as fast as it can.
        let mut buffer = vec![0; 256 * KIB];
        while drain.read(&mut buffer).is_ok_and(|count| count != 0) {}
    });
    let stopping = Arc::clone(&stop);
    let writing = thread::spawn(move || {
        let piece: Vec<u8> = (0..5000).flat_map(|_| frame(0x82, b"tiny")).collect();
        while !stopping.load(Ordering::Acquire) {
            hose.send(&piece);
        }
        hose.finish();
    });
    server.wait_for("the flood", |stats| stats.messages_received > 20_000);
    for round in 0..20 {
        other.send_text(&round.to_string());
        assert_eq!(other.read_frame().payload, round.to_string().as_bytes());
    }
    let so_far = server.stats().messages_received;
    server.wait_for("more of the flood", |stats| stats.messages_received > so_far);
    stop.store(true, Ordering::Release);
    writing.join().expect("no panic");
    reading.join().expect("no panic");
}

/// Notes how many messages had come when the first text came, and lets a test hold the worker up.
struct Counting {
    binary: u32,
    /// Stops reading and reads on with every message.
    restless: bool,
    held: Arc<Mutex<Receiver<()>>>,
    seen: Sender<u32>,
}

impl Handler for Counting {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        if self.restless {
            ws.pause_reading();
            ws.resume_reading();
        }
        match message {
            Message::Binary(b"hold") => {
                let _ = self.seen.send(0);
                let _ = self.held.lock().expect("no panic").recv_timeout(PATIENCE);
            }
            Message::Binary(_) => self.binary += 1,
            Message::Text("count") => self.seen.send(self.binary).expect("the test waits"),
            Message::Text(_) => {}
        }
    }
}

fn thousands_of_tiny_messages_are_taken_in_turns(driver: Driver) {
    thousands_of_tiny_messages(driver, 1, false);
}

fn a_pause_does_not_begin_another_turn(driver: Driver) {
    thousands_of_tiny_messages(driver, 1, true);
}

fn many_floods_at_once_are_all_there(driver: Driver) {
    thousands_of_tiny_messages(driver, 40, false);
}

fn thousands_of_tiny_messages(driver: Driver, floods: u64, restless: bool) {
    let ((hold, held), (seen, told)) = (channel(), channel());
    let held = Arc::new(Mutex::new(held));
    let server = TestServer::start(driver, |server| {
        server.websocket("/", move |_| Counting {
            binary: 0,
            restless,
            held: Arc::clone(&held),
            seen: seen.clone(),
        })
    });
    let (mut holder, mut other) = (server.open(), server.open());
    let mut flooding: Vec<Peer> = (0..floods).map(|_| server.open()).collect();
    holder.send_frame(0x82, b"hold");
    assert_eq!(told.recv_timeout(PATIENCE), Ok(0));
    // The worker finds all of it at once: 60 KB of one connection, a message of another.
    let many: Vec<u8> = (0..10_000).flat_map(|_| frame(0x82, b"")).collect();
    for flood in &mut flooding {
        flood.send(&many);
    }
    other.send_text("count");
    hold.send(()).expect("the handler waits");
    let before = told.recv_timeout(PATIENCE).expect("the other one had its turn");
    if floods == 1 {
        assert!(before <= 2 * 1024, "{before} messages came first");
    }
    server.wait_for("all of it", |stats| stats.messages_received == floods * 10_000 + 2);
}

fn one_clogged_peer_does_not_delay_another(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        server.max_backpressure(64 * KIB).websocket("/", |_| Echo)
    });
    let mut clogged = server.open();
    let count = overfill(&mut clogged);
    let mut other = server.open();
    for round in 0..100 {
        let message = payload(round, 20_000);
        other.send_frame(0x82, &message);
        assert!(other.read_frame().payload == message);
    }
    catch_up(&mut clogged, count, b"");
}
