//! How many messages per second the slower server keeps up with: what a share of capacity refers
//! to.
//!
//! In: a cell of an open loop. Out: the highest rate at which the slower one of the baseline and
//! ours does not fall behind. The others play no part in it: the limits are no servers, and a
//! slow peer would decide how hard the comparison is for everybody.

use crate::batch::Batch;
use crate::compare::bench::{Bench, LATENCY_FACTOR, PACED_BATCH, WARM_UP};
use crate::compare::cell::{Cell, Task};
use crate::compare::loads::open;
use crate::compare::sample::{is_disturbed, sample};
use crate::failure::Failure;
use crate::load;
use crate::progress::Progress;
use crate::target::Target;

/// A server that keeps up is ready when a window ends. One that does not still has to answer what
/// piled up, for as large a share of the window as the rate is too high. A little of that is
/// granted: the last messages take their time, too.
const LEAST_KEPT: f64 = 0.97;

/// Halvings of the interval in which the capacity is, so it is known to a 32nd.
const HALVINGS: usize = 5;

/// A rate is missed when it is missed so often in a row, windows not counted in which another
/// process had a CPU; when it is always disturbed, so often.
const TRIES: usize = 2;
const DISTURBED_TRIES: usize = 5;

/// The capacities that are known. Cells that differ in their share only have the same one.
#[derive(Debug, Default)]
pub(crate) struct Capacities(Vec<(Cell, f64)>);

impl Capacities {
    fn find(&self, cell: &Cell) -> Option<f64> {
        self.0.iter().find(|(known, _)| known == cell).map(|(_, capacity)| *capacity)
    }
}

impl Bench<'_> {
    /// Messages per second that the slower one of the baseline and ours keeps up with on the
    /// connections of the cell. `None` if none of them can be measured; each is then left out of
    /// the cell, with the reason.
    pub(crate) fn capacity(&mut self, label: &str, progress: &mut Progress) -> Option<f64> {
        let cell = Cell { task: Task::Echo, depth: 1, ..self.result.cell };
        if let Some(known) = self.capacities.find(&cell) {
            return Some(known);
        }
        let mut slowest: Option<f64> = None;
        for number in self.present() {
            if !self.contestants[number].sets_the_pace() {
                continue;
            }
            progress.show(|| format!("{label}, capacity of {}", self.contestants[number].name()));
            match self.capacity_of(number, &cell, progress) {
                Ok(rate) => slowest = Some(slowest.map_or(rate, |slowest| slowest.min(rate))),
                Err(reason) => self.exclude(number, &reason),
            }
        }
        if let Some(capacity) = slowest {
            self.capacities.0.push((cell, capacity));
        }
        slowest
    }

    /// Looks for the highest rate between nothing and what the server does in a closed loop. There
    /// it finds many messages in a turn, which is cheaper than one after the other.
    fn capacity_of(
        &self,
        number: usize,
        cell: &Cell,
        progress: &mut Progress,
    ) -> Result<f64, Failure> {
        let (target, pid) = self.place(number)?;
        let batch = Batch::for_target(&target, cell.content, cell.size, 1)?;
        let mut load = open(cell, &target, &batch, progress)?;
        load::window(load.as_mut(), pid, WARM_UP)?;
        let (observed, counters) = load::window(load.as_mut(), pid, self.manner.window)?;
        drop(load);
        let closed = (counters.messages as f64 / observed.elapsed.as_secs_f64()).max(1.0);

        let batch = Batch::for_target(&target, cell.content, cell.size, PACED_BATCH)?;
        highest(closed, |rate| {
            let mut undisturbed = 0;
            for _ in 0..DISTURBED_TRIES {
                let (kept, disturbed) = self.keeps_up(&target, pid, &batch, rate, progress)?;
                undisturbed += usize::from(!disturbed);
                if kept || undisturbed == TRIES {
                    return Ok(kept);
                }
            }
            Ok(false)
        })
    }

    /// Whether the server keeps up with a rate for a window, and whether that was disturbed.
    fn keeps_up(
        &self,
        target: &Target,
        pid: u32,
        batch: &Batch,
        rate: f64,
        progress: &mut Progress,
    ) -> Result<(bool, bool), Failure> {
        let cell = Cell { task: Task::Latency(rate), ..self.result.cell };
        let mut load = open(&cell, target, batch, progress)?;
        // The time of the window ends with the last answer.
        let length = self.manner.window * LATENCY_FACTOR;
        let (observed, counters) = load::window(load.as_mut(), pid, length)?;
        let kept = counters.messages as f64 / observed.elapsed.as_secs_f64() / rate;
        Ok((
            kept >= LEAST_KEPT,
            is_disturbed(&vec![sample(&cell, &observed, &counters, load.latency())]),
        ))
    }
}

/// The highest rate up to `most` that is kept; halves the interval again and again. A server that
/// keeps none of them is taken to keep the lowest.
fn highest(
    most: f64,
    mut is_kept: impl FnMut(f64) -> Result<bool, Failure>,
) -> Result<f64, Failure> {
    if is_kept(most)? {
        return Ok(most);
    }
    let (mut kept, mut missed) = (0.0, most);
    for _ in 0..HALVINGS {
        let rate = (kept + missed) / 2.0;
        if is_kept(rate)? {
            kept = rate;
        } else {
            missed = rate;
        }
    }
    Ok(if kept > 0.0 { kept } else { missed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_rate_is_found_to_a_32nd() {
        for capacity in [10_000.0, 33_000.0, 64_000.0, 99_000.0] {
            let mut asked = 0;
            let found = highest(100_000.0, |rate| {
                asked += 1;
                Ok(rate <= capacity)
            });
            let found = found.unwrap();
            assert!(found <= capacity && found > capacity - 100_000.0 / 32.0, "{found}");
            assert_eq!(asked, 1 + HALVINGS);
        }
        assert_eq!(highest(500.0, |_| Ok(true)).unwrap(), 500.0);
        assert_eq!(highest(320.0, |_| Ok(false)).unwrap(), 10.0);
        assert!(highest(1.0, |_| Err(Failure::new("gone"))).is_err());
    }

    #[test]
    fn cells_that_differ_in_their_share_have_one_capacity() {
        let cell = Cell::echo(64, 20, 1, crate::batch::Content::Binary);
        let capacities = Capacities(vec![(cell, 5.0)]);
        assert_eq!(capacities.find(&cell), Some(5.0));
        assert_eq!(capacities.find(&cell.over_tls()), None);
    }
}
