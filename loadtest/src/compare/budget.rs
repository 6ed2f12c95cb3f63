//! The budget: what each driver of ours must reach against the baseline, row by row, and whether
//! it does.

use crate::batch::Content::{Ascii, Binary, Json, MixedUtf8};
use crate::compare::Outcome;
use crate::compare::cell::{Cell, Deflate, Task};
use crate::compare::contestant::{BASELINE, Contestant};
use crate::compare::sample::Figure;
use crate::compare::summary::{Summary, kept, summarise};
use crate::text::{aligned, grouped};

/// Differences below this share mean nothing on a machine that is shared.
const NOISE: f64 = 0.04;

/// How a figure is held against its budget.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    /// At most so many times the baseline.
    AtMost(f64),
    /// At least so many times the baseline.
    AtLeast(f64),
    /// At most so much, on epoll; on io_uring no more than on epoll.
    Absolute(f64),
    /// At most so much, on both.
    Bytes(f64),
}

/// One row.
#[derive(Debug)]
struct Row {
    what: &'static str,
    cell: Cell,
    figure: Figure,
    bound: Bound,
}

const KIB: usize = 1024;

fn rows() -> Vec<Row> {
    use Bound::{Absolute, AtLeast, AtMost, Bytes};
    use Figure::{Calls, CpuNs, FreshBytes, P50, P99, P999, P9999, PerSecond, UsedBytes};
    let row = |what, cell, figure, bound| Row { what, cell, figure, bound };
    let publish = |depth| Cell::new(Task::Broadcast, 200, 100, depth, Ascii);
    let mut rows = vec![
        row("echo CPU (32, 20, 1)", Cell::echo(32, 20, 1, Binary), CpuNs, AtMost(1.0)),
        row("echo CPU (256, 20, 1)", Cell::echo(256, 20, 1, Binary), CpuNs, AtMost(1.0)),
        row("echo CPU (32, 16384, 1)", Cell::echo(32, 16 * KIB, 1, Binary), CpuNs, AtMost(1.0)),
        row("echo CPU (256, 20, 8)", Cell::echo(256, 20, 8, Binary), CpuNs, AtMost(0.97)),
        row("echo CPU (32, 20, 64)", Cell::echo(32, 20, 64, Binary), CpuNs, AtMost(0.88)),
        row(
            "echo CPU (32, 1024 ASCII text, 8)",
            Cell::echo(32, KIB, 8, Ascii),
            CpuNs,
            AtMost(0.95),
        ),
        row(
            "echo throughput (32, 1024 mixed UTF-8 text, 8)",
            Cell::echo(32, KIB, 8, MixedUtf8),
            PerSecond,
            AtLeast(2.0),
        ),
        row("echo CPU (8, 1 MiB text, 1)", Cell::echo(8, KIB * KIB, 1, Ascii), CpuNs, AtMost(0.8)),
        row("publish to 200, 1 a turn", publish(1), PerSecond, AtLeast(1.0)),
        row("publish to 200, 16 a turn", publish(16), PerSecond, AtLeast(1.05)),
        row("publish to 200, 32 a turn", publish(32), PerSecond, AtLeast(1.05)),
        row("publish to 200, 64 a turn", publish(64), PerSecond, AtLeast(12.0)),
        row(
            "relay of 16 a turn to 200 others",
            Cell::new(Task::Relay, 201, 100, 16, Ascii),
            PerSecond,
            AtLeast(8.0),
        ),
        row("handshakes, CPU each", Cell::new(Task::Connect, 32, 0, 1, Ascii), CpuNs, AtMost(0.95)),
    ];
    for (what, deflate, size, least) in [
        ("deflate echo, shared, (32, 64 JSON, 8)", Deflate::Shared, 64, 1.0),
        ("deflate echo, shared, (32, 1024 JSON, 8)", Deflate::Shared, KIB, 1.2),
        ("deflate echo, shared, (32, 16384 JSON, 8)", Deflate::Shared, 16 * KIB, 1.0),
        ("deflate echo, dedicated, (32, 64 JSON, 8)", Deflate::Dedicated, 64, 1.0),
        ("deflate echo, dedicated, (32, 1024 JSON, 8)", Deflate::Dedicated, KIB, 1.2),
        ("deflate echo, dedicated, (32, 16384 JSON, 8)", Deflate::Dedicated, 16 * KIB, 1.0),
    ] {
        let cell = Cell::echo(32, size, 8, Json).deflated(deflate);
        rows.push(row(what, cell, PerSecond, AtLeast(least)));
    }
    for (what, depth) in [
        ("publish 1 KiB of JSON, compressed, to 200, 1 a turn", 1),
        ("publish 1 KiB of JSON, compressed, to 200, 16 a turn", 16),
    ] {
        let cell = Cell::new(Task::Broadcast, 200, KIB, depth, Json).deflated(Deflate::Shared);
        rows.push(row(what, cell, PerSecond, AtLeast(1.5)));
    }
    for (what, size) in [
        ("TLS echo (32, 20, 1)", 20),
        ("TLS echo (32, 1024, 1)", KIB),
        ("TLS echo (32, 16384, 1)", 16 * KIB),
    ] {
        let cell = Cell::echo(32, size, 1, Binary).over_tls();
        rows.push(row(what, cell, PerSecond, AtLeast(1.0)));
    }
    let cell = Cell::new(Task::Connect, 32, 0, 1, Ascii).over_tls();
    rows.push(row("TLS handshakes/s", cell, PerSecond, AtLeast(1.0)));
    rows.push(row("TLS handshakes/s, resumed", cell.resumed(), PerSecond, AtLeast(1.0)));
    for (what, connections, most) in
        [("system calls per echo, 1 connection", 1, 3.0), ("system calls per echo, 256", 256, 2.1)]
    {
        let cell = Cell::new(Task::Calls, connections, 20, 1, Binary);
        rows.push(row(what, cell, Calls, Absolute(most)));
    }
    let cell = Cell::new(Task::Idle, 2000, 100, 1, Ascii);
    rows.push(row("bytes per idle connection, fresh", cell, FreshBytes, Bytes(256.0)));
    rows.push(row("bytes per idle connection, after traffic", cell, UsedBytes, Bytes(256.0)));
    let cell = Cell::new(Task::Idle, 500, 100, 1, Ascii).over_tls();
    rows.push(row("bytes per idle TLS connection, fresh", cell, FreshBytes, AtMost(1.0)));
    rows.push(row("bytes per idle TLS connection, after traffic", cell, UsedBytes, AtMost(1.0)));
    // Dedicated compressors have no row: their memory is that of the window, which is the whole one
    // here and a small one in the baseline.
    let cell = Cell::new(Task::Idle, 500, 100, 1, Json).deflated(Deflate::Shared);
    let what = "bytes per idle connection, deflate shared, after traffic";
    rows.push(row(what, cell, UsedBytes, Bytes(256.0)));
    for (what, rate) in [
        ("latency p50, 64 connections at 30 k/s", 30_000.0),
        ("latency p50, 64 connections at 60 k/s", 60_000.0),
        ("latency p50, 64 connections at 100 k/s", 100_000.0),
    ] {
        let cell = Cell::new(Task::Latency(rate), 64, 20, 1, Binary);
        rows.push(row(what, cell, P50, AtMost(1.03)));
    }
    for (what, percent, figure) in [
        ("latency p50, 64 connections at 50 % of capacity", 50, P50),
        ("latency p99, 64 connections at 50 % of capacity", 50, P99),
        ("latency p99.9, 64 connections at 50 % of capacity", 50, P999),
        ("latency p99.99, 64 connections at 50 % of capacity", 50, P9999),
        ("latency p50, 64 connections at 80 % of capacity", 80, P50),
        ("latency p99, 64 connections at 80 % of capacity", 80, P99),
        ("latency p99.9, 64 connections at 80 % of capacity", 80, P999),
        ("latency p99.99, 64 connections at 80 % of capacity", 80, P9999),
    ] {
        let cell = Cell::new(Task::LatencyAt(percent), 64, 20, 1, Binary);
        rows.push(row(what, cell, figure, AtMost(1.0)));
    }
    rows
}

/// The loads that the budget speaks of.
pub(crate) fn cells() -> Vec<Cell> {
    let mut cells: Vec<Cell> = Vec::new();
    for row in rows() {
        if !cells.contains(&row.cell) {
            cells.push(row.cell);
        }
    }
    cells
}

/// How a row ended for one driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Met,
    /// Missed by less than the noise.
    Close,
    Missed,
    Unknown,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Close => "within noise",
            Self::Missed => "MISSED",
            Self::Unknown => "not measured",
        }
    }
}

/// `value` is what the bound speaks of: a ratio, or the figure itself.
fn verdict(bound: Bound, value: Option<f64>, on_epoll: Option<f64>) -> Verdict {
    let Some(value) = value else { return Verdict::Unknown };
    let most = |most: f64| match value {
        value if value <= most => Verdict::Met,
        value if value <= most * (1.0 + NOISE) => Verdict::Close,
        _ => Verdict::Missed,
    };
    match bound {
        Bound::AtMost(ratio) => most(ratio),
        Bound::AtLeast(ratio) if value >= ratio => Verdict::Met,
        Bound::AtLeast(ratio) if value >= ratio * (1.0 - NOISE) => Verdict::Close,
        Bound::AtLeast(_) => Verdict::Missed,
        Bound::Bytes(bytes) => most(bytes),
        Bound::Absolute(figure) => most(on_epoll.map_or(figure, |epoll| epoll.min(figure))),
    }
}

/// The table: budget, limit, both drivers, verdicts. Rows that were not measured are left out.
pub(crate) fn table(outcome: &Outcome) -> Option<String> {
    let place = |wanted: &Contestant| outcome.contestants.iter().position(|it| it == wanted);
    let baseline = outcome.contestants.iter().position(|it| it.name() == BASELINE)?;
    let drivers = ["epoll", "io_uring"];
    let ours = drivers.map(|driver| place(&Contestant::Wirelane { driver }));
    let limits = drivers.map(|driver| place(&Contestant::Raw { driver }));
    let mut table = vec![
        ["what", BASELINE, "raw epoll", "raw io_uring", "budget", "epoll", "io_uring", "verdict"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for row in rows() {
        let Some(result) = outcome.results.iter().find(|it| it.cell == row.cell) else { continue };
        let kept = kept(result);
        let summary =
            |who: Option<usize>| who.and_then(|who| summarise(&kept, who, baseline, row.figure));
        let value = |summary: Option<Summary>| match row.bound {
            Bound::AtMost(_) | Bound::AtLeast(_) => summary.and_then(|it| it.ratio),
            Bound::Absolute(_) | Bound::Bytes(_) => summary.map(|it| it.median),
        };
        let ours = ours.map(|who| value(summary(who)));
        let show = |value: Option<f64>| match (value, row.bound) {
            (None, _) => "-".to_owned(),
            (Some(value), Bound::Bytes(_)) => grouped(value, 0),
            (Some(value), _) => format!("{value:.2}"),
        };
        let verdicts = [verdict(row.bound, ours[0], None), verdict(row.bound, ours[1], ours[0])];
        let mut said = if verdicts[0] == verdicts[1] {
            verdicts[0].name().to_owned()
        } else {
            format!("{} / {}", verdicts[0].name(), verdicts[1].name())
        };
        if kept.disturbed {
            said.push_str(" ~");
        }
        let budget = match row.bound {
            Bound::AtMost(ratio) => format!("<= {ratio:.2}"),
            Bound::AtLeast(ratio) => format!(">= {ratio:.2}"),
            Bound::Absolute(most) | Bound::Bytes(most) => format!("<= {most}"),
        };
        let base = summary(Some(baseline)).map_or("-".to_owned(), |summary| {
            let (value, unit) = match row.figure {
                Figure::PerSecond => (grouped(summary.median, 0), "/s"),
                Figure::CpuNs => (grouped(summary.median, 0), "ns"),
                Figure::Calls => (format!("{:.2}", summary.median), ""),
                Figure::FreshBytes | Figure::UsedBytes | Figure::SubscriptionBytes => {
                    (grouped(summary.median, 0), "B")
                }
                _ => (grouped(summary.median / 1e3, 1), "us"),
            };
            format!("{value} {unit}").trim_end().to_owned()
        });
        let limits = limits.map(|who| show(value(summary(who))));
        let [raw_epoll, raw_uring] = limits;
        let [epoll, uring] = ours.map(show);
        table.push(vec![
            row.what.to_owned(),
            base,
            raw_epoll,
            raw_uring,
            budget,
            epoll,
            uring,
            said,
        ]);
    }
    (table.len() > 1).then(|| aligned(&table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_know_the_noise() {
        use Bound::{Absolute, AtLeast, AtMost, Bytes};
        assert_eq!(verdict(AtMost(0.97), Some(0.97), None), Verdict::Met);
        assert_eq!(verdict(AtMost(0.97), Some(1.0), None), Verdict::Close);
        assert_eq!(verdict(AtMost(0.97), Some(1.02), None), Verdict::Missed);
        assert_eq!(verdict(AtLeast(2.0), Some(2.5), None), Verdict::Met);
        assert_eq!(verdict(AtLeast(2.0), Some(1.95), None), Verdict::Close);
        assert_eq!(verdict(AtLeast(2.0), Some(1.9), None), Verdict::Missed);
        assert_eq!(verdict(Bytes(256.0), Some(300.0), None), Verdict::Missed);
        assert_eq!(verdict(Absolute(3.0), Some(2.9), Some(2.0)), Verdict::Missed);
        assert_eq!(verdict(Absolute(3.0), Some(2.0), Some(3.0)), Verdict::Met);
        assert_eq!(verdict(AtMost(1.0), None, None), Verdict::Unknown);
    }

    #[test]
    fn rows_share_cells() {
        let rows = rows();
        let cells = cells();
        assert!(cells.len() < rows.len());
        assert!(rows.iter().all(|row| cells.contains(&row.cell)));
    }
}
