//! Which path leads where.

use std::fmt;

use crate::http::Response;
use crate::protocol::upgrade::Request;

/// Answers a plain GET.
pub(crate) type Page = Box<dyn Fn(&Request<'_>) -> Response + Send + Sync>;

/// What is served at one path.
pub(crate) struct Entry {
    pub(crate) path: String,
    /// Index of the WebSocket route.
    pub(crate) websocket: Option<u16>,
    pub(crate) page: Option<Page>,
}

/// All paths of a server, shared by its workers.
#[derive(Default)]
pub(crate) struct Paths {
    entries: Vec<Entry>,
}

impl Paths {
    /// The entry of exactly this path.
    pub(crate) fn find(&self, path: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.path == path)
    }

    /// The entry of this path, made if there is none.
    pub(crate) fn entry(&mut self, path: &str) -> &mut Entry {
        let index = self.entries.iter().position(|entry| entry.path == path);
        let index = index.unwrap_or_else(|| {
            self.entries.push(Entry { path: path.to_owned(), websocket: None, page: None });
            self.entries.len() - 1
        });
        &mut self.entries[index]
    }

    /// All entries, in the order they were made.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }
}

impl fmt::Debug for Paths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|entry| &entry.path)).finish()
    }
}
