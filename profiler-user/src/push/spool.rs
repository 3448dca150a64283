//! Requests that wait, as files: `NUMBER.KIND`, sent and removed in the order of their numbers.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::Kind;

/// Largest request: a minute of a very busy host is a few of them smaller.
pub(super) const MOST_REQUEST_BYTES: u64 = 32 << 20;
/// Files that are looked at.
const MOST_FILES: usize = 100_000;

/// A folder of requests. Everyone who has one sees the same files.
#[derive(Debug, Clone)]
pub(super) struct Spool {
    folder: PathBuf,
    max_bytes: u64,
}

/// One that waits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Waiting {
    number: u64,
    file: String,
    pub(super) bytes: u64,
}

/// Requests that were given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Dropped {
    pub(super) requests: u64,
    pub(super) bytes: u64,
}

impl Spool {
    /// Makes the folder, which only its owner reads: profiles name what a host runs.
    ///
    /// # Errors
    ///
    /// What the system said; or the folder belongs to somebody else.
    pub(super) fn open(folder: &Path, max_bytes: u64) -> std::io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let metadata = fs::symlink_metadata(folder)?;
        let own = rustix::process::geteuid().as_raw();
        if !metadata.is_dir() || metadata.uid() != own || metadata.mode() & 0o022 != 0 {
            let found =
                format!("{} must be a folder of user {own} that nobody else writes to", folder.display());
            return Err(std::io::Error::other(found));
        }
        let spool = Self { folder: folder.to_owned(), max_bytes };
        // What was being written when the last one ended.
        for file in spool.files() {
            if file.strip_suffix(".new").is_some() {
                let _gone = fs::remove_file(spool.folder.join(file));
            }
        }
        Ok(spool)
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.take(MOST_FILES).filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// All that wait of one kind, or of all, oldest first.
    pub(super) fn waiting(&self, kind: Option<Kind>) -> Vec<Waiting> {
        let parse = |file: String| {
            let (number, word) = file.split_once('.')?;
            let number = number.parse().ok()?;
            let known = Kind::ALL.into_iter().find(|kind| kind.word() == word)?;
            let bytes = fs::symlink_metadata(self.folder.join(&file)).ok()?.len();
            kind.is_none_or(|wanted| wanted == known).then_some(Waiting { number, file, bytes })
        };
        let mut all: Vec<Waiting> = self.files().into_iter().filter_map(parse).collect();
        all.sort_unstable();
        all
    }

    /// Adds a request, and makes room for it: the oldest go first. Returns those that had to.
    ///
    /// # Errors
    ///
    /// What the system said. The request is dropped.
    pub(super) fn add(&self, kind: Kind, body: &[u8], now_unix_ns: u64) -> std::io::Result<Dropped> {
        let mut dropped = Dropped::default();
        let length = body.len() as u64;
        if length > MOST_REQUEST_BYTES.min(self.max_bytes) {
            return Err(std::io::Error::other(format!(
                "a request of {length} bytes is too large for the spool"
            )));
        }
        let waiting = self.waiting(None);
        let mut sum = waiting.iter().fold(length, |sum, waiting| sum.saturating_add(waiting.bytes));
        for oldest in &waiting {
            if sum <= self.max_bytes {
                break;
            }
            sum = sum.saturating_sub(oldest.bytes);
            self.remove(oldest);
            dropped.requests += 1;
            dropped.bytes = dropped.bytes.saturating_add(oldest.bytes);
        }
        // The clock may go back; the order of what waits does not.
        let after = waiting.last().map_or(0, |last| last.number.saturating_add(1));
        let name = format!("{:020}.{}", now_unix_ns.max(after), kind.word());
        let new = self.folder.join(format!("{name}.new"));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let written = options.open(&new).and_then(|mut file| file.write_all(body));
        if let Err(error) = written.and_then(|()| fs::rename(&new, self.folder.join(name))) {
            let _gone = fs::remove_file(&new);
            return Err(error);
        }
        Ok(dropped)
    }

    /// The body of a request.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub(super) fn read(&self, waiting: &Waiting) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = options.open(self.folder.join(&waiting.file))?;
        file.take(MOST_REQUEST_BYTES).read_to_end(&mut body)?;
        Ok(body)
    }

    /// It was sent, or given up.
    pub(super) fn remove(&self, waiting: &Waiting) {
        // One that cannot be removed is sent again; receivers know a profile by its name and time.
        let _gone = fs::remove_file(self.folder.join(&waiting.file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_wait_in_order_across_restarts_and_the_oldest_give_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/push");
        let spool = Spool::open(&path, 100).unwrap();
        for number in [5, 6, 3] {
            assert_eq!(spool.add(Kind::Otlp, &[number; 30], number.into()).unwrap(), Dropped::default());
        }
        fs::write(path.join("9.otlp.new"), "torn").unwrap();
        fs::write(path.join("other"), "of somebody").unwrap();
        let spool = Spool::open(&path, 100).unwrap();
        assert!(!path.join("9.otlp.new").exists() && path.join("other").exists());
        let first = |spool: &Spool| {
            spool.waiting(Some(Kind::Otlp)).iter().map(|w| spool.read(w).unwrap()[0]).collect::<Vec<_>>()
        };
        assert_eq!(first(&spool), [5, 6, 3], "in the order of writing, whatever the clock says");
        assert_eq!(spool.add(Kind::Pyroscope, &[9; 60], 10).unwrap(), Dropped { requests: 2, bytes: 60 });
        assert_eq!((first(&spool), spool.waiting(None).len()), (vec![3], 2));
        spool.remove(&spool.waiting(Some(Kind::Otlp))[0]);
        assert!(first(&spool).is_empty());
        assert!(spool.add(Kind::Otlp, &[0; 101], 11).is_err());
    }

    #[test]
    fn a_folder_that_others_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Spool::open(folder.path(), 100).is_err());
        let link = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/tmp", link.path().join("l")).unwrap();
        assert!(Spool::open(&link.path().join("l"), 100).is_err());
    }
}
