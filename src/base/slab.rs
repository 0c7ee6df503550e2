//! An arena whose keys carry a generation: a key that outlives its value finds nothing, never somebody else's value.
//! Iteration goes in slot order, so the same history gives the same order.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

use super::prefetch::prefetch;

pub struct Key<T> {
    slot: u32,
    generation: u32,
    of: PhantomData<fn() -> T>,
}

impl<T> Key<T> {
    pub fn slot(self) -> usize {
        self.slot as usize
    }

    /// For layers that carry a key without knowing what it names.
    pub fn to_parts(self) -> (u32, u32) {
        (self.slot, self.generation)
    }

    pub fn from_parts(slot: u32, generation: u32) -> Key<T> {
        Key { slot, generation, of: PhantomData }
    }
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Key<T> {}
impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.slot, self.generation) == (other.slot, other.generation)
    }
}
impl<T> Eq for Key<T> {}
impl<T> Hash for Key<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.slot, self.generation).hash(state);
    }
}
impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}.{}", self.slot, self.generation)
    }
}

/// The bytes before a value in its first line, if it is aligned to 8 bytes.
pub const SLOT_HEAD: usize = 8;

/// The generation is read with the beginning of the value, and both begin a cache line: packets reach their receivers'
/// state with a cold cache, and each line of it costs.
#[repr(C, align(64))]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// `T` is what its keys are of: the values themselves, or a name for them where they point at each other.
pub struct Slab<V, T = V> {
    slots: Vec<Slot<V>>,
    free: Vec<u32>,
    of: PhantomData<fn() -> T>,
}

impl<V, T> Default for Slab<V, T> {
    fn default() -> Self {
        Slab { slots: Vec::new(), free: Vec::new(), of: PhantomData }
    }
}

impl<V, T> Slab<V, T> {
    /// Never moves its values while there are no more than `capacity`; unused slots cost addresses, not memory.
    pub fn with_capacity(capacity: usize) -> Slab<V, T> {
        Slab { slots: Vec::with_capacity(capacity), free: Vec::new(), of: PhantomData }
    }

    pub fn insert(&mut self, value: V) -> Key<T> {
        if let Some(slot) = self.free.pop() {
            let entry = &mut self.slots[slot as usize];
            entry.value = Some(value);
            return Key { slot, generation: entry.generation, of: PhantomData };
        }
        let slot = u32::try_from(self.slots.len()).expect("a shard never holds four billion objects");
        self.slots.push(Slot { generation: 0, value: Some(value) });
        Key { slot, generation: 0, of: PhantomData }
    }

    pub fn remove(&mut self, key: Key<T>) -> Option<V> {
        let entry = self.slots.get_mut(key.slot as usize).filter(|entry| entry.generation == key.generation)?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(key.slot);
        Some(value)
    }

    pub fn get(&self, key: Key<T>) -> Option<&V> {
        self.slots.get(key.slot as usize).filter(|entry| entry.generation == key.generation)?.value.as_ref()
    }

    pub fn get_mut(&mut self, key: Key<T>) -> Option<&mut V> {
        self.slots.get_mut(key.slot as usize).filter(|entry| entry.generation == key.generation)?.value.as_mut()
    }

    /// Prefetches the first `bytes` of the value.
    pub fn prefetch(&self, key: Key<T>, bytes: usize) {
        if let Some(slot) = self.slots.get(key.slot as usize) {
            prefetch(slot, SLOT_HEAD + bytes);
        }
    }

    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = (Key<T>, &V)> {
        self.slots.iter().enumerate().filter_map(|(slot, entry)| {
            let key = Key { slot: slot as u32, generation: entry.generation, of: PhantomData };
            entry.value.as_ref().map(|value| (key, value))
        })
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Key<T>, &mut V)> {
        self.slots.iter_mut().enumerate().filter_map(|(slot, entry)| {
            let key = Key { slot: slot as u32, generation: entry.generation, of: PhantomData };
            entry.value.as_mut().map(|value| (key, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut slab: Slab<_> = Slab::default();
        let old = slab.insert("a");
        assert_eq!(slab.remove(old), Some("a"));
        let new = slab.insert("b");
        assert_eq!(new.slot(), old.slot());
        assert_eq!(slab.get(old), None);
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.get(new), Some(&"b"));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn iteration_is_in_slot_order() {
        let mut slab: Slab<_> = Slab::default();
        let keys: Vec<_> = (0..5).map(|n| slab.insert(n)).collect();
        slab.remove(keys[1]);
        slab.remove(keys[3]);
        slab.insert(9);
        assert_eq!(slab.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [0, 2, 9, 4]);
    }
}
