//! Mode `connect`: opens and closes connections one after another, several at a time, and counts
//! the opening handshakes (RFC 6455 4).

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};

use crate::args;
use crate::batch::{Batch, Content};
use crate::dial::{Dial, Dialer};
use crate::engine::{latency_histogram, wait};
use crate::failure::{Context, Failure};
use crate::link::Link;
use crate::process;
use crate::progress::{Progress, bar};
use crate::watch::{Observed, Watch};

/// Enough for the few bytes that follow a handshake here.
const READ_LEN: usize = 4096;

/// What was measured.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) observed: Observed,
    /// Opening handshakes that were finished.
    pub(crate) handshakes: u64,
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

    let masking_key = process::random().context(|| "cannot read random bytes")?;
    let mut churn = Churn {
        poll: Poll::new().context(|| "no epoll instance")?,
        dialer: Dialer::new(&subject.target)?,
        lanes: Vec::with_capacity(options.concurrency),
        batch: Batch::new(Content::Ascii, 0, 1, masking_key),
        abrupt: options.abrupt,
        handshakes: 0,
        latency: latency_histogram()?,
        recording: false,
    };
    for index in 0..options.concurrency {
        let lane = churn.dial(index)?;
        churn.lanes.push(Some(lane));
    }
    churn.run_until(Instant::now() + options.warmup, |handshakes| {
        progress.show(|| format!("warming up, {handshakes} handshakes"));
    })?;

    let before = churn.handshakes;
    let watch = Watch::begin(subject.server_pid)?;
    churn.recording = true;
    churn.run_until(watch.began() + options.duration, |handshakes| {
        progress.show(|| {
            let done = bar(watch.began().elapsed(), options.duration);
            format!("{done} {} handshakes", handshakes - before)
        });
    })?;
    let observed = watch.end()?;
    let handshakes = churn.handshakes - before;
    if handshakes == 0 {
        let seconds = observed.elapsed.as_secs_f64();
        return Err(Failure::new(format!("no opening handshake finished in {seconds:.1} s")));
    }
    Ok(Figures { observed, handshakes, latency: churn.latency.clone() })
}

struct Churn<'t> {
    poll: Poll,
    dialer: Dialer<'t>,
    /// `None` only while a lane is being served.
    lanes: Vec<Option<Lane>>,
    /// Gives the close handshake its masking key; none of its messages is sent.
    batch: Batch,
    abrupt: bool,
    handshakes: u64,
    latency: Histogram<u64>,
    recording: bool,
}

impl Churn<'_> {
    fn dial(&mut self, index: usize) -> Result<Lane, Failure> {
        let since = Instant::now();
        Ok(Lane::Dialling { dial: self.dialer.dial(&self.poll, Token(index))?, since })
    }

    fn run_until(&mut self, deadline: Instant, mut tick: impl FnMut(u64)) -> Result<(), Failure> {
        let mut events = Events::with_capacity(1024);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            wait(&mut self.poll, &mut events, left.min(Duration::from_millis(200)))?;
            for event in &events {
                let Token(index) = event.token();
                self.serve(index)?;
            }
            tick(self.handshakes);
        }
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
                self.handshakes += 1;
                if self.recording {
                    self.latency.saturating_record(since.elapsed().as_nanos() as u64);
                }
                let opened = dial.into_opened();
                if self.abrupt {
                    opened.socket.reset_on_drop();
                    drop(opened);
                    self.dial(index)?
                } else {
                    let mut link = Link::new(opened, &self.batch, false)?;
                    link.start_close(&self.batch);
                    self.close(index, link)?
                }
            }
            Lane::Closing(link) => self.close(index, link)?,
        };
        self.lanes[index] = Some(lane);
        Ok(())
    }

    /// Goes on with the close handshake; after it, the lane dials again.
    fn close(&mut self, index: usize, mut link: Link) -> Result<Lane, Failure> {
        let mut buffer = [0; READ_LEN];
        link.flush(&self.batch)?;
        while !link.is_closed() {
            if link.read(&mut buffer, &self.batch)?.len == 0 && !link.is_closed() {
                return Ok(Lane::Closing(link));
            }
        }
        link.reset_on_drop();
        drop(link);
        self.dial(index)
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
