//! What publish/subscribe says to the application: messages framed once, outcomes, policies.
//!
//! What comes in: payloads. What goes out: whole frames that many connections share, and the
//! words for what became of them. Nothing here knows a topic's subscribers or a socket.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::protocol::endpoint::Compression;
use crate::protocol::{BufferPool, Endpoint, Message, frame};

/// A message framed once (RFC 6455 5.2), for any number of connections, topics and threads.
///
/// Cloning copies a reference. Costs the payload, a header of 2 to 10 bytes and 16 bytes of
/// counters, in one allocation, until the last clone and the last queue that holds it let go. On
/// the way to connections with compression ([`Deflate`](crate::Deflate)) it is compressed once for
/// each window and level in use, and keeps the result, which costs its length once more. A clone
/// has what its original had by then, and compresses the rest for itself; so does each worker to
/// which a [`Handle`](crate::Handle), or a handler of another worker, posts it.
///
/// ```
/// use wirelane::PreparedMessage;
///
/// let hello = PreparedMessage::text("hello");
/// assert_eq!(hello.message().payload(), b"hello");
/// ```
pub struct PreparedMessage {
    frame: Arc<[u8]>,
    header_len: u8,
    text: bool,
    compress: bool,
    /// What it was compressed to.
    compressed: Mutex<Vec<Compressed>>,
}

/// A compressed frame; none if it would not be shorter.
#[derive(Debug, Clone)]
struct Compressed {
    compression: Compression,
    frame: Option<Arc<[u8]>>,
}

impl PreparedMessage {
    /// A text message. Copies the payload once.
    pub fn text(payload: &str) -> Self {
        Self::new(payload)
    }

    /// A binary message. Copies the payload once.
    pub fn binary(payload: &[u8]) -> Self {
        Self::new(payload)
    }

    /// Either of the two. Copies the payload once.
    pub fn new<'m>(message: impl Into<Message<'m>>) -> Self {
        let message = message.into();
        let payload = message.payload();
        let header = encode_header(message);
        let mut frame: Arc<[u8]> = std::iter::repeat_n(0, header.len() + payload.len()).collect();
        if let Some(bytes) = Arc::get_mut(&mut frame) {
            bytes[..header.len()].copy_from_slice(&header);
            bytes[header.len()..].copy_from_slice(payload);
        }
        let (header_len, text) = (header.len() as u8, message.is_text());
        Self { frame, header_len, text, compress: true, compressed: Mutex::default() }
    }

    /// The same message, which is never compressed: for secrets (see
    /// [`Deflate`](crate::Deflate)).
    pub fn uncompressed(mut self) -> Self {
        self.compress = false;
        self
    }

    /// The frame, compressed; `None` if it would not be shorter. Compresses once.
    fn compressed(&self, compression: Compression, pool: &mut BufferPool) -> Option<Arc<[u8]>> {
        // Nobody panics while holding it.
        let mut kept = self.compressed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = kept.iter().find(|kept| kept.compression == compression) {
            return kept.frame.clone();
        }
        let frame = compression.frame(self.message(), pool, joined);
        kept.push(Compressed { compression, frame: frame.clone() });
        frame
    }

    /// The frame for one connection, compressed; `None` if it gets it as it is.
    pub(crate) fn frame_for(
        &self,
        endpoint: &Endpoint,
        pool: &mut BufferPool,
    ) -> Option<Arc<[u8]>> {
        let len = self.payload().len();
        let compression = endpoint.shared_compression(len).filter(|_| self.compress)?;
        self.compressed(compression, pool)
    }

    /// The message as it was given.
    pub fn message(&self) -> Message<'_> {
        let payload = self.payload();
        // It was text when it was prepared, and nobody has changed it since.
        match std::str::from_utf8(payload) {
            Ok(payload) if self.text => Message::Text(payload),
            _ => Message::Binary(payload),
        }
    }

    /// Header and payload.
    pub(crate) fn frame(&self) -> &Arc<[u8]> {
        &self.frame
    }

    pub(crate) fn payload(&self) -> &[u8] {
        &self.frame[usize::from(self.header_len)..]
    }
}

impl Clone for PreparedMessage {
    fn clone(&self) -> Self {
        let compressed = self.compressed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Self { header_len, text, compress, .. } = *self;
        let compressed = Mutex::new(compressed);
        Self { frame: Arc::clone(&self.frame), header_len, text, compress, compressed }
    }
}

impl PartialEq for PreparedMessage {
    fn eq(&self, other: &Self) -> bool {
        self.frame == other.frame && self.compress == other.compress
    }
}

impl Eq for PreparedMessage {}

impl fmt::Debug for PreparedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PreparedMessage").field(&self.message()).finish()
    }
}

fn encode_header(message: Message<'_>) -> frame::EncodedHeader {
    frame::encode_header(true, false, message.opcode(), message.len() as u64, None)
}

/// What is published: a message or a prepared one, with a key if only the newest value of
/// something counts. Made `From` everything that a [`Message`] is made from, and from a
/// `&PreparedMessage`.
///
/// ```
/// use wirelane::Publication;
///
/// let price = Publication::from("EURUSD 1.0831").key(17);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Publication<'m> {
    content: Content<'m>,
    key: Option<u64>,
    compress: bool,
}

#[derive(Debug, Clone, Copy)]
enum Content<'m> {
    Message(Message<'m>),
    Prepared(&'m PreparedMessage),
}

impl<'m> Publication<'m> {
    /// Names what inside the topic this is the newest value of: an instrument, a player. Only the
    /// policy [`SlowSubscriber::Latest`] looks at it. Without a key the whole topic is one thing.
    #[must_use]
    pub fn key(mut self, key: u64) -> Self {
        self.key = Some(key);
        self
    }

    /// Whether the message may be compressed on its way to connections with compression
    /// ([`Deflate`](crate::Deflate)), once for each window and level in use. Default true.
    #[must_use]
    pub fn compress(mut self, compress: bool) -> Self {
        self.compress = compress;
        self
    }

    pub(crate) fn latest_key(&self) -> Option<u64> {
        self.key
    }

    fn payload(&self) -> &'m [u8] {
        match self.content {
            Content::Message(message) => message.payload(),
            Content::Prepared(prepared) => prepared.payload(),
        }
    }

    /// The message in a form that other threads can keep.
    pub(crate) fn prepare(&self) -> PreparedMessage {
        let mut prepared = match self.content {
            Content::Message(message) => PreparedMessage::new(message),
            Content::Prepared(prepared) => prepared.clone(),
        };
        prepared.compress &= self.compress;
        prepared
    }

    /// Frames the message, in `scratch` if it is shorter than `share_from`.
    pub(crate) fn frame<'f>(self, scratch: &'f mut Vec<u8>, share_from: usize) -> Frame<'f>
    where
        'm: 'f,
    {
        scratch.clear();
        let prepared = match self.content {
            Content::Message(message) if message.len() < share_from => {
                scratch.extend_from_slice(&encode_header(message));
                scratch.extend_from_slice(message.payload());
                None
            }
            _ => Some(self.prepare()),
        };
        Frame { publication: self, scratch, prepared, compressed: Vec::new() }
    }
}

/// A frame on its way to many connections: shared as soon as somebody has to keep it.
#[derive(Debug)]
pub(crate) struct Frame<'f> {
    publication: Publication<'f>,
    scratch: &'f [u8],
    prepared: Option<PreparedMessage>,
    /// What it was compressed to.
    compressed: Vec<Compressed>,
}

/// In which form a connection gets a [`Frame`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Plain,
    /// Compressed; the index of the compressed form.
    Compressed(usize),
}

impl Frame<'_> {
    /// Header and payload.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.prepared.as_ref().map_or(self.scratch, |prepared| &prepared.frame)
    }

    /// The payload, uncompressed.
    pub(crate) fn payload(&self) -> &[u8] {
        self.publication.payload()
    }

    /// The form for this connection. Compresses if nobody has asked for such a one.
    #[inline]
    pub(crate) fn form_for(&mut self, endpoint: &Endpoint, pool: &mut BufferPool) -> Form {
        match endpoint.shared_compression(self.payload().len()) {
            None => Form::Plain,
            Some(compression) => self.compressed_form(compression, pool),
        }
    }

    fn compressed_form(&mut self, compression: Compression, pool: &mut BufferPool) -> Form {
        let known = self.compressed.iter().position(|kept| kept.compression == compression);
        let place = known.unwrap_or_else(|| {
            let frame = match self.publication.content {
                _ if !self.publication.compress => None,
                // It may be published again.
                Content::Prepared(prepared) if !prepared.compress => None,
                Content::Prepared(prepared) => prepared.compressed(compression, pool),
                Content::Message(message) => compression.frame(message, pool, joined),
            };
            self.compressed.push(Compressed { compression, frame });
            self.compressed.len() - 1
        });
        match self.compressed[place].frame {
            Some(_) => Form::Compressed(place),
            None => Form::Plain,
        }
    }

    /// Header and payload in this form.
    pub(crate) fn bytes_of(&self, form: Form) -> &[u8] {
        match self.compressed_frame(form) {
            Some(frame) => frame,
            None => self.bytes(),
        }
    }

    /// The same to keep.
    pub(crate) fn shared(&mut self, form: Form) -> Arc<[u8]> {
        match self.compressed_frame(form) {
            Some(frame) => Arc::clone(frame),
            None => Arc::clone(self.prepared().frame()),
        }
    }

    fn compressed_frame(&self, form: Form) -> Option<&Arc<[u8]>> {
        match form {
            Form::Plain => None,
            Form::Compressed(place) => self.compressed[place].frame.as_ref(),
        }
    }

    /// The same to keep. Allocates once, however many ask.
    pub(crate) fn prepared(&mut self) -> &PreparedMessage {
        self.prepared.get_or_insert_with(|| self.publication.prepare())
    }
}

impl<'m, M: Into<Message<'m>>> From<M> for Publication<'m> {
    fn from(message: M) -> Self {
        Self { content: Content::Message(message.into()), key: None, compress: true }
    }
}

impl<'m> From<&'m PreparedMessage> for Publication<'m> {
    fn from(prepared: &'m PreparedMessage) -> Self {
        Self { content: Content::Prepared(prepared), key: None, compress: true }
    }
}

/// What became of a published message.
///
/// A subscriber whose connection is closing counts nowhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// Subscribers of this worker whose queue took it; 0 from a [`Handle`](crate::Handle), which
    /// belongs to no worker and only posts.
    pub queued: usize,
    /// The same that miss it: see [`SlowSubscriber`]. Their handlers learn it
    /// by [`on_dropped`](crate::Handler::on_dropped).
    pub dropped: usize,
    /// Other workers with subscribers, to which it was posted; from a `Handle` all that have some.
    pub posted: usize,
    /// Other workers with subscribers whose mailbox was full or that had stopped: nobody there
    /// gets it. Counted in [`Stats::publish_refused`](crate::Stats::publish_refused).
    pub refused: usize,
}

/// What a topic does with a message for a subscriber that reads more slowly than is published.
/// Set by [`ServerBuilder::topic_policy`](crate::ServerBuilder::topic_policy).
///
/// A subscriber is *behind* from the moment its socket takes no more until it has taken
/// everything that was queued; a few hundred kilobytes in the kernel's buffers come before that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlowSubscriber {
    /// Messages are queued up to `max_backpressure`; what would pass it is dropped. The default.
    #[default]
    Queue,
    /// Messages are dropped as long as the subscriber is behind.
    Skip,
    /// As long as the subscriber is behind, only the newest message waits, of each
    /// [`key`](Publication::key) if the publisher gives keys; it replaces the one that waited, and
    /// leaves when everything else has left. So a subscriber gets the newest value, not the
    /// oldest, and costs one message per key, which counts for `max_backpressure`. Messages sent
    /// meanwhile by `send` or by other topics go first. What waits for a connection with a
    /// dedicated compressor is not compressed ([`Deflate`](crate::Deflate)).
    Latest,
    /// Messages are queued up to `max_backpressure`; whoever would pass it is closed with 1013
    /// (try again later).
    Close,
}

/// Why a subscriber missed a published message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// The queue would have passed `max_backpressure`, or those of the worker together
    /// `max_worker_backpressure`.
    Full,
    /// The subscriber was behind, and the policy is [`SlowSubscriber::Skip`].
    Skipped,
    /// The application is in the middle of a streamed message to the subscriber, and no other
    /// message may come in between (RFC 6455 5.4).
    Streaming,
    /// A newer message took its place ([`SlowSubscriber::Latest`]).
    Replaced,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the queue is full",
            Self::Skipped => "the subscriber is behind",
            Self::Streaming => "another message to the subscriber is not complete",
            Self::Replaced => "a newer message took its place",
        })
    }
}

/// Published messages that a subscriber missed, as
/// [`Handler::on_dropped`](crate::Handler::on_dropped) learns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dropped<'a> {
    /// The topic.
    pub topic: &'a str,
    /// Why.
    pub reason: DropReason,
    /// How many since the last call with this topic and reason.
    pub count: u64,
}

/// A change in a topic's audience, as
/// [`Handler::on_subscription`](crate::Handler::on_subscription) learns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Subscription<'a> {
    /// The topic.
    pub topic: &'a str,
    /// Subscribers in the whole server before the change.
    pub before: usize,
    /// And after it: one more or one less.
    pub after: usize,
}

/// Why a connection could not subscribe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The connection is closing or gone.
    Gone,
    /// The connection has as many subscriptions as `max_subscriptions` allows.
    TooManySubscriptions {
        /// The limit.
        limit: usize,
    },
    /// The worker has as many topics as `max_topics` allows, and this would be a new one.
    TooManyTopics {
        /// The limit.
        limit: usize,
    },
    /// The topic's name is too long.
    TopicTooLong {
        /// The most bytes that a name may have.
        limit: usize,
    },
}

impl fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the connection has gone"),
            Self::TooManySubscriptions { limit } => {
                write!(f, "the connection has {limit} subscriptions, which is max_subscriptions")
            }
            Self::TooManyTopics { limit } => {
                write!(f, "the worker has {limit} topics, which is max_topics")
            }
            Self::TopicTooLong { limit } => {
                write!(f, "the name of a topic has at most {limit} bytes")
            }
        }
    }
}

impl std::error::Error for SubscribeError {}

/// Header and payload in one piece, in a single allocation.
fn joined(header: &[u8], payload: &[u8]) -> Arc<[u8]> {
    let mut frame: Arc<[u8]> = std::iter::repeat_n(0, header.len() + payload.len()).collect();
    if let Some(bytes) = Arc::get_mut(&mut frame) {
        bytes[..header.len()].copy_from_slice(header);
        bytes[header.len()..].copy_from_slice(payload);
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prepared_message_is_one_whole_frame() {
        let text = PreparedMessage::text("Hello");
        assert_eq!(&text.frame()[..], b"\x81\x05Hello");
        assert_eq!(text.message(), Message::Text("Hello"));
        let empty = PreparedMessage::binary(b"");
        assert_eq!((&empty.frame()[..], empty.message()), (&b"\x82\0"[..], Message::Binary(b"")));
        let long = vec![7; 70_000];
        let long = PreparedMessage::new(&long);
        assert_eq!(long.frame()[..10], [0x82, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70]);
        assert_eq!(long.message().len(), 70_000);
        // Text stays binary if it was given as binary.
        assert_eq!(PreparedMessage::binary(b"abc").message(), Message::Binary(b"abc"));
    }

    #[test]
    fn a_frame_is_shared_once_and_only_if_somebody_keeps_it() {
        let mut scratch = Vec::new();
        let mut frame = Publication::from("short").key(7).frame(&mut scratch, 1000);
        assert!(frame.prepared.is_none());
        assert_eq!(frame.bytes(), b"\x81\x05short");
        let first = frame.prepared().clone();
        assert!(Arc::ptr_eq(first.frame(), frame.prepared().frame()));
        assert_eq!(frame.bytes(), b"\x81\x05short");

        let prepared = PreparedMessage::text("prepared");
        let mut frame = Publication::from(&prepared).frame(&mut scratch, 1000);
        assert!(Arc::ptr_eq(prepared.frame(), frame.prepared().frame()), "no second copy");
        assert_eq!(frame.publication.latest_key(), None);
    }
}
