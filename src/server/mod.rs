//! The server: binds addresses, starts one worker per thread, waits for their end.

mod builder;

pub use self::builder::ServerBuilder;

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::config::Config;
use crate::driver::listener::UnixPathGuard;
use crate::driver::{self, Driver, DriverChoice, DriverOptions, ListenAddr, affinity};
use crate::error::Error;
use crate::handle::Handle;
use crate::shutdown::ShutdownReport;
use crate::worker::Worker;
use crate::worker::mailbox::Shared;
use crate::worker::paths::Paths;
use crate::worker::route::Route;

/// Makes one route for one worker; takes its number and how many sessions to make room for.
type RouteFactory = Box<dyn Fn(usize, usize) -> Box<dyn Route> + Send + Sync>;

/// Told once when every worker accepts.
type OnListening = Box<dyn FnOnce(&[ListenAddr]) + Send>;

/// A server whose addresses are bound. See the [crate documentation](crate) for an example.
#[must_use = "peers that connect are not served until `run`"]
pub struct Server {
    config: Arc<Config>,
    shared: Arc<Shared>,
    paths: Arc<Paths>,
    routes: Arc<Vec<RouteFactory>>,
    /// One list per worker.
    listeners: Vec<Vec<socket2::Socket>>,
    local_addrs: Vec<ListenAddr>,
    on_listening: Option<OnListening>,
    /// Remove the files of Unix sockets when the server ends.
    unix_paths: Vec<UnixPathGuard>,
    mailboxes: StopMailboxes,
}

impl Server {
    /// Settings with their defaults.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }

    /// The addresses as they were bound: port 0 has become the real one.
    pub fn local_addrs(&self) -> &[ListenAddr] {
        &self.local_addrs
    }

    /// Reaches the server from other threads, also while it runs.
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.shared) }
    }

    /// Serves until [`Handle::shutdown`]. The calling thread waits; every worker has a thread of
    /// its own, named `wirelane-N`.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`] if a forced driver cannot start; [`Error::Worker`] if the operating
    /// system fails a running worker or a thread cannot be started. The other workers are shut
    /// down then: there is never half a server.
    pub fn run(self) -> Result<(), Error> {
        self.run_and_report().map(|_report| ())
    }

    /// The same, and says what became of the connections that were there when the server stopped.
    ///
    /// # Errors
    ///
    /// Those of [`run`](Self::run); [`Handle::report`] has the report then, too.
    pub fn run_and_report(self) -> Result<ShutdownReport, Error> {
        let Self {
            config,
            shared,
            paths,
            routes,
            listeners,
            local_addrs,
            on_listening,
            unix_paths,
            mailboxes: _mailboxes,
        } = self;
        let (ready, started) = mpsc::channel();
        let mut threads = Vec::new();
        let (mut result, mut called) = (Ok(()), Ok(()));
        for (number, listeners) in (0..config.workers).zip(listeners) {
            let worker = Start {
                number,
                listeners,
                config: Arc::clone(&config),
                shared: Arc::clone(&shared),
                paths: Arc::clone(&paths),
                routes: Arc::clone(&routes),
            };
            let ready = ready.clone();
            let thread = thread::Builder::new()
                .name(format!("wirelane-{number}"))
                .spawn(move || worker.run(&ready));
            match thread {
                Ok(thread) => threads.push((number, thread)),
                Err(source) => {
                    result = Err(Error::Worker { worker: number, source });
                    break;
                }
            }
        }
        drop(ready);
        // Every worker that started says so; one that failed hangs up.
        let started = started.iter().take(threads.len()).count();
        let whole = result.is_ok() && started == usize::from(config.workers);
        if whole && let Some(call) = on_listening {
            called = panic::catch_unwind(AssertUnwindSafe(|| call(&local_addrs)));
        }
        if !whole || called.is_err() {
            shared.shut_down(Duration::ZERO);
        }
        for (number, thread) in threads {
            let ended = thread.join().unwrap_or_else(|_| {
                let source = std::io::Error::other("the worker's thread panicked");
                Err(Error::Worker { worker: number, source })
            });
            if let Err(error) = ended
                && result.is_ok()
            {
                result = Err(error);
            }
        }
        drop(unix_paths);
        if let Err(panicked) = called {
            // The caller's own panic goes on, now that no worker is left behind.
            panic::resume_unwind(panicked);
        }
        let report = shared.finish_report();
        result.map(|()| report)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("local_addrs", &self.local_addrs)
            .field("config", &self.config)
            .field("paths", &self.paths)
            .finish_non_exhaustive()
    }
}

/// What a worker's thread takes along.
struct Start {
    number: u16,
    listeners: Vec<socket2::Socket>,
    config: Arc<Config>,
    shared: Arc<Shared>,
    paths: Arc<Paths>,
    routes: Arc<Vec<RouteFactory>>,
}

impl Start {
    fn run(self, ready: &mpsc::Sender<()>) -> Result<(), Error> {
        // However this thread ends, by an error or a panic, the others must not go on alone.
        let guard = StopOthers { shared: Arc::clone(&self.shared) };
        let number = self.number;
        let mut worker = self.start()?;
        let _ = ready.send(());
        let result = worker.run().map_err(|source| Error::Worker { worker: number, source });
        drop(worker);
        drop(guard);
        result
    }

    fn start(self) -> Result<Worker, Error> {
        let Self { number, listeners, config, shared, paths, routes } = self;
        if let Some(&core) = config.cores.iter().cycle().nth(usize::from(number)) {
            // Before anything is allocated, so that the memory is that core's.
            affinity::pin_to(core).map_err(|source| Error::Worker { worker: number, source })?;
        }
        let options = DriverOptions { receive_buffer: config.receive_buffer };
        let (mut driver, memory) = driver::open(config.driver, &options).map_err(|source| {
            let driver = if config.driver == DriverChoice::IoUring { "io_uring" } else { "epoll" };
            Error::Driver { driver, source }
        })?;
        for listener in listeners {
            driver.listen(listener).map_err(|source| Error::Worker { worker: number, source })?;
        }
        let slots = config.reserved_slots();
        let routes = routes.iter().map(|make| make(usize::from(number), slots)).collect();
        log::info!("worker {number} runs on the {} driver", driver.name());
        Ok(Worker::new(number, driver, memory, routes, paths, config, shared))
    }
}

struct StopOthers {
    shared: Arc<Shared>,
}

impl Drop for StopOthers {
    fn drop(&mut self) {
        // Workers without connections end first when the server stops; the others keep their grace.
        if !self.shared.is_stopping() {
            self.shared.shut_down(Duration::ZERO);
        }
    }
}

/// Stops the mailboxes when the server has ended, those of workers that never started included:
/// nobody would take from them.
struct StopMailboxes {
    shared: Arc<Shared>,
}

impl Drop for StopMailboxes {
    fn drop(&mut self) {
        self.shared.stop_mailboxes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::ConnectionId;
    use crate::error::SendError;
    use crate::handler::Handler;
    use crate::protocol::Message;
    use crate::websocket::WebSocket;

    struct Silent;

    impl Handler for Silent {
        type Session = ();

        fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, _message: Message<'_>) {}
    }

    fn build(make: fn(usize) -> Silent) -> Server {
        let builder = Server::builder().listen("127.0.0.1:0").workers(2);
        builder.websocket("/", make).build().expect("possible settings")
    }

    fn post(handle: &Handle, worker: u16) -> Result<(), SendError> {
        handle.send_to(ConnectionId::new(worker, 0, 1), "hello")
    }

    #[test]
    fn a_server_that_never_ran_refuses_commands_when_it_is_gone() {
        let server = build(|_| Silent);
        let handle = server.handle();
        assert_eq!(post(&handle, 0), Ok(()), "it may still run");
        drop(server);
        assert_eq!(post(&handle, 0), Err(SendError::Stopped));
        assert_eq!(handle.stats().undelivered, 1);
    }

    #[test]
    fn a_worker_that_never_started_refuses_commands_when_the_server_has_ended() {
        let server = build(|worker| match worker {
            0 => Silent,
            _ => panic!("asked for by the test"),
        });
        let handle = server.handle();
        assert_eq!(post(&handle, 1), Ok(()));
        assert!(matches!(server.run(), Err(Error::Worker { worker: 1, .. })));
        for worker in [0, 1] {
            assert_eq!(post(&handle, worker), Err(SendError::Stopped), "worker {worker}");
        }
        assert_eq!(handle.stats().undelivered, 1);
    }
}
