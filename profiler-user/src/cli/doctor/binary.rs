//! Checks of a target's executable: what it was built for, and where names come from.

use std::fmt;
use std::io;
use std::path::Path;

use super::check::{Check, Group::Target as Group};
pub(super) use crate::system::binary::Binary;
use crate::system::binary::{ElfError, Machine, Names};
use crate::system::target::{LastLink, Target, open_in_root};

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
    vec![machine(binary.machine), names(binary, debug_file(binary, target).as_deref())]
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
}
