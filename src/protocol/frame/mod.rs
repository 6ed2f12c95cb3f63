//! Base framing (RFC 6455 5.2).
//!
//! Comes in: the first bytes of a frame, or what a frame shall be. Goes out: a [`FrameHeader`],
//! or an [`EncodedHeader`]. This never touches a payload and knows neither role nor limits: the
//! endpoint does.

mod encoder;
mod header;

pub(super) use encoder::append_masked;
pub use encoder::{EncodedHeader, encode_header};
pub(crate) use encoder::{append_masked_copy, append_short};
pub use header::{FrameHeader, Opcode};

pub(crate) use header::MAX_HEADER_LEN;
pub(super) use header::{FirstByte, RSV1, RSV2, RSV3, SecondByte};
