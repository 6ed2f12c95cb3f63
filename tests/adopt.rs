//! Connections that another server accepted and upgraded are served like any other.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use common::{Echo, PATIENCE, Peer, TestServer, frame, request};
use wirelane::{
    AdoptError, Close, ConnectedSocket, Deflate, DeflateParameters, Driver, Handler, Message,
    Negotiated, RouteOptions, Server, ServerBuilder, Session, WebSocket,
};

on_every_driver!(
    an_adopted_connection_is_a_connection_like_any_other,
    what_was_read_behind_the_request_comes_first,
    unix_sockets_and_descriptors_are_adopted,
    adopted_connections_are_spread_evenly,
    compression_goes_on_as_it_was_agreed_on,
    whoever_is_not_adopted_keeps_the_socket,
    a_session_that_cannot_begin_is_told_so,
    adopting_from_threads_while_the_server_stops_loses_nobody,
    a_server_without_addresses_serves_what_it_adopts,
);

/// The other server: it reads requests and answers 101, and hands the socket over.
struct Front(TcpListener);

impl Front {
    fn new() -> Front {
        Front(TcpListener::bind("127.0.0.1:0").expect("a free port"))
    }

    /// A client whose opening handshake is done, and this server's end of its connection. What
    /// the client sent behind its request comes with it.
    fn upgrade(&self, behind: &[u8]) -> (Peer, TcpStream, Vec<u8>) {
        let mut peer = Peer::connect(self.0.local_addr().expect("an address"));
        peer.send(&[&request("/"), behind].concat());
        let (mut stream, _) = self.0.accept().expect("a client");
        let mut received = Vec::new();
        let wanted = request("/").len() + behind.len();
        while received.len() < wanted {
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).expect("a request");
            received.extend_from_slice(&buffer[..count]);
        }
        let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        stream.write_all(answer.as_bytes()).expect("the client reads");
        assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
        (peer, stream, received.split_off(request("/").len()))
    }
}

/// A session that is neither `Default` nor `Send`.
struct Player(Rc<str>);

impl Session for Player {}

/// Says what it knows about a connection as soon as it is open, then returns messages.
struct Game;

impl Handler for Game {
    type Session = Player;

    fn on_open(&mut self, ws: &mut WebSocket<'_, Player>) {
        let peer = ws.peer_addr().is_some();
        let hello = format!("{} {:?} {peer}", ws.session().0, ws.subprotocol());
        ws.send(&hello);
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, Player>, message: Message<'_>) {
        ws.send(message);
    }

    fn on_close(&mut self, ws: &mut WebSocket<'_, Player>, _close: Close<'_>) {
        assert!(!ws.session().0.is_empty());
    }
}

fn serve(server: ServerBuilder) -> ServerBuilder {
    let options = RouteOptions::new().subprotocols(["a", "b"]);
    server.workers(4).websocket("/", |_| Echo).websocket_with("/game/:id", options, |_| Game)
}

fn text(peer: &mut Peer) -> String {
    let frame = peer.read_frame();
    assert_eq!(frame.first, 0x81, "{frame:?}");
    String::from_utf8(frame.payload).expect("text")
}

fn an_adopted_connection_is_a_connection_like_any_other(driver: Driver) {
    let server = TestServer::start(driver, serve);
    let front = Front::new();
    for (offered, expected) in [
        (None, r#"Ada None true"#),
        (Some("b"), r#"Ada Some("b") true"#),
        (Some("in-no-list"), r#"Ada Some("in-no-list") true"#),
    ] {
        let (mut peer, stream, leftover) = front.upgrade(b"");
        stream.set_nonblocking(expected.contains('b')).expect("a socket");
        let mut negotiated = Negotiated::new("/game/7?name=Ada");
        if let Some(name) = offered {
            negotiated = negotiated.subprotocol(name);
        }
        let adopted =
            server.handle.adopt_with(stream, leftover, negotiated, || Player(Rc::from("Ada")));
        adopted.expect("there is room");
        assert_eq!(text(&mut peer), expected);
        peer.send_text("hello");
        assert_eq!(text(&mut peer), "hello");
        // It is known to everybody who knows connections.
        assert_eq!(server.handle.connections(), 1);
        peer.send_frame(0x88, &1000_u16.to_be_bytes());
        peer.expect_close(1000);
        server.wait_for("its end", |stats| stats.connections == 0);
    }
    let stats = server.stats();
    assert_eq!((stats.adopted, stats.accepted, stats.opened, stats.closed), (3, 0, 3, 3));
    // The client's Pings and mistakes are handled as well.
    let (mut peer, stream, _) = front.upgrade(b"");
    server.handle.adopt(stream, [], Negotiated::new("/")).expect("there is room");
    peer.send_frame(0x89, b"ping");
    assert_eq!(peer.read_frame().first, 0x8a);
    peer.send(&[0x81, 0x01, b'x']);
    peer.expect_close(1002);
}

fn what_was_read_behind_the_request_comes_first(driver: Driver) {
    let server = TestServer::start(driver, serve);
    let front = Front::new();
    let bytes = [frame(0x81, b"one"), frame(0x81, b"two"), frame(0x82, &[3; 70_000])].concat();
    // Cut in the middle of everything: a header, a payload, a long payload, and nowhere.
    for cut in [0, 1, 9, 12, 25, 1_000, bytes.len()] {
        let (mut peer, stream, leftover) = front.upgrade(&bytes[..cut]);
        assert_eq!(leftover.len(), cut);
        server.handle.adopt(stream, leftover, Negotiated::new("/")).expect("there is room");
        peer.send(&bytes[cut..]);
        assert_eq!((text(&mut peer), text(&mut peer)), ("one".into(), "two".into()), "cut {cut}");
        assert_eq!(peer.read_frame().payload, [3; 70_000]);
    }
    let sent = 7 * bytes.len() as u64;
    server.wait_for("the end of all", |stats| stats.connections == 0);
    assert!(server.stats().bytes_received >= sent);
}

fn compression_goes_on_as_it_was_agreed_on(driver: Driver) {
    let server = TestServer::start(driver, serve);
    let front = Front::new();
    let agreed = DeflateParameters {
        server_no_context_takeover: false,
        client_no_context_takeover: false,
        server_max_window_bits: 15,
        client_max_window_bits: 15,
    };
    let settings = Deflate::dedicated(12).threshold(0);
    // RFC 7692 7.2.3.1 and 7.2.3.2: "Hello", and again in the same context, one of them early.
    let first = frame(0xc1, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]);
    let (mut peer, stream, leftover) = front.upgrade(&first);
    let negotiated = Negotiated::new("/").deflate(settings, agreed);
    server.handle.adopt(stream, leftover, negotiated).expect("there is room");
    let echo = peer.read_frame();
    assert_eq!((echo.first, &echo.payload), (0xc1, &vec![0xf2, 0x48, 0xcd, 0xc9, 0xc9, 7, 0]));
    peer.send_frame(0xc1, &[0xf2, 0x00, 0x11, 0x00, 0x00]);
    let echo = peer.read_frame();
    assert!(echo.first == 0xc1 && echo.payload.len() < 7, "{echo:?}");

    let impossible = DeflateParameters { server_max_window_bits: 16, ..agreed };
    let (_peer, mut stream, _) = front.upgrade(b"");
    for (settings, agreed) in [(Deflate::off(), agreed), (settings, impossible)] {
        let negotiated = Negotiated::new("/").deflate(settings, agreed);
        let refused = server.handle.adopt(stream, [], negotiated).expect_err("impossible");
        assert_eq!(refused.error(), AdoptError::InvalidDeflate);
        stream = OwnedFd::from(refused.into_socket()).into();
    }
}

fn unix_sockets_and_descriptors_are_adopted(driver: Driver) {
    let server = TestServer::start(driver, serve);
    let (near, far) = UnixStream::pair().expect("a pair");
    server.handle.adopt(near, [], Negotiated::new("/")).expect("there is room");
    far.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    (&far).write_all(&frame(0x81, b"unix")).expect("the server reads");
    let mut answer = [0; 6];
    (&far).read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"\x81\x04unix");
    let (mut peer, stream, _) = Front::new().upgrade(b"");
    server.handle.adopt(OwnedFd::from(stream), [], Negotiated::new("/")).expect("there is room");
    peer.send_text("descriptor");
    assert_eq!(text(&mut peer), "descriptor");
}

fn adopted_connections_are_spread_evenly(driver: Driver) {
    let server = TestServer::start(driver, serve);
    let front = Front::new();
    let mut peers = Vec::new();
    for _ in 0..100 {
        let (peer, stream, _) = front.upgrade(b"");
        server.handle.adopt(stream, [], Negotiated::new("/")).expect("there is room");
        peers.push(peer);
    }
    let loads = [0, 1, 2, 3].map(|worker| server.handle.connections_on(worker));
    assert_eq!(loads, [25; 4]);
    for peer in &mut peers {
        peer.send_text("there");
        assert_eq!(text(peer), "there");
    }
    drop(peers);
    server.wait_for("the end of all", |stats| stats.connections == 0 && stats.closed == 100);
}

fn whoever_is_not_adopted_keeps_the_socket(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        serve(server).max_connections(3).max_connections_per_ip(2)
    });
    let front = Front::new();
    let refuse = |socket: ConnectedSocket, negotiated: Negotiated| {
        let refused = server.handle.adopt(socket, [], negotiated).expect_err("impossible");
        let error = refused.error();
        assert!(refused.to_string().ends_with(&error.to_string()));
        (error, OwnedFd::from(refused.into_socket()))
    };
    let (_peer, stream, _) = front.upgrade(b"");
    let (error, fd) = refuse(stream.into(), Negotiated::new("/nowhere"));
    assert_eq!(error, AdoptError::NoSuchPath);
    let (error, fd) = refuse(fd.into(), Negotiated::new("/").subprotocol("not a token"));
    assert_eq!(error, AdoptError::InvalidSubprotocol);
    let wrong = server.handle.adopt_with(fd, [], Negotiated::new("/game/1"), || 7_u32);
    assert_eq!(wrong.expect_err("another type").error(), AdoptError::WrongSession);

    // What is no connection.
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    udp.connect("127.0.0.1:9").expect("UDP connects to anybody");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let file = File::open("/dev/null").expect("it is there");
    for fd in [OwnedFd::from(udp), listener.into(), file.into()] {
        assert_eq!(refuse(fd.into(), Negotiated::new("/")).0, AdoptError::NotConnected);
    }

    // Limits.
    let mut peers: Vec<Peer> = Vec::new();
    for _ in 0..2 {
        let (peer, stream, _) = front.upgrade(b"");
        server.handle.adopt(stream, [], Negotiated::new("/")).expect("there is room");
        peers.push(peer);
    }
    let (_peer, stream, _) = front.upgrade(b"");
    assert_eq!(refuse(stream.into(), Negotiated::new("/")).0, AdoptError::AddressFull);
    let (near, _far) = UnixStream::pair().expect("a pair");
    server.handle.adopt(near, [], Negotiated::new("/")).expect("it has no address");
    let (mut peer, stream, _) = front.upgrade(b"");
    let (error, fd) = refuse(stream.into(), Negotiated::new("/"));
    assert_eq!(error, AdoptError::Full);
    // The other server still has its connection.
    let mut stream = TcpStream::from(fd);
    stream.write_all(b"\x88\x02\x03\xf5").expect("it is open");
    drop(stream);
    peer.expect_close(1013);
    server.wait_for("three", |stats| stats.adopted == 3);

    let handle = server.handle.clone();
    server.stop(Duration::ZERO).expect("a clean end");
    let (_peer, stream, _) = front.upgrade(b"");
    let refused = handle.adopt(stream, [], Negotiated::new("/")).expect_err("it has stopped");
    assert_eq!((refused.error(), handle.connections()), (AdoptError::Stopped, 0));
}

fn a_session_that_cannot_begin_is_told_so(driver: Driver) {
    let server = TestServer::start(driver, serve);
    let front = Front::new();
    let (mut peer, stream, _) = front.upgrade(b"");
    let failing = || -> Player { panic!("asked for by the test") };
    let negotiated = Negotiated::new("/game/1");
    server.handle.adopt_with(stream, [], negotiated.clone(), failing).expect("there is room");
    peer.expect_close(1011);
    let (mut peer, stream, _) = front.upgrade(b"");
    // There is no player by default.
    server.handle.adopt(stream, [], negotiated).expect("there is room");
    peer.expect_close(1011);
    drop(peer);
    let stats = server.wait_for("the end of both", |stats| stats.connections == 0);
    assert_eq!((stats.adopted, stats.opened, stats.handler_panics), (2, 0, 1));
    assert_eq!(stats.closes_sent.count(1011), 2);
}

fn adopting_from_threads_while_the_server_stops_loses_nobody(driver: Driver) {
    for round in 0..6 {
        let server = TestServer::start(driver, serve);
        let adopters: Vec<_> = (0..3)
            .map(|_| {
                let handle = server.handle.clone();
                thread::spawn(move || {
                    let front = Front::new();
                    let mut peers = Vec::new();
                    loop {
                        let (peer, stream, _) = front.upgrade(b"");
                        match handle.adopt(stream, [], Negotiated::new("/")) {
                            Ok(()) => peers.push(peer),
                            Err(refused) => {
                                assert_eq!(refused.error(), AdoptError::Stopped);
                                return peers;
                            }
                        }
                    }
                })
            })
            .collect();
        server.wait_for("the first ones", |stats| stats.adopted > 2 * round);
        let handle = server.handle.clone();
        server.stop(Duration::from_millis(50)).expect("a clean end");
        for adopter in adopters {
            for mut peer in adopter.join().expect("no panic") {
                // Close 1001, or the bare end for whoever came too late even for that.
                let _ = peer.read_to_end();
            }
        }
        assert_eq!((handle.connections(), handle.stats().connections), (0, 0));
    }
}

fn a_server_without_addresses_serves_what_it_adopts(driver: Driver) {
    let build = || {
        let server = Server::builder().driver(driver).adopt_only().websocket("/", |_| Echo);
        server.build().expect("no address is needed")
    };
    let front = Front::new();
    let (mut peer, stream, leftover) = front.upgrade(&frame(0x81, b"early"));
    let server = build();
    let handle = server.handle();
    // It does not run yet.
    handle.adopt(stream, leftover, Negotiated::new("/")).expect("there is room");
    assert_eq!(handle.connections(), 1);
    let thread = thread::spawn(move || server.run());
    assert_eq!(text(&mut peer), "early");
    handle.shutdown(Duration::from_secs(5));
    let frame = peer.read_frame();
    assert_eq!(frame.close_code(), 1001);
    drop(peer);
    thread.join().expect("no panic").expect("a clean end");

    // One that never runs leaves nobody waiting.
    let server = build();
    let handle = server.handle();
    let (mut peer, stream, _) = front.upgrade(b"");
    handle.adopt(stream, [], Negotiated::new("/")).expect("there is room");
    drop(server);
    peer.expect_end();
    assert_eq!(handle.connections(), 0);
}
