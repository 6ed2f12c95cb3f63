//! Mode `echo`: opens the connections, runs the closed loop, reads the server before and after.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::Poll;

use crate::args;
use crate::batch::Batch;
use crate::dial::{Dialer, MODEST_CONCURRENCY};
use crate::engine::{Counters, Engine, PATIENCE};
use crate::failure::{Context, Failure};
use crate::load::Load;
use crate::process;
use crate::progress::{Progress, bar};
use crate::syscalls::{self, Counting, Tool};
use crate::target::Speech;
use crate::watch::{Observed, Watch};

/// Close handshakes after the run; the figures are taken by then.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// What was measured.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) observed: Observed,
    pub(crate) counters: Counters,
    /// Round trips in nanoseconds.
    pub(crate) latency: Histogram<u64>,
    pub(crate) syscalls: Option<Syscalls>,
}

/// System calls of the server, counted after the measured window.
#[derive(Debug)]
pub(crate) struct Syscalls {
    pub(crate) tool: Tool,
    pub(crate) calls: u64,
    pub(crate) per_message: f64,
}

/// Runs the mode.
///
/// # Errors
///
/// Whatever makes the figures worthless: a refused connection or handshake, a wrong or missing
/// echo, a server that ended.
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
    let mut engine = Engine::new(poll, opened, &batch, options.verify)?;

    engine.fill()?;
    engine.run_until(Instant::now() + options.warmup, |counters| {
        progress.show(|| format!("warming up, {} messages", counters.messages));
    })?;

    let before = engine.counters();
    let watch = Watch::begin(subject.server_pid)?;
    engine.set_recording(true);
    engine.run_until(watch.began() + options.duration, |counters| {
        progress.show(|| {
            let messages = counters.since(&before).messages;
            format!("{} {messages} messages", bar(watch.began().elapsed(), options.duration))
        });
    })?;
    engine.set_recording(false);
    let observed = watch.end()?;
    let counters = engine.counters().since(&before);
    if counters.messages == 0 {
        let seconds = observed.elapsed.as_secs_f64();
        return Err(Failure::new(format!("no echo came back in {seconds:.1} s")));
    }

    let syscalls = match (tool, subject.server_pid) {
        (Some(tool), Some(pid)) => Some(count_syscalls(tool, pid, &mut engine, progress)?),
        _ => None,
    };
    let latency = engine.latency().clone();
    engine.drain(PATIENCE)?;
    match subject.target.speech() {
        // Without a protocol there is no close handshake.
        Speech::Raw => engine.abandon(),
        Speech::Plain | Speech::Tls => engine.close(CLOSE_PATIENCE)?,
    }
    Ok(Figures { observed, counters, latency, syscalls })
}

/// Keeps the load going while a tool counts.
pub(crate) fn count_syscalls(
    tool: Tool,
    server_pid: u32,
    engine: &mut dyn Load,
    progress: &mut Progress,
) -> Result<Syscalls, Failure> {
    const STEP: Duration = Duration::from_millis(20);
    let mut counting = Counting::start(tool, server_pid)?;
    let mut show = |_: &Counters| progress.show(|| format!("counting with {}", tool.name()));
    if tool == Tool::Strace {
        // The server is much slower once it is traced: messages before that do not count.
        let deadline = syscalls::attach_deadline();
        while !syscalls::is_traced(server_pid) {
            if counting.has_ended()? || Instant::now() > deadline {
                counting.finish()?;
                return Err(Failure::new("strace did not attach to the server"));
            }
            engine.run_until(Instant::now() + STEP, &mut show)?;
        }
    }
    let (start, before) = (Instant::now(), engine.counters());
    match tool {
        Tool::Strace => engine.run_until(start + syscalls::WINDOW, &mut show)?,
        Tool::Perf => {
            while !counting.has_ended()? {
                engine.run_until(Instant::now() + STEP, &mut show)?;
            }
        }
    }
    let elapsed = start.elapsed();
    let messages = engine.counters().since(&before).messages;
    let calls = counting.finish()?;
    if messages == 0 {
        return Err(Failure::new(format!("no message came while {} counted", tool.name())));
    }
    // perf takes a moment to start and to end, in which messages pass that it did not see: its
    // count belongs to its own window of one second.
    let seen = match tool {
        Tool::Strace => messages as f64,
        Tool::Perf => messages as f64 * syscalls::WINDOW.div_duration_f64(elapsed).min(1.0),
    };
    Ok(Syscalls { tool, calls, per_message: calls as f64 / seen })
}
