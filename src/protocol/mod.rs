//! RFC 6455 without I/O: bytes in, events out; commands in, bytes out. No socket, clock, thread
//! or unsafe.
#![forbid(unsafe_code)]

mod limits;
pub mod upgrade;

pub use limits::Limits;
