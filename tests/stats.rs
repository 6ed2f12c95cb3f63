//! The figures are those of what happened, and closures of other threads run on the worker.

mod common;

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{Echo, PATIENCE, Peer, TestServer, frame};
use wirelane::protocol::upgrade::Refusal;
use wirelane::{
    CloseCode, ConnectionId, Driver, Handler, Message, SendError, SendStatus, Server, TimerError,
    WebSocket,
};

on_every_driver!(
    bytes_are_counted_as_they_cross_the_wire,
    closes_are_counted_by_code,
    refusals_are_counted_by_reason,
    turns_are_measured,
    bytes_that_wait_are_known_until_they_leave,
    a_worker_has_a_limit_of_its_own,
    publications_count_for_the_limit_of_a_worker,
    workers_add_up,
    a_closure_runs_on_the_thread_of_its_worker,
    closures_and_messages_keep_their_order,
    a_closure_reaches_connections,
    a_closure_that_panics_stops_nothing,
    a_closure_for_nobody_is_an_error_value,
    a_closure_that_waits_for_the_start_is_called,
);

fn bytes_are_counted_as_they_cross_the_wire(driver: Driver) {
    let server = TestServer::start(driver, |server| server.websocket("/", |_| Echo));
    let mut peer = server.connect();
    let request = common::request("/");
    peer.send(&request);
    let head = peer.read_head();
    let (mut received, mut sent) = (request.len(), head.len());
    for len in [0, 1, 125, 126, 65_535, 65_536, 300_000] {
        let bytes = frame(0x82, &vec![5; len]);
        peer.send(&bytes);
        assert_eq!(peer.read_frame().payload.len(), len);
        received += bytes.len();
        // What we send has no masking key.
        sent += bytes.len() - 4;
    }
    let stats = server.wait_for("all bytes", |stats| stats.bytes_sent == sent as u64);
    assert_eq!(stats.bytes_received, received as u64);
    assert_eq!((stats.messages_received, stats.messages_sent), (7, 7));
}

fn closes_are_counted_by_code(driver: Driver) {
    let server = TestServer::start(driver, |server| server.websocket("/", |_| Echo));
    for code in [1000_u16, 1000, 3005, 4999] {
        let mut peer = server.open();
        peer.send_frame(0x88, &code.to_be_bytes());
        peer.expect_close(code);
    }
    let mut peer = server.open();
    peer.send_frame(0x88, b"");
    assert_eq!(peer.read_frame().payload, b"");
    let mut peer = server.open();
    peer.send(&[0xff]);
    peer.expect_close(1002);
    let stats = server.wait_for("every end", |stats| stats.closed == 6);
    let received: Vec<_> = stats.closes_received.iter().collect();
    assert_eq!(received, [(1000, 2), (1005, 1), (3000, 1), (4000, 1)]);
    let sent: Vec<_> = stats.closes_sent.iter().collect();
    assert_eq!(sent, [(1000, 2), (1002, 1), (1005, 1), (3000, 1), (4000, 1)]);
    assert_eq!(stats.closes_received.count(3999), 1, "a range is one figure");
}

fn refusals_are_counted_by_reason(driver: Driver) {
    let server = TestServer::start(driver, |server| server.websocket("/", |_| Echo));
    let requests: [(&[u8], u16); 5] = [
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"HEAD /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 426),
    ];
    for (request, status) in requests {
        let mut peer = server.connect();
        peer.send(request);
        let answer = match request.starts_with(b"HEAD") {
            true => peer.read_answer_to_head(),
            false => peer.read_answer(),
        };
        assert_eq!(answer.status, status);
    }
    let stats = server.wait_for("five answers", |stats| stats.refused == 5);
    assert_eq!(stats.refusals.count(Refusal::NotFound), 3);
    assert_eq!(stats.refusals.count(Refusal::MissingHost), 1);
    let all: u64 = stats.refusals.iter().map(|(_, count)| count).sum();
    assert_eq!(all, stats.refused);
}

/// Takes its time when it is told to.
struct Slow;

impl Handler for Slow {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        if message == Message::Text("slow") {
            thread::sleep(Duration::from_millis(20));
        }
        ws.send(message);
    }
}

fn turns_are_measured(driver: Driver) {
    let server = TestServer::start(driver, |server| server.websocket("/", |_| Slow));
    let mut peer = server.open();
    for _ in 0..3 {
        peer.send_text("slow");
        assert_eq!(peer.read_frame().payload, b"slow");
    }
    // A turn is measured after its answers have left.
    let slow = |stats: &wirelane::Stats| -> u64 {
        let long = |bound: Option<Duration>| bound.is_none_or(|b| b > Duration::from_millis(20));
        stats.turns.iter().filter(|(bound, _)| long(*bound)).map(|(_, count)| count).sum()
    };
    let stats = server.wait_for("three long turns", |stats| slow(stats) >= 3);
    let start = Instant::now();
    while server.stats().turns.total() == slow(&server.stats()) {
        assert!(start.elapsed() < PATIENCE, "no turn is short");
        peer.send_text("fast");
        assert_eq!(peer.read_frame().payload, b"fast");
    }
    let longest = stats.turns.quantile(1.0);
    assert!(longest.is_none_or(|longest| longest > Duration::from_millis(20)), "{longest:?}");
}

/// Sends as much as is taken.
struct Flood;

impl Handler for Flood {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        if message == Message::Text("echo") {
            ws.send(message);
        } else {
            while ws.send(&[7; 10_000][..]) != SendStatus::Dropped {}
        }
    }
}

fn slow_reader(server: &TestServer) -> Peer {
    let mut peer = server.open();
    socket2::SockRef::from(&peer.stream).set_recv_buffer_size(64 * 1024).expect("a socket");
    peer.send_text("go");
    peer
}

fn bytes_that_wait_are_known_until_they_leave(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        server.max_backpressure(300_000).websocket("/", |_| Flood)
    });
    let mut peer = slow_reader(&server);
    let stats = server.wait_for("bytes that wait", |stats| stats.buffered_bytes > 0);
    assert!((200_000..=300_000).contains(&stats.buffered_bytes), "{}", stats.buffered_bytes);
    assert_eq!((stats.dropped, stats.dropped_worker_full), (1, 0));
    let _second = slow_reader(&server);
    server.wait_for("twice as much", |stats| stats.buffered_bytes > 400_000);
    for _ in 0..stats.messages_sent {
        assert_eq!(peer.read_frame().payload.len(), 10_000);
    }
    let stats = server.wait_for("one queue to be empty", |s| s.buffered_bytes <= 300_000);
    assert!(stats.buffered_bytes > 0);
    drop(_second);
    server.wait_for("nothing to wait", |stats| stats.buffered_bytes == 0);
}

fn a_worker_has_a_limit_of_its_own(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        server
            .max_backpressure(1 << 20)
            .max_worker_backpressure(1_500_000)
            .websocket("/", |_| Flood)
    });
    let first = slow_reader(&server);
    server.wait_for("the first to be full", |stats| stats.dropped == 1);
    let second = slow_reader(&server);
    let stats = server.wait_for("the worker to be full", |s| s.dropped_worker_full == 1);
    assert_eq!(stats.dropped, 1);
    let stats = server.wait_for("the figure", |stats| stats.buffered_bytes > 1 << 20);
    assert!(stats.buffered_bytes <= 1_500_000, "{}", stats.buffered_bytes);
    // Whoever reads is not touched by that.
    let mut peer = server.open();
    for _ in 0..20 {
        peer.send_text("echo");
        assert_eq!(peer.read_frame().payload, b"echo");
    }
    // A large message that nothing is in front of may leave, too.
    drop(first);
    server.wait_for("room", |stats| stats.buffered_bytes < 1 << 20);
    drop(second);
}

/// Subscribes everybody; publishes to all what a message asks for.
struct Publisher;

impl Handler for Publisher {
    type Session = ();

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        ws.subscribe("all").expect("room");
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {
        for _ in 0..2000 {
            ws.publish("all", &[7; 10_000][..]);
        }
        ws.send("done");
    }
}

fn publications_count_for_the_limit_of_a_worker(driver: Driver) {
    const LIMIT: u64 = 1_500_000;
    let server = TestServer::start(driver, |server| {
        server
            .max_backpressure(8 << 20)
            .max_worker_backpressure(LIMIT as usize)
            .websocket("/", |_| Publisher)
    });
    let slow = [server.open(), server.open(), server.open()];
    let mut publisher = server.open();
    publisher.send_text("go");
    assert_eq!(publisher.read_frame().payload, b"done");
    let stats = server.wait_for("the end of the turn", |stats| stats.buffered_bytes > 0);
    assert!(stats.buffered_bytes <= LIMIT, "{} bytes wait", stats.buffered_bytes);
    assert!(stats.publish_full > 0, "{stats:?}");
    drop(slow);
}

fn workers_add_up(driver: Driver) {
    let server = TestServer::start(driver, |server| server.workers(3).websocket("/", |_| Echo));
    assert_eq!(server.handle.workers(), 3);
    let mut peers: Vec<_> = (0..12).map(|_| server.open()).collect();
    for peer in &mut peers {
        peer.send_text("one each");
        assert_eq!(peer.read_frame().payload, b"one each");
    }
    let stats = server.wait_for("all of them", |stats| stats.messages_sent == 12);
    assert_eq!((stats.opened, stats.messages_received, stats.connections), (12, 12, 12));
    assert_eq!(server.handle.connections(), 12);
}

fn a_closure_runs_on_the_thread_of_its_worker(driver: Driver) {
    let server = TestServer::start(driver, |server| server.workers(2).websocket("/", |_| Echo));
    for worker in 0..2 {
        let (sender, told) = channel();
        let run = server.handle.run_on(worker, move |context| {
            let name = thread::current().name().expect("named").to_owned();
            let refused = context.set_timer(Duration::ZERO, 0);
            sender.send((name, context.worker(), refused)).expect("the test waits");
        });
        assert_eq!(run, Ok(()));
        let (name, number, refused) = told.recv_timeout(PATIENCE).expect("the call");
        assert_eq!((name, number), (format!("wirelane-{worker}"), worker));
        assert_eq!(refused, Err(TimerError::NoHandler));
    }
}

/// Tells the id of every connection.
struct Ids {
    ids: Sender<ConnectionId>,
}

impl Handler for Ids {
    type Session = ();

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        self.ids.send(ws.id()).expect("the test waits");
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        ws.send(message);
    }
}

fn with_ids(driver: Driver) -> (TestServer, std::sync::mpsc::Receiver<ConnectionId>) {
    let (ids, opened) = channel();
    let server = TestServer::start(driver, |server| {
        server.websocket("/", move |_| Ids { ids: ids.clone() })
    });
    (server, opened)
}

fn closures_and_messages_keep_their_order(driver: Driver) {
    let (server, opened) = with_ids(driver);
    let mut peer = server.open();
    let id = opened.recv_timeout(PATIENCE).expect("on_open");
    for number in 0..100 {
        let text = number.to_string();
        if number % 2 == 0 {
            server.handle.send_to(id, &text).expect("room");
        } else {
            let run = server.handle.run_on(id.worker(), move |context| {
                context.send_to(id, &text).expect("it is there");
            });
            run.expect("room");
        }
    }
    for number in 0..100 {
        assert_eq!(peer.read_frame().payload, number.to_string().as_bytes());
    }
}

fn a_closure_reaches_connections(driver: Driver) {
    let (server, opened) = with_ids(driver);
    let (mut peer, mut other) = (server.open(), server.open());
    let ids = [(); 2].map(|()| opened.recv_timeout(PATIENCE).expect("on_open"));
    let (sender, told) = channel();
    let run = server.handle.run_on(0, move |context| {
        context.pause_reading(ids[0]).expect("it is there");
        context.close(ids[1], CloseCode::NORMAL, "enough").expect("it is open");
        let again = context.close(ids[1], CloseCode::NORMAL, "enough");
        sender.send((context.connections(), again)).expect("the test waits");
    });
    run.expect("room");
    assert_eq!(told.recv_timeout(PATIENCE), Ok((2, Err(SendError::Gone))));
    assert_eq!(other.read_frame().close_code(), 1000);
    peer.send_text("waits");
    thread::sleep(Duration::from_millis(50));
    assert!(!peer.has_news());
    let resume = move |context: &mut wirelane::WorkerContext<'_>| {
        context.resume_reading(ids[0]).expect("it is there");
    };
    server.handle.run_on(0, resume).expect("room");
    assert_eq!(peer.read_frame().payload, b"waits");
    let terminate = move |context: &mut wirelane::WorkerContext<'_>| {
        context.terminate(ids[0]).expect("it is there");
    };
    server.handle.run_on(0, terminate).expect("room");
    assert_eq!(peer.read_to_end().unwrap_or_default(), b"");
}

fn a_closure_that_panics_stops_nothing(driver: Driver) {
    let server = TestServer::start(driver, |server| server.websocket("/", |_| Echo));
    let mut peer = server.open();
    server.handle.run_on(0, |_| panic!("asked for by the test")).expect("room");
    server.wait_for("the panic", |stats| stats.handler_panics == 1);
    peer.send_text("alive");
    assert_eq!(peer.read_frame().payload, b"alive");
}

fn a_closure_for_nobody_is_an_error_value(driver: Driver) {
    let server = TestServer::start(driver, |server| server.websocket("/", |_| Echo));
    assert_eq!(server.handle.run_on(1, |_| ()), Err(SendError::NoSuchWorker));
    let handle = server.handle.clone();
    server.stop(Duration::ZERO).expect("a clean end");
    assert_eq!(handle.run_on(0, |_| ()), Err(SendError::Stopped));
}

fn a_closure_that_waits_for_the_start_is_called(driver: Driver) {
    let server = Server::builder()
        .listen("127.0.0.1:0")
        .driver(driver)
        .websocket("/", |_| Echo)
        .build()
        .expect("possible settings");
    let handle = server.handle();
    let calls = Arc::new(Mutex::new(Vec::new()));
    for number in 0..3 {
        let calls = Arc::clone(&calls);
        let stopper = handle.clone();
        let run = handle.run_on(0, move |_| {
            calls.lock().expect("no panic").push(number);
            if number == 2 {
                stopper.shutdown(Duration::ZERO);
            }
        });
        run.expect("room");
    }
    server.run().expect("a clean end");
    assert_eq!(*calls.lock().expect("no panic"), [0, 1, 2]);
}

/// Uses its server when it is dropped.
struct Meddler(wirelane::Handle);

impl Drop for Meddler {
    fn drop(&mut self) {
        assert_eq!(self.0.run_on(0, |_| ()), Err(SendError::Stopped));
    }
}

#[test]
fn a_closure_that_is_never_called_is_dropped_in_peace() {
    let server = Server::builder().listen("127.0.0.1:0").websocket("/", |_| Echo);
    let server = server.build().expect("possible settings");
    let handle = server.handle();
    let later = handle.clone();
    let last = move |_: &mut wirelane::WorkerContext<'_>| {
        // Posted while the worker obeys: it ends before it looks again.
        later.shutdown(Duration::ZERO);
        let meddler = Meddler(later.clone());
        later.run_on(0, move |_| drop(meddler)).expect("it still runs");
    };
    handle.run_on(0, last).expect("room");
    server.run().expect("a clean end");
}
