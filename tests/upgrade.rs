//! RFC 6455 4: only a correct request becomes a WebSocket; every other one gets its own HTTP
//! status, a complete answer and FIN. Nothing that a peer sends gets an `on_open` by mistake.

mod common;

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use common::{Answer, Echo, TestServer, frame, request};
use wirelane::{Driver, Limits, Response};

on_every_driver!(
    malformed_request_lines_get_400,
    other_methods_get_405_and_are_told_which_is_allowed,
    other_versions_of_http_are_refused,
    host_must_be_there_once,
    a_plain_get_on_a_websocket_path_gets_426_and_is_told_to_upgrade,
    a_key_that_is_not_16_bytes_gets_400,
    a_version_other_than_13_gets_426_and_is_told_13,
    lines_that_two_readers_could_read_differently_get_400,
    an_upgrade_with_a_body_gets_400,
    ambiguous_body_lengths_get_400,
    an_unknown_path_gets_404,
    a_long_target_gets_414,
    a_long_head_gets_431,
    many_header_lines_get_431,
    odd_but_legal_requests_are_accepted,
    unknown_extensions_and_subprotocols_are_declined,
    malformed_lists_get_400,
    a_head_torn_at_any_byte_is_accepted,
    a_bad_head_torn_at_any_byte_is_refused_alike,
    what_is_not_http_is_refused_at_its_first_impossible_byte,
    a_dribbled_head_is_cut_by_an_absolute_deadline,
    a_peer_that_says_nothing_is_ended_without_a_word,
    a_peer_that_leaves_during_the_handshake_opens_nothing,
    a_peer_that_half_closes_still_gets_its_answer,
    a_page_and_a_websocket_share_a_path,
    head_gets_the_head_of_the_answer_only,
    a_page_that_fails_gets_500,
    a_second_request_behind_the_upgrade_gets_1002_and_no_http,
    a_refused_request_says_nothing_that_the_peer_said,
);

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn start(driver: Driver) -> TestServer {
    TestServer::start(driver, |server| {
        server
            .websocket("/", |_| Echo)
            .websocket("/both", |_| Echo)
            .get("/both", |_| Response::text("a page"))
            .get("/page", |request| Response::text(request.query().unwrap_or("none").to_owned()))
    })
}

/// A request with these lines behind the request line.
fn head(line: &str, lines: &[&str]) -> Vec<u8> {
    let mut head = format!("{line}\r\n");
    for line in lines {
        head.push_str(line);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// The lines of a correct upgrade request, those that start with `name` replaced.
fn upgrade_with(name: &str, replacement: &[&str]) -> Vec<u8> {
    let key = format!("Sec-WebSocket-Key: {KEY}");
    let mut lines = vec![
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        &key,
        "Sec-WebSocket-Version: 13",
    ];
    lines.retain(|line| !line.starts_with(name));
    lines.extend(replacement);
    head("GET / HTTP/1.1", &lines)
}

/// Sends the request and expects this status, a complete answer, and FIN.
fn refused(server: &TestServer, status: u16, request: &[u8]) -> Answer {
    let mut peer = server.connect();
    peer.send(request);
    let answer = peer.read_answer();
    assert_eq!(answer.status, status, "{}\n{answer:?}", String::from_utf8_lossy(request));
    assert!(!answer.body.is_empty(), "the answer says why");
    answer
}

fn accepted(server: &TestServer, request: &[u8]) -> String {
    let mut peer = server.connect();
    peer.send(request);
    let head = peer.read_head();
    let text = String::from_utf8_lossy(request);
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{text}\n{head}");
    peer.send_text("open");
    assert_eq!(peer.read_frame().payload, b"open");
    head
}

fn malformed_request_lines_get_400(driver: Driver) {
    let server = start(driver);
    let lines = [
        "GET",
        "GET /",
        "GET  / HTTP/1.1",
        " GET / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / / HTTP/1.1",
        "GET / HTTP/1",
        "GET / HTTP/1.",
        "GET / HTTP/11",
        "GET / http/1.1",
        "GET / HTTPS/1.1",
        "GET / HTTP/1.1x",
        "GET /\x7f HTTP/1.1",
        "GET /#fragment HTTP/1.1",
        "GET relative HTTP/1.1",
        "GET * HTTP/1.1",
        "G@T / HTTP/1.1",
        "G\u{e9}T / HTTP/1.1",
        "\r\nGET / HTTP/1.1",
        "CONNECT localhost:80 HTTP/1.1",
    ];
    for line in lines {
        refused(&server, 400, &head(line, &["Host: localhost"]));
    }
    let all = lines.len() as u64;
    assert_eq!(server.wait_for("every refusal", |stats| stats.refused == all).opened, 0);
}

fn other_methods_get_405_and_are_told_which_is_allowed(driver: Driver) {
    let server = start(driver);
    let page = "GET, HEAD, OPTIONS";
    for method in ["POST", "PUT", "get", "Get", "TRACE", "GETT", "HTTP"] {
        for (path, allowed) in [("/", "GET, OPTIONS"), ("/page", page), ("/both", page)] {
            let upgrade = String::from_utf8(request(path)).expect("ASCII");
            let upgrade = upgrade.replacen("GET", method, 1);
            let answer = refused(&server, 405, upgrade.as_bytes());
            assert_eq!(answer.header("Allow"), Some(allowed), "{method} {path}");
        }
    }
    assert_eq!(server.stats().opened, 0);
}

fn other_versions_of_http_are_refused(driver: Driver) {
    let server = start(driver);
    let request = String::from_utf8(request("/")).expect("ASCII");
    refused(&server, 400, request.replace("HTTP/1.1", "HTTP/1.0").as_bytes());
    for version in ["HTTP/0.9", "HTTP/2.0", "HTTP/3.0", "HTTP/9.9"] {
        refused(&server, 505, request.replace("HTTP/1.1", version).as_bytes());
    }
    // RFC 9110 2.5: a higher minor version is treated as the highest one that is known.
    accepted(&server, request.replace("HTTP/1.1", "HTTP/1.2").as_bytes());
}

fn host_must_be_there_once(driver: Driver) {
    let server = start(driver);
    refused(&server, 400, &upgrade_with("Host", &[]));
    refused(&server, 400, &upgrade_with("Host", &["Host: a", "Host: a"]));
    refused(&server, 400, &upgrade_with("Host", &["Host: a b"]));
    refused(&server, 400, &upgrade_with("Host", &["Host:"]));
    refused(&server, 400, &upgrade_with("Host", &["Host: user@a"]));
    refused(&server, 400, &head("GET /page HTTP/1.1", &[]));
    accepted(&server, &upgrade_with("Host", &["hOST: [::1]:9001"]));
}

fn a_plain_get_on_a_websocket_path_gets_426_and_is_told_to_upgrade(driver: Driver) {
    let server = start(driver);
    let requests = [
        head("GET / HTTP/1.1", &["Host: localhost"]),
        upgrade_with("Upgrade", &[]),
        upgrade_with("Connection", &[]),
        upgrade_with("Upgrade", &["Upgrade: h2c"]),
        upgrade_with("Upgrade", &["Upgrade: websockets"]),
        upgrade_with("Connection", &["Connection: keep-alive"]),
        upgrade_with("Connection", &["Connection: Upgrades"]),
    ];
    for request in requests {
        let answer = refused(&server, 426, &request);
        assert_eq!(answer.header("Upgrade"), Some("websocket"));
        assert_eq!(answer.header("Connection"), Some("close, Upgrade"));
    }
}

fn a_key_that_is_not_16_bytes_gets_400(driver: Driver) {
    let server = start(driver);
    let name = "Sec-WebSocket-Key";
    refused(&server, 400, &upgrade_with(name, &[]));
    let key = format!("{name}: {KEY}");
    refused(&server, 400, &upgrade_with(name, &[&key, &key]));
    let keys = [
        "",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25jZR==",
        "dGhlIHNhbXBsZSBub25jZQ==x",
        "dGhlIHNhbXBsZSBub25jZSE=",
        "dGhlIHNhbXBsZSBub25jZSEh",
        "dGhl!HNhbXBsZSBub25jZQ==",
        "dGhlIHNhbXBsZSBub25j-_==",
        "dGhlIHNhbXBs ZSBub25jZQ=",
    ];
    for key in keys {
        refused(&server, 400, &upgrade_with(name, &[&format!("{name}: {key}")]));
    }
}

fn a_version_other_than_13_gets_426_and_is_told_13(driver: Driver) {
    let server = start(driver);
    let name = "Sec-WebSocket-Version";
    let mut requests = vec![
        upgrade_with(name, &[]),
        upgrade_with(name, &["Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13"]),
    ];
    for version in ["", "0", "8", "12", "14", "013", "+13", "13, 8", "13 13", "x"] {
        requests.push(upgrade_with(name, &[&format!("{name}: {version}")]));
    }
    for request in requests {
        let answer = refused(&server, 426, &request);
        assert_eq!(answer.header("Sec-WebSocket-Version"), Some("13"));
        assert_eq!(answer.header("Upgrade"), Some("websocket"));
    }
}

fn lines_that_two_readers_could_read_differently_get_400(driver: Driver) {
    let server = start(driver);
    let lines = [
        "no colon",
        ": no name",
        "Blank : before the colon",
        "Na me: value",
        "N\u{e9}me: value",
        " Folded: at the start",
        "Nul: a\0b",
        "Bell: a\x07b",
        "Delete: a\x7fb",
        "Bare-Return: a\rb",
        "Bare-Feed: a\nb: c",
        "Folded: a\r\n b",
        "Folded: a\r\n\tb",
    ];
    for line in lines {
        refused(&server, 400, &upgrade_with("nothing", &[line]));
    }
    let request = String::from_utf8(request("/")).expect("ASCII");
    refused(&server, 400, request.replace("\r\n", "\n").as_bytes());
    refused(&server, 400, request.replacen("\r\n", "\n", 1).as_bytes());
    refused(&server, 400, request.replacen("\r\n\r\n", "\r\n\n", 1).as_bytes());
    refused(&server, 400, request.replacen("\r\n\r\n", "\r\n\rx", 1).as_bytes());
    assert_eq!(server.stats().opened, 0);
}

fn an_upgrade_with_a_body_gets_400(driver: Driver) {
    let server = start(driver);
    for line in [
        "Content-Length: 5",
        "Content-Length: 00",
        "Content-Length: 0, 0",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: identity",
    ] {
        let mut request = upgrade_with("nothing", &[line]);
        request.extend_from_slice(b"\x81\x85abcdHELLO");
        refused(&server, 400, &request);
    }
    accepted(&server, &upgrade_with("nothing", &["Content-Length: 0"]));
    server.wait_for("one message, and not the five others", |stats| stats.messages_received == 1);
}

fn ambiguous_body_lengths_get_400(driver: Driver) {
    let server = start(driver);
    let lines: [&[&str]; 8] = [
        &["Content-Length: 1", "Transfer-Encoding: chunked"],
        &["Content-Length: 1", "Content-Length: 2"],
        &["Content-Length: 1, 2"],
        &["Content-Length: +5"],
        &["Content-Length: -1"],
        &["Content-Length:"],
        &["Content-Length: 18446744073709551616"],
        &["Transfer-Encoding: gzip, chunked"],
    ];
    for lines in lines {
        let mut all = vec!["Host: localhost"];
        all.extend(lines);
        refused(&server, 400, &head("GET /page HTTP/1.1", &all));
    }
}

fn an_unknown_path_gets_404(driver: Driver) {
    let server = start(driver);
    for path in ["/nothing", "/page/", "/PAGE", "//", "/%70age", "/./page", "/page/../page"] {
        refused(&server, 404, &request(path));
        refused(&server, 404, &head(&format!("GET {path} HTTP/1.1"), &["Host: localhost"]));
    }
    accepted(&server, &request("/?a=/nothing"));
    accepted(&server, &request("http://localhost/"));
}

fn a_long_target_gets_414(driver: Driver) {
    let server = start(driver);
    let longest = format!("/page?{}", "a".repeat(8 * 1024 - 6));
    let mut peer = server.connect();
    peer.send(&head(&format!("GET {longest} HTTP/1.1"), &["Host: localhost"]));
    assert_eq!(peer.read_answer().status, 200);
    refused(&server, 414, &head(&format!("GET {longest}a HTTP/1.1"), &["Host: localhost"]));
    // Refused while it still arrives.
    refused(&server, 414, format!("GET {longest}aa").as_bytes());
}

fn a_long_head_gets_431(driver: Driver) {
    let server = start(driver);
    let longest = |more: usize| {
        let empty = upgrade_with("nothing", &["X: "]).len();
        upgrade_with("nothing", &[&format!("X: {}", "a".repeat(16 * 1024 - empty + more))])
    };
    assert_eq!(longest(0).len(), 16 * 1024);
    accepted(&server, &longest(0));
    refused(&server, 431, &longest(1));
    // An endless one is refused while it still arrives, also a piece at a time.
    refused(&server, 431, &longest(100_000));
    let mut peer = server.connect();
    peer.send(b"GET / HTTP/1.1\r\nX: ");
    for _ in 0..17 {
        peer.send(&[b'a'; 1024]);
    }
    assert_eq!(peer.read_answer().status, 431);
    let small = TestServer::start(driver, |server| {
        server.limits(Limits::new().max_head(100)).websocket("/", |_| Echo)
    });
    refused(&small, 431, &request("/"));
}

fn many_header_lines_get_431(driver: Driver) {
    let server = start(driver);
    let lines = |count: usize| {
        let lines: Vec<String> = (0..count).map(|i| format!("X{i}: y")).collect();
        upgrade_with("nothing", &lines.iter().map(String::as_str).collect::<Vec<_>>())
    };
    accepted(&server, &lines(95));
    refused(&server, 431, &lines(96));
    refused(&server, 431, &lines(1400));
}

fn odd_but_legal_requests_are_accepted(driver: Driver) {
    let server = start(driver);
    let key = format!("sEC-wEBsOCKET-kEY:   {KEY}\t");
    accepted(&server, &upgrade_with("Sec-WebSocket-Key", &[&key]));
    for line in ["upgrade:WebSocket", "UPGRADE: h2c, websocket", "Upgrade: ,\t,WEBSOCKET ,"] {
        accepted(&server, &upgrade_with("Upgrade", &[line]));
    }
    for line in ["Connection: keep-alive, upgrade", "connection:UPGRADE", "Connection: a,,Upgrade"]
    {
        accepted(&server, &upgrade_with("Connection", &[line]));
    }
    accepted(&server, &upgrade_with("Connection", &["Connection: a", "Connection: upgrade"]));
    accepted(&server, &upgrade_with("nothing", &["Cookie: a=\u{e9}", "Empty:", "X: a\tb"]));
}

fn unknown_extensions_and_subprotocols_are_declined(driver: Driver) {
    let server = start(driver);
    let offers: Vec<String> = (0..1000).map(|i| format!("x{i}")).collect();
    let offers = format!("Sec-WebSocket-Extensions: {}", offers.join(", "));
    for line in [
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        "Sec-WebSocket-Extensions: __proto__; constructor=1; a=\"b\"",
        "Sec-WebSocket-Extensions: a; a; a=1; a=2, a, a",
        &offers,
        "Sec-WebSocket-Protocol: chat, superchat",
        "Sec-WebSocket-Protocol: chat, chat",
    ] {
        let head = accepted(&server, &upgrade_with("nothing", &[line]));
        assert!(!head.contains("Sec-WebSocket-Extensions"), "{head}");
        assert!(!head.contains("Sec-WebSocket-Protocol"), "{head}");
    }
}

fn malformed_lists_get_400(driver: Driver) {
    let server = start(driver);
    let blanks = format!("Sec-WebSocket-Protocol: a{}b", " ".repeat(10_000));
    for line in [
        "Sec-WebSocket-Extensions: a b",
        "Sec-WebSocket-Extensions: a;",
        "Sec-WebSocket-Extensions: a;=1",
        "Sec-WebSocket-Extensions: a; b=",
        "Sec-WebSocket-Extensions: a; b=\"",
        "Sec-WebSocket-Extensions: a; b=\"c d\"",
        "Sec-WebSocket-Extensions: ;",
        "Sec-WebSocket-Protocol: a b",
        "Sec-WebSocket-Protocol: a/b",
        "Sec-WebSocket-Protocol: \"a\"",
        &blanks,
    ] {
        refused(&server, 400, &upgrade_with("nothing", &[line]));
    }
}

fn a_head_torn_at_any_byte_is_accepted(driver: Driver) {
    let server = start(driver);
    let mut bytes = request("/");
    let head_len = bytes.len();
    bytes.extend(frame(0x81, b"hi"));
    for cut in 1..=head_len {
        let mut peer = server.connect();
        peer.send(&bytes[..cut]);
        // Long enough for most cuts to arrive as two reads; any cut must work either way.
        thread::sleep(Duration::from_micros(500));
        peer.send(&bytes[cut..]);
        assert!(peer.read_head().starts_with("HTTP/1.1 101 "), "cut at {cut}");
        assert_eq!(peer.read_frame().payload, b"hi", "cut at {cut}");
    }
    let mut peer = server.connect();
    for byte in &bytes {
        peer.send(&[*byte]);
        thread::sleep(Duration::from_micros(200));
    }
    assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
    assert_eq!(peer.read_frame().payload, b"hi");
}

fn a_bad_head_torn_at_any_byte_is_refused_alike(driver: Driver) {
    let server = start(driver);
    let bytes = upgrade_with("Sec-WebSocket-Key", &["Sec-WebSocket-Key: short"]);
    for cut in (1..bytes.len()).step_by(5) {
        let mut peer = server.connect();
        peer.send(&bytes[..cut]);
        thread::sleep(Duration::from_micros(500));
        peer.send(&bytes[cut..]);
        assert_eq!(peer.read_answer().status, 400, "cut at {cut}");
    }
    assert_eq!(server.stats().opened, 0);
}

fn what_is_not_http_is_refused_at_its_first_impossible_byte(driver: Driver) {
    let server = start(driver);
    // Nothing follows and nobody ends the connection: an answer other than 408 needs no more.
    refused(&server, 400, &[0x16]);
    refused(&server, 400, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03");
    refused(&server, 400, b"PRI *");
    refused(&server, 400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    refused(&server, 400, b"PROXY T");
    refused(&server, 400, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\n");
    refused(&server, 400, b"\r\n\r\n\0\r\nQUIT\n");
    refused(&server, 400, b"SSH-2.0-x\r\n");
    refused(&server, 400, b"\n");
    refused(&server, 400, b"\x81");
    refused(&server, 505, b"GET / HTTP/2");
}

fn a_dribbled_head_is_cut_by_an_absolute_deadline(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        server.handshake_timeout(Duration::from_millis(600)).websocket("/", |_| Echo)
    });
    let start = Instant::now();
    let mut peer = server.connect();
    peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ");
    let mut writer = peer.stream.try_clone().expect("a descriptor");
    let dribble = thread::spawn(move || {
        // A byte every few milliseconds must not move the deadline; at the end nobody takes more.
        while start.elapsed() < common::PATIENCE && writer.write_all(b"a").is_ok() {
            thread::sleep(Duration::from_millis(5));
        }
    });
    assert_eq!(peer.read_answer().status, 408);
    assert!(start.elapsed() >= Duration::from_millis(550), "{:?}", start.elapsed());
    peer.stream.shutdown(std::net::Shutdown::Both).expect("a connected socket");
    dribble.join().expect("no panic");
    let stats = server.wait_for("the refusal", |stats| stats.refused == 1);
    assert_eq!(stats.opened, 0);
    server.wait_for("the slot to be free", |stats| stats.connections == 0);
}

fn a_peer_that_says_nothing_is_ended_without_a_word(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        server.handshake_timeout(Duration::from_millis(100)).websocket("/", |_| Echo)
    });
    let start = Instant::now();
    let mut peer = server.connect();
    peer.expect_end();
    assert!(start.elapsed() >= Duration::from_millis(60), "{:?}", start.elapsed());
    server.wait_for("the slot to be free", |stats| stats.connections == 0);
}

fn a_peer_that_leaves_during_the_handshake_opens_nothing(driver: Driver) {
    let server = start(driver);
    let bytes = request("/");
    for cut in (0..bytes.len()).step_by(10) {
        let mut peer = server.connect();
        peer.send(&bytes[..cut]);
        if cut % 20 == 0 {
            peer.reset();
        } else {
            peer.finish();
            peer.expect_end();
        }
    }
    let stats = server.wait_for("every slot to be free", |stats| stats.connections == 0);
    assert_eq!((stats.opened, stats.closed), (0, 0));
}

fn a_peer_that_half_closes_still_gets_its_answer(driver: Driver) {
    let server = start(driver);
    for (path, status) in [("/page", 200), ("/nothing", 404)] {
        let mut peer = server.connect();
        peer.send(&head(&format!("GET {path} HTTP/1.1"), &["Host: localhost"]));
        peer.finish();
        assert_eq!(peer.read_answer().status, status);
    }
}

fn a_page_and_a_websocket_share_a_path(driver: Driver) {
    let server = start(driver);
    let get = |line: &str, more: &[&str]| {
        let mut lines = vec!["Host: localhost"];
        lines.extend(more);
        let mut peer = server.connect();
        peer.send(&head(line, &lines));
        peer.read_answer()
    };
    let answer = get("GET /both HTTP/1.1", &[]);
    assert_eq!((answer.status, &answer.body[..]), (200, &b"a page"[..]));
    assert_eq!(answer.header("Content-Type"), Some("text/plain; charset=utf-8"));
    assert_eq!(get("GET /page?a=b HTTP/1.0", &["Connection: keep-alive"]).body, b"a=b");
    server.connect().handshake("/both");
    // Who asks for an upgrade and gets it wrong is told so; the page is for those who do not ask.
    let request = String::from_utf8(request("/both")).expect("ASCII");
    refused(&server, 426, request.replace("Version: 13", "Version: 8").as_bytes());
}

fn head_gets_the_head_of_the_answer_only(driver: Driver) {
    let server = start(driver);
    for (path, status) in [("/page", 200), ("/both", 200), ("/nothing", 404), ("/", 405)] {
        let mut peer = server.connect();
        peer.send(&head(&format!("HEAD {path} HTTP/1.1"), &["Host: localhost"]));
        let answer = peer.read_answer_to_head();
        assert_eq!(answer.status, status, "{path}");
        // RFC 9110 9.3.2: no content, but the length that GET would have got.
        assert_eq!(answer.body, b"", "{path}");
        assert_ne!(answer.header("Content-Length"), Some("0"), "{path}");
        assert!(answer.header("Content-Length").is_some(), "{path}");
    }
}

/// What a panic carries may panic, too.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("asked for by the test");
    }
}

fn a_page_that_fails_gets_500(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        server
            .get("/panic", |_| -> Response { panic!("asked for by the test") })
            .get("/bomb", |_| -> Response { std::panic::panic_any(Bomb) })
            .get("/status", |_| Response::new(101))
            .get("/header", |_| Response::new(200).header("X", "a\r\nSet-Cookie: b"))
            .get("/name", |_| Response::new(200).header("X Y", "a"))
            .get("/length", |_| Response::new(200).header("Content-Length", "9"))
            .get("/fine", |_| Response::new(204))
    });
    for path in ["/panic", "/bomb", "/status", "/header", "/name", "/length", "/bomb"] {
        let get = head(&format!("GET {path} HTTP/1.1"), &["Host: localhost"]);
        let answer = refused(&server, 500, &get);
        assert!(!answer.head.contains("Set-Cookie"), "{answer:?}");
    }
    let mut peer = server.connect();
    peer.send(&head("GET /fine HTTP/1.1", &["Host: localhost"]));
    assert_eq!(peer.read_answer_to_head().status, 204);
}

fn a_second_request_behind_the_upgrade_gets_1002_and_no_http(driver: Driver) {
    let server = start(driver);
    for second in [request("/"), head("GET /page HTTP/1.1", &["Host: localhost"])] {
        for together in [true, false] {
            let mut peer = server.connect();
            let mut bytes = request("/");
            if together {
                bytes.extend_from_slice(&second);
                peer.send(&bytes);
            } else {
                peer.send(&bytes);
            }
            assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
            if !together {
                peer.send(&second);
            }
            peer.expect_close(1002);
        }
    }
    // Behind the last page of a connection nothing is looked at.
    let page = head("GET /page HTTP/1.1", &["Host: localhost", "Connection: close"]);
    let mut peer = server.connect();
    peer.send(&[&page[..], &page, &request("/")].concat());
    assert_eq!(peer.read_answer().body, b"none");
    server.wait_for("four openings", |stats| stats.opened == 4);
}

fn a_refused_request_says_nothing_that_the_peer_said(driver: Driver) {
    let server = start(driver);
    let marker = "zebra";
    let requests = [
        format!("GET /{marker} HTTP/1.1\r\nHost: {marker}\r\n\r\n"),
        format!("{marker} / HTTP/1.1\r\nHost: {marker}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\n{marker}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {marker}\r\nUpgrade: {marker}\r\n\r\n"),
    ];
    for request in requests {
        let mut peer = server.connect();
        peer.send(request.as_bytes());
        let answer = peer.read_answer();
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(!answer.head.contains(marker) && !body.contains(marker), "{answer:?}");
    }
}
