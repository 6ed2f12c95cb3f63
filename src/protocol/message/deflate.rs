//! Who has which codec (RFC 7692 7): a connection its own, or the next one of the worker's.
//!
//! Comes in: wishes for a codec, and codecs that are done. Goes out: codecs that know nothing of
//! earlier messages, or exactly those of the connection that asks. This never looks at a payload.

#[cfg(feature = "deflate")]
pub(in crate::protocol) use super::codec::{Deflater, Inflater};
#[cfg(not(feature = "deflate"))]
pub(in crate::protocol) use super::no_codec::{Deflater, Inflater};

use std::hash::{BuildHasher, Hasher, RandomState};

use super::history::{History, Stamp};
use crate::protocol::error::ProtocolError;

/// Dedicated codecs with windows up to so many bits are none: the connection keeps the text of the
/// window, and one of the worker's loads it before each message. See
/// [`Deflate`](crate::protocol::Deflate) for what that costs. To load 2 KiB into a compressor takes
/// nearly as long as everything else that is done for a small message.
pub(in crate::protocol) const HISTORY_BITS: u8 = 10;

/// Decompressors that are kept for the next message, 47 KiB each. More than one is lent out only
/// while messages are half received.
const KEPT_INFLATERS: usize = 8;

/// Places that are kept.
const KEPT_PLACES: usize = 8;

/// Compressors that are kept, up to 288 KiB each: one for each level and window in use, which a
/// peer may choose.
const KEPT_DEFLATERS: usize = 8;

/// Compressed messages above this many bytes do not keep their buffer.
const KEPT_SCRATCH: usize = 256 * 1024;

/// Why a message cannot be inflated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) enum InflateError {
    /// It is no deflate stream (RFC 1951), or ends in the middle of something.
    Corrupt,
    /// Something follows the block that calls itself the last one.
    #[cfg_attr(not(feature = "deflate"), allow(dead_code))]
    BlockAfterLast,
}

impl From<InflateError> for ProtocolError {
    fn from(error: InflateError) -> Self {
        match error {
            InflateError::Corrupt => Self::CorruptDeflate,
            InflateError::BlockAfterLast => Self::BlockAfterLast,
        }
    }
}

/// The codecs that a connection holds, and what it keeps instead of them.
#[derive(Default)]
pub(in crate::protocol) struct Held {
    /// The one of the message in progress, or of this connection.
    pub(in crate::protocol) inflater: Option<Box<Inflater>>,
    pub(in crate::protocol) deflater: Option<Box<Deflater>>,
    /// What the next message of the peer goes on from, while there is no `inflater`.
    pub(in crate::protocol) received: History,
    /// What the next message to the peer goes on from, while there is no `deflater`.
    pub(in crate::protocol) sent: History,
}

impl Held {
    /// True if nothing is lost without it.
    pub(in crate::protocol) fn is_idle(&self) -> bool {
        self.inflater.is_none()
            && self.deflater.is_none()
            && self.received.is_empty()
            && self.sent.is_empty()
    }
}

/// The codecs of a worker, and a buffer for what they compress.
pub(in crate::protocol) struct Codecs {
    /// Those that are not lent out. Boxed, because they are lent out so.
    #[allow(clippy::vec_box)]
    inflaters: Vec<Box<Inflater>>,
    /// For connections to hold their codecs in, empty. Boxed for the same reason.
    #[allow(clippy::vec_box)]
    places: Vec<Box<Held>>,
    /// Keyed by window and level, the last used one first.
    deflaters: Vec<((u8, u8), Deflater)>,
    scratch: Vec<u8>,
    /// The last one that was given out.
    stamp: Stamp,
}

impl Default for Codecs {
    fn default() -> Self {
        // Whoever takes turns between pools must not find the stamp of one in another: 64 random
        // bits tell them apart.
        let pool = RandomState::new().build_hasher().finish();
        Self {
            inflaters: Vec::new(),
            places: Vec::new(),
            deflaters: Vec::new(),
            scratch: Vec::new(),
            stamp: Stamp { pool, count: 0 },
        }
    }
}

impl Codecs {
    /// A place for codecs, with none in it, and with histories of at most so many bytes.
    pub(in crate::protocol) fn take(&mut self, received: usize, sent: usize) -> Box<Held> {
        let mut place = self.places.pop().unwrap_or_default();
        (place.received, place.sent) = (History::new(received), History::new(sent));
        place
    }

    /// Takes it back, with what is in it.
    pub(in crate::protocol) fn give(&mut self, mut held: Box<Held>) {
        if let Some(inflater) = held.inflater.take() {
            self.give_inflater(inflater);
        }
        *held = Held::default();
        if self.places.len() < KEPT_PLACES {
            self.places.push(held);
        }
    }

    /// A decompressor for one message, which goes on from `history`.
    pub(in crate::protocol) fn take_inflater(&mut self, history: History) -> Box<Inflater> {
        let mut inflater = self.inflaters.pop().unwrap_or_else(|| Box::new(Inflater::new()));
        inflater.begin(history);
        inflater
    }

    /// Takes it back, and gives what the next message goes on from.
    pub(in crate::protocol) fn give_inflater(&mut self, mut inflater: Box<Inflater>) -> History {
        let history = inflater.end();
        if self.inflaters.len() < KEPT_INFLATERS {
            self.inflaters.push(inflater);
        }
        history
    }

    /// Compresses a message by itself.
    pub(in crate::protocol) fn deflate(
        &mut self,
        window_bits: u8,
        level: u8,
        payload: &[u8],
    ) -> &[u8] {
        let deflater = shared(&mut self.deflaters, window_bits, level);
        deflater.set_stamp(None);
        deflater.forget();
        deflate_into(deflater, payload, &mut self.scratch)
    }

    /// Compresses a message that goes on from `history`, which it is appended to.
    pub(in crate::protocol) fn deflate_after(
        &mut self,
        window_bits: u8,
        level: u8,
        history: &mut History,
        payload: &[u8],
    ) -> &[u8] {
        self.stamp.count += 1;
        let stamp = self.stamp;
        let deflater = shared(&mut self.deflaters, window_bits, level);
        if history.stamp().is_none() || history.stamp() != deflater.stamp() {
            deflater.load(history);
        }
        history.append(payload);
        history.set_stamp(Some(stamp));
        deflater.set_stamp(Some(stamp));
        deflate_into(deflater, payload, &mut self.scratch)
    }

    /// Compresses a message with the window of its connection.
    pub(in crate::protocol) fn deflate_with(
        &mut self,
        deflater: &mut Deflater,
        payload: &[u8],
    ) -> &[u8] {
        deflate_into(deflater, payload, &mut self.scratch)
    }
}

/// The compressor with this window and level.
fn shared(deflaters: &mut Vec<((u8, u8), Deflater)>, window_bits: u8, level: u8) -> &mut Deflater {
    let key = (window_bits, level);
    match deflaters.iter().position(|(kept, _)| *kept == key) {
        Some(0) => {}
        Some(place) => deflaters.swap(0, place),
        None => {
            deflaters.truncate(KEPT_DEFLATERS - 1);
            deflaters.insert(0, (key, Deflater::new(window_bits, level)));
        }
    }
    &mut deflaters[0].1
}

fn deflate_into<'s>(deflater: &mut Deflater, payload: &[u8], scratch: &'s mut Vec<u8>) -> &'s [u8] {
    if scratch.len() > KEPT_SCRATCH && payload.len() < KEPT_SCRATCH / 2 {
        *scratch = Vec::new();
    }
    deflater.deflate(payload, scratch)
}

impl std::fmt::Debug for Codecs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codecs")
            .field("inflaters", &self.inflaters.len())
            .field("deflaters", &self.deflaters.len())
            .finish_non_exhaustive()
    }
}
