//! Random decisions that a seed replays.
//!
//! In: a seed. Out: the same decisions each time. Never: entropy from anywhere else.

/// SplitMix64: small, fast, good enough to choose faults, and every seed gives a full period.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// `0..=max`, each as likely.
    pub(crate) fn up_to(&mut self, max: u64) -> u64 {
        // The bias of the remainder is far below what a fault probability could show.
        if max == u64::MAX { self.next() } else { self.next() % (max + 1) }
    }

    /// An index below `len`, which is not zero.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.up_to(len as u64 - 1) as usize
    }

    /// True `per_mille` times in a thousand. Draws nothing at 0, so that a switched-off fault
    /// does not disturb the others.
    pub(crate) fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.up_to(999) < u64::from(per_mille)
    }

    /// `1..=max`, small values as likely as large ones by order of magnitude: cuts of 1, 2 and 3
    /// bytes are where parsers break. `max` is not zero.
    pub(crate) fn length(&mut self, max: usize) -> usize {
        let magnitude = self.up_to(u64::from(usize::BITS - max.leading_zeros()));
        let bound = (max as u64).min(1_u64 << magnitude);
        1 + self.up_to(bound - 1) as usize
    }
}
