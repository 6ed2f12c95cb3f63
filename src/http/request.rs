//! A request as the application sees it.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::percent::{QueryPairs, decode};
use super::router::Parameters;
use crate::handle::Handle;
use crate::protocol::upgrade::{self, BodyLength, HeaderValues, Headers};

/// A request for a page or for an upgrade. Borrows the received bytes; nothing is allocated
/// unless something has to be decoded.
///
/// ```no_run
/// use wirelane::{Response, Server};
///
/// # fn main() -> Result<(), wirelane::Error> {
/// // GET /room/lobby?user=J%C3%B6rg
/// Server::builder()
///     .listen("127.0.0.1:9001")
///     .get("/room/:id", |request| {
///         let room = request.parameter("id").unwrap_or_default(); // "lobby"
///         let user = request.query_value("user").unwrap_or_default(); // "Jörg"
///         Response::text(format!("{user} looks at {room}\n"))
///     })
///     .run()
/// # }
/// ```
pub struct Request<'r> {
    head: &'r upgrade::Request<'r>,
    parameters: Parameters<'r>,
    body: &'r [u8],
    peer: &'r dyn PeerAddr,
}

/// Asks for the address of a peer, and for its server.
pub(crate) trait PeerAddr {
    /// As the kernel knows it.
    fn peer_addr(&self) -> Option<SocketAddr>;

    /// As the proxies in front say it.
    fn client_ip(&self, head: &upgrade::Request<'_>) -> Option<IpAddr>;

    fn handle(&self) -> Handle;
    /// Whether it speaks TLS with this server.
    fn is_secure(&self) -> bool;

    /// What it has shown in TLS, in DER.
    #[cfg(feature = "tls-no-provider")]
    fn certificates(&self) -> Vec<&[u8]>;

    /// The name by which it called the server in TLS.
    #[cfg(feature = "tls-no-provider")]
    fn server_name(&self) -> Option<&str>;
}

impl<'r> Request<'r> {
    pub(crate) fn new(
        head: &'r upgrade::Request<'r>,
        parameters: Parameters<'r>,
        body: &'r [u8],
        peer: &'r dyn PeerAddr,
    ) -> Self {
        Self { head, parameters, body, peer }
    }

    /// The head alone, as the protocol sees it.
    pub(crate) fn head(&self) -> &'r upgrade::Request<'r> {
        self.head
    }

    /// The method, as sent; methods are compared with regard to case. A route for `GET` also sees
    /// `HEAD`, and answers it as it would answer `GET`: the server leaves out the body.
    pub fn method(&self) -> &'r str {
        self.head.method()
    }

    /// The path, as sent: percent signs are not decoded, dot segments not resolved.
    pub fn path(&self) -> &'r str {
        self.head.path()
    }

    /// What the parameter `:name` of the route's pattern stands for, decoded (RFC 3986 2.1):
    /// never empty as sent, but it may hold any character once decoded, slashes and control
    /// characters included. What cannot be decoded (a `%` without two hexadecimal digits, bytes
    /// that are not UTF-8) is given as it was sent. `None` if the pattern has no such name.
    pub fn parameter(&self, name: &str) -> Option<Cow<'r, str>> {
        let mut parameters = self.parameters.iter();
        parameters.find(|(other, _)| *other == name).map(|(_, value)| decode(value))
    }

    /// The same by position in the pattern, from 0.
    pub fn parameter_at(&self, index: usize) -> Option<Cow<'r, str>> {
        self.parameters.iter().nth(index).map(|(_, value)| decode(value))
    }

    /// What the `*` at the end of the route's pattern stands for, as sent: it may hold slashes,
    /// `..` segments and percent signs. `None` if the pattern has none.
    pub fn rest(&self) -> Option<&'r str> {
        self.parameters.rest()
    }

    /// What stands behind the first `?` of the target, as sent.
    pub fn query(&self) -> Option<&'r str> {
        self.head.query()
    }

    /// The `name=value` pairs of the query, split at `&` and the first `=`, then decoded as
    /// [`parameter`](Self::parameter) describes. A `+` is a plus sign (RFC 3986 knows no other
    /// meaning). Names may be repeated; a pair without `=` has an empty value.
    pub fn query_pairs(&self) -> QueryPairs<'r> {
        QueryPairs::new(self.head.query())
    }

    /// The value of the first pair of this name in the query.
    pub fn query_value(&self, name: &str) -> Option<Cow<'r, str>> {
        self.query_pairs().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    /// The value of the first header line of this name, in any case, without blanks at its ends.
    /// It may hold bytes from 0x80 on and HTAB, but no other control character.
    pub fn header(&self, name: &str) -> Option<&'r [u8]> {
        self.head.header(name)
    }

    /// The values of every header line of this name, in the order in which they were sent.
    pub fn header_values<'n>(&'n self, name: &'n str) -> HeaderValues<'n> {
        self.head.header_values(name)
    }

    /// Name and value of every header line, in the order in which they were sent.
    pub fn headers(&self) -> Headers<'r> {
        self.head.headers()
    }

    /// The whole body: decoded, if it came in chunks, and at most
    /// [`max_body`](crate::ServerBuilder::max_body) bytes. Empty if there is none, for upgrade
    /// requests, and where the body is taken [piece by piece](crate::ServerBuilder::upload).
    pub fn body(&self) -> &'r [u8] {
        self.body
    }

    /// How long the body will be, as the client announced it; `None` if it comes in chunks.
    pub fn content_length(&self) -> Option<u64> {
        match self.head.body_length() {
            BodyLength::None => Some(0),
            BodyLength::Bytes(count) => Some(count),
            BodyLength::Chunked => None,
        }
    }

    /// Reaches the server: publishes, sends to connections by their ids, runs closures on workers.
    pub fn handle(&self) -> Handle {
        self.peer.handle()
    }

    /// Host with optional port, as sent (RFC 9110 7.2). `None` only for HTTP/1.0.
    pub fn host(&self) -> Option<&'r str> {
        self.head.host()
    }

    /// The site whose page makes this request, as the browser says it (RFC 6454 7), for example
    /// `https://example.com`. `None` if there is no Origin: not a browser, or a plain request.
    /// Anybody but a browser may claim any origin. Bytes that are not UTF-8, and a repeated
    /// Origin, are given as an empty text, which is nobody's origin.
    pub fn origin(&self) -> Option<&'r str> {
        let mut values = self.head.header_values("Origin");
        let origin = str::from_utf8(values.next()?).unwrap_or_default();
        Some(if values.next().is_none() { origin } else { "" })
    }

    /// The address of the socket's other end, asked of the kernel (one system call): a proxy's,
    /// if there is one; see [`client_ip`](Self::client_ip). `None` on Unix sockets and when the peer has gone.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer.peer_addr()
    }

    /// True if the request came over TLS to this server: its URL began with `https` or `wss`. A
    /// proxy in front that speaks TLS itself does not count.
    pub fn is_secure(&self) -> bool {
        self.peer.is_secure()
    }

    /// The certificates that the client has shown in the TLS handshake, its own first, in DER. They
    /// were verified as [`ServerTls::client_auth`](crate::tls::ServerTls::client_auth) demands.
    /// Empty if it has shown none.
    #[cfg(feature = "tls-no-provider")]
    pub fn peer_certificates(&self) -> Vec<&[u8]> {
        self.peer.certificates()
    }

    /// The name by which the client called the server in the TLS handshake, in lower case (SNI,
    /// RFC 6066 3): which certificate it was shown depended on it. `None` without TLS, and if the
    /// client named an address or nobody. It need not be that of [`host`](Self::host): whoever serves
    /// several names, and lets each have clients and certificates of its own, compares the two and
    /// answers 421 where they differ (RFC 9110 7.4).
    #[cfg(feature = "tls-no-provider")]
    pub fn server_name(&self) -> Option<&str> {
        self.peer.server_name()
    }

    /// The client's address, as far as it is known for sure: what a PROXY header said
    /// ([`ServerBuilder::proxy_protocol`](crate::ServerBuilder::proxy_protocol)) or else the
    /// socket's other end; and if that is a trusted proxy
    /// ([`ServerBuilder::trust_forwarded`](crate::ServerBuilder::trust_forwarded)), the last
    /// address in its header that is not one of a trusted proxy itself. IPv4 addresses are given
    /// as such. It costs the system call of [`peer_addr`](Self::peer_addr); whoever needs it later
    /// keeps it in the session.
    pub fn client_ip(&self) -> Option<IpAddr> {
        self.peer.client_ip(self.head)
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("head", self.head)
            .field("parameters", &self.parameters)
            .finish_non_exhaustive()
    }
}
