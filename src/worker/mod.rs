//! The crank: one thread, one driver, one table of connections.
//!
//! A worker turns: it waits, hands every event to the stage that the connection is in, lets
//! expired deadlines and commands of other threads have their say, and flushes each connection
//! that has something to send, once. Nothing is shared with other workers but the mailboxes and
//! counters.
//!
//! ```text
//!  driver --Event--> Crank --+--> http    (requests -> routes -> answers, or 101)
//!                            +--> dialing (our own connections, up to their 101)
//!                            +--> feed    (frames -> Endpoint -> Route -> Handler)
//!                            +--> end     (on_close once, then Draining or Gone)
//!                                   |
//!                 Core <------------+     sends, timers, table: what handlers may use
//! ```
//!
//! Who may call whom: the crank calls handlers and the core; handlers call the core; the core
//! calls neither. An end that becomes due inside the core is put on `doomed`, and the crank
//! carries it out after the handler has returned. So no handler runs inside another.

mod accepting;
pub(crate) mod adopting;
mod compressing;
pub(crate) mod core;
mod deadlines;
pub(crate) mod dialing;
mod ends;
mod flushing;
pub(crate) mod http;
pub(crate) mod mailbox;
pub(crate) mod paths;
pub(crate) mod places;
pub(crate) mod publish;
mod reading;
mod receiving;
pub(crate) mod route;
pub(crate) mod schedule;
mod secure;
pub(crate) mod sending;
pub(crate) mod shutdown;
#[cfg(test)]
mod simulation;
mod streaming;
mod time;
pub(crate) mod timers;
pub(crate) mod topic_index;
pub(crate) mod topics;
mod waiting;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use self::accepting::ACCEPT_RETRY_MS;
pub(crate) use self::core::Core;
use self::mailbox::{Command, Job, Shared};
use self::paths::Paths;
use self::route::{Outcome, Route};
use self::waiting::BusyPoll;
use crate::config::Config;
use crate::connection::NEVER;
use crate::context::WorkerContext;
use crate::driver::{AcceptedSocket, AnyDriver, ConnectionId, Driver, Event, ReceiveMemory};
use crate::protocol::Message;

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
    busy_poll: BusyPoll,
    /// The last turn left nothing behind that this one would have to see to, see
    /// [`Crank::is_quiet`].
    calm: bool,
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
    /// Connections that had their share of this turn, and of which something is left to do.
    pumping: Vec<ConnectionId>,
    /// Until then nobody notices that the server will stop.
    announced_until_ms: u64,
}

impl Worker {
    pub(crate) fn new(
        number: u16,
        driver: AnyDriver,
        memory: ReceiveMemory,
        routes: Vec<Box<dyn Route>>,
        paths: Arc<Paths>,
        config: Arc<Config>,
        shared: Arc<Shared>,
    ) -> Self {
        shared.mailboxes[usize::from(number)].open(driver.waker());
        shared.places.open(number, driver.waker());
        let mut crank = Crank {
            core: Core::new(number, driver, config, shared),
            routes,
            paths,
            commands: VecDeque::new(),
            accept_retry_ms: NEVER,
            waiting: VecDeque::new(),
            woken: false,
            stop_deadline_ms: None,
            pumping: Vec::new(),
            announced_until_ms: NEVER,
        };
        crank.start_handlers();
        let busy_poll = BusyPoll::new(crank.core.config.busy_poll_us);
        Self { memory, crank, busy_poll, calm: false }
    }

    /// Turns until the server has been shut down and every connection has gone.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        while !self.crank.is_finished() {
            self.turn()?;
        }
        Ok(())
    }

    /// One round: wait, receive, obey, expire, flush.
    #[inline]
    pub(crate) fn turn(&mut self) -> io::Result<()> {
        if self.calm {
            self.calm_turn()?
        } else {
            self.any_turn()?
        }
        let core = &mut self.crank.core;
        core.publish_figures();
        let took_ns = core.driver.now_ns() - core.turn_start_ns;
        core.tables().note_turn(took_ns / 1000);
        Ok(())
    }

    /// A turn behind one that brought nothing but messages: nothing is to be seen to but the
    /// deadlines.
    #[inline(always)]
    fn calm_turn(&mut self) -> io::Result<()> {
        let crank = &self.crank;
        let due_ms = crank.core.alarm_ms.max(crank.core.now_ms);
        debug_assert!(due_ms <= crank.due_ms(), "whoever sets a deadline sets the alarm");
        let more = self.receive(crank.time_until(due_ms))?;
        if self.crank.is_quiet(due_ms) {
            return Ok(());
        }
        self.calm = false;
        self.see_to_the_rest(due_ms, Vec::new(), more)
    }

    #[inline(never)]
    fn any_turn(&mut self) -> io::Result<()> {
        let due_ms = self.crank.due_ms();
        self.crank.core.alarm_ms = self.crank.earliest_deadline_ms();
        let postponed = self.crank.take_postponed();
        let more = self.receive_apart(self.crank.time_until(due_ms))?;
        self.calm = self.crank.is_quiet(due_ms) && postponed.is_empty();
        if !self.calm {
            self.see_to_the_rest(due_ms, postponed, more)?;
        }
        Ok(())
    }

    /// Everything of a turn but the messages.
    #[inline(never)]
    fn see_to_the_rest(
        &mut self,
        due_ms: u64,
        postponed: Vec<ConnectionId>,
        mut more: bool,
    ) -> io::Result<()> {
        self.crank.shake_hands();
        let now_ms = self.crank.core.now_ms;
        if now_ms > due_ms.saturating_add(STALL_MS) {
            // One look does not bring everything that came during a stall, and whoever has sent
            // in time is not silent: everybody is heard before anybody is judged.
            while more && self.crank.core.now_ms < now_ms + CATCH_UP_MS {
                self.crank.obey();
                self.crank.flush_all();
                more = self.receive_apart(Some(0))?;
            }
        }
        let crank = &mut self.crank;
        crank.obey();
        if crank.earliest_ms() <= crank.core.now_ms || crank.stop_deadline_ms.is_some() {
            crank.expire();
        }
        crank.see_to_dials();
        crank.resume_all();
        crank.go_on_postponed(postponed);
        crank.pump_all();
        if crank.core.notices.len() != 0 {
            crank.notify();
        }
        if !crank.core.dirty.is_empty()
            || !crank.core.doomed.is_empty()
            || !crank.core.resumed.is_empty()
        {
            crank.flush_all();
        }
        Ok(())
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
        for id in core.table.ids() {
            let network = core.networks.remove(&(id.slot() as u32));
            core.shared.places.leave(core.worker, network);
        }
        let lost = core.shared.mailboxes[usize::from(core.worker)].stop();
        core.tally.undelivered += lost.messages;
        core.stopping.report.refused += lost.newcomers;
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

    /// True if this turn has nothing to do but what it received. `due_ms` is from before the wait;
    /// an earlier deadline that was set since is for the next turn.
    #[inline]
    fn is_quiet(&self, due_ms: u64) -> bool {
        let core = &self.core;
        debug_assert!(core.doomed.is_empty(), "buried");
        let lists = core.handshakes.len()
            | core.postponed.len()
            | core.resumed.len()
            | core.dirty.len()
            | core.notices.len()
            | core.dials.news()
            | self.pumping.len()
            | usize::from(self.woken);
        lists == 0 && core.now_ms < due_ms && self.stop_deadline_ms.is_none()
    }

    /// Until when the next wait may last; not before now, and [`NEVER`] for no end.
    #[inline]
    fn due_ms(&self) -> u64 {
        let core = &self.core;
        let news = core.notices.len() | core.handshakes.len() | core.dials.news();
        if news | core.postponed.len() | self.pumping.len() != 0 {
            return core.now_ms;
        }
        self.earliest_ms().max(self.core.now_ms)
    }

    /// The earliest of all deadlines, that of a shutdown included.
    fn earliest_ms(&self) -> u64 {
        let mut deadline = self.earliest_deadline_ms();
        if let Some(stop) = self.stop_deadline_ms {
            let stop = if self.core.now_ms < stop { stop } else { stop + RELEASE_GRACE_MS };
            deadline = deadline.min(stop);
        }
        deadline
    }

    fn earliest_deadline_ms(&self) -> u64 {
        let core = &self.core;
        let mut deadline = core.timers.next_deadline_ms().min(core.lifetimes.next_deadline_ms());
        deadline = deadline.min(self.accept_retry_ms).min(self.announced_until_ms);
        if let Some(timer_ms) = core.schedule.next_deadline() {
            deadline = deadline.min(timer_ms);
        }
        if let Some(dial_ms) = core.dials.next_deadline() {
            deadline = deadline.min(dial_ms);
        }
        deadline
    }

    /// How long a wait until then may last; `due_ms` is not before now.
    #[inline(always)]
    fn time_until(&self, due_ms: u64) -> Option<u64> {
        (due_ms != NEVER).then(|| due_ms - self.core.now_ms)
    }

    /// How long the next wait may last.
    #[cfg(test)]
    fn timeout_ms(&self) -> Option<u64> {
        self.time_until(self.due_ms())
    }

    /// Sees to an event, unless it brings bytes: those are for the caller to hand to
    /// [`Self::received`], which is inlined there.
    #[inline(always)]
    fn handle<'m>(&mut self, event: Event<'m>) -> Option<(ConnectionId, &'m mut [u8])> {
        match event {
            Event::Received { id, bytes } => return Some((id, bytes)),
            Event::Accepted(socket) => self.accepted(socket),
            Event::Ended(id) => self.ended(id),
            Event::Failed(id, error) => self.failed(id, error),
            Event::Writable(id) => self.writable(id),
            Event::Released(id) => self.released(id),
            Event::AcceptPaused(error) => {
                log::warn!("accepting is paused, next try in {ACCEPT_RETRY_MS} ms: {error}");
                self.core.tally.accept_pauses += 1;
                self.accept_retry_ms = self.core.now_ms + ACCEPT_RETRY_MS;
            }
            Event::Connected(id) => self.connected(id),
            Event::Woken => self.woken = true,
        }
        self.bury();
        self.core.alarm_ms = self.core.alarm_ms.min(self.accept_retry_ms);
        None
    }

    /// Tells every handler that its worker is there.
    fn start_handlers(&mut self) {
        for (number, route) in self.routes.iter_mut().enumerate() {
            if route.start(&mut self.core, number as u16) == Outcome::Panicked {
                self.core.tally.handler_panics += 1;
            }
        }
    }

    // --- other threads -------------------------------------------------------------------------

    #[inline]
    fn obey(&mut self) {
        if std::mem::take(&mut self.woken) {
            self.obey_all();
        }
    }

    #[inline(never)]
    fn obey_all(&mut self) {
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
                Command::Look { id } => self.look(id),
                Command::Connect(new) => self.core.dials.add(*new),
                Command::Disconnect { dial } => self.core.dials.cancel(dial),
                Command::Resolved(resolved) => self.resolved(resolved),
                Command::Close { id, code, reason } => {
                    self.core.close(id, code, &reason);
                }
                Command::Adopt(adoption) => self.adopt(*adoption),
                Command::Settle { socket, place } => self.settled(socket, place),
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
        self.heed_free_place();
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
}
