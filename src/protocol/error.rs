//! What a peer can do wrong, and what a caller can.
//!
//! Comes in: nothing; these are plain values. Goes out: for each rule of RFC 6455 that a peer
//! broke, the close code and a short reason for the Close frame. A normal close is not an error,
//! and nothing here allocates.

use std::error::Error;
use std::fmt;

use super::close::CloseCode;

/// The peer broke a rule: one variant per rule. The connection is over (RFC 6455 7.1.7).
///
/// `Display` gives the short ASCII reason that [`Endpoint::fail`](super::Endpoint::fail) sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProtocolError {
    /// RFC 6455 5.2: RSV1, RSV2 or RSV3 is set and no extension gave it a meaning. RSV1 has one
    /// only if permessage-deflate was agreed on, and on the first frame of a message (RFC 7692 6).
    ReservedBits,
    /// RFC 6455 5.2: one of the opcodes 0x3 to 0x7 and 0xB to 0xF, which mean nothing yet.
    ReservedOpcode(u8),
    /// RFC 6455 5.5: a Close, Ping or Pong without FIN.
    FragmentedControlFrame,
    /// RFC 6455 5.5: a control frame that announces more than 125 bytes.
    ControlFrameTooLong,
    /// RFC 6455 5.1: a client sent a frame without a masking key.
    UnmaskedFrame,
    /// RFC 6455 5.1: a server sent a frame with a masking key.
    MaskedFrame,
    /// RFC 6455 5.2: the length would have fitted a shorter form.
    LengthNotMinimal,
    /// RFC 6455 5.2: the most significant bit of a 64-bit length is set.
    LengthTopBitSet,
    /// RFC 6455 5.4: a continuation frame, and no message to continue.
    UnexpectedContinuation,
    /// RFC 6455 5.4: a new Text or Binary frame inside a fragmented message.
    ExpectedContinuation,
    /// RFC 6455 10.4: a frame longer than [`Limits::frame`](super::Limits::frame).
    FrameTooLong,
    /// RFC 6455 10.4: fragments that sum up to more than
    /// [`Limits::message`](super::Limits::message).
    MessageTooLong,
    /// RFC 6455 10.4: more fragments than [`Limits::fragments`](super::Limits::fragments).
    TooManyFragments,
    /// RFC 6455 5.5.1: a Close body of one byte, which cannot hold a close code.
    CloseBodyTooShort,
    /// RFC 6455 7.4: a close code that must not appear on the wire.
    ForbiddenCloseCode(u16),
    /// RFC 6455 8.1: a text message or a close reason that is not UTF-8.
    InvalidUtf8,
    /// RFC 7692 7.2.2: a compressed message that is no deflate stream (RFC 1951).
    CorruptDeflate,
    /// RFC 7692 7.2: a compressed message that goes on behind the block that it calls its last.
    BlockAfterLast,
}

impl ProtocolError {
    /// The close code that tells the peer (RFC 6455 7.4.1).
    pub const fn close_code(self) -> CloseCode {
        match self {
            Self::ReservedBits
            | Self::ReservedOpcode(_)
            | Self::FragmentedControlFrame
            | Self::ControlFrameTooLong
            | Self::UnmaskedFrame
            | Self::MaskedFrame
            | Self::LengthNotMinimal
            | Self::LengthTopBitSet
            | Self::UnexpectedContinuation
            | Self::ExpectedContinuation
            | Self::CloseBodyTooShort
            | Self::ForbiddenCloseCode(_)
            | Self::BlockAfterLast => CloseCode::PROTOCOL_ERROR,
            Self::InvalidUtf8 | Self::CorruptDeflate => CloseCode::INVALID_PAYLOAD,
            Self::TooManyFragments => CloseCode::POLICY_VIOLATION,
            Self::FrameTooLong | Self::MessageTooLong => CloseCode::MESSAGE_TOO_BIG,
        }
    }

    /// The short ASCII reason that goes into the Close frame.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::ReservedBits => "reserved bit set",
            Self::ReservedOpcode(_) => "reserved opcode",
            Self::FragmentedControlFrame => "fragmented control frame",
            Self::ControlFrameTooLong => "control frame over 125 bytes",
            Self::UnmaskedFrame => "frame not masked",
            Self::MaskedFrame => "frame masked by the server",
            Self::LengthNotMinimal => "length not in its shortest form",
            Self::LengthTopBitSet => "length over 63 bits",
            Self::UnexpectedContinuation => "continuation without a message",
            Self::ExpectedContinuation => "new message inside a fragmented one",
            Self::FrameTooLong => "frame over the limit",
            Self::MessageTooLong => "message over the limit",
            Self::TooManyFragments => "too many fragments",
            Self::CloseBodyTooShort => "close body of one byte",
            Self::ForbiddenCloseCode(_) => "forbidden close code",
            Self::InvalidUtf8 => "text is not UTF-8",
            Self::CorruptDeflate => "compressed data is corrupt",
            Self::BlockAfterLast => "data behind the last deflate block",
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl Error for ProtocolError {}

/// Nothing was written: the endpoint is not open for this frame. Either a Close frame was sent or
/// received (RFC 6455 5.5.1), or the peer broke the protocol, or the frame would have broken the
/// order of a fragmented message that is being sent (RFC 6455 5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NotOpen;

impl fmt::Display for NotOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the endpoint is not open for this frame")
    }
}

impl Error for NotOpen {}

/// Why a Ping or Pong was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ControlError {
    /// See [`NotOpen`].
    NotOpen,
    /// RFC 6455 5.5: the payload is longer than 125 bytes.
    TooLong,
}

impl From<NotOpen> for ControlError {
    fn from(NotOpen: NotOpen) -> Self {
        Self::NotOpen
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOpen => NotOpen.fmt(f),
            Self::TooLong => f.write_str("the payload of a control frame is over 125 bytes"),
        }
    }
}

impl Error for ControlError {}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(ProtocolError, u16); 18] = [
        (ProtocolError::ReservedBits, 1002),
        (ProtocolError::ReservedOpcode(3), 1002),
        (ProtocolError::FragmentedControlFrame, 1002),
        (ProtocolError::ControlFrameTooLong, 1002),
        (ProtocolError::UnmaskedFrame, 1002),
        (ProtocolError::MaskedFrame, 1002),
        (ProtocolError::LengthNotMinimal, 1002),
        (ProtocolError::LengthTopBitSet, 1002),
        (ProtocolError::UnexpectedContinuation, 1002),
        (ProtocolError::ExpectedContinuation, 1002),
        (ProtocolError::FrameTooLong, 1009),
        (ProtocolError::MessageTooLong, 1009),
        (ProtocolError::TooManyFragments, 1008),
        (ProtocolError::CloseBodyTooShort, 1002),
        (ProtocolError::ForbiddenCloseCode(1005), 1002),
        (ProtocolError::InvalidUtf8, 1007),
        (ProtocolError::CorruptDeflate, 1007),
        (ProtocolError::BlockAfterLast, 1002),
    ];

    #[test]
    fn every_rule_has_its_close_code_and_a_reason_that_fits_a_close_frame() {
        for (error, code) in ALL {
            assert_eq!(error.close_code().get(), code, "{error:?}");
            assert!(error.reason().is_ascii() && error.reason().len() <= 40, "{error:?}");
            assert_eq!(error.to_string(), error.reason());
        }
    }

    #[test]
    fn an_error_fits_a_register() {
        assert!(size_of::<ProtocolError>() <= 4);
        assert!(size_of::<Result<(), ProtocolError>>() <= 8);
    }
}
