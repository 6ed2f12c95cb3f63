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

/// The same as `Debug`, for log lines: `worker:slot.generation`.
impl std::fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// What a kernel token is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Operation {
    /// A listener; the slot is its index.
    Accept = 1,
    /// A connection's socket (epoll), or its receive operation (io_uring).
    Receive = 2,
    /// The driver's waker.
    Wake = 3,
}

/// The 64 bits that the kernel keeps and hands back with every event.
///
/// ```text
///  63      60 59                            32 31                              0
/// +----------+--------------------------------+---------------------------------+
/// | operation|  generation, its low 28 bits   |              slot               |
/// +----------+--------------------------------+---------------------------------+
/// ```
///
/// 28 bits suffice because a token never outlives the next tenant but one: epoll drops a
/// registration together with its socket, and io_uring frees no slot with operations in flight.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct KernelToken(u64);

const _: () = assert!(size_of::<KernelToken>() == 8);

impl KernelToken {
    const SLOT_BITS: u32 = 32;
    const GENERATION_BITS: u32 = 28;
    const GENERATION_MASK: u32 = (1 << Self::GENERATION_BITS) - 1;

    pub(crate) const fn new(operation: Operation, slot: u32, generation: u32) -> Self {
        let generation = (generation & Self::GENERATION_MASK) as u64;
        let operation = (operation as u64) << (Self::SLOT_BITS + Self::GENERATION_BITS);
        Self(operation | generation << Self::SLOT_BITS | slot as u64)
    }

    /// The token of an operation on a connection.
    pub(crate) const fn of(operation: Operation, id: ConnectionId) -> Self {
        Self::new(operation, id.slot, id.generation)
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// `None` for bits that no token of this type has.
    pub(crate) const fn operation(self) -> Option<Operation> {
        match self.0 >> (Self::SLOT_BITS + Self::GENERATION_BITS) {
            1 => Some(Operation::Accept),
            2 => Some(Operation::Receive),
            3 => Some(Operation::Wake),
            _ => None,
        }
    }

    pub(crate) const fn slot(self) -> usize {
        (self.0 & u32::MAX as u64) as usize
    }

    /// Whether the token was made for this generation of its slot.
    pub(crate) const fn is_of_generation(self, generation: u32) -> bool {
        (self.0 >> Self::SLOT_BITS) as u32 & Self::GENERATION_MASK
            == generation & Self::GENERATION_MASK
    }
}

impl std::fmt::Debug for KernelToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let generation = (self.0 >> Self::SLOT_BITS) as u32 & Self::GENERATION_MASK;
        write!(f, "{:?}:{}.{}", self.operation(), self.slot(), generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_round_trip_through_the_kernel() {
        for operation in [Operation::Accept, Operation::Receive, Operation::Wake] {
            for slot in [0, 1, 77, u32::MAX - 1, u32::MAX] {
                for generation in [0, 1, 0x0FFF_FFFE, 0x0FFF_FFFF] {
                    let sent = KernelToken::new(operation, slot, generation);
                    let back = KernelToken::from_bits(sent.bits());
                    assert_eq!(back.operation(), Some(operation));
                    assert_eq!(back.slot(), slot as usize);
                    assert!(back.is_of_generation(generation));
                    assert!(!back.is_of_generation(generation ^ 1));
                    assert!(!back.is_of_generation(generation ^ 0x0800_0000));
                }
            }
        }
    }

    #[test]
    fn generations_compare_by_their_low_28_bits() {
        let token = KernelToken::of(Operation::Receive, ConnectionId::new(3, 9, 0xF000_0005));
        assert!(token.is_of_generation(0xF000_0005));
        assert!(token.is_of_generation(0x0000_0005));
        assert!(!token.is_of_generation(0xF000_0006));
        assert_eq!(token.operation(), Some(Operation::Receive));
    }

    #[test]
    fn ids_are_displayed_for_log_lines() {
        assert_eq!(ConnectionId::new(1, 2, 3).to_string(), "1:2.3");
    }

    #[test]
    fn unknown_operations_are_none() {
        assert_eq!(KernelToken::from_bits(0).operation(), None);
        assert_eq!(KernelToken::from_bits(u64::MAX).operation(), None);
    }
}
