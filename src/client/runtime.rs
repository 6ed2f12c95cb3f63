//! A process that only connects to others: workers without listeners.
//!
//! In: settings, then dials from any thread. Out: the event loops of the server, on threads of
//! their own, until the client is shut down or dropped.

use std::fmt;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::dial::Dial;
use super::outcome::{ConnectError, DialId};
use crate::driver::DriverChoice;
use crate::error::Error;
use crate::handle::Handle;
use crate::handler::Handler;
use crate::protocol::Limits;
use crate::server::{Server, ServerBuilder};

/// Event loops for outgoing connections, on threads of their own.
///
/// ```
/// use std::sync::mpsc;
/// use wirelane::client::{Client, Dial, DialEvent};
/// use wirelane::{Close, CloseCode, Handler, Message, Server, WebSocket, WorkerContext};
///
/// struct Echo;
///
/// impl Handler for Echo {
///     type Session = ();
///
///     fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
///         ws.send(message);
///     }
/// }
///
/// /// Says hello, waits for the answer, and closes.
/// struct Greeter(mpsc::Sender<String>);
///
/// impl Handler for Greeter {
///     type Session = ();
///
///     fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
///         ws.send("Hello");
///     }
///
///     fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
///         self.0.send(format!("{message:?}")).unwrap();
///         ws.close(CloseCode::NORMAL, "");
///     }
///
///     fn on_dial(&mut self, _worker: &mut WorkerContext<'_>, event: &DialEvent<'_>) {
///         assert!(event.error.is_none(), "{event:?}");
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (ready, listening) = mpsc::channel();
/// # let server = Server::builder()
/// #     .listen("127.0.0.1:0")
/// #     .websocket("/", |_worker| Echo)
/// #     .on_listening(move |addrs| ready.send(addrs[0].to_string()).unwrap())
/// #     .build()?;
/// # let handle = server.handle();
/// # let thread = std::thread::spawn(move || server.run());
/// # let address = listening.recv()?;
/// let client = Client::start()?;
/// let (answers, received) = mpsc::channel();
/// client.connect(&Dial::to(format!("ws://{address}/")), Greeter(answers))?;
/// assert_eq!(received.recv()?, r#"Text("Hello")"#);
/// client.shutdown(std::time::Duration::from_secs(5))?;
/// # handle.shutdown(std::time::Duration::ZERO);
/// # thread.join().unwrap()?;
/// # Ok(())
/// # }
/// ```
///
/// A program that also serves needs none of this: its connections live on the server's workers
/// ([`Handle::connect`], [`ServerBuilder::client`]). Dropping a client shuts it down without grace
/// and waits for its threads; do not drop it on one of them.
pub struct Client {
    handle: Handle,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl Client {
    /// Starts one worker with the default settings.
    ///
    /// # Errors
    ///
    /// Those of [`ClientBuilder::start`].
    pub fn start() -> Result<Client, Error> {
        Self::builder().start()
    }

    /// Settings with their defaults.
    pub fn builder() -> ClientBuilder {
        // Handshakes of peers, paths and origins mean nothing here.
        ClientBuilder { workers: Server::builder().client_only() }
    }

    /// As [`Handle::connect`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn connect<H: Handler + Send>(
        &self,
        dial: &Dial,
        handler: H,
    ) -> Result<DialId, ConnectError> {
        self.handle.connect(dial, handler)
    }

    /// Reaches the connections from any thread.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends every dial, closes every connection (1001), waits for the answers at most so long, and
    /// for the threads.
    ///
    /// # Errors
    ///
    /// Those of [`Server::run`]: what ended a worker before.
    pub fn shutdown(mut self, grace: Duration) -> Result<(), Error> {
        self.handle.shutdown(grace);
        self.join()
    }

    fn join(&mut self) -> Result<(), Error> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_panicked| {
            let source = std::io::Error::other("the thread that waits for the workers panicked");
            Err(Error::Worker { worker: 0, source })
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.handle.shutdown(Duration::ZERO);
            // There is nobody to tell, and the workers have gone in any case.
            let _ = self.join();
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("handle", &self.handle).finish_non_exhaustive()
    }
}

/// Settings of a [`Client`], made by [`Client::builder`]; see [`ServerBuilder`] for each.
#[must_use = "a builder does nothing until `start`"]
pub struct ClientBuilder {
    workers: ServerBuilder,
}

macro_rules! settings {
    ($($name:ident: $type:ty,)*) => {
        impl ClientBuilder {
            $(
                #[doc = concat!("As [`ServerBuilder::", stringify!($name), "`].")]
                pub fn $name(mut self, value: $type) -> Self {
                    self.workers = self.workers.$name(value);
                    self
                }
            )*
        }
    };
}

settings! {
    driver: DriverChoice,
    workers: usize,
    limits: Limits,
    max_streamed_message: u64,
    max_backpressure: usize,
    max_worker_backpressure: usize,
    max_connections: usize,
    idle_timeout: Duration,
    ping_interval: Duration,
    pong_timeout: Duration,
    close_timeout: Duration,
    write_timeout: Duration,
    max_timers: u32,
    receive_buffer: usize,
    busy_poll: Duration,
    max_subscriptions: usize,
    max_topics: usize,
}

impl ClientBuilder {
    /// As [`ServerBuilder::client`].
    pub fn client<H: Handler>(mut self, make: impl Fn(usize) -> H + Send + Sync + 'static) -> Self {
        self.workers = self.workers.client(make);
        self
    }

    /// Checks the settings and starts the workers.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] names the setting that is impossible; [`Error::Driver`] says that a forced
    /// driver cannot start.
    pub fn start(self) -> Result<Client, Error> {
        let (ready, started) = std::sync::mpsc::channel();
        let workers = self
            .workers
            .on_listening(move |_nobody| {
                let _ = ready.send(());
            })
            .build()?;
        let handle = workers.handle();
        let thread = thread::Builder::new()
            .name("wirelane-client".to_owned())
            .spawn(move || workers.run())
            .map_err(|source| Error::Worker { worker: 0, source })?;
        let mut client = Client { handle, thread: Some(thread) };
        match started.recv() {
            Ok(()) => Ok(client),
            // A worker could not start, and the others have been stopped.
            Err(_) => {
                client.join()?;
                let source = std::io::Error::other("the workers ended at once");
                Err(Error::Worker { worker: 0, source })
            }
        }
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientBuilder").field(&self.workers).finish()
    }
}
