//! RFC 6455 10.2: a browser's page opens a connection only if its site may.

mod common;

use common::{Echo, TestServer};
use wirelane::{Driver, Error, Handler, Message, Origins, RouteOptions, Server, WebSocket};

on_every_driver!(
    only_pages_of_the_same_host_may_connect_by_default,
    a_list_lets_in_exactly_its_sites,
    a_check_sees_the_whole_request,
    a_check_that_panics_refuses,
    any_site_is_a_decision_by_name,
    a_route_may_differ_from_the_server,
    a_refused_origin_never_reaches_the_handler,
);

fn status(server: &TestServer, target: &str, host: &str, origins: &[&str]) -> u16 {
    let mut peer = server.connect();
    let mut request = String::from_utf8(common::request(target)).expect("ASCII");
    request = request.replace("Host: localhost", &format!("Host: {host}"));
    request.truncate(request.len() - 2);
    for origin in origins {
        request.push_str(&format!("Origin: {origin}\r\n"));
    }
    request.push_str("\r\n");
    peer.send(request.as_bytes());
    let head = peer.read_head();
    let status = head[9..12].parse().expect("a status");
    match status {
        101 => {
            peer.send_text("open");
            assert_eq!(peer.read_frame().payload, b"open");
        }
        _ => assert!(head.contains("Connection: close"), "{head}"),
    }
    status
}

fn only_pages_of_the_same_host_may_connect_by_default(driver: Driver) {
    let server = TestServer::start(driver, |server| server.websocket("/", |_| Echo));
    for (host, origins) in [
        ("localhost:9001", &[][..]),
        ("localhost:9001", &["http://localhost:9001"]),
        ("localhost", &["http://localhost"]),
        ("localhost", &["https://localhost"]),
        ("localhost:443", &["https://localhost"]),
        ("Example.com", &["https://EXAMPLE.com:443"]),
        ("[::1]:9001", &["http://[::1]:9001"]),
    ] {
        assert_eq!(status(&server, "/", host, origins), 101, "{host} {origins:?}");
    }
    for (host, origins) in [
        ("localhost:9001", &["http://localhost"][..]),
        ("localhost:9001", &["http://localhost:9002"]),
        ("localhost:9001", &["http://evil.example"]),
        ("localhost:9001", &["http://localhost.evil.example:9001"]),
        ("localhost:9001", &["null"]),
        ("localhost:9001", &[""]),
        ("localhost:9001", &["localhost:9001"]),
        ("localhost:9001", &["http://localhost:9001", "http://localhost:9001"]),
        ("localhost:9001", &["http://localhost:9001", "http://evil.example"]),
        ("localhost:9001", &["http://localhost:9001/"]),
        ("localhost:9001", &["chrome-extension://localhost:9001"]),
        ("localhost:80", &["https://localhost"]),
        ("127.0.0.1", &["http://localhost"]),
        ("localhost", &["http://\u{ff4c}ocalhost"]),
    ] {
        assert_eq!(status(&server, "/", host, origins), 403, "{host} {origins:?}");
    }
    let stats = server.wait_for("the end", |stats| stats.connections == 0);
    assert_eq!((stats.opened, stats.refused), (7, 14));
}

fn a_list_lets_in_exactly_its_sites(driver: Driver) {
    let sites = ["https://app.example", "http://localhost:3000"];
    let server = TestServer::start(driver, |server| {
        server.origins(Origins::list(sites)).websocket("/", |_| Echo)
    });
    for origin in [
        "https://app.example",
        "https://app.example:443",
        "http://localhost:3000",
        "HTTPS://App.Example",
    ] {
        assert_eq!(status(&server, "/", "api.example", &[origin]), 101, "{origin}");
    }
    assert_eq!(status(&server, "/", "api.example", &[]), 101, "not a browser");
    for origin in [
        "https://api.example",
        "http://app.example",
        "https://app.example:8443",
        "https://app.example.evil",
        "https://evil.app.example",
        "http://localhost",
        "null",
    ] {
        assert_eq!(status(&server, "/", "api.example", &[origin]), 403, "{origin}");
    }
}

fn a_check_sees_the_whole_request(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        server
            .origins(Origins::check(|request| match request.origin() {
                Some(origin) => origin.ends_with(".example"),
                None => request.parameter("who").is_some_and(|who| who == "program"),
            }))
            .websocket("/:who", |_| Echo)
    });
    assert_eq!(status(&server, "/page", "h", &["https://a.example"]), 101);
    assert_eq!(status(&server, "/page", "h", &["https://a.invalid"]), 403);
    assert_eq!(status(&server, "/program", "h", &[]), 101);
    assert_eq!(status(&server, "/page", "h", &[]), 403);
}

fn a_check_that_panics_refuses(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        let check = Origins::check(|request| request.origin().expect("of the test").is_empty());
        server.origins(check).websocket("/", |_| Echo)
    });
    assert_eq!(status(&server, "/", "h", &[]), 403);
    assert_eq!(status(&server, "/", "h", &[""]), 101);
}

fn any_site_is_a_decision_by_name(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        server.origins(Origins::any_site_may_connect_dangerously()).websocket("/", |_| Echo)
    });
    for origins in [&[][..], &["null"], &["https://evil.example"], &["a", "b"]] {
        assert_eq!(status(&server, "/", "h", origins), 101, "{origins:?}");
    }
}

fn a_route_may_differ_from_the_server(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        let open = RouteOptions::new().origins(Origins::any_site_may_connect_dangerously());
        server.websocket_with("/open", open, |_| Echo).websocket("/strict", |_| Echo)
    });
    assert_eq!(status(&server, "/open", "h", &["https://evil.example"]), 101);
    assert_eq!(status(&server, "/strict", "h", &["https://evil.example"]), 403);
}

/// Must not be asked.
struct Unasked;

impl Handler for Unasked {
    type Session = ();

    fn on_upgrade(&mut self, _: &wirelane::UpgradeRequest<'_>) -> wirelane::Upgrade<()> {
        wirelane::Upgrade::reject(418, "was asked\n")
    }

    fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {}
}

fn a_refused_origin_never_reaches_the_handler(driver: Driver) {
    let server = TestServer::start(driver, |server| server.websocket("/", |_| Unasked));
    assert_eq!(status(&server, "/", "h", &["https://evil.example"]), 403);
    assert_eq!(status(&server, "/", "h", &["https://h"]), 418);
}

#[test]
fn what_is_no_site_is_an_error_of_the_builder() {
    let origins = || Origins::list(["https://*.example"]);
    let builder = || Server::builder().listen("127.0.0.1:0");
    let of_route = RouteOptions::new().origins(origins());
    for server in [
        builder().origins(origins()).websocket("/", |_| Echo),
        builder().websocket_with("/", of_route, |_| Echo),
    ] {
        match server.build() {
            Err(Error::Config { field: "origins", reason }) => {
                assert!(reason.contains("https://*.example"), "{reason}");
            }
            other => panic!("expected a configuration error, got {other:?}"),
        }
    }
}
