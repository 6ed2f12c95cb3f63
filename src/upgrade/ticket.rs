//! Upgrades that are decided later.
//!
//! Comes in: a decision, on any thread. Goes out: the promise of it, kept or broken; how the worker
//! learns of it is the affair of `promise`.

use std::borrow::Cow;
use std::fmt;

use super::{Decision, Upgrade};
use crate::promise::{Gone, Promise, Waiting, promise};

/// The right, and the duty, to decide about an upgrade that
/// [`Upgrade::defer`] put off: on any thread, once.
///
/// It is `Send` if the session is. If nobody decides within
/// [`upgrade_timeout`](crate::ServerBuilder::upgrade_timeout) the request is answered with 503; a
/// ticket that is dropped answers with 500. Memory while it waits: the request head, what the
/// client sent behind it (reading pauses at 64 KiB) and about 200 bytes.
///
/// ```
/// use std::sync::mpsc::Sender;
/// use wirelane::{Handler, Message, Upgrade, UpgradeRequest, UpgradeTicket, WebSocket};
///
/// /// Asks a thread that may block, because it asks a database.
/// struct Members {
///     clerk: Sender<(String, UpgradeTicket<String>)>,
/// }
///
/// impl Handler for Members {
///     type Session = String;
///
///     fn on_upgrade(&mut self, request: &UpgradeRequest<'_>) -> Upgrade<String> {
///         let Some(token) = request.query_value("token") else {
///             return Upgrade::reject(401, "A token, please.\n");
///         };
///         let (ticket, deferred) = Upgrade::defer();
///         // A clerk that has gone drops the ticket, which answers with 500.
///         let _ = self.clerk.send((token.into_owned(), ticket));
///         deferred
///     }
///
///     fn on_message(&mut self, ws: &mut WebSocket<'_, String>, message: Message<'_>) {
///         ws.send(message);
///     }
/// }
///
/// fn clerk(token: String, ticket: UpgradeTicket<String>) {
///     let _ = match token.as_str() {
///         "open sesame" => ticket.accept("Ali Baba".to_owned()),
///         _ => ticket.reject(403, "Not with this token.\n"),
///     };
/// }
/// ```
///
/// A session that must not leave its thread keeps its ticket there, too:
///
/// ```compile_fail
/// use std::rc::Rc;
/// use wirelane::Upgrade;
///
/// let (ticket, _deferred) = Upgrade::<Rc<String>>::defer();
/// std::thread::spawn(move || drop(ticket));
/// ```
#[must_use = "an upgrade that nobody decides about is answered with 500"]
pub struct UpgradeTicket<S> {
    /// `None` once answered.
    promise: Option<Promise<Upgrade<S>>>,
}

impl<S> UpgradeTicket<S> {
    /// [`Upgrade::accept`], now. `Ok` means that the worker will be told: if the client leaves in
    /// the same moment, the session is dropped without an `on_open`.
    ///
    /// # Errors
    ///
    /// [`Gone`]; the session was dropped.
    pub fn accept(self, session: S) -> Result<(), Gone> {
        self.answer(Upgrade::accept(session))
    }

    /// [`Upgrade::reject`], now.
    ///
    /// # Errors
    ///
    /// [`Gone`].
    pub fn reject(self, status: u16, body: impl Into<Cow<'static, str>>) -> Result<(), Gone> {
        self.answer(Upgrade::reject(status, body))
    }

    /// Decides with everything that an [`Upgrade`] can say, but for putting it off once more: that
    /// is answered with 500 and a line in the log.
    ///
    /// # Errors
    ///
    /// [`Gone`]; what the decision held was dropped.
    pub fn answer(mut self, upgrade: impl Into<Upgrade<S>>) -> Result<(), Gone> {
        let mut upgrade = upgrade.into();
        if matches!(upgrade.decision, Decision::Defer(_)) {
            log::error!("a deferred upgrade was deferred again");
            upgrade = Upgrade::failed();
        }
        self.promise.take().ok_or(Gone)?.answer(upgrade)
    }

    /// Has `call` called, once, if the client leaves, the time is up or the server stops before
    /// there is a decision: on the worker's thread, or at once if that is so already. It should
    /// not block. A second call replaces the first.
    pub fn on_gone(&self, call: impl FnOnce() + Send + 'static) {
        if let Some(promise) = &self.promise {
            promise.on_gone(Box::new(call));
        }
    }

    /// True if nobody waits for the decision any more. What is false now may be true at once.
    pub fn is_gone(&self) -> bool {
        self.promise.as_ref().is_none_or(Promise::is_gone)
    }
}

impl<S> Drop for UpgradeTicket<S> {
    fn drop(&mut self) {
        if let Some(promise) = self.promise.take() {
            let _ = promise.answer(Upgrade::failed());
        }
    }
}

impl<S> fmt::Debug for UpgradeTicket<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpgradeTicket").field("is_gone", &self.is_gone()).finish()
    }
}

/// The two halves of an upgrade that is decided later.
pub(super) fn ticket<S>() -> (UpgradeTicket<S>, Waiting<Upgrade<S>>) {
    let (promise, waiting) = promise();
    (UpgradeTicket { promise: Some(promise) }, waiting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_ticket_and_a_second_deferral_are_500() {
        for again in [false, true] {
            let (ticket, waiting) = ticket::<u32>();
            if again {
                assert_eq!(ticket.answer(Upgrade::defer().1), Ok(()));
            } else {
                drop(ticket);
            }
            match waiting.take().map(|upgrade| upgrade.decision) {
                Some(Decision::Reject(response)) => assert_eq!(response.status, 500),
                _ => panic!("a rejection"),
            }
        }
    }
}
