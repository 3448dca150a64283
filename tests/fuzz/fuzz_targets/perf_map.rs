//! A perf map from a hostile target.

#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_user::symbolize::{Names, jit};

fuzz_target!(|bytes: &[u8]| {
    let addresses = [0, 1, 0x10, 0x1000, 0x7fff_ffff_ffff, u64::MAX];
    let result = jit::symbolize(bytes, &addresses, &mut Names::default());
    assert_eq!(result.names.len(), addresses.len());
});
