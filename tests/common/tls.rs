//! Certificates made for one test program, and a peer that speaks TLS with rustls: the same crate
//! as the server's, but its other API and its other side.

// Each test program uses its own part of this, and none is a library.
#![allow(dead_code, unreachable_pub)]

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use wirelane::tls::{Identity, Roots, ServerTls};

use crate::common::{Frame, PATIENCE, frame, request, take_frame, take_head};

/// An authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
pub struct Certificate {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        Authority { issuer: CertifiedIssuer::self_signed(params, key).expect("an authority") }
    }

    /// A certificate for these names, for servers and clients alike.
    pub fn issue(&self, names: &[&str]) -> Certificate {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Certificate { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub fn roots(&self) -> Roots {
        Roots::from_pem(self.pem().as_bytes()).expect("a certificate")
    }

    /// A client that believes this authority.
    pub fn client(&self) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("both versions")
            .with_root_certificates(self.store());
        builder.with_no_client_auth()
    }

    /// The same with a certificate of its own.
    pub fn client_with(&self, certificate: &Certificate) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("both versions")
            .with_root_certificates(self.store());
        let (chain, key) = certificate.der();
        builder.with_client_auth_cert(chain, key).expect("a certificate with its key")
    }

    pub fn store(&self) -> RootCertStore {
        let mut store = RootCertStore::empty();
        store.add(self.issuer.der().clone()).expect("an authority");
        store
    }
}

impl Certificate {
    pub fn identity(&self) -> Identity {
        Identity::from_pem(self.certificate.as_bytes(), self.key.as_bytes()).expect("a good pair")
    }

    pub fn der(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes());
        let chain = chain.collect::<Result<_, _>>().expect("PEM");
        (chain, PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("PEM"))
    }

    /// Writes both into files of the target folder; gives their paths.
    pub fn write(&self, name: &str) -> (PathBuf, PathBuf) {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let id = std::process::id();
        let certificate = folder.join(format!("{name}-{id}.pem"));
        let key = folder.join(format!("{name}-{id}.key"));
        std::fs::write(&certificate, &self.certificate).expect("a file");
        std::fs::write(&key, &self.key).expect("a file");
        (certificate, key)
    }
}

pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The authority of this test program.
pub fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::new("the tests' own"))
}

/// A server at `localhost`.
pub fn localhost() -> &'static Certificate {
    static CERTIFICATE: OnceLock<Certificate> = OnceLock::new();
    CERTIFICATE.get_or_init(|| authority().issue(&["localhost", "127.0.0.1"]))
}

pub fn server_tls() -> ServerTls {
    ServerTls::new(localhost().identity())
}

pub fn client_config() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    Arc::clone(CONFIG.get_or_init(|| Arc::new(authority().client())))
}

/// The other end of a TLS connection.
pub struct TlsPeer {
    pub stream: TcpStream,
    pub tls: ClientConnection,
    /// Plaintext that was received and not looked at.
    pub pending: Vec<u8>,
}

impl TlsPeer {
    /// Connects; the TLS handshake has not begun.
    pub fn new(addr: SocketAddr, config: Arc<ClientConfig>, name: &str) -> TlsPeer {
        let stream = TcpStream::connect(addr).expect("the server listens");
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let tls = ClientConnection::new(config, name).expect("a client");
        TlsPeer { stream, tls, pending: Vec::new() }
    }

    /// A peer whose TLS handshake is complete.
    pub fn connect(addr: SocketAddr) -> TlsPeer {
        let mut peer = TlsPeer::new(addr, client_config(), "localhost");
        peer.shake().expect("the handshake");
        peer
    }

    /// A peer whose opening handshake on `/` is complete, too.
    pub fn open(addr: SocketAddr) -> TlsPeer {
        let mut peer = TlsPeer::connect(addr);
        peer.upgrade();
        peer
    }

    /// Completes the TLS handshake.
    pub fn shake(&mut self) -> io::Result<()> {
        while self.tls.is_handshaking() {
            self.flush()?;
            if self.tls.is_handshaking() && self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.flush()
    }

    pub fn upgrade(&mut self) {
        self.send(&request("/"));
        let head = self.read_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    }

    /// Sends what TLS has to say.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.stream)?;
        }
        Ok(())
    }

    /// Sends plaintext.
    pub fn send(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = self.tls.writer().write(bytes).expect("room");
            bytes = &bytes[count..];
            self.flush().expect("the server reads");
        }
    }

    pub fn send_frame(&mut self, first: u8, payload: &[u8]) {
        self.send(&frame(first, payload));
    }

    /// The records of some plaintext, not sent.
    pub fn records(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut records = Vec::new();
        while !bytes.is_empty() || self.tls.wants_write() {
            let count = self.tls.writer().write(bytes).expect("room");
            bytes = &bytes[count..];
            self.tls.write_tls(&mut records).expect("memory");
        }
        records
    }

    /// Reads once from the socket; gives how many bytes those were.
    pub fn fill(&mut self) -> io::Result<usize> {
        let count = self.tls.read_tls(&mut self.stream)?;
        let state = self.tls.process_new_packets().map_err(io::Error::other)?;
        let start = self.pending.len();
        self.pending.resize(start + state.plaintext_bytes_to_read(), 0);
        self.tls.reader().read_exact(&mut self.pending[start..]).expect("announced");
        Ok(count)
    }

    fn need(&mut self, count: usize) {
        while self.pending.len() < count {
            let got = self.fill().expect("more bytes in time");
            assert_ne!(got, 0, "the server ended the connection; pending {:?}", self.pending);
        }
    }

    pub fn read_head(&mut self) -> String {
        loop {
            if let Some(head) = take_head(&mut self.pending) {
                return head;
            }
            self.need(self.pending.len() + 1);
        }
    }

    pub fn read_frame(&mut self) -> Frame {
        loop {
            match take_frame(&mut self.pending) {
                Ok(frame) => return frame,
                Err(needed) => self.need(needed),
            }
        }
    }

    /// Sends a message and expects it back.
    pub fn echo(&mut self, payload: &[u8]) {
        self.send_frame(0x82, payload);
        let frame = self.read_frame();
        assert!(frame.payload == payload, "{} bytes became another message", payload.len());
    }

    /// Reads on to the end of TCP: true if close_notify came before it.
    pub fn read_to_end(&mut self) -> io::Result<bool> {
        while self.fill()? != 0 {}
        // After close_notify rustls reads no more.
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest)?;
        self.tls.process_new_packets().map_err(io::Error::other)?;
        Ok(matches!(self.tls.reader().read(&mut [0]), Ok(0)))
    }

    pub fn finish(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}
