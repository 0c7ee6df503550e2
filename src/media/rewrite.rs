//! The numbering of one consumer: maps a source's sequence numbers and timestamps to the consumer's, so that pauses,
//! switches and restarts leave no gap while genuine loss stays visible (and can be requested). It remembers the source
//! packet of each of the newest outgoing numbers. It touches no packet; `router` calls it once per packet and consumer.

use std::collections::VecDeque;
use std::mem::offset_of;
use std::num::NonZeroU64;

use crate::base::limits::{SEQUENCE_JUMP_MAX, SKIP_BOUNDARIES_MAX};
use crate::base::prefetch::prefetch;
use crate::base::seq::{ExtSeq, Seq, timestamp_ahead};
use crate::base::time::Instant;
use crate::media::seen_window::{SeenWindow, Standing};

/// Outgoing numbers that can be looked up; 8 bytes each.
const SENT_MAX: usize = 1_024;
/// Bases in which sent packets can be looked up: the present one and those before it.
const BASES_MAX: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewritten {
    /// The outgoing sequence number unwrapped (the low 16 bits go on the wire): no two packets share one.
    pub index: u64,
    pub timestamp: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SentEntry {
    pub ext: ExtSeq,
    pub index: u64,
    stamps: Stamps,
    /// As given to [`Rewriter::rebase`]; 0 before the first.
    pub encoding: u8,
    /// The packet was part of this.
    replayed: Option<Replayed>,
    /// A packet that is not the source's: it went in front of the base's first packet, under this name.
    pub led: Option<u64>,
}

impl SentEntry {
    pub fn is_replayed(&self) -> bool {
        self.replayed.is_some()
    }

    /// The outgoing timestamp at that time.
    pub fn timestamp(&self, source: u32) -> u32 {
        if self.led.is_some() {
            return self.stamps.out(self.stamps.first);
        }
        self.stamps.out(self.replayed.map_or(source, |replayed| replayed.squeeze(source)))
    }
}

/// Packets that go out much later than they came, up to and with this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replayed {
    pub until: ExtSeq,
    /// Its timestamp at the source.
    pub timestamp: u32,
}

impl Replayed {
    /// How many times faster than they came.
    pub const SPEED: u32 = 16;

    /// The timestamp of a packet of it, had its source sent it so shortly before the last.
    pub fn squeeze(self, timestamp: u32) -> u32 {
        self.timestamp.wrapping_sub(self.timestamp.wrapping_sub(timestamp) / Replayed::SPEED)
    }
}

/// The timestamps of one base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamps {
    /// Outgoing less source timestamp.
    offset: u32,
    /// The first picture alone is this much further on, where the other encoding's picture of the same moment went out
    /// before: a decoder must take it for another one.
    first: u32,
    step: u32,
    /// Whether there is such a step.
    stepped: bool,
}

impl Stamps {
    fn new(offset: u32, first: u32, step: u32) -> Stamps {
        Stamps { offset, first, step, stepped: step != 0 }
    }

    fn out(self, source: u32) -> u32 {
        let step = if self.stepped && source == self.first { self.step } else { 0 };
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
    encoding: u8,
    stamps: Stamps,
    replayed: Option<Replayed>,
    led: Option<Led>,
}

/// The packets sent in front of a base's first packet: their count, and the name of the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Led {
    count: u64,
    name: u64,
}

/// The numbering of a base that was left: packets missing at that time may still come.
#[derive(Debug, Default)]
pub struct Left {
    base: Option<Base>,
    /// The newest number that had gone out. Behind skipped packets some may be missing whose numbers would be later:
    /// those are the next base's.
    last: Option<NonZeroU64>,
    seen: Option<SeenWindow>,
    boundaries: VecDeque<Boundary>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    /// Never 0: the first is not.
    index: NonZeroU64,
    timestamp: u32,
    at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    index: u32,
    ext: u32,
}

/// The state that every packet of the present base needs, in one place: the base and its boundaries are elsewhere in
/// memory. Of `seen`, a packet in order needs the first two fields.
#[derive(Debug)]
#[repr(C)]
struct Present {
    /// The shift of the newest boundary.
    shift: u64,
    /// Of the base.
    stamps: Stamps,
    seen: SeenWindow,
}

/// In the order of use: every packet needs the first three fields, the last of which is long and used at its beginning.
#[derive(Debug)]
#[repr(C)]
pub struct Rewriter {
    last: Option<Last>,
    /// For a stream whose packets may be requested, from its first one on.
    sent: Option<Box<[Sent; SENT_MAX]>>,
    /// None until the base's first packet.
    present: Option<Present>,
    first_index: NonZeroU64,
    first_timestamp: u32,
    clock_rate: u32,
    remembers: bool,
    encoding: u8,
    /// Ascending, the newest at the back; never empty while `present` is there.
    boundaries: VecDeque<Boundary>,
    /// The present base at the back.
    bases: VecDeque<Base>,
    /// The present base's offset without the step that put it ahead of the one before: the next base goes on from here,
    /// so that no such step outlasts its base.
    settled: u32,
    /// The offset that the next base should have.
    aligned: Option<u32>,
    /// The start of the next base.
    replayed: Option<Replayed>,
}

impl Rewriter {
    /// The length, from its beginning, that a packet in order needs.
    pub const HOT: usize = offset_of!(Rewriter, present) + offset_of!(Present, seen) + 16;

    /// `first_seq` is random in 1000..=32767, so that a loss at the start cannot be taken for a wrap (RFC 3711 3.3.1).
    /// `remembers`: source packets will be looked up by outgoing number.
    pub fn new(first_seq: u16, first_timestamp: u32, clock_rate: u32, remembers: bool) -> Rewriter {
        Rewriter {
            first_index: NonZeroU64::new(first_seq.into()).unwrap_or(NonZeroU64::MIN),
            first_timestamp,
            clock_rate: clock_rate.max(1),
            remembers,
            encoding: 0,
            present: None,
            boundaries: VecDeque::new(),
            bases: VecDeque::new(),
            last: None,
            settled: 0,
            sent: None,
            aligned: None,
            replayed: None,
        }
    }

    /// Prefetches what forwarding a packet will touch.
    pub fn prefetch(&self) {
        if let (Some(sent), Some(last)) = (&self.sent, self.last) {
            prefetch(&sent[(last.index.get() as usize + 1) % SENT_MAX], 1);
        }
    }

    /// Forwards the packet. None when it was forwarded before, is from before the present base, or so late that its
    /// place is forgotten.
    pub fn forward(&mut self, now: Instant, ext: ExtSeq, timestamp: u32) -> Option<Rewritten> {
        let Some(present) = self.present.as_mut() else { return self.start(now, ext, timestamp) };
        if ext.distance_from(present.seen.highest()) > SEQUENCE_JUMP_MAX {
            // Nobody said so, but a source that jumps this far has restarted; such a gap would also break the
            // receiver's count of wraps (RFC 3711 appendix A).
            self.rebase(self.encoding);
            return self.start(now, ext, timestamp);
        }
        let timestamp = present.stamps.out(timestamp);
        let index = match present.seen.insert(ext) {
            Standing::Newest => ext.0.wrapping_add(present.shift),
            Standing::Late => self.place(ext)?,
            Standing::Duplicate | Standing::TooOld => return None,
        };
        // Not `newest`: a skipped packet may have been newer than this one.
        if let Some(newest) = NonZeroU64::new(index)
            && self.last.is_none_or(|last| last.index < newest)
        {
            self.last = Some(Last { index: newest, timestamp, at: now });
        }
        self.remember(index, ext);
        Some(Rewritten { index, timestamp })
    }

    /// Before a base's first packet: `count` packets go in front of it that are not its source's, at the same
    /// timestamp. They are named from `name` on, and take the numbers of what its source sent before, which is nothing
    /// to this receiver. Returns the first of their numbers; None where that packet will not be the first.
    pub fn lead(&mut self, now: Instant, ext: ExtSeq, timestamp: u32, name: u64, count: usize) -> Option<Rewritten> {
        let count = count as u64;
        if self.present.is_some() || count == 0 || self.was_before(ext) {
            return None;
        }
        let before = ExtSeq(ext.0.saturating_sub(count));
        let first = self.begin(now, before, timestamp);
        if let Some(base) = self.bases.back_mut() {
            base.led = Some(Led { count, name });
        }
        for ahead in 1..count {
            self.forward(now, ExtSeq(before.0 + ahead), timestamp);
        }
        Some(first)
    }

    /// Skips the packet without a gap: those after it close up. When later ones have gone out already, its number stays
    /// unused and is returned, for the caller to fill it with padding in this packet's name.
    pub fn skip(&mut self, ext: ExtSeq) -> Option<u64> {
        let present = self.present.as_mut()?;
        if ext.distance_from(present.seen.highest()) > SEQUENCE_JUMP_MAX {
            return None;
        }
        match present.seen.insert(ext) {
            Standing::Newest => {
                let newest = self.boundaries.back_mut()?;
                present.shift = present.shift.wrapping_sub(1);
                let next = Boundary { from: ext.next(), shift: present.shift };
                if newest.from == ext {
                    // It covered this packet alone.
                    *newest = next;
                } else {
                    if self.boundaries.len() >= SKIP_BOUNDARIES_MAX {
                        self.boundaries.pop_front();
                    }
                    self.boundaries.push_back(next);
                }
                None
            }
            Standing::Late => {
                let unused = self.place(ext)?;
                if let (Some(last), Some(unused)) = (&mut self.last, NonZeroU64::new(unused)) {
                    // The next base must not use it again.
                    last.index = last.index.max(unused);
                }
                self.remember(unused, ext);
                Some(unused)
            }
            Standing::Duplicate | Standing::TooOld => None,
        }
    }

    /// Before a rebase to another source: moves the present base to `left`, and returns its newest packet.
    pub fn leave(&mut self, left: &mut Left) -> Option<ExtSeq> {
        left.base = self.bases.back().cloned();
        left.last = self.last.map(|last| last.index);
        left.seen = self.present.as_ref().map(|present| present.seen.clone());
        std::mem::swap(&mut left.boundaries, &mut self.boundaries);
        left.seen.as_ref().map(|seen| seen.highest())
    }

    /// A packet of the base in `left`, under the number that was kept for it; None where none was, or it has gone out.
    pub fn late(&mut self, left: &mut Left, ext: ExtSeq, timestamp: u32) -> Option<Rewritten> {
        let (base, seen) = (left.base.as_ref()?, left.seen.as_mut()?);
        if ext > seen.highest() || seen.insert(ext) != Standing::Late {
            return None;
        }
        let index = place(base, &left.boundaries, ext)?;
        if left.last.is_none_or(|last| last.get() < index) {
            return None;
        }
        // A number that can no longer be looked up is no longer requested.
        self.last.filter(|last| last.index.get().saturating_sub(index) < SENT_MAX as u64)?;
        self.remember(index, ext);
        Some(Rewritten { index, timestamp: base.stamps.out(timestamp) })
    }

    /// The next forwarded packet follows the last one, whatever its own number and timestamp: after a pause, a wait for
    /// a keyframe, a restart of the source or a switch to another encoding. `encoding` is the one that flows from then
    /// on; if it is the same, packets from before stay out.
    pub fn rebase(&mut self, encoding: u8) {
        (self.aligned, self.replayed) = (None, None);
        if let Some(present) = self.present.take()
            && let Some(base) = self.bases.back_mut()
        {
            base.near = present.seen.highest();
        }
        self.encoding = encoding;
    }

    /// As [`Rewriter::rebase`], from one encoding to another of the same pictures: `ahead` is the offset from
    /// timestamps of the next to those of the one before at the same moment, by their sender reports.
    pub fn rebase_aligned(&mut self, encoding: u8, ahead: u32) {
        let offset = self.timestamp_offset().map(|_| self.settled);
        self.rebase(encoding);
        self.aligned = offset.map(|offset| offset.wrapping_add(ahead));
    }

    /// As [`Rewriter::rebase`], and the next packets are of the past: the caller squeezes their timestamps.
    pub fn rebase_replayed(&mut self, encoding: u8, replayed: Replayed) {
        self.rebase(encoding);
        self.replayed = Some(replayed);
    }

    /// Whether a picture with this timestamp of another encoding, with `ahead` as in [`Rewriter::rebase_aligned`], is
    /// from before the last one that went out.
    pub fn would_step_back(&self, ahead: u32, timestamp: u32) -> bool {
        let (Some(last), Some(_)) = (self.last, self.timestamp_offset()) else { return false };
        let by_reports = timestamp.wrapping_add(self.settled).wrapping_add(ahead);
        let behind = -i64::from(timestamp_ahead(by_reports, last.timestamp));
        // The same picture of both is not, and reports are not exact. A distant timestamp is not aligned either.
        (i64::from(self.clock_rate / 100)..=i64::from(self.clock_rate)).contains(&behind)
    }

    /// The source packet that went out as `seq`, if it was among the newest 1,024.
    pub fn source_of(&self, seq: Seq) -> Option<SentEntry> {
        let newest = self.last?.index.get();
        let index = ExtSeq(newest).nearest(seq).0;
        if index as u16 != seq.0 || index > newest || newest - index >= SENT_MAX as u64 {
            return None;
        }
        let sent = self.sent.as_ref()?[index as usize % SENT_MAX];
        if sent.index != index as u32 {
            return None;
        }
        let base = self.bases.iter().rev().find(|base| base.first_index <= index)?;
        let near = match (&self.present, self.bases.back()) {
            (Some(present), Some(newest)) if std::ptr::eq(newest, base) => present.seen.highest(),
            _ => base.near,
        };
        let ext = ExtSeq(near.0.saturating_add_signed(i64::from(sent.ext.wrapping_sub(near.0 as u32) as i32)));
        let replayed = base.replayed.filter(|replayed| ext <= replayed.until);
        let led = base.led.and_then(|led| Some(index - base.first_index).filter(|place| *place < led.count));
        let led = led.zip(base.led).map(|(place, led)| led.name + place);
        Some(SentEntry { ext, index, stamps: base.stamps, encoding: base.encoding, replayed, led })
    }

    /// The newest outgoing timestamp.
    pub fn last_timestamp(&self) -> Option<u32> {
        self.last.map(|last| last.timestamp)
    }

    /// The offset to the source's timestamps, in sender reports too; None while it is not settled.
    pub fn timestamp_offset(&self) -> Option<u32> {
        self.present.as_ref().map(|present| present.stamps.offset)
    }

    fn start(&mut self, now: Instant, ext: ExtSeq, timestamp: u32) -> Option<Rewritten> {
        (!self.was_before(ext)).then(|| self.begin(now, ext, timestamp))
    }

    /// Whether the packet is from before the base that is about to begin.
    fn was_before(&self, ext: ExtSeq) -> bool {
        let seen_before = self.bases.back().filter(|base| base.encoding == self.encoding);
        seen_before.is_some_and(|base| ext <= base.near)
    }

    fn begin(&mut self, now: Instant, ext: ExtSeq, timestamp: u32) -> Rewritten {
        let (index, out) = match self.last {
            None => (self.first_index, self.first_timestamp),
            Some(last) => (last.index.saturating_add(1), self.continued(now, last, timestamp)),
        };
        let next = self.last.map(|last| last.timestamp.wrapping_add(self.clock_rate / 1_000));
        self.settled = out.wrapping_sub(timestamp);
        let out = next.filter(|next| timestamp_ahead(out, *next) <= 0).unwrap_or(out);
        let step = out.wrapping_sub(timestamp).wrapping_sub(self.settled);
        // Below the distance to the next picture, or else it is for all of them.
        let stamps = match step <= self.clock_rate / 100 {
            true => Stamps::new(self.settled, timestamp, step),
            false => Stamps::new(self.settled.wrapping_add(step), timestamp, 0),
        };
        if self.bases.len() >= BASES_MAX {
            self.bases.pop_front();
        }
        let replayed = self.replayed.take();
        self.bases.push_back(Base {
            first_ext: ext,
            first_index: index.get(),
            near: ext,
            encoding: self.encoding,
            stamps,
            replayed,
            led: None,
        });
        self.boundaries.clear();
        let shift = index.get().wrapping_sub(ext.0);
        self.boundaries.push_back(Boundary { from: ext, shift });
        self.present = Some(Present { seen: SeenWindow::starting_at(ext), shift, stamps });
        self.last = Some(Last { index, timestamp: out, at: now });
        self.remember(index.get(), ext);
        Rewritten { index: index.get(), timestamp: out }
    }

    /// The outgoing timestamp of a base's first packet. A source whose own clock agrees with the elapsed time keeps its
    /// offset, so that neither drift nor jitter shifts it against its sender reports; else the wall clock decides. At
    /// least a short frame ahead.
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

    /// The boundary of a late packet of the present base.
    fn place(&self, ext: ExtSeq) -> Option<u64> {
        place(self.bases.back()?, &self.boundaries, ext)
    }

    fn remember(&mut self, index: u64, ext: ExtSeq) {
        if self.remembers {
            let sent = self.sent.get_or_insert_with(nothing_sent);
            sent[index as usize % SENT_MAX] = Sent { index: index as u32, ext: ext.0 as u32 };
        }
    }
}

#[cold]
#[inline(never)]
fn nothing_sent() -> Box<[Sent; SENT_MAX]> {
    // No number belongs into the slot next to its own: these are empty.
    Box::new(std::array::from_fn(|slot| Sent { index: slot as u32 ^ 1, ext: 0 }))
}

/// The outgoing number of a late packet.
fn place(base: &Base, boundaries: &VecDeque<Boundary>, ext: ExtSeq) -> Option<u64> {
    let boundary = boundaries.iter().rev().find(|boundary| boundary.from <= ext)?;
    (ext >= base.first_ext).then(|| ext.0.wrapping_add(boundary.shift))
}

#[cfg(test)]
#[path = "rewrite_tests.rs"]
mod tests;
