//! An echo over TLS, a plain port next to it that sends everybody there, and certificates that are
//! exchanged on SIGHUP while connections go on.
//!
//! `cargo run --release --example tls_redirect -- --tls-cert FILE --tls-key FILE`, then open
//! <http://127.0.0.1:9080/>.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use lexopt::{Arg, Parser, ValueExt};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use wirelane::tls::Identity;
use wirelane::{Handler, Message, Request, Response, Server, WebSocket};

const USAGE: &str = "\
tls_redirect [options] --tls-cert FILE --tls-key FILE

options:
  --listen ADDR           where TLS is spoken                      [127.0.0.1:9443]
  --plain ADDR            where everybody is sent to the former    [127.0.0.1:9080]

SIGHUP reads both files again.
";

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        ws.send(message);
    }
}

struct Options {
    listen: String,
    plain: String,
    certificate: PathBuf,
    key: PathBuf,
}

fn main() -> ExitCode {
    let options = match parse(Parser::from_env()) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let served = serve(options).inspect_err(|error| eprintln!("{error}"));
    if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(mut parser: Parser) -> Result<Options, lexopt::Error> {
    let (mut listen, mut plain) = ("127.0.0.1:9443".to_owned(), "127.0.0.1:9080".to_owned());
    let (mut certificate, mut key) = (None, None);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("listen") => listen = parser.value()?.string()?,
            Arg::Long("plain") => plain = parser.value()?.string()?,
            Arg::Long("tls-cert") => certificate = Some(parser.value()?.into()),
            Arg::Long("tls-key") => key = Some(parser.value()?.into()),
            _ => return Err(arg.unexpected()),
        }
    }
    let certificate = certificate.ok_or("--tls-cert is missing")?;
    Ok(Options { listen, plain, certificate, key: key.ok_or("--tls-key is missing")? })
}

fn serve(options: Options) -> Result<(), Box<dyn std::error::Error>> {
    let identity = Identity::from_files(&options.certificate, &options.key)?;
    let secure = Server::builder().listen(&options.listen[..]).tls(identity);
    let secure = secure.get("/", |_| Response::text("over TLS\n")).websocket("/", |_| Echo);
    let secure = secure
        .on_listening(|addrs| {
            let mut stdout = std::io::stdout();
            let _ = writeln!(stdout, "listening on wss://{}/", addrs[0]);
            let _ = stdout.flush();
        })
        .build()?;
    let port = secure.local_addrs()[0].socket_addr().ok_or("TLS needs a TCP port")?.port();
    let plain = Server::builder().listen(&options.plain[..]);
    let plain = plain.get("/*", move |request| redirect(request, port)).build()?;

    let handles = [secure.handle(), plain.handle()];
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGTERM, SIGINT])?;
    thread::spawn(move || {
        for signal in signals.forever() {
            if signal != SIGHUP {
                handles.iter().for_each(|handle| handle.shutdown(Duration::from_secs(3)));
                continue;
            }
            let identity = Identity::from_files(&options.certificate, &options.key);
            // With files that are no good the server goes on with what it has.
            if let Err(error) = identity.and_then(|identity| handles[0].reload_tls(identity)) {
                eprintln!("not reloaded: {error}");
            }
        }
    });
    let plain = thread::spawn(move || plain.run());
    secure.run()?;
    Ok(plain.join().expect("a server does not panic")?)
}

/// The same page over TLS, for good (RFC 9110 15.4.9).
fn redirect(request: &Request<'_>, port: u16) -> Response {
    let host = request.host().unwrap_or("localhost");
    let name = match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    };
    let query = request.query().map(|query| format!("?{query}")).unwrap_or_default();
    let url = format!("https://{name}:{port}{}{query}", request.path());
    Response::new(308).header("Location", url)
}
