//! The coalescing window: how long a busy shard leaves its sockets alone, so that packets arriving meanwhile are
//! handled in one round: one wake instead of many, and packets of several producers to one receiver in one run. Idle,
//! or with so few packets that none would join another, it does not wait at all. Called by the shard's loop; knows no
//! clock.

use crate::base::time::{Duration, Instant};

/// The span over which load and rate are measured.
const WINDOW: Duration = Duration::from_millis(50);

/// Shares of the core, in thousandths. Up to the first nothing waits, because the CPU time is not needed elsewhere;
/// from there to the second the window grows, because the fuller the core, the more is won by saving and the less by
/// haste.
const IDLE_PERMILLE: u64 = 250;
const BUSY_PERMILLE: u64 = 500;

/// Down to here an open window stays: it lowers the load that it was opened for.
const STAY_PERMILLE: u64 = 200;

/// The first window, in thousandths of the maximum. A shorter one does not pay: waking from it costs as much as waking
/// for a packet.
const LEAST_PERMILLE: u64 = 350;

/// The expected arrivals for which a window is worth its wake, in thousandths. (With random arrivals, x of them
/// expected in a window, each causes (1 + e^-x) / (x + e^-x) wakes: one at x = 1, as many as with no window, and 0.7
/// here.)
const COMPANY_MILLI: u64 = 1_500;

pub(super) struct Moderation {
    max: Duration,
    since: Instant,
    arrivals: u64,
    busy: Duration,
    window: Duration,
    received_at: Instant,
}

impl Moderation {
    /// `max` bounds the wait of a packet; zero turns it off.
    pub(super) fn new(max: Duration) -> Moderation {
        let start = Instant::ZERO;
        Moderation { max, since: start, arrivals: 0, busy: Duration::ZERO, window: Duration::ZERO, received_at: start }
    }

    /// A round began at `now`, took media in `arrivals` arrivals, and worked for `busy`. A frame is one arrival, not
    /// one for each packet: it wakes the shard once with no window, too. Feedback and checks do not count: sending with
    /// them wins nothing.
    pub(super) fn round(&mut self, now: Instant, arrivals: usize, busy: Duration) {
        self.received_at = now;
        self.arrivals += arrivals as u64;
        self.busy += busy;
        let elapsed = now.since(self.since);
        if elapsed >= WINDOW {
            // Half of the old value, so that a single burst does not decide.
            self.window = (self.window + self.fitting(elapsed)) / 2;
            (self.since, self.arrivals, self.busy) = (now, 0, Duration::ZERO);
        }
    }

    /// The end of the window after the last round, if there is one.
    pub(super) fn until(&self) -> Instant {
        if self.is_open() { self.received_at + self.window } else { self.received_at }
    }

    /// While it grows from nothing or shrinks to it, it is too short to pay.
    fn is_open(&self) -> bool {
        let least = self.max.as_nanos() * u128::from(LEAST_PERMILLE) / 1_000;
        self.window.as_nanos() >= least - least / 8
    }

    fn fitting(&self, elapsed: Duration) -> Duration {
        let elapsed = elapsed.as_nanos().max(1) as u64;
        let max = self.max.as_nanos() as u64;
        let permille = self.busy.as_nanos() as u64 * 1_000 / elapsed;
        if permille < if self.is_open() { STAY_PERMILLE } else { IDLE_PERMILLE } {
            return Duration::ZERO;
        }
        let range = BUSY_PERMILLE - IDLE_PERMILLE;
        let share =
            LEAST_PERMILLE + (1_000 - LEAST_PERMILLE) * permille.saturating_sub(IDLE_PERMILLE).min(range) / range;
        let window = max * share / 1_000;
        let expected = u128::from(self.arrivals) * u128::from(window) * 1_000 / u128::from(elapsed);
        if expected < u128::from(COMPANY_MILLI) { Duration::ZERO } else { Duration::from_nanos(window) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_millis(2);

    const fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    /// The window after a second of rounds, one every `step`.
    fn settled(moderation: &mut Moderation, step: Duration, arrivals: usize, busy: Duration) -> Duration {
        let mut now = moderation.since;
        for _ in 0..Duration::from_secs(1).as_nanos() / step.as_nanos() {
            now = now + step;
            moderation.round(now, arrivals, busy);
        }
        moderation.until().since(now)
    }

    fn settled_anew(step: Duration, arrivals: usize, busy: Duration) -> Duration {
        settled(&mut Moderation::new(MAX), step, arrivals, busy)
    }

    #[test]
    fn nothing_waits_without_load_or_without_company() {
        assert_eq!(settled_anew(micros(500), 2, micros(120)), Duration::ZERO, "24 % of the core");
        assert_eq!(settled_anew(micros(1_000), 1, micros(300)), Duration::ZERO, "one arrival in a millisecond");
        assert_eq!(settled_anew(micros(20_000), 1, micros(7_000)), Duration::ZERO, "one packet in 20 ms");
        assert_eq!(settled_anew(micros(3_000), 1, micros(900)), Duration::ZERO, "four publishers to many");
    }

    #[test]
    fn the_window_grows_with_load_and_never_beyond_the_maximum() {
        let light = settled_anew(micros(500), 1, micros(130));
        let medium = settled_anew(micros(500), 1, micros(190));
        let full = settled_anew(micros(500), 1, micros(300));
        assert!(MAX / 3 <= light && light < medium && medium < full, "{light:?} {medium:?} {full:?}");
        assert!(full > MAX * 9 / 10 && full <= MAX, "{full:?}");
        assert!(settled_anew(micros(100), 50, micros(100)) <= MAX);
    }

    #[test]
    fn an_open_window_stays_when_it_has_lowered_the_load() {
        let mut moderation = Moderation::new(MAX);
        assert_eq!(settled(&mut moderation, micros(500), 2, micros(110)), Duration::ZERO, "22 %, not opened");
        assert!(settled(&mut moderation, micros(500), 2, micros(150)) > MAX / 3, "30 %, opened");
        assert!(settled(&mut moderation, micros(1_000), 4, micros(220)) > MAX / 3, "22 %, open");
        assert_eq!(settled(&mut moderation, micros(1_000), 4, micros(180)), Duration::ZERO, "18 %, shut");
    }

    #[test]
    fn a_maximum_of_zero_turns_it_off() {
        let mut moderation = Moderation::new(Duration::ZERO);
        let now = Instant::ZERO + Duration::from_secs(5);
        moderation.round(now, 1_000, Duration::from_secs(1));
        assert_eq!(moderation.until(), now);
    }
}
