//! permessage-deflate inside TLS: compressed messages in records that are cut anywhere, from a peer
//! and from both clients, on both drivers.
#![cfg(feature = "deflate")]

#[path = "common/codec.rs"]
mod codec;
mod common;
#[path = "common/tls.rs"]
mod tls;

use std::io::Write;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use codec::{deflate, deflated, inflate, json};
use common::{Echo, PATIENCE, TestServer, frame, request};
use flate2::{Compress, Compression, Decompress};
use tls::{TlsPeer, authority, client_config, server_tls};
use wirelane::client::blocking::{Client as BlockingClient, ClientError, Received};
use wirelane::client::{Client, Dial, DialId, DialResponse};
use wirelane::protocol::ProtocolError;
use wirelane::tls::ClientTls;
use wirelane::{Close, CloseCode, Deflate, Driver, Handler, Limits, Message, WebSocket};

on_every_driver!(
    messages_are_compressed_both_ways,
    fragments_may_have_pings_in_between,
    records_may_be_cut_anywhere,
    a_bomb_ends_at_the_limit,
    the_blocking_client_compresses,
    the_clients_of_workers_compress,
    the_blocking_client_stops_a_bomb,
    the_clients_of_workers_stop_a_bomb,
);

const MODES: [(Deflate, bool); 2] = [(Deflate::shared(), false), (Deflate::dedicated(15), true)];

fn start(driver: Driver, settings: Deflate) -> TestServer {
    TestServer::start(driver, |server| {
        server.tls(server_tls()).deflate(settings).websocket("/", |_| Echo)
    })
}

fn url(server: &TestServer) -> String {
    format!("wss://localhost:{}/", server.addr.port())
}

fn trusting() -> ClientTls {
    ClientTls::new(authority().roots()).expect("settings")
}

/// A request that offers compression.
fn offer() -> Vec<u8> {
    let request = String::from_utf8(request("/")).expect("ASCII");
    let line = "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
    request.replacen("\r\n\r\n", line, 1).into_bytes()
}

/// A connection on which compression was agreed on.
fn open(server: &TestServer) -> TlsPeer {
    let mut peer = TlsPeer::connect(server.addr);
    peer.send(&offer());
    expect_agreement(&mut peer);
    peer
}

fn expect_agreement(peer: &mut TlsPeer) {
    let head = peer.read_head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("Sec-WebSocket-Extensions: permessage-deflate"), "{head}");
}

/// Both directions of a peer, with or without context takeover.
struct Codecs {
    compress: Compress,
    decompress: Decompress,
    takeover: bool,
}

impl Codecs {
    fn new(takeover: bool) -> Codecs {
        let compress = Compress::new(Compression::new(6), false);
        Codecs { compress, decompress: Decompress::new(false), takeover }
    }

    fn deflate(&mut self, message: &[u8]) -> Vec<u8> {
        if !self.takeover {
            self.compress.reset();
        }
        deflate(&mut self.compress, message)
    }

    fn expect(&mut self, peer: &mut TlsPeer, message: &[u8]) -> usize {
        let frame = peer.read_frame();
        assert_eq!(frame.first, 0xC1);
        if !self.takeover {
            self.decompress.reset(false);
        }
        assert!(inflate(&mut self.decompress, &frame.payload) == message, "another message");
        frame.payload.len()
    }
}

fn messages_are_compressed_both_ways(driver: Driver) {
    for (settings, takeover) in MODES {
        let server = start(driver, settings);
        let mut peer = open(&server);
        let mut codecs = Codecs::new(takeover);
        let mut sizes = Vec::new();
        for len in [1000, 1000, 64, 16_384, 200_000, 1_000_000] {
            let message = json(len);
            let compressed = codecs.deflate(&message);
            peer.send_frame(0xC1, &compressed);
            sizes.push(codecs.expect(&mut peer, &message));
        }
        assert!(sizes[0] < 600 && sizes[5] < 500_000, "{sizes:?}");
        // The second one differs in nothing from the first.
        assert_eq!(sizes[1] < 50, takeover, "{sizes:?}");
        peer.send_frame(0x88, &[3, 232]);
        assert_eq!(peer.read_frame().close_code(), 1000);
        assert!(peer.read_to_end().expect("FIN, not a reset"), "close_notify comes first");
    }
}

fn fragments_may_have_pings_in_between(driver: Driver) {
    for (settings, takeover) in MODES {
        let server = start(driver, settings);
        let mut peer = open(&server);
        let mut codecs = Codecs::new(takeover);
        for len in [500, 100_000] {
            let message = json(len);
            let compressed = codecs.deflate(&message);
            let (first, rest) = compressed.split_at(compressed.len() / 3);
            let (second, last) = rest.split_at(1);
            peer.send_frame(0x41, first);
            peer.send_frame(0x89, b"in between");
            peer.send_frame(0x00, second);
            peer.send_frame(0x80, last);
            let pong = peer.read_frame();
            assert_eq!((pong.first, &pong.payload[..]), (0x8A, &b"in between"[..]));
            codecs.expect(&mut peer, &message);
        }
    }
}

fn records_may_be_cut_anywhere(driver: Driver) {
    for (settings, takeover) in MODES {
        let server = start(driver, settings);
        for step in [1, 3, 7, 1447] {
            let mut peer = TlsPeer::new(server.addr, client_config(), "localhost");
            peer.shake().expect("the handshake");
            let mut codecs = Codecs::new(takeover);
            let messages = [json(300), json(300), json(100 * step), json(40_000 * (step / 1000))];
            let mut plain = offer();
            for message in &messages {
                plain.extend(frame(0xC1, &codecs.deflate(message)));
            }
            let records = peer.records(&plain);
            for piece in records.chunks(step) {
                peer.stream.write_all(piece).expect("the server reads");
                // Each piece shall be a read of its own, most of the time.
                std::thread::sleep(Duration::from_micros(20));
            }
            expect_agreement(&mut peer);
            for message in &messages {
                if message.len() < 64 {
                    // Below the threshold.
                    assert_eq!(peer.read_frame().payload, *message);
                } else {
                    codecs.expect(&mut peer, message);
                }
            }
        }
    }
}

fn a_bomb_ends_at_the_limit(driver: Driver) {
    const MAX: usize = 1 << 20;
    for (settings, _) in MODES {
        let server = TestServer::start(driver, |server| {
            let limits = Limits::new().max_message(MAX as u32);
            server.tls(server_tls()).limits(limits).deflate(settings).websocket("/", |_| Echo)
        });
        let mut peer = open(&server);
        peer.send_frame(0xC2, &deflated(&vec![0; MAX]));
        assert_eq!(peer.read_frame().first, 0xC2, "exactly the limit is allowed");
        peer.send_frame(0xC2, &deflated(&vec![0; 64 * MAX]));
        assert_eq!(peer.read_frame().close_code(), 1009);
        assert!(peer.read_to_end().expect("FIN, not a reset"), "close_notify comes first");
        let stats = server.wait_for("the end", |stats| stats.connections == 0);
        assert_eq!(stats.messages_received, 1);
    }
}

/// What the clients send: texts that shrink, much and hardly, and one below the threshold.
fn texts() -> Vec<String> {
    let texts = [1000, 1000, 10, 64, 20_000, 300_000, 1_000_000].map(json);
    texts.map(|text| String::from_utf8(text).expect("ASCII")).to_vec()
}

fn the_blocking_client_compresses(driver: Driver) {
    for (settings, takeover) in MODES {
        let server = start(driver, settings);
        let limits = Limits::new().max_message(1_000_000);
        let builder = BlockingClient::builder().tls(trusting()).deflate(settings).limits(limits);
        let mut client = builder.read_timeout(PATIENCE).connect(&url(&server)).expect("a server");
        let agreed = client.deflate().expect("both sides want it");
        assert_eq!(agreed.server_no_context_takeover, !takeover);
        assert_eq!(agreed.client_no_context_takeover, !takeover);
        for text in texts() {
            client.send(&text).expect("the server reads");
            assert!(client.receive().expect("an echo") == Received::Text(text));
        }
        client.close(CloseCode::NORMAL, "").expect("a clean end");
        let stats = server.wait_for("the end", |stats| stats.connections == 0);
        // All of it compressed, with what TLS adds to it.
        let sent: usize = texts().iter().map(String::len).sum();
        assert!(stats.bytes_received < sent as u64 / 2, "{stats:?}");
        assert!(stats.bytes_sent < sent as u64 / 2, "{stats:?}");
    }
}

/// Sends everything when it is open, and tells the test what comes back, and how it ends.
struct Probe {
    say: Vec<String>,
    heard: Sender<Result<String, u16>>,
}

impl Handler for Probe {
    type Session = ();

    fn on_connect(&mut self, _dial: DialId, _response: &DialResponse) -> Option<()> {
        Some(())
    }

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        assert!(ws.deflate().is_some(), "both sides want it");
        for text in &self.say {
            ws.send(&text[..]);
        }
    }

    fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        let Message::Text(text) = message else { panic!("only texts were sent") };
        self.heard.send(Ok(text.to_owned())).expect("the test waits");
    }

    fn on_close(&mut self, _ws: &mut WebSocket<'_, ()>, close: Close<'_>) {
        // The test may be over.
        let _ = self.heard.send(Err(close.code));
    }
}

fn the_clients_of_workers_compress(driver: Driver) {
    for (settings, _) in MODES {
        let server = start(driver, settings);
        let limits = Limits::new().max_message(1_000_000);
        let client = Client::builder().driver(driver).limits(limits).start().expect("a client");
        let (heard, hears) = channel();
        let dial = Dial::to(url(&server)).tls(trusting()).deflate(settings);
        client.connect(&dial, Probe { say: texts(), heard }).expect("a good dial");
        for text in texts() {
            let heard = hears.recv_timeout(PATIENCE).expect("an echo");
            assert!(heard == Ok(text), "another message");
        }
        client.shutdown(PATIENCE).expect("a clean end");
        let stats = server.wait_for("the end", |stats| stats.connections == 0);
        let sent: usize = texts().iter().map(String::len).sum();
        assert!(stats.bytes_received < sent as u64 / 2, "{stats:?}");
        assert!(stats.bytes_sent < sent as u64 / 2, "{stats:?}");
    }
}

/// Sends a bomb to everybody who comes, and says how they went.
struct Bomber {
    ended: Sender<u16>,
}

impl Handler for Bomber {
    type Session = ();

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        ws.send(&vec![0_u8; 8 << 20][..]);
    }

    fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {}

    fn on_close(&mut self, _ws: &mut WebSocket<'_, ()>, close: Close<'_>) {
        self.ended.send(close.code).expect("the test waits");
    }
}

fn start_bomber(driver: Driver, settings: Deflate, ended: Sender<u16>) -> TestServer {
    TestServer::start(driver, |server| {
        server
            .tls(server_tls())
            .deflate(settings)
            .websocket("/", move |_| Bomber { ended: ended.clone() })
    })
}

fn the_blocking_client_stops_a_bomb(driver: Driver) {
    for (settings, _) in MODES {
        let (ended, ends) = channel();
        let server = start_bomber(driver, settings, ended);
        let limits = Limits::new().max_message(1 << 20);
        let builder = BlockingClient::builder().tls(trusting()).deflate(settings).limits(limits);
        let mut client = builder.read_timeout(PATIENCE).connect(&url(&server)).expect("a server");
        match client.receive() {
            Err(ClientError::Protocol(ProtocolError::MessageTooLong)) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(ends.recv_timeout(PATIENCE), Ok(1009));
    }
}

fn the_clients_of_workers_stop_a_bomb(driver: Driver) {
    for (settings, _) in MODES {
        let (ended, ends) = channel();
        let server = start_bomber(driver, settings, ended);
        let limits = Limits::new().max_message(1 << 20);
        let client = Client::builder().driver(driver).limits(limits).start().expect("a client");
        let (heard, hears) = channel();
        let dial = Dial::to(url(&server)).tls(trusting()).deflate(settings);
        client.connect(&dial, Probe { say: Vec::new(), heard }).expect("a good dial");
        assert_eq!(hears.recv_timeout(PATIENCE), Ok(Err(1009)));
        assert_eq!(ends.recv_timeout(PATIENCE), Ok(1009));
    }
}
