//! Sends every message to every open connection, the sender included.
//!
//! `cargo run --release --example broadcast -- --listen 127.0.0.1:9001`

mod shared;

use std::process::ExitCode;
use std::sync::{Arc, PoisonError, RwLock};

use wirelane::{Close, ConnectionId, Handler, Message, Origins, WebSocket};

/// Every open connection, of all workers.
type Audience = Arc<RwLock<Vec<ConnectionId>>>;

struct Broadcast {
    audience: Audience,
}

impl Handler for Broadcast {
    type Session = ();

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        self.audience.write().unwrap_or_else(PoisonError::into_inner).push(ws.id());
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        for &id in self.audience.read().unwrap_or_else(PoisonError::into_inner).iter() {
            // Whoever is gone or too slow misses the message, which `Stats` counts. The others must
            // not wait for it, nor for whoever would read a line about it.
            let _ = ws.send_to(id, message);
        }
    }

    fn on_close(&mut self, ws: &mut WebSocket<'_, ()>, _close: Close<'_>) {
        let mut audience = self.audience.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = audience.iter().position(|&id| id == ws.id()) {
            audience.swap_remove(index);
        }
    }
}

fn main() -> ExitCode {
    let audience = Audience::default();
    shared::run(move |server| {
        server
            // Everybody hears everybody here anyway; a server with secrets leaves this line out.
            .origins(Origins::any_site_may_connect_dangerously())
            .websocket("/", move |_worker| Broadcast { audience: Arc::clone(&audience) })
    })
}
