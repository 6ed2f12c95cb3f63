//! Handlers that pause reading whenever they like: no message is lost, early or out of order, and
//! a timer of the connection is all it takes to go on.

use std::collections::HashSet;
use std::time::Duration;

use super::assertions;
use super::client::{Client, Farewell};
use super::log::{Callback, Manner};
use super::world::Setup;
use crate::config::Config;
use crate::driver::simulated::{Faults, Random, Seen, for_each_seed};
use crate::error::CloseCause;
use crate::websocket::SendStatus;

/// Longest message.
const LONGEST: usize = 20_000;

/// Echoes; pauses now and then for some time, toggles, and sees to it that nothing arrives while
/// it is paused.
fn patient(mut random: Random) -> Manner {
    let mut paused = HashSet::new();
    Box::new(move |ws, callback, log| {
        let id = ws.id();
        match callback {
            Callback::Open | Callback::Message(_) => {
                if paused.contains(&id) {
                    log.borrow_mut().violations.push(format!("{id:?} got a message in its pause"));
                }
                if let Callback::Message(message) = callback
                    && ws.send(message) == SendStatus::Dropped
                {
                    log.borrow_mut().record(id).dropped += 1;
                }
                match random.up_to(9) {
                    0..=2 => {
                        ws.pause_reading();
                        let delay = Duration::from_millis(random.length(50) as u64);
                        if ws.set_timer(delay, 1).is_ok() {
                            paused.insert(id);
                        } else {
                            ws.resume_reading();
                        }
                    }
                    3 => {
                        ws.pause_reading();
                        ws.resume_reading();
                    }
                    4 => {
                        // A timer that never fires.
                        let timer = ws.set_timer(Duration::from_millis(5), 2).expect("room");
                        assert!(ws.cancel_timer(timer));
                    }
                    _ => {}
                }
            }
            Callback::Timer(1) => {
                paused.remove(&id);
                ws.resume_reading();
                if random.chance(100) {
                    // It was meant longer.
                    ws.pause_reading();
                    paused.insert(id);
                    ws.set_timer(Duration::from_millis(1), 1).expect("the last one has fired");
                }
            }
            Callback::Timer(key) => {
                log.borrow_mut().violations.push(format!("{id:?}: timer {key} was cancelled"));
            }
            Callback::Close(_) => {
                paused.remove(&id);
            }
            _ => {}
        }
    })
}

fn run(seed: u64, faults: Faults) {
    let mut random = Random::new(seed ^ 0x9A05E);
    let setup = Setup::new(seed);
    let config = Config {
        max_backpressure: 1024 << random.up_to(8),
        receive_buffer: 64 << random.up_to(8),
        idle_timeout_ms: 3_000,
        ping_interval_ms: 1_000,
        pong_timeout_ms: if random.chance(500) { 1_500 } else { 0 },
        write_timeout_ms: 2_000,
        ..setup.config.clone()
    };
    let manner = patient(Random::new(seed));
    let mut world = Setup { faults, config, longest: LONGEST, ..setup }.serve(manner);
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..random.length(200) {
        if clients.len() < 8 && random.chance(200) {
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
    // An assertion in the handler is a panic that the worker survives.
    assert_eq!(world.shared.stats().handler_panics, 0, "seed {seed}");
    for client in &clients {
        client.assert_echoes(seed);
        let mut log = world.log.borrow_mut();
        let Some(id) = client.id.filter(|id| log.records.contains_key(id)) else { continue };
        let record = log.record(id);
        let end = record.end.as_ref().expect("at rest");
        let polite = client.farewell == Some(Farewell::Handshake);
        if polite && client.peer.seen() != Seen::Broken && end.cause == CloseCause::Peer {
            // Everything that it said before its Close was delivered, whatever paused in between.
            let delivered = client.received.len() + record.dropped as usize;
            assert_eq!(delivered, client.sent.len(), "seed {seed}: {id:?}");
        }
    }
}

#[test]
fn nothing_is_lost_in_a_pause_on_a_rough_network() {
    for_each_seed("nothing_is_lost_in_a_pause_on_a_rough_network", 200, |seed| {
        run(seed, Faults::rough());
    });
}

#[test]
fn nothing_is_lost_in_a_pause_on_any_network() {
    for_each_seed("nothing_is_lost_in_a_pause_on_any_network", 200, |seed| {
        run(seed, Faults::drawn(&mut Random::new(seed)));
    });
}
