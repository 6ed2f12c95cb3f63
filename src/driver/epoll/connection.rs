//! One connection of the epoll driver: what it remembers between two edges, and its reads.

#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::os::fd::AsFd;

use socket2::Socket;

use super::super::calls;
use super::super::socket::finish_connect;
use super::super::token::KernelToken;
use super::super::{ConnectionId, Event, HEADROOM, ReceiveMemory};
use super::set::Readiness;

/// `sendmsg(2)` takes this many slices (`UIO_MAXIOV`); the rest goes with the next call.
const MAX_SLICES: usize = 1024;

/// Linux moves at most this many bytes per call (read(2), notes).
const MAX_RW_COUNT: usize = 0x7FFF_F000;

/// One connection: 12 bytes.
#[derive(Debug, Default)]
pub(super) struct Slot {
    socket: Option<Socket>,
    generation: u32,
    worker: u16,
    flags: Flags,
}

const _: () = assert!(size_of::<Slot>() <= 16);

/// What the driver has to remember about a connection between two edges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Flags(u16);

impl Flags {
    /// There may be input: the edge came and no read has come up short since.
    const READABLE: Self = Self(1);
    /// A short read does not mean drained: read on to 0, would-block or an error.
    const READ_TO_END: Self = Self(1 << 1);
    /// The edge carried an error that nobody has collected yet.
    const ERROR: Self = Self(1 << 2);
    /// The worker does not want input now.
    const PAUSED: Self = Self(1 << 3);
    /// The last send came up short.
    const BLOCKED: Self = Self(1 << 4);
    /// `Writable` is due.
    const WRITABLE: Self = Self(1 << 5);
    /// `Ended` was reported.
    const ENDED: Self = Self(1 << 6);
    /// The socket is dead and the worker knows: nothing but `Released` may follow.
    const DEAD: Self = Self(1 << 7);
    /// In `ready`.
    const QUEUED: Self = Self(1 << 8);
    /// In `released`.
    const CLOSING: Self = Self(1 << 9);
    /// Neither `Connected` nor `Failed` was reported of a socket that we connect.
    const CONNECTING: Self = Self(1 << 10);
    /// One of the two is due.
    const CONNECT_DONE: Self = Self(1 << 11);
    /// Our FIN has been sent: what the peer said before it reset the connection explains nothing.
    const FINISHED: Self = Self(1 << 12);

    const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    const fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }

    const fn clear(&mut self, other: Self) {
        self.0 &= !other.0;
    }
}

/// An event before its bytes are borrowed from the memory.
pub(super) enum Step {
    Received { id: ConnectionId, len: usize },
    Other(Event<'static>),
}

/// When a slot that was served wants to be served again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    No,
    ThisTurn,
    NextTurn,
}

impl Slot {
    pub(super) fn new(id: ConnectionId, socket: Socket) -> Self {
        Self {
            socket: Some(socket),
            generation: id.generation(),
            worker: id.worker(),
            flags: Flags::default(),
        }
    }

    /// Whether the slot may be given to a new connection.
    pub(super) fn is_free(&self) -> bool {
        self.socket.is_none() && !self.flags.has(Flags::CLOSING)
    }

    pub(super) fn is_open_as(&self, id: ConnectionId) -> bool {
        self.socket.is_some() && self.generation == id.generation()
    }

    pub(super) fn is_open_for(&self, token: KernelToken) -> bool {
        self.socket.is_some() && token.is_of_generation(self.generation)
    }

    fn id(&self, token: KernelToken) -> ConnectionId {
        ConnectionId::new(self.worker, token.slot() as u32, self.generation)
    }

    pub(super) fn socket(&self) -> Option<&Socket> {
        self.socket.as_ref()
    }

    pub(super) fn pause(&mut self) {
        self.flags.set(Flags::PAUSED);
    }

    pub(super) fn resume(&mut self) {
        self.flags.clear(Flags::PAUSED);
    }

    /// The socket is on its way to its remote end, or has arrived there already.
    pub(super) fn note_connecting(&mut self, arrived: bool) {
        self.flags.set(Flags::CONNECTING);
        if arrived {
            self.flags.set(Flags::CONNECT_DONE);
        }
    }

    pub(super) fn close(&mut self) {
        // Closing the descriptor also ends its registration: no epoll_ctl.
        self.socket = None;
        self.flags.set(Flags::CLOSING);
    }

    /// `Released` was reported.
    pub(super) fn release(&mut self) {
        self.flags.clear(Flags::CLOSING);
    }

    /// Our FIN has been sent.
    pub(super) fn finish(&mut self) {
        self.flags.set(Flags::FINISHED);
    }

    /// Whether nothing has to be remembered about the connection; then `step` would do nothing.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.flags == Flags::default()
    }

    /// Whether `step` would do something.
    pub(super) fn wants_turn(&self) -> bool {
        if self.flags.has(Flags::CONNECTING) {
            return self.flags.has(Flags::CONNECT_DONE);
        }
        !self.flags.has(Flags::DEAD)
            && (self.wants_input()
                || self.flags.has(Flags::WRITABLE)
                || self.flags.has(Flags::ERROR))
    }

    fn wants_input(&self) -> bool {
        self.flags.has(Flags::READABLE) && !self.flags.has(Flags::PAUSED)
    }

    /// Whether the caller shall put the slot's token into `ready`: it is not there yet.
    pub(super) fn enqueue(&mut self) -> bool {
        let fresh = !self.flags.has(Flags::QUEUED);
        self.flags.set(Flags::QUEUED);
        fresh
    }

    /// Takes an edge into the flags.
    pub(super) fn note_readiness(&mut self, event: Readiness) {
        let flags = &mut self.flags;
        let (closed, error) = (event.is_read_closed(), event.is_error());
        if !flags.has(Flags::ENDED) && (event.is_readable() || closed || error) {
            flags.set(Flags::READABLE);
        }
        if closed || error {
            flags.set(Flags::READ_TO_END);
        }
        if error {
            flags.set(Flags::ERROR);
        }
        if flags.has(Flags::CONNECTING) && (event.is_writable() || closed || error) {
            flags.set(Flags::CONNECT_DONE);
        }
        // A hang-up also ends the wait for room: the next send answers with the error. Room that
        // no send asked for is not worth an event.
        if flags.has(Flags::BLOCKED) && (event.is_writable() || event.is_write_closed()) {
            flags.clear(Flags::BLOCKED);
            flags.set(Flags::WRITABLE);
        }
    }

    /// One send; see `Driver::send`.
    pub(super) fn send(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(socket) = &self.socket else { return Err(io::ErrorKind::NotConnected.into()) };
        let sent = calls::send(socket.as_fd(), &slices[..slices.len().min(MAX_SLICES)]);
        self.note_sent(slices, sent)
    }

    /// One send, of which [`Self::note_sent`] has to hear unless it took everything.
    #[inline(always)]
    pub(super) fn send_bytes(&self, bytes: &[u8]) -> io::Result<usize> {
        let Some(socket) = &self.socket else { return Err(io::ErrorKind::NotConnected.into()) };
        calls::send_bytes(socket.as_fd(), bytes)
    }

    /// [`Self::send`] for bytes that FIN follows at once.
    pub(super) fn send_last(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(socket) = &self.socket else { return Err(io::ErrorKind::NotConnected.into()) };
        let sent = calls::send_more(socket.as_fd(), &slices[..slices.len().min(MAX_SLICES)]);
        self.note_sent(slices, sent)
    }

    /// Takes what a send said into the flags.
    pub(super) fn note_sent(
        &mut self,
        slices: &[IoSlice<'_>],
        sent: io::Result<usize>,
    ) -> io::Result<usize> {
        let now = &slices[..slices.len().min(MAX_SLICES)];
        let wanted: usize = now.iter().map(|slice| slice.len()).sum();
        if wanted == 0 && now.len() == slices.len() {
            return Ok(0);
        }
        let sent = match sent {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => {
                self.flags.set(Flags::DEAD);
                return Err(error);
            }
        };
        if sent < wanted && sent < MAX_RW_COUNT {
            self.flags.set(Flags::BLOCKED);
        } else if sent < wanted || now.len() < slices.len() {
            // The call was too large for the kernel, the socket is not full: no edge will come.
            self.flags.set(Flags::WRITABLE);
        }
        Ok(sent)
    }

    /// Does the most urgent thing for a connection whose token was taken from `ready`, and says
    /// whether to put it back there.
    pub(super) fn step(
        &mut self,
        token: KernelToken,
        memory: &mut ReceiveMemory,
        receive_len: usize,
    ) -> (Option<Step>, Again) {
        self.flags.clear(Flags::QUEUED);
        if self.flags.has(Flags::DEAD) {
            return (None, Again::No);
        }
        let (step, full) = self.act(self.id(token), memory, receive_len);
        if !self.wants_turn() {
            return (step, Again::No);
        }
        self.flags.set(Flags::QUEUED);
        // A full buffer was this connection's share of the turn.
        (step, if full { Again::NextTurn } else { Again::ThisTurn })
    }

    /// One event, if there is one, and whether it filled the receive buffer.
    fn act(
        &mut self,
        id: ConnectionId,
        memory: &mut ReceiveMemory,
        receive_len: usize,
    ) -> (Option<Step>, bool) {
        if self.flags.has(Flags::CONNECTING) {
            return (self.finish_connecting(id), false);
        }
        if self.flags.has(Flags::FINISHED) && self.flags.has(Flags::ERROR) {
            // A read would only tell how the connection ended, and that is of no use any more.
            self.flags.set(Flags::DEAD);
            let error = io::ErrorKind::ConnectionReset.into();
            return (Some(Step::Other(Event::Failed(id, error))), false);
        }
        let reads = self.wants_input();
        // What a peer said before it reset the connection may explain the reset: read first then.
        if self.flags.has(Flags::WRITABLE) && !(self.flags.has(Flags::ERROR) && reads) {
            self.flags.clear(Flags::WRITABLE);
            return (Some(Step::Other(Event::Writable(id))), false);
        }
        if reads {
            return self.receive(id, memory, receive_len);
        }
        if self.flags.has(Flags::ERROR) {
            // Reading is paused or has ended, so no read would find out. A peer that went away
            // must not wait for the resume.
            self.flags.clear(Flags::ERROR);
            if let Some(Ok(Some(error))) = self.socket().map(Socket::take_error) {
                self.flags.set(Flags::DEAD);
                return (Some(Step::Other(Event::Failed(id, error))), false);
            }
        }
        (None, false)
    }

    /// The socket has arrived, or it never will.
    fn finish_connecting(&mut self, id: ConnectionId) -> Option<Step> {
        self.flags.clear(Flags::CONNECTING);
        self.flags.clear(Flags::CONNECT_DONE);
        Some(Step::Other(match finish_connect(self.socket()?) {
            Ok(()) => Event::Connected(id),
            Err(error) => {
                self.flags.set(Flags::DEAD);
                Event::Failed(id, error)
            }
        }))
    }

    /// One read for an edge that says no more than input. `None` if anything is unusual: then the
    /// edge still has to be taken into the flags, which read again.
    #[inline]
    pub(super) fn receive_plain<'m>(
        &mut self,
        token: KernelToken,
        memory: &'m mut ReceiveMemory,
        receive_len: usize,
    ) -> Option<(ConnectionId, &'m mut [u8])> {
        let socket = self.socket.as_ref()?;
        if !self.is_plain() {
            return None;
        }
        // SAFETY: as in `receive`. Nothing else gets to this memory while the slice, or what is
        // lent of it to the caller, keeps it borrowed.
        let buffer = unsafe { memory.slice(HEADROOM, receive_len) };
        match calls::receive(socket.as_fd(), buffer) {
            Ok(len) if len > 0 => {
                if len == receive_len {
                    // There may be more.
                    self.flags.set(Flags::READABLE);
                }
                Some((self.id(token), &mut buffer[..len]))
            }
            _ => None,
        }
    }

    /// One read.
    fn receive(
        &mut self,
        id: ConnectionId,
        memory: &mut ReceiveMemory,
        receive_len: usize,
    ) -> (Option<Step>, bool) {
        let Some(socket) = &self.socket else { return (None, false) };
        // SAFETY: nothing is lent (`memory` is borrowed mutably) and no kernel operation is under
        // way: this driver only makes calls that return when they are done.
        let buffer = unsafe { memory.slice(HEADROOM, receive_len) };
        match calls::receive(socket.as_fd(), buffer) {
            Ok(0) => {
                self.flags.clear(Flags::READABLE);
                self.flags.set(Flags::ENDED);
                (Some(Step::Other(Event::Ended(id))), false)
            }
            Ok(len) => {
                let full = len == receive_len;
                if !full && !self.flags.has(Flags::READ_TO_END) {
                    self.flags.clear(Flags::READABLE);
                }
                (Some(Step::Received { id, len }), full)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.flags.clear(Flags::READABLE);
                self.flags.clear(Flags::READ_TO_END);
                (None, false)
            }
            Err(error) => {
                self.flags.set(Flags::DEAD);
                (Some(Step::Other(Event::Failed(id, error))), false)
            }
        }
    }
}
