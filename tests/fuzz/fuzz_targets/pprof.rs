//! Any bytes as pprof, plain or compressed: read or refused, and what was read can be written in every format.
#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_user::import::read_pprof;
use profiler_user::output::{FORMATS, OutputOptions};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(profile) = read_pprof(bytes) {
        for format in FORMATS {
            let mut out = Vec::new();
            (format.write)(&profile, &OutputOptions::default(), &mut out).expect("writing to memory succeeds");
        }
    }
});
