//! The page: plain modules and a style sheet in this program's own file; nothing is loaded from elsewhere.

use axum::http::StatusCode;

use super::answer::{Answer, Refused};

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Every file of it: path, type, content.
pub(super) const FILES: &[(&str, &str, &str)] = &[
    ("/", HTML, include_str!("page/index.html")),
    ("/assets/style.css", "text/css; charset=utf-8", include_str!("page/style.css")),
    ("/assets/app.js", SCRIPT, include_str!("page/app.js")),
    ("/assets/api.js", SCRIPT, include_str!("page/api.js")),
    ("/assets/chart.js", SCRIPT, include_str!("page/chart.js")),
    ("/assets/flame.js", SCRIPT, include_str!("page/flame.js")),
    ("/assets/words.js", SCRIPT, include_str!("page/words.js")),
];

/// One of the files.
pub(super) fn file(path: &str) -> Result<Answer, Refused> {
    let found = FILES.iter().find(|(known, ..)| *known == path);
    let (_, kind, text) =
        found.ok_or_else(|| Refused::new(StatusCode::NOT_FOUND, "path", "there is no such file"))?;
    Ok(Answer::text(kind, *text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page's own policy forbids all of these; a test says so earlier than a browser.
    #[test]
    fn nothing_is_loaded_from_elsewhere_and_no_text_becomes_markup() {
        for (path, _, text) in FILES {
            for forbidden in [
                "http://",
                "https://",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "style=\"",
                "onclick=",
                "@import",
            ] {
                assert!(!text.contains(forbidden), "{forbidden} in {path}");
            }
        }
    }

    #[test]
    fn every_file_that_is_named_is_there() {
        for (path, _, text) in FILES {
            for (_, rest) in
                text.match_indices("from \"./").map(|(at, found)| text.split_at(at + found.len()))
            {
                let name = rest.split('"').next().unwrap_or_default();
                assert!(file(&format!("/assets/{name}")).is_ok(), "{name} in {path}");
            }
            for (_, rest) in
                text.match_indices("=\"/assets/").map(|(at, found)| text.split_at(at + found.len()))
            {
                let name = rest.split('"').next().unwrap_or_default();
                assert!(file(&format!("/assets/{name}")).is_ok(), "{name} in {path}");
            }
        }
        assert_eq!(file("/assets/../Cargo.toml").unwrap_err().status, StatusCode::NOT_FOUND);
    }
}
