//! RFC 6455 7: every close has its code, its answer, its FIN and its one `on_close`.

mod common;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use common::{Echo, PATIENCE, TestServer, frame};
use wirelane::{Close, CloseCause, CloseCode, Driver, Handler, Message, WebSocket};

on_every_driver!(
    a_close_is_answered_with_the_same_code,
    an_empty_close_is_answered_empty,
    invalid_close_frames_are_refused,
    nothing_after_a_close_is_looked_at,
    the_application_can_close,
    a_peer_that_never_answers_is_cut,
    on_close_comes_exactly_once,
    terminate_cuts_at_once,
    a_handler_that_panics_costs_one_connection,
    a_shutdown_without_grace_still_says_so,
);

/// Reports every `on_close`; obeys commands.
struct Reporter {
    closes: Sender<(u16, String, CloseCause)>,
}

impl Handler for Reporter {
    type Session = u32;

    fn on_message(&mut self, ws: &mut WebSocket<'_, u32>, message: Message<'_>) {
        *ws.session_mut() += 1;
        match message {
            Message::Text("close") => {
                ws.close(CloseCode::new(4001).expect("a private code"), "as you wish");
                assert_eq!(ws.send("too late"), wirelane::SendStatus::Dropped);
            }
            Message::Text("terminate") => ws.terminate(),
            Message::Text("panic") => panic!("asked for by the test"),
            other => {
                ws.send(other);
            }
        }
    }

    fn on_close(&mut self, _ws: &mut WebSocket<'_, u32>, close: Close<'_>) {
        self.closes.send((close.code, close.reason.to_owned(), close.cause)).expect("test waits");
    }
}

fn reporting(
    driver: Driver,
    close_timeout: Duration,
) -> (TestServer, Receiver<(u16, String, CloseCause)>) {
    let (closes, reported) = channel();
    let server = TestServer::start(driver, |server| {
        server
            .close_timeout(close_timeout)
            .websocket("/", move |_| Reporter { closes: closes.clone() })
    });
    (server, reported)
}

fn a_close_is_answered_with_the_same_code(driver: Driver) {
    let (server, reported) = reporting(driver, PATIENCE);
    for code in [1000_u16, 1001, 1002, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
        let mut peer = server.open();
        let mut body = code.to_be_bytes().to_vec();
        body.extend_from_slice("bye ü".as_bytes());
        peer.send_frame(0x88, &body);
        peer.expect_close(code);
        let told = reported.recv_timeout(PATIENCE).expect("on_close");
        assert_eq!(told, (code, "bye ü".to_owned(), CloseCause::Peer));
    }
    server.wait_for("every slot to be free", |stats| stats.connections == 0);
}

fn an_empty_close_is_answered_empty(driver: Driver) {
    let (server, reported) = reporting(driver, PATIENCE);
    let mut peer = server.open();
    peer.send_frame(0x88, b"");
    assert_eq!(peer.read_frame().payload, b"");
    peer.expect_end();
    let told = reported.recv_timeout(PATIENCE).expect("on_close");
    assert_eq!(told, (1005, String::new(), CloseCause::Peer));
}

fn invalid_close_frames_are_refused(driver: Driver) {
    let server = TestServer::start(driver, |server| server.websocket("/", |_| Echo));
    let refused = [
        (&b"\x03"[..], 1002),
        (&[0, 0], 1002),
        (&999_u16.to_be_bytes(), 1002),
        (&1004_u16.to_be_bytes(), 1002),
        (&1005_u16.to_be_bytes(), 1002),
        (&1006_u16.to_be_bytes(), 1002),
        (&1015_u16.to_be_bytes(), 1002),
        (&1016_u16.to_be_bytes(), 1002),
        (&2999_u16.to_be_bytes(), 1002),
        (&5000_u16.to_be_bytes(), 1002),
        (b"\x03\xe8\xff", 1007),
    ];
    for (body, code) in refused {
        let mut peer = server.open();
        peer.send_frame(0x88, body);
        peer.expect_close(code);
    }
}

fn nothing_after_a_close_is_looked_at(driver: Driver) {
    let (server, reported) = reporting(driver, PATIENCE);
    let mut peer = server.open();
    let mut bytes = frame(0x81, b"before");
    bytes.extend(frame(0x88, &1000_u16.to_be_bytes()));
    bytes.extend(frame(0x81, b"after"));
    bytes.extend(frame(0x89, b"ping"));
    bytes.extend(b"\xff\xff garbage");
    peer.send(&bytes);
    assert_eq!(peer.read_frame().payload, b"before");
    peer.expect_close(1000);
    assert_eq!(reported.recv_timeout(PATIENCE).expect("on_close").2, CloseCause::Peer);
    drop(peer);
    server.wait_for("the slot to be free", |stats| stats.connections == 0);
    assert!(reported.try_recv().is_err(), "on_close came twice");
}

fn the_application_can_close(driver: Driver) {
    let (server, reported) = reporting(driver, PATIENCE);
    let mut peer = server.open();
    peer.send_text("close");
    let close = peer.read_frame();
    assert_eq!((close.close_code(), &close.payload[2..]), (4001, &b"as you wish"[..]));
    peer.send_text("discarded");
    peer.send_frame(0x88, &4001_u16.to_be_bytes());
    peer.expect_end();
    let told = reported.recv_timeout(PATIENCE).expect("on_close");
    assert_eq!(told, (4001, String::new(), CloseCause::Local));
}

fn a_peer_that_never_answers_is_cut(driver: Driver) {
    let (server, reported) = reporting(driver, Duration::from_millis(50));
    let mut peer = server.open();
    peer.send_text("close");
    assert_eq!(peer.read_frame().close_code(), 4001);
    let told = reported.recv_timeout(PATIENCE).expect("on_close");
    assert_eq!(told, (1006, String::new(), CloseCause::CloseTimeout));
    assert_eq!(peer.read_to_end().unwrap_or_default(), b"");
    server.wait_for("the slot to be free", |stats| stats.connections == 0);
}

fn on_close_comes_exactly_once(driver: Driver) {
    let (server, reported) = reporting(driver, PATIENCE);
    let mut count = 0;
    for round in 0..40 {
        let mut peer = server.open();
        match round % 4 {
            0 => peer.reset(),
            1 => peer.finish(),
            2 => peer.send_frame(0x88, &1000_u16.to_be_bytes()),
            _ => peer.send(&[0xff]),
        }
        count += 1;
        let (code, reason, cause) = reported.recv_timeout(PATIENCE).expect("on_close");
        match round % 4 {
            0 => assert!(
                matches!(cause, CloseCause::Io(_)) && code == 1006,
                "a reset: {cause:?} {code}"
            ),
            1 => assert_eq!((code, cause), (1006, CloseCause::Ended)),
            2 => assert_eq!((code, cause), (1000, CloseCause::Peer)),
            _ => {
                assert!(matches!(cause, CloseCause::Protocol(_)) && code == 1002, "{cause:?}");
                assert_eq!(reason, "reserved bit set", "what the peer was told");
            }
        }
    }
    let stats = server.wait_for("every slot to be free", |stats| stats.connections == 0);
    assert_eq!((stats.opened, stats.closed), (count, count));
    assert!(reported.try_recv().is_err(), "on_close came twice");
}

fn terminate_cuts_at_once(driver: Driver) {
    let (server, reported) = reporting(driver, PATIENCE);
    let mut peer = server.open();
    let mut bytes = frame(0x81, b"terminate");
    bytes.extend(frame(0x81, b"never delivered"));
    peer.send(&bytes);
    let told = reported.recv_timeout(PATIENCE).expect("on_close");
    assert_eq!(told, (1006, String::new(), CloseCause::Terminated));
    assert_eq!(peer.read_to_end().unwrap_or_default(), b"");
    assert_eq!(server.wait_for("the end", |s| s.connections == 0).messages_received, 1);
}

fn a_handler_that_panics_costs_one_connection(driver: Driver) {
    let (server, reported) = reporting(driver, PATIENCE);
    let mut witness = server.open();
    let mut peer = server.open();
    peer.send_text("panic");
    peer.expect_close(1011);
    let told = reported.recv_timeout(PATIENCE).expect("on_close");
    assert_eq!((told.0, told.2), (1011, CloseCause::HandlerPanicked));
    witness.send_text("alive");
    assert_eq!(witness.read_frame().payload, b"alive");
    assert_eq!(server.stats().handler_panics, 1);
}

fn a_shutdown_without_grace_still_says_so(driver: Driver) {
    let server = TestServer::start(driver, |server| server.websocket("/", |_| Echo));
    let mut peer = server.open();
    server.stop(Duration::ZERO).expect("a clean end");
    // RFC 6455 7.4.1: 1001 is for a server going down.
    peer.expect_close(1001);
}
