//! permessage-deflate inside an [`Endpoint`] (RFC 7692 6 and 7.2).
//!
//! Comes in: payloads of compressed messages, and messages to be compressed. Goes out: the
//! inflated message, in a buffer of the pool, and frames with RSV1 set. This never inflates a byte
//! more than a message may have. While no message is in progress it holds no codec, but the text of
//! the windows that the peers agreed on; codecs only if those are long, and nothing at all without
//! context takeover.
//!
//! ```text
//!  frames   | Text, RSV1, FIN=0 | Ping | Continuation, FIN=1 |
//!  payload    unmask in place --> inflate, 16 KiB at a time --> behind what came before --> UTF-8
//! ```

use super::reading::{Frame, Progress, Reading};
use super::{Endpoint, Event, Role};
use crate::protocol::deflate::{Deflate, DeflateParameters, MAX_WINDOW_BITS, WINDOW_BITS};
use crate::protocol::error::{NotOpen, ProtocolError};
use crate::protocol::frame::{Opcode, encode_header};
use crate::protocol::message::{
    Assembled, Assembly, BufferPool, Deflater, HISTORY_BITS, Held, Inflated, Inflater, Message,
    ReceivedBytes, ReceivedText,
};
use crate::simd::{InvalidUtf8, unmask};

/// The most that is inflated before the length of the message is looked at, in bytes.
pub(super) const STEP: usize = 16 * 1024;

/// The end of a window that a compressor of the family of zlib keeps away from, in bytes: its
/// longest match and what it looks at before it decides on one.
const OUT_OF_REACH: usize = 262;

/// What was agreed on, and the codecs that belong to this connection. 16 bytes.
pub(super) struct Extension {
    /// Payloads from this length on are worth compressing; `u32::MAX` if none is.
    pub(super) compress_from: u32,
    agreed: Agreed,
    /// The message in progress is compressed.
    pub(super) inflating: bool,
    /// What of it was given to the inflater.
    pub(super) given: Given,
    /// The codecs of this connection and its histories: as long as a compressed message is in
    /// progress, and with context takeover from the first message on.
    held: Option<Box<Held>>,
}

/// How a message is compressed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compression {
    window_bits: u8,
    level: u8,
}

impl Compression {
    /// The frame of a server's message, compressed: `join` makes it of header and
    /// payload. `None` if that is not shorter.
    pub(crate) fn frame<F>(
        self,
        message: Message<'_>,
        pool: &mut BufferPool,
        join: impl FnOnce(&[u8], &[u8]) -> F,
    ) -> Option<F> {
        let payload = message.payload();
        let compressed = pool.codecs().deflate(self.window_bits, self.level, payload);
        if compressed.len() >= payload.len() {
            return None;
        }
        let len = compressed.len() as u64;
        let header = encode_header(true, true, message.opcode(), len, None);
        Some(join(&header, compressed))
    }
}

/// What of a message was given to the inflater.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Given {
    Nothing,
    Something,
    /// The next byte, too, but it stays in the input, because more may come out: see
    /// `inflate_part`.
    Ahead,
}

/// Windows, level and the three yes-or-no questions.
#[derive(Clone, Copy)]
struct Agreed(u16);

impl Agreed {
    /// RSV1 has a meaning.
    const ON: u16 = 1;
    /// Each message of ours goes on with the window of the one before.
    const OWN_TAKEOVER: u16 = 2;
    /// Those of the peer do.
    const PEER_TAKEOVER: u16 = 4;

    const fn is(self, flag: u16) -> bool {
        self.0 & flag != 0
    }

    const fn own_window(self) -> u8 {
        (self.0 >> 4 & 0xF) as u8
    }

    const fn peer_window(self) -> u8 {
        (self.0 >> 8 & 0xF) as u8
    }

    const fn level(self) -> u8 {
        (self.0 >> 12) as u8
    }

    /// True if a decompressor stays with the connection, because its window is too long to load.
    const fn keeps_inflater(self) -> bool {
        self.is(Self::PEER_TAKEOVER) && self.peer_window() > HISTORY_BITS
    }

    /// Bytes that the next message of the peer may refer to, if its decompressor is the worker's.
    /// Who agreed on 8 bits may have a compressor that takes 9 for them.
    const fn received_max(self) -> usize {
        if !self.is(Self::PEER_TAKEOVER) || self.peer_window() > HISTORY_BITS {
            return 0;
        }
        let (bits, least) = (self.peer_window(), *WINDOW_BITS.start());
        1 << if bits < least { least } else { bits }
    }

    /// Bytes that our next message may refer to, if its compressor is the worker's.
    const fn sent_max(self) -> usize {
        if !self.is(Self::OWN_TAKEOVER) || self.own_window() > HISTORY_BITS {
            return 0;
        }
        (1_usize << self.own_window()).saturating_sub(OUT_OF_REACH)
    }
}

impl Extension {
    /// Nothing was agreed on.
    pub(super) const NONE: Self = Self {
        compress_from: u32::MAX,
        agreed: Agreed(0),
        inflating: false,
        given: Given::Nothing,
        held: None,
    };

    /// RSV1 has a meaning.
    pub(super) const fn is_on(&self) -> bool {
        self.agreed.is(Agreed::ON)
    }

    /// The connection is gone.
    pub(super) fn release(&mut self, pool: &mut BufferPool) {
        (self.inflating, self.given) = (false, Given::Nothing);
        if let Some(held) = self.held.take() {
            pool.codecs().give(held);
        }
    }

    /// No message is read or written any more.
    pub(super) fn forget(&mut self) {
        self.given = Given::Nothing;
        self.held = None;
    }

    fn held(&mut self, pool: &mut BufferPool) -> &mut Held {
        let (received, sent) = (self.agreed.received_max(), self.agreed.sent_max());
        self.held.get_or_insert_with(|| pool.codecs().take(received, sent))
    }

    /// The inflater of the message in progress, for something of it.
    pub(super) fn inflater(&mut self, pool: &mut BufferPool) -> &mut Inflater {
        self.given = Given::Something;
        let Held { inflater, received, .. } = self.held(pool);
        inflater.get_or_insert_with(|| pool.codecs().take_inflater(std::mem::take(received)))
    }

    /// The compressed message in progress is complete.
    pub(super) fn finish(&mut self, pool: &mut BufferPool) -> Result<(), ProtocolError> {
        self.inflating = false;
        let given = std::mem::replace(&mut self.given, Given::Nothing);
        let keeps = self.agreed.keeps_inflater();
        let Some(held) = &mut self.held else { return Ok(()) };
        // Some compressors give nothing at all for an empty message.
        if given != Given::Nothing
            && let Some(inflater) = &mut held.inflater
        {
            inflater.finish(keeps)?;
        }
        if !keeps && let Some(inflater) = held.inflater.take() {
            held.received = pool.codecs().give_inflater(inflater);
        }
        self.release_if_idle(pool);
        Ok(())
    }

    /// Gives the place of the codecs back if there is nothing in it.
    fn release_if_idle(&mut self, pool: &mut BufferPool) {
        if self.held.as_ref().is_some_and(|held| held.is_idle()) {
            self.release(pool);
        }
    }
}

impl Endpoint {
    /// The same endpoint with permessage-deflate, as the opening handshake agreed on it with these
    /// settings: see
    /// [`ServerHandshake::with_deflate`](crate::protocol::upgrade::ServerHandshake::with_deflate)
    /// and [`ClientHandshake::offer_deflate`](crate::protocol::upgrade::ClientHandshake::offer_deflate).
    ///
    /// Compressed messages come out of [`receive`](Self::receive) like others. What is sent is
    /// compressed by [`send_compressed`](Self::send_compressed) only. Memory: see [`Deflate`].
    #[must_use = "the endpoint was moved into the result"]
    pub fn with_deflate(mut self, settings: Deflate, agreed: DeflateParameters) -> Self {
        let server = (agreed.server_no_context_takeover, agreed.server_max_window_bits);
        let client = (agreed.client_no_context_takeover, agreed.client_max_window_bits);
        let ((own_alone, own_window), (peer_alone, peer_window)) = match self.role {
            Role::Server => (server, client),
            Role::Client(_) => (client, server),
        };
        // A smaller window than agreed on, or none, is always right for a compressor.
        let dedicated = settings.compressor_window();
        let own_window = own_window.min(dedicated.unwrap_or(MAX_WINDOW_BITS));
        let flags = Agreed::ON
            | if !own_alone && dedicated.is_some() { Agreed::OWN_TAKEOVER } else { 0 }
            | if !peer_alone { Agreed::PEER_TAKEOVER } else { 0 };
        let (own, peer) = (u16::from(own_window & 0xF), u16::from(peer_window & 0xF));
        let level = u16::from(settings.compression_level() & 0xF);
        self.extension = Extension {
            agreed: Agreed(flags | own << 4 | peer << 8 | level << 12),
            compress_from: match WINDOW_BITS.contains(&own_window) {
                true => settings.compress_from(),
                // A window of 256 bytes: sent as they are, messages keep to that, too.
                false => u32::MAX,
            },
            ..Extension::NONE
        };
        self.note_state();
        self
    }

    /// How messages are compressed; `None` if permessage-deflate was not agreed on.
    pub fn deflate(&self) -> Option<DeflateParameters> {
        let agreed = self.extension.agreed;
        let own = (!agreed.is(Agreed::OWN_TAKEOVER), agreed.own_window());
        let peer = (!agreed.is(Agreed::PEER_TAKEOVER), agreed.peer_window());
        let (server, client) = match self.role {
            Role::Server => (own, peer),
            Role::Client(_) => (peer, own),
        };
        self.extension.is_on().then_some(DeflateParameters {
            server_no_context_takeover: server.0,
            client_no_context_takeover: client.0,
            server_max_window_bits: server.1,
            client_max_window_bits: client.1,
        })
    }

    /// True if a message of this length is worth compressing, by what was agreed on and
    /// [`Deflate::threshold`].
    #[inline]
    pub fn should_compress(&self, len: usize) -> bool {
        len >= self.extension.compress_from as usize
    }

    /// Window and level of a message for this connection that is compressed by itself, for many
    /// connections at once; `None` if a message of this length is not worth it.
    #[inline]
    pub(crate) fn shared_compression(&self, len: usize) -> Option<Compression> {
        let agreed = self.extension.agreed;
        self.should_compress(len)
            .then(|| Compression { window_bits: agreed.own_window(), level: agreed.level() })
    }

    /// True if our messages go on with the window of those before.
    pub(crate) fn takes_over(&self) -> bool {
        self.extension.agreed.is(Agreed::OWN_TAKEOVER)
    }

    /// The peer gets a message with this payload that was compressed by itself elsewhere. It can
    /// read that, whatever is in its window; but then that message is in its window, too. So it is
    /// appended to our history, if there is any. It is not in the window of a compressor of our
    /// own, which would count distances wrongly: our next message begins with an empty one.
    pub(crate) fn note_shared_message(&mut self, payload: &[u8]) {
        let Some(held) = &mut self.extension.held else { return };
        if let Some(deflater) = &mut held.deflater {
            deflater.forget();
        }
        if !held.sent.is_empty() {
            held.sent.append(payload);
        }
    }

    /// Frees the compressor of this connection if nothing was compressed since the last call of
    /// this. The next message makes a new one and begins with an empty window, which the peer need
    /// not know (RFC 7692 7.2.3): it only gets longer than it might have been. With a window of up
    /// to 10 bits there is none, and nothing to free. For whoever has a clock: the workers call it
    /// whenever they send a keep-alive ping.
    pub fn release_idle_compressor(&mut self, pool: &mut BufferPool) {
        let Some(held) = &mut self.extension.held else { return };
        let Some(deflater) = &mut held.deflater else { return };
        if deflater.take_used() {
            return;
        }
        held.deflater = None;
        self.extension.release_if_idle(pool);
    }

    /// As [`send`](Self::send), but compressed if permessage-deflate was agreed on, whatever
    /// [`Deflate::threshold`] says. An empty message is sent as it is, and so is one that would
    /// not become shorter, unless the compressor is dedicated. Amortised, no allocation.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn send_compressed(
        &mut self,
        message: Message<'_>,
        pool: &mut BufferPool,
        out: &mut Vec<u8>,
    ) -> Result<(), NotOpen> {
        if !self.may_send() {
            return Err(NotOpen);
        }
        let payload = message.payload();
        let agreed = self.extension.agreed;
        let (window, level) = (agreed.own_window(), agreed.level());
        if self.extension.compress_from == u32::MAX || payload.is_empty() {
            return self.send(message, out);
        }
        if !agreed.is(Agreed::OWN_TAKEOVER) {
            let compressed = pool.codecs().deflate(window, level, payload);
            match compressed.len() < payload.len() {
                true => self.write_frame(true, true, message.opcode(), compressed, out),
                false => self.write_frame(true, false, message.opcode(), payload, out),
            }
            return Ok(());
        }
        let Held { deflater, sent, .. } = self.extension.held(pool);
        // Once compressed it is in the window, so that the peer has to get it in this form.
        let compressed = if window <= HISTORY_BITS {
            pool.codecs().deflate_after(window, level, sent, payload)
        } else {
            let own = deflater.get_or_insert_with(|| Deflater::for_one(window, level).into());
            pool.codecs().deflate_with(own, payload)
        };
        self.write_frame(true, true, message.opcode(), compressed, out);
        Ok(())
    }

    /// Reads a piece of a compressed message, with which its frame is `complete` or not.
    pub(super) fn inflate_payload<'b>(
        &mut self,
        mut frame: Frame,
        piece: &mut [u8],
        complete: bool,
        pool: &mut BufferPool,
    ) -> Result<Progress<'b>, ProtocolError> {
        if let Some((key, phase)) = frame.mask() {
            unmask(piece, key, phase);
        }
        let message = self.message.get_or_insert_with(|| match frame.opcode {
            Opcode::Text => Assembly::text(),
            _ => Assembly::binary(),
        });
        if !piece.is_empty() {
            let inflater = self.extension.inflater(pool);
            let max_message = self.max_message as usize;
            let mut input = &*piece;
            loop {
                let room = input.len().saturating_mul(6).clamp(1024, STEP);
                match message.inflate(inflater, &mut input, room, max_message, pool)? {
                    Inflated::All => break,
                    Inflated::Some => {}
                }
            }
            debug_assert!(input.is_empty(), "an inflater with room takes everything");
        }
        if !complete {
            frame.received += piece.len() as u32;
            self.reading = Reading::Payload(frame);
            return Ok(Progress::Incomplete);
        }
        self.reading = Reading::NEXT_FRAME;
        if !frame.fin {
            return Ok(Progress::Fragment);
        }
        self.extension.finish(pool)?;
        let Some(message) = self.message.take() else { return Ok(Progress::Fragment) };
        match message.finish() {
            Ok(Assembled::Text(text)) => {
                Ok(Progress::Event(Event::Text(ReceivedText::Assembled(text))))
            }
            Ok(Assembled::Binary(bytes)) => {
                Ok(Progress::Event(Event::Binary(ReceivedBytes::Assembled(bytes))))
            }
            Err(InvalidUtf8) => Err(ProtocolError::InvalidUtf8),
        }
    }
}

#[cfg(all(test, feature = "deflate"))]
mod takeover_tests;
#[cfg(all(test, feature = "deflate"))]
mod tests;
