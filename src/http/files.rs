//! Files of a directory, as answers.
//!
//! What comes in: a request for a path. What goes out: 200, 206, 301, 304, 404, 412, 416 or 503.
//!
//! Policy: only regular files; the path is decoded once (RFC 3986 2.1), and one with a NUL, an
//! encoded slash, `.`, `..` or an empty segment leads nowhere, nor does one with a segment that
//! begins with a dot, `.well-known` excepted. Symbolic links are followed inside of the directory
//! and never out of it. Nothing is cached: every request opens and looks (open(2), fstat(2)), and
//! reads at most 64 KiB at a time, on the worker's thread; a file on a slow disk makes others
//! wait that long.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{File, Metadata};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::conditional::{Validators, Wanted, wanted};
use super::reply::{Kind, Reply};
use super::stream::{Pulled, Source};
use super::{Request, Response, content_type, percent};
use crate::driver::ConnectionId;
use crate::driver::beneath::{Directory, is_shortage};
use crate::worker::mailbox::Shared;
use crate::worker::places::Network;

/// Files up to here are read at once, and no descriptor is kept.
const SMALL: u64 = 64 * 1024;

/// Larger files of one route that may be on their way at a time; each costs a descriptor.
const MAX_OPEN: usize = 1024;

/// Those of them that may be on their way to one address (a /64 network of IPv6), so that nobody
/// keeps others out by reading slowly.
const MAX_OPEN_PER_ADDRESS: usize = MAX_OPEN / 4;

/// The files that a route serves.
#[derive(Debug)]
pub(crate) struct Files {
    directory: Directory,
    open: Arc<OpenFiles>,
}

impl Files {
    pub(crate) fn new(directory: &Path) -> io::Result<Self> {
        Ok(Self { directory: Directory::new(directory)?, open: Arc::default() })
    }

    /// Answers a GET or HEAD whose pattern ends with `*`.
    pub(crate) fn serve(&self, request: &Request<'_>) -> Reply {
        let rest = request.rest().unwrap_or_default();
        match self.find(rest) {
            Ok((file, metadata)) if metadata.is_dir() => {
                drop(file);
                // Relative links of its page would lead elsewhere without the slash.
                let query = request.query().map(|query| format!("?{query}")).unwrap_or_default();
                let location = format!("{}/{query}", request.path());
                Response::redirect(location).status(301).into()
            }
            Ok((file, metadata)) if metadata.is_file() => self.send(request, file, &metadata),
            Ok(_) => not_found(),
            Err(error) if is_shortage(&error) => busy(),
            Err(_) => not_found(),
        }
    }

    fn find(&self, rest: &str) -> io::Result<(File, Metadata)> {
        let path = relative(rest).ok_or(io::ErrorKind::NotFound)?;
        let file = self.directory.open(&path)?;
        let metadata = file.metadata()?;
        Ok((file, metadata))
    }

    fn send(&self, request: &Request<'_>, file: File, metadata: &Metadata) -> Reply {
        let state = Validators::new(metadata.len(), metadata.modified().ok());
        let mut response =
            Response::new(200).header("ETag", state.etag.clone()).header("Accept-Ranges", "bytes");
        if let Some(date) = state.last_modified() {
            response = response.header("Last-Modified", date);
        }
        let (start, len) = match wanted(request.head(), &state) {
            Wanted::All => (0, state.len),
            Wanted::Part { start, len } => {
                let range = format!("bytes {start}-{}/{}", start + len - 1, state.len);
                response = response.status(206).header("Content-Range", range);
                (start, len)
            }
            Wanted::Nothing => return response.status(304).into(),
            Wanted::Changed => return response.status(412).into(),
            Wanted::Beyond => {
                let range = format!("bytes */{}", state.len);
                return response.status(416).header("Content-Range", range).into();
            }
        };
        let name = request.rest().unwrap_or_default();
        let name = if name.is_empty() || name.ends_with('/') { INDEX } else { name };
        response = response
            .header("Content-Type", content_type::of(&percent::decode(name)))
            // What was uploaded as a picture must not become a page.
            .header("X-Content-Type-Options", "nosniff");
        if len <= SMALL && request.method() != "HEAD" {
            let mut body = vec![0; len as usize];
            return match file.read_exact_at(&mut body, start) {
                Ok(()) => response.body(body).into(),
                Err(error) => {
                    log::warn!("a file could not be read: {error}");
                    Reply::failed()
                }
            };
        }
        let Some(share) = OpenFiles::take(&self.open, request.client_ip()) else { return busy() };
        let source = Box::new(FileSource { file, start, left: len, _share: share });
        Reply { kind: Kind::Streamed { response, len: Some(len), source } }
    }
}

/// The page of a directory.
const INDEX: &str = "index.html";

/// The path below the directory that the rest of a request's path means; `None` if it means none.
fn relative(rest: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() {
            // Only at the end: what was asked for is a directory.
            return segments.peek().is_none().then(|| path.join(INDEX));
        }
        let segment = percent::decode_strictly(segment)?;
        let hidden = segment.starts_with('.') && segment != ".well-known";
        if hidden || segment.contains(['/', '\0']) {
            return None;
        }
        path.push(&*segment);
    }
    Some(path)
}

fn not_found() -> Reply {
    Response::text("There is nothing here.\n").status(404).into()
}

fn busy() -> Reply {
    Response::text("Too many files are open.\n").status(503).header("Retry-After", "1").into()
}

/// How many large files are on their way, and to whom. Peers of Unix sockets have no address, and
/// no share but the whole.
#[derive(Debug, Default)]
struct OpenFiles(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_network: HashMap<Network, usize>,
}

/// The right to have one of them open. Dropping it gives it back.
struct Share {
    files: Arc<OpenFiles>,
    network: Option<Network>,
}

impl OpenFiles {
    fn take(self: &Arc<Self>, ip: Option<IpAddr>) -> Option<Share> {
        let network = ip.map(Network::of);
        let mut counts = self.lock();
        if counts.all >= MAX_OPEN {
            return None;
        }
        if let Some(network) = network {
            let count = counts.by_network.entry(network).or_insert(0);
            if *count >= MAX_OPEN_PER_ADDRESS {
                return None;
            }
            *count += 1;
        }
        counts.all += 1;
        Some(Share { files: Arc::clone(self), network })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Nothing panics while the lock is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self.files.lock();
        counts.all -= 1;
        if let Some(network) = self.network
            && let Entry::Occupied(mut count) = counts.by_network.entry(network)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// A part of a file that is being sent.
struct FileSource {
    file: File,
    start: u64,
    left: u64,
    _share: Share,
}

impl Source for FileSource {
    fn pull(&mut self, out: &mut Vec<u8>, max: usize) -> Pulled {
        if self.left == 0 {
            return Pulled::End;
        }
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(max);
        let before = out.len();
        out.resize(before + count, 0);
        let read = loop {
            match self.file.read_at(&mut out[before..], self.start) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        // A file that has become shorter breaks the promise of its length.
        let read = read.unwrap_or(0);
        out.truncate(before + read);
        self.start += read as u64;
        self.left -= read as u64;
        match read {
            0 => Pulled::Broken,
            _ if self.left == 0 => Pulled::End,
            _ => Pulled::More,
        }
    }

    fn attend(&mut self, _shared: &Arc<Shared>, _id: ConnectionId) {}

    fn ends_with_peer(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_stay_below() {
        for (rest, expected) in [
            ("", Some("index.html")),
            ("a/", Some("a/index.html")),
            ("a/b.css", Some("a/b.css")),
            ("caf%C3%A9%20x", Some("caf\u{e9} x")),
            (".well-known/x", Some(".well-known/x")),
            ("a..b", Some("a..b")),
            ("%25", Some("%")),
            ("..", None),
            ("a/../b", None),
            ("%2e%2E/x", None),
            (".", None),
            (".git/config", None),
            ("a/.env", None),
            ("a%2fb", None),
            ("%2Fetc/passwd", None),
            ("a%00", None),
            ("a//b", None),
            ("/a", None),
            ("//", None),
            ("%", None),
            ("%zz", None),
            ("%ff", None),
        ] {
            assert_eq!(relative(rest), expected.map(PathBuf::from), "{rest}");
        }
    }

    #[test]
    fn one_address_has_a_quarter_of_the_open_files() {
        let ip = |text: &str| Some(text.parse().expect("an address"));
        let files = Arc::new(OpenFiles::default());
        let take = |ip| OpenFiles::take(&files, ip);
        let mut greedy: Vec<_> = std::iter::from_fn(|| take(ip("192.0.2.1"))).collect();
        assert_eq!(greedy.len(), MAX_OPEN_PER_ADDRESS);
        // The same network, and everybody else.
        let mut six: Vec<_> = std::iter::from_fn(|| take(ip("2001:db8::1"))).collect();
        assert_eq!(six.len(), MAX_OPEN_PER_ADDRESS);
        assert!(take(ip("2001:db8::2")).is_none());
        let other = take(ip("192.0.2.2")).expect("a share of its own");
        let local: Vec<_> = std::iter::from_fn(|| take(None)).collect();
        assert_eq!(local.len(), MAX_OPEN - 2 * MAX_OPEN_PER_ADDRESS - 1);
        assert!(take(ip("192.0.2.3")).is_none(), "there are no more of them");
        greedy.pop();
        six.pop();
        assert!(take(ip("192.0.2.1")).is_some());
        drop((greedy, six, other, local));
        let counts = files.lock();
        assert_eq!((counts.all, counts.by_network.len()), (0, 0));
    }

    proptest! {
        #[test]
        fn no_path_has_a_way_out(rest in "[a./%2eEfF0]{0,20}") {
            if let Some(path) = relative(&rest) {
                let normal = |part| matches!(part, std::path::Component::Normal(_));
                prop_assert!(path.components().all(normal), "{path:?}");
            }
        }
    }
}
