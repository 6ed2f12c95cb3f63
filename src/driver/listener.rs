//! Listening sockets: from the words of a configuration to a socket that accepts.
//!
//! In: an address and options. Out: a socket that listens, ready for `Driver::listen`. Nothing
//! here accepts, and nothing here removes a file that is not a dead Unix socket.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

/// Where a server listens.
///
/// | text | meaning |
/// | --- | --- |
/// | `127.0.0.1:9001`, `[::1]:9001` | this address |
/// | `0.0.0.0:9001` | every IPv4 address |
/// | `[::]:9001` | every address, IPv6 and IPv4 (dual stack) |
/// | `localhost:9001` | the first address of this name that can be bound, looked up on binding |
/// | `unix:/run/app.sock` | a Unix socket |
///
/// Port 0 lets the kernel choose. Parsed with [`FromStr`] or [`TryFrom`], displayed the same way.
///
/// ```
/// use wirelane::ListenAddr;
///
/// let everywhere: ListenAddr = "[::]:9001".parse()?;
/// assert_eq!(everywhere.to_string(), "[::]:9001");
/// let error = "9001".parse::<ListenAddr>().unwrap_err();
/// assert!(error.to_string().contains("127.0.0.1:9001"));
/// # Ok::<(), wirelane::InvalidListenAddr>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddr(Target);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Target {
    Ip(SocketAddr),
    /// `host:port`, checked for its shape only.
    Name(String),
    Unix(PathBuf),
}

impl ListenAddr {
    /// A Unix socket at this path.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self(Target::Unix(path.into()))
    }

    /// The address and port, unless this is a Unix socket or a name that was not looked up.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self.0 {
            Target::Ip(addr) => Some(addr),
            Target::Name(_) | Target::Unix(_) => None,
        }
    }

    /// The path, if this is a Unix socket.
    pub fn unix_path(&self) -> Option<&Path> {
        match &self.0 {
            Target::Unix(path) => Some(path),
            Target::Ip(_) | Target::Name(_) => None,
        }
    }
}

impl From<SocketAddr> for ListenAddr {
    fn from(addr: SocketAddr) -> Self {
        Self(Target::Ip(addr))
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Target::Ip(addr) => write!(f, "{addr}"),
            Target::Name(name) => f.write_str(name),
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for ListenAddr {
    type Err = InvalidListenAddr;

    fn from_str(text: &str) -> Result<Self, InvalidListenAddr> {
        let invalid = |hint: String| Err(InvalidListenAddr { text: text.to_owned(), hint });
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() || path.contains('\0') {
                return invalid("write unix:PATH, for example unix:/run/app.sock".to_owned());
            }
            return Ok(Self::unix(path));
        }
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return Ok(addr.into());
        }
        if let Some((_, rest)) = text.split_once("://") {
            return invalid(format!("leave out the scheme: write {}", rest.trim_end_matches('/')));
        }
        if text.contains('/') {
            return invalid(
                "a path: write unix:PATH for a Unix socket, HOST:PORT for TCP".to_owned(),
            );
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            // The last group of an address without brackets may have been meant as the port.
            return invalid(format!("an IPv6 address has brackets: write [{text}]:PORT"));
        }
        if text.parse::<u16>().is_ok() {
            return invalid(which_host(text));
        }
        let Some((host, port)) = text.rsplit_once(':').filter(|_| !text.ends_with(']')) else {
            let host = if text.is_empty() { "127.0.0.1" } else { text };
            return invalid(format!("the port is missing: write {host}:PORT"));
        };
        if port.parse::<u16>().is_err() {
            return invalid("the port must be a number from 0 to 65535".to_owned());
        }
        if host.is_empty() || host == "*" {
            return invalid(which_host(port));
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if !host.chars().all(is_name) {
            return invalid("write HOST:PORT, [IPV6]:PORT or unix:PATH".to_owned());
        }
        Ok(Self(Target::Name(text.to_owned())))
    }
}

impl TryFrom<&str> for ListenAddr {
    type Error = InvalidListenAddr;

    fn try_from(text: &str) -> Result<Self, InvalidListenAddr> {
        text.parse()
    }
}

impl TryFrom<&String> for ListenAddr {
    type Error = InvalidListenAddr;

    fn try_from(text: &String) -> Result<Self, InvalidListenAddr> {
        text.parse()
    }
}

impl TryFrom<String> for ListenAddr {
    type Error = InvalidListenAddr;

    fn try_from(text: String) -> Result<Self, InvalidListenAddr> {
        text.parse()
    }
}

/// What to write in front of a port that stands alone.
fn which_host(port: &str) -> String {
    format!(
        "the host is missing: write 127.0.0.1:{port} for this machine only, 0.0.0.0:{port} for \
         every IPv4 address, [::]:{port} for every address"
    )
}

/// The text is no [`ListenAddr`]; the message says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidListenAddr {
    text: String,
    hint: String,
}

impl fmt::Display for InvalidListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {:?}: {}", self.text, self.hint)
    }
}

impl std::error::Error for InvalidListenAddr {}

/// How a listener is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListenOptions {
    /// Connections that the kernel completes before anybody accepts them. The kernel lowers it to
    /// `net.core.somaxconn`. Default 1024.
    pub(crate) backlog: u32,
    /// Whether several listeners share the port. Default no. Without effect on Unix sockets, which
    /// workers share with `try_clone`.
    pub(crate) sharing: PortSharing,
    pub(crate) tcp: TcpOptions,
}

/// Options of TCP sockets. Accepted ones inherit them from their listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TcpOptions {
    /// `TCP_USER_TIMEOUT`: how long sent bytes may stay without an acknowledgement.
    pub(crate) user_timeout: Option<Duration>,
    /// `SO_KEEPALIVE`: how long a connection may be silent before the kernel asks.
    pub(crate) keepalive: Option<Duration>,
}

/// Questions without an answer before the kernel gives a connection up.
const KEEPALIVE_PROBES: u32 = 4;

impl TcpOptions {
    /// Sets these, and `TCP_NODELAY`, which all have: what is sent is sent once per turn anyway.
    pub(crate) fn apply(&self, socket: &Socket) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        if let Some(time) = self.user_timeout {
            socket.set_tcp_user_timeout(Some(time))?;
        }
        if let Some(time) = self.keepalive {
            let interval = (time / KEEPALIVE_PROBES).max(Duration::from_secs(1));
            let keepalive = TcpKeepalive::new().with_time(time.max(Duration::from_secs(1)));
            let keepalive = keepalive.with_interval(interval).with_retries(KEEPALIVE_PROBES);
            socket.set_tcp_keepalive(&keepalive)?;
        }
        Ok(())
    }
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { backlog: 1024, sharing: PortSharing::No, tcp: TcpOptions::default() }
    }
}

/// `SO_REUSEPORT`: every worker binds its own listener and the kernel spreads the peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortSharing {
    /// One listener has the port to itself.
    No,
    /// The first of several: fails if anybody listens there already, so that two servers never
    /// share a port by mistake.
    Opened,
    /// One more, beside listeners that opened or joined the port.
    Joined,
}

/// Binds and listens; the socket is non-blocking and close-on-exec.
///
/// A Unix socket file that nobody listens on any more (its server crashed) is replaced. Keep a
/// [`UnixPathGuard`] to remove the file at the end.
///
/// # Errors
///
/// Those of socket(2), bind(2) and listen(2). EADDRINUSE also when the Unix path belongs to a live
/// server or to something that is not a socket; such a file is left alone.
pub(crate) fn bind(addr: &ListenAddr, options: &ListenOptions) -> io::Result<Socket> {
    match &addr.0 {
        Target::Ip(addr) => bind_tcp(*addr, options),
        Target::Name(name) => {
            let mut last_error = None;
            for addr in name.to_socket_addrs()? {
                match bind_tcp(addr, options) {
                    Ok(socket) => return Ok(socket),
                    Err(error) => last_error = Some(error),
                }
            }
            Err(last_error.unwrap_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, format!("{name} has no address"))
            }))
        }
        Target::Unix(path) => bind_unix(path, options),
    }
}

/// Where a listener really listens, with the port that the kernel chose for port 0.
///
/// # Errors
///
/// That of getsockname(2); `Unsupported` for a socket that is neither TCP nor at a path.
pub(crate) fn local_addr(listener: &Socket) -> io::Result<ListenAddr> {
    let addr = listener.local_addr()?;
    if let Some(addr) = addr.as_socket() {
        return Ok(addr.into());
    }
    match addr.as_pathname() {
        Some(path) => Ok(ListenAddr::unix(path)),
        None => Err(io::Error::new(io::ErrorKind::Unsupported, "the listener has no name")),
    }
}

/// Removes the file of a Unix socket when dropped, unless somebody has replaced it.
///
/// Costs one descriptor, which keeps the file's inode in being: otherwise its number could be given
/// to the file of a successor that starts while the last connections of this server end.
#[derive(Debug)]
pub(crate) struct UnixPathGuard {
    path: PathBuf,
    file: fs::File,
}

impl UnixPathGuard {
    /// Call it after `bind`. `None` for an address that is no path.
    ///
    /// # Errors
    ///
    /// When the file cannot be looked at.
    pub(crate) fn new(addr: &ListenAddr) -> io::Result<Option<Self>> {
        let Some(path) = addr.unix_path() else { return Ok(None) };
        // The process may change its directory before the end.
        let path = std::path::absolute(path)?;
        // open(2): O_PATH opens what can neither be read nor written, like a socket's file.
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(&path)?;
        Ok(Some(Self { path, file }))
    }
}

impl Drop for UnixPathGuard {
    fn drop(&mut self) {
        if let Ok(ours) = self.file.metadata()
            && let Ok(present) = fs::symlink_metadata(&self.path)
            && (present.dev(), present.ino()) == (ours.dev(), ours.ino())
        {
            // A file that cannot be removed is replaced by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn bind_tcp(addr: SocketAddr, options: &ListenOptions) -> io::Result<Socket> {
    let kind = Type::STREAM.cloexec().nonblocking();
    let socket = Socket::new(Domain::for_address(addr), kind, Some(Protocol::TCP))?;
    // Binds although connections of a former run are in TIME_WAIT; never beside a live listener.
    socket.set_reuse_address(true)?;
    if options.sharing == PortSharing::Joined {
        socket.set_reuse_port(true)?;
    }
    if let IpAddr::V6(ip) = addr.ip()
        && ip.is_unspecified()
    {
        // Whatever net.ipv6.bindv6only says: "every address" includes IPv4.
        socket.set_only_v6(false)?;
    }
    options.tcp.apply(&socket)?;
    socket.bind(&SockAddr::from(addr))?;
    if options.sharing == PortSharing::Opened {
        // Not before bind(2), which would not complain about other listeners with this option.
        socket.set_reuse_port(true)?;
    }
    listen(socket, options)
}

fn bind_unix(path: &Path, options: &ListenOptions) -> io::Result<Socket> {
    let addr = SockAddr::unix(path)?;
    let kind = Type::STREAM.cloexec().nonblocking();
    let socket = Socket::new(Domain::UNIX, kind, None)?;
    match socket.bind(&addr) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => {
            remove_dead_socket(path, &addr, error)?;
            socket.bind(&addr)?;
        }
        bound => bound?,
    }
    listen(socket, options)
}

fn listen(socket: Socket, options: &ListenOptions) -> io::Result<Socket> {
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(socket)
}

/// Removes the file if it is a socket that nobody listens on, else answers `in_use`.
fn remove_dead_socket(path: &Path, addr: &SockAddr, in_use: io::Error) -> io::Result<()> {
    let before = fs::symlink_metadata(path)?;
    if !before.file_type().is_socket() {
        return Err(io::Error::new(in_use.kind(), "the path exists and is not a socket"));
    }
    let kind = Type::STREAM.cloexec().nonblocking();
    match Socket::new(Domain::UNIX, kind, None)?.connect(addr) {
        Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => {}
        // Somebody accepts, or has a full backlog (EAGAIN), or does not let us ask (EACCES).
        _ => return Err(in_use),
    }
    // Another starting server may have replaced the file in the meantime.
    let now = fs::symlink_metadata(path)?;
    if (now.dev(), now.ino()) != (before.dev(), before.ino()) {
        return Err(in_use);
    }
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn parse(text: &str) -> ListenAddr {
        text.parse().unwrap()
    }

    fn hint(text: &str) -> String {
        text.parse::<ListenAddr>().unwrap_err().to_string()
    }

    /// A path of its own for each test, in a directory that goes away with it.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("wirelane-listener-{}-{count}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn path(&self) -> PathBuf {
            self.0.join("socket")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn addresses_display_as_they_are_written() {
        for text in [
            "127.0.0.1:9001",
            "0.0.0.0:0",
            "[::1]:9001",
            "[::]:65535",
            "localhost:80",
            "my-host.example:9001",
            "unix:/run/app.sock",
            "unix:relative",
        ] {
            assert_eq!(parse(text).to_string(), text);
        }
        assert_eq!(parse("[::1]:9").socket_addr(), Some("[::1]:9".parse().unwrap()));
        assert_eq!(parse("unix:/a b").unix_path(), Some(Path::new("/a b")));
        assert_eq!(parse("localhost:9").socket_addr(), None);
    }

    #[test]
    fn wrong_addresses_say_what_to_write() {
        assert!(hint(":9001").contains("write 127.0.0.1:9001"));
        assert!(hint(":9001").contains("[::]:9001"));
        assert!(hint("127.0.0.1").contains("write 127.0.0.1:PORT"));
        assert!(hint("").contains("write 127.0.0.1:PORT"));
        assert!(hint("::1").contains("write [::1]:PORT"));
        assert!(hint("localhost:http").contains("number from 0 to 65535"));
        assert!(hint("localhost:65536").contains("number from 0 to 65535"));
        assert!(hint("unix:").contains("write unix:PATH"));
        assert!(hint("9001").contains("write 127.0.0.1:9001"));
        assert!(hint("*:9001").contains("[::]:9001"));
        assert!(hint("[::1]").contains("write [::1]:PORT"));
        assert!(hint("ws://localhost:9001/").ends_with("write localhost:9001"));
        assert!(hint("/run/app.sock").contains("unix:PATH"));
        assert!(hint("localhost:9001/chat").contains("HOST:PORT"));
        assert!(hint("1:2:3:9001").contains("[IPV6]:PORT"));
    }

    #[test]
    fn port_zero_becomes_a_real_port() {
        let listener = bind(&parse("127.0.0.1:0"), &ListenOptions::default()).unwrap();
        let addr = local_addr(&listener).unwrap().socket_addr().unwrap();
        assert_ne!(addr.port(), 0);
        assert!(std::net::TcpStream::connect(addr).is_ok());
    }

    #[test]
    fn a_name_is_looked_up() {
        let listener = bind(&parse("localhost:0"), &ListenOptions::default()).unwrap();
        let addr = local_addr(&listener).unwrap().socket_addr().unwrap();
        assert!(addr.ip().is_loopback());
    }

    #[test]
    fn every_address_includes_ipv4() {
        let listener = match bind(&parse("[::]:0"), &ListenOptions::default()) {
            Ok(listener) => listener,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EAFNOSUPPORT), "{error}");
                eprintln!("skipped: no IPv6 on this machine");
                return;
            }
        };
        let port = local_addr(&listener).unwrap().socket_addr().unwrap().port();
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    #[test]
    fn the_options_reach_the_socket() {
        let options = ListenOptions { backlog: u32::MAX, ..ListenOptions::default() };
        let first = bind(&parse("127.0.0.1:0"), &options).unwrap();
        assert!(first.is_listener().unwrap());
        assert!(first.tcp_nodelay().unwrap());
        assert!(first.nonblocking().unwrap());
    }

    #[test]
    fn accepted_sockets_inherit_the_options() {
        let (user, idle) = (Duration::from_secs(7), Duration::from_secs(60));
        let tcp = TcpOptions { user_timeout: Some(user), keepalive: Some(idle) };
        let listener = bind(&parse("127.0.0.1:0"), &ListenOptions { tcp, ..Default::default() });
        let listener = listener.unwrap();
        let addr = local_addr(&listener).unwrap().socket_addr().unwrap();
        let _peer = std::net::TcpStream::connect(addr).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(user));
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), idle);
        assert_eq!(accepted.tcp_keepalive_interval().unwrap(), idle / KEEPALIVE_PROBES);
        assert_eq!(accepted.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
    }

    #[test]
    fn a_port_is_shared_by_listeners_that_join_and_by_nobody_else() {
        let options = |sharing| ListenOptions { sharing, ..ListenOptions::default() };
        let any = parse("127.0.0.1:0");
        let first = bind(&any, &options(PortSharing::Opened)).unwrap();
        let addr = local_addr(&first).unwrap();
        let second = bind(&addr, &options(PortSharing::Joined)).unwrap();
        for sharing in [PortSharing::No, PortSharing::Opened] {
            let error = bind(&addr, &options(sharing)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{sharing:?}");
        }
        // The kernel gives both their share.
        let peers: Vec<_> = (0..100)
            .map(|_| std::net::TcpStream::connect(addr.socket_addr().unwrap()).unwrap())
            .collect();
        let accepted = |listener: &Socket| std::iter::from_fn(|| listener.accept().ok()).count();
        let counts = [accepted(&first), accepted(&second)];
        assert_eq!(counts[0] + counts[1], peers.len());
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");

        let alone = bind(&any, &options(PortSharing::No)).unwrap();
        let addr = local_addr(&alone).unwrap();
        for sharing in [PortSharing::No, PortSharing::Opened, PortSharing::Joined] {
            let error = bind(&addr, &options(sharing)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{sharing:?}");
        }
    }

    #[test]
    fn a_unix_socket_accepts_and_its_file_goes_with_the_guard() {
        let scratch = Scratch::new();
        let addr = ListenAddr::unix(scratch.path());
        let listener = bind(&addr, &ListenOptions::default()).unwrap();
        let guard = UnixPathGuard::new(&addr).unwrap().unwrap();
        assert_eq!(local_addr(&listener).unwrap(), addr);
        assert!(UnixStream::connect(scratch.path()).is_ok());
        drop(guard);
        assert!(!scratch.path().exists());
        assert!(UnixPathGuard::new(&parse("127.0.0.1:1")).unwrap().is_none());
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let scratch = Scratch::new();
        let addr = ListenAddr::unix(scratch.path());
        let dead = bind(&addr, &ListenOptions::default()).unwrap();
        drop(dead);
        assert!(scratch.path().exists());
        let live = bind(&addr, &ListenOptions { backlog: 0, ..ListenOptions::default() }).unwrap();
        for _ in 0..3 {
            // Also when the backlog is full.
            let error = bind(&addr, &ListenOptions::default()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        }
        assert_eq!(local_addr(&live).unwrap(), addr);
        assert!(scratch.path().exists());
    }

    #[test]
    fn a_file_that_is_no_socket_stays() {
        let scratch = Scratch::new();
        fs::write(scratch.path(), "precious").unwrap();
        let error = bind(&ListenAddr::unix(scratch.path()), &ListenOptions::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("not a socket"), "{error}");
        assert_eq!(fs::read_to_string(scratch.path()).unwrap(), "precious");
    }

    #[test]
    fn the_guard_leaves_a_successors_file_alone() {
        let scratch = Scratch::new();
        let addr = ListenAddr::unix(scratch.path());
        let _first = bind(&addr, &ListenOptions::default()).unwrap();
        let guard = UnixPathGuard::new(&addr).unwrap().unwrap();
        fs::remove_file(scratch.path()).unwrap();
        let _second = bind(&addr, &ListenOptions::default()).unwrap();
        drop(guard);
        assert!(UnixStream::connect(scratch.path()).is_ok());
    }

    /// A server that stops has closed its listener long before the last connection is gone, and a
    /// file system may give the number of a removed file to the next one.
    #[test]
    fn the_guard_knows_a_successors_file_after_its_own_listener_has_gone() {
        let scratch = Scratch::new();
        let addr = ListenAddr::unix(scratch.path());
        let first = bind(&addr, &ListenOptions::default()).unwrap();
        let guard = UnixPathGuard::new(&addr).unwrap().unwrap();
        drop(first);
        let _second = bind(&addr, &ListenOptions::default()).unwrap();
        drop(guard);
        assert!(UnixStream::connect(scratch.path()).is_ok());
    }
}
