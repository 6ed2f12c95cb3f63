//! What the example servers have in common: their command line, `/healthz`, and signals.

mod compression;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use compression::compression;
use lexopt::{Arg, Parser, ValueExt};
use wirelane::tls::Identity;
use wirelane::{BoundListener, Deflate, Driver, Limits, Response, Server, ServerBuilder};

const USAGE: &str = "\
options:
  --listen ADDR               address, unix:PATH or systemd  [127.0.0.1:9001]
  --driver auto|epoll|io_uring                               [auto]
  --workers N                 0 = one per core               [1]
  --deflate off|shared|dedicated                             [off]
  --deflate-level N           1 (fastest) to 9 (smallest)    [1]
  --tls-cert FILE             certificates in PEM; speaks wss
  --tls-key FILE              its key in PEM
  --max-message BYTES                                        [16777216]
  --max-backpressure BYTES                                   [16777216]
  --handshake-timeout-ms N    0 = off                        [10000]
  --idle-timeout-ms N         0 = off                        [120000]
  --ping-interval-ms N        0 = off                        [30000]
  --busy-poll-us N            awake after an event; 0 = off  [0]
";

/// How long clients may take to answer our Close at the end. The program promises to end within
/// 5 s of the signal, also on a machine that is busy with other things.
const GRACE: Duration = Duration::from_secs(3);

/// Runs an example: status 2 for wrong arguments, 1 for a server that cannot start, 0 after
/// SIGTERM or SIGINT.
pub(crate) fn run(serve: impl FnOnce(ServerBuilder) -> ServerBuilder) -> ExitCode {
    let (builder, scheme) = match parse(Parser::from_env()) {
        Ok(Some(parsed)) => parsed,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let builder = builder.get("/healthz", |_request| Response::text("ok\n"));
    match start(serve(builder), scheme) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ wirelane::Error::Config { .. }) => {
            eprintln!("{error}\n\n{USAGE}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The server, and the scheme of its URL; `None` if only help is wanted.
fn parse(mut parser: Parser) -> Result<Option<(ServerBuilder, &'static str)>, lexopt::Error> {
    let mut builder = Server::builder();
    let mut listen = String::from("127.0.0.1:9001");
    let mut max_message = 16 * 1024 * 1024;
    let mut max_backpressure = 16 * 1024 * 1024;
    let (mut certificate, mut key) = (None, None);
    let (mut deflate, mut level) = (Deflate::off(), None);
    while let Some(arg) = parser.next()? {
        let Arg::Long(name) = arg else {
            if matches!(arg, Arg::Short('h')) {
                return Ok(None);
            }
            return Err(arg.unexpected());
        };
        let name = name.to_owned();
        match name.as_str() {
            "help" => return Ok(None),
            "listen" => listen = parser.value()?.string()?,
            "driver" => builder = builder.driver(value::<Driver>(&mut parser, &name)?),
            "workers" => builder = builder.workers(value(&mut parser, &name)?),
            "deflate" => deflate = compression(&parser.value()?.string()?)?,
            "deflate-level" => level = Some(value(&mut parser, &name)?),
            "tls-cert" => certificate = Some(PathBuf::from(parser.value()?)),
            "tls-key" => key = Some(PathBuf::from(parser.value()?)),
            "max-message" => max_message = value(&mut parser, &name)?,
            "max-backpressure" => max_backpressure = value(&mut parser, &name)?,
            "handshake-timeout-ms" => {
                builder = builder.handshake_timeout(millis(&mut parser, &name)?)
            }
            "idle-timeout-ms" => builder = builder.idle_timeout(millis(&mut parser, &name)?),
            "ping-interval-ms" => builder = builder.ping_interval(millis(&mut parser, &name)?),
            "busy-poll-us" => {
                builder = builder.busy_poll(Duration::from_micros(value(&mut parser, &name)?));
            }
            name => return Err(Arg::Long(name).unexpected()),
        }
    }
    let scheme = match (certificate, key) {
        (None, None) => "ws",
        (Some(certificate), Some(key)) => {
            let identity = Identity::from_files(certificate, key)
                .map_err(|error| format!("--tls-cert, --tls-key: {error}"))?;
            builder = builder.tls(identity);
            "wss"
        }
        _ => return Err("--tls-cert and --tls-key need each other".into()),
    };
    if let Some(level) = level {
        if !deflate.is_on() {
            return Err("--deflate-level needs --deflate shared or dedicated".into());
        }
        deflate = deflate.level(level);
    }
    builder = builder.deflate(deflate);
    // Conformance suites cut 4 MiB into 64-byte fragments and a final empty one.
    let limits = Limits::new().max_message(max_message).max_fragments(131_072);
    builder = builder.limits(limits).max_backpressure(max_backpressure);
    if listen == "systemd" {
        let inherited = BoundListener::inherited().map_err(|error| error.to_string())?;
        builder = inherited.into_iter().fold(builder, ServerBuilder::listen_on);
    } else {
        builder = builder.listen(listen);
    }
    Ok(Some((builder, scheme)))
}

/// The value of an option; an error names both.
fn value<T: FromStr>(parser: &mut Parser, name: &str) -> Result<T, lexopt::Error>
where
    T::Err: std::fmt::Display,
{
    let text = parser.value()?.string()?;
    text.parse().map_err(|error| format!("--{name} {text}: {error}").into())
}

fn millis(parser: &mut Parser, name: &str) -> Result<Duration, lexopt::Error> {
    Ok(Duration::from_millis(value(parser, name)?))
}

fn start(builder: ServerBuilder, scheme: &'static str) -> Result<(), wirelane::Error> {
    let server = builder
        .on_listening(move |addrs| {
            let mut stdout = std::io::stdout();
            let _ = writeln!(stdout, "listening on {scheme}://{}/", addrs[0]);
            let _ = stdout.flush();
        })
        .build()?;
    let handle = server.handle();
    let signals = [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT];
    if let Ok(mut signals) = signal_hook::iterator::Signals::new(signals) {
        std::thread::spawn(move || {
            for (count, _signal) in signals.forever().enumerate() {
                // Whoever asks twice does not want to wait.
                handle.shutdown(if count == 0 { GRACE } else { Duration::ZERO });
            }
        });
    }
    server.run()
}
