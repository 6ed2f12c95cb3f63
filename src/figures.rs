//! Tables of figures: close codes, reasons of refusals, durations of turns.
//!
//! What comes in: single events, counted by the one worker that they happen on. What goes out:
//! copies of the tables, for any thread. Each worker writes to its own, so nobody waits and no
//! counter is contended for; a reader adds them up.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::protocol::upgrade::Refusal;
use crate::tls::TlsFailure;

/// The codes 1000 to 1015 (RFC 6455 7.4.1) singly, then 3000 to 3999 and 4000 to 4999.
const CODES: usize = 18;

/// The last one holds whatever took longer than 2^22 microseconds, about four seconds.
const BUCKETS: usize = 24;

const REFUSALS: usize = Refusal::ALL.len();

const TLS_FAILURES: usize = TlsFailure::ALL.len();

/// How often each close code came or went; part of [`Stats`](crate::Stats).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct CloseCodes([u64; CODES]);

impl CloseCodes {
    /// Closes with this code. For 3000 to 3999 and for 4000 to 4999 the whole range is counted as
    /// one; 1005 stands for a Close without a code.
    pub fn count(&self, code: u16) -> u64 {
        place_of(code).map_or(0, |place| self.0[place])
    }

    /// Every code that was seen, with its count; ranges by their first code.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        let codes = (1000..=1015).chain([3000, 4000]);
        codes.zip(self.0).filter(|(_, count)| *count != 0)
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl fmt::Debug for CloseCodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

fn place_of(code: u16) -> Option<usize> {
    match code {
        1000..=1015 => Some(usize::from(code - 1000)),
        3000..=3999 => Some(16),
        4000..=4999 => Some(17),
        _ => None,
    }
}

/// How often each [`Refusal`] was the answer to a request; part of [`Stats`](crate::Stats).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Refusals([u64; REFUSALS]);

impl Refusals {
    /// Requests refused for this reason.
    pub fn count(&self, refusal: Refusal) -> u64 {
        self.0.get(refusal as usize).copied().unwrap_or(0)
    }

    /// Every reason that came up, with its count. [`Refusal::reason`] names it for metrics.
    pub fn iter(&self) -> impl Iterator<Item = (Refusal, u64)> + '_ {
        Refusal::ALL.into_iter().zip(self.0).filter(|(_, count)| *count != 0)
    }
}

impl Default for Refusals {
    fn default() -> Self {
        Self([0; REFUSALS])
    }
}

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(why, count)| (why.reason(), count))).finish()
    }
}

/// How often TLS connections failed for each [`TlsFailure`]; part of [`Stats`](crate::Stats).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct TlsFailures([u64; TLS_FAILURES]);

impl TlsFailures {
    /// Connections that failed for this reason.
    pub fn count(&self, failure: TlsFailure) -> u64 {
        self.0.get(failure as usize).copied().unwrap_or(0)
    }

    /// Every reason that came up, with its count. [`TlsFailure::reason`] names it for metrics.
    pub fn iter(&self) -> impl Iterator<Item = (TlsFailure, u64)> + '_ {
        TlsFailure::ALL.into_iter().zip(self.0).filter(|(_, count)| *count != 0)
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl fmt::Debug for TlsFailures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(why, count)| (why.reason(), count))).finish()
    }
}

/// How long turns took, from the end of the wait to the next one: the time for which a connection
/// may have to wait for the others of its worker. Part of [`Stats`](crate::Stats).
///
/// Buckets double: below 1 microsecond, below 2, below 4, and so on, the last one without bound.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct TurnTimes([u64; BUCKETS]);

impl TurnTimes {
    /// Every bucket that is not empty: the bound that its turns stayed below, and their number.
    /// `None` is the last bucket, of turns of four seconds and more.
    pub fn iter(&self) -> impl Iterator<Item = (Option<Duration>, u64)> + '_ {
        self.0.iter().enumerate().filter(|(_, count)| **count != 0).map(|(bucket, count)| {
            let bound = (bucket + 1 < BUCKETS).then(|| Duration::from_micros(1 << bucket));
            (bound, *count)
        })
    }

    /// Turns so far.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The bound of the bucket in which this part of all turns is reached: `quantile(0.99)` is a
    /// time that 99 % of the turns stayed below, to a factor of two. `None` without any turn and
    /// in the last bucket.
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let wanted = (self.total() as f64 * part).ceil() as u64;
        let mut sum = 0;
        let reached = self.iter().find(|(_, count)| {
            sum += count;
            sum >= wanted
        });
        reached.and_then(|(bound, _)| bound)
    }
}

impl fmt::Debug for TurnTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The tables of one worker. Only that worker writes, so no operation has to be atomic as a whole.
#[derive(Debug)]
pub(crate) struct Tables {
    closes_received: [AtomicU64; CODES],
    closes_sent: [AtomicU64; CODES],
    refusals: [AtomicU64; REFUSALS],
    tls_failures: [AtomicU64; TLS_FAILURES],
    turns: [AtomicU64; BUCKETS],
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            closes_received: [const { AtomicU64::new(0) }; CODES],
            closes_sent: [const { AtomicU64::new(0) }; CODES],
            refusals: [const { AtomicU64::new(0) }; REFUSALS],
            tls_failures: [const { AtomicU64::new(0) }; TLS_FAILURES],
            turns: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }
}

impl Tables {
    pub(crate) fn note_close_received(&self, code: u16) {
        note(&self.closes_received, place_of(code));
    }

    pub(crate) fn note_close_sent(&self, code: u16) {
        note(&self.closes_sent, place_of(code));
    }

    pub(crate) fn note_refusal(&self, refusal: Refusal) {
        note(&self.refusals, Some(refusal as usize));
    }

    pub(crate) fn note_tls_failure(&self, failure: TlsFailure) {
        note(&self.tls_failures, Some(failure as usize));
    }

    /// How often that was the reason.
    pub(crate) fn refused(&self, refusal: Refusal) -> u64 {
        self.refusals.get(refusal as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    #[inline]
    pub(crate) fn note_turn(&self, micros: u64) {
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        note(&self.turns, Some(bucket.min(BUCKETS - 1)));
    }

    /// Adds these figures to those of other workers.
    pub(crate) fn add_to(
        &self,
        closes_received: &mut CloseCodes,
        closes_sent: &mut CloseCodes,
        refusals: &mut Refusals,
        tls_failures: &mut TlsFailures,
        turns: &mut TurnTimes,
    ) {
        add(&mut closes_received.0, &self.closes_received);
        add(&mut closes_sent.0, &self.closes_sent);
        add(&mut refusals.0, &self.refusals);
        add(&mut tls_failures.0, &self.tls_failures);
        add(&mut turns.0, &self.turns);
    }
}

fn note(table: &[AtomicU64], place: Option<usize>) {
    if let Some(counter) = place.and_then(|place| table.get(place)) {
        increase(counter, 1);
    }
}

/// Adds to a counter that only the present thread writes.
#[inline]
pub(crate) fn increase(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

fn add<const N: usize>(sums: &mut [u64; N], counters: &[AtomicU64; N]) {
    for (sum, counter) in sums.iter_mut().zip(counters) {
        *sum += counter.load(Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tables: &Tables) -> (CloseCodes, CloseCodes, Refusals, TurnTimes) {
        let mut sums = <(CloseCodes, CloseCodes, Refusals, TurnTimes)>::default();
        let mut tls_failures = TlsFailures::default();
        tables.add_to(&mut sums.0, &mut sums.1, &mut sums.2, &mut tls_failures, &mut sums.3);
        sums
    }

    #[test]
    fn every_refusal_has_its_place() {
        for (place, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, place, "{refusal:?}");
        }
        let tables = Tables::default();
        tables.note_refusal(Refusal::NotFound);
        tables.note_refusal(Refusal::HttpVersion);
        let refusals = read(&tables).2;
        assert_eq!(refusals.count(Refusal::NotFound), 1);
        assert_eq!(refusals.iter().count(), 2);
        assert_eq!(format!("{refusals:?}"), r#"{"not_found": 1, "http_version": 1}"#);
    }

    #[test]
    fn every_tls_failure_has_its_place_and_its_name() {
        for (place, failure) in TlsFailure::ALL.into_iter().enumerate() {
            assert_eq!(failure as usize, place, "{failure:?}");
        }
        let tables = Tables::default();
        tables.note_tls_failure(TlsFailure::Internal);
        tables.note_tls_failure(TlsFailure::NotTls);
        let (mut sums, mut failures) =
            (<(CloseCodes, CloseCodes, Refusals, TurnTimes)>::default(), TlsFailures::default());
        tables.add_to(&mut sums.0, &mut sums.1, &mut sums.2, &mut failures, &mut sums.3);
        assert_eq!((failures.count(TlsFailure::NotTls), failures.total()), (1, 2));
        assert_eq!(format!("{failures:?}"), r#"{"not_tls": 1, "internal": 1}"#);
    }

    #[test]
    fn close_codes_are_counted_singly_or_by_range() {
        let tables = Tables::default();
        for code in [1000, 1000, 1005, 3000, 3999, 4711, 0, 1016, 2999, 5000] {
            tables.note_close_received(code);
        }
        tables.note_close_sent(1015);
        let (received, sent, ..) = read(&tables);
        let seen: Vec<_> = received.iter().collect();
        assert_eq!(seen, [(1000, 2), (1005, 1), (3000, 2), (4000, 1)]);
        assert_eq!((received.count(3500), received.total(), received.count(2000)), (2, 6, 0));
        assert_eq!((sent.count(1015), sent.total()), (1, 1));
    }

    #[test]
    fn turns_are_sorted_by_powers_of_two() {
        let tables = Tables::default();
        for micros in [0, 1, 2, 3, 4, 1023, 1024, u64::MAX] {
            tables.note_turn(micros);
        }
        let turns = read(&tables).3;
        let bounds: Vec<_> =
            turns.iter().map(|(bound, count)| (bound.map(|b| b.as_micros()), count)).collect();
        assert_eq!(
            bounds,
            [
                (Some(1), 1),
                (Some(2), 1),
                (Some(4), 2),
                (Some(8), 1),
                (Some(1024), 1),
                (Some(2048), 1),
                (None, 1)
            ]
        );
        assert_eq!(turns.total(), 8);
        assert_eq!(turns.quantile(0.5), Some(Duration::from_micros(4)));
        assert_eq!(turns.quantile(1.0), None);
        assert_eq!(TurnTimes::default().quantile(0.5), None);
    }
}
