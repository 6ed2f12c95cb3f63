//! Mode `connect`: opens and closes connections one after another, several at a time, and counts
//! the opening handshakes (RFC 6455 4).

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};

use crate::args;
use crate::batch::{Batch, Content};
use crate::dial::{Dial, Dialer};
use crate::engine::{Counters, PATIENCE, latency_histogram, wait};
use crate::failure::{Context, Failure};
use crate::link::Link;
use crate::load::Load;
use crate::process;
use crate::progress::{Progress, bar};
use crate::target::Target;
use crate::watch::{Observed, Watch};

/// Enough for the few bytes that follow a handshake here.
const READ_LEN: usize = 4096;

/// What was measured.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) observed: Observed,
    /// Opening handshakes that were finished.
    pub(crate) handshakes: u64,
    /// Of them, those that resumed a TLS session.
    pub(crate) resumed: u64,
    /// From connect(2) to the response, in nanoseconds.
    pub(crate) latency: Histogram<u64>,
}

/// One of the connections that are under way at the same time.
enum Lane {
    Dialling { dial: Dial, since: Instant },
    Closing(Link),
}

/// Runs the mode.
///
/// # Errors
///
/// A refused connection or handshake, or a connection that ended in disorder.
pub(crate) fn run(options: &args::Connect, progress: &mut Progress) -> Result<Figures, Failure> {
    let subject = &options.subject;
    if let Some(cpu) = subject.pin {
        process::pin(cpu)?;
    }
    process::allow_descriptors(options.concurrency)?;
    // A wrong process is noticed before the server has any work.
    Watch::begin(subject.server_pid)?;

    let mut churn = Churn::new(&subject.target, options.concurrency, options.abrupt)?;
    churn.resume()?;
    churn.run_until(Instant::now() + options.warmup, &mut |counters| {
        progress.show(|| format!("warming up, {} handshakes", counters.messages));
    })?;

    let before = churn.counters;
    let watch = Watch::begin(subject.server_pid)?;
    churn.recording = true;
    churn.run_until(watch.began() + options.duration, &mut |counters| {
        progress.show(|| {
            let done = bar(watch.began().elapsed(), options.duration);
            format!("{done} {} handshakes", counters.since(&before).messages)
        });
    })?;
    let observed = watch.end()?;
    let counters = churn.counters.since(&before);
    let (handshakes, resumed) = (counters.messages, counters.resumed);
    if handshakes == 0 {
        let seconds = observed.elapsed.as_secs_f64();
        return Err(Failure::new(format!("no opening handshake finished in {seconds:.1} s")));
    }
    Ok(Figures { observed, handshakes, resumed, latency: churn.latency.clone() })
}

/// Connections that come and go.
pub(crate) struct Churn<'t> {
    poll: Poll,
    dialer: Dialer<'t>,
    /// `None` while a lane is being served, and at rest.
    lanes: Vec<Option<Lane>>,
    /// Gives the close handshake its masking key; none of its messages is sent.
    batch: Batch,
    abrupt: bool,
    /// Opening handshakes are its messages.
    counters: Counters,
    latency: Histogram<u64>,
    recording: bool,
    redialling: bool,
}

impl Load for Churn<'_> {
    fn counters(&self) -> Counters {
        self.counters
    }

    fn resume(&mut self) -> Result<(), Failure> {
        self.redialling = true;
        for index in 0..self.lanes.len() {
            if self.lanes[index].is_none() {
                self.lanes[index] = Some(self.dial(index)?);
            }
        }
        Ok(())
    }

    fn run_until(
        &mut self,
        deadline: Instant,
        tick: &mut dyn FnMut(&Counters),
    ) -> Result<(), Failure> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.turn(left.min(Duration::from_millis(200)))?;
            tick(&self.counters);
        }
    }

    fn rest(&mut self) -> Result<(), Failure> {
        self.redialling = false;
        let deadline = Instant::now() + PATIENCE;
        while self.lanes.iter().any(Option::is_some) {
            self.turn(Duration::from_millis(10))?;
            if Instant::now() > deadline {
                return Err(Failure::new("a handshake or a close handshake never ended"));
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

impl<'t> Churn<'t> {
    /// Nothing is dialled yet.
    ///
    /// # Errors
    ///
    /// The server's name is unknown, or the system gives no epoll instance.
    pub(crate) fn new(
        target: &'t Target,
        concurrency: usize,
        abrupt: bool,
    ) -> Result<Self, Failure> {
        let masking_key = process::random().context(|| "cannot read random bytes")?;
        let mut lanes = Vec::new();
        lanes.resize_with(concurrency, || None);
        Ok(Self {
            poll: Poll::new().context(|| "no epoll instance")?,
            dialer: Dialer::new(target)?,
            lanes,
            batch: Batch::new(Content::Ascii, 0, 1, masking_key),
            abrupt,
            counters: Counters::default(),
            latency: latency_histogram()?,
            recording: false,
            redialling: true,
        })
    }

    fn dial(&mut self, index: usize) -> Result<Lane, Failure> {
        let since = Instant::now();
        Ok(Lane::Dialling { dial: self.dialer.dial(&self.poll, Token(index))?, since })
    }

    fn turn(&mut self, longest: Duration) -> Result<(), Failure> {
        let mut events = Events::with_capacity(1024);
        wait(&mut self.poll, &mut events, longest)?;
        self.counters.waits += 1;
        for event in &events {
            let Token(index) = event.token();
            self.serve(index)?;
        }
        Ok(())
    }

    /// Goes on with one lane. An event may be a late one of the lane's previous socket: then
    /// nothing is ready, and nothing happens.
    fn serve(&mut self, index: usize) -> Result<(), Failure> {
        let Some(lane) = self.lanes[index].take() else { return Ok(()) };
        let lane = match lane {
            Lane::Dialling { mut dial, since } => {
                if !self.dialer.advance(&mut dial)? {
                    self.lanes[index] = Some(Lane::Dialling { dial, since });
                    return Ok(());
                }
                self.counters.messages += 1;
                self.counters.resumed += u64::from(dial.has_resumed());
                if self.recording {
                    self.latency.saturating_record(since.elapsed().as_nanos() as u64);
                }
                let opened = dial.into_opened();
                if self.abrupt {
                    opened.socket.reset_on_drop();
                    drop(opened);
                    self.next(index)?
                } else {
                    let mut link = Link::new(opened, &self.batch, false)?;
                    link.start_close(&self.batch);
                    self.close(index, link)?
                }
            }
            Lane::Closing(link) => self.close(index, link)?,
        };
        self.lanes[index] = lane;
        Ok(())
    }

    /// The lane's next connection, if there shall be one.
    fn next(&mut self, index: usize) -> Result<Option<Lane>, Failure> {
        if self.redialling { self.dial(index).map(Some) } else { Ok(None) }
    }

    /// Goes on with the close handshake; after it, the lane dials again.
    fn close(&mut self, index: usize, mut link: Link) -> Result<Option<Lane>, Failure> {
        let mut buffer = [0; READ_LEN];
        link.flush(&self.batch)?;
        while !link.is_closed() {
            if link.read(&mut buffer, &self.batch)?.len == 0 && !link.is_closed() {
                return Ok(Some(Lane::Closing(link)));
            }
        }
        link.reset_on_drop();
        drop(link);
        self.next(index)
    }
}

impl Drop for Churn<'_> {
    fn drop(&mut self) {
        // What is under way at the end is not worth a handshake, nor a port in TIME_WAIT.
        for lane in self.lanes.iter().flatten() {
            match lane {
                Lane::Dialling { dial, .. } => dial.reset_on_drop(),
                Lane::Closing(link) => link.reset_on_drop(),
            }
        }
    }
}
