//! permessage-deflate from outside (RFC 7692): negotiation, compressed messages in both
//! directions, and what bad input gets, on both drivers.
#![cfg(feature = "deflate")]

#[path = "common/codec.rs"]
mod codec;
mod common;

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use codec::{deflate, deflated, inflate, inflated, json};
use common::{Echo, PATIENCE, Peer, TestServer, frame};
use flate2::{Compress, Compression, Decompress};
use wirelane::client::{Client, Dial, DialId, DialResponse};
use wirelane::{
    Deflate, Driver, Fragment, Handler, Limits, Message, RouteOptions, SendOptions, WebSocket,
};

on_every_driver!(
    a_compressed_echo_shrinks,
    every_route_has_its_mode,
    offers_are_judged_one_by_one,
    bad_input_gets_its_code,
    a_bomb_ends_at_the_limit,
    many_bombs_at_once_do_not_keep_others_waiting,
    compressed_messages_come_in_parts_to_clients_too,
    compression_can_be_overridden,
    published_messages_fit_into_every_window,
    compressed_messages_come_in_parts,
    many_bombs_below_the_limit_all_count,
);

/// Opens a connection with this offer and gives what the server answered to it.
fn open(server: &TestServer, path: &str, offer: &str) -> (Peer, Option<String>) {
    let mut peer = server.connect();
    let request = String::from_utf8(common::request(path)).expect("ASCII");
    let offer = format!("Sec-WebSocket-Extensions: {offer}\r\n\r\n");
    peer.send(request.replacen("\r\n\r\n", &format!("\r\n{offer}"), 1).as_bytes());
    let head = peer.read_head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let answer = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: "));
    (peer, answer.map(str::to_owned))
}

fn a_compressed_echo_shrinks(driver: Driver) {
    for (settings, takeover) in [(Deflate::shared(), false), (Deflate::dedicated(15), true)] {
        let server =
            TestServer::start(driver, |builder| builder.deflate(settings).websocket("/", |_| Echo));
        let (mut peer, answer) = open(&server, "/", "permessage-deflate");
        let expected = match takeover {
            false => "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            true => "permessage-deflate",
        };
        assert_eq!(answer.as_deref(), Some(expected));

        let mut compress = Compress::new(Compression::new(6), false);
        let mut decompress = Decompress::new(false);
        let mut sizes = Vec::new();
        for len in [1000, 1000, 64, 100_000, 1_000_000] {
            let message = json(len);
            if !takeover {
                compress.reset();
                decompress.reset(false);
            }
            peer.send_frame(0xC1, &deflate(&mut compress, &message));
            let echo = peer.read_frame();
            assert_eq!(echo.first, 0xC1, "{len}");
            sizes.push(echo.payload.len());
            assert_eq!(inflate(&mut decompress, &echo.payload), message);
        }
        assert!(sizes[0] < 500 && sizes[3] < 50_000 && sizes[4] < 500_000, "{sizes:?}");
        match takeover {
            false => assert_eq!(sizes[0], sizes[1]),
            true => assert!(sizes[1] < 50, "{sizes:?}"),
        }
        // Below the threshold, and what arrives as it is.
        peer.send_frame(0xC1, &deflated(b"short"));
        assert_eq!(peer.read_frame().payload, b"short");
        // Fragments with a ping in between.
        compress.reset();
        let message = deflated(&json(500));
        if !takeover {
            peer.send_frame(0x41, &message[..10]);
            peer.send_frame(0x89, b"ping");
            peer.send_frame(0x80, &message[10..]);
            assert_eq!(peer.read_frame().payload, b"ping");
            assert_eq!(inflated(&peer.read_frame().payload), json(500));
        }
        peer.send_frame(0x88, &[3, 232]);
        peer.expect_close(1000);
    }
}

fn every_route_has_its_mode(driver: Driver) {
    let server = TestServer::start(driver, |builder| {
        let route = |settings| RouteOptions::new().deflate(settings);
        builder
            .deflate(Deflate::shared())
            .websocket("/", |_| Echo)
            .websocket_with("/off", route(Deflate::off()), |_| Echo)
            .websocket_with("/dedicated", route(Deflate::dedicated(10)), |_| Echo)
            .websocket_with("/mixed", route(Deflate::dedicated(15).shared_decompressor()), |_| Echo)
    });
    let offer = "permessage-deflate; client_max_window_bits";
    let answer = |path| open(&server, path, offer).1;
    let shared = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    assert_eq!(answer("/").as_deref(), Some(shared));
    assert_eq!(answer("/off"), None);
    let dedicated = "permessage-deflate; server_max_window_bits=10; client_max_window_bits=10";
    assert_eq!(answer("/dedicated").as_deref(), Some(dedicated));
    let mixed = "permessage-deflate; client_no_context_takeover";
    assert_eq!(answer("/mixed").as_deref(), Some(mixed));
}

fn offers_are_judged_one_by_one(driver: Driver) {
    let server = TestServer::start(driver, |builder| {
        builder.deflate(Deflate::dedicated(15)).websocket("/", |_| Echo)
    });
    let pmd = "permessage-deflate";
    for (offer, expected) in [
        ("permessage-deflate", Some("")),
        ("x-webkit-deflate-frame, permessage-deflate", Some("")),
        ("permessage-deflate; unknown, permessage-deflate", Some("")),
        ("permessage-deflate; server_no_context_takeover", Some("; server_no_context_takeover")),
        ("permessage-deflate; client_no_context_takeover", Some("")),
        ("permessage-deflate; server_max_window_bits=\"9\"", Some("; server_max_window_bits=9")),
        ("permessage-deflate; server_max_window_bits=15", Some("; server_max_window_bits=15")),
        ("permessage-deflate; client_max_window_bits=9", Some("; client_max_window_bits=9")),
        ("permessage-deflate; client_max_window_bits", Some("")),
        (
            "permessage-deflate; server_max_window_bits=8, permessage-deflate; \
             server_max_window_bits=10",
            Some("; server_max_window_bits=10"),
        ),
        ("permessage-deflate; server_max_window_bits=8", None),
        ("permessage-deflate; server_max_window_bits=16", None),
        ("permessage-deflate; server_max_window_bits=09", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; client_max_window_bits=7", None),
        ("permessage-deflate; client_max_window_bits=", None),
        ("permessage-deflate; server_no_context_takeover=1", None),
        ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
        ("permessage-deflate; client_max_window_bits; client_max_window_bits=9", None),
        ("permessage-deflate; __proto__", None),
        ("permessage-bzip2", None),
    ] {
        if offer.ends_with('=') {
            // Not in the grammar of RFC 6455 9.1: the request is refused.
            let mut peer = server.connect();
            let request = String::from_utf8(common::request("/")).expect("ASCII");
            let lines = format!("\r\nSec-WebSocket-Extensions: {offer}\r\n\r\n");
            peer.send(request.replacen("\r\n\r\n", &lines, 1).as_bytes());
            assert_eq!(peer.read_answer().status, 400);
            continue;
        }
        let (_peer, answer) = open(&server, "/", offer);
        let expected = expected.map(|parameters| format!("{pmd}{parameters}"));
        assert_eq!(answer, expected, "{offer}");
    }
}

fn bad_input_gets_its_code(driver: Driver) {
    let server = TestServer::start(driver, |builder| {
        builder.deflate(Deflate::shared()).websocket("/", |_| Echo)
    });
    let hello = deflated(b"Hello");
    let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    for (bytes, code) in [
        (frame(0xC1, &[0x07]), 1007),
        (frame(0xC1, &deflated(b"\xff")), 1007),
        (frame(0xC1, &[&last[..], &last].concat()), 1002),
        (frame(0xC9, b""), 1002),
        ([frame(0x41, &hello), frame(0xC0, b"")].concat(), 1002),
        (frame(0xA1, &hello), 1002),
    ] {
        let (mut peer, _) = open(&server, "/", "permessage-deflate");
        peer.send(&bytes);
        peer.expect_close(code);
    }
    // Not agreed on.
    let mut peer = server.open();
    peer.send(&frame(0xC1, &hello));
    peer.expect_close(1002);
}

fn a_bomb_ends_at_the_limit(driver: Driver) {
    let max = 1 << 20;
    let server = TestServer::start(driver, |builder| {
        let limits = Limits::new().max_message(max);
        builder.limits(limits).deflate(Deflate::shared()).websocket("/", |_| Echo)
    });
    let bomb = deflated(&vec![0; 64 << 20]);
    let (mut peer, _) = open(&server, "/", "permessage-deflate");
    peer.send(&frame(0xC2, &bomb));
    peer.expect_close(1009);
    let (mut peer, _) = open(&server, "/", "permessage-deflate");
    peer.send(&frame(0xC2, &deflated(&vec![0; max as usize])));
    let echo = peer.read_frame();
    assert_eq!(inflated(&echo.payload).len(), max as usize);
}

/// Says who has sent what, and waits with the first message until it may go on.
struct Ordered {
    begun: Sender<usize>,
    may_go: Option<Receiver<()>>,
}

impl Handler for Ordered {
    type Session = ();

    fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        self.begun.send(message.len()).expect("the test waits");
        if let Some(may_go) = self.may_go.take() {
            may_go.recv_timeout(PATIENCE).expect("the test goes on");
        }
    }
}

fn many_bombs_at_once_do_not_keep_others_waiting(driver: Driver) {
    const COUNT: usize = 40;
    const OTHERS: usize = 40;
    const LEN: usize = 1 << 20;
    let (begun, begins) = channel();
    let (go, may_go) = channel();
    let may_go = Mutex::new(Some(may_go));
    let server = TestServer::start(driver, |builder| {
        builder.workers(1).deflate(Deflate::shared()).websocket("/", move |_| Ordered {
            begun: begun.clone(),
            may_go: may_go.lock().expect("no panic").take(),
        })
    });
    let (mut greedy, _) = open(&server, "/", "permessage-deflate");
    let mut other = server.open();
    greedy.send(&frame(0xC2, &deflated(&vec![0; LEN])).repeat(COUNT));
    assert_eq!(begins.recv_timeout(PATIENCE), Ok(LEN));
    for _ in 0..OTHERS {
        other.send_text("other");
    }
    go.send(()).expect("the handler waits");
    let order: Vec<usize> =
        (1..COUNT + OTHERS).map(|_| begins.recv_timeout(PATIENCE).expect("in time")).collect();
    // All of its messages, not one in each turn.
    let place = order.iter().rposition(|len| *len == 5).expect("it was served");
    assert!(place < OTHERS + COUNT / 2, "{place} messages went before its last one");
    // Nothing is left behind, not even by whoever ends its side in between.
    greedy.send(&frame(0xC2, &deflated(&vec![0; LEN])).repeat(COUNT));
    greedy.finish();
    for _ in 0..COUNT {
        assert_eq!(begins.recv_timeout(PATIENCE), Ok(LEN));
    }
    greedy.expect_end();
}

/// Says what it got, whole.
struct Parts {
    said: String,
    got: Sender<String>,
}

impl Handler for Parts {
    type Session = Option<DialId>;
    const STREAM: bool = true;

    fn on_connect(&mut self, dial: DialId, _: &DialResponse) -> Option<Option<DialId>> {
        Some(Some(dial))
    }

    fn on_open(&mut self, ws: &mut WebSocket<'_, Option<DialId>>) {
        assert!(ws.deflate().is_some());
        ws.send(&*self.said);
    }

    fn on_fragment(&mut self, _: &mut WebSocket<'_, Option<DialId>>, fragment: Fragment<'_>) {
        if let Message::Text(text) = fragment.payload {
            self.got.send(text.to_owned()).expect("the test waits");
        }
    }

    fn on_message(&mut self, _: &mut WebSocket<'_, Option<DialId>>, _: Message<'_>) {
        panic!("messages come in parts");
    }
}

fn compressed_messages_come_in_parts_to_clients_too(driver: Driver) {
    let server = TestServer::start(driver, |builder| {
        builder.deflate(Deflate::shared()).websocket("/", |_| Echo)
    });
    let client = Client::builder().driver(driver).start().expect("possible settings");
    let (got, said) = (channel(), "again and again ".repeat(100));
    let dial = Dial::to(format!("ws://{}/", server.addr)).deflate(Deflate::shared());
    client.connect(&dial, Parts { said: said.clone(), got: got.0 }).expect("a good dial");
    let mut whole = String::new();
    while whole.len() < said.len() {
        whole += &got.1.recv_timeout(PATIENCE).expect("an echo");
    }
    assert_eq!(whole, said);
}

/// Answers the first byte of a message with a message that is sent as it says.
struct AsTold;

impl Handler for AsTold {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        let options = match message.payload().first() {
            Some(b'n') => SendOptions::new().compress(false),
            Some(b'y') => SendOptions::new().compress(true),
            _ => SendOptions::new(),
        };
        assert_eq!(ws.deflate().is_some(), message.payload().ends_with(b"!"));
        ws.send_with(message, options);
    }
}

fn compression_can_be_overridden(driver: Driver) {
    let server = TestServer::start(driver, |builder| {
        builder.deflate(Deflate::shared().threshold(100)).websocket("/", |_| AsTold)
    });
    let (mut peer, _) = open(&server, "/", "permessage-deflate");
    let text = |first: u8, len: usize| {
        let mut text = vec![first; len];
        text[len - 1] = b'!';
        text
    };
    for (first, len, compressed) in
        [(b'n', 1000, false), (b'y', 50, true), (b'x', 50, false), (b'x', 100, true)]
    {
        let message = text(first, len);
        peer.send_frame(0xC1, &deflated(&message));
        let echo = peer.read_frame();
        assert_eq!(echo.first == 0xC1, compressed, "{first} {len}");
        let payload = if compressed { inflated(&echo.payload) } else { echo.payload };
        assert_eq!(payload, message);
    }
    // Without compression no option can bring it about.
    let mut peer = server.open();
    peer.send_text("yes, please");
    assert_eq!(peer.read_frame().first, 0x81);
}

/// Answers "publish" with two messages of its own and one to the whole room in between.
struct Room;

impl Handler for Room {
    type Session = ();

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        ws.subscribe("room").expect("one topic");
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        let own = json(500);
        let size = if message.payload() == b"long" { 5000 } else { 600 };
        let published = json(size);
        let prepared = wirelane::PreparedMessage::binary(&published);
        ws.send(&own[..]);
        ws.publish_to_all("room", &published[..]);
        ws.send(&own[..]);
        ws.publish_to_all("room", &prepared);
        ws.send_prepared(&prepared);
        ws.publish_to_all("room", wirelane::Publication::from(&published[..]).compress(false));
        ws.send(&own[..]);
    }
}

fn published_messages_fit_into_every_window(driver: Driver) {
    let server = TestServer::start(driver, |builder| {
        let dedicated = RouteOptions::new().deflate(Deflate::dedicated(15));
        let small = RouteOptions::new().deflate(Deflate::dedicated(9).level(6));
        let shared = RouteOptions::new().deflate(Deflate::shared());
        builder
            .websocket("/", |_| Room)
            .websocket_with("/shared", shared, |_| Room)
            .websocket_with("/dedicated", dedicated, |_| Room)
            .websocket_with("/small", small, |_| Room)
    });
    for (word, size) in [("short", 600), ("long", 5000)] {
        for path in ["/", "/shared", "/dedicated", "/small"] {
            let takeover = matches!(path, "/dedicated" | "/small");
            let offer = if path == "/" { "none" } else { "permessage-deflate" };
            let (mut listener, _) = open(&server, "/", "permessage-deflate");
            let (mut peer, _) = open(&server, path, offer);
            peer.send_text(word);
            let mut decoder = Decompress::new(false);
            let mut read = |peer: &mut Peer, compressed: bool| {
                let frame = peer.read_frame();
                assert_eq!(frame.first, if compressed { 0xC2 } else { 0x82 }, "{path}");
                if !compressed {
                    return frame.payload;
                }
                if !takeover {
                    decoder.reset(false);
                }
                inflate(&mut decoder, &frame.payload)
            };
            let compressed = path != "/";
            for expected in [500, size, 500, size, size] {
                assert_eq!(read(&mut peer, compressed), json(expected), "{path}");
            }
            assert_eq!(read(&mut peer, false), json(size));
            assert_eq!(read(&mut peer, compressed), json(500));
            // Whoever has no compression gets the same.
            for _ in 0..3 {
                let frame = listener.read_frame();
                assert_eq!((frame.first, frame.payload), (0x82, json(size)));
            }
        }
    }
}

/// Answers a message with its length, once it has come in parts.
struct Counted;

impl Handler for Counted {
    type Session = usize;

    const STREAM: bool = true;

    fn on_message(&mut self, _ws: &mut WebSocket<'_, usize>, _message: Message<'_>) {
        unreachable!("messages come in parts");
    }

    fn on_fragment(&mut self, ws: &mut WebSocket<'_, usize>, fragment: Fragment<'_>) {
        assert!(fragment.payload.len() <= 16 * 1024);
        *ws.session_mut() += fragment.payload.len();
        if fragment.last {
            let len = std::mem::take(ws.session_mut());
            ws.send(&len.to_string());
        }
    }
}

fn compressed_messages_come_in_parts(driver: Driver) {
    let server = TestServer::start(driver, |builder| {
        builder
            .limits(Limits::new().max_message(1000))
            .deflate(Deflate::dedicated(15))
            .websocket("/", |_| Counted)
    });
    let (mut peer, _) = open(&server, "/", "permessage-deflate");
    let mut compress = Compress::new(Compression::new(6), false);
    for len in [0, 1, 100_000, 30_000_000] {
        peer.send_frame(0xC2, &deflate(&mut compress, &vec![7; len]));
        assert_eq!(peer.read_frame().payload, len.to_string().as_bytes());
    }
}

/// Answers each message with its length.
struct Lengths;

impl Handler for Lengths {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        ws.send(&message.len().to_string());
    }
}

fn many_bombs_below_the_limit_all_count(driver: Driver) {
    let server = TestServer::start(driver, |builder| {
        let limits = Limits::new().max_message(4 << 20);
        builder.limits(limits).deflate(Deflate::shared()).websocket("/", |_| Lengths)
    });
    let bomb = frame(0xC2, &deflated(&vec![0; 3 << 20]));
    let (mut peer, _) = open(&server, "/", "permessage-deflate");
    let (mut other, _) = open(&server, "/", "permessage-deflate");
    // Far more than one turn inflates, in one segment.
    peer.send(&[&bomb.repeat(12)[..], &frame(0x81, b"end"), &frame(0x88, b"\x03\xe8")].concat());
    other.send_text("me, too");
    assert_eq!(other.read_frame().payload, b"7");
    for _ in 0..12 {
        assert_eq!(peer.read_frame().payload, b"3145728");
    }
    assert_eq!(peer.read_frame().payload, b"3");
    peer.expect_close(1000);
}
