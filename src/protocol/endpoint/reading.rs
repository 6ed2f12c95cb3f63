//! The long way of [`Endpoint::receive`]: any frame, cut anywhere (RFC 6455 5.2 to 5.5).
//!
//! Comes in: what the usual case did not take. Goes out: events, or the first rule that was
//! broken. This never looks at a byte twice, and never at one behind a Close or a broken rule.
//!
//! ```text
//!        Header ----> Payload ----> event, or on to the next header
//!           ^  14 bytes  |   in place if the frame is whole and no message is in progress,
//!           |  at most   |   else appended to the message (message/assembly.rs)
//!           +------------+
//! ```

use super::{Endpoint, Event, Role};
use crate::protocol::close::{CloseCode, CloseFrame};
use crate::protocol::error::ProtocolError;
use crate::protocol::frame::{
    FirstByte, FrameHeader, MAX_HEADER_LEN, Opcode, RSV1, RSV2, RSV3, SecondByte,
};
use crate::protocol::message::{
    Assembled, Assembly, BufferPool, CompleteText, ReceivedBytes, ReceivedText,
};
use crate::simd::{InvalidUtf8, check_text, unmask, unmask_text};

/// What the next received byte is.
pub(super) enum Reading {
    /// A byte of a header, of which `bytes[..len]` came before.
    Header { bytes: [u8; MAX_HEADER_LEN], len: u8 },
    /// A byte of this frame's payload.
    Payload(Frame),
    /// Of no interest: the peer closed, or broke a rule, or is gone.
    Nothing,
}

impl Reading {
    pub(super) const NEXT_FRAME: Self = Self::Header { bytes: [0; MAX_HEADER_LEN], len: 0 };
}

/// A frame whose header was accepted. Invariant: `received <= payload_len`.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub(super) fin: bool,
    pub(super) opcode: Opcode,
    masking_key: Option<[u8; 4]>,
    payload_len: u32,
    pub(super) received: u32,
}

impl Frame {
    pub(super) fn remaining(&self) -> usize {
        (self.payload_len - self.received) as usize
    }

    /// The masking key and where the next piece begins, for the kernels.
    pub(super) fn mask(&self) -> Option<([u8; 4], usize)> {
        self.masking_key.map(|key| (key, self.received as usize))
    }
}

/// What a piece of payload led to.
pub(super) enum Progress<'b> {
    Event(Event<'b>),
    /// The frame is complete, its message is not.
    Fragment,
    /// The input is used up inside the frame.
    Incomplete,
}

impl Endpoint {
    /// Every case, the usual one included.
    #[inline(never)]
    pub(super) fn receive_any<'b>(
        &mut self,
        input: &mut &'b mut [u8],
        pool: &mut BufferPool,
    ) -> Result<Option<Event<'b>>, ProtocolError> {
        if let Some((opcode, payload)) = self.take_unmasked(input) {
            return match opcode {
                Opcode::Binary => Ok(Some(Event::Binary(ReceivedBytes::InPlace(payload)))),
                _ => match check_text(payload) {
                    Ok(text) => Ok(Some(Event::Text(ReceivedText::InPlace(text)))),
                    Err(InvalidUtf8) => Err(self.refuse(ProtocolError::InvalidUtf8, input, pool)),
                },
            };
        }
        let event = match self.read_frames(input, pool) {
            Ok(event) => event,
            Err(error) => return Err(self.refuse(error, input, pool)),
        };
        if !self.lifecycle.reads() {
            self.release(pool);
        }
        self.note_state();
        Ok(event)
    }

    /// The usual case of a client: FIN, Text or Binary, not masked, below 64 KiB, whole, between
    /// two messages. Takes the frame and gives its payload where it lies.
    #[inline]
    fn take_unmasked<'b>(&self, input: &mut &'b mut [u8]) -> Option<(Opcode, &'b mut [u8])> {
        let (first, header_len, payload_len) = match **input {
            [first @ (0x81 | 0x82), len @ 0..=125, ..] => (first, 2, u16::from(len)),
            [first @ (0x81 | 0x82), 126, high, low, ..] => {
                let payload_len = u16::from_be_bytes([high, low]);
                // RFC 6455 5.2: what fits the shorter form must use it.
                if payload_len <= 125 {
                    return None;
                }
                (first, 4, payload_len)
            }
            _ => return None,
        };
        let usual = matches!(self.role, Role::Client(_))
            && self.lifecycle.is_open()
            && self.message.is_none()
            && matches!(self.reading, Reading::Header { len: 0, .. })
            && u32::from(payload_len) <= self.max_frame;
        if !usual {
            return None;
        }
        let frame = input.split_off_mut(..header_len + usize::from(payload_len))?;
        let opcode = if first == 0x81 { Opcode::Text } else { Opcode::Binary };
        Some((opcode, &mut frame[header_len..]))
    }

    /// The peer broke a rule: nothing that it sent behind is looked at.
    #[cold]
    pub(crate) fn refuse(
        &mut self,
        error: ProtocolError,
        input: &mut &mut [u8],
        pool: &mut BufferPool,
    ) -> ProtocolError {
        self.lifecycle.fail(error);
        self.release(pool);
        *input = &mut [];
        error
    }

    /// Reads frames up to the next event that is to be handed out.
    fn read_frames<'b>(
        &mut self,
        input: &mut &'b mut [u8],
        pool: &mut BufferPool,
    ) -> Result<Option<Event<'b>>, ProtocolError> {
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
            match self.read_payload(frame, input, pool)? {
                Progress::Event(event @ Event::Close(_)) => return Ok(Some(event)),
                Progress::Event(event) if self.lifecycle.delivers() => return Ok(Some(event)),
                Progress::Event(ignored) => ignored.recycle(pool),
                Progress::Fragment => {}
                Progress::Incomplete => return Ok(None),
            }
        }
    }

    /// Reads a header, or keeps the bytes that have arrived of it and gives `None`.
    pub(super) fn read_header(
        &mut self,
        input: &mut &mut [u8],
    ) -> Result<Option<Frame>, ProtocolError> {
        let Reading::Header { mut bytes, len } = self.reading else { return Ok(None) };
        let kept = usize::from(len);
        let first_byte = if kept == 0 { input.first().copied() } else { Some(bytes[0]) };
        let decoded = if kept == 0 {
            self.decode_header(input)?
        } else {
            let more = input.len().min(MAX_HEADER_LEN - kept);
            bytes[kept..kept + more].copy_from_slice(&input[..more]);
            self.decode_header(&bytes[..kept + more])?
        };
        match decoded {
            Some((frame, header_len)) => {
                // The bytes kept were too few for this header, so it ends inside `input`.
                let _header = input.split_off_mut(..header_len - kept);
                if !frame.opcode.is_control() {
                    let first = frame.opcode != Opcode::Continuation;
                    self.fragments = if first { 1 } else { self.fragments + 1 };
                    if first {
                        // RFC 7692 6: the first frame says it for the whole message.
                        self.extension.inflating = first_byte.is_some_and(|byte| byte & RSV1 != 0);
                    }
                }
                Ok(Some(frame))
            }
            None => {
                // No header has more than 14 bytes, so all of `input` belongs to this one.
                let more = input.len();
                bytes[kept..kept + more].copy_from_slice(input);
                *input = &mut [];
                self.reading = Reading::Header { bytes, len: (kept + more) as u8 };
                Ok(None)
            }
        }
    }

    /// Judges a header in the order of its bytes, so that the verdict does not depend on how many
    /// of them are there; `None` if none of them is bad and some are missing.
    fn decode_header(&self, bytes: &[u8]) -> Result<Option<(Frame, usize)>, ProtocolError> {
        let Some(&byte) = bytes.first() else { return Ok(None) };
        let reserved = match byte & 0x0F {
            // RFC 7692 6: RSV1 marks a compressed message, on its first frame.
            0x1 | 0x2 if self.extension.is_on() => RSV2 | RSV3,
            // RFC 6455 5.2: a bit that no extension gave a meaning must be 0.
            _ => RSV1 | RSV2 | RSV3,
        };
        let first = FirstByte::decode(byte, reserved)?;
        self.check_order(first.opcode)?;

        let Some(&byte) = bytes.get(1) else { return Ok(None) };
        let second = SecondByte::decode(byte, first)?;
        match (&self.role, second.masked) {
            // RFC 6455 5.1: a server must close upon a frame that is not masked, a client upon
            // one that is.
            (Role::Server, false) => return Err(ProtocolError::UnmaskedFrame),
            (Role::Client(_), true) => return Err(ProtocolError::MaskedFrame),
            (Role::Server, true) | (Role::Client(_), false) => {}
        }

        let Some(len) = second.payload_len(bytes)? else { return Ok(None) };
        let payload_len = self.check_payload_len(first, len)?;
        let Some((header, header_len)) = FrameHeader::complete(first, second, len, bytes) else {
            return Ok(None);
        };
        let FrameHeader { fin, opcode, masking_key, .. } = header;
        Ok(Some((Frame { fin, opcode, masking_key, payload_len, received: 0 }, header_len)))
    }

    fn check_order(&self, opcode: Opcode) -> Result<(), ProtocolError> {
        match (opcode, &self.message) {
            // RFC 6455 5.4: fragments follow each other; only control frames come in between.
            (Opcode::Continuation, None) => Err(ProtocolError::UnexpectedContinuation),
            (Opcode::Text | Opcode::Binary, Some(_)) => Err(ProtocolError::ExpectedContinuation),
            (Opcode::Continuation, Some(_)) if self.fragments >= self.max_fragments => {
                Err(ProtocolError::TooManyFragments)
            }
            _ => Ok(()),
        }
    }

    /// Gives the length back in the smaller type that the limits allow for.
    fn check_payload_len(&self, first: FirstByte, len: u64) -> Result<u32, ProtocolError> {
        let payload_len = u32::try_from(len).map_err(|_| ProtocolError::FrameTooLong)?;
        if first.opcode.is_control() {
            return Ok(payload_len);
        }
        if first.rsv1 || (first.opcode == Opcode::Continuation && self.extension.inflating) {
            // The limit of the message is for what comes out, and what does not shrink may have
            // grown by an eighth.
            let slack = if self.max_frame < self.max_message { 0 } else { self.max_frame / 8 + 64 };
            return match len <= u64::from(self.max_frame) + u64::from(slack) {
                true => Ok(payload_len),
                false => Err(ProtocolError::FrameTooLong),
            };
        }
        if payload_len > self.max_frame {
            return Err(ProtocolError::FrameTooLong);
        }
        let so_far = self.message.as_ref().map_or(0, Assembly::len);
        match len.checked_add(so_far as u64) {
            Some(sum) if sum <= u64::from(self.max_message) => Ok(payload_len),
            _ => Err(ProtocolError::MessageTooLong),
        }
    }

    /// Reads what has arrived of a payload.
    pub(super) fn read_payload<'b>(
        &mut self,
        mut frame: Frame,
        input: &mut &'b mut [u8],
        pool: &mut BufferPool,
    ) -> Result<Progress<'b>, ProtocolError> {
        let remaining = frame.remaining();
        let arrived = input.len().min(remaining);
        let piece = input.split_off_mut(..arrived).unwrap_or_default();
        let complete = arrived == remaining;
        if !self.lifecycle.delivers() && !frame.opcode.is_control() {
            return Ok(self.skip_payload(frame, arrived));
        }
        if self.extension.inflating && !frame.opcode.is_control() {
            return self.inflate_payload(frame, piece, complete, pool);
        }
        if complete && frame.received == 0 {
            // The frame lies whole in the input.
            if frame.opcode.is_control() {
                self.reading = Reading::NEXT_FRAME;
                unmask_whole(piece, frame.masking_key);
                return self.control_event(frame.opcode, ReceivedBytes::InPlace(piece));
            }
            if frame.fin && self.message.is_none() {
                self.reading = Reading::NEXT_FRAME;
                return message_in_place(frame, piece).map(Progress::Event);
            }
        }
        if arrived > 0 || complete {
            if frame.opcode.is_control() {
                self.append_control(frame, piece);
            } else {
                let message = self.message.get_or_insert_with(|| match frame.opcode {
                    Opcode::Text => Assembly::text(),
                    _ => Assembly::binary(),
                });
                message
                    .append(piece, frame.mask(), remaining, pool)
                    .map_err(|InvalidUtf8| ProtocolError::InvalidUtf8)?;
            }
        }
        if !complete {
            frame.received += arrived as u32;
            self.reading = Reading::Payload(frame);
            return Ok(Progress::Incomplete);
        }
        self.reading = Reading::NEXT_FRAME;
        if frame.opcode.is_control() {
            let payload = self.control.take().unwrap_or_else(|| Box::new([0; _]));
            let payload = payload[..frame.payload_len as usize].to_vec();
            return self.control_event(frame.opcode, ReceivedBytes::Assembled(payload));
        }
        match self.message.take() {
            Some(message) if frame.fin => match message.finish() {
                Ok(Assembled::Text(text)) => {
                    Ok(Progress::Event(Event::Text(ReceivedText::Assembled(text))))
                }
                Ok(Assembled::Binary(bytes)) => {
                    Ok(Progress::Event(Event::Binary(ReceivedBytes::Assembled(bytes))))
                }
                Err(InvalidUtf8) => Err(ProtocolError::InvalidUtf8),
            },
            unfinished => {
                self.message = unfinished;
                Ok(Progress::Fragment)
            }
        }
    }

    /// Passes over what has arrived of a payload. RFC 6455 5.5.1: who sent a Close need not process
    /// what comes after it; but where frames and messages begin and end still matters, because the
    /// peer's Close is among them.
    #[cold]
    fn skip_payload<'b>(&mut self, mut frame: Frame, arrived: usize) -> Progress<'b> {
        frame.received += arrived as u32;
        let complete = frame.remaining() == 0;
        self.message = (!complete || !frame.fin).then(Assembly::binary);
        if !complete {
            self.reading = Reading::Payload(frame);
            return Progress::Incomplete;
        }
        self.reading = Reading::NEXT_FRAME;
        Progress::Fragment
    }

    /// Keeps a piece of a control frame, which has at most 125 bytes.
    #[cold]
    fn append_control(&mut self, frame: Frame, piece: &mut [u8]) {
        let control = self.control.get_or_insert_with(|| Box::new([0; _]));
        if let Some((key, phase)) = frame.mask() {
            unmask(piece, key, phase);
        }
        let start = frame.received as usize;
        control[start..start + piece.len()].copy_from_slice(piece);
    }

    /// A control frame is complete and unmasked.
    fn control_event<'b>(
        &mut self,
        opcode: Opcode,
        payload: ReceivedBytes<'b>,
    ) -> Result<Progress<'b>, ProtocolError> {
        let event = match opcode {
            Opcode::Ping => Event::Ping(payload),
            Opcode::Pong => Event::Pong(payload),
            _ => {
                let body = close_body(payload)?;
                self.lifecycle.receive_close(body.as_ref().map(|(code, _)| *code));
                Event::Close(body)
            }
        };
        Ok(Progress::Event(event))
    }
}

fn unmask_whole(payload: &mut [u8], masking_key: Option<[u8; 4]>) {
    if let Some(key) = masking_key {
        unmask(payload, key, 0);
    }
}

/// A message of one frame that lies whole in the input.
fn message_in_place(frame: Frame, payload: &mut [u8]) -> Result<Event<'_>, ProtocolError> {
    if frame.opcode == Opcode::Text {
        // The key of an unmasked frame is zero: nothing changes.
        let key = frame.masking_key.unwrap_or_default();
        let text = unmask_text(payload, key).map_err(|InvalidUtf8| ProtocolError::InvalidUtf8)?;
        return Ok(Event::Text(ReceivedText::InPlace(text)));
    }
    unmask_whole(payload, frame.masking_key);
    Ok(Event::Binary(ReceivedBytes::InPlace(payload)))
}

/// Reads the body of a Close.
fn close_body(
    payload: ReceivedBytes<'_>,
) -> Result<Option<(CloseCode, ReceivedText<'_>)>, ProtocolError> {
    let (code, reason) = match payload {
        ReceivedBytes::InPlace(body) => match CloseFrame::decode(body)? {
            Some(CloseFrame { code, reason }) => (code, ReceivedText::InPlace(reason)),
            None => return Ok(None),
        },
        ReceivedBytes::Assembled(body) => match CloseFrame::decode(&body)? {
            Some(CloseFrame { code, reason }) => {
                let reason = CompleteText::copied(reason)
                    .map_err(|InvalidUtf8| ProtocolError::InvalidUtf8)?;
                (code, ReceivedText::Assembled(reason))
            }
            None => return Ok(None),
        },
    };
    Ok(Some((code, reason)))
}
