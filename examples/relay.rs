//! Sends every message to every other open connection, one by one, by id.
//!
//! `cargo run --release --example relay -- --listen 127.0.0.1:9001`

mod shared;

use std::process::ExitCode;
use std::sync::{Arc, PoisonError, RwLock};

use wirelane::{Close, ConnectionId, Handler, Message, Origins, PreparedMessage, WebSocket};

/// Every open connection, of all workers.
type Peers = Arc<RwLock<Vec<ConnectionId>>>;

struct Relay {
    peers: Peers,
}

impl Handler for Relay {
    type Session = ();

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        self.peers.write().unwrap_or_else(PoisonError::into_inner).push(ws.id());
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        let own = ws.id();
        // Framed once, sent many times.
        let message = PreparedMessage::new(message);
        for &peer in self.peers.read().unwrap_or_else(PoisonError::into_inner).iter() {
            if peer != own {
                // A peer that is gone or too slow misses the message, which `Stats` counts. The
                // others must not wait for it, nor for whoever would read a line about it.
                let _ = ws.send_prepared_to(peer, &message);
            }
        }
    }

    fn on_close(&mut self, ws: &mut WebSocket<'_, ()>, _close: Close<'_>) {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = peers.iter().position(|&peer| peer == ws.id()) {
            peers.swap_remove(index);
        }
    }
}

fn main() -> ExitCode {
    let peers = Peers::default();
    shared::run(move |server| {
        server
            // Everybody hears everybody here anyway; a server with secrets leaves this line out.
            .origins(Origins::any_site_may_connect_dangerously())
            .websocket("/", move |_worker| Relay { peers: Arc::clone(&peers) })
    })
}
