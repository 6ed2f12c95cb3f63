//! Returns every message with the same opcode; a browser gets a page to try it from.
//!
//! `cargo run --release --example echo`, then open <http://127.0.0.1:9001/>.

mod shared;

use std::process::ExitCode;

use wirelane::{CloseCode, Handler, Message, Origins, Response, SendStatus, WebSocket};

const PAGE: &str = include_str!("echo.html");

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        if ws.send(message) == SendStatus::Dropped {
            // The peer sends more than it reads. It shall know that its message is lost.
            ws.close(CloseCode::TRY_AGAIN_LATER, "you do not read what you asked for");
        }
    }
}

fn main() -> ExitCode {
    shared::run(|server| {
        server
            // Whoever connects gets what it sent itself: an echo gives nothing away.
            .origins(Origins::any_site_may_connect_dangerously())
            .get("/", |_request| Response::html(PAGE))
            .websocket("/", |_worker| Echo)
    })
}
