//! Who may connect is decided over HTTP; a token, good once and for half a minute, carries the
//! decision to the WebSocket.
//!
//! `cargo run --release --example token_auth -- --workers 2`, then
//!
//! ```text
//! TOKEN=$(curl -H 'Authorization: Bearer swordfish' http://127.0.0.1:9001/token?user=ada)
//! ws://127.0.0.1:9001/?token=$TOKEN      in; a second time: 401
//! ```
//!
//! Browsers cannot add headers to a WebSocket request, and a password in its address would end up
//! in logs. A token there does no harm: whoever reads it in a log comes too late.

mod shared;

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wirelane::{Handler, Message, Request, Response, Session, Upgrade, UpgradeRequest, WebSocket};

/// A token that was not used by then is void.
const LIFETIME: Duration = Duration::from_secs(30);

/// Tokens that may be out at a time, so that asking for them costs bounded memory.
const MOST: usize = 10_000;

/// The tokens that are out, of all workers, and whose they are.
#[derive(Clone, Default)]
struct Tokens(Arc<Mutex<HashMap<String, (String, Instant)>>>);

impl Tokens {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (String, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new token for this user; `None` if too many are out.
    fn issue(&self, user: String) -> Option<String> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).ok()?;
        let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut tokens = self.lock();
        if tokens.len() >= MOST {
            tokens.retain(|_, (_, issued)| issued.elapsed() < LIFETIME);
        }
        if tokens.len() >= MOST {
            return None;
        }
        tokens.insert(token.clone(), (user, Instant::now()));
        Some(token)
    }

    /// Whose token this is. It is void from here on: of any number of workers that ask at the same
    /// moment, the one that takes it out of the map is told.
    fn redeem(&self, token: &str) -> Option<String> {
        let (user, issued) = self.lock().remove(token)?;
        (issued.elapsed() < LIFETIME).then_some(user)
    }
}

struct Member {
    user: String,
}

impl Session for Member {}

struct Club {
    tokens: Tokens,
}

impl Handler for Club {
    type Session = Member;

    fn on_upgrade(&mut self, request: &UpgradeRequest<'_>) -> Upgrade<Member> {
        let token = request.query_value("token").unwrap_or_default();
        match self.tokens.redeem(&token) {
            Some(user) => Upgrade::accept(Member { user }),
            None => Upgrade::reject(401, "This token is unknown, used or too old.\n"),
        }
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, Member>, message: Message<'_>) {
        if let Message::Text(text) = message {
            let answer = format!("{}: {text}", ws.session().user);
            ws.send(&answer);
        }
    }
}

/// Here a real server looks at the login of its users.
fn issue(request: &Request<'_>, tokens: &Tokens) -> Response {
    if request.header("Authorization") != Some(b"Bearer swordfish") {
        return Response::text("Log in first.\n").status(401).header("WWW-Authenticate", "Bearer");
    }
    let Some(user) = request.query_value("user") else {
        return Response::text("For whom? Add ?user=...\n").status(400);
    };
    match tokens.issue(user.into_owned()) {
        Some(token) => Response::text(token).header("Cache-Control", "no-store"),
        None => {
            Response::text("Too many tokens are out.\n").status(503).header("Retry-After", "30")
        }
    }
}

fn main() -> ExitCode {
    let tokens = Tokens::default();
    shared::run(move |server| {
        let issued = tokens.clone();
        server
            .get("/token", move |request| issue(request, &issued))
            .websocket("/", move |_worker| Club { tokens: tokens.clone() })
    })
}
