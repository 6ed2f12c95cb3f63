//! Payloads that were received: in the input, or in a buffer.
//!
//! Comes in: a payload that arrived whole, or the buffer that its pieces were put into. Goes out:
//! its bytes or text, and in the end the buffer. This never copies.

use super::BufferPool;
use crate::simd::{InvalidUtf8, TextBuffer};

/// Valid UTF-8 text: a message, or the reason of a Close.
#[derive(Debug)]
pub enum ReceivedText<'b> {
    /// It lies where it was received, and is gone with the input.
    InPlace(&'b str),
    /// It was put together from pieces. Give it to [`ReceivedText::recycle`] after use.
    Assembled(CompleteText),
}

impl ReceivedText<'_> {
    /// The text.
    #[inline]
    pub fn as_str(&self) -> &str {
        match self {
            Self::InPlace(text) => text,
            Self::Assembled(text) => text.as_str(),
        }
    }

    /// Gives the memory back, if there is any.
    #[inline]
    pub fn recycle(self, pool: &mut BufferPool) {
        if let Self::Assembled(text) = self {
            pool.give(text.into_buffer());
        }
    }
}

/// A text that was put together and holds no cut character.
#[derive(Debug)]
pub struct CompleteText(TextBuffer);

impl CompleteText {
    /// Takes the buffer if its text is complete.
    ///
    /// # Errors
    ///
    /// [`InvalidUtf8`] if the last character is cut.
    pub(in crate::protocol) fn new(text: TextBuffer) -> Result<Self, InvalidUtf8> {
        text.as_str()?;
        Ok(Self(text))
    }

    /// A copy of a short text.
    pub(in crate::protocol) fn copied(text: &str) -> Result<Self, InvalidUtf8> {
        let mut buffer = TextBuffer::default();
        buffer.push(text.as_bytes(), None)?;
        Self::new(buffer)
    }

    /// The text.
    #[inline]
    pub fn as_str(&self) -> &str {
        match self.0.as_str() {
            Ok(text) => text,
            Err(InvalidUtf8) => unreachable!("the only constructor refuses incomplete text"),
        }
    }

    /// Gives the memory back.
    pub fn into_buffer(self) -> Vec<u8> {
        self.0.into_buffer()
    }
}

/// Any bytes: a binary message, or the payload of a Ping or Pong.
#[derive(Debug)]
pub enum ReceivedBytes<'b> {
    /// They lie where they were received, and are gone with the input.
    InPlace(&'b [u8]),
    /// They were put together from pieces. Give them to [`ReceivedBytes::recycle`] after use.
    Assembled(Vec<u8>),
}

impl ReceivedBytes<'_> {
    /// The bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::InPlace(bytes) => bytes,
            Self::Assembled(bytes) => bytes,
        }
    }

    /// Gives the memory back, if there is any.
    #[inline]
    pub fn recycle(self, pool: &mut BufferPool) {
        if let Self::Assembled(bytes) = self {
            pool.give(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_places_give_the_same_text() {
        let mut pool = BufferPool::new(1024 * 1024);
        let mut buffer = TextBuffer::with_buffer(Vec::with_capacity(4096));
        assert_eq!(buffer.push("grün".as_bytes(), None), Ok(()));
        let assembled = CompleteText::new(buffer).map(ReceivedText::Assembled);
        let assembled = assembled.expect("the text is complete");
        assert_eq!(assembled.as_str(), ReceivedText::InPlace("grün").as_str());
        assembled.recycle(&mut pool);
        assert_eq!(pool.retained(), 4096);
        ReceivedText::InPlace("grün").recycle(&mut pool);
        assert_eq!(pool.retained(), 4096);
    }

    #[test]
    fn a_cut_character_is_no_complete_text() {
        let mut buffer = TextBuffer::default();
        assert_eq!(buffer.push(b"gr\xc3", None), Ok(()));
        assert_eq!(CompleteText::new(buffer).err(), Some(InvalidUtf8));
    }

    #[test]
    fn assembled_bytes_go_back_to_the_pool() {
        let mut pool = BufferPool::new(1024 * 1024);
        let bytes = ReceivedBytes::Assembled(vec![9; 2048]);
        assert_eq!(bytes.as_slice(), ReceivedBytes::InPlace(&[9; 2048]).as_slice());
        bytes.recycle(&mut pool);
        assert_eq!(pool.retained(), 2048);
    }
}
