//! Mode `latency`: opens the connections, runs the open loop, reads the server before and after.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::Poll;

use crate::args;
use crate::batch::Batch;
use crate::dial::{Dialer, MODEST_CONCURRENCY};
use crate::engine::Counters;
use crate::failure::{Context, Failure};
use crate::load::Load;
use crate::pace::Pace;
use crate::process;
use crate::progress::{Progress, bar};
use crate::target::Speech;
use crate::watch::{Observed, Watch};

/// Messages that differ from each other.
const BATCH: usize = 16;

/// Close handshakes after the run; the figures are taken by then.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// The load generator is late once one message in a hundred leaves so long after its time.
const LATE: Duration = Duration::from_micros(50);

/// What was measured.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) observed: Observed,
    pub(crate) counters: Counters,
    /// From the scheduled moment to the echo, in nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// From the scheduled moment to the write, in nanoseconds.
    pub(crate) lateness: Histogram<u64>,
}

impl Figures {
    /// Whether the load generator itself is part of what was measured.
    pub(crate) fn is_late(&self) -> bool {
        self.lateness.value_at_quantile(0.99) > LATE.as_nanos() as u64
    }

    /// Messages per second that came back.
    pub(crate) fn reached_rate(&self) -> f64 {
        self.counters.messages as f64 / self.observed.elapsed.as_secs_f64()
    }
}

/// Runs the mode.
///
/// # Errors
///
/// Whatever makes the figures worthless: a refused connection or handshake, a wrong or missing
/// echo, a server that ended or is hopelessly behind.
pub(crate) fn run(options: &args::Latency, progress: &mut Progress) -> Result<Figures, Failure> {
    let subject = &options.subject;
    if let Some(cpu) = subject.pin {
        process::pin(cpu)?;
    }
    process::allow_descriptors(options.connections)?;
    // A wrong process is noticed before the server has any work.
    Watch::begin(subject.server_pid)?;

    let batch = Batch::for_target(&subject.target, options.content, options.size, BATCH)?;
    let mut poll = Poll::new().context(|| "no epoll instance")?;
    let mut dialer = Dialer::new(&subject.target)?;
    let opened = dialer.open_all(&mut poll, options.connections, MODEST_CONCURRENCY, progress)?;
    let mut pace = Pace::new(poll, opened, &batch, options.verify, options.rate)?;

    pace.resume()?;
    pace.run_until(Instant::now() + options.warmup, &mut |counters| {
        progress.show(|| format!("warming up, {} messages", counters.messages));
    })?;
    pace.rest()?;

    let before = pace.counters();
    let watch = Watch::begin(subject.server_pid)?;
    pace.set_recording(true);
    pace.resume()?;
    pace.run_until(watch.began() + options.duration, &mut |counters| {
        progress.show(|| {
            let messages = counters.since(&before).messages;
            format!("{} {messages} messages", bar(watch.began().elapsed(), options.duration))
        });
    })?;
    // What is still under way was scheduled in the window, so it counts.
    pace.rest()?;
    let observed = watch.end()?;
    let counters = pace.counters().since(&before);
    if counters.messages == 0 {
        return Err(Failure::new("the window is too short for a message at this rate"));
    }
    let (latency, lateness) = (pace.latency().clone(), pace.lateness().clone());
    match subject.target.speech() {
        // Without a protocol there is no close handshake.
        Speech::Raw => drop(pace),
        Speech::Plain | Speech::Tls => pace.close(CLOSE_PATIENCE)?,
    }
    Ok(Figures { observed, counters, latency, lateness })
}
