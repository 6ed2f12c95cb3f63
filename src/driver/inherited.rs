//! Listeners that somebody else has bound.
//!
//! In: a listener of the standard library, a descriptor, or what a service manager left to this
//! process. Out: a socket that listens, ready for `Driver::listen`.

#![allow(unsafe_code)]

use std::env;
use std::io;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, Socket, Type};

use super::listener::ListenOptions;

/// A listening socket that somebody else has bound, for
/// [`ServerBuilder::listen_on`](crate::ServerBuilder::listen_on): from a [`TcpListener`], a
/// [`UnixListener`] or an [`OwnedFd`].
#[derive(Debug)]
pub struct BoundListener(Socket);

impl From<TcpListener> for BoundListener {
    fn from(listener: TcpListener) -> Self {
        Self(listener.into())
    }
}

impl From<UnixListener> for BoundListener {
    fn from(listener: UnixListener) -> Self {
        Self(listener.into())
    }
}

impl From<OwnedFd> for BoundListener {
    fn from(fd: OwnedFd) -> Self {
        Self(fd.into())
    }
}

/// The first inherited descriptor: sd_listen_fds(3).
const FIRST: RawFd = 3;

/// More than any service has; a number that cannot be right is refused.
const MOST: RawFd = 1024;

impl BoundListener {
    /// The listeners that systemd (or another manager that speaks its protocol, sd_listen_fds(3))
    /// has bound for this process and left to it in the variables `LISTEN_FDS` and `LISTEN_PID`;
    /// none if they are not there or are meant for another process. They can be taken once.
    ///
    /// ```no_run
    /// # use wirelane::{BoundListener, Handler, Message, Server, WebSocket};
    /// # struct Echo;
    /// # impl Handler for Echo {
    /// #     type Session = ();
    /// #     fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
    /// #         ws.send(message);
    /// #     }
    /// # }
    /// let mut server = Server::builder().websocket("/", |_worker| Echo);
    /// let inherited = BoundListener::inherited()?;
    /// if inherited.is_empty() {
    ///     server = server.listen("127.0.0.1:9001");
    /// }
    /// for listener in inherited {
    ///     server = server.listen_on(listener);
    /// }
    /// server.run()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `InvalidData` if `LISTEN_FDS` is no number from 0 to 1024, `AlreadyExists` if they were
    /// taken before, or what fcntl(2) said about a descriptor: EBADF if it is not open.
    pub fn inherited() -> io::Result<Vec<Self>> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u32>());
        if number("LISTEN_PID") != Some(Ok(std::process::id())) {
            return Ok(Vec::new());
        }
        let count = match number("LISTEN_FDS").and_then(Result::ok).map(RawFd::try_from) {
            Some(Ok(count)) if count <= MOST => count,
            _ => {
                let problem = "LISTEN_FDS is not the number of listeners, 0 to 1024";
                return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
            }
        };
        if TAKEN.swap(true, Ordering::AcqRel) {
            let problem = "the inherited listeners were taken before";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, problem));
        }
        let fds = FIRST..FIRST + count;
        for fd in fds.clone() {
            // SAFETY: changes nothing but a flag of a descriptor, which fails if it is not open.
            if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: whoever started this process says that these are open and ours, the call above
        // that they are open, and `TAKEN` that nobody is given them a second time.
        Ok(fds.map(|fd| Self(unsafe { Socket::from_raw_fd(fd) })).collect())
    }

    /// Makes sure that it is a stream socket, and sets what listeners of our own have.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if it is no stream socket or is connected; others of listen(2).
    pub(crate) fn prepare(self, options: &ListenOptions) -> io::Result<Socket> {
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        let Self(socket) = self;
        if socket.r#type()? != Type::STREAM || socket.peer_addr().is_ok() {
            return Err(invalid("it is no stream socket that could listen"));
        }
        socket.set_cloexec(true)?;
        socket.set_nonblocking(true)?;
        if socket.domain()? != Domain::UNIX {
            options.tcp.apply(&socket)?;
        }
        // Also makes the backlog ours if it listens already.
        socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
        Ok(socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_gets_our_options_and_what_cannot_listen_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = BoundListener::from(listener).prepare(&ListenOptions::default()).unwrap();
        assert!(socket.is_listener().unwrap() && socket.nonblocking().unwrap());
        assert!(socket.tcp_nodelay().unwrap());
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let addr: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        bound.bind(&addr.into()).unwrap();
        let socket = BoundListener(bound).prepare(&ListenOptions::default()).unwrap();
        assert!(socket.is_listener().unwrap());
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
        for fd in [OwnedFd::from(udp), near.into()] {
            let error = BoundListener::from(fd).prepare(&ListenOptions::default()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_process_that_was_left_nothing_has_nothing() {
        // Cargo sets neither variable, and an outer service is another process.
        assert!(BoundListener::inherited().unwrap().is_empty());
    }
}
