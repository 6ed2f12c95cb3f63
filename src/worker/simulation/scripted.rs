//! Single behaviours on a perfect network, each shown as briefly as possible.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::client::{Client, Farewell};
use super::log::{Callback, echo, panic_quietly, silent};
use super::world::{PAGE, Setup};
use crate::config::Config;
use crate::driver::simulated::{Faults, ReadRate, Seen};
use crate::error::{Close, CloseCause};
use crate::fragment::Fragment;
use crate::handler::Handler;
use crate::protocol::{CloseCode, Message};
use crate::publish::PreparedMessage;
use crate::websocket::{SendStatus, WebSocket};

/// A server whose sockets take 4 KiB and whose queues end at 16 KiB.
fn narrow() -> Setup {
    let mut setup = Setup::new(0);
    setup.faults = Faults { send_buffer: 4096, ..Faults::none() };
    setup.config = Config { max_backpressure: 16 * 1024, ..setup.config };
    setup
}

#[test]
fn messages_that_come_one_by_one_do_not_overfill_the_queue() {
    let mut world = narrow().serve(echo());
    let mut clients = [world.client()];
    clients[0].peer.set_read_rate(ReadRate::Stopped);
    for _ in 0..100 {
        clients[0].say(Message::Binary(&[7; 1000]));
        world.deliver(&mut clients);
    }
    clients[0].peer.set_read_rate(ReadRate::Unlimited);
    world.deliver(&mut clients);
    assert_eq!(world.shared.stats().dropped, 0);
    assert_eq!(clients[0].received.len(), 100);
}

#[test]
fn a_peer_whose_queue_others_fill_is_not_read_until_it_reads() {
    let mut world = narrow().serve(Box::new(|ws, callback, log| {
        if let Callback::Message(message) = callback {
            let sender = ws.id();
            for id in log.borrow().open().into_iter().filter(|id| *id != sender) {
                ws.send_to(id, message).expect("room");
            }
        }
    }));
    let mut clients = [world.client(), world.client()];
    let slow = clients[0].id.expect("adopted");
    clients[0].peer.set_read_rate(ReadRate::Stopped);
    for _ in 0..16 {
        clients[1].say(Message::Binary(&[7; 1000]));
        world.deliver(&mut clients);
    }
    let calls = world.log.borrow_mut().record(slow).calls.len();
    clients[0].say(Message::Text("unread"));
    world.deliver(&mut clients);
    assert_eq!(world.log.borrow_mut().record(slow).calls.len(), calls, "it was read");
    clients[0].peer.set_read_rate(ReadRate::Unlimited);
    world.deliver(&mut clients);
    assert_eq!(clients[1].received, clients[0].sent);
}

#[test]
fn the_end_of_a_peer_is_seen_while_a_long_answer_drains() {
    let mut world = narrow().serve(silent());
    let client = Client::mute(&world.network);
    client.peer.set_read_rate(ReadRate::Stopped);
    client.peer.send(b"GET /page HTTP/1.1\r\nHost: test\r\n\r\n");
    client.peer.finish();
    world.deliver(&mut []);
    client.peer.set_read_rate(ReadRate::Unlimited);
    world.deliver(&mut []);
    assert!(client.peer.received().len() > PAGE);
    // The FIN was read at once, so the end of the answer is the end of the connection.
    assert_eq!((world.now_ms(), world.shared.stats().connections), (0, 0));
}

#[test]
fn a_close_may_be_what_puts_a_connection_ahead_of_its_peer() {
    let mut setup = narrow();
    setup.config.max_backpressure = 2000;
    let mut world = setup.serve(Box::new(|ws, callback, _| {
        if let Callback::Message(message) = callback {
            // Up to half of the limit, then over it.
            assert_eq!(ws.send(message), SendStatus::Sent);
            ws.close(CloseCode::NORMAL, "a reason of more than a few bytes");
        }
    }));
    let mut clients = [world.client()];
    clients[0].say(Message::Binary(&[7; 986]));
    world.settle(&mut clients);
    assert_eq!((clients[0].received.len(), clients[0].close_code), (1, Some(1000)));
}

#[test]
fn prepared_messages_keep_to_the_limit_of_the_worker() {
    let mut setup = narrow();
    setup.config.max_worker_backpressure = 4000;
    let prepared = PreparedMessage::new(Message::Binary(&[7; 500]));
    let mut world = setup.serve(Box::new(move |ws, callback, _| {
        if let Callback::Message(_) = callback {
            ws.send_prepared(&prepared);
        }
    }));
    let mut clients = [world.client()];
    clients[0].peer.set_read_rate(ReadRate::Stopped);
    for _ in 0..25 {
        clients[0].say(Message::Text("one more"));
        world.deliver(&mut clients);
    }
    let stats = world.shared.stats();
    assert!(stats.buffered_bytes <= 4000, "{stats:?}");
    assert!(stats.dropped_worker_full > 0 && stats.dropped == 0, "{stats:?}");
    clients[0].peer.set_read_rate(ReadRate::Unlimited);
    world.deliver(&mut clients);
    let dropped = world.shared.stats().dropped_worker_full as usize;
    assert_eq!(clients[0].received.len(), 25 - dropped);
}

#[test]
fn what_is_refused_after_a_close_takes_no_queue_from_the_pool() {
    let mut world = Setup::new(0).serve(Box::new(|ws, callback, _| {
        if let Callback::Message(_) = callback {
            ws.close(CloseCode::NORMAL, "");
        }
    }));
    let mut clients = [world.client()];
    let id = clients[0].id.expect("adopted");
    clients[0].mute = true;
    clients[0].say(Message::Text("close"));
    world.deliver(&mut clients);
    world.handle.close(id, CloseCode::NORMAL, "again").expect("room");
    world.handle.send_to(id, "too late").expect("room");
    world.deliver(&mut clients);
    assert_eq!(world.shared.stats().undelivered, 1);
    assert_eq!(world.worker.crank.core.lent_queues(), 0);
}

/// Panics when its turn has come: the first when it is made, the second when it is dropped.
struct Fragile {
    nth: u32,
}

thread_local! {
    static SESSIONS: Cell<u32> = const { Cell::new(0) };
}

impl Default for Fragile {
    fn default() -> Self {
        let nth = SESSIONS.get();
        SESSIONS.set(nth + 1);
        if nth == 0 {
            panic_quietly();
        }
        Self { nth }
    }
}

impl Drop for Fragile {
    fn drop(&mut self) {
        if self.nth == 1 {
            panic_quietly();
        }
    }
}

/// Counts parts, of which each message here has one.
struct Counting(Rc<Cell<u32>>);

impl Handler for Counting {
    const STREAM: bool = true;
    type Session = ();

    fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {}

    fn on_fragment(&mut self, _ws: &mut WebSocket<'_, ()>, fragment: Fragment<'_>) {
        assert!(fragment.first && fragment.last);
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn parts_of_messages_are_taken_in_turns_like_messages() {
    let count = Rc::new(Cell::new(0));
    let mut world = Setup::new(0).serve_unwatched(Counting(Rc::clone(&count)));
    let clients = [world.client()];
    clients[0].peer.send(&b"\x82\x80\0\0\0\0".repeat(5000));
    let mut turns = 0;
    while !world.network.is_quiet() || world.worker.crank.timeout_ms() == Some(0) {
        let before = count.get();
        world.turn();
        turns += 1;
        assert!(count.get() - before <= 2 * 1024, "{before} to {} in one turn", count.get());
    }
    assert_eq!(count.get(), 5000, "after {turns} turns");
}

#[test]
fn only_a_few_are_made_to_wait_at_once() {
    let count = Rc::new(Cell::new(0));
    let mut world = Setup::new(0).serve_unwatched(Counting(Rc::clone(&count)));
    let clients: Vec<_> = (0..40).map(|_| world.client()).collect();
    for client in &clients {
        client.peer.send(&b"\x82\x80\0\0\0\0".repeat(5000));
    }
    let mut most = 0;
    while !world.network.is_quiet() || world.worker.crank.timeout_ms() == Some(0) {
        world.turn();
        most = most.max(world.worker.crank.core.postponed.len());
    }
    // Those of the turn before may still wait.
    assert!((16..=32).contains(&most), "{most} at once");
    assert_eq!(count.get(), 40 * 5000);
}

/// Panics in `on_close`, so that the session is dropped after a panic.
struct FragileHandler;

impl Handler for FragileHandler {
    type Session = Fragile;

    fn on_message(&mut self, ws: &mut WebSocket<'_, Fragile>, message: Message<'_>) {
        ws.send(message);
    }

    fn on_close(&mut self, _ws: &mut WebSocket<'_, Fragile>, _close: Close<'_>) {
        panic_quietly();
    }
}

#[test]
fn sessions_that_panic_cost_their_connection_only() {
    let mut world = Setup::new(0).serve_unwatched(FragileHandler);
    let mut refused = [Client::new(&world.network)];
    world.deliver(&mut refused);
    assert_eq!((refused[0].refusal, refused[0].peer.seen()), (Some(500), Seen::Finished));
    refused[0].peer.close();
    let mut clients = [world.client(), world.client()];
    clients[0].leave(Farewell::Handshake);
    world.deliver(&mut clients);
    assert_eq!((clients[0].close_code, clients[0].peer.seen()), (Some(1000), Seen::Finished));
    clients[1].say(Message::Text("alive"));
    world.deliver(&mut clients);
    assert_eq!(clients[1].received, clients[1].sent);
    // One of `default`; `on_close` and the drop behind it count as one.
    assert_eq!(world.shared.stats().handler_panics, 2);
}

#[test]
fn a_shutdown_without_grace_still_sends_its_close() {
    let mut world = Setup::new(0).serve(silent());
    let mut clients = [world.client(), world.client()];
    world.handle.shutdown(Duration::ZERO);
    world.turn();
    assert_eq!(world.log.borrow().open(), [], "everybody is cut in the same turn");
    clients.iter_mut().for_each(Client::listen);
    for client in clients {
        assert_eq!((client.close_code, client.peer.seen()), (Some(1001), Seen::Finished));
    }
}

#[test]
fn of_several_shutdowns_the_first_deadline_wins() {
    for (graces_ms, expected_ms) in [([5_000, 1_000], 1_000), ([1_000, 5_000], 1_000)] {
        let mut world = Setup::new(0).serve(silent());
        let client = world.client();
        client.peer.set_read_rate(ReadRate::Stopped);
        for grace_ms in graces_ms {
            world.handle.shutdown(Duration::from_millis(grace_ms));
            world.turn();
        }
        while !world.worker.is_finished() {
            world.turn();
        }
        let end = world.log.borrow().records.values().next().and_then(|record| record.end.clone());
        let end = end.expect("on_close");
        assert_eq!((end.at_ms, end.cause), (expected_ms, CloseCause::Shutdown), "{graces_ms:?}");
    }
}

#[test]
fn without_a_close_timeout_a_slow_peer_gets_everything() {
    let mut setup = narrow();
    setup.config.close_timeout_ms = 0;
    let mut world = setup.serve(echo());
    let mut clients = [world.client()];
    clients[0].peer.set_read_rate(ReadRate::BytesPerMs(1));
    clients[0].say(Message::Binary(&[7; 10_000]));
    clients[0].leave(Farewell::Handshake);
    world.settle(&mut clients);
    assert_eq!(clients[0].received, clients[0].sent);
    assert_eq!((clients[0].close_code, clients[0].peer.seen()), (Some(1000), Seen::Finished));
}

#[test]
fn without_a_close_timeout_the_others_still_hold() {
    let mut setup = narrow();
    setup.config =
        Config { close_timeout_ms: 0, idle_timeout_ms: 300, write_timeout_ms: 200, ..setup.config };
    let mut world = setup.serve(echo());
    let mut clients = [world.client(), world.client()];
    let ids = [0, 1].map(|nth: usize| clients[nth].id.expect("adopted"));
    clients[0].mute = true;
    clients[1].peer.set_read_rate(ReadRate::Stopped);
    clients[1].say(Message::Binary(&[7; 10_000]));
    world.deliver(&mut clients);
    for id in ids {
        world.handle.close(id, CloseCode::NORMAL, "").expect("room");
    }
    world.settle(&mut clients);
    let mut log = world.log.borrow_mut();
    let ends = ids.map(|id| log.record(id).end.clone().expect("on_close"));
    let ends = ends.map(|end| (end.at_ms, end.cause));
    assert_eq!(ends, [(300, CloseCause::IdleTimeout), (200, CloseCause::WriteTimeout)]);
}
