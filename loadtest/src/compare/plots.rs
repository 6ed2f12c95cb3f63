//! An outcome in; the pictures of it out, by name.

use hdrhistogram::Histogram;

use crate::batch::Content;
use crate::compare::Outcome;
use crate::compare::cell::{Cell, Deflate, Task};
use crate::compare::contestant::{BASELINE, Contestant};
use crate::compare::sample::{CellResult, Figure};
use crate::compare::summary::{kept, summarise};
use crate::plot::{Axis, Bars, Chart, Picture, Series};

/// Every picture for which there are figures: a word for its file, and the picture.
pub(crate) fn pictures(outcome: &Outcome) -> Vec<(String, Picture)> {
    let mut pictures = Vec::new();
    for (name, title, figure) in [
        ("cpu", "Server CPU per message, against uWebSockets (less is better)", Figure::CpuNs),
        ("throughput", "Throughput, against uWebSockets (more is better)", Figure::PerSecond),
    ] {
        pictures.extend(ratios(outcome, title, figure).map(|it| (name.to_owned(), it)));
    }
    for depth in [1, 8] {
        let picture = by_size(outcome, depth);
        pictures.extend(picture.map(|it| (format!("throughput-by-size-depth-{depth}"), it)));
    }
    pictures.extend(memory(outcome).map(|it| ("memory".to_owned(), it)));
    for result in &outcome.results {
        let word = match result.cell.task {
            Task::Latency(rate) => format!("latency-{rate}"),
            Task::LatencyAt(percent) => format!("latency-{percent}-percent"),
            _ => continue,
        };
        pictures.extend(percentiles(outcome, result).map(|it| (word, it)));
    }
    pictures
}

/// The line of a histogram: percentiles of microseconds.
pub(crate) fn latency_series(name: &str, latency: &Histogram<u64>) -> Series {
    let quantiles = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999];
    // A quantile that fewer than one message stands for would only repeat the maximum.
    let known = quantiles.into_iter().filter(|it| (1.0 - it) * latency.len() as f64 >= 1.0);
    let points = known
        .map(|quantile| (quantile, latency.value_at_quantile(quantile).max(1) as f64 / 1e3))
        .collect();
    Series { name: name.to_owned(), points }
}

/// A chart of such lines.
pub(crate) fn latency_chart(title: String, series: Vec<Series>) -> Picture {
    Picture::Lines(Chart {
        title,
        x_label: "percentile".to_owned(),
        y_label: "us".to_owned(),
        x_axis: Axis::Percentile,
        series,
    })
}

fn percentiles(outcome: &Outcome, result: &CellResult) -> Option<Picture> {
    let series: Vec<Series> = outcome
        .contestants
        .iter()
        .zip(&result.latency)
        .filter_map(|(contestant, latency)| {
            Some(latency_series(&contestant.name(), latency.as_ref()?))
        })
        .collect();
    (!series.is_empty())
        .then(|| latency_chart(format!("Latency by percentile: {}", result.cell.name()), series))
}

fn baseline(outcome: &Outcome) -> Option<usize> {
    outcome.contestants.iter().position(|it| it.name() == BASELINE)
}

fn ratios(outcome: &Outcome, title: &str, figure: Figure) -> Option<Picture> {
    let baseline = baseline(outcome)?;
    let mut others: Vec<usize> =
        (0..outcome.contestants.len()).filter(|&number| number != baseline).collect();
    // A bar for everybody in every cell would be a picture of several pages.
    let is_peer = |number: usize| matches!(outcome.contestants[number], Contestant::Peer(_));
    if others.iter().any(|&number| !is_peer(number)) {
        others.retain(|&number| !is_peer(number));
    }
    let groups: Vec<(String, Vec<Option<f64>>)> = outcome
        .results
        .iter()
        .filter(|result| !result.cell.is_paced())
        .filter_map(|result| {
            let kept = kept(result);
            let values: Vec<Option<f64>> = others
                .iter()
                .map(|&number| summarise(&kept, number, baseline, figure)?.ratio)
                .collect();
            values.iter().any(Option::is_some).then(|| (result.cell.name(), values))
        })
        .collect();
    (!groups.is_empty()).then(|| {
        Picture::Bars(Bars {
            title: title.to_owned(),
            y_label: "times uWebSockets".to_owned(),
            series: others.iter().map(|&number| outcome.contestants[number].name()).collect(),
            groups,
            line: Some(1.0),
        })
    })
}

fn by_size(outcome: &Outcome, depth: usize) -> Option<Picture> {
    let fits = |cell: &Cell| {
        let plain = !cell.tls && cell.deflate == Deflate::Off;
        let same = cell.connections == 32 && cell.depth == depth;
        cell.task == Task::Echo && plain && same && cell.content == Content::Binary
    };
    lines_over(
        outcome,
        format!("Echo throughput by size: 32 connections, {depth} in flight each"),
        ("bytes", "messages/s"),
        Figure::PerSecond,
        |cell| fits(cell).then_some(cell.size as f64),
    )
}

fn memory(outcome: &Outcome) -> Option<Picture> {
    let picture = lines_over(
        outcome,
        "Private memory per connection, after one echo".to_owned(),
        ("connections", "bytes"),
        Figure::UsedBytes,
        |cell| {
            let plain = !cell.tls && cell.deflate == Deflate::Off;
            (cell.task == Task::Idle && plain).then_some(cell.connections as f64)
        },
    );
    picture.or_else(|| {
        // One number of connections is no line.
        let result = outcome.results.iter().find(|result| result.cell.task == Task::Idle)?;
        let (kept, baseline) = (kept(result), baseline(outcome)?);
        let values = (0..outcome.contestants.len())
            .map(|number| Some(summarise(&kept, number, baseline, Figure::UsedBytes)?.median))
            .collect();
        Some(Picture::Bars(Bars {
            title: "Private memory per connection, after one echo".to_owned(),
            y_label: "bytes".to_owned(),
            series: outcome.contestants.iter().map(|it| it.name()).collect(),
            groups: vec![(result.cell.name(), values)],
            line: None,
        }))
    })
}

/// A line per contestant over the cells that have a place on the x axis; at least two of them.
fn lines_over(
    outcome: &Outcome,
    title: String,
    (x_label, y_label): (&str, &str),
    figure: Figure,
    place: impl Fn(&Cell) -> Option<f64>,
) -> Option<Picture> {
    let baseline = baseline(outcome)?;
    let mut series = Vec::new();
    for (number, contestant) in outcome.contestants.iter().enumerate() {
        let mut points: Vec<(f64, f64)> = outcome
            .results
            .iter()
            .filter_map(|result| {
                let x = place(&result.cell)?;
                let value = summarise(&kept(result), number, baseline, figure)?.median;
                (value > 0.0).then_some((x, value))
            })
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        if points.len() > 1 {
            series.push(Series { name: contestant.name(), points });
        }
    }
    (!series.is_empty()).then(|| {
        Picture::Lines(Chart {
            title,
            x_label: x_label.to_owned(),
            y_label: y_label.to_owned(),
            x_axis: Axis::Logarithmic,
            series,
        })
    })
}
