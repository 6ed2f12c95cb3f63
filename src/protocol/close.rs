//! Close codes and the body of a Close frame (RFC 6455 5.5.1, 7.4).
//!
//! Comes in: numbers and text of the application, bodies of received Close frames. Goes out:
//! values that are allowed on the wire. This never decides when to close: see `state.rs`.

use std::error::Error;
use std::fmt;
use std::num::NonZeroU16;

use super::error::ProtocolError;

/// RFC 6455 5.5: longest payload of a control frame, in bytes.
pub(super) const MAX_CONTROL_PAYLOAD: usize = 125;

/// A close code that may appear on the wire: 1000 to 1003, 1007 to 1014 and 3000 to 4999
/// (RFC 6455 7.4 and the IANA registry). 1005, 1006 and 1015 only ever describe what happened
/// locally and cannot be held by this type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(NonZeroU16);

impl CloseCode {
    /// 1000: the purpose of the connection has been fulfilled.
    pub const NORMAL: Self = Self::known(1000);
    /// 1001: the server goes down, or the page was left.
    pub const GOING_AWAY: Self = Self::known(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self::known(1002);
    /// 1003: a kind of data that the application does not accept.
    pub const UNSUPPORTED_DATA: Self = Self::known(1003);
    /// 1007: data that is not what its opcode promises, such as text that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self::known(1007);
    /// 1008: the peer broke a rule of the application.
    pub const POLICY_VIOLATION: Self = Self::known(1008);
    /// 1009: a message over the limit.
    pub const MESSAGE_TOO_BIG: Self = Self::known(1009);
    /// 1010: the client wanted an extension that the server did not negotiate.
    pub const EXTENSION_MISSING: Self = Self::known(1010);
    /// 1011: the server met a condition that it did not expect.
    pub const INTERNAL_ERROR: Self = Self::known(1011);
    /// 1012: the service restarts (IANA registry).
    pub const SERVICE_RESTART: Self = Self::known(1012);
    /// 1013: try again later (IANA registry).
    pub const TRY_AGAIN_LATER: Self = Self::known(1013);
    /// 1014: a gateway got a bad answer from upstream (IANA registry).
    pub const BAD_GATEWAY: Self = Self::known(1014);

    /// A close code from a number; for an application's own ones 4000 to 4999 are free.
    ///
    /// ```
    /// use wirelane::CloseCode;
    ///
    /// // Checked when compiled.
    /// const KICKED: CloseCode = match CloseCode::new(4001) {
    ///     Ok(code) => code,
    ///     Err(_) => panic!("not allowed on the wire"),
    /// };
    /// assert_eq!(KICKED.get(), 4001);
    /// assert!(CloseCode::new(1005).is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidCloseCode`] if RFC 6455 7.4 forbids the number on the wire.
    pub const fn new(code: u16) -> Result<Self, InvalidCloseCode> {
        match NonZeroU16::new(code) {
            Some(number) if Self::is_allowed(code) => Ok(Self(number)),
            _ => Err(InvalidCloseCode(code)),
        }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0.get()
    }

    const fn is_allowed(code: u16) -> bool {
        // RFC 6455 7.4.1 and 7.4.2: 1004 is reserved, 1005, 1006 and 1015 are never sent, 1016 to
        // 2999 have no meaning yet, below 1000 and above 4999 none is defined.
        matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }

    /// Only for the constants above: evaluated when the crate is compiled.
    const fn known(code: u16) -> Self {
        match Self::new(code) {
            Ok(code) => code,
            Err(_) => panic!("a constant holds a forbidden close code"),
        }
    }
}

impl fmt::Debug for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CloseCode({})", self.0)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl From<CloseCode> for u16 {
    fn from(code: CloseCode) -> Self {
        code.get()
    }
}

impl TryFrom<u16> for CloseCode {
    type Error = InvalidCloseCode;

    fn try_from(code: u16) -> Result<Self, InvalidCloseCode> {
        Self::new(code)
    }
}

/// The number is no close code that may be sent (RFC 6455 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InvalidCloseCode(pub u16);

impl fmt::Display for InvalidCloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} must not be sent as a close code", self.0)
    }
}

impl Error for InvalidCloseCode {}

/// The body of a Close frame that is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseFrame<'a> {
    /// Why the connection is closed.
    pub code: CloseCode,
    /// The same for people, at most 123 bytes; often empty.
    pub reason: &'a str,
}

impl<'a> CloseFrame<'a> {
    /// Reads the unmasked body of a Close frame; `None` stands for an empty one.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::CloseBodyTooShort`], [`ProtocolError::ForbiddenCloseCode`] or
    /// [`ProtocolError::InvalidUtf8`], checked in this order.
    pub fn decode(body: &'a [u8]) -> Result<Option<Self>, ProtocolError> {
        match body {
            [] => Ok(None),
            // RFC 6455 5.5.1: if there is a body, its first two bytes are the close code.
            [_] => Err(ProtocolError::CloseBodyTooShort),
            [high, low, reason @ ..] => {
                let code = CloseCode::new(u16::from_be_bytes([*high, *low]))
                    .map_err(|InvalidCloseCode(code)| ProtocolError::ForbiddenCloseCode(code))?;
                let reason = std::str::from_utf8(reason).map_err(|_| ProtocolError::InvalidUtf8)?;
                Ok(Some(Self { code, reason }))
            }
        }
    }

    /// Writes the body, the reason cut at a character boundary so that the whole is at most 125
    /// bytes long, and gives the part of `body` that was written.
    pub(super) fn encode(self, body: &mut [u8; MAX_CONTROL_PAYLOAD]) -> &[u8] {
        let reason = cut(self.reason, MAX_CONTROL_PAYLOAD - 2).as_bytes();
        body[..2].copy_from_slice(&self.code.get().to_be_bytes());
        body[2..2 + reason.len()].copy_from_slice(reason);
        &body[..2 + reason.len()]
    }
}

/// The longest beginning of `text` that has at most `max_len` bytes and ends with a whole
/// character.
fn cut(text: &str, max_len: usize) -> &str {
    let mut end = text.len().min(max_len);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allowed_codes_are_exactly_those_of_section_7_4_and_the_registry() {
        for code in 0..=u16::MAX {
            let allowed = (1000..=1003).contains(&code)
                || (1007..=1014).contains(&code)
                || (3000..=4999).contains(&code);
            assert_eq!(CloseCode::new(code).is_ok(), allowed, "{code}");
            match CloseCode::new(code) {
                Ok(known) => assert_eq!(known.get(), code),
                Err(refused) => assert_eq!(refused, InvalidCloseCode(code)),
            }
        }
    }

    #[test]
    fn an_optional_code_costs_no_extra_byte() {
        assert_eq!(size_of::<Option<CloseCode>>(), 2);
    }

    #[test]
    fn bodies_are_read_in_full() {
        assert_eq!(CloseFrame::decode(b""), Ok(None));
        assert_eq!(CloseFrame::decode(b"\x03"), Err(ProtocolError::CloseBodyTooShort));
        let normal = CloseFrame { code: CloseCode::NORMAL, reason: "" };
        assert_eq!(CloseFrame::decode(b"\x03\xe8"), Ok(Some(normal)));
        let bye = CloseFrame { code: CloseCode::GOING_AWAY, reason: "bye é" };
        assert_eq!(CloseFrame::decode(b"\x03\xe9bye \xc3\xa9"), Ok(Some(bye)));
        // The forbidden code is found before the reason is looked at.
        let forbidden = Err(ProtocolError::ForbiddenCloseCode(1005));
        assert_eq!(CloseFrame::decode(b"\x03\xed\xff"), forbidden);
        assert_eq!(CloseFrame::decode(b"\x03\xe8\xff"), Err(ProtocolError::InvalidUtf8));
        assert_eq!(CloseFrame::decode(b"\x03\xe8\xc3"), Err(ProtocolError::InvalidUtf8));
    }

    #[test]
    fn reasons_are_cut_at_a_character() {
        let mut body = [0; MAX_CONTROL_PAYLOAD];
        let long = "é".repeat(100);
        let frame = CloseFrame { code: CloseCode::NORMAL, reason: &long };
        let written = frame.encode(&mut body);
        // 123 bytes would end inside the 62nd character.
        assert_eq!(written.len(), 2 + 122);
        let kept = CloseFrame::decode(written).map(|frame| frame.map(|frame| frame.reason.len()));
        assert_eq!(kept, Ok(Some(122)));

        let exact = "x".repeat(123);
        let frame = CloseFrame { code: CloseCode::NORMAL, reason: &exact };
        assert_eq!(frame.encode(&mut body).len(), 125);
    }
}
