//! Answers, at once or later, and what follows them.
//!
//! What comes in: what routes and other threads answer. What goes out: bytes in the queue of the
//! connection, and the connection ready for its next request, or on its way to its end.

use crate::connection::http::{Owed, Stage, Streaming};
use crate::connection::{NEVER, Phase};
use crate::driver::ConnectionId;
use crate::http::reply::{Kind, Later, Reply};
use crate::http::response::Response;
use crate::http::writing::{Framing, Header, Manner, is_without_body, write_head};
use crate::protocol::upgrade::Refusal;
use crate::worker::Crank;
use crate::worker::core::{Core, after};

impl Core {
    /// Appends the head of an answer to what the connection sends; false if it is impossible.
    fn push_head(
        &mut self,
        id: ConnectionId,
        status: u16,
        headers: &[Header],
        framing: Framing,
        manner: Manner,
    ) -> bool {
        let Some(connection) = self.table.get_mut(id) else { return false };
        let outgoing = connection.outgoing.get_or_insert_with(|| self.outgoing.take());
        let date = self.http_date.at(self.now_ms);
        match write_head(outgoing.append(), status, headers, framing, manner, date) {
            Ok(()) => {
                if status >= 400 {
                    self.tally.refused += 1;
                }
                self.mark_dirty(id);
                true
            }
            Err(error) => {
                log::error!("an answer could not be sent: {error}");
                false
            }
        }
    }

    /// Appends a whole answer to what the connection sends.
    fn push_response(&mut self, id: ConnectionId, response: &Response, manner: Manner) {
        let Response { status, headers, body } = response;
        let framing = Framing::Length(body.len() as u64);
        let mut body = &body[..];
        if !self.push_head(id, *status, headers, framing, manner) {
            // The application broke its side of the bargain; the client learns no more than that.
            body = b"The server failed to answer.\n";
            let headers = [("Content-Type".into(), "text/plain; charset=utf-8".into())];
            let framing = Framing::Length(body.len() as u64);
            if !self.push_head(id, 500, &headers, framing, manner) {
                return;
            }
        } else if is_without_body(*status) {
            return;
        }
        if !manner.head_only
            && let Some(connection) = self.table.get_mut(id)
            && let Some(outgoing) = &mut connection.outgoing
        {
            outgoing.append().extend_from_slice(body);
        }
    }
}

impl Crank {
    /// Answers the present request of a connection.
    pub(super) fn reply(&mut self, id: ConnectionId, reply: Reply, mut manner: Manner) {
        if self.core.stopping.began {
            manner.keep_alive = false;
        }
        match reply.kind {
            Kind::Whole(response) => {
                self.core.push_response(id, &response, manner);
                self.answered(id, manner.keep_alive);
            }
            Kind::Streamed { response, len, mut source } => {
                let Response { status, headers, .. } = response;
                let framing = match len {
                    Some(len) => Framing::Length(len),
                    None if manner.http11 => Framing::Chunked,
                    None => Framing::UntilClose,
                };
                if framing == Framing::UntilClose {
                    manner.keep_alive = false;
                }
                if !self.core.push_head(id, status, &headers, framing, manner) {
                    return self.reply(id, Reply::failed(), manner);
                }
                if manner.head_only || is_without_body(status) {
                    drop(source);
                    return self.answered(id, manner.keep_alive);
                }
                source.attend(&self.core.shared, id);
                let Some(http) = self.core.http_entry(id) else { return };
                let streaming = Streaming { source, framing, manner, queued: false };
                http.stage = Stage::Streaming(streaming);
                if let Some(connection) = self.core.table.get_mut(id) {
                    connection.deadline_ms = NEVER;
                }
                self.pump(id);
            }
            Kind::Later(later) => self.owe(id, later, manner),
        }
    }

    /// The answer will come later, or is there already.
    fn owe(&mut self, id: ConnectionId, later: Later, manner: Manner) {
        let Later { waiting, otherwise } = later;
        if waiting.attend(&self.core.shared, id) {
            // A thread that was faster than we are. A responder's answer is never put off.
            let reply = waiting.take().unwrap_or_else(Reply::failed);
            return self.reply(id, reply, manner);
        }
        let core = &mut self.core;
        let timeout_ms = match &otherwise {
            // Zero is no time at all here.
            Some((timeout, _)) => crate::config::millis(*timeout).max(1),
            None => core.config.response_timeout_ms,
        };
        let deadline_ms = after(core.soon_ms, timeout_ms);
        let Some(http) = core.http_entry(id) else { return };
        let otherwise = otherwise.map(|(_, response)| response);
        http.stage = Stage::Owed(Box::new(Owed { waiting, otherwise, manner }));
        if let Some(connection) = core.table.get_mut(id) {
            connection.deadline_ms = deadline_ms;
        }
        core.arm_timer(id);
    }

    /// The answer that was put off is there.
    pub(super) fn pay(&mut self, id: ConnectionId) {
        let Some(owed) = self.take_owed(id) else { return };
        let reply = owed.waiting.take().unwrap_or_else(Reply::failed);
        self.reply(id, reply, owed.manner);
    }

    /// The answer that was put off did not come in time.
    pub(super) fn pay_otherwise(&mut self, id: ConnectionId) {
        let Some(owed) = self.take_owed(id) else { return };
        let Owed { waiting, otherwise, manner } = *owed;
        // It may have come in this very turn.
        match (waiting.take(), otherwise) {
            (Some(reply), _) => self.reply(id, reply, manner),
            (None, Some(response)) => self.reply(id, response.into(), manner),
            (None, None) => self.refuse_request(id, Refusal::Unanswered, manner.head_only),
        }
    }

    fn take_owed(&mut self, id: ConnectionId) -> Option<Box<Owed>> {
        let connection = self.core.table.get_mut(id)?;
        let Phase::Http(Some(http)) = &mut connection.phase else { return None };
        match std::mem::take(&mut http.stage) {
            Stage::Owed(owed) => {
                connection.deadline_ms = NEVER;
                Some(owed)
            }
            other => {
                http.stage = other;
                None
            }
        }
    }

    /// The last byte of an answer is queued.
    pub(super) fn answered(&mut self, id: ConnectionId, keep_alive: bool) {
        if !keep_alive || self.core.stopping.began {
            return self.end_with(id, b"");
        }
        let Some(http) = self.core.http_entry(id) else { return };
        http.stage = Stage::Head;
        http.answered = true;
        http.head_began = false;
    }
}
