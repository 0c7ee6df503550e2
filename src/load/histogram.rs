//! Counts of durations in buckets that grow with the value: 3 % wide at most, a fixed size however many are recorded.

use crate::base::time::Duration;

/// Buckets in each power of two.
const STEPS_BITS: u32 = 5;
const STEPS: usize = 1 << STEPS_BITS;
const BUCKETS: usize = (u64::BITS - STEPS_BITS) as usize * STEPS + STEPS;

#[derive(Clone)]
pub struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: vec![0; BUCKETS].into(), count: 0, max: 0 }
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

impl Histogram {
    pub fn record(&mut self, nanos: u64) {
        self.buckets[bucket(nanos)] += 1;
        self.count += 1;
        self.max = self.max.max(nanos);
    }

    pub fn clear(&mut self) {
        self.buckets.fill(0);
        (self.count, self.max) = (0, 0);
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn max(&self) -> Option<Duration> {
        (self.count > 0).then(|| Duration::from_nanos(self.max))
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
        (1..=1_000u64).for_each(|value| histogram.record(value * 1_000));
        for (share, right) in [(0.5, 500_000.0), (0.9, 900_000.0), (0.99, 990_000.0), (0.999, 999_000.0)] {
            let found = histogram.quantile(share).unwrap().as_nanos() as f64;
            assert!((found / right - 1.0f64).abs() < 0.035, "{share}: {found}");
        }
        assert_eq!(histogram.max(), Some(Duration::from_millis(1)));
        assert_eq!(histogram.quantile(1.0), Some(Duration::from_millis(1)), "never beyond the largest");
        histogram.clear();
        assert_eq!((histogram.count(), histogram.quantile(0.5)), (0, None));
    }
}
