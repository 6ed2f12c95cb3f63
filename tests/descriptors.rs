//! When descriptors or connections run out, accepting pauses: whoever is there is served, whoever
//! comes waits, and nothing spins meanwhile.

mod common;

use std::io::{ErrorKind, Read};
use std::path::Path;
use std::thread;
use std::time::Duration;

use common::child::{Program, command, cpu_time, limit_descriptors};
use common::{Peer, TestServer, request};
use wirelane::{Driver, Handler, Message, WebSocket};

on_every_driver!(
    at_the_limit_of_descriptors_peers_wait,
    at_the_limit_of_connections_peers_wait,
    workers_share_the_limit_of_connections,
    a_server_at_its_limit_can_be_stopped,
);

/// How long nothing shall happen, and how much CPU time that may take.
const QUIET: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_millis(300);

/// A peer that has asked for a connection.
fn ask(mut peer: Peer) -> Peer {
    peer.send(&request("/"));
    peer
}

/// Neither an answer nor an end has come.
fn expect_silence(peer: &Peer) {
    peer.stream.set_nonblocking(true).expect("a socket");
    let result = (&peer.stream).read(&mut [0]);
    let error = result.expect_err("no answer and no end");
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
    peer.stream.set_nonblocking(false).expect("a socket");
}

fn expect_answer(peer: &mut Peer) {
    let head = peer.read_head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    expect_echo(peer);
}

fn expect_echo(peer: &mut Peer) {
    peer.send_text("here");
    assert_eq!(peer.read_frame().payload, b"here");
}

fn at_the_limit_of_descriptors_peers_wait(driver: Driver) {
    const LIMIT: usize = 64;
    let mut command = command("echo");
    command.args(["--listen", "127.0.0.1:0", "--driver", &driver.to_string()]);
    limit_descriptors(&mut command, LIMIT as u64);
    let program = Program::spawn(command);
    let at_start = program.descriptors();
    let mut peers = Vec::new();
    while program.descriptors_below(LIMIT) < LIMIT {
        peers.push(program.open());
    }
    assert!(peers.len() > LIMIT / 2, "{} descriptors are not sockets", LIMIT - peers.len());

    for round in 0..3 {
        let waiting: Vec<Peer> = (0..10).map(|_| ask(program.connect())).collect();
        // Time to find out that nothing is left.
        thread::sleep(QUIET / 5);
        if round == 0 {
            let before = program.cpu_time();
            thread::sleep(QUIET);
            let used = program.cpu_time() - before;
            assert!(used < IDLE, "{used:?} of CPU time in {QUIET:?}");
        }
        waiting.iter().for_each(expect_silence);
        peers.iter_mut().for_each(expect_echo);

        // As many leave as wait, each round in another way.
        for peer in peers.drain(..waiting.len()) {
            match round {
                0 => peer.finish(),
                1 => peer.reset(),
                _ => Peer::send_frame(&mut { peer }, 0x88, b""),
            }
        }
        for mut peer in waiting {
            expect_answer(&mut peer);
            peers.push(peer);
        }
    }
    drop(peers);
    program.wait_for_descriptors(at_start);
    program.stop();
}

/// An echo that says how much CPU time its worker has used, in milliseconds.
struct Probe;

impl Handler for Probe {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        if message.payload() == b"cpu" {
            let used = cpu_time(Path::new("/proc/thread-self/stat"));
            ws.send(&used.as_millis().to_string());
        } else {
            ws.send(message);
        }
    }
}

fn worker_time(peer: &mut Peer) -> Duration {
    peer.send_text("cpu");
    let text = String::from_utf8(peer.read_frame().payload).expect("ASCII");
    Duration::from_millis(text.parse().expect("a number"))
}

fn at_the_limit_of_connections_peers_wait(driver: Driver) {
    at_the_limit(driver, 1);
}

fn workers_share_the_limit_of_connections(driver: Driver) {
    at_the_limit(driver, 3);
}

fn at_the_limit(driver: Driver, workers: usize) {
    const LIMIT: usize = 20;
    let server = TestServer::start(driver, |server| {
        server.workers(workers).max_connections(LIMIT).websocket("/", |_| Probe)
    });
    let mut peers: Vec<Peer> = (0..LIMIT).map(|_| server.open()).collect();
    for _ in 0..2 {
        let waiting: Vec<Peer> = (0..10).map(|_| ask(server.connect())).collect();
        let before: Vec<_> = peers.iter_mut().map(worker_time).collect();
        thread::sleep(QUIET);
        for (peer, before) in peers.iter_mut().zip(before) {
            let used = worker_time(peer) - before;
            assert!(used < IDLE, "{used:?} of CPU time in {QUIET:?}");
        }
        waiting.iter().for_each(expect_silence);
        peers.iter_mut().for_each(expect_echo);
        assert_eq!(server.stats().connections, LIMIT as u64);

        peers.drain(..waiting.len()).for_each(drop);
        for mut peer in waiting {
            expect_answer(&mut peer);
            peers.push(peer);
        }
    }
    // One that gave up while it waited takes no place.
    let impatient: Vec<Peer> = (0..5).map(|_| ask(server.connect())).collect();
    let mut patient = ask(server.connect());
    impatient.into_iter().for_each(Peer::reset);
    peers.pop();
    expect_answer(&mut patient);
    drop((peers, patient));
    server.wait_for("an empty server", |stats| stats.connections == 0);
    let stats = server.stats();
    assert_eq!(stats.opened, stats.closed);
    expect_echo(&mut server.open());
}

fn a_server_at_its_limit_can_be_stopped(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        server.workers(2).max_connections(3).websocket("/", |_| Probe)
    });
    let peers: Vec<Peer> = (0..3).map(|_| server.open()).collect();
    let waiting: Vec<Peer> = (0..4).map(|_| ask(server.connect())).collect();
    let stopping = server.handle.clone();
    stopping.shutdown(Duration::from_secs(10));
    for mut peer in peers {
        assert_eq!(peer.read_frame().close_code(), 1001);
        peer.send_frame(0x88, &1001_u16.to_be_bytes());
        peer.expect_end();
    }
    for mut peer in waiting {
        // The end of the listener resets them. Only a worker that learns of the shutdown after
        // another one's peers have gone may still accept one, and then answers as it should.
        let received = peer.read_to_end().unwrap_or_default();
        let close = b"\x88\x16\x03\xe9server shutting down";
        let served = received.starts_with(b"HTTP/1.1 101 ") && received.ends_with(close);
        let refused = received.starts_with(b"HTTP/1.1 503 ");
        assert!(received.is_empty() || served || refused, "{}", String::from_utf8_lossy(&received));
    }
    server.stop(Duration::from_secs(10)).expect("a clean end");
}
