//! Options that say where results go and what they look like, the same for every verb that has results.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::exit::CliError;
use crate::output::file::PlanRequest;
use crate::output::{Format, Growth, OutputOptions, Palette, TextStyle};
use crate::report::{Merge, Roots};

/// When to use colours on the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Color {
    /// On a terminal, unless `NO_COLOR` is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Pictures: what they show and how they look.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct PictureArgs {
    /// Title of the picture
    #[arg(long, value_name = "TEXT", help_heading = "Picture")]
    title: Option<String>,
    /// Subtitle of the picture, instead of target, clock, rate, time and quality
    #[arg(long, value_name = "TEXT", help_heading = "Picture")]
    subtitle: Option<String>,
    /// Width in pixels; without it the picture fits the window
    #[arg(long, value_name = "PIXELS", help_heading = "Picture")]
    width: Option<usize>,
    /// Leave boxes out that are narrower than this share of the whole, percent
    #[arg(long, value_name = "PERCENT", help_heading = "Picture")]
    minwidth: Option<f64>,
    /// Roots at the top
    #[arg(long, help_heading = "Picture")]
    inverted: bool,
    /// Merge from the leaf: who calls what is hot
    #[arg(long, help_heading = "Picture")]
    reverse: bool,
    /// One root for each thread instead of each process name
    #[arg(long, help_heading = "Picture")]
    per_thread: bool,
    /// Hues that stay apart for readers with a colour vision deficiency
    #[arg(long, help_heading = "Picture")]
    colorblind: bool,
    /// Mark kernel, inlined and JIT frames in folded stacks with _[k], _[i] and _[j]
    #[arg(long, help_heading = "Picture")]
    annotate: bool,
}

impl PictureArgs {
    pub(super) fn options(&self) -> OutputOptions {
        OutputOptions {
            title: self.title.clone(),
            subtitle: self.subtitle.clone(),
            width: self.width,
            min_width_percent: self.minwidth,
            growth: if self.inverted { Growth::Down } else { Growth::Up },
            merge: if self.reverse { Merge::FromLeaf } else { Merge::FromRoot },
            roots: if self.per_thread { Roots::Thread } else { Roots::Process },
            palette: if self.colorblind { Palette::Colorblind } else { Palette::Kind },
            value: None,
            annotate: self.annotate,
        }
    }
}

/// Where results go.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct OutputArgs {
    /// Write to this file, format from its ending (.svg .folded .pb.gz .json); `-` is standard output; may be given more
    /// than once. %p pid, %c command, %h host, %t time, %m mode. Without it: an .svg and a .pb.gz under new names
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    output: Vec<PathBuf>,
    /// Format of the output files, whatever their names: svg, folded, pprof, json
    #[arg(short, long, value_name = "FORMAT", help_heading = "Output")]
    format: Option<String>,
    /// Replace existing files instead of keeping them as FILE.old
    #[arg(long, help_heading = "Output")]
    force: bool,
    /// Rows of the table
    #[arg(short = 'T', long, value_name = "N", help_heading = "Output")]
    pub(super) top: Option<usize>,
    /// Functions that were inlined get no frames of their own
    #[arg(long, help_heading = "Output")]
    pub(super) no_inline: bool,
    /// Exit with code 4 when the data is not good enough
    #[arg(long, help_heading = "Output")]
    pub(super) strict: bool,
    /// No progress
    #[arg(short, long, help_heading = "Output")]
    pub(super) quiet: bool,
    /// Colours in the table
    #[arg(long, value_enum, default_value = "auto", value_name = "WHEN", help_heading = "Output")]
    pub(super) color: Color,
    #[command(flatten)]
    picture: PictureArgs,
}

impl OutputArgs {
    /// The files to write.
    pub(super) fn request(&self) -> Result<PlanRequest, CliError> {
        let format = self.format.as_deref().map(Format::from_name).transpose();
        let format = format.map_err(|error| CliError::usage(error.to_string()))?;
        Ok(PlanRequest { paths: self.output.clone(), format, force: self.force })
    }

    /// How they look.
    pub(super) fn options(&self) -> OutputOptions {
        self.picture.options()
    }
}

/// Colours and width of tables on standard output.
pub(super) fn text_style(color: Color) -> TextStyle {
    let terminal = std::io::stdout().is_terminal();
    let colour = match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    };
    TextStyle { width: if terminal { terminal_width() } else { None }, colour }
}

fn terminal_width() -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request writes one `winsize`.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col))
}
