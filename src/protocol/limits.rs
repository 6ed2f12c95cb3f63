//! How much a peer may ask for.
//!
//! Comes in: figures chosen by the application. Goes out: the same figures, clipped to what the
//! rest of the protocol can count with. This never looks at a byte from the network.

/// Limits on what one peer may send (RFC 6455 10.4). Passed by value, 24 bytes.
///
/// A setter clips its figure to [`Limits::MAXIMUM`] and accepts zero; [`Limits::check`] finds the
/// zeros, so that a configuration can be refused before the first connection.
///
/// ```
/// use wirelane::protocol::Limits;
///
/// let limits = Limits::new().max_message(64 * 1024).max_fragments(16);
/// assert_eq!(limits.message(), 64 * 1024);
/// assert_eq!(limits.frame(), 64 * 1024);
/// assert_eq!(limits.check(), Ok(()));
/// assert_eq!(Limits::new().max_headers(0).check(), Err("max_headers"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "every setter returns the changed limits and leaves the old ones as they were"]
pub struct Limits {
    max_frame: u32,
    max_message: u32,
    max_fragments: u32,
    max_head: u32,
    max_target: u32,
    max_headers: u32,
}

impl Limits {
    /// The hard maximum of every limit: 2 GiB - 1, so that the sum of two never wraps in `u32`.
    pub const MAXIMUM: u32 = (1 << 31) - 1;

    /// The defaults: those that each setter names.
    pub const fn new() -> Self {
        Self {
            max_frame: Self::MAXIMUM,
            max_message: 1024 * 1024,
            max_fragments: 65_536,
            max_head: 16 * 1024,
            max_target: 8 * 1024,
            max_headers: 100,
        }
    }

    /// Largest payload of one data frame, in bytes. Default: as large as a message, because a
    /// frame costs no more memory than the message that it belongs to. Over it: close code 1009.
    pub const fn max_frame(mut self, bytes: u32) -> Self {
        self.max_frame = clip(bytes);
        self
    }

    /// Largest message, in bytes, over all its fragments. Default: 1 MiB, enough for any chat or
    /// feed; other servers choose between 16 KiB and 64 MiB. Over it: close code 1009.
    pub const fn max_message(mut self, bytes: u32) -> Self {
        self.max_message = clip(bytes);
        self
    }

    /// Most frames that one message may be cut into. Default: 65,536, which the conformance suite
    /// needs. A fragment costs no memory beyond its payload, only work. Over it: close code 1008.
    pub const fn max_fragments(mut self, frames: u32) -> Self {
        self.max_fragments = clip(frames);
        self
    }

    /// Largest head of an opening handshake, request line and headers, in bytes. Default: 16 KiB.
    /// Over it: 431.
    pub const fn max_head(mut self, bytes: u32) -> Self {
        self.max_head = clip(bytes);
        self
    }

    /// Largest request target of an opening handshake, in bytes. Default: 8 KiB. Over it: 414.
    pub const fn max_target(mut self, bytes: u32) -> Self {
        self.max_target = clip(bytes);
        self
    }

    /// Most header lines of an opening handshake. Default: 100; above
    /// [`MAX_HEADERS`](super::upgrade::MAX_HEADERS) nothing changes any more. Over it: 431.
    pub const fn max_headers(mut self, lines: u32) -> Self {
        self.max_headers = clip(lines);
        self
    }

    /// Largest payload of one data frame, in bytes: never above [`Limits::message`], since such a
    /// frame could not become a message.
    pub const fn frame(&self) -> u32 {
        if self.max_frame < self.max_message { self.max_frame } else { self.max_message }
    }

    /// Largest message, in bytes.
    pub const fn message(&self) -> u32 {
        self.max_message
    }

    /// Most frames of one message.
    pub const fn fragments(&self) -> u32 {
        self.max_fragments
    }

    /// Largest head of an opening handshake, in bytes.
    pub const fn head(&self) -> u32 {
        self.max_head
    }

    /// Largest request target, in bytes.
    pub const fn target(&self) -> u32 {
        self.max_target
    }

    /// Most header lines.
    pub const fn headers(&self) -> u32 {
        self.max_headers
    }

    /// Refuses figures that make no sense.
    ///
    /// # Errors
    ///
    /// The name of the first field that is zero.
    pub const fn check(&self) -> Result<(), &'static str> {
        if self.max_frame == 0 {
            return Err("max_frame");
        }
        if self.max_message == 0 {
            return Err("max_message");
        }
        if self.max_fragments == 0 {
            return Err("max_fragments");
        }
        if self.max_head == 0 {
            return Err("max_head");
        }
        if self.max_target == 0 {
            return Err("max_target");
        }
        if self.max_headers == 0 {
            return Err("max_headers");
        }
        Ok(())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new()
    }
}

const fn clip(figure: u32) -> u32 {
    if figure > Limits::MAXIMUM { Limits::MAXIMUM } else { figure }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_documented_ones() {
        let limits = Limits::default();
        assert_eq!(limits.message(), 1024 * 1024);
        assert_eq!(limits.frame(), 1024 * 1024);
        assert_eq!(limits.fragments(), 65_536);
        assert_eq!(limits.head(), 16 * 1024);
        assert_eq!(limits.target(), 8 * 1024);
        assert_eq!(limits.headers(), 100);
        assert_eq!(limits.check(), Ok(()));
    }

    #[test]
    fn setters_saturate_at_the_hard_maximum() {
        let limits = Limits::new()
            .max_frame(u32::MAX)
            .max_message(u32::MAX)
            .max_fragments(u32::MAX)
            .max_head(u32::MAX)
            .max_target(u32::MAX)
            .max_headers(u32::MAX);
        for figure in [
            limits.frame(),
            limits.message(),
            limits.fragments(),
            limits.head(),
            limits.target(),
            limits.headers(),
        ] {
            assert_eq!(figure, Limits::MAXIMUM);
        }
    }

    #[test]
    fn the_frame_limit_follows_the_message_limit_unless_it_is_smaller() {
        assert_eq!(Limits::new().max_message(10).frame(), 10);
        assert_eq!(Limits::new().max_message(10).max_frame(3).frame(), 3);
        assert_eq!(Limits::new().max_frame(30).max_message(10).frame(), 10);
    }

    #[test]
    fn check_names_the_field_that_is_zero() {
        let new = Limits::new;
        assert_eq!(new().max_frame(0).check(), Err("max_frame"));
        assert_eq!(new().max_message(0).check(), Err("max_message"));
        assert_eq!(new().max_fragments(0).check(), Err("max_fragments"));
        assert_eq!(new().max_head(0).check(), Err("max_head"));
        assert_eq!(new().max_target(0).check(), Err("max_target"));
        assert_eq!(new().max_headers(0).check(), Err("max_headers"));
    }
}
