//! Prices that change faster than some clients read: those get the newest price, not the oldest.
//!
//! `cargo run --release --example slow_consumer`
//!
//! A client that sends `watch` gets all prices. Every other message is a price, `SYMBOL VALUE`, and
//! goes to those clients. While a client is behind, only the newest price of each symbol waits for
//! it: it costs a bounded amount of memory, and it is never minutes late. When it has caught up it
//! is told how many prices it did not see: `missed 17`.

mod shared;

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use wirelane::{
    CloseCode, Dropped, Handler, Message, Publication, SendStatus, SlowSubscriber, WebSocket,
};

const TOPIC: &str = "prices";

/// Symbols that the server keeps apart. A feed with more is ended, or it could take all memory.
const MAX_SYMBOLS: usize = 10_000;

/// A number for each symbol, the same on all workers: the key inside the topic.
type Symbols = Arc<Mutex<HashMap<String, u64>>>;

struct Prices {
    symbols: Symbols,
}

/// Prices that a client missed and was not told of.
#[derive(Default)]
struct Session {
    missed: u64,
}

impl Prices {
    fn key_of(&self, symbol: &str) -> Option<u64> {
        let mut symbols = self.symbols.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = symbols.get(symbol) {
            return Some(*key);
        }
        let key = symbols.len() as u64;
        (symbols.len() < MAX_SYMBOLS).then(|| *symbols.entry(symbol.to_owned()).or_insert(key))
    }

    /// Says what the client missed, unless it is behind again.
    fn confess(&self, ws: &mut WebSocket<'_, Session>) {
        let missed = ws.session().missed;
        if missed > 0
            && ws.buffered_amount() == 0
            && ws.send(&format!("missed {missed}")) != SendStatus::Dropped
        {
            ws.session_mut().missed = 0;
        }
    }
}

impl Handler for Prices {
    type Session = Session;

    fn on_message(&mut self, ws: &mut WebSocket<'_, Session>, message: Message<'_>) {
        let Message::Text(line) = message else {
            return ws.close(CloseCode::UNSUPPORTED_DATA, "text only");
        };
        if line == "watch" {
            match ws.subscribe(TOPIC) {
                Ok(_) => _ = ws.send("watching"),
                Err(error) => ws.close(CloseCode::POLICY_VIOLATION, &error.to_string()),
            }
            return;
        }
        let key = line.split_once(' ').and_then(|(symbol, _)| self.key_of(symbol));
        match key {
            Some(key) => _ = ws.publish(TOPIC, Publication::from(line).key(key)),
            None => ws.close(CloseCode::POLICY_VIOLATION, "a price is SYMBOL VALUE"),
        }
    }

    fn on_dropped(&mut self, ws: &mut WebSocket<'_, Session>, dropped: Dropped<'_>) {
        ws.session_mut().missed += dropped.count;
        self.confess(ws);
    }

    fn on_drain(&mut self, ws: &mut WebSocket<'_, Session>) {
        self.confess(ws);
    }
}

fn main() -> ExitCode {
    let symbols = Symbols::default();
    shared::run(move |server| {
        server
            .topic_policy(TOPIC, SlowSubscriber::Latest)
            .websocket("/", move |_worker| Prices { symbols: Arc::clone(&symbols) })
    })
}
