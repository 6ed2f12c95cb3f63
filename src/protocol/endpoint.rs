//! One side of a WebSocket connection (RFC 6455 5 to 8), without I/O.
//!
//! Comes in: received bytes, lent; commands of the application. Goes out: events that borrow those
//! bytes; frames, appended to a buffer of the caller. This never waits, never reads a clock, and
//! holds no heap memory unless a message or frame has arrived in part.
//!
//! ```text
//!  receive(input) --+--> a masked message below 64 KiB, whole: the usual case, in place
//!                   +--> everything else: reading.rs
//!  send, ping, ... -----> one whole frame, appended to `out`
//! ```

use std::fmt;

use super::close::{CloseCode, CloseFrame, MAX_CONTROL_PAYLOAD};
use super::error::{ControlError, NotOpen, ProtocolError};
use super::frame::{MAX_HEADER_LEN, Opcode, append_masked, encode_header};
use super::limits::Limits;
use super::message::{Assembly, BufferPool, Message, ReceivedBytes, ReceivedText};
use super::state::Lifecycle;
use crate::simd::{InvalidUtf8, unmask, unmask_text};

mod deflate;
mod reading;
mod streaming;

pub use super::state::State;

pub(crate) use deflate::Compression;
pub(crate) use streaming::Received;
pub(in crate::protocol) use streaming::Streamed;

use deflate::Extension;
use reading::Reading;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

/// Something that the peer sent, whole and checked.
///
/// What lies in place borrows the input only, never the endpoint. Give every event to
/// [`Event::recycle`] after use; dropping it is correct too and only costs an allocation later.
#[derive(Debug)]
pub enum Event<'b> {
    /// A text message.
    Text(ReceivedText<'b>),
    /// A binary message.
    Binary(ReceivedBytes<'b>),
    /// A ping, at most 125 bytes. Answer with [`Endpoint::pong`]; of several pings, answering the
    /// latest is enough (RFC 6455 5.5.3).
    Ping(ReceivedBytes<'b>),
    /// A pong, asked for or not, at most 125 bytes.
    Pong(ReceivedBytes<'b>),
    /// The peer's Close, `None` if its body was empty. Answer with [`Endpoint::reply_close`].
    /// Nothing follows.
    Close(Option<(CloseCode, ReceivedText<'b>)>),
}

impl Event<'_> {
    /// Gives the memory of an assembled event back; nothing to do for one that lies in place.
    pub fn recycle(self, pool: &mut BufferPool) {
        match self {
            Self::Text(text) | Self::Close(Some((_, text))) => text.recycle(pool),
            Self::Binary(bytes) | Self::Ping(bytes) | Self::Pong(bytes) => bytes.recycle(pool),
            Self::Close(None) => {}
        }
    }
}

/// One side of a connection whose opening handshake is done. At most 128 bytes.
///
/// # Order of calls
///
/// 1. [`Endpoint::server`] or [`Endpoint::client`].
/// 2. Whenever bytes were received: [`receive`](Endpoint::receive), again and again until it gives
///    `None` or an error. Between two calls any command may be used.
/// 3. Commands, in any order: [`send`](Endpoint::send), [`ping`](Endpoint::ping),
///    [`pong`](Endpoint::pong), [`close`](Endpoint::close). Each appends whole frames to `out`;
///    send `out` whenever it suits.
/// 4. After [`Event::Close`]: [`reply_close`](Endpoint::reply_close). After an error:
///    [`fail`](Endpoint::fail) with it. In both cases send `out`; a server then ends the TCP
///    connection (RFC 6455 7.1.1).
/// 5. When the connection is gone: [`release`](Endpoint::release).
///
/// ```
/// use wirelane::protocol::{BufferPool, Endpoint, Event, Limits, Message, ProtocolError};
///
/// /// Answers everything in `received` like an echo server; true when the connection is over.
/// fn echo(
///     endpoint: &mut Endpoint,
///     mut received: &mut [u8],
///     pool: &mut BufferPool,
///     out: &mut Vec<u8>,
/// ) -> bool {
///     loop {
///         match endpoint.receive(&mut received, pool) {
///             Ok(Some(event)) => {
///                 match &event {
///                     // An error value says that a Close went out already: nothing to do.
///                     Event::Text(text) => {
///                         let _ = endpoint.send(Message::Text(text.as_str()), out);
///                     }
///                     Event::Binary(bytes) => {
///                         let _ = endpoint.send(Message::Binary(bytes.as_slice()), out);
///                     }
///                     Event::Ping(bytes) => {
///                         let _ = endpoint.pong(bytes.as_slice(), out);
///                     }
///                     Event::Pong(_) => {}
///                     Event::Close(_) => {
///                         endpoint.reply_close(out);
///                     }
///                 }
///                 event.recycle(pool);
///             }
///             Ok(None) => return !endpoint.is_open(),
///             Err(error) => {
///                 endpoint.fail(error, out);
///                 return true;
///             }
///         }
///     }
/// }
///
/// let mut endpoint = Endpoint::server(Limits::new());
/// let mut pool = BufferPool::new(4 * 1024 * 1024);
/// let mut out = Vec::new();
///
/// // RFC 6455 5.7: "Hello", masked; then a Close with code 1000.
/// let mut received = *b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58\x88\x82\0\0\0\0\x03\xe8";
/// assert!(echo(&mut endpoint, &mut received, &mut pool, &mut out));
/// assert_eq!(out, b"\x81\x05Hello\x88\x02\x03\xe8");
///
/// // A frame that is not masked is refused with 1002.
/// let mut endpoint = Endpoint::server(Limits::new());
/// out.clear();
/// assert!(echo(&mut endpoint, &mut *b"\x81\x05Hello".to_vec(), &mut pool, &mut out));
/// assert_eq!(out, b"\x88\x12\x03\xeaframe not masked");
/// assert_eq!(ProtocolError::UnmaskedFrame.close_code().get(), 1002);
/// ```
pub struct Endpoint {
    role: Role,
    lifecycle: Lifecycle,
    /// True while the usual case of [`Endpoint::receive`] may be tried: see
    /// [`Endpoint::is_between_messages`], which it repeats for the sake of one branch.
    between_messages: bool,
    /// The same for sending, and [`Endpoint::is_sending_plainly`].
    sends_plainly: bool,
    /// Text or Binary while a fragmented message is being sent.
    sending: Option<Opcode>,
    max_frame: u32,
    max_message: u32,
    max_fragments: u32,
    /// Frames of the message in progress.
    fragments: u32,
    reading: Reading,
    /// The message in progress: fragments are missing, or the rest of a frame.
    message: Option<Assembly>,
    /// The control frame in progress.
    control: Option<Box<[u8; MAX_CONTROL_PAYLOAD]>>,
    /// permessage-deflate, as far as it was agreed on.
    extension: Extension,
}

enum Role {
    Server,
    Client(Box<dyn FnMut() -> [u8; 4] + Send>),
}

impl Endpoint {
    /// The server's side: expects masked frames, sends unmasked ones (RFC 6455 5.1).
    pub fn server(limits: Limits) -> Self {
        Self::new(Role::Server, limits)
    }

    /// The client's side: expects unmasked frames, sends masked ones. `masking_keys` is asked for
    /// a fresh key per frame, which must not be predictable (RFC 6455 5.3, 10.3).
    pub fn client(limits: Limits, masking_keys: Box<dyn FnMut() -> [u8; 4] + Send>) -> Self {
        Self::new(Role::Client(masking_keys), limits)
    }

    fn new(role: Role, limits: Limits) -> Self {
        let mut endpoint = Self {
            role,
            lifecycle: Lifecycle::new(),
            between_messages: false,
            sends_plainly: false,
            sending: None,
            max_frame: limits.frame(),
            max_message: limits.message(),
            max_fragments: limits.fragments(),
            fragments: 0,
            reading: Reading::NEXT_FRAME,
            message: None,
            control: None,
            extension: Extension::NONE,
        };
        endpoint.note_state();
        endpoint
    }

    /// Where the close handshake stands.
    pub fn state(&self) -> State {
        self.lifecycle.state()
    }

    /// True in [`State::Open`]: messages may be sent and will be delivered.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.lifecycle.is_open()
    }

    /// True if a message of one frame may be sent now: open, and not inside a fragmented message.
    #[inline]
    pub(crate) fn may_send(&self) -> bool {
        self.is_open() && self.sending.is_none()
    }

    /// `Text` or `Binary` if a fragmented message of ours is unfinished: until it is, no other
    /// message can be sent (RFC 6455 5.4).
    #[inline]
    pub fn sending(&self) -> Option<Opcode> {
        self.sending
    }

    /// Capacity that is held for an unfinished message or frame, in bytes. Zero while idle; at
    /// most twice the bytes received plus 64 KiB, unless a larger buffer came from the pool.
    pub fn buffered(&self) -> usize {
        let control = self.control.as_ref().map_or(0, |control| control.len());
        self.message.as_ref().map_or(0, Assembly::capacity) + control
    }

    /// Takes bytes from the front of `input` and gives the next event, or `None` when all of it
    /// was used up. Call it until then: the same input may hold many frames.
    ///
    /// A frame that is whole in `input` is unmasked there and handed out as a slice of it, without
    /// a copy or an allocation. What is not whole is copied to a buffer from `pool`, text checked
    /// as far as it goes. After the peer's Close and after an error all input is swallowed; after
    /// our own Close only headers are looked at, and only the peer's Close is handed out
    /// (RFC 6455 5.5.1): payloads of messages are neither kept nor checked, and nothing is inflated.
    ///
    /// # Errors
    ///
    /// The first rule that the peer broke, once, as soon as the offending byte is there and
    /// independently of how the bytes were cut. Pass it to [`Endpoint::fail`].
    #[inline]
    pub fn receive<'b>(
        &mut self,
        input: &mut &'b mut [u8],
        pool: &mut BufferPool,
    ) -> Result<Option<Event<'b>>, ProtocolError> {
        if let Some(message) = self.receive_usual(input) {
            return match message {
                Ok(Message::Text(text)) => Ok(Some(Event::Text(ReceivedText::InPlace(text)))),
                Ok(Message::Binary(bytes)) => {
                    Ok(Some(Event::Binary(ReceivedBytes::InPlace(bytes))))
                }
                Err(InvalidUtf8) => Err(self.refuse(ProtocolError::InvalidUtf8, input, pool)),
            };
        }
        // A turn usually ends here. Nothing that was begun is complete without another byte.
        if input.is_empty() {
            return Ok(None);
        }
        self.receive_any(input, pool)
    }

    /// The usual case of [`Self::receive`], with as few branches as it takes: FIN, Text or Binary,
    /// masked, below 64 KiB, whole, between two messages to a server. Takes the frame and gives the
    /// message that lies in it. Everything else goes the long way; nothing has changed then. After
    /// `InvalidUtf8` the caller has to [`refuse`](Self::refuse).
    #[inline(always)]
    pub(crate) fn receive_usual<'b>(
        &self,
        input: &mut &'b mut [u8],
    ) -> Option<Result<Message<'b>, InvalidUtf8>> {
        debug_assert_eq!(self.between_messages, self.is_between_messages());
        if !self.between_messages {
            return None;
        }
        let (first, header_len, payload_len) = match **input {
            [first, second @ 0x80..=0xFD, ..] => (first, 6, usize::from(second & 0x7F)),
            [first, 0xFE, high, low, ..] => (first, 8, usize::from(high) << 8 | usize::from(low)),
            _ => return None,
        };
        // RFC 6455 5.2: what fits the shorter form must use it.
        let shortest = header_len == 6 || payload_len > 125;
        let usual = matches!(first, 0x81 | 0x82) && shortest;
        if !usual || payload_len > self.max_frame as usize {
            return None;
        }
        let frame = input.split_off_mut(..header_len + payload_len)?;
        let (header, payload) = frame.split_at_mut(header_len);
        let key = *header.last_chunk()?;
        if first == 0x82 {
            unmask(payload, key, 0);
            return Some(Ok(Message::Binary(payload)));
        }
        Some(unmask_text(payload, key).map(Message::Text))
    }

    /// Appends `message` as one frame, masked if this is a client. Amortised, no allocation.
    ///
    /// # Errors
    ///
    /// [`NotOpen`], with nothing written, if the state is not [`State::Open`] or a fragmented
    /// message of ours is unfinished.
    #[inline]
    pub fn send(&mut self, message: Message<'_>, out: &mut Vec<u8>) -> Result<(), NotOpen> {
        if !self.may_send() {
            return Err(NotOpen);
        }
        self.write_frame(true, false, message.opcode(), message.payload(), out);
        Ok(())
    }

    /// True if messages leave as [`append_short`](frame::append_short) writes them, neither masked
    /// nor compressed, and may do so now.
    #[inline(always)]
    pub(crate) fn sends_plainly(&self) -> bool {
        debug_assert_eq!(self.sends_plainly, self.is_sending_plainly());
        self.sends_plainly
    }

    /// Appends one fragment: `Text` or `Binary` first, then `Continuation`, `fin` on the last
    /// (RFC 6455 5.4). The pieces of a text may cut characters; the whole must be UTF-8, which is
    /// the caller's duty. A fragment is never compressed.
    ///
    /// # Errors
    ///
    /// [`NotOpen`], with nothing written, if the state is not [`State::Open`], the opcode is that
    /// of a control frame, or the order is broken.
    pub fn send_fragment(
        &mut self,
        opcode: Opcode,
        fin: bool,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), NotOpen> {
        // RFC 6455 5.4: a continuation needs a message, and a message is not interrupted by
        // another one.
        let in_order = (opcode == Opcode::Continuation) == self.sending.is_some();
        if !self.is_open() || opcode.is_control() || !in_order {
            return Err(NotOpen);
        }
        self.sending = match (fin, self.sending) {
            (true, _) => None,
            (false, None) => Some(opcode),
            (false, kind) => kind,
        };
        self.note_state();
        self.write_frame(fin, false, opcode, payload, out);
        Ok(())
    }

    /// Appends a Ping (RFC 6455 5.5.2), also between the fragments of a message.
    ///
    /// # Errors
    ///
    /// [`ControlError`], with nothing written, if the state is not [`State::Open`] or the payload
    /// is longer than 125 bytes.
    pub fn ping(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), ControlError> {
        if !self.is_open() {
            return Err(ControlError::NotOpen);
        }
        self.write_control(Opcode::Ping, payload, out)
    }

    /// Appends a Pong (RFC 6455 5.5.3), also between the fragments of a message. A ping that came
    /// in front of the peer's Close may be answered after it, until our own Close is sent.
    ///
    /// # Errors
    ///
    /// [`ControlError`], with nothing written, if a Close was sent, the peer broke a rule, or the
    /// payload is longer than 125 bytes.
    pub fn pong(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), ControlError> {
        if !self.lifecycle.may_pong() {
            return Err(ControlError::NotOpen);
        }
        self.write_control(Opcode::Pong, payload, out)
    }

    /// Appends our Close (RFC 6455 5.5.1) and gives true; false, and nothing is written, if one
    /// was sent before. The reason is cut at a character boundary to at most 123 bytes; without a
    /// code there is no room for a reason, and the body is empty.
    pub fn close(&mut self, code: Option<CloseCode>, reason: &str, out: &mut Vec<u8>) -> bool {
        if !self.lifecycle.send_close() {
            return false;
        }
        self.forget_message();
        self.note_state();
        let mut body = [0; MAX_CONTROL_PAYLOAD];
        let body = code.map_or(&[][..], |code| CloseFrame { code, reason }.encode(&mut body));
        self.write_frame(true, false, Opcode::Close, body, out);
        true
    }

    /// Answers the peer's Close with the same code and no reason, an empty one with an empty one
    /// (RFC 6455 5.5.1), and gives true; false, and nothing is written, if no answer is owed.
    pub fn reply_close(&mut self, out: &mut Vec<u8>) -> bool {
        match self.lifecycle.owed_reply() {
            Some(code) => self.close(code, "", out),
            None => false,
        }
    }

    /// Appends a Close that tells the peer which rule it broke, and stops looking at its bytes
    /// (RFC 6455 7.1.7). False, and nothing is written, if a Close was sent before.
    pub fn fail(&mut self, error: ProtocolError, out: &mut Vec<u8>) -> bool {
        self.lifecycle.fail(error);
        self.reading = Reading::Nothing;
        self.note_state();
        self.close(Some(error.close_code()), error.reason(), out)
    }

    /// Nothing more is handed out and nothing more is compressed: frees what was kept for that. Of a
    /// message in progress only that it is in progress still matters.
    fn forget_message(&mut self) {
        if let Some(message) = &mut self.message {
            *message = Assembly::binary();
        }
        self.extension.forget();
    }

    /// The connection is gone: gives all buffers back. Input is swallowed from now on; the state
    /// stays what it was.
    pub fn release(&mut self, pool: &mut BufferPool) {
        self.reading = Reading::Nothing;
        self.control = None;
        if let Some(message) = self.message.take() {
            message.recycle(pool);
        }
        self.extension.release(pool);
        self.note_state();
    }

    /// Bytes that are kept of a message that is not complete.
    pub(crate) fn assembled_len(&self) -> usize {
        self.message.as_ref().map_or(0, Assembly::len)
    }

    /// Takes what the usual cases depend on into one flag each. To be called after every change.
    fn note_state(&mut self) {
        self.between_messages = self.is_between_messages();
        self.sends_plainly = self.is_sending_plainly();
    }

    /// True if messages may be sent now, and are sent as they are.
    fn is_sending_plainly(&self) -> bool {
        matches!(self.role, Role::Server)
            && self.may_send()
            && self.extension.compress_from == u32::MAX
    }

    /// True if the next byte begins a frame, no message is in progress, and messages of a client
    /// are expected and delivered.
    fn is_between_messages(&self) -> bool {
        matches!(self.role, Role::Server)
            && self.lifecycle.is_open()
            && self.message.is_none()
            && matches!(self.reading, Reading::Header { len: 0, .. })
    }

    fn write_control(
        &mut self,
        opcode: Opcode,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), ControlError> {
        // RFC 6455 5.5: all control frames must have a payload length of 125 bytes or less.
        if payload.len() > MAX_CONTROL_PAYLOAD {
            return Err(ControlError::TooLong);
        }
        self.write_frame(true, false, opcode, payload, out);
        Ok(())
    }

    /// Appends a frame. RFC 6455 5.1: a client masks every one, a server none.
    #[inline]
    fn write_frame(
        &mut self,
        fin: bool,
        rsv1: bool,
        opcode: Opcode,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) {
        out.reserve(MAX_HEADER_LEN + payload.len());
        if matches!(self.role, Role::Server) {
            // The usual cases, spelt out.
            let first = u8::from(fin) << 7 | u8::from(rsv1) << 6 | opcode as u8;
            match payload.len() {
                len @ 0..=125 => out.extend_from_slice(&[first, len as u8]),
                len @ 126..=0xFFFF => {
                    out.extend_from_slice(&[first, 126, (len >> 8) as u8, len as u8]);
                }
                len => out.extend_from_slice(&encode_header(fin, rsv1, opcode, len as u64, None)),
            }
            out.extend_from_slice(payload);
            return;
        }
        let masking_key = match &mut self.role {
            Role::Server => None,
            Role::Client(masking_keys) => Some(masking_keys()),
        };
        let header = encode_header(fin, rsv1, opcode, payload.len() as u64, masking_key);
        out.extend_from_slice(&header);
        match masking_key {
            None => out.extend_from_slice(payload),
            Some(key) => append_masked(payload, key, out),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = if matches!(self.role, Role::Server) { "server" } else { "client" };
        f.debug_struct("Endpoint")
            .field("role", &role)
            .field("state", &self.state())
            .field("buffered", &self.buffered())
            .finish_non_exhaustive()
    }
}
