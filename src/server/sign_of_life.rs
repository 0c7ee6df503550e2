//! The watch over a client that pings regularly: when its silence is long enough to ask for a sign of life, and when it
//! has given none. A page may be held up while its browser still answers.

use std::time::Duration;

use crate::base::limits::{REGULAR_PING_ASKED_AFTER, REGULAR_PING_SILENCE_MAX};
use crate::base::time::Instant;

/// How exactly its silence is looked at.
const STEP: Duration = Duration::from_millis(50);

#[derive(Default)]
pub(super) struct SignOfLife {
    /// When it was last heard before it was asked, and when that was.
    asked: Option<(Instant, Instant)>,
}

#[derive(PartialEq, Eq, Debug)]
pub(super) enum Vigil {
    /// Look again after this time.
    Fine(Duration),
    /// Ask, and look again after this time.
    Ask(Duration),
    Broken,
}

impl SignOfLife {
    /// `heard`: when anything last came.
    pub(super) fn look(&mut self, now: Instant, heard: Instant) -> Vigil {
        let silence = now.since(heard);
        if silence < REGULAR_PING_ASKED_AFTER {
            return Vigil::Fine(REGULAR_PING_ASKED_AFTER - silence + STEP);
        }
        let answer_wait = REGULAR_PING_SILENCE_MAX - REGULAR_PING_ASKED_AFTER;
        let Some((_, asked)) = self.asked.filter(|(before, _)| *before == heard) else {
            self.asked = Some((heard, now));
            return Vigil::Ask(answer_wait + STEP);
        };
        match answer_wait.checked_sub(now.since(asked)) {
            Some(left) if !left.is_zero() => Vigil::Fine(left + STEP),
            _ => Vigil::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn at(time: u64) -> Instant {
        Instant::ZERO + millis(time)
    }

    #[test]
    fn it_is_asked_after_one_second_and_broken_after_two() {
        let mut watch = SignOfLife::default();
        assert_eq!(watch.look(at(300), at(0)), Vigil::Fine(millis(750)));
        assert_eq!(watch.look(at(1_000), at(0)), Vigil::Ask(millis(1_050)));
        assert_eq!(watch.look(at(1_900), at(0)), Vigil::Fine(millis(150)));
        assert_eq!(watch.look(at(2_000), at(0)), Vigil::Broken);
    }

    #[test]
    fn who_answers_is_asked_anew_and_nobody_is_broken_unasked() {
        let mut watch = SignOfLife::default();
        assert_eq!(watch.look(at(1_000), at(0)), Vigil::Ask(millis(1_050)));
        // It answered at once, and was looked at when its silence was as long again.
        for second in 2..9 {
            assert!(matches!(watch.look(at(1_000 * second + 50), at(1_000 * second - 990)), Vigil::Ask(_)));
        }
        assert!(matches!(watch.look(at(13_000), at(10_000)), Vigil::Ask(_)), "looked at late");
        assert_eq!(watch.look(at(13_999), at(10_000)), Vigil::Fine(millis(51)));
        assert_eq!(watch.look(at(14_000), at(10_000)), Vigil::Broken);
    }
}
