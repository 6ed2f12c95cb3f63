//! What is known after a window: an observed server and its load in, named figures out.

use hdrhistogram::Histogram;

use crate::compare::cell::{Cell, Deflate};
use crate::engine::Counters;
use crate::watch::Observed;

/// A round in which somebody waited longer for a CPU, as a share, is thrown away.
const MOST_DISTURBED: f64 = 0.05;

/// What a sample may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    /// Messages, deliveries or handshakes.
    PerSecond,
    /// CPU time of the server per message, delivery or handshake, in nanoseconds.
    CpuNs,
    /// System calls of the server per message.
    Calls,
    /// Private dirty memory per connection that never sent anything, in bytes.
    FreshBytes,
    /// The same after one echo.
    UsedBytes,
    /// Private dirty memory per subscription, in bytes.
    SubscriptionBytes,
    /// Bytes that came back per message, header included, where messages are compressed.
    WireBytes,
    P50,
    P99,
    P999,
    P9999,
}

/// One window of one server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    pub(crate) figures: Vec<(Figure, f64)>,
    /// The largest share of the window that a side waited for a CPU, or that was stolen.
    pub(crate) disturbance: f64,
    /// The load generator had no time left, and the server had.
    pub(crate) saturated: bool,
}

impl Sample {
    pub(crate) fn get(&self, figure: Figure) -> Option<f64> {
        self.figures.iter().find(|(name, _)| *name == figure).map(|(_, value)| *value)
    }

    #[cfg(test)]
    pub(crate) fn of(figures: &[(Figure, f64)], disturbance: f64) -> Self {
        Self { figures: figures.to_vec(), disturbance, saturated: false }
    }
}

/// One window of every server, or nothing from those that failed.
pub(crate) type Round = Vec<Option<Sample>>;

/// A cell and all that was measured in it.
#[derive(Debug)]
pub(crate) struct CellResult {
    pub(crate) cell: Cell,
    /// Samples in the order of the contestants.
    pub(crate) rounds: Vec<Round>,
    /// Why a contestant is not in it.
    pub(crate) absent: Vec<Option<String>>,
    /// All latencies of an open loop, by contestant.
    pub(crate) latency: Vec<Option<Histogram<u64>>>,
    /// Messages per second of an open loop at a share of capacity, once that is known.
    pub(crate) rate: Option<f64>,
}

impl CellResult {
    pub(crate) fn new(cell: Cell, contestants: usize) -> Self {
        Self {
            cell,
            rounds: Vec::new(),
            absent: vec![None; contestants],
            latency: vec![None; contestants],
            rate: None,
        }
    }
}

pub(crate) fn sample(
    cell: &Cell,
    observed: &Observed,
    counters: &Counters,
    latency: &Histogram<u64>,
) -> Option<Sample> {
    let used = observed.server.as_ref()?;
    if counters.messages == 0 {
        return None;
    }
    let messages = counters.messages as f64;
    let mut figures = vec![
        (Figure::PerSecond, messages / observed.elapsed.as_secs_f64()),
        (Figure::CpuNs, used.cpu.as_nanos() as f64 / messages),
    ];
    if cell.deflate != Deflate::Off {
        figures.push((Figure::WireBytes, counters.bytes_received as f64 / messages));
    }
    if cell.is_paced() {
        for (figure, quantile) in [
            (Figure::P50, 0.5),
            (Figure::P99, 0.99),
            (Figure::P999, 0.999),
            (Figure::P9999, 0.9999),
        ] {
            figures.push((figure, latency.value_at_quantile(quantile) as f64));
        }
    }
    let waited = used.busiest_waited.max(observed.load_waited);
    let disturbance = observed.share(waited).max(observed.stolen_share);
    // An open loop polls all the time, whatever the server does.
    let saturated = !cell.is_paced() && observed.is_saturated();
    Some(Sample { figures, disturbance, saturated })
}

pub(crate) fn merge(all: &mut Option<Histogram<u64>>, more: &Histogram<u64>) {
    match all {
        Some(all) => {
            // Both have the same bounds.
            let _ = all.add(more);
        }
        None => *all = Some(more.clone()),
    }
}

/// Whether anybody waited for a CPU in this round.
pub(crate) fn is_disturbed(round: &Round) -> bool {
    disturbance(round) > MOST_DISTURBED
}

/// The worst of a round.
pub(crate) fn disturbance(round: &Round) -> f64 {
    round.iter().flatten().map(|sample| sample.disturbance).fold(0.0, f64::max)
}
