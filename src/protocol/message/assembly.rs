//! A message that arrives in pieces: fragments, or parts of one large frame (RFC 6455 5.4).
//!
//! Comes in: pieces of payload as they arrive, still masked. Goes out: the whole message, in one
//! buffer. This never reserves memory for what was only announced: the capacity stays at or below
//! 2 x received + 64 KiB, except that a buffer which exists already may be larger.

use super::pool::SMALL_MAX;
use super::{BufferPool, CompleteText, Inflater};
use crate::protocol::endpoint::Streamed;
use crate::protocol::error::ProtocolError;
use crate::simd::{InvalidUtf8, TextBuffer, unmask};

/// Fresh buffers start with this capacity, in bytes, so that they are worth keeping.
const FRESH_MIN: usize = 1024;

/// What has arrived of a message, text checked as far as it goes.
#[derive(Debug)]
pub(in crate::protocol) struct Assembly {
    payload: Payload,
    /// Capacity of the buffer in `payload`, in bytes. It grows here and nowhere else.
    capacity: u32,
}

/// A message that is complete.
#[derive(Debug)]
pub(in crate::protocol) enum Assembled {
    Text(CompleteText),
    Binary(Vec<u8>),
}

/// What a step of inflating came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) enum Inflated {
    /// Everything that can come out of the input so far has come.
    All,
    /// There may be more, even if the input is used up.
    Some,
}

#[derive(Debug)]
enum Payload {
    Text(TextBuffer),
    Binary(Vec<u8>),
    /// Handed out in parts, so that nothing is kept.
    Streamed(Streamed),
}

impl Assembly {
    /// A text message of which nothing has arrived. Holds no memory.
    pub(in crate::protocol) fn text() -> Self {
        Self { payload: Payload::Text(TextBuffer::default()), capacity: 0 }
    }

    /// A binary message of which nothing has arrived. Holds no memory.
    pub(in crate::protocol) fn binary() -> Self {
        Self { payload: Payload::Binary(Vec::new()), capacity: 0 }
    }

    /// A message that is handed out in parts. Holds no memory, and never will.
    pub(in crate::protocol) fn of_streamed(streamed: Streamed) -> Self {
        Self { payload: Payload::Streamed(streamed), capacity: 0 }
    }

    /// What was kept with [`Self::of_streamed`].
    pub(in crate::protocol) fn streamed(&self) -> Option<Streamed> {
        match self.payload {
            Payload::Streamed(streamed) => Some(streamed),
            Payload::Text(_) | Payload::Binary(_) => None,
        }
    }

    /// Bytes that are kept.
    pub(in crate::protocol) fn len(&self) -> usize {
        match &self.payload {
            Payload::Text(text) => text.len(),
            Payload::Binary(bytes) => bytes.len(),
            Payload::Streamed(_) => 0,
        }
    }

    /// Capacity that is held, in bytes.
    pub(in crate::protocol) fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Appends a piece. `mask` is the masking key and the place of the piece in its frame;
    /// `announced` is how many bytes of the frame are due, this piece included: it chooses among
    /// the buffers of the pool and nothing else.
    ///
    /// # Errors
    ///
    /// [`InvalidUtf8`] at the first byte that cannot belong to a text.
    pub(in crate::protocol) fn append(
        &mut self,
        piece: &mut [u8],
        mask: Option<([u8; 4], usize)>,
        announced: usize,
        pool: &mut BufferPool,
    ) -> Result<(), InvalidUtf8> {
        let needed = self.len() + piece.len();
        if needed > self.capacity() {
            self.grow(needed, announced, pool)?;
        }
        match &mut self.payload {
            Payload::Text(text) => text.push(piece, mask),
            Payload::Binary(bytes) => {
                if let Some((key, phase)) = mask {
                    unmask(piece, key, phase);
                }
                bytes.extend_from_slice(piece);
                Ok(())
            }
            Payload::Streamed(_) => {
                debug_assert!(false, "a stream is read by `receive_part` only");
                Ok(())
            }
        }
    }

    /// Appends what comes out of `inflater`, to which `input` belongs next, at most `room` bytes:
    /// the inflater writes right behind what has come before. The message may become `max` bytes
    /// long, and no memory is reserved for more.
    ///
    /// # Errors
    ///
    /// The rule that the message breaks.
    pub(in crate::protocol) fn inflate(
        &mut self,
        inflater: &mut Inflater,
        input: &mut &[u8],
        room: usize,
        max: usize,
        pool: &mut BufferPool,
    ) -> Result<Inflated, ProtocolError> {
        let room = room.min(max.saturating_sub(self.len()));
        if room == 0 {
            // Perhaps nothing comes any more.
            let mut too_much = [0];
            if inflater.inflate(input, &mut too_much) != 0 {
                return Err(ProtocolError::MessageTooLong);
            }
            inflater.check()?;
            return Ok(Inflated::All);
        }
        self.make_room(room, max, pool);
        let written = match &mut self.payload {
            Payload::Text(text) => text.push_with(room, |bytes| inflater.inflate(input, bytes)),
            Payload::Binary(bytes) => {
                let len = bytes.len();
                bytes.resize(len + room, 0);
                let written = inflater.inflate(input, &mut bytes[len..]);
                bytes.truncate(len + written);
                Ok(written)
            }
            Payload::Streamed(_) => {
                debug_assert!(false, "a stream is read by `receive_part` only");
                Ok(0)
            }
        };
        let written = written.map_err(|InvalidUtf8| ProtocolError::InvalidUtf8)?;
        inflater.check()?;
        pool.note_inflated(written);
        Ok(if written == room { Inflated::Some } else { Inflated::All })
    }

    /// Sees to a capacity of `room` bytes more, below `max` in all. Unlike with `grow`, the pieces
    /// of a message are small against it, and it grows in place: the old memory and the new one
    /// together would be more than `max`.
    fn make_room(&mut self, room: usize, max: usize, pool: &mut BufferPool) {
        let needed = self.len() + room;
        if needed <= self.capacity() {
            return;
        }
        let doubled = needed.max(2 * self.capacity()).next_power_of_two().min(max).max(needed);
        let other = if self.capacity == 0 {
            Some(pool.take_for(needed))
        } else if doubled > SMALL_MAX {
            pool.take_large(doubled)
        } else {
            None
        };
        if let Some(other) = other {
            pool.give(match &mut self.payload {
                Payload::Text(text) => text.move_to(other),
                Payload::Binary(bytes) => move_to(bytes, other),
                Payload::Streamed(_) => other,
            });
        }
        let more = doubled.max(FRESH_MIN.min(max)) - self.len();
        self.capacity = match &mut self.payload {
            Payload::Text(text) => {
                if text.capacity() < needed {
                    text.reserve_exact(more);
                }
                text.capacity() as u32
            }
            Payload::Binary(bytes) => {
                if bytes.capacity() < needed {
                    bytes.reserve_exact(more);
                }
                bytes.capacity() as u32
            }
            Payload::Streamed(_) => 0,
        };
    }

    /// Moves to a buffer that holds at least `needed` bytes.
    #[cold]
    fn grow(
        &mut self,
        needed: usize,
        announced: usize,
        pool: &mut BufferPool,
    ) -> Result<(), InvalidUtf8> {
        // Twice what was received, like `Vec`, so that all the moves together copy each byte once.
        let doubled = needed.max(2 * self.capacity());
        let mut buffer = if self.len() == 0 {
            pool.take_for(announced)
        } else if doubled > SMALL_MAX {
            pool.take_large(doubled).unwrap_or_default()
        } else {
            Vec::new()
        };
        if buffer.capacity() < needed {
            // A power of two, so that the doubling ends on the usual sizes of messages. It is less
            // than twice `needed`, which has been received.
            buffer.reserve_exact(doubled.next_power_of_two().min(2 * needed).max(FRESH_MIN));
        }
        self.capacity = u32::try_from(buffer.capacity()).unwrap_or(u32::MAX);
        let outgrown = match &mut self.payload {
            Payload::Binary(bytes) => {
                buffer.extend_from_slice(bytes);
                std::mem::replace(bytes, buffer)
            }
            Payload::Text(text) => {
                let outgrown = std::mem::take(text).into_buffer();
                *text = TextBuffer::with_buffer(buffer);
                text.push(&outgrown, None)?;
                outgrown
            }
            Payload::Streamed(_) => buffer,
        };
        pool.give(outgrown);
        Ok(())
    }

    /// The message, now that its last fragment is complete.
    ///
    /// # Errors
    ///
    /// [`InvalidUtf8`] if a text ends inside a character; its buffer is freed.
    pub(in crate::protocol) fn finish(self) -> Result<Assembled, InvalidUtf8> {
        match self.payload {
            Payload::Text(text) => CompleteText::new(text).map(Assembled::Text),
            Payload::Binary(bytes) => Ok(Assembled::Binary(bytes)),
            Payload::Streamed(_) => Ok(Assembled::Binary(Vec::new())),
        }
    }

    /// Gives the memory of an unfinished message back.
    pub(in crate::protocol) fn recycle(self, pool: &mut BufferPool) {
        pool.give(match self.payload {
            Payload::Text(text) => text.into_buffer(),
            Payload::Binary(bytes) => bytes,
            Payload::Streamed(_) => return,
        });
    }
}

/// Moves the content of `bytes` to `buffer`, which is empty; gives the old memory.
fn move_to(bytes: &mut Vec<u8>, mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.extend_from_slice(bytes);
    std::mem::replace(bytes, buffer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Limits;

    const KIB: usize = 1024;

    fn append(message: &mut Assembly, len: usize, announced: usize, pool: &mut BufferPool) {
        assert_eq!(message.append(&mut vec![b'x'; len], None, announced, pool), Ok(()));
    }

    #[test]
    fn an_announced_length_reserves_nothing() {
        for mut message in [Assembly::text(), Assembly::binary()] {
            let mut pool = BufferPool::new(0);
            append(&mut message, 1, 16 * KIB * KIB, &mut pool);
            assert!(message.capacity() <= 64 * KIB, "{}", message.capacity());
        }
    }

    #[test]
    fn capacity_follows_what_was_received() {
        for mut message in [Assembly::text(), Assembly::binary()] {
            let mut pool = BufferPool::new(0);
            for len in (1..2000).step_by(7).chain([40_000, 300_000, 5]) {
                append(&mut message, len, Limits::MAXIMUM as usize, &mut pool);
                let most = 2 * message.len() + 64 * KIB;
                assert!(message.capacity() <= most, "{} > {most}", message.capacity());
                assert!(message.capacity() >= message.len());
            }
        }
    }

    #[test]
    fn a_large_frame_in_steady_state_allocates_nothing() {
        for text in [true, false] {
            let mut pool = BufferPool::new(4096 * KIB);
            let mut previous = None;
            for _ in 0..3 {
                let mut message = if text { Assembly::text() } else { Assembly::binary() };
                for arrived in 0..4 {
                    append(&mut message, 256 * KIB, (4 - arrived) * 256 * KIB, &mut pool);
                }
                assert_eq!(message.capacity(), 1024 * KIB);
                let buffer = match message.finish() {
                    Ok(Assembled::Text(text)) => text.into_buffer(),
                    Ok(Assembled::Binary(bytes)) => bytes,
                    Err(InvalidUtf8) => panic!("the text is complete"),
                };
                let start = buffer.as_ptr();
                pool.give(buffer);
                // The second and third message lie where the first one lay.
                assert_eq!(*previous.get_or_insert(start), start);
            }
        }
    }

    #[test]
    fn a_fragmented_message_moves_to_a_large_pooled_buffer() {
        let mut pool = BufferPool::new(4096 * KIB);
        pool.give(Vec::with_capacity(512 * KIB));
        let mut message = Assembly::text();
        append(&mut message, 60 * KIB, 60 * KIB, &mut pool);
        assert_eq!(message.capacity(), 64 * KIB);
        append(&mut message, 60 * KIB, 60 * KIB, &mut pool);
        assert_eq!((message.capacity(), message.len()), (512 * KIB, 120 * KIB));
        assert_eq!(pool.retained(), 64 * KIB);
    }

    #[test]
    fn pieces_are_unmasked_from_their_place_in_the_frame() {
        let key = [1, 2, 3, 4];
        let masked: Vec<u8> = b"hello".iter().zip(key.iter().cycle()).map(|(b, k)| b ^ k).collect();
        for cut in 0..=masked.len() {
            for mut message in [Assembly::text(), Assembly::binary()] {
                let mut pool = BufferPool::new(0);
                let (mut head, mut tail) = (masked[..cut].to_vec(), masked[cut..].to_vec());
                assert_eq!(message.append(&mut head, Some((key, 0)), 5, &mut pool), Ok(()));
                assert_eq!(message.append(&mut tail, Some((key, cut)), 5, &mut pool), Ok(()));
                match message.finish() {
                    Ok(Assembled::Text(text)) => assert_eq!(text.as_str(), "hello"),
                    Ok(Assembled::Binary(bytes)) => assert_eq!(bytes, b"hello"),
                    Err(InvalidUtf8) => panic!("the text is complete"),
                }
            }
        }
    }

    #[test]
    fn a_text_that_ends_inside_a_character_is_refused() {
        let mut message = Assembly::text();
        let cut = &mut b"gr\xc3".to_vec();
        assert_eq!(message.append(cut, None, 3, &mut BufferPool::new(0)), Ok(()));
        assert_eq!(message.finish().err(), Some(InvalidUtf8));
    }
}
