//! How much may be resent towards a client whose bandwidth is short: what the streams leave of it, and a part of it in any
//! case. A queue that is full loses much, and who resends all of it keeps it full: then sound is lost, which nobody
//! resends.

use crate::base::time::{Duration, Instant};
use crate::base::units::{Bitrate, DataSize};

/// Of the target in percent, where the streams leave less: repairs a path that loses a tenth.
const SHARE: u64 = 12;
/// What a queue lost that overflowed may be resent as a whole: so much of the target, and some packets at least.
const BURST: Duration = Duration::from_millis(500);
const BURST_MIN: DataSize = DataSize(6_000);
/// Over less time a few packets tell no rate.
const SPAN_MIN: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub struct Repairs {
    rate: Bitrate,
    /// What may gather while nothing is asked for.
    burst: DataSize,
    spent: u64,
    at: Instant,
    /// Since it was last set.
    resent: u64,
    set_at: Instant,
}

impl Repairs {
    pub fn new(now: Instant, target: Bitrate, given: Bitrate) -> Repairs {
        let mut repairs = Repairs { rate: Bitrate(0), burst: DataSize(0), spent: 0, at: now, resent: 0, set_at: now };
        repairs.set(now, target, given);
        repairs
    }

    /// Of `target` the streams take `given`.
    pub fn set(&mut self, now: Instant, target: Bitrate, given: Bitrate) {
        self.earn(now);
        (self.resent, self.set_at) = (0, now);
        self.burst = (target * BURST).max(BURST_MIN);
        self.rate = Bitrate(target.bps().saturating_sub(given.bps()).max(target.bps() / 100 * SHARE));
    }

    /// What repairs took since they were last set.
    pub fn rate(&self, now: Instant) -> Bitrate {
        Bitrate((u128::from(self.resent) * 8_000_000_000 / now.since(self.set_at).max(SPAN_MIN).as_nanos()) as u64)
    }

    fn earn(&mut self, now: Instant) {
        self.spent = self.spent.saturating_sub((self.rate * now.since(self.at)).bytes());
        self.at = now;
    }

    /// True when so many bytes may be resent now, and then counts them.
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

    /// What of a flood of requests is answered in two seconds, in kbit/s, when what had gathered is used up.
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
