//! Compressing and decompressing messages (RFC 7692 7.2), with the library `zlib-rs`.
//!
//! Comes in: payloads. Goes out: the same, deflated or inflated, into buffers of the caller. This
//! knows nothing of frames, limits and who owns a codec; one that goes on with an earlier message
//! is as good for it as a fresh one.

use zlib_rs::{DeflateConfig, DeflateFlush, InflateFlush, Status};

use super::deflate::InflateError;

/// What RFC 7692 7.2.1 removes from the end of every message: an empty block without compression,
/// but for the bits of its header.
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// The same with an empty last block behind it, which decodes only at the start of a block.
const LAST_BLOCK: [u8; 5] = [0x01, 0x00, 0x00, 0xff, 0xff];

/// Symbols that the compressor collects per block: 2^(`MEM_LEVEL` + 6). More costs 7 bytes each
/// and gains little on messages of a few kilobytes.
const MEM_LEVEL: i32 = 6;

/// A compressor with its window.
pub(in crate::protocol) struct Deflater {
    stream: zlib_rs::Deflate,
    /// A reset is due before the next message.
    stale: bool,
    /// See [`Self::take_used`].
    used: bool,
}

impl Deflater {
    /// Window of 9 to 15 bits, level 1 to 9.
    pub(in crate::protocol) fn new(window_bits: u8, level: u8) -> Self {
        let config = DeflateConfig {
            // Negative: without the header of zlib.
            window_bits: -i32::from(window_bits),
            level: i32::from(level),
            mem_level: MEM_LEVEL,
            ..DeflateConfig::default()
        };
        Self { stream: zlib_rs::Deflate::new_with_config(config), stale: false, used: false }
    }

    /// Forgets all earlier messages before the next one.
    pub(in crate::protocol) fn forget(&mut self) {
        self.stale = true;
    }

    /// True if a message was compressed since this was asked for last.
    pub(in crate::protocol) fn take_used(&mut self) -> bool {
        std::mem::take(&mut self.used)
    }

    /// Compresses a message, which is not empty, and replaces the content of `out` by it
    /// (RFC 7692 7.2.1). Everything in `out` up to its length is initialised memory, so a buffer
    /// that is kept costs nothing.
    pub(in crate::protocol) fn deflate<'o>(
        &mut self,
        mut payload: &[u8],
        out: &'o mut Vec<u8>,
    ) -> &'o [u8] {
        self.used = true;
        if std::mem::take(&mut self.stale) {
            self.stream.reset();
        }
        let mut len = 0;
        // Usually enough: what does not shrink grows by an eighth at most.
        let mut wanted = payload.len() + payload.len() / 8 + 64;
        loop {
            if out.len() < wanted {
                out.resize(wanted, 0);
            }
            let (before_in, before_out) = (self.stream.total_in(), self.stream.total_out());
            let status = self.stream.compress(payload, &mut out[len..], DeflateFlush::SyncFlush);
            debug_assert!(status.is_ok(), "{status:?}");
            payload = &payload[(self.stream.total_in() - before_in) as usize..];
            len += (self.stream.total_out() - before_out) as usize;
            // Room that is left says that everything was flushed.
            if status.is_err() || (payload.is_empty() && len < out.len()) {
                break;
            }
            wanted = 2 * out.len();
        }
        debug_assert!(out[..len].ends_with(&TAIL));
        &out[..len.saturating_sub(TAIL.len())]
    }
}

/// A decompressor with its window of 32 KiB, which is enough for any peer.
pub(in crate::protocol) struct Inflater {
    stream: zlib_rs::Inflate,
    /// The last block of the stream has come.
    ended: bool,
    /// The byte that may follow the last block has come, too.
    padded: bool,
    /// See [`Self::check`].
    error: Option<InflateError>,
}

impl Inflater {
    pub(in crate::protocol) fn new() -> Self {
        Self { stream: zlib_rs::Inflate::new(false, 15), ended: false, padded: false, error: None }
    }

    /// Forgets all earlier messages.
    pub(in crate::protocol) fn reset(&mut self) {
        self.stream.reset(false);
        (self.ended, self.padded, self.error) = (false, false, None);
    }

    /// Inflates from the front of `input` and gives how many bytes it wrote to `output`. Call it
    /// again as long as it fills `output`, also when `input` is used up; but look at what came out
    /// and call [`check`](Self::check) before.
    pub(in crate::protocol) fn inflate(&mut self, input: &mut &[u8], output: &mut [u8]) -> usize {
        let mut written = 0;
        if !self.ended && self.error.is_none() {
            let (before_in, before_out) = (self.stream.total_in(), self.stream.total_out());
            let status = self.stream.decompress(input, output, InflateFlush::SyncFlush);
            *input = &input[(self.stream.total_in() - before_in) as usize..];
            written = (self.stream.total_out() - before_out) as usize;
            match status {
                Ok(Status::StreamEnd) => self.ended = true,
                Ok(Status::Ok | Status::BufError) => {}
                Err(_) => self.error = Some(InflateError::Corrupt),
            }
        }
        if self.ended && !input.is_empty() {
            // RFC 7692 7.2.3.4: behind a last block comes the first byte of an empty one, whose
            // other bytes were removed.
            if *input != [0] || self.padded {
                self.error = Some(InflateError::BlockAfterLast);
            }
            self.padded = true;
            *input = &[];
        }
        written
    }

    /// Says what is wrong with the input so far. It lies behind everything that came out, which may
    /// break another rule: that one was broken first, and is found first if the input comes byte by
    /// byte.
    ///
    /// # Errors
    ///
    /// [`InflateError`], as soon as the first byte is there that cannot be right.
    pub(in crate::protocol) fn check(&self) -> Result<(), InflateError> {
        self.error.map_or(Ok(()), Err)
    }

    /// The message is complete (RFC 7692 7.2.2). With `takeover` the next one goes on with this
    /// window; without, call [`reset`](Self::reset) before.
    ///
    /// # Errors
    ///
    /// [`InflateError::Corrupt`] if the message ends in the middle of something.
    pub(in crate::protocol) fn finish(&mut self, takeover: bool) -> Result<(), InflateError> {
        if self.ended {
            if takeover {
                // A compressor that ended its stream has begun a new one since, so it knows
                // nothing of earlier messages either.
                self.reset();
            }
            return Ok(());
        }
        self.expect_nothing(&TAIL)?;
        if !takeover {
            self.expect_nothing(&LAST_BLOCK)?;
            if !self.ended {
                return Err(InflateError::Corrupt);
            }
        }
        Ok(())
    }

    /// Takes bytes that mean nothing if everything before them was whole.
    fn expect_nothing(&mut self, mut input: &[u8]) -> Result<(), InflateError> {
        let written = self.inflate(&mut input, &mut [0; 8]);
        match self.error {
            None if written == 0 && input.is_empty() => Ok(()),
            _ => Err(InflateError::Corrupt),
        }
    }
}
