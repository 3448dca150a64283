//! Which part of a store is meant, and what to say when there is nothing.

use std::ops::Range;
use std::path::Path;

use clap::Args;

use super::time::{Moment, between, moment, shown};
use super::{Kind, Refusal};
use crate::causes::with_causes;
use crate::output::duration;
use crate::profile::Profile;
use crate::session::clock;
use crate::store::{Filter, Pattern, Reader, Selected, StoreError};

/// Processes that are named when the one asked for is not there.
const NAMED: usize = 8;

/// Which part of a store.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Store")]
pub(crate) struct PartArgs {
    /// Which profiles: cpu, off-cpu, memory, alloc, …
    #[arg(long = "type", value_name = "TYPE", default_value = "cpu")]
    pub(crate) profile_type: String,
    /// Only processes of this name; /…/ is a regular expression
    #[arg(long, value_name = "NAME", value_parser = Pattern::parse)]
    process: Option<Pattern>,
    /// Only threads of this name; /…/ is a regular expression
    #[arg(long, value_name = "NAME", value_parser = Pattern::parse)]
    thread: Option<Pattern>,
    /// Only this control group and those below it; /…/ is a regular expression
    #[arg(long, value_name = "PATH", value_parser = Pattern::parse)]
    cgroup: Option<Pattern>,
    /// Only this container: the beginning of its ID, its name, its pod's, or NAMESPACE/POD
    #[arg(long, value_name = "CONTAINER")]
    container: Option<String>,
    /// Only these processes
    #[arg(short = 'p', long, value_name = "PIDS", value_delimiter = ',')]
    pid: Vec<u32>,
    /// Only these threads
    #[arg(short = 't', long, value_name = "TIDS", value_delimiter = ',')]
    tid: Vec<u32>,
}

/// Which time.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Time")]
pub(crate) struct RangeArgs {
    /// Beginning: -1h, -30m, RFC 3339, Unix seconds
    #[arg(long, value_name = "TIME", default_value = "-1h", value_parser = moment, allow_hyphen_values = true)]
    pub(crate) from: Moment,
    /// End
    #[arg(long, value_name = "TIME", default_value = "now", value_parser = moment, allow_hyphen_values = true)]
    pub(crate) to: Moment,
}

impl RangeArgs {
    /// Nanoseconds since the Unix epoch.
    pub(crate) fn range(&self) -> Result<Range<u64>, Refusal> {
        between(self.from, self.to, clock::unix_ns()).map_err(Refusal::usage)
    }
}

impl PartArgs {
    /// What was recorded in that time, as one profile.
    ///
    /// # Errors
    ///
    /// Nothing is stored of it, or the store could not be read.
    pub(crate) fn select(&self, store: &Path, range: &Range<u64>) -> Result<Profile, Refusal> {
        let reader = open(store)?;
        let filter = self.filter();
        let selected =
            reader.select(range, &self.profile_type, &filter).map_err(|error| explained(&error))?;
        if selected.windows == 0 {
            return Err(self.no_window(store, &reader, range, &selected));
        }
        if selected.profile.samples.is_empty() && !filter.is_open() {
            return Err(self.no_sample(&reader, range));
        }
        let coverage = covered(range, &selected);
        let mut profile = selected.profile;
        profile.meta.scope_notes.extend(self.words());
        profile.quality.notes.insert(0, coverage);
        Ok(profile)
    }

    /// The same part of profiles of this type.
    pub(crate) fn of_type(&self, profile_type: &str) -> Self {
        Self { profile_type: profile_type.to_owned(), ..self.clone() }
    }

    /// Which samples are meant.
    pub(crate) fn filter(&self) -> Filter {
        Filter {
            process: self.process.clone(),
            thread: self.thread.clone(),
            cgroup: self.cgroup.clone(),
            container: self.container.clone(),
            pids: self.pid.clone(),
            tids: self.tid.clone(),
        }
    }

    /// The same question as parameters of the API.
    pub(crate) fn parameters(&self) -> Vec<(&'static str, String)> {
        let pattern = |name, pattern: &Option<Pattern>| {
            pattern.as_ref().map(|pattern| match pattern {
                Pattern::Exact(exact) => (name, exact.clone()),
                Pattern::Matching(expression) => (name, format!("/{expression}/")),
            })
        };
        let ids = |name, ids: &[u32]| {
            let list = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
            (!ids.is_empty()).then_some((name, list))
        };
        [
            Some(("type", self.profile_type.clone())),
            pattern("process", &self.process),
            pattern("thread", &self.thread),
            pattern("cgroup", &self.cgroup),
            self.container.clone().map(|id| ("container", id)),
            ids("pid", &self.pid),
            ids("tid", &self.tid),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The filter in words.
    fn words(&self) -> Vec<String> {
        let pattern = |what: &str, pattern: &Option<Pattern>| {
            pattern.as_ref().map(|pattern| match pattern {
                Pattern::Exact(name) => format!("{what} {name}"),
                Pattern::Matching(expression) => format!("{what} /{expression}/"),
            })
        };
        let list = |what: &str, ids: &[u32]| {
            let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
            (!ids.is_empty()).then(|| format!("{what} {}", ids.join(", ")))
        };
        [
            pattern("process", &self.process),
            pattern("thread", &self.thread),
            pattern("cgroup", &self.cgroup),
            self.container.as_ref().map(|id| format!("container {id}")),
            list("pid", &self.pid),
            list("tid", &self.tid),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn no_window(&self, store: &Path, reader: &Reader, range: &Range<u64>, selected: &Selected) -> Refusal {
        let store = store.display();
        let kind = &self.profile_type;
        let message =
            format!("{store} has no windows of `{kind}` from {} to {}", shown(range.start), shown(range.end));
        let mut message = Refusal::new(Kind::Nothing, with_problems(message, &selected.problems));
        let all = reader.windows(&(0..u64::MAX)).map(|(windows, _)| windows).unwrap_or_default();
        let mut kinds: Vec<&str> = all.iter().map(|window| &*window.profile_type).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let same = || all.iter().filter(|window| &window.profile_type == kind);
        let span = same().map(|w| w.start_unix_ns).min().zip(same().map(|w| w.end_unix_ns).max());
        message = message.hint(match span {
            Some((first, end)) => format!(
                "it has some from {0} to {1}: perf-agent query top --store {store} --type {kind} --from {0} --to {1}",
                shown(first),
                shown(end.saturating_add(999_999_999))
            ),
            None if kinds.is_empty() => {
                format!("it is empty; `sudo perf-agent daemon run` fills it: perf-agent query windows --store {store}")
            }
            None => format!("it has {}: --type {}", kinds.join(", "), kinds[0]),
        });
        message
    }

    fn no_sample(&self, reader: &Reader, range: &Range<u64>) -> Refusal {
        let message = format!(
            "no sample of {} from {} to {}",
            self.words().join(", "),
            shown(range.start),
            shown(range.end)
        );
        let all = reader.select(range, &self.profile_type, &Filter::default()).unwrap_or_default().profile;
        let mut by_name: Vec<(u64, &str)> = Vec::new();
        for sample in &all.samples {
            let name = &*all.labels_of(sample).process;
            let value = sample.values.last().copied().unwrap_or_default();
            match by_name.iter_mut().find(|(_, known)| *known == name) {
                Some((sum, _)) => *sum = sum.saturating_add(value),
                None => by_name.push((value, name)),
            }
        }
        by_name.sort_unstable_by(|a, b| b.cmp(a));
        let names: Vec<&str> = by_name.iter().take(NAMED).map(|(_, name)| *name).collect();
        let more = by_name.len().saturating_sub(names.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Refusal::new(Kind::Nothing, message)
            .hint(format!("processes in that time, busiest first: {}{more}", names.join(", ")))
    }
}

/// How much of the time asked for there is.
fn covered(range: &Range<u64>, selected: &Selected) -> String {
    let meta = &selected.profile.meta;
    let asked = range.end - range.start;
    let what = format!(
        "{} windows from {} to {}",
        selected.windows,
        shown(meta.start_unix_ns),
        shown(selected.end_unix_ns)
    );
    if selected.coarsest_ns > asked {
        return format!("{what}: the shortest stretch of {} that is kept apart", duration(meta.duration_ns));
    }
    // The window that is being recorded is not stored yet.
    let missing = asked.saturating_sub(meta.duration_ns);
    let open = selected.coarsest_ns.saturating_mul(2);
    if missing <= open {
        what
    } else {
        format!("{what}; nothing is stored of {} of that time", duration(missing))
    }
}

fn with_problems(message: String, problems: &[String]) -> String {
    if problems.is_empty() { message } else { format!("{message}; {}", problems.join("; ")) }
}

/// Opens a store for reading.
///
/// # Errors
///
/// It is not there, or may not be read.
pub(crate) fn open(store: &Path) -> Result<Reader, Refusal> {
    Reader::open(store).map_err(|error| explained(&error))
}

/// An error of the store, with what helps.
pub(crate) fn explained(error: &StoreError) -> Refusal {
    let kind = match error {
        StoreError::NotOurs { .. } => Kind::Forbidden,
        StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            Kind::Forbidden
        }
        _ => Kind::Failed,
    };
    let told = Refusal::new(kind, with_causes(error));
    match error {
        StoreError::Missing { .. } => told
            .hint("`sudo perf-agent daemon run` records and makes one; --store DIR names another directory"),
        StoreError::NotOurs { fix: Some(fix), .. } => told.hint(format!("if nobody else wrote there: {fix}")),
        StoreError::Io { .. } if kind == Kind::Forbidden => {
            told.hint("only root reads a store: sudo perf-agent query …")
        }
        _ => told,
    }
}
