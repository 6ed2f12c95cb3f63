//! Payloads of at most 128 bytes: most messages. No loop, no run-time choice, small enough to be
//! inlined into the frame decoder. Safe.
//!
//! A payload of N to 2N bytes is read as its first and its last N bytes, which overlap, and only
//! then written; bytes in the overlap are computed twice and written twice with the same value.
//!
//! ```text
//!  20 bytes, N = 16     |----------------|        first 16
//!                           |----------------|    last 16, key rotated by 20 - 16
//! ```

use super::{SHORT, Seen};

/// Unmasks at most [`SHORT`] bytes with `key` as a little-endian word, and says what they were.
#[inline(always)]
pub(super) fn unmask(payload: &mut [u8], key: u32) -> Seen {
    debug_assert!(payload.len() <= SHORT);
    match payload.len() {
        0..4 => unmask_bytes(payload, key),
        4..8 => unmask_ends::<4>(payload, key),
        8..16 => unmask_ends::<8>(payload, key),
        16..32 => unmask_ends::<16>(payload, key),
        32..64 => unmask_ends::<32>(payload, key),
        _ => unmask_ends::<64>(payload, key),
    }
}

#[inline(always)]
fn unmask_bytes(payload: &mut [u8], key: u32) -> Seen {
    let mut seen = 0;
    for (byte, key) in payload.iter_mut().zip(key.to_le_bytes()) {
        *byte ^= key;
        seen |= *byte;
    }
    Seen(seen.into())
}

/// Unmasks N to 2N bytes; N is a multiple of four.
#[inline(always)]
fn unmask_ends<const N: usize>(payload: &mut [u8], key: u32) -> Seen {
    let len = payload.len();
    debug_assert!((N..=2 * N).contains(&len) && N.is_multiple_of(4));
    let (Some(&first), Some(&last)) = (payload.first_chunk::<N>(), payload.last_chunk::<N>())
    else {
        return Seen(u64::MAX);
    };
    let (first, seen_first) = xor(first, key);
    // The last N bytes begin at phase `len - N`, which is `len` modulo four.
    let (last, seen_last) = xor(last, key.rotate_right(8 * (len % 4) as u32));
    payload[..N].copy_from_slice(&first);
    payload[len - N..].copy_from_slice(&last);
    seen_first | seen_last
}

#[inline(always)]
fn xor<const N: usize>(mut block: [u8; N], key: u32) -> ([u8; N], Seen) {
    let mut seen = 0;
    let double_key = u64::from(key) << 32 | u64::from(key);
    let (double_words, word) = block.as_chunks_mut::<8>();
    for double_word in double_words {
        let unmasked = u64::from_le_bytes(*double_word) ^ double_key;
        seen |= unmasked;
        *double_word = unmasked.to_le_bytes();
    }
    for word in word.as_chunks_mut::<4>().0 {
        let unmasked = u32::from_le_bytes(*word) ^ key;
        seen |= u64::from(unmasked);
        *word = unmasked.to_le_bytes();
    }
    (block, Seen(seen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::scalar;

    #[test]
    fn equals_reference_and_sees_every_byte() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        let step = if cfg!(miri) { 11 } else { 1 };
        for length in (0..=SHORT).step_by(step).chain([SHORT]) {
            let text: Vec<u8> = (0..length).map(|i| (i % 128) as u8).collect();
            for not_ascii in (0..length).step_by(step).map(Some).chain([None]) {
                let mut expected = text.clone();
                if let Some(i) = not_ascii {
                    expected[i] |= 0x80;
                }
                let mut payload = expected.clone();
                scalar::unmask(&mut payload, key, 0);
                let seen = unmask(&mut payload, u32::from_le_bytes(key));
                assert_eq!(payload, expected, "{length} bytes");
                assert_eq!(seen.is_ascii(), not_ascii.is_none(), "{length}, {not_ascii:?}");
            }
        }
    }
}
