//! Folded stacks: `process;outermost;…;innermost count`, one line per distinct stack, sorted.
//!
//! The format has no escapes, so a name that would break it is changed: `;` becomes `:`, a control character its
//! `\x0a`-style escape, a leading `#` (a comment to some readers) and the space before trailing digits (a second
//! count to some readers) become `_`. An empty name becomes `[unknown]`. On request kernel, inlined and JIT frames
//! end in `_[k]`, `_[i]` and `_[j]`, which flame graph tools colour by.

use std::borrow::Cow;
use std::io::Write;

use super::{OutputError, OutputOptions};
use crate::profile::{Profile, clean};
use crate::report::{CallTree, Function, FunctionClass};

/// Writes `profile` as folded stacks.
pub(super) fn write(
    profile: &Profile,
    options: &OutputOptions,
    out: &mut dyn Write,
) -> Result<(), OutputError> {
    let value = options.value_of(profile, default_value(profile))?;
    let tree = CallTree::new(profile, value, options.merge, options.roots);
    let mut path = String::new();
    let mut path_ends: Vec<usize> = Vec::new();
    for node in tree.nodes() {
        path_ends.truncate(node.depth as usize);
        path.truncate(path_ends.last().copied().unwrap_or(0));
        if !path.is_empty() {
            path.push(';');
        }
        path.push_str(&frame_name(&tree.function(node), options.annotate));
        path_ends.push(path.len());
        if node.own > 0 {
            writeln!(out, "{path} {}", node.own)?;
        }
    }
    Ok(())
}

/// The count of samples, as other tools fold. Where there is none the default value: what is measured is no sample.
fn default_value(profile: &Profile) -> usize {
    match profile.value_types.first() {
        Some(first) if first.kind == "samples" => 0,
        _ => profile.default_value(),
    }
}

fn frame_name(function: &Function<'_>, annotate: bool) -> String {
    let mark = match function.class {
        FunctionClass::Kernel if annotate => "_[k]",
        FunctionClass::Inlined if annotate => "_[i]",
        FunctionClass::Jit if annotate => "_[j]",
        _ => "",
    };
    let name = safe(function.name);
    match name.strip_prefix('#') {
        Some(rest) if function.class == FunctionClass::Root => format!("_{rest}"),
        _ => format!("{name}{mark}"),
    }
}

fn safe(name: &str) -> Cow<'_, str> {
    // Readers trim lines.
    let name = name.trim();
    if name.is_empty() {
        return Cow::Borrowed("[unknown]");
    }
    let mut name = Cow::Borrowed(name);
    if name.contains(|c: char| c == ';' || c.is_control()) {
        name = Cow::Owned(clean(name.as_bytes()).replace(';', ":"));
    }
    match name.rsplit_once(' ') {
        Some((head, tail)) if tail.chars().all(|c| c.is_ascii_digit() || c == '.') => {
            Cow::Owned(format!("{head}_{tail}"))
        }
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;
    use crate::report::Roots;

    fn folded(profile: &Profile, options: &OutputOptions) -> String {
        let mut out = Vec::new();
        write(profile, options, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn golden() {
        fixture::golden("hostile.folded", folded(&fixture::hostile(), &OutputOptions::default()));
    }

    #[test]
    fn golden_with_marks_and_threads() {
        let options = OutputOptions {
            annotate: true,
            roots: Roots::Thread,
            value: Some(1),
            ..OutputOptions::default()
        };
        fixture::golden("hostile_threads.folded", folded(&fixture::hostile(), &options));
    }

    #[test]
    fn every_line_has_one_count_and_they_add_up() {
        let profile = fixture::hostile();
        let text = folded(&profile, &OutputOptions::default());
        let counts = text.lines().map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap());
        assert_eq!(counts.sum::<u64>(), profile.total(0));
    }
}
