//! What a connection keeps while it speaks HTTP: nothing before its first byte, and nothing but
//! the slot after a 101.
//!
//! ```text
//!  Head --head complete--+--> Deciding --101--> Live (not here any more)
//!   ^                    +--> Receiving --body complete--+
//!   |                    +-------------------------------+--> Owed --+
//!   |                                                    +-----------+--> Streaming --+
//!   +------------------------- answered, keep-alive -----+-----------+----------------+
//! ```

use std::fmt;
use std::net::SocketAddr;
use std::sync::Weak;

use crate::http::body::BodyDecoder;
use crate::http::reply::Reply;
use crate::http::response::Response;
use crate::http::stream::Source;
use crate::http::upload::Upload;
use crate::http::writing::{Framing, Manner};
use crate::promise::{Pending, Waiting};
use crate::protocol::upgrade::HeadScanner;

/// A connection whose first byte has come and that was not upgraded.
#[derive(Debug, Default)]
pub(crate) struct Http {
    /// Received and not used: the beginning of a head, or what came behind a request that is not
    /// answered.
    pub(crate) input: Vec<u8>,
    /// How far the head was looked at that `input` begins with.
    pub(crate) scanner: HeadScanner,
    /// Its peer is a proxy that has to begin with a PROXY header, and that is not complete.
    pub(crate) awaits_proxy_header: bool,
    /// The client as the PROXY header named it.
    pub(crate) proxied: Option<SocketAddr>,
    /// Requests were answered before.
    pub(crate) answered: bool,
    /// The deadline is that of a head that has begun, not that of an idle connection.
    pub(crate) head_began: bool,
    /// It had its share of this turn; the requests in `input` are served in the next one.
    pub(crate) put_off: bool,
    pub(crate) stage: Stage,
}

/// What the connection's present request waits for.
#[derive(Debug, Default)]
pub(crate) enum Stage {
    /// Its head.
    #[default]
    Head,
    /// The application's decision about an upgrade.
    Deciding(Deciding),
    /// Its body.
    Receiving(Box<Receiving>),
    /// An answer that was put off.
    Owed(Box<Owed>),
    /// The rest of an answer, or a socket that takes it.
    Streaming(Streaming),
}

/// An upgrade that waits for the application.
#[derive(Debug)]
pub(crate) struct Deciding {
    /// Index of the route.
    pub(crate) route: u16,
    /// Dropping it tells whoever decides that nobody waits.
    pub(crate) pending: Box<dyn Pending>,
    /// The request; it is parsed again once the decision is there.
    pub(crate) head: Vec<u8>,
}

/// A request whose body arrives.
#[derive(Debug)]
pub(crate) struct Receiving {
    /// The request; it is parsed again once its body is there.
    pub(crate) head: Vec<u8>,
    pub(crate) decoder: BodyDecoder,
    pub(crate) received: u64,
    /// How much had been received when the deadline was last moved.
    pub(crate) marked: u64,
    pub(crate) sink: Sink,
    pub(crate) manner: Manner,
}

/// Where a body goes.
pub(crate) enum Sink {
    Buffer(Vec<u8>),
    Upload {
        upload: Box<dyn Upload>,
        /// Somebody who holds this has paused the body.
        pauses: Weak<()>,
    },
}

/// An answer that will come.
#[derive(Debug)]
pub(crate) struct Owed {
    /// Dropping it tells whoever answers that nobody waits.
    pub(crate) waiting: Waiting<Reply>,
    /// The answer when the time is up.
    pub(crate) otherwise: Option<Response>,
    pub(crate) manner: Manner,
}

/// A body on its way to the client.
pub(crate) struct Streaming {
    pub(crate) source: Box<dyn Source>,
    pub(crate) framing: Framing,
    pub(crate) manner: Manner,
    /// Is in the worker's list of bodies to go on with.
    pub(crate) queued: bool,
}

impl Http {
    /// True if what comes now has to wait for something else.
    pub(crate) fn is_busy(&self) -> bool {
        match &self.stage {
            Stage::Head => self.put_off,
            Stage::Receiving(receiving) => receiving.is_paused(),
            Stage::Deciding(_) | Stage::Owed(_) | Stage::Streaming(_) => true,
        }
    }
}

impl Receiving {
    /// True while the application does not want the body.
    pub(crate) fn is_paused(&self) -> bool {
        match &self.sink {
            Sink::Buffer(_) => false,
            Sink::Upload { pauses, .. } => pauses.strong_count() != 0,
        }
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Buffer(body) => f.debug_tuple("Buffer").field(&body.len()).finish(),
            Self::Upload { .. } => f.write_str("Upload"),
        }
    }
}

impl fmt::Debug for Streaming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streaming")
            .field("framing", &self.framing)
            .field("manner", &self.manner)
            .finish_non_exhaustive()
    }
}
