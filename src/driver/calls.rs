//! The system calls that every message needs, without detours.
//!
//! In: descriptors and slices. Out: what the kernel said, and the time. The C library's wrappers
//! of these calls are cancellation points, which cost more instructions than the rest of the wrapper
//! and serve a feature (pthread_cancel(3)) that nothing here uses; so the calls are made by number.
//! A signal repeats a call; nothing here waits.

#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Non-blocking whatever the socket is, and an error in place of SIGPIPE.
const SEND_FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

const NOTHING: *const libc::c_void = std::ptr::null();

/// recv(2) that does not wait: at least one byte, or 0 at the end.
#[inline]
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer`, which is borrowed
        // for the call; no address is asked for.
        let received = unsafe {
            libc::syscall(
                libc::SYS_recvfrom,
                socket.as_raw_fd(),
                buffer.as_mut_ptr(),
                buffer.len(),
                libc::MSG_DONTWAIT,
                NOTHING,
                NOTHING,
            )
        };
        if let Some(done) = result(received) {
            return done;
        }
    }
}

/// send(2), or sendmsg(2) for more slices than one, that does not wait. At most `UIO_MAXIOV`
/// slices.
#[inline]
pub(super) fn send(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    match slices {
        // One struct less for the kernel to copy.
        [only] => send_one(socket, only),
        _ => send_many(socket, slices),
    }
}

#[inline]
fn send_one(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the kernel reads `bytes`, which are borrowed for the call; the socket is
        // connected, so there is no address.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_sendto,
                socket.as_raw_fd(),
                bytes.as_ptr(),
                bytes.len(),
                SEND_FLAGS,
                NOTHING,
                0,
            )
        };
        if let Some(done) = result(sent) {
            return done;
        }
    }
}

fn send_many(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: all zeroes is a valid header: no address, no slices, no control data.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    // `IoSlice` has the layout of an iovec, as its documentation promises; it is only read.
    header.msg_iov = slices.as_ptr().cast_mut().cast();
    header.msg_iovlen = slices.len() as _;
    loop {
        // SAFETY: `header` names slices that are borrowed for the call, and the kernel only reads
        // them.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_sendmsg,
                socket.as_raw_fd(),
                std::ptr::from_ref(&header),
                SEND_FLAGS,
            )
        };
        if let Some(done) = result(sent) {
            return done;
        }
    }
}

/// CLOCK_MONOTONIC in microseconds: a few dozen instructions, and no system call where the kernel
/// provides the clock in user space (vdso(7)).
#[inline]
pub(super) fn monotonic_us() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to `now`, which lives. CLOCK_MONOTONIC is everywhere, so it cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// `None` after a signal.
#[inline]
fn result(returned: libc::c_long) -> Option<io::Result<usize>> {
    if returned >= 0 {
        return Some(Ok(returned as usize));
    }
    let error = io::Error::last_os_error();
    (error.kind() != io::ErrorKind::Interrupted).then_some(Err(error))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn bytes_pass_in_order_and_nothing_waits() {
        let (one, mut other) = UnixStream::pair().unwrap();
        let mut buffer = [0; 16];
        let empty = receive(one.as_fd(), &mut buffer).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        other.write_all(b"abc").unwrap();
        assert_eq!(receive(one.as_fd(), &mut buffer[..2]).unwrap(), 2);
        assert_eq!(receive(one.as_fd(), &mut buffer[2..]).unwrap(), 1);
        assert_eq!(&buffer[..3], b"abc");
        assert_eq!(send(other.as_fd(), &[IoSlice::new(b"d")]).unwrap(), 1);
        let many = [IoSlice::new(b"e"), IoSlice::new(b""), IoSlice::new(b"fg")];
        assert_eq!(send(other.as_fd(), &many).unwrap(), 3);
        assert_eq!(receive(one.as_fd(), &mut buffer).unwrap(), 4);
        assert_eq!(&buffer[..4], b"defg");
        let full = std::iter::repeat_with(|| send(other.as_fd(), &[IoSlice::new(&[0; 65_536])]));
        let error = full.map_while(|sent| Some(sent.err())).flatten().next().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(other);
        while receive(one.as_fd(), &mut buffer).unwrap() != 0 {}
        let gone = send(one.as_fd(), &[IoSlice::new(b"x")]).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn the_clock_is_that_of_the_standard_library() {
        let (start, before) = (std::time::Instant::now(), monotonic_us());
        std::thread::sleep(std::time::Duration::from_millis(5));
        let (us, elapsed) = (monotonic_us() - before, start.elapsed());
        assert!(us >= 5000 && us <= elapsed.as_micros() as u64 + 1, "{us} us of {elapsed:?}");
    }
}
