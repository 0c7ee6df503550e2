//! The overuse detector: groups of packets sent within 5 ms, the trend of their one-way delay, and a threshold that
//! adapts itself (draft-ietf-rmcat-gcc-02 section 5, with libwebrtc's trend line in place of the Kalman filter). It
//! knows no rates; `aimd` draws the conclusion.

use std::collections::VecDeque;

use super::sent_log::Arrived;
use crate::base::prefetch::prefetch_at;
use crate::base::time::Instant;
use crate::base::units::Bitrate;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Usage {
    Normal,
    /// The queue grows: more is sent than the path carries.
    Over,
    /// The queue drains.
    Under,
}

/// Packets sent within this span are one group (section 5.2).
const GROUP_MS: f64 = 5.0;
/// Packets that arrive this close together, closer than they were sent, were held up together and are one group too.
const BURST_GAP_MS: f64 = 5.0;
const BURST_MAX_MS: f64 = 100.0;
/// A delay that changes by this much between groups is a jump of the receiver's clock.
const CLOCK_JUMP_MS: f64 = 3_000.0;

/// After so long without an arrival the delays before it say nothing of the queue now: the way was shut.
const PAUSE_MS: f64 = 500.0;

const WINDOW: usize = 20;
const SMOOTHING: f64 = 0.9;
const GAIN: f64 = 4.0;
const DELTAS_MAX: u32 = 60;
const THRESHOLD_START: f64 = 12.5;
const THRESHOLD_MIN: f64 = 6.0;
const THRESHOLD_MAX: f64 = 600.0;
/// A spike this far over the threshold does not adapt it (section 5.4).
const SPIKE: f64 = 15.0;
const GAIN_UP: f64 = 0.0087;
const GAIN_DOWN: f64 = 0.039;
/// How long the trend has to be over the threshold.
const OVERUSE_MS: f64 = 10.0;
/// A queue that has not been seen to grow for this long stands: where packets are few, the window still holds the rise.
const OVER_LASTS_MS: f64 = 1_000.0;
/// The part of the window's largest step that the rest of the window has to reach.
const GROWS_ON: f64 = 4.0;
/// The newest groups, compared with twice as many before them, and the least difference.
const NEWEST: usize = 4;
const RISE_MS: f64 = 1.0;
/// A queue is short up to this share of its longest; a span below this tells no rate.
const SHORT: f64 = 0.1;
const CARRIED_MS: f64 = 10.0;

#[derive(Clone, Copy, Debug)]
struct Group {
    first_sent: f64,
    last_sent: f64,
    first_arrived: f64,
    last_arrived: f64,
}

impl Group {
    fn of(sent: f64, arrived: f64) -> Group {
        Group { first_sent: sent, last_sent: sent, first_arrived: arrived, last_arrived: arrived }
    }

    fn takes(&self, sent: f64, arrived: f64) -> bool {
        let (sent_gap, arrived_gap) = (sent - self.last_sent, arrived - self.last_arrived);
        let bunched =
            arrived_gap < sent_gap && arrived_gap <= BURST_GAP_MS && arrived - self.first_arrived < BURST_MAX_MS;
        sent_gap == 0.0 || bunched || sent - self.first_sent <= GROUP_MS
    }
}

/// One group of the window; times in ms.
#[derive(Clone, Copy, Debug)]
struct Point {
    arrived: f64,
    /// Delay relative to the first group ever, with jitter and without.
    delay: f64,
    smoothed: f64,
    /// All bytes that arrived by then.
    received: u64,
}

#[derive(Debug)]
pub struct DelayDetector {
    group: Option<Group>,
    before: Option<Group>,
    window: VecDeque<Point>,
    /// Bytes.
    received: u64,
    accumulated: f64,
    smoothed: f64,
    deltas: u32,
    trend: f64,
    threshold: f64,
    adapted_at: Option<f64>,
    over_for: Option<f64>,
    over_count: u32,
    /// When the queue was last seen to grow.
    grew_at: f64,
    usage: Usage,
}

impl Default for DelayDetector {
    fn default() -> DelayDetector {
        DelayDetector {
            group: None,
            before: None,
            window: VecDeque::with_capacity(WINDOW),
            received: 0,
            accumulated: 0.0,
            smoothed: 0.0,
            deltas: 0,
            trend: 0.0,
            threshold: THRESHOLD_START,
            adapted_at: None,
            over_for: None,
            over_count: 0,
            grew_at: 0.0,
            usage: Usage::Normal,
        }
    }
}

fn millis(at: Instant) -> f64 {
    at.as_nanos() as f64 / 1e6
}

impl DelayDetector {
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Prefetches what feedback will touch.
    pub fn prefetch(&self) {
        let (older, newer) = self.window.as_slices();
        prefetch_at(older.as_ptr(), size_of_val(older));
        prefetch_at(newer.as_ptr(), size_of_val(newer));
    }

    /// The next packets have nothing to do with those before.
    pub fn begin_anew(&mut self) {
        *self = DelayDetector { threshold: self.threshold, ..DelayDetector::default() };
    }

    /// Packets in order of arrival.
    pub fn on_packet(&mut self, packet: &Arrived) {
        let (sent, arrived) = (millis(packet.sent), packet.arrived_us as f64 / 1e3);
        let received = self.received;
        self.received += u64::from(packet.bytes);
        let Some(group) = &mut self.group else {
            self.group = Some(Group::of(sent, arrived));
            return;
        };
        if sent < group.first_sent {
            // Overtaken on the way: no evidence of the present queue.
            return;
        }
        if group.takes(sent, arrived) {
            group.last_sent = group.last_sent.max(sent);
            group.last_arrived = arrived;
            return;
        }
        let whole = *group;
        self.group = Some(Group::of(sent, arrived));
        if let Some(before) = self.before.replace(whole) {
            let sent_delta = whole.last_sent - before.last_sent;
            let arrived_delta = whole.last_arrived - before.last_arrived;
            if (arrived_delta - sent_delta).abs() > CLOCK_JUMP_MS || arrived_delta > PAUSE_MS {
                self.begin_anew();
            } else if sent_delta >= 0.0 && arrived_delta >= 0.0 {
                self.on_delta(sent_delta, arrived_delta, whole.last_arrived, received);
            }
        }
    }

    fn on_delta(&mut self, sent_delta: f64, arrived_delta: f64, arrived: f64, received: u64) {
        self.deltas = (self.deltas + 1).min(1_000);
        self.accumulated += arrived_delta - sent_delta;
        self.smoothed = SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * self.accumulated;
        if self.window.len() == WINDOW {
            self.window.pop_front();
        }
        let (delay, smoothed) = (self.accumulated, self.smoothed);
        self.window.push_back(Point { arrived, smoothed, delay, received });
        let trend = if self.window.len() == WINDOW { slope(&self.window).unwrap_or(self.trend) } else { self.trend };
        self.detect(trend, sent_delta, arrived);
        self.trend = trend;
    }

    fn detect(&mut self, trend: f64, sent_delta: f64, arrived: f64) {
        if self.deltas < 2 {
            return;
        }
        let scaled = f64::from(self.deltas.min(DELTAS_MAX)) * trend * GAIN;
        if scaled > self.threshold {
            let over_for = self.over_for.map_or(sent_delta / 2.0, |over_for| over_for + sent_delta);
            self.over_for = Some(over_for);
            self.over_count += 1;
            if over_for > OVERUSE_MS && self.over_count > 1 && trend >= self.trend && self.grows_on() {
                (self.over_for, self.over_count) = (Some(0.0), 0);
                (self.usage, self.grew_at) = (Usage::Over, arrived);
            } else if self.usage == Usage::Over && arrived - self.grew_at > OVER_LASTS_MS {
                self.usage = Usage::Normal;
            }
        } else {
            (self.over_for, self.over_count) = (None, 0);
            self.usage = if scaled < -self.threshold { Usage::Under } else { Usage::Normal };
        }
        self.adapt(scaled.abs(), arrived);
    }

    /// A growing queue is longer at each of its minima: one that large pictures fill and that drains before the next
    /// does not grow. It also grows from group to group: where one group alone came late, and those after it with it, a
    /// machine stood still or the route changed.
    fn grows_on(&self) -> bool {
        let count = self.window.len();
        let delays = |from, to| self.window.range(from..to).map(|point| point.delay);
        let shortest = |from, to| delays(from, to).fold(f64::MAX, f64::min);
        let newest = count.saturating_sub(NEWEST);
        let rises = shortest(newest, count) > shortest(newest.saturating_sub(2 * NEWEST), newest) + RISE_MS;
        let largest = delays(0, count).zip(delays(1, count)).map(|(a, b)| b - a).fold(0.0, f64::max);
        let (Some(first), Some(last)) = (self.window.front(), self.window.back()) else { return false };
        rises && (last.delay - first.delay - largest) * GROWS_ON >= largest
    }

    /// The rate that came through while the queue grew from its shortest to its longest: the capacity of the path.
    pub fn carried(&self) -> Option<Bitrate> {
        let points = || self.window.iter().enumerate();
        let (end, longest) = points().max_by(|(_, a), (_, b)| a.delay.total_cmp(&b.delay))?;
        let least = self.window.range(..=end).map(|point| point.delay).fold(f64::MAX, f64::min);
        let short = |point: &Point| point.delay <= least + (longest.delay - least) * SHORT;
        // The next group is the first that had to wait.
        let since = self.window.get(self.window.range(..end).rposition(short)? + 1)?;
        let millis = longest.arrived - since.arrived;
        (millis >= CARRIED_MS).then(|| Bitrate(((longest.received - since.received) as f64 * 8e3 / millis) as u64))
    }

    /// Section 5.4: a fixed threshold is deaf, or starves beside a flow that fills queues.
    fn adapt(&mut self, scaled: f64, arrived: f64) {
        let elapsed = (arrived - self.adapted_at.replace(arrived).unwrap_or(arrived)).clamp(0.0, 100.0);
        if scaled > self.threshold + SPIKE {
            return;
        }
        let gain = if scaled < self.threshold { GAIN_DOWN } else { GAIN_UP };
        self.threshold += gain * (scaled - self.threshold) * elapsed;
        self.threshold = self.threshold.clamp(THRESHOLD_MIN, THRESHOLD_MAX);
    }
}

/// Slope of the straight line through the points (least squares); None when they arrived all at once.
fn slope(points: &VecDeque<Point>) -> Option<f64> {
    let count = points.len() as f64;
    let mean_x = points.iter().map(|point| point.arrived).sum::<f64>() / count;
    let mean_y = points.iter().map(|point| point.smoothed).sum::<f64>() / count;
    let (over, under) = points.iter().fold((0.0, 0.0), |(over, under), point| {
        let (x, y) = (point.arrived - mean_x, point.smoothed - mean_y);
        (over + x * y, under + x * x)
    });
    (under > 0.0).then(|| over / under)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::media::congestion::sent_log::Purpose;

    /// Packets every 10 ms, with `delay` ms on the way; the detector's answer after each.
    fn run(count: u64, delay: impl FnMut(u64) -> f64) -> Vec<Usage> {
        let mut detector = DelayDetector::default();
        let mut delay = delay;
        (0..count)
            .map(|n| {
                let sent = Instant::from_nanos(n * 10_000_000);
                let arrived_us = ((n * 10) as f64 * 1e3 + delay(n) * 1e3) as i64;
                detector.on_packet(&Arrived { sent, arrived_us, bytes: 1_000, purpose: Purpose::Video });
                detector.usage()
            })
            .collect()
    }

    #[test]
    fn a_steady_way_is_normal_and_jitter_is_no_queue() {
        assert!(run(500, |_| 40.0).iter().all(|usage| *usage == Usage::Normal));
        let mut rng = StdRng::seed_from_u64(1);
        let over = run(3_000, |_| 40.0 + rng.random_range(0.0..8.0)).iter().filter(|u| **u == Usage::Over).count();
        assert!(over < 30, "{over} of 3000");
    }

    #[test]
    fn a_growing_queue_is_overuse_and_a_draining_one_is_not() {
        // 1 ms more with each packet: 10 % over the capacity.
        let usage = run(400, |n| 40.0 + n.saturating_sub(200) as f64);
        let first = usage.iter().position(|usage| *usage == Usage::Over).expect("it is noticed");
        assert!((200..260).contains(&first), "{first}");
        let usage = run(200, |n| 140.0 - n.min(100) as f64);
        assert!(usage.contains(&Usage::Under) && !usage.contains(&Usage::Over));
    }

    #[test]
    fn what_is_late_once_or_drains_each_time_is_no_growing_queue() {
        let never = |usage: Vec<Usage>| assert!(usage.iter().all(|usage| *usage != Usage::Over), "{usage:?}");
        for late in [20.0, 100.0, 1_000.0] {
            never(run(400, |n| if n < 200 { 40.0 } else { 40.0 + late }));
        }
        // From the 200th packet on, each third finds the queue empty and the others do not.
        never(run(400, |n| if n < 200 { 40.0 } else { 40.0 + (n % 3) as f64 * 8.0 }));
    }

    #[test]
    fn a_growing_queue_tells_what_the_path_carries() {
        // Packets of 1,000 bytes: 200 of them every 10 ms, then some every 6 ms, of which the path carries one every 20
        // ms.
        let mut detector = DelayDetector::default();
        let mut told = None;
        for n in 0..220u64 {
            let burst = n.saturating_sub(199);
            let sent_us = n.min(200) * 10_000 + burst * 6_000;
            let arrived_us = (n.min(199) * 10_000 + 40_000 + burst * 20_000) as i64;
            let sent = Instant::from_nanos(sent_us * 1_000);
            detector.on_packet(&Arrived { sent, arrived_us, bytes: 1_000, purpose: Purpose::Video });
            if detector.usage() == Usage::Over {
                told = told.or(detector.carried());
            }
        }
        assert_eq!(told, Some(Bitrate::kbps(400)));
    }

    #[test]
    fn a_jump_of_the_receivers_clock_starts_anew() {
        let usage = run(400, |n| if n < 200 { 40.0 } else { 1e7 });
        assert!(usage.iter().all(|usage| *usage == Usage::Normal));
    }
}
