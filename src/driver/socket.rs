//! Sockets that did not come from a listener of ours.
//!
//! In: a path, or a socket that another server has accepted. Out: a connected socket.

use std::io;
use std::net::{IpAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::AcceptedSocket;
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
    pub(crate) fn prepare(&self) -> io::Result<Option<IpAddr>> {
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
            socket.set_tcp_nodelay(true)?;
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
