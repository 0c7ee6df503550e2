//! What a lane's datagrams carried, by number, until feedback covers them: what is lost comes out, to be sent again in new
//! datagrams. Knows references, no bytes.

use std::collections::VecDeque;

use crate::base::limits::LANE_SENT_MAX;
use crate::base::seq::{ExtSeq, Seq};
use crate::base::time::{Duration, Instant};
use crate::transport::lane::item::LaneQueued;
use crate::transport::lane::size::LaneSize;
use crate::wire::transport_cc::{Status, TransportCc};

/// A datagram that feedback has not covered after this long never will be.
const UNDER_WAY: Duration = Duration::from_secs(2);
/// As many later arrivals show a loss, as does time: a datagram may have been overtaken.
const OVERTAKEN_BY: u64 = 3;
const REORDERED_BY: Duration = Duration::from_millis(4);
/// The last of what was sent is asked about so often, so long after it.
const TAIL_PINGS_MAX: u8 = 3;
const TAIL_WAIT_MIN: Duration = Duration::from_millis(20);
const TAIL_WAIT_MORE: Duration = Duration::from_millis(15);

#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Instant,
    bytes: u16,
    items: u16,
    settled: bool,
    /// Feedback named it, and it had not come.
    missing: bool,
}

#[derive(Clone, Copy, Debug)]
struct Tail {
    number: u64,
    due: Instant,
    pings: u8,
}

#[derive(Default, Debug)]
pub(super) struct LaneSent {
    /// The number of the first entry.
    first: u64,
    entries: VecDeque<Sent>,
    /// Of all entries, one behind the other.
    items: VecDeque<LaneQueued>,
    highest_arrived: Option<u64>,
    tail: Option<Tail>,
    pub(super) lost: u64,
}

fn tail_wait(rtt: Duration) -> Duration {
    (rtt * 3 / 2).max(TAIL_WAIT_MIN) + TAIL_WAIT_MORE
}

impl LaneSent {
    /// Notes the datagram `number` with what was put into it by [`LaneSent::carries`] since the last one.
    pub(super) fn on_sent(&mut self, now: Instant, number: u64, bytes: usize, items: u16, rtt: Duration) {
        if self.entries.is_empty() {
            self.first = number;
        }
        if self.entries.len() >= LANE_SENT_MAX {
            self.forget_first();
        }
        self.entries.push_back(Sent { at: now, bytes: bytes as u16, items, settled: false, missing: false });
        if items > 0 {
            self.tail = Some(Tail { number, due: now + tail_wait(rtt), pings: 0 });
        }
    }

    pub(super) fn carries(&mut self, item: LaneQueued) {
        self.items.push_back(item);
    }

    /// When to ask by a ping whether the last of what was sent has come.
    pub(super) fn tail_due(&self) -> Option<Instant> {
        self.tail.map(|tail| tail.due)
    }

    /// True: a ping is due.
    pub(super) fn asks(&mut self, now: Instant, rtt: Duration) -> bool {
        let Some(tail) = self.tail.as_mut().filter(|tail| tail.due <= now) else { return false };
        (tail.pings, tail.due) = (tail.pings + 1, now + tail_wait(rtt));
        self.tail.take_if(|tail| tail.pings >= TAIL_PINGS_MAX);
        true
    }

    /// Takes feedback, and gives what is lost to `lost`. The round trip of the highest number that came first with it;
    /// `held` is the time that the other end kept it.
    pub(super) fn on_feedback(
        &mut self,
        now: Instant,
        arrivals: &TransportCc<'_>,
        (held, rtt): (Duration, Duration),
        size: &mut LaneSize,
        lost: &mut Vec<LaneQueued>,
    ) -> Option<Duration> {
        let end = ExtSeq(self.first + self.entries.len() as u64);
        let mut sample = None;
        for status in arrivals.statuses() {
            match status {
                Status::Arrived { seq, .. } => {
                    let number = end.nearest(Seq(seq)).0;
                    let Some(entry) = self.entry(number).filter(|entry| !entry.settled) else { continue };
                    entry.settled = true;
                    size.on_arrived(entry.bytes.into());
                    let at = entry.at;
                    if self.highest_arrived.is_none_or(|highest| number > highest) {
                        self.highest_arrived = Some(number);
                        sample = Some(now.since(at).saturating_sub(held));
                    }
                }
                Status::Missing { first, count } => {
                    let first = end.nearest(Seq(first)).0;
                    for number in (first..first + u64::from(count)).take_while(|number| *number < end.0) {
                        if let Some(entry) = self.entry(number) {
                            entry.missing = true;
                        }
                    }
                }
            }
        }
        self.tail.take_if(|tail| self.highest_arrived.is_some_and(|highest| highest >= tail.number));
        self.sweep(now, rtt, size, lost);
        sample
    }

    fn entry(&mut self, number: u64) -> Option<&mut Sent> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(at)
    }

    fn sweep(&mut self, now: Instant, rtt: Duration, size: &mut LaneSize, lost: &mut Vec<LaneQueued>) {
        let Some(highest) = self.highest_arrived else { return };
        let mut from = 0;
        for (number, entry) in (self.first..highest).zip(&mut self.entries) {
            let to = from + usize::from(entry.items);
            let overtaken = highest - number >= OVERTAKEN_BY || now.since(entry.at) >= rtt * 9 / 8 + REORDERED_BY;
            if !entry.settled && entry.missing && overtaken {
                entry.settled = true;
                self.lost += 1;
                size.on_lost(now, entry.bytes.into());
                lost.extend(self.items.range(from..to));
            }
            from = to;
        }
        while self.entries.front().is_some_and(|entry| entry.settled || now.since(entry.at) > UNDER_WAY) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.first += 1;
            self.items.drain(..usize::from(entry.items).min(self.items.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::lane::item::LaneItem;
    use crate::wire::lane::{EncodingEpoch, LaneFeedback, LaneHandle, LaneRecord, LaneRecords, LaneSkip, RecordWriter};

    const RTT: Duration = Duration::from_millis(40);

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn item(number: u32) -> LaneQueued {
        let skip = LaneSkip { handle: LaneHandle::default(), at: EncodingEpoch(0), first: number, last: number };
        LaneQueued { item: LaneItem::Skip(skip), resent: 0, since: at(0), audio: false }
    }

    fn send(sent: &mut LaneSent, millis: u64, number: u64) {
        sent.carries(item(number as u32));
        sent.carries(item(number as u32));
        sent.on_sent(at(millis), number, 1_232, 2, RTT);
    }

    /// The numbers that are lost by feedback about these.
    fn feedback(sent: &mut LaneSent, millis: u64, base: u16, came: &[bool]) -> (Vec<u32>, Option<Duration>) {
        let mut bytes = [0; 1_232];
        let mut out = RecordWriter::new(&mut bytes);
        let told = LaneFeedback { orders_before: 0, bus_up: true, children: 0, held: 0, arrivals: None };
        let packets = (0..).zip(came).map(|(nth, came)| (base.wrapping_add(nth), came.then_some(1_000_000)));
        assert!(told.write(base, packets, &mut Vec::new(), &mut out));
        let Some(Ok(LaneRecord::Feedback(told))) = LaneRecords(&bytes).next() else { panic!() };
        let (mut lost, held) = (Vec::new(), Duration::from_millis(3));
        let mut size = LaneSize::new(at(0));
        let rtt = sent.on_feedback(at(millis), &told.arrivals.unwrap(), (held, RTT), &mut size, &mut lost);
        let number = |queued: &LaneQueued| match queued.item {
            LaneItem::Skip(skip) => skip.first,
            LaneItem::Packet(_) => panic!(),
        };
        (lost.iter().map(number).collect(), rtt)
    }

    #[test]
    fn what_three_later_ones_overtook_is_lost_and_comes_out_once() {
        let mut sent = LaneSent::default();
        (65_534..65_544).for_each(|number| send(&mut sent, 0, number));
        assert_eq!(
            feedback(&mut sent, 20, 65_534, &[true, false, true, true]),
            (vec![], Some(Duration::from_millis(17)))
        );
        let told = [true, false, true, true, true, false];
        assert_eq!(feedback(&mut sent, 21, 65_534, &told).0, [65_535, 65_535]);
        assert_eq!(feedback(&mut sent, 22, 65_534, &told).0, [0; 0]);
        assert_eq!((sent.entries.len(), sent.items.len(), sent.lost), (5, 10, 1));
        // Time shows it, too.
        assert_eq!(feedback(&mut sent, 70, 3, &[false, true]).0, [65_539, 65_539]);
    }

    #[test]
    fn what_was_never_told_of_is_not_lost_and_is_forgotten_in_time() {
        let mut sent = LaneSent::default();
        (0..10).for_each(|number| send(&mut sent, number, number));
        assert_eq!(feedback(&mut sent, 50, 5, &[true; 5]).0, [0; 0], "feedback about the first five was lost");
        assert_eq!(sent.entries.len(), 10);
        send(&mut sent, 2_100, 10);
        feedback(&mut sent, 2_150, 10, &[true]);
        assert!(sent.entries.is_empty() && sent.items.is_empty());
    }

    #[test]
    fn the_last_one_is_asked_about_until_it_is_covered() {
        let mut sent = LaneSent::default();
        send(&mut sent, 0, 0);
        assert_eq!(sent.tail_due(), Some(at(75)));
        assert!(!sent.asks(at(74), RTT) && sent.asks(at(75), RTT));
        sent.on_sent(at(75), 1, 40, 0, RTT);
        assert_eq!(feedback(&mut sent, 120, 0, &[true]).0, [0; 0]);
        assert_eq!(sent.tail_due(), None);
        send(&mut sent, 200, 2);
        let asked = (200..2_000).filter(|millis| sent.asks(at(*millis), RTT)).count();
        assert_eq!((asked, sent.tail_due()), (3, None));
    }

    #[test]
    fn it_keeps_so_many_and_no_more() {
        let mut sent = LaneSent::default();
        (0..20_000).for_each(|number| send(&mut sent, 0, number));
        assert_eq!(
            (sent.entries.len(), sent.items.len(), sent.first),
            (LANE_SENT_MAX, 2 * LANE_SENT_MAX, 20_000 - 8_192)
        );
    }
}
