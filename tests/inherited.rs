//! Listeners that somebody else has bound: by this process, an earlier one, a service manager.

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::child::{Program, command};
use common::{Echo, PATIENCE, Peer, TestServer, frame, request};
use wirelane::{Accept, BoundListener, Driver, Error, Server};

on_every_driver!(
    listeners_of_the_standard_library_are_served,
    a_successor_takes_over_without_a_closed_door,
    a_service_manager_leaves_its_listeners,
);

fn listener() -> (TcpListener, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("an address");
    (listener, addr)
}

fn listeners_of_the_standard_library_are_served(driver: Driver) {
    let path = std::env::temp_dir().join(format!("wirelane-given-{}-{driver}", std::process::id()));
    for accept in [Accept::PerWorker, Accept::Spread] {
        let (tcp, addr) = listener();
        let unix = UnixListener::bind(&path).expect("a free path");
        let server = TestServer::start(driver, |server| {
            let server = server.workers(3).accept(accept).websocket("/", |_| Echo);
            server.listen_on(tcp).listen_on(unix)
        });
        let mut peers: Vec<Peer> = (0..12).map(|_| Peer::connect(addr)).collect();
        for peer in &mut peers {
            peer.handshake("/");
            peer.send_text("given");
            assert_eq!(peer.read_frame().payload, b"given");
        }
        let mut local = UnixStream::connect(&path).expect("it listens");
        local.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        local.write_all(&[request("/"), frame(0x81, b"unix")].concat()).expect("it reads");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\x81\x04unix") {
            let mut buffer = [0; 1024];
            let count = local.read(&mut buffer).expect("an answer");
            assert_ne!(count, 0);
            answer.extend_from_slice(&buffer[..count]);
        }
        if accept == Accept::Spread {
            assert_eq!([0, 1, 2].map(|worker| server.handle.connections_on(worker)), [5, 4, 4]);
        }
        // Beside them it listens on an address of its own.
        server.open();
        server.stop(Duration::ZERO).expect("a clean end");
        assert!(path.exists(), "the file belongs to whoever bound it");
        std::fs::remove_file(&path).expect("it is there");
        // A child that another test starts in this moment holds the listener until its exec.
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(addr).is_ok() {
            assert!(Instant::now() < deadline, "nobody listens any more");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn a_successor_takes_over_without_a_closed_door(driver: Driver) {
    let (tcp, addr) = listener();
    let start = || {
        let tcp = tcp.try_clone().expect("a descriptor");
        TestServer::start(driver, |server| {
            server.workers(2).listen_on(tcp).websocket("/", |_| Echo)
        })
    };
    let (stop, mut server) = (AtomicBool::new(false), start());
    thread::scope(|scope| {
        let visitors: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut visits = 0_usize;
                    while !stop.load(Ordering::Acquire) {
                        // Never refused: the listener stays, whoever serves.
                        let mut peer = Peer::connect(addr);
                        peer.stream.write_all(&request("/")).expect("the connection is there");
                        visits += 1;
                        if visits.is_multiple_of(8) {
                            thread::sleep(Duration::from_millis(1));
                        }
                    }
                    visits
                })
            })
            .collect();
        for _ in 0..5 {
            server.wait_for("visitors", |stats| stats.opened > 20);
            let successor = start();
            server.stop(Duration::from_millis(200)).expect("a clean end");
            server = successor;
        }
        let mut peer = Peer::connect(addr);
        peer.handshake("/");
        peer.send_text("the sixth server");
        assert_eq!(peer.read_frame().payload, b"the sixth server");
        stop.store(true, Ordering::Release);
        let visits = visitors.into_iter().map(|it| it.join().expect("no door was closed"));
        assert!(visits.sum::<usize>() > 100, "each of five servers saw more than 20");
    });
}

/// Starts the example `echo` as a service manager does, with these listeners.
fn activate(driver: Driver, fds: &str, pid: &str, listener: TcpListener) -> Command {
    let echo = command("echo");
    let mut shell = Command::new("sh");
    let script =
        format!("LISTEN_PID={pid} LISTEN_FDS={fds} exec \"$0\" \"$@\" 3<&0 4<&0 </dev/null");
    shell.arg("-c").arg(script).arg(echo.get_program());
    shell.args(["--listen", "systemd", "--workers", "2", "--driver", &driver.to_string()]);
    shell.stdin(OwnedFd::from(listener)).stdout(Stdio::piped()).stderr(Stdio::piped());
    shell
}

fn a_service_manager_leaves_its_listeners(driver: Driver) {
    let (tcp, addr) = listener();
    let kept = tcp.try_clone().expect("a descriptor");
    let program = Program::spawn(activate(driver, "2", "$$", tcp));
    assert_eq!(program.address, addr.to_string());
    for _ in 0..4 {
        let mut peer = program.open();
        peer.send_text("activated");
        assert_eq!(peer.read_frame().payload, b"activated");
    }
    program.stop();
    // The manager still has it: who comes now waits for the next start.
    let mut peer = Peer::connect(addr);
    let program = Program::spawn(activate(driver, "1", "$$", kept.try_clone().expect("one more")));
    peer.handshake("/");
    drop(peer);
    program.stop();
    for (fds, pid, status, problem) in [
        ("1", "1", 2, "no address given"),
        ("many", "$$", 2, "LISTEN_FDS is not the number"),
        ("3", "$$", 2, "Bad file descriptor"),
    ] {
        let listener = kept.try_clone().expect("one more");
        let output = activate(driver, fds, pid, listener).output().expect("sh");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{stderr}");
        assert!(stderr.contains(problem), "{stderr}");
    }
}

#[test]
fn what_cannot_listen_is_an_error() {
    let (near, _far) = UnixStream::pair().expect("a pair");
    let server = Server::builder().websocket("/", |_| Echo).listen_on(OwnedFd::from(near));
    match server.build() {
        Err(Error::Listen { address, source }) => {
            assert_eq!(address, "a listener that was given");
            assert_eq!(source.kind(), std::io::ErrorKind::InvalidInput);
        }
        other => panic!("{other:?}"),
    }
    assert!(BoundListener::inherited().expect("nothing was left to a test").is_empty());
}
