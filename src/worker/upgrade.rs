//! The stage before the first frame: request head in, 101 or another HTTP answer out.
//!
//! The grammar and every check live in `protocol::upgrade`; here a complete head is matched with
//! the server's paths. One request per connection: whatever is not upgraded is answered with
//! `Connection: close`.

use std::any::Any;
use std::net::{IpAddr, SocketAddr};

use super::paths::Responsible;
use super::route::{Call, Outcome, Verdict, guard};
use super::{Core, Crank};
use crate::connection::{Connection, Deciding, Live, NEVER, Phase, Upgrading, subprotocol};
use crate::driver::ConnectionId;
use crate::error::CloseCause;
use crate::http::request::PeerAddr;
use crate::http::{Request, Response};
use crate::protocol::upgrade::{self, HeadScanner, Refusal, ServerHandshake, write_http_response};
use crate::protocol::{Deflate, DeflateParameters, Endpoint, Limits};
use crate::trust::proxy_protocol;
use crate::upgrade::UpgradeRequest;
use crate::upgrade::ticket::Pending;

/// Received bytes behind an undecided request from which on the connection is not read.
pub(super) const MAX_HELD: usize = 64 * 1024;

/// What a complete request head comes to.
enum Answer {
    /// 101: frames follow.
    Upgrade(Opening),
    /// Any other answer; the connection ends after it.
    Http { status: u16, response: Vec<u8> },
    /// None yet: the application has put the decision off.
    Later { route: u16, pending: Box<dyn Pending> },
}

/// An accepted upgrade: its session has begun, its 101 is written.
pub(super) struct Opening {
    pub(super) route: u16,
    pub(super) session: u32,
    /// As [`Connection::subprotocol`](crate::connection::Connection::subprotocol) keeps it.
    pub(super) agreed: u16,
    /// The name, if that is `CHOSEN`.
    pub(super) chosen: Option<Box<str>>,
    /// Compression as it was agreed on, with the settings of this side.
    pub(super) deflate: Option<(Deflate, DeflateParameters)>,
    /// Empty if somebody else has sent it.
    pub(super) response: Vec<u8>,
}

/// The connection that a request came on.
struct Peer<'a> {
    core: &'a Core,
    id: ConnectionId,
}

impl PeerAddr for Peer<'_> {
    fn peer_addr(&self) -> Option<SocketAddr> {
        self.core.peer_addr(self.id)
    }

    fn client_ip(&self, head: &upgrade::Request<'_>) -> Option<IpAddr> {
        let proxied = match self.core.table.get(self.id).map(|connection| &connection.phase) {
            Some(Phase::Upgrade(Some(upgrading))) => upgrading.proxied,
            _ => None,
        };
        let source = proxied.or_else(|| self.peer_addr());
        self.core.config.trust.client_ip(source.map(|addr| addr.ip()), head)
    }

    fn is_secure(&self) -> bool {
        self.core.table.get(self.id).is_some_and(|connection| connection.tls.is_some())
    }

    #[cfg(feature = "tls-no-provider")]
    fn certificates(&self) -> Vec<&[u8]> {
        let tls = self.core.table.get(self.id).and_then(|connection| connection.tls.as_ref());
        tls.map_or(Vec::new(), |tls| tls.peer_certificates())
    }
}

impl Core {
    /// Whether this peer, of which nothing was read, is a proxy that begins with a PROXY header.
    fn begins_with_proxy_header(&self, id: ConnectionId) -> bool {
        let proxies = &self.config.trust.proxy_protocol;
        if proxies.is_empty() {
            return false;
        }
        let nothing_read =
            |connection: &Connection| matches!(connection.phase, Phase::Upgrade(None));
        self.table.get(id).is_some_and(nothing_read)
            && proxies.contain(self.peer_addr(id).map(|addr| addr.ip()))
    }
}

impl Crank {
    /// Whether the next bytes of this connection belong to a PROXY header.
    pub(super) fn expects_proxy_header(&self, id: ConnectionId) -> bool {
        match self.core.table.get(id).map(|connection| &connection.phase) {
            Some(Phase::Upgrade(Some(upgrading))) => upgrading.awaits_proxy_header,
            _ => self.core.begins_with_proxy_header(id),
        }
    }

    /// Bytes of a connection whose request head is not complete.
    pub(super) fn upgrade(&mut self, id: ConnectionId, bytes: &mut [u8]) {
        let core = &mut self.core;
        let awaits_proxy_header = core.begins_with_proxy_header(id);
        let Some(connection) = core.table.get_mut(id) else { return };
        let Phase::Upgrade(upgrading) = &mut connection.phase else { return };
        if awaits_proxy_header {
            *upgrading = Some(Box::new(Upgrading { awaits_proxy_header, ..Upgrading::default() }));
        }
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
                        let head = bytes.to_vec();
                        let incomplete = Upgrading { head, scanner, ..Upgrading::default() };
                        *upgrading = Some(Box::new(incomplete));
                    }
                    Err(refusal) => self.refuse(id, refusal),
                }
            }
            Some(upgrading) if upgrading.deciding.is_some() => self.keep(id, bytes),
            Some(upgrading) if upgrading.awaits_proxy_header => self.read_proxy_header(id, bytes),
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

    /// Bytes of a proxy that has to begin with a PROXY header.
    fn read_proxy_header(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Some(connection) = self.core.table.get_mut(id) else { return };
        let Phase::Upgrade(Some(upgrading)) = &mut connection.phase else { return };
        upgrading.head.extend_from_slice(bytes);
        match proxy_protocol::parse(&upgrading.head) {
            Ok(None) => {}
            Ok(Some(header)) => {
                upgrading.awaits_proxy_header = false;
                upgrading.proxied = header.source;
                let mut rest = upgrading.head.split_off(header.len);
                upgrading.head.clear();
                if !rest.is_empty() && connection.tls.is_some() {
                    self.take_handshake(id, &rest);
                } else if !rest.is_empty() {
                    self.upgrade(id, &mut rest);
                }
            }
            Err(proxy_protocol::Malformed) => self.refuse(id, Refusal::InvalidProxyHeader),
        }
    }

    /// Answers a complete head; `rest` is what came behind it.
    fn answer(&mut self, id: ConnectionId, head: &[u8], rest: &mut [u8]) {
        match self.judge(id, head) {
            Err(refusal) => self.refuse(id, refusal),
            Ok(answer) => self.give(id, answer, head, rest),
        }
    }

    /// Gives the answer to the request `head`.
    fn give(&mut self, id: ConnectionId, answer: Answer, head: &[u8], rest: &mut [u8]) {
        match answer {
            Answer::Http { status, response } => {
                if status >= 400 {
                    self.core.tally.refused += 1;
                }
                self.end_with(id, &response);
            }
            Answer::Upgrade(opening) => self.open(id, opening, rest),
            Answer::Later { route, pending } => self.wait(id, route, pending, head, rest),
        }
    }

    /// The application has put the decision off: the connection waits for it.
    fn wait(
        &mut self,
        id: ConnectionId,
        route: u16,
        pending: Box<dyn Pending>,
        head: &[u8],
        rest: &[u8],
    ) {
        let core = &mut self.core;
        let deadline_ms = super::core::after(core.now_ms, core.config.upgrade_timeout_ms);
        let Some(connection) = core.table.get_mut(id) else { return };
        // The head is parsed again once the decision is there; all it said is needed then.
        let deciding = Some(Deciding { route, pending, held: Vec::new() });
        let upgrading = Upgrading { head: head.to_vec(), deciding, ..Upgrading::default() };
        connection.phase = Phase::Upgrade(Some(Box::new(upgrading)));
        connection.deadline_ms = connection.deadline_ms.min(deadline_ms);
        core.arm_timer(id);
        self.keep(id, rest);
    }

    /// Keeps what came behind a request that nobody has decided about (RFC 6455 4.1: frames may
    /// follow at once), and reads no more when that is a lot.
    fn keep(&mut self, id: ConnectionId, bytes: &[u8]) {
        let core = &mut self.core;
        let Some(connection) = core.table.get_mut(id) else { return };
        let Phase::Upgrade(Some(upgrading)) = &mut connection.phase else { return };
        let Some(deciding) = &mut upgrading.deciding else { return };
        deciding.held.extend_from_slice(bytes);
        if deciding.held.len() >= MAX_HELD && !connection.reading_paused {
            connection.reading_paused = true;
            core.driver.pause_reading(id);
        }
    }

    /// The decision about an upgrade that the application had put off is there.
    pub(super) fn decided(&mut self, id: ConnectionId) {
        let Some(connection) = self.core.table.get_mut(id) else { return };
        let Phase::Upgrade(Some(upgrading)) = &mut connection.phase else { return };
        let Some(deciding) = upgrading.deciding.take() else { return };
        let Deciding { route, pending, mut held } = deciding;
        let head = std::mem::take(&mut upgrading.head);
        if connection.reading_paused {
            self.core.resume_reading(id);
        }
        let verdict = self.routes[usize::from(route)].decided(&*pending);
        let limits = self.core.config.limits;
        let request = match upgrade::Request::parse(&head, &limits) {
            Ok(request) => request,
            Err(refusal) => return self.refuse(id, refusal),
        };
        match ServerHandshake::check(&request) {
            Ok(handshake) => {
                let answer = self.carry_out(id, route, &handshake, verdict);
                self.give(id, answer, &head, &mut held);
            }
            // Both have succeeded once with the same bytes.
            Err(refusal) => self.refuse(id, refusal),
        }
    }

    /// Finds out what the request asks for and whether it may have it.
    fn judge(&mut self, id: ConnectionId, head: &[u8]) -> Result<Answer, Refusal> {
        let limits = self.core.config.limits;
        let request = upgrade::Request::parse(head, &limits)?;
        match self.serve(id, &request) {
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
    fn serve(&mut self, id: ConnectionId, head: &upgrade::Request<'_>) -> Result<Answer, Refusal> {
        let Self { core, routes, paths, .. } = self;
        if core.stopping.began {
            return Err(Refusal::Busy);
        }
        if !core.config.trust.knows_host(head.host()) {
            return Err(Refusal::Misdirected);
        }
        let peer = Peer { core, id };
        match paths.responsible(head.method(), head.path(), head.asks_for_websocket()) {
            Responsible::WebSocket(route, parameters) => {
                let handshake = ServerHandshake::check(head)?;
                let request = Request::new(head, parameters, &peer);
                let request = UpgradeRequest::new(request, handshake);
                let settings = paths.websocket(route);
                let origins = settings.origins.as_ref().unwrap_or(&core.config.origins);
                let mut allowed = false;
                let asked = guard(|| allowed = origins.allow(&request));
                if !allowed || asked == Outcome::Panicked {
                    return Err(Refusal::Forbidden);
                }
                let verdict = routes[usize::from(route)].upgrade(&request);
                Ok(self.carry_out(id, route, &handshake, verdict))
            }
            Responsible::Page(page, parameters) => {
                let request = Request::new(head, parameters, &peer);
                let mut response = None;
                // A page that panics is this request's problem only.
                let _ = guard(|| response = Some(page(&request)));
                Ok(http_answer(response, head.method() == "HEAD"))
            }
            Responsible::OtherMethod("GET") => Err(Refusal::MethodNotAllowed),
            Responsible::OtherMethod(allowed) => {
                let response = Response::text("This method is not allowed here.\n")
                    .status(405)
                    .header("Allow", allowed);
                Ok(http_answer(Some(response), false))
            }
            Responsible::WebSocketOnly => Err(Refusal::UpgradeRequired),
            Responsible::Nobody => Err(Refusal::NotFound),
        }
    }

    /// Makes an answer of what the application decided.
    fn carry_out(
        &mut self,
        id: ConnectionId,
        route: u16,
        handshake: &ServerHandshake<'_>,
        verdict: Verdict,
    ) -> Answer {
        let (session, choice, headers) = match verdict {
            Verdict::Accept { session, subprotocol, headers } => (session, subprotocol, headers),
            Verdict::Reject(response) => return http_answer(Some(response), false),
            Verdict::Defer(pending) if pending.attend(&self.core.shared, id) => {
                // A thread that was faster than we are. A ticket's answer is never a deferral.
                let pending: Box<dyn Any> = pending;
                let verdict = self.routes[usize::from(route)].decided(&*pending);
                return self.carry_out(id, route, handshake, verdict);
            }
            Verdict::Defer(pending) => return Answer::Later { route, pending },
            Verdict::Panicked => {
                self.core.tally.handler_panics += 1;
                return http_answer(None, false);
            }
        };
        let names = &self.core.config.subprotocols;
        let mut own = self.paths.websocket(route).subprotocols.clone();
        let agreed = match &choice {
            None => own.find(|&index| {
                let name = &names[usize::from(index)];
                handshake.subprotocols().any(|offered| offered == name)
            }),
            Some(choice) => own.find(|&index| names[usize::from(index)] == **choice),
        };
        let agreed = match (agreed, &choice) {
            (Some(index), _) => index,
            (None, Some(_)) => subprotocol::CHOSEN,
            (None, None) => subprotocol::NONE,
        };
        let name = choice.as_deref().or(names.get(usize::from(agreed)).map(String::as_str));
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect();
        let settings = self.paths.websocket(route).deflate.unwrap_or(self.core.config.deflate);
        let handshake = handshake.with_deflate(&settings);
        let mut response = Vec::with_capacity(192);
        if let Err(error) = handshake.write_response(name, &headers, &mut response) {
            log::error!("an upgrade was accepted with an impossible answer: {error}");
            if self.routes[usize::from(route)].abandon(session) == Outcome::Panicked {
                self.core.tally.handler_panics += 1;
            }
            return http_answer(None, false);
        }
        let chosen = choice.filter(|_| agreed == subprotocol::CHOSEN).map(|name| name.into());
        let deflate = handshake.deflate().map(|agreed| (settings, agreed));
        Answer::Upgrade(Opening { route, session, agreed, chosen, deflate, response })
    }

    /// The opening handshake succeeded: the connection is open from here on.
    pub(super) fn open(&mut self, id: ConnectionId, opening: Opening, rest: &mut [u8]) {
        let Opening { route, session, agreed, chosen, deflate, response } = opening;
        let core = &mut self.core;
        let Some(connection) = core.table.get_mut(id) else { return };
        let streams = self.routes[usize::from(route)].streams();
        let limits = match streams {
            // The length of a streamed message is not limited by what may be buffered.
            true => core.config.limits.max_message(Limits::MAXIMUM),
            false => core.config.limits,
        };
        let mut endpoint = Endpoint::server(limits);
        if let Some((settings, agreed)) = deflate {
            endpoint = endpoint.with_deflate(settings, agreed);
        }
        connection.phase = Phase::Live(Live { endpoint, session, route, streams, client: false });
        connection.deadline_ms = NEVER;
        // The decision may have taken longer than the idle timeout.
        connection.last_received_ms = core.now_ms;
        connection.subprotocol = agreed;
        if let Some(name) = chosen {
            core.chosen_subprotocols.insert(id.slot() as u32, name);
        }
        core.tally.opened += 1;
        if !response.is_empty() {
            let outgoing = connection.outgoing.get_or_insert_with(|| core.outgoing.take());
            outgoing.append().extend_from_slice(&response);
            core.mark_dirty(id);
        }
        core.limit_lifetime(id);
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
    pub(super) fn end_with(&mut self, id: ConnectionId, response: &[u8]) {
        let core = &mut self.core;
        let deadline_ms = core.drain_deadline();
        let Some(connection) = core.table.get_mut(id) else { return };
        connection.phase = Phase::Draining { discarded: 0, finished: false, server_first: false };
        connection.deadline_ms = deadline_ms;
        if connection.reading_paused {
            // What still comes is read and discarded, so that the end is seen.
            connection.reading_paused = false;
            core.driver.resume_reading(id);
        }
        let outgoing = connection.outgoing.get_or_insert_with(|| core.outgoing.take());
        outgoing.append().extend_from_slice(response);
        core.mark_dirty(id);
        core.arm_timer(id);
    }
}

/// The answer that the application gave; `None` if it failed to.
fn http_answer(response: Option<Response>, head_only: bool) -> Answer {
    let mut bytes = Vec::new();
    if let Some(Response { status, headers, body }) = response {
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect();
        match write_http_response(&mut bytes, status, &headers, &body, head_only) {
            Ok(()) => return Answer::Http { status, response: bytes },
            Err(error) => log::error!("an answer could not be sent: {error}"),
        }
    }
    // The application broke its side of the bargain; the client learns no more than that.
    let headers = [("Content-Type", "text/plain; charset=utf-8")];
    let body = b"The server failed to answer.\n";
    // These headers are valid, so this cannot fail; an empty answer would only end the connection.
    let _ = write_http_response(&mut bytes, 500, &headers, body, head_only);
    Answer::Http { status: 500, response: bytes }
}
