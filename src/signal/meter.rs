//! The cost limit of a client: a token bucket that is charged bytes and work, not messages alone. A session has one; a
//! user and an address have larger ones (`quota`).

use crate::base::limits::{
    FREE_BYTES_PER_MESSAGE, MESSAGES_BURST, MESSAGES_PER_SECOND, METERED_BYTES_READ, METERED_BYTES_SAID,
    METERED_BYTES_TOLD, METERED_JOIN, METERED_KNOCK_IN_VAIN, METERED_OBJECTS, METERED_RECEIVERS, METERED_TLS_HANDSHAKE,
    RATE_REFUSALS_MAX,
};
use crate::base::time::{Duration, Instant};

/// In thousandths of a plain message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct Cost(u64);

const MESSAGE: u64 = 1_000;

impl Cost {
    pub(super) const fn message(bytes: usize) -> Cost {
        Cost(MESSAGE + Cost::read(bytes.saturating_sub(FREE_BYTES_PER_MESSAGE)).0)
    }

    /// A credential that was refused: a signature may have been computed for it.
    pub(super) const KNOCK_IN_VAIN: Cost = Cost(METERED_KNOCK_IN_VAIN as u64 * MESSAGE);

    pub(super) const JOIN: Cost = Cost(METERED_JOIN as u64 * MESSAGE);

    pub(super) const TLS_HANDSHAKE: Cost = Cost(METERED_TLS_HANDSHAKE as u64 * MESSAGE);

    pub(super) const fn read(bytes: usize) -> Cost {
        Cost(bytes as u64 * MESSAGE / METERED_BYTES_READ as u64)
    }

    pub(super) const fn told(receivers: usize, bytes: usize) -> Cost {
        let bytes = (bytes as u64).saturating_mul(receivers as u64);
        Cost(bytes * MESSAGE / METERED_BYTES_TOLD as u64 + receivers as u64 * MESSAGE / METERED_RECEIVERS as u64)
    }

    /// A text of a client's own for others, beside its delivery.
    pub(super) const fn said(bytes: usize) -> Cost {
        Cost(bytes as u64 * MESSAGE / METERED_BYTES_SAID as u64)
    }

    /// So many times as much.
    pub(super) const fn times(self, many: u32) -> Cost {
        Cost(self.0 * many as u64)
    }

    pub(super) const fn walked(objects: usize) -> Cost {
        Cost(objects as u64 * MESSAGE / METERED_OBJECTS as u64)
    }

    /// A list that had to be serialised.
    pub(super) const fn listed(entries: usize, app_data_bytes: usize) -> Cost {
        Cost(Cost::walked(8 * entries).0 + app_data_bytes as u64 * MESSAGE / METERED_BYTES_TOLD as u64)
    }

    pub(super) fn add(&mut self, more: Cost) {
        self.0 = self.0.saturating_add(more.0);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RateDecision {
    Pass,
    /// The wait until a message of this kind passes.
    Refuse(Duration),
    Disconnect,
}

/// Counts in nanoseconds: a message costs its share of the sustained rate.
pub(super) struct Meter {
    credit: i64,
    filled_at: Instant,
    /// Messages refused since the bucket was last half full: a client that pauses is forgiven.
    refused: u32,
    /// Its size in sessions.
    size: u32,
}

const COST: i64 = 1_000_000_000 / MESSAGES_PER_SECOND as i64;
const CREDIT_MAX: i64 = COST * MESSAGES_BURST as i64;
/// The debt that one message may make: work is known only when it is done.
const DEBT_MAX: i64 = 2 * CREDIT_MAX;

impl Meter {
    pub(super) fn new(now: Instant, size: u32) -> Meter {
        Meter { credit: CREDIT_MAX, filled_at: now, refused: 0, size: size.max(1) }
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.since(self.filled_at).as_nanos().min((CREDIT_MAX + DEBT_MAX) as u128) as i64;
        self.filled_at = self.filled_at.max(now);
        self.credit = (self.credit + elapsed).min(CREDIT_MAX);
        if self.credit >= CREDIT_MAX / 2 {
            self.refused = 0;
        }
    }

    /// Charges the cost that is known before the work. `others_wait`: the user or the address has nothing left.
    pub(super) fn admit(&mut self, now: Instant, cost: Cost, others_wait: Option<Duration>) -> RateDecision {
        if let Some(wait) = self.wait(now).max(others_wait) {
            self.refused += 1;
            return match self.refused > RATE_REFUSALS_MAX {
                true => RateDecision::Disconnect,
                false => RateDecision::Refuse(wait),
            };
        }
        self.charge(cost);
        RateDecision::Pass
    }

    /// None: a message passes now.
    pub(super) fn wait(&mut self, now: Instant) -> Option<Duration> {
        self.fill(now);
        let least = COST / i64::from(self.size);
        (self.credit < least).then(|| Duration::from_nanos((least - self.credit).unsigned_abs()))
    }

    pub(super) fn charge(&mut self, cost: Cost) {
        let share = (COST as u64 / MESSAGE / u64::from(self.size)).max(1);
        let nanos = i64::try_from(cost.0.saturating_mul(share)).unwrap_or(i64::MAX);
        self.credit = self.credit.saturating_sub(nanos).max(-DEBT_MAX);
    }

    /// As good as new: it can be dropped without loss.
    pub(super) fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.credit >= CREDIT_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter() -> Meter {
        Meter::new(Instant::ZERO, 1)
    }

    const PLAIN: Cost = Cost::message(100);

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let mut meter = meter();
        for _ in 0..MESSAGES_BURST {
            assert_eq!(meter.admit(Instant::ZERO, PLAIN, None), RateDecision::Pass);
        }
        assert!(matches!(meter.admit(Instant::ZERO, PLAIN, None), RateDecision::Refuse(_)));
        let second = Instant::ZERO + Duration::from_secs(1);
        let passed = (0..100).filter(|_| meter.admit(second, PLAIN, None) == RateDecision::Pass).count();
        assert_eq!(passed, MESSAGES_PER_SECOND as usize);
    }

    #[test]
    fn a_flood_is_cut_off_and_a_pause_forgives() {
        let mut one = meter();
        let all = MESSAGES_BURST + RATE_REFUSALS_MAX + 1;
        let verdicts: Vec<_> = (0..all).map(|_| one.admit(Instant::ZERO, PLAIN, None)).collect();
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == RateDecision::Disconnect).count(), 1);
        assert_eq!(verdicts.last(), Some(&RateDecision::Disconnect));

        let mut other = meter();
        for minute in 0..10 {
            let now = Instant::ZERO + Duration::from_secs(60 * minute);
            for _ in 0..MESSAGES_BURST + 100 {
                assert_ne!(other.admit(now, PLAIN, None), RateDecision::Disconnect);
            }
        }
    }

    #[test]
    fn a_clock_that_stands_or_falls_back_gives_nothing() {
        let mut meter = meter();
        let late = Instant::ZERO + Duration::from_secs(9);
        for _ in 0..MESSAGES_BURST {
            meter.admit(late, PLAIN, None);
        }
        assert!(matches!(meter.admit(Instant::ZERO, PLAIN, None), RateDecision::Refuse(_)));
        assert!(matches!(meter.admit(late, PLAIN, None), RateDecision::Refuse(_)));
    }

    #[test]
    fn the_hint_is_when_a_message_passes() {
        let mut meter = meter();
        meter.charge(Cost::told(1_000, 16 * 1024));
        let RateDecision::Refuse(wait) = meter.admit(Instant::ZERO, PLAIN, None) else { panic!("it is in debt") };
        assert!(wait <= Duration::from_secs(17), "{wait:?}: a debt is bounded");
        assert!(matches!(meter.admit(Instant::ZERO + wait / 2, PLAIN, None), RateDecision::Refuse(_)));
        assert_eq!(meter.admit(Instant::ZERO + wait, PLAIN, None), RateDecision::Pass);
    }

    #[test]
    fn a_large_bucket_takes_more() {
        let mut meter = Meter::new(Instant::ZERO, 40);
        let passed = (0..100_000).take_while(|_| meter.admit(Instant::ZERO, PLAIN, None) == RateDecision::Pass).count();
        assert_eq!(passed, 40 * MESSAGES_BURST as usize);
    }
}
