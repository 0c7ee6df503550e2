//! Probes: short bursts above the estimate that show whether the path carries more. Decides when to send one, how large
//! it is, and what the feedback about it means. Padding is its material; sending it is the caller's.

use super::sent_log::{Arrived, Purpose};
use crate::base::time::{Duration, Instant};
use crate::base::units::{Bitrate, DataSize};

/// The first two probes, as multiples of the start rate.
const FIRST: u64 = 3;
const SECOND: u64 = 6;
/// Each later probe, as a multiple of the estimate, and of what the one before it has just shown: an estimate that is
/// far too low recovers in few steps.
const NEXT: u64 = 2;
const FURTHER: u64 = 3;
/// So much less than is wanted, as a divisor.
const FAR_BELOW: u64 = 8;
/// A result of this percentage of the probe is followed by another probe.
const CONVINCING: u64 = 70;
/// The highest useful probe, in percent of what is wanted.
const USEFUL: u64 = 130;
const DURATION: Duration = Duration::from_millis(15);
const PACKETS_MIN: u32 = 5;
/// The size of a packet of nothing but padding, about.
const PACKET_BYTES: u64 = 250;
/// A burst is as many bytes at this rate as at any lower one: asking for less saves nothing.
const FREE: Bitrate = Bitrate(PACKETS_MIN as u64 * PACKET_BYTES * 8_000 / DURATION.as_millis() as u64);
const RESULT_WAIT: Duration = Duration::from_secs(1);
/// The interval while less is allowed than wanted.
const INTERVAL: Duration = Duration::from_secs(2);
/// The interval when more is wanted than before, or the last probe had no answer.
const SOON: Duration = Duration::from_secs(1);
/// The interval between checks while the path is not calm.
const LOOK_GAP: Duration = Duration::from_millis(50);

/// A burst to be sent at `rate`, each packet under this cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cluster {
    pub id: u8,
    pub rate: Bitrate,
    pub bytes: DataSize,
    pub packets: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Nothing measurable has been sent yet.
    New,
    Waiting {
        since: Instant,
        rate: Bitrate,
    },
    Idle,
}

#[derive(Debug)]
pub struct Prober {
    state: State,
    next_id: u8,
    /// Clusters still to be sent, the first one last.
    due: Vec<Bitrate>,
    last_at: Option<Instant>,
    /// The next probe may come soon.
    soon: bool,
    looked_at: Instant,
    wanted: Bitrate,
}

impl Default for Prober {
    fn default() -> Prober {
        let (due, wanted, looked_at) = (Vec::new(), Bitrate(0), Instant::ZERO);
        Prober { state: State::New, next_id: 1, due, last_at: None, soon: false, looked_at, wanted }
    }
}

fn percent(rate: Bitrate, percent: u64) -> Bitrate {
    Bitrate(rate.bps() / 100 * percent)
}

impl Prober {
    /// The rate of all streams at their best; more than before is a reason to probe.
    pub fn set_wanted(&mut self, wanted: Bitrate) {
        self.soon |= wanted > percent(self.wanted, 110);
        self.wanted = wanted;
    }

    /// Several probes in a row are needed to get up to what is wanted.
    pub fn is_far_below(&self, estimate: Bitrate) -> bool {
        self.wanted.bps() > estimate.bps().saturating_mul(FAR_BELOW)
    }

    /// The next burst, when one is due. `calm`: the queue does not grow and little is lost.
    pub fn poll(&mut self, now: Instant, estimate: Bitrate, calm: bool) -> Option<Cluster> {
        self.looked_at = now;
        if self.wanted <= estimate {
            self.due.clear();
            return None;
        }
        let useful = percent(self.wanted, USEFUL);
        match self.state {
            State::New => self.due = vec![Bitrate(estimate.bps() * SECOND), Bitrate(estimate.bps() * FIRST)],
            State::Waiting { since, .. } if now.since(since) >= RESULT_WAIT => {
                self.soon |= self.due.is_empty();
                self.state = State::Idle;
            }
            _ => {}
        }
        if self.due.is_empty() && calm && self.state == State::Idle && self.next_at().is_none_or(|at| at <= now) {
            self.due.push(Bitrate(estimate.bps() * NEXT).max(FREE));
        }
        let rate = self.due.pop()?.min(useful);
        if rate == useful {
            self.due.clear();
        }
        let id = self.next_id;
        self.next_id = self.next_id % 255 + 1;
        self.state = State::Waiting { since: now, rate };
        (self.last_at, self.soon) = (Some(now), false);
        let bytes = (rate * DURATION).max(DataSize(u64::from(PACKETS_MIN) * PACKET_BYTES));
        Some(Cluster { id, rate, bytes, packets: PACKETS_MIN })
    }

    fn next_at(&self) -> Option<Instant> {
        self.last_at.map(|last| last + if self.soon { SOON } else { INTERVAL })
    }

    /// When [`Prober::poll`] may have one, as long as more is wanted than `estimate`.
    pub fn next_deadline(&self, estimate: Bitrate) -> Option<Instant> {
        if self.wanted <= estimate {
            return None;
        }
        let due = match self.state {
            State::New => Some(Instant::ZERO),
            _ if !self.due.is_empty() => self.last_at,
            State::Waiting { since, .. } => Some(since + RESULT_WAIT),
            State::Idle => self.next_at(),
        };
        due.map(|due| due.max(self.looked_at + LOOK_GAP))
    }

    /// Takes the measurement of a burst; one older than the last adds nothing. `progress`: the burst showed more than
    /// the estimate, so that another probe may come soon.
    pub fn on_result(&mut self, cluster: Cluster, measured: Bitrate, progress: bool) {
        let State::Waiting { rate, .. } = self.state else { return };
        if rate != cluster.rate {
            return;
        }
        let convincing = measured.bps() >= percent(rate, CONVINCING).bps();
        if !convincing {
            self.due.clear();
            self.soon |= progress;
        } else if self.due.is_empty() && rate < percent(self.wanted, USEFUL) {
            self.due.push(Bitrate(measured.bps() * FURTHER));
        }
        if self.due.is_empty() {
            self.state = State::Idle;
        }
    }

    /// The path became worse: earlier results are old.
    pub fn on_drop(&mut self) {
        self.due.clear();
        if self.state == State::New {
            self.state = State::Idle;
        }
    }
}

/// The results of the bursts under way.
#[derive(Debug, Default)]
pub struct Measure {
    clusters: Vec<Measured>,
}

#[derive(Debug)]
struct Measured {
    cluster: Cluster,
    packets: u32,
    bytes: u64,
    first_sent: (Instant, u64),
    last_sent: (Instant, u64),
    first_arrived: (i64, u64),
    last_arrived: (i64, u64),
}

const CLUSTERS_MAX: usize = 4;
/// The share of a burst that has to have arrived, in percent.
const COMPLETE: u64 = 80;
/// A burst that seems to arrive this much faster than it was sent is an artefact of the clock.
const FASTER_MAX: f64 = 2.0;
/// A burst that arrives slower than it was sent filled a queue: the lasting rate is a little below the received one.
const SLOWER: f64 = 0.9;
const CAUTION: f64 = 0.95;

impl Measure {
    pub fn expect(&mut self, cluster: Cluster) {
        if self.clusters.len() == CLUSTERS_MAX {
            self.clusters.remove(0);
        }
        let (sent, arrived) = ((Instant::ZERO, 0), (0, 0));
        self.clusters.push(Measured {
            cluster,
            packets: 0,
            bytes: 0,
            first_sent: sent,
            last_sent: sent,
            first_arrived: arrived,
            last_arrived: arrived,
        });
    }

    /// Packets in order of arrival; returns the rate each time that a burst is complete enough.
    pub fn on_packet(&mut self, packet: &Arrived) -> Option<(Cluster, Bitrate)> {
        let Purpose::Probe(id) = packet.purpose else { return None };
        let known = self.clusters.iter_mut().find(|known| known.cluster.id == id)?;
        let bytes = u64::from(packet.bytes);
        if known.packets == 0 {
            (known.first_sent, known.last_sent) = ((packet.sent, bytes), (packet.sent, bytes));
            known.first_arrived = (packet.arrived_us, bytes);
        }
        if packet.sent < known.first_sent.0 {
            known.first_sent = (packet.sent, bytes);
        } else if packet.sent > known.last_sent.0 {
            known.last_sent = (packet.sent, bytes);
        } else if packet.sent == known.last_sent.0 && known.packets > 0 {
            // Packets that left at the last moment had no time after them.
            known.last_sent.1 += bytes;
        }
        known.last_arrived = (packet.arrived_us, bytes);
        known.packets += 1;
        known.bytes += bytes;
        known.rate().map(|rate| (known.cluster, rate))
    }
}

impl Measured {
    fn rate(&self) -> Option<Bitrate> {
        let wanted = self.cluster;
        if u64::from(self.packets) * 100 < u64::from(wanted.packets) * COMPLETE
            || self.bytes * 100 < wanted.bytes.bytes() * COMPLETE
        {
            return None;
        }
        let sent_s = self.last_sent.0.since(self.first_sent.0).as_secs_f64();
        let arrived_s = (self.last_arrived.0 - self.first_arrived.0) as f64 / 1e6;
        if !(0.001..1.0).contains(&sent_s) || !(0.001..1.0).contains(&arrived_s) {
            return None;
        }
        let sent = self.bytes.saturating_sub(self.last_sent.1) as f64 * 8.0 / sent_s;
        let arrived = self.bytes.saturating_sub(self.first_arrived.1) as f64 * 8.0 / arrived_s;
        if arrived > sent * FASTER_MAX {
            return None;
        }
        let carried = if arrived < SLOWER * sent { CAUTION * arrived } else { arrived.min(sent) };
        Some(Bitrate(carried as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    const START: Bitrate = Bitrate::kbps(600);

    #[test]
    fn it_starts_at_three_and_six_times_and_goes_on_while_that_convinces() {
        let mut prober = Prober::default();
        assert_eq!(prober.poll(at(0), START, true), None, "nobody wants more");
        prober.set_wanted(Bitrate::mbps(20));
        let rates: Vec<_> = (0..3).filter_map(|ms| prober.poll(at(ms), START, true)).map(|c| c.rate).collect();
        assert_eq!(rates, [Bitrate::kbps(1_800), Bitrate::kbps(3_600)]);
        let sent = |rate| Cluster { id: 1, rate, bytes: DataSize(0), packets: 5 };
        prober.on_result(sent(rates[0]), Bitrate::kbps(100), false);
        prober.on_result(sent(rates[1]), Bitrate::kbps(3_500), true);
        let next = prober.poll(at(100), Bitrate::kbps(3_500), true).expect("one more");
        assert_eq!((next.rate, next.bytes), (Bitrate::kbps(10_500), DataSize(19_687)));
        prober.on_result(next, Bitrate::mbps(4), false);
        assert_eq!(prober.poll(at(200), Bitrate::mbps(4), true), None, "the limit is found");
        assert_eq!(prober.next_deadline(Bitrate::mbps(4)), Some(at(2_100)));
        assert!(prober.poll(at(2_100), Bitrate::mbps(4), false).is_none(), "not while the queue grows");
        assert_eq!(prober.next_deadline(Bitrate::mbps(4)), Some(at(2_150)), "and it is not asked all the time");
        let unanswered = prober.poll(at(2_150), Bitrate::mbps(4), true).expect("it is time");
        assert_eq!(prober.poll(at(3_149), Bitrate::mbps(4), true), None);
        assert!(prober.poll(at(3_150), Bitrate::mbps(4), true).is_some(), "{unanswered:?} had no answer");
    }

    #[test]
    fn progress_that_does_not_convince_is_followed_up_soon() {
        let next_after = |progress| {
            let mut prober = Prober::default();
            prober.set_wanted(Bitrate::mbps(20));
            let [first, second] = [0, 1].map(|ms| prober.poll(at(ms), START, true).expect("two to begin with"));
            prober.on_result(first, Bitrate::kbps(1_700), true);
            prober.on_result(second, Bitrate::kbps(1_800), progress);
            prober.next_deadline(Bitrate::kbps(1_800))
        };
        // More was wanted at first, which is used up by the first probe.
        assert_eq!((next_after(false), next_after(true)), (Some(at(2_001)), Some(at(1_001))));
    }

    #[test]
    fn nobody_is_probed_beyond_what_is_of_use() {
        let mut prober = Prober::default();
        prober.set_wanted(Bitrate::mbps(1));
        let first = prober.poll(at(0), START, true).expect("more is wanted");
        assert_eq!(first.rate, Bitrate::kbps(1_300));
        prober.on_result(first, Bitrate::kbps(1_250), true);
        assert_eq!(prober.poll(at(50), Bitrate::kbps(1_250), true), None);
        assert_eq!(prober.next_deadline(Bitrate::kbps(1_250)), None);
        prober.set_wanted(Bitrate::mbps(3));
        assert!(prober.poll(at(1_100), Bitrate::kbps(1_250), true).is_some(), "more is wanted than before");
    }

    #[test]
    fn a_burst_tells_the_rate_of_its_arrival() {
        let cluster = Cluster { id: 7, rate: Bitrate::mbps(2), bytes: DataSize(3_750), packets: 5 };
        let send = |spread_us: i64| {
            let mut measure = Measure::default();
            measure.expect(cluster);
            // Five packets of 750 bytes, 3 ms apart: 2 Mbit/s.
            let packet = |n: i64| Arrived {
                sent: at(n as u64 * 3),
                arrived_us: n * spread_us,
                bytes: 750,
                purpose: Purpose::Probe(7),
            };
            (0..5).filter_map(|n| measure.on_packet(&packet(n))).last().map(|(_, rate)| rate)
        };
        assert_eq!(send(3_000), Some(Bitrate::mbps(2)));
        assert_eq!(send(6_000), Some(Bitrate::kbps(950)), "it filled a queue");
        assert_eq!(send(1_000), None, "faster than it was sent");
        assert_eq!(
            Measure::default().on_packet(&Arrived { sent: at(0), arrived_us: 0, bytes: 9, purpose: Purpose::Probe(7) }),
            None
        );
    }
}
