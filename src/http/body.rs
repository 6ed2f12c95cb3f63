//! Where the body of a request ends, and what is in it (RFC 9112 6, 7.1).
//!
//! Comes in: the bytes behind a head, in pieces of any size. Goes out: slices of these bytes that
//! belong to the body, and its end; or the reason why it cannot be one. It never keeps a byte of
//! the body, never trusts an announced length with memory, and gives the same body for every
//! segmentation of the same bytes.

use crate::protocol::upgrade::{BodyLength, Refusal, is_token_char};

/// Bytes of all chunk extensions of a body together. Nobody uses them but attackers, who make a
/// server read a lot for little body.
const MAX_EXTENSIONS: u32 = 1024;

/// Bytes of the trailer section. It is checked and thrown away (RFC 9110 6.5.1).
const MAX_TRAILERS: u32 = 4096;

/// Digits of a chunk size: as many as a `u64` has.
const MAX_SIZE_DIGITS: u8 = 16;

/// Finds the body in what follows a head.
#[derive(Debug)]
pub(crate) enum BodyDecoder {
    /// So many bytes are still to come.
    Length(u64),
    Chunked(Chunked),
}

/// What the next bytes were.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'i> {
    /// Part of the body, not empty.
    Data(&'i [u8]),
    /// More input is needed; all of the present one was used.
    More,
    /// The body is complete. What is left of the input belongs to the next request.
    End,
}

impl BodyDecoder {
    /// For a request with this length.
    pub(crate) fn new(length: BodyLength) -> Self {
        match length {
            BodyLength::None => Self::Length(0),
            BodyLength::Bytes(count) => Self::Length(count),
            BodyLength::Chunked => Self::Chunked(Chunked::default()),
        }
    }

    /// Takes the next piece off the input.
    pub(crate) fn next<'i>(&mut self, input: &mut &'i [u8]) -> Result<Piece<'i>, Refusal> {
        match self {
            Self::Length(0) => Ok(Piece::End),
            Self::Length(left) => Ok(take(left, input)),
            Self::Chunked(chunked) => chunked.next(input),
        }
    }
}

/// As much of the input as belongs to the body.
fn take<'i>(left: &mut u64, input: &mut &'i [u8]) -> Piece<'i> {
    if input.is_empty() {
        return Piece::More;
    }
    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    let (data, rest) = input.split_at(count);
    *input = rest;
    *left -= count as u64;
    Piece::Data(data)
}

/// The chunked transfer coding (RFC 9112 7.1). Line ends are CRLF and nothing else; a size has
/// digits and nothing around them.
#[derive(Debug, Default)]
pub(crate) struct Chunked {
    state: State,
    /// What is left of the chunk.
    left: u64,
    digits: u8,
    extensions: u32,
    trailers: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Extension,
    SizeLineFeed,
    Data,
    DataReturn,
    DataLineFeed,
    /// The start of a trailer line, or the empty line.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLineFeed,
    FinalLineFeed,
    Complete,
}

impl Chunked {
    fn next<'i>(&mut self, input: &mut &'i [u8]) -> Result<Piece<'i>, Refusal> {
        loop {
            if self.state == State::Complete {
                return Ok(Piece::End);
            }
            if self.state == State::Data {
                let piece = take(&mut self.left, input);
                if self.left == 0 {
                    self.state = State::DataReturn;
                }
                return Ok(piece);
            }
            let Some((&byte, rest)) = input.split_first() else { return Ok(Piece::More) };
            self.step(byte)?;
            *input = rest;
        }
    }

    fn step(&mut self, byte: u8) -> Result<(), Refusal> {
        let bad = Err(Refusal::InvalidChunk);
        self.state = match self.state {
            State::Size => match byte {
                b'\r' if self.digits > 0 => State::SizeLineFeed,
                b';' if self.digits > 0 => State::Extension,
                _ => {
                    let Some(digit) = char::from(byte).to_digit(16) else { return bad };
                    if self.digits == MAX_SIZE_DIGITS {
                        return bad;
                    }
                    self.digits += 1;
                    // Sixteen digits fit.
                    self.left = self.left << 4 | u64::from(digit);
                    State::Size
                }
            },
            State::Extension => {
                self.extensions += 1;
                match byte {
                    b'\r' => State::SizeLineFeed,
                    _ if is_text(byte) && self.extensions <= MAX_EXTENSIONS => State::Extension,
                    _ => return bad,
                }
            }
            State::SizeLineFeed if byte == b'\n' => {
                self.digits = 0;
                if self.left == 0 { State::TrailerStart } else { State::Data }
            }
            State::DataReturn if byte == b'\r' => State::DataLineFeed,
            State::DataLineFeed if byte == b'\n' => State::Size,
            State::TrailerStart if byte == b'\r' => State::FinalLineFeed,
            // RFC 9112 5.1, 5.2: a name, and no blank before it or behind it.
            State::TrailerStart if is_token_char(byte) => self.trailer(State::TrailerName)?,
            State::TrailerName if byte == b':' => self.trailer(State::TrailerValue)?,
            State::TrailerName if is_token_char(byte) => self.trailer(State::TrailerName)?,
            State::TrailerValue if byte == b'\r' => State::TrailerLineFeed,
            State::TrailerValue if is_text(byte) => self.trailer(State::TrailerValue)?,
            State::TrailerLineFeed if byte == b'\n' => State::TrailerStart,
            State::FinalLineFeed if byte == b'\n' => State::Complete,
            _ => return bad,
        };
        Ok(())
    }

    fn trailer(&mut self, next: State) -> Result<State, Refusal> {
        self.trailers += 1;
        if self.trailers > MAX_TRAILERS { Err(Refusal::HeadTooLarge) } else { Ok(next) }
    }
}

/// No control character but HTAB.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= 0x20 && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The body, and what is left of the input; `None` if more is needed.
    type Decoded<'i> = Result<Option<(Vec<u8>, &'i [u8])>, Refusal>;

    fn decode_pieces<'i>(
        length: BodyLength,
        pieces: impl IntoIterator<Item = &'i [u8]>,
    ) -> Decoded<'i> {
        let mut decoder = BodyDecoder::new(length);
        let mut body = Vec::new();
        let mut ended = None;
        for mut input in pieces {
            loop {
                match decoder.next(&mut input)? {
                    Piece::Data(data) => {
                        assert!(!data.is_empty());
                        body.extend_from_slice(data);
                    }
                    Piece::More => {
                        assert!(input.is_empty());
                        break;
                    }
                    Piece::End => {
                        ended.get_or_insert(input);
                        break;
                    }
                }
            }
        }
        Ok(ended.map(|rest| (body, rest)))
    }

    fn chunked(input: &[u8]) -> Decoded<'_> {
        decode_pieces(BodyLength::Chunked, [input])
    }

    #[test]
    fn a_length_is_counted() {
        let length = BodyLength::Bytes(3);
        assert_eq!(decode_pieces(length, [&b"ab"[..]]), Ok(None));
        let whole = decode_pieces(length, [&b"abcd"[..]]);
        assert_eq!(whole, Ok(Some((b"abc".to_vec(), &b"d"[..]))));
        let none = decode_pieces(BodyLength::None, [&b"GET"[..]]);
        assert_eq!(none, Ok(Some((vec![], &b"GET"[..]))));
    }

    #[test]
    fn chunks_are_put_together() {
        for (input, body, rest) in [
            (&b"0\r\n\r\n"[..], &b""[..], &b""[..]),
            (b"5\r\nhello\r\n0\r\n\r\nGET", b"hello", b"GET"),
            (b"1\r\na\r\n0a\r\n0123456789\r\n000\r\n\r\n", b"a0123456789", b""),
            (b"3;name=\"v;\";x\r\nabc\r\n0;last\r\n\r\n", b"abc", b""),
            (b"1\r\nx\r\n0\r\nExpires: never\r\nX:\r\n\r\nrest", b"x", b"rest"),
            (b"00000000000000001\r\nx", b"", b""),
        ] {
            let decoded = chunked(input);
            if input.starts_with(b"00000000000000001") {
                assert_eq!(decoded, Err(Refusal::InvalidChunk), "17 digits");
            } else {
                assert_eq!(decoded, Ok(Some((body.to_vec(), rest))), "{}", input.escape_ascii());
            }
        }
    }

    #[test]
    fn what_two_readers_could_understand_differently_is_refused() {
        for input in [
            &b"\r\n"[..],
            b";x\r\n",
            b"g\r\n",
            b"+5\r\n",
            b"-1\r\n",
            b"0x5\r\n",
            b" 5\r\n",
            b"5 \r\n",
            b"5\n",
            b"5\rx",
            b"5\r\nhelloX",
            b"5\r\nhello\n",
            b"5\r\nhello\rX",
            b"5;a\n",
            b"5;a\rb",
            b"5;\0",
            b"0\r\n \r\n",
            b"0\r\na b: c",
            b"0\r\n: c",
            b"0\r\na\r\n",
            b"0\r\na: b\n",
            b"0\r\na: b\r\n c",
            b"0\r\n\n",
            b"0\r\n\rX",
            b"ffffffffffffffff0\r\n",
        ] {
            assert_eq!(chunked(input), Err(Refusal::InvalidChunk), "{}", input.escape_ascii());
        }
    }

    #[test]
    fn a_huge_chunk_needs_no_memory_and_ends_nowhere() {
        assert_eq!(chunked(b"ffffffffffffffff\r\nabc"), Ok(None));
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let long = format!("1;{}\r\n", "x".repeat(MAX_EXTENSIONS as usize + 1));
        assert_eq!(chunked(long.as_bytes()), Err(Refusal::InvalidChunk));
        let many = "1;xxx\r\na\r\n".repeat(MAX_EXTENSIONS as usize);
        assert_eq!(chunked(many.as_bytes()), Err(Refusal::InvalidChunk));
        let trailers = format!("0\r\n{}", "a: b\r\n".repeat(MAX_TRAILERS as usize));
        assert_eq!(chunked(trailers.as_bytes()), Err(Refusal::HeadTooLarge));
    }

    /// Cuts the input in two places.
    fn thirds(input: &[u8], one: usize, two: usize) -> [&[u8]; 3] {
        let (one, two) = (one % (input.len() + 1), two % (input.len() + 1));
        let (one, two) = (one.min(two), one.max(two));
        [&input[..one], &input[one..two], &input[two..]]
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_body(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            one in any::<usize>(),
            two in any::<usize>(),
        ) {
            let mut input = Vec::new();
            for chunk in &chunks {
                input.extend(format!("{:x};e\r\n", chunk.len()).into_bytes());
                input.extend(chunk);
                input.extend(b"\r\n");
            }
            input.extend(b"0\r\nT: v\r\n\r\n");
            let expected = Ok(Some((chunks.concat(), &b""[..])));
            prop_assert_eq!(&chunked(&input), &expected);
            let bytes = input.chunks(1);
            prop_assert_eq!(&decode_pieces(BodyLength::Chunked, bytes), &expected);
            let cut = thirds(&input, one, two);
            prop_assert_eq!(&decode_pieces(BodyLength::Chunked, cut), &expected);
        }

        #[test]
        fn garbage_is_judged_alike_however_it_is_cut(
            input in "[0-9a-f;:x \r\n]{0,60}",
            one in any::<usize>(),
            two in any::<usize>(),
        ) {
            let whole = chunked(input.as_bytes()).map(|found| found.map(|(body, _)| body));
            let cut = decode_pieces(BodyLength::Chunked, thirds(input.as_bytes(), one, two));
            prop_assert_eq!(cut.map(|found| found.map(|(body, _)| body)), whole);
        }
    }
}
