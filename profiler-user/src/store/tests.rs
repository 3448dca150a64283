//! The store as a whole: what goes in comes out, whatever happens to its files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::{Filter, Level, Limits, Pattern, Reader, SeriesBy, Store, StoreError};
use crate::output::fixture;
use crate::profile::{FrameKind, Profile, ProgramCost, UnwindTables, ValueType};

const SECOND: u64 = 1_000_000_000;
/// A full hour and a full ten minutes.
const BEGIN: u64 = 1_767_268_800 * SECOND;
pub(super) const ALWAYS: Range<u64> = 0..u64::MAX;

pub(super) fn limits() -> Limits {
    Limits { max_age: Duration::from_hours(24 * 365), ..Limits::default() }
}

/// A window of ten seconds, the number `index` since [`BEGIN`], with these samples: function, process, count.
pub(super) fn window(index: u64, samples: &[(u64, u32, u64)]) -> Profile {
    let mut b = fixture::Builder::new();
    let program = b.mapping(b"/bin/prog", "ab");
    let main = b.location(Some(program), 1, FrameKind::Native, &[(b"main", Some(("main.c", 3)))]);
    for (function, pid, count) in samples {
        let name = format!("f{function}");
        let leaf = b.location(Some(program), 100 + function, FrameKind::Native, &[(name.as_bytes(), None)]);
        let process = format!("p{pid}");
        b.sample(&[leaf, main], (*pid, *pid), (process.as_bytes(), b"thread"), [*count, count * 10_101_010]);
    }
    let mut meta = fixture::meta();
    (meta.start_unix_ns, meta.duration_ns) = (BEGIN + index * 10 * SECOND, 10 * SECOND);
    let mut profile = b.inner.finish(meta, fixture::hostile().quality);
    profile.quality.samples = profile.total(0);
    profile
}

/// Values by folded stack, process and thread: what must not change.
pub(super) fn totals(profile: &Profile) -> BTreeMap<String, Vec<u64>> {
    let mut totals: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for sample in &profile.samples {
        let labels = profile.labels_of(sample);
        let stack = profile.stack(sample.stack).iter().map(|id| &*profile.location(*id).frames[0].function);
        let key = format!("{labels:?} {}", stack.collect::<Vec<_>>().join(";"));
        let sums = totals.entry(key).or_insert_with(|| vec![0; sample.values.len()]);
        sums.iter_mut().zip(&sample.values).for_each(|(sum, value)| *sum += value);
    }
    totals
}

pub(super) fn filled(path: &Path, limits: Limits, windows: Range<u64>) -> Store {
    let (mut store, _) = Store::open(path, limits).unwrap();
    for index in windows {
        store.append(&window(index, &[(index % 7, 1, 1 + index), (3, 2, 5)])).unwrap();
    }
    store
}

pub(super) fn select(path: &Path, range: &Range<u64>) -> super::Selected {
    Reader::open(path).unwrap().select(range, "cpu", &Filter::default()).unwrap()
}

/// A directory that only its owner reaches.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn one_profile_comes_back_as_it_was() {
    for mut profile in [fixture::hostile(), fixture::recursive(), fixture::empty()] {
        profile.quality.unwind = Some(UnwindTables {
            pages: 1,
            rows: 2,
            rules: 3,
            pool_bytes: 4,
            evicted_pages: 5,
            refused_pages: 6,
            spaces: 7,
            mapping_entries: 8,
            delayed_loads: 9,
            refused_mappings: 10,
            finished_samples: 11,
            given_up_samples: 12,
        });
        if let Some(overhead) = &mut profile.quality.overhead {
            overhead.programs.push(ProgramCost { name: "on_cpu".into(), runs: 3, ns: 4 });
        }
        let folder = folder();
        let (mut store, opened) = Store::open(folder.path(), limits()).unwrap();
        assert_eq!(opened, super::Opened::default());
        store.append(&profile).unwrap();
        let found = select(folder.path(), &ALWAYS);
        assert_eq!((found.windows, found.problems.len()), (1, 0));
        let key = |sample: &crate::profile::Sample| sample.values.clone();
        assert_eq!(totals(&found.profile), totals(&profile));
        assert_eq!(found.profile.meta, profile.meta);
        assert_eq!(found.profile.value_types, profile.value_types);
        let mut back = found.profile.clone();
        back.samples.sort_by_key(key);
        profile.samples.sort_by_key(key);
        assert_eq!(back.samples.len(), profile.samples.len());
        let sorted = |mut quality: crate::profile::Quality| {
            quality.lost.sort_by(|a, b| a.id.cmp(&b.id));
            quality
        };
        assert_eq!(sorted(back.quality.clone()), sorted(profile.quality.clone()));
        let frames = |profile: &Profile| {
            let mut all: Vec<_> = profile
                .locations
                .iter()
                .map(|location| (location.address, location.frames.clone()))
                .collect();
            all.sort_by_key(|(address, frames)| (*address, frames[0].function.clone()));
            all
        };
        assert_eq!(frames(&back), frames(&profile));
    }
}

#[test]
fn a_reader_sees_what_a_writer_has_just_stored_and_a_second_writer_is_refused() {
    let folder = folder();
    let mut store = filled(folder.path(), limits(), 0..3);
    let reader = Reader::open(folder.path()).unwrap();
    let windows = |reader: &Reader| reader.select(&ALWAYS, "cpu", &Filter::default()).unwrap().windows;
    assert_eq!(windows(&reader), 3);
    store.append(&window(3, &[(1, 1, 1)])).unwrap();
    assert_eq!(windows(&reader), 4);
    match Store::open(folder.path(), limits()) {
        Err(StoreError::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    drop(store);
    let (mut store, opened) = Store::open(folder.path(), limits()).unwrap();
    assert_eq!((opened.windows, opened.first_unix_ns), (4, BEGIN));
    store.append(&window(4, &[(1, 1, 1)])).unwrap();
    assert_eq!(windows(&reader), 5);
    // It went on with the file that was there.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn ranges_that_meet_count_every_window_once() {
    let folder = folder();
    let _store = filled(folder.path(), limits(), 0..12);
    let at = |seconds: u64| BEGIN + seconds * SECOND;
    let samples = |range: Range<u64>| select(folder.path(), &range).profile.total(0);
    let whole = samples(at(0)..at(120));
    for cut in [10, 33, 45, 60, 110] {
        assert_eq!(samples(at(0)..at(cut)) + samples(at(cut)..at(120)), whole, "{cut}");
    }
    let short = select(folder.path(), &(at(14)..at(15)));
    assert_eq!((short.windows, short.profile.meta.start_unix_ns), (1, at(10)));
    assert_eq!(select(folder.path(), &(at(120)..at(200))).windows, 0);
}

#[test]
fn old_windows_are_merged_and_totals_stay() {
    let folder = folder();
    let limits = Limits {
        recorded_for: Duration::from_mins(5),
        minutes_for: Duration::from_mins(30),
        file_span: Duration::from_mins(10),
        ..limits()
    };
    // Two hours.
    let store = filled(folder.path(), limits, 0..720);
    let found = select(folder.path(), &ALWAYS);
    assert_eq!((found.windows, found.profile.meta.duration_ns), (720, 7200 * SECOND));
    assert_eq!(found.profile.total(0), (1..=720).sum::<u64>() + 720 * 5);
    assert_eq!(found.profile.quality.samples, found.profile.total(0));
    assert_eq!(found.profile.quality.lost_total(), 720 * 12);
    assert_eq!(store.losses().failed_merges, 0);
    let (windows, problems) = Reader::open(folder.path()).unwrap().windows(&ALWAYS).unwrap();
    assert!(problems.is_empty());
    let parts =
        |level: Level| windows.iter().filter(|w| w.level == level).map(|w| w.parts).collect::<Vec<_>>();
    assert!(parts(Level::Recorded).iter().all(|parts| *parts == 1));
    assert!(parts(Level::Minute).iter().all(|parts| *parts == 6) && !parts(Level::Minute).is_empty());
    assert!(parts(Level::TenMinutes).iter().all(|parts| *parts == 60) && parts(Level::TenMinutes).len() > 6);
    assert!(windows.iter().map(|window| window.bytes).sum::<u64>() < store.bytes());
    drop(store);
    assert_eq!(Store::open(folder.path(), limits).unwrap().1.windows, 720);
}

#[test]
fn a_store_never_exceeds_its_size_and_drops_the_oldest_first() {
    let folder = folder();
    let limits = Limits { max_bytes: 20_000, ..limits() };
    let (mut store, _) = Store::open(folder.path(), limits).unwrap();
    for index in 0..400 {
        store.append(&window(index, &[(index, 1, 1)])).unwrap();
        let on_disk: u64 = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_name() != "lock")
            .map(|entry| entry.metadata().unwrap().len())
            .sum();
        assert!(on_disk <= 20_000 && on_disk == store.bytes());
    }
    let found = select(folder.path(), &ALWAYS);
    assert_eq!(found.end_unix_ns, BEGIN + 4000 * SECOND);
    assert_eq!(found.windows + store.losses().by_size.windows, 400);
    assert!(found.windows > 10);
}

#[test]
fn windows_of_allocations_keep_every_value_when_they_are_merged() {
    let kinds =
        ["sampled", "unfollowed_space", "freed_objects", "freed_space", "alloc_objects", "alloc_space"];
    let allocations = |index: u64| {
        let mut profile = window(index, &[(index % 7, 1, 1 + index), (3, 2, 5)]);
        profile.meta.profile_type = "alloc".to_owned();
        profile.value_types = kinds.map(|kind| ValueType::new(kind, "count")).to_vec();
        for sample in &mut profile.samples {
            let first = sample.values[0];
            sample.values = (0..6).map(|value| first * (value + 1)).collect();
        }
        profile
    };
    let quick = Limits {
        recorded_for: Duration::from_mins(5),
        minutes_for: Duration::from_mins(10),
        file_span: Duration::from_mins(5),
        ..limits()
    };
    let [(merged, levels), (plain, _)] = [quick, limits()].map(|limits| {
        let folder = folder();
        let (mut store, _) = Store::open(folder.path(), limits).unwrap();
        for index in 0..360 {
            // Among windows of another kind, as they are recorded.
            store.append(&window(index, &[(index % 5, 9, 1)])).unwrap();
            store.append(&allocations(index)).unwrap();
        }
        let reader = Reader::open(folder.path()).unwrap();
        let found = reader.select(&ALWAYS, "alloc", &Filter::default()).unwrap();
        let levels: BTreeSet<Level> = reader.windows(&ALWAYS).unwrap().0.iter().map(|w| w.level).collect();
        (totals(&found.profile), levels)
    });
    assert_eq!(merged, plain);
    assert_eq!(levels.len(), 3);
}

#[test]
fn a_file_is_not_dropped_to_make_room_for_its_own_merge() {
    let folder = folder();
    let spans = Limits { file_span: Duration::from_mins(5), ..limits() };
    let mut store = filled(folder.path(), spans, 0..90);
    let parts = |level: Level| -> u64 {
        let (windows, _) = Reader::open(folder.path()).unwrap().windows(&ALWAYS).unwrap();
        windows.iter().filter(|window| window.level == level).map(|window| window.parts).sum()
    };
    // Room for another window, and none for a second file beside the first.
    let due = Limits { recorded_for: Duration::ZERO, ..spans };
    store.set_limits(Limits { max_bytes: store.bytes() + 1_000, ..due });
    store.append(&window(90, &[(1, 1, 1)])).unwrap();
    assert_eq!((store.losses().by_size.windows, parts(Level::Recorded)), (0, 91));
    store.set_limits(due);
    store.append(&window(91, &[(1, 1, 1)])).unwrap();
    assert_eq!((parts(Level::Minute), parts(Level::Recorded)), (30, 62));
    // What is older goes for it, where that is enough: all but the next window has room.
    let next = fs::metadata(folder.path().join("0000000001.0.windows")).unwrap().len();
    store.set_limits(Limits { max_bytes: store.bytes() + next, ..due });
    store.append(&window(92, &[(1, 1, 1)])).unwrap();
    assert_eq!((store.losses().by_size.windows, parts(Level::Minute), parts(Level::Recorded)), (30, 30, 33));
}

#[test]
fn windows_that_are_too_old_go() {
    let folder = folder();
    let limits = Limits { max_age: Duration::from_mins(20), file_span: Duration::from_mins(5), ..limits() };
    let store = filled(folder.path(), limits, 0..360);
    let found = select(folder.path(), &ALWAYS);
    assert_eq!(found.windows + store.losses().by_age.windows, 360);
    assert!((120..=160).contains(&found.windows), "{}", found.windows);
}

#[test]
fn a_window_larger_than_the_store_is_refused_and_the_store_goes_on() {
    let folder = folder();
    let limits = Limits { max_bytes: 3_000, ..limits() };
    let (mut store, _) = Store::open(folder.path(), limits).unwrap();
    let large: Vec<(u64, u32, u64)> = (0..2_000).map(|n| (n * 7919 % 10_007, n as u32, n * n)).collect();
    assert!(matches!(store.append(&window(0, &large)), Err(StoreError::TooLarge { .. })));
    assert_eq!(store.losses().not_stored, 1);
    store.append(&window(1, &[(1, 1, 9)])).unwrap();
    assert_eq!(select(folder.path(), &ALWAYS).profile.total(0), 9);
}

#[test]
fn a_directory_that_others_reach_is_refused() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = folder();
    let store = folder.path().join("store");
    drop(filled(&store, limits(), 0..1));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&store), 0o700);
    for entry in fs::read_dir(&store).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    let link = folder.path().join("link");
    symlink(&store, &link).unwrap();
    assert!(matches!(Reader::open(&link), Err(StoreError::NotOurs { .. })));
    fs::set_permissions(&store, fs::Permissions::from_mode(0o755)).unwrap();
    match Reader::open(&store) {
        Err(StoreError::NotOurs { fix: Some(fix), .. }) => assert!(fix.starts_with("chmod 700 ")),
        other => panic!("{other:?}"),
    }
    let missing = folder.path().join("missing");
    assert!(matches!(Reader::open(&missing), Err(StoreError::Missing { .. })));
}

#[test]
fn a_file_of_a_newer_version_is_left_where_it_is() {
    let folder = folder();
    drop(filled(folder.path(), limits(), 0..3));
    let path = folder.path().join("0000000000.0.windows");
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 2;
    let sum = super::record::checksum(&[&bytes[..12]]).to_le_bytes();
    bytes[12..16].copy_from_slice(&sum);
    fs::write(&path, &bytes).unwrap();
    let (mut store, opened) = Store::open(folder.path(), limits()).unwrap();
    assert_eq!((opened.windows, opened.aside.len()), (0, 1));
    assert!(opened.aside[0].why.contains("version 2"), "{:?}", opened.aside);
    store.append(&window(9, &[(1, 1, 1)])).unwrap();
    let found = select(folder.path(), &ALWAYS);
    assert_eq!((found.windows, found.problems.len()), (1, 1));
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_series_has_one_value_per_window_and_process() {
    let folder = folder();
    let _store = filled(folder.path(), limits(), 0..4);
    let reader = Reader::open(folder.path()).unwrap();
    let series = |value, by| reader.series(&ALWAYS, "cpu", &Filter::default(), value, by).unwrap();
    let cpu = series(None, SeriesBy::Process);
    assert_eq!(cpu.points.len(), 4);
    assert_eq!(cpu.points[2].values["p1"], 3 * 10_101_010);
    assert_eq!(cpu.points[3].values["p2"], 5 * 10_101_010);
    let samples = series(Some("samples"), SeriesBy::Pid);
    assert_eq!(samples.points[2].values["p1 (1)"], 3);
    let nothing = series(Some("bytes"), SeriesBy::Process);
    assert!(nothing.points.is_empty() && nothing.other_values == ["samples", "cpu"]);
}

/// Samples of up to twelve windows: function, process, count.
fn histories() -> impl Strategy<Value = Vec<Vec<(u64, u32, u64)>>> {
    let sample = (0_u64..9, 1_u32..4, 0_u64..1_000);
    prop::collection::vec(prop::collection::vec(sample, 0..8), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_filter_keeps_its_totals(history in histories()) {
        let folder = folder();
        let (mut store, _) = Store::open(folder.path(), limits()).unwrap();
        for (index, samples) in history.iter().enumerate() {
            store.append(&window(index as u64, samples)).unwrap();
        }
        let reader = Reader::open(folder.path()).unwrap();
        let all = || history.iter().flatten();
        for pid in 1_u32..4 {
            let expected: u64 = all().filter(|sample| sample.1 == pid).map(|sample| sample.2).sum();
            let by_name = Filter { process: Some(Pattern::parse(&format!("p{pid}")).unwrap()), ..Filter::default() };
            let by_pid = Filter { pids: vec![pid], ..Filter::default() };
            for filter in [by_name, by_pid] {
                let found = reader.select(&ALWAYS, "cpu", &filter).unwrap().profile;
                prop_assert_eq!(found.total(0), expected);
                prop_assert_eq!(found.quality.samples, expected);
            }
        }
        let whole = reader.select(&ALWAYS, "cpu", &Filter::default()).unwrap().profile;
        prop_assert_eq!(whole.total(0), all().map(|sample| sample.2).sum::<u64>());
        let none = reader.select(&ALWAYS, "off-cpu", &Filter::default()).unwrap();
        prop_assert_eq!(none.windows, 0);
    }

    #[test]
    fn merging_in_any_steps_is_the_same(history in histories()) {
        // At once, and minute by minute: what is found at the end is the same.
        let quick = Limits { recorded_for: Duration::ZERO, minutes_for: Duration::ZERO, file_span: Duration::from_secs(30), ..limits() };
        let [merged, plain] = [quick, limits()].map(|limits| {
            let folder = folder();
            let (mut store, _) = Store::open(folder.path(), limits).unwrap();
            for (index, samples) in history.iter().enumerate() {
                store.append(&window(index as u64, samples)).unwrap();
            }
            assert_eq!(store.losses().failed_merges, 0);
            select(folder.path(), &ALWAYS).profile
        });
        prop_assert_eq!(totals(&merged), totals(&plain));
        prop_assert_eq!(&merged.quality, &plain.quality);
        prop_assert_eq!(&merged.meta, &plain.meta);
    }
}
