//! Cleaning of names that come from a target: comm, paths, symbol and file names.
//!
//! Whoever runs the target chooses these bytes. Cleaned once, at the border of the model, they cannot move a
//! terminal's cursor, break a line-based format, or make an XML document ill-formed. Escaping for one format
//! (`<` in SVG, `;` in folded stacks) stays with that format.

/// Longest name kept, in bytes. C++ symbols of several kilobytes exist; past this they say nothing more to a reader.
const LONGEST_NAME_BYTES: usize = 4096;

/// A name that is safe to show: valid UTF-8, no control characters, no bidirectional overrides, bounded length.
///
/// Bytes that are not UTF-8 and characters that are not shown become `\x1b`-style or `\u{202e}`-style escapes;
/// everything else stays as it is. A name that was cut ends in `…`.
pub fn clean(raw: &[u8]) -> String {
    let mut out = String::with_capacity(raw.len().min(LONGEST_NAME_BYTES));
    for chunk in raw.utf8_chunks() {
        for c in chunk.valid().chars() {
            if out.len() >= LONGEST_NAME_BYTES {
                out.push('…');
                return out;
            }
            if is_hidden(c) {
                push_escape(&mut out, c);
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            push_hex(&mut out, u32::from(*byte));
        }
    }
    out
}

/// Control characters (C0, C1, delete), and the marks that reorder or hide text around them.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

fn push_escape(out: &mut String, c: char) {
    use std::fmt::Write;
    let code = u32::from(c);
    if code < 0x100 {
        push_hex(out, code);
    } else {
        let _strings_never_fail = write!(out, "\\u{{{code:x}}}");
    }
}

fn push_hex(out: &mut String, code: u32) {
    use std::fmt::Write;
    let _strings_never_fail = write!(out, "\\x{code:02x}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_stay() {
        assert_eq!(clean(b"std::vector<int>::push_back"), "std::vector<int>::push_back");
        assert_eq!(clean("größe".as_bytes()), "größe");
    }

    #[test]
    fn terminal_and_bidi_controls_are_shown_as_escapes() {
        assert_eq!(clean(b"a\x1b[31mb\nc\x7f"), "a\\x1b[31mb\\x0ac\\x7f");
        assert_eq!(clean("x\u{202e}y".as_bytes()), "x\\u{202e}y");
        assert_eq!(clean("c1\u{9b}".as_bytes()), "c1\\x9b");
    }

    #[test]
    fn bytes_that_are_not_utf8_are_shown_as_escapes() {
        assert_eq!(clean(b"ok\xff\xfe"), "ok\\xff\\xfe");
    }

    #[test]
    fn long_names_are_cut_with_a_mark() {
        let cut = clean(&vec![b'a'; 10_000]);
        assert!(cut.ends_with('…') && cut.len() < 5_000);
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_in_nothing_hidden_comes_out(raw in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            proptest::prop_assert!(!clean(&raw).chars().any(is_hidden));
        }
    }
}
