//! When a question without an answer is asked again.

use crate::base::time::{Duration, Instant};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Retry {
    /// The waits after each time; what comes after the last of them.
    waits: &'static [Duration],
    then: Option<Duration>,
    asked: usize,
    at: Instant,
}

impl Retry {
    /// For the whole of what a member has. While its node lives it is asked for.
    pub(super) const fn of_sync(at: Instant) -> Retry {
        const WAITS: [Duration; 3] = [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(3)];
        Retry { waits: &WAITS, then: Some(Duration::from_secs(10)), asked: 0, at }
    }

    /// For the other members of a channel: that finds those that entered at the same time.
    pub(super) const fn of_enter(at: Instant) -> Retry {
        const WAITS: [Duration; 3] = [Duration::from_millis(100), Duration::from_secs(1), Duration::from_secs(5)];
        Retry { waits: &WAITS, then: None, asked: 0, at }
    }

    pub(super) const fn at(&self) -> Instant {
        self.at
    }

    /// It is asked at this time. Returns when it is to be asked again, if ever.
    pub(super) fn ask(mut self, now: Instant) -> Option<Retry> {
        let wait = self.waits.get(self.asked).copied().or(self.then)?;
        self.asked += 1;
        self.at = now + wait;
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(first: Retry) -> Vec<u64> {
        let mut times = Vec::new();
        let mut next = Some(first);
        while let Some(retry) = next.filter(|_| times.len() < 7) {
            times.push(retry.at().since(Instant::ZERO).as_millis() as u64);
            next = retry.ask(retry.at());
        }
        times
    }

    #[test]
    fn members_are_asked_four_times_and_a_roster_for_ever() {
        assert_eq!(asked(Retry::of_enter(Instant::ZERO)), [0, 100, 1_100, 6_100]);
        assert_eq!(asked(Retry::of_sync(Instant::ZERO)), [0, 300, 1_300, 4_300, 14_300, 24_300, 34_300]);
    }
}
