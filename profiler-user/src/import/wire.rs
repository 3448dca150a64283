//! The outermost layer of protobuf: fields of one message, one at a time, as slices of the input.
//!
//! Decoding a whole profile at once would build all of its messages before any limit could be checked; walking the
//! fields lets the reader count first and decode each message alone.

use prost::Message;

use super::FormatError;

/// One field of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'a> {
    /// Where the field begins, for error messages.
    pub(super) offset: usize,
    /// Field number.
    pub(super) number: u32,
    /// Its content.
    pub(super) value: Value<'a>,
}

/// Content of a field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    /// An integer.
    Varint(u64),
    /// A string, a message or packed integers.
    Bytes(&'a [u8]),
    /// A fixed-width number, which profile.proto does not use.
    Fixed,
}

/// Iterates over the fields of a message. Ends after the first error.
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    fn varint(&mut self) -> Result<u64, &'static str> {
        let mut value: u64 = 0;
        for shift in (0..70).step_by(7) {
            let byte = *self.bytes.get(self.offset).ok_or("the file ends inside a number")?;
            self.offset += 1;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number of more than ten bytes")
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], &'static str> {
        let rest = &self.bytes[self.offset..];
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let taken = rest.get(..count).ok_or("the file ends inside a field")?;
        self.offset += count;
        Ok(taken)
    }

    fn field(&mut self) -> Result<Field<'a>, &'static str> {
        let offset = self.offset;
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| "a field number out of range")?;
        if number == 0 {
            return Err("a field with the number 0");
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err("a field of an unknown type"),
        };
        Ok(Field { offset, number, value })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.offset >= self.bytes.len() {
            return None;
        }
        let offset = self.offset;
        Some(self.field().map_err(|what| {
            self.offset = self.bytes.len();
            FormatError::Damaged { offset, what: what.to_owned() }
        }))
    }
}

impl<'a> Field<'a> {
    /// The content as a message.
    pub(super) fn message<M: Message + Default>(&self, what: &str) -> Result<M, FormatError> {
        M::decode(self.bytes(what)?).map_err(|error| self.damaged(&format!("{what}: {error}")))
    }

    /// The content as bytes.
    pub(super) fn bytes(&self, what: &str) -> Result<&'a [u8], FormatError> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(self.damaged(&format!("{what} of the wrong type"))),
        }
    }

    /// The content as an integer.
    pub(super) fn int(&self, what: &str) -> Result<i64, FormatError> {
        match self.value {
            Value::Varint(value) => Ok(value as i64),
            _ => Err(self.damaged(&format!("{what} of the wrong type"))),
        }
    }

    fn damaged(&self, what: &str) -> FormatError {
        FormatError::Damaged { offset: self.offset, what: what.to_owned() }
    }
}
