//! A daemon on a disk that is full: others fill it and free it again, or its own windows do.

use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use tests::{agent, run, workload};

use crate::daemon::Daemon;
use crate::recording::background;
use crate::store::Small;

const DISK: u64 = 20 << 20;

/// Files that it dropped because the disk was full.
fn dropped(daemon: &Daemon) -> u64 {
    daemon.status()["status"]["disk_full_files"].as_u64().unwrap_or(0)
}

/// Waits for more windows. Returns how many are in the store then.
fn after_more(daemon: &Daemon, count: u64) -> usize {
    let before = daemon.windows_written();
    daemon.wait_for("more windows", |daemon| daemon.windows_written() >= before + count);
    daemon.windows().len()
}

#[test]
fn a_disk_that_others_fill_costs_the_oldest_windows_and_is_used_again_when_it_is_free() {
    let mut daemon = Daemon::configured(99, "1s");
    let store = daemon.store();
    std::fs::create_dir(&store).unwrap();
    std::fs::set_permissions(&store, PermissionsExt::from_mode(0o700)).unwrap();
    let _disk = Small::over(&store, "20m");
    let _load = [
        background(workload("cpu_split"), &["600"]),
        background("sh", &["-c", "while :; do /bin/true; done"]),
    ];
    daemon.run();
    daemon.wait_for("windows", |daemon| daemon.windows_written() >= 5);
    // Room for half as much again, however large windows are on this host.
    let used = daemon.status()["status"]["store_bytes"].as_u64().unwrap();
    let room = used + used / 2 + (8 << 10);
    let ballast = store.join("of_somebody_else");
    std::fs::write(&ballast, vec![1; (DISK - room) as usize]).unwrap();
    daemon.wait_for("full disk", |daemon| dropped(daemon) > 0);
    let kept = after_more(&daemon, 3);
    // Not all of the history goes at once.
    assert!(kept >= 2, "{kept} windows are left");
    let status = daemon.status();
    assert_eq!(status["status"]["not_stored_windows"], 0, "{status}");
    assert!(status["status"]["store_bytes"].as_u64().unwrap() <= room, "{status}");
    daemon.wait_for("words about it", |daemon| daemon.log().contains("the disk was full"));
    let told = run(agent().args(["daemon", "status", "-c"]).arg(daemon.config())).unwrap().stdout;
    assert!(told.contains("of the oldest windows before their time: the disk was full"), "{told}");

    std::fs::remove_file(&ballast).unwrap();
    let kept = after_more(&daemon, 1);
    let before = dropped(&daemon);
    let later = after_more(&daemon, 4);
    assert!(later >= kept + 4, "{later} windows after {kept}");
    assert_eq!(dropped(&daemon), before, "there is room again");
    assert_eq!(daemon.end().code, 0);
    let left: Vec<_> = std::fs::read_dir(&store).unwrap().flatten().map(|file| file.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains(".damaged")), "{left:?}");
    assert!(daemon.windows().len() >= later, "all of it can be read");
}

/// Windows as of a busy host: thousands of stacks each, whose names were in no window before.
struct BusyHost {
    folder: tempfile::TempDir,
    store: PathBuf,
    next: u64,
    /// When the next one begins, Unix seconds.
    begin: u64,
}

impl BusyHost {
    fn new(store: PathBuf) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        Self { folder: tempfile::tempdir().unwrap(), store, next: 0, begin: now - 6 * 3600 }
    }

    /// A name that only this window has.
    fn leaf(window: u64) -> String {
        format!("only_in_{window}")
    }

    fn file(&self, window: u64) -> PathBuf {
        // SplitMix64: what cannot be packed, the same in each run.
        let mut state = window << 32;
        let mut random = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        let mut text = format!("service0;main;{} 100000\n", Self::leaf(window));
        for stack in 0..3_000 {
            write!(text, "service{};main;serve_{};handle_{};", stack % 40, stack % 7, stack % 300).unwrap();
            for _ in 0..8 {
                write!(text, "{:016x}", random()).unwrap();
            }
            writeln!(text, " {}", stack % 5 + 1).unwrap();
        }
        let file = self.folder.path().join(format!("{window}.folded"));
        std::fs::write(&file, text).unwrap();
        file
    }

    /// Stores so many more windows of so many seconds. Returns how many were dropped for them because the disk was full, and the bytes of the store.
    fn add(&mut self, windows: u64, seconds: u64) -> (u64, u64) {
        let files: Vec<PathBuf> = (self.next..self.next + windows).map(|window| self.file(window)).collect();
        let (begin, length) = (self.begin.to_string(), seconds.to_string());
        let mut store = agent();
        store.args(["debug", "store", "--at", &begin, "--length", &length, "--store"]).arg(&self.store);
        let added = run(store.args(&files)).unwrap();
        assert!(
            added.code == 0 && added.stdout.contains("; 0 merges failed"),
            "{}{}",
            added.stdout,
            added.stderr
        );
        (self.next, self.begin) = (self.next + windows, self.begin + windows * seconds);
        for file in files {
            std::fs::remove_file(file).unwrap();
        }
        let number = |before: &str| -> u64 {
            let (_, rest) = added.stdout.split_once(before).unwrap();
            rest.split_whitespace().next().unwrap().parse().unwrap()
        };
        (number("because the disk was full: "), number("the store has "))
    }
}

/// Windows of a type in its store, counted as they were recorded.
fn stored(daemon: &Daemon, kind: &str) -> u64 {
    let run = daemon.query("windows", &["--json", "--type", kind, "--from", "-1d"]);
    let found: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(found["problems"], serde_json::json!([]));
    found["windows"].as_array().unwrap().iter().map(|window| window["parts"].as_u64().unwrap()).sum()
}

#[test]
fn a_store_that_fills_its_disk_goes_round_and_what_is_left_can_be_read() {
    let mut daemon = Daemon::configured(999, "1s");
    let store = daemon.store();
    std::fs::create_dir(&store).unwrap();
    std::fs::set_permissions(&store, PermissionsExt::from_mode(0o700)).unwrap();
    let _disk = Small::over(&store, "20m");
    let mut host = BusyHost::new(store.clone());
    // More than there is room for.
    let (mut dropped, mut bytes) = host.add(120, 60);
    assert!(dropped >= 10, "{dropped} windows were dropped");
    // So little room that a daemon soon uses it up; nothing is old enough to be merged in these seconds.
    for _ in 0..10 {
        if DISK - bytes > 320 << 10 {
            let (more, now) = host.add(1, 1);
            (dropped, bytes) = (dropped + more, now);
        }
    }
    assert!(DISK - bytes <= 320 << 10, "{bytes} bytes are stored");
    // Windows of the last hour are as they were recorded, and older ones are merged although the disk is full.
    let table = daemon.query("windows", &["--type", "samples", "--from", "-1d"]).stdout;
    assert!(table.contains("as recorded") && table.contains("1 min"), "{table}");
    assert_eq!(
        stored(&daemon, "samples") + dropped,
        host.next,
        "no window is lost but those that were dropped"
    );
    let newest = BusyHost::leaf(host.next - 1);
    let finds = |daemon: &Daemon, kind: &str, name: &str| {
        let top = daemon.query("top", &["--type", kind, "--from", "-1d", "-T", "500"]);
        assert_eq!(top.code, 0, "{}", top.stderr);
        assert!(top.stdout.contains(name), "no {name} in {}", top.stdout);
    };
    finds(&daemon, "samples", &newest);

    let _load = background(workload("many_stacks"), &["600", "1048576", "2000"]);
    daemon.run();
    daemon.wait_for("full disk", |daemon| self::dropped(daemon) > 0);
    daemon.wait_for("words about it", |daemon| daemon.log().contains("the disk was full"));
    after_more(&daemon, 3);
    let status = daemon.status();
    assert_eq!(status["status"]["not_stored_windows"], 0, "{status}");
    let written = daemon.windows_written();
    daemon.kill();
    let (old, new) = (stored(&daemon, "samples"), stored(&daemon, "cpu"));
    assert!(new >= written, "{new} windows are left of {written}");
    assert!(old + 20 > host.next - dropped, "one file of windows made room: {old} are left");
    daemon.run();
    after_more(&daemon, 3);
    assert!(stored(&daemon, "cpu") >= new + 3 && stored(&daemon, "samples") <= old);
    finds(&daemon, "samples", &newest);
    finds(&daemon, "cpu", "right");
    assert_eq!(daemon.end().code, 0);
}
