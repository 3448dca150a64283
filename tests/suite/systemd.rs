//! The unit and the Debian package under a real systemd: one that is the first process of namespaces of its own, on a file system in memory.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Run, Started, agent, need_root, run};

use crate::faults::{PROGRAM, assert_none_left, kernel_objects};
use crate::hosts::{Cgroup, Sysctl};

/// Makes the system and becomes its first process. It has our programs, and of our devices those that do nothing.
const BOOT: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 none "$1"
cd "$1"
mkdir -p usr etc/systemd/system proc sys dev run tmp var opt root .old
if [ "$3" = own ]; then
    mkdir .new .work
    mount -t overlay -o "lowerdir=/usr,upperdir=$1/.new,workdir=$1/.work" none usr
    rm -f usr/sbin/policy-rc.d
else
    mount --rbind /usr usr
fi
for link in bin sbin lib lib64; do ln -s usr/$link $link; done
cp /etc/ld.so.cache etc/
echo 'root:x:0:0:root:/root:/bin/sh' > etc/passwd
echo 'root:x:0:' > etc/group
echo 0123456789abcdef0123456789abcdef > etc/machine-id
mount --rbind /sys sys
mount -t cgroup2 none sys/fs/cgroup
mount -t tmpfs -o mode=755 none dev
for node in null zero full random urandom; do : > dev/$node; mount --bind /dev/$node dev/$node; done
mount -t tmpfs -o mode=755 none run
mount -t proc none proc
: > opt/perf-agent
mount --bind "$2" opt/perf-agent
pivot_root . .old
umount -l /.old
exec env -i container=other PATH=/usr/sbin:/usr/bin /lib/systemd/systemd --unit=basic.target --log-target=console
"#;
/// Longest wait for something that systemd does.
const PATIENCE: Duration = Duration::from_mins(1);
/// Windows of a second.
const CONFIG: &str = "[cpu]\nrate_hz = 19\n[windows]\nlength = \"1s\"\n[budget]\nmax_overhead = \"100%\"\n";
/// `CAP_SYS_ADMIN`, include/uapi/linux/capability.h.
const SYS_ADMIN: u64 = 1 << 21;

/// Enters a group that is ours to fill, where its namespace begins, and boots.
const ENTER: &str = r#"
echo $$ > "$1/cgroup.procs" && shift
exec unshare --fork --kill-child --pid --mount --cgroup --uts --ipc --net sh -c "$@"
"#;

/// Programs of the system.
#[derive(Debug, Clone, Copy)]
enum Usr {
    /// Those of the host.
    Shared,
    /// Those of the host, and what is changed is the system's own.
    Own,
}

struct System {
    _first: Started,
    /// Its first process, as this host sees it.
    pid: u32,
    _root: tempfile::TempDir,
    _group: Cgroup,
}

impl System {
    fn boot(usr: Usr) -> Self {
        need_root();
        let root = tempfile::tempdir().unwrap();
        let group = Cgroup::new("perf-agent-systemd");
        let mut unshare = Command::new("sh");
        unshare.args(["-c", ENTER, "enter"]).arg(&group.path).args([BOOT, "boot"]);
        unshare.arg(root.path()).arg(agent().get_program());
        unshare.arg(match usr {
            Usr::Shared => "shared",
            Usr::Own => "own",
        });
        unshare.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut first = Started::of(&mut unshare).unwrap();
        let children = format!("/proc/{pid}/task/{pid}/children", pid = first.id());
        let began = Instant::now();
        let pid = loop {
            let child = std::fs::read_to_string(&children).unwrap_or_default();
            if let Ok(pid) = child.trim().parse() {
                break pid;
            }
            assert!(first.ended().is_none() && began.elapsed() < PATIENCE, "unshare starts nothing");
        };
        let system = Self { _first: first, pid, _root: root, _group: group };
        system.wait_for("first target", |system| {
            system.run(&["systemctl", "is-active", "basic.target"]).stdout == "active\n"
        });
        system
    }

    fn run(&self, command: &[&str]) -> Run {
        let mut inside = Command::new("nsenter");
        inside.args(["-t", &self.pid.to_string(), "-p", "-m", "-C", "-u", "-i", "-n", "--", "env", "-i"]);
        run(inside.arg("PATH=/usr/sbin:/usr/bin:/opt").args(command)).unwrap()
    }

    /// Standard output of a command that has to succeed.
    fn out(&self, command: &[&str]) -> String {
        let run = self.run(command);
        assert_eq!(run.code, 0, "{command:?}: {}{}", run.stdout, run.stderr);
        run.stdout
    }

    fn property(&self, name: &str) -> String {
        self.out(&["systemctl", "show", "--value", "-p", name, "perf-agent"]).trim().to_owned()
    }

    fn status(&self) -> Value {
        let all: Value =
            serde_json::from_str(&self.out(&["perf-agent", "daemon", "status", "--json"])).unwrap();
        all[0]["status"].clone()
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = Path::new("/proc").join(self.pid.to_string()).join("root").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn has(&self, path: &str) -> bool {
        self.run(&["test", "-e", path]).code == 0
    }

    fn wait_for(&self, what: &str, is_there: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !is_there(self) {
            assert!(
                began.elapsed() < PATIENCE,
                "no {what} after {PATIENCE:?}: {}",
                self.run(&["journalctl", "--no-pager", "-n", "20"]).stdout
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// systemd loads programs of its own now and then. They have no maps, and each of ours has some.
fn assert_none_of_ours_left(before: &[(u32, u32)]) {
    let programs = kernel_objects().into_iter().filter(|(kind, _)| *kind == PROGRAM);
    assert_none_left(&before.iter().copied().chain(programs).collect::<Vec<_>>());
}

#[test]
fn the_unit_starts_reloads_is_watched_and_ends_under_systemd() {
    // Nobody else has the kernel count what programs cost.
    let _uncounted = Sysctl::set("bpf_stats_enabled", "0");
    let system = System::boot(Usr::Shared);
    let before = kernel_objects();
    system.write("etc/perf-agent/config.toml", CONFIG);
    // Quicker than the unit, and otherwise the same.
    system.write(
        "etc/systemd/system/perf-agent.service.d/quick.conf",
        "[Service]\nWatchdogSec=5\nRestartSec=1\n",
    );
    system.out(&["perf-agent", "daemon", "install"]);
    assert_eq!(system.property("ActiveState"), "active", "it has said that it is ready");
    system.wait_for("windows", |system| system.status()["windows"].as_u64() >= Some(2));

    // What is dangerous was given up, and what it was for works.
    let first = system.property("MainPID");
    let told = system.out(&["cat", &format!("/proc/{first}/status")]);
    for set in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
        let held = told.lines().find_map(|line| line.strip_prefix(set)).unwrap().trim();
        assert_eq!(u64::from_str_radix(held, 16).unwrap() & SYS_ADMIN, 0, "{told}");
    }
    let top: Value =
        serde_json::from_str(&system.out(&["perf-agent", "query", "top", "--type", "cpu", "--json"]))
            .unwrap();
    let counted = top["quality"]["overhead"]["programs"].to_string();
    assert!(counted.contains("sample_cpu"), "{}", top["quality"]);

    system.write("etc/perf-agent/config.toml", CONFIG.replace("19", "29"));
    system.out(&["systemctl", "reload", "perf-agent"]);
    system.wait_for("new rate", |system| system.status()["rate_hz"] == 29);

    // One that hangs is ended and started again, and records on.
    system.out(&["kill", "-STOP", &first]);
    system.wait_for("new process", |system| {
        let pid = system.property("MainPID");
        pid != first && pid != "0" && system.property("ActiveState") == "active"
    });
    system.wait_for("windows of it", |system| {
        system.run(&["perf-agent", "daemon", "status"]).stdout.contains("running: process")
            && system.status()["windows"].as_u64() >= Some(1)
    });

    system.out(&["systemctl", "stop", "perf-agent"]);
    assert_eq!(
        (system.property("Result"), system.property("ExecMainStatus")),
        ("success".into(), "0".into())
    );
    assert_none_of_ours_left(&before);
    system.out(&["systemctl", "start", "perf-agent"]);
    system.out(&["perf-agent", "daemon", "uninstall"]);
    assert_ne!(system.run(&["systemctl", "cat", "perf-agent"]).code, 0, "the unit is gone");
    assert_none_of_ours_left(&before);
    system.out(&["perf-agent", "query", "windows"]);
}

#[test]
fn the_debian_package_is_started_upgraded_removed_and_purged() {
    let package = std::env::var_os("PERF_AGENT_DEB")
        .expect("there is no package to test; run the tests with: cargo xtask test");
    let system = System::boot(Usr::Own);
    let before = kernel_objects();
    system.write("tmp/perf-agent.deb", std::fs::read(package).unwrap());
    system.write("var/lib/dpkg/status", "");
    system.out(&["mkdir", "/var/lib/dpkg/info", "/var/lib/dpkg/updates"]);
    let install = || system.out(&["dpkg", "-i", "/tmp/perf-agent.deb"]);
    install();
    assert_eq!(system.property("ActiveState"), "inactive", "nothing is recorded until someone starts it");
    system.out(&["/usr/bin/perf-agent", "daemon", "config", "check"]);

    system.write("etc/perf-agent/config.toml", CONFIG);
    system.out(&["systemctl", "enable", "--now", "perf-agent"]);
    system.wait_for("windows", |system| system.status()["windows"].as_u64() >= Some(2));
    let program = |system: &System| {
        let pid = system.property("MainPID");
        (system.out(&["readlink", &format!("/proc/{pid}/exe")]).trim().to_owned(), pid)
    };
    let first = program(&system);
    assert_eq!(first.0, "/usr/bin/perf-agent");

    install();
    let second = program(&system);
    assert_eq!(second.0, first.0, "it runs the new program, not the one that was deleted");
    assert_ne!(second.1, first.1, "one that runs goes on as the new program");
    assert_eq!(system.out(&["cat", "/etc/perf-agent/config.toml"]), CONFIG, "what was changed is kept");
    system.wait_for("windows of it", |system| system.status()["windows"].as_u64() >= Some(1));

    system.out(&["dpkg", "-r", "perf-agent"]);
    assert_none_of_ours_left(&before);
    for gone in ["/usr/bin/perf-agent", "/usr/lib/systemd/system/perf-agent.service", "/run/perf-agent"] {
        assert!(!system.has(gone), "{gone} is left");
    }
    for kept in ["/etc/perf-agent/config.toml", "/var/lib/perf-agent"] {
        assert!(system.has(kept), "{kept} is not to go before a purge");
    }
    system.out(&["dpkg", "-P", "perf-agent"]);
    for gone in ["/etc/perf-agent", "/var/lib/perf-agent", "/var/cache/perf-agent"] {
        assert!(!system.has(gone), "{gone} is left");
    }
}
