//! Bodies of answers that come piece by piece: as fast as the socket takes them, never faster.
//!
//! What comes in: connections whose socket or whose source has become ready. What goes out: pieces
//! in the queue of the connection, of which only one waits for a socket that is full.

use crate::connection::Phase;
use crate::connection::http::Stage;
use crate::driver::ConnectionId;
use crate::http::stream::Pulled;
use crate::http::writing::{Framing, LAST_CHUNK, begin_chunk, end_chunk};
use crate::worker::Crank;

/// Bytes that are taken from a source at a time.
const PIECE: usize = 64 * 1024;

/// Pieces of one body in one turn, so that nobody waits long for a fast reader of a large file.
const PIECES_PER_TURN: usize = 4;

impl Crank {
    /// Sends on from the body that a connection is being answered with.
    pub(super) fn pump(&mut self, id: ConnectionId) {
        for _ in 0..PIECES_PER_TURN {
            let core = &mut self.core;
            let Some(connection) = core.table.get_mut(id) else { return };
            if connection.blocked {
                // `Writable` sees to it that this goes on.
                return;
            }
            let Phase::Http(Some(http)) = &mut connection.phase else { return };
            let Stage::Streaming(streaming) = &mut http.stage else { return };
            let manner = streaming.manner;
            let outgoing = connection.outgoing.get_or_insert_with(|| core.outgoing.take());
            let out = outgoing.append();
            let pulled = match streaming.framing {
                Framing::Length(_) | Framing::UntilClose => streaming.source.pull(out, PIECE),
                Framing::Chunked => {
                    let start = begin_chunk(out);
                    let pulled = streaming.source.pull(out, PIECE);
                    end_chunk(out, start);
                    if pulled == Pulled::End {
                        out.extend_from_slice(LAST_CHUNK);
                    }
                    pulled
                }
            };
            core.mark_dirty(id);
            match pulled {
                Pulled::Wait => return,
                Pulled::More => core.flush(id),
                Pulled::End => return self.answered(id, manner.keep_alive),
                Pulled::Broken => return self.cut(id),
            }
            if !self.core.doomed.is_empty() {
                return;
            }
        }
        let Some(http) = self.core.http_mut(id) else { return };
        if let Stage::Streaming(streaming) = &mut http.stage
            && !std::mem::replace(&mut streaming.queued, true)
        {
            self.pumping.push(id);
        }
    }

    /// Goes on with whoever had its share of the last turn.
    pub(in crate::worker) fn pump_all(&mut self) {
        // What is queued again has its next share in the next turn.
        for id in std::mem::take(&mut self.pumping) {
            let Some(http) = self.core.http_mut(id) else { continue };
            http.put_off = false;
            if let Stage::Streaming(streaming) = &mut http.stage {
                streaming.queued = false;
                self.pump(id);
            }
            self.use_kept(id);
            self.bury();
        }
    }
}
