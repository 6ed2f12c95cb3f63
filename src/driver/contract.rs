//! The tests that every driver must pass, written once.
//!
//! `contract_tests!(SomeLab)` inside a test module runs the list on one lab. The rules that hold at
//! any moment (nothing after `close` but `Released`, nothing received after `Ended`, `Failed` once,
//! ...) are checked by `lab::Worker` on every event of every test; what is here brings about the
//! situations in which drivers break them.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use super::lab::{DEADLINE, Lab, Peer, PeerView, Rig, pattern};
use super::{ConnectionId, Event};

/// Declares the whole list for one lab.
macro_rules! contract_tests {
    ($lab:ty) => {
        $crate::driver::contract::contract_tests! { @list $lab;
            bytes_arrive_whole_and_in_order
            forty_connections_share_small_buffers
            lent_bytes_may_be_changed_and_sent
            many_slices_leave_in_order
            short_sends_resume_and_keep_their_order
            fin_right_behind_the_last_bytes
            a_half_closed_peer_still_receives
            finish_sending_delivers_everything_first
            a_reset_fails_once
            a_reset_behind_bytes_fails_once
            a_reset_of_a_paused_connection_fails_after_resume
            a_reset_ends_a_blocked_send
            close_silences_a_whole_batch
            close_silences_bytes_that_wait_for_the_next_turn
            a_reused_slot_never_hears_its_predecessor
            released_comes_once_and_only_after_close
            close_ends_the_peer
            a_dropped_newcomer_sees_the_end
            pause_stops_delivery_and_resume_delivers_all
            a_pause_inside_an_event_takes_effect
            bytes_of_before_the_resume_need_no_further_edge
            paused_accepting_leaves_newcomers_waiting
            stop_listening_spares_the_established
            quiet_connections_let_the_driver_sleep
            a_wake_ends_a_wait
            no_wake_is_lost
            wait_keeps_its_timeout
            the_peer_address_is_the_peers
        }
        $crate::driver::contract::contract_tests! { @alone $lab;
            accepting_pauses_without_descriptors
            two_thousand_connections_leave_nothing
        }
    };
    (@list $lab:ty; $($name:ident)*) => {
        $(#[test] fn $name() { $crate::driver::contract::$name::<$lab>() })*
    };
    (@alone $lab:ty; $($name:ident)*) => {
        $(#[test] fn $name() {
            let path = concat!(module_path!(), "::alone::", stringify!($name));
            $crate::driver::lab::run_alone(path);
        })*
        /// These look at, or change, what belongs to the whole process.
        mod alone {
            #[allow(unused_imports)]
            use super::*;
            $(#[test] #[ignore = "run in a process of its own by the test of the same name"]
            fn $name() { $crate::driver::contract::$name::<$lab>() })*
        }
    };
}
pub(super) use contract_tests;

const RECEIVE_BUFFER: usize = 64 * 1024;

/// A rig with buffers of a usual size, or an early end of the test.
macro_rules! rig {
    () => {
        rig!(RECEIVE_BUFFER)
    };
    ($receive_buffer:expr) => {
        match Rig::<L>::open($receive_buffer) {
            Some(rig) => rig,
            None => return,
        }
    };
}

pub(super) fn bytes_arrive_whole_and_in_order<L: Lab>() {
    let mut rig = rig!();
    let (id, mut peer) = rig.connect();
    let mut total = 0;
    for len in [1, 2, 100, 4096, RECEIVE_BUFFER - 1, RECEIVE_BUFFER, RECEIVE_BUFFER + 1, 5 << 20] {
        let bytes = pattern(total, len);
        rig.peer_sends(&mut peer, &bytes);
        total += len;
        rig.expect_received(id, &pattern(0, total));
        rig.worker.send(id, &bytes);
        rig.peer_receives(&mut peer, &bytes);
    }
    rig.close_and_release(id);
}

pub(super) fn forty_connections_share_small_buffers<L: Lab>() {
    const LEN: usize = 128 * 1024;
    let mut rig = rig!(4096);
    let mut pairs: Vec<_> = (0..40).map(|_| rig.connect()).collect();
    let mut sent = vec![0; pairs.len()];
    let mut back = vec![Vec::new(); pairs.len()];
    let bytes: Vec<Vec<u8>> = (0..pairs.len()).map(|i| pattern(i * 1000, LEN)).collect();
    let start = Instant::now();
    while back.iter().any(|back| back.len() < LEN) {
        assert!(start.elapsed() < DEADLINE, "the echo stalls");
        for (i, (_, peer)) in pairs.iter_mut().enumerate() {
            sent[i] += peer.send(&bytes[i][sent[i]..]);
            peer.receive(&mut back[i]);
        }
        rig.turn_with(2, |worker, event| {
            if let Event::Received { id, bytes } = event {
                worker.send(*id, bytes);
            }
        });
    }
    assert!(back == bytes);
    for (id, _) in &pairs {
        rig.worker.close(*id);
    }
    rig.until("Released", |rig| rig.worker.driver.stats().sockets == 0);
}

pub(super) fn lent_bytes_may_be_changed_and_sent<L: Lab>() {
    let mut rig = rig!();
    let (_, mut peer) = rig.connect();
    let bytes = pattern(0, 1000);
    assert_eq!(peer.send(&bytes), bytes.len());
    let mut back = Vec::new();
    let start = Instant::now();
    while back.len() < bytes.len() {
        assert!(start.elapsed() < DEADLINE, "no echo");
        rig.turn_with(2, |worker, event| {
            if let Event::Received { id, bytes } = event {
                bytes.iter_mut().for_each(|byte| *byte = !*byte);
                let sent = worker.send_slices(*id, &[IoSlice::new(bytes)]);
                worker.send(*id, &bytes[sent..]);
            }
        });
        peer.receive(&mut back);
    }
    let inverted: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
    assert_eq!(back, inverted);
}

pub(super) fn many_slices_leave_in_order<L: Lab>() {
    let mut rig = rig!();
    let (id, mut peer) = rig.connect();
    // More slices than sendmsg(2) takes, with empty ones among them.
    let bytes = pattern(0, 3000 * 5);
    let parts: Vec<&[u8]> = bytes.chunks(5).flat_map(|part| [part, &[]]).collect();
    let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let sent = rig.worker.send_slices(id, &slices);
    assert!(sent > 0);
    // However short it was cut: `Writable` must come, or the rest never leaves.
    rig.worker.send(id, &bytes[sent..]);
    rig.peer_receives(&mut peer, &bytes);
    assert_eq!(rig.worker.send_slices(id, &[]), 0);
    assert_eq!(rig.worker.send_slices(id, &[IoSlice::new(&[])]), 0);
    rig.settle();
}

pub(super) fn short_sends_resume_and_keep_their_order<L: Lab>() {
    let mut rig = rig!();
    let (id, mut peer) = rig.connect();
    let mut sent = rig.fill(id);
    // The peer does not read: nothing may move, and nobody may try all the time.
    rig.settle();
    let early = rig.worker.connection(id).writables;
    assert!(early <= 20, "{early} times Writable though the peer reads nothing");
    assert!(rig.worker.connection(id).backlog() > 0);
    // What is added while the socket is full goes to the end.
    let more = pattern(sent.len(), 3 << 20);
    rig.worker.send(id, &more);
    sent.extend(more);
    rig.peer_receives(&mut peer, &sent);
    assert!(rig.worker.connection(id).writables > early);
    assert_eq!(rig.worker.connection(id).backlog(), 0);
    // And again, since edges come once.
    let again = rig.fill(id);
    rig.peer_receives(&mut peer, &again);
    rig.close_and_release(id);
}

pub(super) fn fin_right_behind_the_last_bytes<L: Lab>() {
    let mut rig = rig!(4096);
    // Also where the last read is exactly full.
    for len in [1, 100, 4095, 4096, 4097, 8192, 3 * 4096 + 1] {
        let (id, mut peer) = rig.connect();
        let bytes = pattern(0, len);
        assert_eq!(peer.send(&bytes), len);
        peer.finish_sending();
        rig.until("Ended", |rig| rig.worker.connection(id).ended);
        assert!(rig.worker.connection(id).received == bytes, "bytes behind or after FIN, {len}");
        rig.close_and_release(id);
    }
    // And when the peer has gone altogether.
    let (id, mut peer) = rig.connect();
    assert_eq!(peer.send(b"farewell"), 8);
    drop(peer);
    rig.until("Ended", |rig| rig.worker.connection(id).ended);
    assert_eq!(rig.worker.connection(id).received, b"farewell");
    rig.close_and_release(id);
}

pub(super) fn a_half_closed_peer_still_receives<L: Lab>() {
    let mut rig = rig!();
    let (id, mut peer) = rig.connect();
    peer.finish_sending();
    rig.until("Ended", |rig| rig.worker.connection(id).ended);
    let bytes = rig.fill(id);
    rig.peer_receives(&mut peer, &bytes);
    rig.worker.driver.finish_sending(id);
    assert_eq!(rig.peer_sees_the_end(&mut peer), PeerView::Ended);
    rig.settle();
    assert!(!rig.worker.connection(id).is_dead());
    rig.close_and_release(id);
}

pub(super) fn finish_sending_delivers_everything_first<L: Lab>() {
    let mut rig = rig!();
    let (id, mut peer) = rig.connect();
    let bytes = pattern(0, 200_000);
    rig.worker.send(id, &bytes);
    let mut received = Vec::new();
    rig.until("an empty backlog", |rig| {
        let empty = rig.worker.connection(id).backlog() == 0;
        if !empty {
            peer.receive(&mut received);
        }
        empty
    });
    rig.worker.driver.finish_sending(id);
    rig.until("FIN", |_| peer.receive(&mut received) == PeerView::Ended);
    assert!(received == bytes);
    // The other direction is still open.
    rig.peer_sends(&mut peer, b"still here");
    rig.expect_received(id, b"still here");
    peer.finish_sending();
    rig.until("Ended", |rig| rig.worker.connection(id).ended);
    rig.close_and_release(id);
}

pub(super) fn a_reset_fails_once<L: Lab>() {
    let mut rig = rig!();
    if skips_resets::<L>() {
        return;
    }
    let (id, peer) = rig.connect();
    rig.settle();
    peer.reset();
    rig.until("Failed", |rig| rig.worker.connection(id).failed);
    rig.settle();
    assert!(!rig.worker.connection(id).released);
    rig.close_and_release(id);
    rig.settle();
}

pub(super) fn a_reset_behind_bytes_fails_once<L: Lab>() {
    let mut rig = rig!(4096);
    if skips_resets::<L>() {
        return;
    }
    for len in [1, 4096, 3 * 4096 + 1] {
        let (id, mut peer) = rig.connect();
        let bytes = pattern(0, len);
        assert_eq!(peer.send(&bytes), len);
        peer.reset();
        rig.until("Failed", |rig| rig.worker.connection(id).failed);
        // The reset may overtake bytes, but never change them.
        assert!(bytes.starts_with(&rig.worker.connection(id).received));
        rig.close_and_release(id);
    }
}

pub(super) fn a_reset_of_a_paused_connection_fails_after_resume<L: Lab>() {
    let mut rig = rig!();
    if skips_resets::<L>() {
        return;
    }
    let (id, mut peer) = rig.connect();
    rig.worker.driver.pause_reading(id);
    rig.settle();
    assert_eq!(peer.send(b"unread"), 6);
    rig.settle();
    peer.reset();
    rig.settle();
    rig.worker.driver.resume_reading(id);
    rig.until("Failed", |rig| rig.worker.connection(id).failed);
    rig.settle();
    rig.close_and_release(id);
}

pub(super) fn a_reset_ends_a_blocked_send<L: Lab>() {
    let mut rig = rig!();
    if skips_resets::<L>() {
        return;
    }
    for finish_first in [false, true] {
        let (id, mut peer) = rig.connect();
        rig.fill(id);
        if finish_first {
            peer.finish_sending();
            rig.until("Ended", |rig| rig.worker.connection(id).ended);
        }
        peer.reset();
        // `Failed`, or `Writable` and then an error from send; the worker checks that not both.
        rig.until("death", |rig| rig.worker.connection(id).is_dead());
        rig.settle();
        rig.close_and_release(id);
    }
}

pub(super) fn close_silences_a_whole_batch<L: Lab>() {
    let mut rig = rig!();
    for round in 0..10 {
        let mut pairs: Vec<_> = (0..8).map(|_| rig.connect()).collect();
        rig.settle();
        for (i, (_, peer)) in pairs.iter_mut().enumerate() {
            assert_eq!(peer.send(b"to be ignored but for one"), 25);
            if (i + round) % 2 == 0 {
                peer.finish_sending();
            }
        }
        let ids: Vec<ConnectionId> = pairs.iter().map(|(id, _)| *id).collect();
        let mut heard = 0;
        let start = Instant::now();
        while heard == 0 {
            assert!(start.elapsed() < DEADLINE, "nobody was heard");
            rig.turn_with(2, |worker, event| {
                if matches!(event, Event::Received { .. }) {
                    heard += 1;
                    // The events of the others are in the same batch. The worker fails on each.
                    ids.iter().for_each(|id| worker.close(*id));
                }
            });
        }
        assert_eq!(heard, 1);
        rig.until("Released", |rig| ids.iter().all(|id| rig.worker.connection(*id).released));
        rig.settle();
    }
}

pub(super) fn close_silences_bytes_that_wait_for_the_next_turn<L: Lab>() {
    let mut rig = rig!(4096);
    let (id, mut peer) = rig.connect();
    let bytes = pattern(0, 64 * 1024);
    rig.worker.driver.pause_reading(id);
    rig.settle();
    assert!(peer.send(&bytes) >= 8192);
    rig.settle();
    rig.worker.driver.resume_reading(id);
    rig.until("the first read", |rig| !rig.worker.connection(id).received.is_empty());
    rig.worker.close(id);
    rig.until("Released", |rig| rig.worker.connection(id).released);
    rig.settle();
    rig.peer_sees_the_end(&mut peer);
}

pub(super) fn a_reused_slot_never_hears_its_predecessor<L: Lab>() {
    let mut rig = rig!();
    let (mut old_id, mut old_peer) = rig.connect();
    for round in 0..50 {
        // The next tenant waits, so that it moves in at the very moment of `Released`.
        let mut peer = rig.lab.connect().expect("somebody listens");
        rig.until("accept", |rig| !rig.worker.newcomers.is_empty());
        assert!(old_peer.send(b"old old old") > 0);
        assert_eq!(peer.send(b"new"), 3);
        if round % 3 == 0 {
            old_peer.finish_sending();
        }
        // Once right away and once out of its own event.
        let mut close_in_event = round % 2 == 0;
        if !close_in_event {
            rig.worker.close(old_id);
        }
        let mut new_id = None;
        let start = Instant::now();
        while new_id.is_none() {
            assert!(start.elapsed() < DEADLINE, "no Released");
            rig.turn_with(2, |worker, event| match event {
                Event::Received { id, .. } if *id == old_id && close_in_event => {
                    close_in_event = false;
                    worker.close(old_id);
                }
                Event::Released(id) if *id == old_id => new_id = Some(worker.adopt_next()),
                _ => {}
            });
        }
        let new_id = new_id.unwrap();
        assert_eq!(new_id.slot(), old_id.slot());
        assert_ne!(new_id.generation(), old_id.generation());
        old_peer.send(b"even later");
        rig.expect_received(new_id, b"new");
        assert!(!rig.worker.connection(new_id).ended);
        // The old peer goes away while the new one lives.
        (old_id, old_peer) = (new_id, peer);
    }
    rig.settle();
    assert_eq!(rig.worker.connection(old_id).received, b"new");
    rig.close_and_release(old_id);
}

pub(super) fn released_comes_once_and_only_after_close<L: Lab>() {
    let mut rig = rig!();
    let (id, mut peer) = rig.connect();
    peer.finish_sending();
    rig.until("Ended", |rig| rig.worker.connection(id).ended);
    drop(peer);
    rig.settle();
    assert!(!rig.worker.connection(id).released, "the driver closed on its own");
    assert_eq!(rig.worker.driver.stats().sockets, 1);
    rig.close_and_release(id);
    assert_eq!(rig.worker.driver.stats().sockets, 0);
    rig.settle();
    // A connection that never did anything.
    let (id, _peer) = rig.connect();
    rig.close_and_release(id);
    rig.settle();
    assert_eq!(rig.worker.driver.stats().sockets, 0);
}

pub(super) fn close_ends_the_peer<L: Lab>() {
    let mut rig = rig!();
    let (id, mut peer) = rig.connect();
    rig.worker.send(id, b"bye");
    rig.worker.close(id);
    // Everything was read, so this is an orderly end.
    let mut received = Vec::new();
    rig.until("FIN", |_| peer.receive(&mut received) == PeerView::Ended);
    assert_eq!(received, b"bye");
    // A peer that reads nothing does not hold up `Released`.
    let (id, mut peer) = rig.connect();
    rig.fill(id);
    rig.close_and_release(id);
    rig.peer_sees_the_end(&mut peer);
}

pub(super) fn a_dropped_newcomer_sees_the_end<L: Lab>() {
    let mut rig = rig!();
    let mut peer = rig.lab.connect().expect("somebody listens");
    rig.until("accept", |rig| rig.worker.newcomers.pop_front().is_some());
    rig.peer_sees_the_end(&mut peer);
    assert_eq!(rig.worker.driver.stats().sockets, 0);
}

pub(super) fn pause_stops_delivery_and_resume_delivers_all<L: Lab>() {
    let mut rig = rig!(16 * 1024);
    let (id, mut peer) = rig.connect();
    rig.peer_sends(&mut peer, b"hello");
    rig.expect_received(id, b"hello");
    rig.worker.driver.pause_reading(id);
    rig.worker.driver.pause_reading(id);
    // The peer feels it: at some time nothing fits any more.
    let mut sent = b"hello".to_vec();
    let mut full = 0;
    rig.until("a full connection", |_| {
        let more = pattern(sent.len(), 256 * 1024);
        let taken = peer.send(&more);
        sent.extend_from_slice(&more[..taken]);
        full = if taken == 0 { full + 1 } else { 0 };
        full == 10
    });
    let overrun = rig.worker.connection(id).received.len() - 5;
    assert!(overrun <= rig.memory_len(), "{overrun} bytes after the pause");
    rig.settle();
    let later = rig.worker.connection(id).received.len() - 5;
    assert_eq!(later, overrun, "the pause does not last");
    peer.finish_sending();
    rig.settle();
    rig.worker.driver.resume_reading(id);
    rig.worker.driver.resume_reading(id);
    rig.until("Ended", |rig| rig.worker.connection(id).ended);
    assert!(rig.worker.connection(id).received == sent);
    rig.close_and_release(id);
}

pub(super) fn a_pause_inside_an_event_takes_effect<L: Lab>() {
    let mut rig = rig!(4096);
    let (id, mut peer) = rig.connect();
    let bytes = pattern(0, 1 << 20);
    let mut sent = 0;
    let mut pauses = 0;
    let start = Instant::now();
    while rig.worker.connection(id).received.len() < bytes.len() {
        assert!(start.elapsed() < DEADLINE, "the bytes stall");
        sent += peer.send(&bytes[sent..]);
        let mut paused = false;
        rig.turn_with(2, |worker, event| {
            if matches!(event, Event::Received { .. }) && !paused {
                paused = true;
                pauses += 1;
                worker.driver.pause_reading(id);
            }
        });
        if paused {
            let before = rig.worker.connection(id).received.len();
            rig.turn(0);
            rig.turn(0);
            let overrun = rig.worker.connection(id).received.len() - before;
            assert!(overrun <= rig.memory_len(), "{overrun} bytes after the pause");
            rig.worker.driver.resume_reading(id);
        }
    }
    assert!(pauses > 1);
    assert!(rig.worker.connection(id).received == bytes);
}

pub(super) fn bytes_of_before_the_resume_need_no_further_edge<L: Lab>() {
    let mut rig = rig!();
    let (id, mut peer) = rig.connect();
    let mut expected = Vec::new();
    for round in 0..20 {
        rig.worker.driver.pause_reading(id);
        if round % 2 == 0 {
            rig.settle();
        }
        assert_eq!(peer.send(b"once"), 4);
        expected.extend_from_slice(b"once");
        if round % 3 == 0 {
            rig.settle();
        }
        rig.worker.driver.resume_reading(id);
        rig.expect_received(id, &expected);
    }
    // FIN alone, too.
    rig.worker.driver.pause_reading(id);
    rig.settle();
    peer.finish_sending();
    rig.settle();
    rig.worker.driver.resume_reading(id);
    rig.until("Ended", |rig| rig.worker.connection(id).ended);
    rig.close_and_release(id);
}

pub(super) fn paused_accepting_leaves_newcomers_waiting<L: Lab>() {
    let mut rig = rig!();
    // Without a pause before it this is nothing.
    rig.worker.driver.resume_accepting();
    let (first, mut first_peer) = rig.connect();
    rig.worker.driver.pause_accepting();
    rig.settle();
    let mut waiting: Vec<_> = (0..5).filter_map(|_| rig.lab.connect()).collect();
    assert_eq!(waiting.len(), 5);
    rig.settle();
    assert!(rig.worker.newcomers.is_empty(), "accepted during the pause");
    rig.peer_sends(&mut first_peer, b"still served");
    rig.expect_received(first, b"still served");
    // Nobody connects from now on: the driver must look for itself.
    rig.worker.driver.resume_accepting();
    rig.until("accept", |rig| rig.worker.newcomers.len() == 5);
    for peer in &mut waiting {
        let id = rig.worker.adopt_next();
        rig.peer_sends(peer, b"me");
        rig.expect_received(id, b"me");
    }
    rig.connect();
    assert!(rig.worker.accept_paused.is_empty());
}

pub(super) fn stop_listening_spares_the_established<L: Lab>() {
    let mut rig = rig!();
    let (id, mut peer) = rig.connect();
    rig.worker.driver.stop_listening();
    rig.settle();
    // Refused by the network, or at least never accepted.
    let late = rig.lab.connect();
    rig.worker.driver.resume_accepting();
    rig.settle();
    assert!(rig.worker.newcomers.is_empty(), "accepted after stop_listening");
    drop(late);
    rig.peer_sends(&mut peer, b"still served");
    rig.expect_received(id, b"still served");
    rig.worker.send(id, b"yes");
    rig.peer_receives(&mut peer, b"yes");
    rig.close_and_release(id);
}

pub(super) fn quiet_connections_let_the_driver_sleep<L: Lab>() {
    let mut rig = rig!();
    let check = |rig: &mut Rig<L>, what: &str| {
        rig.settle();
        let waits = rig.waits_in_60_ms();
        assert!(waits < 25, "{waits} waits in 60 ms: {what}");
    };
    check(&mut rig, "nothing at all");
    let (ended, mut peer) = rig.connect();
    peer.finish_sending();
    rig.until("Ended", |rig| rig.worker.connection(ended).ended);
    check(&mut rig, "the peer finished");
    rig.worker.driver.finish_sending(ended);
    check(&mut rig, "both finished");
    drop(peer);
    check(&mut rig, "the peer has gone");

    let (paused, mut paused_peer) = rig.connect();
    rig.worker.driver.pause_reading(paused);
    rig.settle();
    paused_peer.send(b"unread");
    check(&mut rig, "unread input while paused");
    paused_peer.finish_sending();
    check(&mut rig, "an unread FIN while paused");
    drop(paused_peer);
    check(&mut rig, "a peer gone while paused");

    let (blocked, blocked_peer) = rig.connect();
    rig.fill(blocked);
    check(&mut rig, "a blocked send");
    if L::HAS_RESET {
        blocked_peer.reset();
        rig.until("death", |rig| rig.worker.connection(blocked).is_dead());
        check(&mut rig, "a dead connection that is not closed yet");
    }
    rig.worker.driver.pause_accepting();
    rig.settle();
    let _waiting = rig.lab.connect();
    check(&mut rig, "a newcomer while accepting is paused");
}

pub(super) fn a_wake_ends_a_wait<L: Lab>() {
    let mut rig = rig!();
    let waker = rig.worker.driver.waker();
    // Before the wait.
    waker.wake();
    rig.until_waiting(60_000, "Woken", |rig| rig.worker.woken > 0);
    rig.settle();
    // During the wait, from another thread, again and again.
    let (go, gone) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        for (i, ()) in gone.iter().enumerate() {
            if i % 50 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            waker.wake();
        }
    });
    for _ in 0..300 {
        let before = rig.worker.woken;
        go.send(()).unwrap();
        rig.until_waiting(60_000, "Woken", |rig| rig.worker.woken > before);
    }
    drop(go);
    thread.join().unwrap();
}

pub(super) fn no_wake_is_lost<L: Lab>() {
    const EACH: u32 = 200;
    let mut rig = rig!();
    let posted = Arc::new(AtomicU32::new(0));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (posted, waker) = (Arc::clone(&posted), rig.worker.driver.waker());
            std::thread::spawn(move || {
                for i in 0..EACH {
                    posted.fetch_add(1, Ordering::Release);
                    waker.wake();
                    if i % 16 == 0 {
                        std::thread::yield_now();
                    }
                }
            })
        })
        .collect();
    // A mailbox that is looked into only when woken is empty in the end.
    let mut seen = 0;
    let start = Instant::now();
    while seen < 4 * EACH {
        assert!(start.elapsed() < DEADLINE, "a wake was lost at {seen}");
        rig.turn_with(60_000, |_, event| {
            if matches!(event, Event::Woken) {
                seen = posted.load(Ordering::Acquire);
            }
        });
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(seen, 4 * EACH);
}

pub(super) fn wait_keeps_its_timeout<L: Lab>() {
    let mut rig = rig!();
    rig.settle();
    // Early returns are allowed, busy waiting is not.
    let waits = rig.waits_in_60_ms();
    assert!(waits < 25, "{waits} waits");
    let before = rig.worker.driver.now_ms();
    rig.turn(0);
    assert!(rig.worker.driver.now_ms() >= before);
}

pub(super) fn the_peer_address_is_the_peers<L: Lab>() {
    let mut rig = rig!();
    let (id, peer) = rig.connect();
    assert_eq!(rig.worker.driver.peer_addr(id), peer.addr());
    rig.close_and_release(id);
    assert_eq!(rig.worker.driver.peer_addr(id), None);
}

/// Alone in its process: the limit of descriptors is the process's.
pub(super) fn accepting_pauses_without_descriptors<L: Lab>() {
    let mut rig = rig!();
    let (id, mut peer) = rig.connect();
    rig.worker.driver.pause_accepting();
    rig.settle();
    let waiting: Vec<_> = (0..3).filter_map(|_| rig.lab.connect()).collect();
    assert_eq!(waiting.len(), 3);
    rig.lab.refuse_accepts(true);
    // io_uring looks at the limit when an accept is armed, hence the pause before.
    rig.worker.driver.resume_accepting();
    rig.until("AcceptPaused", |rig| !rig.worker.accept_paused.is_empty());
    rig.settle();
    let waits = rig.waits_in_60_ms();
    assert!(waits < 25, "{waits} waits: spins at the limit");
    assert_eq!(rig.worker.accept_paused.len(), 1, "{:?}", rig.worker.accept_paused);
    assert!(rig.worker.newcomers.is_empty());
    // Existing connections notice nothing.
    rig.peer_sends(&mut peer, b"still served");
    rig.expect_received(id, b"still served");
    // Trying again too early says so again.
    rig.worker.driver.resume_accepting();
    rig.until("AcceptPaused", |rig| rig.worker.accept_paused.len() == 2);
    rig.lab.refuse_accepts(false);
    rig.worker.driver.resume_accepting();
    rig.until("accept", |rig| rig.worker.newcomers.len() == 3);
    assert_eq!(rig.worker.accept_paused.len(), 2);
}

/// Alone in its process: it counts the process's descriptors.
pub(super) fn two_thousand_connections_leave_nothing<L: Lab>() {
    let mut rig = rig!();
    let (id, peer) = rig.connect();
    rig.close_and_release(id);
    drop(peer);
    let before = open_descriptors();
    for round in 0..200 {
        let mut pairs: Vec<_> = (0..10).map(|_| rig.connect()).collect();
        for (i, (id, peer)) in pairs.iter_mut().enumerate() {
            assert_eq!(peer.send(b"ping"), 4);
            if (i + round) % 3 == 0 {
                rig.worker.send(*id, b"pong");
            }
        }
        if round % 2 == 0 {
            rig.turn(0);
        }
        for (i, (id, peer)) in pairs.into_iter().enumerate() {
            match i % 3 {
                0 if L::HAS_RESET => peer.reset(),
                1 => drop(peer),
                _ => rig.turn(0),
            }
            rig.worker.close(id);
        }
        rig.until("Released", |rig| rig.worker.driver.stats().sockets == 0);
        rig.settle_quickly();
    }
    assert_eq!(rig.worker.driver.stats().sockets, 0);
    assert_eq!(open_descriptors(), before);
    // One last one proves that the driver still works.
    let (id, mut peer) = rig.connect();
    assert!(id.slot() < 20, "slots were not given back: {id:?}");
    rig.peer_sends(&mut peer, b"last");
    rig.expect_received(id, b"last");
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn skips_resets<L: Lab>() -> bool {
    if !L::HAS_RESET {
        eprintln!("skipped: this network knows no reset");
    }
    !L::HAS_RESET
}
