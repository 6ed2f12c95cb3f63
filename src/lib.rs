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
//! # Threads
//!
//! Each worker is one thread with its own driver, connections and handlers; they share nothing
//! but mailboxes. [`Handle`] reaches them from any thread.
//!
//! # The protocol alone
//!
//! [`protocol`] is RFC 6455 without I/O, both roles, for use under any runtime.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod protocol;
pub mod simd;

mod config;
mod connection;
mod context;
mod driver;
mod error;
mod figures;
mod fragment;
mod handle;
mod handler;
mod http;
mod outgoing;
mod server;
mod shutdown;
mod websocket;
mod worker;

pub use context::{TimerError, TimerId, WorkerContext};
pub use driver::{ConnectionId, DriverChoice as Driver, InvalidDriverChoice, ListenAddr};
pub use error::{Close, CloseCause, Error, SendError};
pub use figures::{CloseCodes, Refusals, TurnTimes};
pub use fragment::Fragment;
pub use handle::Handle;
pub use handler::Handler;
pub use http::Response;
pub use protocol::{CloseCode, Limits, Message};
pub use server::{Server, ServerBuilder};
pub use shutdown::{ShutdownOptions, ShutdownReport};
pub use websocket::{SendStatus, WebSocket};
pub use worker::mailbox::Stats;

/// The README's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
