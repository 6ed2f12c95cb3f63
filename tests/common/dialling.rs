//! Connections of our own: a handler that tells the test everything, and servers that misbehave.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use wirelane::client::{Client, Dial, DialEvent, DialId, DialResponse};
use wirelane::{
    Close, CloseCause, ConnectionId, Driver, Handler, Message, WebSocket, WorkerContext,
};

use super::{PATIENCE, TestServer};

/// What happened, for the test.
#[derive(Debug, PartialEq)]
pub enum Seen {
    Open(ConnectionId),
    Text(String),
    Binary(Vec<u8>),
    Close(u16, CloseCause),
    /// An attempt failed: the error in words, and whether there will be another.
    Failed(String, bool),
    /// The connection ended, and whether there will be another.
    Ended(bool),
}

/// Tells the test everything, and does as it is told when a connection opens.
pub struct Probe {
    pub seen: Sender<Seen>,
    pub on_open: fn(&mut WebSocket<'_, Option<DialId>>),
}

impl Probe {
    pub fn new() -> (Probe, Receiver<Seen>) {
        Self::doing(|_| {})
    }

    pub fn doing(on_open: fn(&mut WebSocket<'_, Option<DialId>>)) -> (Probe, Receiver<Seen>) {
        let (seen, receiver) = mpsc::channel();
        (Probe { seen, on_open }, receiver)
    }

    fn tell(&self, seen: Seen) {
        // The test may be over.
        let _ = self.seen.send(seen);
    }
}

impl Handler for Probe {
    type Session = Option<DialId>;

    fn on_connect(&mut self, dial: DialId, response: &DialResponse) -> Option<Option<DialId>> {
        assert_eq!(response.status, 101);
        assert!(response.header("sec-websocket-accept").is_some(), "{response:?}");
        (response.header_text("X-Decline") != Some("yes")).then_some(Some(dial))
    }

    fn on_open(&mut self, ws: &mut WebSocket<'_, Option<DialId>>) {
        assert_eq!(ws.dial(), *ws.session());
        self.tell(Seen::Open(ws.id()));
        (self.on_open)(ws);
    }

    fn on_message(&mut self, _ws: &mut WebSocket<'_, Option<DialId>>, message: Message<'_>) {
        self.tell(match message {
            Message::Text(text) => Seen::Text(text.to_owned()),
            Message::Binary(bytes) => Seen::Binary(bytes.to_vec()),
        });
    }

    fn on_close(&mut self, ws: &mut WebSocket<'_, Option<DialId>>, close: Close<'_>) {
        assert_eq!(ws.dial(), *ws.session());
        self.tell(Seen::Close(close.code, close.cause));
    }

    fn on_dial(&mut self, _worker: &mut WorkerContext<'_>, event: &DialEvent<'_>) {
        let again = event.retry_in.is_some();
        self.tell(match event.error {
            Some(error) => Seen::Failed(error.to_string(), again),
            None => Seen::Ended(again),
        });
    }
}

pub fn client(driver: Driver) -> Client {
    Client::builder().driver(driver).start().expect("possible settings")
}

pub fn next(seen: &Receiver<Seen>) -> Seen {
    seen.recv_timeout(PATIENCE).expect("something happens")
}

pub fn open(seen: &Receiver<Seen>) -> ConnectionId {
    match next(seen) {
        Seen::Open(id) => id,
        other => panic!("not open: {other:?}"),
    }
}

/// The only thing that happens to this dial.
pub fn failure(driver: Driver, dial: &Dial) -> String {
    let client = client(driver);
    let (probe, seen) = Probe::new();
    client.connect(dial, probe).expect("a good dial");
    let Seen::Failed(error, false) = next(&seen) else { panic!("it should fail for good") };
    // Figures are those of the last turn.
    wait_for("it is counted", || client.handle().stats().dial_failures == 1);
    assert_eq!(client.handle().stats().opened, 0);
    assert_eq!(seen.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected), "gone");
    wait_for("everything is released", || client.handle().connections() == 0);
    error
}

pub fn wait_for(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what}: never");
        thread::sleep(Duration::from_millis(1));
    }
}

pub fn url(server: &TestServer) -> String {
    format!("ws://{}/", server.addr)
}

/// Reads one request head.
pub fn read_head(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).expect("a request in time"), 1, "{head:?}");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("ASCII")
}

/// What `Sec-WebSocket-Accept` has to be for this request, by the library's own server.
pub fn accept(request: &str) -> String {
    let limits = wirelane::Limits::new();
    let request = wirelane::protocol::upgrade::Request::parse(request.as_bytes(), &limits);
    let request = request.expect("a good request");
    let handshake = wirelane::protocol::upgrade::ServerHandshake::check(&request);
    let mut answer = Vec::new();
    handshake.expect("an upgrade").write_response(None, &[], &mut answer).expect("no header");
    let answer = String::from_utf8(answer).expect("ASCII");
    let line = answer.lines().find(|line| line.starts_with("Sec-WebSocket-Accept")).expect("it");
    line.split_once(": ").expect("a header").1.to_owned()
}

/// A server that answers each request with what `answer` makes of it, and then waits for the end.
pub fn scripted(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let request = read_head(&mut stream);
            let _ = stream.write_all(&answer(&request));
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    addr
}

pub fn upgraded(request: &str, headers: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n{headers}\r\n",
        accept(request)
    )
    .into_bytes()
}
