//! The examples over TLS, with the blocking client as the other end.

mod common;
#[path = "common/tls.rs"]
mod tls;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use common::child::{self, Program, command};
use common::{PATIENCE, Peer};
use tls::{Authority, TlsPeer, authority, client_config, localhost};
use wirelane::client::blocking::{Client, ClientBuilder, ClientError, Received};
use wirelane::tls::{ClientTls, Roots};
use wirelane::{CloseCode, Driver};

on_every_driver!(
    echo_speaks_wss,
    broadcast_speaks_wss,
    relay_speaks_wss,
    a_shutdown_says_1001_and_close_notify,
);

/// An example that speaks TLS.
fn start(name: &str, driver: Driver) -> Program {
    let (certificate, key) = localhost().write(&format!("{name}-{driver}"));
    let files = [certificate, key].map(|path| path.to_str().expect("UTF-8").to_owned());
    let program = Program::start(name, driver, &["--tls-cert", &files[0], "--tls-key", &files[1]]);
    assert_eq!(program.scheme, "wss");
    program
}

fn client() -> ClientBuilder {
    let tls = ClientTls::new(authority().roots()).expect("settings");
    Client::builder().tls(tls).read_timeout(PATIENCE)
}

fn url(program: &Program) -> String {
    format!("wss://localhost:{}/", program.addr().port())
}

fn echo_speaks_wss(driver: Driver) {
    let program = start("echo", driver);
    let mut client = client().connect(&url(&program)).expect("a server");
    for size in [0, 1, 126, 20_000, 70_000, 1 << 20] {
        let payload: Vec<u8> = (0..size).map(|byte| byte as u8).collect();
        client.send(&payload[..]).expect("open");
        assert!(client.receive().expect("an echo") == Received::Binary(payload), "{size} bytes");
    }
    client.ping(b"alive?").expect("open");
    assert_eq!(client.receive().expect("a Pong"), Received::Pong(b"alive?".to_vec()));
    assert_eq!(client.close(CloseCode::NORMAL, "done").expect("a Close").code, 1000);
    assert!(matches!(client.receive(), Err(ClientError::Closed)));
    program.stop();
}

fn broadcast_speaks_wss(driver: Driver) {
    let program = start("broadcast", driver);
    let mut clients: Vec<Client> =
        (0..3).map(|_| client().connect(&url(&program)).expect("a server")).collect();
    let text = "to everybody ".repeat(300);
    clients[0].send(&text[..]).expect("open");
    for client in &mut clients {
        assert_eq!(client.receive().expect("a message"), Received::Text(text.clone()));
    }
    drop(clients);
    program.stop();
}

fn relay_speaks_wss(driver: Driver) {
    let program = start("relay", driver);
    let mut clients: Vec<Client> =
        (0..3).map(|_| client().connect(&url(&program)).expect("a server")).collect();
    clients[0].send("to the others").expect("open");
    for client in &mut clients[1..] {
        assert_eq!(client.receive().expect("one"), Received::Text("to the others".into()));
    }
    drop(clients);
    program.stop();
}

fn a_shutdown_says_1001_and_close_notify(driver: Driver) {
    let program = start("echo", driver);
    let mut peer = TlsPeer::open(program.addr());
    let signalled = program.signal(libc::SIGTERM);
    assert_eq!(peer.read_frame().close_code(), 1001);
    peer.send_frame(0x88, &1001_u16.to_be_bytes());
    assert!(peer.read_to_end().expect("FIN"), "close_notify");
    program.expect_end(signalled, child::END);
}

#[test]
fn a_client_believes_whom_it_is_told_to() {
    let program = start("echo", Driver::Epoll);
    let stranger = ClientTls::new(Authority::new("another").roots()).expect("settings");
    let builder = Client::builder().tls(stranger);
    match builder.connect(&url(&program)) {
        Err(ClientError::Tls(reason)) => assert!(reason.contains("UnknownIssuer"), "{reason}"),
        other => panic!("{other:?}"),
    }
    // The name counts, too: the certificate is for `localhost` and 127.0.0.1.
    let port = program.addr().port();
    client().connect(&format!("wss://127.0.0.1:{port}/")).expect("its address");
    let stack = [format!("wss://localhost.localdomain:{port}/"), format!("wss://[::1]:{port}/")];
    for url in stack {
        client().connect(&url).expect_err("another name, or nobody there");
    }
    // Plain on a port that speaks TLS: no answer that could be one.
    Client::builder()
        .connect_timeout(Duration::from_secs(5))
        .connect(&format!("ws://localhost:{port}/"))
        .expect_err("no WebSocket server");
    program.stop();
}

#[test]
fn a_server_that_speaks_no_tls_is_found_out() {
    let program = Program::start("echo", Driver::Epoll, &[]);
    let error = client().connect(&url(&program)).expect_err("no TLS");
    assert!(matches!(error, ClientError::Tls(_) | ClientError::Ended), "{error}");
    program.stop();
}

#[test]
fn the_client_program_takes_an_authority() {
    let program = start("echo", Driver::Epoll);
    let file = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("authority.pem");
    std::fs::write(&file, authority().pem()).expect("a file");
    Roots::from_file(&file).expect("a certificate");
    let run = |args: &[&str]| {
        let mut command = command("client");
        command.args(args).arg(url(&program));
        child::run(command)
    };
    let output = run(&["--ping", "--ca", file.to_str().expect("UTF-8")]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("pong"), "{stderr}");
    let output = run(&["--ca", "/nowhere.pem"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere.pem"));
    program.stop();
}

#[test]
fn plain_requests_are_sent_to_the_tls_port_and_certificates_are_exchanged() {
    // Somebody may take it in between, which is as unlikely as it is harmless.
    let plain = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port");
    let (certificate, key) = localhost().write("redirect");
    let mut command = command("tls_redirect");
    command.args(["--listen", "127.0.0.1:0", "--plain", &plain.to_string()]);
    command.arg("--tls-cert").arg(&certificate).arg("--tls-key").arg(&key);
    let program = Program::spawn(command);
    let mut peer = Peer::connect(plain);
    peer.send(b"GET /a/b?c=d HTTP/1.1\r\nHost: localhost:80\r\nConnection: close\r\n\r\n");
    let answer = peer.read_answer();
    let url = format!("https://localhost:{}/a/b?c=d", program.addr().port());
    assert_eq!((answer.status, answer.header("Location")), (308, Some(&url[..])));

    let mut early = TlsPeer::open(program.addr());
    let fresh = authority().issue(&["localhost"]);
    std::fs::write(&certificate, &fresh.certificate).expect("a file");
    std::fs::write(&key, &fresh.key).expect("a file");
    program.signal(libc::SIGHUP);
    let start = Instant::now();
    loop {
        let mut late = TlsPeer::new(program.addr(), client_config(), "localhost");
        late.shake().expect("the handshake");
        if late.tls.peer_certificates() == Some(&fresh.der().0[..]) {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "the old certificate stays");
    }
    early.echo(b"still here");
    // Files that are no good change nothing.
    std::fs::write(&key, "no key").expect("a file");
    program.signal(libc::SIGHUP);
    early.echo(b"still here");
    TlsPeer::connect(program.addr());
    drop(early);
    program.stop();
}
