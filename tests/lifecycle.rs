//! Connections and servers end once: ids never reach a stranger, limits pause and resume, and a
//! shutdown tells everybody and returns.

mod common;

use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use common::{Echo, PATIENCE, Peer, TestServer, frame, request};
use wirelane::{
    Close, CloseCause, CloseCode, ConnectionId, Driver, Handle, Handler, Message, Response,
    SendError, SendStatus, WebSocket,
};

on_every_driver!(
    an_id_that_has_gone_never_reaches_a_stranger,
    a_closing_connection_takes_no_more_messages,
    other_threads_send_in_order_and_close,
    a_stopped_server_refuses_commands,
    connections_over_the_limit_wait_until_one_ends,
    one_connection_at_a_time_serves_many,
    churn_leaves_nothing_behind,
    on_close_may_send_to_others,
    workers_relay_to_each_other,
    a_shutdown_under_load_closes_everyone_with_1001,
    a_shutdown_answers_requests_and_ends_silent_peers,
    peers_that_never_answer_are_cut_when_the_grace_is_over,
    the_shortest_grace_of_several_shutdowns_wins,
    a_handler_may_shut_the_server_down,
);

/// Notes who is open, relays as told, and reports every end.
struct Registry {
    ids: Arc<Mutex<Vec<ConnectionId>>>,
    ends: Sender<(u16, CloseCause)>,
}

impl Handler for Registry {
    type Session = ();

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        self.ids.lock().expect("no panic").push(ws.id());
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        match message {
            Message::Text("echo") => assert_eq!(ws.send("echo"), SendStatus::Sent),
            // A number: send to that connection and tell what came of it.
            Message::Text(number) => {
                let index: usize = number.parse().expect("a number");
                let id = self.ids.lock().expect("no panic")[index];
                let result = ws.send_to(id, "relayed");
                ws.send(&format!("{result:?}"));
            }
            // Anything else goes to everybody else.
            binary => {
                let (ids, own) = (self.ids.lock().expect("no panic").clone(), ws.id());
                for id in ids.into_iter().filter(|id| *id != own) {
                    ws.send_to(id, binary).expect("all are open");
                }
            }
        }
    }

    fn on_close(&mut self, _ws: &mut WebSocket<'_, ()>, close: Close<'_>) {
        // A test that has seen enough has gone.
        let _ = self.ends.send((close.code, close.cause));
    }
}

type Ids = Arc<Mutex<Vec<ConnectionId>>>;

fn registry(driver: Driver, workers: usize) -> (TestServer, Ids, Receiver<(u16, CloseCause)>) {
    let (ends, ended) = channel();
    let ids = Ids::default();
    let shared = Arc::clone(&ids);
    let server = TestServer::start(driver, |server| {
        server
            .workers(workers)
            .websocket("/", move |_| Registry { ids: Arc::clone(&shared), ends: ends.clone() })
    });
    (server, ids, ended)
}

fn text(peer: &mut Peer) -> String {
    let frame = peer.read_frame();
    assert_eq!(frame.first, 0x81);
    String::from_utf8(frame.payload).expect("UTF-8")
}

fn an_id_that_has_gone_never_reaches_a_stranger(driver: Driver) {
    let (server, ids, ended) = registry(driver, 1);
    for generation in 0..5 {
        let mut first = server.open();
        first.send_frame(0x88, &1000_u16.to_be_bytes());
        first.expect_close(1000);
        ended.recv_timeout(PATIENCE).expect("on_close");
        drop(first);
        server.wait_for("the slot to be free", |stats| stats.connections == 0);

        // The same slot, for there is only this one.
        let mut second = server.open();
        let gone = ids.lock().expect("no panic")[2 * generation];
        let present = ids.lock().expect("no panic")[2 * generation + 1];
        second.send_text(&(2 * generation).to_string());
        assert_eq!(text(&mut second), "Err(Gone)");
        let undelivered = server.stats().undelivered;
        server.handle.send_to(gone, "for the one that has gone").expect("posted");
        server.handle.close(gone, CloseCode::NORMAL, "").expect("posted");
        server.wait_for("the loss to be counted", |stats| stats.undelivered == undelivered + 1);
        server.handle.send_to(present, "for the present one").expect("posted");
        assert_eq!(text(&mut second), "for the present one");
        second.reset();
        ended.recv_timeout(PATIENCE).expect("on_close");
        server.wait_for("the slot to be free", |stats| stats.connections == 0);
    }
}

fn a_closing_connection_takes_no_more_messages(driver: Driver) {
    let (server, ids, _ended) = registry(driver, 1);
    let mut closing = server.open();
    let mut other = server.open();
    let id = ids.lock().expect("no panic")[0];
    server.handle.close(id, CloseCode::GOING_AWAY, "moved").expect("posted");
    let close = closing.read_frame();
    assert_eq!((close.close_code(), &close.payload[2..]), (1001, &b"moved"[..]));
    // Its answer is still missing.
    other.send_text("0");
    assert_eq!(text(&mut other), "Err(Gone)");
    server.handle.send_to(id, "too late").expect("posted");
    server.handle.close(id, CloseCode::NORMAL, "again").expect("posted");
    server.wait_for("the loss to be counted", |stats| stats.undelivered == 1);
    closing.send_frame(0x88, &1001_u16.to_be_bytes());
    closing.expect_end();
}

fn other_threads_send_in_order_and_close(driver: Driver) {
    const THREADS: u32 = 4;
    const MESSAGES: u32 = 500;
    let (server, ids, ended) = registry(driver, 1);
    let mut peer = server.open();
    let id = ids.lock().expect("no panic")[0];
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let handle = server.handle.clone();
            thread::spawn(move || {
                for number in 0..MESSAGES {
                    let message = [thread.to_be_bytes(), number.to_be_bytes()].concat();
                    handle.send_to(id, &message).expect("room");
                }
            })
        })
        .collect();
    let mut next = [0; THREADS as usize];
    for _ in 0..THREADS * MESSAGES {
        let payload = peer.read_frame().payload;
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("4 bytes"));
        let thread = number(&payload[..4]) as usize;
        assert_eq!(number(&payload[4..]), next[thread]);
        next[thread] += 1;
    }
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    server.handle.send_to(id, "the last").expect("room");
    server.handle.close(id, CloseCode::new(4321).expect("private"), "done").expect("room");
    assert_eq!(peer.read_frame().payload, b"the last");
    let close = peer.read_frame();
    assert_eq!((close.close_code(), &close.payload[2..]), (4321, &b"done"[..]));
    peer.send_frame(0x88, &close.payload);
    peer.expect_end();
    assert_eq!(ended.recv_timeout(PATIENCE), Ok((4321, CloseCause::Local)));
}

fn a_stopped_server_refuses_commands(driver: Driver) {
    let (server, ids, _ended) = registry(driver, 1);
    let _peer = server.open();
    let id = ids.lock().expect("no panic")[0];
    let handle = server.handle.clone();
    server.stop(Duration::ZERO).expect("a clean end");
    assert_eq!(handle.send_to(id, "late"), Err(SendError::Stopped));
    assert_eq!(handle.close(id, CloseCode::NORMAL, ""), Err(SendError::Stopped));
    handle.shutdown(Duration::ZERO);
    let stats = handle.stats();
    assert_eq!((stats.connections, stats.opened, stats.closed), (0, 1, 1));
}

fn connections_over_the_limit_wait_until_one_ends(driver: Driver) {
    for workers in [1, 3] {
        let server = TestServer::start(driver, |server| {
            server.workers(workers).max_connections(3).websocket("/", |_| Echo)
        });
        let mut peers: Vec<_> = (0..3).map(|_| server.open()).collect();
        let mut waiting = server.connect();
        waiting.send(&request("/"));
        thread::sleep(Duration::from_millis(150));
        server.wait_for("three and no more", |stats| stats.connections == 3);
        assert!(!waiting.has_news(), "over the limit, and not left waiting");
        for peer in &mut peers {
            peer.send_text("served");
            assert_eq!(peer.read_frame().payload, b"served");
        }
        peers.pop().expect("three").reset();
        assert!(waiting.read_head().starts_with("HTTP/1.1 101 "));
        server.wait_for("the fourth", |stats| stats.opened == 4 && stats.connections == 3);
    }
}

fn one_connection_at_a_time_serves_many(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        server.max_connections(1).get("/", |_| Response::text("page"))
    });
    let mut peers: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for peer in &mut peers {
        peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    for peer in &mut peers {
        assert_eq!(peer.read_answer().body, b"page");
        // The slot is free once this side has ended, too.
        peer.finish();
    }
    server.wait_for("all of them", |stats| stats.accepted == 20 && stats.connections == 0);
}

fn churn_leaves_nothing_behind(driver: Driver) {
    let (server, _ids, ended) = registry(driver, 2);
    for round in 0..300 {
        let mut peer = if round % 5 == 0 { server.connect() } else { server.open() };
        match round % 5 {
            1 => peer.reset(),
            2 => peer.send_frame(0x88, b""),
            3 => peer.send(&frame(0x01, &[b'a'; 5000])[..4000]),
            _ => {}
        }
    }
    let stats = server.wait_for("every slot to be free", |stats| stats.connections == 0);
    assert_eq!((stats.accepted, stats.opened, stats.closed), (300, 240, 240));
    assert_eq!(ended.try_iter().count(), 240);
}

/// Tells the others when somebody leaves.
#[derive(Default)]
struct Farewell {
    ids: Vec<ConnectionId>,
}

impl Handler for Farewell {
    type Session = ();

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        self.ids.push(ws.id());
        ws.send("welcome");
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {
        ws.terminate();
        // Still open as far as this call is concerned; what follows is harmless.
        ws.terminate();
        ws.close(CloseCode::NORMAL, "");
    }

    fn on_close(&mut self, ws: &mut WebSocket<'_, ()>, _close: Close<'_>) {
        self.ids.retain(|id| *id != ws.id());
        assert_eq!(ws.send("to the one that has gone"), SendStatus::Dropped);
        assert_eq!(ws.send_to(ws.id(), "the same"), Err(SendError::Gone));
        assert_eq!(ws.ping(b""), SendStatus::Dropped);
        ws.close(CloseCode::NORMAL, "twice");
        ws.terminate();
        for id in self.ids.clone() {
            let _ = ws.send_to(id, "farewell");
        }
    }
}

fn on_close_may_send_to_others(driver: Driver) {
    let server = TestServer::start(driver, |server| server.websocket("/", |_| Farewell::default()));
    let mut witness = server.open();
    assert_eq!(text(&mut witness), "welcome");
    for round in 0..20 {
        let mut peer = server.open();
        assert_eq!(text(&mut peer), "welcome");
        match round % 3 {
            0 => peer.send_text("terminate me"),
            1 => peer.reset(),
            _ => peer.finish(),
        }
        assert_eq!(text(&mut witness), "farewell");
    }
    let stats = server.wait_for("every slot but one to be free", |stats| stats.connections == 1);
    assert_eq!((stats.closed, stats.handler_panics), (20, 0));
}

fn workers_relay_to_each_other(driver: Driver) {
    const PEERS: usize = 24;
    let (server, ids, _ended) = registry(driver, 3);
    let mut peers: Vec<_> = (0..PEERS).map(|_| server.open()).collect();
    server.wait_for("everybody to be known", |stats| stats.opened == PEERS as u64);
    let mut workers: Vec<_> = ids.lock().expect("no panic").iter().map(|id| id.worker()).collect();
    workers.sort_unstable();
    workers.dedup();
    assert!(workers.len() > 1, "all 24 connections went to one of 3 workers");
    for (number, peer) in peers.iter_mut().enumerate() {
        for round in 0..3 {
            peer.send_frame(0x82, &[number as u8, round]);
        }
    }
    for (number, peer) in peers.iter_mut().enumerate() {
        let mut next = [0; PEERS];
        for _ in 0..(PEERS - 1) * 3 {
            let message = peer.read_frame().payload;
            let from = usize::from(message[0]);
            assert_eq!(message[1], next[from], "in order from {from} to {number}");
            next[from] += 1;
        }
        assert_eq!(next[number], 0, "nothing of its own");
    }
    assert_eq!(server.stats().undelivered, 0);
}

fn a_shutdown_under_load_closes_everyone_with_1001(driver: Driver) {
    for workers in [1, 3] {
        let (server, _ids, ended) = registry(driver, workers);
        let (ready, loaded) = channel();
        let threads: Vec<_> = (0..12)
            .map(|_| {
                let (mut peer, ready) = (server.open(), ready.clone());
                thread::spawn(move || {
                    let mut echoes = 0;
                    loop {
                        peer.send_text("echo");
                        let answer = peer.read_frame();
                        if answer.first == 0x88 {
                            assert_eq!(answer.close_code(), 1001);
                            peer.send_frame(0x88, &answer.payload);
                            peer.expect_end();
                            return;
                        }
                        echoes += 1;
                        if echoes == 20 {
                            ready.send(()).expect("the test waits");
                        }
                    }
                })
            })
            .collect();
        for _ in 0..12 {
            loaded.recv_timeout(PATIENCE).expect("load");
        }
        let (addr, handle) = (server.addr, server.handle.clone());
        server.stop(PATIENCE).expect("run returns Ok");
        threads.into_iter().for_each(|thread| thread.join().expect("1001, an answer, FIN"));
        // A child that another test starts in this moment holds the listener until its exec.
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(addr).is_ok() {
            assert!(Instant::now() < deadline, "nobody listens any more");
            thread::sleep(Duration::from_millis(10));
        }
        let stats = handle.stats();
        assert_eq!((stats.connections, stats.opened, stats.closed), (0, 12, 12));
        let ends: Vec<_> = ended.iter().collect();
        assert_eq!(ends, [(1001, CloseCause::Local); 12]);
    }
}

fn a_shutdown_answers_requests_and_ends_silent_peers(driver: Driver) {
    let server = TestServer::start(driver, |server| server.websocket("/", |_| Echo));
    let mut silent = server.connect();
    let mut asking = server.connect();
    asking.send(b"GET / HTTP/1.1\r\nHo");
    server.wait_for("both", |stats| stats.accepted == 2);
    // Its first bytes have been looked at when a later connection is open.
    let mut open = server.open();
    let handle = server.handle.clone();
    let stopping = thread::spawn(move || server.stop(PATIENCE));
    assert_eq!(open.read_frame().close_code(), 1001);
    open.send_frame(0x88, &1001_u16.to_be_bytes());
    open.expect_end();
    assert_eq!(asking.read_answer().status, 503);
    silent.expect_end();
    drop((open, asking, silent));
    stopping.join().expect("no panic").expect("run returns Ok");
    assert_eq!(handle.stats().connections, 0);
}

fn peers_that_never_answer_are_cut_when_the_grace_is_over(driver: Driver) {
    let (server, _ids, ended) = registry(driver, 2);
    let mut peers: Vec<_> = (0..10).map(|_| server.open()).collect();
    let grace = Duration::from_millis(200);
    let start = Instant::now();
    server.stop(grace).expect("run returns Ok");
    let elapsed = start.elapsed();
    assert!(elapsed + Duration::from_millis(20) >= grace, "cut after {elapsed:?}");
    let ends: Vec<_> = ended.iter().collect();
    assert_eq!(ends, [(1006, CloseCause::Shutdown); 10]);
    for peer in &mut peers {
        assert_eq!(peer.read_frame().close_code(), 1001);
    }
}

fn the_shortest_grace_of_several_shutdowns_wins(driver: Driver) {
    let (server, _ids, ended) = registry(driver, 1);
    let mut peer = server.open();
    server.handle.shutdown(Duration::from_secs(3600));
    assert_eq!(peer.read_frame().close_code(), 1001);
    server.handle.shutdown(Duration::from_secs(1800));
    thread::sleep(Duration::from_millis(20));
    assert!(ended.try_recv().is_err(), "cut before any grace was over");
    server.handle.shutdown(Duration::from_millis(50));
    // A longer one takes nothing back.
    server.stop(Duration::from_secs(3600)).expect("run returns Ok");
    assert_eq!(ended.recv_timeout(PATIENCE), Ok((1006, CloseCause::Shutdown)));
}

/// Stops its server when told to.
struct Stopper {
    handle: Arc<OnceLock<Handle>>,
}

impl Handler for Stopper {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        self.handle.get().expect("set before anybody connects").shutdown(PATIENCE);
        ws.send(message);
    }
}

fn a_handler_may_shut_the_server_down(driver: Driver) {
    let handle = Arc::new(OnceLock::new());
    let shared = Arc::clone(&handle);
    let server = TestServer::start(driver, |server| {
        server.workers(2).websocket("/", move |_| Stopper { handle: Arc::clone(&shared) })
    });
    handle.set(server.handle.clone()).expect("once");
    let mut peers: Vec<_> = (0..6).map(|_| server.open()).collect();
    peers[3].send_text("stop");
    assert_eq!(text(&mut peers[3]), "stop");
    for peer in &mut peers {
        assert_eq!(peer.read_frame().close_code(), 1001);
        peer.send_frame(0x88, &1001_u16.to_be_bytes());
        peer.expect_end();
    }
    drop(peers);
    server.stop(PATIENCE).expect("run returns Ok");
}
