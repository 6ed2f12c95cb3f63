//! What is posted over HTTP reaches whoever listens over WebSocket.
//!
//! `cargo run --release --example http_publish`, then
//!
//! ```text
//! ws://127.0.0.1:9001/news/sports                                   listens
//! curl -d 'Hello' http://127.0.0.1:9001/news/sports/publish         reaches it: 1
//! curl -T - http://127.0.0.1:9001/news/sports/publish < file        in chunks, as long as it fits
//! curl http://127.0.0.1:9001/news/sports                            how many listen
//! ```
//!
//! Whoever may connect may publish here; a real server looks at the Authorization header first, as
//! `token_auth` does.

mod shared;

use std::process::ExitCode;

use wirelane::{
    CloseCode, Handler, Message, Request, Response, Session, Upgrade, UpgradeRequest, WebSocket,
};

/// What a listener listens to.
struct Listener {
    topic: String,
}

impl Session for Listener {}

struct Rooms;

/// The topic of a room: its channel and its name as they stand in the path, so that no two rooms
/// share one.
fn topic(request: &Request<'_>) -> String {
    let mut segments = request.path().split('/').skip(1);
    let (channel, room) = (segments.next(), segments.next());
    format!("{}/{}", channel.unwrap_or_default(), room.unwrap_or_default())
}

impl Handler for Rooms {
    type Session = Listener;

    fn on_upgrade(&mut self, request: &UpgradeRequest<'_>) -> Upgrade<Listener> {
        Upgrade::accept(Listener { topic: topic(request) })
    }

    fn on_open(&mut self, ws: &mut WebSocket<'_, Listener>) {
        let topic = ws.session().topic.clone();
        if let Err(error) = ws.subscribe(&topic) {
            ws.close(CloseCode::TRY_AGAIN_LATER, &error.to_string());
        }
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, Listener>, _message: Message<'_>) {
        ws.close(CloseCode::POLICY_VIOLATION, "listen here, and publish over HTTP");
    }
}

/// Text if it is text, and bytes otherwise; says how many listen.
fn publish(request: &Request<'_>) -> Response {
    let (topic, handle) = (topic(request), request.handle());
    let published = match std::str::from_utf8(request.body()) {
        Ok(text) => handle.publish(&topic, text),
        Err(_) => handle.publish(&topic, request.body()),
    };
    if published.refused > 0 {
        // A worker is so busy that its mailbox is full: its listeners miss this one.
        return Response::text("Too much at once.\n").status(503).header("Retry-After", "1");
    }
    Response::text(format!("{}\n", handle.subscribers(&topic)))
}

fn count(request: &Request<'_>) -> Response {
    Response::text(format!("{}\n", request.handle().subscribers(&topic(request))))
}

fn main() -> ExitCode {
    shared::run(|server| {
        server
            .max_body(64 * 1024)
            .websocket("/:channel/:room", |_worker| Rooms)
            .get("/:channel/:room", count)
            .post("/:channel/:room/publish", publish)
            .put("/:channel/:room/publish", publish)
    })
}
