//! Ten thousand connections that end in every way leave no descriptor, slot or memory behind.
//!
//! The server is a process of its own, so that what /proc says is about nobody else.

mod common;

use common::child::Program;
use common::{Echo, Peer, TestServer, request};
use wirelane::Driver;

on_every_driver!(ten_thousand_ends_leave_a_process_as_it_was, every_end_is_counted);

/// Opens a connection that ends in way `way`, up to the last step, which `end` makes.
fn begin(way: usize, mut peer: Peer) -> Peer {
    match way {
        // Comes and says nothing.
        0 => {}
        // Vanishes in the middle of the request.
        1 | 2 => peer.send(&request("/")[..70]),
        // Asks for something that does not exist.
        3 => peer.send(b"GET /nothing-here HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        _ => peer.handshake("/"),
    }
    match way {
        // Vanishes in the middle of a frame's header, of its payload, and of a message.
        4 => peer.send(&[0x82, 0xfe, 0x10]),
        5 => peer.send(&[0x82, 0xfe, 0x10, 0x00, 1, 2, 3, 4, 5, 6, 7]),
        6 => peer.send_frame(0x01, b"unfinished"),
        // Goes away without reading what it asked for.
        7 => peer.send_frame(0x82, &[7; 100_000]),
        8 => peer.send_frame(0x88, &1000_u16.to_be_bytes()),
        // RFC 6455 5.1: a frame that is not masked.
        9 => peer.send(&[0x81, 0x01, b'x']),
        _ => {}
    }
    peer
}

/// The ways above, and two that end right after the handshake.
const WAYS: usize = 12;

fn end(way: usize, mut peer: Peer) {
    match way {
        0 | 2 | 6 | 10 => drop(peer),
        1 | 4 | 5 | 7 | 11 => peer.reset(),
        3 => assert!(peer.read_head().starts_with("HTTP/1.1 404 ")),
        8 => peer.expect_close(1000),
        _ => peer.expect_close(1002),
    }
}

/// So many connections, all ways evenly, some at a time.
fn churn(count: usize, connect: impl Fn() -> Peer) {
    const AT_A_TIME: usize = 10 * WAYS;
    assert_eq!(count % AT_A_TIME, 0);
    for _ in 0..count / AT_A_TIME {
        let peers: Vec<_> =
            (0..AT_A_TIME).map(|i| (i % WAYS, begin(i % WAYS, connect()))).collect();
        peers.into_iter().for_each(|(way, peer)| end(way, peer));
    }
}

fn ten_thousand_ends_leave_a_process_as_it_was(driver: Driver) {
    let program = Program::start("echo", driver, &["--workers", "2"]);
    let descriptors = program.descriptors();
    let mut resident = Vec::new();
    for _ in 0..6 {
        churn(1680, || program.connect());
        program.wait_for_descriptors(descriptors);
        resident.push(program.resident());
    }
    // The first waves pay for pools and for pages that are touched once.
    assert!(resident[5] <= resident[1] + (10 << 20), "resident after each wave: {resident:?}");
    let mut peer = program.open();
    peer.send_text("still there");
    assert_eq!(peer.read_frame().payload, b"still there");
    drop(peer);
    program.stop();
}

fn every_end_is_counted(driver: Driver) {
    const COUNT: usize = 1200;
    let server = TestServer::start(driver, |server| server.workers(2).websocket("/", |_| Echo));
    churn(COUNT, || server.connect());
    let each = (COUNT / WAYS) as u64;
    // A slot is free a moment before the worker adds to the other figures.
    let stats = server.wait_for("the end of all", |stats| {
        stats.connections == 0 && stats.accepted == COUNT as u64 && stats.closed == 8 * each
    });
    assert_eq!(stats.opened, 8 * each);
    assert_eq!((stats.refused, stats.handler_panics, stats.accept_pauses), (each, 0, 0));
    server.stop(std::time::Duration::ZERO).expect("a clean end");
}
