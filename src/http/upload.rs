//! Bodies of requests that are taken as they arrive.

use std::fmt;
use std::sync::{Arc, Weak};

use super::{Reply, Response};
use crate::driver::ConnectionId;
use crate::handle::Handle;
use crate::promise::Home;
use crate::worker::mailbox::{Command, Shared};

/// Takes the body of one request piece by piece; see
/// [`ServerBuilder::upload`](crate::ServerBuilder::upload). It stays on the thread of its worker
/// and is dropped with the request: after [`on_end`](Self::on_end), or without it if the client
/// leaves, breaks the protocol or is too slow. A panic in it is answered with 500 and ends the
/// connection.
///
/// ```
/// use wirelane::{Intake, Reply, Response, Server, Upload, UploadBody};
///
/// #[derive(Default)]
/// struct Count {
///     zeros: u64,
/// }
///
/// impl Upload for Count {
///     fn on_piece(&mut self, piece: &[u8], body: &mut UploadBody<'_>) {
///         self.zeros += piece.iter().filter(|byte| **byte == 0).count() as u64;
///         if body.received() > 1 << 40 {
///             body.answer(Response::text("That will do.\n").status(413));
///         }
///     }
///
///     fn on_end(&mut self) -> Reply {
///         Response::text(format!("{} zeros\n", self.zeros)).into()
///     }
/// }
///
/// let server = Server::builder()
///     .listen("127.0.0.1:0")
///     .upload("POST", "/zeros", |_request| Intake::accept(Count::default()));
/// # let _ = server;
/// ```
pub trait Upload: 'static {
    /// A piece of the body arrived; never empty. Where pieces begin and end says nothing.
    fn on_piece(&mut self, piece: &[u8], body: &mut UploadBody<'_>);

    /// The whole body has arrived.
    fn on_end(&mut self) -> Reply;
}

/// What becomes of the body of a request.
#[must_use = "a request is answered by returning this"]
pub struct Intake {
    pub(crate) decision: Decision,
}

pub(crate) enum Decision {
    Accept(Box<dyn Upload>),
    Refuse(Response),
}

impl Intake {
    /// This one takes the body. A client that waits for `100 Continue` is told to go on.
    pub fn accept(upload: impl Upload) -> Self {
        Self { decision: Decision::Accept(Box::new(upload)) }
    }
}

impl From<Response> for Intake {
    /// The body is not wanted: this is the answer, and the connection ends after it.
    fn from(response: Response) -> Self {
        Self { decision: Decision::Refuse(response) }
    }
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.decision {
            Decision::Accept(_) => f.write_str("Intake(accept)"),
            Decision::Refuse(response) => f.debug_tuple("Intake").field(response).finish(),
        }
    }
}

/// The body that a piece belongs to.
pub struct UploadBody<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) id: ConnectionId,
    pub(crate) received: u64,
    pub(crate) pauses: &'a mut Weak<()>,
    pub(crate) answer: Option<Reply>,
}

impl UploadBody<'_> {
    /// Bytes of the body so far, this piece included.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Reads no more of this body until what is returned is dropped, on any thread: the kernel's
    /// buffers fill, and the client has to wait. Pieces that were received already wait, too, at
    /// most one `receive_buffer`. Of several pauses the last one to end counts. No timeout runs
    /// meanwhile.
    pub fn pause(&mut self) -> Resume {
        let token = self.pauses.upgrade().unwrap_or_default();
        *self.pauses = Arc::downgrade(&token);
        let home = Home { shared: Arc::clone(self.shared), id: self.id };
        Resume { token: Some(token), home }
    }

    /// Answers before the body is complete. The rest of it is not read, and the connection ends
    /// after the answer.
    pub fn answer(&mut self, reply: impl Into<Reply>) {
        self.answer = Some(reply.into());
    }

    /// Reaches the server from any thread.
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(self.shared) }
    }
}

impl fmt::Debug for UploadBody<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadBody").field("received", &self.received).finish_non_exhaustive()
    }
}

/// As long as this exists, a body is not read; see [`UploadBody::pause`].
#[must_use = "dropping it ends the pause at once"]
pub struct Resume {
    /// The pause lasts while anybody holds it.
    token: Option<Arc<()>>,
    home: Home,
}

impl Drop for Resume {
    fn drop(&mut self) {
        // In this order: the worker looks whether anybody holds the token.
        self.token = None;
        self.home.tell(Command::Look { id: self.home.id });
    }
}

impl fmt::Debug for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resume")
    }
}
