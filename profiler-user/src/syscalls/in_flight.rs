//! Calls that are going on, as `/proc/PID/task/TID/syscall` shows them: those that began before anybody measured.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use profiler_common::syscall::{ABI_COMPAT, ABI_NATIVE};

use crate::process::numeric_entries;

/// Threads looked at. Each costs about ten microseconds.
const MAX_THREADS: usize = 20_000;

/// A thread inside a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) pid: u32,
    pub(super) tid: u32,
    pub(super) number: u32,
    pub(super) abi: u16,
}

/// The calls that the threads of these processes are in. Threads that run are in none that could be told.
pub(super) fn waiting(pids: &[u32]) -> Vec<Waiting> {
    let mut found = Vec::new();
    let mut looked_at = 0;
    let mut abis: HashMap<u32, u16> = HashMap::new();
    for pid in pids {
        for tid in numeric_entries(&PathBuf::from(format!("/proc/{pid}/task"))) {
            looked_at += 1;
            if looked_at > MAX_THREADS {
                return found;
            }
            if let Some(number) = current_call(*pid, tid) {
                let abi = *abis.entry(*pid).or_insert_with(|| abi_of(*pid));
                found.push(Waiting { pid: *pid, tid, number, abi });
            }
        }
    }
    found
}

/// The call that a thread waits in; none when it runs, or waits outside of calls (`-1`, as in a page fault).
pub(super) fn current_call(pid: u32, tid: u32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).ok()?;
    let mut words = text.split_whitespace();
    let number: i64 = words.next()?.parse().ok()?;
    // A kernel thread shows call 0 at address 0.
    let in_user_code = words.next_back().is_some_and(|address| address != "0x0");
    u32::try_from(number).ok().filter(|_| in_user_code)
}

/// Which table a process's calls go through, from the class of its executable (`EI_CLASS`, elf(5)).
fn abi_of(pid: u32) -> u16 {
    let mut header = [0; 5];
    let read = File::open(format!("/proc/{pid}/exe")).and_then(|mut file| file.read_exact(&mut header));
    if read.is_ok() && header == *b"\x7fELF\x01" { ABI_COMPAT } else { ABI_NATIVE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleeping_thread_is_in_its_call() {
        let (send, receive) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            // SAFETY: no preconditions.
            send.send(unsafe { libc::gettid() } as u32).unwrap();
            let _closed = ended.recv();
        });
        let tid = receive.recv().unwrap();
        let pid = std::process::id();
        let found = (0..500).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            waiting(&[pid]).into_iter().find(|call| call.tid == tid)
        });
        assert_eq!(found.map(|call| i64::from(call.number)), Some(libc::SYS_futex));
        drop(end);
        thread.join().unwrap();
    }
}
