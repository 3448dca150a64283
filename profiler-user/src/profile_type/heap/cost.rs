//! What a hit of a probe costs on this machine: measured on ourselves when a recording starts.

use std::fs::File;
use std::hint::black_box;
use std::os::fd::AsFd;
use std::time::Instant;

use crate::bpf::{Place, Programs, When};

/// Calls that are timed, three times; the fastest counts.
const CALLS: u32 = 2_000;

/// Nanoseconds of a hit without its program.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct SiteCosts {
    /// Where the kernel emulates the instruction.
    emulated_ns: f64,
    /// Where it steps it.
    stepped_ns: f64,
    /// At a return.
    return_ns: f64,
    measured: bool,
}

/// What was measured on a virtual machine with Linux 6.18, for machines on which nothing can be.
const USUAL: SiteCosts =
    SiteCosts { emulated_ns: 500.0, stepped_ns: 4_500.0, return_ns: 900.0, measured: false };

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
        let cost = |function: extern "C" fn(), when: When| -> Option<f64> {
            let bare = time(function);
            let program = match when {
                When::Entry => "heap_entered",
                When::Return => "heap_returned",
            };
            let program = programs.heap_program_fd(program).ok()?;
            let offset = file_offset(function as usize as u64)?;
            let place = [Place { file_offset: offset, cookie: 0 }];
            let probes = probing.attach(program, std::process::id(), own.as_fd(), &place, when).ok()?;
            let probed = time(function);
            super::probes::close_aside(probes);
            Some((probed - bare).max(0.0))
        };
        let emulated: extern "C" fn() = perf_agent_probe_emulated;
        let stepped: extern "C" fn() = perf_agent_probe_stepped;
        let returning: extern "C" fn() = perf_agent_probe_return;
        // Each has a function of its own: a probe that is a perf event is there for a tenth of a second after it was closed.
        Some(Self {
            emulated_ns: cost(emulated, When::Entry)?,
            stepped_ns: cost(stepped, When::Entry)?,
            return_ns: cost(returning, When::Return)?,
            measured: true,
        })
    }

    /// What a call costs with its program, nanoseconds.
    pub(super) fn ns_per_call(&self, emulated_share: f64, program_ns: Option<f64>) -> f64 {
        /// Before the program has run.
        const PROGRAM_NS: f64 = 250.0;
        emulated_share * self.emulated_ns
            + (1.0 - emulated_share) * self.stepped_ns
            + program_ns.unwrap_or(PROGRAM_NS)
    }

    /// The table of costs, in words.
    pub(super) fn notes(&self) -> Vec<String> {
        vec![format!(
            "a hit costs {:.1} µs at an emulated instruction, {:.1} µs at one that is stepped, {:.1} µs with a return{}, without its program",
            self.emulated_ns / 1e3,
            self.stepped_ns / 1e3,
            self.return_ns / 1e3,
            if self.measured { " (measured here)" } else { " (usual values; nothing could be measured)" }
        )]
    }
}

/// Nanoseconds of one call, the fastest of three rounds.
fn time(function: extern "C" fn()) -> f64 {
    let function = black_box(function);
    let round = || {
        let start = Instant::now();
        for _ in 0..CALLS {
            function();
        }
        start.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    (0..3).map(|_| round()).fold(f64::MAX, f64::min)
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
    fn a_call_costs_its_trap_and_its_program() {
        assert!((USUAL.ns_per_call(1.0, Some(300.0)) - 800.0).abs() < 1.0);
        assert!(USUAL.ns_per_call(0.5, None) > 2_000.0);
    }
}
