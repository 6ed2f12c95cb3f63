//! A server started for a run: a program and a CPU in, a URL and a process id out.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::failure::{Context, Failure};

/// A server says that it listens, and ends after SIGTERM, within this time.
const PATIENCE: Duration = Duration::from_secs(6);

/// A server of our own. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    url: String,
}

impl Server {
    /// Starts a program with taskset(1) on one CPU and waits for the line `listening on URL`. The
    /// program is told to take a port of the kernel's choice.
    ///
    /// # Errors
    ///
    /// The program cannot be run, or does not say where it listens.
    pub(crate) fn start(words: &[OsString], cpu: usize) -> Result<Self, Failure> {
        let mut child = Command::new("taskset")
            .args(["-c", &cpu.to_string()])
            .args(words)
            .args(["--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context(|| "cannot run taskset")?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        // From here on, the child is killed if anything goes wrong.
        let mut server = Self { child, url: String::new() };
        let (sender, receiver) = mpsc::channel();
        let (complaint, complaints) = mpsc::channel();
        std::thread::spawn(move || {
            let Some(stdout) = stdout else { return };
            let mut stdout = BufReader::new(stdout);
            let mut line = String::new();
            // Whatever goes wrong here shows as a line that is not the expected one.
            let _ = stdout.read_line(&mut line);
            let _ = sender.send(line);
            // A server that says more must not block on a full pipe.
            let _ = stdout.read_to_end(&mut Vec::new());
        });
        std::thread::spawn(move || {
            let Some(stderr) = stderr else { return };
            let mut stderr = BufReader::new(stderr);
            let mut line = String::new();
            let _ = stderr.read_line(&mut line);
            let _ = complaint.send(line);
            let _ = stderr.read_to_end(&mut Vec::new());
        });
        let line = receiver.recv_timeout(PATIENCE).unwrap_or_default();
        let Some(url) = line.trim_end().strip_prefix("listening on ") else {
            let _ = server.child.kill();
            let said = complaints.recv_timeout(PATIENCE).unwrap_or_default();
            let program = words.first().map(|word| word.display().to_string()).unwrap_or_default();
            let said = if said.trim().is_empty() { "nothing" } else { said.trim() };
            return Err(Failure::new(format!(
                "{program} does not say where it listens; it said: {said}"
            )));
        };
        url.clone_into(&mut server.url);
        Ok(server)
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it with SIGTERM and waits for that.
    ///
    /// # Errors
    ///
    /// It ends with another status than 0, or not at all.
    pub(crate) fn stop(mut self) -> Result<(), Failure> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM).context(|| "cannot stop the server")?;
        }
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.child.try_wait().context(|| "cannot await the server")? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(Failure::new(format!("the server ended: {status}"))),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        Err(Failure::new("the server ignores SIGTERM"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After a regular end, both do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_listen_is_a_failure() {
        let error = Server::start(&["/bin/echo".into()], 0).unwrap_err();
        assert!(error.to_string().contains("does not say where it listens"), "{error}");
        let words = ["/bin/sh".into(), "-c".into(), "echo no port >&2".into()];
        let error = Server::start(&words, 0).unwrap_err().to_string();
        assert!(error.contains("it said: no port"), "{error}");
    }
}
