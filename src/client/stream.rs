//! A blocking socket, TCP or Unix, on which every call has a deadline.
//!
//! In: an address, bytes, deadlines. Out: bytes and errors. Nothing here knows WebSocket.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::error::ClientError;
#[cfg(feature = "tls-no-provider")]
use super::secure::Secure;
use super::url::Endpoint;
use crate::driver::socket::connect_unix;

/// When a call gives up.
#[derive(Debug, Clone, Copy)]
pub(super) enum Deadline {
    Never,
    At(Instant),
    /// Without waiting at all.
    Now,
}

impl Deadline {
    /// Zero is off.
    pub(super) fn after(timeout: Duration) -> Self {
        match Instant::now().checked_add(timeout) {
            Some(deadline) if !timeout.is_zero() => Self::At(deadline),
            _ => Self::Never,
        }
    }

    /// The earlier of this and `timeout` from now.
    pub(super) fn at_most(self, timeout: Duration) -> Self {
        let limit = Instant::now() + timeout;
        match self {
            Self::Never => Self::At(limit),
            Self::At(deadline) => Self::At(deadline.min(limit)),
            Self::Now => Self::Now,
        }
    }

    /// True when the time is over.
    pub(super) fn is_over(self) -> bool {
        self.left().is_err()
    }

    /// The time left, in the form that sockets take: `None` is no limit, and never zero.
    fn left(self) -> Result<Option<Duration>, ClientError> {
        match self {
            Self::Never => Ok(None),
            Self::At(deadline) => match deadline.saturating_duration_since(Instant::now()) {
                Duration::ZERO => Err(ClientError::TimedOut),
                left => Ok(Some(left)),
            },
            Self::Now => Err(ClientError::TimedOut),
        }
    }
}

/// A connected socket.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    #[cfg(feature = "tls-no-provider")]
    Secure(Box<Secure>),
}

impl Stream {
    pub(super) fn connect(endpoint: &Endpoint, deadline: Deadline) -> Result<Self, ClientError> {
        let (host, port) = match endpoint {
            Endpoint::Unix(path) => {
                return Ok(Self::Unix(connect_unix(path, deadline.left()?)?));
            }
            Endpoint::Tcp { host, port } => (host.as_str(), *port),
        };
        let mut last_error = ClientError::Io(io::ErrorKind::NotFound.into());
        for addr in (host, port).to_socket_addrs()? {
            let connected = match deadline.left()? {
                Some(left) => TcpStream::connect_timeout(&addr, left),
                None => TcpStream::connect(addr),
            };
            match connected {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(Self::Tcp(stream));
                }
                Err(error) => last_error = error.into(),
            }
        }
        Err(last_error)
    }

    /// Reads once; 0 is the end.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        deadline: Deadline,
    ) -> Result<usize, ClientError> {
        #[cfg(feature = "tls-no-provider")]
        if let Self::Secure(secure) = self {
            return secure.read(buffer, deadline);
        }
        self.call(deadline, |stream| match stream {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
            #[cfg(feature = "tls-no-provider")]
            Self::Secure(_) => Err(io::ErrorKind::Unsupported.into()),
        })
    }

    /// Writes once.
    pub(super) fn write(&mut self, bytes: &[u8], deadline: Deadline) -> Result<usize, ClientError> {
        #[cfg(feature = "tls-no-provider")]
        if let Self::Secure(secure) = self {
            return secure.write(bytes, deadline);
        }
        self.call(deadline, |stream| match stream {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
            #[cfg(feature = "tls-no-provider")]
            Self::Secure(_) => Err(io::ErrorKind::Unsupported.into()),
        })
    }

    /// Sees to it that what was written has left.
    pub(super) fn settle(&mut self, deadline: Deadline) -> Result<(), ClientError> {
        let _ = deadline;
        #[cfg(feature = "tls-no-provider")]
        if let Self::Secure(secure) = self {
            return secure.settle(deadline);
        }
        Ok(())
    }

    /// The last words of TLS, if the socket takes them at once.
    pub(super) fn say_goodbye(&mut self) {
        #[cfg(feature = "tls-no-provider")]
        if let Self::Secure(secure) = self {
            secure.say_goodbye();
        }
    }

    /// One system call that ends in time.
    fn call(
        &mut self,
        deadline: Deadline,
        mut call: impl FnMut(&mut Self) -> io::Result<usize>,
    ) -> Result<usize, ClientError> {
        if let Deadline::Now = deadline {
            self.set_nonblocking(true)?;
            let result = call(self);
            self.set_nonblocking(false)?;
            return Ok(result?);
        }
        loop {
            self.set_timeout(deadline.left()?)?;
            match call(self) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Ok(result?),
            }
        }
    }

    /// For both directions; the caller uses one of them.
    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)
            }
            #[cfg(feature = "tls-no-provider")]
            Self::Secure(secure) => secure.stream.set_timeout(timeout),
        }
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nonblocking(nonblocking),
            Self::Unix(stream) => stream.set_nonblocking(nonblocking),
            #[cfg(feature = "tls-no-provider")]
            Self::Secure(secure) => secure.stream.set_nonblocking(nonblocking),
        }
    }

    /// Sends FIN.
    pub(super) fn finish(&self) {
        // Fails only if the server was faster.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
            #[cfg(feature = "tls-no-provider")]
            Self::Secure(secure) => return secure.stream.finish(),
        };
    }
}
