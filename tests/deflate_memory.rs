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

/// Whether connections are left alone before it is counted what they cost.
#[derive(Clone, Copy, PartialEq)]
enum When {
    InUse,
    /// After two keep-alive pings.
    Idle,
}

/// Connections that have exchanged a compressed message each, and what one of them costs.
fn cost(deflate: Deflate, when: When) -> i64 {
    let interval = Duration::from_secs(if when == When::Idle { 2 } else { 0 });
    let server = TestServer::start(Driver::Epoll, |server| {
        server.ping_interval(interval).deflate(deflate).websocket("/", |_| Echo)
    });
    let text = "{\"symbol\":\"EURUSD\"}".repeat(20);
    let mut payload = Vec::with_capacity(1000);
    let mut compress = Compress::new(Compression::new(1), false);
    compress.compress_vec(text.as_bytes(), &mut payload, FlushCompress::Sync).expect("compresses");
    payload.truncate(payload.len() - 4);
    let offer = "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
    let head = String::from_utf8(common::request("/")).expect("ASCII");
    let head = head.replacen("\r\n\r\n", offer, 1);
    let mut peers: Vec<Peer> = Vec::with_capacity(3 * COUNT);
    let mut open = |count: usize| {
        for _ in 0..count {
            let mut peer = server.connect();
            peer.send(head.as_bytes());
            assert!(peer.read_head().contains("permessage-deflate"));
            peer.send_frame(0xC1, &payload);
            assert_eq!(peer.read_frame().first, 0xC1);
            peers.push(peer);
        }
    };
    let at_first = BYTES.load(Ordering::Relaxed);
    // The first ones pay for what the worker shares.
    open(COUNT);
    let before = BYTES.load(Ordering::Relaxed);
    open(2 * COUNT);
    if when == When::Idle {
        // The first ping frees nothing: there was a message before it.
        for _ in 0..2 {
            for peer in &mut peers {
                assert_eq!(peer.read_frame().first, 0x89);
                peer.send_frame(0x8A, b"");
            }
        }
        // What the worker shares counts, too.
        return (BYTES.load(Ordering::Relaxed) - at_first) / (3 * COUNT as i64);
    }
    (BYTES.load(Ordering::Relaxed) - before) / (2 * COUNT as i64)
}

#[test]
fn every_mode_costs_what_its_documentation_says() {
    const KIB: i64 = 1024;
    let shared = cost(Deflate::shared(), When::InUse);
    println!("shared: {shared} bytes");
    // What the peers of the test hold in this process.
    assert!(shared < 2 * KIB, "{shared}");
    for bits in 9..=15 {
        let compressor = cost(Deflate::dedicated(bits).shared_decompressor(), When::InUse);
        let both = cost(Deflate::dedicated(bits), When::InUse);
        println!("{bits}: {compressor} bytes, with decompressor {both}");
        let documented = 160 * KIB + (4 << bits);
        assert!(compressor <= documented, "{bits}: {compressor}");
        assert!(both <= documented + 47 * KIB, "{bits}: {both}");
    }
    let idle = cost(Deflate::dedicated(15), When::Idle);
    println!("15, idle: {idle} bytes");
    assert!(idle <= 56 * KIB, "{idle}");
}
