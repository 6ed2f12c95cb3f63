//! Which cores a thread may run on.
//!
//! In: numbers of cores as the kernel counts them. Out: the calling thread stays there.

#![allow(unsafe_code)]

use std::io;

/// Words of a mask; sched_getaffinity(2) fails if the kernel's is longer. 8192 cores.
const WORDS: usize = 128;

type Mask = [libc::c_ulong; WORDS];

const WORD_BITS: usize = libc::c_ulong::BITS as usize;

/// The cores that the calling thread may use, in order: what the machine has, cut down by cgroups
/// (cpuset) and by whoever started the process (taskset).
///
/// # Errors
///
/// That of sched_getaffinity(2).
pub(crate) fn allowed_cores() -> io::Result<Vec<usize>> {
    let mut mask: Mask = [0; WORDS];
    // SAFETY: the kernel writes at most `size_of::<Mask>()` bytes to the mask, which is ours; 0 is
    // the calling thread. A `cpu_set_t` is an array of such words (CPU_SET(3)).
    let done = unsafe { libc::sched_getaffinity(0, size_of::<Mask>(), (&raw mut mask).cast()) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    let is_set = |core: &usize| mask[core / WORD_BITS] & (1 << (core % WORD_BITS)) != 0;
    Ok((0..WORDS * WORD_BITS).filter(is_set).collect())
}

/// Keeps the calling thread on this core.
///
/// # Errors
///
/// That of sched_setaffinity(2): EINVAL if there is no such core or it is not allowed here.
pub(crate) fn pin_to(core: usize) -> io::Result<()> {
    let mut mask: Mask = [0; WORDS];
    let word = mask.get_mut(core / WORD_BITS).ok_or(io::ErrorKind::InvalidInput)?;
    *word = 1 << (core % WORD_BITS);
    // SAFETY: the kernel only reads the mask; 0 is the calling thread.
    let done = unsafe { libc::sched_setaffinity(0, size_of::<Mask>(), (&raw const mask).cast()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stays_where_it_is_pinned() {
        let cores = allowed_cores().expect("a list");
        let last = *cores.last().expect("this runs somewhere");
        let pinned = std::thread::spawn(move || {
            pin_to(last).expect("an allowed core");
            allowed_cores().expect("a list")
        });
        assert_eq!(pinned.join().expect("no panic"), [last]);
        assert_eq!(allowed_cores().expect("a list"), cores, "other threads are not touched");
    }

    #[test]
    fn a_core_that_is_not_there_is_an_error() {
        for core in [8_191, 8_192, usize::MAX] {
            let error = pin_to(core).expect_err("no machine has so many");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{core}");
        }
    }
}
