//! One route: a handler with the sessions of its connections, its type erased.
//!
//! What comes in: events of one connection, by session key. What goes out: calls of the
//! application's methods, each behind a wall that a panic does not pass.

use std::panic::{AssertUnwindSafe, catch_unwind};

use slab::Slab;

use super::Core;
use crate::context::WorkerContext;
use crate::driver::ConnectionId;
use crate::error::Close;
use crate::fragment::Fragment;
use crate::handler::Handler;
use crate::protocol::Message;
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

/// An application's call, without its argument types.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Call<'a> {
    Open,
    Message(Message<'a>),
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    Drain,
    Timer(u64),
    Fragment(Fragment<'a>),
}

/// A handler whose session type is known only inside.
pub(crate) trait Route {
    /// Makes a session and returns its key; `None` if its constructor panicked.
    fn begin(&mut self) -> Option<u32>;

    /// Calls the application. The session must have begun and not ended.
    fn call(&mut self, core: &mut Core, id: ConnectionId, session: u32, call: Call<'_>) -> Outcome;

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
}

impl<H: Handler> Route for RouteOf<H> {
    fn begin(&mut self) -> Option<u32> {
        let mut session = None;
        if guard(|| session = Some(H::Session::default())) == Outcome::Panicked {
            return None;
        }
        let key = self.sessions.insert(session?);
        Some(u32::try_from(key).expect("as many sessions as connections, fewer than 2^32"))
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
                Call::Message(message) => handler.on_message(ws, message),
                Call::Ping(payload) => handler.on_ping(ws, payload),
                Call::Pong(payload) => handler.on_pong(ws, payload),
                Call::Drain => handler.on_drain(ws),
                Call::Timer(key) => handler.on_timer(ws, key),
                Call::Fragment(fragment) => handler.on_fragment(ws, fragment),
            }
        })
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

/// Calls the application; a panic stays inside. What the handler left half done is its own
/// affair: the worker's state is only touched through `Core`, whose methods do not panic midway.
#[inline]
pub(super) fn guard(call: impl FnOnce()) -> Outcome {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(()) => Outcome::Returned,
        Err(payload) => {
            // A payload may panic again when dropped; what is leaked here is a few bytes.
            std::mem::forget(payload);
            Outcome::Panicked
        }
    }
}
