//! What the reader may ask of an output. A format ignores what does not concern it.

use super::OutputError;
use crate::profile::Profile;
use crate::report::{Merge, Roots};

/// Colours of a flame graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Palette {
    /// By kind of code: native, inlined, JIT, kernel, unknown, marker.
    #[default]
    Kind,
    /// By kind of code, with green for native: what [`Self::Kind`] is in pictures of bytes.
    Memory,
    /// By kind of code, in hues that stay apart for readers with a colour vision deficiency.
    Colorblind,
    /// One hue per object, so that libraries stand out.
    Module,
    /// The classic red to yellow.
    Hot,
}

/// Which way a flame graph grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Growth {
    /// Roots at the bottom: flames.
    #[default]
    Up,
    /// Roots at the top: icicles.
    Down,
}

/// Options of all outputs.
#[derive(Debug, Clone, Default)]
pub struct OutputOptions {
    /// Title instead of the one made from the profile.
    pub title: Option<String>,
    /// Subtitle instead of the one made from the profile.
    pub subtitle: Option<String>,
    /// Width of the picture in pixels. None fits it to the window.
    pub width: Option<usize>,
    /// Boxes narrower than this share of the whole, in percent, are not drawn. None keeps as many as a browser
    /// shows without delay.
    pub min_width_percent: Option<f64>,
    /// Which way the picture grows.
    pub growth: Growth,
    /// Which end of the stacks is merged.
    pub merge: Merge,
    /// One root per process or per thread.
    pub roots: Roots,
    /// Colours.
    pub palette: Palette,
    /// Which of the profile's values to show. None leaves it to the format: folded stacks take the first (the
    /// count), pictures and tables the last.
    pub value: Option<usize>,
    /// Mark kernel, inlined and JIT frames in folded stacks with `_[k]`, `_[i]` and `_[j]`.
    pub annotate: bool,
}

impl OutputOptions {
    /// The value to show: the one asked for, or `default`.
    ///
    /// # Errors
    /// When the profile does not have the one asked for.
    pub(super) fn value_of(&self, profile: &Profile, default: usize) -> Result<usize, OutputError> {
        match self.value {
            Some(wanted) if wanted >= profile.value_types.len() => Err(OutputError::NoSuchValue {
                wanted,
                known: profile.value_types.iter().map(|value| value.kind.clone()).collect(),
            }),
            Some(wanted) => Ok(wanted),
            None => Ok(default),
        }
    }
}
