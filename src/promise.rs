//! Answers that are given later.
//!
//! Comes in: an answer, on any thread. Goes out: a word to the worker that waits for it, or the
//! news that nobody waits any more. Both halves hold one cell; whichever goes first tells the
//! other there. Nothing here knows a connection's state, only its id.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::driver::ConnectionId;
use crate::worker::mailbox::{Command, Shared};
use crate::worker::route::guard;

/// Nobody waits for this any more: the client has gone, the time was up, or the server has
/// stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody waits for this any more")
    }
}

impl std::error::Error for Gone {}

/// What somebody wants to be called once.
pub(crate) type Callback = Box<dyn FnOnce() + Send>;

/// The two halves of an answer that is given later.
pub(crate) fn promise<T>() -> (Promise<T>, Waiting<T>) {
    let pending = State::Pending { home: None, on_gone: None };
    let cell = Arc::new(Cell { state: Mutex::new(pending) });
    (Promise { cell: Arc::clone(&cell) }, Waiting { cell })
}

/// The half of whoever answers. Dropping it says nothing to the other half: its owner does that.
pub(crate) struct Promise<T> {
    cell: Arc<Cell<T>>,
}

struct Cell<T> {
    state: Mutex<State<T>>,
}

enum State<T> {
    /// No answer was given. Who waits is known once the handler has returned.
    Pending { home: Option<Home>, on_gone: Option<Callback> },
    /// The worker has not yet looked.
    Answered(T),
    /// The worker has taken the answer, or does not want it any more.
    Over,
}

/// Who is to be told.
pub(crate) struct Home {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: ConnectionId,
}

impl Home {
    /// Tells the worker to look; false if it has ended.
    pub(crate) fn tell(&self, command: Command) -> bool {
        self.shared.mailboxes[usize::from(self.id.worker())].post_always(command).is_ok()
    }
}

impl<T> Cell<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, state: State<T>) -> State<T> {
        std::mem::replace(&mut *self.lock(), state)
    }
}

impl<T> Promise<T> {
    /// Gives the answer. `Ok` means that the worker will be told.
    pub(crate) fn answer(self, answer: T) -> Result<(), Gone> {
        let mut state = self.cell.lock();
        let State::Pending { home, on_gone } = &mut *state else { return Err(Gone) };
        let (home, on_gone) = (home.take(), on_gone.take());
        *state = State::Answered(answer);
        // What a callback or a refused command leaves behind is dropped without the lock.
        drop(state);
        drop(on_gone);
        let Some(home) = home else { return Ok(()) };
        if !home.tell(Command::Look { id: home.id }) {
            self.cell.replace(State::Over);
            return Err(Gone);
        }
        Ok(())
    }

    /// True if nobody waits for the answer any more. What is false now may be true at once.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(*self.cell.lock(), State::Over)
    }

    /// Has `call` called once nobody waits any more, at once if that is so already.
    pub(crate) fn on_gone(&self, call: Callback) {
        let mut state = self.cell.lock();
        match &mut *state {
            State::Pending { on_gone, .. } => {
                let before = on_gone.replace(call);
                drop(state);
                drop(before);
            }
            State::Answered(_) => {}
            State::Over => {
                drop(state);
                call();
            }
        }
    }
}

/// The worker's half. Dropping it tells the other one that nobody waits any more.
pub(crate) struct Waiting<T> {
    cell: Arc<Cell<T>>,
}

impl<T> Waiting<T> {
    /// The answer, if there is one; the promise is void from here on.
    pub(crate) fn take(&self) -> Option<T> {
        match self.cell.replace(State::Over) {
            State::Answered(answer) => Some(answer),
            State::Pending { .. } | State::Over => None,
        }
    }

    /// True once there is an answer.
    pub(crate) fn is_answered(&self) -> bool {
        matches!(*self.cell.lock(), State::Answered(_))
    }

    /// Says who waits. True if the answer is there already, and then nobody will be told.
    pub(crate) fn attend(&self, shared: &Arc<Shared>, id: ConnectionId) -> bool {
        match &mut *self.cell.lock() {
            State::Pending { home, .. } => {
                *home = Some(Home { shared: Arc::clone(shared), id });
                false
            }
            State::Answered(_) | State::Over => true,
        }
    }
}

impl<T> Drop for Waiting<T> {
    fn drop(&mut self) {
        match self.cell.replace(State::Over) {
            State::Pending { on_gone, .. } => {
                if let Some(call) = on_gone {
                    // The application's code: it may panic.
                    let _ = guard(call);
                }
            }
            // What the application gave and nobody wants: its end may panic.
            State::Answered(answer) => {
                let _ = guard(move || drop(answer));
            }
            State::Over => {}
        }
    }
}

/// A [`Waiting`] without its type.
pub(crate) trait Pending: Any {
    /// As [`Waiting::attend`].
    fn attend(&self, shared: &Arc<Shared>, id: ConnectionId) -> bool;

    /// As [`Waiting::is_answered`].
    fn is_answered(&self) -> bool;
}

impl<T: 'static> Pending for Waiting<T> {
    fn attend(&self, shared: &Arc<Shared>, id: ConnectionId) -> bool {
        self.attend(shared, id)
    }

    fn is_answered(&self) -> bool {
        self.is_answered()
    }
}

impl fmt::Debug for dyn Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pending")
    }
}

impl<T> fmt::Debug for Waiting<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiting")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicUsize, Ordering};
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
    fn an_answer_is_announced_once_and_taken_once() {
        let (shared, id) = shared();
        let (promise, waiting) = promise::<u32>();
        assert!(!waiting.attend(&shared, id));
        assert!(!promise.is_gone() && !waiting.is_answered());
        assert_eq!(thread::spawn(move || promise.answer(7)).join().expect("no panic"), Ok(()));
        assert_eq!(commands(&shared), 1);
        assert!(waiting.is_answered());
        assert_eq!(waiting.take(), Some(7));
        assert_eq!(waiting.take(), None);
    }

    #[test]
    fn an_answer_before_anybody_waits_is_found() {
        let (shared, id) = shared();
        let (promise, waiting) = promise::<u32>();
        assert_eq!(promise.answer(7), Ok(()));
        assert!(waiting.attend(&shared, id));
        assert_eq!(waiting.take(), Some(7));
        assert_eq!(commands(&shared), 0);
    }

    #[test]
    fn whoever_has_gone_is_not_told() {
        let (shared, id) = shared();
        let value = Arc::new(());
        let (early, waiting) = promise::<Arc<()>>();
        drop(waiting);
        assert!(early.is_gone());
        assert_eq!(early.answer(Arc::clone(&value)), Err(Gone));
        let (late, waiting) = promise::<Arc<()>>();
        assert!(!waiting.attend(&shared, id));
        assert_eq!(late.answer(Arc::clone(&value)), Ok(()));
        drop(waiting);
        assert_eq!(Arc::strong_count(&value), 1, "no answer is left");
        let (stopped, waiting) = promise::<Arc<()>>();
        assert!(!waiting.attend(&shared, id));
        shared.mailboxes[0].stop();
        assert_eq!(stopped.answer(Arc::clone(&value)), Err(Gone));
        assert_eq!(Arc::strong_count(&value), 1, "no answer is left");
    }

    #[test]
    fn that_nobody_waits_any_more_is_said_once() {
        let calls = Arc::new(AtomicUsize::new(0));
        let count = || {
            let calls = Arc::clone(&calls);
            Box::new(move || {
                calls.fetch_add(1, Ordering::Relaxed);
            })
        };
        let (told, waiting) = promise::<u32>();
        told.on_gone(count());
        drop(waiting);
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        told.on_gone(count());
        assert_eq!(calls.load(Ordering::Relaxed), 2, "at once");
        let (answered, waiting) = promise::<u32>();
        answered.on_gone(count());
        assert_eq!(answered.answer(1), Ok(()));
        drop(waiting);
        assert_eq!(calls.load(Ordering::Relaxed), 2, "somebody had answered");
    }
}
