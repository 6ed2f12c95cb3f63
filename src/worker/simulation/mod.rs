//! The whole server on the simulated network: thousands of seeds, faults of every kind.
//!
//! In: seeds. Out: failed assertions, with the seed that replays them. Never: a socket, a thread,
//! the real clock.
//!
//! A seed decides what the network does, what each client does and in which order; the worker is
//! the real one. `assertions.rs` says what must hold in spite of everything, at the end of every
//! turn; each of the other files adds one promise of the server and a world that tries to break
//! it. `WIRELANE_SEEDS=20000 cargo test --release --lib simulation` looks further.

mod accepting;
mod adopting;
mod assertions;
mod client;
#[cfg(feature = "deflate")]
mod compression;
mod corking;
mod deadlines;
mod dialing;
mod load;
mod log;
mod mailbox;
mod mischief;
mod pauses;
mod promises;
mod scripted;
#[cfg(feature = "tls-no-provider")]
mod secure;
mod segmentation;
mod shutdown;
mod world;
