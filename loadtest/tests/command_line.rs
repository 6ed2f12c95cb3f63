//! The program as a user starts it, against a small echo server in this process.
//!
//! The server has one thread per connection and is built from `wirelane::protocol` alone, so that
//! a defect of the event loops cannot hide here or show here.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;
use wirelane::protocol::upgrade::{HeadScanner, Refusal, Request, ServerHandshake};
use wirelane::protocol::{BufferPool, CloseCode, Endpoint, Event, Limits, Message};

/// What the server does with messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Sends them back, after a ping that comes in one piece with the handshake.
    Honest,
    /// Changes the last byte.
    Corrupt,
    /// Answers the first with Close(1001).
    Leave,
    /// Ends TCP at the first.
    Hang,
    /// Answers none.
    Silent,
    /// As the honest one, but sleeps for 200 ms before the fiftieth.
    Stall,
}

struct Server {
    address: String,
    pongs: Arc<AtomicUsize>,
}

impl Server {
    fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let pongs = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&pongs);
        // The threads end with the connections, the listener with this process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&seen);
                // A connection that ends in an error is what some of the tests are about.
                thread::spawn(move || drop(serve(stream, manner, &seen)));
            }
        });
        Self { address, pongs }
    }

    fn url(&self) -> String {
        format!("ws://{}/", self.address)
    }
}

fn serve(mut stream: TcpStream, manner: Manner, pongs: &AtomicUsize) -> io::Result<()> {
    let limits = Limits::new();
    let (mut received, mut scanner) = (Vec::new(), HeadScanner::new());
    let mut buffer = vec![0; 64 * 1024];
    let mut out = Vec::new();
    let head_len = loop {
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        received.extend_from_slice(&buffer[..len]);
        if let Some(head_len) = scanner.scan(&received, &limits).map_err(io::Error::other)? {
            break head_len;
        }
    };
    if let Err(refusal) = answer(&received[..head_len], &limits, &mut out) {
        refusal.write_response(&mut out);
        return stream.write_all(&out);
    }
    let mut endpoint = Endpoint::server(limits);
    let mut pool = BufferPool::new(1 << 20);
    if manner == Manner::Honest {
        endpoint.ping(b"hello", &mut out).map_err(io::Error::other)?;
    }
    let mut messages = 0;
    let mut unread = received.split_off(head_len);
    loop {
        let mut input = unread.as_mut_slice();
        while let Some(event) = endpoint.receive(&mut input, &mut pool).map_err(io::Error::other)? {
            match &event {
                Event::Pong(payload) => {
                    assert_eq!(payload.as_slice(), b"hello");
                    pongs.fetch_add(1, Ordering::SeqCst);
                }
                Event::Close(_) => {
                    endpoint.reply_close(&mut out);
                    return stream.write_all(&out);
                }
                Event::Text(_) | Event::Binary(_) => match manner {
                    Manner::Honest => send(&mut endpoint, &event, &mut out),
                    Manner::Corrupt => {
                        send(&mut endpoint, &event, &mut out);
                        *out.last_mut().expect("an echo was appended") ^= 1;
                    }
                    Manner::Leave => {
                        endpoint.close(Some(CloseCode::GOING_AWAY), "enough", &mut out);
                    }
                    Manner::Hang => return Ok(()),
                    Manner::Silent => {}
                    Manner::Stall => {
                        messages += 1;
                        if messages == 50 {
                            thread::sleep(std::time::Duration::from_millis(200));
                        }
                        send(&mut endpoint, &event, &mut out);
                    }
                },
                Event::Ping(_) => {}
            }
            event.recycle(&mut pool);
        }
        stream.write_all(&out)?;
        out.clear();
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        unread.clear();
        unread.extend_from_slice(&buffer[..len]);
    }
}

fn answer(head: &[u8], limits: &Limits, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let request = Request::parse(head, limits)?;
    if request.path() != "/" {
        return Err(Refusal::NotFound);
    }
    let handshake = ServerHandshake::check(&request)?;
    handshake.write_response(None, &[], out).expect("no header was given");
    Ok(())
}

fn send(endpoint: &mut Endpoint, event: &Event<'_>, out: &mut Vec<u8>) {
    let message = match event {
        Event::Text(text) => Message::Text(text.as_str()),
        Event::Binary(bytes) => Message::Binary(bytes.as_slice()),
        _ => return,
    };
    endpoint.send(message, out).expect("the endpoint is open");
}

/// Runs the program with these words, separated by spaces.
fn loadtest(line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadtest")).args(line.split(' ')).output().unwrap()
}

/// Options that have `compare` use a CPU that this process may use, for both sides.
fn cpus() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    let cpu = list.trim().split([',', '-']).next().unwrap();
    format!("--server-cpu {cpu} --load-cpu {cpu}")
}

/// A file of this test's own, absent at first.
fn json_path(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_file(&path);
    path
}

/// Runs the program, which must succeed, and reads the figures.
fn figures(line: &str, name: &str) -> (Value, Output) {
    let path = json_path(name);
    let output = loadtest(&format!("{line} --json {}", path.display()));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {stderr}");
    let text = std::fs::read_to_string(&path).unwrap();
    (serde_json::from_str(&text).unwrap(), output)
}

/// Runs the program, which must fail with this status, and returns what it said.
fn failure(line: &str, status: i32) -> String {
    let output = loadtest(line);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{line}: {stderr}");
    assert!(output.stdout.is_empty());
    stderr
}

#[test]
fn echo_measures_every_kind_of_message() {
    let server = Server::start(Manner::Honest);
    let pid = std::process::id();
    let mut connections = 0;
    for (number, options) in
        ["--size 0 --depth 3", "--size 1024 --depth 8 --utf8", "--size 70000 --depth 2 --binary"]
            .into_iter()
            .enumerate()
    {
        let line = format!(
            "echo --url {} --connections 4 {options} --verify --warmup 20ms --duration 500ms \
             --server-pid {pid}",
            server.url()
        );
        let (json, output) = figures(&line, &format!("echo-{number}.json"));
        connections += 4;
        assert_eq!(json["errors"], 0);
        assert_eq!(json["connections"], 4);
        let messages = json["messages"].as_u64().unwrap();
        assert!(messages > 0, "{json}");
        assert_eq!(json["latency_ns"]["count"], messages);
        let latency = |name: &str| json["latency_ns"][name].as_u64().unwrap();
        assert!(latency("p50") > 0 && latency("p50") <= latency("p99"));
        assert!(latency("p99") <= latency("p99.9") && latency("p99.9") <= latency("max"));
        let received = json["received_mb_per_second"].as_f64().unwrap();
        let sent = json["sent_mb_per_second"].as_f64().unwrap();
        assert!(received > 0.0 && sent > received * 0.9, "{json}");
        assert!(json["server"]["cpu_ns_per_message"].as_f64().unwrap() > 0.0);
        assert!(json["server"]["rss_bytes"].as_u64().unwrap() > 4096);
        assert!(json["environment"]["kernel"].is_string());
        let table = String::from_utf8(output.stdout).unwrap();
        assert!(table.contains("messages/s") && table.contains("round trip p99.9"), "{table}");
    }
    let (csv, plot) = (json_path("echo.csv"), json_path("echo.svg"));
    let line = format!(
        "echo --url {} --connections 1 --warmup 0 --duration 50ms --csv {} --plot {}",
        server.url(),
        csv.display(),
        plot.display()
    );
    figures(&line, "echo-plotted.json");
    connections += 1;
    let csv = std::fs::read_to_string(csv).unwrap();
    assert_eq!(csv.lines().count(), 2);
    assert!(csv.contains("latency_ns.p99.99"), "{csv}");
    let svg = std::fs::read_to_string(plot).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("polyline"), "{svg}");
    // The ping of each connection was answered, although it came with the handshake.
    assert_eq!(server.pongs.load(Ordering::SeqCst), connections);
}

/// Sends what it receives to all, or to all others.
struct Fan {
    to_all: bool,
}

impl wirelane::Handler for Fan {
    type Session = ();

    fn on_open(&mut self, ws: &mut wirelane::WebSocket<'_, ()>) {
        ws.subscribe("fan").expect("no limit is that low");
    }

    fn on_message(&mut self, ws: &mut wirelane::WebSocket<'_, ()>, message: Message<'_>) {
        let _ = match self.to_all {
            true => ws.publish_to_all("fan", message),
            false => ws.publish("fan", message),
        };
    }
}

#[test]
fn broadcast_and_relay_count_deliveries() {
    for (mode, to_all) in [("broadcast", true), ("relay", false)] {
        let (ready, listening) = std::sync::mpsc::channel();
        let server = wirelane::Server::builder()
            .listen("127.0.0.1:0")
            .websocket("/", move |_| Fan { to_all })
            .on_listening(move |addrs| ready.send(addrs[0].to_string()).unwrap())
            .build()
            .unwrap();
        let handle = server.handle();
        let thread = thread::spawn(move || server.run());
        let url = format!("ws://{}/", listening.recv().unwrap());
        let pid = std::process::id();
        for (number, options) in
            ["--size 20 --depth 16", "--size 3000 --depth 3"].iter().enumerate()
        {
            let line = format!(
                "{mode} --url {url} --connections 5 {options} --verify --warmup 20ms \
                 --duration 500ms --server-pid {pid}"
            );
            let (json, output) = figures(&line, &format!("{mode}-{number}.json"));
            assert_eq!((&json["mode"], &json["errors"]), (&mode.into(), &0.into()));
            let windows = json["latency_ns"]["count"].as_u64().unwrap();
            let receivers = if to_all { 5 } else { 4 };
            let depth = json["depth"].as_u64().unwrap();
            assert!(windows > 0, "{json}");
            assert_eq!(json["messages"].as_u64(), Some(windows * depth * receivers), "{json}");
            let table = String::from_utf8(output.stdout).unwrap();
            assert!(table.contains("ns/delivery") && table.contains("window p99.9"), "{table}");
        }
        handle.shutdown(std::time::Duration::ZERO);
        thread.join().unwrap().unwrap();
        // A server that delivers to nobody else is noticed.
        if !to_all {
            let server = Server::start(Manner::Honest);
            let line = format!("relay --url {} --connections 2 --duration 100ms", server.url());
            assert!(failure(&line, 1).contains("more messages came back"));
        }
    }
}

#[test]
fn latency_follows_its_schedule() {
    let server = Server::start(Manner::Honest);
    let line = format!(
        "latency --url {} --connections 3 --rate 1000 --size 300 --verify --warmup 20ms \
         --duration 300ms --server-pid {}",
        server.url(),
        std::process::id()
    );
    let (json, output) = figures(&line, "latency.json");
    // The schedule says how many messages there are, however fast the machine is.
    let messages = json["messages"].as_u64().unwrap();
    assert_eq!(messages, 300, "{json}");
    assert_eq!(json["latency_ns"]["count"], messages);
    assert_eq!(json["sent_late_ns"]["count"], messages);
    let at = |name: &str| json["latency_ns"][name].as_u64().unwrap();
    assert!(at("p50") <= at("p99") && at("p99.9") <= at("p99.99") && at("p99.99") <= at("max"));
    // Latency counts from the schedule, so that it holds the lateness, too.
    assert!(at("max") >= json["sent_late_ns"]["p50"].as_u64().unwrap());
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("latency p99.99") && table.contains("sent late p99"), "{table}");
}

#[test]
fn a_stall_is_charged_to_every_message_that_was_due() {
    let server = Server::start(Manner::Stall);
    let line = format!(
        "latency --url {} --connections 1 --rate 1000 --warmup 0 --duration 400ms",
        server.url()
    );
    let (json, _) = figures(&line, "stall.json");
    // The server sleeps for 200 ms once: a closed loop would report that for one message only.
    let at = |name: &str| json["latency_ns"][name].as_u64().unwrap();
    assert!(at("max") >= 150_000_000, "{json}");
    assert!(at("p90") >= 50_000_000, "{json}");
}

#[test]
fn connect_counts_handshakes() {
    let server = Server::start(Manner::Silent);
    for end in ["", " --abrupt"] {
        let line = format!(
            "connect --url {} --concurrency 4 --warmup 10ms --duration 500ms --quiet{end}",
            server.url()
        );
        let (json, output) = figures(&line, "connect.json");
        assert!(json["handshakes"].as_u64().unwrap() > 0, "{json}");
        assert_eq!(json["latency_ns"]["count"], json["handshakes"]);
        assert_eq!(json["server"], Value::Null);
        assert!(output.stdout.is_empty(), "a quiet run has no table");
    }
}

#[test]
fn idle_reads_the_memory_of_the_server() {
    let server = Server::start(Manner::Honest);
    let line = format!(
        "idle --url {} --connections 20 --echo 100 --hold 50ms --server-pid {}",
        server.url(),
        std::process::id()
    );
    let (json, _) = figures(&line, "idle.json");
    let bytes = |name: &str| json[name].as_f64().unwrap();
    assert!(bytes("rss_open_bytes") > 4096.0);
    let growth = (bytes("pss_open_bytes") - bytes("pss_before_bytes")) / 20.0;
    assert_eq!(bytes("pss_per_connection_bytes"), growth);
}

#[test]
fn servers_that_misbehave_end_the_run() {
    // Those who do something end it; silence is noticed when the time is over.
    for (manner, duration, said) in [
        (Manner::Corrupt, "20s", "byte 9 came back changed"),
        (Manner::Leave, "20s", "the server closed: 1001 enough"),
        (Manner::Hang, "20s", "connection 1: "),
        (Manner::Silent, "100ms", "no echo came back in "),
    ] {
        let server = Server::start(manner);
        let url = server.url();
        let line =
            format!("echo --url {url} --connections 1 --size 10 --warmup 0 --duration {duration}");
        let stderr = failure(&line, 1);
        assert!(stderr.contains(said), "{manner:?}: {stderr}");
    }
}

#[test]
fn what_cannot_start_says_why() {
    let server = Server::start(Manner::Honest);
    let url = server.url();
    // No port that the kernel gives to anybody.
    assert!(failure("echo --url ws://127.0.0.1:1/", 1).contains("refused"));
    assert!(failure("connect --url ws://127.0.0.1:1/", 1).contains("refused"));
    assert!(failure("echo --url unix:/nowhere.sock", 1).contains("/nowhere.sock"));
    assert!(failure(&format!("echo --url {url}elsewhere"), 1).contains("404"));
    assert!(failure(&format!("echo --url {url} --json /nowhere/a.json"), 1).contains("/nowhere"));
    assert!(failure(&format!("echo --url {url} --server-pid 4194305"), 1).contains("4194305"));
    let line = format!(
        "compare --peers /nowhere --examples /nowhere --who wirelane {} --cells connect --starts 1",
        cpus()
    );
    assert!(failure(&line, 1).contains("nobody could be measured"));
    assert!(failure("serve --mode echo --listen 127.0.0.1:1:1", 1).contains("127.0.0.1:1:1"));
    assert!(failure("matrix --server /nowhere --server-cpu 100000", 1).contains("CPU 100000"));
}

#[test]
fn wrong_arguments_show_the_usage() {
    for line in [
        "compare --budget --full",
        "compare --window 1ms",
        "compare --starts 0",
        "compare --deflate-level 10",
    ] {
        assert!(failure(line, 2).contains("loadtest MODE --url URL"), "{line}");
    }
    // The usual ones may not be there.
    let cpus = cpus();
    let stderr = failure(&format!("compare --who nginx --no-build {cpus}"), 1);
    assert!(stderr.contains("nobody is called 'nginx'"), "{stderr}");
    let stderr = failure(&format!("compare --cells nothing --no-build {cpus}"), 1);
    assert!(stderr.contains("no cell"), "{stderr}");
    for line in ["", "sing", "echo", "echo --url nonsense", "echo --url ws://h/ --depth 0"] {
        let stderr = failure(line, 2);
        assert!(stderr.contains("loadtest MODE --url URL"), "{line}: {stderr}");
    }
    let output = loadtest("--help");
    assert!(output.status.success() && output.stdout.starts_with(b"loadtest MODE"));
}
