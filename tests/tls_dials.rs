//! wss connections of our own on the workers.

mod common;
#[path = "common/tls.rs"]
mod tls;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use common::{Echo, PATIENCE, TestServer};
use tls::{Authority, authority, server_tls};
use wirelane::client::{Client, Dial, DialEvent, DialId, DialResponse};
use wirelane::tls::{ClientAuth, ClientTls};
use wirelane::{Close, CloseCode, Driver, Handler, Message, WebSocket, WorkerContext};

on_every_driver!(
    messages_travel_both_ways,
    sessions_are_resumed,
    a_proxy_is_passed_in_the_clear,
    a_server_that_nobody_vouches_for_is_refused,
    a_server_without_tls_is_refused,
    a_server_that_stalls_times_out,
    a_certificate_is_shown_when_asked_for,
);

#[derive(Debug, PartialEq)]
enum Seen {
    Open,
    Message(Vec<u8>),
    Close(u16),
    Failed(String),
}

/// Sends these messages when it is open, and tells the test what happens.
struct Probe {
    seen: Sender<Seen>,
    say: Vec<Vec<u8>>,
}

impl Handler for Probe {
    type Session = ();

    fn on_connect(&mut self, _dial: DialId, _response: &DialResponse) -> Option<()> {
        Some(())
    }

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        let _ = self.seen.send(Seen::Open);
        for message in &self.say {
            ws.send(&message[..]);
        }
        if self.say.is_empty() {
            ws.close(CloseCode::NORMAL, "");
        }
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        let _ = self.seen.send(Seen::Message(message.payload().to_vec()));
        if self.say.last().is_some_and(|last| last == message.payload()) {
            ws.close(CloseCode::NORMAL, "");
        }
    }

    fn on_close(&mut self, _ws: &mut WebSocket<'_, ()>, close: Close<'_>) {
        let _ = self.seen.send(Seen::Close(close.code));
    }

    fn on_dial(&mut self, _worker: &mut WorkerContext<'_>, event: &DialEvent<'_>) {
        if let Some(error) = event.error {
            let _ = self.seen.send(Seen::Failed(error.to_string()));
        }
    }
}

fn client(driver: Driver) -> Client {
    Client::builder().driver(driver).start().expect("possible settings")
}

fn connect(client: &Client, dial: &Dial, say: Vec<Vec<u8>>) -> Receiver<Seen> {
    let (seen, receiver) = mpsc::channel();
    client.connect(dial, Probe { seen, say }).expect("a good dial");
    receiver
}

fn next(seen: &Receiver<Seen>) -> Seen {
    seen.recv_timeout(PATIENCE).expect("something happens")
}

fn trusting() -> ClientTls {
    ClientTls::new(authority().roots()).expect("settings")
}

fn start(driver: Driver) -> TestServer {
    TestServer::start(driver, |server| server.tls(server_tls()).websocket("/", |_| Echo))
}

fn url(addr: SocketAddr) -> String {
    format!("wss://localhost:{}/", addr.port())
}

fn messages_travel_both_ways(driver: Driver) {
    let (server, client) = (start(driver), client(driver));
    let say: Vec<Vec<u8>> = [0, 1, 20_000, 300_000].map(|len| vec![7; len]).to_vec();
    let seen = connect(&client, &Dial::to(url(server.addr)).tls(trusting()), say.clone());
    assert_eq!(next(&seen), Seen::Open);
    for message in say {
        assert!(next(&seen) == Seen::Message(message));
    }
    assert_eq!(next(&seen), Seen::Close(1000));
    let stats = server.wait_for("the end", |stats| stats.connections == 0);
    assert_eq!((stats.tls_handshakes, stats.tls_failures.total()), (1, 0), "{stats:?}");
}

fn sessions_are_resumed(driver: Driver) {
    let (server, client) = (start(driver), client(driver));
    let dial = Dial::to(url(server.addr)).tls(trusting());
    for _ in 0..3 {
        let seen = connect(&client, &dial, vec![b"hello".to_vec()]);
        while next(&seen) != Seen::Close(1000) {}
    }
    let stats = server.wait_for("the figures", |stats| stats.tls_handshakes == 3);
    assert_eq!(stats.tls_resumed, 2);
}

/// Answers one CONNECT, then passes bytes on.
fn proxy(target: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("bound");
    thread::spawn(move || {
        let (mut inner, _) = listener.accept().expect("a client");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            inner.read_exact(&mut byte).expect("a head");
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"CONNECT localhost:"), "{}", String::from_utf8_lossy(&head));
        inner.write_all(b"HTTP/1.1 200 OK\r\n\r\n").expect("the client reads");
        let outer = TcpStream::connect(target).expect("the server listens");
        let pass = |mut from: TcpStream, mut to: TcpStream| {
            thread::spawn(move || std::io::copy(&mut from, &mut to));
        };
        pass(inner.try_clone().expect("a descriptor"), outer.try_clone().expect("a descriptor"));
        pass(outer, inner);
    });
    addr
}

fn a_proxy_is_passed_in_the_clear(driver: Driver) {
    let (server, client) = (start(driver), client(driver));
    let dial = Dial::to(url(server.addr)).tls(trusting());
    let dial = dial.proxy(format!("http://{}", proxy(server.addr)));
    let seen = connect(&client, &dial, vec![b"through".to_vec()]);
    assert_eq!(next(&seen), Seen::Open);
    assert_eq!(next(&seen), Seen::Message(b"through".to_vec()));
    assert_eq!(next(&seen), Seen::Close(1000));
}

fn failure(driver: Driver, dial: &Dial) -> String {
    let client = client(driver);
    match next(&connect(&client, dial, Vec::new())) {
        Seen::Failed(error) => error,
        other => panic!("{other:?}"),
    }
}

fn a_server_that_nobody_vouches_for_is_refused(driver: Driver) {
    let server = start(driver);
    let stranger = ClientTls::new(Authority::new("another").roots()).expect("settings");
    let error = failure(driver, &Dial::to(url(server.addr)).tls(stranger));
    assert!(error.contains("UnknownIssuer"), "{error}");
    assert!(error.contains("give it to `ClientTls::new`"), "{error}");
    // The server is told.
    server.wait_for("the alert", |stats| stats.tls_failures.total() == 1);
    let other = Dial::to("wss://other.test/").addresses([server.addr]).tls(trusting());
    let error = failure(driver, &other);
    assert!(error.contains("other.test"), "{error}");
}

fn a_server_without_tls_is_refused(driver: Driver) {
    let server = TestServer::start(driver, |server| server.websocket("/", |_| Echo));
    let error = failure(driver, &Dial::to(url(server.addr)).tls(trusting()));
    assert!(error.contains("TLS failed"), "{error}");
    assert!(error.contains("does the server speak TLS"), "{error}");
}

fn a_server_that_stalls_times_out(driver: Driver) {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let dial = Dial::to(url(silent.local_addr().expect("bound"))).tls(trusting());
    let error = failure(driver, &dial.connect_timeout(Duration::from_millis(1000)));
    assert!(error.contains("TLS"), "{error}");
}

fn a_certificate_is_shown_when_asked_for(driver: Driver) {
    let tls = server_tls().client_auth(ClientAuth::Required, authority().roots());
    let server = TestServer::start(driver, |server| server.tls(tls).websocket("/", |_| Echo));
    let client = client(driver);
    let identity = authority().issue(&["somebody"]).identity();
    let tls = ClientTls::with_identity(authority().roots(), identity).expect("settings");
    let seen = connect(&client, &Dial::to(url(server.addr)).tls(tls), vec![b"known".to_vec()]);
    assert_eq!(next(&seen), Seen::Open);
    assert_eq!(next(&seen), Seen::Message(b"known".to_vec()));
    let error = failure(driver, &Dial::to(url(server.addr)).tls(trusting()));
    assert!(error.contains("TLS") || error.contains("waiting"), "{error}");
}
