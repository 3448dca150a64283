//! The rows by which stacks are walked, against another reader of the same information, on the files of this system.

use std::path::PathBuf;

use tests::{agent, run};

use crate::recording::background;

/// Where distributions put the libraries of the processor that this runs on.
fn folders() -> [String; 4] {
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    [multiarch, "/usr/lib64".to_owned(), "/usr/lib".to_owned(), "/lib".to_owned()]
}

/// The first file of this system whose name starts so.
fn library(prefix: &str) -> PathBuf {
    let files = folders().into_iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let mut found: Vec<PathBuf> = files
        .filter(|file| file.file_name().to_str().is_some_and(|name| name.starts_with(prefix)))
        .map(|file| file.path())
        .collect();
    found.sort();
    found.into_iter().next().unwrap_or_else(|| panic!("this test reads {prefix}*: install it"))
}

/// The number in front of a word of a line.
fn count(line: &str, word: &str) -> u64 {
    let before = line.split(&format!(" {word}")).next().unwrap();
    let number = before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap();
    number.parse().unwrap_or_else(|_| panic!("no number of {word} in: {line}"))
}

#[test]
fn every_row_of_the_usual_files_leads_where_the_information_leads() {
    let mut files = ["libc.so.6", "ld-linux-", "libcrypto.so.", "libstdc++.so.6"].map(library).to_vec();
    files.push(PathBuf::from("/usr/bin/python3"));
    files.push(PathBuf::from(agent().get_program()));
    let checked = run(agent().args(["debug", "unwind", "--check"]).args(&files)).unwrap();
    assert_eq!(checked.code, 0, "{}{}", checked.stdout, checked.stderr);
    for file in &files {
        let start = format!("{}: ", file.display());
        let line = checked.stdout.lines().find(|line| line.starts_with(&start));
        let line = line.unwrap_or_else(|| panic!("{start} not in\n{}", checked.stdout));
        let line = &line[start.len()..];
        let rows = count(line, "rows: ");
        assert!(rows > 500 && count(line, "equal") > 0, "{start}{line}");
        assert_eq!((count(line, "different"), count(line, "pages refused")), (0, 0), "{start}{line}");
        assert!(count(line, "unsupported") * 1000 < rows * 5, "{start}{line}");
    }
}

#[test]
fn rows_of_files_and_processes_are_shown() {
    let libc = library("libc.so.6");
    let whole = run(agent().args(["debug", "unwind"]).arg(&libc)).unwrap();
    assert_eq!(whole.code, 0, "{}", whole.stderr);
    for text in ["unwind information  .eh_frame, ", " text pages, ", "cfa=", "end of the stack"] {
        assert!(whole.stdout.contains(text), "`{text}` is not in the rows of libc");
    }
    let row = whole.stdout.lines().find(|line| line.contains("cfa=")).unwrap().trim();
    let (address, rule) = row.split_once("  ").unwrap();
    let one = run(agent().args(["debug", "unwind"]).arg(&libc).arg(address)).unwrap();
    assert!(one.stdout.starts_with(&format!("{address}-")) && one.stdout.contains(rule), "{}", one.stdout);

    let child = background("sleep", &["60"]);
    let pid = child.id().to_string();
    // The dynamic linker runs first.
    let maps = PathBuf::from(format!("/proc/{pid}/maps"));
    let text = || std::fs::read_to_string(&maps).unwrap();
    while !text().contains("libc.so") {}
    let process = run(agent().args(["debug", "unwind", &pid])).unwrap();
    let line = process.stdout.lines().find(|line| line.contains("libc.so")).unwrap_or_default();
    assert!(
        line.ends_with(" functions") && line.contains(".eh_frame, "),
        "{}{}",
        process.stdout,
        process.stderr
    );
    let start = line.split('-').next().unwrap();
    let one = run(agent().args(["debug", "unwind", &pid, start])).unwrap();
    assert!(one.code == 0 && one.stdout.contains(start), "{}{}", one.stdout, one.stderr);
}

#[test]
fn vm_what_has_no_rows_says_why() {
    let hints = [
        (vec!["/nowhere"], 1, "name an ELF file"),
        (vec!["/proc/self/status"], 1, "shared libraries have unwind information"),
        (vec!["4294967295"], 1, "write ./4294967295"),
        (vec!["2"], 3, "kernel thread"),
        (vec!["/proc/self/exe", "zebra"], 2, "addresses are hexadecimal"),
        (vec!["/proc/self/exe", "ffffffffffff"], 2, "readelf -S"),
        (vec!["a", "b", "c"], 2, "unexpected argument"),
    ];
    for (arguments, code, hint) in hints {
        let run = run(agent().args(["debug", "unwind"]).args(&arguments)).unwrap();
        assert_eq!(run.code, code, "{arguments:?}: {}", run.stderr);
        assert!(run.stderr.contains(hint), "{arguments:?}: {}", run.stderr);
    }
}
