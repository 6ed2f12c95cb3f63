//! Every timeout ends what it is there to end, never before its time; zero turns it off.
//!
//! Only lower bounds are measured: a loaded machine may be late, a server must not be early.

mod common;

use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, Peer, TestServer, request};
use wirelane::{
    Close, CloseCause, CloseCode, Driver, Handler, Message, SendStatus, ServerBuilder, WebSocket,
};

on_every_driver!(
    a_handshake_in_time_is_not_cut_later,
    a_silent_peer_is_cut,
    a_peer_that_sends_is_not_idle,
    a_peer_that_answers_pings_stays,
    a_peer_that_does_not_answer_pings_is_cut,
    one_ping_goes_out_for_each_silence,
    a_peer_that_does_not_answer_a_close_is_cut,
    a_peer_that_keeps_talking_after_our_close_is_cut,
    a_peer_that_never_reads_is_cut_by_the_write_timeout,
    a_peer_that_reads_slowly_is_not_cut_by_the_write_timeout,
    a_peer_that_never_reads_cannot_hold_up_the_end,
    a_peer_that_never_reads_its_page_is_cut,
    zero_is_off,
);

const SHORT: Duration = Duration::from_millis(100);

/// The clocks of the test and of the server's turn may differ by as much.
const EARLY: Duration = Duration::from_millis(50);

/// Bytes of each message with which the sockets are filled.
const PIECE: usize = 64 * 1024;

/// What `on_close` was told.
type Told = (u16, CloseCause);

/// Echoes, obeys commands, and reports every `on_close`.
struct Reporter {
    closes: Sender<Told>,
}

impl Handler for Reporter {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        match message {
            Message::Text("close") => ws.close(CloseCode::GOING_AWAY, "asked for"),
            Message::Text("flood") => while ws.send(&[7; PIECE][..]) != SendStatus::Dropped {},
            Message::Text("clog") => while ws.send(&[7; PIECE][..]) == SendStatus::Sent {},
            other => {
                ws.send(other);
            }
        }
    }

    fn on_close(&mut self, _ws: &mut WebSocket<'_, ()>, close: Close<'_>) {
        // A test that has seen enough has gone.
        let _ = self.closes.send((close.code, close.cause));
    }
}

fn start(
    driver: Driver,
    configure: impl FnOnce(ServerBuilder) -> ServerBuilder,
) -> (TestServer, Receiver<Told>) {
    let (closes, told) = channel();
    let server = TestServer::start(driver, |server| {
        configure(server).websocket("/", move |_| Reporter { closes: closes.clone() })
    });
    (server, told)
}

/// Waits for `on_close`, which must not come before `timeout` has passed since `start`.
fn cut(told: &Receiver<Told>, cause: CloseCause, start: Instant, timeout: Duration) {
    assert_eq!(told.recv_timeout(PATIENCE).expect("on_close"), (1006, cause));
    let elapsed = start.elapsed();
    assert!(elapsed + EARLY >= timeout, "cut after {elapsed:?} instead of {timeout:?}");
}

/// Asks for a flood, which the peer has little room for.
fn flood(peer: &mut Peer, command: &str) {
    socket2::SockRef::from(&peer.stream).set_recv_buffer_size(4096).expect("a socket");
    peer.send_text(command);
}

fn a_handshake_in_time_is_not_cut_later(driver: Driver) {
    let timeout = Duration::from_secs(3);
    let (server, told) = start(driver, |server| server.handshake_timeout(timeout));
    let bytes = request("/");
    let mut peer = server.connect();
    peer.send(&bytes[..50]);
    thread::sleep(timeout / 10);
    peer.send(&bytes[50..]);
    assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
    thread::sleep(timeout);
    peer.send_text("still here");
    assert_eq!(peer.read_frame().payload, b"still here");
    assert!(told.try_recv().is_err());
}

fn a_silent_peer_is_cut(driver: Driver) {
    let (server, told) =
        start(driver, |server| server.idle_timeout(SHORT).ping_interval(Duration::ZERO));
    let start = Instant::now();
    let mut peer = server.open();
    cut(&told, CloseCause::IdleTimeout, start, SHORT);
    // No Close went out: nobody listens.
    assert_eq!(peer.read_to_end().unwrap_or_default(), b"");
    server.wait_for("the slot to be free", |stats| stats.connections == 0);
}

fn a_peer_that_sends_is_not_idle(driver: Driver) {
    let idle = Duration::from_secs(3);
    let (server, told) =
        start(driver, |server| server.idle_timeout(idle).ping_interval(Duration::ZERO));
    let mut peer = server.open();
    // Bytes of one message that is never complete, then whole messages: both are signs of life.
    let bytes = common::frame(0x81, &[b'a'; 40]);
    for byte in &bytes {
        peer.send(&[*byte]);
        thread::sleep(idle / 30);
    }
    assert_eq!(peer.read_frame().payload, [b'a'; 40]);
    let last = Instant::now();
    peer.send_frame(0x8a, b"a pong is enough");
    cut(&told, CloseCause::IdleTimeout, last, idle);
}

fn a_peer_that_answers_pings_stays(driver: Driver) {
    let idle = Duration::from_secs(3);
    let (server, told) =
        start(driver, |server| server.idle_timeout(idle).ping_interval(Duration::from_millis(40)));
    let start = Instant::now();
    let mut peer = server.open();
    let mut pings = 0;
    while start.elapsed() < idle * 5 / 4 {
        let ping = peer.read_frame();
        assert_eq!(ping.first, 0x89);
        peer.send_frame(0x8a, &ping.payload);
        pings += 1;
    }
    assert!(pings >= 2, "{pings} pings");
    peer.send_text("alive");
    loop {
        let answer = peer.read_frame();
        if answer.first == 0x81 {
            assert_eq!(answer.payload, b"alive");
            break;
        }
    }
    assert!(told.try_recv().is_err());
}

fn a_peer_that_does_not_answer_pings_is_cut(driver: Driver) {
    let idle = Duration::from_millis(150);
    let (server, told) =
        start(driver, |server| server.idle_timeout(idle).ping_interval(Duration::from_millis(30)));
    let start = Instant::now();
    let mut peer = server.open();
    cut(&told, CloseCause::IdleTimeout, start, idle);
    let received = peer.read_to_end().unwrap_or_default();
    assert!(received.is_empty() || received == [0x89, 0], "{received:?}");
}

fn one_ping_goes_out_for_each_silence(driver: Driver) {
    let (server, _told) = start(driver, |server| server.ping_interval(Duration::from_millis(30)));
    let mut peer = server.open();
    for _ in 0..3 {
        let start = Instant::now();
        assert_eq!(peer.read_frame().first, 0x89);
        assert!(start.elapsed() + EARLY >= Duration::from_millis(30));
        // Nobody is asked twice.
        thread::sleep(Duration::from_millis(120));
        assert!(!peer.has_news());
        peer.send_text("silence broken");
        assert_eq!(peer.read_frame().first, 0x81);
    }
}

fn a_peer_that_does_not_answer_a_close_is_cut(driver: Driver) {
    let (server, told) = start(driver, |server| server.close_timeout(SHORT));
    let start = Instant::now();
    let mut peer = server.open();
    peer.send_text("close");
    assert_eq!(peer.read_frame().close_code(), 1001);
    cut(&told, CloseCause::CloseTimeout, start, SHORT);
    assert_eq!(peer.read_to_end().unwrap_or_default(), b"");
}

fn a_peer_that_keeps_talking_after_our_close_is_cut(driver: Driver) {
    let (server, told) = start(driver, |server| server.close_timeout(SHORT));
    let start = Instant::now();
    let mut peer = server.open();
    peer.send_text("close");
    assert_eq!(peer.read_frame().close_code(), 1001);
    let talk = common::frame(0x81, b"not listening");
    while told.try_recv().is_err() {
        assert!(start.elapsed() < PATIENCE, "talking keeps it open");
        // The server may just have gone.
        let _ = peer.stream.write_all(&talk);
        thread::sleep(Duration::from_millis(5));
    }
    assert!(start.elapsed() + EARLY >= SHORT);
}

fn a_peer_that_never_reads_is_cut_by_the_write_timeout(driver: Driver) {
    for command in ["flood", "clog"] {
        let (server, told) = start(driver, |server| server.write_timeout(SHORT));
        let start = Instant::now();
        let mut peer = server.open();
        flood(&mut peer, command);
        cut(&told, CloseCause::WriteTimeout, start, SHORT);
        server.wait_for("the slot to be free", |stats| stats.connections == 0);
    }
}

fn a_peer_that_reads_slowly_is_not_cut_by_the_write_timeout(driver: Driver) {
    let timeout = Duration::from_millis(1500);
    let (server, told) = start(driver, |server| server.write_timeout(timeout));
    let mut peer = server.open();
    peer.send_text("flood");
    // In each timeout less than what the kernel waits for before it says that there is room.
    let start = Instant::now();
    while start.elapsed() < timeout * 3 / 2 {
        assert_eq!(peer.read_frame().payload.len(), PIECE);
        thread::sleep(Duration::from_millis(50));
    }
    assert!(told.try_recv().is_err(), "cut although it reads");
}

fn a_peer_that_never_reads_cannot_hold_up_the_end(driver: Driver) {
    let (server, told) = start(driver, |server| server.close_timeout(SHORT));
    let mut peer = server.open();
    flood(&mut peer, "clog");
    // A violation; its Close cannot leave.
    peer.send(&[0xff]);
    let (code, cause) = told.recv_timeout(PATIENCE).expect("on_close");
    assert!(code == 1002 && matches!(cause, CloseCause::Protocol(_)), "{code} {cause:?}");
    server.wait_for("the slot to be free", |stats| stats.connections == 0);
}

fn a_peer_that_never_reads_its_page_is_cut(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        let page =
            |_: &wirelane::Request<'_>| wirelane::Response::new(200).body(vec![b'x'; 32 << 20]);
        server.close_timeout(SHORT).get("/", page)
    });
    let peer = &mut server.connect();
    socket2::SockRef::from(&peer.stream).set_recv_buffer_size(4096).expect("a socket");
    peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    server.wait_for("the request", |stats| stats.requests == 1);
    server.wait_for("the slot to be free", |stats| stats.connections == 0);
}

fn zero_is_off(driver: Driver) {
    let (server, told) = start(driver, |server| {
        server
            .handshake_timeout(Duration::ZERO)
            .idle_timeout(Duration::ZERO)
            .ping_interval(Duration::ZERO)
            .close_timeout(Duration::ZERO)
            .write_timeout(Duration::ZERO)
    });
    let mut silent = server.connect();
    let mut dribbling = server.connect();
    dribbling.send(b"GET / HT");
    let mut idle = server.open();
    let mut closing = server.open();
    closing.send_text("close");
    assert_eq!(closing.read_frame().close_code(), 1001);
    let mut clogged = server.open();
    flood(&mut clogged, "flood");
    thread::sleep(Duration::from_millis(300));
    assert!(told.try_recv().is_err());
    assert_eq!(server.stats().connections, 5);
    // All of them go on from where they were.
    silent.handshake("/");
    dribbling.send(&request("/")[8..]);
    assert!(dribbling.read_head().starts_with("HTTP/1.1 101 "));
    idle.send_text("idle");
    assert_eq!(idle.read_frame().payload, b"idle");
    closing.send_frame(0x88, &1001_u16.to_be_bytes());
    closing.expect_end();
    assert_eq!(told.recv_timeout(PATIENCE), Ok((1001, CloseCause::Local)));
    assert_eq!(clogged.read_frame().payload.len(), PIECE);
}
