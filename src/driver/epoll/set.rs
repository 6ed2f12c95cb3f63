//! The epoll(7) instance: what is registered, and what the kernel says about it.
//!
//! In: descriptors and tokens. Out: the kernel's events, one by one, as they are.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::super::calls;
use super::super::token::KernelToken;

/// What a registration is told about. Edge triggered, unless it says otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) enum Interest {
    Readable,
    Both,
    /// Newcomers of a listener, in every wait as long as one is there.
    Newcomers,
    /// Only what cannot be left out: errors, once.
    Nothing,
}

impl Interest {
    fn bits(self) -> u32 {
        let readable = libc::EPOLLET | libc::EPOLLIN | libc::EPOLLRDHUP;
        let bits = match self {
            Interest::Readable => readable,
            Interest::Both => readable | libc::EPOLLOUT,
            Interest::Newcomers => libc::EPOLLIN,
            Interest::Nothing => libc::EPOLLET,
        };
        bits as u32
    }
}

/// An epoll instance and the events of the last wait, which are handed out one by one.
pub(super) struct Set {
    epoll: OwnedFd,
    /// Of the last wait, in order.
    events: Vec<libc::epoll_event>,
    next: usize,
}

impl Set {
    /// At most `capacity` events are fetched at a time.
    pub(super) fn new(capacity: usize) -> io::Result<Self> {
        // SAFETY: takes no pointer.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, and owned by nobody else.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { epoll, events: Vec::with_capacity(capacity.max(1)), next: 0 })
    }

    /// Registers a descriptor. Closing it (all its duplicates, too) ends that.
    pub(super) fn add(
        &self,
        fd: BorrowedFd<'_>,
        token: KernelToken,
        interest: Interest,
    ) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token.bits(), interest.bits())
    }

    /// Changes what a registration is told about; what is the case already, it is told again.
    pub(super) fn change(&self, fd: BorrowedFd<'_>, token: KernelToken, interest: Interest) {
        let changed = self.control(libc::EPOLL_CTL_MOD, fd, token.bits(), interest.bits());
        // epoll_ctl(2): nothing here can fail for a descriptor that is registered.
        debug_assert!(changed.is_ok(), "{changed:?}");
    }

    /// Ends a registration.
    pub(super) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    fn control(
        &self,
        operation: libc::c_int,
        fd: BorrowedFd<'_>,
        token: u64,
        events: u32,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: token };
        // SAFETY: both descriptors are open for the call, and the kernel only reads `event`.
        let done = unsafe {
            libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd.as_raw_fd(), &raw mut event)
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits for events, at most `timeout_ms`; `None` waits for ever. Events that were not handed
    /// out are forgotten. A signal ends the wait early.
    #[inline]
    pub(super) fn wait(&mut self, timeout_ms: Option<u64>) -> io::Result<()> {
        self.next = 0;
        self.events.clear();
        // epoll_wait(2): -1 is for ever.
        let timeout = timeout_ms.map_or(-1, |ms| ms.min(i32::MAX as u64) as i32);
        let count =
            calls::epoll_wait(self.epoll.as_fd(), self.events.spare_capacity_mut(), timeout)?;
        // SAFETY: the kernel has written so many events behind the length, which is 0.
        unsafe { self.events.set_len(count) };
        Ok(())
    }

    /// The next event of the last wait, which stays the next one.
    #[inline]
    pub(super) fn peek(&self) -> Option<(KernelToken, Readiness)> {
        let event = self.events.get(self.next)?;
        Some((KernelToken::from_bits(event.u64), Readiness(event.events)))
    }

    /// Leaves the event out that [`Self::peek`] gave.
    #[inline]
    pub(super) fn skip(&mut self) {
        self.next += 1;
    }

    /// The next event of the last wait.
    pub(super) fn next(&mut self) -> Option<(KernelToken, Readiness)> {
        let event = self.peek()?;
        self.skip();
        Some(event)
    }
}

impl std::fmt::Debug for Set {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let left = self.events.len() - self.next;
        f.debug_struct("Set").field("epoll", &self.epoll).field("left", &left).finish()
    }
}

/// What one event says: the bits of epoll_ctl(2).
#[derive(Clone, Copy, Debug)]
pub(super) struct Readiness(u32);

impl Readiness {
    const IN: u32 = libc::EPOLLIN as u32;
    const OUT: u32 = libc::EPOLLOUT as u32;
    const URGENT: u32 = libc::EPOLLPRI as u32;
    const ERROR: u32 = libc::EPOLLERR as u32;
    const HANGUP: u32 = libc::EPOLLHUP as u32;
    const READ_HANGUP: u32 = libc::EPOLLRDHUP as u32;

    const fn has(self, bits: u32) -> bool {
        self.0 & bits != 0
    }

    /// Nothing but input, and room: the usual edge of a message that arrived.
    #[inline]
    pub(super) const fn is_plain_input(self) -> bool {
        self.0 & !Self::OUT == Self::IN
    }

    pub(super) const fn is_readable(self) -> bool {
        self.has(Self::IN | Self::URGENT)
    }

    pub(super) const fn is_writable(self) -> bool {
        self.has(Self::OUT)
    }

    pub(super) const fn is_error(self) -> bool {
        self.has(Self::ERROR)
    }

    /// The peer will send no more.
    pub(super) const fn is_read_closed(self) -> bool {
        self.has(Self::HANGUP) || (self.has(Self::IN) && self.has(Self::READ_HANGUP))
    }

    /// Nothing more can be sent.
    pub(super) const fn is_write_closed(self) -> bool {
        self.has(Self::HANGUP)
            || (self.has(Self::OUT) && self.has(Self::ERROR))
            || self.0 == Self::ERROR
    }
}
