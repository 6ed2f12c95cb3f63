//! Slots and generations.

use super::{Connection, Cork};
use crate::driver::ConnectionId;

/// All connections of one worker. A slot is reused, its generation is not: an id of an earlier
/// tenant finds nothing.
#[derive(Debug)]
pub(crate) struct Table {
    slots: Vec<Slot>,
    /// The slot that was left last, or [`NONE`]; each free slot knows the one left before it.
    free: u32,
    len: usize,
    worker: u16,
    /// Answers of one connection that it does not have in its own hands yet.
    cork: Cork,
}

#[derive(Debug)]
struct Slot {
    /// Of the present tenant, or of the next one.
    generation: u32,
    next_free: u32,
    connection: Option<Connection>,
}

/// No slot.
const NONE: u32 = u32::MAX;

impl Table {
    /// Room for `capacity` connections; what is not used is address space, not memory.
    pub(crate) fn with_capacity(worker: u16, capacity: usize) -> Self {
        let slots = Vec::with_capacity(capacity);
        Self { slots, free: NONE, len: 0, worker, cork: Cork::new() }
    }

    pub(crate) fn insert(&mut self, connection: Connection) -> ConnectionId {
        self.len += 1;
        if let Some(slot) = self.slots.get_mut(self.free as usize) {
            let index = std::mem::replace(&mut self.free, slot.next_free);
            slot.connection = Some(connection);
            return ConnectionId::new(self.worker, index, slot.generation);
        }
        let index = u32::try_from(self.slots.len()).ok().filter(|&index| index != NONE);
        let index = index.expect("max_connections keeps slots below 2^32");
        self.slots.push(Slot { generation: 1, next_free: NONE, connection: Some(connection) });
        ConnectionId::new(self.worker, index, 1)
    }

    /// The connection, if it is still this one.
    #[inline]
    pub(crate) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        if self.cork.is_of(id.slot()) {
            self.spill(id.slot());
        }
        let slot = self.slots.get_mut(id.slot())?;
        if slot.generation != id.generation() || id.worker() != self.worker {
            return None;
        }
        slot.connection.as_mut()
    }

    /// The present tenant of a slot.
    #[inline]
    pub(crate) fn at_mut(&mut self, slot: u32) -> Option<(ConnectionId, &mut Connection)> {
        if self.cork.is_of(slot as usize) {
            self.spill(slot as usize);
        }
        let Slot { generation, connection, .. } = self.slots.get_mut(slot as usize)?;
        Some((ConnectionId::new(self.worker, slot, *generation), connection.as_mut()?))
    }

    /// See [`Self::get_mut`]. What is [corked](Self::cork) is not in the connection's queue.
    #[inline]
    pub(crate) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        let slot = self.slots.get(id.slot())?;
        if slot.generation != id.generation() || id.worker() != self.worker {
            return None;
        }
        slot.connection.as_ref()
    }

    /// Bytes that the connection's peer has not taken.
    pub(crate) fn unsent_len(&self, id: ConnectionId) -> usize {
        self.get(id).map_or(0, |connection| connection.unsent_len() + self.cork.len_of(id.slot()))
    }

    /// Where answers are collected.
    #[inline(always)]
    pub(crate) fn cork(&mut self) -> &mut Cork {
        &mut self.cork
    }

    /// Queues that no connection holds.
    #[cfg(test)]
    pub(crate) fn kept_queues(&self) -> usize {
        self.cork.kept()
    }

    /// Puts what was corked where it belongs.
    #[cold]
    #[inline(never)]
    fn spill(&mut self, slot: usize) {
        match self.slots.get_mut(slot).and_then(|slot| slot.connection.as_mut()) {
            Some(connection) => self.cork.spill_to(connection),
            None => debug_assert!(false, "a corked connection has a slot"),
        }
    }

    /// The id of the present tenant of a slot.
    pub(crate) fn id_of(&self, slot: u32) -> Option<ConnectionId> {
        let Slot { generation, connection, .. } = self.slots.get(slot as usize)?;
        connection.is_some().then(|| ConnectionId::new(self.worker, slot, *generation))
    }

    /// Frees the slot. Its next tenant gets another generation.
    pub(crate) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        self.get_mut(id)?;
        let slot = self.slots.get_mut(id.slot())?;
        slot.generation = id.generation().wrapping_add(1);
        slot.next_free = std::mem::replace(&mut self.free, id.slot() as u32);
        self.len -= 1;
        slot.connection.take()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Ids of all tenants.
    pub(crate) fn ids(&self) -> Vec<ConnectionId> {
        let taken = self.slots.iter().enumerate().filter(|(_, slot)| slot.connection.is_some());
        taken
            .map(|(index, slot)| ConnectionId::new(self.worker, index as u32, slot.generation))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_costs_eight_bytes() {
        assert_eq!(size_of::<Slot>(), size_of::<Connection>() + 8);
    }

    #[test]
    fn slots_are_used_again_the_latest_first() {
        let mut table = Table::with_capacity(0, 8);
        let ids: Vec<_> = (0..4).map(|_| table.insert(Connection::new(0, 0))).collect();
        for index in [1, 3, 0] {
            assert!(table.remove(ids[index]).is_some());
        }
        let again: Vec<_> = (0..4).map(|_| table.insert(Connection::new(0, 0)).slot()).collect();
        assert_eq!(again, [0, 3, 1, 4]);
        assert_eq!((table.len(), table.ids().len(), table.is_empty()), (5, 5, false));
        assert!(ids.iter().filter(|&&id| table.get(id).is_some()).eq([&ids[2]]));
    }

    #[test]
    fn an_id_never_reaches_the_next_tenant_of_its_slot() {
        let mut table = Table::with_capacity(3, 8);
        let first = table.insert(Connection::new(0, 0));
        assert_eq!(first.worker(), 3);
        assert!(table.get_mut(first).is_some());
        assert!(table.remove(first).is_some());
        let second = table.insert(Connection::new(0, 0));
        assert_eq!(second.slot(), first.slot());
        assert_ne!(second, first);
        assert!(table.get_mut(first).is_none());
        assert!(table.remove(first).is_none());
        assert!(table.get_mut(second).is_some());
        assert_eq!((table.len(), table.ids()), (1, vec![second]));
    }

    #[test]
    fn an_id_of_another_worker_finds_nothing() {
        let mut table = Table::with_capacity(0, 8);
        let id = table.insert(Connection::new(0, 0));
        let foreign = ConnectionId::new(1, id.slot() as u32, id.generation());
        assert!(table.get_mut(foreign).is_none());
    }
}
