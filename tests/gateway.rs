//! The example `gateway`: its subscribers get what an upstream server sends, also after that
//! server has been away.

mod common;

use std::time::Duration;

use common::child::{END, Program};
use common::{Echo, Peer, ReservedPort, TestServer};
use wirelane::{Driver, Handler, Message, WebSocket};

on_every_driver! { a_feed_comes_back_after_its_server_was_away }

/// The upstream server: sends everybody whatever the test sends.
struct Source;

impl Handler for Source {
    type Session = ();

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        ws.subscribe("all").expect("a short name");
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        ws.publish("all", message);
    }
}

fn text(peer: &mut Peer) -> String {
    let frame = peer.read_frame();
    assert_eq!(frame.first, 0x81);
    String::from_utf8(frame.payload).expect("UTF-8")
}

fn a_feed_comes_back_after_its_server_was_away(driver: Driver) {
    let port = ReservedPort::new();
    let addr = port.addr;
    let serve = || {
        TestServer::start(driver, move |builder| {
            builder.listen(addr).websocket("/", |_| Source).websocket("/echo", |_| Echo)
        })
    };
    let upstream = format!("ws://{addr}/");
    // The upstream server is not there yet.
    let args = ["--upstream", upstream.as_str(), "--workers", "2"];
    let gateway = Program::start("gateway", driver, &args);
    let mut subscribers = [gateway.open(), gateway.open()];
    for round in 0..3 {
        let server = serve();
        let mut source = server.open();
        for subscriber in &mut subscribers {
            assert_eq!(text(subscriber), "feed: up", "round {round}");
        }
        source.send_text(&format!("price {round}"));
        for subscriber in &mut subscribers {
            assert_eq!(text(subscriber), format!("price {round}"));
        }
        drop(source);
        server.stop(Duration::from_millis(if round == 1 { 0 } else { 5000 })).expect("an end");
        for subscriber in &mut subscribers {
            assert_eq!(text(subscriber), "feed: down");
        }
    }
    let signalled = gateway.signal(15);
    for subscriber in &mut subscribers {
        subscriber.send_frame(0x88, b"\x03\xe9");
        subscriber.expect_close(1001);
    }
    gateway.expect_end(signalled, END);
}
