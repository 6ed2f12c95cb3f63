//! Connections of our own making: from a wish to an open connection, and again after its end.
//!
//! What comes in: dials (of handlers, of other threads), `Connected`, bytes and ends of connections
//! that are not open yet, looked-up hosts, the time. What goes out: sockets that connect, requests,
//! open connections, and `on_dial`, once for every attempt that failed and every connection that
//! ended.
//!
//! ```text
//!                  +------------------------ reconnect, after a while ------------------+
//!                  v                                                                    |
//!  dial ---> Waiting --> Resolving --> Connecting --> Opening --101--> Open --on_close--+
//!                            |             |             |                              |
//!                            +-------------+-------------+-- failed --> on_dial <-------+
//! ```
//!
//! A dial is a record here; each of its sockets has a slot of the connection table like any other
//! connection. While `Connecting` there may be several, racing (`attempts.rs`); the one that wins
//! goes on (`opening.rs`) in phase `Dialing`, and from its 101 on it is `Live` like the rest.

mod attempts;
mod opening;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::core::Core;
use super::route::{Outcome, Route, Vacant};
use super::schedule::Owner;
use super::{Crank, Shared};
use crate::client::{ConnectError, DialError, DialEvent, DialId, DialStage, Plan};
use crate::connection::NEVER;
use crate::driver::{ConnectionId, Remote};
use crate::protocol::CloseCode;

/// A dial of another thread, which brings its handler along.
pub(crate) struct NewDial {
    pub(crate) serial: u64,
    pub(crate) plan: Arc<Plan>,
    pub(crate) make: Box<dyn FnOnce() -> Box<dyn Route> + Send>,
    pub(crate) seat: HandlerSeat,
}

/// How many more handlers one worker can have: a route is known by 16 bits.
#[derive(Debug)]
pub(crate) struct HandlerSeats(Arc<AtomicUsize>);

impl HandlerSeats {
    /// Of a worker that begins with so many handlers.
    pub(crate) fn beside(handlers: usize) -> Self {
        Self(Arc::new(AtomicUsize::new((usize::from(u16::MAX) + 1).saturating_sub(handlers))))
    }

    /// A seat for one more, if there is one.
    pub(crate) fn take(&self) -> Result<HandlerSeat, ConnectError> {
        let less = |free: usize| free.checked_sub(1);
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => Ok(HandlerSeat(Arc::clone(&self.0))),
            Err(_) => Err(ConnectError::TooManyHandlers),
        }
    }
}

/// The right of a handler to a number on its worker. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct HandlerSeat(Arc<AtomicUsize>);

impl Drop for HandlerSeat {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for NewDial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewDial").field("serial", &self.serial).finish_non_exhaustive()
    }
}

/// What a helper thread found out about a host.
#[derive(Debug)]
pub(crate) struct Resolved {
    dial: u64,
    /// Which lookup of the dial it was: an earlier one may have been given up.
    lookup: u32,
    addresses: io::Result<Vec<SocketAddr>>,
}

/// A dial that nobody has looked at yet.
struct Request {
    serial: u64,
    plan: Arc<Plan>,
    handler: HandledBy,
}

/// Whose connection it will be.
enum HandledBy {
    /// The handler of this route.
    Route(u16),
    /// One of its own.
    Own(Box<dyn Route>, HandlerSeat),
}

/// One dial.
struct Record {
    plan: Arc<Plan>,
    route: u16,
    state: State,
    /// When the present attempt is given up.
    deadline_ms: u64,
    /// Where it stands in [`Dials::due`].
    due_ms: u64,
    /// Attempts and short-lived connections in a row.
    failures: u32,
    lookups: u32,
    /// Nothing follows the present connection.
    over: bool,
}

enum State {
    /// For the next attempt.
    Waiting {
        until_ms: u64,
    },
    /// The host is being looked up.
    Resolving,
    /// Sockets are on their way.
    Connecting(Attempts),
    /// One has arrived: tunnel, opening handshake.
    Opening(ConnectionId),
    Open {
        id: ConnectionId,
        since_ms: u64,
    },
}

/// The sockets of one attempt.
struct Attempts {
    /// Not tried yet.
    waiting: VecDeque<Remote>,
    under_way: Vec<ConnectionId>,
    /// When the next one is tried, even if none has failed.
    next_ms: u64,
    last_error: Option<io::Error>,
}

/// All dials of a worker.
#[derive(Default)]
pub(crate) struct Dials {
    records: HashMap<u64, Record>,
    /// Moments at which time alone changes something, with the dial concerned.
    due: BTreeSet<(u64, u64)>,
    /// Dials of open connections, by slot.
    open: HashMap<u32, u64>,
    requests: Vec<Request>,
    cancelled: Vec<u64>,
    /// Dials whose open connection has ended.
    ended: Vec<u64>,
    /// Routes of handlers that came with a dial, and how many dials they have.
    own_routes: HashMap<u16, (usize, HandlerSeat)>,
    free_routes: Vec<u16>,
}

impl Dials {
    /// Takes a dial of another thread.
    pub(super) fn add(&mut self, new: NewDial) {
        let NewDial { serial, plan, make, seat } = new;
        self.requests.push(Request { serial, plan, handler: HandledBy::Own(make(), seat) });
    }

    /// The turn will end this dial.
    pub(crate) fn cancel(&mut self, serial: u64) {
        self.cancelled.push(serial);
    }

    /// An open connection has ended.
    pub(super) fn note_end(&mut self, id: ConnectionId) {
        self.ended.extend(self.open.remove(&(id.slot() as u32)));
    }

    /// Zero unless the next turn must not wait.
    #[inline]
    pub(super) fn news(&self) -> usize {
        self.requests.len() | self.cancelled.len() | self.ended.len()
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.due.first().map(|(due_ms, _)| *due_ms)
    }

    /// Files the dial under the next moment that matters to it.
    fn arm(&mut self, serial: u64) {
        let Some(record) = self.records.get_mut(&serial) else { return };
        let due_ms = match &record.state {
            State::Waiting { until_ms } => *until_ms,
            State::Resolving | State::Opening(_) => record.deadline_ms,
            State::Connecting(attempts) => record.deadline_ms.min(attempts.next_ms),
            State::Open { .. } => NEVER,
        };
        if due_ms != record.due_ms {
            self.due.remove(&(record.due_ms, serial));
            record.due_ms = due_ms;
            if due_ms != NEVER {
                self.due.insert((due_ms, serial));
            }
        }
    }

    fn forget(&mut self, serial: u64) -> Option<Record> {
        let record = self.records.remove(&serial)?;
        self.due.remove(&(record.due_ms, serial));
        Some(record)
    }
}

/// A number for a new dial.
pub(crate) fn new_serial(shared: &Shared) -> u64 {
    shared.dials.fetch_add(1, Ordering::Relaxed)
}

impl Core {
    /// Files the dial under the next moment that matters to it.
    fn arm_dial(&mut self, serial: u64) {
        self.dials.arm(serial);
        self.alarm_ms = self.alarm_ms.min(self.dials.next_deadline().unwrap_or(NEVER));
    }

    /// Has a connection made for the handler of this route.
    pub(crate) fn connect(&mut self, route: u16, plan: Arc<Plan>) -> DialId {
        self.request(plan, HandledBy::Route(route))
    }

    /// The same for a handler of its own.
    pub(crate) fn connect_with(
        &mut self,
        route: Box<dyn Route>,
        plan: Arc<Plan>,
    ) -> Result<DialId, ConnectError> {
        let seat = self.shared.handler_seats[usize::from(self.worker)].take()?;
        Ok(self.request(plan, HandledBy::Own(route, seat)))
    }

    fn request(&mut self, plan: Arc<Plan>, handler: HandledBy) -> DialId {
        let serial = new_serial(&self.shared);
        self.dials.requests.push(Request { serial, plan, handler });
        DialId { serial, worker: self.worker }
    }

    /// The dial that an open connection came of.
    pub(crate) fn dial_of(&self, id: ConnectionId) -> Option<DialId> {
        // A slot without its connection has no dial either.
        self.table.get(id)?;
        let serial = *self.dials.open.get(&(id.slot() as u32))?;
        Some(DialId { serial, worker: self.worker })
    }
}

impl Crank {
    /// Everything that became due for dials since the last turn. What it leads to by itself is for
    /// the next one, so that a handler which dials whenever it fails does not keep the worker.
    #[inline]
    pub(super) fn see_to_dials(&mut self) {
        let dials = &self.core.dials;
        let due = dials.next_deadline().is_some_and(|due_ms| due_ms <= self.core.now_ms);
        if due || dials.news() != 0 {
            self.see_to_dials_now();
        }
    }

    #[cold]
    fn see_to_dials_now(&mut self) {
        let dials = &mut self.core.dials;
        let requests = std::mem::take(&mut dials.requests);
        let cancelled = std::mem::take(&mut dials.cancelled);
        let ended = std::mem::take(&mut dials.ended);
        let due = dials.due.range(..=(self.core.now_ms, u64::MAX));
        let due: Vec<u64> = due.map(|(_, serial)| *serial).collect();
        for serial in ended {
            self.connection_ended(serial);
        }
        for request in requests {
            self.start_dial(request);
        }
        for serial in cancelled {
            self.cancel_dial(serial);
        }
        for serial in due {
            self.dial_due(serial);
        }
        self.bury();
    }

    fn start_dial(&mut self, request: Request) {
        let Request { serial, plan, handler } = request;
        let route = match handler {
            HandledBy::Route(route) => route,
            HandledBy::Own(route, seat) => self.add_route(route, seat),
        };
        if let Some((dials, _)) = self.core.dials.own_routes.get_mut(&route) {
            *dials += 1;
        }
        let record = Record {
            plan,
            route,
            state: State::Waiting { until_ms: NEVER },
            deadline_ms: NEVER,
            due_ms: NEVER,
            failures: 0,
            lookups: 0,
            over: false,
        };
        self.core.dials.records.insert(serial, record);
        self.begin_attempt(serial);
    }

    /// Finds a number for the route of a handler that came with a dial, and tells the handler that
    /// its worker is there.
    fn add_route(&mut self, route: Box<dyn Route>, seat: HandlerSeat) -> u16 {
        let number = self.core.dials.free_routes.pop().unwrap_or_else(|| {
            // Every route has a seat or was there from the beginning, and all seats together with
            // those are as many as there are numbers.
            let number = u16::try_from(self.routes.len()).expect("one number per seat");
            self.routes.push(Box::new(Vacant));
            number
        });
        self.routes[usize::from(number)] = route;
        self.core.dials.own_routes.insert(number, (0, seat));
        let started = self.routes[usize::from(number)].start(&mut self.core, number);
        if started == Outcome::Panicked {
            self.core.tally.handler_panics += 1;
        }
        number
    }

    /// One dial less for the route; the last one of a handler that came with a dial takes it along.
    fn leave_route(&mut self, route: u16) {
        let dials = &mut self.core.dials;
        let Some((count, _)) = dials.own_routes.get_mut(&route) else { return };
        *count -= 1;
        // What it has asked for in its last callback is still its own.
        let wanted =
            |request: &Request| matches!(request.handler, HandledBy::Route(r) if r == route);
        if *count > 0 || dials.requests.iter().any(wanted) {
            return;
        }
        dials.own_routes.remove(&route);
        dials.free_routes.push(route);
        self.core.schedule.cancel_all(Owner::Handler(route));
        let gone = std::mem::replace(&mut self.routes[usize::from(route)], Box::new(Vacant));
        if super::route::guard(move || drop(gone)) == Outcome::Panicked {
            self.core.tally.handler_panics += 1;
        }
    }

    /// A moment of this dial has come.
    fn dial_due(&mut self, serial: u64) {
        let now_ms = self.core.now_ms;
        let Some(record) = self.core.dials.records.get(&serial) else { return };
        if record.due_ms > now_ms {
            return;
        }
        let late = record.deadline_ms <= now_ms;
        match &record.state {
            State::Waiting { .. } => self.begin_attempt(serial),
            State::Resolving if late => {
                self.attempt_failed(serial, DialError::Timeout(DialStage::Resolving));
            }
            State::Connecting(_) if late => {
                self.attempt_failed(serial, DialError::Timeout(DialStage::Connecting));
            }
            State::Connecting(_) => self.try_next_address(serial),
            State::Opening(id) if late => {
                let id = *id;
                self.opening_timed_out(id);
            }
            _ => {}
        }
    }

    /// The application does not want it any more.
    fn cancel_dial(&mut self, serial: u64) {
        let Some(record) = self.core.dials.records.get_mut(&serial) else { return };
        match record.state {
            State::Open { id, .. } => {
                record.over = true;
                self.core.close(id, CloseCode::NORMAL, "");
            }
            _ => self.attempt_failed(serial, DialError::Cancelled),
        }
    }

    /// The worker stops: nothing is begun any more. Open connections get their Close like all.
    pub(super) fn give_up_dials(&mut self) {
        let mut serials: Vec<u64> = self.core.dials.records.keys().copied().collect();
        serials.sort_unstable();
        for serial in serials {
            match self.core.dials.records.get_mut(&serial) {
                Some(Record { state: State::Open { .. }, over, .. }) => *over = true,
                Some(_) => self.attempt_failed(serial, DialError::Stopped),
                None => {}
            }
        }
    }

    /// The attempt, or the wait for it, is over without a connection.
    fn attempt_failed(&mut self, serial: u64, error: DialError) {
        let Some(record) = self.core.dials.records.get_mut(&serial) else { return };
        let began = !matches!(record.state, State::Waiting { .. });
        let state = std::mem::replace(&mut record.state, State::Waiting { until_ms: NEVER });
        record.failures = record.failures.saturating_add(u32::from(began));
        self.core.tally.dial_failures += u64::from(began);
        match state {
            State::Connecting(attempts) => {
                attempts.under_way.into_iter().for_each(|id| self.core.release(id));
            }
            State::Opening(id) => self.core.release(id),
            State::Waiting { .. } | State::Resolving | State::Open { .. } => {}
        }
        self.go_on_or_end(serial, Some(&error));
    }

    /// The connection of a dial has ended; its `on_close` has returned.
    fn connection_ended(&mut self, serial: u64) {
        let now_ms = self.core.now_ms;
        let Some(record) = self.core.dials.records.get_mut(&serial) else { return };
        let State::Open { since_ms, .. } = record.state else { return };
        record.state = State::Waiting { until_ms: NEVER };
        let stable = |policy: crate::client::Reconnect| policy.is_stable(now_ms - since_ms);
        let stable = record.plan.reconnect.is_none_or(stable);
        record.failures = if stable { 0 } else { record.failures.saturating_add(1) };
        self.go_on_or_end(serial, None);
    }

    /// Waits for the next attempt, or ends the dial, and tells the handler which.
    fn go_on_or_end(&mut self, serial: u64, error: Option<&DialError>) {
        let core = &mut self.core;
        let Some(record) = core.dials.records.get_mut(&serial) else { return };
        let route = record.route;
        let failures = record.failures;
        let last = record.over
            || core.stopping.began
            || matches!(error, Some(DialError::Cancelled | DialError::Stopped));
        let policy = record.plan.reconnect.filter(|_| !last);
        let delay_ms = policy.and_then(|policy| policy.delay_ms(failures));
        match delay_ms {
            Some(delay_ms) => {
                record.state = State::Waiting { until_ms: core.soon_ms.saturating_add(delay_ms) };
                core.arm_dial(serial);
            }
            None => drop(core.dials.forget(serial)),
        }
        let dial = DialId { serial, worker: core.worker };
        let retry_in = delay_ms.map(Duration::from_millis);
        let event = DialEvent { dial, error, failures, retry_in };
        let told = self.routes[usize::from(route)].dialled(&mut self.core, route, &event);
        if told == Outcome::Panicked {
            self.core.tally.handler_panics += 1;
        }
        if retry_in.is_none() {
            self.leave_route(route);
        }
    }
}
