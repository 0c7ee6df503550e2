//! The budget of retransmissions towards a client whose bandwidth is short: what the streams leave, and a part of the
//! target in any case. A full queue loses much, and resending all of it keeps the queue full: then audio is lost, which
//! is never resent.

use crate::base::time::{Duration, Instant};
use crate::base::units::{Bitrate, DataSize};

/// The budget in percent of the target where the streams leave less: it repairs a path that loses a tenth.
const SHARE: u64 = 12;
/// An overflowed queue's losses may be resent as a whole: this part of the target, and some packets at least.
const BURST: Duration = Duration::from_millis(500);
const BURST_MIN: DataSize = DataSize(6_000);
/// A shorter span of few packets tells no rate.
const SPAN_MIN: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub struct Repairs {
    rate: Bitrate,
    /// The most that is saved up while nothing is requested.
    burst: DataSize,
    spent: u64,
    at: Instant,
    /// Since the budget was last set.
    resent: u64,
    set_at: Instant,
}

impl Repairs {
    pub fn new(now: Instant, target: Bitrate, given: Bitrate) -> Repairs {
        let mut repairs = Repairs { rate: Bitrate(0), burst: DataSize(0), spent: 0, at: now, resent: 0, set_at: now };
        repairs.set(now, target, given);
        repairs
    }

    /// The streams take `given` of `target`.
    pub fn set(&mut self, now: Instant, target: Bitrate, given: Bitrate) {
        self.earn(now);
        (self.resent, self.set_at) = (0, now);
        self.burst = (target * BURST).max(BURST_MIN);
        self.rate = Bitrate(target.bps().saturating_sub(given.bps()).max(target.bps() / 100 * SHARE));
    }

    /// The rate of repairs since the budget was last set.
    pub fn rate(&self, now: Instant) -> Bitrate {
        Bitrate((u128::from(self.resent) * 8_000_000_000 / now.since(self.set_at).max(SPAN_MIN).as_nanos()) as u64)
    }

    fn earn(&mut self, now: Instant) {
        self.spent = self.spent.saturating_sub((self.rate * now.since(self.at)).bytes());
        self.at = now;
    }

    /// True when this many bytes may be resent now; counts them then.
    pub fn admit(&mut self, now: Instant, bytes: usize) -> bool {
        self.earn(now);
        let fits = self.spent + bytes as u64 <= self.burst.bytes();
        if fits {
            self.spent += bytes as u64;
            self.resent += bytes as u64;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    /// The answered part of a flood of requests within two seconds, in kbit/s, when all savings are spent.
    fn resent(target: u64, given: u64) -> u64 {
        let mut repairs = Repairs::new(at(0), Bitrate::kbps(target), Bitrate::kbps(given));
        while repairs.admit(at(0), 1_000) {}
        let answered = (0..2_000).filter(|millis| repairs.admit(at(*millis), 1_000)).count() as u64;
        answered * 1_000 * 8 / 2_000
    }

    #[test]
    fn what_the_streams_leave_is_for_repairs() {
        assert!((950..=1_050).contains(&resent(2_000, 1_000)), "{}", resent(2_000, 1_000));
    }

    #[test]
    fn a_path_that_is_used_up_still_repairs_a_tenth() {
        for given in [1_000, 1_300] {
            assert!((100..=125).contains(&resent(1_000, given)), "{}", resent(1_000, given));
        }
    }

    #[test]
    fn what_was_lost_at_once_is_resent_at_once_and_counts_as_sent() {
        let mut repairs = Repairs::new(at(0), Bitrate::kbps(30), Bitrate::kbps(30));
        assert!((0..5).all(|_| repairs.admit(at(0), 1_200)), "a few packets, however little is carried");
        assert!(!repairs.admit(at(0), 1_200));
        assert_eq!(repairs.rate(at(1_000)), Bitrate::kbps(48));
        repairs.set(at(1_000), Bitrate::kbps(1_000), Bitrate::kbps(900));
        assert_eq!(repairs.rate(at(2_000)), Bitrate(0));
        assert!((0..40).all(|_| repairs.admit(at(2_000), 1_200)), "half a second of a wider path");
    }
}
