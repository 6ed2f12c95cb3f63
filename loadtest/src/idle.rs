//! Mode `idle`: opens many connections, lets them idle, and reads how much memory the server grew.

use std::time::{Duration, Instant};

use mio::Poll;

use crate::args;
use crate::batch::Batch;
use crate::dial::Dialer;
use crate::engine::Engine;
use crate::failure::{Context, Failure};
use crate::process::{self, Memory};
use crate::progress::Progress;

/// An echo of the server, or its answer to a close, comes within this time.
const PATIENCE: Duration = Duration::from_secs(5);

/// Memory of the server at three moments.
#[derive(Debug)]
pub(crate) struct Figures {
    /// After one connection came and went, with no connection open.
    pub(crate) before: Memory,
    /// With all connections open and idle.
    pub(crate) open: Memory,
    /// After all were closed again.
    pub(crate) after: Memory,
}

/// Runs the mode.
///
/// # Errors
///
/// A refused connection or handshake, a wrong or missing echo, a connection that did not stay
/// open, or a server process that may not be read.
pub(crate) fn run(options: &args::Idle, progress: &mut Progress) -> Result<Figures, Failure> {
    let subject = &options.subject;
    let pid = subject.server_pid.ok_or_else(|| Failure::new("mode idle needs --server-pid"))?;
    if let Some(cpu) = subject.pin {
        process::pin(cpu)?;
    }
    process::allow_descriptors(options.connections)?;
    let size = options.echo.unwrap_or(0);
    let batch = Batch::for_target(&subject.target, options.content, size, 1)?;
    let mut dialer = Dialer::new(&subject.target)?;

    // The first connection makes a server allocate what all later ones share.
    open(&mut dialer, 1, options, &batch, progress)?.close(PATIENCE)?;
    std::thread::sleep(options.hold);
    let before = Memory::of(pid)?;

    let mut engine = open(&mut dialer, options.connections, options, &batch, progress)?;
    // Pings are answered meanwhile, and a connection that ends is noticed.
    engine.run_until(Instant::now() + options.hold, |_| {
        progress.show(|| format!("{} connections are idle", options.connections));
    })?;
    let open = Memory::of(pid)?;

    engine.close(PATIENCE)?;
    std::thread::sleep(options.hold);
    let after = Memory::of(pid)?;
    Ok(Figures { before, open, after })
}

/// Opens connections and, if asked to, exchanges one message on each.
fn open<'b>(
    dialer: &mut Dialer<'_>,
    count: usize,
    options: &args::Idle,
    batch: &'b Batch,
    progress: &mut Progress,
) -> Result<Engine<'b>, Failure> {
    let mut poll = Poll::new().context(|| "no epoll instance")?;
    let opened = dialer.open_all(&mut poll, count, options.concurrency, progress)?;
    let mut engine = Engine::new(poll, opened, batch, true)?;
    if options.echo.is_some() {
        engine.set_refilling(false);
        engine.fill()?;
        engine.drain(PATIENCE)?;
    }
    Ok(engine)
}
