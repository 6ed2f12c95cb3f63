//! A blocking client: one connection, used by one thread at a time.
//!
//! In: an address, then messages to send. Out: what the server sends, as owned values. Every
//! rule of RFC 6455 is kept by [`protocol`](crate::protocol); here is only what it leaves to its
//! user: a socket, random bytes and deadlines. It starts no thread and follows no redirect. It
//! speaks TLS (`wss://`) with the crate's feature `tls`.
//!
//! ```text
//!  socket --read--> buffer --> Endpoint::receive --> Received (owned)
//!         <-write-- out    <-- send, ping, close, and the answers to pings and closes
//! ```
//!
//! # Example
//!
//! ```
//! use std::sync::mpsc;
//! use std::time::Duration;
//!
//! use wirelane::client::blocking::{Client, Received};
//! use wirelane::{CloseCode, Handler, Message, Server, WebSocket};
//!
//! struct Echo;
//!
//! impl Handler for Echo {
//!     type Session = ();
//!
//!     fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
//!         ws.send(message);
//!     }
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let (ready, listening) = mpsc::channel();
//!     let server = Server::builder()
//!         .listen("127.0.0.1:0")
//!         .websocket("/", |_worker| Echo)
//!         .on_listening(move |addrs| ready.send(addrs[0].to_string()).unwrap())
//!         .build()?;
//!     let handle = server.handle();
//!     let thread = std::thread::spawn(move || server.run());
//!
//!     let mut client = Client::connect(&format!("ws://{}/", listening.recv()?))?;
//!     client.send("Hello")?;
//!     assert_eq!(client.receive()?, Received::Text("Hello".to_owned()));
//!     let answer = client.close(CloseCode::NORMAL, "done")?;
//!     assert_eq!(answer.code, 1000);
//!
//!     handle.shutdown(Duration::ZERO);
//!     thread.join().unwrap()?;
//!     Ok(())
//! }
//! ```

use std::fmt;
use std::time::Duration;

pub use super::error::ClientError;
#[cfg(feature = "tls-no-provider")]
use super::secure::Secure;
use super::stream::{Deadline, Stream};
#[cfg(feature = "tls-no-provider")]
use super::url::Endpoint as Place;
use super::url::Url;
use crate::protocol::upgrade::ClientHandshake;
use crate::protocol::{
    BufferPool, CloseCode, Deflate, DeflateParameters, Endpoint, Event, Limits, Message, State,
};
use crate::random;
#[cfg(feature = "tls-no-provider")]
use crate::tls::{ClientTls, Starter, TlsError};

/// Bytes asked of the socket at a time.
const READ_BYTES: usize = 64 * 1024;

/// How long the two directions wait for each other while both have something to do.
const TURN: Duration = Duration::from_millis(10);

/// Spare buffers for messages that come in pieces, kept until the client is dropped.
const SPARE_BYTES: usize = 1024 * 1024;

/// Unsent bytes up to which every ping gets its answer; beyond, the latest does (RFC 6455 5.5.3). So
/// a server that sends pings and does not read costs no more than this.
const PONG_ROOM: usize = 16 * 1024;

/// Settings of a [`Client`], made by [`Client::builder`]. [`Duration::ZERO`] turns a timeout off.
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `connect`"]
pub struct ClientBuilder {
    limits: Limits,
    deflate: Deflate,
    target: Option<String>,
    subprotocols: Vec<String>,
    headers: Vec<(String, String)>,
    connect_timeout: Duration,
    read_timeout: Duration,
    write_timeout: Duration,
    close_timeout: Duration,
    #[cfg(feature = "tls-no-provider")]
    tls: Option<ClientTls>,
}

impl ClientBuilder {
    /// Limits of what the server may send. Default [`Limits::new`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Offers to compress messages (permessage-deflate, RFC 7692) with these settings; the server
    /// decides. Default [`Deflate::off`]. An impossible setting is [`ClientError::Deflate`].
    pub fn deflate(mut self, settings: Deflate) -> Self {
        self.deflate = settings;
        self
    }

    /// Path and query to ask for, instead of those of the URL. The only way to name a path over
    /// a Unix socket, whose default is `/`.
    pub fn target(mut self, target: &str) -> Self {
        self.target = Some(target.to_owned());
        self
    }

    /// Whom to believe on `wss://` connections, and what else TLS needs. Default: whom this machine
    /// believes, [`Roots::system`](crate::tls::Roots::system).
    #[cfg(feature = "tls-no-provider")]
    pub fn tls(mut self, tls: impl Into<ClientTls>) -> Self {
        self.tls = Some(tls.into());
        self
    }

    /// Offers one more subprotocol; the one that is preferred comes first (RFC 6455 1.9).
    pub fn subprotocol(mut self, name: &str) -> Self {
        self.subprotocols.push(name.to_owned());
        self
    }

    /// Adds a header to the request, such as Origin, Authorization or Cookie.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// From connecting to the complete answer of the server, all addresses of the name together;
    /// looking the name up is not included. Default 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long [`Client::receive`] waits. Default off: for ever.
    pub fn read_timeout(mut self, timeout: Duration) -> Self {
        self.read_timeout = timeout;
        self
    }

    /// How long a call that sends may wait for the server to read. Default 30 s.
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// How long [`Client::close`] waits for the server's Close, and after a Close for the end of
    /// the TCP connection, which is the server's to make (RFC 6455 7.1.1). Default 5 s.
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// Connects to `ws://HOST:PORT/PATH?QUERY`, the same with `wss` or `unix:PATH` and performs the opening handshake
    /// (RFC 6455 4.1).
    ///
    /// # Errors
    ///
    /// [`ClientError::Url`] and [`ClientError::Request`] before anything is sent;
    /// [`ClientError::Io`] or [`ClientError::TimedOut`] if no server answers;
    /// [`ClientError::Tls`] if it cannot show that it is the one of the URL;
    /// [`ClientError::Handshake`] if its answer is not that of a WebSocket server.
    pub fn connect(&self, url: &str) -> Result<Client, ClientError> {
        let not_possible = |reason| ClientError::Url { url: url.to_owned(), reason };
        let parsed = Url::parse(url).map_err(not_possible)?;
        #[cfg(not(feature = "tls-no-provider"))]
        if parsed.secure {
            return Err(not_possible("wss needs TLS: build with the feature `tls`"));
        }
        self.deflate.check().map_err(ClientError::Deflate)?;
        let deadline = Deadline::after(self.connect_timeout);
        // RFC 6455 4.1: a nonce that is new and random for each connection.
        let mut handshake = ClientHandshake::new(random::nonce()?);
        handshake.offer_deflate(self.deflate);
        let target = self.target.as_ref().unwrap_or(&parsed.target);
        let subprotocols: Vec<&str> = self.subprotocols.iter().map(String::as_str).collect();
        let headers: Vec<(&str, &str)> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut out = Vec::new();
        handshake
            .write_request(&parsed.host, target, &subprotocols, &headers, &mut out)
            .map_err(ClientError::Request)?;

        let mut client = Client {
            stream: Some(self.open(&parsed, deadline)?),
            endpoint: Endpoint::client(self.limits, Box::new(random::masking_key)),
            pool: BufferPool::new(SPARE_BYTES),
            buffer: vec![0; READ_BYTES],
            start: 0,
            end: 0,
            out,
            unanswered: None,
            subprotocol: None,
            read_timeout: self.read_timeout,
            write_timeout: self.write_timeout,
            close_timeout: self.close_timeout,
        };
        client.flush(deadline)?;
        let agreed = client.read_response(&mut handshake, &self.limits, deadline)?;
        if let Some(agreed) = agreed {
            client.endpoint = client.endpoint.with_deflate(self.deflate, agreed);
        }
        Ok(client)
    }
}

impl ClientBuilder {
    /// The connected socket, inside TLS if the URL says so.
    fn open(&self, url: &Url, deadline: Deadline) -> Result<Stream, ClientError> {
        let stream = Stream::connect(&url.endpoint, deadline)?;
        #[cfg(feature = "tls-no-provider")]
        if let (true, Place::Tcp { host, .. }) = (url.secure, &url.endpoint) {
            let failed = |error: TlsError| ClientError::Tls(error.to_string());
            let tls = match &self.tls {
                Some(tls) => tls.clone(),
                None => ClientTls::system().map_err(failed)?,
            };
            let starter = Starter::new(tls, host).map_err(failed)?;
            return Secure::handshake(stream, starter.start().map_err(ClientError::Tls)?, deadline);
        }
        Ok(stream)
    }
}

/// A WebSocket connection of a client, blocking.
///
/// Pings are answered while [`receive`](Self::receive) or [`close`](Self::close) runs, so a
/// program that neither sends nor receives for long is cut by servers that watch for that. A
/// server that does not read the answers gets one for the latest ping only (RFC 6455 5.5.3).
/// Dropping the client ends the TCP connection without a close handshake.
///
/// Memory: 64 KiB for reading, and what an unfinished message needs.
pub struct Client {
    /// `None` once the connection is over.
    stream: Option<Stream>,
    endpoint: Endpoint,
    pool: BufferPool,
    /// What was read; `start..end` is still to be handed to the endpoint.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// What the socket has not taken.
    out: Vec<u8>,
    /// The latest ping, if there was no room for its answer.
    unanswered: Option<Vec<u8>>,
    subprotocol: Option<String>,
    read_timeout: Duration,
    write_timeout: Duration,
    close_timeout: Duration,
}

/// What a server sent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Received {
    /// A text message, valid UTF-8 (RFC 6455 8.1).
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
    /// A Pong, asked for or not (RFC 6455 5.5.3).
    Pong(Vec<u8>),
    /// The server's Close. It has been answered, and the connection is over.
    Close(Closed),
}

/// A Close frame of the server (RFC 6455 5.5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Closed {
    /// The close code; 1005 if the frame had none (RFC 6455 7.1.5).
    pub code: u16,
    /// The close reason, possibly empty.
    pub reason: String,
}

impl Client {
    /// Connects with the default settings; see [`ClientBuilder::connect`].
    ///
    /// # Errors
    ///
    /// Those of [`ClientBuilder::connect`].
    pub fn connect(url: &str) -> Result<Client, ClientError> {
        Client::builder().connect(url)
    }

    /// Settings with their defaults.
    pub fn builder() -> ClientBuilder {
        ClientBuilder {
            limits: Limits::new(),
            deflate: Deflate::off(),
            target: None,
            subprotocols: Vec::new(),
            headers: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::ZERO,
            write_timeout: Duration::from_secs(30),
            close_timeout: Duration::from_secs(5),
            #[cfg(feature = "tls-no-provider")]
            tls: None,
        }
    }

    /// Sends a message in one frame (RFC 6455 5.6). A server that does not read makes this wait,
    /// at most for `write_timeout`.
    ///
    /// # Errors
    ///
    /// [`ClientError::Closed`] after the end. After [`ClientError::TimedOut`] the message counts
    /// as sent: the rest of it goes out with the next call. A server may not read because nobody
    /// reads what it sends: then [`receive`](Self::receive) is that call.
    pub fn send<'m>(&mut self, message: impl Into<Message<'m>>) -> Result<(), ClientError> {
        self.check_open()?;
        let message = message.into();
        let sent = match self.endpoint.should_compress(message.len()) {
            true => self.endpoint.send_compressed(message, &mut self.pool, &mut self.out),
            false => self.endpoint.send(message, &mut self.out),
        };
        sent.map_err(|_| ClientError::Closed)?;
        self.flush(Deadline::after(self.write_timeout))
    }

    /// Sends a Ping (RFC 6455 5.5.2); the answer comes as [`Received::Pong`]. The payload is cut
    /// at 125 bytes.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send).
    pub fn ping(&mut self, payload: &[u8]) -> Result<(), ClientError> {
        self.check_open()?;
        let payload = &payload[..payload.len().min(125)];
        self.endpoint.ping(payload, &mut self.out).map_err(|_| ClientError::Closed)?;
        self.flush(Deadline::after(self.write_timeout))
    }

    /// Waits for the next message, Pong or Close. Pings are answered on the way.
    ///
    /// # Errors
    ///
    /// [`ClientError::TimedOut`] after `read_timeout`: nothing is lost, and the next call goes on
    /// where this one stopped. Every other error is the end of the connection:
    /// [`ClientError::Ended`] without a Close, [`ClientError::Protocol`] if the server broke a
    /// rule (it has been told), [`ClientError::Io`] for a reset, [`ClientError::Closed`] for a
    /// call after the end.
    pub fn receive(&mut self) -> Result<Received, ClientError> {
        self.receive_until(Deadline::after(self.read_timeout))
    }

    /// The next message, Pong or Close if it is there already, without waiting: for programs that
    /// do something else meanwhile.
    ///
    /// # Errors
    ///
    /// Those of [`receive`](Self::receive), but `Ok(None)` instead of [`ClientError::TimedOut`].
    pub fn try_receive(&mut self) -> Result<Option<Received>, ClientError> {
        match self.receive_until(Deadline::Now) {
            Ok(received) => Ok(Some(received)),
            Err(ClientError::TimedOut) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Performs the close handshake (RFC 6455 7.1.2) and gives the server's Close. Messages that
    /// the server sent before it are discarded. The reason is cut at a character boundary at 123
    /// bytes.
    ///
    /// # Errors
    ///
    /// [`ClientError::TimedOut`] if no Close came for `close_timeout`, and those of
    /// [`receive`](Self::receive). The connection is over in any case.
    pub fn close(&mut self, code: CloseCode, reason: &str) -> Result<Closed, ClientError> {
        let deadline = Deadline::after(self.close_timeout);
        self.endpoint.close(Some(code), reason, &mut self.out);
        loop {
            match self.receive_until(deadline) {
                Ok(Received::Close(closed)) => return Ok(closed),
                // RFC 6455 5.5.1: what comes in front of the Close is of no use any more.
                Ok(_) => {}
                Err(error) => {
                    self.end();
                    return Err(error);
                }
            }
        }
    }

    /// The subprotocol that the server chose, one of those offered (RFC 6455 1.9).
    pub fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.as_deref()
    }

    /// How messages are compressed; `None` if the server did not agree to it (RFC 7692).
    pub fn deflate(&self) -> Option<DeflateParameters> {
        self.endpoint.deflate()
    }

    /// Changes how long [`receive`](Self::receive) waits; [`Duration::ZERO`] is for ever.
    pub fn set_read_timeout(&mut self, timeout: Duration) {
        self.read_timeout = timeout;
    }

    /// True until the close handshake has begun or the connection has ended.
    pub fn is_open(&self) -> bool {
        self.stream.is_some() && self.endpoint.is_open()
    }

    fn check_open(&self) -> Result<(), ClientError> {
        if self.is_open() { Ok(()) } else { Err(ClientError::Closed) }
    }

    fn read_response(
        &mut self,
        handshake: &mut ClientHandshake,
        limits: &Limits,
        deadline: Deadline,
    ) -> Result<Option<DeflateParameters>, ClientError> {
        loop {
            let response = &self.buffer[..self.end];
            if let Some(established) =
                handshake.read_response(response, limits).map_err(ClientError::Handshake)?
            {
                // What follows the head are frames already.
                self.start = established.head_len;
                self.subprotocol = established.subprotocol;
                return Ok(established.deflate);
            }
            if self.end == self.buffer.len() {
                // The handshake gives up at `Limits::max_head`.
                self.buffer.resize(2 * self.end, 0);
            }
            self.end += match self.read(deadline)? {
                0 => return Err(ClientError::Ended),
                count => count,
            };
        }
    }

    fn receive_until(&mut self, deadline: Deadline) -> Result<Received, ClientError> {
        loop {
            while self.start < self.end {
                if let Some(received) = self.next_event()? {
                    return Ok(received);
                }
            }
            (self.start, self.end) = (0, 0);
            // Answers to pings, and what an earlier call could not send. A server that does not
            // read may be waiting for us to read, so neither direction waits long for the other.
            // A failed write is not what was asked about: the read tells how it ended.
            let both = matches!(self.flush(Deadline::Now), Err(ClientError::TimedOut));
            let limit = if both { deadline.at_most(TURN) } else { deadline };
            match self.read(limit) {
                Ok(0) => {
                    self.end();
                    return Err(ClientError::Ended);
                }
                Ok(count) => self.end = count,
                Err(ClientError::TimedOut) if both && !deadline.is_over() => {}
                Err(ClientError::TimedOut) => return Err(ClientError::TimedOut),
                Err(error) => {
                    self.end();
                    return Err(error);
                }
            }
        }
    }

    /// One step through what was read.
    fn next_event(&mut self) -> Result<Option<Received>, ClientError> {
        let Self { endpoint, pool, out, unanswered, .. } = self;
        let mut input = &mut self.buffer[self.start..self.end];
        let event = endpoint.receive(&mut input, pool);
        let left = input.len();
        let received = match event {
            Ok(None) => None,
            Ok(Some(event)) => {
                let received = match &event {
                    Event::Text(text) => Some(Received::Text(text.as_str().to_owned())),
                    Event::Binary(bytes) => Some(Received::Binary(bytes.as_slice().to_vec())),
                    Event::Ping(payload) => {
                        if out.len() > PONG_ROOM || unanswered.is_some() {
                            // RFC 6455 5.5.3: the most recent one may stand for all.
                            *unanswered = Some(payload.as_slice().to_vec());
                        } else {
                            // RFC 6455 5.5.2: after our Close no Pong is due, and none is written.
                            let _ = endpoint.pong(payload.as_slice(), out);
                        }
                        None
                    }
                    Event::Pong(payload) => Some(Received::Pong(payload.as_slice().to_vec())),
                    Event::Close(frame) => Some(Received::Close(match frame {
                        Some((code, reason)) => {
                            Closed { code: code.get(), reason: reason.as_str().to_owned() }
                        }
                        None => Closed { code: 1005, reason: String::new() },
                    })),
                };
                event.recycle(pool);
                received
            }
            Err(error) => {
                endpoint.fail(error, out);
                self.linger();
                return Err(ClientError::Protocol(error));
            }
        };
        self.start = self.end - left;
        if let Some(Received::Close(_)) = received {
            self.endpoint.reply_close(&mut self.out);
            self.linger();
        }
        Ok(received)
    }

    /// Sends the last bytes and waits for the server to end TCP (RFC 6455 7.1.1), so that it
    /// reads our Close and no reset destroys it.
    fn linger(&mut self) {
        let deadline = Deadline::after(self.close_timeout);
        let _ = self.flush(deadline);
        if let (State::Failed(_), Some(stream)) = (self.endpoint.state(), &self.stream) {
            // This server may never end it, and has been told why it should.
            stream.finish();
        }
        (self.start, self.end) = (0, 0);
        while self.read(deadline).is_ok_and(|count| count > 0) {}
        self.end();
    }

    /// The connection is over.
    fn end(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            stream.say_goodbye();
        }
        (self.start, self.end) = (0, 0);
        self.out.clear();
        self.unanswered = None;
        self.endpoint.release(&mut self.pool);
    }

    /// Reads behind what was read and not looked at.
    fn read(&mut self, deadline: Deadline) -> Result<usize, ClientError> {
        let Some(stream) = &mut self.stream else { return Err(ClientError::Closed) };
        stream.read(&mut self.buffer[self.end..], deadline)
    }

    /// Writes what is queued. After an error the rest stays queued.
    fn flush(&mut self, deadline: Deadline) -> Result<(), ClientError> {
        let Some(stream) = &mut self.stream else { return Err(ClientError::Closed) };
        loop {
            let mut written = 0;
            let mut result = Ok(());
            while written < self.out.len() && result.is_ok() {
                match stream.write(&self.out[written..], deadline) {
                    Ok(count) => written += count,
                    Err(error) => result = Err(error),
                }
            }
            self.out.drain(..written);
            result?;
            match self.unanswered.take() {
                Some(ping) => _ = self.endpoint.pong(&ping, &mut self.out),
                None => return stream.settle(deadline),
            }
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("stream", &self.stream)
            .field("endpoint", &self.endpoint)
            .field("subprotocol", &self.subprotocol)
            .finish_non_exhaustive()
    }
}
