//! Client of the Autobahn test suite's fuzzing server, and the smallest complete example of how to
//! embed the sans-IO core: [`wirelane::protocol`] over one blocking `TcpStream`, no event loop.
//!
//! ```text
//!  socket --read--> Endpoint::receive --Event--> this program
//!         <-write-- out: Vec<u8> <-- Endpoint::send / pong / reply_close / fail
//! ```
//!
//! `autobahn_client --url ws://HOST:PORT --agent NAME` asks how many cases there are, runs each by
//! echoing what arrives, and has the suite write its report; `tests/conformance/run` judges that.
//! Status 0 when all cases ran, 2 for wrong arguments, otherwise 1.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

use lexopt::{Arg, ValueExt};
use wirelane::protocol::upgrade::ClientHandshake;
use wirelane::protocol::{BufferPool, Endpoint, Event, Limits, Message, State};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const READ_SIZE: usize = 64 * 1024; // bytes asked of the socket at a time

const USAGE: &str = "\
options:
  --url ws://HOST:PORT        the fuzzing server, needed
  --agent NAME                name in its report             [wirelane]
";

fn main() -> ExitCode {
    let (authority, agent) = match parse(lexopt::Parser::from_env()) {
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
    match run_cases(&authority, &agent) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// `HOST:PORT` and the agent's name; `None` if only help was asked for.
fn parse(
    mut parser: lexopt::Parser,
) -> std::result::Result<Option<(String, String)>, lexopt::Error> {
    let (mut authority, mut agent) = (None, String::from("wirelane"));
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            Arg::Long("url") => {
                let url = parser.value()?.string()?;
                let rest = url.strip_prefix("ws://").ok_or("--url: write ws://HOST:PORT")?;
                authority = Some(rest.trim_end_matches('/').to_owned());
            }
            Arg::Long("agent") => agent = parser.value()?.string()?,
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Some((authority.ok_or("needs --url ws://HOST:PORT")?, agent)))
}

fn run_cases(authority: &str, agent: &str) -> Result<()> {
    let mut count = Vec::new();
    let connection = Connection::open(authority, "/getCaseCount")?;
    connection.run(|_, message, _| count = message.payload().to_vec())?;
    for case in 1..=String::from_utf8(count)?.parse::<u32>()? {
        let target = format!("/runCase?case={case}&agent={agent}");
        let outcome = Connection::open(authority, &target)?.run(|endpoint, message, out| {
            let _ = endpoint.send(message, out); // refused only after a Close: nobody waits then
        });
        // The suite ends some cases by dropping TCP; it knows whether that is fine.
        if let Err(error) = outcome {
            eprintln!("case {case}: {error}");
        }
    }
    Ok(Connection::open(authority, &format!("/updateReports?agent={agent}"))?.run(|_, _, _| {})?)
}

/// A WebSocket connection after its opening handshake.
struct Connection {
    stream: TcpStream,
    endpoint: Endpoint,
    pool: BufferPool,
    /// What was read; the first `filled` bytes are still to be handed to the endpoint.
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    /// Connects and performs the opening handshake (RFC 6455 4.1).
    fn open(authority: &str, target: &str) -> Result<Self> {
        // The suite's largest messages; 9.3.1 is 4 MiB in 65,536 fragments and an empty last one.
        let limits = Limits::new().max_message(16 * 1024 * 1024).max_fragments(128 * 1024);
        let mut handshake = ClientHandshake::new(random()); // RFC 6455 4.1: a fresh nonce
        let mut request = Vec::new();
        handshake.write_request(authority, target, &[], &[], &mut request)?;
        let mut stream = TcpStream::connect(authority)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?; // longer than any case is silent
        stream.write_all(&request)?;

        let (mut buffer, mut filled) = (vec![0; READ_SIZE], 0);
        let established = loop {
            if let Some(established) = handshake.read_response(&buffer[..filled], &limits)? {
                break established;
            }
            match stream.read(&mut buffer[filled..])? {
                0 => return Err("the connection ended inside the opening handshake".into()),
                count => filled += count,
            }
        };
        // The first frames may have come together with the response.
        buffer.copy_within(established.head_len..filled, 0);
        filled -= established.head_len;
        // RFC 6455 5.3: every frame gets a fresh masking key.
        let endpoint = Endpoint::client(limits, Box::new(random));
        Ok(Self { stream, endpoint, pool: BufferPool::new(READ_SIZE), buffer, filled })
    }

    /// Hands every message to `on_message`, with the means to answer it, until the end.
    fn run(
        mut self,
        mut on_message: impl FnMut(&mut Endpoint, Message<'_>, &mut Vec<u8>),
    ) -> io::Result<()> {
        let (endpoint, pool) = (&mut self.endpoint, &mut self.pool);
        let mut out = Vec::new();
        loop {
            let mut input = &mut self.buffer[..self.filled];
            loop {
                match endpoint.receive(&mut input, pool) {
                    Ok(Some(Event::Text(text))) => {
                        on_message(endpoint, Message::Text(text.as_str()), &mut out);
                        text.recycle(pool);
                    }
                    Ok(Some(Event::Binary(bytes))) => {
                        on_message(endpoint, Message::Binary(bytes.as_slice()), &mut out);
                        bytes.recycle(pool);
                    }
                    Ok(Some(Event::Ping(payload))) => {
                        // RFC 6455 5.5.2: no Pong is due after a Close, and none is written.
                        let _ = endpoint.pong(payload.as_slice(), &mut out);
                        payload.recycle(pool);
                    }
                    Ok(Some(Event::Pong(payload))) => payload.recycle(pool),
                    Ok(Some(Event::Close(_))) => _ = endpoint.reply_close(&mut out),
                    Err(error) => _ = endpoint.fail(error, &mut out),
                    Ok(None) => break,
                }
            }
            self.stream.write_all(&out)?;
            out.clear();
            if matches!(endpoint.state(), State::Closed | State::Failed(_)) {
                break;
            }
            self.filled = self.stream.read(&mut self.buffer)?;
            if self.filled == 0 {
                break;
            }
        }
        // RFC 6455 7.1.1: the server ends TCP first, in whichever way; what it sends is ignored.
        while self.stream.read(&mut self.buffer).is_ok_and(|count| count > 0) {}
        Ok(())
    }
}

/// Bytes that nobody can guess (RFC 6455 10.3).
fn random<const LEN: usize>() -> [u8; LEN] {
    let mut bytes = [0; LEN];
    getrandom::fill(&mut bytes).expect("the kernel has random bytes");
    bytes
}
