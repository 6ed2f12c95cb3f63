//! The epoll(7) instance: what is registered, and what the kernel says about it, by mio.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Poll, Token};

use super::super::token::KernelToken;

/// What a registration is told about. Always edge triggered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Interest {
    Readable,
    Both,
}

/// An epoll instance and the events of the last wait, which are handed out one by one.
#[derive(Debug)]
pub(super) struct Set {
    poll: Poll,
    events: Events,
    /// The same events, in order.
    ready: Vec<(KernelToken, Readiness)>,
    next: usize,
}

impl Set {
    /// At most `capacity` events are fetched at a time.
    pub(super) fn new(capacity: usize) -> io::Result<Self> {
        let capacity = capacity.max(1);
        let ready = Vec::with_capacity(capacity);
        Ok(Self { poll: Poll::new()?, events: Events::with_capacity(capacity), ready, next: 0 })
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

    /// Ends a registration.
    pub(super) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.poll.registry().deregister(&mut SourceFd(&fd.as_raw_fd()))
    }

    /// Waits for events, at most `timeout_ms`; `None` waits for ever. Events that were not handed
    /// out are forgotten. A signal ends the wait early.
    #[inline]
    pub(super) fn wait(&mut self, timeout_ms: Option<u64>) -> io::Result<()> {
        self.ready.clear();
        self.next = 0;
        match self.poll.poll(&mut self.events, timeout_ms.map(Duration::from_millis)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        for event in &self.events {
            let readiness = Readiness::of(event);
            self.ready.push((KernelToken::from_bits(event.token().0 as u64), readiness));
        }
        Ok(())
    }

    /// The next event of the last wait, which stays the next one.
    #[inline]
    pub(super) fn peek(&self) -> Option<(KernelToken, Readiness)> {
        self.ready.get(self.next).copied()
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

/// What one event says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Readiness(u8);

impl Readiness {
    const IN: u8 = 1;
    const OUT: u8 = 1 << 1;
    const READ_CLOSED: u8 = 1 << 2;
    const WRITE_CLOSED: u8 = 1 << 3;
    const ERROR: u8 = 1 << 4;

    #[inline]
    fn of(event: &mio::event::Event) -> Self {
        let flag = |is, flag| if is { flag } else { 0 };
        Self(
            flag(event.is_readable(), Self::IN)
                | flag(event.is_writable(), Self::OUT)
                | flag(event.is_read_closed(), Self::READ_CLOSED)
                | flag(event.is_write_closed(), Self::WRITE_CLOSED)
                | flag(event.is_error(), Self::ERROR),
        )
    }

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
        self.0 & Self::ERROR != 0
    }

    /// The peer will send no more.
    pub(super) fn is_read_closed(self) -> bool {
        self.0 & Self::READ_CLOSED != 0
    }

    /// Nothing more can be sent.
    pub(super) fn is_write_closed(self) -> bool {
        self.0 & Self::WRITE_CLOSED != 0
    }
}
