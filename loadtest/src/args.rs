//! The command line: words in, one checked [`Command`] out. It never touches the network or a file.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::*;

use crate::batch::Content;
use crate::serve::Service;
use crate::target::{Manner, Speech, Target};

/// Shown for `--help`, and after each complaint about the arguments.
pub(crate) const USAGE: &str = "\
loadtest MODE --url URL [options]

URL: ws:// or wss:// HOST[:PORT][/TARGET], unix:PATH, ws+unix:PATH[:/TARGET],
or tcp://HOST:PORT for a server that returns bytes as they are

Modes
  echo      closed loop: each connection keeps --depth messages in flight
  latency   open loop: --rate messages per second, whatever the server does
  broadcast one connection sends --depth messages at a time, all receive them
  relay     one connection sends --depth messages at a time, all others receive them
  connect   opening handshakes per second
  idle      server memory per open connection (needs --server-pid)
  compare   our servers and others side by side, in turn
  serve     a server for loads that our examples have no use for
  matrix    the echo example on epoll and io_uring over a grid of cells

Every mode with --url
  --url URL            the server
  --pin CPU            run the load generator on this CPU
  --server-pid PID     read CPU time, memory and context switches of the server
  --ca FILE            believe these certificates only (wss; default: any)
  --resume             resume TLS sessions (default: every handshake is a full one)
  --deflate            permessage-deflate: messages are compressed once, before the start
echo, broadcast, relay
  --connections N      open connections (default 32, at most 20000)
  --size BYTES         payload of a message (default 1024)
  --depth N            messages in flight per connection (default 1)
  --duration TIME      measured window, such as 5s or 500ms (default 5s)
  --warmup TIME        not measured, before the window (default 1s)
  --text | --binary | --utf8 | --content text|binary|utf8|json
                       ASCII text (default), binary, text of 1- to 4-byte characters, JSON
  --copies N           broadcast, relay: the server delivers each message so often (default 1)
  --verify             compare every byte that comes back, not only length and ends
  --syscalls           one more second with perf or strace: system calls per message
  --strace             the same, with strace even if perf works
latency
  --rate N             messages per second on all connections together
  --connections N      open connections, which send in turn (default 64)
  --size BYTES         payload of a message (default 20)
  --duration, --warmup, --content, --verify as above
connect
  --concurrency N      handshakes under way at once (default 32)
  --duration, --warmup as above
  --abrupt             reset the connection instead of a close handshake
idle
  --connections LIST   open connections (default 32); several numbers are reached one by one
  --concurrency N      handshakes under way at once (default 32)
  --echo BYTES         one echo of so many bytes on each connection, then memory is read again
  --hold TIME          wait before memory is read (default 1s)
compare
  (default)            a sensible choice of cells, with the rows of the budget
  --budget             the rows of the budget only
  --full               every combination; takes hours with everybody
  --quick              one start of 5 rounds instead of 3 of 8
  --cells WORD,...     only cells whose name contains one of the words
  --who NAME,...       only these beside uwebsockets, such as wirelane, raw, tokio-websockets
  --starts N           fresh starts of every server (default 3)
  --rounds N           windows of each server and cell after a start (default 8)
  --window TIME        length of a window (default 150ms; latency: five times that)
  --no-build           take the peers as they are, build none
  --peers DIR          where they are (default: target/peers)
  --examples DIR       where ours are (default: examples/ beside this program)
  --save DIR           also writes DIR/DATE.md, .json, .csv and plots
  --server-cpu CPU, --load-cpu CPU, --markdown FILE as below
matrix
  --server PATH        the echo example (default: examples/echo beside this program)
  --drivers A,B        (default epoll,io_uring; the ratio is B/A)
  --connections LIST   (default 1,32,256,2000)
  --sizes LIST         (default 20,1024,16384)
  --depths LIST        (default 1,8)
  --rounds N           (default 3)
  --duration, --warmup of one run (default 2s and 500ms)
  --content as above
  --server-cpu CPU     (default 0)
  --load-cpu CPU       (default 1)
  --markdown FILE      also writes the table there
serve
  --mode echo          each message comes back
  --mode threads       each message is published by --publishers threads (default 4) through a
                       Handle, by each of them --copies times (default 1)
  --mode subscribe     from the second message on, a connection subscribes to --topics topics
                       (default 100) and gets its message back
  --listen ADDR        (default 127.0.0.1:9001)
  --driver auto|epoll|io_uring
Output of the other modes
  --json FILE          also writes the figures there
  --csv FILE           the same as comma-separated values
  --plot FILE.svg      draws them
  --quiet              no progress line and no table
  --help
";

/// Most connections of one process: beyond this, one client address runs out of ports.
const MAX_CONNECTIONS: usize = 20_000;
/// Most messages per second of an open loop; one thread cannot send more of them singly.
const MAX_RATE: f64 = 5_000_000.0;
/// Most messages in flight on one connection.
const MAX_DEPTH: usize = 65_536;
/// Most bytes that the prepared messages of one run may take.
const MAX_BATCH: usize = 512 * 1024 * 1024;

/// What the user asked for, checked.
#[derive(Debug)]
pub(crate) enum Command {
    Help,
    Echo(Echo),
    Latency(Latency),
    Connect(Connect),
    Idle(Idle),
    Matrix(Matrix),
    Compare(Compare),
    Serve(Serve),
}

/// Where to connect, and what to watch meanwhile.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) target: Target,
    pub(crate) pin: Option<usize>,
    pub(crate) server_pid: Option<u32>,
}

/// Where the figures go.
#[derive(Debug, Clone, Default)]
pub(crate) struct Output {
    pub(crate) json: Option<PathBuf>,
    pub(crate) csv: Option<PathBuf>,
    pub(crate) plot: Option<PathBuf>,
    pub(crate) quiet: bool,
}

/// Which tool may count the system calls of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CountSyscalls {
    No,
    WithBestTool,
    WithStrace,
}

/// Which messages come back to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// Each connection's to itself.
    Echo,
    /// Those of one connection to all.
    Broadcast,
    /// Those of one connection to all others.
    Relay,
}

impl Traffic {
    /// The name of the mode.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Broadcast => "broadcast",
            Self::Relay => "relay",
        }
    }
}

/// Modes `echo`, `broadcast` and `relay`.
#[derive(Debug)]
pub(crate) struct Echo {
    pub(crate) traffic: Traffic,
    pub(crate) subject: Subject,
    pub(crate) output: Output,
    pub(crate) connections: usize,
    pub(crate) size: usize,
    pub(crate) depth: usize,
    /// How often the server delivers each message to everybody.
    pub(crate) copies: usize,
    pub(crate) content: Content,
    pub(crate) duration: Duration,
    pub(crate) warmup: Duration,
    pub(crate) verify: bool,
    pub(crate) syscalls: CountSyscalls,
}

/// Mode `latency`.
#[derive(Debug)]
pub(crate) struct Latency {
    pub(crate) subject: Subject,
    pub(crate) output: Output,
    pub(crate) connections: usize,
    pub(crate) size: usize,
    pub(crate) content: Content,
    /// Messages per second on all connections together.
    pub(crate) rate: f64,
    pub(crate) duration: Duration,
    pub(crate) warmup: Duration,
    pub(crate) verify: bool,
}

/// Mode `connect`.
#[derive(Debug)]
pub(crate) struct Connect {
    pub(crate) subject: Subject,
    pub(crate) output: Output,
    pub(crate) concurrency: usize,
    pub(crate) duration: Duration,
    pub(crate) warmup: Duration,
    pub(crate) abrupt: bool,
}

/// Mode `idle`.
#[derive(Debug)]
pub(crate) struct Idle {
    pub(crate) subject: Subject,
    pub(crate) output: Output,
    /// In ascending order.
    pub(crate) connections: Vec<usize>,
    pub(crate) concurrency: usize,
    pub(crate) echo: Option<usize>,
    pub(crate) content: Content,
    pub(crate) hold: Duration,
}

/// Mode `matrix`.
#[derive(Debug)]
pub(crate) struct Matrix {
    pub(crate) output: Output,
    pub(crate) server: Option<PathBuf>,
    pub(crate) drivers: [String; 2],
    pub(crate) connections: Vec<usize>,
    pub(crate) sizes: Vec<usize>,
    pub(crate) depths: Vec<usize>,
    pub(crate) content: Content,
    pub(crate) rounds: usize,
    pub(crate) duration: Duration,
    pub(crate) warmup: Duration,
    pub(crate) server_cpu: usize,
    pub(crate) load_cpu: usize,
    pub(crate) markdown: Option<PathBuf>,
}

/// Which cells are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suite {
    Budget,
    Default,
    Full,
}

/// Mode `compare`.
#[derive(Debug)]
pub(crate) struct Compare {
    pub(crate) output: Output,
    pub(crate) suite: Suite,
    /// Words of which a cell's name must contain one; none means all.
    pub(crate) cells: Vec<String>,
    /// Who takes part beside the baseline; nobody means everybody.
    pub(crate) who: Vec<String>,
    pub(crate) starts: usize,
    pub(crate) rounds: usize,
    pub(crate) window: Duration,
    pub(crate) build: bool,
    pub(crate) server_cpu: usize,
    pub(crate) load_cpu: usize,
    pub(crate) markdown: Option<PathBuf>,
    /// A directory for the results of this run, beside those of others.
    pub(crate) save: Option<PathBuf>,
    /// Where our examples are, and the peers, if not where cargo and the build script put them.
    pub(crate) examples: Option<PathBuf>,
    pub(crate) peers: Option<PathBuf>,
}

/// Mode `serve`.
#[derive(Debug)]
pub(crate) struct Serve {
    pub(crate) service: Service,
    pub(crate) listen: String,
    pub(crate) driver: String,
    pub(crate) publishers: usize,
    pub(crate) copies: usize,
    pub(crate) topics: usize,
}

/// A complaint about the arguments; the program prints it with [`USAGE`] and ends with status 2.
#[derive(Debug)]
pub(crate) struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl From<lexopt::Error> for UsageError {
    fn from(error: lexopt::Error) -> Self {
        Self(error.to_string())
    }
}

/// Reads the arguments that follow the program's name.
///
/// # Errors
///
/// An unknown mode or option, one that the mode does not have, a missing or malformed value, or a
/// value out of range.
pub(crate) fn parse(
    arguments: impl IntoIterator<Item = impl Into<OsString>>,
) -> Result<Command, UsageError> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mode = match parser.next()? {
        None => return Err(UsageError("a mode is missing".to_owned())),
        Some(Short('h') | Long("help")) => return Ok(Command::Help),
        Some(Value(mode)) => mode.string()?,
        Some(other) => return Err(other.unexpected().into()),
    };
    let Some(accepted) = options_of(&mode) else {
        return Err(UsageError(format!("unknown mode '{mode}'")));
    };
    let mut given = Given::default();
    while let Some(argument) = parser.next()? {
        let name = match argument {
            Short('h') | Long("help") => return Ok(Command::Help),
            Long(name) if has(accepted, name) => name.to_owned(),
            Long(name) if has(ALL_GROUPS, name) => {
                return Err(UsageError(format!("mode {mode} has no option --{name}")));
            }
            other => return Err(other.unexpected().into()),
        };
        given.take(&name, &mut parser)?;
    }
    match mode.as_str() {
        "echo" => given.into_echo(Traffic::Echo).map(Command::Echo),
        "broadcast" => given.into_echo(Traffic::Broadcast).map(Command::Echo),
        "relay" => given.into_echo(Traffic::Relay).map(Command::Echo),
        "latency" => given.into_latency().map(Command::Latency),
        "connect" => given.into_connect().map(Command::Connect),
        "idle" => given.into_idle().map(Command::Idle),
        "compare" => given.into_compare().map(Command::Compare),
        "serve" => given.into_serve().map(Command::Serve),
        _ => given.into_matrix().map(Command::Matrix),
    }
}

fn has(groups: &[&[&str]], name: &str) -> bool {
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
    "budget", "full", "quick", "cells", "who", "starts", "window", "no-build", "save", "examples",
    "peers",
];
const SERVE: &[&str] = &["mode", "listen", "driver", "publishers", "copies", "topics"];
const ALL_GROUPS: &[&[&str]] = &[
    SUBJECT, OUTPUT, CONTENT, WINDOW, ECHO, LATENCY, CONNECT, IDLE, SERVERS, MATRIX, COMPARE, SERVE,
];

fn options_of(mode: &str) -> Option<&'static [&'static [&'static str]]> {
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
struct Given {
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
}

impl Given {
    fn take(&mut self, name: &str, parser: &mut lexopt::Parser) -> Result<(), UsageError> {
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
            "cells" => self.cells = words(&parser.value()?.string()?),
            "who" => self.who = words(&parser.value()?.string()?),
            "starts" => self.starts = Some(parser.value()?.parse()?),
            "window" => self.window = Some(duration(name, &parser.value()?.string()?)?),
            "save" => self.save = Some(parser.value()?.into()),
            "examples" => self.examples = Some(parser.value()?.into()),
            "peers" => self.peers = Some(parser.value()?.into()),
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

    fn into_echo(mut self, traffic: Traffic) -> Result<Echo, UsageError> {
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

    fn into_latency(mut self) -> Result<Latency, UsageError> {
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

    fn into_connect(mut self) -> Result<Connect, UsageError> {
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

    fn into_idle(mut self) -> Result<Idle, UsageError> {
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

    fn into_compare(mut self) -> Result<Compare, UsageError> {
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
        Ok(Compare {
            output: self.output(),
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

    fn into_serve(self) -> Result<Serve, UsageError> {
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

    fn into_matrix(mut self) -> Result<Matrix, UsageError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Command, UsageError> {
        parse(line.split_whitespace())
    }

    fn complaint(line: &str) -> String {
        match parse_line(line) {
            Ok(command) => panic!("'{line}' was accepted as {command:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn echo_takes_each_option_and_has_defaults() {
        let line = "echo --url ws://127.0.0.1:9001/ --connections 7 --size 20 --depth 8 \
                    --duration 1500ms --warmup 0 --utf8 --verify --pin 1 --server-pid 12 --quiet";
        let Ok(Command::Echo(echo)) = parse_line(line) else { panic!("refused") };
        assert_eq!((echo.connections, echo.size, echo.depth), (7, 20, 8));
        assert_eq!((echo.duration, echo.warmup), (Duration::from_millis(1500), Duration::ZERO));
        assert_eq!(echo.content, Content::MixedUtf8);
        assert_eq!((echo.subject.pin, echo.subject.server_pid), (Some(1), Some(12)));
        assert!(echo.verify && echo.output.quiet);

        let Ok(Command::Echo(echo)) = parse_line("echo --url unix:/tmp/a") else { panic!() };
        assert_eq!((echo.connections, echo.size, echo.depth), (32, 1024, 1));
        assert_eq!((echo.duration, echo.warmup), (Duration::from_secs(5), Duration::from_secs(1)));
        assert_eq!(echo.syscalls, CountSyscalls::No);
    }

    #[test]
    fn messages_to_others_take_the_options_of_echo() {
        for (mode, traffic) in [("broadcast", Traffic::Broadcast), ("relay", Traffic::Relay)] {
            let line = format!("{mode} --url ws://h:1/ --connections 201 --depth 16");
            let Ok(Command::Echo(echo)) = parse_line(&line) else { panic!("refused") };
            assert_eq!((echo.traffic, echo.connections, echo.depth), (traffic, 201, 16));
            assert_eq!(echo.traffic.name(), mode);
        }
        assert!(complaint("relay --url ws://h/ --connections 1").contains("between 2"));
    }

    #[test]
    fn other_modes_have_their_own_options() {
        let line = "latency --url ws://h:1/ --rate 30000 --connections 5";
        let Ok(Command::Latency(latency)) = parse_line(line) else { panic!("refused") };
        assert_eq!((latency.rate, latency.connections, latency.size), (30_000.0, 5, 20));
        let line = "connect --url ws://h:1/ --concurrency 3 --abrupt";
        let Ok(Command::Connect(connect)) = parse_line(line) else { panic!("refused") };
        assert!(connect.abrupt && connect.concurrency == 3);
        let line = "idle --url ws://h:1/ --connections 9 --echo 100 --server-pid 1 --hold 2m";
        let Ok(Command::Idle(idle)) = parse_line(line) else { panic!("refused") };
        assert_eq!(idle.connections, [9]);
        assert_eq!((idle.echo, idle.hold), (Some(100), Duration::from_secs(120)));
        let Ok(Command::Matrix(matrix)) = parse_line("matrix --depths 1,4 --drivers a,b") else {
            panic!("refused")
        };
        assert_eq!((matrix.depths, matrix.connections.len()), (vec![1, 4], 4));
        assert_eq!(matrix.drivers, ["a", "b"]);
        assert!(matches!(parse_line("echo --help"), Ok(Command::Help)));
    }

    #[test]
    fn wrong_arguments_are_named() {
        assert!(complaint("").contains("mode"));
        assert!(complaint("sing").contains("'sing'"));
        assert!(complaint("echo").contains("--url"));
        assert!(complaint("echo --url http://h/").contains("http"));
        assert!(complaint("echo --url ws://h/ --abrupt").contains("no option --abrupt"));
        assert!(complaint("echo --url ws://h/ --nonsense").contains("nonsense"));
        assert!(complaint("echo --url ws://h/ --depth 0").contains("--depth"));
        assert!(complaint("echo --url ws://h/ --depth 1,2").contains("one number"));
        assert!(complaint("echo --url ws://h/ --connections 20001").contains("20000"));
        assert!(complaint("echo --url ws://h/ --size 99999999 --depth 999").contains("size times"));
        assert!(complaint("echo --url ws://h/ --duration 5x").contains("5x"));
        assert!(complaint("echo --url ws://h/ --duration 0").contains("zero"));
        assert!(complaint("echo --url ws://h/ --duration -1").contains("-1"));
        assert!(complaint("echo --url ws://h/ --syscalls").contains("--server-pid"));
        assert!(complaint("idle --url ws://h/").contains("--server-pid"));
        assert!(complaint("matrix --drivers epoll").contains("two names"));
        assert!(complaint("latency --url ws://h/").contains("--rate"));
        assert!(complaint("echo --url ws://h/ --copies 2").contains("--copies"));
        assert!(complaint("serve").contains("--mode"));
        assert!(complaint("serve --mode sing").contains("echo, threads or subscribe"));
        assert!(complaint("echo --url ws://h/ --ca a.pem").contains("wss"));
        assert!(complaint("echo --url tcp://h:1/ --deflate").contains("--deflate"));
        assert!(complaint("echo --url ws://h/ --content xml").contains("'xml'"));
        assert!(complaint("connect --url ws://h/ --content json").contains("no option --content"));
        assert!(complaint("latency --url ws://h/ --rate 0").contains("between 1"));
        assert!(complaint("latency --url ws://h/ --rate NaN").contains("between 1"));
    }
}
