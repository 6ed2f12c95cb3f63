//! Messages in parts: whatever the pieces of the input, the parts make up what was sent.

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
