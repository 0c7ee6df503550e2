//! What was sent under which transport-wide number, until feedback tells of it: numbers packets for `transport::egress`
//! and turns a feedback packet into send and arrival times. It judges nothing; the estimators beside it do.

use crate::base::limits::SENT_LOG_MAX;
use crate::base::prefetch::{prefetch, prefetch_at};
use crate::base::seq::{ExtSeq, Seq};
use crate::base::slab::LINE;
use crate::base::time::{Duration, Instant};
use crate::wire::transport_cc::{TICK_US, TransportCc};

const ENTRIES_START: usize = 128;
/// So many are enough as long as nobody answers.
const ENTRIES_UNHEARD: usize = 256;
/// What feedback has not mentioned after this long it never will.
const UNDER_WAY: Duration = Duration::from_secs(2);
/// The reference time of feedback counts in steps of so many microseconds, in 24 bits.
const REFERENCE_US: i64 = 64_000;
const REFERENCE_BITS: u32 = 24;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// No feedback has spoken of it.
    Unknown,
    Missing,
    Arrived,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Instant,
    bytes: u16,
    cluster: u8,
    fate: Fate,
}

const VACANT: Entry = Entry { at: Instant::ZERO, bytes: 0, cluster: 0, fate: Fate::Arrived };

/// A packet that arrived. Its arrival is by the receiver's clock, whose zero means nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrived {
    pub sent: Instant,
    pub arrived_us: i64,
    pub bytes: u16,
    /// The probe it belongs to; 0: none.
    pub cluster: u8,
}

/// What one feedback packet tells that was not known.
#[derive(Default, Debug)]
pub struct Told {
    /// By arrival.
    pub arrived: Vec<Arrived>,
    pub lost: u32,
    /// Counted as lost before, and arrived after all.
    pub found: u32,
    /// Packets before these were never spoken of: feedback was lost.
    pub gap: bool,
}

/// Where the next packet stands in its transport; allocates with the first one.
#[derive(Debug)]
#[repr(C)]
pub struct SentLog {
    entries: Vec<Entry>,
    next: u64,
    /// One more than the newest that feedback spoke of.
    reported: Option<u64>,
    reference: Option<(i32, i64)>,
}

impl Default for SentLog {
    fn default() -> SentLog {
        SentLog { entries: Vec::new(), next: 1 << 16, reported: None, reference: None }
    }
}

impl SentLog {
    /// The number of the packet that is sent next.
    pub fn next_seq(&self) -> u16 {
        self.next as u16
    }

    /// The same, extended.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Leaves out so many numbers: nobody will be sent them, and what is said of them tells nothing.
    pub fn skip(&mut self, now: Instant, count: u16) {
        let skipped = Entry { at: now, ..VACANT };
        for ext in (self.next..self.next + u64::from(count)).take(self.entries.len()) {
            let place = self.place(ext);
            self.entries[place] = skipped;
        }
        self.next += u64::from(count);
    }

    /// Packets will be sent.
    pub fn foresee(&self) {
        if !self.entries.is_empty() {
            prefetch(&self.entries[self.place(self.next)], 1);
        }
    }

    /// Feedback will be taken: of some twenty packets, as it comes.
    pub fn foresee_feedback(&self) {
        if let Some(reported) = self.reported.filter(|_| !self.entries.is_empty()) {
            prefetch_at(&raw const self.entries[self.place(reported)], 5 * LINE);
        }
    }

    /// It was sent. `cluster` is the probe it belongs to, or 0.
    pub fn sent(&mut self, now: Instant, bytes: usize, cluster: u8) {
        if self.entries.is_empty() {
            self.entries = vec![VACANT; ENTRIES_START];
        }
        let mut place = self.place(self.next);
        let oldest = self.entries[place];
        if oldest.fate == Fate::Unknown && now.since(oldest.at) < UNDER_WAY && self.may_grow() {
            self.grow();
            place = self.place(self.next);
        }
        let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        self.entries[place] = Entry { at: now, bytes, cluster, fate: Fate::Unknown };
        self.next += 1;
    }

    fn may_grow(&self) -> bool {
        let bound = if self.reported.is_some() { SENT_LOG_MAX } else { ENTRIES_UNHEARD };
        self.entries.len() < bound
    }

    fn grow(&mut self) {
        let mut grown = vec![VACANT; self.entries.len() * 2];
        let mask = grown.len() as u64 - 1;
        for ext in self.next - self.entries.len() as u64..self.next {
            grown[(ext & mask) as usize] = self.entries[self.place(ext)];
        }
        self.entries = grown;
    }

    /// The length is a power of two.
    fn place(&self, ext: u64) -> usize {
        ext as usize & (self.entries.len() - 1)
    }

    /// When the oldest packet was sent that is newer than all that feedback spoke of.
    pub fn waiting_since(&self) -> Option<Instant> {
        let oldest = self.reported?.max(self.next.saturating_sub(self.entries.len() as u64));
        (oldest < self.next).then(|| self.entries[self.place(oldest)].at)
    }

    /// Everything new in `feedback` goes into `told`, which is emptied first.
    pub fn take(&mut self, feedback: &TransportCc<'_>, told: &mut Told) {
        told.arrived.clear();
        (told.lost, told.found, told.gap) = (0, 0, false);
        let base_us = self.unwrap_reference(feedback.reference_time);
        let oldest = self.next.saturating_sub(self.entries.len() as u64);
        let before = self.reported;
        for (seq, arrival) in feedback.packets() {
            let ext = ExtSeq(self.next).nearest(Seq(seq)).0;
            if ext < oldest || ext >= self.next {
                continue;
            }
            let reported = self.reported.get_or_insert(ext);
            told.gap |= before.is_some() && ext > *reported;
            *reported = (*reported).max(ext + 1);
            let place = self.place(ext);
            let entry = &mut self.entries[place];
            match (entry.fate, arrival) {
                (Fate::Unknown | Fate::Missing, Some(ticks)) => {
                    told.found += u32::from(entry.fate == Fate::Missing);
                    entry.fate = Fate::Arrived;
                    told.arrived.push(Arrived {
                        sent: entry.at,
                        arrived_us: base_us + ticks * TICK_US as i64,
                        bytes: entry.bytes,
                        cluster: entry.cluster,
                    });
                }
                (Fate::Unknown, None) => {
                    told.lost += 1;
                    entry.fate = Fate::Missing;
                }
                (Fate::Missing, None) | (Fate::Arrived, _) => {}
            }
        }
        told.arrived.sort_by_key(|packet| (packet.arrived_us, packet.sent));
    }

    /// The reference time without its wraps, in microseconds.
    fn unwrap_reference(&mut self, reference: i32) -> i64 {
        let at = match self.reference {
            None => i64::from(reference),
            Some((last, at)) => {
                let shift = i32::BITS - REFERENCE_BITS;
                at + i64::from(reference.wrapping_sub(last) << shift >> shift)
            }
        };
        self.reference = Some((reference, at));
        at * REFERENCE_US
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::Ssrc;
    use crate::wire::feedback::Feedback;
    use crate::wire::rtcp::{self, Rtcp};
    use crate::wire::transport_cc::FeedbackBuilder;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn tell(log: &mut SentLog, packets: &[(u16, Option<u64>)]) -> Told {
        let mut bytes = Vec::new();
        let builder = FeedbackBuilder { sender: Ssrc(1), media: Ssrc(2), base_seq: packets[0].0, feedback_count: 0 };
        assert_eq!(builder.write(packets.iter().copied(), &mut bytes), packets.len());
        let Some(Ok(Rtcp::Feedback(Feedback::TransportCc(feedback)))) = rtcp::parse(&bytes).next() else {
            panic!("feedback was written")
        };
        let mut told = Told::default();
        log.take(&feedback, &mut told);
        told
    }

    #[test]
    fn packets_come_back_with_their_times_and_each_once() {
        let mut log = SentLog::default();
        for n in 0..10 {
            assert_eq!(log.next_seq(), n);
            log.sent(at(u64::from(n)), 100 + usize::from(n), 0);
        }
        let told = tell(&mut log, &[(0, Some(64_000)), (1, None), (2, Some(66_000))]);
        let times: Vec<_> = told.arrived.iter().map(|p| (p.sent, p.arrived_us, p.bytes)).collect();
        assert_eq!(times, [(at(0), 64_000, 100), (at(2), 66_000, 102)]);
        assert_eq!((told.lost, told.found, told.gap), (1, 0, false));
        let told = tell(&mut log, &[(0, Some(64_000)), (1, Some(90_000)), (2, None), (3, Some(91_000))]);
        assert_eq!((told.arrived.len(), told.lost, told.found, told.gap), (2, 0, 1, false), "1 came late, 2 is known");
        assert!(tell(&mut log, &[(6, Some(99_000))]).gap);
        assert!(tell(&mut log, &[(11, Some(64_000)), (12, Some(65_000))]).arrived.is_empty(), "never sent");
    }

    #[test]
    fn numbers_that_were_left_out_tell_nothing() {
        for before in [0, 5, 400] {
            let mut log = SentLog::default();
            for _ in 0..before {
                log.sent(at(1), 100, 0);
            }
            let from = log.next_seq();
            log.skip(at(2), 3_000);
            assert_eq!(log.next_seq(), from.wrapping_add(3_000));
            log.sent(at(3), 700, 0);
            let last = log.next_seq().wrapping_sub(1);
            let told = tell(&mut log, &[(last.wrapping_sub(1), Some(1_000)), (last, Some(2_000))]);
            assert_eq!(told.arrived.iter().map(|packet| packet.bytes).collect::<Vec<_>>(), [700]);
            let told =
                tell(&mut log, &[(last.wrapping_sub(2), None), (last.wrapping_sub(1), None), (last, Some(2_000))]);
            assert_eq!((told.lost, told.arrived.len(), told.gap), (0, 0, false));
            assert_eq!(log.waiting_since(), None);
        }
    }

    #[test]
    fn it_grows_while_packets_are_under_way_and_never_beyond_its_bound() {
        let mut log = SentLog::default();
        for _ in 0..10_000 {
            log.sent(at(5), 1, 0);
        }
        assert_eq!(log.entries.len(), ENTRIES_UNHEARD);
        let newest = log.next_seq() - 1;
        tell(&mut log, &[(newest, Some(1_000))]);
        for _ in 0..100_000 {
            log.sent(at(5), 1, 0);
        }
        assert_eq!(log.entries.len(), SENT_LOG_MAX);
        let oldest = log.next_seq().wrapping_sub(SENT_LOG_MAX as u16);
        assert_eq!(tell(&mut log, &[(oldest, Some(2_000))]).arrived.len(), 1);
        assert_eq!(tell(&mut log, &[(oldest.wrapping_sub(1), Some(2_000))]).arrived.len(), 0);
    }

    #[test]
    fn the_reference_time_wraps() {
        let mut log = SentLog::default();
        let last = (1 << 23) - 1;
        let first = log.unwrap_reference(last);
        assert_eq!(log.unwrap_reference(-(1 << 23)) - first, REFERENCE_US);
        assert_eq!(log.unwrap_reference(last), first);
    }
}
