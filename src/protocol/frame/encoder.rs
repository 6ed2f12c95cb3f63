//! A frame header as bytes.
//!
//! Comes in: what a frame shall be. Goes out: its header, in the shortest form. This never
//! draws a masking key; payloads are copied where they have to be masked.

use std::ops::Deref;

use super::header::{MAX_HEADER_LEN, Opcode};
use crate::simd::{append, unmask};

/// The bytes of a frame header, 2 to 14 of them. 15 bytes, no heap.
#[derive(Clone, Copy, Debug)]
pub struct EncodedHeader {
    bytes: [u8; MAX_HEADER_LEN],
    len: u8,
}

/// Appends a frame of 65,535 bytes of payload at most that is neither masked nor compressed.
#[inline(always)]
pub(crate) fn append_short(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    let (first, len) = (0x80 | opcode as u8, payload.len());
    debug_assert!(len <= 0xFFFF && !opcode.is_control());
    if len <= 125 {
        append(out, [first, len as u8, 0, 0], 2, payload);
    } else {
        append(out, [first, 126, (len >> 8) as u8, len as u8], 4, payload);
    }
}

/// Encodes the header of a frame whose payload has `payload_len` bytes, below 2^63 (RFC 6455 5.2).
///
/// For batching and fan-out: a publisher encodes once and sends to many. The payload that follows
/// must be masked with `masking_key` if there is one.
///
/// ```
/// use wirelane::protocol::frame::{Opcode, encode_header};
///
/// let header = encode_header(true, false, Opcode::Text, 5, None);
/// assert_eq!(&header[..], [0x81, 5]);
/// ```
#[inline]
pub fn encode_header(
    fin: bool,
    rsv1: bool,
    opcode: Opcode,
    payload_len: u64,
    masking_key: Option<[u8; 4]>,
) -> EncodedHeader {
    debug_assert!(payload_len >> 63 == 0, "no payload in memory is that long");
    let mut bytes = [0; MAX_HEADER_LEN];
    bytes[0] = u8::from(fin) << 7 | u8::from(rsv1) << 6 | opcode as u8;
    let mask_bit = u8::from(masking_key.is_some()) << 7;
    // RFC 6455 5.2: the minimal number of bytes must be used to encode the length.
    let mut len = match payload_len {
        0..=125 => {
            bytes[1] = mask_bit | payload_len as u8;
            2
        }
        126..=0xFFFF => {
            bytes[1] = mask_bit | 126;
            bytes[2..4].copy_from_slice(&(payload_len as u16).to_be_bytes());
            4
        }
        _ => {
            bytes[1] = mask_bit | 127;
            bytes[2..10].copy_from_slice(&payload_len.to_be_bytes());
            10
        }
    };
    if let Some(key) = masking_key {
        bytes[len..len + 4].copy_from_slice(&key);
        len += 4;
    }
    EncodedHeader { bytes, len: len as u8 }
}

/// How much is copied before it is masked: the second pass finds it in the first-level cache. A
/// multiple of four, so that each piece begins with the first byte of the key.
const BLOCK: usize = 16 * 1024;

/// Appends a payload, masked (RFC 6455 5.3).
pub(crate) fn append_masked(payload: &[u8], key: [u8; 4], out: &mut Vec<u8>) {
    for piece in payload.chunks(BLOCK) {
        let start = out.len();
        out.extend_from_slice(piece);
        unmask(&mut out[start..], key, 0);
    }
}

/// Appends a whole frame that was made for clients, masked as one for a server must be (RFC 6455
/// 5.1).
pub(crate) fn append_masked_copy(frame: &[u8], key: [u8; 4], out: &mut Vec<u8>) {
    let [first, second, ..] = *frame else {
        debug_assert!(false, "a frame has a header");
        return;
    };
    debug_assert!(second & 0x80 == 0, "made for clients");
    let header_len = match second {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    out.reserve(frame.len() + key.len());
    out.extend_from_slice(&[first, second | 0x80]);
    out.extend_from_slice(&frame[2..header_len]);
    out.extend_from_slice(&key);
    append_masked(&frame[header_len..], key, out);
}

impl Deref for EncodedHeader {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl AsRef<[u8]> for EncodedHeader {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl PartialEq for EncodedHeader {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for EncodedHeader {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::FrameHeader;
    use proptest::prelude::*;

    #[test]
    fn the_shortest_form_is_used_at_every_boundary() {
        let encoded = |len| encode_header(true, false, Opcode::Binary, len, None).to_vec();
        assert_eq!(encoded(0), [0x82, 0]);
        assert_eq!(encoded(125), [0x82, 125]);
        assert_eq!(encoded(126), [0x82, 126, 0, 126]);
        assert_eq!(encoded(65_535), [0x82, 126, 0xFF, 0xFF]);
        assert_eq!(encoded(65_536), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(encoded(u64::MAX >> 1)[2..], (u64::MAX >> 1).to_be_bytes());
    }

    #[test]
    fn flags_opcode_and_key_are_in_their_places() {
        let header = encode_header(false, true, Opcode::Text, 3, Some([1, 2, 3, 4]));
        assert_eq!(&header[..], [0x41, 0x83, 1, 2, 3, 4]);
        let header = encode_header(true, false, Opcode::Pong, 0, None);
        assert_eq!(&header[..], [0x8A, 0]);
    }

    #[test]
    fn a_masked_copy_is_what_a_client_would_have_sent() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        for len in [0, 1, 125, 126, 65_535, 65_536, 2 * BLOCK, 2 * BLOCK + 3] {
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let frame = |masking_key| {
                let len = len as u64;
                encode_header(true, false, Opcode::Binary, len, masking_key).to_vec()
            };
            let mut expected = frame(Some(key));
            let start = expected.len();
            expected.extend_from_slice(&payload);
            unmask(&mut expected[start..], key, 0);
            let mut copy = b"before".to_vec();
            append_masked_copy(&[frame(None), payload].concat(), key, &mut copy);
            assert!(copy == [&b"before"[..], &expected].concat(), "{len}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn decoding_undoes_encoding(
            fin: bool,
            rsv1: bool,
            opcode in prop::sample::select(vec![Opcode::Continuation, Opcode::Text, Opcode::Binary]),
            payload_len in prop_oneof![0..200_u64, 65_000..66_000_u64, 0..=u64::MAX >> 1],
            masking_key: Option<[u8; 4]>,
        ) {
            let encoded = encode_header(fin, rsv1, opcode, payload_len, masking_key);
            let header = FrameHeader { fin, rsv1, opcode, masking_key, payload_len };
            prop_assert_eq!(FrameHeader::decode(&encoded), Ok(Some((header, encoded.len()))));
        }
    }
}
