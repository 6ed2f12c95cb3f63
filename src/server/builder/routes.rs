//! What is served where: WebSocket routes, handlers of outgoing connections, HTTP, files.
//!
//! What comes in: patterns and what answers them. What goes out: entries of the path table; a
//! mistake is kept until the server is built.

use std::path::Path;
use std::sync::Arc;

use crate::error::Error;
use crate::handler::Handler;
use crate::http::files::Files;
use crate::http::{Intake, Reply, Request, Response};
use crate::route_options::RouteOptions;
use crate::worker::mailbox::Shared;
use crate::worker::paths::Page;
use crate::worker::route::RouteOf;

use super::ServerBuilder;

impl ServerBuilder {
    /// Serves WebSocket connections at the paths that fit this pattern. `make` is called once per
    /// worker, on the worker's thread, with its number from 0; what it returns stays on that
    /// thread. What all workers share is captured, for example in an `Arc`.
    ///
    /// A pattern is compared with the path of a request segment by segment, without the query,
    /// byte by byte:
    ///
    /// | segment | fits |
    /// | --- | --- |
    /// | `chat` | exactly this segment |
    /// | `:room` | any one segment that is not empty; [`Request::parameter`] gives it |
    /// | `*`, at the end | whatever is left, slashes included; [`Request::rest`] gives it |
    ///
    /// Of several patterns that fit a path the most specific one that can answer the request
    /// does: from the left, a fixed segment goes before a parameter before `*`. A path that no
    /// pattern fits gets 404; a plain request that only a WebSocket route fits gets 426; a method
    /// that nobody answers gets 405 with `Allow`.
    pub fn websocket<H: Handler>(
        self,
        pattern: &str,
        make: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Self {
        self.websocket_with(pattern, RouteOptions::new(), make)
    }

    /// [`websocket`](Self::websocket) with settings for this route alone.
    pub fn websocket_with<H: Handler>(
        mut self,
        pattern: &str,
        options: RouteOptions,
        make: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Self {
        match self.paths.add_websocket(pattern, options) {
            Ok(route) => {
                debug_assert_eq!(usize::from(route), self.routes.len());
                self.paths.note_handler::<H>();
                self.routes.push(Box::new(move |worker, slots| {
                    Box::new(RouteOf::with_capacity(make(worker), slots))
                }));
            }
            Err((field, problem)) => self.blame(Error::config(field, problem)),
        }
        self
    }

    /// Adds a handler that nobody connects to and that connects to others: `make` is called once per
    /// worker, and its [`on_start`](Handler::on_start) is the place for
    /// [`WorkerContext::connect`](crate::WorkerContext::connect). A handler that all its connections
    /// of a worker share; to make a single one from any thread see
    /// [`Handle::connect`](crate::Handle::connect). For a program that only connects there is
    /// [`Client`](crate::client::Client).
    pub fn client<H: Handler>(mut self, make: impl Fn(usize) -> H + Send + Sync + 'static) -> Self {
        self.clients.push(Box::new(move |worker, _slots| {
            Box::new(RouteOf::with_capacity(make(worker), 1))
        }));
        self
    }

    /// Neither addresses nor paths are needed.
    pub(crate) fn client_only(mut self) -> Self {
        self.client_only = true;
        self
    }

    /// Answers requests of this method at the paths that fit this pattern, which may also be a
    /// WebSocket pattern; see [`websocket`](Self::websocket). The route is called on the worker's
    /// thread, once the whole body has arrived ([`max_body`](Self::max_body)), and should not
    /// block; what it cannot answer at once it answers [later](crate::Reply::later), and a long
    /// body it [streams](Response::stream). If it panics, the answer is 500.
    ///
    /// A connection serves one request after the other, in their order. HEAD is answered by the
    /// route for GET, OPTIONS with the methods that the path knows, unless a route does.
    ///
    /// ```no_run
    /// use wirelane::{Response, Server};
    ///
    /// # fn main() -> Result<(), wirelane::Error> {
    /// Server::builder()
    ///     .listen("127.0.0.1:9001")
    ///     .route("POST", "/room/:id/say", |request| {
    ///         let Ok(text) = std::str::from_utf8(request.body()) else {
    ///             return Response::text("UTF-8, please.\n").status(400);
    ///         };
    ///         let room = request.parameter("id").unwrap_or_default();
    ///         let sent = request.handle().publish(&room, text);
    ///         Response::text(format!("told {} workers\n", sent.posted))
    ///     })
    ///     .run()
    /// # }
    /// ```
    pub fn route<R: Into<Reply>>(
        self,
        method: &str,
        pattern: &str,
        route: impl Fn(&Request<'_>) -> R + Send + Sync + 'static,
    ) -> Self {
        let page = Page::Whole(Box::new(move |request| route(request).into()));
        self.add_page("route", Some(method), pattern, page)
    }

    /// [`route`](Self::route) for GET, and so for HEAD.
    pub fn get<R: Into<Reply>>(
        self,
        pattern: &str,
        route: impl Fn(&Request<'_>) -> R + Send + Sync + 'static,
    ) -> Self {
        let page = Page::Whole(Box::new(move |request| route(request).into()));
        self.add_page("get", Some("GET"), pattern, page)
    }

    /// [`route`](Self::route) for POST.
    pub fn post<R: Into<Reply>>(
        self,
        pattern: &str,
        route: impl Fn(&Request<'_>) -> R + Send + Sync + 'static,
    ) -> Self {
        let page = Page::Whole(Box::new(move |request| route(request).into()));
        self.add_page("post", Some("POST"), pattern, page)
    }

    /// [`route`](Self::route) for PUT.
    pub fn put<R: Into<Reply>>(
        self,
        pattern: &str,
        route: impl Fn(&Request<'_>) -> R + Send + Sync + 'static,
    ) -> Self {
        let page = Page::Whole(Box::new(move |request| route(request).into()));
        self.add_page("put", Some("PUT"), pattern, page)
    }

    /// [`route`](Self::route) for PATCH.
    pub fn patch<R: Into<Reply>>(
        self,
        pattern: &str,
        route: impl Fn(&Request<'_>) -> R + Send + Sync + 'static,
    ) -> Self {
        let page = Page::Whole(Box::new(move |request| route(request).into()));
        self.add_page("patch", Some("PATCH"), pattern, page)
    }

    /// [`route`](Self::route) for DELETE.
    pub fn delete<R: Into<Reply>>(
        self,
        pattern: &str,
        route: impl Fn(&Request<'_>) -> R + Send + Sync + 'static,
    ) -> Self {
        let page = Page::Whole(Box::new(move |request| route(request).into()));
        self.add_page("delete", Some("DELETE"), pattern, page)
    }

    /// [`route`](Self::route) for every method that has no route of its own under this pattern.
    pub fn any<R: Into<Reply>>(
        self,
        pattern: &str,
        route: impl Fn(&Request<'_>) -> R + Send + Sync + 'static,
    ) -> Self {
        let page = Page::Whole(Box::new(move |request| route(request).into()));
        self.add_page("any", None, pattern, page)
    }

    /// A route that takes the body piece by piece as it arrives, of any length, with no memory but
    /// its own: it is called with the head, and what it returns takes the pieces, or refuses the
    /// body; see [`Upload`](crate::Upload).
    pub fn upload<I: Into<Intake>>(
        self,
        method: &str,
        pattern: &str,
        route: impl Fn(&Request<'_>) -> I + Send + Sync + 'static,
    ) -> Self {
        let page = Page::Pieces(Box::new(move |request| route(request).into()));
        self.add_page("upload", Some(method), pattern, page)
    }

    /// Serves the files below a directory, for GET and HEAD, at the paths that fit a pattern which
    /// ends with `*`: what stands for that is the path of the file. `index.html` stands for its
    /// directory. Content types go by the extension; `ETag` and `Last-Modified` by length and time
    /// of change; requests may be conditional (RFC 9110 13) and for one range of bytes (14).
    ///
    /// Only regular files are served, and none whose name or whose directory's begins with a dot
    /// (`.well-known` excepted). Symbolic links are followed inside of the directory and never out
    /// of it, nor does `..` lead out. The directory must exist when the server is built; it is
    /// found though it is moved later.
    ///
    /// Files up to 64 KiB are read at once; of longer ones at most 64 KiB at a time, when the client
    /// has taken the last, and at most 1024 of them are open at a time (503 beyond that), a quarter
    /// of those for one address ([`Request::client_ip`](crate::Request::client_ip), IPv6 by /64):
    /// behind a proxy, name it with [`trust_forwarded`](Self::trust_forwarded). Reading happens on
    /// the worker's thread: files on a slow disk belong behind a server of their own.
    pub fn files(self, pattern: &str, directory: impl AsRef<Path>) -> Self {
        let directory = directory.as_ref();
        if !pattern.ends_with("/*") {
            return self
                .mistaken(Error::config("files", format!("{pattern:?} must end with \"/*\"")));
        }
        match Files::new(directory) {
            Ok(files) => {
                let page = Page::Whole(Box::new(move |request| files.serve(request)));
                self.add_page("files", Some("GET"), pattern, page)
            }
            Err(error) => {
                let problem = format!("{} cannot be served: {error}", directory.display());
                self.mistaken(Error::config("files", problem))
            }
        }
    }

    fn mistaken(mut self, mistake: Error) -> Self {
        self.blame(mistake);
        self
    }

    fn add_page(
        mut self,
        field: &'static str,
        method: Option<&str>,
        pattern: &str,
        page: Page,
    ) -> Self {
        if let Err(problem) = self.paths.add_page(method, pattern, page) {
            self.blame(Error::config(field, problem));
        }
        self
    }

    /// Answers a plain GET (and HEAD) at this path with 200 as long as the server wants new
    /// connections and with 503 from the moment on at which somebody asks it to stop: for load
    /// balancers. A time in which they can see that, while everything is served as before, is
    /// [`ShutdownOptions::announce`](crate::ShutdownOptions::announce); after it every request gets
    /// 503.
    pub fn readiness(self, path: &str) -> Self {
        let shared = Arc::clone(&self.shared);
        self.get(path, move |_request| {
            if shared.get().is_some_and(|shared: &Arc<Shared>| shared.is_stopping()) {
                let response = Response::new(503).header("Cache-Control", "no-store");
                response
                    .header("Content-Type", "text/plain; charset=utf-8")
                    .body(&b"stopping\n"[..])
            } else {
                Response::text("ready\n").header("Cache-Control", "no-store")
            }
        })
    }
}
