//! Bodies of requests: put together up to `max_body`, or handed on as they arrive.
//!
//! What comes in: bytes behind a head. What goes out: calls of routes and uploads. Memory follows
//! the bytes that came, never those that were announced.

use super::upgrade::Peer;
use crate::connection::http::{Receiving, Sink, Stage};
use crate::connection::{NEVER, Phase};
use crate::driver::ConnectionId;
use crate::http::body::{BodyDecoder, Piece};
use crate::http::reply::Reply;
use crate::http::request::Request;
use crate::http::upload::{Decision, Intake, UploadBody};
use crate::http::writing::Manner;
use crate::protocol::upgrade::{self, BodyLength, Expectation, Refusal};
use crate::worker::Crank;
use crate::worker::core::after;
use crate::worker::paths::{Page, Responsible};
use crate::worker::route::{Outcome, guard};

/// A body must bring so many bytes within each `body_timeout`.
pub(crate) const PROGRESS: u64 = 16 * 1024;

/// RFC 9110 15.2.1.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What a page comes to.
pub(super) enum Called {
    Reply(Reply),
    Intake(Intake),
    Panicked,
}

impl Page {
    /// A page that panics is this request's problem only.
    pub(super) fn call(&self, request: &Request<'_>) -> Called {
        let mut called = Called::Panicked;
        let _ = guard(|| {
            called = match self {
                Page::Whole(call) => Called::Reply(call(request)),
                Page::Pieces(call) => Called::Intake(call(request)),
            };
        });
        called
    }
}

/// What came behind the head, if that is the whole body.
pub(super) fn whole_body<'b>(
    head: &upgrade::Request<'_>,
    rest: &'b [u8],
    max_body: usize,
) -> Result<Option<&'b [u8]>, Refusal> {
    match head.body_length() {
        BodyLength::None | BodyLength::Bytes(0) => Ok(Some(b"")),
        BodyLength::Bytes(len) if len > max_body as u64 => Err(Refusal::BodyTooLarge),
        // Not more than `max_body`.
        BodyLength::Bytes(len) => Ok(rest.get(..len as usize)),
        BodyLength::Chunked => Ok(None),
    }
}

impl Crank {
    /// The body of the request is to come.
    pub(super) fn await_body(
        &mut self,
        id: ConnectionId,
        request: &upgrade::Request<'_>,
        head: &[u8],
        sink: Sink,
        nothing_yet: bool,
    ) {
        let core = &mut self.core;
        let deadline_ms = after(core.soon_ms, core.config.body_timeout_ms);
        let Some(http) = core.http_entry(id) else { return };
        http.stage = Stage::Receiving(Box::new(Receiving {
            head: head.to_vec(),
            decoder: BodyDecoder::new(request.body_length()),
            received: 0,
            marked: 0,
            sink,
            manner: Manner::of(request),
        }));
        let Some(connection) = core.table.get_mut(id) else { return };
        connection.deadline_ms = deadline_ms;
        // RFC 9110 10.1.1: not needed once the client has begun with the body anyway.
        if request.expectation() == Expectation::Continue && nothing_yet {
            let outgoing = connection.outgoing.get_or_insert_with(|| core.outgoing.take());
            outgoing.append().extend_from_slice(CONTINUE);
            core.mark_dirty(id);
        }
    }

    /// Takes what belongs to the body off the input; answers how much that was.
    pub(super) fn receive_body(&mut self, id: ConnectionId, input: &[u8]) -> usize {
        let mut rest = input;
        loop {
            let core = &mut self.core;
            let (soon_ms, shared) = (core.soon_ms, &core.shared);
            let Some(connection) = core.table.get_mut(id) else { return input.len() };
            let Phase::Http(Some(http)) = &mut connection.phase else {
                return input.len();
            };
            let Stage::Receiving(receiving) = &mut http.stage else {
                return input.len() - rest.len();
            };
            if receiving.is_paused() {
                return input.len() - rest.len();
            }
            match receiving.decoder.next(&mut rest) {
                Ok(Piece::More) => return input.len(),
                Ok(Piece::End) => {
                    let Stage::Receiving(receiving) = std::mem::take(&mut http.stage) else {
                        return input.len();
                    };
                    connection.deadline_ms = NEVER;
                    self.body_complete(id, *receiving);
                    return input.len() - rest.len();
                }
                Ok(Piece::Data(piece)) => {
                    receiving.received += piece.len() as u64;
                    if receiving.received - receiving.marked >= PROGRESS {
                        receiving.marked = receiving.received;
                        connection.deadline_ms = after(soon_ms, core.config.body_timeout_ms);
                    }
                    let received = receiving.received;
                    match &mut receiving.sink {
                        Sink::Buffer(body) => {
                            if received > core.config.max_body as u64 {
                                self.refuse(id, Refusal::BodyTooLarge);
                                return input.len();
                            }
                            body.extend_from_slice(piece);
                        }
                        Sink::Upload { upload, pauses } => {
                            let mut body =
                                UploadBody { shared, id, received, pauses, answer: None };
                            let outcome = guard(|| upload.on_piece(piece, &mut body));
                            let answer = body.answer;
                            if outcome == Outcome::Panicked {
                                self.fail(id);
                                return input.len();
                            }
                            if let Some(reply) = answer {
                                let manner = Manner { keep_alive: false, ..receiving.manner };
                                self.drop_upload(id);
                                self.reply(id, reply, manner);
                                return input.len();
                            }
                        }
                    }
                }
                Err(refusal) => {
                    self.refuse(id, refusal);
                    return input.len();
                }
            }
        }
    }

    /// The request is there as a whole.
    fn body_complete(&mut self, id: ConnectionId, receiving: Receiving) {
        let Receiving { head, sink, manner, .. } = receiving;
        match sink {
            Sink::Buffer(body) => self.call_again(id, &head, &body, manner),
            Sink::Upload { mut upload, .. } => {
                let mut reply = None;
                let ended = guard(|| reply = Some(upload.on_end()));
                let dropped = guard(move || drop(upload));
                match reply {
                    Some(reply) if ended == Outcome::Returned => {
                        if dropped == Outcome::Panicked {
                            self.core.tally.handler_panics += 1;
                        }
                        self.reply(id, reply, manner);
                    }
                    _ => self.fail(id),
                }
            }
        }
    }

    /// Calls the page of a request whose body is there now.
    fn call_again(&mut self, id: ConnectionId, head: &[u8], body: &[u8], manner: Manner) {
        let limits = self.core.config.limits;
        // Both have succeeded once with the same bytes.
        let request = match upgrade::Request::parse(head, &limits) {
            Ok(request) => request,
            Err(refusal) => return self.refuse(id, refusal),
        };
        let found = self.paths.responsible(request.method(), request.path(), false);
        let Responsible::Page(page, parameters) = found else {
            return self.refuse(id, Refusal::NotFound);
        };
        let called = {
            let peer = Peer { core: &self.core, id };
            page.call(&Request::new(&request, parameters, body, &peer))
        };
        match called {
            Called::Reply(reply) => self.reply(id, reply, manner),
            Called::Intake(_) | Called::Panicked => self.fail(id),
        }
    }

    /// A route decided about a body that is to be taken piece by piece.
    pub(super) fn intake(
        &mut self,
        id: ConnectionId,
        intake: Intake,
        request: &upgrade::Request<'_>,
        head: &[u8],
        nothing_yet: bool,
    ) {
        match intake.decision {
            Decision::Accept(upload) => {
                let sink = Sink::Upload { upload, pauses: Default::default() };
                self.await_body(id, request, head, sink, nothing_yet);
            }
            Decision::Refuse(response) => {
                let mut manner = Manner::of(request);
                manner.keep_alive &= request.body_length().is_empty();
                self.reply(id, response.into(), manner);
            }
        }
    }

    /// The upload has answered before its end. Its end may panic.
    fn drop_upload(&mut self, id: ConnectionId) {
        let Some(http) = self.core.http_mut(id) else { return };
        let stage = std::mem::take(&mut http.stage);
        if guard(move || drop(stage)) == Outcome::Panicked {
            self.core.tally.handler_panics += 1;
        }
    }

    /// The application failed: 500, and the connection ends.
    pub(super) fn fail(&mut self, id: ConnectionId) {
        self.core.tally.handler_panics += 1;
        self.drop_upload(id);
        self.reply(id, Reply::failed(), Manner::LAST);
    }
}
