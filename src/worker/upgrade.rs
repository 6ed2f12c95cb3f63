//! The stage before the first frame: request head in, 101 or another HTTP answer out.
//!
//! The grammar and every check live in `protocol::upgrade`; here a complete head is matched with
//! the server's paths. One request per connection: whatever is not upgraded is answered with
//! `Connection: close`.

use super::Crank;
use super::paths::Entry;
use super::route::{Call, Outcome};
use crate::connection::{Live, NEVER, Phase, Upgrading};
use crate::driver::ConnectionId;
use crate::error::CloseCause;
use crate::http::Response;
use crate::protocol::upgrade::{
    HeadScanner, Refusal, Request, ServerHandshake, write_http_response,
};
use crate::protocol::{Endpoint, Limits};

/// What a complete request head comes to.
enum Answer {
    /// 101: the frames of this route follow.
    Upgrade { route: u16, response: Vec<u8> },
    /// Any other answer; the connection ends after it.
    Http { status: u16, response: Vec<u8> },
}

impl Crank {
    /// Bytes of a connection whose request head is not complete.
    pub(super) fn upgrade(&mut self, id: ConnectionId, bytes: &mut [u8]) {
        let core = &mut self.core;
        let Some(connection) = core.table.get_mut(id) else { return };
        let Phase::Upgrade(upgrading) = &mut connection.phase else { return };
        let limits = &core.config.limits;
        match upgrading {
            None => {
                let mut scanner = HeadScanner::new();
                match scanner.scan(bytes, limits) {
                    Ok(Some(head_len)) => {
                        let (head, rest) = bytes.split_at_mut(head_len);
                        self.answer(id, head, rest);
                    }
                    Ok(None) => {
                        *upgrading = Some(Box::new(Upgrading { head: bytes.to_vec(), scanner }));
                    }
                    Err(refusal) => self.refuse(id, refusal),
                }
            }
            Some(upgrading) => {
                upgrading.head.extend_from_slice(bytes);
                match upgrading.scanner.scan(&upgrading.head, limits) {
                    Ok(Some(head_len)) => {
                        let mut bytes = std::mem::take(&mut upgrading.head);
                        let (head, rest) = bytes.split_at_mut(head_len);
                        self.answer(id, head, rest);
                    }
                    Ok(None) => {}
                    Err(refusal) => self.refuse(id, refusal),
                }
            }
        }
    }

    /// Answers a complete head; `rest` is what came behind it.
    fn answer(&mut self, id: ConnectionId, head: &[u8], rest: &mut [u8]) {
        match self.judge(head) {
            Err(refusal) => self.refuse(id, refusal),
            Ok(Answer::Http { status, response }) => {
                if status >= 400 {
                    self.core.tally.refused += 1;
                }
                self.end_with(id, &response);
            }
            Ok(Answer::Upgrade { route, response }) => self.open(id, route, &response, rest),
        }
    }

    /// Finds out what the request asks for and whether it may have it.
    fn judge(&self, head: &[u8]) -> Result<Answer, Refusal> {
        let request = Request::parse(head, &self.core.config.limits)?;
        match self.serve(&request) {
            // RFC 9110 9.3.2: the answer to HEAD has no content, whatever its status.
            Err(refusal) if request.method() == "HEAD" => {
                let mut response = Vec::with_capacity(256);
                refusal.write_response_to_head(&mut response);
                self.core.tables().note_refusal(refusal);
                Ok(Answer::Http { status: refusal.status(), response })
            }
            answer => answer,
        }
    }

    /// The same for a head that is well-formed.
    fn serve(&self, request: &Request<'_>) -> Result<Answer, Refusal> {
        if self.core.stopping.began {
            return Err(Refusal::Busy);
        }
        let Some(entry) = self.paths.find(request.path()) else { return Err(Refusal::NotFound) };
        let wants_page = entry.page.is_some() && matches!(request.method(), "GET" | "HEAD");
        match entry.websocket {
            Some(route) if request.asks_for_websocket() || !wants_page => {
                let handshake = ServerHandshake::check(request)?;
                let mut response = Vec::with_capacity(192);
                match handshake.write_response(None, &[], &mut response) {
                    Ok(()) => Ok(Answer::Upgrade { route, response }),
                    // Only headers of the application can be invalid, and it gave none.
                    Err(_) => Ok(Answer::Http { status: 500, response: internal_error(false) }),
                }
            }
            _ if wants_page => Ok(page(entry, request)),
            _ => Err(Refusal::MethodNotAllowed),
        }
    }

    /// The opening handshake succeeded: the connection is open from here on.
    fn open(&mut self, id: ConnectionId, route: u16, response: &[u8], rest: &mut [u8]) {
        let Some(session) = self.routes[usize::from(route)].begin() else {
            self.core.tally.handler_panics += 1;
            self.core.tally.refused += 1;
            return self.end_with(id, &internal_error(false));
        };
        let core = &mut self.core;
        let Some(connection) = core.table.get_mut(id) else { return };
        let streams = self.routes[usize::from(route)].streams();
        let limits = match streams {
            // The length of a streamed message is not limited by what may be buffered.
            true => core.config.limits.max_message(Limits::MAXIMUM),
            false => core.config.limits,
        };
        let endpoint = Endpoint::server(limits);
        connection.phase = Phase::Live(Live { endpoint, session, route, streams });
        connection.deadline_ms = NEVER;
        let outgoing = connection.outgoing.get_or_insert_with(|| core.outgoing.take());
        outgoing.append().extend_from_slice(response);
        core.tally.opened += 1;
        core.limit_lifetime(id);
        core.mark_dirty(id);
        core.arm_timer(id);
        let outcome = self.routes[usize::from(route)].call(core, id, session, Call::Open);
        if outcome == Outcome::Panicked {
            return self.end(id, CloseCause::HandlerPanicked);
        }
        self.bury();
        if !rest.is_empty() {
            // RFC 6455 4.1: frames may follow the request in the same segment.
            self.take_input(id, rest);
        }
    }

    /// Answers with an HTTP error and ends the connection.
    pub(super) fn refuse(&mut self, id: ConnectionId, refusal: Refusal) {
        self.core.tally.refused += 1;
        self.core.tables().note_refusal(refusal);
        let mut response = Vec::with_capacity(256);
        refusal.write_response(&mut response);
        self.end_with(id, &response);
    }

    /// Sends the last bytes of a connection that never opened.
    fn end_with(&mut self, id: ConnectionId, response: &[u8]) {
        let core = &mut self.core;
        let deadline_ms =
            super::after(core.now_ms, core.config.close_timeout_ms.max(super::LINGER_MS));
        let Some(connection) = core.table.get_mut(id) else { return };
        connection.phase = Phase::Draining { discarded: 0, finished: false };
        connection.deadline_ms = deadline_ms;
        let outgoing = connection.outgoing.get_or_insert_with(|| core.outgoing.take());
        outgoing.append().extend_from_slice(response);
        core.mark_dirty(id);
        core.arm_timer(id);
    }
}

/// Lets the application answer a plain GET or HEAD.
fn page(entry: &Entry, request: &Request<'_>) -> Answer {
    let page = entry.page.as_ref().map(|page| {
        // A page that panics is this request's problem only.
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| page(request)))
    });
    let head_only = request.method() == "HEAD";
    let mut bytes = Vec::new();
    if let Some(Ok(Response { status, headers, body })) = page {
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect();
        if (200..600).contains(&status)
            && write_http_response(&mut bytes, status, &headers, &body, head_only).is_ok()
        {
            return Answer::Http { status, response: bytes };
        }
    }
    Answer::Http { status: 500, response: internal_error(head_only) }
}

/// The application broke its side of the bargain; the client learns no more than that.
fn internal_error(head_only: bool) -> Vec<u8> {
    let mut response = Vec::new();
    let headers = [("Content-Type", "text/plain; charset=utf-8")];
    let body = b"The server failed to answer.\n";
    // These headers are valid, so this cannot fail; an empty answer would only end the connection.
    let _ = write_http_response(&mut response, 500, &headers, body, head_only);
    response
}
