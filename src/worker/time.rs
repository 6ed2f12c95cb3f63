//! Moments that are due: timers of the application and the ends of long lives.
//!
//! What comes in: the time of the turn. What goes out: calls of the handlers, and Closes. The
//! timeouts of a connection are not here: they need its phase, see `Core::next_deadline`.

use super::Crank;
use super::core::Core;
use super::route::{Call, Outcome};
use super::schedule::Owner;
use super::shutdown::REASON;
use crate::connection::Phase;
use crate::context::{TimerError, TimerId};
use crate::driver::{ConnectionId, Driver};
use crate::error::CloseCause;
use crate::protocol::CloseCode;

/// A part of `span_ms` that is the connection's own and costs no memory: what is due for many
/// connections at once is spread over the span, evenly.
pub(crate) fn jitter(id: ConnectionId, span_ms: u64) -> u64 {
    // The finalizer of splitmix64 (Steele et al. 2014): neighbours end up far from each other.
    let mut bits = (id.slot() as u64) << 32 | u64::from(id.generation());
    bits = bits.wrapping_add(u64::from(id.worker()) << 16).wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^= bits >> 31;
    ((u128::from(bits) * u128::from(span_ms)) >> 64) as u64
}

impl Core {
    /// Sets a timer that fires no earlier than after `delay_ms`.
    pub(crate) fn set_timer(
        &mut self,
        owner: Owner,
        delay_ms: u64,
        key: u64,
    ) -> Result<TimerId, TimerError> {
        if let Owner::Connection(id) = owner
            && !self.is_live(id)
        {
            return Err(TimerError::Gone);
        }
        // The turn may have begun long ago, and the present millisecond may be over at once.
        let deadline_ms = match delay_ms {
            0 => self.now_ms,
            _ => self.driver.now_ms().saturating_add(delay_ms).saturating_add(1),
        };
        self.alarm_ms = self.alarm_ms.min(deadline_ms);
        self.schedule.set(owner, deadline_ms, key)
    }

    /// Has the connection closed at the end of `max_lifetime`, or up to an eighth of it before.
    pub(crate) fn limit_lifetime(&mut self, id: ConnectionId) {
        let lifetime_ms = self.config.max_lifetime_ms;
        if lifetime_ms != 0 {
            let early_ms = jitter(id, lifetime_ms / 8);
            self.lifetimes
                .set(id.slot() as u32, self.soon_ms.saturating_add(lifetime_ms - early_ms));
            self.alarm_ms = self.alarm_ms.min(self.lifetimes.next_deadline_ms());
        }
    }
}

impl Crank {
    /// Calls the handlers for every timer of theirs that is due.
    pub(super) fn fire_timers(&mut self) {
        let now_ms = self.core.now_ms;
        let latest = self.core.schedule.latest();
        while let Some((owner, key)) = self.core.schedule.expired(now_ms, latest) {
            match owner {
                Owner::Connection(id) => {
                    let core = &mut self.core;
                    let Some(connection) = core.table.get(id) else { continue };
                    let Phase::Live(live) = &connection.phase else { continue };
                    let (route, session) = (usize::from(live.route), live.session);
                    let outcome = self.routes[route].call(core, id, session, Call::Timer(key));
                    if outcome == Outcome::Panicked {
                        self.end(id, CloseCause::HandlerPanicked);
                    }
                }
                Owner::Handler(route) => {
                    let outcome = self.routes[usize::from(route)].timer(&mut self.core, route, key);
                    if outcome == Outcome::Panicked {
                        self.core.tally.handler_panics += 1;
                    }
                }
            }
            self.bury();
        }
    }

    /// Closes the connections that have lived long enough.
    pub(super) fn end_lives(&mut self) {
        while let Some(slot) = self.core.lifetimes.expired(self.core.now_ms) {
            if let Some(id) = self.core.table.id_of(slot) {
                let stops = self.core.stopping.began;
                let reason = if stops { REASON } else { "time for a new connection" };
                self.core.close(id, CloseCode::GOING_AWAY, reason);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_fixed_and_spreads_evenly() {
        const SPAN_MS: u64 = 7500;
        let mut busy = [0_u32; 75];
        for slot in 0..10_000 {
            let id = ConnectionId::new(0, slot, 1);
            let part = jitter(id, SPAN_MS);
            assert!(part < SPAN_MS);
            assert_eq!(part, jitter(id, SPAN_MS));
            busy[(part / 100) as usize] += 1;
        }
        // 133 on average in each tenth of a second.
        assert!(busy.iter().all(|&count| (80..200).contains(&count)), "{busy:?}");
        assert_eq!(jitter(ConnectionId::new(0, 1, 1), 0), 0);
        let next_tenant = jitter(ConnectionId::new(0, 1, 2), u64::MAX);
        assert_ne!(jitter(ConnectionId::new(0, 1, 1), u64::MAX), next_tenant);
    }
}
