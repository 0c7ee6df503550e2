//! One direction of a path between a client and the SFU: when, how often and whether a datagram arrives. It keeps no
//! datagrams; the world's event queue does.

use rand::Rng;
use rand::rngs::SmallRng;

use crate::base::time::{Duration, Instant};
use crate::base::units::Bitrate;

/// The overhead of a datagram on the wire: IPv4 and UDP headers.
const HEADERS: u64 = 28;

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LinkSettings {
    pub delay: Duration,
    /// The most that is added to the delay of each datagram; their order stays.
    pub jitter: Duration,
    /// Chances, from 0 to 1.
    pub loss: f64,
    pub duplication: f64,
    pub reordering: f64,
    /// The extra delay of a reordered datagram.
    pub reorder_by: Duration,
    pub rate: Option<Bitrate>,
    /// With a rate: datagrams that wait longer than this are dropped at the tail.
    pub queue_max: Duration,
}

impl LinkSettings {
    /// Nothing but delay.
    pub const fn clean(delay: Duration) -> LinkSettings {
        LinkSettings {
            delay,
            jitter: Duration::ZERO,
            loss: 0.0,
            duplication: 0.0,
            reordering: 0.0,
            reorder_by: Duration::from_millis(15),
            rate: None,
            queue_max: Duration::from_millis(300),
        }
    }

    pub const fn lossy(delay: Duration, loss: f64) -> LinkSettings {
        LinkSettings { loss, ..LinkSettings::clean(delay) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkStats {
    pub sent: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub queue_full: u64,
}

#[derive(Debug)]
pub struct LinkModel {
    pub settings: LinkSettings,
    /// The wire is busy until then.
    free_at: Instant,
    last_arrival: Instant,
    stats: LinkStats,
}

impl LinkModel {
    pub fn new(settings: LinkSettings) -> LinkModel {
        LinkModel { settings, free_at: Instant::ZERO, last_arrival: Instant::ZERO, stats: LinkStats::default() }
    }

    pub fn stats(&self) -> LinkStats {
        self.stats
    }

    /// The arrivals of a datagram that is sent now: none, one or two.
    pub fn send(&mut self, now: Instant, len: usize, rng: &mut SmallRng) -> [Option<Instant>; 2] {
        let settings = self.settings;
        self.stats.sent += 1;
        // Every datagram draws the same numbers, whatever becomes of it: a lost one shifts nobody's luck.
        let [loss, duplication, reordering, jitter]: [f64; 4] = rng.random();
        let mut leaves = now;
        if let Some(rate) = settings.rate {
            let start = self.free_at.max(now);
            if start.since(now) > settings.queue_max {
                self.stats.queue_full += 1;
                return [None, None];
            }
            let bits = (len as u64 + HEADERS) * 8;
            leaves = start + Duration::from_nanos(bits * 1_000_000_000 / rate.bps().max(1));
            self.free_at = leaves;
        }
        if loss < settings.loss {
            self.stats.lost += 1;
            return [None, None];
        }
        let arrival = (leaves + settings.delay + settings.jitter.mul_f64(jitter)).max(self.last_arrival);
        if reordering < settings.reordering {
            self.stats.reordered += 1;
            return [Some(arrival + settings.reorder_by), None];
        }
        self.last_arrival = arrival;
        let twice = duplication < settings.duplication;
        self.stats.duplicated += u64::from(twice);
        [Some(arrival), twice.then(|| arrival + settings.jitter.mul_f64(duplication))]
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn run(settings: LinkSettings, count: u64) -> (Vec<[Option<Instant>; 2]>, LinkStats) {
        let (mut link, mut rng) = (LinkModel::new(settings), SmallRng::seed_from_u64(1));
        let at = |n: u64| Instant::from_nanos(n * 1_000_000);
        ((0..count).map(|n| link.send(at(n), 1_222, &mut rng)).collect(), link.stats())
    }

    #[test]
    fn jitter_keeps_the_order_and_reordering_breaks_it() {
        let jittery =
            LinkSettings { jitter: Duration::from_millis(9), ..LinkSettings::clean(Duration::from_millis(20)) };
        let (arrivals, _) = run(jittery, 1_000);
        assert!(arrivals.windows(2).all(|pair| pair[0][0] <= pair[1][0]));
        assert!(arrivals.windows(2).any(|pair| pair[0][0] == pair[1][0]), "and makes bunches");
        let (arrivals, stats) = run(LinkSettings { reordering: 0.1, ..jittery }, 1_000);
        assert!((70..130).contains(&stats.reordered));
        assert!(arrivals.windows(2).any(|pair| pair[0][0] > pair[1][0]));
    }

    #[test]
    fn loss_and_duplication_come_as_often_as_they_should() {
        let settings = LinkSettings { loss: 0.05, duplication: 0.02, ..LinkSettings::clean(Duration::from_millis(20)) };
        let (arrivals, stats) = run(settings, 10_000);
        assert!((400..600).contains(&stats.lost) && (140..260).contains(&stats.duplicated), "{stats:?}");
        assert_eq!(arrivals.iter().filter(|arrival| arrival[0].is_none()).count() as u64, stats.lost);
        assert_eq!(arrivals.iter().filter(|arrival| arrival[1].is_some()).count() as u64, stats.duplicated);
    }

    #[test]
    fn a_rate_spreads_and_its_queue_is_bounded() {
        // 10,000 bits at 5 Mbit/s take 2 ms; one comes each millisecond.
        let settings = LinkSettings { rate: Some(Bitrate::mbps(5)), ..LinkSettings::clean(Duration::from_millis(20)) };
        let (arrivals, stats) = run(settings, 1_000);
        assert_eq!(arrivals[0][0], Some(Instant::from_nanos(22_000_000)));
        assert_eq!(arrivals[9][0], Some(Instant::from_nanos(40_000_000)));
        assert!((300..400).contains(&stats.queue_full), "{stats:?}");
    }
}
