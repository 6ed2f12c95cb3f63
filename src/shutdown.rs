//! How a server is asked to stop, and what it says about it afterwards.

use std::fmt;
use std::time::Duration;

use crate::config::millis;

/// How to stop; see [`Handle::shutdown`](crate::Handle::shutdown). A plain [`Duration`] is a grace
/// period without the rest.
///
/// ```
/// use std::time::Duration;
/// use wirelane::ShutdownOptions;
///
/// // The load balancer gets 5 s to look elsewhere, then the clients come back spread over 20 s
/// // instead of all at once, and after 30 s nobody is left.
/// let options = ShutdownOptions::new(Duration::from_secs(30))
///     .announce(Duration::from_secs(5))
///     .spread(Duration::from_secs(20));
/// # let _ = options;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownOptions {
    pub(crate) grace_ms: u64,
    pub(crate) spread_ms: u64,
    pub(crate) announce_ms: u64,
}

impl ShutdownOptions {
    /// Whoever is left after `grace` is cut. Zero: at once, though everybody is sent the Close.
    pub fn new(grace: Duration) -> Self {
        Self { grace_ms: millis(grace), spread_ms: 0, announce_ms: 0 }
    }

    /// The Closes go out over this time, each connection at its own moment, so that its clients do
    /// not all reconnect elsewhere together. No longer than the grace. Default zero: at once.
    #[must_use]
    pub fn spread(mut self, window: Duration) -> Self {
        self.spread_ms = millis(window);
        self
    }

    /// For this time before everything else the server only says that it will stop
    /// ([`ServerBuilder::readiness`](crate::ServerBuilder::readiness),
    /// [`Handle::is_stopping`](crate::Handle::is_stopping)) and serves as before, newcomers
    /// included. Default zero.
    #[must_use]
    pub fn announce(mut self, time: Duration) -> Self {
        self.announce_ms = millis(time);
        self
    }
}

impl From<Duration> for ShutdownOptions {
    fn from(grace: Duration) -> Self {
        Self::new(grace)
    }
}

/// What became of everybody who was there when the server stopped; see
/// [`Server::run_and_report`](crate::Server::run_and_report).
///
/// WebSocket connections are in exactly one of the first three figures. Displayed in one line, for a
/// log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Connections that ended with a complete close handshake.
    pub closed_cleanly: u64,
    /// Connections that were cut: at the deadline, or by a timeout before it.
    pub forced: u64,
    /// Connections that their peers ended without a close handshake: a FIN, a reset, a violation.
    pub lost: u64,
    /// Requests that were answered with 503, and connections that were accepted but not served.
    pub refused: u64,
    /// Bytes that were queued and will not be sent, because their connection was cut or lost.
    pub unsent_bytes: u64,
    /// From the first [`Handle::shutdown`](crate::Handle::shutdown) to the end of the last worker;
    /// zero if nobody asked for it.
    pub duration: Duration,
}

impl ShutdownReport {
    /// Adds what another worker counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.closed_cleanly += other.closed_cleanly;
        self.forced += other.forced;
        self.lost += other.lost;
        self.refused += other.refused;
        self.unsent_bytes += other.unsent_bytes;
    }
}

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { closed_cleanly, forced, lost, refused, unsent_bytes, duration } = self;
        write!(
            f,
            "stopped in {duration:.1?}: {closed_cleanly} connections closed cleanly, {forced} cut, \
             {lost} lost; {refused} requests refused, {unsent_bytes} bytes not sent"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_fits_a_line_of_a_log() {
        let report = ShutdownReport {
            closed_cleanly: 12,
            forced: 1,
            unsent_bytes: 70_000,
            duration: Duration::from_millis(5012),
            ..ShutdownReport::default()
        };
        assert_eq!(
            report.to_string(),
            "stopped in 5.0s: 12 connections closed cleanly, 1 cut, 0 lost; 0 requests refused, \
             70000 bytes not sent"
        );
    }
}
