//! A record of the BPF ring, and a record of the perf side band: bytes that the kernel wrote, and paths and names that a target chose.
#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_user::ingest::{Record, decode_event, decode_record};

fuzz_target!(|data: &[u8]| {
    match decode_record(data) {
        Ok(Record::Sample(sample)) => {
            let stack = sample.cold.as_ref().map_or(0, |cold| cold.stack.len());
            assert!(sample.user.len() * 8 + sample.kernel.len() * 8 + stack <= data.len());
        }
        Ok(Record::Stack { bytes, .. }) => assert!(bytes.len() <= data.len()),
        Err(_) => {}
    }
    if let [kind, misc, body @ ..] = data {
        let _ = decode_event(u32::from(*kind), u16::from(*misc) << 8, body);
    }
});
