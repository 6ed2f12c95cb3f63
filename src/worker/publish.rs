//! Publishing: one frame to all subscribers of a topic, on every worker.
//!
//! What comes in: messages for a topic, from handlers, other workers and other threads. What goes
//! out: the frame in the queue of each subscriber, commands for the other workers, and notices:
//! what the handlers of subscribers have to learn, after the publisher's method has returned.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::mailbox::{Command, Shared};
use super::route::{Call, Outcome};
use super::topics::{Change, Subscriber, Topic};
use super::{Core, Crank};
use crate::connection::Phase;
use crate::driver::ConnectionId;
use crate::error::{CloseCause, SendError};
use crate::outgoing::{LatestKey, Outgoing, SHARE_FROM};
use crate::protocol::CloseCode;
use crate::protocol::frame::append_masked_copy;
use crate::publish::{
    DropReason, Dropped, Form, Frame, PreparedMessage, Publication, Published, SlowSubscriber,
    SubscribeError, Subscription,
};
use crate::random::masking_key;
use crate::websocket::SendStatus;

/// Something that the handler of a connection has to learn.
#[derive(Debug)]
struct Notice {
    id: ConnectionId,
    news: News,
}

#[derive(Debug)]
enum News {
    Changed(Change),
    Dropped { topic: Arc<str>, reason: DropReason, count: u64 },
}

impl News {
    fn call(&self) -> Call<'_> {
        match self {
            Self::Changed(change) => Call::Subscription(Subscription {
                topic: &change.topic,
                before: change.before,
                after: change.after,
            }),
            Self::Dropped { topic, reason, count } => {
                Call::Dropped(Dropped { topic, reason: *reason, count: *count })
            }
        }
    }
}

/// What handlers have to learn, in the order in which it happened.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    queue: Vec<Notice>,
    /// Where in the queue the drops of one kind are counted.
    drops: HashMap<(ConnectionId, u64, DropReason), usize>,
}

impl Notices {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    fn changed(&mut self, id: ConnectionId, change: Change) {
        self.queue.push(Notice { id, news: News::Changed(change) });
    }

    fn dropped(&mut self, id: ConnectionId, number: u64, topic: &Arc<str>, reason: DropReason) {
        let place = self.queue.len();
        let place = *self.drops.entry((id, number, reason)).or_insert(place);
        match self.queue.get_mut(place) {
            Some(Notice { news: News::Dropped { count, .. }, .. }) => *count += 1,
            _ => {
                let topic = Arc::clone(topic);
                self.queue.push(Notice { id, news: News::Dropped { topic, reason, count: 1 } });
            }
        }
    }

    fn take(&mut self) -> Vec<Notice> {
        self.drops.clear();
        std::mem::take(&mut self.queue)
    }

    /// Takes those of one connection.
    fn take_of(&mut self, id: ConnectionId) -> Vec<Notice> {
        if self.queue.iter().all(|notice| notice.id != id) {
            return Vec::new();
        }
        self.drops.clear();
        self.queue.extract_if(.., |notice| notice.id == id).collect()
    }
}

impl Core {
    pub(crate) fn subscribe(
        &mut self,
        id: ConnectionId,
        topic: &str,
    ) -> Result<bool, SubscribeError> {
        if !self.table.get(id).is_some_and(|c| matches!(c.phase, Phase::Live(_))) {
            return Err(SubscribeError::Gone);
        }
        let change = self.topics.subscribe(id.slot() as u32, topic, &self.config.topics)?;
        let is_new = change.is_some();
        if let Some(change) = change {
            self.notices.changed(id, change);
        }
        Ok(is_new)
    }

    pub(crate) fn unsubscribe(&mut self, id: ConnectionId, topic: &str) -> bool {
        if self.table.get(id).is_none() {
            return false;
        }
        let Some(change) = self.topics.unsubscribe(id.slot() as u32, topic) else { return false };
        self.notices.changed(id, change);
        true
    }

    pub(crate) fn is_subscribed(&self, id: ConnectionId, topic: &str) -> bool {
        self.table.get(id).is_some() && self.topics.is_subscribed(id.slot() as u32, topic)
    }

    /// Publishes to everybody but `except`.
    pub(crate) fn publish(
        &mut self,
        topic: &str,
        publication: Publication<'_>,
        except: Option<ConnectionId>,
    ) -> Published {
        let mut published = Published::default();
        let here = self.topics.find(topic);
        let elsewhere = match here {
            _ if self.shared.mailboxes.len() == 1 => None,
            Some(here) => Some(Arc::clone(&self.topics.topic(here).shared)),
            None => self.shared.topics.find(topic),
        };
        if here.is_none() && elsewhere.is_none() {
            return published;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut frame = publication.frame(&mut scratch, SHARE_FROM);
        if let Some(here) = here {
            let key = publication.latest_key();
            published = self.publish_here(here, &mut frame, key, except);
        }
        if let Some(elsewhere) = elsewhere {
            let own = usize::from(self.worker);
            for worker in elsewhere.workers().filter(|worker| *worker != own) {
                let command = Command::Publish {
                    topic: Arc::clone(&elsewhere.name),
                    message: frame.prepared().clone(),
                    key: publication.latest_key(),
                };
                match self.shared.mailboxes[worker].post(command) {
                    Ok(()) => published.posted += 1,
                    Err(_) => published.refused += 1,
                }
            }
            self.tally.publish_refused += published.refused as u64;
        }
        self.scratch = scratch;
        published
    }

    /// The same for a message that another thread published.
    pub(crate) fn publish_posted(
        &mut self,
        topic: &str,
        message: &PreparedMessage,
        key: Option<u64>,
    ) {
        if let Some(here) = self.topics.find(topic) {
            let mut unused = Vec::new();
            let mut frame = Publication::from(message).frame(&mut unused, 0);
            self.publish_here(here, &mut frame, key, None);
        }
    }

    fn publish_here(
        &mut self,
        topic: u32,
        frame: &mut Frame<'_>,
        key: Option<u64>,
        except: Option<ConnectionId>,
    ) -> Published {
        let except = except.map(|id| id.slot() as u32);
        // Nothing below subscribes or unsubscribes anybody: that is for handlers.
        let subscribers = std::mem::take(&mut self.topics.topic_mut(topic).subscribers);
        let published = if frame.bytes().len() < SHARE_FROM {
            self.queue_for_all::<false>(&subscribers, topic, frame, key, except)
        } else {
            self.queue_for_all::<true>(&subscribers, topic, frame, key, except)
        };
        self.topics.topic_mut(topic).subscribers = subscribers;
        self.tally.messages_sent += published.queued as u64;
        published
    }

    /// Queues a frame for every subscriber: short ones are copied, long ones shared. Two loops of one
    /// text, for this is where the time of a publish goes.
    fn queue_for_all<const SHARED: bool>(
        &mut self,
        subscribers: &[Subscriber],
        topic: u32,
        frame: &mut Frame<'_>,
        key: Option<u64>,
        except: Option<u32>,
    ) -> Published {
        let mut published = Published::default();
        let high_water = self.config.high_water();
        for &Subscriber { slot, .. } in subscribers {
            if Some(slot) == except {
                continue;
            }
            let Some((id, connection)) = self.table.at_mut(slot) else { continue };
            let Phase::Live(live) = &mut connection.phase else { continue };
            if !live.endpoint.may_send() {
                if live.endpoint.is_open() {
                    published.dropped += 1;
                    self.note_drop(id, topic, DropReason::Streaming);
                }
                continue;
            }
            let client = live.client;
            let form = frame.form_for(&live.endpoint, &mut self.buffers);
            let outgoing = connection.outgoing.get_or_insert_with(|| self.outgoing.take());
            let bytes = frame.bytes_of(form);
            if client || connection.blocked || outgoing.unsent_len() + bytes.len() > high_water {
                self.offer(id, topic, frame, key, &mut published);
                continue;
            }
            if SHARED {
                queue(outgoing, frame, form);
            } else {
                outgoing.append().extend_from_slice(bytes);
            }
            if form != Form::Plain {
                live.endpoint.note_shared_message(frame.payload());
            }
            published.queued += 1;
            if !connection.dirty {
                connection.dirty = true;
                self.dirty.push(id);
            }
        }
        published
    }

    /// Offers a frame to a subscriber that is behind, or whose queue is long, or that is a server.
    #[cold]
    fn offer(
        &mut self,
        id: ConnectionId,
        topic: u32,
        frame: &mut Frame<'_>,
        key: Option<u64>,
        published: &mut Published,
    ) {
        let Topic { policy, number, .. } = *self.topics.topic(topic);
        match self.queue_frame(id, policy, LatestKey { topic: number, key }, frame) {
            Queued::Taken => published.queued += 1,
            Queued::Replacing => {
                published.queued += 1;
                self.note_drop(id, topic, DropReason::Replaced);
            }
            Queued::Refused { reason, replaced } => {
                published.dropped += 1;
                if replaced {
                    self.note_drop(id, topic, DropReason::Replaced);
                }
                self.note_drop(id, topic, reason);
                if policy == SlowSubscriber::Close {
                    self.close(id, CloseCode::TRY_AGAIN_LATER, "too slow for this topic");
                }
            }
        }
    }

    fn note_drop(&mut self, id: ConnectionId, topic: u32, reason: DropReason) {
        match reason {
            DropReason::Full => self.tally.publish_full += 1,
            DropReason::Skipped => self.tally.publish_skipped += 1,
            DropReason::Streaming => self.tally.publish_streaming += 1,
            DropReason::Replaced => self.tally.publish_replaced += 1,
        }
        let Topic { number, shared, .. } = self.topics.topic(topic);
        self.notices.dropped(id, *number, &shared.name, reason);
    }

    /// Queues a frame as the policy says, after the socket had its chance to take what waits.
    fn queue_frame(
        &mut self,
        id: ConnectionId,
        policy: SlowSubscriber,
        key: LatestKey,
        frame: &mut Frame<'_>,
    ) -> Queued {
        self.look_again = true;
        let refused = |reason| Queued::Refused { reason, replaced: false };
        let max_backpressure = self.config.max_backpressure;
        let high_water = self.config.high_water();
        let len = frame.bytes().len();
        let long = self.table.unsent_len(id) + len > high_water;
        if long && self.table.get(id).is_some_and(|connection| !connection.blocked) {
            self.flush(id);
        }
        let form = match self.table.get(id).map(|connection| &connection.phase) {
            // The latest value may leave behind messages that are sent after it, in whose window
            // it would be missing.
            Some(Phase::Live(live))
                if policy != SlowSubscriber::Latest || !live.endpoint.takes_over() =>
            {
                frame.form_for(&live.endpoint, &mut self.buffers)
            }
            _ => Form::Plain,
        };
        let len = frame.bytes_of(form).len();
        let over_limit = self.is_over_limit(len);
        let Some(connection) = self.table.get_mut(id) else { return refused(DropReason::Full) };
        let over_limit = over_limit && connection.blocked;
        let client = matches!(&connection.phase, Phase::Live(live) if live.client);
        let outgoing = connection.outgoing.get_or_insert_with(|| self.outgoing.take());
        let fits = |unsent: usize| !over_limit && (unsent == 0 || unsent + len <= max_backpressure);
        let queued = match policy {
            SlowSubscriber::Skip if connection.blocked => return refused(DropReason::Skipped),
            SlowSubscriber::Latest if connection.blocked => {
                // The older one goes in any case: nobody shall take it for the newest.
                let replaced = outgoing.unpark(key);
                if !fits(outgoing.unsent_len()) {
                    return Queued::Refused { reason: DropReason::Full, replaced };
                }
                outgoing.park(key, frame_for(client, frame, form));
                if replaced { Queued::Replacing } else { Queued::Taken }
            }
            _ if !fits(outgoing.unsent_len()) => return refused(DropReason::Full),
            _ => {
                if client {
                    append_masked_copy(frame.bytes_of(form), masking_key(), outgoing.append());
                } else {
                    queue(outgoing, frame, form);
                }
                Queued::Taken
            }
        };
        if form != Form::Plain
            && let Phase::Live(live) = &mut connection.phase
        {
            live.endpoint.note_shared_message(frame.payload());
        }
        if connection.blocked {
            self.note_buffered(id);
        }
        self.mark_dirty(id);
        queued
    }

    /// Sends a prepared message to a connection of this worker.
    pub(crate) fn send_prepared(
        &mut self,
        id: ConnectionId,
        message: &PreparedMessage,
    ) -> Result<SendStatus, SendError> {
        let high_water = self.config.high_water();
        let Some(connection) = self.table.get_mut(id) else { return Err(SendError::Gone) };
        let Phase::Live(live) = &mut connection.phase else { return Err(SendError::Gone) };
        if !live.endpoint.is_open() {
            return Err(SendError::Gone);
        }
        if !live.endpoint.may_send() {
            self.tally.dropped_out_of_order += 1;
            return Err(SendError::OutOfOrder);
        }
        let client = live.client;
        let outgoing = connection.outgoing.get_or_insert_with(|| self.outgoing.take());
        let compressed = message.frame_for(&live.endpoint, &mut self.buffers);
        let shared = compressed.as_ref().unwrap_or(message.frame());
        let (blocked, len) = (connection.blocked, shared.len());
        if client || blocked || outgoing.unsent_len() + len > high_water {
            let over_limit = blocked && self.is_over_limit(len);
            let mut unused = Vec::new();
            let mut frame = Publication::from(message).frame(&mut unused, 0);
            let key = LatestKey { topic: 0, key: None };
            if self.queue_frame(id, SlowSubscriber::Queue, key, &mut frame) != Queued::Taken {
                match over_limit {
                    true => self.tally.dropped_worker_full += 1,
                    false => self.tally.dropped += 1,
                }
                return Err(SendError::Full);
            }
        } else {
            if shared.len() < SHARE_FROM {
                outgoing.append().extend_from_slice(shared);
            } else {
                outgoing.append_shared(Arc::clone(shared));
            }
            if compressed.is_some() {
                live.endpoint.note_shared_message(message.payload());
            }
            self.mark_dirty(id);
        }
        self.tally.messages_sent += 1;
        let blocked = self.table.get(id).is_some_and(|connection| connection.blocked);
        Ok(if blocked { SendStatus::Queued } else { SendStatus::Sent })
    }

    /// The same for a connection of any worker.
    pub(crate) fn send_prepared_to(
        &mut self,
        id: ConnectionId,
        message: &PreparedMessage,
    ) -> Result<SendStatus, SendError> {
        if id.worker() == self.worker {
            return self.send_prepared(id, message);
        }
        post_prepared(&self.shared, id, message)?;
        Ok(SendStatus::Queued)
    }
}

/// Appends a frame to a queue: short ones as a copy.
fn queue(outgoing: &mut Outgoing, frame: &mut Frame<'_>, form: Form) {
    let bytes = frame.bytes_of(form);
    if bytes.len() < SHARE_FROM {
        outgoing.append().extend_from_slice(bytes);
    } else {
        outgoing.append_shared(frame.shared(form));
    }
}

/// The frame as it can be kept for this subscriber: a server gets a masked copy of its own.
fn frame_for(client: bool, frame: &mut Frame<'_>, form: Form) -> Arc<[u8]> {
    if !client {
        return frame.shared(form);
    }
    let mut masked = Vec::new();
    append_masked_copy(frame.bytes_of(form), masking_key(), &mut masked);
    masked.into()
}

/// What became of a frame that a subscriber was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queued {
    Taken,
    /// Taken in the place of an older one.
    Replacing,
    /// Not taken. An older one may have been given up all the same.
    Refused {
        reason: DropReason,
        replaced: bool,
    },
}

impl Crank {
    /// Tells handlers what happened to their connections' subscriptions. What they cause by that
    /// is told in the next turn, which comes at once.
    pub(super) fn notify(&mut self) {
        for Notice { id, news } in self.core.notices.take() {
            let Some(connection) = self.core.table.get(id) else { continue };
            let Phase::Live(live) = &connection.phase else { continue };
            let (route, session) = (usize::from(live.route), live.session);
            if self.routes[route].call(&mut self.core, id, session, news.call())
                == Outcome::Panicked
            {
                self.end(id, CloseCause::HandlerPanicked);
            }
            self.bury();
        }
    }

    /// Ends the subscriptions of a connection that is no longer live, and tells its handler, which
    /// will be told of its end next. Gives the number of calls that panicked.
    pub(super) fn unsubscribe_all(&mut self, id: ConnectionId, route: u16, session: u32) -> u64 {
        let slot = id.slot() as u32;
        let mut panics = 0;
        let mut call = |core: &mut Core, news: &News| {
            let outcome = self.routes[usize::from(route)].call(core, id, session, news.call());
            panics += u64::from(outcome == Outcome::Panicked);
        };
        let core = &mut self.core;
        for Notice { news, .. } in core.notices.take_of(id) {
            call(core, &news);
        }
        while let Some(change) = core.topics.unsubscribe_any(slot) {
            call(core, &News::Changed(change));
        }
        panics
    }
}

/// Posts a prepared message to the mailbox of the connection's worker.
pub(crate) fn post_prepared(
    shared: &Shared,
    id: ConnectionId,
    message: &PreparedMessage,
) -> Result<(), SendError> {
    let mailbox = shared.mailboxes.get(usize::from(id.worker())).ok_or(SendError::Gone)?;
    mailbox.post(Command::SendPrepared { id, message: message.clone() })
}

/// Posts a message to every worker with subscribers of a topic, from outside of all workers.
pub(crate) fn publish_from_outside(
    shared: &Shared,
    topic: &str,
    publication: Publication<'_>,
) -> Published {
    let mut published = Published::default();
    let Some(topic) = shared.topics.find(topic) else { return published };
    let message = publication.prepare();
    for worker in topic.workers() {
        let (topic, message) = (Arc::clone(&topic.name), message.clone());
        let command = Command::Publish { topic, message, key: publication.latest_key() };
        match shared.mailboxes[worker].post(command) {
            Ok(()) => published.posted += 1,
            Err(_) => published.refused += 1,
        }
    }
    if published.refused > 0 {
        let publish_refused = published.refused as u64;
        shared.publish_refused.fetch_add(publish_refused, Ordering::Relaxed);
    }
    published
}
