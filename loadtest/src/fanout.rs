//! Modes `broadcast` and `relay`: one connection sends, all or all others receive.
//!
//! In: open connections and a batch. Out: windows, counted and timed. A window is `--depth`
//! messages that the first connection sends in one write, so that the server finds them in one
//! read; it ends when everybody has received every one of them, and the next one begins.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};

use crate::args::{self, Traffic};
use crate::batch::Batch;
use crate::dial::{Dialer, MODEST_CONCURRENCY, Opened};
use crate::echo::{Figures, count_syscalls};
use crate::engine::{Counters, READ_LEN, latency_histogram, wait};
use crate::failure::{Context, Failure};
use crate::link::Link;
use crate::load::Load;
use crate::process;
use crate::progress::{Progress, bar};
use crate::syscalls::Tool;
use crate::watch::Watch;

/// The server delivers a whole window within this time, or has lost part of it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the mode. The messages of the figures are deliveries, the latency that of whole windows.
///
/// # Errors
///
/// Whatever makes the figures worthless: a refused connection or handshake, a delivery that is
/// wrong or missing, a server that ended.
pub(crate) fn run(options: &args::Echo, progress: &mut Progress) -> Result<Figures, Failure> {
    let subject = &options.subject;
    if let Some(cpu) = subject.pin {
        process::pin(cpu)?;
    }
    process::allow_descriptors(options.connections)?;
    let tool = Tool::choose(options.syscalls)?;
    // A wrong process is noticed before the server has any work.
    Watch::begin(subject.server_pid)?;

    let batch = Batch::for_target(&subject.target, options.content, options.size, options.depth)?;
    let mut poll = Poll::new().context(|| "no epoll instance")?;
    let mut dialer = Dialer::new(&subject.target)?;
    let opened = dialer.open_all(&mut poll, options.connections, MODEST_CONCURRENCY, progress)?;
    let mut fan = Fan::new(poll, opened, &batch, options.verify, options.traffic, options.copies)?;

    fan.run_until(Instant::now() + options.warmup, &mut |counters| {
        progress.show(|| format!("warming up, {} deliveries", counters.messages));
    })?;
    let before = fan.counters;
    let watch = Watch::begin(subject.server_pid)?;
    fan.recording = true;
    fan.run_until(watch.began() + options.duration, &mut |counters| {
        progress.show(|| {
            let messages = counters.since(&before).messages;
            format!("{} {messages} deliveries", bar(watch.began().elapsed(), options.duration))
        });
    })?;
    fan.recording = false;
    let observed = watch.end()?;
    let counters = fan.counters.since(&before);
    let syscalls = match (tool, subject.server_pid) {
        (Some(tool), Some(pid)) => Some(count_syscalls(tool, pid, &mut fan, progress)?),
        _ => None,
    };
    let latency = fan.latency.clone();
    Ok(Figures { observed, counters, latency, syscalls })
}

/// One connection that sends, and all that receive.
pub(crate) struct Fan<'b> {
    links: Vec<Link>,
    /// How often each message comes to each receiver.
    copies: usize,
    /// Index of the first link that receives.
    receivers_from: usize,
    poll: Poll,
    events: Events,
    batch: &'b Batch,
    /// Messages of a window.
    depth: usize,
    buffer: Vec<u8>,
    /// Deliveries of the present window that have not come.
    missing: usize,
    /// When the present window was sent.
    began: Instant,
    counters: Counters,
    latency: Histogram<u64>,
    recording: bool,
}

impl Load for Fan<'_> {
    fn counters(&self) -> Counters {
        self.counters
    }

    /// Whole windows, the last one to its end.
    fn run_until(
        &mut self,
        deadline: Instant,
        tick: &mut dyn FnMut(&Counters),
    ) -> Result<(), Failure> {
        while Instant::now() < deadline {
            self.window()?;
            tick(&self.counters);
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Windows are run to their end anyway.
    fn rest(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn set_recording(&mut self, recording: bool) {
        self.recording = recording;
    }

    fn latency(&self) -> &Histogram<u64> {
        &self.latency
    }
}

impl Drop for Fan<'_> {
    fn drop(&mut self) {
        self.links.iter().for_each(Link::reset_on_drop);
    }
}

impl<'b> Fan<'b> {
    /// Takes connections that are registered with `poll` under their index, and waits a moment:
    /// a response that came is no proof that the server has the connection in its audience.
    ///
    /// # Errors
    ///
    /// A server already sent something that is wrong.
    pub(crate) fn new(
        poll: Poll,
        opened: Vec<Opened>,
        batch: &'b Batch,
        verify: bool,
        traffic: Traffic,
        copies: usize,
    ) -> Result<Self, Failure> {
        let links = opened.into_iter().map(|opened| Link::new(opened, batch, verify));
        let mut fan = Self {
            links: links.collect::<Result<_, Failure>>()?,
            copies,
            receivers_from: usize::from(traffic == Traffic::Relay),
            poll,
            events: Events::with_capacity(1024),
            batch,
            depth: batch.depth(),
            buffer: vec![0; READ_LEN],
            missing: 0,
            began: Instant::now(),
            counters: Counters::default(),
            latency: latency_histogram()?,
            recording: false,
        };
        fan.settle()?;
        Ok(fan)
    }

    /// Sends so many messages in a window, not as many as the batch has.
    pub(crate) fn with_depth(mut self, depth: usize) -> Self {
        self.depth = depth.min(self.batch.depth());
        self
    }

    /// Sends a window and waits for every delivery of it.
    fn window(&mut self) -> Result<(), Failure> {
        let depth = self.depth;
        for link in &mut self.links[self.receivers_from..] {
            link.expect(depth * self.copies);
        }
        self.missing = depth * self.copies * (self.links.len() - self.receivers_from);
        self.began = Instant::now();
        self.links[0].send(depth, self.batch);
        self.flush(0)?;
        while self.missing > 0 {
            self.turn(PATIENCE)?;
            if self.began.elapsed() > PATIENCE {
                let missing = self.missing;
                return Err(Failure::new(format!("{missing} deliveries of a window never came")));
            }
        }
        if self.recording {
            self.latency.saturating_record(self.began.elapsed().as_nanos() as u64);
        }
        Ok(())
    }

    /// Reads until nothing has come for a while: pings, perhaps.
    fn settle(&mut self) -> Result<(), Failure> {
        let end = Instant::now() + Duration::from_millis(50);
        while Instant::now() < end {
            self.turn(Duration::from_millis(10))?;
        }
        Ok(())
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
        let context = || format!("connection {}", index + 1);
        loop {
            self.counters.reads += 1;
            let link = &mut self.links[index];
            let received = link.read(&mut self.buffer, self.batch).context(context)?;
            self.counters.bytes_received += received.len as u64;
            self.counters.messages += received.echoes as u64;
            self.missing -= received.echoes;
            // A short read is the end of what there is, unless the connection ends.
            if received.len == 0 || (received.len < self.buffer.len() && !to_the_end) {
                return self.flush(index);
            }
        }
    }

    fn flush(&mut self, index: usize) -> Result<(), Failure> {
        let (written, calls) = self.links[index].flush(self.batch)?;
        self.counters.bytes_sent += written as u64;
        self.counters.writes += calls;
        Ok(())
    }
}
