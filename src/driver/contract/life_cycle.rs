//! How connections end: FIN, RST, close, and what comes after them.

use std::time::Instant;

use super::{RECEIVE_BUFFER, rig, skips_resets};
use crate::driver::lab::{DEADLINE, Lab, Peer, PeerView, Rig, pattern};
use crate::driver::{ConnectionId, Event};

pub(in crate::driver) fn fin_right_behind_the_last_bytes<L: Lab>() {
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

pub(in crate::driver) fn a_half_closed_peer_still_receives<L: Lab>() {
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

pub(in crate::driver) fn a_reset_fails_once<L: Lab>() {
    let mut rig = rig!();
    if skips_resets::<L>() {
        return;
    }
    let (id, peer) = rig.connect();
    rig.settle();
    peer.reset();
    rig.until("Failed", |rig| rig.worker.connection(id).failed);
    rig.settle();
    // Nothing wakes the dead.
    rig.worker.driver.pause_reading(id);
    rig.settle();
    rig.worker.driver.resume_reading(id);
    rig.worker.driver.finish_sending(id);
    rig.settle();
    assert!(!rig.worker.connection(id).released);
    rig.close_and_release(id);
    rig.settle();
}

pub(in crate::driver) fn a_reset_behind_our_fin_fails_once<L: Lab>() {
    let mut rig = rig!();
    if skips_resets::<L>() {
        return;
    }
    let (id, mut peer) = rig.connect();
    rig.worker.driver.finish_sending(id);
    assert_eq!(rig.peer_sees_the_end(&mut peer), PeerView::Ended);
    peer.reset();
    rig.until("Failed", |rig| rig.worker.connection(id).failed);
    rig.settle();
    assert!(!rig.worker.connection(id).released);
    rig.close_and_release(id);
}

pub(in crate::driver) fn a_reset_behind_bytes_fails_once<L: Lab>() {
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

pub(in crate::driver) fn a_reset_of_a_paused_connection_fails_after_resume<L: Lab>() {
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

pub(in crate::driver) fn a_reset_ends_a_blocked_send<L: Lab>() {
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
        rig.worker.driver.pause_reading(id);
        rig.settle();
        rig.worker.driver.resume_reading(id);
        rig.settle();
        rig.close_and_release(id);
    }
}

pub(in crate::driver) fn a_failed_send_is_the_last_word<L: Lab>() {
    let mut rig = rig!();
    if skips_resets::<L>() {
        return;
    }
    for _ in 0..10 {
        let (id, mut peer) = rig.connect();
        rig.settle();
        assert_eq!(peer.send(b"unread"), 6);
        peer.reset();
        // The send may find the reset before any event tells of it.
        rig.worker.send(id, b"anybody?");
        rig.until("death", |rig| rig.worker.connection(id).is_dead());
        rig.settle();
        rig.close_and_release(id);
    }
}

pub(in crate::driver) fn close_silences_a_whole_batch<L: Lab>() {
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

pub(in crate::driver) fn close_silences_bytes_that_wait_for_the_next_turn<L: Lab>() {
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

pub(in crate::driver) fn a_reused_slot_never_hears_its_predecessor<L: Lab>() {
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

pub(in crate::driver) fn released_comes_once_and_only_after_close<L: Lab>() {
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

pub(in crate::driver) fn close_ends_the_peer<L: Lab>() {
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

/// Alone in its process: it counts the process's descriptors.
pub(in crate::driver) fn two_thousand_connections_leave_nothing<L: Lab>() {
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

pub(super) fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
