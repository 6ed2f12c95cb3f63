//! Who serves whom: connections are spread over the workers as evenly as was asked for, workers
//! stay on their cores, and no address takes all places.

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use common::{Echo, PATIENCE, Peer, ReservedPort, TestServer, request};
use socket2::{Domain, SockAddr, Socket, Type};
use wirelane::{Accept, Driver, Error, Handler, ListenAddr, Message, Server, ServerBuilder};
use wirelane::{WebSocket, WorkerContext};

on_every_driver!(
    a_hundred_connections_are_twenty_five_for_each_of_four_workers,
    whoever_lost_connections_gets_the_next,
    the_workers_of_a_unix_socket_are_spread_over_too,
    a_full_server_that_spreads_serves_everybody_in_the_end,
    a_server_that_stops_while_it_spreads_leaves_nobody_waiting,
    one_address_cannot_take_all_places,
    workers_stay_on_their_cores,
);

fn spreading(server: ServerBuilder) -> ServerBuilder {
    server.workers(4).accept(Accept::Spread).websocket("/", |_| Echo)
}

fn loads(server: &TestServer) -> Vec<usize> {
    (0..server.handle.workers()).map(|worker| server.handle.connections_on(worker)).collect()
}

fn check_echo(peer: &mut Peer, text: &str) {
    peer.send_text(text);
    assert_eq!(peer.read_frame().payload, text.as_bytes());
}

fn a_hundred_connections_are_twenty_five_for_each_of_four_workers(driver: Driver) {
    let server = TestServer::start(driver, spreading);
    let mut peers: Vec<Peer> = (0..100).map(|_| server.open()).collect();
    assert_eq!(loads(&server), [25; 4]);
    for (number, peer) in peers.iter_mut().enumerate() {
        check_echo(peer, &format!("message {number}"));
    }
    let stats = server.stats();
    assert_eq!((stats.accepted, stats.opened, stats.connections), (100, 100, 100));
    drop(peers);
    server.wait_for("the end of all", |stats| stats.connections == 0);
    assert_eq!(loads(&server), [0; 4]);
}

fn whoever_lost_connections_gets_the_next(driver: Driver) {
    /// Tells which worker serves.
    struct Number(usize);

    impl Handler for Number {
        type Session = ();

        fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {
            ws.send(&self.0.to_string());
        }
    }

    let server = TestServer::start(driver, |server| {
        server.workers(4).accept(Accept::Spread).websocket("/", Number)
    });
    let ask = || {
        let mut peer = server.open();
        peer.send_text("who?");
        let number = String::from_utf8(peer.read_frame().payload).expect("a number");
        (number.parse::<usize>().expect("a number"), peer)
    };
    let peers: Vec<(usize, Peer)> = (0..16).map(|_| ask()).collect();
    let (gone, stay): (Vec<_>, Vec<_>) = peers.into_iter().partition(|&(worker, _)| worker == 2);
    assert_eq!((gone.len(), stay.len()), (4, 12));
    drop(gone);
    server.wait_for("their end", |stats| stats.connections == 12);
    let peers: Vec<(usize, Peer)> = (0..4).map(|_| ask()).collect();
    assert!(peers.iter().all(|&(worker, _)| worker == 2));
    assert_eq!(loads(&server), [4; 4]);
}

fn scratch(name: &str) -> std::path::PathBuf {
    let name = format!("wirelane-{name}-{}-{:?}", std::process::id(), thread::current().id());
    std::env::temp_dir().join(name)
}

fn the_workers_of_a_unix_socket_are_spread_over_too(driver: Driver) {
    let path = scratch("even");
    let unix = ListenAddr::unix(&path);
    let server = TestServer::start(driver, |server| spreading(server).listen(unix));
    let peers: Vec<UnixStream> = (0..20)
        .map(|_| {
            let stream = UnixStream::connect(&path).expect("the server listens");
            io::Write::write_all(&mut &stream, &request("/")).expect("the server reads");
            stream
        })
        .collect();
    server.wait_for("twenty handshakes", |stats| stats.opened == 20);
    assert_eq!(loads(&server), [5; 4]);
    // Both kinds are counted together.
    let _tcp: Vec<Peer> = (0..20).map(|_| server.open()).collect();
    assert_eq!(loads(&server), [10; 4]);
    drop(peers);
    server.wait_for("the end of half", |stats| stats.connections == 20);
    drop(server);
    assert!(!path.exists());
}

fn a_full_server_that_spreads_serves_everybody_in_the_end(driver: Driver) {
    let server = TestServer::start(driver, |server| spreading(server).max_connections(6));
    let inside: Vec<Peer> = (0..6).map(|_| server.open()).collect();
    let mut outside: Vec<Peer> = (0..12).map(|_| server.connect()).collect();
    for peer in &mut outside {
        peer.send(&request("/"));
    }
    // Long enough for several tries.
    thread::sleep(Duration::from_millis(250));
    assert!(outside.iter().all(|peer| !peer.has_news()), "there is no place");
    assert_eq!(server.stats().connections, 6);
    drop(inside);
    for mut peer in outside {
        assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
        check_echo(&mut peer, "inside");
        assert!(server.handle.connections() <= 6);
    }
    server.wait_for("the end of all", |stats| stats.connections == 0);
    assert_eq!(server.stats().accepted, 18);
}

fn a_server_that_stops_while_it_spreads_leaves_nobody_waiting(driver: Driver) {
    // Whoever comes after the end of one must not become the guest of another test's server.
    let reserved = ReservedPort::new();
    let addr = reserved.addr;
    for round in 0..10 {
        let server = TestServer::start(driver, |server| spreading(server).listen(addr));
        let (came, everybody) = mpsc::channel();
        let visitors: Vec<_> = (0..4)
            .map(|_| {
                let came = came.clone();
                thread::spawn(move || {
                    let mut ends = 0;
                    while let Ok(stream) = std::net::TcpStream::connect(addr) {
                        if ends == 0 {
                            came.send(()).expect("somebody counts");
                        }
                        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                        // 101 and Close, 503, FIN or a reset: anything but silence.
                        let _ = io::Write::write_all(&mut &stream, &request("/"));
                        let mut answer = [0; 256];
                        if let Err(error) = io::Read::read(&mut &stream, &mut answer) {
                            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                        }
                        ends += 1;
                    }
                    ends
                })
            })
            .collect();
        for _ in &visitors {
            everybody.recv_timeout(PATIENCE).expect("everybody comes in");
        }
        thread::sleep(Duration::from_millis(5 + round));
        let handle = server.handle.clone();
        server.stop(Duration::from_millis(100)).expect("a clean end");
        assert_eq!((handle.connections(), handle.stats().connections), (0, 0));
        assert!((0..4).all(|worker| handle.connections_on(worker) == 0));
        for visitor in visitors {
            assert_ne!(visitor.join().expect("nobody waits in vain"), 0);
        }
    }
}

/// A connection that comes from this loopback address.
fn connect_from(source: Ipv4Addr, addr: SocketAddr) -> Peer {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SockAddr::from(SocketAddr::from((source, 0)))).expect("a loopback address");
    socket.connect(&SockAddr::from(addr)).expect("the server listens");
    Peer::from_stream(socket.into())
}

fn one_address_cannot_take_all_places(driver: Driver) {
    let limited = |server: ServerBuilder| {
        server.workers(2).max_connections_per_ip(3).websocket("/", |_| Echo)
    };
    for accept in [Accept::PerWorker, Accept::Spread] {
        let server = TestServer::start(driver, |server| limited(server).accept(accept));
        let open = |last| {
            let mut peer = connect_from(Ipv4Addr::new(127, 0, 0, last), server.addr);
            peer.handshake("/");
            peer
        };
        let mut greedy: Vec<Peer> = (0..3).map(|_| open(1)).collect();
        for refused in 1..=5 {
            let mut peer = server.connect();
            // It is closed before it has said anything.
            assert_eq!(peer.read_to_end().expect("FIN"), b"");
            server.wait_for("a refusal", |stats| stats.refused_per_ip == refused);
        }
        let others: Vec<Peer> = (2..6).flat_map(|last| [open(last), open(last)]).collect();
        assert_eq!(server.stats().connections, 11);
        // A place that comes free is for the same address again.
        greedy.pop();
        server.wait_for("an end", |stats| stats.connections == 10);
        greedy.push(open(1));
        check_echo(&mut greedy[2], "inside again");
        drop((greedy, others));
        server.wait_for("the end of all", |stats| stats.connections == 0);
        assert_eq!(server.stats().accepted, 12);
    }
    // Behind a proxy there are many clients.
    let server =
        TestServer::start(driver, |server| limited(server).proxy_protocol(["127.0.0.0/8"]));
    let mut proxied: Vec<Peer> = (0..8).map(|_| server.connect()).collect();
    for peer in &mut proxied {
        peer.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\n");
        peer.handshake("/");
    }
    assert_eq!(server.stats().refused_per_ip, 0);
}

/// The cores that the calling thread may use, as the kernel writes them.
fn cores() -> String {
    let status = fs::read_to_string("/proc/thread-self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.expect("a line of it").trim().to_owned()
}

fn workers_stay_on_their_cores(driver: Driver) {
    /// Tells where it runs.
    struct Where(mpsc::Sender<(usize, String)>, usize);

    impl Handler for Where {
        type Session = ();

        fn on_start(&mut self, _worker: &mut WorkerContext<'_>) {
            self.0.send((self.1, cores())).expect("the test waits");
        }

        fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {}
    }

    let started_with = cores();
    let first = started_with.split([',', '-']).next().expect("a core").parse().expect("a number");
    let (sender, places) = mpsc::channel();
    let server = TestServer::start(driver, |server| {
        server
            .workers(3)
            .pin_workers([first])
            .websocket("/", move |worker| Where(sender.clone(), worker))
    });
    for _ in 0..3 {
        let (worker, core) = places.recv_timeout(PATIENCE).expect("an answer");
        assert_eq!(core, first.to_string(), "worker {worker}");
    }
    let mut peer = server.open();
    peer.send_text("hello");
    assert_eq!(cores(), started_with, "the caller's thread is not pinned");
}

#[test]
fn a_core_that_cannot_be_used_is_an_error_that_names_those_that_can() {
    let server = Server::builder().listen("127.0.0.1:0").websocket("/", |_| Echo);
    match server.pin_workers([0, 100_000]).build() {
        Err(Error::Config { field: "pin_workers", reason }) => {
            assert!(reason.contains("core 100000") && reason.contains("use some of ["), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let start = Instant::now();
    let server = Server::builder().listen("127.0.0.1:0").websocket("/", |_| Echo);
    let server = server.pin_workers([]).build().expect("all cores will do");
    server.handle().shutdown(Duration::ZERO);
    server.run().expect("a clean end");
    assert!(start.elapsed() < PATIENCE);
}
