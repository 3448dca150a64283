//! Checks of how the stacks of a target will be walked, module by module.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::check::{Check, Group::Target as Group};
use crate::object::Elf;
use crate::profile::clean;
use crate::system::binary::{Binary, FramePointers};
use crate::system::target::{LastLink, Target, open_in_root};
use crate::unwind_info::UnwindInfo;

/// Modules looked at: more than any but hostile processes load.
const MOST_MODULES: usize = 512;

/// Names written out of modules that are walked alike.
const MOST_NAMES: usize = 24;

/// Shares of functions with a frame pointer, percent, from which a module counts as built with them. Assembly, leaves and
/// start-up code keep it from 100 even where everything was compiled with frame pointers.
const MOSTLY_WITH: u32 = 60;

/// Functions below which a share says nothing.
const FEWEST_FUNCTIONS: u32 = 10;

/// How one module's frames are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// By its unwind information.
    Tables(&'static str),
    /// It has none, but keeps frame pointers.
    FramePointers,
    /// It has neither.
    Nothing,
}

/// How each module of the target is walked: the executable and its libraries.
pub(super) fn checks(target: &Target, libraries: &[PathBuf]) -> Vec<Check> {
    let executable = File::open(format!("/proc/{}/exe", target.pid)).ok();
    let name = std::fs::read_link(format!("/proc/{}/exe", target.pid)).unwrap_or_default();
    let executable = executable.map(|file| (file_name(&name), file));
    let libraries = libraries
        .iter()
        .take(MOST_MODULES)
        .filter_map(|path| Some((file_name(path), open_in_root(target.pid, path, LastLink::Follow).ok()?)));
    let modules: Vec<(String, Way)> =
        executable.into_iter().chain(libraries).filter_map(|(name, file)| Some((name, way(file)?))).collect();
    judge(&modules)
}

fn file_name(path: &Path) -> String {
    clean(path.file_name().unwrap_or_default().as_encoded_bytes())
}

/// None for what is no ELF file.
fn way(file: File) -> Option<Way> {
    let copy = file.try_clone().ok()?;
    let info = UnwindInfo::open(Elf::open(file).ok()?, |_| None);
    if info.functions() > 0 {
        return Some(Way::Tables(info.source_name()));
    }
    let found = Binary::inspect(copy).ok()?.frame_pointers;
    let keeps = |found: &FramePointers| found.functions >= FEWEST_FUNCTIONS && found.percent() >= MOSTLY_WITH;
    Some(if found.as_ref().is_some_and(keeps) { Way::FramePointers } else { Way::Nothing })
}

fn judge(modules: &[(String, Way)]) -> Vec<Check> {
    let (id, title) = ("stacks", "stacks");
    let mut ways: Vec<Way> = modules.iter().map(|(_, way)| *way).collect();
    ways.sort_unstable();
    ways.dedup();
    let checks = ways.into_iter().map(|way| {
        let names: Vec<&str> =
            modules.iter().filter(|(_, other)| *other == way).map(|(name, _)| name.as_str()).collect();
        let list = short_list(&names);
        match way {
            Way::Tables(source) => {
                Check::ok(Group, id, title, format!("by unwind tables ({source}): {list}"))
            }
            Way::FramePointers => Check::ok(Group, id, title, format!("by frame pointers: {list}")),
            Way::Nothing => Check::warn(
                Group,
                id,
                title,
                format!("no unwind tables, no frame pointers: {list}"),
            )
            .why("stacks end early in its code")
            .fix("build it with unwind tables (-fasynchronous-unwind-tables) or -fno-omit-frame-pointer"),
        }
    });
    checks.collect()
}

fn short_list(names: &[&str]) -> String {
    let (shown, rest) = names.split_at(names.len().min(MOST_NAMES));
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::check::Status;
    use super::*;

    #[test]
    fn every_module_is_under_its_way() {
        let modules = [
            ("app".to_owned(), Way::Tables(".eh_frame")),
            ("libc.so.6".to_owned(), Way::Tables(".eh_frame")),
            ("libasm.so".to_owned(), Way::Nothing),
        ];
        let checks = judge(&modules);
        assert_eq!(checks.len(), 2);
        assert!(checks[0].status == Status::Ok && checks[0].value.contains("app, libc.so.6"), "{checks:?}");
        assert!(checks[1].status == Status::Warn && checks[1].value.contains("libasm.so"), "{checks:?}");
    }

    #[test]
    fn we_ourselves_are_walked_by_tables() {
        assert_eq!(way(File::open("/proc/self/exe").unwrap()), Some(Way::Tables(".eh_frame")));
        assert_eq!(way(File::open("/proc/self/status").unwrap()), None);
    }
}
