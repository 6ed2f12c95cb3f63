//! Returns bytes as they come, with no protocol at all: what TCP and the kernel's interface cost.
//!
//! `raw --driver epoll|io_uring [--listen ADDR:PORT]`
//!
//! Both forms are written for the least user-space work: one thread, one buffer, one send per
//! receive. A WebSocket server does all of this and more.

mod epoll;
mod uring;

use std::io::Write;
use std::net::TcpListener;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut listen = "127.0.0.1:9001".to_owned();
    let mut driver = "epoll".to_owned();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let Some(value) = words.next() else { return wrong(&format!("{word}: value missing")) };
        match word.as_str() {
            "--listen" => listen = value,
            "--driver" => driver = value,
            // The common command line of the peers; there is nothing but echo here.
            "--mode" if value == "echo" => {}
            _ => return wrong(&format!("unknown option {word} {value}")),
        }
    }
    let serve: fn(TcpListener) -> std::io::Result<()> = match driver.as_str() {
        "epoll" => epoll::serve,
        "io_uring" => uring::serve,
        _ => return wrong("--driver takes epoll or io_uring"),
    };
    let result = TcpListener::bind(&listen).and_then(|listener| {
        println!("listening on tcp://{}/", listener.local_addr()?);
        std::io::stdout().flush()?;
        serve(listener)
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{listen}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn wrong(sentence: &str) -> ExitCode {
    eprintln!("{sentence}");
    ExitCode::from(2)
}

/// Bytes taken by one receive.
const BUFFER_LEN: usize = 512 * 1024;

/// What the kernel did not take at once, per descriptor.
#[derive(Default)]
struct Unsent(std::collections::HashMap<i32, Vec<u8>>);

impl Unsent {
    /// Sends now what the socket takes and keeps the rest, in order. False: the connection is gone.
    fn send(&mut self, fd: i32, mut bytes: &[u8]) -> bool {
        if let Some(rest) = self.0.get_mut(&fd) {
            rest.extend_from_slice(bytes);
            return true;
        }
        while !bytes.is_empty() {
            match send(fd, bytes) {
                Ok(len) => bytes = &bytes[len..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.0.insert(fd, bytes.to_vec());
                    return true;
                }
                Err(_) => return false,
            }
        }
        true
    }

    /// Goes on once the socket has room. False: the connection is gone.
    fn go_on(&mut self, fd: i32) -> bool {
        self.0.remove(&fd).is_none_or(|rest| self.send(fd, &rest))
    }

    fn is_empty(&self, fd: i32) -> bool {
        !self.0.contains_key(&fd)
    }

    fn forget(&mut self, fd: i32) {
        self.0.remove(&fd);
    }
}

fn send(fd: i32, bytes: &[u8]) -> std::io::Result<usize> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the pointer and the length are those of a live slice, which the call only reads.
    let len = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(len).map_err(|_| std::io::Error::last_os_error())
}

fn set_nodelay(fd: i32) {
    let on: libc::c_int = 1;
    // SAFETY: the option value is a live integer of the size given. A failure costs speed only.
    unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
}
