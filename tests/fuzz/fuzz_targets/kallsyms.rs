//! The kernel's symbol list. It is not hostile, but its form has changed between kernels.

#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_user::symbolize::Names;
use profiler_user::symbolize::kernel::KernelSymbols;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(symbols) = KernelSymbols::from_reader(bytes) {
        let mut names = Names::default();
        for address in [0, 1, 0xffff_ffff_8100_0000, 0xffff_ffff_c000_0010, u64::MAX] {
            assert!(!symbols.frame(address, &mut names).0.function.is_empty());
        }
    }
});
