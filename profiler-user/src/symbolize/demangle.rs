//! Mangled names to the names that people wrote.
//!
//! In: a raw symbol name of unknown language. Out: readable Rust (both manglings, without the hash) or C++; anything
//! else unchanged. Hostile names can make a demangler expand without end, so what comes out is bounded.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// Longest mangled name that is tried. Longer ones stay as they are: they would be cut anyway, and take the longest.
const LONGEST_INPUT_BYTES: usize = 8 << 10;

/// Where demangled text is cut. Substitutions let a short name describe megabytes.
const LONGEST_OUTPUT_BYTES: usize = 8 << 10;

/// Nesting that the C++ demangler follows; it is recursive, and its stack frames are large.
const NESTING: u32 = 96;

/// The readable form of a symbol name, or the name itself.
pub fn demangle(raw: &[u8]) -> Cow<'_, [u8]> {
    let Ok(name) = std::str::from_utf8(raw) else { return Cow::Borrowed(raw) };
    if name.len() > LONGEST_INPUT_BYTES {
        return Cow::Borrowed(raw);
    }
    if !is_mangled(raw) {
        return Cow::Borrowed(raw);
    }
    if let Ok(symbol) = rustc_demangle::try_demangle(name) {
        return bounded(format_args!("{symbol:#}")).map_or(Cow::Borrowed(raw), Cow::Owned);
    }
    cpp(name).map_or(Cow::Borrowed(raw), Cow::Owned)
}

/// True for names that carry their namespace and types: Rust's and C++'s.
pub(super) fn is_mangled(raw: &[u8]) -> bool {
    raw.starts_with(b"_Z") || raw.starts_with(b"_R") || raw.starts_with(b"__Z")
}

fn cpp(name: &str) -> Option<Vec<u8>> {
    let parse = cpp_demangle::ParseOptions::default().recursion_limit(NESTING);
    let (symbol, tail) = cpp_demangle::BorrowedSymbol::with_tail_and_options(name.as_bytes(), &parse).ok()?;
    let options = cpp_demangle::DemangleOptions::new().recursion_limit(NESTING);
    let mut out = Bounded(String::new());
    symbol.structured_demangle(&mut out, &options).ok()?;
    let mut out = out.0.into_bytes();
    // What follows a mangled name is no part of it, but tells versions and clones apart: `@@GLIBCXX_3.4`.
    out.extend_from_slice(tail);
    Some(out)
}

/// A formatted value, or none when it is over the limit.
fn bounded(value: fmt::Arguments<'_>) -> Option<Vec<u8>> {
    let mut out = Bounded(String::new());
    out.write_fmt(value).ok()?;
    Some(out.0.into_bytes())
}

/// A string that refuses to grow past [`LONGEST_OUTPUT_BYTES`].
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > LONGEST_OUTPUT_BYTES {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readable(name: &str) -> String {
        String::from_utf8(demangle(name.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn rust_names_lose_their_hash() {
        assert_eq!(
            readable("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE"),
            "core::fmt::Write::write_fmt"
        );
        assert_eq!(readable("_RNvCskwGfYPst2Cb_3foo3bar"), "foo::bar");
    }

    #[test]
    fn cpp_names_keep_their_parameters_and_clones() {
        assert_eq!(
            readable("_ZNSt6vectorIiSaIiEE9push_backEOi"),
            "std::vector<int, std::allocator<int> >::push_back(int&&)"
        );
        assert!(readable("_ZN3foo3barEv.cold").starts_with("foo::bar()"));
    }

    #[test]
    fn other_names_stay() {
        for name in ["main", "_start", "__libc_start_main", "_Zjunk", "_R", "main.(*Server).Serve", ""] {
            assert_eq!(readable(name), name);
        }
        assert_eq!(&*demangle(b"_Z\xff"), b"_Z\xff");
    }

    #[test]
    fn a_name_that_would_expand_without_end_stays_mangled() {
        // Each substitution repeats the pair before it: the readable form doubles with every step.
        let mut name = String::from("_Z1fSt4pairIiiE");
        for step in 0..28 {
            let last = char::from_digit(step, 36).unwrap().to_ascii_uppercase();
            write!(name, "St4pairIS{last}_S{last}_E").unwrap();
        }
        assert!(readable(&name).len() <= LONGEST_OUTPUT_BYTES);
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_in_the_output_is_bounded(tail in "[ -~]{0,80}") {
            for prefix in ["_Z", "_ZN", "_R", "__ZN", "_RNv", "_ZSt"] {
                let name = format!("{prefix}{tail}");
                proptest::prop_assert!(demangle(name.as_bytes()).len() <= LONGEST_OUTPUT_BYTES);
            }
        }
    }
}
