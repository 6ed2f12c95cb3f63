//! Who is subscribed to what, on one worker.
//!
//! What comes in: slots of live connections and names of topics. What goes out: the slots of a
//! topic, one after the other in memory. Nothing here knows a connection or a message.
//!
//! ```text
//!  names:  "prices" -> 3            heads[slot] = first node, count
//!  topics[3].subscribers            nodes
//!    [ slot 7, node 12 ]  <-------> [ topic 3, place 0, next, previous ]   of slot 7
//!    [ slot 9, node 40 ]  <-------> [ topic 3, place 1, next, previous ]   of slot 9
//! ```
//!
//! A subscription costs 8 bytes in its topic and 16 in `nodes`, and each slot 8 bytes as soon as
//! anybody on the worker subscribes: 32 bytes for a connection with one subscription. A topic costs
//! about 300 bytes and its name. Subscribing and unsubscribing move nothing but the last
//! subscriber of the topic.

use std::collections::HashMap;
use std::sync::Arc;

use slab::Slab;

use super::topic_index::{SharedTopic, TopicIndex};
use crate::error::Error;
use crate::publish::{SlowSubscriber, SubscribeError};

/// Index of no node.
const NONE: u32 = u32::MAX;

/// The longest name of a topic, in bytes.
pub(crate) const MAX_TOPIC_LEN: usize = 256;

/// Limits and policies of all topics, set once.
#[derive(Debug, Clone)]
pub(crate) struct TopicConfig {
    /// Of one connection.
    pub(crate) max_subscriptions: usize,
    /// Of one worker.
    pub(crate) max_topics: usize,
    /// Names, or prefixes if they end with `*`.
    pub(crate) policies: Vec<(Box<str>, SlowSubscriber)>,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self { max_subscriptions: 1024, max_topics: 250_000, policies: Vec::new() }
    }
}

impl TopicConfig {
    /// Says what is impossible, naming the builder method.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (index, (pattern, _)) in self.policies.iter().enumerate() {
            let reason = if self.policies[..index].iter().any(|(other, _)| other == pattern) {
                format!("{pattern:?} is given twice")
            } else if pattern.strip_suffix('*').unwrap_or(pattern).contains('*') {
                format!("{pattern:?}: `*` stands for the rest of a name, at the end only")
            } else {
                continue;
            };
            return Err(Error::config("topic_policy", reason));
        }
        Ok(())
    }

    /// The policy of a topic: that of the longest pattern that fits; a name fits better than any
    /// prefix.
    fn policy(&self, topic: &str) -> SlowSubscriber {
        let fitting = self.policies.iter().filter_map(|(pattern, policy)| {
            let len = match pattern.strip_suffix('*') {
                Some(prefix) => topic.starts_with(prefix).then_some(prefix.len()),
                None => (topic == &**pattern).then_some(usize::MAX),
            };
            len.map(|len| (len, *policy))
        });
        fitting.max_by_key(|(len, _)| *len).map_or_else(SlowSubscriber::default, |fit| fit.1)
    }
}

/// One subscriber as its topic sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subscriber {
    pub(crate) slot: u32,
    node: u32,
}

/// One topic with subscribers on this worker.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) shared: Arc<SharedTopic>,
    /// Never the same for two topics.
    pub(crate) number: u64,
    pub(crate) policy: SlowSubscriber,
    pub(crate) subscribers: Vec<Subscriber>,
}

/// One subscription as its connection sees it.
#[derive(Debug, Clone, Copy)]
struct Node {
    topic: u32,
    /// Index in the topic's subscribers.
    place: u32,
    /// The connection's other subscriptions; of a free node, the next free one.
    next: u32,
    previous: u32,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    first: u32,
    count: u32,
}

/// A change that was made, with the server's counts.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) topic: Arc<str>,
    pub(crate) before: usize,
    pub(crate) after: usize,
}

/// See the module documentation.
// R-20: names come from the application's users, so the hash is a keyed one.
#[derive(Debug)]
pub(crate) struct Topics {
    index: Arc<TopicIndex>,
    worker: u16,
    names: HashMap<Arc<str>, u32>,
    topics: Slab<Topic>,
    nodes: Vec<Node>,
    first_free: u32,
    heads: Vec<Head>,
    next_number: u64,
}

impl Topics {
    pub(crate) fn new(index: Arc<TopicIndex>, worker: u16) -> Self {
        Self {
            index,
            worker,
            names: HashMap::new(),
            topics: Slab::new(),
            nodes: Vec::new(),
            first_free: NONE,
            heads: Vec::new(),
            next_number: 0,
        }
    }

    /// The topic of this name, if anybody on this worker is subscribed to it.
    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        self.names.get(name).copied()
    }

    pub(crate) fn topic(&self, topic: u32) -> &Topic {
        &self.topics[topic as usize]
    }

    pub(crate) fn topic_mut(&mut self, topic: u32) -> &mut Topic {
        &mut self.topics[topic as usize]
    }

    /// Subscribes the connection in a slot. `None` if it was already.
    pub(crate) fn subscribe(
        &mut self,
        slot: u32,
        name: &str,
        config: &TopicConfig,
    ) -> Result<Option<Change>, SubscribeError> {
        if name.len() > MAX_TOPIC_LEN {
            return Err(SubscribeError::TopicTooLong { limit: MAX_TOPIC_LEN });
        }
        let known = self.find(name);
        if known.is_some_and(|topic| self.node_of(slot, topic).is_some()) {
            return Ok(None);
        }
        let head = self.head(slot);
        if head.count as usize >= config.max_subscriptions {
            return Err(SubscribeError::TooManySubscriptions { limit: config.max_subscriptions });
        }
        let topic = match known {
            Some(topic) => topic,
            None if self.topics.len() >= config.max_topics => {
                return Err(SubscribeError::TooManyTopics { limit: config.max_topics });
            }
            None => self.create(name, config.policy(name)),
        };
        let node = self.new_node();
        let Topic { subscribers, shared, .. } = self.topic_mut(topic);
        let place = subscribers.len() as u32;
        subscribers.push(Subscriber { slot, node });
        let before = shared.count_in();
        let change = Change { topic: Arc::clone(&shared.name), before, after: before + 1 };
        self.nodes[node as usize] = Node { topic, place, next: head.first, previous: NONE };
        if head.first != NONE {
            self.nodes[head.first as usize].previous = node;
        }
        let none = Head { first: NONE, count: 0 };
        if self.heads.len() <= slot as usize {
            self.heads.resize(slot as usize + 1, none);
        }
        self.heads[slot as usize] = Head { first: node, count: head.count + 1 };
        Ok(Some(change))
    }

    /// Ends one subscription. `None` if there was none.
    pub(crate) fn unsubscribe(&mut self, slot: u32, name: &str) -> Option<Change> {
        let node = self.node_of(slot, self.find(name)?)?;
        Some(self.remove(slot, node))
    }

    /// Ends one subscription of the connection, whichever. `None` if there is none.
    pub(crate) fn unsubscribe_any(&mut self, slot: u32) -> Option<Change> {
        let first = self.head(slot).first;
        (first != NONE).then(|| self.remove(slot, first))
    }

    pub(crate) fn is_subscribed(&self, slot: u32, name: &str) -> bool {
        self.find(name).is_some_and(|topic| self.node_of(slot, topic).is_some())
    }

    /// The names of the topics that a connection is subscribed to, the latest first.
    pub(crate) fn of_connection(&self, slot: u32) -> impl Iterator<Item = &str> {
        let mut next = self.head(slot).first;
        std::iter::from_fn(move || {
            let node = self.nodes.get(next as usize)?;
            next = node.next;
            Some(&*self.topic(node.topic).shared.name)
        })
    }

    fn head(&self, slot: u32) -> Head {
        self.heads.get(slot as usize).copied().unwrap_or(Head { first: NONE, count: 0 })
    }

    /// The subscription of a connection to a topic: whichever list is shorter is searched.
    fn node_of(&self, slot: u32, topic: u32) -> Option<u32> {
        let head = self.head(slot);
        let subscribers = &self.topic(topic).subscribers;
        if subscribers.len() < head.count as usize {
            return subscribers.iter().find(|other| other.slot == slot).map(|other| other.node);
        }
        let mut next = head.first;
        while next != NONE {
            let node = &self.nodes[next as usize];
            if node.topic == topic {
                return Some(next);
            }
            next = node.next;
        }
        None
    }

    fn create(&mut self, name: &str, policy: SlowSubscriber) -> u32 {
        let shared = self.index.join(name, self.worker);
        let number = self.next_number;
        self.next_number += 1;
        let name = Arc::clone(&shared.name);
        let topic = Topic { shared, number, policy, subscribers: Vec::new() };
        // No more topics than 4-byte nodes can name: each has a subscriber at least.
        let topic = self.topics.insert(topic) as u32;
        self.names.insert(name, topic);
        topic
    }

    fn new_node(&mut self) -> u32 {
        let node = Node { topic: 0, place: 0, next: NONE, previous: NONE };
        if self.first_free == NONE {
            self.nodes.push(node);
            return u32::try_from(self.nodes.len() - 1).expect("64 GiB of nodes do not exist");
        }
        let free = self.first_free;
        self.first_free = self.nodes[free as usize].next;
        free
    }

    fn remove(&mut self, slot: u32, node: u32) -> Change {
        let Node { topic, place, next, previous } = self.nodes[node as usize];
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
        let head = &mut self.heads[slot as usize];
        head.count -= 1;
        if previous == NONE {
            head.first = next;
        } else {
            self.nodes[previous as usize].next = next;
        }
        self.nodes[node as usize].next = self.first_free;
        self.first_free = node;

        let Topic { subscribers, shared, .. } = &mut self.topics[topic as usize];
        subscribers.swap_remove(place as usize);
        if let Some(moved) = subscribers.get(place as usize) {
            self.nodes[moved.node as usize].place = place;
        }
        let before = shared.count_out();
        let change = Change { topic: Arc::clone(&shared.name), before, after: before - 1 };
        if subscribers.is_empty() {
            self.index.leave(shared, self.worker);
            self.names.remove(&change.topic);
            self.topics.remove(topic as usize);
        }
        change
    }
}

impl Drop for Topics {
    /// A worker that stops by an error or a panic leaves no subscribers behind.
    fn drop(&mut self) {
        for (_, topic) in &self.topics {
            for _ in &topic.subscribers {
                topic.shared.count_out();
            }
            self.index.leave(&topic.shared, self.worker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn topics() -> Topics {
        Topics::new(Arc::new(TopicIndex::new(1)), 0)
    }

    #[test]
    fn a_subscription_costs_what_the_documentation_says() {
        assert_eq!((size_of::<Subscriber>(), size_of::<Node>(), size_of::<Head>()), (8, 16, 8));
    }

    #[test]
    fn limits_are_error_values() {
        let mut topics = topics();
        let config = TopicConfig { max_subscriptions: 2, max_topics: 3, ..TopicConfig::default() };
        let long = "x".repeat(MAX_TOPIC_LEN + 1);
        let error = topics.subscribe(0, &long, &config).unwrap_err();
        assert_eq!(error, SubscribeError::TopicTooLong { limit: 256 });
        assert!(topics.subscribe(0, &long[1..], &config).is_ok());
        assert!(topics.subscribe(0, "", &config).is_ok());
        assert!(topics.subscribe(0, "", &config).unwrap().is_none(), "was already");
        let error = topics.subscribe(0, "c", &config).unwrap_err();
        assert_eq!(error, SubscribeError::TooManySubscriptions { limit: 2 });
        assert!(topics.subscribe(1, "c", &config).is_ok());
        let error = topics.subscribe(1, "d", &config).unwrap_err();
        assert_eq!(error, SubscribeError::TooManyTopics { limit: 3 });
        assert!(topics.subscribe(1, "", &config).is_ok(), "not a new one");
        assert_eq!(topics.unsubscribe(1, "").map(|change| change.after), Some(1));
        assert_eq!(topics.index.len(), 3, "a refusal leaves nothing behind");
    }

    #[test]
    fn the_longest_pattern_counts() {
        use SlowSubscriber::{Close, Latest, Queue, Skip};
        let policies = [("*", Skip), ("a/b", Queue), ("a/*", Latest), ("a/b*", Close)];
        let policies = policies.map(|(pattern, policy)| (pattern.into(), policy)).to_vec();
        let config = TopicConfig { policies, ..TopicConfig::default() };
        let of = |topic| config.policy(topic);
        assert_eq!([of("z"), of("a/"), of("a/bc"), of("a/b")], [Skip, Latest, Close, Queue]);
        assert_eq!(TopicConfig::default().policy("z"), Queue);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Subscribe(u32, u8),
        Unsubscribe(u32, u8),
        End(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (0..12_u32, 0..8_u8).prop_map(|(slot, topic)| Step::Subscribe(slot, topic)),
            3 => (0..12_u32, 0..8_u8).prop_map(|(slot, topic)| Step::Unsubscribe(slot, topic)),
            1 => (0..12_u32).prop_map(Step::End),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// The table against a set of pairs.
        #[test]
        fn the_table_is_a_set_of_pairs(steps in prop::collection::vec(step(), 0..200)) {
            let mut topics = topics();
            let config = TopicConfig::default();
            let mut model: BTreeSet<(u32, String)> = BTreeSet::new();
            let count = |model: &BTreeSet<(u32, String)>, name: &str| {
                model.iter().filter(|pair| pair.1 == name).count()
            };
            for step in steps {
                match step {
                    Step::Subscribe(slot, topic) => {
                        let name = format!("topic {topic}");
                        let before = count(&model, &name);
                        let change = topics.subscribe(slot, &name, &config).expect("no limit");
                        prop_assert_eq!(change.is_some(), model.insert((slot, name)));
                        if let Some(change) = change {
                            prop_assert_eq!((change.before, change.after), (before, before + 1));
                        }
                    }
                    Step::Unsubscribe(slot, topic) => {
                        let name = format!("topic {topic}");
                        let change = topics.unsubscribe(slot, &name);
                        prop_assert_eq!(change.is_some(), model.remove(&(slot, name.clone())));
                        if let Some(change) = change {
                            prop_assert_eq!(change.after, count(&model, &name));
                        }
                    }
                    Step::End(slot) => {
                        while let Some(change) = topics.unsubscribe_any(slot) {
                            prop_assert!(model.remove(&(slot, change.topic.to_string())));
                        }
                        prop_assert!(model.iter().all(|pair| pair.0 != slot));
                    }
                }
                // Every view of the table shows the same pairs.
                let mut by_topic: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
                for (slot, name) in &model {
                    by_topic.entry(name).or_default().insert(*slot);
                    prop_assert!(topics.is_subscribed(*slot, name));
                }
                prop_assert_eq!(topics.names.len(), by_topic.len());
                prop_assert_eq!(topics.index.len(), by_topic.len());
                for (name, slots) in by_topic {
                    let topic = topics.topic(topics.find(name).expect("has subscribers"));
                    let found: Vec<u32> = topic.subscribers.iter().map(|s| s.slot).collect();
                    prop_assert_eq!(found.len(), slots.len());
                    prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), slots.clone());
                    prop_assert_eq!(topic.shared.subscribers(), slots.len());
                }
                for slot in 0..12 {
                    let names: BTreeSet<&str> = topics.of_connection(slot).collect();
                    let wanted: BTreeSet<&str> =
                        model.iter().filter(|pair| pair.0 == slot).map(|pair| &*pair.1).collect();
                    prop_assert_eq!(names, wanted);
                }
            }
            let index = Arc::clone(&topics.index);
            drop(topics);
            prop_assert_eq!(index.len(), 0);
        }
    }
}
