//! One slot per peer: which stage its next byte goes to, and what it has to send.
//!
//! What comes in: nothing but the worker's calls. This folder holds state and moves it; it never
//! calls a driver or a handler.
//!
//! ```text
//!  accepted --> Http --101--> Live ----Close or error sent-----> Draining --> Gone --> removed
//!                |              |                                   ^          ^
//!                +--refusal, last answer of a connection------------+          |
//!                +--reset, FIN, timeout--------+-------------------------------+
//!
//!  connected by us --> Dialing --101--> Live ...
//!                         +--anything else--> Gone
//! ```
//!
//! `Http` lasts for any number of requests; `http` has its stages. `Live` covers the open
//! connection and the wait for the answer to our Close: the close handshake itself (RFC 6455 7.1) lives in `protocol::state`. In `Draining` everything queued is
//! flushed, then FIN goes out, then input is discarded for a bounded time, so that a reset cannot
//! destroy the Close frame on its way. `Gone` waits for the driver's `Released`.

pub(crate) mod cork;
pub(crate) mod http;
pub(crate) mod table;

pub(crate) use cork::Cork;
pub(crate) use http::Http;
pub(crate) use table::Table;

use crate::client::DialResponse;
use crate::outgoing::Outgoing;
use crate::protocol::Endpoint;
use crate::protocol::upgrade::{ClientHandshake, ProxyHandshake};
use crate::tls::Tls;

/// A moment that never comes.
pub(crate) const NEVER: u64 = u64::MAX;

/// How an agreed subprotocol is kept in 16 bits: as its index in `Config::subprotocols`, or as
/// one of these.
pub(crate) mod subprotocol {
    /// None was agreed on.
    pub(crate) const NONE: u16 = u16::MAX;
    /// One of the application's choice, in `Core::chosen_subprotocols`.
    pub(crate) const CHOSEN: u16 = u16::MAX - 1;
}

/// State of one peer. Its size bounds the cost of an idle connection; a test guards it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) phase: Phase,
    /// Borrowed from the pool while there is something to send or to hold.
    pub(crate) outgoing: Option<Box<Outgoing>>,
    /// What lies between the socket and everything else, if it is not in the clear.
    pub(crate) tls: Option<Box<Tls>>,
    /// When the peer last sent something.
    pub(crate) last_received_ms: u64,
    /// Absolute deadline of the phase: request, close handshake or draining.
    pub(crate) deadline_ms: u64,
    /// Is in the worker's list of connections to flush.
    pub(crate) dirty: bool,
    /// The socket is full; `Writable` will come.
    pub(crate) blocked: bool,
    /// The driver was told not to read.
    pub(crate) reading_paused: bool,
    /// A keep-alive ping went out since the peer last sent something.
    pub(crate) pinged: bool,
    /// The peer sent FIN while input was still held.
    pub(crate) peer_ended: bool,
    /// The application asked not to read.
    pub(crate) paused_by_handler: bool,
    /// Had its share of this turn, and is in the list of those that go on in the next one.
    pub(crate) postponed: bool,
    /// Is in the worker's list of connections to read again.
    pub(crate) resume_due: bool,
    /// What was agreed on in the opening handshake; see [`subprotocol`].
    pub(crate) subprotocol: u16,
}

/// The stage that eats the next byte.
#[derive(Debug)]
pub(crate) enum Phase {
    /// HTTP requests; nothing is allocated before the first byte.
    Http(Option<Box<Http>>),
    /// A connection of our own making that is not open yet.
    Dialing(Box<Dialing>),
    /// Frames.
    Live(Live),
    /// Our last bytes leave, input is discarded.
    Draining {
        /// Bytes discarded so far.
        discarded: usize,
        /// FIN has been sent, or is left to the server to send first.
        finished: bool,
        /// We are the client, and the close handshake is done.
        server_first: bool,
    },
    /// Closed; waiting for the driver to release it.
    Gone,
}

impl Phase {
    /// Whether our FIN follows what is queued, without anything in between.
    pub(crate) fn ends_when_drained(&self) -> bool {
        matches!(self, Phase::Draining { finished: false, server_first: false, .. })
    }
}

/// A connection on its way to a server; its deadline is that of the whole dial.
#[derive(Debug)]
pub(crate) struct Dialing {
    /// Serial of the dial.
    pub(crate) dial: u64,
    pub(crate) stage: Stage,
    /// What came of the answer that is being read.
    pub(crate) received: Vec<u8>,
}

/// What the next byte of a [`Dialing`] connection belongs to.
///
/// ```text
///  Connecting --> Tunnel, with a proxy --> (TLS belongs here) --> Handshake --> Live
///                    |                                               |
///                    +------------------> Refusal <------------------+
/// ```
#[derive(Debug)]
pub(crate) enum Stage {
    /// Nothing: the socket has not arrived.
    Connecting,
    /// The proxy's answer.
    Tunnel(ProxyHandshake),
    /// The server's answer.
    Handshake(Box<ClientHandshake>),
    /// The body of an answer that says no.
    Refusal {
        response: Box<DialResponse>,
        /// It is the proxy's.
        proxy: bool,
    },
}

/// An open (or closing) WebSocket connection.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) endpoint: Endpoint,
    /// Key of the session inside its route.
    pub(crate) session: u32,
    /// Index of the route.
    pub(crate) route: u16,
    /// Its handler takes messages in parts.
    pub(crate) streams: bool,
    /// We are the client: frames that were made for many cannot be sent as they are.
    pub(crate) client: bool,
}

impl Connection {
    /// A connection that was just accepted.
    pub(crate) fn new(now_ms: u64, deadline_ms: u64) -> Self {
        Self {
            phase: Phase::Http(None),
            outgoing: None,
            tls: None,
            last_received_ms: now_ms,
            deadline_ms,
            dirty: false,
            blocked: false,
            reading_paused: false,
            pinged: false,
            peer_ended: false,
            paused_by_handler: false,
            postponed: false,
            resume_due: false,
            subprotocol: subprotocol::NONE,
        }
    }

    /// A connection that is being made.
    pub(crate) fn dialing(now_ms: u64, dial: u64) -> Self {
        let dialing = Dialing { dial, stage: Stage::Connecting, received: Vec::new() };
        Self { phase: Phase::Dialing(Box::new(dialing)), ..Self::new(now_ms, NEVER) }
    }

    /// Bytes that the socket has not taken.
    pub(crate) fn unsent_len(&self) -> usize {
        self.outgoing.as_ref().map_or(0, |outgoing| outgoing.unsent_len())
    }

    /// True if received bytes wait for the socket to take what they will cause.
    pub(crate) fn holds_input(&self) -> bool {
        self.outgoing.as_ref().is_some_and(|outgoing| outgoing.holds_input())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_stays_small() {
        // The budget of 256 bytes also pays for the timer node, the driver's entry, the
        // generation and the session.
        assert!(size_of::<Connection>() <= 184, "{} bytes", size_of::<Connection>());
    }
}
