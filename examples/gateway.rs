//! A gateway: takes a feed from another server and publishes it to everybody who connects.
//!
//! `cargo run --release --example gateway -- --upstream ws://127.0.0.1:9001/ --listen 127.0.0.1:9002`
//!
//! The connection to the upstream server lives on the event loop of the first worker, and comes
//! back by itself: soon at first, then less and less often. Subscribers stay meanwhile; they are
//! told `feed: up` and `feed: down`. What they send goes nowhere.

use std::process::ExitCode;
use std::time::Duration;

use lexopt::{Arg, Parser, ValueExt};
use wirelane::client::{Dial, DialEvent, Reconnect};
use wirelane::{Close, Driver, Handler, Message, Server, WebSocket, WorkerContext};

const USAGE: &str = "\
options:
  --upstream URL              the feed, ws://HOST:PORT/PATH, needed
  --listen ADDR               address, or unix:PATH          [127.0.0.1:9002]
  --driver auto|epoll|io_uring                               [auto]
  --workers N                 0 = one per core               [1]
";

const TOPIC: &str = "feed";

/// The upstream side.
struct Feed(Dial);

impl Handler for Feed {
    type Session = ();

    fn on_start(&mut self, worker: &mut WorkerContext<'_>) {
        // One connection for all workers: publishing reaches the others.
        if worker.worker() == 0
            && let Err(error) = worker.connect(&self.0)
        {
            eprintln!("{error}");
        }
    }

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        ws.publish(TOPIC, "feed: up");
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        ws.publish(TOPIC, message);
    }

    fn on_close(&mut self, ws: &mut WebSocket<'_, ()>, _close: Close<'_>) {
        ws.publish(TOPIC, "feed: down");
    }

    fn on_dial(&mut self, _worker: &mut WorkerContext<'_>, event: &DialEvent<'_>) {
        let why = event.error.map_or("the connection ended".to_owned(), ToString::to_string);
        eprintln!("upstream: {why}; next try in {:?}", event.retry_in);
    }
}

/// Whoever connects to us.
struct Subscribers;

impl Handler for Subscribers {
    type Session = ();

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        if ws.subscribe(TOPIC).is_err() {
            ws.terminate();
        }
    }

    fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {}
}

fn main() -> ExitCode {
    let server = match parse(Parser::from_env()) {
        Ok(server) => server,
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let handle = server.handle();
    if let Ok(mut signals) = signal_hook::iterator::Signals::new([15, 2]) {
        std::thread::spawn(move || {
            for _signal in signals.forever() {
                handle.shutdown(Duration::from_secs(3));
            }
        });
    }
    if let Err(error) = server.run() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn parse(mut parser: Parser) -> Result<Server, Box<dyn std::error::Error>> {
    let (mut builder, mut upstream, mut listen) =
        (Server::builder(), None, "127.0.0.1:9002".into());
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("upstream") => upstream = Some(parser.value()?.string()?),
            Arg::Long("listen") => listen = parser.value()?.string()?,
            Arg::Long("driver") => builder = builder.driver(parser.value()?.parse::<Driver>()?),
            Arg::Long("workers") => builder = builder.workers(parser.value()?.parse()?),
            _ => return Err(arg.unexpected().into()),
        }
    }
    let again = Reconnect::new()
        .initial_delay(Duration::from_millis(100))
        .max_delay(Duration::from_secs(2));
    let feed = Dial::to(upstream.ok_or("needs --upstream URL")?).reconnect(again);
    let builder = builder.listen(listen).websocket("/", |_worker| Subscribers);
    Ok(builder
        .client(move |_worker| Feed(feed.clone()))
        .on_listening(|all| println!("listening on ws://{}/", all[0]))
        .build()?)
}
