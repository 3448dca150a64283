//! Synthetic blobs, the running kernel's own, and damaged ones.

use proptest::prelude::*;

use super::*;

/// Builds a BTF blob type by type; ids start at 1 in the order of the calls.
#[derive(Default)]
struct Blob {
    types: Vec<u8>,
    strings: Vec<u8>,
}

impl Blob {
    fn name(&mut self, name: &str) -> u32 {
        if self.strings.is_empty() {
            self.strings.push(0);
        }
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        at
    }

    fn add(&mut self, name: &str, info: u32, size_or_type: u32, data: &[u32]) {
        let name = self.name(name);
        for word in [name, info, size_or_type].iter().chain(data) {
            self.types.extend_from_slice(&word.to_ne_bytes());
        }
    }

    fn compound(&mut self, name: &str, kind: u32, flag: bool, size: u32, members: &[(&str, u32, u32)]) {
        let data: Vec<u32> = members.iter().flat_map(|m| [self.name(m.0), m.1, m.2]).collect();
        self.add(name, kind << 24 | u32::from(flag) << 31 | members.len() as u32, size, &data);
    }

    fn finish(&self) -> Vec<u8> {
        let mut out = vec![0x9f, 0xeb, 1, 0];
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        for word in [24, 0, types, types, strings] {
            out.extend_from_slice(&u32::to_ne_bytes(word));
        }
        out.extend_from_slice(&self.types);
        out.extend_from_slice(&self.strings);
        out
    }
}

fn sample() -> Blob {
    let mut blob = Blob::default();
    blob.add("int", 1 << 24, 4, &[32]); // 1
    blob.add("char", 1 << 24, 1, &[8]); // 2
    blob.add("pid_t", 8 << 24, 1, &[]); // 3: typedef int
    blob.add("", 10 << 24, 3, &[]); // 4: const pid_t
    blob.add("", 3 << 24, 0, &[2, 1, 16]); // 5: char[16]
    blob.add("", 2 << 24, 10, &[]); // 6: task *
    blob.compound("", 5, false, 8, &[("a", 1, 0), ("b", 6, 0)]); // 7: anonymous union
    blob.compound("", 4, false, 16, &[("c", 1, 0), ("", 7, 64)]); // 8: anonymous struct around it
    blob.add("", 8 << 24, 8, &[]); // 9: unnamed typedef of it
    blob.compound(
        "task",
        4,
        true,
        64,
        &[("pid", 4, 0), ("flag", 1, 1 << 24 | 32), ("", 9, 64), ("comm", 5, 192), ("parent", 6, 320)],
    ); // 10
    blob
}

#[test]
fn members_are_found_through_typedefs_arrays_and_anonymous_structs() {
    let types = KernelTypes::parse(sample().finish()).unwrap();
    assert_eq!(types.field("task", "pid"), Some(Field { offset: 0, size: 4 }));
    assert_eq!(types.field("task", "c"), Some(Field { offset: 8, size: 4 }));
    assert_eq!(types.field("task", "a"), Some(Field { offset: 16, size: 4 }));
    assert_eq!(types.field("task", "b"), Some(Field { offset: 16, size: 8 }));
    assert_eq!(types.field("task", "comm"), Some(Field { offset: 24, size: 16 }));
    assert_eq!(types.offset_of("task", "parent"), Some(40));
    assert_eq!(types.struct_size("task"), Some(64));
    assert_eq!(types.any_field("task", &["gone", "pid"]), types.field("task", "pid"));
}

#[test]
fn absent_names_prefixes_and_bit_fields_give_none() {
    let types = KernelTypes::parse(sample().finish()).unwrap();
    for (structure, member) in
        [("task", "pi"), ("task", "pids"), ("task", "flag"), ("tas", "pid"), ("int", "pid")]
    {
        assert_eq!(types.field(structure, member), None, "{structure}.{member}");
    }
    assert_eq!(types.field("task", ""), None);
    assert_eq!(types.struct_size("int"), None);
}

#[test]
fn anonymous_structs_that_contain_themselves_end() {
    let mut blob = Blob::default();
    let members: Vec<_> = (0..50).map(|_| ("", 1, 0)).collect();
    blob.compound("loop", 4, false, 8, &members);
    let types = KernelTypes::parse(blob.finish()).unwrap();
    assert_eq!(types.field("loop", "x"), None);
}

#[test]
fn typedefs_in_a_circle_end() {
    let mut blob = Blob::default();
    blob.add("a", 8 << 24, 2, &[]);
    blob.add("b", 8 << 24, 1, &[]);
    blob.compound("s", 4, false, 8, &[("m", 1, 0)]);
    assert_eq!(KernelTypes::parse(blob.finish()).unwrap().field("s", "m"), None);
}

#[test]
fn what_is_not_btf_is_refused() {
    assert!(matches!(KernelTypes::parse(Vec::new()), Err(BtfError::Truncated(_))));
    assert!(matches!(KernelTypes::parse(vec![0; 64]), Err(BtfError::NotBtf)));
    let mut cut = sample().finish();
    cut.truncate(60);
    assert!(matches!(KernelTypes::parse(cut), Err(BtfError::Truncated(_))));
    let mut newer = sample();
    newer.add("x", 30 << 24, 0, &[]);
    assert!(matches!(KernelTypes::parse(newer.finish()), Err(BtfError::UnknownKind { kind: 30, id: 11 })));
}

/// The numbers must be those of this kernel, whatever it is, so only what every kernel shares is stated here.
#[test]
fn the_running_kernel_has_the_fields_we_need() {
    let Ok(types) = KernelTypes::load() else { return };
    let comm = types.field("task_struct", "comm").unwrap();
    assert_eq!(comm.size, 16);
    let (pid, tgid) =
        (types.field("task_struct", "pid").unwrap(), types.field("task_struct", "tgid").unwrap());
    assert_eq!((pid.size, tgid.size, tgid.offset), (4, 4, pid.offset + 4));
    assert_eq!(types.field("upid", "nr"), Some(Field { offset: 0, size: 4 }));
    assert_eq!(types.field("upid", "ns").unwrap().size, 8);
    assert_eq!(types.struct_size("upid"), Some(16));
    assert_eq!(types.field("ns_common", "inum").unwrap().size, 4);
    // preempt, prev, next, and since 5.18 the state of prev.
    assert!(matches!(types.tracepoint_arguments("sched_switch"), Some(3 | 4)));
    assert_eq!(types.tracepoint_arguments("no_such_tracepoint"), None);
    assert!(
        types.field("task_struct", "group_leader").unwrap().offset
            < types.struct_size("task_struct").unwrap()
    );
}

proptest! {
    #[test]
    fn damaged_blobs_never_panic(
        damage in proptest::collection::vec((0usize..2000, any::<u8>()), 1..8),
        cut in 0usize..2000,
    ) {
        let mut data = sample().finish();
        for (at, byte) in damage {
            let len = data.len();
            data[at % len] = byte;
        }
        data.truncate(data.len() - cut % (data.len() / 4));
        if let Ok(types) = KernelTypes::parse(data) {
            for member in ["pid", "a", "b", "comm", "parent", "none"] {
                let _ = types.field("task", member);
            }
            let _ = types.struct_size("task");
        }
    }
}
