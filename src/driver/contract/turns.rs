//! The driver as a whole: accepting, waking, waiting and doing nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use super::{RECEIVE_BUFFER, rig};
use crate::driver::Event;
use crate::driver::lab::{DEADLINE, LONG_WAIT_MS, Lab, Peer, Rig, pattern};

pub(in crate::driver) fn a_dropped_newcomer_sees_the_end<L: Lab>() {
    let mut rig = rig!();
    let mut peer = rig.lab.connect().expect("somebody listens");
    rig.until("accept", |rig| rig.worker.newcomers.pop_front().is_some());
    rig.peer_sees_the_end(&mut peer);
    assert_eq!(rig.worker.driver.stats().sockets, 0);
}

pub(in crate::driver) fn paused_accepting_leaves_newcomers_waiting<L: Lab>() {
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
    let waits = rig.waits_in_60_ms();
    assert!(waits < 25, "{waits} waits: spins while newcomers wait");
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

/// However many come at once and whatever was learnt of those before, nobody is left waiting.
pub(in crate::driver) fn a_crowd_is_let_in<L: Lab>() {
    let mut rig = rig!();
    for crowd in [1, 1, 90, 1, 3, 40, 2, 1] {
        let peers: Vec<_> = (0..crowd).filter_map(|_| rig.lab.connect()).collect();
        assert_eq!(peers.len(), crowd);
        rig.until("accept", |rig| rig.worker.newcomers.len() == crowd);
        for _ in 0..crowd {
            let id = rig.worker.adopt_next();
            rig.worker.close(id);
        }
        drop(peers);
        rig.settle();
    }
}

/// Everything may have happened before the accept.
pub(in crate::driver) fn impatient_newcomers_are_heard<L: Lab>() {
    let mut rig = rig!();
    rig.worker.driver.pause_accepting();
    rig.settle();
    let mut asks = rig.lab.connect().expect("a backlog");
    assert_eq!(asks.send(b"at once"), 7);
    let mut leaves = rig.lab.connect().expect("a backlog");
    assert_eq!(leaves.send(b"and gone"), 8);
    leaves.finish_sending();
    let gone = rig.lab.connect().expect("a backlog");
    if L::HAS_RESET {
        gone.reset()
    } else {
        drop(gone)
    }
    rig.settle();
    rig.worker.driver.resume_accepting();
    rig.until("accept", |rig| rig.worker.newcomers.len() >= 2);
    let first = rig.worker.adopt_next();
    let second = rig.worker.adopt_next();
    rig.expect_received(first, b"at once");
    rig.expect_received(second, b"and gone");
    rig.until("Ended", |rig| rig.worker.connection(second).ended);
    rig.settle();
    assert!(!rig.worker.connection(first).ended);
    // A listener may leave out whoever has gone.
    if !rig.worker.newcomers.is_empty() {
        let third = rig.worker.adopt_next();
        rig.until("the end", |rig| {
            let third = rig.worker.connection(third);
            third.ended || third.is_dead()
        });
    }
    let (next, mut peer) = rig.connect();
    rig.peer_sends(&mut peer, b"business as usual");
    rig.expect_received(next, b"business as usual");
}

/// What the kernel has said once, or never will, is not slept over.
pub(in crate::driver) fn work_left_over_needs_no_kernel_event<L: Lab>() {
    let mut rig = rig!(4096);
    // Many full buffers.
    let (id, mut peer) = rig.connect();
    rig.worker.driver.pause_reading(id);
    rig.settle();
    let bytes = pattern(0, 64 * 1024);
    let sent = peer.send(&bytes);
    assert!(sent > 8192);
    rig.settle();
    rig.worker.driver.resume_reading(id);
    rig.until_waiting(LONG_WAIT_MS, "many buffers of bytes", |rig| {
        rig.worker.connection(id).received.len() == sent
    });
    // A release outside of any event.
    rig.settle();
    rig.worker.close(id);
    rig.until_waiting(LONG_WAIT_MS, "Released", |rig| rig.worker.connection(id).released);
    // More newcomers than one turn accepts.
    rig.worker.driver.pause_accepting();
    rig.settle();
    let peers: Vec<_> = (0..150).filter_map(|_| rig.lab.connect()).collect();
    assert_eq!(peers.len(), 150);
    rig.settle();
    rig.worker.driver.resume_accepting();
    rig.until_waiting(LONG_WAIT_MS, "accept", |rig| rig.worker.newcomers.len() == 150);
}

pub(in crate::driver) fn stop_listening_spares_the_established<L: Lab>() {
    let mut rig = rig!();
    let (id, mut peer) = rig.connect();
    rig.worker.driver.stop_listening();
    rig.settle();
    rig.until("refusal", |rig| rig.lab.connect().is_none());
    rig.worker.driver.resume_accepting();
    rig.settle();
    assert!(rig.worker.newcomers.is_empty(), "accepted after stop_listening");
    rig.peer_sends(&mut peer, b"still served");
    rig.expect_received(id, b"still served");
    rig.worker.send(id, b"yes");
    rig.peer_receives(&mut peer, b"yes");
    rig.close_and_release(id);
}

/// Alone in its process: the limit of descriptors is the process's.
pub(in crate::driver) fn accepting_pauses_without_descriptors<L: Lab>() {
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

pub(in crate::driver) fn quiet_connections_let_the_driver_sleep<L: Lab>() {
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

pub(in crate::driver) fn a_wake_ends_a_wait<L: Lab>() {
    let mut rig = rig!();
    let waker = rig.worker.driver.waker();
    // Before the wait.
    waker.wake();
    rig.until_waiting(LONG_WAIT_MS, "Woken", |rig| rig.worker.woken > 0);
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
        rig.until_waiting(LONG_WAIT_MS, "Woken", |rig| rig.worker.woken > before);
    }
    drop(go);
    thread.join().unwrap();
}

/// Changes what the process does with a signal.
#[allow(unsafe_code)]
pub(in crate::driver) fn a_signal_does_no_harm<L: Lab>() {
    static CAME: AtomicU32 = AtomicU32::new(0);
    extern "C" fn ignore(_: libc::c_int) {
        CAME.fetch_add(1, Ordering::Relaxed);
    }
    let mut rig = rig!();
    // SAFETY: all zeroes is a valid action without flags; calls that wait end with EINTR then.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as usize;
    // SAFETY: the handler only counts, and the old action is not asked for.
    let set = unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    // SAFETY: no preconditions.
    let waiting = unsafe { libc::pthread_self() };
    let (go, gone) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        while gone.try_recv() == Err(mpsc::TryRecvError::Empty) {
            // SAFETY: that thread waits for this one.
            unsafe { libc::pthread_kill(waiting, libc::SIGUSR1) };
            std::thread::sleep(std::time::Duration::from_micros(300));
        }
    });
    for _ in 0..50 {
        rig.turn(5);
    }
    // The simulated drivers wait for nothing, and may be done before the first.
    rig.until("a signal", |_| CAME.load(Ordering::Relaxed) != 0);
    let (id, mut peer) = rig.connect();
    assert_eq!(peer.send(b"in spite of everything"), 22);
    rig.until("bytes", |rig| rig.worker.connection(id).received.len() == 22);
    go.send(()).unwrap();
    thread.join().unwrap();
}

pub(in crate::driver) fn no_wake_is_lost<L: Lab>() {
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
        rig.turn_with(LONG_WAIT_MS, |_, event| {
            if matches!(event, Event::Woken) {
                seen = posted.load(Ordering::Acquire);
            }
        });
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(seen, 4 * EACH);
}

pub(in crate::driver) fn wait_keeps_its_timeout<L: Lab>() {
    let mut rig = rig!();
    rig.settle();
    // Early returns are allowed, busy waiting is not.
    let waits = rig.waits_in_60_ms();
    assert!(waits < 25, "{waits} waits");
    let before = rig.worker.driver.now_ms();
    rig.turn(0);
    assert!(rig.worker.driver.now_ms() >= before);
}

pub(in crate::driver) fn the_peer_address_is_the_peers<L: Lab>() {
    let mut rig = rig!();
    let (id, peer) = rig.connect();
    assert_eq!(rig.worker.driver.peer_addr(id), peer.addr());
    rig.close_and_release(id);
    assert_eq!(rig.worker.driver.peer_addr(id), None);
}
