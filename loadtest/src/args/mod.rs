//! The command line: words in, one checked [`Command`] out. It never touches the network or a file.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::*;

mod given;
mod usage;

use self::given::{ALL_GROUPS, Given, has, options_of};
pub(crate) use self::usage::USAGE;
use crate::batch::Content;
use crate::serve::Service;
use crate::target::Target;

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
    /// At which level ours compress, if not at their default.
    pub(crate) deflate_level: Option<u8>,
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
