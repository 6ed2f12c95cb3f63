//! Whom to believe: certificates of authorities.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;

use super::identity::{TlsError, certificates, read};

/// Where Linux distributions keep the authorities that they trust, in PEM.
const SYSTEM_FILES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Certificates of authorities: whoever can show a certificate of theirs is believed. Cheap to
/// clone.
#[derive(Clone)]
pub struct Roots {
    pub(super) store: Arc<RootCertStore>,
}

impl Roots {
    /// All certificates of a file in PEM.
    ///
    /// # Errors
    ///
    /// [`TlsError::File`] or [`TlsError::Pem`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TlsError> {
        let path = path.as_ref();
        let pem = |reason| TlsError::Pem { path: Some(path.into()), reason };
        let mut store = RootCertStore::empty();
        for certificate in certificates(&read(path)?).map_err(pem)? {
            store.add(certificate).map_err(|error| pem(error.to_string()))?;
        }
        Ok(Self { store: Arc::new(store) })
    }

    /// All certificates of a text in PEM.
    ///
    /// # Errors
    ///
    /// [`TlsError::Pem`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, TlsError> {
        let mut store = RootCertStore::empty();
        let error = |reason| TlsError::Pem { path: None, reason };
        for certificate in certificates(pem).map_err(error)? {
            store.add(certificate).map_err(|reason| error(reason.to_string()))?;
        }
        Ok(Self { store: Arc::new(store) })
    }

    /// What this machine trusts: the file that the environment variable `SSL_CERT_FILE` names, or
    /// else the file of the distribution. Certificates in it that are no authorities are left out.
    ///
    /// # Errors
    ///
    /// [`TlsError::File`] if there is no such file, [`TlsError::Settings`] if it holds nothing of
    /// use.
    pub fn system() -> Result<Self, TlsError> {
        let named = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty());
        let path = match &named {
            Some(path) => Path::new(path),
            None => {
                let mut known = SYSTEM_FILES.iter().map(Path::new);
                known.find(|path| path.exists()).unwrap_or(Path::new(SYSTEM_FILES[0]))
            }
        };
        let pem = |reason| TlsError::Pem { path: Some(path.into()), reason };
        let mut store = RootCertStore::empty();
        let (added, _) = store.add_parsable_certificates(certificates(&read(path)?).map_err(pem)?);
        if added == 0 {
            return Err(TlsError::Settings(format!("{} names no authority", path.display())));
        }
        Ok(Self { store: Arc::new(store) })
    }
}

impl From<RootCertStore> for Roots {
    fn from(store: RootCertStore) -> Self {
        Self { store: Arc::new(store) }
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roots").field("certificates", &self.store.len()).finish()
    }
}
