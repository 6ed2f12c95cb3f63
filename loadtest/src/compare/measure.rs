//! The measuring: servers started on one CPU, loads driven in turn from another, samples out.
//!
//! All servers of a cell run at the same time, with their connections open, but only one is under
//! load at any moment; the others sleep. Windows are short and their order changes from round to
//! round, so that what slows the machine down for a while slows everybody. Ratios are formed
//! inside a round.

use std::time::Duration;

use crate::args::CountSyscalls;
use crate::compare::bench::Bench;
use crate::compare::capacity::Capacities;
use crate::compare::cell::{Cell, Task};
use crate::compare::contestant::{Contestant, Places};
use crate::compare::sample::CellResult;
use crate::failure::Failure;
use crate::progress::{Progress, bar};
use crate::server::Server;
use crate::syscalls::Tool;

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
    let mut capacities = Capacities::default();
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
            let mut bench = Bench {
                result,
                servers: &mut servers,
                contestants,
                manner,
                capacities: &mut capacities,
                start,
            };
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
