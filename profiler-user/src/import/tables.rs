//! The tables of a pprof file: strings, functions, mappings and the fields that appear once.

use std::collections::HashMap;
use std::mem::size_of;

use super::FormatError;
use super::limits::Budget;
use super::wire::Fields;
use crate::output::pprof::proto;
use crate::profile::{Mapping, ValueType, clean};

/// Memory that one entry of a hash map costs beyond its key and value.
pub(super) const MAP_ENTRY: usize = 32;

/// What samples and locations refer to.
pub(super) struct Tables<'a> {
    pub(super) strings: Vec<&'a [u8]>,
    pub(super) functions: HashMap<u64, proto::Function>,
    pub(super) mappings: Vec<proto::Mapping>,
    pub(super) value_types: Vec<proto::ValueType>,
    pub(super) time_nanos: i64,
    pub(super) duration_nanos: i64,
    pub(super) period: i64,
    pub(super) budget: Budget,
}

impl<'a> Tables<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let mut tables = Self {
            strings: Vec::new(),
            functions: HashMap::new(),
            mappings: Vec::new(),
            value_types: Vec::new(),
            time_nanos: 0,
            duration_nanos: 0,
            period: 0,
            budget: Budget::new(),
        };
        let mut known = false;
        for field in Fields::new(bytes) {
            let field = field?;
            known = known || (1..=15).contains(&field.number);
            match field.number {
                1 => {
                    tables.budget.spend(size_of::<ValueType>() + MAP_ENTRY)?;
                    tables.value_types.push(field.message("value type")?);
                }
                3 => {
                    tables.budget.spend(size_of::<proto::Mapping>() + size_of::<Mapping>() + MAP_ENTRY)?;
                    tables.mappings.push(field.message("mapping")?);
                }
                5 => {
                    tables.budget.spend(size_of::<proto::Function>() + MAP_ENTRY)?;
                    let function: proto::Function = field.message("function")?;
                    tables.functions.insert(function.id, function);
                }
                6 => {
                    tables.budget.spend(size_of::<&[u8]>())?;
                    tables.strings.push(field.bytes("string")?);
                }
                9 => tables.time_nanos = field.int("start time")?,
                10 => tables.duration_nanos = field.int("duration")?,
                12 => tables.period = field.int("period")?,
                _ => {}
            }
        }
        if !known {
            return Err(FormatError::Unknown { hint: "" });
        }
        Ok(tables)
    }

    pub(super) fn bytes(&self, id: i64) -> Result<&'a [u8], FormatError> {
        let index = usize::try_from(id).ok().filter(|index| *index < self.strings.len());
        match index {
            Some(index) => Ok(self.strings[index]),
            // A file without any strings still has the empty one.
            None if id == 0 => Ok(b""),
            None => Err(FormatError::Dangling { what: "string", id: id as u64 }),
        }
    }

    pub(super) fn text(&self, id: i64) -> Result<String, FormatError> {
        Ok(clean(self.bytes(id)?))
    }
}
