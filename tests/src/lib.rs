//! What the end-to-end tests share: running the agent and the programs it profiles, and reading what came out.
//!
//! Nothing here skips: a test that cannot run says what it needs and fails.

pub mod browser;
mod chain;
mod child;
pub mod framehop_oracle;
pub mod receiver;
pub mod tls;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

pub use child::{Run, Started, finish, run};

/// Samples CPUs however much that takes. Most tests are about what is recorded, not about what it costs: inside the usual budget a slow machine samples
/// a few times a second.
pub const AT_ANY_COST: [&str; 2] = ["--max-overhead", "100%"];

/// The agent with a verb that samples CPUs, [`AT_ANY_COST`].
///
/// # Panics
///
/// As [`agent`].
pub fn sampling_agent(verb: &str) -> Command {
    let mut agent = agent();
    agent.arg(verb).args(AT_ANY_COST);
    agent
}

/// The agent under test: named by `PERF_AGENT_BIN`, else the release or debug build of this workspace.
///
/// # Panics
///
/// When there is none, naming the command that builds it.
pub fn agent() -> Command {
    let named = std::env::var_os("PERF_AGENT_BIN").map(PathBuf::from);
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let built = ["release", "debug"].map(|profile| target.join(profile).join("perf-agent"));
    let found = named.into_iter().chain(built).find(|path| path.exists());
    let Some(path) = found else {
        panic!("there is no perf-agent to test; run the tests with: cargo xtask test")
    };
    Command::new(path)
}

/// A program whose true profile is known.
///
/// # Panics
///
/// When it was not compiled, naming the command that does it.
pub fn workload(name: &str) -> PathBuf {
    let folder = std::env::var_os("PERF_AGENT_WORKLOADS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/workloads/host"),
        PathBuf::from,
    );
    let path = folder.join(name);
    assert!(path.exists(), "{} is not compiled; run the tests with: cargo xtask test", path.display());
    path
}

/// Whether this is a machine in software emulation: twenty times slower, and its timers come late by more than their period.
pub fn is_emulated() -> bool {
    std::env::var_os("PERF_AGENT_TEST_EMULATED").is_some()
}

/// Seconds for a program that has to outlive the agent's start, which takes seconds in emulation.
pub fn seconds(on_hardware: u32) -> String {
    (if is_emulated() { on_hardware * 4 } else { on_hardware }).to_string()
}

/// Fails the test, saying why, where it may not profile. Every test that records calls it first.
///
/// # Panics
///
/// Without root. `PERF_AGENT_SKIP_ROOT_TESTS=1` does not help: a test that does not run is no test.
pub fn need_root() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    assert!(
        uids.split_whitespace().nth(1) == Some("0"),
        "this test records and needs root; run: cargo xtask test"
    );
}

/// Starts the agent with these arguments in a folder. It records some time later: tens of milliseconds, seconds in emulation.
///
/// # Errors
///
/// It cannot be started.
pub fn start_agent<S: AsRef<OsStr>>(arguments: &[S], folder: &Path) -> Result<Started> {
    let mut command = agent();
    command
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Started::of(&mut command)
}

/// A profile in folded form: stacks, root first, with their sample counts.
#[derive(Debug, Default)]
pub struct Folded {
    /// Frames, root first, and samples.
    pub stacks: Vec<(Vec<String>, u64)>,
}

impl Folded {
    /// Reads a folded file.
    ///
    /// # Errors
    ///
    /// It cannot be read or a line has no count.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text)
    }

    /// Reads folded text.
    ///
    /// # Errors
    ///
    /// A line has no count.
    pub fn parse(text: &str) -> Result<Self> {
        let parse = |line: &str| -> Result<(Vec<String>, u64)> {
            let (stack, count) = line.rsplit_once(' ').with_context(|| format!("no count in `{line}`"))?;
            Ok((stack.split(';').map(str::to_owned).collect(), count.parse()?))
        };
        Ok(Self { stacks: text.lines().map(parse).collect::<Result<_>>()? })
    }

    /// All samples.
    pub fn total(&self) -> u64 {
        self.stacks.iter().map(|(_, count)| count).sum()
    }

    /// Samples whose stack has this frame.
    pub fn with(&self, frame: &str) -> u64 {
        self.stacks
            .iter()
            .filter(|(stack, _)| stack.iter().any(|name| name == frame))
            .map(|(_, count)| count)
            .sum()
    }

    /// Samples whose root frame starts with this.
    pub fn rooted(&self, start: &str) -> u64 {
        let fits = |stack: &[String]| stack.first().is_some_and(|root| root.starts_with(start));
        self.stacks.iter().filter(|(stack, _)| fits(stack)).map(|(_, count)| count).sum()
    }

    /// Frames of the deepest stack.
    pub fn depth(&self) -> usize {
        self.stacks.iter().map(|(stack, _)| stack.len()).max().unwrap_or(0)
    }
}

/// The one line of JSON numbers that a truth program prints.
///
/// # Errors
///
/// It printed something else.
pub fn truth(stdout: &str) -> Result<BTreeMap<String, f64>> {
    let line = stdout
        .lines()
        .find(|line| line.starts_with('{'))
        .with_context(|| format!("no truth in `{stdout}`"))?;
    Ok(serde_json::from_str(line)?)
}
