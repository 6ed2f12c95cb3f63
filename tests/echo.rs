//! Messages come back whole and in order, whatever their size, their cut and their company.

mod common;

use common::{Echo, TestServer, frame, request};
use wirelane::{Driver, Limits};

on_every_driver!(
    every_size_comes_back,
    frames_behind_the_request_are_not_lost,
    any_cut_gives_the_same_echo,
    fragments_become_one_message,
    pipelined_messages_keep_their_order,
    many_connections_do_not_mix,
    workers_share_the_port,
    unix_sockets_work,
);

fn start(driver: Driver) -> TestServer {
    let limits = Limits::new().max_message(8 << 20).max_frame(8 << 20);
    TestServer::start(driver, |server| {
        server.limits(limits).max_backpressure(16 << 20).websocket("/", |_| Echo)
    })
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + seed * 7 + i / 251) as u8).collect()
}

fn every_size_comes_back(driver: Driver) {
    let server = start(driver);
    let mut peer = server.open();
    let sizes = [
        0,
        1,
        124,
        125,
        126,
        127,
        4095,
        16_384,
        65_535,
        65_536,
        262_130,
        262_145,
        1 << 20,
        5 << 20,
    ];
    for size in sizes {
        let payload = pattern(size, 1);
        let bytes = frame(0x82, &payload);
        let stream = peer.stream.try_clone().expect("a second handle");
        let writer = std::thread::spawn(move || {
            std::io::Write::write_all(&mut &stream, &bytes).expect("the server reads");
        });
        let echo = peer.read_frame();
        writer.join().expect("written");
        assert_eq!(echo.first, 0x82);
        assert!(echo.payload == payload, "size {size}");
        let text: String = "aé漢😀".chars().cycle().take(size / 3).collect();
        if text.len() < 1 << 20 {
            peer.send_text(&text);
            let echo = peer.read_frame();
            assert_eq!((echo.first, echo.payload == text.as_bytes()), (0x81, true), "size {size}");
        }
    }
}

fn frames_behind_the_request_are_not_lost(driver: Driver) {
    let server = start(driver);
    let mut peer = server.connect();
    let mut bytes = request("/");
    bytes.extend(frame(0x81, b"first"));
    bytes.extend(frame(0x82, b"second"));
    peer.send(&bytes);
    assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
    assert_eq!(peer.read_frame().payload, b"first");
    assert_eq!(peer.read_frame().payload, b"second");
}

fn any_cut_gives_the_same_echo(driver: Driver) {
    let server = start(driver);
    let mut bytes = request("/");
    bytes.extend(frame(0x81, "grüße".as_bytes()));
    bytes.extend(frame(0x01, b"frag"));
    bytes.extend(frame(0x89, b"ping"));
    bytes.extend(frame(0x80, b"ment"));
    bytes.extend(frame(0x82, &pattern(300, 2)));
    for cut in (1..bytes.len()).step_by(7) {
        let mut peer = server.connect();
        peer.send(&bytes[..cut]);
        std::thread::sleep(std::time::Duration::from_millis(1));
        peer.send(&bytes[cut..]);
        assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
        assert_eq!(peer.read_frame().payload, "grüße".as_bytes(), "cut at {cut}");
        let pong = peer.read_frame();
        assert_eq!((pong.first, &pong.payload[..]), (0x8a, &b"ping"[..]), "cut at {cut}");
        assert_eq!(peer.read_frame().payload, b"fragment", "cut at {cut}");
        assert_eq!(peer.read_frame().payload, pattern(300, 2), "cut at {cut}");
    }
}

fn fragments_become_one_message(driver: Driver) {
    let server = start(driver);
    let mut peer = server.open();
    let whole = pattern(100_000, 3);
    let mut pieces = whole.chunks(997).peekable();
    let mut first = 0x02;
    while let Some(piece) = pieces.next() {
        let fin = if pieces.peek().is_none() { 0x80 } else { 0 };
        peer.send_frame(fin | first, piece);
        first = 0;
    }
    let echo = peer.read_frame();
    assert_eq!(echo.first, 0x82);
    assert!(echo.payload == whole);
}

fn pipelined_messages_keep_their_order(driver: Driver) {
    let server = start(driver);
    let mut peer = server.open();
    let mut bytes = Vec::new();
    for i in 0..20_000_u32 {
        bytes.extend(frame(0x82, &i.to_be_bytes()));
    }
    peer.send(&bytes);
    for i in 0..20_000_u32 {
        assert_eq!(peer.read_frame().payload, i.to_be_bytes());
    }
}

fn many_connections_do_not_mix(driver: Driver) {
    let server = start(driver);
    let mut peers: Vec<_> = (0..200).map(|_| server.open()).collect();
    for round in 0..5 {
        for (i, peer) in peers.iter_mut().enumerate() {
            peer.send_frame(0x82, &pattern(i * 37, i + round));
        }
        for (i, peer) in peers.iter_mut().enumerate() {
            assert!(peer.read_frame().payload == pattern(i * 37, i + round), "peer {i}");
        }
    }
    assert_eq!(server.stats().messages_received, server.stats().messages_sent);
}

fn workers_share_the_port(driver: Driver) {
    let server = TestServer::start(driver, |server| server.workers(3).websocket("/", |_| Echo));
    let mut peers: Vec<_> = (0..60).map(|_| server.open()).collect();
    for (i, peer) in peers.iter_mut().enumerate() {
        peer.send_text(&i.to_string());
        assert_eq!(peer.read_frame().payload, i.to_string().as_bytes());
    }
    assert_eq!(server.wait_for("60 connections", |s| s.opened == 60).connections, 60);
}

fn unix_sockets_work(driver: Driver) {
    use std::io::{Read, Write};
    let path = std::env::temp_dir().join(format!("wirelane-{}-{driver}.sock", std::process::id()));
    let address = format!("unix:{}", path.display());
    let server =
        TestServer::start(driver, |server| server.listen(address).websocket("/", |_| Echo));
    let mut stream = std::os::unix::net::UnixStream::connect(&path).expect("the server listens");
    stream.set_read_timeout(Some(common::PATIENCE)).expect("a timeout");
    let mut bytes = request("/");
    bytes.extend(frame(0x81, b"over unix"));
    stream.write_all(&bytes).expect("written");
    let mut received = Vec::new();
    while !received.ends_with(b"\x81\x09over unix") {
        let mut buffer = [0; 1024];
        let count = stream.read(&mut buffer).expect("in time");
        assert_ne!(count, 0, "{received:?}");
        received.extend_from_slice(&buffer[..count]);
    }
    drop(server);
    assert!(!path.exists(), "the socket file is removed");
}
