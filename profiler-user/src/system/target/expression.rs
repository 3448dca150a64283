//! `/…/`: a regular expression where a name could stand.

use regex::Regex;

use crate::profile::clean;

/// The expression between two slashes; none when `text` is a name.
///
/// # Errors
///
/// What is wrong with it, in a few words: the regex crate draws it over several lines, the last of which says it.
pub(crate) fn expression(text: &str) -> Option<Result<Regex, String>> {
    let inner = text.strip_prefix('/')?.strip_suffix('/')?;
    if inner.is_empty() {
        return Some(Err("it is empty, and would match everything".to_owned()));
    }
    let last_line = |error: regex::Error| {
        let text = error.to_string();
        let line = text.lines().last().unwrap_or_default();
        clean(line.trim().trim_start_matches("error: ").as_bytes())
    };
    Some(Regex::new(inner).map_err(last_line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_at_both_ends_make_an_expression() {
        assert!(expression("/^php/").unwrap().unwrap().is_match("php-fpm"));
        assert!(expression("/a/b/").unwrap().unwrap().is_match("a/b"));
        for name in ["php", "/usr/bin", "bin/", "/", ""] {
            assert!(expression(name).is_none(), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        assert_eq!(expression("/a(/").unwrap().unwrap_err(), "unclosed group");
        assert!(expression("//").unwrap().unwrap_err().contains("empty"));
    }
}
