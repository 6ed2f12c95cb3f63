//! What an idle connection costs in user space, and that everything is given back.
//!
//! One test program, one test after the other: the figures are of the whole process, and the
//! descriptors of one process carry both ends.

mod common;

use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use common::{Echo, Peer, TestServer};
use wirelane::Driver;

on_every_driver!(an_idle_connection_is_small, ten_thousand_ends_leave_nothing_behind);

/// The figures are of the whole process.
static ALONE: Mutex<()> = Mutex::new(());

/// Private dirty bytes of this process.
fn resident() -> i64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").expect("procfs");
    let line = rollup.lines().find(|line| line.starts_with("Private_Dirty:")).expect("a line");
    let kib: i64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    kib * 1024
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("procfs").count()
}

/// A socket whose client side costs this process no user-space memory but the descriptor.
fn open_raw(server: &TestServer) -> std::net::TcpStream {
    let mut peer = Peer::connect(server.addr);
    peer.handshake("/");
    peer.stream
}

fn an_idle_connection_is_small(driver: Driver) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const COUNT: usize = 4000;
    let server = TestServer::start(driver, |server| server.websocket("/", |_| Echo));
    // The first ones pay for pools and for the tables' first pages.
    let mut streams: Vec<_> = Vec::with_capacity(3 * COUNT);
    streams.extend((0..COUNT).map(|_| open_raw(&server)));
    let before = resident();
    streams.extend((0..COUNT).map(|_| open_raw(&server)));
    server.wait_for("all to be open", |stats| stats.opened as usize == 2 * COUNT);
    let each = (resident() - before) / COUNT as i64;
    assert!(each <= 256, "{driver}: {each} bytes per idle connection");
    println!("{driver}: {each} bytes per idle connection");
}

fn ten_thousand_ends_leave_nothing_behind(driver: Driver) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const BATCH: usize = 2500;
    let server = TestServer::start(driver, |server| server.websocket("/", |_| Echo));
    let before = descriptors();
    for way in 0..4 {
        let mut peers: Vec<Peer> = (0..BATCH).map(|_| server.open()).collect();
        for peer in &mut peers {
            match way {
                // Vanishes in the middle of a frame.
                0 => peer.send(&[0x82, 0xfe, 0x10, 0x00, 1, 2, 3, 4, 5, 6, 7]),
                // Half-closes in the middle of a message.
                1 => {
                    peer.send_frame(0x01, b"unfinished");
                    peer.finish();
                }
                2 => peer.send_frame(0x88, &1000_u16.to_be_bytes()),
                _ => {}
            }
        }
        for peer in peers {
            if way == 1 { drop(peer) } else { peer.reset() }
        }
        server.wait_for("every slot to be free", |stats| stats.connections == 0);
    }
    let stats = server.stats();
    assert_eq!((stats.opened, stats.closed), (4 * BATCH as u64, 4 * BATCH as u64));
    // A test that waits for its turn may have probed for io_uring in between.
    let mut after = descriptors();
    for _ in 0..500 {
        if after <= before {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
        after = descriptors();
    }
    assert!(after <= before, "{after} descriptors instead of {before}");
}
