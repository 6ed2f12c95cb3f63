//! Reading that the application pauses: the peer feels it, nothing is lost, nothing is early.

mod common;

use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, Peer, TestServer, frame};
use wirelane::{
    Close, CloseCause, CloseCode, ConnectionId, Driver, Handler, Message, SendError, WebSocket,
};

on_every_driver!(
    a_peer_that_is_not_read_has_to_wait,
    what_waited_is_delivered_in_order,
    pausing_stops_after_the_present_message,
    a_pause_in_on_open_holds_what_came_with_the_request,
    pause_and_resume_in_one_call_change_nothing,
    one_message_at_a_time,
    a_timer_resumes,
    another_connection_resumes,
    both_reasons_to_pause_end_together,
    a_close_behind_a_pause_comes_after_the_messages,
    a_fin_behind_a_pause_comes_after_the_messages,
    our_close_is_answered_in_spite_of_a_pause,
    a_reset_during_a_pause_ends_it,
    a_pause_of_one_delays_nobody_else,
    an_id_that_has_gone_cannot_be_paused,
);

/// What a handler saw.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Message(Vec<u8>),
    Close(CloseCause),
}

/// Reports everything; obeys messages that are commands.
struct Reader {
    seen: Sender<Seen>,
    /// The connection that said `me`.
    patient: Option<ConnectionId>,
}

impl Handler for Reader {
    type Session = bool;

    fn on_open(&mut self, ws: &mut WebSocket<'_, bool>) {
        if *ws.session() {
            unreachable!("sessions begin with their default");
        }
    }

    fn on_message(&mut self, ws: &mut WebSocket<'_, bool>, message: Message<'_>) {
        if *ws.session() {
            // One message at a time.
            ws.pause_reading();
            ws.set_timer(Duration::ZERO, 0).expect("room");
        }
        match message {
            Message::Text("pause") => ws.pause_reading(),
            Message::Text("toggle") => {
                for _ in 0..1000 {
                    ws.pause_reading();
                    ws.resume_reading();
                }
            }
            Message::Text("pause for 100 ms") => {
                ws.pause_reading();
                ws.set_timer(Duration::from_millis(100), 0).expect("room");
            }
            Message::Text("one at a time") => *ws.session_mut() = true,
            Message::Text("me") => {
                self.patient = Some(ws.id());
                ws.pause_reading();
                ws.send("paused");
                return;
            }
            Message::Text("resume") => {
                let patient = self.patient.expect("somebody said me");
                ws.worker().resume_reading(patient).expect("it is there");
                return;
            }
            Message::Text("pause and close") => {
                ws.pause_reading();
                ws.close(CloseCode::NORMAL, "");
            }
            Message::Text("echo") => {
                ws.send("echo");
                return;
            }
            _ => {}
        }
        let _ = self.seen.send(Seen::Message(message.payload().to_vec()));
    }

    fn on_timer(&mut self, ws: &mut WebSocket<'_, bool>, _key: u64) {
        ws.resume_reading();
    }

    fn on_close(&mut self, _ws: &mut WebSocket<'_, bool>, close: Close<'_>) {
        let _ = self.seen.send(Seen::Close(close.cause));
    }
}

fn start(driver: Driver) -> (TestServer, Receiver<Seen>) {
    let (seen, told) = channel();
    let server = TestServer::start(driver, |server| {
        // Messages cross the borders of receives.
        server
            .receive_buffer(8 * 1024)
            .websocket("/", move |_| Reader { seen: seen.clone(), patient: None })
    });
    (server, told)
}

fn expect(seen: &Receiver<Seen>, wanted: &[u8]) {
    match seen.recv_timeout(PATIENCE).expect("a message") {
        Seen::Message(message) => assert!(message == wanted, "not {}", wanted.escape_ascii()),
        close => panic!("{close:?} instead of {}", wanted.escape_ascii()),
    }
}

fn nothing(seen: &Receiver<Seen>) {
    assert!(seen.recv_timeout(Duration::from_millis(100)).is_err());
}

/// Somebody who resumes the patient.
fn resume(server: &TestServer) -> Peer {
    let mut doctor = server.open();
    doctor.send_text("resume");
    doctor
}

fn patient(server: &TestServer) -> Peer {
    let mut peer = server.open();
    peer.send_text("me");
    assert_eq!(peer.read_frame().payload, b"paused");
    peer
}

fn a_peer_that_is_not_read_has_to_wait(driver: Driver) {
    let (server, seen) = start(driver);
    let mut peer = patient(&server);
    let mut count = 0_u32;
    // Far more than the buffers of both kernels take.
    let total = peer.send_until_stuck(64 << 20, || {
        let mut payload = vec![7; 10_000];
        payload[..4].copy_from_slice(&count.to_be_bytes());
        count += 1;
        frame(0x82, &payload)
    });
    assert!(total > 10_000, "{total} bytes");
    assert!(seen.try_recv().is_err(), "something was delivered");
    let rest = std::mem::take(&mut peer.unsent);
    let _doctor = resume(&server);
    peer.stream.write_all(&rest).expect("it is read again");
    for number in 0..count {
        match seen.recv_timeout(PATIENCE).expect("a message") {
            Seen::Message(message) => assert_eq!(message[..4], number.to_be_bytes()),
            close => panic!("{close:?}"),
        }
    }
}

fn what_waited_is_delivered_in_order(driver: Driver) {
    let (server, seen) = start(driver);
    let mut peer = server.open();
    // The pause comes in the middle of one receive, and input comes after it.
    let mut bytes = frame(0x81, b"first");
    bytes.extend(frame(0x81, b"me"));
    for number in 0..50 {
        bytes.extend(frame(0x81, format!("held {number}").as_bytes()));
    }
    bytes.extend(&frame(0x81, b"cut")[..5]);
    peer.send(&bytes);
    assert_eq!(peer.read_frame().payload, b"paused");
    expect(&seen, b"first");
    peer.send(&frame(0x81, b"cut")[5..]);
    peer.send_text("later");
    nothing(&seen);
    let _doctor = resume(&server);
    for number in 0..50 {
        expect(&seen, format!("held {number}").as_bytes());
    }
    expect(&seen, b"cut");
    expect(&seen, b"later");
}

fn pausing_stops_after_the_present_message(driver: Driver) {
    let (server, seen) = start(driver);
    let mut peer = server.open();
    peer.send(&[frame(0x81, b"a"), frame(0x81, b"pause"), frame(0x81, b"b")].concat());
    expect(&seen, b"a");
    expect(&seen, b"pause");
    nothing(&seen);
    assert_eq!(server.stats().messages_received, 2);
}

/// Pauses every connection before its first message.
struct PausedFromTheStart {
    seen: Sender<Vec<u8>>,
}

impl Handler for PausedFromTheStart {
    type Session = ();

    fn on_open(&mut self, ws: &mut WebSocket<'_, ()>) {
        ws.pause_reading();
        ws.set_timer(Duration::from_millis(100), 0).expect("room");
    }

    fn on_timer(&mut self, ws: &mut WebSocket<'_, ()>, _key: u64) {
        self.seen.send(b"resumed".to_vec()).expect("the test waits");
        ws.resume_reading();
    }

    fn on_message(&mut self, _ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        self.seen.send(message.payload().to_vec()).expect("the test waits");
    }
}

fn a_pause_in_on_open_holds_what_came_with_the_request(driver: Driver) {
    let (sender, seen) = channel();
    let server = TestServer::start(driver, |server| {
        server.websocket("/", move |_| PausedFromTheStart { seen: sender.clone() })
    });
    let mut peer = server.connect();
    let bytes = [common::request("/"), frame(0x81, b"one"), frame(0x81, b"two")].concat();
    peer.send(&bytes);
    assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
    for expected in ["resumed", "one", "two"] {
        assert_eq!(seen.recv_timeout(PATIENCE).as_deref(), Ok(expected.as_bytes()));
    }
}

fn pause_and_resume_in_one_call_change_nothing(driver: Driver) {
    let (server, seen) = start(driver);
    let mut peer = server.open();
    for _ in 0..20 {
        peer.send(&[frame(0x81, b"toggle"), frame(0x81, b"x"), frame(0x81, b"y")].concat());
        for expected in ["toggle", "x", "y"] {
            expect(&seen, expected.as_bytes());
        }
    }
}

fn one_message_at_a_time(driver: Driver) {
    let (server, seen) = start(driver);
    let mut peer = server.open();
    peer.send_text("one at a time");
    let mut bytes = Vec::new();
    for number in 0..2000 {
        bytes.extend(frame(0x81, format!("{number}").as_bytes()));
    }
    peer.send(&bytes);
    expect(&seen, b"one at a time");
    for number in 0..2000 {
        expect(&seen, format!("{number}").as_bytes());
    }
}

fn a_timer_resumes(driver: Driver) {
    let (server, seen) = start(driver);
    let mut peer = server.open();
    let start = Instant::now();
    peer.send(&[frame(0x81, b"pause for 100 ms"), frame(0x81, b"held")].concat());
    peer.send_text("sent");
    expect(&seen, b"pause for 100 ms");
    expect(&seen, b"held");
    assert!(start.elapsed() >= Duration::from_millis(100));
    expect(&seen, b"sent");
}

fn another_connection_resumes(driver: Driver) {
    let (server, seen) = start(driver);
    let mut peer = patient(&server);
    peer.send_text("waits");
    nothing(&seen);
    let mut doctor = resume(&server);
    expect(&seen, b"waits");
    // Once more, nothing happens.
    doctor.send_text("resume");
    peer.send_text("is read");
    expect(&seen, b"is read");
}

/// Answers every message with many bytes; pauses for a while after the first.
#[derive(Default)]
struct Verbose {
    messages: u32,
}

impl Handler for Verbose {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        ws.send(message);
        self.messages += 1;
        if self.messages.is_multiple_of(64) {
            ws.pause_reading();
            ws.set_timer(Duration::from_millis(5), 0).expect("room");
        }
    }

    fn on_timer(&mut self, ws: &mut WebSocket<'_, ()>, _key: u64) {
        ws.resume_reading();
    }
}

fn both_reasons_to_pause_end_together(driver: Driver) {
    let server = TestServer::start(driver, |server| {
        server.max_backpressure(64 * 1024).websocket("/", |_| Verbose::default())
    });
    let mut peer = server.open();
    socket2::SockRef::from(&peer.stream).set_recv_buffer_size(256 * 1024).expect("a socket");
    let mut count = 0_u32;
    peer.send_until_stuck(256 << 20, || {
        let mut payload = vec![9; 5000];
        payload[..4].copy_from_slice(&count.to_be_bytes());
        count += 1;
        frame(0x82, &payload)
    });
    let rest = std::mem::take(&mut peer.unsent);
    let mut writer = peer.stream.try_clone().expect("a descriptor");
    let writing = thread::spawn(move || writer.write_all(&rest));
    for number in 0..count {
        assert_eq!(peer.read_frame().payload[..4], number.to_be_bytes());
    }
    writing.join().expect("no panic").expect("it is read again");
    peer.send_text("end");
    assert_eq!(peer.read_frame().payload, b"end");
}

fn a_close_behind_a_pause_comes_after_the_messages(driver: Driver) {
    let (server, seen) = start(driver);
    let mut peer = patient(&server);
    peer.send_text("last words");
    peer.send_frame(0x88, &1000_u16.to_be_bytes());
    nothing(&seen);
    let _doctor = resume(&server);
    expect(&seen, b"last words");
    assert_eq!(seen.recv_timeout(PATIENCE), Ok(Seen::Close(CloseCause::Peer)));
    peer.expect_close(1000);
}

fn a_fin_behind_a_pause_comes_after_the_messages(driver: Driver) {
    let (server, seen) = start(driver);
    let mut peer = server.open();
    // The rest of this receive waits, so the end has to wait, too.
    peer.send(&[frame(0x81, b"me"), frame(0x81, b"last words")].concat());
    assert_eq!(peer.read_frame().payload, b"paused");
    peer.finish();
    nothing(&seen);
    let _doctor = resume(&server);
    expect(&seen, b"last words");
    assert_eq!(seen.recv_timeout(PATIENCE), Ok(Seen::Close(CloseCause::Ended)));
}

fn our_close_is_answered_in_spite_of_a_pause(driver: Driver) {
    let (server, seen) = start(driver);
    let mut peer = server.open();
    peer.send(&[frame(0x81, b"pause and close"), frame(0x81, b"ignored")].concat());
    expect(&seen, b"pause and close");
    assert_eq!(peer.read_frame().close_code(), 1000);
    peer.send_frame(0x88, &1000_u16.to_be_bytes());
    peer.expect_end();
    assert_eq!(seen.recv_timeout(PATIENCE), Ok(Seen::Close(CloseCause::Local)));
}

fn a_reset_during_a_pause_ends_it(driver: Driver) {
    let (server, seen) = start(driver);
    let peer = patient(&server);
    peer.reset();
    // Whether a kernel reports it at once is its affair; a resume finds it.
    let _doctor = resume_anyway(&server);
    match seen.recv_timeout(PATIENCE) {
        Ok(Seen::Close(CloseCause::Io(_))) => {}
        other => panic!("{other:?}"),
    }
}

/// Resumes a patient who may have gone; a panic of the handler is not the test's affair then.
fn resume_anyway(server: &TestServer) -> Peer {
    let mut doctor = server.open();
    doctor.send_text("echo");
    assert_eq!(doctor.read_frame().payload, b"echo");
    if server.stats().closed == 0 {
        doctor.send_text("resume");
    }
    doctor
}

fn a_pause_of_one_delays_nobody_else(driver: Driver) {
    let (server, _seen) = start(driver);
    let mut paused = patient(&server);
    paused.send_until_stuck(64 << 20, || frame(0x82, &[1; 50_000]));
    let mut peer = server.open();
    for _ in 0..50 {
        peer.send_text("echo");
        assert_eq!(peer.read_frame().payload, b"echo");
    }
}

/// Tries to pause the connection that closed before.
#[derive(Default)]
struct Late {
    gone: Option<ConnectionId>,
}

impl Handler for Late {
    type Session = ();

    fn on_message(&mut self, ws: &mut WebSocket<'_, ()>, message: Message<'_>) {
        let Some(gone) = self.gone else { return };
        let id = ws.id();
        let mut worker = ws.worker();
        assert_eq!(worker.pause_reading(gone), Err(SendError::Gone));
        assert_eq!(worker.resume_reading(gone), Err(SendError::Gone));
        assert_eq!(worker.terminate(gone), Err(SendError::Gone));
        assert_eq!(worker.close(gone, CloseCode::NORMAL, ""), Err(SendError::Gone));
        assert_eq!(worker.pause_reading(id), Ok(()));
        assert_eq!(worker.resume_reading(id), Ok(()));
        ws.send(message);
    }

    fn on_close(&mut self, ws: &mut WebSocket<'_, ()>, _close: Close<'_>) {
        self.gone = Some(ws.id());
    }
}

fn an_id_that_has_gone_cannot_be_paused(driver: Driver) {
    let server = TestServer::start(driver, |server| server.websocket("/", |_| Late::default()));
    server.open().reset();
    server.wait_for("the slot to be free", |stats| stats.closed == 1 && stats.connections == 0);
    // The same slot, another connection.
    let mut peer = server.open();
    peer.send_text("still here");
    assert_eq!(peer.read_frame().payload, b"still here");
    peer.send_text("read on");
    assert_eq!(peer.read_frame().payload, b"read on");
}
