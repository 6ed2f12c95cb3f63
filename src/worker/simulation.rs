//! The whole server on the simulated network: thousands of seeds, faults of every kind.
//!
//! A seed decides what the network does, what each client does and in which order; the worker is
//! the real one. What must hold in spite of everything is asserted at the end of each run, and by
//! the simulated driver at every step.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::mailbox::Shared;
use super::paths::Paths;
use super::route::RouteOf;
use super::*;
use crate::driver::simulated::{Faults, Network, Peer, Random, ReadRate, Seen, for_each_seed};
use crate::handler::Handler;
use crate::protocol::upgrade::ClientHandshake;
use crate::protocol::{BufferPool, Endpoint, Event as Frame, Limits, Message};
use crate::websocket::{SendStatus, WebSocket};

/// What the handler saw.
#[derive(Default)]
struct Log {
    /// Open connections.
    open: BTreeMap<ConnectionId, u32>,
    closes: u32,
    opens: u32,
    dropped: u32,
    causes: BTreeMap<ConnectionId, CloseCause>,
}

struct Echo(Rc<RefCell<Log>>);

impl Handler for Echo {
    type Session = u32;

    fn on_open(&mut self, ws: &mut WebSocket<'_, u32>) {
        let mut log = self.0.borrow_mut();
        log.opens += 1;
        assert!(log.open.insert(ws.id(), 0).is_none(), "opened twice");
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, u32>, message: Message<'_>) {
        assert!(self.0.borrow().open.contains_key(&ws.id()), "a message outside open and close");
        *ws.session_mut() += 1;
        if ws.send(message) == SendStatus::Dropped {
            self.0.borrow_mut().dropped += 1;
        }
    }

    fn on_close(&mut self, ws: &mut WebSocket<'_, u32>, close: Close<'_>) {
        let mut log = self.0.borrow_mut();
        log.causes.insert(ws.id(), close.cause);
        log.closes += 1;
        assert!(log.open.remove(&ws.id()).is_some(), "closed without open, or twice");
    }
}

/// How a client means to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    Handshake,
    Fin,
    Vanish,
    Reset,
    Garbage,
    Silence,
}

struct Client {
    peer: Peer,
    id: Option<ConnectionId>,
    handshake: ClientHandshake,
    endpoint: Option<Endpoint>,
    /// Sends only, so that a Close sent does not make `endpoint` discard what still arrives.
    speaker: Option<Endpoint>,
    pool: BufferPool,
    /// Bytes before the end of the response.
    head: Vec<u8>,
    sent: Vec<Vec<u8>>,
    echoed: usize,
    /// Whether it stopped sending.
    over: Option<Farewell>,
    close_answered: bool,
    server_closed: bool,
    done: bool,
}

impl Client {
    fn new(network: &Network, random: &mut Random) -> Self {
        let peer = network.connect();
        let mut handshake = ClientHandshake::new([7; 16]);
        let mut request = Vec::new();
        handshake.write_request("test", "/", &[], &[], &mut request).unwrap();
        peer.send(&request);
        if random.chance(300) {
            peer.set_read_rate(ReadRate::BytesPerMs(random.length(5_000)));
        }
        Self {
            peer,
            id: None,
            handshake,
            endpoint: None,
            speaker: None,
            pool: BufferPool::new(1 << 20),
            head: Vec::new(),
            sent: Vec::new(),
            echoed: 0,
            over: None,
            close_answered: false,
            server_closed: false,
            done: false,
        }
    }

    fn listen(&mut self) {
        self.id = self.id.or(self.peer.id());
        let mut bytes = self.peer.received();
        if self.endpoint.is_none() {
            self.head.extend(bytes);
            if self.done {
                return;
            }
            let Some(established) = self
                .handshake
                .read_response(&self.head, &Limits::new())
                .unwrap_or_else(|error| panic!("{error:?}: {}", self.head.escape_ascii()))
            else {
                return;
            };
            bytes = self.head.split_off(established.head_len);
            let endpoint = || {
                let mut key = 0_u8;
                let keys = move || {
                    key = key.wrapping_add(37);
                    [key, 1, key, 3]
                };
                Some(Endpoint::client(Limits::new(), Box::new(keys)))
            };
            (self.endpoint, self.speaker) = (endpoint(), endpoint());
        }
        let Some(endpoint) = &mut self.endpoint else { return };
        let mut input = &mut bytes[..];
        let mut out = Vec::new();
        loop {
            match endpoint.receive(&mut input, &mut self.pool) {
                Ok(None) => break,
                Ok(Some(Frame::Binary(bytes))) => {
                    // Skips what the server said it dropped; the test knows whether it did.
                    let nth = self.sent[self.echoed..]
                        .iter()
                        .position(|sent| sent == bytes.as_slice())
                        .expect("an echo of nothing, or out of order");
                    self.echoed += nth + 1;
                    bytes.recycle(&mut self.pool);
                }
                Ok(Some(Frame::Ping(payload))) => drop(endpoint.pong(payload.as_slice(), &mut out)),
                Ok(Some(Frame::Close(_))) => {
                    if self.over == Some(Farewell::Handshake) {
                        self.close_answered = true;
                    } else {
                        self.server_closed = true;
                        endpoint.reply_close(&mut out);
                    }
                }
                Ok(Some(Frame::Text(_) | Frame::Pong(_))) => {}
                Err(error) => panic!("the server broke the protocol: {error:?}"),
            }
        }
        let silent = matches!(
            self.over,
            Some(Farewell::Fin | Farewell::Vanish | Farewell::Reset | Farewell::Silence)
        );
        if !silent && !out.is_empty() {
            self.peer.send(&out);
        }
    }

    fn speak(&mut self, random: &mut Random) {
        if self.over.is_some() || self.server_closed {
            return;
        }
        let Some(endpoint) = &mut self.speaker else {
            if random.chance(20) {
                self.over = Some(Farewell::Vanish);
                self.done = true;
                self.peer.close();
            }
            return;
        };
        let mut out = Vec::new();
        match random.up_to(19) {
            0..=10 => {
                for _ in 0..random.length(8) {
                    let most = if random.chance(100) { 100_000 } else { 500 };
                    let len = random.length(most);
                    let mut payload = vec![random.next() as u8; len];
                    let nth = self.sent.len() as u32;
                    payload.splice(0..0, nth.to_be_bytes());
                    endpoint.send(Message::Binary(&payload), &mut out).unwrap();
                    self.sent.push(payload);
                }
            }
            11 => drop(endpoint.ping(b"ping", &mut out)),
            12 => self.peer.set_read_rate(ReadRate::Stopped),
            13 => self.peer.set_read_rate(ReadRate::Unlimited),
            14 => {
                let all = [
                    Farewell::Handshake,
                    Farewell::Handshake,
                    Farewell::Handshake,
                    Farewell::Fin,
                    Farewell::Vanish,
                    Farewell::Reset,
                    Farewell::Garbage,
                    Farewell::Silence,
                ];
                return self.leave(all[random.index(all.len())]);
            }
            _ => {}
        }
        self.peer.send(&out);
    }

    fn leave(&mut self, farewell: Farewell) {
        if self.over.is_some() || self.server_closed {
            return;
        }
        self.over = Some(farewell);
        let Some(endpoint) = &mut self.speaker else { return self.peer.close() };
        match farewell {
            Farewell::Handshake => {
                let mut out = Vec::new();
                endpoint.close(Some(CloseCode::NORMAL), "", &mut out);
                self.peer.send(&out);
            }
            Farewell::Fin => self.peer.finish(),
            Farewell::Vanish => self.peer.close(),
            Farewell::Reset => self.peer.reset(),
            Farewell::Garbage => self.peer.send(b"GET / HTTP/1.1\r\n\r\n"),
            Farewell::Silence => self.peer.set_read_rate(ReadRate::Stopped),
        }
    }
}

fn run(seed: u64, faults: Faults) {
    let mut random = Random::new(seed ^ 0xC11E47);
    let network = Network::new(seed, faults);
    let (driver, memory) = network.driver();
    network.open_listener();
    let log = Rc::new(RefCell::new(Log::default()));
    let mut paths = Paths::default();
    paths.entry("/").websocket = Some(0);
    let config = Config {
        max_backpressure: 1024 << random.up_to(8),
        max_connections: 1 + random.up_to(20) as usize,
        handshake_timeout_ms: 500,
        idle_timeout_ms: 3_000,
        ping_interval_ms: 1_000,
        write_timeout_ms: 2_000,
        // A network of a few bytes per millisecond needs its time.
        close_timeout_ms: 100_000,
        ..Config::default()
    };
    let shared = Arc::new(Shared::new(1));
    let routes: Vec<Box<dyn Route>> =
        vec![Box::new(RouteOf::with_capacity(Echo(Rc::clone(&log)), 32))];
    let mut worker = Worker::new(
        0,
        Box::new(driver),
        memory,
        routes,
        Arc::new(paths),
        Arc::new(config),
        Arc::clone(&shared),
    );
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..random.length(200) {
        if clients.len() < 12 && random.chance(200) {
            clients.push(Client::new(&network, &mut random));
        }
        for client in &mut clients {
            client.listen();
            client.speak(&mut random);
        }
        if !network.is_quiet() {
            worker.turn().unwrap();
        } else {
            network.advance(random.length(200) as u64);
        }
        assert!(worker.crank.core.dirty.is_empty());
        assert!(worker.crank.core.doomed.is_empty());
    }
    // Everybody leaves.
    for client in &mut clients {
        if client.over != Some(Farewell::Silence) {
            client.peer.set_read_rate(ReadRate::Unlimited);
        }
        client.listen();
        client.leave(Farewell::Handshake);
    }
    let mut turns = 0;
    while !worker.crank.core.table.is_empty() || !network.is_quiet() {
        worker.turn().unwrap();
        for client in &mut clients {
            client.listen();
            if client.over != Some(Farewell::Silence) {
                client.peer.set_read_rate(ReadRate::Unlimited);
            }
        }
        turns += 1;
        assert!(turns < 1_000_000, "does not come to rest: {}", network.summary());
    }
    let log = log.borrow();
    assert!(log.open.is_empty(), "a session without its end");
    assert_eq!(log.opens, log.closes);
    let core = &worker.crank.core;
    assert_eq!(worker.crank.routes[0].sessions(), 0);
    assert_eq!(network.descriptors(), 0);
    assert_eq!(core.driver.stats().sockets, 0);
    assert_eq!(shared.connections.load(Ordering::Acquire), 0);
    assert_eq!(core.timers.next_deadline(), None, "a timer of nobody");
    for (nth, client) in clients.iter().enumerate() {
        let seen = client.peer.seen();
        let cause = client.id.and_then(|id| log.causes.get(&id).copied());
        if client.over == Some(Farewell::Handshake)
            && client.endpoint.is_some()
            && !client.server_closed
            && seen != Seen::Broken
            && !matches!(cause, Some(CloseCause::IdleTimeout | CloseCause::WriteTimeout))
        {
            assert_eq!(cause, Some(CloseCause::Peer), "client {nth}");
            assert!(client.close_answered, "client {nth}: no Close, {seen:?}");
            assert_eq!(seen, Seen::Finished, "client {nth}");
            if log.dropped == 0 {
                assert_eq!(client.echoed, client.sent.len(), "client {nth}");
            }
        }
    }
}

#[test]
fn the_server_keeps_its_promises_on_a_rough_network() {
    for_each_seed("the_server_keeps_its_promises_on_a_rough_network", 300, |seed| {
        run(seed, Faults::rough());
    });
}

#[test]
fn the_server_keeps_its_promises_on_any_network() {
    for_each_seed("the_server_keeps_its_promises_on_any_network", 300, |seed| {
        run(seed, Faults::drawn(&mut Random::new(seed)));
    });
}
