//! The invented kernel, as seen from the driver: completions, and the contract of the verbs.
//!
//! In: verbs of the worker. Out: completions, gathered once per turn ("harvest") and handed out
//! one by one, so that a close or a pause between two of them meets news that is already on its
//! way. Never: a verb that breaks the contract of `driver/mod.rs` without a panic.

use super::kernel::{Happening, Kernel, ServerEnd};
use super::{MAX_LENT, Seen, Socket};
use crate::driver::token::ConnectionId;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Slices that one `sendmsg(2)` takes.
const IOV_MAX: usize = 1024;
/// Connections that one turn accepts.
const MAX_ACCEPTS: usize = 64;
/// Reports of bytes of one connection in one turn.
const MAX_READS: usize = 4;

/// What the kernel reports to the driver.
#[derive(Debug)]
pub(super) enum Completion {
    Accepted(u32),
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

/// The driver's view of an adopted connection.
#[derive(Debug)]
pub(super) struct Tenant {
    id: ConnectionId,
    link: u32,
    /// `close` was called.
    closed: bool,
    /// `Failed` or an error of `send` was handed out: only `Released` may follow.
    dead: bool,
    ended: bool,
    reading: bool,
    /// Reads that are still under way after a pause.
    overrun: u32,
    /// A reset is reported in spite of a pause.
    resets_through_pause: bool,
    sending_finished: bool,
    want_writable: bool,
    writable_scheduled: bool,
    writable_ready: bool,
}

// What the kernel reports.
impl Kernel {
    /// Gathers what this turn reports.
    pub(super) fn harvest(&mut self) {
        let mut queues = vec![self.accept(), std::mem::take(&mut self.loose)];
        let slots: Vec<usize> = self.tenants.keys().copied().collect();
        for slot in slots {
            queues.push(self.read(slot));
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
            && ((may_read && readable) || failed_while_paused || tenant.writable_ready)
    }

    fn accepting(&self) -> bool {
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
        let mut budget = MAX_LENT;
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
            let bytes: Vec<u8> = self.links[link as usize].inbox.drain(..len).collect();
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

    fn break_by_network(&mut self, link: u32) {
        let errno = [libc::ECONNRESET, libc::ETIMEDOUT, libc::EPIPE][self.random.index(3)];
        self.break_link(link, errno);
        let it = &mut self.links[link as usize];
        if it.seen == Seen::Open {
            it.seen = Seen::Broken;
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
        if self.turn_over {
            return None;
        }
        if !self.completions.is_empty() && self.random.chance(self.faults.short_turn) {
            self.counts.short_turns += 1;
            self.turn_over = true;
            return None;
        }
        while let Some(completion) = self.completions.pop_front() {
            let (Completion::Received(id, _)
            | Completion::Ended(id)
            | Completion::Failed(id, _)
            | Completion::Writable(id)
            | Completion::Released(id)
            | Completion::Stale(id)) = completion
            else {
                return Some(completion);
            };
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
        self.close_dropped();
        self.advance_to(self.now_ms);
        let deadline = timeout_ms.map(|timeout| self.now_ms.saturating_add(timeout));
        let target = match (self.next_due(), deadline) {
            _ if self.ready() => self.now_ms,
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
            return self.advance_to(self.now_ms + slept);
        }
        self.advance_to(target);
        if self.random.chance(self.faults.stall) {
            self.counts.stalls += 1;
            let late = self.random.up_to(self.faults.stall_ms);
            self.advance_to(self.now_ms + late);
        }
        self.harvest();
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

// The verbs, with the checks of the contract.
impl Kernel {
    fn violated(&self, what: fmt::Arguments<'_>) -> ! {
        panic!("seed {}: driver contract violated at {} ms: {what}", self.seed, self.now_ms)
    }

    /// The tenant that a verb may be used on.
    fn live(&mut self, id: ConnectionId, verb: &str) -> &mut Tenant {
        self.note(format_args!("{verb} {id:?}"));
        match self.tenants.get(&id.slot()) {
            Some(tenant) if tenant.id == id && !tenant.closed => {}
            Some(tenant) if tenant.id == id => {
                self.violated(format_args!("{verb} on {id:?}, which was closed"))
            }
            _ if self.used_ids.contains(&id) => {
                self.violated(format_args!("{verb} on {id:?}, which was released"))
            }
            _ => self.violated(format_args!("{verb} on {id:?}, which was never adopted")),
        }
        self.tenants.get_mut(&id.slot()).expect("just seen")
    }

    pub(super) fn adopt(&mut self, id: ConnectionId, socket: Socket) -> io::Result<()> {
        let link = socket.number;
        self.note(format_args!("adopt {id:?} socket {link}"));
        if let Some(tenant) = self.tenants.get(&id.slot()) {
            let other = tenant.id;
            self.violated(format_args!("adopt {id:?}, but {other:?} has not been released"));
        }
        if self.used_ids.contains(&id) {
            self.violated(format_args!("adopt {id:?}, a generation that was used before"));
        }
        if self.random.chance(self.faults.adopt_failure) {
            // The socket is dropped here, and found closed by `close_dropped`.
            self.counts.adopt_failures += 1;
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        self.handed_out.retain(|(other, _)| *other != link);
        self.used_ids.insert(id);
        self.links[link as usize].server = ServerEnd::Adopted(id);
        let resets_through_pause = self.random.chance(500);
        self.tenants.insert(
            id.slot(),
            Tenant {
                id,
                link,
                closed: false,
                dead: false,
                ended: false,
                reading: true,
                overrun: 0,
                resets_through_pause,
                sending_finished: false,
                want_writable: false,
                writable_scheduled: false,
                writable_ready: false,
            },
        );
        Ok(())
    }

    pub(super) fn send(&mut self, id: ConnectionId, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let total = slices.iter().map(|slice| slice.len()).sum::<usize>();
        let tenant = self.live(id, "send");
        if tenant.sending_finished {
            self.violated(format_args!("send on {id:?} after finish_sending"));
        }
        let (link, waiting) = (tenant.link, tenant.want_writable);
        if tenant.dead {
            return Err(io::Error::from_raw_os_error(libc::EPIPE));
        }
        if !self.links[link as usize].broken && self.random.chance(self.faults.reset_on_send) {
            self.counts.resets_on_send += 1;
            self.break_by_network(link);
        }
        if self.links[link as usize].broken {
            self.tenant(id).dead = true;
            let errno = self.links[link as usize].failure.take().unwrap_or(libc::EPIPE);
            return Err(io::Error::from_raw_os_error(errno));
        }
        let whole = slices.iter().take(IOV_MAX).map(|slice| slice.len()).sum::<usize>();
        let room = self.room(link);
        let mut len = whole.min(room);
        self.counts.full_buffers += u64::from(len < whole);
        if len > 0 && self.random.chance(self.faults.short_send) {
            // After a short send the socket mostly stays full until `Writable`.
            len = if waiting || self.random.chance(300) { 0 } else { self.random.length(len) - 1 };
            self.counts.short_sends += 1;
            self.counts.empty_sends += u64::from(len == 0);
        }
        let mut left = len;
        for slice in slices {
            let piece = &slice[..left.min(slice.len())];
            self.links[link as usize].outbox.extend(piece);
            left -= piece.len();
        }
        self.note(format_args!("    took {len} of {total}"));
        if len < total {
            self.tenant(id).want_writable = true;
            self.offer_writable(link);
        }
        self.start_draining(link);
        Ok(len)
    }

    fn tenant(&mut self, id: ConnectionId) -> &mut Tenant {
        self.tenants.get_mut(&id.slot()).expect("checked by `live`")
    }

    pub(super) fn pause_reading(&mut self, id: ConnectionId) {
        self.live(id, "pause_reading").reading = false;
        if self.random.chance(self.faults.overrun) {
            // Completions that are on their way stay there, and a read may be under way as well.
            let is_data =
                |done: &&Completion| matches!(done, Completion::Received(of, _) if *of == id);
            self.counts.overruns += self.completions.iter().filter(is_data).count() as u64;
            let under_way = self.random.up_to(1) as u32;
            self.tenant(id).overrun = under_way;
            return;
        }
        // Nothing was under way: what the turn had still to report stays in the inbox.
        let link = self.tenant(id).link as usize;
        let mut unread = VecDeque::new();
        let mut fin_unread = false;
        self.completions.retain_mut(|completion| match completion {
            Completion::Received(of, bytes) if *of == id => {
                unread.extend(bytes.iter().copied());
                false
            }
            Completion::Ended(of) if *of == id => {
                fin_unread = true;
                false
            }
            _ => true,
        });
        unread.append(&mut self.links[link].inbox);
        self.links[link].inbox = unread;
        if fin_unread {
            self.tenant(id).ended = false;
        }
    }

    pub(super) fn resume_reading(&mut self, id: ConnectionId) {
        let tenant = self.live(id, "resume_reading");
        tenant.reading = true;
        tenant.overrun = 0;
    }

    pub(super) fn finish_sending(&mut self, id: ConnectionId) {
        let tenant = self.live(id, "finish_sending");
        let link = tenant.link;
        if std::mem::replace(&mut tenant.sending_finished, true) || tenant.dead {
            return;
        }
        let it = &mut self.links[link as usize];
        it.fin_queued = !it.broken;
        self.start_draining(link);
    }

    pub(super) fn close(&mut self, id: ConnectionId) {
        let tenant = self.live(id, "close");
        tenant.closed = true;
        let link = tenant.link;
        self.close_link(link);
        if self.random.chance(self.faults.stale) {
            self.loose.push_back(Completion::Stale(id));
        } else if self.faults.late_release_ms > 0 && self.random.chance(250) {
            // Everything came back at once: still in this turn, behind what it has to report.
            self.completions.push_back(Completion::Released(id));
            return;
        }
        let due = self.now_ms + self.random.up_to(self.faults.late_release_ms);
        self.schedule(due, Happening::Release(id));
    }

    pub(super) fn peer_addr(&self, id: ConnectionId) -> Option<std::net::SocketAddr> {
        match self.tenants.get(&id.slot()) {
            Some(tenant) if tenant.id == id && !tenant.closed => {
                let link = &self.links[tenant.link as usize];
                (!link.broken).then_some(link.addr)
            }
            _ => self.violated(format_args!("peer_addr of {id:?}, which is not adopted")),
        }
    }

    pub(super) fn pause_accepting(&mut self) {
        self.note(format_args!("pause_accepting"));
        self.accept_paused = true;
        if !self.random.chance(self.faults.overrun) {
            self.unaccept();
        }
    }

    pub(super) fn resume_accepting(&mut self) {
        self.note(format_args!("resume_accepting"));
        self.accept_paused = false;
    }

    pub(super) fn stop_listening(&mut self) {
        self.note(format_args!("stop_listening"));
        self.listening = false;
        self.refusing = true;
        if !self.random.chance(self.faults.overrun) {
            self.unaccept();
        }
        for link in std::mem::take(&mut self.backlog) {
            self.links[link as usize].server = ServerEnd::Closed;
            self.reset_peer(link);
        }
    }

    /// Accepted connections that were not yet handed out go back to the backlog.
    fn unaccept(&mut self) {
        for nth in (0..self.completions.len()).rev() {
            if let Completion::Accepted(link) = self.completions[nth] {
                self.completions.remove(nth);
                self.links[link as usize].server = ServerEnd::Backlog;
                self.descriptors -= 1;
                self.backlog.push_front(link);
            }
        }
    }

    pub(super) fn hand_out(&mut self, link: u32) -> Socket {
        let alive = Arc::new(());
        self.handed_out.push((link, Arc::downgrade(&alive)));
        Socket { number: link, _alive: alive }
    }

    /// Finds sockets that the worker dropped instead of adopting them.
    pub(super) fn close_dropped(&mut self) {
        for nth in (0..self.handed_out.len()).rev() {
            if self.handed_out[nth].1.strong_count() == 0 {
                let (link, _) = self.handed_out.remove(nth);
                self.descriptors -= 1;
                self.close_link(link);
            }
        }
    }

    /// The worker has gone, and the process closes what it left behind.
    pub(super) fn close_all(&mut self) {
        self.unaccept();
        self.stop_listening();
        self.close_dropped();
        for (_, tenant) in std::mem::take(&mut self.tenants) {
            self.descriptors -= 1;
            if !tenant.closed {
                self.close_link(tenant.link);
            }
        }
        self.completions.clear();
        self.loose.clear();
    }
}
