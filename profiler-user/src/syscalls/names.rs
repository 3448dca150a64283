//! Names of system calls and errors.
//!
//! The tables are text files made from the kernel's headers; the first line of each says which. A number that no table has gets a
//! name that shows it: `syscall_1234`.

use std::borrow::Cow;

use profiler_common::syscall::{ABI_COMPAT, ABI_X32, NUMBER_UNKNOWN};

/// A table of numbers and names, in order of numbers.
#[derive(Debug)]
struct Table(Vec<(u32, &'static str)>);

impl Table {
    /// Reads `number name` lines; the first line is a comment.
    fn parse(text: &'static str) -> Self {
        let line = |line: &'static str| {
            let (number, name) = line.split_once(' ')?;
            Some((number.parse().ok()?, name))
        };
        Self(text.lines().skip(1).filter_map(line).collect())
    }

    fn name(&self, number: u32) -> Option<&'static str> {
        let index = self.0.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        self.0.get(index).map(|(_, name)| *name)
    }
}

/// All names that this machine's calls can have.
#[derive(Debug)]
pub struct Names {
    native: Table,
    compat: Table,
    x32: Table,
    errors: Table,
}

impl Names {
    /// The tables of the architecture that this program was built for.
    pub fn load() -> Self {
        let (native, compat, x32) = if cfg!(target_arch = "aarch64") {
            (include_str!("names/arm64.txt"), include_str!("names/arm32.txt"), "")
        } else {
            (include_str!("names/x86_64.txt"), include_str!("names/i386.txt"), include_str!("names/x32.txt"))
        };
        Self {
            native: Table::parse(native),
            compat: Table::parse(compat),
            x32: Table::parse(x32),
            errors: Table::parse(include_str!("names/errno.txt")),
        }
    }

    /// The name of a call; `abi` is one of the `ABI_` numbers. Calls of other tables than the machine's own say so.
    pub fn call(&self, number: u32, abi: u16) -> Cow<'static, str> {
        let (table, mark) = match abi {
            ABI_COMPAT => (&self.compat, "32:"),
            ABI_X32 => (&self.x32, "x32:"),
            _ => (&self.native, ""),
        };
        match table.name(number) {
            Some(name) if mark.is_empty() => Cow::Borrowed(name),
            Some(name) => Cow::Owned(format!("{mark}{name}")),
            None if number == NUMBER_UNKNOWN => Cow::Owned(format!("{mark}syscall_unknown")),
            None => Cow::Owned(format!("{mark}syscall_{number}")),
        }
    }

    /// Whether any table has a call of this name.
    pub fn is_call(&self, name: &str) -> bool {
        let in_table = |table: &Table| table.0.iter().any(|(_, known)| *known == name);
        in_table(&self.native) || in_table(&self.compat) || in_table(&self.x32)
    }

    /// The machine's own call whose name differs least from a word.
    pub fn nearest_call(&self, word: &str) -> &'static str {
        let nearest = self.native.0.iter().min_by_key(|(_, name)| distance(word, name));
        nearest.map_or("", |(_, name)| *name)
    }

    /// The name of an error: `ENOENT`, or its number where it has none.
    pub fn error(&self, errno: u16) -> Cow<'static, str> {
        match self.errors.name(u32::from(errno)) {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Owned(format!("errno_{errno}")),
        }
    }

    /// Whether an error of this name exists.
    pub fn is_error(&self, name: &str) -> bool {
        self.errors.0.iter().any(|(_, known)| *known == name)
    }
}

/// How many letters have to be put in, taken out or changed to make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    // Nothing longer than a few words is a name.
    for (index, letter) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other) in b.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[b.len()]
}

/// A call's name without the mark of its table.
pub fn plain(name: &str) -> &str {
    name.rsplit(':').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use profiler_common::syscall::ABI_NATIVE;

    #[test]
    fn calls_have_the_names_of_their_table() {
        let names = Names::load();
        let read = if cfg!(target_arch = "aarch64") { 63 } else { 0 };
        assert_eq!(names.call(read, ABI_NATIVE), "read");
        assert_eq!(names.call(3, ABI_COMPAT), "32:read");
        assert_eq!(names.call(900, ABI_NATIVE), "syscall_900");
        assert_eq!(names.call(NUMBER_UNKNOWN, ABI_NATIVE), "syscall_unknown");
        assert_eq!([names.error(2), names.error(11), names.error(4000)], ["ENOENT", "EAGAIN", "errno_4000"]);
        assert!(names.is_call("openat") && !names.is_call("opennat"));
        assert_eq!(plain("32:read"), "read");
        assert_eq!(
            [names.nearest_call("opennat"), names.nearest_call("epol_wait")],
            ["openat", "epoll_wait"].map(|name| if cfg!(target_arch = "aarch64") && name == "epoll_wait" {
                "epoll_pwait"
            } else {
                name
            })
        );
    }

    #[test]
    fn our_own_numbers_agree_with_the_library() {
        let names = Names::load();
        for (number, name) in [
            (libc::SYS_openat, "openat"),
            (libc::SYS_futex, "futex"),
            (libc::SYS_clone3, "clone3"),
            (libc::SYS_epoll_pwait, "epoll_pwait"),
            (libc::SYS_rt_sigreturn, "rt_sigreturn"),
            (libc::SYS_restart_syscall, "restart_syscall"),
        ] {
            assert_eq!(names.call(number as u32, ABI_NATIVE), name);
        }
    }

    #[test]
    fn tables_are_sorted() {
        let Names { native, compat, x32, errors } = Names::load();
        for table in [native, compat, x32, errors] {
            assert!(table.0.is_sorted_by(|a, b| a.0 < b.0));
        }
    }
}
