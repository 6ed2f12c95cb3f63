//! Client of the Autobahn test suite's fuzzing server: the blocking client returns what arrives.
//!
//! `autobahn_client --url ws://HOST:PORT --agent NAME` (and `--deflate MODE`) asks how many cases there are, runs each by
//! echoing what arrives, and has the suite write its report; `tests/conformance/run` judges that.
//! Status 0 when all cases ran, 2 for wrong arguments, otherwise 1.

#[path = "shared/compression.rs"]
mod compression;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use compression::compression;
use lexopt::{Arg, ValueExt};
use wirelane::client::blocking::{Client, ClientError, Received};
use wirelane::{Deflate, Limits};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "\
options:
  --url ws://HOST:PORT        the fuzzing server, needed
  --agent NAME                name in its report             [wirelane]
  --deflate off|shared|dedicated                             [off]
";

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
    deflate: Deflate,
}

/// `None` if only help was asked for.
fn parse(mut parser: lexopt::Parser) -> std::result::Result<Option<Arguments>, lexopt::Error> {
    let (mut url, mut agent, mut deflate) = (None, String::from("wirelane"), Deflate::off());
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            Arg::Long("url") => {
                let given = parser.value()?.string()?;
                if !given.starts_with("ws://") {
                    return Err("--url: write ws://HOST:PORT".into());
                }
                url = Some(given.trim_end_matches('/').to_owned());
            }
            Arg::Long("agent") => agent = parser.value()?.string()?,
            Arg::Long("deflate") => deflate = compression(&parser.value()?.string()?)?,
            _ => return Err(argument.unexpected()),
        }
    }
    let url = url.ok_or("needs --url ws://HOST:PORT")?;
    Ok(Some(Arguments { url, agent, deflate }))
}

fn run_cases(Arguments { url, agent, deflate }: &Arguments) -> Result<()> {
    let connect = |url: &str| connect(url, *deflate);
    let Received::Text(count) = connect(&format!("{url}/getCaseCount"))?.receive()? else {
        return Err("the number of cases is not a text".into());
    };
    for case in 1..=count.parse::<u32>()? {
        let case_url = format!("{url}/runCase?case={case}&agent={agent}");
        match connect(&case_url).and_then(echo) {
            // The suite ends some cases by dropping TCP, and breaks the rules in others; it knows
            // whether our answer was right.
            Ok(()) | Err(ClientError::Ended | ClientError::Protocol(_)) => {}
            Err(error) => eprintln!("case {case}: {error}"),
        }
    }
    Ok(echo(connect(&format!("{url}/updateReports?agent={agent}"))?)?)
}

fn connect(url: &str, deflate: Deflate) -> std::result::Result<Client, ClientError> {
    // The suite's largest messages; 9.3.1 is 4 MiB in 65,536 fragments and an empty last one.
    let limits = Limits::new().max_message(16 * 1024 * 1024).max_fragments(128 * 1024);
    let longest_silence = Duration::from_secs(30);
    Client::builder().limits(limits).deflate(deflate).read_timeout(longest_silence).connect(url)
}

/// Returns every message, until the end.
fn echo(mut client: Client) -> std::result::Result<(), ClientError> {
    loop {
        match client.receive()? {
            Received::Text(text) => client.send(&text)?,
            Received::Binary(bytes) => client.send(&bytes)?,
            Received::Close(_) => return Ok(()),
            _ => {}
        }
    }
}
