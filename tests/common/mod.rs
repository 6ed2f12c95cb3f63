//! A server in this process and a peer that may misbehave: what the tests of promises share.
//!
//! The peer speaks raw bytes over std sockets, so that nothing of the library can hide a mistake
//! of the library.

// Each test program uses its own part of this, and none is a library.
#![allow(dead_code, unreachable_pub)]

pub mod child;
pub mod dialling;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use wirelane::{Driver, Error, Handle, Server, ServerBuilder, Stats};

/// Nothing in these tests takes so long unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Makes one test per driver out of `fn name(driver: Driver)`.
#[macro_export]
macro_rules! on_every_driver {
    ($($name:ident),+ $(,)?) => {
        mod epoll {
            $(#[test] fn $name() { super::$name(wirelane::Driver::Epoll); })+
        }
        mod io_uring {
            $(#[test] fn $name() {
                if $crate::common::io_uring_works() {
                    super::$name(wirelane::Driver::IoUring);
                }
            })+
        }
    };
}

/// False, with a word about why, where the kernel refuses io_uring.
pub fn io_uring_works() -> bool {
    let server = Server::builder()
        .listen("127.0.0.1:0")
        .driver(Driver::IoUring)
        .get("/", |_| wirelane::Response::new(200))
        .build()
        .expect("a free port");
    server.handle().shutdown(Duration::ZERO);
    match server.run() {
        Ok(()) => true,
        Err(Error::Driver { source, .. }) => {
            eprintln!("skipped, no io_uring here: {source}");
            assert!(
                std::env::var_os("WIRELANE_REQUIRE_IO_URING").is_none(),
                "io_uring is required here"
            );
            false
        }
        Err(error) => panic!("{error}"),
    }
}

/// A port that the kernel gives to nobody else, on which nobody listens yet: servers of the test
/// may, one after the other. Otherwise a port that was free a moment ago may be another test's.
pub struct ReservedPort {
    pub addr: SocketAddr,
    _socket: socket2::Socket,
}

impl ReservedPort {
    pub fn new() -> ReservedPort {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        socket.set_reuse_address(true).expect("a TCP socket");
        socket.set_reuse_port(true).expect("a TCP socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("a free port");
        let addr = socket.local_addr().expect("bound").as_socket().expect("a TCP address");
        ReservedPort { addr, _socket: socket }
    }
}

/// A server on its own threads, stopped when dropped.
pub struct TestServer {
    pub addr: SocketAddr,
    pub handle: Handle,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl TestServer {
    /// Starts what `configure` makes of a builder that listens on a free port.
    pub fn start(
        driver: Driver,
        configure: impl FnOnce(ServerBuilder) -> ServerBuilder,
    ) -> TestServer {
        let (ready, listening) = mpsc::channel();
        let server = configure(Server::builder().listen("127.0.0.1:0").driver(driver))
            .on_listening(move |addrs| ready.send(addrs[0].clone()).expect("the test waits"))
            .build()
            .expect("possible settings");
        let handle = server.handle();
        let thread = thread::spawn(move || server.run());
        let addr = listening.recv_timeout(PATIENCE).expect("the server starts");
        let addr = addr.socket_addr().expect("a TCP address");
        TestServer { addr, handle, thread: Some(thread) }
    }

    pub fn connect(&self) -> Peer {
        Peer::connect(self.addr)
    }

    /// A peer whose opening handshake on `/` is done.
    pub fn open(&self) -> Peer {
        let mut peer = self.connect();
        peer.handshake("/");
        peer
    }

    pub fn stats(&self) -> Stats {
        self.handle.stats()
    }

    /// Waits until the figures are as `wanted` says.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&Stats) -> bool) -> Stats {
        let start = Instant::now();
        loop {
            let stats = self.stats();
            if wanted(&stats) {
                return stats;
            }
            assert!(start.elapsed() < PATIENCE, "{what} did not happen: {stats:?}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Stops the server and gives what `run` returned.
    pub fn stop(mut self, grace: Duration) -> Result<(), Error> {
        self.handle.shutdown(grace);
        self.thread.take().expect("stopped once").join().expect("run does not panic")
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.handle.shutdown(Duration::ZERO);
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            if !thread::panicking() {
                result.expect("run does not panic").expect("run succeeds");
            }
        }
    }
}

/// A frame as it was received.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// FIN, RSV and opcode.
    pub first: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of a Close frame.
    pub fn close_code(&self) -> u16 {
        assert_eq!(self.first, 0x88, "a Close frame, not {self:?}");
        u16::from_be_bytes([self.payload[0], self.payload[1]])
    }
}

/// The other end of a connection.
pub struct Peer {
    pub stream: TcpStream,
    /// Received and not looked at.
    pending: Vec<u8>,
    /// What `send_until_stuck` could not send: the rest of its last piece.
    pub unsent: Vec<u8>,
}

impl Peer {
    pub fn connect(addr: SocketAddr) -> Peer {
        Peer::from_stream(TcpStream::connect(addr).expect("the server listens"))
    }

    /// A peer over a connection that was made in another way.
    pub fn from_stream(stream: TcpStream) -> Peer {
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        Peer { stream, pending: Vec::new(), unsent: Vec::new() }
    }

    /// A correct opening handshake.
    pub fn handshake(&mut self, path: &str) {
        self.send(&request(path));
        let head = self.read_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// Sends a masked frame; `first` is FIN, RSV and opcode.
    pub fn send_frame(&mut self, first: u8, payload: &[u8]) {
        self.send(&frame(first, payload));
    }

    pub fn send_text(&mut self, text: &str) {
        self.send_frame(0x81, text.as_bytes());
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut buffer = vec![0; 64 * 1024];
        let count = self.stream.read(&mut buffer)?;
        self.pending.extend_from_slice(&buffer[..count]);
        Ok(count)
    }

    fn need(&mut self, count: usize) {
        while self.pending.len() < count {
            let got = self.fill().expect("more bytes in time");
            let first = &self.pending[..self.pending.len().min(100)];
            assert_ne!(got, 0, "the server ended the connection; pending {first:?}");
        }
    }

    /// Everything up to and including the first empty line.
    pub fn read_head(&mut self) -> String {
        loop {
            if let Some(head) = take_head(&mut self.pending) {
                return head;
            }
            self.need(self.pending.len() + 1);
        }
    }

    pub fn read_frame(&mut self) -> Frame {
        loop {
            match take_frame(&mut self.pending) {
                Ok(frame) => return frame,
                Err(needed) => self.need(needed),
            }
        }
    }

    /// Reads on to the end of the connection. `Err` is a reset.
    pub fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        while self.fill()? != 0 {}
        Ok(std::mem::take(&mut self.pending))
    }

    /// The next frame is a Close with this code; then FIN, not a reset.
    pub fn expect_close(&mut self, code: u16) {
        let frame = self.read_frame();
        assert_eq!(frame.close_code(), code, "{:?}", String::from_utf8_lossy(&frame.payload[2..]));
        self.expect_end();
    }

    /// The server sends FIN, and nothing before it.
    pub fn expect_end(&mut self) {
        assert_eq!(self.read_to_end().expect("FIN, not a reset"), b"");
    }

    /// The next HTTP answer, as long as it says. If it says `Connection: close`, FIN follows it.
    pub fn read_answer(&mut self) -> Answer {
        self.read_answer_of(true)
    }

    /// The same for an answer that has no body whatever length it names, as one to HEAD.
    pub fn read_answer_to_head(&mut self) -> Answer {
        self.read_answer_of(false)
    }

    fn read_answer_of(&mut self, with_body: bool) -> Answer {
        let mut answer = Answer::parse(self.read_head().into_bytes());
        let without = matches!(answer.status, 100..=199 | 204 | 304);
        let chunked = answer.header("Transfer-Encoding") == Some("chunked");
        let len = answer.header("Content-Length").map(|len| len.parse::<usize>());
        if with_body && !without {
            answer.body = match len {
                None if chunked => self.read_chunks().concat(),
                None => self.read_to_end().expect("FIN, not a reset"),
                Some(len) => self.read_exactly(len.expect("a number")),
            };
        }
        let connection = answer.header("Connection").unwrap_or_default();
        if connection.split(", ").any(|option| option == "close") {
            self.expect_end();
        }
        answer
    }

    pub fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        self.need(count);
        self.pending.drain(..count).collect()
    }

    fn read_line(&mut self) -> String {
        loop {
            if let Some(end) = self.pending.windows(2).position(|two| two == b"\r\n") {
                let line = self.read_exactly(end + 2);
                return String::from_utf8(line[..end].to_vec()).expect("text");
            }
            self.need(self.pending.len() + 1);
        }
    }

    /// The next chunk of a chunked body; empty at its end.
    pub fn read_chunk(&mut self) -> Vec<u8> {
        let size = self.read_line();
        let size = usize::from_str_radix(&size, 16).expect("a size");
        let data = self.read_exactly(size);
        assert_eq!(self.read_line(), "", "a chunk ends with an empty line");
        data
    }

    /// All chunks of a chunked body.
    pub fn read_chunks(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| Some(self.read_chunk()).filter(|chunk| !chunk.is_empty())).collect()
    }

    /// True once the server has sent something or has ended the connection; never waits.
    pub fn has_news(&self) -> bool {
        self.stream.set_nonblocking(true).expect("a socket");
        let news = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).expect("a socket");
        !news.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends as much as is taken at once; gives how much that was.
    pub fn send_without_waiting(&mut self, bytes: &[u8]) -> usize {
        self.stream.set_nonblocking(true).expect("a socket");
        let sent = match self.stream.write(bytes) {
            Ok(sent) => sent,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                0
            }
        };
        self.stream.set_nonblocking(false).expect("a socket");
        sent
    }

    /// Sends over and over until the server has not taken a byte for a while; gives all that was
    /// sent. `next` makes the bytes of each round.
    pub fn send_until_stuck(&mut self, limit: usize, mut next: impl FnMut() -> Vec<u8>) -> usize {
        let (mut total, mut piece) = (0, Vec::new());
        let mut moved = Instant::now();
        while moved.elapsed() < Duration::from_millis(300) {
            if piece.is_empty() {
                assert!(total < limit, "{total} bytes were taken without an end in sight");
                piece = next();
            }
            let sent = self.send_without_waiting(&piece);
            piece.drain(..sent);
            total += sent;
            if sent == 0 {
                thread::sleep(Duration::from_millis(2));
            } else {
                moved = Instant::now();
            }
        }
        self.unsent = piece;
        total
    }

    pub fn finish(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends with RST.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("linger");
    }
}

/// Takes everything up to and including the first empty line, if there is one.
pub fn take_head(pending: &mut Vec<u8>) -> Option<String> {
    let end = pending.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = pending.drain(..end + 4).collect();
    Some(String::from_utf8(head).expect("ASCII"))
}

/// Takes a server's frame; `Err` is the number of bytes that have to be there to know more.
pub fn take_frame(pending: &mut Vec<u8>) -> Result<Frame, usize> {
    let bytes = &pending[..];
    let (first, header, len) = match *bytes {
        [first, len @ 0..=125, ..] => (first, 2, usize::from(len)),
        [first, 126, high, low, ..] => (first, 4, usize::from(u16::from_be_bytes([high, low]))),
        [first, 127, a, b, c, d, e, f, g, h, ..] => {
            let len = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
            (first, 10, usize::try_from(len).expect("fits"))
        }
        [_, 126, ..] => return Err(4),
        [_, 127, ..] => return Err(10),
        [_, 128..=255, ..] => panic!("a server must not mask"),
        _ => return Err(2),
    };
    if bytes.len() < header + len {
        return Err(header + len);
    }
    let payload = bytes[header..header + len].to_vec();
    pending.drain(..header + len);
    Ok(Frame { first, payload })
}

/// An HTTP answer as it was received.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Status line and header lines, without the empty line.
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: Vec<u8>) -> Answer {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end =
            end.unwrap_or_else(|| panic!("a head, not {:?}", String::from_utf8_lossy(&bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).expect("ASCII");
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest[..3].parse().ok());
        let status = status.unwrap_or_else(|| panic!("a status line, not {head}"));
        Answer { status, head, body: bytes[end + 4..].to_vec() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
        lines.find(|(this, _)| this.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Memory of this process, in bytes: the server, its peers and the tests together.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Backed by pages.
    pub resident: usize,
    /// Asked of the kernel, touched or not.
    pub reserved: usize,
}

/// What /proc says about this process now.
pub fn memory() -> Memory {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of it");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
    };
    Memory { resident: bytes("VmRSS:"), reserved: bytes("VmSize:") }
}

/// A correct request for `path`, with the key of RFC 6455 1.3.
pub fn request(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// A masked frame.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&key);
    bytes.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]));
    bytes
}

/// A handler that returns every message.
pub struct Echo;

impl wirelane::Handler for Echo {
    type Session = ();

    fn on_message(&mut self, ws: &mut wirelane::WebSocket<'_, ()>, message: wirelane::Message<'_>) {
        assert_ne!(ws.send(message), wirelane::SendStatus::Dropped, "an echo is never too much");
    }
}
