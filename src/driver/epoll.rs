//! The readiness driver: epoll(7) through mio.
//!
//! In: a set of sockets and what epoll says about them. Out: [`Event`]s; the driver performs the
//! read itself and lends the bytes. It never allocates per message, never calls `epoll_ctl` after
//! the registration, and never reads from a socket that it has no reason to believe readable.
//!
//! ```text
//!  wait:        epoll_wait --> flags of the slot, slot to the back of `ready`
//!  next_event:  front of `ready` --> Writable | recv(2) --> Received | Ended | Failed
//!                                                 `-- buffer full --> back of `ready`, next turn
//!               then `released`, then at most 64 accept4(2), then None
//! ```
//!
//! Every socket is registered once, for both directions and edge triggered. Edges come once, so
//! the slot's flags remember what was not acted upon yet: input that arrived while reading was
//! paused, and a send that came up short. One echo costs three system calls: `epoll_wait`,
//! `recv`, `send`.
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
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use socket2::Socket;

use super::token::{KernelToken, Operation};
use super::{
    AcceptedSocket, ConnectionId, Driver, DriverStats, Event, HEADROOM, ReceiveMemory, Waker,
};

/// mio keeps a token in a `usize`.
const _: () = assert!(size_of::<usize>() == 8, "the epoll driver needs a 64-bit target");

/// A peer that connects in a loop gets this many connections per turn, then the others' turn comes.
const ACCEPTS_PER_TURN: u32 = 64;

/// `sendmsg(2)` takes this many slices (`UIO_MAXIOV`); the rest goes with the next call.
const MAX_SLICES: usize = 1024;

const SEND_FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// What can be set about the epoll driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EpollConfig {
    /// Bytes of the one receive buffer, which is also the most that one connection can deliver
    /// per turn. Default 256 KiB.
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
    poll: Poll,
    events: Events,
    waker: Waker,
    woken: bool,
    listeners: Listeners,
    /// Indexed by the slot of the connection's id.
    slots: Vec<Slot>,
    /// Connections with something to do, each at most once (`Flags::QUEUED`).
    ready: VecDeque<KernelToken>,
    /// How many entries of `ready` belong to this turn. Later ones wait for the next.
    ready_this_turn: usize,
    released: VecDeque<ConnectionId>,
    receive_len: usize,
    origin: Instant,
    stats: DriverStats,
}

/// The listeners and whether accepting is on.
#[derive(Debug)]
struct Listeners {
    open: Vec<Listener>,
    /// Told apart from the listeners of before `stop_listening`.
    generation: u32,
    paused: bool,
    left_this_turn: u32,
}

#[derive(Debug)]
struct Listener {
    socket: Socket,
    /// An edge came and `accept4` has not said would-block since.
    ready: bool,
}

/// One connection: 12 bytes.
#[derive(Debug, Default)]
struct Slot {
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
enum Step {
    Received { id: ConnectionId, len: usize },
    Other(Event<'static>),
}

impl Epoll {
    /// The driver and the memory that its `next_event` wants.
    ///
    /// # Errors
    ///
    /// When `epoll_create1(2)` or `eventfd(2)` fails: no descriptors or no kernel memory.
    pub(crate) fn new(config: EpollConfig) -> io::Result<(Self, ReceiveMemory)> {
        let poll = Poll::new()?;
        let wake = KernelToken::new(Operation::Wake, 0, 0);
        let waker = Waker::Mio(Arc::new(mio::Waker::new(poll.registry(), mio_token(wake))?));
        let receive_len = config.receive_buffer.max(1);
        let driver = Self {
            poll,
            events: Events::with_capacity(config.events.max(1)),
            waker,
            woken: false,
            listeners: Listeners {
                open: Vec::new(),
                generation: 0,
                paused: false,
                left_this_turn: 0,
            },
            slots: Vec::new(),
            ready: VecDeque::new(),
            ready_this_turn: 0,
            released: VecDeque::new(),
            receive_len,
            origin: Instant::now(),
            stats: DriverStats::default(),
        };
        Ok((driver, ReceiveMemory::new(HEADROOM + receive_len)))
    }

    /// The slot of a connection that was adopted and not closed.
    fn slot(&self, id: ConnectionId) -> Option<&Slot> {
        let slot = self.slots.get(id.slot())?;
        (slot.socket.is_some() && slot.generation == id.generation()).then_some(slot)
    }

    fn slot_mut(&mut self, id: ConnectionId) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(id.slot())?;
        (slot.socket.is_some() && slot.generation == id.generation()).then_some(slot)
    }

    /// Whether the next turn has work although epoll may have nothing to say.
    fn has_leftovers(&self) -> bool {
        !self.ready.is_empty() || !self.released.is_empty() || self.woken || self.listeners.due()
    }

    /// Takes what epoll reported into the flags. Nothing is read or written here.
    fn note_readiness(&mut self) {
        for event in &self.events {
            let token = KernelToken::from_bits(event.token().0 as u64);
            match token.operation() {
                Some(Operation::Receive) => {
                    let slot = self.slots.get_mut(token.slot());
                    let Some(slot) = slot.filter(|slot| slot.is_open_for(token)) else {
                        self.stats.stale_events += 1;
                        continue;
                    };
                    if slot.note_readiness(event) && slot.enqueue() {
                        self.ready.push_back(token);
                    }
                }
                Some(Operation::Accept) => self.listeners.note_readiness(token),
                Some(Operation::Wake) => self.woken = true,
                None => self.stats.stale_events += 1,
            }
        }
    }

    fn step(&mut self, memory: &mut ReceiveMemory) -> Option<Step> {
        if std::mem::take(&mut self.woken) {
            return Some(Step::Other(Event::Woken));
        }
        while self.ready_this_turn > 0 {
            let Some(token) = self.ready.pop_front() else { break };
            self.ready_this_turn -= 1;
            let Some(slot) =
                self.slots.get_mut(token.slot()).filter(|slot| slot.is_open_for(token))
            else {
                self.stats.stale_events += 1;
                continue;
            };
            slot.flags.clear(Flags::QUEUED);
            let (step, again) = slot.step(token, memory, self.receive_len);
            match again {
                Again::No => {}
                Again::ThisTurn => {
                    slot.flags.set(Flags::QUEUED);
                    self.ready.push_front(token);
                    self.ready_this_turn += 1;
                }
                Again::NextTurn => {
                    slot.flags.set(Flags::QUEUED);
                    self.ready.push_back(token);
                }
            }
            if step.is_some() {
                return step;
            }
        }
        self.ready_this_turn = 0;
        if let Some(id) = self.released.pop_front() {
            self.slots[id.slot()].flags.clear(Flags::CLOSING);
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
        if !listener.is_listener()? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket does not listen"));
        }
        // Another thread may accept from the same listener between our edge and our accept4.
        listener.set_nonblocking(true)?;
        let index = u32::try_from(self.listeners.open.len()).map_err(io::Error::other)?;
        let token = KernelToken::new(Operation::Accept, index, self.listeners.generation);
        self.poll.registry().register(
            &mut SourceFd(&listener.as_raw_fd()),
            mio_token(token),
            Interest::READABLE,
        )?;
        self.listeners.open.push(Listener { socket: listener, ready: false });
        Ok(())
    }

    fn pause_accepting(&mut self) {
        self.listeners.paused = true;
    }

    fn resume_accepting(&mut self) {
        if std::mem::take(&mut self.listeners.paused) {
            // Edges that came before the pause, or that accept4 left unanswered, do not come again.
            for listener in &mut self.listeners.open {
                listener.ready = true;
            }
        }
    }

    fn stop_listening(&mut self) {
        for listener in self.listeners.open.drain(..) {
            // Another process may hold the same listener open, which would keep it registered. If
            // this fails, then the generation below takes care of the events.
            let _ = self.poll.registry().deregister(&mut SourceFd(&listener.socket.as_raw_fd()));
        }
        self.listeners.generation = self.listeners.generation.wrapping_add(1);
    }

    fn adopt(&mut self, id: ConnectionId, socket: AcceptedSocket) -> io::Result<()> {
        let socket = match socket {
            AcceptedSocket::Os(socket) => socket,
            #[cfg(test)]
            AcceptedSocket::Simulated(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        if self.slots.len() <= id.slot() {
            self.slots.resize_with(id.slot() + 1, Slot::default);
        }
        let slot = &mut self.slots[id.slot()];
        if slot.socket.is_some() || slot.flags.has(Flags::CLOSING) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the slot is not free"));
        }
        // Input that is there already makes an edge of its own.
        self.poll.registry().register(
            &mut SourceFd(&socket.as_raw_fd()),
            mio_token(KernelToken::of(Operation::Receive, id)),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        *slot = Slot {
            socket: Some(socket),
            generation: id.generation(),
            worker: id.worker(),
            flags: Flags::default(),
        };
        self.stats.sockets += 1;
        Ok(())
    }

    fn send(&mut self, id: ConnectionId, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(slot) = self.slot_mut(id) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let Some(socket) = &slot.socket else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let now = &slices[..slices.len().min(MAX_SLICES)];
        let wanted: usize = now.iter().map(|slice| slice.len()).sum();
        if wanted == 0 && slices.len() == now.len() {
            return Ok(0);
        }
        let sent = retry(|| match now {
            // send(2) copies in one struct less than sendmsg(2).
            [only] => socket.send_with_flags(only, SEND_FLAGS),
            _ => socket.send_vectored_with_flags(now, SEND_FLAGS),
        });
        let sent = match sent {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => {
                slot.flags.set(Flags::DEAD);
                return Err(error);
            }
        };
        if sent < wanted && sent < MAX_RW_COUNT {
            slot.flags.set(Flags::BLOCKED);
        } else if sent < wanted || now.len() < slices.len() {
            // The call was too large for the kernel, the socket is not full: no edge will come.
            slot.flags.set(Flags::WRITABLE);
            if slot.enqueue() {
                self.ready.push_back(KernelToken::of(Operation::Receive, id));
            }
        }
        Ok(sent)
    }

    fn pause_reading(&mut self, id: ConnectionId) {
        if let Some(slot) = self.slot_mut(id) {
            slot.flags.set(Flags::PAUSED);
        }
    }

    fn resume_reading(&mut self, id: ConnectionId) {
        let Some(slot) = self.slot_mut(id) else { return };
        slot.flags.clear(Flags::PAUSED);
        if slot.flags.has(Flags::READABLE) && slot.enqueue() {
            self.ready.push_back(KernelToken::of(Operation::Receive, id));
        }
    }

    fn finish_sending(&mut self, id: ConnectionId) {
        if let Some(Slot { socket: Some(socket), .. }) = self.slot(id) {
            // ENOTCONN: the peer was faster, and the next read says so.
            let _ = socket.shutdown(Shutdown::Write);
        }
    }

    fn close(&mut self, id: ConnectionId) {
        let Some(slot) = self.slot_mut(id) else { return };
        // Closing the descriptor also ends its registration: no epoll_ctl.
        drop(slot.socket.take());
        slot.flags.set(Flags::CLOSING);
        self.stats.sockets -= 1;
        self.released.push_back(id);
    }

    fn peer_addr(&self, id: ConnectionId) -> Option<SocketAddr> {
        self.slot(id)?.socket.as_ref()?.peer_addr().ok()?.as_socket()
    }

    fn wait(&mut self, timeout_ms: Option<u64>) -> io::Result<()> {
        let timeout = match timeout_ms {
            _ if self.has_leftovers() => Some(Duration::ZERO),
            Some(ms) => Some(Duration::from_millis(ms)),
            None => None,
        };
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => self.note_readiness(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        self.ready_this_turn = self.ready.len();
        self.listeners.left_this_turn = ACCEPTS_PER_TURN;
        Ok(())
    }

    fn next_event<'m>(&mut self, memory: &'m mut ReceiveMemory) -> Option<Event<'m>> {
        match self.step(memory)? {
            Step::Received { id, len } => {
                // SAFETY: only `recv` in `step` writes to this memory, and the caller cannot get
                // there while it holds the borrow that this slice extends.
                let bytes = unsafe { memory.slice(HEADROOM, len) };
                Some(Event::Received { id, bytes })
            }
            Step::Other(event) => Some(event),
        }
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn now_ms(&self) -> u64 {
        // Instant is CLOCK_MONOTONIC on Linux. 2^64 ms outlast everything.
        self.origin.elapsed().as_millis() as u64
    }

    fn stats(&self) -> DriverStats {
        self.stats
    }
}

/// Linux moves at most this many bytes per call (read(2), notes).
const MAX_RW_COUNT: usize = 0x7FFF_F000;

/// When a slot that was served wants to be served again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    No,
    ThisTurn,
    NextTurn,
}

impl Slot {
    fn is_open_for(&self, token: KernelToken) -> bool {
        self.socket.is_some() && token.is_of_generation(self.generation)
    }

    fn id(&self, token: KernelToken) -> ConnectionId {
        ConnectionId::new(self.worker, token.slot() as u32, self.generation)
    }

    /// Whether the caller shall put the slot's token into `ready`.
    fn enqueue(&mut self) -> bool {
        let fresh = !self.flags.has(Flags::QUEUED);
        self.flags.set(Flags::QUEUED);
        fresh
    }

    /// Takes an edge into the flags; answers whether there is anything to do about it now.
    fn note_readiness(&mut self, event: &mio::event::Event) -> bool {
        let flags = &mut self.flags;
        if flags.has(Flags::DEAD) {
            return false;
        }
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
        // A hang-up also ends the wait for room: the next send answers with the error. Room that
        // no send asked for is not worth an event.
        if flags.has(Flags::BLOCKED) && (event.is_writable() || event.is_write_closed()) {
            flags.clear(Flags::BLOCKED);
            flags.set(Flags::WRITABLE);
        }
        flags.has(Flags::WRITABLE)
            || flags.has(Flags::ERROR)
            || flags.has(Flags::READABLE) && !flags.has(Flags::PAUSED)
    }

    /// Does the most urgent thing for this connection.
    fn step(
        &mut self,
        token: KernelToken,
        memory: &mut ReceiveMemory,
        receive_len: usize,
    ) -> (Option<Step>, Again) {
        let flags = self.flags;
        let id = self.id(token);
        let wants_input = flags.has(Flags::READABLE) && !flags.has(Flags::PAUSED);
        if flags.has(Flags::DEAD) {
            return (None, Again::No);
        }
        // What a peer said before it reset the connection may explain the reset: read first then.
        if flags.has(Flags::WRITABLE) && !(flags.has(Flags::ERROR) && wants_input) {
            self.flags.clear(Flags::WRITABLE);
            let again = wants_input || flags.has(Flags::ERROR);
            let again = if again { Again::ThisTurn } else { Again::No };
            return (Some(Step::Other(Event::Writable(id))), again);
        }
        if wants_input {
            return self.receive(id, memory, receive_len);
        }
        if flags.has(Flags::ERROR) {
            // Reading is paused or has ended, so no read would find out. A peer that went away
            // must not wait for the resume.
            self.flags.clear(Flags::ERROR);
            if let Some(Ok(Some(error))) = self.socket.as_ref().map(Socket::take_error) {
                self.flags.set(Flags::DEAD);
                return (Some(Step::Other(Event::Failed(id, error))), Again::No);
            }
        }
        (None, Again::No)
    }

    /// One read.
    fn receive(
        &mut self,
        id: ConnectionId,
        memory: &mut ReceiveMemory,
        receive_len: usize,
    ) -> (Option<Step>, Again) {
        let Some(socket) = &self.socket else { return (None, Again::No) };
        // SAFETY: nothing is lent (`memory` is borrowed mutably) and no kernel operation is under
        // way: this driver only makes calls that return when they are done.
        let buffer = unsafe { memory.slice(HEADROOM, receive_len) };
        let received = retry(|| socket.recv_with_flags(as_uninit(buffer), libc::MSG_DONTWAIT));
        match received {
            Ok(0) => {
                self.flags.clear(Flags::READABLE);
                self.flags.set(Flags::ENDED);
                // FIN and RST came together: the next round collects the error.
                let again = self.flags.has(Flags::ERROR) || self.flags.has(Flags::WRITABLE);
                let again = if again { Again::ThisTurn } else { Again::No };
                (Some(Step::Other(Event::Ended(id))), again)
            }
            Ok(len) => {
                let again = if len == receive_len {
                    Again::NextTurn
                } else if self.flags.has(Flags::READ_TO_END) {
                    // The peer can add nothing, so this ends.
                    Again::ThisTurn
                } else {
                    self.flags.clear(Flags::READABLE);
                    Again::No
                };
                (Some(Step::Received { id, len }), again)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.flags.clear(Flags::READABLE);
                self.flags.clear(Flags::READ_TO_END);
                let again = self.flags.has(Flags::ERROR) || self.flags.has(Flags::WRITABLE);
                (None, if again { Again::ThisTurn } else { Again::No })
            }
            Err(error) => {
                self.flags.set(Flags::DEAD);
                (Some(Step::Other(Event::Failed(id, error))), Again::No)
            }
        }
    }
}

impl Listeners {
    fn note_readiness(&mut self, token: KernelToken) {
        if token.is_of_generation(self.generation)
            && let Some(listener) = self.open.get_mut(token.slot())
        {
            listener.ready = true;
        }
    }

    /// Whether peers may be waiting that no edge will announce again.
    fn due(&self) -> bool {
        !self.paused && self.open.iter().any(|listener| listener.ready)
    }

    fn accept(&mut self) -> Option<Event<'static>> {
        if self.paused {
            return None;
        }
        for listener in &mut self.open {
            while listener.ready && self.left_this_turn > 0 {
                self.left_this_turn -= 1;
                match retry(|| accept4(&listener.socket)) {
                    Ok(socket) => return Some(Event::Accepted(AcceptedSocket::Os(socket))),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        listener.ready = false;
                    }
                    Err(error) if concerns_the_peer_only(&error) => {}
                    Err(error) => {
                        self.paused = true;
                        return Some(Event::AcceptPaused(error));
                    }
                }
            }
        }
        None
    }
}

/// accept(2), "Error handling": an error of the new connection or of the network, not of ours.
fn concerns_the_peer_only(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EPROTO
                | libc::EPERM
                | libc::ETIMEDOUT
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
                | libc::EOPNOTSUPP
        )
    )
}

/// accept4(2) without asking for the peer's address: most workers never look at it.
fn accept4(listener: &Socket) -> io::Result<Socket> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let (addr, len) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the descriptor is open for the call, and null means that no address is wanted.
    let fd = unsafe { libc::accept4(listener.as_raw_fd(), addr, len, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(Socket::from(fd))
}

/// What `recv` fills. It writes no uninitialised bytes, which is what makes this cast sound.
fn as_uninit(bytes: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    let len = bytes.len();
    // SAFETY: same layout; the only user is `recv_with_flags`, which only writes received bytes.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), len) }
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

const fn mio_token(token: KernelToken) -> Token {
    Token(token.bits() as usize)
}

#[cfg(test)]
mod tests {
    use super::super::contract::contract_tests;
    use super::super::lab::{Loopback, RealDriver, Skip};
    use super::*;

    fn open(receive_buffer: usize) -> (Box<dyn Driver>, ReceiveMemory) {
        // Few events per turn, so that batches are cut somewhere.
        let (driver, memory) = Epoll::new(EpollConfig { receive_buffer, events: 16 }).unwrap();
        (Box::new(driver), memory)
    }

    mod tcp {
        use super::*;

        struct Tcp;

        impl RealDriver for Tcp {
            const UNIX: bool = false;

            fn open(receive_buffer: usize) -> Result<(Box<dyn Driver>, ReceiveMemory), Skip> {
                Ok(super::open(receive_buffer))
            }
        }

        contract_tests!(Loopback<Tcp>);
    }

    mod unix {
        use super::*;

        struct Unix;

        impl RealDriver for Unix {
            const UNIX: bool = true;

            fn open(receive_buffer: usize) -> Result<(Box<dyn Driver>, ReceiveMemory), Skip> {
                Ok(super::open(receive_buffer))
            }
        }

        contract_tests!(Loopback<Unix>);
    }
}
