//! From what the user typed to process ids: numbers, exact names, patterns.

use std::collections::HashSet;
use std::str::FromStr;

use regex::Regex;

use super::super::{features::Mounts, privileges::proc_is_ours, read};
use super::{Stat, TargetError, expression, proc_path};
use crate::profile::clean;

/// Length that the kernel cuts thread names to (`TASK_COMM_LEN` without the final zero).
const COMM_BYTES: usize = 15;

/// Most of a command line that a pattern is matched against.
const COMMAND_LINE_BYTES: u64 = 4096;

/// Similar names offered when a name is not found.
const MOST_SUGGESTIONS: usize = 3;

/// A target as typed: `4242`, `17,18`, `nginx`, `/node.*server/`.
#[derive(Debug, Clone)]
pub enum TargetSpec {
    /// Process ids.
    Pids(Vec<u32>),
    /// An exact name.
    Name(String),
    /// A pattern over name and command line.
    Pattern(Box<Regex>),
}

impl FromStr for TargetSpec {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let bad = |reason| TargetError::BadSpec { text: clean(text.as_bytes()), reason };
        if text.is_empty() {
            return Err(bad("it is empty"));
        }
        if let Some(found) = expression(text) {
            let bad_pattern = |reason| TargetError::BadPattern {
                pattern: clean(text.trim_matches('/').as_bytes()),
                reason,
            };
            return found.map(|regex| Self::Pattern(Box::new(regex))).map_err(bad_pattern);
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b',') {
            return match text.strip_prefix('-') {
                Some(rest) if rest.bytes().all(|byte| byte.is_ascii_digit()) => {
                    Err(bad("pids are not negative"))
                }
                _ => Ok(Self::Name(text.to_owned())),
            };
        }
        let pids: Result<Vec<u32>, _> = text.split(',').map(str::parse).collect();
        match pids {
            Ok(pids) if pids.contains(&0) => Err(bad("pid 0 is the idle task")),
            Ok(pids) => Ok(Self::Pids(pids)),
            Err(_) => Err(bad("pids are numbers up to 4194304, separated by commas")),
        }
    }
}

impl TargetSpec {
    /// The ids meant. Numbers are not looked up; names and patterns match at least one process.
    ///
    /// # Errors
    /// When no process has the name or matches the pattern.
    pub fn resolve(&self) -> Result<Vec<u32>, TargetError> {
        match self {
            Self::Pids(pids) => Ok(pids.clone()),
            Self::Name(name) => find_by_name(name),
            Self::Pattern(pattern) => find_by_pattern(pattern),
        }
    }
}

/// Processes whose name or executable's file name equals `name`, ascending. This process is never among them.
///
/// # Errors
/// When there is none (with similar names, if any), or when the processes cannot be listed.
pub fn find_by_name(name: &str) -> Result<Vec<u32>, TargetError> {
    let processes = list()?;
    let found: Vec<u32> =
        processes.iter().filter(|process| process.is_named(name)).map(|process| process.pid).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let known: HashSet<String> =
        processes.iter().filter(|process| !process.is_kernel_thread).flat_map(Candidate::names).collect();
    Err(TargetError::NoMatch {
        name: clean(name.as_bytes()),
        similar: similar(name, known),
        hidden: Mounts::gather().proc_hides_processes(),
    })
}

/// Processes whose name or command line matches, ascending. Leaves out kernel threads, this process and its
/// ancestors: `sudo perf-agent attach /redis/` holds the pattern in every command line above it.
///
/// # Errors
/// When there is none, or when the processes cannot be listed.
pub fn find_by_pattern(pattern: &Regex) -> Result<Vec<u32>, TargetError> {
    let above = ancestors();
    let matches = |process: &&Candidate| {
        !process.is_kernel_thread
            && !above.contains(&process.pid)
            && (pattern.is_match(&String::from_utf8_lossy(&process.comm))
                || pattern.is_match(&command_line(process.pid)))
    };
    let found: Vec<u32> = list()?.iter().filter(matches).map(|process| process.pid).collect();
    if found.is_empty() {
        return Err(TargetError::NoPatternMatch {
            pattern: clean(pattern.as_str().as_bytes()),
            hidden: Mounts::gather().proc_hides_processes(),
        });
    }
    Ok(found)
}

/// What names are matched against.
#[derive(Debug)]
struct Candidate {
    pid: u32,
    comm: Vec<u8>,
    /// The executable's file name; empty when it cannot be read.
    exe_name: Vec<u8>,
    is_kernel_thread: bool,
}

impl Candidate {
    fn is_named(&self, name: &str) -> bool {
        let name = name.as_bytes();
        let cut = name.len() > COMM_BYTES && name.get(..COMM_BYTES) == Some(&self.comm);
        !name.is_empty() && (self.comm == name || self.exe_name == name || cut)
    }

    fn names(&self) -> impl Iterator<Item = String> {
        [clean(&self.comm), clean(&self.exe_name)].into_iter().filter(|name| !name.is_empty())
    }
}

fn list() -> Result<Vec<Candidate>, TargetError> {
    if !proc_is_ours() {
        return Err(TargetError::List("/proc belongs to another PID namespace than this process".to_owned()));
    }
    let me = std::process::id();
    let entries = std::fs::read_dir("/proc").map_err(|error| TargetError::List(error.to_string()))?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut found: Vec<Candidate> = pids
        .filter(|pid| *pid != me)
        .filter_map(|pid| {
            let stat = Stat::gather(pid).ok().filter(|stat| !stat.state.is_dead())?;
            let exe = read::link(proc_path(pid, "exe")).unwrap_or_default();
            let exe = exe.strip_suffix(b" (deleted)").unwrap_or(&exe);
            let exe_name = exe.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
            Some(Candidate { pid, is_kernel_thread: stat.is_kernel_thread(), comm: stat.comm, exe_name })
        })
        .collect();
    found.sort_by_key(|process| process.pid);
    Ok(found)
}

/// The command line with spaces between its arguments.
fn command_line(pid: u32) -> String {
    let raw = read::bounded(&proc_path(pid, "cmdline"), COMMAND_LINE_BYTES).unwrap_or_default();
    String::from_utf8_lossy(&raw).replace('\0', " ").trim_end().to_owned()
}

/// This process and all those above it.
fn ancestors() -> HashSet<u32> {
    let mut found = HashSet::new();
    let mut pid = std::process::id();
    while pid != 0 && found.insert(pid) {
        pid = Stat::gather(pid).map_or(0, |stat| stat.parent);
    }
    found
}

/// The closest of `known` to `name`, best first: within a third of its length in edits, or containing it.
fn similar(name: &str, known: HashSet<String>) -> Vec<String> {
    let wanted = name.to_lowercase();
    let mut scored: Vec<(usize, String)> = known
        .into_iter()
        .filter_map(|candidate| {
            let lower = candidate.to_lowercase();
            let edits = edit_distance(&wanted, &lower);
            let contains = wanted.len() >= 3 && lower.contains(&wanted);
            (contains || edits <= wanted.chars().count() / 3).then_some((edits, candidate))
        })
        .collect();
    scored.sort();
    scored.into_iter().map(|(_, candidate)| candidate).take(MOST_SUGGESTIONS).collect()
}

/// Insertions, deletions, changes and swaps of neighbours between two short words (optimal string alignment).
fn edit_distance(left: &str, right: &str) -> usize {
    /// Longer names than any comm or executable worth suggesting.
    const LONGEST: usize = 64;
    let left: Vec<char> = left.chars().take(LONGEST).collect();
    let right: Vec<char> = right.chars().take(LONGEST).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in right.iter().enumerate() {
            let mut best = (above[j] + usize::from(a != b)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == right[j - 1] && left[i - 1] == *b {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_is_a_number_a_name_or_a_pattern() {
        assert!(matches!("17,18".parse(), Ok(TargetSpec::Pids(pids)) if pids == [17, 18]));
        assert!(matches!("redis-server".parse(), Ok(TargetSpec::Name(name)) if name == "redis-server"));
        assert!(matches!("/no.e/".parse(), Ok(TargetSpec::Pattern(_))));
        for bad in ["", "-1", "0", "99999999999", "1,,2"] {
            assert!(matches!(bad.parse::<TargetSpec>(), Err(TargetError::BadSpec { .. })), "{bad}");
        }
        let error = "/a(/".parse::<TargetSpec>().unwrap_err();
        assert_eq!(error.to_string(), "/a(/ is not a regular expression: unclosed group");
    }

    #[test]
    fn names_match_whole_and_past_the_kernels_cut() {
        let process = |comm: &[u8], exe: &[u8]| Candidate {
            pid: 1,
            comm: comm.to_vec(),
            exe_name: exe.to_vec(),
            is_kernel_thread: false,
        };
        assert!(process(b"worker", b"nginx").is_named("nginx"));
        assert!(process(b"worker", b"nginx").is_named("worker"));
        assert!(!process(b"worker", b"nginx").is_named("ngin"));
        assert!(process(b"a-very-long-nam", b"python3").is_named("a-very-long-name.py"));
        assert!(!process(b"", b"").is_named(""));
    }

    #[test]
    fn misspelt_names_are_recognised() {
        let known = || ["redis-server", "node", "python3.12", "sshd"].map(str::to_owned).into();
        assert_eq!(similar("redis-sevrer", known()), ["redis-server"]);
        assert_eq!(similar("redis", known()), ["redis-server"]);
        assert_eq!(similar("Node", known()), ["node"]);
        assert_eq!(similar("postgres", known()), [""; 0]);
        assert_eq!(edit_distance("abcd", "acbd"), 1);
        assert_eq!(edit_distance("", "abc"), 3);
    }

    #[test]
    fn a_running_process_is_found_by_name_and_by_pattern() {
        let mut child = std::process::Command::new("sleep").arg("77.25").spawn().unwrap();
        let by_name = find_by_name("sleep");
        let by_pattern = find_by_pattern(&Regex::new(r"sleep 77\.25").unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(by_name.unwrap().contains(&child.id()));
        assert_eq!(by_pattern.unwrap(), [child.id()]);
    }

    #[test]
    fn own_command_line_never_matches() {
        let me = format!("^{}$", regex::escape(&command_line(std::process::id())));
        assert!(matches!(
            find_by_pattern(&Regex::new(&me).unwrap()),
            Err(TargetError::NoPatternMatch { .. })
        ));
    }
}
