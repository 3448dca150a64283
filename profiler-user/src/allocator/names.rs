//! The functions at an allocator's border, by name.

use profiler_common::heap::{
    CALL_ALLOCATE, CALL_ARRAY, CALL_FREE, CALL_RESIZE, CALL_RESIZE_ARRAY, CALL_STORE,
};

/// What a function does, and which of its arguments say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// One of the `CALL_` numbers of [`profiler_common::heap`].
    pub kind: u64,
    /// Indexes of the arguments that the kind has, in its order; those behind the last are repeated.
    pub arguments: [u8; 3],
    /// It usually reaches other functions of the border, whose calls are part of its own.
    pub encloses: bool,
    /// An operator of C++.
    pub operator: bool,
}

impl Call {
    const fn new(kind: u64, arguments: [u8; 3], encloses: bool) -> Self {
        Self { kind, arguments, encloses, operator: false }
    }
}

const ALLOCATE: Call = Call::new(CALL_ALLOCATE, [0, 0, 0], false);
const SECOND: Call = Call::new(CALL_ALLOCATE, [1, 1, 1], true);
const AROUND: Call = Call::new(CALL_ALLOCATE, [0, 0, 0], true);
const ARRAY: Call = Call::new(CALL_ARRAY, [0, 1, 1], false);
const RESIZE: Call = Call::new(CALL_RESIZE, [0, 1, 1], true);
const RESIZE_ARRAY: Call = Call::new(CALL_RESIZE_ARRAY, [0, 1, 2], true);
const STORE: Call = Call::new(CALL_STORE, [0, 2, 2], true);
const FREE: Call = Call::new(CALL_FREE, [0, 0, 0], false);

/// The border of C (C23, 7.24.3), of POSIX, and what allocators add to it.
const FUNCTIONS: [(&str, Call); 21] = [
    ("malloc", ALLOCATE),
    ("calloc", ARRAY),
    ("realloc", RESIZE),
    ("reallocarray", RESIZE_ARRAY),
    ("memalign", SECOND),
    ("aligned_alloc", SECOND),
    ("posix_memalign", STORE),
    ("valloc", AROUND),
    ("pvalloc", AROUND),
    ("free", FREE),
    ("cfree", FREE),
    ("free_sized", FREE),
    ("free_aligned_sized", FREE),
    // jemalloc
    ("mallocx", AROUND),
    ("rallocx", RESIZE),
    ("dallocx", FREE),
    ("sdallocx", FREE),
    // mimalloc
    ("zalloc", AROUND),
    ("malloc_aligned", AROUND),
    ("zalloc_aligned", AROUND),
    ("realloc_aligned", RESIZE),
];

/// What allocators put before these names when they leave the usual ones to others.
const PREFIXES: [&str; 6] = ["", "je_", "_rjem_", "_rjem_je_", "tc_", "mi_"];

/// Beginnings of `operator new` and `operator new[]`, and of `operator delete` and `operator delete[]` (Itanium C++ ABI, 5.1.3).
const NEW: [&str; 2] = ["_Znwm", "_Znam"];
const DELETE: [&str; 2] = ["_ZdlPv", "_ZdaPv"];

/// What a function of this name does, if it is one of the border.
pub(super) fn call_of(name: &str) -> Option<Call> {
    if NEW.iter().any(|start| name.starts_with(start)) && !name.contains('.') {
        return Some(Call { operator: true, ..ALLOCATE });
    }
    if DELETE.iter().any(|start| name.starts_with(start)) && !name.contains('.') {
        return Some(Call { operator: true, ..FREE });
    }
    let base =
        PREFIXES.iter().rev().find_map(|prefix| name.strip_prefix(prefix).filter(|base| is_base(base)))?;
    let found = FUNCTIONS.iter().find(|(function, _)| *function == base);
    // `zalloc` without a prefix is somebody else's, zlib's for one.
    found.filter(|(function, _)| name != *function || !function.contains("zalloc")).map(|(_, call)| *call)
}

fn is_base(name: &str) -> bool {
    FUNCTIONS.iter().any(|(function, _)| *function == name)
}

/// How many of a stack's frames, leaf first, are the allocator's own, for tables that show who called it. Of Go's it is all of the runtime, as in Go's
/// own heap profiles, unless there is nothing else.
pub fn inner_frames<'n>(names: impl Iterator<Item = &'n str> + Clone) -> usize {
    let runtime = |name: &&str| name.starts_with("runtime.");
    let is_go = |name: &str| name.starts_with("runtime.profilealloc") || name.starts_with("runtime.mallocgc");
    if !names.clone().next().is_some_and(is_go) {
        return names.take_while(|name| is_entry(name)).count();
    }
    if names.clone().all(|name| runtime(&name)) {
        return names.take_while(|name| is_go(name)).count();
    }
    names.take_while(runtime).count()
}

/// Whether a frame of this name belongs to an allocator's border.
fn is_entry(name: &str) -> bool {
    let name = name.strip_prefix("__libc_").or_else(|| name.strip_prefix("__GI___libc_")).unwrap_or(name);
    call_of(name).is_some() || name.starts_with("operator new") || name.starts_with("operator delete")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_border_is_known_with_and_without_prefixes() {
        for name in ["malloc", "je_malloc", "_rjem_malloc", "tc_malloc", "mi_malloc"] {
            assert_eq!(call_of(name), Some(ALLOCATE), "{name}");
        }
        assert_eq!(call_of("mi_zalloc_aligned"), Some(AROUND));
        assert_eq!(call_of("posix_memalign"), Some(STORE));
        assert!(
            call_of("_ZnwmRKSt9nothrow_t").is_some_and(|call| call.operator && call.kind == CALL_ALLOCATE)
        );
        assert!(call_of("_ZdaPvmSt11align_val_t").is_some_and(|call| call.kind == CALL_FREE));
        for name in ["zalloc", "xmalloc", "mallo", "", "je_", "free_all", "_Znwm.cold"] {
            assert_eq!(call_of(name), None, "{name}");
        }
        let inner = |names: &[&str]| inner_frames(names.iter().copied());
        assert_eq!(inner(&["__libc_malloc", "operator new(unsigned long)", "main"]), 2);
        let go = ["runtime.profilealloc", "runtime.mallocgc", "runtime.makeslice", "main.f", "runtime.main"];
        assert_eq!((inner(&go), inner(&go[..3]), inner(&go[3..])), (3, 2, 0));
        assert!(is_entry("__libc_malloc") && is_entry("operator new(unsigned long)") && !is_entry("main"));
    }
}
