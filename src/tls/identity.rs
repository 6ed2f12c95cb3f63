//! Certificates with their keys, and what can be wrong with them.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// A certificate chain and the private key of its first certificate: what a server shows to its
/// clients, or a client to a server that asks for it. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    pub(super) key: Arc<CertifiedKey>,
}

impl Identity {
    /// From two files in PEM (RFC 7468): the certificate with its intermediates behind it, and the
    /// key (PKCS #8, PKCS #1 or SEC 1, not encrypted). Both may be the same file.
    ///
    /// # Errors
    ///
    /// [`TlsError::File`] if one cannot be read, [`TlsError::Pem`] if it does not hold what it
    /// should, [`TlsError::Identity`] if the key is of no known kind or not that of the certificate.
    pub fn from_files(
        certificate: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, TlsError> {
        let (certificate, key) = (certificate.as_ref(), key.as_ref());
        let chain = certificates(&read(certificate)?)
            .map_err(|reason| TlsError::Pem { path: Some(certificate.into()), reason })?;
        let private = private_key(&read(key)?)
            .map_err(|reason| TlsError::Pem { path: Some(key.into()), reason })?;
        Self::from_der(chain, private)
    }

    /// The same from memory.
    ///
    /// # Errors
    ///
    /// Those of [`from_files`](Self::from_files) that are not about files.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let pem = |reason| TlsError::Pem { path: None, reason };
        Self::from_der(certificates(certificate).map_err(pem)?, private_key(key).map_err(pem)?)
    }

    /// From the types of rustls.
    ///
    /// # Errors
    ///
    /// [`TlsError::Identity`].
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, TlsError> {
        let key = CertifiedKey::from_der(chain, key, &*provider()?)
            .map_err(|error| TlsError::Identity(explain(&error)))?;
        Ok(Self { key: Arc::new(key) })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("certificates", &self.key.cert.len())
            .finish_non_exhaustive()
    }
}

/// Why TLS cannot be set up.
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    File {
        /// Its path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A text in PEM does not hold what it should.
    Pem {
        /// The file, if it is one.
        path: Option<PathBuf>,
        /// What is missing or malformed.
        reason: String,
    },
    /// Certificate and key do not fit together, or are of no known kind.
    Identity(String),
    /// A setting is impossible; says which, and what to change.
    Settings(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, source } => write!(f, "{} cannot be read: {source}", path.display()),
            Self::Pem { path: Some(path), reason } => write!(f, "{}: {reason}", path.display()),
            Self::Pem { path: None, reason } => f.write_str(reason),
            Self::Identity(reason) => {
                write!(f, "the certificate or its key cannot be used: {reason}")
            }
            Self::Settings(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { source, .. } => Some(source),
            Self::Pem { .. } | Self::Identity(_) | Self::Settings(_) => None,
        }
    }
}

/// The cryptography: that which the application has installed, or that which was built in.
pub(super) fn provider() -> Result<Arc<CryptoProvider>, TlsError> {
    if let Some(provider) = CryptoProvider::get_default() {
        return Ok(Arc::clone(provider));
    }
    #[cfg(feature = "tls-ring")]
    return Ok(Arc::new(rustls::crypto::ring::default_provider()));
    #[cfg(all(feature = "tls-aws-lc", not(feature = "tls-ring")))]
    return Ok(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    #[cfg(not(any(feature = "tls-ring", feature = "tls-aws-lc")))]
    Err(TlsError::Settings(
        "no cryptography is built in: use the feature `tls-ring` or `tls-aws-lc`, or install a \
         provider with `CryptoProvider::install_default`"
            .into(),
    ))
}

/// What is wrong with a certificate or its key, in words.
fn explain(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            "the key is not that of the first certificate; use the key of that one; \
             intermediates come behind it"
                .into()
        }
        error => error.to_string(),
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::File { path: path.into(), source })
}

/// All certificates in a text.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err("no certificate in it; it should have \"-----BEGIN CERTIFICATE-----\"".into())
        }
        Ok(found) => Ok(found),
        Err(error) => Err(format!("not PEM: {error}")),
    }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => {
            "no private key in it; it should have \"-----BEGIN PRIVATE KEY-----\", not encrypted"
                .into()
        }
        error => format!("not PEM: {error}"),
    })
}
