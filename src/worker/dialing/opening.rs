//! From a socket that has arrived to an open connection: the proxy's tunnel, then the opening
//! handshake (RFC 6455 4.1), each a request and an answer.
//!
//! ```text
//!  begin_opening --> [tunnel] --> secure --> ask --> read the answer --> open
//!                        |                                |
//!                        +---------> refusal <------------+   head, and the beginning of a body
//! ```

use std::io;
use std::sync::Arc;

use super::super::core::after;
use super::super::route::{Call, Outcome, Panicked};
use super::{Crank, State};
use crate::client::{DialError, DialId, DialResponse, DialStage, Plan};
use crate::connection::{Dialing, Live, Phase, Stage, subprotocol};
use crate::driver::ConnectionId;
use crate::error::CloseCause;
use crate::protocol::upgrade::{
    ClientHandshake, Established, HandshakeError, ProxyHandshake, read_answer,
};
use crate::protocol::{Endpoint, Limits};
use crate::random;

/// How long the body of a refusal is waited for.
const BODY_MS: u64 = 1000;

impl Crank {
    /// The connection that is being opened, and nothing else.
    fn dialing(&mut self, id: ConnectionId) -> Option<&mut Dialing> {
        match &mut self.core.table.get_mut(id)?.phase {
            Phase::Dialing(dialing) => Some(dialing),
            _ => None,
        }
    }

    fn plan_of(&mut self, id: ConnectionId) -> Option<Arc<Plan>> {
        let serial = self.dialing(id)?.dial;
        Some(Arc::clone(&self.core.dials.records.get(&serial)?.plan))
    }

    /// The socket has arrived.
    pub(super) fn begin_opening(&mut self, id: ConnectionId) {
        let Some(plan) = self.plan_of(id) else { return };
        let Some(tunnel) = &plan.tunnel else { return self.secure(id) };
        let proxy = ProxyHandshake::new();
        let mut request = Vec::new();
        proxy.write_request(&tunnel.authority, tunnel.authorization.as_deref(), &mut request);
        self.ask(id, Stage::Tunnel(proxy), &request);
    }

    /// A way to the server is there: TLS begins here, if the URL wants it. The request waits in the
    /// queue until the handshake is complete.
    fn secure(&mut self, id: ConnectionId) {
        let Some(plan) = self.plan_of(id) else { return };
        if let Some(secure) = &plan.secure {
            let mut tls = match secure.start() {
                Ok(tls) => tls,
                Err(reason) => return self.securing_failed(id, reason),
            };
            let core = &mut self.core;
            let Some(connection) = core.table.get_mut(id) else { return };
            let hello = &mut core.tls.answer;
            hello.clear();
            tls.greet(hello);
            let outgoing = connection.outgoing.get_or_insert_with(|| core.outgoing.take());
            outgoing.append_sealed(hello);
            connection.tls = Some(tls);
        }
        self.ask_for_websocket(id);
    }

    /// The server did not show who it is, or the other way round.
    pub(in super::super) fn securing_failed(&mut self, id: ConnectionId, reason: String) {
        self.give_up(id, DialError::Tls(reason));
    }

    /// Where the opening of a connection is; `None` for a refusal, which is a report by itself.
    fn stage(&mut self, id: ConnectionId) -> Option<DialStage> {
        let connection = self.core.table.get(id)?;
        let Phase::Dialing(dialing) = &connection.phase else { return None };
        match stage_of(&dialing.stage) {
            Some(_) if connection.tls.as_ref().is_some_and(|tls| !tls.is_open()) => {
                Some(DialStage::Tls)
            }
            stage => stage,
        }
    }

    /// The server can be talked to: asks for a WebSocket.
    fn ask_for_websocket(&mut self, id: ConnectionId) {
        let Some(plan) = self.plan_of(id) else { return };
        let nonce = match random::nonce() {
            Ok(nonce) => nonce,
            Err(error) => return self.opening_failed(id, error),
        };
        let mut handshake = ClientHandshake::new(nonce);
        let mut request = Vec::with_capacity(256);
        let written = plan.write_request(&mut handshake, &mut request);
        debug_assert!(written.is_ok(), "the plan was checked");
        self.ask(id, Stage::Handshake(Box::new(handshake)), &request);
    }

    /// Sends a request; its answer is for the next stage.
    fn ask(&mut self, id: ConnectionId, stage: Stage, request: &[u8]) {
        let core = &mut self.core;
        let Some(connection) = core.table.get_mut(id) else { return };
        let Phase::Dialing(dialing) = &mut connection.phase else { return };
        dialing.stage = stage;
        let outgoing = connection.outgoing.get_or_insert_with(|| core.outgoing.take());
        outgoing.append().extend_from_slice(request);
        core.mark_dirty(id);
    }

    /// Bytes of a connection that is being opened.
    pub(in super::super) fn dialing_received(&mut self, id: ConnectionId, bytes: &mut [u8]) {
        let limits = self.core.config.limits;
        let Some(dialing) = self.dialing(id) else { return };
        dialing.received.extend_from_slice(bytes);
        let received = &dialing.received;
        match &mut dialing.stage {
            Stage::Connecting => debug_assert!(false, "bytes before `Connected`"),
            Stage::Tunnel(proxy) => match proxy.read_response(received, &limits) {
                Ok(None) => {}
                Ok(Some(head_len)) => {
                    let mut early = dialing.received.split_off(head_len);
                    dialing.received.clear();
                    self.secure(id);
                    if !early.is_empty() {
                        let connection = self.core.table.get(id);
                        if connection.is_some_and(|connection| connection.tls.is_some()) {
                            self.take_handshake(id, &early);
                        } else {
                            self.dialing_received(id, &mut early);
                        }
                    }
                }
                Err(HandshakeError::Status(_)) => self.read_refusal(id, true),
                Err(error) => self.give_up(id, DialError::ProxyHandshake(error)),
            },
            Stage::Handshake(handshake) => match handshake.read_response(received, &limits) {
                Ok(None) => {}
                Ok(Some(established)) => {
                    let mut received = std::mem::take(&mut dialing.received);
                    self.open_dialled(id, established, &mut received);
                }
                Err(HandshakeError::Status(_)) => self.read_refusal(id, false),
                Err(error) => self.give_up(id, DialError::Handshake(error)),
            },
            Stage::Refusal { .. } => self.look_at_refusal(id),
        }
    }

    /// The answer is no. What it says is of interest to whoever has to find out why.
    fn read_refusal(&mut self, id: ConnectionId, proxy: bool) {
        let (soon_ms, limits) = (self.core.soon_ms, self.core.config.limits);
        let Some(dialing) = self.dialing(id) else { return };
        let serial = dialing.dial;
        let Some((status, headers, head_len)) = read_answer(&dialing.received, &limits) else {
            return self.give_up(id, DialError::Handshake(HandshakeError::MalformedResponse));
        };
        dialing.received.drain(..head_len);
        let response = Box::new(DialResponse { status, headers, body: Vec::new() });
        dialing.stage = Stage::Refusal { response, proxy };
        if let Some(record) = self.core.dials.records.get_mut(&serial) {
            record.deadline_ms = record.deadline_ms.min(after(soon_ms, BODY_MS));
            self.core.arm_dial(serial);
        }
        self.look_at_refusal(id);
    }

    fn look_at_refusal(&mut self, id: ConnectionId) {
        let Some(dialing) = self.dialing(id) else { return };
        let Stage::Refusal { response, .. } = &dialing.stage else { return };
        if dialing.received.len() >= response.wanted(&dialing.received) {
            self.refused(id);
        }
    }

    /// As much of the refusal is there as will be.
    fn refused(&mut self, id: ConnectionId) {
        let Some(dialing) = self.dialing(id) else { return };
        let received = std::mem::take(&mut dialing.received);
        let stage = std::mem::replace(&mut dialing.stage, Stage::Connecting);
        let Stage::Refusal { mut response, proxy } = stage else { return };
        response.set_body(&received);
        let error = if proxy { DialError::Proxy(response) } else { DialError::Refused(response) };
        self.give_up(id, error);
    }

    /// The other side sent FIN before the connection was open.
    pub(in super::super) fn dialing_ended(&mut self, id: ConnectionId) {
        if self.dialing(id).is_none() {
            return;
        }
        match self.stage(id) {
            Some(stage) => self.give_up(id, DialError::Ended(stage)),
            None => self.refused(id),
        }
    }

    /// The connection broke before it was open.
    pub(super) fn opening_failed(&mut self, id: ConnectionId, error: io::Error) {
        if self.dialing(id).is_none() {
            return;
        }
        match self.stage(id) {
            Some(stage) => self.give_up(id, DialError::Broken(stage, error)),
            None => self.refused(id),
        }
    }

    /// The time for the attempt is over.
    pub(super) fn opening_timed_out(&mut self, id: ConnectionId) {
        if self.dialing(id).is_none() {
            return;
        }
        match self.stage(id) {
            Some(stage) => self.give_up(id, DialError::Timeout(stage)),
            None => self.refused(id),
        }
    }

    fn give_up(&mut self, id: ConnectionId, error: DialError) {
        let Some(dialing) = self.dialing(id) else { return };
        let serial = dialing.dial;
        self.attempt_failed(serial, error);
    }

    /// The opening handshake succeeded: the connection is open from here on. `received` is the
    /// server's answer and what came behind it.
    fn open_dialled(&mut self, id: ConnectionId, established: Established, received: &mut [u8]) {
        let limits = self.core.config.limits;
        let Some(dialing) = self.dialing(id) else { return };
        let serial = dialing.dial;
        let Some(record) = self.core.dials.records.get(&serial) else { return };
        let route = record.route;
        let (plan, Established { head_len, subprotocol, deflate }) =
            (Arc::clone(&record.plan), established);
        let (status, headers, _) = read_answer(received, &limits).unwrap_or_default();
        let response = DialResponse { status, headers, body: Vec::new() };
        let dial = DialId { serial, worker: self.core.worker };
        let session = match self.routes[usize::from(route)].connected(dial, &response) {
            Ok(Some(session)) => session,
            Ok(None) => return self.give_up(id, DialError::Declined),
            Err(Panicked) => {
                self.core.tally.handler_panics += 1;
                return self.give_up(id, DialError::Declined);
            }
        };
        let streams = self.routes[usize::from(route)].streams();
        let limits = if streams { limits.max_message(Limits::MAXIMUM) } else { limits };
        let core = &mut self.core;
        let Some(connection) = core.table.get_mut(id) else { return };
        let mut endpoint = Endpoint::client(limits, Box::new(random::masking_key));
        if let Some(agreed) = deflate {
            endpoint = endpoint.with_deflate(plan.deflate, agreed);
        }
        connection.phase = Phase::Live(Live { endpoint, session, route, streams, client: true });
        connection.last_received_ms = core.soon_ms;
        let slot = id.slot() as u32;
        if let Some(name) = subprotocol {
            connection.subprotocol = subprotocol::CHOSEN;
            core.chosen_subprotocols.insert(slot, name.into());
        }
        if let Some(record) = core.dials.records.get_mut(&serial) {
            record.state = State::Open { id, since_ms: core.now_ms };
        }
        core.arm_dial(serial);
        core.dials.open.insert(slot, serial);
        core.tally.opened += 1;
        core.arm_timer(id);
        let outcome = self.routes[usize::from(route)].call(core, id, session, Call::Open);
        if outcome == Outcome::Panicked {
            return self.end(id, CloseCause::HandlerPanicked);
        }
        self.bury();
        if received.len() > head_len {
            // Frames may follow the answer in the same segment, which may have waited for a turn.
            self.core.begin_share();
            self.take_input(id, &mut received[head_len..]);
        }
    }
}

/// For reports; `None` for a refusal, which is a report by itself.
fn stage_of(stage: &Stage) -> Option<DialStage> {
    match stage {
        Stage::Connecting => Some(DialStage::Connecting),
        Stage::Tunnel(_) => Some(DialStage::Tunnel),
        Stage::Handshake(_) => Some(DialStage::Handshake),
        Stage::Refusal { .. } => None,
    }
}
