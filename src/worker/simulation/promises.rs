//! Any clients on any network: echoes come back in order, every end is the right one.

use super::assertions;
use super::client::{Client, Farewell};
use super::log::{Session, echo};
use super::world::{Setup, World};
use crate::config::Config;
use crate::driver::simulated::{Faults, Random, Seen, for_each_seed};
use crate::error::CloseCause;
use crate::promise::Gone;

/// Clients that do anything to a server that sends everything back, and that perhaps puts off
/// whether they may come in.
fn run(seed: u64, faults: Faults, defers: bool) {
    let mut random = Random::new(seed ^ 0xC11E47);
    let setup = Setup::new(seed);
    let max_backpressure = 1024 << random.up_to(8);
    let config = Config {
        max_backpressure,
        max_connections: 1 + random.up_to(20) as usize,
        receive_buffer: if random.chance(500) { 64 * 1024 } else { 64 << random.up_to(8) },
        handshake_timeout_ms: 500,
        idle_timeout_ms: 3_000,
        ping_interval_ms: 1_000,
        write_timeout_ms: 2_000,
        ..setup.config.clone()
    };
    let longest = 1 + random.length(100_000);
    let mut world = Setup { faults, config, longest, ..setup }.serve(echo());
    world.log.borrow_mut().defers = defers;
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..random.length(200) {
        if clients.len() < 12 && random.chance(200) {
            clients.push(Client::drawn(&world.network, &mut random));
        }
        for client in &mut clients {
            client.listen();
            client.act(&mut random, longest);
        }
        decide(&world, &mut random);
        world.step(&mut random);
    }
    for client in &mut clients {
        client.listen();
        client.leave(Farewell::Handshake);
        client.read_on();
    }
    world.settle(&mut clients);
    assertions::at_rest(&world);
    // Whoever still decides decides for nobody.
    let tickets = std::mem::take(&mut world.log.borrow_mut().tickets);
    for ticket in tickets {
        assert_eq!(ticket.accept(Session::default()), Err(Gone), "seed {seed}");
    }
    clients.iter().for_each(|client| assert_end(&world, client));
}

/// Decides about an upgrade that was put off, perhaps.
fn decide(world: &World, random: &mut Random) {
    let mut log = world.log.borrow_mut();
    if log.tickets.is_empty() || !random.chance(300) {
        return;
    }
    let index = random.index(log.tickets.len());
    let ticket = log.tickets.swap_remove(index);
    let gone = ticket.is_gone();
    let told = match random.up_to(9) {
        0 => return drop(ticket),
        1 => ticket.reject(403, "no"),
        _ => ticket.accept(Session::default()),
    };
    assert_eq!(told.is_err(), gone, "seed {}", world.seed);
}

/// Asserts that a client that closed politely, on a connection that did not break, was treated
/// politely.
fn assert_end(world: &World, client: &Client) {
    let seed = world.seed;
    client.assert_echoes(seed);
    let mut log = world.log.borrow_mut();
    let Some(id) = client.id.filter(|id| log.records.contains_key(id)) else { return };
    let record = log.record(id);
    let end = record.end.as_ref().expect("at rest");
    // What comes from the peer cannot fill the queue by itself.
    if world.longest + 1024 <= world.config.high_water() {
        assert_eq!(record.dropped, 0, "seed {seed}: {id:?}");
    }
    let seen = client.peer.seen();
    if client.farewell == Some(Farewell::Handshake)
        && seen != Seen::Broken
        && !matches!(end.cause, CloseCause::IdleTimeout | CloseCause::WriteTimeout)
    {
        assert_eq!(end.cause, CloseCause::Peer, "seed {seed}: {id:?}");
        assert_eq!((seen, client.close_code), (Seen::Finished, Some(1000)), "seed {seed}: {id:?}");
        if record.dropped == 0 {
            assert_eq!(client.received.len(), client.sent.len(), "seed {seed}: {id:?}");
        }
    }
}

#[test]
fn the_server_keeps_its_promises_on_a_rough_network() {
    for_each_seed("the_server_keeps_its_promises_on_a_rough_network", 300, |seed| {
        run(seed, Faults::rough(), false);
    });
}

#[test]
fn the_server_keeps_its_promises_on_any_network() {
    for_each_seed("the_server_keeps_its_promises_on_any_network", 300, |seed| {
        run(seed, Faults::drawn(&mut Random::new(seed)), false);
    });
}

#[test]
fn decisions_that_are_put_off_keep_the_promises() {
    for_each_seed("decisions_that_are_put_off_keep_the_promises", 300, |seed| {
        run(seed, Faults::drawn(&mut Random::new(seed)), true);
    });
}
