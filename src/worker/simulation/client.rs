//! Clients: each speaks RFC 6455 over one simulated connection, politely or not.
//!
//! In: what the server sends, random decisions. Out: requests, frames, garbage, ends of every
//! kind. Never: a frame of the server that breaks the protocol without a panic.

use crate::driver::ConnectionId;
use crate::driver::simulated::{Network, Peer, Random, ReadRate};
use crate::protocol::upgrade::{ClientHandshake, HandshakeError};
use crate::protocol::{BufferPool, CloseCode, Deflate, Endpoint, Event, Limits, Message, Opcode};

/// How a client means to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// Close, and waits for the answer.
    Handshake,
    /// FIN without a Close; goes on reading.
    Fin,
    /// Closes its socket.
    Vanish,
    Reset,
    /// Breaks the protocol.
    Garbage,
    /// Neither reads nor writes any more.
    Silence,
}

impl Farewell {
    /// One of all; those that end in the middle of everything are as likely as a handshake.
    pub(super) fn drawn(random: &mut Random) -> Self {
        match random.up_to(9) {
            0 => Self::Fin,
            1 => Self::Vanish,
            2 => Self::Reset,
            3 => Self::Garbage,
            4 => Self::Silence,
            _ => Self::Handshake,
        }
    }
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) text: bool,
    pub(super) payload: Vec<u8>,
}

impl Said {
    /// The name of the client that composed it.
    pub(super) fn sender(&self) -> String {
        let name = self.payload.split(|byte| *byte == b' ').next().unwrap_or_default();
        String::from_utf8_lossy(name).into_owned()
    }

    fn drawn(random: &mut Random, name: u32, nth: usize, longest: usize) -> Self {
        let text = random.chance(300);
        let most = if random.chance(100) { longest } else { longest.min(500) };
        let mut len = random.length(most);
        // Different from every other message of any client.
        let mut payload = format!("{name} {nth} ").into_bytes();
        len = len.saturating_sub(payload.len());
        if text {
            payload.extend("è".bytes().cycle().take(len / 2 * 2));
        } else {
            payload.resize(payload.len() + len, random.next() as u8);
        }
        Self { text, payload }
    }
}

/// One client.
pub(super) struct Client {
    pub(super) peer: Peer,
    /// In its messages.
    pub(super) name: u32,
    /// As the server names it.
    pub(super) id: Option<ConnectionId>,
    handshake: ClientHandshake,
    /// What it offers.
    deflate: Deflate,
    endpoint: Option<Endpoint>,
    /// Sends only, so that a Close sent does not make `endpoint` discard what still arrives.
    pub(super) speaker: Option<Endpoint>,
    pub(super) pool: BufferPool,
    /// Bytes before the end of the response.
    head: Vec<u8>,
    /// Bytes that came from the server.
    pub(super) arrived: usize,
    /// Messages.
    pub(super) sent: Vec<Said>,
    pub(super) received: Vec<Said>,
    /// Payloads.
    pub(super) pings: Vec<Vec<u8>>,
    pub(super) pongs: Vec<Vec<u8>>,
    /// Whether it stopped sending.
    pub(super) farewell: Option<Farewell>,
    /// Code of the Close that the server sent; 1005 if it had none.
    pub(super) close_code: Option<u16>,
    /// Status of an answer that is not 101.
    pub(super) refusal: Option<u16>,
    /// Reads, but answers neither a ping nor a Close.
    pub(super) mute: bool,
    /// Did not always read as fast as it could.
    pub(super) is_slow: bool,
}

impl Client {
    /// Connects and asks for a WebSocket.
    pub(super) fn new(network: &Network) -> Self {
        let client = Self::mute(network);
        client.peer.send(&Self::request());
        client
    }

    /// The same, and offers permessage-deflate.
    #[cfg(feature = "deflate")]
    pub(super) fn compressing(network: &Network, deflate: Deflate) -> Self {
        let mut client = Self::mute(network);
        let (handshake, request) = Self::prepare(deflate);
        (client.handshake, client.deflate) = (handshake, deflate);
        client.peer.send(&request);
        client
    }

    /// Asks for a WebSocket without compression, and reads at any speed.
    pub(super) fn drawn(network: &Network, random: &mut Random) -> Self {
        let mut client = Self::new(network);
        if random.chance(300) {
            client.is_slow = true;
            client.peer.set_read_rate(ReadRate::BytesPerMs(random.length(5_000)));
        }
        client
    }

    /// Connects and says nothing. What the caller sends must be as `request`, or be refused.
    pub(super) fn mute(network: &Network) -> Self {
        Self::over(network.connect())
    }

    /// A client whose opening handshake is done: another server has seen to that.
    pub(super) fn upgraded(peer: Peer) -> Self {
        let (endpoint, speaker) = (Some(Self::endpoint()), Some(Self::endpoint()));
        Self { endpoint, speaker, ..Self::over(peer) }
    }

    fn over(peer: Peer) -> Self {
        let (handshake, _) = Self::prepare(Deflate::off());
        Self {
            peer,
            name: 0,
            id: None,
            handshake,
            deflate: Deflate::off(),
            endpoint: None,
            speaker: None,
            pool: BufferPool::new(1 << 20),
            head: Vec::new(),
            arrived: 0,
            sent: Vec::new(),
            received: Vec::new(),
            pings: Vec::new(),
            pongs: Vec::new(),
            farewell: None,
            close_code: None,
            refusal: None,
            mute: false,
            is_slow: false,
        }
    }

    /// The request of every client.
    pub(super) fn request() -> Vec<u8> {
        Self::prepare(Deflate::off()).1
    }

    fn prepare(deflate: Deflate) -> (ClientHandshake, Vec<u8>) {
        let mut handshake = ClientHandshake::new([7; 16]);
        handshake.offer_deflate(deflate);
        let mut request = Vec::new();
        handshake.write_request("test", "/", &[], &[], &mut request).expect("valid");
        (handshake, request)
    }

    /// An endpoint of a client, with masking keys that change.
    pub(super) fn endpoint() -> Endpoint {
        let mut key = 0_u8;
        let keys = move || {
            key = key.wrapping_add(37);
            [key, 1, key, 3]
        };
        Endpoint::client(Limits::new(), Box::new(keys))
    }

    /// Whether the opening handshake is complete.
    pub(super) fn is_open(&self) -> bool {
        self.endpoint.is_some()
    }

    /// Takes what has arrived, and answers pings and Closes.
    pub(super) fn listen(&mut self) {
        self.id = self.id.or(self.peer.id());
        let mut bytes = self.peer.received();
        self.arrived += bytes.len();
        if self.endpoint.is_none() {
            self.head.extend(bytes);
            if self.refusal.is_some() {
                return;
            }
            let established = match self.handshake.read_response(&self.head, &Limits::new()) {
                Ok(Some(established)) => established,
                Ok(None) => return,
                Err(HandshakeError::Status(status)) => {
                    self.refusal = Some(status);
                    return;
                }
                Err(error) => panic!("{error:?}: {}", self.head.escape_ascii()),
            };
            bytes = self.head.split_off(established.head_len);
            let endpoint = || match established.deflate {
                Some(agreed) => Self::endpoint().with_deflate(self.deflate, agreed),
                None => Self::endpoint(),
            };
            (self.endpoint, self.speaker) = (Some(endpoint()), Some(endpoint()));
        }
        let Some(endpoint) = &mut self.endpoint else { return };
        let mut input = &mut bytes[..];
        let mut out = Vec::new();
        loop {
            match endpoint.receive(&mut input, &mut self.pool) {
                Ok(None) => break,
                Ok(Some(Event::Text(text))) => {
                    let payload = text.as_str().as_bytes().to_vec();
                    self.received.push(Said { text: true, payload });
                }
                Ok(Some(Event::Binary(bytes))) => {
                    let payload = bytes.as_slice().to_vec();
                    self.received.push(Said { text: false, payload });
                }
                Ok(Some(Event::Ping(payload))) => {
                    self.pings.push(payload.as_slice().to_vec());
                    endpoint.pong(payload.as_slice(), &mut out).expect("a ping before a Close");
                }
                Ok(Some(Event::Pong(payload))) => self.pongs.push(payload.as_slice().to_vec()),
                Ok(Some(Event::Close(frame))) => {
                    assert_eq!(self.close_code, None, "the server sent two Closes");
                    self.close_code = Some(frame.map_or(1005, |(code, _)| u16::from(code)));
                    if self.farewell != Some(Farewell::Handshake) {
                        endpoint.reply_close(&mut out);
                    }
                }
                Err(error) => panic!("the server broke the protocol: {error:?}"),
            }
        }
        let speaks = matches!(self.farewell, None | Some(Farewell::Handshake | Farewell::Garbage));
        if speaks && !self.mute && !out.is_empty() {
            self.peer.send(&out);
        }
    }

    /// Sends one message in one frame.
    pub(super) fn say(&mut self, message: Message<'_>) {
        let out = self.compose(message);
        self.peer.send(&out);
    }

    /// The frame of a message, which the caller sees to it that the server gets.
    pub(super) fn compose(&mut self, message: Message<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        let speaker = self.speaker.as_mut().expect("is open");
        speaker.send(message, &mut out).expect("sends no Close before");
        let payload = message.payload().to_vec();
        self.sent.push(Said { text: matches!(message, Message::Text(_)), payload });
        out
    }

    /// Sends a ping.
    pub(super) fn ping(&mut self, payload: &[u8]) {
        let mut out = Vec::new();
        let speaker = self.speaker.as_mut().expect("is open");
        speaker.ping(payload, &mut out).expect("a short payload");
        self.peer.send(&out);
    }

    /// Whether it may still send.
    pub(super) fn may_speak(&self) -> bool {
        self.farewell.is_none() && self.close_code.is_none() && self.refusal.is_none()
    }

    /// Does something, perhaps; messages are at most `longest` bytes long.
    pub(super) fn act(&mut self, random: &mut Random, longest: usize) {
        if !self.may_speak() {
            return;
        }
        if self.speaker.is_none() {
            if random.chance(20) {
                self.leave(Farewell::Vanish);
            }
            return;
        }
        match random.up_to(19) {
            0..=10 => {
                for _ in 0..random.length(8) {
                    self.say_something(random, longest);
                }
            }
            11 => self.ping(b"ping"),
            12 => {
                self.is_slow = true;
                self.peer.set_read_rate(ReadRate::Stopped);
            }
            13 => self.peer.set_read_rate(ReadRate::Unlimited),
            14 => self.leave(Farewell::drawn(random)),
            _ => {}
        }
    }

    /// Sends a message, whole or in fragments with pings between them.
    pub(super) fn say_something(&mut self, random: &mut Random, longest: usize) {
        let said = Said::drawn(random, self.name, self.sent.len(), longest);
        let mut out = Vec::new();
        let speaker = self.speaker.as_mut().expect("is open");
        let mut opcode = if said.text { Opcode::Text } else { Opcode::Binary };
        let mut rest = &said.payload[..];
        loop {
            let whole = random.chance(700) || rest.is_empty();
            let (fragment, later) =
                rest.split_at(if whole { rest.len() } else { random.index(rest.len()) });
            rest = later;
            speaker.send_fragment(opcode, whole, fragment, &mut out).expect("in order");
            if whole {
                break;
            }
            opcode = Opcode::Continuation;
            if random.chance(200) {
                speaker.ping(b"between fragments", &mut out).expect("short");
            }
        }
        self.sent.push(said);
        self.peer.send(&out);
    }

    /// Ends, unless it does already.
    pub(super) fn leave(&mut self, farewell: Farewell) {
        if !self.may_speak() {
            return;
        }
        let Some(speaker) = &mut self.speaker else {
            self.farewell = Some(Farewell::Vanish);
            return self.peer.close();
        };
        self.farewell = Some(farewell);
        match farewell {
            Farewell::Handshake => {
                let mut out = Vec::new();
                speaker.close(Some(CloseCode::NORMAL), "", &mut out);
                self.peer.send(&out);
            }
            Farewell::Fin => self.peer.finish(),
            Farewell::Vanish => self.peer.close(),
            Farewell::Reset => self.peer.reset(),
            Farewell::Garbage => self.peer.send(b"GET / HTTP/1.1\r\n\r\n"),
            Farewell::Silence => self.peer.set_read_rate(ReadRate::Stopped),
        }
    }

    /// Reads everything from now on, unless it has fallen silent.
    pub(super) fn read_on(&self) {
        if self.farewell != Some(Farewell::Silence) {
            self.peer.set_read_rate(ReadRate::Unlimited);
        }
    }

    /// Asserts that what came back is what was sent, in order, perhaps with gaps.
    pub(super) fn assert_echoes(&self, seed: u64) {
        let mut sent = self.sent.iter();
        for echo in &self.received {
            assert!(
                sent.any(|sent| sent == echo),
                "seed {seed}: {:?} got an echo of nothing, or out of order",
                self.id
            );
        }
    }
}
