//! What fuzzing tries: one function for each reader of foreign bytes, with what must hold for any
//! input. Only in tests and under `--cfg fuzzing`; `tests/fuzz/` has the programs.
//!
//! Comes in: any bytes. Goes out: nothing, or a panic that says which promise was broken. The first
//! bytes of an input often say how the others are cut and which limits are set, so that a fuzzer
//! finds those, too.

mod addresses;
mod bodies;
#[cfg(feature = "deflate")]
mod compression;
mod frames;
mod handshake;
#[cfg(test)]
mod replay;
mod routing;

pub use addresses::{forwarded, networks, proxy_header, url};
pub use bodies::chunked;
#[cfg(feature = "deflate")]
pub use compression::{deflate, inflate};
pub use frames::{close_frames, frames};
pub use handshake::{extensions, request, response};
pub use routing::{query, router};

/// A target.
pub type Target = fn(&[u8]);

/// Every target, by the name of its program and of the folder with its inputs.
pub const TARGETS: &[(&str, Target)] = &[
    ("chunked", chunked),
    ("close_frames", close_frames),
    #[cfg(feature = "deflate")]
    ("deflate", deflate),
    ("extensions", extensions),
    ("forwarded", forwarded),
    ("frames", frames),
    #[cfg(feature = "deflate")]
    ("inflate", inflate),
    ("networks", networks),
    ("proxy_header", proxy_header),
    ("query", query),
    ("request", request),
    ("response", response),
    ("router", router),
    ("url", url),
];

/// Takes the first byte of an input; 0 if there is none.
fn byte(input: &mut &[u8]) -> u8 {
    let Some((first, rest)) = input.split_first() else { return 0 };
    *input = rest;
    *first
}

/// Takes the lengths of pieces: how many, at most 15, then one byte for each.
fn lengths(input: &mut &[u8]) -> Vec<usize> {
    let count = byte(input) % 16;
    (0..count).map(|_| usize::from(byte(input))).collect()
}

/// Cuts into pieces of these lengths, over and over; one piece if there are none. An empty piece
/// comes out as an empty one.
fn pieces<'a>(mut input: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    if lengths.iter().sum::<usize>() == 0 {
        return vec![input];
    }
    let mut pieces = Vec::new();
    for len in lengths.iter().cycle() {
        let (piece, rest) = input.split_at((*len).min(input.len()));
        pieces.push(piece);
        input = rest;
        if input.is_empty() {
            break;
        }
    }
    pieces
}
