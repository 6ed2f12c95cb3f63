//! How much a peer may make us keep: the limits of one connection.

/// Limits of one connection. Copy; setters work by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    max_head: u32,
    max_target: u32,
    max_headers: u32,
}

impl Limits {
    /// The default limits.
    pub const fn new() -> Self {
        Limits { max_head: 16 * 1024, max_target: 8 * 1024, max_headers: 100 }
    }

    /// Sets the greatest length of a request or response head, in bytes. Default: 16 KiB.
    pub const fn max_head(self, bytes: u32) -> Self {
        Limits { max_head: bytes, ..self }
    }

    /// Sets the greatest length of a request target, in bytes. Default: 8 KiB.
    pub const fn max_target(self, bytes: u32) -> Self {
        Limits { max_target: bytes, ..self }
    }

    /// Sets the greatest number of header lines of a head. Default: 100.
    pub const fn max_headers(self, lines: u32) -> Self {
        Limits { max_headers: lines, ..self }
    }

    /// The greatest length of a head, in bytes.
    pub const fn head(&self) -> u32 {
        self.max_head
    }

    /// The greatest length of a request target, in bytes.
    pub const fn target(&self) -> u32 {
        self.max_target
    }

    /// The greatest number of header lines of a head.
    pub const fn headers(&self) -> u32 {
        self.max_headers
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits::new()
    }
}
