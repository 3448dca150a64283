//! What is written is read back the same, and nothing that is read makes the reader panic.

use std::io::Write;

use proptest::prelude::*;

use super::*;
use crate::output::{Format, OutputOptions, fixture};
use crate::profile::{FrameKind, LeakStack, LeakSums, Leaks};
use crate::report::Roots;

fn written(format: &str, profile: &Profile, options: &OutputOptions) -> Vec<u8> {
    let mut out = Vec::new();
    (Format::from_name(format).unwrap().write)(profile, options, &mut out).unwrap();
    out
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

#[test]
fn pprof_is_read_back_without_loss() {
    for profile in [fixture::hostile(), fixture::recursive(), fixture::empty()] {
        for format in ["pprof", "pprof-raw"] {
            let back = read_bytes(&written(format, &profile, &OutputOptions::default())).unwrap();
            assert_eq!(back, profile);
        }
    }
}

#[test]
fn kinds_that_a_mapping_does_not_show_survive() {
    let mut b = fixture::Builder::new();
    let odd = b.mapping(b"/opt/odd", "");
    let location = b.location(Some(odd), 1, FrameKind::Kernel, &[(b"f", None)]);
    let bare = b.location(None, 2, FrameKind::Native, &[(b"[0x2]", None)]);
    b.sample(&[location, bare], (1, 1), (b"p", b"p"), [1, 1]);
    let profile = b.inner.finish(fixture::meta(), crate::profile::Quality::default());
    assert_eq!(read_bytes(&written("pprof", &profile, &OutputOptions::default())).unwrap(), profile);
}

#[test]
fn what_is_known_of_leaks_survives() {
    let mut profile = fixture::hostile();
    let sums = |bytes: f64| LeakSums { live_bytes: bytes, series: vec![bytes; 300], ..LeakSums::default() };
    let stacks = profile
        .samples
        .iter()
        .zip(1..)
        .map(|(sample, bytes)| LeakStack { stack: sample.stack, sums: sums(f64::from(bytes)) });
    profile.meta.leaks =
        Some(Leaks { watched_ns: 7, moments_ns: vec![1, 2], stacks: stacks.collect(), ..Leaks::default() });
    let read = read_pprof(&written("pprof", &profile, &OutputOptions::default())).unwrap();
    let (wrote, read_back) = (profile.meta.leaks.as_ref().unwrap(), read.meta.leaks.as_ref().unwrap());
    assert_eq!((read_back.watched_ns, &read_back.moments_ns), (7, &wrote.moments_ns));
    let frames = |profile: &Profile, known: &LeakStack| -> Vec<_> {
        profile.stack(known.stack).iter().map(|id| profile.location(*id).frames.clone()).collect()
    };
    assert_eq!(wrote.stacks.len(), read_back.stacks.len());
    for (a, b) in wrote.stacks.iter().zip(&read_back.stacks) {
        assert_eq!(frames(&profile, a), frames(&read, b));
        assert!((a.sums.live_bytes - b.sums.live_bytes).abs() < f64::EPSILON);
        // No recording has as many moments.
        assert!(b.sums.series.len() < 300);
    }
}

#[test]
fn folded_keeps_stacks_and_counts() {
    let options = OutputOptions { annotate: true, ..OutputOptions::default() };
    let first = written("folded", &fixture::hostile(), &options);
    let back = read_bytes(&first).unwrap();
    assert_eq!(back.total(0), fixture::hostile().total(0));
    assert_eq!(String::from_utf8(written("folded", &back, &options)), String::from_utf8(first));
    assert_eq!(back.meta.profile_type, "samples");
}

#[test]
fn folded_from_other_tools() {
    let text = b"java;Lorg/x;y_[j] 3\n\n# note\njava;z 2.5\r\nloner 4\n";
    let back = read_bytes(text).unwrap();
    assert_eq!((back.total(0), back.samples.len()), (9, 3));
    let out = String::from_utf8(written("folded", &back, &OutputOptions::default())).unwrap();
    assert_eq!(out, "java;Lorg/x;y 3\njava;z 2\nloner 4\n");
}

#[test]
fn damage_is_named() {
    let whole = written("pprof", &fixture::hostile(), &OutputOptions::default());
    let plain = written("pprof-raw", &fixture::hostile(), &OutputOptions::default());
    let error = |bytes: &[u8]| read_bytes(bytes).unwrap_err();
    assert!(matches!(error(&whole[..whole.len() / 2]), FormatError::Gzip { .. }));
    assert!(matches!(error(&plain[..plain.len() - 3]), FormatError::Damaged { .. }));
    assert!(matches!(error(b""), FormatError::Empty));
    assert!(matches!(error(b"\n\n"), FormatError::Empty));
    assert!(matches!(error(b"main;foo\n"), FormatError::NoCount { line: 1, .. }));
    assert!(error(b"<?xml version").to_string().contains("picture"));
    assert_eq!(error(b"\x7fELF\x02\x01\x01"), FormatError::Unknown { hint: "" });
    // A sample of one value that refers to location 9, in a profile with one value type.
    let dangling = [0x0a, 0, 0x12, 4, 0x08, 9, 0x10, 1];
    assert_eq!(error(&dangling), FormatError::Dangling { what: "location", id: 9 });
    assert!(matches!(read_pprof(&[0x12, 2, 0x10, 1]), Err(FormatError::Damaged { offset: 0, .. })));
}

#[test]
fn a_bomb_is_refused() {
    // Unpacks to far more than the ratio of any profile.
    let bomb = gzip(&vec![0; 16 << 20]);
    assert!(bomb.len() < 100 << 10);
    assert!(matches!(read_bytes(&bomb), Err(FormatError::TooLarge { .. })));
    // Two bytes a message: small when packed and when unpacked, large as structures.
    let messages = [0x22, 0].repeat(3 << 20);
    assert!(matches!(read_bytes(&messages), Err(FormatError::TooLarge { .. })));
    let strings = [0x32, 0].repeat(1 << 20);
    assert!(read_bytes(&gzip(&strings)).is_ok());
}

#[test]
fn what_a_file_says_about_itself_is_cleaned() {
    let mut profile = fixture::recursive();
    profile.meta.target = "\x1b[2Jx".into();
    profile.quality.notes.push("\x1b]0;x\x07".into());
    let back = read_bytes(&written("pprof", &profile, &OutputOptions::default())).unwrap();
    assert_eq!(back.meta.target, "\\x1b[2Jx");
    assert!(!back.quality.notes[0].contains('\x1b'));
}

/// Folded lines with equal stacks added up: names that only differ in what the format can't hold are one.
fn counts(folded: &[u8]) -> std::collections::BTreeMap<String, u64> {
    let mut counts = std::collections::BTreeMap::new();
    for line in std::str::from_utf8(folded).unwrap().lines() {
        let (stack, count) = line.rsplit_once(' ').unwrap();
        *counts.entry(stack.to_owned()).or_default() += count.parse::<u64>().unwrap();
    }
    counts
}

/// Profiles of up to twelve samples over a handful of functions.
fn profiles() -> impl Strategy<Value = Profile> {
    let frame = (0_u64..6, 0_u32..3, 0_u8..4);
    let sample = (prop::collection::vec(frame, 0..8), 1_u32..4, "[ -~]{0,9}", 0_u64..1_000_000);
    prop::collection::vec(sample, 0..12).prop_map(|samples| {
        let mut b = fixture::Builder::new();
        for (frames, tid, thread, count) in samples {
            let mut stack = Vec::new();
            for (address, inlined, kind) in frames {
                let (path, kind) = [
                    (Some("/bin/prog"), FrameKind::Native),
                    (Some("[kernel]"), FrameKind::Kernel),
                    (Some("[jit]"), FrameKind::Jit),
                    (None, FrameKind::Marker),
                ][kind as usize];
                let mapping = path.map(|path| b.mapping(path.as_bytes(), "ab"));
                let names: Vec<String> = (0..=inlined).map(|depth| format!("f{address}.{depth}")).collect();
                let functions: Vec<fixture::Named<'_>> =
                    names.iter().map(|name| (name.as_bytes(), Some(("a.c", 3)))).collect();
                stack.push(b.location(mapping, address, kind, &functions));
            }
            b.sample(&stack, (tid * 10, tid), (b"prog", thread.as_bytes()), [count, count * 7]);
        }
        b.inner.finish(fixture::meta(), fixture::hostile().quality)
    })
}

proptest! {
    #[test]
    fn pprof_round_trip(profile in profiles()) {
        let back = read_bytes(&written("pprof-raw", &profile, &OutputOptions::default())).unwrap();
        prop_assert_eq!(back, profile);
    }

    #[test]
    fn folded_round_trip(profile in profiles()) {
        let options = OutputOptions { annotate: true, roots: Roots::Thread, ..OutputOptions::default() };
        let first = written("folded", &profile, &options);
        match read_folded(&first) {
            Ok(back) => {
                prop_assert_eq!(back.total(0), profile.total(0));
                let again = written("folded", &back, &OutputOptions { annotate: true, ..OutputOptions::default() });
                prop_assert_eq!(counts(&again), counts(&first));
            }
            Err(error) => prop_assert_eq!((error, profile.total(0)), (FormatError::Empty, 0)),
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = read_bytes(&bytes);
        let _ = read_pprof(&bytes);
        let _ = read_folded(&bytes);
    }

    #[test]
    fn damaged_profiles_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = written("pprof-raw", &fixture::hostile(), &OutputOptions::default());
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(profile) = read_pprof(&bytes) {
            for format in crate::output::FORMATS {
                (format.write)(&profile, &OutputOptions::default(), &mut Vec::new()).unwrap();
            }
        }
    }
}
