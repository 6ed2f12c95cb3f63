//! Frames (RFC 6455 5 to 8), in both roles, whole and in parts.

use super::{byte, lengths, pieces};
use crate::protocol::endpoint::Received;
use crate::protocol::{
    BufferPool, CloseCode, CloseFrame, Endpoint, Event, Limits, Message, Opcode, ProtocolError,
    State, frame,
};

/// What an endpoint made of its input, owned.
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
            Event::Close(None) => Self::Close(None),
            Event::Close(Some((code, reason))) => {
                Self::Close(Some((code.get(), reason.as_str().to_owned())))
            }
        }
    }
}

/// What a run sees and answers must not depend on how its input was cut.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Run {
    pub(super) seen: Vec<Seen>,
    answers: Vec<u8>,
}

impl Run {
    /// Answers like an echo.
    fn answer(&mut self, endpoint: &mut Endpoint, seen: Seen) {
        let out = &mut self.answers;
        // After our own Close an error value says that nothing more may be sent.
        let _ = match &seen {
            Seen::Text(text) => endpoint.send(Message::Text(text), out).is_ok(),
            Seen::Binary(bytes) => endpoint.send(Message::Binary(bytes), out).is_ok(),
            Seen::Ping(bytes) => endpoint.pong(bytes, out).is_ok(),
            Seen::Pong(_) => true,
            Seen::Close(_) => endpoint.reply_close(out),
            Seen::Failed(error) => endpoint.fail(*error, out),
        };
        self.seen.push(seen);
    }
}

/// The same in every run.
const KEY: [u8; 4] = [0xA5, 0x01, 0xFF, 0x10];

fn endpoint(is_client: bool, limits: Limits) -> Endpoint {
    if is_client { Endpoint::client(limits, Box::new(|| KEY)) } else { Endpoint::server(limits) }
}

/// Flags, lengths of pieces, then frames.
pub fn frames(mut input: &[u8]) {
    let flags = byte(&mut input);
    let cuts = lengths(&mut input);
    let is_client = flags & 1 != 0;
    let limits = match flags >> 1 & 3 {
        0 => Limits::new(),
        1 => Limits::new().max_frame(200).max_message(300).max_fragments(5),
        2 => Limits::new().max_frame(70_000).max_message(140_000),
        _ => Limits::new().max_frame(1).max_message(1).max_fragments(1),
    };
    // Our own Close may come at any time.
    let close_after = if flags & 8 != 0 { Some(usize::from(flags >> 4)) } else { None };

    let whole = run(endpoint(is_client, limits), input, &[], close_after);
    let cut = run(endpoint(is_client, limits), input, &cuts, close_after);
    assert_eq!(whole, cut, "cut into {cuts:?}");
    check_answers(is_client, &whole);
    // A part that was handed out cannot be taken back by a Close of ours.
    if close_after.is_none() {
        let parts = run_in_parts(endpoint(is_client, limits), input, &cuts, &limits);
        assert_eq!(parts, whole.seen, "in parts, cut into {cuts:?}");
    }
}

pub(super) fn run(
    mut endpoint: Endpoint,
    input: &[u8],
    cuts: &[usize],
    close_after: Option<usize>,
) -> Run {
    let mut pool = BufferPool::new(1024 * 1024);
    let mut run = Run::default();
    let mut received = 0;
    let close = |endpoint: &mut Endpoint, run: &mut Run| {
        if close_after == Some(run.seen.len()) {
            endpoint.close(Some(CloseCode::NORMAL), "enough", &mut run.answers);
        }
    };
    close(&mut endpoint, &mut run);
    for piece in pieces(input, cuts) {
        received += piece.len();
        let mut bytes = piece.to_vec();
        let mut rest = &mut bytes[..];
        loop {
            let seen = match endpoint.receive(&mut rest, &mut pool) {
                Ok(None) => break,
                Ok(Some(event)) => {
                    let seen = Seen::from(&event);
                    event.recycle(&mut pool);
                    seen
                }
                Err(error) => {
                    assert_eq!(endpoint.state(), State::Failed(error));
                    Seen::Failed(error)
                }
            };
            assert!(run.seen.last().is_none_or(|last| !ends(last)), "{seen:?} after the end");
            run.answer(&mut endpoint, seen);
            close(&mut endpoint, &mut run);
        }
        assert!(rest.is_empty(), "input must be used up");
        let bound = 2 * received + 64 * 1024;
        assert!(endpoint.buffered() <= bound, "{} for {received} bytes", endpoint.buffered());
        if run.seen.last().is_some_and(ends) {
            assert_eq!(endpoint.buffered(), 0, "nothing is kept after the end");
        }
    }
    endpoint.release(&mut pool);
    assert_eq!(endpoint.buffered(), 0);
    run
}

/// Nothing follows it.
fn ends(seen: &Seen) -> bool {
    matches!(seen, Seen::Close(_) | Seen::Failed(_))
}

/// What we send is what the other side may receive: whole frames, messages and pongs as echoed, and
/// at most one Close, at the end.
fn check_answers(is_client: bool, run: &Run) {
    let mut peer = endpoint(!is_client, Limits::new().max_frame(1 << 30).max_message(1 << 30));
    let mut pool = BufferPool::new(1024 * 1024);
    let mut bytes = run.answers.clone();
    let mut rest = &mut bytes[..];
    let mut heard = Vec::new();
    while let Some(event) = peer.receive(&mut rest, &mut pool).expect("no rule is broken") {
        heard.push(Seen::from(&event));
        event.recycle(&mut pool);
    }
    assert_eq!(peer.buffered(), 0, "whole frames only");
    let closes = heard.iter().filter(|seen| matches!(seen, Seen::Close(_))).count();
    assert!(closes <= 1);
    if run.seen.last().is_some_and(ends) {
        assert_eq!(closes, 1, "whoever ends is told so");
    }
    let messages = run.seen.iter().filter_map(|seen| match seen {
        Seen::Ping(bytes) => Some(Seen::Pong(bytes.clone())),
        Seen::Text(_) | Seen::Binary(_) => Some(seen.clone()),
        _ => None,
    });
    let expected: Vec<_> = messages.take(heard.len() - closes).collect();
    assert_eq!(heard[..heard.len() - closes], expected);
}

/// The messages of a stream that is taken in parts, put together again.
pub(super) fn run_in_parts(
    mut endpoint: Endpoint,
    input: &[u8],
    cuts: &[usize],
    limits: &Limits,
) -> Vec<Seen> {
    let mut pool = BufferPool::new(1024 * 1024);
    let mut seen = Vec::new();
    let mut message: Option<Seen> = None;
    for piece in pieces(input, cuts) {
        let mut bytes = piece.to_vec();
        let mut rest = &mut bytes[..];
        loop {
            let max_message = u64::from(limits.message());
            match endpoint.receive_part(&mut rest, max_message, &mut pool) {
                Ok(None) => break,
                Ok(Some(Received::Control(event))) => {
                    let event_seen = Seen::from(&event);
                    assert!(
                        !matches!(event_seen, Seen::Text(_) | Seen::Binary(_)),
                        "no part: {event_seen:?}"
                    );
                    event.recycle(&mut pool);
                    let mut run = Run::default();
                    run.answer(&mut endpoint, event_seen);
                    seen.extend(run.seen);
                }
                Ok(Some(Received::Part(part))) => {
                    assert_eq!(part.first, message.is_none());
                    assert!(part.last || !part.payload().is_empty(), "an empty part in between");
                    let so_far = message.get_or_insert_with(|| match part.payload() {
                        Message::Text(_) => Seen::Text(String::new()),
                        Message::Binary(_) => Seen::Binary(Vec::new()),
                    });
                    match (so_far, part.payload()) {
                        (Seen::Text(so_far), Message::Text(text)) => so_far.push_str(text),
                        (Seen::Binary(so_far), Message::Binary(bytes)) => so_far.extend(bytes),
                        (so_far, payload) => panic!("{payload:?} after {so_far:?}"),
                    }
                    if part.last {
                        seen.extend(message.take());
                    }
                }
                Err(error) => seen.push(Seen::Failed(error)),
            }
        }
        assert!(rest.is_empty(), "input must be used up");
        assert!(endpoint.buffered() <= 125, "parts are not kept");
    }
    seen
}

/// A close code and a reason, or the body of a Close frame.
pub fn close_frames(input: &[u8]) {
    let body = &input[..input.len().min(125)];
    let decoded = CloseFrame::decode(body);
    let mut frame =
        frame::encode_header(true, false, Opcode::Close, body.len() as u64, None).to_vec();
    frame.extend_from_slice(body);
    let mut endpoint = endpoint(true, Limits::new());
    let mut pool = BufferPool::new(0);
    let mut rest = &mut frame[..];
    match (endpoint.receive(&mut rest, &mut pool), decoded) {
        (Ok(Some(Event::Close(None))), Ok(None)) => {}
        (Ok(Some(Event::Close(Some((code, reason))))), Ok(Some(frame))) => {
            assert_eq!((code, reason.as_str()), (frame.code, frame.reason));
            assert!(matches!(code.get(), 1000..=1003 | 1007..=1014 | 3000..=4999));
        }
        (Err(one), Err(other)) => assert_eq!(one, other),
        (event, decoded) => panic!("{event:?}, but {decoded:?}"),
    }

    // What we send is a beginning of what was given, and can be read.
    let Some((code, reason)) = input.split_at_checked(2) else { return };
    let Ok(code) = CloseCode::new(u16::from_be_bytes([code[0], code[1]])) else { return };
    let Ok(reason) = std::str::from_utf8(reason) else { return };
    let mut out = Vec::new();
    assert!(Endpoint::server(Limits::new()).close(Some(code), reason, &mut out));
    assert_eq!((out[0], usize::from(out[1])), (0x88, out.len() - 2));
    let sent = CloseFrame::decode(&out[2..]).expect("readable").expect("a code");
    assert_eq!(sent.code, code);
    assert!(reason.starts_with(sent.reason));
    let missing = reason.len() - sent.reason.len();
    assert!(missing == 0 || sent.reason.len() > 123 - 4, "cut too early: {missing} are missing");
}
