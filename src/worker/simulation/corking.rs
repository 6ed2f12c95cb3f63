//! Messages leave in the order of the calls, whichever way each of them was sent: collected while
//! the connection is read, queued, published, or answered by the protocol.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::client::{Client, Farewell};
use super::log::Callback;
use super::world::Setup;
use crate::config::Config;
use crate::driver::ConnectionId;
use crate::driver::simulated::{Faults, Random, for_each_seed};
use crate::protocol::Message;
use crate::publish::PreparedMessage;
use crate::websocket::{SendStatus, WebSocket};

/// What each connection was sent, in the order of the calls.
type Sent = Rc<RefCell<BTreeMap<ConnectionId, Vec<Vec<u8>>>>>;

/// Sends one message of the length to somebody, in a way that is drawn.
fn say<S>(
    ws: &mut WebSocket<'_, S>,
    open: &[ConnectionId],
    payload: &[u8],
    random: &mut Random,
    sent: &Sent,
) {
    let note = |id| sent.borrow_mut().entry(id).or_default().push(payload.to_vec());
    let own = ws.id();
    let other = open[random.index(open.len())];
    let before = ws.buffered_amount();
    match random.up_to(7) {
        0..=2 => {
            assert_ne!(ws.send(payload), SendStatus::Dropped);
            note(own);
        }
        3 => {
            ws.send_to(own, payload).expect("room");
            note(own);
        }
        4 => {
            ws.send_to(other, payload).expect("room");
            note(other);
            return;
        }
        5 => {
            assert_ne!(ws.send_prepared(&PreparedMessage::new(payload)), SendStatus::Dropped);
            note(own);
        }
        6 => {
            assert_eq!(ws.publish_to_all("all", payload).dropped, 0);
            open.iter().for_each(|&id| note(id));
        }
        _ => {
            ws.ping(b"?");
            return;
        }
    }
    // Large ones may have left already.
    if payload.len() < 1000 {
        assert_eq!(
            ws.buffered_amount() - before,
            payload.len() + if payload.len() < 126 { 2 } else { 4 }
        );
    }
}

fn run(seed: u64) {
    let mut random = Random::new(seed ^ 0xC0_12C);
    let faults = Faults::drawn(&mut random);
    let faults = Faults {
        reset_on_receive: 0,
        reset_on_send: 0,
        accept_failure: 0,
        adopt_failure: 0,
        descriptors: 1000,
        send_buffer: faults.send_buffer.max(256),
        receive_buffer: faults.receive_buffer.max(1024),
        ..faults
    };
    let setup = Setup::new(seed);
    let config = Config { max_backpressure: 1 << 26, ..setup.config.clone() };
    let sent = Sent::default();
    let (answers, mut draws, mut serial) = (Rc::clone(&sent), Random::new(random.next()), 0_u32);
    let mut world =
        Setup { faults, config, ..setup }.serve(Box::new(
            move |ws, callback, log| match callback {
                Callback::Open => assert_eq!(ws.subscribe("all"), Ok(true)),
                Callback::Message(_) | Callback::Pong(_) => {
                    let open = log.borrow().open();
                    for _ in 0..draws.up_to(4) {
                        serial += 1;
                        let most = if draws.chance(50) { 100_000 } else { 300 };
                        let mut payload = serial.to_be_bytes().to_vec();
                        payload.resize(4 + draws.length(most), serial as u8);
                        say(ws, &open, &payload, &mut draws, &answers);
                    }
                }
                _ => {}
            },
        ));
    let mut clients: Vec<Client> = (0..1 + random.index(4)).map(|_| world.client()).collect();
    for _ in 0..random.length(30) {
        for client in &mut clients {
            for _ in 0..random.up_to(3) {
                client.say(Message::Binary(&[7; 40][..random.index(40)]));
            }
            client.listen();
        }
        world.step(&mut random);
    }
    world.deliver(&mut clients);
    for client in &mut clients {
        let id = client.id.expect("adopted");
        let received = client.received.iter().map(|said| said.payload.clone());
        let expected = sent.borrow_mut().remove(&id).unwrap_or_default();
        assert!(received.eq(expected), "seed {seed}: {id:?} got something else");
        client.leave(Farewell::Handshake);
    }
    world.settle(&mut clients);
}

#[test]
fn messages_leave_in_the_order_of_the_calls() {
    for_each_seed("messages_leave_in_the_order_of_the_calls", 300, run);
}
