//! Allocation of one client's bandwidth: audio always, then the lowest layer of each stream, then more by priority,
//! layer by layer. A layer that flows is kept for as long as it fits. One that does not flow must fit with a reserve
//! and wait its turn, so that layers do not flap. Pure: `shard` measures the streams and tells the consumers.

use crate::base::id::Layers;
use crate::base::time::{Duration, Instant};
use crate::base::units::Bitrate;

/// How far a flowing layer may exceed the bandwidth, in percent, and the reserve that another must leave.
const KEPT: u64 = 110;
const NEW: u64 = 90;
/// The lowest layer has more of both, because without it there is no picture: it begins where it fits as measured, and
/// one step down of the estimate does not pause it.
const KEPT_LOWEST: u64 = 130;
const NEW_LOWEST: u64 = 100;
/// How long nothing is added after something was taken away; twice as long when what was just added had to go.
const WAIT: Duration = Duration::from_secs(2);
const WAIT_MAX: Duration = Duration::from_secs(12);
const REGRET: Duration = Duration::from_secs(8);

/// A stream's allocation: nothing, or a step of its ladder.
pub type Granted = Option<usize>;

/// One stream that wants to flow.
#[derive(Clone, Debug)]
pub struct Demand {
    pub audio: bool,
    /// 1 to 255; higher goes first.
    pub priority: u8,
    /// The steps, lowest first, each with the rate of everything up to it. Never empty.
    pub ladder: Vec<(Layers, Bitrate)>,
    /// The present step, and after [`Allocator::allocate`] the new one.
    pub granted: Granted,
}

impl Demand {
    fn rate(&self, granted: Granted) -> u64 {
        granted.and_then(|step| self.ladder.get(step)).map_or(0, |(_, rate)| rate.bps())
    }

    /// The rate of the highest step.
    pub fn wants(&self) -> Bitrate {
        Bitrate(self.ladder.iter().map(|(_, rate)| rate.bps()).max().unwrap_or(0))
    }

    pub fn gets(&self) -> Bitrate {
        Bitrate(self.rate(self.granted))
    }
}

#[derive(Debug)]
pub struct Allocator {
    taken_at: Option<Instant>,
    added_at: Option<Instant>,
    wait: Duration,
}

impl Default for Allocator {
    fn default() -> Allocator {
        Allocator { taken_at: None, added_at: None, wait: WAIT }
    }
}

impl Allocator {
    /// The path has room for all beyond doubt: nothing that was taken away needs to wait.
    pub fn forget(&mut self) {
        *self = Allocator::default();
    }

    /// Divides `bandwidth`; None: there is no bound. Demands of equal priority go in the order of `demands`.
    pub fn allocate(&mut self, now: Instant, bandwidth: Option<Bitrate>, demands: &mut [Demand]) {
        let Some(bandwidth) = bandwidth else {
            for demand in demands {
                demand.granted = demand.ladder.len().checked_sub(1);
            }
            return;
        };
        let may_add = self.taken_at.is_none_or(|taken| now.since(taken) >= self.wait);
        let before: Vec<Granted> = demands.iter().map(|demand| demand.granted).collect();
        share(bandwidth.bps(), may_add, demands, &before);
        let (mut taken, mut added) = (false, false);
        for (demand, before) in demands.iter().zip(before) {
            taken |= demand.granted < before;
            added |= demand.granted > before;
        }
        if taken {
            let regretted = self.added_at.is_some_and(|added| now.since(added) < REGRET);
            self.wait = if regretted { (self.wait * 2).min(WAIT_MAX) } else { WAIT };
            self.taken_at = Some(now);
        }
        // Layers that were there from the start were not added.
        if added && self.taken_at.is_some() {
            self.added_at = Some(now);
        }
    }
}

fn share(bandwidth: u64, may_add: bool, demands: &mut [Demand], before: &[Granted]) {
    let mut used: u64 = 0;
    let mut order = Vec::with_capacity(demands.len());
    for (at, demand) in demands.iter_mut().enumerate() {
        demand.granted = if demand.audio { demand.ladder.len().checked_sub(1) } else { None };
        used = used.saturating_add(demand.rate(demand.granted));
        if !demand.audio {
            order.push(at);
        }
    }
    order.sort_by_key(|at| std::cmp::Reverse(demands[*at].priority));

    let mut raise = |demand: &mut Demand, before: Granted| {
        let next = demand.granted.map_or(0, |step| step + 1);
        if next >= demand.ladder.len() {
            return false;
        }
        let kept = before.is_some_and(|before| next <= before);
        let percent = match (kept, next) {
            (true, 0) => KEPT_LOWEST,
            (true, _) => KEPT,
            (false, 0) => NEW_LOWEST,
            (false, _) => NEW,
        };
        let after = (used - demand.rate(demand.granted)).saturating_add(demand.rate(Some(next)));
        if (!kept && !may_add) || after > bandwidth.saturating_mul(percent) / 100 {
            return false;
        }
        (used, demand.granted) = (after, Some(next));
        true
    };
    for at in &order {
        raise(&mut demands[*at], before[*at]);
    }
    // All streams of one priority rise together, a step at a time, before the next priority does.
    for class in
        order.chunk_by(|a, b| demands[*a].priority == demands[*b].priority).map(<[usize]>::to_vec).collect::<Vec<_>>()
    {
        let mut rising = true;
        while std::mem::take(&mut rising) {
            for at in &class {
                rising |= demands[*at].granted.is_some() && raise(&mut demands[*at], before[*at]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn video(priority: u8, kbps: &[u64]) -> Demand {
        let ladder = kbps.iter().enumerate();
        let ladder = ladder.map(|(at, kbps)| (Layers { spatial: at as u8, temporal: 0 }, Bitrate::kbps(*kbps)));
        Demand { audio: false, priority, ladder: ladder.collect(), granted: None }
    }

    fn audio() -> Demand {
        Demand { audio: true, ..video(1, &[40]) }
    }

    fn granted(bandwidth_kbps: u64, demands: &[Demand]) -> Vec<Granted> {
        let mut demands = demands.to_vec();
        Allocator::default().allocate(at(0), Some(Bitrate::kbps(bandwidth_kbps)), &mut demands);
        demands.iter().map(|demand| demand.granted).collect()
    }

    #[test]
    fn audio_then_one_layer_each_then_by_priority() {
        let layers = [100, 300, 1_000];
        let all = [video(1, &layers), video(5, &layers), audio()];
        // (bandwidth, allocations)
        let table = [
            (10, [None, None, Some(0)]),
            (160, [None, Some(0), Some(0)]),
            (280, [Some(0), Some(0), Some(0)]),
            (500, [Some(0), Some(1), Some(0)]),
            (1_400, [Some(0), Some(2), Some(0)]),
            (1_600, [Some(1), Some(2), Some(0)]),
            (2_400, [Some(2), Some(2), Some(0)]),
        ];
        for (bandwidth, expected) in table {
            assert_eq!(granted(bandwidth, &all), expected, "{bandwidth} kbit/s");
        }
        let equal = [video(1, &layers), video(1, &layers)];
        assert_eq!(granted(700, &equal), [Some(1), Some(1)], "equals rise together");
        assert_eq!(granted(500, &equal), [Some(1), Some(0)], "and the first of them first");
    }

    #[test]
    fn a_simple_stream_that_does_not_fit_is_paused_and_a_smaller_one_is_not() {
        assert_eq!(granted(300, &[audio(), video(9, &[900]), video(1, &[200])]), [Some(0), None, Some(0)]);
    }

    #[test]
    fn without_a_bound_everything_flows() {
        let mut demands = [video(1, &[100, 300]), audio()];
        Allocator::default().allocate(at(0), None, &mut demands);
        assert_eq!(demands.map(|demand| demand.granted), [Some(1), Some(0)]);
    }

    #[test]
    fn what_flows_stays_and_what_was_taken_waits() {
        let mut allocator = Allocator::default();
        let mut demands = [audio(), video(1, &[500])];
        let mut step = |millis, kbps| {
            allocator.allocate(at(millis), Some(Bitrate::kbps(kbps)), &mut demands);
            demands[1].granted.is_some()
        };
        assert!(step(0, 620));
        assert!(step(100, 500), "a little over is kept");
        assert!(!step(200, 400));
        assert!(!step(300, 620), "not at once");
        assert!(!step(2_300, 530), "and not before it fits");
        assert!(step(2_300, 545));
        assert!(!step(3_000, 400), "regretted");
        assert!(!step(6_000, 620), "so it waits twice as long");
        assert!(step(7_000, 620));
    }

    #[test]
    fn no_more_is_given_than_there_is_and_noise_does_not_flap() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut allocator = Allocator::default();
        let mut demands = [audio(), video(1, &[150, 500, 1_500]), video(3, &[150, 500, 1_500]), video(2, &[700])];
        let mut changes = 0;
        for tick in 0..3_000 {
            let before: Vec<_> = demands.iter().map(|demand| demand.granted).collect();
            let kbps = 1_500 + rng.random_range(0..150);
            allocator.allocate(at(tick * 100), Some(Bitrate::kbps(kbps)), &mut demands);
            let gets: u64 = demands.iter().map(|demand| demand.gets().bps()).sum();
            assert!(gets <= kbps * KEPT * 10, "{gets} of {kbps}");
            changes += demands.iter().zip(before).filter(|(demand, before)| demand.granted != *before).count();
        }
        assert!(changes <= 8, "{changes} changes in five minutes of noise");
    }
}
