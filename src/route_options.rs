//! Settings of one WebSocket route.

use crate::origins::Origins;
use crate::protocol::Deflate;
use crate::protocol::upgrade::is_token;

/// Settings of one WebSocket route, for
/// [`ServerBuilder::websocket_with`](crate::ServerBuilder::websocket_with). What is not set here is
/// as it is for the server.
///
/// ```
/// use wirelane::{Origins, RouteOptions};
///
/// let options = RouteOptions::new()
///     .subprotocols(["chat.v2", "chat.v1"])
///     .origins(Origins::list(["https://example.com"]));
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "give it to `ServerBuilder::websocket_with`"]
pub struct RouteOptions {
    pub(crate) origins: Option<Origins>,
    pub(crate) subprotocols: Vec<String>,
    pub(crate) deflate: Option<Deflate>,
}

impl RouteOptions {
    /// Nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// The subprotocols that the route speaks, the preferred one first (RFC 6455 1.9). A client
    /// is answered with the first of them that it offers, case counts; if it offers none of them
    /// the answer names none, and the client decides whether it goes on (RFC 6455 4.2.2). Each
    /// must be a token. Default: none.
    pub fn subprotocols(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.subprotocols = names.into_iter().map(Into::into).collect();
        self
    }

    /// The sites whose pages may connect. Default: those of
    /// [`ServerBuilder::origins`](crate::ServerBuilder::origins).
    pub fn origins(mut self, origins: Origins) -> Self {
        self.origins = Some(origins);
        self
    }

    /// Whether and how messages of this route are compressed; [`Deflate`] says what each mode costs
    /// and when compression is dangerous. Default: what
    /// [`ServerBuilder::deflate`](crate::ServerBuilder::deflate) says.
    pub fn deflate(mut self, settings: Deflate) -> Self {
        self.deflate = Some(settings);
        self
    }

    /// Says which setting is impossible.
    pub(crate) fn problem(&self) -> Option<(&'static str, String)> {
        if let Some(problem) = self.origins.as_ref().and_then(Origins::problem) {
            return Some(("origins", problem));
        }
        if let Some(Err(problem)) = self.deflate.as_ref().map(Deflate::check) {
            return Some(("deflate", problem.into()));
        }
        for (index, name) in self.subprotocols.iter().enumerate() {
            // RFC 6455 4.1: subprotocols are tokens, and each is there once.
            if !is_token(name) {
                let problem = format!("{name:?} is no token: use letters, digits and \"-._~+!\"");
                return Some(("subprotocols", problem));
            }
            if self.subprotocols[..index].contains(name) {
                return Some(("subprotocols", format!("{name:?} is given twice")));
            }
        }
        None
    }
}
