//! What a request asks for, and how a connection becomes a WebSocket.
//!
//! What comes in: parsed heads. What goes out: calls of routes, 101, refusals. Every check of
//! RFC 6455 section 4 lives in `protocol::upgrade`.

use std::any::Any;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::bodies::{Called, whole_body};
use crate::connection::http::{Deciding, Sink, Stage};
use crate::connection::{Connection, Live, NEVER, Phase, subprotocol};
use crate::driver::ConnectionId;
use crate::error::CloseCause;
use crate::handle::Handle;
use crate::http::request::{PeerAddr, Request};
use crate::http::response::Response;
use crate::http::writing::Manner;
use crate::promise::Pending;
use crate::protocol::upgrade::{self, Expectation, Refusal, ServerHandshake};
use crate::protocol::{Deflate, DeflateParameters, Endpoint, Limits};
use crate::upgrade::UpgradeRequest;
use crate::worker::core::after;
use crate::worker::paths::{Page, Responsible};
use crate::worker::route::{Call, Outcome, Verdict, guard};
use crate::worker::{Core, Crank};

/// What a decision about an upgrade comes to.
enum Answer {
    /// 101: frames follow.
    Upgrade(Opening),
    /// Any other answer; the connection ends after it.
    Rejected(Response),
    /// None yet: the application has put the decision off.
    Later { route: u16, pending: Box<dyn Pending> },
}

/// An accepted upgrade: its session has begun, its 101 is written.
pub(in crate::worker) struct Opening {
    pub(in crate::worker) route: u16,
    pub(in crate::worker) session: u32,
    /// As [`Connection::subprotocol`] keeps it.
    pub(in crate::worker) agreed: u16,
    /// The name, if that is `CHOSEN`.
    pub(in crate::worker) chosen: Option<Box<str>>,
    /// Compression as it was agreed on, with the settings of this side.
    pub(in crate::worker) deflate: Option<(Deflate, DeflateParameters)>,
    /// Empty if somebody else has sent it.
    pub(in crate::worker) response: Vec<u8>,
}

/// The connection that a request came on.
pub(super) struct Peer<'a> {
    pub(super) core: &'a Core,
    pub(super) id: ConnectionId,
}

impl PeerAddr for Peer<'_> {
    fn peer_addr(&self) -> Option<SocketAddr> {
        self.core.peer_addr(self.id)
    }

    fn client_ip(&self, head: &upgrade::Request<'_>) -> Option<IpAddr> {
        let proxied = match self.core.table.get(self.id).map(|connection| &connection.phase) {
            Some(Phase::Http(Some(http))) => http.proxied,
            _ => None,
        };
        let source = proxied.or_else(|| self.peer_addr());
        self.core.config.trust.client_ip(source.map(|addr| addr.ip()), head)
    }

    fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.core.shared) }
    }

    fn is_secure(&self) -> bool {
        self.core.table.get(self.id).is_some_and(|connection| connection.tls.is_some())
    }

    #[cfg(feature = "tls-no-provider")]
    fn certificates(&self) -> Vec<&[u8]> {
        let tls = self.core.table.get(self.id).and_then(|connection| connection.tls.as_ref());
        tls.map_or(Vec::new(), |tls| tls.peer_certificates())
    }

    #[cfg(feature = "tls-no-provider")]
    fn server_name(&self) -> Option<&str> {
        let tls = self.core.table.get(self.id).and_then(|connection| connection.tls.as_ref());
        tls.and_then(|tls| tls.server_name())
    }
}

impl Core {
    /// Whether this peer, of which nothing was read, is a proxy that begins with a PROXY header.
    pub(super) fn begins_with_proxy_header(&self, id: ConnectionId) -> bool {
        let proxies = &self.config.trust.proxy_protocol;
        if proxies.is_empty() {
            return false;
        }
        let nothing_read = |connection: &Connection| matches!(connection.phase, Phase::Http(None));
        self.table.get(id).is_some_and(nothing_read)
            && proxies.contain(self.peer_addr(id).map(|addr| addr.ip()))
    }
}

impl Crank {
    /// Finds out who answers a request, and has it answered, or its body awaited. Answers how many
    /// bytes of what came behind its head were used.
    pub(super) fn serve(
        &mut self,
        id: ConnectionId,
        request: &upgrade::Request<'_>,
        head: &[u8],
        rest: &mut [u8],
    ) -> Result<usize, Refusal> {
        let Self { core, routes, paths, .. } = self;
        if core.stopping.began {
            return Err(Refusal::Busy);
        }
        if !core.config.trust.knows_host(request.host()) {
            return Err(Refusal::Misdirected);
        }
        let mut manner = Manner::of(request);
        match paths.responsible(request.method(), request.path(), request.asks_for_websocket()) {
            Responsible::WebSocket(route, parameters) => {
                let handshake = ServerHandshake::check(request)?;
                let verdict = {
                    let peer = Peer { core, id };
                    let request = Request::new(request, parameters, b"", &peer);
                    let request = UpgradeRequest::new(request, handshake);
                    let settings = paths.websocket(route);
                    let origins = settings.origins.as_ref().unwrap_or(&core.config.origins);
                    let mut allowed = false;
                    let asked = guard(|| allowed = origins.allow(&request));
                    if !allowed || asked == Outcome::Panicked {
                        return Err(Refusal::Forbidden);
                    }
                    routes[usize::from(route)].upgrade(&request)
                };
                let answer = self.carry_out(id, route, &handshake, verdict);
                return Ok(self.give(id, answer, head, rest));
            }
            Responsible::Page(page, parameters) => {
                if request.expectation() == Expectation::Unknown {
                    return Err(Refusal::ExpectationFailed);
                }
                let nothing_yet = rest.is_empty();
                let body = match page {
                    Page::Whole(_) => match whole_body(request, rest, core.config.max_body)? {
                        Some(body) => body,
                        None => {
                            let sink = Sink::Buffer(Vec::new());
                            self.await_body(id, request, head, sink, nothing_yet);
                            return Ok(0);
                        }
                    },
                    Page::Pieces(_) => b"",
                };
                let used = body.len();
                let called = {
                    let peer = Peer { core, id };
                    page.call(&Request::new(request, parameters, body, &peer))
                };
                match called {
                    Called::Reply(reply) => self.reply(id, reply, manner),
                    Called::Intake(intake) => self.intake(id, intake, request, head, nothing_yet),
                    Called::Panicked => self.fail(id),
                }
                return Ok(used);
            }
            Responsible::WebSocketOnly => return Err(Refusal::UpgradeRequired),
            Responsible::OtherMethod(allow) if request.method() == "OPTIONS" => {
                manner.keep_alive &= request.body_length().is_empty();
                let response = Response::new(204).header("Allow", allow);
                self.reply(id, response.into(), manner);
            }
            Responsible::OtherMethod(allow) => {
                core.tables().note_refusal(Refusal::MethodNotAllowed);
                manner.keep_alive &= request.body_length().is_empty();
                let response = Response::text("This method is not allowed here.\n");
                let response = response.status(405).header("Allow", allow);
                self.reply(id, response.into(), manner);
            }
            Responsible::Nobody => {
                core.tables().note_refusal(Refusal::NotFound);
                manner.keep_alive &= request.body_length().is_empty();
                let response = Response::text("There is nothing here.\n").status(404);
                self.reply(id, response.into(), manner);
            }
        }
        Ok(0)
    }

    /// Gives the answer to the upgrade request `head`; all of `rest` is used then.
    fn give(&mut self, id: ConnectionId, answer: Answer, head: &[u8], rest: &mut [u8]) -> usize {
        match answer {
            Answer::Rejected(response) => {
                self.reply(id, response.into(), Manner::LAST);
                rest.len()
            }
            Answer::Upgrade(opening) => {
                self.open(id, opening, rest);
                rest.len()
            }
            Answer::Later { route, pending } => {
                self.wait(id, route, pending, head);
                // Kept until the decision is there (RFC 6455 4.1: frames may follow at once).
                0
            }
        }
    }

    /// The application has put the decision off: the connection waits for it.
    fn wait(&mut self, id: ConnectionId, route: u16, pending: Box<dyn Pending>, head: &[u8]) {
        let core = &mut self.core;
        let deadline_ms = after(core.soon_ms, core.config.upgrade_timeout_ms);
        let Some(http) = core.http_entry(id) else { return };
        // On a new connection the deadline of the handshake counts, too.
        let first = !http.answered;
        http.stage = Stage::Deciding(Deciding { route, pending, head: head.to_vec() });
        let Some(connection) = core.table.get_mut(id) else { return };
        connection.deadline_ms = match first {
            true => connection.deadline_ms.min(deadline_ms),
            false => deadline_ms,
        };
        core.arm_timer(id);
    }

    /// The decision about an upgrade that the application had put off is there.
    pub(super) fn decided(&mut self, id: ConnectionId) {
        let Some(http) = self.core.http_mut(id) else { return };
        let Stage::Deciding(deciding) = std::mem::take(&mut http.stage) else { return };
        let Deciding { route, pending, head } = deciding;
        let mut held = std::mem::take(&mut http.input);
        if self.core.table.get(id).is_some_and(|connection| connection.reading_paused) {
            self.core.resume_reading(id);
        }
        let pending: &dyn Any = &*pending;
        let verdict = self.routes[usize::from(route)].decided(pending);
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
            Verdict::Reject(response) => return Answer::Rejected(response),
            Verdict::Defer(pending) if pending.attend(&self.core.shared, id) => {
                // A thread that was faster than we are. A ticket's answer is never a deferral.
                let pending: Box<dyn Any> = pending;
                let verdict = self.routes[usize::from(route)].decided(&*pending);
                return self.carry_out(id, route, handshake, verdict);
            }
            Verdict::Defer(pending) => return Answer::Later { route, pending },
            Verdict::Panicked => {
                self.core.tally.handler_panics += 1;
                return Answer::Rejected(Response::failed());
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
            return Answer::Rejected(Response::failed());
        }
        let chosen = choice.filter(|_| agreed == subprotocol::CHOSEN).map(|name| name.into());
        let deflate = handshake.deflate().map(|agreed| (settings, agreed));
        Answer::Upgrade(Opening { route, session, agreed, chosen, deflate, response })
    }

    /// The opening handshake succeeded: the connection is open from here on.
    pub(in crate::worker) fn open(&mut self, id: ConnectionId, opening: Opening, rest: &mut [u8]) {
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
        connection.last_received_ms = core.soon_ms;
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
            // RFC 6455 4.1: frames may follow the request in the same segment. The decision about it
            // need not have come with bytes of this connection.
            self.core.begin_share();
            self.take_input(id, rest);
        }
    }
}
