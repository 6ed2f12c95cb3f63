//! Client of the Autobahn test suite's fuzzing server, on the event loop of a worker: returns what
//! arrives.
//!
//! `autobahn_worker_client --url ws://HOST:PORT --agent NAME` (and `--deflate MODE`, `--driver NAME`)
//! does what `autobahn_client` does with the blocking client. Status 0 when all cases ran, 2 for
//! wrong arguments, otherwise 1.

#[path = "shared/compression.rs"]
mod compression;

use std::error::Error;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use compression::compression;
use lexopt::{Arg, ValueExt};
use wirelane::client::{Client, Dial, DialEvent};
use wirelane::{Deflate, Driver, Handler, Limits, Message, WebSocket, WorkerContext};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "\
options:
  --url ws://HOST:PORT        the fuzzing server, needed
  --agent NAME                name in its report             [wirelane]
  --driver auto|epoll|io_uring                               [auto]
  --deflate off|shared|dedicated                             [off]
";

/// One connection: what came last, for whoever waits for its end.
struct Case {
    last: String,
    echoes: bool,
    over: mpsc::Sender<std::result::Result<String, String>>,
}

impl Handler for Case {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        if self.echoes {
            ws.send(message);
        } else {
            self.last = String::from_utf8_lossy(message.payload()).into_owned();
        }
    }

    fn on_dial(&mut self, _worker: &mut WorkerContext<'_>, event: &DialEvent<'_>) {
        let result = match event.error {
            Some(error) => Err(error.to_string()),
            None => Ok(std::mem::take(&mut self.last)),
        };
        // Nobody waits any more after a timeout.
        let _ = self.over.send(result);
    }
}

fn main() -> ExitCode {
    let arguments = match parse(lexopt::Parser::from_env()) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run_cases(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

struct Arguments {
    url: String,
    agent: String,
    driver: Driver,
    deflate: Deflate,
}

/// `None` if only help was asked for.
fn parse(mut parser: lexopt::Parser) -> std::result::Result<Option<Arguments>, lexopt::Error> {
    let (mut url, mut agent) = (None, "wirelane".to_owned());
    let (mut driver, mut deflate) = (Driver::Auto, Deflate::off());
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            Arg::Long("url") => url = Some(parser.value()?.string()?),
            Arg::Long("agent") => agent = parser.value()?.string()?,
            Arg::Long("driver") => driver = parser.value()?.parse()?,
            Arg::Long("deflate") => deflate = compression(&parser.value()?.string()?)?,
            _ => return Err(argument.unexpected()),
        }
    }
    let url = url.ok_or("needs --url ws://HOST:PORT")?;
    Ok(Some(Arguments { url: url.trim_end_matches('/').to_owned(), agent, driver, deflate }))
}

fn run_cases(Arguments { url, agent, driver, deflate }: &Arguments) -> Result<()> {
    // The suite's largest messages; 9.3.1 is 4 MiB in 65,536 fragments and an empty last one.
    let limits = Limits::new().max_message(16 * 1024 * 1024).max_fragments(128 * 1024);
    let client = Client::builder().driver(*driver).limits(limits).max_backpressure(64 << 20);
    let client = client.ping_interval(Duration::ZERO).idle_timeout(Duration::from_secs(30));
    let client = client.start()?;
    let connect = |target: &str, echoes| -> Result<String> {
        let (over, result) = mpsc::channel();
        let case = Case { last: String::new(), echoes, over };
        client.connect(&Dial::to(format!("{url}{target}")).deflate(*deflate), case)?;
        // The suite gives up after 480 s.
        Ok(result.recv_timeout(Duration::from_secs(600))??)
    };
    let count: u32 = connect("/getCaseCount", false)?.parse()?;
    for case in 1..=count {
        if let Err(error) = connect(&format!("/runCase?case={case}&agent={agent}"), true) {
            eprintln!("case {case}: {error}");
        }
    }
    connect(&format!("/updateReports?agent={agent}"), true)?;
    Ok(())
}
