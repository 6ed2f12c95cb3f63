//! Pings, pong timeout, lifetimes and timers: never early, spread where many are due at once, and
//! nothing fires for what has gone.

mod common;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use common::{Echo, PATIENCE, TestServer};
use wirelane::{
    Close, CloseCause, ConnectionId, Driver, Error, Handler, Message, Server, ServerBuilder,
    TimerError, TimerId, WebSocket, WorkerContext,
};

on_every_driver!(
    a_peer_that_does_not_answer_a_ping_is_cut,
    a_peer_that_answers_its_pings_stays,
    any_byte_is_as_good_as_a_pong,
    a_pong_timeout_does_not_count_while_reading_is_paused,
    pings_of_many_connections_are_spread,
    a_long_life_ends_with_1001,
    lives_that_began_together_do_not_end_together,
    timers_fire_in_order_and_not_early,
    a_timer_that_was_cancelled_does_not_fire,
    too_many_timers_are_an_error_value,
    timers_of_a_connection_that_has_gone_do_not_fire,
    a_timer_without_delay_does_not_stop_the_worker,
    a_worker_has_timers_of_its_own,
    on_close_may_set_a_timer_of_the_worker_only,
    a_panic_in_a_timer_costs_its_connection,
    a_panic_of_the_worker_costs_nobody,
);

const SHORT: Duration = Duration::from_millis(60);

/// The clocks of the test and of the server's turn may differ by as much.
const EARLY: Duration = Duration::from_millis(50);

/// Echoes, and reports `on_close`.
struct Reporter {
    closes: Sender<(u16, CloseCause)>,
}

impl Handler for Reporter {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        ws.send(message);
    }

    fn on_close(&mut self, _ws: &mut WebSocket<'_, ()>, close: Close<'_>) {
        let _ = self.closes.send((close.code, close.cause));
    }
}

fn start(
    driver: Driver,
    configure: impl FnOnce(ServerBuilder) -> ServerBuilder,
) -> (TestServer, Receiver<(u16, CloseCause)>) {
    let (closes, told) = channel();
    let server = TestServer::start(driver, |server| {
        configure(server).websocket("/", move |_| Reporter { closes: closes.clone() })
    });
    (server, told)
}

fn a_peer_that_does_not_answer_a_ping_is_cut(driver: Driver) {
    let (server, told) = start(driver, |server| server.ping_interval(SHORT).pong_timeout(SHORT));
    let start = Instant::now();
    let mut peer = server.open();
    assert_eq!(peer.read_frame().first, 0x89);
    assert_eq!(told.recv_timeout(PATIENCE), Ok((1006, CloseCause::PongTimeout)));
    // The ping may come a quarter of its interval early, the timeout may not.
    assert!(start.elapsed() + EARLY >= SHORT + SHORT * 3 / 4, "after {:?}", start.elapsed());
    assert_eq!(peer.read_to_end().unwrap_or_default(), b"");
    server.wait_for("the slot to be free", |stats| stats.connections == 0);
}

fn a_peer_that_answers_its_pings_stays(driver: Driver) {
    let timeout = Duration::from_secs(3);
    let (server, told) = start(driver, |server| {
        server.ping_interval(Duration::from_millis(40)).pong_timeout(timeout)
    });
    let mut peer = server.open();
    let start = Instant::now();
    while start.elapsed() < timeout * 5 / 4 {
        let ping = peer.read_frame();
        assert_eq!(ping.first, 0x89);
        peer.send_frame(0x8a, &ping.payload);
    }
    assert!(told.try_recv().is_err());
}

fn any_byte_is_as_good_as_a_pong(driver: Driver) {
    let timeout = Duration::from_secs(3);
    let (server, told) = start(driver, |server| {
        server.ping_interval(Duration::from_millis(100)).pong_timeout(timeout)
    });
    let mut peer = server.open();
    // One message that takes longer than the timeout, byte by byte.
    for byte in common::frame(0x81, &[b'a'; 40]) {
        peer.send(&[byte]);
        thread::sleep(timeout / 30);
    }
    while peer.read_frame().first != 0x81 {}
    assert!(told.try_recv().is_err());
}

/// Pauses for a second at the first word; reports when it reads on, and `on_close`.
struct Pauser(Sender<Option<CloseCause>>);

impl Handler for Pauser {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {
        ws.pause_reading();
        ws.set_timer(Duration::from_secs(1), 0).expect("room");
    }

    fn on_timer(&mut self, ws: &mut WebSocket<'_, ()>, _key: u64) {
        let _ = self.0.send(None);
        ws.resume_reading();
    }

    fn on_close(&mut self, _ws: &mut WebSocket<'_, ()>, close: Close<'_>) {
        let _ = self.0.send(Some(close.cause));
    }
}

fn a_pong_timeout_does_not_count_while_reading_is_paused(driver: Driver) {
    let (sender, told) = channel();
    let server = TestServer::start(driver, |server| {
        server
            .ping_interval(Duration::from_millis(30))
            .pong_timeout(Duration::from_millis(200))
            .idle_timeout(Duration::from_millis(900))
            .websocket("/", move |_| Pauser(sender.clone()))
    });
    let mut peer = server.connect();
    peer.send(&[common::request("/"), common::frame(0x81, b"pause")].concat());
    assert_eq!(told.recv_timeout(PATIENCE), Ok(None), "it could not show that it is alive");
    // Reading goes on, and so does the time.
    assert_eq!(told.recv_timeout(PATIENCE), Ok(Some(CloseCause::PongTimeout)));
}

fn pings_of_many_connections_are_spread(driver: Driver) {
    let interval = Duration::from_millis(2400);
    let server =
        TestServer::start(driver, |server| server.ping_interval(interval).websocket("/", |_| Echo));
    let mut peers: Vec<_> = (0..40).map(|_| server.connect()).collect();
    // All requests arrive in about the same turn.
    let opened = Instant::now();
    peers.iter_mut().for_each(|peer| peer.send(&common::request("/")));
    peers.iter_mut().for_each(|peer| assert!(peer.read_head().starts_with("HTTP/1.1 101 ")));
    let mut pinged = Vec::new();
    let mut waiting: Vec<_> = peers.iter_mut().collect();
    while !waiting.is_empty() {
        assert!(opened.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(2));
        waiting.retain(|peer| {
            let news = peer.has_news();
            if news {
                pinged.push(opened.elapsed());
            }
            !news
        });
    }
    let (first, last) = (pinged[0], pinged[39]);
    assert!(first + EARLY >= interval * 3 / 4, "the first after {first:?}");
    // A quarter of the interval is 600 ms; 40 moments in it cover most of it.
    assert!(last - first > Duration::from_millis(150), "from {first:?} to {last:?}");
}

fn a_long_life_ends_with_1001(driver: Driver) {
    let lifetime = Duration::from_millis(400);
    let (server, told) = start(driver, |server| server.max_lifetime(lifetime));
    let start = Instant::now();
    let mut peer = server.open();
    let close = loop {
        peer.send_text("busy");
        let frame = peer.read_frame();
        if frame.payload != b"busy" {
            break frame;
        }
    };
    assert_eq!(close.close_code(), 1001);
    assert!(start.elapsed() + EARLY >= lifetime * 7 / 8, "after {:?}", start.elapsed());
    peer.send_frame(0x88, &1001_u16.to_be_bytes());
    peer.expect_end();
    assert_eq!(told.recv_timeout(PATIENCE), Ok((1001, CloseCause::Local)));
}

fn lives_that_began_together_do_not_end_together(driver: Driver) {
    let lifetime = Duration::from_millis(3200);
    let server =
        TestServer::start(driver, |server| server.max_lifetime(lifetime).websocket("/", |_| Echo));
    let mut peers: Vec<_> = (0..30).map(|_| server.open()).collect();
    let mut ends: Vec<Instant> = Vec::new();
    while ends.len() < peers.len() {
        thread::sleep(Duration::from_millis(2));
        let closed = peers.iter().filter(|peer| peer.has_news()).count();
        ends.resize(closed.max(ends.len()), Instant::now());
    }
    assert!(ends[29] - ends[0] > Duration::from_millis(90), "an eighth is 400 ms");
    peers.iter_mut().for_each(|peer| assert_eq!(peer.read_frame().close_code(), 1001));
}

/// Sets the timers that a message asks for; reports those that fire.
struct Timers {
    fired: Sender<(ConnectionId, u64)>,
    ids: Vec<TimerId>,
}

impl Handler for Timers {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        let Message::Text(text) = message else { return };
        let words: Vec<&str> = text.split(' ').collect();
        match words[..] {
            ["set", ref delays @ ..] => {
                for delay in delays {
                    let delay: u64 = delay.parse().expect("milliseconds");
                    match ws.set_timer(Duration::from_millis(delay), delay) {
                        Ok(id) => self.ids.push(id),
                        Err(error) => {
                            assert_eq!(error, TimerError::TooMany);
                            ws.send("too many");
                        }
                    }
                }
            }
            ["cancel", index] => {
                let id = self.ids[index.parse::<usize>().expect("an index")];
                let cancelled = ws.cancel_timer(id);
                ws.send(if cancelled { "cancelled" } else { "not there" });
            }
            ["again"] => {
                ws.set_timer(Duration::ZERO, 0).expect("room");
            }
            _ => {
                ws.send(text);
            }
        }
    }

    fn on_timer(&mut self, ws: &mut WebSocket<'_, ()>, key: u64) {
        match key {
            // For ever.
            0 => {
                ws.set_timer(Duration::ZERO, 0).expect("room");
            }
            666 => panic!("asked for by the test"),
            key => {
                let _ = self.fired.send((ws.id(), key));
                ws.send(&key.to_string());
            }
        }
    }
}

fn with_timers(driver: Driver, max_timers: u32) -> (TestServer, Receiver<(ConnectionId, u64)>) {
    let (fired, told) = channel();
    let server = TestServer::start(driver, |server| {
        server
            .max_timers(max_timers)
            .websocket("/", move |_| Timers { fired: fired.clone(), ids: Vec::new() })
    });
    (server, told)
}

fn timers_fire_in_order_and_not_early(driver: Driver) {
    let (server, _fired) = with_timers(driver, 10);
    let mut peer = server.open();
    let start = Instant::now();
    peer.send_text("set 120 30 60 31 1 300");
    for expected in [1, 30, 31, 60, 120, 300] {
        let key = peer.read_frame().payload;
        assert_eq!(String::from_utf8_lossy(&key), expected.to_string());
        assert!(start.elapsed() >= Duration::from_millis(expected), "{expected} fired early");
    }
}

fn a_timer_that_was_cancelled_does_not_fire(driver: Driver) {
    let (server, fired) = with_timers(driver, 10);
    let (mut peer, mut other) = (server.open(), server.open());
    // In one piece: the first timer must not fire in between.
    peer.send(
        &["set 100 20 120", "cancel 0"].map(|text| common::frame(0x81, text.as_bytes())).concat(),
    );
    assert_eq!(peer.read_frame().payload, b"cancelled");
    peer.send_text("cancel 0");
    assert_eq!(peer.read_frame().payload, b"not there");
    // Nobody cancels timers of others.
    other.send_text("cancel 2");
    assert_eq!(other.read_frame().payload, b"not there");
    assert_eq!(peer.read_frame().payload, b"20");
    assert_eq!(peer.read_frame().payload, b"120");
    peer.send_text("cancel 2");
    assert_eq!(peer.read_frame().payload, b"not there");
    assert_eq!(fired.try_iter().map(|(_, key)| key).collect::<Vec<_>>(), [20, 120]);
}

fn too_many_timers_are_an_error_value(driver: Driver) {
    let (server, _fired) = with_timers(driver, 2);
    let (mut peer, mut other) = (server.open(), server.open());
    peer.send_text("set 50 60 70");
    assert_eq!(peer.read_frame().payload, b"too many");
    other.send_text("set 55");
    assert_eq!(other.read_frame().payload, b"55");
    assert_eq!(peer.read_frame().payload, b"50");
    assert_eq!(peer.read_frame().payload, b"60");
    peer.send_text("set 1");
    assert_eq!(peer.read_frame().payload, b"1");
}

fn timers_of_a_connection_that_has_gone_do_not_fire(driver: Driver) {
    let (server, fired) = with_timers(driver, 10);
    let mut peer = server.open();
    peer.send_text("set 100 101 102");
    peer.send_text("there");
    assert_eq!(peer.read_frame().payload, b"there");
    peer.reset();
    server.wait_for("the slot to be free", |stats| stats.connections == 0);
    // On a slow machine some may have fired before that.
    fired.try_iter().for_each(drop);
    // The next tenant of the slot has timers of its own.
    let mut next = server.open();
    next.send_text("set 200");
    assert_eq!(next.read_frame().payload, b"200");
    assert_eq!(fired.try_iter().map(|(_, key)| key).collect::<Vec<_>>(), [200]);
}

fn a_timer_without_delay_does_not_stop_the_worker(driver: Driver) {
    let (server, _fired) = with_timers(driver, 10);
    let mut endless = server.open();
    endless.send_text("again");
    let mut peer = server.open();
    for _ in 0..20 {
        peer.send_text("served");
        assert_eq!(peer.read_frame().payload, b"served");
    }
    endless.send_text("served, too");
    assert_eq!(endless.read_frame().payload, b"served, too");
}

/// Counts its ticks, tells them to whoever is there, and tells its end 20 ms later.
struct Clock {
    ticks: u64,
    audience: Vec<ConnectionId>,
    calls: Sender<String>,
}

impl Handler for Clock {
    type Session = ();

    fn on_start(&mut self, worker: &mut WorkerContext<'_>) {
        self.calls.send(format!("start {}", worker.worker())).expect("the test waits");
        worker.set_timer(Duration::from_millis(10), 1).expect("room");
        let id = worker.set_timer(Duration::from_millis(1), 666).expect("room");
        assert!(worker.cancel_timer(id));
        assert!(!worker.cancel_timer(id));
    }

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        self.audience.push(ws.id());
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {
        let mut worker = ws.worker();
        assert_eq!(worker.connections(), 1);
        worker.set_timer(Duration::from_millis(10), 3).expect("room");
    }

    fn on_worker_timer(&mut self, worker: &mut WorkerContext<'_>, key: u64) {
        match key {
            1 => {
                self.ticks += 1;
                for &id in &self.audience {
                    let _ = worker.send_to(id, &self.ticks.to_string());
                }
                worker.set_timer(Duration::from_millis(10), 1).expect("room");
            }
            2 | 3 => {
                self.calls.send(format!("fired {key}")).expect("the test waits");
                if key == 3 {
                    panic!("asked for by the test");
                }
            }
            other => panic!("{other} was cancelled"),
        }
    }

    fn on_close(&mut self, ws: &mut WebSocket<'_, ()>, _close: Close<'_>) {
        let refused = ws.set_timer(Duration::ZERO, 0) == Err(TimerError::Gone);
        self.calls.send(format!("close {refused}")).expect("the test waits");
        ws.worker().set_timer(Duration::from_millis(20), 2).expect("room");
    }
}

fn clock(driver: Driver) -> (TestServer, Receiver<String>) {
    let (calls, told) = channel();
    let server = TestServer::start(driver, |server| {
        // The route of the clock is not the first one.
        server.websocket("/echo", |_| Echo).websocket("/", move |_| Clock {
            ticks: 0,
            audience: Vec::new(),
            calls: calls.clone(),
        })
    });
    assert_eq!(told.recv_timeout(PATIENCE).as_deref(), Ok("start 0"));
    (server, told)
}

fn a_worker_has_timers_of_its_own(driver: Driver) {
    let (server, _calls) = clock(driver);
    let mut peer = server.open();
    let mut last = 0;
    for _ in 0..5 {
        let tick: u64 =
            String::from_utf8_lossy(&peer.read_frame().payload).parse().expect("a number");
        assert!(tick > last);
        last = tick;
    }
    assert_eq!(server.stats().handler_panics, 0);
}

fn on_close_may_set_a_timer_of_the_worker_only(driver: Driver) {
    let (server, calls) = clock(driver);
    server.open().reset();
    assert_eq!(calls.recv_timeout(PATIENCE).as_deref(), Ok("close true"));
    assert_eq!(calls.recv_timeout(PATIENCE).as_deref(), Ok("fired 2"));
}

fn a_panic_in_a_timer_costs_its_connection(driver: Driver) {
    let (server, _fired) = with_timers(driver, 10);
    let (mut peer, mut other) = (server.open(), server.open());
    peer.send_text("set 666 1000");
    assert_eq!(peer.read_frame().close_code(), 1011);
    other.send_text("alive");
    assert_eq!(other.read_frame().payload, b"alive");
    assert_eq!(server.stats().handler_panics, 1);
}

fn a_panic_of_the_worker_costs_nobody(driver: Driver) {
    let (server, calls) = clock(driver);
    let mut peer = server.open();
    peer.send_text("panic");
    assert_eq!(calls.recv_timeout(PATIENCE).as_deref(), Ok("fired 3"));
    server.wait_for("the panic", |stats| stats.handler_panics == 1);
    assert_eq!(peer.read_frame().first, 0x81);
}

#[test]
fn a_pong_timeout_without_pings_is_refused() {
    let builder = Server::builder().listen("127.0.0.1:0").websocket("/", |_| Echo);
    let refused = builder.ping_interval(Duration::ZERO).pong_timeout(SHORT).build();
    assert!(matches!(refused, Err(Error::Config { field: "pong_timeout", .. })), "{refused:?}");
}
