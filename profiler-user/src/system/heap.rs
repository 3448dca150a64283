//! Memory of this process that is free, given back to the host: for agents that run for months.
//!
//! The C library keeps what was freed for the next request, in a pool per thread. After a large file of symbols that is megabytes that nobody
//! uses until the next such file.

/// Pools of memory at most: that of the thread that drains, and one for all others.
#[cfg(target_env = "gnu")]
const MOST_ARENAS: libc::c_int = 2;

/// Keeps threads from having a pool each. To be called before they start.
pub(crate) fn share_pools() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only numbers are passed; no other thread is started yet that could allocate meanwhile, and it would do no harm.
    unsafe {
        // M_ARENA_MAX, malloc.h of glibc. Refused means as before.
        libc::mallopt(libc::M_ARENA_MAX, MOST_ARENAS);
    }
}

/// Gives free memory back.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number and locks each pool while it looks through it.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_stays() {
        share_pools();
        let held: Vec<Vec<u8>> = (0..1000).map(|number| vec![number as u8; 1000]).collect();
        give_back();
        assert!(
            held.iter().enumerate().all(|(number, bytes)| bytes.iter().all(|byte| *byte == number as u8))
        );
    }
}
