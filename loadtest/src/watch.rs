//! Readings around a measured window: the server, this thread and the machine, before and after.
//!
//! In: the moments at which the window begins and ends. Out: [`Observed`], with the two verdicts
//! that decide whether figures mean anything: was the server the bottleneck, was the machine quiet.

use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::process::{MachineTime, Reading, Used, thread_cpu_time, thread_wait_time};

/// The share of a core above which somebody counts as busy.
const BUSY: f64 = 0.9;

/// The share of the window that others may take away before figures count as disturbed. Wake-ups
/// alone cost a few percent where threads sleep between single messages.
const DISTURBED: f64 = 0.1;

/// A window that has begun.
#[derive(Debug)]
pub(crate) struct Watch {
    server: Option<(u32, Reading)>,
    machine: MachineTime,
    waited: Duration,
    cpu: Duration,
    begin: Instant,
}

/// What happened in a window.
#[derive(Debug)]
pub(crate) struct Observed {
    pub(crate) elapsed: Duration,
    /// CPU time of the load generator.
    pub(crate) load_cpu: Duration,
    /// Time in which the load generator was runnable and had no CPU.
    pub(crate) load_waited: Duration,
    /// Share of the machine's CPU time that its hypervisor gave to others.
    pub(crate) stolen_share: f64,
    /// What the server used, if its process is known.
    pub(crate) server: Option<Used>,
}

impl Watch {
    /// Reads everything; the window begins last.
    ///
    /// # Errors
    ///
    /// The server's process is gone or may not be read.
    pub(crate) fn begin(server_pid: Option<u32>) -> Result<Self, Failure> {
        let server = server_pid.map(|pid| Ok((pid, Reading::of(pid)?))).transpose()?;
        let (machine, waited) = (MachineTime::now(), thread_wait_time());
        Ok(Self { server, machine, waited, cpu: thread_cpu_time(), begin: Instant::now() })
    }

    /// When the window began.
    pub(crate) fn began(&self) -> Instant {
        self.begin
    }

    /// The window ends first, then everything is read again.
    ///
    /// # Errors
    ///
    /// As for [`Watch::begin`].
    pub(crate) fn end(self) -> Result<Observed, Failure> {
        let (elapsed, cpu) = (self.begin.elapsed(), thread_cpu_time());
        let server = match self.server {
            Some((pid, before)) => Some(Reading::of(pid)?.since(&before)),
            None => None,
        };
        Ok(Observed {
            elapsed,
            load_cpu: cpu.saturating_sub(self.cpu),
            load_waited: thread_wait_time().saturating_sub(self.waited),
            stolen_share: MachineTime::now().stolen_share_since(self.machine),
            server,
        })
    }
}

impl Observed {
    /// `time` as a share of the window.
    pub(crate) fn share(&self, time: Duration) -> f64 {
        time.div_duration_f64(self.elapsed)
    }

    /// Whether the load generator, and not the server, set the pace: it had no time left while no
    /// thread of the server was as busy. Without a reading of the server only the first half
    /// counts.
    pub(crate) fn is_saturated(&self) -> bool {
        let server_was_busy =
            self.server.as_ref().is_some_and(|server| self.share(server.busiest) > BUSY);
        self.share(self.load_cpu) > BUSY && !server_was_busy
    }

    /// Whether something else on the machine, or beside it on the same host, took CPU time away.
    pub(crate) fn is_disturbed(&self) -> bool {
        let server_waited =
            self.server.as_ref().map_or(Duration::ZERO, |server| server.busiest_waited);
        self.share(server_waited.max(self.load_waited)) > DISTURBED || self.stolen_share > DISTURBED
    }

    /// One sentence for each verdict that makes the figures doubtful.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let mut warnings = Vec::new();
        if self.is_saturated() {
            let own = percent(self.share(self.load_cpu));
            let server = match &self.server {
                Some(used) => {
                    format!("the server's busiest thread {}", percent(self.share(used.busiest)))
                }
                None => "and the server is unknown without --server-pid".to_owned(),
            };
            warnings.push(format!("load generator saturated: it used {own} of its core, {server}"));
        }
        if self.is_disturbed() {
            let server = match &self.server {
                Some(used) => {
                    format!(", the server {}", percent(self.share(used.busiest_waited)))
                }
                None => String::new(),
            };
            warnings.push(format!(
                "disturbed: the load generator waited {} of the window for a CPU{server}; {} of \
                 the machine was stolen",
                percent(self.share(self.load_waited)),
                percent(self.stolen_share)
            ));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(load_ms: u64, server_busiest_ms: Option<u64>) -> Observed {
        let server = server_busiest_ms.map(|busiest_ms| Used {
            cpu: Duration::from_millis(busiest_ms),
            busiest: Duration::from_millis(busiest_ms),
            busiest_waited: Duration::ZERO,
            voluntary: 0,
            involuntary: 0,
            threads: 1,
            rss: 0,
        });
        Observed {
            elapsed: Duration::from_secs(1),
            load_cpu: Duration::from_millis(load_ms),
            load_waited: Duration::ZERO,
            stolen_share: 0.0,
            server,
        }
    }

    #[test]
    fn the_load_generator_is_saturated_only_if_the_server_is_not() {
        assert!(observed(950, Some(800)).is_saturated());
        assert!(!observed(950, Some(980)).is_saturated());
        assert!(!observed(850, Some(500)).is_saturated());
        assert!(observed(950, None).is_saturated());
        assert!(!observed(850, None).is_saturated());
        let warnings = observed(950, Some(800)).warnings();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with("load generator saturated"), "{warnings:?}");
    }

    #[test]
    fn waiting_and_stolen_time_disturb() {
        assert!(!observed(500, Some(500)).is_disturbed());
        let stolen = Observed { stolen_share: 0.11, ..observed(500, None) };
        assert!(stolen.is_disturbed() && !stolen.is_saturated());
        let waited = Observed { load_waited: Duration::from_millis(101), ..observed(500, None) };
        assert!(waited.is_disturbed());
        assert!(waited.warnings()[0].contains("10.1 %"));
    }

    #[test]
    fn a_window_is_observed() {
        let watch = Watch::begin(Some(std::process::id())).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        let observed = watch.end().unwrap();
        assert!(observed.elapsed >= Duration::from_millis(5));
        assert!(observed.server.is_some_and(|server| server.threads >= 1));
    }
}
