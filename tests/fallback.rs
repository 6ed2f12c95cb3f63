//! Where the kernel or a container's profile refuses io_uring: a forced driver is an error that
//! says what is missing, and the automatic choice serves.

mod common;

use std::process::Command;

use common::child::{Program, command, refuse_system_call, run};
use wirelane::Driver;

/// Numbers of system calls, the same on every machine.
const IO_URING_SETUP: u32 = 425;
const IO_URING_REGISTER: u32 = 427;

/// What is refused, how, and the words that explain it.
const REFUSALS: [(u32, i32, &[&str]); 4] = [
    (IO_URING_SETUP, libc::EPERM, &["io_uring_setup", "Operation not permitted", "seccomp"]),
    (IO_URING_SETUP, libc::ENOSYS, &["io_uring_setup", "Function not implemented", "no io_uring"]),
    (IO_URING_SETUP, libc::EINVAL, &["io_uring_setup", "Linux 6.1 or newer"]),
    (IO_URING_REGISTER, libc::EINVAL, &["registering", "buffer", "Linux 6.1 or newer"]),
];

fn echo_without(call: u32, errno: i32, driver: Driver, workers: &str) -> Command {
    let mut command = command("echo");
    let driver = driver.to_string();
    command.args(["--listen", "127.0.0.1:0", "--driver", &driver, "--workers", workers]);
    refuse_system_call(&mut command, call, errno.unsigned_abs());
    command
}

#[test]
fn a_forced_io_uring_that_is_refused_says_what_is_missing() {
    // A kernel that has no io_uring does not reach the second system call.
    if !common::io_uring_works() {
        return;
    }
    for (call, errno, words) in REFUSALS {
        for workers in ["1", "3"] {
            let output = run(echo_without(call, errno, Driver::IoUring, workers));
            let stderr = String::from_utf8(output.stderr).expect("UTF-8");
            assert_eq!(output.status.code(), Some(1), "{call}, {errno}: {stderr}");
            assert_eq!(output.stdout, b"", "{call}, {errno}");
            assert!(stderr.contains("io_uring driver cannot start"), "{stderr}");
            for word in words {
                assert!(stderr.contains(word), "{word:?} is not in {stderr}");
            }
        }
    }
}

#[test]
fn the_other_choices_serve_without_io_uring() {
    for (call, errno, _) in REFUSALS {
        for driver in [Driver::Auto, Driver::Epoll] {
            let program = Program::spawn(echo_without(call, errno, driver, "2"));
            let mut peer = program.open();
            peer.send_text("served");
            assert_eq!(peer.read_frame().payload, b"served", "{call}, {errno}, {driver}");
            drop(peer);
            program.stop();
        }
    }
}
