//! One side-band record → one process event.
//!
//! Layouts: `enum perf_event_type` in include/uapi/linux/perf_event.h. The paths and names in them belong to the target.

use aya_obj::generated::perf_event_type as record;

use super::decode::Fields;
use crate::bpf::SIDE_BAND_TRAILER_BYTES;

/// Something that happened to a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessEvent {
    /// When, nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// Process ID in the agent's PID namespace.
    pub pid: u32,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// The process came to be, as a copy of its parent.
    Fork {
        /// Process ID of the parent.
        parent: u32,
    },
    /// The process got another thread.
    Thread,
    /// The process started another program; its mappings are gone.
    Exec {
        /// Its new name.
        comm: Vec<u8>,
    },
    /// The process's main thread got another name.
    Rename {
        /// The name.
        comm: Vec<u8>,
    },
    /// Code was mapped into it.
    Map(MapEvent),
    /// Its main thread ended.
    Exit,
    /// The kernel dropped side-band records because the ring was full.
    Lost {
        /// How many.
        records: u64,
    },
}

/// An executable mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapEvent {
    /// First address.
    pub start: u64,
    /// End, exclusive.
    pub end: u64,
    /// Offset of `start` in the file.
    pub file_offset: u64,
    /// Inode number of the file, zero for anonymous memory.
    pub inode: u64,
    /// Path as the process sees it, `//anon`, `[vdso]`, …
    pub path: Vec<u8>,
}

/// Decodes one side-band record; `None` for kinds that say nothing about processes, and for malformed ones.
///
/// `body` is the record behind its 8-byte header.
pub fn decode_event(kind: u32, misc: u16, body: &[u8]) -> Option<ProcessEvent> {
    let (fields, trailer) = body.split_at_checked(body.len().checked_sub(SIDE_BAND_TRAILER_BYTES)?)?;
    let mut trailer = Fields(trailer);
    let _pid_tid = trailer.u64();
    let time_ns = trailer.u64();
    let mut fields = Fields(fields);
    if kind == record::PERF_RECORD_LOST as u32 {
        let _id = fields.u64();
        return Some(ProcessEvent { time_ns, pid: 0, kind: EventKind::Lost { records: fields.u64() } });
    }
    let pid = fields.u32();
    if pid == 0 || pid == u32::MAX {
        // The kernel's way of naming a task that has no number in the reader's PID namespace.
        return None;
    }
    let kind = if kind == record::PERF_RECORD_FORK as u32 {
        let (parent, _tid) = (fields.u32(), fields.u32());
        if parent == pid { EventKind::Thread } else { EventKind::Fork { parent } }
    } else if kind == record::PERF_RECORD_EXIT as u32 {
        let (_parent, tid) = (fields.u32(), fields.u32());
        if tid != pid {
            return None;
        }
        EventKind::Exit
    } else if kind == record::PERF_RECORD_COMM as u32 {
        let tid = fields.u32();
        let comm = until_nul(fields.0);
        if misc & MISC_COMM_EXEC != 0 {
            EventKind::Exec { comm }
        } else if tid == pid {
            EventKind::Rename { comm }
        } else {
            return None;
        }
    } else if kind == record::PERF_RECORD_MMAP2 as u32 {
        let _tid = fields.u32();
        let (start, length, file_offset) = (fields.u64(), fields.u64(), fields.u64());
        let _major_minor = fields.u64();
        let (inode, _generation) = (fields.u64(), fields.u64());
        let _protection_flags = fields.u64();
        let end = start.checked_add(length)?;
        EventKind::Map(MapEvent { start, end, file_offset, inode, path: until_nul(fields.0) })
    } else {
        return None;
    };
    Some(ProcessEvent { time_ns, pid, kind })
}

/// `PERF_RECORD_MISC_COMM_EXEC`.
const MISC_COMM_EXEC: u16 = 1 << 13;

fn until_nul(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(parts: &[&[u8]]) -> Vec<u8> {
        let mut bytes = parts.concat();
        bytes.extend(0u64.to_ne_bytes());
        bytes.extend(555u64.to_ne_bytes());
        bytes.extend(0u64.to_ne_bytes());
        bytes
    }

    fn ints(values: &[u32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_ne_bytes()).collect()
    }

    #[test]
    fn forks_of_threads_are_not_processes() {
        let fork = record::PERF_RECORD_FORK as u32;
        let process = decode_event(fork, 0, &body(&[&ints(&[7, 3, 7, 3, 0, 0])]));
        assert_eq!(process, Some(ProcessEvent { time_ns: 555, pid: 7, kind: EventKind::Fork { parent: 3 } }));
        let thread = decode_event(fork, 0, &body(&[&ints(&[7, 7, 8, 7, 0, 0])]));
        assert_eq!(thread, Some(ProcessEvent { time_ns: 555, pid: 7, kind: EventKind::Thread }));
    }

    #[test]
    fn an_exec_is_told_from_a_rename() {
        let comm = record::PERF_RECORD_COMM as u32;
        let bytes = body(&[&ints(&[7, 7]), b"cc1\0\0\0\0\0"]);
        assert_eq!(
            decode_event(comm, MISC_COMM_EXEC, &bytes).map(|event| event.kind),
            Some(EventKind::Exec { comm: b"cc1".to_vec() })
        );
        assert_eq!(
            decode_event(comm, 0, &bytes).map(|event| event.kind),
            Some(EventKind::Rename { comm: b"cc1".to_vec() })
        );
    }

    #[test]
    fn mappings_keep_their_inode_and_path() {
        let words = |values: &[u64]| values.iter().flat_map(|value| value.to_ne_bytes()).collect::<Vec<u8>>();
        let bytes =
            body(&[&ints(&[7, 8]), &words(&[0x1000, 0x2000, 0x400, 0, 99, 1, 0]), b"/lib/a\nb.so\0\0\0\0\0"]);
        let expected = MapEvent {
            start: 0x1000,
            end: 0x3000,
            file_offset: 0x400,
            inode: 99,
            path: b"/lib/a\nb.so".to_vec(),
        };
        assert_eq!(
            decode_event(record::PERF_RECORD_MMAP2 as u32, 0, &bytes).map(|event| event.kind),
            Some(EventKind::Map(expected))
        );
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_event_or_nothing(kind in 0u32..24, misc in proptest::num::u16::ANY, bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = decode_event(kind, misc, &bytes);
        }
    }
}
