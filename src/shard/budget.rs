//! The memory budget of all packet histories of a shard together. Each is small and bounded, yet many publishers could
//! hold more than the machine has: beyond the budget the video whose packets are oldest gives its history back.

use crate::base::limits::HISTORY_BYTES_PER_SHARD_MAX;
use crate::router::keys::SourceKey;
use crate::router::source::Sources;

/// Counts growth as it happens, and everything anew when the budget seems spent: sources that end need not report.
#[derive(Default)]
pub(super) struct Budget {
    at_most: usize,
}

impl Budget {
    /// A history other than `growing` may have to go. True when one went.
    pub(super) fn grow(&mut self, by: usize, growing: SourceKey, sources: &mut Sources) -> bool {
        self.grow_within(HISTORY_BYTES_PER_SHARD_MAX, by, growing, sources)
    }

    fn grow_within(&mut self, budget: usize, by: usize, growing: SourceKey, sources: &mut Sources) -> bool {
        self.at_most += by;
        if by == 0 || self.at_most <= budget {
            return false;
        }
        self.at_most = sources.iter().map(|(_, source)| source.history_bytes()).sum();
        if self.at_most <= budget {
            return false;
        }
        let oldest = sources
            .iter_mut()
            .filter(|(key, source)| *key != growing && source.codec.is_video() && source.history_bytes() > 0)
            .min_by_key(|(_, source)| source.active.last_packet());
        let Some((_, source)) = oldest else { return false };
        self.at_most -= source.history_bytes();
        for encoding in &mut source.encodings {
            encoding.history.shrink();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{Layers, ProducerId, ShardId};
    use crate::base::seq::ExtSeq;
    use crate::base::time::Instant;
    use crate::media::history::StoredHeader;
    use crate::router::source::Source;
    use crate::router::source::SourceOrigin;
    use crate::wire::codec::Codec;

    #[test]
    fn the_video_that_was_silent_longest_goes_first() {
        let mut sources = Sources::default();
        let mut keys = Vec::new();
        for n in 0..3u64 {
            let origin = SourceOrigin::Relay(ShardId(0));
            let mut source =
                Source::new(Instant::ZERO, ProducerId(n), origin, Codec::Vp8, 90_000, 1, Layers::default());
            let now = Instant::from_nanos(n + 1);
            source.active.on_packet(now, 0, 0);
            let header =
                StoredHeader { marker: false, timestamp: 0, extension_len: 0, descriptor_len: 0, arrival: now };
            assert!(source.encodings[0].history.push(now, ExtSeq(1), header, &[&[7; 1_000]]));
            keys.push(sources.insert(source));
        }
        let held = |sources: &Sources| -> Vec<bool> {
            keys.iter().map(|key| sources.get(*key).is_some_and(|source| source.history_bytes() > 0)).collect()
        };
        let all: usize = sources.iter().map(|(_, source)| source.history_bytes()).sum();
        let mut budget = Budget::default();
        assert!(!budget.grow_within(all, all, keys[0], &mut sources));
        assert!(!budget.grow_within(all, 1, keys[0], &mut sources), "counted anew, it still fits");
        assert!(budget.grow_within(all - 1, 1, keys[0], &mut sources));
        assert_eq!(held(&sources), [true, false, true], "not the one that grows, then the oldest");
    }
}
