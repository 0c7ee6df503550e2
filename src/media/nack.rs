//! The list of packets missing from one source, behind generic NACK (RFC 4585 section 6.2.1) towards a publisher. It
//! neither finds gaps (`receive`) nor writes RTCP. A gap is requested at the first poll: the shard polls after a whole
//! batch, so that reordering within a batch causes no request. Then again every round trip, ten times.

use crate::base::limits::{HISTORY_PACKETS_MAX, NACK_LIST_MAX, NACK_RETRIES_MAX};
use crate::base::seq::{ExtSeq, Seq};
use crate::base::time::{Duration, Instant};

/// The least time between two requests for one packet.
const REPEAT_MIN: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NackOutcome {
    /// Nothing is due.
    Quiet,
    /// Packets to request were added to the list.
    Asked,
    /// Packets are given up (too many at once, or requested ten times): only a keyframe helps. Others may still be due.
    GaveUp,
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    ext: ExtSeq,
    due: Instant,
    tries: u8,
}

#[derive(Default, Debug)]
pub struct NackGenerator {
    /// Ascending by number, at most `NACK_LIST_MAX`.
    missing: Vec<Missing>,
    /// Not later than the earliest `due`.
    next: Option<Instant>,
    gave_up: bool,
}

impl NackGenerator {
    /// `from` up to, not including, `to` are missing; `to` has come.
    pub fn on_gap(&mut self, from: ExtSeq, to: ExtSeq, now: Instant) {
        let count = to.distance_from(from);
        if count <= 0 {
            return;
        }
        // A repair from further back could not be told from a repeat, nor be kept.
        let oldest = ExtSeq(to.0.saturating_sub(HISTORY_PACKETS_MAX as u64));
        let expired = self.missing.partition_point(|entry| entry.ext < oldest);
        self.missing.drain(..expired);
        let follows = self.missing.last().is_none_or(|last| last.ext < from);
        if !follows || self.missing.len() as i64 + count > NACK_LIST_MAX as i64 {
            return self.give_up(now);
        }
        self.missing.extend((from.0..to.0).map(|ext| Missing { ext: ExtSeq(ext), due: now, tries: 0 }));
        self.next = Some(self.next.map_or(now, |next| next.min(now)));
    }

    /// Gives up all missing packets: the next poll says that only a keyframe helps.
    pub fn give_up(&mut self, now: Instant) {
        self.missing.clear();
        self.gave_up = true;
        self.next = Some(now);
    }

    /// The packet came, late or by retransmission.
    pub fn on_packet(&mut self, ext: ExtSeq) {
        if let Ok(at) = self.missing.binary_search_by_key(&ext, |entry| entry.ext) {
            self.missing.remove(at);
            if self.missing.is_empty() && !self.gave_up {
                self.next = None;
            }
        }
    }

    /// Clears the list: the source restarted or paused.
    pub fn clear(&mut self) {
        self.missing.clear();
        self.next = None;
        self.gave_up = false;
    }

    /// Adds the requests that are due to `out`, ascending.
    pub fn poll(&mut self, now: Instant, rtt: Duration, out: &mut Vec<Seq>) -> NackOutcome {
        if self.next.is_none_or(|next| next > now) {
            return NackOutcome::Quiet;
        }
        let mut gave_up = std::mem::take(&mut self.gave_up);
        let mut asked = false;
        let mut next: Option<Instant> = None;
        self.missing.retain_mut(|entry| {
            if entry.due <= now {
                if entry.tries >= NACK_RETRIES_MAX {
                    gave_up = true;
                    return false;
                }
                out.push(entry.ext.seq());
                asked = true;
                entry.tries += 1;
                entry.due = now + rtt.max(REPEAT_MIN);
            }
            next = Some(next.map_or(entry.due, |next| next.min(entry.due)));
            true
        });
        self.next = next;
        match (gave_up, asked) {
            (true, _) => NackOutcome::GaveUp,
            (false, true) => NackOutcome::Asked,
            (false, false) => NackOutcome::Quiet,
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    const RTT: Duration = Duration::from_millis(50);

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn asks_at_once_then_every_round_trip_then_gives_up() {
        let mut nack = NackGenerator::default();
        let mut out = Vec::new();
        assert_eq!(nack.poll(at(0), RTT, &mut out), NackOutcome::Quiet);
        nack.on_gap(ExtSeq(65_535), ExtSeq(65_537), at(0));
        assert_eq!(nack.poll(at(0), RTT, &mut out), NackOutcome::Asked);
        assert_eq!(out, [Seq(65_535), Seq(0)]);
        nack.on_packet(ExtSeq(65_535));
        out.clear();
        assert_eq!(nack.poll(at(49), RTT, &mut out), NackOutcome::Quiet);
        for n in 1..10 {
            assert_eq!(nack.next_deadline(), Some(at(n * 50)));
            assert_eq!(nack.poll(at(n * 50), RTT, &mut out), NackOutcome::Asked);
        }
        assert_eq!(out, [Seq(0); 9]);
        assert_eq!(nack.poll(at(500), RTT, &mut out), NackOutcome::GaveUp);
        assert_eq!((nack.next_deadline(), nack.missing.is_empty()), (None, true));
    }

    #[test]
    fn reorder_within_a_batch_asks_for_nothing() {
        let mut nack = NackGenerator::default();
        nack.on_gap(ExtSeq(5), ExtSeq(6), at(0));
        nack.on_packet(ExtSeq(5));
        assert_eq!(nack.poll(at(0), RTT, &mut Vec::new()), NackOutcome::Quiet);
    }

    #[test]
    fn too_much_at_once_is_given_up_whole() {
        let mut nack = NackGenerator::default();
        let mut out = Vec::new();
        nack.on_gap(ExtSeq(10), ExtSeq(20), at(0));
        nack.on_gap(ExtSeq(21), ExtSeq(21 + NACK_LIST_MAX as u64), at(1));
        assert_eq!(nack.next_deadline(), Some(at(1)));
        assert_eq!(nack.poll(at(1), RTT, &mut out), NackOutcome::GaveUp);
        assert!(out.is_empty() && nack.missing.is_empty());
        assert_eq!(nack.poll(at(1), RTT, &mut out), NackOutcome::Quiet);
        nack.on_gap(ExtSeq(5_000), ExtSeq(5_001), at(2));
        assert_eq!(nack.poll(at(2), RTT, &mut out), NackOutcome::Asked);
    }

    #[test]
    fn old_entries_leave_when_the_stream_has_moved_on() {
        let mut nack = NackGenerator::default();
        nack.on_gap(ExtSeq(10), ExtSeq(11), at(0));
        nack.on_gap(ExtSeq(1_200), ExtSeq(1_201), at(0));
        assert_eq!(nack.missing.len(), 1);
    }

    #[test]
    fn agrees_with_a_model_and_keeps_its_storage() {
        for seed in 0..20 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut nack = NackGenerator::default();
            let mut model: BTreeMap<u64, (u64, u8)> = BTreeMap::new();
            let mut next = 1_000u64;
            let mut out = Vec::new();
            for ms in 0..4_000u64 {
                match rng.random_range(0..4) {
                    0 => {
                        let lost = rng.random_range(1..10);
                        nack.on_gap(ExtSeq(next), ExtSeq(next + lost), at(ms));
                        model.retain(|ext, _| *ext + HISTORY_PACKETS_MAX as u64 >= next + lost);
                        model.extend((next..next + lost).map(|ext| (ext, (ms, 0))));
                        next += lost + 1;
                    }
                    1 | 2 => {
                        let come: Vec<u64> = model.keys().copied().filter(|_| rng.random_range(0..20) == 0).collect();
                        for ext in come {
                            nack.on_packet(ExtSeq(ext));
                            model.remove(&ext);
                        }
                    }
                    _ => {
                        out.clear();
                        nack.poll(at(ms), RTT, &mut out);
                        let mut expected = Vec::new();
                        model.retain(|ext, (due, tries)| {
                            if *due <= ms {
                                if *tries == NACK_RETRIES_MAX {
                                    return false;
                                }
                                expected.push(Seq(*ext as u16));
                                (*due, *tries) = (ms + 50, *tries + 1);
                            }
                            true
                        });
                        assert_eq!(out, expected, "seed {seed} at {ms}");
                    }
                }
                assert!(nack.missing.len() == model.len() && nack.missing.capacity() <= NACK_LIST_MAX);
                let due = model.values().map(|(due, _)| at(*due)).min();
                assert!(nack.next_deadline() <= due || due.is_none());
            }
        }
    }
}
