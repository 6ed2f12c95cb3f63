//! From a host to a socket that has arrived: look the name up, try its addresses.
//!
//! Addresses are tried in turn, the next one when one has failed or has not answered for a while;
//! those under way go on meanwhile, and the first that arrives wins (RFC 8305, in its essentials).

use std::io;
use std::net::ToSocketAddrs;
use std::sync::Arc;

use super::super::core::after;
use super::{Attempts, Crank, Resolved, State};
use crate::client::resolver::interleave;
use crate::client::{DialError, Place};
use crate::connection::{Connection, NEVER, Phase, Stage};
use crate::driver::{ConnectionId, Driver, Remote};
use crate::worker::mailbox::Command;

/// How long an address has to itself (RFC 8305 5).
const STAGGER_MS: u64 = 250;

/// A Unix socket whose listener's backlog is full is tried again after this time.
const BACKLOG_RETRY_MS: u64 = 20;

impl Crank {
    /// The first step of an attempt.
    pub(super) fn begin_attempt(&mut self, serial: u64) {
        let core = &mut self.core;
        let Some(record) = core.dials.records.get_mut(&serial) else { return };
        if core.stopping.began {
            return self.attempt_failed(serial, DialError::Stopped);
        }
        core.tally.dialled += 1;
        record.deadline_ms = after(core.soon_ms, record.plan.connect_timeout_ms);
        let plan = Arc::clone(&record.plan);
        match &plan.place {
            Place::Unix(path) => self.try_addresses(serial, vec![Remote::Unix(path.clone())]),
            Place::Addresses(addresses) => {
                self.try_addresses(serial, addresses.iter().copied().map(Remote::Ip).collect());
            }
            Place::Name { host, port } => {
                record.state = State::Resolving;
                record.lookups = record.lookups.wrapping_add(1);
                let (lookup, worker) = (record.lookups, usize::from(core.worker));
                let (resolve, shared) = (plan.resolve.clone(), Arc::clone(&core.shared));
                let (host, port) = (host.clone(), *port);
                core.arm_dial(serial);
                let submitted = core.shared.resolver.submit(move || {
                    let addresses = match resolve {
                        Some(resolve) => resolve(&host, port),
                        None => (&*host, port).to_socket_addrs().map(Iterator::collect),
                    };
                    let resolved = Resolved { dial: serial, lookup, addresses };
                    // A worker that has stopped does not want to know.
                    let _ = shared.mailboxes[worker].post_always(Command::Resolved(resolved));
                });
                if let Err(error) = submitted {
                    self.attempt_failed(serial, DialError::Resolve(error));
                }
            }
        }
    }

    /// A host was looked up.
    pub(in super::super) fn resolved(&mut self, resolved: Resolved) {
        let Resolved { dial: serial, lookup, addresses } = resolved;
        let Some(record) = self.core.dials.records.get(&serial) else { return };
        if !matches!(record.state, State::Resolving) || record.lookups != lookup {
            return;
        }
        match addresses {
            Ok(addresses) if addresses.is_empty() => {
                let error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                self.attempt_failed(serial, DialError::Resolve(error));
            }
            Ok(addresses) => {
                let remotes = interleave(addresses).into_iter().map(Remote::Ip);
                self.try_addresses(serial, remotes.collect());
            }
            Err(error) => self.attempt_failed(serial, DialError::Resolve(error)),
        }
    }

    fn try_addresses(&mut self, serial: u64, remotes: Vec<Remote>) {
        let Some(record) = self.core.dials.records.get_mut(&serial) else { return };
        record.state = State::Connecting(Attempts {
            waiting: remotes.into(),
            under_way: Vec::new(),
            next_ms: NEVER,
            last_error: None,
        });
        self.try_next_address(serial);
    }

    /// Begins with the next address that can be begun with.
    pub(super) fn try_next_address(&mut self, serial: u64) {
        let now_ms = self.core.now_ms;
        loop {
            let Some(attempts) = self.attempts_of(serial) else { return };
            attempts.next_ms = NEVER;
            let Some(remote) = attempts.waiting.pop_front() else {
                if !attempts.under_way.is_empty() {
                    break;
                }
                let nothing = || io::Error::new(io::ErrorKind::NotFound, "there is no address");
                let error = attempts.last_error.take().unwrap_or_else(nothing);
                return self.attempt_failed(serial, DialError::Connect(error));
            };
            let begun = match self.begin_connection(serial, &remote) {
                Some(begun) => begun,
                None => return self.attempt_failed(serial, DialError::TooManyConnections),
            };
            let Some(attempts) = self.attempts_of(serial) else { return };
            match begun {
                Ok(id) => {
                    attempts.under_way.push(id);
                    if !attempts.waiting.is_empty() {
                        attempts.next_ms = now_ms + STAGGER_MS;
                    }
                    break;
                }
                Err(error) if is_full(&remote, &error) => {
                    attempts.waiting.push_front(remote);
                    attempts.next_ms = now_ms + BACKLOG_RETRY_MS;
                    break;
                }
                Err(error) => attempts.last_error = Some(error),
            }
        }
        self.core.arm_dial(serial);
    }

    fn attempts_of(&mut self, serial: u64) -> Option<&mut Attempts> {
        match &mut self.core.dials.records.get_mut(&serial)?.state {
            State::Connecting(attempts) => Some(attempts),
            _ => None,
        }
    }

    /// Gives a new connection its slot and begins to connect; `None` if there are too many.
    fn begin_connection(
        &mut self,
        serial: u64,
        remote: &Remote,
    ) -> Option<io::Result<ConnectionId>> {
        let core = &mut self.core;
        let place = core.shared.places.take(core.worker, None).ok()?;
        let id = core.table.insert(Connection::dialing(core.soon_ms, serial));
        if let Err(error) = core.driver.connect(id, remote) {
            core.table.remove(id);
            return Some(Err(error));
        }
        place.keep();
        if core.shared.places.is_full() {
            self.pause_at_limit();
        }
        Some(Ok(id))
    }

    /// A socket has arrived: the others of its dial are given up.
    pub(in super::super) fn connected(&mut self, id: ConnectionId) {
        let Some(connection) = self.core.table.get_mut(id) else { return };
        let Phase::Dialing(dialing) = &connection.phase else { return };
        let serial = dialing.dial;
        let Some(attempts) = self.attempts_of(serial) else { return };
        let under_way = std::mem::take(&mut attempts.under_way);
        if let Some(record) = self.core.dials.records.get_mut(&serial) {
            record.state = State::Opening(id);
        }
        for other in under_way.into_iter().filter(|other| *other != id) {
            self.core.release(other);
        }
        self.core.arm_dial(serial);
        self.begin_opening(id);
    }

    /// The socket of a connection that is not open is dead.
    pub(in super::super) fn dialing_failed(&mut self, id: ConnectionId, error: io::Error) {
        let Some(connection) = self.core.table.get_mut(id) else { return };
        let Phase::Dialing(dialing) = &connection.phase else { return };
        let serial = dialing.dial;
        if !matches!(dialing.stage, Stage::Connecting) {
            return self.opening_failed(id, error);
        }
        self.core.release(id);
        let Some(attempts) = self.attempts_of(serial) else { return };
        attempts.under_way.retain(|other| *other != id);
        attempts.last_error = Some(error);
        self.try_next_address(serial);
    }
}

/// connect(2): a Unix socket does not wait for room in the backlog if it must not block.
fn is_full(remote: &Remote, error: &io::Error) -> bool {
    matches!(remote, Remote::Unix(_)) && error.kind() == io::ErrorKind::WouldBlock
}
