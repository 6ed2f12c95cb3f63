//! Completion driver: owns an io_uring(7) and implements [`Driver`] on it.
//!
//! Comes in: the worker's verbs, and completions. Goes out: events, and submissions. What it
//! never does: send through the ring, keep two receive operations of one connection, close a
//! descriptor with an operation on it, treat exhausted buffers or a full queue as an error.
//!
//! ```text
//!             submit.rs                                     complete.rs
//!  verbs  ->  SQ: accept* recv* poll cancel ->  kernel  ->  CQ: one entry at a time  ->  events
//!  send   ->  send(2), sendmsg(2)               |   ^
//!                             fills buffers ----+   +---- recycled by the next `next_event`
//!                                          buffers.rs
//! ```
//!
//! Operations marked with a star are multishot: armed once, they complete again and again until
//! a completion says that it was the last.
//!
//! # Threads
//!
//! The ring is made with `SINGLE_ISSUER | DEFER_TASKRUN`: only the thread that calls
//! [`Uring::new`] may use it. `Uring` is neither `Send` nor `Sync`, so the compiler sees to that.
//!
//! # System calls
//!
//! One `io_uring_enter(2)` per turn submits, runs the kernel's deferred work and waits; one
//! `send(2)` or `sendmsg(2)` per flushed connection; two per connection closed.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::types::CancelBuilder;
use io_uring::{IoUring, cqueue, squeue};
use socket2::Socket;

use self::buffers::Buffers;
use self::complete::{Outcome, accepted};
use self::user_data::{Operation, UserData};
use super::calls;
use super::socket::begin_connect;
use super::{
    AcceptedSocket, ConnectionId, Driver, DriverStats, Event, ReceiveMemory, Remote, Waker,
};

mod buffers;
mod complete;
#[cfg(test)]
mod labs;
mod probe;
mod submit;
#[cfg(test)]
mod tests;
mod user_data;

pub(crate) use probe::Unavailable;

/// Sizes of a ring. Memory per worker: `buffer_bytes * buffers` of receive memory, 64 bytes per
/// submission entry, 16 bytes per completion entry, 16 bytes per connection slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UringOptions {
    /// Bytes of one receive buffer. Default 256 KiB: a large read is worth more than anything
    /// else. Where the kernel cannot fill a buffer piece by piece, buffers of at most 64 KiB are
    /// used instead, and more of them.
    pub(crate) buffer_bytes: usize,
    /// Number of receive buffers, from 1 to 32768. Default 4: more of them leave the cache, which
    /// costs more than a reader that has to wait for a buffer.
    pub(crate) buffers: u16,
    /// Entries of the submission queue. Default 256; a full queue is submitted early, and one that is
    /// larger spreads over more memory.
    pub(crate) submissions: u32,
    /// Entries of the completion queue. Default 8192; an overflow costs time, not completions.
    pub(crate) completions: u32,
    /// The first mode to try. Default [`ReceiveMode::Incremental`]; tests force the others.
    pub(crate) best_mode: ReceiveMode,
}

impl Default for UringOptions {
    fn default() -> Self {
        Self {
            buffer_bytes: 256 * 1024,
            buffers: 4,
            submissions: 256,
            completions: 8192,
            best_mode: ReceiveMode::Incremental,
        }
    }
}

/// How bytes are received, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReceiveMode {
    /// Multishot, and buffers that are filled piece by piece (Linux 6.12).
    Incremental,
    /// Multishot, one buffer per completion (Linux 6.0).
    Multishot,
    /// One operation and one buffer per completion (Linux 5.19).
    SingleShot,
}

impl ReceiveMode {
    /// For log lines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            ReceiveMode::Incremental => "incremental multishot",
            ReceiveMode::Multishot => "multishot",
            ReceiveMode::SingleShot => "single-shot",
        }
    }

    /// The next worse mode.
    fn next(self) -> Option<Self> {
        match self {
            ReceiveMode::Incremental => Some(ReceiveMode::Multishot),
            ReceiveMode::Multishot => Some(ReceiveMode::SingleShot),
            ReceiveMode::SingleShot => None,
        }
    }
}

/// See the module documentation.
pub(crate) struct Uring {
    ring: IoUring,
    buffers: Buffers,
    mode: ReceiveMode,
    slots: Vec<Slot>,
    listeners: Vec<Listener>,
    /// What the worker wants of the listeners.
    accepting: bool,
    /// The counter behind the waker.
    eventfd: Arc<File>,
    /// Completions left of this turn, `seen` included.
    remaining: usize,
    /// One that was taken from the queue and not seen to yet.
    seen: Option<cqueue::Entry>,
    /// The buffer whose last bytes the worker is looking at.
    lent: Option<u16>,
    /// `Released` events to be handed out.
    released: VecDeque<ConnectionId>,
    /// Sockets that had arrived as soon as they began to connect.
    arrived: VecDeque<ConnectionId>,
    /// Slots and generations that found no buffer and got nothing before, in this order.
    starved: VecDeque<(u32, u32)>,
    /// The same for those that emptied the ring themselves: they are served after `starved`, or
    /// a firehose would have every buffer each time before anybody else.
    sated: VecDeque<(u32, u32)>,
    /// Bytes that a receive brings these days: a mean in which the newest counts an eighth.
    typical_len: u32,
    /// Entries that did not fit into the submission queue although it was submitted.
    overflow: VecDeque<squeue::Entry>,
    /// Operations that have not come back, cancellations not counted.
    in_flight: usize,
    sockets: usize,
    stale_events: u64,
    buffers_exhausted: u64,
    /// Times that the kernel was entered through the ring.
    enters: u64,
    /// Neither `Send` nor `Sync`: the ring belongs to the thread that made it.
    thread: PhantomData<*const ()>,
}

/// One connection: 16 bytes.
struct Slot {
    socket: Option<Socket>,
    generation: u32,
    worker: u16,
    phase: Phase,
    receive: ReceiveState,
    /// What the worker wants: `false` between `pause_reading` and `resume_reading`.
    reading: bool,
    /// Whether a poll for room is in flight: while connecting, and from the first short send on to
    /// the end.
    polling: bool,
    /// Whether the worker waits for `Writable`.
    writable_due: bool,
    /// Whether the present receive operation has brought bytes.
    fed: bool,
}

const _: () = assert!(size_of::<Slot>() <= 16);

/// Where a connection stands in its life cycle, see [`super`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nobody lives here, and no operation is in flight.
    Free,
    /// On its way to its remote end: a poll tells when it has arrived, or never will.
    Connecting,
    Open,
    /// The peer sent FIN.
    Ended,
    Failed,
    /// The worker called `close`; waits for operations to come back.
    Closing,
}

/// The one receive operation of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReceiveState {
    Idle,
    /// Found no buffer, and stands in the queue for one. Not in flight.
    Starved,
    Armed,
    /// In flight, and a cancellation follows it.
    Cancelling,
}

struct Listener {
    socket: Option<Socket>,
    accept: AcceptState,
    /// `stop_listening` was called; the socket goes when the operation is back.
    stopped: bool,
}

/// The one accept operation of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AcceptState {
    Idle,
    Armed,
    Cancelling,
}

/// One of the calls that send.
type SendCall = fn(BorrowedFd<'_>, &[IoSlice<'_>]) -> io::Result<usize>;

impl Uring {
    /// Sets up a ring, finds out what the kernel can do, and makes the receive memory. Must be
    /// called on the thread that will use the driver.
    ///
    /// # Errors
    ///
    /// Which kernel feature is missing or forbidden.
    pub(crate) fn new(options: UringOptions) -> Result<(Self, ReceiveMemory), Unavailable> {
        let opened = probe::open(&options)?;
        let eventfd = super::waker::eventfd()
            .map_err(|source| Unavailable::new("eventfd(2) for the waker", source))?;
        let mut uring = Self {
            ring: opened.ring,
            buffers: opened.buffers,
            mode: opened.mode,
            slots: Vec::new(),
            listeners: Vec::new(),
            accepting: true,
            eventfd: Arc::new(eventfd),
            remaining: 0,
            seen: None,
            lent: None,
            released: VecDeque::new(),
            arrived: VecDeque::new(),
            starved: VecDeque::new(),
            sated: VecDeque::new(),
            typical_len: 0,
            overflow: VecDeque::new(),
            in_flight: 0,
            sockets: 0,
            stale_events: 0,
            buffers_exhausted: 0,
            enters: 0,
            thread: PhantomData,
        };
        uring.arm_wake();
        log::debug!("io_uring: {} receive", uring.mode.name());
        Ok((uring, opened.memory))
    }

    /// The mode that the kernel supports.
    #[cfg(test)]
    fn receive_mode(&self) -> ReceiveMode {
        self.mode
    }

    /// The slot of a connection that the worker may still use.
    #[inline]
    fn slot(&self, id: ConnectionId) -> Option<&Slot> {
        let slot = self.slots.get(id.slot())?;
        let usable = !matches!(slot.phase, Phase::Free | Phase::Closing);
        (usable && slot.generation == id.generation()).then_some(slot)
    }

    /// The socket of a connection on which something may be sent.
    #[inline]
    fn socket_to_send(&self, id: ConnectionId) -> Option<&Socket> {
        let slot = self.slot(id)?;
        matches!(slot.phase, Phase::Open | Phase::Ended).then_some(slot.socket.as_ref())?
    }

    /// Takes note of what a send to an open connection said.
    fn note_sent(&mut self, id: ConnectionId, sent: io::Result<Sent>) -> io::Result<usize> {
        match sent {
            Ok(Sent::Everything(sent)) => Ok(sent),
            Ok(Sent::Part(sent)) => {
                self.slots[id.slot()].writable_due = true;
                self.arm_writable(id.slot() as u32);
                Ok(sent)
            }
            Err(error) => {
                // The worker knows now; what receiving will say of it is no news any more.
                self.slots[id.slot()].phase = Phase::Failed;
                Err(error)
            }
        }
    }

    /// The next completion, of this turn or not.
    #[inline]
    fn next_completion(&mut self) -> Option<cqueue::Entry> {
        self.seen.take().or_else(|| self.ring.completion().next())
    }

    /// True if a turn has something to see to that is no completion.
    #[inline(always)]
    fn has_more_than_completions(&self) -> bool {
        self.lent.is_some() || self.released.len() | self.arrived.len() != 0
    }

    fn slot_mut(&mut self, id: ConnectionId) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(id.slot())?;
        let usable = !matches!(slot.phase, Phase::Free | Phase::Closing);
        (usable && slot.generation == id.generation()).then_some(slot)
    }

    /// Gives a socket the slot of `id`.
    fn settle(&mut self, id: ConnectionId, socket: Socket, phase: Phase) -> io::Result<u32> {
        // The slot travels in 32 bits of the user data, and comes from a u32.
        let index = id.slot() as u32;
        if self.slots.len() <= id.slot() {
            self.slots.resize_with(id.slot() + 1, Slot::free);
        }
        let slot = &mut self.slots[id.slot()];
        if slot.phase != Phase::Free {
            debug_assert!(false, "slot {index} is taken");
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        *slot = Slot {
            socket: Some(socket),
            generation: id.generation(),
            worker: id.worker(),
            phase,
            reading: true,
            ..Slot::free()
        };
        self.sockets += 1;
        Ok(index)
    }

    /// Ends all operations and takes the receive memory away from the kernel.
    fn wind_down(&mut self) -> io::Result<()> {
        const PATIENCE: Duration = Duration::from_secs(1);
        let deadline = Instant::now() + PATIENCE;
        self.cancel(CancelBuilder::any());
        while self.in_flight > 0 {
            self.submit_and_wait(1, Some(100))?;
            while let Some(completion) = self.next_completion() {
                let operation = UserData::from_raw(completion.user_data()).operation();
                if operation == Some(Operation::Accept) {
                    // Nobody will serve this peer: it sees the end.
                    drop(accepted(completion.result()));
                }
                if operation != Some(Operation::Cancel) && !cqueue::more(completion.flags()) {
                    self.in_flight -= 1;
                }
            }
            if self.in_flight > 0 && Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        self.buffers.unregister(&self.ring.submitter())
    }
}

impl Driver for Uring {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn reserve(&mut self, slots: usize) {
        self.slots.reserve(slots);
    }

    fn listen(&mut self, listener: Socket) -> io::Result<()> {
        if !listener.is_listener()? {
            // Accepting would fail again and again.
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let index = self.listeners.len() as u32;
        self.listeners.push(Listener {
            socket: Some(listener),
            accept: AcceptState::Idle,
            stopped: false,
        });
        self.accept_on(index);
        Ok(())
    }

    fn pause_accepting(&mut self) {
        self.stop_accepting();
    }

    fn resume_accepting(&mut self) {
        self.accepting = true;
        for index in 0..self.listeners.len() {
            self.accept_on(index as u32);
        }
    }

    fn stop_listening(&mut self) {
        for index in 0..self.listeners.len() {
            self.listeners[index].stopped = true;
            self.cancel_accept(index as u32);
        }
        // An operation keeps its socket open, so let the cancellations run at once: when this
        // returns, peers are refused. A failure shows in the next wait.
        let _ = self.submit_and_wait(0, None);
        let submitted = self.everything_submitted();
        for listener in &mut self.listeners {
            // Otherwise the number could be another socket by the time an entry gets in.
            if submitted || listener.accept == AcceptState::Idle {
                listener.socket = None;
            }
        }
    }

    fn adopt(&mut self, id: ConnectionId, socket: AcceptedSocket) -> io::Result<()> {
        // Only tests know a second kind.
        #[allow(clippy::infallible_destructuring_match)]
        let socket = match socket {
            AcceptedSocket::Os(socket) => socket,
            #[cfg(test)]
            AcceptedSocket::Simulated(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        let index = self.settle(id, socket, Phase::Open)?;
        self.arm_receive(index);
        Ok(())
    }

    fn connect(&mut self, id: ConnectionId, remote: &Remote) -> io::Result<()> {
        // A CONNECT operation would point to an address in our memory, and saves no system call
        // that matters: this one does not wait.
        let (socket, arrived) = begin_connect(remote)?;
        let index = self.settle(id, socket, Phase::Connecting)?;
        if arrived {
            self.arrived.push_back(id);
        } else {
            self.arm_connected(index);
        }
        Ok(())
    }

    #[inline(always)]
    fn send_bytes(&mut self, id: ConnectionId, bytes: &[u8]) -> io::Result<usize> {
        let Some(socket) = self.socket_to_send(id) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let sent = calls::send_bytes(socket.as_fd(), bytes);
        match sent {
            Ok(count) if count == bytes.len() => sent,
            Ok(count) => self.note_sent(id, Ok(Sent::Part(count))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.note_sent(id, Ok(Sent::Part(0)))
            }
            Err(error) => self.note_sent(id, Err(error)),
        }
    }

    fn send(&mut self, id: ConnectionId, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let socket = self.socket_to_send(id).ok_or(io::ErrorKind::NotConnected)?;
        let sent = send_now(socket, slices, calls::send);
        self.note_sent(id, sent)
    }

    fn send_last(&mut self, id: ConnectionId, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let socket = self.socket_to_send(id).ok_or(io::ErrorKind::NotConnected)?;
        let sent = send_now(socket, slices, calls::send_more);
        self.note_sent(id, sent)
    }

    fn pause_reading(&mut self, id: ConnectionId) {
        let Some(slot) = self.slot_mut(id) else { return };
        slot.reading = false;
        if slot.receive == ReceiveState::Starved {
            slot.receive = ReceiveState::Idle;
        }
        self.cancel_receive(id.slot() as u32);
    }

    fn resume_reading(&mut self, id: ConnectionId) {
        let Some(slot) = self.slot_mut(id) else { return };
        slot.reading = true;
        // If a cancellation is under way, its completion arms the operation again.
        self.receive_on(id.slot() as u32);
    }

    fn finish_sending(&mut self, id: ConnectionId) {
        if let Some(socket) = self.slot(id).and_then(|slot| slot.socket.as_ref()) {
            // Fails only if the peer has gone, which is reported by receiving.
            let _ = socket.shutdown(Shutdown::Write);
        }
    }

    fn close(&mut self, id: ConnectionId) {
        let index = id.slot() as u32;
        let Some(slot) = self.slot_mut(id) else { return };
        slot.phase = Phase::Closing;
        if slot.receive == ReceiveState::Starved {
            slot.receive = ReceiveState::Idle;
        }
        if slot.receive != ReceiveState::Idle || slot.polling {
            // The operations pin the file, so the peer would see nothing before they are back.
            // This tells it at once, and the cancellations end them.
            if let Some(socket) = &slot.socket {
                let _ = socket.shutdown(Shutdown::Both);
            }
            self.cancel_receive(index);
            self.cancel_writable(index);
        }
        self.release_if_idle(index);
    }

    fn peer_addr(&self, id: ConnectionId) -> Option<SocketAddr> {
        self.slot(id)?.socket.as_ref()?.peer_addr().ok()?.as_socket()
    }

    #[inline(always)]
    fn wait(&mut self, timeout_ms: Option<u64>) -> io::Result<()> {
        self.feed_starved();
        let nothing_to_wait_for = !self.released.is_empty()
            || !self.arrived.is_empty()
            || !self.starved.is_empty()
            || !self.sated.is_empty();
        let timeout_ms = if nothing_to_wait_for { Some(0) } else { timeout_ms };
        let submissions = self.ring.submission();
        // Deferred work and overflown completions need a system call to become completions.
        let kernel_has_work = submissions.taskrun() || submissions.cq_overflow();
        let unsubmitted = !submissions.is_empty() || !self.overflow.is_empty();
        drop(submissions);
        let completed = self.seen.is_some() || !self.ring.completion().is_empty();
        if unsubmitted || kernel_has_work || !(completed || timeout_ms == Some(0)) {
            // For none it need not be told how long to wait.
            let (want, timeout_ms) =
                if timeout_ms == Some(0) { (0, None) } else { (1, timeout_ms) };
            self.submit_and_wait(want, timeout_ms)?;
        }
        self.remaining = self.ring.completion().len() + usize::from(self.seen.is_some());
        Ok(())
    }

    #[inline(never)]
    fn next_event<'m>(&mut self, memory: &'m mut ReceiveMemory) -> Option<Event<'m>> {
        if let Some(bid) = self.lent.take() {
            self.buffers.recycle(bid);
        }
        loop {
            if let Some(id) = self.released.pop_front() {
                return Some(Event::Released(id));
            }
            if let Some(id) = self.arrived.pop_front() {
                match self.slot(id) {
                    Some(slot) if slot.phase == Phase::Connecting => {}
                    _ => continue,
                }
                return Some(self.connected(id, Ok(())));
            }
            self.remaining = self.remaining.checked_sub(1)?;
            let completion = self.next_completion()?;
            match self.complete(&completion) {
                Outcome::Nothing => {}
                Outcome::Event(event) => return Some(event),
                Outcome::Received { id, offset, len } => {
                    debug_assert!(self.buffers.is_of(memory), "receive memory of another driver");
                    // SAFETY: the kernel has filled these bytes and does not write to them again
                    // before their buffer is recycled. That happens in the next `next_event`,
                    // which cannot be called while the slice borrows `memory`.
                    let bytes = unsafe { memory.slice(offset, len) };
                    return Some(Event::Received { id, bytes });
                }
            }
        }
    }

    #[inline(always)]
    fn next_received<'m>(
        &mut self,
        memory: &'m mut ReceiveMemory,
    ) -> Option<(ConnectionId, &'m mut [u8])> {
        if self.remaining == 0 || self.has_more_than_completions() || self.seen.is_some() {
            return None;
        }
        let completion = self.ring.completion().next()?;
        let Some((id, offset, len)) = self.receive_plain(&completion) else {
            self.seen = Some(completion);
            return None;
        };
        self.remaining -= 1;
        debug_assert!(self.buffers.is_of(memory), "receive memory of another driver");
        // SAFETY: as in `next_event`. This piece is not its buffer's last, so the buffer is recycled
        // after a later completion, which nobody takes while the slice borrows `memory`.
        Some((id, unsafe { memory.slice(offset, len) }))
    }

    #[inline(always)]
    fn is_done(&self) -> bool {
        self.remaining == 0 && !self.has_more_than_completions()
    }

    fn waker(&self) -> Waker {
        Waker::Eventfd(Arc::clone(&self.eventfd))
    }

    fn now_ms(&self) -> u64 {
        self.now_ns() / 1_000_000
    }

    #[inline]
    fn now_ns(&self) -> u64 {
        calls::monotonic_ns()
    }

    fn mishaps(&self) -> u64 {
        self.stale_events + self.buffers_exhausted
    }

    fn stats(&self) -> DriverStats {
        DriverStats {
            sockets: self.sockets,
            stale_events: self.stale_events,
            buffers_exhausted: self.buffers_exhausted,
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        log::debug!(
            "io_uring: ends after {} enters, {} late completions, {} times out of buffers",
            self.enters,
            self.stale_events,
            self.buffers_exhausted
        );
        if let Err(error) = self.wind_down() {
            // The kernel may still write to the memory: better lost than overwritten.
            log::warn!("io_uring: operations did not end ({error}); receive memory is leaked");
            self.buffers.leak();
        }
    }
}

impl Slot {
    fn free() -> Self {
        Self {
            socket: None,
            generation: 0,
            worker: 0,
            phase: Phase::Free,
            receive: ReceiveState::Idle,
            reading: false,
            polling: false,
            writable_due: false,
            fed: false,
        }
    }
}

/// What a socket took.
enum Sent {
    Everything(usize),
    /// The socket is full, and the kernel has noted that somebody waits for room.
    Part(usize),
}

#[inline]
fn send_now(socket: &Socket, slices: &[IoSlice<'_>], call: SendCall) -> io::Result<Sent> {
    // sendmsg(2): more slices than IOV_MAX are an error.
    const MOST_SLICES: usize = libc::UIO_MAXIOV as usize;
    let mut total = 0;
    // Going on until a call is short matters: only a socket that was found full makes an edge.
    for slices in slices.chunks(MOST_SLICES) {
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        if wanted == 0 {
            continue;
        }
        let sent = match call(socket.as_fd(), slices) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            // The bytes before the error are gone as well.
            Err(error) => return Err(error),
        };
        total += sent;
        if sent < wanted {
            return Ok(Sent::Part(total));
        }
    }
    Ok(Sent::Everything(total))
}
