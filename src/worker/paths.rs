//! Which path leads where.

use std::any::TypeId;
use std::fmt;
use std::ops::Range;

use crate::handler::Handler;
use crate::http::router::{Parameters, Router};
use crate::http::{Intake, Reply, Request};
use crate::origins::Origins;
use crate::protocol::Deflate;
use crate::protocol::upgrade::is_token;
use crate::route_options::RouteOptions;

/// The methods of RFC 9110 9 and RFC 5789, whose names in small letters are typing errors.
const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Answers plain requests.
pub(crate) enum Page {
    /// Takes the body as a whole.
    Whole(Box<dyn Fn(&Request<'_>) -> Reply + Send + Sync>),
    /// Takes the body in pieces.
    Pieces(Box<dyn Fn(&Request<'_>) -> Intake + Send + Sync>),
}

/// What is served under one pattern.
#[derive(Default)]
pub(crate) struct Entry {
    /// Index of the WebSocket route.
    websocket: Option<u16>,
    /// By method.
    pages: Vec<(Box<str>, Page)>,
    /// For every method that has no page of its own.
    any: Option<Page>,
}

impl Entry {
    /// Who answers this method. HEAD is answered by GET, whose body is left out (RFC 9110 9.3.2).
    fn page(&self, method: &str) -> Option<&Page> {
        let find = |method: &str| {
            let mut pages = self.pages.iter();
            pages.find(|(other, _)| **other == *method).map(|(_, page)| page)
        };
        let own = find(method).or_else(|| find("GET").filter(|_| method == "HEAD"));
        own.or(self.any.as_ref())
    }
}

/// What the workers share of a WebSocket route.
#[derive(Debug)]
pub(crate) struct WebSocketRoute {
    /// In place of the server's, if set.
    pub(crate) origins: Option<Origins>,
    /// Its part of [`Paths::subprotocols`].
    pub(crate) subprotocols: Range<u16>,
    /// In place of the server's, if set.
    pub(crate) deflate: Option<Deflate>,
}

/// All paths of a server, shared by its workers.
#[derive(Default)]
pub(crate) struct Paths {
    router: Router<Entry>,
    websockets: Vec<WebSocketRoute>,
    subprotocols: Vec<String>,
    /// Of each route: the type of its sessions, and whether it takes messages in parts.
    handlers: Vec<(TypeId, bool)>,
}

/// The most subprotocols of all routes together; the numbers above are for other purposes.
const MAX_SUBPROTOCOLS: usize = 60_000;

/// Who answers a request.
pub(crate) enum Responsible<'r> {
    /// The WebSocket route of this index.
    WebSocket(u16, Parameters<'r>),
    Page(&'r Page, Parameters<'r>),
    /// The path leads somewhere, but not with this method: these are allowed, as Allow lists them.
    OtherMethod(String),
    /// Nobody but a WebSocket route, which was not asked for.
    WebSocketOnly,
    Nobody,
}

impl Paths {
    /// Adds a WebSocket route and gives its index.
    ///
    /// # Errors
    ///
    /// The builder method or option that is impossible, and why.
    pub(crate) fn add_websocket(
        &mut self,
        pattern: &str,
        options: RouteOptions,
    ) -> Result<u16, (&'static str, String)> {
        let because = |problem| ("websocket", problem);
        if let Some((field, problem)) = options.problem() {
            return Err((field, format!("of {pattern:?}: {problem}")));
        }
        let entry = self.router.entry(pattern).map_err(because)?;
        if entry.websocket.is_some() {
            return Err(because(format!("pattern {pattern:?} is given twice")));
        }
        let route = u16::try_from(self.websockets.len())
            .map_err(|_| because("at most 65,536 routes are possible".into()))?;
        let first = self.subprotocols.len();
        self.subprotocols.extend(options.subprotocols);
        if self.subprotocols.len() > MAX_SUBPROTOCOLS {
            let problem = "at most 60,000 names are possible, all routes together";
            return Err(("subprotocols", problem.into()));
        }
        entry.websocket = Some(route);
        self.websockets.push(WebSocketRoute {
            origins: options.origins,
            deflate: options.deflate,
            // Not more than the maximum above.
            subprotocols: first as u16..self.subprotocols.len() as u16,
        });
        Ok(route)
    }

    /// Adds a page for a method, or for every method that has none of its own.
    ///
    /// # Errors
    ///
    /// What is wrong with the method or the pattern.
    pub(crate) fn add_page(
        &mut self,
        method: Option<&str>,
        pattern: &str,
        page: Page,
    ) -> Result<(), String> {
        if let Some(method) = method {
            if !is_token(method) {
                return Err(format!("{method:?} is no method: use a token, e.g. \"POST\""));
            }
            let upper = method.to_ascii_uppercase();
            if method != upper && METHODS.contains(&&*upper) {
                return Err(format!("methods are compared with regard to case; write {upper:?}"));
            }
            if method == "CONNECT" {
                return Err("CONNECT asks for a tunnel, which is not served".into());
            }
        }
        let entry = self.router.entry(pattern)?;
        let twice = match method {
            Some(method) => entry.pages.iter().any(|(other, _)| **other == *method),
            None => entry.any.is_some(),
        };
        if twice {
            return Err(match method {
                Some(method) => format!("pattern {pattern:?} is given twice for {method}"),
                None => format!("pattern {pattern:?} is given twice for any method"),
            });
        }
        match method {
            Some(method) => entry.pages.push((method.into(), page)),
            None => entry.any = Some(page),
        }
        Ok(())
    }

    /// True if nothing is served at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.router.iter().next().is_none()
    }

    /// How many handlers each worker begins with.
    pub(crate) fn handlers(&self) -> usize {
        self.handlers.len()
    }

    /// Says who serves the next route, in the order of the routes.
    pub(crate) fn note_handler<H: Handler>(&mut self) {
        self.handlers.push((TypeId::of::<H::Session>(), H::STREAM));
    }

    /// Of which type the sessions of a route are.
    pub(crate) fn session_type(&self, route: u16) -> TypeId {
        self.handlers.get(usize::from(route)).map_or(TypeId::of::<Self>(), |handler| handler.0)
    }

    /// Whether the handler of a route takes messages in parts.
    pub(crate) fn streams(&self, route: u16) -> bool {
        self.handlers.get(usize::from(route)).is_some_and(|handler| handler.1)
    }

    /// The settings of a WebSocket route.
    pub(crate) fn websocket(&self, route: u16) -> &WebSocketRoute {
        &self.websockets[usize::from(route)]
    }

    /// The subprotocols of all routes, in the order of the routes.
    pub(crate) fn subprotocols(&self) -> &[String] {
        &self.subprotocols
    }

    /// The most specific route that can answer.
    pub(crate) fn responsible<'r>(
        &'r self,
        method: &str,
        path: &'r str,
        asks_for_websocket: bool,
    ) -> Responsible<'r> {
        let for_websocket = asks_for_websocket && method == "GET";
        let mut websocket = false;
        let mut allowed: Vec<&str> = Vec::new();
        let found = self.router.find(path, |route, parameters| {
            let entry = &route.value;
            websocket |= entry.websocket.is_some();
            if let Some(index) = entry.websocket
                && for_websocket
            {
                return Some(Responsible::WebSocket(index, parameters));
            }
            if let Some(page) = entry.page(method) {
                return Some(Responsible::Page(page, parameters));
            }
            for (method, _) in &entry.pages {
                let head = (**method == *"GET").then_some("HEAD");
                allowed.extend([&**method].into_iter().chain(head));
            }
            None
        });
        if let Some(found) = found {
            return found;
        }
        if websocket && method == "GET" {
            return Responsible::WebSocketOnly;
        }
        if websocket {
            allowed.push("GET");
        }
        if allowed.is_empty() {
            // RFC 9112 3.2.4: the server as a whole.
            let server = method == "OPTIONS" && path == "*";
            return if server {
                Responsible::OtherMethod("OPTIONS".into())
            } else {
                Responsible::Nobody
            };
        }
        allowed.push("OPTIONS");
        let mut list = String::new();
        for (index, method) in allowed.iter().enumerate() {
            if !allowed[..index].contains(method) {
                list.push_str(if list.is_empty() { "" } else { ", " });
                list.push_str(method);
            }
        }
        Responsible::OtherMethod(list)
    }
}

impl fmt::Debug for Paths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.router.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Response;

    fn paths() -> Paths {
        let mut paths = Paths::default();
        let page = || Page::Whole(Box::new(|_: &Request<'_>| Response::new(200).into()));
        for pattern in ["/room/lobby", "/both"] {
            paths.add_websocket(pattern, RouteOptions::new()).expect("a good pattern");
        }
        for pattern in ["/room/:id", "/both"] {
            paths.add_page(Some("GET"), pattern, page()).expect("a good pattern");
        }
        paths
    }

    fn answer(paths: &Paths, method: &str, path: &str, upgrade: bool) -> String {
        match paths.responsible(method, path, upgrade) {
            Responsible::WebSocket(route, _) => format!("route {route}"),
            Responsible::Page(_, parameters) => format!("page {parameters:?}"),
            Responsible::OtherMethod(allowed) => format!("only {allowed}"),
            Responsible::WebSocketOnly => "only by upgrade".into(),
            Responsible::Nobody => "nobody".into(),
        }
    }

    #[test]
    fn the_most_specific_route_that_can_answer_does() {
        let paths = paths();
        for (method, path, upgrade, expected) in [
            ("GET", "/room/lobby", true, "route 0"),
            ("GET", "/room/lobby", false, r#"page {"id": "lobby"}"#),
            ("GET", "/room/7", true, r#"page {"id": "7"}"#),
            ("HEAD", "/both", true, "page {}"),
            ("GET", "/both", true, "route 1"),
            ("POST", "/both", true, "only GET, HEAD, OPTIONS"),
            ("OPTIONS", "/both", true, "only GET, HEAD, OPTIONS"),
            ("get", "/room/lobby", false, "only GET, HEAD, OPTIONS"),
            ("GET", "/room", true, "nobody"),
        ] {
            assert_eq!(answer(&paths, method, path, upgrade), expected, "{method} {path}");
        }
        let mut paths = Paths::default();
        paths.add_websocket("/", RouteOptions::new()).expect("a good pattern");
        assert_eq!(answer(&paths, "GET", "/", false), "only by upgrade");
        assert_eq!(answer(&paths, "HEAD", "/", true), "only GET, OPTIONS");
        assert_eq!(answer(&paths, "OPTIONS", "*", false), "only OPTIONS");
    }

    #[test]
    fn what_others_write_is_an_error_that_says_what_to_write_here() {
        let page = || Page::Whole(Box::new(|_| Response::new(200).into()));
        let mut paths = Paths::default();
        let error = paths.add_page(Some("post"), "/a", page()).unwrap_err();
        assert!(error.contains("write \"POST\""), "{error}");
        for pattern in ["/room/{id}", "/room/<id>"] {
            let error = paths.add_page(Some("GET"), pattern, page()).unwrap_err();
            assert!(error.contains("written :name"), "{error}");
        }
        assert!(paths.add_page(Some("report"), "/a", page()).is_ok());
    }

    #[test]
    fn what_is_given_twice_is_an_error() {
        let mut paths = paths();
        let twice = paths.add_websocket("/both", RouteOptions::new()).expect_err("twice");
        assert_eq!(twice, ("websocket", "pattern \"/both\" is given twice".into()));
        let options = RouteOptions::new().subprotocols(["a", "a b"]);
        let (field, problem) = paths.add_websocket("/new", options).expect_err("no token");
        assert_eq!(field, "subprotocols");
        assert!(problem.contains("/new") && problem.contains("a b"), "{problem}");
    }

    #[test]
    fn each_route_has_its_own_subprotocols() {
        let mut paths = Paths::default();
        let one = RouteOptions::new().subprotocols(["a", "b"]);
        let two = RouteOptions::new().subprotocols(["a"]);
        let one = paths.add_websocket("/1", one).expect("possible");
        let two = paths.add_websocket("/2", two).expect("possible");
        assert_eq!(paths.websocket(one).subprotocols, 0..2);
        assert_eq!(paths.websocket(two).subprotocols, 2..3);
        assert_eq!(paths.subprotocols(), ["a", "b", "a"]);
    }
}
