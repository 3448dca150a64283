//! Files that were cut or changed at any place, and files of the first version.

use std::fs;
use std::path::Path;

use super::tests::{ALWAYS, filled, limits, select, window};
use super::{Level, Limits, Store};

const FILE: &str = "0000000000.0.windows";

/// A store of these bytes, opened, read and written to: nothing panics, and everything is either found or reported.
fn survives(bytes: &[u8], whole_windows: u64, expected: impl Fn(u64, bool) -> bool, what: &str) {
    let folder = in_memory();
    drop(Store::open(folder.path(), limits()).unwrap());
    fs::write(folder.path().join(FILE), bytes).unwrap();
    let before = select(folder.path(), &ALWAYS);
    let (mut store, opened) = Store::open(folder.path(), limits()).unwrap();
    assert!(opened.windows <= whole_windows, "{what}");
    assert!(before.windows <= opened.windows, "{what}: a reader sees what a writer keeps, at most");
    let is_told = !opened.aside.is_empty() || opened.torn_bytes > 0;
    assert!(expected(opened.windows, is_told), "{what}: {opened:?}");
    store.append(&window(1_000, &[(1, 1, 77)])).unwrap();
    drop(store);
    let after = select(folder.path(), &ALWAYS);
    assert_eq!(after.windows, opened.windows + 1, "{what}");
    assert!(after.problems.is_empty(), "{what}: {:?}", after.problems);
    assert_eq!(Store::open(folder.path(), limits()).unwrap().1.aside.len(), 0, "{what}: reported twice");
}

/// A folder that need not wait for a disk, thousands of times.
fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Ends of the records of a file.
fn ends(folder: &Path) -> Vec<u64> {
    let folder = super::folder::Folder::open(folder).unwrap();
    let mut records = super::segment::open_records(&folder, FILE).unwrap();
    let mut ends = vec![records.at];
    while records.next().unwrap().is_some_and(|record| record.is_ok()) {
        ends.push(records.at);
    }
    ends
}

fn small_store() -> (Vec<u8>, Vec<u64>) {
    let folder = tempfile::tempdir().unwrap();
    drop(filled(folder.path(), limits(), 0..3));
    (fs::read(folder.path().join(FILE)).unwrap(), ends(folder.path()))
}

/// Windows whose records end at or before this byte.
fn whole(ends: &[u64], at: usize) -> u64 {
    ends.iter().skip(1).filter(|end| **end <= at as u64).count() as u64
}

#[test]
fn a_file_that_is_cut_anywhere_loses_the_window_that_was_cut() {
    let (bytes, ends) = small_store();
    for length in 0..bytes.len() {
        let kept = whole(&ends, length);
        let is_clean_cut = ends.contains(&(length as u64)) || length <= 16;
        let expected = |windows, is_told| windows == kept && is_told != is_clean_cut;
        survives(&bytes[..length], 3, expected, &format!("cut at {length}"));
    }
}

#[test]
fn a_file_with_a_wrong_bit_anywhere_loses_what_comes_behind_it() {
    let (bytes, ends) = small_store();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        // Everything before the record with the bit in it.
        let kept = if at < 16 { 0 } else { whole(&ends, at) };
        survives(&damaged, 3, |windows, is_told| windows == kept && is_told, &format!("bit at {at}"));
    }
}

#[test]
fn a_damaged_file_among_good_ones_is_set_aside_alone() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { file_span: std::time::Duration::from_secs(100), ..limits() };
    drop(filled(folder.path(), limits, 0..40));
    let path = folder.path().join("0000000001.0.windows");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&path, &bytes).unwrap();
    let found = select(folder.path(), &ALWAYS);
    assert!((30..40).contains(&found.windows) && found.problems.len() == 1, "{:?}", found.problems);
    assert!(found.profile.quality.notes.iter().any(|note| note.contains("0000000001.0.windows")));
    let (store, opened) = Store::open(folder.path(), limits).unwrap();
    assert_eq!((opened.windows, opened.aside.len()), (found.windows, 1));
    assert_eq!(opened.aside[0].kept_windows, found.windows - 30);
    assert_eq!(fs::read(folder.path().join(&opened.aside[0].name)).unwrap(), bytes, "kept as it was");
    drop(store);
    assert!(Store::open(folder.path(), limits).unwrap().1.aside.is_empty());
}

#[test]
fn what_a_merge_left_over_is_cleared_and_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits {
        file_span: std::time::Duration::from_mins(2),
        recorded_for: std::time::Duration::ZERO,
        ..limits()
    };
    drop(filled(folder.path(), self::limits(), 0..12));
    let fine = fs::read(folder.path().join(FILE)).unwrap();
    let mut store = Store::open(folder.path(), limits).unwrap().0;
    store.append(&window(12, &[(1, 1, 1)])).unwrap();
    drop(store);
    // Killed after the new file got its name and before the old one was removed.
    fs::write(folder.path().join(FILE), fine).unwrap();
    fs::write(folder.path().join("0000000007.1.windows.new"), b"half").unwrap();
    assert_eq!(select(folder.path(), &ALWAYS).windows, 13);
    assert_eq!(Store::open(folder.path(), limits).unwrap().1.windows, 13);
    let names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name == FILE || name == "0000000007.1.windows.new"), "{names:?}");
}

/// The windows of the store in `testdata`, which the first version wrote.
const FIRST_VERSION: std::ops::Range<u64> = 0..9;

#[test]
fn a_store_of_the_first_version_opens() {
    let saved = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/testdata/version-1");
    if std::env::var_os("PERF_AGENT_BLESS").is_some() && !saved.exists() {
        // Never again: the point of these files is that they are old.
        let limits = Limits {
            recorded_for: std::time::Duration::ZERO,
            minutes_for: std::time::Duration::from_mins(1),
            file_span: std::time::Duration::from_secs(30),
            ..limits()
        };
        drop(filled(&saved, limits, FIRST_VERSION));
        fs::remove_file(saved.join("lock")).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let expected = tempfile::tempdir().unwrap();
    drop(filled(expected.path(), limits(), FIRST_VERSION));
    drop(Store::open(folder.path(), limits()).unwrap());
    for entry in fs::read_dir(saved).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let (mut store, opened) = Store::open(folder.path(), limits()).unwrap();
    assert_eq!((opened.windows, opened.aside.len()), (9, 0));
    let (windows, _) = super::Reader::open(folder.path()).unwrap().windows(&ALWAYS).unwrap();
    assert!(
        Level::ALL.iter().all(|level| windows.iter().any(|window| window.level == *level)),
        "{windows:?}"
    );
    let (found, expected) = (select(folder.path(), &ALWAYS), select(expected.path(), &ALWAYS));
    assert_eq!(super::tests::totals(&found.profile), super::tests::totals(&expected.profile));
    assert_eq!(found.profile.quality, expected.profile.quality);
    store.append(&window(50, &[(1, 1, 1)])).unwrap();
    assert_eq!(select(folder.path(), &ALWAYS).windows, 10);
}

/// The content of the first record of a small store, unpacked.
fn content() -> Vec<u8> {
    let folder = in_memory();
    let (mut store, _) = Store::open(folder.path(), limits()).unwrap();
    store.append(&crate::output::fixture::hostile()).unwrap();
    let folder = super::folder::Folder::open(folder.path()).unwrap();
    let mut records = super::segment::open_records(&folder, FILE).unwrap();
    records.next().unwrap().unwrap().unwrap().content().unwrap()
}

#[test]
fn content_with_a_wrong_byte_anywhere_is_refused_or_can_be_shown() {
    let content = content();
    assert!(super::profile_of_content(&content).is_ok());
    for at in 0..content.len() {
        for byte in [0, 1, 0x7f, 0x80, 0xff, content[at] ^ 1] {
            let mut damaged = content.clone();
            damaged[at] = byte;
            let Ok(profile) = super::profile_of_content(&damaged) else { continue };
            for format in crate::output::FORMATS {
                (format.write)(&profile, &crate::output::OutputOptions::default(), &mut Vec::new()).unwrap();
            }
        }
        assert!(super::profile_of_content(&content[..at]).is_err());
    }
}
