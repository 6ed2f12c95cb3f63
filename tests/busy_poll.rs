//! A server with `busy_poll`: its workers do not sleep between messages that come soon, hear
//! everybody as before, and sleep when nothing happens.

mod common;

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use std::{fs, thread};

use common::child::{Program, command, run};
use common::{Echo, PATIENCE, Peer, TestServer};
use wirelane::{Driver, Error, Handler, Message, Server, WebSocket};

on_every_driver!(
    a_worker_does_not_sleep_between_messages,
    a_worker_sleeps_when_nothing_happens,
    everybody_is_heard_while_it_polls,
    the_examples_take_it,
);

/// Longer than the pauses of the tests, unless the machine is very busy.
const WINDOW: Duration = Duration::from_secs(1);

/// Says how often its worker has slept.
struct Sleeps;

impl Handler for Sleeps {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {
        let status = fs::read_to_string("/proc/thread-self/status").expect("procfs");
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        ws.send(line.expect("a line").trim());
    }
}

fn sleeps(peer: &mut Peer) -> u64 {
    peer.send_text("how often?");
    String::from_utf8(peer.read_frame().payload).expect("text").parse().expect("a number")
}

fn a_worker_does_not_sleep_between_messages(driver: Driver) {
    const MESSAGES: u64 = 20;
    let slept = |window| {
        let server =
            TestServer::start(driver, |server| server.busy_poll(window).websocket("/", |_| Sleeps));
        let mut peer = server.open();
        let before = sleeps(&mut peer);
        for _ in 0..MESSAGES {
            thread::sleep(Duration::from_millis(5));
            sleeps(&mut peer);
        }
        sleeps(&mut peer) - before
    };
    let polling = slept(WINDOW);
    assert!(polling < MESSAGES / 2, "{polling} sleeps in {MESSAGES} messages");
    assert_ne!(slept(Duration::ZERO), 0, "the figure says nothing");
}

fn a_worker_sleeps_when_nothing_happens(driver: Driver) {
    let window = Duration::from_millis(20);
    let server =
        TestServer::start(driver, |server| server.busy_poll(window).websocket("/", |_| Sleeps));
    let mut peer = server.open();
    let (before, start) = (sleeps(&mut peer), Instant::now());
    loop {
        thread::sleep(5 * window);
        if sleeps(&mut peer) > before {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "it polls for ever");
    }
}

fn everybody_is_heard_while_it_polls(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        server.workers(2).busy_poll(WINDOW / 20).websocket("/", |_| Echo)
    });
    let mut peers: Vec<Peer> = (0..4).map(|_| server.open()).collect();
    // Other threads, again and again while both workers poll.
    for round in 0..40 {
        let worker = round % 2;
        let (sender, told) = channel();
        let call = move |context: &mut wirelane::WorkerContext<'_>| {
            sender.send(context.worker()).expect("the test waits");
        };
        server.handle.run_on(worker, call).expect("room");
        assert_eq!(told.recv_timeout(PATIENCE), Ok(worker));
    }
    // Sockets, newcomers among them.
    for round in 0..5 {
        peers.push(server.open());
        for peer in &mut peers {
            peer.send_text(&round.to_string());
            assert_eq!(peer.read_frame().payload, round.to_string().as_bytes());
        }
    }
    // The end.
    server.handle.shutdown(PATIENCE);
    for peer in &mut peers {
        assert_eq!(peer.read_frame().close_code(), 1001);
        peer.send_frame(0x88, &1001_u16.to_be_bytes());
        peer.expect_end();
    }
    server.stop(PATIENCE).expect("a clean end");
}

fn the_examples_take_it(driver: Driver) {
    let program = Program::start("echo", driver, &["--busy-poll-us", "300"]);
    let mut peer = program.open();
    for text in ["a", "b"] {
        peer.send_text(text);
        assert_eq!(peer.read_frame().payload, text.as_bytes());
    }
    drop(peer);
    program.stop();
    let mut command = command("echo");
    command.args(["--listen", "127.0.0.1:0", "--busy-poll-us", "1000001"]);
    let output = run(command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && stderr.contains("busy_poll"), "{stderr}");
}

#[test]
fn more_than_a_second_is_a_mistake() {
    let server = Server::builder().listen("127.0.0.1:0").websocket("/", |_| Echo);
    match server.busy_poll(WINDOW + Duration::from_micros(1)).build() {
        Err(Error::Config { field, .. }) => assert_eq!(field, "busy_poll"),
        other => panic!("{other:?}"),
    }
}
