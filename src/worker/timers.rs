//! Deadlines of connections: a hierarchical timing wheel of milliseconds.
//!
//! Slot numbers and deadlines come in; slots whose deadline has passed go out, each once and never
//! early. The time is an argument, milliseconds of a clock that never goes back: this file reads
//! no clock, and cannot tell a stall of a minute from a sleep of a minute.
//!
//! ```text
//!  level 0   64 buckets of 1 ms        the 64 ms that `elapsed` is in
//!  level 1   64 buckets of 64 ms       the 4096 ms that `elapsed` is in
//!    ...
//!  level 10  16 buckets of 2^60 ms     all there is: every u64 has a bucket
//! ```
//!
//! A deadline is filed under the highest base-64 digit in which it differs from `elapsed`. It is
//! later than `elapsed`, so that digit is larger, hence three things: buckets never wrap around;
//! the earliest deadline is in the first occupied bucket of the lowest occupied level; and time
//! that passes without reaching a bucket moves nothing. When time reaches a bucket of a higher
//! level, what it holds is filed again, lower: at most ten times in the life of a deadline.
//!
//! Cost: 24 bytes for each slot up to the highest one in use, and 3 KiB. Setting and clearing
//! are constant time; nothing allocates once the highest slot has been seen.

use crate::connection::NEVER;

/// Base-64 digits of a `u64`.
const LEVELS: usize = 11;
/// Bits of one digit.
const DIGIT: u32 = 6;
/// Buckets of one level.
const BUCKETS: usize = 1 << DIGIT;
/// The two lists of deadlines that have passed, filed behind the buckets.
const PASSED: [u16; 2] = [(LEVELS * BUCKETS) as u16, (LEVELS * BUCKETS) as u16 + 1];
const LISTS: usize = LEVELS * BUCKETS + 2;

/// End of a list, or no neighbour.
const NONE: u32 = u32::MAX;
/// The list of a slot without deadline.
const UNFILED: u16 = u16::MAX;

/// One place per slot, filed in at most one list.
#[derive(Clone, Copy)]
struct Node {
    deadline_ms: u64,
    next: u32,
    previous: u32,
    list: u16,
}

const _: () = assert!(size_of::<Node>() <= 24);

impl Node {
    const UNFILED: Self = Self { deadline_ms: 0, next: NONE, previous: NONE, list: UNFILED };
}

/// One deadline for each slot of the connection table.
///
/// A turn of the worker: call [`expired`](Self::expired) until it answers `None`, then sleep until
/// [`next_deadline_ms`](Self::next_deadline_ms) at the latest. In between, [`set`](Self::set) and
/// [`clear`](Self::clear) at will, for the slot just returned, too.
pub(crate) struct Wheel {
    /// Deadlines up to here have left the buckets; those in the buckets are later.
    elapsed_ms: u64,
    /// The latest time seen; `elapsed_ms <= now_ms`, equal unless `expired` is being drained.
    now_ms: u64,
    nodes: Vec<Node>,
    /// First node of each list.
    heads: [u32; LISTS],
    /// Per level, one bit for each bucket that holds something.
    occupied: [u64; LEVELS],
    /// One bit for each level that holds something.
    levels: u16,
    /// `expired` has answered a slot, but not yet `None`.
    draining: bool,
    /// Which list of [`PASSED`] is being drained; the other is for the next time.
    drained: usize,
    len: usize,
    /// What [`Wheel::next_deadline_ms`] answers: it is asked in every turn, and changes rarely.
    next_ms: u64,
}

impl Wheel {
    /// An empty wheel. `now_ms` may be any moment not later than the first one given to `expired`.
    pub(crate) fn new(now_ms: u64) -> Self {
        Self {
            elapsed_ms: now_ms,
            now_ms,
            nodes: Vec::new(),
            heads: [NONE; LISTS],
            occupied: [0; LEVELS],
            levels: 0,
            draining: false,
            drained: 0,
            len: 0,
            next_ms: NEVER,
        }
    }

    /// Makes room for slots below `slots` without moving anything later.
    pub(crate) fn reserve(&mut self, slots: usize) {
        self.nodes.reserve(slots);
    }

    /// Number of slots with a deadline, those that have passed and were not returned yet included.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The deadline of `slot`, if it has one that was not returned yet.
    pub(crate) fn deadline(&self, slot: u32) -> Option<u64> {
        let node = self.nodes.get(slot as usize)?;
        (node.list != UNFILED).then_some(node.deadline_ms)
    }

    /// Gives `slot` a deadline in place of the one it may have. One that has passed already fires
    /// with the next drain of [`expired`](Self::expired), not with the one under way: a handler
    /// that asks to be called at once, each time it is called, does not stop the worker.
    pub(crate) fn set(&mut self, slot: u32, deadline_ms: u64) {
        debug_assert_ne!(slot, NONE, "the largest u32 marks the end of a list");
        let index = slot as usize;
        if index >= self.nodes.len() {
            self.nodes.resize(index + 1, Node::UNFILED);
        }
        let list = if deadline_ms <= self.now_ms {
            PASSED[1 - self.drained]
        } else {
            self.bucket_of(deadline_ms)
        };
        self.nodes[index].deadline_ms = deadline_ms;
        // An idle deadline that is pushed back a little mostly stays in its bucket.
        if self.nodes[index].list != list {
            self.unlink(slot);
            self.link(slot, list);
            self.look_ahead();
        }
    }

    /// Takes the deadline of `slot` away, if it has one. It will not fire.
    pub(crate) fn clear(&mut self, slot: u32) {
        if (slot as usize) < self.nodes.len() {
            self.unlink(slot);
            self.look_ahead();
        }
    }

    /// The next slot whose deadline is `now_ms` or earlier; its deadline is gone then. Earlier
    /// deadlines come first, those of the same millisecond in no particular order. `None` ends the
    /// drain.
    pub(crate) fn expired(&mut self, now_ms: u64) -> Option<u32> {
        self.now_ms = self.now_ms.max(now_ms);
        if !self.draining {
            self.draining = true;
            self.drained = 1 - self.drained;
        }
        loop {
            let slot = self.heads[usize::from(PASSED[self.drained])];
            if slot != NONE {
                self.unlink(slot);
                self.look_ahead();
                return Some(slot);
            }
            match self.first_bucket() {
                Some((bucket, start_ms)) if start_ms <= self.now_ms => {
                    self.elapsed_ms = start_ms;
                    self.file_again(bucket);
                }
                _ => break,
            }
        }
        self.elapsed_ms = self.now_ms;
        self.draining = false;
        self.look_ahead();
        None
    }

    /// When `expired` has to be called next: the earliest deadline if it lies in the 64 ms that the
    /// wheel is in, else a moment before it, at which the wheel looks closer (at most ten times
    /// for one deadline). Never later than the earliest deadline; later than the last `now_ms`
    /// unless a deadline has passed. [`NEVER`] if there is none.
    #[inline]
    pub(crate) fn next_deadline_ms(&self) -> u64 {
        self.next_ms
    }

    /// The same, with `None` for [`NEVER`].
    #[cfg(test)]
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        (self.next_ms != NEVER).then_some(self.next_ms)
    }

    /// Finds the next deadline after something has changed.
    fn look_ahead(&mut self) {
        let passed = PASSED.iter().any(|&list| self.heads[usize::from(list)] != NONE);
        self.next_ms = match self.first_bucket() {
            _ if passed => self.elapsed_ms,
            Some((_, start_ms)) => start_ms,
            None => NEVER,
        };
    }

    /// The bucket for a deadline later than `elapsed_ms`.
    fn bucket_of(&self, deadline_ms: u64) -> u16 {
        debug_assert!(deadline_ms > self.elapsed_ms);
        let level = (deadline_ms ^ self.elapsed_ms).ilog2() / DIGIT;
        let digit = (deadline_ms >> (level * DIGIT)) as usize % BUCKETS;
        (level as usize * BUCKETS + digit) as u16
    }

    /// The occupied bucket that time reaches first, and when.
    fn first_bucket(&self) -> Option<(u16, u64)> {
        if self.levels == 0 {
            return None;
        }
        let level = self.levels.trailing_zeros();
        let digit = self.occupied[level as usize].trailing_zeros();
        // The bucket shares all digits above its own with `elapsed_ms`. There are none above the
        // highest level, and no u64 can be shifted by 66.
        let shift = level * DIGIT;
        let above = self.elapsed_ms.checked_shr(shift + DIGIT).unwrap_or(0);
        let start_ms = ((above << DIGIT) | u64::from(digit)) << shift;
        Some(((level as usize * BUCKETS + digit as usize) as u16, start_ms))
    }

    /// Moves what a bucket holds to lower levels, or to the list being drained. `elapsed_ms` is
    /// the first moment of the bucket.
    fn file_again(&mut self, bucket: u16) {
        let mut slot = self.heads[usize::from(bucket)];
        while slot != NONE {
            let Node { deadline_ms, next, .. } = self.nodes[slot as usize];
            self.unlink(slot);
            let list = if deadline_ms <= self.elapsed_ms {
                PASSED[self.drained]
            } else {
                self.bucket_of(deadline_ms)
            };
            self.link(slot, list);
            slot = next;
        }
    }

    /// Puts an unfiled slot at the front of `list`.
    fn link(&mut self, slot: u32, list: u16) {
        let head = &mut self.heads[usize::from(list)];
        let next = std::mem::replace(head, slot);
        if next != NONE {
            self.nodes[next as usize].previous = slot;
        }
        let node = &mut self.nodes[slot as usize];
        (node.list, node.next, node.previous) = (list, next, NONE);
        self.len += 1;
        let (level, digit) = (usize::from(list) / BUCKETS, usize::from(list) % BUCKETS);
        if let Some(occupied) = self.occupied.get_mut(level) {
            *occupied |= 1 << digit;
            self.levels |= 1 << level;
        }
    }

    /// Takes a slot out of its list, if it is in one.
    fn unlink(&mut self, slot: u32) {
        let node = &mut self.nodes[slot as usize];
        let Node { list, next, previous, .. } = *node;
        if list == UNFILED {
            return;
        }
        node.list = UNFILED;
        self.len -= 1;
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
        if previous != NONE {
            self.nodes[previous as usize].next = next;
            return;
        }
        self.heads[usize::from(list)] = next;
        let (level, digit) = (usize::from(list) / BUCKETS, usize::from(list) % BUCKETS);
        if next == NONE
            && let Some(occupied) = self.occupied.get_mut(level)
        {
            *occupied &= !(1 << digit);
            if *occupied == 0 {
                self.levels &= !(1 << level);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const DAY_MS: u64 = 24 * 60 * 60 * 1000;

    fn drain(wheel: &mut Wheel, now_ms: u64) -> Vec<u32> {
        std::iter::from_fn(|| wheel.expired(now_ms)).collect()
    }

    #[test]
    fn empty_wheel_has_nothing() {
        let mut wheel = Wheel::new(5);
        assert_eq!((wheel.len(), wheel.next_deadline(), wheel.deadline(0)), (0, None, None));
        wheel.clear(7);
        assert_eq!(wheel.expired(u64::MAX), None);
    }

    #[test]
    fn fires_at_its_millisecond_and_once() {
        let mut wheel = Wheel::new(1000);
        wheel.set(3, 1010);
        assert_eq!(wheel.next_deadline(), Some(1010));
        assert_eq!(wheel.expired(1009), None);
        assert_eq!(wheel.deadline(3), Some(1010));
        assert_eq!(wheel.expired(1010), Some(3));
        assert_eq!((wheel.deadline(3), wheel.len()), (None, 0));
        assert_eq!(wheel.expired(1010), None);
        assert_eq!(wheel.expired(9999), None);
    }

    /// Sleeps exactly until the wheel says: every distance fires to the millisecond, after few
    /// looks in between.
    #[test]
    fn every_distance_fires_exactly_after_few_wakes() {
        let starts = [0, 1, 63, 64, 4095, (1 << 32) - 5, (1 << 32) - 1, u64::MAX / 3];
        let distances = (0..63).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        for (start, distance) in distances.flat_map(|d| starts.map(|start| (start, d))) {
            let mut wheel = Wheel::new(start);
            wheel.set(0, start + distance);
            let mut wakes = 0;
            loop {
                let now = wheel.next_deadline().expect("the deadline is still there");
                assert!(now <= start + distance);
                wakes += 1;
                if wheel.expired(now).is_some() {
                    assert_eq!(now, start + distance);
                    break;
                }
            }
            assert!(wakes <= LEVELS, "{wakes} wakes from {start} for {distance} ms");
            assert_eq!(wheel.next_deadline(), None);
        }
    }

    #[test]
    fn works_at_the_end_of_time() {
        let mut wheel = Wheel::new(0);
        wheel.set(0, u64::MAX);
        wheel.set(1, u64::MAX - 1);
        assert_eq!(wheel.expired(u64::MAX - 2), None);
        assert_eq!(wheel.next_deadline(), Some(u64::MAX - 1));
        assert_eq!(drain(&mut wheel, u64::MAX), [1, 0]);
        wheel.set(2, u64::MAX);
        assert_eq!(drain(&mut wheel, u64::MAX), [2]);
    }

    #[test]
    fn long_stall_fires_each_once_in_order() {
        let mut wheel = Wheel::new(77);
        let deadlines: Vec<u64> = (0..200).map(|i| 78 + i * i * i * 1000).collect();
        for (slot, &deadline) in deadlines.iter().enumerate().rev() {
            wheel.set(slot as u32, deadline);
        }
        assert_eq!(wheel.len(), 200);
        assert_eq!(drain(&mut wheel, 400 * DAY_MS), (0..200).collect::<Vec<u32>>());
        assert_eq!((wheel.len(), wheel.next_deadline()), (0, None));
    }

    #[test]
    fn crosses_32_bits() {
        let border = 1 << 32;
        let mut wheel = Wheel::new(border - 100);
        wheel.set(0, border - 1);
        wheel.set(1, border);
        wheel.set(2, border + 1);
        wheel.set(3, border + 30 * DAY_MS);
        assert_eq!(drain(&mut wheel, border - 1), [0]);
        assert_eq!(drain(&mut wheel, border), [1]);
        assert_eq!(drain(&mut wheel, border + 1), [2]);
        assert!(drain(&mut wheel, border + 30 * DAY_MS - 1).is_empty());
        assert_eq!(drain(&mut wheel, border + 30 * DAY_MS), [3]);
    }

    #[test]
    fn set_moves_and_clear_removes() {
        let mut wheel = Wheel::new(0);
        for slot in 0..10 {
            wheel.set(slot, 50);
        }
        wheel.set(4, 20);
        wheel.set(5, 30 * DAY_MS);
        wheel.clear(0);
        wheel.clear(9);
        wheel.clear(9);
        assert_eq!(wheel.len(), 8);
        assert_eq!(drain(&mut wheel, 20), [4]);
        let mut fired = drain(&mut wheel, 50);
        fired.sort_unstable();
        assert_eq!(fired, [1, 2, 3, 6, 7, 8]);
        wheel.set(5, 60);
        assert_eq!(drain(&mut wheel, 60), [5]);
        assert!(drain(&mut wheel, 60 * DAY_MS).is_empty());
    }

    #[test]
    fn passed_deadline_fires_at_the_next_poll() {
        let mut wheel = Wheel::new(1000);
        wheel.set(0, 0);
        wheel.set(1, 1000);
        assert!(wheel.next_deadline().is_some_and(|at| at <= 1000));
        let mut fired = drain(&mut wheel, 1000);
        fired.sort_unstable();
        assert_eq!(fired, [0, 1]);
    }

    #[test]
    fn asking_to_fire_at_once_does_not_loop() {
        let mut wheel = Wheel::new(0);
        wheel.set(0, 10);
        wheel.set(1, 20);
        for turn in 0..3 {
            let mut fired = 0;
            while let Some(slot) = wheel.expired(100) {
                // Both are in the past: `expired` has been told that it is 100.
                wheel.set(slot, if slot == 0 { 100 } else { 30 });
                fired += 1;
            }
            assert_eq!(fired, 2, "turn {turn}");
        }
        wheel.clear(0);
        assert_eq!(drain(&mut wheel, 100), [1]);
    }

    #[test]
    fn time_that_goes_back_changes_nothing() {
        let mut wheel = Wheel::new(1000);
        assert_eq!(wheel.expired(2000), None);
        wheel.set(0, 2100);
        assert_eq!(wheel.expired(500), None);
        assert_eq!(wheel.expired(2099), None);
        assert_eq!(wheel.expired(2100), Some(0));
    }

    #[test]
    fn memory_follows_the_highest_slot_only() {
        let mut wheel = Wheel::new(0);
        wheel.set(999, 5);
        let capacity = wheel.nodes.capacity();
        for round in 0..100 {
            for slot in 0..1000 {
                wheel.set(slot, round * 100 + u64::from(slot));
            }
            drain(&mut wheel, round * 100 + 50);
        }
        assert_eq!(wheel.nodes.capacity(), capacity);
        assert_eq!(size_of::<Node>(), 24);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set(u32, i64),
        Clear(u32),
        /// Passes time, and gives every slot that fires this deadline again if there is one.
        Pass(u64, Option<i64>),
    }

    fn distance() -> impl Strategy<Value = i64> {
        prop_oneof![-50..200_i64, 0..10_000_i64, 0..40 * DAY_MS as i64, Just(64), Just(4096)]
    }

    fn step() -> impl Strategy<Value = Step> {
        let time = prop_oneof![
            4 => 0..100_u64,
            2 => 0..20_000_u64,
            1 => 0..50 * DAY_MS,
            1 => Just(64_u64)
        ];
        prop_oneof![
            4 => (0..20_u32, distance()).prop_map(|(slot, distance)| Step::Set(slot, distance)),
            1 => (0..22_u32).prop_map(Step::Clear),
            3 => (time, proptest::option::weighted(0.3, distance()))
                .prop_map(|(time, again)| Step::Pass(time, again)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 4 } else { 1000 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn behaves_like_a_sorted_map(
            start in prop_oneof![0..10_000_u64, (1 << 32) - 10_000..(1_u64 << 32), any::<u32>().prop_map(u64::from)],
            steps in prop::collection::vec(step(), 1..80),
        ) {
            let mut now = start;
            let mut wheel = Wheel::new(now);
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Set(slot, distance) => {
                        wheel.set(slot, now.saturating_add_signed(distance));
                        model.insert(slot, now.saturating_add_signed(distance));
                    }
                    Step::Clear(slot) => {
                        wheel.clear(slot);
                        model.remove(&slot);
                    }
                    Step::Pass(time, again) => {
                        let before = now;
                        now += time;
                        let mut due: Vec<(u64, u32)> = model
                            .iter()
                            .filter(|&(_, &deadline)| deadline <= now)
                            .map(|(&slot, &deadline)| (deadline, slot))
                            .collect();
                        let mut fired = Vec::new();
                        while let Some(slot) = wheel.expired(now) {
                            prop_assert_eq!(wheel.deadline(slot), None);
                            fired.push((model.remove(&slot).unwrap_or(u64::MAX), slot));
                            if let Some(distance) = again {
                                let deadline = now.saturating_add_signed(distance);
                                wheel.set(slot, deadline);
                                model.insert(slot, deadline);
                            }
                        }
                        let late = fired.iter().filter(|(deadline, _)| *deadline > before);
                        prop_assert!(late.map(|(deadline, _)| deadline).is_sorted());
                        due.sort_unstable();
                        fired.sort_unstable();
                        prop_assert_eq!(fired, due);
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
                for slot in 0..22 {
                    prop_assert_eq!(wheel.deadline(slot), model.get(&slot).copied());
                }
                // Never later than the earliest, and never a busy loop before it.
                let earliest = model.values().min().copied();
                prop_assert_eq!(wheel.next_deadline().is_some(), earliest.is_some());
                if let (Some(next), Some(earliest)) = (wheel.next_deadline(), earliest) {
                    prop_assert!(next <= earliest.max(now));
                    prop_assert_eq!(next <= now, earliest <= now);
                }
            }
        }
    }
}
