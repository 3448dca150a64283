//! From what the user named to the scope of a recording, with a title for people and a slug for file names.
//!
//! The arguments are shared by all verbs that record.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;

use super::exit::{CliError, Exit};
use super::quantity::number_list;
use crate::process::cgroup_id;
use crate::profile::clean;
use crate::session::Scope;
use crate::system::features::Mounts;
use crate::system::target::{Home, Target, TargetError, TargetSpec};

/// Process IDs that a title lists; it stands above pictures.
const MOST_LISTED: usize = 5;

/// Most directories that a search for a control group looks at.
const MOST_GROUPS: usize = 50_000;

/// Whom to record.
#[derive(Debug, Args)]
pub(super) struct ScopeArgs {
    /// What to profile, as for `attach`; the whole host when nothing is named
    #[arg(value_name = "TARGET", conflicts_with_all = ["all", "pid", "tid", "cgroup", "command"])]
    target: Option<String>,
    /// The whole host
    #[arg(short, long, conflicts_with_all = ["pid", "tid", "cgroup", "command"])]
    all: bool,
    /// These processes, with all their threads
    #[arg(short, long, value_name = "PID,…", conflicts_with_all = ["tid", "cgroup", "command"])]
    pid: Option<String>,
    /// These threads only
    #[arg(short, long, value_name = "TID,…", conflicts_with_all = ["cgroup", "command"])]
    tid: Option<String>,
    /// Everything below this control group (version 2): a path below its root, or the full path
    #[arg(short = 'G', long, value_name = "PATH", conflicts_with = "command")]
    cgroup: Option<String>,
}

/// Whether children belong to the scope.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct FollowArgs {
    /// Follow the children of target processes: those that exist and those to come (the default)
    #[arg(long, overrides_with = "no_subprocesses")]
    subprocesses: bool,
    /// Only the processes named, not their children
    #[arg(long)]
    no_subprocesses: bool,
}

impl FollowArgs {
    /// Whether children are followed.
    pub(super) fn follow_forks(self) -> bool {
        !self.no_subprocesses
    }
}

/// A command to start and record. Flattened last, because it takes everything behind `--`.
#[derive(Debug, Default, Args)]
pub(super) struct CommandArgs {
    /// Run the command after -- as the user who called perf-agent, not as the one behind sudo
    #[arg(long, help_heading = "Command")]
    pub(super) keep_root: bool,
    /// The command to start and profile, with its children
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

/// A scope with its names.
pub(super) struct Found {
    pub(super) scope: Scope,
    pub(super) title: String,
    pub(super) slug: String,
    pub(super) pid: Option<u32>,
    pub(super) comm: Option<String>,
}

impl Found {
    fn new(scope: Scope, title: impl Into<String>, slug: impl AsRef<str>) -> Self {
        Self { scope, title: title.into(), slug: slug_of(slug.as_ref()), pid: None, comm: None }
    }
}

/// The scope of a positional target.
pub(super) fn from_target(text: &str) -> Result<Found, CliError> {
    if let Some(path) = text.strip_prefix("cgroup:") {
        return from_cgroup(path);
    }
    if let Some(unit) = text.strip_prefix("unit:") {
        return from_unit(unit);
    }
    if let Some(container) = text.strip_prefix("container:") {
        return from_container(container);
    }
    let spec: TargetSpec = text.parse().map_err(|error| target_error(&error))?;
    let pids = spec.resolve().map_err(|error| target_error(&error))?;
    let by_name = !matches!(spec, TargetSpec::Pids(_));
    from_pids(&pids, by_name.then_some(text))
}

impl ScopeArgs {
    /// The scope that the options name; that of the command when there is one, the host when there is nothing.
    pub(super) fn find(&self, command: &CommandArgs) -> Result<Found, CliError> {
        if let Some(target) = &self.target {
            return from_target(target);
        }
        if let Some(list) = &self.pid {
            return from_pids(&number_list(list).map_err(CliError::usage)?, None);
        }
        if let Some(list) = &self.tid {
            return from_threads(&number_list(list).map_err(CliError::usage)?);
        }
        if let Some(path) = &self.cgroup {
            return from_cgroup(path);
        }
        if let Some(found) = from_command(&command.command) {
            return Ok(found);
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Ok(Found::new(Scope::Host, "whole host", host.trim()))
    }
}

/// The scope of a command; none when there is none.
pub(super) fn from_command(words: &[OsString]) -> Option<Found> {
    use std::os::unix::ffi::OsStrExt;
    let program = words.first()?;
    let name = Path::new(program).file_name().unwrap_or(program);
    let words: Vec<String> = words.iter().map(|word| clean(word.as_bytes())).collect();
    let mut found = Found::new(Scope::Command, format!("`{}`", words.join(" ")), clean(name.as_bytes()));
    found.comm = Some(clean(name.as_bytes()));
    Some(found)
}

fn from_pids(pids: &[u32], name: Option<&str>) -> Result<Found, CliError> {
    let targets: Vec<Target> = match name {
        // A process that matched a name may be gone by now; the others still count.
        Some(_) => pids.iter().filter_map(|pid| Target::inspect(*pid).ok()).collect(),
        None => pids
            .iter()
            .map(|pid| Target::inspect(*pid).map_err(|error| target_error(&error)))
            .collect::<Result<_, _>>()?,
    };
    let living: Vec<u32> = targets.iter().map(|target| target.pid).collect();
    let scope = Scope::Processes(living.clone());
    match targets.as_slice() {
        [] => Err(CliError::new(Exit::Runtime, "all processes of that name have ended")),
        [target] => {
            let slug = format!("{}-{}", target.comm, target.pid);
            let mut found = Found::new(scope, format!("pid {}", target.summary()), slug);
            found.pid = Some(target.pid);
            found.comm = Some(target.comm.clone());
            Ok(found)
        }
        [first, ..] => {
            let title = if living.len() > MOST_LISTED {
                format!("{} processes ({})", living.len(), first.comm)
            } else {
                let list = living.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                format!("pids {list} ({})", first.comm)
            };
            let mut found = Found::new(scope, title, &first.comm);
            found.comm = Some(first.comm.clone());
            Ok(found)
        }
    }
}

fn from_threads(tids: &[u32]) -> Result<Found, CliError> {
    for tid in tids {
        if !Path::new(&format!("/proc/{tid}/stat")).exists() {
            return Err(CliError::new(Exit::Runtime, format!("there is no thread {tid}"))
                .hint("ls /proc/PID/task lists the threads of a process"));
        }
    }
    let list = tids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Ok(Found::new(
        Scope::Threads(tids.to_vec()),
        format!("thread {list}"),
        format!("tid-{}", tids.first().unwrap_or(&0)),
    ))
}

fn from_cgroup(path: &str) -> Result<Found, CliError> {
    let root = hierarchy()?;
    let inside =
        Path::new(path).strip_prefix(&root).unwrap_or_else(|_| Path::new(path.trim_start_matches('/')));
    group(&root, inside)
}

fn from_unit(unit: &str) -> Result<Found, CliError> {
    let root = hierarchy()?;
    let is_unit = |name: &str| name == unit || name.strip_suffix(".service") == Some(unit);
    match groups_named(&root, is_unit).first() {
        Some(path) => group(&root, path),
        None => Err(no_group(&root, "unit", unit)),
    }
}

fn from_container(wanted: &str) -> Result<Found, CliError> {
    let root = hierarchy()?;
    let container = |name: &str| Home::of_group(&format!("/{name}")).container;
    let is_wanted = |name: &str| container(name).is_some_and(|found| found.is_called(wanted));
    let paths = groups_named(&root, is_wanted);
    let of_path = |path: &PathBuf| container(&path.file_name().unwrap_or_default().to_string_lossy());
    match paths.as_slice() {
        [] => Err(no_group(&root, "container", wanted)),
        [path] => {
            let found = group(&root, path)?;
            let shown = of_path(path).map_or_else(String::new, |container| container.shown());
            Ok(Found {
                title: format!("container {shown} ({})", found.title),
                slug: slug_of(&shown),
                ..found
            })
        }
        several => {
            let ids: Vec<String> = several
                .iter()
                .filter_map(of_path)
                .map(|one| format!("container:{}", one.id))
                .take(MOST_LISTED)
                .collect();
            let count = several.len();
            Err(CliError::usage(format!("`container:{}` means {count} containers", clean(wanted.as_bytes())))
                .hint(format!("take one of them: {}", ids.join(", "))))
        }
    }
}

fn no_group(root: &Path, kind: &str, name: &str) -> CliError {
    let name = clean(name.as_bytes());
    CliError::new(
        Exit::Runtime,
        format!("no control group below {} belongs to `{kind}:{name}`", root.display()),
    )
    .hint("systemd-cgls shows what there is; cgroup:PATH takes a path")
}

/// Paths below the root of groups with such a name; what is inside of one is part of it.
fn groups_named(root: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut queue = vec![root.to_path_buf()];
    let mut found = Vec::new();
    let mut looked_at = 0;
    while let Some(directory) = queue.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            looked_at += 1;
            if looked_at > MOST_GROUPS || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            if entry.file_name().to_str().is_some_and(&wanted) {
                found.push(path.strip_prefix(root).unwrap_or(&path).to_path_buf());
            } else {
                queue.push(path);
            }
        }
    }
    found
}

fn group(root: &Path, inside: &Path) -> Result<Found, CliError> {
    use std::os::unix::ffi::OsStrExt;
    let path = root.join(inside);
    let name = clean(inside.as_os_str().as_bytes());
    let id = cgroup_id(&path).map_err(|error| {
        CliError::new(
            Exit::Runtime,
            format!("there is no control group `{name}` below {}: {error}", root.display()),
        )
        .hint("systemd-cgls shows what there is")
    })?;
    let level = inside.components().count() as u32;
    let leaf = inside.file_name().map_or_else(|| "root".into(), |leaf| clean(leaf.as_bytes()));
    Ok(Found::new(Scope::Cgroup { id, level }, format!("cgroup /{name}"), leaf))
}

fn hierarchy() -> Result<PathBuf, CliError> {
    Mounts::gather().unified().ok_or_else(|| {
        CliError::new(Exit::Permission, "control groups version 2 are not mounted here")
            .hint("mount -t cgroup2 none /sys/fs/cgroup/unified, or name processes by PID")
    })
}

fn target_error(error: &TargetError) -> CliError {
    let exit = match error {
        TargetError::BadSpec { .. } | TargetError::BadPattern { .. } => Exit::Usage,
        TargetError::Hidden { .. } => Exit::Permission,
        _ => Exit::Runtime,
    };
    let hint = error.hint();
    let error = CliError::new(exit, error.to_string());
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Letters, digits, dots, dashes and underscores; everything else, slashes above all, becomes a dash.
fn slug_of(name: &str) -> String {
    let slug: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') { c } else { '-' })
        .take(64)
        .collect();
    let slug = slug.trim_matches(|c| c == '-' || c == '.');
    if slug.is_empty() { "target".to_owned() } else { slug.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_safe_file_names() {
        assert_eq!(slug_of("nginx-42"), "nginx-42");
        assert_eq!(slug_of("../../etc/x\n"), "etc-x");
        assert_eq!(slug_of("…"), "target");
    }

    #[test]
    fn a_pid_that_nobody_has_is_an_error_with_a_hint() {
        let error = from_target("999999999").err().unwrap();
        assert_eq!(error.exit(), Exit::Runtime);
        assert!(error.to_string().contains("hint:"), "{error}");
    }
}
