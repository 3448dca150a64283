//! Each stage of a sample in user space, as the work grows ten and a hundred times: `cargo bench -p profiler-user`.
//!
//! Criterion says how many elements a second a stage takes: where this falls as the work grows, the stage does not scale.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]

mod common;

use std::fs::File;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use common::{Samples, processes, record};
use profiler_user::aggregate::{Aggregate, StackScope, values};
use profiler_user::ingest::decode_record;
use profiler_user::object::Elf;
use profiler_user::output::{FORMATS, OutputOptions};
use profiler_user::profile::{
    Frame, FrameKind, Labels, Location, Meta, Profile, ProfileBuilder, Quality, ValueType,
};
use profiler_user::symbolize::Names;
use profiler_user::symbolize::native::{Content, ObjectSource, Options, symbolize};
use profiler_user::unwind_info::UnwindInfo;

/// Sizes of the work: once, ten times, a hundred times.
const GROWTH: [u64; 3] = [1_000, 10_000, 100_000];

/// A real object with many functions: whatever runs the benchmark.
const OBJECT: &str = "/proc/self/exe";

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for frames in [5_usize, 50, 480] {
        let bytes = record(&vec![0x5555_0000_1000; frames], &[0xffff_ffff_8100_0000; 5]);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::from_parameter(frames), |bencher| {
            bencher.iter(|| decode_record(black_box(&bytes)));
        });
    }
    group.finish();
}

/// Samples into sums, for more and more distinct stacks: the first time round all are new, from then on all are known.
fn aggregate(criterion: &mut Criterion) {
    for known in [false, true] {
        let mut group = criterion.benchmark_group(if known { "aggregate known" } else { "aggregate new" });
        group.sample_size(10);
        for distinct in GROWTH {
            let samples = Samples { distinct, depth: 40 };
            let samples: Vec<_> = (0..distinct).map(|index| samples.sample(index)).collect();
            let mut processes = processes(1);
            let mut filled = Aggregate::new(StackScope::Both);
            let mut add = |aggregate: &mut Aggregate| {
                for sample in &samples {
                    let moment = processes.moment(sample);
                    aggregate.add(sample, &moment, &mut processes, values([1, sample.weight]));
                }
            };
            group.throughput(Throughput::Elements(distinct));
            group.bench_function(BenchmarkId::from_parameter(distinct), |bencher| {
                if known {
                    add(&mut filled);
                    bencher.iter(|| add(&mut filled));
                } else {
                    bencher.iter_batched(
                        || Aggregate::new(StackScope::Both),
                        |mut empty| {
                            add(&mut empty);
                            empty
                        },
                        BatchSize::PerIteration,
                    );
                }
            });
        }
        group.finish();
    }
}

/// Unwind tables by the text page, 64 KiB of code each.
fn tables(criterion: &mut Criterion) {
    let info = UnwindInfo::open(Elf::open(File::open(OBJECT).unwrap()).unwrap(), |_| None);
    let pages = info.code_pages();
    let mut group = criterion.benchmark_group("unwind tables");
    group.sample_size(10);
    for count in [1, 10, 100] {
        let pages: Vec<u64> = pages.iter().copied().take(count).collect();
        group.throughput(Throughput::Elements(pages.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(pages.len()), |bencher| {
            bencher.iter(|| pages.iter().map(|page| info.page(*page).unwrap().rows.len()).sum::<usize>());
        });
    }
    group.finish();
}

/// Names for more and more addresses of one object, opening it included.
fn names(criterion: &mut Criterion) {
    let file = File::open(OBJECT).unwrap();
    let first =
        UnwindInfo::open(Elf::open(file.try_clone().unwrap()).unwrap(), |_| None).code_pages()[0] << 16;
    let source = ObjectSource { path: OBJECT, content: Content::File(&file), roots: &[], build_id: None };
    let mut group = criterion.benchmark_group("symbolize");
    group.sample_size(10);
    for count in [10_u64, 100, 1_000] {
        let offsets: Vec<u64> = (0..count).map(|index| first + index * 997).collect();
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| symbolize(&source, &offsets, &Options::default(), &mut Names::default()));
        });
    }
    group.finish();
}

/// A profile of so many stacks of forty frames over two thousand functions.
fn profile(stacks: u64) -> Profile {
    let mut builder =
        ProfileBuilder::new(vec![ValueType::new("samples", "count"), ValueType::new("cpu", "nanoseconds")]);
    let locations: Vec<_> = (0..2_000_u64)
        .map(|function| {
            let function_name = builder.name(&format!("namespace::module::function_{function}"));
            let frame = Frame { function: function_name, file: None, line: None, inlined: false };
            let kind = FrameKind::Native;
            builder.location(Location { mapping: None, address: function * 64, kind, frames: vec![frame] })
        })
        .collect();
    let name = builder.name("program");
    let labels = builder.labels(Labels {
        pid: 7,
        tid: 7,
        process: Arc::clone(&name),
        thread: name,
        cgroup: None,
        cpu: None,
    });
    for stack in 0..stacks {
        // Shifted, or stacks would come round with the functions.
        let place = |frame: u64| if frame < 20 { (stack >> frame) * 31 + frame * 977 } else { frame };
        let frames = (0..40).map(|frame| locations[(place(frame) % 2_000) as usize]).collect();
        let stack = builder.stack(frames);
        builder.add(stack, labels, &[1, 10_101_010]);
    }
    builder.finish(Meta::default(), Quality::default())
}

fn outputs(criterion: &mut Criterion) {
    for name in ["folded", "svg", "pprof", "json"] {
        let format = FORMATS.iter().find(|format| format.name == name).unwrap();
        let mut group = criterion.benchmark_group(format!("output {name}"));
        group.sample_size(10);
        for stacks in [100, 1_000, 10_000] {
            let profile = profile(stacks);
            group.throughput(Throughput::Elements(stacks));
            group.bench_function(BenchmarkId::from_parameter(stacks), |bencher| {
                bencher.iter(|| {
                    let mut bytes = Vec::new();
                    (format.write)(&profile, &OutputOptions::default(), &mut bytes).unwrap();
                    bytes
                });
            });
        }
        group.finish();
    }
}

criterion_group!(stages, decode, aggregate, tables, names, outputs);
criterion_main!(stages);
