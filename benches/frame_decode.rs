//! Reading frame headers.
//!
//! `frame_decode/VARIANT/SIZE`: `header` is the library's decoder, `naive` one that reads number
//! by number from a cursor; the size is that of the header, masking key included.

use std::hint::black_box;
use std::io::{Cursor, Read};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use wirelane::protocol::FrameHeader;
use wirelane::protocol::frame::{Opcode, encode_header};

/// Fin, opcode, length, key and how long the header is, with the checks of RFC 6455 5.2.
fn naive(bytes: &[u8]) -> Option<(bool, u8, u64, Option<[u8; 4]>, u64)> {
    let mut cursor = Cursor::new(bytes);
    let mut read = |len: usize| {
        let mut bytes = vec![0; len];
        cursor.read_exact(&mut bytes).ok()?;
        Some(bytes)
    };
    let start = read(2)?;
    let (fin, opcode) = (start[0] & 0x80 != 0, start[0] & 0x0F);
    if start[0] & 0x70 != 0 || ![0, 1, 2, 8, 9, 10].contains(&opcode) || (opcode > 7 && !fin) {
        return None;
    }
    let len = match start[1] & 0x7F {
        126 => read(2)?.iter().fold(0, |len, byte| len << 8 | u64::from(*byte)),
        127 => read(8)?.iter().fold(0, |len, byte| len << 8 | u64::from(*byte)),
        short => u64::from(short),
    };
    let key = if start[1] & 0x80 != 0 { read(4)?.try_into().ok() } else { None };
    Some((fin, opcode, len, key, cursor.position()))
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame_decode");
    for payload_len in [20, 1024, 1024 * 1024] {
        let header = encode_header(true, false, Opcode::Text, payload_len, Some([1, 2, 3, 4]));
        group.bench_function(BenchmarkId::new("header", header.len()), |bencher| {
            bencher.iter(|| {
                let decoded = FrameHeader::decode(black_box(&header));
                assert!(matches!(decoded, Ok(Some((_, len))) if len == header.len()));
                decoded
            });
        });
        group.bench_function(BenchmarkId::new("naive", header.len()), |bencher| {
            bencher.iter(|| {
                let decoded = naive(black_box(&header));
                assert!(decoded.is_some_and(|(.., len)| len == header.len() as u64));
                decoded
            });
        });
    }
    group.finish();
}

criterion_group!(frame_decode, benches);
criterion_main!(frame_decode);
