//! One open connection of a load: bytes of the socket in, checked echoes out; messages of the batch
//! in, one write out. It holds no clock and knows nothing of the other connections.

use std::io::{Read, Write};

use crate::batch::{Batch, append_masked};
use crate::dial::Opened;
use crate::failure::{Context, Failure};
use crate::replies::{Reply, ReplyReader};
use crate::socket::{Socket, Transfer, transfer};

/// An open connection with its window of messages in flight.
///
/// In order: [`Link::queue`], [`Link::flush`], then [`Link::read`] after each event; at the end
/// [`Link::start_close`] and [`Link::flush`], and [`Link::read`] until [`Link::is_closed`].
#[derive(Debug)]
pub(crate) struct Link {
    socket: Socket,
    reader: ReplyReader,
    /// Where the next byte to write is in the ring of the batch.
    position: usize,
    /// Bytes of the ring that are to be written now.
    unsent: usize,
    /// Control frames to be written at the next frame boundary.
    control: Vec<u8>,
    control_sent: usize,
    in_flight: usize,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// We sent a Close frame.
    Closing,
    Closed,
}

/// What one read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received {
    /// Bytes read; none means that the socket has to become readable first.
    pub(crate) len: usize,
    /// Messages that came back.
    pub(crate) echoes: usize,
}

impl Link {
    pub(crate) fn new(opened: Opened, batch: &Batch, verify: bool) -> Result<Self, Failure> {
        let mut link = Self {
            socket: opened.socket,
            reader: ReplyReader::new(verify),
            position: 0,
            unsent: 0,
            control: Vec::new(),
            control_sent: 0,
            in_flight: 0,
            phase: Phase::Open,
        };
        link.digest(&opened.leftover, batch)?;
        Ok(link)
    }

    /// Messages queued or sent that did not come back yet.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Adds the next `count` messages of the batch to what is to be sent. At most
    /// [`Batch::depth`] may be in flight.
    pub(crate) fn queue(&mut self, count: usize, batch: &Batch) {
        debug_assert!(self.in_flight + count <= batch.depth());
        self.expect(count);
        self.send(count, batch);
    }

    /// Awaits the next `count` messages of the batch, whoever sends them.
    pub(crate) fn expect(&mut self, count: usize) {
        self.in_flight += count;
    }

    /// Adds the next `count` messages of the batch to what is to be sent, whoever receives them.
    pub(crate) fn send(&mut self, count: usize, batch: &Batch) {
        self.unsent += count * batch.frame_len();
    }

    /// Writes what is to be sent, as far as the socket takes it. Returns the number of bytes and
    /// of calls.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub(crate) fn flush(&mut self, batch: &Batch) -> Result<(usize, u64), Failure> {
        let (mut written, mut calls) = (0, 0);
        loop {
            let within_frame = self.position % batch.frame_len();
            let has_control = self.control_sent < self.control.len();
            let bytes = if has_control && within_frame == 0 {
                &self.control[self.control_sent..]
            } else if self.unsent > 0 {
                let up_to_boundary = batch.frame_len() - within_frame;
                let wanted = if has_control { up_to_boundary } else { self.unsent };
                batch.bytes(self.position, wanted)
            } else {
                return self.flush_socket().map(|()| (written, calls));
            };
            calls += 1;
            let len = match transfer(|| self.socket.write(bytes)) {
                Ok(Transfer::Some(len)) => len,
                Ok(Transfer::WouldBlock) => return Ok((written, calls)),
                Err(_) if self.phase == Phase::Closing => {
                    self.phase = Phase::Closed;
                    return Ok((written, calls));
                }
                Err(error) => return Err(Failure::new(format!("cannot send: {error}"))),
            };
            written += len;
            if has_control && within_frame == 0 {
                self.control_sent += len;
                if self.control_sent == self.control.len() {
                    self.control.clear();
                    self.control_sent = 0;
                }
            } else {
                self.unsent -= len;
                self.position += len;
                if self.position >= batch.ring_len() {
                    self.position -= batch.ring_len();
                }
            }
        }
    }

    /// What TLS kept back because the socket was full. Plain sockets keep nothing.
    fn flush_socket(&mut self) -> Result<(), Failure> {
        match transfer(|| self.socket.flush().map(|()| 0)) {
            Ok(_) => Ok(()),
            Err(_) if self.phase != Phase::Open => {
                self.phase = Phase::Closed;
                Ok(())
            }
            Err(error) => Err(Failure::new(format!("cannot send: {error}"))),
        }
    }

    /// Reads once. Pings are answered with the next [`Link::flush`].
    ///
    /// # Errors
    ///
    /// A wrong reply, or the server ended the connection and was not asked to.
    pub(crate) fn read(&mut self, buffer: &mut [u8], batch: &Batch) -> Result<Received, Failure> {
        const NOTHING: Received = Received { len: 0, echoes: 0 };
        if self.phase == Phase::Closed {
            return Ok(NOTHING);
        }
        match transfer(|| self.socket.read(buffer)) {
            Ok(Transfer::WouldBlock) => Ok(NOTHING),
            Ok(Transfer::Some(0)) if self.phase == Phase::Open => {
                Err(Failure::new("the server ended the connection without a Close frame"))
            }
            // RFC 6455 7.1.1: the server ends TCP; here before its Close frame, which is its affair.
            Ok(Transfer::Some(0)) => {
                self.phase = Phase::Closed;
                Ok(NOTHING)
            }
            Ok(Transfer::Some(len)) => {
                let echoes = self.digest(&buffer[..len], batch)?;
                Ok(Received { len, echoes })
            }
            Err(_) if self.phase == Phase::Closing => {
                self.phase = Phase::Closed;
                Ok(NOTHING)
            }
            Err(error) => Err(Failure::new(format!("cannot receive: {error}"))),
        }
    }

    /// Begins the close handshake (RFC 6455 7.1.2): code 1000, after what is queued.
    pub(crate) fn start_close(&mut self, batch: &Batch) {
        if self.phase == Phase::Open {
            append_masked(0x8, &1000_u16.to_be_bytes(), batch.masking_key(), &mut self.control);
            self.phase = Phase::Closing;
        }
    }

    /// Whether the server answered the Close frame or ended the connection after it.
    pub(crate) fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// See [`Socket::reset_on_drop`].
    pub(crate) fn reset_on_drop(&self) {
        self.socket.reset_on_drop();
    }

    fn digest(&mut self, mut bytes: &[u8], batch: &Batch) -> Result<usize, Failure> {
        let mut echoes = 0;
        while let Some(reply) = self.reader.next(&mut bytes, batch).context(|| "wrong echo")? {
            match reply {
                Reply::Echo => echoes += 1,
                // RFC 6455 5.5.2, 5.5.3: a pong with the same payload, unless closing.
                Reply::Ping if self.phase == Phase::Open => {
                    let payload = self.reader.control();
                    append_masked(0xa, payload, batch.masking_key(), &mut self.control);
                }
                Reply::Ping => {}
                Reply::Close(code) if self.phase == Phase::Open => {
                    let code = code.map_or("without a code".to_owned(), |code| code.to_string());
                    let reason = self.reader.control().get(2..).unwrap_or_default();
                    let reason = String::from_utf8_lossy(reason);
                    return Err(Failure::new(format!("the server closed: {code} {reason}")));
                }
                Reply::Close(_) => {
                    self.phase = Phase::Closed;
                    break;
                }
            }
        }
        let Some(in_flight) = self.in_flight.checked_sub(echoes) else {
            return Err(Failure::new("wrong echo: more messages came back than were sent"));
        };
        self.in_flight = in_flight;
        Ok(echoes)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::batch::Content;

    const KEY: [u8; 4] = [0; 4];

    fn pair(batch: &Batch) -> (Link, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let socket = Socket::Unix(mio::net::UnixStream::from_std(ours));
        let link = Link::new(Opened { socket, leftover: Vec::new() }, batch, true).unwrap();
        (link, theirs)
    }

    fn echo_of(batch: &Batch, slot: usize) -> Vec<u8> {
        [batch.reply_header(), batch.payload(slot)].concat()
    }

    #[test]
    fn a_window_goes_out_in_one_write_and_comes_back() {
        let batch = Batch::new(Content::Ascii, 20, 3, KEY);
        let (mut link, mut server) = pair(&batch);
        let mut buffer = [0; 1000];
        link.queue(3, &batch);
        assert_eq!(link.flush(&batch).unwrap(), (batch.ring_len(), 1));
        server.read_exact(&mut buffer[..batch.ring_len()]).unwrap();
        assert_eq!(buffer[..batch.ring_len()], *batch.bytes(0, batch.ring_len()));

        server.write_all(&[echo_of(&batch, 0), echo_of(&batch, 1)].concat()).unwrap();
        let received = link.read(&mut buffer, &batch).unwrap();
        assert_eq!((received.echoes, link.in_flight()), (2, 1));
        assert_eq!(link.read(&mut buffer, &batch).unwrap(), Received { len: 0, echoes: 0 });

        link.queue(2, &batch);
        assert_eq!(link.flush(&batch).unwrap().1, 1);
        link.queue(0, &batch);
        assert_eq!(link.flush(&batch).unwrap(), (0, 0));
    }

    #[test]
    fn pongs_go_between_frames_even_after_a_short_write() {
        let batch = Batch::new(Content::Binary, 300_000, 4, KEY);
        let (mut link, mut server) = pair(&batch);
        let mut buffer = vec![0; 4096];
        link.queue(4, &batch);
        let (mut sent, _) = link.flush(&batch).unwrap();
        assert!(sent < batch.ring_len(), "the socket took everything");
        server.write_all(&[0x89, 2, b'h', b'i']).unwrap();
        link.read(&mut buffer, &batch).unwrap();

        let total = batch.ring_len() + 8;
        let mut received = Vec::new();
        while received.len() < total {
            let len = server.read(&mut buffer).unwrap();
            received.extend_from_slice(&buffer[..len]);
            sent += link.flush(&batch).unwrap().0;
        }
        assert_eq!((sent, received.len()), (total, total));
        let pong = [0x8a, 0x82, 0, 0, 0, 0, b'h', b'i'];
        let at = received.windows(8).position(|window| window == pong).unwrap();
        assert_eq!(at % batch.frame_len(), 0);
        received.drain(at..at + 8);
        assert!(received == batch.bytes(0, batch.ring_len()));
    }

    #[test]
    fn the_close_handshake_ends_a_link() {
        let batch = Batch::new(Content::Ascii, 5, 1, KEY);
        let (mut link, mut server) = pair(&batch);
        let mut buffer = [0; 100];
        link.start_close(&batch);
        link.flush(&batch).unwrap();
        server.read_exact(&mut buffer[..8]).unwrap();
        assert_eq!(buffer[..8], [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]);
        assert!(!link.is_closed());
        server.write_all(&[0x88, 2, 0x03, 0xe8]).unwrap();
        link.read(&mut buffer, &batch).unwrap();
        assert!(link.is_closed());
    }

    #[test]
    fn unasked_ends_and_echoes_are_failures() {
        let batch = Batch::new(Content::Ascii, 5, 1, KEY);
        let fail = |bytes: &[u8]| {
            let (mut link, mut server) = pair(&batch);
            server.write_all(bytes).unwrap();
            drop(server);
            let mut buffer = [0; 100];
            let mut read = || link.read(&mut buffer, &batch);
            read().and_then(|_| read()).unwrap_err().to_string()
        };
        assert!(fail(b"").contains("without a Close frame"));
        assert!(fail(&[0x88, 5, 0x03, 0xe9, b'b', b'y', b'e']).contains("1001 bye"));
        assert!(fail(&echo_of(&batch, 0)).contains("more messages"));
        assert!(fail(&[0x81, 1, b'x']).contains("1 bytes came back instead of 5"));
    }
}
