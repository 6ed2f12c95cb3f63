//! The table of uWebSockets' settings and methods, `src/docs/uwebsockets.md`: each row says what
//! stands in its place here, or that nothing does, and names tests that exist and use it. That its
//! links lead somewhere, `cargo doc` checks.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const TABLE: &str = include_str!("../src/docs/uwebsockets.md");

struct Row<'t> {
    section: &'t str,
    theirs: &'t str,
    ours: &'t str,
    difference: &'t str,
    tests: &'t str,
}

fn rows() -> Vec<Row<'static>> {
    let mut rows = Vec::new();
    let mut section = "";
    for line in TABLE.lines() {
        if let Some(title) = line.strip_prefix("# ") {
            section = title;
        }
        let Some(line) = line.strip_prefix("| ") else { continue };
        let line = line.strip_suffix(" |").unwrap_or_else(|| panic!("no end: {line}"));
        let cells: Vec<&str> = line.split("|").map(str::trim).collect();
        let [theirs, ours, difference, tests] = cells[..] else {
            panic!("{} columns: {line}", cells.len())
        };
        if theirs != "uWebSockets" && theirs != "---" {
            rows.push(Row { section, theirs, ours, difference, tests });
        }
    }
    rows
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).ok()
}

/// The texts between backticks.
fn code(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The items that a cell links to.
fn links(cell: &str) -> impl Iterator<Item = &str> {
    cell.split("[`").skip(1).filter_map(|rest| rest.split('`').next())
}

#[test]
fn every_row_has_a_counterpart_or_a_reason() {
    let rows = rows();
    let sections: BTreeSet<_> = rows.iter().map(|row| row.section).collect();
    for section in
        ["`WebSocketBehavior`", "`WebSocket`", "`App`", "`HttpRequest`", "`HttpResponse`", "`Loop`"]
    {
        assert!(sections.contains(section), "{section} is missing");
    }
    let mut seen = BTreeSet::new();
    for Row { section, theirs, ours, difference, .. } in rows {
        assert!(seen.insert((section, theirs)), "{section} {theirs} is there twice");
        if ours == "not offered" {
            assert!(!difference.is_empty(), "{section} {theirs}: why?");
        } else {
            assert!(links(ours).next().is_some(), "{section} {theirs}: no link");
        }
    }
}

#[test]
fn every_row_is_reachable_from_a_test() {
    let mut problems = Vec::new();
    for Row { section, theirs, ours, tests, .. } in rows() {
        let mut problem = |what: String| problems.push(format!("{section} {theirs}: {what}"));
        if tests == "\u{2014}" {
            if ours != "not offered" {
                problem("no test".to_owned());
            }
            continue;
        }
        // What servers and peers of tests are made of.
        let shared = ["tests/common/mod.rs", "tests/common/tls.rs"];
        let mut texts: Vec<_> = shared.into_iter().filter_map(read).collect();
        for name in code(tests) {
            let (file, function) = name.split_once("::").unwrap_or_default();
            let folder = if file.starts_with("src/") { "" } else { "tests/" };
            match read(&format!("{folder}{file}.rs")) {
                Some(text) if text.contains(&format!("fn {function}(")) => texts.push(text),
                _ => problem(format!("there is no {name}")),
            }
            // A test of an example is one of what the example uses.
            texts.extend(read(&format!("examples/{file}.rs")));
        }
        for item in links(ours) {
            let word = item.rsplit("::").next().unwrap_or_default();
            if !texts.iter().any(|text| text.contains(word)) {
                problem(format!("{tests} do not use {item}"));
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}
