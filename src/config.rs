//! Every limit, timeout and size of a server, in one place, checked once.
//!
//! What comes in: values from the builder. What goes out: a [`Config`] in which every value is
//! possible, shared read-only by all workers. This file never touches a socket.

use std::time::Duration;

use crate::driver::DriverChoice;
use crate::driver::listener::TcpOptions;
use crate::error::Error;
use crate::origins::Origins;
use crate::protocol::{Deflate, Limits};
use crate::trust::Trust;
use crate::worker::topics::TopicConfig;

/// Who accepts connections, and so which worker serves them for all their life.
///
/// | | how even | what it costs |
/// | --- | --- | --- |
/// | `PerWorker` | by chance: the kernel hashes addresses and ports | nothing |
/// | `Spread` | as even as can be, Unix sockets too | one wake-up of the other worker |
///
/// `PerWorker` is for very many connections, which chance spreads well enough, and for many new
/// ones a second. `Spread` is for a few busy ones, where chance may put half of them on one of
/// four workers, and for Unix sockets and inherited listeners, whose workers would otherwise race
/// for one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Accept {
    /// Every worker accepts from a listener of its own (`SO_REUSEPORT`). The workers of a Unix
    /// socket share one. The default.
    #[default]
    PerWorker,
    /// Worker 0 accepts for all, and gives each connection to the worker that has the fewest at
    /// that moment; among equals they take turns. While a handler keeps worker 0 busy, nobody is
    /// accepted.
    Spread,
}

/// Settings shared by all workers. Durations are kept in milliseconds; zero means off.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) driver: DriverChoice,
    /// Worker threads; 0 was already replaced by the number of cores.
    pub(crate) workers: u16,
    pub(crate) limits: Limits,
    /// Bytes of a message that is delivered in parts.
    pub(crate) max_streamed_message: u64,
    /// Bytes that may wait for one connection's socket.
    pub(crate) max_backpressure: usize,
    /// Bytes that may wait for all sockets of one worker; 0 is no limit.
    pub(crate) max_worker_backpressure: usize,
    /// Connections of the whole server.
    pub(crate) max_connections: usize,
    /// Connections of one address; 0 is no limit.
    pub(crate) max_connections_per_ip: u32,
    pub(crate) accept: Accept,
    /// Cores of the workers, in turn; empty is wherever the kernel puts them.
    pub(crate) cores: Vec<usize>,
    pub(crate) handshake_timeout_ms: u64,
    pub(crate) upgrade_timeout_ms: u64,
    /// From one request to the next.
    pub(crate) keep_alive_timeout_ms: u64,
    /// For each `PROGRESS` bytes of a body.
    pub(crate) body_timeout_ms: u64,
    /// For answers that were put off.
    pub(crate) response_timeout_ms: u64,
    /// Bytes of a body that is put together.
    pub(crate) max_body: usize,
    pub(crate) idle_timeout_ms: u64,
    pub(crate) ping_interval_ms: u64,
    pub(crate) pong_timeout_ms: u64,
    pub(crate) max_lifetime_ms: u64,
    /// `None`: as `idle_timeout_ms`; 0: as the kernel has it.
    pub(crate) tcp_user_timeout_ms: Option<u64>,
    /// 0 is off.
    pub(crate) tcp_keepalive_ms: u64,
    pub(crate) close_timeout_ms: u64,
    pub(crate) write_timeout_ms: u64,
    /// Timers that one connection may have.
    pub(crate) max_timers: u32,
    /// Pending connections that the kernel keeps per listener.
    pub(crate) backlog: u32,
    /// Bytes one receive may bring.
    pub(crate) receive_buffer: usize,
    /// Microseconds after an event for which a worker does not sleep; 0 is off.
    pub(crate) busy_poll_us: u64,
    pub(crate) topics: TopicConfig,
    /// Which sites' pages may open connections, on routes that do not say otherwise.
    pub(crate) origins: Origins,
    /// Proxies to believe, names to answer to.
    pub(crate) trust: Trust,
    /// The subprotocols of all routes.
    pub(crate) subprotocols: Vec<String>,
    /// Compression on routes that do not say otherwise.
    pub(crate) deflate: Deflate,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            driver: DriverChoice::Auto,
            workers: 1,
            limits: Limits::new(),
            max_streamed_message: u64::MAX,
            max_backpressure: 1024 * 1024,
            max_worker_backpressure: 1024 * 1024 * 1024,
            max_connections: 100_000,
            max_connections_per_ip: 0,
            accept: Accept::PerWorker,
            cores: Vec::new(),
            handshake_timeout_ms: 10_000,
            upgrade_timeout_ms: 10_000,
            keep_alive_timeout_ms: 60_000,
            body_timeout_ms: 30_000,
            response_timeout_ms: 60_000,
            max_body: 1024 * 1024,
            idle_timeout_ms: 120_000,
            ping_interval_ms: 30_000,
            pong_timeout_ms: 0,
            max_lifetime_ms: 0,
            tcp_user_timeout_ms: None,
            tcp_keepalive_ms: 0,
            close_timeout_ms: 5_000,
            write_timeout_ms: 30_000,
            max_timers: 64,
            backlog: 4096,
            receive_buffer: 256 * 1024,
            busy_poll_us: 0,
            topics: TopicConfig::default(),
            origins: Origins::same_host(),
            trust: Trust::default(),
            subprotocols: Vec::new(),
            deflate: Deflate::off(),
        }
    }
}

impl Config {
    /// Unsent bytes from which on a connection is no longer read, so that what its peer makes us
    /// send cannot reach `max_backpressure` by itself.
    pub(crate) fn high_water(&self) -> usize {
        self.max_backpressure / 2
    }

    /// Slots for which each worker takes address space at the start. A table that had to grow
    /// would be copied while connections wait, and its old memory would stay resident.
    pub(crate) fn reserved_slots(&self) -> usize {
        self.max_connections.min(128 * 1024)
    }

    /// What the kernel is told about TCP connections.
    pub(crate) fn tcp_options(&self) -> TcpOptions {
        let set = |ms: u64| {
            // tcp(7): the kernel keeps milliseconds in an int, and seconds up to 32767.
            (ms != 0).then(|| Duration::from_millis(ms.min(32_767_000)))
        };
        TcpOptions {
            user_timeout: set(self.tcp_user_timeout_ms.unwrap_or(self.idle_timeout_ms)),
            keepalive: set(self.tcp_keepalive_ms),
        }
    }

    /// Says what is impossible, naming the builder method.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if let Err(field) = self.limits.check() {
            return Err(Error::config("limits", format!("`{field}` must not be 0")));
        }
        if self.max_backpressure < 1024 {
            let reason = format!("{} bytes is too little; use 1024 or more", self.max_backpressure);
            return Err(Error::config("max_backpressure", reason));
        }
        if self.max_connections == 0 {
            return Err(Error::config(
                "max_connections",
                "0 would refuse everybody; use 1 or more",
            ));
        }
        if self.pong_timeout_ms != 0 && self.ping_interval_ms == 0 {
            let reason = "no ping is sent without `ping_interval`; set both, or neither";
            return Err(Error::config("pong_timeout", reason));
        }
        if self.backlog == 0 || self.backlog > i32::MAX as u32 {
            return Err(Error::config("backlog", "use a value from 1 to 2147483647"));
        }
        if !(4096..=16 * 1024 * 1024).contains(&self.receive_buffer) {
            return Err(Error::config("receive_buffer", "use 4096 to 16777216 bytes"));
        }
        if self.busy_poll_us > MAX_BUSY_POLL_US {
            let reason = format!(
                "{} us would keep cores busy for more than 1 s; use at most 1000000 us, or zero \
                 for off",
                self.busy_poll_us
            );
            return Err(Error::config("busy_poll", reason));
        }
        if let Some(problem) = self.origins.problem() {
            return Err(Error::config("origins", problem));
        }
        if let Some(problem) = self.trust.problem_of_hosts() {
            return Err(Error::config("hosts", problem));
        }
        if let Err(problem) = self.deflate.check() {
            return Err(Error::config("deflate", problem));
        }
        self.topics.check()
    }
}

/// The longest `busy_poll`. Whoever waits for longer does not miss a few microseconds.
const MAX_BUSY_POLL_US: u64 = 1_000_000;

/// Whole microseconds, rounded up in the same way as [`millis`].
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// Whole milliseconds, rounded up so that a short timeout does not become "off".
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(config: &Config) -> &'static str {
        match config.check() {
            Err(Error::Config { field, .. }) => field,
            other => panic!("expected a configuration error, got {other:?}"),
        }
    }

    #[test]
    fn the_defaults_are_possible() {
        assert!(Config::default().check().is_ok());
    }

    #[test]
    fn impossible_settings_are_named() {
        let base = Config::default;
        assert_eq!(field(&Config { max_backpressure: 10, ..base() }), "max_backpressure");
        assert_eq!(field(&Config { max_connections: 0, ..base() }), "max_connections");
        let pong_timeout = Config { pong_timeout_ms: 1, ping_interval_ms: 0, ..base() };
        assert_eq!(field(&pong_timeout), "pong_timeout");
        assert_eq!(field(&Config { backlog: 0, ..base() }), "backlog");
        assert_eq!(field(&Config { receive_buffer: 1, ..base() }), "receive_buffer");
        assert_eq!(field(&Config { busy_poll_us: 1_000_001, ..base() }), "busy_poll");
        assert_eq!(field(&Config { origins: Origins::list(["*"]), ..base() }), "origins");
        let deflate = Deflate::off().level(0);
        assert_eq!(field(&Config { deflate, ..base() }), "deflate");
        assert_eq!(field(&Config { limits: Limits::new().max_message(0), ..base() }), "limits");
    }

    #[test]
    fn a_short_duration_is_not_off() {
        assert_eq!(millis(Duration::ZERO), 0);
        assert_eq!(millis(Duration::from_nanos(1)), 1);
        assert_eq!(millis(Duration::from_millis(7)), 7);
        assert!(millis(Duration::MAX) > 1 << 60);
        assert_eq!(micros(Duration::from_nanos(1)), 1);
        assert_eq!(micros(Duration::MAX), u64::MAX);
    }
}
