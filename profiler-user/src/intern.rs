//! Equal values once, with a number each: stacks, places, names.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash, RandomState};

use hashbrown::HashTable;

/// Numbers distinct values in the order in which they first came. Each is kept once: the index holds only numbers.
#[derive(Debug, Clone)]
pub(crate) struct Interner<T> {
    ids: HashTable<u32>,
    entries: Vec<T>,
    // Seeded at random: programs choose the names and the stacks.
    hasher: RandomState,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { ids: HashTable::new(), entries: Vec::new(), hasher: RandomState::new() }
    }
}

impl<T: Eq + Hash> Interner<T> {
    /// The number of a value.
    pub(crate) fn intern(&mut self, value: T) -> u32 {
        let hash = self.hasher.hash_one(&value);
        self.find(hash, &value).unwrap_or_else(|| self.push(hash, value))
    }

    /// The number of a borrowed value, which is copied only if it is new.
    pub(crate) fn intern_ref<Q>(&mut self, value: &Q) -> u32
    where
        T: Borrow<Q>,
        Q: Eq + Hash + ToOwned + ?Sized,
        Q::Owned: Into<T>,
    {
        let hash = self.hasher.hash_one(value);
        self.find(hash, value).unwrap_or_else(|| self.push(hash, value.to_owned().into()))
    }

    /// Whether the value has a number.
    pub(crate) fn contains<Q>(&self, value: &Q) -> bool
    where
        T: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.find(self.hasher.hash_one(value), value).is_some()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Forgets all but the first ones.
    pub(crate) fn truncate(&mut self, len: u32) {
        if (len as usize) < self.entries.len() {
            self.ids.retain(|id| *id < len);
            self.entries.truncate(len as usize);
        }
    }

    /// All values, by number.
    pub(crate) fn entries(&self) -> &[T] {
        &self.entries
    }

    /// All values, by number, without the index.
    pub(crate) fn into_entries(self) -> Vec<T> {
        self.entries
    }

    /// A value and its borrowed form have the same hash ([`Borrow`]).
    fn find<Q>(&self, hash: u64, value: &Q) -> Option<u32>
    where
        T: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        self.ids.find(hash, |id| self.entries[*id as usize].borrow() == value).copied()
    }

    fn push(&mut self, hash: u64, value: T) -> u32 {
        let id = self.entries.len() as u32;
        self.entries.push(value);
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.ids.insert_unique(hash, id, |id| hasher.hash_one(&entries[*id as usize]));
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_have_one_number_in_the_order_in_which_they_came() {
        let mut numbers: Interner<Box<[u32]>> = Interner::default();
        let value = |index: u32| vec![index, index * 7];
        for index in (0..1000).chain(0..1000) {
            assert_eq!(numbers.intern_ref(value(index).as_slice()), index);
        }
        assert_eq!(numbers.intern(value(3).into()), 3);
        assert!(numbers.contains(value(999).as_slice()) && !numbers.contains(value(1000).as_slice()));
        assert_eq!(numbers.len(), 1000);
        numbers.truncate(2000);
        numbers.truncate(500);
        for index in 0..1000 {
            assert_eq!(numbers.intern_ref(value(index).as_slice()), index);
        }
        assert_eq!(numbers.len(), 1000);
        assert_eq!(*numbers.into_entries()[41], [41, 287]);
    }
}
