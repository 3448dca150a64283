//! A turn on the CPU at once, for the few moments in which being late costs somebody else.

use std::marker::PhantomData;

/// While it lives, this thread goes before all ordinary ones (`SCHED_FIFO`, sched(7)): whoever took probes into a busy program has to take them
/// out in time. Where the kernel does not allow it, nothing changes.
#[derive(Debug)]
pub struct Urgent {
    raised: bool,
    /// It is this thread's.
    _thread: PhantomData<*const ()>,
}

impl Urgent {
    /// Begins, with the lowest of those priorities. Threads that are made meanwhile inherit it.
    pub fn begin() -> Self {
        Self { raised: set(libc::SCHED_FIFO, 1), _thread: PhantomData }
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        if self.raised {
            let _cannot_fail = set(libc::SCHED_OTHER, 0);
        }
    }
}

fn set(policy: i32, priority: i32) -> bool {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: the kernel reads the structure, which lives for the call; zero is the calling thread.
    unsafe { libc::sched_setscheduler(0, policy, &raw const param) == 0 }
}

#[cfg(test)]
mod tests {
    use super::Urgent;

    fn policy() -> i32 {
        // SAFETY: no memory is passed; zero is the calling thread.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    fn a_thread_is_ordinary_again_afterwards() {
        let before = policy();
        let urgent = Urgent::begin();
        assert!(!urgent.raised || policy() == libc::SCHED_FIFO);
        drop(urgent);
        assert_eq!(policy(), before);
    }
}
