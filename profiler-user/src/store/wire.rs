//! Numbers and byte strings as the store writes them: LEB128 varints, and bytes with their length in front.

/// Why bytes are not what they should be. Data, not an accident: disks and files fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Damage(pub(super) &'static str);

/// Appends a number.
pub(super) fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a number that may be missing.
pub(super) fn put_option(out: &mut Vec<u8>, number: Option<u32>) {
    put(out, number.map_or(0, |number| u64::from(number) + 1));
}

/// Appends a number that may be negative: small either way, it takes one byte.
pub(super) fn put_signed(out: &mut Vec<u8>, number: i64) {
    put(out, ((number << 1) ^ (number >> 63)) as u64);
}

/// Appends bytes with their length.
pub(super) fn put_blob(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads what was written, and never past its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// What is left.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    pub(super) fn number(&mut self) -> Result<u64, Damage> {
        let mut number: u64 = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.bytes.split_first().ok_or(Damage("it ends inside a number"))?;
            self.bytes = rest;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Damage("a number is too large"))
    }

    pub(super) fn signed(&mut self) -> Result<i64, Damage> {
        let number = self.number()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    pub(super) fn small(&mut self) -> Result<u32, Damage> {
        u32::try_from(self.number()?).map_err(|_| Damage("a number is too large"))
    }

    pub(super) fn option(&mut self) -> Result<Option<u32>, Damage> {
        match self.number()? {
            0 => Ok(None),
            number => u32::try_from(number - 1).map(Some).map_err(|_| Damage("a number is too large")),
        }
    }

    /// A number of entries, each of which takes at least one byte: what is claimed cannot be more than what is there.
    pub(super) fn count(&mut self) -> Result<usize, Damage> {
        let count = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if count > self.bytes.len() { Err(Damage("more entries than bytes")) } else { Ok(count) }
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Damage> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(Damage("it ends inside an entry"))?;
        self.bytes = rest;
        Ok(taken)
    }

    pub(super) fn blob(&mut self) -> Result<&'a [u8], Damage> {
        let length = self.count()?;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn numbers_come_back(numbers: Vec<u64>, option: Option<u16>, signed: i64) {
            let mut out = Vec::new();
            for number in &numbers {
                put(&mut out, *number);
            }
            put_option(&mut out, option.map(u32::from));
            put_signed(&mut out, signed);
            let mut cursor = Cursor::new(&out);
            for number in numbers {
                proptest::prop_assert_eq!(cursor.number(), Ok(number));
            }
            proptest::prop_assert_eq!(cursor.option(), Ok(option.map(u32::from)));
            proptest::prop_assert_eq!(cursor.signed(), Ok(signed));
            proptest::prop_assert!(cursor.rest().is_empty());
        }

        #[test]
        fn nothing_is_read_past_the_end(bytes: Vec<u8>) {
            let mut cursor = Cursor::new(&bytes);
            while cursor.blob().is_ok() {}
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        assert!(Cursor::new(&[0xff; 11]).number().is_err());
        assert!(Cursor::new(&[0x80]).number().is_err());
        assert!(Cursor::new(&[9, 1]).blob().is_err());
        let mut large = Vec::new();
        put(&mut large, 1 << 33);
        assert!(Cursor::new(&large).small().is_err());
    }
}
