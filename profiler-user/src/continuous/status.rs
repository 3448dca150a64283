//! What a running recorder says of itself: a small file that is replaced after every window, for whoever asks.
//!
//! In a folder that is gone after a reboot. Names of files come from the store's folder, so recorders with different stores do not meet. The
//! file of one that was killed stays; its process and that process's start time tell.

use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::allocations::AllocationStatus;
use super::config::Config;
use super::writer::Written;
use crate::profile::{Counter, clean};
use crate::session::clock;
use crate::system::target::Stat;

/// Where the files are.
const FOLDER: &str = "/run/perf-agent/daemons";
/// Largest file that is read, and most of them.
const MOST_BYTES: u64 = 64 << 10;
const MOST_FILES: usize = 64;

/// A recorder, as it was after its last window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its process.
    pub pid: u32,
    /// When that process began, clock ticks since boot: a number may be given out again.
    pub pid_start: u64,
    /// When it began to record, Unix nanoseconds.
    pub started_unix_ns: u64,
    /// Its store.
    pub store: PathBuf,
    /// Bytes of the store.
    pub store_bytes: u64,
    /// Files that the store let go before their time.
    pub dropped_files: u64,
    /// Those of them that were in the way because the disk was full.
    #[serde(default)]
    pub disk_full_files: u64,
    /// Times that windows could not be merged; nothing is lost by it but room.
    #[serde(default)]
    pub failed_merges: u64,
    /// Samples per second and CPU that were asked for.
    pub rate_hz: u64,
    /// Length of a window, nanoseconds.
    pub window_ns: u64,
    /// Windows that it has stored.
    pub windows: u64,
    /// Samples in them.
    pub samples: u64,
    /// Bytes that they took when they were written.
    pub written_bytes: u64,
    /// End of the last window, Unix nanoseconds; zero before the first.
    pub last_unix_ns: u64,
    /// Windows that could not be stored.
    pub not_stored_windows: u64,
    /// Their samples.
    pub not_stored_samples: u64,
    /// Why the last one could not.
    pub error: Option<String>,
    /// What was not recorded, by cause.
    pub lost: Vec<Counter>,
    /// What it costs, percent of the machine: since it began, and in its last window.
    pub cost_percent: f64,
    /// The same in its last window.
    pub last_cost_percent: f64,
    /// Its resident set, bytes.
    pub rss_bytes: u64,
    /// What those have done who are shown each window beside the store: alerts and the like.
    #[serde(default)]
    pub feeds: Vec<Counter>,
    /// Whose allocations are recorded; none where nobody's are asked for.
    #[serde(default)]
    pub allocations: Option<AllocationStatus>,
    /// Times that it was told to read its configuration again, and what came of it is settled.
    #[serde(default)]
    pub reloads: u64,
    /// Why the last one was refused.
    #[serde(default)]
    pub refusal: Option<String>,
    /// Keys whose new value needs a restart.
    #[serde(default)]
    pub kept: Vec<String>,
}

impl Status {
    /// Of this process.
    pub(super) fn now(config: &Config, written: &Written) -> Self {
        let pid = std::process::id();
        let (cost_ns, machine_ns) = written.last_cost_ns;
        Self {
            pid,
            pid_start: start_of(pid).unwrap_or(0),
            started_unix_ns: 0,
            store: config.store.folder.clone(),
            store_bytes: written.store_bytes,
            dropped_files: written.dropped_files,
            disk_full_files: written.disk_full_files,
            failed_merges: written.failed_merges,
            rate_hz: config.rate_hz,
            window_ns: config.window.as_nanos() as u64,
            windows: written.windows,
            samples: written.samples,
            written_bytes: written.bytes,
            last_unix_ns: written.last_unix_ns,
            not_stored_windows: written.not_stored.0,
            not_stored_samples: written.not_stored.1,
            error: written.error.clone(),
            lost: written.lost.clone(),
            cost_percent: written.cost_percent(),
            last_cost_percent: cost_ns as f64 * 100.0 / machine_ns.max(1) as f64,
            rss_bytes: clock::rss_bytes(),
            feeds: written.feeds.clone(),
            allocations: written.allocations.clone(),
            reloads: written.reloads,
            refusal: written.refusal.clone(),
            kept: written.kept.clone(),
        }
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        start_of(self.pid) == Some(self.pid_start)
    }
}

/// The file of one recorder.
#[derive(Debug)]
pub(super) struct StatusFile {
    path: PathBuf,
    started_unix_ns: u64,
}

impl StatusFile {
    /// Of a recorder with this store.
    pub(super) fn of(store: &Path) -> Self {
        remove_dead(Path::new(FOLDER));
        Self { path: path_in(Path::new(FOLDER), store), started_unix_ns: clock::unix_ns() }
    }

    /// How a recorder that writes this file stands.
    pub(super) fn status(&self, config: &Config, written: &Written) -> Status {
        Status { started_unix_ns: self.started_unix_ns, ..Status::now(config, written) }
    }

    /// Replaces the file. One that cannot be written is missing; nothing else depends on it.
    pub(super) fn write(&self, status: &Status) {
        let _told_or_not = self.try_write(status);
    }

    fn try_write(&self, status: &Status) -> std::io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        // Everybody may see what runs.
        DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        let new = self.path.with_extension("new");
        let _left_over = fs::remove_file(&new);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new)?;
        file.write_all(&serde_json::to_vec(status)?)?;
        fs::rename(new, &self.path)
    }

    /// It ends.
    pub(super) fn remove(&self) {
        // What stays says of a process that it is gone.
        let _gone = fs::remove_file(&self.path);
    }
}

/// Removes the files of recorders that were killed: who starts one has seen that they are gone.
fn remove_dead(folder: &Path) {
    for path in files(folder).take(MOST_FILES) {
        if read(&path).is_some_and(|status| !status.is_running()) {
            let _gone = fs::remove_file(path);
        }
    }
}

fn files(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "json"))
}

/// What the recorder with this store says, or said.
pub fn of_store(store: &Path) -> Option<Status> {
    read(&path_in(Path::new(FOLDER), store))
}

/// All recorders of this host that left a file, by store.
pub fn all() -> Vec<Status> {
    let mut all: Vec<Status> =
        files(Path::new(FOLDER)).take(MOST_FILES).filter_map(|path| read(&path)).collect();
    all.sort_by(|a, b| a.store.cmp(&b.store));
    all
}

fn read(path: &Path) -> Option<Status> {
    use std::io::Read;
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let mut text = Vec::new();
    file.ok()?.take(MOST_BYTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The name says which store, for people; what would not fit into a name is told apart by the rest.
fn path_in(folder: &Path, store: &Path) -> PathBuf {
    use std::hash::{DefaultHasher, Hash, Hasher};
    use std::os::unix::ffi::OsStrExt;
    let mut hasher = DefaultHasher::new();
    store.hash(&mut hasher);
    let name = clean(store.as_os_str().as_bytes()).trim_matches('/').replace(['/', '\\'], "-");
    let name: String = name.chars().take(100).collect();
    folder.join(format!("{name}-{:08x}.json", hasher.finish() as u32))
}

/// When a process began, clock ticks since boot. None when it is gone, or only its exit code is left.
fn start_of(pid: u32) -> Option<u64> {
    Stat::gather(pid).ok().filter(|stat| !stat.state.is_dead()).map(|stat| stat.start_ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(store: &str) -> Config {
        let mut config = Config::without_file().unwrap();
        config.store.folder = PathBuf::from(store);
        config
    }

    #[test]
    fn what_is_written_is_read_and_the_dead_are_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = path_in(&folder.path().join("below"), Path::new("/srv/store"));
        let file = StatusFile { path: path.clone(), started_unix_ns: 7 };
        let written = Written { windows: 3, cost_ns: 1, machine_ns: 100, ..Written::default() };
        file.write(&file.status(&config("/srv/store"), &written));
        file.write(&file.status(&config("/srv/store"), &written));
        let status = read(&path).unwrap();
        assert_eq!((status.windows, status.started_unix_ns, status.pid), (3, 7, std::process::id()));
        assert!((status.cost_percent - 1.0).abs() < 1e-9 && status.is_running() && status.rss_bytes > 0);
        assert!(!Status { pid_start: status.pid_start + 1, ..status.clone() }.is_running());
        assert!(!Status { pid: u32::MAX, ..status }.is_running());
        file.remove();
        assert_eq!(read(&path), None);
    }

    #[test]
    fn files_of_the_dead_go_and_those_of_the_living_stay() {
        let folder = tempfile::tempdir().unwrap();
        let write = |store: &str, pid_start: Option<u64>| {
            let status = Status::now(&config(store), &Written::default());
            let status = Status { pid_start: pid_start.unwrap_or(status.pid_start), ..status };
            StatusFile { path: path_in(folder.path(), Path::new(store)), started_unix_ns: 7 }.write(&status);
        };
        write("/living", None);
        write("/dead", Some(1));
        fs::write(folder.path().join("other.json"), "of somebody").unwrap();
        remove_dead(folder.path());
        let left: Vec<PathBuf> = files(folder.path()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(read(&path_in(folder.path(), Path::new("/living"))).is_some());
    }

    #[test]
    fn each_store_has_a_file_of_its_own() {
        let path = |store: &str| path_in(Path::new("/x"), Path::new(store));
        assert_ne!(path("/a/b"), path("/a-b"));
        for store in ["/", "/\n/../x", &"/long".repeat(500)] {
            let path = path(store);
            assert_eq!(path.parent(), Some(Path::new("/x")), "{}", path.display());
            assert!(path.file_name().unwrap().len() < 128);
        }
    }
}
