//! Long messages, long queues, peers that only write and peers that only announce.
//!
//! Memory stays within its bounds (threats ), nobody starves, and
//! what was taken for sending arrives whole and in order.

use super::assertions;
use super::client::{Client, Farewell};
use super::log::{Callback, Manner, echo, silent};
use super::world::Setup;
use crate::connection::Phase;
use crate::driver::simulated::{Faults, Random, ReadRate, for_each_seed};
use crate::protocol::Message;
use crate::websocket::SendStatus;

/// Faults that break no connection; buffers of one byte would only take time.
fn lossless(random: &mut Random) -> Faults {
    let faults = Faults::drawn(random);
    Faults {
        reset_on_receive: 0,
        reset_on_send: 0,
        adopt_failure: 0,
        send_buffer: faults.send_buffer.max(256),
        receive_buffer: faults.receive_buffer.max(1024),
        ..faults
    }
}

#[test]
fn one_long_message_at_a_time_passes_any_buffer() {
    for_each_seed("one_long_message_at_a_time_passes_any_buffer", 300, |seed| {
        let mut random = Random::new(seed);
        let mut setup =
            Setup { faults: lossless(&mut random), longest: 200_000, ..Setup::new(seed) };
        setup.config.receive_buffer = 64 << random.up_to(10);
        setup.config.max_backpressure = 1024;
        let mut world = setup.serve(echo());
        let mut clients = [world.client()];
        for nth in 1..=3 {
            let longest = if random.chance(300) { 200_000 } else { 5_000 };
            clients[0].say_something(&mut random, longest);
            // Pings between fragments may have to wait in the queue, where an answer is too much.
            while clients[0].received.len() < nth {
                world.step(&mut random);
                clients[0].listen();
                if !clients[0].pongs.is_empty() {
                    return;
                }
            }
        }
        assert_eq!(clients[0].received, clients[0].sent, "seed {seed}");
        clients[0].leave(Farewell::Handshake);
        world.settle(&mut clients);
        assertions::at_rest(&world);
    });
}

#[test]
fn memory_follows_what_was_received_not_what_was_announced() {
    for_each_seed("memory_follows_what_was_received_not_what_was_announced", 100, |seed| {
        let mut random = Random::new(seed);
        let setup = Setup { faults: lossless(&mut random), longest: 1 << 20, ..Setup::new(seed) };
        let mut world = setup.serve(silent());
        let mut clients: Vec<Client> = (0..random.length(10)).map(|_| world.client()).collect();
        // A message of a MiB, in one frame or in fragments of anything; it is never complete.
        for client in &mut clients {
            client.peer.send(b"\x02\xFF\0\0\0\0\0\x08\0\0\0\0\0\0");
        }
        let mut sent = vec![0; clients.len()];
        for _ in 0..50 {
            let nth = random.index(clients.len());
            let len = random.length(100_000).min((1 << 19) - sent[nth]);
            if len > 0 {
                clients[nth].peer.send(&vec![b'x'; len]);
            }
            sent[nth] += len;
            world.step(&mut random);
            let longest = *sent.iter().max().expect("at least one");
            for (client, &sent) in clients.iter().zip(&sent) {
                let connection = client.id.and_then(|id| world.worker.crank.core.table.get(id));
                let Some(Phase::Live(live)) = connection.map(|connection| &connection.phase) else {
                    panic!("seed {seed}: {:?} is not open", client.id);
                };
                let buffered = live.endpoint.buffered();
                // A buffer that another one has outgrown is used again.
                let received = if buffered > 64 * 1024 { longest } else { sent };
                assert!(buffered <= 2 * received + 64 * 1024, "seed {seed}: {buffered} for {sent}");
            }
        }
        clients.iter().for_each(|client| client.peer.close());
        world.settle(&mut clients);
        assertions::at_rest(&world);
    });
}

#[test]
fn a_flood_of_pings_leaves_one_pong_and_it_is_the_latest() {
    for_each_seed("a_flood_of_pings_leaves_one_pong_and_it_is_the_latest", 50, |seed| {
        let mut random = Random::new(seed);
        let mut setup = Setup { faults: lossless(&mut random), ..Setup::new(seed) };
        setup.config.receive_buffer = 64 << random.up_to(10);
        let mut world = setup.serve(echo());
        let mut clients = [world.client()];
        clients[0].peer.set_read_rate(ReadRate::Stopped);
        clients[0].say_something(&mut random, 100_000);
        let count = 1 + random.up_to(2_000);
        for nth in 0..count {
            clients[0].ping(format!("{nth:0100}").as_bytes());
            if random.chance(100) {
                world.step(&mut random);
            }
        }
        while !world.network.is_quiet() {
            world.turn();
        }
        let id = clients[0].id.expect("adopted");
        let queue = world.worker.crank.core.buffered_amount(id);
        clients[0].read_on();
        world.deliver(&mut clients);
        let [client] = &mut clients;
        client.pongs.retain(|pong| pong != b"between fragments");
        assert!(client.pongs.is_sorted(), "seed {seed}: out of order");
        let latest = format!("{:0100}", count - 1);
        assert_eq!(client.pongs.last().map(Vec::as_slice), Some(latest.as_bytes()), "seed {seed}");
        assert_eq!(client.received, client.sent, "seed {seed}");
        // The first echo and whatever preceded it, one pong behind it.
        let most = client.sent[0].payload.len() + 64 * 1024;
        assert!(queue <= most, "seed {seed}: {queue} bytes queued");
    });
}

#[test]
fn a_firehose_does_not_starve_the_others() {
    for_each_seed("a_firehose_does_not_starve_the_others", 60, |seed| {
        let mut random = Random::new(seed);
        let mut setup =
            Setup { faults: lossless(&mut random), longest: 20_000, ..Setup::new(seed) };
        // Faults that make a turn skip a connection are no fault of the worker.
        (setup.faults.exhausted, setup.faults.short_turn, setup.faults.early_return) = (0, 0, 0);
        setup.config.receive_buffer = 256 << random.up_to(8);
        setup.config.max_backpressure = 1024 << random.up_to(10);
        let mut world = setup.serve(echo());
        let mut hoses: Vec<Client> = (0..random.length(5)).map(|_| world.client()).collect();
        let mut clients = [world.client()];
        for _ in 0..5 {
            world.deliver(&mut clients);
            clients[0].ping(b"how long?");
            let pongs = clients[0].pongs.len();
            let mut turns = 0;
            while clients[0].pongs.len() == pongs {
                for hose in &mut hoses {
                    hose.listen();
                    if hose.peer.in_flight() < 50_000 {
                        hose.say_something(&mut random, 20_000);
                    }
                }
                // A turn takes time; otherwise what is under way would never arrive.
                world.network.advance(1);
                world.turn();
                clients[0].listen();
                turns += 1;
                // A few for the way there and back, a few for a ping torn into single bytes.
                assert!(turns < 60, "seed {seed}: starved for {turns} turns");
            }
        }
    });
}

#[test]
fn a_relay_keeps_order_and_bounds() {
    for_each_seed("a_relay_keeps_order_and_bounds", 200, |seed| {
        let mut random = Random::new(seed);
        let mut setup =
            Setup { faults: Faults::drawn(&mut random), longest: 20_000, ..Setup::new(seed) };
        setup.config.max_backpressure = 1024 << random.up_to(8);
        setup.config.receive_buffer = 64 << random.up_to(10);
        (setup.config.idle_timeout_ms, setup.config.write_timeout_ms) = (3_000, 2_000);
        let mut world = setup.serve(Box::new(|ws, callback, log| {
            if let Callback::Message(message) = callback {
                for id in log.borrow().open() {
                    // Whoever is slow or leaves misses it.
                    let _ = ws.send_to(id, message);
                }
            }
        }));
        let mut clients: Vec<Client> = Vec::new();
        for _ in 0..random.length(150) {
            if clients.len() < 10 && random.chance(200) {
                let mut client = Client::drawn(&world.network, &mut random);
                client.name = clients.len() as u32;
                clients.push(client);
            }
            for client in &mut clients {
                client.listen();
                client.act(&mut random, 20_000);
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
        for receiver in &clients {
            for sender in &clients {
                let mut sent = sender.sent.iter();
                let name = sender.name.to_string();
                let letters = receiver.received.iter();
                for letter in letters.filter(|letter| letter.sender() == name) {
                    assert!(sent.any(|sent| sent == letter), "seed {seed}: out of order");
                }
            }
        }
    });
}

/// Sends numbers until told to wait, and goes on in `on_drain`.
fn producer(count: usize, len: usize) -> Manner {
    let mut next = 0;
    Box::new(move |ws, callback, _| {
        if !matches!(callback, Callback::Message(_) | Callback::Drain) {
            return;
        }
        while next < count {
            let mut message = vec![b'.'; len];
            message.splice(..0, next.to_string().bytes());
            match ws.send(&message) {
                SendStatus::Sent => next += 1,
                SendStatus::Queued => {
                    next += 1;
                    break;
                }
                SendStatus::Dropped => break,
            }
        }
    })
}

#[test]
fn whoever_waits_for_on_drain_is_called() {
    for_each_seed("whoever_waits_for_on_drain_is_called", 60, |seed| {
        let mut random = Random::new(seed);
        let count = random.length(300);
        let longest = if random.chance(200) { 40_000 } else { 2_000 };
        let len = random.length(longest);
        let mut setup = Setup { faults: lossless(&mut random), ..Setup::new(seed) };
        setup.config.max_backpressure = 1024 << random.up_to(10);
        let mut world = setup.serve(producer(count, len));
        let mut clients = [world.client()];
        clients[0].peer.set_read_rate(ReadRate::BytesPerMs(random.length(100_000)));
        clients[0].say(Message::Text("go"));
        world.deliver(&mut clients);
        let letters = clients[0].received.iter();
        let numbers: Vec<usize> = letters
            .map(|letter| String::from_utf8_lossy(&letter.payload).trim_matches('.').parse())
            .collect::<Result<_, _>>()
            .expect("numbers");
        assert_eq!(numbers, (0..count).collect::<Vec<_>>(), "seed {seed}");
    });
}
