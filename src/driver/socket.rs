//! Sockets that did not come from a listener of ours.
//!
//! In: an address or a path, or a socket that another server has accepted. Out: a connected socket
//! within a time, or one that is on its way.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::AcceptedSocket;
use super::listener::TcpOptions;
use socket2::{Domain, SockAddr, Socket, Type};

/// A connection that somebody else has accepted, for [`Handle::adopt`](crate::Handle::adopt): from
/// a [`TcpStream`], a [`UnixStream`] or an [`OwnedFd`], blocking or not.
#[derive(Debug)]
pub struct ConnectedSocket(Socket);

impl From<TcpStream> for ConnectedSocket {
    fn from(stream: TcpStream) -> Self {
        Self(stream.into())
    }
}

impl From<UnixStream> for ConnectedSocket {
    fn from(stream: UnixStream) -> Self {
        Self(stream.into())
    }
}

impl From<OwnedFd> for ConnectedSocket {
    fn from(fd: OwnedFd) -> Self {
        Self(fd.into())
    }
}

impl From<ConnectedSocket> for OwnedFd {
    fn from(socket: ConnectedSocket) -> Self {
        socket.0.into()
    }
}

impl ConnectedSocket {
    /// Makes sure that it is a connected stream socket, and sets what sockets of our own listeners
    /// have. Gives the peer's address; `None` for Unix sockets.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if it is something else, or its peer has gone already; others of
    /// setsockopt(2).
    pub(crate) fn prepare(&self, tcp: &TcpOptions) -> io::Result<Option<IpAddr>> {
        let invalid = |_| io::ErrorKind::InvalidInput;
        let socket = &self.0;
        let streams = socket.r#type().map_err(invalid)? == Type::STREAM;
        let domain = socket.domain().map_err(invalid)?;
        let peer = socket.peer_addr().map_err(invalid)?;
        let known = [Domain::IPV4, Domain::IPV6, Domain::UNIX].contains(&domain);
        if !streams || !known {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        socket.set_cloexec(true)?;
        if domain != Domain::UNIX {
            tcp.apply(socket)?;
        }
        Ok(peer.as_socket().map(|addr| addr.ip()))
    }

    pub(crate) fn into_accepted(self) -> AcceptedSocket {
        AcceptedSocket::Os(self.0)
    }

    /// The way back.
    pub(crate) fn from_accepted(socket: AcceptedSocket) -> Self {
        match socket {
            AcceptedSocket::Os(socket) => Self(socket),
            #[cfg(test)]
            AcceptedSocket::Simulated(_) => unreachable!("made of a real one"),
        }
    }
}

/// Connects to a Unix socket. A backlog that is full makes this wait, at most for `timeout`.
///
/// # Errors
///
/// Those of connect(2); `WouldBlock` when the time is over.
pub(crate) fn connect_unix(path: &Path, timeout: Option<Duration>) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
    // unix(7) says nothing of it, but SO_SNDTIMEO also limits the wait of connect(2).
    socket.set_write_timeout(timeout)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

/// What [`Driver::connect`](super::Driver::connect) connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Remote {
    Ip(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remote::Ip(addr) => addr.fmt(f),
            Remote::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A socket that has begun to connect, and whether it has arrived already, as Unix sockets do.
/// It is non-blocking, close-on-exec, and sends small segments at once.
pub(super) fn begin_connect(remote: &Remote) -> io::Result<(Socket, bool)> {
    let (domain, addr) = match remote {
        Remote::Ip(addr) => (Domain::for_address(*addr), SockAddr::from(*addr)),
        Remote::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
    };
    let socket = Socket::new(domain, Type::STREAM.cloexec().nonblocking(), None)?;
    if domain != Domain::UNIX {
        socket.set_tcp_nodelay(true)?;
    }
    match socket.connect(&addr) {
        Ok(()) => Ok((socket, true)),
        // connect(2): a signal does not end the attempt, it goes on like one under way.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINPROGRESS | libc::EINTR)) => {
            Ok((socket, false))
        }
        Err(error) => Err(error),
    }
}

/// What came of it, asked once the socket is writable or has failed.
pub(super) fn finish_connect(socket: &Socket) -> io::Result<()> {
    match socket.take_error()? {
        None => Ok(()),
        Some(error) => Err(error),
    }
}
