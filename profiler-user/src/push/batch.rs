//! Windows put together until it is time to send them.

use std::time::Duration;

use crate::profile::{Profile, ProfileBuilder};

/// Kinds of profiles that are put together side by side. Of others, windows are sent one by one.
const MOST_KINDS: usize = 16;

/// Windows of each kind that wait.
#[derive(Debug, Default)]
pub(super) struct Batch {
    open: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    first: Profile,
    builder: ProfileBuilder,
    end_unix_ns: u64,
    duration_ns: u64,
}

impl Batch {
    /// Adds a window. Returns what is complete: its kind's windows, when together they are as long as `interval`, less a tenth of a window, or when
    /// they do not fit together.
    pub(super) fn add(&mut self, profile: &Profile, interval: Duration) -> Vec<Profile> {
        let mut done = Vec::new();
        let fits = |open: &Open| {
            open.first.meta.profile_type == profile.meta.profile_type
                && open.first.value_types == profile.value_types
        };
        if let Some(at) = self.open.iter().position(fits) {
            self.open[at].add(profile);
        } else {
            if self.open.len() >= MOST_KINDS {
                done.push(self.open.remove(0).finish());
            }
            let mut builder = ProfileBuilder::new(profile.value_types.clone());
            builder.add_profile(profile, |_| true);
            let meta = &profile.meta;
            self.open.push(Open {
                builder,
                end_unix_ns: meta.start_unix_ns.saturating_add(meta.duration_ns),
                duration_ns: meta.duration_ns,
                first: Profile {
                    meta: meta.clone(),
                    value_types: profile.value_types.clone(),
                    quality: profile.quality.clone(),
                    ..Profile::default()
                },
            });
        }
        let enough_ns = (interval.as_nanos() as u64).saturating_sub(profile.meta.duration_ns / 10);
        while let Some(at) = self.open.iter().position(|open| open.duration_ns >= enough_ns) {
            done.push(self.open.remove(at).finish());
        }
        done
    }

    /// Everything that waits.
    pub(super) fn finish(&mut self) -> Vec<Profile> {
        self.open.drain(..).map(Open::finish).collect()
    }
}

impl Open {
    fn add(&mut self, profile: &Profile) {
        self.builder.add_profile(profile, |_| true);
        self.duration_ns = self.duration_ns.saturating_add(profile.meta.duration_ns);
        self.end_unix_ns =
            self.end_unix_ns.max(profile.meta.start_unix_ns.saturating_add(profile.meta.duration_ns));
        let quality = &mut self.first.quality;
        quality.samples = quality.samples.saturating_add(profile.quality.samples);
        for lost in &profile.quality.lost {
            match quality.lost.iter_mut().find(|known| known.id == lost.id) {
                Some(known) => known.count = known.count.saturating_add(lost.count),
                None => quality.lost.push(lost.clone()),
            }
        }
    }

    fn finish(self) -> Profile {
        let mut meta = self.first.meta;
        meta.duration_ns = self.duration_ns;
        self.builder.finish(meta, self.first.quality)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;

    fn window(index: u64, kind: &str) -> Profile {
        let mut profile = fixture::hostile();
        profile.meta.profile_type = kind.to_owned();
        (profile.meta.start_unix_ns, profile.meta.duration_ns) = (index * 10_000_000_000, 10_000_000_000);
        profile
    }

    #[test]
    fn a_minute_of_windows_is_one_profile_and_kinds_stay_apart() {
        let (mut batch, minute) = (Batch::default(), Duration::from_mins(1));
        let mut done = Vec::new();
        for index in 0..6 {
            done.extend(batch.add(&window(index, "cpu"), minute));
            done.extend(batch.add(&window(index, "off-cpu"), minute));
        }
        let kinds: Vec<&str> = done.iter().map(|profile| &*profile.meta.profile_type).collect();
        assert_eq!(kinds, ["cpu", "off-cpu"]);
        let one = window(0, "cpu");
        assert_eq!(done[0].total(1), 6 * one.total(1));
        assert_eq!((done[0].meta.start_unix_ns, done[0].meta.duration_ns), (0, 60_000_000_000));
        assert_eq!(done[0].quality.samples, 6 * one.quality.samples);
        assert!(batch.finish().is_empty());
        assert!(batch.add(&window(7, "cpu"), minute).is_empty());
        assert_eq!(batch.finish().len(), 1);
        assert_eq!(batch.add(&window(8, "cpu"), Duration::from_secs(10)).len(), 1, "a window is enough");
    }

    #[test]
    fn any_number_of_kinds_takes_bounded_room() {
        let mut batch = Batch::default();
        let sent: usize = (0..100)
            .map(|kind| batch.add(&window(0, &format!("k{kind}")), Duration::from_mins(1)).len())
            .sum();
        assert_eq!(sent + batch.finish().len(), 100);
    }
}
