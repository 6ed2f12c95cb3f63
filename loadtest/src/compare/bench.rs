//! One cell in one start: running servers in, windows driven in turn, samples out.

use std::time::Duration;

use crate::batch::Batch;
use crate::compare::capacity::Capacities;
use crate::compare::cell::{Cell, Deflate, Task};
use crate::compare::contestant::Contestant;
use crate::compare::loads::open;
use crate::compare::measure::Manner;
use crate::compare::sample::{CellResult, Figure, Round, Sample, is_disturbed, merge, sample};
use crate::echo::count_syscalls;
use crate::failure::Failure;
use crate::load::{self, Load};
use crate::process;
use crate::progress::Progress;
use crate::server::Server;
use crate::syscalls::Tool;
use crate::target::{self, Speech, Target};

/// Not measured, before the first round of a cell.
pub(crate) const WARM_UP: Duration = Duration::from_millis(60);

/// Windows of an open loop are longer: their tails need many messages.
pub(crate) const LATENCY_FACTOR: u32 = 5;

/// After this many times the rounds asked for, a cell has to live with disturbed ones.
const MOST_ROUNDS: usize = 2;

/// Messages in the batch of an open loop.
pub(crate) const PACED_BATCH: usize = 16;

/// One cell in one start.
pub(crate) struct Bench<'r> {
    pub(crate) result: &'r mut CellResult,
    pub(crate) servers: &'r mut Vec<Option<Server>>,
    pub(crate) contestants: &'r [Contestant],
    pub(crate) manner: &'r Manner,
    pub(crate) capacities: &'r mut Capacities,
    pub(crate) start: usize,
}

impl Bench<'_> {
    /// Leaves a contestant out of this cell. Its server may be in any state, so it goes, too.
    pub(crate) fn exclude(&mut self, number: usize, reason: &Failure) {
        // The port says nothing, and would tell equal reasons apart.
        let address = self.place(number).ok().and_then(|(target, _)| target.resolve().ok());
        let mut reason = reason.to_string();
        if let Some(address) = address {
            reason = reason.replace(&format!("{address}: "), "");
        }
        self.result.absent[number] = Some(reason);
        self.servers[number] = None;
    }

    pub(crate) fn present(&self) -> Vec<usize> {
        let absent = &self.result.absent;
        (0..absent.len())
            .filter(|&number| absent[number].is_none() && self.servers[number].is_some())
            .collect()
    }

    /// Where a server is: its target and its process.
    pub(crate) fn place(&self, number: usize) -> Result<(Target, u32), Failure> {
        let server = self.servers[number].as_ref().ok_or_else(|| Failure::new("no server"))?;
        let target = Target::parse(server.url()).map_err(Failure::new)?;
        let deflate = self.result.cell.deflate != Deflate::Off;
        let resume = self.result.cell.resume;
        let manner = target::Manner { deflate, resume, ..target::Manner::default() };
        Ok((target.spoken_to(manner), server.pid()))
    }

    /// Windows in turn: of all servers, or of as many at a time, the baseline always among them, as
    /// the limit of open files allows connections.
    pub(crate) fn windows(&mut self, label: &str, progress: &mut Progress) -> Result<(), Failure> {
        let mut cell = self.result.cell;
        if let Task::LatencyAt(percent) = cell.task {
            // All starts, and all groups, follow the same schedule.
            let Some(capacity) = self.capacity(label, progress) else { return Ok(()) };
            let rate = (capacity * f64::from(percent) / 100.0).max(1.0);
            self.result.rate = Some(rate);
            cell.task = Task::Latency(rate);
        }
        let present = self.present();
        for group in groups(&present, process::most_sockets() / cell.connections) {
            self.windows_of(&group, &cell, label, progress)?;
        }
        Ok(())
    }

    fn windows_of(
        &mut self,
        group: &[usize],
        cell: &Cell,
        label: &str,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let mut places = Vec::new();
        let mut batches: Vec<(Speech, Batch)> = Vec::new();
        for &number in group {
            let (target, pid) = self.place(number)?;
            let speech = target.speech();
            if !batches.iter().any(|(known, _)| *known == speech) {
                let slots = messages_of(cell);
                batches.push((speech, Batch::for_target(&target, cell.content, cell.size, slots)?));
            }
            places.push((number, target, pid));
        }
        let mut loads: Vec<(usize, u32, Box<dyn Load + '_>)> = Vec::new();
        for (number, target, pid) in &places {
            progress.show(|| format!("{label}, opening"));
            let batch = batches.iter().find(|(speech, _)| *speech == target.speech());
            let Some((_, batch)) = batch else { continue };
            let opened = open(cell, target, batch, progress).and_then(|mut load| {
                warm_up(cell, load.as_mut(), *pid)?;
                load.set_recording(true);
                Ok(load)
            });
            match opened {
                Ok(load) => loads.push((*number, *pid, load)),
                Err(reason) => self.exclude(*number, &reason),
            }
        }
        let factor = if cell.is_paced() { LATENCY_FACTOR } else { 1 };
        let length = self.manner.window * factor;
        let (mut quiet, mut round) = (0, 0);
        while quiet < self.manner.rounds && round < self.manner.rounds * MOST_ROUNDS {
            progress.show(|| format!("{label}, start {}, round {}", self.start + 1, round + 1));
            // Whoever comes first, and in which direction it goes on, changes.
            let mut turn: Vec<usize> = (0..loads.len()).collect();
            if !turn.is_empty() {
                let by = round / 2 % turn.len();
                turn.rotate_left(by);
            }
            if round % 2 == 1 {
                turn.reverse();
            }
            let mut samples: Round = vec![None; self.result.absent.len()];
            let mut failed = Vec::new();
            for place in turn {
                let (number, pid, load) = &mut loads[place];
                let before = load.latency().clone();
                match load::window(load.as_mut(), *pid, length) {
                    Ok((observed, counters)) => {
                        let mut latency = load.latency().clone();
                        let _ = latency.subtract(&before);
                        samples[*number] = sample(cell, &observed, &counters, &latency);
                        if cell.is_paced() {
                            merge(&mut self.result.latency[*number], &latency);
                        }
                    }
                    Err(reason) => failed.push((*number, reason)),
                }
            }
            for (number, reason) in failed {
                loads.retain(|(other, _, _)| *other != number);
                self.exclude(number, &reason);
            }
            quiet += usize::from(!is_disturbed(&samples));
            round += 1;
            self.result.rounds.push(samples);
            if loads.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// System calls per message, one server after the other.
    pub(crate) fn calls(&mut self, tool: Tool, label: &str, progress: &mut Progress) {
        let cell = self.result.cell;
        let mut samples: Round = vec![None; self.result.absent.len()];
        for number in self.present() {
            progress.show(|| label.to_owned());
            let counted = self.place(number).and_then(|(target, pid)| {
                let slots = messages_of(&cell);
                let batch = Batch::for_target(&target, cell.content, cell.size, slots)?;
                let mut load = open(&cell, &target, &batch, progress)?;
                load.resume()?;
                load.run_until(std::time::Instant::now() + WARM_UP, &mut |_| {})?;
                count_syscalls(tool, pid, load.as_mut(), progress)
            });
            match counted {
                Ok(calls) => {
                    let figures = vec![(Figure::Calls, calls.per_message)];
                    samples[number] = Some(Sample { figures, ..Sample::default() });
                }
                Err(reason) => self.exclude(number, &reason),
            }
        }
        self.result.rounds.push(samples);
    }
}

/// How many messages are prepared for a cell.
fn messages_of(cell: &Cell) -> usize {
    /// As many bytes as the largest window of deflate holds, twice: a compressor that remembers
    /// earlier messages shall profit from those that are alike, not from the same ones again.
    const DISTINCT: usize = 64 * 1024;
    const MOST: usize = 1024;
    match cell.task {
        Task::Latency(_) | Task::LatencyAt(_) => PACED_BATCH,
        // One message, of which the server makes many.
        Task::Threads => 1,
        _ if cell.deflate != Deflate::Off => {
            cell.depth.max((DISTINCT / cell.size.max(1)).min(MOST))
        }
        _ => cell.depth,
    }
}

/// Lets a load come to speed.
fn warm_up(cell: &Cell, load: &mut dyn Load, pid: u32) -> Result<(), Failure> {
    /// The rest are handshakes of which the server gave no ticket, or took none.
    const LEAST_RESUMED: f64 = 0.9;
    const MOST_WINDOWS: usize = 50;
    load::window(load, pid, WARM_UP)?;
    if !cell.resume {
        return Ok(());
    }
    // There are no tickets before each lane has made a full handshake.
    let enough = cell.connections as u64 * 2;
    let mut windows = 1;
    while load.counters().messages < enough && windows < MOST_WINDOWS {
        load::window(load, pid, WARM_UP)?;
        windows += 1;
    }
    let (_, counters) = load::window(load, pid, WARM_UP)?;
    let share = counters.resumed as f64 / counters.messages.max(1) as f64;
    if share < LEAST_RESUMED {
        let percent = share * 100.0;
        return Err(Failure::new(format!("only {percent:.0} % of the TLS sessions are resumed")));
    }
    Ok(())
}

/// At most `most` at a time; the first, which the others are compared with, is in every group.
fn groups(present: &[usize], most: usize) -> Vec<Vec<usize>> {
    let Some((&first, others)) = present.split_first() else { return Vec::new() };
    if present.len() <= most.max(2) {
        return vec![present.to_vec()];
    }
    let with_first = |group: &[usize]| [&[first], group].concat();
    others.chunks(most.max(2) - 1).map(with_first).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_all_have_the_first_and_cover_everybody() {
        assert_eq!(groups(&[0, 1, 2], 3), [[0, 1, 2]]);
        assert_eq!(groups(&[0, 1, 2, 4, 5], 3), [vec![0, 1, 2], vec![0, 4, 5]]);
        assert_eq!(groups(&[0, 1, 2, 4], 0), [[0, 1], [0, 2], [0, 4]]);
        assert_eq!(groups(&[3], 1), [[3]]);
        assert!(groups(&[], 5).is_empty());
    }
}
