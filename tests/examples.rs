//! The command lines of the example servers: what they print, what they take, how they end.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Output;
use std::thread;
use std::time::Duration;

use common::child::{self, END, Program, command};
use common::{PATIENCE, Peer, frame, request};
use wirelane::Driver;

const PROGRAMS: [&str; 4] = ["echo", "broadcast", "relay", "slow_consumer"];

on_every_driver!(
    they_say_where_they_listen_and_end_when_told,
    they_end_in_time_under_load,
    late_answers_are_waited_for_by_every_worker,
    whoever_asks_twice_does_not_wait,
    a_unix_socket_is_served_and_removed,
    plain_requests_are_answered,
    the_number_of_workers_is_as_asked,
    an_echo_keeps_the_opcode,
    a_broadcast_reaches_everybody,
    a_relay_reaches_everybody_else,
    one_slow_reader_does_not_stop_the_others,
    a_slow_consumer_gets_the_newest_prices,
    limits_are_those_of_the_command_line,
    timeouts_are_those_of_the_command_line,
);

/// A path that no other test uses.
fn socket_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("wirelane-examples-{}-{name}.sock", std::process::id()))
}

/// Runs an example with arguments that do not make it serve.
fn run(name: &str, args: &[&str]) -> Output {
    let mut command = command(name);
    command.args(args);
    child::run(command)
}

fn they_say_where_they_listen_and_end_when_told(driver: Driver) {
    for (name, signal) in PROGRAMS.into_iter().zip([libc::SIGTERM, libc::SIGINT].repeat(2)) {
        let program = Program::start(name, driver, &[]);
        assert_ne!(program.addr().port(), 0, "{name}");
        let peers = [program.open(), program.open()];
        let signalled = program.signal(signal);
        for mut peer in peers {
            let close = peer.read_frame();
            assert_eq!(close.close_code(), 1001, "{name}");
            peer.send_frame(0x88, &close.payload);
            peer.expect_end();
        }
        program.expect_end(signalled, END);
    }
}

fn they_end_in_time_under_load(driver: Driver) {
    let args = [&["--workers", "1"], &["--workers", "3"]];
    // Both at once: each takes as long as peers may take to answer.
    let programs = args.map(|args| Program::start("echo", driver, args));
    let mut ignorant = Vec::new();
    let mut floods = Vec::new();
    for program in &programs {
        // These do not answer the Close; one of them does not even read, and one says nothing.
        ignorant.extend((0..5).map(|_| program.open()));
        let deaf = program.open();
        deaf.stream.set_nonblocking(true).expect("a socket");
        while (&deaf.stream).write(&frame(0x82, &[7; 60_000])).is_ok() {}
        ignorant.push(deaf);
        ignorant.push(program.connect());
        let mut torn = program.connect();
        torn.send(b"GET / HT");
        ignorant.push(torn);
        for _ in 0..4 {
            let peer = program.open();
            floods.push(thread::spawn(move || flood(peer)));
        }
    }
    thread::sleep(Duration::from_millis(300));
    let signalled = programs.each_ref().map(|program| program.signal(libc::SIGTERM));
    for (program, signalled) in programs.into_iter().zip(signalled) {
        program.expect_end(signalled, END);
    }
    for peer in &mut ignorant[..5] {
        assert_eq!(peer.read_frame().close_code(), 1001);
    }
    for flood in floods {
        assert_eq!(flood.join().expect("every message came back"), 1001);
    }
}

/// Sends messages as fast as they come back, until a Close arrives; then answers that and gives its
/// code.
fn flood(mut peer: Peer) -> u16 {
    const BATCH: usize = 50;
    let message = [b'x'; 200];
    let batch = frame(0x82, &message).repeat(BATCH);
    loop {
        peer.send(&batch);
        for _ in 0..BATCH {
            let received = peer.read_frame();
            if received.first == 0x88 {
                peer.send_frame(0x88, &received.payload);
                peer.expect_end();
                return received.close_code();
            }
            assert_eq!((received.first, &received.payload[..]), (0x82, &message[..]));
        }
    }
}

fn late_answers_are_waited_for_by_every_worker(driver: Driver) {
    let program = Program::start("echo", driver, &["--workers", "3"]);
    let mut peer = program.open();
    let signalled = program.signal(libc::SIGTERM);
    let close = peer.read_frame();
    assert_eq!(close.close_code(), 1001);
    // The workers without connections have ended long before this answer.
    thread::sleep(Duration::from_millis(500));
    peer.send_frame(0x88, &close.payload);
    peer.expect_end();
    drop(peer);
    program.expect_end(signalled, END);
}

fn whoever_asks_twice_does_not_wait(driver: Driver) {
    let in_time = || {
        let program = Program::start("echo", driver, &[]);
        let mut peer = program.open();
        program.signal(libc::SIGTERM);
        assert_eq!(peer.read_frame().close_code(), 1001);
        let signalled = program.signal(libc::SIGTERM);
        program.expect_end(signalled, END);
        // The first signal alone would wait 3 s for the peer's answer.
        signalled.elapsed() < Duration::from_millis(2500)
    };
    // A machine that is busy elsewhere may be late once, but not always.
    assert!((0..5).any(|_| in_time()), "the second signal changes nothing");
}

fn a_unix_socket_is_served_and_removed(driver: Driver) {
    let path = socket_path(&driver.to_string());
    let mut command = command("echo");
    let listen = format!("unix:{}", path.display());
    command.args(["--driver", &driver.to_string(), "--listen", &listen]);
    let program = Program::spawn(command);
    assert_eq!(program.address, listen);
    let mut stream = UnixStream::connect(&path).expect("the program listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(&request("/")).expect("the program reads");
    stream.write_all(&frame(0x81, b"over unix")).expect("the program reads");
    let mut received = Vec::new();
    while !received.ends_with(b"\x81\x09over unix") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("more bytes in time");
        received.push(byte[0]);
    }
    assert!(received.starts_with(b"HTTP/1.1 101 "));
    drop(stream);
    program.stop();
    assert!(!path.exists(), "the socket's file is removed");
}

fn plain_requests_are_answered(driver: Driver) {
    for name in PROGRAMS {
        let program = Program::start(name, driver, &[]);
        let get = |path: &str, headers: &str| {
            let mut peer = program.connect();
            let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
            peer.send(head.as_bytes());
            let answer = peer.read_answer();
            (answer.head, String::from_utf8(answer.body).expect("UTF-8"))
        };
        for headers in ["", "Connection: close\r\n", "Connection: keep-alive\r\n"] {
            let (head, body) = get("/healthz", headers);
            assert!(head.starts_with("HTTP/1.1 200 "), "{name}: {head}");
            assert_eq!(body, "ok\n");
        }
        // What a browser asks for when somebody types the address.
        let (head, body) = get("/", "Accept: text/html\r\nConnection: keep-alive\r\n");
        if name == "echo" {
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            assert!(head.contains("text/html"), "{head}");
            assert!(body.contains("<script") && body.contains("WebSocket"), "{body}");
        } else {
            assert!(head.starts_with("HTTP/1.1 426 "), "{name}: {head}");
        }
        let (head, _) = get("/nothing-here", "");
        assert!(head.starts_with("HTTP/1.1 404 "), "{name}: {head}");
        program.stop();
    }
}

fn the_number_of_workers_is_as_asked(driver: Driver) {
    let cores = thread::available_parallelism().expect("a number").get();
    for (asked, count) in [("1", 1), ("3", 3), ("0", cores)] {
        let program = Program::start("echo", driver, &["--workers", asked]);
        assert_eq!(program.workers(), count, "--workers {asked}");
        program.stop();
    }
}

fn an_echo_keeps_the_opcode(driver: Driver) {
    for workers in ["0", "1", "3"] {
        let args = ["--workers", workers, "--deflate", "off"];
        let program = Program::start("echo", driver, &args);
        let mut peers: Vec<_> = (0..8).map(|_| program.open()).collect();
        for (first, payload) in [(0x81, "grüße".as_bytes()), (0x82, b"\xff\x00"), (0x81, b"")] {
            for peer in &mut peers {
                peer.send_frame(first, payload);
            }
            for peer in &mut peers {
                let echo = peer.read_frame();
                assert_eq!((echo.first, &echo.payload[..]), (first, payload));
            }
        }
        drop(peers);
        program.stop();
    }
}

fn a_broadcast_reaches_everybody(driver: Driver) {
    for workers in ["0", "1", "3"] {
        let program = Program::start("broadcast", driver, &["--workers", workers]);
        let mut peers: Vec<_> = (0..12).map(|_| program.open()).collect();
        // One that leaves is not missed.
        peers.remove(5).send_frame(0x88, &1000_u16.to_be_bytes());
        for sender in 0..peers.len() {
            let first = if sender % 2 == 0 { 0x81 } else { 0x82 };
            for number in 0..20 {
                peers[sender].send_frame(first, format!("{sender}: {number}").as_bytes());
            }
            for (i, peer) in peers.iter_mut().enumerate() {
                for number in 0..20 {
                    let copy = peer.read_frame();
                    let text = String::from_utf8(copy.payload).expect("ASCII");
                    let wanted = (first, format!("{sender}: {number}"));
                    assert_eq!((copy.first, text), wanted, "peer {i}, --workers {workers}");
                }
            }
        }
        drop(peers);
        program.stop();
    }
}

fn a_relay_reaches_everybody_else(driver: Driver) {
    for workers in ["0", "1", "3"] {
        let program = Program::start("relay", driver, &["--workers", workers]);
        let mut peers: Vec<_> = (0..12).map(|_| program.open()).collect();
        peers.remove(5).send_frame(0x88, &1000_u16.to_be_bytes());
        // A message that came back to its sender would be found before that of the next sender.
        for sender in 0..peers.len() {
            let first = if sender % 2 == 0 { 0x81 } else { 0x82 };
            peers[sender].send_frame(first, format!("from {sender}").as_bytes());
            for (i, peer) in peers.iter_mut().enumerate().filter(|(i, _)| *i != sender) {
                let copy = peer.read_frame();
                let text = String::from_utf8(copy.payload).expect("ASCII");
                let wanted = (first, format!("from {sender}"));
                assert_eq!((copy.first, text), wanted, "peer {i}, --workers {workers}");
            }
        }
        drop(peers);
        program.stop();
    }
}

/// The queue of a peer that does not read ends at --max-backpressure, and the others do not wait
/// for it. Nobody reads the program's stderr meanwhile.
fn one_slow_reader_does_not_stop_the_others(driver: Driver) {
    for name in ["broadcast", "relay"] {
        let program = Program::start(name, driver, &["--max-backpressure", "100000"]);
        let slow = program.open();
        let mut sender = program.open();
        let mut reader = program.open();
        let mut send = |count, len| {
            let payload = vec![b'z'; len];
            for i in 0..count {
                sender.send_frame(0x82, &payload);
                assert!(reader.read_frame().payload == payload, "{name}: {i}");
                if name == "broadcast" {
                    assert!(sender.read_frame().payload == payload, "{name}: {i}");
                }
            }
        };
        // More than kernel and queue hold; every receive buffer has been in use after that.
        send(150, 65_536);
        let before = program.resident();
        send(8000, 1000);
        let grown = program.resident().saturating_sub(before);
        assert!(grown < 4 << 20, "{name}: {grown} bytes more");
        drop((slow, sender, reader));
        program.stop();
    }
}

/// Two prices change faster than one reader reads. It gets the newest of each, in order, and is told
/// how many it missed; a reader that keeps up misses nothing.
fn a_slow_consumer_gets_the_newest_prices(driver: Driver) {
    let program = Program::start("slow_consumer", driver, &["--max-backpressure", "500000"]);
    let mut slow = program.open();
    let mut prompt = program.open();
    for reader in [&mut slow, &mut prompt] {
        reader.send_text("watch");
        assert_eq!(reader.read_frame().payload, b"watching");
    }
    let mut feed = program.open();
    // The rest of each line is there to fill the socket soon.
    let rest = "x".repeat(60_000);
    const LAST: usize = 400;
    for price in 0..=LAST {
        for symbol in ["AAA", "BBB"] {
            let line = format!("{symbol} {price} {rest}");
            feed.send_text(&line);
            assert!(prompt.read_frame().payload == line.as_bytes(), "a prompt reader gets all");
        }
    }
    let mut prices = [Vec::new(), Vec::new()];
    let mut missed = 0;
    while prices.each_ref().map(|prices| prices.last().copied()) != [Some(LAST); 2] || missed == 0 {
        let line = String::from_utf8(slow.read_frame().payload).expect("text");
        let (symbol, value) = line.split_once(' ').expect("two words");
        let value = value.split(' ').next().and_then(|value| value.parse().ok());
        let value: usize = value.expect("a number");
        match symbol {
            "AAA" => prices[0].push(value),
            "BBB" => prices[1].push(value),
            "missed" => missed += value,
            _ => panic!("{symbol}"),
        }
    }
    for prices in &prices {
        assert!(prices.is_sorted(), "not in order: {prices:?}");
    }
    assert!(missed > 100, "{missed}");
    assert_eq!(prices[0].len() + prices[1].len() + missed, 2 * (LAST + 1));
    drop((slow, prompt, feed));
    program.stop();
}

fn limits_are_those_of_the_command_line(driver: Driver) {
    let program = Program::start("echo", driver, &["--max-message", "1000"]);
    let mut peer = program.open();
    peer.send_frame(0x82, &[1; 1000]);
    assert_eq!(peer.read_frame().payload, [1; 1000]);
    peer.send_frame(0x82, &[1; 1001]);
    peer.expect_close(1009);
    drop(peer);
    program.stop();

    // 16 MiB by default, to the byte.
    let program = Program::start("echo", driver, &[]);
    let mut peer = program.open();
    let message = frame(0x82, &vec![5; 16 << 20]);
    let stream = peer.stream.try_clone().expect("a second handle");
    let writer = thread::spawn(move || (&stream).write_all(&message));
    assert_eq!(peer.read_frame().payload.len(), 16 << 20);
    writer.join().expect("no panic").expect("the program reads");
    let mut header = vec![0x82, 0xff];
    header.extend_from_slice(&((16_u64 << 20) + 1).to_be_bytes());
    peer.send(&header);
    peer.expect_close(1009);
    drop(peer);
    program.stop();
}

fn timeouts_are_those_of_the_command_line(driver: Driver) {
    let args = ["--handshake-timeout-ms", "200", "--ping-interval-ms", "0"];
    let program =
        Program::start("echo", driver, &[&args[..], &["--idle-timeout-ms", "0"]].concat());
    let mut quiet = program.open();
    let mut silent = program.connect();
    silent.expect_end();
    let mut torn = program.connect();
    torn.send(b"GET / HTTP/1.1\r\n");
    assert!(torn.read_head().starts_with("HTTP/1.1 408 "));
    // Whoever is through has no more deadline.
    quiet.send_text("still there");
    assert_eq!(quiet.read_frame().payload, b"still there");
    drop((quiet, silent, torn));
    program.stop();

    let args = ["--ping-interval-ms", "100", "--idle-timeout-ms", "600"];
    let program = Program::start("echo", driver, &args);
    let mut peer = program.open();
    assert_eq!(peer.read_frame().first, 0x89, "a Ping");
    // No answer: the connection is cut.
    assert_eq!(peer.read_to_end().unwrap_or_default(), b"");
    drop(peer);
    program.stop();
}

#[test]
fn wrong_arguments_are_named_and_end_with_status_2() {
    let wrong: [(&[&str], &str); 24] = [
        (&["--nonsense"], "--nonsense"),
        (&["-x"], "-x"),
        (&["9001"], "9001"),
        (&["--listen"], "--listen"),
        (&["--listen", "127.0.0.1"], "PORT"),
        (&["--listen", "unix:"], "unix:PATH"),
        (&["--driver", "kqueue"], "--driver"),
        (&["--driver", "kqueue"], "io_uring"),
        (&["--workers", "many"], "--workers"),
        (&["--workers", "-1"], "--workers"),
        (&["--workers", "5000"], "workers"),
        (&["--max-message", "16M"], "--max-message"),
        (&["--max-message", "0"], "max_message"),
        (&["--max-backpressure", "1"], "backpressure"),
        (&["--idle-timeout-ms", "2.5"], "--idle-timeout-ms"),
        (&["--ping-interval-ms"], "--ping-interval-ms"),
        (&["--deflate", "maybe"], "--deflate"),
        (&["--deflate", "shared", "--deflate-level", "10"], "level"),
        (&["--deflate-level", "most"], "--deflate-level"),
        (&["--deflate-level", "6"], "--deflate shared"),
        (&["--busy-poll-us", "300us"], "--busy-poll-us"),
        (&["--busy-poll-us", "1000001"], "at most 1000000 us"),
        (&["--tls-cert", "x"], "--tls-key"),
        (&["--tls-cert", "/nowhere", "--tls-key", "/nowhere"], "/nowhere"),
    ];
    for name in PROGRAMS {
        for (args, named) in wrong {
            // If an argument were taken, the program should not get far.
            let output = run(name, &[&["--listen", "127.0.0.1:0"], args].concat());
            let stderr = String::from_utf8(output.stderr).expect("UTF-8");
            assert_eq!(output.status.code(), Some(2), "{name} {args:?}: {stderr}");
            assert_eq!(output.stdout, b"", "{name} {args:?}");
            let first = stderr.lines().next().unwrap_or_default();
            assert!(first.contains(named), "{name} {args:?}: {first}");
        }
    }
    let wrong: [(&[&str], &str); 3] =
        [(&[], "--url"), (&["--url", "http://localhost"], "ws://HOST:PORT"), (&["-x"], "-x")];
    for (args, named) in wrong {
        let output = run("autobahn_client", args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.lines().next().unwrap_or_default().contains(named), "{stderr}");
    }
}

#[test]
fn help_is_no_mistake() {
    for name in PROGRAMS {
        let output = run(name, &["--help"]);
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(text.contains("--listen") && text.contains("io_uring"), "{text}");
    }
    let output = run("autobahn_client", &["--help"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("--url ws://HOST:PORT"));
}

#[test]
fn a_server_that_cannot_start_ends_with_status_1() {
    let refused = |name: &str, args: &[&str], named: &str| {
        let output = run(name, args);
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(1), "{name} {args:?}: {stderr}");
        assert_eq!(output.stdout, b"", "{name} {args:?}");
        assert!(stderr.contains(named), "{name} {args:?}: {stderr}");
    };
    let one = Program::start("echo", Driver::Auto, &[]);
    let many = Program::start("echo", Driver::Auto, &["--workers", "2"]);
    for name in PROGRAMS {
        refused(name, &["--listen", &one.address], &one.address);
        // Workers of one server share a port; servers do not.
        refused(name, &["--listen", &one.address, "--workers", "2"], &one.address);
        refused(name, &["--listen", &many.address], &many.address);
        refused(name, &["--listen", &many.address, "--workers", "2"], &many.address);
        // An address of nobody (RFC 5737).
        refused(name, &["--listen", "192.0.2.1:9001"], "192.0.2.1:9001");
        refused(name, &["--listen", "unix:/nowhere/socket"], "/nowhere/socket");
    }
    one.stop();
    many.stop();

    let path = socket_path("taken");
    let listen = format!("unix:{}", path.display());
    let mut server = command("echo");
    server.args(["--listen", &listen]);
    let server = Program::spawn(server);
    refused("relay", &["--listen", &listen], &listen);
    assert!(UnixStream::connect(&path).is_ok(), "the first server still listens");
    server.stop();

    std::fs::write(&path, "precious").expect("a temporary file");
    refused("echo", &["--listen", &listen], &listen);
    assert_eq!(std::fs::read(&path).expect("still there"), b"precious");
    std::fs::remove_file(&path).expect("removed");
}
