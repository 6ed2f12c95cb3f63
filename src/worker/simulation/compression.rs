//! permessage-deflate on networks of every kind (RFC 7692).
//!
//! Clients without compression, with shared and with dedicated codecs get answers to themselves
//! and publications to everybody, which pass by their compressors. What arrives is what was sent,
//! in order, however the frames are cut and whoever leaves in the middle of a compressed message.

use super::assertions;
use super::client::{Client, Farewell, Said};
use super::log::{Callback, Manner, Session};
use super::world::{Setup, World};
use crate::config::Config;
use crate::driver::simulated::{Faults, Network, Random, ReadRate, Seen, for_each_seed};
use crate::error::CloseCause;
use crate::protocol::{Deflate, Message};

/// Longest message.
const LONGEST: usize = 20_000;

/// Settings of either side.
fn settings(random: &mut Random) -> Deflate {
    let bits = |random: &mut Random| 9 + random.up_to(6) as u8;
    let settings = match random.up_to(4) {
        0 | 1 => Deflate::shared(),
        2 => Deflate::dedicated(bits(random)).shared_decompressor(),
        3 => Deflate::shared().dedicated_decompressor(bits(random)),
        _ => Deflate::dedicated(bits(random)),
    };
    settings.level(1 + random.up_to(8) as u8).threshold(random.up_to(200) as u32)
}

/// Answers, or publishes to everybody.
fn answer_or_publish(mut random: Random) -> Manner {
    Box::new(move |ws, callback, _| match callback {
        Callback::Open => {
            ws.subscribe("all").expect("a good topic");
        }
        Callback::Message(message) if random.chance(500) => {
            // Whoever is slow or leaves misses it.
            ws.publish_to_all("all", message);
        }
        Callback::Message(message) => {
            ws.send(message);
        }
        _ => {}
    })
}

fn connect(network: &Network, random: &mut Random, name: usize) -> Client {
    let mut client = match random.chance(800) {
        true => Client::compressing(network, settings(random)),
        false => Client::new(network),
    };
    client.name = name as u32;
    if random.chance(200) {
        client.is_slow = true;
        client.peer.set_read_rate(ReadRate::BytesPerMs(random.length(5_000)));
    }
    client
}

/// A message that shrinks, or hardly, or not at all.
fn compose(random: &mut Random, client: &Client) -> Said {
    let mut payload = format!("{} {} ", client.name, client.sent.len()).into_bytes();
    let len = if random.chance(100) { LONGEST } else { 500 };
    let len = random.length(len).saturating_sub(payload.len());
    let mask = [0x00, 0x03, 0x7F][random.index(3)];
    payload.extend((0..len).map(|_| b' ' | (random.next() as u8 & mask)));
    // Below 128 it is ASCII.
    Said { text: random.chance(500), payload }
}

/// The frame of a message, compressed if that was agreed on.
fn frame(client: &mut Client, said: &Said) -> Vec<u8> {
    let message = match said.text {
        true => Message::Text(std::str::from_utf8(&said.payload).expect("ASCII")),
        false => Message::Binary(&said.payload),
    };
    let speaker = client.speaker.as_mut().expect("is open");
    let mut out = Vec::new();
    speaker.send_compressed(message, &mut client.pool, &mut out).expect("sends no Close before");
    out
}

/// Cuts a masked frame into fragments, with pings between them; the bits for compression and the
/// kind of message stay with the first. The last one is missing unless it is to be `whole`.
fn fragments(random: &mut Random, frame: &[u8], whole: bool) -> Vec<u8> {
    let header = match frame[1] & 0x7F {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let (mask, payload) = frame[header..].split_at(4);
    let mut rest: Vec<u8> = payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b).collect();
    let mut first = frame[0] & 0x7F;
    let mut out = Vec::new();
    loop {
        let mut later = rest.split_off(random.index(rest.len() + 1));
        let last = later.is_empty() || random.chance(300);
        if last {
            if !whole {
                return out;
            }
            rest.append(&mut later);
            first |= 0x80;
        }
        out.push(first);
        match u8::try_from(rest.len()) {
            Ok(len @ ..126) => out.push(0x80 | len),
            _ => {
                out.push(0x80 | 126);
                out.extend((rest.len() as u16).to_be_bytes());
            }
        }
        // A mask of zeros leaves the payload as it is.
        out.extend([0; 4]);
        out.extend(&rest);
        if last {
            return out;
        }
        if random.chance(200) {
            out.extend(b"\x89\x84\0\0\0\0ping");
        }
        (rest, first) = (later, 0);
    }
}

/// Sends a message, whole or in fragments.
fn say(random: &mut Random, client: &mut Client) {
    let said = compose(random, client);
    let mut bytes = frame(client, &said);
    if random.chance(400) {
        bytes = fragments(random, &bytes, true);
    }
    client.sent.push(said);
    client.peer.send(&bytes);
}

/// Leaves behind a message that is not complete.
fn leave(random: &mut Random, client: &mut Client) {
    let said = compose(random, client);
    let bytes = frame(client, &said);
    let farewell = match random.up_to(5) {
        0 => Farewell::Fin,
        1 => Farewell::Vanish,
        2 => Farewell::Reset,
        3 => Farewell::Silence,
        _ => Farewell::Handshake,
    };
    // A Close may stand between fragments, but in no frame.
    let bytes = match farewell {
        Farewell::Handshake => fragments(random, &bytes, false),
        _ => bytes[..random.index(bytes.len())].to_vec(),
    };
    client.peer.send(&bytes);
    client.leave(farewell);
}

fn act(random: &mut Random, client: &mut Client) {
    if !client.is_open() || !client.may_speak() {
        return;
    }
    match random.up_to(19) {
        0..=8 => (0..random.length(5)).for_each(|_| say(random, client)),
        9 => {
            client.is_slow = true;
            client.peer.set_read_rate(ReadRate::Stopped);
        }
        10 => client.peer.set_read_rate(ReadRate::Unlimited),
        11 if random.chance(300) => leave(random, client),
        _ => {}
    }
}

/// `ample`: no queue is ever full, so that everybody gets everything.
fn run(seed: u64, faults: Faults, ample: bool) {
    let mut random = Random::new(seed ^ 0xDEF1A7E);
    let setup = Setup::new(seed);
    let config = Config {
        deflate: settings(&mut random),
        max_backpressure: if ample { 64 << 20 } else { 1024 << random.up_to(8) },
        receive_buffer: if random.chance(500) { 64 * 1024 } else { 64 << random.up_to(8) },
        idle_timeout_ms: if ample { 0 } else { 3_000 },
        write_timeout_ms: if ample { 0 } else { 2_000 },
        ..setup.config.clone()
    };
    // Noise grows when it is compressed.
    let longest = LONGEST + LONGEST / 8 + 64;
    let manner = answer_or_publish(Random::new(random.next()));
    let mut world = Setup { faults, config, longest, ..setup }.serve(manner);
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..random.length(150) {
        if clients.len() < 10 && random.chance(200) {
            let client = connect(&world.network, &mut random, clients.len());
            clients.push(client);
        }
        for client in &mut clients {
            client.listen();
            act(&mut random, client);
        }
        world.step(&mut random);
    }
    for client in &mut clients {
        client.listen();
        client.leave(Farewell::Handshake);
        client.read_on();
        if ample && client.farewell == Some(Farewell::Silence) {
            // There are no timeouts here.
            client.peer.reset();
        }
    }
    world.settle(&mut clients);
    assertions::at_rest(&world);
    clients.iter().for_each(|client| assert_letters(&world, client, &clients, ample));
}

/// Asserts that what a client got is what the others and itself sent, in order; and with nothing
/// missing of its own if it closed politely and nothing was `ample` enough to be lost.
fn assert_letters(world: &World, receiver: &Client, clients: &[Client], ample: bool) {
    let seed = world.seed;
    for sender in clients {
        let mut sent = sender.sent.iter();
        let name = sender.name.to_string();
        let letters = receiver.received.iter();
        for letter in letters.filter(|letter| letter.sender() == name) {
            assert!(sent.any(|sent| sent == letter), "seed {seed}: of nobody, or out of order");
        }
    }
    let names: Vec<String> = clients.iter().map(|client| client.name.to_string()).collect();
    let known = |letter: &Said| names.contains(&letter.sender());
    assert!(receiver.received.iter().all(known), "seed {seed}: a letter of nobody");

    let log = world.log.borrow();
    let Some(record) = receiver.id.and_then(|id| log.records.get(&id)) else { return };
    let end = record.end.as_ref().expect("at rest");
    // Every byte that we sent was right.
    let protocol = matches!(end.code, 1002 | 1007 | 1009 | 1010 | 1011);
    assert!(!protocol, "seed {seed}: {:?} {end:?}", receiver.id);
    if ample && receiver.farewell == Some(Farewell::Handshake) {
        let seen = receiver.peer.seen();
        assert_eq!((seen, receiver.close_code), (Seen::Finished, Some(1000)), "seed {seed}");
        assert_eq!(end.cause, CloseCause::Peer, "seed {seed}");
        let name = receiver.name.to_string();
        let own = receiver.received.iter().filter(|letter| letter.sender() == name);
        assert_eq!(own.count(), receiver.sent.len(), "seed {seed}: {:?}", receiver.id);
    }
}

#[test]
fn compressed_messages_are_complete_on_a_rough_network() {
    for_each_seed("compressed_messages_are_complete_on_a_rough_network", 100, |seed| {
        run(seed, Faults::rough(), true);
    });
}

#[test]
fn slow_readers_of_compressed_messages_miss_whole_ones() {
    for_each_seed("slow_readers_of_compressed_messages_miss_whole_ones", 100, |seed| {
        run(seed, Faults::rough(), false);
    });
}

#[test]
fn compression_leaves_nothing_on_any_network() {
    for_each_seed("compression_leaves_nothing_on_any_network", 100, |seed| {
        run(seed, Faults::drawn(&mut Random::new(seed)), false);
    });
}

/// The other tests compress, indeed.
#[test]
fn clients_that_agreed_get_fewer_bytes() {
    for (server, own) in [
        (Deflate::shared(), Deflate::shared()),
        (Deflate::shared(), Deflate::dedicated(15)),
        (Deflate::dedicated(15), Deflate::shared()),
        (Deflate::dedicated(9), Deflate::dedicated(15)),
    ] {
        let mut setup = Setup::new(0);
        setup.config.deflate = server;
        let mut world = setup.serve(answer_or_publish(Random::new(0)));
        let mut clients =
            [own, Deflate::off()].map(|deflate| Client::compressing(&world.network, deflate));
        world.deliver(&mut clients);
        for nth in 0..20 {
            let payload = format!("0 {nth} {}", "to and fro ".repeat(500)).into_bytes();
            let said = Said { text: true, payload };
            for client in &mut clients {
                let bytes = frame(client, &said);
                client.peer.send(&bytes);
            }
            world.deliver(&mut clients);
        }
        let sizes = clients.each_ref().map(|client| client.received.iter());
        let sizes = sizes.map(|all| all.map(|said| said.payload.len()).sum::<usize>());
        let [compressed, plain] = clients.each_ref().map(|client| client.arrived);
        assert!(compressed < sizes[0] / 10, "{compressed} bytes for {}", sizes[0]);
        assert!(plain > sizes[1], "{plain} bytes for {}", sizes[1]);
        assert!(clients.iter().all(|client| client.received.len() > 20), "publications");
    }
}

/// What one connection inflates is not charged to another one that opens in the same turn.
#[test]
fn a_newcomer_has_a_share_of_its_own() {
    let mut setup = Setup::new(0);
    setup.config.deflate = Deflate::shared();
    setup.longest = 1 << 20;
    let mut world = setup.serve(Box::new(|ws, callback, _| {
        if let Callback::Message(message) = callback
            && message.len() == 1
        {
            ws.send(message);
        }
    }));
    let mut clients = [Client::compressing(&world.network, Deflate::shared())];
    world.deliver(&mut clients);
    let [mut greedy] = clients;
    world.log.borrow_mut().defers = true;
    let newcomer = Client::new(&world.network);
    newcomer.peer.send(b"\x82\x81\0\0\0\0n");
    let mut clients = [newcomer];
    world.deliver(&mut clients);
    let ticket = world.log.borrow_mut().tickets.pop().expect("put off");
    // More than one turn inflates, and the decision comes in the same turn.
    let said = Said { text: true, payload: vec![b' '; 1 << 20] };
    let bytes: Vec<u8> = (0..8).flat_map(|_| frame(&mut greedy, &said)).collect();
    greedy.peer.send(&bytes);
    ticket.accept(Session::default()).expect("waits for it");
    world.deliver(&mut clients);
    assert_eq!(clients[0].received, [Said { text: false, payload: b"n".to_vec() }]);
    while !world.network.is_quiet() || world.worker.crank.timeout_ms() == Some(0) {
        world.turn();
    }
    let calls = world.log.borrow_mut().record(greedy.id.expect("adopted")).calls.len();
    assert_eq!(calls, 9, "on_open and eight messages");
}
