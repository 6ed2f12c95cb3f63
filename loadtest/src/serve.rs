//! Mode `serve`: a small Wirelane server for loads that the examples have no use for. Its own
//! process, so that what it costs can be told from what the load costs.

use std::io::Write;
use std::str::FromStr;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread;

use wirelane::{Driver, Handle, Handler, Message, PreparedMessage, Server, WebSocket};

use crate::args;
use crate::failure::{Context, Failure};

/// Everybody is subscribed to it in [`Service::Threads`].
const EVERYBODY: &str = "everybody";

/// What the server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// Every message is published to everybody by several threads outside the workers, each of
    /// which publishes it several times.
    Threads,
    /// Every message comes back.
    Echo,
    /// The first message of a connection comes back. Each later one comes back once the connection
    /// is subscribed to topics that all connections share.
    Subscribe,
}

impl FromStr for Service {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "echo" => Ok(Self::Echo),
            "threads" => Ok(Self::Threads),
            "subscribe" => Ok(Self::Subscribe),
            _ => Err("write echo, threads or subscribe"),
        }
    }
}

/// Runs the mode, until a signal ends the process.
///
/// # Errors
///
/// The server cannot start.
pub(crate) fn run(options: &args::Serve) -> Result<(), Failure> {
    let driver: Driver = options.driver.parse().context(|| "--driver")?;
    let builder = Server::builder()
        .listen(options.listen.clone())
        .driver(driver)
        .workers(1)
        .max_subscriptions(options.topics + 1)
        .on_listening(|addrs| {
            let mut stdout = std::io::stdout();
            let _ = writeln!(stdout, "listening on ws://{}/", addrs[0]);
            let _ = stdout.flush();
        });
    let what = || format!("cannot serve on {}", options.listen);
    match options.service {
        Service::Threads => {
            let publishers: Publishers = Arc::default();
            let for_handler = Arc::clone(&publishers);
            let server = builder
                .websocket("/", move |_worker| Threads { publishers: Arc::clone(&for_handler) })
                .build()
                .context(what)?;
            let senders = (0..options.publishers)
                .map(|_| start_publisher(server.handle(), options.copies))
                .collect();
            // Nobody else sets it.
            let _ = publishers.set(senders);
            server.run().context(what)
        }
        Service::Echo | Service::Subscribe => {
            let topics = if options.service == Service::Echo { 0 } else { options.topics };
            let server = builder
                .websocket("/", move |_worker| Subscribe { topics })
                .build()
                .context(what)?;
            server.run().context(what)
        }
    }
}

type Publishers = Arc<OnceLock<Vec<Sender<Arc<PreparedMessage>>>>>;

/// A thread that publishes each message it gets `copies` times.
fn start_publisher(handle: Handle, copies: usize) -> Sender<Arc<PreparedMessage>> {
    let (sender, receiver) = channel::<Arc<PreparedMessage>>();
    thread::spawn(move || {
        for message in receiver {
            for _ in 0..copies {
                // A full mailbox refuses; with one worker, nobody got the message then.
                while handle.publish(EVERYBODY, &*message).refused > 0 {
                    thread::yield_now();
                }
            }
        }
    });
    sender
}

struct Threads {
    publishers: Publishers,
}

impl Handler for Threads {
    type Session = ();

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        ws.subscribe(EVERYBODY).expect("one topic is below every limit");
    }

    fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        let message = Arc::new(PreparedMessage::new(message));
        for publisher in self.publishers.get().into_iter().flatten() {
            // The threads live as long as the process.
            let _ = publisher.send(Arc::clone(&message));
        }
    }
}

struct Subscribe {
    topics: usize,
}

impl Handler for Subscribe {
    /// Whether a message came before.
    type Session = bool;

    fn on_message(&mut self, ws: &mut WebSocket<'_, bool>, message: Message<'_>) {
        if std::mem::replace(ws.session_mut(), true) {
            for number in 0..self.topics {
                ws.subscribe(&format!("topic-{number}")).expect("the limit was set for it");
            }
        }
        ws.send(message);
    }
}
