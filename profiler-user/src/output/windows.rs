//! Windows of a store as JSON.

use serde_json::{Value, json};

use crate::profile::clean;
use crate::store::{Level, WindowInfo};

/// The windows, and what could not be read.
pub fn windows_json(windows: &[WindowInfo], problems: &[String]) -> Value {
    let rows: Vec<Value> = windows.iter().map(row_json).collect();
    json!({"schema": 1, "windows": rows, "problems": problems})
}

fn row_json(window: &WindowInfo) -> Value {
    json!({
        "type": window.profile_type,
        "start_unix_ns": window.start_unix_ns,
        "end_unix_ns": window.end_unix_ns,
        "duration_ns": window.duration_ns,
        "parts": window.parts,
        "merged_to_ns": window.level.window_ns(),
        "bytes": window.bytes,
    })
}

/// Reads what [`windows_json`] wrote, here or elsewhere.
pub(crate) fn windows_of_json(text: &[u8]) -> Option<(Vec<WindowInfo>, Vec<String>)> {
    let answer: Value = serde_json::from_slice(text).ok()?;
    let row = |row: &Value| {
        let merged_to_ns = row["merged_to_ns"].as_u64();
        Some(WindowInfo {
            profile_type: clean(row["type"].as_str()?.as_bytes()),
            start_unix_ns: row["start_unix_ns"].as_u64()?,
            end_unix_ns: row["end_unix_ns"].as_u64()?,
            duration_ns: row["duration_ns"].as_u64()?,
            parts: row["parts"].as_u64()?,
            level: Level::ALL.into_iter().find(|level| level.window_ns() == merged_to_ns)?,
            bytes: row["bytes"].as_u64()?,
        })
    };
    let windows: Option<Vec<WindowInfo>> = answer["windows"].as_array()?.iter().map(row).collect();
    let problems = answer["problems"].as_array()?.iter().filter_map(Value::as_str);
    Some((windows?, problems.map(|problem| clean(problem.as_bytes())).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let windows: Vec<WindowInfo> = Level::ALL
            .into_iter()
            .map(|level| WindowInfo {
                profile_type: "cpu".to_owned(),
                start_unix_ns: u64::MAX - 7,
                end_unix_ns: u64::MAX,
                duration_ns: 5,
                parts: 2,
                level,
                bytes: 9,
            })
            .collect();
        let problems = vec!["x could not be read".to_owned()];
        let text = windows_json(&windows, &problems).to_string();
        assert_eq!(windows_of_json(text.as_bytes()), Some((windows, problems)));
        for wrong in ["", "[]", "{}", r#"{"windows":[{}],"problems":[]}"#] {
            assert_eq!(windows_of_json(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
