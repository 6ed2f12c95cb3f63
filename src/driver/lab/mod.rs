//! What the contract tests stand on: a network with a driver at one end and peers at the other.
//!
//! A [`Lab`] makes both; the [`Worker`] plays the worker and checks on every single event that the
//! life cycle of `driver/mod.rs` is kept; the [`Rig`] turns the crank with a deadline. The labs of
//! the real drivers use loopback sockets ([`Loopback`]); nothing in [`Lab`] asks for sockets.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{AcceptedSocket, ConnectionId, Driver, Event, ReceiveMemory, Remote};

mod loopback;

pub(super) use loopback::{Loopback, RealDriver};

/// A hang fails after this time. Generous, for a loaded machine.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// A wait that sleeps this long has missed something, and the deadline tells.
pub(super) const LONG_WAIT_MS: u64 = 35_000;

/// Why a driver cannot be tested here, for people.
#[derive(Debug)]
pub(super) struct Skip(pub(super) String);

/// A driver and a network to reach it by.
pub(super) trait Lab: Sized {
    type Peer: Peer;

    /// Whether `Peer::reset` exists on this network.
    const HAS_RESET: bool = true;

    /// A driver that already listens, and whose reads bring about `receive_buffer` bytes.
    ///
    /// # Errors
    ///
    /// When this driver cannot run on this machine; the test is skipped with the reason.
    fn open(receive_buffer: usize) -> Result<(Self, Box<dyn Driver>, ReceiveMemory), Skip>;

    /// A peer that has connected, but that the driver need not have accepted yet. `None` when
    /// nobody listens.
    fn connect(&mut self) -> Option<Self::Peer>;

    /// Where somebody listens, whom the driver can connect to.
    fn remote(&mut self) -> Remote;

    /// Where nobody does: connecting is refused.
    fn nobody(&mut self) -> Remote;

    /// Where connecting neither succeeds nor fails; `None` if this network knows no such place.
    fn nowhere(&mut self) -> Option<Remote>;

    /// The other end of a connection that the driver has made to `remote`.
    fn accept(&mut self) -> Option<Self::Peer>;

    /// From now on accepting fails as it does without descriptors (EMFILE), or works again. This
    /// may concern the whole process: tests that use it run in a process of their own.
    fn refuse_accepts(&mut self, refuse: bool);
}

/// What a peer knows about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerView {
    Open,
    /// The driver's side has sent FIN.
    Ended,
    /// The driver's side has reset the connection.
    Reset,
}

/// The other end of a connection. No operation blocks. Dropping it closes the connection.
pub(super) trait Peer {
    /// Sends as much as fits now and says how much that was: 0 when full or dead.
    fn send(&mut self, bytes: &[u8]) -> usize;

    /// Appends what has arrived (a bounded amount per call).
    fn receive(&mut self, into: &mut Vec<u8>) -> PeerView;

    /// Sends FIN after everything sent.
    fn finish_sending(&mut self);

    /// Sends RST. Only called where `Lab::HAS_RESET`.
    fn reset(self);

    /// TCP segments that have arrived, where there are any.
    fn segments(&self) -> Option<u32> {
        None
    }

    /// What `Driver::peer_addr` must answer.
    fn addr(&self) -> Option<SocketAddr>;
}

/// What the worker knows about one connection, dead ones included.
#[derive(Debug, Default)]
pub(super) struct Connection {
    /// The driver connects, and has not said what came of it.
    pub(super) connecting: bool,
    pub(super) received: Vec<u8>,
    pub(super) ended: bool,
    pub(super) failed: bool,
    /// A send answered with an error.
    pub(super) send_failed: bool,
    pub(super) closed: bool,
    pub(super) released: bool,
    /// `Writable` events so far.
    pub(super) writables: u32,
    /// A send came up short and `Writable` has not come yet.
    pub(super) writable_due: bool,
    backlog: VecDeque<u8>,
    received_this_turn: usize,
}

impl Connection {
    /// Dead by either of the two ways in which a driver may say so.
    pub(super) fn is_dead(&self) -> bool {
        self.failed || self.send_failed
    }

    /// Bytes that the driver has not taken yet.
    pub(super) fn backlog(&self) -> usize {
        self.backlog.len()
    }
}

/// A worker that believes nothing: it checks every event against the contract.
pub(super) struct Worker {
    pub(super) driver: Box<dyn Driver>,
    pub(super) newcomers: VecDeque<AcceptedSocket>,
    pub(super) woken: u32,
    pub(super) accept_paused: Vec<io::Error>,
    connections: HashMap<ConnectionId, Connection>,
    free: Vec<ConnectionId>,
    slots: u32,
}

impl Worker {
    const NUMBER: u16 = 7;

    pub(super) fn connection(&self, id: ConnectionId) -> &Connection {
        &self.connections[&id]
    }

    fn open_connection(&mut self, id: ConnectionId, what: &str) -> &mut Connection {
        let Some(connection) = self.connections.get_mut(&id) else {
            panic!("{what} for {id:?}, which was never adopted");
        };
        assert!(!connection.closed, "{what} after close of {id:?}");
        assert!(!connection.is_dead(), "{what} after the death of {id:?}");
        let ends = matches!(what, "Connected" | "Failed");
        assert!(ends || !connection.connecting, "{what} before {id:?} has connected");
        connection
    }

    /// Adopts the socket that was accepted first, under a slot that is free, a used one if any.
    pub(super) fn adopt_next(&mut self) -> ConnectionId {
        let socket = self.newcomers.pop_front().expect("a socket was accepted");
        let id = self.free_id();
        self.driver.adopt(id, socket).expect("adopt");
        assert!(self.connections.insert(id, Connection::default()).is_none());
        id
    }

    /// Begins to connect, under a slot that is free.
    ///
    /// # Errors
    ///
    /// Those of the driver; the slot stays free then.
    pub(super) fn connect(&mut self, remote: &Remote) -> io::Result<ConnectionId> {
        let id = self.free_id();
        if let Err(error) = self.driver.connect(id, remote) {
            self.free.push(id);
            return Err(error);
        }
        let connecting = Connection { connecting: true, ..Connection::default() };
        assert!(self.connections.insert(id, connecting).is_none());
        Ok(id)
    }

    fn free_id(&mut self) -> ConnectionId {
        match self.free.pop() {
            Some(old) => {
                let slot = u32::try_from(old.slot()).unwrap();
                ConnectionId::new(Self::NUMBER, slot, old.generation() + 1)
            }
            None => {
                self.slots += 1;
                ConnectionId::new(Self::NUMBER, self.slots - 1, 0)
            }
        }
    }

    /// Sends, and keeps what the driver does not take until `Writable`.
    pub(super) fn send(&mut self, id: ConnectionId, bytes: &[u8]) {
        let connection = self.open_connection(id, "send");
        connection.backlog.extend(bytes);
        if !connection.writable_due {
            self.flush(id);
        }
    }

    /// One call of `Driver::send`, past the backlog, which must be empty. Answers what it took;
    /// `send` the rest.
    pub(super) fn send_slices(&mut self, id: ConnectionId, slices: &[IoSlice<'_>]) -> usize {
        assert_eq!(self.open_connection(id, "send").backlog(), 0);
        let sent = self.driver.send(id, slices).expect("a live connection");
        let wanted = slices.iter().map(|slice| slice.len()).sum();
        assert!(sent <= wanted);
        self.open_connection(id, "send").writable_due |= sent < wanted;
        sent
    }

    /// Sends the last bytes. True if the driver took them all, and the FIN has to follow at once;
    /// otherwise the rest leaves like that of any send.
    pub(super) fn send_last(&mut self, id: ConnectionId, bytes: &[u8]) -> bool {
        let connection = self.open_connection(id, "send_last");
        connection.backlog.extend(bytes);
        let bytes: Vec<u8> = connection.backlog.iter().copied().collect();
        let sent = self.driver.send_last(id, &[IoSlice::new(&bytes)]).expect("a live connection");
        let connection = self.open_connection(id, "send_last");
        connection.backlog.drain(..sent);
        connection.writable_due |= sent < bytes.len();
        sent == bytes.len()
    }

    fn flush(&mut self, id: ConnectionId) {
        let connection = self.connections.get_mut(&id).expect("adopted");
        if connection.backlog.is_empty() || connection.is_dead() {
            return;
        }
        let (front, back) = connection.backlog.as_slices();
        let sent = if back.is_empty() {
            self.driver.send_bytes(id, front)
        } else {
            self.driver.send(id, &[IoSlice::new(front), IoSlice::new(back)])
        };
        match sent {
            Ok(sent) => {
                connection.writable_due |= sent < connection.backlog.len();
                connection.backlog.drain(..sent);
            }
            Err(_) => connection.send_failed = true,
        }
    }

    /// Asks for what a connection has more, which makes its share of the turn a buffer larger.
    pub(super) fn read_on(&mut self, id: ConnectionId) {
        self.open_connection(id, "read_on").received_this_turn = 0;
        self.driver.read_on(id);
    }

    pub(super) fn close(&mut self, id: ConnectionId) {
        let connection = self.connections.get_mut(&id).expect("adopted");
        assert!(!connection.closed, "the test closes once");
        connection.closed = true;
        self.driver.close(id);
    }

    /// Checks an event and takes it into the books.
    fn note(&mut self, event: &Event<'_>, memory_len: usize) {
        match event {
            Event::Accepted(_) => {}
            Event::Connected(id) => {
                let connection = self.open_connection(*id, "Connected");
                assert!(connection.connecting, "Connected without connect, or twice");
                connection.connecting = false;
            }
            Event::Received { id, bytes } => {
                let connection = self.open_connection(*id, "Received");
                assert!(!connection.ended, "Received after Ended");
                assert!(!bytes.is_empty(), "Received without bytes");
                connection.received.extend_from_slice(bytes);
                connection.received_this_turn += bytes.len();
                assert!(
                    connection.received_this_turn <= memory_len,
                    "one connection got more than all buffers in one turn"
                );
            }
            Event::Ended(id) => {
                let connection = self.open_connection(*id, "Ended");
                assert!(!connection.ended, "Ended came twice");
                connection.ended = true;
            }
            Event::Failed(id, _) => {
                let connection = self.open_connection(*id, "Failed");
                connection.connecting = false;
                connection.failed = true;
            }
            Event::Writable(id) => {
                let connection = self.open_connection(*id, "Writable");
                assert!(connection.writable_due, "Writable without a short send");
                connection.writable_due = false;
                connection.writables += 1;
                self.flush(*id);
            }
            Event::Released(id) => {
                let connection = self.connections.get_mut(id).expect("Released of the unknown");
                assert!(connection.closed, "Released before close");
                assert!(!connection.released, "Released came twice");
                connection.released = true;
                self.free.push(*id);
            }
            Event::AcceptPaused(error) => {
                let copy = error.raw_os_error().map_or(error.kind().into(), from_os_error);
                self.accept_paused.push(copy);
            }
            Event::Woken => self.woken += 1,
        }
    }
}

fn from_os_error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

/// A lab with a worker in it.
pub(super) struct Rig<L: Lab> {
    pub(super) lab: L,
    pub(super) worker: Worker,
    memory: ReceiveMemory,
}

impl<L: Lab> Rig<L> {
    /// `None` where this driver cannot run; says why on stderr.
    pub(super) fn open(receive_buffer: usize) -> Option<Self> {
        match L::open(receive_buffer) {
            Ok((lab, driver, memory)) => {
                let worker = Worker {
                    driver,
                    newcomers: VecDeque::new(),
                    woken: 0,
                    accept_paused: Vec::new(),
                    connections: HashMap::new(),
                    free: Vec::new(),
                    slots: 0,
                };
                Some(Self { lab, worker, memory })
            }
            Err(Skip(reason)) => {
                eprintln!("skipped: {reason}");
                None
            }
        }
    }

    /// Total bytes that the driver may have lent at once.
    pub(super) fn memory_len(&self) -> usize {
        self.memory.len()
    }

    /// One turn. `act` sees every event while its bytes are lent, after it was checked.
    pub(super) fn turn_with(
        &mut self,
        timeout_ms: u64,
        mut act: impl FnMut(&mut Worker, &mut Event<'_>),
    ) {
        let worker = &mut self.worker;
        for connection in worker.connections.values_mut() {
            connection.received_this_turn = 0;
        }
        let memory_len = self.memory.len();
        worker.driver.wait(Some(timeout_ms)).expect("wait");
        // In the order of the worker: the short way first.
        loop {
            if let Some((id, bytes)) = worker.driver.next_received(&mut self.memory) {
                let mut event = Event::Received { id, bytes };
                worker.note(&event, memory_len);
                act(worker, &mut event);
                continue;
            }
            let done = worker.driver.is_done();
            let Some(mut event) = worker.driver.next_event(&mut self.memory) else { break };
            assert!(!done, "an event after the end of the turn: {event:?}");
            worker.note(&event, memory_len);
            act(worker, &mut event);
            if let Event::Accepted(socket) = event {
                worker.newcomers.push_back(socket);
            }
        }
    }

    pub(super) fn turn(&mut self, timeout_ms: u64) {
        self.turn_with(timeout_ms, |_, _| {});
    }

    /// Turns until `done`, which may move the peers on, and fails after the deadline.
    pub(super) fn until(&mut self, what: &str, done: impl FnMut(&mut Self) -> bool) {
        self.until_waiting(2, what, done);
    }

    /// The same with another timeout for every wait.
    pub(super) fn until_waiting(
        &mut self,
        timeout_ms: u64,
        what: &str,
        mut done: impl FnMut(&mut Self) -> bool,
    ) {
        let start = Instant::now();
        loop {
            let done = done(self);
            // Also when it is done: a wait may have slept through what it should have told.
            assert!(start.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
            if done {
                return;
            }
            self.turn(timeout_ms);
        }
    }

    /// Some turns, for what shall not happen or may come late.
    pub(super) fn settle(&mut self) {
        for _ in 0..10 {
            self.turn(2);
        }
    }

    /// Until everything that was closed is released.
    pub(super) fn settle_quickly(&mut self) {
        self.until("Released", |rig| {
            let mut connections = rig.worker.connections.values();
            connections.all(|connection| connection.released || !connection.closed)
        });
    }

    /// Connects a peer and adopts it.
    pub(super) fn connect(&mut self) -> (ConnectionId, L::Peer) {
        assert!(self.worker.newcomers.is_empty(), "the next one would get a stranger's id");
        let peer = self.lab.connect().expect("somebody listens");
        self.until("accept", |rig| !rig.worker.newcomers.is_empty());
        (self.worker.adopt_next(), peer)
    }

    /// The driver connects to the remote of the lab.
    pub(super) fn connect_out(&mut self) -> (ConnectionId, L::Peer) {
        let remote = self.lab.remote();
        let id = self.worker.connect(&remote).expect("somebody listens");
        let mut peer = None;
        self.until("Connected", |rig| {
            peer = peer.take().or_else(|| rig.lab.accept());
            !rig.worker.connection(id).connecting && peer.is_some()
        });
        assert!(!self.worker.connection(id).is_dead());
        (id, peer.expect("just seen"))
    }

    /// The peer sends all of this while the driver turns.
    pub(super) fn peer_sends(&mut self, peer: &mut L::Peer, bytes: &[u8]) {
        let mut sent = 0;
        self.until("room for the peer's bytes", |_| {
            sent += peer.send(&bytes[sent..]);
            sent == bytes.len()
        });
    }

    /// The worker has received exactly this since the connection began.
    pub(super) fn expect_received(&mut self, id: ConnectionId, bytes: &[u8]) {
        self.until("the peer's bytes", |rig| {
            rig.worker.connection(id).received.len() >= bytes.len()
        });
        let received = &self.worker.connection(id).received;
        assert!(received == bytes, "other bytes, or in another order, or too many");
    }

    /// The peer receives exactly this and is told what comes after it.
    pub(super) fn peer_receives(&mut self, peer: &mut L::Peer, bytes: &[u8]) -> PeerView {
        let mut received = Vec::with_capacity(bytes.len());
        let mut view = PeerView::Open;
        self.until("bytes at the peer", |_| {
            view = peer.receive(&mut received);
            view != PeerView::Open || received.len() >= bytes.len()
        });
        assert!(received == bytes, "got {} bytes of {}, {view:?}", received.len(), bytes.len());
        view
    }

    /// The peer sees the end of its connection, after any bytes.
    pub(super) fn peer_sees_the_end(&mut self, peer: &mut L::Peer) -> PeerView {
        let mut view = PeerView::Open;
        self.until("end at the peer", |_| {
            view = peer.receive(&mut Vec::new());
            view != PeerView::Open
        });
        view
    }

    /// Sends until the driver takes no more and answers what was sent in all.
    pub(super) fn fill(&mut self, id: ConnectionId) -> Vec<u8> {
        let mut sent = Vec::new();
        while !self.worker.connection(id).writable_due {
            assert!(sent.len() < 256 << 20, "the socket has no bottom");
            let more = pattern(sent.len(), 1 << 20);
            self.worker.send(id, &more);
            sent.extend(more);
        }
        sent
    }

    /// Closes and waits for `Released`.
    pub(super) fn close_and_release(&mut self, id: ConnectionId) {
        self.worker.close(id);
        self.until("Released", |rig| rig.worker.connection(id).released);
    }

    /// How often `wait` returns during 60 ms in which nothing happens.
    pub(super) fn waits_in_60_ms(&mut self) -> u32 {
        let start = self.worker.driver.now_ms();
        let mut waits = 0;
        self.until_waiting(20, "time to pass", |rig| {
            waits += 1;
            rig.worker.driver.now_ms() >= start + 60 || waits > 1000
        });
        waits
    }
}

/// Bytes `start..start + len` of an endless sequence in which a shift is seen: its period is a
/// prime, so no buffer size divides it.
pub(super) fn pattern(start: usize, len: usize) -> Vec<u8> {
    const PERIOD: usize = 65_521;
    static ONE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
        (0..PERIOD as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    });
    let mut bytes = Vec::with_capacity(len + PERIOD);
    bytes.extend_from_slice(&ONE[start % PERIOD..]);
    while bytes.len() < len {
        bytes.extend_from_slice(&ONE);
    }
    bytes.truncate(len);
    bytes
}

/// Runs one ignored test of this very binary alone in a process.
pub(super) fn run_alone(path: &str) {
    let name = path.split_once("::").expect("a path below the crate").1;
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"])
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    assert!(output.status.success(), "{name} failed:\n{out}\n{err}");
    assert!(out.contains("1 passed"), "{name} was not found:\n{out}\n{err}");
    if err.contains("skipped:") {
        eprintln!("{err}");
    }
}
