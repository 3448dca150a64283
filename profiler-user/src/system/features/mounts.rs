//! Which file systems are mounted where, as far as profiling cares: trace file system, control groups, `/proc`.

use std::path::{Path, PathBuf};

use super::super::read;

/// Most of `/proc/self/mounts` that is read. Hosts with thousands of containers have a few hundred KiB.
const MOUNT_TABLE_BYTES: u64 = 8 << 20;

/// Where the trace file system is looked for: its own place, and the older one inside debugfs.
pub const TRACEFS_PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// File system type.
    pub kind: String,
    /// Options, comma separated.
    pub options: String,
}

/// The mount table of this process.
#[derive(Debug, Clone, Default)]
pub struct Mounts(pub Vec<Mount>);

impl Mounts {
    /// Parses the format of `/proc/self/mounts` (fstab(5)); lines that do not have it are skipped.
    pub fn parse(table: &[u8]) -> Self {
        use std::os::unix::ffi::OsStringExt;
        let words = |line: &[u8]| -> Option<Mount> {
            let mut words = line.split(|byte| *byte == b' ').skip(1);
            let point = PathBuf::from(std::ffi::OsString::from_vec(unescape(words.next()?)));
            let mut text = || words.next().map(|word| String::from_utf8_lossy(word).into_owned());
            Some(Mount { point, kind: text()?, options: text()? })
        };
        Self(table.split(|byte| *byte == b'\n').filter_map(words).collect())
    }

    /// The table as it is now; empty when it cannot be read.
    pub fn gather() -> Self {
        let table = read::bounded(Path::new("/proc/self/mounts"), MOUNT_TABLE_BYTES);
        table.map_or_else(|_| Self::default(), |table| Self::parse(&table))
    }

    /// Mounts of one file system type.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Mount> {
        self.0.iter().filter(move |mount| mount.kind == kind)
    }

    /// Where control groups of version 2 are. One that lies below another mount is in the table, but nobody gets there.
    pub fn unified(&self) -> Option<PathBuf> {
        let mut points = self.of_kind("cgroup2").map(|mount| &mount.point);
        points.find(|point| point.join("cgroup.procs").exists()).cloned()
    }

    /// `/proc` hides other users' processes from this user (`hidepid`, proc(5)).
    pub fn proc_hides_processes(&self) -> bool {
        let hides =
            |option: &str| option.strip_prefix("hidepid=").is_some_and(|how| how != "0" && how != "off");
        self.of_kind("proc")
            .any(|mount| mount.point == Path::new("/proc") && mount.options.split(',').any(hides))
    }
}

/// White space and backslashes in mount points are written as `\040`.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, tail)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let value = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        let (byte, tail) = match value {
            Some(byte) => (byte, tail.get(3..).unwrap_or_default()),
            None => (*first, tail),
        };
        out.push(byte);
        rest = tail;
    }
    out
}

/// Where the trace file system is; tracepoint numbers and formats are read from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tracefs {
    /// Mounted there, and this process may list it.
    At(PathBuf),
    /// Mounted there, but closed to this user.
    Unreadable(PathBuf),
    /// The kernel has it; nobody mounted it.
    NotMounted,
    /// The kernel was built without tracing.
    Absent,
}

impl Tracefs {
    /// Looks in both places. The mount table is not asked: debugfs mounts tracefs inside itself on first access.
    pub fn gather() -> Self {
        for place in TRACEFS_PLACES {
            match std::fs::metadata(Path::new(place).join("events")) {
                Ok(_) => return Self::At(PathBuf::from(place)),
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    return Self::Unreadable(PathBuf::from(place));
                }
                Err(_) => {}
            }
        }
        // The kernel creates the mount point exactly when it has the file system.
        if Path::new(TRACEFS_PLACES[0]).is_dir() { Self::NotMounted } else { Self::Absent }
    }
}

/// How control groups are mounted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cgroups {
    /// Mount point of the unified hierarchy (version 2): what cgroup ids of samples refer to.
    pub v2: Option<PathBuf>,
    /// Version 1 hierarchies are mounted as well.
    pub v1: bool,
}

impl Cgroups {
    /// Finds the hierarchies in a mount table.
    pub fn from_mounts(mounts: &Mounts) -> Self {
        Self { v2: mounts.unified(), v1: mounts.of_kind("cgroup").next().is_some() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"proc /proc proc rw,relatime,hidepid=invisible 0 0\n\
        cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\nbroken\n\
        cgroup2 /sys/fs/cgroup/un\\040ified cgroup2 rw 0 0\n";

    #[test]
    fn hierarchies_and_options_are_found() {
        let mounts = Mounts::parse(TABLE);
        assert_eq!(mounts.0.len(), 3);
        assert_eq!(mounts.0[2].point, Path::new("/sys/fs/cgroup/un ified"));
        assert!(Cgroups::from_mounts(&mounts).v1 && mounts.proc_hides_processes());
        assert!(!Mounts::parse(b"proc /proc proc rw,hidepid=0 0 0").proc_hides_processes());
    }

    #[test]
    fn a_hierarchy_below_another_mount_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let [below, above] = ["below", "above"].map(|name| folder.path().join(name));
        std::fs::create_dir(&above).unwrap();
        std::fs::write(above.join("cgroup.procs"), "").unwrap();
        let mount = |point: &PathBuf| Mount {
            point: point.clone(),
            kind: "cgroup2".to_owned(),
            options: "rw".to_owned(),
        };
        let mut mounts = Mounts(vec![mount(&below), mount(&above)]);
        assert_eq!(Cgroups::from_mounts(&mounts).v2, Some(above));
        mounts.0.pop();
        assert_eq!(mounts.unified(), None);
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescape(b"a\\040b\\09\\"), b"a b\\09\\");
        assert_eq!(unescape(b"\\777"), b"\\777");
    }
}
