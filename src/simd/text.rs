//! A text message that arrives in pieces (RFC 6455 5.4, 8.1).
//!
//! Masked or plain pieces come in, cut anywhere, also inside a character; out comes a `&str`, in
//! constant time, because every piece was validated on arrival. A byte that cannot belong to
//! UTF-8 is reported with the piece that holds it, not at the end of the message.

use std::fmt;

use super::{BLOCK, unmask_and_look};

/// The bytes cannot become UTF-8, whatever follows (RFC 6455 8.1: fail the connection, 1007).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidUtf8;

impl fmt::Display for InvalidUtf8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not UTF-8 (RFC 6455 8.1)")
    }
}

impl std::error::Error for InvalidUtf8 {}

/// A text message under construction.
///
/// Call [`push`](Self::push) for every piece, then [`as_str`](Self::as_str), then perhaps
/// [`into_buffer`](Self::into_buffer) to use the memory again. Costs 32 bytes and the text; the
/// memory grows with what arrived (at most doubling), never with what was announced.
///
/// ```text
///  bytes   |  validated, whole characters  | the beginning of a character: 0 to 3 bytes |
///          0                             valid                                  bytes.len()
/// ```
#[derive(Default)]
pub struct TextBuffer {
    bytes: Vec<u8>,
    /// Invariant: `bytes[..valid]` is UTF-8. Only `push` writes to either field.
    valid: usize,
}

impl TextBuffer {
    /// Starts with an empty text in the memory of `bytes`, whose content is dropped.
    pub fn with_buffer(mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        Self { bytes, valid: 0 }
    }

    /// Appends `piece`, unmasked if `mask` is there (the masking key, and the index of `piece[0]`
    /// inside the frame's payload), and validates it. A character may be cut at the end of the
    /// piece and go on in the next.
    ///
    /// # Errors
    ///
    /// [`InvalidUtf8`] if the piece holds a byte with which the text cannot be UTF-8, whatever
    /// follows. The text is lost then: every later `push` and `as_str` fails, too.
    pub fn push(
        &mut self,
        piece: &[u8],
        mask: Option<([u8; 4], usize)>,
    ) -> Result<(), InvalidUtf8> {
        self.bytes.reserve(piece.len());
        let mut phase = mask.map_or(0, |(_, phase)| phase);
        // Copied, unmasked and validated while the block is in the first-level cache.
        for block in piece.chunks(BLOCK) {
            let start = self.bytes.len();
            self.bytes.extend_from_slice(block);
            let ascii = mask.is_some_and(|(key, _)| {
                unmask_and_look(&mut self.bytes[start..], key, phase).is_ascii()
            });
            phase = phase.wrapping_add(block.len());
            // A character that the last block cut is read again from its first byte. After an
            // error its bytes stay behind `valid`, so that the next attempt meets them again.
            self.valid = validate(&self.bytes, self.valid, start, ascii)?;
        }
        Ok(())
    }

    /// Has `write` put text behind the one so far, in up to `room` bytes, and validates as many as
    /// it says that it has written.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub(crate) fn push_with(
        &mut self,
        room: usize,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<usize, InvalidUtf8> {
        let start = self.bytes.len();
        self.bytes.resize(start + room, 0);
        let written = write(&mut self.bytes[start..]);
        self.bytes.truncate(start + written);
        if written > 0 {
            self.valid = validate(&self.bytes, self.valid, start, false)?;
        }
        Ok(written)
    }

    /// Takes the beginning of a character off the end, 0 to 3 bytes, so that the text is complete.
    pub(crate) fn take_cut(&mut self) -> ([u8; 3], usize) {
        let mut cut = [0; 3];
        let behind = &self.bytes[self.valid..];
        let len = behind.len().min(cut.len());
        cut[..len].copy_from_slice(&behind[..len]);
        self.bytes.truncate(self.valid);
        (cut, len)
    }

    /// Moves the text to the memory of `buffer`, whose content is dropped; gives the old memory.
    pub(crate) fn move_to(&mut self, mut buffer: Vec<u8>) -> Vec<u8> {
        buffer.clear();
        buffer.extend_from_slice(&self.bytes);
        std::mem::replace(&mut self.bytes, buffer)
    }

    /// Sees to room for so many bytes more, and not for others.
    pub(crate) fn reserve_exact(&mut self, more: usize) {
        self.bytes.reserve_exact(more);
    }

    /// The text so far. Constant time.
    ///
    /// # Errors
    ///
    /// [`InvalidUtf8`] if it ends inside a character, or if `push` has failed.
    #[inline]
    pub fn as_str(&self) -> Result<&str, InvalidUtf8> {
        if self.valid != self.bytes.len() {
            return Err(InvalidUtf8);
        }
        // SAFETY: `bytes[..valid]` is UTF-8, the invariant of `valid`, and that is all of it.
        Ok(unsafe { std::str::from_utf8_unchecked(&self.bytes) })
    }

    /// Bytes so far, a cut character included.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True if nothing arrived yet.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes of memory held.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Gives the memory back, with the bytes in it.
    #[inline]
    pub fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }
}

/// Says how much arrived, not what: texts are private and may be large.
impl fmt::Debug for TextBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextBuffer")
            .field("len", &self.len())
            .field("valid", &self.valid)
            .field("capacity", &self.capacity())
            .finish()
    }
}

/// Carries validation on: `bytes[..valid]` are whole characters, `bytes[start..]` have just
/// arrived and are `ascii`, if that is known. Returns the new `valid`: so much is UTF-8.
#[inline]
pub(super) fn validate(
    bytes: &[u8],
    valid: usize,
    start: usize,
    ascii: bool,
) -> Result<usize, InvalidUtf8> {
    if ascii && valid == start {
        return Ok(bytes.len());
    }
    Ok(valid + whole_characters(&bytes[valid..])?)
}

/// Validates `bytes`, which begin with a character, and returns the length of the whole characters
/// in them. What lies behind those, at most three bytes, may still become a character.
fn whole_characters(bytes: &[u8]) -> Result<usize, InvalidUtf8> {
    let (whole, cut) = bytes.split_at(bytes.len() - cut_len(bytes));
    if simdutf8::basic::from_utf8(whole).is_err() {
        return Err(InvalidUtf8);
    }
    // Some beginnings are hopeless: C0, or E0 80 (overlong), ED A0 (surrogate), F4 90 (too large).
    match std::str::from_utf8(cut) {
        Err(error) if error.error_len().is_some() => Err(InvalidUtf8),
        _ => Ok(whole.len()),
    }
}

/// Length of the character that the end of `bytes` cuts, going by its first byte alone: 0 to 3.
fn cut_len(bytes: &[u8]) -> usize {
    for (i, byte) in bytes.iter().rev().take(3).enumerate() {
        let character_len = match byte {
            0x80..=0xbf => continue,
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            _ => 1,
        };
        return if character_len > i + 1 { i + 1 } else { 0 };
    }
    0
}

/// Splits `bytes`, which begin with a character, behind their last whole one: a text, and at most
/// three bytes that may still become a character.
///
/// # Errors
///
/// [`InvalidUtf8`] if the bytes cannot become UTF-8, whatever follows.
pub(crate) fn split_text(bytes: &[u8]) -> Result<(&str, &[u8]), InvalidUtf8> {
    let (whole, cut) = bytes.split_at(whole_characters(bytes)?);
    // SAFETY: `whole_characters` has validated so many bytes, and those only.
    Ok((unsafe { std::str::from_utf8_unchecked(whole) }, cut))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::unmask;
    use proptest::prelude::*;

    const KEY: [u8; 4] = [0xa5, 0x5a, 0x01, 0x80];

    /// Index of the first byte with which `bytes` cannot become UTF-8, whatever follows: the
    /// longest prefix that the standard library either accepts or finds merely too short.
    fn first_impossible(bytes: &[u8]) -> Option<usize> {
        (0..bytes.len()).find(|&i| {
            std::str::from_utf8(&bytes[..=i]).is_err_and(|error| error.error_len().is_some())
        })
    }

    /// Pushes the pieces; the number of bytes that were pushed up to and with the failing piece.
    fn push_all<'a>(
        text: &mut TextBuffer,
        pieces: impl IntoIterator<Item = &'a [u8]>,
        masked: bool,
    ) -> Option<usize> {
        let mut position = 0;
        for piece in pieces {
            let result = if masked {
                let mut piece = piece.to_vec();
                unmask(&mut piece, KEY, position);
                text.push(&piece, Some((KEY, position)))
            } else {
                text.push(piece, None)
            };
            position += piece.len();
            if result.is_err() {
                return Some(position);
            }
        }
        None
    }

    /// Byte by byte the failure comes at the first impossible byte, in one piece with the piece;
    /// without failure the text is what the standard library says.
    fn check(bytes: &[u8]) {
        let mut slow = TextBuffer::default();
        let failed_at = push_all(&mut slow, bytes.chunks(1), true).map(|position| position - 1);
        let expected = first_impossible(bytes);
        assert_eq!(failed_at, expected, "{bytes:x?}");
        let mut fast = TextBuffer::default();
        assert_eq!(fast.push(bytes, None).is_err(), expected.is_some(), "{bytes:x?}");
        let text = std::str::from_utf8(bytes).map_err(|_| InvalidUtf8);
        assert_eq!(slow.as_str(), text);
        assert_eq!(fast.as_str(), text);
    }

    #[test]
    fn all_sequences_of_two_bytes() {
        let step = if cfg!(miri) { 15 } else { 1 };
        for first in 0..=0xff {
            for second in (0..=0xff).step_by(step) {
                check(&[first, second]);
            }
        }
    }

    /// Bytes at the edges of every class that RFC 3629 section 4 distinguishes.
    const EDGES: [u8; 24] = [
        0x00, b'a', 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1,
        0xec, 0xed, 0xee, 0xef, 0xf0, 0xf3, 0xf4, 0xf5, 0xff,
    ];

    #[test]
    fn sequences_of_four_bytes_from_all_classes() {
        let edges = if cfg!(miri) { &EDGES[13..17] } else { &EDGES[..] };
        for &first in edges {
            for &second in edges {
                for &third in edges {
                    for &fourth in edges {
                        check(&[first, second, third, fourth]);
                    }
                }
            }
        }
    }

    #[test]
    fn every_character_is_accepted_however_it_is_cut() {
        let mut buffer = Vec::new();
        for character in ('\0'..=char::MAX).step_by(if cfg!(miri) { 40_009 } else { 1 }) {
            let mut encoded = [0; 4];
            let bytes = character.encode_utf8(&mut encoded).as_bytes();
            let mut text = TextBuffer::with_buffer(buffer);
            for (i, byte) in bytes.iter().enumerate() {
                assert_eq!(text.push(&[*byte], None), Ok(()));
                assert_eq!(text.as_str().is_ok(), i + 1 == bytes.len(), "{character:?}");
            }
            assert_eq!(text.as_str().map(|text| text.chars().next()), Ok(Some(character)));
            buffer = text.into_buffer();
        }
    }

    #[test]
    fn hopeless_beginnings_fail_at_once() {
        let cases: [&[u8]; 10] = [
            b"\xc0",
            b"\xc1",
            b"\xf5",
            b"\xf8",
            b"\xff",
            b"\x80",
            b"\xe0\x80",
            b"\xed\xa0",
            b"\xf0\x8f",
            b"\xf4\x90",
        ];
        for bad in cases {
            for lead in [0, 1, 60, 63, 64, 65, 127, 200, BLOCK - 1] {
                let mut bytes = vec![b'x'; lead];
                bytes.extend_from_slice(bad);
                let mut text = TextBuffer::default();
                assert_eq!(text.push(&bytes, None), Err(InvalidUtf8), "{bad:x?} after {lead}");
            }
        }
    }

    #[test]
    fn failure_stays() {
        let mut text = TextBuffer::default();
        assert_eq!(text.push(b"ab\xed", None), Ok(()));
        assert_eq!(text.push(b"\xa0\x80", None), Err(InvalidUtf8));
        assert_eq!(text.push(b"fine", None), Err(InvalidUtf8));
        assert_eq!(text.as_str(), Err(InvalidUtf8));
        let text = TextBuffer::with_buffer(text.into_buffer());
        assert_eq!(text.as_str(), Ok(""));
    }

    #[test]
    fn memory_grows_with_what_arrived() {
        let mut text = TextBuffer::default();
        assert_eq!((text.len(), text.capacity(), text.is_empty()), (0, 0, true));
        assert_eq!(text.push(b"", Some((KEY, 0))), Ok(()));
        assert_eq!(text.capacity(), 0);
        for _ in 0..100 {
            assert_eq!(text.push(&[b'x'; 1000], None), Ok(()));
            assert!(text.capacity() <= 2 * text.len());
        }
        assert_eq!(text.len(), 100_000);
        let capacity = text.capacity();
        let text = TextBuffer::with_buffer(text.into_buffer());
        assert_eq!((text.len(), text.capacity()), (0, capacity));
    }

    #[test]
    fn large_piece_with_any_phase() {
        let expected: String = "añ€𝄞".chars().cycle().take(BLOCK).collect();
        for phase in 0..4 {
            let mut piece = expected.clone().into_bytes();
            unmask(&mut piece, KEY, phase);
            let mut text = TextBuffer::default();
            assert_eq!(text.push(&piece, Some((KEY, phase))), Ok(()));
            assert_eq!(text.as_str(), Ok(expected.as_str()));
        }
    }

    fn text_with_damage() -> impl Strategy<Value = Vec<u8>> {
        let damage = proptest::option::of((any::<prop::sample::Index>(), any::<u8>()));
        (
            "[a-c\u{80}-\u{90}\u{7ff}-\u{801}\u{d7ff}\u{e000}\u{ffff}\u{10000}\u{10ffff}]{0,200}",
            damage,
        )
            .prop_map(|(text, damage)| {
                let mut bytes = text.into_bytes();
                if let Some((index, byte)) = damage
                    && !bytes.is_empty()
                {
                    let index = index.index(bytes.len());
                    bytes[index] = byte;
                }
                bytes
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 4 } else { 500 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// The piece that fails is the one that holds the first impossible byte.
        #[test]
        fn random_cuts(
            bytes in text_with_damage(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            masked: bool,
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]);
            let mut text = TextBuffer::default();
            let failed_with = push_all(&mut text, pieces, masked);
            let expected = first_impossible(&bytes)
                .map(|i| cuts.iter().copied().find(|&cut| cut > i).unwrap());
            prop_assert_eq!(failed_with, expected);
            prop_assert_eq!(text.as_str(), std::str::from_utf8(&bytes).map_err(|_| InvalidUtf8));
            prop_assert!(expected.is_some() || text.len() == bytes.len());
        }
    }
}
