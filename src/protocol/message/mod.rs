//! Messages (RFC 6455 5.4, 5.6): what is sent, what was received, and what still arrives.
//!
//! Comes in: payloads, whole or in pieces. Goes out: [`Message`]s, and received payloads that say
//! whether they lie in the input or were put together in a buffer. This never reads a header and
//! never decides whether a fragment may come: the endpoint does.

use super::frame::Opcode;

mod assembly;
#[cfg(feature = "deflate")]
mod codec;
mod deflate;
mod history;
#[cfg(not(feature = "deflate"))]
mod no_codec;
mod pool;
mod received;

pub use crate::simd::{InvalidUtf8, TextBuffer};
pub use pool::BufferPool;
pub use received::{CompleteText, ReceivedBytes, ReceivedText};

pub(super) use assembly::{Assembled, Assembly, Inflated};
pub(super) use deflate::{Deflater, HISTORY_BITS, Held, Inflater};

/// A whole message, borrowed. Two words and a tag, `Copy`.
///
/// Made from a reference: `&str` and `&String` become text, `&[u8]`, `&[u8; N]` and `&Vec<u8>`
/// become binary. So what `format!` made is sent with an `&` in front.
///
/// ```
/// use wirelane::Message;
///
/// assert_eq!(Message::from(&format!("{} + {}", 1, 2)), Message::Text("1 + 2"));
/// assert_eq!(Message::from(b"\x00\xFF"), Message::Binary(&[0x00, 0xFF]));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Message<'a> {
    /// UTF-8 text (opcode 0x1).
    Text(&'a str),
    /// Any bytes (opcode 0x2).
    Binary(&'a [u8]),
}

impl<'a> Message<'a> {
    /// The bytes of the message.
    pub const fn payload(&self) -> &'a [u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// The opcode of the first frame of the message.
    pub const fn opcode(&self) -> Opcode {
        match self {
            Self::Text(_) => Opcode::Text,
            Self::Binary(_) => Opcode::Binary,
        }
    }

    /// Length of the payload, in bytes.
    pub const fn len(&self) -> usize {
        self.payload().len()
    }

    /// True if the payload is empty; such a message is legal and is delivered.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True for a text message.
    pub const fn is_text(&self) -> bool {
        matches!(self, Self::Text(_))
    }
}

impl<'a> From<&'a str> for Message<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Message<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a [u8]> for Message<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Binary(bytes)
    }
}

/// Byte string literals: `b"..."`.
impl<'a, const LEN: usize> From<&'a [u8; LEN]> for Message<'a> {
    fn from(bytes: &'a [u8; LEN]) -> Self {
        Self::Binary(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Message<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::Binary(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_keep_the_payload_and_choose_the_opcode() {
        let text = Message::from("é");
        assert_eq!((text.opcode(), text.payload(), text.len()), (Opcode::Text, "é".as_bytes(), 2));
        assert!(text.is_text() && !text.is_empty());
        let owned = String::from("é");
        assert_eq!(Message::from(&owned), text);

        let bytes = vec![0xFF];
        let binary = Message::from(&bytes);
        assert_eq!((binary.opcode(), binary.payload()), (Opcode::Binary, &[0xFF][..]));
        assert_eq!(Message::from(&bytes[..]), binary);
        assert!(!binary.is_text() && Message::from("").is_empty());
    }
}
