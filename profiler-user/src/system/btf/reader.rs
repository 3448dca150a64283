//! Raw BTF: header, type records and strings, as `Documentation/bpf/btf.rst` lays them out.
//!
//! Knows record lengths and nothing about what the types mean. Only the start of each record is remembered (four
//! bytes a type); everything else is read from the blob again when it is asked for.

use super::BtfError;

/// `BTF_MAGIC` in `include/uapi/linux/btf.h`.
const MAGIC: u16 = 0xeb9f;
/// `sizeof(struct btf_header)` in its first version; later ones only append.
const HEADER_BYTES: usize = 24;
/// `sizeof(struct btf_type)`, without what follows for some kinds.
const TYPE_BYTES: usize = 12;
/// `sizeof(struct btf_member)`.
const MEMBER_BYTES: usize = 12;

/// The kinds that matter for layouts; the rest is skipped by its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Integers, enums, floats: `size_or_id` is the size.
    Sized,
    Pointer,
    Array,
    Struct,
    Union,
    /// Function types: `count` is the number of parameters.
    Prototype,
    /// Typedefs, qualifiers and type tags: `size_or_id` is the type they stand for.
    Alias,
    Other,
}

/// One type record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Type {
    pub(super) kind: Kind,
    /// Offset of the name in the string section.
    pub(super) name: u32,
    /// Size in bytes or a type id, depending on the kind.
    pub(super) size_or_id: u32,
    /// Number of members or parameters.
    pub(super) count: usize,
    /// Member offsets share their word with bit-field sizes (`kind_flag`).
    has_bit_fields: bool,
    /// Where the kind's own data starts in the blob.
    data: usize,
}

/// One member of a struct or union.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) name: u32,
    pub(super) type_id: u32,
    pub(super) bit_offset: u32,
    pub(super) is_bit_field: bool,
}

/// A BTF blob whose records have all been found to lie inside it.
#[derive(Debug)]
pub(super) struct Reader {
    data: Vec<u8>,
    strings: std::ops::Range<usize>,
    /// Start of each record; index 0 is type 1, because type 0 is `void` and has no record.
    starts: Vec<u32>,
}

impl Reader {
    pub(super) fn new(data: Vec<u8>) -> Result<Self, BtfError> {
        let header = data.get(..HEADER_BYTES).ok_or(BtfError::Truncated("the header"))?;
        if header.get(..2) != Some(&MAGIC.to_ne_bytes()) {
            return Err(BtfError::NotBtf);
        }
        let word = |at| word_at(&data, at).map(|value| value as usize);
        let header_len = word(4).ok_or(BtfError::Truncated("the header"))?;
        let section = |offset_at, what| {
            let start = header_len.checked_add(word(offset_at)?)?;
            let end = start.checked_add(word(offset_at + 4)?)?;
            (end <= data.len()).then_some((start..end, what))
        };
        let (types, _) = section(8, "types").ok_or(BtfError::Truncated("the type section"))?;
        let (strings, _) = section(16, "strings").ok_or(BtfError::Truncated("the string section"))?;

        // 36 bytes a type is the mean of x86_64 kernels from 5.8 to 6.18; a wrong guess costs one more growth.
        let mut starts = Vec::with_capacity(types.len() / 36);
        let mut at = types.start;
        while at < types.end {
            let info = word_at(&data, at + 4).ok_or(BtfError::Truncated("a type"))?;
            let length = record_bytes(info)
                .ok_or(BtfError::UnknownKind { kind: kind_number(info), id: starts.len() as u32 + 1 })?;
            starts.push(at as u32);
            at += length;
        }
        if at != types.end {
            return Err(BtfError::Truncated("the last type"));
        }
        Ok(Self { data, strings, starts })
    }

    pub(super) fn types(&self) -> impl Iterator<Item = Type> + '_ {
        self.starts.iter().filter_map(|start| self.type_at(*start))
    }

    pub(super) fn type_by_id(&self, id: u32) -> Option<Type> {
        let index = id.checked_sub(1)?;
        self.type_at(*self.starts.get(index as usize)?)
    }

    /// True when the string at `offset` is exactly `name`.
    pub(super) fn name_is(&self, offset: u32, name: &[u8]) -> bool {
        let strings = self.data.get(self.strings.clone()).unwrap_or_default();
        strings
            .get(offset as usize..)
            .and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.first() == Some(&0))
    }

    /// Members of a struct or union, in their order.
    pub(super) fn members(&self, ty: &Type) -> impl Iterator<Item = Member> + '_ {
        let count = if matches!(ty.kind, Kind::Struct | Kind::Union) { ty.count } else { 0 };
        let (first, has_bit_fields) = (ty.data, ty.has_bit_fields);
        (0..count).map_while(move |index| {
            let at = first + index * MEMBER_BYTES;
            let offset = word_at(&self.data, at + 8)?;
            // With kind_flag set the top byte is the bit-field's size and only 24 bits are the offset.
            let (bit_offset, bits) =
                if has_bit_fields { (offset & 0x00ff_ffff, offset >> 24) } else { (offset, 0) };
            Some(Member {
                name: word_at(&self.data, at)?,
                type_id: word_at(&self.data, at + 4)?,
                bit_offset,
                is_bit_field: bits != 0,
            })
        })
    }

    /// Element type and number of elements of an array.
    pub(super) fn array(&self, ty: &Type) -> Option<(u32, u32)> {
        Some((word_at(&self.data, ty.data)?, word_at(&self.data, ty.data + 8)?))
    }

    fn type_at(&self, start: u32) -> Option<Type> {
        let at = start as usize;
        let info = word_at(&self.data, at + 4)?;
        Some(Type {
            kind: kind(info),
            name: word_at(&self.data, at)?,
            size_or_id: word_at(&self.data, at + 8)?,
            count: (info & 0xffff) as usize,
            has_bit_fields: info >> 31 == 1,
            data: at + TYPE_BYTES,
        })
    }
}

fn word_at(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn kind_number(info: u32) -> u32 {
    (info >> 24) & 0x1f
}

/// Kinds by their numbers in `include/uapi/linux/btf.h` (6.18).
fn kind(info: u32) -> Kind {
    match kind_number(info) {
        1 | 6 | 16 | 19 => Kind::Sized,
        2 => Kind::Pointer,
        3 => Kind::Array,
        4 => Kind::Struct,
        5 => Kind::Union,
        13 => Kind::Prototype,
        8..=11 | 18 => Kind::Alias,
        _ => Kind::Other,
    }
}

/// Length of a whole record; None for a kind that is not known.
fn record_bytes(info: u32) -> Option<usize> {
    let count = (info & 0xffff) as usize;
    let extra = match kind_number(info) {
        // Integer and variable: one word; declaration tag: one word.
        1 | 14 | 17 => 4,
        // Pointer, forward, typedef, volatile, const, restrict, function, float, type tag.
        2 | 7..=12 | 16 | 18 => 0,
        3 => 12,
        // Struct, union, section, 64-bit enum.
        4 | 5 | 15 | 19 => MEMBER_BYTES * count,
        // Enum, function prototype.
        6 | 13 => 8 * count,
        _ => return None,
    };
    Some(TYPE_BYTES + extra)
}
