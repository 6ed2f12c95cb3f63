//! Who gets in over TLS, who does not, and what they are told.

mod common;
#[path = "common/tls.rs"]
mod tls;

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Echo, Peer, TestServer, request};
use rustls::pki_types::CertificateDer;
use rustls::{HandshakeKind, ProtocolVersion};
use tls::{Authority, TlsPeer, authority, client_config, localhost, provider, server_tls};
use wirelane::tls::{ClientAuth, Identity, ServerTls, TlsError};
use wirelane::{
    Driver, Handler, Message, Request, Response, SendStatus, Server, TlsFailure, Upgrade,
    UpgradeRequest, WebSocket,
};

on_every_driver!(
    plain_http_gets_an_alert_and_no_answer,
    garbage_costs_one_connection,
    a_fragmented_hello_is_none_the_worse,
    whoever_stalls_in_the_handshake_is_cut,
    who_leaves_in_the_handshake_is_counted,
    a_required_certificate_is_required,
    an_optional_certificate_is_seen_by_the_application,
    the_name_decides_about_the_certificate,
    the_application_sees_the_name,
    protocols_are_agreed_on,
    sessions_are_resumed_on_any_worker,
    a_reload_changes_newcomers_only,
    a_proxy_speaks_before_tls,
    http_works_over_tls,
    a_page_without_tls_is_of_another_site,
    established_connections_go_first,
);

fn start(driver: Driver) -> TestServer {
    TestServer::start(driver, |server| server.tls(server_tls()).websocket("/", |_| Echo))
}

/// A record of an alert, fatal, in the clear; its description.
fn alert(bytes: &[u8]) -> u8 {
    assert!(bytes.len() == 7 && bytes[0] == 21 && bytes[5] == 2, "an alert, not {bytes:?}");
    bytes[6]
}

fn plain_http_gets_an_alert_and_no_answer(driver: Driver) {
    let server = start(driver);
    for bytes in [request("/"), b"GET / HTTP/1.1\r\n\r\n".to_vec(), b"SSH-2.0-x\r\n".to_vec()] {
        let mut peer = Peer::connect(server.addr);
        peer.send(&bytes);
        let answer = peer.read_to_end().expect("FIN, not a reset");
        assert_eq!(alert(&answer), 50, "decode_error");
    }
    let stats = server.wait_for("the end", |stats| stats.connections == 0);
    assert_eq!(stats.tls_failures.count(TlsFailure::NotTls), 3);
    assert_eq!((stats.tls_failures.total(), stats.opened, stats.refused), (3, 0, 0));
}

fn garbage_costs_one_connection(driver: Driver) {
    let server = start(driver);
    let mut established = TlsPeer::open(server.addr);
    let mut random: u32 = 7;
    for len in [1, 5, 6, 100, 5000, 70_000, 200_000] {
        let mut peer = Peer::connect(server.addr);
        let garbage: Vec<u8> = (0..len)
            .map(|nth| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Some of it looks like the header of a long record.
                if nth < 5 && len > 5000 { [22, 3, 1, 0x40, 0][nth] } else { (random >> 24) as u8 }
            })
            .collect();
        let _ = peer.stream.write_all(&garbage);
        peer.finish();
        let _ = peer.stream.read_to_end(&mut Vec::new());
        established.echo(b"not my problem");
    }
    let stats = server.wait_for("the end", |stats| stats.connections == 1);
    assert_eq!(stats.tls_failures.total(), 7, "{stats:?}");
}

/// RFC 8446 5.1: a message may be spread over records of any size.
fn a_fragmented_hello_is_none_the_worse(driver: Driver) {
    let server = start(driver);
    for most in [1, 10, 100] {
        let mut peer = TlsPeer::new(server.addr, client_config(), "localhost");
        let hello = peer.records(b"");
        for piece in hello[5..].chunks(most) {
            let mut record = vec![22, 3, 1, 0, piece.len() as u8];
            record.extend_from_slice(piece);
            peer.stream.write_all(&record).expect("the server reads");
        }
        peer.shake().expect("the handshake");
        peer.upgrade();
        peer.echo(b"whole");
    }
}

fn whoever_stalls_in_the_handshake_is_cut(driver: Driver) {
    let timeout = Duration::from_millis(1500);
    let server = TestServer::start(driver, |server| {
        server.tls(server_tls()).websocket("/", |_| Echo).handshake_timeout(timeout)
    });
    let start = Instant::now();
    let mut silent = Peer::connect(server.addr);
    let mut half = TlsPeer::new(server.addr, client_config(), "localhost");
    let hello = half.records(b"");
    half.stream.write_all(&hello[..hello.len() / 2]).expect("the server reads");
    let mut unfinished = TlsPeer::new(server.addr, client_config(), "localhost");
    unfinished.flush().expect("the server reads");
    // Neither gets an answer in the clear.
    assert_eq!(silent.read_to_end().unwrap_or_default(), b"");
    let mut rest = Vec::new();
    let _ = half.stream.read_to_end(&mut rest);
    assert_eq!(rest, b"");
    let _ = unfinished.stream.read_to_end(&mut rest);
    assert!(start.elapsed() >= timeout);
    // The time of the handshake includes HTTP.
    let mut quiet = TlsPeer::connect(server.addr);
    let _ = quiet.read_to_end();
    let stats = server.wait_for("the end", |stats| stats.connections == 0);
    assert_eq!(stats.tls_failures.count(TlsFailure::Timeout), 3, "{stats:?}");
}

fn who_leaves_in_the_handshake_is_counted(driver: Driver) {
    let server = start(driver);
    let mut peer = TlsPeer::new(server.addr, client_config(), "localhost");
    peer.flush().expect("the server reads");
    assert_ne!(peer.fill().expect("an answer"), 0);
    drop(peer);
    // Whoever does not believe the server says so.
    let stranger = Authority::new("another").client();
    let mut peer = TlsPeer::new(server.addr, Arc::new(stranger), "localhost");
    peer.shake().expect_err("an unknown authority");
    peer.flush().expect("the server reads");
    drop(peer);
    let stats = server.wait_for("the ends", |stats| stats.tls_failures.total() == 2);
    assert_eq!(stats.tls_failures.count(TlsFailure::Ended), 1, "{stats:?}");
    assert_eq!(stats.tls_failures.count(TlsFailure::AlertReceived), 1, "{stats:?}");
}

fn a_required_certificate_is_required(driver: Driver) {
    let tls = server_tls().client_auth(ClientAuth::Required, authority().roots());
    let server = TestServer::start(driver, |server| server.tls(tls).websocket("/", |_| Echo));
    let known = authority().client_with(&authority().issue(&["somebody"]));
    let mut peer = TlsPeer::new(server.addr, Arc::new(known), "localhost");
    peer.shake().expect("the handshake");
    peer.upgrade();
    peer.echo(b"let in");
    let other = Authority::new("another").issue(&["somebody"]);
    for config in [authority().client(), authority().client_with(&other)] {
        let mut peer = TlsPeer::new(server.addr, Arc::new(config), "localhost");
        // With TLS 1.3 the client believes itself through before the server has seen anything.
        let _ = peer.shake();
        let error = peer.read_to_end().expect_err("an alert");
        assert!(error.to_string().contains("alert"), "{error}");
    }
    let stats = server.wait_for("the alerts", |stats| stats.connections == 1);
    assert_eq!(stats.tls_failures.count(TlsFailure::Certificate), 2, "{stats:?}");
}

/// Lets in whoever shows a certificate, and says hello with its length.
struct Known;

impl Handler for Known {
    type Session = Vec<u8>;

    fn on_upgrade(&mut self, request: &UpgradeRequest<'_>) -> Upgrade<Vec<u8>> {
        assert!(request.is_secure());
        match request.peer_certificates().first() {
            Some(certificate) => Upgrade::accept(certificate.to_vec()),
            None => Upgrade::reject(401, "show a certificate"),
        }
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, Vec<u8>>, _message: Message<'_>) {
        let certificate = ws.session().clone();
        assert_eq!(ws.send(&certificate[..]), SendStatus::Sent);
    }
}

fn an_optional_certificate_is_seen_by_the_application(driver: Driver) {
    let tls = server_tls().client_auth(ClientAuth::Optional, authority().roots());
    let server = TestServer::start(driver, |server| server.tls(tls).websocket("/", |_| Known));
    let certificate = authority().issue(&["somebody"]);
    let known = Arc::new(authority().client_with(&certificate));
    // The second connection resumes the session of the first, certificate and all.
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let mut peer = TlsPeer::new(server.addr, Arc::clone(&known), "localhost");
        peer.shake().expect("the handshake");
        peer.upgrade();
        assert_eq!(peer.tls.handshake_kind(), Some(kind));
        peer.send_frame(0x81, b"who am I?");
        assert_eq!(peer.read_frame().payload, certificate.der().0[0].as_ref());
    }
    let mut stranger = TlsPeer::connect(server.addr);
    stranger.send(&request("/"));
    assert!(stranger.read_head().starts_with("HTTP/1.1 401 "));
}

fn the_name_decides_about_the_certificate(driver: Driver) {
    let (one, two) = (authority().issue(&["one.test"]), authority().issue(&["*.two.test"]));
    let tls = ServerTls::new(localhost().identity()).identity(one.identity());
    let tls = tls.identity(two.identity());
    let server = TestServer::start(driver, |server| server.tls(tls).websocket("/", |_| Echo));
    for (name, certificate) in [
        ("one.test", &one),
        ("a.two.test", &two),
        ("localhost", localhost()),
        ("127.0.0.1", localhost()),
    ] {
        let mut peer = TlsPeer::new(server.addr, client_config(), name);
        peer.shake().expect("a certificate for the name");
        let shown: &[CertificateDer<'_>] = peer.tls.peer_certificates().expect("a certificate");
        assert_eq!(shown, certificate.der().0, "{name}");
    }
    // Nobody's name: the first certificate, which the client does not take for it.
    let mut peer = TlsPeer::new(server.addr, client_config(), "three.test");
    let error = peer.shake().expect_err("another name");
    assert!(error.to_string().contains("three.test"), "{error}");
}

/// Says by which name it was called.
struct Named;

impl Handler for Named {
    type Session = String;

    fn on_upgrade(&mut self, request: &UpgradeRequest<'_>) -> Upgrade<String> {
        Upgrade::accept(request.server_name().unwrap_or("nobody").to_owned())
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, String>, _message: Message<'_>) {
        let name = ws.session().clone();
        ws.send(&name[..]);
    }
}

fn the_application_sees_the_name(driver: Driver) {
    let (one, two) = (authority().issue(&["one.test"]), authority().issue(&["two.test"]));
    let several = ServerTls::new(localhost().identity()).identity(one.identity());
    let several = several.identity(two.identity());
    // The settings of somebody who knows rustls, with one certificate for everybody.
    let all = authority().issue(&["localhost", "127.0.0.1", "one.test", "two.test"]);
    let (chain, key) = all.der();
    let own = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("both versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a good pair");
    for tls in [several, ServerTls::from(Arc::new(own))] {
        let server = TestServer::start(driver, |server| {
            let named =
                |request: &Request<'_>| request.server_name().unwrap_or("nobody").to_owned();
            let page = move |request: &Request<'_>| Response::text(named(request));
            server.tls(tls).get("/name", page).websocket("/", |_| Named)
        });
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let config = client_of_version(version);
            // Nobody gets the name of whoever came before, and a resumed session has one, too.
            for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
                for (name, expected) in [
                    ("one.test", "one.test"),
                    ("127.0.0.1", "nobody"),
                    ("TWO.test", "two.test"),
                    ("localhost", "localhost"),
                ] {
                    let mut peer = TlsPeer::new(server.addr, Arc::clone(&config), name);
                    peer.shake().expect("a certificate for the name");
                    peer.upgrade();
                    peer.send_frame(0x81, b"who am I?");
                    assert_eq!(peer.read_frame().payload, expected.as_bytes());
                    assert_eq!(peer.tls.handshake_kind(), Some(kind), "{name}");
                }
            }
        }
        let mut peer = TlsPeer::new(server.addr, client_config(), "one.test");
        peer.shake().expect("a certificate for the name");
        peer.send(b"GET /name HTTP/1.1\r\nHost: two.test\r\nConnection: close\r\n\r\n");
        assert!(peer.read_head().starts_with("HTTP/1.1 200 "));
        peer.read_to_end().expect("a clean end");
        assert_eq!(peer.pending, b"one.test");
    }
}

/// A client that speaks this version only and keeps its sessions.
fn client_of_version(
    version: &'static rustls::SupportedProtocolVersion,
) -> Arc<rustls::ClientConfig> {
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(authority().store())
        .with_no_client_auth();
    Arc::new(config)
}

fn protocols_are_agreed_on(driver: Driver) {
    let server = start(driver);
    for (offered, agreed) in [
        (&[&b"h2"[..], b"http/1.1"][..], Some(&b"http/1.1"[..])),
        (&[b"http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let mut config = authority().client();
        config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
        let mut peer = TlsPeer::new(server.addr, Arc::new(config), "localhost");
        peer.shake().expect("the handshake");
        assert_eq!(peer.tls.alpn_protocol(), agreed);
    }
    let mut config = authority().client();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut peer = TlsPeer::new(server.addr, Arc::new(config), "localhost");
    let error = peer.shake().expect_err("no protocol in common");
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    server.wait_for("the figure", |stats| {
        stats.tls_failures.count(TlsFailure::NoApplicationProtocol) == 1
    });
}

fn sessions_are_resumed_on_any_worker(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        server.tls(server_tls()).websocket("/", |_| Echo).workers(2)
    });
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = client_of_version(version);
        let mut kinds = Vec::new();
        for _ in 0..8 {
            let mut peer = TlsPeer::new(server.addr, Arc::clone(&config), "localhost");
            peer.shake().expect("the handshake");
            peer.upgrade();
            // The ticket has come by now.
            peer.echo(b"hello");
            kinds.push(peer.tls.handshake_kind().expect("known"));
        }
        assert_eq!(kinds[0], HandshakeKind::Full);
        assert!(kinds[1..].iter().all(|kind| *kind == HandshakeKind::Resumed), "{kinds:?}");
    }
    let stats = server.wait_for("the figures", |stats| stats.tls_handshakes == 16);
    assert_eq!(stats.tls_resumed, 14);
}

fn a_reload_changes_newcomers_only(driver: Driver) {
    let server = start(driver);
    let mut early = TlsPeer::open(server.addr);
    let mut shaking = TlsPeer::new(server.addr, client_config(), "localhost");
    let fresh = authority().issue(&["localhost"]);
    let tls = ServerTls::new(fresh.identity()).only_tls13();
    server.handle.reload_tls(tls).expect("good settings");
    early.echo(b"still here");
    shaking.shake().expect("the handshake");
    let mut late = TlsPeer::open(server.addr);
    let shown = |peer: &TlsPeer| peer.tls.peer_certificates().expect("one")[0].clone();
    assert_eq!(shown(&early), localhost().der().0[0]);
    assert_eq!(shown(&late), fresh.der().0[0]);
    assert_eq!(late.tls.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    // Whoever was let in before shows again that it is allowed in.
    assert_eq!(late.tls.handshake_kind(), Some(HandshakeKind::Full));
    // What is impossible changes nothing.
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(fresh.der().0, fresh.der().1)
        .expect("a good pair");
    config.max_early_data_size = 1;
    let error = server.handle.reload_tls(Arc::new(config)).expect_err("early data");
    assert!(matches!(&error, TlsError::Settings(reason) if reason.contains("early data")));
    late.echo(b"still here");
    early.echo(b"still here");
    let plain = TestServer::start(driver, |server| server.websocket("/", |_| Echo));
    plain.handle.reload_tls(server_tls()).expect_err("no TLS");
}

struct Addressed;

impl Handler for Addressed {
    type Session = String;

    fn on_upgrade(&mut self, request: &UpgradeRequest<'_>) -> Upgrade<String> {
        Upgrade::accept(request.client_ip().map(|ip| ip.to_string()).unwrap_or_default())
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, String>, _message: Message<'_>) {
        let address = ws.session().clone();
        assert_eq!(ws.send(&address[..]), SendStatus::Sent);
    }
}

fn a_proxy_speaks_before_tls(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        server
            .tls(server_tls())
            .proxy_protocol(["127.0.0.1"])
            .websocket("/", |_| Addressed)
            .handshake_timeout(Duration::from_secs(2))
    });
    let header = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n";
    for cut in [0, 1, 20, header.len()] {
        let mut peer = TlsPeer::new(server.addr, client_config(), "localhost");
        peer.stream.write_all(&header[..cut]).expect("the server reads");
        std::thread::sleep(Duration::from_millis(5));
        let mut rest = header[cut..].to_vec();
        rest.extend_from_slice(&peer.records(b""));
        peer.stream.write_all(&rest).expect("the server reads");
        peer.shake().expect("the handshake");
        peer.upgrade();
        peer.send_frame(0x81, b"who am I?");
        assert_eq!(peer.read_frame().payload, b"192.0.2.7");
    }
    // Without it, or malformed: no answer in the clear, whatever it would have been.
    let mut bare = TlsPeer::new(server.addr, client_config(), "localhost");
    bare.shake().expect_err("no PROXY header");
    let mut half = Peer::connect(server.addr);
    half.send(&header[..10]);
    assert_eq!(half.read_to_end().unwrap_or_default(), b"");
    let mut plain = Peer::connect(server.addr);
    plain.send(header);
    plain.send(&request("/"));
    assert_eq!(alert(&plain.read_to_end().expect("FIN")), 50);
}

fn http_works_over_tls(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        server.tls(server_tls()).websocket("/", |_| Echo).get("/page", |request| {
            assert!(request.is_secure());
            Response::text("secret\n")
        })
    });
    for (path, status) in [("/page", "200"), ("/nothing", "404"), ("/", "426")] {
        let mut peer = TlsPeer::connect(server.addr);
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        peer.send(request.as_bytes());
        assert!(peer.read_head().starts_with(&format!("HTTP/1.1 {status} ")), "{path}");
        assert!(peer.read_to_end().expect("an end"), "close_notify");
    }
}

fn a_page_without_tls_is_of_another_site(driver: Driver) {
    let server = start(driver);
    for (origin, status) in [("https://localhost", "101"), ("http://localhost", "403")] {
        let mut peer = TlsPeer::connect(server.addr);
        let text = String::from_utf8(request("/")).expect("ASCII");
        let text = text.replace("\r\n\r\n", &format!("\r\nOrigin: {origin}\r\n\r\n"));
        peer.send(text.as_bytes());
        assert!(peer.read_head().starts_with(&format!("HTTP/1.1 {status} ")), "{origin}");
    }
}

/// A thousand hellos at once: whoever is open is served meanwhile, and they are served in the end.
fn established_connections_go_first(driver: Driver) {
    const CROWD: usize = 300;
    let server = start(driver);
    let mut established = TlsPeer::open(server.addr);
    let mut crowd: Vec<TlsPeer> =
        (0..CROWD).map(|_| TlsPeer::new(server.addr, client_config(), "localhost")).collect();
    for peer in &mut crowd {
        peer.flush().expect("the server reads");
    }
    let mut echoes = 0;
    while server.stats().tls_handshakes == 1 && echoes < 10 {
        established.echo(b"in between");
        echoes += 1;
    }
    for peer in &mut crowd {
        peer.shake().expect("the handshake");
        if echoes < 100 {
            established.echo(b"in between");
            echoes += 1;
        }
    }
    let done = |stats: &wirelane::Stats| stats.tls_handshakes as usize == CROWD + 1;
    let stats = server.wait_for("everybody to be served", done);
    assert_eq!(stats.tls_failures.total(), 0);
}

#[test]
fn impossible_settings_are_named() {
    let tls = ServerTls::new(localhost().identity())
        .client_auth(ClientAuth::Required, rustls::RootCertStore::empty().into());
    let error = Server::builder().listen("127.0.0.1:0").tls(tls).websocket("/", |_| Echo).build();
    let error = error.expect_err("nobody could be believed").to_string();
    assert!(error.contains("`tls`"), "{error}");
    let error = Identity::from_pem(b"nothing", b"nothing").expect_err("no PEM");
    assert!(error.to_string().contains("BEGIN CERTIFICATE"), "{error}");
    let (chain, _) = localhost().der();
    let (_, key) = authority().issue(&["other.test"]).der();
    let error = Identity::from_der(chain, key).expect_err("the key of another certificate");
    assert!(error.to_string().contains("not that of the first certificate"), "{error}");
}
