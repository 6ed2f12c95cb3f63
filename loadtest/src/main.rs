//! A load generator for WebSocket servers: one thread, real sockets, checked echoes.
//!
//! ```text
//!  args ──> echo ─────> dial ──> engine ──> link ──> replies      figures ──> report
//!           idle                    │         └────> batch                    (table, JSON)
//!           connect                 └── epoll(7)
//!           fanout ───> dial ──> link
//!           latency ──> dial ──> pace ──> link
//!           compare ──> server, and one of these loads at a time
//!           matrix ──> echo, once per driver, cell and round
//! ```
//!
//! `README.md` beside the sources says what each figure means and how it is read.
#![forbid(unsafe_code)]

mod args;
mod batch;
mod compare;
mod connect;
mod dial;
mod echo;
mod engine;
mod failure;
mod fanout;
mod idle;
mod latency;
mod link;
mod load;
mod matrix;
mod pace;
mod process;
mod progress;
mod replies;
mod report;
mod server;
mod socket;
mod syscalls;
mod target;
mod watch;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use crate::args::{Command, Output, Traffic};
use crate::failure::{Context, Failure};
use crate::progress::Progress;
use crate::report::JsonFile;
use crate::watch::Observed;

fn main() -> ExitCode {
    let command = match args::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("loadtest: {error}\n\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    match run(&command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("loadtest: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Help => print(args::USAGE),
        Command::Echo(options) => with_output(&options.output, |progress| {
            let figures = match options.traffic {
                Traffic::Echo => echo::run(options, progress)?,
                Traffic::Broadcast | Traffic::Relay => fanout::run(options, progress)?,
            };
            progress.clear();
            warn(&figures.observed);
            Ok((report::echo_table(options, &figures), report::echo_json(options, &figures)))
        }),
        Command::Latency(options) => with_output(&options.output, |progress| {
            let figures = latency::run(options, progress)?;
            progress.clear();
            if figures.is_late() {
                eprintln!("loadtest: the load generator sent late: see the rows `sent late`");
            }
            if figures.observed.is_disturbed() {
                warn(&figures.observed);
            }
            Ok((report::paced_table(options, &figures), report::paced_json(options, &figures)))
        }),
        Command::Connect(options) => with_output(&options.output, |progress| {
            let figures = connect::run(options, progress)?;
            progress.clear();
            warn(&figures.observed);
            Ok((report::connect_table(options, &figures), report::connect_json(options, &figures)))
        }),
        Command::Idle(options) => with_output(&options.output, |progress| {
            let figures = idle::run(options, progress)?;
            Ok((report::idle_table(options, &figures), report::idle_json(options, &figures)))
        }),
        Command::Compare(options) => with_output(&options.output, |progress| {
            let markdown = options.markdown.as_deref().map(writable).transpose()?;
            let outcome = compare::run(options, progress)?;
            let tables = compare::tables::markdown(&outcome);
            if let Some(path) = markdown {
                let text = report::heading("Comparison") + &tables;
                fs::write(path, text).context(|| format!("cannot write {}", path.display()))?;
            }
            Ok((tables, compare::tables::json(&outcome)))
        }),
        Command::Matrix(options) => with_output(&options.output, |progress| {
            let markdown = options.markdown.as_deref().map(writable).transpose()?;
            let cells = matrix::run(options, progress)?;
            let table = matrix::markdown(options, &cells);
            if let Some(path) = markdown {
                let text = report::heading("Echo matrix") + &table;
                fs::write(path, text).context(|| format!("cannot write {}", path.display()))?;
            }
            Ok((table, matrix::json(options, &cells)))
        }),
    }
}

/// A wrong path must not cost the minutes that the runs take.
fn writable(path: &Path) -> Result<&Path, Failure> {
    let file = fs::OpenOptions::new().append(true).create(true).open(path);
    file.context(|| format!("cannot write {}", path.display())).map(|_| path)
}

/// Runs a mode and puts its table and its JSON where the user wants them.
fn with_output(
    output: &Output,
    mode: impl FnOnce(&mut Progress) -> Result<(String, Value), Failure>,
) -> Result<(), Failure> {
    let json_file = output.json.as_deref().map(JsonFile::open).transpose()?;
    let mut progress = Progress::new(output.quiet);
    let (table, json) = mode(&mut progress)?;
    progress.clear();
    if !output.quiet {
        print(&table)?;
    }
    json_file.map_or(Ok(()), |file| file.write(&json))
}

fn warn(observed: &Observed) {
    for warning in observed.warnings() {
        eprintln!("loadtest: {warning}");
    }
}

fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout().write_all(text.as_bytes()).context(|| "cannot write to stdout")
}
