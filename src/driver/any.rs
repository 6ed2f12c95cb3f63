//! The driver of a worker, chosen at run time: each verb is one branch, and what a message needs is
//! inlined behind it. A `Box<dyn Driver>` would cost a call per verb.
//!
//! In and out: what [`Driver`] says.

use std::io::{self, IoSlice};
use std::net::SocketAddr;

use socket2::Socket;

use super::epoll::Epoll;
use super::socket::Remote;
use super::uring::Uring;
use super::{AcceptedSocket, ConnectionId, Driver, DriverStats, Event, ReceiveMemory, Waker};

/// One of the drivers.
#[allow(clippy::large_enum_variant, reason = "one per worker, never moved while it works")]
pub(crate) enum AnyDriver {
    Epoll(Epoll),
    Uring(Uring),
    /// What tests bring along.
    #[cfg(test)]
    Other(Box<dyn Driver>),
}

/// The same call on whichever driver it is.
macro_rules! on {
    ($self:ident, $driver:ident => $call:expr) => {
        match $self {
            AnyDriver::Epoll($driver) => $call,
            AnyDriver::Uring($driver) => $call,
            #[cfg(test)]
            AnyDriver::Other($driver) => $call,
        }
    };
}

impl Driver for AnyDriver {
    fn name(&self) -> &'static str {
        on!(self, driver => driver.name())
    }

    fn reserve(&mut self, slots: usize) {
        on!(self, driver => driver.reserve(slots));
    }

    fn listen(&mut self, listener: Socket) -> io::Result<()> {
        on!(self, driver => driver.listen(listener))
    }

    fn pause_accepting(&mut self) {
        on!(self, driver => driver.pause_accepting());
    }

    fn resume_accepting(&mut self) {
        on!(self, driver => driver.resume_accepting());
    }

    fn stop_listening(&mut self) {
        on!(self, driver => driver.stop_listening());
    }

    fn adopt(&mut self, id: ConnectionId, socket: AcceptedSocket) -> io::Result<()> {
        on!(self, driver => driver.adopt(id, socket))
    }

    fn connect(&mut self, id: ConnectionId, remote: &Remote) -> io::Result<()> {
        on!(self, driver => driver.connect(id, remote))
    }

    #[inline(always)]
    fn send_bytes(&mut self, id: ConnectionId, bytes: &[u8]) -> io::Result<usize> {
        on!(self, driver => driver.send_bytes(id, bytes))
    }

    fn send(&mut self, id: ConnectionId, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        on!(self, driver => driver.send(id, slices))
    }

    fn send_last(&mut self, id: ConnectionId, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        on!(self, driver => driver.send_last(id, slices))
    }

    fn pause_reading(&mut self, id: ConnectionId) {
        on!(self, driver => driver.pause_reading(id));
    }

    fn resume_reading(&mut self, id: ConnectionId) {
        on!(self, driver => driver.resume_reading(id));
    }

    fn read_on(&mut self, id: ConnectionId) {
        on!(self, driver => driver.read_on(id));
    }

    fn finish_sending(&mut self, id: ConnectionId) {
        on!(self, driver => driver.finish_sending(id));
    }

    fn close(&mut self, id: ConnectionId) {
        on!(self, driver => driver.close(id));
    }

    fn peer_addr(&self, id: ConnectionId) -> Option<SocketAddr> {
        on!(self, driver => driver.peer_addr(id))
    }

    #[inline(always)]
    fn wait(&mut self, timeout_ms: Option<u64>) -> io::Result<()> {
        on!(self, driver => driver.wait(timeout_ms))
    }

    #[inline(always)]
    fn next_event<'m>(&mut self, memory: &'m mut ReceiveMemory) -> Option<Event<'m>> {
        on!(self, driver => driver.next_event(memory))
    }

    #[inline(always)]
    fn next_received<'m>(
        &mut self,
        memory: &'m mut ReceiveMemory,
    ) -> Option<(ConnectionId, &'m mut [u8])> {
        on!(self, driver => driver.next_received(memory))
    }

    #[inline(always)]
    fn is_done(&self) -> bool {
        on!(self, driver => driver.is_done())
    }

    fn waker(&self) -> Waker {
        on!(self, driver => driver.waker())
    }

    #[inline]
    fn now_ms(&self) -> u64 {
        on!(self, driver => driver.now_ms())
    }

    #[inline]
    fn now_ns(&self) -> u64 {
        on!(self, driver => driver.now_ns())
    }

    fn stats(&self) -> DriverStats {
        on!(self, driver => driver.stats())
    }

    #[inline]
    fn mishaps(&self) -> u64 {
        on!(self, driver => driver.mishaps())
    }
}
