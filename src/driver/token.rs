//! The name of a connection: worker, slot and generation, and how it travels through the kernel.

/// Names one connection of one worker for ever: the slot is reused, the generation is not.
///
/// Copy it freely, keep it anywhere, send it to other threads. Sending to the id of a connection
/// that has gone is an answered error, never a stranger's connection. 12 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    worker: u16,
    slot: u32,
    generation: u32,
}

impl ConnectionId {
    pub(crate) const fn new(worker: u16, slot: u32, generation: u32) -> Self {
        Self { worker, slot, generation }
    }

    /// The worker that owns the connection, from 0.
    pub const fn worker(self) -> u16 {
        self.worker
    }

    pub(crate) const fn slot(self) -> usize {
        self.slot as usize
    }

    pub(crate) const fn generation(self) -> u32 {
        self.generation
    }
}

impl std::fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}.{}", self.worker, self.slot, self.generation)
    }
}
