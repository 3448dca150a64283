//! The functions of a profile: frames of all locations, interned so that equal ones share an id.
//!
//! What counts as equal depends on the table: by function and module, by source line as well, or by the kind of
//! code as well, which is what a picture with colours needs.

use std::collections::HashMap;

use crate::profile::{Frame, FrameKind, Location, LocationId, Profile};

/// What kind of entry a function is in a table or a picture. Finer than [`FrameKind`]: it also knows inlining and
/// missing names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FunctionClass {
    /// Machine code of an executable or a library.
    Native,
    /// A function that the compiler inlined into its caller.
    Inlined,
    /// Code generated at run time.
    Jit,
    /// Kernel code.
    Kernel,
    /// An address without a name: `[libfoo.so+0x1a2b]`.
    Unknown,
    /// A remark of the profiler, such as why a walk ended.
    Marker,
    /// A process or a thread: the root of its stacks.
    Root,
}

impl FunctionClass {
    /// All classes, in the order of a legend.
    pub const ALL: [Self; 7] =
        [Self::Native, Self::Inlined, Self::Jit, Self::Kernel, Self::Unknown, Self::Marker, Self::Root];

    /// The class of one frame of a location.
    pub fn of(location: &Location, frame: &Frame) -> Self {
        match location.kind {
            FrameKind::Marker => Self::Marker,
            _ if frame.function.starts_with('[') && frame.function.ends_with(']') => Self::Unknown,
            _ if frame.inlined => Self::Inlined,
            FrameKind::Kernel => Self::Kernel,
            FrameKind::Jit => Self::Jit,
            FrameKind::Native => Self::Native,
        }
    }

    /// The name of the class in legends and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Inlined => "inlined",
            Self::Jit => "jit",
            Self::Kernel => "kernel",
            Self::Unknown => "unknown",
            Self::Marker => "marker",
            Self::Root => "process",
        }
    }
}

/// What makes two frames the same function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Detail {
    /// Name and module. Inlined copies count with the function itself.
    #[default]
    Function,
    /// Name, module, source file and line.
    Line,
    /// Name, module and [`FunctionClass`].
    Class,
}

/// Index into [`Functions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionId(pub u32);

/// One function as a table shows it. Ordered by name first, so that sorting is the same on every run.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Function<'p> {
    /// Its name.
    pub name: &'p str,
    /// Short name of its object; empty for markers.
    pub module: &'p str,
    /// What it is. With [`Detail::Function`] and [`Detail::Line`] the class of its first frame.
    pub class: FunctionClass,
    /// Source file. With [`Detail::Function`] and [`Detail::Class`] that of its first frame.
    pub file: Option<&'p str>,
    /// Source line, only with [`Detail::Line`].
    pub line: Option<u32>,
}

/// All functions of a profile, and the chain of functions behind each location.
#[derive(Debug, Clone)]
pub struct Functions<'p> {
    entries: Vec<Function<'p>>,
    chains: Vec<FunctionId>,
    chain_ends: Vec<u32>,
}

impl<'p> Functions<'p> {
    /// Interns the frames of all locations of `profile`.
    pub fn new(profile: &'p Profile, detail: Detail) -> Self {
        let mut ids: HashMap<Function<'p>, FunctionId> = HashMap::new();
        let mut functions = Self { entries: Vec::new(), chains: Vec::new(), chain_ends: Vec::new() };
        for location in &profile.locations {
            let module = profile.module_of(location);
            for frame in &location.frames {
                let function = Function {
                    name: &frame.function,
                    module,
                    class: FunctionClass::of(location, frame),
                    file: frame.file.as_deref(),
                    line: frame.line.filter(|_| detail == Detail::Line),
                };
                let id = *ids.entry(detail.key(&function)).or_insert_with(|| {
                    functions.entries.push(function);
                    FunctionId(functions.entries.len() as u32 - 1)
                });
                functions.chains.push(id);
            }
            functions.chain_ends.push(functions.chains.len() as u32);
        }
        functions
    }

    /// The function behind an id.
    pub fn get(&self, id: FunctionId) -> &Function<'p> {
        &self.entries[id.0 as usize]
    }

    /// All functions; the position is the id.
    pub fn entries(&self) -> &[Function<'p>] {
        &self.entries
    }

    /// The functions at one location, innermost inlined one first.
    pub fn at(&self, location: LocationId) -> &[FunctionId] {
        let index = location.0 as usize;
        let start = if index == 0 { 0 } else { self.chain_ends[index - 1] };
        &self.chains[start as usize..self.chain_ends[index] as usize]
    }

    /// The functions of a stack, leaf first.
    pub fn of_stack<'a>(&'a self, stack: &'a [LocationId]) -> impl DoubleEndedIterator<Item = FunctionId> {
        stack.iter().flat_map(|location| self.at(*location).iter().copied())
    }
}

impl Detail {
    /// `function` without what does not count for equality.
    fn key<'p>(self, function: &Function<'p>) -> Function<'p> {
        let plain = Function { class: FunctionClass::Native, file: None, line: None, ..function.clone() };
        match self {
            Self::Function => plain,
            Self::Line => Function { file: function.file, line: function.line, ..plain },
            Self::Class => Function { class: function.class, ..plain },
        }
    }
}
