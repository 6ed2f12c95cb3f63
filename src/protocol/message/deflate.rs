//! Who has which codec (RFC 7692 7): a connection its own, or the next one of the worker's.
//!
//! Comes in: wishes for a codec, and codecs that are done. Goes out: codecs that know nothing of
//! earlier messages. This never looks at a payload.

#[cfg(feature = "deflate")]
pub(in crate::protocol) use super::codec::{Deflater, Inflater};
#[cfg(not(feature = "deflate"))]
pub(in crate::protocol) use super::no_codec::{Deflater, Inflater};

use crate::protocol::error::ProtocolError;

/// Decompressors that are kept for the next message, 47 KiB each. More than one is lent out only
/// while messages are half received.
const KEPT_INFLATERS: usize = 8;

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

/// The codecs that a connection holds.
#[derive(Default)]
pub(in crate::protocol) struct Held {
    pub(in crate::protocol) inflater: Option<Inflater>,
    pub(in crate::protocol) deflater: Option<Deflater>,
}

/// The codecs of a worker, and a buffer for what they compress.
#[derive(Default)]
pub(in crate::protocol) struct Codecs {
    inflaters: Vec<Inflater>,
    /// For connections to hold their codecs in, empty. Boxed, because they are handed out so.
    #[allow(clippy::vec_box)]
    places: Vec<Box<Held>>,
    /// Keyed by window and level, the last used one first.
    deflaters: Vec<((u8, u8), Deflater)>,
    scratch: Vec<u8>,
}

impl Codecs {
    /// A place for codecs, with none in it.
    pub(in crate::protocol) fn take(&mut self) -> Box<Held> {
        self.places.pop().unwrap_or_default()
    }

    /// Takes it back, with what is in it.
    pub(in crate::protocol) fn give(&mut self, mut held: Box<Held>) {
        self.give_inflater(held.inflater.take());
        held.deflater = None;
        if self.places.len() < KEPT_INFLATERS {
            self.places.push(held);
        }
    }

    /// A decompressor for one message.
    pub(in crate::protocol) fn take_inflater(&mut self) -> Inflater {
        match self.inflaters.pop() {
            Some(mut inflater) => {
                inflater.reset();
                inflater
            }
            None => Inflater::new(),
        }
    }

    /// Takes it back.
    pub(in crate::protocol) fn give_inflater(&mut self, inflater: Option<Inflater>) {
        if self.inflaters.len() < KEPT_INFLATERS {
            self.inflaters.extend(inflater);
        }
    }

    /// Compresses a message by itself.
    pub(in crate::protocol) fn deflate(
        &mut self,
        window_bits: u8,
        level: u8,
        payload: &[u8],
    ) -> &[u8] {
        let key = (window_bits, level);
        let place = self.deflaters.iter().position(|(kept, _)| *kept == key);
        match place {
            Some(0) => {}
            Some(place) => self.deflaters.swap(0, place),
            None => {
                self.deflaters.truncate(KEPT_DEFLATERS - 1);
                self.deflaters.insert(0, (key, Deflater::new(window_bits, level)));
            }
        }
        let (_, deflater) = &mut self.deflaters[0];
        deflater.forget();
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
