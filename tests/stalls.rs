//! A worker that was kept from running judges nobody before it has heard everybody.

mod common;

use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use common::{PATIENCE, Peer, TestServer, request};
use wirelane::{Close, CloseCause, CloseCode, Driver, Handler, Message, WebSocket};

on_every_driver!(who_has_spoken_during_a_stall_is_not_idle, who_has_closed_in_a_stall_is_answered);

/// Many more than one turn of io_uring serves.
const PEERS: usize = 300;

/// Much longer than the stall before it counts as one, and than every timeout here.
const STALL: Duration = Duration::from_secs(3);

/// Stops the whole worker at the word, and tells how connections end.
struct Sleepy(Sender<CloseCause>);

impl Handler for Sleepy {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        match message {
            Message::Text("sleep") => thread::sleep(STALL),
            Message::Text("close") => ws.close(CloseCode::NORMAL, ""),
            _ => {
                ws.send(message);
            }
        }
    }

    fn on_close(&mut self, _ws: &mut WebSocket<'_, ()>, close: Close<'_>) {
        // A test that is over listens no more.
        let _ = self.0.send(close.cause);
    }
}

/// Stalls the worker; everybody speaks while it does not listen.
fn stall(server: &TestServer, peers: &mut [Peer], speak: impl Fn(&mut Peer)) -> Peer {
    let mut lullaby = server.open();
    lullaby.send_text("sleep");
    thread::sleep(STALL / 6);
    peers.iter_mut().for_each(speak);
    lullaby
}

fn who_has_spoken_during_a_stall_is_not_idle(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        let server = server.idle_timeout(STALL / 2).ping_interval(STALL / 4);
        let (ends, _) = mpsc::channel();
        server.websocket("/", move |_| Sleepy(ends.clone()))
    });
    // All at once: each has to speak again before it is idle.
    let mut peers: Vec<Peer> = (0..PEERS).map(|_| server.connect()).collect();
    peers.iter_mut().for_each(|peer| peer.send(&request("/")));
    for peer in &mut peers {
        assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
    }
    let _lullaby = stall(&server, &mut peers, |peer| peer.send_text("still here"));
    for peer in &mut peers {
        // A ping may come first, from before the stall.
        while peer.read_frame().payload.is_empty() {}
    }
}

fn who_has_closed_in_a_stall_is_answered(driver: Driver) {
    let (ends, ended) = mpsc::channel();
    let server = TestServer::start(driver, |server| {
        server.close_timeout(STALL / 2).websocket("/", move |_| Sleepy(ends.clone()))
    });
    let mut peers: Vec<Peer> = (0..PEERS).map(|_| server.open()).collect();
    for peer in &mut peers {
        peer.send_text("close");
        assert_eq!(peer.read_frame().close_code(), 1000);
    }
    // Each has its answer under way before its time is over.
    let _lullaby = stall(&server, &mut peers, |peer| peer.send_frame(0x88, &[0x03, 0xe8]));
    for _ in 0..PEERS {
        assert_eq!(ended.recv_timeout(PATIENCE), Ok(CloseCause::Local));
    }
}
