//! A panic of the application costs one connection, wherever it happens, and nobody else anything.

mod common;

use common::{Peer, TestServer, frame, request};
use wirelane::{Close, CloseCode, Driver, Handler, Message, WebSocket};

on_every_driver!(
    a_panic_in_any_call_costs_one_connection,
    a_panic_of_a_session_costs_one_connection,
    a_panic_on_the_way_out_costs_nobody_else,
);

fn text(peer: &mut Peer) -> String {
    let frame = peer.read_frame();
    assert_eq!(frame.first, 0x81);
    String::from_utf8(frame.payload).expect("UTF-8")
}

/// Panics where the message says so; the session panics when it is made or dropped.
struct Panicker;

#[derive(Default)]
struct Bomb {
    armed: bool,
}

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(!self.armed, "asked for by the test");
    }
}

impl Handler for Panicker {
    type Session = Bomb;

    fn on_message(&mut self, ws: &mut WebSocket<'_, Bomb>, message: Message<'_>) {
        match message {
            Message::Text("panic") => panic!("asked for by the test"),
            Message::Text("panic closing") => {
                ws.close(CloseCode::NORMAL, "");
                panic!("asked for by the test");
            }
            Message::Text("panic terminated") => {
                ws.terminate();
                panic!("asked for by the test");
            }
            Message::Text("panic with value") => std::panic::panic_any(Bomb { armed: true }),
            Message::Text("arm") => ws.session_mut().armed = true,
            other => {
                ws.send(other);
            }
        }
    }

    fn on_ping(&mut self, _ws: &mut WebSocket<'_, Bomb>, payload: &[u8]) {
        assert_ne!(payload, b"panic", "asked for by the test");
    }

    fn on_pong(&mut self, _ws: &mut WebSocket<'_, Bomb>, payload: &[u8]) {
        assert_ne!(payload, b"panic", "asked for by the test");
    }

    fn on_close(&mut self, ws: &mut WebSocket<'_, Bomb>, close: Close<'_>) {
        // With an armed session both panic, one after the other.
        assert_ne!(close.reason, "panic", "asked for by the test, armed: {}", ws.session().armed);
    }
}

/// Panics when a connection opens.
struct Unwelcoming;

impl Handler for Unwelcoming {
    type Session = ();

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        ws.send("before the panic");
        panic!("asked for by the test");
    }

    fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {
        unreachable!("no message is delivered after a panic");
    }
}

/// A session that cannot be made.
struct Stillborn;

impl Default for Stillborn {
    fn default() -> Self {
        panic!("asked for by the test");
    }
}

struct Sterile;

impl Handler for Sterile {
    type Session = Stillborn;

    fn on_message(&mut self, _ws: &mut WebSocket<'_, Stillborn>, _message: Message<'_>) {
        unreachable!("there is no session");
    }
}

fn panicking(driver: Driver) -> (TestServer, Peer) {
    let server = TestServer::start(driver, |server| {
        server
            .websocket("/", |_| Panicker)
            .websocket("/open", |_| Unwelcoming)
            .websocket("/session", |_| Sterile)
    });
    let witness = server.open();
    (server, witness)
}

/// Nobody else was harmed, and every slot but the witness's comes back.
fn unharmed(server: &TestServer, witness: &mut Peer, panics: u64) {
    witness.send_text("unharmed");
    assert_eq!(text(witness), "unharmed");
    let stats = server
        .wait_for("the ends", |stats| stats.connections == 1 && stats.handler_panics == panics);
    assert_eq!(stats.opened, stats.closed + 1);
}

fn a_panic_in_any_call_costs_one_connection(driver: Driver) {
    let (server, mut witness) = panicking(driver);
    for first in [0x81, 0x89, 0x8a] {
        let mut peer = server.open();
        peer.send(&[frame(first, b"panic"), frame(0x81, b"not looked at")].concat());
        if first == 0x89 {
            assert_eq!(peer.read_frame().first, 0x8a);
        }
        peer.expect_close(1011);
    }
    let mut peer = server.connect();
    peer.send(&[request("/open"), frame(0x81, b"not delivered")].concat());
    assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
    assert_eq!(text(&mut peer), "before the panic");
    peer.expect_close(1011);
    drop(peer);
    for (how, code) in [("panic closing", 1000), ("panic with value", 1011)] {
        let mut peer = server.open();
        peer.send_text(how);
        peer.expect_close(code);
    }
    let mut peer = server.open();
    peer.send_text("panic terminated");
    // Cut, with or without a word.
    let _ = peer.read_to_end();
    drop(peer);
    unharmed(&server, &mut witness, 7);
}

fn a_panic_of_a_session_costs_one_connection(driver: Driver) {
    let (server, mut witness) = panicking(driver);
    for _ in 0..3 {
        let mut peer = server.connect();
        peer.send(&request("/session"));
        assert_eq!(peer.read_answer().status, 500);
    }
    unharmed(&server, &mut witness, 3);
}

fn a_panic_on_the_way_out_costs_nobody_else(driver: Driver) {
    let (server, mut witness) = panicking(driver);
    let close = |reason: &str| frame(0x88, &[&4000_u16.to_be_bytes(), reason.as_bytes()].concat());
    // In on_close, in the session's drop, and in both.
    for (arm, reason) in [(false, "panic"), (true, "calm"), (true, "panic")] {
        let mut peer = server.open();
        if arm {
            peer.send_text("arm");
        }
        peer.send(&close(reason));
        peer.expect_close(4000);
    }
    unharmed(&server, &mut witness, 3);
}
