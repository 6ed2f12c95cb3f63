//! What somebody who embeds the library meets first: its types, and its words for mistakes.

mod common;

use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

use common::{Echo, PATIENCE, TestServer};
use wirelane::{
    Close, CloseCause, CloseCode, ConnectionId, Driver, Error, Handle, Handler, Limits, ListenAddr,
    Message, Response, SendError, SendStatus, Server, ServerBuilder, Stats, WebSocket,
};

on_every_driver!(
    a_handler_closes_another_connection,
    after_terminate_nothing_is_taken,
    whatever_a_message_is_made_of_arrives,
);

fn builder() -> ServerBuilder {
    Server::builder().listen("127.0.0.1:0").websocket("/", |_| Echo)
}

#[test]
fn a_mistake_is_answered_with_what_to_write_instead() {
    let long = format!("unix:/{}", "x".repeat(200));
    let mistakes = [
        (Server::builder(), "listen", "127.0.0.1:9001"),
        (Server::builder().listen("127.0.0.1:0"), "websocket", "\"/\""),
        (builder().listen("9001"), "listen", "127.0.0.1:9001"),
        (builder().listen("ws://localhost:9001/"), "listen", "write localhost:9001"),
        (builder().websocket("chat", |_| Echo), "websocket", "start with '/'"),
        (builder().websocket("/a?b=c", |_| Echo), "websocket", "nor '?'"),
        (builder().websocket("/ä", |_| Echo), "websocket", "%XX"),
        (builder().websocket("/", |_| Echo), "websocket", "twice"),
        (builder().get("page", |_| Response::new(200)), "get", "start with '/'"),
        (builder().limits(Limits::new().max_message(0)), "limits", "max_message"),
        (builder().max_backpressure(0), "max_backpressure", "1024"),
        (builder().max_connections(0), "max_connections", "1 or more"),
        (builder().workers(1025), "workers", "1024"),
        (builder().backlog(0), "backlog", "from 1"),
        (builder().receive_buffer(0), "receive_buffer", "4096"),
    ];
    for (builder, setting, advice) in mistakes {
        match builder.build() {
            Err(error @ Error::Config { field, .. }) => {
                assert_eq!(field, setting);
                assert!(error.to_string().contains(advice), "{error}");
            }
            other => panic!("{setting}: {other:?}"),
        }
    }
    match builder().listen(long).build() {
        Err(Error::Listen { address, .. }) => assert!(address.starts_with("unix:/xxx")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = taken.local_addr().expect("a bound socket");
    for workers in [1, 2] {
        let error = builder().workers(workers).listen(addr).build().expect_err("it is taken");
        assert!(error.to_string().contains(&addr.to_string()), "{error}");
        assert!(error.to_string().contains("in use"), "{error}");
    }
}

#[test]
fn addresses_are_taken_in_every_form() {
    let addr = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::builder()
        .listen("127.0.0.1:0")
        .listen(String::from("localhost:0"))
        .listen(addr.to_string())
        .listen(addr)
        .listen(ListenAddr::from(addr))
        .websocket("/", |_| Echo)
        .build()
        .expect("free ports");
    assert_eq!(server.local_addrs().len(), 5);
    assert!(server.local_addrs().iter().all(|addr| addr.socket_addr().is_some()));
}

#[test]
fn a_panic_in_on_listening_leaves_no_worker_behind() {
    let server = builder().workers(2).on_listening(|_| panic!("asked for by the test"));
    let server = server.build().expect("a free port");
    let handle = server.handle();
    let addr = server.local_addrs()[0].socket_addr().expect("a TCP address");
    assert!(catch_unwind(AssertUnwindSafe(|| server.run())).is_err());
    assert!(TcpStream::connect_timeout(&addr, PATIENCE).is_err());
    assert_eq!(handle.stats().connections, 0);
}

#[test]
fn types_can_be_kept_where_one_wants_to_keep_them() {
    fn send<T: Send>() {}
    fn shared<T: Send + Sync + Clone + std::fmt::Debug>() {}
    fn value<T: Copy + std::hash::Hash + Ord + std::fmt::Display + Send + Sync>() {}
    fn error<T: std::error::Error + Send + Sync>() {}
    send::<Server>();
    send::<ServerBuilder>();
    shared::<Handle>();
    shared::<Stats>();
    shared::<Limits>();
    shared::<ListenAddr>();
    shared::<Response>();
    shared::<Driver>();
    shared::<Close<'static>>();
    shared::<CloseCause>();
    value::<ConnectionId>();
    value::<CloseCode>();
    error::<Error>();
    error::<SendError>();
    error::<wirelane::InvalidDriver>();
    error::<wirelane::InvalidListenAddr>();
    error::<wirelane::protocol::InvalidCloseCode>();
}

/// Knows which connection came first, and obeys commands.
struct Doorman {
    reported: mpsc::Sender<(ConnectionId, CloseCause)>,
    first: Option<ConnectionId>,
}

impl Handler for Doorman {
    type Session = Vec<String>;

    fn on_open(&mut self, ws: &mut WebSocket<'_, Vec<String>>) {
        self.first.get_or_insert(ws.id());
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, Vec<String>>, message: Message<'_>) {
        let Message::Text(text) = message else { return };
        ws.session_mut().push(text.to_owned());
        match text {
            "close the first" => {
                let first = self.first.expect("there is one");
                let reason = "x".repeat(200);
                ws.handle().close(first, CloseCode::POLICY_VIOLATION, &reason).expect("a mailbox");
            }
            "terminate" => {
                ws.terminate();
                assert_eq!(ws.send("lost"), SendStatus::Dropped);
                assert_eq!(ws.ping(b"lost"), SendStatus::Dropped);
                assert_eq!(ws.send_to(ws.id(), "lost"), Err(SendError::Gone));
                ws.close(CloseCode::NORMAL, "lost");
            }
            "bytes" => assert_eq!(ws.send(b"\x00\xFF"), SendStatus::Sent),
            // What is said about a session can be sent in one line.
            _ => _ = ws.send(&format!("{} so far", ws.session().len())),
        }
    }

    fn on_close(&mut self, ws: &mut WebSocket<'_, Vec<String>>, close: Close<'_>) {
        self.reported.send((ws.id(), close.cause)).expect("the test waits");
    }
}

fn start(driver: Driver) -> (TestServer, mpsc::Receiver<(ConnectionId, CloseCause)>) {
    let (reported, reports) = mpsc::channel();
    let server = TestServer::start(driver, |server| {
        server.websocket("/", move |_| Doorman { reported: reported.clone(), first: None })
    });
    (server, reports)
}

fn a_handler_closes_another_connection(driver: Driver) {
    let (server, reports) = start(driver);
    let mut first = server.open();
    first.send_text("here");
    assert_eq!(first.read_frame().payload, b"1 so far");
    let mut second = server.open();
    second.send_text("close the first");
    let close = first.read_frame();
    assert_eq!((close.close_code(), close.payload.len()), (1008, 125));
    first.send_frame(0x88, &close.payload);
    first.expect_end();
    let (_, cause) = reports.recv_timeout(PATIENCE).expect("on_close");
    assert_eq!(cause, CloseCause::Local);
    second.send_text("still here");
    assert_eq!(second.read_frame().payload, b"2 so far");
}

fn after_terminate_nothing_is_taken(driver: Driver) {
    let (server, reports) = start(driver);
    let mut peer = server.open();
    peer.send_text("terminate");
    assert_eq!(peer.read_to_end().unwrap_or_default(), b"");
    let (_, cause) = reports.recv_timeout(PATIENCE).expect("on_close");
    assert_eq!(cause, CloseCause::Terminated);
    let stats = server.wait_for("the slot to be free", |stats| stats.connections == 0);
    assert_eq!((stats.messages_sent, stats.handler_panics), (0, 0));
    server.stop(Duration::ZERO).expect("a clean end");
}

fn whatever_a_message_is_made_of_arrives(driver: Driver) {
    let (server, _reports) = start(driver);
    let mut peer = server.open();
    peer.send_text("bytes");
    let frame = peer.read_frame();
    assert_eq!((frame.first, &frame.payload[..]), (0x82, &b"\x00\xFF"[..]));
}
