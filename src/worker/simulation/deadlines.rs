//! Every timeout at its moment: never before, at most a turn and a stall after it, and never when
//! it is off (threats ).

use super::client::Client;
use super::log::echo;
use super::world::{Setup, World};
use crate::config::Config;
use crate::connection::{Http, Phase};
use crate::driver::simulated::{Faults, Random, ReadRate, for_each_seed};
use crate::error::CloseCause;
use crate::protocol::{CloseCode, Message};

/// A moment by which every timeout that is on has passed many times.
const LONG_MS: u64 = 1_000_000;

/// A timeout of any length, or off.
fn timeout_ms(random: &mut Random) -> u64 {
    if random.chance(250) { 0 } else { 20 + random.length(20_000) as u64 }
}

fn setup(seed: u64) -> Setup {
    let mut faults = Faults::drawn(&mut Random::new(seed));
    // A connection that breaks misses its deadlines.
    (faults.reset_on_receive, faults.reset_on_send, faults.adopt_failure) = (0, 0, 0);
    faults.send_buffer = 4096;
    Setup { faults, ..Setup::new(seed) }
}

/// A worker that polls is awake for what comes soon, deadlines included, and sleeps otherwise.
#[test]
fn a_worker_that_polls_does_not_sleep_before_its_time() {
    for (window_ms, sleeps) in [(100, false), (30, true)] {
        let mut setup = Setup::new(0);
        (setup.config.busy_poll_us, setup.faults.look_ms) = (1000 * window_ms, 1);
        setup.config.ping_interval_ms = 80;
        let mut world = setup.serve(echo());
        let mut clients = [world.client()];
        let before = world.network.counts().sleeps;
        for round in 1..=10 {
            let now_ms = world.now_ms();
            clients[0].say(Message::Text("soon"));
            world.run_until(now_ms + 10, &mut clients);
            assert_eq!(clients[0].received.len(), round);
            // Silence is asked about in its time.
            world.run_until(now_ms + 82, &mut clients);
            assert_eq!(clients[0].pings.len(), round);
        }
        let slept = world.network.counts().sleeps - before;
        assert_eq!(slept != 0, sleeps, "{slept} times, with {window_ms} ms");
    }
}

/// Turns until `ended`, or for a long time. Asserts that it ends `timeout_ms` after `start_ms`
/// and that it does not end if that is zero.
fn assert_ends(
    world: &mut World,
    client: &mut Client,
    start_ms: u64,
    timeout_ms: u64,
    mut ended: impl FnMut(&mut World, &mut Client) -> bool,
) {
    let seed = world.seed;
    let give_up_ms = start_ms + LONG_MS;
    while world.now_ms() < give_up_ms {
        world.turn_before(give_up_ms);
        client.listen();
        if ended(world, client) {
            let took_ms = world.worker.crank.core.now_ms - start_ms;
            // The worker may find itself stalled, once when it waits for the deadline and once
            // when it had just returned from a wait.
            let late_ms = timeout_ms + 2 * 50;
            assert!(timeout_ms > 0, "seed {seed}: off, but ended after {took_ms} ms");
            assert!(took_ms >= timeout_ms, "seed {seed}: {took_ms} of {timeout_ms} ms");
            assert!(took_ms <= late_ms, "seed {seed}: {took_ms} instead of {timeout_ms} ms");
            return;
        }
    }
    assert_eq!(timeout_ms, 0, "seed {seed}: never ended");
}

/// The first turn in which the worker knows the connection; its time.
fn accepted_ms(world: &mut World, client: &mut Client) -> u64 {
    while client.id.is_none() {
        world.turn();
        client.listen();
    }
    world.worker.crank.core.now_ms
}

/// The part of the request that has arrived; `None` if the opening handshake was given up.
fn requesting<'w>(world: &'w World, client: &Client) -> Option<&'w Option<Box<Http>>> {
    match &world.worker.crank.core.table.get(client.id?)?.phase {
        Phase::Http(http) => Some(http),
        _ => None,
    }
}

fn cause(world: &World, client: &Client) -> Option<CloseCause> {
    let log = world.log.borrow();
    Some(log.records.get(&client.id?)?.end.as_ref()?.cause)
}

#[test]
fn a_request_has_its_time_and_no_more() {
    for_each_seed("a_request_has_its_time_and_no_more", 300, |seed| {
        let mut random = Random::new(seed);
        let mut setup = setup(seed);
        let timeout_ms = timeout_ms(&mut random);
        setup.config.handshake_timeout_ms = timeout_ms;
        let mut world = setup.serve(echo());
        let mut client = Client::mute(&world.network);
        let start_ms = accepted_ms(&mut world, &mut client);
        let trickles = random.chance(500);
        let mut request = Client::request().into_iter();
        let (mut sent, mut arrived) = (false, false);
        assert_ends(&mut world, &mut client, start_ms, timeout_ms, |world, client| {
            let Some(http) = requesting(world, client) else { return true };
            arrived |= http.is_some();
            // The last byte of the request never comes.
            if trickles && request.len() > 1 {
                client.peer.send(request.next().as_slice());
                sent = true;
            }
            false
        });
        if timeout_ms > 0 {
            world.settle(std::slice::from_mut(&mut client));
            assert!(!arrived || client.refusal == Some(408), "seed {seed}: {:?}", client.refusal);
            assert!(sent || client.refusal.is_none(), "seed {seed}: {:?}", client.refusal);
        }
    });
}

#[test]
fn a_silent_peer_is_pinged_then_cut() {
    for_each_seed("a_silent_peer_is_pinged_then_cut", 300, |seed| {
        let mut random = Random::new(seed);
        let mut setup = setup(seed);
        let (idle_ms, ping_ms) = (timeout_ms(&mut random), timeout_ms(&mut random));
        setup.config =
            Config { idle_timeout_ms: idle_ms, ping_interval_ms: ping_ms, ..setup.config };
        let mut world = setup.serve(echo());
        let mut clients = [world.client()];
        clients[0].mute = true;
        let words = random.up_to(5);
        for _ in 0..words {
            clients[0].say(Message::Text("alive"));
            let pause_ms = random.length(20 + idle_ms as usize / 2) as u64;
            world.run_until(world.now_ms() + pause_ms, &mut clients);
        }
        world.deliver(&mut clients);
        let [mut client] = clients;
        let id = client.id.expect("adopted");
        if cause(&world, &client).is_some() {
            return;
        }
        let heard_ms = world.log.borrow_mut().record(id).heard_ms;
        assert_ends(&mut world, &mut client, heard_ms, idle_ms, |world, client| {
            cause(world, client) == Some(CloseCause::IdleTimeout)
        });
        world.network.advance(1_000);
        client.listen();
        if words == 0 && ping_ms > 0 && (idle_ms == 0 || ping_ms + 100 < idle_ms) {
            assert_eq!(client.pings.len(), 1, "seed {seed}: one ping per silence");
        }
    });
}

#[test]
fn a_peer_that_answers_pings_is_never_cut() {
    for_each_seed("a_peer_that_answers_pings_is_never_cut", 50, |seed| {
        let mut random = Random::new(seed);
        let mut setup = setup(seed);
        let ping_ms = 20 + random.length(5_000) as u64;
        let idle_ms = 2 * ping_ms + 500;
        setup.config =
            Config { idle_timeout_ms: idle_ms, ping_interval_ms: ping_ms, ..setup.config };
        let mut world = setup.serve(echo());
        let mut clients = [world.client()];
        world.run_until(world.now_ms() + 20 * idle_ms, &mut clients);
        assert_eq!(cause(&world, &clients[0]), None, "seed {seed}");
        assert!(clients[0].pings.len() >= 20, "seed {seed}");
    });
}

#[test]
fn a_peer_that_does_not_read_is_cut() {
    for_each_seed("a_peer_that_does_not_read_is_cut", 60, |seed| {
        let mut random = Random::new(seed);
        let mut setup = setup(seed);
        let write_ms = timeout_ms(&mut random);
        setup.config.write_timeout_ms = write_ms;
        let mut world = setup.serve(echo());
        let mut client = world.client();
        client.peer.set_read_rate(ReadRate::Stopped);
        client.say(Message::Binary(&vec![7; 5_000 + random.length(100_000)]));
        // The time counts from the last byte that the socket took.
        let mut progress_ms = world.now_ms();
        while client.peer.unread() < 4096 {
            world.turn();
            client.listen();
            progress_ms = world.worker.crank.core.now_ms;
        }
        assert_ends(&mut world, &mut client, progress_ms, write_ms, |world, client| {
            cause(world, client) == Some(CloseCause::WriteTimeout)
        });
    });
}

#[test]
fn a_close_is_answered_in_time_or_never() {
    for_each_seed("a_close_is_answered_in_time_or_never", 300, |seed| {
        let mut random = Random::new(seed);
        let mut setup = setup(seed);
        let close_ms = timeout_ms(&mut random);
        setup.config.close_timeout_ms = close_ms;
        let mut world = setup.serve(echo());
        let mut client = world.client();
        client.mute = true;
        let id = client.id.expect("adopted");
        world.handle.close(id, CloseCode::NORMAL, "").expect("room");
        while is_open(&world, &client) {
            world.turn();
        }
        let asked_ms = world.worker.crank.core.now_ms;
        assert_ends(&mut world, &mut client, asked_ms, close_ms, |world, client| {
            cause(world, client) == Some(CloseCause::CloseTimeout)
        });
    });
}

fn is_open(world: &World, client: &Client) -> bool {
    let connection = client.id.and_then(|id| world.worker.crank.core.table.get(id));
    connection.is_some_and(|connection| match &connection.phase {
        Phase::Live(live) => live.endpoint.is_open(),
        _ => false,
    })
}

#[test]
fn a_long_stall_fires_nothing_early_and_everything_once() {
    for_each_seed("a_long_stall_fires_nothing_early_and_everything_once", 50, |seed| {
        let mut random = Random::new(seed);
        let mut setup = setup(seed);
        // The first turn after the stall brings everything that came meanwhile.
        (setup.faults.exhausted, setup.faults.short_turn, setup.faults.early_return) = (0, 0, 0);
        setup.config = Config {
            idle_timeout_ms: 1_000 + random.length(5_000) as u64,
            ping_interval_ms: 50 + random.length(1_000) as u64,
            ..setup.config
        };
        let idle_ms = setup.config.idle_timeout_ms;
        let mut world = setup.serve(echo());
        let mut clients: Vec<Client> = (0..5).map(|_| world.client()).collect();
        // What the peers sent during the stall counts: the worker sees it first.
        for client in &mut clients[..3] {
            client.say(Message::Text("sent before the stall"));
        }
        world.network.advance(1 << 33);
        clients.iter_mut().for_each(|client| client.mute = true);
        let woken_ms = world.now_ms();
        world.run_until(woken_ms + idle_ms / 2, &mut clients);
        for (nth, client) in clients.iter().enumerate() {
            let expected = (nth >= 3).then_some(CloseCause::IdleTimeout);
            assert_eq!(cause(&world, client), expected, "seed {seed}: client {nth}");
        }
        world.settle(&mut clients);
        assert_eq!(world.shared.stats().closed, 5, "seed {seed}");
        assert_eq!(world.worker.crank.core.timers.next_deadline(), None, "seed {seed}");
    });
}
