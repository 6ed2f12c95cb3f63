//! The options as they were written: one by one in, the checked options of a mode out.

use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::*;

use super::{
    Compare, Connect, CountSyscalls, Echo, Idle, Latency, Matrix, Output, Serve, Subject, Suite,
    Traffic, UsageError,
};
use crate::batch::Content;
use crate::serve::Service;
use crate::target::{Manner, Speech, Target};

/// Most connections of one process: beyond this, one client address runs out of ports.
const MAX_CONNECTIONS: usize = 20_000;
/// Most messages per second of an open loop; one thread cannot send more of them singly.
const MAX_RATE: f64 = 5_000_000.0;
/// Most messages in flight on one connection.
const MAX_DEPTH: usize = 65_536;
/// Most bytes that the prepared messages of one run may take.
const MAX_BATCH: usize = 512 * 1024 * 1024;

/// Whether one of the groups has the option.
pub(super) fn has(groups: &[&[&str]], name: &str) -> bool {
    groups.iter().any(|group| group.contains(&name))
}

/// Options by what they are about; a mode has several groups.
const SUBJECT: &[&str] = &["url", "pin", "server-pid", "ca", "resume"];
const OUTPUT: &[&str] = &["json", "csv", "plot", "quiet"];
const CONTENT: &[&str] = &["text", "binary", "utf8", "content"];
const WINDOW: &[&str] = &["duration", "warmup"];
const ECHO: &[&str] =
    &["connections", "size", "depth", "copies", "verify", "syscalls", "strace", "deflate"];
const LATENCY: &[&str] = &["connections", "size", "rate", "verify", "deflate"];
const CONNECT: &[&str] = &["concurrency", "abrupt", "deflate"];
const IDLE: &[&str] = &["connections", "concurrency", "echo", "hold", "deflate"];
const SERVERS: &[&str] = &["server-cpu", "load-cpu", "markdown", "rounds"];
const MATRIX: &[&str] = &["server", "drivers", "connections", "sizes", "depths"];
const COMPARE: &[&str] = &[
    "budget",
    "full",
    "quick",
    "cells",
    "who",
    "starts",
    "window",
    "no-build",
    "save",
    "examples",
    "peers",
    "deflate-level",
];
const SERVE: &[&str] = &["mode", "listen", "driver", "publishers", "copies", "topics"];
pub(super) const ALL_GROUPS: &[&[&str]] = &[
    SUBJECT, OUTPUT, CONTENT, WINDOW, ECHO, LATENCY, CONNECT, IDLE, SERVERS, MATRIX, COMPARE, SERVE,
];

/// The groups of a mode.
pub(super) fn options_of(mode: &str) -> Option<&'static [&'static [&'static str]]> {
    match mode {
        "echo" | "broadcast" | "relay" => Some(&[SUBJECT, OUTPUT, CONTENT, WINDOW, ECHO]),
        "latency" => Some(&[SUBJECT, OUTPUT, CONTENT, WINDOW, LATENCY]),
        "connect" => Some(&[SUBJECT, OUTPUT, WINDOW, CONNECT]),
        "idle" => Some(&[SUBJECT, OUTPUT, CONTENT, IDLE]),
        "matrix" => Some(&[OUTPUT, CONTENT, WINDOW, SERVERS, MATRIX]),
        "compare" => Some(&[OUTPUT, SERVERS, COMPARE]),
        "serve" => Some(&[SERVE]),
        _ => None,
    }
}

/// The options as they were written; defaults differ from mode to mode.
#[derive(Debug, Default)]
pub(super) struct Given {
    url: Option<Target>,
    pin: Option<usize>,
    server_pid: Option<u32>,
    manner: Manner,
    json: Option<PathBuf>,
    csv: Option<PathBuf>,
    plot: Option<PathBuf>,
    quiet: bool,
    connections: Option<Vec<usize>>,
    sizes: Option<Vec<usize>>,
    depths: Option<Vec<usize>>,
    content: Option<Content>,
    duration: Option<Duration>,
    warmup: Option<Duration>,
    hold: Option<Duration>,
    echo: Option<usize>,
    concurrency: Option<usize>,
    abrupt: bool,
    verify: bool,
    syscalls: bool,
    strace: bool,
    server: Option<PathBuf>,
    drivers: Option<[String; 2]>,
    rounds: Option<usize>,
    server_cpu: Option<usize>,
    load_cpu: Option<usize>,
    markdown: Option<PathBuf>,
    service: Option<Service>,
    listen: Option<String>,
    driver: Option<String>,
    publishers: Option<usize>,
    copies: Option<usize>,
    topics: Option<usize>,
    rate: Option<f64>,
    budget: bool,
    full: bool,
    quick: bool,
    cells: Vec<String>,
    who: Vec<String>,
    starts: Option<usize>,
    window: Option<Duration>,
    no_build: bool,
    save: Option<PathBuf>,
    examples: Option<PathBuf>,
    peers: Option<PathBuf>,
    deflate_level: Option<u8>,
}

impl Given {
    /// Takes the value of an option, if it has one.
    pub(super) fn take(
        &mut self,
        name: &str,
        parser: &mut lexopt::Parser,
    ) -> Result<(), UsageError> {
        match name {
            "url" => {
                let url = parser.value()?.string()?;
                self.url = Some(Target::parse(&url).map_err(UsageError)?);
            }
            "pin" => self.pin = Some(parser.value()?.parse()?),
            "server-pid" => self.server_pid = Some(parser.value()?.parse()?),
            "ca" => self.manner.ca = Some(parser.value()?.into()),
            "resume" => self.manner.resume = true,
            "deflate" => self.manner.deflate = true,
            "json" => self.json = Some(parser.value()?.into()),
            "csv" => self.csv = Some(parser.value()?.into()),
            "plot" => self.plot = Some(parser.value()?.into()),
            "quiet" => self.quiet = true,
            "connections" => self.connections = Some(list(name, &parser.value()?.string()?)?),
            "size" | "sizes" => self.sizes = Some(list(name, &parser.value()?.string()?)?),
            "depth" | "depths" => self.depths = Some(list(name, &parser.value()?.string()?)?),
            "text" => self.content = Some(Content::Ascii),
            "binary" => self.content = Some(Content::Binary),
            "utf8" => self.content = Some(Content::MixedUtf8),
            "content" => {
                let name = parser.value()?.string()?;
                self.content = Some(Content::named(&name).ok_or_else(|| {
                    UsageError(format!("--content takes text, binary, utf8 or json, not '{name}'"))
                })?);
            }
            "duration" => self.duration = Some(duration(name, &parser.value()?.string()?)?),
            "warmup" => self.warmup = Some(duration(name, &parser.value()?.string()?)?),
            "hold" => self.hold = Some(duration(name, &parser.value()?.string()?)?),
            "echo" => self.echo = Some(parser.value()?.parse()?),
            "concurrency" => self.concurrency = Some(parser.value()?.parse()?),
            "abrupt" => self.abrupt = true,
            "verify" => self.verify = true,
            "syscalls" => self.syscalls = true,
            "strace" => self.strace = true,
            "server" => self.server = Some(parser.value()?.into()),
            "drivers" => self.drivers = Some(pair(&parser.value()?.string()?)?),
            "rounds" => self.rounds = Some(parser.value()?.parse()?),
            "server-cpu" => self.server_cpu = Some(parser.value()?.parse()?),
            "load-cpu" => self.load_cpu = Some(parser.value()?.parse()?),
            "markdown" => self.markdown = Some(parser.value()?.into()),
            "mode" => self.service = Some(parser.value()?.parse()?),
            "listen" => self.listen = Some(parser.value()?.string()?),
            "driver" => self.driver = Some(parser.value()?.string()?),
            "publishers" => self.publishers = Some(parser.value()?.parse()?),
            "copies" => self.copies = Some(parser.value()?.parse()?),
            "topics" => self.topics = Some(parser.value()?.parse()?),
            "rate" => self.rate = Some(parser.value()?.parse()?),
            "budget" => self.budget = true,
            "full" => self.full = true,
            "quick" => self.quick = true,
            "cells" => self.cells = names(&parser.value()?.string()?),
            "who" => self.who = words(&parser.value()?.string()?),
            "starts" => self.starts = Some(parser.value()?.parse()?),
            "window" => self.window = Some(duration(name, &parser.value()?.string()?)?),
            "save" => self.save = Some(parser.value()?.into()),
            "examples" => self.examples = Some(parser.value()?.into()),
            "peers" => self.peers = Some(parser.value()?.into()),
            "deflate-level" => self.deflate_level = Some(parser.value()?.parse()?),
            "no-build" => self.no_build = true,
            other => return Err(UsageError(format!("unknown option --{other}"))),
        }
        Ok(())
    }

    fn output(&mut self) -> Output {
        Output {
            json: self.json.take(),
            csv: self.csv.take(),
            plot: self.plot.take(),
            quiet: self.quiet,
        }
    }

    fn subject(&mut self) -> Result<Subject, UsageError> {
        let target = self.url.take().ok_or_else(|| UsageError("--url is missing".to_owned()))?;
        let manner = std::mem::take(&mut self.manner);
        let tls = target.speech() == Speech::Tls;
        if !tls && (manner.ca.is_some() || manner.resume) {
            return Err(UsageError("--ca and --resume need a URL with wss".to_owned()));
        }
        if manner.deflate && target.speech() == Speech::Raw {
            return Err(UsageError("--deflate needs a WebSocket server".to_owned()));
        }
        let target = target.spoken_to(manner);
        Ok(Subject { target, pin: self.pin, server_pid: self.server_pid })
    }

    /// The measured window: zero would divide by nothing.
    fn window(&self, default: Duration) -> Result<Duration, UsageError> {
        match self.duration.unwrap_or(default) {
            Duration::ZERO => Err(UsageError("--duration must be more than zero".to_owned())),
            window => Ok(window),
        }
    }

    pub(super) fn into_echo(mut self, traffic: Traffic) -> Result<Echo, UsageError> {
        let syscalls = match (self.syscalls, self.strace) {
            (_, true) => CountSyscalls::WithStrace,
            (true, false) => CountSyscalls::WithBestTool,
            (false, false) => CountSyscalls::No,
        };
        let subject = self.subject()?;
        if syscalls != CountSyscalls::No && subject.server_pid.is_none() {
            return Err(UsageError("--syscalls and --strace need --server-pid".to_owned()));
        }
        let connections = single("connections", self.connections.take(), 32)?;
        let size = single("size", self.sizes.take(), 1024)?;
        let depth = single("depth", self.depths.take(), 1)?;
        check_cell(connections, size, depth)?;
        let copies = self.copies.unwrap_or(1);
        check_range("copies", copies, 1, MAX_DEPTH)?;
        if copies > 1 && (traffic == Traffic::Echo || depth > 1) {
            return Err(UsageError(
                "--copies is for broadcast and relay with --depth 1".to_owned(),
            ));
        }
        if traffic == Traffic::Relay {
            check_range("connections", connections, 2, MAX_CONNECTIONS)?;
        }
        Ok(Echo {
            traffic,
            output: self.output(),
            connections,
            size,
            depth,
            copies,
            content: self.content.unwrap_or(Content::Ascii),
            duration: self.window(Duration::from_secs(5))?,
            warmup: self.warmup.unwrap_or(Duration::from_secs(1)),
            verify: self.verify,
            syscalls,
            subject,
        })
    }

    pub(super) fn into_latency(mut self) -> Result<Latency, UsageError> {
        let connections = single("connections", self.connections.take(), 64)?;
        let size = single("size", self.sizes.take(), 20)?;
        check_cell(connections, size, 1)?;
        let rate = self.rate.ok_or_else(|| UsageError("--rate is missing".to_owned()))?;
        if !(1.0..=MAX_RATE).contains(&rate) {
            return Err(UsageError(format!("--rate must be between 1 and {MAX_RATE}, not {rate}")));
        }
        Ok(Latency {
            subject: self.subject()?,
            output: self.output(),
            connections,
            size,
            content: self.content.unwrap_or(Content::Ascii),
            rate,
            duration: self.window(Duration::from_secs(5))?,
            warmup: self.warmup.unwrap_or(Duration::from_secs(1)),
            verify: self.verify,
        })
    }

    pub(super) fn into_connect(mut self) -> Result<Connect, UsageError> {
        let concurrency = self.concurrency.unwrap_or(32);
        check_range("concurrency", concurrency, 1, MAX_CONNECTIONS)?;
        Ok(Connect {
            subject: self.subject()?,
            output: self.output(),
            concurrency,
            duration: self.window(Duration::from_secs(5))?,
            warmup: self.warmup.unwrap_or(Duration::from_secs(1)),
            abrupt: self.abrupt,
        })
    }

    pub(super) fn into_idle(mut self) -> Result<Idle, UsageError> {
        let mut connections = self.connections.take().unwrap_or_else(|| vec![32]);
        for &connections in &connections {
            check_cell(connections, self.echo.unwrap_or(0), 1)?;
        }
        connections.sort_unstable();
        connections.dedup();
        let concurrency = self.concurrency.unwrap_or(32);
        check_range("concurrency", concurrency, 1, MAX_CONNECTIONS)?;
        let subject = self.subject()?;
        if subject.server_pid.is_none() {
            return Err(UsageError("mode idle needs --server-pid".to_owned()));
        }
        Ok(Idle {
            subject,
            output: self.output(),
            connections,
            concurrency,
            echo: self.echo,
            content: self.content.unwrap_or(Content::Ascii),
            hold: self.hold.unwrap_or(Duration::from_secs(1)),
        })
    }

    pub(super) fn into_compare(mut self) -> Result<Compare, UsageError> {
        let suite = match (self.budget, self.full) {
            (true, true) => {
                return Err(UsageError("--budget and --full exclude each other".to_owned()));
            }
            (true, false) => Suite::Budget,
            (false, true) => Suite::Full,
            (false, false) => Suite::Default,
        };
        let (starts, rounds) = if self.quick { (1, 5) } else { (3, 8) };
        let starts = self.starts.unwrap_or(starts);
        check_range("starts", starts, 1, 100)?;
        let rounds = self.rounds.unwrap_or(rounds);
        check_range("rounds", rounds, 1, 1000)?;
        let window = self.window.unwrap_or(Duration::from_millis(150));
        if window < Duration::from_millis(10) {
            return Err(UsageError("--window must be at least 10ms".to_owned()));
        }
        check_range("deflate-level", self.deflate_level.unwrap_or(1).into(), 1, 9)?;
        Ok(Compare {
            output: self.output(),
            deflate_level: self.deflate_level,
            suite,
            cells: std::mem::take(&mut self.cells),
            who: std::mem::take(&mut self.who),
            starts,
            rounds,
            window,
            build: !self.no_build,
            server_cpu: self.server_cpu.unwrap_or(0),
            load_cpu: self.load_cpu.unwrap_or(1),
            markdown: self.markdown.take(),
            save: self.save.take(),
            examples: self.examples.take(),
            peers: self.peers.take(),
        })
    }

    pub(super) fn into_serve(self) -> Result<Serve, UsageError> {
        let (publishers, copies) = (self.publishers.unwrap_or(4), self.copies.unwrap_or(1));
        let topics = self.topics.unwrap_or(100);
        check_range("publishers", publishers, 1, 256)?;
        check_range("copies", copies, 1, MAX_DEPTH)?;
        check_range("topics", topics, 0, 100_000)?;
        Ok(Serve {
            service: self.service.ok_or_else(|| UsageError("--mode is missing".to_owned()))?,
            listen: self.listen.unwrap_or_else(|| "127.0.0.1:9001".to_owned()),
            driver: self.driver.unwrap_or_else(|| "auto".to_owned()),
            publishers,
            copies,
            topics,
        })
    }

    pub(super) fn into_matrix(mut self) -> Result<Matrix, UsageError> {
        let rounds = self.rounds.unwrap_or(3);
        check_range("rounds", rounds, 1, 1000)?;
        let connections = self.connections.take().unwrap_or_else(|| vec![1, 32, 256, 2000]);
        let sizes = self.sizes.take().unwrap_or_else(|| vec![20, 1024, 16 * 1024]);
        let depths = self.depths.take().unwrap_or_else(|| vec![1, 8]);
        for &connections in &connections {
            for &size in &sizes {
                for &depth in &depths {
                    check_cell(connections, size, depth)?;
                }
            }
        }
        Ok(Matrix {
            output: self.output(),
            server: self.server.take(),
            drivers: self.drivers.take().unwrap_or(["epoll".to_owned(), "io_uring".to_owned()]),
            connections,
            sizes,
            depths,
            content: self.content.unwrap_or(Content::Ascii),
            rounds,
            duration: self.window(Duration::from_secs(2))?,
            warmup: self.warmup.unwrap_or(Duration::from_millis(500)),
            server_cpu: self.server_cpu.unwrap_or(0),
            load_cpu: self.load_cpu.unwrap_or(1),
            markdown: self.markdown.take(),
        })
    }
}

/// What commas separate that no space follows: the names of cells have commas themselves.
fn names(text: &str) -> Vec<String> {
    const INSIDE: &str = "\0";
    let marked = text.replace(", ", INSIDE);
    words(&marked).into_iter().map(|name| name.replace(INSIDE, ", ")).collect()
}

/// What commas separate.
fn words(text: &str) -> Vec<String> {
    text.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
}

fn check_cell(connections: usize, size: usize, depth: usize) -> Result<(), UsageError> {
    check_range("connections", connections, 1, MAX_CONNECTIONS)?;
    check_range("depth", depth, 1, MAX_DEPTH)?;
    if size.checked_mul(depth).is_none_or(|bytes| bytes > MAX_BATCH) {
        return Err(UsageError(format!("size times depth must not exceed {MAX_BATCH} bytes")));
    }
    Ok(())
}

fn check_range(name: &str, value: usize, least: usize, most: usize) -> Result<(), UsageError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(UsageError(format!("--{name} must be between {least} and {most}, not {value}")))
}

fn single(name: &str, given: Option<Vec<usize>>, default: usize) -> Result<usize, UsageError> {
    match given.as_deref() {
        None => Ok(default),
        Some(&[value]) => Ok(value),
        Some(_) => Err(UsageError(format!("--{name} takes one number in this mode"))),
    }
}

fn list(name: &str, text: &str) -> Result<Vec<usize>, UsageError> {
    text.split(',')
        .map(|word| word.parse().map_err(|_| UsageError(format!("--{name}: no number: '{word}'"))))
        .collect()
}

fn pair(text: &str) -> Result<[String; 2], UsageError> {
    match text.split_once(',') {
        Some((first, second)) if !first.is_empty() && !second.is_empty() => {
            Ok([first.to_owned(), second.to_owned()])
        }
        _ => Err(UsageError(format!("--drivers takes two names, A,B, not '{text}'"))),
    }
}

/// A number with `ms`, `s` or `m`; without a unit, seconds.
fn duration(name: &str, text: &str) -> Result<Duration, UsageError> {
    let wrong = || UsageError(format!("--{name}: no time such as 5s or 500ms: '{text}'"));
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let seconds_per_unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        _ => return Err(wrong()),
    };
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    // A day is far beyond any use, and keeps later sums of times from overflowing.
    if !(0.0..=86_400.0).contains(&(number * seconds_per_unit)) {
        return Err(wrong());
    }
    Ok(Duration::from_secs_f64(number * seconds_per_unit))
}
