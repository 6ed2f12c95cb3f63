//! The server's side of the opening handshake (RFC 6455 4.2).
//!
//! Comes in: a parsed [`Request`]. Goes out: the 101 response, appended to a `Vec<u8>`, or the
//! [`Refusal`] that answers the request. It never looks at path, origin or cookies: those are
//! for the server and its application to judge.

use super::accept_key::{AcceptKey, check_key};
use super::negotiate::{ExtensionOffers, Subprotocols};
use super::permessage_deflate::Answer;
use super::refusal::Refusal;
use super::request::{Field, HttpVersion, Request};
use super::response::{
    InvalidHeader, check_headers, is_handshake_header, push_header, push_headers,
};
use crate::protocol::{Deflate, DeflateParameters};

/// A request that passed every check of RFC 6455 4.2.1 and waits for its answer.
///
/// ```
/// use wirelane::protocol::Limits;
/// use wirelane::protocol::upgrade::{InvalidHeader, Request, ServerHandshake};
///
/// let head = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
///     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
///     Sec-WebSocket-Protocol: soap, wamp\r\n\r\n";
/// let request = Request::parse(head, &Limits::new())?;
/// let handshake = ServerHandshake::check(&request)?;
/// let chosen = handshake.subprotocols().find(|offered| *offered == "wamp");
///
/// let mut out = Vec::new();
/// handshake.write_response(chosen, &[("Server", "example")], &mut out).unwrap();
/// let response = String::from_utf8(out).unwrap();
/// assert!(response.contains("\r\nSec-WebSocket-Protocol: wamp\r\nServer: example\r\n\r\n"));
///
/// let refused = handshake.write_response(Some("mqtt"), &[], &mut Vec::new());
/// assert_eq!(refused, Err(InvalidHeader::SubprotocolNotOffered));
/// # Ok::<(), wirelane::protocol::upgrade::Refusal>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ServerHandshake<'r> {
    request: &'r Request<'r>,
    key: &'r [u8; 24],
    deflate: Option<Answer>,
}

impl<'r> ServerHandshake<'r> {
    /// Checks a request against RFC 6455 4.2.1.
    ///
    /// # Errors
    ///
    /// In this order: [`Refusal::MethodNotAllowed`]; [`Refusal::UpgradeRequired`] if no upgrade to
    /// WebSocket is asked; 400 for HTTP/1.0 and for a body; 426 for Sec-WebSocket-Version; 400
    /// for Sec-WebSocket-Key, Sec-WebSocket-Extensions and Sec-WebSocket-Protocol.
    pub fn check(request: &'r Request<'_>) -> Result<Self, Refusal> {
        // RFC 6455 4.2.1(1): an HTTP/1.1 or higher GET request.
        if request.method() != "GET" {
            return Err(Refusal::MethodNotAllowed);
        }
        if !request.asks_for_websocket() {
            return Err(Refusal::UpgradeRequired);
        }
        if request.version() == HttpVersion::Http10 {
            return Err(Refusal::UpgradeNeedsHttp11);
        }
        // Body bytes would be taken for frames here and for a body by a proxy, or the reverse.
        if !request.known().is_without_body {
            return Err(Refusal::UpgradeWithBody);
        }
        // RFC 6455 4.2.1(6), 4.2.2: any other version gets 426 and the versions understood.
        match request.known().version {
            Field::Absent => return Err(Refusal::MissingVersion),
            Field::Repeated => return Err(Refusal::RepeatedVersion),
            Field::Once(b"13") => {}
            Field::Once(_) => return Err(Refusal::UnsupportedVersion),
        }
        // RFC 6455 4.2.1(5); 11.3.1: it MUST NOT appear more than once.
        let key = match request.known().key {
            Field::Absent => return Err(Refusal::MissingKey),
            Field::Repeated => return Err(Refusal::RepeatedKey),
            Field::Once(value) => check_key(value).ok_or(Refusal::InvalidKey)?,
        };
        let handshake = ServerHandshake { request, key, deflate: None };
        // RFC 6455 9.1: a value that does not match the grammar MUST fail the handshake.
        if request.known().has_extensions
            && !ExtensionOffers::are_valid(request.header_values(EXTENSIONS))
        {
            return Err(Refusal::InvalidExtensions);
        }
        if request.known().has_subprotocols
            && !Subprotocols::are_valid(request.header_values(SUBPROTOCOL))
        {
            return Err(Refusal::InvalidSubprotocols);
        }
        Ok(handshake)
    }

    /// The request that asks.
    pub fn request(&self) -> &'r Request<'r> {
        self.request
    }

    /// The subprotocols that the client offers, the preferred one first, as sent (they are
    /// compared with regard to case). Tokens; a client that breaks RFC 6455 4.1 may repeat one.
    pub fn subprotocols(&self) -> Subprotocols<'r> {
        Subprotocols::new(self.request.header_values(SUBPROTOCOL))
    }

    /// The extensions that the client offers, the preferred one first. An offer that is not
    /// answered is declined.
    pub fn extensions(&self) -> ExtensionOffers<'r> {
        ExtensionOffers::new(self.request.header_values(EXTENSIONS))
    }

    /// Takes the first offer of permessage-deflate that these settings can keep (RFC 7692 5): all
    /// its parameters are known, valid and there once, and `server_max_window_bits` is not 8,
    /// which deflate libraries do not do right. The client is told to do without context takeover
    /// if our decompressor is shared. Without such an offer, nothing is answered.
    ///
    /// What was agreed on is [`deflate`](Self::deflate), for
    /// [`Endpoint::with_deflate`](crate::protocol::Endpoint::with_deflate).
    ///
    /// ```
    /// use wirelane::Deflate;
    /// use wirelane::protocol::Limits;
    /// use wirelane::protocol::upgrade::{Request, ServerHandshake};
    ///
    /// let head = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    ///     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
    ///     Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    /// let request = Request::parse(head, &Limits::new())?;
    /// let handshake = ServerHandshake::check(&request)?.with_deflate(&Deflate::dedicated(12));
    /// let agreed = handshake.deflate().expect("a valid offer");
    /// assert_eq!((agreed.server_max_window_bits, agreed.client_max_window_bits), (12, 12));
    /// # Ok::<(), wirelane::protocol::upgrade::Refusal>(())
    /// ```
    #[must_use = "the handshake was moved into the result"]
    pub fn with_deflate(mut self, settings: &Deflate) -> Self {
        self.deflate = Answer::to(self.extensions(), settings);
        self
    }

    /// What [`with_deflate`](Self::with_deflate) agreed on; `None` for no compression.
    pub fn deflate(&self) -> Option<DeflateParameters> {
        self.deflate.map(|answer| answer.parameters)
    }

    /// What [`write_response`](Self::write_response) answers to the client's key.
    pub fn accept_key(&self) -> AcceptKey {
        AcceptKey::of(self.key)
    }

    /// Appends the 101 response (RFC 6455 4.2.2 step 5). What follows it on the wire are frames.
    ///
    /// # Errors
    ///
    /// [`InvalidHeader`], with `out` unchanged: a subprotocol that the client did not offer, or a
    /// header that is malformed or belongs to the handshake (Upgrade, Connection,
    /// Sec-WebSocket-*, Content-Length, Transfer-Encoding).
    pub fn write_response(
        &self,
        subprotocol: Option<&str>,
        extra_headers: &[(&str, &str)],
        out: &mut Vec<u8>,
    ) -> Result<(), InvalidHeader> {
        // RFC 6455 4.2.2(5.5): the value comes from the client's list; none: no header.
        if let Some(chosen) = subprotocol
            && !self.subprotocols().any(|offered| offered == chosen)
        {
            return Err(InvalidHeader::SubprotocolNotOffered);
        }
        check_headers(extra_headers, is_handshake_header)?;

        out.reserve(RESPONSE_START.len() + 64);
        out.extend_from_slice(RESPONSE_START);
        out.extend_from_slice(self.accept_key().as_bytes());
        out.extend_from_slice(b"\r\n");
        if let Some(chosen) = subprotocol {
            push_header(out, "Sec-WebSocket-Protocol", chosen.as_bytes());
        }
        if let Some(answer) = &self.deflate {
            push_header(out, EXTENSIONS, answer.header_value().as_bytes());
        }
        push_headers(out, extra_headers);
        out.extend_from_slice(b"\r\n");
        Ok(())
    }
}

const EXTENSIONS: &str = "Sec-WebSocket-Extensions";
const SUBPROTOCOL: &str = "Sec-WebSocket-Protocol";

/// Everything before the accept key.
const RESPONSE_START: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Accept: ";
