//! The arrival times of a publisher's packets by transport-wide sequence number: the receiving side of transport-cc
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01). The log decides what a feedback message covers and when it is
//! due; `wire` writes it. One per publishing transport; RTX and padding count like any packet.

use crate::base::limits::{ARRIVALS_MAX, FEEDBACK_PACKETS_MAX};
use crate::base::seq::{ExtSeq, Seq};
use crate::base::time::{Duration, Instant};

const INTERVAL_START: Duration = Duration::from_millis(100);
const INTERVAL_MIN: Duration = Duration::from_millis(50);
/// The interval between messages of the greatest length.
const INTERVAL_FULL: Duration = Duration::from_millis(5);
const INTERVAL_MAX: Duration = Duration::from_millis(250);
/// The packets that a message should cover, about: often enough to steer by, seldom enough to be cheap.
const PACKETS_PER_FEEDBACK: u128 = 10;

const MISSING: u64 = u64::MAX;

/// The content of one feedback message. The first packet in it may be missing; at least one is not.
#[derive(Clone, Copy, Debug)]
pub struct FeedbackWindow<'a> {
    pub base: u16,
    /// Arrival of the first packet that came.
    pub reference_micros: u64,
    arrivals: &'a [u64; ARRIVALS_MAX],
    from: ExtSeq,
    to: ExtSeq,
}

impl<'a> FeedbackWindow<'a> {
    /// Sequence numbers without a gap, each with its arrival in µs of [`Instant`], or None when it is missing.
    pub fn packets(&self) -> impl Iterator<Item = (u16, Option<u64>)> + Clone + use<'a> {
        let arrivals = self.arrivals;
        (self.from.0..self.to.0).map(move |ext| {
            let arrival = arrivals[ext as usize % ARRIVALS_MAX];
            (ext as u16, (arrival != MISSING).then_some(arrival))
        })
    }

    pub fn len(&self) -> usize {
        (self.to.0 - self.from.0) as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[derive(Debug)]
struct Log {
    arrivals: Box<[u64; ARRIVALS_MAX]>,
    highest: ExtSeq,
    /// The first number that is not reported yet; one more than `highest` when all are.
    unreported: ExtSeq,
}

#[derive(Debug)]
pub struct ArrivalLog {
    /// None before the first packet, whose arrival allocates it.
    log: Option<Log>,
    due: Option<Instant>,
    interval: Duration,
    reported_at: Option<Instant>,
    arrived_since: u32,
}

impl Default for ArrivalLog {
    fn default() -> ArrivalLog {
        ArrivalLog { log: None, due: None, interval: INTERVAL_START, reported_at: None, arrived_since: 0 }
    }
}

impl ArrivalLog {
    pub fn new() -> ArrivalLog {
        ArrivalLog::default()
    }

    pub fn on_packet(&mut self, now: Instant, seq: u16) {
        let log = self.log.get_or_insert_with(|| Log::starting_at(ExtSeq::first(Seq(seq))));
        if !log.on_packet(now.as_micros().min(MISSING - 1), Seq(seq)) {
            return;
        }
        self.arrived_since = self.arrived_since.saturating_add(1);
        let full = log.pending() >= FEEDBACK_PACKETS_MAX as u64;
        // Never at once: late packets would be reported again and again.
        let soonest = self.reported_at.map_or(now, |reported_at| now.max(reported_at + INTERVAL_FULL));
        let at = if full { soonest } else { now + self.interval };
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.due
    }

    /// The next message that is due. Call until None: more packets than one message covers make several.
    pub fn poll(&mut self, now: Instant) -> Option<FeedbackWindow<'_>> {
        if self.due.is_none_or(|due| due > now) {
            return None;
        }
        self.due = None;
        let log = self.log.as_mut()?;
        let (from, to) = log.take()?;
        if log.pending() > 0 {
            self.due = Some(now);
        } else {
            let passed = now.since(self.reported_at.unwrap_or(now - self.interval)).as_nanos();
            let wanted = passed * PACKETS_PER_FEEDBACK / u128::from(self.arrived_since.max(1));
            let wanted = Duration::from_nanos(u64::try_from(wanted).unwrap_or(u64::MAX));
            self.interval = (self.interval + wanted.clamp(INTERVAL_MIN, INTERVAL_MAX)) / 2;
            self.reported_at = Some(now);
            self.arrived_since = 0;
        }
        let mut window = FeedbackWindow { base: from.seq().0, reference_micros: 0, arrivals: &log.arrivals, from, to };
        window.reference_micros = window.packets().find_map(|(_, arrival)| arrival)?;
        Some(window)
    }
}

impl Log {
    /// Starts over: `first` will be the next number.
    fn starting_at(first: ExtSeq) -> Log {
        let before = ExtSeq(first.0 - 1);
        Log { arrivals: Box::new([MISSING; ARRIVALS_MAX]), highest: before, unreported: first }
    }

    fn pending(&self) -> u64 {
        self.highest.0 + 1 - self.unreported.0
    }

    /// False for a packet that adds nothing.
    fn on_packet(&mut self, micros: u64, seq: Seq) -> bool {
        let mut ext = self.highest.nearest(seq);
        let ahead = ext.distance_from(self.highest);
        if ahead.unsigned_abs() >= ARRIVALS_MAX as u64 {
            // The sender restarted its numbering, or more was lost than a message could cover.
            ext = ExtSeq::first(seq);
            self.arrivals.fill(MISSING);
            self.unreported = ext;
            self.highest = ext;
        } else if ahead > 0 {
            for missing in self.highest.0 + 1..ext.0 {
                self.arrivals[missing as usize % ARRIVALS_MAX] = MISSING;
            }
            self.highest = ext;
            // Packets that left the log can no longer be reported.
            self.unreported = self.unreported.max(ExtSeq(ext.0 + 1 - ARRIVALS_MAX as u64));
        } else if self.arrivals[ext.0 as usize % ARRIVALS_MAX] != MISSING {
            return false;
        } else {
            // A late packet is reported again from here on: most senders take back a loss.
            self.unreported = self.unreported.min(ext);
        }
        self.arrivals[ext.0 as usize % ARRIVALS_MAX] = micros;
        true
    }

    /// The range of numbers of the next message, the end not included.
    fn take(&mut self) -> Option<(ExtSeq, ExtSeq)> {
        if self.pending() == 0 {
            return None;
        }
        // A message needs one arrival at least; the newest packet always is one.
        while self.pending() > FEEDBACK_PACKETS_MAX as u64
            && self.arrivals[self.unreported.0 as usize % ARRIVALS_MAX] == MISSING
        {
            self.unreported = self.unreported.next();
        }
        let from = self.unreported;
        let to = ExtSeq(from.0 + self.pending().min(FEEDBACK_PACKETS_MAX as u64));
        self.unreported = to;
        Some((from, to))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn told(log: &mut ArrivalLog, millis: u64) -> Vec<(u16, Option<u64>)> {
        log.poll(at(millis)).map(|window| window.packets().collect()).unwrap_or_default()
    }

    #[test]
    fn tells_what_came_and_what_did_not_over_the_wrap() {
        let mut log = ArrivalLog::new();
        assert_eq!(log.next_deadline(), None);
        log.on_packet(at(10), 65_535);
        log.on_packet(at(11), 1);
        log.on_packet(at(12), 1);
        assert_eq!(log.next_deadline(), Some(at(110)));
        assert!(log.poll(at(109)).is_none());
        let window = log.poll(at(110)).unwrap();
        assert_eq!((window.base, window.reference_micros, window.len()), (65_535, 10_000, 3));
        assert_eq!(window.packets().collect::<Vec<_>>(), [(65_535, Some(10_000)), (0, None), (1, Some(11_000))]);
        assert!(log.poll(at(900)).is_none() && log.next_deadline().is_none());
        log.on_packet(at(120), 0);
        assert_eq!(told(&mut log, 500), [(0, Some(120_000)), (1, Some(11_000))], "a late one is told again");
        log.on_packet(at(510), 3);
        assert_eq!(told(&mut log, 900), [(2, None), (3, Some(510_000))]);
    }

    #[test]
    fn the_interval_follows_the_load() {
        for (gap_micros, least, most) in [(1_000, 50, 55), (10_000, 85, 115), (100_000, 240, 251)] {
            let mut log = ArrivalLog::new();
            let (mut messages, mut seq) = (0, 0u16);
            let end = 20_000_000;
            for micros in (0..end).step_by(gap_micros) {
                let now = Instant::from_nanos(micros as u64 * 1_000);
                while log.next_deadline().is_some_and(|due| due <= now) {
                    messages += usize::from(log.poll(now).is_some());
                }
                log.on_packet(now, seq);
                seq = seq.wrapping_add(1);
            }
            assert!(messages > 0 && log.interval >= INTERVAL_MIN && log.interval <= INTERVAL_MAX);
            let interval = log.interval.as_millis();
            assert!((least..=most).contains(&interval), "{gap_micros} µs apart: every {interval} ms");
        }
    }

    #[test]
    fn much_at_once_is_told_in_several_messages() {
        let mut log = ArrivalLog::new();
        for seq in 0..1_000 {
            log.on_packet(at(5), seq);
        }
        assert_eq!(log.next_deadline(), Some(at(5)));
        let first = told(&mut log, 5);
        let second = told(&mut log, 5);
        assert_eq!((first.len(), second.len(), second[0].0), (512, 488, 512));
        assert!(log.poll(at(5)).is_none());
        // A loss longer than a message still reports an arrival.
        log.on_packet(at(6), 1_999);
        let window = log.poll(at(500)).unwrap();
        assert_eq!((window.len(), window.reference_micros), (512, 6_000));
    }

    #[test]
    fn agrees_with_a_model_over_loss_reorder_and_jumps() {
        for seed in 0..20 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut log = ArrivalLog::new();
            let mut next: u16 = rng.random();
            let mut arrived: BTreeMap<u16, u64> = BTreeMap::new();
            let mut untold: BTreeMap<u16, u64> = BTreeMap::new();
            for n in 0..30_000u64 {
                let now = Instant::from_nanos(n * 700_000);
                let seq = match rng.random_range(0..40) {
                    0 => next.wrapping_sub(rng.random_range(1..60)),
                    1 => next.wrapping_add(rng.random_range(1..60)),
                    2 if rng.random_range(0..100) == 0 => {
                        // A number far away forgets all that was known.
                        arrived.clear();
                        untold.clear();
                        next.wrapping_add(rng.random_range(5_000..30_000))
                    }
                    _ => next,
                };
                if Seq(seq).ahead_of(Seq(next)) >= 0 {
                    next = seq.wrapping_add(1);
                }
                if n % 1_000 == 0 {
                    arrived.retain(|old, _| Seq(next).ahead_of(Seq(*old)) <= 1_000);
                }
                arrived.entry(seq).or_insert_with(|| {
                    untold.insert(seq, now.as_micros());
                    now.as_micros()
                });
                log.on_packet(now, seq);
                while let Some(window) = log.poll(now) {
                    assert!(window.len() <= FEEDBACK_PACKETS_MAX);
                    let mut expected = window.base;
                    for (seq, arrival) in window.packets() {
                        assert_eq!(seq, expected);
                        expected = seq.wrapping_add(1);
                        assert_eq!(arrival, arrived.get(&seq).copied(), "seed {seed}, {seq}");
                        untold.remove(&seq);
                    }
                    assert!(window.packets().any(|(_, arrival)| arrival == Some(window.reference_micros)));
                }
                if log.next_deadline().is_none() {
                    assert!(untold.is_empty(), "seed {seed}: {untold:?}");
                }
            }
        }
    }
}
