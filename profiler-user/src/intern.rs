//! Equal values once, with a number each: stacks, places, names.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// Numbers distinct values in the order in which they first came.
#[derive(Debug, Clone)]
pub(crate) struct Interner<T> {
    ids: HashMap<T, u32>,
    entries: Vec<T>,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { ids: HashMap::new(), entries: Vec::new() }
    }
}

impl<T: Clone + Eq + Hash> Interner<T> {
    /// The number of a value.
    pub(crate) fn intern(&mut self, value: T) -> u32 {
        if let Some(id) = self.ids.get(&value) {
            return *id;
        }
        self.push(value)
    }

    /// The number of a borrowed value, which is copied only if it is new.
    pub(crate) fn intern_ref<Q>(&mut self, value: &Q) -> u32
    where
        T: Borrow<Q>,
        Q: Eq + Hash + ToOwned + ?Sized,
        Q::Owned: Into<T>,
    {
        if let Some(id) = self.ids.get(value) {
            return *id;
        }
        self.push(value.to_owned().into())
    }

    /// Whether the value has a number.
    pub(crate) fn contains<Q>(&self, value: &Q) -> bool
    where
        T: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.ids.contains_key(value)
    }

    /// All values, by number.
    pub(crate) fn entries(&self) -> &[T] {
        &self.entries
    }

    /// All values, by number, without the index.
    pub(crate) fn into_entries(self) -> Vec<T> {
        self.entries
    }

    fn push(&mut self, value: T) -> u32 {
        let id = self.entries.len() as u32;
        self.entries.push(value.clone());
        self.ids.insert(value, id);
        id
    }
}
