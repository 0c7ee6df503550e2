//! A histogram of durations in fixed memory: eight buckets to each doubling, so that a percentile is right within an
//! eighth. Recording is an addition; nothing allocates. For what is counted by the packet.

use crate::base::time::{Duration, Instant};

/// Sub-buckets of one doubling, as a power of two.
const PRECISION: u32 = 3;
const SUBS: usize = 1 << PRECISION;
/// Up to 2^34 ns, 17 s; everything longer counts as that.
const DOUBLINGS: usize = 34 - PRECISION as usize;
const BUCKETS: usize = (DOUBLINGS + 1) * SUBS;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Histogram {
    buckets: [u64; BUCKETS],
    count: u64,
    sum_nanos: u128,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: [0; BUCKETS], count: 0, sum_nanos: 0 }
    }
}

impl Histogram {
    /// `times` measurements of the same length.
    pub fn record(&mut self, length: Duration, times: u64) {
        let nanos = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanos)] += times;
        self.count += times;
        self.sum_nanos += u128::from(nanos) * u128::from(times);
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn sum(&self) -> Duration {
        Duration::from_nanos(u64::try_from(self.sum_nanos).unwrap_or(u64::MAX))
    }

    /// How many were at most `bound`, to the precision of a bucket.
    pub fn at_most(&self, bound: Duration) -> u64 {
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[..=bucket(nanos)].iter().sum()
    }

    /// The length that `permille` thousandths of the measurements do not exceed; zero without measurements.
    pub fn quantile(&self, permille: u64) -> Duration {
        let rank = (u128::from(self.count) * u128::from(permille)).div_ceil(1_000).max(1) as u64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(upper(index));
            }
        }
        Duration::ZERO
    }

    pub fn add(&mut self, other: &Histogram) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.sum_nanos += other.sum_nanos;
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < SUBS as u64 {
        return nanos as usize;
    }
    let doubling = nanos.ilog2() - PRECISION;
    let sub = (nanos >> doubling) as usize - SUBS;
    ((doubling as usize + 1) * SUBS + sub).min(BUCKETS - 1)
}

/// The longest that counts into a bucket.
fn upper(index: usize) -> u64 {
    if index < SUBS {
        return index as u64;
    }
    let doubling = index / SUBS - 1;
    (((index % SUBS + SUBS + 1) as u64) << doubling) - 1
}

/// A histogram of all there was, and one of the last while: what an operator asks for is how long it takes at present.
#[derive(Default)]
pub struct RecentHistogram {
    pub total: Histogram,
    current: Histogram,
    previous: Histogram,
    since: Instant,
}

impl RecentHistogram {
    /// `recent` covers the last one to two of these.
    pub const WINDOW: Duration = Duration::from_secs(10);

    pub fn record(&mut self, now: Instant, length: Duration, times: u64) {
        self.turn(now);
        self.total.record(length, times);
        self.current.record(length, times);
    }

    pub fn recent(&mut self, now: Instant) -> Histogram {
        self.turn(now);
        let mut both = self.previous.clone();
        both.add(&self.current);
        both
    }

    fn turn(&mut self, now: Instant) {
        let age = now.since(self.since);
        if age < Self::WINDOW {
            return;
        }
        self.previous = std::mem::take(&mut self.current);
        if age >= 2 * Self::WINDOW {
            self.previous = Histogram::default();
        }
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_has_a_bucket_whose_bounds_hold_it() {
        for nanos in (0..2_000).chain((11..34).flat_map(|bits| [1 << bits, (1 << bits) + 1, (3 << (bits - 1)) - 1])) {
            let index = bucket(nanos);
            assert!(nanos <= upper(index), "{nanos}");
            assert!(index == 0 || nanos > upper(index - 1), "{nanos}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_right_within_an_eighth() {
        let mut histogram = Histogram::default();
        for micros in 1..=1_000 {
            histogram.record(Duration::from_micros(micros), 2);
        }
        for permille in [1, 10, 500, 900, 999] {
            let exact = Duration::from_micros(permille);
            let found = histogram.quantile(permille);
            assert!(found >= exact && found <= exact * 9 / 8 + Duration::from_nanos(1), "{permille}: {found:?}");
        }
        assert_eq!(histogram.count(), 2_000);
        assert_eq!(histogram.sum(), Duration::from_micros(1_001_000));
        assert_eq!(histogram.at_most(Duration::from_secs(1)), 2_000);
        assert_eq!(histogram.at_most(Duration::ZERO), 0);
        assert_eq!(Histogram::default().quantile(500), Duration::ZERO);
    }

    #[test]
    fn what_is_recent_forgets_and_the_total_does_not() {
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        let mut histogram = RecentHistogram::default();
        histogram.record(at(1), Duration::from_millis(1), 1);
        histogram.record(at(12), Duration::from_millis(5), 1);
        assert_eq!(histogram.recent(at(13)).count(), 2);
        assert_eq!(histogram.recent(at(23)).count(), 1);
        assert_eq!(histogram.recent(at(90)).count(), 0);
        assert_eq!(histogram.total.count(), 2);
    }
}
