//! Bodies that are sent as they come into being.
//!
//! Comes in: pieces, on any thread. Goes out: pieces for the worker, whenever the client's socket
//! has room. Between them lies a bounded pipe, so that a client that reads slowly slows its writer
//! down and costs no more than that.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Response;
use super::reply::{Kind, Reply};
use crate::driver::ConnectionId;
use crate::promise::{Callback, Home};
use crate::worker::mailbox::{Command, Shared};
use crate::worker::route::guard;

/// Bytes that wait in a pipe at most, one longer piece that meets an empty pipe excepted.
const CAPACITY: usize = 256 * 1024;

/// What a worker takes a body from, piece by piece.
pub(crate) trait Source: Send {
    /// Appends at most `max` bytes of the body.
    fn pull(&mut self, out: &mut Vec<u8>, max: usize) -> Pulled;

    /// Says who sends the body. Whatever is there already need not be announced.
    fn attend(&mut self, shared: &Arc<Shared>, id: ConnectionId);

    /// Whether a client that sends no more has gone for this body: it is not known how long it
    /// would otherwise take to notice that.
    fn ends_with_peer(&self) -> bool;
}

/// What there is to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pulled {
    /// Something was appended, and there may be more.
    More,
    /// Nothing more for the moment; the worker will be told.
    Wait,
    /// The body is complete.
    End,
    /// The rest of the body will not come: the client must not take this for its end.
    Broken,
}

/// Why a piece of a body was not taken. Nothing of it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamError {
    /// Too much waits, because the client reads slowly: try again when
    /// [`BodyWriter::on_writable`] says so.
    Full,
    /// Nobody will get it: the client has gone, the body is not wanted (HEAD), or the server has
    /// stopped.
    Gone,
    /// The body would be longer than it was announced.
    TooLong,
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "too much of the body waits for the client",
            Self::Gone => "nobody waits for this body any more",
            Self::TooLong => "the body would be longer than it was announced",
        })
    }
}

impl std::error::Error for StreamError {}

/// Writes the body of an answer, from any thread; made by [`Response::stream`].
///
/// Pieces that the client has not read wait in a buffer of 256 KiB; what does not fit is an error
/// value, never a wait. Whoever is done calls [`finish`](Self::finish): a writer that is dropped
/// without it cuts the connection, so that the client cannot take half a body for a whole one.
///
/// ```
/// use std::time::Duration;
/// use wirelane::{Response, Server, StreamError};
///
/// let server = Server::builder().listen("127.0.0.1:0").get("/ticks", |_request| {
///     let (ticks, reply) = Response::event_stream().stream();
///     std::thread::spawn(move || {
///         for tick in 0.. {
///             match ticks.send_event("tick", &tick.to_string()) {
///                 // A client that does not keep up misses some.
///                 Ok(()) | Err(StreamError::Full) => {}
///                 Err(_) => return,
///             }
///             std::thread::sleep(Duration::from_secs(1));
///         }
///     });
///     reply
/// });
/// # let _ = server;
/// ```
pub struct BodyWriter {
    pipe: Arc<Pipe>,
}

/// The two halves of an answer whose body follows.
pub(super) fn streamed(response: Response, len: Option<u64>) -> (BodyWriter, Reply) {
    let mut response = response;
    let first = std::mem::take(&mut response.body);
    let pipe = Arc::new(Pipe { state: Mutex::new(State { left: len, ..State::default() }) });
    let writer = BodyWriter { pipe: Arc::clone(&pipe) };
    if !first.is_empty() && writer.send(&first).is_err() {
        log::error!("the first part of a body is longer than the whole");
    }
    let source = Box::new(PipeSource { pipe });
    (writer, Reply { kind: Kind::Streamed { response, len, source } })
}

struct Pipe {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    /// How many of them were taken.
    taken: usize,
    /// Bytes of the announced length that were not written.
    left: Option<u64>,
    writer: Writer,
    reader_gone: bool,
    home: Option<Home>,
    /// The worker was told and has not looked.
    told: bool,
    /// A piece was refused: its writer waits for room.
    refused: bool,
    on_writable: Option<Box<dyn FnMut() + Send>>,
    on_gone: Option<Callback>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Writer {
    #[default]
    Writing,
    Finished,
    /// Dropped before it was done.
    Broken,
}

impl State {
    fn waiting(&self) -> usize {
        self.bytes.len() - self.taken
    }

    /// Who has to be told that there is something to do.
    fn tell(&mut self) -> Option<(Arc<Shared>, ConnectionId)> {
        let home = self.home.as_ref().filter(|_| !self.told)?;
        self.told = true;
        Some((Arc::clone(&home.shared), home.id))
    }
}

impl Pipe {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing of the application runs while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and tells the worker, if that is new to it.
    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = change(&mut state);
        let tell = state.tell();
        drop(state);
        if let Some((shared, id)) = tell
            && !(Home { shared, id }).tell(Command::Look { id })
        {
            self.lock().reader_gone = true;
        }
        result
    }
}

impl BodyWriter {
    /// Appends a piece to the body; it leaves at once, or as soon as the client has read enough.
    /// Copied once. An empty piece does nothing.
    ///
    /// # Errors
    ///
    /// Nothing of the piece was taken: see [`StreamError`]. A piece that meets an empty buffer is
    /// never refused for its length.
    pub fn send(&self, piece: impl AsRef<[u8]>) -> Result<(), StreamError> {
        let piece = piece.as_ref();
        self.pipe.change(|state| {
            if state.reader_gone {
                return Err(StreamError::Gone);
            }
            if state.left.is_some_and(|left| piece.len() as u64 > left) {
                return Err(StreamError::TooLong);
            }
            if state.waiting() != 0 && state.waiting() + piece.len() > CAPACITY {
                state.refused = true;
                return Err(StreamError::Full);
            }
            if let Some(left) = &mut state.left {
                *left -= piece.len() as u64;
            }
            state.bytes.extend_from_slice(piece);
            Ok(())
        })
    }

    /// Appends a server-sent event of this name (none, if it is empty). The data may have many
    /// lines; a name ends with its first. For [`Response::event_stream`].
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn send_event(&self, name: &str, data: &str) -> Result<(), StreamError> {
        let mut event = String::with_capacity(data.len() + name.len() + 32);
        let lines = |text: &str| {
            let text = text.replace("\r\n", "\n").replace('\r', "\n");
            text.split('\n').map(str::to_owned).collect::<Vec<_>>()
        };
        if let Some(name) = lines(name).first().filter(|name| !name.is_empty()) {
            event.push_str("event: ");
            event.push_str(name);
            event.push('\n');
        }
        for line in lines(data) {
            event.push_str("data: ");
            event.push_str(&line);
            event.push('\n');
        }
        event.push('\n');
        self.send(event)
    }

    /// The body is complete.
    pub fn finish(self) {
        self.pipe.change(|state| {
            state.writer =
                if state.left.unwrap_or(0) == 0 { Writer::Finished } else { Writer::Broken };
        });
    }

    /// Bytes that were sent and have not left for the client's socket.
    pub fn buffered_amount(&self) -> usize {
        self.pipe.lock().waiting()
    }

    /// True if nobody will get what is sent. What is false now may be true at once.
    pub fn is_gone(&self) -> bool {
        self.pipe.lock().reader_gone
    }

    /// Has `call` called each time there is room again after a [`StreamError::Full`], that is, when
    /// half of the buffer has been read: on the worker's thread; it should not block. A second call
    /// of this replaces the first.
    pub fn on_writable(&self, call: impl FnMut() + Send + 'static) {
        let before = self.pipe.lock().on_writable.replace(Box::new(call));
        drop(before);
    }

    /// Has `call` called, once, if nobody will get the rest of the body: the client has left, or the
    /// server stops. On the worker's thread, or at once if that is so already; it should not block.
    /// A second call replaces the first.
    pub fn on_gone(&self, call: impl FnOnce() + Send + 'static) {
        let mut state = self.pipe.lock();
        if state.reader_gone {
            drop(state);
            return call();
        }
        let before = state.on_gone.replace(Box::new(call));
        drop(state);
        drop(before);
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        let callbacks = self.pipe.change(|state| {
            if state.writer == Writer::Writing {
                state.writer = Writer::Broken;
            }
            (state.on_writable.take(), state.on_gone.take())
        });
        drop(callbacks);
    }
}

impl fmt::Debug for BodyWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.pipe.lock();
        f.debug_struct("BodyWriter")
            .field("buffered_amount", &state.waiting())
            .field("is_gone", &state.reader_gone)
            .finish()
    }
}

/// The worker's half.
struct PipeSource {
    pipe: Arc<Pipe>,
}

impl PipeSource {
    /// There is room again: says so to a writer that was refused.
    fn say_writable(&self) {
        let call = self.pipe.lock().on_writable.take();
        if let Some(mut call) = call {
            // The application's code: it may panic, and it may set another one.
            let _ = guard(&mut call);
            let mut state = self.pipe.lock();
            if state.on_writable.is_none() && state.writer == Writer::Writing {
                state.on_writable = Some(call);
            }
        }
    }
}

impl Source for PipeSource {
    fn pull(&mut self, out: &mut Vec<u8>, max: usize) -> Pulled {
        let mut state = self.pipe.lock();
        state.told = false;
        let count = state.waiting().min(max);
        let start = state.taken;
        out.extend_from_slice(&state.bytes[start..start + count]);
        state.taken += count;
        if state.waiting() == 0 {
            state.taken = 0;
            state.bytes.clear();
            // A pipe that idles costs nothing.
            state.bytes.shrink_to(4096);
        }
        let room = state.refused && state.waiting() <= CAPACITY / 2;
        if room {
            state.refused = false;
        }
        let pulled = match state.writer {
            _ if state.waiting() != 0 => Pulled::More,
            Writer::Finished => Pulled::End,
            Writer::Broken => Pulled::Broken,
            Writer::Writing if count != 0 => Pulled::More,
            Writer::Writing => Pulled::Wait,
        };
        drop(state);
        if room {
            self.say_writable();
        }
        pulled
    }

    fn attend(&mut self, shared: &Arc<Shared>, id: ConnectionId) {
        self.pipe.lock().home = Some(Home { shared: Arc::clone(shared), id });
    }

    fn ends_with_peer(&self) -> bool {
        true
    }
}

impl Drop for PipeSource {
    fn drop(&mut self) {
        let mut state = self.pipe.lock();
        state.reader_gone = true;
        state.home = None;
        state.bytes = Vec::new();
        state.taken = 0;
        let unfinished = state.writer == Writer::Writing;
        let (on_gone, on_writable) = (state.on_gone.take(), state.on_writable.take());
        drop(state);
        // The application's code: it may panic.
        let _ = guard(move || drop(on_writable));
        if let Some(call) = on_gone.filter(|_| unfinished) {
            let _ = guard(call);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::config::Config;

    fn stream(len: Option<u64>) -> (BodyWriter, Box<dyn Source>) {
        let (writer, reply) = streamed(Response::new(200), len);
        let Kind::Streamed { source, .. } = reply.kind else { panic!("streamed") };
        (writer, source)
    }

    fn all(source: &mut dyn Source) -> (Vec<u8>, Pulled) {
        let mut out = Vec::new();
        loop {
            match source.pull(&mut out, 1000) {
                Pulled::More => {}
                other => return (out, other),
            }
        }
    }

    #[test]
    fn pieces_come_out_in_order_until_the_end() {
        let (writer, mut source) = stream(None);
        writer.send("ab").expect("room");
        writer.send("c").expect("room");
        assert_eq!(writer.buffered_amount(), 3);
        assert_eq!(all(&mut *source), (b"abc".to_vec(), Pulled::Wait));
        writer.send(vec![b'd'; 2500]).expect("room");
        writer.finish();
        assert_eq!(all(&mut *source), (vec![b'd'; 2500], Pulled::End));
    }

    #[test]
    fn half_a_body_is_not_a_whole_one() {
        let (writer, mut source) = stream(None);
        writer.send("ab").expect("room");
        drop(writer);
        assert_eq!(all(&mut *source), (b"ab".to_vec(), Pulled::Broken));
        let (writer, mut source) = stream(Some(3));
        assert_eq!(writer.send("abcd"), Err(StreamError::TooLong));
        writer.send("ab").expect("room");
        writer.finish();
        assert_eq!(all(&mut *source).1, Pulled::Broken);
    }

    #[test]
    fn a_full_pipe_says_so_and_when_there_is_room() {
        let (writer, mut source) = stream(None);
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&calls);
        writer.on_writable(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        writer.send(vec![0; CAPACITY + 1]).expect("a long piece meets an empty pipe");
        assert_eq!(writer.send("x"), Err(StreamError::Full));
        let mut out = Vec::new();
        assert_eq!(source.pull(&mut out, 10), Pulled::More);
        assert_eq!((writer.send("x"), calls.load(Ordering::Relaxed)), (Ok(()), 0));
        assert_eq!(writer.send(vec![0; 100]), Err(StreamError::Full));
        assert_eq!(all(&mut *source).1, Pulled::Wait);
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        writer.send("x").expect("room");
        assert_eq!(all(&mut *source).1, Pulled::Wait);
        assert_eq!(calls.load(Ordering::Relaxed), 1, "nobody was refused");
    }

    #[test]
    fn the_writer_learns_that_nobody_reads() {
        let (writer, source) = stream(None);
        let calls = Arc::new(AtomicUsize::new(0));
        let count = || {
            let calls = Arc::clone(&calls);
            move || {
                calls.fetch_add(1, Ordering::Relaxed);
            }
        };
        writer.on_gone(count());
        drop(source);
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        assert!(writer.is_gone());
        assert_eq!(writer.send("x"), Err(StreamError::Gone));
        writer.on_gone(count());
        assert_eq!(calls.load(Ordering::Relaxed), 2, "at once");
    }

    #[test]
    fn events_are_lines() {
        let (writer, mut source) = stream(None);
        writer.send_event("a\nb", "one\r\ntwo\rthree").expect("room");
        writer.send_event("", "").expect("room");
        let expected = "event: a\ndata: one\ndata: two\ndata: three\n\ndata: \n\n";
        assert_eq!(String::from_utf8(all(&mut *source).0).expect("text"), expected);
    }

    #[test]
    fn the_worker_is_told_once_until_it_looks() {
        let shared = Arc::new(Shared::new(&Config::default(), Arc::default()));
        let (writer, mut source) = stream(None);
        writer.send("before").expect("room");
        source.attend(&shared, ConnectionId::new(0, 1, 1));
        let told = || {
            let mut batch = std::collections::VecDeque::new();
            shared.mailboxes[0].take(&mut batch);
            batch.len()
        };
        writer.send("a").expect("room");
        writer.send("b").expect("room");
        assert_eq!(told(), 1);
        assert_eq!(all(&mut *source).0, b"beforeab");
        writer.finish();
        assert_eq!(told(), 1);
    }
}
