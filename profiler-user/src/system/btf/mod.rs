//! Where the running kernel keeps a field: offsets and sizes of struct members, read from its BTF.
//!
//! Programs written in Rust carry no CO-RE relocations, so user space looks the few offsets up here at start and
//! hands them over as globals. In: `/sys/kernel/btf/vmlinux`. Out: [`Field`]s by name. The whole blob (about 5 MB)
//! lives only as long as [`KernelTypes`] does; look everything up, then drop it. Bytes are bounds-checked
//! throughout: a damaged blob gives an error or `None`, never a panic.

mod reader;

use std::path::PathBuf;

use reader::{Kind, Reader, Type};

/// Where the kernel exposes its own types (since 5.4 with `CONFIG_DEBUG_INFO_BTF`).
pub const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Largest blob accepted. Distribution kernels are at 5–8 MB; a debug kernel with everything built in stays under 32.
const LARGEST_BLOB_BYTES: u64 = 64 << 20;

/// Typedefs, qualifiers and anonymous members followed before giving up. Real chains are shorter than ten.
const DEEPEST_CHAIN: u32 = 32;

/// Members visited in one lookup before giving up, so that a blob whose anonymous structs contain each other ends.
/// `task_struct` has about 300 members in all.
const MOST_MEMBERS_VISITED: u32 = 1 << 16;

/// Size of a pointer in the kernels we run on; BTF itself does not say it.
const POINTER_BYTES: u32 = 8;

/// Why the kernel's types cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file is missing (no `CONFIG_DEBUG_INFO_BTF`) or cannot be read.
    #[error("can't read the kernel's type information {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is larger than any kernel's BTF.
    #[error("the kernel's type information is {0} bytes, more than any kernel has")]
    TooLarge(u64),
    /// The magic number is wrong.
    #[error("the kernel's type information does not start with the BTF magic number")]
    NotBtf,
    /// A section or a type reaches past the end of the data.
    #[error("the kernel's type information ends early, at {0}")]
    Truncated(&'static str),
    /// A newer kernel uses a kind of type whose length is not known, so what follows cannot be found.
    #[error("the kernel's type information uses kind {kind} (type {id}), which this version does not know")]
    UnknownKind {
        /// The kind's number in `include/uapi/linux/btf.h`.
        kind: u32,
        /// The type's id.
        id: u32,
    },
}

/// Where a member lies in its struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Bytes from the start of the outermost struct named in the lookup.
    pub offset: u32,
    /// Size in bytes; zero for a flexible array.
    pub size: u32,
}

/// The types of one kernel.
#[derive(Debug)]
pub struct KernelTypes {
    reader: Reader,
}

impl KernelTypes {
    /// The types of the running kernel.
    ///
    /// # Errors
    /// When the kernel exposes no BTF, or exposes something that this reader cannot follow.
    pub fn load() -> Result<Self, BtfError> {
        let path = PathBuf::from(VMLINUX_BTF);
        let data = match super::read::bounded(&path, LARGEST_BLOB_BYTES) {
            Ok(data) => data,
            Err(source) => return Err(BtfError::Read { path, source }),
        };
        if data.len() as u64 >= LARGEST_BLOB_BYTES {
            return Err(BtfError::TooLarge(data.len() as u64));
        }
        Self::parse(data)
    }

    /// The types in a BTF blob.
    ///
    /// # Errors
    /// When the blob is not BTF, ends early, or holds a kind whose length is unknown.
    pub fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        Ok(Self { reader: Reader::new(data)? })
    }

    /// Where `member` lies in `struct structure`, also when it sits in anonymous structs or unions inside it.
    ///
    /// None when the kernel has no such struct or member, and for bit-fields, which have no byte address.
    pub fn field(&self, structure: &str, member: &str) -> Option<Field> {
        if member.is_empty() {
            return None; // would name any anonymous member
        }
        let mut budget = MOST_MEMBERS_VISITED;
        self.structs(structure).find_map(|ty| self.find_member(&ty, member, 0, DEEPEST_CHAIN, &mut budget))
    }

    /// The first of several names that the kernel knows, for members that were renamed
    /// (`start_boottime` was `real_start_time` before 5.5, `__state` was `state` before 5.14).
    pub fn any_field(&self, structure: &str, members: &[&str]) -> Option<Field> {
        members.iter().find_map(|member| self.field(structure, member))
    }

    /// Byte offset of a member: [`Self::field`] without the size.
    pub fn offset_of(&self, structure: &str, member: &str) -> Option<u32> {
        self.field(structure, member).map(|field| field.offset)
    }

    /// Size of a struct or union in bytes.
    pub fn struct_size(&self, structure: &str) -> Option<u32> {
        self.structs(structure).next().map(|ty| ty.size_or_id)
    }

    /// Number of arguments that a raw tracepoint hands to its programs, from the function type `btf_trace_NAME` whose first parameter is
    /// private to the kernel. None for a tracepoint that the kernel does not have.
    pub fn tracepoint_arguments(&self, tracepoint: &str) -> Option<u32> {
        let name = format!("btf_trace_{tracepoint}");
        let alias = self
            .reader
            .types()
            .find(|ty| ty.kind == Kind::Alias && self.reader.name_is(ty.name, name.as_bytes()))?;
        let pointer = self.resolve(alias.size_or_id).filter(|ty| ty.kind == Kind::Pointer)?;
        let prototype = self.resolve(pointer.size_or_id).filter(|ty| ty.kind == Kind::Prototype)?;
        u32::try_from(prototype.count).ok()?.checked_sub(1)
    }

    /// Every struct or union of that name: kernels have a few names with several definitions.
    fn structs<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Type> + 'a {
        self.reader.types().filter(move |ty| {
            matches!(ty.kind, Kind::Struct | Kind::Union) && self.reader.name_is(ty.name, name.as_bytes())
        })
    }

    fn find_member(&self, ty: &Type, name: &str, base: u32, depth: u32, budget: &mut u32) -> Option<Field> {
        let depth = depth.checked_sub(1)?;
        for member in self.reader.members(ty) {
            *budget = budget.checked_sub(1)?;
            if self.reader.name_is(member.name, name.as_bytes()) {
                if member.is_bit_field || member.bit_offset % 8 != 0 {
                    return None;
                }
                let offset = base.checked_add(member.bit_offset / 8)?;
                return Some(Field { offset, size: self.size_of(member.type_id, DEEPEST_CHAIN)? });
            }
            if self.reader.name_is(member.name, b"")
                && let Some(inner) = self.resolve(member.type_id)
                && matches!(inner.kind, Kind::Struct | Kind::Union)
            {
                let inner_base = base.checked_add(member.bit_offset / 8)?;
                if let Some(field) = self.find_member(&inner, name, inner_base, depth, budget) {
                    return Some(field);
                }
            }
        }
        None
    }

    /// The type behind typedefs, qualifiers and tags.
    fn resolve(&self, mut id: u32) -> Option<Type> {
        for _ in 0..DEEPEST_CHAIN {
            let ty = self.reader.type_by_id(id)?;
            if ty.kind != Kind::Alias {
                return Some(ty);
            }
            id = ty.size_or_id;
        }
        None
    }

    fn size_of(&self, id: u32, depth: u32) -> Option<u32> {
        let depth = depth.checked_sub(1)?;
        let ty = self.resolve(id)?;
        match ty.kind {
            Kind::Sized | Kind::Struct | Kind::Union => Some(ty.size_or_id),
            Kind::Pointer => Some(POINTER_BYTES),
            Kind::Array => {
                let (element, count) = self.reader.array(&ty)?;
                self.size_of(element, depth)?.checked_mul(count)
            }
            Kind::Alias | Kind::Prototype | Kind::Other => None,
        }
    }
}

#[cfg(test)]
mod tests;
