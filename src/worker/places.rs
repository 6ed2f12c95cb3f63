//! Places: how many connections a server may have, how many each worker has, and each address.
//!
//! What comes in: newcomers, before they have a slot. What goes out: a [`Place`] for each, or why
//! there is none. Whoever drops a place gives it back, so a newcomer that is lost on its way to a
//! worker leaves nothing behind.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The places of one server.
#[derive(Debug)]
pub(crate) struct Places {
    max: usize,
    taken: AtomicUsize,
    /// By worker; whoever is on the way to it counts already.
    loads: Vec<AtomicUsize>,
    /// Where the next search for the least load begins, so that equals take turns.
    next: AtomicUsize,
    /// Only if connections per address are limited.
    addresses: Option<Addresses>,
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
    fn an_address_is_what_one_subscriber_has() {
        assert_eq!(Network::of(ip("::ffff:192.0.2.1")), Network::of(ip("192.0.2.1")));
        assert_eq!(Network::of(ip("2001:db8::1")), Network::of(ip("2001:db8::ffff:1")));
        assert_ne!(Network::of(ip("2001:db8::1")), Network::of(ip("2001:db8:0:1::1")));
        assert_ne!(Network::of(ip("192.0.2.1")), Network::of(ip("192.0.2.2")));
    }
}
