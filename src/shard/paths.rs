//! The owners of this shard's paths (5-tuples that passed an authenticated check), and the transports that wait for
//! one. Caches the last answer, because the packets of a frame come in a row, and a table of thousands of paths is in
//! no cache. `rivals` decides who owns a path.

use std::collections::HashMap;

use crate::base::buffer::{LocalIndex, Path};
use crate::base::id::ShardId;
use crate::base::limits::RIVALS_PER_PATH_MAX;
use crate::base::slab::Key;
use crate::transport::Transport;

/// The transports that wait for a path of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rival {
    Here(Key<Transport>),
    At(ShardId),
}

pub(super) struct Paths {
    owners: HashMap<Path, Key<Transport>>,
    last: Option<(Path, Key<Transport>)>,
    /// The others that passed a check, oldest first.
    rivals: HashMap<Path, Vec<Rival>>,
    /// How many begin at each local address.
    at: HashMap<LocalIndex, usize>,
    /// Of `owners`, those that a transport of another shard holds: this shard's own is a rival of that one.
    held: HashMap<Path, ShardId>,
}

impl Paths {
    pub(super) fn with_capacity(capacity: usize) -> Paths {
        Paths {
            owners: HashMap::with_capacity(capacity),
            last: None,
            rivals: HashMap::new(),
            at: HashMap::new(),
            held: HashMap::new(),
        }
    }

    pub(super) fn owner(&mut self, path: &Path) -> Option<Key<Transport>> {
        match &self.last {
            Some((last, key)) if last == path => Some(*key),
            _ => {
                let key = self.owners.get(path).copied()?;
                self.last = Some((*path, key));
                Some(key)
            }
        }
    }

    /// As [`Paths::owner`], for a prefetch.
    pub(super) fn peek(&self, path: &Path) -> Option<Key<Transport>> {
        self.owners.get(path).copied()
    }

    /// The previous owner.
    pub(super) fn insert(&mut self, path: Path, key: Key<Transport>) -> Option<Key<Transport>> {
        self.last = None;
        let before = self.owners.insert(path, key);
        if before.is_none() {
            *self.at.entry(path.leg.local()).or_default() += 1;
        }
        before
    }

    pub(super) fn remove(&mut self, path: &Path) -> Option<Key<Transport>> {
        self.last = None;
        let before = self.owners.remove(path);
        if let (Some(count), true) = (self.at.get_mut(&path.leg.local()), before.is_some()) {
            *count -= 1;
        }
        before
    }

    pub(super) fn contend(&mut self, path: Path, rival: Rival) {
        let rivals = self.rivals.entry(path).or_default();
        if rivals.len() < RIVALS_PER_PATH_MAX && !rivals.contains(&rival) {
            rivals.push(rival);
        }
    }

    pub(super) fn withdraw(&mut self, path: Path, rival: Rival) {
        if let Some(rivals) = self.rivals.get_mut(&path) {
            rivals.retain(|known| *known != rival);
            if rivals.is_empty() {
                self.rivals.remove(&path);
            }
        }
    }

    pub(super) fn is_contested(&self, path: &Path) -> bool {
        !self.rivals.is_empty() && self.rivals.contains_key(path)
    }

    pub(super) fn rivals(&self, path: &Path) -> Vec<Rival> {
        self.rivals.get(path).cloned().unwrap_or_default()
    }

    /// Takes out the oldest.
    pub(super) fn next_rival(&mut self, path: &Path) -> Option<Rival> {
        let first = *self.rivals.get(path)?.first()?;
        self.withdraw(*path, first);
        Some(first)
    }

    pub(super) fn hold_elsewhere(&mut self, path: Path, by: ShardId) {
        self.held.insert(path, by);
    }

    /// The shard whose transport holds it, although one of this shard passed a check on it.
    pub(super) fn holder(&self, path: &Path) -> Option<ShardId> {
        if self.held.is_empty() { None } else { self.held.get(path).copied() }
    }

    pub(super) fn let_go(&mut self, path: &Path) -> Option<ShardId> {
        self.held.remove(path)
    }

    /// Whether any path begins there.
    pub(super) fn is_used(&self, local: LocalIndex) -> bool {
        self.at.get(&local).is_some_and(|count| *count > 0)
    }

    pub(super) fn len(&self) -> usize {
        self.owners.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answer_does_not_outlive_a_change() {
        let path = |port| Path::udp(LocalIndex(0), ([192, 0, 2, 1], port).into());
        let key = |slot| Some(Key::from_parts(slot, 0));
        let mut paths = Paths::with_capacity(4);
        paths.insert(path(1), Key::from_parts(1, 0));
        paths.insert(path(2), Key::from_parts(2, 0));
        for _ in 0..2 {
            assert_eq!((paths.owner(&path(1)), paths.owner(&path(1))), (key(1), key(1)));
            assert_eq!((paths.owner(&path(2)), paths.owner(&path(3))), (key(2), None));
            assert_eq!((paths.peek(&path(1)), paths.peek(&path(3))), (key(1), None));
        }
        assert_eq!(paths.insert(path(2), Key::from_parts(5, 0)), key(2));
        assert_eq!(paths.owner(&path(2)), key(5));
        assert_eq!((paths.remove(&path(2)), paths.owner(&path(2)), paths.len()), (key(5), None, 1));
        assert!(paths.is_used(LocalIndex(0)) && !paths.is_used(LocalIndex(1)));
        assert_eq!((paths.remove(&path(2)), paths.remove(&path(1))), (None, key(1)));
        assert!(!paths.is_used(LocalIndex(0)));
    }
}
