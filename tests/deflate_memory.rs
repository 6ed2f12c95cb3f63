//! What each mode of permessage-deflate costs per connection, by a counting allocator: the figures
//! of the documentation of `Deflate`.
//!
//! One test program, one test: other threads of the same process would count, too.
#![cfg(feature = "deflate")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use common::{Echo, Peer, TestServer};
use flate2::{Compress, Compression, FlushCompress};
use wirelane::{Deflate, Driver};

/// Counts the bytes that are allocated and not freed.
struct Counting;

static BYTES: AtomicI64 = AtomicI64::new(0);

// SAFETY: every call is passed to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const COUNT: usize = 64;

/// What the connections have done before it is counted what they cost.
#[derive(Clone, Copy, PartialEq)]
enum When {
    /// One short message.
    InUse,
    /// More than any window holds.
    Full,
    /// The same, and two keep-alive pings.
    FullAndIdle,
    /// The beginning of a message, after a short one.
    HalfReceived,
}

/// Text that shrinks, but not to nothing.
fn text(len: usize) -> String {
    let mut text = String::with_capacity(len + 100);
    let mut number = 17_u64;
    while text.len() < len {
        number = number.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        text += &format!("{{\"symbol\":\"EURUSD\",\"id\":{}}},", number >> 40);
    }
    text.truncate(len);
    text
}

/// Connections that have exchanged compressed messages, and what one of them costs.
fn cost(deflate: Deflate, when: When) -> i64 {
    let interval = Duration::from_secs(if when == When::FullAndIdle { 2 } else { 0 });
    let server = TestServer::start(Driver::Epoll, |server| {
        server.ping_interval(interval).deflate(deflate).websocket("/", |_| Echo)
    });
    // The long one as it is, so that it refers to nothing that a window might not hold.
    let (text, level) = match when {
        When::InUse | When::HalfReceived => (text(400), Compression::fast()),
        When::Full | When::FullAndIdle => (text(50_000), Compression::none()),
    };
    let mut payload = Vec::with_capacity(text.len() + 1000);
    let mut compress = Compress::new(level, false);
    compress.compress_vec(text.as_bytes(), &mut payload, FlushCompress::Sync).expect("compresses");
    payload.truncate(payload.len() - 4);
    let offer = "\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    let head = String::from_utf8(common::request("/")).expect("ASCII");
    let head = head.replacen("\r\n\r\n", offer, 1);
    let mut peers: Vec<Peer> = Vec::with_capacity(3 * COUNT);
    let open = |count: usize, peers: &mut Vec<Peer>| {
        for _ in 0..count {
            let mut peer = server.connect();
            peer.send(head.as_bytes());
            assert!(peer.read_head().contains("permessage-deflate"));
            peer.send_frame(0xC1, &payload);
            assert_eq!(peer.read_frame().first, 0xC1);
            if when == When::HalfReceived {
                peer.send_frame(0x41, &payload[..payload.len() / 2]);
                // It has been read when the answer to the next frame is there.
                peer.send_frame(0x89, b"");
                assert_eq!(peer.read_frame().first, 0x8A);
            }
            // Without what it has received.
            peers.push(Peer::from_stream(peer.stream));
        }
    };
    // The first ones pay for what the worker shares.
    open(COUNT, &mut peers);
    if when == When::FullAndIdle {
        wait_for_pings(&mut peers);
    }
    let before = BYTES.load(Ordering::Relaxed);
    open(2 * COUNT, &mut peers);
    if when == When::FullAndIdle {
        wait_for_pings(&mut peers);
    }
    (BYTES.load(Ordering::Relaxed) - before) / (2 * COUNT as i64)
}

/// Two each: the first ping frees nothing, because there was a message before it.
fn wait_for_pings(peers: &mut [Peer]) {
    for _ in 0..2 {
        for peer in &mut *peers {
            assert_eq!(peer.read_frame().first, 0x89);
            peer.send_frame(0x8A, b"");
        }
    }
    for peer in peers {
        let stream = peer.stream.try_clone().expect("a socket");
        *peer = Peer::from_stream(stream);
    }
}

const KIB: i64 = 1024;

#[test]
fn every_mode_costs_what_its_documentation_says() {
    let shared = cost(Deflate::shared(), When::Full);
    println!("shared: {shared} bytes");
    // The connection itself, and what the peers of the test hold in this process.
    const BASE: i64 = KIB;
    assert!(shared < BASE, "{shared}");
    for bits in 9..=15 {
        let window = 1 << bits;
        let used = cost(Deflate::dedicated(bits), When::InUse);
        let compressor = cost(Deflate::dedicated(bits).shared_decompressor(), When::Full);
        let both = cost(Deflate::dedicated(bits), When::Full);
        println!("{bits}: {used} after a message, full {compressor}, with decompressor {both}");
        let (own, peer) = match bits {
            ..=10 => (window, window),
            _ => (139 * KIB + 4 * window, 47 * KIB),
        };
        assert!(compressor <= own + BASE, "{bits}: {compressor}");
        assert!(both <= own + peer + BASE, "{bits}: {both}");
        // Twice what was said, if that is all that is kept.
        let (own, peer) = if bits <= 10 { (800, 800) } else { (own, peer) };
        assert!(used <= own + peer + BASE, "{bits}: {used}");
    }
    for bits in [9, 12, 15] {
        let idle = cost(Deflate::dedicated(bits), When::FullAndIdle);
        println!("{bits}: {idle} bytes, idle");
        let documented = if bits <= 10 { 2 << bits } else { 47 * KIB };
        assert!(idle <= documented + BASE, "{bits}: {idle}");
    }
    for deflate in [Deflate::shared(), Deflate::dedicated(9)] {
        let half = cost(deflate, When::HalfReceived);
        println!("half received: {half} bytes");
        // The decompressor, and a buffer for the message.
        assert!(half > 40 * KIB && half <= 47 * KIB + 1800 + 2 * BASE, "{half}");
    }
}
