//! What was seen of blocks that are not freed: by stack, over time.

use serde::{Deserialize, Serialize};

use super::StackId;

/// Blocks that were allocated while the recording ran and not freed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Leaks {
    /// Time from the first probe to the last look, nanoseconds.
    pub watched_ns: u64,
    /// Blocks younger than this are left out, nanoseconds.
    pub older_ns: u64,
    /// Sites with fewer live bytes are left out of tables.
    pub min_bytes: u64,
    /// When blocks were looked at, nanoseconds since the first probe: the end of each slice, where there are slices.
    pub moments_ns: Vec<u64>,
    /// Slices in which calls were watched; none when every call was.
    pub slices: Option<WatchedSlices>,
    /// Time watched since the moment before, nanoseconds; empty when all of it was.
    pub open_ns: Vec<u64>,
    /// What the target's anonymous memory, resident or swapped out, grew by in the time watched, bytes; none when it was not looked at.
    #[serde(default)]
    pub grown_bytes: Option<u64>,
    /// What the target does in a second without probes, for each that it did in a slice: one if it has time to spare.
    pub correction: f64,
    /// Half of the 95 % interval of that, as a share; zero where every call was watched.
    pub rate_error: f64,
    /// Windows that say it, where it is from windows: growth is known then, but not which blocks are left, nor how old they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<u64>,
    /// By stack. Written as sites, not as it is.
    #[serde(skip)]
    pub stacks: Vec<LeakStack>,
    /// Blocks that are left out because they are young.
    pub young_count: u64,
    /// Their bytes.
    pub young_bytes: u64,
    /// Blocks that could not be followed, mostly because the table of blocks was full: what became of them is not known, and live bytes are a lower bound.
    #[serde(default)]
    pub unfollowed_count: u64,
    /// Their bytes.
    #[serde(default)]
    pub unfollowed_bytes: u64,
    /// Blocks of processes that ended while others went on: their memory went with them.
    pub ended_count: u64,
    /// Their bytes.
    pub ended_bytes: u64,
}

/// Blocks of one stack.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LeakStack {
    /// The stack.
    pub stack: StackId,
    /// Numbers that add up.
    pub sums: LeakSums,
}

/// What is known of the blocks of a stack or a site. Everything adds up over stacks.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LeakSums {
    /// Blocks in use, old enough.
    pub live_count: f64,
    /// Their bytes.
    pub live_bytes: f64,
    /// Sum of the squares of what each of the blocks that were followed stands for, bytes²: what sampling leaves open.
    pub live_squares: f64,
    /// Bytes times age, byte-seconds.
    pub byte_seconds: f64,
    /// Age of the oldest block, nanoseconds.
    pub oldest_ns: u64,
    /// Bytes of blocks that were allocated in the first half of the recording and are still in use.
    pub early_bytes: f64,
    /// Bytes of blocks that could not be followed: in use or not, nobody knows.
    #[serde(default)]
    pub unfollowed_bytes: f64,
    /// Live bytes at each moment; empty in time slices.
    pub series: Vec<f64>,
    /// What slices saw; empty when every call was watched.
    pub cohorts: Cohorts,
}

/// What slices saw of the blocks of a stack. In bytes, each weighted by what it stands for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Cohorts {
    /// All blocks that slices saw allocated.
    pub born: f64,
    /// Of these, blocks that were freed within a millisecond.
    pub brief: f64,
    /// For each entry of [`Leaks::moments_ns`]: blocks that were allocated in a slice and in use at its end.
    pub kept: Vec<f64>,
    /// Sum of their squares, bytes².
    pub kept_squares: f64,
    /// By slices since their own ([`age_bucket`]): blocks that were in use as far as was known when such a slice began.
    pub at_risk: Vec<f64>,
    /// Of these, blocks that the slice saw freed, or whose address it saw handed out again.
    pub gone: Vec<f64>,
    /// Sum of their squares, bytes².
    pub gone_squares: f64,
}

/// The slices of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WatchedSlices {
    /// How many.
    pub count: u64,
    /// Slices that one entry of [`Leaks::moments_ns`] stands for; the last may stand for fewer.
    pub merged: u64,
    /// Time in all of them, nanoseconds.
    pub open_ns: u64,
    /// Time from the end of the first to the end of the last, nanoseconds.
    pub span_ns: u64,
}

/// Ages below this have a bucket each; above it there are four to each power of two.
const FINE_AGES: u64 = 16;

/// The bucket of an age in slices.
pub fn age_bucket(age: u64) -> usize {
    if age < FINE_AGES {
        return age as usize;
    }
    let power = age.ilog2();
    (FINE_AGES as usize) + (power as usize - 4) * 4 + ((age >> (power - 2)) & 3) as usize
}

/// The ages of a bucket, first and last.
pub fn ages_of_bucket(bucket: usize) -> (u64, u64) {
    let fine = FINE_AGES as usize;
    if bucket < fine {
        return (bucket as u64, bucket as u64);
    }
    let (power, quarter) = (((bucket - fine) / 4 + 4).min(60), ((bucket - fine) % 4) as u64);
    let first = (4 + quarter) << (power - 2);
    (first, first + (1 << (power - 2)) - 1)
}

/// Moments of a recording, and buckets of ages: more than either has.
const MOST_ENTRIES: usize = 256;

impl Leaks {
    /// Cuts lists to what a recording can have, where they come from a file that may hold anything: judging a site takes time for each moment.
    pub fn cut(&mut self) {
        self.moments_ns.truncate(MOST_ENTRIES);
        self.open_ns.truncate(MOST_ENTRIES);
        for LeakStack { sums, .. } in &mut self.stacks {
            let Cohorts { kept, at_risk, gone, .. } = &mut sums.cohorts;
            for list in [&mut sums.series, kept, at_risk, gone] {
                list.truncate(MOST_ENTRIES);
            }
        }
    }
}

impl LeakSums {
    /// Adds another stack's numbers.
    pub fn add(&mut self, other: &Self) {
        self.live_count += other.live_count;
        self.live_bytes += other.live_bytes;
        self.live_squares += other.live_squares;
        self.byte_seconds += other.byte_seconds;
        self.oldest_ns = self.oldest_ns.max(other.oldest_ns);
        self.early_bytes += other.early_bytes;
        self.unfollowed_bytes += other.unfollowed_bytes;
        add_all(&mut self.series, &other.series);
        self.cohorts.add(&other.cohorts);
    }

    /// Whether anything of it was ever seen in use.
    pub fn says_something(&self) -> bool {
        self.live_bytes > 0.0
            || self.unfollowed_bytes > 0.0
            || self.series.iter().any(|bytes| *bytes > 0.0)
            || !self.cohorts.kept.is_empty()
    }

    /// Mean age of a byte, seconds.
    pub fn mean_age_s(&self) -> f64 {
        if self.live_bytes > 0.0 { self.byte_seconds / self.live_bytes } else { 0.0 }
    }
}

impl Cohorts {
    fn add(&mut self, other: &Self) {
        self.born += other.born;
        self.brief += other.brief;
        add_all(&mut self.kept, &other.kept);
        add_all(&mut self.at_risk, &other.at_risk);
        add_all(&mut self.gone, &other.gone);
        self.kept_squares += other.kept_squares;
        self.gone_squares += other.gone_squares;
    }
}

fn add_all(sums: &mut Vec<f64>, values: &[f64]) {
    if sums.len() < values.len() {
        sums.resize(values.len(), 0.0);
    }
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_of_ages_leave_no_gap() {
        for age in 0..5_000 {
            let (first, last) = ages_of_bucket(age_bucket(age));
            assert!((first..=last).contains(&age), "{age}: {first} to {last}");
        }
        assert_eq!(age_bucket(16), 16);
        assert!(age_bucket(1 << 40) < 200);
    }
}
