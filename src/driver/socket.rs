//! Sockets that did not come from a listener of ours.
//!
//! In: an address or a path. Out: a connected socket within a time, or one that is on its way.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

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
