//! The end-to-end tests on other kernels: a static test binary, boots as a whole machine in an emulator, prints one outcome line.
//!
//! The initramfs holds busybox, the agent, the tests and the programs they profile, all static, so a machine is one kernel and one
//! file. Software emulation: nested virtualization hangs on some hosts, and other architectures have none.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xtask::bpf::{Logging, workspace};
use xtask::toolchain::{cache_root, clean_command};

use crate::build::{cargo, target_folder};
use crate::steps::{SideStep, Steps};
use crate::test::executable;
use crate::verdicts::Verdicts;
use crate::workloads::{Linking, compile};
use crate::{apt, must, setup};

/// A machine that has not spoken its outcome by then has failed. Emulation on a busy host takes up to twenty minutes.
const LONGEST_RUN: Duration = Duration::from_mins(30);
/// A machine that says nothing for so long is stuck: no test takes a third of it.
const LONGEST_SILENCE: Duration = Duration::from_mins(4);

/// What a dying kernel prints.
const FATAL: [&str; 5] = ["Kernel panic", "BUG: ", "soft lockup", "rcu_sched self-detected stall", "Oops:"];

/// The line in which the machine says how it went, followed by `pass` or `fail`.
const OUTCOME: &str = "VM-OUTCOME: ";

/// An architecture that the agent runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arch {
    X86_64,
    Aarch64,
}

/// A kernel that we claim to run on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine {
    /// Name for people.
    pub(crate) name: &'static str,
    arch: Arch,
    /// Beginning and end of the name of Debian's package for it.
    package: (&'static str, &'static str),
}

/// The matrix.
pub(crate) const MACHINES: [Machine; 3] = [
    Machine {
        name: "x86_64-6.1",
        arch: Arch::X86_64,
        package: ("linux-image-6.1.", "-cloud-amd64-unsigned"),
    },
    Machine {
        name: "x86_64-6.12",
        arch: Arch::X86_64,
        package: ("linux-image-6.12.", "-cloud-amd64-unsigned"),
    },
    Machine { name: "aarch64-6.1", arch: Arch::Aarch64, package: ("linux-image-6.1.", "-cloud-arm64") },
];

/// Failed tests that are tried again, and how often. An emulated machine on a busy host stalls for seconds now and then; a fault of ours fails each time.
const MOST_TRIED_AGAIN: u32 = 6;
const TRIES_MORE: u32 = 2;

/// Names of the tests that every machine runs begin so.
pub(crate) const ALL_TESTS: &str = "vm_";

/// Boots all machines, or the one named, and runs the tests with `tests` in their names.
pub(crate) fn run(name: Option<&str>, tests: &str) -> Result<ExitCode> {
    setup::build_tools()?;
    setup::test_tools()?;
    let known = MACHINES.map(|machine| machine.name).join(", ");
    if name.is_some_and(|name| MACHINES.iter().all(|machine| machine.name != name)) {
        bail!("there is no machine `{}`; there are: {known}", name.unwrap_or_default());
    }
    let mut steps = Steps::default();
    let machines: Vec<Machine> =
        MACHINES.into_iter().filter(|machine| name.is_none_or(|name| machine.name == name)).collect();
    run_all(&mut steps, &machines, tests);
    Ok(if steps.summary() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds for the machines and boots them, those that keep one CPU busy side by side.
pub(crate) fn run_all(steps: &mut Steps, machines: &[Machine], tests: &str) {
    for arch in [Arch::X86_64, Arch::Aarch64] {
        let of_arch: Vec<Machine> = machines.iter().copied().filter(|machine| machine.arch == arch).collect();
        if of_arch.is_empty() {
            continue;
        }
        let mut image = None;
        steps.run(&format!("building for the {} machines", arch.name()), || {
            image = Some(initramfs(arch, tests)?);
            of_arch.iter().try_for_each(|machine| kernel(machine).map(drop))
        });
        let Some(image) = image else { continue };
        let boot = |machine: Machine| {
            let image = image.clone();
            let boot: SideStep =
                (format!("virtual machine {}", machine.name), Box::new(move || boot(machine, &image)));
            boot
        };
        steps.run_side_by_side(&of_arch.into_iter().map(boot).collect::<Vec<_>>());
    }
}

/// How a machine whose kernel has died, or that never came to an end, is told from one whose tests have failed.
#[derive(Debug)]
struct MachineFault(String);

impl std::fmt::Display for MachineFault {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for MachineFault {}

/// Boots a machine and waits for its outcome; once more if the machine itself failed, whatever it died of. What we do to a kernel it does not survive twice.
fn boot(machine: Machine, initramfs: &Path) -> Result<()> {
    let kernel = kernel(&machine)?;
    match boot_once(machine, &kernel, initramfs) {
        Err(error) if error.downcast_ref::<MachineFault>().is_some() => {
            println!("{}: booted once more: {error:#}", machine.name);
            boot_once(machine, &kernel, initramfs)
        }
        outcome => outcome,
    }
}

fn boot_once(machine: Machine, kernel: &Path, initramfs: &Path) -> Result<()> {
    let log_path = target_folder().join("vm").join(format!("{}.log", machine.name));
    let mut emulator = machine.arch.emulator();
    emulator
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child =
        emulator.spawn().with_context(|| format!("cannot run {}", crate::steps::words(&emulator)))?;
    let outcome = watch(&mut child, machine.name, &log_path);
    // Whatever it said, it is not needed any more; it may have powered off by itself.
    let _gone = child.kill();
    let _reaped = child.wait();
    outcome.with_context(|| format!("the console's output is in {}", log_path.display()))
}

fn watch(child: &mut Child, name: &str, log_path: &Path) -> Result<()> {
    let mut log =
        fs::File::create(log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let console = child.stdout.take().context("no console")?;
    let lines = lines_of(console);
    let started = Instant::now();
    let mut verdicts = Verdicts::default();
    loop {
        let left = LONGEST_RUN.checked_sub(started.elapsed()).context("no outcome in time")?;
        let line = match lines.recv_timeout(left.min(LONGEST_SILENCE)) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                bail!(fault(
                    &format!("no outcome after {} s, and silence", started.elapsed().as_secs()),
                    &verdicts
                ))
            }
            Err(RecvTimeoutError::Disconnected) => {
                bail!(fault("the machine went off without an outcome", &verdicts))
            }
        };
        writeln!(log, "{line}")?;
        let text = line.trim_end();
        if verdicts.read(text) || text.starts_with("test ") || text.starts_with("tried ") {
            println!("  | {name} | {text}");
        }
        if let Some(outcome) = text.strip_prefix(OUTCOME) {
            println!("  | {name} | slowest: {}", verdicts.slowest());
            return if outcome == "pass" {
                Ok(())
            } else {
                bail!("tests failed in the machine\n{}", verdicts.said())
            };
        }
        if FATAL.iter().any(|marker| text.contains(marker)) {
            bail!(fault(&format!("the machine's kernel died: {text}"), &verdicts));
        }
    }
}

fn fault(what: &str, verdicts: &Verdicts) -> MachineFault {
    MachineFault(format!("{what}\n{}", verdicts.said()).trim_end().to_owned())
}

fn lines_of(console: std::process::ChildStdout) -> Receiver<String> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut console = BufReader::new(console);
        let mut line = Vec::new();
        while console.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            if send.send(String::from_utf8_lossy(&line).into_owned().trim_end().to_owned()).is_err() {
                return;
            }
            line.clear();
        }
    });
    receive
}

/// Downloads and unpacks the kernel, once; it is never installed.
fn kernel(machine: &Machine) -> Result<PathBuf> {
    let folder = cache_root()?.join("kernels").join(machine.name);
    if !folder.join(".unpacked").exists() {
        let (start, end) = machine.package;
        let package = apt::newest(|name| name.starts_with(start) && name.ends_with(end))?;
        let package = if machine.arch == Arch::Aarch64 { format!("{package}:arm64") } else { package };
        apt::unpack(&package, &folder)?;
    }
    let entries = fs::read_dir(folder.join("boot")).context("the kernel package has no /boot")?.flatten();
    let mut images = entries
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")));
    images.next().context("the kernel package has no image")
}

fn initramfs(arch: Arch, tests: &str) -> Result<PathBuf> {
    let root = target_folder().join("vm").join(format!("root-{}", arch.name()));
    for folder in ["bin", "proc", "sys", "dev", "tmp", "run", "workloads"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy(arch.busybox()?, root.join("bin/busybox"))?;
    let (agent, suite) = arch.build()?;
    fs::copy(agent, root.join("bin/perf-agent"))?;
    fs::copy(suite, root.join("bin/suite"))?;
    for program in fs::read_dir(compile(arch.compiler_prefix(), arch.name(), Linking::Static)?)?.flatten() {
        fs::copy(program.path(), root.join("workloads").join(program.file_name()))?;
    }
    write_init(&root.join("init"), tests)?;
    let image = target_folder().join("vm").join(format!("{}.cpio", arch.name()));
    let pack = format!("cd '{}' && find . | cpio --quiet -o -H newc > '{}'", root.display(), image.display());
    must(Command::new("sh").args(["-c", &pack]))?;
    Ok(image)
}

/// The first process: file systems in the places where a small system has them (tracefs at its own place, no debugfs), the tests, off.
fn write_init(path: &Path, tests: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let script = format!(
        "#!/bin/busybox sh\n\
         /bin/busybox --install -s /bin\n\
         export PATH=/bin HOME=/ PERF_AGENT_TEST_EMULATED=1 PERF_AGENT_BIN=/bin/perf-agent PERF_AGENT_WORKLOADS=/workloads\n\
         mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp\n\
         mount -t tracefs tracefs /sys/kernel/tracing\n\
         uname -rm\n\
         run() {{ (/bin/suite --test-threads=1 \"$@\"; echo $? > /tmp/code) | tee /tmp/output; [ \"$(cat /tmp/code)\" = 0 ]; }}\n\
         outcome=fail\n\
         if run '{tests}'; then outcome=pass; fi\n\
         tries={TRIES_MORE}\n\
         while [ \"$outcome\" = fail ] && [ \"$tries\" -gt 0 ]; do\n\
           tries=$((tries - 1))\n\
           failed=$(sed -n 's/^test \\(.*\\) \\.\\.\\. FAILED$/\\1/p' /tmp/output)\n\
           count=$(echo \"$failed\" | wc -w)\n\
           if [ \"$count\" -eq 0 ] || [ \"$count\" -gt {MOST_TRIED_AGAIN} ]; then break; fi\n\
           echo \"tried once more, because time is short in emulation: \"$failed\n\
           if run --exact $failed; then outcome=pass; fi\n\
         done\n\
         echo {OUTCOME}$outcome\n\
         sync; poweroff -f\n"
    );
    fs::write(path, script)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

impl Arch {
    fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    fn triple(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }

    pub(crate) fn compiler_prefix(self) -> &'static str {
        match self {
            Self::X86_64 => "",
            Self::Aarch64 => "aarch64-linux-gnu-",
        }
    }

    /// How the emulator runs the CPUs of a machine.
    ///
    /// With a thread for each, it (before 8.1) may translate an instruction while another CPU replaces it and keep the old one: x86_64 kernels, which turn
    /// tracepoints and jump labels on and off by an `int3`, die of one that they do not know, wait for each other for ever, or miss events. One thread
    /// that runs them in turn cannot do that. For arm64, which takes half as long again to emulate, both CPUs are needed, and it survives.
    fn emulation(self) -> &'static str {
        match self {
            Self::X86_64 => "tcg,thread=single",
            Self::Aarch64 => "tcg,thread=multi",
        }
    }

    fn emulator(self) -> Command {
        let (program, machine): (_, &[&str]) = match self {
            Self::X86_64 => ("qemu-system-x86_64", &["-append", "console=ttyS0 quiet panic=1"]),
            Self::Aarch64 => {
                ("qemu-system-aarch64", &["-M", "virt", "-append", "console=ttyAMA0 quiet panic=1"])
            }
        };
        let mut command = Command::new(program);
        command
            .args([
                "-cpu",
                "max",
                "-accel",
                self.emulation(),
                "-smp",
                "2",
                "-m",
                "1024",
                "-nic",
                "none",
                "-nographic",
                "-no-reboot",
            ])
            .args(machine);
        command
    }

    fn busybox(self) -> Result<PathBuf> {
        match self {
            Self::X86_64 => Ok(PathBuf::from("/bin/busybox")),
            Self::Aarch64 => {
                let folder = cache_root()?.join("busybox-aarch64");
                apt::unpack("busybox-static:arm64", &folder)?;
                Ok(folder.join("bin/busybox"))
            }
        }
    }

    /// The compiler for static binaries. The arm64 build takes the distribution's, which has that target's library.
    fn command(self) -> Command {
        let mut command = match self {
            Self::X86_64 => cargo(),
            Self::Aarch64 => {
                let mut command = clean_command("/usr/bin/cargo");
                command
                    .current_dir(workspace())
                    .env("RUSTC", "/usr/bin/rustc")
                    .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc");
                command
            }
        };
        command
            .env("CARGO_TARGET_DIR", Self::folder())
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            // Optimized across crates these would run a little faster and build for minutes.
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
            // Lines of the source are three quarters of the file; the names stay.
            .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
        command
    }

    fn folder() -> PathBuf {
        target_folder().join("static")
    }

    /// The agent, static.
    pub(crate) fn agent(self) -> Result<PathBuf> {
        // Built first, by the host's own way: the build script finds it up to date whichever compiler calls it.
        xtask::bpf::build(Logging::Off)?;
        must(self.command().args([
            "build",
            "--release",
            "--package",
            "profiler-user",
            "--target",
            self.triple(),
        ]))?;
        Ok(Self::folder().join(self.triple()).join("release/perf-agent"))
    }

    /// Debian's name.
    pub(crate) fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// The agent and the tests, static.
    fn build(self) -> Result<(PathBuf, PathBuf)> {
        let agent = self.agent()?;
        let mut tests = self.command();
        tests.args([
            "test",
            "--no-run",
            "--release",
            "--package",
            "tests",
            "--test",
            "suite",
            "--message-format=json",
            "--target",
            self.triple(),
        ]);
        let suite = executable(&mut tests)?;
        Ok((agent, suite))
    }
}
