//! Everything a profile can be turned into, one file per format, and the table that lists them.
//!
//! In: a finished [`Profile`] and the reader's wishes ([`OutputOptions`]). Out: bytes in a writer. A format reads
//! only the model, so it serves every profile type. Where the bytes go is the business of [`file`].

#![forbid(unsafe_code)]

mod chains;
mod changes;
mod columns;
pub mod file;
#[cfg(test)]
pub(crate) mod fixture;
mod flamegraph;
mod folded;
mod histogram;
mod json;
mod leaks;
mod numbers;
mod options;
mod otlp;
mod parquet;
pub(crate) mod pprof;
mod quality;
mod resident;
pub mod sched;
mod sites;
pub mod syscalls;
mod text;
mod windows;

use std::io::{self, Write};
use std::path::Path;

pub use changes::{changes_json, write_changes};
pub(crate) use columns::cut;
pub use flamegraph::{describe_recording, subtitle_of, title_of};
pub use json::{hotspots_json, neighbours_json};
pub use leaks::write_leaks;
pub use numbers::{bytes, duration, percent, thousands, value_with_unit};
pub use options::{Growth, OutputOptions, Palette};
pub(crate) use otlp::write_with as write_otlp;
pub(crate) use parquet::ParquetWriter;
pub use quality::{Level, quality_level, quality_line, quality_line_styled};
pub use resident::write_resident;
pub use sites::{Site, SiteLeak, Sites, sites, sites_json, write_sites};
pub use text::{TextStyle, write_header, write_hotspots, write_neighbours, write_next, write_quality};
pub use windows::windows_json;
pub(crate) use windows::windows_of_json;

use crate::profile::Profile;

/// Writes a profile in one format.
pub type WriteFn = fn(&Profile, &OutputOptions, &mut dyn Write) -> Result<(), OutputError>;

/// One output format.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    /// Name for `--format`.
    pub name: &'static str,
    /// File name endings that select it, without the leading dot; the first one is the usual one.
    pub extensions: &'static [&'static str],
    /// One line for `--help`.
    pub description: &'static str,
    /// The writer.
    pub write: WriteFn,
}

/// All output formats. A new one is a file in this folder and a row here.
pub const FORMATS: &[Format] = &[
    Format {
        name: "svg",
        extensions: &["svg"],
        description: "flame graph with search and zoom, for any browser",
        write: flamegraph::write,
    },
    Format {
        name: "folded",
        extensions: &["folded", "txt", "col", "collapsed"],
        description: "one line per stack, for flame graph tools and grep",
        write: folded::write,
    },
    Format {
        name: "pprof",
        extensions: &["pb.gz", "pprof"],
        description: "pprof, for go tool pprof, Grafana, Parca and perf-agent report",
        write: pprof::write,
    },
    Format {
        name: "pprof-raw",
        extensions: &["pb"],
        description: "pprof without compression",
        write: pprof::write_uncompressed,
    },
    Format {
        name: "otlp",
        extensions: &["otlp"],
        description: "OTLP profiles (v1development), one uncompressed export request",
        write: otlp::write,
    },
    Format {
        name: "parquet",
        extensions: &["parquet"],
        description: "rows with stacks as lists, for DuckDB, ClickHouse and Spark",
        write: parquet::write,
    },
    Format {
        name: "tree",
        extensions: &["tree.json"],
        description: "the boxes of the flame graph as JSON, for viewers that draw it themselves",
        write: flamegraph::tree::write,
    },
    Format {
        name: "json",
        extensions: &["json"],
        description: "everything as JSON, for jq and scripts",
        write: json::write,
    },
];

/// Why a profile was not written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The writer failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The options name a value that the profile does not have.
    #[error("this profile has no value number {wanted}; it has {}", .known.join(", "))]
    NoSuchValue {
        /// Index that was asked for.
        wanted: usize,
        /// Names of the values that exist.
        known: Vec<String>,
    },
}

/// A name that selects no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("can't tell the format of {name:?}; known: {}", known_extensions())]
pub struct UnknownFormat {
    /// The file or format name.
    pub name: String,
}

impl Format {
    /// The format that a file name's ending selects. Upper and lower case are the same.
    ///
    /// # Errors
    /// When the ending is none of those in [`FORMATS`].
    pub fn from_path(path: &Path) -> Result<&'static Self, UnknownFormat> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let selects = |extension: &str| {
            name.strip_suffix(extension).is_some_and(|stem| stem.len() > 1 && stem.ends_with('.'))
        };
        FORMATS
            .iter()
            .find(|format| format.extensions.iter().any(|extension| selects(extension)))
            .ok_or_else(|| UnknownFormat { name: path.display().to_string() })
    }

    /// The format of this name (`--format`), or the one that this bare extension selects.
    ///
    /// # Errors
    /// When there is none.
    pub fn from_name(name: &str) -> Result<&'static Self, UnknownFormat> {
        let wanted = name.to_ascii_lowercase();
        FORMATS
            .iter()
            .find(|format| format.name == wanted || format.extensions.contains(&wanted.as_str()))
            .ok_or_else(|| UnknownFormat { name: name.to_owned() })
    }
}

/// The endings of all formats, for error messages and help.
pub fn known_extensions() -> String {
    let extensions = FORMATS.iter().flat_map(|format| format.extensions);
    extensions.map(|extension| format!(".{extension}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_selects_the_format() {
        let format = |path: &str| Format::from_path(Path::new(path)).map(|format| format.name);
        assert_eq!(format("/tmp/a.svg"), Ok("svg"));
        assert_eq!(format("A.PB.GZ"), Ok("pprof"));
        assert_eq!(format("x.pb"), Ok("pprof-raw"));
        assert_eq!(format("x.txt"), Ok("folded"));
        assert_eq!([format("x.tree.json"), format("x.json")], [Ok("tree"), Ok("json")]);
        assert_eq!(Format::from_name("svg").map(|format| format.name), Ok("svg"));
        for wrong in ["out", "out.png", ".svg", "out.gz", ""] {
            let error = Format::from_path(Path::new(wrong)).unwrap_err().to_string();
            assert!(error.contains(".pb.gz") && error.contains(".folded"), "{error}");
        }
    }

    #[test]
    fn every_format_writes_every_profile() {
        for format in FORMATS {
            for profile in [fixture::hostile(), fixture::recursive(), fixture::empty(), Profile::default()] {
                let mut out = Vec::new();
                (format.write)(&profile, &OutputOptions::default(), &mut out).unwrap();
            }
        }
    }
}
