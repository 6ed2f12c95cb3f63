//! Every target on every checked-in input, and on inputs that are made from them: what can be had of
//! fuzzing without a fuzzer.

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use super::TARGETS;

/// Inputs made for each target.
const MADE: usize = if cfg!(miri) { 50 } else { 4000 };

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz").join(name)
}

fn inputs(target: &str) -> Vec<Vec<u8>> {
    let folder = folder("corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{folder:?} has no inputs");
    paths.iter().map(|path| fs::read(path).expect("a file")).collect()
}

/// xorshift64*: the same numbers on every machine.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }
}

/// One input changed in a few places, sometimes with a piece of another one.
fn change(inputs: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let mut input = inputs[numbers.below(inputs.len())].clone();
    for _ in 0..=numbers.below(3) {
        let at = numbers.below(input.len() + 1);
        match numbers.below(6) {
            0 if at < input.len() => input[at] ^= 1 << numbers.below(8),
            1 if at < input.len() => input[at] = numbers.below(256) as u8,
            2 => input.truncate(at),
            3 if at < input.len() => _ = input.remove(at),
            4 => input.insert(at, numbers.below(256) as u8),
            _ => {
                let other = &inputs[numbers.below(inputs.len())];
                let from = numbers.below(other.len() + 1);
                let to = from + numbers.below(other.len() - from + 1);
                input.splice(at..at, other[from..to].iter().copied());
            }
        }
    }
    input
}

#[test]
fn every_promise_holds_for_every_known_input() {
    for &(name, target) in TARGETS {
        let inputs = inputs(name);
        let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
        let changed = (0..MADE).map(|_| change(&inputs, &mut numbers)).collect::<Vec<_>>();
        for input in inputs.iter().chain(&changed) {
            if let Err(panicked) = panic::catch_unwind(AssertUnwindSafe(|| target(input))) {
                eprintln!("{name}: {:?}", input.escape_ascii().to_string());
                panic::resume_unwind(panicked);
            }
        }
    }
}

#[test]
fn every_target_has_a_program() {
    let manifest = include_str!("../../tests/fuzz/Cargo.toml");
    for &(name, _) in TARGETS {
        let program = format!("name = \"{name}\"\npath = \"targets/{name}.rs\"");
        assert!(manifest.contains(&program), "{name}");
        let source = folder("targets").join(format!("{name}.rs"));
        let source = fs::read_to_string(source).expect("a source");
        assert!(source.contains(&format!("wirelane::fuzzing::{name}")), "{name}");
    }
}
