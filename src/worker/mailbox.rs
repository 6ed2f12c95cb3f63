//! Commands from other threads, and the figures that other threads read.
//!
//! What comes in: commands, from any thread. What goes out: batches of commands, to the one
//! worker that owns the mailbox. A mailbox is bounded: full is an error value, never a wait.

use std::collections::VecDeque;
use std::mem::take;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, Instant};

// A mailbox is the one thing here that threads meet in without a plan: loom tries every order.
#[cfg(all(test, interleavings))]
use loom::sync::{Mutex, MutexGuard, atomic::AtomicBool};
#[cfg(not(all(test, interleavings)))]
use std::sync::{Mutex, MutexGuard, atomic::AtomicBool};

use super::adopting::Adoption;
use super::dialing::{HandlerSeats, NewDial, Resolved};
use super::paths::Paths;
use super::places::{Place, Places};
use super::topic_index::TopicIndex;
use crate::client::resolver::Resolver;
use crate::config::Config;
use crate::context::WorkerContext;
use crate::driver::listener::TcpOptions;
use crate::driver::{AcceptedSocket, ConnectionId, Waker};
use crate::error::SendError;
use crate::figures::{CloseCodes, Refusals, Tables, TlsFailures, TurnTimes, increase};
use crate::protocol::CloseCode;
use crate::publish::PreparedMessage;
use crate::shutdown::{ShutdownOptions, ShutdownReport};
use crate::tls::Acceptor;

#[cfg(all(test, interleavings))]
mod interleavings;

/// Commands that may wait for one worker.
const CAPACITY: usize = 65_536;

/// What a worker can be asked to do from outside.
#[derive(Debug)]
pub(crate) enum Command {
    /// Send a message; counted as undelivered if the connection has gone or is full.
    Send { id: ConnectionId, text: bool, payload: Box<[u8]> },
    /// The same for a message that was framed before.
    SendPrepared { id: ConnectionId, message: PreparedMessage },
    /// Publish a message to this worker's subscribers of the topic.
    Publish { topic: Arc<str>, message: PreparedMessage, key: Option<u64> },
    /// Look at what another thread did for the request that this connection serves: a decision
    /// about an upgrade, an answer, a piece of its body, the end of a pause.
    Look { id: ConnectionId },
    /// Start the close handshake.
    Close { id: ConnectionId, code: CloseCode, reason: Box<str> },
    /// Make a connection.
    Connect(Box<NewDial>),
    /// End the connection that came of this dial, and the dial.
    Disconnect { dial: u64 },
    /// A host was looked up.
    Resolved(Resolved),
    /// Call a closure.
    Run(Job),
    /// Give a slot to a socket that another worker accepted. Dropping it closes the socket and
    /// gives its place back.
    Settle { socket: AcceptedSocket, place: Place },
    /// The same for one that another server has accepted and upgraded.
    Adopt(Box<Adoption>),
}

/// A closure that runs on a worker's thread.
pub(crate) struct Job(pub(crate) Box<dyn FnOnce(&mut WorkerContext<'_>) + Send>);

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}

impl Command {
    /// True if it carries a message for one connection.
    fn is_send(&self) -> bool {
        matches!(self, Self::Send { .. } | Self::SendPrepared { .. })
    }

    /// True if it carries a connection.
    fn is_newcomer(&self) -> bool {
        matches!(self, Self::Settle { .. } | Self::Adopt(_))
    }
}

/// What was in a mailbox when its worker ended.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) messages: u64,
    /// Sockets, closed now.
    pub(crate) newcomers: u64,
}

#[derive(Debug, Default)]
struct Queue {
    commands: VecDeque<Command>,
    stopped: bool,
}

/// The way into one worker.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    queue: Mutex<Queue>,
    /// A wake-up is under way that the worker has not answered yet.
    awake: AtomicBool,
    waker: OnceLock<Waker>,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while the lock is held; a poisoned queue would still be whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a command and wakes the worker, unless a wake-up is under way already.
    pub(crate) fn post(&self, command: Command) -> Result<(), SendError> {
        {
            let mut queue = self.lock();
            if queue.stopped {
                return Err(SendError::Stopped);
            }
            if queue.commands.len() >= CAPACITY {
                return Err(SendError::MailboxFull);
            }
            queue.commands.push_back(command);
        }
        self.wake();
        Ok(())
    }

    /// The same for commands that cannot be lost and are few by nature: at most one for each
    /// connection. Never full.
    pub(crate) fn post_always(&self, command: Command) -> Result<(), SendError> {
        self.post_newcomer(command).map_err(|_command| SendError::Stopped)
    }

    /// The same; gives the command back if the worker has ended.
    pub(crate) fn post_newcomer(&self, command: Command) -> Result<(), Command> {
        {
            let mut queue = self.lock();
            if queue.stopped {
                return Err(command);
            }
            queue.commands.push_back(command);
        }
        self.wake();
        Ok(())
    }

    /// Makes the worker look at its mailbox.
    pub(crate) fn wake(&self) {
        // The order matters: a command is queued before `awake` is read here, and `take` clears
        // `awake` before it looks at the queue. So either this swap sees `false` and wakes, or
        // the worker has yet to look and finds the command. That `take` swaps, too, makes it see
        // everything before this swap, the grace of a shutdown included, which no lock guards.
        if !self.awake.swap(true, Ordering::AcqRel)
            && let Some(waker) = self.waker.get()
        {
            waker.wake();
        }
    }

    /// Whether somebody has woken the worker that has not looked since. For one that does not
    /// sleep.
    pub(crate) fn has_news(&self) -> bool {
        self.awake.load(Ordering::Acquire)
    }

    /// Moves all commands into `batch`, which must be empty.
    pub(crate) fn take(&self, batch: &mut VecDeque<Command>) {
        self.awake.swap(false, Ordering::AcqRel);
        std::mem::swap(&mut self.lock().commands, batch);
    }

    /// The worker runs and can be woken; commands posted earlier wake it now.
    pub(crate) fn open(&self, waker: Waker) {
        waker.wake();
        let _ = self.waker.set(waker);
    }

    /// The worker has ended: later commands are refused, waiting ones are dropped and counted.
    pub(crate) fn stop(&self) -> Lost {
        let mut queue = self.lock();
        queue.stopped = true;
        let commands = take(&mut queue.commands);
        // What a closure owns may use this very mailbox when it is dropped.
        drop(queue);
        let count = |which: fn(&Command) -> bool| {
            commands.iter().filter(|command| which(command)).count() as u64
        };
        Lost { messages: count(Command::is_send), newcomers: count(Command::is_newcomer) }
    }
}

/// What all workers and handles of one server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) mailboxes: Vec<Mailbox>,
    /// Who has a place, on which worker.
    pub(crate) places: Arc<Places>,
    pub(crate) paths: Arc<Paths>,
    /// Of sockets that come without a listener of ours.
    pub(crate) tcp: TcpOptions,
    /// Milliseconds that the shutdown may take from the moment a worker notices; `NOT_STOPPING`
    /// until someone asks.
    pub(crate) shutdown_grace_ms: AtomicU64,
    pub(crate) topics: Arc<TopicIndex>,
    pub(crate) resolver: Resolver,
    /// Dials so far.
    pub(crate) dials: AtomicU64,
    /// By worker, for handlers that come with a dial.
    pub(crate) handler_seats: Vec<HandlerSeats>,
    /// See [`ShutdownOptions`]; they say nothing until `shutdown_grace_ms` does.
    pub(crate) shutdown_spread_ms: AtomicU64,
    pub(crate) shutdown_announce_ms: AtomicU64,
    /// When the first one asked.
    asked: OnceLock<Instant>,
    /// The sum of the workers that have ended.
    report: Mutex<ShutdownReport>,
    /// Set when the server has ended.
    final_report: OnceLock<ShutdownReport>,
    /// One per worker, who is the only one to write to it.
    pub(crate) counters: Vec<Arc<Counters>>,
    /// What connections that are accepted have to speak; `None` is plaintext.
    pub(crate) tls: Option<Acceptor>,
    /// What other threads than the workers add to [`Stats::undelivered`].
    pub(crate) undelivered: AtomicU64,
    /// What other threads than the workers add to [`Stats::publish_refused`].
    pub(crate) publish_refused: AtomicU64,
}

/// Value of `shutdown_grace_ms` while nobody asked for a shutdown.
pub(crate) const NOT_STOPPING: u64 = u64::MAX;

impl Shared {
    pub(crate) fn new(config: &Config, paths: Arc<Paths>) -> Self {
        let workers = usize::from(config.workers);
        let (max, max_per_ip) = (config.max_connections, config.max_connections_per_ip);
        let handlers = paths.handlers();
        Self {
            mailboxes: (0..workers).map(|_| Mailbox::default()).collect(),
            places: Arc::new(Places::new(workers, max, max_per_ip)),
            paths,
            tcp: config.tcp_options(),
            shutdown_grace_ms: AtomicU64::new(NOT_STOPPING),
            topics: Arc::new(TopicIndex::new(workers)),
            resolver: Resolver::default(),
            dials: AtomicU64::new(0),
            handler_seats: (0..workers).map(|_| HandlerSeats::beside(handlers)).collect(),
            shutdown_spread_ms: AtomicU64::new(u64::MAX),
            shutdown_announce_ms: AtomicU64::new(u64::MAX),
            asked: OnceLock::new(),
            report: Mutex::default(),
            final_report: OnceLock::new(),
            counters: (0..workers).map(|_| Arc::default()).collect(),
            tls: None,
            undelivered: AtomicU64::new(0),
            publish_refused: AtomicU64::new(0),
        }
    }

    /// Refuses every command from now on and counts those that nobody took. Stopping a mailbox
    /// twice does nothing.
    pub(crate) fn stop_mailboxes(&self) {
        for mailbox in &self.mailboxes {
            self.undelivered.fetch_add(mailbox.stop().messages, Ordering::Relaxed);
        }
    }

    /// True once somebody asked for a shutdown.
    pub(crate) fn is_stopping(&self) -> bool {
        self.shutdown_grace_ms.load(Ordering::Acquire) != NOT_STOPPING
    }

    /// True once workers take no new connections any more, or will not in a moment.
    pub(crate) fn refuses_newcomers(&self) -> bool {
        let announced_ms = self.shutdown_announce_ms.load(Ordering::Acquire);
        self.is_stopping()
            && self
                .asked
                .get()
                .is_none_or(|asked| asked.elapsed().as_millis() >= announced_ms.into())
    }

    /// Asks all workers to stop; the shortest of several requests wins, figure by figure.
    pub(crate) fn shut_down(&self, options: impl Into<ShutdownOptions>) {
        let ShutdownOptions { grace_ms, spread_ms, announce_ms } = options.into();
        self.asked.get_or_init(Instant::now);
        self.shutdown_spread_ms.fetch_min(spread_ms, Ordering::AcqRel);
        self.shutdown_announce_ms.fetch_min(announce_ms, Ordering::AcqRel);
        self.shutdown_grace_ms.fetch_min(grace_ms.min(NOT_STOPPING - 1), Ordering::AcqRel);
        for mailbox in &self.mailboxes {
            mailbox.wake();
        }
    }

    /// A worker has ended.
    pub(crate) fn add_report(&self, report: &ShutdownReport) {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).add(report);
    }

    /// The server has ended.
    pub(crate) fn finish_report(&self) -> ShutdownReport {
        *self.final_report.get_or_init(|| ShutdownReport {
            duration: self.asked.get().map_or(Duration::ZERO, Instant::elapsed),
            ..*self.report.lock().unwrap_or_else(PoisonError::into_inner)
        })
    }

    /// What [`Self::finish_report`] said.
    pub(crate) fn final_report(&self) -> Option<ShutdownReport> {
        self.final_report.get().copied()
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Figures of a server since it was built, all workers together.
        ///
        /// Read without stopping the workers: each figure is exact as of the last turn of each
        /// worker, but they may be from different turns.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            /// Connections that hold a slot now, the opening and closing ones included.
            pub connections: u64,
            /// Bytes that wait now for sockets that are full.
            pub buffered_bytes: u64,
            /// Closes that peers sent, by code.
            pub closes_received: CloseCodes,
            /// Closes sent to peers, by code.
            pub closes_sent: CloseCodes,
            /// Requests that were refused, by reason. Answers of the application with an error
            /// status are in `refused` only.
            pub refusals: Refusals,
            /// TLS connections that failed, by reason, in the handshake or later.
            pub tls_failures: TlsFailures,
            /// How long the turns of the workers took.
            pub turns: TurnTimes,
            $($(#[$doc])* pub $name: u64,)*
        }

        /// What one worker has published. Alone in its cache lines, so that no worker waits for
        /// another.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct Counters {
            pub(crate) buffered_bytes: AtomicU64,
            pub(crate) tables: Tables,
            $($name: AtomicU64,)*
        }

        /// What one worker counted: these four since it began, the others since it last published.
        #[derive(Debug, Default)]
        pub(crate) struct Tally {
            pub(crate) messages_received: u64,
            pub(crate) messages_sent: u64,
            pub(crate) bytes_received: u64,
            pub(crate) bytes_sent: u64,
            rare: Rare,
            /// One of those was perhaps counted.
            rare_changed: bool,
        }

        /// All figures. The four that change in most turns stay zero here.
        #[derive(Debug, Default)]
        pub(crate) struct Rare {
            $(pub(crate) $name: u64,)*
        }

        impl Counters {
            /// Takes over the worker's tally.
            #[inline]
            pub(crate) fn publish(&self, tally: &mut Tally) {
                self.messages_received.store(tally.messages_received, Ordering::Relaxed);
                self.messages_sent.store(tally.messages_sent, Ordering::Relaxed);
                self.bytes_received.store(tally.bytes_received, Ordering::Relaxed);
                self.bytes_sent.store(tally.bytes_sent, Ordering::Relaxed);
                if tally.rare_changed {
                    self.add_rare(tally);
                }
            }

            #[cold]
            fn add_rare(&self, tally: &mut Tally) {
                tally.rare_changed = false;
                $(increase(&self.$name, take(&mut tally.rare.$name));)*
            }

            fn add_to(&self, stats: &mut Stats) {
                $(stats.$name += self.$name.load(Ordering::Relaxed);)*
                stats.buffered_bytes += self.buffered_bytes.load(Ordering::Relaxed);
                self.tables.add_to(
                    &mut stats.closes_received,
                    &mut stats.closes_sent,
                    &mut stats.refusals,
                    &mut stats.tls_failures,
                    &mut stats.turns,
                );
            }
        }

        impl Shared {
            pub(crate) fn stats(&self) -> Stats {
                let connections = self.places.taken() as u64;
                let mut stats = Stats { connections, ..Stats::default() };
                self.counters.iter().for_each(|counters| counters.add_to(&mut stats));
                stats.undelivered += self.undelivered.load(Ordering::Relaxed);
                stats.publish_refused += self.publish_refused.load(Ordering::Relaxed);
                stats
            }
        }
    };
}

impl Deref for Tally {
    type Target = Rare;

    fn deref(&self) -> &Rare {
        &self.rare
    }
}

impl DerefMut for Tally {
    /// Whoever counts something rare says so by the way.
    fn deref_mut(&mut self) -> &mut Rare {
        self.rare_changed = true;
        &mut self.rare
    }
}

counters! {
    /// TCP or Unix connections accepted.
    accepted,
    /// Connections taken over with [`Handle::adopt`](crate::Handle::adopt); not in `accepted`.
    adopted,
    /// TLS handshakes completed.
    tls_handshakes,
    /// Those of them that resumed an earlier session.
    tls_resumed,
    /// Opening handshakes completed, as server and as client, those of adopted connections included.
    opened,
    /// Heads of HTTP requests that arrived whole, upgrade requests included.
    requests,
    /// Attempts to connect to a server, the failed ones included.
    dialled,
    /// Attempts that did not lead to an open connection.
    dial_failures,
    /// Connections closed at once, because their address had `max_connections_per_ip` already.
    refused_per_ip,
    /// Requests answered with an HTTP error status.
    refused,
    /// `on_close` calls.
    closed,
    /// Messages delivered to handlers.
    messages_received,
    /// Messages taken for sending, one per connection they go to.
    messages_sent,
    /// Bytes received from peers, requests, frame headers, and the records and handshakes of TLS
    /// included.
    bytes_received,
    /// Bytes taken by the kernel for peers, HTTP answers, frame headers, and the records and
    /// handshakes of TLS included.
    bytes_sent,
    /// Messages refused because a queue would have passed `max_backpressure`; the caller was
    /// told.
    dropped,
    /// Published messages that a subscriber missed because its queue would have passed
    /// `max_backpressure`.
    publish_full,
    /// Published messages that a subscriber missed because it was behind
    /// ([`SlowSubscriber::Skip`](crate::SlowSubscriber::Skip)).
    publish_skipped,
    /// Published messages that a subscriber missed because the application was in the middle of a
    /// streamed message to it.
    publish_streaming,
    /// Published messages that were taken for a subscriber, and given up for a newer one
    /// ([`SlowSubscriber::Latest`](crate::SlowSubscriber::Latest)).
    publish_replaced,
    /// Published messages that a worker with subscribers did not get, because its mailbox was
    /// full or it had stopped.
    publish_refused,
    /// Messages refused because a worker's queues would have passed `max_worker_backpressure`; the
    /// caller was told.
    dropped_worker_full,
    /// Messages and fragments refused because of the order of a message that is sent in fragments;
    /// the caller was told.
    dropped_out_of_order,
    /// Messages posted to another worker that found their connection gone or full, or the worker
    /// stopped.
    undelivered,
    /// Panics of handlers and sessions; each costs no more than its connection.
    handler_panics,
    /// Receives that found no provided buffer and were tried again (io_uring only). Many of them
    /// say that `receive_buffer` is small for this load.
    receive_buffers_exhausted,
    /// Events of the kernel for connections that had gone already: ignored.
    stale_events,
    /// Times that accepting was paused because descriptors or memory had run out.
    accept_pauses,
}

#[cfg(all(test, not(interleavings)))]
mod tests {
    use super::*;

    fn close(slot: u32) -> Command {
        let id = ConnectionId::new(0, slot, 1);
        Command::Close { id, code: CloseCode::NORMAL, reason: "".into() }
    }

    #[test]
    fn a_full_mailbox_is_an_error_value() {
        let mailbox = Mailbox::default();
        for slot in 0..CAPACITY {
            mailbox.post(close(slot as u32)).expect("room");
        }
        assert_eq!(mailbox.post(close(0)), Err(SendError::MailboxFull));
        let mut batch = VecDeque::new();
        mailbox.take(&mut batch);
        assert_eq!(batch.len(), CAPACITY);
        assert_eq!(mailbox.post(close(0)), Ok(()));
    }

    #[test]
    fn a_stopped_mailbox_counts_what_it_lost_and_refuses_more() {
        let mailbox = Mailbox::default();
        let id = ConnectionId::new(0, 0, 1);
        let send = Command::Send { id, text: true, payload: Box::from(*b"x") };
        mailbox.post(send).expect("room");
        mailbox.post(close(0)).expect("room");
        assert_eq!(mailbox.stop(), Lost { messages: 1, newcomers: 0 });
        assert_eq!(mailbox.post(close(0)), Err(SendError::Stopped));
    }

    #[test]
    fn one_wake_up_serves_a_batch_and_none_is_lost() {
        let mailbox = Mailbox::default();
        let flag = Arc::new(AtomicBool::new(false));
        mailbox.open(Waker::Simulated(Arc::clone(&flag)));
        flag.store(false, Ordering::Release);
        mailbox.post(close(0)).expect("room");
        assert!(flag.swap(false, Ordering::AcqRel), "the first post wakes");
        mailbox.post(close(1)).expect("room");
        assert!(!flag.load(Ordering::Acquire), "the second finds a wake-up under way");
        let mut batch = VecDeque::new();
        mailbox.take(&mut batch);
        assert_eq!(batch.len(), 2);
        mailbox.post(close(2)).expect("room");
        assert!(flag.load(Ordering::Acquire), "after the worker looked, a post wakes again");
    }
}
