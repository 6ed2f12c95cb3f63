//! The listeners of the epoll driver.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use socket2::Socket;

use super::super::token::{KernelToken, Operation};
use super::super::{AcceptedSocket, Event};
use super::retry;
use super::set::{Newcomers, Set};

/// Whoever connects in a loop gets this many connections per listener and turn at most, then it is
/// the others' turn.
const MOST_PER_TURN: u32 = 64;

/// The listeners and whether accepting is on.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    open: Vec<Listener>,
    /// Told apart from the listeners of before `stop_listening`.
    generation: u32,
    paused: bool,
    /// How many turns there were in which every listener with newcomers was heard.
    turn: u32,
    /// Whether a listener has something left of this turn: what most turns ask first.
    due: bool,
}

#[derive(Debug)]
struct Listener {
    socket: Socket,
    /// How many accepts of this turn are left.
    left: u32,
    /// How many accepts a turn begins with, from 1 to [`MOST_PER_TURN`].
    share: u32,
    /// The last turn that accepted its whole share.
    sated: u32,
    /// The registration is off: newcomers that wait would end every wait of a pause.
    muted: bool,
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
        set.add_listener(socket.as_fd(), token)?;
        self.open.push(Listener { socket, left: 0, share: 1, sated: 0, muted: false });
        Ok(())
    }

    /// The registrations stay as they are until somebody comes; most pauses are over before that.
    pub(super) fn pause(&mut self) {
        self.paused = true;
        self.due = false;
        self.open.iter_mut().for_each(|listener| listener.left = 0);
    }

    pub(super) fn resume(&mut self, set: &Set) {
        self.paused = false;
        for (index, listener) in self.open.iter_mut().enumerate() {
            if std::mem::take(&mut listener.muted) {
                let token = KernelToken::new(Operation::Accept, index as u32, self.generation);
                set.change_listener(listener.socket.as_fd(), token, Newcomers::Wanted);
            }
        }
    }

    pub(super) fn stop(&mut self, set: &Set) {
        for listener in self.open.drain(..) {
            // Another process may hold the same listener open, which would keep it registered. If
            // this fails, then the generation below takes care of the events.
            let _ = set.remove(listener.socket.as_fd());
        }
        self.due = false;
        self.generation = self.generation.wrapping_add(1);
    }

    pub(super) fn begin_turn(&mut self) {
        self.turn = self.turn.wrapping_add(1);
    }

    /// Newcomers wait. How many nobody knows, and an accept that finds nobody is a system call for
    /// nothing; so a turn takes what the last one with newcomers took, and more only where
    /// turn after turn leaves some over.
    pub(super) fn note_readiness(&mut self, set: &Set, token: KernelToken) {
        if !token.is_of_generation(self.generation) {
            return;
        }
        let Some(listener) = self.open.get_mut(token.slot()) else { return };
        if self.paused {
            if !std::mem::replace(&mut listener.muted, true) {
                set.change_listener(listener.socket.as_fd(), token, Newcomers::Unwanted);
            }
            return;
        }
        if self.turn.wrapping_sub(listener.sated) <= 1 {
            listener.share = (2 * listener.share).min(MOST_PER_TURN);
        }
        listener.left = listener.share;
        self.due = true;
    }

    /// Whether peers may be waiting of whom this turn was told.
    pub(super) fn due(&self) -> bool {
        self.due
    }

    /// The next newcomer, or why there can be none for now.
    pub(super) fn accept(&mut self) -> Option<Event<'static>> {
        if !self.due {
            return None;
        }
        for listener in &mut self.open {
            while listener.left > 0 {
                listener.left -= 1;
                match retry(|| accept4(&listener.socket)) {
                    Ok(socket) => {
                        if listener.left == 0 {
                            listener.sated = self.turn;
                        }
                        return Some(Event::Accepted(AcceptedSocket::Os(socket)));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        listener.share = (listener.share - listener.left - 1).max(1);
                        listener.left = 0;
                    }
                    Err(error) if concerns_the_peer_only(&error) => {}
                    Err(error) => {
                        self.pause();
                        return Some(Event::AcceptPaused(error));
                    }
                }
            }
        }
        self.due = false;
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
