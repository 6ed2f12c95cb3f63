//! Chat rooms: whoever is in a room hears what is said in it, and who comes and goes.
//!
//! `cargo run --release --example chat`, then open <http://127.0.0.1:9001/> in two windows.
//!
//! `ws://127.0.0.1:9001/room/ROOM?name=NAME` enters a room; there is no need to make one first.
//! A client sends text. It gets lines of three fields, with tabs in between, about everybody in the
//! room, itself included: `joined NAME COUNT`, `left NAME COUNT` and `said NAME TEXT`. Whoever reads
//! too slowly to get all of it is closed with 1013.

mod shared;

use std::process::ExitCode;

use wirelane::{
    CloseCode, Handler, Message, Response, Session, SlowSubscriber, Subscription, Upgrade,
    UpgradeRequest, WebSocket,
};

const PAGE: &str = include_str!("chat.html");

/// The longest text that may be said, in bytes. 1009 beyond it, whatever --max-message allows.
const MAX_TEXT: usize = 4096;

/// The longest names of guests and rooms, in bytes.
const MAX_NAME: usize = 64;

/// Who is connected. The room is the topic of its connection.
struct Guest {
    name: String,
    topic: String,
}

impl Session for Guest {}

/// One per worker. Who is in which room is known to the topics, on all workers together.
struct Chat;

impl Handler for Chat {
    type Session = Guest;

    fn on_upgrade(&mut self, request: &UpgradeRequest<'_>) -> Upgrade<Guest> {
        let room = request.parameter("room").unwrap_or_default();
        let name = request.query_value("name").unwrap_or_default();
        if !is_name(&room) || !is_name(&name) {
            return Upgrade::reject(400, "Rooms and guests have names of up to 64 bytes.\n");
        }
        Upgrade::accept(Guest { name: name.into_owned(), topic: format!("room/{room}") })
    }

    fn on_open(&mut self, ws: &mut WebSocket<'_, Guest>) {
        let (guest, mut ws) = ws.split();
        if let Err(error) = ws.subscribe(&guest.topic) {
            ws.close(CloseCode::TRY_AGAIN_LATER, &error.to_string());
        }
    }

    fn on_subscription(&mut self, ws: &mut WebSocket<'_, Guest>, change: Subscription<'_>) {
        // Also called when a connection ends, for whatever reason: nobody stays in a room.
        let what = if change.after > change.before { "joined" } else { "left" };
        let line = format!("{what}\t{}\t{}", ws.session().name, change.after);
        ws.publish_to_all(change.topic, &line);
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, Guest>, message: Message<'_>) {
        match message {
            Message::Text(text) if text.len() <= MAX_TEXT => {
                let (Guest { name, topic }, mut ws) = ws.split();
                ws.publish_to_all(topic, &format!("said\t{name}\t{text}"));
            }
            Message::Text(_) => ws.close(CloseCode::MESSAGE_TOO_BIG, "4096 bytes at most"),
            Message::Binary(_) => ws.close(CloseCode::UNSUPPORTED_DATA, "text only"),
        }
    }
}

/// A name has something in it and nothing that could pass for the end of a field.
fn is_name(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= MAX_NAME && !text.contains(char::is_control)
}

fn main() -> ExitCode {
    shared::run(|server| {
        server
            // In a chat nothing may be missing: rather start over than go on with a gap.
            .topic_policy("room/*", SlowSubscriber::Close)
            .get("/", |_request| Response::html(PAGE))
            // Every room has an address that can be passed on.
            .get("/room/:room", |_request| Response::html(PAGE))
            .websocket("/room/:room", |_worker| Chat)
    })
}
