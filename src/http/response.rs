//! Whole answers, as the application makes them.

use std::borrow::Cow;

use super::reply::Reply;
use super::stream::{self, BodyWriter};

/// A whole answer to a request, as a route returns it; see
/// [`ServerBuilder::route`](crate::ServerBuilder::route). Also what an upgrade request gets that is
/// rejected.
///
/// The server adds `Content-Length`, `Date` (unless it is given) and, where the connection ends
/// after the answer, `Connection: close`; for HEAD it leaves out the body. A body that is `'static`
/// is not copied before it is sent; 100 bytes and the headers otherwise.
///
/// ```
/// use wirelane::Response;
///
/// let page = Response::html("<h1>Hello</h1>").header("Cache-Control", "max-age=60");
/// let created = Response::json(r#"{"id":7}"#).status(201).header("Location", "/things/7");
/// let elsewhere = Response::redirect("/login");
/// # let _ = (page, created, elsewhere);
/// ```
#[derive(Debug, Clone)]
#[must_use = "an answer is sent when the route returns it"]
pub struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    pub(crate) body: Cow<'static, [u8]>,
}

/// The body of a [`Response`]: made `From` text and bytes, `String` and `Vec<u8>` or what is
/// `'static`; nothing is copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body(Cow<'static, [u8]>);

impl From<Cow<'static, [u8]>> for Body {
    fn from(bytes: Cow<'static, [u8]>) -> Self {
        Self(bytes)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Cow::Owned(bytes))
    }
}

impl From<&'static [u8]> for Body {
    fn from(bytes: &'static [u8]) -> Self {
        Self(Cow::Borrowed(bytes))
    }
}

impl<const LEN: usize> From<&'static [u8; LEN]> for Body {
    fn from(bytes: &'static [u8; LEN]) -> Self {
        Self(Cow::Borrowed(bytes))
    }
}

impl From<Cow<'static, str>> for Body {
    fn from(text: Cow<'static, str>) -> Self {
        match text {
            Cow::Borrowed(text) => text.into(),
            Cow::Owned(text) => text.into(),
        }
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        text.as_bytes().into()
    }
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
        Self::new(200).header("Content-Type", "text/plain; charset=utf-8").body(text.into())
    }

    /// 200 with this page as `text/html; charset=utf-8`.
    pub fn html(page: impl Into<Cow<'static, str>>) -> Self {
        Self::new(200).header("Content-Type", "text/html; charset=utf-8").body(page.into())
    }

    /// 200 with this text as `application/json`, for example what `serde_json::to_string` or
    /// `to_vec` has made. Whether it is JSON is up to the caller.
    pub fn json(json: impl Into<Body>) -> Self {
        Self::new(200).header("Content-Type", "application/json").body(json)
    }

    /// 302: what was asked for is there (RFC 9110 15.4.3), a path or a whole URL. To show a page
    /// after a POST give it [`status`](Self::status) 303, for ever 308.
    pub fn redirect(location: impl Into<Cow<'static, str>>) -> Self {
        Self::new(302).header("Location", location)
    }

    /// 200 with the headers of server-sent events; to be [streamed](Self::stream), see
    /// [`BodyWriter::send_event`].
    pub fn event_stream() -> Self {
        Self::new(200)
            .header("Content-Type", "text/event-stream")
            .header("Cache-Control", "no-store")
    }

    /// Sends this head now and the body as it is written, in chunks (RFC 9112 7.1); a body that
    /// was set is written first. See [`BodyWriter`].
    pub fn stream(self) -> (BodyWriter, Reply) {
        stream::streamed(self, None)
    }

    /// The same for a body whose length is known: it is announced, and the writer takes neither
    /// more nor, without cutting the connection, less.
    pub fn stream_exactly(self, len: u64) -> (BodyWriter, Reply) {
        stream::streamed(self, Some(len))
    }

    /// Adds a header. A name that is not a token or a value with control characters
    /// (RFC 9110 5.5), Content-Length, Connection and Transfer-Encoding are answered with 500 and
    /// a line in the log instead of being sent.
    pub fn header(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body: text or bytes. It has no content type but what
    /// [`header`](Self::header) says.
    pub fn body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into().0;
        self
    }

    /// What is answered when the application fails to.
    pub(crate) fn failed() -> Self {
        Self::text("The server failed to answer.\n").status(500)
    }
}
