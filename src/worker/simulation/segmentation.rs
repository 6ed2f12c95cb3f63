//! The same bytes, cut and delayed differently, mean the same (threats ).
//!
//! One script of bytes, valid or not, is played on a perfect network in one piece and on a bad
//! one in many, with receive buffers down to 64 bytes. The handler must see the same calls, the
//! peer the same answers.

use super::assertions;
use super::client::{Client, Said};
use super::log::{Call, echo};
use super::world::Setup;
use crate::driver::simulated::{Faults, Random, for_each_seed};
use crate::error::CloseCause;
use crate::protocol::{CloseCode, Endpoint, Message, Opcode};

/// What a script came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    calls: Vec<Call>,
    end: Option<(u16, String, CloseCause)>,
    received: Option<Vec<Said>>,
    close_code: Option<u16>,
    refusal: Option<u16>,
}

/// Heads that are refused, each for another reason, and some that are not.
const HEADS: [&str; 8] = [
    "POST / HTTP/1.1\r\nHost: test\r\n\r\n",
    "GET /nowhere HTTP/1.1\r\nHost: test\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\n\r\n",
    "GET / HTTP/1.1\nHost: test\n\n",
    "GET / HTTP/2.7\r\nHost: test\r\n\r\n",
    "\u{16}\u{3}\u{1}",
    "GET /page HTTP/1.1\r\nHost: test\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: te",
];

/// A request and what follows it: frames, perhaps with a mistake anywhere, perhaps a Close.
fn script(random: &mut Random) -> Vec<u8> {
    if random.chance(100) {
        let mut head = HEADS[random.index(HEADS.len())].as_bytes().to_vec();
        head.extend(std::iter::repeat_n(b'x', random.up_to(300) as usize));
        return head;
    }
    let mut bytes = Client::request();
    let mut speaker = Client::endpoint();
    for _ in 0..random.up_to(30) {
        say_anything(&mut speaker, random, &mut bytes);
    }
    if random.chance(500) {
        let code = CloseCode::new(3000 + random.up_to(1999) as u16).expect("a private code");
        speaker.close(Some(code), "bye bye è", &mut bytes);
        say_anything(&mut speaker, random, &mut bytes);
    }
    if random.chance(400) {
        // A mutation anywhere, but in the key: the client would not know the answer to another.
        let name = b"Sec-WebSocket-Key: ";
        let key = bytes.windows(name.len()).position(|window| window == name);
        let key = key.expect("every request has one") + name.len();
        let place = random.index(bytes.len());
        if !(key..key + 24).contains(&place) {
            bytes[place] ^= 1 << random.up_to(7);
        }
    }
    if random.chance(200) {
        let len = random.index(bytes.len());
        bytes.truncate(len);
    }
    bytes
}

fn say_anything(speaker: &mut Endpoint, random: &mut Random, bytes: &mut Vec<u8>) {
    let most = if random.chance(50) { 100_000 } else { 300 };
    let payload = vec![b'a' + random.up_to(20) as u8; random.length(most)];
    // An error value says that a Close was sent or a fragment is missing; nothing is written then.
    let _ = match random.up_to(9) {
        0 => speaker.ping(&payload[..payload.len().min(125)], bytes).is_ok(),
        1 => speaker.pong(&payload[..payload.len().min(125)], bytes).is_ok(),
        2 => speaker.send_fragment(Opcode::Text, false, &payload, bytes).is_ok(),
        3 => speaker.send_fragment(Opcode::Continuation, false, &payload, bytes).is_ok(),
        4 => speaker.send_fragment(Opcode::Continuation, true, &payload, bytes).is_ok(),
        5 => speaker.send_fragment(Opcode::Binary, true, &[0xFF; 200], bytes).is_ok(),
        // Cut in the middle of a character, or not UTF-8 at all.
        6 => speaker.send_fragment(Opcode::Text, false, b"\xC3", bytes).is_ok(),
        7 => speaker.send_fragment(Opcode::Continuation, true, b"\xA8", bytes).is_ok(),
        8 => speaker.send(Message::Binary(&payload), bytes).is_ok(),
        _ => speaker.send(Message::Text("è"), bytes).is_ok(),
    };
}

/// Plays a script: in pieces if there is a source of them.
fn play(setup: Setup, script: &[u8], mut pieces: Option<&mut Random>) -> Outcome {
    let mut world = setup.serve(echo());
    let mut clients = [Client::mute(&world.network)];
    clients[0].mute = true;
    let mut rest = script;
    while !rest.is_empty() {
        let len = match &mut pieces {
            Some(random) => random.length(rest.len()),
            None => rest.len(),
        };
        clients[0].peer.send(&rest[..len]);
        rest = &rest[len..];
        if let Some(random) = &mut pieces {
            for _ in 0..random.up_to(3) {
                world.step(random);
            }
            clients[0].listen();
        }
    }
    clients[0].peer.finish();
    world.settle(&mut clients);
    assertions::at_rest(&world);
    let [client] = clients;
    let log = world.log.borrow();
    let record = client.id.and_then(|id| log.records.get(&id));
    let calls = record.map_or(&[][..], |record| &record.calls);
    let end = record.and_then(|record| record.end.clone());
    // Without a Close, nobody waits for what the socket did not take at once.
    let complete = end.as_ref().is_some_and(|end| end.cause != CloseCause::Ended);
    Outcome {
        // When the socket is full depends on the network.
        calls: calls.iter().filter(|call| call.what != "drain").copied().collect(),
        end: end.map(|end| (end.code, end.reason, end.cause)),
        received: complete.then(|| client.received.clone()),
        close_code: client.close_code,
        refusal: client.refusal,
    }
}

#[test]
fn any_segmentation_means_the_same() {
    for_each_seed("any_segmentation_means_the_same", 400, |seed| {
        let mut random = Random::new(seed);
        let script = script(&mut random);
        let perfect = play(Setup::new(seed), &script, None);
        let mut bad = Setup::new(seed);
        bad.faults = Faults::drawn(&mut random);
        (bad.faults.reset_on_receive, bad.faults.reset_on_send) = (0, 0);
        (bad.faults.adopt_failure, bad.faults.stall) = (0, 0);
        bad.config.receive_buffer = 64 << random.up_to(10);
        let torn = play(bad, &script, Some(&mut random));
        assert_eq!(perfect, torn, "seed {seed}");
    });
}
