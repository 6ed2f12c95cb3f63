//! A shutdown at any moment (threats ).
//!
//! Everybody who listens learns 1001, everybody's session ends once, nobody is accepted any more,
//! and the worker is done in time; of several requests the shortest grace wins.

use super::client::Client;
use super::log::echo;
use super::world::{Setup, World};
use crate::config::Config;
use crate::connection::Phase;
use crate::connection::http::Stage;
use crate::driver::simulated::{Faults, Random, ReadRate, Seen, for_each_seed};
use crate::error::{CloseCause, SendError};
use crate::worker::RELEASE_GRACE_MS;
use std::time::Duration;

/// Longest message.
const LONGEST: usize = 10_000;

/// A grace in which a polite client on a bad network can answer, whatever else happens.
const AMPLE_MS: u64 = 2_000;

fn run(seed: u64, faults: Faults) {
    let mut random = Random::new(seed ^ 0x0FF);
    let setup = Setup::new(seed);
    let config = Config {
        max_backpressure: 1024 << random.up_to(8),
        max_connections: 1 + random.up_to(20) as usize,
        handshake_timeout_ms: 500,
        idle_timeout_ms: 3_000,
        ping_interval_ms: 1_000,
        write_timeout_ms: 2_000,
        close_timeout_ms: 5_000,
        ..setup.config.clone()
    };
    let mut world = Setup { faults, config, longest: LONGEST, ..setup }.serve(echo());
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..random.length(150) {
        if clients.len() < 12 && random.chance(200) {
            clients.push(Client::drawn(&world.network, &mut random));
        }
        for client in &mut clients {
            client.listen();
            client.act(&mut random, LONGEST);
        }
        world.step(&mut random);
    }

    let mut grace_ms = if random.chance(300) { 0 } else { random.length(10_000) as u64 };
    world.handle.shutdown(Duration::from_millis(grace_ms));
    let asked_ms = world.now_ms();
    while world.worker.crank.stop_deadline_ms.is_none() {
        world.turn();
        clients.iter_mut().for_each(Client::listen);
    }
    let noticed_ms = world.now_ms();
    let mut deadline_ms = noticed_ms + grace_ms;
    assert_eq!(world.worker.crank.stop_deadline_ms, Some(deadline_ms), "seed {seed}");
    assert!(noticed_ms <= asked_ms + 2_000, "seed {seed}: noticed late");
    let accepted = world.shared.stats().accepted;
    assert_nobody_is_open(&world);

    let mut newcomers = Vec::new();
    while !world.worker.is_finished() {
        if random.chance(50) {
            // A second request: only a shorter grace changes anything.
            let second_ms = random.length(20_000) as u64;
            world.handle.shutdown(Duration::from_millis(second_ms));
            grace_ms = grace_ms.min(second_ms);
        }
        world.step(&mut random);
        let stop_ms = world.worker.crank.stop_deadline_ms.expect("stops");
        assert!(stop_ms <= deadline_ms, "seed {seed}: a second request put it off");
        deadline_ms = stop_ms;
        if random.chance(100) {
            newcomers.push(Client::new(&world.network));
        }
        for client in clients.iter_mut().chain(&mut newcomers) {
            client.listen();
            if random.chance(20) {
                client.act(&mut random, LONGEST);
            }
        }
    }
    let late_ms = world.now_ms().saturating_sub(deadline_ms);
    assert!(late_ms <= RELEASE_GRACE_MS + faults.stall_ms, "seed {seed}: {late_ms} ms late");
    assert_eq!(world.shared.stats().accepted, accepted, "seed {seed}: accepted afterwards");
    assert!(newcomers.iter().all(|client| !client.is_open()), "seed {seed}");

    // What is posted to a worker that has gone is refused, or counted if it came before.
    let id = world.log.borrow().records.keys().next().copied();
    if let Some(id) = id {
        world.handle.send_to(id, "too late").expect("the worker is there");
    }
    let undelivered = world.shared.stats().undelivered;
    let World { network, worker, shared, handle, log, .. } = world;
    drop(worker);
    assert_eq!(network.descriptors(), 0, "seed {seed}");
    if let Some(id) = id {
        assert_eq!(shared.stats().undelivered, undelivered + 1, "seed {seed}");
        assert_eq!(handle.send_to(id, "too late"), Err(SendError::Stopped), "seed {seed}");
    }
    assert_eq!(shared.stats().connections, 0, "seed {seed}");
    assert_eq!(shared.stats().opened, shared.stats().closed, "seed {seed}");
    assert!(log.borrow().open().is_empty(), "seed {seed}: no on_close");
    clients.iter().for_each(|client| client.peer.set_read_rate(ReadRate::Unlimited));
    network.advance(10_000);
    for client in &mut clients {
        client.listen();
        let log = log.borrow();
        let Some(record) = client.id.and_then(|id| log.records.get(&id)) else { continue };
        let end = record.end.as_ref().expect("ended");
        if end.cause == CloseCause::Shutdown {
            assert!(end.at_ms >= deadline_ms, "seed {seed}: {:?} was cut early", client.id);
        }
        let polite = client.farewell.is_none() && !client.is_slow && end.at_ms >= noticed_ms;
        if polite && client.peer.seen() != Seen::Broken && grace_ms >= AMPLE_MS {
            assert_eq!(client.close_code, Some(1001), "seed {seed}: {:?} {end:?}", client.id);
            assert_eq!(end.cause, CloseCause::Local, "seed {seed}: {:?}", client.id);
        }
    }
}

/// Asserts that every connection has its Close or another answer on its way.
fn assert_nobody_is_open(world: &World) {
    let table = &world.worker.crank.core.table;
    for id in table.ids() {
        let open = match &table.get(id).expect("just listed").phase {
            Phase::Live(live) => live.endpoint.is_open(),
            // Whoever has sent nothing yet gets a 503 if it still does.
            Phase::Http(http) => {
                http.as_ref().is_some_and(|http| matches!(http.stage, Stage::Head))
            }
            Phase::Dialing(_) | Phase::Draining { .. } | Phase::Gone => false,
        };
        assert!(!open, "seed {}: {id:?} is not told of the end", world.seed);
    }
}

#[test]
fn a_shutdown_ends_in_time_on_a_rough_network() {
    for_each_seed("a_shutdown_ends_in_time_on_a_rough_network", 300, |seed| {
        run(seed, Faults::rough());
    });
}

#[test]
fn a_shutdown_ends_in_time_on_any_network() {
    for_each_seed("a_shutdown_ends_in_time_on_any_network", 300, |seed| {
        run(seed, Faults::drawn(&mut Random::new(seed)));
    });
}
