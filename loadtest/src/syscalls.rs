//! System calls of the server, counted by perf(1) or strace(1) while the load goes on.
//!
//! Counting slows the server down (strace: very much so), so it happens after the measured window
//! and nothing but the count is taken from it.

use std::io::{ErrorKind, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::args::CountSyscalls;
use crate::failure::{Context, Failure};

/// How long calls are counted.
pub(crate) const WINDOW: Duration = Duration::from_secs(1);

/// strace(1) has attached to every thread within this time, or never will.
const ATTACH_TIME: Duration = Duration::from_secs(3);

/// A tool that can count the calls of another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    Perf,
    Strace,
}

impl Tool {
    /// As in the figures.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Perf => "perf stat",
            Self::Strace => "strace",
        }
    }

    /// The cheapest tool that is installed and allowed here, by trying it on a short sleep.
    ///
    /// # Errors
    ///
    /// None of the tools that were asked for works.
    pub(crate) fn choose(wanted: CountSyscalls) -> Result<Option<Self>, Failure> {
        let usable = |tool: &Self| tool.works();
        match wanted {
            CountSyscalls::No => Ok(None),
            CountSyscalls::WithStrace => {
                Some(Self::Strace).filter(usable).map(Some).ok_or_else(|| {
                    Failure::new("strace does not work here, so system calls cannot be counted")
                })
            }
            CountSyscalls::WithBestTool => {
                [Self::Perf, Self::Strace].into_iter().find(usable).map(Some).ok_or_else(|| {
                    Failure::new("neither perf nor strace can count system calls here")
                })
            }
        }
    }

    fn works(self) -> bool {
        let attempt = match self {
            Self::Perf => Command::new("perf")
                .args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "--", "true"])
                .env("LC_ALL", "C")
                .output(),
            Self::Strace => Command::new("strace").args(["-c", "--", "true"]).output(),
        };
        attempt.is_ok_and(|output| {
            output.status.success()
                && self.calls_in(&String::from_utf8_lossy(&output.stderr)).is_some()
        })
    }

    /// Finds the count in what the tool wrote.
    fn calls_in(self, report: &str) -> Option<u64> {
        match self {
            // Count, unit, event, run time, ...
            Self::Perf => report
                .lines()
                .find(|line| line.contains("raw_syscalls:sys_enter"))?
                .split(',')
                .next()?
                .parse()
                .ok(),
            // "% time", seconds, usecs/call, calls, errors if any, "total".
            Self::Strace => report
                .lines()
                .find(|line| line.trim_end().ends_with(" total"))?
                .split_ascii_whitespace()
                .nth(3)?
                .parse()
                .ok(),
        }
    }
}

/// A tool at work. Dropped, it is stopped.
#[derive(Debug)]
pub(crate) struct Counting {
    tool: Tool,
    child: Child,
}

impl Counting {
    /// Starts counting the calls of a process.
    ///
    /// # Errors
    ///
    /// The tool cannot be run.
    pub(crate) fn start(tool: Tool, server_pid: u32) -> Result<Self, Failure> {
        let pid = server_pid.to_string();
        let seconds = WINDOW.as_secs().to_string();
        let mut command = match tool {
            // perf counts while its command runs, so its own start and end are left out.
            Tool::Perf => {
                let mut command = Command::new("perf");
                command.args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", &pid]);
                command.args(["--", "sleep", &seconds]);
                command
            }
            Tool::Strace => {
                let mut command = Command::new("strace");
                command.args(["-f", "-c", "-q", "-p", &pid]);
                command
            }
        };
        let child = command
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context(|| format!("cannot run {}", tool.name()))?;
        Ok(Self { tool, child })
    }

    /// Whether the tool has ended by itself.
    ///
    /// # Errors
    ///
    /// wait(2) failed.
    pub(crate) fn has_ended(&mut self) -> Result<bool, Failure> {
        let status =
            self.child.try_wait().context(|| format!("cannot await {}", self.tool.name()))?;
        Ok(status.is_some())
    }

    /// Ends strace(1), which otherwise counts for ever, and returns the number of calls.
    ///
    /// # Errors
    ///
    /// The tool reported none, with what it said instead.
    pub(crate) fn finish(mut self) -> Result<u64, Failure> {
        if self.tool == Tool::Strace {
            self.interrupt();
        }
        let mut report = String::new();
        let name = self.tool.name();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut report).context(|| format!("cannot read from {name}"))?;
        }
        self.child.wait().context(|| format!("cannot await {name}"))?;
        self.tool.calls_in(&report).ok_or_else(|| {
            let said = report.lines().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
            Failure::new(format!("{name} counted nothing; it said: {}", said.trim()))
        })
    }

    fn interrupt(&self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended already, which its report will tell.
            let _ = kill_process(pid, Signal::INT);
        }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        // Killing strace outright could leave the server stopped; an interrupt detaches it.
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.interrupt();
            let _ = self.child.wait();
        }
    }
}

/// Whether a tracer is attached to every thread of a process.
pub(crate) fn is_traced(server_pid: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{server_pid}/task")) else { return false };
    tasks.flatten().all(|task| {
        match std::fs::read_to_string(task.path().join("status")) {
            // The kernel's own threads for io_uring cannot be traced; nor do they call anything.
            Ok(status) if status.starts_with("Name:\tiou-") => true,
            Ok(status) => !status.lines().any(|line| line == "TracerPid:\t0"),
            // The thread has ended.
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
    })
}

/// When to give up waiting for [`is_traced`].
pub(crate) fn attach_deadline() -> Instant {
    Instant::now() + ATTACH_TIME
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_understood() {
        let perf = "3021,,raw_syscalls:sys_enter,1000123456,100.00,,\n";
        assert_eq!(Tool::Perf.calls_in(perf), Some(3021));
        assert_eq!(Tool::Perf.calls_in("<not counted>,,raw_syscalls:sys_enter,0,,"), None);
        let strace = "% time     seconds  usecs/call     calls    errors syscall\n\
                      ------ ----------- ----------- --------- --------- ----------------\n\
                       60.00    0.000060           2        30         1 read\n\
                      100.00    0.000102           3        29         1 total\n";
        assert_eq!(Tool::Strace.calls_in(strace), Some(29));
        let without_errors = "100.00    0.000102           3        29           total\n";
        assert_eq!(Tool::Strace.calls_in(without_errors), Some(29));
        assert_eq!(Tool::Strace.calls_in("strace: attach: No such process"), None);
    }

    #[test]
    fn no_tool_is_tried_unasked_and_a_missing_process_is_not_traced() {
        assert_eq!(Tool::choose(CountSyscalls::No).unwrap(), None);
        assert!(!is_traced(u32::MAX));
    }
}
