//! Sockets that did not come from a listener of ours.
//!
//! In: a path. Out: a connected socket, within a time.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
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
