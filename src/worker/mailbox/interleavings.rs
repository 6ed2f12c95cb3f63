//! Every order in which threads can meet at a mailbox, tried by loom: no command and no wake-up is
//! lost, and what a thread wrote before it woke a worker is seen by it.
//!
//! `RUSTFLAGS="--cfg interleavings" cargo test --lib interleavings`

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use super::*;

/// A worker that sleeps until its flag is up, as the driver does with an eventfd: the kernel orders
/// its writes and reads, so a lock stands for it.
struct Model {
    mailbox: Arc<Mailbox>,
    flag: Arc<Mutex<bool>>,
    taken: Vec<u32>,
}

impl Model {
    /// A worker that runs already.
    fn new() -> Self {
        let model = Self {
            mailbox: Arc::new(Mailbox::default()),
            flag: Arc::new(Mutex::new(false)),
            taken: Vec::new(),
        };
        model.open();
        model
    }

    fn open(&self) {
        self.mailbox.open(Waker::Model(Arc::clone(&self.flag)));
    }

    /// One turn if it has been woken; false if it sleeps.
    fn turn(&mut self) -> bool {
        if !take(&mut *self.flag.lock().expect("nobody panics")) {
            return false;
        }
        let mut batch = VecDeque::new();
        self.mailbox.take(&mut batch);
        self.taken.extend(batch.iter().map(|command| match command {
            Command::Close { id, .. } => id.slot() as u32,
            other => panic!("{other:?}"),
        }));
        true
    }

    /// As many turns as it is woken for.
    fn settle(&mut self) {
        while self.turn() {}
    }

    /// Sleeps until it is woken. If nobody ever does, loom says so.
    fn wait(&mut self) {
        while !self.turn() {
            thread::yield_now();
        }
    }
}

fn post(mailbox: &Mailbox, slot: u32) {
    let id = ConnectionId::new(0, slot, 1);
    let close = Command::Close { id, code: CloseCode::NORMAL, reason: "".into() };
    mailbox.post(close).expect("room");
}

/// Every order with at most three switches that no thread asked for: mistakes that need more are
/// rare, and trying for them takes hours.
fn every_order(run: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(run);
}

#[test]
fn no_command_waits_for_a_worker_that_sleeps() {
    every_order(|| {
        let mut worker = Model::new();
        let posters = [&[0, 1][..], &[10]].map(|slots| {
            let mailbox = Arc::clone(&worker.mailbox);
            thread::spawn(move || slots.iter().for_each(|slot| post(&mailbox, *slot)))
        });
        // It may be in the middle of a turn whenever a command comes.
        worker.turn();
        worker.turn();
        for poster in posters {
            poster.join().expect("no panic");
        }
        worker.settle();
        let first = worker.taken.iter().filter(|slot| **slot < 10);
        assert!(first.is_sorted(), "{:?}", worker.taken);
        worker.taken.sort_unstable();
        assert_eq!(worker.taken, [0, 1, 10]);
    });
}

#[test]
fn what_was_posted_before_the_worker_ran_is_not_forgotten() {
    every_order(|| {
        let mut worker = Model {
            mailbox: Arc::new(Mailbox::default()),
            flag: Arc::new(Mutex::new(false)),
            taken: Vec::new(),
        };
        let mailbox = Arc::clone(&worker.mailbox);
        let poster = thread::spawn(move || {
            post(&mailbox, 1);
            post(&mailbox, 2);
        });
        assert!(!worker.turn(), "nobody can wake it yet");
        worker.open();
        worker.turn();
        poster.join().expect("no panic");
        worker.settle();
        assert_eq!(worker.taken, [1, 2]);
    });
}

#[test]
fn whoever_wakes_is_seen_with_what_it_wrote_before() {
    every_order(|| {
        let mut worker = Model::new();
        let grace = Arc::new(AtomicU64::new(0));
        let poster = {
            let mailbox = Arc::clone(&worker.mailbox);
            thread::spawn(move || mailbox.wake())
        };
        let stopper = {
            let (mailbox, grace) = (Arc::clone(&worker.mailbox), Arc::clone(&grace));
            thread::spawn(move || {
                grace.store(1, Ordering::Relaxed);
                mailbox.wake();
            })
        };
        // Its wake-up may be the one of the other thread.
        while grace.load(Ordering::Relaxed) == 0 {
            worker.wait();
        }
        poster.join().expect("no panic");
        stopper.join().expect("no panic");
    });
}

#[test]
fn a_worker_that_ends_loses_no_command_without_a_word() {
    every_order(|| {
        let worker = Model::new();
        let mailbox = Arc::clone(&worker.mailbox);
        let poster = thread::spawn(move || {
            let id = ConnectionId::new(0, 0, 1);
            let send = || Command::Send { id, text: true, payload: Box::from(*b"x") };
            (0..2).filter(|_| mailbox.post(send()).is_ok()).count()
        });
        let lost = worker.mailbox.stop().messages;
        let posted = poster.join().expect("no panic");
        // Those that were taken in are counted, the others were refused.
        assert_eq!(posted as u64, lost + worker.mailbox.stop().messages);
    });
}
