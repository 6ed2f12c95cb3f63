//! Connections that another server accepted and upgraded, on networks of every kind.
//!
//! Whatever part of the first frames was read behind the request, everything is delivered once and
//! in order; whoever cannot be taken leaves nothing.

use super::assertions;
use super::client::{Client, Farewell};
use super::log::echo;
use super::world::{Setup, World};
use crate::driver::simulated::{Faults, Random, for_each_seed};
use crate::protocol::Message;
use crate::worker::adopting::Adoption;

/// Hands over a client that has sent a few messages already, cut anywhere between those that were
/// read and those that were not.
fn adopt_one(world: &mut World, random: &mut Random, name: u32) -> Client {
    let (socket, peer) = world.network.connected_pair();
    let mut client = Client::upgraded(peer);
    client.name = name;
    let mut early = Vec::new();
    for nth in 0..random.up_to(4) {
        let mut text = format!("{name} early {nth} ");
        text.extend(std::iter::repeat_n('x', random.length(3_000)));
        early.extend(client.compose(Message::Text(&text)));
    }
    let unread = early.split_off(random.index(early.len() + 1));
    if !unread.is_empty() {
        client.peer.send(&unread);
    }
    let place = world.shared.places.take(0, None).expect("there is room");
    let adoption = Adoption {
        socket,
        place,
        route: 0,
        subprotocol: None,
        deflate: None,
        leftover: early,
        maker: None,
    };
    world.worker.crank.adopt(adoption);
    world.worker.crank.bury();
    client
}

fn run(seed: u64, faults: Faults) {
    let mut random = Random::new(seed ^ 0xAD09);
    let loses = faults.reset_on_receive + faults.reset_on_send + faults.adopt_failure > 0;
    let setup = Setup { faults, longest: 5_000, ..Setup::new(seed) };
    let mut world = setup.serve(echo());
    let mut clients = Vec::new();
    let count = random.length(12) as u32;
    for name in 0..count {
        clients.push(adopt_one(&mut world, &mut random, name));
        for _ in 0..random.up_to(5) {
            world.step(&mut random);
            clients.iter_mut().for_each(|client| {
                client.listen();
                client.act(&mut random, 5_000);
            });
        }
    }
    for client in &mut clients {
        client.leave(Farewell::Handshake);
        client.read_on();
        if client.farewell == Some(Farewell::Silence) {
            // There are no timeouts here.
            client.peer.reset();
        }
    }
    world.settle(&mut clients);
    for client in &clients {
        client.assert_echoes(seed);
        if !loses && client.farewell == Some(Farewell::Handshake) && !client.is_slow {
            assert_eq!(client.received, client.sent, "seed {seed}: client {}", client.name);
        }
    }
    assertions::at_rest(&world);
    assert_eq!(world.shared.stats().adopted, u64::from(count), "seed {seed}");
}

#[test]
fn adopted_clients_get_everything_on_a_perfect_network() {
    for_each_seed("adopted_clients_get_everything_on_a_perfect_network", 60, |seed| {
        run(seed, Faults::none());
    });
}

#[test]
fn adopted_clients_are_served_on_a_rough_network() {
    for_each_seed("adopted_clients_are_served_on_a_rough_network", 100, |seed| {
        run(seed, Faults::rough());
    });
}

#[test]
fn adopted_clients_leave_nothing_on_any_network() {
    for_each_seed("adopted_clients_leave_nothing_on_any_network", 100, |seed| {
        run(seed, Faults::drawn(&mut Random::new(seed)));
    });
}
