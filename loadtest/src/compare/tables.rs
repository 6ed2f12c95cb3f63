//! An outcome in; Markdown for people and JSON for programs out.

use serde_json::{Value, json};

use crate::compare::Outcome;
use crate::compare::cell::Task;
use crate::compare::contestant::{BASELINE, Contestant};
use crate::compare::sample::{CellResult, Figure};
use crate::compare::summary::{is_saturated, kept, summarise};
use crate::compare::{budget, estimate};
use crate::environment::environment;
use crate::text::{aligned, grouped};

/// One table of the output: a figure over all cells that have it.
struct View {
    title: &'static str,
    figure: Figure,
    /// Multiplies the figure for display.
    scale: f64,
    decimals: usize,
    unit: &'static str,
}

const VIEWS: &[View] = &[
    View {
        title: "Throughput (more is better)",
        figure: Figure::PerSecond,
        scale: 1.0,
        decimals: 0,
        unit: "/s",
    },
    View {
        title: "Server CPU per message, delivery or handshake (less is better)",
        figure: Figure::CpuNs,
        scale: 1.0,
        decimals: 0,
        unit: "ns",
    },
    View {
        title: "Bytes that come back per message, where they are compressed",
        figure: Figure::WireBytes,
        scale: 1.0,
        decimals: 0,
        unit: "B",
    },
    View {
        title: "System calls of the server per message (less is better)",
        figure: Figure::Calls,
        scale: 1.0,
        decimals: 2,
        unit: "",
    },
    View {
        title: "Private memory per connection, nothing sent yet (less is better)",
        figure: Figure::FreshBytes,
        scale: 1.0,
        decimals: 0,
        unit: "B",
    },
    View {
        title: "Private memory per connection, after one echo (less is better)",
        figure: Figure::UsedBytes,
        scale: 1.0,
        decimals: 0,
        unit: "B",
    },
    View {
        title: "Private memory per subscription (less is better)",
        figure: Figure::SubscriptionBytes,
        scale: 1.0,
        decimals: 1,
        unit: "B",
    },
    View {
        title: "Latency p50, open loop (less is better)",
        figure: Figure::P50,
        scale: 1e-3,
        decimals: 1,
        unit: "us",
    },
    View {
        title: "Latency p99, open loop (less is better)",
        figure: Figure::P99,
        scale: 1e-3,
        decimals: 1,
        unit: "us",
    },
    View {
        title: "Latency p99.9, open loop (less is better)",
        figure: Figure::P999,
        scale: 1e-3,
        decimals: 1,
        unit: "us",
    },
    View {
        title: "Latency p99.99, open loop (less is better)",
        figure: Figure::P9999,
        scale: 1e-3,
        decimals: 1,
        unit: "us",
    },
];

/// Everything as Markdown: the budget first, then a table per figure, then who is missing.
pub(crate) fn markdown(outcome: &Outcome) -> String {
    let manner = &outcome.manner;
    let mut text = format!(
        "Server on CPU {}, load generator on another. {} start(s) of {} rounds, windows of {} ms, \
         servers in turn; medians, ratios to {BASELINE} formed inside a round. Differences under \
         4 % mean nothing. `*`: the load generator was the bottleneck; `~`: other processes took \
         the CPUs, so take it for an indication.\n\n",
        manner.server_cpu,
        manner.starts,
        manner.rounds,
        manner.window.as_millis(),
    );
    if let Some(level) = outcome.deflate_level {
        text.push_str(&format!("Wirelane compresses at level {level}.\n\n"));
    }
    if let Some(table) = budget::table(outcome) {
        text.push_str("## Budget\n\n");
        text.push_str(
            "Cells are (connections, bytes, messages in flight). Ratios to the baseline, except \
             system calls and bytes.\n\n",
        );
        text.push_str(&table);
        text.push('\n');
    }
    for view in VIEWS {
        if let Some(table) = view_table(outcome, view) {
            text.push_str(&format!("## {}\n\n{table}\n", view.title));
        }
    }
    if let Some(table) = tails(outcome) {
        text.push_str("## Latency of all rounds together, in us\n\n");
        text.push_str(
            "In brackets: against the raw TCP echo on epoll, on the same schedule in the same run, \
             which is the part of it that no server answers for.\n\n",
        );
        text.push_str(&table);
        text.push('\n');
    }
    let absent = absent(outcome);
    if !absent.is_empty() {
        text.push_str("## Who is missing, and why\n\n");
        for line in absent {
            text.push_str(&format!("- {line}\n"));
        }
    }
    text
}

fn baseline(outcome: &Outcome) -> usize {
    outcome.contestants.iter().position(|it| it.name() == BASELINE).unwrap_or(0)
}

fn view_table(outcome: &Outcome, view: &View) -> Option<String> {
    let baseline = baseline(outcome);
    let mut header = vec!["cell".to_owned()];
    for (number, contestant) in outcome.contestants.iter().enumerate() {
        header.push(contestant.name());
        if number != baseline {
            header.push("ratio".to_owned());
        }
    }
    let mut rows = vec![header];
    for result in &outcome.results {
        let kept = kept(result);
        let mut row = vec![title(result)];
        if kept.disturbed {
            row[0].push_str(" ~");
        }
        let mut any = false;
        for number in 0..outcome.contestants.len() {
            let summary = summarise(&kept, number, baseline, view.figure);
            any |= summary.is_some();
            row.push(summary.map_or("-".to_owned(), |summary| {
                let value = grouped(summary.median * view.scale, view.decimals);
                let mark = if is_saturated(&kept, number) { "*" } else { "" };
                format!("{value} {}{mark}", view.unit).trim_end().to_owned()
            }));
            if number != baseline {
                let ratio = summary.and_then(|summary| summary.ratio);
                row.push(ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}")));
            }
        }
        if any {
            rows.push(row);
        }
    }
    (rows.len() > 1).then(|| aligned(&rows))
}

const TAILS: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];

fn tails(outcome: &Outcome) -> Option<String> {
    let limit = Contestant::Raw { driver: "epoll" };
    let limit = outcome.contestants.iter().position(|contestant| *contestant == limit);
    let mut header = vec!["cell".to_owned(), "server".to_owned()];
    header.extend(TAILS.iter().map(|(name, _)| (*name).to_owned()));
    header.push("max".to_owned());
    let mut rows = vec![header];
    for result in &outcome.results {
        let limit = limit.and_then(|limit| result.latency[limit].as_ref());
        for (contestant, latency) in outcome.contestants.iter().zip(&result.latency) {
            let Some(latency) = latency else { continue };
            let mut row = vec![title(result), contestant.name()];
            row.extend(TAILS.iter().map(|(_, quantile)| {
                let value = latency.value_at_quantile(*quantile) as f64;
                let shown = grouped(value / 1e3, 1);
                let limit = limit.map(|limit| limit.value_at_quantile(*quantile) as f64);
                match limit.filter(|limit| *limit > 0.0) {
                    Some(limit) => format!("{shown} ({:.2})", value / limit),
                    None => shown,
                }
            }));
            row.push(grouped(latency.max() as f64 / 1e3, 1));
            rows.push(row);
        }
    }
    (rows.len() > 1).then(|| aligned(&rows))
}

/// The name of a cell, with what a share of capacity came to.
fn title(result: &CellResult) -> String {
    match result.rate {
        Some(rate) => format!("{} ({}/s)", result.cell.name(), grouped(rate, 0)),
        None => result.cell.name(),
    }
}

/// One line for each contestant and reason, with the cells that it is about.
fn absent(outcome: &Outcome) -> Vec<String> {
    let mut lines: Vec<(String, Vec<String>)> = Vec::new();
    for result in &outcome.results {
        for (contestant, reason) in outcome.contestants.iter().zip(&result.absent) {
            let Some(reason) = reason else { continue };
            let line = format!("{}: {reason}", contestant.name());
            match lines.iter_mut().find(|(other, _)| *other == line) {
                Some((_, cells)) => cells.push(result.cell.name()),
                None => lines.push((line, vec![result.cell.name()])),
            }
        }
    }
    let total = outcome.results.len();
    lines
        .into_iter()
        .map(|(line, cells)| match cells.len() {
            len if len == total => line,
            len if len > 3 => format!("{line} ({len} cells, such as {})", cells[0]),
            _ => format!("{line} ({})", cells.join("; ")),
        })
        .collect()
}

/// Everything, every sample included.
pub(crate) fn json(outcome: &Outcome) -> Value {
    let manner = &outcome.manner;
    let cells: Vec<_> = outcome.results.iter().map(|result| result.cell).collect();
    json!({
        "mode": "compare",
        "environment": environment(),
        "baseline": BASELINE,
        "starts": manner.starts,
        "rounds": manner.rounds,
        "window_seconds": manner.window.as_secs_f64(),
        "windows_seconds": estimate(&cells, outcome.contestants.len(), manner).as_secs_f64(),
        "server_cpu": manner.server_cpu,
        "deflate_level": outcome.deflate_level,
        "cells": outcome.results.iter().map(|it| cell_json(outcome, it)).collect::<Vec<_>>(),
    })
}

const FIGURES: [(Figure, &str); 11] = [
    (Figure::PerSecond, "per_second"),
    (Figure::CpuNs, "cpu_ns"),
    (Figure::WireBytes, "received_bytes_per_message"),
    (Figure::Calls, "calls_per_message"),
    (Figure::FreshBytes, "fresh_bytes_per_connection"),
    (Figure::UsedBytes, "used_bytes_per_connection"),
    (Figure::SubscriptionBytes, "bytes_per_subscription"),
    (Figure::P50, "p50_ns"),
    (Figure::P99, "p99_ns"),
    (Figure::P999, "p99.9_ns"),
    (Figure::P9999, "p99.99_ns"),
];

/// A line per cell, contestant and figure.
pub(crate) fn csv(outcome: &Outcome) -> String {
    let names = [
        "cell",
        "connections",
        "size_bytes",
        "depth",
        "content",
        "tls",
        "resumed",
        "deflate",
        "server",
        "figure",
        "median",
        "ratio",
        "rounds",
        "disturbed",
    ];
    let baseline = baseline(outcome);
    let mut rows = Vec::new();
    for result in &outcome.results {
        let (kept, cell) = (kept(result), &result.cell);
        for (number, contestant) in outcome.contestants.iter().enumerate() {
            for (figure, name) in FIGURES {
                let Some(summary) = summarise(&kept, number, baseline, figure) else { continue };
                rows.push(vec![
                    cell.name(),
                    cell.connections.to_string(),
                    cell.size.to_string(),
                    cell.depth.to_string(),
                    cell.content.name().to_owned(),
                    cell.tls.to_string(),
                    cell.resume.to_string(),
                    cell.deflate.name().to_owned(),
                    contestant.name(),
                    name.to_owned(),
                    summary.median.to_string(),
                    summary.ratio.map_or(String::new(), |ratio| ratio.to_string()),
                    summary.rounds.to_string(),
                    kept.disturbed.to_string(),
                ]);
            }
        }
    }
    crate::csv::rows(&names, rows)
}

fn cell_json(outcome: &Outcome, result: &CellResult) -> Value {
    let baseline = baseline(outcome);
    let kept = kept(result);
    let cell = &result.cell;
    let servers: Vec<Value> = outcome
        .contestants
        .iter()
        .enumerate()
        .map(|(number, contestant)| {
            let mut server = json!({
                "name": contestant.name(),
                "absent": result.absent[number],
                "load_generator_saturated": is_saturated(&kept, number),
            });
            for (figure, name) in FIGURES {
                if let Some(summary) = summarise(&kept, number, baseline, figure) {
                    let samples: Vec<f64> = result
                        .rounds
                        .iter()
                        .filter_map(|round| round[number].as_ref()?.get(figure))
                        .collect();
                    server[name] = json!({
                        "median": summary.median,
                        "ratio": summary.ratio,
                        "rounds": summary.rounds,
                        "samples": samples,
                    });
                }
            }
            if let Some(latency) = &result.latency[number] {
                server["latency_ns"] = crate::report::latency_json(latency);
            }
            server
        })
        .collect();
    let rate = match cell.task {
        Task::Latency(rate) => Some(rate),
        _ => result.rate,
    };
    json!({
        "name": cell.name(),
        "service": cell.need().service.name(),
        "connections": cell.connections,
        "size_bytes": cell.size,
        "depth": cell.depth,
        "content": cell.content.name(),
        "messages_per_second": rate,
        "tls": cell.tls,
        "resumed": cell.resume,
        "deflate": cell.deflate.name(),
        "rounds": result.rounds.len(),
        "rounds_kept": kept.rounds.len(),
        "disturbed": kept.disturbed,
        "servers": servers,
    })
}
