//! Wirelane is a WebSocket server library for Linux (RFC 6455): one event loop per core, no async
//! runtime, epoll and io_uring behind one interface.
//!
//! ```no_run
//! use wirelane::{Handler, Message, Server, WebSocket};
//!
//! struct Echo;
//!
//! impl Handler for Echo {
//!     type Session = ();
//!
//!     fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
//!         ws.send(message);
//!     }
//! }
//!
//! fn main() -> Result<(), wirelane::Error> {
//!     Server::builder().listen("127.0.0.1:9001").websocket("/", |_worker| Echo).run()
//! }
//! ```
//!
//! [`Handler`] is the application's side of a route, [`WebSocket`] a connection in its hands,
//! [`ServerBuilder`] has every setting with its default, and [`Handle`] reaches a running server
//! from any thread. The rest by what it is for:
//!
//! | | |
//! | --- | --- |
//! | who is let in, with which state | [`Handler::on_upgrade`], [`Session`], [`Origins`], [`RouteOptions`] |
//! | slow readers | [`SendStatus`], [`Handler::on_drain`], [`SlowSubscriber`], [`ServerBuilder::max_backpressure`] |
//! | long messages, in parts | [`Handler::STREAM`], [`WebSocket::send_fragment`] |
//! | time | [`WebSocket::set_timer`], [`WorkerContext::set_timer`], [`ServerBuilder::ping_interval`] |
//! | the last microseconds | [`ServerBuilder::busy_poll`], [`ServerBuilder::pin_workers`] |
//! | behind a proxy | [`ServerBuilder::trust_forwarded`], [`ServerBuilder::proxy_protocol`] |
//! | connections that axum or hyper has upgraded | [`Handle::adopt`] |
//! | figures | [`Handle::stats`], [`ShutdownReport`] |
//! | coming from uWebSockets | [`docs::uwebsockets`] |
//!
//! # Cargo features
//!
//! | feature | what it adds |
//! | --- | --- |
//! | `deflate` (on by default) | permessage-deflate: one crate |
//! | `tls` = `tls-ring` | TLS with the cryptography of ring: nine crates and a C compiler |
//! | `tls-aws-lc` | TLS with that of AWS-LC: faster handshakes, longer to build |
//! | `tls-no-provider` | TLS with what the application installs in rustls |
//!
//! # How a byte travels
//!
//! ```text
//!  kernel
//!    | accept, recv                                            sendmsg, once per turn
//!    v                                                            ^
//!  driver (epoll | io_uring)  --Event-->  worker.turn() ----> flush every connection touched
//!    received bytes are lent, changed in place  |                 ^
//!                                               v                 |
//!                       connection: Upgrade -> Live -> Draining -> Gone
//!                                               |                 |
//!       protocol::Endpoint: header -> unmask -> UTF-8 -> Message<'_>
//!                                               |                 |
//!                                               v                 |
//!                                     Handler::on_message -> ws.send
//! ```
//!
//! One read brings the bytes of many frames. Each complete frame is unmasked and validated where
//! it lies and given to the [`Handler`] as a slice of the receive buffer: no copy, no allocation.
//! Only the tail of an unfinished message is copied, into a buffer borrowed from a pool.
//! Everything a handler sends is collected and leaves when the turn ends.
//!
//! # Topics
//!
//! Connections subscribe to topics, and whatever is published to a topic reaches its subscribers
//! on all workers. A chat is not much more than that:
//!
//! ```no_run
//! use wirelane::{Close, Handler, Message, Server, Session, Upgrade, UpgradeRequest, WebSocket};
//!
//! struct Guest {
//!     name: String,
//!     room: String,
//! }
//!
//! impl Session for Guest {}
//!
//! struct Chat;
//!
//! impl Handler for Chat {
//!     type Session = Guest;
//!
//!     fn on_upgrade(&mut self, request: &UpgradeRequest<'_>) -> Upgrade<Guest> {
//!         match (request.parameter("room"), request.query_value("name")) {
//!             (Some(room), Some(name)) => {
//!                 Upgrade::accept(Guest { name: name.into(), room: room.into() })
//!             }
//!             _ => Upgrade::reject(400, "Who are you? Add ?name=...\n"),
//!         }
//!     }
//!
//!     fn on_open(&mut self, ws: &mut WebSocket<'_, Guest>) {
//!         let (guest, mut ws) = ws.split();
//!         ws.subscribe(&guest.room).expect("one topic is no limit");
//!         ws.publish(&guest.room, &format!("{} is here", guest.name));
//!     }
//!
//!     fn on_message(&mut self, ws: &mut WebSocket<'_, Guest>, message: Message<'_>) {
//!         let (guest, mut ws) = ws.split();
//!         if let Message::Text(text) = message {
//!             ws.publish_to_all(&guest.room, &format!("{}: {text}", guest.name));
//!         }
//!     }
//!
//!     fn on_close(&mut self, ws: &mut WebSocket<'_, Guest>, _close: Close<'_>) {
//!         let (guest, mut ws) = ws.split();
//!         ws.publish(&guest.room, &format!("{} is gone", guest.name));
//!     }
//! }
//!
//! fn main() -> Result<(), wirelane::Error> {
//!     // ws://localhost:9001/room/kitchen?name=Ada
//!     Server::builder().listen("127.0.0.1:9001").websocket("/room/:room", |_worker| Chat).run()
//! }
//! ```
//!
//! Other threads publish through [`Handle::publish`]. What a subscriber gets that reads too slowly,
//! everything, nothing or the latest value only, says [`ServerBuilder::topic_policy`].
//!
//! # HTTP
//!
//! The same port answers plain requests (HTTP/1.1, keep-alive, pipelining): a login, a health check,
//! the page that opens the WebSocket, a fallback for clients without one.
//!
//! ```no_run
//! use wirelane::{Response, Server};
//!
//! # fn main() -> Result<(), wirelane::Error> {
//! Server::builder()
//!     .listen("127.0.0.1:9001")
//!     .post("/say/:topic", |request| {
//!         let topic = request.parameter("topic").unwrap_or_default();
//!         request.handle().publish(&topic, request.body()); // to its subscribers
//!         Response::new(204)
//!     })
//!     .files("/*", "public")
//!     .run()
//! # }
//! ```
//!
//! [`Request`] is what was asked, [`Response`] the answer, [`Reply::later`] one that another thread
//! gives (long polling), [`Response::stream`] one that is written as it comes into being
//! (server-sent events), [`Upload`] takes bodies of any length.
//!
//! # TLS
//!
//! With the feature `tls`, [`ServerBuilder::tls`][builder_tls] makes every address of a server speak
//! wss and https, and `Dial` connects to `wss://`; see the module [`tls`][tls_module].
//!
//! # Compression
//!
//! Off until it is asked for with [`ServerBuilder::deflate`] or [`RouteOptions::deflate`]:
//! [`Deflate`] says what each mode costs in memory and time, and when compression gives secrets
//! away. [`SendOptions`] decides for single messages.
//!
//! # Threads
//!
//! Each worker is one thread with its own driver, connections and handlers; they share nothing
//! but mailboxes. [`Handle`] reaches them from any thread: its documentation shows a ticker.
//!
//! # Starting and stopping
//!
//! [`ServerBuilder::build`] checks every setting and binds; [`Server::run`] serves on the calling
//! thread until [`Handle::shutdown`]. The library installs no signal handler. Whoever wants a clean
//! end on SIGTERM has a thread that waits for it:
//!
//! ```no_run
//! use std::time::Duration;
//! # use wirelane::{Error, Handler, Message, Server, WebSocket};
//! # struct Echo;
//! # impl Handler for Echo {
//! #     type Session = ();
//! #     fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
//! #         ws.send(message);
//! #     }
//! # }
//!
//! let server = Server::builder().listen("0.0.0.0:9001").websocket("/", |_worker| Echo).build()?;
//! let handle = server.handle();
//! // From the crate signal-hook; any other source of signals will do.
//! let mut signals = signal_hook::iterator::Signals::new([15, 2]).expect("signals can be caught");
//! std::thread::spawn(move || {
//!     for _signal in signals.forever() {
//!         // Close 1001 to everybody; whoever has not answered after 5 s is cut.
//!         handle.shutdown(Duration::from_secs(5));
//!     }
//! });
//! server.run()?;
//! # Ok::<(), Error>(())
//! ```
//!
//! # Logging
//!
//! Through the crate `log`: which driver runs (`info`), what the operating system refuses a running
//! server, and timeouts that defeat each other (`warn`). Nothing is logged per connection or
//! message; [`Stats`] counts those.
//!
//! # The protocol alone
//!
//! [`protocol`] is RFC 6455 without I/O, both roles, for use under any runtime.
//!
//! # Connections to other servers
//!
//! [`client::Dial`] makes connections that live on the workers, beside those that were accepted, and
//! come back by themselves; [`client::Client`] is the same without a server. [`client::blocking`]
//! puts the client's role on a blocking socket, for tests and tools.
//!
#![cfg_attr(feature = "tls-no-provider", doc = "[tls_module]: tls")]
#![cfg_attr(feature = "tls-no-provider", doc = "[builder_tls]: ServerBuilder::tls")]
#![cfg_attr(not(feature = "tls-no-provider"), doc = "[tls_module]: #tls")]
#![cfg_attr(not(feature = "tls-no-provider"), doc = "[builder_tls]: #tls")]
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod client;
pub mod docs;
pub mod protocol;
pub mod simd;
#[cfg(feature = "tls-no-provider")]
pub mod tls;

mod adopt;
mod config;
mod connection;
mod context;
mod driver;
mod error;
mod figures;
mod fragment;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod handle;
mod handler;
mod http;
mod origins;
mod outgoing;
mod promise;
mod publish;
mod random;
mod route_options;
mod server;
mod shutdown;
#[cfg(not(feature = "tls-no-provider"))]
mod tls;
mod trust;
mod upgrade;
mod websocket;
mod worker;

pub use adopt::{AdoptError, Negotiated, NotAdopted};
pub use config::Accept;
pub use context::{TimerError, TimerId, WorkerContext};
pub use driver::{
    BoundListener, ConnectedSocket, ConnectionId, DriverChoice as Driver,
    InvalidDriverChoice as InvalidDriver, InvalidListenAddr, ListenAddr,
};
pub use error::{Close, CloseCause, Error, SendError};
pub use figures::{CloseCodes, Refusals, TlsFailures, TurnTimes};
pub use fragment::Fragment;
pub use handle::Handle;
pub use handler::Handler;
pub use http::{
    Body, BodyWriter, Intake, QueryPairs, Reply, Request, Responder, Response, Resume, StreamError,
    Upload, UploadBody,
};
pub use origins::Origins;
pub use promise::Gone;
#[doc(inline)]
pub use protocol::{CloseCode, Deflate, DeflateParameters, Limits, Message};
pub use publish::{
    DropReason, Dropped, PreparedMessage, Publication, Published, SlowSubscriber, SubscribeError,
    Subscription,
};
pub use route_options::RouteOptions;
pub use server::{Server, ServerBuilder};
pub use shutdown::{ShutdownOptions, ShutdownReport};
#[doc(inline)]
pub use tls::TlsFailure;
pub use trust::ForwardedHeader;
pub use upgrade::{Session, Upgrade, UpgradeRequest, UpgradeTicket};
pub use websocket::{SendOptions, SendStatus, WebSocket};
pub use worker::mailbox::Stats;

/// The README's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
