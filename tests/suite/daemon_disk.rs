//! A daemon on a disk that others fill and free again.

use std::os::unix::fs::PermissionsExt;

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
