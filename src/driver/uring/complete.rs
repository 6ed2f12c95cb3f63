//! Completions to events, and the next operation for every one that ended.
//!
//! In: one completion entry at a time. Out: what happened, if the worker should know; queued
//! submissions for what has to go on. It never blocks and never enters the kernel for waiting.
//!
//! The rule that everything hangs on: **a completion without `IORING_CQE_F_MORE` is the end of
//! its operation**, whatever its result says. Then the operation is armed again, or its
//! connection waits for something that is certain to come: a `resume_reading`, a returned buffer
//! (`starved`), or `close`.

#![allow(unsafe_code)]

use std::io::{self, Read};
use std::os::fd::{FromRawFd, OwnedFd};

use io_uring::cqueue;
use socket2::Socket;

use super::user_data::{Operation, UserData};
use super::{AcceptState, Phase, ReceiveState, Uring};
use crate::driver::socket::finish_connect;
use crate::driver::{AcceptedSocket, ConnectionId, Event};

/// What one completion amounts to.
pub(super) enum Outcome {
    /// Nothing that the worker has to know.
    Nothing,
    /// Bytes in the receive memory. Their buffer is on loan until the next event.
    Received { id: ConnectionId, offset: usize, len: usize },
    /// An event without bytes.
    Event(Event<'static>),
}

impl Uring {
    pub(super) fn complete(&mut self, completion: &cqueue::Entry) -> Outcome {
        let user_data = UserData::from_raw(completion.user_data());
        let result = completion.result();
        let flags = completion.flags();
        match user_data.operation() {
            Some(Operation::Receive) => self.complete_receive(user_data, result, flags),
            Some(Operation::Writable) => self.complete_writable(user_data, result, flags),
            Some(Operation::Accept) => self.complete_accept(user_data, result, flags),
            Some(Operation::Wake) => self.complete_wake(flags),
            Some(Operation::Cancel) => Outcome::Nothing,
            None => {
                debug_assert!(false, "completion of an operation that was never submitted");
                self.stale_events += 1;
                Outcome::Nothing
            }
        }
    }

    /// The usual case, with as few branches as it takes: bytes of an open connection, of which more
    /// will come into the same buffer. `None` for everything else; nothing has changed then.
    #[inline(always)]
    pub(super) fn receive_plain(
        &mut self,
        completion: &cqueue::Entry,
    ) -> Option<(ConnectionId, usize, usize)> {
        let user_data = UserData::from_raw(completion.user_data());
        let (result, flags) = (completion.result(), completion.flags());
        let is_receive = user_data.operation() == Some(Operation::Receive);
        if !is_receive || result <= 0 || !cqueue::more(flags) {
            return None;
        }
        let slot = self.slots.get_mut(user_data.slot() as usize)?;
        if slot.phase != Phase::Open || !user_data.is_of(slot.generation) {
            return None;
        }
        let bid = cqueue::buffer_select(flags).filter(|_| cqueue::buffer_more(flags))?;
        let len = result as u32;
        let offset = self.buffers.advance_within(bid, len)?;
        slot.fed = true;
        let id = ConnectionId::new(slot.worker, user_data.slot(), slot.generation);
        self.note_len(len);
        Some((id, offset, len as usize))
    }

    /// Takes the length of a receive into the mean of these days.
    #[inline]
    fn note_len(&mut self, len: u32) {
        self.typical_len = self.typical_len - self.typical_len / 8 + len / 8;
    }

    fn complete_receive(&mut self, user_data: UserData, result: i32, flags: u32) -> Outcome {
        let more = cqueue::more(flags);
        let len = result.max(0) as u32;
        // First of all the buffer: a late completion owns one like any other.
        let piece = cqueue::buffer_select(flags)
            .map(|bid| self.buffers.advance(bid, len, cqueue::buffer_more(flags)));
        if !more {
            self.in_flight -= 1;
        }
        let index = user_data.slot();
        let slot = match self.slots.get_mut(index as usize) {
            Some(slot) if slot.phase != Phase::Free && user_data.is_of(slot.generation) => slot,
            _ => {
                self.stale_events += 1;
                self.recycle(piece.and_then(|piece| piece.spent));
                return Outcome::Nothing;
            }
        };
        if !more {
            slot.receive = ReceiveState::Idle;
        }
        let id = ConnectionId::new(slot.worker, index, slot.generation);
        if slot.phase != Phase::Open {
            self.stale_events += u64::from(result > 0);
            self.recycle(piece.and_then(|piece| piece.spent));
            self.release_if_idle(index);
            return Outcome::Nothing;
        }
        match (result, piece) {
            (1.., Some(piece)) => {
                self.lent = piece.spent;
                slot.fed = true;
                self.note_len(len);
                self.receive_on(index);
                return Outcome::Received { id, offset: piece.offset, len: len as usize };
            }
            (0, _) => {
                slot.phase = Phase::Ended;
                self.recycle(piece.and_then(|piece| piece.spent));
                return Outcome::Event(Event::Ended(id));
            }
            _ => self.recycle(piece.and_then(|piece| piece.spent)),
        }
        match -result {
            // Cancelled by a pause that was taken back, or not begun: go on if reading is wanted.
            libc::ECANCELED | libc::EINTR => self.receive_on(index),
            libc::EAGAIN => {
                // Older kernels do not let an operation on a non-blocking socket wait.
                make_blocking(self.slots[index as usize].socket.as_ref());
                self.receive_on(index);
            }
            // Not an error of the connection: it goes on when buffers have come back.
            libc::ENOBUFS => {
                self.buffers_exhausted += 1;
                self.starve(index);
            }
            error => {
                self.slots[index as usize].phase = Phase::Failed;
                let error = io::Error::from_raw_os_error(error);
                return Outcome::Event(Event::Failed(id, error));
            }
        }
        Outcome::Nothing
    }

    fn complete_writable(&mut self, user_data: UserData, result: i32, flags: u32) -> Outcome {
        let more = cqueue::more(flags);
        if !more {
            self.in_flight -= 1;
        }
        let index = user_data.slot();
        let slot = match self.slots.get_mut(index as usize) {
            Some(slot) if slot.phase != Phase::Free && user_data.is_of(slot.generation) => slot,
            _ => {
                self.stale_events += 1;
                return Outcome::Nothing;
            }
        };
        slot.polling = more;
        if slot.phase == Phase::Connecting {
            let id = ConnectionId::new(slot.worker, index, slot.generation);
            let outcome = match (&slot.socket, result) {
                (_, ..0) => Err(io::Error::from_raw_os_error(-result)),
                (Some(socket), _) => finish_connect(socket),
                (None, _) => Err(io::ErrorKind::NotConnected.into()),
            };
            return Outcome::Event(self.connected(id, outcome));
        }
        if !matches!(slot.phase, Phase::Open | Phase::Ended) {
            self.release_if_idle(index);
            return Outcome::Nothing;
        }
        let id = ConnectionId::new(slot.worker, index, slot.generation);
        // A poll that failed counts as room: the next send finds out, and polls again.
        let seen = if result < 0 { libc::POLLOUT } else { result as i16 };
        if slot.writable_due && seen & (libc::POLLOUT | libc::POLLERR | libc::POLLHUP) != 0 {
            slot.writable_due = false;
            return Outcome::Event(Event::Writable(id));
        }
        // While bytes are received, that reports errors. After FIN only this one can.
        if slot.phase == Phase::Ended && seen & libc::POLLERR != 0 {
            let error = slot.socket.as_ref().and_then(|socket| socket.take_error().ok().flatten());
            let error = error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
            slot.phase = Phase::Failed;
            return Outcome::Event(Event::Failed(id, error));
        }
        if slot.writable_due {
            self.arm_writable(index);
        }
        Outcome::Nothing
    }

    /// A socket has arrived at its remote end, or never will.
    pub(super) fn connected(
        &mut self,
        id: ConnectionId,
        outcome: io::Result<()>,
    ) -> Event<'static> {
        let slot = &mut self.slots[id.slot()];
        // Operations on a non-blocking socket would not wait.
        make_blocking(slot.socket.as_ref());
        match outcome {
            Ok(()) => {
                slot.phase = Phase::Open;
                self.receive_on(id.slot() as u32);
                Event::Connected(id)
            }
            Err(error) => {
                slot.phase = Phase::Failed;
                Event::Failed(id, error)
            }
        }
    }

    fn complete_accept(&mut self, user_data: UserData, result: i32, flags: u32) -> Outcome {
        let index = user_data.slot();
        if !cqueue::more(flags) {
            self.in_flight -= 1;
            self.listeners[index as usize].accept = AcceptState::Idle;
            if self.listeners[index as usize].stopped {
                self.listeners[index as usize].socket = None;
            }
        }
        if let Some(socket) = accepted(result) {
            self.accept_on(index);
            return Outcome::Event(Event::Accepted(AcceptedSocket::Os(socket.into())));
        }
        match -result {
            // accept(2): errors of the one peer that gave up, or was refused by the network or
            // a firewall; and the end of a pause that was taken back.
            libc::ECANCELED
            | libc::EINTR
            | libc::ECONNABORTED
            | libc::EPROTO
            | libc::EPERM
            | libc::ENETDOWN
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
            | libc::ENONET
            | libc::ENOPROTOOPT => self.accept_on(index),
            libc::EAGAIN => {
                make_blocking(self.listeners[index as usize].socket.as_ref());
                self.accept_on(index);
            }
            // EMFILE, ENFILE, ENOMEM, ENOBUFS; and whatever else, lest the driver spins on it.
            error => {
                if self.accepting {
                    self.stop_accepting();
                    let error = io::Error::from_raw_os_error(error);
                    return Outcome::Event(Event::AcceptPaused(error));
                }
            }
        }
        Outcome::Nothing
    }

    fn complete_wake(&mut self, flags: u32) -> Outcome {
        if !cqueue::more(flags) {
            self.in_flight -= 1;
            self.arm_wake();
        }
        // Reading resets the counter, so that what is written from now on wakes again.
        let mut counter = [0; 8];
        match (&*self.eventfd).read(&mut counter) {
            Ok(count) => {
                debug_assert_eq!(count, counter.len(), "eventfd(2) gives the whole counter");
                Outcome::Event(Event::Woken)
            }
            // An earlier completion has drained this wake as well.
            Err(_) => Outcome::Nothing,
        }
    }

    /// Goes on receiving after an operation ended, if that is still wanted.
    pub(super) fn receive_on(&mut self, index: u32) {
        let slot = &self.slots[index as usize];
        if slot.phase == Phase::Open && slot.reading && slot.receive == ReceiveState::Idle {
            self.arm_receive(index);
        }
    }

    /// Goes on accepting after an operation ended, if that is still wanted.
    pub(super) fn accept_on(&mut self, index: u32) {
        let listener = &self.listeners[index as usize];
        if self.accepting && !listener.stopped && listener.accept == AcceptState::Idle {
            self.arm_accept(index);
        }
    }

    /// Cancels accepting on all listeners until it is resumed.
    pub(super) fn stop_accepting(&mut self) {
        self.accepting = false;
        for index in 0..self.listeners.len() {
            self.cancel_accept(index as u32);
        }
    }

    /// Closes the descriptor of a connection that is closing and has no operation left.
    pub(super) fn release_if_idle(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let receiving = matches!(slot.receive, ReceiveState::Armed | ReceiveState::Cancelling);
        if slot.phase != Phase::Closing || receiving || slot.polling {
            return;
        }
        slot.socket = None;
        slot.phase = Phase::Free;
        slot.receive = ReceiveState::Idle;
        self.sockets -= 1;
        self.released.push_back(ConnectionId::new(slot.worker, index, slot.generation));
    }

    /// Starts receiving again for connections that found no buffer: first those that got nothing,
    /// the longest waiting first, then those that had emptied the ring. The kernel serves them
    /// in this order.
    ///
    /// Called between turns: every buffer that a completion named has been returned by then, so
    /// there are buffers, unless completions that nobody has seen yet hold them all. Then the
    /// next turn sees those, and tries again.
    pub(super) fn feed_starved(&mut self) {
        let waiting = self.starved.len() + self.sated.len();
        if waiting == 0 {
            return;
        }
        // More than can be served would only fail again, and cost time: each failure is a
        // submission, a look at the socket and a completion for nothing.
        let buffers = usize::from(self.buffers.count());
        let bytes = buffers * self.buffers.buffer_len() as usize;
        let served = bytes / (self.typical_len as usize).max(1);
        let most = served.clamp(buffers, (buffers * 4).max(64));
        for _ in 0..most.min(waiting) {
            let next = self.starved.pop_front().or_else(|| self.sated.pop_front());
            let Some((index, generation)) = next else { return };
            let slot = &self.slots[index as usize];
            // The connection may have been paused or closed since, and its slot reused.
            if slot.generation == generation
                && slot.phase == Phase::Open
                && slot.receive == ReceiveState::Starved
            {
                self.arm_receive(index);
            }
        }
    }

    fn starve(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if slot.reading && slot.receive == ReceiveState::Idle {
            slot.receive = ReceiveState::Starved;
            let queue = if slot.fed { &mut self.sated } else { &mut self.starved };
            queue.push_back((index, slot.generation));
        }
    }

    /// Gives a buffer back whose bytes nobody will read.
    fn recycle(&mut self, spent: Option<u16>) {
        if let Some(bid) = spent {
            self.buffers.recycle(bid);
        }
    }
}

/// Lets operations wait that would not. The calls that must not wait say so themselves.
fn make_blocking(socket: Option<&Socket>) {
    if let Some(socket) = socket {
        // Fails only for what is no descriptor.
        let _ = socket.set_nonblocking(false);
    }
}

/// Takes ownership of the descriptor that an accept operation made.
pub(super) fn accepted(result: i32) -> Option<OwnedFd> {
    // SAFETY: a result that is not negative is a descriptor that the kernel made for this
    // completion, which is seen once.
    (result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(result) })
}
