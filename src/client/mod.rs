//! The client's side of a connection.
//!
//! [`blocking`] is a small client for tests, tools and simple programs: one connection, one
//! thread, no event loop. Other shapes can be built on [`protocol`](crate::protocol), which has
//! both roles and needs no socket.

pub mod blocking;
mod error;
#[cfg(feature = "tls-no-provider")]
mod secure;
mod stream;
mod url;
