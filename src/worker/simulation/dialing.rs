//! Connections that the worker makes, against servers that are scripted: when it tries again, and
//! that nothing is lost or left whatever the network and the server do.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::log::panic_quietly;
use super::world::{Setup, World};
use crate::client::{ConnectError, Dial, DialError, DialEvent, DialId, DialStage, Reconnect};
use crate::config::Config;
use crate::context::WorkerContext;
use crate::driver::simulated::{Faults, Peer, Random, Reception, for_each_seed};
use crate::error::{Close, CloseCause};
use crate::handler::Handler;
use crate::protocol::upgrade::{HeadScanner, Request, ServerHandshake};
use crate::protocol::{BufferPool, CloseCode, Endpoint, Event, Limits, Message};
use crate::random;
use crate::websocket::WebSocket;

/// What the handler saw.
#[derive(Debug, Default)]
struct Diary {
    dial: Option<DialId>,
    /// Moments of failures and ends: when, why, and when again.
    events: Vec<(u64, String, Option<u64>)>,
    opened: Vec<u64>,
    closed: Vec<CloseCause>,
    /// Echoes that are missing on the present connection.
    awaited: Vec<Vec<u8>>,
    echoes: usize,
    broken: Vec<String>,
}

/// Dials as soon as its worker is there, and has its messages echoed.
struct Dialler {
    dial: Dial,
    diary: Rc<RefCell<Diary>>,
    /// Sends so many messages per connection, of random lengths.
    messages: usize,
    random: Random,
    panics: u32,
}

impl Dialler {
    fn say(&mut self, ws: &mut WebSocket<'_, usize>) {
        let nth = *ws.session();
        if nth == self.messages {
            return;
        }
        *ws.session_mut() += 1;
        let payload = vec![nth as u8; self.random.length(30_000)];
        self.diary.borrow_mut().awaited.push(payload.clone());
        ws.send(&payload[..]);
    }
}

impl Handler for Dialler {
    type Session = usize;

    fn on_start(&mut self, worker: &mut WorkerContext<'_>) {
        let dial = worker.connect(&self.dial).expect("a good dial");
        self.diary.borrow_mut().dial = Some(dial);
    }

    fn on_open(&mut self, ws: &mut WebSocket<'_, usize>) {
        let mut diary = self.diary.borrow_mut();
        let open = diary.opened.len() - diary.closed.len();
        if open != 0 || ws.dial() != diary.dial {
            diary.broken.push(format!("{open} were open before"));
        }
        diary.awaited.clear();
        diary.opened.push(ws.core.now_ms);
        drop(diary);
        self.say(ws);
        self.say(ws);
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, usize>, message: Message<'_>) {
        let mut diary = self.diary.borrow_mut();
        if diary.awaited.first().is_none_or(|awaited| awaited != message.payload()) {
            diary.broken.push("an echo of nothing, or out of order".to_owned());
        } else {
            diary.awaited.remove(0);
            diary.echoes += 1;
        }
        drop(diary);
        if self.random.chance(self.panics) {
            panic_quietly();
        }
        self.say(ws);
    }

    fn on_close(&mut self, _ws: &mut WebSocket<'_, usize>, close: Close<'_>) {
        self.diary.borrow_mut().closed.push(close.cause);
    }

    fn on_dial(&mut self, worker: &mut WorkerContext<'_>, event: &DialEvent<'_>) {
        let mut diary = self.diary.borrow_mut();
        let now_ms = worker.now_ms();
        let why = event.error.map_or("ended".to_owned(), DialError::to_string);
        let again = event.retry_in.map(|delay| delay.as_millis() as u64);
        if diary.events.last().is_some_and(|(.., again)| again.is_none()) {
            diary.broken.push(format!("{why} after the last event"));
        }
        diary.events.push((now_ms, why, again));
    }
}

/// A world whose worker dials, and what its handler writes down.
fn dial(setup: Setup, dial: Dial, messages: usize, panics: u32) -> (World, Rc<RefCell<Diary>>) {
    random::seed(setup.seed);
    let diary = Rc::new(RefCell::new(Diary::default()));
    let random = Random::new(setup.seed ^ 0x5EED);
    let handler = Dialler { dial, diary: Rc::clone(&diary), messages, random, panics };
    (setup.serve_unwatched(handler), diary)
}

fn addr(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 80))
}

fn to(addrs: &[SocketAddr]) -> Dial {
    Dial::to("ws://upstream.example/").addresses(addrs.iter().copied())
}

/// The server's end of a connection that the worker made.
struct Upstream {
    peer: Peer,
    head: Vec<u8>,
    endpoint: Option<Endpoint>,
    pool: BufferPool,
    gone: bool,
}

impl Upstream {
    fn new(peer: Peer) -> Self {
        let pool = BufferPool::new(1 << 20);
        Self { peer, head: Vec::new(), endpoint: None, pool, gone: false }
    }

    /// Takes what has arrived, accepts the upgrade and echoes.
    fn serve(&mut self) {
        let mut bytes = self.peer.received();
        if self.gone {
            return;
        }
        let mut out = Vec::new();
        if self.endpoint.is_none() {
            self.head.append(&mut bytes);
            let limits = Limits::new();
            let scanned = HeadScanner::new().scan(&self.head, &limits).expect("a good request");
            let Some(head_len) = scanned else { return };
            bytes = self.head.split_off(head_len);
            let request = Request::parse(&self.head, &limits).expect("a good request");
            assert_eq!(request.host(), Some("upstream.example"));
            let handshake = ServerHandshake::check(&request).expect("an upgrade");
            handshake.write_response(None, &[], &mut out).expect("no header");
            self.endpoint = Some(Endpoint::server(limits));
        }
        let Some(endpoint) = &mut self.endpoint else { return };
        let mut input = &mut bytes[..];
        while let Some(event) =
            endpoint.receive(&mut input, &mut self.pool).expect("the worker keeps the rules")
        {
            match &event {
                Event::Text(_) => panic!("only binary messages are sent"),
                Event::Binary(bytes) => {
                    let _ = endpoint.send(Message::Binary(bytes.as_slice()), &mut out);
                }
                Event::Ping(payload) => {
                    let _ = endpoint.pong(payload.as_slice(), &mut out);
                }
                Event::Pong(_) => {}
                Event::Close(_) => {
                    endpoint.reply_close(&mut out);
                    self.gone = true;
                }
            }
            event.recycle(&mut self.pool);
        }
        if !out.is_empty() {
            self.peer.send(&out);
        }
        if self.gone {
            // RFC 6455 7.1.1: the server ends TCP.
            self.peer.close();
        }
    }

    /// Something that servers do.
    fn misbehave(&mut self, random: &mut Random) {
        if self.gone {
            return;
        }
        self.gone = true;
        match random.up_to(4) {
            0 => self.peer.reset(),
            1 => self.peer.close(),
            2 => {
                if let Some(endpoint) = &mut self.endpoint {
                    let mut out = Vec::new();
                    endpoint.close(Some(CloseCode::GOING_AWAY), "", &mut out);
                    self.peer.send(&out);
                }
                self.peer.close();
            }
            3 => {
                self.peer.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy");
                self.peer.close();
            }
            _ => {
                self.peer.send(&[0xFF; 100]);
                self.peer.close();
            }
        }
    }
}

#[test]
fn waits_are_drawn_up_to_a_cap_that_doubles() {
    let policy = Reconnect::new()
        .initial_delay(Duration::from_millis(100))
        .max_delay(Duration::from_millis(1000))
        .attempts(20);
    let (mut world, diary) = dial(Setup::new(3), to(&[addr(1)]).reconnect(policy), 0, 0);
    world.run_until(60_000, &mut []);
    let diary = diary.borrow();
    assert_eq!(diary.events.len(), 20, "{diary:?}");
    let mut due_ms = 0;
    let mut longest = 0;
    for (nth, (at_ms, why, again)) in diary.events.iter().enumerate() {
        assert_eq!(*at_ms, due_ms, "attempt {nth} was early or late");
        assert_eq!(why, "cannot connect: Connection refused (os error 111)");
        let Some(delay_ms) = again else {
            assert_eq!(nth, 19);
            break;
        };
        let cap_ms = 1000.min(100 << nth.min(10));
        assert!(*delay_ms <= cap_ms, "{delay_ms} after failure {nth}");
        longest = longest.max(*delay_ms);
        due_ms = at_ms + delay_ms;
    }
    assert!(longest > 500, "the cap is reached for: {longest}");
    let stats = world.shared.stats();
    assert_eq!((stats.dialled, stats.dial_failures, stats.opened), (20, 20, 0));
    assert_eq!(world.network.descriptors(), 0);
}

#[test]
fn the_time_for_an_attempt_is_kept_to_the_millisecond() {
    let start = to(&[addr(1)]).connect_timeout(Duration::from_millis(1234));
    let (mut world, diary) = dial(Setup::new(0), start, 0, 0);
    world.network.receive_at(addr(1), Reception::Ignore);
    world.settle(&mut []);
    let timeout = DialError::Timeout(DialStage::Connecting).to_string();
    assert_eq!(diary.borrow().events, [(1234, timeout, None)]);
    assert_eq!(world.network.descriptors(), 0);
}

#[test]
fn a_silent_address_is_overtaken_after_a_quarter_of_a_second() {
    let (mut world, diary) = dial(Setup::new(0), to(&[addr(1), addr(2), addr(3)]), 5, 0);
    world.network.receive_at(addr(1), Reception::Ignore);
    // The second refuses at once, so the third has its turn without a wait.
    world.network.receive_at(addr(3), Reception::Accept);
    let mut upstream = None;
    while diary.borrow().echoes < 5 {
        world.turn_before(10_000);
        upstream = upstream.or_else(|| world.network.reached().map(Upstream::new));
        upstream.iter_mut().for_each(Upstream::serve);
        assert!(world.now_ms() < 10_000, "{diary:?}");
    }
    assert_eq!(diary.borrow().opened, [250]);
    assert_eq!(world.shared.stats().connections, 1, "the others were given up");
    assert_eq!(world.shared.stats().dialled, 1, "all of it was one attempt");
}

#[test]
fn a_connection_that_held_makes_the_next_wait_short() {
    let policy = Reconnect::new()
        .initial_delay(Duration::from_millis(10))
        .stable_after(Duration::from_secs(5));
    let (mut world, diary) = dial(Setup::new(1), to(&[addr(1)]).reconnect(policy), 0, 0);
    // Long enough that the waits have grown.
    world.run_until(600_000, &mut []);
    assert!(diary.borrow().events.last().is_some_and(|(.., again)| again > &Some(100)));
    world.network.receive_at(addr(1), Reception::Accept);
    let serve = |world: &mut World, until: &dyn Fn(&Diary, u64) -> bool| {
        let mut upstream = None;
        while !until(&diary.borrow(), world.now_ms()) {
            world.turn_before(world.now_ms() + 100);
            upstream = upstream.or_else(|| world.network.reached().map(Upstream::new));
            upstream.iter_mut().for_each(Upstream::serve);
        }
        upstream
    };
    let upstream = serve(&mut world, &|diary, now_ms| {
        diary.opened.last().is_some_and(|opened_ms| now_ms >= opened_ms + 5_000)
    });
    upstream.expect("open").peer.reset();
    world.turn();
    let (_, why, again) = diary.borrow().events.last().cloned().expect("it has ended");
    assert_eq!(why, "ended");
    assert!(again.is_some_and(|delay_ms| delay_ms <= 10), "{again:?}");
}

/// A server that comes and goes, and does anything; and a dial that is taken back in the end.
fn run(seed: u64, faults: Faults, mischief: u32, panics: u32) -> (usize, usize) {
    let mut random = Random::new(seed);
    let mut setup = Setup::new(seed);
    setup.faults = faults;
    setup.config = Config { close_timeout_ms: 5_000, ..setup.config };
    let policy = Reconnect::new()
        .initial_delay(Duration::from_millis(20))
        .max_delay(Duration::from_millis(200));
    let dialled =
        to(&[addr(1), addr(2)]).reconnect(policy).connect_timeout(Duration::from_millis(2_000));
    let (mut world, diary) = dial(setup, dialled, 20, panics);
    let mut upstreams: Vec<Upstream> = Vec::new();
    world.network.receive_at(addr(1), Reception::Accept);
    for _ in 0..1500 {
        world.step(&mut random);
        upstreams.extend(std::iter::from_fn(|| world.network.reached()).map(Upstream::new));
        for upstream in &mut upstreams {
            upstream.serve();
            if random.chance(mischief) {
                upstream.misbehave(&mut random);
            }
        }
        if random.chance(mischief) {
            let receptions = [Reception::Accept, Reception::Refuse, Reception::Ignore];
            for last in [1, 2] {
                world.network.receive_at(addr(last), receptions[random.index(3)]);
            }
        }
    }
    let id = diary.borrow().dial.expect("it dialled");
    world.handle.disconnect(id).expect("room");
    let mut patience = 200_000;
    while !world.network.is_quiet() || world.shared.stats().connections > 0 {
        world.turn();
        upstreams.extend(std::iter::from_fn(|| world.network.reached()).map(Upstream::new));
        upstreams.iter_mut().for_each(Upstream::serve);
        patience -= 1;
        assert!(patience > 0, "seed {seed}: does not end: {}", world.network.summary());
    }
    let diary = diary.borrow();
    assert!(diary.broken.is_empty(), "seed {seed}: {:?}", diary.broken);
    assert_eq!(diary.opened.len(), diary.closed.len(), "seed {seed}: on_close once per on_open");
    let last = diary.events.last().expect("an end");
    assert_eq!(last.2, None, "seed {seed}: {last:?}");
    let ended = diary.events.iter().filter(|(_, why, _)| why == "ended").count();
    assert_eq!(ended, diary.opened.len(), "seed {seed}: one event for each end");
    let stats = world.shared.stats();
    let failed = diary.events.len() - ended;
    // The last event may be that of a wait that was taken back.
    let failures = stats.dial_failures as usize;
    assert!(failed == failures || failed == failures + 1, "seed {seed}: {failed}, {stats:?}");
    let attempts = stats.dialled as usize;
    assert_eq!(attempts, failures + diary.opened.len(), "seed {seed}: {stats:?}");
    assert_eq!(world.network.descriptors(), 0, "seed {seed}");
    assert_eq!(world.worker.crank.core.lent_queues(), 0, "seed {seed}");
    (diary.opened.len(), diary.echoes)
}

#[test]
fn everything_is_echoed_on_a_rough_network() {
    for_each_seed("everything_is_echoed_on_a_rough_network", 60, |seed| {
        let (opened, echoes) = run(seed, Faults { accept_failure: 0, ..Faults::rough() }, 0, 0);
        assert_eq!((opened, echoes), (1, 20), "seed {seed}");
    });
}

#[test]
fn servers_that_come_and_go_leave_nothing_on_any_network() {
    let (mut opened, mut echoes) = (0, 0);
    for_each_seed("servers_that_come_and_go_leave_nothing_on_any_network", 120, |seed| {
        let faults = Faults::drawn(&mut Random::new(seed));
        let seen = run(seed, faults, 15, 5);
        opened += seen.0;
        echoes += seen.1;
    });
    assert!(opened > 10 && echoes > 10, "{opened} connections, {echoes} echoes: too few");
}

/// A handler that does nothing.
struct Idle;

impl Handler for Idle {
    type Session = ();

    fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {}
}

#[test]
fn a_handler_too_many_is_an_error_of_the_call() {
    let mut world = Setup::new(0).serve_unwatched(Idle);
    let seats = &world.shared.handler_seats[0];
    // Everybody but one.
    let mut held: Vec<_> = std::iter::from_fn(|| seats.take().ok()).collect();
    assert!(held.len() > 65_000, "{}", held.len());
    let dial = to(&[addr(1)]).reconnect(Reconnect::new());
    let too_many = Err(ConnectError::TooManyHandlers);
    assert_eq!(world.handle.connect(&dial, Idle), too_many);
    held.pop();
    for _ in 0..3 {
        let id = world.handle.connect(&dial, Idle).expect("a seat");
        // The seat is taken while the dial is under way, and before the worker knows of it.
        assert_eq!(world.handle.connect(&dial, Idle), too_many);
        world.turn();
        assert_eq!(world.handle.connect(&dial, Idle), too_many);
        world.handle.disconnect(id).expect("room in the mailbox");
        world.deliver(&mut []);
    }
}
