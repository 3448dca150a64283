//! A record of the BPF ring, and a record of the perf side band: bytes that the kernel wrote, and paths and names that a target chose.
#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_user::ingest::{decode_event, decode_sample};

fuzz_target!(|data: &[u8]| {
    if let Ok(sample) = decode_sample(data) {
        assert!(sample.user.len() * 8 + sample.kernel.len() * 8 <= data.len());
    }
    if let [kind, misc, body @ ..] = data {
        let _ = decode_event(u32::from(*kind), u16::from(*misc) << 8, body);
    }
});
