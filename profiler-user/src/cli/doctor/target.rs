//! Checks of one target: is it there, may it be looked at, what runs inside.

use std::fs::File;

use super::check::{Check, Group::Target as Group};
use super::{MOST_TARGETS, binary, unwinding};
use crate::system::binary::Allocator;
use crate::system::privileges::Privileges;
use crate::system::target::{Exe, Libc, PerfMap, Runtime, Software, Target, TargetError, TargetSpec};

pub(super) fn checks(text: &str, me: &Privileges) -> Vec<Check> {
    let pids = match text.parse::<TargetSpec>().and_then(|spec| spec.resolve()) {
        Ok(pids) => pids,
        Err(error) => return vec![refused(&error)],
    };
    let mut checks = Vec::new();
    for pid in pids.iter().take(MOST_TARGETS) {
        let start = checks.len();
        match Target::inspect(*pid) {
            Ok(target) => checks.extend(of_target(&target, me)),
            Err(error) => checks.push(refused(&error)),
        }
        checks.iter_mut().skip(start).for_each(|check: &mut Check| check.pid = Some(*pid));
    }
    if let Some(rest) = pids.len().checked_sub(MOST_TARGETS).filter(|rest| *rest > 0) {
        checks.push(
            Check::ok(
                Group,
                "more_matches",
                "more processes",
                format!("{rest} others match and were not checked"),
            )
            .why("give a pid to check one of them"),
        );
    }
    checks
}

fn refused(error: &TargetError) -> Check {
    let check = Check::fail(Group, "process", "process", error.to_string());
    error.hint().into_iter().fold(check, Check::fix)
}

fn of_target(target: &Target, me: &Privileges) -> Vec<Check> {
    let software = Software::gather(target);
    let found = File::open(format!("/proc/{}/exe", target.pid)).map_err(binary::Unreadable::Open);
    let found = found.and_then(|file| binary::Binary::inspect(file).map_err(binary::Unreadable::Elf));
    let mut checks = vec![
        Check::ok(Group, "process", "process", target.summary()),
        namespace(target),
        executable(target, found.as_ref().err()),
    ];
    if let Ok(found) = &found {
        checks.extend(binary::checks(found, target));
    }
    checks.extend(unwinding::checks(target, &software.libraries));
    let go = found.as_ref().is_ok_and(|found| found.go);
    if let Some(check) = runtime(&software, target, go) {
        checks.push(check);
    }
    checks.extend(software.perf_map.as_ref().map(|map| perf_map(map, target)));
    checks.extend(software.libc.map(libc));
    checks.push(allocator(&software, found.as_ref().ok().and_then(|found| found.allocator)));
    if software.libc.is_none() {
        checks.push(mappings(target, me));
    }
    checks
}

fn namespace(target: &Target) -> Check {
    let (id, title) = ("target_pid_namespace", "PID namespace");
    if target.in_nested_namespace() {
        return Check::ok(Group, id, title, format!("its own; it sees itself as pid {}", target.own_pid()))
            .why("results use the number seen from here");
    }
    Check::ok(Group, id, title, "the same as ours")
}

fn executable(target: &Target, unreadable: Option<&binary::Unreadable>) -> Check {
    let (id, title) = ("executable", "executable");
    let closed = "functions of the executable have no names";
    match (&target.exe, unreadable) {
        (Exe::Present(path), None) => Check::ok(Group, id, title, path),
        (Exe::Deleted(path), None) => Check::warn(Group, id, title, format!("{path} (deleted)"))
            .why("replaced or removed while it runs; the old file is read through /proc as long as it lives")
            .fix("restart the process when it suits, so that it runs what is installed"),
        (Exe::Present(path) | Exe::Deleted(path), Some(error)) => {
            Check::warn(Group, id, title, format!("{path}: {error}")).why(closed)
        }
        (Exe::Denied, _) => Check::fail(Group, id, title, "may not be read by this user")
            .why("it belongs to another user, or guards itself (prctl PR_SET_DUMPABLE)")
            .fix("run as root (sudo)")
            .fix("sudo setcap cap_sys_ptrace,cap_dac_read_search+ep …   (of perf-agent)"),
        (Exe::None, _) => {
            Check::warn(Group, id, title, "none").why("the process is going away, or is half started")
        }
    }
}

fn mappings(target: &Target, me: &Privileges) -> Check {
    Check::fail(Group, "mappings", "mappings", format!("/proc/{}/maps may not be read", target.pid))
        .why(format!("addresses cannot be told apart; uid {} may not look into uid {}", me.uid, target.uid))
        .fix("run as root (sudo)")
}

/// What a runtime needs so that its generated code has names.
fn runtime(software: &Software, target: &Target, go: bool) -> Option<Check> {
    let (id, title) = ("runtime", "runtime");
    if go {
        return Some(Check::ok(Group, id, title, "Go").why("keeps its own table of names"));
    }
    let runtime = software.runtime?;
    let named = software.perf_map.is_some() || software.names_generated_code();
    let switches = software.switches.join(" ");
    let pid = target.pid;
    Some(match runtime {
        Runtime::Java if named && software.preserves_frame_pointers() => {
            Check::ok(Group, id, title, "Java").why(switches)
        }
        Runtime::Java => {
            let check = Check::warn(Group, id, title, "Java").why(if named {
                "compiled methods have names, but stacks end there without frame pointers"
            } else {
                "compiled methods have neither names nor frame pointers"
            });
            let check = if named {
                check
            } else {
                check.fix(format!("jcmd {pid} Compiler.perfmap   (JDK 17 and later, no restart)"))
            };
            if software.preserves_frame_pointers() {
                check
            } else {
                check.fix("JAVA_TOOL_OPTIONS=-XX:+PreserveFramePointer   (at the next start)")
            }
        }
        Runtime::Node if named => {
            Check::ok(Group, id, title, "Node.js").why(format!("names its code {switches}"))
        }
        Runtime::Node => Check::warn(Group, id, title, "Node.js")
            .why("JavaScript functions have no names")
            .fix("NODE_OPTIONS='--perf-basic-prof --interpreted-frames-native-stack'   (at the next start)"),
        Runtime::Python(Some(minor)) if minor < 12 => Check::warn(
            Group,
            id,
            title,
            format!("Python 3.{minor}"),
        )
        .why("only the interpreter's own functions appear: names of Python functions need 3.12 or later")
        .fix("run it with Python 3.12 or later and -X perf"),
        Runtime::Python(minor) => {
            let value = minor.map_or_else(|| "Python".to_owned(), |minor| format!("Python 3.{minor}"));
            if named {
                Check::ok(Group, id, title, value).why("writes names for its functions")
            } else {
                Check::warn(Group, id, title, value)
                    .why("Python functions have no names (3.12 and later can write them)")
                    .fix("PYTHONPERFSUPPORT=1, or python3 -X perf   (at the next start)")
                    .fix("sys.activate_stack_trampoline(\"perf\")   (in the program, no restart)")
            }
        }
    })
}

fn perf_map(map: &PerfMap, target: &Target) -> Check {
    let (id, title) = ("perf_map", "perf map");
    let value = format!("{} ({} KiB)", map.path, map.bytes.div_ceil(1024));
    if map.uid == target.uid {
        return Check::ok(Group, id, title, value).why("owned by the target's user");
    }
    Check::warn(Group, id, title, value)
        .why(format!("not used: it belongs to uid {}, the target to uid {}", map.uid, target.uid))
        .fix("remove the file; the target writes its own at the next start")
}

fn libc(libc: Libc) -> Check {
    let (id, title) = ("libc", "C library");
    match libc {
        Libc::Glibc => Check::ok(Group, id, title, "glibc"),
        Libc::Musl => Check::ok(Group, id, title, "musl")
            .why("its assembly parts have no unwind tables; stacks may end in them"),
        Libc::Static => Check::ok(Group, id, title, "none mapped: a static program"),
    }
}

fn allocator(software: &Software, inside: Option<Allocator>) -> Check {
    let (id, title) = ("allocator", "allocator");
    match (software.allocator, inside, software.libc) {
        (Some(library), ..) => Check::ok(Group, id, title, format!("{} (a library)", library.name())),
        (None, Some(linked), _) => {
            Check::ok(Group, id, title, format!("{} (in the executable)", linked.name()))
        }
        (None, None, Some(Libc::Static)) => Check::ok(Group, id, title, "not known (static program)"),
        (None, None, Some(_)) => Check::ok(Group, id, title, "the C library's"),
        (None, None, None) => Check::ok(Group, id, title, "not known"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Status;
    use super::*;

    fn me() -> Target {
        Target::inspect(std::process::id()).unwrap()
    }

    fn judged(kind: Runtime, switches: &[&str]) -> Check {
        let software = Software {
            runtime: Some(kind),
            switches: switches.iter().map(|switch| (*switch).to_owned()).collect(),
            ..Software::default()
        };
        runtime(&software, &me(), false).unwrap()
    }

    #[test]
    fn runtimes_get_the_advice_that_fits() {
        assert!(judged(Runtime::Python(Some(9)), &[]).fix[0].contains("3.12"));
        assert_eq!(judged(Runtime::Python(Some(13)), &["-X perf"]).status, Status::Ok);
        assert!(judged(Runtime::Node, &[]).fix[0].contains("--perf-basic-prof"));
        assert_eq!(judged(Runtime::Java, &[]).fix.len(), 2);
        assert_eq!(judged(Runtime::Java, &["-XX:+PreserveFramePointer"]).fix.len(), 1);
    }

    #[test]
    fn strangers_perf_maps_are_not_used() {
        let map = PerfMap { path: "/tmp/perf-1.map".to_owned(), uid: 4_000_000_000, bytes: 10 };
        assert_eq!(perf_map(&map, &me()).status, Status::Warn);
        assert_eq!(perf_map(&PerfMap { uid: me().uid, ..map }, &me()).status, Status::Ok);
    }

    #[test]
    fn an_unknown_process_fails_with_advice() {
        let found = checks("no-such-process-xyz", &Privileges::gather());
        assert_eq!((found.len(), found[0].status), (1, Status::Fail));
        let found = checks(&std::process::id().to_string(), &Privileges::gather());
        assert!(found.len() > 5 && found.iter().all(|check| check.pid == Some(std::process::id())));
    }
}
