//! Polling, long polling and WebSocket side by side: the same news, three ways.
//!
//! `cargo run --release --example long_poll`, then open <http://127.0.0.1:9001/>, and
//! `curl -d 'Hello' http://127.0.0.1:9001/news`. GET `/news?since=0` gives what there is,
//! `/wait?since=0` what is newer as soon as there is something; the header `X-Next` of an answer is
//! the `since` of the next question. A WebSocket to `/live` gets all that comes from now on.

mod shared;

use std::collections::VecDeque;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wirelane::{
    CloseCode, Handler, Message, Reply, Request, Responder, Response, SlowSubscriber, WebSocket,
};

const TOPIC: &str = "news";

/// Lines that are kept, and questions that may wait, so that both cost bounded memory.
const MOST: (usize, usize) = (100, 10_000);

#[derive(Clone, Default)]
struct Board(Arc<Mutex<News>>);

#[derive(Default)]
struct News {
    lines: VecDeque<String>,
    next: usize,
    waiting: Vec<Responder>,
}

impl News {
    fn since(&self, request: &Request<'_>) -> String {
        let since = request.query_value("since").and_then(|since| since.parse::<usize>().ok());
        let first = self.next - self.lines.len();
        self.lines.iter().skip(since.unwrap_or(0).saturating_sub(first)).cloned().collect()
    }

    fn answer(&self, text: String) -> Response {
        let answer = Response::text(text).header("Cache-Control", "no-store");
        answer.header("X-Next", self.next.to_string())
    }
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, News> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, request: &Request<'_>) -> Reply {
        let mut news = self.lock();
        let new = news.since(request);
        if !new.is_empty() {
            return news.answer(new).into();
        }
        news.waiting.retain(|responder| !responder.is_gone());
        if news.waiting.len() >= MOST.1 {
            return Response::text("Too many wait.\n").status(503).into();
        }
        // Less than the minute after which common proxies give up.
        let patience = Duration::from_secs(25);
        let (responder, later) = Reply::later_or(patience, Response::new(204));
        news.waiting.push(responder);
        later
    }

    fn say(&self, request: &Request<'_>) -> Response {
        let text = String::from_utf8_lossy(request.body());
        let line = format!("{}\n", text.trim_end());
        let mut news = self.lock();
        news.next += 1;
        news.lines.push_back(line.clone());
        if news.lines.len() > MOST.0 {
            news.lines.pop_front();
        }
        // Under the lock, so that everybody gets the lines in the same order.
        request.handle().publish(TOPIC, line.trim_end());
        let answer = news.answer(line);
        for responder in news.waiting.drain(..) {
            // Whoever has gone needs no news.
            let _ = responder.answer(answer.clone());
        }
        Response::new(204)
    }
}

struct Live;

impl Handler for Live {
    type Session = ();

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        if let Err(error) = ws.subscribe(TOPIC) {
            ws.close(CloseCode::TRY_AGAIN_LATER, &error.to_string());
        }
    }

    fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {}
}

fn main() -> ExitCode {
    let board = Board::default();
    let [asked, waited, said] = [(); 3].map(|()| board.clone());
    let news = move |request: &Request<'_>| {
        let news = asked.lock();
        news.answer(news.since(request))
    };
    shared::run(move |server| {
        let server = server.max_body(4096).topic_policy(TOPIC, SlowSubscriber::Close);
        server
            .get("/", |_request| Response::html(include_str!("long_poll.html")))
            .get("/news", news)
            .get("/wait", move |request| waited.wait(request))
            .post("/news", move |request| said.say(request))
            .websocket("/live", |_worker| Live)
    })
}
