//! Unmasking in place (RFC 6455 5.3), hot in cache, beside the definition byte by byte and beside
//! a copy of as many bytes.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const SIZES: [usize; 8] = [16, 20, 64, 125, 1024, 4096, 16 * 1024, 1024 * 1024];
const CACHE_LINE: usize = 64;
/// The header of a small client frame: two bytes and the masking key.
const HEADER_LEN: usize = 6;

fn naive(payload: &mut [u8], key: [u8; 4]) {
    for (i, byte) in payload.iter_mut().enumerate() {
        *byte ^= key[i % 4];
    }
}

/// Where the payloads of one size begin: side by side in 16 KiB, so that a payload is not read
/// again while what was written to it is still on its way to the cache.
fn offsets(size: usize) -> impl FnMut() -> usize {
    let stride = size.next_multiple_of(CACHE_LINE);
    let end = stride * (16 * 1024 / stride).max(1);
    let mut next = 0;
    move || {
        let offset = next;
        next = if offset + stride < end { offset + stride } else { 0 };
        offset
    }
}

fn unmask(criterion: &mut Criterion) {
    let mut memory = vec![b'x'; 1024 * 1024 + 2 * CACHE_LINE];
    let start = memory.as_ptr().align_offset(CACHE_LINE);
    let buffer = &mut memory[start..];
    let mut copy = vec![0; 1024 * 1024];
    let mut group = criterion.benchmark_group("unmask");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        for (variant, header_len) in [("wirelane", 0), ("wirelane_behind_header", HEADER_LEN)] {
            group.bench_function(format!("{variant}/{size}"), |bencher| {
                let mut offset = offsets(size);
                bencher.iter(|| {
                    let payload = &mut buffer[header_len + offset()..][..size];
                    wirelane::simd::unmask(black_box(payload), black_box(KEY), 0);
                });
            });
        }
        group.bench_function(format!("naive/{size}"), |bencher| {
            let mut offset = offsets(size);
            bencher.iter(|| naive(black_box(&mut buffer[offset()..][..size]), black_box(KEY)));
        });
        group.bench_function(format!("memcpy/{size}"), |bencher| {
            let mut offset = offsets(size);
            bencher.iter(|| {
                let offset = offset();
                let payload = black_box(&buffer[offset..][..size]);
                black_box(&mut copy[offset..][..size]).copy_from_slice(payload);
            });
        });
    }
    group.finish();
}

fn brief() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
}

criterion_group! { name = benches; config = brief(); targets = unmask }
criterion_main!(benches);
