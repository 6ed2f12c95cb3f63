//! What the contract tests stand on: a network with a driver at one end and peers at the other.
//!
//! A [`Lab`] makes both; the [`Worker`] plays the worker and checks on every single event that the
//! life cycle of `driver/mod.rs` is kept; the [`Rig`] turns the crank with a deadline. The labs of
//! the real drivers use loopback sockets ([`Loopback`]); nothing in [`Lab`] asks for sockets.

#![allow(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice, Read, Write};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::listener::{self, ListenAddr, ListenOptions};
use super::{AcceptedSocket, ConnectionId, Driver, Event, ReceiveMemory};

/// A hang fails after this time. Generous, for a loaded machine.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

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

    /// What `Driver::peer_addr` must answer.
    fn addr(&self) -> Option<SocketAddr>;
}

/// What the worker knows about one connection, dead ones included.
#[derive(Debug, Default)]
pub(super) struct Connection {
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
        connection
    }

    /// Adopts the socket that was accepted first, under a slot that is free, a used one if any.
    pub(super) fn adopt_next(&mut self) -> ConnectionId {
        let socket = self.newcomers.pop_front().expect("a socket was accepted");
        let id = match self.free.pop() {
            Some(old) => {
                let slot = u32::try_from(old.slot()).unwrap();
                ConnectionId::new(Self::NUMBER, slot, old.generation() + 1)
            }
            None => {
                self.slots += 1;
                ConnectionId::new(Self::NUMBER, self.slots - 1, 0)
            }
        };
        self.driver.adopt(id, socket).expect("adopt");
        assert!(self.connections.insert(id, Connection::default()).is_none());
        id
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

    fn flush(&mut self, id: ConnectionId) {
        let connection = self.connections.get_mut(&id).expect("adopted");
        if connection.backlog.is_empty() || connection.is_dead() {
            return;
        }
        let (front, back) = connection.backlog.as_slices();
        let slices = [IoSlice::new(front), IoSlice::new(back)];
        let slices = if back.is_empty() { &slices[..1] } else { &slices[..] };
        match self.driver.send(id, slices) {
            Ok(sent) => {
                connection.writable_due |= sent < connection.backlog.len();
                connection.backlog.drain(..sent);
            }
            Err(_) => connection.send_failed = true,
        }
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
            Event::Failed(id, _) => self.open_connection(*id, "Failed").failed = true,
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
        while let Some(mut event) = worker.driver.next_event(&mut self.memory) {
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
        while !done(self) {
            assert!(start.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
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

/// A driver over real sockets, for [`Loopback`].
pub(super) trait RealDriver {
    /// Over Unix sockets instead of TCP.
    const UNIX: bool;

    /// See [`Lab::open`]; listening is done by the lab.
    fn open(receive_buffer: usize) -> Result<(Box<dyn Driver>, ReceiveMemory), Skip>;
}

/// The lab of the real drivers: loopback TCP, or a Unix socket in a directory of its own.
pub(super) struct Loopback<D> {
    addr: ListenAddr,
    directory: Option<PathBuf>,
    limit_before: Option<libc::rlimit>,
    driver: PhantomData<D>,
}

impl<D: RealDriver> Lab for Loopback<D> {
    type Peer = SocketPeer;

    const HAS_RESET: bool = !D::UNIX;

    fn open(receive_buffer: usize) -> Result<(Self, Box<dyn Driver>, ReceiveMemory), Skip> {
        let (mut driver, memory) = D::open(receive_buffer)?;
        let (wanted, directory) = if D::UNIX {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("wirelane-lab-{}-{count}", std::process::id());
            let directory = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&directory).unwrap();
            (ListenAddr::unix(directory.join("socket")), Some(directory))
        } else {
            ("127.0.0.1:0".parse().unwrap(), None)
        };
        let listener = listener::bind(&wanted, &ListenOptions::default()).unwrap();
        let addr = listener::local_addr(&listener).unwrap();
        driver.listen(listener).unwrap();
        let lab = Self { addr, directory, limit_before: None, driver: PhantomData };
        Ok((lab, driver, memory))
    }

    fn connect(&mut self) -> Option<SocketPeer> {
        let (domain, addr) = match (self.addr.socket_addr(), self.addr.unix_path()) {
            (Some(addr), _) => (Domain::for_address(addr), SockAddr::from(addr)),
            (None, Some(path)) => (Domain::UNIX, SockAddr::unix(path).unwrap()),
            (None, None) => unreachable!("a bound address is one of the two"),
        };
        let socket = Socket::new(domain, Type::STREAM, None).unwrap();
        socket.connect(&addr).ok()?;
        socket.set_nonblocking(true).unwrap();
        Some(SocketPeer(socket))
    }

    fn refuse_accepts(&mut self, refuse: bool) {
        let limit = if refuse {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: `limit` is valid for writes.
            let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
            assert_eq!(result, 0);
            self.limit_before = Some(limit);
            // New descriptors get the lowest free number: forbid just that.
            let probe = std::fs::File::open("/dev/null").unwrap();
            let lowest = std::os::fd::AsRawFd::as_raw_fd(&probe);
            libc::rlimit { rlim_cur: lowest as libc::rlim_t, ..limit }
        } else {
            self.limit_before.take().expect("refused before")
        };
        // SAFETY: `limit` is valid for reads.
        let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
        assert_eq!(result, 0);
    }
}

impl<D> Drop for Loopback<D> {
    fn drop(&mut self) {
        if let Some(directory) = &self.directory {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

/// A non-blocking client socket.
pub(super) struct SocketPeer(Socket);

impl Peer for SocketPeer {
    fn send(&mut self, bytes: &[u8]) -> usize {
        (&self.0).write(bytes).unwrap_or(0)
    }

    fn receive(&mut self, into: &mut Vec<u8>) -> PeerView {
        let mut buffer = [0; 64 * 1024];
        for _ in 0..32 {
            match (&self.0).read(&mut buffer) {
                Ok(0) => return PeerView::Ended,
                Ok(len) => into.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return PeerView::Reset,
            }
        }
        PeerView::Open
    }

    fn finish_sending(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Write);
    }

    fn reset(self) {
        self.0.set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn addr(&self) -> Option<SocketAddr> {
        self.0.local_addr().unwrap().as_socket()
    }
}
