//! Kernels on plain slices: unmasking (RFC 6455 5.3) and UTF-8 (RFC 6455 8.1).

pub(crate) mod text;

pub(crate) use text::{InvalidUtf8, TextBuffer};

/// XORs `payload` with the masking key, in place. `phase` is the index of `payload[0]` inside the
/// frame's payload (only its two low bits matter): byte `i` meets `key[(phase + i) % 4]`.
pub fn unmask(payload: &mut [u8], key: [u8; 4], phase: usize) {
    for (i, byte) in payload.iter_mut().enumerate() {
        *byte ^= key[(phase.wrapping_add(i)) % 4];
    }
}

/// Unmasks a whole text payload and checks that it is UTF-8, block by block when it is larger
/// than the first-level cache.
pub(crate) fn unmask_text(payload: &mut [u8], key: [u8; 4]) -> Result<&str, InvalidUtf8> {
    unmask(payload, key, 0);
    simdutf8::basic::from_utf8(payload).map_err(|_| InvalidUtf8)
}
