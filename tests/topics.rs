//! Publish/subscribe: who gets what, in which order, and who is told what it missed.

mod common;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, Peer, TestServer};
use wirelane::{
    Close, CloseCause, Driver, DropReason, Dropped, Handler, Message, PreparedMessage, Publication,
    Published, ServerBuilder, SlowSubscriber, SubscribeError, Subscription, WebSocket,
};

on_every_driver!(
    others_get_it_and_all_get_it,
    a_publisher_need_not_subscribe,
    messages_keep_their_order_among_sends,
    long_and_short_messages_keep_their_order,
    every_worker_is_reached_in_order,
    threads_publish_in_their_order,
    a_subscription_ends_when_asked,
    a_subscription_ends_with_its_connection,
    limits_are_answered,
    changes_are_told_with_counts,
    prepared_messages_reach_everybody,
    a_full_queue_drops_and_says_so,
    skipped_messages_are_counted,
    the_latest_value_replaces_older_ones,
    each_key_has_its_latest_value,
    who_is_too_slow_is_closed,
    what_waits_leaves_before_a_close,
    a_drop_is_told_after_the_publisher_has_returned,
    a_panic_over_a_drop_costs_one_connection,
    a_publication_without_subscribers_is_nothing,
);

/// What a handler was told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Published(Published),
    Subscribe(Result<bool, SubscribeError>),
    Changed(String, usize, usize),
    Dropped(String, DropReason, u64),
    Closed(CloseCause),
}

/// Obeys commands, the words of a text message: `sub T`, `unsub T`, `pub T M`, `all T M`,
/// `key T K M`, `send M`, `big T LEN COUNT`, `topics`, `prepared T M`.
struct Obedient {
    told: Sender<Told>,
}

impl Obedient {
    fn tell(&self, told: Told) {
        // The test may have seen enough.
        let _ = self.told.send(told);
    }
}

impl Handler for Obedient {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        let Message::Text(text) = message else { panic!("a command is text") };
        // The last word is a message, and may hold blanks.
        let most = match text.split(' ').next() {
            Some("send" | "sub" | "unsub") => 2,
            Some("pub" | "all" | "prepared") => 3,
            _ => 4,
        };
        let words: Vec<&str> = text.splitn(most, ' ').collect();
        match words[..] {
            ["sub", topic] => self.tell(Told::Subscribe(ws.subscribe(topic))),
            ["unsub", topic] => {
                let was = ws.unsubscribe(topic);
                assert!(!ws.is_subscribed(topic));
                ws.send(if was { "unsubscribed" } else { "was not" });
            }
            ["pub", topic, message] => self.tell(Told::Published(ws.publish(topic, message))),
            ["all", topic, message] => {
                self.tell(Told::Published(ws.publish_to_all(topic, message)))
            }
            ["key", topic, key, message] => {
                let key = key.parse().expect("a number");
                ws.publish(topic, Publication::from(message).key(key));
            }
            ["prepared", topic, message] => {
                let message = PreparedMessage::text(message);
                ws.publish_to_all(topic, &message);
                ws.send_prepared(&message);
            }
            ["big", topic, len, count] => {
                let len: usize = len.parse().expect("a number");
                for number in 0..count.parse::<u64>().expect("a number") {
                    ws.publish(topic, &number.to_be_bytes().repeat(len / 8));
                }
            }
            ["send", message] => _ = ws.send(message),
            ["topics"] => {
                let mut topics: Vec<String> = ws.topics().map(str::to_owned).collect();
                topics.sort();
                ws.send(&topics.join(","));
            }
            ["mixed", topic] => {
                // Every way to send, with short and long messages.
                for number in 0..40_usize {
                    let message = format!("{number:04}").repeat(1 + number * 97 % 1700);
                    match number % 4 {
                        0 => _ = ws.send(&message),
                        1 => _ = ws.publish_to_all(topic, &message),
                        2 => _ = ws.send_prepared(&PreparedMessage::text(&message)),
                        _ => _ = ws.publish_to_all(topic, &PreparedMessage::text(&message)),
                    }
                }
            }
            _ => panic!("what is {text:?}?"),
        }
    }

    fn on_dropped(&mut self, _ws: &mut WebSocket<'_, ()>, dropped: Dropped<'_>) {
        self.tell(Told::Dropped(dropped.topic.to_owned(), dropped.reason, dropped.count));
    }

    fn on_subscription(&mut self, ws: &mut WebSocket<'_, ()>, change: Subscription<'_>) {
        assert_eq!(change.after > change.before, ws.is_subscribed(change.topic));
        self.tell(Told::Changed(change.topic.to_owned(), change.before, change.after));
    }

    fn on_close(&mut self, ws: &mut WebSocket<'_, ()>, close: Close<'_>) {
        assert_eq!(ws.topics().count(), 0);
        assert_eq!(ws.subscribe("too late"), Err(SubscribeError::Gone));
        self.tell(Told::Closed(close.cause));
    }
}

fn serve(
    driver: Driver,
    configure: impl FnOnce(ServerBuilder) -> ServerBuilder,
) -> (TestServer, Receiver<Told>) {
    let (told, reports) = channel();
    let server = TestServer::start(driver, |server| {
        configure(server).websocket("/", move |_| Obedient { told: told.clone() })
    });
    (server, reports)
}

/// A peer that is subscribed.
fn subscriber(server: &TestServer, topic: &str) -> Peer {
    let before = server.handle.subscribers(topic);
    let mut peer = server.open();
    peer.send_text(&format!("sub {topic}"));
    wait_for_subscribers(server, topic, before + 1);
    peer
}

fn wait_for_subscribers(server: &TestServer, topic: &str, count: usize) {
    let start = Instant::now();
    while server.handle.subscribers(topic) != count {
        assert!(start.elapsed() < PATIENCE, "{} subscribers", server.handle.subscribers(topic));
        thread::sleep(Duration::from_millis(1));
    }
}

fn text(peer: &mut Peer) -> String {
    let frame = peer.read_frame();
    assert_eq!(frame.first, 0x81, "{frame:?}");
    String::from_utf8(frame.payload).expect("UTF-8")
}

/// Asserts that nothing waits for this peer but the answer to a command of its own.
fn expect_nothing_else(peer: &mut Peer) {
    peer.send_text("send end");
    assert_eq!(text(peer), "end");
}

/// The next report of this kind, others left out.
fn next<T>(reports: &Receiver<Told>, wanted: impl Fn(Told) -> Option<T>) -> T {
    loop {
        let told = reports.recv_timeout(PATIENCE).expect("it is told in time");
        if let Some(found) = wanted(told) {
            return found;
        }
    }
}

fn published(reports: &Receiver<Told>) -> Published {
    next(reports, |told| if let Told::Published(it) = told { Some(it) } else { None })
}

fn dropped(reports: &Receiver<Told>) -> (String, DropReason, u64) {
    next(reports, |told| if let Told::Dropped(t, r, c) = told { Some((t, r, c)) } else { None })
}

fn others_get_it_and_all_get_it(driver: Driver) {
    let (server, reports) = serve(driver, |server| server);
    let mut peers: Vec<Peer> = (0..5).map(|_| subscriber(&server, "news")).collect();
    let mut stranger = subscriber(&server, "other");
    peers[2].send_text("pub news for others");
    let outcome = published(&reports);
    assert_eq!((outcome.queued, outcome.dropped, outcome.posted, outcome.refused), (4, 0, 0, 0));
    peers[2].send_text("all news for all");
    assert_eq!(published(&reports).queued, 5);
    for (i, peer) in peers.iter_mut().enumerate() {
        if i != 2 {
            assert_eq!(text(peer), "for others");
        }
        assert_eq!(text(peer), "for all");
        expect_nothing_else(peer);
    }
    expect_nothing_else(&mut stranger);
}

fn a_publisher_need_not_subscribe(driver: Driver) {
    let (server, _reports) = serve(driver, |server| server);
    let mut reader = subscriber(&server, "news");
    let mut writer = server.open();
    writer.send_text("pub news hello");
    assert_eq!(text(&mut reader), "hello");
    writer.send_text("all news again");
    assert_eq!(text(&mut reader), "again");
    expect_nothing_else(&mut writer);
}

fn messages_keep_their_order_among_sends(driver: Driver) {
    let (server, _reports) = serve(driver, |server| server);
    let mut peer = subscriber(&server, "t");
    for round in 0..50 {
        peer.send_text(&format!("send {round} a"));
        peer.send_text(&format!("all t {round} b"));
        peer.send_text(&format!("prepared t {round} c"));
    }
    for round in 0..50 {
        for letter in ["a", "b", "c", "c"] {
            assert_eq!(text(&mut peer), format!("{round} {letter}"));
        }
    }
}

fn long_and_short_messages_keep_their_order(driver: Driver) {
    let (server, _reports) = serve(driver, |server| server);
    let mut peer = subscriber(&server, "t");
    for _ in 0..5 {
        peer.send_text("mixed t");
        for number in 0..40_usize {
            let received = text(&mut peer);
            assert_eq!(received.len(), 4 * (1 + number * 97 % 1700), "message {number}");
            let expected = format!("{number:04}");
            assert!(received.as_bytes().chunks(4).all(|chunk| chunk == expected.as_bytes()));
        }
    }
}

fn every_worker_is_reached_in_order(driver: Driver) {
    let (server, reports) = serve(driver, |server| server.workers(3));
    let mut peers: Vec<Peer> = (0..24).map(|_| subscriber(&server, "t")).collect();
    for round in 0..20 {
        peers[round % 24].send_text(&format!("all t {round}"));
        let outcome = published(&reports);
        assert!(outcome.queued > 0 && outcome.posted > 0 && outcome.dropped == 0, "{outcome:?}");
        peers[round % 24].send_text(&format!("pub t {round} again"));
        published(&reports);
        for (i, peer) in peers.iter_mut().enumerate() {
            assert_eq!(text(peer), round.to_string());
            if i != round % 24 {
                assert_eq!(text(peer), format!("{round} again"));
            }
        }
    }
    assert_eq!(server.handle.subscribers("t"), 24);
}

fn threads_publish_in_their_order(driver: Driver) {
    let (server, _reports) = serve(driver, |server| server.workers(2));
    let mut peers: Vec<Peer> = (0..8).map(|_| subscriber(&server, "t")).collect();
    let threads = ["a", "b", "c", "d"].map(|name| {
        let handle = server.handle.clone();
        thread::spawn(move || {
            for number in 0..500 {
                let long = "x".repeat(if number % 10 == 0 { 5000 } else { 0 });
                let outcome = handle.publish("t", &format!("{name} {number} {long}"));
                assert!(outcome.posted > 0 && outcome.refused == 0, "{outcome:?}");
            }
        })
    });
    for peer in &mut peers {
        let mut expected = [0; 4];
        for _ in 0..2000 {
            let message = text(peer);
            let (name, rest) = message.split_once(' ').expect("two words");
            let index = usize::from(name.as_bytes()[0] - b'a');
            assert!(rest.starts_with(&format!("{} ", expected[index])), "{name} {rest}");
            expected[index] += 1;
        }
        assert_eq!(expected, [500; 4]);
    }
    for thread in threads {
        thread.join().expect("no assertion failed");
    }
}

fn a_subscription_ends_when_asked(driver: Driver) {
    let (server, reports) = serve(driver, |server| server);
    let mut peer = subscriber(&server, "a");
    peer.send_text("sub b");
    peer.send_text("sub a");
    let subscribed = |told| if let Told::Subscribe(it) = told { Some(it) } else { None };
    let results = [(); 3].map(|()| next(&reports, subscribed));
    assert_eq!(results, [Ok(true), Ok(true), Ok(false)]);
    peer.send_text("topics");
    assert_eq!(text(&mut peer), "a,b");
    peer.send_text("all a before");
    peer.send_text("unsub a");
    peer.send_text("all a after");
    peer.send_text("unsub a");
    assert_eq!(text(&mut peer), "before");
    assert_eq!(text(&mut peer), "unsubscribed");
    assert_eq!(text(&mut peer), "was not");
    peer.send_text("topics");
    assert_eq!(text(&mut peer), "b");
    assert_eq!((server.handle.subscribers("a"), server.handle.subscribers("b")), (0, 1));
}

fn a_subscription_ends_with_its_connection(driver: Driver) {
    let (server, _reports) = serve(driver, |server| server);
    for round in 0..10 {
        let mut peer = subscriber(&server, "t");
        match round % 3 {
            0 => peer.send_frame(0x88, &1000_u16.to_be_bytes()),
            1 => peer.reset(),
            _ => peer.finish(),
        }
        wait_for_subscribers(&server, "t", 0);
        server.wait_for("the slot to be free", |stats| stats.connections == 0);
        // The next tenant of the slot inherits nothing.
        let mut peer = server.open();
        peer.send_text("all t nobody");
        peer.send_text("topics");
        assert_eq!(text(&mut peer), "");
        drop(peer);
        server.wait_for("the slot to be free", |stats| stats.connections == 0);
    }
}

fn limits_are_answered(driver: Driver) {
    let (server, reports) = serve(driver, |server| server.max_subscriptions(2).max_topics(3));
    let ask = |peer: &mut Peer, topic: &str| {
        peer.send_text(&format!("sub {topic}"));
        next(&reports, |told| if let Told::Subscribe(it) = told { Some(it) } else { None })
    };
    let mut peer = server.open();
    let long = "x".repeat(257);
    assert_eq!(ask(&mut peer, &long), Err(SubscribeError::TopicTooLong { limit: 256 }));
    assert_eq!(ask(&mut peer, "a"), Ok(true));
    assert_eq!(ask(&mut peer, "b"), Ok(true));
    assert_eq!(ask(&mut peer, "c"), Err(SubscribeError::TooManySubscriptions { limit: 2 }));
    let mut other = server.open();
    assert_eq!(ask(&mut other, "c"), Ok(true));
    assert_eq!(ask(&mut other, "d"), Err(SubscribeError::TooManyTopics { limit: 3 }));
    assert_eq!(ask(&mut other, "a"), Ok(true));

    let refused = |configure: fn(ServerBuilder) -> ServerBuilder| {
        let builder = wirelane::Server::builder().listen("127.0.0.1:0").driver(driver);
        let error = configure(builder).get("/", |_| wirelane::Response::new(200)).build();
        error.expect_err("impossible").to_string()
    };
    let twice = refused(|server| {
        server.topic_policy("a", SlowSubscriber::Skip).topic_policy("a", SlowSubscriber::Close)
    });
    assert!(twice.contains("`topic_policy`") && twice.contains("twice"), "{twice}");
    let star = refused(|server| server.topic_policy("a*b", SlowSubscriber::Skip));
    assert!(star.contains("`topic_policy`") && star.contains("a*b"), "{star}");
}

fn changes_are_told_with_counts(driver: Driver) {
    let (server, reports) = serve(driver, |server| server);
    let changed = |told| {
        if let Told::Changed(t, before, after) = told { Some((t, before, after)) } else { None }
    };
    let first = subscriber(&server, "t");
    let mut second = subscriber(&server, "t");
    assert_eq!(next(&reports, changed), ("t".to_owned(), 0, 1));
    assert_eq!(next(&reports, changed), ("t".to_owned(), 1, 2));
    second.send_text("unsub t");
    assert_eq!(next(&reports, changed), ("t".to_owned(), 2, 1));
    drop(first);
    // The last subscription is told before the end.
    assert_eq!(next(&reports, Some), Told::Changed("t".to_owned(), 1, 0));
    assert!(matches!(next(&reports, Some), Told::Closed(_)));
}

fn prepared_messages_reach_everybody(driver: Driver) {
    let (server, _reports) = serve(driver, |server| server.workers(2));
    let mut peers: Vec<Peer> = (0..6).map(|_| subscriber(&server, "t")).collect();
    for len in [0, 125, 126, 1000, 1024, 70_000] {
        let payload = vec![len as u8; len];
        let message = PreparedMessage::binary(&payload);
        assert_eq!(server.handle.publish("t", &message).refused, 0);
        for peer in &mut peers {
            let frame = peer.read_frame();
            assert!(frame.first == 0x82 && frame.payload == payload, "{len} bytes");
        }
    }
    let text = PreparedMessage::text("grüße");
    server.handle.publish("t", &text);
    for peer in &mut peers {
        let frame = peer.read_frame();
        assert_eq!((frame.first, &frame.payload[..]), (0x81, "grüße".as_bytes()));
    }
}

/// A subscriber that does not read, behind in what its socket takes, and a publisher.
fn slow_reader(driver: Driver, policy: SlowSubscriber) -> (TestServer, Receiver<Told>, Peer, Peer) {
    let (server, reports) = serve(driver, |server| {
        // The publisher of this many bytes must not be taken for a slow reader of its own.
        server.topic_policy("t*", policy).max_backpressure(100_000)
    });
    let slow = subscriber(&server, "ticks");
    let publisher = server.open();
    (server, reports, slow, publisher)
}

/// Bytes that no socket takes in at once: more than `net.ipv4.tcp_wmem` and `tcp_rmem` allow.
const FLOOD: &str = "big ticks 8000 4000";

/// The numbers of the `big` messages, until `last` has been read.
fn read_until(peer: &mut Peer, last: &str) -> Vec<u64> {
    let mut numbers = Vec::new();
    loop {
        let frame = peer.read_frame();
        if frame.first == 0x81 {
            assert_eq!(String::from_utf8_lossy(&frame.payload), last);
            return numbers;
        }
        assert_eq!((frame.first, frame.payload.len()), (0x82, 8000));
        numbers.push(u64::from_be_bytes(frame.payload[..8].try_into().expect("8 bytes")));
    }
}

fn assert_rising(numbers: &[u64]) {
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "not in order");
}

fn a_full_queue_drops_and_says_so(driver: Driver) {
    let (server, reports, mut slow, mut publisher) = slow_reader(driver, SlowSubscriber::Queue);
    publisher.send_text(FLOOD);
    let (topic, reason, count) = dropped(&reports);
    assert_eq!((topic.as_str(), reason), ("ticks", DropReason::Full));
    assert_eq!(server.wait_for("drops", |s| s.publish_full > 0).publish_full, count);
    slow.send_text("send end");
    let numbers = read_until(&mut slow, "end");
    // The first ones came; what came after that is lost.
    assert!(numbers.iter().copied().eq(0..4000 - count), "{} and {count}", numbers.len());
}

fn skipped_messages_are_counted(driver: Driver) {
    let (server, reports, mut slow, mut publisher) = slow_reader(driver, SlowSubscriber::Skip);
    publisher.send_text(FLOOD);
    let (topic, reason, count) = dropped(&reports);
    assert_eq!((topic.as_str(), reason), ("ticks", DropReason::Skipped));
    assert_eq!(server.wait_for("drops", |s| s.publish_skipped > 0).publish_skipped, count);
    slow.send_text("send end");
    let numbers = read_until(&mut slow, "end");
    assert_rising(&numbers);
    assert_eq!(numbers.len() as u64, 4000 - count);
    // It has caught up.
    publisher.send_text("pub ticks 1");
    assert_eq!(text(&mut slow), "1");
}

fn the_latest_value_replaces_older_ones(driver: Driver) {
    let (server, reports, mut slow, mut publisher) = slow_reader(driver, SlowSubscriber::Latest);
    publisher.send_text(FLOOD);
    let (topic, reason, count) = dropped(&reports);
    assert_eq!((topic.as_str(), reason), ("ticks", DropReason::Replaced));
    assert_eq!(server.wait_for("drops", |s| s.publish_replaced > 0).publish_replaced, count);
    // What is sent meanwhile by other ways may overtake the newest value.
    slow.send_text("send end");
    let mut numbers = read_until(&mut slow, "end");
    if numbers.last() != Some(&3999) {
        let newest = slow.read_frame();
        numbers.push(u64::from_be_bytes(newest.payload[..8].try_into().expect("8 bytes")));
    }
    assert_rising(&numbers);
    assert_eq!(numbers.last(), Some(&3999));
    assert_eq!(numbers.len() as u64, 4000 - count);
    publisher.send_text("pub ticks 1");
    assert_eq!(text(&mut slow), "1");
}

fn each_key_has_its_latest_value(driver: Driver) {
    let (server, reports, mut slow, mut publisher) = slow_reader(driver, SlowSubscriber::Latest);
    slow.send_text("sub trades");
    wait_for_subscribers(&server, "trades", 1);
    publisher.send_text(FLOOD);
    dropped(&reports);
    for number in 0..100 {
        publisher.send_text(&format!("key ticks 1 one {number}"));
        publisher.send_text(&format!("key ticks 2 two {number}"));
        publisher.send_text(&format!("pub trades three {number}"));
    }
    let stats = server.wait_for("replacements", |stats| stats.messages_received >= 303);
    assert_eq!(stats.publish_full, 0);
    let numbers = {
        let mut numbers = Vec::new();
        loop {
            let frame = slow.read_frame();
            if frame.first == 0x81 {
                assert_eq!(frame.payload, b"one 99");
                break numbers;
            }
            numbers.push(u64::from_be_bytes(frame.payload[..8].try_into().expect("8 bytes")));
        }
    };
    assert_eq!(numbers.last(), Some(&3999), "what was published first waits in front");
    assert_eq!(text(&mut slow), "two 99");
    assert_eq!(text(&mut slow), "three 99");
    expect_nothing_else(&mut slow);
}

fn who_is_too_slow_is_closed(driver: Driver) {
    let (server, reports, mut slow, mut publisher) = slow_reader(driver, SlowSubscriber::Close);
    publisher.send_text(FLOOD);
    assert_eq!(dropped(&reports), ("ticks".to_owned(), DropReason::Full, 1));
    let mut count = 0;
    let close = loop {
        let frame = slow.read_frame();
        if frame.first != 0x82 {
            break frame;
        }
        count += 1;
    };
    assert_eq!(close.close_code(), 1013);
    assert!(count > 0);
    slow.send_frame(0x88, &close.payload);
    slow.expect_end();
    wait_for_subscribers(&server, "ticks", 0);
    // The others are not concerned.
    publisher.send_text("send alive");
    assert_eq!(text(&mut publisher), "alive");
}

fn what_waits_leaves_before_a_close(driver: Driver) {
    let (server, reports, mut slow, mut publisher) = slow_reader(driver, SlowSubscriber::Latest);
    publisher.send_text(FLOOD);
    dropped(&reports);
    server.handle.shutdown(PATIENCE);
    let mut last = Vec::new();
    loop {
        let frame = slow.read_frame();
        if frame.first == 0x88 {
            assert_eq!(frame.close_code(), 1001);
            slow.send_frame(0x88, &frame.payload);
            break;
        }
        last = frame.payload;
    }
    assert_eq!(last[..8], 3999_u64.to_be_bytes());
    slow.expect_end();
}

/// Asserts that `on_dropped` never runs inside another method.
struct Nested {
    inside: bool,
    told: Sender<u64>,
}

impl Handler for Nested {
    type Session = ();

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        ws.subscribe("t").expect("no limit");
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        self.inside = true;
        for _ in 0..4000 {
            ws.publish("t", &[7; 8000][..]);
        }
        self.inside = false;
        ws.send(message);
    }

    fn on_dropped(&mut self, ws: &mut WebSocket<'_, ()>, dropped: Dropped<'_>) {
        assert!(!self.inside, "called while the publisher's method runs");
        if dropped.count == 1 {
            panic!("asked for by the test");
        }
        // What is dropped here is told in the next turn, not now.
        self.inside = true;
        assert_eq!(ws.publish_to_all("t", &[7; 8000][..]).dropped, 1);
        self.inside = false;
        let _ = self.told.send(dropped.count);
    }
}

fn a_drop_is_told_after_the_publisher_has_returned(driver: Driver) {
    let (told, reports) = channel();
    let server = TestServer::start(driver, |server| {
        server
            .topic_policy("t", SlowSubscriber::Skip)
            .websocket("/", move |_| Nested { inside: false, told: told.clone() })
    });
    let _slow = server.open();
    let mut publisher = server.open();
    publisher.send_text("go");
    assert!(reports.recv_timeout(PATIENCE).expect("drops") > 1);
    assert_eq!(publisher.read_frame().payload, b"go");
}

fn a_panic_over_a_drop_costs_one_connection(driver: Driver) {
    let (told, reports) = channel();
    let server = TestServer::start(driver, |server| {
        server
            .topic_policy("t", SlowSubscriber::Skip)
            .websocket("/", move |_| Nested { inside: false, told: told.clone() })
    });
    let slow = server.open();
    let mut publisher = server.open();
    publisher.send_text("go");
    reports.recv_timeout(PATIENCE).expect("drops");
    // The one message that `on_dropped` published was dropped as well, which is told on its own.
    server.wait_for("the panic", |stats| stats.handler_panics == 1);
    assert_eq!(publisher.read_frame().payload, b"go");
    // The publisher got what `on_dropped` published, and lives.
    assert_eq!(publisher.read_frame().payload.len(), 8000);
    publisher.send_text("again");
    assert_eq!(publisher.read_frame().payload, b"again");
    drop(slow);
}

fn a_publication_without_subscribers_is_nothing(driver: Driver) {
    let (server, reports) = serve(driver, |server| server.workers(2));
    assert_eq!(server.handle.publish("t", "hello"), Published::default());
    let mut peer = server.open();
    peer.send_text("all t hello");
    assert_eq!(published(&reports), Published::default());
    peer.send_text(FLOOD);
    expect_nothing_else(&mut peer);
    let stats = server.wait_for("the answer", |stats| stats.messages_sent > 0);
    assert_eq!(stats.messages_sent, 1);
}
