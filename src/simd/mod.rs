//! Kernels on plain slices: unmasking (RFC 6455 5.3) and UTF-8 (RFC 6455 8.1).
//!
//! In come payload bytes as they lie in the receive buffer, out go the same bytes unmasked, or a
//! `&str` over them, or a [`TextBuffer`] that collects a text message from pieces. Nothing here
//! knows frames, connections or sockets, and nothing allocates except [`TextBuffer`].
//!
//! ```text
//!  unmask ----+-- 0..=128 bytes: `short`, a few overlapping words, inlined, no choice to make
//!             +-- more: the widest kernel that this CPU has (AVX-512, AVX2, SSE2; NEON)
//!
//!  unmask_text --- unmask a block, validate it while it is in the first-level cache, carry on
//! ```
//!
//! Every kernel is the same safe loop, `scalar::unmask_words`, compiled once per instruction set:
//! measured, the auto-vectorised loop equals hand-written intrinsics. The choice is made at run
//! time, so that a portable build uses what the machine has. `scalar::unmask` is the reference
//! that the tests compare with.
#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod append;
mod scalar;
mod short;
mod text;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub(crate) use append::append;
pub(crate) use text::split_text;
pub use text::{InvalidUtf8, TextBuffer};

/// Largest payload that `short` takes.
const SHORT: usize = 128;

/// Smallest payload that is worth the work to reach the start of a cache line first.
const LARGE: usize = 1024;

/// Length of a cache line and of the widest vector.
const LINE: usize = 64;

/// How much text is unmasked before it is validated: half of a small first-level cache, so that
/// the second pass finds what the first one wrote.
const BLOCK: usize = 16 * 1024;

/// XORs `payload` with the masking key, in place (RFC 6455 5.3). `phase` is the index of
/// `payload[0]` inside the frame's payload (only its two low bits matter): byte `i` meets
/// `key[(phase + i) % 4]`. Doing it twice gives the first bytes back: masking is the same act.
///
/// ```
/// # use wirelane::simd::unmask;
/// // RFC 6455 5.7: "Hello", masked.
/// let mut payload = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
/// unmask(&mut payload, [0x37, 0xfa, 0x21, 0x3d], 0);
/// assert_eq!(&payload, b"Hello");
/// ```
#[inline]
pub fn unmask(payload: &mut [u8], key: [u8; 4], phase: usize) {
    let key = rotate(key, phase);
    if payload.len() <= SHORT {
        short::unmask(payload, key);
    } else {
        unmask_long(payload, key);
    }
}

/// Unmasks the whole payload of a text message (RFC 6455 5.3) and checks that it is UTF-8
/// (RFC 6455 8.1). Use [`TextBuffer`] for a message that arrives in pieces.
///
/// # Errors
///
/// [`InvalidUtf8`] if the payload is not UTF-8; what it holds then is unspecified (it may be
/// unmasked in part only).
#[inline(always)]
pub fn unmask_text(payload: &mut [u8], key: [u8; 4]) -> Result<&str, InvalidUtf8> {
    if payload.len() > SHORT {
        return unmask_long_text(payload, key);
    }
    if short::unmask(payload, u32::from_le_bytes(key)).is_ascii() {
        // SAFETY: `short::unmask` saw every byte, and all of them are ASCII, which is UTF-8.
        return Ok(unsafe { std::str::from_utf8_unchecked(payload) });
    }
    simdutf8::basic::from_utf8(payload).map_err(|_| InvalidUtf8)
}

/// Checks that the payload of a text message that was not masked is UTF-8 (RFC 6455 8.1).
#[inline]
pub(crate) fn check_text(payload: &[u8]) -> Result<&str, InvalidUtf8> {
    simdutf8::basic::from_utf8(payload).map_err(|_| InvalidUtf8)
}

/// The masking key as a little-endian word whose first byte meets the byte at `phase`.
#[inline(always)]
fn rotate(key: [u8; 4], phase: usize) -> u32 {
    u32::from_le_bytes(key).rotate_right(8 * (phase % 4) as u32)
}

/// As [`unmask`], and says what the bytes were.
#[inline]
fn unmask_and_look(payload: &mut [u8], key: [u8; 4], phase: usize) -> Seen {
    let key = rotate(key, phase);
    if payload.len() <= SHORT {
        short::unmask(payload, key)
    } else {
        unmask_long_and_look(payload, key)
    }
}

/// Not inlined: a caller pays for one call, and only beyond [`SHORT`].
#[inline(never)]
fn unmask_long(payload: &mut [u8], key: u32) {
    let (payload, key, _) = unmask_to_line(payload, key);
    #[cfg(target_arch = "x86_64")]
    x86_64::Kernel::best().unmask(payload, key);
    #[cfg(target_arch = "aarch64")]
    aarch64::Neon.unmask(payload, key);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    scalar::unmask_words(payload, key);
}

#[inline(never)]
fn unmask_long_and_look(payload: &mut [u8], key: u32) -> Seen {
    let (payload, key, head) = unmask_to_line(payload, key);
    #[cfg(target_arch = "x86_64")]
    let rest = x86_64::Kernel::best().unmask_and_look(payload, key);
    #[cfg(target_arch = "aarch64")]
    let rest = aarch64::Neon.unmask_and_look(payload, key);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let rest = scalar::unmask_words_and_look(payload, key);
    head | rest
}

/// Unmasks a large payload up to the start of a cache line and returns the rest, with the key
/// for it. A frame header leaves most payloads off their line, and then every vector of 64 bytes
/// crosses one, which takes twice the time.
#[inline(always)]
fn unmask_to_line(payload: &mut [u8], key: u32) -> (&mut [u8], u32, Seen) {
    let head_len =
        if payload.len() < LARGE { 0 } else { payload.as_ptr().align_offset(LINE).min(LINE) };
    let (head, rest) = payload.split_at_mut(head_len);
    let seen = short::unmask(head, key);
    (rest, key.rotate_right(8 * (head_len % 4) as u32), seen)
}

#[inline(never)]
fn unmask_long_text(payload: &mut [u8], key: [u8; 4]) -> Result<&str, InvalidUtf8> {
    let mut valid = 0;
    let mut unmasked = 0;
    while unmasked < payload.len() {
        let end = payload.len().min(unmasked + BLOCK);
        let seen = unmask_and_look(&mut payload[unmasked..end], key, unmasked);
        valid = text::validate(&payload[..end], valid, unmasked, seen.is_ascii())?;
        unmasked = end;
    }
    if valid < payload.len() {
        return Err(InvalidUtf8);
    }
    // SAFETY: the loop has validated the payload up to `valid`, which is all of it, in slices
    // that were UTF-8 each; UTF-8 behind UTF-8 is UTF-8.
    Ok(unsafe { std::str::from_utf8_unchecked(payload) })
}

/// All bytes of a payload, ORed together: enough to know whether one of them was not ASCII.
#[derive(Clone, Copy, Debug)]
struct Seen(u64);

impl Seen {
    #[inline(always)]
    fn is_ascii(self) -> bool {
        self.0 & 0x8080_8080_8080_8080 == 0
    }
}

impl std::ops::BitOr for Seen {
    type Output = Self;

    #[inline(always)]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// Compares `kernel` with the reference at every length, offset into an aligned buffer, and
    /// phase, and checks that the bytes around the payload stay as they were.
    pub(super) fn equals_reference(kernel: impl Fn(&mut [u8], u32)) {
        #[repr(align(64))]
        struct Aligned([u8; 640]);

        let (lengths, offsets) = if cfg!(miri) { (160, 3) } else { (256, 64) };
        let bytes = Aligned(std::array::from_fn(|i| (i * 7 + i / 256) as u8));
        for length in 0..=lengths {
            for offset in 0..offsets {
                for phase in 0..4 {
                    let mut got = bytes.0;
                    let mut expected = bytes.0;
                    kernel(&mut got[offset..offset + length], rotate(KEY, phase));
                    scalar::unmask(&mut expected[offset..offset + length], KEY, phase);
                    assert_eq!(got, expected, "{length} bytes at {offset}, phase {phase}");
                }
            }
        }
        for length in [257, 300, 511, 512, 575] {
            let (mut got, mut expected) = (bytes.0, bytes.0);
            kernel(&mut got[1..1 + length], rotate(KEY, 3));
            scalar::unmask(&mut expected[1..1 + length], KEY, 3);
            assert_eq!(got, expected, "{length} bytes");
        }
    }

    /// The same for a kernel that also looks, which must not overlook a byte.
    pub(super) fn look_equals_reference(kernel: impl Fn(&mut [u8], u32) -> Seen) {
        equals_reference(|payload, key| {
            kernel(payload, key);
        });
        let longer = if cfg!(miri) { 0..0 } else { 250..1100 };
        for length in (0..140).chain(longer.step_by(53)) {
            let ascii: Vec<u8> = (0..length).map(|i| (i % 128) as u8).collect();
            assert!(kernel(&mut masked(&ascii), rotate(KEY, 0)).is_ascii(), "{length} bytes");
            for bad in 0..length {
                let mut text = ascii.clone();
                text[bad] |= 0x80;
                let seen = kernel(&mut masked(&text), rotate(KEY, 0));
                assert!(!seen.is_ascii(), "byte {bad} of {length}");
            }
        }
    }

    #[test]
    fn words_equal_reference() {
        equals_reference(scalar::unmask_words);
        look_equals_reference(scalar::unmask_words_and_look);
    }

    #[test]
    fn chosen_kernel_equals_reference() {
        equals_reference(unmask_long);
        look_equals_reference(unmask_long_and_look);
    }

    #[test]
    fn large_payloads_off_their_line_equal_reference() {
        let bytes: Vec<u8> = (0..2 * LARGE + 200).map(|i| (i * 7) as u8).collect();
        for offset in 0..LINE + 2 {
            for length in [LARGE - 1, LARGE, LARGE + 1, 2 * LARGE + 77] {
                let (mut got, mut expected) = (bytes.clone(), bytes.clone());
                unmask(&mut got[offset..offset + length], KEY, 1);
                scalar::unmask(&mut expected[offset..offset + length], KEY, 1);
                assert_eq!(got, expected, "{length} bytes at {offset}");
                for bad in [0, LINE - offset % LINE, LARGE / 2, length - 1] {
                    let mut text = vec![b'x'; offset + length];
                    text[offset + bad] = 0xff;
                    let payload = &mut text[offset..];
                    unmask(payload, KEY, 0);
                    assert!(!unmask_and_look(payload, KEY, 0).is_ascii(), "byte {bad}");
                }
            }
        }
    }

    #[test]
    fn unmask_equals_reference_at_every_phase() {
        for phase in 0..9 {
            for length in 0..300 {
                let mut got: Vec<u8> = (0..length).map(|i| i as u8).collect();
                let mut expected = got.clone();
                unmask(&mut got, KEY, phase);
                scalar::unmask(&mut expected, KEY, phase);
                assert_eq!(got, expected, "{length} bytes, phase {phase}");
            }
        }
        let mut payload = [0; 3];
        unmask(&mut payload, KEY, usize::MAX);
        assert_eq!(payload, [KEY[3], KEY[0], KEY[1]]);
    }

    #[test]
    fn unmask_of_two_parts_equals_unmask_of_the_whole() {
        let bytes: Vec<u8> = (0..600).map(|i| (i * 11) as u8).collect();
        let mut whole = bytes.clone();
        unmask(&mut whole, KEY, 0);
        for cut in 0..=bytes.len() {
            let mut parts = bytes.clone();
            let (front, back) = parts.split_at_mut(cut);
            unmask(front, KEY, 0);
            unmask(back, KEY, cut);
            assert_eq!(parts, whole, "cut at {cut}");
        }
    }

    fn masked(text: &[u8]) -> Vec<u8> {
        let mut payload = text.to_vec();
        scalar::unmask(&mut payload, KEY, 0);
        payload
    }

    #[test]
    fn text_of_any_length_comes_back() {
        for pattern in ["a", "aé", "añ€𝄞", "𝄞"] {
            let text: String =
                pattern.chars().cycle().take(if cfg!(miri) { 80 } else { 400 }).collect();
            for (end, _) in text.char_indices() {
                let mut payload = masked(&text.as_bytes()[..end]);
                assert_eq!(unmask_text(&mut payload, KEY), Ok(&text[..end]));
            }
        }
    }

    #[test]
    fn text_around_the_block_size_comes_back() {
        // The leading ASCII moves the characters of the rest across the edges of the blocks.
        for lead in 0..4 {
            for length in [BLOCK - 4, BLOCK, BLOCK + 4, 2 * BLOCK, 3 * BLOCK + 8] {
                let text = format!("{}{}", &"abc"[..lead], "𝄞".repeat(length / 4));
                let mut payload = masked(text.as_bytes());
                assert_eq!(unmask_text(&mut payload, KEY), Ok(text.as_str()));
                let mut cut = masked(&text.as_bytes()[..text.len() - 1]);
                assert_eq!(unmask_text(&mut cut, KEY), Err(InvalidUtf8));
            }
        }
    }

    #[test]
    fn one_bad_byte_anywhere_is_found() {
        for length in [1, 3, 4, 20, 64, 125, 128, 129, 300] {
            for bad in 0..length {
                let mut text = vec![b'x'; length];
                text[bad] = 0xff;
                assert_eq!(unmask_text(&mut masked(&text), KEY), Err(InvalidUtf8));
                text[bad] = 0xc3;
                assert_eq!(unmask_text(&mut masked(&text), KEY), Err(InvalidUtf8));
            }
        }
        for bad in [0, BLOCK - 1, BLOCK, 2 * BLOCK - 1, 2 * BLOCK + 99] {
            let mut text = vec![b'x'; 2 * BLOCK + 100];
            text[bad] = 0x80;
            assert_eq!(unmask_text(&mut masked(&text), KEY), Err(InvalidUtf8));
        }
    }
}
