//! The contract tests of every driver, on the simulated one.
//!
//! On a perfect network, and on rough ones that replay by their number. Connections do not break
//! by themselves there, accepting fails only when a test asks for it, and a send is short only
//! when the buffer is full: the tests could not tell such a fault from a mistake.

use super::super::contract::contract_tests;
use super::super::lab::{Lab, Peer as LabPeer, PeerView, Skip};
use super::*;

/// Bytes that a peer's own kernel takes while the server's has no room.
const WINDOW: usize = 64 * 1024;

/// A network with this seed; 0 is the perfect one.
struct Simulation<const SEED: u64>(Network);

impl<const SEED: u64> Simulation<SEED> {
    const fn faults() -> Faults {
        let faults = if SEED == 0 { Faults::none() } else { Faults::rough() };
        let buffer = 64 * 1024;
        Faults {
            accept_failure: 0,
            short_send: 0,
            send_buffer: buffer,
            receive_buffer: buffer,
            ..faults
        }
    }
}

impl<const SEED: u64> Simulation<SEED> {
    fn place(&self, port: u16, reception: Reception) -> Remote {
        let addr = SocketAddr::from(([192, 0, 2, 1], port));
        self.0.receive_at(addr, reception);
        Remote::Ip(addr)
    }
}

impl<const SEED: u64> Lab for Simulation<SEED> {
    type Peer = Client;

    fn open(receive_buffer: usize) -> Result<(Self, Box<dyn Driver>, ReceiveMemory), Skip> {
        let network = Network::new(SEED, Self::faults());
        let (driver, memory) = network.driver_with(receive_buffer);
        network.open_listener();
        Ok((Self(network), Box::new(driver), memory))
    }

    fn connect(&mut self) -> Option<Client> {
        let peer = self.0.connect();
        // connect(2) returns when the request has arrived, so that requests stay in order.
        self.0.advance(Self::faults().delay_ms);
        // The other side sees bytes only when `receive` asks for them.
        peer.set_read_rate(ReadRate::Stopped);
        let refused = peer.seen() != Seen::Open;
        (!refused).then_some(Client { peer, finished: false })
    }

    fn remote(&mut self) -> Remote {
        self.place(1, Reception::Accept)
    }

    fn nobody(&mut self) -> Remote {
        self.place(2, Reception::Refuse)
    }

    fn nowhere(&mut self) -> Option<Remote> {
        Some(self.place(3, Reception::Ignore))
    }

    fn accept(&mut self) -> Option<Client> {
        let peer = self.0.reached()?;
        peer.set_read_rate(ReadRate::Stopped);
        Some(Client { peer, finished: false })
    }

    fn refuse_accepts(&mut self, refuse: bool) {
        let descriptors = if refuse { self.0.descriptors() } else { usize::MAX };
        self.0.set_faults(Faults { descriptors, ..Self::faults() });
    }
}

/// A peer that sends what fits, reads when asked, and closes when dropped.
struct Client {
    peer: Peer,
    finished: bool,
}

impl LabPeer for Client {
    fn send(&mut self, bytes: &[u8]) -> usize {
        if self.finished {
            return 0;
        }
        let len = bytes.len().min(WINDOW.saturating_sub(self.peer.in_flight()));
        self.peer.send(&bytes[..len]);
        len
    }

    fn receive(&mut self, into: &mut Vec<u8>) -> PeerView {
        into.extend(self.peer.read());
        match self.peer.seen() {
            Seen::Open => PeerView::Open,
            Seen::Finished => PeerView::Ended,
            Seen::Reset | Seen::Broken | Seen::Left => PeerView::Reset,
        }
    }

    fn finish_sending(&mut self) {
        self.finished = true;
        self.peer.finish();
    }

    fn reset(mut self) {
        self.finished = true;
        self.peer.reset();
    }

    fn addr(&self) -> Option<SocketAddr> {
        Some(self.peer.addr())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.peer.close();
        }
    }
}

mod perfect {
    use super::*;
    contract_tests!(Simulation<0>);
}

mod rough_1 {
    use super::*;
    contract_tests!(Simulation<1>);
}

mod rough_2 {
    use super::*;
    contract_tests!(Simulation<2>);
}
