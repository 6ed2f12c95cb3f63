//! TLS and compression of the program, against servers of the library in this process.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::mpsc;
use std::thread;

use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use wirelane::tls::Identity;
use wirelane::{Deflate, Handler, Message, Server, ServerBuilder, WebSocket};

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        ws.send(message);
    }
}

/// The port of a server that lives as long as this process.
fn start(settings: impl FnOnce(ServerBuilder) -> ServerBuilder) -> u16 {
    let (ready, listening) = mpsc::channel();
    let server = settings(Server::builder())
        .listen("127.0.0.1:0")
        .websocket("/", |_worker| Echo)
        .on_listening(move |addrs| ready.send(addrs[0].to_string()).unwrap())
        .build()
        .unwrap();
    thread::spawn(move || server.run());
    let address = listening.recv().unwrap();
    address.rsplit_once(':').unwrap().1.parse().unwrap()
}

/// A certificate for `localhost` in a file, and an identity that uses it.
fn certificate(file: &str) -> (PathBuf, Identity) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(file);
    std::fs::write(&path, &certificate).unwrap();
    let identity = Identity::from_pem(certificate.as_bytes(), key.serialize_pem().as_bytes());
    (path, identity.unwrap())
}

fn loadtest(line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadtest")).args(line.split(' ')).output().unwrap()
}

fn figures(line: &str, name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let output = loadtest(&format!("{line} --quiet --json {}", path.display()));
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn failure(line: &str) -> String {
    let output = loadtest(line);
    assert_eq!(output.status.code(), Some(1), "{line}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn messages_go_over_tls() {
    let (ca, identity) = certificate("right.pem");
    let (other_ca, _) = certificate("wrong.pem");
    let port = start(|server| server.tls(identity));
    let url = format!("wss://localhost:{port}/");
    let ca = ca.display();
    for (number, options) in
        ["--size 20 --depth 8", "--size 200000 --depth 3 --binary"].into_iter().enumerate()
    {
        let line = format!(
            "echo --url {url} --ca {ca} --connections 3 {options} --verify --warmup 20ms \
             --duration 500ms"
        );
        let json = figures(&line, &format!("tls-{number}.json"));
        assert!(json["messages"].as_u64().unwrap() > 0, "{json}");
    }
    for resume in ["", " --resume"] {
        let line = format!(
            "connect --url {url} --concurrency 2 --warmup 0 --duration 500ms --ca {ca}{resume}"
        );
        let json = figures(&line, "tls-connect.json");
        let handshakes = json["handshakes"].as_u64().unwrap();
        assert!(handshakes > 0, "{json}");
        let resumed = json["resumed"].as_u64().unwrap();
        // Only the first one on each of the two lanes has no ticket.
        let least = if resume.is_empty() { 0 } else { handshakes.saturating_sub(2) };
        assert!(resumed >= least && (!resume.is_empty() || resumed == 0), "{json}");
    }
    // Any certificate is believed without --ca, and only those in the file with it.
    let line =
        format!("latency --url {url} --rate 200 --connections 2 --warmup 0 --duration 100ms");
    assert!(figures(&line, "tls-latency.json")["messages"].as_u64().unwrap() > 0);
    let said = failure(&format!("echo --url {url} --ca {}", other_ca.display()));
    assert!(said.contains("certificate"), "{said}");
    let said = failure(&format!("echo --url {url} --ca /nowhere.pem"));
    assert!(said.contains("/nowhere.pem"), "{said}");
}

#[test]
fn messages_are_compressed_both_ways() {
    for (name, settings) in [("shared", Deflate::shared()), ("dedicated", Deflate::dedicated(15))] {
        let port = start(move |server| server.deflate(settings));
        let line = format!(
            "echo --url ws://127.0.0.1:{port}/ --deflate --content json --size 3000 --depth 4 \
             --connections 3 --verify --warmup 20ms --duration 500ms"
        );
        let json = figures(&line, &format!("deflate-{name}.json"));
        let messages = json["messages_per_second"].as_f64().unwrap();
        assert!(messages > 0.0, "{json}");
        for direction in ["sent_mb_per_second", "received_mb_per_second"] {
            let bytes = json[direction].as_f64().unwrap() * 1e6 / messages;
            assert!(bytes < 1500.0, "{direction}: {bytes} bytes for a message of 3000");
        }
    }
    let port = start(|server| server.deflate(Deflate::off()));
    let said = failure(&format!("echo --url ws://127.0.0.1:{port}/ --deflate"));
    assert!(said.contains("does not accept permessage-deflate"), "{said}");
}
