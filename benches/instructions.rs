//! A whole echo in memory, to be counted rather than timed: bytes in, message, bytes out.
//!
//! `instructions TEXT_OR_BINARY SIZE COUNT` echoes so many messages of so many bytes, eight to a
//! read, and says which vector instructions it had. tests/instructions/run runs it under callgrind
//! and compares the counts with those on file. Without arguments it echoes a few of each, which
//! shows that it works.
//!
//! The masking key is zero: unmasking costs what it always costs and leaves the input as it was,
//! so that no round has to copy it first.

use wirelane::protocol::frame::{Opcode, encode_header};
use wirelane::protocol::{BufferPool, Endpoint, Event, Limits, Message};

/// Messages of one read.
const DEPTH: usize = 8;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let number = |arg: &str| arg.parse().expect("SIZE and COUNT are numbers");
    match &args[..] {
        [] => {
            for size in [0, 20, 125, 126, 1024, 16 * 1024, 70_000] {
                run(Opcode::Text, size, 16);
                run(Opcode::Binary, size, 16);
            }
        }
        [kind, size, count] if kind == "text" => run(Opcode::Text, number(size), number(count)),
        [kind, size, count] if kind == "binary" => run(Opcode::Binary, number(size), number(count)),
        _ => panic!("arguments: text|binary SIZE COUNT"),
    }
    println!("{}", vectors());
}

/// The widest vectors that the library can choose here; an emulated CPU may have fewer.
fn vectors() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return "avx512";
        }
        if is_x86_feature_detected!("avx2") {
            return "avx2";
        }
    }
    std::env::consts::ARCH
}

fn run(opcode: Opcode, size: usize, count: usize) {
    let mut frame = encode_header(true, false, opcode, size as u64, Some([0; 4])).to_vec();
    frame.extend((0..size).map(|i| b'a' + (i % 26) as u8));
    let mut input = frame.repeat(DEPTH);
    let mut endpoint = Endpoint::server(Limits::new());
    let mut pool = BufferPool::new(1024 * 1024);
    let mut out = Vec::new();
    let mut echoed = 0;
    while echoed < count {
        out.clear();
        let mut rest = &mut input[..];
        while let Ok(Some(event)) = endpoint.receive(&mut rest, &mut pool) {
            let sent = match &event {
                Event::Text(text) => endpoint.send(Message::Text(text.as_str()), &mut out),
                Event::Binary(bytes) => endpoint.send(Message::Binary(bytes.as_slice()), &mut out),
                other => panic!("unexpected {other:?}"),
            };
            assert!(sent.is_ok(), "an open endpoint takes a message");
            event.recycle(&mut pool);
            echoed += 1;
        }
        assert!(out.len() >= DEPTH * (size + 2), "every message comes back");
    }
}
