//! What the invented kernel reports to the driver.
//!
//! In: the state of the connections. Out: completions, gathered once per turn ("harvest") and
//! handed out one by one, so that a close or a pause between two of them meets news that is
//! already on its way. Never: news of a connection that the worker has closed.

use super::kernel::{Happening, Kernel, ServerEnd, take_front};
use super::{Reception, Seen};
use crate::driver::token::ConnectionId;
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::Ordering;

/// Connections that one turn accepts.
const MAX_ACCEPTS: usize = 64;
/// Waits in a row that may bring neither news nor a later time. Faults cause a few of them.
const MAX_FRUITLESS: u32 = 500;
/// Reports of bytes of one connection in one turn.
const MAX_READS: usize = 4;

/// What the kernel reports to the driver.
#[derive(Debug)]
pub(super) enum Completion {
    Accepted(u32),
    Connected(ConnectionId),
    AcceptFailed(i32),
    Received(ConnectionId, Vec<u8>),
    Ended(ConnectionId),
    Failed(ConnectionId, i32),
    Writable(ConnectionId),
    Released(ConnectionId),
    /// News of a connection that the worker has closed, for the driver to swallow.
    Stale(ConnectionId),
    Woken,
}

impl Completion {
    /// The connection that it is about.
    fn id(&self) -> Option<ConnectionId> {
        match self {
            Completion::Connected(id)
            | Completion::Received(id, _)
            | Completion::Ended(id)
            | Completion::Failed(id, _)
            | Completion::Writable(id)
            | Completion::Released(id)
            | Completion::Stale(id) => Some(*id),
            Completion::Accepted(_) | Completion::AcceptFailed(_) | Completion::Woken => None,
        }
    }

    fn slot(&self) -> Option<usize> {
        self.id().map(ConnectionId::slot)
    }
}

/// The driver's view of an adopted connection.
#[derive(Debug)]
pub(super) struct Tenant {
    pub(super) id: ConnectionId,
    pub(super) link: u32,
    /// The worker makes this connection, and has not been told that it succeeded.
    pub(super) connecting: bool,
    /// `close` was called.
    pub(super) closed: bool,
    /// `Failed` or an error of `send` was handed out: only `Released` may follow.
    pub(super) dead: bool,
    pub(super) ended: bool,
    pub(super) reading: bool,
    /// Reads that are still under way after a pause.
    pub(super) overrun: u32,
    /// A reset is reported in spite of a pause.
    pub(super) resets_through_pause: bool,
    pub(super) sending_finished: bool,
    /// `send_last` took everything, and nothing has followed yet.
    pub(super) last_sent: bool,
    pub(super) want_writable: bool,
    pub(super) writable_scheduled: bool,
    pub(super) writable_ready: bool,
}

impl Kernel {
    /// Gathers what this turn reports.
    pub(super) fn harvest(&mut self) {
        let mut queues = vec![self.accept(), std::mem::take(&mut self.loose)];
        // What a short turn left over counts as this turn's share of its connection.
        let served: BTreeSet<usize> =
            self.completions.iter().filter_map(Completion::slot).collect();
        let slots: Vec<usize> = self.tenants.keys().copied().collect();
        for slot in slots {
            if !served.contains(&slot) {
                queues.push(self.read(slot));
            }
        }
        if self.wake.swap(false, Ordering::Acquire) {
            queues.push([Completion::Woken].into());
        } else if self.random.chance(self.faults.spurious_wake) {
            self.counts.spurious_wakes += 1;
            queues.push([Completion::Woken].into());
        }
        queues.retain(|queue| !queue.is_empty());
        let mix = queues.len() > 1 && self.random.chance(self.faults.reorder);
        self.counts.reordered_turns += u64::from(mix);
        while !queues.is_empty() {
            let nth = if mix { self.random.index(queues.len()) } else { 0 };
            self.completions.extend(queues[nth].pop_front());
            if queues[nth].is_empty() {
                queues.remove(nth);
            }
        }
    }

    /// Whether a harvest could bring something now.
    pub(super) fn ready(&self) -> bool {
        !self.completions.is_empty()
            || !self.loose.is_empty()
            || self.wake.load(Ordering::Acquire)
            || (self.accepting() && !self.backlog.is_empty())
            || self.tenants.values().any(|tenant| self.tenant_ready(tenant))
    }

    fn tenant_ready(&self, tenant: &Tenant) -> bool {
        let link = &self.links[tenant.link as usize];
        let may_read = tenant.reading || tenant.overrun > 0;
        let readable = !link.inbox.is_empty()
            || link.failure.is_some()
            || (link.fin_arrived && !tenant.ended && !link.broken);
        let failed_while_paused = link.failure.is_some() && tenant.resets_through_pause;
        !tenant.closed
            && !tenant.dead
            && !tenant.connecting
            && ((may_read && readable) || failed_while_paused || tenant.writable_ready)
    }

    pub(super) fn accepting(&self) -> bool {
        self.listening && !self.accept_paused
    }

    fn accept(&mut self) -> VecDeque<Completion> {
        let mut reports = VecDeque::new();
        while self.accepting()
            && reports.len() < MAX_ACCEPTS
            && let Some(link) = self.backlog.front().copied()
        {
            let errno = if self.descriptors >= self.faults.descriptors {
                libc::EMFILE
            } else if self.random.chance(self.faults.accept_failure) {
                [libc::ENFILE, libc::ENOBUFS, libc::ENOMEM][self.random.index(3)]
            } else {
                self.backlog.pop_front();
                self.links[link as usize].server = ServerEnd::Accepted;
                self.descriptors += 1;
                reports.push_back(Completion::Accepted(link));
                continue;
            };
            self.counts.accept_failures += 1;
            self.accept_paused = true;
            reports.push_back(Completion::AcceptFailed(errno));
        }
        reports
    }

    fn read(&mut self, slot: usize) -> VecDeque<Completion> {
        let mut reports = VecDeque::new();
        let tenant = self.tenants.get(&slot).expect("a slot of a tenant");
        if !self.tenant_ready(tenant) {
            return reports;
        }
        let (id, link) = (tenant.id, tenant.link);
        let may_read = tenant.reading || tenant.overrun > 0;
        if may_read && !self.links[link as usize].inbox.is_empty() {
            if self.random.chance(self.faults.exhausted) {
                self.buffers_exhausted += 1;
                return reports;
            }
            if !self.links[link as usize].broken && self.random.chance(self.faults.reset_on_receive)
            {
                self.counts.resets_on_receive += 1;
                self.break_by_network(link);
            }
            self.read_bytes(id, link, &mut reports);
        }
        let it = &mut self.links[link as usize];
        let tenant = self.tenants.get_mut(&slot).expect("a slot of a tenant");
        if it.failure.is_some()
            && ((may_read && it.inbox.is_empty()) || tenant.resets_through_pause)
        {
            reports.extend(it.failure.take().map(|errno| Completion::Failed(id, errno)));
            return reports;
        }
        if may_read && it.inbox.is_empty() && it.fin_arrived && !tenant.ended && !it.broken {
            let glued = !reports.is_empty();
            if !(glued && self.random.chance(self.faults.late_fin)) {
                self.counts.glued_fins += u64::from(glued);
                tenant.ended = true;
                reports.push_back(Completion::Ended(id));
            }
        }
        if std::mem::take(&mut tenant.writable_ready) {
            tenant.want_writable = false;
            if !it.broken {
                reports.push_back(Completion::Writable(id));
            }
        }
        reports
    }

    fn read_bytes(&mut self, id: ConnectionId, link: u32, reports: &mut VecDeque<Completion>) {
        let mut budget = self.max_lent;
        for _ in 0..MAX_READS {
            let mut len = self.links[link as usize].inbox.len().min(budget);
            if len == 0 {
                break;
            }
            if self.random.chance(self.faults.cut) {
                let cut = self.random.length(len);
                self.counts.cut_reads += u64::from(cut < len);
                len = cut;
            }
            let bytes = take_front(&mut self.links[link as usize].inbox, len);
            budget -= len;
            reports.push_back(Completion::Received(id, bytes));
        }
        if !reports.is_empty()
            && let Some(tenant) = self.tenants.get_mut(&id.slot())
            && !tenant.reading
        {
            tenant.overrun -= 1;
            self.counts.overruns += 1;
        }
        // There is room in the inbox again.
        self.arrive(link);
    }

    pub(super) fn break_by_network(&mut self, link: u32) {
        let errno = [libc::ECONNRESET, libc::ETIMEDOUT, libc::EPIPE][self.random.index(3)];
        self.break_link(link, errno);
        let it = &mut self.links[link as usize];
        if it.seen == Seen::Open {
            it.seen = Seen::Broken;
        }
    }

    /// A connection that the worker makes has reached the other side, which accepts it or not.
    pub(super) fn reach(&mut self, id: ConnectionId) {
        let tenant = self.tenants.get(&id.slot()).filter(|tenant| tenant.id == id);
        let Some(Tenant { link, closed: false, .. }) = tenant else { return };
        let link = *link;
        match self.remotes.get(&self.links[link as usize].addr) {
            Some(Reception::Accept) => {
                self.reached.push_back(link);
                self.loose.push_back(Completion::Connected(id));
            }
            Some(Reception::Ignore) => {}
            None | Some(Reception::Refuse) => {
                self.links[link as usize].seen = Seen::Reset;
                self.loose.push_back(Completion::Failed(id, libc::ECONNREFUSED));
            }
        }
    }

    pub(super) fn offer_writable(&mut self, link: u32) {
        let ServerEnd::Adopted(id) = self.links[link as usize].server else { return };
        if self.room(link) == 0 {
            return;
        }
        let tenant = self.tenants.get_mut(&id.slot()).expect("adopted");
        if tenant.want_writable && !tenant.writable_scheduled {
            tenant.writable_scheduled = true;
            let due = self.now_ms + self.random.up_to(self.faults.late_writable_ms);
            self.schedule(due, Happening::Writable(id));
        }
    }

    pub(super) fn becomes_writable(&mut self, id: ConnectionId) {
        if let Some(tenant) = self.tenants.get_mut(&id.slot())
            && tenant.id == id
        {
            tenant.writable_scheduled = false;
            tenant.writable_ready = tenant.want_writable;
        }
    }

    /// The next completion that the worker may see; what it may not see is swallowed here.
    pub(super) fn next_completion(&mut self) -> Option<Completion> {
        let completion = self.take_completion();
        self.reported |= completion.is_some();
        completion
    }

    fn take_completion(&mut self) -> Option<Completion> {
        if self.turn_over {
            return None;
        }
        if !self.completions.is_empty() && self.random.chance(self.faults.short_turn) {
            self.counts.short_turns += 1;
            self.turn_over = true;
            return None;
        }
        while let Some(completion) = self.completions.pop_front() {
            let Some(id) = completion.id() else { return Some(completion) };
            let tenant = self.tenants.get_mut(&id.slot()).filter(|tenant| tenant.id == id);
            let tenant = tenant.expect("a tenant stays until its Released is handed out");
            match completion {
                Completion::Released(_) => {
                    self.tenants.remove(&id.slot());
                    self.descriptors -= 1;
                    return Some(completion);
                }
                _ if tenant.closed => self.stale_events += 1,
                _ if tenant.dead => {}
                Completion::Failed(..) => {
                    tenant.dead = true;
                    return Some(completion);
                }
                Completion::Connected(_) => {
                    tenant.connecting = false;
                    return Some(completion);
                }
                _ => return Some(completion),
            }
        }
        self.turn_over = true;
        None
    }

    /// Waits for news, at most until `timeout_ms` from now.
    pub(super) fn wait(&mut self, timeout_ms: Option<u64>) {
        self.note(format_args!("wait {timeout_ms:?}"));
        self.turn_over = false;
        self.check_for_spinning();
        self.check_last_sent();
        self.close_dropped();
        let happened = self.advance_to(self.now_ms);
        let deadline = timeout_ms.map(|timeout| self.now_ms.saturating_add(timeout));
        if timeout_ms != Some(0) && !happened && !self.ready() {
            self.counts.sleeps += 1;
        }
        let target = match (self.next_due(), deadline) {
            _ if happened || self.ready() => self.now_ms,
            // Whoever looks again and again sees time pass.
            _ if timeout_ms == Some(0) => self.now_ms + self.faults.look_ms,
            (Some(due), Some(deadline)) => due.min(deadline),
            (Some(time), None) | (None, Some(time)) => time,
            (None, None) if self.idle_allowed => self.now_ms,
            (None, None) => panic!(
                "seed {}: the worker would sleep for ever at {} ms: nothing is scheduled and it \
                 waits without a timeout; {}",
                self.seed,
                self.now_ms,
                self.summary(),
            ),
        };
        if self.random.chance(self.faults.early_return) {
            self.counts.early_returns += 1;
            let slept = self.random.up_to(target - self.now_ms);
            self.advance_to(self.now_ms + slept);
            return;
        }
        self.advance_to(target);
        if self.random.chance(self.faults.stall) {
            self.counts.stalls += 1;
            let late = self.random.up_to(self.faults.stall_ms);
            self.advance_to(self.now_ms + late);
        }
        self.harvest();
    }

    /// A worker that waits again and again without letting time pass keeps a core busy, and in
    /// virtual time what it waits for never comes.
    fn check_for_spinning(&mut self) {
        let fruitless = self.now_ms == self.last_wait_ms && !self.reported;
        self.fruitless = if fruitless { self.fruitless + 1 } else { 0 };
        self.last_wait_ms = self.now_ms;
        self.reported = false;
        if self.fruitless > MAX_FRUITLESS {
            let (seed, now, next) = (self.seed, self.now_ms, self.next_due());
            let summary = self.summary();
            panic!("seed {seed}: the worker spins at {now} ms, next due {next:?}; {summary}");
        }
    }

    /// What the connections wait for, to explain a deadlock.
    pub(super) fn summary(&self) -> String {
        let mut text = format!(
            "{} connections, {} in the backlog, accepting: {}",
            self.tenants.len(),
            self.backlog.len(),
            self.accepting(),
        );
        for tenant in self.tenants.values() {
            let link = &self.links[tenant.link as usize];
            let unread = link.inbox.len();
            if !tenant.reading && (unread > 0 || link.fin_arrived) {
                text += &format!("; {:?} paused with {unread} unread bytes", tenant.id);
            }
            if tenant.want_writable {
                let waiting = link.outbox.len();
                text += &format!("; {:?} not writable, {waiting} bytes not read", tenant.id);
            }
        }
        text
    }
}
