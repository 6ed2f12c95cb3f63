//! The epoll(7) instance: what is registered, and what the kernel says about it.
//!
//! In: descriptors and tokens. Out: the kernel's events, one by one, as they are. mio
//! registers connections and wakers. Its wait would compute a duration and walk over every event
//! once more, and it knows edges only, so the wait and the registration of listeners are our own.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use mio::unix::SourceFd;
use mio::{Poll, Token};

use super::super::calls;
use super::super::token::KernelToken;

/// What the registration of a connection or a waker is told about. Always edge triggered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Interest {
    Readable,
    Both,
}

/// What the registration of a listener is told about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Newcomers {
    /// That somebody waits, in every wait as long as that is so: level triggered.
    Wanted,
    /// Nothing but what cannot be left out: errors, once.
    Unwanted,
}

impl Newcomers {
    fn events(self) -> u32 {
        let events = match self {
            Self::Wanted => libc::EPOLLIN,
            Self::Unwanted => libc::EPOLLET,
        };
        events as u32
    }
}

/// An epoll instance and the events of the last wait, which are handed out one by one.
pub(super) struct Set {
    poll: Poll,
    /// Of the last wait, in order.
    events: Vec<libc::epoll_event>,
    next: usize,
}

impl Set {
    /// At most `capacity` events are fetched at a time.
    pub(super) fn new(capacity: usize) -> io::Result<Self> {
        let events = Vec::with_capacity(capacity.max(1));
        Ok(Self { poll: Poll::new()?, events, next: 0 })
    }

    /// Registers a descriptor. Closing it (all its duplicates, too) ends that.
    pub(super) fn add(
        &self,
        fd: BorrowedFd<'_>,
        token: KernelToken,
        interest: Interest,
    ) -> io::Result<()> {
        let interest = match interest {
            Interest::Readable => mio::Interest::READABLE,
            Interest::Both => mio::Interest::READABLE | mio::Interest::WRITABLE,
        };
        let token = Token(token.bits() as usize);
        self.poll.registry().register(&mut SourceFd(&fd.as_raw_fd()), token, interest)
    }

    /// Registers a listener. Closing it (all its duplicates, too) ends that.
    pub(super) fn add_listener(&self, fd: BorrowedFd<'_>, token: KernelToken) -> io::Result<()> {
        let events = Newcomers::Wanted.events();
        calls::epoll_ctl(descriptor(&self.poll), libc::EPOLL_CTL_ADD, fd, events, token.bits())
    }

    /// Changes what a listener is told about; what is the case already, it is told again.
    pub(super) fn change_listener(
        &self,
        fd: BorrowedFd<'_>,
        token: KernelToken,
        newcomers: Newcomers,
    ) {
        let events = newcomers.events();
        let done =
            calls::epoll_ctl(descriptor(&self.poll), libc::EPOLL_CTL_MOD, fd, events, token.bits());
        // epoll_ctl(2): nothing here can fail for a descriptor that is registered.
        debug_assert!(done.is_ok(), "{done:?}");
    }

    /// Ends a registration.
    pub(super) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.poll.registry().deregister(&mut SourceFd(&fd.as_raw_fd()))
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
            calls::epoll_wait(descriptor(&self.poll), self.events.spare_capacity_mut(), timeout)?;
        // SAFETY: the kernel has written so many events behind the length, which is 0.
        unsafe { self.events.set_len(count) };
        Ok(())
    }

    /// True if the last wait may have left events in the kernel.
    pub(super) fn is_full(&self) -> bool {
        self.events.len() == self.events.capacity()
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

fn descriptor(poll: &Poll) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is that of `poll`, which lives as long as what is returned.
    unsafe { BorrowedFd::borrow_raw(poll.as_raw_fd()) }
}

impl std::fmt::Debug for Set {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let left = self.events.len() - self.next;
        f.debug_struct("Set").field("poll", &self.poll).field("left", &left).finish()
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
