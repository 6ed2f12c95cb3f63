//! Mode `compare` as a user starts it, with stand-ins for the servers: `loadtest serve`, and servers
//! of the library in this process.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use wirelane::tls::Identity;
use wirelane::{Deflate, Handler, Message, Server, ServerBuilder, WebSocket};

/// A directory of scripts that are programs to the comparison.
fn programs(name: &str, files: &[(&str, String)]) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    for (file, script) in files {
        let path = directory.join(file);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    directory
}

/// A script that is this very program, as a server.
fn serve(arguments: &str) -> String {
    format!("exec '{}' serve {arguments} \"$@\"", env!("CARGO_BIN_EXE_loadtest"))
}

/// A CPU that this process may use.
fn cpu() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    list.trim().split([',', '-']).next().unwrap().to_owned()
}

/// Runs the comparison of these cells with one start of two short rounds. Returns its figures and
/// what it printed.
fn compare(peers: &Path, examples: &Path, cells: &str, more: &[&str]) -> (Value, String) {
    let json = peers.join("figures.json");
    let cpu = cpu();
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["compare", "--who", "wirelane,raw", "--starts", "1", "--rounds", "2"])
        .args(["--window", "20ms", "--server-cpu", &cpu, "--load-cpu", &cpu, "--cells", cells])
        .args([Path::new("--peers"), peers, Path::new("--examples"), examples])
        .args([Path::new("--json"), &json])
        .args(more)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let json = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    (json, String::from_utf8(output.stdout).unwrap())
}

/// The first cell whose name begins so.
fn cell<'j>(json: &'j Value, name: &str) -> &'j Value {
    let mut cells = json["cells"].as_array().unwrap().iter();
    let found = cells.find(|cell| cell["name"].as_str().unwrap().starts_with(name));
    found.unwrap_or_else(|| panic!("{name}: {json:#}"))
}

/// What is known of a contestant in that cell.
fn server<'j>(json: &'j Value, name: &str, who: &str) -> &'j Value {
    let mut servers = cell(json, name)["servers"].as_array().unwrap().iter();
    servers.find(|server| server["name"] == who).unwrap()
}

fn median(server: &Value, figure: &str) -> f64 {
    server[figure]["median"].as_f64().unwrap_or_else(|| panic!("no {figure}: {server:#}"))
}

const OURS: [&str; 2] = ["wirelane-epoll", "wirelane-io_uring"];

#[test]
fn those_who_are_there_are_measured_and_the_others_named() {
    let peers = programs("compare-peers", &[("uwebsockets", serve(""))]);
    let examples = programs("compare-examples", &[("echo", serve("--mode echo"))]);
    std::fs::write(peers.join("raw.failed"), "no compiler\n").unwrap();
    let saved = peers.join("saved");
    let csv = peers.join("figures.csv");
    let plot = peers.join("figures.svg");
    let path = |path: &Path| path.display().to_string();
    let (json, table) = compare(
        &peers,
        &examples,
        "echo 32 x 20 B binary x 1,subscriptions,publish from,system calls",
        &["--save", &path(&saved), "--csv", &path(&csv), "--plot", &path(&plot)],
    );
    for who in OURS {
        let ours = server(&json, "echo 32", who);
        assert!(median(ours, "per_second") > 0.0, "{ours}");
        assert!(ours["cpu_ns"]["ratio"].as_f64().unwrap() > 0.0, "{ours}");
        let subscribed = server(&json, "subscriptions", who);
        let bytes = median(subscribed, "bytes_per_subscription");
        assert!((1.0..200.0).contains(&bytes), "{subscribed}");
        assert!(median(server(&json, "publish from", who), "per_second") > 0.0);
    }
    assert!(cell(&json, "echo 32")["rounds"].as_u64().unwrap() >= 2);
    let raw = server(&json, "echo 32", "raw-epoll");
    assert!(raw["absent"].as_str().unwrap().contains("no compiler"), "{raw}");

    assert!(table.contains("## Budget") && table.contains("could not be built: no compiler"));
    let csv = std::fs::read_to_string(csv).unwrap();
    assert!(csv.starts_with("cell,connections,") && csv.contains(",wirelane-epoll,cpu_ns,"));
    assert!(std::fs::read_to_string(plot).unwrap().contains("</svg>"));
    let mut endings: Vec<String> = std::fs::read_dir(&saved)
        .unwrap()
        .map(|entry| entry.unwrap().path().extension().unwrap().to_string_lossy().into_owned())
        .collect();
    endings.sort();
    endings.dedup();
    assert_eq!(endings, ["csv", "json", "md", "svg"]);
}

/// Sends messages back, or to everybody.
struct Answer {
    to_all: bool,
}

impl Handler for Answer {
    type Session = ();

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        ws.subscribe("everybody").expect("no limit is that low");
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        if self.to_all {
            ws.publish_to_all("everybody", message);
        } else {
            ws.send(message);
        }
    }
}

/// The address of a server that lives as long as this process.
fn start(to_all: bool, settings: impl FnOnce(ServerBuilder) -> ServerBuilder) -> String {
    let (ready, listening) = mpsc::channel();
    let server = settings(Server::builder())
        .listen("127.0.0.1:0")
        .websocket("/", move |_worker| Answer { to_all })
        .on_listening(move |addrs| ready.send(addrs[0].to_string()).unwrap())
        .build()
        .unwrap();
    thread::spawn(move || server.run());
    listening.recv().unwrap()
}

/// A script that says that it listens where a server of this process does: the one for its
/// options.
fn stand_in(servers: &[(&str, String)]) -> String {
    let cases: String = servers
        .iter()
        .map(|(options, url)| format!("*'{options}'*) echo 'listening on {url}' ;;\n"))
        .collect();
    format!("case \"$*\" in\n{cases}*) exit 1 ;;\nesac\nexec sleep 60")
}

#[test]
fn compressed_messages_are_compared() {
    let echo = start(false, |server| server.deflate(Deflate::shared()));
    let echo = format!("ws://{echo}/");
    // Everybody has an audience of its own.
    let [first, second, third] = [(); 3]
        .map(|()| start(true, |server| server.deflate(Deflate::shared())))
        .map(|address| format!("ws://{address}/"));
    let peer = stand_in(&[("--mode echo", echo.clone()), ("--mode broadcast", first)]);
    let peers = programs("deflate-peers", &[("uwebsockets", peer)]);
    let fans = [
        ("--driver epoll --deflate shared", second),
        ("--driver io_uring --deflate shared", third),
    ];
    let examples = programs(
        "deflate-examples",
        &[("echo", stand_in(&[("--deflate shared", echo)])), ("broadcast", stand_in(&fans))],
    );
    let cells = "x 64 B json x 8, deflate shared,x 16 KiB json x 8, deflate shared,\
                 broadcast to 200, 1 KiB json, 16 a turn";
    let (json, table) = compare(&peers, &examples, cells, &[]);
    for who in OURS {
        for (name, most) in [
            ("echo 32 x 64 B json x 8, deflate shared", 70.0),
            ("echo 32 x 16 KiB json x 8, deflate shared", 10_000.0),
            ("broadcast to 200, 1 KiB json, 16 a turn, deflate shared", 800.0),
        ] {
            let ours = server(&json, name, who);
            assert!(median(ours, "per_second") > 0.0, "{ours}");
            let bytes = median(ours, "received_bytes_per_message");
            assert!((20.0..most).contains(&bytes), "{name}: {bytes}");
            let raw = server(&json, name, "raw-epoll")["absent"].as_str().unwrap();
            assert!(raw.contains("no protocol"), "{raw}");
        }
    }
    assert!(table.contains("publish 1 KiB of JSON, compressed, to 200, 16 a turn"), "{table}");
    assert!(table.contains("## Bytes that come back per message"), "{table}");
}

#[test]
fn tls_is_compared_with_and_without_resumption() {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    let identity = Identity::from_pem(certificate.as_bytes(), key.serialize_pem().as_bytes());
    let identity = identity.unwrap();
    let url = format!("wss://{}/", start(false, |server| server.tls(identity)));
    let script = stand_in(&[("--tls-key", url)]);
    let peers = programs("tls-peers", &[("uwebsockets", script.clone())]);
    let examples = programs("tls-examples", &[("echo", script)]);
    for file in ["cert.pem", "key.pem"] {
        // Only their names go to the stand-ins.
        std::fs::write(peers.join(file), "").unwrap();
    }
    let (json, table) =
        compare(&peers, &examples, "connect, 32 at once, TLS,idle, 500 connections, TLS", &[]);
    for who in OURS {
        for name in ["connect, 32 at once, TLS", "connect, 32 at once, TLS resumed"] {
            let ours = server(&json, name, who);
            assert!(median(ours, "per_second") > 0.0, "{ours}");
        }
        let idle = server(&json, "idle, 500 connections, TLS", who);
        assert!(idle["fresh_bytes_per_connection"]["median"].is_number(), "{idle}");
    }
    assert_eq!(cell(&json, "connect, 32 at once, TLS resumed")["resumed"], true);
    assert!(table.contains("TLS handshakes/s, resumed"), "{table}");
}

#[test]
fn a_share_of_capacity_is_one_rate_for_everybody() {
    let url = format!("ws://{}/", start(false, |server| server));
    let peers = programs("rate-peers", &[("uwebsockets", stand_in(&[("--mode", url.clone())]))]);
    let examples = programs("rate-examples", &[("echo", stand_in(&[("--driver", url)]))]);
    let (json, table) = compare(&peers, &examples, "% of capacity", &[]);
    let rate = |percent: u32| {
        let name = format!("latency 64 x 20 B at {percent} % of capacity");
        for who in OURS {
            let ours = server(&json, &name, who);
            assert!(ours["latency_ns"]["count"].as_u64().unwrap() > 0, "{ours}");
            assert!(median(ours, "p50_ns") <= median(ours, "p99.99_ns"), "{ours}");
        }
        cell(&json, &name)["messages_per_second"].as_f64().unwrap()
    };
    // Both are shares of one capacity.
    assert!((rate(80) / rate(50) - 1.6).abs() < 1e-9);
    assert!(table.contains("## Latency p99.99, open loop"), "{table}");
    assert!(table.contains("latency p99.9, 64 connections at 80 % of capacity"), "{table}");
}
