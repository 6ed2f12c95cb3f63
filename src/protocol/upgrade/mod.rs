//! The opening handshake (RFC 6455 section 4), both roles, without I/O.
//!
//! Comes in: the bytes of a request (server) or of a response (client), in pieces of any size.
//! Goes out: bytes appended to a `Vec<u8>`, and either an established connection or the exact
//! reason why not ([`Refusal`], [`HandshakeError`]). It never reads a socket or a clock, never
//! decides about origins, paths or deadlines (the server does), and never puts a byte that the
//! peer sent into an error answer.
//!
//! ```text
//!  bytes ──> HeadScanner ──> Request ──> ServerHandshake ──> 101 ──> frames follow
//!            where it ends,  fields,     section 4.2.1
//!            lines, limits   framing
//!               │               │             │
//!               └───────────────┴─────────────┴──────> Refusal ──> 4xx, 5xx, then close
//! ```
//!
//! # Example: a server's side
//!
//! ```
//! use wirelane::protocol::Limits;
//! use wirelane::protocol::upgrade::{HeadScanner, Refusal, Request, ServerHandshake};
//!
//! /// Answers what was received so far; returns how many bytes the head had.
//! fn answer(
//!     scanner: &mut HeadScanner,
//!     received: &[u8],
//!     out: &mut Vec<u8>,
//! ) -> Result<Option<usize>, Refusal> {
//!     let limits = Limits::new();
//!     let Some(head_len) = scanner.scan(received, &limits)? else {
//!         return Ok(None); // More bytes are needed.
//!     };
//!     let request = Request::parse(&received[..head_len], &limits)?;
//!     if request.path() != "/chat" {
//!         return Err(Refusal::NotFound);
//!     }
//!     let handshake = ServerHandshake::check(&request)?;
//!     handshake.write_response(None, &[], out).expect("no header was given");
//!     Ok(Some(head_len))
//! }
//!
//! let received = b"GET /chat HTTP/1.1\r\n\
//!     Host: server.example.com\r\n\
//!     Upgrade: websocket\r\n\
//!     Connection: Upgrade\r\n\
//!     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
//!     Sec-WebSocket-Version: 13\r\n\r\n";
//! let mut scanner = HeadScanner::new();
//! let mut out = Vec::new();
//! assert_eq!(answer(&mut scanner, &received[..20], &mut out), Ok(None));
//! assert_eq!(answer(&mut scanner, received, &mut out), Ok(Some(received.len())));
//! assert!(out.starts_with(b"HTTP/1.1 101 Switching Protocols\r\n"));
//! assert!(out.ends_with(b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"));
//! ```

mod accept_key;
mod client;
mod grammar;
mod head;
mod negotiate;
mod permessage_deflate;
mod refusal;
mod request;
mod response;
mod server;
mod target;
#[cfg(test)]
mod tests;
mod tunnel;

pub(crate) use grammar::{is_token, is_token_char, list_elements};
pub(crate) use response::{begin_response, check_header, push_header};
pub(crate) use target::is_authority;
pub(crate) use tunnel::{ProxyHandshake, read_answer};

pub use accept_key::AcceptKey;
pub use client::{ClientHandshake, Established, HandshakeError};
pub use head::HeadScanner;
pub use negotiate::{
    ExtensionOffer, ExtensionOffers, ExtensionParameter, ExtensionParameters, ParameterValue,
    Subprotocols,
};
pub use refusal::Refusal;
pub(crate) use request::Expectation;
pub use request::{BodyLength, HeaderValues, Headers, HttpVersion, Request};
pub use response::{InvalidHeader, write_http_response};
pub use server::ServerHandshake;

/// The greatest number of header lines of a head, whatever [`Limits`](super::Limits) allow: the
/// table for them has a fixed size and lies on the stack.
pub const MAX_HEADERS: usize = 128;
