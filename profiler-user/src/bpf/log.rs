//! The BPF programs' own log, for work on them: printed on standard error, compiled in by the feature `bpf-log` alone.
#![expect(clippy::print_stderr, reason = "a debugging aid for people who asked for it")]

use aya::Ebpf;
use aya_log::EbpfLogger;

/// Reads the log when asked to.
pub(super) struct BpfLog {
    logger: EbpfLogger<Stderr>,
}

impl BpfLog {
    /// Takes the log's ring out of the loaded object; none when no program logs.
    pub(super) fn open(ebpf: &mut Ebpf) -> Option<Self> {
        let logger = EbpfLogger::init_with_logger(ebpf, Stderr).ok()?;
        Some(Self { logger })
    }

    /// Prints what has come since the last time.
    pub(super) fn print(&mut self) {
        self.logger.flush();
    }
}

struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        eprintln!("bpf {} {}: {}", record.level(), record.target(), record.args());
    }

    fn flush(&self) {}
}
