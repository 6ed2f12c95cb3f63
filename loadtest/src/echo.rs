//! Mode `echo`: opens the connections, runs the closed loop, reads the server before and after.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::Poll;

use crate::args;
use crate::batch::Batch;
use crate::dial::{Dialer, MODEST_CONCURRENCY};
use crate::engine::{Counters, Engine};
use crate::failure::{Context, Failure};
use crate::process;
use crate::progress::{Progress, bar};
use crate::syscalls::{self, Counting, Tool};

/// Messages still under way after the run come back within this time, or are lost.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);
/// Close handshakes after the run; the figures are taken by then.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// The share of a core above which somebody counts as busy.
const BUSY: f64 = 0.9;

/// What was measured.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) elapsed: Duration,
    pub(crate) counters: Counters,
    /// Round trips in nanoseconds.
    pub(crate) latency: Histogram<u64>,
    pub(crate) load: Load,
    pub(crate) server: Option<process::Used>,
    pub(crate) syscalls: Option<Syscalls>,
}

/// What the load generator itself needed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) cpu: Duration,
    /// Runnable without a CPU.
    pub(crate) waited: Duration,
}

/// System calls of the server, counted after the measured window.
#[derive(Debug)]
pub(crate) struct Syscalls {
    pub(crate) tool: Tool,
    pub(crate) calls: u64,
    pub(crate) per_message: f64,
}

impl Load {
    /// A reading of the calling thread.
    pub(crate) fn now() -> Self {
        Self { cpu: process::thread_cpu_time(), waited: process::thread_wait_time() }
    }

    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            waited: self.waited.saturating_sub(earlier.waited),
        }
    }
}

/// Whether the load generator, and not the server, set the pace: it had no time left while no
/// thread of the server was as busy. Without a reading of the server only the first half counts.
pub(crate) fn is_saturated(load: Load, server: Option<&process::Used>, elapsed: Duration) -> bool {
    let share = |cpu: Duration| cpu.div_duration_f64(elapsed);
    let server_was_busy = server.is_some_and(|server| share(server.busiest) > BUSY);
    share(load.cpu) > BUSY && !server_was_busy
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
    let read_server = || subject.server_pid.map(process::Reading::of).transpose();
    read_server()?;

    let masking_key = process::random().context(|| "cannot read random bytes")?;
    let batch = Batch::new(options.content, options.size, options.depth, masking_key);
    let mut poll = Poll::new().context(|| "no epoll instance")?;
    let mut dialer = Dialer::new(&subject.target)?;
    let opened = dialer.open_all(&mut poll, options.connections, MODEST_CONCURRENCY, progress)?;
    let mut engine = Engine::new(poll, opened, &batch, options.verify)?;

    engine.fill()?;
    engine.run_until(Instant::now() + options.warmup, |counters| {
        progress.show(|| format!("warming up, {} messages", counters.messages));
    })?;

    let server_before = read_server()?;
    let (load_before, counters_before) = (Load::now(), engine.counters());
    engine.set_recording(true);
    let start = Instant::now();
    engine.run_until(start + options.duration, |counters| {
        progress.show(|| {
            let messages = counters.messages - counters_before.messages;
            format!("{} {messages} messages", bar(start.elapsed(), options.duration))
        });
    })?;
    let elapsed = start.elapsed();
    engine.set_recording(false);
    let load = Load::now().since(load_before);
    let counters = engine.counters().since(&counters_before);
    let server_after = read_server()?;
    if counters.messages == 0 {
        return Err(Failure::new(format!("no echo came back in {:.1} s", elapsed.as_secs_f64())));
    }

    let syscalls = match (tool, subject.server_pid) {
        (Some(tool), Some(pid)) => Some(count_syscalls(tool, pid, &mut engine, progress)?),
        _ => None,
    };
    let latency = engine.latency().clone();
    engine.drain(DRAIN_PATIENCE)?;
    engine.close(CLOSE_PATIENCE)?;
    let server = server_before.zip(server_after).map(|(before, after)| after.since(&before));
    Ok(Figures { elapsed, counters, latency, load, server, syscalls })
}

/// Keeps the load going while a tool counts.
fn count_syscalls(
    tool: Tool,
    server_pid: u32,
    engine: &mut Engine<'_>,
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
        return Err(Failure::new(format!("no echo came back while {} counted", tool.name())));
    }
    // perf takes a moment to start and to end, in which messages pass that it did not see: its
    // count belongs to its own window of one second.
    let seen = match tool {
        Tool::Strace => messages as f64,
        Tool::Perf => messages as f64 * syscalls::WINDOW.div_duration_f64(elapsed).min(1.0),
    };
    Ok(Syscalls { tool, calls, per_message: calls as f64 / seen })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(busiest_ms: u64) -> process::Used {
        let busiest = Duration::from_millis(busiest_ms);
        let waited = Duration::ZERO;
        process::Used {
            cpu: busiest,
            busiest,
            waited,
            voluntary: 0,
            involuntary: 0,
            threads: 1,
            rss: 0,
        }
    }

    #[test]
    fn the_load_generator_is_saturated_only_if_the_server_is_not() {
        let second = Duration::from_secs(1);
        let load = |ms| Load { cpu: Duration::from_millis(ms), waited: Duration::ZERO };
        assert!(is_saturated(load(950), Some(&server(800)), second));
        assert!(!is_saturated(load(950), Some(&server(980)), second));
        assert!(!is_saturated(load(850), Some(&server(500)), second));
        assert!(is_saturated(load(950), None, second));
        assert!(!is_saturated(load(850), None, second));
    }
}
