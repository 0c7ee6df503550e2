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

    pub fn mono(&self) -> Instant {
        Instant::ZERO + self.start.elapsed()
    }

    /// What the system's wall clock shows, steps and all: for comparing with what the kernel has read from it.
    pub(super) fn wall_since_epoch(&self) -> Duration {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO)
    }

    pub fn now(&self) -> Now {
        let mono = self.mono();
        let nanos = i64::try_from(mono.as_nanos()).unwrap_or(i64::MAX);
        Now { mono, wall: self.wall_start.offset_nanos(nanos) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
