//! A symbol name from a hostile target.

#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_user::symbolize::demangle;

fuzz_target!(|bytes: &[u8]| {
    assert!(demangle(bytes).len() <= bytes.len().max(16 << 10));
});
