//! Plain HTTP on the WebSocket port: routes, requests, answers.

pub(crate) mod percent;
pub(crate) mod request;
pub(crate) mod router;

use std::borrow::Cow;

pub use self::percent::QueryPairs;
pub use self::request::Request;

/// The answer to a plain GET, as a route given to
/// [`ServerBuilder::get`](crate::ServerBuilder::get) returns it, or to an upgrade request that is
/// rejected. The connection is closed after
/// it (RFC 9112 9.6). `Content-Length`, `Connection` and, for HEAD, leaving out the body are
/// added by the server.
#[derive(Debug, Clone)]
#[must_use = "an answer is sent when the route returns it"]
pub struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    pub(crate) body: Cow<'static, [u8]>,
}

impl Response {
    /// An empty answer with this status code (RFC 9110 15), 200 to 599. Any other code is
    /// answered with 500.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Cow::Borrowed(b"") }
    }

    /// Sets the status code, as for [`new`](Self::new).
    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// 200 with this text as `text/plain; charset=utf-8`.
    pub fn text(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(200).header("Content-Type", "text/plain; charset=utf-8").with_text(text.into())
    }

    /// 200 with this page as `text/html; charset=utf-8`.
    pub fn html(page: impl Into<Cow<'static, str>>) -> Self {
        Self::new(200).header("Content-Type", "text/html; charset=utf-8").with_text(page.into())
    }

    /// Adds a header. A name that is not a token or a value with control characters
    /// (RFC 9110 5.5) is answered with 500 instead of being sent.
    pub fn header(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Cow<'static, [u8]>>) -> Self {
        self.body = body.into();
        self
    }

    fn with_text(self, text: Cow<'static, str>) -> Self {
        match text {
            Cow::Borrowed(text) => self.body(text.as_bytes()),
            Cow::Owned(text) => self.body(text.into_bytes()),
        }
    }
}
