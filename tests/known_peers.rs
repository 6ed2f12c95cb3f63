//! What a handler knows of its peer, asked by the peer itself: address, headers, pings and pongs, and
//! how much waits for it.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

use common::{PATIENCE, Peer, TestServer, frame, request};
use wirelane::{
    Driver, Handler, Message, PreparedMessage, SendError, SendStatus, Upgrade, UpgradeRequest,
    WebSocket,
};

on_every_driver!(
    the_address_is_that_of_the_peer,
    a_unix_peer_has_no_address,
    repeated_headers_are_all_seen,
    pings_and_pongs_are_told_with_their_payload,
    what_waits_is_known_while_it_waits,
    a_prepared_message_reaches_one_connection,
);

/// Says what it is asked.
struct Mirror;

impl Handler for Mirror {
    /// The values of every X-Thing line, in their order.
    type Session = Vec<String>;

    fn on_upgrade(&mut self, request: &UpgradeRequest<'_>) -> Upgrade<Vec<String>> {
        let values = request.header_values("x-thing").map(String::from_utf8_lossy);
        Upgrade::accept(values.map(|value| value.into_owned()).collect())
    }

    fn on_open(&mut self, ws: &mut WebSocket<'_, Vec<String>>) {
        ws.send("hello");
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, Vec<String>>, message: Message<'_>) {
        match message {
            Message::Text("address") => {
                ws.send(&format!("{:?}", ws.peer_addr()));
            }
            Message::Text("things") => {
                ws.send(&ws.session().join("|"));
            }
            Message::Text("ping me") => _ = ws.ping(b"are you there?"),
            Message::Text("flood") => {
                let payload = vec![7; 100_000];
                assert_eq!(ws.buffered_amount(), 0);
                let mut waiting = 0;
                loop {
                    let status = ws.send(&payload);
                    assert!(ws.buffered_amount() >= waiting, "it only grows within a call");
                    waiting = ws.buffered_amount();
                    match status {
                        SendStatus::Sent => {}
                        SendStatus::Queued => assert!(waiting > 0),
                        SendStatus::Dropped => break,
                    }
                }
                assert!(waiting > 0 && waiting <= LIMIT + payload.len(), "{waiting}");
            }
            Message::Text("after the flood") => {
                ws.send(&format!("{}", ws.buffered_amount()));
            }
            message => _ = ws.send(message),
        }
    }

    fn on_ping(&mut self, ws: &mut WebSocket<'_, Vec<String>>, payload: &[u8]) {
        ws.send(&format!("ping {}", String::from_utf8_lossy(payload)));
    }

    fn on_pong(&mut self, ws: &mut WebSocket<'_, Vec<String>>, payload: &[u8]) {
        ws.send(&format!("pong {}", String::from_utf8_lossy(payload)));
    }
}

const LIMIT: usize = 1_000_000;

fn start(driver: Driver) -> TestServer {
    TestServer::start(driver, |server| {
        server.max_backpressure(LIMIT).websocket("/", |_worker| Mirror)
    })
}

fn text(peer: &mut Peer) -> String {
    String::from_utf8(peer.read_frame().payload).expect("text")
}

fn open(server: &TestServer) -> Peer {
    let mut peer = server.open();
    assert_eq!(text(&mut peer), "hello");
    peer
}

fn the_address_is_that_of_the_peer(driver: Driver) {
    let server = start(driver);
    for _ in 0..3 {
        let mut peer = open(&server);
        peer.send_text("address");
        let address = peer.stream.local_addr().expect("bound");
        assert_eq!(text(&mut peer), format!("Some({address})"));
    }
}

fn a_unix_peer_has_no_address(driver: Driver) {
    let name = format!("wirelane-peers-{}-{driver}.sock", std::process::id());
    let path = std::env::temp_dir().join(name);
    let listen = format!("unix:{}", path.display());
    let server = TestServer::start(driver, |server| {
        server.listen(listen.as_str()).websocket("/", |_worker| Mirror)
    });
    let mut stream = UnixStream::connect(&path).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(&request("/")).expect("the server reads");
    stream.write_all(&frame(0x81, b"address")).expect("the server reads");
    let mut received = Vec::new();
    while !received.ends_with(b"\x81\x05hello\x81\x04None") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("more bytes in time");
        received.push(byte[0]);
    }
    drop(stream);
    drop(server);
    assert!(!path.exists());
}

fn repeated_headers_are_all_seen(driver: Driver) {
    let server = start(driver);
    let mut peer = server.connect();
    let request = String::from_utf8(request("/")).expect("ASCII");
    let lines = "X-Thing: one\r\nx-thing:two, three \r\nX-Things: no\r\nX-THING:\r\n";
    peer.send(format!("{}\r\n{lines}\r\n", request.trim_end()).as_bytes());
    peer.read_head();
    assert_eq!(text(&mut peer), "hello");
    peer.send_text("things");
    assert_eq!(text(&mut peer), "one|two, three|");
}

fn pings_and_pongs_are_told_with_their_payload(driver: Driver) {
    let server = start(driver);
    let mut peer = open(&server);
    for payload in ["", "abc", &"x".repeat(125)] {
        peer.send_frame(0x89, payload.as_bytes());
        // The pong first: it was queued before the handler was told.
        let pong = peer.read_frame();
        assert_eq!((pong.first, &pong.payload[..]), (0x8A, payload.as_bytes()));
        assert_eq!(text(&mut peer), format!("ping {payload}"));
        peer.send_frame(0x8A, payload.as_bytes());
        assert_eq!(text(&mut peer), format!("pong {payload}"));
    }
    peer.send_text("ping me");
    let ping = peer.read_frame();
    assert_eq!((ping.first, &ping.payload[..]), (0x89, &b"are you there?"[..]));
}

fn what_waits_is_known_while_it_waits(driver: Driver) {
    let server = start(driver);
    let mut peer = open(&server);
    peer.send_text("flood");
    let waiting = server.wait_for("a queue", |stats| stats.buffered_bytes > 0).buffered_bytes;
    assert!(waiting <= (LIMIT + 100_000) as u64, "{waiting}");
    // Reading it all empties the queue.
    server.wait_for("a drop", |stats| stats.dropped == 1);
    let sent = server.stats().messages_sent - 1;
    for _ in 0..sent {
        assert_eq!(peer.read_frame().payload.len(), 100_000);
    }
    peer.send_text("after the flood");
    assert_eq!(text(&mut peer), "0");
}

/// Sends what it gets to the first connection, prepared.
struct ToTheFirst {
    first: Option<wirelane::ConnectionId>,
    told: mpsc::Sender<Result<SendStatus, SendError>>,
}

impl Handler for ToTheFirst {
    type Session = ();

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        self.first.get_or_insert(ws.id());
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        let Some(first) = self.first else { return };
        let sent = ws.send_prepared_to(first, &PreparedMessage::new(message));
        self.told.send(sent).expect("the test waits");
    }
}

fn a_prepared_message_reaches_one_connection(driver: Driver) {
    let (told, results) = mpsc::channel();
    let server = TestServer::start(driver, |server| {
        server.websocket("/", move |_worker| ToTheFirst { first: None, told: told.clone() })
    });
    let next = || results.recv_timeout(PATIENCE).expect("a message was sent");
    let mut first = server.open();
    // Nobody else's `on_open` may come first.
    first.send_text("to myself");
    assert_eq!((next(), text(&mut first)), (Ok(SendStatus::Sent), "to myself".to_owned()));
    let mut second = server.open();
    for len in [0, 1000, 70_000] {
        second.send_frame(0x82, &vec![b'b'; len]);
        assert_eq!(next(), Ok(SendStatus::Sent));
        let frame = first.read_frame();
        assert!(frame.first == 0x82 && frame.payload == vec![b'b'; len], "{len} bytes");
    }
    drop(first);
    server.wait_for("the end of the first", |stats| stats.closed == 1);
    second.send_text("to nobody");
    assert_eq!(next(), Err(SendError::Gone));
}
