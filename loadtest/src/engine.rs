//! The closed loop: one thread, one epoll instance, many connections (epoll(7), edge-triggered).
//!
//! In: open connections and a batch. Out: messages per connection kept in flight, counted and
//! timed. Per event: one read, the echoes in it, and one write that replaces them. It reads the
//! clock once per read: that moment ends the echoes of the read and starts the messages that
//! replace them. A connection that waits for its turn here waits inside its measured time.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};

use crate::batch::Batch;
use crate::dial::Opened;
use crate::failure::{Context, Failure};
use crate::link::Link;
use crate::load::Load;

/// Large reads are what keeps the load generator cheaper than the server.
pub(crate) const READ_LEN: usize = 256 * 1024;

/// The longest sleep in epoll_wait(2), so that the progress line moves.
const LONGEST_WAIT: Duration = Duration::from_millis(200);

/// Messages still under way come back within this time, or are lost.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Longest latency that is told apart: one minute.
const LONGEST_LATENCY_NS: u64 = 60_000_000_000;

/// What the engine did since it began.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Echoes that came back.
    pub(crate) messages: u64,
    /// Bytes written to sockets.
    pub(crate) bytes_sent: u64,
    /// Bytes read from sockets.
    pub(crate) bytes_received: u64,
    /// Calls of read(2).
    pub(crate) reads: u64,
    /// Calls of write(2).
    pub(crate) writes: u64,
    /// Calls of epoll_wait(2).
    pub(crate) waits: u64,
    /// Handshakes that resumed a TLS session.
    pub(crate) resumed: u64,
}

impl Counters {
    /// What came on top of `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            messages: self.messages - earlier.messages,
            bytes_sent: self.bytes_sent - earlier.bytes_sent,
            bytes_received: self.bytes_received - earlier.bytes_received,
            reads: self.reads - earlier.reads,
            writes: self.writes - earlier.writes,
            waits: self.waits - earlier.waits,
            resumed: self.resumed - earlier.resumed,
        }
    }
}

/// A histogram of nanoseconds, with three significant digits; about 250 KiB.
///
/// # Errors
///
/// Never with these bounds.
pub(crate) fn latency_histogram() -> Result<Histogram<u64>, Failure> {
    Histogram::new_with_bounds(1, LONGEST_LATENCY_NS, 3).context(|| "no histogram")
}

/// The connections of a run and the loop that drives them.
pub(crate) struct Engine<'b> {
    poll: Poll,
    events: Events,
    lanes: Vec<Lane>,
    batch: &'b Batch,
    buffer: Vec<u8>,
    origin: Instant,
    counters: Counters,
    latency: Histogram<u64>,
    recording: bool,
    refilling: bool,
    /// Most messages in flight on a connection.
    window: usize,
}

/// A link and when each message of its window was queued.
struct Lane {
    link: Link,
    queued_ns: Box<[u64]>,
    /// Slot of the message that is queued next, and of the one that comes back next.
    next_queued: usize,
    next_echo: usize,
}

impl<'b> Engine<'b> {
    /// Takes connections that are registered with `poll` under their index.
    ///
    /// # Errors
    ///
    /// A server already sent something that is wrong.
    pub(crate) fn new(
        poll: Poll,
        opened: Vec<Opened>,
        batch: &'b Batch,
        verify: bool,
    ) -> Result<Self, Failure> {
        let lanes = opened.into_iter().enumerate().map(|(index, opened)| {
            let link = Link::new(opened, batch, verify).context(|| connection(index))?;
            let queued_ns = vec![0; batch.depth()].into_boxed_slice();
            Ok(Lane { link, queued_ns, next_queued: 0, next_echo: 0 })
        });
        Ok(Self {
            lanes: lanes.collect::<Result<_, Failure>>()?,
            poll,
            events: Events::with_capacity(1024),
            batch,
            buffer: vec![0; READ_LEN],
            origin: Instant::now(),
            counters: Counters::default(),
            latency: latency_histogram()?,
            recording: false,
            refilling: true,
            window: batch.depth(),
        })
    }

    /// Keeps at most so many messages in flight on each connection, not as many as the batch has.
    pub(crate) fn with_window(mut self, window: usize) -> Self {
        self.window = window.min(self.batch.depth());
        self
    }

    /// Sends the first window on every connection.
    ///
    /// # Errors
    ///
    /// A connection is gone.
    pub(crate) fn fill(&mut self) -> Result<(), Failure> {
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            let room = self.window - lane.link.in_flight();
            lane.queue(room, nanoseconds(self.origin), self.batch);
            // What came between the handshake and now had its edge already, so it is read here.
            self.serve(index, true)?;
        }
        Ok(())
    }

    /// Goes on until `deadline`. `tick` is called about five times a second, or more often.
    ///
    /// # Errors
    ///
    /// A wrong echo, or a connection that ended.
    pub(crate) fn run_until(
        &mut self,
        deadline: Instant,
        mut tick: impl FnMut(&Counters),
    ) -> Result<(), Failure> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.turn(left.min(LONGEST_WAIT))?;
            tick(&self.counters);
        }
    }

    /// Whether echoes are replaced by new messages; true at first.
    pub(crate) fn set_refilling(&mut self, refilling: bool) {
        self.refilling = refilling;
    }

    /// Whether latencies are recorded; false at first.
    pub(crate) fn set_recording(&mut self, recording: bool) {
        self.recording = recording;
    }

    /// What was done so far.
    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// The round trips recorded so far, in nanoseconds.
    pub(crate) fn latency(&self) -> &Histogram<u64> {
        &self.latency
    }

    /// Messages that did not come back yet, on all connections.
    pub(crate) fn in_flight(&self) -> usize {
        self.lanes.iter().map(|lane| lane.link.in_flight()).sum()
    }

    /// Sends nothing new and waits for every message in flight.
    ///
    /// # Errors
    ///
    /// Messages are missing after `patience` without any echo, or a connection failed.
    pub(crate) fn drain(&mut self, patience: Duration) -> Result<(), Failure> {
        self.refilling = false;
        let mut deadline = Instant::now() + patience;
        let mut missing = self.in_flight();
        while missing > 0 {
            self.turn(Duration::from_millis(10))?;
            let now_missing = self.in_flight();
            if now_missing < missing {
                deadline = Instant::now() + patience;
            }
            missing = now_missing;
            if Instant::now() > deadline {
                return Err(Failure::new(format!("{missing} messages never came back")));
            }
        }
        Ok(())
    }

    /// Makes the close handshake on every connection, then drops them. Those that take longer than
    /// `patience` are reset.
    ///
    /// # Errors
    ///
    /// A connection failed before it was asked to close.
    pub(crate) fn close(mut self, patience: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + patience;
        for index in 0..self.lanes.len() {
            self.lanes[index].link.start_close(self.batch);
            self.serve(index, true)?;
        }
        while !self.lanes.iter().all(|lane| lane.link.is_closed()) && Instant::now() < deadline {
            self.turn(Duration::from_millis(10))?;
        }
        Ok(())
    }

    /// Ends every connection at once.
    pub(crate) fn abandon(self) {}

    fn turn(&mut self, longest: Duration) -> Result<(), Failure> {
        wait(&mut self.poll, &mut self.events, longest)?;
        self.counters.waits += 1;
        // `serve` needs the whole engine, and the events are put back right after.
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let mut result = Ok(());
        for event in &events {
            let Token(index) = event.token();
            let ending = event.is_read_closed() || event.is_error();
            result = self.serve(index, ending);
            if result.is_err() {
                break;
            }
        }
        self.events = events;
        result
    }

    /// One read and one write. `to_the_end` repeats the read until there is nothing left, which a
    /// short read does not prove when the connection ends.
    fn serve(&mut self, index: usize, to_the_end: bool) -> Result<(), Failure> {
        let lane = &mut self.lanes[index];
        loop {
            self.counters.reads += 1;
            let received =
                lane.link.read(&mut self.buffer, self.batch).context(|| connection(index))?;
            if received.len == 0 {
                break;
            }
            self.counters.bytes_received += received.len as u64;
            if received.echoes > 0 {
                self.counters.messages += received.echoes as u64;
                let now_ns = nanoseconds(self.origin);
                let recorder = self.recording.then_some(&mut self.latency);
                lane.finish(received.echoes, now_ns, recorder);
                if self.refilling {
                    lane.queue(received.echoes, now_ns, self.batch);
                }
            }
            if received.len < self.buffer.len() && !to_the_end {
                break;
            }
        }
        if lane.link.is_closed() {
            return Ok(());
        }
        match lane.link.flush(self.batch) {
            Ok((len, calls)) => {
                self.counters.bytes_sent += len as u64;
                self.counters.writes += calls;
                Ok(())
            }
            Err(failure) => {
                // A server that closed may have said why in what it sent last.
                let mut read = || lane.link.read(&mut self.buffer, self.batch);
                while read().context(|| connection(index))?.len > 0 {}
                Err(failure).context(|| connection(index))
            }
        }
    }
}

impl Drop for Engine<'_> {
    /// With a reset: no port stays in TIME_WAIT.
    fn drop(&mut self) {
        for lane in &self.lanes {
            lane.link.reset_on_drop();
        }
    }
}

impl Load for Engine<'_> {
    fn counters(&self) -> Counters {
        self.counters
    }

    fn resume(&mut self) -> Result<(), Failure> {
        self.refilling = true;
        self.fill()
    }

    fn run_until(
        &mut self,
        deadline: Instant,
        tick: &mut dyn FnMut(&Counters),
    ) -> Result<(), Failure> {
        Engine::run_until(self, deadline, tick)
    }

    fn rest(&mut self) -> Result<(), Failure> {
        self.drain(PATIENCE)
    }

    fn set_recording(&mut self, recording: bool) {
        self.recording = recording;
    }

    fn latency(&self) -> &Histogram<u64> {
        &self.latency
    }
}

impl Lane {
    fn queue(&mut self, count: usize, now_ns: u64, batch: &Batch) {
        for _ in 0..count {
            self.queued_ns[self.next_queued] = now_ns;
            self.next_queued = self.after(self.next_queued);
        }
        self.link.queue(count, batch);
    }

    /// Notes the round trips of the next `count` echoes.
    fn finish(&mut self, count: usize, now_ns: u64, recorder: Option<&mut Histogram<u64>>) {
        let Some(latency) = recorder else {
            self.next_echo = (self.next_echo + count) % self.queued_ns.len();
            return;
        };
        // Messages queued together mostly come back together: one entry for all of them.
        let (mut since, mut same) = (self.queued_ns[self.next_echo], 0);
        for _ in 0..count {
            let queued = self.queued_ns[self.next_echo];
            if queued != since {
                latency.saturating_record_n(now_ns - since, same);
                (since, same) = (queued, 0);
            }
            same += 1;
            self.next_echo = self.after(self.next_echo);
        }
        latency.saturating_record_n(now_ns - since, same);
    }

    fn after(&self, slot: usize) -> usize {
        if slot + 1 == self.queued_ns.len() { 0 } else { slot + 1 }
    }
}

/// Waits for events, at most `longest`; an interruption counts as no events.
///
/// # Errors
///
/// epoll_wait(2) failed.
pub(crate) fn wait(poll: &mut Poll, events: &mut Events, longest: Duration) -> Result<(), Failure> {
    match poll.poll(events, Some(longest)) {
        Err(error) if error.kind() == ErrorKind::Interrupted => {
            events.clear();
            Ok(())
        }
        other => other.context(|| "cannot wait for events"),
    }
}

fn nanoseconds(origin: Instant) -> u64 {
    // Five hundred years fit.
    origin.elapsed().as_nanos() as u64
}

fn connection(index: usize) -> String {
    format!("connection {}", index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_recorded_once_with_its_own_time() {
        let batch = Batch::new(crate::batch::Content::Ascii, 1, 4, [0; 4]);
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let socket = crate::socket::Socket::Unix(mio::net::UnixStream::from_std(ours));
        let opened = Opened { socket, leftover: Vec::new() };
        let link = Link::new(opened, &batch, false).unwrap();
        let queued_ns = vec![0; 4].into_boxed_slice();
        let mut lane = Lane { link, queued_ns, next_queued: 0, next_echo: 0 };
        let mut latency = latency_histogram().unwrap();
        lane.queue(1, 100, &batch);
        lane.queue(3, 600, &batch);
        lane.finish(3, 1000, Some(&mut latency));
        assert_eq!((latency.len(), latency.min(), latency.max()), (3, 400, 900));
        assert_eq!(latency.count_at(400), 2);
        lane.finish(1, 1100, None);
        assert_eq!((latency.len(), lane.next_echo, lane.next_queued), (3, 0, 0));
    }

    #[test]
    fn a_long_latency_is_kept_at_the_upper_end() {
        let mut latency = latency_histogram().unwrap();
        latency.saturating_record_n(u64::MAX, 1);
        assert!(latency.max() >= LONGEST_LATENCY_NS);
    }
}
