//! Tests of what only this driver has: modes, buffers that run out, queues that overflow.
//! What every driver must do is tested in `driver::contract`.

use std::collections::HashMap;
use std::io::{IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use super::*;

const MODES: [ReceiveMode; 3] =
    [ReceiveMode::Incremental, ReceiveMode::Multishot, ReceiveMode::SingleShot];

/// `None`, and a line that says why, where io_uring is refused.
fn open(options: UringOptions) -> Option<(Uring, ReceiveMemory)> {
    match Uring::new(options) {
        Ok(opened) => Some(opened),
        Err(reason) if reason.is_refused() => {
            eprintln!("skipped: {reason}");
            None
        }
        Err(reason) => panic!("{reason}"),
    }
}

/// A driver with a listener that sends everything back.
struct Echo {
    driver: Uring,
    memory: ReceiveMemory,
    address: SocketAddr,
    peers: HashMap<ConnectionId, Peer>,
    next_slot: u32,
    generation: u32,
    free: Vec<u32>,
    released: usize,
    largest_read: usize,
}

#[derive(Default)]
struct Peer {
    unsent: Vec<u8>,
    ended: bool,
    closed: bool,
}

impl Echo {
    fn new(options: UringOptions) -> Option<Self> {
        let (mut driver, memory) = open(options)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let address = listener.local_addr().expect("bound");
        driver.listen(listener.into()).expect("listening");
        Some(Self {
            driver,
            memory,
            address,
            peers: HashMap::new(),
            next_slot: 0,
            generation: 0,
            free: Vec::new(),
            released: 0,
            largest_read: 0,
        })
    }

    fn turn(&mut self, timeout_ms: u64) {
        self.driver.wait(Some(timeout_ms)).expect("wait");
        while let Some(event) = self.driver.next_event(&mut self.memory) {
            match event {
                Event::Accepted(socket) => {
                    let slot = self.free.pop().unwrap_or_else(|| {
                        self.next_slot += 1;
                        self.next_slot - 1
                    });
                    self.generation += 1;
                    let id = ConnectionId::new(3, slot, self.generation);
                    self.driver.adopt(id, socket).expect("adopt");
                    self.peers.insert(id, Peer::default());
                }
                Event::Received { id, bytes } => {
                    self.largest_read = self.largest_read.max(bytes.len());
                    let peer = self.peers.get_mut(&id).expect("a live connection");
                    assert!(!peer.closed && !peer.ended, "bytes after the end");
                    let mut sent = 0;
                    if peer.unsent.is_empty() {
                        sent = self.driver.send(id, &[IoSlice::new(bytes)]).expect("send");
                    }
                    peer.unsent.extend_from_slice(&bytes[sent..]);
                    // Bytes on loan may be changed at will.
                    bytes.fill(0xEE);
                }
                Event::Writable(id) => {
                    let peer = self.peers.get_mut(&id).expect("a live connection");
                    assert!(!peer.closed, "writable after close");
                    let sent = self.driver.send(id, &[IoSlice::new(&peer.unsent)]).expect("send");
                    peer.unsent.drain(..sent);
                    if peer.ended && peer.unsent.is_empty() {
                        peer.closed = true;
                        self.driver.close(id);
                    }
                }
                Event::Ended(id) => {
                    let peer = self.peers.get_mut(&id).expect("a live connection");
                    assert!(!peer.ended && !peer.closed, "ended twice");
                    peer.ended = true;
                    if peer.unsent.is_empty() {
                        peer.closed = true;
                        self.driver.close(id);
                    }
                }
                Event::Connected(id) => unreachable!("nobody connects {id:?}"),
                Event::Failed(id, error) => panic!("{id:?}: {error}"),
                Event::Released(id) => {
                    assert!(self.peers.remove(&id).expect("known").closed, "released unasked");
                    self.free.push(id.slot() as u32);
                    self.released += 1;
                }
                Event::AcceptPaused(error) => panic!("{error}"),
                Event::Woken => {}
            }
        }
        // Everything in flight belongs to somebody, and nobody who should read does not.
        let mut in_flight = 1;
        for slot in &self.driver.slots {
            let armed = matches!(slot.receive, ReceiveState::Armed | ReceiveState::Cancelling);
            in_flight += usize::from(armed) + usize::from(slot.polling);
            if slot.phase == Phase::Open && slot.reading {
                assert_ne!(slot.receive, ReceiveState::Idle, "an open connection is forgotten");
            }
        }
        for listener in &self.driver.listeners {
            in_flight += usize::from(listener.accept != AcceptState::Idle);
        }
        assert_eq!(in_flight, self.driver.in_flight);
    }

    /// Runs until `count` connections were released.
    fn serve(&mut self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.released < count {
            assert!(Instant::now() < deadline, "stalled: {:?}", self.driver.stats());
            self.turn(1000);
        }
        assert_eq!(self.driver.stats().sockets, 0);
    }
}

/// Connects, passes `start`, sends `len` bytes that `seed` determines, and expects them back.
fn exchange(
    address: SocketAddr,
    start: &Arc<Barrier>,
    seed: u32,
    len: usize,
) -> thread::JoinHandle<()> {
    let start = Arc::clone(start);
    thread::Builder::new()
        .stack_size(128 * 1024)
        .spawn(move || {
            let sent = pattern(seed, len);
            let mut stream = TcpStream::connect(address).expect("connect");
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
            start.wait();
            let mut writer = stream.try_clone().expect("clone");
            let copy = sent.clone();
            let writing = thread::Builder::new()
                .stack_size(64 * 1024)
                .spawn(move || {
                    writer.write_all(&copy).expect("write");
                    writer.shutdown(Shutdown::Write).expect("shutdown");
                })
                .expect("thread");
            let mut back = Vec::new();
            stream.read_to_end(&mut back).expect("read");
            writing.join().expect("writer");
            assert_eq!(back.len(), sent.len());
            assert!(back == sent, "bytes differ");
        })
        .expect("thread")
}

fn pattern(seed: u32, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..len).map(|_| step()).collect()
}

fn echo_everything(options: UringOptions, connections: u32, len: usize) -> Option<Echo> {
    let mut echo = Echo::new(options)?;
    let start = Arc::new(Barrier::new(connections as usize + 1));
    let clients: Vec<_> =
        (0..connections).map(|seed| exchange(echo.address, &start, seed, len)).collect();
    while echo.peers.len() < connections as usize {
        echo.turn(1000);
    }
    start.wait();
    // All of them fill the kernel's buffers before the driver looks.
    thread::sleep(Duration::from_millis(50));
    echo.serve(connections as usize);
    for client in clients {
        client.join().expect("client");
    }
    Some(echo)
}

#[test]
fn every_mode_echoes_and_releases() {
    for best_mode in MODES {
        let options = UringOptions { buffers: 16, best_mode, ..UringOptions::default() };
        let Some(echo) = echo_everything(options, 3, 300_000) else { return };
        assert_eq!(echo.driver.receive_mode(), best_mode);
        assert_eq!(echo.driver.stats().buffers_exhausted, 0);
    }
}

/// Each of many connections has a whole buffer to be received, and there are few buffers.
#[test]
fn whoever_waits_for_a_buffer_does_not_keep_failing() {
    const CONNECTIONS: u32 = 64;
    let options = UringOptions { buffer_bytes: 4096, buffers: 4, ..UringOptions::default() };
    let Some((mut driver, mut memory)) = open(options) else { return };
    let mut peers = Vec::new();
    for slot in 0..CONNECTIONS {
        let (ours, mut peer) = UnixStream::pair().expect("a pair");
        peer.write_all(&[1; 4096]).expect("room");
        let socket = AcceptedSocket::Os(Socket::from(OwnedFd::from(ours)));
        driver.adopt(ConnectionId::new(0, slot, 1), socket).expect("adopted");
        peers.push(peer);
    }
    let mut received = 0;
    while received < CONNECTIONS as usize * 4096 {
        driver.wait(Some(1000)).expect("wait");
        while let Some(event) = driver.next_event(&mut memory) {
            let Event::Received { bytes, .. } = event else { panic!("{event:?}") };
            received += bytes.len();
        }
    }
    // Once before it is served, once after it has taken the last buffer, and a few in between. If
    // everybody tried in every turn it would be more than 400.
    let exhausted = driver.stats().buffers_exhausted;
    assert!(exhausted <= u64::from(4 * CONNECTIONS), "{exhausted} times out of buffers");
}

#[test]
fn exhausted_buffers_lose_nothing() {
    for best_mode in MODES {
        let options =
            UringOptions { buffer_bytes: 4096, buffers: 8, best_mode, ..UringOptions::default() };
        let Some(echo) = echo_everything(options, 40, 100_000) else { return };
        assert!(echo.driver.stats().buffers_exhausted > 0, "the test did not exhaust buffers");
        assert!(echo.largest_read <= 4096);
        // Every buffer is back: as many bytes were recycled as were handed out.
        assert!((0..8).all(|bid| echo.driver.buffers.position(bid) < 4096));
    }
}

#[test]
fn one_buffer_is_enough_for_many() {
    let options = UringOptions { buffer_bytes: 512, buffers: 1, ..UringOptions::default() };
    let Some(echo) = echo_everything(options, 10, 20_000) else { return };
    assert_eq!(echo.largest_read, 512);
}

#[test]
fn queues_smaller_than_the_burst_lose_nothing() {
    for best_mode in MODES {
        let options = UringOptions {
            buffer_bytes: 1024,
            buffers: 64,
            submissions: 2,
            completions: 4,
            best_mode,
        };
        let Some(echo) = echo_everything(options, 40, 20_000) else { return };
        assert_eq!(echo.released, 40);
    }
}

#[test]
fn one_small_echo_costs_one_enter() {
    let Some(mut echo) = Echo::new(UringOptions::default()) else { return };
    let mut client = TcpStream::connect(echo.address).expect("connect");
    let mut back = [0; 5];
    let mut once = |echo: &mut Echo| {
        client.write_all(b"hello").expect("write");
        echo.turn(1000);
        // Of no importance while the turn has sent the answer.
        client.set_read_timeout(Some(Duration::from_millis(500))).expect("timeout");
        while client.read_exact(&mut back).is_err() {
            echo.turn(1000);
        }
        assert_eq!(&back, b"hello");
    };
    once(&mut echo);
    let before = echo.driver.enters;
    for _ in 0..100 {
        once(&mut echo);
    }
    assert_eq!(echo.driver.enters - before, 100);
}

#[test]
fn looking_without_work_does_not_enter_the_kernel() {
    let Some(mut echo) = Echo::new(UringOptions::default()) else { return };
    let mut client = TcpStream::connect(echo.address).expect("connect");
    echo.turn(1000);
    echo.turn(0);
    let before = echo.driver.enters;
    for _ in 0..1000 {
        echo.turn(0);
    }
    assert_eq!(echo.driver.enters, before);
    // And yet nothing is missed.
    client.write_all(b"x").expect("write");
    let deadline = Instant::now() + Duration::from_secs(20);
    while echo.largest_read == 0 {
        assert!(Instant::now() < deadline, "looking alone never finds the byte");
        echo.turn(0);
    }
    assert_eq!(echo.driver.enters, before + 1);
}

/// Accepts one connection and adopts it as `id`.
fn connect(echo: &mut Echo) -> (TcpStream, ConnectionId) {
    let known: Vec<_> = echo.peers.keys().copied().collect();
    let client = TcpStream::connect(echo.address).expect("connect");
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    loop {
        echo.turn(1000);
        if let Some(&id) = echo.peers.keys().find(|id| !known.contains(id)) {
            return (client, id);
        }
    }
}

#[test]
fn resuming_before_the_cancellation_came_back_keeps_reading() {
    for best_mode in MODES {
        let options = UringOptions { best_mode, ..UringOptions::default() };
        let Some(mut echo) = Echo::new(options) else { return };
        let (mut client, id) = connect(&mut echo);
        for round in 0..20_u8 {
            echo.driver.pause_reading(id);
            if round % 3 == 1 {
                // Twice in one turn, and once with the cancellation already in the kernel.
                echo.driver.resume_reading(id);
                echo.driver.pause_reading(id);
            }
            if round % 3 == 2 {
                echo.turn(0);
            }
            client.write_all(&[round; 3]).expect("write");
            echo.driver.resume_reading(id);
            let mut back = [0; 3];
            client.set_nonblocking(true).expect("non-blocking");
            let deadline = Instant::now() + Duration::from_secs(20);
            while client.peek(&mut back).is_err() {
                assert!(Instant::now() < deadline, "round {round}: nothing is read");
                echo.turn(10);
            }
            client.set_nonblocking(false).expect("blocking");
            client.read_exact(&mut back).expect("read");
            assert_eq!(back, [round; 3]);
        }
    }
}

#[test]
fn a_paused_connection_receives_nothing_and_closes() {
    let Some(mut echo) = Echo::new(UringOptions::default()) else { return };
    let (mut client, id) = connect(&mut echo);
    echo.driver.pause_reading(id);
    echo.turn(10);
    assert_eq!(echo.driver.slots[id.slot()].receive, ReceiveState::Idle);
    client.write_all(b"unread").expect("write");
    echo.turn(10);
    assert_eq!(echo.largest_read, 0);
    echo.peers.get_mut(&id).expect("adopted").closed = true;
    echo.driver.close(id);
    echo.serve(1);
    // RFC 1122 4.2.2.13: input that nobody read ends in RST.
    let end = client.read(&mut [0; 8]);
    assert_eq!(end.expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn closing_swallows_bytes_of_the_same_batch_and_recycles_them() {
    for best_mode in MODES {
        let options =
            UringOptions { buffer_bytes: 64, buffers: 4, best_mode, ..UringOptions::default() };
        let Some(mut echo) = Echo::new(options) else { return };
        for _ in 0..20 {
            let (mut client, id) = connect(&mut echo);
            client.write_all(&[7; 200]).expect("write");
            echo.driver.wait(Some(1000)).expect("wait");
            // The bytes are completions already; the worker decides to close first.
            echo.peers.get_mut(&id).expect("adopted").closed = true;
            echo.driver.close(id);
            let goal = echo.released + 1;
            while echo.released < goal {
                echo.turn(1000);
            }
            let mut rest = Vec::new();
            let _ = client.read_to_end(&mut rest);
            assert!(rest.is_empty());
        }
        // If buffers had been lost, this could not work.
        let start = Arc::new(Barrier::new(1));
        let client = exchange(echo.address, &start, 1, 5000);
        echo.serve(21);
        client.join().expect("client");
        if best_mode != ReceiveMode::SingleShot {
            assert!(echo.driver.stats().stale_events > 0, "the race was not met");
        }
    }
}

#[test]
fn closing_with_a_full_socket_releases() {
    let Some(mut echo) = Echo::new(UringOptions::default()) else { return };
    let (client, id) = connect(&mut echo);
    let chunk = vec![1; 1 << 20];
    while echo.driver.send(id, &[IoSlice::new(&chunk)]).expect("send") == chunk.len() {}
    assert!(echo.driver.slots[id.slot()].polling);
    // Before Writable came, a further call is allowed and takes nothing.
    assert_eq!(echo.driver.send(id, &[IoSlice::new(&chunk)]).expect("send"), 0);
    echo.turn(0);
    echo.peers.get_mut(&id).expect("adopted").closed = true;
    echo.driver.close(id);
    echo.serve(1);
    drop(client);
}

#[test]
fn non_blocking_sockets_are_served_like_others() {
    let Some((mut driver, mut memory)) = open(UringOptions::default()) else { return };
    let (near, far) = Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    near.set_nonblocking(true).expect("non-blocking");
    let id = ConnectionId::new(0, 5, 0);
    driver.adopt(id, AcceptedSocket::Os(near)).expect("adopt");
    let before = driver.enters;
    driver.wait(Some(10)).expect("wait");
    assert!(driver.next_event(&mut memory).is_none());
    far.send(b"late").expect("send");
    driver.wait(Some(5000)).expect("wait");
    match driver.next_event(&mut memory) {
        Some(Event::Received { id: of, bytes }) => assert_eq!((of, &*bytes), (id, &b"late"[..])),
        other => panic!("{other:?}"),
    }
    assert_eq!(driver.enters - before, 2);
}

#[test]
fn a_peer_that_finished_and_reads_nothing_does_not_keep_the_driver_busy() {
    let Some((mut driver, mut memory)) = open(UringOptions::default()) else { return };
    let (near, far) = Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    let id = ConnectionId::new(0, 0, 0);
    driver.adopt(id, AcceptedSocket::Os(near)).expect("adopt");
    let chunk = vec![1; 1 << 20];
    while driver.send(id, &[IoSlice::new(&chunk)]).expect("send") == chunk.len() {}
    far.shutdown(Shutdown::Write).expect("shutdown");
    let before = driver.enters;
    let mut writables = 0;
    for _ in 0..10 {
        driver.wait(Some(5)).expect("wait");
        while let Some(event) = driver.next_event(&mut memory) {
            if let Event::Writable(_) = event {
                writables += 1;
                assert_eq!(driver.send(id, &[IoSlice::new(&chunk)]).expect("send"), 0);
            }
        }
    }
    assert!(writables <= 1, "{writables} times room that is none");
    assert!(driver.enters - before <= 10);
}

#[test]
fn slots_and_descriptors_return_to_zero() {
    let options = UringOptions { submissions: 16, completions: 32, ..UringOptions::default() };
    let Some(mut echo) = Echo::new(options) else { return };
    for round in 1..=20 {
        let clients: Vec<_> =
            (0..50).map(|_| TcpStream::connect(echo.address).expect("connect")).collect();
        while echo.peers.len() < 50 {
            echo.turn(1000);
        }
        drop(clients);
        echo.serve(50 * round);
    }
    assert_eq!(echo.driver.slots.len(), 50);
    assert!(echo.driver.slots.iter().all(|slot| slot.phase == Phase::Free));
    assert!(echo.driver.slots.iter().all(|slot| slot.socket.is_none()));
    assert_eq!(echo.driver.in_flight, 2, "the waker and the listener");
}

#[test]
fn stopping_refuses_new_peers_at_once() {
    let Some(mut echo) = Echo::new(UringOptions::default()) else { return };
    let (mut client, _) = connect(&mut echo);
    echo.driver.stop_listening();
    let refused = TcpStream::connect(echo.address).expect_err("closed");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    // Established connections go on.
    client.write_all(b"still").expect("write");
    while echo.largest_read == 0 {
        echo.turn(1000);
    }
    let mut back = [0; 5];
    client.read_exact(&mut back).expect("read");
    assert_eq!(&back, b"still");
    assert_eq!(echo.driver.in_flight, 2, "the waker and the connection");
}

#[test]
fn dropping_takes_every_operation_back() {
    let Some(mut echo) = Echo::new(UringOptions::default()) else { return };
    let mut clients: Vec<_> = (0..10).map(|_| connect(&mut echo).0).collect();
    // Accepted by the kernel, seen by nobody.
    clients.push(TcpStream::connect(echo.address).expect("connect"));
    clients[0].write_all(b"unseen").expect("write");
    let Echo { driver, memory, .. } = echo;
    let region = memory.region();
    drop(driver);
    drop(memory);
    assert_eq!(Arc::strong_count(&region), 1, "leaked");
    for client in &mut clients {
        let end = client.read(&mut [0; 8]);
        assert!(!matches!(end, Ok(1..)), "the peer sees the end");
    }
}

#[test]
fn a_wake_is_reported_once_and_the_next_one_too() {
    let Some((mut driver, mut memory)) = open(UringOptions::default()) else { return };
    let waker = driver.waker();
    for _ in 0..5 {
        let other = waker.clone();
        let thread = thread::spawn(move || {
            other.wake();
            other.wake();
        });
        thread.join().expect("woken");
        let mut woken = 0;
        driver.wait(Some(5000)).expect("wait");
        while let Some(event) = driver.next_event(&mut memory) {
            assert!(matches!(event, Event::Woken));
            woken += 1;
        }
        assert_eq!(woken, 1);
    }
    driver.wait(Some(0)).expect("wait");
    assert!(driver.next_event(&mut memory).is_none());
}

#[test]
fn waiting_ends_after_its_timeout() {
    let Some((mut driver, mut memory)) = open(UringOptions::default()) else { return };
    let before = driver.now_ms();
    driver.wait(Some(20)).expect("wait");
    assert!(driver.next_event(&mut memory).is_none());
    assert!((19..2000).contains(&(driver.now_ms() - before)));
}
