//! Slots and generations.

use slab::Slab;

use super::Connection;
use crate::driver::ConnectionId;

/// All connections of one worker. A slot is reused, its generation is not: an id of an earlier
/// tenant finds nothing.
#[derive(Debug)]
pub(crate) struct Table {
    slots: Slab<Connection>,
    generations: Vec<u32>,
    worker: u16,
}

impl Table {
    /// Room for `capacity` connections; what is not used is address space, not memory.
    pub(crate) fn with_capacity(worker: u16, capacity: usize) -> Self {
        let generations = Vec::with_capacity(capacity);
        Self { slots: Slab::with_capacity(capacity), generations, worker }
    }

    pub(crate) fn insert(&mut self, connection: Connection) -> ConnectionId {
        let slot = self.slots.insert(connection);
        if slot == self.generations.len() {
            self.generations.push(1);
        }
        let slot32 = u32::try_from(slot).expect("max_connections keeps slots below 2^32");
        ConnectionId::new(self.worker, slot32, self.generations[slot])
    }

    /// The connection, if it is still this one.
    #[inline]
    pub(crate) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        if id.worker() != self.worker || self.generations.get(id.slot()) != Some(&id.generation()) {
            return None;
        }
        self.slots.get_mut(id.slot())
    }

    /// The present tenant of a slot.
    #[inline]
    pub(crate) fn at_mut(&mut self, slot: u32) -> Option<(ConnectionId, &mut Connection)> {
        let connection = self.slots.get_mut(slot as usize)?;
        let generation = *self.generations.get(slot as usize)?;
        Some((ConnectionId::new(self.worker, slot, generation), connection))
    }

    /// See [`Self::get_mut`].
    pub(crate) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        if id.worker() != self.worker || self.generations.get(id.slot()) != Some(&id.generation()) {
            return None;
        }
        self.slots.get(id.slot())
    }

    /// The id of the present tenant of a slot.
    pub(crate) fn id_of(&self, slot: u32) -> Option<ConnectionId> {
        let index = slot as usize;
        self.slots
            .contains(index)
            .then(|| ConnectionId::new(self.worker, slot, self.generations[index]))
    }

    /// Frees the slot. Its next tenant gets another generation.
    pub(crate) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        self.get_mut(id)?;
        self.generations[id.slot()] = id.generation().wrapping_add(1);
        self.slots.try_remove(id.slot())
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Ids of all tenants.
    pub(crate) fn ids(&self) -> Vec<ConnectionId> {
        self.slots
            .iter()
            .map(|(slot, _)| ConnectionId::new(self.worker, slot as u32, self.generations[slot]))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
