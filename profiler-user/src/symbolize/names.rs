//! Shared copies of cleaned names.
//!
//! In: raw names of functions and files as an object has them. Out: demangled, cleaned, reference-counted strings, one
//! copy each: thousands of addresses of one program share a few hundred functions and files.

use std::collections::HashSet;
use std::sync::Arc;

use super::demangle::demangle;
use crate::profile::clean;

/// The names seen so far.
#[derive(Debug, Default)]
pub struct Names {
    known: HashSet<Arc<str>>,
    keep_mangled: bool,
}

impl Names {
    /// Names that stay as the linker sees them.
    pub fn mangled() -> Self {
        Self { keep_mangled: true, ..Self::default() }
    }

    /// A function, demangled and cleaned.
    pub fn function(&mut self, raw: &[u8]) -> Arc<str> {
        if self.keep_mangled { self.text(raw) } else { self.text(&demangle(raw)) }
    }

    /// A file name or other text, cleaned.
    pub fn text(&mut self, raw: &[u8]) -> Arc<str> {
        self.share(&clean(raw))
    }

    /// The shared copy of text that is clean already.
    pub(super) fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return Arc::clone(known);
        }
        let shared: Arc<str> = Arc::from(text);
        self.known.insert(Arc::clone(&shared));
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_share_one_copy() {
        let mut names = Names::default();
        let one = names.function(b"_ZN3foo3barEv");
        assert!(Arc::ptr_eq(&one, &names.text(b"foo::bar()")));
        assert_eq!(&*Names::mangled().function(b"_ZN3foo3barEv"), "_ZN3foo3barEv");
        assert_eq!(&*names.text(b"a\nb"), "a\\x0ab");
    }
}
