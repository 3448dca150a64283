//! How results look.

use clap::{Args, ValueEnum};

use crate::output::{FORMATS, Format, Growth, OutputOptions, Palette};
use crate::report::{Merge, Roots};

/// How results look.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Picture")]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(crate) struct PictureArgs {
    /// Title of the picture
    #[arg(long, value_name = "TEXT")]
    pub(crate) title: Option<String>,
    /// Subtitle of the picture
    #[arg(long, value_name = "TEXT")]
    pub(crate) subtitle: Option<String>,
    /// Leave out boxes narrower than this share of the whole, in percent [default: what a browser can show]
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    pub(crate) minwidth: Option<f64>,
    /// Width of the picture in pixels [default: that of the window]
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(200..=20_000))]
    pub(crate) width: Option<u32>,
    /// Let the picture grow downwards
    #[arg(long)]
    pub(crate) inverted: bool,
    /// Merge stacks from the innermost function: who leads to it
    #[arg(long)]
    pub(crate) reverse: bool,
    /// One root per thread instead of one per process name
    #[arg(long)]
    pub(crate) per_thread: bool,
    /// Colours
    #[arg(long, value_enum, default_value_t, value_name = "COLOURS")]
    pub(crate) palette: PaletteArg,
    /// Mark kernel, inlined and JIT frames in folded stacks with _[k], _[i] and _[j]
    #[arg(long)]
    pub(crate) annotate: bool,
}

/// Colours of a flame graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum PaletteArg {
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

impl PictureArgs {
    /// The options for the writers; `value` is the index of the value to show.
    pub(crate) fn options(&self, value: Option<usize>) -> OutputOptions {
        OutputOptions {
            title: self.title.clone(),
            subtitle: self.subtitle.clone(),
            width: self.width.map(|width| width as usize),
            min_width_percent: self.minwidth,
            growth: if self.inverted { Growth::Down } else { Growth::Up },
            merge: if self.reverse { Merge::FromLeaf } else { Merge::FromRoot },
            roots: if self.per_thread { Roots::Thread } else { Roots::Process },
            palette: match self.palette {
                PaletteArg::Kind => Palette::Kind,
                PaletteArg::Colorblind => Palette::Colorblind,
                PaletteArg::Module => Palette::Module,
                PaletteArg::Hot => Palette::Hot,
            },
            value,
            annotate: self.annotate,
        }
    }
}

/// A percentage, with or without its sign.
pub(crate) fn parse_percent(text: &str) -> Result<f64, String> {
    let number: f64 = text.trim_end_matches('%').trim().parse().map_err(|_| "not a percentage".to_owned())?;
    if (0.0..=100.0).contains(&number) { Ok(number) } else { Err("not between 0 and 100".to_owned()) }
}

/// The name of a format.
pub(crate) fn parse_format(text: &str) -> Result<&'static Format, String> {
    Format::from_name(text).map_err(|_| {
        let names: Vec<&str> = FORMATS.iter().map(|format| format.name).collect();
        format!("known formats: {}", names.join(", "))
    })
}
