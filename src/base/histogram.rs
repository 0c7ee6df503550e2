//! A histogram of durations in fixed memory: 32 buckets to each doubling, so that a percentile is right within 3 %.
//! Recording is an addition and allocates nothing: cheap enough for each packet.

use crate::base::time::{Duration, Instant};

/// Buckets in each power of two.
const STEPS_BITS: u32 = 5;
const STEPS: usize = 1 << STEPS_BITS;
const BUCKETS: usize = (u64::BITS - STEPS_BITS) as usize * STEPS + STEPS;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    sum: u128,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: vec![0; BUCKETS].into(), count: 0, sum: 0, max: 0 }
    }
}

/// Below [`STEPS`] each value has its bucket; above, the highest bits choose it.
fn bucket(nanos: u64) -> usize {
    let shift = (u64::BITS - nanos.leading_zeros()).saturating_sub(STEPS_BITS + 1);
    shift as usize * STEPS + (nanos >> shift) as usize
}

/// The middle of a bucket.
fn middle(bucket: usize) -> u64 {
    let shift = (bucket / STEPS).saturating_sub(1);
    let low = ((bucket - shift * STEPS) as u64) << shift;
    low + (1 << shift) / 2
}

fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

impl Histogram {
    /// `times` measurements of the same length.
    pub fn record(&mut self, length: Duration, times: u64) {
        let nanos = nanos(length);
        self.buckets[bucket(nanos)] += times;
        self.count += times;
        self.sum += u128::from(nanos) * u128::from(times);
        self.max = self.max.max(nanos);
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn sum(&self) -> Duration {
        Duration::from_nanos(u64::try_from(self.sum).unwrap_or(u64::MAX))
    }

    pub fn max(&self) -> Option<Duration> {
        (self.count > 0).then(|| Duration::from_nanos(self.max))
    }

    /// How many were at most `bound`, to the width of a bucket.
    pub fn at_most(&self, bound: Duration) -> u64 {
        self.buckets[..=bucket(nanos(bound))].iter().sum()
    }

    /// The value that `share` (0 to 1) of all do not exceed; None when nothing was recorded.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let wanted = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        let reached = self.buckets.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(Duration::from_nanos(middle(reached).min(self.max)))
    }

    fn add(&mut self, other: &Histogram) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }

    fn clear(&mut self) {
        self.buckets.fill(0);
        (self.count, self.sum, self.max) = (0, 0, 0);
    }
}

/// A histogram of everything, and one of the last while: an operator asks for the present.
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
        std::mem::swap(&mut self.previous, &mut self.current);
        self.current.clear();
        if age >= 2 * Self::WINDOW {
            self.previous.clear();
        }
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_bucket_near_it() {
        let mut last = 0;
        for power in 0..64 {
            for value in [1u64 << power, (1 << power) + (1 << power) / 3, (1 << power) - 1] {
                let bucket = bucket(value);
                assert!(bucket < BUCKETS);
                let error = middle(bucket).abs_diff(value) as f64 / value.max(1) as f64;
                assert!(error <= 1.0 / STEPS as f64, "{value}: {error}");
            }
            assert!(bucket(1 << power) > last || power == 0);
            last = bucket(1 << power);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert!((0..64).all(|value| middle(bucket(value)) == value), "small ones are exact");
    }

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.quantile(0.5), histogram.max()), (None, None));
        (1..=1_000).for_each(|micros| histogram.record(Duration::from_micros(micros), 2));
        for (share, right) in [(0.5, 500_000.0), (0.9, 900_000.0), (0.99, 990_000.0), (0.999, 999_000.0)] {
            let found = histogram.quantile(share).unwrap().as_nanos() as f64;
            assert!((found / right - 1.0f64).abs() < 0.035, "{share}: {found}");
        }
        assert_eq!(histogram.max(), Some(Duration::from_millis(1)));
        assert_eq!(histogram.quantile(1.0), Some(Duration::from_millis(1)), "never beyond the largest");
        assert_eq!((histogram.count(), histogram.sum()), (2_000, Duration::from_micros(1_001_000)));
        assert_eq!((histogram.at_most(Duration::ZERO), histogram.at_most(Duration::from_secs(1))), (0, 2_000));
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
