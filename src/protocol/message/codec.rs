//! Compressing and decompressing messages (RFC 7692 7.2), with the library `zlib-rs`.
//!
//! Comes in: payloads. Goes out: the same, deflated or inflated, into buffers of the caller. This
//! knows nothing of frames, limits and who owns a codec; one that goes on with an earlier message
//! is as good for it as a fresh one.

use zlib_rs::{DeflateConfig, DeflateFlush, InflateFlush, Status};

use super::deflate::InflateError;
use super::history::{History, Stamp};

/// What RFC 7692 7.2.1 removes from the end of every message: an empty block without compression,
/// but for the bits of its header.
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// The same with an empty last block behind it, which decodes only at the start of a block.
const LAST_BLOCK: [u8; 5] = [0x01, 0x00, 0x00, 0xff, 0xff];

/// Symbols that a compressor of the worker collects per block: 2^(`MEM_LEVEL` + 6). More costs 7
/// bytes each and gains little on messages of a few kilobytes.
const MEM_LEVEL: i32 = 6;

/// The same of a compressor that belongs to a connection: 21 KiB less, for 1 % more bytes of
/// messages of 16 KiB, and none more of those of 1 KiB.
const OWN_MEM_LEVEL: i32 = 4;

/// A compressor with its window.
pub(in crate::protocol) struct Deflater {
    stream: zlib_rs::Deflate,
    /// Whose text is in the window, if it is somebody's.
    stamp: Option<Stamp>,
    /// A reset is due before the next message.
    stale: bool,
    /// See [`Self::take_used`].
    used: bool,
}

impl Deflater {
    /// One for many connections. Window of 9 to 15 bits, level 1 to 9.
    pub(in crate::protocol) fn new(window_bits: u8, level: u8) -> Self {
        Self::with(window_bits, level, MEM_LEVEL)
    }

    /// One for a single connection.
    pub(in crate::protocol) fn for_one(window_bits: u8, level: u8) -> Self {
        Self::with(window_bits, level, OWN_MEM_LEVEL)
    }

    fn with(window_bits: u8, level: u8, mem_level: i32) -> Self {
        let config = DeflateConfig {
            // Negative: without the header of zlib.
            window_bits: -i32::from(window_bits),
            level: i32::from(level),
            mem_level,
            ..DeflateConfig::default()
        };
        let stream = zlib_rs::Deflate::new_with_config(config);
        Self { stream, stamp: None, stale: false, used: false }
    }

    /// Forgets all earlier messages before the next one.
    pub(in crate::protocol) fn forget(&mut self) {
        self.stale = true;
    }

    /// The stamp of the text that is in the window.
    pub(in crate::protocol) const fn stamp(&self) -> Option<Stamp> {
        self.stamp
    }

    /// Says whose text is in the window, from the last message on.
    pub(in crate::protocol) const fn set_stamp(&mut self, stamp: Option<Stamp>) {
        self.stamp = stamp;
    }

    /// Goes on from `history`, whatever was compressed before.
    ///
    /// To forget what was before takes as long as a small message does, because the hash table has
    /// 128 KiB, and is needed only as long as there is less history than a match can reach: a full
    /// one lies between the message and everything before.
    pub(in crate::protocol) fn load(&mut self, history: &History) {
        if std::mem::take(&mut self.stale) || !history.is_full() {
            self.stream.reset();
        }
        for part in history.parts().into_iter().filter(|part| !part.is_empty()) {
            if let Err(error) = self.stream.set_dictionary(part) {
                debug_assert!(false, "{error:?}");
                // Somebody else's text must not stay within reach.
                self.stream.reset();
                break;
            }
        }
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
    /// What the next message of the peer goes on from, for which this may be elsewhere by then. It
    /// is here until then, because it grows with everything that comes out.
    history: History,
    /// The last block of the stream has come.
    ended: bool,
    /// The byte that may follow the last block has come, too.
    padded: bool,
    /// See [`Self::check`].
    error: Option<InflateError>,
}

impl Inflater {
    pub(in crate::protocol) fn new() -> Self {
        Self {
            stream: zlib_rs::Inflate::new(false, 15),
            history: History::default(),
            ended: false,
            padded: false,
            error: None,
        }
    }

    /// Goes on from `history`, whatever was inflated before.
    pub(in crate::protocol) fn begin(&mut self, history: History) {
        self.reset();
        for part in history.parts().into_iter().filter(|part| !part.is_empty()) {
            let loaded = self.stream.set_dictionary(part);
            debug_assert!(loaded.is_ok(), "{loaded:?}");
        }
        self.history = history;
    }

    /// Gives the history back, with the message that is complete.
    pub(in crate::protocol) fn end(&mut self) -> History {
        std::mem::take(&mut self.history)
    }

    fn reset(&mut self) {
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
            self.history.append(&output[..written]);
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

    /// The message is complete (RFC 7692 7.2.2). To `keep` what is in the window, so that the next
    /// message may go on with it, makes this overlook some messages that end in the middle of the
    /// header of a block; the next one is corrupt then.
    ///
    /// # Errors
    ///
    /// [`InflateError::Corrupt`] if the message ends in the middle of something.
    pub(in crate::protocol) fn finish(&mut self, keep: bool) -> Result<(), InflateError> {
        if self.ended {
            // A compressor that ended its stream has begun a new one since, so it knows nothing of
            // earlier messages either.
            self.reset();
            self.history.clear();
            return Ok(());
        }
        self.expect_nothing(&TAIL)?;
        if !keep {
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
