//! What an outgoing connection shall be: where to, how, how long, and what if it fails.
//!
//! In: the application's wishes. Out: a checked [`Plan`] that workers carry out. Nothing here
//! opens a socket or looks a name up.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::outcome::ConnectError;
use super::url::{Endpoint, Url, split_authority};
use crate::config::millis;
use crate::protocol::Deflate;
use crate::protocol::upgrade::{ClientHandshake, InvalidHeader};
use crate::random;
#[cfg(feature = "tls-no-provider")]
use crate::tls::ClientTls;
use crate::tls::Starter;

/// Looks up a host and port, on a helper thread.
type Resolve = Arc<dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// An outgoing WebSocket connection (RFC 6455 4.1) that is still to be made, and made again if
/// [`reconnect`](Self::reconnect) says so. Give it to [`WorkerContext::connect`],
/// [`Handle::connect`] or [`Client::connect`], as often as you like.
///
/// ```
/// use std::time::Duration;
/// use wirelane::client::{Dial, Reconnect};
///
/// let feed = Dial::to("ws://feed.example:9001/prices")
///     .subprotocols(["prices.v2", "prices.v1"])
///     .header("Authorization", "Bearer secret")
///     .connect_timeout(Duration::from_secs(5))
///     .reconnect(Reconnect::new().max_delay(Duration::from_secs(20)));
/// # let _ = feed;
/// ```
///
/// Limits, timeouts and pings of the open connection are those of its worker
/// ([`ServerBuilder`](crate::ServerBuilder), [`ClientBuilder`](super::ClientBuilder)). Redirects
/// are not followed: the answer is reported as it came
/// ([`DialError::Refused`](super::DialError::Refused)).
///
/// [`WorkerContext::connect`]: crate::WorkerContext::connect
/// [`Handle::connect`]: crate::Handle::connect
/// [`Client::connect`]: super::Client::connect
#[derive(Clone)]
#[must_use = "a dial does nothing until it is given to `connect`"]
pub struct Dial {
    url: String,
    target: Option<String>,
    subprotocols: Vec<String>,
    deflate: Deflate,
    headers: Vec<(String, String)>,
    proxy: Option<String>,
    addresses: Vec<SocketAddr>,
    resolve: Option<Resolve>,
    connect_timeout_ms: u64,
    reconnect: Option<Reconnect>,
    worker: Option<u16>,
    #[cfg(feature = "tls-no-provider")]
    tls: Option<ClientTls>,
}

impl Dial {
    /// A connection to `ws://HOST:PORT/PATH?QUERY`, the same with `wss`, `unix:PATH` or
    /// `ws+unix:PATH:/PATH?QUERY`. What is wrong with it is said by `connect`.
    pub fn to(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            target: None,
            subprotocols: Vec::new(),
            deflate: Deflate::off(),
            headers: Vec::new(),
            proxy: None,
            addresses: Vec::new(),
            resolve: None,
            connect_timeout_ms: 10_000,
            reconnect: None,
            worker: None,
            #[cfg(feature = "tls-no-provider")]
            tls: None,
        }
    }

    /// Path and query to ask for, instead of those of the URL.
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.target = Some(target.into());
        self
    }

    /// Offers these subprotocols, the preferred one first (RFC 6455 1.9). A server that chooses
    /// another one is not connected to; [`WebSocket::subprotocol`](crate::WebSocket::subprotocol)
    /// says what it chose.
    pub fn subprotocols(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.subprotocols.extend(names.into_iter().map(Into::into));
        self
    }

    /// Offers to compress messages (permessage-deflate, RFC 7692) with these settings; the server
    /// may decline, or agree to less: [`WebSocket::deflate`](crate::WebSocket::deflate) says which.
    /// Default [`Deflate::off`].
    pub fn deflate(mut self, settings: Deflate) -> Self {
        self.deflate = settings;
        self
    }

    /// Adds a header to the request, such as Authorization or Cookie. Those that belong to the
    /// handshake are refused by `connect`.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sends this Origin (RFC 6455 4.1 item 8), for servers that look at it. Default: none, as
    /// programs other than browsers have none.
    pub fn origin(self, origin: impl Into<String>) -> Self {
        self.header("Origin", origin)
    }

    /// Connects through this HTTP proxy with CONNECT (RFC 9110 9.3.6): `http://HOST:PORT` or
    /// `http://USER:PASSWORD@HOST:PORT`, the latter sent as Proxy-Authorization Basic; both may be
    /// percent-encoded. The proxy looks up the server's name. Not for Unix sockets.
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.proxy = Some(url.into());
        self
    }

    /// Connects to these addresses, in this order, instead of looking up the host of the URL (or
    /// of the proxy). Host is sent as the URL says, and over TLS the certificate has to be for that
    /// name.
    pub fn addresses(mut self, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.addresses.extend(addresses);
        self
    }

    /// Looks hosts up with this function instead of the system's resolver. It gets host and port,
    /// runs on a helper thread, and may wait there, for a service registry for example.
    pub fn resolver(
        mut self,
        resolve: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        self.resolve = Some(Arc::new(resolve));
        self
    }

    /// How long one attempt may take: name, TCP, proxy and opening handshake together. Default
    /// 10 s; [`Duration::ZERO`] is no limit.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout_ms = millis(timeout);
        self
    }

    /// Tries again after failed attempts and after connections that ended. Default: one attempt,
    /// one connection.
    pub fn reconnect(mut self, reconnect: Reconnect) -> Self {
        self.reconnect = Some(reconnect);
        self
    }

    /// The worker that the connection lives on, from 0. Default: the one whose handler connects;
    /// from other threads the one with the fewest connections.
    pub fn on_worker(mut self, worker: u16) -> Self {
        self.worker = Some(worker);
        self
    }

    pub(crate) fn worker(&self) -> Option<u16> {
        self.worker
    }

    /// Says which setting is impossible, if one is: what [`connect`](crate::Handle::connect) would
    /// say, before there is anything to connect from. For a program whose handlers connect by
    /// themselves ([`ServerBuilder::client`](crate::ServerBuilder::client)) and whose URL comes
    /// from its configuration.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Invalid`] names the setting and what is wrong with it.
    ///
    /// ```
    /// use wirelane::client::Dial;
    ///
    /// let error = Dial::to("http://feed.example/").check().unwrap_err();
    /// assert!(error.to_string().contains("the scheme must be ws or wss"));
    /// ```
    pub fn check(&self) -> Result<(), ConnectError> {
        self.plan().map(drop)
    }

    /// Checks everything that can be checked without a network.
    pub(crate) fn plan(&self) -> Result<Arc<Plan>, ConnectError> {
        let invalid = |field, reason: String| Err(ConnectError::Invalid { field, reason });
        let url = match Url::parse(&self.url) {
            Ok(url) => url,
            Err(reason) => return invalid("to", format!("{:?}: {reason}", self.url)),
        };
        let secure = match (url.secure, &url.endpoint) {
            (true, Endpoint::Tcp { host, .. }) => match self.starter(host) {
                Ok(starter) => Some(starter),
                Err(reason) => return invalid("tls", reason),
            },
            _ => None,
        };
        if let Err(problem) = self.deflate.check() {
            return invalid("deflate", problem.into());
        }
        let target = self.target.clone().unwrap_or(url.target);
        let (mut place, tunnel) = match (&url.endpoint, &self.proxy) {
            (Endpoint::Unix(_), Some(_)) => {
                return invalid("proxy", "a Unix socket is not reached through a proxy".into());
            }
            (Endpoint::Unix(path), None) => (Place::Unix(path.clone()), None),
            (Endpoint::Tcp { host, port }, None) => (Place::of(host, *port), None),
            (Endpoint::Tcp { host, port }, Some(proxy)) => match parse_proxy(proxy, host, *port) {
                Ok((place, tunnel)) => (place, Some(tunnel)),
                Err(reason) => return invalid("proxy", reason.into()),
            },
        };
        if !self.addresses.is_empty() {
            if let Place::Unix(_) = place {
                return invalid("addresses", "a Unix socket has none".into());
            }
            place = Place::Addresses(self.addresses.clone());
        }
        let plan = Plan {
            place,
            tunnel,
            secure,
            host: url.host,
            target,
            subprotocols: self.subprotocols.clone(),
            deflate: self.deflate,
            headers: self.headers.clone(),
            resolve: self.resolve.clone(),
            connect_timeout_ms: self.connect_timeout_ms,
            reconnect: self.reconnect,
        };
        // What would be written is what is checked.
        match plan.write_request(&mut ClientHandshake::new([0; 16]), &mut Vec::new()) {
            Ok(()) => Ok(Arc::new(plan)),
            Err(InvalidHeader::Host) => invalid("to", format!("{:?}: no host", self.url)),
            Err(error @ InvalidHeader::Target) => {
                let field = if self.target.is_some() { "target" } else { "to" };
                invalid(field, format!("{:?}: {error}", plan.target))
            }
            Err(error @ InvalidHeader::Subprotocol) => {
                invalid("subprotocols", format!("{:?}: {error}", self.subprotocols))
            }
            Err(error) => {
                // The first one that alone is refused, too.
                let refused = |(name, value): &&(String, String)| {
                    let mut handshake = ClientHandshake::new([0; 16]);
                    let header = [(name.as_str(), value.as_str())];
                    handshake.write_request("a", "/", &[], &header, &mut Vec::new()).is_err()
                };
                let name = plan.headers.iter().find(refused).map_or("", |(name, _)| name);
                invalid("header", format!("{name:?}: {error}"))
            }
        }
    }
}

#[cfg(feature = "tls-no-provider")]
impl Dial {
    /// Whom to believe on `wss://` connections, and what else TLS needs. Default: whom this machine
    /// believes, [`Roots::system`](crate::tls::Roots::system).
    pub fn tls(mut self, tls: impl Into<ClientTls>) -> Self {
        self.tls = Some(tls.into());
        self
    }

    fn starter(&self, host: &str) -> Result<Starter, String> {
        let tls = match &self.tls {
            Some(tls) => tls.clone(),
            None => ClientTls::system().map_err(|error| error.to_string())?,
        };
        Starter::new(tls, host).map_err(|error| error.to_string())
    }
}

#[cfg(not(feature = "tls-no-provider"))]
impl Dial {
    fn starter(&self, _host: &str) -> Result<Starter, String> {
        Err(format!("{:?}: wss needs TLS: build with the feature `tls`", self.url))
    }
}

impl fmt::Debug for Dial {
    /// Headers and proxy may hold secrets and are left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dial")
            .field("url", &self.url)
            .field("reconnect", &self.reconnect)
            .finish_non_exhaustive()
    }
}

/// When to try again: capped exponential back-off with full jitter.
///
/// After the n-th failure in a row the wait is drawn evenly from zero to
/// `min(max_delay, initial_delay * 2^(n-1))`, so that many clients of a server that comes back do
/// not all return in the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "every setter returns the changed policy"]
pub struct Reconnect {
    initial_ms: u64,
    max_ms: u64,
    attempts: u32,
    stable_ms: u64,
}

impl Reconnect {
    /// For ever, from 500 ms to 30 s.
    pub const fn new() -> Self {
        Self { initial_ms: 500, max_ms: 30_000, attempts: 0, stable_ms: 10_000 }
    }

    /// The longest wait after the first failure. Default 500 ms.
    pub fn initial_delay(mut self, delay: Duration) -> Self {
        self.initial_ms = millis(delay);
        self
    }

    /// The longest wait of all. Default 30 s.
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.max_ms = millis(delay);
        self
    }

    /// Gives up after so many failures in a row. Default 0: never.
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// A connection that was open for so long is a success: counting begins anew after it. One
    /// that ends earlier counts as a failure, so that a server which accepts and drops everybody
    /// is not besieged. Default 10 s.
    pub fn stable_after(mut self, time: Duration) -> Self {
        self.stable_ms = millis(time);
        self
    }

    pub(crate) fn is_stable(&self, open_ms: u64) -> bool {
        open_ms >= self.stable_ms
    }

    /// How long to wait after so many failures in a row, at least one; `None` to give up.
    pub(crate) fn delay_ms(&self, failures: u32) -> Option<u64> {
        if self.attempts != 0 && failures >= self.attempts {
            return None;
        }
        Some(random::up_to(self.longest_delay_ms(failures)))
    }

    /// What the wait is drawn up to.
    fn longest_delay_ms(&self, failures: u32) -> u64 {
        let doublings = failures.saturating_sub(1).min(63);
        self.initial_ms.saturating_mul(1 << doublings).min(self.max_ms)
    }
}

impl Default for Reconnect {
    fn default() -> Self {
        Self::new()
    }
}

/// A [`Dial`] that was checked.
pub(crate) struct Plan {
    /// What TCP connects to: the server, or the proxy.
    pub(crate) place: Place,
    pub(crate) tunnel: Option<Tunnel>,
    /// What TLS begins with, if the URL wants it.
    pub(crate) secure: Option<Starter>,
    host: String,
    target: String,
    subprotocols: Vec<String>,
    pub(crate) deflate: Deflate,
    headers: Vec<(String, String)>,
    pub(crate) resolve: Option<Resolve>,
    /// Zero is off.
    pub(crate) connect_timeout_ms: u64,
    pub(crate) reconnect: Option<Reconnect>,
}

/// Where a socket goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Unix(PathBuf),
    Addresses(Vec<SocketAddr>),
    /// To be looked up.
    Name {
        host: String,
        port: u16,
    },
}

impl Place {
    /// Addresses need no lookup.
    fn of(host: &str, port: u16) -> Self {
        match host.parse::<IpAddr>() {
            Ok(ip) => Self::Addresses(vec![SocketAddr::new(ip, port)]),
            Err(_) => Self::Name { host: host.to_owned(), port },
        }
    }
}

/// What a proxy is asked for.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Tunnel {
    /// Host and port of the server.
    pub(crate) authority: String,
    /// Value of Proxy-Authorization.
    pub(crate) authorization: Option<String>,
}

impl Plan {
    /// Appends the opening handshake's request.
    pub(crate) fn write_request(
        &self,
        handshake: &mut ClientHandshake,
        out: &mut Vec<u8>,
    ) -> Result<(), InvalidHeader> {
        let subprotocols: Vec<&str> = self.subprotocols.iter().map(String::as_str).collect();
        let headers: Vec<(&str, &str)> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        handshake.offer_deflate(self.deflate);
        handshake.write_request(&self.host, &self.target, &subprotocols, &headers, out)
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("place", &self.place).finish_non_exhaustive()
    }
}

fn parse_proxy(proxy: &str, host: &str, port: u16) -> Result<(Place, Tunnel), &'static str> {
    const SHAPE: &str = "write http://HOST:PORT or http://USER:PASSWORD@HOST:PORT";
    let rest = proxy.strip_prefix("http://").ok_or(SHAPE)?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#']) {
        return Err(SHAPE);
    }
    let (credentials, authority) = match rest.rsplit_once('@') {
        Some((credentials, authority)) => (Some(credentials), authority),
        None => (None, rest),
    };
    let (_, bare, proxy_port) = split_authority(authority, 80)?;
    let authorization = match credentials {
        Some(credentials) => {
            let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
            let user = crate::http::percent::decode(user);
            // RFC 7617 2: a colon would end the user name.
            if user.contains(':') {
                return Err("a user name with a colon cannot be sent");
            }
            let password = crate::http::percent::decode(password);
            Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
        }
        None => None,
    };
    let authority =
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    Ok((Place::of(bare, proxy_port), Tunnel { authority, authorization }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(dial: &Dial) -> &'static str {
        match dial.plan() {
            Err(ConnectError::Invalid { field, .. }) => field,
            other => panic!("expected an invalid dial, got {other:?}"),
        }
    }

    #[test]
    fn impossible_dials_are_named() {
        let dial = || Dial::to("ws://a/");
        assert_eq!(field(&Dial::to("http://a/")), "to");
        #[cfg(not(feature = "tls-no-provider"))]
        assert_eq!(field(&Dial::to("wss://a/")), "to");
        assert_eq!(field(&dial().header("Host", "b")), "header");
        assert_eq!(field(&dial().header("A", "b\r\n")), "header");
        assert_eq!(field(&dial().target("no slash")), "target");
        assert_eq!(field(&dial().deflate(Deflate::off().level(0))), "deflate");
        assert_eq!(field(&dial().subprotocols(["a", "a"])), "subprotocols");
        assert_eq!(field(&Dial::to("ws://a b/")), "to");
        assert!(dial().check().is_ok());
        let error = dial().header("A", "b").header("Upgrade", "c").check().unwrap_err();
        assert!(error.to_string().contains("\"Upgrade\": "), "{error}");
        for proxy in ["socks5://a", "http://", "http://a/b", "http://a:b", "http://u%3Av:p@a"] {
            assert_eq!(field(&dial().proxy(proxy)), "proxy", "{proxy}");
        }
        let unix = || Dial::to("unix:/run/a");
        assert_eq!(field(&unix().proxy("http://a")), "proxy");
        assert_eq!(field(&unix().addresses([SocketAddr::from(([127, 0, 0, 1], 1))])), "addresses");
        assert!(unix().target("/b").plan().is_ok());
    }

    #[test]
    fn a_proxy_is_connected_to_and_asked_for_the_server() {
        let plan = Dial::to("ws://[::1]:9001/").proxy("http://us%20er:p%40ss@p:3128/").plan();
        let plan = plan.expect("possible");
        assert_eq!(plan.place, Place::Name { host: "p".into(), port: 3128 });
        let tunnel = plan.tunnel.as_ref().expect("a proxy");
        assert_eq!(tunnel.authority, "[::1]:9001");
        // "us er:p@ss"
        assert_eq!(tunnel.authorization.as_deref(), Some("Basic dXMgZXI6cEBzcw=="));
        let plan = Dial::to("ws://a/").proxy("http://127.0.0.1:1").plan().expect("possible");
        assert_eq!(plan.place, Place::Addresses(vec![([127, 0, 0, 1], 1).into()]));
        assert_eq!(plan.tunnel.as_ref().expect("a proxy").authority, "a:80");
        assert!(plan.tunnel.as_ref().expect("a proxy").authorization.is_none());
    }

    #[test]
    fn waits_double_up_to_the_cap_and_then_end() {
        let policy = Reconnect::new()
            .initial_delay(Duration::from_millis(100))
            .max_delay(Duration::from_millis(1000))
            .attempts(6);
        let longest: Vec<u64> = (1..7).map(|failures| policy.longest_delay_ms(failures)).collect();
        assert_eq!(longest, [100, 200, 400, 800, 1000, 1000]);
        assert!(policy.delay_ms(5).is_some_and(|delay| delay <= 1000));
        assert_eq!(policy.delay_ms(6), None);
        assert_eq!(Reconnect::new().longest_delay_ms(u32::MAX), 30_000);
        let drawn: Vec<u64> = (0..100).filter_map(|_| policy.delay_ms(4)).collect();
        assert!(drawn.iter().any(|&delay| delay < 400) && drawn.iter().any(|&delay| delay > 400));
    }

    #[test]
    fn nothing_secret_is_shown() {
        let dial = Dial::to("ws://a/").header("Cookie", "secret").proxy("http://u:secret@p");
        assert!(!format!("{dial:?} {:?}", dial.plan()).contains("secret"));
    }
}
