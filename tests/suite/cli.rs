//! What a newcomer types, and what is on the screen then.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use tests::{agent, need_root, run, sampling_agent, workload};

use crate::recording::background;

/// `nobody`, the user behind sudo in these tests.
const USER: u32 = 65534;

#[test]
fn vm_version_and_help_work_without_root() {
    let version = run(agent().arg("--version")).unwrap();
    assert_eq!(version.code, 0);
    assert!(version.stdout.starts_with("perf-agent "), "{}", version.stdout);
    for verb in ["attach", "record", "report", "flamegraph", "doctor", "debug"] {
        let help = run(agent().args([verb, "--help"])).unwrap();
        assert_eq!(help.code, 0, "{verb}");
        assert!(help.stdout.contains("Usage:"), "{verb}: {}", help.stdout);
    }
}

#[test]
fn vm_attach_by_name_writes_a_picture_and_a_profile_under_names_of_their_own() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    // A name that no other process has.
    let copy = folder.path().join("oddly_named");
    std::fs::copy(workload("cpu_split"), &copy).unwrap();
    let _running = background(&copy, &["60"]);
    for _ in 0..2 {
        let run = run(agent().args(["attach", "oddly_named", "1"]).current_dir(folder.path())).unwrap();
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(run.stdout.contains("work_forty") && run.stdout.contains("SELF"), "{}", run.stdout);
        assert!(
            run.stdout.contains("samples") && run.stdout.contains("0 lost"),
            "the quality line: {}",
            run.stdout
        );
        assert!(run.stderr.contains(".svg") && run.stderr.contains(".pb.gz"), "{}", run.stderr);
    }
    let names: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    let ending =
        |end: &str| names.iter().filter(|name| name.ends_with(end) && !name.starts_with("last")).count();
    assert_eq!((ending(".svg"), ending(".pb.gz")), (2, 2), "{names:?}");
    assert!(
        names.iter().any(|name| name == "last.svg") && names.iter().any(|name| name == "last.pb.gz"),
        "{names:?}"
    );
    let report = run(agent().arg("report").current_dir(folder.path())).unwrap();
    assert!(report.code == 0 && report.stdout.contains("work_forty"), "{}{}", report.stdout, report.stderr);
    let svg = run(agent().args(["flamegraph", "last.pb.gz", "-o", "again.svg"]).current_dir(folder.path()))
        .unwrap();
    assert_eq!(svg.code, 0, "{}", svg.stderr);
    assert!(std::fs::read_to_string(folder.path().join("again.svg")).unwrap().contains("work_forty"));
}

#[test]
fn vm_an_output_that_exists_is_kept_beside_the_new_one() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.folded"), "precious").unwrap();
    let mut agent = sampling_agent("record");
    agent.args(["-F", "499", "-o", "x.folded", "--"]).arg(workload("cpu_split")).arg("0.5");
    assert_eq!(run(agent.current_dir(folder.path())).unwrap().code, 0);
    assert_eq!(std::fs::read_to_string(folder.path().join("x.folded.old")).unwrap(), "precious");
}

#[test]
fn vm_standard_output_carries_the_data_alone() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let mut agent = sampling_agent("record");
    agent.args(["-F", "499", "-f", "folded", "-o", "-", "--"]).arg(workload("execs")).arg("0.3");
    let run = run(agent.current_dir(folder.path())).unwrap();
    assert_eq!(run.code, 0, "{}", run.stderr);
    let folded = tests::Folded::parse(&run.stdout).unwrap();
    assert!(folded.with("work_after_exec") > 0);
}

#[test]
fn behind_sudo_files_and_commands_are_the_users() {
    need_root();
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    std::os::unix::fs::chown(folder.path(), Some(USER), Some(USER)).unwrap();
    let mut agent = sampling_agent("record");
    agent.env("SUDO_UID", USER.to_string()).env("SUDO_GID", USER.to_string()).env("SUDO_USER", "nobody");
    agent.args([
        "-F",
        "499",
        "-o",
        "x.folded",
        "--",
        "sh",
        "-c",
        "id -u; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done",
    ]);
    let run = run(agent.current_dir(folder.path())).unwrap();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stdout.starts_with("65534\n"), "{}", run.stdout);
    assert_eq!(std::fs::metadata(folder.path().join("x.folded")).unwrap().uid(), USER);
}

#[test]
fn behind_sudo_a_planted_link_does_not_make_root_write_elsewhere() {
    need_root();
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    std::os::unix::fs::chown(folder.path(), Some(USER), Some(USER)).unwrap();
    let victim = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(victim.path(), "root's").unwrap();
    std::os::unix::fs::symlink(victim.path(), folder.path().join("x.folded")).unwrap();
    let mut agent = sampling_agent("record");
    agent.env("SUDO_UID", USER.to_string()).env("SUDO_GID", USER.to_string()).env("SUDO_USER", "nobody");
    agent.args([
        "-F",
        "499",
        "-o",
        "x.folded",
        "--",
        "sh",
        "-c",
        "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done",
    ]);
    run(agent.current_dir(folder.path())).unwrap();
    assert_eq!(std::fs::read_to_string(victim.path()).unwrap(), "root's");
}

#[test]
fn vm_doctor_speaks_json_and_names_the_target() {
    need_root();
    let run = run(agent().args(["doctor", &std::process::id().to_string(), "--json"])).unwrap();
    let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert!(json.is_object() && (run.code == 0 || run.code == 3), "{}", run.stderr);
}

#[test]
fn vm_a_command_keeps_its_own_limit_on_descriptors() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let agent = agent();
    let script = format!(
        "ulimit -n 777; {} record -F 999 -q -o x.folded -- sh -c 'ulimit -n; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done'",
        agent.get_program().display()
    );
    let run = run(Command::new("sh").args(["-c", &script]).current_dir(folder.path())).unwrap();
    assert!(run.stdout.starts_with("777\n"), "{}{}", run.stdout, run.stderr);
}
