//! Single properties of the simulated network, and that its checks of the contract fire.

use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A driver without a worker.
struct Bench {
    network: Network,
    driver: Simulated,
    memory: ReceiveMemory,
}

impl Bench {
    fn new(faults: Faults) -> Self {
        let network = Network::new(7, faults);
        let (driver, memory) = network.driver();
        network.allow_idle(true);
        Self { network, driver, memory }
    }

    /// A connection under slot 0.
    fn connection(&mut self) -> (ConnectionId, Peer) {
        let (socket, peer) = self.network.connected_pair();
        let id = ConnectionId::new(0, 0, 1);
        self.driver.adopt(id, socket).unwrap();
        (id, peer)
    }

    /// The events of one turn, in the words of `Debug`.
    fn turn(&mut self) -> Vec<String> {
        self.driver.wait(None).unwrap();
        let mut events = Vec::new();
        while let Some(event) = self.driver.next_event(&mut self.memory) {
            events.push(match event {
                Event::Received { bytes, .. } => format!("Received {}", bytes.escape_ascii()),
                Event::AcceptPaused(error) => format!("AcceptPaused {:?}", error.raw_os_error()),
                Event::Failed(_, error) => format!("Failed {:?}", error.kind()),
                Event::Accepted(_) => "Accepted".to_string(),
                other => format!("{other:?}").split('(').next().unwrap().to_string(),
            });
        }
        events
    }

    fn send(&mut self, id: ConnectionId, bytes: &[u8]) -> io::Result<usize> {
        self.driver.send(id, &[IoSlice::new(bytes)])
    }

    /// What the check says that `misuse` must run into.
    fn violation(&mut self, misuse: impl FnOnce(&mut Self)) -> String {
        let panic = catch_unwind(AssertUnwindSafe(|| misuse(self))).expect_err("a panic");
        *panic.downcast::<String>().expect("a formatted message")
    }
}

#[test]
fn every_misuse_is_found() {
    type Misuse = fn(&mut Bench, ConnectionId);
    let cases: [(&str, Misuse); 12] = [
        ("close on 0:0.1, which was closed", |bench, id| {
            bench.driver.close(id);
            bench.driver.close(id);
        }),
        ("send on 0:0.1, which was closed", |bench, id| {
            bench.driver.close(id);
            let _ = bench.send(id, b"x");
        }),
        ("pause_reading on 0:0.1, which was released", |bench, id| {
            bench.driver.close(id);
            assert_eq!(bench.turn(), ["Released"]);
            bench.driver.pause_reading(id);
        }),
        ("resume_reading on 0:5.1, which was never adopted", |bench, _| {
            bench.driver.resume_reading(ConnectionId::new(0, 5, 1));
        }),
        ("finish_sending on 0:0.2, which was never adopted", |bench, _| {
            bench.driver.finish_sending(ConnectionId::new(0, 0, 2));
        }),
        ("send on 0:0.1, which was released", |bench, id| {
            bench.driver.close(id);
            assert_eq!(bench.turn(), ["Released"]);
            let (socket, _peer) = bench.network.connected_pair();
            bench.driver.adopt(ConnectionId::new(0, 0, 2), socket).unwrap();
            let _ = bench.send(id, b"x");
        }),
        ("send on 0:0.1 after finish_sending", |bench, id| {
            bench.driver.finish_sending(id);
            let _ = bench.send(id, b"x");
        }),
        ("send_last on 0:0.1, and no FIN behind it", |bench, id| {
            bench.driver.send_last(id, &[IoSlice::new(b"x")]).unwrap();
            let _ = bench.driver.wait(None);
        }),
        ("adopt 0:0.2, but 0:0.1 has not been released", |bench, _| {
            let (socket, _peer) = bench.network.connected_pair();
            let _ = bench.driver.adopt(ConnectionId::new(0, 0, 2), socket);
        }),
        ("adopt 0:0.2, but 0:0.1 has not been released", |bench, id| {
            bench.driver.close(id);
            let (socket, _peer) = bench.network.connected_pair();
            let _ = bench.driver.adopt(ConnectionId::new(0, 0, 2), socket);
        }),
        ("adopt 0:0.1, a generation that was used before", |bench, id| {
            bench.driver.close(id);
            assert_eq!(bench.turn(), ["Released"]);
            let (socket, _peer) = bench.network.connected_pair();
            let _ = bench.driver.adopt(id, socket);
        }),
        ("the worker would sleep for ever at 0 ms", |bench, id| {
            bench.driver.pause_reading(id);
            bench.network.allow_idle(false);
            let _ = bench.driver.wait(None);
        }),
    ];
    for (expected, misuse) in cases {
        let mut bench = Bench::new(Faults::none());
        let (id, _peer) = bench.connection();
        let message = bench.violation(|bench| misuse(bench, id));
        assert!(message.starts_with("seed 7: "), "{message}");
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_worker_that_spins_is_found() {
    let mut bench = Bench::new(Faults { delay_ms: 1_000_000, ..Faults::none() });
    let (_, peer) = bench.connection();
    peer.send(b"never seen");
    let message = bench.violation(|bench| {
        for _ in 0..10_000 {
            bench.driver.wait(Some(0)).unwrap();
            assert!(bench.driver.next_event(&mut bench.memory).is_none());
        }
    });
    assert!(message.contains("the worker spins at 0 ms, next due Some("), "{message}");
}

#[test]
fn a_deadlock_is_explained() {
    let mut bench = Bench::new(Faults { send_buffer: 10, ..Faults::none() });
    let (id, peer) = bench.connection();
    peer.set_read_rate(ReadRate::Stopped);
    assert_eq!(bench.send(id, b"twelve bytes").unwrap(), 10);
    bench.driver.pause_reading(id);
    peer.send(b"abc");
    bench.network.allow_idle(false);
    // Whether anything may still be reported does not depend on a paused peer.
    assert!(bench.network.is_quiet());
    let message = bench.violation(|bench| drop(bench.driver.wait(None)));
    assert!(message.contains("0:0.1 paused with 3 unread bytes"), "{message}");
    assert!(message.contains("0:0.1 not writable, 10 bytes not read"), "{message}");
}

#[test]
fn a_happening_that_brings_no_event_is_no_deadlock() {
    let mut bench = Bench::new(Faults { send_buffer: 10, ..Faults::none() });
    let (id, peer) = bench.connection();
    peer.set_read_rate(ReadRate::Stopped);
    assert_eq!(bench.send(id, b"twelve bytes").unwrap(), 10);
    peer.set_read_rate(ReadRate::Unlimited);
    // `Writable` is on its way when the connection dies.
    peer.reset();
    bench.send(id, b"es").unwrap_err();
    bench.network.allow_idle(false);
    assert!(!bench.network.is_quiet());
    assert!(bench.turn().is_empty());
    assert!(bench.network.is_quiet());
}

#[test]
fn bytes_are_lent_until_the_next_event() {
    let mut bench = Bench::new(Faults::none());
    let (_, peer) = bench.connection();
    peer.send(b"lent");
    bench.driver.wait(None).unwrap();
    let Some(Event::Received { bytes, .. }) = bench.driver.next_event(&mut bench.memory) else {
        panic!("bytes are there")
    };
    assert_eq!(bytes, b"lent");
    bytes.fill(b'x');
    assert!(bench.driver.next_event(&mut bench.memory).is_none());
    // SAFETY: no kernel writes to this memory.
    let loan = unsafe { bench.memory.slice(0, HEADROOM + 4) };
    assert_eq!(loan, [SCRIBBLE; HEADROOM + 4]);
}

#[test]
fn a_slow_reader_fills_the_buffer_and_drains_in_virtual_time() {
    let mut bench = Bench::new(Faults { send_buffer: 100, ..Faults::none() });
    let (id, peer) = bench.connection();
    peer.set_read_rate(ReadRate::BytesPerMs(30));
    assert_eq!(bench.send(id, &[1; 150]).unwrap(), 100);
    assert_eq!(bench.send(id, &[2; 50]).unwrap(), 0);
    assert_eq!(peer.unread(), 100);
    assert_eq!(bench.turn(), ["Writable"]);
    assert_eq!((peer.received().len(), bench.driver.now_ms()), (30, 1));
    assert_eq!(bench.send(id, &[2; 50]).unwrap(), 30);
    bench.network.advance(100);
    assert_eq!(peer.received().len(), 100);
    assert_eq!(bench.turn(), ["Writable"]);
    bench.driver.finish_sending(id);
    bench.network.advance(1);
    assert_eq!(peer.seen(), Seen::Finished);
}

#[test]
fn wait_advances_to_what_comes_first() {
    let mut bench = Bench::new(Faults { delay_ms: 1_000_000, origin_ms: 5, ..Faults::none() });
    let (_, peer) = bench.connection();
    peer.send(b"late");
    bench.driver.wait(Some(0)).unwrap();
    assert_eq!(bench.driver.now_ms(), 5);
    bench.driver.wait(Some(2)).unwrap();
    assert_eq!(bench.driver.now_ms(), 7);
    assert_eq!(bench.turn(), ["Received late"]);
    assert!(bench.driver.now_ms() > 7);
    let now = bench.driver.now_ms();
    bench.driver.wait(Some(1_000)).unwrap();
    assert_eq!(bench.driver.now_ms(), now + 1_000, "nothing is scheduled: the timeout");
}

#[test]
fn accepting_stops_at_the_limit_of_descriptors() {
    let mut bench = Bench::new(Faults { descriptors: 1, ..Faults::none() });
    let peers = [bench.network.connect(), bench.network.connect()];
    assert!(bench.turn().is_empty(), "nobody listens");
    bench.network.open_listener();
    // `turn` drops the socket, so that its descriptor is free again in the next turn.
    let emfile = format!("AcceptPaused {:?}", Some(libc::EMFILE));
    assert_eq!(bench.turn(), ["Accepted", &emfile]);
    assert_eq!([peers[0].seen(), peers[1].seen()], [Seen::Finished, Seen::Open]);
    assert!(bench.turn().is_empty(), "accepting has stopped");
    bench.driver.resume_accepting();
    assert_eq!(bench.turn(), ["Accepted"]);
    assert_eq!(bench.network.descriptors(), 0);
    bench.driver.pause_accepting();
    let waiting = bench.network.connect();
    assert!(bench.turn().is_empty());
    bench.driver.stop_listening();
    assert_eq!(waiting.seen(), Seen::Reset, "the backlog is refused");
    assert_eq!(bench.network.connect().seen(), Seen::Reset);
}

#[test]
fn the_ends_of_a_connection_are_those_of_tcp() {
    // FIN stands behind the bytes, and sending goes on after it.
    let mut bench = Bench::new(Faults::none());
    let (id, peer) = bench.connection();
    peer.send(b"last");
    peer.finish();
    assert_eq!(bench.turn(), ["Received last", "Ended"]);
    assert_eq!(bench.send(id, b"answer").unwrap(), 6);
    bench.driver.close(id);
    assert_eq!((peer.received(), peer.seen()), (b"answer".to_vec(), Seen::Finished));
    assert_eq!(bench.turn(), ["Released"]);

    // Closing with unread input resets, which destroys what was on its way.
    let mut bench = Bench::new(Faults::none());
    let (id, peer) = bench.connection();
    peer.set_read_rate(ReadRate::Stopped);
    bench.send(id, b"lost").unwrap();
    peer.send(b"unread");
    bench.driver.close(id);
    peer.set_read_rate(ReadRate::Unlimited);
    assert_eq!((peer.received(), peer.seen()), (Vec::new(), Seen::Reset));

    // So do bytes that come after the close.
    let mut bench = Bench::new(Faults::none());
    let (id, peer) = bench.connection();
    peer.set_read_rate(ReadRate::Stopped);
    bench.send(id, b"lost").unwrap();
    bench.driver.close(id);
    peer.send(b"too late");
    assert_eq!((peer.unread(), peer.seen()), (0, Seen::Reset));

    // A reset by the peer: one error, by event or by send, and not twice.
    let mut bench = Bench::new(Faults::none());
    let (_, peer) = bench.connection();
    peer.reset();
    assert_eq!(bench.turn(), ["Failed ConnectionReset"]);
    let mut bench = Bench::new(Faults::none());
    let (id, peer) = bench.connection();
    peer.reset();
    let error = bench.send(id, b"x").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(bench.turn().is_empty(), "no Failed follows");
    assert_eq!(peer.seen(), Seen::Left);

    // A peer that has closed answers bytes by a reset.
    let mut bench = Bench::new(Faults::none());
    let (id, peer) = bench.connection();
    peer.close();
    assert_eq!(bench.turn(), ["Ended"]);
    bench.send(id, b"x").unwrap();
    assert_eq!(bench.turn(), ["Failed ConnectionReset"]);
    assert_eq!((peer.received(), peer.seen()), (Vec::new(), Seen::Left));
}

#[test]
fn a_pause_fills_the_buffers_of_the_kernel() {
    let mut bench = Bench::new(Faults { receive_buffer: 4, ..Faults::none() });
    let (id, peer) = bench.connection();
    bench.driver.pause_reading(id);
    peer.send(b"abcdefgh");
    peer.finish();
    assert!(bench.turn().is_empty());
    bench.driver.resume_reading(id);
    assert_eq!(bench.turn(), ["Received abcd"], "one buffer in one turn");
    assert_eq!(bench.turn(), ["Received efgh", "Ended"]);

    // What the turn still had to report waits for the end of the pause, too.
    let mut bench = Bench::new(Faults { receive_buffer: 4, ..Faults::none() });
    let (id, peer) = bench.connection();
    peer.send(b"abcdefgh");
    peer.finish();
    bench.driver.wait(None).unwrap();
    bench.driver.pause_reading(id);
    assert!(bench.driver.next_event(&mut bench.memory).is_none());
    assert!(bench.turn().is_empty());
    bench.driver.resume_reading(id);
    assert_eq!(bench.turn(), ["Received abcdefgh", "Ended"]);
}

#[test]
fn news_of_a_closed_connection_are_swallowed_and_counted() {
    let mut bench = Bench::new(Faults { stale: 1000, ..Faults::none() });
    let (id, peer) = bench.connection();
    peer.send(b"under way");
    bench.driver.wait(None).unwrap();
    bench.driver.close(id);
    assert!(bench.driver.next_event(&mut bench.memory).is_none());
    assert_eq!(bench.driver.stats().stale_events, 1);
    assert_eq!(bench.turn(), ["Released"]);
    assert_eq!(bench.driver.stats(), DriverStats { stale_events: 2, ..DriverStats::default() });
}

#[test]
fn wakes_come_as_one_and_addresses_are_known() {
    let mut bench = Bench::new(Faults::none());
    let waker = bench.driver.waker();
    waker.wake();
    waker.wake();
    assert_eq!(bench.turn(), ["Woken"]);
    assert!(bench.turn().is_empty());

    let addr = SocketAddr::from(([10, 0, 0, 1], 4711));
    bench.network.open_listener();
    let peer = bench.network.connect_from(addr);
    assert_eq!(peer.id(), None);
    bench.driver.wait(None).unwrap();
    let Some(Event::Accepted(socket)) = bench.driver.next_event(&mut bench.memory) else {
        panic!("a request is there")
    };
    let id = ConnectionId::new(0, 3, 1);
    bench.driver.adopt(id, socket).unwrap();
    assert_eq!((peer.id(), peer.addr()), (Some(id), addr));
    assert_eq!(bench.driver.peer_addr(id), Some(addr));
    assert_eq!(bench.driver.peer_addr(ConnectionId::new(0, 3, 2)), None);

    // When the worker goes, so do its connections.
    let network = bench.network.clone();
    drop(bench);
    assert_eq!((peer.seen(), network.descriptors()), (Seen::Finished, 0));
}

#[test]
fn faults_can_be_switched_off() {
    let mut bench = Bench::new(Faults { exhausted: 1000, ..Faults::none() });
    let (_, peer) = bench.connection();
    peer.send(b"starved");
    for turn in 1..4 {
        assert!(bench.turn().is_empty());
        assert_eq!(bench.driver.stats().buffers_exhausted, turn);
    }
    bench.network.set_faults(Faults::none());
    assert_eq!(bench.turn(), ["Received starved"]);
}
