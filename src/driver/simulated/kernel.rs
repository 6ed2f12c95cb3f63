//! The invented kernel, as seen from the wire: time, connections, bytes on their way.
//!
//! In: what peers do, what the driver's verbs do (`reports.rs`). Out: state that the driver
//! reports and peers look at. Never: anything that does not follow from the seed.
//!
//! ```text
//!            in_flight (late, torn)      inbox (receive_buffer)
//!   peer  ==[ ....  ...  .  ... ]=====>[ ........ ]==> Received, Ended, Failed
//!         <==== received <== rate ====[ ............ ]<== send, finish_sending, close
//!                                      outbox (send_buffer)
//! ```

use super::faults::{Counts, Faults};
use super::reports::{Completion, Tenant};
use super::seeds::{FNV_OFFSET, fnv, number};
use super::{Random, ReadRate, Reception, Seen};
use crate::driver::token::ConnectionId;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

/// What travels from a peer to the server.
#[derive(Debug)]
enum Segment {
    /// SYN.
    Connect,
    Bytes(VecDeque<u8>),
    Fin,
    Reset,
}

/// What will happen at a known time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Happening {
    /// The head of a connection's `in_flight` may have arrived.
    Arrive(u32),
    /// A peer reads.
    Drain(u32),
    /// A send that was cut short may be tried again.
    Writable(ConnectionId),
    /// The last operation of a closed connection came back.
    Release(ConnectionId),
    /// A connection that the worker makes has reached the other side.
    Reach(ConnectionId),
}

/// Where the server's end of a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerEnd {
    /// The request has not arrived.
    Connecting,
    /// Waits to be accepted.
    Backlog,
    /// Reported as accepted, not adopted.
    Accepted,
    Adopted(ConnectionId),
    /// Closed, dropped or refused.
    Closed,
}

/// One TCP connection, both ends.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) addr: SocketAddr,
    pub(super) server: ServerEnd,
    in_flight: VecDeque<(u64, Segment)>,
    pub(super) inbox: VecDeque<u8>,
    /// The FIN has arrived; nothing is behind it.
    pub(super) fin_arrived: bool,
    /// A reset has arrived, or the connection broke: no byte moves any more.
    pub(super) broken: bool,
    /// The error number of that, until it is reported.
    pub(super) failure: Option<i32>,
    pub(super) outbox: VecDeque<u8>,
    /// The server's FIN stands behind `outbox`.
    pub(super) fin_queued: bool,
    drain_scheduled: bool,
    /// What the peer has read and the test has not taken.
    pub(super) received: Vec<u8>,
    pub(super) rate: ReadRate,
    pub(super) seen: Seen,
    /// The peer has sent its FIN or its reset, and sends nothing more.
    pub(super) peer_finished: bool,
    /// The peer's process has closed its socket: bytes for it are answered by a reset.
    pub(super) peer_closed: bool,
}

#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) seed: u64,
    pub(super) random: Random,
    pub(super) faults: Faults,
    pub(super) counts: Counts,
    pub(super) now_ms: u64,
    schedule: BTreeMap<(u64, u64), Happening>,
    scheduled: u64,
    pub(super) links: Vec<Link>,
    pub(super) backlog: VecDeque<u32>,
    pub(super) listening: bool,
    /// `stop_listening` was called: connection requests are refused.
    pub(super) refusing: bool,
    pub(super) accept_paused: bool,
    /// Sockets that were handed to the worker, and a sign of life of each.
    pub(super) handed_out: Vec<(u32, Weak<()>)>,
    pub(super) descriptors: usize,
    /// By slot; from `adopt` until `Released` was handed out.
    pub(super) tenants: BTreeMap<usize, Tenant>,
    pub(super) used_ids: HashSet<ConnectionId>,
    /// What the worker meets where it connects to; nobody listens anywhere else.
    pub(super) remotes: BTreeMap<SocketAddr, Reception>,
    /// Connections that the worker made and no test has taken.
    pub(super) reached: VecDeque<u32>,
    pub(super) completions: VecDeque<Completion>,
    /// Completions that the next harvest picks up: releases and late news of closed connections.
    pub(super) loose: VecDeque<Completion>,
    pub(super) turn_over: bool,
    /// Something was handed out since the last wait.
    pub(super) reported: bool,
    pub(super) last_wait_ms: u64,
    /// Waits in a row that brought nothing.
    pub(super) fruitless: u32,
    /// Most bytes of one connection in one turn: the receive buffer.
    pub(super) max_lent: usize,
    /// Length of the bytes that are lent now.
    pub(super) lent: Option<usize>,
    pub(super) wake: Arc<AtomicBool>,
    pub(super) idle_allowed: bool,
    pub(super) stale_events: u64,
    pub(super) buffers_exhausted: u64,
    pub(super) fingerprint: u64,
    print: bool,
}

impl Kernel {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        Self {
            seed,
            random: Random::new(seed),
            faults,
            counts: Counts::default(),
            now_ms: faults.origin_ms,
            schedule: BTreeMap::new(),
            scheduled: 0,
            links: Vec::new(),
            backlog: VecDeque::new(),
            listening: false,
            refusing: false,
            accept_paused: false,
            handed_out: Vec::new(),
            descriptors: 0,
            tenants: BTreeMap::new(),
            used_ids: HashSet::new(),
            remotes: BTreeMap::new(),
            reached: VecDeque::new(),
            completions: VecDeque::new(),
            loose: VecDeque::new(),
            turn_over: true,
            reported: false,
            last_wait_ms: 0,
            fruitless: 0,
            max_lent: 0,
            lent: None,
            wake: Arc::new(AtomicBool::new(false)),
            idle_allowed: false,
            stale_events: 0,
            buffers_exhausted: 0,
            fingerprint: FNV_OFFSET,
            print: number("WIRELANE_SEED").is_some(),
        }
    }

    /// Adds a line to the trace: to its fingerprint always, to stderr when a seed is replayed.
    pub(super) fn note(&mut self, line: fmt::Arguments<'_>) {
        struct Fingerprint(u64);
        impl fmt::Write for Fingerprint {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0 = fnv(self.0, text.as_bytes());
                Ok(())
            }
        }
        if self.print {
            eprintln!("{:>8} ms  {line}", self.now_ms);
        }
        let mut fingerprint = Fingerprint(fnv(self.fingerprint, &self.now_ms.to_le_bytes()));
        fmt::write(&mut fingerprint, line).expect("a fingerprint takes everything");
        self.fingerprint = fingerprint.0;
    }

    /// Adds bytes to the trace: all of them to the fingerprint, the first ones to stderr.
    pub(super) fn note_bytes(&mut self, what: &str, id: ConnectionId, bytes: &[u8]) {
        let len = bytes.len();
        let start = &bytes[..len.min(32)];
        self.note(format_args!("{what} {id:?} {len} bytes {}", start.escape_ascii()));
        self.fingerprint = fnv(self.fingerprint, bytes);
    }

    // Time.

    pub(super) fn schedule(&mut self, due_ms: u64, happening: Happening) {
        self.scheduled += 1;
        self.schedule.insert((due_ms, self.scheduled), happening);
    }

    /// When the next happening is due.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.schedule.first_key_value().map(|((due, _), _)| *due)
    }

    /// Lets everything happen that is due until then, each at its own time. False when there was
    /// nothing.
    pub(super) fn advance_to(&mut self, target_ms: u64) -> bool {
        let mut happened = false;
        while let Some(due) = self.next_due()
            && due <= target_ms
        {
            happened = true;
            self.now_ms = self.now_ms.max(due);
            let (_, happening) = self.schedule.pop_first().expect("just seen");
            match happening {
                Happening::Arrive(link) => self.arrive(link),
                Happening::Drain(link) => {
                    self.links[link as usize].drain_scheduled = false;
                    self.drain(link);
                }
                Happening::Writable(id) => self.becomes_writable(id),
                Happening::Release(id) => self.loose.push_back(Completion::Released(id)),
                Happening::Reach(id) => self.reach(id),
            }
        }
        self.now_ms = self.now_ms.max(target_ms);
        happened
    }

    pub(super) fn later(&mut self) -> u64 {
        self.now_ms + self.random.up_to(self.faults.delay_ms)
    }

    // Peer to server.

    pub(super) fn connect(&mut self, addr: SocketAddr) -> u32 {
        let link = self.add_link(addr, ServerEnd::Connecting);
        self.transmit(link, Segment::Connect);
        link
    }

    pub(super) fn add_link(&mut self, addr: SocketAddr, server: ServerEnd) -> u32 {
        self.links.push(Link {
            addr,
            server,
            in_flight: VecDeque::new(),
            inbox: VecDeque::new(),
            fin_arrived: false,
            broken: false,
            failure: None,
            outbox: VecDeque::new(),
            fin_queued: false,
            drain_scheduled: false,
            received: Vec::new(),
            rate: ReadRate::Unlimited,
            seen: Seen::Open,
            peer_finished: false,
            peer_closed: false,
        });
        u32::try_from(self.links.len() - 1).expect("fewer connections than 2^32")
    }

    /// Address of a peer that does not care: one port each.
    pub(super) fn any_addr(&self) -> SocketAddr {
        let port = 1024 + (self.links.len() % 60_000) as u16;
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    pub(super) fn peer_sends(&mut self, link: u32, mut bytes: &[u8]) {
        let it = &self.links[link as usize];
        assert!(!it.peer_finished, "seed {}: test sends after finish or reset", self.seed);
        if it.seen == Seen::Broken || it.seen == Seen::Reset {
            return;
        }
        while !bytes.is_empty() {
            let mut len = bytes.len();
            if self.random.chance(self.faults.cut) {
                len = self.random.length(len);
            }
            let (piece, rest) = bytes.split_at(len);
            self.transmit(link, Segment::Bytes(VecDeque::from(piece.to_vec())));
            bytes = rest;
        }
    }

    pub(super) fn peer_finishes(&mut self, link: u32) {
        if !std::mem::replace(&mut self.links[link as usize].peer_finished, true) {
            self.transmit(link, Segment::Fin);
        }
    }

    pub(super) fn peer_resets(&mut self, link: u32) {
        let it = &mut self.links[link as usize];
        it.peer_finished = true;
        it.peer_closed = true;
        if it.seen == Seen::Open || it.seen == Seen::Finished {
            it.seen = Seen::Left;
            self.transmit(link, Segment::Reset);
        }
    }

    /// The peer's process closes its socket.
    pub(super) fn peer_closes(&mut self, link: u32) {
        self.peer_finishes(link);
        let it = &mut self.links[link as usize];
        it.peer_closed = true;
        it.rate = ReadRate::Unlimited;
        self.start_draining(link);
    }

    /// Bytes that the peer sent and the server's end has no room for, or that are on their way.
    pub(super) fn in_flight(&self, link: u32) -> usize {
        let segments = self.links[link as usize].in_flight.iter();
        segments
            .map(|(_, segment)| match segment {
                Segment::Bytes(bytes) => bytes.len(),
                Segment::Connect | Segment::Fin | Segment::Reset => 0,
            })
            .sum()
    }

    fn transmit(&mut self, link: u32, segment: Segment) {
        let mut due = self.later();
        let in_flight = &mut self.links[link as usize].in_flight;
        if let Some((last, _)) = in_flight.back() {
            due = due.max(*last);
        }
        in_flight.push_back((due, segment));
        if due <= self.now_ms {
            self.arrive(link);
        } else {
            self.schedule(due, Happening::Arrive(link));
        }
    }

    /// Moves what has arrived into the inbox, as far as there is room.
    pub(super) fn arrive(&mut self, link: u32) {
        let index = link as usize;
        while let Some((due, _)) = self.links[index].in_flight.front()
            && *due <= self.now_ms
        {
            let (due, segment) = self.links[index].in_flight.pop_front().expect("just seen");
            let it = &mut self.links[index];
            if it.server == ServerEnd::Closed {
                match segment {
                    // Nobody will read this: tcp(7) answers with a reset, which also destroys
                    // what was still on its way to the peer.
                    Segment::Bytes(_) => self.reset_peer(link),
                    Segment::Reset => it.outbox.clear(),
                    Segment::Fin | Segment::Connect => {}
                }
                continue;
            }
            match segment {
                Segment::Connect if self.refusing => {
                    it.server = ServerEnd::Closed;
                    self.reset_peer(link);
                }
                Segment::Connect => {
                    it.server = ServerEnd::Backlog;
                    self.backlog.push_back(link);
                }
                Segment::Bytes(mut bytes) => {
                    let room = self.faults.receive_buffer.saturating_sub(it.inbox.len());
                    let rest = bytes.split_off(room.min(bytes.len()));
                    it.inbox.append(&mut bytes);
                    if !rest.is_empty() {
                        it.in_flight.push_front((due, Segment::Bytes(rest)));
                        return;
                    }
                }
                Segment::Fin => it.fin_arrived = true,
                Segment::Reset => self.break_link(link, libc::ECONNRESET),
            }
        }
    }

    /// The server's end learns that the connection is dead.
    pub(super) fn break_link(&mut self, link: u32, errno: i32) {
        // Whether bytes that arrived before the reset can still be read differs by the way they
        // are read.
        let lose_unread = self.random.chance(500);
        let it = &mut self.links[link as usize];
        if !it.broken {
            it.broken = true;
            it.failure = Some(errno);
        }
        it.in_flight.clear();
        it.outbox.clear();
        it.fin_queued = false;
        if lose_unread {
            it.inbox.clear();
        }
    }

    // Server to peer.

    /// Bytes that a send could take now.
    pub(super) fn room(&self, link: u32) -> usize {
        self.faults.send_buffer.saturating_sub(self.links[link as usize].outbox.len())
    }

    /// Lets the peer read, now or as its rate and the delay ask for.
    pub(super) fn start_draining(&mut self, link: u32) {
        let it = &self.links[link as usize];
        let nothing = it.outbox.is_empty() && !it.fin_queued;
        if it.drain_scheduled || nothing || it.seen != Seen::Open {
            return;
        }
        let due = match it.rate {
            ReadRate::Stopped => return,
            ReadRate::BytesPerMs(_) => self.now_ms + 1,
            ReadRate::Unlimited => self.later(),
        };
        if due <= self.now_ms {
            return self.drain(link);
        }
        self.links[link as usize].drain_scheduled = true;
        self.schedule(due, Happening::Drain(link));
    }

    fn drain(&mut self, link: u32) {
        match self.links[link as usize].rate {
            ReadRate::Stopped => {}
            ReadRate::BytesPerMs(rate) => self.peer_reads(link, rate),
            ReadRate::Unlimited => self.peer_reads(link, usize::MAX),
        }
    }

    /// The peer reads at most `len` bytes of what the server sent.
    pub(super) fn peer_reads(&mut self, link: u32, len: usize) {
        let it = &mut self.links[link as usize];
        let len = len.min(it.outbox.len());
        if it.peer_closed && len > 0 {
            it.outbox.clear();
            it.seen = Seen::Left;
            return self.transmit(link, Segment::Reset);
        }
        let bytes = take_front(&mut it.outbox, len);
        it.received.extend(bytes);
        if it.outbox.is_empty() && it.fin_queued {
            it.fin_queued = false;
            it.seen = Seen::Finished;
        }
        self.offer_writable(link);
        self.start_draining(link);
    }

    /// The peer learns that the connection is dead.
    pub(super) fn reset_peer(&mut self, link: u32) {
        let it = &mut self.links[link as usize];
        it.outbox.clear();
        it.fin_queued = false;
        // A peer that saw a FIN has seen a clean end, whatever follows.
        if it.seen == Seen::Open {
            it.seen = Seen::Reset;
        }
    }

    /// The server closes its end, with or without an id.
    pub(super) fn close_link(&mut self, link: u32) {
        let it = &mut self.links[link as usize];
        it.server = ServerEnd::Closed;
        if it.broken {
            return;
        }
        if it.inbox.is_empty() {
            it.fin_queued = it.seen == Seen::Open;
            self.start_draining(link);
        } else {
            // tcp(7): closing with unread input sends a reset instead of a FIN.
            it.inbox.clear();
            self.reset_peer(link);
        }
        // What waited for room in the inbox meets a closed socket.
        self.arrive(link);
    }
}

/// Takes the first `len` bytes out.
pub(super) fn take_front(bytes: &mut VecDeque<u8>, len: usize) -> Vec<u8> {
    let rest = bytes.split_off(len);
    Vec::from(std::mem::replace(bytes, rest))
}
