//! Numbered places: the lowest free one is taken first, so that the state table stays short.

use std::collections::BTreeSet;

/// Values by number.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    values: Vec<Option<T>>,
    free: BTreeSet<usize>,
    limit: usize,
}

impl<T> Slots<T> {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            values: Vec::new(),
            free: BTreeSet::new(),
            limit,
        }
    }

    /// Puts a value at the lowest free place; gives it back if all are taken.
    pub(crate) fn insert(&mut self, value: T) -> Result<usize, T> {
        if let Some(slot) = self.free.pop_first() {
            self.values[slot] = Some(value);
            return Ok(slot);
        }
        if self.values.len() >= self.limit {
            return Err(value);
        }
        self.values.push(Some(value));
        Ok(self.values.len() - 1)
    }

    /// Puts a value at a known place.
    pub(crate) fn restore(&mut self, slot: usize, value: T) {
        while self.values.len() <= slot {
            self.free.insert(self.values.len());
            self.values.push(None);
        }
        self.free.remove(&slot);
        self.values[slot] = Some(value);
    }

    pub(crate) fn remove(&mut self, slot: usize) -> Option<T> {
        let value = self.values.get_mut(slot)?.take()?;
        self.free.insert(slot);
        Some(value)
    }

    pub(crate) fn get(&self, slot: usize) -> Option<&T> {
        self.values.get(slot)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: usize) -> Option<&mut T> {
        self.values.get_mut(slot)?.as_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.values
            .iter()
            .enumerate()
            .filter_map(|(slot, value)| Some((slot, value.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowest_first() {
        let mut slots = Slots::new(4);
        slots.restore(2, 'c');
        assert_eq!(slots.insert('a'), Ok(0));
        assert_eq!(slots.insert('b'), Ok(1));
        assert_eq!(slots.insert('d'), Ok(3));
        assert_eq!(slots.insert('e'), Err('e'));
        assert_eq!(slots.remove(1), Some('b'));
        assert_eq!(slots.remove(1), None);
        assert_eq!(slots.insert('f'), Ok(1));
        assert_eq!(
            slots.iter().map(|(_, value)| *value).collect::<String>(),
            "afcd"
        );
    }
}
