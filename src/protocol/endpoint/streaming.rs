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
mod tests {
    use super::*;
    use crate::protocol::Limits;
    use crate::protocol::frame::encode_header;
    use proptest::prelude::*;

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    fn frame(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        let mut bytes = encode_header(fin, false, opcode, payload.len() as u64, Some(KEY)).to_vec();
        let start = bytes.len();
        bytes.extend_from_slice(payload);
        unmask(&mut bytes[start..], KEY, 0);
        bytes
    }

    /// A message as it came: kind, payload, and the sizes of its parts.
    #[derive(Debug, PartialEq, Eq, Clone, Default)]
    struct Whole {
        text: bool,
        payload: Vec<u8>,
        parts: usize,
        complete: bool,
    }

    struct Reader {
        endpoint: Endpoint,
        pool: BufferPool,
        max_message: u64,
        messages: Vec<Whole>,
        control: Vec<String>,
    }

    impl Reader {
        fn new(limits: Limits, max_message: u64) -> Self {
            Self {
                endpoint: Endpoint::server(limits),
                pool: BufferPool::new(0),
                max_message,
                messages: Vec::new(),
                control: Vec::new(),
            }
        }

        fn read(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
            let mut bytes = bytes.to_vec();
            let mut input = &mut bytes[..];
            while let Some(received) =
                self.endpoint.receive_part(&mut input, self.max_message, &mut self.pool)?
            {
                match received {
                    Received::Part(part) => {
                        if part.first {
                            assert!(self.messages.iter().all(|message| message.complete));
                            self.messages.push(Whole::default());
                        }
                        let message = self.messages.last_mut().expect("the first part came first");
                        assert!(!message.complete, "a part behind the last one");
                        assert!(part.last || !part.payload().is_empty());
                        message.text = part.payload().is_text();
                        message.payload.extend_from_slice(part.payload().payload());
                        message.parts += 1;
                        message.complete = part.last;
                    }
                    Received::Control(event) => self.control.push(format!("{event:?}")),
                }
            }
            assert_eq!(self.endpoint.buffered(), 0, "a stream holds no memory");
            Ok(())
        }
    }

    fn generous() -> Reader {
        Reader::new(Limits::new(), u64::MAX)
    }

    #[test]
    fn a_frame_comes_in_the_pieces_in_which_it_arrives() {
        let mut reader = generous();
        let bytes = frame(true, Opcode::Binary, &[7; 1000]);
        reader.read(&bytes[..500]).expect("correct");
        assert_eq!(reader.messages[0].parts, 1);
        assert!(!reader.messages[0].complete);
        reader.read(&bytes[500..]).expect("correct");
        assert_eq!((reader.messages[0].parts, reader.messages[0].payload.len()), (2, 1000));
        assert!(reader.messages[0].complete);
    }

    #[test]
    fn empty_messages_have_one_part_and_empty_fragments_none() {
        let mut reader = generous();
        reader.read(&frame(true, Opcode::Text, b"")).expect("correct");
        let bytes = [
            frame(false, Opcode::Text, b""),
            frame(false, Opcode::Continuation, b""),
            frame(false, Opcode::Continuation, b"a"),
            frame(false, Opcode::Continuation, b""),
            frame(true, Opcode::Continuation, b""),
        ];
        reader.read(&bytes.concat()).expect("correct");
        let parts: Vec<_> = reader.messages.iter().map(|message| message.parts).collect();
        assert_eq!(parts, [1, 2]);
        assert_eq!(reader.messages[1].payload, b"a");
    }

    #[test]
    fn control_frames_come_in_between() {
        let mut reader = generous();
        let bytes = [
            frame(false, Opcode::Text, b"gr\xc3"),
            frame(true, Opcode::Ping, b"!"),
            frame(true, Opcode::Continuation, b"\xbcn"),
            frame(true, Opcode::Close, b""),
            frame(true, Opcode::Text, b"ignored"),
        ];
        reader.read(&bytes.concat()).expect("correct");
        assert_eq!(reader.messages.len(), 1);
        assert_eq!(reader.messages[0].payload, "grün".as_bytes());
        assert_eq!(reader.control.len(), 2);
    }

    #[test]
    fn rules_hold_in_the_middle_of_a_message() {
        let begun = frame(false, Opcode::Text, b"a\xe2");
        let cases = [
            (frame(true, Opcode::Text, b""), ProtocolError::ExpectedContinuation),
            (frame(true, Opcode::Continuation, b""), ProtocolError::InvalidUtf8),
            (frame(false, Opcode::Continuation, b"\xff"), ProtocolError::InvalidUtf8),
            (frame(true, Opcode::Continuation, b"\x82"), ProtocolError::InvalidUtf8),
            (b"\x80\x00".to_vec(), ProtocolError::UnmaskedFrame),
        ];
        for (bytes, error) in cases {
            let mut reader = generous();
            reader.read(&begun).expect("correct");
            assert_eq!(reader.read(&bytes), Err(error));
            reader.read(&frame(true, Opcode::Text, b"more")).expect("swallowed");
            assert_eq!(reader.messages.len(), 1);
        }
        let mut reader = generous();
        let unexpected = reader.read(&frame(true, Opcode::Continuation, b""));
        assert_eq!(unexpected, Err(ProtocolError::UnexpectedContinuation));
    }

    #[test]
    fn the_limit_of_a_message_is_that_of_the_caller() {
        // The frame may be as large as it likes, the message may not.
        let mut reader = Reader::new(Limits::new(), 10);
        reader.read(&frame(false, Opcode::Binary, &[1; 6])).expect("correct");
        reader.read(&frame(false, Opcode::Continuation, &[1; 4])).expect("correct");
        let header = &frame(true, Opcode::Continuation, &[1; 1])[..6];
        assert_eq!(reader.read(header), Err(ProtocolError::MessageTooLong));

        let mut reader = Reader::new(Limits::new().max_frame(5), u64::MAX);
        reader.read(&frame(true, Opcode::Binary, &[1; 5])).expect("correct");
        assert_eq!(
            reader.read(&frame(true, Opcode::Binary, &[1; 6])),
            Err(ProtocolError::FrameTooLong)
        );
    }

    #[test]
    fn messages_after_our_close_are_passed_over() {
        let mut reader = generous();
        reader.read(&frame(false, Opcode::Text, b"begun")).expect("correct");
        reader.endpoint.close(None, "", &mut Vec::new());
        reader.read(&frame(true, Opcode::Continuation, b"unseen")).expect("correct");
        reader.read(&frame(true, Opcode::Text, b"\xff")).expect("nobody looks at it");
        assert_eq!(reader.messages[0].payload, b"begun");
        assert_eq!(
            reader.read(&frame(true, Opcode::Continuation, b"")),
            Err(ProtocolError::UnexpectedContinuation)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 4 } else { 300 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// Whatever the fragments and however the bytes are cut, the message is the same.
        #[test]
        fn any_cut_gives_the_same_message(
            text in "[a-c\u{80}-\u{90}\u{7ff}\u{800}\u{ffff}\u{10000}\u{10ffff}]{0,60}",
            is_text: bool,
            fragments in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let payload = text.as_bytes();
            let kind = if is_text { Opcode::Text } else { Opcode::Binary };
            let mut ends: Vec<usize> =
                fragments.iter().map(|index| index.index(payload.len() + 1)).collect();
            ends.push(payload.len());
            ends.sort_unstable();
            let (mut bytes, mut start) = (Vec::new(), 0);
            for (nth, &end) in ends.iter().enumerate() {
                let opcode = if nth == 0 { kind } else { Opcode::Continuation };
                bytes.extend(frame(nth + 1 == ends.len(), opcode, &payload[start..end]));
                start = end;
            }
            let mut cuts: Vec<usize> =
                cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut reader = generous();
            for cut in cuts.windows(2) {
                prop_assert_eq!(reader.read(&bytes[cut[0]..cut[1]]), Ok(()));
            }
            prop_assert_eq!(reader.messages.len(), 1);
            let message = &reader.messages[0];
            prop_assert_eq!(&message.payload, payload);
            prop_assert!(message.complete && message.text == is_text);
        }
    }

    #[cfg(feature = "deflate")]
    mod compressed {
        use super::*;
        use crate::protocol::{Deflate, DeflateParameters};
        use flate2::{Compress, Compression, FlushCompress};

        fn deflated(compress: &mut Compress, payload: &[u8]) -> Vec<u8> {
            let mut out = Vec::with_capacity(2 * payload.len() + 100);
            compress.compress_vec(payload, &mut out, FlushCompress::Sync).expect("compresses");
            out.truncate(out.len() - 4);
            out
        }

        fn compress() -> Compress {
            Compress::new(Compression::new(6), false)
        }

        fn with_rsv1(mut frame: Vec<u8>) -> Vec<u8> {
            frame[0] |= 0x40;
            frame
        }

        fn reader(max_message: u64, takeover: bool) -> Reader {
            let mut reader = Reader::new(Limits::new(), max_message);
            let agreed = DeflateParameters {
                server_no_context_takeover: true,
                client_no_context_takeover: !takeover,
                server_max_window_bits: 15,
                client_max_window_bits: 15,
            };
            let endpoint = Endpoint::server(Limits::new());
            reader.endpoint = endpoint.with_deflate(Deflate::shared(), agreed);
            reader
        }

        #[test]
        fn a_bomb_comes_in_small_parts_and_ends_at_the_limit() {
            let zeros = vec![0; 1 << 20];
            let bytes = with_rsv1(frame(true, Opcode::Binary, &deflated(&mut compress(), &zeros)));
            for pieces in [1, 100, bytes.len()] {
                let mut reader = reader(1 << 20, false);
                for piece in bytes.chunks(pieces) {
                    assert_eq!(reader.read(piece), Ok(()));
                }
                let message = &reader.messages[0];
                assert!(message.complete && message.payload == zeros);
                assert!(message.parts >= 64, "{} parts", message.parts);
            }
            let mut reader = reader((1 << 20) - 1, false);
            assert_eq!(reader.read(&bytes), Err(ProtocolError::MessageTooLong));
        }

        #[test]
        fn a_pause_between_parts_loses_nothing() {
            let zeros = vec![0; 200_000];
            let bytes = with_rsv1(frame(true, Opcode::Binary, &deflated(&mut compress(), &zeros)));
            let mut reader = reader(u64::MAX, false);
            // What is left of the input after each part is all that goes on from there.
            let mut rest = bytes;
            let mut len = 0;
            let mut last = false;
            while !rest.is_empty() {
                let mut input = &mut rest[..];
                let received = reader.endpoint.receive_part(&mut input, u64::MAX, &mut reader.pool);
                let left = input.to_vec();
                if let Ok(Some(Received::Part(part))) = received {
                    len += part.payload().len();
                    last |= part.last;
                }
                rest = left;
            }
            assert_eq!((len, last), (zeros.len(), true));
        }

        #[test]
        fn text_is_checked_and_never_cut_inside_a_character() {
            let text = "grün, straße, 🦀; ".repeat(5000);
            let payload = deflated(&mut compress(), text.as_bytes());
            let (head, tail) = payload.split_at(payload.len() / 2);
            let bytes = [
                with_rsv1(frame(false, Opcode::Text, head)),
                frame(true, Opcode::Ping, b"x"),
                frame(true, Opcode::Continuation, tail),
            ]
            .concat();
            for pieces in [1, 37, bytes.len()] {
                let mut reader = reader(u64::MAX, true);
                for piece in bytes.chunks(pieces) {
                    assert_eq!(reader.read(piece), Ok(()));
                }
                assert_eq!(reader.messages[0].payload, text.as_bytes());
                assert_eq!(reader.control.len(), 1);
            }
            for bad in [&b"gr\xc3"[..], b"\xff", b"\xed\xa0\x80"] {
                let payload = deflated(&mut compress(), bad);
                let bytes = with_rsv1(frame(true, Opcode::Text, &payload));
                assert_eq!(reader(u64::MAX, true).read(&bytes), Err(ProtocolError::InvalidUtf8));
            }
        }

        proptest! {
            #![proptest_config(ProptestConfig::with_cases(64))]

            #[test]
            fn any_cut_gives_the_same_messages(
                payloads in prop::collection::vec((prop::collection::vec(0..3_u8, 0..40_000), 1..200_usize), 1..4),
                piece in 1..500_usize,
                takeover: bool,
            ) {
                let mut compress = compress();
                let mut bytes = Vec::new();
                for (payload, fragment) in &payloads {
                    if !takeover {
                        compress.reset();
                    }
                    let deflated = deflated(&mut compress, payload);
                    let count = deflated.chunks(*fragment).count();
                    for (index, part) in deflated.chunks(*fragment).enumerate() {
                        let fin = index + 1 == count;
                        bytes.extend(match index {
                            0 => with_rsv1(frame(fin, Opcode::Binary, part)),
                            _ => frame(fin, Opcode::Continuation, part),
                        });
                    }
                }
                let mut reader = reader(u64::MAX, takeover);
                for piece in bytes.chunks(piece) {
                    prop_assert_eq!(reader.read(piece), Ok(()));
                }
                prop_assert_eq!(reader.messages.len(), payloads.len());
                for (message, (payload, _)) in reader.messages.iter().zip(&payloads) {
                    prop_assert!(message.complete);
                    prop_assert_eq!(&message.payload, payload);
                }
            }
        }
    }
}
