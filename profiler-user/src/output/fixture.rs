//! Profiles that the tests of reports, outputs and readers share.

use std::sync::Arc;

use crate::profile::{
    Counter, Frame, FrameKind, Labels, Location, LocationId, Mapping, MappingId, Meta, ModuleUnknown,
    Overhead, Profile, ProfileBuilder, Quality, STAGE_START, StageCost, ValueType, clean,
};

/// A function's raw name, and its source file and line.
pub(crate) type Named<'a> = (&'a [u8], Option<(&'a str, u32)>);

/// Builds locations without ceremony.
pub(crate) struct Builder {
    pub(crate) inner: ProfileBuilder,
}

impl Builder {
    pub(crate) fn new() -> Self {
        let values = vec![ValueType::new("samples", "count"), ValueType::new("cpu", "nanoseconds")];
        Self { inner: ProfileBuilder::new(values) }
    }

    pub(crate) fn name(&mut self, raw: &[u8]) -> Arc<str> {
        self.inner.name(&clean(raw))
    }

    pub(crate) fn mapping(&mut self, path: &[u8], build_id: &str) -> MappingId {
        let path = self.name(path);
        let build_id = build_id.to_owned();
        self.inner.mapping(Mapping { start: 0, limit: 0x10_0000, file_offset: 0, path, build_id })
    }

    /// A location with these functions, innermost first, each with an optional `(file, line)`.
    pub(crate) fn location(
        &mut self,
        mapping: Option<MappingId>,
        address: u64,
        kind: FrameKind,
        functions: &[Named<'_>],
    ) -> LocationId {
        let last = functions.len() - 1;
        let frame = |(index, (function, source)): (usize, &Named<'_>)| Frame {
            function: self.name(function),
            file: source.map(|(file, _)| self.name(file.as_bytes())),
            line: source.map(|(_, line)| line),
            inlined: index < last,
        };
        let frames = functions.iter().enumerate().map(frame).collect();
        self.inner.location(Location { mapping, address, kind, frames })
    }

    pub(crate) fn sample(
        &mut self,
        stack: &[LocationId],
        (pid, tid): (u32, u32),
        (process, thread): (&[u8], &[u8]),
        values: [u64; 2],
    ) {
        let labels = Labels {
            pid,
            tid,
            process: self.name(process),
            thread: self.name(thread),
            cgroup: (pid == 4242).then(|| self.name(b"/system.slice/web \"1\".service")),
            cpu: (tid == 4243).then_some(1),
        };
        let labels = self.inner.labels(labels);
        let stack = self.inner.stack(stack.to_vec());
        self.inner.add(stack, labels, &values);
    }
}

/// What a recording of 30 seconds says about itself.
pub(crate) fn meta() -> Meta {
    Meta {
        profile_type: "cpu".into(),
        target: "pid 4242 (web <1>)".into(),
        target_slug: "web-4242".into(),
        host: "db-7".into(),
        kernel: "6.1.0".into(),
        clock: "cpu-clock".into(),
        frequency_hz: 99,
        period: 10_101_010,
        start_unix_ns: 1_767_268_800_000_000_000,
        duration_ns: 30_000_000_000,
        scope_notes: vec!["user stacks only".into()],
        resident: Vec::new(),
        allocations: None,
        leaks: None,
    }
}

/// Native, inlined, JIT, kernel, unknown and marker frames; two processes; names that attack every format.
pub(crate) fn hostile() -> Profile {
    let mut b = Builder::new();
    let app = b.mapping(b"/opt/web \"app\"/bin/we<b>;", "0123456789abcdef0123456789abcdef01234567");
    let lib = b.mapping(b"/usr/lib/libfoo.so", "");
    let kernel = b.mapping(b"[kernel]", "ffee");
    let module = b.mapping(b"[nf_conntrack]", "");
    let jit = b.mapping(b"[jit]", "");
    let native = FrameKind::Native;
    let main = b.location(Some(app), 0x1000, native, &[(b"main", Some(("/src/ma in.c", 10)))]);
    let parse = b.location(
        Some(app),
        0x1100,
        native,
        &[
            (b"core::str::next_char", Some(("char.rs", 77))),
            (b"<[u8; 8] as Parse>::skip", Some(("parse.rs", 12))),
            (b"parse", Some(("parse.rs", 40))),
        ],
    );
    let parse_again = b.location(Some(app), 0x1180, native, &[(b"parse", Some(("parse.rs", 44)))]);
    let evil = b.location(Some(lib), 0x20, native, &[(b"a\nb\x1b[31m<script>\"'&]]>;--\xff 7", None)]);
    let operator = b.location(Some(lib), 0x30, native, &[(b"operator new 17", None)]);
    let nameless = b.location(Some(lib), 0x1a2b, native, &[(b"[libfoo.so+0x1a2b]", None)]);
    let script = b.location(Some(jit), 0x7f00_0000, FrameKind::Jit, &[(b"LazyCompile:*on (app.js:1)", None)]);
    let syscall =
        b.location(Some(kernel), 0xffff_ffff_8100_0000, FrameKind::Kernel, &[(b"do_syscall_64", None)]);
    let packet =
        b.location(Some(module), 0xffff_ffff_c000_0000, FrameKind::Kernel, &[(b"nf_conntrack_in", None)]);
    let marker = b.location(None, 0, FrameKind::Marker, &[(b"[unwind: no table for libfoo.so]", None)]);

    let (web, worker): (&[u8], &[u8]) = (b"we b;<\"\n", b"# worker\x1b]0;x");
    let period = meta().period;
    for (stack, tid, count) in [
        (vec![main], 4242, 100),
        (vec![parse, main], 4242, 900),
        (vec![parse_again, main], 4243, 800),
        (vec![evil, main], 4242, 300),
        (vec![operator, main], 4242, 200),
        (vec![packet, syscall, evil, main], 4243, 400),
        (vec![script, main], 4243, 150),
        (vec![nameless, marker], 4242, 62),
    ] {
        b.sample(&stack, (4242, tid), (web, worker), [count, count * period]);
    }
    b.sample(&[syscall], (17, 17), (b"# kthread", b"# kthread"), [100, 100 * period]);
    let counter = |id: &str, what: &str, count| Counter { id: id.into(), what: what.into(), count };
    let unknown = |module: &str, frames, reason: &str| ModuleUnknown {
        module: module.into(),
        frames,
        reason: reason.into(),
    };
    let quality = Quality {
        samples: 3_012,
        noun: String::new(),
        lost: vec![
            counter("no_process", "sample without a process", 2),
            counter("ring_full", "ring buffer full", 10),
        ],
        cut_short: vec![counter("max_frames", "more than 256 frames", 36)],
        frames: 1_512,
        unknown_frames: 62,
        unknown_by_module: vec![
            unknown("libfoo.so", 59, "no symbols"),
            unknown("libbar.so", 1, "file is gone"),
            unknown("a", 1, "x"),
            unknown("b", 1, "y"),
        ],
        notes: vec!["no hardware counters: cpu-clock used".into()],
        overhead: Some(Overhead {
            agent_cpu_ns: 100_000_000,
            bpf_ns: 23_000_000,
            probes_ns: 30_000_000,
            busy_ns: 20_000_000_000,
            wall_ns: 30_000_000_000,
            cpus: 2,
            rss_peak_bytes: 38 << 20,
            bpf_map_bytes: 9 << 20,
            programs: Vec::new(),
            stages: vec![StageCost { name: STAGE_START.into(), cpu_ns: 20_000_000 }],
        }),
        unwind: None,
    };
    b.inner.finish(meta(), quality)
}

/// `main` calls `fib`, which calls itself and `leaf`: 10 samples.
pub(crate) fn recursive() -> Profile {
    let mut b = Builder::new();
    let prog = b.mapping(b"/bin/prog", "");
    let at = |b: &mut Builder, address, name: &[u8]| {
        b.location(Some(prog), address, FrameKind::Native, &[(name, None)])
    };
    let (main, fib, leaf) = (at(&mut b, 1, b"main"), at(&mut b, 2, b"fib"), at(&mut b, 3, b"leaf"));
    for (stack, count) in
        [(vec![main], 1), (vec![fib, main], 4), (vec![fib, fib, main], 3), (vec![leaf, fib, fib, main], 2)]
    {
        b.sample(&stack, (10, 11), (b"prog", b"worker"), [count, count * 10]);
    }
    b.inner.finish(meta(), Quality { samples: 10, frames: 30, ..Quality::default() })
}

/// A recording that saw nothing.
pub(crate) fn empty() -> Profile {
    Builder::new().inner.finish(meta(), Quality::default())
}

/// Compares with a file in `testdata`. `PERF_AGENT_BLESS=1 cargo test` rewrites the file instead; look at the diff.
pub(crate) fn golden(name: &str, actual: impl AsRef<[u8]>) {
    let actual = actual.as_ref();
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/output/testdata").join(name);
    if std::env::var_os("PERF_AGENT_BLESS").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read(&path).unwrap_or_default();
    assert!(actual == expected, "{name} differs from what was written:\n{}", String::from_utf8_lossy(actual));
}
