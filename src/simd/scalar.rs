//! The reference, and the loop that the kernels are compiled from. Safe, for any CPU.

use super::Seen;

/// The definition, RFC 6455 5.3: "transformed-octet-i = original-octet-i XOR
/// masking-key-octet-(i MOD 4)". Byte by byte, about 5 GB/s: for tests and a few last bytes.
#[inline(always)]
pub(super) fn unmask(payload: &mut [u8], key: [u8; 4], phase: usize) -> Seen {
    let mut seen = 0;
    for (i, byte) in payload.iter_mut().enumerate() {
        *byte ^= key[phase.wrapping_add(i) % 4];
        seen |= u64::from(*byte);
    }
    Seen(seen)
}

/// Word by word with `key` as a little-endian word; compiled for a wide instruction set the
/// compiler makes full vectors of it.
///
/// Keep this loop plain: with an outer loop over blocks of 64 bytes around it the compiler
/// gathers and scatters on AVX-512 and is ten times slower.
#[inline(always)]
pub(super) fn unmask_words(payload: &mut [u8], key: u32) {
    let (words, rest) = payload.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_le_bytes(*word) ^ key).to_le_bytes();
    }
    unmask(rest, key.to_le_bytes(), 0);
}

/// As [`unmask_words`], and looks at the bytes while it has them: saves text that is ASCII a
/// second pass, and costs a fifth more.
#[inline(always)]
pub(super) fn unmask_words_and_look(payload: &mut [u8], key: u32) -> Seen {
    let mut seen = 0;
    let (words, rest) = payload.as_chunks_mut::<4>();
    for word in words {
        let unmasked = u32::from_le_bytes(*word) ^ key;
        seen |= unmasked;
        *word = unmasked.to_le_bytes();
    }
    Seen(seen.into()) | unmask(rest, key.to_le_bytes(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_follows_the_definition() {
        let key = [1, 2, 4, 8];
        let mut payload = [0x10; 6];
        unmask(&mut payload, key, 0);
        assert_eq!(payload, [0x11, 0x12, 0x14, 0x18, 0x11, 0x12]);
        let mut payload = [0x10; 6];
        unmask(&mut payload, key, 3);
        assert_eq!(payload, [0x18, 0x11, 0x12, 0x14, 0x18, 0x11]);
    }
}
