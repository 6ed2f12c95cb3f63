//! The end of a server: everybody is told, everybody has time, nobody is left, and the report says
//! what became of whom.

mod common;

use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::child::{END, Program};
use common::{Echo, PATIENCE, Peer};
use wirelane::{
    Driver, Error, Handle, Handler, Message, SendStatus, Server, ServerBuilder, ShutdownOptions,
    ShutdownReport, WebSocket,
};

on_every_driver!(
    everybody_who_answers_is_closed_cleanly,
    whoever_does_not_answer_is_cut_at_the_deadline,
    a_slow_reader_gets_what_is_queued_for_it,
    what_cannot_be_sent_is_reported,
    whoever_leaves_without_a_word_is_lost,
    requests_that_still_arrive_are_refused,
    a_silent_connection_does_not_delay_the_end,
    closes_can_be_spread,
    asking_again_ends_the_spreading,
    readiness_is_announced,
    an_announcement_has_its_time,
    a_handler_may_ask_for_the_end,
    it_works_while_handlers_run,
    every_worker_reports,
    ten_thousand_connections_end_in_time,
);

/// A grace that no test uses up.
const LONG: Duration = PATIENCE;

struct Running {
    addr: std::net::SocketAddr,
    handle: Handle,
    thread: JoinHandle<Result<ShutdownReport, Error>>,
}

impl Running {
    fn start(driver: Driver, configure: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Running {
        let (ready, listening) = channel();
        let server = configure(Server::builder().listen("127.0.0.1:0").driver(driver))
            .on_listening(move |addrs| ready.send(addrs[0].clone()).expect("the test waits"))
            .build()
            .expect("possible settings");
        let handle = server.handle();
        let thread = thread::spawn(move || server.run_and_report());
        let addr = listening.recv_timeout(PATIENCE).expect("the server starts");
        Running { addr: addr.socket_addr().expect("TCP"), handle, thread }
    }

    fn connect(&self) -> Peer {
        Peer::connect(self.addr)
    }

    fn open(&self) -> Peer {
        let mut peer = self.connect();
        peer.handshake("/");
        peer
    }

    fn wait_for(&self, what: &str, wanted: impl Fn(&wirelane::Stats) -> bool) {
        let start = Instant::now();
        while !wanted(&self.handle.stats()) {
            assert!(start.elapsed() < PATIENCE, "{what}: {:?}", self.handle.stats());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until `run` returns.
    fn end(self) -> ShutdownReport {
        let report = self.thread.join().expect("no panic").expect("a clean end");
        assert_eq!(self.handle.report(), Some(report));
        assert_eq!(self.handle.connections(), 0);
        report
    }
}

fn echo(driver: Driver) -> Running {
    Running::start(driver, |server| server.close_timeout(LONG).websocket("/", |_| Echo))
}

/// Takes the Close, answers it, and sees the end.
fn part(peer: &mut Peer) {
    let close = peer.read_frame();
    assert_eq!(close.close_code(), 1001);
    assert_eq!(&close.payload[2..], b"server shutting down");
    peer.send_frame(0x88, &close.payload);
    peer.expect_end();
}

/// The sums that matter, in the order in which they are declared.
fn sums(report: &ShutdownReport) -> [u64; 4] {
    [report.closed_cleanly, report.forced, report.lost, report.refused]
}

fn everybody_who_answers_is_closed_cleanly(driver: Driver) {
    let server = echo(driver);
    let mut peers: Vec<_> = (0..20).map(|_| server.open()).collect();
    // Whoever has gone before is no part of it.
    drop(server.open());
    server.wait_for("one end", |stats| stats.closed == 1);
    assert!(!server.handle.is_stopping());
    assert_eq!(server.handle.report(), None);
    let start = Instant::now();
    server.handle.shutdown(LONG);
    assert!(server.handle.is_stopping());
    peers.iter_mut().for_each(part);
    let report = server.end();
    assert_eq!((sums(&report), report.unsent_bytes), ([20, 0, 0, 0], 0));
    assert!(report.duration <= start.elapsed() && report.duration > Duration::ZERO);
}

fn whoever_does_not_answer_is_cut_at_the_deadline(driver: Driver) {
    let server = echo(driver);
    let (mut polite, mut ignorant) = (server.open(), server.open());
    let grace = Duration::from_secs(2);
    let start = Instant::now();
    server.handle.shutdown(grace);
    part(&mut polite);
    assert_eq!(ignorant.read_frame().close_code(), 1001);
    let report = server.end();
    assert!(start.elapsed() + Duration::from_millis(20) >= grace);
    assert_eq!((sums(&report), report.unsent_bytes), ([1, 1, 0, 0], 0));
    assert_eq!(ignorant.read_to_end().unwrap_or_default(), b"");
}

/// Queues so many messages of 10,000 bytes.
struct Flood(usize);

impl Handler for Flood {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {
        for _ in 0..self.0 {
            assert_ne!(ws.send(&[7; 10_000][..]), SendStatus::Dropped, "there is room");
        }
    }
}

fn flooded(driver: Driver, messages: usize) -> (Running, Peer) {
    let server = Running::start(driver, |server| {
        server
            .max_backpressure(64 << 20)
            // Less than what a slow reader needs.
            .close_timeout(Duration::from_secs(1))
            .websocket("/", move |_| Flood(messages))
    });
    let mut peer = server.open();
    socket2::SockRef::from(&peer.stream).set_recv_buffer_size(64 * 1024).expect("a socket");
    peer.send_text("go");
    server.wait_for("the flood", |stats| stats.messages_sent == messages as u64);
    (server, peer)
}

fn a_slow_reader_gets_what_is_queued_for_it(driver: Driver) {
    const MESSAGES: usize = 1500;
    let (server, mut peer) = flooded(driver, MESSAGES);
    server.wait_for("bytes that wait", |stats| stats.buffered_bytes > 1 << 20);
    // Reading so much takes a busy machine longer than anything else here.
    server.handle.shutdown(10 * LONG);
    for number in 0..MESSAGES {
        assert_eq!(peer.read_frame().payload.len(), 10_000, "message {number}");
        if number.is_multiple_of(30) {
            thread::sleep(Duration::from_millis(40));
        }
    }
    part(&mut peer);
    let report = server.end();
    assert_eq!((sums(&report), report.unsent_bytes), ([1, 0, 0, 0], 0));
    assert!(report.duration > Duration::from_secs(1), "it was slow: {report:?}");
}

fn what_cannot_be_sent_is_reported(driver: Driver) {
    let (server, peer) = flooded(driver, 1500);
    server.wait_for("bytes that wait", |stats| stats.buffered_bytes > 1 << 20);
    server.handle.shutdown(Duration::from_millis(50));
    let report = server.end();
    assert_eq!(sums(&report), [0, 1, 0, 0]);
    assert!((1 << 20..16_000_000).contains(&report.unsent_bytes), "{report:?}");
    drop(peer);
}

fn whoever_leaves_without_a_word_is_lost(driver: Driver) {
    let server = echo(driver);
    let (mut reset, mut fin, mut garbage) = (server.open(), server.open(), server.open());
    server.handle.shutdown(LONG);
    for peer in [&mut reset, &mut fin, &mut garbage] {
        assert_eq!(peer.read_frame().close_code(), 1001);
    }
    reset.reset();
    fin.finish();
    garbage.send(&[0xff]);
    let report = server.end();
    assert_eq!(sums(&report), [0, 0, 3, 0]);
    drop((fin, garbage));
}

fn requests_that_still_arrive_are_refused(driver: Driver) {
    let server = Running::start(driver, |server| {
        server
            .close_timeout(LONG)
            .websocket("/", |_| Echo)
            .get("/page", |_| wirelane::Response::text("served"))
    });
    // One keeps the server from ending while the others are looked at.
    let mut witness = server.open();
    let mut torn = server.connect();
    torn.send(b"GET / HT");
    let (mut upgrade, mut page, mut head) = (server.connect(), server.connect(), server.connect());
    // What has arrived is half a head beside the request of the witness.
    let received = common::request("/").len() as u64 + 8;
    server.wait_for("all to be there", |stats| {
        stats.connections == 5 && stats.bytes_received == received
    });
    server.handle.shutdown(LONG);
    assert_eq!(witness.read_frame().close_code(), 1001);
    upgrade.send(&common::request("/"));
    page.send(b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n");
    head.send(b"HEAD /page HTTP/1.1\r\nHost: x\r\n\r\n");
    for peer in [&mut torn, &mut upgrade, &mut page] {
        assert_eq!(peer.read_answer().status, 503);
    }
    assert_eq!(head.read_answer_to_head().status, 503);
    // A newcomer may find the kernel's queue still open, but nobody serves it.
    match TcpStream::connect(server.addr) {
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused),
        Ok(_refused_later) => {}
    }
    witness.send_frame(0x88, &1001_u16.to_be_bytes());
    witness.expect_end();
    let report = server.end();
    assert_eq!(sums(&report), [1, 0, 0, 4]);
}

fn a_silent_connection_does_not_delay_the_end(driver: Driver) {
    let server = echo(driver);
    let mut silent = server.connect();
    server.wait_for("it to be there", |stats| stats.connections == 1);
    server.handle.shutdown(LONG);
    let report = server.end();
    assert!(report.duration < LONG / 2, "{report:?}");
    assert_eq!(sums(&report), [0; 4]);
    assert_eq!(silent.read_to_end().unwrap_or_default(), b"");
}

fn closes_can_be_spread(driver: Driver) {
    let server = echo(driver);
    let mut peers: Vec<_> = (0..20).map(|_| server.open()).collect();
    let window = Duration::from_secs(2);
    let start = Instant::now();
    server.handle.shutdown(ShutdownOptions::new(LONG).spread(window));
    // Until its Close comes, everybody is served.
    let mut ends = Vec::new();
    while !peers.is_empty() {
        for peer in &mut peers {
            peer.send_text("served");
        }
        peers.retain_mut(|peer| {
            let frame = peer.read_frame();
            if frame.first == 0x81 {
                assert_eq!(frame.payload, b"served");
                return true;
            }
            assert_eq!(frame.close_code(), 1001);
            peer.send_frame(0x88, &frame.payload);
            peer.expect_end();
            ends.push(start.elapsed());
            false
        });
        thread::sleep(Duration::from_millis(5));
    }
    assert!(ends[19] - ends[0] > window / 4, "from {:?} to {:?}", ends[0], ends[19]);
    assert_eq!(sums(&server.end()), [20, 0, 0, 0]);
}

fn asking_again_ends_the_spreading(driver: Driver) {
    let server = echo(driver);
    let mut peers: Vec<_> = (0..10).map(|_| server.open()).collect();
    let start = Instant::now();
    let hour = Duration::from_secs(3600);
    server.handle.shutdown(ShutdownOptions::new(hour).spread(hour).announce(hour));
    thread::sleep(Duration::from_millis(50));
    assert!(peers.iter().all(|peer| !peer.has_news()));
    // Without announcement, but still spread.
    server.handle.shutdown(ShutdownOptions::new(hour).spread(hour / 2));
    server.wait_for("the second request", |_| TcpStream::connect(server.addr).is_err());
    server.handle.shutdown(LONG);
    peers.iter_mut().for_each(part);
    assert_eq!(sums(&server.end())[..3], [10, 0, 0]);
    assert!(start.elapsed() < PATIENCE);
}

fn status(server: &Running, path: &str) -> u16 {
    let mut peer = server.connect();
    peer.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    peer.read_answer().status
}

fn readiness_is_announced(driver: Driver) {
    let server = Running::start(driver, |server| {
        server
            .readiness("/ready")
            .websocket("/", |_| Echo)
            .get("/healthz", |_| wirelane::Response::text("ok"))
    });
    assert_eq!(status(&server, "/ready"), 200);
    let mut peer = server.open();
    // Longer than the test, so that it ends when it is told to.
    let hour = Duration::from_secs(3600);
    server.handle.shutdown(ShutdownOptions::new(hour).announce(hour));
    assert_eq!(status(&server, "/ready"), 503);
    assert_eq!(status(&server, "/healthz"), 200);
    let mut newcomer = server.open();
    for peer in [&mut peer, &mut newcomer] {
        peer.send_text("served");
        assert_eq!(peer.read_frame().payload, b"served");
    }
    server.handle.shutdown(LONG);
    part(&mut peer);
    part(&mut newcomer);
    assert_eq!(sums(&server.end()), [2, 0, 0, 0]);
}

fn an_announcement_has_its_time(driver: Driver) {
    let server = echo(driver);
    let mut peer = server.open();
    let announce = Duration::from_millis(300);
    let start = Instant::now();
    server.handle.shutdown(ShutdownOptions::new(LONG).announce(announce));
    part(&mut peer);
    assert!(start.elapsed() + Duration::from_millis(20) >= announce);
    assert_eq!(sums(&server.end()), [1, 0, 0, 0]);
}

/// Stops the server when it is told to.
struct Stopper(Arc<OnceLock<Handle>>);

impl Handler for Stopper {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        self.0.get().expect("set").shutdown(LONG);
        assert_ne!(ws.send(message), SendStatus::Dropped, "this turn still serves");
    }
}

fn a_handler_may_ask_for_the_end(driver: Driver) {
    // The handler is made before there is a handle.
    let handle = Arc::new(OnceLock::new());
    let later = Arc::clone(&handle);
    let server = Running::start(driver, |server| {
        server.websocket("/", move |_| Stopper(Arc::clone(&later)))
    });
    handle.set(server.handle.clone()).expect("set once");
    let mut peer = server.open();
    peer.send_text("last words");
    assert_eq!(peer.read_frame().payload, b"last words");
    part(&mut peer);
    assert_eq!(sums(&server.end()), [1, 0, 0, 0]);
}

/// Works for a while.
struct Worker;

impl Handler for Worker {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        thread::sleep(Duration::from_millis(100));
        ws.send(message);
    }
}

fn it_works_while_handlers_run(driver: Driver) {
    let server = Running::start(driver, |server| server.websocket("/", |_| Worker));
    let mut peers = [server.open(), server.open(), server.open()];
    for peer in &mut peers {
        peer.send_text("begun");
    }
    thread::sleep(Duration::from_millis(30));
    server.handle.shutdown(LONG);
    for peer in &mut peers {
        // What was not yet delivered may be cut off by the Close; what was is answered.
        let mut frame = peer.read_frame();
        if frame.first == 0x81 {
            assert_eq!(frame.payload, b"begun");
            frame = peer.read_frame();
        }
        assert_eq!(frame.close_code(), 1001);
        peer.send_frame(0x88, &frame.payload);
        peer.expect_end();
    }
    assert_eq!(sums(&server.end()), [3, 0, 0, 0]);
}

fn every_worker_reports(driver: Driver) {
    let server = Running::start(driver, |server| {
        server.workers(3).close_timeout(LONG).websocket("/", |_| Echo)
    });
    let mut peers: Vec<_> = (0..1000).map(|_| server.open()).collect();
    server.handle.shutdown(ShutdownOptions::new(LONG).spread(Duration::from_millis(200)));
    peers.iter_mut().for_each(part);
    assert_eq!(sums(&server.end()), [1000, 0, 0, 0]);
}

/// Descriptors that this process may have.
fn descriptors() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("Linux");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    line.split_whitespace().nth(3).and_then(|soft| soft.parse().ok()).unwrap_or(usize::MAX)
}

fn ten_thousand_connections_end_in_time(driver: Driver) {
    // Both drivers at once have to fit.
    let count = (descriptors() / 2).saturating_sub(100).min(10_000);
    let program = Program::start("echo", driver, &["--workers", "2"]);
    let mut peers: Vec<_> = (0..count).map(|_| program.open()).collect();
    let signalled = program.signal(libc::SIGTERM);
    peers.iter_mut().for_each(part);
    program.expect_end(signalled, END);
}
