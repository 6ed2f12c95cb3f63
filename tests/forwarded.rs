//! Where a request comes from is what listed proxies say, and nobody else: `X-Forwarded-For`,
//! `Forwarded` (RFC 7239), the PROXY protocol; and which names the server answers to.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use common::{Peer, TestServer, frame, request};
use wirelane::{
    Driver, Error, ForwardedHeader, Handler, Message, Response, Server, ServerBuilder, Upgrade,
    UpgradeRequest, WebSocket,
};

on_every_driver!(
    nobody_is_believed_by_default,
    a_listed_proxy_names_the_client,
    a_stranger_names_nobody,
    only_the_chosen_header_counts,
    a_proxy_header_names_the_client,
    a_proxy_header_torn_at_any_byte_is_read,
    a_proxy_that_forgets_its_header_gets_400,
    malformed_proxy_headers_get_400,
    a_stranger_with_a_proxy_header_gets_400,
    an_unfinished_proxy_header_gets_408,
    both_kinds_of_proxy_in_a_row,
    unix_peers_can_be_proxies,
    other_names_get_421,
);

/// Tells every client its address.
struct Mirror;

impl Handler for Mirror {
    type Session = String;

    fn on_upgrade(&mut self, request: &UpgradeRequest<'_>) -> Upgrade<String> {
        Upgrade::accept(format!("{:?}", request.client_ip()))
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, String>, _message: Message<'_>) {
        let address = ws.session().clone();
        ws.send(&address);
    }
}

fn start(driver: Driver, configure: impl FnOnce(ServerBuilder) -> ServerBuilder) -> TestServer {
    TestServer::start(driver, |server| {
        configure(server)
            .websocket("/", |_| Mirror)
            .get("/ip", |request| Response::text(format!("{:?}", request.client_ip())))
    })
}

/// A correct request with more lines.
fn with(lines: &str) -> Vec<u8> {
    let request = String::from_utf8(request("/")).expect("ASCII");
    format!("{}\r\n{lines}\r\n", request.trim_end()).into_bytes()
}

fn address_after(peer: &mut Peer) -> String {
    let head = peer.read_head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    peer.send_text("who am I?");
    String::from_utf8(peer.read_frame().payload).expect("text")
}

/// What the server takes for the address of whoever sends this.
fn address(server: &TestServer, bytes: &[u8]) -> String {
    let mut peer = server.connect();
    peer.send(bytes);
    address_after(&mut peer)
}

const LOOPBACK: &str = "Some(127.0.0.1)";

fn nobody_is_believed_by_default(driver: Driver) {
    let server = start(driver, |server| server);
    let lines = "X-Forwarded-For: 198.51.100.1\r\nForwarded: for=198.51.100.1\r\n";
    assert_eq!(address(&server, &with(lines)), LOOPBACK);
}

fn a_listed_proxy_names_the_client(driver: Driver) {
    let server = start(driver, |server| {
        server.trust_forwarded(ForwardedHeader::XForwardedFor, ["127.0.0.0/8", "10.0.0.0/8"])
    });
    for (lines, expected) in [
        ("X-Forwarded-For: 198.51.100.1\r\n", "Some(198.51.100.1)"),
        ("X-Forwarded-For: 6.6.6.6, 198.51.100.1, 10.1.2.3\r\n", "Some(198.51.100.1)"),
        ("x-forwarded-for: 6.6.6.6\r\nX-FORWARDED-FOR: 2001:db8::1\r\n", "Some(2001:db8::1)"),
        ("X-Forwarded-For: 6.6.6.6, unknown\r\n", LOOPBACK),
        ("", LOOPBACK),
    ] {
        assert_eq!(address(&server, &with(lines)), expected, "{lines}");
    }
    // Pages are told the same.
    let mut peer = server.connect();
    peer.send(b"GET /ip HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.51.100.1\r\n\r\n");
    assert_eq!(peer.read_answer().body, b"Some(198.51.100.1)");
}

fn a_stranger_names_nobody(driver: Driver) {
    let server = start(driver, |server| {
        server.trust_forwarded(ForwardedHeader::XForwardedFor, ["10.0.0.0/8", "127.0.0.2"])
    });
    assert_eq!(address(&server, &with("X-Forwarded-For: 198.51.100.1\r\n")), LOOPBACK);
}

fn only_the_chosen_header_counts(driver: Driver) {
    let server =
        start(driver, |server| server.trust_forwarded(ForwardedHeader::Forwarded, ["127.0.0.1"]));
    let lines = "X-Forwarded-For: 6.6.6.6\r\nForwarded: for=\"[2001:db8::1]:80\";proto=https\r\n";
    assert_eq!(address(&server, &with(lines)), "Some(2001:db8::1)");
    assert_eq!(address(&server, &with("X-Forwarded-For: 6.6.6.6\r\n")), LOOPBACK);
    assert_eq!(address(&server, &with("Forwarded: for=6.6.6.6, for=\"\r\n")), LOOPBACK);
}

const LINE: &[u8] = b"PROXY TCP4 198.51.100.1 192.0.2.1 56324 443\r\n";

/// Version 2 with these command, family and addresses.
fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend_from_slice(&[command, family]);
    bytes.extend_from_slice(&u16::try_from(body.len()).expect("short").to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

const V4: [u8; 12] = [198, 51, 100, 1, 192, 0, 2, 1, 0xdc, 0x04, 0x01, 0xbb];

fn behind_proxy(driver: Driver) -> TestServer {
    start(driver, |server| server.proxy_protocol(["127.0.0.1"]))
}

fn a_proxy_header_names_the_client(driver: Driver) {
    let server = behind_proxy(driver);
    let mut long = V4.to_vec();
    long.resize(520, 4);
    for (header, expected) in [
        (LINE.to_vec(), "Some(198.51.100.1)"),
        (b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n".to_vec(), "Some(2001:db8::1)"),
        (b"PROXY UNKNOWN\r\n".to_vec(), LOOPBACK),
        (binary(0x21, 0x11, &V4), "Some(198.51.100.1)"),
        (binary(0x21, 0x11, &long), "Some(198.51.100.1)"),
        // A health check of the proxy itself.
        (binary(0x20, 0x00, b""), LOOPBACK),
    ] {
        // In one segment with the request and a first message.
        let mut bytes = header.clone();
        bytes.extend(request("/"));
        bytes.extend(frame(0x81, b"who am I?"));
        let mut peer = server.connect();
        peer.send(&bytes);
        let head = peer.read_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert_eq!(peer.read_frame().payload, expected.as_bytes());
        // And on its own.
        let mut peer = server.connect();
        peer.send(&header);
        thread::sleep(Duration::from_millis(5));
        peer.send(&request("/"));
        assert_eq!(address_after(&mut peer), expected);
    }
}

fn a_proxy_header_torn_at_any_byte_is_read(driver: Driver) {
    let server = behind_proxy(driver);
    for header in [LINE.to_vec(), binary(0x21, 0x11, &V4)] {
        let mut bytes = header.clone();
        bytes.extend(request("/"));
        let mut peers: Vec<Peer> = (1..header.len() + 3).map(|_| server.connect()).collect();
        for (cut, peer) in peers.iter_mut().enumerate() {
            peer.send(&bytes[..cut + 1]);
        }
        thread::sleep(Duration::from_millis(20));
        for (cut, peer) in peers.iter_mut().enumerate() {
            peer.send(&bytes[cut + 1..]);
            assert_eq!(address_after(peer), "Some(198.51.100.1)", "cut at {}", cut + 1);
        }
    }
}

fn refused(server: &TestServer, status: u16, bytes: &[u8]) {
    let mut peer = server.connect();
    peer.send(bytes);
    let answer = peer.read_answer();
    assert_eq!(answer.status, status, "{bytes:?} {answer:?}");
}

fn a_proxy_that_forgets_its_header_gets_400(driver: Driver) {
    let server = behind_proxy(driver);
    refused(&server, 400, &request("/"));
    assert_eq!(server.stats().opened, 0);
}

fn malformed_proxy_headers_get_400(driver: Driver) {
    let server = behind_proxy(driver);
    let too_long = binary(0x21, 0x11, &[0; 521]);
    let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
    for header in [
        &b"PROXY TCP4 198.51.100.1 192.0.2.1 56324\r\n"[..],
        b"PROXY TCP4 ::1 ::1 1 1\r\n",
        b"PROXY TCP4 198.51.100.1 192.0.2.1 56324 443\n\n",
        b"PROXY\r\n",
        &endless,
        &too_long[..16],
        &binary(0x31, 0x11, &V4),
        &binary(0x21, 0x12, &V4),
        &binary(0x21, 0x11, &V4[..8]),
        &b"\r\n\r\n\0\r\nQUIX"[..],
        // One header, not two.
        &[LINE, LINE, &request("/")].concat(),
    ] {
        refused(&server, 400, header);
    }
    let stats = server.wait_for("the end", |stats| stats.connections == 0);
    assert_eq!((stats.opened, stats.refused), (0, 11));
}

fn a_stranger_with_a_proxy_header_gets_400(driver: Driver) {
    for proxies in [&[][..], &["10.0.0.0/8", "::1"]] {
        let server = start(driver, |server| server.proxy_protocol(proxies.iter().copied()));
        refused(&server, 400, &[LINE, &request("/")].concat());
        refused(&server, 400, &[&binary(0x21, 0x11, &V4)[..], &request("/")].concat());
        assert_eq!(address(&server, &request("/")), LOOPBACK);
    }
}

fn an_unfinished_proxy_header_gets_408(driver: Driver) {
    let server = start(driver, |server| {
        server.proxy_protocol(["127.0.0.1"]).handshake_timeout(Duration::from_secs(1))
    });
    refused(&server, 408, &LINE[..20]);
}

fn both_kinds_of_proxy_in_a_row(driver: Driver) {
    let server = start(driver, |server| {
        server
            .proxy_protocol(["127.0.0.1"])
            .trust_forwarded(ForwardedHeader::XForwardedFor, ["198.51.100.0/24"])
    });
    let lines = with("X-Forwarded-For: 203.0.113.9\r\n");
    assert_eq!(address(&server, &[LINE, &lines].concat()), "Some(203.0.113.9)");
    let stranger = b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n".as_slice();
    assert_eq!(address(&server, &[stranger, &lines].concat()), "Some(192.0.2.7)");
}

fn unix_peers_can_be_proxies(driver: Driver) {
    let path = std::env::temp_dir().join(format!("wirelane-{}-{driver}", std::process::id()));
    let address = format!("unix:{}", path.display());
    let (ready, listening) = std::sync::mpsc::channel();
    let server = Server::builder()
        .listen(&address)
        .driver(driver)
        .trust_forwarded(ForwardedHeader::XForwardedFor, ["unix"])
        .get("/ip", |request| Response::text(format!("{:?}", request.client_ip())))
        .on_listening(move |_| ready.send(()).expect("the test waits"))
        .build()
        .expect("possible settings");
    let handle = server.handle();
    let running = thread::spawn(move || server.run());
    listening.recv_timeout(common::PATIENCE).expect("it starts");
    for (lines, expected) in
        [("X-Forwarded-For: 198.51.100.1\r\n", "Some(198.51.100.1)"), ("", "None")]
    {
        let mut peer = UnixStream::connect(&path).expect("the server listens");
        let request = format!("GET /ip HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n");
        peer.write_all(request.as_bytes()).expect("the server reads");
        let mut answer = String::new();
        peer.read_to_string(&mut answer).expect("an answer");
        assert!(answer.ends_with(&format!("\r\n\r\n{expected}")), "{answer}");
    }
    handle.shutdown(Duration::ZERO);
    running.join().expect("no panic").expect("a clean end");
}

fn other_names_get_421(driver: Driver) {
    let server = start(driver, |server| server.hosts(["localhost", "example.com:8080"]));
    let ask = |host: &str| {
        let request = String::from_utf8(request("/")).expect("ASCII");
        let mut peer = server.connect();
        peer.send(request.replace("Host: localhost", host).as_bytes());
        peer.read_head()[9..12].to_owned()
    };
    for host in ["Host: localhost", "Host: LOCALHOST:1234", "Host: example.com:8080"] {
        assert_eq!(ask(host), "101", "{host}");
    }
    for host in ["Host: example.com", "Host: evil.example", "Host: localhost.evil", "Host: a:80"] {
        assert_eq!(ask(host), "421", "{host}");
    }
    // Pages, unknown paths and HTTP/1.0 without a Host, too.
    refused(&server, 421, b"GET /ip HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    refused(&server, 421, b"GET /unknown HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    refused(&server, 421, b"GET /ip HTTP/1.0\r\n\r\n");
    refused(&server, 421, b"GET http://evil.example/ip HTTP/1.1\r\nHost: localhost\r\n\r\n");
}

#[test]
fn what_cannot_be_a_proxy_or_a_name_is_an_error_of_the_builder() {
    let builder = || Server::builder().listen("127.0.0.1:0").get("/", |_| Response::new(200));
    let header = ForwardedHeader::XForwardedFor;
    for (expected, text, server) in [
        ("trust_forwarded", "10.0.0.1/8", builder().trust_forwarded(header, ["10.0.0.1/8"])),
        ("trust_forwarded", "unix", builder().trust_forwarded(header, ["unix"])),
        ("proxy_protocol", "proxy.example", builder().proxy_protocol(["proxy.example"])),
        ("proxy_protocol", "unix", builder().proxy_protocol(["10.0.0.0/8", "unix"])),
        ("hosts", "http://localhost", builder().hosts(["http://localhost"])),
    ] {
        match server.build() {
            Err(Error::Config { field, reason }) => {
                assert_eq!(field, expected);
                assert!(reason.contains(&format!("{text:?}")), "{reason}");
            }
            other => panic!("expected a configuration error, got {other:?}"),
        }
    }
}
