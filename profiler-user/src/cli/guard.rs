//! What ends a recording before its time, whatever it records: an operator who wants all of them to end, and a host or an agent that runs
//! out of memory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::exit::{CliError, Exit};
use crate::output::bytes;

/// While this file exists no recording starts, and those that run end and write what they have.
const STOP_FILE: &str = "/run/perf-agent/stop";
/// Names another file, for systems without `/run`.
const STOP_FILE_VARIABLE: &str = "PERF_AGENT_STOP_FILE";

/// Largest resident set of the agent while it records: several times what a busy host takes, far from what a host would miss.
const MOST_OWN_BYTES: u64 = 256 << 20;
/// Memory that the host must have left for its programs: less, and the next allocation of somebody else may be its last.
const LEAST_HOST_BYTES: u64 = 32 << 20;
/// The same as a share of the host's memory.
const LEAST_HOST_SHARE: u64 = 100;
/// Share of the last ten seconds in which nobody could go on for want of memory, percent (`full avg10` in `/proc/pressure/memory`).
const MOST_PRESSURE: f64 = 40.0;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Lateness of a look from which on it is worth a word: the ring holds about a second.
const LATE: Duration = Duration::from_millis(500);

/// Why a recording was ended early.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Reason {
    /// The file is there.
    Asked,
    /// The agent itself has grown to this many bytes.
    OwnMemory(u64),
    /// The host has this many bytes left.
    HostMemory(u64),
    /// All programs waited for memory in this share of the last ten seconds, percent.
    Pressure(f64),
}

impl Reason {
    /// In words, for the result.
    pub(super) fn describe(self) -> String {
        let why = match self {
            Self::Asked => format!("`{}` exists", stop_file().display()),
            Self::OwnMemory(own) => {
                format!("the agent had grown to {}, its limit is {}", bytes(own), bytes(MOST_OWN_BYTES))
            }
            Self::HostMemory(left) => format!("the host had {} of memory left", bytes(left)),
            Self::Pressure(percent) => {
                format!("all programs waited for memory in {percent:.0} % of the last ten seconds")
            }
        };
        format!("the recording was ended early: {why}")
    }
}

/// Looks once a second.
#[derive(Debug)]
pub(super) struct Guard {
    next: Instant,
    latest: Duration,
}

impl Guard {
    /// Refuses when recordings are switched off; looks from now on otherwise.
    ///
    /// # Errors
    ///
    /// The stop file exists.
    pub(super) fn new() -> Result<Self, CliError> {
        let file = stop_file();
        if file.exists() {
            let message = format!("recordings are switched off on this host: `{}` exists", file.display());
            return Err(CliError::new(Exit::Permission, message)
                .hint(format!("sudo rm {} switches them on again", file.display())));
        }
        Ok(Self { next: Instant::now() + LOOK_EVERY, latest: Duration::ZERO })
    }

    /// When to look next.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Whether the recording must end.
    pub(super) fn look(&mut self) -> Option<Reason> {
        let now = Instant::now();
        self.latest = self.latest.max(now.saturating_duration_since(self.next));
        self.next = now + LOOK_EVERY;
        if stop_file().exists() {
            return Some(Reason::Asked);
        }
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        judge(&read("/proc/self/status"), &read("/proc/meminfo"), &read("/proc/pressure/memory"))
    }

    /// What the reader of the result should know: the agent did not get its turn.
    pub(super) fn note(&self) -> Option<String> {
        (self.latest > LATE).then(|| {
            format!(
                "the agent had to wait {:.1} s for a CPU; what came meanwhile may be lost, and is counted then",
                self.latest.as_secs_f64()
            )
        })
    }
}

fn stop_file() -> PathBuf {
    std::env::var_os(STOP_FILE_VARIABLE).map_or_else(|| Path::new(STOP_FILE).to_owned(), PathBuf::from)
}

/// From the texts of the files in `/proc`; one that is missing says nothing.
fn judge(own: &str, host: &str, pressure: &str) -> Option<Reason> {
    if let Some(own) = kilobytes(own, "VmRSS:").filter(|own| *own > MOST_OWN_BYTES) {
        return Some(Reason::OwnMemory(own));
    }
    let total = kilobytes(host, "MemTotal:").unwrap_or(0);
    let least = LEAST_HOST_BYTES.min(total / LEAST_HOST_SHARE);
    if let Some(left) = kilobytes(host, "MemAvailable:").filter(|left| *left < least) {
        return Some(Reason::HostMemory(left));
    }
    let stalled = pressure.lines().find_map(|line| line.strip_prefix("full avg10="))?;
    let percent: f64 = stalled.split(' ').next()?.parse().ok()?;
    (percent > MOST_PRESSURE).then_some(Reason::Pressure(percent))
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "Name:\tperf-agent\nVmRSS:\t   32000 kB\n";
    const HOST: &str = "MemTotal:       16000000 kB\nMemFree:  1 kB\nMemAvailable:    8000000 kB\n";
    const CALM: &str =
        "some avg10=1.00 avg60=0.5 avg300=0 total=1\nfull avg10=0.50 avg60=0 avg300=0 total=1\n";

    #[test]
    fn a_calm_host_is_left_alone() {
        assert_eq!(judge(OWN, HOST, CALM), None);
        assert_eq!(judge("", "", ""), None, "a kernel without these files");
        // A small host may have little left and be well.
        assert_eq!(judge(OWN, "MemTotal: 64000 kB\nMemAvailable: 8000 kB\n", CALM), None);
    }

    #[test]
    fn each_reason_is_seen() {
        assert_eq!(judge("VmRSS: 300000 kB\n", HOST, CALM), Some(Reason::OwnMemory(307_200_000)));
        let full = "MemTotal: 16000000 kB\nMemAvailable: 20000 kB\n";
        assert_eq!(judge(OWN, full, CALM), Some(Reason::HostMemory(20_480_000)));
        assert_eq!(
            judge(OWN, HOST, "some avg10=99.00\nfull avg10=63.21 avg60=1\n"),
            Some(Reason::Pressure(63.21))
        );
        assert!(Reason::Pressure(63.21).describe().ends_with("63 % of the last ten seconds"));
    }

    #[test]
    fn nonsense_is_no_reason() {
        for text in ["VmRSS: x kB\n", "VmRSS: 99999999999999999999 kB\n", "VmRSS: 18446744073709551615 kB\n"]
        {
            assert_eq!(judge(text, text, "full avg10=x\n"), None);
        }
    }
}
