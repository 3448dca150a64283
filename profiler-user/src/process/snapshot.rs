//! What `/proc` says of a process that was there before the recording.

use std::fs;
use std::path::Path;

use procfs::ProcResult;
use procfs::process::{MMPermissions, MMapPath, Process};

/// A process as `/proc` shows it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Process ID.
    pub pid: u32,
    /// Name of the main thread, as bytes.
    pub comm: Vec<u8>,
    /// Executable mappings: start, end, file offset, inode, path.
    pub mappings: Vec<SnapshotMapping>,
}

/// One executable mapping of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotMapping {
    /// First address.
    pub start: u64,
    /// End, exclusive.
    pub end: u64,
    /// Offset of `start` in the file.
    pub file_offset: u64,
    /// Inode number, zero for anonymous memory.
    pub inode: u64,
    /// Path as bytes; empty for anonymous memory.
    pub path: Vec<u8>,
}

impl Snapshot {
    /// Reads a process; none when it is gone or hidden. Kernel threads have no mappings.
    pub fn read(pid: u32) -> Option<Self> {
        let comm = fs::read(format!("/proc/{pid}/comm")).ok()?;
        let comm = comm.strip_suffix(b"\n").unwrap_or(&comm).to_vec();
        let mappings = read_mappings(pid).unwrap_or_default();
        Some(Self { pid, comm, mappings })
    }
}

fn read_mappings(pid: u32) -> ProcResult<Vec<SnapshotMapping>> {
    let maps = Process::new(pid as i32)?.maps()?;
    let executable = maps.into_iter().filter(|map| map.perms.contains(MMPermissions::EXECUTE));
    Ok(executable
        .map(|map| SnapshotMapping {
            start: map.address.0,
            end: map.address.1,
            file_offset: map.offset,
            inode: map.inode,
            path: path_bytes(&map.pathname),
        })
        .collect())
}

fn path_bytes(path: &MMapPath) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    match path {
        MMapPath::Path(path) => unescape(path.as_os_str().as_bytes()),
        MMapPath::Vdso => b"[vdso]".to_vec(),
        MMapPath::Other(name) => format!("[{name}]").into_bytes(),
        _ => Vec::new(),
    }
}

/// `/proc/<pid>/maps` writes a newline in a path as `\012` (fs/proc/task_mmu.c, `seq_path(m, path, "\n")`).
fn unescape(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((byte, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"\\012") {
            out.push(b'\n');
            rest = after;
        } else {
            out.push(*byte);
            rest = after;
        }
    }
    out
}

/// The entries of a `/proc` directory that are numbers: processes, or threads of one.
pub fn numeric_entries(directory: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_snapshot_has_this_function_in_a_mapping() {
        let snapshot = Snapshot::read(std::process::id()).unwrap();
        let here = our_own_snapshot_has_this_function_in_a_mapping as *const () as u64;
        let holder = snapshot.mappings.iter().find(|map| (map.start..map.end).contains(&here)).unwrap();
        let exe = fs::read_link("/proc/self/exe").unwrap();
        assert_eq!(holder.path, exe.to_str().unwrap().as_bytes());
        assert!(snapshot.mappings.iter().any(|map| map.path == b"[vdso]"));
    }

    #[test]
    fn a_newline_in_a_path_comes_back() {
        assert_eq!(unescape(b"/a\\012b"), b"/a\nb");
    }
}
