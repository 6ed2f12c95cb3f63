//! Stands in for the codecs when the feature `deflate` is off: none is ever made.
//!
//! Nothing comes in or goes out: without [`Deflate::shared`](crate::Deflate) and its like there is
//! nothing to agree on, so that the code that uses a codec is checked by the compiler and not run.

use super::deflate::InflateError;
use super::history::{History, Stamp};

const NEVER: &str = "compression is never agreed on without the feature `deflate`";

pub(in crate::protocol) struct Deflater;

impl Deflater {
    pub(in crate::protocol) fn new(_window_bits: u8, _level: u8) -> Self {
        unreachable!("{NEVER}")
    }

    pub(in crate::protocol) fn for_one(window_bits: u8, level: u8) -> Self {
        Self::new(window_bits, level)
    }

    pub(in crate::protocol) fn forget(&mut self) {}

    pub(in crate::protocol) fn stamp(&self) -> Option<Stamp> {
        None
    }

    pub(in crate::protocol) fn set_stamp(&mut self, _stamp: Option<Stamp>) {}

    pub(in crate::protocol) fn load(&mut self, history: &History) {
        debug_assert!(history.is_full() && history.parts().concat().is_empty());
    }

    pub(in crate::protocol) fn take_used(&mut self) -> bool {
        false
    }

    pub(in crate::protocol) fn deflate<'o>(
        &mut self,
        _payload: &[u8],
        out: &'o mut Vec<u8>,
    ) -> &'o [u8] {
        out
    }
}

pub(in crate::protocol) struct Inflater {
    history: History,
}

impl Inflater {
    pub(in crate::protocol) fn new() -> Self {
        unreachable!("{NEVER}")
    }

    pub(in crate::protocol) fn begin(&mut self, history: History) {
        self.history = history;
    }

    pub(in crate::protocol) fn end(&mut self) -> History {
        self.history.clear();
        std::mem::take(&mut self.history)
    }

    pub(in crate::protocol) fn inflate(&mut self, _input: &mut &[u8], _output: &mut [u8]) -> usize {
        0
    }

    pub(in crate::protocol) fn check(&self) -> Result<(), InflateError> {
        Err(InflateError::Corrupt)
    }

    pub(in crate::protocol) fn finish(&mut self, _keep: bool) -> Result<(), InflateError> {
        Err(InflateError::Corrupt)
    }
}
