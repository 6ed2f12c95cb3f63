//! `on_upgrade` decides: who is let in, with which state, subprotocol and headers, and what the
//! others are told. RFC 6455 4.2.2.

mod common;

use std::time::Duration;

use common::{Answer, Peer, TestServer};
use wirelane::{
    Driver, Error, Handler, Message, Response, RouteOptions, Server, Session, Upgrade,
    UpgradeRequest, WebSocket,
};

on_every_driver!(
    a_request_is_seen_as_it_was_sent,
    the_session_is_what_was_accepted,
    headers_of_the_application_are_part_of_the_101,
    a_rejection_is_answered_as_it_was_made,
    impossible_answers_get_500_and_open_nothing,
    a_panic_gets_500_and_costs_nobody_else,
    a_session_without_a_default_needs_a_decision,
    the_servers_preference_decides_among_the_offers,
    the_applications_choice_goes_before_the_list,
    the_subprotocol_is_known_until_on_close,
    the_most_specific_route_answers,
);

/// Two frames in the segment of the request: nothing of them may be lost or answered as HTTP.
fn request(target: &str, lines: &[&str]) -> Vec<u8> {
    let mut request = String::from_utf8(common::request(target)).expect("ASCII");
    request.truncate(request.len() - 2);
    for line in lines {
        request.push_str(line);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    request.into_bytes()
}

fn accepted(server: &TestServer, target: &str, lines: &[&str]) -> (Peer, String) {
    let mut peer = server.connect();
    peer.send(&request(target, lines));
    let head = peer.read_head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    (peer, head)
}

fn refused(server: &TestServer, target: &str, lines: &[&str]) -> Answer {
    let mut peer = server.connect();
    peer.send(&request(target, lines));
    peer.read_answer()
}

/// What `text` brings back.
fn ask(peer: &mut Peer, text: &str) -> String {
    peer.send_text(text);
    String::from_utf8(peer.read_frame().payload).expect("text")
}

/// Decides as the target says, and tells what it knows.
struct Gate;

/// Has no default on purpose.
struct Guest {
    badge: String,
}

impl Session for Guest {}

fn guest(badge: impl Into<String>) -> Guest {
    Guest { badge: badge.into() }
}

impl Handler for Gate {
    type Session = Guest;

    fn on_upgrade(&mut self, request: &UpgradeRequest<'_>) -> Upgrade<Guest> {
        match request.parameter_at(0).unwrap_or_default().as_ref() {
            "describe" => {
                let lines = request.headers().count();
                let cookie = request.header("cookie").map(String::from_utf8_lossy);
                let offers: Vec<_> = request.subprotocols().collect();
                let extensions: Vec<_> = request.extensions().map(|offer| offer.name()).collect();
                let pairs: Vec<_> = request.query_pairs().collect();
                Upgrade::accept(guest(format!(
                    "{} {} {:?} {:?} {pairs:?} {:?} {cookie:?} {lines} {offers:?} {extensions:?} \
                     {:?} {}",
                    request.method(),
                    request.path(),
                    request.parameter("what"),
                    request.query(),
                    request.host(),
                    request.origin(),
                    request.peer_addr().is_some_and(|addr| addr.ip().is_loopback()),
                )))
            }
            "cookie" => Upgrade::accept(guest("cookie"))
                .header("Set-Cookie", "a=1")
                .header("Set-Cookie", format!("b={}", 2)),
            "reject" => Upgrade::reject(401, "Who are you?\n").header("WWW-Authenticate", "Bearer"),
            "redirect" => Response::new(307).header("Location", "/elsewhere").into(),
            "header" => Upgrade::accept(guest("")).header("X-Evil", "a\r\nSet-Cookie: b"),
            "reserved" => Upgrade::accept(guest("")).header("Sec-WebSocket-Accept", "mine"),
            "status" => Upgrade::reject(101, "no refusal at all"),
            "unoffered" => Upgrade::accept(guest("")).subprotocol("unoffered"),
            "panic" => panic!("of the test"),
            choice => match request.query_value("choose") {
                Some(name) => Upgrade::accept(guest(choice)).subprotocol(name.into_owned()),
                None => Upgrade::accept(guest(choice)),
            },
        }
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, Guest>, message: Message<'_>) {
        let answer = match message {
            Message::Text("subprotocol") => format!("{:?}", ws.subprotocol()),
            _ => ws.session().badge.clone(),
        };
        ws.send(&answer);
    }
}

fn start(driver: Driver) -> TestServer {
    TestServer::start(driver, |server| {
        let options = RouteOptions::new().subprotocols(["v3", "v2", "v1"]);
        server.websocket("/plain/:what", |_| Gate).websocket_with("/:what", options, |_| Gate)
    })
}

fn a_request_is_seen_as_it_was_sent(driver: Driver) {
    let server = start(driver);
    let lines = [
        "Cookie: a=b",
        "Origin: http://localhost",
        "Sec-WebSocket-Protocol: x, y",
        "Sec-WebSocket-Protocol: z",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, other",
    ];
    let (mut peer, _) = accepted(&server, "/describe?a=%41+b&c", &lines);
    assert_eq!(
        ask(&mut peer, "who am I?"),
        "GET /describe Some(\"describe\") Some(\"a=%41+b&c\") [(\"a\", \"A+b\"), (\"c\", \"\")] \
         Some(\"localhost\") Some(\"a=b\") 10 [\"x\", \"y\", \"z\"] \
         [\"permessage-deflate\", \"other\"] Some(\"http://localhost\") true"
    );
}

fn the_session_is_what_was_accepted(driver: Driver) {
    let server = start(driver);
    let mut peers: Vec<_> =
        (0..5).map(|i| accepted(&server, &format!("/guest%20{i}"), &[]).0).collect();
    for (i, peer) in peers.iter_mut().enumerate() {
        assert_eq!(ask(peer, "who am I?"), format!("guest {i}"));
    }
}

fn headers_of_the_application_are_part_of_the_101(driver: Driver) {
    let server = start(driver);
    let (mut peer, head) = accepted(&server, "/cookie", &[]);
    assert!(head.ends_with("\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n"), "{head}");
    assert_eq!(ask(&mut peer, "who am I?"), "cookie");
}

fn a_rejection_is_answered_as_it_was_made(driver: Driver) {
    let server = start(driver);
    let answer = refused(&server, "/reject", &[]);
    assert_eq!((answer.status, &answer.body[..]), (401, &b"Who are you?\n"[..]));
    assert_eq!(answer.header("WWW-Authenticate"), Some("Bearer"));
    assert_eq!(answer.header("Content-Type"), Some("text/plain; charset=utf-8"));
    let answer = refused(&server, "/redirect", &[]);
    assert_eq!((answer.status, answer.header("Location")), (307, Some("/elsewhere")));
    let stats = server.wait_for("the rejection", |stats| stats.connections == 0);
    assert_eq!((stats.refused, stats.opened, stats.handler_panics), (1, 0, 0));
}

fn impossible_answers_get_500_and_open_nothing(driver: Driver) {
    let server = start(driver);
    for target in ["/header", "/reserved", "/status", "/unoffered"] {
        let answer = refused(&server, target, &["Sec-WebSocket-Protocol: offered, UNOFFERED"]);
        assert_eq!(answer.status, 500, "{target}");
        assert!(!answer.head.contains("Evil") && !answer.head.contains("Cookie"), "{answer:?}");
    }
    let stats = server.wait_for("the end", |stats| stats.connections == 0);
    assert_eq!((stats.refused, stats.opened, stats.closed), (4, 0, 0));
}

fn a_panic_gets_500_and_costs_nobody_else(driver: Driver) {
    let server = start(driver);
    let (mut other, _) = accepted(&server, "/other", &[]);
    assert_eq!(refused(&server, "/panic", &[]).status, 500);
    assert_eq!(ask(&mut other, "still there?"), "other");
    let stats = server.wait_for("the count", |stats| stats.handler_panics == 1);
    assert_eq!((stats.refused, stats.opened, stats.closed), (1, 1, 0));
}

/// Does not decide.
struct Undecided;

impl Handler for Undecided {
    type Session = Guest;

    fn on_message(&mut self, _ws: &mut WebSocket<'_, Guest>, _message: Message<'_>) {}
}

fn a_session_without_a_default_needs_a_decision(driver: Driver) {
    let server = TestServer::start(driver, |server| server.websocket("/", |_| Undecided));
    assert_eq!(refused(&server, "/", &[]).status, 500);
    assert_eq!(server.stats().opened, 0);
}

/// The subprotocol of the answer.
fn agreed(head: &str) -> Option<&str> {
    let mut lines = head.split("\r\n").filter_map(|line| line.split_once(": "));
    lines.find(|(name, _)| *name == "Sec-WebSocket-Protocol").map(|(_, value)| value)
}

fn the_servers_preference_decides_among_the_offers(driver: Driver) {
    let server = start(driver);
    for (offers, expected) in [
        (&["Sec-WebSocket-Protocol: v1, v2"][..], Some("v2")),
        (&["Sec-WebSocket-Protocol: v1", "Sec-WebSocket-Protocol: v3, v2"], Some("v3")),
        (&["Sec-WebSocket-Protocol: v9, v1, v1"], Some("v1")),
        // RFC 6455 4.2.2: none in common: no header; names are compared with regard to case.
        (&["Sec-WebSocket-Protocol: V1, v, v11"], None),
        (&[], None),
    ] {
        let (mut peer, head) = accepted(&server, "/guest", offers);
        assert_eq!(agreed(&head), expected, "{offers:?}");
        assert_eq!(ask(&mut peer, "subprotocol"), format!("{expected:?}"));
    }
    let (_, head) = accepted(&server, "/plain/guest", &["Sec-WebSocket-Protocol: v1"]);
    assert_eq!(agreed(&head), None, "another route has no list");
}

fn the_applications_choice_goes_before_the_list(driver: Driver) {
    let server = start(driver);
    for (choice, expected) in [("v1", "v1"), ("other", "other")] {
        let target = format!("/guest?choose={choice}");
        let offers = ["Sec-WebSocket-Protocol: v3, v1, other"];
        let (mut peer, head) = accepted(&server, &target, &offers);
        assert_eq!(agreed(&head), Some(expected));
        assert_eq!(ask(&mut peer, "subprotocol"), format!("Some({expected:?})"));
    }
    let target = "/guest?choose=v1";
    assert_eq!(refused(&server, target, &["Sec-WebSocket-Protocol: v3"]).status, 500);
}

fn the_subprotocol_is_known_until_on_close(driver: Driver) {
    struct Farewell(std::sync::mpsc::Sender<Option<String>>);

    impl Handler for Farewell {
        type Session = ();

        fn on_upgrade(&mut self, request: &UpgradeRequest<'_>) -> Upgrade<()> {
            match request.subprotocols().next() {
                Some("listed") | None => Upgrade::accept(()),
                Some(other) => Upgrade::accept(()).subprotocol(other.to_owned()),
            }
        }

        fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {}

        fn on_close(&mut self, ws: &mut WebSocket<'_, ()>, _close: wirelane::Close<'_>) {
            self.0.send(ws.subprotocol().map(str::to_owned)).expect("the test waits");
        }
    }

    let (told, heard) = std::sync::mpsc::channel();
    let server = TestServer::start(driver, |server| {
        let options = RouteOptions::new().subprotocols(["listed"]);
        server.websocket_with("/", options, move |_| Farewell(told.clone()))
    });
    // One after the other in the same slot: nothing is left of the tenant before.
    for offer in [Some("listed"), Some("chosen"), None, Some("listed")] {
        let line = offer.map(|offer| format!("Sec-WebSocket-Protocol: {offer}"));
        let lines: Vec<&str> = line.iter().map(String::as_str).collect();
        let (mut peer, _) = accepted(&server, "/", &lines);
        peer.send_frame(0x88, &[]);
        peer.read_frame();
        peer.expect_end();
        let name = heard.recv_timeout(common::PATIENCE).expect("on_close");
        assert_eq!(name.as_deref(), offer);
        drop(peer);
        server.wait_for("the end", |stats| stats.connections == 0);
    }
}

fn the_most_specific_route_answers(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        server
            .websocket("/room/:id", |_| Gate)
            .get("/room/:id", |request| {
                Response::text(format!("page of {:?}\n", request.parameter("id")))
            })
            .get("/room/lobby", |_| Response::text("the lobby\n"))
            .get("/files/*", |request| Response::text(format!("file {:?}\n", request.rest())))
    });
    let get = |target: &str| {
        let mut peer = server.connect();
        peer.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        let answer = peer.read_answer();
        (answer.status, String::from_utf8(answer.body).expect("text"))
    };
    assert_eq!(get("/room/lobby"), (200, "the lobby\n".into()));
    assert_eq!(get("/room/a%2Fb"), (200, "page of Some(\"a/b\")\n".into()));
    assert_eq!(get("/files/a/../b%20c?d"), (200, "file Some(\"a/../b%20c\")\n".into()));
    for target in ["/room", "/room/", "/room/1/2", "/files", "/ROOM/lobby"] {
        assert_eq!(get(target).0, 404, "{target}");
    }
    let (mut peer, _) = accepted(&server, "/room/17", &[]);
    assert_eq!(ask(&mut peer, "where am I?"), "17");
}

#[test]
fn the_builder_names_the_field_and_the_pattern() {
    fn problem(
        configure: impl FnOnce(wirelane::ServerBuilder) -> wirelane::ServerBuilder,
    ) -> (&'static str, String) {
        match configure(Server::builder().listen("127.0.0.1:0")).build() {
            Err(Error::Config { field, reason }) => (field, reason),
            other => panic!("expected a configuration error, got {other:?}"),
        }
    }
    let page = |_: &wirelane::Request<'_>| Response::new(200);
    for (expected, pattern, (field, reason)) in [
        ("websocket", "chat", problem(|server| server.websocket("chat", |_| Gate))),
        ("websocket", "/a/*/b", problem(|server| server.websocket("/a/*/b", |_| Gate))),
        ("get", "/:", problem(|server| server.get("/:", page))),
        ("get", "/a b", problem(|server| server.get("/a b", page))),
        ("get", "/:b", problem(|server| server.get("/:a", page).get("/:b", page))),
        ("get", "/a", problem(|server| server.get("/a", page).get("/a", page))),
        (
            "websocket",
            "/:a",
            problem(|server| server.websocket("/:a", |_| Gate).websocket("/:a", |_| Gate)),
        ),
        (
            "subprotocols",
            "/a",
            problem(|server| {
                let options = RouteOptions::new().subprotocols(["chat", "chat"]);
                server.websocket_with("/a", options, |_| Gate)
            }),
        ),
    ] {
        assert_eq!(field, expected, "{reason}");
        assert!(reason.contains(&format!("{pattern:?}")), "{reason}");
    }
}

#[test]
fn a_server_with_good_patterns_starts_and_stops() {
    let server = start(Driver::Epoll);
    server.stop(Duration::ZERO).expect("nothing is wrong");
}
