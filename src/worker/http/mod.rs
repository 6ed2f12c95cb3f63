//! Requests, from their first byte to their last answered one.
//!
//! What comes in: received bytes, what other threads answer. What goes out: calls of routes,
//! answers in the order of their requests, and connections that become WebSockets.
//!
//! ```text
//!  received --> consume --head--> request --> upgrade::serve ----> 101, then frames
//!                 |  ^                |
//!                 |  +--- body -------+-----> a route --> reply --> answered: the next one
//!                 +-> kept, if an answer is owed
//! ```
//!
//! A connection serves one request at a time. What a client sends behind it is kept, and reading
//! pauses when that is a lot; so is what it sends while it does not read its answers. Grammar and
//! limits of heads live in `protocol::upgrade`, those of bodies in `http::body`.

mod bodies;
mod replies;
mod streams;
pub(super) mod upgrade;

use super::Crank;
use super::core::{Core, after};
use crate::connection::http::Stage;
use crate::connection::{Http, NEVER, Phase};
use crate::driver::{ConnectionId, Driver};
use crate::http::writing::Manner;
use crate::protocol::upgrade::{HeadScanner, Refusal, Request};
use crate::trust::proxy_protocol;

/// Received bytes behind an unanswered request from which on the connection is not read.
pub(crate) const MAX_HELD: usize = 64 * 1024;

/// Requests of one connection that one turn answers: whoever sends many at once and reads fast
/// must not keep the others waiting.
const REQUESTS_PER_TURN: usize = 64;

impl Core {
    /// The HTTP state of a connection, if it has any.
    pub(super) fn http_mut(&mut self, id: ConnectionId) -> Option<&mut Http> {
        match &mut self.table.get_mut(id)?.phase {
            Phase::Http(http) => http.as_deref_mut(),
            _ => None,
        }
    }

    /// The same, made if there is none.
    fn http_entry(&mut self, id: ConnectionId) -> Option<&mut Http> {
        match &mut self.table.get_mut(id)?.phase {
            Phase::Http(http) => Some(http.get_or_insert_default()),
            _ => None,
        }
    }

    /// True if so much waits for the socket that no further request is looked at.
    fn must_read_first(&self, id: ConnectionId) -> bool {
        let high_water = self.config.high_water();
        self.table.get(id).is_some_and(|connection| connection.unsent_len() > high_water)
    }
}

impl Crank {
    /// Bytes of a connection that speaks HTTP.
    pub(super) fn http(&mut self, id: ConnectionId, bytes: &mut [u8]) {
        if self.core.begins_with_proxy_header(id)
            && let Some(http) = self.core.http_entry(id)
        {
            http.awaits_proxy_header = true;
        }
        match self.core.http_mut(id) {
            Some(http) if http.awaits_proxy_header => self.read_proxy_header(id, bytes),
            Some(http) if http.is_busy() || !http.input.is_empty() => {
                http.input.extend_from_slice(bytes);
                self.use_kept(id);
            }
            _ => {
                let used = self.consume(id, bytes);
                if used < bytes.len()
                    && let Some(http) = self.core.http_entry(id)
                {
                    http.input.extend_from_slice(&bytes[used..]);
                }
                self.settle_http(id);
            }
        }
    }

    /// Whether the next bytes of this connection belong to a PROXY header.
    pub(super) fn expects_proxy_header(&self, id: ConnectionId) -> bool {
        match self.core.table.get(id).map(|connection| &connection.phase) {
            Some(Phase::Http(Some(http))) => http.awaits_proxy_header,
            _ => self.core.begins_with_proxy_header(id),
        }
    }

    /// Bytes of a proxy that has to begin with a PROXY header.
    fn read_proxy_header(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Some(http) = self.core.http_mut(id) else { return };
        http.input.extend_from_slice(bytes);
        match proxy_protocol::parse(&http.input) {
            Ok(None) => {}
            Ok(Some(header)) => {
                http.awaits_proxy_header = false;
                http.proxied = header.source;
                http.input.drain(..header.len);
                let secure =
                    self.core.table.get(id).is_some_and(|connection| connection.tls.is_some());
                if !secure {
                    return self.use_kept(id);
                }
                let Some(http) = self.core.http_mut(id) else { return };
                let rest = std::mem::take(&mut http.input);
                if !rest.is_empty() {
                    self.take_handshake(id, &rest);
                }
            }
            Err(proxy_protocol::Malformed) => self.refuse(id, Refusal::InvalidProxyHeader),
        }
    }

    /// Looks at what was kept, as far as that is possible now.
    pub(super) fn use_kept(&mut self, id: ConnectionId) {
        let Some(http) = self.core.http_mut(id) else { return };
        if !http.is_busy() && !http.input.is_empty() {
            let mut input = std::mem::take(&mut http.input);
            let used = self.consume(id, &mut input);
            // Otherwise the buffer is dropped: a connection that idles keeps none.
            if used < input.len()
                && let Some(http) = self.core.http_mut(id)
            {
                input.drain(..used);
                http.input = input;
            }
        }
        self.settle_http(id);
    }

    /// Serves the requests in the input, one after the other, until more is needed or something has
    /// to be waited for. Answers how many bytes were used.
    fn consume(&mut self, id: ConnectionId, input: &mut [u8]) -> usize {
        let (mut used, mut served) = (0, 0);
        loop {
            let limits = self.core.config.limits;
            let full = self.core.must_read_first(id);
            let Some(connection) = self.core.table.get_mut(id) else { return input.len() };
            // A connection that was upgraded or that ends has done with its input.
            let Phase::Http(http) = &mut connection.phase else { return input.len() };
            match http.as_deref().map(|http| &http.stage) {
                None | Some(Stage::Head) => {}
                Some(Stage::Receiving(receiving)) => {
                    if receiving.is_paused() {
                        return used;
                    }
                    used += self.receive_body(id, &input[used..]);
                    match self.core.http_mut(id).map(|http| &http.stage) {
                        Some(Stage::Receiving(_)) => return used,
                        _ => continue,
                    }
                }
                Some(_) => return used,
            }
            if used == input.len() {
                return used;
            }
            if served == REQUESTS_PER_TURN {
                http.get_or_insert_default().put_off = true;
                self.pumping.push(id);
                return used;
            }
            if full {
                self.core.flush(id);
                if self.core.must_read_first(id) || !self.core.doomed.is_empty() {
                    return used;
                }
                continue;
            }
            let answered = http.as_deref().is_some_and(|http| http.answered);
            let mut scanner = http.as_deref().map_or(HeadScanner::new(), |http| http.scanner);
            if answered && input[used] == b'\r' && !scanner.has_begun() {
                // RFC 9112 2.2: an empty line before a request SHOULD be ignored; some clients end
                // their bodies with one.
                match input.get(used + 1) {
                    Some(b'\n') => {
                        used += 2;
                        continue;
                    }
                    Some(_) => {}
                    None => return used,
                }
            }
            match scanner.scan(&input[used..], &limits) {
                Ok(None) => {
                    http.get_or_insert_default().scanner = scanner;
                    return used;
                }
                Ok(Some(head_len)) => {
                    if let Some(http) = http {
                        http.scanner = HeadScanner::new();
                    }
                    let (head, rest) = input[used..].split_at_mut(head_len);
                    served += 1;
                    used += head_len + self.request(id, head, rest);
                }
                Err(refusal) => {
                    self.refuse(id, refusal);
                    return input.len();
                }
            }
        }
    }

    /// Serves a request with this head; `rest` is what came behind it. Answers how much of that
    /// belonged to it.
    fn request(&mut self, id: ConnectionId, head: &[u8], rest: &mut [u8]) -> usize {
        self.core.tally.requests += 1;
        let limits = self.core.config.limits;
        match Request::parse(head, &limits) {
            Ok(request) => match self.serve(id, &request, head, rest) {
                Ok(used) => used,
                Err(refusal) => {
                    self.refuse_request(id, refusal, request.method() == "HEAD");
                    0
                }
            },
            Err(refusal) => {
                self.refuse(id, refusal);
                0
            }
        }
    }

    /// Another thread did something for the present request of a connection.
    pub(super) fn look(&mut self, id: ConnectionId) {
        let Some(http) = self.core.http_mut(id) else { return };
        match &http.stage {
            Stage::Head => return,
            Stage::Deciding(deciding) if deciding.pending.is_answered() => self.decided(id),
            Stage::Owed(owed) if owed.waiting.is_answered() => self.pay(id),
            // Word of an earlier request of this connection.
            Stage::Deciding(_) | Stage::Owed(_) => return,
            Stage::Receiving(_) => {}
            Stage::Streaming(_) => self.pump(id),
        }
        self.use_kept(id);
    }

    /// The socket takes bytes again.
    pub(super) fn http_writable(&mut self, id: ConnectionId) {
        let Some(http) = self.core.http_mut(id) else { return };
        if matches!(http.stage, Stage::Streaming(_)) {
            self.pump(id);
        }
        self.use_kept(id);
    }

    /// Sees to what depends on where a connection has arrived: whether it is read, how long it may
    /// take, whether it is over.
    fn settle_http(&mut self, id: ConnectionId) {
        let full = self.core.must_read_first(id);
        let core = &mut self.core;
        let (soon_ms, config) = (core.soon_ms, &core.config);
        let Some(connection) = core.table.get_mut(id) else { return };
        let Phase::Http(Some(http)) = &mut connection.phase else { return };
        let mut pause = http.input.len() >= MAX_HELD;
        let waits_for_reader = full && !http.input.is_empty();
        match &http.stage {
            Stage::Head if waits_for_reader => {
                pause = true;
                connection.deadline_ms = NEVER;
            }
            Stage::Head if http.put_off => {
                pause = true;
                connection.deadline_ms = NEVER;
            }
            Stage::Head if connection.peer_ended => return self.end_with(id, b""),
            Stage::Head => {
                pause = false;
                if http.answered && http.input.is_empty() {
                    http.head_began = false;
                    // Who reads slowly is not idle; the write timeout watches it.
                    connection.deadline_ms = match connection.blocked {
                        true => NEVER,
                        false => after(soon_ms, config.keep_alive_timeout_ms),
                    };
                } else if http.answered && !http.head_began {
                    http.head_began = true;
                    connection.deadline_ms = after(soon_ms, config.handshake_timeout_ms);
                }
            }
            Stage::Receiving(receiving) => {
                pause = receiving.is_paused();
                if pause {
                    connection.deadline_ms = NEVER;
                } else if connection.peer_ended {
                    return core.release(id);
                } else if connection.deadline_ms == NEVER {
                    connection.deadline_ms = after(soon_ms, config.body_timeout_ms);
                }
            }
            Stage::Deciding(_) | Stage::Owed(_) | Stage::Streaming(_) => {}
        }
        if pause {
            core.pause_driver(id);
        } else if connection.reading_paused {
            core.resume_reading(id);
        }
        self.core.arm_timer(id);
    }

    /// The peer of a connection that speaks HTTP sent FIN. Whoever has sent whole requests may wait
    /// for what is on its way, but not for what has yet to come into being: nothing else says that
    /// such a client has gone.
    pub(super) fn http_ended(&mut self, id: ConnectionId) {
        let Some(http) = self.core.http_mut(id) else { return self.core.release(id) };
        let gone = match &http.stage {
            Stage::Head => false,
            Stage::Deciding(_) | Stage::Owed(_) => true,
            Stage::Receiving(receiving) => !receiving.is_paused(),
            Stage::Streaming(streaming) => streaming.source.ends_with_peer(),
        };
        if gone {
            // Earlier answers still get their one chance.
            self.core.flush(id);
            self.core.release(id);
        } else {
            self.settle_http(id);
        }
    }

    /// A deadline of a connection that speaks HTTP has passed.
    pub(super) fn http_timed_out(&mut self, id: ConnectionId) {
        let core = &mut self.core;
        let now_ms = core.now_ms;
        let Some(connection) = core.table.get_mut(id) else { return };
        let Phase::Http(http) = &mut connection.phase else { return };
        if connection.deadline_ms > now_ms {
            return self.try_again(id);
        }
        let Some(http) = http else { return core.release(id) };
        match &mut http.stage {
            // Its answers have not left yet: the write timeout goes on with it.
            Stage::Head if http.answered && connection.blocked => connection.deadline_ms = NEVER,
            Stage::Head if http.answered && http.input.is_empty() => self.end_with(id, b""),
            Stage::Head | Stage::Receiving(_) => self.refuse(id, Refusal::Timeout),
            Stage::Deciding(_) => self.refuse(id, Refusal::Undecided),
            Stage::Owed(_) => {
                self.pay_otherwise(id);
                self.use_kept(id);
            }
            Stage::Streaming(_) => connection.deadline_ms = NEVER,
        }
    }

    /// The server stops: what has begun may be finished, nothing else begins.
    pub(super) fn http_stop(&mut self, id: ConnectionId, until_ms: u64) {
        let Some(connection) = self.core.table.get_mut(id) else { return };
        let Phase::Http(http) = &connection.phase else { return };
        match http {
            None => {
                connection.deadline_ms = connection.deadline_ms.min(until_ms);
                self.core.arm_timer(id);
            }
            Some(http) => match &http.stage {
                // Another request may be on its way, and gets its 503, too.
                Stage::Head if http.answered && http.input.is_empty() => {
                    connection.deadline_ms = connection.deadline_ms.min(until_ms);
                    self.core.arm_timer(id);
                }
                Stage::Head | Stage::Deciding(_) => self.refuse(id, Refusal::Busy),
                Stage::Receiving(_) | Stage::Owed(_) | Stage::Streaming(_) => {}
            },
        }
    }

    /// The grace is over: whoever still waits for an answer is told.
    pub(super) fn http_cut(&mut self, id: ConnectionId) {
        let stage = self.core.http_mut(id).map(|http| &http.stage);
        if matches!(stage, Some(Stage::Owed(_) | Stage::Receiving(_))) {
            self.refuse(id, Refusal::Busy);
        }
    }

    /// Answers with an HTTP error and ends the connection.
    pub(super) fn refuse(&mut self, id: ConnectionId, refusal: Refusal) {
        self.refuse_request(id, refusal, false);
    }

    /// The same for a request that is known to be HEAD or not.
    fn refuse_request(&mut self, id: ConnectionId, refusal: Refusal, head_only: bool) {
        self.core.tally.refused += 1;
        self.core.tables().note_refusal(refusal);
        let mut response = Vec::with_capacity(256);
        match head_only {
            true => refusal.write_response_to_head(&mut response),
            false => refusal.write_response(&mut response),
        }
        self.end_with(id, &response);
    }

    /// Sends the last bytes of a connection that never opened.
    pub(super) fn end_with(&mut self, id: ConnectionId, response: &[u8]) {
        let core = &mut self.core;
        let deadline_ms = core.drain_deadline();
        let Some(connection) = core.table.get_mut(id) else { return };
        let draining = Phase::Draining { discarded: 0, finished: false, server_first: false };
        let phase = std::mem::replace(&mut connection.phase, draining);
        connection.deadline_ms = deadline_ms;
        if connection.reading_paused {
            // What still comes is read and discarded, so that the end is seen.
            connection.reading_paused = false;
            core.driver.resume_reading(id);
        }
        if !response.is_empty() {
            let outgoing = connection.outgoing.get_or_insert_with(|| core.outgoing.take());
            outgoing.append().extend_from_slice(response);
        }
        core.mark_dirty(id);
        core.arm_timer(id);
        core.drop_phase(phase);
    }

    /// A body broke off: the client must not take what it has for all of it.
    fn cut(&mut self, id: ConnectionId) {
        self.core.flush(id);
        self.core.release(id);
    }
}

impl Manner {
    /// How this request is to be answered.
    fn of(request: &Request<'_>) -> Self {
        Self {
            head_only: request.method() == "HEAD",
            http11: request.version() == crate::protocol::upgrade::HttpVersion::Http11,
            keep_alive: !request.asks_to_close(),
        }
    }
}
