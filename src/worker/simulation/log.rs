//! The handler of every simulated server, and what it saw.
//!
//! In: calls of the worker. Out: a record per connection, and the rules of `Handler` that a call
//! broke. Never: an assertion in a handler, which the worker would survive.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use crate::driver::ConnectionId;
use crate::error::{Close, CloseCause, SendError};
use crate::handler::Handler;
use crate::protocol::Message;
use crate::upgrade::{Upgrade, UpgradeRequest, UpgradeTicket};
use crate::websocket::{SendOptions, WebSocket};

/// A call of the handler.
#[derive(Debug, Clone, Copy)]
pub(super) enum Callback<'a> {
    Open,
    Message(Message<'a>),
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    Drain,
    Timer(u64),
    Close(Close<'a>),
}

/// What the application of a test does in a callback.
pub(super) type Manner = Box<dyn FnMut(&mut WebSocket<'_, Session>, Callback<'_>, &RefCell<Log>)>;

/// Calls of one connection that its session has seen, compared with the record of its id.
#[derive(Debug, Default)]
pub(super) struct Session {
    calls: usize,
}

/// One call, short enough to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) what: &'static str,
    pub(super) len: usize,
    pub(super) hash: u64,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    pub(super) at_ms: u64,
    pub(super) code: u16,
    pub(super) reason: String,
    pub(super) cause: CloseCause,
}

/// The life of one connection.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) opened_ms: u64,
    /// When the peer last caused a call.
    pub(super) heard_ms: u64,
    pub(super) calls: Vec<Call>,
    /// Answers that found the queue full.
    pub(super) dropped: u32,
    /// A callback before `on_close` panicked.
    pub(super) panicked: bool,
    /// The handler closed or terminated the connection, so that its peer may see that instead.
    pub(super) left_by_handler: bool,
    pub(super) end: Option<End>,
}

/// All connections of a server.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) records: BTreeMap<ConnectionId, Record>,
    /// Panics of the handler.
    pub(super) panics: u64,
    /// Promises of `Handler` that were broken.
    pub(super) violations: Vec<String>,
    /// Upgrades are put off.
    pub(super) defers: bool,
    /// Those that nobody has decided about.
    pub(super) tickets: Vec<UpgradeTicket<Session>>,
}

impl Log {
    /// Connections that are open now.
    pub(super) fn open(&self) -> Vec<ConnectionId> {
        let open = self.records.iter().filter(|(_, record)| record.end.is_none());
        open.map(|(id, _)| *id).collect()
    }

    /// The record of a connection that was opened.
    pub(super) fn record(&mut self, id: ConnectionId) -> &mut Record {
        self.records.entry(id).or_default()
    }

    fn note(&mut self, id: ConnectionId, calls: usize, now_ms: u64, callback: Callback<'_>) {
        let known = self.records.contains_key(&id);
        let record = self.records.entry(id).or_default();
        let broken = match callback {
            Callback::Open => known.then_some("opened twice"),
            _ if !known => Some("a call before on_open"),
            _ if record.end.is_some() => Some("a call after on_close"),
            _ if record.panicked && !matches!(callback, Callback::Close(_)) => {
                Some("a call after a panic")
            }
            _ if record.calls.len() != calls => Some("the session of another connection"),
            _ => None,
        };
        let (what, bytes): (_, &[u8]) = match callback {
            Callback::Open => ("open", b""),
            Callback::Message(Message::Text(text)) => ("text", text.as_bytes()),
            Callback::Message(Message::Binary(bytes)) => ("binary", bytes),
            Callback::Ping(payload) => ("ping", payload),
            Callback::Pong(payload) => ("pong", payload),
            Callback::Drain => ("drain", b""),
            Callback::Timer(_) => ("timer", b""),
            Callback::Close(close) => ("close", close.reason.as_bytes()),
        };
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        record.calls.push(Call { what, len: bytes.len(), hash: hasher.finish() });
        match callback {
            Callback::Open => (record.opened_ms, record.heard_ms) = (now_ms, now_ms),
            Callback::Close(Close { code, reason, cause }) => {
                record.end = Some(End { at_ms: now_ms, code, reason: reason.to_owned(), cause });
            }
            Callback::Drain | Callback::Timer(_) => {}
            _ => record.heard_ms = now_ms,
        }
        self.violations.extend(broken.map(|broken| format!("{broken}: {id:?} {what}")));
    }
}

/// Notes every call, then does what the test wants.
pub(super) struct Watched {
    log: Rc<RefCell<Log>>,
    manner: Manner,
}

impl Watched {
    pub(super) fn new(log: Rc<RefCell<Log>>, manner: Manner) -> Self {
        Self { log, manner }
    }

    fn call(&mut self, ws: &mut WebSocket<'_, Session>, callback: Callback<'_>) {
        let calls = ws.session.calls;
        ws.session.calls += 1;
        self.log.borrow_mut().note(ws.id, calls, ws.core.now_ms, callback);
        (self.manner)(ws, callback, &self.log);
    }
}

impl Handler for Watched {
    type Session = Session;

    fn on_upgrade(&mut self, _request: &UpgradeRequest<'_>) -> Upgrade<Session> {
        let mut log = self.log.borrow_mut();
        if !log.defers {
            return Upgrade::accept(Session::default());
        }
        let (ticket, deferred) = Upgrade::defer();
        log.tickets.push(ticket);
        deferred
    }

    fn on_open(&mut self, ws: &mut WebSocket<'_, Session>) {
        self.call(ws, Callback::Open);
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, Session>, message: Message<'_>) {
        self.call(ws, Callback::Message(message));
    }

    fn on_ping(&mut self, ws: &mut WebSocket<'_, Session>, payload: &[u8]) {
        self.call(ws, Callback::Ping(payload));
    }

    fn on_pong(&mut self, ws: &mut WebSocket<'_, Session>, payload: &[u8]) {
        self.call(ws, Callback::Pong(payload));
    }

    fn on_drain(&mut self, ws: &mut WebSocket<'_, Session>) {
        self.call(ws, Callback::Drain);
    }

    fn on_timer(&mut self, ws: &mut WebSocket<'_, Session>, key: u64) {
        self.call(ws, Callback::Timer(key));
    }

    fn on_close(&mut self, ws: &mut WebSocket<'_, Session>, close: Close<'_>) {
        self.call(ws, Callback::Close(close));
    }
}

/// Sends every message back and notes the answers that were refused.
pub(super) fn echo() -> Manner {
    Box::new(|ws, callback, log| {
        // `send` would not tell a full queue from a peer that has gone.
        if let Callback::Message(message) = callback
            && ws.core.answer(ws.id, message, SendOptions::new()) == Err(SendError::Full)
        {
            log.borrow_mut().record(ws.id()).dropped += 1;
        }
    })
}

/// Receives and does nothing.
pub(super) fn silent() -> Manner {
    Box::new(|_, _, _| {})
}

/// The payload of a panic that prints nothing: see [`panic_quietly`].
struct Mischief;

/// A panic as the worker sees it, without the hook that would print thousands of them.
pub(super) fn panic_quietly() -> ! {
    std::panic::resume_unwind(Box::new(Mischief))
}
