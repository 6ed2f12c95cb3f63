//! Messages as permessage-deflate has them on the wire (RFC 7692 7.2), by another library than the
//! server's.

// Each test program uses its own part of this, and none is a library.
#![allow(dead_code, unreachable_pub)]

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

pub fn deflate(compress: &mut Compress, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 * payload.len() + 100);
    compress.compress_vec(payload, &mut out, FlushCompress::Sync).expect("compresses");
    assert!(out.ends_with(&TAIL));
    out.truncate(out.len() - 4);
    out
}

pub fn deflated(payload: &[u8]) -> Vec<u8> {
    deflate(&mut Compress::new(Compression::new(6), false), payload)
}

pub fn inflate(decompress: &mut Decompress, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2_000_000);
    let input = [payload, &TAIL].concat();
    decompress.decompress_vec(&input, &mut out, FlushDecompress::Sync).expect("inflates");
    out
}

pub fn inflated(payload: &[u8]) -> Vec<u8> {
    inflate(&mut Decompress::new(false), payload)
}

pub fn json(len: usize) -> Vec<u8> {
    let mut text = String::new();
    for number in 0_u64.. {
        if text.len() >= len {
            break;
        }
        text +=
            &format!("{{\"id\":{},\"symbol\":\"EURUSD\"}},", number.wrapping_mul(7919) % 10_007);
    }
    text.truncate(len);
    text.into_bytes()
}
