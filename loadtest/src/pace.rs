//! The open loop: messages leave at the times of a schedule, whatever the server does.
//!
//! In: open connections, a batch and a rate. Out: latencies, each counted from the moment at which
//! its message was *scheduled*, not from when it was sent. A server that stalls for a while is so
//! charged for every message that users would have sent meanwhile (coordinated omission is what
//! one calls leaving those out). The loop never sleeps: between messages it polls, so that its own
//! wake-ups do not pass for latency. How late it sent is recorded apart.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};

use crate::batch::Batch;
use crate::dial::Opened;
use crate::engine::{Counters, PATIENCE, READ_LEN, latency_histogram, wait};
use crate::failure::{Context, Failure};
use crate::link::Link;
use crate::load::Load;

/// A server is hopelessly behind once as many messages wait for it as come in this time.
const MOST_BEHIND: Duration = Duration::from_secs(10);

/// Between two looks at whether there is time for `tick`.
const TICK: Duration = Duration::from_millis(100);

/// Connections that send in turn, at a fixed rate together.
pub(crate) struct Pace<'b> {
    poll: Poll,
    events: Events,
    lanes: Vec<Lane>,
    batch: &'b Batch,
    buffer: Vec<u8>,
    counters: Counters,
    latency: Histogram<u64>,
    lateness: Histogram<u64>,
    recording: bool,
    /// Messages per second on all connections together.
    rate: f64,
    /// Zero of the schedule, and how many of its messages were sent.
    began: Instant,
    sent: u64,
    /// Messages that did not come back.
    in_flight: usize,
}

/// A link, and when each of its messages in flight was scheduled, in nanoseconds of the schedule.
struct Lane {
    link: Link,
    scheduled_ns: VecDeque<u64>,
}

impl<'b> Pace<'b> {
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
        rate: f64,
    ) -> Result<Self, Failure> {
        let lanes = opened.into_iter().map(|opened| {
            Ok(Lane { link: Link::new(opened, batch, verify)?, scheduled_ns: VecDeque::new() })
        });
        Ok(Self {
            lanes: lanes.collect::<Result<_, Failure>>()?,
            poll,
            events: Events::with_capacity(1024),
            batch,
            buffer: vec![0; READ_LEN],
            counters: Counters::default(),
            latency: latency_histogram()?,
            lateness: latency_histogram()?,
            recording: false,
            rate,
            began: Instant::now(),
            sent: 0,
            in_flight: 0,
        })
    }

    /// How long after its time each message was sent, in nanoseconds: what the load generator
    /// itself adds to the latencies.
    pub(crate) fn lateness(&self) -> &Histogram<u64> {
        &self.lateness
    }

    /// Makes the close handshake on every connection.
    ///
    /// # Errors
    ///
    /// A connection failed before it was asked to close.
    pub(crate) fn close(mut self, patience: Duration) -> Result<(), Failure> {
        for index in 0..self.lanes.len() {
            self.lanes[index].link.start_close(self.batch);
            self.flush(index)?;
        }
        let deadline = Instant::now() + patience;
        while !self.lanes.iter().all(|lane| lane.link.is_closed()) && Instant::now() < deadline {
            self.turn(Duration::from_millis(10))?;
        }
        Ok(())
    }

    /// The time of the schedule.
    fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// When the message with this number is due.
    fn due_ns(&self, number: u64) -> u64 {
        (number as f64 * 1e9 / self.rate) as u64
    }

    /// Sends what is due now and has its place in the schedule before `end_ns`.
    fn send(&mut self, end_ns: u64) -> Result<(), Failure> {
        loop {
            let due_ns = self.due_ns(self.sent);
            let now_ns = self.now_ns();
            if due_ns > now_ns || due_ns >= end_ns {
                return Ok(());
            }
            let index = (self.sent % self.lanes.len() as u64) as usize;
            let lane = &mut self.lanes[index];
            lane.scheduled_ns.push_back(due_ns);
            lane.link.expect(1);
            lane.link.send(1, self.batch);
            self.sent += 1;
            self.in_flight += 1;
            if self.recording {
                self.lateness.saturating_record((now_ns - due_ns).max(1));
            }
            self.flush(index)?;
            if self.in_flight as f64 > self.rate * MOST_BEHIND.as_secs_f64() + 1000.0 {
                return Err(Failure::new(format!(
                    "the server does not keep up with {} messages per second: {} wait for it",
                    self.rate, self.in_flight
                )));
            }
        }
    }

    fn turn(&mut self, longest: Duration) -> Result<(), Failure> {
        wait(&mut self.poll, &mut self.events, longest)?;
        self.counters.waits += 1;
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let result = events.iter().try_for_each(|event| {
            let Token(index) = event.token();
            self.receive(index, event.is_read_closed() || event.is_error())
        });
        self.events = events;
        result
    }

    fn receive(&mut self, index: usize, to_the_end: bool) -> Result<(), Failure> {
        loop {
            self.counters.reads += 1;
            let lane = &mut self.lanes[index];
            let received = lane
                .link
                .read(&mut self.buffer, self.batch)
                .context(|| format!("connection {}", index + 1))?;
            self.counters.bytes_received += received.len as u64;
            self.counters.messages += received.echoes as u64;
            self.in_flight -= received.echoes;
            if received.echoes > 0 {
                let now_ns = self.began.elapsed().as_nanos() as u64;
                for _ in 0..received.echoes {
                    let Some(scheduled_ns) = lane.scheduled_ns.pop_front() else { break };
                    if self.recording {
                        self.latency.saturating_record(now_ns - scheduled_ns);
                    }
                }
            }
            // A short read is the end of what there is, unless the connection ends.
            if received.len == 0 || (received.len < self.buffer.len() && !to_the_end) {
                return self.flush(index);
            }
        }
    }

    fn flush(&mut self, index: usize) -> Result<(), Failure> {
        let (written, calls) = self.lanes[index]
            .link
            .flush(self.batch)
            .context(|| format!("connection {}", index + 1))?;
        self.counters.bytes_sent += written as u64;
        self.counters.writes += calls;
        Ok(())
    }
}

impl Load for Pace<'_> {
    fn counters(&self) -> Counters {
        self.counters
    }

    /// Begins the schedule anew.
    fn resume(&mut self) -> Result<(), Failure> {
        self.began = Instant::now();
        self.sent = 0;
        Ok(())
    }

    fn run_until(
        &mut self,
        deadline: Instant,
        tick: &mut dyn FnMut(&Counters),
    ) -> Result<(), Failure> {
        let end_ns = deadline.saturating_duration_since(self.began).as_nanos() as u64;
        let mut next_tick = Instant::now() + TICK;
        loop {
            self.send(end_ns)?;
            self.turn(Duration::ZERO)?;
            let now = Instant::now();
            if now >= deadline {
                // Whatever kept this loop away in the end, no message of the schedule is left out.
                return self.send(end_ns);
            }
            if now >= next_tick {
                tick(&self.counters);
                next_tick = now + TICK;
            }
        }
    }

    fn rest(&mut self) -> Result<(), Failure> {
        let mut deadline = Instant::now() + PATIENCE;
        while self.in_flight > 0 {
            let before = self.in_flight;
            self.turn(Duration::ZERO)?;
            if self.in_flight < before {
                deadline = Instant::now() + PATIENCE;
            }
            if Instant::now() > deadline {
                return Err(Failure::new(format!("{} messages never came back", self.in_flight)));
            }
        }
        Ok(())
    }

    fn set_recording(&mut self, recording: bool) {
        self.recording = recording;
    }

    fn latency(&self) -> &Histogram<u64> {
        &self.latency
    }
}

impl Drop for Pace<'_> {
    fn drop(&mut self) {
        for lane in &self.lanes {
            lane.link.reset_on_drop();
        }
    }
}
