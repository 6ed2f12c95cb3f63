//! Client of the Autobahn test suite's fuzzing server: the blocking client returns what arrives.
//!
//! `autobahn_client --url ws://HOST:PORT --agent NAME` asks how many cases there are, runs each by
//! echoing what arrives, and has the suite write its report; `tests/conformance/run` judges that.
//! Status 0 when all cases ran, otherwise 1.

use std::error::Error;
use std::time::Duration;

use lexopt::{Arg, ValueExt};
use wirelane::Limits;
use wirelane::client::blocking::{Client, ClientError, Received};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let (mut url, mut agent) = (String::new(), String::from("wirelane"));
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("url") => url = parser.value()?.string()?,
            Arg::Long("agent") => agent = parser.value()?.string()?,
            _ => return Err(argument.unexpected().into()),
        }
    }
    run_cases(url.trim_end_matches('/'), &agent)
}

fn run_cases(url: &str, agent: &str) -> Result<()> {
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

fn connect(url: &str) -> std::result::Result<Client, ClientError> {
    // The suite's largest messages; 9.3.1 is 4 MiB in 65,536 fragments and an empty last one.
    let limits = Limits::new().max_message(16 * 1024 * 1024).max_fragments(128 * 1024);
    let longest_silence = Duration::from_secs(30);
    Client::builder().limits(limits).read_timeout(longest_silence).connect(url)
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
