//! What may be done on a worker's thread outside of one connection, and timers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::client::{ConnectError, Dial, DialId, Plan};
use crate::config::millis;
use crate::driver::ConnectionId;
use crate::error::SendError;
use crate::handler::Handler;
use crate::protocol::{CloseCode, Message};
use crate::publish::{Publication, Published};
use crate::websocket::SendStatus;
use crate::worker::Core;
use crate::worker::route::RouteOf;
use crate::worker::schedule::Owner;

/// Names a timer for ever; see [`WebSocket::set_timer`](crate::WebSocket::set_timer). 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId {
    pub(crate) serial: u64,
    pub(crate) entry: u32,
    pub(crate) worker: u16,
}

/// Why a timer could not be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimerError {
    /// The connection has `max_timers` timers already, or the handler 65,536.
    TooMany,
    /// The connection is closed: nothing of it can fire any more.
    Gone,
    /// No handler runs here that could be told:
    /// [`Handle::run_on`](crate::Handle::run_on) knows none.
    NoHandler,
}

impl fmt::Display for TimerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooMany => "there are too many timers already",
            Self::Gone => "the connection has gone",
            Self::NoHandler => "no handler runs here that a timer could call",
        })
    }
}

impl std::error::Error for TimerError {}

/// A worker, as long as a method of its handler, or a closure given to
/// [`Handle::run_on`](crate::Handle::run_on), runs on its thread.
///
/// Reaches every connection by its id. Those of this worker are touched at once; what is sent to
/// others goes through their worker's mailbox.
pub struct WorkerContext<'a> {
    core: &'a mut Core,
    /// Whose timers are set; none for closures of other threads.
    handler: Option<u16>,
}

impl<'a> WorkerContext<'a> {
    pub(crate) fn new(core: &'a mut Core, handler: Option<u16>) -> Self {
        Self { core, handler }
    }

    /// Number of this worker, from 0.
    pub fn worker(&self) -> u16 {
        self.core.worker
    }

    /// The time of this turn, in the simulation's clock.
    #[cfg(test)]
    pub(crate) fn now_ms(&self) -> u64 {
        self.core.now_ms
    }

    /// Connections that hold a slot of this worker, the opening and closing ones included.
    pub fn connections(&self) -> usize {
        self.core.table.len()
    }

    /// As [`WebSocket::send_to`](crate::WebSocket::send_to).
    ///
    /// # Errors
    ///
    /// The same.
    pub fn send_to<'m>(
        &mut self,
        id: ConnectionId,
        message: impl Into<Message<'m>>,
    ) -> Result<SendStatus, SendError> {
        self.core.send_to(id, message.into())
    }

    /// Publishes to every subscriber of a topic, as
    /// [`WebSocket::publish_to_all`](crate::WebSocket::publish_to_all).
    pub fn publish<'m>(&mut self, topic: &str, message: impl Into<Publication<'m>>) -> Published {
        self.core.publish(topic, message.into(), None)
    }

    /// Starts the close handshake with a connection of this worker, as
    /// [`WebSocket::close`](crate::WebSocket::close).
    ///
    /// # Errors
    ///
    /// [`SendError::Gone`] if it is closing or gone, or belongs to another worker, whom
    /// [`Handle::close`](crate::Handle::close) reaches.
    pub fn close(
        &mut self,
        id: ConnectionId,
        code: CloseCode,
        reason: &str,
    ) -> Result<(), SendError> {
        if self.core.close(id, code, reason) { Ok(()) } else { Err(SendError::Gone) }
    }

    /// Ends the TCP connection of a connection of this worker, as
    /// [`WebSocket::terminate`](crate::WebSocket::terminate).
    ///
    /// # Errors
    ///
    /// [`SendError::Gone`] if it has gone or belongs to another worker.
    pub fn terminate(&mut self, id: ConnectionId) -> Result<(), SendError> {
        self.on_live(id, |core| core.terminate(id))
    }

    /// Stops reading from a connection of this worker, as
    /// [`WebSocket::pause_reading`](crate::WebSocket::pause_reading).
    ///
    /// # Errors
    ///
    /// [`SendError::Gone`] if it has gone or belongs to another worker.
    pub fn pause_reading(&mut self, id: ConnectionId) -> Result<(), SendError> {
        self.on_live(id, |core| core.pause_for_handler(id))
    }

    /// Reads again from a connection of this worker, as
    /// [`WebSocket::resume_reading`](crate::WebSocket::resume_reading). Messages that waited are
    /// delivered after the present method or closure has returned.
    ///
    /// # Errors
    ///
    /// [`SendError::Gone`] if it has gone or belongs to another worker.
    pub fn resume_reading(&mut self, id: ConnectionId) -> Result<(), SendError> {
        self.on_live(id, |core| core.resume_for_handler(id))
    }

    /// Bytes that a connection of this worker has taken for sending and its socket has not; 0 for
    /// one that has gone.
    pub fn buffered_amount(&self, id: ConnectionId) -> usize {
        self.core.buffered_amount(id)
    }

    /// Has [`Handler::on_worker_timer`](crate::Handler::on_worker_timer) called with `key`, once,
    /// after `delay`: not earlier, and at the end of a turn that takes longer, later. Whole
    /// milliseconds, rounded up; zero is the next turn. 64 bytes until then.
    ///
    /// # Errors
    ///
    /// [`TimerError::TooMany`] if the handler has 65,536 timers, [`TimerError::NoHandler`] in a
    /// closure of [`Handle::run_on`](crate::Handle::run_on).
    pub fn set_timer(&mut self, delay: Duration, key: u64) -> Result<TimerId, TimerError> {
        let handler = self.handler.ok_or(TimerError::NoHandler)?;
        self.core.set_timer(Owner::Handler(handler), millis(delay), key)
    }

    /// Takes back a timer of this handler. False if it has fired or is not one of its own.
    pub fn cancel_timer(&mut self, id: TimerId) -> bool {
        self.handler.is_some_and(|handler| self.core.schedule.cancel(Owner::Handler(handler), id))
    }

    /// Makes a connection to another server, for this very handler: its
    /// [`on_connect`](crate::Handler::on_connect) gives the session, `on_open` to `on_close` are
    /// called as for any connection, and [`on_dial`](crate::Handler::on_dial) says what failed and
    /// when it is tried again. Begins after the present method has returned. About 400 bytes, on
    /// top of those of a connection.
    ///
    /// ```
    /// use wirelane::client::{Dial, DialEvent, Reconnect};
    /// use wirelane::{Handler, Message, WebSocket, WorkerContext};
    ///
    /// struct Feed;
    ///
    /// impl Handler for Feed {
    ///     type Session = ();
    ///
    ///     fn on_start(&mut self, worker: &mut WorkerContext<'_>) {
    ///         let dial = Dial::to("ws://feed.example/prices").reconnect(Reconnect::new());
    ///         worker.connect(&dial).expect("a good URL");
    ///     }
    ///
    ///     fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
    ///         ws.publish("prices", message);
    ///     }
    ///
    ///     fn on_dial(&mut self, _worker: &mut WorkerContext<'_>, event: &DialEvent<'_>) {
    ///         if let Some(error) = event.error {
    ///             eprintln!("{}: {error}; next try in {:?}", event.dial, event.retry_in);
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConnectError::Invalid`] names the setting that is impossible; [`ConnectError::NoHandler`]
    /// in a closure of [`Handle::run_on`](crate::Handle::run_on).
    pub fn connect(&mut self, dial: &Dial) -> Result<DialId, ConnectError> {
        let handler = self.handler.ok_or(ConnectError::NoHandler)?;
        let plan = self.plan_here(dial)?;
        Ok(self.core.connect(handler, plan))
    }

    /// The same for a handler of its own, which goes when the dial is over. Its `on_start` is called
    /// first.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Invalid`] names the setting that is impossible;
    /// [`ConnectError::TooManyHandlers`].
    pub fn connect_with<H: Handler>(
        &mut self,
        dial: &Dial,
        handler: H,
    ) -> Result<DialId, ConnectError> {
        let plan = self.plan_here(dial)?;
        self.core.connect_with(Box::new(RouteOf::with_capacity(handler, 1)), plan)
    }

    fn plan_here(&self, dial: &Dial) -> Result<Arc<Plan>, ConnectError> {
        if dial.worker().is_some_and(|worker| worker != self.core.worker) {
            return Err(ConnectError::NoSuchWorker);
        }
        dial.plan()
    }

    /// Ends a dial of this worker: the connection gets a Close (1000), an attempt under way or the
    /// wait for one is over ([`DialError::Cancelled`](crate::client::DialError)). Begins after the
    /// present method has returned; nothing happens if the dial is over already, or another
    /// worker's, whom [`Handle::disconnect`](crate::Handle::disconnect) reaches.
    pub fn disconnect(&mut self, dial: DialId) {
        if dial.worker == self.core.worker {
            self.core.dials.cancel(dial.serial);
        }
    }

    fn on_live(&mut self, id: ConnectionId, act: impl FnOnce(&mut Core)) -> Result<(), SendError> {
        if !self.core.is_live(id) {
            return Err(SendError::Gone);
        }
        act(self.core);
        Ok(())
    }
}

impl fmt::Debug for WorkerContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerContext")
            .field("worker", &self.worker())
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}
