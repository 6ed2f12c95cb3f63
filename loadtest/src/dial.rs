//! Opening connections: an address in, sockets after the opening handshake out (RFC 6455 4.1).

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use rustls::ClientConfig;
use wirelane::protocol::Limits;
use wirelane::protocol::upgrade::ClientHandshake;

use crate::deflate;
use crate::failure::{Context, Failure};
use crate::process::random;
use crate::progress::Progress;
use crate::socket::{Socket, Transfer, transfer};
use crate::target::{Address, Speech, Target};
use crate::tls;

/// A server that finishes no handshake for so long is considered dead.
const PATIENCE: Duration = Duration::from_secs(10);

/// Handshakes under way at once when the number is not what is being measured: below the backlog
/// of any listener.
pub(crate) const MODEST_CONCURRENCY: usize = 64;

/// Bytes read at once while a handshake is under way.
const READ_LEN: usize = 4096;

/// A server, looked up once, that can be dialled many times.
#[derive(Debug)]
pub(crate) struct Dialer<'t> {
    target: &'t Target,
    address: Address,
    limits: Limits,
    tls: Option<Arc<ClientConfig>>,
    /// RFC 6455 4.1 wants a nonce per connection; the first is random and the others count on.
    nonce: u128,
}

impl<'t> Dialer<'t> {
    /// # Errors
    ///
    /// The name of the server is unknown, or the file of believed certificates cannot be read.
    pub(crate) fn new(target: &'t Target) -> Result<Self, Failure> {
        let nonce = random().context(|| "cannot read random bytes")?;
        let nonce = u128::from_ne_bytes(nonce);
        let manner = target.manner();
        let tls = match target.speech() {
            Speech::Tls => Some(tls::config(manner.ca.as_deref(), manner.resume)?),
            Speech::Plain | Speech::Raw => None,
        };
        Ok(Self { target, address: target.resolve()?, limits: Limits::new(), tls, nonce })
    }

    /// Starts to connect and registers the socket under `token`.
    ///
    /// # Errors
    ///
    /// The connection failed at once.
    pub(crate) fn dial(&mut self, poll: &Poll, token: Token) -> Result<Dial, Failure> {
        self.nonce = self.nonce.wrapping_add(1);
        let mut request = Vec::new();
        let handshake = match self.target.speech() {
            Speech::Raw => None,
            Speech::Plain | Speech::Tls => {
                let mut handshake = ClientHandshake::new(self.nonce.to_ne_bytes());
                handshake
                    .write_request(self.target.host(), self.target.path(), &[], &[], &mut request)
                    .context(|| "cannot ask for this URL")?;
                if self.target.manner().deflate {
                    offer_extension(deflate::OFFER, &mut request);
                }
                Some(handshake)
            }
        };
        let mut socket = Socket::connect(&self.address)?;
        if let Some(config) = &self.tls {
            socket = socket.over_tls(config, self.target.name())?;
        }
        socket.register(poll.registry(), token).context(|| "cannot poll a socket")?;
        let head = Vec::new();
        let deflate = self.target.manner().deflate;
        Ok(Dial { socket, handshake, request, written: 0, connected: false, head, deflate })
    }

    /// Opens `count` connections under the tokens from 0 on, at most `concurrency` at a time.
    ///
    /// # Errors
    ///
    /// One of them failed, or none was finished for ten seconds.
    pub(crate) fn open_all(
        &mut self,
        poll: &mut Poll,
        count: usize,
        concurrency: usize,
        progress: &mut Progress,
    ) -> Result<Vec<Opened>, Failure> {
        let mut events = Events::with_capacity(1024);
        let mut dials: Vec<Option<Dial>> = Vec::with_capacity(count);
        let mut opened: Vec<Option<Opened>> = Vec::new();
        opened.resize_with(count, || None);
        let mut finished = 0;
        let mut deadline = Instant::now() + PATIENCE;
        while finished < count {
            while dials.len() < count && dials.len() - finished < concurrency {
                let dial = self.dial(poll, Token(dials.len()))?;
                dials.push(Some(dial));
            }
            crate::engine::wait(poll, &mut events, Duration::from_millis(100))?;
            for event in &events {
                let Token(index) = event.token();
                let Some(dial) = dials.get_mut(index).and_then(Option::as_mut) else { continue };
                if self.advance(dial)?
                    && let Some(dial) = dials[index].take()
                {
                    opened[index] = Some(dial.into_opened());
                    finished += 1;
                    deadline = Instant::now() + PATIENCE;
                }
            }
            if Instant::now() > deadline {
                return Err(Failure::new(format!(
                    "no opening handshake finished in {} s; {finished} of {count} had before",
                    PATIENCE.as_secs()
                )));
            }
            progress.show(|| format!("opened {finished} of {count} connections"));
        }
        Ok(opened.into_iter().flatten().collect())
    }

    /// Goes on with a connection as far as its socket allows; to be called after each of its
    /// events. True once the handshake is finished.
    ///
    /// # Errors
    ///
    /// The connection or the handshake was refused, or ended early.
    pub(crate) fn advance(&self, dial: &mut Dial) -> Result<bool, Failure> {
        dial.advance(&self.limits).context(|| &self.address)
    }
}

/// One connection that is being opened.
#[derive(Debug)]
pub(crate) struct Dial {
    socket: Socket,
    /// None where nothing but bytes is exchanged.
    handshake: Option<ClientHandshake>,
    request: Vec<u8>,
    written: usize,
    connected: bool,
    /// What the server sent so far; after the handshake, what followed the response's head.
    head: Vec<u8>,
    /// Whether the server has to accept permessage-deflate.
    deflate: bool,
}

/// A connection in state OPEN (RFC 6455 4.1).
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) socket: Socket,
    /// Bytes that came together with the response.
    pub(crate) leftover: Vec<u8>,
}

impl Dial {
    fn advance(&mut self, limits: &Limits) -> Result<bool, Failure> {
        if !self.connected {
            self.connected = self.socket.is_connected().context(|| "cannot connect")?;
            if !self.connected {
                return Ok(false);
            }
        }
        while self.written < self.request.len() {
            let unsent = &self.request[self.written..];
            match transfer(|| self.socket.write(unsent)).context(|| "cannot send the request")? {
                Transfer::Some(len) => self.written += len,
                Transfer::WouldBlock => return Ok(false),
            }
        }
        let Some(handshake) = &mut self.handshake else { return Ok(true) };
        loop {
            let mut bytes = [0; READ_LEN];
            let what = || "no response to the opening handshake";
            let len = match transfer(|| self.socket.read(&mut bytes)).context(what)? {
                Transfer::WouldBlock => return Ok(false),
                Transfer::Some(0) => {
                    return Err(Failure::new(format!("{}: connection ended", what())));
                }
                Transfer::Some(len) => len,
            };
            self.head.extend_from_slice(&bytes[..len]);
            // The head without the answer to our offer is what the library's handshake checks.
            let mut accepted = false;
            let mut head_len = self.head.len();
            let mut plain = None;
            if self.deflate
                && let Some(end) = self.head.windows(4).position(|bytes| bytes == b"\r\n\r\n")
            {
                head_len = end + 4;
                let (head, extension) = without_extensions(&self.head[..head_len]);
                accepted = extension.trim_start().starts_with("permessage-deflate");
                plain = Some(head);
            }
            let established = handshake
                .read_response(plain.as_deref().unwrap_or(&self.head), limits)
                .context(|| "opening handshake failed")?;
            if let Some(established) = established {
                if self.deflate && !accepted {
                    return Err(Failure::new("the server does not accept permessage-deflate"));
                }
                let len = if self.deflate { head_len } else { established.head_len };
                self.head.drain(..len);
                return Ok(true);
            }
        }
    }

    /// See [`Socket::reset_on_drop`].
    pub(crate) fn reset_on_drop(&self) {
        self.socket.reset_on_drop();
    }

    /// Whether the handshake of TLS continued an earlier session, once it is over.
    pub(crate) fn has_resumed(&self) -> bool {
        matches!(&self.socket, Socket::Tls(stream) if stream.has_resumed())
    }

    /// Hands the socket over after [`Dialer::advance`] returned true.
    pub(crate) fn into_opened(self) -> Opened {
        Opened { socket: self.socket, leftover: self.head }
    }
}

/// Adds `Sec-WebSocket-Extensions` (RFC 6455 9.1) to a whole request head.
fn offer_extension(offer: &str, request: &mut Vec<u8>) {
    // The empty line that ends the head comes last.
    request.truncate(request.len() - 2);
    request.extend_from_slice(format!("Sec-WebSocket-Extensions: {offer}\r\n\r\n").as_bytes());
}

/// A response head without `Sec-WebSocket-Extensions`, and the value of that.
fn without_extensions(head: &[u8]) -> (Vec<u8>, String) {
    const NAME: &[u8] = b"sec-websocket-extensions:";
    let (mut kept, mut value) = (Vec::with_capacity(head.len()), String::new());
    for line in head.split_inclusive(|&byte| byte == b'\n') {
        match line.split_at_checked(NAME.len()) {
            Some((name, rest)) if name.eq_ignore_ascii_case(NAME) => {
                value = String::from_utf8_lossy(rest).trim().to_owned();
            }
            _ => kept.extend_from_slice(line),
        }
    }
    (kept, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_offered_and_taken_out_of_the_answer() {
        let mut request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
        offer_extension("x; y=1", &mut request);
        assert!(request.ends_with(b"Host: a\r\nSec-WebSocket-Extensions: x; y=1\r\n\r\n"));
        let head = b"HTTP/1.1 101 Ok\r\nsec-websocket-Extensions: x; y=1\r\nA: b\r\n\r\n";
        let (kept, value) = without_extensions(head);
        assert_eq!(kept, b"HTTP/1.1 101 Ok\r\nA: b\r\n\r\n");
        assert_eq!(value, "x; y=1");
    }
}
