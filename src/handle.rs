//! The server as other threads see it.

use std::sync::Arc;
use std::time::Duration;

use crate::config::millis;
use crate::driver::ConnectionId;
use crate::error::SendError;
use crate::protocol::{CloseCode, Message};
use crate::publish::{PreparedMessage, Publication, Published};
use crate::worker::core::post_message;
use crate::worker::mailbox::{Command, Shared, Stats};
use crate::worker::publish::{post_prepared, publish_from_outside};

/// Reaches a server from any thread: a ticker, a database, a signal. From
/// [`Server::handle`](crate::Server::handle) before the server runs, or from
/// [`WebSocket::handle`](crate::WebSocket::handle) inside a handler. Cheap to clone; keeps nothing
/// alive but its mailboxes.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use std::time::Duration;
/// use wirelane::{Close, ConnectionId, Handler, Message, Server, WebSocket};
///
/// type Listeners = Arc<Mutex<Vec<ConnectionId>>>;
///
/// struct Ticks(Listeners);
///
/// impl Handler for Ticks {
///     type Session = ();
///
///     fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
///         self.0.lock().unwrap().push(ws.id());
///     }
///
///     fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {}
///
///     fn on_close(&mut self, ws: &mut WebSocket<'_, ()>, _close: Close<'_>) {
///         self.0.lock().unwrap().retain(|&id| id != ws.id());
///     }
/// }
///
/// let listeners = Listeners::default();
/// let registered = Arc::clone(&listeners);
/// let server = Server::builder()
///     .listen("127.0.0.1:0")
///     .websocket("/", move |_worker| Ticks(Arc::clone(&registered)))
///     .build()?;
/// let handle = server.handle();
/// std::thread::spawn(move || {
///     for tick in 0..3 {
///         for &id in listeners.lock().unwrap().iter() {
///             // An error value says that nobody will get it: gone, stopped, or a full mailbox.
///             let _ = handle.send_to(id, &format!("tick {tick}"));
///         }
///         std::thread::sleep(Duration::from_millis(10));
///     }
///     handle.shutdown(Duration::from_secs(5));
/// });
/// server.run()?;
/// # Ok::<(), wirelane::Error>(())
/// ```
///
/// Every command is posted to the mailbox of the worker concerned, which holds 65,536 of them;
/// one wake-up serves a whole batch. No method blocks.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Handle {
    /// Sends a message to a connection. `Ok` means that the worker will be told; if the
    /// connection has gone by then, or its queue is full, the message is counted in
    /// [`Stats::undelivered`] and nobody else gets it. Messages of one thread to one connection
    /// keep their order. Copies the payload once.
    ///
    /// # Errors
    ///
    /// [`SendError::MailboxFull`], [`SendError::Stopped`], or [`SendError::Gone`] if the id is
    /// not of this server.
    pub fn send_to<'m>(
        &self,
        id: ConnectionId,
        message: impl Into<Message<'m>>,
    ) -> Result<(), SendError> {
        post_message(&self.shared, id, message.into())
    }

    /// The same with a message that was framed before: the payload is not copied again.
    ///
    /// # Errors
    ///
    /// As [`send_to`](Self::send_to).
    pub fn send_prepared_to(
        &self,
        id: ConnectionId,
        message: &PreparedMessage,
    ) -> Result<(), SendError> {
        post_prepared(&self.shared, id, message)
    }

    /// Publishes a message, or one that was prepared, to the subscribers of a topic. It is framed
    /// once and posted to each worker that has subscribers; a worker whose mailbox is full misses
    /// it, which the answer says. Messages of one thread keep their order.
    #[doc(alias = "publish_prepared")]
    pub fn publish<'m>(&self, topic: &str, message: impl Into<Publication<'m>>) -> Published {
        publish_from_outside(&self.shared, topic, message.into())
    }

    /// Subscribers of a topic, on all workers.
    pub fn subscribers(&self, topic: &str) -> usize {
        self.shared.topics.find(topic).map_or(0, |topic| topic.subscribers())
    }

    /// Starts the close handshake with a connection, after everything posted before. As with
    /// [`WebSocket::close`](crate::WebSocket::close) the reason is cut at 123 bytes, and nothing
    /// happens if the connection has gone or is closing already.
    ///
    /// # Errors
    ///
    /// As [`send_to`](Self::send_to).
    pub fn close(&self, id: ConnectionId, code: CloseCode, reason: &str) -> Result<(), SendError> {
        let mailbox = self.shared.mailboxes.get(usize::from(id.worker())).ok_or(SendError::Gone)?;
        mailbox.post(Command::Close { id, code, reason: reason.into() })
    }

    /// Stops the server: no new connections, Close 1001 to every open one, 503 to requests under
    /// way. What is queued is still sent and close handshakes are waited for, at most for
    /// `grace`; whoever is left then is cut. [`Server::run`](crate::Server::run) returns after
    /// that. Of several calls the shortest grace wins. Returns at once.
    pub fn shutdown(&self, grace: Duration) {
        self.shared.shut_down(millis(grace));
    }

    /// Figures of the whole server.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }
}
