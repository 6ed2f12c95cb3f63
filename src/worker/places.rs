//! Places: how many connections a server may have, how many each worker has, and each address.
//!
//! What comes in: newcomers, before they have a slot. What goes out: a [`Place`] for each, or why
//! there is none. Whoever drops a place gives it back, so a newcomer that is lost on its way to a
//! worker leaves nothing behind.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::driver::Waker;

/// The places of one server.
#[derive(Debug)]
pub(crate) struct Places {
    max: usize,
    taken: AtomicUsize,
    /// By worker; whoever is on the way to it counts already.
    loads: Vec<AtomicUsize>,
    /// By worker: whether it waits until a place comes free.
    waits: Vec<Waits>,
    /// How many of them wait.
    waiting: AtomicUsize,
    /// Where the next search for the least load begins, so that equals take turns.
    next: AtomicUsize,
    /// Only if connections per address are limited.
    addresses: Option<Addresses>,
}

/// What one worker that found the server full can be told.
#[derive(Debug, Default)]
struct Waits {
    waits: AtomicBool,
    /// It was woken because a place came free.
    called: AtomicBool,
    waker: OnceLock<Waker>,
}

#[derive(Debug)]
struct Addresses {
    max: u32,
    counts: Mutex<HashMap<Network, u32>>,
}

/// What counts as one address: an IPv4 address, or the /64 network of an IPv6 address, because
/// that is what one household or one rented machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Network(IpAddr);

impl Network {
    pub(crate) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V6(ip) => {
                Self(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into())
            }
            ip => Self(ip),
        }
    }
}

/// Why a newcomer got no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// `max_connections` are there.
    Full,
    /// `max_connections_per_ip` of this address are there.
    AddressFull,
}

impl Places {
    /// Zero for `max_per_address` is no limit.
    pub(crate) fn new(workers: usize, max: usize, max_per_address: u32) -> Self {
        Self {
            max,
            taken: AtomicUsize::new(0),
            loads: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            waits: (0..workers).map(|_| Waits::default()).collect(),
            waiting: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            addresses: (max_per_address != 0)
                .then(|| Addresses { max: max_per_address, counts: Mutex::default() }),
        }
    }

    /// Connections that hold a place.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.taken() >= self.max
    }

    /// Connections of one worker, those on the way to it included.
    pub(crate) fn load(&self, worker: u16) -> usize {
        self.loads.get(usize::from(worker)).map_or(0, |load| load.load(Ordering::Acquire))
    }

    /// Whether somebody has to find out where newcomers come from.
    pub(crate) fn asks_for_address(&self) -> bool {
        self.addresses.is_some()
    }

    /// The worker with the fewest connections. Exact as long as one thread gives out places; several
    /// at the same time may choose the same worker.
    pub(crate) fn fewest(&self) -> u16 {
        let count = self.loads.len();
        let first = self.next.load(Ordering::Relaxed);
        let chosen = (0..count)
            .map(|step| (first + step) % count)
            .min_by_key(|&worker| self.loads[worker].load(Ordering::Acquire))
            .unwrap_or(0);
        self.next.store((chosen + 1) % count.max(1), Ordering::Relaxed);
        chosen as u16
    }

    /// A place at this worker, for somebody from this address if that is known.
    pub(crate) fn take(
        self: &Arc<Self>,
        worker: u16,
        ip: Option<IpAddr>,
    ) -> Result<Place, NoPlace> {
        let more = |taken| (taken < self.max).then_some(taken + 1);
        if self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_err() {
            return Err(NoPlace::Full);
        }
        let network = match (&self.addresses, ip) {
            (Some(addresses), Some(ip)) => {
                let network = Network::of(ip);
                let mut counts = addresses.lock();
                let count = counts.entry(network).or_insert(0);
                if *count >= addresses.max {
                    drop(counts);
                    self.taken.fetch_sub(1, Ordering::AcqRel);
                    self.call();
                    return Err(NoPlace::AddressFull);
                }
                *count += 1;
                Some(network)
            }
            _ => None,
        };
        if let Some(load) = self.loads.get(usize::from(worker)) {
            load.fetch_add(1, Ordering::AcqRel);
        }
        Ok(Place { places: Some(Arc::clone(self)), worker, network })
    }

    /// Gives back a place of this worker.
    pub(crate) fn leave(&self, worker: u16, network: Option<Network>) {
        if let (Some(addresses), Some(network)) = (&self.addresses, network) {
            let mut counts = addresses.lock();
            if let Some(count) = counts.get_mut(&network) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&network);
                }
            }
        }
        if let Some(load) = self.loads.get(usize::from(worker)) {
            load.fetch_sub(1, Ordering::AcqRel);
        }
        self.taken.fetch_sub(1, Ordering::AcqRel);
        self.call();
    }

    /// This worker runs and can be woken.
    pub(crate) fn open(&self, worker: u16, waker: Waker) {
        if let Some(waits) = self.waits.get(usize::from(worker)) {
            let _ = waits.waker.set(waker);
        }
    }

    /// Has this worker woken when a place comes free, once; false if one is free already.
    pub(crate) fn wait(&self, worker: u16) -> bool {
        let Some(waits) = self.waits.get(usize::from(worker)) else { return self.is_full() };
        if !waits.waits.swap(true, Ordering::AcqRel) {
            self.waiting.fetch_add(1, Ordering::AcqRel);
        }
        // Whoever leaves gives the place back before he looks who waits, and here it is the other
        // way round: one of the two sees the other.
        fence(Ordering::SeqCst);
        self.is_full()
    }

    /// This worker looks by itself.
    pub(crate) fn stop_waiting(&self, worker: u16) {
        if let Some(waits) = self.waits.get(usize::from(worker))
            && waits.waits.swap(false, Ordering::AcqRel)
        {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Whether this worker was woken because of a free place, since it last asked.
    pub(crate) fn was_called(&self, worker: u16) -> bool {
        let waits = self.waits.get(usize::from(worker));
        waits.is_some_and(|waits| waits.called.swap(false, Ordering::AcqRel))
    }

    /// Wakes all that wait: only some of them may have somebody at the door. Each is woken once,
    /// however many places come free before it looks.
    fn call(&self) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Acquire) == 0 {
            return;
        }
        for waits in &self.waits {
            if waits.waits.swap(false, Ordering::AcqRel) {
                self.waiting.fetch_sub(1, Ordering::AcqRel);
                waits.called.store(true, Ordering::Release);
                if let Some(waker) = waits.waker.get() {
                    waker.wake();
                }
            }
        }
    }
}

impl Addresses {
    fn lock(&self) -> MutexGuard<'_, HashMap<Network, u32>> {
        // Nothing panics while the lock is held.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's place, on its way to a worker. Given back when dropped, unless it is kept.
#[derive(Debug)]
#[must_use = "dropping it gives the place back"]
pub(crate) struct Place {
    /// `None` once it is kept.
    places: Option<Arc<Places>>,
    worker: u16,
    network: Option<Network>,
}

impl Place {
    /// The worker that it is at.
    pub(crate) fn worker(&self) -> u16 {
        self.worker
    }

    /// The connection has its slot: the worker gives the place back with [`Places::leave`], naming
    /// what this answers.
    pub(crate) fn keep(mut self) -> Option<Network> {
        self.places = None;
        self.network.take()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(places) = self.places.take() {
            places.leave(self.worker, self.network.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn newcomers_are_spread_evenly_and_equals_take_turns() {
        let places = Arc::new(Places::new(4, 1000, 0));
        let mut held: Vec<Vec<Place>> = (0..4).map(|_| Vec::new()).collect();
        for _ in 0..100 {
            let worker = places.fewest();
            held[usize::from(worker)].push(places.take(worker, None).expect("room"));
        }
        assert_eq!([0, 1, 2, 3].map(|worker| places.load(worker)), [25; 4]);
        // Whoever lost the most gets the next ones.
        held[2].truncate(20);
        for _ in 0..5 {
            assert_eq!(places.fewest(), 2);
            held[2].push(places.take(2, None).expect("room"));
        }
        held.clear();
        let visitors: Vec<u16> = (0..8).map(|_| places.fewest()).collect();
        let mut sorted = visitors.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 0, 1, 1, 2, 2, 3, 3], "{visitors:?}");
        assert_eq!(places.taken(), 0);
    }

    #[test]
    fn a_place_is_given_back_once() {
        let places = Arc::new(Places::new(2, 2, 1));
        let first = places.take(0, Some(ip("192.0.2.1"))).expect("room");
        let second = places.take(1, None).expect("room");
        assert_eq!(places.take(0, None).unwrap_err(), NoPlace::Full);
        assert!(places.is_full());
        assert_eq!(second.worker(), 1);
        drop(second);
        let network = first.keep();
        assert_eq!((places.taken(), places.load(0), places.load(1)), (1, 1, 0));
        assert_eq!(places.take(0, Some(ip("192.0.2.1"))).unwrap_err(), NoPlace::AddressFull);
        assert_eq!(places.taken(), 1, "whoever is refused takes nothing");
        places.leave(0, network);
        assert_eq!((places.taken(), places.load(0)), (0, 0));
        assert!(places.take(0, Some(ip("192.0.2.1"))).is_ok());
    }

    #[test]
    fn whoever_waits_for_a_place_is_woken_once_for_it() {
        let places = Arc::new(Places::new(2, 2, 0));
        let flags = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        for (worker, flag) in (0..).zip(&flags) {
            places.open(worker, Waker::Simulated(Arc::clone(flag)));
        }
        let woken = |worker: usize| flags[worker].swap(false, Ordering::AcqRel);
        let first = places.take(0, None).expect("room");
        assert!(!places.wait(1), "there is a place");
        let second = places.take(1, None).expect("room");
        assert!(places.wait(1), "now there is none");
        assert!(!places.was_called(1));
        drop(first);
        assert!(woken(1) && places.was_called(1) && !places.was_called(1));
        drop(second);
        assert!(!woken(1) && !places.was_called(1), "it has not waited again");
        assert!(!woken(0), "nobody waits there");
        // One that has looked by itself is not called any more.
        let held = [0, 1].map(|worker| places.take(worker, None).expect("room"));
        assert!(places.wait(0));
        assert!(places.wait(1));
        places.stop_waiting(1);
        drop(held);
        assert!(woken(0) && !woken(1));
    }

    #[test]
    fn an_address_is_what_one_subscriber_has() {
        assert_eq!(Network::of(ip("::ffff:192.0.2.1")), Network::of(ip("192.0.2.1")));
        assert_eq!(Network::of(ip("2001:db8::1")), Network::of(ip("2001:db8::ffff:1")));
        assert_ne!(Network::of(ip("2001:db8::1")), Network::of(ip("2001:db8:0:1::1")));
        assert_ne!(Network::of(ip("192.0.2.1")), Network::of(ip("192.0.2.2")));
    }
}
