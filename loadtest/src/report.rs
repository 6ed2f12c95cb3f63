//! Figures in, an aligned table for people and JSON for programs out.
//!
//! Every number in the table is in the JSON as well, unrounded and with its unit in its name.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::args::{self, Traffic};
use crate::connect;
use crate::echo;
use crate::environment::environment;
use crate::failure::{Context, Failure};
use crate::idle;
use crate::latency;
use crate::process::{Memory, Used, allowed_cpus};
use crate::text::grouped;
use crate::watch::Observed;

/// A file for figures, opened before the run so that a wrong path does not cost one.
#[derive(Debug)]
pub(crate) struct FigureFile {
    file: File,
    name: String,
}

impl FigureFile {
    /// Opens or creates the file; what it holds stays until [`FigureFile::write`].
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .context(|| format!("cannot write {name}"))?;
        Ok(Self { file, name })
    }

    /// Replaces the content.
    ///
    /// # Errors
    ///
    /// The file system refused, for want of space perhaps.
    pub(crate) fn write(mut self, text: &str) -> Result<(), Failure> {
        // Devices and pipes have no length to cut.
        let is_file = self.file.metadata().is_ok_and(|metadata| metadata.is_file());
        let cut = if is_file { self.file.set_len(0) } else { Ok(()) };
        cut.and_then(|()| self.file.write_all(text.as_bytes()))
            .and_then(|()| self.file.flush())
            .context(|| format!("cannot write {}", self.name))
    }
}

/// The JSON of modes `echo`, `broadcast` and `relay`.
pub(crate) fn echo_json(options: &args::Echo, figures: &echo::Figures) -> Value {
    let seconds = figures.observed.elapsed.as_secs_f64();
    let counters = &figures.counters;
    let messages = counters.messages as f64;
    let observed = &figures.observed;
    let mut load = load_json(observed);
    load.insert("reads".to_owned(), json!(counters.reads));
    load.insert("writes".to_owned(), json!(counters.writes));
    load.insert("waits".to_owned(), json!(counters.waits));
    json!({
        "mode": options.traffic.name(),
        "environment": environment(),
        "connections": options.connections,
        "size_bytes": options.size,
        "depth": options.depth,
        "content": options.content.name(),
        "verify": options.verify,
        "warmup_seconds": options.warmup.as_secs_f64(),
        "elapsed_seconds": seconds,
        "errors": 0,
        "messages": counters.messages,
        "messages_per_second": messages / seconds,
        "sent_mb_per_second": counters.bytes_sent as f64 / 1e6 / seconds,
        "received_mb_per_second": counters.bytes_received as f64 / 1e6 / seconds,
        "latency_ns": latency_json(&figures.latency),
        "load_generator_saturated": observed.is_saturated(),
        "disturbed": observed.is_disturbed(),
        "stolen_share": observed.stolen_share,
        "load_generator": load,
        "server": observed.server.as_ref().map(|used| {
            let mut server = server_json(observed, used, options.subject.server_pid);
            server.insert("cpu_ns_per_message".to_owned(), json!(per(used.cpu, messages)));
            server
        }),
        "server_syscalls": figures.syscalls.as_ref().map(|syscalls| json!({
            "tool": syscalls.tool.name(),
            "calls": syscalls.calls,
            "per_message": syscalls.per_message,
        })),
    })
}

/// The JSON of mode `latency`.
pub(crate) fn paced_json(options: &args::Latency, figures: &latency::Figures) -> Value {
    let messages = figures.counters.messages as f64;
    let observed = &figures.observed;
    json!({
        "mode": "latency",
        "environment": environment(),
        "connections": options.connections,
        "size_bytes": options.size,
        "content": options.content.name(),
        "verify": options.verify,
        "rate_per_second": options.rate,
        "warmup_seconds": options.warmup.as_secs_f64(),
        "elapsed_seconds": observed.elapsed.as_secs_f64(),
        "errors": 0,
        "messages": figures.counters.messages,
        "messages_per_second": figures.reached_rate(),
        "latency_ns": latency_json(&figures.latency),
        "sent_late_ns": latency_json(&figures.lateness),
        "load_generator_late": figures.is_late(),
        "disturbed": observed.is_disturbed(),
        "stolen_share": observed.stolen_share,
        "load_generator": load_json(observed),
        "server": observed.server.as_ref().map(|used| {
            let mut server = server_json(observed, used, options.subject.server_pid);
            server.insert("cpu_ns_per_message".to_owned(), json!(per(used.cpu, messages)));
            server
        }),
    })
}

/// The table of mode `latency`.
pub(crate) fn paced_table(options: &args::Latency, figures: &latency::Figures) -> String {
    let observed = &figures.observed;
    let messages = figures.counters.messages as f64;
    let mut table = Table::titled(format!(
        "latency: {} connections, {} bytes of {}, {} messages/s, {:.2} s",
        options.connections,
        options.size,
        options.content.name(),
        grouped(options.rate, 0),
        observed.elapsed.as_secs_f64()
    ));
    table.row("messages", grouped(messages, 0), "");
    table.row("reached", grouped(figures.reached_rate(), 0), "messages/s");
    table.latency("latency", &figures.latency);
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        let ns = figures.lateness.value_at_quantile(quantile);
        table.row(format!("sent late {name}"), grouped(ns as f64 / 1e3, 1), "us");
    }
    if let Some(used) = &observed.server {
        table.row("server CPU", grouped(per(used.cpu, messages), 0), "ns/message");
        table.server(observed, used, options.subject.server_pid);
    }
    table.load(observed);
    table.text
}

/// The JSON of mode `connect`.
pub(crate) fn connect_json(options: &args::Connect, figures: &connect::Figures) -> Value {
    let seconds = figures.observed.elapsed.as_secs_f64();
    let handshakes = figures.handshakes as f64;
    let observed = &figures.observed;
    json!({
        "mode": "connect",
        "environment": environment(),
        "concurrency": options.concurrency,
        "abrupt": options.abrupt,
        "warmup_seconds": options.warmup.as_secs_f64(),
        "elapsed_seconds": seconds,
        "errors": 0,
        "handshakes": figures.handshakes,
        "resumed": figures.resumed,
        "handshakes_per_second": handshakes / seconds,
        "latency_ns": latency_json(&figures.latency),
        "load_generator_saturated": observed.is_saturated(),
        "disturbed": observed.is_disturbed(),
        "stolen_share": observed.stolen_share,
        "load_generator": load_json(observed),
        "server": observed.server.as_ref().map(|used| {
            let mut server = server_json(observed, used, options.subject.server_pid);
            server.insert("cpu_ns_per_handshake".to_owned(), json!(per(used.cpu, handshakes)));
            server
        }),
    })
}

/// The JSON of mode `idle`.
pub(crate) fn idle_json(options: &args::Idle, figures: &idle::Figures) -> Value {
    let (connections, open) = figures.most();
    let mut json = json!({
        "mode": "idle",
        "environment": environment(),
        "connections": connections,
        "echo_bytes": options.echo,
        "hold_seconds": options.hold.as_secs_f64(),
        "errors": 0,
        "steps": figures.open.iter().map(|(connections, memory)| json!({
            "connections": connections,
            "rss_bytes": memory.rss,
            "pss_bytes": memory.pss,
            "private_dirty_bytes": memory.private_dirty,
            "private_dirty_per_connection_bytes":
                per_connection(*memory, figures.before, *connections, |it| it.private_dirty),
        })).collect::<Vec<_>>(),
    });
    for (name, of) in MEMORIES {
        json[format!("{name}_before_bytes")] = json!(of(figures.before));
        json[format!("{name}_open_bytes")] = json!(of(open));
        json[format!("{name}_used_bytes")] = json!(figures.used.map(of));
        json[format!("{name}_after_bytes")] = json!(of(figures.after));
        json[format!("{name}_per_connection_bytes")] =
            json!(per_connection(open, figures.before, connections, of));
        json[format!("{name}_per_used_connection_bytes")] =
            json!(figures.used.map(|used| per_connection(used, figures.before, connections, of)));
    }
    json
}

/// One kind of memory.
type Kind = fn(Memory) -> u64;

/// Kinds of memory, by the name in the figures.
const MEMORIES: [(&str, Kind); 3] = [
    ("rss", |memory| memory.rss),
    ("pss", |memory| memory.pss),
    ("private_dirty", |memory| memory.private_dirty),
];

/// Growth over `before`, by connection.
pub(crate) fn per_connection(now: Memory, before: Memory, connections: usize, of: Kind) -> f64 {
    (of(now) as f64 - of(before) as f64) / connections as f64
}

/// The table of modes `echo`, `broadcast` and `relay`.
pub(crate) fn echo_table(options: &args::Echo, figures: &echo::Figures) -> String {
    let seconds = figures.observed.elapsed.as_secs_f64();
    let counters = &figures.counters;
    let messages = counters.messages as f64;
    let observed = &figures.observed;
    // What comes back is counted: an echo, or one delivery of a message to one connection.
    let (noun, at_once, time) = match options.traffic {
        Traffic::Echo => ("message", "in flight each", "round trip"),
        Traffic::Broadcast | Traffic::Relay => ("delivery", "sent at a time", "window"),
    };
    let nouns = if noun == "message" { "messages" } else { "deliveries" };
    let mut table = Table::titled(format!(
        "{}: {} connections, {} bytes of {}, {} {at_once}, {seconds:.2} s",
        options.traffic.name(),
        options.connections,
        options.size,
        options.content.name(),
        options.depth
    ));
    table.row(nouns, grouped(counters.messages as f64, 0), "");
    table.row("throughput", grouped(messages / seconds, 0), format!("{nouns}/s"));
    table.row("sent", grouped(counters.bytes_sent as f64 / 1e6 / seconds, 2), "MB/s");
    table.row("received", grouped(counters.bytes_received as f64 / 1e6 / seconds, 2), "MB/s");
    table.latency(time, &figures.latency);
    if let Some(used) = &observed.server {
        table.row("server CPU", grouped(per(used.cpu, messages), 0), format!("ns/{noun}"));
        table.server(observed, used, options.subject.server_pid);
    }
    if let Some(syscalls) = &figures.syscalls {
        let unit = format!("per {noun} ({})", syscalls.tool.name());
        table.row("server system calls", format!("{:.3}", syscalls.per_message), unit);
    }
    table.load(observed);
    table.text
}

/// The table of mode `connect`.
pub(crate) fn connect_table(options: &args::Connect, figures: &connect::Figures) -> String {
    let handshakes = figures.handshakes as f64;
    let observed = &figures.observed;
    let seconds = figures.observed.elapsed.as_secs_f64();
    let end = if options.abrupt { "reset" } else { "close handshake" };
    let mut table = Table::titled(format!(
        "connect: {} at a time, ended by {end}, {seconds:.2} s",
        options.concurrency
    ));
    table.row("opening handshakes", grouped(handshakes, 0), "");
    if figures.resumed > 0 {
        table.row("TLS sessions resumed", grouped(figures.resumed as f64, 0), "");
    }
    table.row("throughput", grouped(handshakes / seconds, 0), "handshakes/s");
    table.latency("handshake", &figures.latency);
    if let Some(used) = &observed.server {
        table.row("server CPU", grouped(per(used.cpu, handshakes), 0), "ns/handshake");
        table.server(observed, used, options.subject.server_pid);
    }
    table.load(observed);
    table.text
}

/// The table of mode `idle`.
pub(crate) fn idle_table(options: &args::Idle, figures: &idle::Figures) -> String {
    let (connections, open) = figures.most();
    let echo = options.echo.map_or("no echo".to_owned(), |size| format!("an echo of {size} bytes"));
    let mut table = Table::titled(format!("idle: {connections} connections, {echo} each"));
    let kib = |bytes: u64| grouped(bytes as f64 / 1024.0, 0);
    for (name, of) in MEMORIES {
        let name = name.replace('_', " ");
        let growth = |memory| grouped(per_connection(memory, figures.before, connections, of), 0);
        table.row(format!("{name} before"), kib(of(figures.before)), "KiB");
        table.row(format!("{name} open"), kib(of(open)), "KiB");
        table.row(format!("{name} growth"), growth(open), "bytes/connection");
        if let Some(used) = figures.used {
            table.row(format!("{name} after echo"), kib(of(used)), "KiB");
            table.row(format!("{name} growth"), growth(used), "bytes/connection, after echo");
        }
        table.row(format!("{name} after"), kib(of(figures.after)), "KiB");
    }
    if figures.open.len() > 1 {
        for (connections, memory) in &figures.open {
            let bytes =
                per_connection(*memory, figures.before, *connections, |it| it.private_dirty);
            table.row(
                format!("private dirty at {connections}"),
                grouped(bytes, 0),
                "bytes/connection",
            );
        }
    }
    table.text
}

/// Lines of label, number and unit; numbers are aligned to the right.
struct Table {
    text: String,
}

impl Table {
    fn titled(title: String) -> Self {
        Self { text: title + "\n" }
    }

    fn row(&mut self, label: impl AsRef<str>, number: impl AsRef<str>, unit: impl AsRef<str>) {
        let (label, number, unit) = (label.as_ref(), number.as_ref(), unit.as_ref());
        let line = format!("  {label:<24}{number:>16}  {unit}");
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn latency(&mut self, what: &str, latency: &Histogram<u64>) {
        for (name, ns) in percentiles(latency) {
            self.row(format!("{what} {name}"), grouped(ns as f64 / 1e3, 1), "us");
        }
    }

    fn server(&mut self, observed: &Observed, used: &Used, pid: Option<u32>) {
        let cpus = allowed_cpus(pid).unwrap_or_default();
        let unit = format!("of a core, CPUs {cpus}, {} thread(s)", used.threads);
        self.row("server CPU share", percent(observed.share(used.cpu)), unit);
        self.row("server waited", percent(observed.share(used.busiest_waited)), "for a CPU");
        self.row("server memory", grouped(used.rss as f64 / 1024.0, 0), "KiB RSS");
        let switches = format!("voluntary, {} involuntary", grouped(used.involuntary as f64, 0));
        self.row("server switches", grouped(used.voluntary as f64, 0), switches);
    }

    fn load(&mut self, observed: &Observed) {
        let cpus = allowed_cpus(None).unwrap_or_default();
        let unit = format!("of a core, CPUs {cpus}");
        self.row("load generator CPU", percent(observed.share(observed.load_cpu)), unit);
        self.row(
            "load generator waited",
            percent(observed.share(observed.load_waited)),
            "for a CPU",
        );
        self.row("stolen", percent(observed.stolen_share), "of the machine");
    }
}

fn load_json(observed: &Observed) -> Map<String, Value> {
    object([
        ("cpu_share", json!(observed.share(observed.load_cpu))),
        ("waited_share", json!(observed.share(observed.load_waited))),
        ("cpus", json!(allowed_cpus(None))),
    ])
}

fn server_json(observed: &Observed, used: &Used, pid: Option<u32>) -> Map<String, Value> {
    object([
        ("pid", json!(pid)),
        ("threads", json!(used.threads)),
        ("cpu_share", json!(observed.share(used.cpu))),
        ("busiest_thread_share", json!(observed.share(used.busiest))),
        ("waited_share", json!(observed.share(used.busiest_waited))),
        ("rss_bytes", json!(used.rss)),
        ("voluntary_switches", json!(used.voluntary)),
        ("involuntary_switches", json!(used.involuntary)),
        ("cpus", json!(allowed_cpus(pid))),
    ])
}

fn object<const N: usize>(members: [(&str, Value); N]) -> Map<String, Value> {
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

pub(crate) fn latency_json(latency: &Histogram<u64>) -> Value {
    let mut members = object([("count", json!(latency.len())), ("mean", json!(latency.mean()))]);
    for (name, ns) in percentiles(latency) {
        members.insert(name.to_owned(), json!(ns));
    }
    Value::Object(members)
}

fn percentiles(latency: &Histogram<u64>) -> [(&'static str, u64); 6] {
    [
        ("p50", latency.value_at_quantile(0.5)),
        ("p90", latency.value_at_quantile(0.9)),
        ("p99", latency.value_at_quantile(0.99)),
        ("p99.9", latency.value_at_quantile(0.999)),
        ("p99.99", latency.value_at_quantile(0.9999)),
        ("max", latency.max()),
    ]
}

fn per(time: Duration, count: f64) -> f64 {
    time.as_nanos() as f64 / count
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::latency_histogram;

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut latency = latency_histogram().unwrap();
        for microseconds in 1..=1000 {
            latency.saturating_record(microseconds * 1000);
        }
        let json = latency_json(&latency);
        let close = |name: &str, expected: f64| {
            let got = json[name].as_f64().unwrap();
            assert!((got / expected - 1.0).abs() < 0.002, "{name}: {got}");
        };
        close("p50", 500_000.0);
        close("p90", 900_000.0);
        close("p99", 990_000.0);
        close("p99.9", 999_000.0);
        close("max", 1_000_000.0);
        close("mean", 500_500.0);
        assert_eq!(json["count"], 1000);
    }

    #[test]
    fn tables_are_aligned() {
        let mut table = Table::titled("title".to_owned());
        table.row("a", "1", "unit");
        table.row("longer", grouped(1_234_567.0, 1), "");
        let lines: Vec<&str> = table.text.lines().collect();
        assert_eq!(lines[0], "title");
        assert_eq!(lines[1].find('1').unwrap() + 1, lines[2].len());
        assert!(lines[1].ends_with("  unit"));
    }
}
