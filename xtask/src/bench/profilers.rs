//! What slows down: our profile types, all of them together, and what people use otherwise.

/// A profiler as shell commands that record until they are interrupted. `$AGENT` is ours, `$TARGET` the process to look at.
pub(super) struct Profiler {
    pub(super) name: &'static str,
    /// What it does, for the table.
    pub(super) what: &'static str,
    pub(super) packages: &'static [&'static str],
    pub(super) commands: &'static [&'static str],
    /// How to know that it records.
    pub(super) ready: Ready,
    /// The only workloads that it is tried on; all when there are none. For what stops a server for minutes.
    only: &'static [&'static str],
    /// The part of a turn's work that is done with it: what slows a loop down a hundred times would take minutes for all of it.
    pub(super) part: f64,
}

/// How to know that a profiler records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    /// It says so on standard error, in a line that begins like this.
    Says(&'static str),
    /// It does not say, and is given some seconds.
    After(u64),
}

/// The name of no profiler.
pub(super) const NONE: &str = "none";

const OURS: Ready = Ready::Says("perf-agent ");

/// Workloads for tools that take each system call apart.
const LOOPS: &[&str] = &["getppid-loop", "malloc-loop", "switch-loop"];

pub(super) static PROFILERS: [Profiler; 16] = [
    Profiler {
        name: NONE,
        what: "nothing",
        packages: &[],
        commands: &[],
        ready: Ready::After(0),
        only: &[],
        part: 1.0,
    },
    ours(
        "cpu",
        "perf-agent record -a -F 99: whole host",
        &["exec $AGENT record -a -F 99 -d 1h -f json -o -"],
    ),
    ours(
        "cpu-19",
        "perf-agent record -a -F 19: whole host",
        &["exec $AGENT record -a -F 19 -d 1h -f json -o -"],
    ),
    ours("off-cpu", "perf-agent off-cpu TARGET", &["exec $AGENT off-cpu $TARGET -d 1h -f json -o -"]),
    ours("wall", "perf-agent wall TARGET", &["exec $AGENT wall $TARGET -d 1h -f json -o -"]),
    ours("syscalls", "perf-agent syscalls TARGET", &["exec $AGENT syscalls $TARGET -d 1h --json"]),
    ours("memory", "perf-agent memory TARGET", &["exec $AGENT memory $TARGET -d 1h -f json -o -"]),
    ours("alloc", "perf-agent alloc TARGET", &["exec $AGENT alloc $TARGET -d 1h -f json -o -"]),
    ours(
        "all",
        "cpu, off-cpu, syscalls, memory and alloc as above, at the same time, a process each",
        &[
            "exec $AGENT record -a -F 99 -d 1h -f json -o -",
            "exec $AGENT off-cpu $TARGET -d 1h -f json -o -",
            "exec $AGENT syscalls $TARGET -d 1h --json",
            "exec $AGENT memory $TARGET -d 1h -f json -o -",
            "exec $AGENT alloc $TARGET -d 1h -f json -o -",
        ],
    ),
    Profiler {
        name: "daemon",
        what: "perf-agent daemon run as it is configured by default, all kinds of windows, when it has run for 20 s",
        packages: &[],
        // The interrupt ends the daemon, and not the shell.
        commands: &[
            "trap : INT; $AGENT daemon config print-default | sed \"s#^folder = .*#folder = \\\"$PWD/store\\\"#\" > c.toml && \
           $AGENT daemon run --config c.toml >&2 && $AGENT query flamegraph --store store --from -1h -f json -o -",
        ],
        ready: Ready::After(20),
        only: &[],
        part: 1.0,
    },
    other(
        "perf-fp",
        "perf record -F 99 -a -g",
        &["linux-perf"],
        1,
        &["exec perf record -q -F 99 -a -g -o perf.data"],
    ),
    other(
        "perf-dwarf",
        "perf record -F 99 -a --call-graph dwarf",
        &["linux-perf"],
        1,
        &["exec perf record -q -F 99 -a --call-graph dwarf -o perf.data"],
    ),
    other(
        "bpftrace-cpu",
        "bpftrace profile:hz:99 { @[ustack, kstack, comm] = count() }: whole host",
        &["bpftrace"],
        3,
        &["exec bpftrace -e 'profile:hz:99 { @[ustack, kstack, comm] = count(); }'"],
    ),
    other(
        "bpftrace-offcpu",
        "bpftrace sched_switch: blocked time by user stack, whole host, since it cannot follow children",
        &["bpftrace"],
        3,
        &["[ -e /sys/kernel/debug/tracing/events ] || mount -t debugfs debugfs /sys/kernel/debug; \
           exec bpftrace -e 'tracepoint:sched:sched_switch { if (tid) { @start[tid] = nsecs; @stack[tid] = ustack; } \
           $s = @start[args->next_pid]; if ($s) { @[@stack[args->next_pid]] = sum(nsecs - $s); \
           delete(@start[args->next_pid]); delete(@stack[args->next_pid]); } }'"],
    ),
    Profiler {
        name: "strace",
        what: "strace -f -c TARGET",
        packages: &["strace"],
        commands: &["exec strace -f -c -p $TARGET"],
        ready: Ready::After(1),
        only: LOOPS,
        part: 0.01,
    },
    Profiler {
        name: "perf-trace",
        what: "perf trace -s TARGET",
        packages: &["linux-perf"],
        commands: &["exec perf trace -s -p $TARGET -o perf.trace"],
        ready: Ready::After(1),
        only: LOOPS,
        part: 0.1,
    },
];

const fn ours(name: &'static str, what: &'static str, commands: &'static [&'static str]) -> Profiler {
    Profiler { name, what, packages: &[], commands, ready: OURS, only: &[], part: 1.0 }
}

const fn other(
    name: &'static str,
    what: &'static str,
    packages: &'static [&'static str],
    seconds: u64,
    commands: &'static [&'static str],
) -> Profiler {
    Profiler { name, what, packages, commands, ready: Ready::After(seconds), only: &[], part: 1.0 }
}

/// The turn without a profiler.
pub(super) fn none() -> &'static Profiler {
    &PROFILERS[0]
}

impl Profiler {
    /// Whether it is tried on a workload.
    pub(super) fn fits(&self, workload: &str) -> bool {
        self.only.is_empty() || self.only.contains(&workload)
    }

    /// Whether its results say what it cost.
    pub(super) fn has_meter(&self) -> bool {
        self.commands.iter().any(|command| command.contains("$AGENT"))
    }
}
