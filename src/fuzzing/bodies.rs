//! Bodies of requests in chunks (RFC 9112 7.1).

use super::{lengths, pieces};
use crate::http::body::{BodyDecoder, Piece};
use crate::protocol::upgrade::{BodyLength, Refusal};

/// What was decoded: the body so far, and how many bytes belong to it, if it is complete.
#[derive(Debug, PartialEq)]
struct Decoded {
    body: Vec<u8>,
    used: Option<usize>,
}

/// Lengths of pieces, then chunks; and the same bytes in chunks of these lengths.
pub fn chunked(mut input: &[u8]) {
    let cuts = lengths(&mut input);
    let whole = decode(input, &[]);
    let cut = decode(input, &cuts);
    match (&whole, &cut) {
        (Ok(_), Ok(_)) => assert_eq!(whole, cut, "cut into {cuts:?}"),
        (Err(one), Err(other)) => assert_eq!(one, other, "cut into {cuts:?}"),
        _ => panic!("{whole:?}, but {cut:?} cut into {cuts:?}"),
    }
    if let Ok(Decoded { used: Some(used), .. }) = whole {
        assert!(input[..used].ends_with(b"\r\n\r\n") || input[..used].ends_with(b"\n\r\n"));
        assert_eq!(decode(&input[..used], &cuts), whole, "what follows does not matter");
        assert!(decode(&input[..used - 1], &[]).is_ok_and(|decoded| decoded.used.is_none()));
    }

    let mut chunks = Vec::new();
    for chunk in pieces(input, &cuts).into_iter().filter(|chunk| !chunk.is_empty()) {
        chunks.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
        chunks.extend_from_slice(chunk);
        chunks.extend_from_slice(b"\r\n");
    }
    chunks.extend_from_slice(b"0\r\n\r\n");
    let expected = Decoded { body: input.to_vec(), used: Some(chunks.len()) };
    assert_eq!(decode(&chunks, &cuts), Ok(expected));
}

fn decode(input: &[u8], cuts: &[usize]) -> Result<Decoded, Refusal> {
    let mut decoder = BodyDecoder::new(BodyLength::Chunked);
    let mut decoded = Decoded { body: Vec::new(), used: None };
    let mut used = 0;
    for piece in pieces(input, cuts) {
        let mut rest = piece;
        loop {
            let before = rest.len();
            let found = decoder.next(&mut rest)?;
            if decoded.used.is_some() {
                assert_eq!((found, rest.len()), (Piece::End, before), "behind the end");
                break;
            }
            used += before - rest.len();
            match found {
                Piece::Data(data) => {
                    assert!(!data.is_empty());
                    decoded.body.extend_from_slice(data);
                }
                Piece::More => {
                    assert!(rest.is_empty(), "all of it is used");
                    break;
                }
                Piece::End => {
                    decoded.used = Some(used);
                    break;
                }
            }
        }
    }
    Ok(decoded)
}
