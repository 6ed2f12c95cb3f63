//! Connections of our own that come back, go through a proxy, are many, or stand still.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::dialling::wait_for;
use common::dialling::{
    Probe, Seen, client, failure, next, open, read_head, scripted, upgraded, url,
};
use common::{Echo, PATIENCE, ReservedPort, TestServer};
use wirelane::client::{Client, Dial, DialError, DialEvent, Reconnect};
use wirelane::{CloseCause, Driver, Handler, Message, WebSocket, WorkerContext};

on_every_driver! {
    a_connection_comes_back_after_its_server,
    attempts_are_counted_and_end,
    a_handler_shares_its_connections,
    a_thousand_connections_to_our_own_server,
    a_proxy_is_gone_through,
    a_proxy_that_says_no_is_reported,
    a_server_that_falls_silent_is_noticed,
    a_server_that_does_not_read_makes_us_wait,
}

fn at_once() -> Reconnect {
    Reconnect::new().initial_delay(Duration::from_millis(1)).max_delay(Duration::from_millis(20))
}

fn a_connection_comes_back_after_its_server(driver: Driver) {
    let serve = |addr: SocketAddr| {
        TestServer::start(driver, move |builder| builder.listen(addr).websocket("/", |_| Echo))
    };
    // A port of its own, which the server's successor takes over.
    let reserved = ReservedPort::new();
    let port = reserved.addr;
    let server = serve(port);
    let client = client(driver);
    let (probe, seen) = Probe::doing(|ws| {
        ws.send("Hello");
    });
    let dial = Dial::to(format!("ws://{port}/")).reconnect(at_once());
    client.connect(&dial, probe).expect("a good dial");
    let first = open(&seen);
    assert_eq!(next(&seen), Seen::Text("Hello".into()));
    server.stop(Duration::from_secs(5)).expect("a clean end");
    assert_eq!(next(&seen), Seen::Close(1001, CloseCause::Peer));
    assert_eq!(next(&seen), Seen::Ended(true));
    assert!(matches!(next(&seen), Seen::Failed(error, true) if error.contains("refused")));
    let _server = serve(port);
    let second = loop {
        match next(&seen) {
            Seen::Failed(_, true) => {}
            Seen::Open(id) => break id,
            other => panic!("{other:?}"),
        }
    };
    assert_ne!(first, second);
    assert_eq!(next(&seen), Seen::Text("Hello".into()));
}

/// Tells how the failures of a dial are counted.
struct Counted(mpsc::Sender<(u32, Option<Duration>)>);

impl Handler for Counted {
    type Session = ();

    fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {}

    fn on_dial(&mut self, _worker: &mut WorkerContext<'_>, event: &DialEvent<'_>) {
        self.0.send((event.failures, event.retry_in)).expect("the test listens");
    }
}

fn attempts_are_counted_and_end(driver: Driver) {
    let client = client(driver);
    let (sender, counted) = mpsc::channel();
    let dial = Dial::to("ws://a/").reconnect(at_once().attempts(3)).resolver(|_, _| Ok(Vec::new()));
    client.connect(&dial, Counted(sender)).expect("a good dial");
    let all: Vec<_> = counted.iter().collect();
    let failures: Vec<u32> = all.iter().map(|(failures, _)| *failures).collect();
    assert_eq!(failures, [1, 2, 3]);
    let delays: Vec<_> = all.iter().map(|(_, retry_in)| *retry_in).collect();
    assert!(delays[..2].iter().all(|delay| delay.is_some_and(|d| d <= Duration::from_millis(20))));
    assert_eq!(delays[2], None, "the last that is heard of it");
    // A server that accepts and drops everybody counts as failing, one that serves does not.
    for (stable_after, expected) in [(3600, vec![1, 2]), (0, vec![0, 0, 0, 0])] {
        let fleeting = scripted(|request| [&upgraded(request, "")[..], b"\x88\0"].concat());
        let (sender, counted) = mpsc::channel();
        let policy = at_once().attempts(2).stable_after(Duration::from_secs(stable_after));
        let dial = Dial::to(format!("ws://{fleeting}/")).reconnect(policy);
        let dialled = client.connect(&dial, Counted(sender)).expect("a good dial");
        let failures: Vec<u32> =
            counted.iter().take(expected.len()).map(|(failures, _)| failures).collect();
        assert_eq!(failures, expected);
        drop(counted);
        client.handle().disconnect(dialled).expect("room");
    }
}

/// Connects to several servers, by itself, and counts.
struct Several {
    dials: Vec<Dial>,
    open: usize,
    told: mpsc::Sender<usize>,
}

impl Handler for Several {
    type Session = ();

    fn on_start(&mut self, worker: &mut WorkerContext<'_>) {
        for dial in &self.dials {
            worker.connect(dial).expect("a good dial");
        }
    }

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        self.open += 1;
        self.told.send(self.open).expect("the test listens");
        if self.open == 2 {
            // And one more, with a handler of its own.
            let dial = self.dials[0].clone();
            let more = Several { dials: Vec::new(), open: 40, told: self.told.clone() };
            ws.worker().connect_with(&dial, more).expect("a good dial");
        }
    }

    fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {}
}

fn a_handler_shares_its_connections(driver: Driver) {
    let servers =
        [(); 2].map(|()| TestServer::start(driver, |builder| builder.websocket("/", |_| Echo)));
    let dials: Vec<Dial> = servers.iter().map(|server| Dial::to(url(server))).collect();
    let (told, open) = mpsc::channel();
    let client = Client::builder().driver(driver).client(move |_worker| Several {
        dials: dials.clone(),
        open: 0,
        told: told.clone(),
    });
    let _client = client.start().expect("possible settings");
    let mut seen: Vec<usize> =
        (0..3).map(|_| open.recv_timeout(PATIENCE).expect("it connects")).collect();
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 41]);
}

/// Sends each its own number, until every echo has come.
struct Crowd {
    dial: Dial,
    count: usize,
    done: mpsc::Sender<()>,
}

impl Handler for Crowd {
    type Session = usize;

    fn on_start(&mut self, worker: &mut WorkerContext<'_>) {
        for _ in 0..self.count {
            worker.connect(&self.dial).expect("a good dial");
        }
    }

    fn on_open(&mut self, ws: &mut WebSocket<'_, usize>) {
        for nth in 0..3 {
            ws.send(&format!("{} {nth}", ws.id()));
        }
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, usize>, message: Message<'_>) {
        let nth = *ws.session();
        assert_eq!(message, Message::Text(&format!("{} {nth}", ws.id())), "a stranger's echo");
        *ws.session_mut() += 1;
        if nth == 2 {
            self.count -= 1;
            if self.count == 0 {
                self.done.send(()).expect("the test waits");
            }
        }
    }

    fn on_dial(&mut self, _worker: &mut WorkerContext<'_>, event: &DialEvent<'_>) {
        assert!(matches!(event.error, None | Some(DialError::Stopped)), "{event:?}");
    }
}

fn a_thousand_connections_to_our_own_server(driver: Driver) {
    let server = TestServer::start(driver, |builder| builder.websocket("/", |_| Echo));
    let (done, finished) = mpsc::channel();
    let dial = Dial::to(url(&server)).connect_timeout(PATIENCE);
    let client = Client::builder().driver(driver).workers(2).client(move |_worker| Crowd {
        dial: dial.clone(),
        count: 500,
        done: done.clone(),
    });
    let client = client.start().expect("possible settings");
    for _worker in 0..2 {
        finished.recv_timeout(PATIENCE).expect("every echo comes back");
    }
    let handle = client.handle();
    assert_eq!(handle.connections(), 1000);
    client.shutdown(PATIENCE).expect("a clean end");
    let report = handle.report().expect("it has ended");
    assert_eq!((report.closed_cleanly, report.forced, report.lost), (1000, 0, 0), "{report:?}");
    assert_eq!(handle.stats().handler_panics, 0);
    server.wait_for("nobody is left", |stats| stats.connections == 0);
    assert_eq!(server.stats().closes_received.count(1001), 1000);
}

/// A proxy that knows CONNECT: what it was asked, and the bytes of both directions.
fn proxy(verdict: &'static str) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let (asked, requests) = mpsc::channel();
    thread::spawn(move || {
        while let Ok((mut near, _)) = listener.accept() {
            let request = read_head(&mut near);
            let target = request.split(' ').nth(1).expect("an authority").to_owned();
            asked.send(request).expect("the test listens");
            near.write_all(verdict.as_bytes()).expect("the client reads");
            if !verdict.starts_with("HTTP/1.1 200") {
                continue;
            }
            near.set_read_timeout(None).expect("a socket");
            let far = TcpStream::connect(target).expect("the server listens");
            for (mut from, mut to) in [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))]
                .map(|(from, to)| (from.expect("a descriptor"), to.expect("a descriptor")))
            {
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    (addr, requests)
}

fn a_proxy_is_gone_through(driver: Driver) {
    let server = TestServer::start(driver, |builder| builder.websocket("/", |_| Echo));
    let client = client(driver);
    let (addr, requests) = proxy("HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n");
    for (credentials, header) in [("", None), ("me:se%63ret@", Some("Basic bWU6c2VjcmV0"))] {
        let (probe, seen) = Probe::doing(|ws| {
            ws.send("through");
        });
        let dial = Dial::to(url(&server)).proxy(format!("http://{credentials}{addr}"));
        client.connect(&dial, probe).expect("a good dial");
        open(&seen);
        assert_eq!(next(&seen), Seen::Text("through".into()));
        let request = requests.recv_timeout(PATIENCE).expect("it was asked");
        assert!(request.starts_with(&format!("CONNECT {} HTTP/1.1\r\n", server.addr)), "{request}");
        let sent = request.lines().find_map(|line| line.strip_prefix("Proxy-Authorization: "));
        assert_eq!(sent, header);
    }
}

fn a_proxy_that_says_no_is_reported(driver: Driver) {
    let (addr, _requests) = proxy(
        "HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nno",
    );
    let dial = || Dial::to("ws://127.0.0.1:1/");
    let error = failure(driver, &dial().proxy(format!("http://{addr}")));
    assert_eq!(error, "the proxy answered with status 407");
    let nonsense = scripted(|_| b"220 smtp.example\r\n".to_vec());
    let error = failure(driver, &dial().proxy(format!("http://{nonsense}")));
    assert_eq!(error, "the proxy failed: the response is not an HTTP/1 response");
    let silent = scripted(|_| Vec::new());
    let dial = dial().proxy(format!("http://{silent}")).connect_timeout(Duration::from_millis(500));
    assert_eq!(failure(driver, &dial), "timed out while waiting for the proxy");
}

fn a_server_that_falls_silent_is_noticed(driver: Driver) {
    // Half open: the other side is there for TCP, and nobody lives there.
    let silent = scripted(|request| upgraded(request, ""));
    let ms = Duration::from_millis;
    let client = Client::builder().driver(driver).ping_interval(ms(40)).pong_timeout(ms(60));
    let client = client.start().expect("possible settings");
    let (probe, seen) = Probe::new();
    client.connect(&Dial::to(format!("ws://{silent}/")), probe).expect("a good dial");
    open(&seen);
    assert_eq!(next(&seen), Seen::Close(1006, CloseCause::PongTimeout));
    let client = Client::builder().driver(driver).ping_interval(ms(0)).idle_timeout(ms(60));
    let client = client.start().expect("possible settings");
    let (probe, seen) = Probe::new();
    client.connect(&Dial::to(format!("ws://{silent}/")), probe).expect("a good dial");
    open(&seen);
    assert_eq!(next(&seen), Seen::Close(1006, CloseCause::IdleTimeout));
    // One that answers pings lives on.
    let server = TestServer::start(driver, |builder| builder.websocket("/", |_| Echo));
    let client = Client::builder().driver(driver).ping_interval(ms(40)).pong_timeout(PATIENCE);
    let client = client.start().expect("possible settings");
    let (probe, seen) = Probe::new();
    client.connect(&Dial::to(url(&server)), probe).expect("a good dial");
    open(&seen);
    assert_eq!(seen.recv_timeout(ms(300)), Err(mpsc::RecvTimeoutError::Timeout));
}

fn a_server_that_does_not_read_makes_us_wait(driver: Driver) {
    const MESSAGE: usize = 100_000;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let (go, wait) = mpsc::channel::<()>();
    let reader = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the client connects");
        let request = read_head(&mut stream);
        stream.write_all(&upgraded(&request, "")).expect("the client reads");
        wait.recv().expect("the test goes on");
        let mut total = 0;
        let mut buffer = vec![0; 1 << 20];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            total += count;
        }
        total
    });
    let client = Client::builder().driver(driver).max_backpressure(16 * MESSAGE);
    let client = client.start().expect("possible settings");
    let (sent, results) = mpsc::channel();
    client.connect(&Dial::to(format!("ws://{addr}/")), Pusher { sent, taken: 0 }).expect("good");
    let taken = results.recv_timeout(PATIENCE).expect("the queue fills");
    let start = Instant::now();
    wait_for("bytes wait", || client.handle().stats().buffered_bytes > 0);
    assert!(start.elapsed() < PATIENCE);
    go.send(()).expect("it waits");
    assert_eq!(results.recv_timeout(PATIENCE), Ok(taken), "drained");
    client.shutdown(PATIENCE).expect("an end");
    let header_and_key = 4 + 10;
    let total = reader.join().expect("no panic");
    assert!(total > taken * (MESSAGE + header_and_key), "{total} for {taken} messages");
}

/// Sends until a message is refused, then tells how many were taken; again when the queue drains.
struct Pusher {
    sent: mpsc::Sender<usize>,
    taken: usize,
}

impl Handler for Pusher {
    type Session = ();

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        while ws.send(&vec![7; 100_000][..]) != wirelane::SendStatus::Dropped {
            self.taken += 1;
        }
        self.sent.send(self.taken).expect("the test listens");
    }

    fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {}

    fn on_drain(&mut self, _ws: &mut WebSocket<'_, ()>) {
        self.sent.send(self.taken).expect("the test listens");
    }
}
