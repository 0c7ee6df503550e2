//! A log line that a stranger can cause as often as he likes: written at most once in a while, with the number left out
//! since.

use std::cell::Cell;

use crate::base::time::{Duration, Instant};

/// The interval of two lines.
const PAUSE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Seldom {
    written: Cell<Option<Instant>>,
    left_out: Cell<u64>,
}

impl Seldom {
    /// Whether to write one now; then the number left out since the last.
    pub(super) fn now(&self, now: Instant) -> Option<u64> {
        if self.written.get().is_some_and(|written| now.since(written) < PAUSE) {
            self.left_out.set(self.left_out.get() + 1);
            return None;
        }
        self.written.set(Some(now));
        Some(self.left_out.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_line_and_a_number() {
        let (line, start) = (Seldom::default(), Instant::ZERO + Duration::from_secs(100));
        assert_eq!(line.now(start), Some(0));
        for n in 0..1_000 {
            assert_eq!(line.now(start + Duration::from_millis(9 * n)), None);
        }
        assert_eq!(line.now(start + PAUSE), Some(1_000));
        assert_eq!(line.now(start + PAUSE), None);
    }
}
