//! Connections that the driver makes: reached, refused, given up, and what is left of them.

use super::life_cycle::open_descriptors;
use super::{RECEIVE_BUFFER, rig};
use crate::driver::ConnectionId;
use crate::driver::lab::{Lab, Peer, PeerView, Rig, pattern};

pub(in crate::driver) fn an_outgoing_connection_moves_bytes_both_ways<L: Lab>() {
    let mut rig = rig!();
    let (id, mut peer) = rig.connect_out();
    assert_eq!(rig.worker.driver.stats().sockets, 1);
    let bytes = pattern(0, 200_000);
    rig.worker.send(id, &bytes);
    rig.peer_receives(&mut peer, &bytes);
    let answer = pattern(7, 200_000);
    rig.peer_sends(&mut peer, &answer);
    rig.expect_received(id, &answer);
    // Backpressure is that of any connection.
    let filled = rig.fill(id);
    rig.peer_receives(&mut peer, &filled);
    rig.worker.driver.pause_reading(id);
    rig.settle();
    rig.worker.driver.resume_reading(id);
    rig.worker.driver.finish_sending(id);
    assert_eq!(rig.peer_sees_the_end(&mut peer), PeerView::Ended);
    peer.finish_sending();
    rig.until("Ended", |rig| rig.worker.connection(id).ended);
    rig.close_and_release(id);
    assert_eq!(rig.worker.driver.stats().sockets, 0);
}

pub(in crate::driver) fn what_the_other_side_says_first_comes_behind_connected<L: Lab>() {
    let mut rig = rig!();
    for round in 0..20 {
        let remote = rig.lab.remote();
        let id = rig.worker.connect(&remote).expect("somebody listens");
        let mut peer = None;
        // The worker of the lab fails on bytes before `Connected`.
        rig.until("bytes and FIN", |rig| {
            if peer.is_none() {
                peer = rig.lab.accept();
                if let Some(peer) = &mut peer {
                    assert_eq!(peer.send(b"welcome"), 7);
                    if round % 2 == 0 {
                        peer.finish_sending();
                    }
                }
            }
            let connection = rig.worker.connection(id);
            connection.received.len() == 7 && (connection.ended || round % 2 == 1)
        });
        assert_eq!(rig.worker.connection(id).received, b"welcome");
        rig.close_and_release(id);
    }
}

pub(in crate::driver) fn where_nobody_listens_connecting_fails<L: Lab>() {
    let mut rig = rig!();
    for _ in 0..10 {
        let nobody = rig.lab.nobody();
        // At once or later: both are possible on one and the same machine.
        if let Ok(id) = rig.worker.connect(&nobody) {
            rig.until("Failed", |rig| rig.worker.connection(id).failed);
            rig.settle();
            assert_eq!(rig.worker.driver.stats().sockets, 1);
            rig.close_and_release(id);
        }
        assert_eq!(rig.worker.driver.stats().sockets, 0);
    }
    let (id, mut peer) = rig.connect_out();
    rig.peer_sends(&mut peer, b"still alive");
    rig.expect_received(id, b"still alive");
}

pub(in crate::driver) fn an_attempt_can_be_given_up<L: Lab>() {
    let mut rig = rig!();
    if let Some(nowhere) = rig.lab.nowhere() {
        let id = rig.worker.connect(&nowhere).expect("nobody answers at once");
        rig.settle();
        assert!(rig.worker.connection(id).connecting, "that should lead nowhere");
        rig.close_and_release(id);
    }
    // In the same turn in which it arrives, or before.
    for turns in [0, 1, 2] {
        let remote = rig.lab.remote();
        let id = rig.worker.connect(&remote).expect("somebody listens");
        (0..turns).for_each(|_| rig.turn(2));
        rig.close_and_release(id);
        let mut peer = None;
        for _ in 0..20 {
            peer = peer.or_else(|| rig.lab.accept());
            rig.turn(1);
        }
        if let Some(mut peer) = peer {
            rig.peer_sees_the_end(&mut peer);
        }
    }
    rig.settle();
    assert_eq!(rig.worker.driver.stats().sockets, 0);
}

pub(in crate::driver) fn a_slot_is_reused_by_the_next_attempt<L: Lab>() {
    let mut rig = rig!();
    let mut last: Option<ConnectionId> = None;
    for round in 0..30 {
        let remote = match rig.lab.nowhere() {
            Some(nowhere) if round % 3 == 0 => nowhere,
            _ => rig.lab.remote(),
        };
        let id = rig.worker.connect(&remote).expect("nobody refuses");
        if let Some(last) = last {
            assert_eq!(last.slot(), id.slot());
            assert_ne!(last.generation(), id.generation());
        }
        if round % 2 == 0 {
            rig.turn(1);
        }
        rig.close_and_release(id);
        last = Some(id);
    }
    // Those that were given up come out of the backlog first.
    for _ in 0..50 {
        rig.lab.accept();
        rig.turn(1);
    }
    let (id, mut peer) = rig.connect_out();
    assert_eq!(last.map(|last| last.slot()), Some(id.slot()));
    rig.worker.send(id, b"at last");
    rig.peer_receives(&mut peer, b"at last");
}

/// Alone in its process: it counts the process's descriptors.
pub(in crate::driver) fn five_hundred_attempts_leave_nothing<L: Lab>() {
    let mut rig = rig!();
    let (id, peer) = rig.connect_out();
    rig.close_and_release(id);
    drop(peer);
    let before = open_descriptors();
    for round in 0..250 {
        let (nobody, remote) = (rig.lab.nobody(), rig.lab.remote());
        let refused = rig.worker.connect(&nobody).ok();
        let reached = rig.worker.connect(&remote).expect("somebody listens");
        if round % 2 == 0 {
            rig.turn(0);
        }
        for id in refused.into_iter().chain([reached]) {
            rig.worker.close(id);
        }
        rig.settle_quickly();
        for _ in 0..3 {
            drop(rig.lab.accept());
            rig.turn(0);
        }
    }
    for _ in 0..100 {
        drop(rig.lab.accept());
        rig.turn(0);
    }
    assert_eq!(rig.worker.driver.stats().sockets, 0);
    assert_eq!(open_descriptors(), before);
}
