//! Mode `matrix`: the echo example on two drivers over a grid of cells, in alternation.
//!
//! Each run has a fresh server, pinned with taskset(1), and the load generator on another CPU. The
//! drivers take turns within a round, in an order that changes from round to round; ratios are
//! taken within a round, so that what slows the machine down for a while slows both.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::args::{self, CountSyscalls, Output, Subject, Traffic};
use crate::echo;
use crate::environment::environment;
use crate::failure::{Context, Failure};
use crate::plot::{Bars, Picture};
use crate::process;
use crate::progress::Progress;
use crate::server::Server;
use crate::syscalls::Tool;
use crate::target::Target;
use crate::text::{aligned, grouped, median};

/// All runs of one combination.
#[derive(Debug)]
pub(crate) struct Cell {
    connections: usize,
    size: usize,
    depth: usize,
    /// Per driver, one run per round.
    runs: [Vec<Run>; 2],
}

#[derive(Debug, Clone, Copy)]
struct Run {
    messages_per_second: f64,
    cpu_ns_per_message: f64,
    p50_ns: u64,
    p99_ns: u64,
    syscalls_per_message: Option<f64>,
    rss_bytes: u64,
    saturated: bool,
    disturbed: bool,
}

/// Runs the mode.
///
/// # Errors
///
/// A CPU, taskset(1) or the server is missing, or a run failed.
pub(crate) fn run(options: &args::Matrix, progress: &mut Progress) -> Result<Vec<Cell>, Failure> {
    for cpu in [options.server_cpu, options.load_cpu] {
        if !process::may_run_on(cpu) {
            return Err(Failure::new(format!("CPU {cpu} is missing or not allowed")));
        }
    }
    let server = match &options.server {
        Some(path) => path.clone(),
        None => default_server()?,
    };
    let most = options.connections.iter().copied().max().unwrap_or(1);
    // The servers inherit the limit.
    process::allow_descriptors(most)?;
    let tool = Tool::choose(CountSyscalls::WithBestTool).ok().flatten();

    let mut cells = Vec::new();
    for &connections in &options.connections {
        for &size in &options.sizes {
            for &depth in &options.depths {
                cells.push(Cell { connections, size, depth, runs: [Vec::new(), Vec::new()] });
            }
        }
    }
    let total = options.rounds * cells.len() * 2;
    let mut done = 0;
    for round in 0..options.rounds {
        for cell in &mut cells {
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for driver in order {
                let name = &options.drivers[driver];
                progress.clear();
                progress.show(|| format!("run {} of {total}: {name} {}", done + 1, cell.name()));
                // Calls per message hardly vary, so one round of counting is enough.
                let count = tool.is_some() && round == 0;
                let run = one_run(options, &server, name, cell, count)
                    .context(|| format!("{name}, {}", cell.name()))?;
                cell.runs[driver].push(run);
                done += 1;
            }
        }
    }
    Ok(cells)
}

/// The echo example that cargo put beside this program.
fn default_server() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe().context(|| "cannot find this program")?;
    let server = program.parent().unwrap_or(Path::new(".")).join("examples").join("echo");
    if server.is_file() {
        return Ok(server);
    }
    let path = server.display();
    Err(Failure::new(format!("{path} is missing: cargo build --release --examples")))
}

fn one_run(
    options: &args::Matrix,
    server: &Path,
    driver: &str,
    cell: &Cell,
    count_syscalls: bool,
) -> Result<Run, Failure> {
    let words = [server.as_os_str(), "--driver".as_ref(), driver.as_ref()];
    let server = Server::start(&words.map(ToOwned::to_owned), options.server_cpu)?;
    let syscalls = if count_syscalls { CountSyscalls::WithBestTool } else { CountSyscalls::No };
    let echo = args::Echo {
        traffic: Traffic::Echo,
        subject: Subject {
            target: Target::parse(server.url()).map_err(Failure::new)?,
            pin: Some(options.load_cpu),
            server_pid: Some(server.pid()),
        },
        output: Output { quiet: true, ..Output::default() },
        connections: cell.connections,
        size: cell.size,
        depth: cell.depth,
        copies: 1,
        content: options.content,
        duration: options.duration,
        warmup: options.warmup,
        verify: false,
        syscalls,
    };
    let figures = echo::run(&echo, &mut Progress::new(true))?;
    server.stop()?;
    let observed = &figures.observed;
    let used = observed.server.as_ref().ok_or_else(|| Failure::new("the server was not read"))?;
    let messages = figures.counters.messages as f64;
    Ok(Run {
        messages_per_second: messages / observed.elapsed.as_secs_f64(),
        cpu_ns_per_message: used.cpu.as_nanos() as f64 / messages,
        p50_ns: figures.latency.value_at_quantile(0.5),
        p99_ns: figures.latency.value_at_quantile(0.99),
        syscalls_per_message: figures.syscalls.map(|syscalls| syscalls.per_message),
        rss_bytes: used.rss,
        saturated: observed.is_saturated(),
        disturbed: observed.is_disturbed(),
    })
}

impl Cell {
    fn name(&self) -> String {
        format!("{} connections, {} bytes, depth {}", self.connections, self.size, self.depth)
    }

    fn median_of(&self, driver: usize, figure: impl Fn(&Run) -> f64) -> f64 {
        median(self.runs[driver].iter().map(figure).collect())
    }

    /// The second driver's figure over the first one's, round by round; the median of that.
    fn median_ratio(&self, figure: impl Fn(&Run) -> f64) -> f64 {
        let [first, second] = &self.runs;
        median(first.iter().zip(second).map(|(a, b)| figure(b) / figure(a)).collect())
    }

    fn syscalls(&self, driver: usize) -> Option<f64> {
        self.runs[driver].iter().find_map(|run| run.syscalls_per_message)
    }

    fn any(&self, mark: impl Fn(&Run) -> bool) -> bool {
        self.runs.iter().flatten().any(mark)
    }
}

/// The JSON of mode `matrix`: medians, ratios and every run.
pub(crate) fn json(options: &args::Matrix, cells: &[Cell]) -> Value {
    let drivers = &options.drivers;
    let cells: Vec<Value> = cells
        .iter()
        .map(|cell| {
            let driver = |driver: usize| {
                json!({
                    "name": drivers[driver],
                    "messages_per_second": cell.median_of(driver, |run| run.messages_per_second),
                    "cpu_ns_per_message": cell.median_of(driver, |run| run.cpu_ns_per_message),
                    "p50_ns": cell.median_of(driver, |run| run.p50_ns as f64),
                    "p99_ns": cell.median_of(driver, |run| run.p99_ns as f64),
                    "syscalls_per_message": cell.syscalls(driver),
                    "rss_bytes": cell.median_of(driver, |run| run.rss_bytes as f64),
                    "runs": cell.runs[driver].iter().map(Run::json).collect::<Vec<_>>(),
                })
            };
            json!({
                "connections": cell.connections,
                "size_bytes": cell.size,
                "depth": cell.depth,
                "drivers": [driver(0), driver(1)],
                "throughput_ratio": cell.median_ratio(|run| run.messages_per_second),
                "cpu_ratio": cell.median_ratio(|run| run.cpu_ns_per_message),
                "p99_ratio": cell.median_ratio(|run| run.p99_ns as f64),
            })
        })
        .collect();
    json!({
        "mode": "matrix",
        "environment": environment(),
        "content": options.content.name(),
        "rounds": options.rounds,
        "duration_seconds": options.duration.as_secs_f64(),
        "warmup_seconds": options.warmup.as_secs_f64(),
        "server_cpu": options.server_cpu,
        "load_cpu": options.load_cpu,
        "ratio": format!("{}/{}", drivers[1], drivers[0]),
        "cells": cells,
    })
}

impl Run {
    fn json(&self) -> Value {
        json!({
            "messages_per_second": self.messages_per_second,
            "cpu_ns_per_message": self.cpu_ns_per_message,
            "p50_ns": self.p50_ns,
            "p99_ns": self.p99_ns,
            "syscalls_per_message": self.syscalls_per_message,
            "rss_bytes": self.rss_bytes,
            "load_generator_saturated": self.saturated,
            "disturbed": self.disturbed,
        })
    }
}

/// The medians as comma-separated values.
pub(crate) fn csv(options: &args::Matrix, cells: &[Cell]) -> String {
    let names = [
        "connections",
        "size_bytes",
        "depth",
        "driver",
        "messages_per_second",
        "cpu_ns_per_message",
        "p50_ns",
        "p99_ns",
        "syscalls_per_message",
        "rss_bytes",
    ];
    let rows = cells.iter().flat_map(|cell| {
        options.drivers.iter().enumerate().map(|(driver, name)| {
            let median = |figure: &dyn Fn(&Run) -> f64| cell.median_of(driver, figure).to_string();
            vec![
                cell.connections.to_string(),
                cell.size.to_string(),
                cell.depth.to_string(),
                name.clone(),
                median(&|run| run.messages_per_second),
                median(&|run| run.cpu_ns_per_message),
                median(&|run| run.p50_ns as f64),
                median(&|run| run.p99_ns as f64),
                cell.syscalls(driver).map_or(String::new(), |calls| calls.to_string()),
                median(&|run| run.rss_bytes as f64),
            ]
        })
    });
    crate::csv::rows(&names, rows)
}

/// The ratios of the drivers as bars.
pub(crate) fn picture(options: &args::Matrix, cells: &[Cell]) -> Picture {
    let [first, second] = &options.drivers;
    let groups = cells.iter().map(|cell| {
        let throughput = cell.median_ratio(|run| run.messages_per_second);
        let cpu = cell.median_ratio(|run| run.cpu_ns_per_message);
        (cell.name(), vec![Some(throughput), Some(cpu)])
    });
    Picture::Bars(Bars {
        title: format!("{second} against {first}"),
        y_label: format!("times {first}"),
        series: vec!["throughput".to_owned(), "CPU per message".to_owned()],
        groups: groups.collect(),
        line: Some(1.0),
    })
}

/// The table of mode `matrix`: Markdown that is aligned for reading as text, too.
pub(crate) fn markdown(options: &args::Matrix, cells: &[Cell]) -> String {
    let [first, second] = &options.drivers;
    let mut rows = vec![["connections", "bytes", "depth"].map(str::to_owned).to_vec()];
    for figure in ["msg/s", "ns/msg", "p99 us", "calls/msg"] {
        rows[0].push(format!("{first} {figure}"));
        rows[0].push(format!("{second} {figure}"));
        if figure != "calls/msg" {
            rows[0].push("ratio".to_owned());
        }
    }
    rows[0].push("marks".to_owned());
    for cell in cells {
        let mut row = [cell.connections, cell.size, cell.depth].map(|n| n.to_string()).to_vec();
        let mut compare = |figure: &dyn Fn(&Run) -> f64, decimals| {
            row.push(grouped(cell.median_of(0, figure), decimals));
            row.push(grouped(cell.median_of(1, figure), decimals));
            row.push(format!("{:.3}", cell.median_ratio(figure)));
        };
        compare(&|run| run.messages_per_second, 0);
        compare(&|run| run.cpu_ns_per_message, 0);
        compare(&|run| run.p99_ns as f64 / 1e3, 1);
        for driver in 0..2 {
            row.push(cell.syscalls(driver).map_or("-".to_owned(), |calls| format!("{calls:.3}")));
        }
        let marks = [(cell.any(|run| run.saturated), "*"), (cell.any(|run| run.disturbed), "~")];
        row.push(marks.iter().filter(|(set, _)| *set).map(|(_, mark)| *mark).collect());
        rows.push(row);
    }
    let mut text = format!(
        "Medians of {} rounds of {} s; ratio: {second}/{first}, paired by round. \
         `*` load generator saturated, `~` disturbed.\n\n",
        options.rounds,
        options.duration.as_secs_f64()
    );
    text.push_str(&aligned(&rows));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(messages_per_second: f64) -> Run {
        Run {
            messages_per_second,
            cpu_ns_per_message: 1e9 / messages_per_second,
            p50_ns: 10,
            p99_ns: 2_000,
            syscalls_per_message: None,
            rss_bytes: 1,
            saturated: false,
            disturbed: messages_per_second < 150.0,
        }
    }

    #[test]
    fn ratios_are_paired_by_round() {
        let first = vec![run(100.0), run(200.0), run(400.0)];
        let second = vec![run(110.0), run(210.0), run(800.0)];
        let cell = Cell { connections: 1, size: 2, depth: 3, runs: [first, second] };
        assert_eq!(cell.median_of(0, |run| run.messages_per_second), 200.0);
        // 1.1, 1.05 and 2.0.
        assert!((cell.median_ratio(|run| run.messages_per_second) - 1.1).abs() < 1e-9);
        assert!(cell.any(|run| run.disturbed) && !cell.any(|run| run.saturated));
    }
}
