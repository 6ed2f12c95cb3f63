//! Opening connections: an address in, sockets after the opening handshake out (RFC 6455 4.1).

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use wirelane::protocol::Limits;
use wirelane::protocol::upgrade::ClientHandshake;

use crate::failure::{Context, Failure};
use crate::process::random;
use crate::progress::Progress;
use crate::socket::{Socket, Transfer, transfer};
use crate::target::{Address, Speech, Target};

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
    /// RFC 6455 4.1 wants a nonce per connection; the first is random and the others count on.
    nonce: u128,
}

impl<'t> Dialer<'t> {
    /// # Errors
    ///
    /// The name of the server is unknown.
    pub(crate) fn new(target: &'t Target) -> Result<Self, Failure> {
        let nonce = random().context(|| "cannot read random bytes")?;
        let nonce = u128::from_ne_bytes(nonce);
        Ok(Self { target, address: target.resolve()?, limits: Limits::new(), nonce })
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
                Some(handshake)
            }
        };
        let mut socket = Socket::connect(&self.address)?;
        socket.register(poll.registry(), token).context(|| "cannot poll a socket")?;
        let head = Vec::new();
        Ok(Dial { socket, handshake, request, written: 0, connected: false, head })
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
            let established = handshake
                .read_response(&self.head, limits)
                .context(|| "opening handshake failed")?;
            if let Some(established) = established {
                self.head.drain(..established.head_len);
                return Ok(true);
            }
        }
    }

    /// See [`Socket::reset_on_drop`].
    pub(crate) fn reset_on_drop(&self) {
        self.socket.reset_on_drop();
    }

    /// Hands the socket over after [`Dialer::advance`] returned true.
    pub(crate) fn into_opened(self) -> Opened {
        Opened { socket: self.socket, leftover: self.head }
    }
}
