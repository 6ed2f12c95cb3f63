//! How a worker waits: asleep in the kernel, or, with `busy_poll`, looking again and again for a
//! while before it sleeps.
//!
//! What comes in: until when the turn may wait. What goes out: every event to the stage that it is
//! for. A sleeping thread has to be woken, which costs the message that wakes it some microseconds;
//! one that looks finds it at once, and keeps its core busy meanwhile.

use std::io;

use super::Worker;
use crate::driver::Driver;

/// What busy polling knows; see `ServerBuilder::busy_poll`.
#[derive(Debug, Default)]
pub(super) struct BusyPoll {
    /// How long after something happened the worker looks without sleeping; 0 is not at all.
    window_ns: u64,
    until_ns: u64,
}

impl BusyPoll {
    pub(super) fn new(window_us: u64) -> Self {
        Self { window_ns: window_us * 1000, until_ns: 0 }
    }
}

impl Worker {
    /// Waits, then handles what happened; false if that was nothing.
    #[inline(always)]
    pub(super) fn receive(&mut self, timeout_ms: Option<u64>) -> io::Result<bool> {
        if self.busy_poll.window_ns != 0 {
            return self.receive_apart(timeout_ms);
        }
        self.look(timeout_ms)
    }

    /// The same, not inlined.
    #[inline(never)]
    pub(super) fn receive_apart(&mut self, timeout_ms: Option<u64>) -> io::Result<bool> {
        if self.busy_poll.window_ns != 0 && timeout_ms != Some(0) {
            return self.poll_busily(timeout_ms);
        }
        self.look(timeout_ms)
    }

    #[inline(always)]
    fn look(&mut self, timeout_ms: Option<u64>) -> io::Result<bool> {
        let crank = &mut self.crank;
        crank.core.driver.wait(timeout_ms)?;
        let now_ns = crank.core.driver.now_ns();
        crank.core.note_time(now_ns);
        let (mut something, mut plain) = (false, true);
        loop {
            let (id, bytes) = match crank.core.driver.next_received(&mut self.memory) {
                Some(received) => received,
                None if crank.core.driver.is_done() => break,
                None => {
                    plain = false;
                    let Some(event) = crank.core.driver.next_event(&mut self.memory) else { break };
                    something = true;
                    match crank.handle(event) {
                        Some(received) => received,
                        None => continue,
                    }
                }
            };
            something = true;
            crank.received(id, bytes);
            crank.bury();
        }
        if !plain {
            crank.core.note_driver_stats();
        }
        Ok(something)
    }

    /// Looks until something happened, a deadline came, or nothing happened for so long that the
    /// next turn may as well sleep.
    #[inline(never)]
    fn poll_busily(&mut self, timeout_ms: Option<u64>) -> io::Result<bool> {
        let due_ms = timeout_ms.map_or(u64::MAX, |ms| self.crank.core.now_ms.saturating_add(ms));
        let sleeps = self.crank.core.turn_start_ns >= self.busy_poll.until_ns;
        loop {
            let something = self.look(if sleeps { timeout_ms } else { Some(0) })?;
            let core = &self.crank.core;
            let mailbox = &core.shared.mailboxes[usize::from(core.worker)];
            // Whoever posts a command says so here before he wakes us.
            self.crank.woken |= mailbox.has_news();
            if something || self.crank.woken {
                self.busy_poll.until_ns = core.turn_start_ns + self.busy_poll.window_ns;
                return Ok(something);
            }
            let over = core.turn_start_ns >= self.busy_poll.until_ns;
            if sleeps || over || core.now_ms >= due_ms {
                return Ok(false);
            }
            std::hint::spin_loop();
        }
    }
}
