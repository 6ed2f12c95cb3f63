//! The verbs of the worker, each checked against the contract of `driver/mod.rs`.
//!
//! In: verbs. Out: changes of the invented kernel. Never: a verb that breaks the contract
//! without a panic that names the seed.

use super::kernel::{Happening, Kernel, ServerEnd};
use super::reports::{Completion, Tenant};
use super::{Seen, Socket};
use crate::driver::Remote;
use crate::driver::token::ConnectionId;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;

/// Slices that one `sendmsg(2)` takes.
const IOV_MAX: usize = 1024;

impl Kernel {
    pub(super) fn adopt(&mut self, id: ConnectionId, socket: Socket) -> io::Result<()> {
        let link = socket.number;
        self.note(format_args!("adopt {id:?} socket {link}"));
        self.check_vacancy(id, "adopt");
        if self.random.chance(self.faults.adopt_failure) {
            // The socket is dropped here, and found closed by `close_dropped`.
            self.counts.adopt_failures += 1;
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        self.handed_out.retain(|(other, _)| *other != link);
        self.settle(id, link, false);
        Ok(())
    }

    pub(super) fn connect_out(&mut self, id: ConnectionId, remote: &Remote) -> io::Result<()> {
        self.note(format_args!("connect {id:?} to {remote}"));
        self.check_vacancy(id, "connect");
        let Remote::Ip(addr) = remote else { return Err(io::ErrorKind::Unsupported.into()) };
        if self.random.chance(self.faults.adopt_failure) {
            self.counts.adopt_failures += 1;
            return Err(io::Error::from_raw_os_error(libc::ENETUNREACH));
        }
        let link = self.add_link(*addr, ServerEnd::Connecting);
        self.descriptors += 1;
        self.settle(id, link, true);
        let due = self.later();
        self.schedule(due, Happening::Reach(id));
        Ok(())
    }

    /// The slot must be free, and the generation new.
    fn check_vacancy(&self, id: ConnectionId, verb: &str) {
        if let Some(tenant) = self.tenants.get(&id.slot()) {
            let other = tenant.id;
            self.violated(format_args!("{verb} {id:?}, but {other:?} has not been released"));
        }
        if self.used_ids.contains(&id) {
            self.violated(format_args!("{verb} {id:?}, a generation that was used before"));
        }
    }

    fn settle(&mut self, id: ConnectionId, link: u32, connecting: bool) {
        self.used_ids.insert(id);
        self.links[link as usize].server = ServerEnd::Adopted(id);
        let resets_through_pause = self.random.chance(500);
        self.tenants.insert(
            id.slot(),
            Tenant {
                id,
                link,
                connecting,
                closed: false,
                dead: false,
                ended: false,
                reading: true,
                overrun: 0,
                resets_through_pause,
                sending_finished: false,
                want_writable: false,
                writable_scheduled: false,
                last_sent: false,
                writable_ready: false,
            },
        );
    }

    pub(super) fn send(&mut self, id: ConnectionId, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let total = slices.iter().map(|slice| slice.len()).sum::<usize>();
        let tenant = self.live(id, "send");
        if tenant.sending_finished {
            self.violated(format_args!("send on {id:?} after finish_sending"));
        }
        tenant.last_sent = false;
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

    /// Bytes that stay behind without a FIN would be found by nobody, so the promise is checked.
    pub(super) fn send_last(
        &mut self,
        id: ConnectionId,
        slices: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        let sent = self.send(id, slices)?;
        let total = slices.iter().map(|slice| slice.len()).sum::<usize>();
        self.tenant(id).last_sent = sent == total;
        Ok(sent)
    }

    /// The worker waits for what happens next.
    pub(super) fn check_last_sent(&self) {
        if let Some(left) = self.tenants.values().find(|tenant| tenant.last_sent) {
            self.violated(format_args!("send_last on {:?}, and no FIN behind it", left.id));
        }
    }

    pub(super) fn pause_reading(&mut self, id: ConnectionId) {
        self.live(id, "pause_reading").reading = false;
        if self.random.chance(self.faults.overrun) {
            // What the turn has still to report arrives; if nothing, a read may be under way.
            let is_data =
                |done: &&Completion| matches!(done, Completion::Received(of, _) if *of == id);
            let reported = self.completions.iter().filter(is_data).count() as u64;
            self.counts.overruns += reported;
            let under_way = if reported == 0 { self.random.up_to(1) as u32 } else { 0 };
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
        tenant.last_sent = false;
        if std::mem::replace(&mut tenant.sending_finished, true) || tenant.dead {
            return;
        }
        let it = &mut self.links[link as usize];
        it.fin_queued = !it.broken;
        self.start_draining(link);
    }

    pub(super) fn close(&mut self, id: ConnectionId) {
        let tenant = self.live_or_connecting(id, "close");
        tenant.closed = true;
        tenant.last_sent = false;
        let link = tenant.link;
        if std::mem::take(&mut tenant.connecting) && !self.reached.contains(&link) {
            // Nobody on the other side ever heard of it.
            self.links[link as usize].seen = Seen::Reset;
        }
        // What came of an attempt is not gathered any more once that may meet the `Released`.
        let before = self.loose.len();
        self.loose.retain(|completion| {
            !matches!(completion, Completion::Connected(of) | Completion::Failed(of, _) if *of == id)
        });
        self.stale_events += (before - self.loose.len()) as u64;
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

    pub(super) fn peer_addr(&self, id: ConnectionId) -> Option<SocketAddr> {
        let tenant = self.tenants.get(&id.slot()).filter(|tenant| tenant.id == id)?;
        let link = &self.links[tenant.link as usize];
        (!tenant.closed && !link.broken).then_some(link.addr)
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

    pub(super) fn hand_out(&mut self, link: u32) -> Socket {
        let alive = Arc::new(());
        self.handed_out.push((link, Arc::downgrade(&alive)));
        let peer_ip = self.links[link as usize].addr.ip();
        Socket { number: link, peer_ip, _alive: alive }
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

    fn violated(&self, what: fmt::Arguments<'_>) -> ! {
        panic!("seed {}: driver contract violated at {} ms: {what}", self.seed, self.now_ms)
    }

    /// The tenant that a verb may be used on.
    fn live(&mut self, id: ConnectionId, verb: &str) -> &mut Tenant {
        if self.live_or_connecting(id, verb).connecting {
            self.violated(format_args!("{verb} on {id:?}, which is not connected"));
        }
        self.tenant(id)
    }

    /// The tenant that may be closed.
    fn live_or_connecting(&mut self, id: ConnectionId, verb: &str) -> &mut Tenant {
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

    fn tenant(&mut self, id: ConnectionId) -> &mut Tenant {
        self.tenants.get_mut(&id.slot()).expect("checked by `live`")
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
}
