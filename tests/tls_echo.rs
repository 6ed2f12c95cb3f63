//! Messages over TLS: every size, every cut, both versions.

mod common;
#[path = "common/tls.rs"]
mod tls;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use common::{Echo, TestServer, frame, request};
use rustls::ProtocolVersion;
use tls::{TlsPeer, authority, client_config, localhost, provider, server_tls};
use wirelane::Driver;

on_every_driver!(
    every_size_comes_back,
    every_cut_comes_back,
    what_comes_with_the_last_flight_is_not_lost,
    tls12_is_spoken_too,
);

fn start(driver: Driver) -> TestServer {
    TestServer::start(driver, |server| server.tls(server_tls()).websocket("/", |_| Echo))
}

fn every_size_comes_back(driver: Driver) {
    let server = start(driver);
    let mut peer = TlsPeer::open(server.addr);
    assert_eq!(peer.tls.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let sizes = [0, 1, 125, 126, 1000, 16_370, 16_384, 16_400, 65_536, 131_072, 200_000, 1 << 20];
    for (nth, size) in sizes.into_iter().enumerate() {
        let payload: Vec<u8> = (0..size).map(|i| (i * 7 + nth) as u8).collect();
        peer.echo(&payload);
    }
    let stats = server.wait_for("the figures", |stats| stats.messages_received == 12);
    assert_eq!((stats.tls_handshakes, stats.tls_failures.total()), (1, 0));
}

/// The handshake and some messages, in pieces of every length.
fn every_cut_comes_back(driver: Driver) {
    let server = start(driver);
    for step in [1, 2, 3, 5, 7, 100, 1447] {
        let mut peer = TlsPeer::new(server.addr, client_config(), "localhost");
        while peer.tls.is_handshaking() {
            let records = peer.records(b"");
            dribble(&mut peer, &records, step);
            if peer.tls.is_handshaking() {
                assert_ne!(peer.fill().expect("an answer"), 0);
            }
        }
        let mut plain = request("/");
        plain.extend_from_slice(&frame(0x81, b"first"));
        plain.extend_from_slice(&frame(0x82, &[9; 20_000]));
        let mut records = peer.records(b"");
        records.extend_from_slice(&peer.records(&plain));
        dribble(&mut peer, &records, if step < 100 { step * 40 + 1 } else { step });
        let head = peer.read_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert_eq!(peer.read_frame().payload, b"first");
        assert_eq!(peer.read_frame().payload, [9; 20_000]);
    }
}

fn dribble(peer: &mut TlsPeer, records: &[u8], step: usize) {
    for piece in records.chunks(step) {
        peer.stream.write_all(piece).expect("the server reads");
        // Each piece shall be a read of its own, most of the time.
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// Finished, the request and a frame may come in one segment.
fn what_comes_with_the_last_flight_is_not_lost(driver: Driver) {
    let server = start(driver);
    let mut peer = TlsPeer::new(server.addr, client_config(), "localhost");
    peer.flush().expect("the hello");
    while peer.tls.is_handshaking() {
        assert_ne!(peer.fill().expect("an answer"), 0);
    }
    let mut plain = request("/");
    plain.extend_from_slice(&frame(0x81, b"at once"));
    let records = peer.records(&plain);
    peer.stream.write_all(&records).expect("the server reads");
    let head = peer.read_head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(peer.read_frame().payload, b"at once");
}

fn tls12_is_spoken_too(driver: Driver) {
    let server = start(driver);
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("a version")
        .with_root_certificates(authority().store())
        .with_no_client_auth();
    let mut peer = TlsPeer::new(server.addr, Arc::new(config), "localhost");
    peer.shake().expect("the handshake");
    assert_eq!(peer.tls.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    peer.upgrade();
    for size in [1, 20_000, 300_000] {
        peer.echo(&vec![5; size]);
    }
}

#[test]
fn files_that_are_no_certificate_are_named() {
    use wirelane::tls::Identity;
    let (certificate, key) = localhost().write("good");
    Identity::from_files(&certificate, &key).expect("a good pair");
    let error = Identity::from_files(&key, &certificate).expect_err("the wrong way round");
    assert!(error.to_string().contains("no certificate"), "{error}");
    let error = Identity::from_files("/nowhere.pem", &key).expect_err("no file");
    assert!(error.to_string().contains("/nowhere.pem"), "{error}");
    let other = authority().issue(&["other"]);
    let error = Identity::from_pem(other.certificate.as_bytes(), localhost().key.as_bytes());
    let error = error.expect_err("not its key");
    assert!(error.to_string().contains("certificate or its key"), "{error}");
}
