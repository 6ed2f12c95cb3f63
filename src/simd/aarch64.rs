//! The loop of `scalar` compiled for NEON, which belongs to every 64-bit ARM Linux target: there
//! is nothing to detect, and no unsafe.

use super::scalar::unmask_words;

/// 16 bytes per step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Neon;

impl Neon {
    /// Unmasks with `key` as a little-endian word.
    #[inline]
    pub(super) fn unmask(self, payload: &mut [u8], key: u32) {
        const { assert!(cfg!(target_feature = "neon")) };
        unmask_words(payload, key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::tests::equals_reference;

    #[test]
    fn neon_equals_reference() {
        equals_reference(|payload, key| Neon.unmask(payload, key));
    }
}
