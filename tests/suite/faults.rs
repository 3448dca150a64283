//! What happens when things go wrong: bad arguments, bad targets, full disks, an agent that is killed.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tests::{Run, agent, need_root, run, sampling_agent, seconds, start_agent, workload};

use crate::recording::background;

/// Runs the agent in an empty folder.
fn try_agent(arguments: &[&str]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    run(agent().args(arguments).current_dir(folder.path())).unwrap()
}

/// Fails unless the agent ended with this code and said all of this on standard error, and nothing on standard output.
fn assert_fails(arguments: &[&str], code: i32, said: &[&str]) {
    let run = try_agent(arguments);
    assert_eq!(run.code, code, "{arguments:?}: {}", run.stderr);
    for text in said {
        assert!(run.stderr.contains(text), "{arguments:?} does not say `{text}`: {}", run.stderr);
    }
    assert!(run.stdout.is_empty(), "{arguments:?} printed on standard output: {}", run.stdout);
    assert!(!run.stderr.contains("panicked"), "{arguments:?}: {}", run.stderr);
}

#[test]
fn vm_arguments_that_make_no_sense_are_usage_errors() {
    need_root();
    assert_fails(&["attach", "1", "-F", "0"], 2, &["-F 0"]);
    assert_fails(&["attach", "1", "-F", "1000000"], 2, &["perf_event_max_sample_rate"]);
    assert_fails(&["attach", "1", "-F", "-3"], 2, &["-F -3"]);
    assert_fails(&["attach", "1", "-d", "-1"], 2, &["`-1` is not a duration"]);
    assert_fails(&["attach", "1", "-d", "soon"], 2, &["`soon` is not a duration"]);
    assert_fails(&["attach", "1", "-d", "1", "-o", "x.xyz"], 2, &[".svg"]);
    assert_fails(&["record", "-a", "-p", "1"], 2, &["cannot be used with"]);
    assert_fails(&["record", "-C", "3-1", "-d", "1"], 2, &["`3-1`"]);
    assert_fails(&["attach", "/[/"], 2, &["not a regular expression"]);
    assert_fails(&["no-such-verb"], 2, &["unrecognized subcommand"]);
}

#[test]
fn vm_targets_that_cannot_be_profiled_say_why() {
    need_root();
    assert_fails(&["attach", "999999999"], 1, &["no process has pid 999999999", "hint:"]);
    assert_fails(&["attach", "no-such-process-name"], 1, &["no process is named `no-such-process-name`"]);
    assert_fails(&["attach", "2"], 1, &["kernel thread"]);
    let zombie = background("sh", &["-c", "exit 0"]);
    std::thread::sleep(Duration::from_millis(300));
    assert_fails(&["attach", &zombie.id().to_string()], 1, &["zombie"]);
    assert_fails(&["record", "-t", "999999999", "-d", "1"], 1, &["no thread 999999999"]);
    assert_fails(&["record", "-d", "1", "--", "/no/such/program"], 1, &["/no/such/program"]);
}

#[test]
fn vm_a_target_that_sleeps_gives_exit_code_5() {
    need_root();
    let sleeper = background("sleep", &["60"]);
    std::thread::sleep(Duration::from_millis(200));
    let run = try_agent(&["attach", &sleeper.id().to_string(), "-d", "1"]);
    assert_eq!(run.code, 5, "{}", run.stderr);
    assert!(run.stderr.contains("nothing was sampled"), "{}", run.stderr);
}

#[test]
fn vm_a_target_that_ends_ends_the_recording() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let mut child = background(workload("cpu_split"), &[&seconds(3)]);
    let pid = child.id().to_string();
    let started = start_agent(
        &["attach", &pid, "-d", "1000", "-F", "199", "--max-overhead", "100%", "-o", "x.folded"],
        folder.path(),
    )
    .unwrap();
    child.wait().unwrap();
    let run = tests::finish(started).unwrap();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(folder.path().join("x.folded").exists());
}

#[test]
fn vm_the_commands_exit_code_is_passed_on() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let script = format!("{} 0.3; exit 7", workload("cpu_split").display());
    let mut agent = sampling_agent("record");
    agent.args(["-F", "499", "-o", "x.folded", "--", "sh", "-c", &script]).current_dir(folder.path());
    assert_eq!(run(&mut agent).unwrap().code, 7);
}

#[test]
fn vm_ctrl_c_writes_what_there_is() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let child = background(workload("cpu_split"), &["60"]);
    let pid = child.id().to_string();
    let started = start_agent(&["attach", &pid, "-d", "1000", "-o", "x.folded"], folder.path()).unwrap();
    std::thread::sleep(Duration::from_secs(seconds(3).parse().unwrap()));
    signal(started.id(), libc::SIGINT);
    let run = tests::finish(started).unwrap();
    assert_eq!(run.code, 0, "{}", run.stderr);
    let folded = tests::Folded::read(&folder.path().join("x.folded")).unwrap();
    assert!(folded.total() > 5, "{} samples", folded.total());
}

#[test]
fn vm_nothing_is_left_when_the_agent_is_killed() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let before = kernel_objects();
    let started = start_agent(&["record", "-a", "-d", "1000"], folder.path()).unwrap();
    let mut during = Vec::new();
    for _ in 0..200 {
        std::thread::sleep(Duration::from_millis(50));
        during = kernel_objects();
        if during.iter().any(|object| !before.contains(object)) {
            break;
        }
    }
    assert!(during.iter().any(|object| !before.contains(object)), "the recording has programs in the kernel");
    drop(started);
    assert_none_left(&before);
}

/// Fails when the kernel keeps programs, maps or links that were not there before.
pub(crate) fn assert_none_left(before: &[(u32, u32)]) {
    // The kernel frees programs after a grace period, those of the test before this one too.
    let left = || kernel_objects().into_iter().filter(|object| !before.contains(object)).collect::<Vec<_>>();
    for _ in 0..100 {
        if left().is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("left behind: {:?}", left());
}

/// What [`kernel_objects`] says of programs: `BPF_PROG_GET_NEXT_ID`, include/uapi/linux/bpf.h.
pub(crate) const PROGRAM: u32 = 11;

/// IDs of all BPF programs, maps and links, asked of the kernel as bpftool does (`BPF_*_GET_NEXT_ID`).
pub(crate) fn kernel_objects() -> Vec<(u32, u32)> {
    /// `BPF_MAP_GET_NEXT_ID`, `BPF_LINK_GET_NEXT_ID` (include/uapi/linux/bpf.h).
    const NEXT_ID: [u32; 3] = [PROGRAM, 12, 31];
    let mut objects = Vec::new();
    for command in NEXT_ID {
        let mut attr = [0u32; 8];
        loop {
            // SAFETY: the attribute is a buffer of 32 zeroed bytes; the kernel reads `start_id` and writes `next_id`.
            let result =
                unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(&attr)) };
            if result < 0 {
                break;
            }
            objects.push((command, attr[1]));
            attr[0] = attr[1];
        }
    }
    objects
}

#[test]
fn a_full_disk_is_an_error_and_the_table_still_comes() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let mount = Mounted::tmpfs(folder.path(), "size=4k");
    let file = folder.path().join("x.svg");
    let mut agent = sampling_agent("record");
    agent.args(["-F", "499", "-o"]).arg(&file).arg("--").arg(workload("cpu_split")).arg("0.5");
    let run = run(&mut agent).unwrap();
    drop(mount);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(run.stderr.contains("x.svg") && run.stderr.to_lowercase().contains("space"), "{}", run.stderr);
    assert!(run.stdout.contains("work_forty"), "{}", run.stdout);
}

struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn tmpfs(path: &'a Path, options: &str) -> Self {
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path).status().unwrap();
        assert!(status.success(), "cannot mount a tmpfs");
        Self(path)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn vm_damaged_profiles_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        ("empty.pb.gz", &b""[..]),
        ("cut.pb.gz", b"\x1f\x8b\x08\0\0\0\0\0"),
        ("x.pb", b"\xff\xff\xff\xff\xff"),
    ] {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        assert_fails(&["report", file.to_str().unwrap()], 1, &[name]);
    }
    assert_fails(&["report", "/no/such/file.pb.gz"], 1, &["/no/such/file.pb.gz"]);
}

#[test]
fn without_rights_every_missing_capability_is_named() {
    need_root();
    let mut agent = agent();
    let program = agent.get_program().to_owned();
    // A copy that another user can reach, wherever the workspace is.
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let copy = folder.path().join("perf-agent");
    std::fs::copy(program, &copy).unwrap();
    for path in [folder.path(), copy.as_path()] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    agent = Command::new("setpriv");
    agent
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .args(["record", "-d", "1"])
        .current_dir("/tmp");
    let run = run(&mut agent).unwrap();
    assert_eq!(run.code, 3, "{}", run.stderr);
    for text in ["CAP_BPF", "CAP_PERFMON", "sudo"] {
        assert!(run.stderr.contains(text), "does not say {text}: {}", run.stderr);
    }
}

#[test]
fn vm_hostile_names_reach_no_terminal_and_break_no_format() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let hostile = folder.path().join("a;<b>\n\x1b[31m\"x");
    std::fs::copy(workload("cpu_split"), &hostile).unwrap();
    let mut agent = sampling_agent("record");
    agent.args(["-F", "499", "-o", "x.folded", "-o", "x.svg", "-o", "x.json", "-o", "x.pb.gz", "--"]);
    let run = run(agent.arg(&hostile).arg("1").current_dir(folder.path())).unwrap();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(
        !run.stderr.contains('\x1b') && !run.stdout.replace("\x1b[K", "").contains('\x1b'),
        "{}{}",
        run.stdout,
        run.stderr
    );
    let folded = tests::Folded::read(&folder.path().join("x.folded")).unwrap();
    assert!(folded.with("work_forty") > 0);
    let svg = std::fs::read_to_string(folder.path().join("x.svg")).unwrap();
    assert!(!svg.contains('\x1b') && !svg.contains("<b>"));
    let json = std::fs::read_to_string(folder.path().join("x.json")).unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok());
}

pub(crate) fn signal(pid: u32, number: i32) {
    // SAFETY: no memory is passed.
    unsafe { libc::kill(pid as i32, number) };
}

#[test]
fn agents_that_start_together_do_not_disturb_one_another() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let record = ["record", "-a", "-d", "1", "-f", "folded", "-o", "-"];
    let start = |_| start_agent(&record, folder.path()).unwrap();
    for child in (0..8).map(start).collect::<Vec<_>>() {
        let run = tests::finish(child).unwrap();
        assert_eq!(run.code, 0, "{}", run.stderr);
    }
}
