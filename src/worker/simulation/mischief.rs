//! Handlers that do whatever the API allows, and panic everywhere (threats ).
//!
//! The worker lives, every session ends once, and the peer of a handler that panicked learns
//! 1011.

use super::assertions;
use super::client::{Client, Farewell};
use super::log::{Callback, Manner, panic_quietly};
use super::world::{Setup, World};
use crate::config::Config;
use crate::driver::simulated::{Faults, Random, Seen, for_each_seed};
use crate::error::CloseCause;
use crate::handle::Handle;
use crate::protocol::CloseCode;
use crate::websocket::SendStatus;

/// Longest message of a client: what is under way when a connection ends stays below the bytes
/// that are discarded for its sake.
const LONGEST: usize = 10_000;

/// Does anything in any callback.
fn anything(mut random: Random) -> Manner {
    Box::new(move |ws, callback, log| {
        let own = ws.id();
        let handle = Handle { shared: ws.core.shared.clone() };
        for _ in 0..random.up_to(2) {
            let ids: Vec<_> = log.borrow().records.keys().copied().collect();
            let other = ids[random.index(ids.len())];
            match random.up_to(15) {
                0 => {
                    let in_time = !matches!(callback, Callback::Close(_));
                    log.borrow_mut().record(own).panicked |= in_time;
                    log.borrow_mut().panics += 1;
                    panic_quietly();
                }
                1 => {
                    log.borrow_mut().record(own).left_by_handler = true;
                    ws.terminate();
                }
                2 => {
                    log.borrow_mut().record(own).left_by_handler = true;
                    ws.close(CloseCode::NORMAL, "enough");
                    ws.close(CloseCode::GOING_AWAY, "twice");
                    if ws.send("too late") != SendStatus::Dropped {
                        log.borrow_mut().violations.push(format!("{own:?} sent after its Close"));
                    }
                }
                3 => {
                    log.borrow_mut().record(other).left_by_handler = true;
                    handle.close(other, CloseCode::NORMAL, "you, too").expect("room");
                }
                4 => drop(ws.send_to(other, "from a stranger")),
                5 => handle.send_to(other, "by way of the mailbox").expect("room"),
                6 => {
                    let len = random.length(40_000);
                    for _ in 0..random.length(200) {
                        if ws.send(&vec![0; len]) == SendStatus::Dropped {
                            break;
                        }
                    }
                }
                7 => drop(ws.ping(b"are you there?")),
                8 => drop((ws.buffered_amount(), ws.peer_addr())),
                _ => {
                    if let Callback::Message(message) = callback {
                        ws.send(message);
                    }
                }
            }
        }
    })
}

fn run(seed: u64, faults: Faults) {
    let mut random = Random::new(seed ^ 0xBADF00D);
    let setup = Setup::new(seed);
    let config = Config {
        max_backpressure: 1024 << random.up_to(8),
        idle_timeout_ms: 3_000,
        ping_interval_ms: 1_000,
        write_timeout_ms: 2_000,
        ..setup.config.clone()
    };
    let manner = anything(Random::new(random.next()));
    let mut world = Setup { faults, config, longest: 40_000, ..setup }.serve(manner);
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..random.length(200) {
        if clients.len() < 20 && random.chance(200) {
            clients.push(Client::drawn(&world.network, &mut random));
        }
        for client in &mut clients {
            client.listen();
            client.act(&mut random, LONGEST);
        }
        world.step(&mut random);
    }
    for client in &mut clients {
        client.listen();
        client.leave(Farewell::Handshake);
        client.read_on();
    }
    world.settle(&mut clients);
    assertions::at_rest(&world);
    assert_eq!(world.shared.stats().handler_panics, world.log.borrow().panics, "seed {seed}");
    clients.iter().for_each(|client| assert_end(&world, client));

    // The worker lives: whoever comes now is served.
    let opened = world.shared.stats().opened;
    world.network.set_faults(Faults::none());
    let mut newcomer = [Client::new(&world.network)];
    world.deliver(&mut newcomer);
    assert_eq!(world.shared.stats().opened, opened + 1, "seed {seed}");
}

/// Asserts that a peer learned of the panic of its handler.
fn assert_end(world: &World, client: &Client) {
    let seed = world.seed;
    let log = world.log.borrow();
    let Some((id, record)) = client.id.and_then(|id| Some((id, log.records.get(&id)?))) else {
        return;
    };
    let end = record.end.as_ref().expect("at rest");
    assert_eq!(record.panicked, end.cause == CloseCause::HandlerPanicked, "seed {seed}: {id:?}");
    let listened = matches!(client.farewell, None | Some(Farewell::Handshake | Farewell::Garbage));
    if record.panicked && !record.left_by_handler && listened && client.peer.seen() != Seen::Broken
    {
        assert_eq!(end.code, 1011, "seed {seed}: {id:?}");
        let seen = (client.peer.seen(), client.close_code);
        assert_eq!(seen, (Seen::Finished, Some(1011)), "seed {seed}: {id:?}");
    }
}

#[test]
fn a_handler_may_do_anything_on_a_rough_network() {
    for_each_seed("a_handler_may_do_anything_on_a_rough_network", 300, |seed| {
        run(seed, Faults::rough());
    });
}

#[test]
fn a_handler_may_do_anything_on_any_network() {
    for_each_seed("a_handler_may_do_anything_on_any_network", 300, |seed| {
        run(seed, Faults::drawn(&mut Random::new(seed)));
    });
}
