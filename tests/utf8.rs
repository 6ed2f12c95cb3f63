//! RFC 6455 8.1: text is UTF-8 or the connection ends with 1007, at the first byte that cannot
//! belong to it, wherever the bytes are cut. RFC 3629 says what UTF-8 is.

mod common;

use common::{Echo, Peer, TestServer, frame};
use wirelane::{Driver, Limits};

on_every_driver!(
    text_that_is_not_utf_8_gets_1007_and_is_not_delivered,
    a_bad_byte_is_found_anywhere_in_a_long_message,
    a_character_cut_at_the_end_of_a_message_gets_1007,
    every_character_may_be_split_over_fragments,
    every_character_may_be_split_over_segments,
    a_bad_sequence_split_over_fragments_gets_1007,
    a_bad_byte_ends_the_connection_before_the_frame_is_complete,
    a_bad_byte_ends_the_connection_before_the_message_is_complete,
    the_check_starts_afresh_with_every_message,
    control_frames_inside_a_character_change_nothing,
    binary_messages_are_not_looked_at,
);

/// What RFC 3629 forbids, each with the index of the first byte that is impossible.
const BAD: [(&[u8], usize); 20] = [
    (b"\x80", 0),
    (b"\xbf", 0),
    (b"\xc0\x80", 0),
    (b"\xc0\xaf", 0),
    (b"\xc1\xbf", 0),
    (b"\xe0\x80\xaf", 1),
    (b"\xe0\x9f\xbf", 1),
    (b"\xf0\x80\x80\xaf", 1),
    (b"\xf0\x8f\xbf\xbf", 1),
    (b"\xed\xa0\x80", 1),
    (b"\xed\xbf\xbf", 1),
    (b"\xed\xa0\xbd\xed\xb8\x80", 1),
    (b"\xf4\x90\x80\x80", 1),
    (b"\xf5\x80\x80\x80", 0),
    (b"\xfe", 0),
    (b"\xff", 0),
    (b"\xc3(", 1),
    (b"\xe2\x82(", 2),
    (b"\xf0\x9f\x98(", 3),
    (b"\xc3\xa9\xa9", 2),
];

/// Every length of a sequence, first and last of its kind, and what looks suspicious but is not.
const GOOD: &str = "\0 a\u{7f}\u{80}\u{7ff}\u{800}\u{d7ff}\u{e000}\u{feff}\u{fffe}\u{ffff}\
                    \u{fdd0}\u{10000}\u{1f600}\u{10fffe}\u{10ffff}e\u{301}";

fn start(driver: Driver) -> TestServer {
    let limits = Limits::new().max_message(2 << 20);
    TestServer::start(driver, |server| {
        server.limits(limits).max_backpressure(8 << 20).websocket("/", |_| Echo)
    })
}

/// A peer that sends these frames is told 1007, and nothing comes before that.
fn refused(server: &TestServer, frames: &[u8]) {
    let mut peer = server.open();
    peer.send(frames);
    peer.expect_close(1007);
}

fn echoes(peer: &mut Peer, text: &[u8]) {
    let echo = peer.read_frame();
    assert_eq!(echo.first, 0x81);
    assert!(echo.payload == text);
}

fn text_that_is_not_utf_8_gets_1007_and_is_not_delivered(driver: Driver) {
    let server = start(driver);
    for (bad, _) in BAD {
        refused(&server, &frame(0x81, bad));
        refused(&server, &frame(0x81, &[b"before", bad].concat()));
        refused(&server, &frame(0x81, &[b"gr\xc3\xbc\xc3\x9fe ", bad, b" after"].concat()));
    }
    let all = 3 * BAD.len() as u64;
    let stats = server.wait_for("every end", |stats| stats.closed == all);
    assert_eq!(stats.messages_received, 0);
}

fn a_bad_byte_is_found_anywhere_in_a_long_message(driver: Driver) {
    let server = start(driver);
    let len = 300_000;
    for index in [0, 1, 31, 63, 64, 65, 4095, 65_535, 65_536, 150_001, 262_143, 299_998, len - 1] {
        for background in [&b"a"[..], "é".as_bytes()] {
            let mut text: Vec<u8> = background.iter().copied().cycle().take(len).collect();
            text[index] = 0xff;
            refused(&server, &frame(0x81, &text));
        }
    }
}

fn a_character_cut_at_the_end_of_a_message_gets_1007(driver: Driver) {
    let server = start(driver);
    for character in ["é", "€", "😀"] {
        let bytes = character.as_bytes();
        for cut in 1..bytes.len() {
            refused(&server, &frame(0x81, &bytes[..cut]));
            refused(&server, &frame(0x81, &[&[b'a'; 200], &bytes[..cut]].concat()));
            refused(&server, &[frame(0x01, &bytes[..cut]), frame(0x80, b"")].concat());
            let long = [&[b'a'; 100_000], &bytes[..cut]].concat();
            refused(&server, &frame(0x81, &long));
        }
    }
}

fn every_character_may_be_split_over_fragments(driver: Driver) {
    let server = start(driver);
    let mut peer = server.open();
    let text = GOOD.as_bytes();
    for cut in 0..=text.len() {
        peer.send(&[frame(0x01, &text[..cut]), frame(0x80, &text[cut..])].concat());
        echoes(&mut peer, text);
    }
    let mut bytes = frame(0x01, b"");
    for byte in text {
        bytes.extend(frame(0x00, &[*byte]));
    }
    bytes.extend(frame(0x80, b""));
    peer.send(&bytes);
    echoes(&mut peer, text);
}

fn every_character_may_be_split_over_segments(driver: Driver) {
    let server = start(driver);
    let mut peer = server.open();
    let bytes = frame(0x81, GOOD.as_bytes());
    for cut in 1..bytes.len() {
        peer.send(&bytes[..cut]);
        std::thread::sleep(std::time::Duration::from_micros(300));
        peer.send(&bytes[cut..]);
        echoes(&mut peer, GOOD.as_bytes());
    }
}

fn a_bad_sequence_split_over_fragments_gets_1007(driver: Driver) {
    let server = start(driver);
    for (bad, _) in BAD {
        for cut in 1..bad.len() {
            let mut bytes = frame(0x01, &bad[..cut]);
            bytes.extend(frame(0x80, &bad[cut..]));
            refused(&server, &bytes);
            // The same after something long, so that the message is in its own buffer.
            let mut bytes = frame(0x01, &[b'a'; 70_000]);
            bytes.extend(frame(0x00, &bad[..cut]));
            bytes.extend(frame(0x80, &bad[cut..]));
            refused(&server, &bytes);
        }
    }
}

fn a_bad_byte_ends_the_connection_before_the_frame_is_complete(driver: Driver) {
    let server = start(driver);
    for (bad, index) in BAD {
        // 100 kB are announced; nothing follows the first bad byte.
        let mut text = b"0123456789".to_vec();
        text.extend_from_slice(&bad[..=index]);
        let sent = text.len();
        text.resize(100_000, b'x');
        let whole = frame(0x81, &text);
        let header = whole.len() - text.len();
        refused(&server, &whole[..header + sent]);
    }
    // And far behind the beginning.
    let mut text = vec![b'a'; 1 << 20];
    text[600_000] = 0xff;
    let whole = frame(0x81, &text);
    refused(&server, &whole[..whole.len() - text.len() + 600_001]);
}

fn a_bad_byte_ends_the_connection_before_the_message_is_complete(driver: Driver) {
    let server = start(driver);
    for (bad, index) in BAD {
        refused(&server, &frame(0x01, &[b"begun ", &bad[..=index]].concat()));
        let bytes = [frame(0x01, b"begun"), frame(0x00, &bad[..=index])].concat();
        refused(&server, &bytes);
    }
}

fn the_check_starts_afresh_with_every_message(driver: Driver) {
    let server = start(driver);
    let mut peer = server.open();
    for _ in 0..3 {
        peer.send(&[frame(0x01, b"\xe2\x82"), frame(0x80, b"\xac")].concat());
        echoes(&mut peer, "€".as_bytes());
        peer.send_text("plain");
        echoes(&mut peer, b"plain");
    }
    // The rest of a character is no character, whatever came in the message before.
    peer.send(&frame(0x82, b"\xe2\x82"));
    assert_eq!(peer.read_frame().payload, b"\xe2\x82");
    peer.send(&frame(0x81, b"\xac"));
    peer.expect_close(1007);
}

fn control_frames_inside_a_character_change_nothing(driver: Driver) {
    let server = start(driver);
    let mut peer = server.open();
    peer.send(&frame(0x01, b"\xf0\x9f"));
    // The payload of a ping is not text.
    peer.send(&frame(0x89, b"\xff\xfe"));
    assert_eq!(peer.read_frame().payload, b"\xff\xfe");
    peer.send(&frame(0x80, b"\x98\x80"));
    echoes(&mut peer, "😀".as_bytes());
}

fn binary_messages_are_not_looked_at(driver: Driver) {
    let server = start(driver);
    let mut peer = server.open();
    for (bad, _) in BAD {
        peer.send_frame(0x82, bad);
        let echo = peer.read_frame();
        assert_eq!((echo.first, &echo.payload[..]), (0x82, bad));
    }
    let all: Vec<u8> = (0..100_000_u32).map(|i| (i * 7) as u8).collect();
    peer.send(&[frame(0x02, &all[..50_001]), frame(0x80, &all[50_001..])].concat());
    assert!(peer.read_frame().payload == all);
}
