//! The third driver: a network in memory, for tests only.
//!
//! In: a seed, faults, what a test lets peers do. Out: events of the driver contract, in virtual
//! time. Never: a socket, a thread, the real clock, or a decision that the seed does not replay.
//!
//! A test holds a [`Network`], the worker its [`Simulated`] driver, both on one thread:
//!
//! ```text
//!  test ---- Network: connect, advance ----+
//!        \-- Peer: send, received, ...  ---+--> Kernel <-- Simulated: Driver <-- worker
//! ```
//!
//! It finds mistakes of the worker in two ways. The faults (see [`Faults`]) do whatever the
//! contract allows and the real drivers seldom do. And every verb is checked against the
//! contract: one on a connection that is closed, released or unknown, a slot or generation
//! reused too early, a second close, a send after the end of sending, and a wait that nothing
//! could end, all panic with the seed. Bytes that were lent are overwritten by 0xDD when the
//! borrow ends.
//!
//! What a TCP connection does is kept as far as a WebSocket server could notice: bounded buffers
//! on both sides, FIN behind the bytes, a reset that destroys bytes, closing with unread input
//! or input that comes later answered by a reset.

#![allow(unsafe_code)]

mod checks;
mod faults;
mod kernel;
mod lab;
mod random;
mod reports;
mod seeds;
mod tests;
mod verbs;

pub(crate) use faults::{Counts, Faults};
pub(crate) use random::Random;
pub(crate) use seeds::for_each_seed;

use super::memory::Region;
use super::{
    AcceptedSocket, ConnectionId, Driver, DriverStats, Event, HEADROOM, ReceiveMemory, Remote,
    Waker,
};
use kernel::{Kernel, ServerEnd};
use reports::Completion;
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

/// Most bytes that one event lends, unless a test wants another size.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// What lent bytes become when the borrow ends.
const SCRIBBLE: u8 = 0xDD;

/// The server's end of a simulated connection that the driver does not own. Dropping it closes
/// the connection.
#[derive(Debug)]
pub(crate) struct Socket {
    number: u32,
    peer_ip: IpAddr,
    _alive: Arc<()>,
}

impl Socket {
    pub(super) fn peer_ip(&self) -> IpAddr {
        self.peer_ip
    }
}

/// How fast a peer reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadRate {
    /// At once, that is after the delay of the network.
    Unlimited,
    /// That many bytes each millisecond.
    BytesPerMs(usize),
    /// Not at all: the send buffer fills, and neither bytes nor a FIN are seen.
    Stopped,
}

/// What a connection of the worker's own making meets at the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reception {
    /// Somebody who listens; see [`Network::reached`].
    Accept,
    Refuse,
    /// Nothing at all.
    Ignore,
}

/// What a peer has seen of its connection's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// No end.
    Open,
    /// The server's FIN, behind everything that it sent.
    Finished,
    /// A reset by the server, or a refusal. What was on its way is lost.
    Reset,
    /// The network broke the connection (a fault).
    Broken,
    /// It reset the connection itself, or met data after it had closed.
    Left,
}

/// The network and its clock. Clones are the same network.
#[derive(Clone, Debug)]
pub(crate) struct Network(Rc<RefCell<Kernel>>);

impl Network {
    /// A network whose every decision follows from the seed and from what is done with it.
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        assert!(faults.send_buffer > 0 && faults.receive_buffer > 0, "buffers hold something");
        Self(Rc::new(RefCell::new(Kernel::new(seed, faults))))
    }

    /// The driver of the one worker on this network, and the memory that goes with it.
    pub(crate) fn driver(&self) -> (Simulated, ReceiveMemory) {
        self.driver_with(RECEIVE_BUFFER)
    }

    /// As `driver`, with reads of at most `receive_buffer` bytes per connection and turn.
    pub(crate) fn driver_with(&self, receive_buffer: usize) -> (Simulated, ReceiveMemory) {
        assert!(receive_buffer > 0, "a read brings something");
        let memory = ReceiveMemory::new(HEADROOM + receive_buffer);
        self.0.borrow_mut().max_lent = receive_buffer;
        (Simulated { network: self.clone(), region: memory.region() }, memory)
    }

    /// Accepts from now on, as if the worker had called `listen`.
    pub(crate) fn open_listener(&self) {
        let mut kernel = self.0.borrow_mut();
        kernel.listening = true;
        kernel.refusing = false;
    }

    /// A new peer asks for a connection; it may send at once.
    pub(crate) fn connect(&self) -> Peer {
        let addr = self.0.borrow().any_addr();
        self.connect_from(addr)
    }

    /// As `connect`, from a given address.
    pub(crate) fn connect_from(&self, addr: SocketAddr) -> Peer {
        let link = self.0.borrow_mut().connect(addr);
        Peer { network: self.clone(), link }
    }

    /// A connection that no listener accepted, to be adopted.
    pub(crate) fn connected_pair(&self) -> (AcceptedSocket, Peer) {
        let mut kernel = self.0.borrow_mut();
        let addr = kernel.any_addr();
        let link = kernel.add_link(addr, ServerEnd::Accepted);
        kernel.descriptors += 1;
        let socket = AcceptedSocket::Simulated(kernel.hand_out(link));
        (socket, Peer { network: self.clone(), link })
    }

    /// What the worker meets from now on where it connects to this address.
    pub(crate) fn receive_at(&self, addr: SocketAddr, reception: Reception) {
        self.0.borrow_mut().remotes.insert(addr, reception);
    }

    /// The other end of the next connection that the worker has made, the earliest first.
    pub(crate) fn reached(&self) -> Option<Peer> {
        let link = self.0.borrow_mut().reached.pop_front()?;
        Some(Peer { network: self.clone(), link })
    }

    /// Lets time pass without the worker: it finds everything at once, as after a long stall.
    pub(crate) fn advance(&self, ms: u64) {
        let mut kernel = self.0.borrow_mut();
        kernel.close_dropped();
        let target = kernel.now_ms + ms;
        kernel.advance_to(target);
    }

    /// The virtual clock.
    pub(crate) fn now_ms(&self) -> u64 {
        self.0.borrow().now_ms
    }

    /// Nothing is scheduled and nothing waits to be reported: a `wait` without timeout would not
    /// return.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut kernel = self.0.borrow_mut();
        kernel.close_dropped();
        kernel.next_due().is_none() && !kernel.ready()
    }

    /// Whether a `wait` that nothing could end returns at once (true) or panics (false, default).
    pub(crate) fn allow_idle(&self, allowed: bool) {
        self.0.borrow_mut().idle_allowed = allowed;
    }

    /// Changes the faults from now on, say to let everything settle before the last assertions.
    pub(crate) fn set_faults(&self, faults: Faults) {
        self.0.borrow_mut().faults = faults;
    }

    /// How often each fault happened.
    pub(crate) fn counts(&self) -> Counts {
        self.0.borrow().counts
    }

    /// Descriptors in use: accepted or adopted, not yet released or dropped.
    pub(crate) fn descriptors(&self) -> usize {
        let mut kernel = self.0.borrow_mut();
        kernel.close_dropped();
        kernel.descriptors
    }

    /// A hash of everything that happened so far: verbs, events and times.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.0.borrow().fingerprint
    }

    /// One line about what every connection waits for.
    pub(crate) fn summary(&self) -> String {
        self.0.borrow().summary()
    }
}

/// The client's end of a connection, in the hands of the test. Clones are the same peer.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    network: Network,
    link: u32,
}

impl Peer {
    /// Sends everything; the network keeps what the server does not take.
    ///
    /// # Panics
    ///
    /// After `finish`, `close` or `reset`: a mistake of the test.
    pub(crate) fn send(&self, bytes: &[u8]) {
        self.network.0.borrow_mut().peer_sends(self.link, bytes);
    }

    /// Takes what the server sent and the peer has read since the last call.
    pub(crate) fn received(&self) -> Vec<u8> {
        let mut kernel = self.network.0.borrow_mut();
        std::mem::take(&mut kernel.links[self.link as usize].received)
    }

    /// Reads everything that is there at once, whatever its rate, and takes it.
    pub(crate) fn read(&self) -> Vec<u8> {
        self.network.0.borrow_mut().peer_reads(self.link, usize::MAX);
        self.received()
    }

    /// Reads faster or slower from now on.
    pub(crate) fn set_read_rate(&self, rate: ReadRate) {
        let mut kernel = self.network.0.borrow_mut();
        kernel.links[self.link as usize].rate = rate;
        kernel.start_draining(self.link);
    }

    /// Sends FIN behind everything sent; the peer goes on reading.
    pub(crate) fn finish(&self) {
        self.network.0.borrow_mut().peer_finishes(self.link);
    }

    /// Closes its socket: FIN, and a reset in answer to any bytes that come later.
    pub(crate) fn close(&self) {
        self.network.0.borrow_mut().peer_closes(self.link);
    }

    /// Sends a reset.
    pub(crate) fn reset(&self) {
        self.network.0.borrow_mut().peer_resets(self.link);
    }

    /// What it has seen of the connection's end. A FIN counts when everything before it is read.
    pub(crate) fn seen(&self) -> Seen {
        let mut kernel = self.network.0.borrow_mut();
        kernel.close_dropped();
        kernel.links[self.link as usize].seen
    }

    /// The id under which the worker has adopted and not closed the connection.
    pub(crate) fn id(&self) -> Option<ConnectionId> {
        match self.network.0.borrow().links[self.link as usize].server {
            ServerEnd::Adopted(id) => Some(id),
            _ => None,
        }
    }

    /// Bytes that the server sent and the peer has not read.
    pub(crate) fn unread(&self) -> usize {
        self.network.0.borrow().links[self.link as usize].outbox.len()
    }

    /// Bytes that it sent and that have not reached the server's buffer.
    pub(crate) fn in_flight(&self) -> usize {
        self.network.0.borrow().in_flight(self.link)
    }

    /// The address that the server sees.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.network.0.borrow().links[self.link as usize].addr
    }
}

/// The driver of a simulated network: see the module documentation.
#[derive(Debug)]
pub(crate) struct Simulated {
    network: Network,
    region: Arc<Region>,
}

impl Driver for Simulated {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn listen(&mut self, _listener: socket2::Socket) -> io::Result<()> {
        self.network.open_listener();
        Ok(())
    }

    fn pause_accepting(&mut self) {
        self.network.0.borrow_mut().pause_accepting();
    }

    fn resume_accepting(&mut self) {
        self.network.0.borrow_mut().resume_accepting();
    }

    fn stop_listening(&mut self) {
        self.network.0.borrow_mut().stop_listening();
    }

    fn adopt(&mut self, id: ConnectionId, socket: AcceptedSocket) -> io::Result<()> {
        match socket {
            AcceptedSocket::Simulated(socket) => self.network.0.borrow_mut().adopt(id, socket),
            AcceptedSocket::Os(_) => Err(io::Error::other("the simulated network has no such end")),
        }
    }

    fn connect(&mut self, id: ConnectionId, remote: &Remote) -> io::Result<()> {
        self.network.0.borrow_mut().connect_out(id, remote)
    }

    fn send(&mut self, id: ConnectionId, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.network.0.borrow_mut().send(id, slices)
    }

    fn send_last(&mut self, id: ConnectionId, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.network.0.borrow_mut().send_last(id, slices)
    }

    fn pause_reading(&mut self, id: ConnectionId) {
        self.network.0.borrow_mut().pause_reading(id);
    }

    fn resume_reading(&mut self, id: ConnectionId) {
        self.network.0.borrow_mut().resume_reading(id);
    }

    fn finish_sending(&mut self, id: ConnectionId) {
        self.network.0.borrow_mut().finish_sending(id);
    }

    fn close(&mut self, id: ConnectionId) {
        self.network.0.borrow_mut().close(id);
    }

    fn peer_addr(&self, id: ConnectionId) -> Option<SocketAddr> {
        self.network.0.borrow().peer_addr(id)
    }

    fn wait(&mut self, timeout_ms: Option<u64>) -> io::Result<()> {
        self.network.0.borrow_mut().wait(timeout_ms);
        Ok(())
    }

    fn next_event<'m>(&mut self, memory: &'m mut ReceiveMemory) -> Option<Event<'m>> {
        let mut kernel = self.network.0.borrow_mut();
        assert!(Arc::ptr_eq(&self.region, &memory.region()), "the memory made with this driver");
        if let Some(len) = kernel.lent.take() {
            // SAFETY: no kernel writes to this memory, and the loan ended when `memory` was
            // borrowed again.
            unsafe { memory.slice(0, HEADROOM + len) }.fill(SCRIBBLE);
        }
        kernel.close_dropped();
        let event = match kernel.next_completion()? {
            Completion::Accepted(link) => {
                Event::Accepted(AcceptedSocket::Simulated(kernel.hand_out(link)))
            }
            Completion::AcceptFailed(errno) => {
                Event::AcceptPaused(io::Error::from_raw_os_error(errno))
            }
            Completion::Received(id, received) => {
                kernel.lent = Some(received.len());
                // SAFETY: as above.
                let bytes = unsafe { memory.slice(HEADROOM, received.len()) };
                bytes.copy_from_slice(&received);
                kernel.note_bytes("Received", id, bytes);
                return Some(Event::Received { id, bytes });
            }
            Completion::Connected(id) => Event::Connected(id),
            Completion::Ended(id) => Event::Ended(id),
            Completion::Failed(id, errno) => Event::Failed(id, io::Error::from_raw_os_error(errno)),
            Completion::Writable(id) => Event::Writable(id),
            Completion::Released(id) => Event::Released(id),
            Completion::Woken => Event::Woken,
            Completion::Stale(id) => unreachable!("stale news of {id:?} are swallowed"),
        };
        kernel.note(format_args!("{event:?}"));
        Some(event)
    }

    fn waker(&self) -> Waker {
        Waker::Simulated(Arc::clone(&self.network.0.borrow().wake))
    }

    fn now_ms(&self) -> u64 {
        self.network.now_ms()
    }

    fn stats(&self) -> DriverStats {
        let kernel = self.network.0.borrow();
        DriverStats {
            sockets: kernel.tenants.len(),
            stale_events: kernel.stale_events,
            buffers_exhausted: kernel.buffers_exhausted,
        }
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        // While a failed check unwinds, the network may be in any state.
        if !std::thread::panicking() {
            self.network.0.borrow_mut().close_all();
        }
    }
}
