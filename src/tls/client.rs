//! The settings of a client.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, Error};

use super::connection::Tls;
use super::identity::{Identity, TlsError, provider};
use super::roots::Roots;

/// How a client speaks TLS: TLS 1.3 and 1.2, the application protocol `http/1.1`, resumption of up
/// to 32 sessions. Whoever needs more brings an `Arc<rustls::ClientConfig>`, which converts into
/// this. Cheap to clone; clones share their sessions.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
}

impl ClientTls {
    /// Believes servers that show a certificate of one of these authorities for their name.
    ///
    /// # Errors
    ///
    /// [`TlsError::Settings`] without any cryptography.
    pub fn new(roots: Roots) -> Result<Self, TlsError> {
        Self::build(roots, None)
    }

    /// The same, with a certificate for servers that ask for one.
    ///
    /// # Errors
    ///
    /// Those of [`new`](Self::new).
    pub fn with_identity(roots: Roots, identity: Identity) -> Result<Self, TlsError> {
        Self::build(roots, Some(identity))
    }

    /// The settings for servers that this machine believes; made once.
    pub(crate) fn system() -> Result<Self, TlsError> {
        static SYSTEM: OnceLock<ClientTls> = OnceLock::new();
        if let Some(tls) = SYSTEM.get() {
            return Ok(tls.clone());
        }
        let tls = Self::new(Roots::system()?)?;
        Ok(SYSTEM.get_or_init(|| tls).clone())
    }

    fn build(roots: Roots, identity: Option<Identity>) -> Result<Self, TlsError> {
        let builder = ClientConfig::builder_with_provider(provider()?)
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map_err(|error| TlsError::Settings(error.to_string()))?
            .with_root_certificates(roots.store);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(Identity { key }) => builder
                .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key))),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::in_memory_sessions(32);
        Ok(Self { config: Arc::new(config) })
    }
}

/// Begins TLS with one server.
#[derive(Clone)]
pub(crate) struct Starter {
    tls: ClientTls,
    name: ServerName<'static>,
}

impl Starter {
    /// With the server of this name or address, without brackets.
    pub(crate) fn new(tls: ClientTls, host: &str) -> Result<Self, TlsError> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| TlsError::Settings(format!("{host:?} is no name of a server")))?;
        Ok(Self { tls, name })
    }

    /// A new connection; what is wrong, in words.
    pub(crate) fn start(&self) -> Result<Box<Tls>, String> {
        UnbufferedClientConnection::new(Arc::clone(&self.tls.config), self.name.clone())
            .map(Tls::client)
            .map_err(|error| error.to_string())
    }
}

/// What is wrong, for whoever connects, and what to change where that is not obvious.
pub(super) fn explain(error: &Error) -> String {
    let advice = match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "; if its authority is to be believed, give it to `ClientTls::new`"
        }
        // A type of the verifier that is not public.
        Error::InvalidCertificate(CertificateError::Other(inner))
            if format!("{inner:?}").contains("CaUsedAsEndEntity") =>
        {
            "; the server shows the certificate of an authority as its own: make it one with \
             basicConstraints=CA:FALSE"
        }
        Error::InvalidMessage(_) => "; does the server speak TLS on this port?",
        _ => "",
    };
    format!("{error}{advice}")
}

impl fmt::Debug for Starter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Starter").field("name", &self.name).finish_non_exhaustive()
    }
}

impl From<Arc<ClientConfig>> for ClientTls {
    fn from(config: Arc<ClientConfig>) -> Self {
        Self { config }
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientTls")
    }
}
