//! Wirelane: a WebSocket server library for Linux.
#![deny(unsafe_code)]

pub mod protocol;
pub mod simd;

mod driver;
mod worker;
