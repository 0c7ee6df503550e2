//! The one reader of the OS clocks. Everything else is handed a [`Now`]. Not a timer: waiting is the backend's.
#![expect(clippy::disallowed_methods, reason = "this is the edge that reads the clocks for everybody else")]

use std::sync::OnceLock;

use crate::base::time::{Duration, Instant, Now, NtpTime};

/// The zero of this process: the same for every thread, whoever asks first.
#[derive(Clone, Copy)]
pub struct Clock {
    start: std::time::Instant,
    /// Wall time at `start`. Later wall times are reckoned from the monotonic clock, so that a step of the system
    /// clock never tears sender reports apart: audio and video of one peer keep one NTP time line.
    wall_start: NtpTime,
}

impl Clock {
    pub fn process() -> Clock {
        static CLOCK: OnceLock<Clock> = OnceLock::new();
        *CLOCK.get_or_init(|| {
            let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let wall_start = NtpTime::from_unix(since_epoch.unwrap_or(Duration::ZERO));
            Clock { start: std::time::Instant::now(), wall_start }
        })
    }

    /// Its zero, for a library that takes no other kind of time.
    pub fn start(&self) -> std::time::Instant {
        self.start
    }

    pub fn mono(&self) -> Instant {
        Instant::ZERO + self.start.elapsed()
    }

    /// For computing when a datagram came that is being read.
    pub fn arrivals(&self) -> Arrivals {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Arrivals { system: since_epoch.unwrap_or(Duration::ZERO), mono: self.mono() }
    }

    pub fn now(&self) -> Now {
        let mono = self.mono();
        let nanos = i64::try_from(mono.as_nanos()).unwrap_or(i64::MAX);
        Now { mono, wall: self.wall_start.offset_nanos(nanos) }
    }
}

/// The kernel stamps arrivals with the system clock; the age holds on our clock too.
#[derive(Clone, Copy)]
pub struct Arrivals {
    system: Duration,
    mono: Instant,
}

/// The longest wait in a socket; a greater age is a step of the system clock.
const AGE_MAX: Duration = Duration::from_secs(1);

impl Arrivals {
    /// `stamp` is a time of the system clock since 1970; a missing or impossible one counts as now.
    pub fn at(&self, stamp: Option<Duration>) -> Instant {
        let age = stamp.and_then(|stamp| self.system.checked_sub(stamp)).filter(|age| *age <= AGE_MAX);
        self.mono - age.unwrap_or(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrival_lies_as_far_back_as_its_stamp_and_never_ahead() {
        let now = Instant::from_nanos(5_000_000_000);
        let arrivals = Arrivals { system: Duration::from_secs(100), mono: now };
        assert_eq!(arrivals.at(Some(Duration::from_millis(99_998))), now - Duration::from_millis(2));
        for wrong in [Duration::ZERO, Duration::from_secs(98), Duration::from_secs(101), Duration::MAX] {
            assert_eq!(arrivals.at(Some(wrong)), now);
        }
        assert_eq!(arrivals.at(None), now);
    }

    #[test]
    fn both_clocks_advance_together_and_are_the_same_for_every_thread() {
        let first = Clock::process().now();
        let second = std::thread::spawn(|| Clock::process().now()).join().unwrap();
        assert!(second.mono >= first.mono);
        let mono = second.mono.since(first.mono).as_nanos() as i64;
        assert!((second.wall.nanos_since(first.wall) - mono).abs() < 10, "one reading moves both");
        let unix = first.wall.0 >> 32;
        assert!(unix > 2_208_988_800 + 1_600_000_000, "the wall clock counts from 1900");
    }
}
