//! The system calls that every message needs, without detours.
//!
//! In: descriptors and slices. Out: what the kernel said, and the time. The C library's wrappers
//! of these calls are cancellation points, which cost more instructions than the rest of the wrapper
//! and serve a feature (pthread_cancel(3)) that nothing here uses; so the calls are made by number,
//! on x86-64 in one instruction. A signal repeats a call that does not wait.

#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::EnterFlags;
use io_uring::types::SubmitArgs;

/// Non-blocking whatever the socket is, and an error in place of SIGPIPE.
const SEND_FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// recv(2) that does not wait: at least one byte, or 0 at the end.
#[inline]
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let (to, len) = (buffer.as_mut_ptr().expose_provenance(), buffer.len());
        let (fd, flags) = (socket.as_raw_fd() as usize, libc::MSG_DONTWAIT as usize);
        // SAFETY: the kernel writes at most `len` bytes to `buffer`, which is borrowed for the
        // call; no address is asked for.
        let received = unsafe { call(libc::SYS_recvfrom, [fd, to, len, flags, 0, 0]) };
        if let Some(done) = result(received) {
            return done;
        }
    }
}

/// send(2), or sendmsg(2) for more slices than one, that does not wait. At most `UIO_MAXIOV`
/// slices.
#[inline]
pub(super) fn send(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    send_with(socket, slices, SEND_FLAGS)
}

/// The same for bytes that something follows at once: what they leave of a packet waits for it,
/// at most 200 ms (tcp(7), TCP_CORK).
#[inline(never)]
pub(super) fn send_more(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    send_with(socket, slices, SEND_FLAGS | libc::MSG_MORE)
}

#[inline(always)]
fn send_with(
    socket: BorrowedFd<'_>,
    slices: &[IoSlice<'_>],
    flags: libc::c_int,
) -> io::Result<usize> {
    match slices {
        // One struct less for the kernel to copy.
        [only] => send_one(socket, only, flags),
        _ => send_many(socket, slices, flags),
    }
}

/// [`send`] for one slice.
#[inline(always)]
pub(super) fn send_bytes(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    send_one(socket, bytes, SEND_FLAGS)
}

#[inline(always)]
fn send_one(socket: BorrowedFd<'_>, bytes: &[u8], flags: libc::c_int) -> io::Result<usize> {
    loop {
        let (from, len) = (bytes.as_ptr().expose_provenance(), bytes.len());
        let (fd, flags) = (socket.as_raw_fd() as usize, flags as usize);
        // SAFETY: the kernel reads `bytes`, which are borrowed for the call; the socket is
        // connected, so there is no address.
        let sent = unsafe { call(libc::SYS_sendto, [fd, from, len, flags, 0, 0]) };
        if let Some(done) = result(sent) {
            return done;
        }
    }
}

#[inline(never)]
fn send_many(
    socket: BorrowedFd<'_>,
    slices: &[IoSlice<'_>],
    flags: libc::c_int,
) -> io::Result<usize> {
    // SAFETY: all zeroes is a valid header: no address, no slices, no control data.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    // `IoSlice` has the layout of an iovec, as its documentation promises; it is only read.
    header.msg_iov = slices.as_ptr().cast_mut().cast();
    header.msg_iovlen = slices.len() as _;
    loop {
        let from = std::ptr::from_ref(&header).expose_provenance();
        let (fd, flags) = (socket.as_raw_fd() as usize, flags as usize);
        // SAFETY: `header` names slices that are borrowed for the call, and the kernel only reads
        // them.
        let sent = unsafe { call(libc::SYS_sendmsg, [fd, from, flags, 0, 0, 0]) };
        if let Some(done) = result(sent) {
            return done;
        }
    }
}

/// epoll_wait(2): how many events it has written to the front of `events`; none after a signal.
/// At most `timeout` milliseconds, -1 is for ever.
#[inline]
pub(super) fn epoll_wait(
    epoll: BorrowedFd<'_>,
    events: &mut [MaybeUninit<libc::epoll_event>],
    timeout: i32,
) -> io::Result<usize> {
    let to = events.as_mut_ptr().expose_provenance();
    let most = events.len().min(i32::MAX as usize);
    let fd = epoll.as_raw_fd() as usize;
    // Newer processors only have the call with a signal mask; null is none.
    #[cfg(target_arch = "x86_64")]
    let number = libc::SYS_epoll_wait;
    #[cfg(not(target_arch = "x86_64"))]
    let number = libc::SYS_epoll_pwait;
    let arguments = [fd, to, most, timeout as usize, 0, 0];
    // SAFETY: the kernel writes at most `most` events to `events`, which are borrowed for the call.
    let waited = unsafe { call(number, arguments) };
    result(waited).unwrap_or(Ok(0))
}

/// io_uring_enter2(2) with `IORING_ENTER_EXT_ARG`, which the kernel must know
/// (`IORING_FEAT_EXT_ARG`): submits so many entries and waits for `want` completions, no longer than
/// `argument` says. Answers how many entries were taken; none after a signal, which leaves them in
/// the queue.
#[inline(always)]
pub(super) fn io_uring_enter(
    ring: BorrowedFd<'_>,
    to_submit: u32,
    want: u32,
    flags: EnterFlags,
    argument: &SubmitArgs<'_, '_>,
) -> io::Result<usize> {
    let (fd, to_submit, want) = (ring.as_raw_fd() as usize, to_submit as usize, want as usize);
    let flags = (flags | EnterFlags::EXT_ARG).bits() as usize;
    let at = std::ptr::from_ref(argument).expose_provenance();
    let arguments = [fd, to_submit, want, flags, at, size_of_val(argument)];
    // SAFETY: EXT_ARG announces the argument's type, and it outlives the call as does the time that
    // it borrows. Whoever put an entry into the queue has vouched for it.
    let entered = unsafe { call(libc::SYS_io_uring_enter, arguments) };
    result(entered).unwrap_or(Ok(0))
}

/// epoll_ctl(2): adds or modifies the registration of `fd` for `events`, which come with `data`.
pub(super) fn epoll_ctl(
    epoll: BorrowedFd<'_>,
    operation: libc::c_int,
    fd: BorrowedFd<'_>,
    events: u32,
    data: u64,
) -> io::Result<()> {
    let mut event = libc::epoll_event { events, u64: data };
    // SAFETY: both descriptors are open for the call, and the kernel only reads `event`.
    let done =
        unsafe { libc::epoll_ctl(epoll.as_raw_fd(), operation, fd.as_raw_fd(), &raw mut event) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A system call: what it returned, or the error negated.
///
/// # Safety
///
/// As the call with this number demands of these arguments (syscalls(2)).
#[cfg(all(target_arch = "x86_64", target_pointer_width = "64", not(miri)))]
#[inline(always)]
unsafe fn call(number: libc::c_long, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    let returned: isize;
    // SAFETY: syscall(2), "Architecture calling conventions": the number and the result are in rax,
    // the arguments in these six registers, and rcx and r11 are lost. The stack is not touched; of
    // memory, what the caller has vouched for.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => returned,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            in("r9") f,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    returned
}

/// The same by the C library, for other processors.
#[cfg(not(all(target_arch = "x86_64", target_pointer_width = "64", not(miri))))]
unsafe fn call(number: libc::c_long, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the caller has seen to it.
    let returned = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if returned >= 0 {
        return returned as isize;
    }
    -(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) as isize)
}

/// CLOCK_MONOTONIC in nanoseconds: a few dozen instructions, and no system call where the kernel
/// provides the clock in user space (vdso(7)).
#[inline]
pub(super) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to `now`, which lives. CLOCK_MONOTONIC is everywhere, so it cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// `None` after a signal.
#[inline]
fn result(returned: isize) -> Option<io::Result<usize>> {
    if returned >= 0 {
        return Some(Ok(returned as usize));
    }
    let error = -returned as i32;
    (error != libc::EINTR).then(|| Err(io::Error::from_raw_os_error(error)))
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
    fn a_signal_ends_a_wait_without_an_error() {
        extern "C" fn nothing(_signal: libc::c_int) {}
        // SAFETY: the handler does nothing, which is safe at any moment; nothing else in this
        // process uses the signal.
        let before = unsafe {
            libc::signal(libc::SIGUSR2, nothing as extern "C" fn(libc::c_int) as libc::sighandler_t)
        };
        assert_ne!(before, libc::SIG_ERR);
        let poll = mio::Poll::new().unwrap();
        // SAFETY: `poll` keeps the descriptor open until the end of the test.
        let epoll = unsafe { BorrowedFd::borrow_raw(poll.as_raw_fd()) };
        // SAFETY: always possible.
        let waiter = unsafe { libc::pthread_self() };
        let over = std::sync::atomic::AtomicBool::new(false);
        let waited = std::thread::scope(|scope| {
            scope.spawn(|| {
                // Again and again: the first one may come before the wait has begun.
                while !over.load(std::sync::atomic::Ordering::Acquire) {
                    // SAFETY: the waiting thread outlives this scope.
                    unsafe { libc::pthread_kill(waiter, libc::SIGUSR2) };
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            });
            let waited = epoll_wait(epoll, &mut [MaybeUninit::uninit(); 4], -1);
            over.store(true, std::sync::atomic::Ordering::Release);
            waited
        });
        assert_eq!(waited.unwrap(), 0);
    }

    #[test]
    fn the_clock_is_that_of_the_standard_library() {
        let (start, before) = (std::time::Instant::now(), monotonic_ns());
        std::thread::sleep(std::time::Duration::from_millis(5));
        let (ns, elapsed) = (monotonic_ns() - before, start.elapsed());
        assert!(ns >= 5_000_000 && ns <= elapsed.as_nanos() as u64 + 1, "{ns} ns of {elapsed:?}");
    }
}
