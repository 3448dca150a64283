//! Threads that wait when a recording begins: the programs never saw them leave their CPU, so they are entered from `/proc`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use profiler_common::limits::STACK_PAGE_BYTES;
use profiler_common::off_cpu::{
    STACK_NONE, STATE_SLEEPING, STATE_STOPPED, STATE_UNINTERRUPTIBLE, Thread, mix, stack_number,
};
use profiler_common::sample::COMM_LEN;
use profiler_common::stop::StopReason;
use profiler_common::unwind::Registers;

use crate::bpf::Waits;
use crate::ingest::{Cold, RawSample};
use crate::process::numeric_entries;

/// Bytes of stack that are read of a waiting thread. Most stacks are smaller; a walk reads the rest from the process.
const STACK_BYTES: usize = 3 * STACK_PAGE_BYTES;

/// A thread that waited already.
#[derive(Debug)]
pub(super) struct Seed {
    /// Number that stands for its stack.
    pub(super) number: u64,
    /// Thread ID.
    pub(super) tid: u32,
    /// Name of the thread.
    pub(super) comm: Vec<u8>,
    /// The system call that it is in, where the kernel says.
    pub(super) call: Option<Call>,
    pid: u32,
    switches: u64,
}

/// Where a thread entered the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    /// Number of the system call and its first argument.
    pub(super) syscall: (u32, u64),
    sp: u64,
    ip: u64,
}

impl Seed {
    /// The thread's stack as the programs would have taken it, without the kernel's frames: a sample whose walk begins in user space.
    /// None when the thread has run since, or never was in user mode.
    ///
    /// Of the registers only two are known, so a caller that is found through another one ends the walk, with its reason.
    pub(super) fn sample(&self, time_ns: u64) -> Option<RawSample> {
        let call = self.call?;
        let memory = File::open(format!("/proc/{}/mem", self.pid)).ok()?;
        let stack_base = call.sp & !(STACK_PAGE_BYTES as u64 - 1);
        let mut stack = vec![0; STACK_BYTES];
        let read = memory.read_at(&mut stack, stack_base).ok()?;
        stack.truncate(read);
        // What was read belongs to the wait only if the wait still lasts.
        if look(self.pid, self.tid)?.switches != self.switches {
            return None;
        }
        let mut comm = [0; COMM_LEN];
        for (to, from) in comm.iter_mut().zip(self.comm.iter().take(COMM_LEN - 1)) {
            *to = *from;
        }
        Some(RawSample {
            time_ns,
            weight: 0,
            cgroup_id: 0,
            cpu: 0,
            pid: self.pid,
            tid: self.tid,
            comm,
            user: vec![call.ip],
            kernel: Vec::new(),
            stop: StopReason::TableMissing,
            in_user_mode: false,
            cold: Some(Box::new(Cold {
                registers: Registers::interrupted(call.ip, call.sp, 0, 0),
                stack_base,
                stack,
            })),
            number: self.number,
            syscall: Some(call.syscall),
            memory: None,
        })
    }
}

/// What `/proc` says of a thread at one moment.
struct Look {
    comm: Vec<u8>,
    state: Option<u32>,
    /// Context switches so far, of both kinds.
    switches: u64,
}

/// Enters the waiting threads of these processes (or, of a process's threads, those that `wanted` names); returns those that are in.
///
/// A thread may run between the look at it and its entry. So a second look follows: if it has switched in between, the entry goes again,
/// unless the programs have already made it theirs.
pub(super) fn enter(
    waits: &mut Waits,
    processes: impl IntoIterator<Item = u32>,
    wanted: impl Fn(u32) -> bool,
    now_ns: u64,
) -> Vec<Seed> {
    let mut seeds = Vec::new();
    for pid in processes {
        for tid in numeric_entries(std::path::Path::new(&format!("/proc/{pid}/task"))) {
            if !wanted(tid) {
                continue;
            }
            let Some(look) = look(pid, tid) else { continue };
            let Some(state) = look.state else { continue };
            let number = stack_number(mix(mix(now_ns, u64::from(tid)), u64::from(pid)));
            let thread = Thread {
                since_ns: now_ns,
                stack: number,
                waker: STACK_NONE,
                pid,
                tid,
                state,
                switches: look.switches as u32,
                ..Thread::default()
            };
            if !waits.enter(tid, thread) {
                continue;
            }
            let again = self::look(pid, tid);
            if again.is_none_or(|again| again.switches != look.switches) {
                waits.take_back(tid, now_ns);
            }
            let call = fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall"));
            let call = call.ok().as_deref().and_then(call_of);
            seeds.push(Seed { number, tid, comm: look.comm, call, pid, switches: look.switches });
        }
    }
    seeds
}

fn look(pid: u32, tid: u32) -> Option<Look> {
    let status = fs::read(format!("/proc/{pid}/task/{tid}/status")).ok()?;
    let field = |name: &str| {
        let mut lines = status.split(|byte| *byte == b'\n');
        lines.find_map(|line| line.strip_prefix(name.as_bytes())).map(<[u8]>::trim_ascii)
    };
    let number = |name| std::str::from_utf8(field(name)?).ok()?.parse::<u64>().ok();
    Some(Look {
        // The kernel escapes newlines and backslashes here; a name with them is rare, and shown as it stands.
        comm: field("Name:")?.to_vec(),
        state: match field("State:")?.first()? {
            b'S' | b'I' => Some(STATE_SLEEPING),
            b'D' => Some(STATE_UNINTERRUPTIBLE),
            b'T' | b't' => Some(STATE_STOPPED),
            _ => None,
        },
        switches: number("voluntary_ctxt_switches:")?.wrapping_add(number("nonvoluntary_ctxt_switches:")?),
    })
}

/// How often a thread that waits has left its CPU; none of one that runs.
pub(super) fn switches_of(pid: u32, tid: u32) -> Option<u64> {
    look(pid, tid).filter(|look| look.state.is_some()).map(|look| look.switches)
}

/// Reads `/proc/PID/syscall`: number, six arguments, stack pointer and instruction pointer; `running`, or -1 outside of any call (proc(5)).
fn call_of(text: &str) -> Option<Call> {
    let mut words = text.split_whitespace();
    let number = words.next()?.parse().ok()?;
    let mut next = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
    let arguments = [next()?, next()?, next()?, next()?, next()?, next()?];
    Some(Call { syscall: (number, arguments[0]), sp: next()?, ip: next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_at_ourselves() {
        // SAFETY: no preconditions.
        let tid = unsafe { libc::gettid() } as u32;
        let look = look(std::process::id(), tid).unwrap();
        assert_eq!(look.state, None, "we run");
        assert!(!look.comm.is_empty());
    }

    #[test]
    fn calls_are_read_where_there_is_one() {
        let call = call_of("0 0x3 0x7f 0x1 0x0 0x0 0x0 0x7ffc10 0x7f0020\n").unwrap();
        assert_eq!((call.syscall, call.sp, call.ip), ((0, 3), 0x7f_fc10, 0x7f_0020));
        for nothing in ["running\n", "-1 0x7ffc 0x7f00\n", "", "0 0x3\n", "0 3 4 5 6 7 8 9 10"] {
            assert_eq!(call_of(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn a_thread_that_waits_has_a_stack() {
        let (send, receive) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || {
            // SAFETY: no preconditions.
            tell.send(unsafe { libc::gettid() } as u32).unwrap();
            receive.recv()
        });
        let (pid, tid) = (std::process::id(), told.recv().unwrap());
        let seed = loop {
            let look = look(pid, tid).unwrap();
            let text = fs::read_to_string(format!("/proc/self/task/{tid}/syscall")).unwrap();
            if let (Some(_), Some(call)) = (look.state, call_of(&text)) {
                break Seed {
                    number: 99,
                    tid,
                    comm: look.comm,
                    call: Some(call),
                    pid,
                    switches: look.switches,
                };
            }
            std::thread::yield_now();
        };
        let sample = seed.sample(1).unwrap();
        let cold = sample.cold.unwrap();
        assert!(cold.stack_base <= cold.registers.sp && !cold.stack.is_empty());
        assert_eq!(sample.syscall.unwrap().0, libc::SYS_futex as u32);
        let ran = Seed { switches: seed.switches + 1, ..seed };
        assert!(ran.sample(1).is_none());
        drop(send);
        let _disconnected = waiter.join().unwrap();
    }
}
