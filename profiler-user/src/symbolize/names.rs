//! Shared copies of cleaned names.
//!
//! In: raw names of functions and files as an object has them. Out: demangled, cleaned, reference-counted strings, one
//! copy each: thousands of addresses of one program share a few hundred functions and files.

use std::collections::HashSet;
use std::sync::Arc;

use super::demangle::demangle;
use crate::profile::clean;

/// Bytes of text kept. A profile of a whole host has one or two megabytes of names; a hostile object can have a
/// different name of four kilobytes for every address.
const TEXT_BYTES: usize = 32 << 20;

/// What every name reads once the limit is reached.
const TOO_MANY: &str = "[too many names]";

/// The names seen so far. What it keeps is limited.
#[derive(Debug, Default)]
pub struct Names {
    known: HashSet<Arc<str>>,
    bytes: usize,
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

    /// Lets go of names that nobody else holds.
    pub(crate) fn forget_unused(&mut self) {
        self.known.retain(|name| Arc::strong_count(name) > 1);
        self.known.shrink_to_fit();
        self.bytes = self.known.iter().map(|name| name.len()).sum();
    }

    /// The shared copy of text that is clean already.
    pub(super) fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return Arc::clone(known);
        }
        // The replacement itself is always let in.
        if self.bytes + text.len() > TEXT_BYTES && text != TOO_MANY {
            return self.share(TOO_MANY);
        }
        self.bytes += text.len();
        let shared: Arc<str> = Arc::from(text);
        self.known.insert(Arc::clone(&shared));
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_limited() {
        let mut names = Names::default();
        let long = "x".repeat(4000);
        let last = (0..10_000).map(|n| names.text(format!("{n}{long}").as_bytes())).last().unwrap();
        assert_eq!(&*last, TOO_MANY);
        assert!(names.bytes <= TEXT_BYTES + TOO_MANY.len());
    }

    #[test]
    fn equal_names_share_one_copy() {
        let mut names = Names::default();
        let one = names.function(b"_ZN3foo3barEv");
        assert!(Arc::ptr_eq(&one, &names.text(b"foo::bar()")));
        assert_eq!(&*Names::mangled().function(b"_ZN3foo3barEv"), "_ZN3foo3barEv");
        assert_eq!(&*names.text(b"a\nb"), "a\\x0ab");
    }
}
