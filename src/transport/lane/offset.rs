//! The offset from the other end's monotonic clock to ours, with the shortest way in it: the least of arrival less
//! sending time in the last 20 s, slewed by 1 ms a second at most. It rises as well as falls, because two clocks drift by
//! 360 ms an hour and a lane lives for weeks.

use std::collections::VecDeque;

use crate::base::time::{Duration, Instant};

const STRETCH: Duration = Duration::from_secs(4);
const STRETCHES: usize = 5;
/// Steps of the offset in use, in millionths.
const SLEW_PPM: i64 = 1_000;

#[derive(Default, Debug)]
pub(super) struct LaneOffset {
    /// The last sending time, with its wraps.
    sent_us: Option<i64>,
    /// The least of each stretch, with its start; the newest last.
    least: VecDeque<(Instant, i64)>,
    used: Option<(Instant, i64)>,
}

impl LaneOffset {
    /// Takes a datagram's sending time, the low 32 bits of microseconds of the sender's clock.
    pub(super) fn on_datagram(&mut self, arrived: Instant, sent_us: u32) {
        let sent = match self.sent_us {
            None => i64::from(sent_us),
            Some(last) => last + i64::from(sent_us.wrapping_sub(last as u32) as i32),
        };
        self.sent_us = Some(self.sent_us.map_or(sent, |last| last.max(sent)));
        let offset = arrived.as_micros() as i64 - sent;
        match self.least.back_mut() {
            Some((since, least)) if arrived.since(*since) < STRETCH => *least = offset.min(*least),
            _ => {
                self.least.push_back((arrived, offset));
                if self.least.len() > STRETCHES {
                    self.least.pop_front();
                }
            }
        }
        let target = self.least.iter().map(|(_, offset)| *offset).min().unwrap_or(offset);
        let used = match self.used {
            None => target,
            Some((at, used)) => {
                let most = arrived.since(at).as_micros() as i64 * SLEW_PPM / 1_000_000;
                if most == 0 && target != used {
                    return;
                }
                used + (target - used).clamp(-most, most)
            }
        };
        self.used = Some((arrived, used));
    }

    /// The moment of our clock in microseconds, maybe before its zero, at which the other end's showed `theirs`. The
    /// sender's clock is known by its low 32 bits, and so is what comes of it: the nearest to the last datagram.
    pub(super) fn ours(&self, theirs_us: i64) -> Option<i64> {
        let ((_, offset), last) = (self.used?, self.sent_us?);
        let theirs = last + i64::from((theirs_us as u32).wrapping_sub(last as u32) as i32);
        Some(theirs + offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(micros: u64) -> Instant {
        Instant::from_nanos(micros * 1_000)
    }

    #[test]
    fn the_shortest_way_counts_and_no_jitter() {
        let mut offset = LaneOffset::default();
        let ways = [900u64, 500, 20_000, 700];
        for (n, way) in (0u64..).zip(ways) {
            // Their clock is 1 s ahead of ours, beside its wraps.
            offset.on_datagram(us(5_000_000 * (n + 1) + way), (6_000_000 + 5_000_000 * n) as u32);
        }
        // It began 400 µs too high, and the slew took that off within a second.
        assert_eq!(offset.ours(6_000_000), Some(5_000_500));
    }

    #[test]
    fn drift_is_followed_in_both_directions_and_steps_are_smoothed() {
        for ppm in [-200i64, 0, 200] {
            let mut offset = LaneOffset::default();
            let mut last = None;
            for n in 0..100_000i64 {
                let (ours, theirs) = (n * 20_000, n * 20_000 + n * 20_000 * ppm / 1_000_000);
                let jitter = (n * 7_919 % 3_000) as u64;
                offset.on_datagram(us(ours as u64 + 10_000 + jitter), (theirs + 77) as u32);
                let at = offset.ours(theirs + 77).unwrap() - ours;
                if let Some(last) = last {
                    let change: i64 = at - last;
                    assert!(change.abs() <= 20 + 4 + 3, "{change} µs at once");
                }
                last = Some(at);
            }
            // Within a window's drift of the way.
            assert!((last.unwrap() - 10_000).abs() <= 4_100, "{ppm} ppm: {last:?}");
        }
    }

    #[test]
    fn the_wrap_of_their_clock_is_nothing() {
        let mut offset = LaneOffset::default();
        let start = u64::from(u32::MAX) - 50_000;
        for n in 0..10u64 {
            offset.on_datagram(us(1_000_000 + n * 20_000), (start + n * 20_000) as u32);
        }
        assert_eq!(offset.ours((start + 9 * 20_000) as i64), Some(1_180_000));
    }
}
