//! The contract on epoll, and what epoll promises beyond it.

use std::io::Write;
use std::time::Duration;

use super::super::contract::contract_tests;
use super::super::lab::{LONG_WAIT_MS, Lab, Loopback, Peer, RealDriver, Rig, Skip};
use super::super::listener::{self, ListenOptions};
use super::*;

struct Tcp;

impl RealDriver for Tcp {
    const UNIX: bool = false;

    fn open(receive_buffer: usize) -> Result<(Box<dyn Driver>, ReceiveMemory), Skip> {
        Ok(open(receive_buffer))
    }
}

struct Unix;

impl RealDriver for Unix {
    const UNIX: bool = true;

    fn open(receive_buffer: usize) -> Result<(Box<dyn Driver>, ReceiveMemory), Skip> {
        Ok(open(receive_buffer))
    }
}

fn open(receive_buffer: usize) -> (Box<dyn Driver>, ReceiveMemory) {
    // Few events per turn, so that batches are cut somewhere.
    let (driver, memory) = Epoll::new(EpollConfig { receive_buffer, events: 16 }).unwrap();
    (Box::new(driver), memory)
}

mod tcp {
    use super::*;
    contract_tests!(Loopback<Tcp>);
}

mod unix {
    use super::*;
    contract_tests!(Loopback<Unix>);
}

fn rig() -> Rig<Loopback<Tcp>> {
    Rig::open(64 * 1024).expect("epoll is everywhere")
}

fn os_socket(socket: &AcceptedSocket) -> &Socket {
    match socket {
        AcceptedSocket::Os(socket) => socket,
        AcceptedSocket::Simulated(_) => panic!("not from this driver"),
    }
}

#[test]
fn a_reset_is_told_while_reading_is_paused() {
    let mut rig = rig();
    let (id, mut peer) = rig.connect();
    rig.worker.driver.pause_reading(id);
    assert_eq!(peer.send(b"unread"), 6);
    rig.settle();
    peer.reset();
    rig.until("Failed", |rig| rig.worker.connection(id).failed);
    assert_eq!(rig.worker.connection(id).received, b"");
}

#[test]
fn a_reset_is_told_after_the_end() {
    let mut rig = rig();
    let (id, mut peer) = rig.connect();
    peer.finish_sending();
    rig.until("Ended", |rig| rig.worker.connection(id).ended);
    peer.reset();
    rig.until("Failed", |rig| rig.worker.connection(id).failed);
}

#[test]
fn fin_and_reset_in_one_batch_are_both_told() {
    let mut rig = rig();
    for len in [0, 10, 64 * 1024, 70_000] {
        let (id, mut peer) = rig.connect();
        rig.settle();
        assert_eq!(peer.send(&vec![7; len]), len);
        peer.finish_sending();
        peer.reset();
        rig.until("Failed", |rig| rig.worker.connection(id).failed);
        assert_eq!(rig.worker.connection(id).received, vec![7; len]);
        rig.close_and_release(id);
    }
}

#[test]
fn a_connection_reads_on_before_others() {
    const LEN: usize = 5 * 4096 + 10;
    for wanted in [false, true] {
        let mut rig: Rig<Loopback<Tcp>> = Rig::open(4096).expect("epoll is everywhere");
        let mut pairs: Vec<_> = (0..3).map(|_| rig.connect()).collect();
        rig.settle();
        for (_, peer) in &mut pairs {
            assert_eq!(peer.send(&[1; LEN]), LEN);
        }
        let mut order = Vec::new();
        let mut first_turn = None;
        while order.len() < 3 * 6 {
            rig.turn_with(2, |worker, event| {
                let Event::Received { id, .. } = event else { return };
                order.push(*id);
                if wanted {
                    worker.read_on(*id);
                }
            });
            first_turn.get_or_insert(order.len());
        }
        let changes = order.windows(2).filter(|pair| pair[0] != pair[1]).count();
        // Whole connections one after the other, or a buffer of each in turn.
        assert_eq!((first_turn, changes), if wanted { (Some(18), 2) } else { (Some(3), 17) });
    }
}

#[test]
fn last_words_are_heard_although_a_send_is_blocked() {
    let mut rig = rig();
    let (id, mut peer) = rig.connect();
    rig.fill(id);
    assert_eq!(peer.send(b"last words"), 10);
    peer.reset();
    rig.until("death", |rig| rig.worker.connection(id).is_dead());
    assert_eq!(rig.worker.connection(id).received, b"last words");
}

#[test]
fn a_descriptor_that_lives_on_elsewhere_reaches_nobody() {
    let mut rig = rig();
    let mut old_peer = rig.lab.connect().unwrap();
    rig.until("accept", |rig| !rig.worker.newcomers.is_empty());
    // As a child process would hold it: the registration outlives our close.
    let duplicate = os_socket(&rig.worker.newcomers[0]).try_clone().unwrap();
    let old = rig.worker.adopt_next();
    rig.close_and_release(old);
    let (new, mut new_peer) = rig.connect();
    assert_eq!(new.slot(), old.slot());
    rig.settle();
    let before = rig.worker.driver.stats().stale_events;
    assert_eq!(old_peer.send(b"for nobody"), 10);
    old_peer.finish_sending();
    rig.until("stale events", |rig| rig.worker.driver.stats().stale_events > before);
    assert!(rig.waits_in_60_ms() < 25, "the stale registration spins");
    rig.peer_sends(&mut new_peer, b"for me");
    rig.expect_received(new, b"for me");
    assert!(!rig.worker.connection(new).ended);
    drop(duplicate);
}

#[test]
fn blocking_sockets_do_not_block() {
    let mut rig = rig();
    let mut peer = rig.lab.connect().unwrap();
    rig.until("accept", |rig| !rig.worker.newcomers.is_empty());
    let socket = os_socket(&rig.worker.newcomers[0]);
    socket.set_nonblocking(false).unwrap();
    // If it did block, then not for ever.
    let longer_than_the_deadline = Some(Duration::from_millis(LONG_WAIT_MS));
    socket.set_read_timeout(longer_than_the_deadline).unwrap();
    socket.set_write_timeout(longer_than_the_deadline).unwrap();
    let id = rig.worker.adopt_next();
    rig.peer_sends(&mut peer, &[1; 64 * 1024]);
    rig.expect_received(id, &[1; 64 * 1024]);
    let sent = rig.fill(id);
    rig.peer_receives(&mut peer, &sent);
}

#[test]
fn a_busy_listener_does_not_keep_another_waiting() {
    let (mut driver, mut memory) = open(4096);
    let mut addrs = Vec::new();
    for _ in 0..2 {
        let any = "127.0.0.1:0".parse().unwrap();
        let listener = listener::bind(&any, &ListenOptions::default()).unwrap();
        addrs.push(listener::local_addr(&listener).unwrap().socket_addr().unwrap());
        driver.listen(listener).unwrap();
    }
    let connect = |addr| std::net::TcpStream::connect(addr).unwrap();
    let _peers: Vec<_> = (0..100).map(|_| connect(addrs[0])).chain([connect(addrs[1])]).collect();
    let mut accepted = [0, 0];
    // The first wait may know of one listener only.
    for turn in 1..=2 {
        driver.wait(Some(1000)).unwrap();
        while let Some(event) = driver.next_event(&mut memory) {
            let Event::Accepted(socket) = event else { panic!("{event:?}") };
            let local = os_socket(&socket).local_addr().unwrap().as_socket().unwrap();
            accepted[usize::from(local == addrs[1])] += 1;
        }
        assert!(accepted[0] <= turn * 64, "{accepted:?}");
        if accepted[0] > 0 && accepted[1] == 1 {
            return;
        }
    }
    panic!("accepted {accepted:?}");
}

fn listening() -> (Box<dyn Driver>, ReceiveMemory, SocketAddr) {
    let (mut driver, memory) = open(4096);
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = listener::bind(&any, &ListenOptions::default()).unwrap();
    let addr = listener::local_addr(&listener).unwrap().socket_addr().unwrap();
    driver.listen(listener).unwrap();
    (driver, memory, addr)
}

#[test]
fn a_crowd_needs_few_turns() {
    let (mut driver, mut memory, addr) = listening();
    let mut peers = Vec::new();
    // A second crowd finds what was learnt of the lone one before it.
    for crowd in [100, 1, 100] {
        peers.extend((0..crowd).map(|_| std::net::TcpStream::connect(addr).unwrap()));
        let (mut accepted, mut turns) = (0, 0);
        while accepted < crowd {
            driver.wait(Some(1000)).unwrap();
            while let Some(event) = driver.next_event(&mut memory) {
                assert!(matches!(event, Event::Accepted(_)), "{event:?}");
                accepted += 1;
            }
            turns += 1;
        }
        // 1, 2, 4, ... up to 64 per turn.
        assert!(accepted == crowd && turns <= 8, "{accepted} in {turns} turns");
    }
}

/// Who is always ready fills every wait, so that a listener is not heard in each of them.
#[test]
fn a_crowd_among_busy_connections_needs_few_turns() {
    let (mut driver, mut memory, addr) = listening();
    let mut turn = |accepted: &mut Vec<AcceptedSocket>, driver: &mut Box<dyn Driver>| {
        driver.wait(Some(1000)).unwrap();
        while let Some(event) = driver.next_event(&mut memory) {
            if let Event::Accepted(socket) = event {
                accepted.push(socket);
            }
        }
    };
    let (mut busy, mut accepted) = (Vec::new(), Vec::new());
    for slot in 0..64 {
        busy.push(std::net::TcpStream::connect(addr).unwrap());
        while accepted.is_empty() {
            turn(&mut accepted, &mut driver);
        }
        driver.adopt(ConnectionId::new(0, slot, 1), accepted.pop().unwrap()).unwrap();
    }
    let _crowd: Vec<_> = (0..60).map(|_| std::net::TcpStream::connect(addr).unwrap()).collect();
    let mut turns = 0;
    while accepted.len() < 60 {
        for peer in &mut busy {
            peer.write_all(b"x").unwrap();
        }
        turn(&mut accepted, &mut driver);
        turns += 1;
        // 64 busy ones and a listener are five waits of 16 events each.
        assert!(turns <= 40, "{} in {turns} turns", accepted.len());
    }
}

#[test]
fn ids_of_closed_connections_are_harmless() {
    let mut rig = rig();
    let (id, _peer) = rig.connect();
    rig.close_and_release(id);
    let driver = &mut rig.worker.driver;
    let error = driver.send(id, &[IoSlice::new(b"too late")]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotConnected);
    driver.pause_reading(id);
    driver.resume_reading(id);
    driver.finish_sending(id);
    driver.close(id);
    rig.settle();
    assert_eq!(rig.worker.driver.stats(), DriverStats::default());
}

#[test]
fn misuse_is_an_error() {
    let (mut driver, _memory) = open(4096);
    let stream = || Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let error = driver.listen(stream()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    let id = ConnectionId::new(0, 3, 0);
    driver.adopt(id, AcceptedSocket::Os(stream())).unwrap();
    let error = driver.adopt(id, AcceptedSocket::Os(stream())).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(driver.stats().sockets, 1);
}
