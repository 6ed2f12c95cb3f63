//! The lab of the real drivers: sockets on the loopback interface or in a directory.

#![allow(unsafe_code)]

use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::{DEADLINE, Lab, Peer, PeerView, Skip};
use crate::driver::listener::{self, ListenAddr, ListenOptions};
use crate::driver::{Driver, ReceiveMemory, Remote};

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
    /// What the driver connects to.
    upstream: Option<Socket>,
    /// A listener that accepts nobody, and the connections that fill its backlog.
    crowd: Vec<Socket>,
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
        let lab = Self {
            addr,
            directory,
            limit_before: None,
            upstream: None,
            crowd: Vec::new(),
            driver: PhantomData,
        };
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

    fn remote(&mut self) -> Remote {
        let directory = self.directory.clone();
        let upstream = self.upstream.get_or_insert_with(|| listening(directory.as_deref(), 1024));
        upstream.set_nonblocking(true).unwrap();
        remote_of(upstream)
    }

    fn nobody(&mut self) -> Remote {
        // Whatever number the kernel gave is free again, and this process has no use for it.
        match &self.directory {
            Some(directory) => Remote::Unix(directory.join("nobody")),
            None => remote_of(&listening(None, 1)),
        }
    }

    fn nowhere(&mut self) -> Option<Remote> {
        if D::UNIX {
            return None;
        }
        let listener = listening(None, 0);
        let remote = remote_of(&listener);
        let addr = listener.local_addr().unwrap();
        // Once the backlog is full the kernel answers no SYN any more.
        for _ in 0..4 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&addr);
            self.crowd.push(socket);
        }
        self.crowd.push(listener);
        Some(remote)
    }

    fn accept(&mut self) -> Option<SocketPeer> {
        let (socket, _) = self.upstream.as_ref()?.accept().ok()?;
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

/// A listener: in this directory, or on a free port of the loopback interface.
fn listening(directory: Option<&Path>, backlog: i32) -> Socket {
    let (domain, addr) = match directory {
        Some(directory) => (Domain::UNIX, SockAddr::unix(directory.join("upstream")).unwrap()),
        None => (Domain::IPV4, SocketAddr::from(([127, 0, 0, 1], 0)).into()),
    };
    let socket = Socket::new(domain, Type::STREAM, None).unwrap();
    socket.bind(&addr).unwrap();
    socket.listen(backlog).unwrap();
    socket
}

fn remote_of(listener: &Socket) -> Remote {
    let addr = listener.local_addr().unwrap();
    match (addr.as_socket(), addr.as_pathname()) {
        (Some(addr), _) => Remote::Ip(addr),
        (None, Some(path)) => Remote::Unix(path.to_owned()),
        (None, None) => unreachable!("bound to one of the two"),
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

    fn segments(&self) -> Option<u32> {
        self.addr()?;
        // SAFETY: all fields are integers, for which zero is a value.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut len = size_of_val(&info) as libc::socklen_t;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&self.0);
        let (level, name) = (libc::IPPROTO_TCP, libc::TCP_INFO);
        // SAFETY: the kernel writes at most `len` bytes to `info`, and what it wrote to `len`.
        let result =
            unsafe { libc::getsockopt(fd, level, name, (&raw mut info).cast(), &raw mut len) };
        assert_eq!(result, 0);
        Some(info.tcpi_segs_in)
    }

    fn addr(&self) -> Option<SocketAddr> {
        self.0.local_addr().unwrap().as_socket()
    }
}
