//! Time as a value. Nothing here reads a clock: the edges (`net`, `server`, `client`) do, and pass [`Now`] in; the
//! simulation makes its own.

use std::fmt;
use std::ops::{Add, Sub};
pub use std::time::Duration;

/// Nanoseconds on a monotonic clock whose zero is the start of the process (or of the simulated world).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    pub const ZERO: Instant = Instant(0);

    pub const fn from_nanos(nanos: u64) -> Self {
        Instant(nanos)
    }

    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    pub const fn as_micros(self) -> u64 {
        self.0 / 1_000
    }

    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// The next multiple of `step`, which is not zero.
    pub fn round_up(self, step: Duration) -> Instant {
        let step = u64::try_from(step.as_nanos()).unwrap_or(u64::MAX).max(1);
        Instant(self.0.div_ceil(step).saturating_mul(step))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, rhs: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;

    fn sub(self, rhs: Duration) -> Instant {
        Instant(self.0.saturating_sub(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000_000, self.0 / 1_000 % 1_000_000)
    }
}

/// NTP time: 32 bits of seconds since 1900, 32 bits of fraction (RFC 5905 section 6).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct NtpTime(pub u64);

impl NtpTime {
    /// Seconds between the NTP epoch (1900) and the Unix epoch (1970).
    const UNIX_OFFSET: u64 = 2_208_988_800;

    pub fn from_unix(since_unix_epoch: Duration) -> Self {
        let seconds = since_unix_epoch.as_secs().wrapping_add(Self::UNIX_OFFSET);
        let fraction = (u64::from(since_unix_epoch.subsec_nanos()) << 32) / 1_000_000_000;
        NtpTime(seconds << 32 | fraction)
    }

    /// Milliseconds since the Unix epoch, as browsers give times; until the year 2104, of which the era is taken to be.
    pub fn unix_millis(self) -> f64 {
        let seconds = self.0 >> 32;
        let era = if seconds < Self::UNIX_OFFSET { 1 << 32 } else { 0 };
        let fraction = (self.0 & 0xffff_ffff) as f64 / 4_294_967.296;
        ((seconds + era - Self::UNIX_OFFSET) * 1_000) as f64 + fraction
    }

    /// The middle 32 bits, as LSR and DLSR count (RFC 3550 section 6.4.1).
    pub fn middle(self) -> u32 {
        (self.0 >> 16) as u32
    }

    /// Signed distance to `other` in nanoseconds, over the shorter way round the NTP era.
    pub fn nanos_since(self, other: NtpTime) -> i64 {
        let distance = self.0.wrapping_sub(other.0) as i64;
        ((i128::from(distance) * 1_000_000_000) >> 32) as i64
    }

    pub fn offset_nanos(self, nanos: i64) -> NtpTime {
        let units = ((i128::from(nanos) << 32) / 1_000_000_000) as i64;
        NtpTime(self.0.wrapping_add(units as u64))
    }
}

/// The clocks as an edge read them: once per batch, never inside the core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    pub mono: Instant,
    pub wall: NtpTime,
}

impl Now {
    /// The same clocks at `earlier`; itself when that lies ahead.
    pub fn at(self, earlier: Instant) -> Now {
        let age = self.mono.since(earlier);
        let nanos = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
        Now { mono: self.mono - age, wall: self.wall.offset_nanos(-nanos) }
    }

    /// The same clocks at `later`; itself when that lies back.
    pub fn advanced_to(self, later: Instant) -> Now {
        let ahead = later.since(self.mono);
        let nanos = i64::try_from(ahead.as_nanos()).unwrap_or(i64::MAX);
        Now { mono: self.mono + ahead, wall: self.wall.offset_nanos(nanos) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ntp_counts_from_1900_in_binary_fractions() {
        let half = NtpTime::from_unix(Duration::from_millis(500));
        assert_eq!(half.0 >> 32, 2_208_988_800);
        assert_eq!(half.0 as u32, 1 << 31);
        assert_eq!(half.offset_nanos(250_000_000).nanos_since(half), 250_000_000);
        assert_eq!(half.offset_nanos(-250_000_000).nanos_since(half), -250_000_000);
    }

    #[test]
    fn both_clocks_go_back_together_and_never_ahead() {
        let now = Now { mono: Instant::from_nanos(5_000), wall: NtpTime(1 << 40) };
        let then = now.at(Instant::from_nanos(2_000));
        assert_eq!(then.mono, Instant::from_nanos(2_000));
        assert!((now.wall.nanos_since(then.wall) - 3_000).abs() <= 1, "binary fractions of a second");
        assert_eq!(now.at(Instant::from_nanos(9_000)), now);
    }

    #[test]
    fn instants_round_up_to_a_grid() {
        let step = Duration::from_nanos(20);
        let rounded = [0, 1, 20, 21].map(|nanos| Instant::from_nanos(nanos).round_up(step).as_nanos());
        assert_eq!(rounded, [0, 20, 20, 40]);
        assert_eq!(Instant::from_nanos(7).round_up(Duration::ZERO).as_nanos(), 7);
    }

    #[test]
    fn an_instant_never_goes_below_zero() {
        assert_eq!(Instant::from_nanos(5) - Duration::from_secs(1), Instant::ZERO);
        assert_eq!(Instant::ZERO.since(Instant::from_nanos(9)), Duration::ZERO);
    }
}
