//! Hosts that lack something, and processes that are hard to look at: still right, and said so.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tests::{Folded, Run, agent, need_root, run, sampling_agent, seconds, workload};

use crate::recording::background;

/// Runs a shell script in namespaces of its own (`unshare` options), with the agent as `$A` and the programs in `$W`.
fn in_namespaces(options: &[&str], script: &str, folder: &Path) -> Run {
    need_root();
    let mut command = Command::new("unshare");
    command.args(options).args(["sh", "-c", script]).current_dir(folder);
    command.env("A", agent().get_program()).env("W", workload("cpu_split").parent().unwrap());
    run(&mut command).unwrap()
}

#[test]
fn vm_inside_a_pid_namespace_the_numbers_are_the_callers() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "mount -t proc proc /proc; $W/cpu_split 90 >/dev/null & P=$!; \
         unshare -p -f sh -c \"$W/execs 90 & wait\" & sleep 0.5; \
         ANY='-F 199 --max-overhead 100%'; $A attach $P -d {0} $ANY -o one.json -q >/dev/null && $A record -d {0} $ANY -o all.folded -q >/dev/null; R=$?; \
         echo pid $P; kill -9 -1; exit $R",
        seconds(1)
    );
    let run = in_namespaces(&["-p", "-f", "-m"], &script, folder.path());
    let pid: u64 = run.stdout.trim().strip_prefix("pid ").unwrap().parse().unwrap();
    assert!(pid < 1000, "a fresh namespace counts from one: {pid}");
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("one.json")).unwrap()).unwrap();
    assert_eq!(json["samples"][0]["pid"], pid, "{}", run.stderr);
    let all = Folded::read(&folder.path().join("all.folded")).unwrap();
    assert!(all.with("work_forty") > 5, "{} samples", all.total());
    assert!(all.with("work_before_exec") > 5, "a process in a namespace below ours has a number here too");
}

#[test]
fn vm_without_kernel_type_information_it_still_records_and_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs none /sys/kernel/btf; $A record -F 499 --max-overhead 100% -o x.folded -- $W/forks 0.7";
    let run = in_namespaces(&["-m"], script, folder.path());
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stdout.contains("no kernel type information"), "{}", run.stdout);
    let folded = Folded::read(&folder.path().join("x.folded")).unwrap();
    for name in ["work_child", "work_grandchild", "work_late_child"] {
        assert!(folded.with(name) > 30, "{name}: {:?}", folded.stacks);
    }
}

/// Writes a sysctl and puts the old value back when dropped.
pub(crate) struct Sysctl {
    path: String,
    before: String,
}

impl Sysctl {
    pub(crate) fn set(name: &str, value: &str) -> Self {
        let path = format!("/proc/sys/kernel/{name}");
        let before = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, value).unwrap();
        Self { path, before }
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        let _restored = std::fs::write(&self.path, &self.before);
    }
}

fn record_cpu_split(folder: &Path) -> Run {
    let mut agent = sampling_agent("record");
    agent.args(["-F", "499", "-o", "x.folded", "--"]).arg(workload("cpu_split")).arg("1");
    run(agent.current_dir(folder)).unwrap()
}

#[test]
fn vm_strict_perf_settings_do_not_stop_root() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    for value in ["2", "3"] {
        let _paranoid = Sysctl::set("perf_event_paranoid", value);
        let run = record_cpu_split(folder.path());
        assert_eq!(run.code, 0, "perf_event_paranoid {value}: {}", run.stderr);
        assert!(Folded::read(&folder.path().join("x.folded")).unwrap().with("work_forty") > 20);
    }
}

/// With the rights to record, and without the one to have the kernel count what programs cost.
#[test]
fn a_cost_that_the_kernel_does_not_count_is_told() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let _busy = background(workload("cpu_split"), &["60"]);
    for (by_operator, is_told) in [("0", true), ("1", false)] {
        let _counted = Sysctl::set("bpf_stats_enabled", by_operator);
        let mut agent = Command::new("setpriv");
        agent.args(["--bounding-set", "-sys_admin", "--"]).arg(tests::agent().get_program());
        agent.args(["record", "-a", "-d", "1", "-q", "--json", "--max-overhead", "100%"]);
        let run = run(agent.current_dir(folder.path())).unwrap();
        assert_eq!(run.code, 0, "{}", run.stderr);
        let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        let notes = json["quality"]["notes"].to_string();
        assert_eq!(notes.contains("sysctl kernel.bpf_stats_enabled=1"), is_told, "{notes}");
        let programs = json["quality"]["overhead"]["programs"].as_array().unwrap();
        assert!(is_told || programs.iter().any(|program| program["name"] == "sample_cpu"), "{programs:?}");
    }
}

#[test]
fn vm_hidden_kernel_names_are_counted_and_explained() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let _hidden = Sysctl::set("kptr_restrict", "2");
    let mut agent = sampling_agent("record");
    agent.args(["-F", "999", "-o", "x.folded", "--"]);
    // System calls, so that there are kernel frames.
    agent.args(["sh", "-c", "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); echo x > /dev/null; done"]);
    let run = run(agent.current_dir(folder.path())).unwrap();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stdout.contains("kptr_restrict"), "{}", run.stdout);
    let folded = Folded::read(&folder.path().join("x.folded")).unwrap();
    assert!(folded.stacks.iter().any(|(stack, _)| stack.iter().any(|name| name.starts_with("[kernel+0x"))));
}

#[test]
fn vm_code_made_at_run_time_is_named_by_the_perf_map() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let jit = |extra: &[&str]| {
        let mut agent = sampling_agent("record");
        agent
            .args(["-F", "499", "-o", "x.folded", "--force", "--"])
            .arg(workload("jit"))
            .arg("1")
            .args(extra);
        let run = run(agent.current_dir(folder.path())).unwrap();
        assert_eq!(run.code, 0, "{}", run.stderr);
        (Folded::read(&folder.path().join("x.folded")).unwrap(), run)
    };
    let (folded, _) = jit(&[]);
    assert!(folded.with("jitted_loop") > 200, "{:?}", folded.stacks);
    let (folded, run) = jit(&["hostile"]);
    assert_eq!(folded.with("planted_name"), 0, "a link in the place of a perf map was followed");
    assert!(run.stdout.contains("perf map"), "the reason is in the quality line: {}", run.stdout);
}

#[test]
fn vm_a_deleted_program_is_named_while_and_after_it_runs() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("soon_gone");
    std::fs::copy(workload("cpu_split"), &copy).unwrap();
    let child = background(&copy, &[&seconds(2)]);
    std::thread::sleep(Duration::from_millis(200));
    std::fs::remove_file(&copy).unwrap();
    let mut agent = sampling_agent("attach");
    // Longer than the program lives: its file is gone, and so is it, when names are looked up.
    agent.args([&child.id().to_string(), "-F", "499", "-d", "60", "-o", "x.folded"]);
    let run = run(agent.current_dir(folder.path())).unwrap();
    assert_eq!(run.code, 0, "{}", run.stderr);
    let folded = Folded::read(&folder.path().join("x.folded")).unwrap();
    assert!(folded.with("work_forty") > 100, "{:?}", folded.stacks);
}

/// A control group of version 2 that is removed when dropped; the hierarchy is mounted somewhere if the host has not done so.
pub(crate) struct Cgroup {
    pub(crate) path: std::path::PathBuf,
    mounted: Option<tempfile::TempDir>,
}

impl Cgroup {
    pub(crate) fn new(name: &str) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let point = words.next()?;
            (words.next()? == "cgroup2").then(|| point.to_owned())
        });
        let mut mounted = None;
        let root = mount.unwrap_or_else(|| {
            let folder = tempfile::tempdir().unwrap();
            let status =
                Command::new("mount").args(["-t", "cgroup2", "none"]).arg(folder.path()).status().unwrap();
            assert!(status.success(), "cannot mount control groups");
            let path = folder.path().to_str().unwrap().to_owned();
            mounted = Some(folder);
            path
        });
        let path = Path::new(&root).join(name);
        std::fs::create_dir_all(path.join("inner")).unwrap();
        Self { path, mounted }
    }
}

/// Groups go from the innermost on; one whose processes are being killed does a moment later.
fn remove_groups(group: &Path) {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    for _ in 0..100 {
        if std::fs::remove_dir(group).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove_groups(&self.path);
        if let Some(folder) = self.mounted.take() {
            let _unmounted = Command::new("umount").arg(folder.path()).status();
        }
    }
}

#[test]
fn vm_a_control_group_is_recorded_with_the_groups_below_it_and_nothing_else() {
    need_root();
    let group = Cgroup::new("perf-agent-test");
    let inside = background(workload("cpu_split"), &["60"]);
    let _outside = background(workload("execs"), &["60"]);
    std::fs::write(group.path.join("inner/cgroup.procs"), inside.id().to_string()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut agent = sampling_agent("record");
    agent.args(["-G", "perf-agent-test", "-d", "1", "-F", "199", "--json"]);
    let run = run(agent.current_dir(folder.path())).unwrap();
    assert_eq!(run.code, 0, "{}", run.stderr);
    let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let samples = json["samples"].as_array().unwrap();
    assert!(!samples.is_empty());
    for sample in samples {
        assert_eq!(sample["process"], "cpu_split", "{sample}");
        assert_eq!(sample["cgroup"], "/perf-agent-test/inner", "{sample}");
    }
}

/// A container as podman leaves it: its control group and its line in a file, and beside it the group of the program that watches it.
#[test]
fn a_container_is_recorded_by_its_name_and_by_the_beginning_of_its_id() {
    need_root();
    let ids = [
        "91f88c569cb51a68390b10922375d12731b11ac89a07c8a5492d394b76a986c6",
        "2625189e588a053ced31b4a5afdebd9612fb57f67b6034ee5c0caea028656567",
    ];
    let groups = ids.map(|id| Cgroup::new(&format!("libpod-{id}")));
    let _watches = Cgroup::new(&format!("libpod-conmon-{}", ids[0]));
    let inside = background(workload("cpu_split"), &["60"]);
    std::fs::write(groups[0].path.join("inner/cgroup.procs"), inside.id().to_string()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/containers/podman-4.3.1.json");
    let attach = |target: &str| {
        let script = "mount -t tmpfs none /var/lib && mkdir -p /var/lib/containers/storage/vfs-containers && \
                      cp \"$1\" /var/lib/containers/storage/vfs-containers/containers.json && shift && exec \"$@\"";
        let mut agent = Command::new("unshare");
        agent.args(["-m", "sh", "-c", script, "sh"]).arg(&file).arg(tests::agent().get_program());
        agent.args(["attach", target, "1", "-F", "199", "--max-overhead", "100%"]);
        run(agent.current_dir(folder.path())).unwrap()
    };
    for target in ["container:web", "container:91f88c"] {
        let run = attach(target);
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(run.stdout.contains("container web (cgroup /libpod-91f88c"), "{}", run.stdout);
        assert!(run.stdout.contains("work_forty"), "{}", run.stdout);
    }
    let run = attach("container:we");
    assert!(run.code == 1 && run.stderr.contains("no control group"), "{}", run.stderr);
    let _same = Cgroup::new(&format!("docker-91f88c{}", &ids[1][6..]));
    let run = attach("container:91f88c");
    assert!(run.code == 2 && run.stderr.contains("means 2 containers"), "{}", run.stderr);
    assert!(run.stderr.contains(ids[0]), "{}", run.stderr);
}

#[test]
fn vm_only_the_cpus_asked_for_are_sampled() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    // Pinned to CPU 1, so CPU 0 alone sees nothing of it.
    let command = |cpus: &str, file: &str| {
        let mut agent = sampling_agent("record");
        agent
            .args(["-C", cpus, "-F", "199", "-o", file, "--", "taskset", "2"])
            .arg(workload("cpu_split"))
            .arg("0.5");
        run(agent.current_dir(folder.path())).unwrap()
    };
    assert_eq!(command("1", "one.folded").code, 0);
    assert!(Folded::read(&folder.path().join("one.folded")).unwrap().with("work_forty") > 10);
    command("0", "zero.folded");
    let zero = Folded::read(&folder.path().join("zero.folded")).unwrap_or_default();
    assert_eq!(zero.with("work_forty"), 0);
}
