//! One route: a handler with the sessions of its connections, its type erased.
//!
//! What comes in: events of one connection, by session key. What goes out: calls of the
//! application's methods, each behind a wall that a panic does not pass.

use std::any::Any;
use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use slab::Slab;

use super::Core;
use super::adopting::{AnyMaker, Maker};
use crate::client::{DialEvent, DialId, DialResponse};
use crate::connection::Phase;
use crate::context::WorkerContext;
use crate::driver::ConnectionId;
use crate::error::Close;
use crate::fragment::Fragment;
use crate::handler::Handler;
use crate::http::Response;
use crate::promise::{Pending, Waiting};
use crate::protocol::{Event, Message, ProtocolError};
use crate::publish::{Dropped, Subscription};
use crate::simd::InvalidUtf8;
use crate::upgrade::{Decision, Session, Upgrade, UpgradeRequest};
use crate::websocket::WebSocket;

/// The most address space that the sessions of one route take before they are there.
const RESERVED_BYTES: usize = 16 * 1024 * 1024;

/// What a call of the application came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Outcome {
    Returned,
    Panicked,
}

/// The application panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panicked;

/// An application's call, without its argument types.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Call<'a> {
    Open,
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    Drain,
    Timer(u64),
    Fragment(Fragment<'a>),
    Dropped(Dropped<'a>),
    Subscription(Subscription<'a>),
}

/// Why a route stopped reading messages.
#[derive(Debug)]
#[must_use]
pub(crate) enum Fed<'b> {
    /// Nothing is left to read, or nobody to read it.
    Everything,
    /// Something else than a message.
    Event(Event<'b>),
    Violated(ProtocolError),
    Panicked,
    /// The rest may have to wait: for an end that is due, or for the peer.
    Interrupted,
}

/// What the application decided, without its session type.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// A session has begun.
    Accept {
        session: u32,
        subprotocol: Option<Cow<'static, str>>,
        headers: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    },
    Reject(Response),
    Defer(Box<dyn Pending>),
    Panicked,
}

/// What came of beginning a session without an upgrade request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    Session(u32),
    /// The session type has no default, and nobody said how to make one.
    Nothing,
    Panicked,
}

/// A handler whose session type is known only inside.
pub(crate) trait Route {
    /// Lets the application decide about an upgrade request.
    fn upgrade(&mut self, request: &UpgradeRequest<'_>) -> Verdict;

    /// What was decided about an upgrade that the application had put off.
    fn decided(&mut self, pending: &dyn Any) -> Verdict;

    /// Lets the application make the session of a connection of its own; `None` if it does not.
    fn connected(&mut self, dial: DialId, response: &DialResponse)
    -> Result<Option<u32>, Panicked>;

    /// Calls `on_dial`; `number` is that of the route.
    fn dialled(&mut self, core: &mut Core, number: u16, event: &DialEvent<'_>) -> Outcome;

    /// Begins the session of a connection whose upgrade another server has accepted.
    fn begin(&mut self, maker: Option<AnyMaker>) -> Begun;

    /// Drops the session of an upgrade that was accepted, but could not be answered so.
    fn abandon(&mut self, session: u32) -> Outcome;

    /// Calls the application. The session must have begun and not ended.
    fn call(&mut self, core: &mut Core, id: ConnectionId, session: u32, call: Call<'_>) -> Outcome;

    /// Calls `on_message` for one message after the other until something else is due. Unless the
    /// connection is certainly not [ahead](Core::is_ahead) now, `core.look_again` is set.
    fn feed<'b>(
        &mut self,
        core: &mut Core,
        id: ConnectionId,
        session: u32,
        input: &mut &'b mut [u8],
    ) -> Fed<'b>;

    /// Calls `on_close`, then drops the session.
    fn end(&mut self, core: &mut Core, id: ConnectionId, session: u32, close: Close<'_>)
    -> Outcome;

    /// Whether messages are delivered in parts.
    fn streams(&self) -> bool;

    /// Calls `on_start`; `number` is that of the route.
    fn start(&mut self, core: &mut Core, number: u16) -> Outcome;

    /// Calls `on_worker_timer`.
    fn timer(&mut self, core: &mut Core, number: u16, key: u64) -> Outcome;

    /// Sessions that have begun and not ended.
    #[cfg(test)]
    fn sessions(&self) -> usize;
}

/// The only implementation of [`Route`].
pub(crate) struct RouteOf<H: Handler> {
    handler: H,
    sessions: Slab<H::Session>,
}

impl<H: Handler> RouteOf<H> {
    /// Room for `capacity` sessions, unless they are large; what is not used is address space, not
    /// memory.
    pub(crate) fn with_capacity(handler: H, capacity: usize) -> Self {
        let most = RESERVED_BYTES / (size_of::<H::Session>() + 8);
        Self { handler, sessions: Slab::with_capacity(capacity.min(most)) }
    }

    fn insert(&mut self, session: H::Session) -> u32 {
        let key = self.sessions.insert(session);
        u32::try_from(key).expect("as many sessions as connections, fewer than 2^32")
    }

    fn obey(&mut self, upgrade: Upgrade<H::Session>) -> Verdict {
        let Upgrade { decision, subprotocol, headers } = upgrade;
        match decision {
            Decision::Accept(session) => {
                let session = self.insert(session);
                Verdict::Accept { session, subprotocol, headers }
            }
            Decision::Reject(response) => Verdict::Reject(response),
            Decision::Defer(waiting) => Verdict::Defer(Box::new(waiting)),
        }
    }
}

impl<H: Handler> Route for RouteOf<H> {
    fn upgrade(&mut self, request: &UpgradeRequest<'_>) -> Verdict {
        let mut upgrade = None;
        let called = guard(|| upgrade = Some(self.handler.on_upgrade(request)));
        match upgrade {
            Some(upgrade) if called == Outcome::Returned => self.obey(upgrade),
            _ => Verdict::Panicked,
        }
    }

    fn decided(&mut self, pending: &dyn Any) -> Verdict {
        let waiting = pending.downcast_ref::<Waiting<Upgrade<H::Session>>>();
        debug_assert!(waiting.is_some(), "made by this route");
        let upgrade = waiting.and_then(Waiting::take);
        self.obey(upgrade.unwrap_or_else(Upgrade::failed))
    }

    fn connected(
        &mut self,
        dial: DialId,
        response: &DialResponse,
    ) -> Result<Option<u32>, Panicked> {
        let mut session = None;
        if guard(|| session = self.handler.on_connect(dial, response)) == Outcome::Panicked {
            return Err(Panicked);
        }
        let Some(session) = session else { return Ok(None) };
        let key = self.sessions.insert(session);
        Ok(Some(u32::try_from(key).expect("as many sessions as connections, fewer than 2^32")))
    }

    fn dialled(&mut self, core: &mut Core, number: u16, event: &DialEvent<'_>) -> Outcome {
        guard(|| self.handler.on_dial(&mut WorkerContext::new(core, Some(number)), event))
    }

    fn begin(&mut self, maker: Option<AnyMaker>) -> Begun {
        let mut session = None;
        let called = guard(|| {
            session = match maker {
                Some(maker) => maker.downcast::<H::Session>().map(|Maker(make)| make()),
                None => H::Session::initial(),
            };
        });
        match session {
            _ if called == Outcome::Panicked => Begun::Panicked,
            Some(session) => Begun::Session(self.insert(session)),
            None => Begun::Nothing,
        }
    }

    fn abandon(&mut self, session: u32) -> Outcome {
        let session = self.sessions.try_remove(session as usize);
        guard(move || drop(session))
    }

    #[inline]
    fn call(&mut self, core: &mut Core, id: ConnectionId, session: u32, call: Call<'_>) -> Outcome {
        let Some(session) = self.sessions.get_mut(session as usize) else {
            debug_assert!(false, "no session {session}");
            return Outcome::Returned;
        };
        let handler = &mut self.handler;
        guard(|| {
            let ws = &mut WebSocket { core, id, session };
            match call {
                Call::Open => handler.on_open(ws),
                Call::Ping(payload) => handler.on_ping(ws, payload),
                Call::Pong(payload) => handler.on_pong(ws, payload),
                Call::Drain => handler.on_drain(ws),
                Call::Timer(key) => handler.on_timer(ws, key),
                Call::Dropped(dropped) => handler.on_dropped(ws, dropped),
                Call::Subscription(subscription) => handler.on_subscription(ws, subscription),
                Call::Fragment(fragment) => handler.on_fragment(ws, fragment),
            }
        })
    }

    fn feed<'b>(
        &mut self,
        core: &mut Core,
        id: ConnectionId,
        session: u32,
        input: &mut &'b mut [u8],
    ) -> Fed<'b> {
        let Some(session) = self.sessions.get_mut(session as usize) else {
            debug_assert!(false, "no session {session}");
            return Fed::Everything;
        };
        let handler = &mut self.handler;
        loop {
            // Only looked at, so that its answers stay corked.
            let Some(connection) = core.table.get(id) else { return Fed::Everything };
            let Phase::Live(live) = &connection.phase else { return Fed::Everything };
            match live.endpoint.receive_usual(input) {
                Some(Ok(message)) => {
                    core.begin_message(!input.is_empty());
                    let ws = &mut WebSocket { core, id, session };
                    if guard(|| handler.on_message(ws, message)) == Outcome::Panicked {
                        return Fed::Panicked;
                    }
                }
                Some(Err(InvalidUtf8)) => {
                    return refuse(core, id, ProtocolError::InvalidUtf8, input);
                }
                None => {
                    if let Err(fed) = feed_unusual(handler, session, core, id, input) {
                        return fed;
                    }
                }
            }
            core.count_message();
            if core.look_again
                && (!core.doomed.is_empty() || core.is_ahead(id) || core.inflated_enough())
            {
                return Fed::Interrupted;
            }
            debug_assert!(core.doomed.is_empty(), "whoever dooms says so");
            debug_assert!(!core.is_ahead(id), "so does who is ahead");
            if input.is_empty() {
                core.expect_more(false);
                return Fed::Everything;
            }
            if core.messages_left == 0 {
                return Fed::Interrupted;
            }
        }
    }

    fn end(
        &mut self,
        core: &mut Core,
        id: ConnectionId,
        session: u32,
        close: Close<'_>,
    ) -> Outcome {
        let Some(mut session) = self.sessions.try_remove(session as usize) else {
            debug_assert!(false, "no session {session}");
            return Outcome::Returned;
        };
        let handler = &mut self.handler;
        let ws = &mut WebSocket { core, id, session: &mut session };
        let called = guard(|| handler.on_close(ws, close));
        // Apart from the call: a second panic while the first one unwinds would abort.
        let dropped = guard(move || drop(session));
        if called == Outcome::Panicked { called } else { dropped }
    }

    fn streams(&self) -> bool {
        H::STREAM
    }

    fn start(&mut self, core: &mut Core, number: u16) -> Outcome {
        guard(|| self.handler.on_start(&mut WorkerContext::new(core, Some(number))))
    }

    fn timer(&mut self, core: &mut Core, number: u16, key: u64) -> Outcome {
        guard(|| self.handler.on_worker_timer(&mut WorkerContext::new(core, Some(number)), key))
    }

    #[cfg(test)]
    fn sessions(&self) -> usize {
        self.sessions.len()
    }
}

/// Feeds whatever comes next, or says why there is nothing to feed.
#[inline(never)]
fn feed_unusual<'b, H: Handler>(
    handler: &mut H,
    session: &mut H::Session,
    core: &mut Core,
    id: ConnectionId,
    input: &mut &'b mut [u8],
) -> Result<(), Fed<'b>> {
    let event = receive_unusual(core, id, input)?;
    let message = match &event {
        Event::Text(text) => Message::Text(text.as_str()),
        Event::Binary(bytes) => Message::Binary(bytes.as_slice()),
        _ => return Err(Fed::Event(event)),
    };
    core.begin_message(!input.is_empty());
    let outcome = guard(|| handler.on_message(&mut WebSocket { core, id, session }, message));
    event.recycle(&mut core.buffers);
    core.look_again |= core.inflated_enough();
    match outcome {
        Outcome::Returned => Ok(()),
        Outcome::Panicked => Err(Fed::Panicked),
    }
}

/// Reads whatever comes next, or says why there is nothing to read.
fn receive_unusual<'b>(
    core: &mut Core,
    id: ConnectionId,
    input: &mut &'b mut [u8],
) -> Result<Event<'b>, Fed<'b>> {
    let Some(connection) = core.table.get_mut(id) else { return Err(Fed::Everything) };
    let Phase::Live(live) = &mut connection.phase else { return Err(Fed::Everything) };
    match live.endpoint.receive(input, &mut core.buffers) {
        Ok(Some(event)) => Ok(event),
        Ok(None) => {
            core.expect_more(false);
            Err(Fed::Everything)
        }
        Err(error) => Err(Fed::Violated(error)),
    }
}

/// A message broke a rule.
#[cold]
fn refuse<'b>(
    core: &mut Core,
    id: ConnectionId,
    error: ProtocolError,
    input: &mut &mut [u8],
) -> Fed<'b> {
    let Some(connection) = core.table.get_mut(id) else { return Fed::Everything };
    let Phase::Live(live) = &mut connection.phase else { return Fed::Everything };
    Fed::Violated(live.endpoint.refuse(error, input, &mut core.buffers))
}

/// In the place of a handler that came with a dial and has gone with it: nobody calls it.
pub(crate) struct Vacant;

impl Route for Vacant {
    fn upgrade(&mut self, _request: &UpgradeRequest<'_>) -> Verdict {
        Verdict::Panicked
    }

    fn decided(&mut self, _pending: &dyn Any) -> Verdict {
        Verdict::Panicked
    }

    fn begin(&mut self, _maker: Option<AnyMaker>) -> Begun {
        Begun::Nothing
    }

    fn connected(
        &mut self,
        _dial: DialId,
        _response: &DialResponse,
    ) -> Result<Option<u32>, Panicked> {
        Ok(None)
    }

    fn dialled(&mut self, _core: &mut Core, _number: u16, _event: &DialEvent<'_>) -> Outcome {
        Outcome::Returned
    }

    fn abandon(&mut self, _session: u32) -> Outcome {
        Outcome::Returned
    }

    fn call(&mut self, _core: &mut Core, _id: ConnectionId, _: u32, _call: Call<'_>) -> Outcome {
        debug_assert!(false, "nobody's connection");
        Outcome::Returned
    }

    fn feed<'b>(
        &mut self,
        _core: &mut Core,
        _id: ConnectionId,
        _: u32,
        _input: &mut &'b mut [u8],
    ) -> Fed<'b> {
        debug_assert!(false, "nobody's connection");
        Fed::Everything
    }

    fn end(&mut self, _core: &mut Core, _id: ConnectionId, _: u32, _close: Close<'_>) -> Outcome {
        debug_assert!(false, "nobody's connection");
        Outcome::Returned
    }

    fn streams(&self) -> bool {
        false
    }

    fn start(&mut self, _core: &mut Core, _number: u16) -> Outcome {
        Outcome::Returned
    }

    fn timer(&mut self, _core: &mut Core, _number: u16, _key: u64) -> Outcome {
        Outcome::Returned
    }

    #[cfg(test)]
    fn sessions(&self) -> usize {
        0
    }
}

/// Calls the application; a panic stays inside. What the handler left half done is its own
/// affair: the worker's state is only touched through `Core`, whose methods do not panic midway.
#[inline]
pub(crate) fn guard(call: impl FnOnce()) -> Outcome {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(()) => Outcome::Returned,
        Err(payload) => {
            // A payload may panic again when dropped; what is leaked here is a few bytes.
            std::mem::forget(payload);
            Outcome::Panicked
        }
    }
}
