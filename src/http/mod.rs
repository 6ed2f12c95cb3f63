//! Plain HTTP on the WebSocket port: routes, requests, answers.
//!
//! What comes in: parsed heads, bodies, what the application answers. What goes out: which bytes
//! belong to a body, what of a file is wanted, the head of an answer. The turn of a request, from
//! its first byte to its last answered one, is in `worker::http`; this folder knows neither a
//! connection nor a socket.

pub(crate) mod body;
pub(crate) mod conditional;
pub(crate) mod content_type;
pub(crate) mod files;
pub(crate) mod percent;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod router;
pub(crate) mod stream;
pub(crate) mod upload;
pub(crate) mod writing;

pub use self::percent::QueryPairs;
pub use self::reply::{Reply, Responder};
pub use self::request::Request;
pub use self::response::{Body, Response};
pub use self::stream::{BodyWriter, StreamError};
pub use self::upload::{Intake, Resume, Upload, UploadBody};
