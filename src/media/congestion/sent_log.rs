//! The log of sent packets by transport-wide number, until feedback covers them. It numbers packets for
//! `transport::egress` and turns a feedback packet into send and arrival times. The estimators beside it judge.

use std::num::NonZeroU64;

use crate::base::limits::SENT_LOG_MAX;
use crate::base::prefetch::{LINE, prefetch, prefetch_at};
use crate::base::seq::{ExtSeq, Seq};
use crate::base::time::{Duration, Instant};
use crate::wire::transport_cc::{Status, TICK_US, TransportCc};

const ENTRIES_START: usize = 128;
/// The entries kept as long as nobody answers.
const ENTRIES_UNHEARD: usize = 256;
/// A packet that feedback has not covered after this long never will be; its loss says nothing of the present path.
const UNDER_WAY: Duration = Duration::from_secs(2);
/// The unit of the feedback's reference time in microseconds; the field has 24 bits.
const REFERENCE_US: i64 = 64_000;
const REFERENCE_BITS: u32 = 24;

/// Silence is judged by packets sent without a pause of this length: a sender that pauses may hear less often.
const PAUSE: Duration = Duration::from_millis(500);
/// A stream of which nothing arrived for this long is not lost on the way: its receiver has left it, or has not begun.
const FORSAKEN: Duration = Duration::from_secs(1);
/// The furthest that a receiver's clock may drift from its start, in steps of the reference time.
const REFERENCE_MAX: u64 = 1 << 40;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// Not covered by feedback yet.
    Unknown,
    Missing,
    Arrived,
}

/// The purpose of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Sent whatever the estimate says.
    Audio,
    Video,
    /// Padding of the probe with this number.
    Probe(u8),
}

/// The stream of a packet, by its place in its transport.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamTag {
    pub place: u16,
    /// A stream whose receiver has acknowledged it: it surely reports.
    pub acknowledged: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Instant,
    bytes: u16,
    purpose: Purpose,
    stream: u16,
    fate: Fate,
}

const VACANT: Entry = Entry { at: Instant::ZERO, bytes: 0, purpose: Purpose::Audio, stream: 0, fate: Fate::Arrived };

/// A packet that arrived. The arrival is by the receiver's clock, whose zero means nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrived {
    pub sent: Instant,
    pub arrived_us: i64,
    pub bytes: u16,
    pub purpose: Purpose,
}

/// The news in one feedback packet.
#[derive(Default, Debug)]
pub struct Told {
    /// In order of arrival.
    pub arrived: Vec<Arrived>,
    pub lost: u32,
    /// Packets counted as lost before that arrived after all.
    pub found: u32,
    /// Packets before these were never covered: feedback was lost.
    pub gap: bool,
}

/// Video sent without a pause since the last news.
#[derive(Clone, Copy, Debug)]
struct Unanswered {
    since: Instant,
    last: Instant,
}

/// The ring of entries; the first packet allocates it.
#[derive(Debug)]
#[repr(C)]
pub struct SentLog {
    entries: Vec<Entry>,
    next: u64,
    unanswered: Option<Unanswered>,
    /// One more than the newest number that feedback covered.
    reported: Option<NonZeroU64>,
    /// From the first feedback on.
    receiver: Option<Box<Receiver>>,
}

/// State of the client's feedback.
#[derive(Default, Debug)]
struct Receiver {
    /// The newest reference time as received, and unwrapped.
    reference: Option<(i32, i64)>,
    /// By stream: the send time of the newest packet that arrived.
    arrivals: Vec<Option<Instant>>,
}

impl Receiver {
    fn newest_arrived(&self, stream: u16) -> Option<Instant> {
        self.arrivals.get(usize::from(stream)).copied().flatten()
    }

    fn arrived(&mut self, stream: u16, sent: Instant) {
        let stream = usize::from(stream);
        if stream >= self.arrivals.len() {
            self.arrivals.resize(stream + 1, None);
        }
        self.arrivals[stream] = self.arrivals[stream].max(Some(sent));
    }

    /// The reference time unwrapped, in microseconds.
    fn unwrap_reference(&mut self, reference: i32) -> i64 {
        let fresh = i64::from(reference);
        let at = match self.reference {
            None => fresh,
            Some((last, at)) => {
                let shift = i32::BITS - REFERENCE_BITS;
                at + i64::from(reference.wrapping_sub(last) << shift >> shift)
            }
        };
        // A clock that runs this far is invented, and counts as one that was set.
        let at = if at.unsigned_abs() < REFERENCE_MAX { at } else { fresh };
        self.reference = Some((reference, at));
        at * REFERENCE_US
    }
}

impl Default for SentLog {
    fn default() -> SentLog {
        SentLog { entries: Vec::new(), next: 1 << 16, unanswered: None, reported: None, receiver: None }
    }
}

impl SentLog {
    /// The number of the next packet.
    pub fn next_seq(&self) -> u16 {
        self.next as u16
    }

    /// The same, extended.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Skips numbers that are never sent, so that feedback about them means nothing.
    pub fn skip(&mut self, now: Instant, count: u16) {
        let skipped = Entry { at: now, ..VACANT };
        for ext in (self.next..self.next + u64::from(count)).take(self.entries.len()) {
            let place = self.place(ext);
            self.entries[place] = skipped;
        }
        self.next += u64::from(count);
    }

    /// Prefetches what sending will touch.
    pub fn prefetch(&self) {
        if !self.entries.is_empty() {
            prefetch(&self.entries[self.place(self.next)], 1);
        }
    }

    /// Prefetches what feedback will touch: it covers some twenty packets.
    pub fn prefetch_feedback(&self) {
        if let Some(reported) = self.reported.filter(|_| !self.entries.is_empty()) {
            prefetch_at(&raw const self.entries[self.place(reported.get())], 5 * LINE);
        }
    }

    /// The packet was sent.
    pub fn sent(&mut self, now: Instant, bytes: usize, purpose: Purpose, stream: StreamTag) {
        if self.entries.is_empty() {
            self.entries = vec![VACANT; ENTRIES_START];
        }
        let mut place = self.place(self.next);
        let oldest = self.entries[place];
        if oldest.fate == Fate::Unknown && now.since(oldest.at) < UNDER_WAY && self.may_grow() {
            self.grow();
            place = self.place(self.next);
        }
        if stream.acknowledged && purpose == Purpose::Video {
            let since = self.unanswered.filter(|sent| now.since(sent.last) < PAUSE).map_or(now, |sent| sent.since);
            self.unanswered = Some(Unanswered { since, last: now });
        }
        let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        self.entries[place] = Entry { at: now, bytes, purpose, stream: stream.place, fate: Fate::Unknown };
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

    /// Since when video with an acknowledged receiver is sent without any news from feedback, which used to come.
    pub fn unanswered_since(&self) -> Option<Instant> {
        self.unanswered.filter(|_| self.reported.is_some()).map(|sent| sent.since)
    }

    /// Packets from before a pause may stay without an answer for ever: lost, or no longer needed.
    pub fn forget_if_paused(&mut self, now: Instant) {
        self.unanswered.take_if(|sent| now.since(sent.last) >= PAUSE);
    }

    /// The send time of this stream's newest packet that arrived, if any did.
    pub fn newest_arrived(&self, stream: u16) -> Option<Instant> {
        self.receiver.as_ref()?.newest_arrived(stream)
    }

    /// Its receiver sends no more feedback about it, and its place may be reused.
    pub fn stream_ended(&mut self, stream: u16) {
        if let Some(newest) = self.receiver.as_mut().and_then(|known| known.arrivals.get_mut(usize::from(stream))) {
            *newest = None;
        }
    }

    /// Adds the news of `feedback` to `told`, which is emptied first. The work is proportional to its length and to
    /// what was sent since the last feedback.
    pub fn take(&mut self, now: Instant, feedback: &TransportCc<'_>, told: &mut Told) {
        told.arrived.clear();
        (told.lost, told.found, told.gap) = (0, 0, false);
        let mut receiver = self.receiver.take().unwrap_or_default();
        let base_us = receiver.unwrap_reference(feedback.reference_time);
        let before = self.reported;
        for status in feedback.statuses() {
            match status {
                Status::Arrived { seq, ticks } => {
                    if let Some(arrived) = self.take_arrival(seq, base_us + ticks * TICK_US as i64, told) {
                        receiver.arrived(arrived.stream, arrived.at);
                    }
                }
                Status::Missing { first, count } => self.take_missing(now, first, count, &receiver, told),
            }
        }
        self.receiver = Some(receiver);
        // The first feedback says nothing of earlier packets.
        told.gap &= before.is_some();
        if !told.arrived.is_empty() || self.reported != before {
            self.unanswered = None;
        }
        told.arrived.sort_by_key(|packet| (packet.arrived_us, packet.sent));
    }

    fn oldest(&self) -> u64 {
        self.next.saturating_sub(self.entries.len() as u64)
    }

    fn take_arrival(&mut self, seq: u16, arrived_us: i64, told: &mut Told) -> Option<Entry> {
        let ext = ExtSeq(self.next).nearest(Seq(seq)).0;
        if ext < self.oldest() || ext >= self.next {
            return None;
        }
        self.reach(ext, ext + 1, told);
        let place = self.place(ext);
        let entry = &mut self.entries[place];
        if entry.fate == Fate::Arrived {
            return None;
        }
        told.found += u32::from(entry.fate == Fate::Missing);
        entry.fate = Fate::Arrived;
        told.arrived.push(Arrived { sent: entry.at, arrived_us, bytes: entry.bytes, purpose: entry.purpose });
        Some(*entry)
    }

    /// Visits packets that were not covered before alone, so that each is visited once, however often a run is
    /// repeated.
    fn take_missing(&mut self, now: Instant, first: u16, count: u16, receiver: &Receiver, told: &mut Told) {
        let first = ExtSeq(self.next).nearest(Seq(first)).0;
        let end = (first + u64::from(count)).min(self.next);
        let first = first.max(self.reported.map_or(0, NonZeroU64::get)).max(self.oldest());
        if first >= end {
            return;
        }
        self.reach(first, end, told);
        for ext in first..end {
            let place = self.place(ext);
            let entry = &mut self.entries[place];
            let newest = receiver.newest_arrived(entry.stream);
            let counts = now.since(entry.at) < UNDER_WAY && newest.is_some_and(|at| entry.at.since(at) < FORSAKEN);
            if entry.fate == Fate::Unknown && counts {
                entry.fate = Fate::Missing;
                told.lost += 1;
            }
        }
    }

    /// Feedback covers `first` up to `end`; the feedback about earlier packets was lost.
    fn reach(&mut self, first: u64, end: u64, told: &mut Told) {
        let reported = self.reported.map_or(first, NonZeroU64::get);
        told.gap |= first > reported;
        self.reported = NonZeroU64::new(reported.max(end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::Ssrc;
    use crate::wire::feedback::Feedback;
    use crate::wire::rtcp::{self, Rtcp};
    use crate::wire::transport_cc::FeedbackBuilder;

    const KNOWN: StreamTag = StreamTag { place: 0, acknowledged: true };

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
        log.take(Instant::ZERO, &feedback, &mut told);
        told
    }

    #[test]
    fn packets_come_back_with_their_times_and_each_once() {
        let mut log = SentLog::default();
        for n in 0..10 {
            assert_eq!(log.next_seq(), n);
            log.sent(at(u64::from(n)), 100 + usize::from(n), Purpose::Video, KNOWN);
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
                log.sent(at(1), 100, Purpose::Video, KNOWN);
            }
            let from = log.next_seq();
            log.skip(at(2), 3_000);
            assert_eq!(log.next_seq(), from.wrapping_add(3_000));
            log.sent(at(3), 700, Purpose::Video, KNOWN);
            let last = log.next_seq().wrapping_sub(1);
            let told = tell(&mut log, &[(last.wrapping_sub(1), Some(1_000)), (last, Some(2_000))]);
            assert_eq!(told.arrived.iter().map(|packet| packet.bytes).collect::<Vec<_>>(), [700]);
            let told =
                tell(&mut log, &[(last.wrapping_sub(2), None), (last.wrapping_sub(1), None), (last, Some(2_000))]);
            assert_eq!((told.lost, told.arrived.len(), told.gap), (0, 0, false));
            assert_eq!(log.unanswered_since(), None);
        }
    }

    #[test]
    fn it_grows_while_packets_are_under_way_and_never_beyond_its_bound() {
        let mut log = SentLog::default();
        for _ in 0..10_000 {
            log.sent(at(5), 1, Purpose::Video, KNOWN);
        }
        assert_eq!(log.entries.len(), ENTRIES_UNHEARD);
        let newest = log.next_seq() - 1;
        tell(&mut log, &[(newest, Some(1_000))]);
        for _ in 0..100_000 {
            log.sent(at(5), 1, Purpose::Video, KNOWN);
        }
        assert_eq!(log.entries.len(), SENT_LOG_MAX);
        let oldest = log.next_seq().wrapping_sub(SENT_LOG_MAX as u16);
        assert_eq!(tell(&mut log, &[(oldest, Some(2_000))]).arrived.len(), 1);
        assert_eq!(tell(&mut log, &[(oldest.wrapping_sub(1), Some(2_000))]).arrived.len(), 0);
    }

    #[test]
    fn the_reference_time_wraps_however_often_it_is_made_to() {
        let mut log = Receiver::default();
        let last = (1 << 23) - 1;
        let first = log.unwrap_reference(last);
        assert_eq!(log.unwrap_reference(-(1 << 23)) - first, REFERENCE_US);
        assert_eq!(log.unwrap_reference(last), first);
        // Each time as far forward as a feedback can reach.
        let far = REFERENCE_MAX / ((1 << 23) - 1) + 10;
        let mut reference = 0i32;
        for _ in 0..far {
            reference = (reference + ((1 << 23) - 1)) << 8 >> 8;
            assert!(log.unwrap_reference(reference).unsigned_abs() <= REFERENCE_MAX * REFERENCE_US as u64);
        }
    }

    #[test]
    fn what_nobody_receives_is_not_lost_on_the_way() {
        let mut log = SentLog::default();
        let other = StreamTag { place: 3, acknowledged: false };
        let mut send = |millis, stream| log.sent(at(millis), 100, Purpose::Video, stream);
        (0..10).for_each(|n| send(n * 10, KNOWN));
        (10..20).for_each(|n| send(n * 10, other));
        send(200, KNOWN);
        let none = |range: std::ops::Range<u16>| range.map(|seq| (seq, None)).collect::<Vec<_>>();
        let told = tell(&mut log, &[&[(0, Some(64_000))], &none(1..20)[..], &[(20, Some(65_000))]].concat());
        assert_eq!((told.arrived.len(), told.lost), (2, 9), "the other has not begun");
        // It begins, is lost for a moment, and is left.
        for n in 21..30 {
            log.sent(at(n * 10), 100, Purpose::Video, other);
        }
        let told = tell(&mut log, &[&[(21, Some(66_000))], &none(22..29)[..], &[(29, Some(67_000))]].concat());
        assert_eq!((told.arrived.len(), told.lost), (2, 7));
        for n in 0..200u64 {
            log.sent(at(300 + n * 10), 100, Purpose::Video, other);
            log.sent(at(300 + n * 10), 100, Purpose::Video, KNOWN);
        }
        let packets = (30..430).map(|seq| (seq, (seq % 2 == 1).then(|| 68_000 + u64::from(seq) * 1_000)));
        let told = tell(&mut log, &packets.collect::<Vec<_>>());
        assert_eq!((told.arrived.len(), told.lost), (200, 99), "for a second");
        log.stream_ended(0);
        (0..10).for_each(|n| log.sent(at(2_300 + n), 100, Purpose::Video, KNOWN));
        let told = tell(&mut log, &[&none(430..439)[..], &[(439, Some(600_000))]].concat());
        assert_eq!((told.arrived.len(), told.lost), (1, 0), "it was closed with these in flight");
    }

    #[test]
    fn only_video_that_is_sent_on_and_on_waits_for_an_answer() {
        let mut log = SentLog::default();
        let unknown = StreamTag { acknowledged: false, ..KNOWN };
        let mut seq = 0;
        let mut send = |log: &mut SentLog, from: u64, to: u64, purpose, stream| {
            for millis in (from..to).step_by(100) {
                log.sent(at(millis), 100, purpose, stream);
                seq += 1;
            }
            seq - 1
        };
        send(&mut log, 0, 1_000, Purpose::Video, KNOWN);
        assert_eq!(log.unanswered_since(), None, "feedback has never come");
        let newest = send(&mut log, 1_000, 1_100, Purpose::Video, KNOWN);
        tell(&mut log, &[(newest, Some(64_000))]);
        assert_eq!(log.unanswered_since(), None, "all is told");
        send(&mut log, 2_000, 5_000, Purpose::Audio, KNOWN);
        send(&mut log, 2_000, 5_000, Purpose::Probe(1), KNOWN);
        send(&mut log, 2_000, 5_000, Purpose::Video, unknown);
        assert_eq!(log.unanswered_since(), None, "nothing that could be held back surely arrives");
        send(&mut log, 5_000, 5_300, Purpose::Video, KNOWN);
        log.forget_if_paused(at(5_600));
        assert_eq!(log.unanswered_since(), Some(at(5_000)));
        log.forget_if_paused(at(5_700));
        assert_eq!(log.unanswered_since(), None);
        send(&mut log, 6_000, 6_200, Purpose::Video, KNOWN);
        let newest = send(&mut log, 7_000, 8_000, Purpose::Video, KNOWN);
        assert_eq!(log.unanswered_since(), Some(at(7_000)), "what is sent after a pause waits anew");
        tell(&mut log, &[(newest - 5, None), (newest - 4, Some(70_000))]);
        assert_eq!(log.unanswered_since(), None, "something was told");
    }

    #[test]
    fn a_feedback_costs_its_length_however_many_packets_it_calls_missing() {
        let mut log = SentLog::default();
        for n in 0..20_000 {
            log.sent(at(n / 100), 1, Purpose::Video, KNOWN);
            if n % 100 == 99 {
                tell(&mut log, &[(n as u16, Some(64_000 + n))]);
            }
        }
        let before = (log.reported, log.entries.len());
        // A run of 8,191 from anywhere, again and again: nothing that was told before is looked at once more.
        for base in (0..=u16::MAX).step_by(97) {
            let mut told = Told::default();
            log.take_missing(at(200), base, 8_191, &Receiver::default(), &mut told);
            assert_eq!((told.lost, told.gap), (0, false), "{base}");
            assert_eq!((log.reported, log.entries.len()), before);
        }
    }
}
