//! Connections that another server has accepted and upgraded: from any thread to a slot.
//!
//! ```text
//!  any thread:  checks, a place at the worker with the fewest connections, its mailbox
//!  the worker:  slot -> session -> on_open -> what was read behind the request -> frames
//! ```

use std::any::{Any, TypeId};

use super::Crank;
use super::http::upgrade::Opening;
use super::mailbox::{Command, Shared};
use super::paths::Responsible;
use super::places::{NoPlace, Place};
use super::route::Begun;
use super::shutdown::REASON;
use crate::adopt::{AdoptError, Negotiated, NotAdopted};
use crate::connection::{NEVER, subprotocol};
use crate::driver::{AcceptedSocket, ConnectedSocket, ConnectionId};
use crate::protocol::{CloseCode, Deflate, DeflateParameters};
use crate::upgrade::Session;

/// Makes the session of a connection on the thread of its worker.
pub(crate) struct Maker<S>(pub(crate) Box<dyn FnOnce() -> S + Send>);

/// A [`Maker`] whose session type only its route knows.
pub(crate) struct AnyMaker {
    session: TypeId,
    maker: Box<dyn Any + Send>,
}

impl AnyMaker {
    pub(crate) fn new<S: Session>(make: impl FnOnce() -> S + Send + 'static) -> Self {
        Self { session: TypeId::of::<S>(), maker: Box::new(Maker(Box::new(make))) }
    }

    /// The maker, if it makes sessions of this type.
    pub(crate) fn downcast<S: Session>(self) -> Option<Maker<S>> {
        self.maker.downcast().ok().map(|maker| *maker)
    }
}

impl std::fmt::Debug for AnyMaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AnyMaker")
    }
}

/// A connection on its way to its worker.
#[derive(Debug)]
pub(crate) struct Adoption {
    pub(super) socket: AcceptedSocket,
    pub(super) place: Place,
    pub(super) route: u16,
    pub(super) subprotocol: Option<String>,
    pub(super) deflate: Option<(Deflate, DeflateParameters)>,
    /// What the client sent behind its request.
    pub(super) leftover: Vec<u8>,
    /// `None` for the session that a connection begins with by default.
    pub(super) maker: Option<AnyMaker>,
}

/// Hands a connection to the worker with the fewest.
pub(crate) fn post(
    shared: &Shared,
    socket: ConnectedSocket,
    leftover: Vec<u8>,
    negotiated: Negotiated,
    maker: Option<AnyMaker>,
) -> Result<(), NotAdopted> {
    let checked = check(shared, &socket, &negotiated, maker.as_ref());
    let (route, place) = match checked {
        Ok(checked) => checked,
        Err(error) => return Err(NotAdopted { error, socket }),
    };
    let mailbox = &shared.mailboxes[usize::from(place.worker())];
    let Negotiated { subprotocol, deflate, .. } = negotiated;
    let socket = socket.into_accepted();
    let adoption = Adoption { socket, place, route, subprotocol, deflate, leftover, maker };
    match mailbox.post_newcomer(Command::Adopt(Box::new(adoption))) {
        Ok(()) => Ok(()),
        Err(Command::Adopt(adoption)) => {
            let socket = ConnectedSocket::from_accepted(adoption.socket);
            Err(NotAdopted { error: AdoptError::Stopped, socket })
        }
        Err(_) => unreachable!("a mailbox gives back what it was given"),
    }
}

/// The route, and a place at a worker.
fn check(
    shared: &Shared,
    socket: &ConnectedSocket,
    negotiated: &Negotiated,
    maker: Option<&AnyMaker>,
) -> Result<(u16, Place), AdoptError> {
    let path = negotiated.path.split('?').next().unwrap_or_default();
    let Responsible::WebSocket(route, _) = shared.paths.responsible("GET", path, true) else {
        return Err(AdoptError::NoSuchPath);
    };
    if maker.is_some_and(|maker| maker.session != shared.paths.session_type(route)) {
        return Err(AdoptError::WrongSession);
    }
    negotiated.check(shared.paths.streams(route))?;
    if shared.refuses_newcomers() {
        return Err(AdoptError::Stopped);
    }
    let ip = socket.prepare(&shared.tcp).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidInput => AdoptError::NotConnected,
        kind => AdoptError::Io(kind),
    })?;
    let place = shared.places.take(shared.places.fewest(), ip).map_err(|no| match no {
        NoPlace::Full => AdoptError::Full,
        NoPlace::AddressFull => AdoptError::AddressFull,
    })?;
    Ok((route, place))
}

impl Crank {
    /// Another thread has handed a connection over.
    pub(super) fn adopt(&mut self, adoption: Adoption) {
        let Adoption { socket, place, route, subprotocol, deflate, mut leftover, maker } = adoption;
        let core = &mut self.core;
        core.tally.adopted += 1;
        core.tally.bytes_received += leftover.len() as u64;
        let Some(id) = core.seat(socket, place, NEVER) else { return };
        if core.stopping.began {
            core.stopping.report.refused += 1;
            return self.turn_away(id, CloseCode::GOING_AWAY, REASON);
        }
        let session = match self.routes[usize::from(route)].begin(maker) {
            Begun::Session(session) => session,
            Begun::Nothing => {
                log::error!("a handler whose session has no default needs adopt_with");
                return self.turn_away(id, CloseCode::INTERNAL_ERROR, "");
            }
            Begun::Panicked => {
                self.core.tally.handler_panics += 1;
                return self.turn_away(id, CloseCode::INTERNAL_ERROR, "");
            }
        };
        let names = &self.core.config.subprotocols;
        let mut own = self.paths.websocket(route).subprotocols.clone();
        let listed = own.find(|&index| Some(&names[usize::from(index)]) == subprotocol.as_ref());
        let agreed = match (listed, &subprotocol) {
            (Some(index), _) => index,
            (None, Some(_)) => subprotocol::CHOSEN,
            (None, None) => subprotocol::NONE,
        };
        let chosen = subprotocol.filter(|_| agreed == subprotocol::CHOSEN).map(Into::into);
        let opening = Opening { route, session, agreed, chosen, deflate, response: Vec::new() };
        self.open(id, opening, &mut leftover);
    }

    /// Sends a Close to a client that has been told 101, but gets no session.
    fn turn_away(&mut self, id: ConnectionId, code: CloseCode, reason: &str) {
        self.core.tables().note_close_sent(code.get());
        // RFC 6455 5.5.1: FIN and opcode 8, not masked; the reason is one of ours, and short.
        let mut close = vec![0x88, (2 + reason.len()) as u8];
        close.extend_from_slice(&code.get().to_be_bytes());
        close.extend_from_slice(reason.as_bytes());
        self.end_with(id, &close);
    }
}
