//! How long a busy shard leaves its sockets alone, so that what arrives meanwhile is handled in one round: one wake
//! instead of many, and packets of several producers to one receiver in one run. Idle, or with so few packets that
//! none would join another, it does not wait at all. Called by the shard's loop; knows no clock.

use crate::base::time::{Duration, Instant};

/// Over which load and rate are measured.
const WINDOW: Duration = Duration::from_millis(50);

/// Shares of the core, in thousandths: below the first nothing waits, for what a window spares is not needed then; from
/// there to the second it grows from half of the maximum to all of it. A shorter one does not pay: waking from it costs
/// what waking for a packet costs.
const IDLE_PERMILLE: u64 = 120;
const BUSY_PERMILLE: u64 = 140;

/// A window is worth its wake when so many packets are expected in it, in thousandths. (With packets that come by
/// chance, x of them expected in a window, a packet causes (1 + e^-x) / (x + e^-x) wakes: one at x = 1, as many as with
/// no window, and 0.7 here.)
const COMPANY_MILLI: u64 = 1_500;

pub(super) struct Moderation {
    max: Duration,
    since: Instant,
    media: u64,
    busy: Duration,
    window: Duration,
    received_at: Instant,
}

impl Moderation {
    /// `max` bounds what a packet may wait; zero turns it off.
    pub(super) fn new(max: Duration) -> Moderation {
        let start = Instant::ZERO;
        Moderation { max, since: start, media: 0, busy: Duration::ZERO, window: Duration::ZERO, received_at: start }
    }

    /// A round began at `now`, took so many datagrams of media and worked for `busy`. Feedback and checks do not count:
    /// nothing is won by sending with them.
    pub(super) fn round(&mut self, now: Instant, media: usize, busy: Duration) {
        self.received_at = now;
        self.media += media as u64;
        self.busy += busy;
        let elapsed = now.since(self.since);
        if elapsed >= WINDOW {
            // Half of what it was, so that a single burst does not decide. While it grows from nothing or shrinks to it,
            // it is too short to pay.
            self.window = (self.window + self.fitting(elapsed)) / 2;
            (self.since, self.media, self.busy) = (now, 0, Duration::ZERO);
        }
    }

    /// Until when the sockets may be left alone after the last round.
    pub(super) fn until(&self) -> Instant {
        if self.window < self.max / 2 { self.received_at } else { self.received_at + self.window }
    }

    fn fitting(&self, elapsed: Duration) -> Duration {
        let elapsed = elapsed.as_nanos().max(1) as u64;
        let max = self.max.as_nanos() as u64;
        let permille = self.busy.as_nanos() as u64 * 1_000 / elapsed;
        if permille < IDLE_PERMILLE {
            return Duration::ZERO;
        }
        let range = BUSY_PERMILLE - IDLE_PERMILLE;
        let window = max * (range + (permille - IDLE_PERMILLE).min(range)) / (2 * range);
        let expected = u128::from(self.media) * u128::from(window) * 1_000 / u128::from(elapsed);
        if expected < u128::from(COMPANY_MILLI) { Duration::ZERO } else { Duration::from_nanos(window) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_millis(2);

    /// The window after a second of rounds, one every `step`.
    fn settled(step: Duration, datagrams: usize, busy: Duration) -> Duration {
        let (mut moderation, mut now) = (Moderation::new(MAX), Instant::ZERO);
        for _ in 0..Duration::from_secs(1).as_nanos() / step.as_nanos() {
            now = now + step;
            moderation.round(now, datagrams, busy);
        }
        moderation.until().since(now)
    }

    #[test]
    fn nothing_waits_without_load_or_without_company() {
        let micros = Duration::from_micros;
        assert_eq!(settled(micros(1_000), 1, micros(110)), Duration::ZERO, "11 % of the core");
        assert_eq!(settled(micros(20_000), 1, micros(7_000)), Duration::ZERO, "one packet in 20 ms");
        assert_eq!(settled(micros(33_000), 9, micros(2_500)), Duration::ZERO, "one publisher's frames");
        assert_eq!(settled(micros(1_000), 1, micros(125)), Duration::ZERO, "1.25 packets in 1.25 ms");
    }

    #[test]
    fn the_window_grows_with_load_and_never_beyond_the_maximum() {
        let micros = Duration::from_micros;
        let light = settled(micros(500), 1, micros(62));
        let medium = settled(micros(500), 1, micros(66));
        let full = settled(micros(500), 1, micros(100));
        assert!(MAX / 2 <= light && light < medium && medium < full, "{light:?} {medium:?} {full:?}");
        assert!(full > MAX * 9 / 10 && full <= MAX, "{full:?}");
        assert!(settled(micros(100), 50, micros(100)) <= MAX);
    }

    #[test]
    fn a_maximum_of_zero_turns_it_off() {
        let mut moderation = Moderation::new(Duration::ZERO);
        let now = Instant::ZERO + Duration::from_secs(5);
        moderation.round(now, 1_000, Duration::from_secs(1));
        assert_eq!(moderation.until(), now);
    }
}
