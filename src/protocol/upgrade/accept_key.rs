//! Sec-WebSocket-Key and Sec-WebSocket-Accept (RFC 6455 4.2.2 step 5, 11.3.1, 11.3.3).
//!
//! Comes in: the 24 characters of a key. Goes out: the 28 characters that prove that the answer
//! belongs to it. It never allocates and keeps nothing secret: the pair is no authentication.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

/// RFC 6455 1.3: appended to the key before hashing.
const GUID: &[u8; 36] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Characters of a Sec-WebSocket-Key: base64 of 16 bytes.
pub(super) const KEY_LEN: usize = 24;

/// The value of Sec-WebSocket-Accept: base64 of a SHA-1, always 28 characters.
///
/// ```
/// use wirelane::protocol::upgrade::AcceptKey;
///
/// let accept = AcceptKey::of(b"dGhlIHNhbXBsZSBub25jZQ==");
/// assert_eq!(accept.as_bytes(), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptKey([u8; 28]);

impl AcceptKey {
    /// The answer to a Sec-WebSocket-Key, which is used as it stands, without decoding
    /// (RFC 6455 4.2.2 step 5.4).
    pub fn of(key: &[u8; KEY_LEN]) -> Self {
        let mut keyed = [0; KEY_LEN + GUID.len()];
        keyed[..KEY_LEN].copy_from_slice(key);
        keyed[KEY_LEN..].copy_from_slice(GUID);
        let digest: [u8; 20] = Sha1::digest(keyed).into();
        AcceptKey(encode(&digest))
    }

    /// The characters, all of them ASCII.
    pub fn as_bytes(&self) -> &[u8; 28] {
        &self.0
    }
}

/// The key as the client sent it, if it is the canonical base64 of 16 bytes: 24 characters, and
/// the bits that the padding leaves over are zero (RFC 6455 4.2.1 step 5, RFC 4648 3.5).
pub(super) fn check_key(value: &[u8]) -> Option<&[u8; KEY_LEN]> {
    let key: &[u8; KEY_LEN] = value.try_into().ok()?;
    // Room for the decoder's estimate, which knows nothing of padding.
    let mut nonce = [0; 18];
    let nonce_len = STANDARD.decode_slice(key, &mut nonce).ok()?;
    (nonce_len == 16).then_some(key)
}

/// The Sec-WebSocket-Key of a nonce.
pub(super) fn key_of_nonce(nonce: &[u8; 16]) -> [u8; KEY_LEN] {
    encode(nonce)
}

/// `OUT` is the length of the padded base64 of `IN` bytes; checked when compiled.
fn encode<const IN: usize, const OUT: usize>(bytes: &[u8; IN]) -> [u8; OUT] {
    const { assert!(OUT == IN.div_ceil(3) * 4) };
    let mut encoded = [0; OUT];
    // The buffer has exactly the length that the assertion above demands, so it is never short.
    let written = STANDARD.encode_slice(bytes, &mut encoded).unwrap_or(0);
    debug_assert_eq!(written, OUT);
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_of_the_rfc() {
        let nonce = *b"the sample nonce";
        assert_eq!(&key_of_nonce(&nonce), b"dGhlIHNhbXBsZSBub25jZQ==");
        let accept = AcceptKey::of(&key_of_nonce(&nonce));
        assert_eq!(accept.as_bytes(), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn only_canonical_base64_of_16_bytes_is_a_key() {
        assert!(check_key(b"AAAAAAAAAAAAAAAAAAAAAA==").is_some());
        assert!(check_key(b"/+9/+9/+9/+9/+9/+9/+9w==").is_some());
        for value in [
            &b""[..],
            b"AAAA",
            b"AAAAAAAAAAAAAAAAAAAAAA=",
            b"AAAAAAAAAAAAAAAAAAAAAA",
            b"AAAAAAAAAAAAAAAAAAAAAAA=",
            b"AAAAAAAAAAAAAAAAAAAAAAAA",
            b"AAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            // Padding bits that are not zero.
            b"AAAAAAAAAAAAAAAAAAAAAB==",
            b"AAAAAAAAAAAAAAAAAAAAAP==",
            // Characters of other alphabets, blanks, padding in the middle.
            b"AAAAAAAAAAAAAAAAAAAA-A==",
            b"AAAAAAAAAAAAAAAAAAAA_A==",
            b"AAAAAAAAAA AAAAAAAAAAA==",
            b"AAAA==AAAAAAAAAAAAAAAA==",
            b"AAAAAAAAAAAAAAAAAAAAA===",
            b"========================",
            b"AAAAAAAAAAAAAAAAAAAAA\xff==",
        ] {
            assert_eq!(check_key(value), None, "{:?}", value.escape_ascii().to_string());
        }
    }
}
