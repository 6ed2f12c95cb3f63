//! Between the socket and the stages of a connection: TLS.
//!
//! What comes in: lent ciphertext, the queue of a connection, ends. What goes out: plaintext to the
//! same stages that plain connections have, records to the socket, alerts. Handshakes wait until
//! the established connections of a turn have been served, and a turn does only so many of them.
//!
//! ```text
//!  received --> unseal --+-- open ------> plaintext --> dispatch
//!                        +-- shaking ---> handshakes --shake_hands, after the events of the turn
//!  flush --> flush_sealed: sealed before | one batch of plaintext --seal--> send
//! ```

use std::io::IoSlice;

use super::Crank;
use super::core::Core;
use super::ends::After;
use crate::connection::Phase;
use crate::driver::{ConnectionId, Driver};
use crate::error::{Close, CloseCause, SendError};
use crate::tls::{End, Exhausted, MAX_HELD, Opened, SEAL_BYTES, Scratch, Tls, TlsFailure};
use crate::websocket::SendStatus;

/// Handshakes that one turn goes on with, at most.
const HANDSHAKES: usize = 64;

/// Plaintext of the largest record (RFC 8446 5.1).
const RECORD: usize = 16 * 1024;

/// After so long no further handshake is begun in this turn: one costs about 0.1 ms, ten times as
/// much with long RSA keys, and established connections wait meanwhile.
const HANDSHAKE_NS: u64 = 2_000_000;

impl Core {
    /// Gives the socket what is queued, as records: what was sealed before and one batch more with
    /// each call of the driver.
    pub(super) fn flush_sealed(&mut self, id: ConnectionId) {
        loop {
            let Some(connection) = self.table.get_mut(id) else { return };
            let Some(tls) = &mut connection.tls else { return };
            let draining = matches!(connection.phase, Phase::Draining { finished: false, .. });
            let ends = connection.phase.ends_when_drained();
            if draining
                && !tls.is_open()
                && let Some(outgoing) = &mut connection.outgoing
            {
                // No answer in the clear on a port that speaks TLS, and none after an alert.
                outgoing.forget_unsealed();
            }
            let (mut batch, mut count) = (0, 0);
            if tls.is_open()
                && let Some(outgoing) = &connection.outgoing
                && outgoing.has_unsealed()
            {
                let mut gathered = std::mem::take(&mut self.tls.gathered);
                let plain = outgoing.batch(SEAL_BYTES, &mut gathered);
                batch = plain.len();
                let sealed = tls.seal(plain, self.tls.sealed());
                self.tls.gathered = gathered;
                match sealed {
                    Ok(sealed) => count = sealed,
                    Err(Exhausted) => return self.doom(id, CloseCause::Tls),
                }
            }
            let all = connection
                .outgoing
                .as_ref()
                .is_none_or(|outgoing| outgoing.unsent_len() - outgoing.sealed().len() == batch);
            if draining && all {
                // RFC 8446 6.1: before our FIN, so that nobody can forge it.
                count += tls.close_notify(&mut self.tls.sealed()[count..]);
            }
            let before = connection.outgoing.as_ref().map_or(&[][..], |outgoing| outgoing.sealed());
            let before_len = before.len();
            if before_len + count == 0 {
                if connection.outgoing.as_ref().is_some_and(|outgoing| outgoing.has_unsealed()) {
                    // A request that waits for the handshake.
                    return;
                }
                break;
            }
            let slices = [IoSlice::new(before), IoSlice::new(&self.tls.sealed[..count])];
            let slices = match before_len {
                0 => &slices[1..],
                _ if count == 0 => &slices[..1],
                _ => &slices[..],
            };
            let sent = match ends && all {
                true => self.driver.send_last(id, slices),
                false => self.driver.send(id, slices),
            };
            let taken = match sent {
                Ok(taken) => taken,
                Err(error) => return self.doom(id, CloseCause::Io(error.kind())),
            };
            self.tally.bytes_sent += taken as u64;
            let left = before_len + count - taken;
            if left != 0 && connection.outgoing.is_none() {
                connection.outgoing = Some(self.outgoing.take());
            }
            if let Some(outgoing) = &mut connection.outgoing {
                let from_before = taken.min(before_len);
                outgoing.append_sealed(&self.tls.sealed[taken - from_before..count]);
                outgoing.advance_sealed(from_before);
                outgoing.advance(batch);
            }
            if left != 0 {
                return self.block(id);
            }
        }
        self.drained(id);
    }

    /// Sends the frame of a large message: sealed piece by piece from where it lies, as long as the
    /// socket takes it; only the rest is copied. For a socket that is not known to be full.
    pub(super) fn send_sealed(
        &mut self,
        id: ConnectionId,
        header: &[u8],
        payload: &[u8],
    ) -> Result<SendStatus, SendError> {
        self.flush_sealed(id);
        let max_backpressure = self.config.max_backpressure;
        let Some(connection) = self.table.get_mut(id) else { return Err(SendError::Gone) };
        let Some(tls) = &mut connection.tls else { return Err(SendError::Gone) };
        if !matches!(connection.phase, Phase::Live(_)) || !tls.is_open() {
            return Err(SendError::Gone);
        }
        let outgoing = connection.outgoing.get_or_insert_with(|| self.outgoing.take());
        if !connection.blocked && outgoing.unsent_len() != 0 {
            // The flush failed, and the connection is about to end.
            return Err(SendError::Gone);
        }
        if connection.blocked {
            // Not even the batch went out. The message is one more in the queue, or too much.
            if outgoing.unsent_len() + header.len() + payload.len() > max_backpressure {
                self.tally.dropped += 1;
                return Err(SendError::Full);
            }
            outgoing.append().extend_from_slice(header);
            outgoing.append().extend_from_slice(payload);
            self.tally.messages_sent += 1;
            self.note_buffered(id);
            return Ok(SendStatus::Queued);
        }
        let Scratch { gathered, .. } = &mut self.tls;
        gathered.clear();
        gathered.extend_from_slice(header);
        // A whole record with the header in front, then the payload as it lies.
        let (start, mut rest) = payload.split_at(payload.len().min(RECORD - header.len()));
        gathered.extend_from_slice(start);
        let mut begun = false;
        while !begun || !rest.is_empty() {
            // Makes the buffer, if it is the first time.
            self.tls.sealed();
            let mut count = 0;
            let mut sealed = Ok(0);
            if !begun {
                let Scratch { gathered, sealed: out, .. } = &mut self.tls;
                sealed = tls.seal(gathered, out);
                count = *sealed.as_ref().unwrap_or(&0);
                begun = true;
            }
            let piece;
            (piece, rest) = rest.split_at(rest.len().min(SEAL_BYTES - RECORD));
            if sealed.is_ok() && !piece.is_empty() {
                sealed = tls.seal(piece, &mut self.tls.sealed[count..]);
                count += *sealed.as_ref().unwrap_or(&0);
            }
            if sealed.is_err() {
                self.doom(id, CloseCause::Tls);
                return Err(SendError::Gone);
            }
            let records = &self.tls.sealed[..count];
            let taken = match self.driver.send(id, &[IoSlice::new(records)]) {
                Ok(taken) => taken,
                Err(error) => {
                    self.doom(id, CloseCause::Io(error.kind()));
                    return Err(SendError::Gone);
                }
            };
            self.tally.bytes_sent += taken as u64;
            if taken < count {
                // A frame that has begun to leave must be completed, whatever the limit says.
                outgoing.append_sealed(&records[taken..]);
                outgoing.append().extend_from_slice(rest);
                self.tally.messages_sent += 1;
                self.block(id);
                return Ok(SendStatus::Queued);
            }
        }
        self.tally.messages_sent += 1;
        self.drained(id);
        Ok(SendStatus::Sent)
    }

    /// Says close_notify, if the socket takes it at once.
    pub(super) fn say_close_notify(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get_mut(id) else { return };
        let Some(tls) = &mut connection.tls else { return };
        if connection.blocked {
            return;
        }
        let count = tls.close_notify(self.tls.sealed());
        if count != 0 {
            // Whoever does not take it has gone already.
            let _ = self.driver.send(id, &[IoSlice::new(&self.tls.sealed[..count])]);
        }
    }

    /// A connection with TLS has no socket any more: was that too early?
    #[cold]
    pub(super) fn note_end_of_tls(&mut self, tls: &Tls, deadline_ms: u64) {
        if !tls.is_open() && !tls.has_failed() {
            let late = deadline_ms <= self.now_ms;
            let failure = if late { TlsFailure::Timeout } else { TlsFailure::Ended };
            self.tables().note_tls_failure(failure);
        }
    }

    /// The peer ended the TCP connection: without close_notify, somebody else may have done it.
    pub(super) fn note_truncation(&mut self, id: ConnectionId) {
        if let Some(connection) = self.table.get(id)
            && matches!(connection.phase, Phase::Live(_))
            && let Some(tls) = &connection.tls
            && tls.is_open()
            && !tls.is_closed_by_peer()
        {
            self.tables().note_tls_failure(TlsFailure::Truncated);
        }
    }
}

impl Crank {
    /// Ciphertext of a connection.
    pub(super) fn unseal(&mut self, id: ConnectionId, bytes: &mut [u8]) {
        let Some(connection) = self.core.table.get_mut(id) else { return };
        let Some(tls) = &mut connection.tls else { return };
        match connection.phase {
            // Nobody reads it any more, so nobody deciphers it.
            Phase::Draining { .. } | Phase::Gone => return self.dispatch(id, bytes),
            Phase::Http(_) | Phase::Dialing(_) | Phase::Live(_) => {}
        }
        if tls.is_open() {
            return self.decipher(id, bytes);
        }
        if tls.is_expected() && tls.held_len() == 0 && self.expects_proxy_header(id) {
            // What a proxy says comes before TLS, in the clear.
            return self.dispatch(id, bytes);
        }
        self.take_handshake(id, bytes);
    }

    /// Bytes of a handshake: kept until its turn comes.
    pub(super) fn take_handshake(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Some(connection) = self.core.table.get_mut(id) else { return };
        let Some(tls) = &mut connection.tls else { return };
        tls.hold(bytes);
        let much = tls.held_len() > MAX_HELD;
        if !std::mem::replace(tls.queued(), true) {
            self.core.handshakes.push_back(id);
        }
        if much {
            self.shake(id);
        }
    }

    /// Goes on with handshakes, after everybody else of this turn has been served.
    #[inline]
    pub(super) fn shake_hands(&mut self) {
        if !self.core.handshakes.is_empty() {
            self.shake_some_hands();
        }
    }

    #[cold]
    fn shake_some_hands(&mut self) {
        // Handshakes take a while, in which nobody's answer shall wait: neither that of an
        // established connection nor that of the handshake before.
        self.flush_all();
        let end_ns = self.core.driver.now_ns() + HANDSHAKE_NS;
        for _ in 0..HANDSHAKES {
            let Some(id) = self.core.handshakes.pop_front() else { return };
            if let Some(connection) = self.core.table.get_mut(id)
                && let Some(tls) = &mut connection.tls
            {
                *tls.queued() = false;
                if tls.held_len() != 0 {
                    self.shake(id);
                    // Not to everybody whom its handler has written to: those are flushed once.
                    self.core.flush(id);
                    self.bury();
                }
            }
            if self.core.driver.now_ns() >= end_ns {
                return;
            }
        }
    }

    /// The peer has finished: what it sent before is looked at now, not when its turn would come.
    /// Nothing can become of a handshake that has not begun.
    pub(super) fn hear_out(&mut self, id: ConnectionId) {
        if let Some(connection) = self.core.table.get(id)
            && let Some(tls) = &connection.tls
            && !tls.is_expected()
            && !tls.is_open()
            && tls.held_len() != 0
        {
            self.shake(id);
        }
    }

    /// Goes on with one handshake.
    fn shake(&mut self, id: ConnectionId) {
        let core = &mut self.core;
        let Some(connection) = core.table.get_mut(id) else { return };
        if matches!(connection.phase, Phase::Draining { .. } | Phase::Gone) {
            return;
        }
        let Some(tls) = &mut connection.tls else { return };
        if tls.is_expected()
            && let Some(acceptor) = &core.shared.tls
            && let Err(failure) = tls.accept(acceptor)
        {
            return self.fail_tls(id, failure);
        }
        self.decipher(id, &mut []);
    }

    /// Deciphers what came, and gives it to the stage that the connection is in.
    fn decipher(&mut self, id: ConnectionId, bytes: &mut [u8]) {
        let core = &mut self.core;
        let Some(connection) = core.table.get_mut(id) else { return };
        let Some(tls) = &mut connection.tls else { return };
        let mut plain = std::mem::take(&mut core.tls.plain);
        plain.clear();
        let answer = &mut core.tls.answer;
        answer.clear();
        let received = tls.receive(bytes, &mut plain, answer);
        if !answer.is_empty() {
            let outgoing = connection.outgoing.get_or_insert_with(|| core.outgoing.take());
            outgoing.append_sealed(answer);
            if !connection.dirty {
                connection.dirty = true;
                core.dirty.push(id);
            }
        }
        if let Some(opened) = received.opened {
            core.tally.tls_handshakes += 1;
            core.tally.tls_resumed += u64::from(opened == Opened::Resumed);
            // A request may have waited for this.
            core.mark_dirty(id);
        }
        if !plain.is_empty() {
            self.dispatch(id, &mut plain);
        }
        self.core.tls.plain = plain;
        match received.end {
            None => {}
            // As if it were FIN: what the peer had to say is complete.
            Some(End::Closed) => self.ended(id),
            Some(End::Failed(failure)) => self.fail_tls(id, failure),
        }
    }

    /// TLS is over: the alert leaves, then FIN (RFC 8446 6.2).
    fn fail_tls(&mut self, id: ConnectionId, failure: TlsFailure) {
        let core = &mut self.core;
        core.tables().note_tls_failure(failure);
        let deadline_ms = core.drain_deadline();
        let Some(connection) = core.table.get_mut(id) else { return };
        match connection.phase {
            Phase::Live(_) => {
                let close = Close { code: 1006, reason: "", cause: CloseCause::Tls };
                self.finish(id, close, After::Drain);
            }
            Phase::Http(_) => {
                let draining =
                    Phase::Draining { discarded: 0, finished: false, server_first: false };
                let phase = std::mem::replace(&mut connection.phase, draining);
                connection.deadline_ms = deadline_ms;
                core.mark_dirty(id);
                core.arm_timer(id);
                core.drop_phase(phase);
            }
            Phase::Dialing(_) => {
                let reason = connection.tls.as_ref().map_or("", |tls| tls.error()).to_owned();
                // The alert, if the socket takes it at once.
                core.flush(id);
                self.securing_failed(id, reason);
            }
            Phase::Draining { .. } | Phase::Gone => {}
        }
    }
}
