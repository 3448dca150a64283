//! Text in a URL (RFC 3986, 2.1).

/// A parameter, encoded.
pub(crate) fn encoded(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => {
                let _strings_never_fail = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}
