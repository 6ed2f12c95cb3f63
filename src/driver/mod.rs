//! Sockets and bytes: the only folder that knows a file descriptor.
//!
//! A [`Driver`] tells its worker what *happened* and does what the worker wants. Epoll performs
//! the read itself and then reports it; io_uring reports the completion; the simulated driver
//! invents it. Nothing above this folder may know which one is running.
//!
//! # Events and verbs
//!
//! ```text
//!     Accepted  Connected  Received  Ended  Failed  Writable  Released  AcceptPaused  Woken
//!  driver  ------------------------------------------------------------------------->  worker
//!          <-------------------------------------------------------------------------
//!     listen  adopt  connect  send  send_last  pause_reading  resume_reading  finish_sending
//!     close  pause_accepting  resume_accepting  wait  next_event
//! ```
//!
//! # Life cycle of a connection
//!
//! ```text
//!  Accepted(socket)        the worker owns the socket: it may drop it (the peer sees the end)
//!     | adopt(id, socket)  the driver owns the socket and reads from it until told otherwise
//!     v
//!  Received* Writable*     in any order, until one of the two ends below
//!     |
//!     +-- Ended            the peer sent FIN: no Received follows; sending is still possible
//!     +-- Failed           the socket is dead (reset, ...): no Received, Ended, Writable follow
//!     | close(id)          allowed at any moment after adopt, once
//!     v
//!  Released                the last event of `id`: every operation on it has come back and the
//!                          descriptor is closed. Only now may the worker reuse the slot.
//! ```
//!
//! A connection that this side makes begins with `connect(id, remote)` instead, and then either
//! `Connected(id)`, from where on it is like an adopted one, or `Failed(id)`: refused, unreachable,
//! or given up by the kernel. In between nothing else happens to it, and the only verb that it
//! knows is `close`, which is also how an attempt that takes too long is given up.
//!
//! After `close(id)` the only event that still carries `id` is `Released`; the driver swallows
//! everything else. `Released` comes from a later [`Driver::next_event`], never from inside
//! `close`. The worker calls `close` also after `Failed` and `Ended`: the driver never closes on
//! its own. An id of a slot that was reused differs in its generation, so that a late completion
//! cannot reach the next tenant; the driver checks the generation of every kernel token itself.
//!
//! # Who owns which bytes
//!
//! - **Received bytes are lent.** [`Event::Received`] borrows the [`ReceiveMemory`] (not the
//!   driver) until the next call of `next_event`, so the worker may send from them while it
//!   looks at them. They may be changed in place (unmasking). The next `next_event` recycles
//!   them: epoll reads into the same buffer again, io_uring gives the buffer back to the kernel.
//!   In front of the lent bytes lie at least [`HEADROOM`] bytes of the same buffer.
//! - **Sent bytes are borrowed for the call.** [`Driver::send`] hands them to the kernel at once
//!   (`sendmsg(2)` with `MSG_DONTWAIT | MSG_NOSIGNAL`) and says how many it took. The kernel
//!   never owns bytes of an outgoing queue, on any driver: what it did not take stays with the
//!   connection, and [`Event::Writable`] says when to try again. So there is exactly one writer
//!   per connection and no buffer that an operation in flight could still be reading. On
//!   loopback a direct send from the hot buffer also costs less than a SEND operation.
//!
//! # What never leaves this folder
//!
//! EINTR, would-block, exhausted provided buffers, completion-queue overflow, multishot
//! operations that ended, cancelled operations, stale tokens.

use std::fmt;
use std::io;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

pub(crate) mod affinity;
pub(crate) mod any;
pub(crate) mod beneath;
mod calls;
#[cfg(test)]
mod contract;
pub(crate) mod epoll;
pub(crate) mod inherited;
#[cfg(test)]
mod lab;
pub(crate) mod listener;
pub(crate) mod memory;
#[cfg(test)]
pub(crate) mod simulated;
pub(crate) mod socket;
pub(crate) mod token;
pub(crate) mod uring;
pub(crate) mod waker;

pub(crate) use any::AnyDriver;
pub use inherited::BoundListener;
pub use listener::{InvalidListenAddr, ListenAddr};
pub(crate) use memory::ReceiveMemory;
pub use socket::ConnectedSocket;
pub(crate) use socket::Remote;
pub use token::ConnectionId;
pub(crate) use waker::Waker;

/// Bytes in front of every lent slice that belong to the same buffer and hold nothing.
pub(crate) const HEADROOM: usize = 16;

/// Which driver moves the bytes.
///
/// Parsed from, and displayed as, `auto`, `epoll` and `io_uring`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DriverChoice {
    /// The one that measurements favour; today epoll. The default.
    #[default]
    Auto,
    /// epoll(7): every kernel.
    Epoll,
    /// io_uring(7): Linux 6.1 or newer. Where it cannot start, the server does not start either.
    IoUring,
}

impl fmt::Display for DriverChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            DriverChoice::Auto => "auto",
            DriverChoice::Epoll => "epoll",
            DriverChoice::IoUring => "io_uring",
        })
    }
}

impl FromStr for DriverChoice {
    type Err = InvalidDriverChoice;

    fn from_str(name: &str) -> Result<Self, InvalidDriverChoice> {
        match name {
            "auto" => Ok(DriverChoice::Auto),
            "epoll" => Ok(DriverChoice::Epoll),
            "io_uring" => Ok(DriverChoice::IoUring),
            _ => Err(InvalidDriverChoice),
        }
    }
}

/// The text names no driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidDriverChoice;

impl fmt::Display for InvalidDriverChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown driver: write auto, epoll or io_uring")
    }
}

impl std::error::Error for InvalidDriverChoice {}

/// What the worker may ask of any driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DriverOptions {
    /// The most bytes that one read brings. Default 256 KiB.
    pub(crate) receive_buffer: usize,
}

impl Default for DriverOptions {
    fn default() -> Self {
        Self { receive_buffer: epoll::EpollConfig::default().receive_buffer }
    }
}

/// The one place that chooses a driver. Call it on the thread that will own the driver.
///
/// # Errors
///
/// What the kernel said when the driver could not start: for io_uring, which feature is missing.
pub(crate) fn open(
    choice: DriverChoice,
    options: &DriverOptions,
) -> io::Result<(AnyDriver, ReceiveMemory)> {
    match choice {
        DriverChoice::Auto | DriverChoice::Epoll => {
            let config = epoll::EpollConfig {
                receive_buffer: options.receive_buffer,
                ..epoll::EpollConfig::default()
            };
            let (driver, memory) = epoll::Epoll::new(config)?;
            Ok((AnyDriver::Epoll(driver), memory))
        }
        DriverChoice::IoUring => {
            let config = uring::UringOptions {
                buffer_bytes: options.receive_buffer,
                ..uring::UringOptions::default()
            };
            let (driver, memory) = uring::Uring::new(config)?;
            Ok((AnyDriver::Uring(driver), memory))
        }
    }
}

/// A connection that a listener accepted, or that [`Driver::adopt`] shall take over.
#[derive(Debug)]
pub(crate) enum AcceptedSocket {
    /// A stream socket: blocking or not (every call passes `MSG_DONTWAIT`), close-on-exec.
    Os(socket2::Socket),
    /// One end of a connection of the simulated network.
    #[cfg(test)]
    Simulated(simulated::Socket),
}

impl AcceptedSocket {
    /// `getpeername(2)`; `None` for Unix sockets and peers that have gone.
    pub(crate) fn peer_ip(&self) -> Option<IpAddr> {
        match self {
            Self::Os(socket) => Some(socket.peer_addr().ok()?.as_socket()?.ip()),
            #[cfg(test)]
            Self::Simulated(socket) => Some(socket.peer_ip()),
        }
    }
}

/// Something that happened, in the order the driver saw it.
#[derive(Debug)]
pub(crate) enum Event<'m> {
    /// A listener accepted a peer. Dropping the socket refuses it.
    Accepted(AcceptedSocket),
    /// What [`Driver::connect`] began has succeeded; it is read from now on.
    Connected(ConnectionId),
    /// The peer sent bytes: never empty. They are lent until the next `next_event`.
    Received {
        /// The connection.
        id: ConnectionId,
        /// The bytes, free to be changed in place.
        bytes: &'m mut [u8],
    },
    /// The peer will send no more (FIN). Everything it sent was reported before. Comes once.
    Ended(ConnectionId),
    /// The socket is dead. Comes once, and nothing but `Released` follows.
    Failed(ConnectionId, io::Error),
    /// A `send` that took less than everything may be tried again.
    Writable(ConnectionId),
    /// The last event of this id; its slot may be reused.
    Released(ConnectionId),
    /// The kernel refused to accept (EMFILE, ENFILE, ENOMEM, ENOBUFS, ...). The driver has stopped
    /// accepting on all its listeners; the worker calls `resume_accepting` after a pause or
    /// when a descriptor came free.
    AcceptPaused(io::Error),
    /// A [`Waker`] was used; many wakes may arrive as one.
    Woken,
}

/// See the module documentation. Every method must be called on the thread that owns the driver.
pub(crate) trait Driver {
    /// `"epoll"`, `"io_uring"` or `"simulated"`.
    fn name(&self) -> &'static str;

    /// Makes room for slots below `slots`, so that tables need not be moved while connections are
    /// open. Only a hint; memory that is not touched costs nothing.
    fn reserve(&mut self, slots: usize) {
        let _ = slots;
    }

    /// Starts accepting from a bound and listening socket (made by `listener::bind`).
    fn listen(&mut self, listener: socket2::Socket) -> io::Result<()>;

    /// Stops accepting on every listener; peers wait in the kernel's backlog.
    fn pause_accepting(&mut self);

    /// Accepts again after `pause_accepting` or [`Event::AcceptPaused`]. No-op otherwise.
    fn resume_accepting(&mut self);

    /// Closes every listener for good (shutdown). Established connections go on.
    fn stop_listening(&mut self);

    /// Takes over a socket under `id` and starts reading. The id's slot must be free, that is
    /// never adopted or `Released`. On an error the socket is closed and no event follows.
    fn adopt(&mut self, id: ConnectionId, socket: AcceptedSocket) -> io::Result<()>;

    /// Begins to connect to `remote` under `id`, without waiting; the same holds for the id's slot.
    /// `Connected` or `Failed` follows, however long that takes. An error means that the attempt
    /// is over already; no event follows, and the slot is still free.
    fn connect(&mut self, id: ConnectionId, remote: &Remote) -> io::Result<()>;

    /// Sends as much as the socket takes now. `Ok(n)` with `n` less than the sum of the slices
    /// means that the socket is full: `Writable` follows once there is room. An error means that
    /// the connection is dead; the worker closes it (no `Failed` event follows). Before `Writable`
    /// came, a further call is allowed and usually answers `Ok(0)`.
    fn send(&mut self, id: ConnectionId, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// [`Self::send`] for the usual case of one slice, which is not empty.
    fn send_bytes(&mut self, id: ConnectionId, bytes: &[u8]) -> io::Result<usize> {
        self.send(id, &[IoSlice::new(bytes)])
    }

    /// [`Self::send`] for the last bytes of a connection: if the socket takes them all, then
    /// `finish_sending` or `close` follows before anything else. So the FIN may travel with them,
    /// which saves both sides a packet; bytes with nothing behind them may stay behind a while.
    fn send_last(&mut self, id: ConnectionId, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.send(id, slices)
    }

    /// Stops reading: the kernel's buffer fills and the peer feels it. Bytes that were received
    /// before the pause took effect may still arrive as `Received`; the FIN may be reported late.
    fn pause_reading(&mut self, id: ConnectionId);

    /// Reads again after `pause_reading`. No-op if not paused.
    fn resume_reading(&mut self, id: ConnectionId);

    /// What was just received belongs to something large that is not complete, so what this socket
    /// has more shall come next, before other connections have their turn. A wish, which drivers
    /// grant that put a connection back after a full read; whoever asks bounds how often.
    fn read_on(&mut self, id: ConnectionId) {
        let _ = id;
    }

    /// `shutdown(SHUT_WR)`: the peer sees FIN after everything sent. Reading goes on.
    fn finish_sending(&mut self, id: ConnectionId);

    /// Ends the connection at once; unread input makes the kernel send RST. `Released` follows.
    fn close(&mut self, id: ConnectionId);

    /// `getpeername(2)`; `None` for Unix sockets and peers that have gone.
    fn peer_addr(&self, id: ConnectionId) -> Option<SocketAddr>;

    /// Waits until something happened, at most `timeout_ms` (`None`: for ever, `Some(0)`: only
    /// looks). Returns early and without an error on EINTR.
    fn wait(&mut self, timeout_ms: Option<u64>) -> io::Result<()>;

    /// The next thing that happened, or `None` when the turn is over and `wait` is due. Bytes
    /// lent by the previous event are recycled. One turn ends: a driver hands out a bounded
    /// number of events, and at most about one receive buffer of bytes per connection, and one
    /// more for every `read_on`, before it answers `None`.
    fn next_event<'m>(&mut self, memory: &'m mut ReceiveMemory) -> Option<Event<'m>>;

    /// [`Self::next_event`] for the usual case alone: bytes of a connection about which nothing
    /// else is to be said. `None` means no more than that `next_event` is to be asked.
    fn next_received<'m>(
        &mut self,
        memory: &'m mut ReceiveMemory,
    ) -> Option<(ConnectionId, &'m mut [u8])> {
        let _ = memory;
        None
    }

    /// True if it is certain that `next_event` would say `None`. Asked when `next_received` has
    /// said so.
    fn is_done(&self) -> bool {
        false
    }

    /// A handle that makes `wait` return from any thread.
    fn waker(&self) -> Waker;

    /// Milliseconds on the driver's monotonic clock (virtual in the simulated driver), from any
    /// origin. Read once per turn by the worker.
    fn now_ms(&self) -> u64;

    /// The same clock in nanoseconds, which count 584 years; `now_ms` is this, rounded down.
    fn now_ns(&self) -> u64 {
        self.now_ms() * 1_000_000
    }

    /// Figures for tests and statistics.
    fn stats(&self) -> DriverStats;

    /// The sum of all counters in [`DriverStats`]: cheap enough for every turn, and unchanged in
    /// most of them.
    fn mishaps(&self) -> u64 {
        let stats = self.stats();
        stats.stale_events + stats.buffers_exhausted
    }
}

/// Counters of one driver.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DriverStats {
    /// Sockets now owned by the driver, listeners excluded.
    pub(crate) sockets: usize,
    /// Kernel events for connections that no longer exist (late completions): ignored.
    pub(crate) stale_events: u64,
    /// Receive operations that found no provided buffer (io_uring only).
    pub(crate) buffers_exhausted: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn driver_choices_parse_as_they_are_displayed() {
        for choice in [DriverChoice::Auto, DriverChoice::Epoll, DriverChoice::IoUring] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert_eq!("Epoll".parse::<DriverChoice>(), Err(InvalidDriverChoice));
        assert_eq!(DriverChoice::default(), DriverChoice::Auto);
    }

    #[test]
    fn auto_opens_epoll() {
        let (driver, memory) = open(DriverChoice::Auto, &DriverOptions::default()).unwrap();
        assert_eq!(driver.name(), "epoll");
        assert!(memory.len() >= HEADROOM + DriverOptions::default().receive_buffer);
    }

    #[test]
    fn io_uring_opens_or_says_why_not() {
        match open(DriverChoice::IoUring, &DriverOptions::default()) {
            Ok((driver, memory)) => {
                assert_eq!(driver.name(), "io_uring");
                assert!(memory.len() > DriverOptions::default().receive_buffer);
            }
            Err(error) => {
                assert!(error.to_string().starts_with("io_uring cannot be used: "), "{error}");
            }
        }
    }
}
