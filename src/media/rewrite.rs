//! One consumer's numbering: maps a source's sequence numbers and timestamps to those the consumer sees, so that
//! pauses, switches and restarts leave no gap while genuine loss stays visible (and can be asked for). It remembers
//! which source packet each of the newest outgoing numbers stands for. It touches no packet; `router` calls it once per
//! packet and consumer.

use std::collections::VecDeque;

use crate::base::limits::{SEQUENCE_JUMP_MAX, SKIP_BOUNDARIES_MAX};
use crate::base::seq::{ExtSeq, Seq, timestamp_ahead};
use crate::base::time::Instant;
use crate::media::window::{Seen, SeenWindow};

/// Outgoing numbers that can be looked up; 8 bytes each.
const SENT_MAX: u64 = 1_024;
/// Bases that sent packets are looked up in: the present one and those before it.
const BASES_MAX: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewritten {
    /// The outgoing sequence number with its wraps counted (the low 16 bits go on the wire): no two packets share one.
    pub index: u64,
    pub timestamp: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SentEntry {
    pub ext: ExtSeq,
    pub index: u64,
    stamps: Stamps,
    /// As given to [`Rewriter::rebase`]; 0 before the first.
    pub source_epoch: u32,
    /// It was part of this.
    replayed: Option<Replayed>,
}

impl SentEntry {
    pub fn is_replayed(&self) -> bool {
        self.replayed.is_some()
    }

    /// The outgoing timestamp, as it was then.
    pub fn timestamp(&self, source: u32) -> u32 {
        self.stamps.out(self.replayed.map_or(source, |replayed| replayed.squeeze(source)))
    }
}

/// Packets that go out much later than they came, up to and with this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replayed {
    pub until: ExtSeq,
    /// Of that packet, as its source has it.
    pub timestamp: u32,
}

impl Replayed {
    /// So many times as fast as they came.
    pub const SPEED: u32 = 16;

    /// The timestamp that a packet of it would have, had its source sent it so shortly before the last.
    pub fn squeeze(self, timestamp: u32) -> u32 {
        self.timestamp.wrapping_sub(self.timestamp.wrapping_sub(timestamp) / Replayed::SPEED)
    }
}

/// The timestamps of one base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamps {
    /// Outgoing less source timestamp.
    offset: u32,
    /// Its first picture alone is so much further on, where the other encoding's of the same moment went out before:
    /// a decoder must take it for another one.
    first: u32,
    step: u32,
}

impl Stamps {
    fn out(self, source: u32) -> u32 {
        let step = if source == self.first { self.step } else { 0 };
        source.wrapping_add(self.offset).wrapping_add(step)
    }
}

/// From `from` on, outgoing number = source number + `shift`.
#[derive(Clone, Copy, Debug)]
struct Boundary {
    from: ExtSeq,
    shift: u64,
}

#[derive(Clone, Debug)]
struct Base {
    first_ext: ExtSeq,
    first_index: u64,
    /// The newest number of its source: its other numbers are near it.
    near: ExtSeq,
    epoch: u32,
    stamps: Stamps,
    replayed: Option<Replayed>,
}

/// The numbering of a base that was left: what was missing of it then may still come.
#[derive(Debug, Default)]
pub struct Left {
    base: Option<Base>,
    seen: Option<SeenWindow>,
    boundaries: VecDeque<Boundary>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    index: u64,
    timestamp: u32,
    at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    index: u32,
    ext: u32,
}

#[derive(Debug)]
pub struct Rewriter {
    first_index: u64,
    first_timestamp: u32,
    clock_rate: u32,
    epoch: u32,
    /// What the present base has seen; None until its first packet.
    seen: Option<SeenWindow>,
    /// Ascending, the newest at the back; never empty while `seen` is there.
    boundaries: VecDeque<Boundary>,
    /// The present base at the back.
    bases: VecDeque<Base>,
    last: Option<Last>,
    /// The present base's offset but for what it had to be put ahead of the one before: the next base goes on from here,
    /// so that no such step outlasts its base.
    settled: u32,
    sent: Vec<Sent>,
    /// The offset that the next base should have.
    aligned: Option<u32>,
    /// What the next base begins with.
    replayed: Option<Replayed>,
}

impl Rewriter {
    /// `first_seq` is random in 1000..=32767, so that a loss at the start cannot be taken for a wrap (RFC 3711 3.3.1).
    pub fn new(first_seq: u16, first_timestamp: u32, clock_rate: u32) -> Rewriter {
        Rewriter {
            first_index: u64::from(first_seq),
            first_timestamp,
            clock_rate: clock_rate.max(1),
            epoch: 0,
            seen: None,
            boundaries: VecDeque::new(),
            bases: VecDeque::new(),
            last: None,
            settled: 0,
            sent: Vec::new(),
            aligned: None,
            replayed: None,
        }
    }

    /// The packet is to be forwarded. None when it was before, when it is from before the present base, or so late that
    /// its place is forgotten.
    pub fn forward(&mut self, now: Instant, ext: ExtSeq, timestamp: u32) -> Option<Rewritten> {
        let Some(seen) = self.seen.as_mut() else { return self.start(now, ext, timestamp) };
        if ext.distance_from(seen.highest()) > SEQUENCE_JUMP_MAX {
            // Not told, but a source that jumps so far has restarted; such a gap would also break the receiver's
            // count of wraps (RFC 3711 appendix A).
            self.rebase(self.epoch);
            return self.start(now, ext, timestamp);
        }
        let newest = match seen.insert(ext) {
            Seen::Newest => true,
            Seen::Late => false,
            Seen::Duplicate | Seen::TooOld => return None,
        };
        let index = if newest { self.boundaries.back().map(|b| ext.0.wrapping_add(b.shift)) } else { self.place(ext) }?;
        let timestamp = self.bases.back()?.stamps.out(timestamp);
        // Not `newest`: a skipped packet may have been newer than this one.
        if self.last.is_none_or(|last| last.index < index) {
            self.last = Some(Last { index, timestamp, at: now });
        }
        self.remember(index, ext);
        Some(Rewritten { index, timestamp })
    }

    /// The packet is not to be forwarded and not to be missed: those after it close up. When later ones have gone out
    /// already its number stays unused and is given back, for the caller to fill it with padding in this packet's name.
    pub fn skip(&mut self, ext: ExtSeq) -> Option<u64> {
        let seen = self.seen.as_mut()?;
        if ext.distance_from(seen.highest()) > SEQUENCE_JUMP_MAX {
            return None;
        }
        match seen.insert(ext) {
            Seen::Newest => {
                let newest = self.boundaries.back_mut()?;
                let next = Boundary { from: ext.next(), shift: newest.shift.wrapping_sub(1) };
                if newest.from == ext {
                    // It held this packet alone.
                    *newest = next;
                } else {
                    if self.boundaries.len() >= SKIP_BOUNDARIES_MAX {
                        self.boundaries.pop_front();
                    }
                    self.boundaries.push_back(next);
                }
                None
            }
            Seen::Late => {
                let unused = self.place(ext)?;
                if let Some(last) = &mut self.last {
                    // The next base must not use it again.
                    last.index = last.index.max(unused);
                }
                self.remember(unused, ext);
                Some(unused)
            }
            Seen::Duplicate | Seen::TooOld => None,
        }
    }

    /// Before a rebase to another source: the present base goes to `left`, and its newest packet is given back.
    pub fn leave(&mut self, left: &mut Left) -> Option<ExtSeq> {
        left.base = self.bases.back().cloned();
        left.seen.clone_from(&self.seen);
        std::mem::swap(&mut left.boundaries, &mut self.boundaries);
        left.seen.as_ref().map(|seen| seen.highest())
    }

    /// A packet of the base in `left`, under the number that was kept for it; None where none was, or it has gone out.
    pub fn late(&mut self, left: &mut Left, ext: ExtSeq, timestamp: u32) -> Option<Rewritten> {
        let (base, seen) = (left.base.as_ref()?, left.seen.as_mut()?);
        if ext > seen.highest() || seen.insert(ext) != Seen::Late {
            return None;
        }
        let index = place(base, &left.boundaries, ext)?;
        // What is looked up no more is asked for no more.
        self.last.filter(|last| last.index.saturating_sub(index) < SENT_MAX)?;
        self.remember(index, ext);
        Some(Rewritten { index, timestamp: base.stamps.out(timestamp) })
    }

    /// The next forwarded packet follows the last one, whatever its own number and timestamp: after a pause, a wait for
    /// a keyframe, a restart of the source or a switch to another. `epoch` names the source (or its history) from then
    /// on; with the same epoch, packets from before stay out.
    pub fn rebase(&mut self, epoch: u32) {
        (self.aligned, self.replayed) = (None, None);
        if let Some(seen) = self.seen.take()
            && let Some(base) = self.bases.back_mut()
        {
            base.near = seen.highest();
        }
        self.epoch = epoch;
    }

    /// As [`Rewriter::rebase`] from one encoding to another of the same pictures: `ahead` is what to add to timestamps
    /// of the next to get those of the one before at the same moment, as their sender reports say.
    pub fn rebase_aligned(&mut self, epoch: u32, ahead: u32) {
        let offset = self.timestamp_offset().map(|_| self.settled);
        self.rebase(epoch);
        self.aligned = offset.map(|offset| offset.wrapping_add(ahead));
    }

    /// As [`Rewriter::rebase`], and the next packets are of the past: the caller squeezes their timestamps.
    pub fn rebase_replayed(&mut self, epoch: u32, replayed: Replayed) {
        self.rebase(epoch);
        self.replayed = Some(replayed);
    }

    /// Whether a picture with this timestamp of another encoding, which `ahead` is about as in
    /// [`Rewriter::rebase_aligned`], is from before what went out last.
    pub fn would_step_back(&self, ahead: u32, timestamp: u32) -> bool {
        let (Some(last), Some(_)) = (self.last, self.timestamp_offset()) else { return false };
        let by_reports = timestamp.wrapping_add(self.settled).wrapping_add(ahead);
        let behind = -i64::from(timestamp_ahead(by_reports, last.timestamp));
        // The same picture of both is none, and reports are not exact. What is far away is not aligned either.
        (i64::from(self.clock_rate / 100)..=i64::from(self.clock_rate)).contains(&behind)
    }

    /// Which source packet went out as `seq`, if that was among the newest 1,024.
    pub fn source_of(&self, seq: Seq) -> Option<SentEntry> {
        let last = self.last?;
        let index = ExtSeq(last.index).nearest(seq).0;
        if index as u16 != seq.0 || index > last.index || last.index - index >= SENT_MAX {
            return None;
        }
        let sent = self.sent.get((index % SENT_MAX) as usize).filter(|sent| sent.index == index as u32)?;
        let base = self.bases.iter().rev().find(|base| base.first_index <= index)?;
        let near = match (&self.seen, self.bases.back()) {
            (Some(seen), Some(present)) if std::ptr::eq(present, base) => seen.highest(),
            _ => base.near,
        };
        let ext = ExtSeq(near.0.saturating_add_signed(i64::from(sent.ext.wrapping_sub(near.0 as u32) as i32)));
        let replayed = base.replayed.filter(|replayed| ext <= replayed.until);
        Some(SentEntry { ext, index, stamps: base.stamps, source_epoch: base.epoch, replayed })
    }

    /// The newest outgoing number.
    pub fn last_index(&self) -> Option<u64> {
        self.last.map(|last| last.index)
    }

    /// The newest outgoing timestamp.
    pub fn last_timestamp(&self) -> Option<u32> {
        self.last.map(|last| last.timestamp)
    }

    /// What to add to the source's timestamps, in sender reports too; None while it is not settled.
    pub fn timestamp_offset(&self) -> Option<u32> {
        self.seen.as_ref().and(self.bases.back()).map(|base| base.stamps.offset)
    }

    fn start(&mut self, now: Instant, ext: ExtSeq, timestamp: u32) -> Option<Rewritten> {
        let seen_before = self.bases.back().filter(|base| base.epoch == self.epoch);
        if seen_before.is_some_and(|base| ext <= base.near) {
            return None;
        }
        let (index, out) = match self.last {
            None => (self.first_index, self.first_timestamp),
            Some(last) => (last.index + 1, self.continued(now, last, timestamp)),
        };
        let next = self.last.map(|last| last.timestamp.wrapping_add(self.clock_rate / 1_000));
        self.settled = out.wrapping_sub(timestamp);
        let out = next.filter(|next| timestamp_ahead(out, *next) <= 0).unwrap_or(out);
        let step = out.wrapping_sub(timestamp).wrapping_sub(self.settled);
        // Less than the way to the next picture, or else it is for all of them.
        let stamps = match step <= self.clock_rate / 100 {
            true => Stamps { offset: self.settled, first: timestamp, step },
            false => Stamps { offset: self.settled.wrapping_add(step), first: timestamp, step: 0 },
        };
        if self.bases.len() >= BASES_MAX {
            self.bases.pop_front();
        }
        let replayed = self.replayed.take();
        self.bases.push_back(Base {
            first_ext: ext,
            first_index: index,
            near: ext,
            epoch: self.epoch,
            stamps,
            replayed,
        });
        self.boundaries.clear();
        self.boundaries.push_back(Boundary { from: ext, shift: index.wrapping_sub(ext.0) });
        self.seen = Some(SeenWindow::starting_at(ext));
        self.last = Some(Last { index, timestamp: out, at: now });
        self.remember(index, ext);
        Some(Rewritten { index, timestamp: out })
    }

    /// The outgoing timestamp of a base's first packet. A source whose own clock agrees with the time that passed keeps
    /// its offset, so that neither drift nor jitter shifts it against its sender reports; else the clock on the wall
    /// decides. Never less than a short frame ahead.
    fn continued(&self, now: Instant, last: Last, timestamp: u32) -> u32 {
        let passed = now.since(last.at).as_nanos() * u128::from(self.clock_rate) / 1_000_000_000;
        // Receivers compare on half the circle (RFC 3550 section 5.1): a longer silence must not look like going back.
        let passed = u32::try_from(passed).unwrap_or(u32::MAX).min(1 << 30).max(self.clock_rate / 50);
        let by_wall = last.timestamp.wrapping_add(passed);
        if let Some(offset) = self.aligned {
            let by_reports = timestamp.wrapping_add(offset);
            if timestamp_ahead(by_reports, by_wall).unsigned_abs() <= self.clock_rate {
                return by_reports;
            }
        }
        let by_source = timestamp.wrapping_add(self.settled);
        let agrees = timestamp_ahead(by_source, by_wall).unsigned_abs() <= self.clock_rate;
        if agrees && timestamp_ahead(by_source, last.timestamp) > 0 { by_source } else { by_wall }
    }

    /// Of a late packet of the present base.
    fn place(&self, ext: ExtSeq) -> Option<u64> {
        place(self.bases.back()?, &self.boundaries, ext)
    }

    fn remember(&mut self, index: u64, ext: ExtSeq) {
        if self.sent.is_empty() {
            // No number belongs into the slot next to its own: these are empty.
            self.sent = (0..SENT_MAX).map(|slot| Sent { index: slot as u32 ^ 1, ext: 0 }).collect();
        }
        self.sent[(index % SENT_MAX) as usize] = Sent { index: index as u32, ext: ext.0 as u32 };
    }
}

/// The outgoing number of a late packet.
fn place(base: &Base, boundaries: &VecDeque<Boundary>, ext: ExtSeq) -> Option<u64> {
    let boundary = boundaries.iter().rev().find(|boundary| boundary.from <= ext)?;
    (ext >= base.first_ext).then(|| ext.0.wrapping_add(boundary.shift))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn rewriter() -> Rewriter {
        Rewriter::new(2_000, 50, 90_000)
    }

    fn index(rewritten: Option<Rewritten>) -> Option<u64> {
        rewritten.map(|rewritten| rewritten.index)
    }

    #[test]
    fn loss_stays_a_gap_and_skips_do_not() {
        let mut r = rewriter();
        let e = |n: u64| ExtSeq(65_530 + n);
        assert_eq!(r.forward(at(0), e(0), 7), Some(Rewritten { index: 2_000, timestamp: 50 }));
        assert_eq!(index(r.forward(at(0), e(0), 7)), None, "at most once");
        assert_eq!(index(r.forward(at(0), e(3), 7)), Some(2_003));
        assert_eq!(r.skip(e(4)), None);
        assert_eq!(r.skip(e(5)), None);
        assert_eq!(index(r.forward(at(0), e(8), 7)), Some(2_006), "6 and 7 are missing");
        assert_eq!(index(r.forward(at(0), e(2), 7)), Some(2_002), "late, before the skips");
        assert_eq!(index(r.forward(at(0), e(6), 7)), Some(2_004), "late, after the skips");
        assert_eq!(r.skip(e(1)), Some(2_001), "its number is lost: later ones went out");
        assert_eq!(index(r.forward(at(0), e(1), 7)), None);
        assert_eq!(index(r.forward(at(0), ExtSeq(65_529), 7)), None, "from before the base");
        assert_eq!(r.source_of(Seq(2_004)).unwrap().ext, e(6));
        assert_eq!(r.source_of(Seq(2_005)), None);
        assert_eq!(r.source_of(Seq(2_007)), None);
    }

    #[test]
    fn what_was_missing_of_a_base_that_was_left_has_its_number() {
        let mut r = rewriter();
        let mut left = Left::default();
        for ext in [100, 101, 104, 106] {
            r.forward(at(0), ExtSeq(ext), 7).unwrap();
        }
        assert_eq!(r.skip(ExtSeq(105)), Some(2_005));
        assert_eq!(r.leave(&mut left), Some(ExtSeq(106)));
        r.rebase(1);
        assert_eq!(index(r.forward(at(20), ExtSeq(9_000), 5)), Some(2_007));
        assert_eq!(r.late(&mut left, ExtSeq(103), 8), Some(Rewritten { index: 2_003, timestamp: 51 }));
        assert_eq!((r.source_of(Seq(2_003)).unwrap().ext, r.source_of(Seq(2_002))), (ExtSeq(103), None));
        for gone in [103, 105, 106, 107, 99] {
            assert_eq!(r.late(&mut left, ExtSeq(gone), 8), None, "{gone}");
        }
        for ext in 9_001..9_000 + SENT_MAX {
            r.forward(at(20), ExtSeq(ext), 5).unwrap();
        }
        assert_eq!(r.late(&mut left, ExtSeq(102), 8), None, "nobody can ask for it");
    }

    #[test]
    fn a_number_given_back_is_not_used_by_the_next_base() {
        let mut r = rewriter();
        assert_eq!(index(r.forward(at(0), ExtSeq(10), 0)), Some(2_000));
        assert_eq!((r.skip(ExtSeq(13)), r.skip(ExtSeq(12))), (None, Some(2_002)));
        r.rebase(1);
        assert_eq!(index(r.forward(at(1), ExtSeq(900), 0)), Some(2_003));
    }

    #[test]
    fn a_switch_goes_on_where_the_last_source_ended() {
        let mut r = rewriter();
        r.forward(at(0), ExtSeq(100), 4_000_000_000).unwrap();
        r.rebase(1);
        assert_eq!(r.timestamp_offset(), None);
        let first = r.forward(at(100), ExtSeq(7), 1_000_000).unwrap();
        assert_eq!(first, Rewritten { index: 2_001, timestamp: 50 + 9_000 });
        assert_eq!(r.timestamp_offset(), Some(9_050u32.wrapping_sub(1_000_000)));
        r.rebase(2);
        let at_once = r.forward(at(100), ExtSeq(100), 77).unwrap();
        assert_eq!(at_once, Rewritten { index: 2_002, timestamp: 9_050 + 1_800 });
        let sent: Vec<_> = (2_000..2_003).map(|seq| r.source_of(Seq(seq)).unwrap()).collect();
        assert_eq!(sent.iter().map(|s| (s.ext.0, s.source_epoch)).collect::<Vec<_>>(), [(100, 0), (7, 1), (100, 2)]);
        assert_eq!(r.last_timestamp(), Some(10_850));
    }

    #[test]
    fn switches_at_the_same_picture_do_not_add_up() {
        let mut r = rewriter();
        r.forward(at(0), ExtSeq(100), 5_000).unwrap();
        for n in 1..=20u32 {
            // The encoding goes on, and the other's keyframe shows the same picture.
            let shown = r.forward(at(0), ExtSeq(100 + u64::from(n)), 5_000 + n * 3_000).unwrap();
            assert_eq!(shown.timestamp, 50 + n * 3_000, "switch {n}");
            assert!(!r.would_step_back(0, 5_000 + n * 3_000));
            assert!(r.would_step_back(0, 5_000 + n * 3_000 - 3_000), "that was shown");
            r.rebase_aligned(n, 0);
            let first = r.forward(at(0), ExtSeq(100 + u64::from(n)), 5_000 + n * 3_000).unwrap();
            assert_eq!(first.timestamp, shown.timestamp + 90, "switch {n}");
            assert_eq!(r.source_of(Seq(first.index as u16)).unwrap().timestamp(5_000 + n * 3_000), first.timestamp);
        }
    }

    #[test]
    fn a_pause_keeps_the_offset_of_a_steady_source() {
        let mut r = rewriter();
        r.forward(at(0), ExtSeq(100), 1_000).unwrap();
        let offset = r.timestamp_offset();
        r.rebase(0);
        assert_eq!(index(r.forward(at(9_990), ExtSeq(100), 1_000)), None, "offered before");
        let next = r.forward(at(10_010), ExtSeq(500), 1_000 + 900_000).unwrap();
        assert_eq!((next.index, next.timestamp), (2_001, 50 + 900_000));
        assert_eq!(r.timestamp_offset(), offset);
        // One whose clock stood still meanwhile does not.
        r.rebase(0);
        let next = r.forward(at(20_010), ExtSeq(501), 1_000 + 903_000).unwrap();
        assert_eq!(next.timestamp, 50 + 900_000 + 900_000);
    }

    #[test]
    fn a_far_jump_is_a_rebase_of_its_own() {
        let mut r = rewriter();
        r.forward(at(0), ExtSeq(70_000), 0).unwrap();
        let jumped = r.forward(at(20), ExtSeq(200_000), 0x8000_0000).unwrap();
        assert_eq!((jumped.index, jumped.timestamp), (2_001, 50 + 1_800));
    }

    #[test]
    fn what_is_replayed_ends_at_live_and_is_known_again() {
        let mut r = rewriter();
        let replayed = Replayed { until: ExtSeq(130), timestamp: 90_000 };
        r.rebase_replayed(0, replayed);
        let source = |n: u64| 90_000 - (130 - n as u32) * 3_000;
        let out: Vec<_> =
            (100..=130).map(|n| r.forward(at(5_000), ExtSeq(n), replayed.squeeze(source(n))).unwrap()).collect();
        assert!(out.windows(2).all(|pair| pair[1].index == pair[0].index + 1));
        assert!(out.windows(2).all(|pair| (187..=188).contains(&(pair[1].timestamp - pair[0].timestamp))));
        let live = r.forward(at(5_020), ExtSeq(131), 93_000).unwrap();
        assert_eq!((live.index, live.timestamp), (out[30].index + 1, out[30].timestamp + 3_000));
        for (n, sent) in (100..).zip(&out) {
            let entry = r.source_of(Seq(sent.index as u16)).unwrap();
            assert_eq!((entry.ext, entry.is_replayed(), entry.timestamp(source(n))), (ExtSeq(n), true, sent.timestamp));
        }
        let entry = r.source_of(Seq(live.index as u16)).unwrap();
        assert_eq!((entry.is_replayed(), entry.timestamp(93_000)), (false, live.timestamp));
    }

    #[test]
    fn a_silence_of_days_does_not_go_back() {
        let mut r = rewriter();
        r.forward(at(0), ExtSeq(1), 0).unwrap();
        r.rebase(0);
        let next = r.forward(at(7 * 86_400_000), ExtSeq(2), 3_000_000_000).unwrap();
        assert!(timestamp_ahead(next.timestamp, 50) > 0);
    }

    /// In order and with loss: the gaps going out are exactly the losses. Sequence numbers and timestamps wrap.
    #[test]
    fn without_reorder_every_gap_is_a_loss() {
        for seed in 0..5 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut r = Rewriter::new(rng.random_range(1_000..=32_767), rng.random(), 90_000);
            let (mut ext, mut timestamp, mut ms) = (rng.random_range(1 << 16..1 << 17), rng.random::<u32>(), 0);
            let (mut previous, mut lost, mut epoch): (Option<Rewritten>, _, _) = (None, 0, 0);
            for _ in 0..80_000 {
                (ext, timestamp, ms) = (ext + 1, timestamp.wrapping_add(30_000), ms + 333);
                match rng.random_range(0..100) {
                    // Before the first packet of a base nothing can be missed.
                    0..3 => lost += u64::from(r.timestamp_offset().is_some()),
                    3..6 => assert_eq!(r.skip(ExtSeq(ext)), None),
                    6 if rng.random_range(0..10) == 0 => {
                        epoch += 1;
                        r.rebase(epoch);
                        (ext, timestamp, lost) = (rng.random_range(1 << 16..1 << 40), rng.random(), 0);
                    }
                    _ => {
                        let out = r.forward(at(ms), ExtSeq(ext), timestamp).unwrap();
                        if let Some(previous) = previous {
                            assert_eq!(out.index - previous.index - 1, lost, "seed {seed} at {ext}");
                            assert!(timestamp_ahead(out.timestamp, previous.timestamp) > 0);
                        }
                        let sent = r.source_of(Seq(out.index as u16)).unwrap();
                        assert_eq!((sent.ext.0, sent.index, sent.source_epoch), (ext, out.index, epoch));
                        assert_eq!(sent.timestamp(timestamp), out.timestamp);
                        (previous, lost) = (Some(out), 0);
                    }
                }
            }
        }
    }

    /// Loss, reorder, repeats, skips and rebases: each number goes out once, in the order of the source, and what is
    /// unused is what was lost or given back.
    #[test]
    fn agrees_with_a_model_over_everything_at_once() {
        for seed in 0..10 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut r = Rewriter::new(1_000, rng.random(), 48_000);
            // Those given back unused too: padding goes out under them.
            let mut all: BTreeMap<u64, Option<(u32, u64)>> = BTreeMap::new();
            for epoch in 0..20 {
                r.rebase(epoch);
                let start: u64 = rng.random_range(1 << 16..1 << 33);
                let stamp: u32 = rng.random();
                let mut wire: Vec<u64> = (start..start + rng.random_range(1..3_000)).collect();
                wire.chunks_mut(24).for_each(|chunk| chunk.shuffle(&mut rng));
                let skipped: BTreeSet<u64> = wire.iter().copied().filter(|_| rng.random_range(0..20) == 0).collect();
                let (mut out, mut holes, mut early) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
                let mut offered = BTreeSet::new();
                let mut base = None;
                for (n, ext) in wire.into_iter().enumerate() {
                    if rng.random_range(0..20) == 0 {
                        continue;
                    }
                    for copy in 0..rng.random_range(1..3) {
                        if skipped.contains(&ext) {
                            let hole = r.skip(ExtSeq(ext));
                            assert!(hole.is_none() || copy == 0);
                            if let Some(hole) = hole {
                                assert!(all.insert(hole, Some((epoch, ext))).is_none(), "a number twice");
                                holes.insert(ext);
                            }
                            if base.is_none() {
                                early.insert(ext);
                            }
                        } else {
                            let now = at(u64::from(epoch) * 10_000 + n as u64);
                            let timestamp = stamp.wrapping_add(ext as u32);
                            let rewritten = r.forward(now, ExtSeq(ext), timestamp);
                            let base = *base.get_or_insert(ext);
                            let expected = ext >= base && !out.contains_key(&ext);
                            assert_eq!(rewritten.is_some(), expected, "seed {seed}, {ext} copy {copy}");
                            if let Some(rewritten) = rewritten {
                                assert!(all.insert(rewritten.index, Some((epoch, ext))).is_none(), "a number twice");
                                out.insert(ext, rewritten);
                                let delta = (ext as u32).wrapping_sub(base as u32);
                                assert_eq!(rewritten.timestamp, out[&base].timestamp.wrapping_add(delta));
                            }
                        }
                        offered.insert(ext);
                    }
                }
                let Some(base) = base else { continue };
                assert!(out.values().is_sorted_by_key(|rewritten| rewritten.index), "the order is the source's");
                let highest = *out.keys().next_back().unwrap();
                let lost = (base..=highest).filter(|ext| !offered.contains(ext)).count() as u64;
                let span = out[&highest].index - out[&base].index + 1;
                // What is skipped before the base is known cannot close up.
                let unused = holes.union(&early).filter(|ext| (base..highest).contains(ext)).count() as u64;
                assert_eq!(span, out.len() as u64 + unused + lost, "seed {seed}");
                assert!(r.last_index() >= Some(out[&highest].index));
                for (index, expected) in all.iter().rev().take(600) {
                    let sent = r.source_of(Seq(*index as u16));
                    assert_eq!(sent.map(|sent| (sent.source_epoch, sent.ext.0)), *expected, "seed {seed}");
                    assert!(sent.is_none_or(|sent| sent.index == *index));
                }
            }
        }
    }
}
