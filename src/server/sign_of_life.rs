//! The watch over a client that pings regularly: when its silence is long enough to ask for a sign of life, and when it
//! has given none. A page may be held up while its browser still answers.

use std::time::Duration;

use crate::base::limits::{REGULAR_PING_ASKED_AFTER, REGULAR_PING_SILENCE_MAX};

/// How exactly its silence is looked at.
const STEP: Duration = Duration::from_millis(50);

#[derive(Default)]
pub(super) struct SignOfLife {
    /// Its silence when it was asked.
    asked: Option<Duration>,
}

#[derive(PartialEq, Eq, Debug)]
pub(super) enum Watched {
    /// Look again after this time.
    Fine(Duration),
    /// Ask, and look again after this time.
    Ask(Duration),
    Broken,
}

impl SignOfLife {
    pub(super) fn look(&mut self, silence: Duration) -> Watched {
        if silence < REGULAR_PING_ASKED_AFTER {
            self.asked = None;
            return Watched::Fine(REGULAR_PING_ASKED_AFTER - silence + STEP);
        }
        let answer_wait = REGULAR_PING_SILENCE_MAX - REGULAR_PING_ASKED_AFTER;
        let Some(asked) = self.asked else {
            self.asked = Some(silence);
            return Watched::Ask(answer_wait + STEP);
        };
        match (asked + answer_wait).checked_sub(silence) {
            Some(left) if !left.is_zero() => Watched::Fine(left + STEP),
            _ => Watched::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn it_is_asked_after_one_second_and_broken_after_two() {
        let mut watch = SignOfLife::default();
        assert_eq!(watch.look(millis(300)), Watched::Fine(millis(750)));
        assert_eq!(watch.look(millis(1_000)), Watched::Ask(millis(1_050)));
        assert_eq!(watch.look(millis(1_900)), Watched::Fine(millis(150)));
        assert_eq!(watch.look(millis(2_000)), Watched::Broken);
    }

    #[test]
    fn who_answers_is_asked_anew_and_nobody_is_broken_unasked() {
        let mut watch = SignOfLife::default();
        assert!(matches!(watch.look(millis(1_200)), Watched::Ask(_)));
        assert!(matches!(watch.look(millis(10)), Watched::Fine(_)));
        assert!(matches!(watch.look(millis(3_000)), Watched::Ask(_)), "looked at late");
        assert_eq!(watch.look(millis(3_999)), Watched::Fine(millis(51)));
        assert_eq!(watch.look(millis(4_000)), Watched::Broken);
    }
}
