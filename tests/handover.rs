//! The example `axum_handover`: axum serves HTTP, Wirelane the WebSockets, on one port.

mod common;

use std::time::Duration;

use common::child::{END, Program};
use common::{Peer, frame, request};
use wirelane::Driver;

on_every_driver!(axum_answers_requests_and_wirelane_has_the_sockets, no_descriptor_stays_behind);

fn text(peer: &mut Peer) -> String {
    let frame = peer.read_frame();
    assert_eq!(frame.first, 0x81, "{frame:?}");
    String::from_utf8(frame.payload).expect("text")
}

fn axum_answers_requests_and_wirelane_has_the_sockets(driver: Driver) {
    let program = Program::start("axum_handover", driver, &["--workers", "2"]);
    let get = |path: &str| {
        let mut peer = program.connect();
        peer.send(
            format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes(),
        );
        peer.read_answer()
    };
    let page = get("/");
    assert_eq!((page.status, page.header("Content-Type")), (200, Some("text/html; charset=utf-8")));
    assert!(String::from_utf8_lossy(&page.body).contains("new WebSocket("));
    assert_eq!((get("/ws").status, get("/nowhere").status), (400, 404));

    // The first frames may come with the request (RFC 6455 4.1), whole or cut.
    let early = [frame(0x81, b"one"), frame(0x81, b"two")].concat();
    let mut peers = Vec::new();
    for (number, cut) in [0, 1, 9, 12, early.len()].into_iter().enumerate() {
        let mut peer = program.connect();
        let request = request(&format!("/ws?name=peer{number}"));
        peer.send(&[&request, &early[..cut]].concat());
        let head = peer.read_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        peer.send(&early[cut..]);
        for expected in ["one", "two"] {
            assert_eq!(text(&mut peer), format!("peer{number}: {expected}"), "cut {cut}");
        }
        peers.push(peer);
    }
    // A mistake of a peer is answered by Wirelane; the others do not notice.
    peers[0].send(&[0x81, 0x01, b'x']);
    peers.remove(0).expect_close(1002);
    for peer in &mut peers {
        peer.send_text("still there");
        assert!(text(peer).ends_with(": still there"));
    }
    let signalled = program.signal(signal_hook::consts::SIGTERM);
    for mut peer in peers {
        assert_eq!(peer.read_frame().close_code(), 1001);
    }
    program.expect_end(signalled, END);
}

fn no_descriptor_stays_behind(driver: Driver) {
    let program = Program::start("axum_handover", driver, &["--workers", "2"]);
    let descriptors = program.descriptors();
    for round in 0..10 {
        let mut peers: Vec<Peer> = (0..60).map(|_| program.connect()).collect();
        for peer in &mut peers {
            peer.handshake("/ws");
        }
        for (number, mut peer) in peers.into_iter().enumerate() {
            match (number + round) % 4 {
                0 => peer.reset(),
                1 => peer.finish(),
                2 => {
                    peer.send_frame(0x88, &1000_u16.to_be_bytes());
                    peer.expect_close(1000);
                }
                _ => peer.send_frame(0x82, &[7; 1000]),
            }
        }
        program.wait_for_descriptors(descriptors);
    }
    let mut peer = program.connect();
    peer.stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    peer.handshake("/ws?name=last");
    peer.send_text("still there");
    assert_eq!(text(&mut peer), "last: still there");
    drop(peer);
    program.stop();
}
