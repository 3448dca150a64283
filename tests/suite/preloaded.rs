//! Allocators other than the C library's. They need packages and a compiler, so they run on this machine only.

use std::process::Command;

use tests::run;

use crate::alloc::{SITES, assert_exact, record_sites};
use crate::recording::path_of;

/// Every allocator of the distribution, in the place of the C library's.
#[test]
fn other_libraries_are_exact_too() {
    for (library, name) in [
        ("libjemalloc.so.2", "jemalloc"),
        ("libtcmalloc_minimal.so.4", "tcmalloc"),
        ("libmimalloc.so.2.0", "mimalloc"),
    ] {
        let path = format!("/usr/lib/{}-linux-gnu/{library}", std::env::consts::ARCH);
        assert!(
            std::path::Path::new(&path).exists(),
            "{path} is missing; run the tests with: cargo xtask test"
        );
        let (recorded, truth) =
            record_sites(&["env", &format!("LD_PRELOAD={path}")], &path_of("alloc_sites"));
        assert_exact(&recorded, &truth, &SITES);
        let allocators = recorded.json["totals"]["allocators"].to_string();
        assert!(allocators.contains(name), "{allocators}");
    }
}

#[test]
fn a_static_program_of_musl_is_exact() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("alloc_musl");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/workloads/alloc_sites.c");
    let built =
        run(Command::new("musl-gcc").args(["-static", "-g", "-O2", "-o"]).arg(&program).arg(source)).unwrap();
    assert_eq!(built.code, 0, "{}", built.stderr);
    let (recorded, truth) = record_sites(&[], program.to_str().unwrap());
    // musl itself has no unwind tables, so what it allocates for others has no caller.
    assert_exact(&recorded, &truth, &SITES[..SITES.len() - 1]);
    assert!(recorded.json["totals"]["allocators"].to_string().contains("musl"));
}
