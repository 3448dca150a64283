//! Checks of a target's executable: names, unwind tables, frame pointers.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::check::{Check, Group::Target as Group};
use crate::profile::clean;
pub(super) use crate::system::binary::Binary;
use crate::system::binary::{ElfError, FramePointers, Machine, Names};
use crate::system::target::{LastLink, Target, open_in_root};

/// Shares of functions with a frame pointer, percent, from which a program counts as built with or without them.
/// Assembly, leaves and start-up code keep it from 100 even where everything was compiled with frame pointers.
const MOSTLY_WITH: u32 = 60;
const MOSTLY_WITHOUT: u32 = 15;

/// Functions below which a share says nothing: a launcher that only loads libraries has a handful.
const FEWEST_FUNCTIONS: u32 = 10;

/// Library names written out in a reason.
const MOST_NAMES: usize = 5;

/// Libraries looked at, the ones with the most code first, at a few milliseconds each.
const MOST_LIBRARIES: usize = 12;

/// Why an executable could not be looked over.
#[derive(Debug)]
pub(super) enum Unreadable {
    Open(io::Error),
    Elf(ElfError),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => write!(f, "can't open it: {error}"),
            Self::Elf(error) => error.fmt(f),
        }
    }
}

pub(super) fn checks(binary: &Binary, target: &Target) -> Vec<Check> {
    vec![machine(binary.machine), names(binary, debug_file(binary, target).as_deref()), stacks(binary)]
}

fn machine(machine: Machine) -> Check {
    let (id, title) = ("machine", "built for");
    match machine {
        Machine::X86_64 => Check::ok(Group, id, title, "x86_64"),
        Machine::Aarch64 => Check::ok(Group, id, title, "aarch64"),
        Machine::Other(number) => Check::fail(Group, id, title, format!("ELF machine {number}"))
            .why("only x86_64 and aarch64 stacks can be walked"),
    }
}

/// The separate debug file by build ID: in the target's own root, else on this host.
fn debug_file(binary: &Binary, target: &Target) -> Option<String> {
    let path = binary.debug_file()?;
    let there =
        open_in_root(target.pid, Path::new(&path), LastLink::Follow).is_ok() || Path::new(&path).exists();
    there.then_some(path)
}

fn names(binary: &Binary, debug_file: Option<&str>) -> Check {
    let (id, title) = ("symbols", "symbols");
    let build_id = match (&binary.build_id, &binary.debug_link) {
        (Some(id), _) => format!("build ID {id}"),
        (None, Some(link)) => format!("no build ID, debug link {link}"),
        (None, None) => "no build ID".to_owned(),
    };
    if let Some(path) = debug_file {
        return Check::ok(Group, id, title, format!("separate debug file {path}"));
    }
    let kind = match binary.names {
        Names::DebugInfo => return Check::ok(Group, id, title, "full debug information").why(build_id),
        Names::SymbolTable => Some("symbol table"),
        Names::MiniDebugInfo => Some("mini debug information"),
        Names::GoTable => Some("Go's own table"),
        Names::Stripped => None,
    };
    if let Some(kind) = kind {
        return Check::ok(Group, id, title, format!("{kind}, no inlined functions")).why(build_id);
    }
    let check = Check::warn(Group, id, title, format!("stripped; {build_id}"))
        .why("only exported functions have names; the others appear as [program+offset]")
        .fix("install its debug symbols (Debian: -dbgsym package; Fedora: debuginfo-install)");
    if binary.build_id.is_some() {
        check.fix("debuginfod-find debuginfo PATH   (puts them where they are found)")
    } else {
        check
    }
}

fn stacks(binary: &Binary) -> Check {
    let (id, title) = ("frame_pointers", "frame pointers");
    let tables = if binary.unwind_tables { "has unwind tables" } else { "has no unwind tables" };
    let Some(found) = binary.frame_pointers.filter(|found| found.functions >= FEWEST_FUNCTIONS) else {
        return Check::ok(Group, id, title, format!("not known; {tables}"))
            .why("too few functions to look at");
    };
    let FramePointers { functions, .. } = found;
    let percent = found.percent();
    let value = format!("in {percent} % of {functions} functions; {tables}");
    if percent >= MOSTLY_WITH {
        return Check::ok(Group, id, title, value);
    }
    let how = if percent <= MOSTLY_WITHOUT { "built without" } else { "in part built without" };
    Check::warn(Group, id, title, value)
        .why(format!("{how}: stacks end early in its code"))
        .fix("build it with -fno-omit-frame-pointer (Rust: -C force-frame-pointers=yes)")
}

/// Which of a target's libraries keep frame pointers: a stack that passes through one that does not ends there.
pub(super) fn libraries(paths: &[PathBuf], target: &Target) -> Option<Check> {
    let (id, title) = ("library_frame_pointers", "libraries");
    let mut without = Vec::new();
    let mut seen = 0;
    for path in paths.iter().take(MOST_LIBRARIES) {
        let file = open_in_root(target.pid, path, LastLink::Follow).ok();
        let found = file.and_then(|file| Binary::inspect(file).ok()?.frame_pointers);
        let Some(found) = found else { continue };
        seen += 1;
        if found.percent() < MOSTLY_WITH {
            without.push(clean(path.file_name().unwrap_or_default().as_encoded_bytes()));
        }
    }
    let rest = paths.len().saturating_sub(MOST_LIBRARIES);
    let more = if rest > 0 { format!(" ({rest} more were not looked at)") } else { String::new() };
    match (seen, without.is_empty()) {
        (0, _) => None,
        (_, true) => Some(Check::ok(Group, id, title, format!("{seen} with frame pointers{more}"))),
        (_, false) => Some(
            Check::warn(
                Group,
                id,
                title,
                format!("{} of {seen} without frame pointers{more}", without.len()),
            )
            .why(format!("stacks end early in {}", short_list(&without)))
            .fix("use a distribution that builds with frame pointers (Fedora 38, Ubuntu 24.04 and later)"),
        ),
    }
}

/// The first few names, and how many there are beyond them.
fn short_list(names: &[String]) -> String {
    let (shown, rest) = names.split_at(names.len().min(MOST_NAMES));
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::check::Status;
    use super::*;

    fn me() -> Binary {
        Binary::inspect(File::open("/proc/self/exe").unwrap()).unwrap()
    }

    #[test]
    fn stripped_programs_are_told_where_names_come_from() {
        let stripped = Binary { names: Names::Stripped, ..me() };
        let found = names(&stripped, None);
        assert!(found.status == Status::Warn && found.fix[0].contains("-dbgsym"), "{found:?}");
        assert_eq!(names(&stripped, Some("/usr/lib/debug/x")).status, Status::Ok);
        assert_eq!(names(&Binary { names: Names::GoTable, ..stripped }, None).status, Status::Ok);
    }

    #[test]
    fn missing_frame_pointers_are_a_remark() {
        let with = |percent| Binary {
            frame_pointers: Some(FramePointers { functions: 100, with: percent }),
            ..me()
        };
        assert_eq!(stacks(&with(97)).status, Status::Ok);
        assert_eq!(stacks(&with(40)).status, Status::Warn);
        assert!(stacks(&with(3)).fix[0].contains("-fno-omit-frame-pointer"));
    }
}
