//! RFC 6455 and RFC 7692 without I/O: bytes in, events out; commands in, bytes out.
//!
//! - **In**: received bytes, lent as `&mut [u8]` so that they can be unmasked where they lie, and
//!   commands (send, ping, close).
//! - **Out**: [`Event`]s that borrow those very bytes, and frames appended to a `Vec<u8>`.
//! - **Never**: a socket, a clock, a thread, a lock, `unsafe`. Whoever embeds this module does
//!   the reading, the writing and the waiting, under any runtime.
//!
//! ```text
//!            bytes                           Endpoint                            caller
//!  peer  ------------->  header -> checks -> unmask in place -> UTF-8  ------->  Event
//!        <-------------  header + payload, one whole frame at a time   <-------  Message
//! ```
//!
//! [`Endpoint`] is the place to start: its documentation shows a whole conversation. The modules
//! below it are public for batching and fan-out ([`frame`]), and for callers that keep their own
//! buffers ([`message`]).
#![forbid(unsafe_code)]

pub mod close;
mod deflate;
pub mod endpoint;
pub mod error;
pub mod frame;
pub mod limits;
pub mod message;
mod state;
pub mod upgrade;

pub use close::{CloseCode, CloseFrame, InvalidCloseCode};
pub use deflate::{Deflate, DeflateParameters};
pub use endpoint::{Endpoint, Event, State};
pub use error::{ControlError, NotOpen, ProtocolError};
pub use frame::{EncodedHeader, FrameHeader, Opcode};
pub use limits::Limits;
pub use message::{BufferPool, Message, ReceivedBytes, ReceivedText};
