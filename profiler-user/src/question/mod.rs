//! Questions to a store, and the answers to them: what `perf-agent query` and the HTTP API have in common.
//!
//! In: what somebody asks, in the words of the command line, which are the parameters of the API as well (one grammar, read by clap). Out: a
//! profile, or a [`Refusal`] that says what there is instead. Where the question came from, and how the answer is shown, is not known here.

mod compare;
mod encoded;
mod leaks;
mod part;
mod picture;
mod refusal;
mod rows;
mod series;
pub(crate) mod time;

pub(crate) use compare::CompareArgs;
pub(crate) use encoded::encoded;
pub(crate) use leaks::LeakArgs;
pub(crate) use part::{PartArgs, RangeArgs, explained, open};
pub(crate) use picture::{PictureArgs, parse_format, parse_percent};
pub(crate) use refusal::{Kind, Refusal};
pub(crate) use rows::{RowsArgs, value_index};
pub(crate) use series::{Scale, SeriesArgs, series_json, series_of_json, stepped};
