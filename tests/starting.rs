//! What can be wrong before a server serves: its settings, its address, its handlers.

mod common;

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use common::{Echo, Peer, ReservedPort, TestServer};
use wirelane::{Driver, Error, Limits, Response, Server};

on_every_driver!(
    a_shutdown_before_the_start_serves_nobody,
    the_address_is_free_again_at_once,
    an_address_in_use_is_an_error,
    a_handler_that_cannot_be_made_stops_the_server,
);

#[test]
fn an_impossible_setting_is_named() {
    let base = || Server::builder().listen("127.0.0.1:0").websocket("/", |_| Echo);
    let wrong = [
        ("listen", Server::builder().websocket("/", |_| Echo)),
        ("listen", base().listen("")),
        ("listen", base().listen("127.0.0.1")),
        ("listen", base().listen("127.0.0.1:70000")),
        ("listen", base().listen("no address")),
        ("websocket", Server::builder().listen("127.0.0.1:0")),
        ("websocket", base().websocket("/", |_| Echo)),
        ("websocket", base().websocket("relative", |_| Echo)),
        ("websocket", base().websocket("/query?", |_| Echo)),
        ("get", base().get("", |_| Response::new(200))),
        ("get", base().get("/a b", |_| Response::new(200))),
        ("get", base().get("/a", |_| Response::new(200)).get("/a", |_| Response::new(200))),
        ("workers", base().workers(1025)),
        ("limits", base().limits(Limits::new().max_message(0))),
        ("limits", base().limits(Limits::new().max_headers(0))),
        ("max_backpressure", base().max_backpressure(1023)),
        ("max_connections", base().max_connections(0)),
        ("backlog", base().backlog(0)),
        ("receive_buffer", base().receive_buffer(4095)),
        ("receive_buffer", base().receive_buffer((16 << 20) + 1)),
    ];
    for (wanted, builder) in wrong {
        let error = builder.build().expect_err(wanted);
        assert!(matches!(error, Error::Config { field, .. } if field == wanted), "{error:?}");
        assert!(error.to_string().contains(&format!("`{wanted}`")), "{error}");
    }
}

fn a_shutdown_before_the_start_serves_nobody(driver: Driver) {
    let server = Server::builder()
        .listen("127.0.0.1:0")
        .driver(driver)
        .workers(2)
        .websocket("/", |_| Echo)
        .build()
        .expect("possible settings");
    server.handle().shutdown(Duration::ZERO);
    server.run().expect("run returns Ok");
}

fn the_address_is_free_again_at_once(driver: Driver) {
    let start = |address: SocketAddr, workers| {
        let server = Server::builder().listen(address).driver(driver).workers(workers);
        let server = server.websocket("/", |_| Echo).build().expect("a free address");
        (server.handle(), thread::spawn(move || server.run()))
    };
    let port = ReservedPort::new();
    for workers in [1, 2, 1, 3] {
        let (handle, running) = start(port.addr, workers);
        let mut peer = Peer::connect(port.addr);
        peer.handshake("/");
        peer.send_text("here");
        assert_eq!(peer.read_frame().payload, b"here");
        // The server ends first, so that its side of the connection is the one in TIME_WAIT.
        handle.shutdown(Duration::ZERO);
        running.join().expect("no panic").expect("run returns Ok");
    }
}

fn an_address_in_use_is_an_error(driver: Driver) {
    let server = TestServer::start(driver, |server| server.websocket("/", |_| Echo));
    for workers in [1, 2] {
        let error = Server::builder()
            .listen("127.0.0.1:0")
            .listen(server.addr.to_string())
            .driver(driver)
            .workers(workers)
            .websocket("/", |_| Echo)
            .build()
            .expect_err("somebody listens there");
        match &error {
            Error::Listen { address, source } => {
                assert_eq!(*address, server.addr.to_string());
                assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
            }
            other => panic!("{other:?}"),
        }
        assert!(error.to_string().contains(&server.addr.to_string()), "{error}");
    }
    // And the one that was there before is unharmed.
    server.open().send_text("unharmed");
}

fn a_handler_that_cannot_be_made_stops_the_server(driver: Driver) {
    let server = Server::builder()
        .listen("127.0.0.1:0")
        .driver(driver)
        .workers(3)
        .on_listening(|_| panic!("it never does"))
        .websocket("/", |worker| {
            assert_ne!(worker, 1, "asked for by the test");
            Echo
        })
        .build()
        .expect("possible settings");
    let error = server.run().expect_err("there is never half a server");
    assert!(matches!(error, Error::Worker { worker: 1, .. }), "{error:?}");
}
