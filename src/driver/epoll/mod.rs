//! The readiness driver: epoll(7), through mio.
//!
//! In: a set of sockets and what epoll says about them. Out: [`Event`]s; the driver performs the
//! read itself and lends the bytes. It never allocates per message, never calls `epoll_ctl` for a
//! connection after its registration, and never reads from a socket that it has no reason to
//! believe readable.
//!
//! ```text
//!  wait:        epoll_wait --> events
//!  next_event:  front of `ready`, then the next event --> flags of the slot
//!                  --> Writable | recv(2) --> Received | Ended | Failed
//!                                  `-- buffer full --> back of `ready`, next turn
//!               then `released`, then accept4(2), at most 64 per listener, then None
//! ```
//!
//! Every connection is registered once, for both directions and edge triggered. Edges come once, so
//! the slot's flags remember what was not acted upon yet: input that arrived while reading was
//! paused, and a send that came up short. One echo costs three system calls: `epoll_wait`,
//! `recv`, `send`.
//!
//! Listeners are level triggered, so no accept has to find out that nobody is left.
//!
//! # When a socket counts as drained
//!
//! A read that returns less than was asked for has emptied the socket (epoll(7), question 9);
//! that saves the read that would only answer would-block. But if the edge also said that the
//! peer has finished, hung up or failed, then no further edge will come, so the driver reads on
//! until the kernel says 0, would-block or an error. (Two things cut a read short without
//! emptying the socket: TCP urgent data and descriptors passed over a Unix socket. A peer that
//! sends either delays only its own bytes.)
//!
//! # Stale events
//!
//! The descriptor of a closed connection is closed at once and its number may come back with the
//! next accept. Kernel tokens name slot and generation, not the descriptor, so what epoll still
//! says about the old socket matches no slot and is counted and dropped.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;

use socket2::Socket;

use super::calls;
use super::socket::begin_connect;
use super::token::{KernelToken, Operation};
use super::{
    AcceptedSocket, ConnectionId, Driver, DriverStats, Event, HEADROOM, ReceiveMemory, Remote,
    Waker,
};

mod accept;
mod connection;
mod set;
#[cfg(test)]
mod tests;

use accept::Listeners;
use connection::{Again, Slot, Step};
use set::{Interest, Readiness, Set};

/// What can be set about the epoll driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EpollConfig {
    /// Bytes of the one receive buffer, which is also the most that one connection can deliver
    /// per turn unless it is asked to read on. Default 256 KiB.
    pub(crate) receive_buffer: usize,
    /// Kernel events fetched per turn. Default 1024, 12 KiB.
    pub(crate) events: usize,
}

impl Default for EpollConfig {
    fn default() -> Self {
        Self { receive_buffer: 256 * 1024, events: 1024 }
    }
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Epoll {
    set: Set,
    waker: Waker,
    woken: bool,
    listeners: Listeners,
    /// Indexed by the slot of the connection's id.
    slots: Vec<Slot>,
    /// Connections with something to do, each at most once (the slot knows).
    ready: VecDeque<KernelToken>,
    /// How many entries of `ready` belong to this turn. Later ones wait for the next.
    ready_this_turn: usize,
    released: VecDeque<ConnectionId>,
    receive_len: usize,
    stats: DriverStats,
}

impl Epoll {
    /// The driver and the memory that its `next_event` wants.
    ///
    /// # Errors
    ///
    /// When `epoll_create1(2)` or `eventfd(2)` fails: no descriptors or no kernel memory.
    pub(crate) fn new(config: EpollConfig) -> io::Result<(Self, ReceiveMemory)> {
        let set = Set::new(config.events)?;
        let eventfd = super::waker::eventfd()?;
        // Edge triggered: every write is an edge of its own, so the counter is never read.
        let wake = KernelToken::new(Operation::Wake, 0, 0);
        set.add(eventfd.as_fd(), wake, Interest::Readable)?;
        let receive_len = config.receive_buffer.max(1);
        let driver = Self {
            set,
            waker: Waker::Eventfd(Arc::new(eventfd)),
            woken: false,
            listeners: Listeners::default(),
            slots: Vec::new(),
            ready: VecDeque::new(),
            ready_this_turn: 0,
            released: VecDeque::new(),
            receive_len,
            stats: DriverStats::default(),
        };
        Ok((driver, ReceiveMemory::new(HEADROOM + receive_len)))
    }

    /// The slot of a connection that was adopted and not closed.
    fn slot(&self, id: ConnectionId) -> Option<&Slot> {
        self.slots.get(id.slot()).filter(|slot| slot.is_open_as(id))
    }

    fn slot_mut(&mut self, id: ConnectionId) -> Option<&mut Slot> {
        self.slots.get_mut(id.slot()).filter(|slot| slot.is_open_as(id))
    }

    /// Whether the next turn has work although epoll may have nothing to say.
    fn has_leftovers(&self) -> bool {
        !self.ready.is_empty() || !self.released.is_empty() || self.woken || self.listeners.due()
    }

    /// The slot that an event is about; events of sockets that are closed are counted.
    #[inline]
    fn slot_of(&mut self, token: KernelToken) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(token.slot()).filter(|slot| slot.is_open_for(token));
        if slot.is_none() {
            self.stats.stale_events += 1;
        }
        slot
    }

    /// Takes what an event says into the flags. True if it makes a connection ready that was not.
    fn note_readiness(&mut self, token: KernelToken, readiness: Readiness) -> bool {
        match token.operation() {
            Some(Operation::Receive) => {
                let Some(slot) = self.slot_of(token) else { return false };
                slot.note_readiness(readiness);
                return slot.wants_turn() && slot.enqueue();
            }
            Some(Operation::Accept) => self.listeners.note_readiness(&self.set, token),
            Some(Operation::Wake) => self.woken = true,
            None => self.stats.stale_events += 1,
        }
        false
    }

    /// The usual case, with as few branches as it takes: an edge that says no more than input, of
    /// a connection about which nothing has to be remembered, and a read that empties the socket.
    #[inline(always)]
    fn receive_plain<'m>(
        &mut self,
        memory: &'m mut ReceiveMemory,
    ) -> Option<(ConnectionId, &'m mut [u8])> {
        let (token, readiness) = self.set.peek()?;
        if self.ready_this_turn > 0 || self.woken {
            return None;
        }
        if token.operation() != Some(Operation::Receive) || !readiness.is_plain_input() {
            return None;
        }
        let slot = self.slots.get_mut(token.slot()).filter(|slot| slot.is_open_for(token))?;
        let (id, bytes) = slot.receive_plain(token, memory, self.receive_len)?;
        self.set.skip();
        // A full buffer was this connection's share of the turn.
        if bytes.len() == self.receive_len && slot.enqueue() {
            self.ready.push_back(token);
        }
        Some((id, bytes))
    }

    /// Takes note of a send of [`Driver::send_bytes`] that came up short.
    #[cold]
    fn sent_in_part(
        &mut self,
        id: ConnectionId,
        bytes: &[u8],
        sent: io::Result<usize>,
    ) -> io::Result<usize> {
        let Some(slot) = self.slot_mut(id) else { return sent };
        let sent = slot.note_sent(&[IoSlice::new(bytes)], sent)?;
        self.serve_later(id);
        Ok(sent)
    }

    /// Has a connection served for which a send has left something to do.
    fn serve_later(&mut self, id: ConnectionId) {
        let Some(slot) = self.slot_mut(id) else { return };
        if !slot.is_plain() && slot.wants_turn() && slot.enqueue() {
            self.ready.push_back(KernelToken::of(Operation::Receive, id));
        }
    }

    /// Registers a socket and gives it the slot of `id`.
    fn settle(&mut self, id: ConnectionId, socket: Socket) -> io::Result<&mut Slot> {
        if self.slots.len() <= id.slot() {
            self.slots.resize_with(id.slot() + 1, Slot::default);
        }
        let slot = &mut self.slots[id.slot()];
        if !slot.is_free() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the slot is not free"));
        }
        // Input that is there already makes an edge of its own.
        let token = KernelToken::of(Operation::Receive, id);
        self.set.add(socket.as_fd(), token, Interest::Both)?;
        *slot = Slot::new(id, socket);
        self.stats.sockets += 1;
        Ok(slot)
    }

    #[inline(never)]
    fn step(&mut self, memory: &mut ReceiveMemory) -> Option<Step> {
        loop {
            if std::mem::take(&mut self.woken) {
                return Some(Step::Other(Event::Woken));
            }
            let token = if self.ready_this_turn > 0 {
                self.ready_this_turn -= 1;
                self.ready.pop_front()?
            } else {
                match self.set.next() {
                    Some((token, readiness)) if self.note_readiness(token, readiness) => token,
                    Some(_) => continue,
                    None => break,
                }
            };
            let receive_len = self.receive_len;
            let Some(slot) = self.slot_of(token) else { continue };
            let (step, again) = slot.step(token, memory, receive_len);
            match again {
                Again::No => {}
                Again::ThisTurn => {
                    self.ready.push_front(token);
                    self.ready_this_turn += 1;
                }
                Again::NextTurn => self.ready.push_back(token),
            }
            if step.is_some() {
                return step;
            }
        }
        if let Some(id) = self.released.pop_front() {
            self.slots[id.slot()].release();
            return Some(Step::Other(Event::Released(id)));
        }
        // Last, so that newcomers never delay the established.
        self.listeners.accept().map(Step::Other)
    }
}

impl Driver for Epoll {
    fn name(&self) -> &'static str {
        "epoll"
    }

    fn reserve(&mut self, slots: usize) {
        self.slots.reserve(slots);
    }

    fn listen(&mut self, listener: Socket) -> io::Result<()> {
        self.listeners.listen(&self.set, listener)
    }

    fn pause_accepting(&mut self) {
        self.listeners.pause();
    }

    fn resume_accepting(&mut self) {
        self.listeners.resume(&self.set);
    }

    fn stop_listening(&mut self) {
        self.listeners.stop(&self.set);
    }

    fn adopt(&mut self, id: ConnectionId, socket: AcceptedSocket) -> io::Result<()> {
        // Tests know a second kind of socket.
        #[allow(clippy::infallible_destructuring_match)]
        let socket = match socket {
            AcceptedSocket::Os(socket) => socket,
            #[cfg(test)]
            AcceptedSocket::Simulated(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        self.settle(id, socket).map(|_slot| ())
    }

    fn connect(&mut self, id: ConnectionId, remote: &Remote) -> io::Result<()> {
        // Registered when it has begun: a socket that has not would make an edge of its own.
        let (socket, arrived) = begin_connect(remote)?;
        let slot = self.settle(id, socket)?;
        slot.note_connecting(arrived);
        if slot.wants_turn() && slot.enqueue() {
            self.ready.push_back(KernelToken::of(Operation::Receive, id));
        }
        Ok(())
    }

    #[inline(always)]
    fn send_bytes(&mut self, id: ConnectionId, bytes: &[u8]) -> io::Result<usize> {
        let Some(slot) = self.slot_mut(id) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let sent = slot.send_bytes(bytes);
        if matches!(sent, Ok(sent) if sent == bytes.len()) {
            // Nothing has changed.
            return sent;
        }
        self.sent_in_part(id, bytes, sent)
    }

    fn send(&mut self, id: ConnectionId, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(slot) = self.slot_mut(id) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let sent = slot.send(slices)?;
        self.serve_later(id);
        Ok(sent)
    }

    fn send_last(&mut self, id: ConnectionId, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(slot) = self.slot_mut(id) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let sent = slot.send_last(slices)?;
        self.serve_later(id);
        Ok(sent)
    }

    fn pause_reading(&mut self, id: ConnectionId) {
        if let Some(slot) = self.slot_mut(id) {
            slot.pause();
        }
    }

    fn resume_reading(&mut self, id: ConnectionId) {
        let Some(slot) = self.slot_mut(id) else { return };
        slot.resume();
        if slot.wants_turn() && slot.enqueue() {
            self.ready.push_back(KernelToken::of(Operation::Receive, id));
        }
    }

    fn read_on(&mut self, id: ConnectionId) {
        // After a full read it is the last of those that wait for the next turn.
        let token = KernelToken::of(Operation::Receive, id);
        if self.ready.len() > self.ready_this_turn && self.ready.back() == Some(&token) {
            self.ready.pop_back();
            self.ready.push_front(token);
            self.ready_this_turn += 1;
        }
    }

    fn finish_sending(&mut self, id: ConnectionId) {
        let Some(slot) = self.slot_mut(id) else { return };
        if let Some(socket) = slot.socket() {
            // ENOTCONN: the peer was faster, and the next edge says so.
            let _ = socket.shutdown(Shutdown::Write);
        }
        slot.finish();
    }

    fn close(&mut self, id: ConnectionId) {
        let Some(slot) = self.slot_mut(id) else { return };
        slot.close();
        self.stats.sockets -= 1;
        self.released.push_back(id);
    }

    fn peer_addr(&self, id: ConnectionId) -> Option<SocketAddr> {
        self.slot(id)?.socket()?.peer_addr().ok()?.as_socket()
    }

    #[inline(always)]
    fn wait(&mut self, timeout_ms: Option<u64>) -> io::Result<()> {
        // Whoever stops in the middle of a turn loses no edge.
        while let Some((token, readiness)) = self.set.next() {
            if self.note_readiness(token, readiness) {
                self.ready.push_back(token);
            }
        }
        self.set.wait(if self.has_leftovers() { Some(0) } else { timeout_ms })?;
        self.ready_this_turn = self.ready.len();
        if !self.set.is_full() {
            // Behind a full one some are heard only in the next wait or the one after it.
            self.listeners.begin_turn();
        }
        Ok(())
    }

    fn next_event<'m>(&mut self, memory: &'m mut ReceiveMemory) -> Option<Event<'m>> {
        match self.step(memory)? {
            Step::Received { id, len } => {
                // SAFETY: only `recv` in `step` and `receive_plain` writes to this memory, and the
                // caller cannot get there while it holds the borrow that this slice extends.
                let bytes = unsafe { memory.slice(HEADROOM, len) };
                Some(Event::Received { id, bytes })
            }
            Step::Other(event) => Some(event),
        }
    }

    #[inline(always)]
    fn next_received<'m>(
        &mut self,
        memory: &'m mut ReceiveMemory,
    ) -> Option<(ConnectionId, &'m mut [u8])> {
        self.receive_plain(memory)
    }

    #[inline(always)]
    fn is_done(&self) -> bool {
        // Most turns are over when the last edge was served.
        self.set.peek().is_none()
            && self.ready_this_turn | self.released.len() == 0
            && !self.woken
            && !self.listeners.due()
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn now_ms(&self) -> u64 {
        self.now_ns() / 1_000_000
    }

    #[inline]
    fn now_ns(&self) -> u64 {
        calls::monotonic_ns()
    }

    fn mishaps(&self) -> u64 {
        self.stats.stale_events
    }

    fn stats(&self) -> DriverStats {
        self.stats
    }
}

/// Repeats a call that a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
