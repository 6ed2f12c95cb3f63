//! A whole server with one worker on a simulated network.
//!
//! In: a seed, faults, settings, the manners of the handler. Out: turns of the real worker, each
//! followed by the assertions that hold at the end of every turn.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::assertions;
use super::client::Client;
use super::log::{Log, Manner, Watched};
use crate::config::Config;
use crate::connection::NEVER;
use crate::driver::AnyDriver;
use crate::driver::simulated::{Faults, Network, Random};
use crate::handle::Handle;
use crate::handler::Handler;
use crate::http::{Reply, Request, Response};
use crate::route_options::RouteOptions;
use crate::tls::Acceptor;
use crate::worker::Worker;
use crate::worker::mailbox::Shared;
use crate::worker::paths::{Page, Paths};
use crate::worker::route::{Route, RouteOf};

/// Bytes of the page at `/page`.
pub(super) const PAGE: usize = 100_000;

/// Turns after which a server that has not come to rest never will.
const MANY_TURNS: u32 = 1_000_000;

/// What a server is made of.
pub(super) struct Setup {
    pub(super) seed: u64,
    pub(super) faults: Faults,
    pub(super) config: Config,
    /// Largest message that anybody sends: some bounds depend on it.
    pub(super) longest: usize,
    /// What connections speak.
    pub(super) tls: Option<Acceptor>,
}

impl Setup {
    /// A perfect network, and timeouts that never come.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            faults: Faults::none(),
            config: Config {
                handshake_timeout_ms: 0,
                idle_timeout_ms: 0,
                ping_interval_ms: 0,
                write_timeout_ms: 0,
                // A network of a few bytes per millisecond needs its time.
                close_timeout_ms: 10_000_000,
                max_connections: 1000,
                receive_buffer: 64 * 1024,
                ..Config::default()
            },
            longest: 128 * 1024,
            tls: None,
        }
    }

    /// A server whose handler behaves like that.
    pub(super) fn serve(self, manner: Manner) -> World {
        let log = Rc::new(RefCell::new(Log::default()));
        let handler = Watched::new(Rc::clone(&log), manner);
        World::new(self, Box::new(RouteOf::with_capacity(handler, 32)), log)
    }

    /// A server with a handler that keeps no log.
    pub(super) fn serve_unwatched(self, handler: impl Handler) -> World {
        World::new(self, Box::new(RouteOf::with_capacity(handler, 32)), Rc::default())
    }
}

/// The server, its network and its clock.
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) network: Network,
    pub(super) worker: Worker,
    pub(super) shared: Arc<Shared>,
    pub(super) handle: Handle,
    pub(super) log: Rc<RefCell<Log>>,
    pub(super) config: Arc<Config>,
    pub(super) longest: usize,
    /// Turns so far.
    pub(super) turns: u32,
}

/// Answers with [`PAGE`] bytes.
fn page(_request: &Request<'_>) -> Reply {
    Response::new(200).body(vec![b'p'; PAGE]).into()
}

impl World {
    fn new(setup: Setup, route: Box<dyn Route>, log: Rc<RefCell<Log>>) -> Self {
        let Setup { seed, faults, config, longest, tls } = setup;
        let network = Network::new(seed, faults);
        let (driver, memory) = network.driver_with(config.receive_buffer);
        network.open_listener();
        let mut paths = Paths::default();
        paths.add_websocket("/", RouteOptions::new()).expect("a good pattern");
        paths.add_page(Some("GET"), "/page", Page::Whole(Box::new(page))).expect("a good pattern");
        let config = Arc::new(config);
        let paths = Arc::new(paths);
        let mut shared = Shared::new(&config, Arc::clone(&paths));
        shared.tls = tls;
        let shared = Arc::new(shared);
        let worker = Worker::new(
            0,
            AnyDriver::Other(Box::new(driver)),
            memory,
            vec![route],
            paths,
            Arc::clone(&config),
            Arc::clone(&shared),
        );
        let handle = Handle { shared: Arc::clone(&shared) };
        Self { seed, network, worker, shared, handle, log, config, longest, turns: 0 }
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.network.now_ms()
    }

    /// One turn of the worker.
    pub(super) fn turn(&mut self) {
        self.worker.turn().expect("the simulated network has no such error");
        self.turns += 1;
        assertions::after_turn(self);
    }

    /// A turn if anything can happen now or soon; else time passes, at most until the worker wants
    /// to be called.
    pub(super) fn step(&mut self, random: &mut Random) {
        if !self.network.is_quiet() {
            return self.turn();
        }
        let timeout_ms = self.worker.crank.timeout_ms();
        let pause_ms = random.length(200) as u64;
        match timeout_ms {
            Some(timeout_ms) if timeout_ms <= pause_ms => self.turn(),
            _ => self.pass(pause_ms),
        }
    }

    /// Time passes while the worker waits, as if it were in the middle of `wait`.
    fn pass(&mut self, ms: u64) {
        self.network.advance(ms);
        self.worker.crank.core.note_time(self.network.now_ms() * 1_000_000);
    }

    /// One turn, or time passes until `end_ms` if nothing happens before.
    pub(super) fn turn_before(&mut self, end_ms: u64) {
        let left_ms = end_ms.saturating_sub(self.now_ms());
        let sleeps = self.worker.crank.timeout_ms().is_none_or(|timeout_ms| timeout_ms > left_ms);
        if self.network.is_quiet() && sleeps {
            self.pass(left_ms);
        } else {
            self.turn();
        }
    }

    /// Turns until this moment; the clients listen.
    pub(super) fn run_until(&mut self, end_ms: u64, clients: &mut [Client]) {
        while self.now_ms() < end_ms {
            self.turn_before(end_ms);
            clients.iter_mut().for_each(Client::listen);
        }
    }

    /// Turns until nothing moves any more, not even in time to come.
    pub(super) fn settle(&mut self, clients: &mut [Client]) {
        let start = self.turns;
        while !self.is_at_rest() {
            self.turn();
            clients.iter_mut().for_each(Client::listen);
            assert!(
                self.turns - start < MANY_TURNS,
                "seed {}: does not come to rest: {}",
                self.seed,
                self.network.summary()
            );
        }
        clients.iter_mut().for_each(Client::listen);
    }

    /// A client whose opening handshake is complete.
    pub(super) fn client(&mut self) -> Client {
        let mut client = Client::new(&self.network);
        while !client.is_open() {
            self.turn();
            client.listen();
        }
        client
    }

    /// Turns until everything that is under way has arrived and was answered; connections stay.
    pub(super) fn deliver(&mut self, clients: &mut [Client]) {
        while !self.network.is_quiet() {
            self.turn();
            clients.iter_mut().for_each(Client::listen);
        }
        clients.iter_mut().for_each(Client::listen);
    }

    fn is_at_rest(&self) -> bool {
        let crank = &self.worker.crank;
        self.network.is_quiet() && crank.core.table.is_empty() && crank.accept_retry_ms == NEVER
    }
}
