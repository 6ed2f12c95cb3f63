//! One client socket of either family, not blocking, in the form that mio polls.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use rustls::ClientConfig;
use socket2::SockRef;

use crate::failure::{Context, Failure};
use crate::target::Address;
use crate::tls::TlsStream;

/// A connected socket, or a TCP socket that is about to be.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Tls(Box<TlsStream>),
    Unix(UnixStream),
}

impl Socket {
    /// Starts to connect, with TCP_NODELAY.
    ///
    /// # Errors
    ///
    /// socket(2) or connect(2) failed at once. Over TCP, most failures come later: see
    /// [`Socket::is_connected`].
    pub(crate) fn connect(address: &Address) -> Result<Self, Failure> {
        let what = || format!("{address}: cannot connect");
        match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(*address).context(what)?;
                stream.set_nodelay(true).context(what)?;
                Ok(Self::Tcp(stream))
            }
            Address::Unix(file) => {
                // Not blocking, connect(2) would fail with EAGAIN as soon as the server's backlog
                // is full, and no event tells when to try again.
                let stream = std::os::unix::net::UnixStream::connect(file).context(what)?;
                stream.set_nonblocking(true).context(what)?;
                Ok(Self::Unix(UnixStream::from_std(stream)))
            }
        }
    }

    /// Puts TLS over a TCP socket.
    ///
    /// # Errors
    ///
    /// The name is none that TLS knows.
    pub(crate) fn over_tls(self, config: &Arc<ClientConfig>, name: &str) -> Result<Self, Failure> {
        match self {
            Self::Tcp(stream) => Ok(Self::Tls(Box::new(TlsStream::new(stream, config, name)?))),
            other => Ok(other),
        }
    }

    /// The TCP socket, if it is one.
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(stream) => Some(stream.tcp()),
            Self::Unix(_) => None,
        }
    }

    /// Whether the connection is established; to be asked after each event until it is.
    ///
    /// # Errors
    ///
    /// The connection was refused, or could not be made otherwise.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        let Some(stream) = self.tcp() else { return Ok(true) };
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks for both kinds of readiness, once for the life of the socket: the notifications are
    /// edge-triggered, so writability does not disturb while there is room.
    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self {
            Self::Tcp(stream) => stream.register(registry, token, interest),
            Self::Tls(stream) => stream.tcp_mut().register(registry, token, interest),
            Self::Unix(stream) => stream.register(registry, token, interest),
        }
    }

    /// Makes the drop of this socket reset the connection (SO_LINGER 0), which leaves no TIME_WAIT
    /// and so no used-up port on the client's side.
    pub(crate) fn reset_on_drop(&self) {
        if let Some(stream) = self.tcp() {
            // If it fails, the connection ends in the usual way.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    /// What TLS could not send at once; the others keep nothing back.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tls(stream) => stream.flush(),
            Self::Tcp(_) | Self::Unix(_) => Ok(()),
        }
    }
}

/// Outcome of a read or write that may have to wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// So many bytes.
    Some(usize),
    /// The socket has to become ready first.
    WouldBlock,
}

/// Sorts the results of read(2) and write(2): an interrupted call is repeated.
///
/// # Errors
///
/// Whatever is not `EINTR` or `EAGAIN`.
pub(crate) fn transfer(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<Transfer> {
    loop {
        match call() {
            Ok(len) => return Ok(Transfer::Some(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(Transfer::WouldBlock);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
