//! The examples that speak HTTP beside WebSocket, run as programs.

mod common;

use common::child::Program;
use common::{Answer, Peer, request};
use wirelane::Driver;

on_every_driver!(what_is_posted_reaches_who_listens, the_same_news_come_in_three_ways);

fn ask(peer: &mut Peer, method: &str, target: &str, body: &str) -> Answer {
    let len = body.len();
    let head =
        format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len}\r\n");
    peer.send(format!("{head}\r\n{body}").as_bytes());
    peer.read_answer()
}

fn text(answer: &Answer) -> (u16, &str) {
    (answer.status, str::from_utf8(&answer.body).expect("text"))
}

fn listen(program: &Program, target: &str) -> Peer {
    let mut peer = program.connect();
    peer.send(&request(target));
    assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
    peer
}

fn message(peer: &mut Peer) -> (u8, Vec<u8>) {
    let frame = peer.read_frame();
    (frame.first, frame.payload)
}

fn what_is_posted_reaches_who_listens(driver: Driver) {
    let program = Program::start("http_publish", driver, &["--workers", "2"]);
    let mut sports = [(); 3].map(|()| listen(&program, "/news/sports"));
    let mut weather = listen(&program, "/news/weather");
    let mut poster = program.connect();
    // A subscription is made right after the 101.
    while text(&ask(&mut poster, "GET", "/news/sports", "")) != (200, "3\n") {}
    while text(&ask(&mut poster, "GET", "/news/weather", "")) != (200, "1\n") {}
    let published = ask(&mut poster, "POST", "/news/sports/publish", "Hello");
    assert_eq!(text(&published), (200, "3\n"));
    for peer in &mut sports {
        assert_eq!(message(peer), (0x81, b"Hello".to_vec()));
    }
    poster.send(
        b"PUT /news/weather/publish HTTP/1.1\r\nHost: localhost\r\n\
          Transfer-Encoding: chunked\r\n\r\n2\r\n\xff\xfe\r\n1\r\nx\r\n0\r\n\r\n",
    );
    assert_eq!(text(&poster.read_answer()), (200, "1\n"));
    assert_eq!(message(&mut weather), (0x82, b"\xff\xfex".to_vec()));
    assert_eq!(text(&ask(&mut poster, "POST", "/a/b/publish", "x")), (200, "0\n"));
    assert_eq!(text(&ask(&mut poster, "GET", "/healthz", "")), (200, "ok\n"));
    assert_eq!(ask(&mut poster, "POST", "/a/b/publish", &"x".repeat(65_537)).status, 413);
    weather.send_text("me, too");
    weather.expect_close(1008);
    program.stop();
}

fn the_same_news_come_in_three_ways(driver: Driver) {
    let program = Program::start("long_poll", driver, &["--workers", "2"]);
    let [mut poster, mut poller, mut waiter] = [(); 3].map(|()| program.connect());
    let page = ask(&mut poller, "GET", "/", "");
    assert!(text(&page).1.contains("Long polling"), "{page:?}");
    let nothing = ask(&mut poller, "GET", "/news", "");
    assert_eq!((text(&nothing), nothing.header("X-Next")), ((200, ""), Some("0")));
    let mut live = listen(&program, "/live");
    // Two wait; one of them does not.
    waiter.send(b"GET /wait?since=0 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut leaver = program.connect();
    leaver.send(b"GET /wait?since=0 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    leaver.reset();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(!waiter.has_news());
    assert_eq!(ask(&mut poster, "POST", "/news", "one").status, 204);
    let answer = waiter.read_answer();
    assert_eq!((text(&answer), answer.header("X-Next")), ((200, "one\n"), Some("1")));
    assert_eq!(message(&mut live), (0x81, b"one".to_vec()));
    assert_eq!(ask(&mut poster, "POST", "/news", "two\n").status, 204);
    // What came in between is not missed.
    assert_eq!(text(&ask(&mut waiter, "GET", "/wait?since=1", "")), (200, "two\n"));
    assert_eq!(text(&ask(&mut poller, "GET", "/news?since=0", "")), (200, "one\ntwo\n"));
    assert_eq!(message(&mut live), (0x81, b"two".to_vec()));
    assert_eq!(ask(&mut poster, "POST", "/news", "\u{fffd}").status, 204);
    program.stop();
}
