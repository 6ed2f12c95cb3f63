//! The load of a cell: a cell and a server in, open connections that can be driven out.

use mio::Poll;

use crate::args::Traffic;
use crate::batch::Batch;
use crate::compare::cell::{Cell, Task};
use crate::connect::Churn;
use crate::dial::{Dialer, MODEST_CONCURRENCY};
use crate::engine::Engine;
use crate::failure::{Context, Failure};
use crate::fanout::Fan;
use crate::load::Load;
use crate::pace::Pace;
use crate::progress::Progress;
use crate::target::Target;

/// Opens the connections of a cell.
pub(crate) fn open<'b>(
    cell: &Cell,
    target: &'b Target,
    batch: &'b Batch,
    progress: &mut Progress,
) -> Result<Box<dyn Load + 'b>, Failure> {
    if cell.task == Task::Connect {
        return Ok(Box::new(Churn::new(target, cell.connections, false)?));
    }
    if matches!(cell.task, Task::Echo | Task::Calls | Task::Idle) {
        return Ok(Box::new(open_echo(cell, target, batch, progress)?));
    }
    let mut poll = Poll::new().context(|| "no epoll instance")?;
    let mut dialer = Dialer::new(target)?;
    let opened = dialer.open_all(&mut poll, cell.connections, MODEST_CONCURRENCY, progress)?;
    Ok(match cell.task {
        Task::Latency(rate) => Box::new(Pace::new(poll, opened, batch, false, rate)?),
        Task::Threads => {
            Box::new(Fan::new(poll, opened, batch, false, Traffic::Broadcast, cell.depth)?)
        }
        task => {
            let traffic = if task == Task::Relay { Traffic::Relay } else { Traffic::Broadcast };
            let fan = Fan::new(poll, opened, batch, false, traffic, 1)?;
            Box::new(fan.with_depth(cell.depth))
        }
    })
}

pub(crate) fn open_echo<'b>(
    cell: &Cell,
    target: &Target,
    batch: &'b Batch,
    progress: &mut Progress,
) -> Result<Engine<'b>, Failure> {
    let mut poll = Poll::new().context(|| "no epoll instance")?;
    let mut dialer = Dialer::new(target)?;
    let opened = dialer.open_all(&mut poll, cell.connections, MODEST_CONCURRENCY, progress)?;
    Ok(Engine::new(poll, opened, batch, false)?.with_window(cell.depth))
}
