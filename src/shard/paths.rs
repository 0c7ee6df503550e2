//! Whose a 5-tuple is: the paths of this shard that passed an authenticated check. Remembers the last answer, because
//! the packets of a frame come in a row, and a table of thousands of paths is in no cache.

use std::collections::HashMap;

use crate::base::buffer::Path;
use crate::base::slab::Key;
use crate::transport::Transport;

pub(super) struct Paths {
    owners: HashMap<Path, Key<Transport>>,
    last: Option<(Path, Key<Transport>)>,
}

impl Paths {
    pub(super) fn with_capacity(capacity: usize) -> Paths {
        Paths { owners: HashMap::with_capacity(capacity), last: None }
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

    /// As [`Paths::owner`], of a datagram whose turn has not come.
    pub(super) fn peek(&self, path: &Path) -> Option<Key<Transport>> {
        self.owners.get(path).copied()
    }

    /// Whose it was before.
    pub(super) fn insert(&mut self, path: Path, key: Key<Transport>) -> Option<Key<Transport>> {
        self.last = None;
        self.owners.insert(path, key)
    }

    pub(super) fn remove(&mut self, path: &Path) -> Option<Key<Transport>> {
        self.last = None;
        self.owners.remove(path)
    }

    pub(super) fn len(&self) -> usize {
        self.owners.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::buffer::LocalIndex;

    #[test]
    fn the_last_answer_does_not_outlive_a_change() {
        let path = |port| Path { local: LocalIndex(0), remote: ([192, 0, 2, 1], port).into() };
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
    }
}
