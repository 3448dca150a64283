//! Programs that know their own profile, and how close ours comes.
//!
//! Sample counts: at 999 Hz a second of CPU time is 999 samples, taken by a timer in step with the CPU, so a single-threaded program's count
//! is exact up to its start and end. Shares: with 3,000 samples or more the standard error is below one percentage point; the tolerance is three.

use std::path::Path;

use tests::{Folded, agent, finish, is_emulated, need_root, run, sampling_agent, seconds, truth};

use crate::recording::{Recorded, attach, path_of, percent, record, spawn};

/// Largest difference between a measured and a true share, percentage points.
const SHARE_TOLERANCE: f64 = 3.0;
/// What emulation with its coarse and late timers adds to it.
const EMULATION_TOLERANCE: f64 = 2.0;

/// On hardware the number of samples is rate × CPU time within 2 %. The time that they stand for may be a little more: it counts what a
/// hypervisor takes away from a running program, which the kernel's own account may leave out. In emulation, where the host stops the
/// timer's interrupts but not the clock, only that time has a meaning, and a rough one.
fn assert_complete(recorded: &Recorded, hz: f64, true_ns: f64) {
    let time = recorded.cpu_ns() / true_ns;
    let tolerance = if is_emulated() { 0.15 } else { 0.03 };
    assert!((time - 1.0).abs() <= tolerance, "the samples stand for {time:.4} of the true CPU time");
    let samples = recorded.folded.total() as f64 / (hz * true_ns / 1e9);
    assert!(is_emulated() || (0.98..=1.02).contains(&samples), "{samples:.4} of rate × CPU time");
}

#[test]
fn vm_shares_of_four_functions() {
    let recorded = record(&["-F", "999"], &[&path_of("cpu_split"), "4"]);
    let truth = truth(&recorded.stdout).unwrap();
    for name in ["work_forty", "work_thirty", "work_twenty", "work_ten"] {
        let found = percent(recorded.folded.with(name), recorded.folded.total());
        let expected = truth[name] * 100.0 / truth["total_ns"];
        let tolerance = SHARE_TOLERANCE + if is_emulated() { EMULATION_TOLERANCE } else { 0.0 };
        assert!((found - expected).abs() < tolerance, "{name}: {found:.1} % found, {expected:.1} % true");
    }
    assert_complete(&recorded, 999.0, truth["total_ns"]);
    let share = percent(recorded.folded.with("main"), recorded.folded.total());
    assert!(share > if is_emulated() { 85.0 } else { 97.0 }, "{share:.1} % of the stacks reach main");
}

#[test]
fn vm_processes_that_live_30_ms_are_sampled_from_their_first_moment() {
    let recorded = record(&["-F", "999"], &[&path_of("short_lived"), "100"]);
    let truth = truth(&recorded.stdout).unwrap();
    assert_complete(&recorded, 999.0, truth["total_ns"]);
    // In emulation starting a program takes longer than the 30 ms that it burns, and so does looking at who it is.
    let named = percent(recorded.folded.with("work_short"), recorded.folded.total());
    assert!(is_emulated() || named > 90.0, "only {named:.1} % of the samples are in the function that burns");
}

#[test]
fn vm_attach_sees_all_threads_also_those_started_later() {
    let child = spawn("threads", &[&seconds(4)]);
    std::thread::sleep(std::time::Duration::from_millis(200));
    let folded = attach(child.id(), &["-F", "499", "-d", "60", "--per-thread"]);
    let truth = truth(&finish(child).unwrap().stdout).unwrap();
    let roots = |thread: &str| -> u64 {
        let fits = |stack: &[String]| stack[0].contains(thread);
        folded.stacks.iter().filter(|(stack, _)| fits(stack)).map(|(_, count)| count).sum()
    };
    assert!(
        roots("early") > 0 && roots("late") > 0,
        "each thread has a root of its own: {:?}",
        folded.stacks[0]
    );
    let found = percent(folded.with("work_late"), folded.with("work_late") + folded.with("work_early"));
    let whole = truth["work_late"] + truth["work_early"];
    let expected = truth["work_late"] * 100.0 / whole;
    // The first 0.2 s of one thread are not recorded.
    let tolerance = SHARE_TOLERANCE + if is_emulated() { 3.0 * EMULATION_TOLERANCE } else { 2.0 };
    assert!((found - expected).abs() < tolerance, "late: {found:.1} % found, {expected:.1} % true");
}

#[test]
fn vm_children_are_followed_those_there_and_those_to_come() {
    let mut child = spawn("forks", &[&seconds(3)]);
    std::thread::sleep(std::time::Duration::from_millis(300));
    let folded = attach(child.id(), &["-F", "499", "-d", "60"]);
    child.wait().unwrap();
    for name in ["work_child", "work_grandchild", "work_late_child"] {
        assert!(folded.with(name) > 100, "{name} has {} samples", folded.with(name));
    }
}

#[test]
fn vm_children_are_left_out_on_request() {
    let mut child = spawn("forks", &[&seconds(3)]);
    std::thread::sleep(std::time::Duration::from_millis(300));
    let folder = tempfile::tempdir().unwrap();
    let mut agent = agent();
    agent
        .args(["attach", &child.id().to_string(), "--no-subprocesses", "-d", "1"])
        .current_dir(folder.path());
    let run = run(&mut agent).unwrap();
    child.wait().unwrap();
    // The parent only waits: nothing to sample, unless it is just starting its late child.
    let nothing_of_children = run.code == 5 || (run.code == 0 && !run.stdout.contains("work_"));
    assert!(nothing_of_children, "exit code {}\n{}\n{}", run.code, run.stdout, run.stderr);
}

#[test]
fn vm_an_exec_makes_another_identity() {
    let recorded = record(&["-F", "499"], &[&path_of("execs"), "1"]);
    let (before, after) = (recorded.folded.with("work_before_exec"), recorded.folded.with("work_after_exec"));
    assert!(before > 100 && after > 100, "before {before}, after {after}");
}

#[test]
fn libraries_loaded_while_recording_are_named() {
    let recorded = record(&["-F", "499"], &[&path_of("dlopen_main"), &path_of("dlopen_lib.so"), "1"]);
    let (before, after) = (recorded.folded.with("work_before_load"), recorded.folded.with("work_in_library"));
    assert!(before > 100 && after > 100, "before {before}, after {after}");
}

#[test]
fn vm_deep_stacks_are_whole_and_deeper_ones_marked() {
    let whole = record(&["-F", "199"], &[&path_of("recurse"), "250", "1"]).folded;
    assert!(whole.depth() > 250, "depth {}", whole.depth());
    // The rest is the program's start, before main; in emulation that is long.
    let enough = if is_emulated() { 75.0 } else { 95.0 };
    let share = percent(whole.with("main"), whole.total());
    assert!(share > enough, "{share:.1} % of the stacks of depth 250 reach main");
    let cut = record(&["-F", "199"], &[&path_of("recurse"), "5000", "1"]).folded;
    let marked = cut.with("[unwind: deeper than 480 frames]");
    assert!(
        percent(marked, cut.total()) > enough,
        "{marked} of {} stacks of depth 5000 are marked",
        cut.total()
    );
    assert!(percent(cut.with("descend"), cut.total()) > enough, "cut stacks keep the leaf side");
    assert!(cut.with("work_at_the_bottom") > 20, "{} samples at the leaf", cut.with("work_at_the_bottom"));
}

#[test]
fn vm_the_whole_host_is_recorded_with_process_names() {
    need_root();
    let _child = spawn("cpu_split", &["60"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.folded");
    let mut agent = sampling_agent("record");
    agent.args(["-a", "-d", "2", "-o"]).arg(&file).current_dir(folder.path());
    let run = run(&mut agent).unwrap();
    assert_eq!(run.code, 0, "{}", run.stderr);
    let folded = Folded::read(&file).unwrap();
    assert!(folded.rooted("cpu_split") > 20, "cpu_split has {} samples", folded.rooted("cpu_split"));
    let agent = folded.rooted("perf-agent");
    assert_eq!(agent, 0, "the agent leaves itself out");
}

#[test]
fn vm_kernel_only_and_user_only_say_what_they_leave_out() {
    need_root();
    let kernel = record(&["-F", "199", "-K"], &[&path_of("cpu_split"), "1"]).folded;
    assert_eq!(kernel.with("main"), 0);
    assert!(percent(kernel.with("[user mode]"), kernel.total()) > 75.0);
    let user = record(&["-F", "199", "-U"], &[&path_of("cpu_split"), "1"]).folded;
    assert!(percent(user.with("main"), user.total()) > 75.0);
}

#[test]
fn vm_a_thread_alone_can_be_recorded() {
    need_root();
    let mut child = spawn("threads", &[&seconds(4)]);
    std::thread::sleep(std::time::Duration::from_secs(1));
    let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap().flatten();
    let is_early =
        |task: &Path| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == "early");
    let task = tasks.map(|task| task.path()).find(|task| is_early(task)).unwrap();
    let tid = task.file_name().unwrap().to_str().unwrap().to_owned();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.folded");
    let mut agent = sampling_agent("record");
    agent.args(["-t", &tid, "-d", "1", "-F", "499", "-o"]).arg(&file).current_dir(folder.path());
    let run = run(&mut agent).unwrap();
    child.wait().unwrap();
    assert_eq!(run.code, 0, "{}", run.stderr);
    let folded = Folded::read(&file).unwrap();
    assert!(folded.with("work_early") > 100 && folded.with("work_late") == 0, "{:?}", folded.stacks);
}
