//! Compressed messages behind an endpoint (RFC 7692): JSON-like text of three sizes, sent with a
//! shared and a dedicated compressor at several levels, received, and sent by connections that take
//! turns, for each window: those of 9 and 10 bits load their text into the worker's compressor.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wirelane::protocol::{BufferPool, Endpoint, Limits, Message};
use wirelane::{Deflate, DeflateParameters};

fn json(len: usize) -> String {
    let mut text = String::from("{\"type\":\"tick\",\"items\":[");
    let mut number = 88_172_645_463_325_252_u64;
    while text.len() < len {
        number = number.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let (id, price, quantity) = (number >> 44, (number >> 24) % 1_000_000, (number >> 8) % 500);
        text +=
            &format!("{{\"id\":{id},\"symbol\":\"EUR\",\"price\":{price},\"qty\":{quantity}}},");
    }
    text.truncate(len);
    text
}

fn agreed(takeover: bool) -> DeflateParameters {
    DeflateParameters {
        server_no_context_takeover: !takeover,
        client_no_context_takeover: !takeover,
        server_max_window_bits: 15,
        client_max_window_bits: 15,
    }
}

fn deflate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("deflate");
    let mut pool = BufferPool::new(1 << 20);
    for len in [64, 1024, 16 * 1024] {
        let text = json(len);
        group.throughput(Throughput::Bytes(len as u64));
        let mut out = Vec::new();
        for (name, settings) in
            [("shared", Deflate::shared()), ("dedicated", Deflate::dedicated(15))]
        {
            for level in [1, 2, 6] {
                let agreed = agreed(name == "dedicated");
                let endpoint = Endpoint::server(Limits::new());
                let mut endpoint = endpoint.with_deflate(settings.level(level), agreed);
                group.bench_function(format!("send/{name}/level{level}/{len}"), |bencher| {
                    bencher.iter(|| {
                        out.clear();
                        let message = Message::Text(black_box(&text));
                        endpoint.send_compressed(message, &mut pool, &mut out).expect("open");
                        out.len()
                    });
                });
            }
        }
        // A client with a masking key of zeros receives the same frame over and over.
        let mut server =
            Endpoint::server(Limits::new()).with_deflate(Deflate::shared(), agreed(false));
        let mut frame = Vec::new();
        server.send_compressed(Message::Text(&text), &mut pool, &mut frame).expect("open");
        let client = Endpoint::client(Limits::new(), Box::new(|| [0; 4]));
        let mut client = client.with_deflate(Deflate::shared(), agreed(false));
        group.bench_function(format!("receive/shared/{len}"), |bencher| {
            bencher.iter(|| {
                let mut input = &mut frame[..];
                let event = client.receive(&mut input, &mut pool).expect("valid").expect("whole");
                event.recycle(&mut pool);
            });
        });
    }
    group.finish();
}

fn turns(criterion: &mut Criterion) {
    const CONNECTIONS: usize = 32;
    let mut group = criterion.benchmark_group("deflate/turns");
    let mut pool = BufferPool::new(1 << 20);
    for len in [64, 1024] {
        // Long enough for no window to hold a whole message that comes again.
        let text = json(1 << 20);
        let mut out = Vec::new();
        for bits in [9, 10, 11, 15] {
            let agreed = DeflateParameters { server_max_window_bits: bits, ..agreed(true) };
            let endpoint =
                || Endpoint::server(Limits::new()).with_deflate(Deflate::dedicated(bits), agreed);
            let mut endpoints: Vec<Endpoint> = (0..CONNECTIONS).map(|_| endpoint()).collect();
            let (mut next, mut at) = (0, 0);
            group.bench_function(format!("{bits}/{len}"), |bencher| {
                bencher.iter(|| {
                    out.clear();
                    let message = Message::Text(black_box(&text[at..at + len]));
                    endpoints[next].send_compressed(message, &mut pool, &mut out).expect("open");
                    next = (next + 1) % CONNECTIONS;
                    at = (at + len) % (text.len() - len);
                    out.len()
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, deflate, turns);
criterion_main!(benches);
