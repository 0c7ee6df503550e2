//! The history: the decrypted packets of one source, each kept once for all its consumers, for forwarding and for
//! retransmission. A byte ring with an index by extended sequence number; the oldest bytes make room for the newest. It
//! knows nothing of RTP: a packet is a small header that the caller made, and bytes.

use std::collections::VecDeque;

use crate::base::limits::{
    HISTORY_AGE_MAX, HISTORY_AUDIO_BYTES_MAX, HISTORY_AUDIO_PACKETS_MAX, HISTORY_BYTES_MAX, HISTORY_PACKETS_MAX,
};
use crate::base::seq::ExtSeq;
use crate::base::time::{Duration, Instant};

const BYTES_MIN: usize = 16 * 1024;
const PACKETS_MIN: usize = 64;
/// How far back from a picture the missing end of the picture before is searched.
const PICTURE_END: u64 = 32;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HistoryBounds {
    /// A power of two.
    pub packets: usize,
    pub bytes: usize,
    pub age: Duration,
}

impl HistoryBounds {
    pub const VIDEO: HistoryBounds =
        HistoryBounds { packets: HISTORY_PACKETS_MAX, bytes: HISTORY_BYTES_MAX, age: HISTORY_AGE_MAX };
    pub const AUDIO: HistoryBounds =
        HistoryBounds { packets: HISTORY_AUDIO_PACKETS_MAX, bytes: HISTORY_AUDIO_BYTES_MAX, age: HISTORY_AGE_MAX };
}

/// The parts of a packet's header that its consumers need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredHeader {
    pub marker: bool,
    pub timestamp: u32,
    /// The length of the proxied header-extension elements, which are stored first.
    pub extension_len: u8,
    /// The length of the dependency descriptor, which is stored next.
    pub descriptor_len: u8,
    pub arrival: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored<'a> {
    pub header: StoredHeader,
    pub bytes: &'a [u8],
}

impl<'a> Stored<'a> {
    /// Header-extension elements, dependency descriptor, payload.
    pub fn parts(&self) -> (&'a [u8], &'a [u8], &'a [u8]) {
        let (elements, rest) = self.bytes.split_at(usize::from(self.header.extension_len).min(self.bytes.len()));
        let (descriptor, payload) = rest.split_at(usize::from(self.header.descriptor_len).min(rest.len()));
        (elements, descriptor, payload)
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    ext: ExtSeq,
    header: StoredHeader,
    offset: u32,
    len: u16,
}

/// An occupied stretch of the ring, in the order of writing. Its entry may have left the index before it.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    ext: ExtSeq,
    offset: u32,
    /// At least 1, so that every stretch has a place of its own.
    len: u32,
}

#[derive(Debug)]
pub struct History {
    bounds: HistoryBounds,
    /// By the low bits of the number; a power of two, or empty before the first packet.
    index: Vec<Option<Entry>>,
    ring: Vec<u8>,
    head: usize,
    stretches: VecDeque<Stretch>,
}

impl History {
    pub fn new(bounds: HistoryBounds) -> History {
        debug_assert!(bounds.packets.is_power_of_two() && u32::try_from(bounds.bytes).is_ok());
        History { bounds, index: Vec::new(), ring: Vec::new(), head: 0, stretches: VecDeque::new() }
    }

    /// Stores a packet whose bytes are the `parts` one after the other, in any order of numbers. False when it is not
    /// stored: it is there already, a newer one has its place in the index, or it is larger than the ring may be.
    pub fn push(&mut self, now: Instant, ext: ExtSeq, header: StoredHeader, parts: &[&[u8]]) -> bool {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let Ok(stored_len) = u16::try_from(len) else { return false };
        if len > self.bounds.bytes {
            return false;
        }
        if self.ring.is_empty() {
            self.ring = vec![0; BYTES_MIN.max(len).min(self.bounds.bytes)];
            self.index = vec![None; PACKETS_MIN.min(self.bounds.packets)];
        }
        if !self.make_index_room(now, ext) {
            return false;
        }
        let offset = self.make_room(now, len.max(1));
        let mut at = offset;
        for part in parts {
            self.ring[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        self.head = offset + len.max(1);
        self.stretches.push_back(Stretch { ext, offset: offset as u32, len: len.max(1) as u32 });
        let slot = self.slot(ext);
        self.index[slot] = Some(Entry { ext, header, offset: offset as u32, len: stored_len });
        true
    }

    /// The packet, whatever its age.
    pub fn get(&self, ext: ExtSeq) -> Option<Stored<'_>> {
        let entry = self.entry(ext)?;
        let start = entry.offset as usize;
        Some(Stored { header: entry.header, bytes: &self.ring[start..start + usize::from(entry.len)] })
    }

    /// The packet, while it is young enough to be worth a retransmission. The age of a picture's end counts from the
    /// next picture, which shows that it is missing: of a shared screen that may come a second later.
    pub fn get_fresh(&self, now: Instant, ext: ExtSeq) -> Option<Stored<'_>> {
        let stored = self.get(ext)?;
        let is_fresh = |stored: &Stored<'_>| now.since(stored.header.arrival) <= self.bounds.age;
        let of_next = |after: &Stored<'_>| after.header.timestamp != stored.header.timestamp;
        let next = || (1..=PICTURE_END).filter_map(|ahead| self.get(ExtSeq(ext.0 + ahead))).find(of_next);
        (is_fresh(&stored) || next().is_some_and(|next| is_fresh(&next))).then_some(stored)
    }

    /// Memory held, for the shard's budget.
    pub fn bytes_held(&self) -> usize {
        self.ring.capacity()
            + self.index.capacity() * size_of::<Option<Entry>>()
            + self.stretches.capacity() * size_of::<Stretch>()
    }

    /// Gives all memory back and forgets everything; the next packet starts small again.
    pub fn shrink(&mut self) {
        *self = History::new(self.bounds);
    }

    fn slot(&self, ext: ExtSeq) -> usize {
        ext.0 as usize & (self.index.len() - 1)
    }

    fn entry(&self, ext: ExtSeq) -> Option<&Entry> {
        if self.index.is_empty() {
            return None;
        }
        self.index[self.slot(ext)].as_ref().filter(|entry| entry.ext == ext)
    }

    fn is_fresh(&self, now: Instant, entry: &Entry) -> bool {
        now.since(entry.header.arrival) <= self.bounds.age
    }

    /// Frees a slot for `ext`, growing the index rather than losing a young packet. False when that is not allowed.
    fn make_index_room(&mut self, now: Instant, ext: ExtSeq) -> bool {
        loop {
            let Some(holder) = self.index[self.slot(ext)] else { return true };
            if holder.ext == ext {
                return false;
            }
            if self.index.len() >= self.bounds.packets || !self.is_fresh(now, &holder) {
                return holder.ext < ext;
            }
            // Numbers that differ in the low bits still do with one more bit: nothing collides.
            let mut wider = vec![None; self.index.len() * 2];
            let mask = wider.len() - 1;
            for entry in self.index.iter().flatten() {
                wider[entry.ext.0 as usize & mask] = Some(*entry);
            }
            self.index = wider;
        }
    }

    /// Frees a stretch of `len` bytes and gives its offset, growing the ring rather than losing a young packet.
    fn make_room(&mut self, now: Instant, len: usize) -> usize {
        while self.stretches.len() >= self.bounds.packets {
            self.drop_oldest();
        }
        loop {
            let wraps = self.head + len > self.ring.len();
            let start = if wraps { 0 } else { self.head };
            let in_the_way = self.stretches.front().is_some_and(|oldest| {
                let offset = oldest.offset as usize;
                // Stretches of the lap before lie from the head to the end. All of them go before the ring starts over.
                let before_the_end = offset >= self.head;
                if wraps { before_the_end || offset < len } else { before_the_end && offset < start + len }
            });
            if !in_the_way {
                if start + len <= self.ring.len() {
                    return start;
                }
                // Empty, and still too small.
                self.grow();
                continue;
            }
            let lost = self.stretches.front().and_then(|oldest| self.entry(oldest.ext));
            let lost_young = lost.is_some_and(|entry| self.is_fresh(now, entry));
            if lost_young && self.ring.len() < self.bounds.bytes {
                self.grow();
            } else {
                self.drop_oldest();
            }
        }
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.stretches.pop_front() else { return };
        let slot = self.slot(oldest.ext);
        if self.index[slot].is_some_and(|entry| entry.ext == oldest.ext && entry.offset == oldest.offset) {
            self.index[slot] = None;
        }
    }

    /// Doubles the ring and moves every stretch to its start, oldest first.
    fn grow(&mut self) {
        let mut wider = vec![0; (self.ring.len() * 2).min(self.bounds.bytes)];
        let mask = self.index.len() - 1;
        let mut head = 0;
        for stretch in &mut self.stretches {
            let (from, len) = (stretch.offset as usize, stretch.len as usize);
            wider[head..head + len].copy_from_slice(&self.ring[from..from + len]);
            let entry = self.index[stretch.ext.0 as usize & mask].as_mut();
            if let Some(entry) = entry.filter(|entry| entry.ext == stretch.ext && entry.offset == stretch.offset) {
                entry.offset = head as u32;
            }
            stretch.offset = head as u32;
            head += len;
        }
        self.ring = wider;
        self.head = head;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};

    use super::*;

    fn header(arrival: Instant, timestamp: u32) -> StoredHeader {
        StoredHeader { marker: timestamp & 1 == 0, timestamp, extension_len: 3, descriptor_len: 7, arrival }
    }

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn parts_become_one_and_are_read_until_old() {
        let mut history = History::new(HistoryBounds::VIDEO);
        assert_eq!(history.bytes_held(), 0);
        assert!(history.get(ExtSeq(9)).is_none());
        assert!(history.push(at(5), ExtSeq(9), header(at(5), 1), &[b"ab", b"", b"cde"]));
        assert!(!history.push(at(6), ExtSeq(9), header(at(6), 1), &[b"other"]), "there already");
        assert_eq!(history.get(ExtSeq(9)), Some(Stored { header: header(at(5), 1), bytes: b"abcde" }));
        assert!(history.get(ExtSeq(9 + 1_024)).is_none() && history.get(ExtSeq(9 + (1 << 16))).is_none());
        assert!(history.get_fresh(at(1_005), ExtSeq(9)).is_some());
        assert!(history.get_fresh(at(1_006), ExtSeq(9)).is_none() && history.get(ExtSeq(9)).is_some());
        let next = StoredHeader { timestamp: 90_000, ..header(at(1_005), 1) };
        history.push(at(1_005), ExtSeq(12), next, &[b"next"]);
        assert!(history.get_fresh(at(1_006), ExtSeq(9)).is_some(), "missed when the next picture came");
        assert!(history.get_fresh(at(2_006), ExtSeq(9)).is_none());
        assert!(history.bytes_held() < 24 * 1024, "an idle source is small");
        history.shrink();
        assert!(history.bytes_held() == 0 && history.get(ExtSeq(9)).is_none());
    }

    #[test]
    fn a_burst_after_quiet_loses_nothing() {
        let mut history = History::new(HistoryBounds::VIDEO);
        for n in 0..200u64 {
            history.push(at(n * 100), ExtSeq(n), header(at(n * 100), 0), &[&[1; 100]]);
        }
        assert!(history.bytes_held() < 32 * 1024);
        for n in 200..500u64 {
            assert!(history.push(at(20_001), ExtSeq(n), header(at(20_001), 0), &[&[n as u8; 1_100]]));
        }
        for n in 200..500u64 {
            assert_eq!(history.get_fresh(at(20_002), ExtSeq(n)).unwrap().bytes, [n as u8; 1_100]);
        }
    }

    #[test]
    fn bounds_hold_and_a_steady_state_allocates_nothing() {
        for bounds in [HistoryBounds::AUDIO, HistoryBounds::VIDEO] {
            let mut history = History::new(bounds);
            let push = |history: &mut History, n: u64| {
                let now = Instant::from_nanos(n * 1_000);
                history.push(now, ExtSeq(n), header(now, 0), &[&[0; 1_400]])
            };
            for n in 0..5_000 {
                assert!(push(&mut history, n));
            }
            let held = history.bytes_held();
            let place = history.ring.as_ptr();
            assert!(history.ring.len() <= bounds.bytes && history.index.len() <= bounds.packets);
            for n in 5_000..20_000 {
                assert!(push(&mut history, n));
            }
            assert_eq!((history.bytes_held(), history.ring.as_ptr()), (held, place));
        }
        let mut small = History::new(HistoryBounds { packets: 64, bytes: 1_000, age: HISTORY_AGE_MAX });
        assert!(!small.push(at(0), ExtSeq(1), header(at(0), 0), &[&[0; 1_001]]));
        assert!(small.push(at(0), ExtSeq(1), header(at(0), 0), &[&[0; 1_000]]));
        assert!(small.push(at(0), ExtSeq(2), header(at(0), 0), &[&[0; 1_000]]));
        assert!(small.get(ExtSeq(1)).is_none() && small.get(ExtSeq(2)).is_some());
    }

    #[test]
    fn a_packet_from_behind_the_index_displaces_nothing() {
        let mut history = History::new(HistoryBounds::AUDIO);
        assert!(history.push(at(0), ExtSeq(10_000), header(at(0), 0), &[b"new"]));
        assert!(!history.push(at(0), ExtSeq(10_000 - 256), header(at(0), 0), &[b"old"]));
        assert!(history.push(at(0), ExtSeq(10_000 - 255), header(at(0), 0), &[b"late"]));
        assert_eq!(history.get(ExtSeq(10_000)).unwrap().bytes, b"new");
        assert_eq!(history.get(ExtSeq(10_000 - 255)).unwrap().bytes, b"late");
    }

    #[test]
    fn agrees_with_a_model_over_random_pushes() {
        for seed in 0..40 {
            let mut rng = StdRng::seed_from_u64(seed);
            let bounds = match seed % 3 {
                0 => HistoryBounds::AUDIO,
                1 => HistoryBounds::VIDEO,
                _ => HistoryBounds { packets: 128, bytes: 40_000, age: Duration::from_millis(300) },
            };
            let size_max = [40, 300, 1_450][seed as usize / 3 % 3];
            let mut history = History::new(bounds);
            let mut model: BTreeMap<u64, (StoredHeader, Vec<u8>)> = BTreeMap::new();
            // Bytes and packets written when each was pushed.
            let mut written: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
            let (mut highest, mut now, mut bytes, mut packets) = (1u64 << 16, Instant::ZERO, 0, 0);
            for _ in 0..6_000 {
                now = now + Duration::from_micros([200, 20_000][usize::from(rng.random_range(0..20) == 0)]);
                let ext = match rng.random_range(0..10) {
                    0 => highest - rng.random_range(0..400),
                    1 => highest + rng.random_range(1..40),
                    _ => highest + 1,
                };
                highest = highest.max(ext);
                let mut payload = vec![0; rng.random_range(0..=size_max)];
                rng.fill_bytes(&mut payload);
                let header = header(now, rng.random());
                let (a, b) = payload.split_at(payload.len() / 3);
                if history.push(now, ExtSeq(ext), header, &[a, b]) {
                    bytes += payload.len();
                    packets += 1;
                    model.insert(ext, (header, payload));
                    written.insert(ext, (bytes, packets));
                }
                for _ in 0..4 {
                    let ext = highest - rng.random_range(0..bounds.packets as u64 + 200);
                    let found = history.get(ExtSeq(ext));
                    if let Some(found) = found {
                        let (header, bytes) = &model[&ext];
                        assert_eq!((&found.header, found.bytes), (header, &bytes[..]), "seed {seed}");
                    }
                    let Some((header, _)) = model.get(&ext) else { continue };
                    let (bytes_then, packets_then) = written[&ext];
                    let owed = now.since(header.arrival) <= bounds.age
                        && highest - ext < bounds.packets as u64
                        && packets - packets_then < bounds.packets
                        // The skip at the wrap and the packet itself take up to two packets more.
                        && bytes - bytes_then + 3 * 1_450 < bounds.bytes;
                    assert!(!owed || found.is_some(), "seed {seed}: {ext} of {highest} is gone");
                }
            }
        }
    }
}
