//! Random numbers that nobody can predict: masking keys, nonces, and who waits how long.
//!
//! In: the kernel's generator. Out: keys, one block of them per system call. RFC 6455 10.3 wants
//! masking keys from a strong source, because whoever can guess them chooses the bytes on the wire.
//!
//! One key per call would cost a getrandom(2) for every frame that a client sends, several times
//! what the frame itself costs. So each thread draws blocks of 2 KiB, 512 keys, and uses every
//! byte once: strength as before, no generator of our own, no dependency more, and the calls that
//! refill are too short to be seen in a turn.

use std::cell::RefCell;
use std::io;

const BLOCK: usize = 2048;

/// Random bytes that were not used yet: `bytes[used..]`.
struct Block {
    bytes: [u8; BLOCK],
    used: usize,
    /// In simulations, what replaces the kernel's generator.
    #[cfg(test)]
    seeded: Option<u64>,
}

thread_local! {
    static BYTES: RefCell<Block> = const {
        RefCell::new(Block {
            bytes: [0; BLOCK],
            used: BLOCK,
            #[cfg(test)]
            seeded: None,
        })
    };
}

impl Block {
    #[inline]
    fn take<const N: usize>(&mut self) -> [u8; N] {
        if self.used + N > BLOCK {
            self.refill();
        }
        let taken = &mut self.bytes[self.used..self.used + N];
        self.used += N;
        let mut bytes = [0; N];
        bytes.copy_from_slice(taken);
        // Whoever can read this process's memory later learns no key of the past.
        taken.fill(0);
        bytes
    }

    #[cold]
    fn refill(&mut self) {
        self.used = 0;
        #[cfg(test)]
        if let Some(state) = &mut self.seeded {
            for byte in &mut self.bytes {
                *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (*state >> 56) as u8;
            }
            return;
        }
        // getrandom(2) fails on kernels without it, and they are too old for everything else here.
        getrandom::fill(&mut self.bytes).expect("the kernel has random bytes");
    }
}

/// A masking key (RFC 6455 5.3).
#[inline]
pub(crate) fn masking_key() -> [u8; 4] {
    BYTES.with_borrow_mut(Block::take)
}

/// The nonce of an opening handshake (RFC 6455 4.1 item 7).
///
/// # Errors
///
/// When the kernel has no random bytes.
pub(crate) fn nonce() -> io::Result<[u8; 16]> {
    #[cfg(test)]
    if BYTES.with_borrow(|block| block.seeded.is_some()) {
        return Ok(BYTES.with_borrow_mut(Block::take));
    }
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(io::Error::from)?;
    Ok(nonce)
}

/// A number from 0 to `most`.
pub(crate) fn up_to(most: u64) -> u64 {
    let bits = u64::from_le_bytes(BYTES.with_borrow_mut(Block::take));
    ((u128::from(bits) * (u128::from(most) + 1)) >> 64) as u64
}

/// Makes this thread's numbers follow from a seed, so that a simulation can be replayed.
#[cfg(test)]
pub(crate) fn seed(seed: u64) {
    BYTES.with_borrow_mut(|block| {
        block.seeded = Some(seed);
        block.used = BLOCK;
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_frame_has_a_masking_key_of_its_own() {
        let drawn: HashSet<_> = (0..1000).map(|_| masking_key()).collect();
        // Two equal ones among a thousand are as likely as one in 8,600; three pairs are not.
        assert!(drawn.len() > 997, "{} different keys", drawn.len());
        let nonces: HashSet<_> = (0..100).map(|_| nonce().expect("random bytes")).collect();
        assert_eq!(nonces.len(), 100);
    }

    #[test]
    fn threads_have_numbers_of_their_own() {
        let draw = || (0..8).map(|_| masking_key()).collect::<Vec<_>>();
        let other = std::thread::spawn(draw).join().expect("no panic");
        assert_ne!(draw(), other);
    }

    #[test]
    fn numbers_reach_both_ends_and_not_beyond() {
        let drawn: HashSet<_> = (0..1000).map(|_| up_to(3)).collect();
        assert_eq!(drawn, HashSet::from([0, 1, 2, 3]));
        assert_eq!(up_to(0), 0);
        assert!((0..100).any(|_| up_to(u64::MAX) > u64::MAX / 2));
    }

    #[test]
    fn a_seed_is_replayed() {
        let draw = || {
            seed(7);
            (masking_key(), nonce().expect("seeded"), up_to(1000))
        };
        assert_eq!(draw(), draw());
    }
}
