//! Client of the Autobahn test suite's fuzzing server, and the smallest complete example of how to
//! embed the sans-IO core: [`wirelane::protocol`] over one blocking `TcpStream`, no event loop.
//!
//! ```text
//!  socket --read--> Endpoint::receive --Event--> this program
//!         <-write-- out: Vec<u8> <-- Endpoint::send / pong / reply_close / fail
//! ```
//!
//! `autobahn_client --url ws://HOST:PORT --agent NAME` asks how many cases there are, runs each by
//! echoing what arrives, and tells the suite to write its report. It does not judge the results:
//! `tests/conformance/run` does. Status 0 when all cases ran, 1 when the suite went away, 2 for
//! wrong arguments.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

use wirelane::protocol::upgrade::ClientHandshake;
use wirelane::protocol::{BufferPool, Endpoint, Event, Limits, Message, State};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Bytes asked of the socket at a time.
const READ_SIZE: usize = 64 * 1024;
/// How long the server may take to close TCP once the close handshake is done.
const END_TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let (authority, agent) = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("autobahn_client: {error}");
            return ExitCode::from(2);
        }
    };
    match run_cases(&authority, &agent) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("autobahn_client: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<(String, String)> {
    let (mut url, mut agent) = (None, String::from("wirelane"));
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            lexopt::Arg::Long("url") => url = Some(parser.value()?.into_string()?),
            lexopt::Arg::Long("agent") => agent = parser.value()?.into_string()?,
            _ => return Err(argument.unexpected().into()),
        }
    }
    let url = url.ok_or("--url ws://HOST:PORT is missing")?;
    let authority = url.strip_prefix("ws://").ok_or("the URL must start with ws://")?;
    if !agent.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Err("the agent name becomes part of a URL: use letters, digits, - _ .".into());
    }
    Ok((authority.trim_end_matches('/').to_owned(), agent))
}

fn run_cases(authority: &str, agent: &str) -> Result<()> {
    let mut answer = String::new();
    Connection::open(authority, "/getCaseCount")?.run(|_, message, _| {
        answer = String::from_utf8_lossy(message.payload()).into_owned();
    })?;
    for case in 1..=answer.parse::<u32>()? {
        let target = format!("/runCase?case={case}&agent={agent}");
        let outcome = Connection::open(authority, &target)?.run(|endpoint, message, out| {
            // The endpoint refuses only when a Close was sent already, and then nobody listens.
            let _ = endpoint.send(message, out);
        });
        // The suite may drop the connection to end a case, and it knows best whether that is fine.
        if let Err(error) = outcome {
            eprintln!("case {case}: {error}");
        }
    }
    Connection::open(authority, &format!("/updateReports?agent={agent}"))?.run(|_, _, _| {})
}

/// A WebSocket connection after its opening handshake.
struct Connection {
    stream: TcpStream,
    endpoint: Endpoint,
    pool: BufferPool,
    /// What was read: the first `filled` bytes are still to be handed to the endpoint.
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    /// Connects and performs the opening handshake (RFC 6455 4.1).
    fn open(authority: &str, target: &str) -> Result<Self> {
        let mut stream = TcpStream::connect(authority)?;
        stream.set_nodelay(true)?;
        let limits = Limits::new().max_message(64 * 1024 * 1024);

        // RFC 6455 10.3: nonce and masking keys come from a strong source of entropy.
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce)?;
        let mut handshake = ClientHandshake::new(nonce);
        let mut request = Vec::new();
        handshake.write_request(authority, target, &[], &[], &mut request)?;
        stream.write_all(&request)?;

        let mut buffer = vec![0; READ_SIZE];
        let mut filled = 0;
        let established = loop {
            let count = stream.read(&mut buffer[filled..])?;
            filled += count;
            if let Some(established) = handshake.read_response(&buffer[..filled], &limits)? {
                break established;
            }
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        };
        // The first frames may have come together with the response.
        buffer.copy_within(established.head_len..filled, 0);
        filled -= established.head_len;

        let endpoint = Endpoint::client(limits, Box::new(masking_key));
        Ok(Self { stream, endpoint, pool: BufferPool::new(READ_SIZE), buffer, filled })
    }

    /// Hands every message to `on_message` until the connection is closed.
    fn run(
        mut self,
        mut on_message: impl FnMut(&mut Endpoint, Message<'_>, &mut Vec<u8>),
    ) -> Result<()> {
        let mut out = Vec::new();
        loop {
            self.receive(&mut on_message, &mut out);
            self.stream.write_all(&out)?;
            out.clear();
            if matches!(self.endpoint.state(), State::Closed | State::Failed(_)) {
                break;
            }
            self.filled = self.stream.read(&mut self.buffer)?;
            if self.filled == 0 {
                return Ok(());
            }
        }
        // RFC 6455 7.1.1: the server closes TCP first; what it still sends is of no interest.
        self.stream.set_read_timeout(Some(END_TIMEOUT))?;
        while self.stream.read(&mut self.buffer)? > 0 {}
        Ok(())
    }

    /// Feeds the bytes that were read to the endpoint, and answers each event into `out`.
    fn receive(
        &mut self,
        on_message: &mut impl FnMut(&mut Endpoint, Message<'_>, &mut Vec<u8>),
        out: &mut Vec<u8>,
    ) {
        let (endpoint, pool) = (&mut self.endpoint, &mut self.pool);
        let mut input = &mut self.buffer[..self.filled];
        loop {
            match endpoint.receive(&mut input, pool) {
                Ok(Some(Event::Text(text))) => {
                    on_message(endpoint, Message::Text(text.as_str()), out);
                    text.recycle(pool);
                }
                Ok(Some(Event::Binary(bytes))) => {
                    on_message(endpoint, Message::Binary(bytes.as_slice()), out);
                    bytes.recycle(pool);
                }
                Ok(Some(Event::Ping(payload))) => {
                    // Refused only after our own Close: then RFC 6455 5.5.2 asks for no Pong.
                    let _ = endpoint.pong(payload.as_slice(), out);
                    payload.recycle(pool);
                }
                Ok(Some(Event::Pong(payload))) => payload.recycle(pool),
                Ok(Some(Event::Close(_))) => {
                    endpoint.reply_close(out);
                    return;
                }
                Ok(None) => return,
                Err(error) => {
                    endpoint.fail(error, out);
                    return;
                }
            }
        }
    }
}

/// A fresh masking key for each frame (RFC 6455 5.3).
fn masking_key() -> [u8; 4] {
    let mut key = [0; 4];
    getrandom::fill(&mut key).expect("the kernel provides random bytes");
    key
}
