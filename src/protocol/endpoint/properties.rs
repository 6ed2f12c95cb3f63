//! Properties: any cut gives the same events, a naive reading of RFC 6455 agrees, and nothing
//! panics. Small limits, so that they are met often.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::tests::{Seen, feed};
use super::*;

const LIMITS: Limits = Limits::new().max_frame(200).max_message(300).max_fragments(5);

/// RFC 6455 5 to 8 as one would write it down first: the whole stream at once, a copy of
/// everything, one byte at a time.
///
/// With `closed` our own Close went out before: payloads of messages do not matter, and nothing but
/// the peer's Close is handed out.
fn naive(stream: &[u8], limits: &Limits, closed: bool) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut at = 0;
    let mut message: Option<(bool, Vec<u8>, u32)> = None;
    let result = (|| -> Option<ProtocolError> {
        loop {
            let mut next = |count: usize| {
                let bytes = stream.get(at..at + count)?;
                at += count;
                Some(bytes.to_vec())
            };
            let first = next(1)?[0];
            let (fin, opcode) = (first & 0x80 != 0, first & 0x0F);
            if first & 0x70 != 0 {
                return Some(ProtocolError::ReservedBits);
            }
            if ![0, 1, 2, 8, 9, 10].contains(&opcode) {
                return Some(ProtocolError::ReservedOpcode(opcode));
            }
            if opcode >= 8 && !fin {
                return Some(ProtocolError::FragmentedControlFrame);
            }
            match &message {
                None if opcode == 0 => return Some(ProtocolError::UnexpectedContinuation),
                Some(_) if opcode == 1 || opcode == 2 => {
                    return Some(ProtocolError::ExpectedContinuation);
                }
                Some((_, _, count)) if opcode == 0 && *count == limits.fragments() => {
                    return Some(ProtocolError::TooManyFragments);
                }
                _ => {}
            }
            let second = next(1)?[0];
            if opcode >= 8 && second & 0x7F > 125 {
                return Some(ProtocolError::ControlFrameTooLong);
            }
            if second & 0x80 == 0 {
                return Some(ProtocolError::UnmaskedFrame);
            }
            let (count, least) = match second & 0x7F {
                126 => (2, 126),
                127 => (8, 65_536),
                _ => (0, 0),
            };
            let extended = next(count)?;
            let mut len = extended.iter().fold(0, |len, byte| len << 8 | u128::from(*byte));
            if count == 0 {
                len = u128::from(second & 0x7F);
            }
            if len >> 63 != 0 {
                return Some(ProtocolError::LengthTopBitSet);
            }
            if len < least {
                return Some(ProtocolError::LengthNotMinimal);
            }
            let so_far = message.as_ref().map_or(0, |(_, bytes, _)| bytes.len());
            if opcode < 8 && len > u128::from(limits.frame()) {
                return Some(ProtocolError::FrameTooLong);
            }
            if opcode < 8 && len + so_far as u128 > u128::from(limits.message()) {
                return Some(ProtocolError::MessageTooLong);
            }
            let key = next(4)?;
            let arrived = (stream.len() - at).min(len as usize);
            let mut payload = stream[at..at + arrived].to_vec();
            at += arrived;
            for (i, byte) in payload.iter_mut().enumerate() {
                *byte ^= key[i % 4];
            }
            let complete = arrived == len as usize;
            if opcode < 8 {
                let (is_text, bytes, count) = message.get_or_insert((opcode == 1, Vec::new(), 0));
                if !closed {
                    bytes.extend(payload);
                }
                *count += 1;
                if *is_text
                    && let Err(error) = std::str::from_utf8(bytes)
                    && (error.error_len().is_some() || (complete && fin))
                {
                    return Some(ProtocolError::InvalidUtf8);
                }
                if complete && fin {
                    let (is_text, bytes, _) = message.take()?;
                    seen.push(match String::from_utf8(bytes) {
                        Ok(text) if is_text => Seen::Text(text),
                        Ok(text) => Seen::Binary(text.into_bytes()),
                        Err(error) => Seen::Binary(error.into_bytes()),
                    });
                }
            } else if complete {
                match opcode {
                    9 => seen.push(Seen::Ping(payload)),
                    10 => seen.push(Seen::Pong(payload)),
                    _ if payload.is_empty() => {
                        seen.push(Seen::Close(None));
                        return None;
                    }
                    _ if payload.len() == 1 => return Some(ProtocolError::CloseBodyTooShort),
                    _ => {
                        let code = u16::from_be_bytes([payload[0], payload[1]]);
                        if !(1000..5000).contains(&code)
                            || [1004, 1005, 1006].contains(&code)
                            || (1015..3000).contains(&code)
                        {
                            return Some(ProtocolError::ForbiddenCloseCode(code));
                        }
                        let Ok(reason) = String::from_utf8(payload[2..].to_vec()) else {
                            return Some(ProtocolError::InvalidUtf8);
                        };
                        seen.push(Seen::Close(Some((code, reason))));
                        return None;
                    }
                }
            }
            if !complete {
                return None;
            }
        }
    })();
    seen.extend(result.map(Seen::Failed));
    if closed {
        seen.retain(|seen| matches!(seen, Seen::Close(_) | Seen::Failed(_)));
    }
    seen
}

/// A frame, usually a legal one, in usually the shortest form.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        12 => select(vec![0x81, 0x82, 0x01, 0x02, 0x00, 0x00, 0x80, 0x80, 0x80, 0x89, 0x8A]),
        1 => Just(0x88),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        6 => "[a-zé€😀]{0,40}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..20),
        1 => vec(Just(b'x'), 100..210),
        1 => (select(vec![1000_u16, 1001, 1005, 3000, 5000]), "[é]{0,3}")
            .prop_map(|(code, reason)| [&code.to_be_bytes()[..], reason.as_bytes()].concat()),
    ];
    let form = prop_oneof![30 => Just(0), 1 => Just(2_usize), 1 => Just(8)];
    let cut_front = prop_oneof![5 => Just(0_usize), 1 => Just(1)];
    (first, payload, any::<[u8; 4]>(), form, cut_front, prop::bool::weighted(0.98)).prop_map(
        |(first, payload, key, form, cut_front, masked)| {
            // Without its first byte a text often begins inside a character.
            let payload = payload.get(cut_front..).unwrap_or_default();
            let mut bytes =
                encode_header(true, false, Opcode::Text, payload.len() as u64, Some(key)).to_vec();
            bytes[0] = first;
            if form > 0 {
                let len = (payload.len() as u64).to_be_bytes();
                let length = if form == 2 { 0xFE } else { 0xFF };
                bytes = [&[first, length][..], &len[8 - form..], &key].concat();
            }
            bytes[1] &= if masked { 0xFF } else { 0x7F };
            bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
            bytes
        },
    )
}

/// The same of a server: not masked, or hardly ever.
fn any_frame_of_a_server() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        20 => select(vec![0x81, 0x82, 0x81, 0x82, 0x01, 0x00, 0x80, 0x89]),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        6 => "[a-zé€😀]{0,60}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..20),
        1 => vec(Just(b'x'), 100..210),
    ];
    let form = prop_oneof![30 => Just(0), 1 => Just(2_usize), 1 => Just(8)];
    (first, payload, form, prop::bool::weighted(0.02)).prop_map(|(first, payload, form, masked)| {
        let len = payload.len() as u64;
        let mut bytes = encode_header(true, false, Opcode::Text, len, None).to_vec();
        bytes[0] = first;
        if form > 0 {
            let length = if form == 2 { 126 } else { 127 };
            bytes = [&[first, length][..], &len.to_be_bytes()[8 - form..]].concat();
        }
        bytes[1] |= if masked { 0x80 } else { 0 };
        bytes.extend(payload);
        bytes
    })
}

fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let frames = vec(any_frame(), 0..12).prop_map(|frames| frames.concat());
    // Sometimes the end is missing.
    (frames, prop_oneof![3 => Just(0), 1 => 0..40_usize]).prop_map(|(mut stream, missing)| {
        stream.truncate(stream.len().saturating_sub(missing));
        stream
    })
}

/// What the endpoint sees if the stream arrives in pieces of the given lengths, over and over.
/// After each piece the promise about memory is checked.
fn in_pieces(endpoint: &mut Endpoint, stream: &[u8], lens: &[usize]) -> Vec<Seen> {
    let mut pool = BufferPool::new(1024 * 1024);
    let mut seen = Vec::new();
    let (mut rest, mut received) = (stream, 0);
    for len in lens.iter().cycle() {
        let (piece, behind) = rest.split_at((*len).min(rest.len()));
        rest = behind;
        received += piece.len();
        seen.extend(feed(endpoint, piece, &mut pool));
        assert!(endpoint.buffered() <= 2 * received + 64 * 1024);
        if rest.is_empty() {
            break;
        }
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_cut_gives_what_a_naive_reading_gives(
        stream in any_stream(),
        lens in vec(1..50_usize, 1..6),
    ) {
        let expected = naive(&stream, &LIMITS, false);
        for lens in [&[usize::MAX][..], &[1], &lens] {
            prop_assert_eq!(&in_pieces(&mut Endpoint::server(LIMITS), &stream, lens), &expected);
        }
    }

    #[test]
    fn a_client_sees_the_same_in_any_cut(
        frames in vec(any_frame_of_a_server(), 0..12),
        lens in vec(1..50_usize, 1..6),
    ) {
        let stream = frames.concat();
        let client = || Endpoint::client(LIMITS, Box::new(|| [1, 2, 3, 4]));
        // Byte by byte no frame is ever whole in the input.
        let expected = in_pieces(&mut client(), &stream, &[1]);
        for lens in [&[usize::MAX][..], &lens] {
            prop_assert_eq!(&in_pieces(&mut client(), &stream, lens), &expected);
        }
    }

    #[test]
    fn after_our_close_headers_count_and_only_the_close_is_seen(
        stream in any_stream(),
        lens in vec(1..50_usize, 1..6),
    ) {
        let expected = naive(&stream, &LIMITS, true);
        let mut endpoint = Endpoint::server(LIMITS);
        prop_assert!(endpoint.close(None, "", &mut Vec::new()));
        prop_assert_eq!(in_pieces(&mut endpoint, &stream, &lens), expected);
    }

    #[test]
    fn random_bytes_never_panic(
        stream in vec(any::<u8>(), 0..100),
        lens in vec(1..20_usize, 1..6),
    ) {
        prop_assert_eq!(
            in_pieces(&mut Endpoint::server(LIMITS), &stream, &lens),
            naive(&stream, &LIMITS, false)
        );
        let client = || Endpoint::client(LIMITS, Box::new(|| [0; 4]));
        prop_assert_eq!(
            in_pieces(&mut client(), &stream, &lens),
            in_pieces(&mut client(), &stream, &[usize::MAX])
        );
    }

    #[test]
    fn what_one_side_sends_the_other_receives(
        messages in vec((any::<bool>(), "[a-zé€😀]{0,60}", 0..40_usize), 1..6),
        key: [u8; 4],
        lens in vec(1..50_usize, 1..6),
        from_client: bool,
    ) {
        let client = || Endpoint::client(Limits::new(), Box::new(move || key));
        let server = || Endpoint::server(Limits::new());
        let (mut sender, mut receiver) =
            if from_client { (client(), server()) } else { (server(), client()) };
        let (mut stream, mut expected) = (Vec::new(), Vec::new());
        for (is_text, payload, fragment_len) in messages {
            let opcode = if is_text { Opcode::Text } else { Opcode::Binary };
            let bytes = payload.as_bytes();
            if fragment_len == 0 {
                let message =
                    if is_text { Message::Text(&payload) } else { Message::Binary(bytes) };
                prop_assert_eq!(sender.send(message, &mut stream), Ok(()));
            } else {
                let pieces: Vec<&[u8]> = bytes.chunks(fragment_len).collect();
                for (i, piece) in pieces.iter().enumerate() {
                    let opcode = if i == 0 { opcode } else { Opcode::Continuation };
                    let fin = i + 1 == pieces.len();
                    prop_assert_eq!(sender.send_fragment(opcode, fin, piece, &mut stream), Ok(()));
                }
                if pieces.is_empty() {
                    prop_assert_eq!(sender.send_fragment(opcode, true, b"", &mut stream), Ok(()));
                }
            }
            expected.push(if is_text {
                Seen::Text(payload)
            } else {
                Seen::Binary(payload.into_bytes())
            });
        }
        prop_assert_eq!(in_pieces(&mut receiver, &stream, &lens), expected);
    }
}
