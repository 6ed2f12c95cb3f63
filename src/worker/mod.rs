//! The crank: one thread, one driver, one table of connections.
//!
//! A worker turns: it waits, hands every event to the stage that the connection is in, lets
//! expired deadlines and commands of other threads have their say, and flushes each connection
//! that has something to send, once. Nothing is shared with other workers but the mailboxes and
//! counters.
//!
//! ```text
//!  driver --Event--> Crank --+--> upgrade (request head -> 101 or an HTTP answer)
//!                            +--> feed    (frames -> Endpoint -> Route -> Handler)
//!                            +--> end     (on_close once, then Draining or Gone)
//!                                   |
//!                 Core <------------+     sends, timers, table: what handlers may use
//! ```
//!
//! Who may call whom: the crank calls handlers and the core; handlers call the core; the core
//! calls neither. An end that becomes due inside the core is put on `doomed`, and the crank
//! carries it out after the handler has returned. So no handler runs inside another.

pub(crate) mod core;
pub(crate) mod mailbox;
pub(crate) mod paths;
pub(crate) mod publish;
mod reading;
pub(crate) mod route;
pub(crate) mod schedule;
pub(crate) mod shutdown;
#[cfg(test)]
mod simulation;
mod streaming;
mod time;
pub(crate) mod timers;
pub(crate) mod topic_index;
pub(crate) mod topics;
mod upgrade;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(crate) use self::core::Core;
use self::core::after;
use self::mailbox::{Command, Job, Shared};
use self::paths::Paths;
use self::route::{Call, Outcome, Route};
use self::schedule::Owner;
use crate::config::Config;
use crate::connection::{Connection, NEVER, Phase, subprotocol};
use crate::context::WorkerContext;
use crate::driver::{AcceptedSocket, ConnectionId, Driver, Event, ReceiveMemory};
use crate::error::{Close, CloseCause};
use crate::protocol::{self, CloseCode, Message, ProtocolError};

/// How long a worker waits before it tries to accept again.
const ACCEPT_RETRY_MS: u64 = 100;

/// Input that is discarded after our FIN before the connection is cut. More than one receive
/// buffer, so that a peer in the middle of a message that is too big still learns 1009.
const LINGER_BYTES: usize = 1024 * 1024;

/// A turn that comes so much later than it should has been kept from running: by a handler, or
/// because the whole process stood still.
const STALL_MS: u64 = 100;

/// How long a turn after a stall may receive before it looks at deadlines.
const CATCH_UP_MS: u64 = 1000;

/// How long a worker that stops waits for the last `Released`.
const RELEASE_GRACE_MS: u64 = 1000;

/// A driver, its receive memory and the crank that they turn.
pub(crate) struct Worker {
    memory: ReceiveMemory,
    crank: Crank,
}

/// Everything of a worker but the received bytes, so that both can be borrowed at once.
pub(crate) struct Crank {
    pub(crate) core: Core,
    routes: Vec<Box<dyn Route>>,
    paths: Arc<Paths>,
    commands: VecDeque<Command>,
    /// When to accept again, if accepting is paused.
    accept_retry_ms: u64,
    /// Accepted over `max_connections`: another worker was faster, or the accepts were under way
    /// already. They wait for a slot like the peers in the kernel's backlog.
    waiting: VecDeque<AcceptedSocket>,
    /// Someone used the waker.
    woken: bool,
    /// The server stops; whoever is still there at this moment is cut.
    stop_deadline_ms: Option<u64>,
    /// Until then nobody notices that the server will stop.
    announced_until_ms: u64,
}

impl Worker {
    pub(crate) fn new(
        number: u16,
        driver: Box<dyn Driver>,
        memory: ReceiveMemory,
        routes: Vec<Box<dyn Route>>,
        paths: Arc<Paths>,
        config: Arc<Config>,
        shared: Arc<Shared>,
    ) -> Self {
        shared.mailboxes[usize::from(number)].open(driver.waker());
        let mut crank = Crank {
            core: Core::new(number, driver, config, shared),
            routes,
            paths,
            commands: VecDeque::new(),
            accept_retry_ms: NEVER,
            waiting: VecDeque::new(),
            woken: false,
            stop_deadline_ms: None,
            announced_until_ms: NEVER,
        };
        crank.start_handlers();
        Self { memory, crank }
    }

    /// Turns until the server has been shut down and every connection has gone.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        while !self.crank.is_finished() {
            self.turn()?;
        }
        Ok(())
    }

    /// One round: wait, receive, obey, expire, flush.
    pub(crate) fn turn(&mut self) -> io::Result<()> {
        let timeout_ms = self.crank.timeout_ms();
        let due_ms = timeout_ms.map_or(NEVER, |ms| self.crank.core.now_ms.saturating_add(ms));
        let mut more = self.receive(timeout_ms)?;
        let now_ms = self.crank.core.now_ms;
        if now_ms > due_ms.saturating_add(STALL_MS) {
            // One look does not bring everything that came during a stall, and whoever has sent
            // in time is not silent: everybody is heard before anybody is judged.
            while more && self.crank.core.now_ms < now_ms + CATCH_UP_MS {
                self.crank.obey();
                self.crank.flush_all();
                more = self.receive(Some(0))?;
            }
        }
        let crank = &mut self.crank;
        crank.obey();
        crank.expire();
        crank.resume_all();
        if !crank.core.notices.is_empty() {
            crank.notify();
        }
        crank.flush_all();
        crank.core.note_driver_stats();
        crank.core.publish_figures();
        let took_us = crank.core.driver.now_us() - crank.core.turn_start_us;
        crank.core.tables().note_turn(took_us);
        Ok(())
    }

    /// Waits, then handles what happened; false if that was nothing.
    fn receive(&mut self, timeout_ms: Option<u64>) -> io::Result<bool> {
        let crank = &mut self.crank;
        crank.core.driver.wait(timeout_ms)?;
        crank.core.turn_start_us = crank.core.driver.now_us();
        crank.core.now_ms = crank.core.turn_start_us / 1000;
        let mut something = false;
        while let Some(event) = crank.core.driver.next_event(&mut self.memory) {
            something = true;
            crank.handle(event);
        }
        Ok(something)
    }

    /// True when the server was shut down and nothing is left to do.
    #[cfg(test)]
    pub(crate) fn is_finished(&self) -> bool {
        self.crank.is_finished()
    }
}

impl Drop for Worker {
    /// A worker that stops by an error or a panic still leaves the counters and the mailbox right.
    fn drop(&mut self) {
        let core = &mut self.crank.core;
        let left = core.table.len();
        core.shared.connections.fetch_sub(left, Ordering::AcqRel);
        core.tally.undelivered += core.shared.mailboxes[usize::from(core.worker)].stop() as u64;
        core.buffered = 0;
        core.publish_figures();
        self.crank.core.shared.add_report(&self.crank.report());
    }
}

impl Crank {
    fn is_finished(&self) -> bool {
        self.stop_deadline_ms.is_some_and(|deadline| {
            self.core.table.is_empty() || self.core.now_ms >= deadline + RELEASE_GRACE_MS
        })
    }

    /// How long the next wait may last.
    fn timeout_ms(&self) -> Option<u64> {
        if !self.core.notices.is_empty() {
            return Some(0);
        }
        let mut deadline = self.core.timers.next_deadline().unwrap_or(NEVER);
        deadline = deadline.min(self.accept_retry_ms).min(self.announced_until_ms);
        deadline = deadline.min(self.core.lifetimes.next_deadline().unwrap_or(NEVER));
        deadline = deadline.min(self.core.schedule.next_deadline().unwrap_or(NEVER));
        if let Some(stop) = self.stop_deadline_ms {
            let stop = if self.core.now_ms < stop { stop } else { stop + RELEASE_GRACE_MS };
            deadline = deadline.min(stop);
        }
        (deadline != NEVER).then(|| deadline.saturating_sub(self.core.now_ms))
    }

    #[inline]
    fn handle(&mut self, event: Event<'_>) {
        match event {
            Event::Received { id, bytes } => self.received(id, bytes),
            Event::Accepted(socket) => self.accepted(socket),
            Event::Ended(id) => self.ended(id),
            Event::Failed(id, error) => self.end(id, CloseCause::Io(error.kind())),
            Event::Writable(id) => self.writable(id),
            Event::Released(id) => self.released(id),
            Event::AcceptPaused(error) => {
                log::warn!("accepting is paused, next try in {ACCEPT_RETRY_MS} ms: {error}");
                self.core.tally.accept_pauses += 1;
                self.accept_retry_ms = self.core.now_ms + ACCEPT_RETRY_MS;
            }
            Event::Woken => self.woken = true,
        }
        self.bury();
    }

    /// Tells every handler that its worker is there.
    fn start_handlers(&mut self) {
        for (number, route) in self.routes.iter_mut().enumerate() {
            if route.start(&mut self.core, number as u16) == Outcome::Panicked {
                self.core.tally.handler_panics += 1;
            }
        }
    }

    // --- accepting -----------------------------------------------------------------------------

    fn accepted(&mut self, socket: AcceptedSocket) {
        if self.stop_deadline_ms.is_none() {
            self.waiting.push_back(socket);
            self.admit();
        } else {
            self.core.stopping.report.refused += 1;
        }
    }

    /// Gives accepted sockets their slots, as long as the server is not full.
    fn admit(&mut self) {
        while let Some(socket) = self.waiting.pop_front() {
            let max = self.core.config.max_connections;
            let count = self.core.shared.connections.fetch_update(
                Ordering::AcqRel,
                Ordering::Acquire,
                |count| (count < max).then_some(count + 1),
            );
            match count {
                Ok(count) => {
                    self.start(socket);
                    if count + 1 == max {
                        self.pause_at_limit();
                    }
                }
                Err(_) => {
                    // Another worker was faster, or accepts were already under way.
                    self.waiting.push_front(socket);
                    return self.pause_at_limit();
                }
            }
        }
    }

    /// The first step of a connection that was counted.
    fn start(&mut self, socket: AcceptedSocket) {
        let core = &mut self.core;
        core.tally.accepted += 1;
        let deadline_ms = after(core.now_ms, core.config.handshake_timeout_ms);
        let id = core.table.insert(Connection::new(core.now_ms, deadline_ms));
        if let Err(error) = core.driver.adopt(id, socket) {
            log::warn!("a connection could not be adopted: {error}");
            core.table.remove(id);
            core.shared.connections.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        core.arm_timer(id);
    }

    fn pause_at_limit(&mut self) {
        self.core.driver.pause_accepting();
        // A connection of another worker may end: look again from time to time.
        self.accept_retry_ms = self.core.now_ms + ACCEPT_RETRY_MS;
    }

    fn released(&mut self, id: ConnectionId) {
        let core = &mut self.core;
        let Some(connection) = core.table.remove(id) else {
            debug_assert!(false, "released twice: {id:?}");
            return;
        };
        if connection.subprotocol == subprotocol::CHOSEN {
            core.chosen_subprotocols.remove(&(id.slot() as u32));
        }
        // Whoever sees that it has gone also sees its end counted.
        core.publish_figures();
        core.shared.connections.fetch_sub(1, Ordering::AcqRel);
        if self.accept_retry_ms != NEVER {
            self.resume_accepting();
        }
    }

    fn resume_accepting(&mut self) {
        let core = &mut self.core;
        if self.stop_deadline_ms.is_some() {
            self.accept_retry_ms = NEVER;
        } else if core.shared.connections.load(Ordering::Acquire) < core.config.max_connections {
            self.accept_retry_ms = NEVER;
            self.admit();
            if self.accept_retry_ms == NEVER {
                self.core.driver.resume_accepting();
            }
        } else {
            self.accept_retry_ms = core.now_ms + ACCEPT_RETRY_MS;
        }
    }

    // --- receiving -----------------------------------------------------------------------------

    #[inline]
    fn received(&mut self, id: ConnectionId, bytes: &mut [u8]) {
        let core = &mut self.core;
        let now_ms = core.now_ms;
        let Some(connection) = core.table.get_mut(id) else { return };
        connection.last_received_ms = now_ms;
        core.tally.bytes_received += bytes.len() as u64;
        if connection.pinged {
            connection.pinged = false;
            connection.deadline_ms = NEVER;
            core.arm_timer(id);
        }
        let Some(connection) = core.table.get_mut(id) else { return };
        match &mut connection.phase {
            Phase::Live(live) if !connection.reading_paused && !live.streams => {
                let rest = self.feed(id, bytes);
                if rest != 0 {
                    self.core.hold(id, &bytes[bytes.len() - rest..]);
                }
            }
            Phase::Live(_) => self.take_input(id, bytes),
            Phase::Upgrade(_) => self.upgrade(id, bytes),
            Phase::Draining { discarded, .. } => {
                *discarded += bytes.len();
                if *discarded > LINGER_BYTES {
                    core.release(id);
                }
            }
            Phase::Gone => {}
        }
        // If only this connection was touched, its answers leave while they are in the cache and
        // the peer can already work on them. Otherwise everybody is flushed at the end.
        if self.core.dirty.len() == 1 && self.core.dirty[0] == id {
            self.core.dirty.clear();
            if let Some(connection) = self.core.table.get_mut(id) {
                connection.dirty = false;
            }
            self.core.flush(id);
        }
    }

    /// Gives received bytes to the endpoint and its events to the handler. Answers how many bytes
    /// at the end of `input` have to wait, because the connection is not to be read any more.
    fn feed(&mut self, id: ConnectionId, mut input: &mut [u8]) -> usize {
        loop {
            let core = &mut self.core;
            let Some(connection) = core.table.get_mut(id) else { return 0 };
            let Phase::Live(live) = &mut connection.phase else { return 0 };
            let (route, session) = (usize::from(live.route), live.session);
            let outcome = match live.endpoint.receive(&mut input, &mut core.buffers) {
                Ok(None) => {
                    core.expect_more(false);
                    return 0;
                }
                Ok(Some(protocol::Event::Text(text))) => {
                    core.tally.messages_received += 1;
                    core.expect_more(!input.is_empty());
                    let call = Call::Message(Message::Text(text.as_str()));
                    let outcome = self.routes[route].call(core, id, session, call);
                    text.recycle(&mut core.buffers);
                    outcome
                }
                Ok(Some(protocol::Event::Binary(bytes))) => {
                    core.tally.messages_received += 1;
                    core.expect_more(!input.is_empty());
                    let call = Call::Message(Message::Binary(bytes.as_slice()));
                    let outcome = self.routes[route].call(core, id, session, call);
                    bytes.recycle(&mut core.buffers);
                    outcome
                }
                Ok(Some(protocol::Event::Ping(payload))) => {
                    core.pong(id, payload.as_slice());
                    self.routes[route].call(core, id, session, Call::Ping(payload.as_slice()))
                }
                Ok(Some(protocol::Event::Pong(payload))) => {
                    self.routes[route].call(core, id, session, Call::Pong(payload.as_slice()))
                }
                Ok(Some(protocol::Event::Close(frame))) => {
                    let (code, reason) = match &frame {
                        Some((code, reason)) => (u16::from(*code), reason.as_str()),
                        None => (1005, ""),
                    };
                    self.closed_by_peer(id, code, reason);
                    return 0;
                }
                Err(error) => {
                    self.violated(id, error);
                    return 0;
                }
            };
            if outcome == Outcome::Panicked {
                self.end(id, CloseCause::HandlerPanicked);
                return 0;
            }
            if !self.core.doomed.is_empty() {
                self.bury();
            }
            if self.must_wait(id) {
                return input.len();
            }
        }
    }

    fn writable(&mut self, id: ConnectionId) {
        let core = &mut self.core;
        let low_water = core.config.high_water() / 2;
        let Some(connection) = core.table.get_mut(id) else { return };
        if !connection.blocked {
            return;
        }
        connection.blocked = false;
        if connection.pinged {
            // The ping may have waited behind what leaves only now.
            connection.deadline_ms = after(core.now_ms, core.config.pong_timeout_ms);
            core.arm_timer(id);
        }
        core.flush(id);
        core.note_goodbye_left(id);
        self.bury();
        let core = &mut self.core;
        let Some(connection) = core.table.get_mut(id) else { return };
        let Phase::Live(live) = &connection.phase else { return };
        let (route, session) = (usize::from(live.route), live.session);
        if connection.unsent_len() > low_water {
            return;
        }
        if !connection.blocked
            && self.routes[route].call(core, id, session, Call::Drain) == Outcome::Panicked
        {
            return self.end(id, CloseCause::HandlerPanicked);
        }
        self.bury();
        self.go_on(id);
    }

    // --- ends ----------------------------------------------------------------------------------

    /// Carries out the ends that became due inside the core.
    #[inline]
    fn bury(&mut self) {
        while let Some((id, cause)) = self.core.doomed.pop() {
            self.end(id, cause);
        }
    }

    /// The peer sent FIN.
    fn ended(&mut self, id: ConnectionId) {
        let Some(connection) = self.core.table.get_mut(id) else { return };
        connection.peer_ended = true;
        match &connection.phase {
            // The messages that were held come before the end.
            Phase::Live(_) if connection.holds_input() => {}
            Phase::Live(_) => {
                // What was queued before the FIN was seen still gets its one chance.
                self.core.flush(id);
                self.end(id, CloseCause::Ended);
            }
            Phase::Upgrade(_) => self.core.release(id),
            Phase::Draining { finished, .. } => {
                if *finished {
                    self.core.release(id);
                }
            }
            Phase::Gone => {}
        }
    }

    /// A Close frame arrived (RFC 6455 5.5.1): answer it, tell the handler, end.
    fn closed_by_peer(&mut self, id: ConnectionId, code: u16, reason: &str) {
        let core = &mut self.core;
        let Some(connection) = core.table.get_mut(id) else { return };
        let Phase::Live(live) = &mut connection.phase else { return };
        let outgoing = connection.outgoing.get_or_insert_with(|| core.outgoing.take());
        core.shared.counters[usize::from(core.worker)].tables.note_close_received(code);
        let cause = if live.endpoint.reply_close(outgoing.append_close()) {
            core.tables().note_close_sent(code);
            CloseCause::Peer
        } else {
            CloseCause::Local
        };
        self.finish(id, Close { code, reason, cause }, After::Drain);
    }

    /// The peer broke the protocol: it gets the close code, then the end (RFC 6455 7.1.7).
    fn violated(&mut self, id: ConnectionId, error: ProtocolError) {
        let core = &mut self.core;
        let Some(connection) = core.table.get_mut(id) else { return };
        let Phase::Live(live) = &mut connection.phase else { return };
        let outgoing = connection.outgoing.get_or_insert_with(|| core.outgoing.take());
        let code = u16::from(error.close_code());
        if live.endpoint.fail(error, outgoing.append_close()) {
            core.tables().note_close_sent(code);
        }
        let cause = CloseCause::Protocol(error);
        self.finish(id, Close { code, reason: error.reason(), cause }, After::Drain);
    }

    /// The connection is over for any other reason.
    fn end(&mut self, id: ConnectionId, cause: CloseCause) {
        let core = &mut self.core;
        let Some(connection) = core.table.get_mut(id) else { return };
        let Phase::Live(live) = &mut connection.phase else {
            return core.release(id);
        };
        let mut close = Close { code: 1006, reason: "", cause };
        let mut after = After::Release;
        if cause == CloseCause::HandlerPanicked {
            core.tally.handler_panics += 1;
            let outgoing = connection.outgoing.get_or_insert_with(|| core.outgoing.take());
            if live.endpoint.close(Some(CloseCode::INTERNAL_ERROR), "", outgoing.append_close()) {
                core.tables().note_close_sent(1011);
            }
            close.code = 1011;
            after = After::Drain;
        }
        self.finish(id, close, after);
    }

    /// Ends the session: `on_close`, exactly once, then what remains of the connection.
    fn finish(&mut self, id: ConnectionId, close: Close<'_>, then: After) {
        let core = &mut self.core;
        let deadline_ms = core.drain_deadline();
        let Some(connection) = core.table.get_mut(id) else { return };
        let draining = Phase::Draining { discarded: 0, finished: false };
        let Phase::Live(mut live) = std::mem::replace(&mut connection.phase, draining) else {
            debug_assert!(false, "only a live connection has a session to end");
            return core.release(id);
        };
        connection.deadline_ms = deadline_ms;
        connection.pinged = false;
        connection.paused_by_handler = false;
        if let Some(outgoing) = &mut connection.outgoing {
            outgoing.take_held();
        }
        if connection.reading_paused {
            // What still comes is read and discarded, so that the end is seen.
            connection.reading_paused = false;
            core.driver.resume_reading(id);
        }
        live.endpoint.release(&mut core.buffers);
        core.lifetimes.clear(id.slot() as u32);
        core.schedule.cancel_all(Owner::Connection(id));
        core.tally.closed += 1;
        core.stopping.note_end(close.cause);
        core.ending_route = live.route;
        let panics = self.unsubscribe_all(id, live.route, live.session);
        let core = &mut self.core;
        core.tally.handler_panics += panics;
        let route = &mut self.routes[usize::from(live.route)];
        if route.end(core, id, live.session, close) == Outcome::Panicked {
            core.tally.handler_panics += 1;
        }
        match then {
            After::Drain => {
                core.mark_dirty(id);
                core.arm_timer(id);
            }
            After::Release => core.release(id),
        }
    }

    // --- time ----------------------------------------------------------------------------------

    fn expire(&mut self) {
        let now_ms = self.core.now_ms;
        while let Some(slot) = self.core.timers.expired(now_ms) {
            let Some(id) = self.core.table.id_of(slot) else { continue };
            if self.core.next_deadline(id) <= now_ms {
                self.timed_out(id);
                self.bury();
            }
            self.core.arm_timer(id);
        }
        self.fire_timers();
        self.end_lives();
        if self.accept_retry_ms <= now_ms {
            self.resume_accepting();
        }
        if self.announced_until_ms <= now_ms {
            self.heed_shutdown(&Arc::clone(&self.core.shared));
        }
        if self.stop_deadline_ms.is_some_and(|deadline| deadline <= now_ms) {
            // Without any grace, the Closes of this very turn have not left yet.
            self.flush_all();
            for id in self.core.table.ids() {
                // Without any grace the Close was queued in this very turn.
                self.core.flush(id);
                self.end(id, CloseCause::Shutdown);
            }
        }
    }

    /// One of the connection's deadlines has passed; find out which.
    fn timed_out(&mut self, id: ConnectionId) {
        let core = &mut self.core;
        let (now_ms, config) = (core.now_ms, Arc::clone(&core.config));
        if core.waits_for_reader(id) {
            return;
        }
        let Some(connection) = core.table.get_mut(id) else { return };
        match &connection.phase {
            Phase::Upgrade(None) | Phase::Draining { .. } => core.release(id),
            Phase::Upgrade(Some(upgrading)) if upgrading.deciding.is_some() => {
                self.refuse(id, protocol::upgrade::Refusal::Undecided);
            }
            Phase::Upgrade(Some(_)) => self.refuse(id, protocol::upgrade::Refusal::Timeout),
            Phase::Gone => {}
            Phase::Live(_) => {
                let idle_ms = after(connection.last_received_ms, config.idle_timeout_ms);
                if !connection.pinged && connection.deadline_ms <= now_ms {
                    self.end(id, CloseCause::CloseTimeout);
                } else if !connection.reading_paused && idle_ms <= now_ms {
                    self.end(id, CloseCause::IdleTimeout);
                } else if connection.pinged
                    && !connection.reading_paused
                    && !connection.blocked
                    && connection.deadline_ms <= now_ms
                {
                    self.end(id, CloseCause::PongTimeout);
                } else if connection.blocked
                    && let Some(outgoing) = &connection.outgoing
                    && after(outgoing.progress_ms, config.write_timeout_ms) <= now_ms
                {
                    self.try_again(id);
                } else {
                    connection.pinged = true;
                    connection.deadline_ms = after(now_ms, config.pong_timeout_ms);
                    core.ping(id, b"");
                }
            }
        }
    }

    /// The socket did not become writable for `write_timeout`. The kernel says so only once a third
    /// of its buffer is free, for which a slow peer may need longer: it is cut if it took nothing.
    fn try_again(&mut self, id: ConnectionId) {
        let before = self.core.buffered_amount(id);
        if let Some(connection) = self.core.table.get_mut(id) {
            connection.blocked = false;
        }
        self.core.flush(id);
        if self.core.buffered_amount(id) == before {
            return self.end(id, CloseCause::WriteTimeout);
        }
        if let Some(connection) = self.core.table.get_mut(id) {
            connection.blocked = true;
        }
        self.writable(id);
    }

    // --- other threads -------------------------------------------------------------------------

    fn obey(&mut self) {
        if !std::mem::take(&mut self.woken) {
            return;
        }
        let shared = Arc::clone(&self.core.shared);
        let mut commands = std::mem::take(&mut self.commands);
        shared.mailboxes[usize::from(self.core.worker)].take(&mut commands);
        for command in commands.drain(..) {
            match command {
                Command::Send { id, text, payload } => self.deliver(id, text, &payload),
                Command::SendPrepared { id, message } => {
                    if self.core.send_prepared(id, &message).is_err() {
                        self.core.tally.undelivered += 1;
                    }
                }
                Command::Publish { topic, message, key } => {
                    self.core.publish_posted(&topic, &message, key);
                }
                Command::Decide { id } => self.decided(id),
                Command::Close { id, code, reason } => {
                    self.core.close(id, code, &reason);
                }
                Command::Run(Job(job)) => {
                    let worker = &mut WorkerContext::new(&mut self.core, None);
                    if route::guard(|| job(worker)) == Outcome::Panicked {
                        self.core.tally.handler_panics += 1;
                    }
                }
            }
            self.bury();
        }
        self.commands = commands;
        self.heed_shutdown(&shared);
    }

    fn deliver(&mut self, id: ConnectionId, text: bool, payload: &[u8]) {
        // The payload was text when it was posted; checking again is cheaper than a second type
        // of command, and this path already paid for a copy.
        let message = match std::str::from_utf8(payload) {
            Ok(payload) if text => Message::Text(payload),
            _ => Message::Binary(payload),
        };
        if self.core.send(id, message).is_err() {
            self.core.tally.undelivered += 1;
        }
    }

    // --- sending -------------------------------------------------------------------------------

    /// Flushes every connection that has something to send, each once.
    fn flush_all(&mut self) {
        let mut next = 0;
        loop {
            while let Some(&id) = self.core.dirty.get(next) {
                next += 1;
                if let Some(connection) = self.core.table.get_mut(id) {
                    connection.dirty = false;
                    self.core.flush(id);
                }
            }
            if self.core.doomed.is_empty() && self.core.resumed.is_empty() {
                break;
            }
            // on_close may send to others: those are appended to the list.
            self.bury();
            self.resume_all();
        }
        self.core.dirty.clear();
    }
}

/// What follows `on_close`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// Flush, FIN, linger.
    Drain,
    /// Close the socket now.
    Release,
}
