//! A whole echo in memory: bytes in, message, bytes out. No sockets.
//!
//! `endpoint_echo/VARIANT/SIZE`: `text` and `binary` through the endpoint, the frame whole in the
//! input; `text_pieces` and `binary_pieces` the same in reads of 256 KiB; each beside a `_naive`
//! version that allocates, unmasks byte by byte and checks UTF-8 with the standard library.
//!
//! The masking key is zero: unmasking costs what it always costs and leaves the input as it was,
//! so that no round has to copy it first.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use wirelane::protocol::frame::{Opcode, encode_header};
use wirelane::protocol::{BufferPool, Endpoint, Event, Limits, Message};

const SIZES: [usize; 5] = [20, 125, 1024, 16 * 1024, 1024 * 1024];
const READ_LEN: usize = 256 * 1024;

/// Echoes everything in `input`; gives the number of messages.
fn echo(
    endpoint: &mut Endpoint,
    mut input: &mut [u8],
    pool: &mut BufferPool,
    out: &mut Vec<u8>,
) -> usize {
    let mut messages = 0;
    while let Ok(Some(event)) = endpoint.receive(&mut input, pool) {
        let sent = match &event {
            Event::Text(text) => endpoint.send(Message::Text(text.as_str()), out),
            Event::Binary(bytes) => endpoint.send(Message::Binary(bytes.as_slice()), out),
            other => panic!("unexpected {other:?}"),
        };
        messages += usize::from(sent.is_ok());
        event.recycle(pool);
    }
    messages
}

/// The same for one whole frame, written down as one would at first.
fn naive_echo(input: &[u8]) -> Option<Vec<u8>> {
    let (&[first, second], mut rest) = input.split_first_chunk::<2>()?;
    if second & 0x80 == 0 {
        return None;
    }
    let extended = match second & 0x7F {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mut len = usize::from(second & 0x7F);
    if extended > 0 {
        len = rest.get(..extended)?.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
        rest = &rest[extended..];
    }
    let (key, rest) = rest.split_first_chunk::<4>()?;
    let mut payload = Vec::new();
    for (i, byte) in rest.get(..len)?.iter().enumerate() {
        payload.push(byte ^ key[i % 4]);
    }
    if first & 0x0F == 1 {
        std::str::from_utf8(&payload).ok()?;
    }
    let mut out = vec![first];
    match len {
        0..=125 => out.push(len as u8),
        126..=0xFFFF => {
            out.push(126);
            out.extend((len as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    out.extend(payload);
    Some(out)
}

fn masked_frame(opcode: Opcode, len: usize) -> Vec<u8> {
    let mut frame = encode_header(true, false, opcode, len as u64, Some([0; 4])).to_vec();
    frame.extend(b"Wirelane ".iter().cycle().take(len));
    frame
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("endpoint_echo");
    for (name, opcode) in [("text", Opcode::Text), ("binary", Opcode::Binary)] {
        for size in SIZES {
            group.throughput(Throughput::Bytes(size as u64));
            let mut input = masked_frame(opcode, size);
            let mut endpoint = Endpoint::server(Limits::new());
            let mut pool = BufferPool::new(4 * 1024 * 1024);
            let mut out = Vec::new();
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter(|| {
                    out.clear();
                    let messages = echo(&mut endpoint, black_box(&mut input), &mut pool, &mut out);
                    assert_eq!(messages, 1);
                    black_box(out.len())
                });
            });
            if size > READ_LEN {
                group.bench_function(BenchmarkId::new(format!("{name}_pieces"), size), |bencher| {
                    bencher.iter(|| {
                        out.clear();
                        let pieces = black_box(&mut input).chunks_mut(READ_LEN);
                        let messages: usize = pieces
                            .map(|piece| echo(&mut endpoint, piece, &mut pool, &mut out))
                            .sum();
                        assert_eq!(messages, 1);
                        black_box(out.len())
                    });
                });
            }
            group.bench_function(BenchmarkId::new(format!("{name}_naive"), size), |bencher| {
                bencher.iter(|| {
                    let out = naive_echo(black_box(&input));
                    assert!(out.is_some());
                    out
                });
            });
        }
    }
    group.finish();
}

criterion_group!(endpoint_echo, benches);
criterion_main!(endpoint_echo);
