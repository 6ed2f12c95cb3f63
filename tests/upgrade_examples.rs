//! The examples that decide who may connect, run as programs.

mod common;

use std::sync::{Arc, Barrier};
use std::thread;

use common::child::Program;
use common::{Answer, Peer, request};
use wirelane::Driver;

on_every_driver!(
    routes_lead_where_they_say,
    a_token_is_good_for_its_user,
    a_token_is_good_once,
    a_token_is_good_once_in_a_race_of_workers,
    tokens_are_for_whoever_is_logged_in,
    whoever_gives_nothing_away_lets_any_page_in,
);

/// A correct upgrade request.
fn upgrade(program: &Program, target: &str, lines: &str) -> Peer {
    let request = String::from_utf8(request(target)).expect("ASCII");
    let mut peer = program.connect();
    peer.send(format!("{}\r\n{lines}\r\n", request.trim_end()).as_bytes());
    peer
}

fn get(program: &Program, target: &str, lines: &str) -> Answer {
    let mut peer = program.connect();
    peer.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n").as_bytes());
    peer.read_answer()
}

fn text(answer: &Answer) -> (u16, &str) {
    (answer.status, str::from_utf8(&answer.body).expect("text").trim_end())
}

fn opened(peer: &mut Peer) -> String {
    let head = peer.read_head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    head
}

fn message(peer: &mut Peer) -> String {
    String::from_utf8(peer.read_frame().payload).expect("text")
}

fn routes_lead_where_they_say(driver: Driver) {
    let program = Program::start("routes", driver, &[]);
    for (target, expected) in [
        ("/", (200, "Rooms: kitchen, library, garden.")),
        ("/room/kitchen", (200, "The kitchen. Come in: ws://.../room/kitchen?name=")),
        ("/room/kitch%65n", (200, "The kitchen. Come in: ws://.../room/kitchen?name=")),
        ("/room/cellar", (404, "There is no such room.")),
        ("/room/attic", (403, "The attic is closed.")),
        ("/files/css/../a%20b", (404, "No file \"css/../a%20b\" here.")),
        ("/healthz", (200, "ok")),
    ] {
        assert_eq!(text(&get(&program, target, "")), expected, "{target}");
    }
    assert_eq!(get(&program, "/rooms", "").status, 404);

    let lines = "Sec-WebSocket-Protocol: house.v1, house.v2\r\n";
    let mut peer = upgrade(&program, "/room/garden?name=J%C3%B6rg", lines);
    let head = opened(&mut peer);
    assert!(head.contains("\r\nSec-WebSocket-Protocol: house.v2\r\n"), "{head}");
    assert!(head.contains("\r\nSet-Cookie: room=garden; HttpOnly; SameSite=Strict\r\n"), "{head}");
    assert_eq!(message(&mut peer), "Welcome to the garden, J\u{f6}rg. The kettle is on.");
    peer.send_text("hello");
    assert_eq!(message(&mut peer), "J\u{f6}rg in the garden: hello");
    drop(peer);

    let mut peer = upgrade(&program, "/room/library?name=Ada", "");
    opened(&mut peer);
    assert_eq!(message(&mut peer), "Welcome to the library, Ada.");
    drop(peer);

    for (target, lines, status) in [
        ("/room/library", "", 400),
        ("/room/library?name=", "", 400),
        ("/room/cellar?name=Ada", "", 404),
        // The page is the most specific route, and answers whatever it is asked.
        ("/room/attic?name=Ada", "", 403),
        ("/room/library?name=Ada", "Origin: https://evil.example\r\n", 403),
    ] {
        let answer = upgrade(&program, target, lines).read_answer();
        assert_eq!(answer.status, status, "{target} {answer:?}");
    }
    program.stop();
}

const LOGIN: &str = "Authorization: Bearer swordfish\r\n";

fn token(program: &Program, user: &str) -> String {
    let answer = get(program, &format!("/token?user={user}"), LOGIN);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    let token = String::from_utf8(answer.body).expect("text");
    assert!(token.len() == 32 && token.bytes().all(|byte| byte.is_ascii_hexdigit()), "{token}");
    token
}

fn a_token_is_good_for_its_user(driver: Driver) {
    let program = Program::start("token_auth", driver, &[]);
    let [ada, bob] = ["ada", "bob"].map(|user| token(&program, user));
    assert_ne!(ada, bob);
    for (token, user) in [(bob, "bob"), (ada, "ada")] {
        let mut peer = upgrade(&program, &format!("/?token={token}"), "");
        opened(&mut peer);
        peer.send_text("hello");
        assert_eq!(message(&mut peer), format!("{user}: hello"));
    }
    program.stop();
}

fn a_token_is_good_once(driver: Driver) {
    let program = Program::start("token_auth", driver, &[]);
    let target = format!("/?token={}", token(&program, "ada"));
    opened(&mut upgrade(&program, &target, ""));
    for target in [&target[..], "/", "/?token=", "/?token=00000000000000000000000000000000"] {
        assert_eq!(upgrade(&program, target, "").read_answer().status, 401, "{target}");
    }
    program.stop();
}

fn a_token_is_good_once_in_a_race_of_workers(driver: Driver) {
    const RACERS: usize = 8;
    let program = Program::start("token_auth", driver, &["--workers", "2"]);
    for round in 0..20 {
        let bytes = Arc::new(request(&format!("/?token={}", token(&program, "ada"))));
        let start = Arc::new(Barrier::new(RACERS));
        let racers: Vec<_> = (0..RACERS)
            .map(|_| {
                // The kernel spreads them over the workers; all send in the same moment.
                let (bytes, start) = (Arc::clone(&bytes), Arc::clone(&start));
                let mut peer = program.connect();
                thread::spawn(move || {
                    start.wait();
                    peer.send(&bytes);
                    peer.read_head()[9..12].to_owned()
                })
            })
            .collect();
        let mut answers: Vec<String> =
            racers.into_iter().map(|racer| racer.join().expect("an answer")).collect();
        answers.sort();
        let mut expected = vec!["401"; RACERS];
        expected[0] = "101";
        assert_eq!(answers, expected, "round {round}");
    }
    program.stop();
}

fn tokens_are_for_whoever_is_logged_in(driver: Driver) {
    let program = Program::start("token_auth", driver, &[]);
    let answer = get(&program, "/token?user=ada", "");
    assert_eq!((answer.status, answer.header("WWW-Authenticate")), (401, Some("Bearer")));
    assert_eq!(get(&program, "/token?user=ada", "Authorization: Bearer x\r\n").status, 401);
    assert_eq!(get(&program, "/token", LOGIN).status, 400);
    // A page of another site cannot use a token that it got hold of.
    let target = format!("/?token={}", token(&program, "ada"));
    let evil = "Origin: https://evil.example\r\n";
    assert_eq!(upgrade(&program, &target, evil).read_answer().status, 403);
    opened(&mut upgrade(&program, &target, "Origin: http://localhost\r\n"));
    program.stop();
}

/// Test suites and pages of any site may use these three.
fn whoever_gives_nothing_away_lets_any_page_in(driver: Driver) {
    for name in ["echo", "broadcast", "relay"] {
        let program = Program::start(name, driver, &[]);
        for origin in ["http://localhost", "https://other.example", "null", "anything"] {
            opened(&mut upgrade(&program, "/", &format!("Origin: {origin}\r\n")));
        }
        program.stop();
    }
}
