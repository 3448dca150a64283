//! Any bytes as folded stacks: read or refused, and the counts survive writing and reading again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_user::import::{FormatError, read_folded};
use profiler_user::output::{Format, OutputOptions};

fuzz_target!(|bytes: &[u8]| {
    let Ok(profile) = read_folded(bytes) else { return };
    let mut out = Vec::new();
    let folded = Format::from_name("folded").expect("a known format");
    (folded.write)(&profile, &OutputOptions::default(), &mut out).expect("writing to memory succeeds");
    match read_folded(&out) {
        Ok(again) => assert_eq!(again.total(0), profile.total(0)),
        Err(error) => assert_eq!((error, profile.total(0)), (FormatError::Empty, 0)),
    }
});
