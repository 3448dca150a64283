//! Every sample's registers, stack and frames as JSON lines: what another unwinder needs to walk the same stack.
//!
//! For checking the walker against others, on programs that nobody wrote for it. Never part of a real recording: it copies 24 KiB
//! with each sample.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::json;

use super::SessionError;
use crate::ingest::RawSample;
use crate::process::{Moment, Placement, Processes};

/// The file under construction. Two kinds of lines: `{"mappings": version, "regions": […]}` and, after it, samples that refer to it.
#[derive(Debug)]
pub(super) struct StackDump {
    file: BufWriter<File>,
    /// Versions of mappings that were written.
    written: HashSet<u64>,
}

impl StackDump {
    pub(super) fn create(path: &Path) -> Result<Self, SessionError> {
        let file = File::create(path)
            .map_err(|source| SessionError::Dump { path: path.display().to_string(), source })?;
        Ok(Self { file: BufWriter::new(file), written: HashSet::new() })
    }

    /// Writes a sample and gives it back as an ordinary recording would have seen it.
    pub(super) fn write(
        &mut self,
        mut sample: RawSample,
        moment: &Moment,
        processes: &Processes,
    ) -> RawSample {
        let Some(cold) = sample.cold.take() else { return sample };
        let version = moment.mappings.version();
        if self.written.insert(version) {
            let regions: Vec<_> = moment
                .mappings
                .regions()
                .iter()
                .map(|region| {
                    let (path, offset) = match region.placement {
                        Placement::Object { object, file_offset } => {
                            (processes.objects.object(object).path.to_string(), file_offset)
                        }
                        Placement::Vdso => ("[vdso]".to_owned(), 0),
                        Placement::Anonymous => (String::new(), 0),
                    };
                    json!({"start": region.start, "end": region.end, "offset": offset, "path": path})
                })
                .collect();
            self.line(&json!({"mappings": version, "regions": regions}));
        }
        let registers = &cold.registers;
        let stack = cold.stack.iter().fold(String::with_capacity(cold.stack.len() * 2), |mut hex, byte| {
            let _cannot_fail = write!(hex, "{byte:02x}");
            hex
        });
        self.line(&json!({
            "in": version,
            "comm": String::from_utf8_lossy(sample.comm()),
            "pid": sample.pid,
            "stop": sample.stop.id(),
            "ip": registers.ip, "sp": registers.sp, "fp": registers.fp, "lr": registers.lr,
            "general": registers.general.as_slice(),
            "stack_base": cold.stack_base,
            "stack": stack,
            "frames": sample.user,
        }));
        if sample.stop.is_cold() {
            // The registers are the leaf's, so the walk has to begin there again.
            sample.user.truncate(1);
            sample.cold = Some(cold);
        }
        sample
    }

    fn line(&mut self, value: &serde_json::Value) {
        // A full disk shows when the comparison finds too few samples; the recording goes on.
        let _best_effort = writeln!(self.file, "{value}");
    }
}
