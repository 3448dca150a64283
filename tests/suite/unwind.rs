//! Programs without frame pointers: their stacks are known, and only unwind tables lead through them.
//!
//! Looked at are stacks that have the function that burns, so a program's start does not count. A sample may fall on an instruction
//! for which the compiler's own table is wrong (between a stack pointer's change and its note); one in a hundred is allowed for it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::{Folded, Started, finish, is_emulated, need_root, seconds, truth, workload};

use crate::recording::{attach, background, path_of, record, spawn};

/// Asserts that nearly all samples in `with` are whole and have the frames of `chain` in order.
fn assert_chain(folded: &Folded, with: &str, chain: &[&str]) {
    // A second at 499 Hz, or its half where two functions share it; emulated timers come late by more than their period.
    let (least, percent) = if is_emulated() { (10, 95.0) } else { (150, 99.0) };
    folded.assert_chain(with, chain, least, percent);
}

/// Records a second of a program and looks at its stacks that have the last frame of `chain`.
fn follows(command: &[&str], chain: &[&str]) -> Folded {
    let program = path_of(command[0]);
    let command: Vec<&str> = std::iter::once(program.as_str()).chain(command[1..].iter().copied()).collect();
    let folded = record(&["-F", "499"], &command).folded;
    assert_chain(&folded, chain[chain.len() - 1], chain);
    folded
}

#[test]
fn vm_two_hundred_frames_without_pointers_are_followed() {
    let folded = follows(&["nofp_deep", "250", "1"], &["main", "descend", "descend", "work_at_the_bottom"]);
    assert!(folded.depth() > 250, "depth {}", folded.depth());
}

#[test]
fn vm_five_thousand_frames_without_pointers_are_cut_and_marked() {
    let folded = record(&["-F", "199"], &[&path_of("nofp_deep"), "5000", "1"]).folded;
    let in_burner = folded.with("work_at_the_bottom");
    let is_cut = |stack: &[String]| {
        stack.iter().any(|frame| frame == "[unwind: deeper than 480 frames]")
            && stack.iter().any(|frame| frame == "work_at_the_bottom")
    };
    let cut: u64 = folded.stacks.iter().filter(|(stack, _)| is_cut(stack)).map(|(_, count)| count).sum();
    assert!(in_burner > if is_emulated() { 10 } else { 100 }, "{in_burner} samples at the bottom");
    assert!(cut * 100 >= in_burner * 95, "{cut} of {in_burner} stacks of depth 5000 are marked as cut");
}

#[test]
fn vm_a_signal_is_followed_into_what_it_interrupted() {
    follows(
        &["nofp_signal", "1"],
        &["main", "interrupted_outer", "interrupted_inner", "handler", "work_in_handler"],
    );
}

#[test]
fn vm_signals_on_a_stack_of_their_own_are_followed_back() {
    // The first half does not count: until tables are loaded, a walk goes on from a copy of the stack, and the copy is of one stack.
    follows(
        &["nofp_altstack", "2"],
        &["main", "interrupted_outer", "interrupted_inner", "handler", "nested_handler", "work_in_nested"],
    );
}

#[test]
fn vm_the_vdso_is_followed() {
    let folded = follows(&["nofp_vdso", "1"], &["main", "work_vdso"]);
    let leaf_elsewhere = |stack: &[String]| stack.last().is_some_and(|leaf| leaf != "work_vdso");
    let below: u64 =
        folded.stacks.iter().filter(|(stack, _)| leaf_elsewhere(stack)).map(|(_, count)| count).sum();
    assert!(below * 2 > folded.total(), "{below} of {} samples are below work_vdso", folded.total());
}

#[test]
fn vm_a_realigned_stack_is_followed() {
    follows(&["nofp_realigned", "1"], &["main", "calls_realigned", "realigned", "work_under_realigned"]);
}

/// On arm64 the return address lies at the far end of such a frame, where no rule of ours reaches; the stack says so.
#[test]
#[cfg(target_arch = "x86_64")]
fn vm_a_frame_larger_than_the_copy_of_a_stack_is_followed() {
    follows(&["nofp_huge_frame", "4"], &["main", "huge_frame", "calls_all", "burn_3"]);
}

#[test]
fn vm_a_vfork_child_and_its_parent_are_followed() {
    let folded = follows(&["nofp_vfork", "1"], &["main", "one_child", "work_after_vfork"]);
    assert_chain(&folded, "work_vfork_child", &["main", "one_child", "work_vfork_child"]);
}

#[test]
fn vm_a_leaf_without_a_frame_is_followed() {
    follows(&["nofp_leaf", "1"], &["main", "calls_leaf", "work_leaf"]);
}

#[test]
fn vm_a_return_address_past_the_end_of_its_function_is_followed() {
    follows(&["nofp_noreturn", "1"], &["main", "ends_in_a_call", "burn_and_leave", "work_before_leaving"]);
}

#[test]
fn vm_the_unwinder_of_exceptions_is_followed() {
    let folded = follows(&["nofp_throw", "1"], &["main", "catches(int)"]);
    let throwing = ["main", "catches(int)", "passes_on(int, int)", "_Unwind_RaiseException"];
    // Some samples come after it has cut the stack down, or while it does.
    folded.assert_chain("_Unwind_RaiseException", &throwing, 10, if is_emulated() { 60.0 } else { 97.0 });
}

#[test]
fn vm_threads_are_followed_to_their_entry() {
    follows(&["nofp_threads", "1"], &["thread_entry", "work_thread"]);
}

#[test]
fn vm_programs_are_followed_however_linked() {
    for program in ["nofp_burn", "nofp_burn_staticpie", "nofp_burn_nopie"] {
        follows(&[program, "1"], &["main", "calls_work", "work_linked"]);
    }
}

#[test]
fn lazy_linkage_is_followed() {
    follows(&["nofp_plt", "1"], &["main", "work_plt"]);
}

#[test]
fn the_dynamic_linker_is_followed_when_it_binds_every_call() {
    let folded = record(&["-F", "499"], &["env", "LD_BIND_NOT=1", &path_of("nofp_plt"), "1"]).folded;
    assert_chain(&folded, "work_plt", &["main", "work_plt"]);
}

#[test]
fn a_library_loaded_while_recording_is_followed() {
    let library = path_of("nofp_dlopen_lib.so");
    let folded = follows(
        &["nofp_dlopen_main", &library, "1"],
        &["main", "calls_library", "library_entry", "work_in_library"],
    );
    assert_chain(&folded, "work_before_load", &["main", "work_before_load"]);
}

#[test]
fn vm_a_program_with_ten_thousand_mappings_is_followed() {
    follows(&["nofp_maps", "1"], &["main", "burns_among_maps", "work_many_maps"]);
}

#[test]
fn vm_ten_thousand_mappings_that_were_there_before_are_known() {
    let child = spawn("nofp_maps", &[&seconds(4)]);
    std::thread::sleep(Duration::from_secs(1));
    let folded = attach(child.id(), &["-F", "499", "-d", "60"]);
    finish(child).unwrap();
    assert_chain(&folded, "work_many_maps", &["main", "burns_among_maps", "work_many_maps"]);
}

#[test]
fn vm_a_storm_of_processes_neither_stops_nor_is_stopped() {
    let rate = if is_emulated() { "20" } else { "200" };
    let recorded = record(&["-F", "499"], &[&path_of("nofp_exec_storm"), "3", rate]);
    let (done, wanted) = (truth(&recorded.stdout).unwrap()["execs"], 3.0 * rate.parse::<f64>().unwrap());
    assert!(
        done >= wanted * if is_emulated() { 0.1 } else { 0.8 },
        "{done} of {wanted} processes were started"
    );
    assert!(recorded.folded.total() > 0);
    // Most of them are gone before anybody could read their mappings: one in seven stacks is cut, and says so.
    let marked = recorded.folded.marked_percent();
    assert!(is_emulated() || marked < 30.0, "{marked:.1} % of the stacks are cut");
}

/// A copy of a program that is running, to be taken away from its place.
struct Running {
    folder: tempfile::TempDir,
    child: Started,
}

impl Running {
    fn start(name: &str, arguments: &[&str]) -> Self {
        need_root();
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        std::fs::copy(workload(name), &program).unwrap();
        let child = background(program, arguments);
        std::thread::sleep(Duration::from_millis(500));
        Self { folder, child }
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("program")
    }

    fn attach(&mut self) -> Folded {
        let folded = attach(self.child.id(), &["-F", "499", "-d", "60"]);
        self.child.wait().unwrap();
        folded
    }
}

/// Another file in the place of this one, as an upgrade puts it there: never the old file's bytes changed.
fn replace(path: &Path, by: &Path) {
    let new = path.with_extension("new");
    std::fs::copy(by, &new).unwrap();
    std::fs::rename(&new, path).unwrap();
}

const AT_THE_BOTTOM: [&str; 4] = ["main", "descend", "descend", "work_at_the_bottom"];

#[test]
fn vm_a_program_replaced_while_it_runs_is_followed_by_its_own_tables() {
    let mut running = Running::start("nofp_deep", &["50", &seconds(3)]);
    replace(&running.program(), &workload("nofp_signal"));
    assert_chain(&running.attach(), "work_at_the_bottom", &AT_THE_BOTTOM);
}

#[test]
fn vm_a_program_deleted_while_it_runs_is_followed() {
    let mut running = Running::start("nofp_deep", &["50", &seconds(3)]);
    std::fs::remove_file(running.program()).unwrap();
    assert_chain(&running.attach(), "work_at_the_bottom", &AT_THE_BOTTOM);
}

#[test]
fn a_library_replaced_while_it_is_in_use_is_followed_by_its_own_tables() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("library.so");
    std::fs::copy(workload("nofp_dlopen_lib.so"), &library).unwrap();
    let mut child = spawn("nofp_dlopen_main", &[library.to_str().unwrap(), "2"]);
    let maps = format!("/proc/{}/maps", child.id());
    while !std::fs::read_to_string(&maps).unwrap().contains("library.so") {
        std::thread::sleep(Duration::from_millis(20));
    }
    replace(&library, &workload("nofp_plt_lib.so"));
    let folded = attach(child.id(), &["-F", "499", "-d", "60"]);
    child.wait().unwrap();
    assert_chain(&folded, "work_in_library", &["main", "calls_library", "library_entry", "work_in_library"]);
}
