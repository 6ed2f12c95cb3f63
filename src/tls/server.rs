//! The settings of a server, and the one place where they can be exchanged while it runs.

use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use rustls::client::verify_server_name;
use rustls::pki_types::ServerName;
use rustls::server::{
    ClientHello, ParsedCertificate, ResolvesServerCert, ServerSessionMemoryCache,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;

use super::identity::{Identity, TlsError, provider};
use super::roots::Roots;

/// Sessions of clients without tickets that are remembered, all workers together.
const REMEMBERED_SESSIONS: usize = 4096;

/// How a server speaks TLS: TLS 1.3 and 1.2 (RFC 8446, RFC 5246), resumption with tickets that all
/// workers share, the application protocol `http/1.1` (RFC 7301).
///
/// ```no_run
/// use wirelane::tls::{Identity, ServerTls};
/// # use wirelane::{Handler, Message, Server, WebSocket};
/// # struct Echo;
/// # impl Handler for Echo {
/// #     type Session = ();
/// #     fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
/// #         ws.send(message);
/// #     }
/// # }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let identity = Identity::from_files("example.org.pem", "example.org.key")?;
/// Server::builder()
///     .listen("0.0.0.0:443")
///     .tls(ServerTls::new(identity))
///     .websocket("/", |_worker| Echo)
///     .run()?;
/// # Ok(())
/// # }
/// ```
///
/// Whoever needs more brings an `Arc<rustls::ServerConfig>`, which converts into this; its crate is
/// [`tls::rustls`](super::rustls). Early data (RFC 8446 2.3) must be off in it: it can be replayed.
#[derive(Clone)]
pub struct ServerTls {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Settings {
        identities: Vec<Identity>,
        clients: Option<(ClientAuth, Roots)>,
        protocols: Vec<Vec<u8>>,
        only_tls13: bool,
    },
    Own(Arc<ServerConfig>),
}

/// Whether clients have to show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientAuth {
    /// Whoever has none cannot connect.
    Required,
    /// Whoever shows one must show a good one;
    /// [`Request::peer_certificates`](crate::Request::peer_certificates) tells who did.
    Optional,
}

impl ServerTls {
    /// With one certificate, for every name.
    pub fn new(identity: Identity) -> Self {
        Self {
            kind: Kind::Settings {
                identities: vec![identity],
                clients: None,
                protocols: vec![b"http/1.1".to_vec()],
                only_tls13: false,
            },
        }
    }

    /// Adds a certificate for other names: a client gets the first one that is valid for the name
    /// that it asks for (SNI, RFC 6066 3) and has a kind of key that it knows; the very first one if
    /// there is no such or it asks for none.
    /// [`Request::server_name`](crate::Request::server_name) tells which name it was.
    pub fn identity(mut self, identity: Identity) -> Self {
        if let Kind::Settings { identities, .. } = &mut self.kind {
            identities.push(identity);
        }
        self
    }

    /// Asks clients for a certificate that one of these authorities has signed. Default: nobody is
    /// asked.
    pub fn client_auth(mut self, auth: ClientAuth, roots: Roots) -> Self {
        if let Kind::Settings { clients, .. } = &mut self.kind {
            *clients = Some((auth, roots));
        }
        self
    }

    /// The application protocols that are offered (ALPN, RFC 7301), the preferred one first; a
    /// client that offers others only is refused with an alert, one that offers none is served.
    /// Default `http/1.1`.
    pub fn protocols(mut self, names: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        if let Kind::Settings { protocols, .. } = &mut self.kind {
            *protocols = names.into_iter().map(Into::into).collect();
        }
        self
    }

    /// Refuses TLS 1.2. Default: both are spoken.
    pub fn only_tls13(mut self) -> Self {
        if let Kind::Settings { only_tls13, .. } = &mut self.kind {
            *only_tls13 = true;
        }
        self
    }

    /// What rustls makes of it.
    pub(crate) fn config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let (identities, clients, protocols, only_tls13) = match &self.kind {
            Kind::Own(config) if config.max_early_data_size != 0 => {
                return Err(TlsError::Settings(
                    "early data can be replayed; set `max_early_data_size` to 0".into(),
                ));
            }
            Kind::Own(config) => {
                let mut config = ServerConfig::clone(config);
                config.cert_resolver = Arc::new(Overheard { resolver: config.cert_resolver });
                return Ok(Arc::new(config));
            }
            Kind::Settings { identities, clients, protocols, only_tls13 } => {
                (identities, clients, protocols, *only_tls13)
            }
        };
        let settings = |error: &dyn fmt::Display| TlsError::Settings(error.to_string());
        let provider = provider()?;
        let versions =
            if only_tls13 { &[&rustls::version::TLS13][..] } else { rustls::ALL_VERSIONS };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| settings(&error))?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some((auth, roots)) => {
                let store = Arc::clone(&roots.store);
                let verifier = WebPkiClientVerifier::builder_with_provider(store, provider);
                let verifier = match auth {
                    ClientAuth::Required => verifier,
                    ClientAuth::Optional => verifier.allow_unauthenticated(),
                };
                builder.with_client_cert_verifier(verifier.build().map_err(|e| settings(&e))?)
            }
        };
        let keys = identities.iter().map(|identity| Arc::clone(&identity.key)).collect();
        let mut config =
            builder.with_cert_resolver(Arc::new(Overheard { resolver: Arc::new(ByName { keys }) }));
        config.alpn_protocols.clone_from(protocols);
        config.session_storage = ServerSessionMemoryCache::new(REMEMBERED_SESSIONS);
        // Keys of tickets change every few hours, and with every new configuration: whoever was
        // allowed in before shows again that it is.
        #[cfg(feature = "tls-ring")]
        {
            config.ticketer =
                rustls::crypto::ring::Ticketer::new().map_err(|error| settings(&error))?;
        }
        #[cfg(all(feature = "tls-aws-lc", not(feature = "tls-ring")))]
        {
            config.ticketer =
                rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|error| settings(&error))?;
        }
        Ok(Arc::new(config))
    }
}

impl From<Identity> for ServerTls {
    fn from(identity: Identity) -> Self {
        Self::new(identity)
    }
}

impl From<Arc<ServerConfig>> for ServerTls {
    /// The settings of rustls as they are (of a copy, in which whoever chooses certificates is
    /// overheard: see [`Request::server_name`](crate::Request::server_name)); the methods of this
    /// type have no effect on them.
    fn from(config: Arc<ServerConfig>) -> Self {
        Self { kind: Kind::Own(config) }
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Own(_) => f.write_str("ServerTls(rustls::ServerConfig)"),
            Kind::Settings { identities, clients, only_tls13, .. } => f
                .debug_struct("ServerTls")
                .field("identities", identities)
                .field("clients", clients)
                .field("only_tls13", only_tls13)
                .finish_non_exhaustive(),
        }
    }
}

/// The certificate for the name that a client asks for.
#[derive(Debug)]
struct ByName {
    keys: Vec<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let first = self.keys.first()?;
        let named = match hello.server_name() {
            Some(name) if self.keys.len() > 1 => ServerName::try_from(name).ok(),
            _ => None,
        };
        let Some(name) = named else { return Some(Arc::clone(first)) };
        let mut fit = self.keys.iter().filter(|key| is_valid_for(key, &name));
        let second_best = fit.clone().next();
        let best = fit.find(|key| key.key.choose_scheme(hello.signature_schemes()).is_some());
        Some(Arc::clone(best.or(second_best).unwrap_or(first)))
    }
}

fn is_valid_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let Some(certificate) = key.cert.first() else { return false };
    ParsedCertificate::try_from(certificate)
        .is_ok_and(|certificate| verify_server_name(&certificate, name).is_ok())
}

thread_local! {
    /// The name in the greeting that was looked at last on this thread.
    static ASKED_FOR: Cell<Option<Box<str>>> = const { Cell::new(None) };
}

/// Takes the name that a client asks for, if one did so since this was asked for last.
pub(super) fn take_asked_for() -> Option<Box<str>> {
    ASKED_FOR.take()
}

/// Chooses as `resolver` does, and remembers the name in the meantime: rustls tells it to nobody
/// else in its API without buffers. It asks for a certificate in each handshake, resumed or not.
#[derive(Debug)]
struct Overheard {
    resolver: Arc<dyn ResolvesServerCert>,
}

impl ResolvesServerCert for Overheard {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        ASKED_FOR.set(hello.server_name().map(Into::into));
        self.resolver.resolve(hello)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.resolver.only_raw_public_keys()
    }
}

/// The TLS of a running server: handshakes that start get what holds at that moment.
pub(crate) struct Acceptor {
    current: Mutex<Arc<ServerConfig>>,
}

impl Acceptor {
    pub(crate) fn new(tls: &ServerTls) -> Result<Self, TlsError> {
        Ok(Self { current: Mutex::new(tls.config()?) })
    }

    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn replace(&self, tls: &ServerTls) -> Result<(), TlsError> {
        let config = tls.config()?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor")
    }
}
