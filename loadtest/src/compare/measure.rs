//! The measuring: servers started on one CPU, loads driven in turn from another, samples out.
//!
//! All servers of a cell run at the same time, with their connections open, but only one is under
//! load at any moment; the others sleep. Windows are short and their order changes from round to
//! round, so that what slows the machine down for a while slows everybody. Ratios are formed
//! inside a round.

use std::time::Duration;

use hdrhistogram::Histogram;
use mio::Poll;

use crate::args::{CountSyscalls, Traffic};
use crate::batch::Batch;
use crate::compare::cell::{Cell, Deflate, TOPICS, Task};
use crate::compare::contestant::{Contestant, Places};
use crate::connect::Churn;
use crate::dial::{Dialer, MODEST_CONCURRENCY};
use crate::echo::count_syscalls;
use crate::engine::Engine;
use crate::failure::{Context, Failure};
use crate::fanout::Fan;
use crate::load::{self, Load};
use crate::pace::Pace;
use crate::process::{self, Memory};
use crate::progress::{Progress, bar};
use crate::server::Server;
use crate::syscalls::Tool;
use crate::target::{self, Speech, Target};
use crate::watch::Observed;

/// Not measured, before the first round of a cell.
const WARM_UP: Duration = Duration::from_millis(60);

/// Windows of an open loop are longer: their tails need many messages.
const LATENCY_FACTOR: u32 = 5;

/// A round in which somebody waited longer for a CPU, as a share, is thrown away.
const MOST_DISTURBED: f64 = 0.05;

/// After this many times the rounds asked for, a cell has to live with disturbed ones.
const MOST_ROUNDS: usize = 2;

/// Messages in the batch of an open loop.
const PACED_BATCH: usize = 16;

/// How thorough, and where.
#[derive(Debug, Clone)]
pub(crate) struct Manner {
    /// Fresh starts of every server.
    pub(crate) starts: usize,
    /// Windows of each server and cell after a start.
    pub(crate) rounds: usize,
    /// Length of a window.
    pub(crate) window: Duration,
    pub(crate) server_cpu: usize,
}

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
    P50,
    P99,
    P999,
    P9999,
}

/// One window of one server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    figures: Vec<(Figure, f64)>,
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
}

impl CellResult {
    fn new(cell: Cell, contestants: usize) -> Self {
        Self {
            cell,
            rounds: Vec::new(),
            absent: vec![None; contestants],
            latency: vec![None; contestants],
        }
    }
}

/// Measures every cell.
///
/// # Errors
///
/// The machine refuses something that every run needs. A server that fails is only left out.
pub(crate) fn measure(
    contestants: &[Contestant],
    cells: &[Cell],
    places: &Places,
    manner: &Manner,
    progress: &mut Progress,
) -> Result<Vec<CellResult>, Failure> {
    let mut results: Vec<CellResult> =
        cells.iter().map(|cell| CellResult::new(*cell, contestants.len())).collect();
    let total = manner.starts * cells.len();
    let mut done = 0;
    let tool = Tool::choose(CountSyscalls::WithBestTool).ok().flatten();
    for start in 0..manner.starts {
        // Cells of the same need share the servers of a start.
        let mut order: Vec<usize> = (0..cells.len()).collect();
        order.sort_by_key(|&index| cells[index].need());
        let mut servers: Vec<Option<Server>> = Vec::new();
        let mut need = None;
        for index in order {
            let result = &mut results[index];
            let cell = result.cell;
            if need != Some(cell.need()) {
                need = Some(cell.need());
                stop(&mut servers);
                servers.resize_with(contestants.len(), || None);
            }
            done += 1;
            let share = bar(Duration::from_secs(done as u64), Duration::from_secs(total as u64));
            let label = format!("{share} {}", cell.name());
            progress.clear();
            if cell.task == Task::Calls && (tool.is_none() || start > 0) {
                // Calls per message hardly vary, so one start is enough.
                continue;
            }
            for (number, contestant) in contestants.iter().enumerate() {
                // Memory is that of a server that has done nothing else.
                if matches!(cell.task, Task::Idle | Task::Subscriptions) {
                    servers[number] = None;
                }
                if result.absent[number].is_some() {
                    continue;
                }
                let server = match (contestant.command(&cell, places), servers[number].take()) {
                    (Err(reason), _) => Err(reason),
                    (Ok(_), Some(server)) => Ok(server),
                    (Ok(words), None) => {
                        Server::start(&words, manner.server_cpu).map_err(|it| it.to_string())
                    }
                };
                match server {
                    Ok(server) => servers[number] = Some(server),
                    Err(reason) => result.absent[number] = Some(reason),
                }
            }
            let mut bench = Bench { result, servers: &mut servers, manner, start };
            match (cell.task, tool) {
                (Task::Idle | Task::Subscriptions, _) => bench.idle(&label, progress),
                (Task::Calls, Some(tool)) => bench.calls(tool, &label, progress),
                _ => bench.windows(&label, progress)?,
            }
        }
        stop(&mut servers);
    }
    Ok(results)
}

/// Ends the servers; how they end is no part of the comparison.
fn stop(servers: &mut Vec<Option<Server>>) {
    for server in servers.drain(..).flatten() {
        let _ = server.stop();
    }
}

/// One cell in one start.
struct Bench<'r> {
    result: &'r mut CellResult,
    servers: &'r mut Vec<Option<Server>>,
    manner: &'r Manner,
    start: usize,
}

impl Bench<'_> {
    /// Leaves a contestant out of this cell. Its server may be in any state, so it goes, too.
    fn exclude(&mut self, number: usize, reason: &Failure) {
        // The port says nothing, and would tell equal reasons apart.
        let address = self.place(number).ok().and_then(|(target, _)| target.resolve().ok());
        let mut reason = reason.to_string();
        if let Some(address) = address {
            reason = reason.replace(&format!("{address}: "), "");
        }
        self.result.absent[number] = Some(reason);
        self.servers[number] = None;
    }

    fn present(&self) -> Vec<usize> {
        let absent = &self.result.absent;
        (0..absent.len())
            .filter(|&number| absent[number].is_none() && self.servers[number].is_some())
            .collect()
    }

    /// Where a server is: its target and its process.
    fn place(&self, number: usize) -> Result<(Target, u32), Failure> {
        let server = self.servers[number].as_ref().ok_or_else(|| Failure::new("no server"))?;
        let target = Target::parse(server.url()).map_err(Failure::new)?;
        let deflate = self.result.cell.deflate != Deflate::Off;
        let manner = target::Manner { deflate, ..target::Manner::default() };
        Ok((target.spoken_to(manner), server.pid()))
    }

    /// Windows in turn: of all servers, or of as many at a time, the baseline always among them, as
    /// the limit of open files allows connections.
    fn windows(&mut self, label: &str, progress: &mut Progress) -> Result<(), Failure> {
        let present = self.present();
        for group in groups(&present, process::most_sockets() / self.result.cell.connections) {
            self.windows_of(&group, label, progress)?;
        }
        Ok(())
    }

    fn windows_of(
        &mut self,
        group: &[usize],
        label: &str,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let mut cell = self.result.cell;
        if let Task::LatencyAt(percent) = cell.task {
            let rate = self.capacity(progress)? * f64::from(percent) / 100.0;
            cell.task = Task::Latency(rate.max(1.0));
        }
        let mut places = Vec::new();
        for &number in group {
            let (target, pid) = self.place(number)?;
            let depth = match cell.task {
                Task::Latency(_) | Task::LatencyAt(_) => PACED_BATCH,
                // One message, of which the server makes many.
                Task::Threads => 1,
                _ => cell.depth,
            };
            let batch = Batch::for_target(&target, cell.content, cell.size, depth)?;
            places.push((number, target, pid, batch));
        }
        let mut loads: Vec<(usize, u32, Box<dyn Load + '_>)> = Vec::new();
        for (number, target, pid, batch) in &places {
            progress.show(|| format!("{label}, opening"));
            let opened = open(&cell, target, batch, progress).and_then(|mut load| {
                load::window(load.as_mut(), *pid, WARM_UP)?;
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
                        samples[*number] =
                            sample(&cell, &observed, counters.messages as f64, &latency);
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

    /// Messages per second that the slowest server can do with the connections of the cell, one
    /// message in flight on each. The limits are no servers, so they do not count.
    fn capacity(&self, progress: &mut Progress) -> Result<f64, Failure> {
        let closed = Cell { task: Task::Echo, depth: 1, ..self.result.cell };
        let mut slowest = f64::INFINITY;
        for number in self.present() {
            let (target, pid) = self.place(number)?;
            if target.speech() == Speech::Raw {
                continue;
            }
            let batch = Batch::for_target(&target, closed.content, closed.size, closed.depth)?;
            let measured = open(&closed, &target, &batch, progress).and_then(|mut load| {
                load::window(load.as_mut(), pid, WARM_UP)?;
                load::window(load.as_mut(), pid, self.manner.window)
            });
            // A server that fails here fails again in its windows, which say why.
            if let Ok((observed, counters)) = measured {
                slowest = slowest.min(counters.messages as f64 / observed.elapsed.as_secs_f64());
            }
        }
        if slowest.is_finite() { Ok(slowest) } else { Err(Failure::new("there is no server")) }
    }

    /// System calls per message, one server after the other.
    fn calls(&mut self, tool: Tool, label: &str, progress: &mut Progress) {
        let cell = self.result.cell;
        let mut samples: Round = vec![None; self.result.absent.len()];
        for number in self.present() {
            progress.show(|| label.to_owned());
            let counted = self.place(number).and_then(|(target, pid)| {
                let batch = Batch::for_target(&target, cell.content, cell.size, cell.depth)?;
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

    /// Memory per connection, one server after the other.
    fn idle(&mut self, label: &str, progress: &mut Progress) {
        let mut samples: Round = vec![None; self.result.absent.len()];
        for number in self.present() {
            progress.show(|| label.to_owned());
            match self.idle_of(number, progress) {
                Ok(sample) => samples[number] = Some(sample),
                Err(reason) => self.exclude(number, &reason),
            }
        }
        self.result.rounds.push(samples);
    }

    fn idle_of(&self, number: usize, progress: &mut Progress) -> Result<Sample, Failure> {
        /// For a server that gives memory back a little later.
        const HOLD: Duration = Duration::from_millis(300);
        let cell = self.result.cell;
        let (target, pid) = self.place(number)?;
        let batch = Batch::for_target(&target, cell.content, cell.size, 1)?;
        // The first connections make a server allocate what all later ones share.
        let first = Cell { connections: MODEST_CONCURRENCY, ..cell };
        let mut load = open_echo(&first, &target, &batch, progress)?;
        load.fill()?;
        load.drain(crate::engine::PATIENCE)?;
        load.abandon();
        std::thread::sleep(HOLD);
        let before = Memory::of(pid)?;
        let mut load = open_echo(&cell, &target, &batch, progress)?;
        load.run_until(std::time::Instant::now() + HOLD, |_| {})?;
        let fresh = Memory::of(pid)?;
        load.fill()?;
        load.drain(crate::engine::PATIENCE)?;
        load.run_until(std::time::Instant::now() + HOLD, |_| {})?;
        let used = Memory::of(pid)?;
        if cell.task == Task::Subscriptions {
            // With the second message, every connection subscribes.
            load.fill()?;
            load.drain(crate::engine::PATIENCE)?;
            load.run_until(std::time::Instant::now() + HOLD, |_| {})?;
            let grown = Memory::of(pid)?.private_dirty as f64 - used.private_dirty as f64;
            let bytes = grown / (cell.connections * TOPICS) as f64;
            let figures = vec![(Figure::SubscriptionBytes, bytes)];
            return Ok(Sample { figures, ..Sample::default() });
        }
        load.abandon();
        let per_connection = |now: Memory| {
            (now.private_dirty as f64 - before.private_dirty as f64) / cell.connections as f64
        };
        let figures = vec![
            (Figure::FreshBytes, per_connection(fresh)),
            (Figure::UsedBytes, per_connection(used)),
        ];
        Ok(Sample { figures, ..Sample::default() })
    }
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

/// Opens the connections of a cell.
fn open<'b>(
    cell: &Cell,
    target: &'b Target,
    batch: &'b Batch,
    progress: &mut Progress,
) -> Result<Box<dyn Load + 'b>, Failure> {
    if cell.task == Task::Connect {
        return Ok(Box::new(Churn::new(target, cell.connections, false)?));
    }
    if matches!(cell.task, Task::Echo | Task::Calls | Task::Idle) {
        return Ok(Box::new(open_echo(cell, target, batch, progress)?));
    }
    let mut poll = Poll::new().context(|| "no epoll instance")?;
    let mut dialer = Dialer::new(target)?;
    let opened = dialer.open_all(&mut poll, cell.connections, MODEST_CONCURRENCY, progress)?;
    Ok(match cell.task {
        Task::Latency(rate) => Box::new(Pace::new(poll, opened, batch, false, rate)?),
        Task::Relay => Box::new(Fan::new(poll, opened, batch, false, Traffic::Relay, 1)?),
        Task::Threads => {
            Box::new(Fan::new(poll, opened, batch, false, Traffic::Broadcast, cell.depth)?)
        }
        _ => Box::new(Fan::new(poll, opened, batch, false, Traffic::Broadcast, 1)?),
    })
}

fn open_echo<'b>(
    cell: &Cell,
    target: &Target,
    batch: &'b Batch,
    progress: &mut Progress,
) -> Result<Engine<'b>, Failure> {
    let mut poll = Poll::new().context(|| "no epoll instance")?;
    let mut dialer = Dialer::new(target)?;
    let opened = dialer.open_all(&mut poll, cell.connections, MODEST_CONCURRENCY, progress)?;
    Engine::new(poll, opened, batch, false)
}

fn sample(
    cell: &Cell,
    observed: &Observed,
    messages: f64,
    latency: &Histogram<u64>,
) -> Option<Sample> {
    let used = observed.server.as_ref()?;
    if messages == 0.0 {
        return None;
    }
    let mut figures = vec![
        (Figure::PerSecond, messages / observed.elapsed.as_secs_f64()),
        (Figure::CpuNs, used.cpu.as_nanos() as f64 / messages),
    ];
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

fn merge(all: &mut Option<Histogram<u64>>, more: &Histogram<u64>) {
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
