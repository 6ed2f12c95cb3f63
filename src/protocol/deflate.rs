//! permessage-deflate (RFC 7692): what one side wants, and what both have agreed on.
//!
//! Comes in: settings of an application. Goes out: the same, checked, and the four parameters of
//! the extension as negotiated. This never compresses a byte: the codecs are in
//! [`message`](super::message), the negotiation is in [`upgrade`](super::upgrade).
//!
//! # What it costs
//!
//! The codecs by themselves, measured with JSON of many short fields on one core of an x86-64
//! machine, in microseconds per message and bytes on the wire, fresh context each time (`cargo bench
//! --bench deflate` measures them behind an endpoint):
//!
//! | message | zlib-rs, level 1 | level 2 | level 6 | inflate |
//! | --- | --- | --- | --- | --- |
//! | 64 B | 2.1, 70 B | 7.6, 70 B | 4.9, 70 B | 0.2 |
//! | 1 KiB | 3.9, 491 B | 12.7, 396 B | 11.3, 380 B | 2.3 |
//! | 16 KiB | 48, 6.6 kB | 65, 4.8 kB | 167, 4.3 kB | 19 |
//!
//! zlib-rs was chosen over miniz_oxide (22 µs for 1 KiB at level 1, and no windows below 32 KiB)
//! and over libdeflate (6.2 µs and 386 B for 1 KiB at level 1, but whole messages only, which
//! rules out context takeover and inflating step by step, blocks that end the stream, which not
//! every peer goes on after, and a C compiler to build it).

/// Settings of permessage-deflate (RFC 7692) for one side of a connection: of a server or a route
/// ([`ServerBuilder::deflate`](crate::ServerBuilder::deflate),
/// [`RouteOptions::deflate`](crate::RouteOptions::deflate)), of a client, or of an
/// [`Endpoint`](super::Endpoint).
///
/// # Modes and their memory
///
/// The compressor and the decompressor of a connection are each *shared* or *dedicated*.
///
/// | | shared (no context takeover) | dedicated, window of 9 or 10 bits | dedicated, window of `w` = 11 to 15 bits |
/// | --- | --- | --- | --- |
/// | compressor | 0 bytes per connection | as much as was said, up to 2^`w` - 262 bytes | 139 KiB + 4 x 2^`w` bytes from the first message on |
/// | decompressor | 0 bytes | as much as was said, up to 2^`w` bytes | 47 KiB from the first message on |
/// | the same while a compressed message is half received, and what there is of the message | 47 KiB | 47 KiB | 47 KiB |
/// | how well it compresses | each message by itself | better if messages resemble each other closely | much better if messages resemble each other |
///
/// A shared codec belongs to the worker, which keeps at most 8 compressors, one for each window and
/// level in use, of up to 288 KiB, and 8 decompressors; each message begins with an empty window. A
/// dedicated one keeps the last 2^`w` bytes, so that a message may refer to earlier ones.
///
/// With 9 or 10 bits a connection keeps that text and nothing else, less than 2 KiB in all, and a
/// codec of the worker loads it for each message. That takes time if connections take turns:
/// measured with one message of 64 bytes at a time on each of 32 connections, the server took 1.1
/// times (9 bits) and 1.3 times (10 bits) as long for a message as with a compressor for each of
/// them; with messages of 1 KiB nothing to speak of.
///
/// Longer windows have codecs of their own. Both dedicated with 15 bits, that is 313 KiB while a
/// connection is in use: 64 KiB each for the text of the compressor's window and the chains of its
/// matches, 128 KiB for its hash table, 32 KiB for the text of the decompressor's window, and the
/// states and symbols of both. The tables have these sizes in `zlib-rs` whatever the level is, so a
/// smaller window is what saves memory: 14 bits cost 249 KiB, 12 bits 201 KiB. The window of the
/// decompressor is what the peer has agreed on. One that does not offer `client_max_window_bits`
/// has 15 bits, whatever is asked for here, and costs 47 KiB (RFC 7692 7.1.2.2). So may clients be
/// that one cannot choose, browsers among them: [`shared_decompressor`](Self::shared_decompressor)
/// costs nothing with any of them, because a server may demand it unasked (RFC 7692 7.1.1.2).
///
/// A connection that is open and does nothing costs less: a dedicated compressor is freed once
/// nothing was compressed between two keep-alive pings
/// ([`ping_interval`](crate::ServerBuilder::ping_interval)), and made anew for the next message. It
/// stays without pings, and with a peer that sends so often that none is due. Made anew means
/// allocated, 128 KiB to be zeroed among it: for connections that live for a few messages, shared
/// codecs are the better choice. The decompressor stays in any case, because the peer may refer to what
/// it sent before.
///
/// # Choosing a window
///
/// A compressor finds what lies at most 2^`w` - 262 bytes back: 250, 762, 1,786, 3,834 and so on to
/// 32,506 bytes for 9, 10, 11, 12 and so on to 15 bits. Take the smallest window that reaches from a
/// message to the beginning of the similar one before it: 10 bits for messages of up to some 700
/// bytes, 12 bits for up to 3,800. What is published, and connections that send a few messages
/// only, gain nothing from a dedicated compressor.
///
/// # What is published
///
/// A message that is published, or was prepared, is compressed by itself, without context, once for
/// all subscribers of a worker with the same window and level, and needs no compressor of a
/// connection. So a dedicated one makes only what is sent to single connections smaller; after a
/// published message it begins with an empty window, unless that has 9 or 10 bits. See also
/// [`SlowSubscriber::Latest`].
///
/// [`SlowSubscriber::Latest`]: crate::SlowSubscriber::Latest
///
/// # Secrets
///
/// The length of a compressed message tells something about its content. Where an attacker can
/// have text of its choice compressed together with a secret and see the length, it can guess the
/// secret piece by piece (the attacks CRIME and BREACH; RFC 7692 8). So compression is off by
/// default; do not compress messages that hold both, and beware of the dedicated compressor, in
/// whose window the secret may come from an earlier message. For single messages there is
/// [`SendOptions::compress`](crate::SendOptions::compress).
///
/// ```
/// use wirelane::Deflate;
///
/// // What most servers want.
/// let shared = Deflate::shared();
/// // Similar messages to few clients, sent to each by itself.
/// let feed = Deflate::dedicated(12).level(6).threshold(32);
/// assert_eq!(feed.check(), Ok(()));
/// assert!(Deflate::shared().level(10).check().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "every setter returns the changed settings and leaves the old ones as they were"]
pub struct Deflate {
    enabled: bool,
    /// Window of a dedicated compressor, in bits; 0 for a shared one.
    compressor: u8,
    /// The same of the decompressor.
    decompressor: u8,
    level: u8,
    threshold: u32,
}

/// Windows that a dedicated compressor may have, in bits. RFC 7692 allows 8, too, which deflate
/// libraries do not do right: they use 9 instead.
pub(super) const WINDOW_BITS: std::ops::RangeInclusive<u8> = 9..=15;

/// The window of whoever does not say otherwise, in bits (RFC 7692 7.1.2).
pub(super) const MAX_WINDOW_BITS: u8 = 15;

impl Deflate {
    /// No compression: the extension is neither offered nor accepted. The default everywhere.
    pub const fn off() -> Self {
        Self { enabled: false, ..Self::new(0, 0) }
    }

    /// A shared compressor and a shared decompressor: no context takeover in either direction,
    /// and no memory per connection.
    #[cfg(feature = "deflate")]
    pub const fn shared() -> Self {
        Self::new(0, 0)
    }

    /// A compressor and a decompressor for each connection, both with a window of 2^`window_bits`
    /// bytes, 9 to 15 bits. A client that asks for a smaller window of the server, 9 bits or more, or
    /// for no context takeover, gets it; an offer that asks for 8 bits is declined. That a client
    /// could do without context takeover itself is a hint (RFC 7692 7.1.1.2), which changes nothing.
    #[cfg(feature = "deflate")]
    pub const fn dedicated(window_bits: u8) -> Self {
        // Zero would mean shared ones.
        let window_bits = if window_bits == 0 { 1 } else { window_bits };
        Self::new(window_bits, window_bits)
    }

    const fn new(compressor: u8, decompressor: u8) -> Self {
        Self { enabled: true, compressor, decompressor, level: 1, threshold: 64 }
    }

    /// The decompressor is shared, whatever the compressor is: what the peer sends is compressed
    /// without context, and costs no memory per connection.
    pub const fn shared_decompressor(mut self) -> Self {
        self.decompressor = 0;
        self
    }

    /// The decompressor is dedicated, whatever the compressor is. 9 to 15 bits.
    pub const fn dedicated_decompressor(mut self, window_bits: u8) -> Self {
        // Zero would mean a shared one.
        self.decompressor = if window_bits == 0 { 1 } else { window_bits };
        self
    }

    /// How hard the compressor tries, 1 (fastest) to 9 (smallest). Default 1: from there to 2 the
    /// time triples, and a message of 1 KiB shrinks to 39 % instead of 48 %. Level 6 is smaller still
    /// and, up to 1 KiB, takes less time than level 2.
    pub const fn level(mut self, level: u8) -> Self {
        self.level = level;
        self
    }

    /// Messages below so many bytes are sent as they are. Default 64, which is for dedicated
    /// compressors; without context, messages of 64 bytes do not shrink, and 128 to 256 save the
    /// time for trying. An empty message is never compressed.
    pub const fn threshold(mut self, bytes: u32) -> Self {
        self.threshold = bytes;
        self
    }

    /// Says which setting is impossible, if one is.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and what would be right.
    pub const fn check(&self) -> Result<(), &'static str> {
        if !(matches!(self.compressor, 0) || is_window(self.compressor)) {
            return Err("the window of a dedicated compressor must have 9 to 15 bits; for none, \
                        use `Deflate::shared`");
        }
        if !(matches!(self.decompressor, 0) || is_window(self.decompressor)) {
            return Err(
                "the window of a dedicated decompressor must have 9 to 15 bits; for none, \
                 use `shared_decompressor`",
            );
        }
        if self.level < 1 || self.level > 9 {
            return Err("the level must be 1 (fastest) to 9 (smallest); for no compression, use \
                        `Deflate::off`");
        }
        Ok(())
    }

    /// False for [`Deflate::off`].
    pub const fn is_on(&self) -> bool {
        self.enabled
    }

    /// Window of the dedicated compressor.
    pub(super) const fn compressor_window(&self) -> Option<u8> {
        if self.compressor == 0 { None } else { Some(self.compressor) }
    }

    /// Window of the dedicated decompressor.
    pub(super) const fn decompressor_window(&self) -> Option<u8> {
        if self.decompressor == 0 { None } else { Some(self.decompressor) }
    }

    pub(super) const fn compression_level(&self) -> u8 {
        self.level
    }

    /// The shortest payload that is compressed.
    pub(super) const fn compress_from(&self) -> u32 {
        if self.threshold == 0 { 1 } else { self.threshold }
    }
}

impl Default for Deflate {
    fn default() -> Self {
        Self::off()
    }
}

const fn is_window(bits: u8) -> bool {
    *WINDOW_BITS.start() <= bits && bits <= *WINDOW_BITS.end()
}

/// The parameters of permessage-deflate that both sides agreed on (RFC 7692 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeflateParameters {
    /// The server compresses each message by itself (RFC 7692 7.1.1.1).
    pub server_no_context_takeover: bool,
    /// The client compresses each message by itself (RFC 7692 7.1.1.2).
    pub client_no_context_takeover: bool,
    /// Largest window that the server uses to compress, 9 to 15 bits (RFC 7692 7.1.2.1).
    pub server_max_window_bits: u8,
    /// The same of the client, 8 to 15 bits (RFC 7692 7.1.2.2).
    pub client_max_window_bits: u8,
}

#[cfg(all(test, feature = "deflate"))]
mod tests {
    use super::*;

    #[test]
    fn impossible_settings_are_found() {
        assert_eq!(Deflate::off().check(), Ok(()));
        assert_eq!(Deflate::shared().threshold(0).level(9).check(), Ok(()));
        for bits in 0..=u8::MAX {
            let possible = (9..=15).contains(&bits);
            assert_eq!(Deflate::dedicated(bits).check().is_ok(), possible, "{bits}");
            let mixed = Deflate::shared().dedicated_decompressor(bits);
            assert_eq!(mixed.check().is_ok(), possible, "{bits}");
        }
        for level in [0, 10, 255] {
            assert!(Deflate::shared().level(level).check().is_err());
        }
    }

    #[test]
    fn an_empty_message_is_never_compressed() {
        assert_eq!(Deflate::shared().threshold(0).compress_from(), 1);
        assert_eq!(Deflate::shared().compress_from(), 64);
    }
}
