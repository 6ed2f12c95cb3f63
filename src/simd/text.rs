//! A text message that arrives in pieces (skeleton).

/// The bytes cannot become UTF-8, whatever follows (RFC 6455 8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidUtf8;

/// A text message under construction: everything in it up to a cut character of at most three
/// bytes at the end has been validated.
#[derive(Debug, Default)]
pub struct TextBuffer {
    bytes: Vec<u8>,
}

impl TextBuffer {
    /// Starts with an empty buffer, keeping its capacity.
    pub fn with_buffer(mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        Self { bytes }
    }

    /// Appends `piece`, unmasked with `key` from `phase` on if there is a key, and validates it.
    /// Fails at the first impossible byte.
    pub fn push(
        &mut self,
        piece: &[u8],
        mask: Option<([u8; 4], usize)>,
    ) -> Result<(), InvalidUtf8> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(piece);
        if let Some((key, phase)) = mask {
            super::unmask(&mut self.bytes[start..], key, phase);
        }
        Ok(())
    }

    /// The whole text, if no character is cut at its end. Constant time.
    pub fn as_str(&self) -> Result<&str, InvalidUtf8> {
        std::str::from_utf8(&self.bytes).map_err(|_| InvalidUtf8)
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True if nothing arrived yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Gives the memory back.
    pub fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }
}
