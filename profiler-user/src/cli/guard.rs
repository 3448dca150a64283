//! What thins a recording out, or ends it before its time, whatever it records: an operator who wants all of them to end, and a host or an agent
//! that runs out of memory or of CPU time.
//!
//! Load is shed first: from half way to a limit on, the recording takes as little as it can. At the limit it ends. A host whose CPUs are merely
//! busy (`/proc/pressure/cpu`) is no reason: that is when people profile, and the budget holds there too. An agent that does not get its turn is one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::exit::{CliError, Exit};
use crate::output::bytes;
use crate::system::read::kilobytes;

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

/// Share of a limit from which on load is shed.
const SHED_FROM: f64 = 0.5;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Lateness of a look from which on it is worth a word: the ring holds about a second.
const LATE: Duration = Duration::from_millis(500);

/// What a look says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Verdict {
    /// All is well.
    Calm,
    /// Take less for a while.
    Shed(Reason),
    /// End.
    End(Reason),
}

/// Why a recording was thinned out or ended early.
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
    /// The agent waited so long for a CPU.
    Starved(Duration),
}

impl Reason {
    /// In words, for the result of a recording that it ended.
    pub(super) fn describe(self) -> String {
        format!("the recording was ended early: {}", self.why())
    }

    fn why(self) -> String {
        match self {
            Self::Asked => format!("`{}` exists", stop_file().display()),
            Self::OwnMemory(own) => {
                format!("the agent had grown to {}, its limit is {}", bytes(own), bytes(MOST_OWN_BYTES))
            }
            Self::HostMemory(left) => format!("the host had {} of memory left", bytes(left)),
            Self::Pressure(percent) => {
                format!("all programs waited for memory in {percent:.0} % of the last ten seconds")
            }
            Self::Starved(waited) => format!("the agent waited {:.1} s for a CPU", waited.as_secs_f64()),
        }
    }
}

/// Looks once a second.
#[derive(Debug)]
pub(super) struct Guard {
    began: Instant,
    next: Instant,
    latest: Duration,
    /// When load was shed first, why, and how many looks asked for it.
    shed: Option<(Duration, Reason, u32)>,
    /// Load is to be shed, and nobody has done it yet.
    shed_due: bool,
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
        let now = Instant::now();
        Ok(Self { began: now, next: now + LOOK_EVERY, latest: Duration::ZERO, shed: None, shed_due: false })
    }

    /// When to look next.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Whether the recording must end.
    pub(super) fn look(&mut self) -> Option<Reason> {
        let now = Instant::now();
        let late = now.saturating_duration_since(self.next);
        self.latest = self.latest.max(late);
        self.next = now + LOOK_EVERY;
        if stop_file().exists() {
            return Some(Reason::Asked);
        }
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let verdict =
            judge(&read("/proc/self/status"), &read("/proc/meminfo"), &read("/proc/pressure/memory"));
        let verdict = match verdict {
            Verdict::Calm if late > LATE => Verdict::Shed(Reason::Starved(late)),
            verdict => verdict,
        };
        match verdict {
            Verdict::Calm => None,
            Verdict::Shed(reason) => {
                let (after, first, looks) = self.shed.unwrap_or((now - self.began, reason, 0));
                self.shed = Some((after, first, looks + 1));
                self.shed_due = true;
                None
            }
            Verdict::End(reason) => Some(reason),
        }
    }

    /// Whether load is to be shed now; once for each look that says so.
    pub(super) fn take_shed(&mut self) -> bool {
        std::mem::take(&mut self.shed_due)
    }

    /// What the reader should know since the last call.
    pub(super) fn take_notes(&mut self) -> Vec<String> {
        let notes = self.notes();
        (self.shed, self.latest) = (None, Duration::ZERO);
        notes
    }

    /// What the reader of the result should know: load was shed, the agent did not get its turn.
    pub(super) fn notes(&self) -> Vec<String> {
        let shed = self.shed.map(|(after, reason, looks)| {
            format!(
                "as little as possible was recorded for ten seconds and more, {looks} times, first after {:.0} s: {}",
                after.as_secs_f64(),
                reason.why()
            )
        });
        let late = (self.latest > LATE).then(|| {
            format!(
                "the agent had to wait {:.1} s for a CPU; what came meanwhile may be lost, and is counted then",
                self.latest.as_secs_f64()
            )
        });
        shed.into_iter().chain(late).collect()
    }
}

fn stop_file() -> PathBuf {
    std::env::var_os(STOP_FILE_VARIABLE).map_or_else(|| Path::new(STOP_FILE).to_owned(), PathBuf::from)
}

/// From the texts of the files in `/proc`; one that is missing says nothing.
fn judge(own: &str, host: &str, pressure: &str) -> Verdict {
    let total = kilobytes(host, "MemTotal:").unwrap_or(0);
    let least = LEAST_HOST_BYTES.min(total / LEAST_HOST_SHARE).max(1);
    let stalled = pressure.lines().find_map(|line| line.strip_prefix("full avg10="));
    let stalled: Option<f64> = stalled.and_then(|rest| rest.split(' ').next()?.parse().ok());
    // How far each is on the way to its limit: one at the limit.
    let ways = [
        kilobytes(own, "VmRSS:").map(|own| (own as f64 / MOST_OWN_BYTES as f64, Reason::OwnMemory(own))),
        kilobytes(host, "MemAvailable:")
            .map(|left| (least as f64 / left.max(1) as f64, Reason::HostMemory(left))),
        stalled.map(|percent| (percent / MOST_PRESSURE, Reason::Pressure(percent))),
    ];
    let furthest = ways.into_iter().flatten().max_by(|(a, _), (b, _)| a.total_cmp(b));
    match furthest {
        Some((way, reason)) if way > 1.0 => Verdict::End(reason),
        Some((way, reason)) if way > SHED_FROM => Verdict::Shed(reason),
        _ => Verdict::Calm,
    }
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
        assert_eq!(judge(OWN, HOST, CALM), Verdict::Calm);
        assert_eq!(judge("", "", ""), Verdict::Calm, "a kernel without these files");
        // A small host may have little left and be well.
        assert_eq!(judge(OWN, "MemTotal: 64000 kB\nMemAvailable: 8000 kB\n", CALM), Verdict::Calm);
    }

    #[test]
    fn each_reason_is_seen() {
        assert_eq!(judge("VmRSS: 300000 kB\n", HOST, CALM), Verdict::End(Reason::OwnMemory(307_200_000)));
        let full = "MemTotal: 16000000 kB\nMemAvailable: 20000 kB\n";
        assert_eq!(judge(OWN, full, CALM), Verdict::End(Reason::HostMemory(20_480_000)));
        assert_eq!(
            judge(OWN, HOST, "some avg10=99.00\nfull avg10=63.21 avg60=1\n"),
            Verdict::End(Reason::Pressure(63.21))
        );
        assert!(Reason::Pressure(63.21).describe().ends_with("63 % of the last ten seconds"));
    }

    #[test]
    fn load_is_shed_before_the_end() {
        assert_eq!(judge("VmRSS: 150000 kB\n", HOST, CALM), Verdict::Shed(Reason::OwnMemory(153_600_000)));
        let little = "MemTotal: 16000000 kB\nMemAvailable: 50000 kB\n";
        assert_eq!(judge(OWN, little, CALM), Verdict::Shed(Reason::HostMemory(51_200_000)));
        assert_eq!(judge(OWN, HOST, "full avg10=25.00 avg60=1\n"), Verdict::Shed(Reason::Pressure(25.0)));
        // The worst of them counts.
        assert_eq!(
            judge("VmRSS: 150000 kB\n", HOST, "full avg10=50 \n"),
            Verdict::End(Reason::Pressure(50.0))
        );
    }

    #[test]
    fn nonsense_is_no_reason() {
        for text in ["VmRSS: x kB\n", "VmRSS: 99999999999999999999 kB\n", "VmRSS: 18446744073709551615 kB\n"]
        {
            assert_eq!(judge(text, text, "full avg10=x\n"), Verdict::Calm);
        }
    }
}
