//! Known answers: one test per rule, whole and byte by byte.

use super::*;
use ProtocolError::InvalidUtf8;
use ProtocolError::*;

const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// An event, owned, so that runs can be compared.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
    Failed(ProtocolError),
}

impl From<&Event<'_>> for Seen {
    fn from(event: &Event<'_>) -> Self {
        match event {
            Event::Text(text) => Self::Text(text.as_str().to_owned()),
            Event::Binary(bytes) => Self::Binary(bytes.as_slice().to_vec()),
            Event::Ping(bytes) => Self::Ping(bytes.as_slice().to_vec()),
            Event::Pong(bytes) => Self::Pong(bytes.as_slice().to_vec()),
            Event::Close(body) => {
                let owned = |(code, reason): &(CloseCode, ReceivedText<'_>)| {
                    (code.get(), reason.as_str().to_owned())
                };
                Self::Close(body.as_ref().map(owned))
            }
        }
    }
}

/// Gives one piece of input to the endpoint and everything that came of it.
pub(super) fn feed(endpoint: &mut Endpoint, piece: &[u8], pool: &mut BufferPool) -> Vec<Seen> {
    let mut bytes = piece.to_vec();
    let mut input = &mut bytes[..];
    let mut seen = Vec::new();
    loop {
        match endpoint.receive(&mut input, pool) {
            Ok(Some(event)) => {
                seen.push(Seen::from(&event));
                event.recycle(pool);
            }
            Ok(None) => break,
            Err(error) => {
                seen.push(Seen::Failed(error));
                assert_eq!(endpoint.state(), State::Failed(error));
            }
        }
    }
    assert!(input.is_empty(), "input must be used up");
    seen
}

/// A masked frame with the shortest length; `first` is the whole first byte.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame =
        encode_header(true, false, Opcode::Text, payload.len() as u64, Some(KEY)).to_vec();
    frame[0] = first;
    frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// What a server with these limits sees, checked to be the same for the whole input, for each
/// single byte, and for pieces of seven.
fn seen_with(limits: Limits, input: &[u8]) -> Vec<Seen> {
    let mut pool = BufferPool::new(1024 * 1024);
    let whole = feed(&mut Endpoint::server(limits), input, &mut pool);
    for len in [1, 7] {
        let mut endpoint = Endpoint::server(limits);
        let pieces = input.chunks(len).flat_map(|piece| feed(&mut endpoint, piece, &mut pool));
        assert_eq!(pieces.collect::<Vec<_>>(), whole, "in pieces of {len}");
    }
    whole
}

fn seen(input: &[u8]) -> Vec<Seen> {
    seen_with(Limits::new(), input)
}

fn text(text: &str) -> Seen {
    Seen::Text(text.to_owned())
}

fn failed(error: ProtocolError) -> Vec<Seen> {
    vec![Seen::Failed(error)]
}

#[test]
fn an_endpoint_is_small_and_holds_no_heap_memory_while_idle() {
    assert!(size_of::<Endpoint>() <= 128, "{} bytes", size_of::<Endpoint>());
    assert!(size_of::<Result<Option<Event<'_>>, ProtocolError>>() <= 48);
    fn may_move_between_threads<T: Send>() {}
    may_move_between_threads::<Endpoint>();
    let mut endpoint = Endpoint::server(Limits::new());
    let mut pool = BufferPool::new(1024 * 1024);
    assert_eq!(endpoint.buffered(), 0);
    let message = frame(0x82, &[7; 4000]);
    for piece in message.chunks(1000) {
        feed(&mut endpoint, piece, &mut pool);
    }
    feed(&mut endpoint, &frame(0x81, b"whole"), &mut pool);
    assert_eq!(endpoint.buffered(), 0);
    assert!(pool.retained() >= 4000);
}

#[test]
fn whole_messages_are_handed_out_where_they_lie() {
    for payload_len in [0, 1, 125, 126, 65_535, 65_536] {
        for first in [0x81, 0x82, 0x89] {
            if first == 0x89 && payload_len > 125 {
                continue;
            }
            let mut bytes = frame(first, &vec![b'x'; payload_len]);
            let end = bytes.as_ptr_range().end;
            let mut input = &mut bytes[..];
            let mut pool = BufferPool::new(0);
            let event = Endpoint::server(Limits::new()).receive(&mut input, &mut pool);
            let payload = match &event {
                Ok(Some(Event::Text(ReceivedText::InPlace(text)))) => text.as_bytes(),
                Ok(Some(Event::Binary(ReceivedBytes::InPlace(bytes)))) => bytes,
                Ok(Some(Event::Ping(ReceivedBytes::InPlace(bytes)))) => bytes,
                other => panic!("unexpected {other:?}"),
            };
            assert_eq!(payload, vec![b'x'; payload_len]);
            assert_eq!(payload.as_ptr_range().end, end);
        }
    }
}

#[test]
fn a_frame_whose_header_was_torn_off_is_still_handed_out_in_place() {
    let bytes = frame(0x81, b"Hello");
    for cut in 1..=6 {
        let mut endpoint = Endpoint::server(Limits::new());
        let mut pool = BufferPool::new(0);
        assert_eq!(feed(&mut endpoint, &bytes[..cut], &mut pool), []);
        assert_eq!(endpoint.buffered(), 0);
        let mut rest = bytes[cut..].to_vec();
        let event = endpoint.receive(&mut &mut rest[..], &mut pool);
        assert!(matches!(event, Ok(Some(Event::Text(ReceivedText::InPlace("Hello"))))));
    }
}

#[test]
fn an_event_does_not_borrow_the_endpoint() {
    let mut bytes = [frame(0x81, b"one"), frame(0x82, b"two")].concat();
    let mut input = &mut bytes[..];
    let mut pool = BufferPool::new(0);
    let mut endpoint = Endpoint::server(Limits::new());
    let one = endpoint.receive(&mut input, &mut pool);
    let two = endpoint.receive(&mut input, &mut pool);
    let mut out = Vec::new();
    if let (Ok(Some(Event::Text(one))), Ok(Some(Event::Binary(two)))) = (one, two) {
        assert_eq!(endpoint.send(Message::Text(one.as_str()), &mut out), Ok(()));
        assert_eq!(endpoint.send(Message::Binary(two.as_slice()), &mut out), Ok(()));
    }
    assert_eq!(out, b"\x81\x03one\x82\x03two");
}

#[test]
fn many_messages_in_one_input_come_in_order() {
    let input: Vec<u8> =
        (0..300).flat_map(|i: u32| frame(0x81, i.to_string().as_bytes())).collect();
    let expected: Vec<Seen> = (0..300).map(|i| text(&i.to_string())).collect();
    assert_eq!(seen(&input), expected);
    assert_eq!(
        seen(&[frame(0x81, b""), frame(0x82, b"")].concat()),
        [text(""), Seen::Binary(vec![])]
    );
}

// 5.1, 5.2: the header.

#[test]
fn an_unmasked_frame_fails_at_its_second_byte() {
    assert_eq!(seen(b"\x81\x05Hello"), failed(UnmaskedFrame));
    assert_eq!(seen(b"\x81\x05"), failed(UnmaskedFrame));
    assert_eq!(seen(b"\x81\x7f"), failed(UnmaskedFrame));
    assert_eq!(seen(b"\x89\x00"), failed(UnmaskedFrame));
    assert_eq!(seen(b"\x81"), []);
}

#[test]
fn a_masked_frame_from_a_server_fails_at_its_second_byte() {
    let mut client = Endpoint::client(Limits::new(), Box::new(|| KEY));
    let mut pool = BufferPool::new(0);
    assert_eq!(feed(&mut client, b"\x81\x80", &mut pool), failed(MaskedFrame));
    let mut client = Endpoint::client(Limits::new(), Box::new(|| KEY));
    let input = b"\x81\x05Hello\x82\x01\xff\x89\x00\x88\x00";
    let expected = [text("Hello"), Seen::Binary(vec![0xFF]), Seen::Ping(vec![]), Seen::Close(None)];
    assert_eq!(feed(&mut client, input, &mut pool), expected);
}

#[test]
fn a_bad_first_byte_fails_alone() {
    for byte in 0..=u8::MAX {
        let expected = match (byte & 0x70, byte & 0x0F, byte & 0x80) {
            (1.., _, _) => failed(ReservedBits),
            (0, opcode @ (3..=7 | 0xB..), _) => failed(ReservedOpcode(opcode)),
            (0, 8.., 0) => failed(FragmentedControlFrame),
            (0, 0, _) => failed(UnexpectedContinuation),
            _ => vec![],
        };
        assert_eq!(seen(&[byte]), expected, "{byte:#04x}");
    }
    // The letter G of a second HTTP request: RSV1 and a reserved opcode.
    assert_eq!(seen(b"GET / HTTP/1.1\r\n\r\n"), failed(ReservedBits));
}

#[test]
fn an_unknown_opcode_is_refused_before_its_length_is_read() {
    assert_eq!(seen(&[0x83, 0xFF]), failed(ReservedOpcode(3)));
    assert_eq!(seen(&[0x8B, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF]), failed(ReservedOpcode(0xB)));
}

#[test]
fn a_first_byte_is_judged_before_the_second() {
    // Both bytes are bad: whatever the cut, the first one decides.
    assert_eq!(seen(&[0x80, 0x05]), failed(UnexpectedContinuation));
    assert_eq!(seen(&[0xC1, 0x05]), failed(ReservedBits));
    let inside = [frame(0x01, b"a"), vec![0x81, 0x05]].concat();
    assert_eq!(seen(&inside), failed(ExpectedContinuation));
}

#[test]
fn rsv1_is_refused_on_every_kind_of_frame() {
    for first in [0xC1, 0xC2, 0xC8, 0xC9, 0xCA] {
        assert_eq!(seen(&frame(first, b"")), failed(ReservedBits));
    }
    let continuation = [frame(0x01, b"a"), frame(0xC0, b"b")].concat();
    assert_eq!(seen(&continuation), failed(ReservedBits));
}

#[test]
fn lengths_of_64_bits_fail_without_overflow() {
    let header = |len: u64| [&[0x82, 0xFF][..], &len.to_be_bytes()].concat();
    assert_eq!(seen(&header(u64::MAX)), failed(LengthTopBitSet));
    assert_eq!(seen(&header(1 << 63)), failed(LengthTopBitSet));
    assert_eq!(seen(&header((1 << 63) - 1)), failed(FrameTooLong));
    assert_eq!(seen(&header((1 << 32) + 5)), failed(FrameTooLong));
    assert_eq!(seen(&header(65_535)), failed(LengthNotMinimal));
    assert_eq!(seen(&header(5)), failed(LengthNotMinimal));
    assert_eq!(seen(&[0x81, 0xFE, 0x00, 0x7D]), failed(LengthNotMinimal));
}

#[test]
fn a_message_of_exactly_the_limit_passes() {
    for limit in [0_u32, 1, 125, 126, 1000, 65_535, 65_536] {
        for limits in [Limits::new().max_message(limit), Limits::new().max_frame(limit)] {
            let most = vec![b'x'; limit as usize];
            assert_eq!(seen_with(limits, &frame(0x82, &most)), [Seen::Binary(most.clone())]);
            let header_of_more = &frame(0x82, &vec![b'x'; limit as usize + 1])[..];
            let header_len = header_of_more.len() - limit as usize - 1;
            // The masking key has not even arrived.
            let header = &header_of_more[..header_len - 4];
            assert_eq!(seen_with(limits, header), failed(FrameTooLong), "limit {limit}");
        }
    }
}

// 5.4: fragments.

#[test]
fn fragments_become_one_message_with_control_frames_in_between() {
    let input = [
        frame(0x01, b"Hel"),
        frame(0x89, b"ping"),
        frame(0x00, b""),
        frame(0x00, b"lo, "),
        frame(0x8A, b""),
        frame(0x80, b"world"),
        frame(0x02, b""),
        frame(0x80, b""),
    ]
    .concat();
    let expected = [
        Seen::Ping(b"ping".to_vec()),
        Seen::Pong(vec![]),
        text("Hello, world"),
        Seen::Binary(vec![]),
    ];
    assert_eq!(seen(&input), expected);
}

#[test]
fn fragments_out_of_order_fail_at_the_first_byte() {
    assert_eq!(seen(&[0x80]), failed(UnexpectedContinuation));
    assert_eq!(seen(&[0x00]), failed(UnexpectedContinuation));
    for second in [0x81, 0x82, 0x01, 0x02] {
        let input = [frame(0x01, b"a"), vec![second]].concat();
        assert_eq!(seen(&input), failed(ExpectedContinuation));
    }
    let after_the_last = [frame(0x01, b"a"), frame(0x80, b"b"), vec![0x80]].concat();
    assert_eq!(seen(&after_the_last), [text("ab"), Seen::Failed(UnexpectedContinuation)]);
}

#[test]
fn fragments_are_counted() {
    let limits = Limits::new().max_fragments(3);
    let empty = |count: usize| {
        [frame(0x01, b""), frame(0x00, b"").repeat(count - 2), frame(0x80, b"")].concat()
    };
    assert_eq!(seen_with(limits, &empty(3).repeat(2)), [text(""), text("")]);
    assert_eq!(seen_with(limits, &empty(4)), failed(TooManyFragments));
    // Found at the first byte of the fragment that is one too many.
    let cut = [frame(0x02, b""), frame(0x00, b"").repeat(2), vec![0x80]].concat();
    assert_eq!(seen_with(limits, &cut), failed(TooManyFragments));
    assert_eq!(seen(&empty(65_536)), [text("")]);
    assert_eq!(seen(&empty(65_537)), failed(TooManyFragments));
}

#[test]
fn fragments_over_the_limit_in_sum_fail_at_the_header() {
    let limits = Limits::new().max_message(10);
    let fits = [frame(0x02, b"12345"), frame(0x80, b"67890")].concat();
    assert_eq!(seen_with(limits, &fits), [Seen::Binary(b"1234567890".to_vec())]);
    let over = [frame(0x02, b"12345"), vec![0x00, 0x80 | 6]].concat();
    assert_eq!(seen_with(limits, &over), failed(MessageTooLong));
    let limits = Limits::new().max_message(u32::MAX);
    let huge = [&frame(0x02, b"1")[..], &[0x80, 0xFF], &0x7FFF_FFFF_u64.to_be_bytes()].concat();
    assert_eq!(seen_with(limits, &huge), failed(MessageTooLong));
}

#[test]
fn an_announced_length_reserves_no_memory() {
    for first in [0x81, 0x82, 0x01, 0x02] {
        let limits = Limits::new().max_message(16 * 1024 * 1024);
        let mut endpoint = Endpoint::server(limits);
        let mut pool = BufferPool::new(1024 * 1024);
        let header = [&[first, 0xFF][..], &(16_u64 << 20).to_be_bytes(), &KEY].concat();
        assert_eq!(feed(&mut endpoint, &header, &mut pool), []);
        assert_eq!(endpoint.buffered(), 0);
        assert_eq!(feed(&mut endpoint, &[b'x' ^ KEY[0]], &mut pool), []);
        assert!((1..=64 * 1024).contains(&endpoint.buffered()), "{}", endpoint.buffered());
        // More may be there in the pool, and still a small beginning gets a small buffer.
        pool.give(Vec::with_capacity(512 * 1024));
        let mut other = Endpoint::server(limits);
        feed(&mut other, &frame(first, &[b'x'; 60])[..20], &mut pool);
        assert!(other.buffered() <= 64 * 1024);
    }
}

#[test]
fn memory_follows_the_bytes_of_many_small_fragments() {
    let mut endpoint = Endpoint::server(Limits::new());
    let mut pool = BufferPool::new(0);
    feed(&mut endpoint, &frame(0x01, b"x"), &mut pool);
    let fragment = frame(0x00, b"x");
    for received in 2..5000 {
        feed(&mut endpoint, &fragment, &mut pool);
        assert!(endpoint.buffered() <= 2 * received + 64 * 1024);
    }
    endpoint.release(&mut pool);
    assert_eq!(endpoint.buffered(), 0);
    assert_eq!(feed(&mut endpoint, &fragment, &mut pool), []);
}

// 5.5: control frames.

#[test]
fn control_frames_have_at_most_125_bytes_and_come_in_any_pieces() {
    let most = vec![b'p'; 125];
    let both = [frame(0x89, &most), frame(0x8A, &most)].concat();
    assert_eq!(seen(&both), [Seen::Ping(most.clone()), Seen::Pong(most)]);
    for first in [0x88, 0x89, 0x8A] {
        assert_eq!(seen(&[first, 0xFE]), failed(ControlFrameTooLong));
        assert_eq!(seen(&[first, 0xFF]), failed(ControlFrameTooLong));
    }
}

#[test]
fn a_torn_control_frame_keeps_as_many_bytes_as_any() {
    let mut endpoint = Endpoint::server(Limits::new());
    let mut pool = BufferPool::new(1024 * 1024);
    let ping = frame(0x89, b"0123456789");
    assert_eq!(feed(&mut endpoint, &ping[..10], &mut pool), []);
    assert_eq!(endpoint.buffered(), MAX_CONTROL_PAYLOAD);
    assert_eq!(feed(&mut endpoint, &ping[10..], &mut pool), [Seen::Ping(b"0123456789".to_vec())]);
    assert_eq!(endpoint.buffered(), 0);
    assert_eq!(pool.retained(), 0);
}

// 5.5.1, 7: closing.

#[test]
fn every_close_code_of_the_wire_passes_and_every_other_fails() {
    let allowed = (1000..=1003).chain(1007..=1014).chain([3000, 3999, 4000, 4999]);
    for code in allowed {
        let body = [&u16::to_be_bytes(code)[..], b"bye"].concat();
        assert_eq!(seen(&frame(0x88, &body)), [Seen::Close(Some((code, "bye".to_owned())))]);
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        let close = frame(0x88, &u16::to_be_bytes(code));
        assert_eq!(seen(&close), failed(ForbiddenCloseCode(code)));
    }
    assert_eq!(seen(&frame(0x88, b"")), [Seen::Close(None)]);
    assert_eq!(seen(&frame(0x88, b"\x03")), failed(CloseBodyTooShort));
    assert_eq!(seen(&frame(0x88, b"\x03\xe8\xff")), failed(InvalidUtf8));
    assert_eq!(seen(&frame(0x88, b"\x03\xe8\xe2\x82")), failed(InvalidUtf8));
}

#[test]
fn the_peers_close_is_answered_once_with_its_code_and_no_reason() {
    for (body, reply) in [(&b""[..], &b"\x88\x00"[..]), (b"\x0f\xa0see you", b"\x88\x02\x0f\xa0")] {
        let mut endpoint = Endpoint::server(Limits::new());
        let mut pool = BufferPool::new(0);
        let mut out = Vec::new();
        assert!(!endpoint.reply_close(&mut out));
        // Messages in front of the Close are delivered, nothing behind it is.
        let input = [frame(0x81, b"last"), frame(0x88, body), frame(0x81, b"no"), b"\xff".to_vec()];
        assert_eq!(feed(&mut endpoint, &input.concat(), &mut pool).len(), 2);
        assert_eq!(endpoint.state(), State::CloseReceived);
        assert_eq!(endpoint.send(Message::Text("late"), &mut out), Err(NotOpen));
        assert_eq!(endpoint.ping(b"", &mut out), Err(ControlError::NotOpen));
        assert!(endpoint.reply_close(&mut out));
        assert!(!endpoint.reply_close(&mut out));
        assert!(!endpoint.close(Some(CloseCode::NORMAL), "", &mut out));
        assert_eq!(endpoint.pong(b"", &mut out), Err(ControlError::NotOpen));
        assert_eq!(out, reply);
        assert_eq!(endpoint.state(), State::Closed);
        assert_eq!(feed(&mut endpoint, &frame(0x88, b""), &mut pool), []);
    }
}

#[test]
fn a_ping_before_the_peers_close_may_be_answered_after_it() {
    let mut endpoint = Endpoint::server(Limits::new());
    let mut out = Vec::new();
    let input = [frame(0x89, b"p"), frame(0x88, b"")].concat();
    assert_eq!(feed(&mut endpoint, &input, &mut BufferPool::new(0)).len(), 2);
    assert_eq!(endpoint.pong(b"p", &mut out), Ok(()));
    assert!(endpoint.reply_close(&mut out));
    assert_eq!(out, b"\x8a\x01p\x88\x00");
}

#[test]
fn after_our_close_only_the_peers_close_is_handed_out() {
    let mut endpoint = Endpoint::server(Limits::new());
    let mut pool = BufferPool::new(1024 * 1024);
    let mut out = Vec::new();
    feed(&mut endpoint, &frame(0x01, b"unfinished "), &mut pool);
    assert!(endpoint.close(Some(CloseCode::GOING_AWAY), "bye", &mut out));
    assert!(!endpoint.close(Some(CloseCode::NORMAL), "again", &mut out));
    assert_eq!(out, b"\x88\x05\x03\xe9bye");
    assert_eq!(endpoint.state(), State::CloseSent);
    let ignored = [
        frame(0x89, b"ping"),
        frame(0x80, b"message"),
        frame(0x82, b"x"),
        frame(0x8A, b""),
        frame(0x81, b"x"),
    ];
    for piece in ignored.concat().chunks(9) {
        assert_eq!(feed(&mut endpoint, piece, &mut pool), []);
    }
    for frame in &ignored[2..] {
        assert_eq!(feed(&mut endpoint, frame, &mut pool), []);
    }
    assert_eq!(endpoint.buffered(), 0);
    assert_eq!(feed(&mut endpoint, &frame(0x88, b"\x03\xe8"), &mut pool).len(), 1);
    assert_eq!(endpoint.state(), State::Closed);
    assert!(!endpoint.reply_close(&mut out));
}

#[test]
fn after_our_close_payloads_are_passed_over_and_memory_is_freed() {
    let client = || Endpoint::client(Limits::new(), Box::new(|| [0; 4]));
    // Not masked, for a client, and masked, for a server.
    for (mut endpoint, mask) in [(client(), 0), (Endpoint::server(Limits::new()), 0x80)] {
        let mut pool = BufferPool::new(1024 * 1024);
        let key = &[0; 4][..if mask == 0 { 0 } else { 4 }];
        let frame = |first: u8, payload: &[u8]| {
            [&[first, mask | payload.len() as u8], key, payload].concat()
        };
        assert_eq!(feed(&mut endpoint, &frame(0x01, b"begun"), &mut pool), []);
        assert!(endpoint.buffered() > 0);
        assert!(endpoint.close(None, "", &mut Vec::new()));
        assert_eq!(endpoint.buffered(), 0, "at once");
        // Neither is text checked, nor is a message too long that nobody keeps.
        let long = vec![0xFF; 1_000_000];
        let rest = [&[0x80, mask | 127][..], &1_000_000_u64.to_be_bytes(), key, &long].concat();
        for piece in rest.chunks(300_000) {
            assert_eq!(feed(&mut endpoint, piece, &mut pool), []);
            assert_eq!(endpoint.buffered(), 0);
        }
        for (first, payload) in [(0x81, &b"\xff"[..]), (0x89, b"ping"), (0x02, b""), (0x80, b"x")] {
            assert_eq!(feed(&mut endpoint, &frame(first, payload), &mut pool), []);
        }
        let close = feed(&mut endpoint, &frame(0x88, b"\x03\xe8"), &mut pool);
        assert_eq!(close, [Seen::Close(Some((1000, String::new())))]);
        assert_eq!(endpoint.state(), State::Closed);
    }
}

#[test]
fn after_our_close_the_peer_is_still_held_to_the_rules() {
    for (input, error) in [(&b"\x83"[..], ReservedOpcode(3)), (b"\x81\x00", UnmaskedFrame)] {
        let mut endpoint = Endpoint::server(Limits::new());
        let mut out = Vec::new();
        assert!(endpoint.close(None, "", &mut out));
        assert_eq!(feed(&mut endpoint, input, &mut BufferPool::new(0)), failed(error));
        assert!(!endpoint.fail(error, &mut out));
        assert_eq!(out, b"\x88\x00");
    }
}

#[test]
fn a_close_inside_a_fragmented_message_ends_it_and_frees_it() {
    let mut endpoint = Endpoint::server(Limits::new());
    let mut pool = BufferPool::new(1024 * 1024);
    let input = [frame(0x01, b"unfinished"), frame(0x88, b"\x03\xe8")].concat();
    assert_eq!(feed(&mut endpoint, &input, &mut pool), [Seen::Close(Some((1000, String::new())))]);
    assert_eq!(endpoint.buffered(), 0);
    assert!(pool.retained() > 0);
}

#[test]
fn a_failure_is_told_once_and_ends_everything() {
    let mut endpoint = Endpoint::server(Limits::new());
    let mut pool = BufferPool::new(1024 * 1024);
    let mut out = Vec::new();
    let input =
        [frame(0x81, b"first"), frame(0x01, b"unfinished"), frame(0x81, b"x"), frame(0x81, b"y")];
    let expected = [text("first"), Seen::Failed(ExpectedContinuation)];
    assert_eq!(feed(&mut endpoint, &input.concat(), &mut pool), expected);
    assert_eq!(endpoint.buffered(), 0);
    assert_eq!(feed(&mut endpoint, &frame(0x81, b"z"), &mut pool), []);
    assert_eq!(endpoint.send(Message::Text("late"), &mut out), Err(NotOpen));
    assert_eq!(endpoint.pong(b"", &mut out), Err(ControlError::NotOpen));
    assert!(endpoint.fail(ExpectedContinuation, &mut out));
    assert!(!endpoint.fail(ExpectedContinuation, &mut out));
    let reason = ExpectedContinuation.reason();
    assert_eq!(out[..4], [0x88, 2 + reason.len() as u8, 0x03, 0xEA]);
    assert_eq!(&out[4..], reason.as_bytes());
}

// 8.1: text.

#[test]
fn impossible_text_fails_whole_and_in_pieces() {
    let impossible: [&[u8]; 9] = [
        b"\xc0\xaf",         // overlong
        b"\xe0\x80\xaf",     // overlong
        b"\xf0\x80\x80\xaf", // overlong
        b"\xed\xa0\x80",     // surrogate
        b"\xf4\x90\x80\x80", // above U+10FFFF
        b"\xff",             // no such byte
        b"\x80",             // lone continuation
        b"\xce\xba\xe1\xbd", // cut short
        b"\xf0\x9f\x98",     // cut short
    ];
    for bytes in impossible {
        for padding in [0, 3, 30, 70, 500] {
            let payload = [&vec![b'a'; padding][..], bytes].concat();
            assert_eq!(seen(&frame(0x81, &payload)), failed(InvalidUtf8));
            let fragments = [frame(0x01, &payload), frame(0x80, b"")].concat();
            assert_eq!(seen(&fragments), failed(InvalidUtf8));
            // Binary is untouched, and so is the next text.
            let binary = [frame(0x82, &payload), frame(0x81, b"ok")].concat();
            assert_eq!(seen(&binary), [Seen::Binary(payload), text("ok")]);
        }
    }
}

#[test]
fn text_fails_at_the_first_impossible_byte_inside_a_frame() {
    // The rest of the frame never arrives; so in Autobahn 6.4.3 and 6.4.4.
    let whole = frame(0x81, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xf4\x90\x80\x80edited");
    let mut endpoint = Endpoint::server(Limits::new());
    let mut pool = BufferPool::new(0);
    assert_eq!(feed(&mut endpoint, &whole[..6 + 8], &mut pool), []);
    assert_eq!(feed(&mut endpoint, &whole[6 + 8..6 + 9], &mut pool), failed(InvalidUtf8));
}

#[test]
fn text_fails_at_the_first_impossible_fragment() {
    // The last fragment never arrives; so in Autobahn 6.4.1 and 6.4.2.
    assert_eq!(seen(&frame(0x01, b"\xf4\x90")), failed(InvalidUtf8));
    assert_eq!(seen(&frame(0x01, b"\xf4")), []);
}

#[test]
fn characters_may_be_cut_by_fragments() {
    let expected = "\u{feff}κόσμε\0\u{fffe}😀\u{10ffff}";
    let bytes = expected.as_bytes();
    for cut in 0..=bytes.len() {
        let input = [frame(0x01, &bytes[..cut]), frame(0x80, &bytes[cut..])].concat();
        assert_eq!(seen(&input), [text(expected)]);
    }
    let single: Vec<u8> = bytes.iter().flat_map(|byte| frame(0x00, &[*byte])).collect();
    let input = [frame(0x01, b""), single, frame(0x80, b"")].concat();
    assert_eq!(seen(&input), [text(expected)]);
}

// Sending.

#[test]
fn a_server_sends_unmasked_frames_and_a_client_masked_ones() {
    let mut out = b"kept".to_vec();
    let mut server = Endpoint::server(Limits::new());
    assert_eq!(server.send(Message::Text("Hello"), &mut out), Ok(()));
    assert_eq!(server.ping(b"p", &mut out), Ok(()));
    assert_eq!(out, b"kept\x81\x05Hello\x89\x01p");
    out.clear();
    let mut client = Endpoint::client(Limits::new(), Box::new(|| KEY));
    assert_eq!(client.send(Message::Text("Hello"), &mut out), Ok(()));
    assert!(client.close(Some(CloseCode::NORMAL), "", &mut out));
    assert_eq!(out, [frame(0x81, b"Hello"), frame(0x88, b"\x03\xe8")].concat());
}

#[test]
fn fragments_are_sent_in_order_only() {
    let mut out = Vec::new();
    let mut server = Endpoint::server(Limits::new());
    let refused = Err(NotOpen);
    assert_eq!(server.send_fragment(Opcode::Continuation, true, b"", &mut out), refused);
    assert_eq!(server.send_fragment(Opcode::Ping, true, b"", &mut out), refused);
    assert_eq!(server.send_fragment(Opcode::Text, false, b"a", &mut out), Ok(()));
    assert_eq!(server.send_fragment(Opcode::Text, true, b"", &mut out), refused);
    assert_eq!(server.send(Message::Text(""), &mut out), refused);
    assert_eq!(server.ping(b"", &mut out), Ok(()));
    assert_eq!(server.send_fragment(Opcode::Continuation, false, b"b", &mut out), Ok(()));
    assert_eq!(server.send_fragment(Opcode::Continuation, true, b"c", &mut out), Ok(()));
    assert_eq!(server.send(Message::Binary(b"d"), &mut out), Ok(()));
    assert_eq!(out, b"\x01\x01a\x89\x00\x00\x01b\x80\x01c\x82\x01d");
    assert!(server.close(None, "", &mut out));
    assert_eq!(server.send_fragment(Opcode::Text, true, b"", &mut out), refused);
}

#[test]
fn a_control_payload_over_125_bytes_is_refused() {
    let mut out = Vec::new();
    let mut server = Endpoint::server(Limits::new());
    assert_eq!(server.ping(&[0; 126], &mut out), Err(ControlError::TooLong));
    assert_eq!(server.pong(&[0; 126], &mut out), Err(ControlError::TooLong));
    assert!(out.is_empty());
    assert_eq!(server.pong(&[0; 125], &mut out), Ok(()));
    assert_eq!(out.len(), 127);
}
