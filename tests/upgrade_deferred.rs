//! An upgrade whose decision is put off: any thread decides, once, in time or never, and a client
//! that has gone is an error value.

mod common;

use std::collections::HashSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use common::{Answer, PATIENCE, Peer, TestServer, frame, request};
use wirelane::{
    Driver, Gone, Handler, Message, Response, RouteOptions, ServerBuilder, Upgrade, UpgradeRequest,
    UpgradeTicket, WebSocket,
};

on_every_driver!(
    another_thread_accepts,
    another_thread_rejects,
    a_decision_before_on_upgrade_returns_counts,
    a_dropped_ticket_gets_500,
    a_late_decision_gets_503_and_is_told,
    the_handshake_timeout_is_the_last_word,
    a_client_that_leaves_is_told_to_whoever_decides,
    what_is_sent_in_the_meantime_is_delivered_after_on_open,
    what_is_held_is_bounded,
    a_rejected_flood_ends_with_an_answer,
    others_are_served_in_the_meantime,
    many_threads_decide_about_many_clients,
    a_shutdown_answers_503_and_voids_the_tickets,
    the_idle_timeout_begins_with_the_decision,
);

type Ticket = UpgradeTicket<String>;

/// Puts every decision off, unless the path is `/now`; answers with its session and what was said.
struct Later {
    tickets: Sender<Ticket>,
}

impl Handler for Later {
    type Session = String;

    fn on_upgrade(&mut self, request: &UpgradeRequest<'_>) -> Upgrade<String> {
        if request.path() == "/now" {
            return Upgrade::accept("now".to_owned());
        }
        let (ticket, deferred) = Upgrade::defer();
        match request.path() {
            "/before" => ticket.accept("before".to_owned()).expect("somebody waits"),
            "/drop" => drop(ticket),
            _ => self.tickets.send(ticket).expect("the test waits"),
        }
        deferred
    }

    fn on_open(&mut self, ws: &mut WebSocket<'_, String>) {
        let hello = format!("{} {:?}", ws.session().clone(), ws.subprotocol());
        ws.send(&hello);
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, String>, message: Message<'_>) {
        ws.send(message);
    }
}

fn start_with(
    driver: Driver,
    configure: impl FnOnce(ServerBuilder) -> ServerBuilder,
) -> (TestServer, Receiver<Ticket>) {
    let (tickets, decide) = channel();
    let server = TestServer::start(driver, |server| {
        let options = RouteOptions::new().subprotocols(["b", "a"]);
        let make = move |_| Later { tickets: tickets.clone() };
        configure(server).websocket_with("/*", options, make)
    });
    (server, decide)
}

fn start(driver: Driver) -> (TestServer, Receiver<Ticket>) {
    start_with(driver, |server| server)
}

fn next(decide: &Receiver<Ticket>) -> Ticket {
    decide.recv_timeout(PATIENCE).expect("an upgrade")
}

/// A client that has asked and got no answer yet.
fn asks(server: &TestServer, path: &str) -> Peer {
    let mut peer = server.connect();
    peer.send(&request(path));
    peer
}

fn hello(peer: &mut Peer) -> String {
    let head = peer.read_head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    String::from_utf8(peer.read_frame().payload).expect("text")
}

fn refused(peer: &mut Peer, status: u16) -> Answer {
    let answer = peer.read_answer();
    assert_eq!(answer.status, status, "{answer:?}");
    answer
}

fn gone(ticket: &Ticket) {
    let start = Instant::now();
    while !ticket.is_gone() {
        assert!(start.elapsed() < PATIENCE, "nobody noticed");
        thread::sleep(Duration::from_millis(1));
    }
}

fn another_thread_accepts(driver: Driver) {
    let (server, decide) = start(driver);
    let mut peer = server.connect();
    let lines = "\r\nSec-WebSocket-Protocol: a, b, c\r\n\r\n";
    let asked = String::from_utf8(request("/later")).expect("ASCII");
    peer.send((asked.trim_end().to_owned() + lines).as_bytes());
    let ticket = next(&decide);
    assert!(!peer.has_news(), "nothing was decided");
    assert_eq!(server.stats().opened, 0);
    thread::spawn(move || {
        assert!(!ticket.is_gone());
        let upgrade = Upgrade::accept("Ali".to_owned()).subprotocol("c").header("X-Late", "yes");
        assert_eq!(ticket.answer(upgrade), Ok(()));
    })
    .join()
    .expect("no panic");
    let head = peer.read_head();
    assert!(head.ends_with("\r\nSec-WebSocket-Protocol: c\r\nX-Late: yes\r\n\r\n"), "{head}");
    assert_eq!(peer.read_frame().payload, b"Ali Some(\"c\")");
    peer.send_text("echo");
    assert_eq!(peer.read_frame().payload, b"echo");
    // Without a choice the route's list decides.
    let mut peer = server.connect();
    peer.send((asked.trim_end().to_owned() + lines).as_bytes());
    next(&decide).accept("Ali".to_owned()).expect("somebody waits");
    assert_eq!(hello(&mut peer), "Ali Some(\"b\")");
}

fn another_thread_rejects(driver: Driver) {
    let (server, decide) = start(driver);
    let mut peer = asks(&server, "/later");
    next(&decide).reject(403, "Not you.\n").expect("somebody waits");
    assert_eq!(refused(&mut peer, 403).body, b"Not you.\n");
    let mut peer = asks(&server, "/later");
    let elsewhere = Response::new(302).header("Location", "/elsewhere");
    next(&decide).answer(elsewhere).expect("somebody waits");
    assert_eq!(refused(&mut peer, 302).header("Location"), Some("/elsewhere"));
    // What cannot be answered is 500, as it is without a ticket.
    for upgrade in [
        Upgrade::accept(String::new()).header("X", "\r\n"),
        Upgrade::accept(String::new()).subprotocol("unoffered"),
        Upgrade::defer().1,
    ] {
        let mut peer = asks(&server, "/later");
        next(&decide).answer(upgrade).expect("somebody waits");
        refused(&mut peer, 500);
    }
    let stats = server.wait_for("the end", |stats| stats.connections == 0);
    assert_eq!((stats.opened, stats.refused), (0, 4));
}

fn a_decision_before_on_upgrade_returns_counts(driver: Driver) {
    let (server, _decide) = start(driver);
    assert_eq!(hello(&mut asks(&server, "/before")), "before None");
}

fn a_dropped_ticket_gets_500(driver: Driver) {
    let (server, decide) = start(driver);
    refused(&mut asks(&server, "/drop"), 500);
    let mut peer = asks(&server, "/later");
    drop(next(&decide));
    refused(&mut peer, 500);
    assert_eq!(server.stats().opened, 0);
}

fn a_late_decision_gets_503_and_is_told(driver: Driver) {
    let wait = Duration::from_millis(200);
    let (server, decide) = start_with(driver, |server| server.upgrade_timeout(wait));
    let start = Instant::now();
    let mut peer = asks(&server, "/later");
    let ticket = next(&decide);
    refused(&mut peer, 503);
    assert!(start.elapsed() >= wait, "too early: {:?}", start.elapsed());
    assert!(ticket.is_gone());
    assert_eq!(ticket.accept("too late".to_owned()), Err(Gone));
    assert_eq!(server.stats().opened, 0);
}

fn the_handshake_timeout_is_the_last_word(driver: Driver) {
    let (server, decide) = start_with(driver, |server| {
        server.handshake_timeout(Duration::from_secs(1)).upgrade_timeout(Duration::ZERO)
    });
    let mut peer = asks(&server, "/later");
    let ticket = next(&decide);
    refused(&mut peer, 503);
    assert_eq!(ticket.accept("too late".to_owned()), Err(Gone));
}

fn a_client_that_leaves_is_told_to_whoever_decides(driver: Driver) {
    let (server, decide) = start(driver);
    for reset in [false, true] {
        let peer = asks(&server, "/later");
        let ticket = next(&decide);
        assert!(!ticket.is_gone());
        if reset {
            peer.reset();
        } else {
            drop(peer);
        }
        gone(&ticket);
        assert_eq!(ticket.accept("nobody".to_owned()), Err(Gone));
    }
    let stats = server.wait_for("the end", |stats| stats.connections == 0);
    assert_eq!((stats.opened, stats.closed), (0, 0));
    // The slot has a new tenant, who is nobody's but its own.
    let mut peer = asks(&server, "/later");
    next(&decide).accept("new".to_owned()).expect("somebody waits");
    assert_eq!(hello(&mut peer), "new None");
}

fn what_is_sent_in_the_meantime_is_delivered_after_on_open(driver: Driver) {
    let (server, decide) = start(driver);
    let mut peer = server.connect();
    // In the segment of the request, and later, torn in the middle of a frame.
    let mut bytes = request("/later");
    bytes.extend(frame(0x81, b"first"));
    let second = frame(0x82, b"second");
    bytes.extend_from_slice(&second[..3]);
    peer.send(&bytes);
    let ticket = next(&decide);
    peer.send(&second[3..]);
    peer.send_text("third");
    thread::sleep(Duration::from_millis(20));
    ticket.accept("late".to_owned()).expect("somebody waits");
    assert_eq!(hello(&mut peer), "late None");
    for expected in ["first", "second", "third"] {
        assert_eq!(peer.read_frame().payload, expected.as_bytes());
    }
    peer.send_text("fourth");
    assert_eq!(peer.read_frame().payload, b"fourth");
}

/// Much more than the server holds and the kernel buffers.
const MUCH: usize = 256 * 1024 * 1024;

fn what_is_held_is_bounded(driver: Driver) {
    let (server, decide) = start(driver);
    let mut peer = asks(&server, "/later");
    let ticket = next(&decide);
    let message = frame(0x82, &[b'x'; 1000]);
    let before = common::memory().resident;
    let sent = peer.send_until_stuck(MUCH, || message.clone());
    let grown = common::memory().resident.saturating_sub(before);
    // The other tests of this program share its memory.
    assert!(grown < 64 * 1024 * 1024, "{grown} bytes more for {sent} that were sent");
    ticket.accept("patient".to_owned()).expect("somebody waits");
    assert_eq!(hello(&mut peer), "patient None");
    // The rest of the last message follows, and all of them come back.
    let (mut rest, reader) = (std::mem::take(&mut peer.unsent), peer.stream.try_clone());
    let total = (sent + rest.len()) / message.len();
    let mut writer = reader.expect("a second handle");
    let sending = thread::spawn(move || {
        use std::io::Write;
        writer.write_all(&std::mem::take(&mut rest)).expect("the server reads on");
    });
    for _ in 0..total {
        assert_eq!(peer.read_frame().payload.len(), 1000);
    }
    sending.join().expect("sent");
}

fn a_rejected_flood_ends_with_an_answer(driver: Driver) {
    let (server, decide) = start(driver);
    let mut peer = asks(&server, "/later");
    let ticket = next(&decide);
    // Enough for the pause, and little enough for the lingering that lets the answer arrive.
    peer.send(&frame(0x82, &vec![b'x'; 300 * 1024]));
    thread::sleep(Duration::from_millis(50));
    ticket.reject(403, "No.\n").expect("somebody waits");
    refused(&mut peer, 403);
    server.wait_for("the end", |stats| stats.connections == 0);
}

fn others_are_served_in_the_meantime(driver: Driver) {
    let (server, decide) = start(driver);
    let mut peers: Vec<Peer> = (0..20).map(|_| asks(&server, "/later")).collect();
    let tickets: Vec<Ticket> = peers.iter().map(|_| next(&decide)).collect();
    assert_eq!(hello(&mut asks(&server, "/now")), "now None");
    // In any order.
    for (i, ticket) in tickets.into_iter().enumerate().rev() {
        ticket.accept(i.to_string()).expect("somebody waits");
    }
    let mut names = HashSet::new();
    for peer in &mut peers {
        assert!(names.insert(hello(peer)));
    }
}

fn many_threads_decide_about_many_clients(driver: Driver) {
    const CLIENTS: usize = 200;
    let (server, decide) = start_with(driver, |server| server.workers(2));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (give, take) = channel::<(usize, Ticket)>();
            let thread = thread::spawn(move || {
                for (i, ticket) in take {
                    let told = match i % 3 {
                        0 => ticket.reject(403, ""),
                        1 => ticket.accept(i.to_string()),
                        _ => ticket.answer(Upgrade::accept(i.to_string()).header("I", "am")),
                    };
                    assert_eq!(told, Ok(()));
                }
            });
            (give, thread)
        })
        .collect();
    let mut peers: Vec<Peer> = (0..CLIENTS).map(|_| asks(&server, "/later")).collect();
    for i in 0..CLIENTS {
        threads[i % threads.len()].0.send((i, next(&decide))).expect("it waits");
    }
    for (give, thread) in threads {
        drop(give);
        thread.join().expect("no panic");
    }
    let mut names = HashSet::new();
    let mut rejected = 0;
    for peer in &mut peers {
        let head = peer.read_head();
        if head.starts_with("HTTP/1.1 403 ") {
            rejected += 1;
        } else {
            assert!(names.insert(peer.read_frame().payload), "one session for two");
        }
    }
    assert_eq!((rejected, names.len()), (CLIENTS.div_ceil(3), CLIENTS - CLIENTS.div_ceil(3)));
}

fn a_shutdown_answers_503_and_voids_the_tickets(driver: Driver) {
    let (server, decide) = start(driver);
    let mut peer = asks(&server, "/later");
    let ticket = next(&decide);
    let handle = server.handle.clone();
    handle.shutdown(Duration::from_secs(5));
    refused(&mut peer, 503);
    drop(peer);
    server.stop(Duration::from_secs(5)).expect("a clean end");
    assert_eq!(ticket.accept("nobody".to_owned()), Err(Gone));
}

fn the_idle_timeout_begins_with_the_decision(driver: Driver) {
    let idle = Duration::from_millis(1500);
    let (server, decide) =
        start_with(driver, |server| server.idle_timeout(idle).ping_interval(Duration::ZERO));
    let mut peer = asks(&server, "/later");
    let ticket = next(&decide);
    thread::sleep(idle + Duration::from_millis(100));
    ticket.accept("slow".to_owned()).expect("somebody waits");
    assert_eq!(hello(&mut peer), "slow None");
    peer.send_text("still there");
    assert_eq!(peer.read_frame().payload, b"still there");
}

/// `Send` follows the session.
#[test]
fn tickets_travel_as_their_sessions_do() {
    fn travels<T: Send + Sync>() {}
    travels::<UpgradeTicket<String>>();
    // A session that stays on its thread has tickets that do, too.
    let (ticket, deferred) = Upgrade::<std::rc::Rc<()>>::defer();
    drop(deferred);
    assert_eq!(ticket.accept(std::rc::Rc::default()), Err(Gone));
}
