//! What a hit of a probe costs on this machine: measured on ourselves when a recording starts.

use std::fs::File;
use std::hint::black_box;
use std::os::fd::AsFd;
use std::time::Instant;

use profiler_common::stats::Stat;

use crate::bpf::{Place, Probing, Programs, When};
use crate::output::thousands;

/// Calls of a round that is timed.
const CALLS: u32 = 500;
/// Rounds; the one in the middle counts.
const ROUNDS: usize = 7;
/// Longest time that is waited for a probe to go, nanoseconds.
const LONGEST_LINGER_NS: f64 = 3e8;

/// Nanoseconds of a hit without its program.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct SiteCosts {
    /// Where the kernel emulates the instruction.
    emulated_ns: f64,
    /// Where it steps it.
    stepped_ns: f64,
    /// At an emulated instruction and again at the return.
    return_ns: f64,
    /// How long a probe goes on to cost something after it was taken out.
    linger_ns: f64,
    measured: bool,
}

/// What was measured on a virtual machine with Linux 6.18, for machines on which nothing can be.
const USUAL: SiteCosts =
    SiteCosts { emulated_ns: 500.0, stepped_ns: 4_500.0, return_ns: 900.0, linger_ns: 1e8, measured: false };

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".global perf_agent_probe_emulated",
    ".type perf_agent_probe_emulated, @function",
    "perf_agent_probe_emulated:",
    "push rbp",
    "pop rbp",
    "ret",
    ".size perf_agent_probe_emulated, . - perf_agent_probe_emulated",
    ".global perf_agent_probe_return",
    ".type perf_agent_probe_return, @function",
    "perf_agent_probe_return:",
    "push rbp",
    "pop rbp",
    "ret",
    ".size perf_agent_probe_return, . - perf_agent_probe_return",
    ".global perf_agent_probe_stepped",
    ".type perf_agent_probe_stepped, @function",
    "perf_agent_probe_stepped:",
    "test rdi, rdi",
    "nop",
    "ret",
    ".size perf_agent_probe_stepped, . - perf_agent_probe_stepped",
);

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".global perf_agent_probe_emulated",
    ".type perf_agent_probe_emulated, %function",
    "perf_agent_probe_emulated:",
    "b 1f",
    "1: ret",
    ".size perf_agent_probe_emulated, . - perf_agent_probe_emulated",
    ".global perf_agent_probe_return",
    ".type perf_agent_probe_return, %function",
    "perf_agent_probe_return:",
    "b 1f",
    "1: ret",
    ".size perf_agent_probe_return, . - perf_agent_probe_return",
    ".global perf_agent_probe_stepped",
    ".type perf_agent_probe_stepped, %function",
    "perf_agent_probe_stepped:",
    "mov x9, x0",
    "ret",
    ".size perf_agent_probe_stepped, . - perf_agent_probe_stepped",
);

unsafe extern "C" {
    safe fn perf_agent_probe_emulated();
    safe fn perf_agent_probe_return();
    safe fn perf_agent_probe_stepped();
}

impl SiteCosts {
    /// Measures, or takes the usual values.
    pub(super) fn measure(programs: &Programs) -> Self {
        Self::try_measure(programs).unwrap_or(USUAL)
    }

    fn try_measure(programs: &Programs) -> Option<Self> {
        let probing = programs.heap_probing().ok()?;
        let own = File::open("/proc/self/exe").ok()?;
        let mut linger_ns: f64 = 0.0;
        let mut cost = |function: extern "C" fn(), when: When| -> Option<f64> {
            let bare = time(function);
            let program = match when {
                When::Entry => "heap_entered",
                When::Return => "heap_returned",
            };
            let program = programs.heap_program_fd(program).ok()?;
            let offset = file_offset(function as usize as u64)?;
            let place = [Place { file_offset: offset, cookie: 0 }];
            let probes = probing.attach(program, std::process::id(), own.as_fd(), &place, when).ok()?;
            let before = programs.heap_runs();
            let probed = time(function);
            let after = programs.heap_runs();
            let runs = (after.entered + after.returned).saturating_sub(before.entered + before.returned);
            let program = after.run_ns.saturating_sub(before.run_ns) as f64 / runs.max(1) as f64;
            let closed = Instant::now();
            super::probes::close_aside(probes);
            // Links go at once; a look would see noise.
            while probing != Probing::Links && time(function) > f64::midpoint(bare, probed) {
                linger_ns = linger_ns.max(closed.elapsed().as_nanos() as f64);
                if linger_ns > LONGEST_LINGER_NS {
                    break;
                }
            }
            Some((probed - bare - program).max(0.0))
        };
        let emulated: extern "C" fn() = perf_agent_probe_emulated;
        let stepped: extern "C" fn() = perf_agent_probe_stepped;
        let returning: extern "C" fn() = perf_agent_probe_return;
        let (emulated_ns, stepped_ns, return_ns) =
            (cost(emulated, When::Entry)?, cost(stepped, When::Entry)?, cost(returning, When::Return)?);
        Some(Self { emulated_ns, stepped_ns, return_ns, linger_ns, measured: true })
    }

    /// CPU time that all probes of the recording took so far, nanoseconds. Where the kernel does not count the programs' runs, the calls count.
    pub(super) fn probe_ns(&self, programs: &Programs, calls: u64) -> f64 {
        /// A program's time, where the kernel does not say.
        const PROGRAM_NS: f64 = 250.0;
        let runs = programs.heap_runs();
        let stepped = programs.stat(Stat::HeapStepped) as f64 * (self.stepped_ns - self.emulated_ns).max(0.0);
        if runs.entered == 0 {
            return calls as f64 * (self.emulated_ns + PROGRAM_NS) + stepped;
        }
        runs.entered as f64 * self.emulated_ns
            + stepped
            + runs.returned as f64 * (self.return_ns - self.emulated_ns).max(0.0)
            + runs.run_ns as f64
    }

    /// How long a probe goes on to cost something after it was taken out, nanoseconds.
    pub(super) fn linger_ns(&self) -> f64 {
        self.linger_ns
    }

    /// The table of costs, in words.
    pub(super) fn notes(&self) -> Vec<String> {
        vec![format!(
            "a hit costs {} ns at an emulated instruction, {} ns at one that is stepped, {} ns at an emulated one and again at the return{}, without its program",
            thousands(self.emulated_ns as u64),
            thousands(self.stepped_ns as u64),
            thousands(self.return_ns as u64),
            if self.measured { " (measured here)" } else { " (usual values; nothing could be measured)" }
        )]
    }
}

/// Nanoseconds of one call, of the round in the middle.
fn time(function: extern "C" fn()) -> f64 {
    let function = black_box(function);
    let round = |_| {
        let start = Instant::now();
        for _ in 0..CALLS {
            function();
        }
        start.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    let mut rounds: [f64; ROUNDS] = std::array::from_fn(round);
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

/// Where one of our addresses lies in our file.
fn file_offset(address: u64) -> Option<u64> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        let offset = u64::from_str_radix(fields.nth(1)?, 16).ok()?;
        (start..end).contains(&address).then(|| address - start + offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_to_measure_are_in_our_file() {
        let offset = |function: extern "C" fn()| file_offset(function as usize as u64);
        assert!(offset(perf_agent_probe_emulated).is_some() && offset(perf_agent_probe_stepped).is_some());
        assert_eq!(file_offset(0), None);
        assert!(time(perf_agent_probe_emulated) < 1e6);
    }

    #[test]
    fn the_table_of_costs_says_what_it_is_of() {
        let note = &USUAL.notes()[0];
        assert!(
            note.contains("500 ns at an emulated instruction, 4 500 ns at one that is stepped"),
            "{note}"
        );
        assert!(note.contains("usual values"), "{note}");
    }
}
