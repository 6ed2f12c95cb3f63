//! In steady state no message costs a heap allocation: a counting allocator watches.
//!
//! One test program, one test: other threads of the same process would count, too.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Echo, Peer, TestServer, frame, io_uring_works};
use wirelane::client::{Client, Dial};
use wirelane::{Driver, Handler, Message, WebSocket};

/// Counts the allocations of threads whose name begins with `wirelane-`.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static IS_WORKER: std::cell::Cell<Option<bool>> = const { std::cell::Cell::new(None) };
}

fn count() {
    let counts = IS_WORKER.with(|known| {
        known.get().unwrap_or_else(|| {
            // Asking for the name may allocate: decide once, and not while deciding.
            known.set(Some(false));
            let current = std::thread::current();
            let name = current.name();
            // A thread that has no name yet is asked again.
            known.set(name.map(|name| name.starts_with("wirelane-")));
            known.get() == Some(true)
        })
    });
    if counts {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Sends `message` `count` times, `depth` at a time, and reads as many bytes as the echoes have.
fn exchange(peer: &mut Peer, first: u8, payload: &[u8], depth: usize, count: usize) {
    let one = frame(first, payload);
    let batch: Vec<u8> = one.iter().copied().cycle().take(one.len() * depth).collect();
    let echo_len = one.len() - 4;
    let mut received = vec![0; echo_len * depth];
    for _ in 0..count {
        peer.stream.write_all(&batch).expect("the server reads");
        peer.stream.read_exact(&mut received).expect("the server answers");
    }
    assert_eq!(received[0], first);
    assert_eq!(&received[received.len() - payload.len()..], payload);
}

/// Publishes what it receives to everybody.
struct Publisher;

impl Handler for Publisher {
    type Session = ();

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        ws.subscribe("topic").expect("no limit is that low");
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        ws.publish_to_all("topic", message);
    }
}

/// Allocations of the workers while `round` runs, in the quietest of several rounds.
fn quietest(rounds: usize, mut round: impl FnMut()) -> u64 {
    let mut least = u64::MAX;
    for _ in 0..rounds {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        assert!(before > 0, "the counter does not see the worker");
        round();
        least = least.min(ALLOCATIONS.load(Ordering::Relaxed) - before);
        if least == 0 {
            break;
        }
    }
    least
}

/// The first peer sends `depth` messages at a time, `count` times; all receive all of them.
fn fan_out(peers: &mut [Peer], payload: &[u8], depth: usize, count: usize) {
    let one = frame(0x82, payload);
    let batch = one.repeat(depth);
    let mut received = vec![0; (one.len() - 4) * depth];
    for _ in 0..count {
        peers[0].stream.write_all(&batch).expect("the server reads");
        for peer in &mut *peers {
            peer.stream.read_exact(&mut received).expect("the server publishes");
        }
    }
    assert_eq!(&received[received.len() - payload.len()..], payload);
}

fn publishing_costs_no_allocation_per_subscriber(driver: Driver) {
    let server = TestServer::start(driver, |server| server.websocket("/", |_| Publisher));
    let mut peers: Vec<_> = (0..8).map(|_| server.open()).collect();
    for (len, depth) in [(20, 1), (125, 16), (1000, 8)] {
        let least = quietest(10, || fan_out(&mut peers, &vec![7; len], depth, 20));
        assert_eq!(least, 0, "{driver}: {len} bytes, {depth} at a time");
    }
    // Long ones are shared: one allocation per message, for however many subscribers.
    for (len, depth) in [(5000, 1), (5000, 8), (60_000, 2)] {
        let least = quietest(10, || fan_out(&mut peers, &vec![7; len], depth, 20));
        let messages = depth as u64 * 20;
        assert!(least <= messages, "{driver}: {least} for {messages} messages of {len} bytes");
    }
}

/// Sends back what it gets, for ever, and begins.
struct Player(Vec<u8>);

impl Handler for Player {
    type Session = ();

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        for _ in 0..4 {
            ws.send(&self.0[..]);
        }
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        ws.send(message);
    }
}

/// Both sides are workers here: a server's, and a client's that has to mask.
fn messages_of_our_own_connections_cost_no_allocation(driver: Driver) {
    let server = TestServer::start(driver, |server| server.websocket("/", |_| Echo));
    for len in [20, 1000, 20_000, 200_000] {
        let client = Client::builder().driver(driver).start().expect("possible settings");
        for _ in 0..4 {
            let dial = Dial::to(format!("ws://{}/", server.addr));
            client.connect(&dial, Player(vec![7; len])).expect("a good dial");
        }
        let handle = client.handle();
        let received = || handle.stats().messages_received;
        let wait_for = |count: u64| {
            let start = std::time::Instant::now();
            while received() < count {
                assert!(start.elapsed() < common::PATIENCE, "the messages stand still");
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        };
        // Everybody is open, and every buffer has found its size.
        wait_for(200);
        let least = quietest(20, || wait_for(received() + 100));
        assert_eq!(least, 0, "{driver}: {len} bytes");
    }
}

#[cfg(feature = "deflate")]
fn a_compressed_echo_costs_no_allocation(driver: Driver) {
    use flate2::{Compress, Compression, FlushCompress};

    let mut compress = Compress::new(Compression::new(6), false);
    let mut payload = Vec::with_capacity(10_000);
    let text = "{\"symbol\":\"EURUSD\",\"price\":1.0831},".repeat(100);
    compress.compress_vec(text.as_bytes(), &mut payload, FlushCompress::Sync).expect("compresses");
    payload.truncate(payload.len() - 4);
    let offer = "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
    let head = String::from_utf8(common::request("/")).expect("ASCII");
    let head = head.replacen("\r\n\r\n", offer, 1);
    for settings in [wirelane::Deflate::shared(), wirelane::Deflate::dedicated(12)] {
        let server =
            TestServer::start(driver, |server| server.deflate(settings).websocket("/", |_| Echo));
        let mut peer = server.connect();
        peer.send(head.as_bytes());
        assert!(peer.read_head().contains("permessage-deflate"));
        let least = quietest(10, || {
            for _ in 0..20 {
                peer.send_frame(0xC1, &payload);
                let echo = peer.read_frame();
                assert!(echo.first == 0xC1 && echo.payload.len() < text.len() / 5);
            }
        });
        assert_eq!(least, 0, "{driver}: {settings:?}");
    }
}

#[test]
fn a_message_in_steady_state_costs_no_allocation() {
    for driver in [Driver::Epoll, Driver::IoUring] {
        if driver == Driver::IoUring && !io_uring_works() {
            continue;
        }
        let server = TestServer::start(driver, |server| server.websocket("/", |_| Echo));
        let mut peers: Vec<_> = (0..8).map(|_| server.open()).collect();
        let payloads: [(u8, Vec<u8>, usize); 6] = [
            (0x81, b"twenty bytes of text".to_vec(), 1),
            (0x82, vec![7; 20], 16),
            (0x81, "ünïcödé ".repeat(100).into_bytes(), 8),
            (0x82, vec![9; 16 * 1024], 4),
            (0x82, vec![9; 70_000], 2),
            (0x82, vec![9; 700_000], 1),
        ];
        let mut round = |count| {
            for (first, payload, depth) in &payloads {
                for peer in &mut peers {
                    exchange(peer, *first, payload, *depth, count);
                }
            }
        };
        // Pools and queues grow to what the traffic needs, which depends on how the kernel cuts
        // the stream. A round without any allocation shows that no message causes one.
        let mut rounds = Vec::new();
        for _ in 0..10 {
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            assert!(before > 0, "the counter does not see the worker");
            round(20);
            rounds.push(ALLOCATIONS.load(Ordering::Relaxed) - before);
            if rounds.last() == Some(&0) {
                break;
            }
        }
        assert_eq!(rounds.last(), Some(&0), "{driver}: allocations per round: {rounds:?}");
        drop(peers);
        drop(server);
        publishing_costs_no_allocation_per_subscriber(driver);
        #[cfg(feature = "deflate")]
        a_compressed_echo_costs_no_allocation(driver);
        messages_of_our_own_connections_cost_no_allocation(driver);
    }
}
