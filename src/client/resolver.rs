//! Names to addresses, on helper threads: getaddrinfo(3) waits, and an event loop must not.
//!
//! In: jobs. Out: whatever they post to a mailbox. Threads start with the first job, at most four
//! of them, and end when there has been nothing to do for a while. A lookup that hangs holds up
//! one thread, not a worker; its dial gives up in time.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

const MAX_THREADS: usize = 4;

/// Lookups that may wait; one more is refused, and its dial tries again later.
const MAX_JOBS: usize = 4096;

/// How long a thread waits for the next job.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// See the module documentation. Cheap until the first job.
#[derive(Default)]
pub(crate) struct Resolver(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl Resolver {
    /// Has the job called on a helper thread.
    ///
    /// # Errors
    ///
    /// When too many wait already, or no thread can be started.
    pub(crate) fn submit(&self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.jobs.len() >= MAX_JOBS {
            return Err(io::Error::other("too many lookups are waiting"));
        }
        if state.idle <= state.jobs.len() && state.threads < MAX_THREADS {
            let inner = Arc::clone(&self.0);
            let started = thread::Builder::new()
                .name("wirelane_lookup".to_owned())
                .spawn(move || inner.work());
            match started {
                Ok(_detached) => state.threads += 1,
                Err(error) if state.threads == 0 => return Err(error),
                // The others will get to it.
                Err(_) => {}
            }
        }
        state.jobs.push_back(Box::new(job));
        drop(state);
        self.0.more.notify_one();
        Ok(())
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("waiting", &self.0.lock().jobs.len()).finish()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held; a poisoned state would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // A resolver of the application may panic; its dial times out.
                let _ = catch_unwind(AssertUnwindSafe(job));
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let (woken, waited) =
                self.more.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

/// Addresses of both families in turn, the family that comes first first (RFC 8305 4): if one of
/// the two leads nowhere, the second attempt finds out.
pub(crate) fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first() else { return addresses };
    let first_is_v6 = first.is_ipv6();
    let (preferred, others): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let (mut preferred, mut others) = (preferred.into_iter(), others.into_iter());
    let mut mixed = Vec::new();
    loop {
        let pair = (preferred.next(), others.next());
        if pair == (None, None) {
            return mixed;
        }
        mixed.extend(pair.0.into_iter().chain(pair.1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn jobs_run_in_parallel_and_panics_stop_nothing() {
        let resolver = Resolver::default();
        let (done, results) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        resolver.submit(move || wait.recv().expect("the test goes on")).expect("room");
        resolver.submit(|| std::panic::resume_unwind(Box::new(()))).expect("room");
        for nth in 0..10 {
            let done = done.clone();
            resolver.submit(move || done.send(nth).expect("the test listens")).expect("room");
        }
        let mut seen: Vec<i32> = (0..10).map(|_| results.recv().expect("all run")).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<_>>(), "while the first one hangs");
        go.send(()).expect("still waiting");
        assert!(resolver.0.lock().threads <= MAX_THREADS);
    }

    #[test]
    fn too_many_jobs_are_refused() {
        let resolver = Resolver::default();
        let (go, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let mut taken = 0;
        let error = loop {
            let wait = Arc::clone(&wait);
            let hang = move || {
                let _ended = wait.lock().expect("unpoisoned").recv();
            };
            match resolver.submit(hang) {
                Ok(()) => taken += 1,
                Err(error) => break error,
            }
        };
        assert!((MAX_JOBS..=MAX_JOBS + MAX_THREADS).contains(&taken), "{taken}");
        assert!(error.to_string().contains("too many"), "{error}");
        drop(go);
    }

    #[test]
    fn families_take_turns() {
        let of = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let [a, b, c] = ["[::1]:1", "[::2]:1", "[::3]:1"].map(of);
        let [x, y] = ["1.1.1.1:1", "2.2.2.2:1"].map(of);
        assert_eq!(interleave(vec![a, b, c, x, y]), [a, x, b, y, c]);
        assert_eq!(interleave(vec![x, a, b]), [x, a, b]);
        assert_eq!(interleave(Vec::new()), []);
    }
}
