//! Memory per connection and per subscription, one server after the other.

use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::compare::bench::Bench;
use crate::compare::cell::{Cell, TOPICS, Task};
use crate::compare::loads::open_echo;
use crate::compare::sample::{Figure, Round, Sample};
use crate::dial::MODEST_CONCURRENCY;
use crate::engine::PATIENCE;
use crate::failure::Failure;
use crate::process::Memory;
use crate::progress::Progress;

impl Bench<'_> {
    /// Memory per connection, one server after the other.
    pub(crate) fn idle(&mut self, label: &str, progress: &mut Progress) {
        let mut samples: Round = vec![None; self.result.absent.len()];
        for number in self.present() {
            progress.show(|| label.to_owned());
            match self.idle_of(number, progress) {
                Ok(sample) => samples[number] = Some(sample),
                Err(reason) => self.exclude(number, &reason),
            }
        }
        self.result.rounds.push(samples);
    }

    fn idle_of(&self, number: usize, progress: &mut Progress) -> Result<Sample, Failure> {
        /// For a server that gives memory back a little later.
        const HOLD: Duration = Duration::from_millis(300);
        let cell = self.result.cell;
        let (target, pid) = self.place(number)?;
        let batch = Batch::for_target(&target, cell.content, cell.size, 1)?;
        // The first connections make a server allocate what all later ones share.
        let first = Cell { connections: MODEST_CONCURRENCY, ..cell };
        let mut load = open_echo(&first, &target, &batch, progress)?;
        load.fill()?;
        load.drain(PATIENCE)?;
        load.abandon();
        std::thread::sleep(HOLD);
        let before = Memory::of(pid)?;
        let mut load = open_echo(&cell, &target, &batch, progress)?;
        load.run_until(Instant::now() + HOLD, |_| {})?;
        let fresh = Memory::of(pid)?;
        load.fill()?;
        load.drain(PATIENCE)?;
        load.run_until(Instant::now() + HOLD, |_| {})?;
        let used = Memory::of(pid)?;
        if cell.task == Task::Subscriptions {
            // With the second message, every connection subscribes.
            load.fill()?;
            load.drain(PATIENCE)?;
            load.run_until(Instant::now() + HOLD, |_| {})?;
            let grown = Memory::of(pid)?.private_dirty as f64 - used.private_dirty as f64;
            let bytes = grown / (cell.connections * TOPICS) as f64;
            let figures = vec![(Figure::SubscriptionBytes, bytes)];
            return Ok(Sample { figures, ..Sample::default() });
        }
        load.abandon();
        let per_connection = |now: Memory| {
            (now.private_dirty as f64 - before.private_dirty as f64) / cell.connections as f64
        };
        let figures = vec![
            (Figure::FreshBytes, per_connection(fresh)),
            (Figure::UsedBytes, per_connection(used)),
        ];
        Ok(Sample { figures, ..Sample::default() })
    }
}
