//! Mode `compare`: our servers and others side by side.
//!
//! ```text
//!  cells, contestants ──> measure ──> summary ──> tables, budget, JSON, CSV, plots
//!                            │
//!                            └── bench (one cell, one start) ──> loads (engine, fanout, connect,
//!                                ├── memory                      pace), server
//!                                └── capacity
//! ```

pub(crate) mod bench;
pub(crate) mod budget;
pub(crate) mod capacity;
pub(crate) mod cell;
pub(crate) mod contestant;
pub(crate) mod loads;
pub(crate) mod measure;
pub(crate) mod memory;
pub(crate) mod plots;
pub(crate) mod sample;
pub(crate) mod save;
pub(crate) mod summary;
pub(crate) mod tables;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::args;
use crate::compare::cell::Cell;
use crate::compare::contestant::{BASELINE, Contestant, Places};
use crate::compare::measure::{Manner, measure};
use crate::compare::sample::CellResult;
use crate::failure::{Context, Failure};
use crate::process;
use crate::progress::Progress;

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) contestants: Vec<Contestant>,
    pub(crate) results: Vec<CellResult>,
    pub(crate) manner: Manner,
    /// At which level ours compressed, if not at their default.
    pub(crate) deflate_level: Option<u8>,
}

/// Runs the mode.
///
/// # Errors
///
/// A CPU or taskset(1) is missing, nobody was chosen, or no cell.
pub(crate) fn run(options: &args::Compare, progress: &mut Progress) -> Result<Outcome, Failure> {
    for cpu in [options.server_cpu, options.load_cpu] {
        if !process::may_run_on(cpu) {
            return Err(Failure::new(format!("CPU {cpu} is missing or not allowed")));
        }
    }
    let contestants = match options.suite {
        // The budget speaks of nobody else.
        args::Suite::Budget if options.who.is_empty() => {
            choose(&["wirelane", "raw"].map(str::to_owned))?
        }
        _ => choose(&options.who)?,
    };
    let cells = cells(options)?;
    let places = places(options)?;
    if options.build && options.peers.is_none() {
        build(&contestants, &places)?;
    }
    let most = cells.iter().map(|cell| cell.connections).max().unwrap_or(1);
    // The servers inherit the limit. The connections of two have to fit at the same time.
    process::allow_descriptors(most * 2)?;
    process::pin(options.load_cpu)?;
    let manner = Manner {
        starts: options.starts,
        rounds: options.rounds,
        window: options.window,
        server_cpu: options.server_cpu,
    };
    let minutes = estimate(&cells, contestants.len(), &manner).as_secs_f64() / 60.0;
    progress.note(|| {
        let (cells, servers) = (cells.len(), contestants.len());
        format!("{cells} cells of {servers} servers: windows of about {minutes:.1} minutes")
    });
    let results = measure(&contestants, &cells, &places, &manner, progress)?;
    if results.iter().all(|result| result.rounds.iter().flatten().all(Option::is_none)) {
        let reasons = results.iter().flat_map(|result| contestants.iter().zip(&result.absent));
        let reasons: Vec<String> = reasons
            .filter_map(|(who, why)| Some(format!("{}: {}", who.name(), why.as_ref()?)))
            .take(contestants.len())
            .collect();
        return Err(Failure::new(format!("nobody could be measured; {}", reasons.join("; "))));
    }
    Ok(Outcome { contestants, results, manner, deflate_level: options.deflate_level })
}

/// About how long the windows of these options take, without the opening of connections.
pub(crate) fn estimate(cells: &[Cell], contestants: usize, manner: &Manner) -> Duration {
    let windows: u32 = cells.iter().map(|cell| if cell.is_paced() { 5 } else { 1 }).sum();
    manner.window * windows * (contestants * manner.starts * manner.rounds) as u32
}

fn choose(who: &[String]) -> Result<Vec<Contestant>, Failure> {
    let all = Contestant::all();
    if who.is_empty() {
        return Ok(all);
    }
    for name in who {
        // A word without a driver means both.
        if !all.iter().any(|contestant| is_meant(contestant, name)) {
            let names: Vec<String> = all.iter().map(Contestant::name).collect();
            let names = names.join(", ");
            return Err(Failure::new(format!(
                "--who: nobody is called '{name}'; there are {names}"
            )));
        }
    }
    let chosen = all.into_iter().filter(|contestant| {
        contestant.name() == BASELINE || who.iter().any(|name| is_meant(contestant, name))
    });
    Ok(chosen.collect())
}

fn is_meant(contestant: &Contestant, word: &str) -> bool {
    let name = contestant.name();
    name == word
        || name.strip_prefix(word).is_some_and(|rest| matches!(rest, "-epoll" | "-io_uring"))
}

fn cells(options: &args::Compare) -> Result<Vec<Cell>, Failure> {
    let mut cells = match options.suite {
        args::Suite::Budget => budget::cells(),
        args::Suite::Default => cell::default_cells(),
        args::Suite::Full => cell::full_cells(),
    };
    // A run for the page of results has the rows of the budget as well.
    if options.suite != args::Suite::Budget {
        for cell in budget::cells() {
            if !cells.contains(&cell) {
                cells.push(cell);
            }
        }
    }
    if !options.cells.is_empty() {
        cells.retain(|cell| options.cells.iter().any(|word| cell.name().contains(word.as_str())));
    }
    if cells.is_empty() {
        return Err(Failure::new("--cells: no cell has such a name"));
    }
    Ok(cells)
}

/// Examples are where cargo put this program, peers beside that.
fn places(options: &args::Compare) -> Result<Places, Failure> {
    let program = std::env::current_exe().context(|| "cannot find this program")?;
    let profile = program.parent().unwrap_or(Path::new("."));
    let target = profile.parent().unwrap_or(profile);
    Ok(Places {
        examples: options.examples.clone().unwrap_or_else(|| profile.join("examples")),
        peers: options.peers.clone().unwrap_or_else(|| target.join("peers")),
        deflate_level: options.deflate_level,
    })
}

/// Lets the script beside the peers build what is missing. It names what it cannot build, and that
/// is no reason to stop.
fn build(contestants: &[Contestant], places: &Places) -> Result<(), Failure> {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("peers").join("build");
    let mut packages: Vec<&str> = contestants.iter().filter_map(Contestant::package).collect();
    packages.dedup();
    packages.retain(|package| !places.peers.join(package).is_file());
    if packages.is_empty() {
        return Ok(());
    }
    eprintln!("loadtest: building {}", packages.join(", "));
    let status = Command::new(&script)
        .arg(&places.peers)
        .args(&packages)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context(|| format!("cannot run {}", script.display()))?;
    if !status.success() {
        return Err(Failure::new(format!("{} ended with {status}", script.display())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_part_always_includes_the_baseline() {
        let names = |who: &[&str]| -> Vec<String> {
            let who: Vec<String> = who.iter().map(|&word| word.to_owned()).collect();
            choose(&who).unwrap().iter().map(Contestant::name).collect()
        };
        assert_eq!(names(&["wirelane"]), [BASELINE, "wirelane-epoll", "wirelane-io_uring"]);
        assert_eq!(names(&["raw-epoll"]), [BASELINE, "raw-epoll"]);
        assert!(names(&[]).len() > 5);
        let error = choose(&["nginx".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("'nginx'") && error.contains(BASELINE), "{error}");
    }
}
