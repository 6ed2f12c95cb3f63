//! What stands for TLS in a build without it: types without values.

use super::{End, Opened};

/// Bytes that records may add to a batch.
pub(crate) const SEAL_ROOM: usize = 0;

/// The TLS of a server; there is none.
#[derive(Debug)]
pub(crate) enum Acceptor {}

/// The TLS of a connection; there is none.
#[derive(Debug)]
pub(crate) enum Tls {}

/// Begins TLS with a server; there is none.
#[derive(Clone, Debug)]
pub(crate) enum Starter {}

impl Starter {
    pub(crate) fn start(&self) -> Result<Box<Tls>, String> {
        match *self {}
    }
}

/// What became of received ciphertext.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) opened: Option<Opened>,
    pub(crate) end: Option<End>,
}

/// The keys are used up.
#[derive(Debug)]
pub(crate) struct Exhausted;

impl Tls {
    pub(crate) fn expected() -> Box<Self> {
        unreachable!("asked for with an `Acceptor` only")
    }

    pub(crate) fn greet(&mut self, _answer: &mut Vec<u8>) {
        match *self {}
    }

    pub(crate) fn error(&self) -> &str {
        match *self {}
    }

    pub(crate) fn is_expected(&self) -> bool {
        match *self {}
    }

    pub(crate) fn is_open(&self) -> bool {
        match *self {}
    }

    pub(crate) fn is_closed_by_peer(&self) -> bool {
        match *self {}
    }

    pub(crate) fn has_failed(&self) -> bool {
        match *self {}
    }

    pub(crate) fn queued(&mut self) -> &mut bool {
        match *self {}
    }

    pub(crate) fn hold(&mut self, _bytes: &[u8]) {
        match *self {}
    }

    pub(crate) fn held_len(&self) -> usize {
        match *self {}
    }

    pub(crate) fn accept(&mut self, _acceptor: &Acceptor) -> Result<(), super::TlsFailure> {
        match *self {}
    }

    pub(crate) fn receive(
        &mut self,
        _bytes: &mut [u8],
        _plain: &mut Vec<u8>,
        _answer: &mut Vec<u8>,
    ) -> Received {
        match *self {}
    }

    pub(crate) fn seal(&mut self, _plain: &[u8], _out: &mut [u8]) -> Result<usize, Exhausted> {
        match *self {}
    }

    pub(crate) fn close_notify(&mut self, _out: &mut [u8]) -> usize {
        match *self {}
    }
}
