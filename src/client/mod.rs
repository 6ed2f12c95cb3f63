//! The client's side of a connection.
//!
//! Two of them. Connections on workers, the event loops of a server or of a [`Client`], are for
//! services: [`Dial`] says what is wanted, a [`Handler`](crate::Handler) gets the messages, and
//! thousands of them share a thread. [`blocking`] is a small client for tests, tools and simple
//! programs: one connection, one thread, no event loop. Other shapes can be built on
//! [`protocol`](crate::protocol), which has both roles and needs no socket.
//!
//! ```text
//!  Dial --connect--> worker: name -> TCP -> proxy -> opening handshake -> on_open ... on_close
//!                      ^        |       |       |             |                        |
//!                      |        +-------+-------+-------------+--- failed --> on_dial <+
//!                      +------------------- after a while, if `Reconnect` says so ------+
//! ```

pub mod blocking;
mod dial;
mod error;
mod outcome;
pub(crate) mod resolver;
mod runtime;
#[cfg(feature = "tls-no-provider")]
mod secure;
mod stream;
pub(crate) mod url;

pub use dial::{Dial, Reconnect};
pub(crate) use dial::{Place, Plan};
pub use outcome::{ConnectError, DialError, DialEvent, DialId, DialResponse, DialStage};
pub use runtime::{Client, ClientBuilder};
