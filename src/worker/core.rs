//! Everything of a worker but the handlers: what a handler may use while it runs.
//!
//! What comes in: what handlers and the turn want sent, flushed and closed. What goes out:
//! driver calls, and `doomed`: connections whose end the turn has to carry out (a handler must
//! not be called from inside a handler).

use std::collections::HashMap;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::mailbox::{Command, Shared, Tally};
use super::publish::Notices;
use super::schedule::Schedule;
use super::shutdown::Stopping;
use super::time::jitter;
use super::timers::Wheel;
use super::topics::Topics;
use crate::config::Config;
use crate::connection::{Connection, NEVER, Phase, Table, subprotocol};
use crate::driver::{ConnectionId, Driver, DriverStats};
use crate::error::{CloseCause, SendError};
use crate::figures::Tables;
use crate::outgoing::OutgoingPool;
use crate::protocol::{BufferPool, CloseCode, Message, frame};
use crate::websocket::SendStatus;

/// Payloads from here on are offered to the kernel where they lie, together with the batch so
/// far, instead of being copied into it, if they are the last of their turn.
const DIRECT_SEND: usize = 16 * 1024;

/// The same for payloads that more input follows: from here on a copy costs more than a system
/// call of its own.
const DIRECT_SEND_AMID: usize = 64 * 1024;

/// How long input is discarded after our FIN, so that our Close arrives before any reset.
pub(crate) const LINGER_MS: u64 = 1000;

/// Spare bytes that a worker keeps for reuse, in each of its two pools.
pub(crate) const SPARE_BYTES: usize = 8 * 1024 * 1024;

/// See the module documentation.
pub(crate) struct Core {
    pub(crate) driver: Box<dyn Driver>,
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
    /// Connections that the application wants to read again.
    pub(crate) resumed: Vec<ConnectionId>,
    /// The time of this turn.
    pub(crate) now_ms: u64,
    pub(crate) config: Arc<Config>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) tally: Tally,
    pub(crate) topics: Topics,
    pub(crate) notices: Notices,
    /// The short frame that is being published.
    pub(crate) scratch: Vec<u8>,
    /// Subprotocols that are in no route's list, by slot; see [`Connection::subprotocol`].
    pub(crate) chosen_subprotocols: HashMap<u32, Box<str>>,
    /// Bytes that wait for sockets that are full, compared with `max_worker_backpressure`.
    pub(crate) buffered: usize,
    /// When this turn began, for the histogram of turns.
    pub(crate) turn_start_us: u64,
    /// What the driver had counted at the end of the last turn.
    driver_stats: DriverStats,
    pub(crate) worker: u16,
    /// Where the connection belongs that is told of its end at the moment.
    pub(crate) ending_route: u16,
    /// From which length on a payload is sent from where it lies; see [`Core::expect_more`].
    direct_send: usize,
}

impl Core {
    pub(crate) fn new(
        worker: u16,
        mut driver: Box<dyn Driver>,
        config: Arc<Config>,
        shared: Arc<Shared>,
    ) -> Self {
        let now_ms = driver.now_ms();
        let slots = config.reserved_slots();
        driver.reserve(slots);
        let mut timers = Wheel::new(now_ms);
        timers.reserve(slots);
        let schedule = Schedule::new(worker, config.max_timers);
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
            resumed: Vec::new(),
            now_ms,
            config,
            shared,
            tally: Tally::default(),
            topics,
            notices: Notices::default(),
            scratch: Vec::new(),
            chosen_subprotocols: HashMap::new(),
            buffered: 0,
            turn_start_us: 0,
            driver_stats: DriverStats::default(),
            worker,
            ending_route: 0,
            direct_send: DIRECT_SEND,
        }
    }

    /// Says whether more input of this turn will follow the message that is handed out now, so
    /// that its answers can leave together.
    #[inline]
    pub(crate) fn expect_more(&mut self, more: bool) {
        self.direct_send = if more { DIRECT_SEND_AMID } else { DIRECT_SEND };
    }

    /// Adds what the driver counted since the last time to the tally.
    pub(crate) fn note_driver_stats(&mut self) {
        let stats = self.driver.stats();
        self.tally.receive_buffers_exhausted +=
            stats.buffers_exhausted - self.driver_stats.buffers_exhausted;
        self.tally.stale_events += stats.stale_events - self.driver_stats.stale_events;
        self.driver_stats = stats;
    }

    /// Queues one message. See [`WebSocket::send`](crate::WebSocket::send).
    #[inline]
    pub(crate) fn send(
        &mut self,
        id: ConnectionId,
        message: Message<'_>,
    ) -> Result<SendStatus, SendError> {
        let len = message.len();
        let Some(connection) = self.table.get_mut(id) else { return Err(SendError::Gone) };
        let Phase::Live(live) = &mut connection.phase else { return Err(SendError::Gone) };
        if !live.endpoint.is_open() {
            return Err(SendError::Gone);
        }
        let outgoing = connection.outgoing.get_or_insert_with(|| self.outgoing.take());
        let unsent = outgoing.unsent_len();
        let long = len >= self.direct_send || unsent + len > self.config.high_water();
        if long || connection.blocked {
            return self.send_large(id, message);
        }
        if live.endpoint.send(message, outgoing.append()).is_err() {
            return Err(self.why_not(id));
        }
        self.tally.messages_sent += 1;
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(id);
        }
        Ok(SendStatus::Sent)
    }

    /// The same for a message that is large or meets a queue that waits: the kernel is asked to take
    /// what it can before anything is copied or refused.
    #[cold]
    fn send_large(
        &mut self,
        id: ConnectionId,
        message: Message<'_>,
    ) -> Result<SendStatus, SendError> {
        let len = message.len();
        let Some(connection) = self.table.get_mut(id) else { return Err(SendError::Gone) };
        let Phase::Live(live) = &mut connection.phase else { return Err(SendError::Gone) };
        if !live.endpoint.is_open() || live.endpoint.sending().is_some() {
            return Err(self.why_not(id));
        }
        let blocked = connection.blocked;
        let shared = connection.outgoing.as_ref().is_some_and(|outgoing| outgoing.has_shared());
        if !blocked && (shared || len < self.direct_send) {
            self.flush(id);
        }
        let header = frame::encode_header(true, false, message.opcode(), len as u64, None);
        let over_limit = self.is_over_limit(header.len() + len);
        let Some(connection) = self.table.get_mut(id) else { return Err(SendError::Gone) };
        let Phase::Live(live) = &mut connection.phase else { return Err(SendError::Gone) };
        let outgoing = connection.outgoing.get_or_insert_with(|| self.outgoing.take());
        let unsent = outgoing.unsent_len();
        if connection.blocked || len < self.direct_send {
            if unsent != 0 && unsent + header.len() + len > self.config.max_backpressure {
                self.tally.dropped += 1;
                return Err(SendError::Full);
            }
            if connection.blocked && over_limit {
                self.tally.dropped_worker_full += 1;
                return Err(SendError::Full);
            }
            if live.endpoint.send(message, outgoing.append()).is_err() {
                return Err(SendError::Gone);
            }
            self.tally.messages_sent += 1;
            let blocked = connection.blocked;
            if blocked {
                self.note_buffered(id);
            }
            self.mark_dirty(id);
            return Ok(if blocked { SendStatus::Queued } else { SendStatus::Sent });
        }

        if outgoing.has_shared() {
            // The flush failed, and the connection is about to end.
            return Err(SendError::Gone);
        }
        // The batch so far, the header and the payload in one call, in order.
        outgoing.append();
        let payload = message.payload();
        let slices =
            [IoSlice::new(outgoing.unsent()), IoSlice::new(&header), IoSlice::new(payload)];
        let batch = outgoing.unsent().len();
        let slices = if batch == 0 { &slices[1..] } else { &slices[..] };
        let taken = match self.driver.send(id, slices) {
            Ok(taken) => taken,
            Err(error) => {
                self.doomed.push((id, CloseCause::Io(error.kind())));
                return Err(SendError::Gone);
            }
        };
        if taken < batch {
            // Not even the batch went out. The message is one more in the queue, or too much.
            self.tally.bytes_sent += taken as u64;
            outgoing.advance(taken);
            let full = outgoing.unsent_len() + header.len() + len > self.config.max_backpressure;
            if !full {
                outgoing.append().extend_from_slice(&header);
                outgoing.append().extend_from_slice(payload);
                self.tally.messages_sent += 1;
            } else {
                self.tally.dropped += 1;
            }
            self.block(id);
            return if full { Err(SendError::Full) } else { Ok(SendStatus::Queued) };
        }
        self.tally.bytes_sent += taken as u64;
        outgoing.advance(batch);
        self.tally.messages_sent += 1;
        let taken = taken - batch;
        if taken == header.len() + len {
            self.drained(id);
            return Ok(SendStatus::Sent);
        }
        // A frame that has begun to leave must be completed, whatever the limit says.
        let rest = outgoing.append();
        if taken < header.len() {
            rest.extend_from_slice(&header[taken..]);
            rest.extend_from_slice(payload);
        } else {
            rest.extend_from_slice(&payload[taken - header.len()..]);
        }
        self.block(id);
        Ok(SendStatus::Queued)
    }

    /// Sends to a connection of any worker.
    pub(crate) fn send_to(
        &mut self,
        id: ConnectionId,
        message: Message<'_>,
    ) -> Result<SendStatus, SendError> {
        if id.worker() == self.worker {
            return self.send(id, message);
        }
        post_message(&self.shared, id, message)?;
        Ok(SendStatus::Queued)
    }

    pub(crate) fn ping(&mut self, id: ConnectionId, payload: &[u8]) -> SendStatus {
        let payload = &payload[..payload.len().min(125)];
        let Some(connection) = self.table.get_mut(id) else { return SendStatus::Dropped };
        let Phase::Live(live) = &mut connection.phase else { return SendStatus::Dropped };
        if !live.endpoint.is_open() {
            return SendStatus::Dropped;
        }
        let outgoing = connection.outgoing.get_or_insert_with(|| self.outgoing.take());
        if live.endpoint.ping(payload, outgoing.append()).is_err() {
            return SendStatus::Dropped;
        }
        let blocked = connection.blocked;
        self.mark_dirty(id);
        if blocked { SendStatus::Queued } else { SendStatus::Sent }
    }

    /// Answers a ping. While the socket is full only the latest answer waits.
    pub(crate) fn pong(&mut self, id: ConnectionId, payload: &[u8]) {
        let Some(connection) = self.table.get_mut(id) else { return };
        let Phase::Live(live) = &mut connection.phase else { return };
        if !live.endpoint.is_open() {
            // After our Close no pong is due.
            return;
        }
        let outgoing = connection.outgoing.get_or_insert_with(|| self.outgoing.take());
        let out = if connection.blocked { outgoing.replace_pong() } else { outgoing.append() };
        // A payload that was received is not too long.
        let _ = live.endpoint.pong(payload, out);
        self.mark_dirty(id);
    }

    /// Starts the close handshake.
    pub(crate) fn close(&mut self, id: ConnectionId, code: CloseCode, reason: &str) -> bool {
        let close_timeout_ms = self.config.close_timeout_ms;
        let now_ms = self.now_ms;
        let Some(connection) = self.table.get_mut(id) else { return false };
        let Phase::Live(live) = &mut connection.phase else { return false };
        if !live.endpoint.is_open() {
            return false;
        }
        let outgoing = connection.outgoing.get_or_insert_with(|| self.outgoing.take());
        if !live.endpoint.close(Some(code), reason, outgoing.append_close()) {
            return false;
        }
        connection.deadline_ms = after(now_ms, close_timeout_ms);
        connection.pinged = false;
        self.tables().note_close_sent(code.get());
        // The answer must be read.
        self.resume_for_handler(id);
        self.mark_dirty(id);
        self.arm_timer(id);
        true
    }

    pub(crate) fn terminate(&mut self, id: ConnectionId) {
        if let Some(connection) = self.table.get_mut(id)
            && let Phase::Live(live) = &mut connection.phase
        {
            // Nothing is written, but nothing more is taken either: `send` says so from here on.
            live.endpoint.close(None, "", &mut Vec::new());
            self.doomed.push((id, CloseCause::Terminated));
        }
    }

    /// The route of a connection that some callback has in its hands.
    pub(crate) fn route_of(&self, id: ConnectionId) -> u16 {
        match self.table.get(id).map(|connection| &connection.phase) {
            Some(Phase::Live(live)) => live.route,
            _ => self.ending_route,
        }
    }

    pub(crate) fn buffered_amount(&self, id: ConnectionId) -> usize {
        self.table.get(id).map_or(0, Connection::unsent_len)
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

    pub(crate) fn peer_addr(&self, id: ConnectionId) -> Option<SocketAddr> {
        let connection = self.table.get(id)?;
        if matches!(connection.phase, Phase::Gone) {
            return None;
        }
        self.driver.peer_addr(id)
    }

    /// Has the connection flushed at the end of the turn.
    pub(crate) fn mark_dirty(&mut self, id: ConnectionId) {
        if let Some(connection) = self.table.get_mut(id)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(id);
        }
    }

    /// Gives the socket what is queued, unless it is known to be full.
    #[inline]
    pub(crate) fn flush(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get_mut(id) else { return };
        if connection.blocked {
            // What others sent to it counts, too.
            self.note_buffered(id);
            return self.pause_if_backlogged(id);
        }
        if matches!(connection.phase, Phase::Gone) {
            return;
        }
        let Some(outgoing) = connection.outgoing.as_mut() else { return self.drained(id) };
        while outgoing.has_shared() || !outgoing.unsent().is_empty() {
            let (len, sent) = if outgoing.has_shared() {
                outgoing.gather(|slices| self.driver.send(id, slices))
            } else {
                let unsent = outgoing.unsent();
                (unsent.len(), self.driver.send(id, &[IoSlice::new(unsent)]))
            };
            match sent {
                Ok(taken) => {
                    self.tally.bytes_sent += taken as u64;
                    outgoing.advance(taken);
                    if taken < len {
                        return self.block(id);
                    }
                }
                Err(error) => return self.doomed.push((id, CloseCause::Io(error.kind()))),
            }
        }
        self.drained(id);
    }

    /// The socket is full: wait for `Writable`, watch the time, and stop reading from a peer that
    /// does not read.
    fn block(&mut self, id: ConnectionId) {
        let now_ms = self.now_ms;
        let Some(connection) = self.table.get_mut(id) else { return };
        connection.blocked = true;
        if let Some(outgoing) = &mut connection.outgoing {
            outgoing.progress_ms = now_ms;
        }
        self.note_buffered(id);
        self.pause_if_backlogged(id);
        self.arm_timer(id);
    }

    /// Takes the present length of a connection's queue into the worker's sum.
    pub(super) fn note_buffered(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get_mut(id) else { return };
        if let Some(outgoing) = &mut connection.outgoing {
            let unsent = outgoing.unsent_len();
            let before = std::mem::replace(&mut outgoing.noted, unsent);
            self.buffered = self.buffered + unsent - before;
        }
    }

    /// True if so many bytes more would pass `max_worker_backpressure`.
    pub(super) fn is_over_limit(&self, more: usize) -> bool {
        let max = self.config.max_worker_backpressure;
        max != 0 && self.buffered + more > max
    }

    /// This worker's part of the public figures.
    pub(crate) fn tables(&self) -> &Tables {
        &self.shared.counters[usize::from(self.worker)].tables
    }

    /// Lets other threads see what was counted since the last time.
    pub(crate) fn publish_figures(&mut self) {
        let counters = &self.shared.counters[usize::from(self.worker)];
        counters.add(&mut self.tally);
        counters.buffered_bytes.store(self.buffered as u64, Ordering::Relaxed);
    }

    /// Stops reading from a peer for which too much waits. The socket must be full: `Writable`
    /// sees to it that reading goes on.
    fn pause_if_backlogged(&mut self, id: ConnectionId) {
        let high_water = self.config.high_water();
        let Some(connection) = self.table.get_mut(id) else { return };
        // Whoever drains is read until the end, and has no input that would cost memory.
        let live = matches!(connection.phase, Phase::Live(_));
        if live && connection.unsent_len() > high_water && !connection.reading_paused {
            connection.reading_paused = true;
            self.driver.pause_reading(id);
        }
    }

    /// Nothing is left to send: the buffer goes back to the pool, and a connection that was only
    /// waiting for that sends its FIN.
    fn drained(&mut self, id: ConnectionId) {
        let now_ms = self.now_ms;
        let Some(connection) = self.table.get_mut(id) else { return };
        if let Some(outgoing) = &mut connection.outgoing {
            self.buffered -= std::mem::take(&mut outgoing.noted);
        }
        if connection.outgoing.as_ref().is_some_and(|outgoing| !outgoing.holds_input())
            && let Some(outgoing) = connection.outgoing.take()
        {
            self.outgoing.give(outgoing);
            if connection.reading_paused && !connection.paused_by_handler {
                // The socket was never full since, so no `Writable` will see to it.
                self.resume_reading(id);
            }
        }
        let Some(connection) = self.table.get_mut(id) else { return };
        if let Phase::Draining { finished, .. } = &mut connection.phase
            && !*finished
        {
            *finished = true;
            if connection.peer_ended {
                self.release(id);
            } else {
                connection.deadline_ms = connection.deadline_ms.min(after(now_ms, LINGER_MS));
                self.driver.finish_sending(id);
                self.arm_timer(id);
            }
        }
    }

    /// Reads again from a peer that was not read because it did not read.
    pub(crate) fn resume_reading(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get_mut(id) else { return };
        connection.reading_paused = false;
        // The peer had no chance to show that it is alive.
        connection.last_received_ms = self.now_ms;
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
        connection.phase = Phase::Gone;
        connection.deadline_ms = NEVER;
        if let Some(outgoing) = connection.outgoing.take() {
            self.buffered -= outgoing.noted;
            if self.stopping.began {
                self.stopping.report.unsent_bytes += outgoing.unsent_len() as u64;
            }
            self.outgoing.give(outgoing);
        }
        self.timers.clear(id.slot() as u32);
        self.driver.close(id);
    }

    /// Sets the connection's timer to the earliest of its deadlines.
    pub(crate) fn arm_timer(&mut self, id: ConnectionId) {
        let deadline = self.next_deadline(id);
        let slot = id.slot() as u32;
        if deadline == NEVER {
            self.timers.clear(slot);
        } else if self.timers.deadline(slot).is_none_or(|armed| deadline < armed) {
            // A timer that is armed too early looks again when it fires: activity moves
            // deadlines back without a word to the wheel.
            self.timers.set(slot, deadline);
        }
    }

    /// The earliest moment at which time alone changes something for this connection.
    pub(crate) fn next_deadline(&self, id: ConnectionId) -> u64 {
        let config = &self.config;
        let Some(connection) = self.table.get(id) else { return NEVER };
        if matches!(connection.phase, Phase::Gone) {
            // The driver has the last word: `Released`.
            return NEVER;
        }
        let mut deadline = connection.deadline_ms;
        if connection.pinged {
            // It is that of the pong, which may be on its way, or may not have been asked for yet.
            if connection.reading_paused || connection.blocked {
                deadline = NEVER;
            }
        } else if deadline != NEVER {
            // Nothing else counts while a phase with a deadline lasts.
            return deadline;
        }
        if let Phase::Live(live) = &connection.phase {
            // A peer that is not read cannot prove that it is alive; the write timeout watches it.
            if !connection.reading_paused {
                deadline = deadline.min(after(connection.last_received_ms, config.idle_timeout_ms));
                if !connection.pinged && live.endpoint.is_open() {
                    deadline = deadline.min(self.ping_due_ms(id, connection));
                }
            }
        }
        if connection.blocked
            && let Some(outgoing) = &connection.outgoing
        {
            deadline = deadline.min(after(outgoing.progress_ms, config.write_timeout_ms));
        }
        deadline
    }

    /// When a connection is cut whose last bytes begin to leave now. With `close_timeout` off, the
    /// write timeout watches it.
    pub(crate) fn drain_deadline(&self) -> u64 {
        match self.config.close_timeout_ms {
            0 => NEVER,
            close_timeout_ms => after(self.now_ms, close_timeout_ms.max(LINGER_MS)),
        }
    }

    /// When the connection is sent a ping if nothing comes. Up to a quarter of the interval early,
    /// so that connections that were opened together are not pinged together.
    pub(crate) fn ping_due_ms(&self, id: ConnectionId, connection: &Connection) -> u64 {
        let interval_ms = self.config.ping_interval_ms;
        after(connection.last_received_ms, interval_ms - jitter(id, interval_ms / 4))
    }
}

/// Posts a message to the mailbox of the connection's worker.
pub(crate) fn post_message(
    shared: &Shared,
    id: ConnectionId,
    message: Message<'_>,
) -> Result<(), SendError> {
    let mailbox = shared.mailboxes.get(usize::from(id.worker())).ok_or(SendError::Gone)?;
    let text = matches!(message, Message::Text(_));
    mailbox.post(Command::Send { id, text, payload: message.payload().into() })
}

/// `timeout_ms` after `start_ms`; zero is off.
#[inline]
pub(crate) fn after(start_ms: u64, timeout_ms: u64) -> u64 {
    if timeout_ms == 0 { NEVER } else { start_ms.saturating_add(timeout_ms) }
}
