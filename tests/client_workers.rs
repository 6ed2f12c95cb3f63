//! Connections of our own on the workers: opened, used, closed, refused, given up.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use common::dialling::{
    Probe, Seen, client, failure, next, open, read_head, scripted, upgraded, url, wait_for,
};
use common::{Echo, PATIENCE, ReservedPort, TestServer};
use wirelane::client::{Client, ConnectError, Dial, DialError, DialEvent, DialResponse};
use wirelane::{
    CloseCause, CloseCode, Driver, Handler, Message, RouteOptions, SendError, WebSocket,
    WorkerContext,
};

on_every_driver! {
    messages_travel_both_ways,
    unix_sockets_are_connected_to,
    a_long_message_comes_back_whole,
    either_side_may_close,
    a_refused_connection_is_reported,
    the_next_address_is_tried,
    a_server_that_never_answers_times_out,
    an_answer_that_is_wrong_is_not_accepted,
    a_refusal_comes_with_its_headers_and_body,
    redirects_are_reported_and_not_followed,
    subprotocols_are_agreed_on,
    a_subprotocol_that_was_not_offered_ends_the_attempt,
    names_are_looked_up_off_the_event_loop,
    a_name_that_does_not_exist_is_reported,
    a_session_may_be_declined,
    a_server_that_masks_is_told_so,
    frames_right_behind_the_answer_are_delivered,
    ids_reach_the_connection_from_anywhere,
    a_shutdown_closes_with_1001,
    a_dial_can_be_taken_back,
    a_panic_costs_one_connection,
    impossible_dials_are_errors,
}

fn messages_travel_both_ways(driver: Driver) {
    let server = TestServer::start(driver, |builder| builder.websocket("/", |_| Echo));
    let client = client(driver);
    let (probe, seen) = Probe::doing(|ws| {
        assert_eq!(ws.peer_addr().map(|addr| addr.ip().is_loopback()), Some(true));
        ws.send("Hello");
        ws.send(&[1_u8, 2, 3][..]);
        ws.send("");
    });
    client.connect(&Dial::to(url(&server)), probe).expect("a good dial");
    open(&seen);
    assert_eq!(next(&seen), Seen::Text("Hello".into()));
    assert_eq!(next(&seen), Seen::Binary(vec![1, 2, 3]));
    assert_eq!(next(&seen), Seen::Text(String::new()));
    client.shutdown(PATIENCE).expect("a clean end");
    assert_eq!(next(&seen), Seen::Close(1001, CloseCause::Local));
    assert_eq!(next(&seen), Seen::Ended(false));
}

fn unix_sockets_are_connected_to(driver: Driver) {
    let path = std::env::temp_dir().join(format!("wirelane-dial-{}-{driver}", std::process::id()));
    let address = format!("unix:{}", path.display());
    let _server = TestServer::start(driver, |builder| {
        builder.listen(address.as_str()).websocket("/chat", |_| Echo)
    });
    let client = client(driver);
    for dial in
        [Dial::to(format!("ws+unix:{}:/chat", path.display())), Dial::to(&address).target("/chat")]
    {
        let (probe, seen) = Probe::doing(|ws| {
            assert_eq!(ws.peer_addr(), None);
            ws.send("Hello");
        });
        client.connect(&dial, probe).expect("a good dial");
        open(&seen);
        assert_eq!(next(&seen), Seen::Text("Hello".into()));
    }
    let nowhere = Dial::to(format!("unix:{}.nobody", path.display()));
    let error = failure(driver, &nowhere);
    assert!(error.starts_with("cannot connect: "), "{error}");
}

fn a_long_message_comes_back_whole(driver: Driver) {
    let server = TestServer::start(driver, |builder| {
        let limits = wirelane::Limits::new().max_message(8 << 20);
        builder.limits(limits).max_backpressure(16 << 20).websocket("/", |_| Echo)
    });
    let limits = wirelane::Limits::new().max_message(8 << 20);
    let client = Client::builder().driver(driver).limits(limits).max_backpressure(32 << 20);
    let client = client.start().expect("possible settings");
    let (probe, seen) = Probe::doing(|ws| {
        for len in [20_000_usize, 5 << 20, 70_000, 1] {
            let payload: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
            ws.send(&payload[..]);
        }
    });
    client.connect(&Dial::to(url(&server)), probe).expect("a good dial");
    open(&seen);
    for len in [20_000_usize, 5 << 20, 70_000, 1] {
        let payload: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
        assert!(next(&seen) == Seen::Binary(payload), "{len} bytes came back changed");
    }
}

/// Closes whatever it receives a message from.
struct Closer;

impl Handler for Closer {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {
        ws.close(CloseCode::new(4000).expect("an application's code"), "enough");
    }
}

fn either_side_may_close(driver: Driver) {
    let server = TestServer::start(driver, |builder| builder.websocket("/", |_| Closer));
    let client = client(driver);
    let (probe, seen) = Probe::doing(|ws| {
        ws.send("close me");
    });
    client.connect(&Dial::to(url(&server)), probe).expect("a good dial");
    open(&seen);
    assert_eq!(next(&seen), Seen::Close(4000, CloseCause::Peer));
    assert_eq!(next(&seen), Seen::Ended(false));
    let (probe, seen) = Probe::doing(|ws| ws.close(CloseCode::NORMAL, "thanks"));
    client.connect(&Dial::to(url(&server)), probe).expect("a good dial");
    open(&seen);
    assert_eq!(next(&seen), Seen::Close(1000, CloseCause::Local));
    assert_eq!(next(&seen), Seen::Ended(false));
    // RFC 6455 7.1.1: the server ended TCP, and nobody had to wait for a timeout.
    wait_for("both ends are released", || client.handle().connections() == 0);
    server.wait_for("the same there", |stats| stats.connections == 0);
    assert_eq!(server.stats().closes_received.count(1000), 1);
}

fn a_refused_connection_is_reported(driver: Driver) {
    let nobody = ReservedPort::new();
    let dial = Dial::to(format!("ws://{}/", nobody.addr));
    let error = failure(driver, &dial);
    assert!(error.starts_with("cannot connect: ") && error.contains("refused"), "{error}");
}

fn the_next_address_is_tried(driver: Driver) {
    let server = TestServer::start(driver, |builder| builder.websocket("/", |_| Echo));
    let nobody = ReservedPort::new();
    let silent = Crowded::new();
    let client = client(driver);
    // One that refuses, one that never answers, one that does.
    let addresses = [nobody.addr, silent.addr, server.addr];
    let (probe, seen) = Probe::new();
    let dial = Dial::to("ws://does.not.matter/").addresses(addresses);
    client.connect(&dial, probe).expect("a good dial");
    open(&seen);
    wait_for("the attempts that lost are released", || client.handle().connections() == 1);
}

/// A listener whose backlog is full: the kernel answers no SYN.
struct Crowded {
    addr: SocketAddr,
    _sockets: Vec<socket2::Socket>,
}

impl Crowded {
    fn new() -> Crowded {
        let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let listener = new().expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        listener.bind(&any.into()).expect("a free port");
        listener.listen(0).expect("bound");
        let addr = listener.local_addr().expect("bound");
        let mut sockets = vec![listener];
        for _ in 0..4 {
            let socket = new().expect("a socket");
            socket.set_nonblocking(true).expect("a socket");
            let _ = socket.connect(&addr);
            sockets.push(socket);
        }
        Crowded { addr: addr.as_socket().expect("IPv4"), _sockets: sockets }
    }
}

fn a_server_that_never_answers_times_out(driver: Driver) {
    let timeout = Duration::from_millis(500);
    let crowded = Crowded::new();
    let dial = Dial::to(format!("ws://{}/", crowded.addr)).connect_timeout(timeout);
    let start = Instant::now();
    assert_eq!(failure(driver, &dial), "timed out while connecting");
    assert!(start.elapsed() >= timeout);
    // Accepts and says nothing; says something and never finishes.
    for answer in [&b""[..], b"HTTP/1.1 101 Switch"] {
        let silent = scripted(move |_| answer.to_vec());
        let dial = Dial::to(format!("ws://{silent}/")).connect_timeout(timeout);
        assert_eq!(failure(driver, &dial), "timed out while waiting for the server's answer");
    }
}

fn an_answer_that_is_wrong_is_not_accepted(driver: Driver) {
    let wrong = scripted(|_| {
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
            .to_vec()
    });
    let error = failure(driver, &Dial::to(format!("ws://{wrong}/")));
    assert!(error.contains("does not belong to the key"), "{error}");
    let no_http = scripted(|_| b"SSH-2.0-OpenSSH\r\n".to_vec());
    let error = failure(driver, &Dial::to(format!("ws://{no_http}/")));
    assert!(error.contains("not an HTTP/1 response"), "{error}");
    // Ends without an answer.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            read_head(&mut stream);
        }
    });
    let error = failure(driver, &Dial::to(format!("ws://{addr}/")));
    assert_eq!(error, "ended by the other side while waiting for the server's answer");
    // Endless headers.
    let endless = scripted(|_| [b"HTTP/1.1 101 \r\nA: ".to_vec(), vec![b'a'; 100_000]].concat());
    let error = failure(driver, &Dial::to(format!("ws://{endless}/")));
    assert!(error.contains("head is too large"), "{error}");
}

/// Keeps the response of a failed attempt.
struct Curious(Sender<DialResponse>);

impl Handler for Curious {
    type Session = ();

    fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {}

    fn on_dial(&mut self, _worker: &mut WorkerContext<'_>, event: &DialEvent<'_>) {
        match event.error {
            Some(DialError::Refused(response)) => {
                self.0.send((**response).clone()).expect("wanted")
            }
            other => panic!("{other:?}"),
        }
    }
}

fn refused(driver: Driver, dial: &Dial) -> DialResponse {
    let client = client(driver);
    let (sender, receiver) = mpsc::channel();
    client.connect(dial, Curious(sender)).expect("a good dial");
    receiver.recv_timeout(PATIENCE).expect("a refusal")
}

fn a_refusal_comes_with_its_headers_and_body(driver: Driver) {
    let server = TestServer::start(driver, |builder| {
        builder.websocket("/", |_| Echo).get("/secret", |_| {
            wirelane::Response::text("Who are you?\n")
                .status(401)
                .header("WWW-Authenticate", "Bearer")
        })
    });
    let response = refused(driver, &Dial::to(format!("{}secret", url(&server))));
    assert_eq!(response.status, 401);
    assert_eq!(response.header_text("www-authenticate"), Some("Bearer"));
    assert_eq!(response.body, b"Who are you?\n");
    // Of a long body the beginning; of one that does not end, what came; chunks without their
    // lines.
    let long = scripted(|_| [b"HTTP/1.1 503 \r\n\r\n".to_vec(), vec![b'x'; 50_000]].concat());
    let response = refused(driver, &Dial::to(format!("ws://{long}/")));
    assert_eq!((response.status, response.body.len()), (503, DialResponse::MAX_BODY));
    let slow = scripted(|_| b"HTTP/1.1 500 \r\nContent-Length: 9\r\n\r\nhalf".to_vec());
    assert_eq!(refused(driver, &Dial::to(format!("ws://{slow}/"))).body, b"half");
    let chunked = scripted(|_| {
        b"HTTP/1.1 500 \r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
            .to_vec()
    });
    assert_eq!(refused(driver, &Dial::to(format!("ws://{chunked}/"))).body, b"abcde");
}

fn redirects_are_reported_and_not_followed(driver: Driver) {
    let moved = scripted(|_| {
        b"HTTP/1.1 301 Moved\r\nLocation: ws://elsewhere/\r\nContent-Length: 0\r\n\r\n".to_vec()
    });
    let response = refused(driver, &Dial::to(format!("ws://{moved}/")));
    assert_eq!(response.status, 301);
    assert_eq!(response.header_text("Location"), Some("ws://elsewhere/"));
}

/// Says which subprotocol was agreed on, and which headers came.
struct Talker;

impl Handler for Talker {
    type Session = ();

    fn on_upgrade(&mut self, request: &wirelane::UpgradeRequest<'_>) -> wirelane::Upgrade<()> {
        let authorized = request.header("Authorization") == Some(b"Bearer x")
            && request.header("Origin") == Some(b"http://a.example");
        if authorized { wirelane::Upgrade::accept(()) } else { wirelane::Upgrade::reject(401, "") }
    }

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        let name = ws.subprotocol().unwrap_or("none").to_owned();
        ws.send(&name);
    }

    fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {}
}

fn subprotocols_are_agreed_on(driver: Driver) {
    let server = TestServer::start(driver, |builder| {
        let options = RouteOptions::new()
            .subprotocols(["v2", "v1"])
            .origins(wirelane::Origins::list(["http://a.example"]));
        builder.websocket_with("/", options, |_| Talker)
    });
    let dial = || {
        let dial = Dial::to(url(&server)).header("Authorization", "Bearer x");
        dial.origin("http://a.example")
    };
    let client = client(driver);
    let cases = [(vec!["v1", "v2"], Some("v2")), (vec!["v1"], Some("v1")), (vec![], None)];
    for (offered, agreed) in cases {
        let (probe, seen) = Probe::doing(|ws| {
            let agreed = ws.subprotocol().unwrap_or("none").to_owned();
            let echo = ws.send(&agreed);
            assert_eq!(echo, wirelane::SendStatus::Sent);
            ws.subscribe(&agreed).expect("a short name");
        });
        client.connect(&dial().subprotocols(offered), probe).expect("a good dial");
        open(&seen);
        let agreed = agreed.unwrap_or("none");
        assert_eq!(next(&seen), Seen::Text(agreed.into()), "as the server sees it");
        wait_for("as the client sees it", || client.handle().subscribers(agreed) == 1);
    }
}

fn a_subprotocol_that_was_not_offered_ends_the_attempt(driver: Driver) {
    let pushy = scripted(|request| upgraded(request, "Sec-WebSocket-Protocol: other\r\n"));
    let dial = Dial::to(format!("ws://{pushy}/")).subprotocols(["mine"]);
    let error = failure(driver, &dial);
    assert!(error.contains("subprotocol not offered"), "{error}");
    let pushy = scripted(|request| upgraded(request, "Sec-WebSocket-Extensions: x\r\n"));
    let error = failure(driver, &Dial::to(format!("ws://{pushy}/")));
    assert!(error.contains("extension not offered"), "{error}");
}

fn names_are_looked_up_off_the_event_loop(driver: Driver) {
    let server = TestServer::start(driver, |builder| builder.websocket("/", |_| Echo));
    let client = client(driver);
    let (answer, wait) = mpsc::channel::<SocketAddr>();
    let wait = std::sync::Mutex::new(wait);
    let slow = Dial::to("ws://slow.example:1234/").resolver(move |host, port| {
        assert_eq!((host, port), ("slow.example", 1234));
        Ok(vec![wait.lock().expect("one at a time").recv().expect("the test answers")])
    });
    let (probe, seen_late) = Probe::new();
    client.connect(&slow, probe).expect("a good dial");
    // While that one waits, others are served.
    let port = server.addr.port();
    let (probe, seen) = Probe::doing(|ws| {
        ws.send("Hello");
    });
    client.connect(&Dial::to(format!("ws://localhost:{port}/")), probe).expect("a good dial");
    open(&seen);
    assert_eq!(next(&seen), Seen::Text("Hello".into()));
    assert!(seen_late.try_recv().is_err(), "nobody has answered yet");
    answer.send(server.addr).expect("it waits");
    open(&seen_late);
    // A lookup that never ends is given up, and so is its late answer.
    let (answer, wait) = mpsc::channel::<SocketAddr>();
    let wait = std::sync::Mutex::new(wait);
    let endless = Dial::to("ws://endless.example/")
        .connect_timeout(Duration::from_millis(50))
        .resolver(move |_, _| Ok(wait.lock().expect("one at a time").recv().into_iter().collect()));
    let (probe, seen) = Probe::new();
    client.connect(&endless, probe).expect("a good dial");
    assert_eq!(next(&seen), Seen::Failed("timed out while looking up the host".into(), false));
    answer.send(server.addr).expect("it waits");
    assert_eq!(seen.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected));
}

fn a_name_that_does_not_exist_is_reported(driver: Driver) {
    let dial = Dial::to("ws://nobody.example/").resolver(|_, _| Ok(Vec::new()));
    assert_eq!(failure(driver, &dial), "the host was not found: the name has no address");
    let dial = Dial::to("ws://nobody.example/")
        .resolver(|_, _| Err(std::io::Error::other("asked for by the test")));
    assert_eq!(failure(driver, &dial), "the host was not found: asked for by the test");
    // RFC 6761 6.4: this name never exists. The system's own resolver says so, in its words.
    let error = failure(driver, &Dial::to("ws://nobody.invalid/"));
    assert!(error.starts_with("the host was not found: "), "{error}");
}

fn a_session_may_be_declined(driver: Driver) {
    let server = scripted(|request| upgraded(request, "X-Decline: yes\r\n"));
    let error = failure(driver, &Dial::to(format!("ws://{server}/")));
    assert_eq!(error, "the handler gave no session");
}

fn a_server_that_masks_is_told_so(driver: Driver) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the client connects");
        let request = read_head(&mut stream);
        stream.write_all(&upgraded(&request, "")).expect("the client reads");
        // RFC 6455 5.1: a client must close upon a masked frame.
        stream.write_all(&common::frame(0x81, b"masked")).expect("the client reads");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("FIN, not a reset");
        rest
    });
    let client = client(driver);
    let (probe, seen) = Probe::new();
    client.connect(&Dial::to(format!("ws://{addr}/")), probe).expect("a good dial");
    open(&seen);
    let masked = CloseCause::Protocol(wirelane::protocol::ProtocolError::MaskedFrame);
    assert_eq!(next(&seen), Seen::Close(1002, masked));
    let close = server.join().expect("no panic");
    assert_eq!((close[0], close[1] & 0x80), (0x88, 0x80), "a masked Close");
    let code = [close[6] ^ close[2], close[7] ^ close[3]];
    assert_eq!(u16::from_be_bytes(code), 1002);
}

fn frames_right_behind_the_answer_are_delivered(driver: Driver) {
    let server = scripted(|request| {
        let mut bytes = upgraded(request, "");
        bytes.extend_from_slice(b"\x81\x05early\x89\x00\x82\x7e\x00\x80");
        bytes.extend_from_slice(&[7; 128]);
        bytes.extend_from_slice(b"\x01\x03gr\xc3\x80\x01\xbc\x88\x02\x03\xe9");
        bytes
    });
    let client = client(driver);
    let (probe, seen) = Probe::new();
    client.connect(&Dial::to(format!("ws://{server}/")), probe).expect("a good dial");
    open(&seen);
    assert_eq!(next(&seen), Seen::Text("early".into()));
    assert_eq!(next(&seen), Seen::Binary(vec![7; 128]));
    assert_eq!(next(&seen), Seen::Text("grü".into()));
    assert_eq!(next(&seen), Seen::Close(1001, CloseCause::Peer));
    assert_eq!(next(&seen), Seen::Ended(false));
}

fn ids_reach_the_connection_from_anywhere(driver: Driver) {
    let server = TestServer::start(driver, |builder| builder.websocket("/", |_| Echo));
    let client = Client::builder().driver(driver).workers(2).start().expect("possible");
    let handle = client.handle();
    let dial = Dial::to(url(&server)).on_worker(1);
    let (probe, seen) = Probe::doing(|ws| {
        ws.subscribe("news").expect("a short name");
    });
    let dialled = client.connect(&dial, probe).expect("a good dial");
    assert_eq!(dialled.worker(), 1);
    let id = open(&seen);
    assert_eq!(id.worker(), 1);
    handle.send_to(id, "by id").expect("room");
    assert_eq!(next(&seen), Seen::Text("by id".into()));
    // What is published goes to the server, masked like everything else.
    let prepared = wirelane::PreparedMessage::text("prepared");
    let long = "long ".repeat(1000);
    assert_eq!(handle.publish("news", "published").posted, 1);
    handle.publish("news", &long);
    handle.publish("news", &prepared);
    handle.send_prepared_to(id, &prepared).expect("room");
    for expected in ["published", &long, "prepared", "prepared"] {
        assert_eq!(next(&seen), Seen::Text(expected.into()));
    }
    handle.close(id, CloseCode::NORMAL, "").expect("room");
    assert_eq!(next(&seen), Seen::Close(1000, CloseCause::Local));
    assert_eq!(next(&seen), Seen::Ended(false));
    // Another connection in the same slot is not reached by the old name.
    wait_for("the slot is free", || handle.connections() == 0);
    let (probe, seen) = Probe::new();
    client.connect(&dial, probe).expect("a good dial");
    let new = open(&seen);
    assert_ne!(id, new);
    handle.send_to(id, "too late").expect("room");
    handle.send_to(new, "in time").expect("room");
    assert_eq!(next(&seen), Seen::Text("in time".into()));
    assert_eq!(handle.stats().undelivered, 1);
}

fn a_shutdown_closes_with_1001(driver: Driver) {
    let server = TestServer::start(driver, |builder| builder.websocket("/", |_| Echo));
    let silent = scripted(|_| Vec::new());
    let client = client(driver);
    let (probe, seen) = Probe::new();
    client.connect(&Dial::to(url(&server)), probe).expect("a good dial");
    open(&seen);
    let (probe, seen_waiting) = Probe::new();
    client.connect(&Dial::to(format!("ws://{silent}/")), probe).expect("a good dial");
    wait_for("both are under way", || client.handle().connections() == 2);
    let handle = client.handle();
    client.shutdown(PATIENCE).expect("a clean end");
    assert_eq!(next(&seen), Seen::Close(1001, CloseCause::Local));
    assert_eq!(next(&seen), Seen::Ended(false));
    assert_eq!(next(&seen_waiting), Seen::Failed("the workers stop".into(), false));
    assert_eq!(server.stats().closes_received.count(1001), 1);
    let report = handle.report().expect("it has ended");
    assert_eq!((report.closed_cleanly, report.forced), (1, 0), "{report:?}");
    let (probe, _) = Probe::new();
    assert_eq!(handle.connect(&Dial::to(url(&server)), probe), Err(ConnectError::Stopped));
}

fn a_dial_can_be_taken_back(driver: Driver) {
    let server = TestServer::start(driver, |builder| builder.websocket("/", |_| Echo));
    let silent = scripted(|_| Vec::new());
    let client = client(driver);
    let handle = client.handle();
    let forever = wirelane::client::Reconnect::new();
    // While it is open, while it is being opened, and while it waits for its next attempt.
    let (probe, seen) = Probe::new();
    let dial = Dial::to(url(&server)).reconnect(forever);
    let dialled = client.connect(&dial, probe).expect("a good dial");
    open(&seen);
    handle.disconnect(dialled).expect("room");
    assert_eq!(next(&seen), Seen::Close(1000, CloseCause::Local));
    assert_eq!(next(&seen), Seen::Ended(false));
    let (probe, seen) = Probe::new();
    let dial = Dial::to(format!("ws://{silent}/")).reconnect(forever);
    let dialled = client.connect(&dial, probe).expect("a good dial");
    wait_for("it waits for an answer", || handle.connections() == 1);
    handle.disconnect(dialled).expect("room");
    assert_eq!(next(&seen), Seen::Failed("taken back by the application".into(), false));
    let (probe, seen) = Probe::new();
    let long = forever.initial_delay(Duration::from_secs(3600)).max_delay(Duration::MAX);
    let dial = Dial::to("ws://a/").reconnect(long).resolver(|_, _| Ok(Vec::new()));
    let dialled = client.connect(&dial, probe).expect("a good dial");
    let error = "the host was not found: the name has no address";
    assert_eq!(next(&seen), Seen::Failed(error.into(), true));
    handle.disconnect(dialled).expect("room");
    assert_eq!(next(&seen), Seen::Failed("taken back by the application".into(), false));
    // Twice is as good as once.
    handle.disconnect(dialled).expect("room");
    wait_for("nothing is left", || handle.connections() == 0);
    assert_eq!(seen.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected));
}

fn a_panic_costs_one_connection(driver: Driver) {
    let server = TestServer::start(driver, |builder| builder.websocket("/", |_| Echo));
    let client = client(driver);
    let (probe, seen) = Probe::doing(|_| panic!("asked for by the test"));
    client.connect(&Dial::to(url(&server)), probe).expect("a good dial");
    open(&seen);
    assert_eq!(next(&seen), Seen::Close(1011, CloseCause::HandlerPanicked));
    assert_eq!(next(&seen), Seen::Ended(false));
    server.wait_for("the server learns it", |stats| stats.closes_received.count(1011) == 1);
    let (probe, seen) = Probe::new();
    client.connect(&Dial::to(url(&server)), probe).expect("a good dial");
    open(&seen);
    assert_eq!(client.handle().stats().handler_panics, 1);
}

fn impossible_dials_are_errors(driver: Driver) {
    let client = client(driver);
    let handle = client.handle();
    let connect = |dial: &Dial| handle.connect(dial, Echo);
    for (dial, expected) in [
        (Dial::to("http://a/"), "to"),
        (Dial::to("ws://a/").header("Upgrade", "h2c"), "header"),
        (Dial::to("ws://a/").proxy("a:80"), "proxy"),
    ] {
        match connect(&dial) {
            Err(ConnectError::Invalid { field, .. }) => assert_eq!(field, expected),
            other => panic!("{other:?}"),
        }
    }
    let nowhere = Dial::to("ws://a/").on_worker(7);
    assert_eq!(connect(&nowhere), Err(ConnectError::NoSuchWorker));
    let (answers, answer) = mpsc::channel();
    let asked = handle.run_on(0, move |worker| {
        let _ = answers.send(worker.connect(&Dial::to("ws://a/")));
    });
    assert_eq!(asked, Ok(()));
    assert_eq!(answer.recv_timeout(PATIENCE), Ok(Err(ConnectError::NoHandler)));
    assert_eq!(handle.run_on(7, |_| {}), Err(SendError::NoSuchWorker));
}
