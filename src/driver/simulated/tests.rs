//! What the simulated network promises: it replays, its faults happen, its checks fire.

use super::*;
use std::collections::BTreeMap;

/// The smallest worker: sends back what it receives, closes when the peer has finished.
struct Echo {
    network: Network,
    driver: Simulated,
    memory: ReceiveMemory,
    connections: BTreeMap<ConnectionId, Waiting>,
    generation: u32,
    free_slots: Vec<u32>,
    wakes: u64,
    accept_pauses: u64,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    ended: bool,
    paused: bool,
}

impl Echo {
    /// A small limit, so that reading is paused often.
    const LIMIT: usize = 1024;

    fn new(network: &Network) -> Self {
        let (driver, memory) = network.driver();
        network.open_listener();
        Self {
            network: network.clone(),
            driver,
            memory,
            connections: BTreeMap::new(),
            generation: 0,
            free_slots: Vec::new(),
            wakes: 0,
            accept_pauses: 0,
        }
    }

    fn turn(&mut self, timeout_ms: Option<u64>) {
        self.driver.wait(timeout_ms).unwrap();
        while let Some(event) = self.driver.next_event(&mut self.memory) {
            match event {
                Event::Accepted(socket) => {
                    self.generation += 1;
                    let slot = self.free_slots.pop().unwrap_or(self.generation);
                    let id = ConnectionId::new(0, slot, self.generation);
                    match self.driver.adopt(id, socket) {
                        Ok(()) => drop(self.connections.insert(id, Waiting::default())),
                        Err(_) => self.free_slots.push(slot),
                    }
                }
                Event::Received { id, bytes } => {
                    assert!(!bytes.is_empty());
                    self.connections.get_mut(&id).unwrap().bytes.extend_from_slice(bytes);
                    self.flush(id);
                }
                Event::Ended(id) => {
                    let ended = &mut self.connections.get_mut(&id).unwrap().ended;
                    assert!(!std::mem::replace(ended, true), "Ended comes once");
                    self.flush(id);
                }
                Event::Connected(id) => unreachable!("nobody connects {id:?}"),
                Event::Writable(id) => self.flush(id),
                Event::Failed(id, _) => self.close(id),
                Event::Released(id) => {
                    assert!(!self.connections.contains_key(&id));
                    self.free_slots.push(u32::try_from(id.slot()).unwrap());
                }
                Event::AcceptPaused(_) => {
                    self.accept_pauses += 1;
                    self.driver.resume_accepting();
                }
                Event::Woken => self.wakes += 1,
            }
        }
    }

    fn flush(&mut self, id: ConnectionId) {
        let waiting = self.connections.get_mut(&id).unwrap();
        match self.driver.send(id, &[IoSlice::new(&waiting.bytes)]) {
            Ok(len) => drop(waiting.bytes.drain(..len)),
            Err(_) => return self.close(id),
        }
        if waiting.bytes.is_empty() && waiting.ended {
            return self.close(id);
        }
        if waiting.bytes.len() > Self::LIMIT && !waiting.paused {
            waiting.paused = true;
            self.driver.pause_reading(id);
        } else if waiting.bytes.is_empty() && waiting.paused {
            waiting.paused = false;
            self.driver.resume_reading(id);
        }
    }

    fn close(&mut self, id: ConnectionId) {
        self.connections.remove(&id).expect("closed once");
        self.driver.close(id);
    }

    /// Turns until nothing more can happen.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            if self.network.is_quiet() {
                return;
            }
            self.turn(None);
        }
        panic!("does not settle: {}", self.network.summary());
    }
}

/// A peer, what it sent, and what it got back.
type Record = (Peer, Vec<u8>, Vec<u8>);

/// Peers of random behaviour talk to `Echo`.
fn conversation(network: &Network, seed: u64) -> (Vec<Record>, Echo) {
    let mut random = Random::new(seed ^ 0x5EED);
    let mut echo = Echo::new(network);
    let mut peers = Vec::new();
    for _ in 0..random.length(6) {
        let peer = network.connect();
        match random.up_to(2) {
            0 => peer.set_read_rate(ReadRate::BytesPerMs(random.length(2_000))),
            1 => peer.set_read_rate(ReadRate::Stopped),
            _ => {}
        }
        let mut sent = Vec::new();
        for _ in 0..random.up_to(4) {
            let bytes: Vec<u8> = (0..random.length(20_000)).map(|_| random.next() as u8).collect();
            peer.send(&bytes);
            sent.extend(bytes);
            if !network.is_quiet() {
                echo.turn(Some(random.up_to(3)));
            }
        }
        if random.chance(300) {
            peer.finish();
        }
        peers.push((peer, sent, Vec::new()));
    }
    if random.chance(500) {
        echo.driver.waker().wake();
    }
    echo.settle();
    for (peer, _, received) in &mut peers {
        peer.finish();
        peer.set_read_rate(ReadRate::Unlimited);
        received.extend(peer.received());
    }
    echo.settle();
    for (peer, _, received) in &mut peers {
        received.extend(peer.received());
    }
    (peers, echo)
}

fn faults_of(seed: u64) -> Faults {
    Faults::drawn(&mut Random::new(seed))
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for_each_seed("the_same_seed_gives_the_same_trace", 20, |seed| {
        let run = |seed| {
            let network = Network::new(seed, faults_of(seed));
            conversation(&network, seed);
            (network.fingerprint(), network.now_ms(), network.counts())
        };
        assert_eq!(run(seed), run(seed));
        assert_ne!(run(seed).0, run(seed ^ 1).0);
    });
}

#[test]
fn nothing_is_lost_or_mixed_up_on_a_rough_network() {
    for_each_seed("nothing_is_lost_or_mixed_up_on_a_rough_network", 60, |seed| {
        let network = Network::new(seed, Faults::rough());
        let (peers, echo) = conversation(&network, seed);
        for (peer, sent, received) in &peers {
            assert!(sent == received, "{peer:?}: {} of {}", received.len(), sent.len());
            assert_eq!(peer.seen(), Seen::Finished);
        }
        assert_eq!(network.descriptors(), 0);
        assert_eq!(echo.driver.stats().sockets, 0);
    });
}

#[test]
fn a_hostile_network_leaves_a_prefix_and_no_connection() {
    for_each_seed("a_hostile_network_leaves_a_prefix_and_no_connection", 100, |seed| {
        let network = Network::new(seed, faults_of(seed));
        let (peers, echo) = conversation(&network, seed);
        for (peer, sent, received) in &peers {
            assert!(sent.starts_with(received), "{peer:?} got what it did not send");
            if peer.seen() == Seen::Finished && network.counts().adopt_failures == 0 {
                assert_eq!(sent.len(), received.len());
            }
            assert_ne!(peer.seen(), Seen::Open);
        }
        assert!(echo.connections.is_empty());
        assert_eq!(network.descriptors(), 0);
    });
}

#[test]
fn every_fault_happens() {
    let mut sum = Counts::default();
    let (mut stale, mut exhausted, mut accept_pauses, mut wakes) = (0, 0, 0, 0);
    for seed in 0..100 {
        let network = Network::new(seed, Faults::hostile());
        let (_, echo) = conversation(&network, seed);
        let counts = network.counts();
        sum.cut_reads += counts.cut_reads;
        sum.short_sends += counts.short_sends;
        sum.empty_sends += counts.empty_sends;
        sum.full_buffers += counts.full_buffers;
        sum.resets_on_receive += counts.resets_on_receive;
        sum.resets_on_send += counts.resets_on_send;
        sum.reordered_turns += counts.reordered_turns;
        sum.overruns += counts.overruns;
        sum.accept_failures += counts.accept_failures;
        sum.adopt_failures += counts.adopt_failures;
        sum.spurious_wakes += counts.spurious_wakes;
        sum.early_returns += counts.early_returns;
        sum.short_turns += counts.short_turns;
        sum.stalls += counts.stalls;
        sum.glued_fins += counts.glued_fins;
        let stats = echo.driver.stats();
        stale += stats.stale_events;
        exhausted += stats.buffers_exhausted;
        accept_pauses += echo.accept_pauses;
        wakes += echo.wakes;
    }
    let happened = [
        sum.cut_reads,
        sum.short_sends,
        sum.empty_sends,
        sum.full_buffers,
        sum.resets_on_receive,
        sum.resets_on_send,
        sum.reordered_turns,
        sum.overruns,
        sum.accept_failures,
        sum.adopt_failures,
        sum.spurious_wakes,
        sum.early_returns,
        sum.short_turns,
        sum.stalls,
        sum.glued_fins,
        stale,
        exhausted,
        accept_pauses,
        wakes,
    ];
    assert!(happened.iter().all(|count| *count > 0), "{sum:?} {happened:?}");
}
