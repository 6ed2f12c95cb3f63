//! What every kind of load has in common, so that windows can be measured in turn.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::engine::Counters;
use crate::failure::Failure;
use crate::watch::{Observed, Watch};

/// A load that goes on until it is told to stop.
pub(crate) trait Load {
    /// What was done so far.
    fn counters(&self) -> Counters;

    /// Puts the first messages under way, at the start and after [`Load::rest`].
    ///
    /// # Errors
    ///
    /// A connection is gone.
    fn resume(&mut self) -> Result<(), Failure>;

    /// Goes on until `deadline`, and calls `tick` now and then.
    ///
    /// # Errors
    ///
    /// The load could not go on.
    fn run_until(
        &mut self,
        deadline: Instant,
        tick: &mut dyn FnMut(&Counters),
    ) -> Result<(), Failure>;

    /// Waits for everything under way and sends nothing new, so that the server sleeps.
    ///
    /// # Errors
    ///
    /// Something never came back.
    fn rest(&mut self) -> Result<(), Failure>;

    /// Whether times go into the histogram; not at first.
    fn set_recording(&mut self, recording: bool);

    /// The times recorded so far, in nanoseconds.
    fn latency(&self) -> &Histogram<u64>;
}

/// One measured window between two rests: the server sleeps before and after it, so that its CPU
/// time is exact, and everything that was sent in the window also came back in it.
///
/// # Errors
///
/// The load or the server failed.
pub(crate) fn window(
    load: &mut dyn Load,
    server_pid: u32,
    length: Duration,
) -> Result<(Observed, Counters), Failure> {
    let before = load.counters();
    let watch = Watch::begin(Some(server_pid))?;
    load.resume()?;
    load.run_until(watch.began() + length, &mut |_| {})?;
    load.rest()?;
    let observed = watch.end()?;
    Ok((observed, load.counters().since(&before)))
}
