//! Level-triggered epoll(7): one receive into one shared buffer per event, sent back at once.

use std::io::{Error, ErrorKind, Result};
use std::net::TcpListener;
use std::os::fd::AsRawFd;

use crate::{BUFFER_LEN, Unsent, set_nodelay};

pub(crate) fn serve(listener: TcpListener) -> Result<()> {
    listener.set_nonblocking(true)?;
    set_nodelay(listener.as_raw_fd());
    // SAFETY: no pointers.
    let poll = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
    let listening = listener.as_raw_fd();
    control(poll, libc::EPOLL_CTL_ADD, listening, libc::EPOLLIN)?;
    let mut buffer = vec![0_u8; BUFFER_LEN];
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; 1024];
    let mut unsent = Unsent::default();
    loop {
        // SAFETY: the pointer and the length are those of a live vector.
        let count = unsafe { libc::epoll_wait(poll, events.as_mut_ptr(), 1024, -1) };
        let count = match check(count) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            count => count? as usize,
        };
        for event in &events[..count] {
            let (fd, ready) = (event.u64 as i32, event.events as i32);
            if fd == listening {
                accept(poll, listening)?;
                continue;
            }
            let had_unsent = !unsent.is_empty(fd);
            let mut open = true;
            if had_unsent && ready & libc::EPOLLOUT != 0 {
                open = unsent.go_on(fd);
            }
            if open && ready & (libc::EPOLLIN | libc::EPOLLHUP | libc::EPOLLERR) != 0 {
                // SAFETY: the pointer and the length are those of a live vector.
                let len = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
                open = match len {
                    1.. => unsent.send(fd, &buffer[..len as usize]),
                    0 => false,
                    _ => Error::last_os_error().kind() == ErrorKind::WouldBlock,
                };
            }
            if !open {
                unsent.forget(fd);
                // SAFETY: the descriptor was accepted here and is forgotten with this call.
                unsafe { libc::close(fd) };
            } else if had_unsent == unsent.is_empty(fd) {
                // A peer that does not read is not read from either.
                let interest = if had_unsent { libc::EPOLLIN } else { libc::EPOLLOUT };
                control(poll, libc::EPOLL_CTL_MOD, fd, interest)?;
            }
        }
    }
}

fn accept(poll: i32, listening: i32) -> Result<()> {
    loop {
        let (no_address, no_len) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: null pointers mean that the address is not wanted.
        match check(unsafe { libc::accept4(listening, no_address, no_len, libc::SOCK_NONBLOCK) }) {
            Ok(fd) => control(poll, libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN)?,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

fn control(poll: i32, operation: i32, fd: i32, interest: i32) -> Result<()> {
    let mut event = libc::epoll_event { events: interest as u32, u64: fd as u64 };
    // SAFETY: the event lives until the call returns.
    check(unsafe { libc::epoll_ctl(poll, operation, fd, &raw mut event) }).map(drop)
}

fn check(result: i32) -> Result<i32> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}
