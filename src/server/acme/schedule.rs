//! When to order: a renewal in good time, a failed order again after a growing wait, and never before the authority's
//! own bounds. Times and a number from 0 to 1 for chance go in.

use std::time::{Duration, SystemTime};

use crate::base::limits::{ACME_ORDER_PAUSE, ACME_RETRY_AFTER_MAX};
use crate::server::in_use::Validity;

const FIRST_WAIT: Duration = Duration::from_secs(60);
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);
/// Public authorities allow some five failures an hour for a name: 1, 3, 9 and 27 minutes, and an hour from then on.
const GROWTH: u32 = 3;
/// A life below this is a short one.
const SHORT_LIFE: Duration = Duration::from_secs(10 * 24 * 3_600);

/// When a third of its life is left, of a short one a half; `chance` brings it forward by up to a thirtieth.
pub(super) fn renewal(validity: Validity, chance: f64) -> SystemTime {
    let life = validity.ends.duration_since(validity.begins).unwrap_or_default();
    let left = if life < SHORT_LIFE { life / 2 } else { life / 3 };
    let early = (life / 30).mul_f64(chance.clamp(0.0, 1.0));
    validity.ends.checked_sub(left + early).unwrap_or(validity.begins)
}

/// RFC 9110 section 10.2.3: seconds or a date; bounded, so that nobody stops renewals for good.
pub(super) fn read_retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that is too long for us is as good as the bound.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(wait.min(ACME_RETRY_AFTER_MAX))
}

/// Of orders that fail, one after the other.
#[derive(Default)]
pub(super) struct Waits {
    failed: u32,
}

impl Waits {
    pub(super) fn succeeded(&mut self) {
        self.failed = 0;
    }

    pub(super) fn failing(&self) -> bool {
        self.failed > 0
    }

    /// After one more failure; `asked`: the authority's own wish.
    pub(super) fn after_failure(&mut self, asked: Option<Duration>, chance: f64) -> Duration {
        let own = FIRST_WAIT.saturating_mul(GROWTH.saturating_pow(self.failed)).min(LONGEST_WAIT);
        self.failed = self.failed.saturating_add(1);
        let own = own + (own / 10).mul_f64(chance.clamp(0.0, 1.0));
        own.max(asked.unwrap_or_default().min(ACME_RETRY_AFTER_MAX))
    }
}

/// The earliest moment of the next order, whatever the certificate says: one that is to end at once costs no more.
pub(super) fn after_success(validity: Validity, now: SystemTime, chance: f64) -> SystemTime {
    renewal(validity, chance).max(now + ACME_ORDER_PAUSE)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3_600);

    fn lasting(life: Duration) -> Validity {
        let begins = UNIX_EPOCH + 20_000 * DAY;
        Validity { begins, ends: begins + life }
    }

    #[test]
    fn a_third_is_left_of_a_long_life_and_a_half_of_a_short_one() {
        let old = |life: Duration, chance| renewal(lasting(life), chance).duration_since(lasting(life).begins).unwrap();
        assert_eq!((old(90 * DAY, 0.0), old(90 * DAY, 1.0)), (60 * DAY, 57 * DAY));
        assert_eq!((old(6 * DAY, 0.0), old(10 * DAY, 0.0)), (3 * DAY, DAY * 20 / 3));
        assert_eq!(old(Duration::ZERO, 1.0), Duration::ZERO);
        let (begins, ends) = (lasting(DAY).ends, lasting(DAY).begins);
        assert_eq!(renewal(Validity { begins, ends }, 1.0), ends, "one that ends before it begins");
        let now = lasting(DAY).begins;
        assert_eq!(after_success(lasting(Duration::from_secs(1)), now, 0.5), now + ACME_ORDER_PAUSE);
    }

    #[test]
    fn waits_grow_to_an_hour_and_never_fall_below_the_authoritys() {
        let mut waits = Waits::default();
        let minutes = [0; 7].map(|_| waits.after_failure(None, 0.0).as_secs() / 60);
        assert_eq!(minutes, [1, 3, 9, 27, 60, 60, 60]);
        (0..100).for_each(|_| assert_eq!(waits.after_failure(None, 1.0), Duration::from_secs(3_960)));
        assert_eq!(waits.after_failure(Some(2 * LONGEST_WAIT), 0.0), 2 * LONGEST_WAIT);
        assert_eq!(waits.after_failure(Some(Duration::MAX), 0.0), ACME_RETRY_AFTER_MAX);
        assert!(waits.failing());
        waits.succeeded();
        assert!(!waits.failing());
        assert_eq!(waits.after_failure(Some(Duration::ZERO), 0.0), FIRST_WAIT);
    }

    #[test]
    fn what_an_authority_asks_for_is_read_and_bounded() {
        let now = UNIX_EPOCH + 20_000 * DAY;
        let date = |wait: Duration| httpdate::fmt_http_date(now + wait);
        for (text, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            (&*date(Duration::from_secs(90)), Some(90)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("18446744073709551615", Some(ACME_RETRY_AFTER_MAX.as_secs())),
            ("99999999999999999999999999", Some(ACME_RETRY_AFTER_MAX.as_secs())),
            (&date(10_000 * DAY), Some(ACME_RETRY_AFTER_MAX.as_secs())),
            ("", None),
            ("-1", None),
            ("soon", None),
        ] {
            assert_eq!(read_retry_after(text, now).map(|wait| wait.as_secs()), seconds, "{text}");
        }
    }
}
