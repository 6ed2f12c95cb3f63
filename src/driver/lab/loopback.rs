//! The lab of the real drivers: sockets on the loopback interface or in a directory.

#![allow(unsafe_code)]

use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::{DEADLINE, Lab, Peer, PeerView, Skip};
use crate::driver::listener::{self, ListenAddr, ListenOptions};
use crate::driver::{Driver, ReceiveMemory};

/// A driver over real sockets, for [`Loopback`].
pub(in crate::driver) trait RealDriver {
    /// Over Unix sockets instead of TCP.
    const UNIX: bool;

    /// See [`Lab::open`]; listening is done by the lab.
    fn open(receive_buffer: usize) -> Result<(Box<dyn Driver>, ReceiveMemory), Skip>;
}

/// The lab of the real drivers: loopback TCP, or a Unix socket in a directory of its own.
pub(in crate::driver) struct Loopback<D> {
    addr: ListenAddr,
    directory: Option<PathBuf>,
    limit_before: Option<libc::rlimit>,
    driver: PhantomData<D>,
}

impl<D: RealDriver> Lab for Loopback<D> {
    type Peer = SocketPeer;

    const HAS_RESET: bool = !D::UNIX;

    fn open(receive_buffer: usize) -> Result<(Self, Box<dyn Driver>, ReceiveMemory), Skip> {
        let (mut driver, memory) = D::open(receive_buffer)?;
        let (wanted, directory) = if D::UNIX {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("wirelane-lab-{}-{count}", std::process::id());
            let directory = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&directory).unwrap();
            (ListenAddr::unix(directory.join("socket")), Some(directory))
        } else {
            ("127.0.0.1:0".parse().unwrap(), None)
        };
        let listener = listener::bind(&wanted, &ListenOptions::default()).unwrap();
        let addr = listener::local_addr(&listener).unwrap();
        driver.listen(listener).unwrap();
        let lab = Self { addr, directory, limit_before: None, driver: PhantomData };
        Ok((lab, driver, memory))
    }

    fn connect(&mut self) -> Option<SocketPeer> {
        let (domain, addr) = match (self.addr.socket_addr(), self.addr.unix_path()) {
            (Some(addr), _) => (Domain::for_address(addr), SockAddr::from(addr)),
            (None, Some(path)) => (Domain::UNIX, SockAddr::unix(path).unwrap()),
            (None, None) => unreachable!("a bound address is one of the two"),
        };
        let socket = Socket::new(domain, Type::STREAM, None).unwrap();
        // A backlog that is full fails the test instead of blocking it: a Unix socket says EAGAIN.
        let connected = if D::UNIX {
            socket.set_nonblocking(true).unwrap();
            socket.connect(&addr)
        } else {
            socket.connect_timeout(&addr, DEADLINE)
        };
        match connected {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return None,
            Err(error) => panic!("connect to {}: {error}", self.addr),
        }
        socket.set_nonblocking(true).unwrap();
        Some(SocketPeer(socket))
    }

    fn refuse_accepts(&mut self, refuse: bool) {
        let limit = if refuse {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: `limit` is valid for writes.
            let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
            assert_eq!(result, 0);
            self.limit_before = Some(limit);
            // New descriptors get the lowest free number: forbid just that.
            let probe = std::fs::File::open("/dev/null").unwrap();
            let lowest = std::os::fd::AsRawFd::as_raw_fd(&probe);
            libc::rlimit { rlim_cur: lowest as libc::rlim_t, ..limit }
        } else {
            self.limit_before.take().expect("refused before")
        };
        // SAFETY: `limit` is valid for reads.
        let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
        assert_eq!(result, 0);
    }
}

impl<D> Drop for Loopback<D> {
    fn drop(&mut self) {
        if let Some(directory) = &self.directory {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

/// A non-blocking client socket.
pub(in crate::driver) struct SocketPeer(Socket);

impl Peer for SocketPeer {
    fn send(&mut self, bytes: &[u8]) -> usize {
        (&self.0).write(bytes).unwrap_or(0)
    }

    fn receive(&mut self, into: &mut Vec<u8>) -> PeerView {
        let mut buffer = [0; 64 * 1024];
        for _ in 0..32 {
            match (&self.0).read(&mut buffer) {
                Ok(0) => return PeerView::Ended,
                Ok(len) => into.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return PeerView::Reset,
            }
        }
        PeerView::Open
    }

    fn finish_sending(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Write);
    }

    fn reset(self) {
        self.0.set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn addr(&self) -> Option<SocketAddr> {
        self.0.local_addr().unwrap().as_socket()
    }
}
