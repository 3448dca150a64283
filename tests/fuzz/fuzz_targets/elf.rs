//! An object file from a hostile target: headers, symbol tables, debug information, stubs.
//!
//! In: the bytes of an ELF file. Nothing may panic, and no input may take more time or memory than the limits allow.

#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_user::symbolize::Names;
use profiler_user::symbolize::native::{Content, ObjectSource, Options, symbolize};

fuzz_target!(|bytes: &[u8]| {
    let step = (bytes.len() / 64).max(1);
    let offsets: Vec<u64> = (0..bytes.len() as u64).step_by(step).collect();
    let source = ObjectSource { path: "/fuzz", content: Content::Bytes(bytes), roots: &[], build_id: None };
    let result = symbolize(&source, &offsets, &Options::default(), &mut Names::default());
    assert_eq!(result.addresses.len(), offsets.len());
    assert!(result.addresses.iter().all(|address| !address.frames.is_empty()));
});
