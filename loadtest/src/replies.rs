//! What comes back: bytes of a server in, checked echoes and control frames out.
//!
//! The usual echo, one whole frame inside one read, is recognised by comparing its header and is
//! stepped over without touching its middle. Everything else (frames split between reads,
//! fragmented echoes, control frames) takes the general path. The bytes are never copied, except
//! control payloads. This never writes, and holds no clock.

use std::fmt;

use crate::batch::{Batch, MAX_HEADER};
use crate::deflate::Inflater;

/// RFC 7692 6: the first reserved bit marks a compressed message.
const RSV1: u8 = 0x40;

/// Compressed echoes of a connection that are inflated and compared; more would cost the load
/// generator what the server is measured for.
const SAMPLES: usize = 2;

/// RFC 6455 5.5: control frames carry at most 125 bytes.
const MAX_CONTROL: u64 = 125;

/// Reads the replies on one connection.
#[derive(Debug)]
pub(crate) struct ReplyReader {
    stage: Stage,
    /// Number in the batch of the echo that comes next.
    slot: usize,
    /// The echo under way, if part of it came in an earlier frame.
    in_message: bool,
    /// Payload bytes of the echo under way.
    message_len: usize,
    /// Payload of the control frame under way or just returned.
    control: Vec<u8>,
    verify: bool,
    /// Whether the echo under way is compressed (RFC 7692 6).
    compressed: bool,
    /// Of compressed echoes, so many more are inflated and compared.
    samples: usize,
    inflater: Option<Box<Inflater>>,
}

#[derive(Debug)]
enum Stage {
    Header { bytes: [u8; MAX_HEADER], have: usize },
    Data { fin: bool, remaining: u64 },
    Control { opcode: u8, remaining: usize },
}

impl Stage {
    const START: Self = Self::Header { bytes: [0; MAX_HEADER], have: 0 };
}

/// What [`ReplyReader::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The next message of the batch came back as it was sent.
    Echo,
    /// A ping; [`ReplyReader::control`] is its payload.
    Ping,
    /// A Close frame with this code, if any; [`ReplyReader::control`] is its payload.
    Close(Option<u16>),
}

/// Why a reply is no echo of what was sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WrongReply {
    Header(u8, u8),
    Opcode { expected: u8, got: u8 },
    Length { expected: usize, got: u64 },
    Content { offset: usize },
    Compressed,
}

impl fmt::Display for WrongReply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(first, second) => {
                write!(formatter, "frame header {first:#04x} {second:#04x} breaks RFC 6455 5.2")
            }
            Self::Opcode { expected, got } => {
                write!(formatter, "opcode {got:#x} came back instead of {expected:#x}")
            }
            Self::Length { expected, got } => {
                write!(formatter, "{got} bytes came back instead of {expected}")
            }
            Self::Compressed => {
                write!(formatter, "a compressed message did not inflate to what was sent")
            }
            Self::Content { offset } => write!(formatter, "byte {offset} came back changed"),
        }
    }
}

impl ReplyReader {
    /// Awaits the first message of a batch. With `verify`, every byte is compared; without, the
    /// length and both ends. Of compressed messages the first few are inflated and compared, with
    /// `verify` all.
    pub(crate) fn new(verify: bool) -> Self {
        let control = Vec::new();
        Self {
            stage: Stage::START,
            slot: 0,
            in_message: false,
            message_len: 0,
            control,
            verify,
            compressed: false,
            samples: if verify { usize::MAX } else { SAMPLES },
            inflater: None,
        }
    }

    /// Takes bytes from the front of `input` up to the end of the next echo or control frame;
    /// `None` once all were taken.
    ///
    /// # Errors
    ///
    /// The reply is not the echo that must come next. The reader is of no use after that.
    pub(crate) fn next(
        &mut self,
        input: &mut &[u8],
        batch: &Batch,
    ) -> Result<Option<Reply>, WrongReply> {
        loop {
            match &mut self.stage {
                Stage::Header { bytes, have } => {
                    if *have == 0 && !self.in_message && !batch.is_deflated() {
                        let header = batch.reply_header();
                        let whole = header.len() + batch.size();
                        if input.len() >= whole && input.starts_with(header) {
                            let (frame, rest) = input.split_at(whole);
                            *input = rest;
                            self.check(0, &frame[header.len()..], batch)?;
                            return Ok(Some(self.finish_message(batch)));
                        }
                    }
                    let Some((&byte, rest)) = input.split_first() else { return Ok(None) };
                    *input = rest;
                    bytes[*have] = byte;
                    *have += 1;
                    if let Some(payload_len) = payload_len(&bytes[..*have], batch.is_deflated())? {
                        let first = bytes[0];
                        self.stage = self.enter(first, payload_len, batch)?;
                    }
                }
                Stage::Data { remaining: 0, fin } => {
                    let fin = *fin;
                    self.stage = Stage::START;
                    if fin {
                        if self.compressed {
                            self.finish_compressed(batch)?;
                        } else {
                            debug_assert_eq!(self.message_len, batch.size());
                        }
                        return Ok(Some(self.finish_message(batch)));
                    }
                }
                Stage::Data { remaining, .. } => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let take =
                        usize::try_from(*remaining).map_or(input.len(), |n| n.min(input.len()));
                    *remaining -= take as u64;
                    let (piece, rest) = input.split_at(take);
                    *input = rest;
                    let offset = self.message_len;
                    self.message_len += take;
                    if self.compressed {
                        self.sample(piece, batch)?;
                    } else {
                        self.check(offset, piece, batch)?;
                    }
                }
                Stage::Control { opcode, remaining: 0 } => {
                    let opcode = *opcode;
                    self.stage = Stage::START;
                    match opcode {
                        0x8 => return Ok(Some(Reply::Close(self.close_code()))),
                        0x9 => return Ok(Some(Reply::Ping)),
                        // RFC 6455 5.5.3: a pong may come unasked and is not answered.
                        _ => {}
                    }
                }
                Stage::Control { remaining, .. } => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let (piece, rest) = input.split_at(input.len().min(*remaining));
                    *remaining -= piece.len();
                    *input = rest;
                    self.control.extend_from_slice(piece);
                }
            }
        }
    }

    /// Payload of the control frame that [`ReplyReader::next`] returned last.
    pub(crate) fn control(&self) -> &[u8] {
        &self.control
    }

    fn enter(&mut self, first: u8, payload_len: u64, batch: &Batch) -> Result<Stage, WrongReply> {
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
        if opcode & 0x8 != 0 {
            self.control.clear();
            // The length is at most 125, which was checked with the header.
            return Ok(Stage::Control { opcode, remaining: payload_len as usize });
        }
        // RFC 6455 5.4: the first frame has the opcode of the message, the others have 0.
        let expected = if self.in_message { 0 } else { batch.opcode() };
        if opcode != expected {
            return Err(WrongReply::Opcode { expected, got: opcode });
        }
        let rsv1 = first & RSV1 != 0;
        if self.in_message && rsv1 {
            // RFC 7692 6.1: only the first frame of a message has the bit.
            return Err(WrongReply::Header(first, 0));
        }
        self.compressed = rsv1 || (self.in_message && self.compressed);
        if self.compressed {
            self.in_message = true;
            return Ok(Stage::Data { fin, remaining: payload_len });
        }
        let got = payload_len.saturating_add(self.message_len as u64);
        let expected = batch.size() as u64;
        if got > expected || (fin && got < expected) {
            return Err(WrongReply::Length { expected: batch.size(), got });
        }
        self.in_message = true;
        Ok(Stage::Data { fin, remaining: payload_len })
    }

    /// Compares a piece of the echo that starts `offset` bytes into its payload. The caller made
    /// sure that it ends within the payload.
    fn check(&self, offset: usize, piece: &[u8], batch: &Batch) -> Result<(), WrongReply> {
        let expected = &batch.payload(self.slot)[offset..offset + piece.len()];
        if self.verify {
            if expected == piece {
                return Ok(());
            }
            let same = expected.iter().zip(piece).take_while(|(a, b)| a == b).count();
            return Err(WrongReply::Content { offset: offset + same });
        }
        if offset == 0 && expected.first() != piece.first() {
            return Err(WrongReply::Content { offset: 0 });
        }
        if offset + piece.len() == batch.size() && expected.last() != piece.last() {
            return Err(WrongReply::Content { offset: batch.size() - 1 });
        }
        Ok(())
    }

    /// Takes a piece of a compressed echo, if it is one that is looked at.
    fn sample(&mut self, piece: &[u8], batch: &Batch) -> Result<(), WrongReply> {
        if self.samples == 0 {
            return Ok(());
        }
        let inflater = self.inflater.get_or_insert_with(|| Box::new(Inflater::new()));
        if inflater.add(piece, batch.size()) { Ok(()) } else { Err(WrongReply::Compressed) }
    }

    fn finish_compressed(&mut self, batch: &Batch) -> Result<(), WrongReply> {
        self.compressed = false;
        if self.samples == 0 {
            return Ok(());
        }
        let inflater = self.inflater.get_or_insert_with(|| Box::new(Inflater::new()));
        if inflater.finish(batch.size()).as_deref() != Some(batch.payload(self.slot)) {
            return Err(WrongReply::Compressed);
        }
        self.samples -= 1;
        if self.samples == 0 {
            // The window of the inflater is not kept for a thousand connections.
            self.inflater = None;
        }
        Ok(())
    }

    fn finish_message(&mut self, batch: &Batch) -> Reply {
        self.in_message = false;
        self.message_len = 0;
        self.slot = if self.slot + 1 == batch.depth() { 0 } else { self.slot + 1 };
        Reply::Echo
    }

    /// RFC 6455 5.5.1: the first two bytes of a Close frame's payload are the close code.
    fn close_code(&self) -> Option<u16> {
        let code = self.control.first_chunk()?;
        Some(u16::from_be_bytes(*code))
    }
}

/// The payload length, once the header is complete.
fn payload_len(header: &[u8], deflated: bool) -> Result<Option<u64>, WrongReply> {
    let &[first, second, ref extended @ ..] = header else { return Ok(None) };
    let (is_control, fin) = (first & 0x08 != 0, first & 0x80 != 0);
    // RFC 6455 5.2, 5.1: no extension gave the reserved bits a meaning; servers do not mask.
    // RFC 6455 5.2, 5.5: opcodes 3-7 and 11-15 are reserved; control frames come whole and short.
    // RFC 7692 6: with permessage-deflate, RSV1 marks a compressed message.
    let reserved_bits = if deflated && !is_control { 0x70 & !RSV1 } else { 0x70 };
    let reserved = first & reserved_bits != 0 || matches!(first & 0x0f, 0x3..=0x7 | 0xb..);
    let masked = second & 0x80 != 0;
    let bad_control = is_control && (!fin || u64::from(second & 0x7f) > MAX_CONTROL);
    if reserved || masked || bad_control {
        return Err(WrongReply::Header(first, second));
    }
    Ok(match second {
        126 => extended.first_chunk().map(|len| u64::from(u16::from_be_bytes(*len))),
        127 => extended.first_chunk().map(|len| u64::from_be_bytes(*len)),
        short => Some(u64::from(short)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Content, Wire};

    const KEY: [u8; 4] = [1, 2, 3, 4];

    /// An unmasked frame with the shortest length form.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            len @ 0..126 => bytes.push(len as u8),
            len => {
                bytes.push(126);
                bytes.extend_from_slice(&(len as u16).to_be_bytes());
            }
        }
        bytes.extend_from_slice(payload);
        bytes
    }

    /// Feeds the pieces one after another.
    fn read_all(batch: &Batch, pieces: &[&[u8]]) -> Result<Vec<Reply>, WrongReply> {
        let mut reader = ReplyReader::new(true);
        let mut replies = Vec::new();
        for piece in pieces {
            let mut input = *piece;
            while let Some(reply) = reader.next(&mut input, batch)? {
                if reply == Reply::Ping {
                    assert_eq!(reader.control(), b"are you there");
                }
                replies.push(reply);
            }
            assert!(input.is_empty());
        }
        Ok(replies)
    }

    #[test]
    fn any_split_gives_the_same_replies() {
        for size in [0, 1, 2, 30, 125, 126, 200] {
            let batch = Batch::new(Content::Ascii, size, 2, KEY);
            let (head, tail) = batch.payload(1).split_at(size / 2);
            let mut stream = frame(0x81, batch.payload(0));
            stream.extend(frame(0x89, b"are you there"));
            stream.extend(frame(0x01, head));
            stream.extend(frame(0x8a, b"pong"));
            stream.extend(frame(0x00, b""));
            stream.extend(frame(0x80, tail));
            stream.extend(frame(0x81, batch.payload(0)));
            stream.extend(frame(0x88, &1001_u16.to_be_bytes()));
            let expected =
                [Reply::Echo, Reply::Ping, Reply::Echo, Reply::Echo, Reply::Close(Some(1001))];

            let whole = read_all(&batch, &[&stream]).unwrap();
            assert_eq!(whole, expected, "size {size}");
            for cut in 0..stream.len() {
                let (left, right) = stream.split_at(cut);
                assert_eq!(read_all(&batch, &[left, right]).unwrap(), expected, "{size} {cut}");
            }
            let bytes: Vec<&[u8]> = stream.chunks(1).collect();
            assert_eq!(read_all(&batch, &bytes).unwrap(), expected, "size {size}, byte by byte");
        }
    }

    #[test]
    fn long_lengths_are_read() {
        let batch = Batch::new(Content::Binary, 70_000, 1, KEY);
        let mut stream = vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70];
        stream.extend_from_slice(batch.payload(0));
        for step in [1000, 4096, stream.len()] {
            let pieces: Vec<&[u8]> = stream.chunks(step).collect();
            assert_eq!(read_all(&batch, &pieces).unwrap(), [Reply::Echo]);
        }
    }

    #[test]
    fn wrong_replies_are_noticed() {
        let batch = Batch::new(Content::Ascii, 10, 2, KEY);
        let wrong = |bytes: &[u8]| read_all(&batch, &[bytes]).unwrap_err();
        assert_eq!(wrong(&frame(0x81, &[b'!'; 9])), WrongReply::Length { expected: 10, got: 9 });
        assert_eq!(wrong(&frame(0x81, &[b'!'; 11])), WrongReply::Length { expected: 10, got: 11 });
        let opcode = WrongReply::Opcode { expected: 1, got: 2 };
        assert_eq!(wrong(&frame(0x82, batch.payload(0))), opcode);
        assert_eq!(wrong(&frame(0x80, b"")), WrongReply::Opcode { expected: 1, got: 0 });
        let mut changed = batch.payload(0).to_vec();
        changed[4] ^= 1;
        assert_eq!(wrong(&frame(0x81, &changed)), WrongReply::Content { offset: 4 });
        // The messages of a batch differ at both ends, so one that was skipped is noticed.
        let mut reader = ReplyReader::new(false);
        let skipped = frame(0x81, batch.payload(1));
        assert_eq!(
            reader.next(&mut skipped.as_slice(), &batch),
            Err(WrongReply::Content { offset: 0 })
        );
        let mut reader = ReplyReader::new(false);
        let mut cut = batch.payload(0).to_vec();
        cut[9] = b'?';
        assert_eq!(
            reader.next(&mut frame(0x81, &cut).as_slice(), &batch),
            Err(WrongReply::Content { offset: 9 })
        );
    }

    #[test]
    fn broken_headers_are_noticed() {
        let batch = Batch::new(Content::Ascii, 10, 1, KEY);
        for header in [[0xc1, 10], [0x81, 0x8a], [0x83, 0], [0x8b, 0], [0x09, 0], [0x89, 126]] {
            let error = read_all(&batch, &[&header]).unwrap_err();
            assert_eq!(error, WrongReply::Header(header[0], header[1]));
        }
    }

    #[test]
    fn compressed_echoes_are_sampled() {
        let batch = Batch::prepare(Content::Json, 500, 2, Wire::Deflated(KEY));
        let reply = |slot: usize| frame(0xc1, &crate::deflate::compress(batch.payload(slot)));
        let mut reader = ReplyReader::new(false);
        for slot in [0, 1, 0, 1] {
            let bytes = reply(slot);
            for piece in bytes.chunks(7) {
                let mut piece = piece;
                let last = reader.next(&mut piece, &batch).unwrap();
                assert!(piece.is_empty() && matches!(last, None | Some(Reply::Echo)));
            }
            assert!(!reader.in_message);
        }
        assert!(reader.inflater.is_none());
        // Not compressed is allowed as well, and compared in the usual way.
        let plain = frame(0x81, batch.payload(0));
        assert_eq!(reader.next(&mut plain.as_slice(), &batch), Ok(Some(Reply::Echo)));
        // Another message in the place of the first.
        let wrong = ReplyReader::new(false).next(&mut reply(1).as_slice(), &batch);
        assert_eq!(wrong, Err(WrongReply::Compressed));
        let unasked = Batch::new(Content::Json, 500, 2, KEY);
        let refused = ReplyReader::new(false).next(&mut reply(0).as_slice(), &unasked);
        assert!(matches!(refused, Err(WrongReply::Header(..))));
    }
}
