//! The end of a worker: from the first word about it to the last connection.
//!
//! ```text
//!  asked --announce--> stop: no newcomers, 503 to requests, Close 1001 (at once or spread)
//!                       |
//!                       +-- handshakes, unsent data ... --grace--> whoever is left is cut
//! ```

use std::sync::atomic::Ordering;

use super::Crank;
use super::core::{Core, LINGER_MS, after};
use super::mailbox::{NOT_STOPPING, Shared};
use super::time::jitter;
use crate::connection::{NEVER, Phase};
use crate::driver::{ConnectionId, Driver};
use crate::error::CloseCause;
use crate::protocol::CloseCode;
use crate::protocol::upgrade::Refusal;
use crate::shutdown::ShutdownReport;

/// The reason that comes with 1001.
pub(super) const REASON: &str = "server shutting down";

/// What a worker knows about its end.
#[derive(Debug, Default)]
pub(crate) struct Stopping {
    /// Sessions still end, but none begins.
    pub(crate) began: bool,
    pub(crate) report: ShutdownReport,
    /// Time over which Closes are spread; shorter if somebody asks again.
    spread_ms: u64,
    /// Requests answered with 503 before.
    refused_before: u64,
}

impl Stopping {
    /// A session ended.
    pub(super) fn note_end(&mut self, cause: CloseCause) {
        if !self.began {
            return;
        }
        let figure = match cause {
            CloseCause::Peer | CloseCause::Local => &mut self.report.closed_cleanly,
            CloseCause::Ended
            | CloseCause::Io(_)
            | CloseCause::Tls
            | CloseCause::Protocol(_)
            | CloseCause::HandlerPanicked => &mut self.report.lost,
            CloseCause::IdleTimeout
            | CloseCause::PongTimeout
            | CloseCause::WriteTimeout
            | CloseCause::CloseTimeout
            | CloseCause::Terminated
            | CloseCause::Shutdown => &mut self.report.forced,
        };
        *figure += 1;
    }
}

impl Core {
    /// When time alone would end a connection that is closing, though its peer reads: a slow one
    /// has until the end of the grace. Tells whether the deadline was put off.
    pub(super) fn waits_for_reader(&mut self, id: ConnectionId) -> bool {
        let (now_ms, timeout_ms) = (self.now_ms, self.config.close_timeout_ms.max(LINGER_MS));
        let Some(connection) = self.table.get_mut(id) else { return false };
        if !self.stopping.began || !connection.blocked || connection.pinged {
            return false;
        }
        let Some(outgoing) = &connection.outgoing else { return false };
        let deadline_ms = after(outgoing.progress_ms, timeout_ms);
        if connection.deadline_ms > now_ms || deadline_ms <= now_ms {
            return false;
        }
        connection.deadline_ms = deadline_ms;
        true
    }

    /// The socket was full and has taken bytes. If those were the last, up to our Close, the time
    /// for the answer counts from now.
    pub(super) fn note_goodbye_left(&mut self, id: ConnectionId) {
        let deadline_ms = after(self.soon_ms, self.config.close_timeout_ms);
        let Some(connection) = self.table.get_mut(id) else { return };
        if self.stopping.began
            && !connection.blocked
            && matches!(&connection.phase, Phase::Live(live) if !live.endpoint.is_open())
        {
            connection.deadline_ms = connection.deadline_ms.max(deadline_ms);
        }
    }
}

impl Crank {
    /// Somebody may have asked for the end.
    pub(super) fn heed_shutdown(&mut self, shared: &Shared) {
        let grace_ms = shared.shutdown_grace_ms.load(Ordering::Acquire);
        if grace_ms == NOT_STOPPING {
            return;
        }
        if self.stop_deadline_ms.is_none() {
            let announce_ms = shared.shutdown_announce_ms.load(Ordering::Acquire);
            let until_ms = self.core.moment_in(announce_ms);
            self.announced_until_ms = self.announced_until_ms.min(until_ms);
            if self.announced_until_ms > self.core.now_ms {
                return;
            }
        }
        let spread_ms = shared.shutdown_spread_ms.load(Ordering::Acquire);
        self.stop(grace_ms, spread_ms.min(grace_ms));
    }

    /// No new connections from here on, Close 1001 to everyone. May be called again; what is
    /// shorter counts.
    fn stop(&mut self, grace_ms: u64, spread_ms: u64) {
        let deadline_ms = self.core.moment_in(grace_ms);
        match &mut self.stop_deadline_ms {
            Some(earlier) => *earlier = (*earlier).min(deadline_ms),
            None => {
                self.stop_deadline_ms = Some(deadline_ms);
                self.announced_until_ms = NEVER;
                self.accept_retry_ms = NEVER;
                let core = &mut self.core;
                core.stopping.began = true;
                core.stopping.spread_ms = u64::MAX;
                core.stopping.refused_before = core.tables().refused(Refusal::Busy);
                core.stopping.report.refused = self.waiting.len() as u64;
                self.waiting.clear();
                core.driver.stop_listening();
                self.refuse_requests(grace_ms);
                self.give_up_dials();
            }
        }
        if spread_ms < self.core.stopping.spread_ms {
            self.core.stopping.spread_ms = spread_ms;
            self.say_goodbye(spread_ms);
        }
    }

    /// 503 to requests that have not arrived whole; those that have are answered within the grace.
    /// Whoever has only connected so far, or waits between two requests, may have sent one that was
    /// not read yet: it gets its 503, too.
    fn refuse_requests(&mut self, grace_ms: u64) {
        let deadline_ms = self.core.moment_in(grace_ms.min(LINGER_MS));
        for id in self.core.table.ids() {
            self.http_stop(id, deadline_ms);
        }
    }

    /// Close 1001 to everyone, each at its moment of the next `spread_ms`.
    fn say_goodbye(&mut self, spread_ms: u64) {
        for id in self.core.table.ids() {
            if !self.core.is_live(id) {
                continue;
            }
            let slot = id.slot() as u32;
            let moment_ms = self.core.now_ms.saturating_add(jitter(id, spread_ms));
            if spread_ms == 0 {
                self.core.lifetimes.clear(slot);
                self.core.close(id, CloseCode::GOING_AWAY, REASON);
            } else if self.core.lifetimes.deadline(slot).is_none_or(|other| moment_ms < other) {
                self.core.lifetimes.set(slot, moment_ms);
            }
        }
    }

    /// What this worker has to say about its end.
    pub(super) fn report(&self) -> ShutdownReport {
        let core = &self.core;
        let mut report = core.stopping.report;
        if core.stopping.began {
            let refused = core.tables().refused(Refusal::Busy) - core.stopping.refused_before;
            report.refused += refused;
        }
        report
    }
}
