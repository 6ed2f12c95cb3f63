//! Sends every message to every open connection, the sender included, through one topic.
//!
//! `cargo run --release --example broadcast -- --listen 127.0.0.1:9001`

mod shared;

use std::process::ExitCode;

use wirelane::{CloseCode, Handler, Message, Origins, WebSocket};

/// Everybody is subscribed to it.
const TOPIC: &str = "everybody";

struct Broadcast;

impl Handler for Broadcast {
    type Session = ();

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        if let Err(error) = ws.subscribe(TOPIC) {
            // Cannot happen with one topic, unless a limit is set below.
            ws.close(CloseCode::INTERNAL_ERROR, &error.to_string());
        }
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        // Framed once, for the connections of all workers. Whoever is too slow misses the message,
        // which `Stats` counts and `on_dropped` would tell; the others do not wait for it.
        ws.publish_to_all(TOPIC, message);
    }
}

fn main() -> ExitCode {
    shared::run(|server| {
        server
            // Everybody hears everybody here anyway; a server with secrets leaves this line out.
            .origins(Origins::any_site_may_connect_dangerously())
            .websocket("/", |_worker| Broadcast)
    })
}
