//! The chat example, run as a program: rooms, names, who comes and goes, and its page.

mod common;

use common::child::Program;
use common::{Peer, frame, request};
use wirelane::Driver;

on_every_driver!(
    a_room_hears_its_guests_and_nobody_else,
    guests_leave_however_they_go,
    names_are_what_they_say,
    what_is_no_message_is_refused,
    who_reads_too_slowly_starts_over,
    the_page_is_served,
);

/// Asks to enter a room; both names as they are written in a URL.
fn knock(program: &Program, room: &str, name: &str) -> Peer {
    let mut peer = program.connect();
    peer.send(&request(&format!("/room/{room}?name={name}")));
    peer
}

/// A guest who has heard that it is in, as the last of so many.
fn enter(program: &Program, room: &str, name: &str, count: usize) -> Peer {
    let mut peer = knock(program, room, name);
    let head = peer.read_head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(line(&mut peer), format!("joined\t{name}\t{count}"));
    peer
}

fn text_frame(text: &str) -> Vec<u8> {
    frame(0x81, text.as_bytes())
}

fn line(peer: &mut Peer) -> String {
    let frame = peer.read_frame();
    let line = String::from_utf8(frame.payload).expect("text");
    assert_eq!(frame.first, 0x81, "{line}");
    line
}

fn a_room_hears_its_guests_and_nobody_else(driver: Driver) {
    for workers in ["1", "3"] {
        let program = Program::start("chat", driver, &["--workers", workers]);
        let mut lobby = Vec::new();
        for (index, name) in ["ada", "bob", "eve", "kim"].into_iter().enumerate() {
            let guest = enter(&program, "lobby", name, index + 1);
            for earlier in &mut lobby {
                assert_eq!(line(earlier), format!("joined\t{name}\t{}", index + 1));
            }
            lobby.push(guest);
        }
        let mut cellar = enter(&program, "cellar", "joe", 1);
        // What somebody says may have tabs and line ends in it.
        for (speaker, text) in
            [(0, "hello"), (3, "one\ttwo\nthree"), (1, ""), (1, "gr\u{fc}\u{df}e")]
        {
            lobby[speaker].send_text(text);
            let name = ["ada", "bob", "eve", "kim"][speaker];
            for guest in &mut lobby {
                assert_eq!(line(guest), format!("said\t{name}\t{text}"), "--workers {workers}");
            }
        }
        // Had anything of it reached another room, it would come before this.
        cellar.send_text("anybody here?");
        assert_eq!(line(&mut cellar), "said\tjoe\tanybody here?");
        drop((lobby, cellar));
        program.stop();
    }
}

fn guests_leave_however_they_go(driver: Driver) {
    let program = Program::start("chat", driver, &["--workers", "2"]);
    let mut ada = enter(&program, "lobby", "ada", 1);
    for how in ["close", "end", "reset"] {
        let mut bob = enter(&program, "lobby", "bob", 2);
        assert_eq!(line(&mut ada), "joined\tbob\t2");
        match how {
            "close" => {
                bob.send_frame(0x88, &1000_u16.to_be_bytes());
                bob.expect_close(1000);
            }
            "end" => bob.finish(),
            _ => bob.reset(),
        }
        assert_eq!(line(&mut ada), "left\tbob\t1", "{how}");
    }
    // A room that all have left is a new one for whoever comes next.
    drop(ada);
    program.stop();
}

fn names_are_what_they_say(driver: Driver) {
    let program = Program::start("chat", driver, &[]);
    // Decoded, and given back as they are.
    let mut peer = knock(&program, "caf%C3%A9", "J%C3%B6rg+%26%20Co");
    assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
    assert_eq!(line(&mut peer), "joined\tJ\u{f6}rg+& Co\t1");
    // The same room, spelled differently.
    enter(&program, "c%61f%c3%a9", "ada", 2);
    drop(peer);

    let long = "x".repeat(65);
    for (room, name) in [
        ("lobby", ""),
        ("lobby", "%20"),
        ("lobby", "a%09b"),
        ("lobby", "a%0Ab"),
        ("lobby", &long),
        (&long, "ada"),
        ("%00", "ada"),
    ] {
        assert_eq!(knock(&program, room, name).read_answer().status, 400, "{room:?} {name:?}");
    }
    assert_eq!(knock(&program, "", "ada").read_answer().status, 404);
    enter(&program, &long[1..], &long[1..], 1);
    program.stop();
}

fn what_is_no_message_is_refused(driver: Driver) {
    let program = Program::start("chat", driver, &[]);
    for (first, len, code) in [(0x81, 4097, 1009), (0x82, 1, 1003)] {
        let mut peer = enter(&program, "lobby", "ada", 1);
        let longest = "x".repeat(4096);
        peer.send_text(&longest);
        assert_eq!(line(&mut peer), format!("said\tada\t{longest}"));
        peer.send_frame(first, &vec![b'x'; len]);
        peer.expect_close(code);
    }
    program.stop();
}

fn who_reads_too_slowly_starts_over(driver: Driver) {
    let program = Program::start("chat", driver, &["--max-backpressure", "50000"]);
    let mut slow = enter(&program, "lobby", "slow", 1);
    let mut ada = enter(&program, "lobby", "ada", 2);
    socket2::SockRef::from(&slow.stream).set_recv_buffer_size(64 * 1024).expect("a socket");
    // More than the kernel keeps for a socket that nobody reads.
    const COUNT: usize = 1500;
    let text = |number| format!("{number} {}", "x".repeat(4000));
    for first in (0..COUNT).step_by(20) {
        let numbers = first..first + 20;
        let said: Vec<_> = numbers.clone().flat_map(|number| text_frame(&text(number))).collect();
        ada.send(&said);
        for number in numbers {
            assert!(line(&mut ada).starts_with(&format!("said\tada\t{number} ")));
        }
    }
    // It gets a beginning without a gap, and is told to come again.
    assert_eq!(line(&mut slow), "joined\tada\t2");
    let mut count = 0;
    let close = loop {
        let frame = slow.read_frame();
        if frame.first != 0x81 {
            break frame;
        }
        assert!(frame.payload == format!("said\tada\t{}", text(count)).as_bytes(), "{count}");
        count += 1;
    };
    assert_eq!((close.first, close.close_code()), (0x88, 1013));
    assert!(count < COUNT);
    slow.finish();
    assert_eq!(line(&mut ada), "left\tslow\t1");
    drop(ada);
    program.stop();
}

fn the_page_is_served(driver: Driver) {
    let program = Program::start("chat", driver, &[]);
    for path in ["/", "/room/lobby"] {
        let mut peer = program.connect();
        peer.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        let page = peer.read_answer();
        assert_eq!(
            (page.status, page.header("Content-Type")),
            (200, Some("text/html; charset=utf-8"))
        );
        assert!(page.body.ends_with(b"</html>\n"), "{path}");
    }
    program.stop();
}
