//! The settings of a server: one method each, all checked when it is built.

mod routes;

use std::fmt;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use crate::config::{Accept, Config, micros, millis};
use crate::driver::listener::{self, ListenOptions, PortSharing, UnixPathGuard};
use crate::driver::{BoundListener, DriverChoice, ListenAddr, affinity};
use crate::error::Error;
use crate::origins::Origins;
use crate::protocol::{Deflate, Limits};
use crate::publish::SlowSubscriber;
use crate::tls::Acceptor;
#[cfg(feature = "tls-no-provider")]
use crate::tls::ServerTls;
use crate::trust::ForwardedHeader;
use crate::trust::network::Peers;
use crate::worker::mailbox::Shared;
use crate::worker::paths::Paths;

use super::{OnListening, RouteFactory, Server, StopMailboxes};

/// Settings of a server, made by [`Server::builder`].
///
/// Every method sets one thing and returns the builder; [`build`](Self::build) checks them all.
/// Durations count whole milliseconds, that of [`busy_poll`](Self::busy_poll) microseconds (rounded
/// up); [`Duration::ZERO`] turns a timeout off.
#[must_use = "a builder does nothing until `build` or `run`"]
pub struct ServerBuilder {
    config: Config,
    listeners: Vec<Listener>,
    workers: usize,
    /// Asked for by `adopt_only`.
    without_listener: bool,
    /// Asked for by `pin_workers`.
    cores: Option<Vec<usize>>,
    paths: Paths,
    routes: Vec<RouteFactory>,
    /// Routes without a path, numbered behind the others.
    clients: Vec<RouteFactory>,
    /// Nobody can connect: see [`Client`](crate::client::Client).
    client_only: bool,
    on_listening: Option<OnListening>,
    tls: Option<Acceptor>,
    /// For readiness routes, once `build` has made it.
    shared: Arc<OnceLock<Arc<Shared>>>,
    mistake: Option<Error>,
}

impl ServerBuilder {
    pub(super) fn new() -> Self {
        Self {
            config: Config::default(),
            listeners: Vec::new(),
            workers: 1,
            without_listener: false,
            cores: None,
            paths: Paths::default(),
            routes: Vec::new(),
            clients: Vec::new(),
            client_only: false,
            on_listening: None,
            tls: None,
            shared: Arc::default(),
            mistake: None,
        }
    }

    /// Adds an address: `127.0.0.1:9001`, `[::1]:9001`, `[::]:9001` (IPv6 and IPv4),
    /// `localhost:9001` or `unix:/run/chat.sock`, as text, as a [`ListenAddr`] or as a
    /// [`SocketAddr`](std::net::SocketAddr). Port 0 takes a free one; see
    /// [`Server::local_addrs`]. At least one address is needed.
    pub fn listen<A>(mut self, address: A) -> Self
    where
        A: TryInto<ListenAddr>,
        A::Error: fmt::Display,
    {
        match address.try_into() {
            Ok(address) => self.listeners.push(Listener::Address(address)),
            Err(error) => self.blame(Error::config("listen", error.to_string())),
        }
        self
    }

    /// Adds a listener that somebody else has bound: a service manager
    /// ([`BoundListener::inherited`]), or an earlier process of this server that passes its
    /// listeners on, so that no client finds the door closed while the one takes over from the
    /// other. Its backlog becomes [`backlog`](Self::backlog). The file of a Unix socket is not
    /// removed at the end.
    ///
    /// The workers share the one queue of such a listener, and who comes first serves: with
    /// [`Accept::Spread`] the load is even.
    pub fn listen_on(mut self, listener: impl Into<BoundListener>) -> Self {
        self.listeners.push(Listener::Bound(listener.into()));
        self
    }

    /// Does without an address: every connection comes by way of
    /// [`Handle::adopt`](crate::Handle::adopt) from another server in this process.
    pub fn adopt_only(mut self) -> Self {
        self.without_listener = true;
        self
    }

    /// The sites whose pages may open WebSocket connections, on every route whose
    /// [`RouteOptions`](crate::RouteOptions) do not say otherwise; others get 403. Default
    /// [`Origins::same_host`].
    pub fn origins(mut self, origins: Origins) -> Self {
        self.config.origins = origins;
        self
    }

    /// Takes the client's address from this header of requests that come from these proxies: the
    /// last address in it that is not one of theirs is
    /// [`Request::client_ip`](crate::Request::client_ip) then. From anybody else the header is not
    /// looked at. Default: nobody is believed.
    ///
    /// Proxies are networks or single addresses, `10.0.0.0/8`, `fd00::/8`, `127.0.0.1`; `unix` is
    /// every peer of a Unix socket, on a server that listens on no other sockets. List proxies
    /// that *set* the header, not ones that pass it on as the client sent it.
    pub fn trust_forwarded(
        mut self,
        header: ForwardedHeader,
        proxies: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        match Peers::parse(proxies) {
            Ok(proxies) => self.config.trust.forwarded = Some((header, proxies)),
            Err(problem) => self.blame(Error::config("trust_forwarded", problem)),
        }
        self
    }

    /// Demands that these proxies, written as for [`trust_forwarded`](Self::trust_forwarded), begin
    /// every connection with a PROXY header, version 1 or 2, of at most 536 bytes: the address in
    /// it is [`Request::client_ip`](crate::Request::client_ip) then. A connection of theirs without
    /// it gets 400, and so does a PROXY header of anybody else. Default: none.
    pub fn proxy_protocol(mut self, proxies: impl IntoIterator<Item = impl Into<String>>) -> Self {
        match Peers::parse(proxies) {
            Ok(proxies) => self.config.trust.proxy_protocol = proxies,
            Err(problem) => self.blame(Error::config("proxy_protocol", problem)),
        }
        self
    }

    /// The names that the server answers to: every request whose Host is another one gets 421
    /// (RFC 9110 7.4), pages and WebSockets alike. A name without a port stands for any port.
    /// This is what stops pages that have their own name resolve to a server in the user's
    /// network (DNS rebinding), which are of the same host as far as
    /// [`origins`](Self::origins) can see. Default: any name.
    pub fn hosts(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.config.trust.hosts = names.into_iter().map(Into::into).collect();
        self
    }

    /// Speaks TLS on every address, and nothing else: connections are `wss` and `https`. A plain
    /// request gets an alert, never an answer. A header of [`proxy_protocol`](Self::proxy_protocol)
    /// comes before TLS. The handshake counts for
    /// [`handshake_timeout`](Self::handshake_timeout); what fails is counted in
    /// [`Stats::tls_failures`](crate::Stats::tls_failures). Certificates can be exchanged while the
    /// server runs: [`Handle::reload_tls`](crate::Handle::reload_tls).
    ///
    /// An idle connection costs about 4 KiB more than without (that is what rustls keeps); a worker
    /// has buffers of about 0.5 MiB. Default: plaintext.
    #[cfg(feature = "tls-no-provider")]
    pub fn tls(mut self, tls: impl Into<ServerTls>) -> Self {
        match Acceptor::new(&tls.into()) {
            Ok(acceptor) => self.tls = Some(acceptor),
            Err(error) => self.blame(Error::config("tls", error.to_string())),
        }
        self
    }

    /// The driver. Default [`Driver::Auto`](crate::Driver::Auto). Which one runs is logged at level
    /// `info`.
    pub fn driver(mut self, driver: DriverChoice) -> Self {
        self.config.driver = driver;
        self
    }

    /// Worker threads, each with its own event loop; 0 is one per core. Default 1. How connections
    /// are spread over them says [`accept`](Self::accept).
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Compresses messages (permessage-deflate, RFC 7692) on every route whose
    /// [`RouteOptions`](crate::RouteOptions) do not say otherwise, with clients that offer it.
    /// [`Deflate`] says what each mode costs in memory and time, and when compression gives secrets
    /// away. Default [`Deflate::off`].
    ///
    /// ```
    /// use wirelane::{Deflate, Server};
    ///
    /// let builder = Server::builder().deflate(Deflate::shared().threshold(256));
    /// ```
    pub fn deflate(mut self, settings: Deflate) -> Self {
        self.config.deflate = settings;
        self
    }

    /// Who accepts connections: every worker, and the kernel spreads them by chance, or one for
    /// all, that spreads them evenly. Default [`Accept::PerWorker`].
    pub fn accept(mut self, accept: Accept) -> Self {
        self.config.accept = accept;
        self
    }

    /// Keeps each worker on one core: worker 0 on the first of these, worker 1 on the second, and
    /// over again if there are more workers than cores. Numbers are those of the kernel
    /// (`taskset`, /proc/cpuinfo). None at all means every core that the process may use, in
    /// order. A handler's memory is first touched by its worker, so it lies near that core.
    ///
    /// Pinned workers do not get out of the way of other programs: worth it where the cores
    /// belong to the server alone. By default the kernel moves them as it sees fit.
    pub fn pin_workers(mut self, cores: impl IntoIterator<Item = usize>) -> Self {
        self.cores = Some(cores.into_iter().collect());
        self
    }

    /// Limits of frames, messages and request heads. Default [`Limits::new`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.config.limits = limits;
        self
    }

    /// Largest message to a handler with [`Handler::STREAM`](crate::Handler::STREAM), in bytes,
    /// instead of [`Limits::max_message`]; 1009 beyond it. Each of its frames is limited by
    /// [`Limits::max_frame`] (2 GiB - 1 if that is not set), their number by
    /// [`Limits::max_fragments`]. It costs no memory. Default zero: no limit.
    pub fn max_streamed_message(mut self, bytes: u64) -> Self {
        self.config.max_streamed_message = if bytes == 0 { u64::MAX } else { bytes };
        self
    }

    /// Bytes that may wait for one connection because its peer is slow to read; a message that
    /// would pass it is refused to the caller. From half of it on, the peer is not read either,
    /// so that it cannot fill the queue with answers to its own messages. One message that
    /// meets an empty queue is always taken. Default 1 MiB, at least 1024.
    pub fn max_backpressure(mut self, bytes: usize) -> Self {
        self.config.max_backpressure = bytes;
        self
    }

    /// Bytes that may wait for all the connections of one worker together, because their peers are
    /// slow to read. At the limit a message for a peer that has read everything is still taken; one
    /// that would have to wait behind others is refused, and counted in
    /// [`Stats::dropped_worker_full`](crate::Stats::dropped_worker_full). Peers that stop reading
    /// all in one turn may pass it by what each of them was sent in that turn. Default 1 GiB; zero
    /// is off.
    pub fn max_worker_backpressure(mut self, bytes: usize) -> Self {
        self.config.max_worker_backpressure = bytes;
        self
    }

    /// Connections of the whole server. At the limit accepting pauses, and new peers wait in the
    /// kernel's backlog until one ends. Default 100,000.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.config.max_connections = connections;
        self
    }

    /// Connections of one address, so that nobody takes all places. At the limit further ones are
    /// closed as soon as they were accepted, and counted in
    /// [`Stats::refused_per_ip`](crate::Stats::refused_per_ip). An IPv6 address stands for its
    /// whole /64 network. Peers of Unix sockets are not counted, nor the proxies that
    /// [`trust_forwarded`](Self::trust_forwarded) and [`proxy_protocol`](Self::proxy_protocol)
    /// list. Costs about 40 bytes per connection. Default zero: off.
    pub fn max_connections_per_ip(mut self, connections: u32) -> Self {
        self.config.max_connections_per_ip = connections;
        self
    }

    /// From accepting to the complete request head, whatever trickles in; then 408, or the end
    /// if no byte came. A deferred decision must have been made by then, too. Default 10 s.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.config.handshake_timeout_ms = millis(timeout);
        self
    }

    /// How long an upgrade that [`Upgrade::defer`](crate::Upgrade::defer) put off may wait for its
    /// decision; then 503. It never waits longer than `handshake_timeout` allows. Default 10 s.
    pub fn upgrade_timeout(mut self, timeout: Duration) -> Self {
        self.config.upgrade_timeout_ms = millis(timeout);
        self
    }

    /// Largest body of a request that is put together for its route, in bytes; 413 beyond it.
    /// Memory follows the bytes that arrived. An [`upload`](Self::upload) has no limit but its own.
    /// Default 1 MiB; zero takes no body at all.
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.config.max_body = bytes;
        self
    }

    /// How long a body may take for each 16 KiB of it; then 408. While an upload is paused it does
    /// not count. Default 30 s.
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.config.body_timeout_ms = millis(timeout);
        self
    }

    /// How long an answer that [`Reply::later`](crate::Reply::later) put off may take; then 503.
    /// Default 60 s.
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.config.response_timeout_ms = millis(timeout);
        self
    }

    /// A connection on which a request was answered is closed if no other begins within this time.
    /// The head of that one then has [`handshake_timeout`](Self::handshake_timeout). Default 60 s.
    pub fn keep_alive_timeout(mut self, timeout: Duration) -> Self {
        self.config.keep_alive_timeout_ms = millis(timeout);
        self
    }

    /// A peer from which nothing comes for so long, not even a pong, is cut (1006). Default
    /// 120 s. Who lowers it lowers [`ping_interval`](Self::ping_interval) too: otherwise peers
    /// that are alive but silent are cut before they are asked, and a line in the log says so.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.config.idle_timeout_ms = millis(timeout);
        self
    }

    /// A peer from which nothing came for so long is sent a ping, once. Up to a quarter earlier,
    /// each connection at its own moment, so that many that were opened together are not all
    /// pinged in one turn. Should be less than half of the idle timeout, so that a live peer is
    /// never cut, and less than the 60 s after which common proxies cut. Default 30 s.
    pub fn ping_interval(mut self, interval: Duration) -> Self {
        self.config.ping_interval_ms = millis(interval);
        self
    }

    /// A peer that sends nothing for so long after such a ping, neither the pong nor anything else,
    /// is cut (1006, [`CloseCause::PongTimeout`](crate::CloseCause::PongTimeout)). While earlier
    /// bytes keep the ping from leaving, and while reading is paused, it does not count. Needs
    /// `ping_interval`. Default zero: off, the idle timeout is enough.
    pub fn pong_timeout(mut self, timeout: Duration) -> Self {
        self.config.pong_timeout_ms = millis(timeout);
        self
    }

    /// A connection is closed (1001) when it has been open for so long, or up to an eighth
    /// earlier, each at its own moment, so that those that were opened together do not come back
    /// together; for moving clients between servers. Costs 24 bytes per connection. Default zero:
    /// off.
    pub fn max_lifetime(mut self, lifetime: Duration) -> Self {
        self.config.max_lifetime_ms = millis(lifetime);
        self
    }

    /// Timers that one connection may have at a time; see
    /// [`WebSocket::set_timer`](crate::WebSocket::set_timer). Default 64.
    pub fn max_timers(mut self, timers: u32) -> Self {
        self.config.max_timers = timers;
        self
    }

    /// How long bytes that were sent to a peer may stay without the acknowledgement of its kernel
    /// (`TCP_USER_TIMEOUT`, tcp(7)): then the connection has failed, and what the kernel still
    /// holds of one that was closed is freed. Kernels give up after a quarter of an hour by
    /// themselves. Default: the `idle_timeout`; zero leaves it to the kernel.
    pub fn tcp_user_timeout(mut self, timeout: Duration) -> Self {
        self.config.tcp_user_timeout_ms = Some(millis(timeout));
        self
    }

    /// A TCP peer from which nothing came for so long is asked by the kernel whether it is still
    /// there (`SO_KEEPALIVE`, tcp(7)), four times within as long again. Whole seconds. Pings say
    /// more, as they pass proxies and reach the program; this is for servers that send none, and
    /// for connections before their opening handshake. Default zero: off.
    pub fn tcp_keepalive(mut self, time: Duration) -> Self {
        self.config.tcp_keepalive_ms = millis(time);
        self
    }

    /// How long the peer may take to answer our Close. Default 5 s.
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.config.close_timeout_ms = millis(timeout);
        self
    }

    /// A peer that takes none of the bytes queued for it for so long is cut (1006). Default 30 s.
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.config.write_timeout_ms = millis(timeout);
        self
    }

    /// Connections that the kernel completes and keeps until a worker accepts them, per listener
    /// (listen(2); capped by `net.core.somaxconn`). Default 4096.
    pub fn backlog(mut self, connections: u32) -> Self {
        self.config.backlog = connections;
        self
    }

    /// Bytes that one receive may bring, and so the share that one connection may have of a
    /// turn. Each worker has one such buffer with epoll and four with io_uring, resident from the
    /// start. Default 256 KiB, from 4 KiB to 16 MiB.
    pub fn receive_buffer(mut self, bytes: usize) -> Self {
        self.config.receive_buffer = bytes;
        self
    }

    /// How long after something happened a worker looks for what comes next before it sleeps in the
    /// kernel, where it would have to be woken. Whole microseconds, rounded up, at most 1 s.
    /// Default zero: it sleeps at once.
    ///
    /// What it costs: up to a whole core per worker, at 100 %, for as long as this after each event,
    /// and power. With fewer cores than workers and busy clients it slows everything down.
    ///
    /// What it gains: the time that waking a thread takes, for messages that come within this time
    /// after another. Measured with 300 us and a message every 200 us on four connections, over
    /// loopback, with both sides at real-time priority: the median latency was 0.41 of that without
    /// (14 us instead of 35 us), p99 0.44 with epoll and 0.26 with io_uring, and the server's CPU
    /// time 6.6-fold. So it has to be longer than the usual pause between two messages, and gains
    /// nothing where that is long, or under load, where no worker sleeps.
    ///
    /// Timers, commands of other threads and the shutdown are as punctual as without it. What the
    /// kernel itself may poll is left to the machine: set `net.core.busy_poll` and
    /// `net.core.busy_read` (socket(7), `SO_BUSY_POLL`) if the network card supports it; a worker
    /// that polls here drives that, too.
    pub fn busy_poll(mut self, duration: Duration) -> Self {
        self.config.busy_poll_us = micros(duration);
        self
    }

    /// What becomes of messages for subscribers that read more slowly than is published: a policy
    /// for the topic of this name, or for all whose names begin with it if it ends with `*`. The
    /// longest pattern that fits counts, a whole name before any. Default
    /// [`SlowSubscriber::Queue`] for all.
    pub fn topic_policy(mut self, pattern: &str, policy: SlowSubscriber) -> Self {
        self.config.topics.policies.push((pattern.into(), policy));
        self
    }

    /// Topics that one connection may be subscribed to; 0 forbids subscribing. Default 1024.
    pub fn max_subscriptions(mut self, topics: usize) -> Self {
        self.config.topics.max_subscriptions = topics;
        self
    }

    /// Topics that may have subscribers on one worker; each costs about 300 bytes and its name.
    /// Default 250,000.
    pub fn max_topics(mut self, topics: usize) -> Self {
        self.config.topics.max_topics = topics;
        self
    }

    /// Called once, when all workers accept connections, with the addresses as they were bound, on
    /// the thread that called [`Server::run`]. If it panics, the server stops and `run` panics.
    pub fn on_listening(mut self, call: impl FnOnce(&[ListenAddr]) + Send + 'static) -> Self {
        self.on_listening = Some(Box::new(call));
        self
    }

    /// Checks the settings and binds the addresses. Peers can connect from here on; they are
    /// served once [`Server::run`] is called.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] names the setting that is impossible; [`Error::Listen`] the address that
    /// cannot be bound.
    pub fn build(mut self) -> Result<Server, Error> {
        if let Some(mistake) = self.mistake {
            return Err(mistake);
        }
        if self.listeners.is_empty() && !self.client_only && !self.without_listener {
            return Err(Error::config("listen", "no address given; add e.g. \"127.0.0.1:9001\""));
        }
        if self.paths.is_empty() && !self.client_only {
            return Err(Error::config("websocket", "no path is served; add e.g. \"/\""));
        }
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let workers = if self.workers == 0 { cores.min(1024) } else { self.workers };
        self.config.workers = match u16::try_from(workers) {
            Ok(workers) if workers <= 1024 => workers,
            _ => return Err(Error::config("workers", "use 0 (one per core) to 1024")),
        };
        if let Some(cores) = self.cores {
            self.config.cores = choose_cores(cores)?;
        }
        self.config.subprotocols = self.paths.subprotocols().to_vec();
        self.config.check()?;
        let (ping, idle) = (self.config.ping_interval_ms, self.config.idle_timeout_ms);
        if idle > 0 && ping >= idle {
            log::warn!(
                "idle_timeout ({idle} ms) cuts live peers before ping_interval ({ping} ms) asks them: \
                 lower ping_interval, or turn it off with zero"
            );
        }
        self.routes.append(&mut self.clients);
        if self.routes.len() > usize::from(u16::MAX) {
            return Err(Error::config("client", "at most 65,535 handlers are possible"));
        }

        let mut listeners: Vec<Vec<socket2::Socket>> = (0..workers).map(|_| Vec::new()).collect();
        let mut local_addrs = Vec::new();
        let mut unix_paths = Vec::new();
        let alone = workers == 1 || self.config.accept == Accept::Spread;
        let options = ListenOptions {
            backlog: self.config.backlog,
            sharing: if alone { PortSharing::No } else { PortSharing::Opened },
            tcp: self.config.tcp_options(),
        };
        let joined = ListenOptions { sharing: PortSharing::Joined, ..options };
        for wanted in self.listeners {
            let address = wanted.to_string();
            let source = |source| Error::Listen { address: address.clone(), source };
            let is_ours = matches!(wanted, Listener::Address(_));
            let first = match wanted {
                Listener::Address(address) => listener::bind(&address, &options),
                Listener::Bound(listener) => listener.prepare(&options),
            };
            let first = first.map_err(source)?;
            let bound = listener::local_addr(&first).map_err(source)?;
            let unix = bound.unix_path().is_some();
            if is_ours {
                unix_paths.extend(UnixPathGuard::new(&bound).map_err(source)?);
            }
            let listening = if alone { 1 } else { workers };
            for others in listeners.iter_mut().take(listening).skip(1) {
                others.push(if unix || !is_ours {
                    // There is no SO_REUSEPORT: the workers share one queue.
                    first.try_clone().map_err(source)?
                } else {
                    listener::bind(&bound, &joined).map_err(source)?
                });
            }
            listeners[0].push(first);
            local_addrs.push(bound);
        }
        // A TCP peer that has gone has no address either, and must not pass for a local one.
        if local_addrs.iter().any(|address| address.unix_path().is_none()) {
            let trust = &self.config.trust;
            let forwarded = trust.forwarded.as_ref().is_some_and(|(_, peers)| peers.mean_unix());
            for (field, unix) in [
                ("trust_forwarded", forwarded),
                ("proxy_protocol", trust.proxy_protocol.mean_unix()),
            ] {
                if unix {
                    let reason = "\"unix\" needs a server that listens on Unix sockets only";
                    return Err(Error::config(field, reason));
                }
            }
        }
        let paths = Arc::new(self.paths);
        let mut shared = Shared::new(&self.config, Arc::clone(&paths));
        shared.tls = self.tls;
        let shared = Arc::new(shared);
        let _ = self.shared.set(Arc::clone(&shared));
        Ok(Server {
            mailboxes: StopMailboxes { shared: Arc::clone(&shared) },
            shared,
            config: Arc::new(self.config),
            paths,
            routes: Arc::new(self.routes),
            listeners,
            local_addrs,
            on_listening: self.on_listening,
            unix_paths,
        })
    }

    /// [`build`](Self::build), then [`Server::run`].
    ///
    /// # Errors
    ///
    /// Those of both.
    pub fn run(self) -> Result<(), Error> {
        self.build()?.run()
    }

    /// Keeps the first mistake until `build` can report it.
    fn blame(&mut self, mistake: Error) {
        self.mistake.get_or_insert(mistake);
    }
}

/// Where peers come from.
#[derive(Debug)]
enum Listener {
    Address(ListenAddr),
    Bound(BoundListener),
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Bound(_) => f.write_str("a listener that was given"),
        }
    }
}

/// The cores that were asked for, if the process may use them all.
fn choose_cores(wanted: Vec<usize>) -> Result<Vec<usize>, Error> {
    let problem = |reason| Err(Error::config("pin_workers", reason));
    let allowed = match affinity::allowed_cores() {
        Ok(allowed) => allowed,
        Err(error) => return problem(format!("the kernel does not tell the cores: {error}")),
    };
    if let Some(core) = wanted.iter().find(|core| !allowed.contains(core)) {
        return problem(format!(
            "core {core} is not there or not allowed; use some of {allowed:?}"
        ));
    }
    Ok(if wanted.is_empty() { allowed } else { wanted })
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("listeners", &self.listeners)
            .field("config", &self.config)
            .field("paths", &self.paths)
            .finish_non_exhaustive()
    }
}
