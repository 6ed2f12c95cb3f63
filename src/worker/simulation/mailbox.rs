//! Commands of other threads at any moment, also to the dead (threats ).
//!
//! Every message that a mailbox took is delivered or counted, in the order of its sender, and
//! never to a stranger.

use super::assertions;
use super::client::{Client, Farewell, Said};
use super::log::{Callback, Manner, silent};
use super::world::{Setup, World};
use crate::config::Config;
use crate::driver::ConnectionId;
use crate::driver::simulated::{Faults, Random, Seen, for_each_seed};
use crate::error::SendError;
use crate::handle::Handle;
use crate::protocol::{CloseCode, Message};

/// Connections at one time, so that slots are reused often.
const SLOTS: usize = 4;

/// A sender that numbers its messages.
struct Sender {
    handle: Handle,
    name: usize,
    posted: u64,
}

impl Sender {
    /// A message that says from whom it is, for whom, and which one.
    fn post(&mut self, id: ConnectionId, random: &mut Random) {
        let mut message = format!("{} {id:?} {} ", self.name, self.posted);
        message.extend(std::iter::repeat_n('x', random.length(2_000)));
        let posted = if random.chance(500) {
            self.handle.send_to(id, message.as_str())
        } else {
            self.handle.send_to(id, message.as_bytes())
        };
        assert_eq!(posted, Ok(()), "the mailbox has room");
        self.posted += 1;
    }
}

/// Asserts that a client got nothing of others and everything in order.
fn assert_letters(seed: u64, client: &Client) {
    let mut last = [None; 3];
    for Said { payload, .. } in &client.received {
        let letter = std::str::from_utf8(payload).expect("letters are text");
        let mut words = letter.split(' ');
        let mut word = || words.next().expect("three words");
        let sender: usize = word().parse().expect("a number");
        let id = client.id.map(|id| format!("{id:?}"));
        assert_eq!(Some(word()), id.as_deref(), "seed {seed}: a stranger's letter");
        let number: u64 = word().parse().expect("a number");
        assert!(last[sender].is_none_or(|last| last < number), "seed {seed}: out of order");
        last[sender] = Some(number);
    }
}

/// Posts from inside callbacks, too, where the worker's own thread is the sender.
fn posting(mut random: Random) -> Manner {
    let mut posted = 0;
    Box::new(move |ws, callback, log| {
        if let Callback::Ping(_) | Callback::Open = callback {
            let handle = Handle { shared: ws.core.shared.clone() };
            let mut sender = Sender { handle, name: 2, posted };
            let ids: Vec<_> = log.borrow().records.keys().copied().collect();
            sender.post(ids[random.index(ids.len())], &mut random);
            posted = sender.posted;
        }
    })
}

fn run(seed: u64, faults: Faults, polite: bool) {
    let mut random = Random::new(seed ^ 0x0AD);
    let setup = Setup::new(seed);
    let mut config = Config {
        max_connections: SLOTS,
        max_backpressure: 1024 << random.up_to(8),
        ..setup.config.clone()
    };
    if !polite {
        (config.idle_timeout_ms, config.write_timeout_ms) = (3_000, 2_000);
    }
    let manner = if polite { silent() } else { posting(Random::new(random.next())) };
    let mut world = Setup { faults, config, longest: 4_096, ..setup }.serve(manner);
    let mut senders = [0, 1].map(|name| Sender { handle: world.handle.clone(), name, posted: 0 });
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..random.length(200) {
        if clients.len() < 20 && random.chance(300) {
            clients.push(Client::drawn(&world.network, &mut random));
        }
        for client in &mut clients {
            client.listen();
            if client.is_open() && random.chance(20) {
                let farewell = Farewell::drawn(&mut random);
                client.leave(if polite { Farewell::Handshake } else { farewell });
            }
            if client.is_open() && client.may_speak() && random.chance(50) {
                client.ping(b"");
            }
        }
        for _ in 0..random.up_to(4) {
            let id = any_id(&clients, &mut random);
            match random.up_to(9) {
                0 => world.handle.close(id, CloseCode::NORMAL, "posted").expect("room"),
                nth => senders[nth as usize % 2].post(id, &mut random),
            }
        }
        world.step(&mut random);
    }
    clients.iter().for_each(Client::read_on);
    while clients.iter().any(|client| client.may_speak() && client.peer.seen() == Seen::Open) {
        world.step(&mut random);
        for client in &mut clients {
            client.listen();
            if client.is_open() {
                client.leave(Farewell::Handshake);
                client.read_on();
            }
        }
    }
    world.settle(&mut clients);
    assertions::at_rest(&world);
    clients.iter().for_each(|client| assert_letters(seed, client));
    if polite {
        assert_sum(&world, &senders, &clients);
    }
}

/// Asserts that no letter was lost: nobody broke off, so what was taken was read.
fn assert_sum(world: &World, senders: &[Sender], clients: &[Client]) {
    let posted: u64 = senders.iter().map(|sender| sender.posted).sum();
    let read: usize = clients.iter().map(|client| client.received.len()).sum();
    let stats = world.shared.stats();
    assert_eq!(stats.messages_sent, read as u64, "seed {}", world.seed);
    assert_eq!(posted, read as u64 + stats.undelivered, "seed {}", world.seed);
}

/// The id of a client, living or dead, or one that was never given.
fn any_id(clients: &[Client], random: &mut Random) -> ConnectionId {
    let ids: Vec<_> = clients.iter().filter_map(|client| client.id).collect();
    if ids.is_empty() || random.chance(50) {
        let slot = random.up_to(2 * SLOTS as u64) as u32;
        return ConnectionId::new(0, slot, 1_000_000 + random.up_to(3) as u32);
    }
    ids[random.index(ids.len())]
}

#[test]
fn no_letter_is_lost_on_a_rough_network() {
    for_each_seed("no_letter_is_lost_on_a_rough_network", 300, |seed| {
        run(seed, Faults::rough(), true);
    });
}

#[test]
fn no_letter_reaches_a_stranger_on_any_network() {
    for_each_seed("no_letter_reaches_a_stranger_on_any_network", 100, |seed| {
        run(seed, Faults::drawn(&mut Random::new(seed)), false);
    });
}

#[test]
fn an_id_of_another_server_is_refused() {
    let mut world = Setup::new(0).serve(silent());
    let mut clients = [world.client()];
    let id = clients[0].id.expect("adopted");
    let elsewhere = ConnectionId::new(1, id.slot() as u32, id.generation());
    assert_eq!(world.handle.send_to(elsewhere, Message::Text("hello")), Err(SendError::Gone));
    assert_eq!(world.handle.close(elsewhere, CloseCode::NORMAL, ""), Err(SendError::Gone));
    world.deliver(&mut clients);
    assert!(clients[0].received.is_empty() && clients[0].close_code.is_none());
}
