//! The listeners of the epoll driver.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use socket2::Socket;

use super::super::token::{KernelToken, Operation};
use super::super::{AcceptedSocket, Event};
use super::retry;
use super::set::{Interest, Set};

/// Whoever connects in a loop gets this many connections per listener and turn, then it is the
/// others' turn.
const ACCEPTS_PER_TURN: u32 = 64;

/// The listeners and whether accepting is on.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    open: Vec<Listener>,
    /// Told apart from the listeners of before `stop_listening`.
    generation: u32,
    paused: bool,
    /// Whether a listener may be ready: what most turns ask first.
    any_ready: bool,
}

#[derive(Debug)]
struct Listener {
    socket: Socket,
    /// An edge came and `accept4` has not said would-block since.
    ready: bool,
    left_this_turn: u32,
}

impl Listeners {
    pub(super) fn listen(&mut self, set: &Set, socket: Socket) -> io::Result<()> {
        if !socket.is_listener()? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket does not listen"));
        }
        // Whoever shares the listener may be faster than our accept4.
        socket.set_nonblocking(true)?;
        let index = u32::try_from(self.open.len()).map_err(io::Error::other)?;
        let token = KernelToken::new(Operation::Accept, index, self.generation);
        set.add(socket.as_fd(), token, Interest::Readable)?;
        self.open.push(Listener { socket, ready: false, left_this_turn: 0 });
        Ok(())
    }

    pub(super) fn pause(&mut self) {
        self.paused = true;
    }

    /// Whoever came during the pause left an edge in `Listener::ready`; it does not come again.
    pub(super) fn resume(&mut self) {
        self.paused = false;
    }

    pub(super) fn stop(&mut self, set: &Set) {
        for listener in self.open.drain(..) {
            // Another process may hold the same listener open, which would keep it registered. If
            // this fails, then the generation below takes care of the events.
            let _ = set.remove(listener.socket.as_fd());
        }
        self.generation = self.generation.wrapping_add(1);
    }

    pub(super) fn begin_turn(&mut self) {
        if self.any_ready {
            for listener in &mut self.open {
                listener.left_this_turn = ACCEPTS_PER_TURN;
            }
        }
    }

    pub(super) fn note_readiness(&mut self, token: KernelToken) {
        if token.is_of_generation(self.generation)
            && let Some(listener) = self.open.get_mut(token.slot())
        {
            listener.ready = true;
            listener.left_this_turn = ACCEPTS_PER_TURN;
            self.any_ready = true;
        }
    }

    /// Whether peers may be waiting that no edge will announce again.
    pub(super) fn due(&self) -> bool {
        self.any_ready && !self.paused && self.open.iter().any(|listener| listener.ready)
    }

    /// The next newcomer, or why there can be none for now.
    pub(super) fn accept(&mut self) -> Option<Event<'static>> {
        if self.paused || !self.any_ready {
            return None;
        }
        for listener in &mut self.open {
            while listener.ready && listener.left_this_turn > 0 {
                listener.left_this_turn -= 1;
                match retry(|| accept4(&listener.socket)) {
                    Ok(socket) => return Some(Event::Accepted(AcceptedSocket::Os(socket))),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        listener.ready = false;
                    }
                    Err(error) if concerns_the_peer_only(&error) => {}
                    Err(error) => {
                        self.paused = true;
                        return Some(Event::AcceptPaused(error));
                    }
                }
            }
        }
        self.any_ready = self.open.iter().any(|listener| listener.ready);
        None
    }
}

/// accept(2), "Error handling": an error of the new connection or of the network, not of ours.
fn concerns_the_peer_only(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EPROTO
                | libc::EPERM
                | libc::ETIMEDOUT
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
                | libc::EOPNOTSUPP
        )
    )
}

/// accept4(2) without asking for the peer's address: most workers never look at it.
fn accept4(listener: &Socket) -> io::Result<Socket> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let (addr, len) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the descriptor is open for the call, and null means that no address is wanted.
    let fd = unsafe { libc::accept4(listener.as_raw_fd(), addr, len, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(Socket::from(fd))
}
