//! The server as other threads see it.

use std::sync::Arc;

use crate::adopt::{Negotiated, NotAdopted};
use crate::client::{ConnectError, Dial, DialId};
use crate::context::WorkerContext;
use crate::driver::{ConnectedSocket, ConnectionId};
use crate::error::SendError;
use crate::handler::Handler;
use crate::protocol::{CloseCode, Message};
use crate::publish::{PreparedMessage, Publication, Published};
use crate::shutdown::{ShutdownOptions, ShutdownReport};
#[cfg(feature = "tls-no-provider")]
use crate::tls::{ServerTls, TlsError};
use crate::upgrade::Session;
use crate::worker::adopting::{self, AnyMaker};
use crate::worker::dialing::{NewDial, new_serial};
use crate::worker::mailbox::{Command, Job, Shared, Stats};
use crate::worker::publish::{post_prepared, publish_from_outside};
use crate::worker::route::{Route, RouteOf};
use crate::worker::sending::post_message;

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

    /// Takes over a connection that another server has accepted and upgraded: one that serves
    /// HTTP on the same port, say (see the example `axum_handover`). It goes to the worker with
    /// the fewest connections and is an open WebSocket there, like any other: `on_open` is called,
    /// then come the frames.
    ///
    /// The other server must have sent the whole 101, and must not touch the socket any more.
    /// `leftover` is what it has read behind the request: the first frames, often nothing. What
    /// must not be lost is to be there: a reader that buffers has it. The bytes on the socket are
    /// WebSocket frames in the clear, whatever the server's own listeners speak. `negotiated` says which route
    /// serves the connection, and what the client was told; the origin is not checked again.
    ///
    /// The session is the one that a connection begins with by default. `on_upgrade` is not called:
    /// there is no request. For other sessions see [`adopt_with`](Self::adopt_with).
    ///
    /// `Ok` means that the connection has its place and the worker will be told, also of a server
    /// that does not run yet. Should the server stop in between, the client is sent 1001, or sees
    /// the end of the connection if its worker has gone. The socket may be
    /// blocking or not; it gets `FD_CLOEXEC` and the TCP options that accepted ones have. Counted in
    /// [`Stats::adopted`](crate::Stats::adopted).
    ///
    /// # Errors
    ///
    /// [`NotAdopted`] says why and has the socket. Nothing was sent on it.
    pub fn adopt(
        &self,
        socket: impl Into<ConnectedSocket>,
        leftover: impl Into<Vec<u8>>,
        negotiated: Negotiated,
    ) -> Result<(), NotAdopted> {
        adopting::post(&self.shared, socket.into(), leftover.into(), negotiated, None)
    }

    /// [`adopt`](Self::adopt) with a session: `session` makes it, on the thread of the worker, so
    /// the session itself need not be `Send`. A panic in it gives the client 1011.
    ///
    /// ```no_run
    /// use std::net::TcpStream;
    /// use wirelane::{Handle, Negotiated, NotAdopted, Session};
    ///
    /// struct Player {
    ///     name: String,
    /// }
    ///
    /// impl Session for Player {}
    ///
    /// // The route "/game" has a handler with sessions of this type.
    /// fn welcome(handle: &Handle, stream: TcpStream, name: String) -> Result<(), NotAdopted> {
    ///     handle.adopt_with(stream, [], Negotiated::new("/game"), move || Player { name })
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`adopt`](Self::adopt), and [`AdoptError::WrongSession`](crate::AdoptError::WrongSession)
    /// if the route has sessions of another type than `S`.
    pub fn adopt_with<S: Session>(
        &self,
        socket: impl Into<ConnectedSocket>,
        leftover: impl Into<Vec<u8>>,
        negotiated: Negotiated,
        session: impl FnOnce() -> S + Send + 'static,
    ) -> Result<(), NotAdopted> {
        let maker = Some(AnyMaker::new(session));
        adopting::post(&self.shared, socket.into(), leftover.into(), negotiated, maker)
    }

    /// Calls a closure on the thread of a worker, from 0, between two turns of its connections:
    /// the way to do several things at once, or to reach what only that thread may touch. Costs
    /// one allocation. A panic in it is counted in [`Stats::handler_panics`] and stops nothing.
    ///
    /// ```no_run
    /// # fn example(handle: wirelane::Handle, ids: Vec<wirelane::ConnectionId>) {
    /// for worker in 0..handle.workers() {
    ///     let ids = ids.clone();
    ///     let told = handle.run_on(worker, move |context| {
    ///         for id in ids.into_iter().filter(|id| id.worker() == worker) {
    ///             // Whoever has gone needs no news.
    ///             let _ = context.send_to(id, "all at once");
    ///         }
    ///     });
    ///     told.expect("the server runs");
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`SendError::MailboxFull`], [`SendError::Stopped`] or [`SendError::NoSuchWorker`]; the
    /// closure is dropped then. It is also dropped, without a call, if the worker ends before it
    /// gets to it.
    pub fn run_on(
        &self,
        worker: u16,
        call: impl FnOnce(&mut WorkerContext<'_>) + Send + 'static,
    ) -> Result<(), SendError> {
        let mailbox = self.shared.mailboxes.get(usize::from(worker));
        mailbox.ok_or(SendError::NoSuchWorker)?.post(Command::Run(Job(Box::new(call))))
    }

    /// Makes a connection to another server on one of the workers
    /// ([`Dial::on_worker`], otherwise the one with the fewest connections), for this handler, which moves to that
    /// worker's thread and goes when the dial is over. What happens is told to the handler: see
    /// [`WorkerContext::connect`](crate::WorkerContext::connect).
    ///
    /// # Errors
    ///
    /// [`ConnectError::Invalid`] names the setting that is impossible;
    /// [`ConnectError::NoSuchWorker`], [`ConnectError::TooManyHandlers`],
    /// [`ConnectError::MailboxFull`], [`ConnectError::Stopped`].
    pub fn connect<H: Handler + Send>(
        &self,
        dial: &Dial,
        handler: H,
    ) -> Result<DialId, ConnectError> {
        let plan = dial.plan()?;
        let serial = new_serial(&self.shared);
        let worker = dial.worker().unwrap_or_else(|| self.shared.places.fewest());
        let mailbox = self.shared.mailboxes.get(usize::from(worker));
        let mailbox = mailbox.ok_or(ConnectError::NoSuchWorker)?;
        let seat = self.shared.handler_seats[usize::from(worker)].take()?;
        let make =
            Box::new(move || -> Box<dyn Route> { Box::new(RouteOf::with_capacity(handler, 1)) });
        match mailbox.post(Command::Connect(Box::new(NewDial { serial, plan, make, seat }))) {
            Ok(()) => Ok(DialId { serial, worker }),
            Err(SendError::MailboxFull) => Err(ConnectError::MailboxFull),
            Err(_) => Err(ConnectError::Stopped),
        }
    }

    /// Ends a dial: its connection gets a Close (1000), an attempt under way or the wait for one is
    /// over. Nothing happens if it is over already.
    ///
    /// # Errors
    ///
    /// [`SendError::MailboxFull`], [`SendError::Stopped`], or [`SendError::Gone`] if the id is not
    /// of these workers.
    pub fn disconnect(&self, dial: DialId) -> Result<(), SendError> {
        let mailbox = self.shared.mailboxes.get(usize::from(dial.worker));
        mailbox.ok_or(SendError::Gone)?.post(Command::Disconnect { dial: dial.serial })
    }

    /// Number of workers.
    pub fn workers(&self) -> u16 {
        // `build` takes at most 1024.
        self.shared.mailboxes.len() as u16
    }

    /// Connections of all workers that hold a slot now, the opening and closing ones included.
    pub fn connections(&self) -> usize {
        self.shared.places.taken()
    }

    /// Connections of one worker, from 0, counted as [`connections`](Self::connections) does; 0 if
    /// there is no such worker. How even the load is depends on
    /// [`ServerBuilder::accept`](crate::ServerBuilder::accept).
    pub fn connections_on(&self, worker: u16) -> usize {
        self.shared.places.load(worker)
    }

    /// True once somebody has asked for a [`shutdown`](Self::shutdown).
    pub fn is_stopping(&self) -> bool {
        self.shared.is_stopping()
    }

    /// Stops the server, in this order:
    ///
    /// 1. [`is_stopping`](Self::is_stopping) and readiness routes say so; nothing else happens for
    ///    [`ShutdownOptions::announce`].
    /// 2. No new connections. Requests under way, and those that still arrive on connections which
    ///    were accepted before, are answered with 503.
    /// 3. Close 1001 to every open connection, behind what is queued for it; at once, or over
    ///    [`ShutdownOptions::spread`]. Until then a connection is served as ever.
    /// 4. Close handshakes and unsent data are waited for. A peer that reads slowly has the whole
    ///    grace, not `close_timeout` only.
    /// 5. After the grace, which counts from 2., whoever is left is cut.
    ///
    /// [`Server::run`](crate::Server::run) returns after that, as soon as nobody is left. Of
    /// several calls the shortest time wins, each of the three by itself: to stop at once, call it
    /// again with zero. Returns at once, and may be called from anywhere, handlers included.
    pub fn shutdown(&self, options: impl Into<ShutdownOptions>) {
        self.shared.shut_down(options);
    }

    /// Exchanges what [`ServerBuilder::tls`](crate::ServerBuilder::tls) had set: handshakes that
    /// begin from now on get the new certificates and settings, established connections are not
    /// touched. Sessions of before cannot be resumed: their clients make a full handshake.
    ///
    /// # Errors
    ///
    /// The settings are impossible, or the server speaks no TLS; then everything stays as it was.
    #[cfg(feature = "tls-no-provider")]
    pub fn reload_tls(&self, tls: impl Into<ServerTls>) -> Result<(), TlsError> {
        let Some(acceptor) = &self.shared.tls else {
            return Err(TlsError::Settings("the server was built without TLS".into()));
        };
        acceptor.replace(&tls.into())
    }

    /// What became of the connections that were there when the server stopped; `None` while it
    /// runs. Also after an error of [`Server::run`](crate::Server::run).
    pub fn report(&self) -> Option<ShutdownReport> {
        self.shared.final_report()
    }

    /// Figures of the whole server.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }
}
