//! What the store holds, as rules see it.

use std::ops::Range;
use std::path::PathBuf;

use crate::store::{Filter, Reader};

use super::engine::Past;
use super::measure::{Point, measure};
use super::rule::Rule;

/// The profile type that rules look at unless they say otherwise.
pub(super) const CPU: &str = "cpu";

/// The store of this host.
#[derive(Debug, Clone)]
pub(super) struct Stored(pub(super) PathBuf);

impl Past for Stored {
    fn points(&self, rule: &Rule, range: &Range<u64>) -> Vec<Point> {
        let mut points = Vec::new();
        // A store that cannot be read is a baseline that is missing, and that is told.
        if let Ok(reader) = Reader::open(&self.0) {
            let _whole_or_in_part = reader.each(range, rule.profile_type(), &Filter::default(), |profile| {
                points.extend(measure(rule, &profile));
            });
        }
        points.sort_by_key(|point| point.start_unix_ns);
        points
    }
}
