//! Any bytes as the content of a store's record, behind its checksum: refused, or a profile that can be written in every format.
#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_user::output::{FORMATS, OutputOptions};
use profiler_user::store::profile_of_content;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(profile) = profile_of_content(bytes) {
        for format in FORMATS {
            let mut out = Vec::new();
            (format.write)(&profile, &OutputOptions::default(), &mut out)
                .expect("writing to memory succeeds");
        }
    }
});
