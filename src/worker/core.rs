//! Everything of a worker but the handlers: what a handler may use while it runs.
//!
//! What comes in: what handlers and the turn want sent, flushed and closed. What goes out:
//! driver calls, and `doomed`: connections whose end the turn has to carry out (a handler must
//! not be called from inside a handler).

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::dialing::Dials;
use super::mailbox::{Counters, Shared, Tally};
use super::places::Network;
use super::publish::Notices;
use super::schedule::Schedule;
use super::sending::DIRECT_SEND;
use super::shutdown::Stopping;
use super::timers::Wheel;
use super::topics::Topics;
use crate::config::Config;
use crate::connection::{NEVER, Phase, Table, subprotocol};
use crate::driver::{AnyDriver, ConnectionId, Driver, DriverStats};
use crate::error::CloseCause;
use crate::figures::Tables;
use crate::http::writing::DateText;
use crate::outgoing::OutgoingPool;
use crate::protocol::{BufferPool, DeflateParameters};
use crate::tls::Scratch;

/// How long input is discarded after our FIN, so that our Close arrives before any reset.
pub(crate) const LINGER_MS: u64 = 1000;

const NS_PER_MS: u64 = 1_000_000;

/// Spare bytes that a worker keeps for reuse, in each of its two pools.
pub(crate) const SPARE_BYTES: usize = 8 * 1024 * 1024;

/// See the module documentation.
pub(crate) struct Core {
    pub(crate) driver: AnyDriver,
    pub(crate) table: Table,
    pub(crate) buffers: BufferPool,
    pub(crate) outgoing: OutgoingPool,
    pub(crate) timers: Wheel,
    /// When connections have to be closed, however busy they are; empty unless that is asked for.
    pub(crate) lifetimes: Wheel,
    pub(crate) stopping: Stopping,
    /// Timers of the application.
    pub(crate) schedule: Schedule,
    /// Connections that have something to flush, each once.
    pub(crate) dirty: Vec<ConnectionId>,
    /// Connections that the turn has to end.
    pub(crate) doomed: Vec<(ConnectionId, CloseCause)>,
    /// Connections whose TLS handshake can go on, each once.
    pub(crate) handshakes: VecDeque<ConnectionId>,
    /// Buffers for TLS.
    pub(crate) tls: Scratch,
    /// Connections that the application wants to read again.
    pub(crate) resumed: Vec<ConnectionId>,
    /// Connections whose input has to wait for the next turn, because so much was inflated in this
    /// one.
    pub(crate) postponed: Vec<ConnectionId>,
    /// What the pool will have inflated when the turn has inflated enough.
    pub(crate) inflate_until: u64,
    /// Messages left of it.
    pub(crate) messages_left: u32,
    /// No deadline is earlier. Whoever sets one sees to that; when one is taken away, the turn
    /// finds out once this has come.
    pub(crate) alarm_ms: u64,
    /// When this turn began, rounded down: what is due then is due.
    pub(crate) now_ms: u64,
    /// The same, rounded up: deadlines count from here, so that none comes before its time.
    pub(crate) soon_ms: u64,
    pub(crate) config: Arc<Config>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) tally: Tally,
    /// Those of this worker in `shared`.
    pub(super) counters: Arc<Counters>,
    pub(crate) topics: Topics,
    /// Connections that this worker makes.
    pub(crate) dials: Dials,
    pub(crate) notices: Notices,
    /// The short frame that is being published.
    pub(crate) scratch: Vec<u8>,
    /// Subprotocols that are in no route's list, by slot; see [`subprotocol`].
    pub(crate) chosen_subprotocols: HashMap<u32, Box<str>>,
    /// Where connections come from, by slot; empty unless that is limited.
    pub(crate) networks: HashMap<u32, Network>,
    /// Bytes that wait for sockets that are full, compared with `max_worker_backpressure`.
    pub(crate) buffered: usize,
    /// When this turn began, for the histogram of turns.
    pub(crate) turn_start_ns: u64,
    /// What the driver had counted at the end of the last turn.
    driver_stats: DriverStats,
    /// The text of Date in HTTP answers.
    pub(crate) http_date: DateText,
    pub(crate) worker: u16,
    /// Where the connection belongs that is told of its end at the moment.
    pub(crate) ending_route: u16,
    /// From which length on a payload is sent from where it lies; see [`Core::expect_more`].
    pub(super) direct_send: usize,
    /// See [`Config::high_water`].
    pub(super) high_water: usize,
    /// Set by whatever may put a connection ahead of its peer, see [`Core::is_ahead`], so that it
    /// is not looked up after every message.
    pub(super) look_again: bool,
    /// The connection that is read out of turn, and how many bytes it has brought in this one.
    pub(super) reading_on: Option<(ConnectionId, usize)>,
}

impl Core {
    pub(crate) fn new(
        worker: u16,
        mut driver: AnyDriver,
        config: Arc<Config>,
        shared: Arc<Shared>,
    ) -> Self {
        let now_ms = driver.now_ms();
        let (slots, high_water) = (config.reserved_slots(), config.high_water());
        driver.reserve(slots);
        let mut timers = Wheel::new(now_ms);
        timers.reserve(slots);
        let schedule = Schedule::new(worker, config.max_timers);
        let counters = Arc::clone(&shared.counters[usize::from(worker)]);
        let topics = Topics::new(Arc::clone(&shared.topics), worker);
        Self {
            driver,
            table: Table::with_capacity(worker, slots),
            buffers: BufferPool::new(SPARE_BYTES),
            outgoing: OutgoingPool::new(SPARE_BYTES),
            timers,
            lifetimes: Wheel::new(now_ms),
            schedule,
            stopping: Stopping::default(),
            dirty: Vec::new(),
            doomed: Vec::new(),
            handshakes: VecDeque::new(),
            tls: Scratch::default(),
            resumed: Vec::new(),
            postponed: Vec::new(),
            inflate_until: u64::MAX,
            messages_left: 0,
            alarm_ms: NEVER,
            now_ms,
            soon_ms: now_ms,
            config,
            shared,
            tally: Tally::default(),
            counters,
            topics,
            dials: Dials::default(),
            notices: Notices::default(),
            scratch: Vec::new(),
            chosen_subprotocols: HashMap::new(),
            networks: HashMap::new(),
            buffered: 0,
            turn_start_ns: 0,
            driver_stats: DriverStats::default(),
            http_date: DateText::default(),
            worker,
            ending_route: 0,
            direct_send: DIRECT_SEND,
            high_water,
            look_again: false,
            reading_on: None,
        }
    }

    /// A turn begins.
    #[inline]
    pub(crate) fn note_time(&mut self, now_ns: u64) {
        self.turn_start_ns = now_ns;
        self.reading_on = None;
        // Most turns begin in the millisecond of the one before, and not with it.
        if now_ns.wrapping_sub(self.now_ms * NS_PER_MS).wrapping_sub(1) < NS_PER_MS - 1 {
            debug_assert_eq!(self.now_ms + 1, now_ns.div_ceil(NS_PER_MS));
            self.soon_ms = self.now_ms + 1;
            return;
        }
        self.now_ms = now_ns / NS_PER_MS;
        self.soon_ms = now_ns.div_ceil(NS_PER_MS);
    }

    /// The moment after so many milliseconds; none is now.
    pub(crate) fn moment_in(&self, ms: u64) -> u64 {
        if ms == 0 { self.now_ms } else { self.soon_ms.saturating_add(ms) }
    }

    /// Adds what the driver counted since the last time to the tally.
    #[inline]
    pub(crate) fn note_driver_stats(&mut self) {
        let noted = self.driver_stats.stale_events + self.driver_stats.buffers_exhausted;
        if self.driver.mishaps() != noted {
            self.add_driver_stats();
        }
    }

    #[cold]
    fn add_driver_stats(&mut self) {
        let stats = self.driver.stats();
        self.tally.receive_buffers_exhausted +=
            stats.buffers_exhausted - self.driver_stats.buffers_exhausted;
        self.tally.stale_events += stats.stale_events - self.driver_stats.stale_events;
        self.driver_stats = stats;
    }

    /// The route of a connection that some callback has in its hands.
    pub(crate) fn route_of(&self, id: ConnectionId) -> u16 {
        match self.table.get(id).map(|connection| &connection.phase) {
            Some(Phase::Live(live)) => live.route,
            _ => self.ending_route,
        }
    }

    pub(crate) fn buffered_amount(&self, id: ConnectionId) -> usize {
        self.table.unsent_len(id)
    }

    pub(crate) fn subprotocol(&self, id: ConnectionId) -> Option<&str> {
        match self.table.get(id)?.subprotocol {
            subprotocol::NONE => None,
            subprotocol::CHOSEN => {
                self.chosen_subprotocols.get(&(id.slot() as u32)).map(|name| &**name)
            }
            index => self.config.subprotocols.get(usize::from(index)).map(String::as_str),
        }
    }

    /// The compression of a connection that some callback has in its hands.
    pub(crate) fn deflate(&self, id: ConnectionId) -> Option<DeflateParameters> {
        match self.table.get(id).map(|connection| &connection.phase) {
            Some(Phase::Live(live)) => live.endpoint.deflate(),
            _ => None,
        }
    }

    pub(crate) fn peer_addr(&self, id: ConnectionId) -> Option<SocketAddr> {
        let connection = self.table.get(id)?;
        if matches!(connection.phase, Phase::Gone) {
            return None;
        }
        self.driver.peer_addr(id)
    }

    /// Queues that connections hold.
    #[cfg(test)]
    pub(crate) fn lent_queues(&self) -> usize {
        self.outgoing.lent() - self.table.kept_queues()
    }

    /// This worker's part of the public figures.
    pub(crate) fn tables(&self) -> &Tables {
        &self.counters.tables
    }

    /// Lets other threads see what was counted since the last time.
    #[inline]
    pub(crate) fn publish_figures(&mut self) {
        self.counters.publish(&mut self.tally);
        self.counters.buffered_bytes.store(self.buffered as u64, Ordering::Relaxed);
    }

    /// Reads again from a peer that was not read because it did not read.
    pub(crate) fn resume_reading(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get_mut(id) else { return };
        connection.reading_paused = false;
        // The peer had no chance to show that it is alive.
        connection.last_received_ms = self.soon_ms;
        if std::mem::take(&mut connection.pinged) {
            connection.deadline_ms = NEVER;
        }
        self.driver.resume_reading(id);
        self.arm_timer(id);
    }

    /// Closes the socket; `Released` will free the slot. The session must have ended.
    pub(crate) fn release(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get_mut(id) else { return };
        if matches!(connection.phase, Phase::Gone) {
            return;
        }
        debug_assert!(!matches!(connection.phase, Phase::Live(_)), "on_close comes first");
        let phase = std::mem::replace(&mut connection.phase, Phase::Gone);
        let deadline_ms = std::mem::replace(&mut connection.deadline_ms, NEVER);
        if let Some(outgoing) = connection.outgoing.take() {
            self.buffered -= outgoing.noted();
            if self.stopping.began {
                self.stopping.report.unsent_bytes += outgoing.unsent_len() as u64;
            }
            self.outgoing.give(outgoing);
        }
        if let Some(tls) = connection.tls.take() {
            self.note_end_of_tls(&tls, deadline_ms);
        }
        self.timers.clear(id.slot() as u32);
        self.driver.close(id);
        self.drop_phase(phase);
    }
}

/// `timeout_ms` after `start_ms`; zero is off.
#[inline]
pub(crate) fn after(start_ms: u64, timeout_ms: u64) -> u64 {
    if timeout_ms == 0 { NEVER } else { start_ms.saturating_add(timeout_ms) }
}
