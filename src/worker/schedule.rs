//! Timers of the application: any number per connection and per handler, each with a key.
//!
//! Delays and keys come in, by owner; keys whose moment has passed go out, each once, the earliest
//! first, those of one millisecond in the order in which they were set. The time is an argument.
//! A timer goes with its owner: nothing fires for a connection that has ended.
//!
//! A binary heap of entry numbers, each entry knowing its place in it, so that cancelling takes
//! nothing but logarithmic time and leaves nothing behind. Cost: 64 bytes per timer, about 40 per
//! owner that has any, and nothing for the others.

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;

use slab::Slab;

use crate::context::{TimerError, TimerId};
use crate::driver::ConnectionId;

/// Whose timer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    Connection(ConnectionId),
    /// The handler of a route.
    Handler(u16),
}

/// Timers that one handler may have for itself.
const MAX_OF_HANDLER: u32 = 65_536;

#[derive(Debug)]
struct Timer {
    deadline_ms: u64,
    /// Unlike the number of its entry, never used again.
    serial: u64,
    key: u64,
    owner: Owner,
    /// Where it is in the heap.
    place: u32,
    /// Neighbours in the list of its owner.
    next: u32,
    previous: u32,
}

/// End of a list.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Owned {
    first: u32,
    count: u32,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Schedule {
    timers: Slab<Timer>,
    /// Numbers of `timers`; none is due before its parent.
    heap: Vec<u32>,
    owners: HashMap<Owner, Owned>,
    serial: u64,
    max_of_connection: u32,
    worker: u16,
}

impl Schedule {
    /// No timers yet, and at most `max_of_connection` for each connection.
    pub(crate) fn new(worker: u16, max_of_connection: u32) -> Self {
        Self {
            timers: Slab::new(),
            heap: Vec::new(),
            owners: HashMap::new(),
            serial: 0,
            max_of_connection,
            worker,
        }
    }

    /// Adds a timer. A moment that has passed already is due in the next turn.
    pub(crate) fn set(
        &mut self,
        owner: Owner,
        deadline_ms: u64,
        key: u64,
    ) -> Result<TimerId, TimerError> {
        let max = match owner {
            Owner::Connection(_) => self.max_of_connection,
            Owner::Handler(_) => MAX_OF_HANDLER,
        };
        let count = self.owners.get(&owner).map_or(0, |owned| owned.count);
        let entry = u32::try_from(self.timers.vacant_key()).unwrap_or(NONE);
        if count >= max || entry == NONE {
            return Err(TimerError::TooMany);
        }
        self.serial += 1;
        let (place, serial) = (self.heap.len() as u32, self.serial);
        let owned = self.owners.entry(owner).or_insert(Owned { first: NONE, count: 0 });
        let next = std::mem::replace(&mut owned.first, entry);
        owned.count += 1;
        self.timers.insert(Timer { deadline_ms, serial, key, owner, place, next, previous: NONE });
        if next != NONE {
            self.timers[next as usize].previous = entry;
        }
        self.heap.push(entry);
        self.rise(place as usize);
        Ok(TimerId { serial, entry, worker: self.worker })
    }

    /// Takes a timer away; false if it has fired, was cancelled, or is somebody else's.
    pub(crate) fn cancel(&mut self, owner: Owner, id: TimerId) -> bool {
        let timer = self.timers.get(id.entry as usize);
        let found = id.worker == self.worker
            && timer.is_some_and(|timer| timer.serial == id.serial && timer.owner == owner);
        if found {
            self.remove(id.entry);
        }
        found
    }

    /// The owner has gone.
    pub(crate) fn cancel_all(&mut self, owner: Owner) {
        while let Some(owned) = self.owners.get(&owner) {
            self.remove(owned.first);
        }
    }

    /// When [`Self::expired`] has to be asked next.
    #[inline]
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.heap.first().map(|&entry| self.timers[entry as usize].deadline_ms)
    }

    /// Serial of the latest timer. Whoever passes it to [`Self::expired`] does not meet the timers
    /// that are set while it drains.
    pub(crate) fn latest(&self) -> u64 {
        self.serial
    }

    /// The next timer that is due at `now_ms`, not set later than `latest`; it is gone then.
    pub(crate) fn expired(&mut self, now_ms: u64, latest: u64) -> Option<(Owner, u64)> {
        let entry = *self.heap.first()?;
        let timer = &self.timers[entry as usize];
        // Of those that are due, the new ones are the last: their moment is not before `now_ms`.
        if timer.deadline_ms > now_ms || timer.serial > latest {
            return None;
        }
        let (owner, key) = (timer.owner, timer.key);
        self.remove(entry);
        Some((owner, key))
    }

    /// Number of timers.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.timers.len()
    }

    /// Owners of the timers there are.
    #[cfg(test)]
    pub(crate) fn owners(&self) -> impl Iterator<Item = Owner> + '_ {
        self.owners.keys().copied()
    }

    fn remove(&mut self, entry: u32) {
        let Timer { owner, place, next, previous, .. } = self.timers.remove(entry as usize);
        if next != NONE {
            self.timers[next as usize].previous = previous;
        }
        if previous != NONE {
            self.timers[previous as usize].next = next;
        }
        if let MapEntry::Occupied(mut owned) = self.owners.entry(owner) {
            owned.get_mut().count -= 1;
            if previous == NONE {
                owned.get_mut().first = next;
            }
            if owned.get().count == 0 {
                owned.remove();
            }
        }
        let place = place as usize;
        self.heap.swap_remove(place);
        if place < self.heap.len() {
            self.settle(place);
            self.rise(place);
            self.sink(place);
        }
    }

    fn is_before(&self, a: u32, b: u32) -> bool {
        let (a, b) = (&self.timers[a as usize], &self.timers[b as usize]);
        (a.deadline_ms, a.serial) < (b.deadline_ms, b.serial)
    }

    /// Tells the timer at `place` where it is.
    fn settle(&mut self, place: usize) {
        self.timers[self.heap[place] as usize].place = place as u32;
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.settle(a);
        self.settle(b);
    }

    fn rise(&mut self, mut place: usize) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if !self.is_before(self.heap[place], self.heap[parent]) {
                break;
            }
            self.swap(place, parent);
            place = parent;
        }
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let mut first = place;
            for child in [2 * place + 1, 2 * place + 2] {
                if child < self.heap.len() && self.is_before(self.heap[child], self.heap[first]) {
                    first = child;
                }
            }
            if first == place {
                break;
            }
            self.swap(place, first);
            place = first;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn connection(slot: u32) -> Owner {
        Owner::Connection(ConnectionId::new(0, slot, 1))
    }

    fn drain(schedule: &mut Schedule, now_ms: u64) -> Vec<u64> {
        let latest = schedule.latest();
        std::iter::from_fn(|| schedule.expired(now_ms, latest)).map(|(_, key)| key).collect()
    }

    #[test]
    fn timers_fire_once_in_order_and_never_early() {
        let mut schedule = Schedule::new(0, 10);
        for (deadline_ms, key) in [(30, 3), (10, 1), (20, 2), (10, 11)] {
            schedule.set(connection(1), deadline_ms, key).expect("room");
        }
        assert_eq!(schedule.next_deadline(), Some(10));
        assert!(drain(&mut schedule, 9).is_empty());
        assert_eq!(drain(&mut schedule, 20), [1, 11, 2]);
        assert!(drain(&mut schedule, 29).is_empty());
        assert_eq!(drain(&mut schedule, u64::MAX), [3]);
        assert_eq!((schedule.len(), schedule.next_deadline()), (0, None));
        assert_eq!(schedule.owners().count(), 0);
    }

    #[test]
    fn a_timer_set_while_others_fire_waits_for_the_next_turn() {
        let mut schedule = Schedule::new(0, 10);
        schedule.set(connection(1), 5, 1).expect("room");
        schedule.set(connection(1), 5, 2).expect("room");
        let latest = schedule.latest();
        let mut fired = Vec::new();
        while let Some((owner, key)) = schedule.expired(7, latest) {
            fired.push(key);
            schedule.set(owner, 7, key + 10).expect("room");
        }
        assert_eq!(fired, [1, 2]);
        assert_eq!(drain(&mut schedule, 7), [11, 12]);
    }

    #[test]
    fn the_limit_is_per_connection_and_comes_back() {
        let mut schedule = Schedule::new(0, 2);
        let first = schedule.set(connection(1), 1, 0).expect("room");
        schedule.set(connection(1), 1, 0).expect("room");
        assert_eq!(schedule.set(connection(1), 1, 0), Err(TimerError::TooMany));
        schedule.set(connection(2), 1, 0).expect("its own limit");
        assert!(schedule.cancel(connection(1), first));
        schedule.set(connection(1), 1, 0).expect("room again");
    }

    #[test]
    fn an_id_cancels_its_own_timer_only() {
        let mut schedule = Schedule::new(0, 2);
        let id = schedule.set(connection(1), 1, 0).expect("room");
        assert!(!schedule.cancel(connection(2), id));
        assert!(!schedule.cancel(connection(1), TimerId { worker: 1, ..id }));
        assert!(schedule.cancel(connection(1), id));
        assert!(!schedule.cancel(connection(1), id));
        let next = schedule.set(connection(1), 1, 0).expect("room");
        assert_eq!(next.entry, id.entry);
        assert!(!schedule.cancel(connection(1), id), "the entry has another tenant");
        assert_eq!(schedule.len(), 1);
    }

    #[test]
    fn nothing_fires_for_an_owner_that_has_gone() {
        let mut schedule = Schedule::new(0, 10);
        for key in 0..5 {
            schedule.set(connection(1), key, key).expect("room");
            schedule.set(Owner::Handler(1), key, 10 + key).expect("room");
        }
        schedule.cancel_all(connection(1));
        schedule.cancel_all(connection(1));
        assert_eq!(drain(&mut schedule, 100), [10, 11, 12, 13, 14]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// The same as a sorted list, whatever is set and cancelled in between.
        #[test]
        fn behaves_like_a_sorted_list(steps in prop::collection::vec((0_u8..4, 0_u64..50, 0_u32..4), 0..200)) {
            let mut schedule = Schedule::new(0, 1000);
            let mut model: Vec<(u64, u64, Owner, TimerId)> = Vec::new();
            let mut now_ms = 0;
            for (nth, (what, figure, slot)) in steps.into_iter().enumerate() {
                let (owner, key) = (connection(slot), nth as u64);
                match what {
                    0 | 1 => {
                        let id = schedule.set(owner, now_ms + figure, key).expect("room");
                        model.push((now_ms + figure, key, owner, id));
                    }
                    2 if model.is_empty() => {}
                    2 => {
                        let (_, _, owner, id) = model.remove(figure as usize % model.len());
                        prop_assert!(schedule.cancel(owner, id));
                    }
                    _ if figure < 5 => {
                        schedule.cancel_all(owner);
                        model.retain(|timer| timer.2 != owner);
                    }
                    _ => {
                        now_ms += figure;
                        model.sort_by_key(|timer| (timer.0, timer.1));
                        let due = model.iter().filter(|timer| timer.0 <= now_ms);
                        let due: Vec<u64> = due.map(|timer| timer.1).collect();
                        prop_assert_eq!(drain(&mut schedule, now_ms), due);
                        model.retain(|timer| timer.0 > now_ms);
                    }
                }
                prop_assert_eq!(schedule.len(), model.len());
                prop_assert_eq!(schedule.next_deadline(), model.iter().map(|timer| timer.0).min());
            }
        }
    }
}
