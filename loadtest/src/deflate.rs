//! permessage-deflate (RFC 7692) as a load generator needs it: payloads compressed once, before
//! the clock starts, and the first replies of each connection inflated to see that they are right.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// What is offered in the opening handshake. Our messages are compressed each for itself, and the
/// server may do what it likes.
pub(crate) const OFFER: &str = "permessage-deflate; client_no_context_takeover";

/// RFC 7692 7.2.1: the end of a flushed block, which is left out on the wire.
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// The payload as it goes into a frame with RSV1 (RFC 7692 7.2.1).
pub(crate) fn compress(payload: &[u8]) -> Vec<u8> {
    let mut compress = Compress::new(Compression::default(), false);
    let mut out = Vec::with_capacity(payload.len() / 2 + 64);
    loop {
        let rest = &payload[compress.total_in() as usize..];
        // With room left after the call, all of it was flushed.
        let status = compress.compress_vec(rest, &mut out, FlushCompress::Sync);
        if status.is_err() || out.len() < out.capacity() {
            break;
        }
        out.reserve(out.capacity());
    }
    if out.ends_with(&TAIL) {
        out.truncate(out.len() - TAIL.len());
    }
    // RFC 7692 7.2.3.6: an empty message is one empty block.
    if out.is_empty() {
        out.push(0);
    }
    out
}

/// Inflates the messages of one connection, from its first one on: with context takeover, a later
/// one alone cannot be understood.
#[derive(Debug)]
pub(crate) struct Inflater {
    decompress: Decompress,
    message: Vec<u8>,
}

impl Inflater {
    pub(crate) fn new() -> Self {
        Self { decompress: Decompress::new(false), message: Vec::new() }
    }

    /// Takes a piece of a message. False: it is no deflate stream, or longer than `most`.
    pub(crate) fn add(&mut self, mut piece: &[u8], most: usize) -> bool {
        loop {
            // One byte more than allowed shows that it is too long.
            self.message.reserve(4096.min(most + 1));
            let before = self.decompress.total_in();
            let status =
                self.decompress.decompress_vec(piece, &mut self.message, FlushDecompress::Sync);
            piece = &piece[(self.decompress.total_in() - before) as usize..];
            match status {
                Ok(Status::Ok | Status::BufError) if self.message.len() <= most => {}
                Ok(Status::StreamEnd) => return piece.is_empty(),
                _ => return false,
            }
            if piece.is_empty() && self.message.len() < self.message.capacity() {
                return true;
            }
        }
    }

    /// The whole message, after its last piece; the next one begins.
    pub(crate) fn finish(&mut self, most: usize) -> Option<Vec<u8>> {
        self.add(&TAIL, most).then(|| std::mem::take(&mut self.message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_compressed_is_inflated_in_any_pieces() {
        let mut inflater = Inflater::new();
        for len in [0, 1, 20, 1024, 70_000] {
            let payload: Vec<u8> = (0..len).map(|index| (index * index / 7) as u8).collect();
            let compressed = compress(&payload);
            assert!(!compressed.ends_with(&TAIL));
            for step in [1, 7, 100_000] {
                for piece in compressed.chunks(step) {
                    assert!(inflater.add(piece, len), "{len} {step}");
                }
                assert_eq!(inflater.finish(len).as_deref(), Some(payload.as_slice()), "{len}");
            }
        }
    }

    #[test]
    fn what_is_too_long_or_no_deflate_is_refused() {
        let mut inflater = Inflater::new();
        let compressed = compress(&[0; 5000]);
        assert!(!inflater.add(&compressed, 4999) || inflater.finish(4999).is_none());
        // A block of the reserved type (RFC 1951 3.2.3).
        assert!(!Inflater::new().add(&[0x07, 0xff, 0xff], 100));
    }
}
