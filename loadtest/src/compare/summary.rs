//! Rounds in, medians and paired ratios out.

use crate::compare::sample::{CellResult, Figure, Round, disturbance, is_disturbed};
use crate::text::median;

/// Fewer quiet rounds than this say nothing.
const LEAST_ROUNDS: usize = 3;

/// What is known of one contestant and figure in one cell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    /// Median over the rounds that count.
    pub(crate) median: f64,
    /// Median of the ratios to the baseline, each formed inside a round.
    pub(crate) ratio: Option<f64>,
    /// How many rounds count.
    pub(crate) rounds: usize,
}

/// The rounds of a cell that count, and whether they had to be taken although they are disturbed.
pub(crate) struct Kept<'r> {
    pub(crate) rounds: Vec<&'r Round>,
    pub(crate) disturbed: bool,
}

/// The quiet rounds; where they are too few, the quieter half.
pub(crate) fn kept(result: &CellResult) -> Kept<'_> {
    let quiet: Vec<&Round> = result.rounds.iter().filter(|round| !is_disturbed(round)).collect();
    let enough = LEAST_ROUNDS.min(result.rounds.len());
    if quiet.len() >= enough {
        return Kept { rounds: quiet, disturbed: false };
    }
    let mut rounds: Vec<&Round> = result.rounds.iter().collect();
    rounds.sort_by(|a, b| disturbance(a).total_cmp(&disturbance(b)));
    rounds.truncate(rounds.len().div_ceil(2).max(enough));
    Kept { rounds, disturbed: true }
}

/// One figure of one contestant, against the contestant `baseline`.
pub(crate) fn summarise(
    kept: &Kept<'_>,
    contestant: usize,
    baseline: usize,
    figure: Figure,
) -> Option<Summary> {
    let value = |round: &Round, who: usize| round[who].as_ref().and_then(|it| it.get(figure));
    let values: Vec<f64> =
        kept.rounds.iter().filter_map(|round| value(round, contestant)).collect();
    if values.is_empty() {
        return None;
    }
    let ratios: Vec<f64> = kept
        .rounds
        .iter()
        .filter_map(|round| Some(value(round, contestant)? / value(round, baseline)?))
        .filter(|ratio| ratio.is_finite())
        .collect();
    Some(Summary {
        rounds: values.len(),
        median: median(values),
        ratio: (!ratios.is_empty()).then(|| median(ratios)),
    })
}

/// Whether the load generator had no time left in most of the rounds that count.
pub(crate) fn is_saturated(kept: &Kept<'_>, contestant: usize) -> bool {
    let samples: Vec<_> =
        kept.rounds.iter().filter_map(|round| round[contestant].as_ref()).collect();
    samples.iter().filter(|sample| sample.saturated).count() * 2 > samples.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Content;
    use crate::compare::cell::Cell;
    use crate::compare::sample::Sample;

    fn result(rounds: &[(f64, f64, f64)]) -> CellResult {
        let rounds = rounds.iter().map(|&(first, second, disturbance)| {
            [first, second]
                .map(|value| Some(Sample::of(&[(Figure::CpuNs, value)], disturbance)))
                .to_vec()
        });
        CellResult {
            cell: Cell::echo(1, 1, 1, Content::Binary),
            rounds: rounds.collect(),
            absent: vec![None; 2],
            latency: vec![None; 2],
            rate: None,
        }
    }

    #[test]
    fn disturbed_rounds_do_not_count() {
        let result =
            result(&[(10.0, 20.0, 0.0), (10.0, 90.0, 0.5), (12.0, 24.0, 0.0), (8.0, 8.0, 0.01)]);
        let kept = kept(&result);
        assert!(!kept.disturbed);
        let summary = summarise(&kept, 1, 0, Figure::CpuNs).unwrap();
        assert_eq!(summary, Summary { median: 20.0, ratio: Some(2.0), rounds: 3 });
        assert_eq!(summarise(&kept, 1, 0, Figure::PerSecond), None);
        assert!(!is_saturated(&kept, 0));
    }

    #[test]
    fn the_quieter_half_counts_when_nothing_was_quiet() {
        let result = result(&[(1.0, 1.0, 0.9), (1.0, 2.0, 0.2), (1.0, 3.0, 0.3), (1.0, 4.0, 0.4)]);
        let kept = kept(&result);
        assert!(kept.disturbed);
        assert_eq!(summarise(&kept, 1, 0, Figure::CpuNs).unwrap().median, 3.0);
    }
}
