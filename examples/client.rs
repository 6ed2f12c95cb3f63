//! A WebSocket client for the command line: every line of stdin is sent as a text message, and
//! what comes back is printed.
//!
//! `echo Hello | cargo run --release --example client -- ws://127.0.0.1:9001/`

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::{Duration, Instant};

use lexopt::{Arg, Parser, ValueExt};
use wirelane::CloseCode;
use wirelane::client::blocking::{Client, ClientBuilder, ClientError, Closed, Received};
use wirelane::tls::{ClientTls, Roots};

const USAGE: &str = "\
client [options] ws://HOST:PORT/PATH, or wss://
client [options] unix:PATH

Sends every line of stdin as a text message and prints what comes: texts as they are, binary
messages in hexadecimal. After the last line it waits for what still comes, then closes.

options:
  --ping                  send a Ping first, and wait for the Pong
  --close CODE            the close code to end with         [1000]
  --wait MS               end when nothing has come for that long after the last line  [500]
  --subprotocol NAME      offer this subprotocol; may be repeated
  --header 'NAME: VALUE'  add this to the request; may be repeated
  --ca FILE               believe this authority (PEM) instead of those of this machine
  --target PATH           path and query to ask for, instead of those of the URL

status: 0 after a close handshake, 1 if the connection failed, 2 for wrong arguments
";

/// How long a typed line may wait for its turn.
const TURN: Duration = Duration::from_millis(20);

struct Options {
    url: String,
    builder: ClientBuilder,
    ping: bool,
    code: CloseCode,
    wait: Duration,
}

fn main() -> ExitCode {
    let options = match parse(Parser::from_env()) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(closed) => {
            eprintln!("closed: {} {}", closed.code, closed.reason);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            let misuse = matches!(error, ClientError::Url { .. } | ClientError::Request(_));
            ExitCode::from(if misuse { 2 } else { 1 })
        }
    }
}

fn parse(mut parser: Parser) -> Result<Option<Options>, lexopt::Error> {
    let (mut url, mut ping, mut code) = (None, false, CloseCode::NORMAL);
    let (mut builder, mut wait) = (Client::builder(), Duration::from_millis(500));
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => return Ok(None),
            Arg::Long("ping") => ping = true,
            Arg::Long("close") => {
                code = parser.value()?.parse_with(|text| match text.parse::<u16>() {
                    Ok(code) => CloseCode::try_from(code).map_err(|error| error.to_string()),
                    Err(error) => Err(error.to_string()),
                })?;
            }
            Arg::Long("wait") => wait = Duration::from_millis(parser.value()?.parse()?),
            Arg::Long("subprotocol") => builder = builder.subprotocol(&parser.value()?.string()?),
            Arg::Long("ca") => {
                let roots = Roots::from_file(parser.value()?);
                let tls = roots.and_then(ClientTls::new).map_err(|error| error.to_string())?;
                builder = builder.tls(tls);
            }
            Arg::Long("target") => builder = builder.target(&parser.value()?.string()?),
            Arg::Long("header") => {
                let header = parser.value()?.string()?;
                let (name, value) = header.split_once(':').ok_or("--header: write NAME: VALUE")?;
                builder = builder.header(name, value.trim());
            }
            Arg::Value(value) if url.is_none() => url = Some(value.string()?),
            _ => return Err(arg.unexpected()),
        }
    }
    let url = url.ok_or("the URL is missing")?;
    Ok(Some(Options { url, builder, ping, code, wait }))
}

/// The whole conversation; how the server closed it.
fn run(options: &Options) -> Result<Closed, ClientError> {
    let mut client = options.builder.connect(&options.url)?;
    if let Some(name) = client.subprotocol() {
        eprintln!("subprotocol: {name}");
    }
    if options.ping {
        let start = Instant::now();
        client.ping(b"wirelane")?;
        client.set_read_timeout(Duration::from_secs(10));
        loop {
            match client.receive()? {
                Received::Pong(_) => break eprintln!("pong after {:?}", start.elapsed()),
                Received::Close(closed) => return Ok(closed),
                message => print(&message),
            }
        }
    }
    let lines = stdin_lines();
    let mut last_news = Instant::now();
    let mut idle = false;
    client.set_read_timeout(TURN);
    loop {
        // What is there comes first: a server whose messages nobody reads stops reading, too.
        let received = match idle {
            true => client.receive().map(Some),
            false => client.try_receive(),
        };
        idle = false;
        match received {
            Ok(Some(Received::Close(closed))) => return Ok(closed),
            Ok(Some(message)) => {
                print(&message);
                last_news = Instant::now();
                continue;
            }
            Ok(None) | Err(ClientError::TimedOut) => {}
            Err(error) => return Err(error),
        }
        match lines.try_recv() {
            Ok(line) => {
                client.send(&line)?;
                last_news = Instant::now();
            }
            Err(TryRecvError::Disconnected) if last_news.elapsed() >= options.wait => {
                return client.close(options.code, "");
            }
            Err(_) => idle = true,
        }
    }
}

/// The lines of stdin, read by a thread of their own: it may wait for a person.
fn stdin_lines() -> Receiver<String> {
    let (sender, lines) = mpsc::sync_channel(100);
    std::thread::spawn(move || {
        let typed = std::io::stdin().lock().lines().map_while(Result::ok);
        typed.map(|line| sender.send(line)).take_while(Result::is_ok).for_each(drop);
    });
    lines
}

fn print(message: &Received) {
    let text = match message {
        Received::Text(text) => text.clone(),
        Received::Binary(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        _ => return,
    };
    // Whoever reads our output may have gone; the connection still ends as it should.
    let _ = writeln!(std::io::stdout(), "{text}");
}
