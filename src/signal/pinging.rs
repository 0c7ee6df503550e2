//! Whether a client pings regularly, so that its silence means that its connection is broken.

use crate::base::limits::{REGULAR_PING_PAUSE_MAX, REGULAR_PINGS};
use crate::base::time::Instant;

#[derive(Default)]
pub(super) struct Pinging {
    last: Option<Instant>,
    /// Pings in a row.
    regular: u32,
}

impl Pinging {
    pub(super) fn came(&mut self, now: Instant) {
        let regular = self.last.is_some_and(|last| now.since(last) <= REGULAR_PING_PAUSE_MAX);
        self.regular = if regular { self.regular.saturating_add(1) } else { 1 };
        self.last = Some(now);
    }

    pub(super) fn is_regular(&self) -> bool {
        self.regular >= REGULAR_PINGS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Duration;

    #[test]
    fn pings_every_second_are_regular_until_one_comes_late() {
        let (mut pinging, mut now) = (Pinging::default(), Instant::ZERO);
        let mut after = |pinging: &mut Pinging, millis| {
            now = now + Duration::from_millis(millis);
            pinging.came(now);
            pinging.is_regular()
        };
        assert_eq!([5_000, 1_000, 1_400, 900].map(|millis| after(&mut pinging, millis)), [false, false, true, true]);
        assert_eq!([10_000, 10_000, 10_000].map(|millis| after(&mut pinging, millis)), [false; 3]);
    }
}
