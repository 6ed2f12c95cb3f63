//! Which workers have subscribers of which topic, for whoever publishes to all of them.
//!
//! What comes in: a worker's first and last subscriber of a topic, every change of the count.
//! What goes out: the workers to which a message must be posted. A worker that has subscribers of
//! a topic itself holds its entry and takes no lock to publish; everybody else takes one for
//! reading, on one of a few shards.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

const SHARDS: usize = 16;

/// One topic of the whole server.
#[derive(Debug)]
pub(crate) struct SharedTopic {
    pub(crate) name: Arc<str>,
    subscribers: AtomicUsize,
    /// One bit per worker that has subscribers.
    workers: Box<[AtomicU64]>,
}

impl SharedTopic {
    /// Subscribers of all workers.
    pub(crate) fn subscribers(&self) -> usize {
        self.subscribers.load(Ordering::Acquire)
    }

    /// Counts one more and gives how many there were.
    pub(crate) fn count_in(&self) -> usize {
        self.subscribers.fetch_add(1, Ordering::AcqRel)
    }

    /// Counts one less and gives how many there were.
    pub(crate) fn count_out(&self) -> usize {
        self.subscribers.fetch_sub(1, Ordering::AcqRel)
    }

    /// The workers that have subscribers.
    pub(crate) fn workers(&self) -> impl Iterator<Item = usize> {
        self.workers.iter().enumerate().flat_map(|(index, word)| {
            let mut bits = word.load(Ordering::Acquire);
            std::iter::from_fn(move || {
                let bit = bits.trailing_zeros();
                bits &= bits.wrapping_sub(1);
                (bit < 64).then_some(index * 64 + bit as usize)
            })
        })
    }
}

type Shard = HashMap<Arc<str>, Arc<SharedTopic>>;

/// All topics that have subscribers.
// names come from the application's users, so every hash is a keyed one.
#[derive(Debug)]
pub(crate) struct TopicIndex {
    hasher: RandomState,
    shards: [RwLock<Shard>; SHARDS],
    workers: usize,
}

impl TopicIndex {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| RwLock::default()),
            workers,
        }
    }

    fn shard(&self, name: &str) -> &RwLock<Shard> {
        &self.shards[self.hasher.hash_one(name) as usize % SHARDS]
    }

    // Nothing panics while a lock is held; a poisoned map would still be whole.
    fn read(&self, name: &str) -> RwLockReadGuard<'_, Shard> {
        self.shard(name).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, name: &str) -> RwLockWriteGuard<'_, Shard> {
        self.shard(name).write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The topic, if it has subscribers.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<SharedTopic>> {
        self.read(name).get(name).map(Arc::clone)
    }

    /// A worker gets its first subscriber of this topic.
    pub(crate) fn join(&self, name: &str, worker: u16) -> Arc<SharedTopic> {
        let mut shard = self.write(name);
        let topic = match shard.get(name) {
            Some(topic) => Arc::clone(topic),
            None => {
                let name: Arc<str> = name.into();
                let topic = Arc::new(SharedTopic {
                    name: Arc::clone(&name),
                    subscribers: AtomicUsize::new(0),
                    workers: (0..self.workers.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
                });
                shard.insert(name, Arc::clone(&topic));
                topic
            }
        };
        let (word, bit) = (usize::from(worker) / 64, worker % 64);
        topic.workers[word].fetch_or(1 << bit, Ordering::AcqRel);
        topic
    }

    /// A worker has lost its last subscriber of this topic, and counted it out.
    pub(crate) fn leave(&self, topic: &SharedTopic, worker: u16) {
        // Under the lock, so that nobody joins an entry that is about to go.
        let mut shard = self.write(&topic.name);
        let (word, bit) = (usize::from(worker) / 64, worker % 64);
        topic.workers[word].fetch_and(!(1 << bit), Ordering::AcqRel);
        if topic.workers().next().is_none() {
            shard.remove(&topic.name);
        }
    }

    /// Topics that have subscribers.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        let len =
            |shard: &RwLock<Shard>| shard.read().unwrap_or_else(PoisonError::into_inner).len();
        self.shards.iter().map(len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_join_and_leave() {
        let index = TopicIndex::new(130);
        assert!(index.find("a").is_none());
        for worker in [129, 0, 64, 63] {
            index.join("a", worker).count_in();
        }
        let topic = index.find("a").expect("just joined");
        assert_eq!(topic.workers().collect::<Vec<_>>(), [0, 63, 64, 129]);
        assert_eq!(topic.subscribers(), 4);
        for worker in [0, 64, 129] {
            assert!(topic.count_out() > 0);
            index.leave(&topic, worker);
        }
        assert_eq!(topic.workers().collect::<Vec<_>>(), [63]);
        topic.count_out();
        index.leave(&topic, 63);
        assert!(index.find("a").is_none());
        assert_eq!(index.len(), 0);
    }

    #[test]
    fn an_entry_that_is_joined_while_others_leave_stays() {
        let index = Arc::new(TopicIndex::new(4));
        let threads = [0, 1, 2, 3].map(|worker| {
            let index = Arc::clone(&index);
            std::thread::spawn(move || {
                for _ in 0..2000 {
                    let topic = index.join("t", worker);
                    topic.count_in();
                    let found = index.find("t").expect("this worker is in it");
                    assert!(Arc::ptr_eq(&topic, &found), "two entries of one topic");
                    topic.count_out();
                    index.leave(&topic, worker);
                }
            })
        });
        for thread in threads {
            thread.join().expect("no assertion failed");
        }
        assert_eq!(index.len(), 0);
    }
}
