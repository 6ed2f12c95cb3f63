//! From an accepted socket to a slot, and from a released slot to the next socket.
//!
//! What comes in: accepted sockets, `Released`, the retry timer. What goes out: connections in the
//! table. At `max_connections` accepting pauses, and peers wait in the kernel's backlog.

use std::sync::atomic::Ordering;

use super::Crank;
use super::core::after;
use crate::connection::{Connection, NEVER, subprotocol};
use crate::driver::{AcceptedSocket, ConnectionId};
use crate::tls::Tls;

/// How long a worker waits before it tries to accept again.
pub(super) const ACCEPT_RETRY_MS: u64 = 100;

impl Crank {
    pub(super) fn accepted(&mut self, socket: AcceptedSocket) {
        if self.stop_deadline_ms.is_none() {
            self.waiting.push_back(socket);
            self.admit();
        } else {
            self.core.stopping.report.refused += 1;
        }
    }

    /// Gives accepted sockets their slots, as long as the server is not full.
    pub(super) fn admit(&mut self) {
        while let Some(socket) = self.waiting.pop_front() {
            let max = self.core.config.max_connections;
            let count = self.core.shared.connections.fetch_update(
                Ordering::AcqRel,
                Ordering::Acquire,
                |count| (count < max).then_some(count + 1),
            );
            match count {
                Ok(count) => {
                    self.start(socket);
                    if count + 1 == max {
                        self.pause_at_limit();
                    }
                }
                Err(_) => {
                    // Another worker was faster, or accepts were already under way.
                    self.waiting.push_front(socket);
                    return self.pause_at_limit();
                }
            }
        }
    }

    /// The first step of a connection that was counted.
    pub(super) fn start(&mut self, socket: AcceptedSocket) {
        let core = &mut self.core;
        core.tally.accepted += 1;
        let deadline_ms = after(core.now_ms, core.config.handshake_timeout_ms);
        let mut connection = Connection::new(core.now_ms, deadline_ms);
        if core.shared.tls.is_some() {
            connection.tls = Some(Tls::expected());
        }
        let id = core.table.insert(connection);
        if let Err(error) = core.driver.adopt(id, socket) {
            log::warn!("a connection could not be adopted: {error}");
            core.table.remove(id);
            core.shared.connections.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        core.arm_timer(id);
    }

    pub(super) fn pause_at_limit(&mut self) {
        self.core.driver.pause_accepting();
        // A connection of another worker may end: look again from time to time.
        self.accept_retry_ms = self.core.now_ms + ACCEPT_RETRY_MS;
    }

    pub(super) fn released(&mut self, id: ConnectionId) {
        let core = &mut self.core;
        let Some(connection) = core.table.remove(id) else {
            debug_assert!(false, "released twice: {id:?}");
            return;
        };
        if connection.subprotocol == subprotocol::CHOSEN {
            core.chosen_subprotocols.remove(&(id.slot() as u32));
        }
        // Whoever sees that it has gone also sees its end counted.
        core.publish_figures();
        core.shared.connections.fetch_sub(1, Ordering::AcqRel);
        if self.accept_retry_ms != NEVER {
            self.resume_accepting();
        }
    }

    pub(super) fn resume_accepting(&mut self) {
        let core = &mut self.core;
        if self.stop_deadline_ms.is_some() {
            self.accept_retry_ms = NEVER;
        } else if core.shared.connections.load(Ordering::Acquire) < core.config.max_connections {
            self.accept_retry_ms = NEVER;
            self.admit();
            if self.accept_retry_ms == NEVER {
                self.core.driver.resume_accepting();
            }
        } else {
            self.accept_retry_ms = core.now_ms + ACCEPT_RETRY_MS;
        }
    }
}
