//! Which way dependencies point: reads `src/` and fails when one points the wrong way.

use std::fs;
use std::path::{Path, PathBuf};

/// Every source file below a folder, with its text.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut folders = vec![root];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("UTF-8");
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "nothing below {folder}");
    found
}

/// The lines of code that hold one of the words, comments left out.
fn offenders(folder: &str, words: &[&str], exempt: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in sources(folder) {
        let name = path.display().to_string();
        if exempt.iter().any(|part| name.contains(part)) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if words.iter().any(|word| code.contains(word)) {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    found
}

fn none(offenders: Vec<String>) {
    assert!(offenders.is_empty(), "\n{}", offenders.join("\n"));
}

#[test]
fn the_protocol_knows_no_socket_clock_or_thread() {
    let words = ["std::net", "std::io", "std::thread", "std::time", "std::sync", "std::fs"];
    none(offenders("src/protocol", &words, &[]));
    let words = ["crate::driver", "crate::worker", "crate::connection", "crate::outgoing"];
    none(offenders("src/protocol", &words, &[]));
    none(offenders("src/simd", &["crate::protocol", "crate::driver", "std::io"], &[]));
}

#[test]
fn only_the_drivers_know_a_descriptor() {
    let words = ["mio::", "io_uring::", "libc::", "RawFd", "OwnedFd", "AsRawFd"];
    none(offenders("src", &words, &["src/driver/"]));
    // The server binds what it hands to the drivers, and looks at nothing in it.
    none(offenders("src", &["socket2::"], &["src/driver/", "src/server/"]));
}

#[test]
fn only_one_folder_knows_rustls() {
    none(offenders("src", &["rustls::"], &["src/tls/"]));
    none(offenders("src/tls", &["std::net", "std::time", "crate::driver", "crate::worker"], &[]));
}

#[test]
fn only_drivers_and_kernels_are_unsafe() {
    let words = ["unsafe {", "unsafe fn", "unsafe impl", "allow(unsafe_code)"];
    none(offenders("src", &words, &["src/driver/", "src/simd/"]));
}

#[test]
fn the_core_never_calls_a_handler() {
    let words = ["on_message", "on_close(", "on_open", "dyn Route", "catch_unwind"];
    none(offenders("src/connection", &words, &[]));
    none(offenders("src/outgoing", &words, &[]));
    // Handlers belong to the crank.
    let core: Vec<String> = offenders("src/worker", &["dyn Route", "Handler>", "route::"], &[])
        .into_iter()
        .filter(|line| line.contains("core.rs"))
        .collect();
    none(core);
}

#[test]
fn nothing_unfinished_is_committed() {
    none(offenders("src", &["todo!(", "unimplemented!(", "dbg!("], &[]));
}
