//! The TLS of one connection: records in, plaintext out, and back.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus,
};
use rustls::{Error, HandshakeKind};

use super::client::explain;
use super::server::{Acceptor, take_asked_for};
use super::{End, Opened, TlsFailure};

/// Bytes that the records of one batch may add to it: at most 29 each (RFC 5246 6.2.3.3), and a
/// KeyUpdate, a ticket or an alert that goes first.
pub(crate) const SEAL_ROOM: usize = 4096;

/// Header of a record (RFC 8446 5.1).
const RECORD_HEADER: usize = 5;

/// The TLS of one connection.
///
/// ```text
///  Expected --first byte--> Shaking --Finished--> Open --close_notify, both ways--> released
///                              |                   |
///                              +-------------------+--bad record, alert--> Failed
/// ```
///
/// Between two turns it holds what rustls keeps (about 4 KiB) and the bytes of a record that has
/// not arrived whole, at most 16 KiB and a handshake message of at most 64 KiB.
pub(crate) struct Tls {
    session: Session,
    /// An unfinished record; in the handshake, whatever waits for its turn.
    partial: Vec<u8>,
    open: bool,
    /// Why it failed, in words.
    error: Option<Box<str>>,
    /// close_notify came: nothing that follows counts (RFC 8446 6.1).
    closed_by_peer: bool,
    /// close_notify was sent: nothing may follow.
    closed: bool,
    /// Is in the worker's list of handshakes.
    queued: bool,
    /// The name by which the client called the server (RFC 6066 3).
    server_name: Option<Box<str>>,
}

enum Session {
    /// Nothing has come yet, so nothing is allocated.
    Expected,
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
    Failed,
}

/// What became of received ciphertext.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// The handshake is complete since these bytes.
    pub(crate) opened: Option<Opened>,
    pub(crate) end: Option<End>,
}

/// The keys are used up (RFC 8446 5.5), or the connection cannot send any more.
#[derive(Debug)]
pub(crate) struct Exhausted;

impl Tls {
    fn new(session: Session) -> Box<Self> {
        Box::new(Self {
            session,
            partial: Vec::new(),
            open: false,
            error: None,
            closed_by_peer: false,
            closed: false,
            queued: false,
            server_name: None,
        })
    }

    /// The server's side of a connection of which nothing was received.
    pub(crate) fn expected() -> Box<Self> {
        Self::new(Session::Expected)
    }

    /// The client's side; [`greet`](Self::greet) comes first.
    pub(super) fn client(session: UnbufferedClientConnection) -> Box<Self> {
        Self::new(Session::Client(Box::new(session)))
    }

    /// Appends the first message of a client (RFC 8446 4.1.2).
    pub(crate) fn greet(&mut self, answer: &mut Vec<u8>) {
        self.look_at(&mut [], &mut Vec::new(), answer, &mut Received::default());
    }

    /// True until the first byte of TLS.
    pub(crate) fn is_expected(&self) -> bool {
        matches!(self.session, Session::Expected)
    }

    /// True once the handshake is complete, as long as nothing went wrong.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// True once the peer has said that it will send no more.
    pub(crate) fn is_closed_by_peer(&self) -> bool {
        self.closed_by_peer
    }

    /// True after an error, which was reported once.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.session, Session::Failed)
    }

    /// Is in the worker's list of handshakes.
    pub(crate) fn queued(&mut self) -> &mut bool {
        &mut self.queued
    }

    /// What went wrong on a client's side, in words.
    pub(crate) fn error(&self) -> &str {
        self.error.as_deref().unwrap_or("TLS failed")
    }

    /// Keeps handshake bytes until their turn.
    pub(crate) fn hold(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
    }

    /// How many bytes are kept.
    pub(crate) fn held_len(&self) -> usize {
        self.partial.len()
    }

    /// Starts the handshake of a server, with the settings that hold now.
    pub(crate) fn accept(&mut self, acceptor: &Acceptor) -> Result<(), TlsFailure> {
        match UnbufferedServerConnection::new(acceptor.current()) {
            Ok(session) => {
                self.session = Session::Server(Box::new(session));
                Ok(())
            }
            Err(_) => {
                self.session = Session::Failed;
                Err(TlsFailure::Internal)
            }
        }
    }

    /// Looks at received bytes, behind those that are kept. Plaintext is appended to `plain`; what
    /// TLS itself has to answer (handshake, KeyUpdate, alerts) to `answer`.
    pub(crate) fn receive(
        &mut self,
        mut bytes: &mut [u8],
        plain: &mut Vec<u8>,
        answer: &mut Vec<u8>,
    ) -> Received {
        let mut received = Received::default();
        if self.closed_by_peer {
            // Not kept either: an answer may still be on its way, for as long as the peer reads it.
            return received;
        }
        while !self.partial.is_empty() && received.end.is_none() {
            let count = missing(&self.partial).filter(|_| self.open).unwrap_or(bytes.len());
            let (these, rest) = bytes.split_at_mut(count.min(bytes.len()));
            bytes = rest;
            let mut whole = std::mem::take(&mut self.partial);
            whole.extend_from_slice(these);
            let used = self.look_at(&mut whole, plain, answer, &mut received);
            if used < whole.len() {
                whole.drain(..used);
                self.partial = whole;
            }
            if bytes.is_empty() {
                break;
            }
        }
        if !bytes.is_empty() && received.end.is_none() {
            let used = self.look_at(bytes, plain, answer, &mut received);
            self.partial.extend_from_slice(&bytes[used..]);
        }
        if received.end.is_some() {
            self.partial = Vec::new();
        }
        received
    }

    /// Looks at the whole records in `bytes`; gives how many bytes are done with.
    fn look_at(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        answer: &mut Vec<u8>,
        received: &mut Received,
    ) -> usize {
        // A mistake in there shall cost one connection.
        let looked = catch_unwind(AssertUnwindSafe(|| match &mut self.session {
            Session::Server(session) => read(&mut **session, bytes, plain, answer),
            Session::Client(session) => read(&mut **session, bytes, plain, answer),
            Session::Expected | Session::Failed => Read::nothing(),
        }));
        if !self.open {
            self.server_name = take_asked_for().or(self.server_name.take());
        }
        let read = looked.unwrap_or_else(|_| Read {
            end: Some(End::Failed(TlsFailure::Internal)),
            ..Read::nothing()
        });
        match read.end {
            Some(End::Failed(failure)) => {
                if matches!(self.session, Session::Client(_)) {
                    self.error = read.error.map(|error| explain(&error).into());
                }
                let failure = match failure {
                    // A record that makes no sense is a violation by whoever has made sense before.
                    TlsFailure::NotTls if self.has_begun() => TlsFailure::Violation,
                    failure => failure,
                };
                received.end = Some(End::Failed(failure));
                self.open = false;
                self.session = Session::Failed;
                return read.used;
            }
            Some(End::Closed) => {
                self.closed_by_peer = true;
                received.end = Some(End::Closed);
            }
            None => {}
        }
        if !self.open
            && let Some(opened) = self.session.opened()
        {
            self.open = true;
            received.opened = Some(opened);
        }
        read.used
    }

    /// True once a handshake message of the peer was understood.
    fn has_begun(&self) -> bool {
        match &self.session {
            Session::Server(session) => session.protocol_version().is_some(),
            Session::Client(session) => session.protocol_version().is_some(),
            Session::Expected | Session::Failed => false,
        }
    }

    /// Writes the records of `plain`, which is at most [`SEAL_BYTES`](super::SEAL_BYTES) long, into
    /// `out`, which is [`SEAL_ROOM`] longer than that; gives how much of it they fill.
    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, Exhausted> {
        if self.closed || !self.open {
            return Err(Exhausted);
        }
        match &mut self.session {
            Session::Server(session) => write(&mut **session, &mut self.partial, plain, out),
            Session::Client(session) => write(&mut **session, &mut self.partial, plain, out),
            Session::Expected | Session::Failed => Err(Exhausted),
        }
    }

    /// Writes close_notify, once, and gives its length.
    pub(crate) fn close_notify(&mut self, out: &mut [u8]) -> usize {
        if self.closed || !self.open {
            return 0;
        }
        self.closed = true;
        let written = match &mut self.session {
            Session::Server(session) => say_goodbye(&mut **session, &mut self.partial, out),
            Session::Client(session) => say_goodbye(&mut **session, &mut self.partial, out),
            Session::Expected | Session::Failed => Err(Exhausted),
        };
        written.unwrap_or(0)
    }

    /// The name by which the client called the server (RFC 6066 3).
    pub(crate) fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The certificates that the peer has shown, its own first, in DER.
    pub(crate) fn peer_certificates(&self) -> Vec<&[u8]> {
        let certificates = match &self.session {
            Session::Server(session) => session.peer_certificates(),
            Session::Client(session) => session.peer_certificates(),
            Session::Expected | Session::Failed => None,
        };
        certificates.unwrap_or_default().iter().map(AsRef::as_ref).collect()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("open", &self.open)
            .field("partial", &self.partial.len())
            .field("closed_by_peer", &self.closed_by_peer)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// How the handshake was completed, if it is.
    fn opened(&self) -> Option<Opened> {
        let (shaking, kind) = match self {
            Self::Server(session) => (session.is_handshaking(), session.handshake_kind()),
            Self::Client(session) => (session.is_handshaking(), session.handshake_kind()),
            Self::Expected | Self::Failed => return None,
        };
        match kind {
            _ if shaking => None,
            Some(HandshakeKind::Resumed) => Some(Opened::Resumed),
            _ => Some(Opened::Full),
        }
    }
}

/// Bytes that are missing of the record that begins here, or of its header; `None` if there are
/// more bytes than one record has.
fn missing(partial: &[u8]) -> Option<usize> {
    let Some(header) = partial.first_chunk::<RECORD_HEADER>() else {
        return Some(RECORD_HEADER - partial.len());
    };
    let whole = RECORD_HEADER + usize::from(u16::from_be_bytes([header[3], header[4]]));
    whole.checked_sub(partial.len()).filter(|missing| *missing > 0)
}

/// What was found in received bytes.
struct Read {
    used: usize,
    end: Option<End>,
    /// What rustls says about a failure.
    error: Option<Error>,
}

impl Read {
    fn nothing() -> Self {
        Self { used: 0, end: None, error: None }
    }
}

/// Both sides of a connection, which are two types in rustls.
trait Side {
    type Data;

    fn step<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// An answer of TLS itself waits.
    fn has_answer(&self) -> bool;
}

impl Side for UnbufferedServerConnection {
    type Data = rustls::server::ServerConnectionData;

    #[inline]
    fn step<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }

    fn has_answer(&self) -> bool {
        self.wants_write()
    }
}

impl Side for UnbufferedClientConnection {
    type Data = rustls::client::ClientConnectionData;

    #[inline]
    fn step<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }

    fn has_answer(&self) -> bool {
        self.wants_write()
    }
}

/// Looks at the whole records in `bytes`. Ends when a record is incomplete, so it never waits for
/// anything.
fn read<S: Side>(
    session: &mut S,
    bytes: &mut [u8],
    plain: &mut Vec<u8>,
    answer: &mut Vec<u8>,
) -> Read {
    let mut read = Read::nothing();
    loop {
        let UnbufferedStatus { mut discard, state, .. } = session.step(&mut bytes[read.used..]);
        let mut done = false;
        match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    match record {
                        Ok(record) => {
                            discard += record.discard;
                            plain.extend_from_slice(record.payload);
                        }
                        Err(error) => read.end = Some(End::Failed(failure(&error))),
                    }
                }
            }
            Ok(ConnectionState::EncodeTlsData(data)) => encode(data, answer),
            // Whatever was written leaves with the next flush, or the connection ends.
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => read.end = Some(End::Closed),
            Ok(
                ConnectionState::WriteTraffic(_)
                | ConnectionState::BlockedHandshake
                | ConnectionState::Closed,
            ) => done = true,
            // Early data, which is never offered: whoever could replay it would be believed.
            Ok(_) => read.end = Some(End::Failed(TlsFailure::Internal)),
            Err(error) => {
                read.end = Some(End::Failed(failure(&error)));
                read.error = Some(error);
                read.used += discard;
                // The alert that says so.
                while session.has_answer() {
                    match session.step(&mut bytes[read.used..]).state {
                        Ok(ConnectionState::EncodeTlsData(data)) => encode(data, answer),
                        _ => break,
                    }
                }
                return read;
            }
        }
        read.used += discard;
        if done || matches!(read.end, Some(End::Failed(_))) {
            return read;
        }
    }
}

/// Appends what TLS itself has to say.
fn encode<Data>(mut data: EncodeTlsData<'_, Data>, answer: &mut Vec<u8>) {
    let start = answer.len();
    loop {
        match data.encode(&mut answer[start..]) {
            Err(EncodeError::InsufficientSize(size)) => {
                answer.resize(start + size.required_size, 0);
            }
            // Written to the last byte, or written before.
            Ok(_) | Err(EncodeError::AlreadyEncoded) => return,
        }
    }
}

/// Writes records into `out`. `partial` is input that is kept: rustls wants to see it each time.
fn write<S: Side>(
    session: &mut S,
    partial: &mut Vec<u8>,
    plain: &[u8],
    out: &mut [u8],
) -> Result<usize, Exhausted> {
    until_traffic(session, partial, out, |traffic, out| traffic.encrypt(plain, out))
}

/// Writes close_notify into `out`.
fn say_goodbye<S: Side>(
    session: &mut S,
    partial: &mut Vec<u8>,
    out: &mut [u8],
) -> Result<usize, Exhausted> {
    until_traffic(session, partial, out, |traffic, out| traffic.queue_close_notify(out))
}

#[inline]
fn until_traffic<S: Side>(
    session: &mut S,
    partial: &mut Vec<u8>,
    out: &mut [u8],
    write: impl FnOnce(
        &mut rustls::unbuffered::WriteTraffic<'_, S::Data>,
        &mut [u8],
    ) -> Result<usize, EncryptError>,
) -> Result<usize, Exhausted> {
    let mut written = 0;
    loop {
        let UnbufferedStatus { discard, state, .. } = session.step(partial);
        match state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                let result = write(&mut traffic, &mut out[written..]);
                if discard != 0 {
                    partial.drain(..discard);
                }
                return result.map(|count| written + count).map_err(|_| Exhausted);
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                written += data.encode(&mut out[written..]).map_err(|_| Exhausted)?;
            }
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => {}
            _ => return Err(Exhausted),
        }
        if discard != 0 {
            partial.drain(..discard);
        }
    }
}

/// The reason for our figures.
fn failure(error: &Error) -> TlsFailure {
    match error {
        Error::InvalidMessage(_) => TlsFailure::NotTls,
        Error::PeerIncompatible(_) => TlsFailure::Incompatible,
        Error::NoApplicationProtocol => TlsFailure::NoApplicationProtocol,
        Error::NoCertificatesPresented
        | Error::InvalidCertificate(_)
        | Error::InvalidCertRevocationList(_) => TlsFailure::Certificate,
        Error::AlertReceived(_) => TlsFailure::AlertReceived,
        Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::InvalidEncryptedClientHello(_)
        | Error::DecryptError
        | Error::PeerMisbehaved(_)
        | Error::PeerSentOversizedRecord => TlsFailure::Violation,
        _ => TlsFailure::Internal,
    }
}
