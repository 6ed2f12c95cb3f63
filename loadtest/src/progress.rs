//! The progress line: short sentences in, at most five of them a second out, on one line of stderr.
//! Writes nothing unless stderr is a terminal.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(200);

/// A line that replaces itself, and disappears when dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    /// When the next line is due; never, without a terminal.
    due: Option<Instant>,
    shown: bool,
}

impl Progress {
    /// With `quiet`, or without a terminal, nothing is ever shown.
    pub(crate) fn new(quiet: bool) -> Self {
        let due = (!quiet && stderr().is_terminal()).then(Instant::now);
        Self { due, shown: false }
    }

    /// Shows the sentence if one is due; otherwise it is not even made.
    pub(crate) fn show(&mut self, sentence: impl FnOnce() -> String) {
        let Some(due) = self.due else { return };
        let now = Instant::now();
        if now < due {
            return;
        }
        // A progress line that cannot be written is no reason to stop.
        let _ = write!(stderr(), "\r\x1b[K{}", sentence());
        let _ = stderr().flush();
        self.due = Some(now + INTERVAL);
        self.shown = true;
    }

    /// Says something that stays, if anything is shown at all.
    pub(crate) fn note(&mut self, sentence: impl FnOnce() -> String) {
        if self.due.is_some() {
            self.clear();
            let _ = writeln!(stderr(), "{}", sentence());
        }
    }

    /// Removes the line, so that other output starts at the left.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(stderr(), "\r\x1b[K");
            let _ = stderr().flush();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// `part` of `whole` as a bar of twenty characters.
pub(crate) fn bar(part: Duration, whole: Duration) -> String {
    const WIDTH: usize = 20;
    let share = if whole.is_zero() { 1.0 } else { part.div_duration_f64(whole).min(1.0) };
    let filled = (share * WIDTH as f64) as usize;
    format!("[{:<WIDTH$}] {:3.0} %", "#".repeat(filled), share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_fill_up() {
        let second = Duration::from_secs(1);
        assert_eq!(bar(Duration::ZERO, second), "[                    ]   0 %");
        assert_eq!(bar(second / 2, second), "[##########          ]  50 %");
        assert_eq!(bar(second * 3, second), "[####################] 100 %");
        assert_eq!(bar(second, Duration::ZERO), "[####################] 100 %");
    }

    #[test]
    fn a_quiet_line_never_asks_for_its_sentence() {
        let mut progress = Progress::new(true);
        progress.show(|| panic!("asked"));
        progress.clear();
        assert!(!progress.shown);
    }
}
