//! Readings of the server process and of this thread: /proc(5) in, plain numbers out.
//!
//! Nothing here is a rate: two readings are taken and subtracted.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::failure::{Context, Failure};

/// Descriptors that a run needs beside its connections.
const OTHER_DESCRIPTORS: u64 = 64;

/// One reading of all threads of a process.
#[derive(Debug)]
pub(crate) struct Reading {
    threads: BTreeMap<u32, Thread>,
    /// Resident memory in bytes (`VmRSS`).
    rss: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Thread {
    run_ns: u64,
    wait_ns: u64,
    voluntary: u64,
    involuntary: u64,
}

/// What a process did between two readings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Used {
    /// CPU time of all threads, system calls included.
    pub(crate) cpu: Duration,
    /// CPU time of the thread that used most.
    pub(crate) busiest: Duration,
    /// Time that this thread was runnable and had no CPU, because something else ran there.
    pub(crate) busiest_waited: Duration,
    /// Context switches because a thread went to sleep.
    pub(crate) voluntary: u64,
    /// Context switches because a thread was preempted.
    pub(crate) involuntary: u64,
    /// Threads at the later reading.
    pub(crate) threads: usize,
    /// Resident memory in bytes at the later reading.
    pub(crate) rss: u64,
}

impl Reading {
    /// Reads `/proc/PID/task/*/{schedstat,status}` and `/proc/PID/status`.
    ///
    /// # Errors
    ///
    /// There is no such process, or it may not be read.
    pub(crate) fn of(pid: u32) -> Result<Self, Failure> {
        let what = || format!("cannot read process {pid}");
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task")).context(what)? {
            let path = entry.context(what)?.path();
            let Some(tid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else {
                continue;
            };
            // A thread may end between the listing and the reading.
            let Ok(status) = fs::read_to_string(path.join("status")) else { continue };
            let cpu_time = match fs::read_to_string(path.join("schedstat")) {
                Ok(text) => parse_schedstat(&text),
                // Kernels without CONFIG_SCHED_INFO: clock ticks, and no waiting time.
                Err(_) => fs::read_to_string(path.join("stat"))
                    .ok()
                    .and_then(|text| parse_stat(&text))
                    .map(|run_ns| (run_ns, 0)),
            };
            let Some((run_ns, wait_ns)) = cpu_time else {
                if path.exists() {
                    return Err(Failure::new(format!("cannot read the CPU time of process {pid}")));
                }
                continue;
            };
            let thread = Thread {
                run_ns,
                wait_ns,
                voluntary: field(&status, "voluntary_ctxt_switches").unwrap_or(0),
                involuntary: field(&status, "nonvoluntary_ctxt_switches").unwrap_or(0),
            };
            threads.insert(tid, thread);
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context(what)?;
        // A zombie has no memory, and is no server any more.
        let rss = field(&status, "VmRSS")
            .ok_or_else(|| Failure::new(format!("process {pid} has ended")))?;
        Ok(Self { threads, rss: rss * 1024 })
    }

    /// What happened since `earlier`. Threads that ended meanwhile are not counted.
    pub(crate) fn since(&self, earlier: &Self) -> Used {
        let mut used = Used {
            cpu: Duration::ZERO,
            busiest: Duration::ZERO,
            busiest_waited: Duration::ZERO,
            voluntary: 0,
            involuntary: 0,
            threads: self.threads.len(),
            rss: self.rss,
        };
        for (tid, now) in &self.threads {
            let before = earlier.threads.get(tid).copied().unwrap_or_default();
            let ran = Duration::from_nanos(now.run_ns.saturating_sub(before.run_ns));
            used.cpu += ran;
            if ran > used.busiest {
                used.busiest = ran;
                used.busiest_waited =
                    Duration::from_nanos(now.wait_ns.saturating_sub(before.wait_ns));
            }
            used.voluntary += now.voluntary.saturating_sub(before.voluntary);
            used.involuntary += now.involuntary.saturating_sub(before.involuntary);
        }
        used
    }
}

/// Resident memory of a process, from `/proc/PID/smaps_rollup`, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Pages in memory, shared ones in full.
    pub(crate) rss: u64,
    /// Pages in memory, shared ones divided by the number of processes that share them.
    pub(crate) pss: u64,
    /// Pages that only this process has and that it wrote to: its heap, stacks and data.
    pub(crate) private_dirty: u64,
}

impl Memory {
    /// # Errors
    ///
    /// There is no such process, or it belongs to somebody else.
    pub(crate) fn of(pid: u32) -> Result<Self, Failure> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).context(|| format!("cannot read {path}"))?;
        let bytes = |name: &str| {
            let kib = field(&text, name);
            kib.map(|kib| kib * 1024).ok_or_else(|| Failure::new(format!("{path} has no {name}")))
        };
        Ok(Self { rss: bytes("Rss")?, pss: bytes("Pss")?, private_dirty: bytes("Private_Dirty")? })
    }
}

/// CPU time of the whole machine, from the first line of `/proc/stat`, in clock ticks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MachineTime {
    total: u64,
    stolen: u64,
}

impl MachineTime {
    /// Where `/proc/stat` cannot be read, nothing ever counts as stolen.
    pub(crate) fn now() -> Self {
        fs::read_to_string("/proc/stat")
            .ok()
            .and_then(|text| Self::parse(text.lines().next()?))
            .unwrap_or(Self { total: 0, stolen: 0 })
    }

    /// proc(5): user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of user
    /// and nice.
    fn parse(line: &str) -> Option<Self> {
        let words = line.strip_prefix("cpu ")?.split_ascii_whitespace().take(8);
        let ticks: Vec<u64> = words.map(str::parse).collect::<Result<_, _>>().ok()?;
        Some(Self { total: ticks.iter().sum(), stolen: *ticks.get(7)? })
    }

    /// Share of the time since `earlier` that the hypervisor gave to other machines.
    pub(crate) fn stolen_share_since(self, earlier: Self) -> f64 {
        match self.total.saturating_sub(earlier.total) {
            0 => 0.0,
            total => self.stolen.saturating_sub(earlier.stolen) as f64 / total as f64,
        }
    }
}

/// CPU time of the calling thread.
pub(crate) fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Time that the calling thread was runnable without a CPU; zero where the kernel does not tell.
pub(crate) fn thread_wait_time() -> Duration {
    fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|text| parse_schedstat(&text))
        .map_or(Duration::ZERO, |(_, wait_ns)| Duration::from_nanos(wait_ns))
}

/// Keeps the calling thread on one CPU.
///
/// # Errors
///
/// The CPU does not exist or is not allowed.
pub(crate) fn pin(cpu: usize) -> Result<(), Failure> {
    let what = || format!("cannot run on CPU {cpu}");
    if cpu >= CpuSet::MAX_CPU {
        return Err(Failure::new(what()));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).context(what)
}

/// Whether the calling thread may run on this CPU.
pub(crate) fn may_run_on(cpu: usize) -> bool {
    cpu < CpuSet::MAX_CPU && sched_getaffinity(None).is_ok_and(|set| set.is_set(cpu))
}

/// CPUs on which a process may run, as the kernel writes them (`0-3,8`).
pub(crate) fn allowed_cpus(pid: Option<u32>) -> Option<String> {
    let path =
        pid.map_or("/proc/thread-self/status".to_owned(), |pid| format!("/proc/{pid}/status"));
    let status = fs::read_to_string(path).ok()?;
    Some(value(&status, "Cpus_allowed_list")?.to_owned())
}

/// Raises the soft limit of open files to the hard one and checks that so many sockets fit.
///
/// # Errors
///
/// The hard limit is too low.
pub(crate) fn allow_descriptors(sockets: usize) -> Result<(), Failure> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).context(|| "cannot raise the limit of open files")?;
    }
    match limit.maximum {
        Some(most) if sockets as u64 + OTHER_DESCRIPTORS > most => Err(Failure::new(format!(
            "{sockets} connections need {} open files, the hard limit is {most}",
            sockets as u64 + OTHER_DESCRIPTORS
        ))),
        _ => Ok(()),
    }
}

/// How many sockets may be open at the same time, once [`allow_descriptors`] was called.
pub(crate) fn most_sockets() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit.saturating_sub(OTHER_DESCRIPTORS)).unwrap_or(usize::MAX)
}

/// Random bytes from the kernel, for masking key and handshake nonces (RFC 6455 4.1).
///
/// # Errors
///
/// `/dev/urandom` cannot be read.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Nanoseconds on a CPU and nanoseconds waiting for one.
fn parse_schedstat(text: &str) -> Option<(u64, u64)> {
    let mut words = text.split_ascii_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// User and system time in nanoseconds, from `/proc/PID/task/TID/stat`.
fn parse_stat(text: &str) -> Option<u64> {
    // proc(5): USER_HZ, the unit of these fields, is 100 per second on every architecture here.
    const NS_PER_TICK: u64 = 10_000_000;
    // The second field is the name, in parentheses, and may contain anything.
    let mut words = text[text.rfind(')')? + 1..].split_ascii_whitespace().skip(11);
    let user: u64 = words.next()?.parse().ok()?;
    let system: u64 = words.next()?.parse().ok()?;
    Some((user + system) * NS_PER_TICK)
}

/// The number after `name:` in a `/proc` file.
fn field(text: &str, name: &str) -> Option<u64> {
    value(text, name)?.split_ascii_whitespace().next()?.parse().ok()
}

fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_cpu_time_is_read_both_ways() {
        let pid = std::process::id();
        let (reading, thread) = (Reading::of(pid).unwrap(), thread_cpu_time());
        let mut sum = 0_u64;
        while thread_cpu_time() - thread < Duration::from_millis(30) {
            sum = sum.wrapping_mul(31).wrapping_add(1);
        }
        let used = Reading::of(pid).unwrap().since(&reading);
        // The scheduler's figure may lag by one clock tick.
        assert!(used.cpu > Duration::from_millis(15), "{used:?} {sum}");
        assert!(used.busiest <= used.cpu && used.threads >= 1 && used.rss > 4096);
        let memory = Memory::of(pid).unwrap();
        assert!(memory.pss <= memory.rss && memory.private_dirty > 4096);
        assert!(memory.private_dirty <= memory.rss);
    }

    #[test]
    fn a_process_that_is_not_there_is_a_failure() {
        // Beyond PID_MAX_LIMIT of proc(5).
        let error = Reading::of(u32::MAX).unwrap_err().to_string();
        assert!(error.contains("4294967295"), "{error}");
        assert!(Memory::of(u32::MAX).is_err());
    }

    #[test]
    fn threads_that_began_count_in_full_and_ended_ones_not() {
        let thread = |run_ns| Thread { run_ns, wait_ns: run_ns / 10, voluntary: 1, involuntary: 2 };
        let earlier = Reading { threads: [(1, thread(100)), (2, thread(500))].into(), rss: 5 };
        let later = Reading { threads: [(1, thread(150)), (3, thread(70))].into(), rss: 7 };
        let used = later.since(&earlier);
        assert_eq!(used.cpu, Duration::from_nanos(120));
        assert_eq!(used.busiest, Duration::from_nanos(70));
        assert_eq!(used.busiest_waited, Duration::from_nanos(7));
        assert_eq!((used.voluntary, used.involuntary, used.threads, used.rss), (1, 2, 2, 7));
    }

    #[test]
    fn proc_files_are_parsed() {
        assert_eq!(parse_schedstat("123 45 6\n"), Some((123, 45)));
        assert_eq!(parse_schedstat("123"), None);
        let stat = "7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 31 12 0 0 20";
        assert_eq!(parse_stat(stat), Some(43 * 10_000_000));
        let status = "Name:\tx\nVmRSS:\t  12 kB\nnonvoluntary_ctxt_switches:\t9\n";
        assert_eq!(field(status, "VmRSS"), Some(12));
        assert_eq!(field(status, "voluntary_ctxt_switches"), None);
        assert_eq!(field(status, "nonvoluntary_ctxt_switches"), Some(9));
    }

    #[test]
    fn stolen_time_is_a_share_of_all_time() {
        let earlier = MachineTime::parse("cpu  10 0 10 10 0 0 0 5 3 0").unwrap();
        let later = MachineTime::parse("cpu  40 0 40 10 0 0 0 45 9 0").unwrap();
        assert_eq!((earlier.total, later.total), (35, 135));
        assert!((later.stolen_share_since(earlier) - 0.4).abs() < 1e-9);
        assert!(earlier.stolen_share_since(earlier).abs() < 1e-9);
        assert!(MachineTime::parse("cpu0 1 2 3").is_none());
        assert!(MachineTime::now().total > 0);
    }

    #[test]
    fn limits_and_cpus_are_checked() {
        assert!(allow_descriptors(1).is_ok());
        assert!(most_sockets() > 1);
        assert!(pin(CpuSet::MAX_CPU).is_err());
        assert!(!may_run_on(CpuSet::MAX_CPU));
        assert!(allowed_cpus(None).is_some_and(|list| !list.is_empty()));
        assert_ne!(random::<16>().unwrap(), random::<16>().unwrap());
    }
}
