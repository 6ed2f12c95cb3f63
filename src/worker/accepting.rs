//! From an accepted socket to a slot, and from a released slot to the next socket.
//!
//! What comes in: accepted sockets, those that another worker accepted, `Released`, the retry timer.
//! What goes out: connections in the table, and with [`Accept::Spread`] sockets for other workers.
//! At `max_connections` accepting pauses, and peers wait in the kernel's backlog until any worker
//! gives a place back.

use super::Crank;
use super::core::{Core, after};
use super::mailbox::Command;
use super::places::{NoPlace, Place};
use crate::config::Accept;
use crate::connection::{Connection, NEVER, subprotocol};
use crate::driver::{AcceptedSocket, ConnectionId, Driver};
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

    /// Gives accepted sockets their places, as long as the server is not full.
    pub(super) fn admit(&mut self) {
        while let Some(socket) = self.waiting.pop_front() {
            let core = &mut self.core;
            let worker = match core.config.accept {
                Accept::PerWorker => core.worker,
                Accept::Spread => core.shared.places.fewest(),
            };
            let ip = core.shared.places.asks_for_address().then(|| socket.peer_ip()).flatten();
            // Behind a proxy there are many clients.
            let ip = ip.filter(|&ip| !core.config.trust.is_proxy(ip));
            match core.shared.places.take(worker, ip) {
                Ok(place) => {
                    self.settle(socket, place);
                    if self.core.shared.places.is_full() {
                        self.pause_at_limit();
                    }
                }
                Err(NoPlace::AddressFull) => core.tally.refused_per_ip += 1,
                Err(NoPlace::Full) => {
                    // Another worker was faster, or accepts were already under way.
                    self.waiting.push_front(socket);
                    return self.pause_at_limit();
                }
            }
        }
    }

    /// Brings a socket to the worker that its place is at. No command is lost in a full mailbox:
    /// there are never more of these than places.
    fn settle(&mut self, socket: AcceptedSocket, place: Place) {
        let worker = place.worker();
        if worker == self.core.worker {
            return self.start(socket, place);
        }
        let mailbox = &self.core.shared.mailboxes[usize::from(worker)];
        if mailbox.post_always(Command::Settle { socket, place }).is_err() {
            // That worker has ended, so the server will.
            self.core.stopping.report.refused += 1;
        }
    }

    /// Another worker has accepted a socket for this one.
    pub(super) fn settled(&mut self, socket: AcceptedSocket, place: Place) {
        if self.stop_deadline_ms.is_none() {
            self.start(socket, place);
        } else {
            self.core.stopping.report.refused += 1;
        }
    }

    /// The first step of a connection.
    fn start(&mut self, socket: AcceptedSocket, place: Place) {
        let core = &mut self.core;
        core.tally.accepted += 1;
        let deadline_ms = after(core.soon_ms, core.config.handshake_timeout_ms);
        if let Some(id) = core.seat(socket, place, deadline_ms) {
            if core.shared.tls.is_some()
                && let Some(connection) = core.table.get_mut(id)
            {
                connection.tls = Some(Tls::expected());
            }
            core.arm_timer(id);
        }
    }

    pub(super) fn pause_at_limit(&mut self) {
        self.core.driver.pause_accepting();
        self.wait_for_place();
    }

    /// Whoever gives a place back, on any worker, has this one look again.
    fn wait_for_place(&mut self) {
        let core = &self.core;
        let full = core.shared.places.wait(core.worker);
        self.accept_retry_ms = core.now_ms + if full { ACCEPT_RETRY_MS } else { 0 };
    }

    /// Looks whether the wake-up meant that a place came free.
    pub(super) fn heed_free_place(&mut self) {
        if self.core.shared.places.was_called(self.core.worker) && self.accept_retry_ms != NEVER {
            self.resume_accepting();
        }
    }

    pub(super) fn released(&mut self, id: ConnectionId) {
        let core = &mut self.core;
        let Some(connection) = core.table.remove(id) else {
            debug_assert!(false, "released twice: {id:?}");
            return;
        };
        let slot = id.slot() as u32;
        if connection.subprotocol == subprotocol::CHOSEN {
            core.chosen_subprotocols.remove(&slot);
        }
        // Whoever sees that it has gone also sees its end counted.
        core.publish_figures();
        let network = core.networks.remove(&slot);
        core.shared.places.stop_waiting(core.worker);
        core.shared.places.leave(core.worker, network);
        if self.accept_retry_ms != NEVER {
            self.resume_accepting();
        }
    }

    pub(super) fn resume_accepting(&mut self) {
        let core = &mut self.core;
        core.shared.places.stop_waiting(core.worker);
        if self.stop_deadline_ms.is_some() {
            self.accept_retry_ms = NEVER;
        } else if !core.shared.places.is_full() {
            self.accept_retry_ms = NEVER;
            self.admit();
            if self.accept_retry_ms == NEVER {
                self.core.driver.resume_accepting();
            }
        } else {
            self.wait_for_place();
        }
    }
}

impl Core {
    /// Gives a socket a slot and its place to it; `None`, and the socket closed, if the driver
    /// cannot have it.
    pub(super) fn seat(
        &mut self,
        socket: AcceptedSocket,
        place: Place,
        deadline_ms: u64,
    ) -> Option<ConnectionId> {
        let id = self.table.insert(Connection::new(self.soon_ms, deadline_ms));
        if let Err(error) = self.driver.adopt(id, socket) {
            log::warn!("a connection could not be adopted: {error}");
            self.table.remove(id);
            return None;
        }
        if let Some(network) = place.keep() {
            self.networks.insert(id.slot() as u32, network);
        }
        Some(id)
    }
}
