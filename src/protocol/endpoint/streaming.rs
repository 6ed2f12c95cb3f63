//! Messages handed out while they still arrive, for whoever must not buffer them.
//!
//! Comes in: received bytes, as for [`Endpoint::receive`]. Goes out: parts of messages, each a
//! slice of the input, and control frames. This keeps at most three bytes of a message: the
//! beginning of a character that the input cuts.
//!
//! ```text
//!  frames   | Text, FIN=0: g r C3 | Continuation, FIN=1: BC n |
//!  parts      "gr", first           "ü"   "n", last
//! ```

use super::deflate::{Given, STEP};
use super::reading::{Frame, Progress, Reading};
use super::{Endpoint, Event};
use crate::protocol::error::ProtocolError;
use crate::protocol::frame::Opcode;
use crate::protocol::message::{Assembly, BufferPool, CompleteText, Message};
use crate::simd::{InvalidUtf8, TextBuffer, split_text, unmask};

/// The most compressed bytes that are unmasked at a time. What they bring too much is masked again.
const PIECE: usize = 4 * 1024;

/// What was received.
#[derive(Debug)]
pub(crate) enum Received<'b> {
    Part(Part<'b>),
    /// Never a message.
    Control(Event<'b>),
}

/// A part of a message. Not empty, unless it is the last one.
#[derive(Debug)]
pub(crate) struct Part<'b> {
    pub(crate) first: bool,
    pub(crate) last: bool,
    payload: Payload<'b>,
}

impl Part<'_> {
    /// The payload, and of which kind the message is.
    pub(crate) fn payload(&self) -> Message<'_> {
        match &self.payload {
            Payload::Text(text) => Message::Text(text),
            Payload::Binary(bytes) => Message::Binary(bytes),
            // It was found valid when it was put together, so the alternative never comes.
            Payload::Character { bytes, len } => {
                Message::Text(std::str::from_utf8(&bytes[..usize::from(*len)]).unwrap_or_default())
            }
            Payload::InflatedText(text) => Message::Text(text.as_str()),
            Payload::InflatedBinary(bytes) => Message::Binary(bytes),
        }
    }

    /// Gives the memory of an inflated part back; nothing to do for others.
    pub(crate) fn recycle(self, pool: &mut BufferPool) {
        match self.payload {
            Payload::InflatedText(text) => pool.give(text.into_buffer()),
            Payload::InflatedBinary(bytes) => pool.give(bytes),
            Payload::Text(_) | Payload::Binary(_) | Payload::Character { .. } => {}
        }
    }
}

#[derive(Debug)]
enum Payload<'b> {
    Text(&'b str),
    Binary(&'b [u8]),
    /// A character that did not lie in one piece.
    Character {
        bytes: [u8; 4],
        len: u8,
    },
    InflatedText(CompleteText),
    InflatedBinary(Vec<u8>),
}

/// What is known of a message of which parts were handed out.
#[derive(Clone, Copy, Debug)]
pub(in crate::protocol) struct Streamed {
    text: bool,
    /// A part was handed out.
    begun: bool,
    /// The beginning of a character, `cut[..cut_len]`.
    cut: [u8; 3],
    cut_len: u8,
    /// Bytes so far.
    len: u64,
}

impl Streamed {
    /// A message of which nothing was handed out.
    fn new(text: bool) -> Self {
        Self { text, begun: false, cut: [0; 3], cut_len: 0, len: 0 }
    }
}

/// What the present frame has come to.
enum Step<'b> {
    Part(Part<'b>),
    /// Nothing to hand out, but there is more input.
    Skipped,
    /// The input is used up inside the frame.
    Incomplete,
}

impl Endpoint {
    /// As [`Endpoint::receive`], but hands out messages in parts and never more than
    /// `max_message` bytes of one. The limits of this endpoint hold for its frames. Which of the
    /// two methods is used must not change in the life of a connection.
    pub(crate) fn receive_part<'b>(
        &mut self,
        input: &mut &'b mut [u8],
        max_message: u64,
        pool: &mut BufferPool,
    ) -> Result<Option<Received<'b>>, ProtocolError> {
        let received = match self.read_parts(input, max_message, pool) {
            Ok(received) => received,
            Err(error) => return Err(self.refuse(error, input, pool)),
        };
        if !self.lifecycle.reads() {
            self.release(pool);
        }
        self.note_state();
        Ok(received)
    }

    fn read_parts<'b>(
        &mut self,
        input: &mut &'b mut [u8],
        max_message: u64,
        pool: &mut BufferPool,
    ) -> Result<Option<Received<'b>>, ProtocolError> {
        loop {
            let frame = match self.reading {
                Reading::Header { .. } => match self.read_header(input)? {
                    Some(frame) => frame,
                    None => return Ok(None),
                },
                Reading::Payload(frame) => frame,
                Reading::Nothing => {
                    self.release(pool);
                    *input = &mut [];
                    return Ok(None);
                }
            };
            if frame.opcode.is_control() || !self.lifecycle.delivers() {
                match self.read_payload(frame, input, pool)? {
                    Progress::Event(event @ Event::Close(_)) => {
                        return Ok(Some(Received::Control(event)));
                    }
                    Progress::Event(event) if self.lifecycle.delivers() => {
                        return Ok(Some(Received::Control(event)));
                    }
                    Progress::Event(ignored) => ignored.recycle(pool),
                    Progress::Fragment => {}
                    Progress::Incomplete => return Ok(None),
                }
                continue;
            }
            let step = match self.extension.inflating {
                true => self.inflate_part(frame, input, max_message, pool)?,
                false => self.read_part(frame, input, max_message)?,
            };
            match step {
                Step::Part(part) => return Ok(Some(Received::Part(part))),
                Step::Skipped => {}
                Step::Incomplete => return Ok(None),
            }
        }
    }

    /// Reads what has arrived of a data frame.
    fn read_part<'b>(
        &mut self,
        mut frame: Frame,
        input: &mut &'b mut [u8],
        max_message: u64,
    ) -> Result<Step<'b>, ProtocolError> {
        let begun = self.message.as_ref().and_then(Assembly::streamed);
        let mut message = begun.unwrap_or_else(|| Streamed::new(frame.opcode == Opcode::Text));
        let remaining = frame.remaining();
        if message.len.saturating_add(remaining as u64) > max_message {
            return Err(ProtocolError::MessageTooLong);
        }
        let mut arrived = input.len().min(remaining);
        if message.cut_len > 0 {
            arrived = arrived.min(message.missing());
        }
        let piece = input.split_off_mut(..arrived).unwrap_or_default();
        if let Some((key, phase)) = frame.mask() {
            unmask(piece, key, phase);
        }
        let payload = match message {
            Streamed { text: false, .. } => Payload::Binary(piece),
            Streamed { cut_len: 0, .. } => {
                let (whole, cut) =
                    split_text(piece).map_err(|InvalidUtf8| ProtocolError::InvalidUtf8)?;
                message.cut[..cut.len()].copy_from_slice(cut);
                message.cut_len = cut.len() as u8;
                Payload::Text(whole)
            }
            _ => message.complete(piece)?,
        };
        frame.received += arrived as u32;
        message.len += arrived as u64;

        let complete = arrived == remaining;
        let last = complete && frame.fin;
        if last && message.cut_len > 0 {
            // RFC 6455 8.1: a text must not end inside a character.
            return Err(ProtocolError::InvalidUtf8);
        }
        let has_payload = match &payload {
            Payload::Text(text) => !text.is_empty(),
            Payload::Binary(bytes) => !bytes.is_empty(),
            Payload::Character { .. } => true,
            Payload::InflatedText(_) | Payload::InflatedBinary(_) => false,
        };
        let first = !message.begun;
        message.begun |= has_payload;
        self.reading = if complete { Reading::NEXT_FRAME } else { Reading::Payload(frame) };
        self.message = (!last).then(|| Assembly::of_streamed(message));
        Ok(match (has_payload || last, complete || arrived > 0) {
            (true, _) => Step::Part(Part { first, last, payload }),
            (false, true) => Step::Skipped,
            (false, false) => Step::Incomplete,
        })
    }
}

impl Endpoint {
    /// Inflates some of what has arrived of a compressed data frame (RFC 7692 7.2.2).
    ///
    /// A part has at most [`STEP`] bytes, however much comes out of the input. As long as more may
    /// come, the byte that it comes out of stays in the input: nobody is asked to look again who
    /// has nothing left to hand in. What is left in the input is masked again.
    fn inflate_part<'b>(
        &mut self,
        mut frame: Frame,
        input: &mut &'b mut [u8],
        max_message: u64,
        pool: &mut BufferPool,
    ) -> Result<Step<'b>, ProtocolError> {
        let begun = self.message.as_ref().and_then(Assembly::streamed);
        let mut message = begun.unwrap_or_else(|| Streamed::new(frame.opcode == Opcode::Text));
        let mask = frame.mask();
        let mut taken = input.len().min(frame.remaining()).min(PIECE);
        let piece = &mut input[..taken];
        if let Some((key, phase)) = mask {
            unmask(piece, key, phase);
        }
        let mut written = 0;
        let (mut text, mut binary) = (TextBuffer::default(), Vec::new());
        if taken > 0 {
            let mut rest = &piece[usize::from(self.extension.given == Given::Ahead)..];
            let mut buffer = pool.take_for(STEP);
            let inflater = self.extension.inflater(pool);
            written = if message.text {
                text = TextBuffer::with_buffer(buffer);
                let cut = &message.cut[..usize::from(message.cut_len)];
                let inflated = text
                    .push(cut, None)
                    .and_then(|()| text.push_with(STEP, |room| inflater.inflate(&mut rest, room)))
                    .map_err(|InvalidUtf8| ProtocolError::InvalidUtf8)?;
                let (cut, cut_len) = text.take_cut();
                (message.cut, message.cut_len) = (cut, cut_len as u8);
                inflated
            } else {
                buffer.resize(STEP, 0);
                let inflated = inflater.inflate(&mut rest, &mut buffer);
                buffer.truncate(inflated);
                binary = buffer;
                inflated
            };
            inflater.check()?;
            taken -= rest.len();
            if written == STEP && taken > 0 {
                self.extension.given = Given::Ahead;
                taken -= 1;
            }
            pool.note_inflated(written);
        }
        if let Some((key, phase)) = mask {
            unmask(&mut piece[taken..], key, phase + taken);
        }
        let _read = input.split_off_mut(..taken);
        frame.received += taken as u32;
        message.len += written as u64;
        if message.len > max_message {
            return Err(ProtocolError::MessageTooLong);
        }

        let complete = frame.remaining() == 0;
        let last = complete && frame.fin;
        if last {
            self.extension.finish(pool)?;
            if message.cut_len > 0 {
                // RFC 6455 8.1: a text must not end inside a character.
                return Err(ProtocolError::InvalidUtf8);
            }
        }
        let has_payload = !text.is_empty() || !binary.is_empty();
        let payload = if message.text {
            let text = CompleteText::new(text).map_err(|InvalidUtf8| ProtocolError::InvalidUtf8)?;
            Payload::InflatedText(text)
        } else {
            Payload::InflatedBinary(binary)
        };
        let part = Part { first: !message.begun, last, payload };
        message.begun |= has_payload;
        self.reading = if complete { Reading::NEXT_FRAME } else { Reading::Payload(frame) };
        self.message = (!last).then(|| Assembly::of_streamed(message));
        if has_payload || last {
            return Ok(Step::Part(part));
        }
        part.recycle(pool);
        Ok(if complete || taken > 0 { Step::Skipped } else { Step::Incomplete })
    }
}

impl Streamed {
    /// Bytes that its cut character still needs, going by the first one.
    fn missing(&self) -> usize {
        let character_len = match self.cut[0] {
            0xf0.. => 4,
            0xe0.. => 3,
            _ => 2,
        };
        character_len - usize::from(self.cut_len)
    }

    /// Adds bytes to the cut character: at most those that are missing.
    fn complete<'b>(&mut self, piece: &[u8]) -> Result<Payload<'b>, ProtocolError> {
        let start = usize::from(self.cut_len);
        let len = start + piece.len();
        let mut bytes = [0; 4];
        bytes[..start].copy_from_slice(&self.cut[..start]);
        bytes[start..len].copy_from_slice(piece);
        match std::str::from_utf8(&bytes[..len]) {
            Ok(_) => {
                self.cut_len = 0;
                Ok(Payload::Character { bytes, len: len as u8 })
            }
            Err(error) if error.error_len().is_some() => Err(ProtocolError::InvalidUtf8),
            Err(_) => {
                // Still incomplete, so there are at most three.
                self.cut[..len].copy_from_slice(&bytes[..len]);
                self.cut_len = len as u8;
                Ok(Payload::Text(""))
            }
        }
    }
}

#[cfg(test)]
mod tests;
