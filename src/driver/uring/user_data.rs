//! What travels through the kernel with every operation and comes back with its completions.
//!
//! In: the operation, the slot and the generation it is for. Out: one `u64`, and the way back.
//! It never holds a pointer: a completion that comes too late can at worst name a slot that has
//! another tenant by now, and the generation tells.

/// Which operation a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Operation {
    /// Multishot accept on a listener; the slot is the listener's index.
    Accept = 1,
    /// Receive of a connection, multishot or not.
    Receive = 2,
    /// One-shot poll for room in a connection's send buffer.
    Writable = 3,
    /// Poll on the waker's eventfd.
    Wake = 4,
    /// Cancellation of another operation; its own result means nothing.
    Cancel = 5,
}

/// The 64 bits of `io_uring_sqe.user_data`:
///
/// ```text
///  63..60     59..32        31..0
///  operation  generation    slot
/// ```
///
/// The generation of a slot loses its upper 4 bits here. That is enough: a slot is only reused
/// after every operation on it has come back, so this is the second belt, not the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub(super) struct UserData(u64);

const _: () = assert!(size_of::<UserData>() == 8);
const _: () =
    assert!(UserData::SLOT_BITS + UserData::GENERATION_BITS + UserData::OPERATION_BITS == 64);

impl UserData {
    const SLOT_BITS: u32 = 32;
    const GENERATION_BITS: u32 = 28;
    const OPERATION_BITS: u32 = 4;
    const GENERATION_SHIFT: u32 = Self::SLOT_BITS;
    const OPERATION_SHIFT: u32 = Self::SLOT_BITS + Self::GENERATION_BITS;
    const GENERATION_MASK: u32 = (1 << Self::GENERATION_BITS) - 1;

    pub(super) const fn new(operation: Operation, slot: u32, generation: u32) -> Self {
        Self(
            ((operation as u64) << Self::OPERATION_SHIFT)
                | (((generation & Self::GENERATION_MASK) as u64) << Self::GENERATION_SHIFT)
                | slot as u64,
        )
    }

    pub(super) const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    pub(super) const fn raw(self) -> u64 {
        self.0
    }

    /// `None` for a number that this driver never hands out.
    pub(super) const fn operation(self) -> Option<Operation> {
        Some(match self.0 >> Self::OPERATION_SHIFT {
            1 => Operation::Accept,
            2 => Operation::Receive,
            3 => Operation::Writable,
            4 => Operation::Wake,
            5 => Operation::Cancel,
            _ => return None,
        })
    }

    pub(super) const fn slot(self) -> u32 {
        self.0 as u32
    }

    /// Whether this was made for `generation`, as far as 28 bits can tell.
    pub(super) const fn is_of(self, generation: u32) -> bool {
        (self.0 >> Self::GENERATION_SHIFT) as u32 & Self::GENERATION_MASK
            == generation & Self::GENERATION_MASK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_comes_back_at_its_extremes() {
        let operations = [
            Operation::Accept,
            Operation::Receive,
            Operation::Writable,
            Operation::Wake,
            Operation::Cancel,
        ];
        for operation in operations {
            for slot in [0, 1, 0x8000_0000, u32::MAX] {
                for generation in [0, 1, 0x0FFF_FFFF, u32::MAX] {
                    let packed = UserData::new(operation, slot, generation);
                    let back = UserData::from_raw(packed.raw());
                    assert_eq!(back.operation(), Some(operation));
                    assert_eq!(back.slot(), slot);
                    assert!(back.is_of(generation));
                    assert!(!back.is_of(generation.wrapping_add(1)));
                }
            }
        }
    }

    #[test]
    fn fields_do_not_leak_into_each_other() {
        let low = UserData::new(Operation::Receive, u32::MAX, 0);
        assert!(low.is_of(0));
        let middle = UserData::new(Operation::Receive, 0, u32::MAX);
        assert_eq!((middle.operation(), middle.slot()), (Some(Operation::Receive), 0));
        assert_eq!(middle.raw(), 0x2FFF_FFFF_0000_0000);
    }

    #[test]
    fn unknown_operations_are_refused() {
        assert_eq!(UserData::from_raw(0).operation(), None);
        assert_eq!(UserData::from_raw(u64::MAX).operation(), None);
    }
}
