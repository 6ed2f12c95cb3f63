//! More clients than connections or descriptors (threats ).
//!
//! Everybody is served in the end, whoever is connected does not notice, and a worker that cannot
//! accept tries ten times a second, not more.

use std::collections::VecDeque;

use super::assertions;
use super::client::{Client, Farewell};
use super::log::{echo, silent};
use super::world::{Setup, World};
use crate::config::Accept;
use crate::driver::simulated::{Faults, Random, Seen, for_each_seed};
use crate::protocol::Message;
use crate::worker::accepting::ACCEPT_RETRY_MS;

/// A client that tries until it has had its answer.
struct Visitor {
    client: Client,
    served: bool,
}

impl Visitor {
    fn act(&mut self, world: &World, random: &mut Random) {
        let client = &mut self.client;
        client.listen();
        if !client.received.is_empty() && random.chance(300) {
            client.leave(Farewell::Handshake);
        } else if client.is_open() && client.sent.is_empty() {
            client.say_something(random, 5_000);
        }
        if client.peer.seen() == Seen::Open {
            return;
        }
        self.served = client.received == client.sent && client.close_code == Some(1000);
        if !self.served {
            // Turned away, or a victim of the network.
            self.client = Client::new(&world.network);
        }
    }
}

fn run(seed: u64, faults: Faults) {
    let mut random = Random::new(seed ^ 0xACCE);
    let mut setup = Setup { faults, longest: 5_000, ..Setup::new(seed) };
    setup.config.max_connections = 1 + random.up_to(5) as usize;
    setup.faults.descriptors = 1 + random.up_to(5) as usize;
    let mut world = setup.serve(echo());
    let start_ms = world.now_ms();
    let mut visitors: Vec<Visitor> = (0..random.length(20))
        .map(|_| Visitor { client: Client::new(&world.network), served: false })
        .collect();
    while visitors.iter().any(|visitor| !visitor.served) {
        world.step(&mut random);
        for visitor in visitors.iter_mut().filter(|visitor| !visitor.served) {
            visitor.act(&world, &mut random);
        }
        let served = visitors.iter().filter(|visitor| visitor.served).count();
        assert!(world.now_ms() < start_ms + 1_000_000, "seed {seed}: {served} were served");
    }
    world.settle(&mut []);
    assertions::at_rest(&world);
    // Whenever a connection ends it tries again, too.
    let stats = world.shared.stats();
    let most = (world.now_ms() - start_ms) / ACCEPT_RETRY_MS + stats.accepted + 1;
    assert!(stats.accept_pauses <= most, "seed {seed}: {} tries", stats.accept_pauses);
}

#[test]
fn everybody_is_served_in_the_end_on_a_rough_network() {
    for_each_seed("everybody_is_served_in_the_end_on_a_rough_network", 200, |seed| {
        run(seed, Faults::rough());
    });
}

#[test]
fn everybody_is_served_in_the_end_on_any_network() {
    for_each_seed("everybody_is_served_in_the_end_on_any_network", 80, |seed| {
        run(seed, Faults::drawn(&mut Random::new(seed)));
    });
}

/// Worker 0 of two spreads. The other one is played here: it holds the sockets it was given for a
/// while, and closes them. Everybody is served by worker 0 in the end, and nothing stays behind,
/// not even what was in the mailbox when the other worker ended.
fn run_spread(seed: u64, faults: Faults) {
    let mut random = Random::new(seed ^ 0x59EAD);
    let mut setup = Setup { faults, longest: 5_000, ..Setup::new(seed) };
    (setup.config.workers, setup.config.accept) = (2, Accept::Spread);
    setup.config.max_connections = 2 + random.up_to(5) as usize;
    let mut world = setup.serve(echo());
    let start_ms = world.now_ms();
    let mut visitors: Vec<Visitor> = (0..random.length(20))
        .map(|_| Visitor { client: Client::new(&world.network), served: false })
        .collect();
    let (mut batch, mut held) = (VecDeque::new(), Vec::new());
    while visitors.iter().any(|visitor| !visitor.served) {
        world.step(&mut random);
        // One of them that is as slow as a worker can be.
        if random.chance(300) {
            world.shared.mailboxes[1].take(&mut batch);
            held.extend(batch.drain(..));
        }
        held.retain(|_| !random.chance(200));
        for visitor in visitors.iter_mut().filter(|visitor| !visitor.served) {
            visitor.act(&world, &mut random);
        }
        let places = world.shared.places.taken();
        assert!(places <= world.config.max_connections, "seed {seed}: {places} places");
        let served = visitors.iter().filter(|visitor| visitor.served).count();
        assert!(world.now_ms() < start_ms + 1_000_000, "seed {seed}: {served} were served");
    }
    drop(held);
    world.shared.mailboxes[1].stop();
    world.settle(&mut []);
    world.shared.mailboxes[1].stop();
    assertions::at_rest(&world);
    assert_eq!([0, 1].map(|worker| world.shared.places.load(worker)), [0, 0], "seed {seed}");
}

#[test]
fn a_worker_that_spreads_loses_nobody() {
    for_each_seed("a_worker_that_spreads_loses_nobody", 150, |seed| {
        run_spread(seed, Faults::rough());
    });
}

/// The place that another worker gives back is taken in the same moment, not at the next try.
#[test]
fn a_place_of_another_worker_is_noticed_at_once() {
    let mut setup = Setup::new(0);
    (setup.config.workers, setup.config.accept) = (2, Accept::Spread);
    setup.config.max_connections = 2;
    let mut world = setup.serve(echo());
    let mut clients = [world.client(), Client::new(&world.network)];
    world.deliver(&mut clients);
    // The second one went to the other worker, and the third one waits.
    let mut batch = VecDeque::new();
    world.shared.mailboxes[1].take(&mut batch);
    assert_eq!(batch.len(), 1);
    let _waiting = Client::new(&world.network);
    world.run_until(world.now_ms() + 1_000, &mut clients);
    let now_ms = world.now_ms();
    let mut next = VecDeque::new();
    world.shared.mailboxes[1].take(&mut next);
    assert!(next.is_empty(), "there is no place for it");
    batch.clear();
    world.deliver(&mut clients);
    world.shared.mailboxes[1].take(&mut next);
    assert_eq!((next.len(), world.now_ms()), (1, now_ms));
}

/// Keeps a server full for ten seconds; the clients inside are still answered, and the turns that
/// this takes are few.
fn assert_calm(world: &mut World, clients: &mut [Client]) {
    let waiting = Client::new(&world.network);
    world.turn();
    let (turns, end_ms) = (world.turns, world.now_ms() + 10_000);
    world.run_until(end_ms, clients);
    let turns = world.turns - turns;
    // One to try, one to learn that it failed.
    assert!(u64::from(turns) <= 2 * (10_000 / ACCEPT_RETRY_MS + 1), "{turns} turns");
    assert_eq!(waiting.id.or(waiting.peer.id()), None);
    for client in &mut *clients {
        client.say(Message::Text("inside"));
    }
    world.turn();
    for client in &mut *clients {
        client.listen();
        assert_eq!(client.received, client.sent);
    }
}

#[test]
fn a_full_server_is_calm_and_serves_the_next_at_once() {
    let mut setup = Setup::new(0);
    setup.config.max_connections = 2;
    let mut world = setup.serve(echo());
    let mut clients = [world.client(), world.client()];
    assert_calm(&mut world, &mut clients);
    let now_ms = world.now_ms();
    clients[0].leave(Farewell::Handshake);
    clients[0].peer.close();
    world.deliver(&mut clients);
    assert_eq!((world.shared.stats().opened, world.now_ms()), (3, now_ms));
}

#[test]
fn want_of_descriptors_is_borne_calmly_and_ends_within_200_ms() {
    let mut setup = Setup::new(0);
    setup.faults.descriptors = 2;
    let mut world = setup.serve(echo());
    let mut clients = [world.client(), world.client()];
    assert_calm(&mut world, &mut clients);
    let pauses = world.shared.stats().accept_pauses;
    assert!((1..=10_000 / ACCEPT_RETRY_MS + 1).contains(&pauses), "{pauses} pauses");
    // Somebody else in the process closes a file.
    world.network.set_faults(Faults::none());
    world.run_until(world.now_ms() + 200, &mut clients);
    assert_eq!(world.shared.stats().opened, 3);
}

#[test]
fn connections_that_are_dropped_at_once_leave_nothing() {
    let mut world = Setup::new(0).serve(silent());
    for _ in 0..1_000 {
        let client = Client::new(&world.network);
        client.peer.reset();
        world.deliver(&mut []);
    }
    world.settle(&mut []);
    assertions::at_rest(&world);
    assert_eq!(world.shared.stats().accepted, 1_000);
}
