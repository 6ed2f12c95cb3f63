//! The loop of `scalar` compiled for each vector width of x86-64. A value of [`Avx512`] or
//! [`Avx2`] proves that this CPU has it; SSE2 belongs to every x86-64.

use super::scalar::unmask_words;

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
            Self::Sse2 => unmask_words(payload, key),
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
        // SAFETY: `self` came from `detect`, the only constructor, so this CPU has AVX-512F.
        unsafe { unmask_avx512(payload, key) }
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
        // SAFETY: `self` came from `detect`, the only constructor, so this CPU has AVX2.
        unsafe { unmask_avx2(payload, key) }
    }
}

#[target_feature(enable = "avx512f")]
fn unmask_avx512(payload: &mut [u8], key: u32) {
    unmask_words(payload, key);
}

#[target_feature(enable = "avx2")]
fn unmask_avx2(payload: &mut [u8], key: u32) {
    unmask_words(payload, key);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::tests::equals_reference;

    #[test]
    fn avx512_equals_reference() {
        let Some(kernel) = Avx512::detect() else {
            println!("skipped: this CPU has no AVX-512F");
            return;
        };
        equals_reference(|payload, key| Kernel::Avx512(kernel).unmask(payload, key));
    }

    #[test]
    fn avx2_equals_reference() {
        let Some(kernel) = Avx2::detect() else {
            println!("skipped: this CPU has no AVX2");
            return;
        };
        equals_reference(|payload, key| Kernel::Avx2(kernel).unmask(payload, key));
    }

    #[test]
    fn sse2_equals_reference() {
        equals_reference(|payload, key| Kernel::Sse2.unmask(payload, key));
    }
}
