//! One socket: which channel it speaks in, and how fast it may speak.

use std::net::IpAddr;

use crate::base::limits::{MESSAGES_BURST, MESSAGES_PER_SECOND, RATE_REFUSALS_MAX};
use crate::base::slab::Key;
use crate::base::time::Instant;
use crate::signal::channel::Channel;

/// One open socket. One socket is one peer of one channel, and both carry the same number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u64);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admission {
    Pass,
    Refuse,
    Disconnect,
}

pub(super) struct Session {
    pub(super) channel: Key<Channel>,
    /// Where its socket comes from.
    pub(super) remote: IpAddr,
    meter: Meter,
}

impl Session {
    pub(super) fn new(now: Instant, channel: Key<Channel>, remote: IpAddr) -> Session {
        Session { channel, remote, meter: Meter { credit: CREDIT_MAX, filled_at: now, refused: 0 } }
    }

    pub(super) fn admit(&mut self, now: Instant) -> Admission {
        self.meter.admit(now)
    }
}

/// A token bucket that counts in nanoseconds of patience: a message costs what one is allowed to take on average.
struct Meter {
    credit: u64,
    filled_at: Instant,
    /// Messages refused since the bucket was last half full: a client that pauses is forgiven.
    refused: u32,
}

const COST: u64 = 1_000_000_000 / MESSAGES_PER_SECOND as u64;
const CREDIT_MAX: u64 = COST * MESSAGES_BURST as u64;

impl Meter {
    fn admit(&mut self, now: Instant) -> Admission {
        let elapsed = now.since(self.filled_at).as_nanos().min(u128::from(CREDIT_MAX)) as u64;
        self.filled_at = self.filled_at.max(now);
        self.credit = (self.credit + elapsed).min(CREDIT_MAX);
        if self.credit >= CREDIT_MAX / 2 {
            self.refused = 0;
        }
        if let Some(rest) = self.credit.checked_sub(COST) {
            self.credit = rest;
            return Admission::Pass;
        }
        self.refused += 1;
        if self.refused > RATE_REFUSALS_MAX { Admission::Disconnect } else { Admission::Refuse }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Duration;

    fn meter() -> Meter {
        Meter { credit: CREDIT_MAX, filled_at: Instant::ZERO, refused: 0 }
    }

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let mut meter = meter();
        for _ in 0..MESSAGES_BURST {
            assert_eq!(meter.admit(Instant::ZERO), Admission::Pass);
        }
        assert_eq!(meter.admit(Instant::ZERO), Admission::Refuse);
        let second = Instant::ZERO + Duration::from_secs(1);
        let passed = (0..100).filter(|_| meter.admit(second) == Admission::Pass).count();
        assert_eq!(passed, MESSAGES_PER_SECOND as usize);
    }

    #[test]
    fn a_flood_is_cut_off_and_a_pause_forgives() {
        let mut one = meter();
        let verdicts: Vec<_> = (0..MESSAGES_BURST + RATE_REFUSALS_MAX + 1).map(|_| one.admit(Instant::ZERO)).collect();
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == Admission::Disconnect).count(), 1);
        assert_eq!(verdicts.last(), Some(&Admission::Disconnect));

        let mut other = meter();
        for minute in 0..10 {
            let now = Instant::ZERO + Duration::from_secs(60 * minute);
            for _ in 0..MESSAGES_BURST + 100 {
                assert_ne!(other.admit(now), Admission::Disconnect);
            }
        }
    }

    #[test]
    fn a_clock_that_stands_or_falls_back_gives_nothing() {
        let mut meter = meter();
        let late = Instant::ZERO + Duration::from_secs(9);
        for _ in 0..MESSAGES_BURST {
            meter.admit(late);
        }
        assert_eq!(meter.admit(Instant::ZERO), Admission::Refuse);
        assert_eq!(meter.admit(late), Admission::Refuse);
    }
}
