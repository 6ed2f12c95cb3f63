//! What a route returns: an answer, the beginning of one, or the promise of one.

use std::fmt;
use std::time::Duration;

use super::Response;
use super::stream::Source;
use crate::promise::{Gone, Promise, Waiting, promise};

/// What becomes of a request: a [`Response`], the head of one whose body
/// [follows](Response::stream), or a promise to answer [later](Self::later). Routes return
/// anything that can be made into one.
#[must_use = "a request is answered by returning this"]
pub struct Reply {
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    Whole(Response),
    Streamed { response: Response, len: Option<u64>, source: Box<dyn Source> },
    Later(Later),
}

/// An answer that will come.
pub(crate) struct Later {
    pub(crate) waiting: Waiting<Reply>,
    /// When to stop waiting, and what is answered then.
    pub(crate) otherwise: Option<(Duration, Response)>,
}

impl Reply {
    /// Puts the answer off: the [`Responder`] gives it, on any thread, within
    /// [`response_timeout`](crate::ServerBuilder::response_timeout). Requests that the client sends
    /// meanwhile wait.
    pub fn later() -> (Responder, Self) {
        let (promise, waiting) = promise();
        let later = Later { waiting, otherwise: None };
        (Responder { promise: Some(promise) }, Self { kind: Kind::Later(later) })
    }

    /// The same, with a time of its own and what is answered when it is up: what a long poll needs.
    pub fn later_or(timeout: Duration, otherwise: Response) -> (Responder, Self) {
        let (promise, waiting) = promise();
        let later = Later { waiting, otherwise: Some((timeout, otherwise)) };
        (Responder { promise: Some(promise) }, Self { kind: Kind::Later(later) })
    }

    /// What is answered when the application fails to.
    pub(crate) fn failed() -> Self {
        Response::failed().into()
    }
}

impl From<Response> for Reply {
    fn from(response: Response) -> Self {
        Self { kind: Kind::Whole(response) }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Whole(response) => f.debug_tuple("Reply").field(response).finish(),
            Kind::Streamed { response, len, .. } => {
                f.debug_struct("Reply").field("head", response).field("len", len).finish()
            }
            Kind::Later(_) => f.write_str("Reply(later)"),
        }
    }
}

/// The right, and the duty, to answer a request that [`Reply::later`] put off: on any thread, once.
///
/// If nobody answers within
/// [`response_timeout`](crate::ServerBuilder::response_timeout) the client gets 503, or what
/// [`Reply::later_or`] said; a responder that is dropped answers with 500. Memory while it waits:
/// about 300 bytes, and what the client sends behind its request (reading pauses at 64 KiB).
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use std::time::Duration;
/// use wirelane::{Reply, Responder, Response, Server};
///
/// // Everybody who waits for news.
/// let waiting = Arc::new(Mutex::new(Vec::<Responder>::new()));
/// let polls = Arc::clone(&waiting);
/// let server = Server::builder().listen("127.0.0.1:0").get("/news", move |_request| {
///     let (responder, later) = Reply::later_or(Duration::from_secs(25), Response::new(204));
///     polls.lock().unwrap().push(responder);
///     later
/// });
/// // On any thread, once there are news:
/// for responder in waiting.lock().unwrap().drain(..) {
///     // An error says that the client has gone.
///     let _ = responder.answer(Response::text("news\n"));
/// }
/// # let _ = server;
/// ```
#[must_use = "a request that nobody answers is answered with 500"]
pub struct Responder {
    /// `None` once answered.
    promise: Option<Promise<Reply>>,
}

impl Responder {
    /// Answers. `Ok` means that the worker will be told; the client may still leave before the
    /// answer does. The answer may be [streamed](Response::stream); to be put off once more is
    /// answered with 500 and a line in the log.
    ///
    /// # Errors
    ///
    /// [`Gone`]; the answer was dropped.
    pub fn answer(mut self, reply: impl Into<Reply>) -> Result<(), Gone> {
        let mut reply = reply.into();
        if matches!(reply.kind, Kind::Later(_)) {
            log::error!("an answer that was put off was put off again");
            reply = Reply::failed();
        }
        self.promise.take().ok_or(Gone)?.answer(reply)
    }

    /// Has `call` called, once, if the client leaves, the time is up or the server stops before
    /// there is an answer: on the worker's thread, or at once if that is so already. It should
    /// not block. A second call replaces the first.
    pub fn on_gone(&self, call: impl FnOnce() + Send + 'static) {
        if let Some(promise) = &self.promise {
            promise.on_gone(Box::new(call));
        }
    }

    /// True if nobody waits for the answer any more. What is false now may be true at once.
    pub fn is_gone(&self) -> bool {
        self.promise.as_ref().is_none_or(Promise::is_gone)
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if let Some(promise) = self.promise.take() {
            let _ = promise.answer(Reply::failed());
        }
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").field("is_gone", &self.is_gone()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(reply: Reply) -> Option<u16> {
        let Kind::Later(later) = reply.kind else { panic!("put off") };
        match later.waiting.take()?.kind {
            Kind::Whole(response) => Some(response.status),
            _ => panic!("a whole answer"),
        }
    }

    #[test]
    fn an_answer_comes_once_and_a_dropped_responder_is_500() {
        let (responder, later) = Reply::later();
        assert!(!responder.is_gone());
        assert_eq!(taken_after(responder, later, |r| r.answer(Response::new(201))), Some(201));
        let (responder, later) = Reply::later();
        drop(responder);
        assert_eq!(taken(later), Some(500));
        let (responder, later) = Reply::later();
        assert_eq!(taken_after(responder, later, |r| r.answer(Reply::later().1)), Some(500));
    }

    fn taken_after(
        responder: Responder,
        later: Reply,
        answer: impl FnOnce(Responder) -> Result<(), Gone>,
    ) -> Option<u16> {
        assert_eq!(answer(responder), Ok(()));
        taken(later)
    }

    #[test]
    fn whoever_has_gone_cannot_be_answered() {
        let (responder, later) = Reply::later();
        drop(later);
        assert!(responder.is_gone());
        assert_eq!(responder.answer(Response::new(200)), Err(Gone));
    }
}
