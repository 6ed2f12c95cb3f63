//! Wirelane: a WebSocket server library for Linux.
#![deny(unsafe_code)]

pub mod protocol;

mod driver;
mod simd;
mod worker;
