//! A load generator for WebSocket servers: one thread, real sockets, checked echoes.
//!
//! ```text
//!  args ──> echo ─────> dial ──> engine ──> link ──> replies      figures ──> report
//!           idle                    │         └────> batch                    (table, JSON)
//!           connect                 └── epoll(7)
//!           fanout ───> dial ──> link
//!           latency ──> dial ──> pace ──> link
//!           compare ──> server, and one of these loads at a time
//!           serve ────> a server for two loads of its own
//!           matrix ──> echo, once per driver, cell and round
//! ```
//!
//! `README.md` beside the sources says what each figure means and how it is read.
#![forbid(unsafe_code)]

mod args;
mod batch;
mod compare;
mod connect;
mod csv;
mod deflate;
mod dial;
mod echo;
mod engine;
mod environment;
mod failure;
mod fanout;
mod idle;
mod latency;
mod link;
mod load;
mod matrix;
mod pace;
mod plot;
mod process;
mod progress;
mod replies;
mod report;
mod serve;
mod server;
mod socket;
mod syscalls;
mod target;
mod text;
mod tls;
mod watch;

use std::io::Write;
use std::process::ExitCode;

use hdrhistogram::Histogram;
use serde_json::Value;

use crate::args::{Command, Output, Traffic};
use crate::failure::{Context, Failure};
use crate::plot::Picture;
use crate::progress::Progress;
use crate::report::FigureFile;
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
            Ok(Report {
                table: report::echo_table(options, &figures),
                json: report::echo_json(options, &figures),
                csv: None,
                pictures: percentiles(options.traffic.name(), &figures.latency),
            })
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
            Ok(Report {
                table: report::paced_table(options, &figures),
                json: report::paced_json(options, &figures),
                csv: None,
                pictures: percentiles("latency", &figures.latency),
            })
        }),
        Command::Connect(options) => with_output(&options.output, |progress| {
            let figures = connect::run(options, progress)?;
            progress.clear();
            warn(&figures.observed);
            Ok(Report {
                table: report::connect_table(options, &figures),
                json: report::connect_json(options, &figures),
                csv: None,
                pictures: percentiles("connect", &figures.latency),
            })
        }),
        Command::Idle(options) => with_output(&options.output, |progress| {
            let figures = idle::run(options, progress)?;
            Ok(Report {
                table: report::idle_table(options, &figures),
                json: report::idle_json(options, &figures),
                csv: None,
                pictures: vec![idle::picture(&figures)],
            })
        }),
        Command::Compare(options) => compare(options),
        Command::Serve(options) => serve::run(options),
        Command::Matrix(options) => with_output(&options.output, |progress| {
            let markdown = options.markdown.as_deref().map(FigureFile::open).transpose()?;
            let cells = matrix::run(options, progress)?;
            let table = matrix::markdown(options, &cells);
            if let Some(file) = markdown {
                file.write(&(environment::heading("Echo matrix") + &table))?;
            }
            Ok(Report {
                table,
                json: matrix::json(options, &cells),
                csv: Some(matrix::csv(options, &cells)),
                pictures: vec![matrix::picture(options, &cells)],
            })
        }),
    }
}

fn compare(options: &args::Compare) -> Result<(), Failure> {
    with_output(&options.output, |progress| {
        let markdown = options.markdown.as_deref().map(FigureFile::open).transpose()?;
        let saved = options.save.as_deref().map(compare::save::Saved::new).transpose()?;
        let outcome = compare::run(options, progress)?;
        let table = compare::tables::markdown(&outcome);
        let json = compare::tables::json(&outcome);
        let csv = compare::tables::csv(&outcome);
        let pictures = compare::plots::pictures(&outcome);
        if let Some(file) = markdown {
            file.write(&(environment::heading("Comparison") + &table))?;
        }
        if let Some(saved) = saved {
            saved.write(&table, &json, &csv, &pictures)?;
        }
        let pictures = pictures.into_iter().map(|(_, picture)| picture).collect();
        Ok(Report { table, json, csv: Some(csv), pictures })
    })
}

/// What a mode has to show.
struct Report {
    table: String,
    json: Value,
    /// None where the JSON is flat enough to be one line.
    csv: Option<String>,
    pictures: Vec<Picture>,
}

fn percentiles(mode: &str, latency: &Histogram<u64>) -> Vec<Picture> {
    let series = compare::plots::latency_series(mode, latency);
    vec![compare::plots::latency_chart(format!("{mode}: time by percentile"), vec![series])]
}

/// Runs a mode and puts what it has to show where the user wants it. Files are opened first: a
/// wrong path must not cost the minutes that a run takes.
fn with_output(
    output: &Output,
    mode: impl FnOnce(&mut Progress) -> Result<Report, Failure>,
) -> Result<(), Failure> {
    let json_file = output.json.as_deref().map(FigureFile::open).transpose()?;
    let csv_file = output.csv.as_deref().map(FigureFile::open).transpose()?;
    let plot_file = output.plot.as_deref().map(FigureFile::open).transpose()?;
    let mut progress = Progress::new(output.quiet);
    let report = mode(&mut progress)?;
    progress.clear();
    if !output.quiet {
        print(&report.table)?;
    }
    if let Some(file) = json_file {
        file.write(&format!("{:#}\n", report.json))?;
    }
    if let Some(file) = csv_file {
        file.write(&report.csv.unwrap_or_else(|| csv::one_row(&report.json)))?;
    }
    plot_file.map_or(Ok(()), |file| file.write(&plot::page(&report.pictures)))
}

fn warn(observed: &Observed) {
    for warning in observed.warnings() {
        eprintln!("loadtest: {warning}");
    }
}

fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout().write_all(text.as_bytes()).context(|| "cannot write to stdout")
}
