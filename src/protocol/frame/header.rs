//! A frame header, byte by byte in the order of RFC 6455 5.2.
//!
//! Comes in: bytes, possibly fewer than a header has. Goes out: the header, or the first rule that
//! it breaks; each byte is judged alone, so that a bad first byte is found before the second one
//! has arrived and the verdict does not depend on how the bytes were cut.
//!
//! ```text
//!   byte 0              byte 1              0, 2 or 8 bytes     0 or 4 bytes
//!  +-+---+-------+     +-+-------------+   +---------------+   +-------------+
//!  |F|RSV|opcode |     |M| length, 126 |   | length        |   | masking key |
//!  |I|123|       |     |A| or 127      |   | (big endian)  |   |             |
//!  +-+---+-------+     +-+-------------+   +---------------+   +-------------+
//!    FirstByte           SecondByte          payload_len         masking_key
//! ```

use crate::protocol::close::MAX_CONTROL_PAYLOAD;
use crate::protocol::error::ProtocolError;

/// Longest header, in bytes: 2, a 64-bit length and a masking key.
pub(crate) const MAX_HEADER_LEN: usize = 14;

/// RFC 6455 5.2: bits of the first byte that are for extensions.
pub(crate) const RSV1: u8 = 0x40;
pub(crate) const RSV2: u8 = 0x20;
pub(crate) const RSV3: u8 = 0x10;

/// What a frame is (RFC 6455 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// 0x0: the next fragment of a message.
    Continuation = 0x0,
    /// 0x1: a text message, or its first fragment.
    Text = 0x1,
    /// 0x2: a binary message, or its first fragment.
    Binary = 0x2,
    /// 0x8: the close handshake (5.5.1).
    Close = 0x8,
    /// 0x9: asks for a Pong (5.5.2).
    Ping = 0x9,
    /// 0xA: answers a Ping, or keeps the connection alive (5.5.3).
    Pong = 0xA,
}

impl Opcode {
    /// True for Close, Ping and Pong (RFC 6455 5.5).
    pub const fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }

    const fn from_nibble(nibble: u8) -> Result<Self, ProtocolError> {
        match nibble {
            0x0 => Ok(Self::Continuation),
            0x1 => Ok(Self::Text),
            0x2 => Ok(Self::Binary),
            0x8 => Ok(Self::Close),
            0x9 => Ok(Self::Ping),
            0xA => Ok(Self::Pong),
            // RFC 6455 5.2: an unknown opcode fails the connection.
            reserved => Err(ProtocolError::ReservedOpcode(reserved)),
        }
    }
}

/// Everything in front of a frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// True for the last fragment of a message, and for a message of one frame.
    pub fin: bool,
    /// RSV1: with permessage-deflate, the message is compressed (RFC 7692 6). Without, an error.
    pub rsv1: bool,
    /// What the frame is.
    pub opcode: Opcode,
    /// What the payload is masked with, if it is (RFC 6455 5.3).
    pub masking_key: Option<[u8; 4]>,
    /// Length of the payload, in bytes, below 2^63.
    pub payload_len: u64,
}

impl FrameHeader {
    /// Reads a header from the front of `bytes` and gives it with its own length; `None` if more
    /// bytes are needed.
    ///
    /// Only the structure is judged. Role, limits, RSV1 and the order of fragments depend on the
    /// connection: [`Endpoint`](crate::protocol::Endpoint) checks them.
    ///
    /// # Errors
    ///
    /// The first rule that is broken, as soon as the byte that breaks it is there.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, ProtocolError> {
        let Some(&byte) = bytes.first() else { return Ok(None) };
        let first = FirstByte::decode(byte, RSV2 | RSV3)?;
        let Some(&byte) = bytes.get(1) else { return Ok(None) };
        let second = SecondByte::decode(byte, first)?;
        let Some(payload_len) = second.payload_len(bytes)? else { return Ok(None) };
        Ok(Self::complete(first, second, payload_len, bytes))
    }

    /// Puts the judged pieces together; `None` if the masking key has not arrived.
    #[inline]
    pub(crate) fn complete(
        first: FirstByte,
        second: SecondByte,
        payload_len: u64,
        bytes: &[u8],
    ) -> Option<(Self, usize)> {
        let FirstByte { fin, rsv1, opcode } = first;
        let key_start = 2 + second.length_len();
        let masking_key =
            if second.masked { Some(*bytes.get(key_start..)?.first_chunk::<4>()?) } else { None };
        let header_len = key_start + masking_key.map_or(0, |key| key.len());
        Some((Self { fin, rsv1, opcode, masking_key, payload_len }, header_len))
    }
}

/// What the first byte says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FirstByte {
    pub(crate) fin: bool,
    pub(crate) rsv1: bool,
    pub(crate) opcode: Opcode,
}

impl FirstByte {
    /// `reserved` are the bits that no extension gave a meaning.
    #[inline]
    pub(crate) const fn decode(byte: u8, reserved: u8) -> Result<Self, ProtocolError> {
        // RFC 6455 5.2: such a bit fails the connection.
        if byte & reserved != 0 {
            return Err(ProtocolError::ReservedBits);
        }
        let opcode = match Opcode::from_nibble(byte & 0x0F) {
            Ok(opcode) => opcode,
            Err(error) => return Err(error),
        };
        let fin = byte & 0x80 != 0;
        // RFC 6455 5.5: control frames must not be fragmented.
        if !fin && opcode.is_control() {
            return Err(ProtocolError::FragmentedControlFrame);
        }
        Ok(Self { fin, rsv1: byte & RSV1 != 0, opcode })
    }
}

/// What the second byte says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SecondByte {
    pub(crate) masked: bool,
    /// 0 to 125: the length itself; 126, 127: the length follows in 2 or 8 bytes.
    length: u8,
}

impl SecondByte {
    #[inline]
    pub(crate) const fn decode(byte: u8, first: FirstByte) -> Result<Self, ProtocolError> {
        let length = byte & 0x7F;
        // RFC 6455 5.5: control frames have at most 125 bytes, so the longer forms are out too.
        if first.opcode.is_control() && length as usize > MAX_CONTROL_PAYLOAD {
            return Err(ProtocolError::ControlFrameTooLong);
        }
        Ok(Self { masked: byte & 0x80 != 0, length })
    }

    /// Length of the extended length field, in bytes.
    #[inline]
    const fn length_len(self) -> usize {
        match self.length {
            0..=125 => 0,
            126 => 2,
            _ => 8,
        }
    }

    /// The length of the payload, from the whole header in `bytes`; `None` if its bytes have not
    /// all arrived.
    #[inline]
    pub(crate) fn payload_len(self, bytes: &[u8]) -> Result<Option<u64>, ProtocolError> {
        let extended = bytes.get(2..).unwrap_or_default();
        let (payload_len, shorter_form_max) = match self.length {
            short @ 0..=125 => return Ok(Some(u64::from(short))),
            126 => match extended.first_chunk::<2>() {
                Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 125),
                None => return Ok(None),
            },
            _ => match extended.first_chunk::<8>() {
                Some(bytes) => (u64::from_be_bytes(*bytes), u64::from(u16::MAX)),
                None => return Ok(None),
            },
        };
        // RFC 6455 5.2: the most significant bit of a 64-bit length must be 0.
        if payload_len >> 63 != 0 {
            return Err(ProtocolError::LengthTopBitSet);
        }
        // RFC 6455 5.2: the minimal number of bytes must be used to encode the length.
        if payload_len <= shorter_form_max {
            return Err(ProtocolError::LengthNotMinimal);
        }
        Ok(Some(payload_len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(bytes: &[u8]) -> Result<Option<(FrameHeader, usize)>, ProtocolError> {
        FrameHeader::decode(bytes)
    }

    #[test]
    fn the_examples_of_section_5_7_are_read() {
        let unmasked = FrameHeader {
            fin: true,
            rsv1: false,
            opcode: Opcode::Text,
            masking_key: None,
            payload_len: 5,
        };
        assert_eq!(header(b"\x81\x05Hello"), Ok(Some((unmasked, 2))));
        let masked = FrameHeader { masking_key: Some([0x37, 0xfa, 0x21, 0x3d]), ..unmasked };
        assert_eq!(header(b"\x81\x85\x37\xfa\x21\x3d\x7f"), Ok(Some((masked, 6))));
        let kilobyte = FrameHeader { opcode: Opcode::Binary, payload_len: 256, ..unmasked };
        assert_eq!(header(b"\x82\x7e\x01\x00"), Ok(Some((kilobyte, 4))));
        let large = FrameHeader { payload_len: 65_536, ..kilobyte };
        assert_eq!(header(b"\x82\x7f\0\0\0\0\0\x01\0\0"), Ok(Some((large, 10))));
    }

    #[test]
    fn a_header_cut_anywhere_needs_more_bytes() {
        for whole in [
            &b"\x81\x85\x37\xfa\x21\x3d"[..],
            b"\x82\xfe\x01\x00\x01\x02\x03\x04",
            b"\x82\xff\0\0\0\0\0\x01\0\0\x01\x02\x03\x04",
        ] {
            for len in 0..whole.len() {
                assert_eq!(header(&whole[..len]), Ok(None), "{whole:?} cut at {len}");
            }
            assert!(matches!(header(whole), Ok(Some((_, len))) if len == whole.len()));
        }
    }

    #[test]
    fn every_first_byte_is_judged_alone() {
        for byte in 0..=u8::MAX {
            let (opcode, control) = (byte & 0x0F, byte & 0x08 != 0);
            let expected = if byte & 0x30 != 0 {
                Err(ProtocolError::ReservedBits)
            } else if matches!(opcode, 3..=7 | 0xB..) {
                Err(ProtocolError::ReservedOpcode(opcode))
            } else if control && byte & 0x80 == 0 {
                Err(ProtocolError::FragmentedControlFrame)
            } else {
                Ok(None)
            };
            assert_eq!(header(&[byte]), expected, "{byte:#04x}");
        }
    }

    #[test]
    fn a_long_control_frame_is_found_at_its_second_byte() {
        for first in [0x88, 0x89, 0x8A] {
            assert_eq!(header(&[first, 0x80 | 125]), Ok(None));
            for length in [126, 127, 0xFE, 0xFF] {
                assert_eq!(header(&[first, length]), Err(ProtocolError::ControlFrameTooLong));
            }
        }
    }

    #[test]
    fn lengths_must_be_minimal() {
        let not_minimal = Err(ProtocolError::LengthNotMinimal);
        assert_eq!(header(&[0x82, 126, 0, 0]), not_minimal);
        assert_eq!(header(&[0x82, 126, 0, 125]), not_minimal);
        assert_eq!(header(&[0x82, 127, 0, 0, 0, 0, 0, 0, 0, 5]), not_minimal);
        assert_eq!(header(&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]), not_minimal);
        assert!(matches!(header(&[0x82, 126, 0, 126]), Ok(Some((h, 4))) if h.payload_len == 126));
    }

    #[test]
    fn lengths_have_63_bits() {
        let mut bytes = [0xFF; 10];
        bytes[0] = 0x82;
        bytes[1] = 127;
        assert_eq!(header(&bytes), Err(ProtocolError::LengthTopBitSet));
        bytes[2] = 0x7F;
        let largest = header(&bytes);
        assert!(matches!(largest, Ok(Some((h, 10))) if h.payload_len == u64::MAX >> 1));
        bytes[2..].copy_from_slice(&(1_u64 << 63).to_be_bytes());
        assert_eq!(header(&bytes), Err(ProtocolError::LengthTopBitSet));
    }
}
