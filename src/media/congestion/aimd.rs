//! The rate after overuse and underuse: up by 8 % a second while the capacity is unknown, by about a packet a response
//! time near it, and down to 85 % of the received rate at overuse (draft-ietf-rmcat-gcc-02 section 5.5).

use super::delay::Usage;
use crate::base::time::{Duration, Instant};
use crate::base::units::Bitrate;

const BACK_OFF: f64 = 0.85;
const GROWTH_PER_SECOND: f64 = 1.08;
/// How far the estimate may exceed the sent rate: this factor, and a constant for those who send next to nothing.
const AHEAD: f64 = 1.5;
const AHEAD_BPS: f64 = 10_000.0;
const STEP_MIN_BPS: f64 = 1_000.0;
const ADDITIVE_MIN_BPS: f64 = 4_000.0;
/// One frame at 30 a second, in packets of this size: the assumption of near-capacity growth (section 5.5).
const PACKET_BITS: f64 = 1_200.0 * 8.0;
const FRAMES: f64 = 30.0;
const DETECTION_MS: f64 = 100.0;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Hold,
    Increase,
}

/// The received rate at recent overuses (section 5.5, the average of the incoming bitrate), in kbit/s.
#[derive(Clone, Copy, Debug)]
struct Capacity {
    mean: f64,
    variance: f64,
}

impl Capacity {
    const VARIANCE_MIN: f64 = 0.4;
    const VARIANCE_MAX: f64 = 2.5;

    fn spread(&self) -> f64 {
        3.0 * (self.variance * self.mean).sqrt()
    }

    fn update(known: Option<Capacity>, kbps: f64, weight: f64) -> Capacity {
        let Some(known) = known else { return Capacity { mean: kbps, variance: Self::VARIANCE_MIN } };
        let error = known.mean - kbps;
        let mean = (1.0 - weight) * known.mean + weight * kbps;
        let variance = (1.0 - weight) * known.variance + weight * error * error / mean.max(1.0);
        Capacity { mean, variance: variance.clamp(Self::VARIANCE_MIN, Self::VARIANCE_MAX) }
    }
}

#[derive(Debug)]
pub struct Aimd {
    bps: f64,
    state: State,
    capacity: Option<Capacity>,
    changed_at: Option<Instant>,
    backed_off_at: Option<Instant>,
}

impl Aimd {
    pub fn new(start: Bitrate) -> Aimd {
        Aimd { bps: start.bps() as f64, state: State::Hold, capacity: None, changed_at: None, backed_off_at: None }
    }

    pub fn rate(&self) -> Bitrate {
        Bitrate(self.bps as u64)
    }

    pub fn clamp(&mut self, min: Bitrate, max: Bitrate) {
        self.bps = self.bps.clamp(min.bps() as f64, max.bps().max(min.bps()) as f64);
    }

    /// A probe has measured this rate.
    pub fn set(&mut self, now: Instant, rate: Bitrate) {
        self.bps = rate.bps() as f64;
        self.changed_at = Some(now);
        self.capacity = Some(Capacity::update(self.capacity, self.bps / 1e3, 0.5));
    }

    /// True when the rate went down.
    pub fn update(&mut self, now: Instant, usage: Usage, acknowledged: Option<Bitrate>, rtt: Duration) -> bool {
        match usage {
            Usage::Over => {
                let down = self.may_back_off(now, acknowledged, rtt);
                if down {
                    self.back_off(now, acknowledged);
                }
                self.state = State::Hold;
                return down;
            }
            Usage::Under => self.state = State::Hold,
            Usage::Normal if self.state == State::Hold => {
                self.state = State::Increase;
                self.changed_at = Some(now);
            }
            Usage::Normal => self.increase(now, acknowledged, rtt),
        }
        false
    }

    /// Once a round trip: earlier nothing of the last step can show.
    fn may_back_off(&self, now: Instant, acknowledged: Option<Bitrate>, rtt: Duration) -> bool {
        let Some(last) = self.backed_off_at else { return true };
        let gap = match acknowledged {
            Some(_) => rtt.clamp(Duration::from_millis(10), Duration::from_millis(200)),
            None => rtt + Duration::from_millis(100),
        };
        now.since(last) >= gap || acknowledged.is_some_and(|rate| (rate.bps() as f64) < self.bps / 2.0)
    }

    fn back_off(&mut self, now: Instant, acknowledged: Option<Bitrate>) {
        match acknowledged.map(|rate| rate.bps() as f64) {
            None => return self.halve(now),
            Some(arrives) => {
                self.bps = self.bps.min(arrives * BACK_OFF);
                let kbps = arrives / 1e3;
                self.capacity = self.capacity.filter(|known| kbps >= known.mean - known.spread());
                self.capacity = Some(Capacity::update(self.capacity, kbps, 0.05));
            }
        }
        (self.backed_off_at, self.changed_at) = (Some(now), Some(now));
    }

    /// The received rate is unknown.
    pub fn halve(&mut self, now: Instant) {
        self.bps /= 2.0;
        (self.backed_off_at, self.changed_at) = (Some(now), Some(now));
    }

    fn increase(&mut self, now: Instant, acknowledged: Option<Bitrate>, rtt: Duration) {
        let elapsed = self.changed_at.map_or(Duration::ZERO, |at| now.since(at)).min(Duration::from_secs(1));
        self.changed_at = Some(now);
        let arrives = acknowledged.map(|rate| rate.bps() as f64);
        if let (Some(known), Some(arrives)) = (self.capacity, arrives)
            && arrives / 1e3 > known.mean + known.spread()
        {
            self.capacity = None;
        }
        let limit = arrives.map_or(self.bps, |arrives| arrives * AHEAD + AHEAD_BPS);
        if self.bps < limit {
            let seconds = elapsed.as_secs_f64();
            let step = match self.capacity {
                Some(_) => self.additive_per_second(rtt) * seconds,
                None => (self.bps * (GROWTH_PER_SECOND.powf(seconds) - 1.0)).max(STEP_MIN_BPS * seconds),
            };
            self.bps = (self.bps + step).min(limit);
        }
    }

    /// About a packet in each response time.
    fn additive_per_second(&self, rtt: Duration) -> f64 {
        let frame = self.bps / FRAMES;
        let packet = frame / (frame / PACKET_BITS).ceil().max(1.0);
        let response = 2.0 * (rtt.as_secs_f64() * 1e3 + DETECTION_MS) / 1e3;
        (packet / response).max(ADDITIVE_MIN_BPS)
    }

    /// A rate that arrives without a growing queue is carried.
    pub fn raise_to(&mut self, acknowledged: Bitrate) {
        self.bps = self.bps.max(acknowledged.bps() as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(50);

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn it_grows_by_8_percent_a_second_and_no_further_than_what_was_tried() {
        let mut aimd = Aimd::new(Bitrate::kbps(500));
        let sends = Bitrate::kbps(500);
        for step in 0..=10 {
            aimd.update(at(step * 100), Usage::Normal, Some(sends), RTT);
        }
        assert!((535..=540).contains(&(aimd.rate().bps() / 1_000)), "{:?}", aimd.rate());
        for step in 10..1_000 {
            aimd.update(at(step * 100), Usage::Normal, Some(sends), RTT);
        }
        assert_eq!(aimd.rate(), Bitrate::kbps(760));
    }

    #[test]
    fn overuse_takes_it_to_85_percent_of_what_arrives_and_it_returns_slowly() {
        let mut aimd = Aimd::new(Bitrate::mbps(2));
        assert!(aimd.update(at(0), Usage::Over, Some(Bitrate::mbps(1)), RTT));
        assert_eq!(aimd.rate(), Bitrate::kbps(850));
        assert!(!aimd.update(at(20), Usage::Over, Some(Bitrate::mbps(1)), RTT), "within the round trip");
        for step in 1..=20 {
            aimd.update(at(step * 100), Usage::Normal, Some(Bitrate::kbps(850)), RTT);
        }
        let after = aimd.rate().bps() / 1_000;
        assert!((860..930).contains(&after), "near the capacity additively: {after}");
    }

    #[test]
    fn without_feedback_of_a_rate_it_halves() {
        let mut aimd = Aimd::new(Bitrate::kbps(600));
        aimd.update(at(0), Usage::Over, None, RTT);
        aimd.update(at(50), Usage::Over, None, RTT);
        assert_eq!(aimd.rate(), Bitrate::kbps(300));
    }
}
