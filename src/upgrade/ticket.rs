//! Upgrades that are decided later.
//!
//! Comes in: a decision, on any thread. Goes out: a word to the worker that waits for it, or the
//! answer that nobody waits any more. Both halves hold one cell; whichever goes first tells the
//! other there. Nothing here knows a connection's state, only its id.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Decision, Upgrade};
use crate::driver::ConnectionId;
use crate::worker::mailbox::{Command, Shared};
use crate::worker::route::guard;

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
    cell: Option<Arc<Cell<S>>>,
}

/// Nobody waits for the decision any more: the client has gone, the time was up, or the server
/// has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody waits for this decision any more")
    }
}

impl std::error::Error for Gone {}

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
        self.cell.take().ok_or(Gone)?.answer(upgrade)
    }

    /// True if nobody waits for the decision any more. What is false now may be true at once.
    pub fn is_gone(&self) -> bool {
        self.cell.as_ref().is_none_or(|cell| matches!(*cell.lock(), State::Over))
    }
}

impl<S> Drop for UpgradeTicket<S> {
    fn drop(&mut self) {
        if let Some(cell) = self.cell.take() {
            let _ = cell.answer(Upgrade::failed());
        }
    }
}

impl<S> fmt::Debug for UpgradeTicket<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpgradeTicket").field("is_gone", &self.is_gone()).finish()
    }
}

/// The two halves of an upgrade that is decided later.
pub(super) fn ticket<S>() -> (UpgradeTicket<S>, Waiting<S>) {
    let cell = Arc::new(Cell { state: Mutex::new(State::Pending(None)) });
    (UpgradeTicket { cell: Some(Arc::clone(&cell)) }, Waiting { cell })
}

struct Cell<S> {
    state: Mutex<State<S>>,
}

enum State<S> {
    /// Nothing was decided. Who waits is known once `on_upgrade` has returned.
    Pending(Option<Home>),
    /// The worker has not yet looked.
    Decided(Upgrade<S>),
    /// The worker has taken the decision, or does not want it any more.
    Over,
}

struct Home {
    shared: Arc<Shared>,
    id: ConnectionId,
}

impl<S> Cell<S> {
    fn lock(&self) -> MutexGuard<'_, State<S>> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, state: State<S>) -> State<S> {
        std::mem::replace(&mut *self.lock(), state)
    }

    fn answer(&self, upgrade: Upgrade<S>) -> Result<(), Gone> {
        let mut state = self.lock();
        let State::Pending(home) = &mut *state else { return Err(Gone) };
        let home = home.take();
        *state = State::Decided(upgrade);
        // What a refused command leaves behind is dropped without the lock.
        drop(state);
        let Some(Home { shared, id }) = home else { return Ok(()) };
        let mailbox = &shared.mailboxes[usize::from(id.worker())];
        if mailbox.post_always(Command::Decide { id }).is_err() {
            self.replace(State::Over);
            return Err(Gone);
        }
        Ok(())
    }
}

/// The worker's half. Dropping it tells the ticket that nobody waits any more.
pub(crate) struct Waiting<S> {
    cell: Arc<Cell<S>>,
}

impl<S> Waiting<S> {
    /// The decision, if there is one; the ticket is void from here on.
    pub(crate) fn take(&self) -> Option<Upgrade<S>> {
        match self.cell.replace(State::Over) {
            State::Decided(upgrade) => Some(upgrade),
            State::Pending(_) | State::Over => None,
        }
    }
}

impl<S> Drop for Waiting<S> {
    fn drop(&mut self) {
        let state = self.cell.replace(State::Over);
        // A session of the application that nobody wants: its end may panic.
        let _ = guard(move || drop(state));
    }
}

/// A [`Waiting`] without its session type.
pub(crate) trait Pending: Any {
    /// Says who waits. True if the decision is there already, and then nobody will be told.
    fn attend(&self, shared: &Arc<Shared>, id: ConnectionId) -> bool;
}

impl<S: 'static> Pending for Waiting<S> {
    fn attend(&self, shared: &Arc<Shared>, id: ConnectionId) -> bool {
        match &mut *self.cell.lock() {
            State::Pending(home) => {
                *home = Some(Home { shared: Arc::clone(shared), id });
                false
            }
            State::Decided(_) | State::Over => true,
        }
    }
}

impl fmt::Debug for dyn Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pending")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::thread;

    use super::*;
    use crate::config::Config;

    fn shared() -> (Arc<Shared>, ConnectionId) {
        (Arc::new(Shared::new(&Config::default(), Arc::default())), ConnectionId::new(0, 3, 7))
    }

    fn commands(shared: &Shared) -> usize {
        let mut batch = VecDeque::new();
        shared.mailboxes[0].take(&mut batch);
        batch.len()
    }

    #[test]
    fn a_decision_is_announced_once_and_taken_once() {
        let (shared, id) = shared();
        let (ticket, waiting) = ticket::<u32>();
        assert!(!waiting.attend(&shared, id));
        assert!(!ticket.is_gone());
        assert_eq!(thread::spawn(move || ticket.accept(7)).join().expect("no panic"), Ok(()));
        assert_eq!(commands(&shared), 1);
        let Some(Upgrade { decision: Decision::Accept(7), .. }) = waiting.take() else {
            panic!("what was decided");
        };
        assert!(waiting.take().is_none());
    }

    #[test]
    fn a_decision_before_anybody_waits_is_found() {
        let (shared, id) = shared();
        let (ticket, waiting) = ticket::<u32>();
        assert_eq!(ticket.accept(7), Ok(()));
        assert!(waiting.attend(&shared, id));
        assert!(waiting.take().is_some());
        assert_eq!(commands(&shared), 0);
    }

    #[test]
    fn whoever_has_gone_is_not_told() {
        let (shared, id) = shared();
        let session = Arc::new(());
        let (early, waiting) = ticket::<Arc<()>>();
        drop(waiting);
        assert!(early.is_gone());
        assert_eq!(early.accept(Arc::clone(&session)), Err(Gone));
        let (late, waiting) = ticket::<Arc<()>>();
        assert!(!waiting.attend(&shared, id));
        assert_eq!(late.accept(Arc::clone(&session)), Ok(()));
        drop(waiting);
        assert_eq!(Arc::strong_count(&session), 1, "no session is left");
        let (stopped, waiting) = ticket::<Arc<()>>();
        assert!(!waiting.attend(&shared, id));
        shared.mailboxes[0].stop();
        assert_eq!(stopped.accept(Arc::clone(&session)), Err(Gone));
        assert_eq!(Arc::strong_count(&session), 1, "no session is left");
    }

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
