//! The loss-based bound: above 15 % loss the rate goes down, below 2 % it may grow, between it stays
//! (draft-ietf-rmcat-gcc-02 section 6, where it goes down from 10 % on: a path that always loses 10 % would have its
//! video paused, where RTX still repairs it). Loss that stays when much less is sent belongs to the path (radio) and
//! does not count from then on; the draft would starve there.

use crate::base::time::{Duration, Instant};
use crate::base::units::Bitrate;

const HIGH: f64 = 0.15;
const LOW: f64 = 0.02;
const GROWTH_PER_SECOND: f64 = 1.08;
/// The packets, or the time, that a judgement needs.
const PACKETS: u32 = 20;
/// The weight of one judgement in the mean, and the weight of a mean below the path's own loss.
const WEIGHT: f64 = 0.3;
const FORGETTING: f64 = 0.05;
const WINDOW: Duration = Duration::from_millis(250);
/// Losses older than this say nothing of now.
const WINDOW_MAX: Duration = Duration::from_secs(3);
/// A judgement older than this says nothing any more.
const LASTS: Duration = Duration::from_secs(1);
/// The time between two steps down, beyond the round trip.
const STEP_GAP: Duration = Duration::from_millis(300);
/// The share of the received rate that is carried without loss.
const CARRIED: f64 = 0.85;
/// Loss is the path's own when this share of it stays at this share of the rate. A full queue would lose nothing then,
/// as long as it lost at most this much before.
const STAYS: f64 = 0.75;
const OWN_MAX: f64 = 0.20;

#[derive(Clone, Copy, Debug)]
struct Episode {
    /// The rate at its beginning.
    rate: f64,
    /// The highest mean loss of it.
    loss: f64,
}

/// In bits per second.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    arrives: f64,
    sent: f64,
}

#[derive(Debug, Default)]
pub struct LossBound {
    lost: u32,
    packets: u32,
    bytes: u64,
    since: Option<Instant>,
    heard_at: Instant,
    judged_at: Instant,
    /// The last judgement, the mean over several, and the part of it that is the path's own.
    share: f64,
    smoothed: f64,
    own: f64,
    bps: Option<f64>,
    stepped_at: Option<Instant>,
    grown_at: Option<Instant>,
    episode: Option<Episode>,
}

impl LossBound {
    /// The share of packets lost lately, 0 to 1.
    pub fn share(&self, now: Instant) -> f64 {
        if now.since(self.judged_at) < LASTS { self.share } else { 0.0 }
    }

    pub fn bound(&self) -> Option<Bitrate> {
        self.bps.map(|bps| Bitrate(bps as u64))
    }

    pub fn is_high(&self, now: Instant) -> bool {
        self.excess(self.share(now).min(self.smoothed)) > HIGH
    }

    /// Loss beyond the path's own.
    fn excess(&self, loss: f64) -> f64 {
        ((loss - self.own) / (1.0 - self.own)).max(0.0)
    }

    /// One feedback. Losses are judged once enough packets are known.
    pub fn on_feedback(&mut self, now: Instant, arrived: u32, bytes: u64, lost: u32) -> Option<Rates> {
        // Losses before a pause say nothing of the packets after it.
        let paused = now.since(self.heard_at) >= LASTS;
        if paused || self.since.is_none_or(|since| now.since(since) > WINDOW_MAX) {
            (self.packets, self.lost, self.bytes, self.since) = (0, 0, 0, Some(now));
        }
        self.heard_at = now;
        let since = self.since.unwrap_or(now);
        self.packets += arrived + lost;
        self.lost += lost;
        self.bytes += bytes;
        let elapsed = now.since(since);
        if self.packets < PACKETS || elapsed < WINDOW {
            return None;
        }
        self.share = f64::from(self.lost) / f64::from(self.packets);
        self.smoothed += WEIGHT * (self.share - self.smoothed);
        self.own += FORGETTING * (self.smoothed - self.own).min(0.0);
        let arrives = self.bytes as f64 * 8.0 / elapsed.as_secs_f64();
        let sent = arrives / (1.0 - self.share).max(0.05);
        (self.packets, self.lost, self.bytes, self.since) = (0, 0, 0, Some(now));
        self.judged_at = now;
        Some(Rates { arrives, sent })
    }

    /// `target` is the rate allowed until now.
    pub fn judge(&mut self, now: Instant, rates: Rates, rtt: Duration, target: Bitrate) {
        let (Rates { arrives, sent }, target) = (rates, target.bps() as f64);
        if self.is_high(now) {
            let episode = self.episode.get_or_insert(Episode { rate: sent, loss: 0.0 });
            episode.loss = episode.loss.max(self.smoothed);
            let episode = *episode;
            if sent < episode.rate * STAYS && episode.loss <= OWN_MAX && self.smoothed > episode.loss * STAYS {
                self.own = self.smoothed;
                self.episode = None;
                return;
            }
            if self.stepped_at.is_none_or(|at| now.since(at) >= STEP_GAP + rtt) {
                let from = self.bps.map_or(target, |bps| bps.min(target));
                // Losses of a full queue that drains add nothing to the rate that came through it.
                let to = from * (1.0 - self.excess(self.share) / 2.0);
                self.bps = Some(to.max(arrives * CARRIED).min(from));
                self.stepped_at = Some(now);
            }
            self.grown_at = Some(now);
        } else if self.excess(self.smoothed) > LOW {
            self.bps.get_or_insert(target);
            self.grown_at = Some(now);
        } else {
            self.episode = None;
            let elapsed = now.since(self.grown_at.replace(now).unwrap_or(now)).as_secs_f64().min(1.0);
            if let Some(bps) = &mut self.bps {
                *bps = *bps * GROWTH_PER_SECOND.powf(elapsed) + 1_000.0 * elapsed;
                // Another bound is far lower.
                if *bps > 2.0 * target {
                    self.bps = None;
                }
            }
        }
    }

    /// A probe has shown that this rate is carried.
    pub fn raise_to(&mut self, rate: Bitrate) {
        if let Some(bps) = &mut self.bps {
            *bps = bps.max(rate.bps() as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(50);

    /// `seconds` in which the sender follows the bound exactly; returns the bound at their end, in kbit/s.
    fn run(bound: &mut LossBound, from: u64, seconds: u64, start: u64, loss: impl Fn(f64) -> f64) -> u64 {
        let mut target = start as f64 * 1e3;
        for step in 0..seconds * 4 {
            let now = Instant::from_nanos((from * 4 + step) * 250_000_000);
            let lost = (loss(target) * 100.0).round() as u32;
            let bytes = target / 32.0 * f64::from(100 - lost) / 100.0;
            if let Some(rates) = bound.on_feedback(now, 100 - lost, bytes as u64, lost) {
                bound.judge(now, rates, RTT, Bitrate(target as u64));
            }
            target = bound.bound().map_or(start as f64 * 1e3, |rate| rate.bps() as f64);
        }
        (target / 1e3) as u64
    }

    #[test]
    fn what_was_lost_before_a_pause_is_not_judged_with_what_comes_after_it() {
        let mut bound = LossBound::default();
        let at = |millis: u64| Instant::from_nanos(millis * 1_000_000);
        assert!(bound.on_feedback(at(100), 3, 3_000, 12).is_none(), "too few to judge");
        assert!(bound.on_feedback(at(1_600), 16, 16_000, 0).is_none(), "they do not count any more");
        assert!(bound.on_feedback(at(1_900), 16, 16_000, 0).is_some());
        assert_eq!(bound.share(at(1_900)), 0.0);
    }

    #[test]
    fn some_loss_holds_the_rate_and_none_lets_it_grow() {
        let mut bound = LossBound::default();
        assert_eq!(run(&mut bound, 0, 10, 1_000, |_| 0.05), 1_000);
        let grown = run(&mut bound, 10, 5, 1_000, |_| 0.0);
        assert!((1_400..1_520).contains(&grown), "{grown}");
    }

    #[test]
    fn a_full_queue_takes_the_rate_down_to_what_is_carried() {
        let mut bound = LossBound::default();
        let carried = run(&mut bound, 0, 30, 1_000, |target| (1.0 - 500e3 / target).max(0.0));
        assert!((490..=590).contains(&carried), "at most 15 % loss at {carried} kbit/s");
    }

    #[test]
    fn loss_that_stays_whatever_is_sent_is_not_fled_from() {
        let mut bound = LossBound::default();
        let rate = run(&mut bound, 0, 30, 1_000, |_| 0.18);
        assert!(rate >= 600, "{rate}");
        let worse = run(&mut bound, 30, 20, 1_000, |target| (1.0 - 300e3 / target).max(0.18));
        assert!(worse <= 450, "more loss on top counts: {worse}");
    }
}
