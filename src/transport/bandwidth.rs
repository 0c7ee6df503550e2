//! The bandwidth towards one client: the estimate, the state of its allocation, and when to allocate again.
//! `shard::bandwidth` drives it; a transport without feedback or a bound has none.

use crate::base::time::{Duration, Instant};
use crate::base::units::Bitrate;
use crate::media::allocation::{Allocator, Demand};
use crate::media::congestion::Congestion;
use crate::media::congestion::sent_log::SentLog;
use crate::media::pacer::Pace;
use crate::media::repairs::Repairs;

/// The interval while nothing is short, and after a change.
const CALM: Duration = Duration::from_secs(1);
const BUSY: Duration = Duration::from_millis(100);
/// A target over this multiple of the sent rate leaves room for every burst: no pacing.
const AMPLE: u64 = 3;
/// The excess over the path's capacity, in percent, of which little arrives whole.
const FLOOD: u64 = 150;
/// The time after an excess in which packets leave carefully.
const CAREFUL: Duration = Duration::from_secs(2);
/// Encoders overshoot: the demand is the measured rate and this percentage more.
const MARGIN: u64 = 115;
/// The capacity that probes look for where something is withheld: one that carries it beyond doubt.
const MARGIN_WITHHELD: u64 = 230;
/// A change of the target by this percentage causes a new allocation.
const CHANGE: u64 = 3;

/// The outcome of an allocation.
pub struct AllocationOutcome {
    /// Where the bandwidth is short.
    pub pace: Option<Pace>,
    /// Until now much more flowed than the path carries.
    pub floods: bool,
}

#[derive(Default)]
pub struct Bandwidth {
    pub congestion: Congestion,
    pub allocator: Allocator,
    shared_at: Option<Instant>,
    /// When much more flowed than the path carries.
    flooded_at: Option<Instant>,
    /// The target at the last allocation.
    shared: Option<Bitrate>,
    /// A consumer gets less than could be sent, or nearly.
    pub short: bool,
    /// None where all that is requested again can be resent.
    pub repairs: Option<Repairs>,
    /// The number of due consumers.
    pub probes: usize,
}

impl Bandwidth {
    pub fn is_due(&self, now: Instant) -> bool {
        let Some(at) = self.shared_at else { return true };
        let age = now.since(at);
        age >= CALM || age >= BUSY && self.has_changed()
    }

    fn has_changed(&self) -> bool {
        match (self.shared, self.congestion.target()) {
            (Some(before), Some(now)) => before.bps().abs_diff(now.bps()) * 100 > before.bps() * CHANGE,
            (before, now) => before != now,
        }
    }

    /// Allocates among all consumers that could flow.
    pub fn share(&mut self, now: Instant, demands: &mut [Demand]) -> AllocationOutcome {
        let sum =
            |demands: &[Demand], of: fn(&Demand) -> Bitrate| demands.iter().map(|demand| of(demand).bps()).sum::<u64>();
        let target = self.congestion.target();
        (self.shared_at, self.shared) = (Some(now), target);
        let repairs = self.repairs.as_ref().map_or(0, |repairs| repairs.rate(now).bps());
        let (wanted, flows) = (sum(demands, Demand::wants), sum(demands, Demand::gets));
        let floods = target.is_some_and(|target| flows > target.bps() / 100 * FLOOD);
        if self.congestion.has_ample_room(Bitrate(wanted)) {
            self.allocator.forget();
        }
        // Retransmissions come out of the same bandwidth.
        let rest = target.map(|target| Bitrate(target.bps().saturating_sub(repairs).max(target.bps() / 2)));
        self.allocator.allocate(now, rest, demands);
        let given = sum(demands, Demand::gets);
        let withheld = given < wanted;
        if !withheld {
            self.congestion.relax(now);
        }
        let margin = if withheld { MARGIN_WITHHELD } else { MARGIN };
        self.congestion.set_wanted(Bitrate(wanted / 100 * margin));
        self.short = target.is_some_and(|target| target.bps() < given * AMPLE || withheld);
        let target = target.filter(|_| self.short);
        self.bound_repairs(now, target, Bitrate(given));
        if floods {
            self.flooded_at = Some(now);
        }
        let careful = self.flooded_at.is_some_and(|at| now.since(at) < CAREFUL);
        let pace = target.map(if careful { Pace::Careful } else { Pace::Usual });
        AllocationOutcome { pace, floods }
    }

    /// `target`: the bandwidth to divide, where it is short.
    fn bound_repairs(&mut self, now: Instant, target: Option<Bitrate>, given: Bitrate) {
        match (target, &mut self.repairs) {
            (Some(target), Some(repairs)) => repairs.set(now, target, given),
            (target, repairs) => *repairs = target.map(|target| Repairs::new(now, target, given)),
        }
    }

    /// The next allocation without any feedback.
    pub fn deadline(&self, log: &SentLog) -> Option<Instant> {
        let again = self.shared_at.map(|at| at + CALM);
        self.short.then(|| [again, self.congestion.next_deadline(log)].into_iter().flatten().min()).flatten()
    }
}
