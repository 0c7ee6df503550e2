//! The pacer: a leaky bucket over the target, so that a keyframe does not fill the queues on the way in one burst. It
//! lets several packets go at a time, or runs would fall apart. It holds no packets; `transport::egress` does.

use crate::base::time::{Duration, Instant};
use crate::base::units::Bitrate;

/// The pace in percent of the target: a keyframe leaves quickly without being a burst (libwebrtc's pacing factor).
const FACTOR: u64 = 250;
/// The target is just below what the path carries: what leaves faster waits, or is lost, on the way.
const FACTOR_CAREFUL: u64 = 125;
/// The burst that leaves at once: this time of the pace, and two packets at least.
const QUANTUM: Duration = Duration::from_millis(5);
const QUANTUM_BYTES_MIN: i64 = 2_400;
/// The longest wait of a packet, about, whatever the pace.
const WAIT_MAX_MS: u64 = 300;
const WAIT_MAX_CAREFUL_MS: u64 = 600;
const PACKET_BYTES: u64 = 1_100;

/// The target, and how far beyond it packets may leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    Usual(Bitrate),
    /// The path overflowed a moment ago.
    Careful(Bitrate),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pacer {
    pace: Bitrate,
    wait_max_ms: u64,
    /// Bytes sent beyond the pace; below zero the burst that may leave at once.
    debt: i64,
    at: Instant,
    /// The most packets that waited since the queue was last empty.
    crowd: usize,
}

impl Pacer {
    pub fn new(now: Instant, pace: Pace) -> Pacer {
        let mut pacer = Pacer { pace: Bitrate(0), wait_max_ms: WAIT_MAX_MS, debt: 0, at: now, crowd: 0 };
        pacer.set_pace(pace);
        pacer.debt = -pacer.quantum();
        pacer
    }

    /// The time in which the present queue leaves evenly, about.
    pub fn over(now: Instant, bytes: usize, span: Duration) -> Pacer {
        let pace = (bytes as u128 * 8_000_000_000 / span.max(QUANTUM).as_nanos()).max(8_000);
        let pace = Bitrate(u64::try_from(pace).unwrap_or(u64::MAX));
        let mut pacer = Pacer { pace, wait_max_ms: WAIT_MAX_MS, debt: 0, at: now, crowd: 0 };
        pacer.debt = -pacer.quantum();
        pacer
    }

    pub fn set_pace(&mut self, pace: Pace) {
        let (target, factor, wait_max_ms) = match pace {
            Pace::Usual(target) => (target, FACTOR, WAIT_MAX_MS),
            Pace::Careful(target) => (target, FACTOR_CAREFUL, WAIT_MAX_CAREFUL_MS),
        };
        self.pace = Bitrate((target.bps() / 100 * factor).max(8_000));
        self.wait_max_ms = wait_max_ms;
    }

    fn quantum(&self) -> i64 {
        bytes(self.pace, QUANTUM).max(QUANTUM_BYTES_MIN)
    }

    /// Fast enough that the last packet of a long queue leaves in time.
    fn hurried(&self) -> Bitrate {
        Bitrate(self.pace.bps().max(self.crowd as u64 * PACKET_BYTES * 8_000 / self.wait_max_ms))
    }

    /// Advances to `now` with `waiting` packets in the queue.
    pub fn advance(&mut self, now: Instant, waiting: usize) {
        let waited = self.crowd > 0;
        self.crowd = if waiting == 0 { 0 } else { self.crowd.max(waiting) };
        let earned = bytes(self.hurried(), now.since(self.at));
        // A pacer that is asked seldom, because its shard is busy, keeps up the pace; an empty queue saves nothing up.
        let saved = if waited { earned.max(self.quantum()) } else { self.quantum() };
        self.debt = self.debt.saturating_sub(earned).max(-saved);
        self.at = now;
    }

    pub fn may_send(&self) -> bool {
        self.debt < 0
    }

    /// Counts a packet, also one that is not paced.
    pub fn sent(&mut self, bytes: usize) {
        // Audio cannot run up a debt that video never works off.
        self.debt = self.debt.saturating_add(bytes as i64).min(self.debt.max(self.quantum() * 4));
    }

    /// Holds paced packets for this long, so that a queue on the way drains.
    pub fn rest(&mut self, span: Duration) {
        self.debt = self.debt.max(bytes(self.pace, span));
    }

    /// When the next few packets may leave.
    pub fn next_at(&self) -> Instant {
        let missing = (self.debt + self.quantum()).max(0) as u128;
        let pace = u128::from(self.hurried().bps().max(1));
        self.at + Duration::from_nanos(u64::try_from(missing * 8_000_000_000 / pace).unwrap_or(u64::MAX))
    }
}

fn bytes(rate: Bitrate, span: Duration) -> i64 {
    i64::try_from((rate * span).bytes()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `packets` of 1,200 bytes as fast as allowed: the number each time, and when the last one left.
    fn drain(target: Bitrate, packets: usize) -> (Vec<usize>, Duration) {
        let start = Instant::from_nanos(1_000_000_000);
        drain_with(Pacer::new(start, Pace::Usual(target)), start, packets)
    }

    fn drain_with(mut pacer: Pacer, start: Instant, packets: usize) -> (Vec<usize>, Duration) {
        let (mut now, mut left, mut runs) = (start, packets, Vec::new());
        loop {
            pacer.advance(now, left);
            let mut run = 0;
            while left > 0 && pacer.may_send() {
                pacer.sent(1_200);
                (left, run) = (left - 1, run + 1);
            }
            runs.push(run);
            if left == 0 {
                return (runs, now.since(start));
            }
            now = pacer.next_at();
        }
    }

    #[test]
    fn a_keyframe_is_spread_at_two_and_a_half_times_the_target_in_runs() {
        // 40 packets at 2.5 Mbit/s are 154 ms.
        let (runs, took) = drain(Bitrate::mbps(1), 40);
        assert!((140..160).contains(&took.as_millis()), "{took:?}");
        assert!(runs.iter().rev().skip(1).all(|run| *run >= 2), "{runs:?}");
        let (runs, took) = drain(Bitrate::mbps(20), 200);
        assert!(took.as_millis() <= 40 && runs.iter().rev().skip(1).all(|run| *run >= 20), "{took:?} {runs:?}");
    }

    #[test]
    fn after_an_overflow_a_keyframe_leaves_hardly_faster_than_the_path_carries_it() {
        let start = Instant::from_nanos(1_000_000_000);
        // 10 packets at 1.25 of 300 kbit/s are 256 ms, less the first burst.
        let (_, took) = drain_with(Pacer::new(start, Pace::Careful(Bitrate::kbps(300))), start, 10);
        assert!((180..=256).contains(&took.as_millis()), "{took:?}");
        let (_, took) = drain_with(Pacer::new(start, Pace::Careful(Bitrate::kbps(30))), start, 200);
        assert!(took.as_millis() < 800, "nothing waits for long here either: {took:?}");
    }

    #[test]
    fn while_it_rests_nothing_leaves_and_what_does_not_ask_shortens_nothing() {
        let start = Instant::from_nanos(1_000_000_000);
        let mut pacer = Pacer::new(start, Pace::Usual(Bitrate::kbps(250)));
        pacer.rest(Duration::from_millis(200));
        for millis in (0..200).step_by(20) {
            pacer.advance(start + Duration::from_millis(millis), 1);
            assert!(!pacer.may_send(), "after {millis} ms");
            pacer.sent(100);
        }
        let next = pacer.next_at().since(start).as_millis();
        assert!((200..300).contains(&next), "{next}");
    }

    #[test]
    fn nothing_waits_for_long_however_slow_the_path() {
        let (_, took) = drain(Bitrate::kbps(30), 200);
        assert!(took.as_millis() < 400, "{took:?}");
    }

    #[test]
    fn what_is_replayed_leaves_evenly_in_its_time() {
        let span = Duration::from_millis(60);
        let start = Instant::from_nanos(1_000_000_000);
        let (runs, took) = drain_with(Pacer::over(start, 120 * 1_200, span), start, 120);
        assert!((50..=60).contains(&took.as_millis()), "{took:?}");
        assert!(runs.iter().all(|run| *run <= 20), "{runs:?}");
    }

    #[test]
    fn who_is_asked_seldom_keeps_up_the_pace_and_who_was_idle_does_not_burst() {
        let start = Instant::from_nanos(1_000_000_000);
        let mut pacer = Pacer::new(start, Pace::Usual(Bitrate::kbps(8_000)));
        let mut sent_by = |millis: u64| {
            pacer.advance(start + Duration::from_millis(millis), 1_000);
            let mut bytes = 0;
            while pacer.may_send() {
                pacer.sent(1_000);
                bytes += 1_000;
            }
            bytes
        };
        let rounds: Vec<_> = (1..=10).map(|round| sent_by(round * 50)).collect();
        assert!(rounds[0] <= 14_000, "5 ms at 20 Mbit/s: {rounds:?}");
        assert!(rounds[1..].iter().all(|bytes| *bytes >= 120_000), "50 ms: {rounds:?}");
    }

    #[test]
    fn what_does_not_ask_counts_too_but_not_for_ever() {
        let now = Instant::from_nanos(1);
        let mut pacer = Pacer::new(now, Pace::Usual(Bitrate::kbps(400)));
        for _ in 0..1_000 {
            pacer.sent(200);
        }
        assert!(!pacer.may_send());
        assert!(pacer.next_at().since(now) < Duration::from_millis(150));
    }
}
