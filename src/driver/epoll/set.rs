//! The epoll(7) instance: what is registered, and what the kernel says about it.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::super::calls;
use super::super::token::KernelToken;

/// What a registration is told about. Always edge triggered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Interest {
    Readable,
    Both,
}

/// An epoll instance and the events of the last wait, which are handed out one by one.
pub(super) struct Set {
    epoll: OwnedFd,
    events: Box<[libc::epoll_event]>,
    count: usize,
    next: usize,
}

impl Set {
    /// At most `capacity` events are fetched at a time.
    pub(super) fn new(capacity: usize) -> io::Result<Self> {
        // SAFETY: takes no pointer.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, and owned by nobody else.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        let events = vec![libc::epoll_event { events: 0, u64: 0 }; capacity.max(1)];
        Ok(Self { epoll, events: events.into_boxed_slice(), count: 0, next: 0 })
    }

    /// Registers a descriptor. Closing it (all its duplicates, too) ends that.
    pub(super) fn add(
        &self,
        fd: BorrowedFd<'_>,
        token: KernelToken,
        interest: Interest,
    ) -> io::Result<()> {
        let events = match interest {
            Interest::Readable => libc::EPOLLET | libc::EPOLLIN | libc::EPOLLRDHUP,
            Interest::Both => libc::EPOLLET | libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLOUT,
        };
        let mut event = libc::epoll_event { events: events as u32, u64: token.bits() };
        self.control(libc::EPOLL_CTL_ADD, fd, &mut event)
    }

    /// Ends a registration.
    pub(super) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, &mut libc::epoll_event { events: 0, u64: 0 })
    }

    fn control(
        &self,
        operation: libc::c_int,
        fd: BorrowedFd<'_>,
        event: &mut libc::epoll_event,
    ) -> io::Result<()> {
        // SAFETY: both descriptors are open, and the event is read during the call only.
        let result =
            unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd.as_raw_fd(), event) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for events, at most `timeout_ms`; `None` waits for ever. Events that were not handed
    /// out are forgotten.
    #[inline]
    pub(super) fn wait(&mut self, timeout_ms: Option<u64>) -> io::Result<()> {
        let timeout_ms = timeout_ms.map_or(-1, |ms| ms.min(libc::c_int::MAX as u64) as libc::c_int);
        (self.next, self.count) = (0, 0);
        self.count = calls::wait_for_events(self.epoll.as_fd(), &mut self.events, timeout_ms)?;
        Ok(())
    }

    /// The next event of the last wait, which stays the next one.
    #[inline]
    pub(super) fn peek(&self) -> Option<(KernelToken, Readiness)> {
        let event = self.events[..self.count].get(self.next)?;
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
        f.debug_struct("Set").field("epoll", &self.epoll).finish_non_exhaustive()
    }
}

/// What one event says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Readiness(u32);

impl Readiness {
    const IN: u32 = libc::EPOLLIN as u32;
    const OUT: u32 = libc::EPOLLOUT as u32;
    const HUP: u32 = libc::EPOLLHUP as u32;
    const RDHUP: u32 = libc::EPOLLRDHUP as u32;
    const ERR: u32 = libc::EPOLLERR as u32;

    /// Nothing but input, and room: the usual edge of a message that arrived.
    #[inline]
    pub(super) fn is_plain_input(self) -> bool {
        self.0 & !Self::OUT == Self::IN
    }

    pub(super) fn is_readable(self) -> bool {
        self.0 & Self::IN != 0
    }

    pub(super) fn is_writable(self) -> bool {
        self.0 & Self::OUT != 0
    }

    pub(super) fn is_error(self) -> bool {
        self.0 & Self::ERR != 0
    }

    /// The peer will send no more.
    pub(super) fn is_read_closed(self) -> bool {
        self.0 & (Self::HUP | Self::RDHUP) != 0
    }

    /// Nothing more can be sent.
    pub(super) fn is_write_closed(self) -> bool {
        self.0 & (Self::HUP | Self::ERR) != 0
    }
}
