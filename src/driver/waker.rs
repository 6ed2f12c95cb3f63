//! Wakes a worker from another thread.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::FromRawFd;
use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::{AtomicBool, Ordering};

/// Makes the driver's `wait` return and report `Woken`. Cheap to clone, usable from any thread,
/// never blocks. Whoever wakes often should remember that a wake is already under way: one
/// eventfd(2) write costs a system call.
#[derive(Clone, Debug)]
pub(crate) enum Waker {
    /// An eventfd(2), non-blocking, that epoll or the ring watches.
    Eventfd(Arc<File>),
    /// Looked at by the simulated driver.
    #[cfg(test)]
    Simulated(Arc<AtomicBool>),
    /// Looked at by a model of a worker.
    #[cfg(all(test, interleavings))]
    Model(Arc<loom::sync::Mutex<bool>>),
}

impl Waker {
    /// Wakes the worker. Errors cannot happen to a live worker and mean nothing to a dead one.
    pub(crate) fn wake(&self) {
        match self {
            Waker::Eventfd(file) => {
                // Would-block means that the counter is at its maximum, so the worker is awake.
                let _ = (&**file).write(&1_u64.to_ne_bytes());
            }
            #[cfg(test)]
            Waker::Simulated(flag) => flag.store(true, Ordering::Release),
            #[cfg(all(test, interleavings))]
            Waker::Model(flag) => *flag.lock().expect("nobody panics") = true,
        }
    }
}

/// A counter that starts at zero.
pub(super) fn eventfd() -> io::Result<File> {
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and owned by nobody else.
    Ok(unsafe { File::from_raw_fd(fd) })
}
