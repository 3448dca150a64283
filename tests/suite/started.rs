//! What the tests start themselves.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tests::Started;

/// A zombie is for whoever adopted it to reap.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// What is left behind takes of the host's budget, and later tests fail in its place.
#[test]
fn a_test_that_fails_leaves_nothing_running() {
    let mut pids = Vec::new();
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$; sleep 600 & echo $!; wait"]).stdout(Stdio::piped());
        let mut shell = Started::of(&mut command).unwrap();
        pids = BufReader::new(shell.stdout()).lines().take(2).map(Result::unwrap).collect();
        assert_eq!(pids[0], shell.id().to_string());
        assert!(pids.iter().all(|pid| !runs(pid)), "a failure on purpose");
    }));
    assert!(failed.is_err());
    assert!(!runs(&pids[0]), "the shell was reaped");
    let began = Instant::now();
    while runs(&pids[1]) {
        assert!(began.elapsed() < Duration::from_mins(1), "what the shell started runs on");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Also a program that ended by itself may leave others behind.
#[test]
fn what_a_program_leaves_behind_ends_with_it() {
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 600 & echo $!"]).stdout(Stdio::piped());
    // Its output stays open as long as anybody holds it.
    let left = tests::finish(Started::of(&mut command).unwrap()).unwrap().stdout;
    let began = Instant::now();
    while runs(left.trim()) {
        assert!(began.elapsed() < Duration::from_mins(1), "what the shell left behind runs on");
        std::thread::sleep(Duration::from_millis(10));
    }
}
