//! Mode `idle`: opens many connections, lets them idle, and reads how much memory the server grew.

use std::time::{Duration, Instant};

use mio::Poll;

use crate::args;
use crate::batch::Batch;
use crate::dial::Dialer;
use crate::engine::{Engine, PATIENCE};
use crate::failure::{Context, Failure};
use crate::plot::{Axis, Chart, Picture, Series};
use crate::process::{self, Memory};
use crate::progress::Progress;
use crate::report::per_connection;

/// Memory of the server at its moments.
#[derive(Debug)]
pub(crate) struct Figures {
    /// After one connection came and went, with no connection open.
    pub(crate) before: Memory,
    /// With so many connections open and idle, in ascending order.
    pub(crate) open: Vec<(usize, Memory)>,
    /// After one echo on each of them, if asked for.
    pub(crate) used: Option<Memory>,
    /// After all were closed again.
    pub(crate) after: Memory,
}

impl Figures {
    /// The largest number of connections, and the memory at that moment.
    pub(crate) fn most(&self) -> (usize, Memory) {
        self.open.last().copied().unwrap_or((0, self.before))
    }
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
    process::allow_descriptors(options.connections.iter().copied().max().unwrap_or(1))?;
    let size = options.echo.unwrap_or(0);
    let batch = Batch::for_target(&subject.target, options.content, size, 1)?;
    let mut dialer = Dialer::new(&subject.target)?;

    // The first connection makes a server allocate what all later ones share.
    let mut first = open(&mut dialer, 1, options, &batch, progress)?;
    if options.echo.is_some() {
        exchange(&mut first)?;
    }
    first.close(PATIENCE)?;
    std::thread::sleep(options.hold);
    let before = Memory::of(pid)?;

    let mut engines: Vec<Engine<'_>> = Vec::new();
    let (mut count, mut steps) = (0, Vec::new());
    for &connections in &options.connections {
        engines.push(open(&mut dialer, connections - count, options, &batch, progress)?);
        count = connections;
        hold(&mut engines, options.hold, || {
            progress.show(|| format!("{connections} connections are idle"));
        })?;
        steps.push((connections, Memory::of(pid)?));
    }
    let mut used = None;
    if options.echo.is_some() {
        engines.iter_mut().try_for_each(exchange)?;
        hold(&mut engines, options.hold, || {
            progress.show(|| format!("{count} connections are idle again"));
        })?;
        used = Some(Memory::of(pid)?);
    }
    for engine in engines {
        engine.close(PATIENCE)?;
    }
    std::thread::sleep(options.hold);
    let after = Memory::of(pid)?;
    Ok(Figures { before, open: steps, used, after })
}

/// Memory per connection by their number.
pub(crate) fn picture(figures: &Figures) -> Picture {
    let mut points: Vec<(f64, f64)> = Vec::new();
    for (connections, memory) in &figures.open {
        let bytes = per_connection(*memory, figures.before, *connections, |it| it.private_dirty);
        points.push((*connections as f64, bytes.max(1.0)));
    }
    Picture::Lines(Chart {
        title: "Private memory of the server per idle connection".to_owned(),
        x_label: "connections".to_owned(),
        y_label: "bytes".to_owned(),
        x_axis: Axis::Logarithmic,
        series: vec![Series { name: "server".to_owned(), points }],
    })
}

/// Lets time pass. Pings are answered meanwhile, and a connection that ends is noticed.
fn hold(engines: &mut [Engine<'_>], time: Duration, mut tick: impl FnMut()) -> Result<(), Failure> {
    const TURN: Duration = Duration::from_millis(5);
    let deadline = Instant::now() + time;
    while Instant::now() < deadline {
        for engine in &mut *engines {
            engine.run_until(Instant::now() + TURN, |_| {})?;
        }
        tick();
    }
    Ok(())
}

/// One message and its echo on each connection.
fn exchange(engine: &mut Engine<'_>) -> Result<(), Failure> {
    engine.set_refilling(false);
    engine.fill()?;
    engine.drain(PATIENCE)
}

fn open<'b>(
    dialer: &mut Dialer<'_>,
    count: usize,
    options: &args::Idle,
    batch: &'b Batch,
    progress: &mut Progress,
) -> Result<Engine<'b>, Failure> {
    let mut poll = Poll::new().context(|| "no epoll instance")?;
    let opened = dialer.open_all(&mut poll, count, options.concurrency, progress)?;
    Engine::new(poll, opened, batch, true)
}
