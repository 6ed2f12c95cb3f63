//! The close handshake (RFC 6455 7.1): every legal move, in one place.
//!
//! Comes in: what was sent and what was received. Goes out: what may still be sent and what is
//! still looked at. This never writes a frame and never reads one.
//!
//! ```text
//!                        close sent                 peer's Close
//!            +--------------------------> CloseSent --------------+
//!            |                                                    v
//!   Open ----+                                                  Closed
//!            |                                                    ^
//!            +----------------------> CloseReceived --------------+
//!                  peer's Close                      close sent
//!
//!   Open, CloseSent --- the peer broke a rule ---> Failed(error)
//! ```
//!
//! Each direction moves on its own: the direction to the peer from `Open` to `CloseSent`, the
//! direction from the peer from `Open` to `CloseReceived` or `Failed`. [`State`] is the view on
//! both that callers get; a failed endpoint may have sent its Close or still owe it.

use super::close::CloseCode;
use super::error::ProtocolError;

/// Where the connection stands in its close handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Messages flow in both directions.
    Open,
    /// Our Close went out; the peer's is awaited. Messages are passed over.
    CloseSent,
    /// The peer's Close came in and is owed an answer. Nothing behind it is looked at.
    CloseReceived,
    /// Both Close frames have passed (RFC 6455 7.1.4): a clean end.
    Closed,
    /// The peer broke a rule. Nothing that it sends is looked at any more.
    Failed(ProtocolError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    Open,
    CloseSent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiving {
    Open,
    CloseReceived(Option<CloseCode>),
    Failed(ProtocolError),
}

/// Both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lifecycle {
    sending: Sending,
    receiving: Receiving,
}

impl Lifecycle {
    pub(super) const fn new() -> Self {
        Self { sending: Sending::Open, receiving: Receiving::Open }
    }

    pub(super) const fn state(self) -> State {
        match (self.sending, self.receiving) {
            (Sending::Open, Receiving::Open) => State::Open,
            (Sending::CloseSent, Receiving::Open) => State::CloseSent,
            (Sending::Open, Receiving::CloseReceived(_)) => State::CloseReceived,
            (Sending::CloseSent, Receiving::CloseReceived(_)) => State::Closed,
            (_, Receiving::Failed(error)) => State::Failed(error),
        }
    }

    /// True while messages and pings may be sent.
    pub(super) const fn is_open(self) -> bool {
        matches!((self.sending, self.receiving), (Sending::Open, Receiving::Open))
    }

    /// True while pongs may be sent. RFC 6455 5.5.2: a ping that came before the peer's Close is
    /// still owed its pong after it.
    pub(super) const fn may_pong(self) -> bool {
        matches!(self.sending, Sending::Open) && !matches!(self.receiving, Receiving::Failed(_))
    }

    /// True while received messages, pings and pongs are handed out. RFC 6455 5.5.1: who sent a
    /// Close need not process what comes after it.
    pub(super) const fn delivers(self) -> bool {
        matches!(self.sending, Sending::Open)
    }

    /// True while received bytes are looked at. RFC 6455 5.5.1 and 7.1.7: after the peer's Close
    /// and after a failure nothing is.
    pub(super) const fn reads(self) -> bool {
        matches!(self.receiving, Receiving::Open)
    }

    /// The code that the answer to the peer's Close carries: `Some(None)` for an empty one, `None`
    /// if no answer is owed.
    pub(super) const fn owed_reply(self) -> Option<Option<CloseCode>> {
        match (self.sending, self.receiving) {
            (Sending::Open, Receiving::CloseReceived(code)) => Some(code),
            _ => None,
        }
    }

    /// Our Close goes out. False if one went out before: RFC 6455 5.5.1: no second one follows.
    #[must_use]
    pub(super) const fn send_close(&mut self) -> bool {
        let first = matches!(self.sending, Sending::Open);
        self.sending = Sending::CloseSent;
        first
    }

    /// The peer's Close came in.
    pub(super) const fn receive_close(&mut self, code: Option<CloseCode>) {
        if self.reads() {
            self.receiving = Receiving::CloseReceived(code);
        }
    }

    /// The peer broke a rule. What came before counts: a failure does not undo a Close.
    pub(super) const fn fail(&mut self, error: ProtocolError) {
        if self.reads() {
            self.receiving = Receiving::Failed(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: Option<CloseCode> = Some(CloseCode::GOING_AWAY);

    #[test]
    fn we_close_first() {
        let mut lifecycle = Lifecycle::new();
        assert_eq!(lifecycle.state(), State::Open);
        assert!(lifecycle.is_open() && lifecycle.delivers() && lifecycle.reads());
        assert!(lifecycle.send_close());
        assert_eq!(lifecycle.state(), State::CloseSent);
        assert!(!lifecycle.is_open() && !lifecycle.delivers() && !lifecycle.may_pong());
        assert!(lifecycle.reads());
        lifecycle.receive_close(CODE);
        assert_eq!(lifecycle.state(), State::Closed);
        assert!(!lifecycle.reads());
        assert_eq!(lifecycle.owed_reply(), None);
        assert!(!lifecycle.send_close());
    }

    #[test]
    fn the_peer_closes_first() {
        let mut lifecycle = Lifecycle::new();
        lifecycle.receive_close(CODE);
        assert_eq!(lifecycle.state(), State::CloseReceived);
        assert_eq!(lifecycle.owed_reply(), Some(CODE));
        assert!(!lifecycle.is_open() && lifecycle.may_pong());
        assert!(lifecycle.send_close());
        assert_eq!(lifecycle.state(), State::Closed);
        assert!(!lifecycle.may_pong());
    }

    #[test]
    fn a_failure_is_final_and_leaves_room_for_one_close() {
        let mut lifecycle = Lifecycle::new();
        lifecycle.fail(ProtocolError::ReservedBits);
        lifecycle.fail(ProtocolError::InvalidUtf8);
        lifecycle.receive_close(CODE);
        assert_eq!(lifecycle.state(), State::Failed(ProtocolError::ReservedBits));
        assert!(!lifecycle.is_open() && !lifecycle.may_pong() && !lifecycle.reads());
        assert!(lifecycle.send_close());
        assert!(!lifecycle.send_close());
        assert_eq!(lifecycle.state(), State::Failed(ProtocolError::ReservedBits));
    }

    #[test]
    fn a_failure_after_the_peers_close_changes_nothing() {
        let mut lifecycle = Lifecycle::new();
        lifecycle.receive_close(None);
        lifecycle.fail(ProtocolError::ReservedBits);
        assert_eq!(lifecycle.state(), State::CloseReceived);
        assert_eq!(lifecycle.owed_reply(), Some(None));
    }
}
