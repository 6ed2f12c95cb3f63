//! Text (RFC 6455 8.1), hot in cache: a whole masked payload, and a message in pieces of 16 KiB,
//! beside two plain passes of the definition and the standard library.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wirelane::simd::{TextBuffer, unmask_text};

/// Masking with zeros changes nothing, so that every round finds the same text; no code tests for
/// such a key.
const KEY: [u8; 4] = [0; 4];
const SIZES: [usize; 8] = [20, 64, 125, 200, 1024, 16 * 1024, 256 * 1024, 4 * 1024 * 1024];
const PIECE_LEN: usize = 16 * 1024;

fn naive(payload: &mut [u8], key: [u8; 4]) -> Option<&str> {
    for (i, byte) in payload.iter_mut().enumerate() {
        *byte ^= key[i % 4];
    }
    std::str::from_utf8(payload).ok()
}

/// `size` bytes of whole characters, the pattern again and again.
fn text(pattern: &str, size: usize) -> Vec<u8> {
    let mut text = String::with_capacity(size);
    for character in pattern.chars().cycle() {
        if text.len() + character.len_utf8() > size {
            break;
        }
        text.push(character);
    }
    text.extend(std::iter::repeat_n('x', size - text.len()));
    text.into_bytes()
}

fn utf8(criterion: &mut Criterion) {
    for (name, pattern) in [("utf8_ascii", "Hello, world. "), ("utf8_mixed", "Grüße, мир €5 𝄞 ")]
    {
        let mut group = criterion.benchmark_group(name);
        for size in SIZES {
            group.throughput(Throughput::Bytes(size as u64));
            let mut payload = text(pattern, size);
            group.bench_function(format!("unmask_text/{size}"), |bencher| {
                bencher.iter(|| unmask_text(black_box(&mut payload), black_box(KEY)).map(str::len));
            });
            group.bench_function(format!("text_buffer/{size}"), |bencher| {
                let mut buffer = Vec::with_capacity(size);
                bencher.iter(|| {
                    let mut text = TextBuffer::with_buffer(std::mem::take(&mut buffer));
                    for (i, piece) in payload.chunks(PIECE_LEN).enumerate() {
                        let mask = Some((black_box(KEY), i * PIECE_LEN));
                        text.push(black_box(piece), mask).expect("the pattern is UTF-8");
                    }
                    black_box(text.as_str()).expect("no character is cut at the end");
                    buffer = text.into_buffer();
                });
            });
            group.bench_function(format!("naive/{size}"), |bencher| {
                bencher.iter(|| naive(black_box(&mut payload), black_box(KEY)).map(str::len));
            });
        }
        group.finish();
    }
}

fn brief() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
}

criterion_group! { name = benches; config = brief(); targets = utf8 }
criterion_main!(benches);
