//! An example program in a process of its own: its command line, its output, its figures.
//!
//! In: a name and arguments. Out: a program that has said where it listens, and what /proc knows
//! about it. Nobody reads its stderr while it runs, so a program that talks too much stops here.
//! No process outlives its test.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use wirelane::Driver;

use super::{PATIENCE, Peer};

/// A program that was told to end does so within this time. It promises 5 s; the rest is for
/// machines that are busy elsewhere.
pub const END: Duration = Duration::from_secs(15);

/// A running example, killed when dropped.
pub struct Program {
    child: Child,
    lines: Receiver<String>,
    /// What the ready line says after `ws://` or `wss://`.
    pub address: String,
    /// Which of the two it is.
    pub scheme: String,
}

impl Program {
    /// Starts an example on a free port and waits until it listens.
    pub fn start(name: &str, driver: Driver, args: &[&str]) -> Program {
        let driver = driver.to_string();
        let mut command = command(name);
        command.args(["--listen", "127.0.0.1:0", "--driver", &driver]).args(args);
        Program::spawn(command)
    }

    /// Starts what [`command`] made and waits until it listens.
    pub fn spawn(mut command: Command) -> Program {
        let mut child = command.spawn().expect("the program can be executed");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines() {
                if sender.send(line.expect("UTF-8")).is_err() {
                    break;
                }
            }
        });
        let (address, scheme) = (String::new(), String::new());
        let mut program = Program { child, lines, address, scheme };
        let Ok(line) = program.lines.recv_timeout(PATIENCE) else {
            panic!("the program does not start: {}", program.kill());
        };
        let url = line.strip_prefix("listening on ").and_then(|l| l.strip_suffix('/'));
        let parts = url.and_then(|url| url.split_once("://"));
        let (scheme, address) = parts.unwrap_or_else(|| panic!("no ready line: {line:?}"));
        assert!(matches!(scheme, "ws" | "wss"), "no ready line: {line:?}");
        (program.scheme, program.address) = (scheme.to_owned(), address.to_owned());
        program
    }

    pub fn addr(&self) -> SocketAddr {
        self.address.parse().expect("a TCP address")
    }

    pub fn connect(&self) -> Peer {
        Peer::connect(self.addr())
    }

    /// A peer whose opening handshake is done.
    pub fn open(&self) -> Peer {
        let mut peer = self.connect();
        peer.handshake("/");
        peer
    }

    /// Sends a signal; the time of it.
    pub fn signal(&self, signal: i32) -> Instant {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        // SAFETY: a plain system call; the process was not waited for, so the id is still its own.
        let result = unsafe { libc::kill(pid, signal) };
        assert_eq!(result, 0, "kill({pid}, {signal})");
        Instant::now()
    }

    /// Waits for the end: with status 0, in time after the signal, and stdout was the ready line
    /// only.
    pub fn expect_end(mut self, signalled: Instant, limit: Duration) {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(signalled.elapsed() < limit, "still running; stderr: {}", self.kill());
            thread::sleep(Duration::from_millis(5));
        };
        assert!(status.success(), "{status}; stderr: {}", self.kill());
        let rest: Vec<String> = self.lines.iter().collect();
        assert!(rest.is_empty(), "more than one line: {rest:?}");
    }

    /// Ends the program by SIGTERM, as promised. It waits for peers that are still there.
    pub fn stop(self) {
        let signalled = self.signal(libc::SIGTERM);
        self.expect_end(signalled, END);
    }

    /// Ends the program at once; what it wrote on stderr.
    fn kill(&mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut text = Vec::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = stderr.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.child.id().to_string()).join(name)
    }

    /// Open descriptors below this number. Whoever started the tests may have handed down higher
    /// ones, which no limit takes away.
    pub fn descriptors_below(&self, limit: usize) -> usize {
        let names = fs::read_dir(self.proc("fd")).expect("procfs").flatten();
        let numbers = names.filter_map(|entry| entry.file_name().to_str()?.parse::<usize>().ok());
        numbers.filter(|number| *number < limit).count()
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        self.descriptors_below(usize::MAX)
    }

    /// Waits until no more than `count` descriptors are open.
    pub fn wait_for_descriptors(&self, count: usize) {
        let start = Instant::now();
        while self.descriptors() > count {
            let now = self.descriptors();
            assert!(start.elapsed() < PATIENCE, "{now} descriptors, not {count}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> usize {
        let rollup = fs::read_to_string(self.proc("smaps_rollup")).expect("procfs");
        let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
    }

    /// CPU time used so far, in user space and kernel.
    pub fn cpu_time(&self) -> Duration {
        cpu_time(&self.proc("stat"))
    }

    /// How many threads are workers.
    pub fn workers(&self) -> usize {
        let tasks = fs::read_dir(self.proc("task")).expect("procfs");
        // A thread that ends in between has no name any more.
        let names =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with("wirelane-")).count()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let stderr = self.kill();
        if thread::panicking() && !stderr.is_empty() {
            eprintln!("the program's stderr:\n{stderr}");
        }
    }
}

/// CPU time in a `stat` file of procfs; see proc_pid_stat(5).
pub fn cpu_time(stat: &Path) -> Duration {
    let stat = fs::read_to_string(stat).expect("procfs");
    // The name in parentheses may hold anything; utime and stime are the 12th and 13th after it.
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|field| field.parse::<u64>().expect("a number")).sum();
    // The kernel shows times in hundredths of a second (USER_HZ) on every machine Rust supports.
    Duration::from_millis(ticks * 10)
}

/// A command that runs an example. It ends with the thread that spawns it.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(example(name));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    before_exec(&mut command, || {
        let signal = libc::SIGKILL as libc::c_ulong;
        // SAFETY: a plain system call on this process.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) }
    });
    command
}

/// Runs a program that shall end by itself.
pub fn run(mut command: Command) -> Output {
    let mut child = command.spawn().expect("the program can be executed");
    let start = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("{command:?} does not end");
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("its output")
}

/// Gives the program at most `count` descriptors (RLIMIT_NOFILE).
pub fn limit_descriptors(command: &mut Command, count: u64) {
    let limit = libc::rlimit { rlim_cur: count, rlim_max: count };
    before_exec(command, move || {
        // SAFETY: a plain system call that reads a structure of ours.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }
    });
}

/// Makes a system call of the program fail with `errno`, as a container's profile does.
pub fn refuse_system_call(command: &mut Command, number: u32, errno: u32) {
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    // seccomp(2): load the number (first field of seccomp_data), compare, answer.
    let filter = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    before_exec(command, || {
        // SAFETY: a plain system call; without it only root may install a filter.
        unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }
    });
    before_exec(command, move || {
        let mut filter = filter;
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        let mode = libc::SECCOMP_MODE_FILTER as libc::c_ulong;
        // SAFETY: the kernel copies the filter, which outlives the call.
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &program) }
    });
}

/// Makes a system call in the new process, which does not run if it fails.
fn before_exec(
    command: &mut Command,
    system_call: impl Fn() -> libc::c_int + Send + Sync + 'static,
) {
    let call = move || match system_call() {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    };
    // SAFETY: between fork and exec nothing but one system call is made: no lock, no allocation.
    unsafe { command.pre_exec(call) };
}

/// The path of an example, built if need be. `cargo test` builds all of them before it runs tests,
/// but `cargo test --test NAME` builds none.
fn example(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let test = std::env::current_exe().expect("the path of this program");
        // target/PROFILE/deps/this-HASH
        let profile = test.parent().and_then(Path::parent).expect("cargo's folders");
        let folder = profile.join("examples");
        let oldest = ["echo", "broadcast", "relay"].map(|name| modified(&folder.join(name)));
        let oldest = oldest.into_iter().min().expect("three");
        if oldest < newest_source() {
            build(profile);
        }
        folder
    });
    folder.join(name)
}

fn build(profile: &Path) {
    let profile = profile.file_name().and_then(|name| name.to_str()).expect("a profile");
    let profile = if profile == "debug" { "dev" } else { profile };
    let output = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--examples", "--profile", profile])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        .output()
        .expect("cargo can be executed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// When a file was written; long ago if there is none.
fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// When the last of the files was written that examples are made of.
fn newest_source() -> SystemTime {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut newest = modified(&root.join("Cargo.toml"));
    let mut folders = vec![root.join("src"), root.join("examples")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            newest = newest.max(modified(&path));
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    newest
}
