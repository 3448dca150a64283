//! How the C library's allocator keeps the agent's own memory: as little of it as is in use, also after months.
//!
//! It keeps what was freed for the next request, in a heap for each thread. After a large file of symbols that is megabytes that nobody
//! uses until the next such file.

/// Size from which on a block is memory of its own, which goes back to the kernel when it is freed: as much as glibc begins with.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: libc::c_int = 128 << 10;
/// Free memory at the end of a heap from which on it goes back.
#[cfg(target_env = "gnu")]
const SPARE_BYTES: libc::c_int = 1 << 20;
/// Heaps at most: that of the thread that drains, and one for all others.
#[cfg(target_env = "gnu")]
const MOST_HEAPS: libc::c_int = 2;

/// Keeps large blocks out of the heaps, and threads from having a heap each. To be called before they start.
pub(crate) fn keep_small() {
    // Naming a size also keeps glibc from raising it to that of the first large block that is freed (mallopt(3), M_MMAP_THRESHOLD).
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_MMAP_THRESHOLD, LARGE_BYTES),
        (libc::M_TRIM_THRESHOLD, SPARE_BYTES),
        (libc::M_ARENA_MAX, MOST_HEAPS),
    ] {
        // SAFETY: only numbers are passed; no other thread is started yet that could allocate meanwhile, and it would do no harm.
        let _as_before_if_refused = unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives free memory back.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number and locks each heap while it looks through it.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_stays() {
        keep_small();
        let held: Vec<Vec<u8>> = (0..1000).map(|number| vec![number as u8; 1000]).collect();
        give_back();
        assert!(
            held.iter().enumerate().all(|(number, bytes)| bytes.iter().all(|byte| *byte == number as u8))
        );
    }
}
