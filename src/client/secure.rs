//! TLS on a blocking socket.
//!
//! In: plaintext and ciphertext of one connection, deadlines. Out: the other of the two. What a
//! call could not send stays here and leaves with the next one.

use std::fmt;

use super::error::ClientError;
use super::stream::{Deadline, Stream};
use crate::tls::{End, SEAL_BYTES, SEAL_ROOM, Tls};

/// Ciphertext asked of the socket at a time: two records.
const READ_BYTES: usize = 32 * 1024;

/// A connection in TLS.
pub(super) struct Secure {
    pub(super) stream: Box<Stream>,
    tls: Box<Tls>,
    input: Vec<u8>,
    /// Plaintext that was received, and how much of it was read.
    plain: Vec<u8>,
    read: usize,
    /// Records that the socket has not taken.
    out: Vec<u8>,
    sealed: Vec<u8>,
    /// The server has said that it will send no more.
    ended: bool,
}

impl Secure {
    /// Completes the TLS handshake.
    pub(super) fn handshake(
        stream: Stream,
        tls: Box<Tls>,
        deadline: Deadline,
    ) -> Result<Stream, ClientError> {
        let mut secure = Self {
            stream: Box::new(stream),
            tls,
            input: vec![0; READ_BYTES],
            plain: Vec::new(),
            read: 0,
            out: Vec::new(),
            sealed: vec![0; SEAL_BYTES + SEAL_ROOM],
            ended: false,
        };
        secure.tls.greet(&mut secure.out);
        while !secure.tls.is_open() {
            secure.settle(deadline)?;
            if secure.receive(deadline)? == 0 || secure.ended {
                return Err(ClientError::Ended);
            }
        }
        secure.settle(deadline)?;
        Ok(Stream::Secure(Box::new(secure)))
    }

    /// Reads plaintext; 0 is the end, with close_notify or without: no message is taken for whole
    /// because of it.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        deadline: Deadline,
    ) -> Result<usize, ClientError> {
        while self.read == self.plain.len() {
            if self.ended {
                return Ok(0);
            }
            if self.receive(deadline)? == 0 {
                return Ok(0);
            }
        }
        let count = buffer.len().min(self.plain.len() - self.read);
        buffer[..count].copy_from_slice(&self.plain[self.read..self.read + count]);
        self.read += count;
        Ok(count)
    }

    /// Seals a piece and sends it; gives how much plaintext that was. What the socket does not take
    /// in time stays here.
    pub(super) fn write(&mut self, bytes: &[u8], deadline: Deadline) -> Result<usize, ClientError> {
        self.settle(deadline)?;
        let piece = &bytes[..bytes.len().min(SEAL_BYTES)];
        let count = self.tls.seal(piece, &mut self.sealed).map_err(|_| ClientError::Closed)?;
        self.out.extend_from_slice(&self.sealed[..count]);
        match self.settle(deadline) {
            Ok(()) | Err(ClientError::TimedOut) => Ok(piece.len()),
            Err(error) => Err(error),
        }
    }

    /// Sends the records that wait.
    pub(super) fn settle(&mut self, deadline: Deadline) -> Result<(), ClientError> {
        let mut sent = 0;
        let mut result = Ok(());
        while sent < self.out.len() && result.is_ok() {
            match self.stream.write(&self.out[sent..], deadline) {
                Ok(count) => sent += count,
                Err(error) => result = Err(error),
            }
        }
        self.out.drain(..sent);
        result
    }

    /// close_notify, if the socket takes it at once.
    pub(super) fn say_goodbye(&mut self) {
        let count = self.tls.close_notify(&mut self.sealed);
        self.out.extend_from_slice(&self.sealed[..count]);
        let _ = self.settle(Deadline::Now);
    }

    /// Reads ciphertext once and deciphers it; gives its length.
    fn receive(&mut self, deadline: Deadline) -> Result<usize, ClientError> {
        let count = self.stream.read(&mut self.input, deadline)?;
        self.plain.clear();
        self.read = 0;
        if count != 0 {
            let bytes = &mut self.input[..count];
            let received = self.tls.receive(bytes, &mut self.plain, &mut self.out);
            if !self.out.is_empty() {
                // An answer of TLS itself; the next call sends what does not leave now.
                let _ = self.settle(Deadline::Now);
            }
            match received.end {
                Some(End::Failed(_)) => return Err(ClientError::Tls(self.tls.error().to_owned())),
                Some(End::Closed) => self.ended = true,
                None => {}
            }
        }
        Ok(count)
    }
}

impl fmt::Debug for Secure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secure").field("stream", &self.stream).field("tls", &self.tls).finish()
    }
}
