//! Answers that come later or in pieces, and bodies that are taken in pieces: what a port from a
//! server with callbacks needs.

mod common;

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use common::{PATIENCE, Peer, TestServer};
use wirelane::{
    BodyWriter, Driver, Intake, Reply, Responder, Response, Resume, ServerBuilder, Upload,
    UploadBody,
};

on_every_driver!(
    an_answer_may_come_from_another_thread,
    whoever_answers_later_learns_that_the_client_has_left,
    an_answer_may_come_in_pieces,
    a_body_may_be_taken_in_pieces_and_paused,
);

/// A value that a route gives out to the test.
fn given<T>(values: &Receiver<T>) -> T {
    values.recv_timeout(PATIENCE).expect("a request arrived")
}

fn start(driver: Driver, routes: impl FnOnce(ServerBuilder) -> ServerBuilder) -> TestServer {
    TestServer::start(driver, routes)
}

fn ask(server: &TestServer, head: &str, body: &[u8]) -> Peer {
    let mut peer = server.connect();
    peer.send(format!("{head} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n").as_bytes());
    peer.send(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    peer.send(body);
    peer
}

fn later(driver: Driver) -> (TestServer, Receiver<Responder>) {
    let (sender, responders) = mpsc::channel();
    let server = start(driver, |server| {
        server.get("/later", move |_request| {
            let (responder, reply) = Reply::later();
            sender.send(responder).expect("the test waits");
            reply
        })
    });
    (server, responders)
}

fn an_answer_may_come_from_another_thread(driver: Driver) {
    let (server, responders) = later(driver);
    let mut peer = ask(&server, "GET /later", b"");
    let responder = given(&responders);
    let answering = thread::spawn(move || responder.answer(Response::text("at last\n")));
    let answer = peer.read_answer();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"at last\n"[..]));
    assert!(answering.join().expect("no panic").is_ok());
}

fn whoever_answers_later_learns_that_the_client_has_left(driver: Driver) {
    let (server, responders) = later(driver);
    let peer = ask(&server, "GET /later", b"");
    let responder = given(&responders);
    let (sender, gone) = mpsc::channel();
    responder.on_gone(move || sender.send(()).expect("the test waits"));
    peer.reset();
    given(&gone);
    assert!(responder.is_gone());
    assert!(responder.answer(Response::text("nobody hears it\n")).is_err());
}

fn an_answer_may_come_in_pieces(driver: Driver) {
    let (sender, writers): (Sender<BodyWriter>, _) = mpsc::channel();
    let server = start(driver, |server| {
        server.get("/pieces", move |_request| {
            let (writer, reply) = Response::new(200).stream_exactly(9);
            sender.send(writer).expect("the test waits");
            reply
        })
    });
    let mut peer = ask(&server, "GET /pieces", b"");
    let writer = given(&writers);
    for piece in ["one", "two"] {
        assert!(writer.send(piece).is_ok());
    }
    let finishing = thread::spawn(move || {
        assert!(writer.send("six").is_ok());
        writer.finish();
    });
    let answer = peer.read_answer();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"onetwosix"[..]));
    finishing.join().expect("no panic");
}

/// Counts, and pauses at the first piece.
struct Count {
    bytes: u64,
    pauses: Sender<Resume>,
}

impl Upload for Count {
    fn on_piece(&mut self, piece: &[u8], body: &mut UploadBody<'_>) {
        if self.bytes == 0 {
            self.pauses.send(body.pause()).expect("the test waits");
        }
        self.bytes += piece.len() as u64;
        assert_eq!(self.bytes, body.received());
    }

    fn on_end(&mut self) -> Reply {
        Response::text(format!("{} bytes", self.bytes)).into()
    }
}

fn a_body_may_be_taken_in_pieces_and_paused(driver: Driver) {
    let (sender, pauses) = mpsc::channel();
    let server = start(driver, |server| {
        server.upload("POST", "/count", move |_request| {
            Intake::accept(Count { bytes: 0, pauses: sender.clone() })
        })
    });
    let mut peer = ask(&server, "POST /count", &[7; 300_000]);
    // Nothing goes on until the pause ends, on whichever thread.
    let pause = given(&pauses);
    assert!(!peer.has_news());
    drop(pause);
    let answer = peer.read_answer();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"300000 bytes"[..]));
}
