//! The growth rate of a counter, sampled about once a second: the counting itself costs nothing more. A rate that must
//! be followed within milliseconds needs a meter of its own. `shard` samples when it writes reports and before it
//! answers for statistics.

use crate::base::time::{Duration, Instant};

/// A sample sooner than this after the one before changes nothing: a reader who asks often sees no noise.
const SPAN_MIN: Duration = Duration::from_millis(800);

#[derive(Clone, Copy, Debug, Default)]
pub struct Sampled {
    last: Option<(Instant, u64)>,
    per_second: f64,
}

impl Sampled {
    /// `count` is the counter at `now`.
    pub fn look(&mut self, now: Instant, count: u64) {
        match self.last {
            None => self.last = Some((now, count)),
            Some((at, before)) if now.since(at) >= SPAN_MIN => {
                self.per_second = count.saturating_sub(before) as f64 / now.since(at).as_secs_f64();
                self.last = Some((now, count));
            }
            Some(_) => {}
        }
    }

    /// Zero before two samples.
    pub fn per_second(&self) -> f64 {
        self.per_second
    }

    /// The rate of a counter of bytes.
    pub fn bits_per_second(&self) -> u64 {
        (self.per_second * 8.0).round() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_about_the_last_second() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let mut sampled = Sampled::default();
        sampled.look(at(0), 1_000);
        assert_eq!(sampled.per_second(), 0.0);
        sampled.look(at(500), 9_000);
        assert_eq!(sampled.per_second(), 0.0, "too soon to tell");
        sampled.look(at(1_000), 3_000);
        assert_eq!((sampled.per_second(), sampled.bits_per_second()), (2_000.0, 16_000));
        sampled.look(at(1_100), 50_000);
        assert_eq!(sampled.per_second(), 2_000.0);
        sampled.look(at(3_000), 3_000);
        assert_eq!(sampled.per_second(), 0.0);
        sampled.look(at(9_000), 10);
        assert_eq!(sampled.per_second(), 0.0, "a counter that begins anew");
    }
}
