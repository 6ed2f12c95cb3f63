//! TLS under a WebSocket (RFC 6455 3, `wss`): a TCP stream in, the same reads and writes out.
//!
//! The session is rustls'. Reads take as much ciphertext as there is with one system call and
//! give back as much plaintext as fits, so that a short read means the same as on a plain socket:
//! there is nothing more now.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mio::net::TcpStream;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, NamedGroup,
    RootCertStore, SignatureScheme,
};

use crate::failure::{Context, Failure};

/// Ciphertext taken from the socket at once.
const READ_LEN: usize = 256 * 1024;

/// Tickets that are kept; a server sends two or so per connection, and one is used up by the next.
const MAX_TICKETS: usize = 1024;

/// Plaintext that may wait for the socket: beyond it, writes are short.
const WRITE_LEN: usize = 256 * 1024;

thread_local! {
    /// One buffer for all connections: what is not decrypted at once is rare, and copied.
    static CIPHERTEXT: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_LEN]);
}

/// How to talk to servers: with the certificates of `ca`, or with any certificate at all, which is
/// right for a load generator and nothing else. Sessions are resumed only if asked for: without,
/// every handshake is a full one.
///
/// # Errors
///
/// The file cannot be read or holds no certificate.
pub(crate) fn config(ca: Option<&Path>, resume: bool) -> Result<Arc<ClientConfig>, Failure> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .context(|| "no TLS")?;
    let builder = match ca {
        None => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        }
        Some(file) => {
            let what = || format!("no certificate in {}", file.display());
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_file_iter(file).context(what)? {
                roots.add(certificate.context(what)?).context(what)?;
            }
            if roots.is_empty() {
                return Err(Failure::new(what()));
            }
            builder.with_root_certificates(roots)
        }
    };
    let mut config = builder.with_no_client_auth();
    config.resumption = match resume {
        true => Resumption::store(Arc::new(Sessions::default())),
        false => Resumption::disabled(),
    };
    Ok(Arc::new(config))
}

/// Sessions that can be resumed, all of one server: the store of rustls keeps eight tickets for
/// each, and a load generator opens more connections at once.
#[derive(Debug, Default)]
struct Sessions(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tickets: VecDeque<Tls13ClientSessionValue>,
}

impl Sessions {
    fn get(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, _server_name: ServerName<'static>, group: NamedGroup) {
        self.get().group = Some(group);
    }

    fn kx_hint(&self, _server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.get().group
    }

    fn set_tls12_session(&self, _name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.get().tls12 = Some(value);
    }

    fn tls12_session(&self, _name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.get().tls12.clone()
    }

    fn remove_tls12_session(&self, _name: &ServerName<'static>) {
        self.get().tls12 = None;
    }

    fn insert_tls13_ticket(&self, _name: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut remembered = self.get();
        if remembered.tickets.len() == MAX_TICKETS {
            // The oldest is the first that the server will not take any more.
            remembered.tickets.pop_front();
        }
        remembered.tickets.push_back(value);
    }

    fn take_tls13_ticket(&self, _name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.get().tickets.pop_back()
    }
}

/// Believes every certificate, and checks only that the server has its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A connection over TLS. The handshake is made by the first reads and writes.
#[derive(Debug)]
pub(crate) struct TlsStream {
    tcp: TcpStream,
    session: ClientConnection,
    /// Ciphertext that came and was not decrypted, because the reader's buffer was full.
    pending: Vec<u8>,
}

impl TlsStream {
    /// Takes a TCP stream that may still be connecting.
    ///
    /// # Errors
    ///
    /// The name of the server is none that TLS knows.
    pub(crate) fn new(
        tcp: TcpStream,
        config: &Arc<ClientConfig>,
        name: &str,
    ) -> Result<Self, Failure> {
        let name = ServerName::try_from(name.to_owned())
            .context(|| format!("'{name}' is no name for TLS"))?;
        let mut session =
            ClientConnection::new(Arc::clone(config), name).context(|| "no TLS session")?;
        session.set_buffer_limit(Some(WRITE_LEN));
        Ok(Self { tcp, session, pending: Vec::new() })
    }

    /// The stream below.
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The stream below, to be registered.
    pub(crate) fn tcp_mut(&mut self) -> &mut TcpStream {
        &mut self.tcp
    }

    /// Whether the handshake continued an earlier session; false until that is known.
    pub(crate) fn has_resumed(&self) -> bool {
        self.session.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Sends ciphertext that is ready, as far as the socket takes it.
    fn send(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.tcp)?;
        }
        Ok(())
    }

    /// Decrypts into `buffer` from `filled` on, until that is full or the input used up. Returns
    /// how much of the input was used.
    fn decrypt(
        &mut self,
        input: &[u8],
        buffer: &mut [u8],
        filled: &mut usize,
    ) -> io::Result<usize> {
        let mut rest = input;
        loop {
            while *filled < buffer.len() {
                match self.session.reader().read(&mut buffer[*filled..]) {
                    Ok(0) => break,
                    Ok(len) => *filled += len,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            if rest.is_empty() || *filled == buffer.len() {
                return Ok(input.len() - rest.len());
            }
            self.session.read_tls(&mut rest)?;
            self.session.process_new_packets().map_err(io::Error::other)?;
        }
    }

    fn read_through(&mut self, buffer: &mut [u8], ciphertext: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        let pending = std::mem::take(&mut self.pending);
        let used = self.decrypt(&pending, buffer, &mut filled)?;
        self.pending.extend_from_slice(&pending[used..]);
        while filled < buffer.len() {
            let len = match self.tcp.read(ciphertext) {
                Ok(0) => break,
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock && filled > 0 => break,
                Err(error) => return Err(error),
            };
            let used = self.decrypt(&ciphertext[..len], buffer, &mut filled)?;
            self.pending.extend_from_slice(&ciphertext[used..len]);
            match self.send() {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
            // A short read emptied the socket.
            if len < ciphertext.len() && filled > 0 {
                break;
            }
        }
        Ok(filled)
    }
}

impl Read for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        CIPHERTEXT.with_borrow_mut(|ciphertext| self.read_through(buffer, ciphertext))
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send()?;
        let len = self.session.writer().write(bytes)?;
        match self.send() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ if len == 0 => Err(ErrorKind::WouldBlock.into()),
            _ => Ok(len),
        }
    }

    /// Goes on with what an earlier write left.
    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}
