//! What is known of the bandwidth towards one client and what follows from it: the estimate, how it is shared, and when
//! to share it out again. `shard::bandwidth` drives it; a transport without feedback or a bound has none.

use crate::base::time::{Duration, Instant};
use crate::base::units::Bitrate;
use crate::media::allocation::Allocator;
use crate::media::congestion::Congestion;
use crate::media::repairs::Repairs;

/// While nothing is short, and after a change.
const CALM: Duration = Duration::from_secs(1);
const BUSY: Duration = Duration::from_millis(100);
/// A change of the target by so much in percent is worth a new look.
const CHANGE: u64 = 3;

#[derive(Default)]
pub struct Bandwidth {
    pub congestion: Congestion,
    pub allocator: Allocator,
    shared_at: Option<Instant>,
    shared: Option<Bitrate>,
    /// Somebody gets less than could be sent, or nearly.
    pub short: bool,
    /// None where there is enough for all that is asked for again.
    pub repairs: Option<Repairs>,
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

    /// The target that is shared out now.
    pub fn begin(&mut self, now: Instant) -> Option<Bitrate> {
        (self.shared_at, self.shared) = (Some(now), self.congestion.target());
        self.shared
    }

    /// `target`: what is shared out where it is short.
    pub fn bound_repairs(&mut self, now: Instant, target: Option<Bitrate>, given: Bitrate) {
        match (target, &mut self.repairs) {
            (Some(target), Some(repairs)) => repairs.set(now, target, given),
            (target, repairs) => *repairs = target.map(|target| Repairs::new(now, target, given)),
        }
    }

    /// When it must be looked at without any feedback.
    pub fn deadline(&self, log: &crate::media::congestion::sent_log::SentLog) -> Option<Instant> {
        let again = self.shared_at.map(|at| at + CALM);
        self.short.then(|| [again, self.congestion.next_deadline(log)].into_iter().flatten().min()).flatten()
    }
}
