//! Consumers and sources whose layers have changed, gathered for a moment, so that each is told once.

use crate::base::time::{Duration, Instant};
use crate::router::forward::LayersChanged;
use crate::router::keys::{ConsumerKey, SourceKey};

const GATHER: Duration = Duration::from_millis(100);

/// The changes that are to be told, and when.
#[derive(Default)]
pub(super) struct LayerChanges {
    /// Consumers whose layers changed. The hot loop adds to it; call [`LayerChanges::gather`] afterwards.
    pub(super) consumers: LayersChanged,
    sources: Vec<SourceKey>,
    due: Option<Instant>,
}

impl LayerChanges {
    pub(super) fn due(&self) -> Option<Instant> {
        let empty = self.consumers.is_empty() && self.sources.is_empty();
        debug_assert!(empty || self.due.is_some(), "changes that nobody would ever tell");
        self.due
    }

    pub(super) fn of_consumer(&mut self, now: Instant, key: ConsumerKey) {
        self.consumers.push(key);
        self.gather(now);
    }

    pub(super) fn of_source(&mut self, now: Instant, key: SourceKey) {
        self.sources.push(key);
        self.gather(now);
    }

    /// Starts the wait, if none has begun. Call when something was added.
    pub(super) fn gather(&mut self, now: Instant) {
        let due = now + GATHER;
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    /// Takes all changes, once they are due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(LayersChanged, Vec<SourceKey>)> {
        self.due.take_if(|due| *due <= now)?;
        Some((std::mem::take(&mut self.consumers), std::mem::take(&mut self.sources)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::slab::Key;

    #[test]
    fn changes_are_told_together_a_moment_after_the_first() {
        let (mut changes, at) = (LayerChanges::default(), |millis: u64| Instant::from_nanos(millis * 1_000_000));
        changes.of_consumer(at(0), Key::from_parts(1, 0));
        changes.of_source(at(60), Key::from_parts(2, 0));
        assert_eq!((changes.due(), changes.take_due(at(99)).is_none()), (Some(at(100)), true));
        let (consumers, sources) = changes.take_due(at(100)).unwrap();
        assert_eq!((consumers, sources), (vec![Key::from_parts(1, 0)], vec![Key::from_parts(2, 0)]));
        assert_eq!((changes.due(), changes.take_due(at(500)).is_none()), (None, true));
    }
}
