//! The loops of `scalar` compiled for each vector width of x86-64. A value of [`Avx512`] or
//! [`Avx2`] proves that this CPU has it; SSE2 belongs to every x86-64.

use super::{Seen, scalar};

/// One way to unmask that this CPU is known to have.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kernel {
    /// 64 bytes per step.
    Avx512(Avx512),
    /// 32 bytes per step.
    Avx2(Avx2),
    /// 16 bytes per step.
    Sse2,
}

impl Kernel {
    /// The widest that this CPU has. The standard library remembers what the CPU said: this costs
    /// a relaxed load and a bit test, as little as an own cache would.
    #[inline]
    pub(super) fn best() -> Self {
        if let Some(avx512) = Avx512::detect() {
            Self::Avx512(avx512)
        } else if let Some(avx2) = Avx2::detect() {
            Self::Avx2(avx2)
        } else {
            Self::Sse2
        }
    }

    /// Unmasks with `key` as a little-endian word.
    #[inline]
    pub(super) fn unmask(self, payload: &mut [u8], key: u32) {
        match self {
            Self::Avx512(kernel) => kernel.unmask(payload, key),
            Self::Avx2(kernel) => kernel.unmask(payload, key),
            Self::Sse2 => scalar::unmask_words(payload, key),
        }
    }

    /// As `unmask`, and says what the bytes were.
    #[inline]
    pub(super) fn unmask_and_look(self, payload: &mut [u8], key: u32) -> Seen {
        match self {
            Self::Avx512(kernel) => kernel.unmask_and_look(payload, key),
            Self::Avx2(kernel) => kernel.unmask_and_look(payload, key),
            Self::Sse2 => scalar::unmask_words_and_look(payload, key),
        }
    }
}

/// Proof that this CPU has AVX-512F.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512(());

impl Avx512 {
    /// Asks the CPU, and the operating system whether it saves the registers.
    #[inline]
    pub(super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx512f").then_some(Self(()))
    }

    #[inline]
    fn unmask(self, payload: &mut [u8], key: u32) {
        #[target_feature(enable = "avx512f")]
        fn kernel(payload: &mut [u8], key: u32) {
            scalar::unmask_words(payload, key);
        }
        // SAFETY: `self` came from `detect`, the only constructor, so this CPU has AVX-512F.
        unsafe { kernel(payload, key) }
    }

    #[inline]
    fn unmask_and_look(self, payload: &mut [u8], key: u32) -> Seen {
        #[target_feature(enable = "avx512f")]
        fn kernel(payload: &mut [u8], key: u32) -> Seen {
            scalar::unmask_words_and_look(payload, key)
        }
        // SAFETY: `self` came from `detect`, the only constructor, so this CPU has AVX-512F.
        unsafe { kernel(payload, key) }
    }
}

/// Proof that this CPU has AVX2.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2(());

impl Avx2 {
    /// Asks the CPU, and the operating system whether it saves the registers.
    #[inline]
    pub(super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }

    #[inline]
    fn unmask(self, payload: &mut [u8], key: u32) {
        #[target_feature(enable = "avx2")]
        fn kernel(payload: &mut [u8], key: u32) {
            scalar::unmask_words(payload, key);
        }
        // SAFETY: `self` came from `detect`, the only constructor, so this CPU has AVX2.
        unsafe { kernel(payload, key) }
    }

    #[inline]
    fn unmask_and_look(self, payload: &mut [u8], key: u32) -> Seen {
        #[target_feature(enable = "avx2")]
        fn kernel(payload: &mut [u8], key: u32) -> Seen {
            scalar::unmask_words_and_look(payload, key)
        }
        // SAFETY: `self` came from `detect`, the only constructor, so this CPU has AVX2.
        unsafe { kernel(payload, key) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::tests::{equals_reference, look_equals_reference};

    fn check(kernel: Kernel) {
        equals_reference(|payload, key| kernel.unmask(payload, key));
        look_equals_reference(|payload, key| kernel.unmask_and_look(payload, key));
    }

    #[test]
    fn avx512_equals_reference() {
        match Avx512::detect() {
            Some(kernel) => check(Kernel::Avx512(kernel)),
            None => println!("skipped: this CPU has no AVX-512F"),
        }
    }

    #[test]
    fn avx2_equals_reference() {
        match Avx2::detect() {
            Some(kernel) => check(Kernel::Avx2(kernel)),
            None => println!("skipped: this CPU has no AVX2"),
        }
    }

    #[test]
    fn sse2_equals_reference() {
        check(Kernel::Sse2);
    }
}
