//! The messages of a run, framed and masked once, before the clock starts (RFC 6455 5.2, 5.3).
//!
//! In: content, size and depth. Out: bytes to write, and what the echoes must look like. Every
//! connection sends the same `depth` messages in turn, so a turn's replies are answered with one
//! write of bytes that are in cache. One masking key serves the whole run: RFC 6455 10.3 asks for
//! fresh keys to protect intermediaries from scripts in browsers, and a load generator is neither
//! run in a browser nor meant to spend its time on masking. This never reads a socket.

use crate::deflate;
use crate::failure::{Context, Failure};
use crate::process::random;
use crate::target::{Speech, Target};

/// What messages are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Text of printable ASCII.
    Ascii,
    /// All byte values.
    Binary,
    /// Text of JSON as services send it: ASCII that compresses.
    Json,
    /// Text of characters of one to four bytes.
    MixedUtf8,
}

impl Content {
    /// As in the figures and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ascii => "text",
            Self::Binary => "binary",
            Self::Json => "json",
            Self::MixedUtf8 => "utf8",
        }
    }

    /// The content with this [`Content::name`].
    pub(crate) fn named(name: &str) -> Option<Self> {
        let all = [Self::Ascii, Self::Binary, Self::Json, Self::MixedUtf8];
        all.into_iter().find(|content| content.name() == name)
    }

    /// RFC 6455 5.2: 1 denotes a text frame, 2 a binary frame.
    fn opcode(self) -> u8 {
        match self {
            Self::Ascii | Self::Json | Self::MixedUtf8 => 1,
            Self::Binary => 2,
        }
    }

    /// The payload number `slot`. Its first and last byte tell it from its neighbours.
    fn payload(self, slot: usize, size: usize) -> Vec<u8> {
        let mut payload = match self {
            Self::Ascii => (0..size).map(|index| printable(slot + index)).collect(),
            Self::Binary => (0..size).map(|index| (slot * 31 + index) as u8).collect(),
            Self::Json => json(slot, size),
            Self::MixedUtf8 => mixed(slot, size),
        };
        if let Some(first) = payload.first_mut() {
            *first = printable(slot);
        }
        if size > 1 {
            payload[size - 1] = printable(slot + 1);
        }
        payload
    }
}

fn printable(number: usize) -> u8 {
    b'!' + (number % 94) as u8
}

/// Records of prices, one after the other, cut where `size` ends.
fn json(slot: usize, size: usize) -> Vec<u8> {
    let mut text = String::with_capacity(size + 120);
    // A generator of Knuth's: the same numbers in every run.
    let mut number = slot as u64;
    let mut digits = |most: u64| {
        number =
            number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (number >> 33) % most
    };
    while text.len() < size {
        let (id, price, volume) = (digits(100_000), digits(1_000_000), digits(10_000));
        text.push_str(&format!(
            "{{\"id\":{id},\"symbol\":\"WL{}\",\"price\":{}.{:02},\"volume\":{volume},\"side\":\"{}\"}},",
            id % 500,
            price / 100,
            price % 100,
            if volume % 2 == 0 { "buy" } else { "sell" },
        ));
    }
    let mut payload = text.into_bytes();
    payload.truncate(size);
    payload
}

/// Text whose first and last byte are ASCII, so that the marks may replace them.
fn mixed(slot: usize, size: usize) -> Vec<u8> {
    const SAMPLE: &str =
        "Zażółć gęślą jaźń, ταχίστη αλώπηξ, съешь ещё, 素早い茶色の狐が, 🦀🚀 ok. ";
    let mut text = String::with_capacity(size + 1);
    text.push('.');
    for character in SAMPLE.chars().cycle().skip(slot) {
        if text.len() + character.len_utf8() + 1 > size {
            break;
        }
        text.push(character);
    }
    // Up to four bytes are left over, the last mark among them.
    let mut payload = text.into_bytes();
    payload.resize(size, b'.');
    payload
}

/// How messages are put on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// In frames masked with this key.
    Masked([u8; 4]),
    /// Compressed each for itself (RFC 7692), in frames masked with this key.
    Deflated([u8; 4]),
    /// In frames that are not masked, for a server that returns bytes as they are.
    AsReplies,
}

/// `depth` messages, masked and ready to write, back to back.
#[derive(Debug)]
pub(crate) struct Batch {
    content: Content,
    size: usize,
    depth: usize,
    frame_len: usize,
    /// The frames once or twice in a row: twice, a write that passes the end needs no second call.
    frames: Vec<u8>,
    /// The payloads, not masked.
    payloads: Vec<u8>,
    reply_header: ([u8; MAX_HEADER], usize),
    masking_key: [u8; 4],
    deflated: bool,
}

/// RFC 6455 5.2: two bytes and at most eight of length; servers do not mask.
pub(crate) const MAX_HEADER: usize = 10;

/// Frames are repeated only below this size; above, a second write costs nothing in comparison.
const MAX_REPEATED: usize = 1024 * 1024;

impl Batch {
    /// Prepares `depth` messages of `size` bytes. Takes about two times (small messages: three
    /// times) `depth * size` bytes of memory.
    pub(crate) fn new(content: Content, size: usize, depth: usize, masking_key: [u8; 4]) -> Self {
        Self::prepare(content, size, depth, Wire::Masked(masking_key))
    }

    /// The messages for a server: with a random masking key, or as the replies look if the server
    /// speaks no protocol.
    ///
    /// # Errors
    ///
    /// The kernel gives no random bytes.
    pub(crate) fn for_target(
        target: &Target,
        content: Content,
        size: usize,
        depth: usize,
    ) -> Result<Self, Failure> {
        let wire = match target.speech() {
            Speech::Raw => Wire::AsReplies,
            Speech::Plain | Speech::Tls => {
                let key = random().context(|| "cannot read random bytes")?;
                if target.manner().deflate { Wire::Deflated(key) } else { Wire::Masked(key) }
            }
        };
        Ok(Self::prepare(content, size, depth, wire))
    }

    /// As [`Batch::new`], with the frames as `wire` says.
    pub(crate) fn prepare(content: Content, size: usize, depth: usize, wire: Wire) -> Self {
        let mut frames = Vec::new();
        let mut payloads = Vec::with_capacity(size * depth);
        let mut compressed_len = None;
        for slot in 0..depth {
            let mut payload = content.payload(slot, size);
            match wire {
                Wire::Deflated(key) => {
                    let (chosen, compressed) = of_one_length(content, slot, size, compressed_len);
                    compressed_len = Some(compressed.len());
                    payload = chosen;
                    append_masked(content.opcode() | RSV1, &compressed, key, &mut frames);
                }
                Wire::Masked(key) => append_masked(content.opcode(), &payload, key, &mut frames),
                Wire::AsReplies => {
                    append_header(content.opcode(), size, 0, &mut frames);
                    frames.extend_from_slice(&payload);
                }
            }
            payloads.extend_from_slice(&payload);
        }
        let frame_len = frames.len() / depth;
        if frames.len() <= MAX_REPEATED {
            frames.extend_from_within(..);
        }
        let mut header = Vec::with_capacity(MAX_HEADER);
        append_header(content.opcode(), size, 0, &mut header);
        let mut reply_header = [0; MAX_HEADER];
        reply_header[..header.len()].copy_from_slice(&header);
        let reply_header = (reply_header, header.len());
        let masking_key = match wire {
            Wire::Masked(key) | Wire::Deflated(key) => key,
            Wire::AsReplies => [0; 4],
        };
        let deflated = matches!(wire, Wire::Deflated(_));
        Self {
            content,
            size,
            depth,
            frame_len,
            frames,
            payloads,
            reply_header,
            masking_key,
            deflated,
        }
    }

    /// Messages in the batch.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// Payload bytes of a message.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Bytes of a message on the wire, client to server.
    pub(crate) fn frame_len(&self) -> usize {
        self.frame_len
    }

    /// Bytes of all frames, once.
    pub(crate) fn ring_len(&self) -> usize {
        self.frame_len * self.depth
    }

    /// The bytes that follow `position` (below [`Batch::ring_len`]): at most `wanted`, fewer where
    /// the prepared bytes end.
    pub(crate) fn bytes(&self, position: usize, wanted: usize) -> &[u8] {
        let end = self.frames.len().min(position + wanted);
        &self.frames[position..end]
    }

    /// The payload number `slot`, as the echo must bring it back.
    pub(crate) fn payload(&self, slot: usize) -> &[u8] {
        &self.payloads[slot * self.size..][..self.size]
    }

    /// Header of an echo that comes back in one frame.
    pub(crate) fn reply_header(&self) -> &[u8] {
        let (bytes, len) = &self.reply_header;
        &bytes[..*len]
    }

    /// The masking key of the run.
    pub(crate) fn masking_key(&self) -> [u8; 4] {
        self.masking_key
    }

    /// Whether replies may be compressed.
    pub(crate) fn is_deflated(&self) -> bool {
        self.deflated
    }

    /// Opcode of every message.
    pub(crate) fn opcode(&self) -> u8 {
        self.content.opcode()
    }
}

/// RFC 7692 6: the first reserved bit marks a compressed message.
const RSV1: u8 = 0x40;

/// A payload for a slot whose compressed form has the length wanted, so that every frame of the
/// batch is as long as the others: others of the same kind are tried until one has it.
fn of_one_length(
    content: Content,
    slot: usize,
    size: usize,
    wanted: Option<usize>,
) -> (Vec<u8>, Vec<u8>) {
    /// More slots than this repeat the first ones.
    const DISTINCT: usize = 1024;
    const TRIES: usize = 1000;
    let make = |number: usize| {
        let payload = content.payload(number, size);
        let compressed = deflate::compress(&payload);
        (payload, compressed)
    };
    let slot = slot % DISTINCT;
    let Some(wanted) = wanted else { return make(slot) };
    (0..TRIES)
        .map(|attempt| make(slot + attempt * DISTINCT))
        .find(|(_, compressed)| compressed.len() == wanted)
        // The first of all has the length.
        .unwrap_or_else(|| make(0))
}

/// Appends one whole masked frame.
pub(crate) fn append_masked(opcode: u8, payload: &[u8], masking_key: [u8; 4], out: &mut Vec<u8>) {
    const MASKED: u8 = 0x80;
    append_header(opcode, payload.len(), MASKED, out);
    out.extend_from_slice(&masking_key);
    // RFC 6455 5.3: octet i is combined with octet i modulo 4 of the masking key.
    out.extend(payload.iter().zip(masking_key.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// Appends FIN, `opcode`, the mask bit and the shortest form of the length (RFC 6455 5.2).
fn append_header(opcode: u8, payload_len: usize, mask_bit: u8, out: &mut Vec<u8>) {
    const FIN: u8 = 0x80;
    out.push(FIN | opcode);
    if payload_len < 126 {
        out.push(mask_bit | payload_len as u8);
    } else if let Ok(short) = u16::try_from(payload_len) {
        out.push(mask_bit | 126);
        out.extend_from_slice(&short.to_be_bytes());
    } else {
        out.push(mask_bit | 127);
        out.extend_from_slice(&(payload_len as u64).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

    #[test]
    fn payloads_have_the_size_asked_for_and_text_is_text() {
        for content in [Content::Ascii, Content::Binary, Content::Json, Content::MixedUtf8] {
            for size in (0..300).chain([1000, 1024, 65_536]) {
                for slot in [0, 1, 7, 93, 94, 1000] {
                    let payload = content.payload(slot, size);
                    assert_eq!(payload.len(), size, "{content:?} {slot}");
                    if content != Content::Binary {
                        assert!(std::str::from_utf8(&payload).is_ok(), "{content:?} {size} {slot}");
                    }
                }
                assert!(size == 0 || content.payload(3, size) != content.payload(4, size));
            }
        }
        let text = String::from_utf8(Content::MixedUtf8.payload(0, 1024)).unwrap();
        for width in 1..=4 {
            assert!(text.chars().any(|character| character.len_utf8() == width), "{width}");
        }
    }

    #[test]
    fn frames_unmask_to_the_payloads() {
        for size in [0, 1, 20, 125, 126, 65_535, 65_536] {
            let batch = Batch::new(Content::Binary, size, 3, KEY);
            let header_len = batch.frame_len() - size;
            let expected_header: &[u8] = match size {
                0..126 => &[0x82, 0x80 | size as u8],
                126..65_536 => &[0x82, 0xfe, (size >> 8) as u8, size as u8],
                _ => &[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0],
            };
            for slot in 0..3 {
                let frame = batch.bytes(slot * batch.frame_len(), batch.frame_len());
                assert_eq!(frame[..header_len - 4], *expected_header);
                assert_eq!(frame[header_len - 4..header_len], KEY);
                let unmasked: Vec<u8> =
                    frame[header_len..].iter().enumerate().map(|(i, b)| b ^ KEY[i % 4]).collect();
                assert_eq!(unmasked, batch.payload(slot));
            }
            let mut unmasked_header = expected_header.to_vec();
            unmasked_header[1] &= 0x7f;
            assert_eq!(batch.reply_header(), unmasked_header);
        }
    }

    #[test]
    fn compressed_messages_of_a_long_batch_differ() {
        for (size, slots) in [(64, 1024), (16 * 1024, 4)] {
            let batch = Batch::prepare(Content::Json, size, slots, Wire::Deflated(KEY));
            let payloads: std::collections::HashSet<&[u8]> =
                (0..slots).map(|slot| batch.payload(slot)).collect();
            assert!(payloads.len() > slots * 9 / 10, "{} of {slots}", payloads.len());
        }
    }

    #[test]
    fn compressed_frames_are_of_one_length_and_inflate_to_the_payloads() {
        for (content, size) in
            [(Content::Json, 1024), (Content::MixedUtf8, 300), (Content::Ascii, 0)]
        {
            let batch = Batch::prepare(content, size, 8, Wire::Deflated(KEY));
            assert!(batch.is_deflated());
            assert_eq!(batch.ring_len(), batch.frame_len() * 8);
            for slot in 0..8 {
                let frame = batch.bytes(slot * batch.frame_len(), batch.frame_len());
                assert_eq!(frame[0], 0x80 | RSV1 | content.opcode());
                let header = if frame[1] & 0x7f == 126 { 8 } else { 6 };
                let compressed: Vec<u8> =
                    frame[header..].iter().enumerate().map(|(i, b)| b ^ KEY[i % 4]).collect();
                let mut inflater = deflate::Inflater::new();
                assert!(inflater.add(&compressed, size));
                assert_eq!(inflater.finish(size).as_deref(), Some(batch.payload(slot)));
            }
        }
    }

    #[test]
    fn a_write_may_pass_the_end_of_small_batches() {
        let batch = Batch::new(Content::Ascii, 20, 4, KEY);
        let from_the_third = batch.bytes(2 * batch.frame_len(), 4 * batch.frame_len());
        let (tail, wrapped) = from_the_third.split_at(2 * batch.frame_len());
        assert_eq!(tail, batch.bytes(2 * batch.frame_len(), 2 * batch.frame_len()));
        assert_eq!(wrapped, batch.bytes(0, 2 * batch.frame_len()));

        let large = Batch::new(Content::Ascii, MAX_REPEATED, 2, KEY);
        assert_eq!(large.bytes(large.frame_len(), large.ring_len()).len(), large.frame_len());
    }
}
