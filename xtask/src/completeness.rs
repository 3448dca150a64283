//! How many stacks of real programs are whole: each is recorded while it works, and what could not be followed is listed.
//!
//! A sample counts when it has a user frame and is of the process looked at, not of a shell that starts it. It is whole unless its
//! root-most user frame is the agent's marker of an unfinished walk, and rooted when it also begins where threads begin: a walk that
//! goes astray may end where it looks like an end.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use xtask::bpf::workspace;

use crate::{apt, build, must};

/// How long each program is recorded, seconds.
const SECONDS: u32 = 20;

/// Between a program's start and the recording, so that it is at its work.
const WARM_UP: Duration = Duration::from_secs(2);

/// Kinds of unfinished stacks that are listed for each program.
const LISTED: usize = 5;

/// Where `perf-agent` says that a walk did not get to its end.
const MARKER: &str = "[unwind: ";

/// Where threads begin, in programs of C libraries and of Go: beginnings of names among the outermost frames. The outermost of all
/// often has no name, since it is not exported.
const ENTRIES: [&str; 8] = [
    "_start",
    "_dl_start",
    "__libc_start_main",
    "start_thread",
    "__clone",
    "runtime.goexit",
    "runtime.mstart",
    "runtime.mcall",
];

/// Frames among which an entry is looked for.
const OUTERMOST: usize = 3;

/// A program of the distribution and work for it, as shell commands. They run in a folder of their own and find this workspace's
/// sources for them in `$PROGRAMS`.
struct Program {
    name: &'static str,
    packages: &'static [&'static str],
    /// Beginning of the name of the process that is looked at.
    process: &'static str,
    /// Makes the input.
    prepare: &'static str,
    /// Works without end; it and its children are recorded.
    work: &'static str,
    /// Keeps it busy from outside.
    load: &'static str,
}

const PROGRAMS: [Program; 10] = [
    Program {
        name: "redis",
        packages: &["redis-server", "redis-tools"],
        process: "redis-server",
        prepare: "",
        work: "exec redis-server --port 7399 --bind 127.0.0.1 --save '' --appendonly no",
        load: "exec redis-benchmark -p 7399 -q -l -c 20 -P 8 -r 10000 -t set,get,lpush,lrange_100,zadd,hset",
    },
    Program {
        name: "sqlite3",
        packages: &["sqlite3"],
        process: "sqlite3",
        prepare: "",
        work: "while :; do sqlite3 :memory: 'WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 1000000) \
               SELECT sum(y), max(z) FROM (SELECT x * x % 7919 AS y, printf(\"%d\", x) AS z FROM n ORDER BY z)'; done",
        load: "",
    },
    Program {
        name: "python3",
        packages: &["python3"],
        process: "python3",
        prepare: "",
        work: "exec /usr/bin/python3 $PROGRAMS/busy.py",
        load: "",
    },
    Program {
        name: "node",
        packages: &["nodejs"],
        process: "node",
        prepare: "",
        work: "exec /usr/bin/node $PROGRAMS/busy.js",
        load: "",
    },
    Program {
        name: "cc1",
        packages: &["gcc"],
        process: "cc1",
        prepare: "for i in $(seq 2000); do \
                  echo \"int f$i(int *a, int n) { int s = $i; for (int i = 0; i < n; i++) { if (a[i] % $i) s += a[i] * s; \
                  else switch (s & 7) { case 1: s ^= a[n - i]; break; case 5: s -= n; } } return s; }\"; done > large.c",
        work: "while :; do gcc -O2 -c large.c -o large.o; done",
        load: "",
    },
    Program {
        name: "cc1plus",
        packages: &["g++"],
        process: "cc1plus",
        prepare: "",
        work: "while :; do g++ -O2 -c $PROGRAMS/busy.cc -o busy.o; done",
        load: "",
    },
    Program {
        name: "c++",
        packages: &["g++"],
        process: "busy",
        prepare: "g++ -O2 -o busy $PROGRAMS/busy.cc",
        work: "exec ./busy",
        load: "",
    },
    Program {
        name: "rust",
        packages: &[],
        process: "busy",
        prepare: "rustc -O -o busy $PROGRAMS/busy.rs",
        work: "exec ./busy",
        load: "",
    },
    Program {
        name: "go",
        packages: &["golang-go"],
        process: "busy",
        prepare: "go build -o busy $PROGRAMS/busy.go",
        work: "exec ./busy",
        load: "",
    },
    Program {
        name: "xz",
        packages: &["xz-utils"],
        process: "xz",
        prepare: "seq 3000000 > numbers",
        work: "while :; do xz -T1 -c numbers; done > /dev/null",
        load: "",
    },
];

/// Records all programs, or those named, and prints a table.
///
/// # Errors
///
/// A program cannot be installed or prepared, or the agent fails.
pub(crate) fn run(names: &[&str]) -> Result<ExitCode> {
    let known = PROGRAMS.map(|program| program.name).join(", ");
    if let Some(unknown) = names.iter().find(|name| PROGRAMS.iter().all(|program| program.name != **name)) {
        bail!("there is no program `{unknown}`; there are: {known}");
    }
    let agent = match std::env::var_os("PERF_AGENT_BIN") {
        Some(agent) => PathBuf::from(agent),
        None => build::release()?,
    };
    let mut rows = Vec::new();
    for program in PROGRAMS.iter().filter(|program| names.is_empty() || names.contains(&program.name)) {
        println!("==> {}", program.name);
        let counts = program.record(&agent).with_context(|| format!("cannot record {}", program.name))?;
        rows.push((program.name, counts));
    }
    println!("\n{:<10} {:>13} {:>10} {:>10}", "program", "user samples", "complete", "rooted");
    for (name, counts) in &rows {
        let (complete, rooted) =
            (counts.percent(counts.marked), counts.percent(counts.marked + counts.astray));
        println!("{name:<10} {:>13} {complete:>8.2} % {rooted:>8.2} %", counts.user);
        let mut ends: Vec<_> = counts.ends.iter().collect();
        ends.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (end, count) in ends.into_iter().take(LISTED) {
            println!("{:<10} {count:>13} × {end}", "");
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Program {
    fn record(&self, agent: &Path) -> Result<Counts> {
        if apt::available() {
            apt::install(self.packages, self.name)?;
        }
        let folder = build::target_folder().join("completeness").join(self.name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        must(&mut shell(self.prepare, &folder))?;
        let work = Group::start(self.work, &folder)?;
        std::thread::sleep(WARM_UP);
        let load = Group::start(self.load, &folder)?;
        let mut record = if apt::is_root() {
            Command::new(agent)
        } else {
            let mut sudo = Command::new("sudo");
            sudo.arg("--").arg(agent);
            sudo
        };
        record.args(["attach", "-q", "-F", "99", "--annotate", "-d", &SECONDS.to_string()]);
        record.args(["-o", "profile.json", "-o", "profile.folded", &work.0.id().to_string()]);
        must(record.current_dir(&folder).stdout(Stdio::null()).stderr(Stdio::null()))?;
        drop((work, load));
        let file = folder.join("profile.folded");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(Counts::of(&text, self.process))
    }
}

/// A shell with its children, killed with them at the end.
struct Group(Child);

impl Group {
    fn start(script: &str, folder: &Path) -> Result<Self> {
        let mut command = shell(script, folder);
        command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn().context("cannot run sh")?))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let kill = format!("kill -KILL -{}", self.0.id());
        let _may_be_gone = Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status();
        let _reaped = self.0.wait();
    }
}

fn shell(script: &str, folder: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).env("PROGRAMS", workspace().join("tests/programs")).stdin(Stdio::null());
    command.current_dir(folder);
    command
}

/// What the samples of one program came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    /// With a user frame.
    user: u64,
    /// Of these, with the marker of an unfinished walk.
    marked: u64,
    /// Of these, without a marker and without an entry of a thread.
    astray: u64,
    /// How the marked and the astray end, with the frame at which they do.
    ends: BTreeMap<String, u64>,
}

impl Counts {
    /// Of folded stacks with marks on kernel frames, those of processes whose name starts with `process`.
    fn of(folded: &str, process: &str) -> Self {
        let mut counts = Self::default();
        for line in folded.lines() {
            let Some((stack, count)) = line.rsplit_once(' ') else { continue };
            let count: u64 = count.parse().unwrap_or(0);
            let mut frames = stack.split(';');
            if !frames.next().is_some_and(|root| root.starts_with(process)) {
                continue;
            }
            let user: Vec<&str> = frames.filter(|frame| !frame.ends_with("_[k]")).collect();
            let Some(outermost) = user.first() else { continue };
            counts.user += count;
            let end = if outermost.starts_with(MARKER) {
                counts.marked += count;
                format!("{outermost} at {}", user.get(1).unwrap_or(&"the leaf"))
            } else if user.iter().take(OUTERMOST).any(|frame| is_entry(frame)) {
                continue;
            } else {
                counts.astray += count;
                format!("no entry, but {outermost}")
            };
            *counts.ends.entry(end).or_default() += count;
        }
        counts
    }

    /// The share of user samples that are not these.
    fn percent(&self, without: u64) -> f64 {
        (self.user - without) as f64 * 100.0 / self.user.max(1) as f64
    }
}

fn is_entry(frame: &str) -> bool {
    ENTRIES.iter().any(|entry| frame.starts_with(entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_stacks_and_other_processes_do_not_count() {
        let folded = "cc1;_start;main;parse 7\ncc1;entry_[k];do_page_fault_[k] 5\nas;main 3\n\
                      cc1;[unwind: no table in x.so];walk;entry_[k] 1\ncc1;walk;parse 2\n";
        let counts = Counts::of(folded, "cc1");
        assert_eq!((counts.user, counts.marked, counts.astray), (10, 1, 2));
        let ends: Vec<_> = counts.ends.keys().map(String::as_str).collect();
        assert_eq!(ends, ["[unwind: no table in x.so] at walk", "no entry, but walk"]);
        assert!((counts.percent(counts.marked) - 90.0).abs() < 1e-9);
    }
}
