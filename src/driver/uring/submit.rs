//! Fills the submission queue: accept, receive, poll, cancel; and enters the kernel.
//!
//! In: what the driver wants. Out: submission entries with [`UserData`], and system calls. It
//! never looks at completions. No entry made here points to memory: received bytes go to the
//! provided buffers, sent bytes never travel through the ring, accept asks for no address.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, opcode};

use super::probe;
use super::user_data::{Operation, UserData};
use super::{AcceptState, ReceiveState, Uring, calls};

/// Submits what is queued, runs the deferred work of the kernel and waits for `want` completions.
///
/// Everything that means no more than "look at the completion queue" is `Ok`.
#[inline(always)]
pub(super) fn enter(ring: &mut IoUring, want: u32, timeout_ms: Option<u64>) -> io::Result<()> {
    let to_submit = ring.submission().len() as u32;
    let ms = timeout_ms.unwrap_or(0);
    let timespec = Timespec::new().sec(ms / 1000).nsec((ms % 1000 * 1_000_000) as u32);
    let args = SubmitArgs::new();
    let args = if timeout_ms.is_some() { args.timespec(&timespec) } else { args };
    let mut flags = EnterFlags::GETEVENTS;
    if ring.params().is_feature_no_iowait() {
        // An idle loop is not waiting for a disk.
        flags |= EnterFlags::NO_IOWAIT;
    }
    // Not by the crate, which asks the C library to do it: see `calls`.
    // SAFETY: the descriptor is that of `ring`, which lives.
    let fd = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
    let result = calls::io_uring_enter(fd, to_submit, want, flags, &args);
    match result {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            // Timeout; no memory to take more entries now; completions are to be reaped first.
            // Entries that were not taken stay in the queue.
            Some(libc::ETIME | libc::EAGAIN | libc::EBUSY) => Ok(()),
            _ => Err(error),
        },
    }
}

impl Uring {
    /// Starts receiving for a connection that is idle, wants to read and is open.
    pub(super) fn arm_receive(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        debug_assert!(matches!(slot.receive, ReceiveState::Idle | ReceiveState::Starved));
        let Some(socket) = &slot.socket else { return };
        let user_data = UserData::new(Operation::Receive, index, slot.generation);
        let entry = probe::receive(Fd(socket.as_raw_fd()), &self.buffers, self.mode);
        slot.receive = ReceiveState::Armed;
        slot.fed = false;
        self.in_flight += 1;
        self.push(entry.user_data(user_data.raw()));
    }

    /// Asks to be told when the connection's send buffer has room again, unless that was asked
    /// before.
    ///
    /// Multishot, because that reports edges. A one-shot poll would complete at once, again and
    /// again, for a peer that has sent FIN: the kernel always polls for POLLRDHUP as well.
    pub(super) fn arm_writable(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let Some(socket) = &slot.socket else { return };
        if slot.polling {
            return;
        }
        let user_data = UserData::new(Operation::Writable, index, slot.generation);
        let fd = Fd(socket.as_raw_fd());
        let entry = opcode::PollAdd::new(fd, libc::POLLOUT as u32).multi(true).build();
        slot.polling = true;
        self.in_flight += 1;
        self.push(entry.user_data(user_data.raw()));
    }

    /// Asks to be told when a socket that is connecting has arrived, or has failed to. One-shot: it
    /// happens once.
    pub(super) fn arm_connected(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let Some(socket) = &slot.socket else { return };
        let user_data = UserData::new(Operation::Writable, index, slot.generation);
        let entry = opcode::PollAdd::new(Fd(socket.as_raw_fd()), libc::POLLOUT as u32).build();
        slot.polling = true;
        self.in_flight += 1;
        self.push(entry.user_data(user_data.raw()));
    }

    /// Starts accepting on an idle listener.
    pub(super) fn arm_accept(&mut self, index: u32) {
        let listener = &mut self.listeners[index as usize];
        debug_assert!(listener.accept == AcceptState::Idle);
        let Some(socket) = &listener.socket else { return };
        let user_data = UserData::new(Operation::Accept, index, 0);
        let entry =
            opcode::AcceptMulti::new(Fd(socket.as_raw_fd())).flags(libc::SOCK_CLOEXEC).build();
        listener.accept = AcceptState::Armed;
        self.in_flight += 1;
        self.push(entry.user_data(user_data.raw()));
    }

    /// Watches the waker's eventfd.
    pub(super) fn arm_wake(&mut self) {
        let fd = Fd(self.eventfd.as_raw_fd());
        let user_data = UserData::new(Operation::Wake, 0, 0);
        let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build();
        self.in_flight += 1;
        self.push(entry.user_data(user_data.raw()));
    }

    /// Cancels the receive operation of a connection, if there is one that nobody cancelled yet.
    pub(super) fn cancel_receive(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if slot.receive == ReceiveState::Armed {
            slot.receive = ReceiveState::Cancelling;
            let user_data = UserData::new(Operation::Receive, index, slot.generation);
            self.cancel(CancelBuilder::user_data(user_data.raw()));
        }
    }

    /// Cancels the poll for room of a connection, if there is one.
    pub(super) fn cancel_writable(&mut self, index: u32) {
        let slot = &self.slots[index as usize];
        if slot.polling {
            let user_data = UserData::new(Operation::Writable, index, slot.generation);
            self.cancel(CancelBuilder::user_data(user_data.raw()));
        }
    }

    /// Cancels the accept operation of a listener, if there is one that nobody cancelled yet.
    pub(super) fn cancel_accept(&mut self, index: u32) {
        let listener = &mut self.listeners[index as usize];
        if listener.accept == AcceptState::Armed {
            listener.accept = AcceptState::Cancelling;
            let user_data = UserData::new(Operation::Accept, index, 0);
            self.cancel(CancelBuilder::user_data(user_data.raw()));
        }
    }

    /// Cancels whatever `target` names. The result of a cancellation means nothing (kernels
    /// differ); what counts is that its target completes without `IORING_CQE_F_MORE`. Targets are
    /// named by user data, never by descriptor: a number that was reused cannot be hit.
    pub(super) fn cancel(&mut self, target: CancelBuilder) {
        let user_data = UserData::new(Operation::Cancel, 0, 0);
        let entry = opcode::AsyncCancel2::new(target).build().flags(Flags::SKIP_SUCCESS);
        self.push(entry.user_data(user_data.raw()));
    }

    /// Waits for completions as [`enter`] does, after submitting everything that is queued.
    #[inline(always)]
    pub(super) fn submit_and_wait(&mut self, want: u32, timeout_ms: Option<u64>) -> io::Result<()> {
        if !self.overflow.is_empty() && !self.submit_overflow()? {
            return Ok(());
        }
        self.enters += 1;
        enter(&mut self.ring, want, timeout_ms)
    }

    /// Makes room in the queue for the entries that did not fit; false if the kernel takes nothing
    /// before completions are reaped.
    #[cold]
    fn submit_overflow(&mut self) -> io::Result<bool> {
        loop {
            self.refill();
            if self.overflow.is_empty() {
                return Ok(true);
            }
            let before = self.overflow.len();
            self.enters += 1;
            enter(&mut self.ring, 0, None)?;
            self.refill();
            if self.overflow.len() == before {
                return Ok(false);
            }
        }
    }

    /// Whether the kernel has seen every entry.
    pub(super) fn everything_submitted(&mut self) -> bool {
        self.overflow.is_empty() && self.ring.submission().is_empty()
    }

    /// Queues an entry; it is never lost.
    fn push(&mut self, entry: Entry) {
        if self.overflow.is_empty() && self.try_push(&entry) {
            return;
        }
        if self.overflow.is_empty() {
            // The queue is full: hand it to the kernel and go on. An error comes back from the
            // next wait, which enters as well.
            self.enters += 1;
            let _ = self.ring.submit();
            if self.try_push(&entry) {
                return;
            }
        }
        self.overflow.push_back(entry);
    }

    /// Moves waiting entries, in order, to the submission queue.
    fn refill(&mut self) {
        while let Some(entry) = self.overflow.pop_front() {
            if !self.try_push(&entry) {
                self.overflow.push_front(entry);
                return;
            }
        }
    }

    fn try_push(&mut self, entry: &Entry) -> bool {
        // SAFETY: no entry of this driver points to memory of the process (see the module
        // documentation); its descriptor stays open until the operation has come back.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }
}
