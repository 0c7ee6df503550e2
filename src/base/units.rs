//! Quantities with their unit in the type.

use std::ops::{Add, AddAssign, Mul};
use std::time::Duration;

/// Bits per second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Bitrate(pub u64);

impl Bitrate {
    pub const fn kbps(kbps: u64) -> Self {
        Bitrate(kbps * 1_000)
    }

    pub const fn mbps(mbps: u64) -> Self {
        Bitrate(mbps * 1_000_000)
    }

    pub const fn bps(self) -> u64 {
        self.0
    }
}

/// Bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct DataSize(pub u64);

impl DataSize {
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The mean rate when this much passed in `span`; zero for an empty span.
    pub fn per(self, span: Duration) -> Bitrate {
        let nanos = span.as_nanos();
        if nanos == 0 {
            return Bitrate(0);
        }
        Bitrate(u64::try_from(u128::from(self.0) * 8 * 1_000_000_000 / nanos).unwrap_or(u64::MAX))
    }
}

impl Add for DataSize {
    type Output = DataSize;

    fn add(self, rhs: DataSize) -> DataSize {
        DataSize(self.0.saturating_add(rhs.0))
    }
}

impl AddAssign for DataSize {
    fn add_assign(&mut self, rhs: DataSize) {
        *self = *self + rhs;
    }
}

impl Mul<Duration> for Bitrate {
    type Output = DataSize;

    fn mul(self, span: Duration) -> DataSize {
        DataSize(u64::try_from(u128::from(self.0) * span.as_nanos() / 8_000_000_000).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_times_time_is_size_and_back() {
        let size = Bitrate::mbps(8) * Duration::from_millis(250);
        assert_eq!(size, DataSize(250_000));
        assert_eq!(size.per(Duration::from_millis(250)), Bitrate::mbps(8));
        assert_eq!(size.per(Duration::ZERO), Bitrate(0));
    }
}
