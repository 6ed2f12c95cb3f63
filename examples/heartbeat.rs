//! Finds out who is still there, on both levels, and tells everybody how many they are.
//!
//! Below, the library pings whoever is silent and cuts whoever does not answer: that finds dead
//! networks, and every client answers without knowing it. Above, the application beats and wants
//! an answer from the program at the other end: that finds a page that hangs while its browser
//! still answers pings. A client may choose its rate: `every 100` is a beat per 100 ms.
//!
//! `cargo run --release --example heartbeat -- --listen 127.0.0.1:9001`

mod shared;

use std::cell::Cell;
use std::process::ExitCode;
use std::time::Duration;

use wirelane::{Close, CloseCode, ConnectionId, Handler, Message, WebSocket, WorkerContext};

/// A client that leaves so many beats unanswered is closed.
const MISSED_BEATS: u32 = 3;

/// How often everybody is told the number of connections.
const CENSUS: Duration = Duration::from_secs(1);

/// Keys of timers.
const BEAT: u64 = 0;

/// State of one connection.
struct Heart {
    interval: Cell<Duration>,
    unanswered: Cell<u32>,
}

impl Default for Heart {
    fn default() -> Self {
        Self { interval: Cell::new(Duration::from_secs(1)), unanswered: Cell::new(0) }
    }
}

#[derive(Default)]
struct Heartbeat {
    /// Open connections of this worker.
    open: Vec<ConnectionId>,
}

impl Heartbeat {
    /// Has the next beat come after the interval that the client chose.
    fn wait_for_beat(ws: &mut WebSocket<'_, Heart>) {
        let interval = ws.session().interval.get();
        if ws.set_timer(interval, BEAT).is_err() {
            // One timer per connection is no more than the limit allows, so it is closing.
            ws.terminate();
        }
    }
}

impl Handler for Heartbeat {
    type Session = Heart;

    fn on_start(&mut self, worker: &mut WorkerContext<'_>) {
        worker.set_timer(CENSUS, 0).expect("the first timer of this worker");
    }

    fn on_open(&mut self, ws: &mut WebSocket<'_, Heart>) {
        self.open.push(ws.id());
        Self::wait_for_beat(ws);
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, Heart>, message: Message<'_>) {
        // Whatever the client says, it is alive.
        ws.session().unanswered.set(0);
        if let Message::Text(text) = message
            && let Some(interval) = text.strip_prefix("every ")
        {
            match interval.parse() {
                // A faster heart would only warm the machine.
                Ok(ms @ 10..=60_000) => ws.session().interval.set(Duration::from_millis(ms)),
                _ => ws.close(CloseCode::POLICY_VIOLATION, "choose 10 to 60000 ms"),
            }
        }
    }

    fn on_timer(&mut self, ws: &mut WebSocket<'_, Heart>, _key: u64) {
        let unanswered = ws.session().unanswered.get();
        if unanswered == MISSED_BEATS {
            return ws.close(CloseCode::POLICY_VIOLATION, "no heartbeat");
        }
        ws.session().unanswered.set(unanswered + 1);
        ws.send("beat");
        Self::wait_for_beat(ws);
    }

    fn on_worker_timer(&mut self, worker: &mut WorkerContext<'_>, _key: u64) {
        let census = format!("{} connections", worker.connections());
        for &id in &self.open {
            // Whoever is closing or slow does not need to know.
            let _ = worker.send_to(id, &census);
        }
        worker.set_timer(CENSUS, 0).expect("the only timer of this worker");
    }

    fn on_close(&mut self, ws: &mut WebSocket<'_, Heart>, _close: Close<'_>) {
        self.open.retain(|&id| id != ws.id());
    }
}

fn main() -> ExitCode {
    shared::run(|server| {
        server
            // After the ping of `--ping-interval-ms`, which must not be 0 then.
            .pong_timeout(Duration::from_secs(5))
            .websocket("/", |_worker| Heartbeat::default())
    })
}
