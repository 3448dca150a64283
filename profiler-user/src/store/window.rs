//! One window of one profile type: who ran where, in numbers of the segment's entries, packed in columns.

use std::collections::BTreeMap;

use crate::profile::{Meta, Profile, ValueType};

use super::dictionary::{Dictionary, Numbering};
use super::entries::Entries;
use super::figures::Figures;
use super::wire::{Cursor, Damage, put};

/// Values of one sample. No profile type has more than a handful.
const MOST_VALUES: usize = 16;

/// Who ran where: the leaf of the stack (none for a stack without frames), and the label set.
type Key = (Option<u32>, u32);

/// A window, or several of the same profile type that were merged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Window {
    /// The name that says what was recorded and how, as JSON.
    meta: u32,
    /// Kind and unit.
    value_types: Vec<(u32, u32)>,
    figures: Figures,
    samples: BTreeMap<Key, Vec<u64>>,
}

impl Window {
    /// A profile in numbers; new entries go to the dictionary.
    pub(super) fn of(profile: &Profile, dictionary: &mut Dictionary) -> Self {
        let mut numbering = Numbering::new(profile);
        let value_types = profile.value_types.iter().take(MOST_VALUES);
        let value_types: Vec<(u32, u32)> =
            value_types.map(|value| (dictionary.name(&value.kind), dictionary.name(&value.unit))).collect();
        let mut samples = BTreeMap::new();
        for sample in &profile.samples {
            let stack = numbering.stack(dictionary, sample.stack.0 as usize);
            let labels = numbering.labels(dictionary, sample.labels.0 as usize);
            add_values(&mut samples, (stack, labels), &sample.values, value_types.len());
        }
        Self {
            meta: dictionary.name(&meta_text(&profile.meta)),
            value_types,
            figures: Figures::of(&profile.quality, dictionary),
            samples,
        }
    }

    /// Whether the two can be added: equal values mean the same thing.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.value_types == other.value_types
    }

    /// Adds a later window of the same segment that [is like](Self::is_like) this one.
    pub(super) fn add(&mut self, other: &Self) {
        self.meta = other.meta;
        self.figures.add(&other.figures);
        for (key, values) in &other.samples {
            add_values(&mut self.samples, *key, values, self.value_types.len());
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put(out, u64::from(self.meta));
        put(out, self.value_types.len() as u64);
        for (kind, unit) in &self.value_types {
            put(out, u64::from(*kind));
            put(out, u64::from(*unit));
        }
        self.figures.write(out);
        put(out, self.samples.len() as u64);
        let mut before = 0;
        for (leaf, _) in self.samples.keys() {
            // Sorted, so that what is written is small.
            let leaf = leaf.map_or(0, |leaf| u64::from(leaf) + 1);
            put(out, leaf - before);
            before = leaf;
        }
        self.samples.keys().for_each(|(_, labels)| put(out, u64::from(*labels)));
        for index in 0..self.value_types.len() {
            let column = || self.samples.values().map(|values| values[index]);
            // Nanoseconds of samples are multiples of the sampler's period.
            let unit = column().fold(0, divisor).max(1);
            put(out, unit);
            column().for_each(|value| put(out, value / unit));
        }
    }

    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, Damage> {
        let meta = cursor.small()?;
        let types = cursor.count()?;
        if types > MOST_VALUES {
            return Err(Damage("too many values in a sample"));
        }
        let mut value_types = Vec::with_capacity(types);
        for _ in 0..types {
            value_types.push((cursor.small()?, cursor.small()?));
        }
        let figures = Figures::read(cursor)?;
        let count = cursor.count()?;
        let mut keys: Vec<Key> = Vec::with_capacity(count);
        let mut leaf = 0_u64;
        for _ in 0..count {
            leaf = leaf.saturating_add(cursor.number()?);
            let leaf = u32::try_from(leaf).map_err(|_| Damage("no such stack"))?;
            keys.push((leaf.checked_sub(1), 0));
        }
        for key in &mut keys {
            key.1 = cursor.small()?;
        }
        let mut values = vec![Vec::with_capacity(types); count];
        for _ in 0..types {
            let unit = cursor.number()?;
            for values in &mut values {
                values.push(cursor.number()?.saturating_mul(unit));
            }
        }
        let samples: BTreeMap<Key, Vec<u64>> = keys.into_iter().zip(values).collect();
        if samples.len() != count {
            return Err(Damage("a stack twice in one window"));
        }
        Ok(Self { meta, value_types, figures, samples })
    }

    /// Refuses a window whose numbers stand for nothing.
    pub(super) fn check(&self, entries: &Entries) -> Result<(), Damage> {
        entries.raw(self.meta)?;
        for (kind, unit) in &self.value_types {
            entries.raw(*kind)?;
            entries.raw(*unit)?;
        }
        let (nodes, labels) = (entries.nodes(), entries.labels().len());
        let is_known = |(leaf, label): &Key| {
            leaf.is_none_or(|leaf| (leaf as usize) < nodes) && (*label as usize) < labels
        };
        if self.samples.keys().all(is_known) { Ok(()) } else { Err(Damage("no such stack or label set")) }
    }

    /// Who ran where, and its values.
    pub(super) fn samples(&self) -> impl Iterator<Item = (Key, &[u64])> {
        self.samples.iter().map(|(key, values)| (*key, &**values))
    }

    /// What its values mean.
    pub(super) fn value_types(&self, entries: &Entries) -> Result<Vec<ValueType>, Damage> {
        let named = |(kind, unit): &(u32, u32)| -> Result<ValueType, Damage> {
            Ok(ValueType::new(&entries.cleaned(*kind)?, &entries.cleaned(*unit)?))
        };
        self.value_types.iter().map(named).collect()
    }

    /// What was recorded and how.
    pub(super) fn meta(&self, entries: &Entries) -> Result<Meta, Damage> {
        serde_json::from_str(entries.raw(self.meta)?).map_err(|_| Damage("what was recorded is not told"))
    }

    pub(super) fn figures(&self) -> &Figures {
        &self.figures
    }
}

fn add_values(samples: &mut BTreeMap<Key, Vec<u64>>, key: Key, values: &[u64], count: usize) {
    let sums = samples.entry(key).or_insert_with(|| vec![0; count]);
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum = sum.saturating_add(*value);
    }
}

/// What all windows of one recording say in common. Series and tables beside the samples are not the store's.
fn meta_text(meta: &Meta) -> String {
    let common = Meta {
        start_unix_ns: 0,
        duration_ns: 0,
        resident: Vec::new(),
        allocations: None,
        leaks: None,
        ..meta.clone()
    };
    serde_json::to_string(&common).unwrap_or_default()
}

/// Greatest common divisor.
fn divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
