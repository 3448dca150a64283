//! Names for kernel addresses, from `/proc/kallsyms`.
//!
//! In: the symbol list, read in one pass. Out: function and module for an address. Kept compactly (2 to 4 MB for a
//! distribution kernel): text symbols only, one name per address, all names in one block. The list has no sizes, so
//! a function ends where the next symbol of any kind begins, or at a limit. `/proc/modules` is not needed.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::sync::Arc;

use super::Names;
use super::unknown::unknown_frame;
use crate::object::BuildId;
use crate::profile::Frame;

/// Longest function assumed. The kernel's longest, its BPF interpreter and some ciphers, are below 128 KiB; the last
/// function of a module would otherwise own everything up to the next module.
const LONGEST_FUNCTION_BYTES: u64 = 256 << 10;

/// Bytes of names that are kept. A kernel with everything built in has about 10 MB.
const NAMES_BYTES: usize = 256 << 20;

/// The mapping that stands for the kernel image.
pub const KERNEL: &str = "[kernel]";

/// Why there are no kernel symbols.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel was built without `CONFIG_KALLSYMS`, or `/proc` is not mounted.
    #[error("can't read /proc/kallsyms: {0}")]
    Io(#[from] io::Error),
    /// All addresses read as zero: `kernel.kptr_restrict`, or a missing capability, hides them.
    #[error("kernel.kptr_restrict hides all kernel addresses")]
    Hidden,
    /// The list has no code symbols.
    #[error("/proc/kallsyms lists no functions")]
    Empty,
    /// The list is longer than any kernel's.
    #[error("/proc/kallsyms is over the limit")]
    Limit,
}

/// The functions of the running kernel and its modules.
#[derive(Debug, Default)]
pub struct KernelSymbols {
    /// Sorted by address.
    entries: Vec<Entry>,
    names: Vec<u8>,
    /// Module names in brackets; the first is [`KERNEL`].
    modules: Vec<Arc<str>>,
}

/// A function, or (without a name) a place where one ends and something else begins.
#[derive(Debug, Clone, Copy)]
struct Entry {
    address: u64,
    /// Where the name begins in the block. It ends at the next line feed.
    name: u32,
    module: u16,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Local,
    Global,
    Weak,
    /// Not a function.
    Other,
}

/// A kernel function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelSymbol<'a> {
    /// Name as the kernel lists it.
    pub name: &'a str,
    /// `[kernel]`, `[ext4]`, or `[bpf]` for BPF programs.
    pub module: &'a str,
    /// Where the function starts.
    pub start: u64,
}

impl KernelSymbols {
    /// Reads the running kernel's list.
    ///
    /// # Errors
    /// When there is none, or it hides its addresses from us.
    pub fn load() -> Result<Self, KernelError> {
        Self::from_reader(BufReader::with_capacity(256 << 10, File::open("/proc/kallsyms")?))
    }

    /// Reads a list in the format of `/proc/kallsyms`: address, type, name, and the module in brackets. Lines of
    /// another form are passed over.
    ///
    /// # Errors
    /// As [`KernelSymbols::load`].
    pub fn from_reader(mut reader: impl BufRead) -> Result<Self, KernelError> {
        let mut symbols = Self { modules: vec![Arc::from(KERNEL)], ..Self::default() };
        let (mut line, mut hidden) = (Vec::with_capacity(512), false);
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let Some(parsed) = Line::parse(&line).filter(|line| !line.is_padding()) else { continue };
            if parsed.kind != Kind::Other && parsed.address == 0 {
                hidden = true;
            } else if parsed.address != 0 {
                symbols.add(&parsed)?;
            }
        }
        symbols.finish();
        if symbols.entries.is_empty() {
            return Err(if hidden { KernelError::Hidden } else { KernelError::Empty });
        }
        Ok(symbols)
    }

    /// The function that holds an address.
    pub fn lookup(&self, address: u64) -> Option<KernelSymbol<'_>> {
        let after = self.entries.partition_point(|entry| entry.address <= address);
        let entry = self.entries[..after].last().filter(|entry| entry.kind != Kind::Other)?;
        if address - entry.address >= LONGEST_FUNCTION_BYTES {
            return None;
        }
        let module = &self.modules[usize::from(entry.module)];
        Some(KernelSymbol { name: self.name(entry), module, start: entry.address })
    }

    /// The frame of an address, and the name of the mapping that it belongs to. An unknown address is
    /// `[kernel+0xffffffff81000000]`.
    pub fn frame(&self, address: u64, names: &mut Names) -> (Frame, Arc<str>) {
        match self.lookup(address) {
            Some(symbol) => {
                let function = names.function(symbol.name.as_bytes());
                (
                    Frame { function, file: None, line: None, inlined: false },
                    names.text(symbol.module.as_bytes()),
                )
            }
            None => (unknown_frame(KERNEL, address, names), names.share(KERNEL)),
        }
    }

    /// Number of functions.
    pub fn len(&self) -> usize {
        self.entries.iter().filter(|entry| entry.kind != Kind::Other).count()
    }

    /// True when there are no functions, which [`KernelSymbols::load`] reports as an error.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn add(&mut self, line: &Line<'_>) -> Result<(), KernelError> {
        if line.kind == Kind::Other {
            self.entries.push(Entry { address: line.address, name: 0, module: 0, kind: line.kind });
            return Ok(());
        }
        if self.names.len() + line.name.len() >= NAMES_BYTES {
            return Err(KernelError::Limit);
        }
        let name = self.names.len() as u32;
        self.names.extend_from_slice(line.name);
        self.names.push(b'\n');
        let module = self.module(line.module);
        self.entries.push(Entry { address: line.address, name, module, kind: line.kind });
        Ok(())
    }

    fn module(&mut self, name: Option<&[u8]>) -> u16 {
        let Some(name) = name else { return 0 };
        // A module's symbols stand together, so the last one is nearly always right.
        let known = self.modules.iter().rposition(|module| {
            module.strip_prefix('[').and_then(|module| module.strip_suffix(']')).map(str::as_bytes)
                == Some(name)
        });
        known.unwrap_or_else(|| {
            if self.modules.len() < usize::from(u16::MAX) {
                self.modules.push(format!("[{}]", String::from_utf8_lossy(name)).into());
            }
            self.modules.len() - 1
        }) as u16
    }

    /// Sorts, keeps the best name of each address, and of everything else only what ends a function.
    fn finish(&mut self) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_by(|a, b| {
            a.address.cmp(&b.address).then_with(|| self.preference(a).cmp(&self.preference(b)))
        });
        entries.dedup_by_key(|entry| entry.address);
        let mut after_function = false;
        entries.retain(|entry| {
            let keep = entry.kind != Kind::Other || after_function;
            after_function = entry.kind != Kind::Other;
            keep
        });
        entries.shrink_to_fit();
        self.names.shrink_to_fit();
        self.entries = entries;
    }

    /// Lower is better: functions before other symbols, global ones first (`ksys_read` has many aliases), then fewest
    /// leading underscores, the shortest, the first by letters.
    fn preference(&self, entry: &Entry) -> (u8, usize, usize, &str) {
        let kind = match entry.kind {
            Kind::Global => 0,
            Kind::Weak => 1,
            Kind::Local => 2,
            Kind::Other => return (3, 0, 0, ""),
        };
        let name = self.name(entry);
        (kind, name.len() - name.trim_start_matches('_').len(), name.len(), name)
    }

    fn name(&self, entry: &Entry) -> &str {
        let rest = self.names.get(entry.name as usize..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        std::str::from_utf8(&rest[..end]).unwrap_or("?")
    }
}

/// Whether a kernel function only runs because a program looks: what stands between a tracepoint and the program.
pub fn is_tracing(function: &str) -> bool {
    const STARTS: [&str; 4] = ["bpf_prog_", "bpf_trace_run", "__bpf_trace_", "__traceiter_"];
    const WHOLE: [&str; 4] =
        ["bpf_get_stack", "__bpf_get_stack", "bpf_get_stack_raw_tp", "____bpf_get_stack_raw_tp"];
    STARTS.iter().any(|start| function.starts_with(start)) || WHOLE.contains(&function)
}

/// Whether a kernel function is where an interrupt enters the kernel (arch/x86/include/asm/idtentry.h, arch/arm64/kernel/entry-common.c).
pub fn is_interrupt_entry(function: &str) -> bool {
    const STARTS: [&str; 3] = ["asm_sysvec_", "asm_common_interrupt", "asm_spurious_interrupt"];
    const WHOLE: [&str; 6] = [
        "el1_interrupt",
        "el0_interrupt",
        "el1h_64_irq",
        "el0t_64_irq",
        "el1h_64_irq_handler",
        "el0t_64_irq_handler",
    ];
    STARTS.iter().any(|start| function.starts_with(start)) || WHOLE.contains(&function)
}

/// The running kernel's build ID.
pub fn kernel_build_id() -> Option<BuildId> {
    BuildId::in_notes(&std::fs::read("/sys/kernel/notes").ok()?)
}

/// The build ID of a loaded module, by its name without brackets.
pub fn module_build_id(module: &str) -> Option<BuildId> {
    // The name came from the kernel, but goes into a path.
    if module.contains('/') || module.starts_with('.') {
        return None;
    }
    BuildId::in_notes(&std::fs::read(format!("/sys/module/{module}/notes/.note.gnu.build-id")).ok()?)
}

struct Line<'a> {
    address: u64,
    kind: Kind,
    name: &'a [u8],
    module: Option<&'a [u8]>,
}

impl<'a> Line<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields =
            line.split(|byte| matches!(byte, b' ' | b'\t' | b'\n')).filter(|field| !field.is_empty());
        let address = parse_hex(fields.next()?)?;
        let [kind] = fields.next()? else { return None };
        let name = fields.next()?;
        let kind = match kind {
            // `$x` and `$d` are marks of the Arm toolchain, not functions.
            _ if name.starts_with(b"$") => Kind::Other,
            b'T' => Kind::Global,
            b't' => Kind::Local,
            b'w' | b'W' => Kind::Weak,
            _ => Kind::Other,
        };
        let module = fields.next().and_then(|field| field.strip_prefix(b"[")?.strip_suffix(b"]"));
        Some(Self { address, kind, name, module })
    }

    /// Whether it names the room before a function that the kernel keeps for patches (`CONFIG_PREFIX_SYMBOLS`, x86 since 6.2): no code runs there, and
    /// every function has one.
    fn is_padding(&self) -> bool {
        self.name.starts_with(b"__pfx_")
    }
}

/// A hexadecimal number of at most 64 bits. `from_str_radix` wants text, and would take half of the whole parsing time.
pub(super) fn parse_hex(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    digits.iter().try_fold(0, |value: u64, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            b'A'..=b'F' => digit - b'A' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81000040 t helper
ffffffff81000100 T __x64_sys_read
ffffffff81000100 t __se_sys_read
ffffffff81000200 W weak_one
ffffffff81000300 D some_data
ffffffff82000000 t after_data
garbage
ffffffff8zzzzzzz T not_hex
ffffffffc0000000 t ext4_read\t[ext4]
ffffffffc0a00000 t bpf_prog_6deef7357e7b4530_probe\t[bpf]
ffffffffc0000100 d ext4_data\t[ext4]
";

    fn list() -> KernelSymbols {
        KernelSymbols::from_reader(LIST.as_bytes()).unwrap()
    }

    fn at(symbols: &KernelSymbols, address: u64) -> Option<(String, String)> {
        symbols.lookup(address).map(|symbol| (symbol.name.to_owned(), symbol.module.to_owned()))
    }

    fn named(name: &str, module: &str) -> (String, String) {
        (name.to_owned(), module.to_owned())
    }

    #[test]
    fn functions_and_modules_are_found() {
        let symbols = list();
        assert_eq!(at(&symbols, 0xffff_ffff_8100_003f), Some(named("_text", "[kernel]")));
        assert_eq!(at(&symbols, 0xffff_ffff_8100_0040), Some(named("helper", "[kernel]")));
        assert_eq!(at(&symbols, 0xffff_ffff_8100_01ff), Some(named("__x64_sys_read", "[kernel]")));
        assert_eq!(at(&symbols, 0xffff_ffff_c000_0010), Some(named("ext4_read", "[ext4]")));
        assert_eq!(
            at(&symbols, 0xffff_ffff_c0a0_0001),
            Some(named("bpf_prog_6deef7357e7b4530_probe", "[bpf]"))
        );
        assert_eq!(symbols.len(), 7);
    }

    #[test]
    fn nothing_is_claimed_outside_of_functions() {
        let symbols = list();
        assert_eq!(at(&symbols, 0x1000), None);
        assert_eq!(at(&symbols, 0xffff_ffff_8100_0300), None);
        assert_eq!(at(&symbols, 0xffff_ffff_81f0_0000), None);
        assert_eq!(at(&symbols, 0xffff_ffff_c000_0100), None);
        assert_eq!(at(&symbols, 0xffff_ffff_8200_0000 + LONGEST_FUNCTION_BYTES), None);
        assert_eq!(at(&symbols, u64::MAX), None);
    }

    #[test]
    fn room_before_functions_is_not_kept() {
        let padded = "ffffffff81000000 T first\nffffffff81000030 t __pfx_second\nffffffff81000040 t second\n";
        let symbols = KernelSymbols::from_reader(padded.as_bytes()).unwrap();
        assert_eq!(symbols.len(), 2);
        assert_eq!(at(&symbols, 0xffff_ffff_8100_002f), Some(named("first", "[kernel]")));
        assert_eq!(at(&symbols, 0xffff_ffff_8100_0040), Some(named("second", "[kernel]")));
    }

    #[test]
    fn frames_carry_the_module_and_unknown_ones_the_address() {
        let (symbols, mut names) = (list(), Names::default());
        let (frame, mapping) = symbols.frame(0xffff_ffff_c000_0010, &mut names);
        assert_eq!((&*frame.function, &*mapping), ("ext4_read", "[ext4]"));
        let (frame, mapping) = symbols.frame(0xffff_ffff_a000_0000, &mut names);
        assert_eq!((&*frame.function, &*mapping), ("[kernel+0xffffffffa0000000]", "[kernel]"));
    }

    #[test]
    fn hidden_and_empty_lists_are_told_apart() {
        let hidden = LIST.lines().map(|line| format!("0000000000000000{}\n", line.get(16..).unwrap_or("")));
        let hidden: String = hidden.collect();
        assert!(matches!(KernelSymbols::from_reader(hidden.as_bytes()), Err(KernelError::Hidden)));
        assert!(matches!(KernelSymbols::from_reader(&b""[..]), Err(KernelError::Empty)));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_survived(text in "([0-9a-f]{0,17} [tTwWdA] [ -~]{0,10}(\t\\[[a-z]*\\])?\n|[ -~]{0,20}\n){0,20}") {
            if let Ok(symbols) = KernelSymbols::from_reader(text.as_bytes()) {
                for address in [0, 1, 0xff, u64::MAX, 1 << 63] {
                    let _ = symbols.lookup(address);
                }
            }
        }
    }
}
