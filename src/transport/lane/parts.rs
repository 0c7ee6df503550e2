//! Media records that do not fit a datagram, put together again: 64 at most, for 200 ms.

use crate::base::limits::{LANE_PARTIAL_MAX, LANE_PARTS_MAX};
use crate::base::time::{Duration, Instant};
use crate::wire::lane::PartHead;

const KEPT: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct Partial {
    /// Its first part, which names it.
    head: PartHead,
    since: Instant,
    parts: [Option<Box<[u8]>>; LANE_PARTS_MAX],
}

#[derive(Default, Debug)]
pub(super) struct Partials(Vec<Partial>);

impl Partials {
    /// Takes a part; the whole record once all have come. The oldest gives way where there are too many.
    pub(super) fn on_part(&mut self, now: Instant, head: PartHead, bytes: &[u8]) -> Option<Vec<u8>> {
        if usize::from(head.parts) > LANE_PARTS_MAX {
            return None;
        }
        self.0.retain(|partial| now.since(partial.since) < KEPT);
        let same = |partial: &Partial| PartHead { part: partial.head.part, ..head } == partial.head;
        let at = match self.0.iter().position(same) {
            Some(at) => at,
            None => {
                if self.0.len() >= LANE_PARTIAL_MAX {
                    self.0.remove(0);
                }
                self.0.push(Partial { head, since: now, parts: Default::default() });
                self.0.len() - 1
            }
        };
        let parts = &mut self.0[at].parts[..usize::from(head.parts)];
        parts[usize::from(head.part)].get_or_insert_with(|| bytes.into());
        if parts.iter().any(Option::is_none) {
            return None;
        }
        let whole = parts.iter().flatten().flat_map(|part| part.iter().copied()).collect();
        self.0.remove(at);
        Some(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::lane::{EncodingEpoch, LaneHandle};

    fn head(number: u32, part: u8, parts: u8) -> PartHead {
        let handle = LaneHandle { index: 1, generation: 2 };
        PartHead { handle, at: EncodingEpoch(0), number, part, parts }
    }

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn parts_make_a_whole_in_any_order_and_of_any_others() {
        let mut partials = Partials::default();
        assert_eq!(partials.on_part(at(0), head(1, 1, 2), b"cd"), None);
        assert_eq!(partials.on_part(at(0), head(2, 0, 2), b"xx"), None);
        assert_eq!(partials.on_part(at(0), head(1, 1, 2), b"again"), None);
        assert_eq!(partials.on_part(at(199), head(1, 0, 2), b"ab"), Some(b"abcd".to_vec()));
        assert_eq!(partials.on_part(at(200), head(2, 1, 2), b"yy"), None, "too late");
        assert_eq!(partials.on_part(at(200), head(2, 0, 2), b"xx"), Some(b"xxyy".to_vec()), "sent again");
        assert!(partials.0.is_empty());
    }

    #[test]
    fn they_are_few_and_small() {
        let mut partials = Partials::default();
        assert_eq!(partials.on_part(at(0), head(1, 0, LANE_PARTS_MAX as u8 + 1), b"a"), None);
        for number in 0..1_000 {
            assert_eq!(partials.on_part(at(0), head(number, 0, 2), b"a"), None);
        }
        assert_eq!(partials.0.len(), LANE_PARTIAL_MAX);
        assert!(partials.on_part(at(0), head(999, 1, 2), b"b").is_some(), "the newest are kept");
    }
}
