//! Runs a test over many seeds and says how to replay the one that failed.
//!
//! In: the name of a test and a closure. Out: the panic of the first seed that failed, after a
//! line with the command that replays it. Never: seeds that differ from run to run.

use super::Random;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs `test` for `count` seeds, which depend on `name` only.
///
/// `WIRELANE_SEEDS=n` runs n seeds instead (each count begins with the seeds of a smaller one);
/// `WIRELANE_SEED=s` runs that one alone and prints every event and verb.
pub(crate) fn for_each_seed(name: &str, count: u64, mut test: impl FnMut(u64)) {
    if let Some(seed) = number("WIRELANE_SEED") {
        return test(seed);
    }
    let mut seeds = Random::new(fnv(FNV_OFFSET, name.as_bytes()));
    for nth in 0..number("WIRELANE_SEEDS").unwrap_or(count) {
        // 32 bits are enough to differ and short enough to type.
        let seed = seeds.next() >> 32;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
            eprintln!("seed {seed} (number {nth}) failed in {name}; replay it with");
            eprintln!("    WIRELANE_SEED={seed} cargo test --lib {name} -- --nocapture");
            resume_unwind(panic);
        }
    }
}

/// The number in an environment variable; a value that is not one must not pass silently.
pub(super) fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is not a number")))
}

/// Start value of [`fnv`].
pub(super) const FNV_OFFSET: u64 = 0xCBF2_9CE4_8422_2325;

/// FNV-1a over more bytes: fingerprints of traces and names.
pub(super) fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_runs_and_the_panic_comes_through() {
        if number("WIRELANE_SEED").is_some() || number("WIRELANE_SEEDS").is_some() {
            return;
        }
        let mut first = Vec::new();
        for_each_seed("name", 5, |seed| first.push(seed));
        let mut second = Vec::new();
        for_each_seed("name", 7, |seed| second.push(seed));
        assert_eq!(first, second[..5], "a longer run begins with the shorter one");

        let bad = first[3];
        let mut ran = 0;
        let failure = catch_unwind(AssertUnwindSafe(|| {
            for_each_seed("name", 5, |seed| {
                ran += 1;
                assert_ne!(seed, bad, "the bad seed");
            });
        }));
        let message = *failure.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("the bad seed"), "{message}");
        assert_eq!(ran, 4, "stops at the first failure");
    }
}
