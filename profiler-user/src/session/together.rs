//! Recordings that run on a host at the same time share one budget, whoever started them.
//!
//! Each holds a file in a folder that only root can read, locked as long as it lives, and says in it once a second what share of the machine it takes.
//! What others leave is for whoever needs it; who needs more than an even part never gets less than that. A lock ends with its holder, however it
//! ended, so files of the dead are known by it and removed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::clock;

/// Where the files are.
const FOLDER: &str = "/run/perf-agent/recordings";
/// Time between two looks at the others, one second.
const LOOK_NS: u64 = 1_000_000_000;
/// Others that are looked at.
const MOST_OTHERS: usize = 64;
/// Bytes of a file that are read: one number.
const MOST_BYTES: u64 = 32;

/// This recording among others.
#[derive(Debug)]
pub(crate) struct Together {
    /// None where the folder cannot be made: then this recording counts as the only one.
    own: Option<Own>,
    cpus: u32,
    looked_ns: u64,
    spent_ns: u64,
    /// Others at the same time, at most.
    most: usize,
}

#[derive(Debug)]
struct Own {
    path: PathBuf,
    file: File,
}

impl Together {
    /// Begins, on a machine with so many CPUs.
    pub(crate) fn join(cpus: u32) -> Self {
        Self::join_in(Path::new(FOLDER), cpus)
    }

    /// Is told of no others: a part of a recording that has its place among them.
    pub(crate) fn alone(cpus: u32) -> Self {
        Self { own: None, cpus: cpus.max(1), looked_ns: clock::monotonic_ns(), spent_ns: 0, most: 0 }
    }

    fn join_in(folder: &Path, cpus: u32) -> Self {
        Self { own: Own::enter(folder), ..Self::alone(cpus) }
    }

    /// Looks at the others if it is time to. `spent_ns` says what this recording has cost so far, `budget` what a recording may, as a share of
    /// the machine. Returns how much of the budget is for this one, above zero and at most one.
    pub(crate) fn look(&mut self, spent_ns: impl FnOnce() -> u64, budget: f64) -> Option<f64> {
        let now_ns = clock::monotonic_ns();
        let elapsed_ns = now_ns.saturating_sub(self.looked_ns);
        let own = self.own.as_ref().filter(|_| elapsed_ns >= LOOK_NS)?;
        let spent_ns = spent_ns();
        let share = spent_ns.saturating_sub(self.spent_ns) as f64 / elapsed_ns as f64 / f64::from(self.cpus);
        (self.looked_ns, self.spent_ns) = (now_ns, spent_ns);
        own.tell(share);
        let others = own.others();
        self.most = self.most.max(others.len());
        Some(part_of_budget(budget, &others))
    }

    /// What the reader of the result should know, since the last call.
    pub(crate) fn take_note(&mut self) -> Option<String> {
        let most = std::mem::take(&mut self.most);
        (most > 0).then(|| {
            let recordings = if most == 1 { "another recording" } else { "other recordings" };
            let count = if most == 1 { String::new() } else { format!("{most} ") };
            format!("{count}{recordings} ran on this host at the same time and shared --max-overhead with this one")
        })
    }
}

/// Recordings that run on this host now: the process of each, as it knows itself, and the share of the machine that it took in the last second.
pub(crate) fn running() -> Vec<(u32, f64)> {
    running_in(Path::new(FOLDER))
}

fn running_in(folder: &Path) -> Vec<(u32, f64)> {
    let pid = |path: &Path| path.file_name()?.to_str()?.split('-').next()?.parse().ok();
    let mut running: Vec<(u32, f64)> =
        living_in(folder).filter_map(|(path, share)| Some((pid(&path)?, share))).take(MOST_OTHERS).collect();
    running.sort_unstable_by_key(|(pid, _)| *pid);
    running
}

/// The part of a budget for one among others that take these shares of the machine: as high as a level at which all fit when none takes more than
/// it (max-min fairness). An even part at least.
fn part_of_budget(budget: f64, others: &[f64]) -> f64 {
    let mut takes: Vec<f64> = others.iter().map(|share| share / budget.max(f64::MIN_POSITIVE)).collect();
    takes.sort_by(f64::total_cmp);
    let (mut left, mut sharing) = (1.0, takes.len() + 1);
    for take in takes {
        if take >= left / sharing as f64 {
            break;
        }
        left -= take;
        sharing -= 1;
    }
    left / sharing as f64
}

impl Own {
    fn enter(folder: &Path) -> Option<Self> {
        // Everybody may see the stop file beside it.
        let _there_or_not = DirBuilder::new().mode(0o755).create(folder.parent()?);
        DirBuilder::new().recursive(true).mode(0o700).create(folder).ok()?;
        // Another one may take it for a file of the dead before it is locked, and remove it.
        (0..8).find_map(|attempt| {
            let name = format!("{}-{}-{attempt}", std::process::id(), clock::monotonic_ns());
            let path = folder.join(name);
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).ok()?;
            file.lock().ok()?;
            (file.metadata().ok()?.nlink() > 0).then_some(Self { path, file })
        })
    }

    fn tell(&self, share: f64) {
        // Written over in place, always as long as before. A number that nobody could write counts as the one before.
        let _told_or_not = self.file.write_all_at(format!("{share:<20.12}").as_bytes(), 0);
    }

    /// Shares of the machine that the others take.
    fn others(&self) -> Vec<f64> {
        let all = self.path.parent().into_iter().flat_map(living_in);
        all.filter(|(path, _)| *path != self.path).map(|(_, share)| share).take(MOST_OTHERS).collect()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // What stays is removed by the next recording.
        let _gone = fs::remove_file(&self.path);
    }
}

/// The files of a folder that somebody holds, and the shares of the machine that their holders take.
fn living_in(folder: &Path) -> impl Iterator<Item = (PathBuf, f64)> + use<> {
    let paths = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    paths.filter_map(|path| living(&path).map(|share| (path, share)))
}

/// The share of the machine that the holder of a file takes; none when nobody holds it, and then it is removed.
fn living(path: &Path) -> Option<f64> {
    let file =
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path).ok()?;
    if file.try_lock_shared().is_ok() {
        let _gone = fs::remove_file(path);
        return None;
    }
    let mut text = String::new();
    // One that has just begun has said nothing yet.
    let _read = file.take(MOST_BYTES).read_to_string(&mut text);
    Some(text.trim().parse().ok().filter(|share: &f64| share.is_finite()).unwrap_or(0.0).clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_little_leaves_it_to_the_others() {
        let is = |others: &[f64], part: f64| (part_of_budget(0.01, others) - part).abs() < 1e-9;
        assert!(is(&[], 1.0));
        assert!(is(&[0.002], 0.8));
        // One that takes more than its part does not push the others below theirs.
        assert!(is(&[0.5], 0.5));
        assert!(is(&[0.5, 0.5, 0.0], 1.0 / 3.0));
        assert!(is(&[1.0; 4], 0.2));
    }

    /// Whatever each of them would like to take, together they settle inside the budget.
    #[test]
    fn shares_settle_inside_the_budget() {
        let (budget, wishes) = (0.01, [0.003, 0.2, 0.001, 0.05, 0.0005]);
        let mut takes = [0.0; 5];
        for round in 0..40 {
            let who = round % takes.len();
            let others: Vec<f64> = (0..5).filter(|it| *it != who).map(|it| takes[it]).collect();
            takes[who] = f64::min(wishes[who], budget * part_of_budget(budget, &others));
        }
        let sum: f64 = takes.iter().sum();
        assert!(sum <= budget * 1.001 && sum > budget * 0.8, "{takes:?}");
        let gets = |who: usize| (takes[who] - wishes[who]).abs() < 1e-9;
        assert!(gets(2) && gets(4), "the modest get what they need: {takes:?}");
    }

    #[test]
    fn the_living_are_seen_and_the_dead_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().join("recordings");
        let mut a = Together::join_in(&here, 2);
        let b = Together::join_in(&here, 2);
        b.own.as_ref().unwrap().tell(0.004);
        fs::write(here.join("1-1-0"), "0.5").unwrap();
        assert_eq!(a.own.as_ref().unwrap().others(), [0.004]);
        let own_pid = std::process::id();
        assert_eq!(running_in(&here).iter().map(|(pid, _)| *pid).collect::<Vec<_>>(), [own_pid, own_pid]);
        assert!(!here.join("1-1-0").exists(), "nobody holds it");
        assert_eq!(a.look(|| 0, 0.01), None, "not yet time");
        a.looked_ns -= 2 * LOOK_NS;
        assert!((a.look(|| 0, 0.01).unwrap() - 0.6).abs() < 1e-9);
        assert!(a.take_note().unwrap().starts_with("another recording"));
        drop(b);
        assert!(a.own.as_ref().unwrap().others().is_empty());
        assert_eq!(fs::read_dir(&here).unwrap().count(), 1);
    }

    #[test]
    fn nonsense_counts_as_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let a = Together::join_in(folder.path(), 2);
        for text in ["NaN", "-1", "inf", "x", "", "\u{1f980}"] {
            let path = folder.path().join("x");
            fs::write(&path, text).unwrap();
            let held = File::open(&path).unwrap();
            held.lock().unwrap();
            assert_eq!(a.own.as_ref().unwrap().others(), [0.0], "{text}");
        }
        let mut nowhere = Together::join_in(Path::new("/proc/nowhere"), 2);
        assert!(nowhere.own.is_none() && nowhere.take_note().is_none());
    }
}
