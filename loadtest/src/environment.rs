//! Where and when a run was made, for whoever reads its figures later.

use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// Where and when: command line, commit, kernel, CPU, time.
pub(crate) fn environment() -> Value {
    let command: Vec<String> =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    json!({
        "command": command,
        "commit": git(&["rev-parse", "HEAD"]),
        "uncommitted_changes": git(&["status", "--porcelain"]).map(|changes| !changes.is_empty()),
        "loadtest": env!("CARGO_PKG_VERSION"),
        "kernel": kernel.as_deref().map(str::trim),
        "cpu": cpu_model(),
        "cpus": online_cpus(),
        "time": timestamp(now.as_secs()),
    })
}

/// What the file of `--markdown` says above the table.
pub(crate) fn heading(title: &str) -> String {
    let environment = environment();
    let words = |name: &str| match &environment[name] {
        Value::String(text) => text.clone(),
        Value::Array(words) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        _ => "unknown".to_owned(),
    };
    format!(
        "# {title}\n\n{}; commit {}; kernel {}; {}.\nCommand: `{}`\n\n",
        words("time"),
        words("commit"),
        words("kernel"),
        words("cpu"),
        words("command"),
    )
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn cpu_model() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// As the kernel writes them (`0-3,8`), whatever this process may use.
fn online_cpus() -> Option<String> {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
    Some(text.trim().to_owned())
}

/// ISO 8601 in UTC.
fn timestamp(unix_seconds: u64) -> String {
    let (days, second_of_day) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // Days are counted from 1 March of year 0, so that the leap day comes last in its year.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) =
        (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_follow_the_calendar() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(timestamp(1_735_689_599), "2024-12-31T23:59:59Z");
    }

    #[test]
    fn the_environment_names_kernel_and_command() {
        let environment = environment();
        assert!(environment["kernel"].as_str().is_some_and(|kernel| !kernel.is_empty()));
        assert!(environment["command"].as_array().is_some_and(|words| !words.is_empty()));
    }
}
