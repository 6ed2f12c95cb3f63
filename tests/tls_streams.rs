//! Records, ends and slow readers: what TLS adds to the life of an open connection.

mod common;
#[path = "common/tls.rs"]
mod tls;

use std::io::{Read, Write};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use common::{Echo, PATIENCE, TestServer, frame, memory};
use rustls::crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage};
use rustls::{ConnectionTrafficSecrets, ContentType, ProtocolVersion};
use tls::{TlsPeer, authority, server_tls};
use wirelane::{
    Close, CloseCause, CloseCode, ConnectionId, Driver, Handler, Message, TlsFailure, WebSocket,
};

on_every_driver!(
    a_close_is_followed_by_close_notify_and_fin,
    the_end_without_close_notify_is_no_clean_close,
    close_notify_without_a_close_is_no_clean_close,
    a_close_before_the_end_wins,
    a_damaged_record_gets_an_alert,
    what_follows_close_notify_is_not_kept,
    tiny_records_are_served,
    empty_records_come_to_an_end,
    key_updates_come_to_an_end,
    half_a_key_update_does_no_harm,
    a_slow_reader_gets_everything,
    a_reader_that_never_reads_is_bounded,
    messages_of_others_are_sealed_for_each,
    connections_come_and_go,
);

/// Says how connections end, and what they are called.
struct Watched(mpsc::Sender<News>);

#[derive(Debug, PartialEq)]
enum News {
    Open(ConnectionId),
    Close(u16, CloseCause),
}

impl Handler for Watched {
    type Session = ();

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        // The test may be over.
        let _ = self.0.send(News::Open(ws.id()));
        ws.subscribe("all").expect("room");
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        if message.payload() == b"close" {
            ws.close(CloseCode::NORMAL, "bye");
        } else {
            ws.send(message);
        }
    }

    fn on_close(&mut self, _ws: &mut WebSocket<'_, ()>, close: Close<'_>) {
        let _ = self.0.send(News::Close(close.code, close.cause));
    }
}

fn watched(driver: Driver) -> (TestServer, mpsc::Receiver<News>) {
    let (sender, news) = mpsc::channel();
    let server = TestServer::start(driver, |server| {
        server
            .tls(server_tls())
            .websocket("/", move |_| Watched(sender.clone()))
            .max_backpressure(4 << 20)
    });
    (server, news)
}

/// An open connection and its name.
fn open(server: &TestServer, news: &mpsc::Receiver<News>) -> (TlsPeer, ConnectionId) {
    let peer = TlsPeer::open(server.addr);
    match next(news) {
        News::Open(id) => (peer, id),
        other => panic!("{other:?}"),
    }
}

fn next(news: &mpsc::Receiver<News>) -> News {
    news.recv_timeout(PATIENCE).expect("news")
}

fn a_close_is_followed_by_close_notify_and_fin(driver: Driver) {
    let (server, news) = watched(driver);
    let (mut peer, _) = open(&server, &news);
    peer.send_frame(0x88, &1000_u16.to_be_bytes());
    assert_eq!(peer.read_frame().close_code(), 1000);
    assert!(peer.read_to_end().expect("FIN"), "close_notify");
    assert_eq!(next(&news), News::Close(1000, CloseCause::Peer));
    // The same when the server begins.
    let (mut peer, _) = open(&server, &news);
    peer.send_frame(0x81, b"close");
    assert_eq!(peer.read_frame().close_code(), 1000);
    peer.send_frame(0x88, &1000_u16.to_be_bytes());
    assert!(peer.read_to_end().expect("FIN"), "close_notify");
    assert_eq!(next(&news), News::Close(1000, CloseCause::Local));
    drop(peer);
    let stats = server.wait_for("the end", |stats| stats.connections == 0);
    assert_eq!(stats.tls_failures.total(), 0, "{stats:?}");
}

/// RFC 8446 6.1: somebody on the way can forge a FIN.
fn the_end_without_close_notify_is_no_clean_close(driver: Driver) {
    let (server, news) = watched(driver);
    let (mut peer, _) = open(&server, &news);
    peer.echo(b"alive");
    peer.finish();
    assert_eq!(next(&news), News::Close(1006, CloseCause::Ended));
    let stats = server.wait_for("the end", |stats| stats.connections == 0);
    assert_eq!(stats.tls_failures.count(TlsFailure::Truncated), 1, "{stats:?}");
}

/// It is the end of what the peer says, but RFC 6455 7.1.5 wants a Close.
fn close_notify_without_a_close_is_no_clean_close(driver: Driver) {
    let (server, news) = watched(driver);
    let (mut peer, _) = open(&server, &news);
    peer.send_frame(0x81, b"last words");
    peer.tls.send_close_notify();
    peer.flush().expect("the server reads");
    assert_eq!(peer.read_frame().payload, b"last words");
    assert!(peer.read_to_end().expect("an end"), "close_notify in return");
    assert_eq!(next(&news), News::Close(1006, CloseCause::Ended));
    let stats = server.wait_for("the end", |stats| stats.connections == 0);
    assert_eq!(stats.tls_failures.total(), 0, "{stats:?}");
}

fn a_close_before_the_end_wins(driver: Driver) {
    let (server, news) = watched(driver);
    for notify in [false, true] {
        let (mut peer, _) = open(&server, &news);
        peer.send_frame(0x88, &1001_u16.to_be_bytes());
        if notify {
            peer.tls.send_close_notify();
            peer.flush().expect("the server reads");
        }
        peer.finish();
        assert_eq!(next(&news), News::Close(1001, CloseCause::Peer));
    }
    let stats = server.wait_for("the end", |stats| stats.connections == 0);
    assert_eq!(stats.tls_failures.total(), 0, "{stats:?}");
}

fn a_damaged_record_gets_an_alert(driver: Driver) {
    let (server, news) = watched(driver);
    for (place, reason) in [(0, "header"), (40, "payload"), (usize::MAX, "tag")] {
        let (mut peer, _) = open(&server, &news);
        let mut records = peer.records(&frame(0x81, &[b'x'; 100]));
        let place = place.min(records.len() - 1);
        records[place] ^= 0x40;
        peer.stream.write_all(&records).expect("the server reads");
        let error = peer.read_to_end().expect_err("an alert").to_string();
        assert!(error.contains("alert"), "{reason}: {error}");
        assert_eq!(next(&news), News::Close(1006, CloseCause::Tls), "{reason}");
        drop(peer);
    }
    let stats = server.wait_for("the ends", |stats| stats.connections == 0);
    assert_eq!(stats.tls_failures.count(TlsFailure::Violation), 3, "{stats:?}");
}

/// Its answer may take as long as it likes to read it; what it sends meanwhile must not pile up.
fn what_follows_close_notify_is_not_kept(driver: Driver) {
    const LEN: u64 = 64 << 20;
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = folder.join(format!("close-notify-{driver}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = std::fs::File::create(folder.join("large.bin")).expect("a file");
    file.set_len(LEN).expect("a hole");
    let server = TestServer::start(driver, |server| {
        server.tls(server_tls()).files("/f/*", folder.to_str().expect("a short path"))
    });
    let mut peer = TlsPeer::connect(server.addr);
    peer.send(b"GET /f/large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n");
    server.wait_for("the answer", |stats| stats.buffered_bytes > 0);
    peer.tls.send_close_notify();
    peer.flush().expect("the server reads");
    let before = memory().resident;
    let record = [&[23, 3, 3, 0x40, 0][..], &[7; 0x4000]].concat();
    for _ in 0..LEN / 0x4000 {
        peer.stream.write_all(&record).expect("the server reads");
    }
    let more = memory().resident.saturating_sub(before);
    assert!(more < LEN as usize / 2, "{more} bytes were kept");
    let head = peer.read_head();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut len = peer.pending.len() as u64;
    while len < LEN {
        peer.pending.clear();
        assert_ne!(peer.fill().expect("the file"), 0, "{len} bytes came");
        len += peer.pending.len() as u64;
    }
    std::fs::remove_dir_all(&folder).expect("a folder");
}

fn tiny_records_are_served(driver: Driver) {
    let (server, news) = watched(driver);
    let (mut peer, _) = open(&server, &news);
    let payload: Vec<u8> = (0..5000_u32).map(|byte| byte as u8).collect();
    let mut records = Vec::new();
    for byte in frame(0x82, &payload) {
        records.extend_from_slice(&peer.records(&[byte]));
    }
    peer.stream.write_all(&records).expect("the server reads");
    assert_eq!(peer.read_frame().payload, payload);
}

/// Seals any record with the keys of a TLS 1.3 connection.
struct Forger {
    stream: std::net::TcpStream,
    seal: Box<dyn MessageEncrypter>,
    sequence: u64,
}

impl Forger {
    fn of(peer: TlsPeer) -> Forger {
        let suite = peer.tls.negotiated_cipher_suite().expect("open").tls13().expect("TLS 1.3");
        #[allow(deprecated)]
        let secrets = peer.tls.dangerous_extract_secrets().expect("allowed");
        let (sequence, secrets) = secrets.tx;
        let (key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv }
            | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
            | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key, iv),
            _ => panic!("another cipher"),
        };
        Forger { stream: peer.stream, seal: suite.aead_alg.encrypter(key, iv), sequence }
    }

    fn send(&mut self, typ: ContentType, payload: &[u8]) -> std::io::Result<()> {
        let version = ProtocolVersion::TLSv1_2;
        let payload = OutboundChunks::Single(payload);
        let message = OutboundPlainMessage { typ, version, payload };
        let record = self.seal.encrypt(message, self.sequence).expect("sealed").encode();
        self.sequence += 1;
        self.stream.write_all(&record)
    }
}

/// An open connection whose records are ours to forge.
fn forger(server: &TestServer, news: &mpsc::Receiver<News>) -> (Forger, ConnectionId) {
    let mut config = authority().client();
    config.enable_secret_extraction = true;
    let mut peer = TlsPeer::new(server.addr, Arc::new(config), "localhost");
    peer.shake().expect("the handshake");
    peer.upgrade();
    let News::Open(id) = next(news) else { panic!("no open") };
    (Forger::of(peer), id)
}

/// RFC 8446 5.1 allows records of no bytes, but nobody needs many of them in a row.
fn empty_records_come_to_an_end(driver: Driver) {
    let (server, news) = watched(driver);
    let (mut forger, _) = forger(&server, &news);
    for _ in 0..5 {
        forger.send(ContentType::ApplicationData, b"").expect("the server reads");
    }
    forger.send(ContentType::ApplicationData, &frame(0x81, b"alive")).expect("the server reads");
    server.wait_for("the message", |stats| stats.messages_received == 1);
    for _ in 0..1000 {
        if forger.send(ContentType::ApplicationData, b"").is_err() {
            break;
        }
    }
    assert_eq!(next(&news), News::Close(1006, CloseCause::Tls));
}

fn key_updates_come_to_an_end(driver: Driver) {
    let (server, news) = watched(driver);
    let (mut peer, _) = open(&server, &news);
    // Between messages they are welcome.
    for _ in 0..100 {
        peer.tls.refresh_traffic_keys().expect("TLS 1.3");
        peer.echo(b"with new keys");
    }
    let mut records = Vec::new();
    for _ in 0..1000 {
        peer.tls.refresh_traffic_keys().expect("TLS 1.3");
        records.extend_from_slice(&peer.records(b""));
    }
    let _ = peer.stream.write_all(&records);
    assert_eq!(next(&news), News::Close(1006, CloseCause::Tls));
    let stats = server.wait_for("the figure", |stats| stats.tls_failures.total() == 1);
    assert_eq!(stats.tls_failures.count(TlsFailure::Violation), 1, "{stats:?}");
}

/// The server sends while the handshake message of a peer is incomplete.
fn half_a_key_update_does_no_harm(driver: Driver) {
    let (server, news) = watched(driver);
    let (mut forger, id) = forger(&server, &news);
    let update = [24, 0, 0, 1, 0];
    forger.send(ContentType::Handshake, &update[..2]).expect("the server reads");
    let before = server.stats().bytes_received;
    for _ in 0..10 {
        server.handle.send_to(id, "news").expect("room");
        std::thread::sleep(Duration::from_millis(2));
    }
    server.wait_for("the news", |stats| stats.messages_sent == 10);
    forger.send(ContentType::Handshake, &update[2..]).expect("the server reads");
    server.wait_for("the rest", |stats| stats.bytes_received > before);
    server.handle.send_to(id, "more").expect("room");
    let stats = server.wait_for("the last", |stats| stats.messages_sent == 11);
    assert_eq!((stats.connections, stats.tls_failures.total()), (1, 0), "{stats:?}");
}

fn a_slow_reader_gets_everything(driver: Driver) {
    const COUNT: usize = 40;
    let server = TestServer::start(driver, |server| {
        server.tls(server_tls()).websocket("/", |_| Echo).max_backpressure(512 * 1024)
    });
    let mut peer = TlsPeer::open(server.addr);
    let message = |nth: usize| vec![nth as u8; 100_000 + nth];
    let mut records = Vec::new();
    for nth in 0..COUNT {
        records.extend_from_slice(&peer.records(&frame(0x82, &message(nth))));
    }
    let mut sender = peer.stream.try_clone().expect("a descriptor");
    let sending = std::thread::spawn(move || sender.write_all(&records));
    let mut most = 0;
    for _ in 0..50 {
        most = most.max(server.stats().buffered_bytes);
        std::thread::sleep(Duration::from_millis(2));
    }
    for nth in 0..COUNT {
        assert!(peer.read_frame().payload == message(nth), "message {nth}");
    }
    sending.join().expect("no panic").expect("the server reads");
    // The limit, one message that meets an empty queue, and the records of one batch.
    assert!(most <= 1024 * 1024, "{most} bytes waited");
    let stats = server.wait_for("an empty queue", |stats| stats.buffered_bytes == 0);
    assert_eq!((stats.dropped, stats.messages_sent), (0, COUNT as u64));
}

fn a_reader_that_never_reads_is_bounded(driver: Driver) {
    let (server, news) = watched(driver);
    let (peer, id) = open(&server, &news);
    let text = "x".repeat(50_000);
    let start = Instant::now();
    while server.stats().undelivered == 0 {
        let _ = server.handle.send_to(id, &text[..]);
        std::thread::sleep(Duration::from_micros(200));
        assert!(start.elapsed() < PATIENCE, "{:?}", server.stats());
    }
    let buffered = server.stats().buffered_bytes;
    assert!((3 << 20..=5 << 20).contains(&buffered), "{buffered} bytes wait");
    drop(peer);
    let stats = server.wait_for("the end", |stats| stats.connections == 0);
    assert_eq!(stats.buffered_bytes, 0);
}

/// Shared frames are gathered, and every peer has keys of its own.
fn messages_of_others_are_sealed_for_each(driver: Driver) {
    let (server, news) = watched(driver);
    let mut peers: Vec<TlsPeer> = (0..5).map(|_| open(&server, &news).0).collect();
    let texts: Vec<String> = (0..60).map(|nth| format!("{nth} ").repeat(nth * 37 + 1)).collect();
    for text in &texts {
        server.handle.publish("all", &text[..]);
    }
    for peer in &mut peers {
        for text in &texts {
            assert!(peer.read_frame().payload == text.as_bytes());
        }
    }
}

fn connections_come_and_go(driver: Driver) {
    let (server, news) = watched(driver);
    for nth in 0..300 {
        let (mut peer, _) = open(&server, &news);
        match nth % 3 {
            0 => peer.echo(b"hello"),
            1 => {
                peer.send_frame(0x88, &1000_u16.to_be_bytes());
                let mut rest = Vec::new();
                peer.stream.read_to_end(&mut rest).expect("FIN");
            }
            _ => {}
        }
        drop(peer);
        while !matches!(next(&news), News::Close(..)) {}
    }
    let stats = server.wait_for("every slot to be free", |stats| stats.connections == 0);
    assert_eq!((stats.opened, stats.closed, stats.tls_handshakes), (300, 300, 300));
}
