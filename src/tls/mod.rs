//! TLS (RFC 8446, RFC 5246): wss and https on servers, wss for clients. With the feature `tls`.
//!
//! A server needs an [`Identity`], its certificate and key, in a [`ServerTls`], which
//! [`ServerBuilder::tls`](crate::ServerBuilder::tls) takes and
//! [`Handle::reload_tls`](crate::Handle::reload_tls) exchanges; a client of `wss://` needs nothing,
//! or other [`Roots`] than the system's, in a [`ClientTls`] for
//! [`Dial::tls`](crate::client::Dial::tls). For a certificate to try things with:
//!
//! ```sh
//! openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
//!     -keyout key.pem -out cert.pem -subj /CN=localhost \
//!     -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
//!     -addext basicConstraints=critical,CA:FALSE
//! ```
//!
//! Clients believe it with `ClientTls::new(Roots::from_file("cert.pem")?)`.
//!
//! # How records travel
//!
//! What comes in: lent ciphertext, plaintext to send. What goes out: plaintext in a buffer of the
//! worker, records ready for the socket. Nothing here reads or writes a socket, or looks at a clock;
//! no other folder knows rustls.
//!
//! ```text
//!  received --lent--> Tls::receive --plaintext--> the same path as without TLS
//!                        |  an unfinished record stays with the connection
//!  Outgoing --batch--> Tls::seal ----records----> one send; what the socket leaves: `sealed`
//! ```
//!
//! The API of rustls without buffers is used: records are decrypted where they were received, then
//! copied into one contiguous plaintext per worker; records to send are written into one buffer per
//! worker. So a connection that is idle holds no buffer. With buffers inside of rustls, an echo of
//! 16 KiB cost a tenth more.

// Without the feature `tls` a `Tls` is a type without values: whatever asks for it vanishes.

mod failure;

#[cfg(feature = "tls-no-provider")]
mod client;
#[cfg(feature = "tls-no-provider")]
mod connection;
#[cfg(feature = "tls-no-provider")]
mod identity;
#[cfg(feature = "tls-no-provider")]
mod roots;
#[cfg(feature = "tls-no-provider")]
mod server;

#[cfg(not(feature = "tls-no-provider"))]
mod absent;

pub use self::failure::TlsFailure;

#[cfg(feature = "tls-no-provider")]
pub use self::{
    client::ClientTls,
    identity::{Identity, TlsError},
    roots::Roots,
    server::{ClientAuth, ServerTls},
};

/// The crate whose types are accepted; see [`ServerTls`] and [`ClientTls`].
#[cfg(feature = "tls-no-provider")]
pub use rustls;

#[cfg(feature = "tls-no-provider")]
pub(crate) use self::{
    client::Starter,
    connection::{Exhausted, SEAL_ROOM, Tls},
    server::Acceptor,
};

#[cfg(not(feature = "tls-no-provider"))]
pub(crate) use self::absent::{Acceptor, Exhausted, SEAL_ROOM, Starter, Tls};

/// Plaintext that is sealed at a time: eight records of the largest size (RFC 8446 5.1). So much,
/// and what the records add to it, a connection holds at most when its socket is full.
pub(crate) const SEAL_BYTES: usize = 128 * 1024;

/// Handshake bytes that wait for their turn; whoever sends more without an answer gets it at once.
pub(crate) const MAX_HELD: usize = 64 * 1024;

/// How a TLS connection ended, if it ended while bytes were looked at.
#[cfg_attr(not(feature = "tls-no-provider"), allow(dead_code))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The peer will send no more: close_notify (RFC 8446 6.1).
    Closed,
    /// What the peer sent was no TLS, or not the TLS that is spoken here.
    Failed(TlsFailure),
}

/// How the handshake was completed.
#[cfg_attr(not(feature = "tls-no-provider"), allow(dead_code))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opened {
    Full,
    /// With the ticket or the id of an earlier session.
    Resumed,
}

/// Buffers of one worker, of use to one connection at a time. Nothing is allocated before the first
/// TLS connection.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Decrypted input of one receive.
    pub(crate) plain: Vec<u8>,
    /// What TLS itself has to answer.
    pub(crate) answer: Vec<u8>,
    /// Encrypted output of one batch; of fixed length once it is used.
    pub(crate) sealed: Vec<u8>,
    /// Plaintext that lies in several places, put together for the cipher.
    pub(crate) gathered: Vec<u8>,
}

impl Scratch {
    /// The buffer for one batch of records.
    pub(crate) fn sealed(&mut self) -> &mut [u8] {
        if self.sealed.is_empty() {
            self.sealed.resize(SEAL_BYTES + SEAL_ROOM, 0);
        }
        &mut self.sealed
    }
}
