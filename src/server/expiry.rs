//! The warning of a certificate that ends soon, or has ended. Whoever renews its files has two weeks for it.

use std::time::{Duration, SystemTime};

use super::in_use::Validity;

const SOON: Duration = Duration::from_secs(14 * 24 * 3_600);

/// What is wrong with it at this moment.
pub(super) fn warning(validity: Validity, now: SystemTime) -> Option<String> {
    match validity.ends.duration_since(now) {
        Ok(left) if left > SOON => None,
        Ok(left) => Some(format!("the certificate of --tls-cert ends in {} hours", left.as_secs() / 3_600)),
        Err(_) => Some(format!("the certificate of --tls-cert ended on {}", httpdate::HttpDate::from(validity.ends))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn two_weeks_before_its_end_and_after_it_a_certificate_is_warned_of() {
        let ends = UNIX_EPOCH + 100 * SOON;
        let validity = Validity { begins: UNIX_EPOCH, ends };
        let at = |now| warning(validity, now);
        assert_eq!(at(ends - SOON - Duration::from_secs(1)), None);
        assert!(at(ends - SOON).unwrap().ends_with("ends in 336 hours"));
        assert!(at(ends).unwrap().ends_with("ends in 0 hours"));
        assert!(at(ends + Duration::from_secs(1)).unwrap().contains("ended on"));
    }
}
