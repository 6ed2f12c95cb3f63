//! The example `heartbeat`: beats in time, answers keep a connection, silence ends it.

mod common;

use std::time::{Duration, Instant};

use common::child::Program;
use wirelane::Driver;

on_every_driver!(
    a_heart_beats_at_the_rate_of_its_client,
    whoever_does_not_answer_is_closed,
    everybody_learns_how_many_they_are,
);

fn a_heart_beats_at_the_rate_of_its_client(driver: Driver) {
    let program = Program::start("heartbeat", driver, &[]);
    let mut peer = program.open();
    peer.send_text("every 250");
    let (mut beats, start) = (0, Instant::now());
    // More than the limit of unanswered ones, each answered; the first one had a second.
    while beats < 6 {
        let frame = peer.read_frame();
        if frame.payload == b"beat" {
            beats += 1;
            peer.send_text("here");
        }
    }
    assert!(start.elapsed() >= Duration::from_millis(900 + 5 * 250), "{:?}", start.elapsed());
    drop(peer);
    program.stop();
}

fn whoever_does_not_answer_is_closed(driver: Driver) {
    let program = Program::start("heartbeat", driver, &[]);
    let mut peer = program.open();
    peer.send_text("every 30");
    let mut beats = 0;
    loop {
        let frame = peer.read_frame();
        match &frame.payload[..] {
            b"beat" => beats += 1,
            _ if frame.first == 0x81 => {}
            _ => {
                assert_eq!(frame.close_code(), 1008);
                assert_eq!(&frame.payload[2..], b"no heartbeat");
                break;
            }
        }
    }
    assert_eq!(beats, 3);
    let mut greedy = program.open();
    greedy.send_text("every 1");
    assert_eq!(greedy.read_frame().close_code(), 1008);
    drop((peer, greedy));
    program.stop();
}

fn everybody_learns_how_many_they_are(driver: Driver) {
    let program = Program::start("heartbeat", driver, &[]);
    let mut peers = [program.open(), program.open()];
    for peer in &mut peers {
        while peer.read_frame().payload != b"2 connections" {}
    }
    drop(peers);
    program.stop();
}
