//! Paths with parameters, for pages and for WebSockets, and who is let in where.
//!
//! `cargo run --release --example routes`, then
//!
//! ```text
//! curl http://127.0.0.1:9001/                        the list of rooms
//! curl http://127.0.0.1:9001/room/kitchen            a page about one of them
//! curl http://127.0.0.1:9001/files/css/../site.css   a path with everything in it
//! ws://127.0.0.1:9001/room/kitchen?name=Ada          in: says who you are and where
//! ws://127.0.0.1:9001/room/kitchen                   400: who are you?
//! ws://127.0.0.1:9001/room/cellar?name=Ada           404: there is no such room
//! ```

mod shared;

use std::process::ExitCode;

use wirelane::{
    Handler, Message, Request, Response, RouteOptions, Session, Upgrade, UpgradeRequest, WebSocket,
};

const ROOMS: [&str; 3] = ["kitchen", "library", "garden"];

/// Who is in which room. It has no default: `on_upgrade` makes every one of them.
struct Guest {
    name: String,
    room: &'static str,
}

impl Session for Guest {}

struct House;

impl Handler for House {
    type Session = Guest;

    fn on_upgrade(&mut self, request: &UpgradeRequest<'_>) -> Upgrade<Guest> {
        let Some(room) = room(request) else {
            return Upgrade::reject(404, "There is no such room.\n");
        };
        match request.query_value("name") {
            Some(name) if !name.is_empty() => {
                Upgrade::accept(Guest { name: name.into_owned(), room })
                    .header("Set-Cookie", format!("room={room}; HttpOnly; SameSite=Strict"))
            }
            _ => Upgrade::reject(400, "Who are you? Add ?name=...\n"),
        }
    }

    fn on_open(&mut self, ws: &mut WebSocket<'_, Guest>) {
        let Guest { name, room } = ws.session();
        let mut welcome = format!("Welcome to the {room}, {name}.");
        // "house.v2" clients are told more; older ones would not understand it.
        if ws.subprotocol() == Some("house.v2") {
            welcome.push_str(" The kettle is on.");
        }
        ws.send(&welcome);
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, Guest>, message: Message<'_>) {
        if let Message::Text(text) = message {
            let Guest { name, room } = ws.session();
            let answer = format!("{name} in the {room}: {text}");
            ws.send(&answer);
        }
    }
}

/// The room that the path names, if there is one.
fn room(request: &Request<'_>) -> Option<&'static str> {
    let id = request.parameter("id")?;
    ROOMS.into_iter().find(|room| *room == id)
}

fn about(request: &Request<'_>) -> Response {
    match room(request) {
        Some(room) => Response::text(format!("The {room}. Come in: ws://.../room/{room}?name=\n")),
        None => Response::text("There is no such room.\n").status(404),
    }
}

fn main() -> ExitCode {
    shared::run(|server| {
        let house = RouteOptions::new().subprotocols(["house.v2", "house.v1"]);
        server
            .get("/", |_request| Response::text(format!("Rooms: {}.\n", ROOMS.join(", "))))
            // One pattern may have a page and a WebSocket.
            .get("/room/:id", about)
            .websocket_with("/room/:id", house, |_worker| House)
            // A fixed segment goes before a parameter.
            .get("/room/attic", |_request| Response::text("The attic is closed.\n").status(403))
            .get("/files/*", |request| {
                // As sent: dot segments and percent signs are for whoever opens files to judge.
                let path = request.rest().unwrap_or_default();
                Response::text(format!("No file {path:?} here.\n")).status(404)
            })
    })
}
