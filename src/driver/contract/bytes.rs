//! Bytes in and out: whole, in order, as slowly as the slower side wants.

use std::io::IoSlice;
use std::time::Instant;

use super::{RECEIVE_BUFFER, rig};
use crate::driver::Event;
use crate::driver::lab::{DEADLINE, Lab, Peer, PeerView, Rig, pattern};

pub(in crate::driver) fn bytes_arrive_whole_and_in_order<L: Lab>() {
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

pub(in crate::driver) fn forty_connections_share_small_buffers<L: Lab>() {
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

pub(in crate::driver) fn reading_on_loses_nothing_and_comes_to_an_end<L: Lab>() {
    const LEN: usize = 100_000;
    let mut rig = rig!(4096);
    let mut pairs: Vec<_> = (0..5).map(|_| rig.connect()).collect();
    let (paused, closed) = (pairs[1].0, pairs[2].0);
    let mut sent = [0; 5];
    let start = Instant::now();
    let mut resumed = false;
    loop {
        for (i, (_, peer)) in pairs.iter_mut().enumerate() {
            let bytes = pattern(i * 1000, LEN);
            if sent[i] < LEN {
                sent[i] += peer.send(&bytes[sent[i]..]);
                if sent[i] == LEN {
                    peer.finish_sending();
                }
            }
        }
        let mut left = 20;
        rig.turn_with(2, |worker, event| {
            let Event::Received { id, .. } = event else { return };
            if left > 0 {
                left -= 1;
                worker.read_on(*id);
            }
            let received = worker.connection(*id).received.len();
            if *id == paused && !resumed {
                worker.driver.pause_reading(*id);
            } else if *id == closed && received > 20_000 {
                worker.close(*id);
            }
        });
        let ended = |i: usize| rig.worker.connection(pairs[i].0).ended;
        if [0, 3, 4].into_iter().all(ended) && rig.worker.connection(closed).released {
            if resumed && ended(1) {
                break;
            }
            // Whoever is paused is not read, whatever was wished before.
            assert!(resumed || !ended(1));
            resumed = true;
            rig.worker.driver.resume_reading(paused);
        }
        assert!(start.elapsed() < DEADLINE, "a wish to read on loses an event");
    }
    for i in [0, 1, 3, 4] {
        assert_eq!(rig.worker.connection(pairs[i].0).received, pattern(i * 1000, LEN));
    }
}

pub(in crate::driver) fn lent_bytes_may_be_changed_and_sent<L: Lab>() {
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

pub(in crate::driver) fn many_slices_leave_in_order<L: Lab>() {
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

pub(in crate::driver) fn short_sends_resume_and_keep_their_order<L: Lab>() {
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

pub(in crate::driver) fn finish_sending_delivers_everything_first<L: Lab>() {
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

pub(in crate::driver) fn the_last_bytes_and_the_end_arrive<L: Lab>() {
    let mut rig = rig!();
    // The last of them is more than a socket takes at once.
    for (len, closes) in [(1, false), (1, true), (200, false), (70_000, true), (16 << 20, false)] {
        let (id, mut peer) = rig.connect();
        let (first, last) = (pattern(0, 100), pattern(3, len));
        rig.worker.send(id, &first);
        let all = rig.worker.send_last(id, &last);
        assert!(all || len >= 70_000, "a new socket has room for {len} bytes");
        assert!(!all || len < 16 << 20, "the socket has no bottom");
        let mut received = Vec::new();
        rig.until("an empty backlog", |rig| {
            let empty = rig.worker.connection(id).backlog() == 0;
            if !empty {
                peer.receive(&mut received);
            }
            empty
        });
        if closes {
            rig.worker.close(id);
        } else {
            rig.worker.driver.finish_sending(id);
        }
        rig.until("FIN", |_| peer.receive(&mut received) == PeerView::Ended);
        assert!(received == [first, last].concat(), "{len} bytes, closes: {closes}");
        if !closes {
            rig.peer_sends(&mut peer, b"heard");
            rig.expect_received(id, b"heard");
            rig.worker.close(id);
        }
        rig.until("Released", |rig| rig.worker.connection(id).released);
    }
}

/// Where there are packets, that is.
pub(in crate::driver) fn the_end_travels_with_the_last_bytes<L: Lab>() {
    let mut rig = rig!();
    for len in [4, 500] {
        let (id, mut peer) = rig.connect();
        rig.settle();
        let before = peer.segments();
        assert!(rig.worker.send_last(id, &pattern(0, len)));
        rig.worker.driver.finish_sending(id);
        let mut received = Vec::new();
        rig.until("FIN", |_| peer.receive(&mut received) == PeerView::Ended);
        assert!(received == pattern(0, len));
        assert_eq!(peer.segments(), before.map(|before| before + 1), "{len} bytes and FIN");
        rig.close_and_release(id);
    }
}

pub(in crate::driver) fn pause_stops_delivery_and_resume_delivers_all<L: Lab>() {
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

pub(in crate::driver) fn a_pause_inside_an_event_takes_effect<L: Lab>() {
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
            for _ in 0..5 {
                rig.turn(0);
            }
            let overrun = rig.worker.connection(id).received.len() - before;
            assert!(overrun <= rig.memory_len(), "{overrun} bytes after the pause");
            rig.worker.driver.resume_reading(id);
        }
    }
    assert!(pauses > 1);
    assert!(rig.worker.connection(id).received == bytes);
}

pub(in crate::driver) fn bytes_of_before_the_resume_need_no_further_edge<L: Lab>() {
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
