//! Our pprof as Go's pprof reads it: names, values, mappings with build IDs, lines, inlined functions, labels.
//!
//! Reads the golden file that the unit tests of `output::pprof` hold. Needs `go` (Debian's golang-go) and fails,
//! saying so, where it is missing.

use std::path::Path;
use std::process::Command;

/// What `go tool pprof MODE` prints for the golden profile.
fn pprof(mode: &str) -> String {
    let golden =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../profiler-user/src/output/testdata/hostile.pb");
    let output = Command::new("go")
        .args(["tool", "pprof", mode])
        .arg(golden)
        .env("PPROF_TMPDIR", std::env::temp_dir())
        .output()
        .expect("this test reads our output with Go's pprof: install Debian's golang-go");
    assert!(output.status.success(), "go tool pprof {mode}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("pprof prints UTF-8")
}

#[test]
fn go_pprof_agrees_about_the_table() {
    let top = pprof("-top");
    for line in [
        "Build ID: 0123456789abcdef0123456789abcdef01234567",
        "Type: cpu",
        "Duration: 30s, Total samples = 30424.24ms (101.41%)",
        " 9090.91ms 29.88% 29.88%  9090.91ms 29.88%  core::str::next_char (inline)",
        " 8080.81ms 26.56% 56.44% 17171.72ms 56.44%  parse",
        "  626.26ms  2.06%   100%   626.26ms  2.06%  [libfoo.so+0x1a2b]",
        // Names are final: nothing is demangled or cut a second time.
        "<[u8; 8] as Parse>::skip (inline)",
        "a\\x0ab\\x1b[31m<script>\"'&]]>;--\\xff 7",
        "1.2 % truncated (more than 256 frames: 36)",
    ] {
        assert!(top.contains(line), "{line:?} is missing in\n{top}");
    }
}

#[test]
fn go_pprof_sees_every_field() {
    let raw = pprof("-raw");
    for line in [
        "PeriodType: cpu nanoseconds",
        "Period: 10101010",
        "samples/count cpu/nanoseconds[dflt]",
        "400 4040404000: 6 7 4 1",
        "comm:[# worker\\x1b]0;x] cpu:[1] process:[we b;<\"\\x0a]",
        "pid:[4242] tid:[4243]",
        "cgroup:[/system.slice/web \"1\".service]",
        "2: 0x1100 M=1 core::str::next_char char.rs:77",
        "0123456789abcdef0123456789abcdef01234567 [FN][FL][LN][IN]",
        "[unwind: no table for libfoo.so]",
    ] {
        assert!(raw.contains(line), "{line:?} is missing in\n{raw}");
    }
}
