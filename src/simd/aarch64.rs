//! The loops of `scalar` compiled for NEON, which belongs to every 64-bit ARM Linux target: there
//! is nothing to detect, and no unsafe.

use super::{Seen, scalar};

const _: () = assert!(cfg!(target_feature = "neon"));

/// 16 bytes per step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Neon;

impl Neon {
    /// Unmasks with `key` as a little-endian word.
    #[inline]
    pub(super) fn unmask(self, payload: &mut [u8], key: u32) {
        scalar::unmask_words(payload, key);
    }

    /// As `unmask`, and says what the bytes were.
    #[inline]
    pub(super) fn unmask_and_look(self, payload: &mut [u8], key: u32) -> Seen {
        scalar::unmask_words_and_look(payload, key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::tests::{equals_reference, look_equals_reference};

    #[test]
    fn neon_equals_reference() {
        equals_reference(|payload, key| Neon.unmask(payload, key));
        look_equals_reference(|payload, key| Neon.unmask_and_look(payload, key));
    }
}
