//! Reading frame headers.
//!
//! `frame_decode/VARIANT/SIZE`: `header` is the library's decoder, `naive` one that reads number
//! by number from a cursor; the size is that of the header, masking key included.

use std::hint::black_box;
use std::io::{Cursor, Read};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use wirelane::protocol::FrameHeader;
use wirelane::protocol::frame::{Opcode, encode_header};

/// The header and how long it is.
fn naive(bytes: &[u8]) -> Option<(FrameHeader, usize)> {
    let mut cursor = Cursor::new(bytes);
    let mut read = |len: usize| {
        let mut bytes = vec![0; len];
        cursor.read_exact(&mut bytes).ok()?;
        Some(bytes)
    };
    let start = read(2)?;
    let (fin, rsv1) = (start[0] & 0x80 != 0, start[0] & 0x40 != 0);
    let opcodes = [
        Opcode::Continuation,
        Opcode::Text,
        Opcode::Binary,
        Opcode::Close,
        Opcode::Ping,
        Opcode::Pong,
    ];
    let opcode = opcodes.into_iter().find(|opcode| *opcode as u8 == start[0] & 0x0F)?;
    if start[0] & 0x30 != 0 || (opcode.is_control() && !fin) {
        return None;
    }
    let payload_len = match start[1] & 0x7F {
        126 => read(2)?.iter().fold(0, |len, byte| len << 8 | u64::from(*byte)),
        127 => read(8)?.iter().fold(0, |len, byte| len << 8 | u64::from(*byte)),
        short => u64::from(short),
    };
    let masking_key = if start[1] & 0x80 != 0 { read(4)?.try_into().ok() } else { None };
    let header = FrameHeader { fin, rsv1, opcode, masking_key, payload_len };
    Some((header, cursor.position() as usize))
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
                assert!(decoded.is_some_and(|(_, len)| len == header.len()));
                decoded
            });
        });
    }
    group.finish();
}

criterion_group!(frame_decode, benches);
criterion_main!(frame_decode);
