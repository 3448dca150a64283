//! Options about results that all recording and picture verbs share.

use std::path::PathBuf;

use crate::output::file::{Destination, Existing, FileError, NameParts, OutputPlan, PlanRequest, Written};
use crate::output::{self, Format, Growth, OutputOptions};
use crate::report::{Merge, Roots};
use crate::system::identity::Invoker;
use clap::{Args, ValueEnum};

use super::exit::{CliError, Exit, with_causes};

/// Where results go.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Output")]
pub(super) struct OutputArgs {
    /// Write the result here; the ending selects the format. Repeatable; `-` is standard output (folded stacks, unless
    /// --format says otherwise). %p pid, %c command, %h host, %t time, %m mode and %n number are filled in
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub(super) output: Vec<PathBuf>,
    /// Format of all results, whatever their names end in
    #[arg(short = 'f', long, value_name = "FORMAT", value_parser = parse_format)]
    pub(super) format: Option<&'static Format>,
    /// Folded stacks on standard output: short for -o - -f folded
    #[arg(long, conflicts_with_all = ["output", "format", "json"])]
    folded: bool,
    /// JSON on standard output: short for -o - -f json
    #[arg(long, conflicts_with_all = ["output", "format"])]
    json: bool,
    /// Replace files that exist instead of renaming them to FILE.old
    #[arg(long)]
    pub(super) force: bool,
}

/// How results look.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Picture")]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(super) struct PictureArgs {
    /// Title of the picture
    #[arg(long, value_name = "TEXT")]
    pub(super) title: Option<String>,
    /// Subtitle of the picture
    #[arg(long, value_name = "TEXT")]
    pub(super) subtitle: Option<String>,
    /// Leave out boxes narrower than this share of the whole, in percent [default: what a browser can show]
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    pub(super) minwidth: Option<f64>,
    /// Width of the picture in pixels [default: that of the window]
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(200..=20_000))]
    pub(super) width: Option<u32>,
    /// Let the picture grow downwards
    #[arg(long)]
    pub(super) inverted: bool,
    /// Merge stacks from the innermost function: who leads to it
    #[arg(long)]
    pub(super) reverse: bool,
    /// One root per thread instead of one per process name
    #[arg(long)]
    pub(super) per_thread: bool,
    /// Colours
    #[arg(long, value_enum, default_value_t)]
    pub(super) palette: PaletteArg,
    /// Mark kernel, inlined and JIT frames in folded stacks with _[k], _[i] and _[j]
    #[arg(long)]
    pub(super) annotate: bool,
}

/// Colours of a flame graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum PaletteArg {
    /// By kind of code
    #[default]
    Kind,
    /// By kind of code, for readers with a colour vision deficiency
    Colorblind,
    /// One hue per library
    Module,
    /// The classic red to yellow
    Hot,
}

impl OutputArgs {
    /// Settles names and opens places; before a recording, so that mistakes show at once.
    pub(super) fn plan(&self, parts: &NameParts) -> anyhow::Result<OutputPlan> {
        let to_stdout = match (self.folded, self.json) {
            (true, _) => Some("folded"),
            (_, true) => Some("json"),
            _ => None,
        };
        let existing = if self.force { Existing::Replace } else { Existing::KeepAsOld };
        let request = match to_stdout {
            Some(format) => PlanRequest {
                paths: vec![PathBuf::from("-")],
                format: Format::from_name(format).ok(),
                existing,
            },
            None => PlanRequest { paths: self.output.clone(), format: self.format, existing },
        };
        OutputPlan::open(&request, parts).map_err(|error| told_apart(&error))
    }
}

impl OutputArgs {
    /// Whether nothing says where the result goes.
    pub(super) fn is_default(&self) -> bool {
        self.output.is_empty() && !self.folded && !self.json
    }
}

impl PictureArgs {
    /// The options for the writers; `value` is the index of the value to show.
    pub(super) fn options(&self, value: Option<usize>) -> OutputOptions {
        OutputOptions {
            title: self.title.clone(),
            subtitle: self.subtitle.clone(),
            width: self.width.map(|width| width as usize),
            min_width_percent: self.minwidth,
            growth: if self.inverted { Growth::Down } else { Growth::Up },
            merge: if self.reverse { Merge::FromLeaf } else { Merge::FromRoot },
            roots: if self.per_thread { Roots::Thread } else { Roots::Process },
            palette: match self.palette {
                PaletteArg::Kind => output::Palette::Kind,
                PaletteArg::Colorblind => output::Palette::Colorblind,
                PaletteArg::Module => output::Palette::Module,
                PaletteArg::Hot => output::Palette::Hot,
            },
            value,
            annotate: self.annotate,
        }
    }
}

/// Says on standard error what was written. The first failure is returned after all successes were told.
#[expect(clippy::print_stderr, reason = "progress belongs on standard error")]
pub(super) fn tell(results: Vec<Result<Written, FileError>>) -> anyhow::Result<()> {
    let mut failure = None;
    for result in results {
        match result {
            Ok(written) if written.bytes == 0 => {}
            Ok(written) => {
                let kept = written.old.map(|old| format!("; the file before it is {}", old.display()));
                let size = output::bytes(written.bytes);
                eprintln!("Wrote {} ({size}){}", written.path.display(), kept.unwrap_or_default());
            }
            Err(error) if failure.is_none() => failure = Some(error),
            Err(error) => eprintln!("error: {}", with_causes(&error)),
        }
    }
    failure.map_or(Ok(()), |error| Err(told_apart(&error)))
}

/// A file for a result that is JSON alone.
pub(super) fn json_file(path: &std::path::Path, force: bool) -> Result<Destination, CliError> {
    if path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("json")) {
        return Err(CliError::usage(format!("can't tell the format of {}; known: .json", path.display())));
    }
    let existing = if force { Existing::Replace } else { Existing::KeepAsOld };
    Destination::open(path, existing, Invoker::behind_sudo().as_ref()).map_err(|error| {
        CliError::new(if error.is_usage() { Exit::Usage } else { Exit::Runtime }, with_causes(&error))
    })
}

/// Mistakes of the caller get exit code 2.
pub(super) fn told_apart(error: &FileError) -> anyhow::Error {
    CliError::new(if error.is_usage() { Exit::Usage } else { Exit::Runtime }, with_causes(error)).into()
}

fn parse_format(text: &str) -> Result<&'static Format, String> {
    Format::from_name(text).map_err(|_| {
        let names: Vec<&str> = output::FORMATS.iter().map(|format| format.name).collect();
        format!("known formats: {}", names.join(", "))
    })
}

/// A percentage, with or without its sign.
pub(super) fn parse_percent(text: &str) -> Result<f64, String> {
    let number: f64 = text.trim_end_matches('%').trim().parse().map_err(|_| "not a percentage".to_owned())?;
    if (0.0..=100.0).contains(&number) { Ok(number) } else { Err("not between 0 and 100".to_owned()) }
}
