//! When the kernel got a datagram (SO_TIMESTAMPNS, socket(7)). A shard that was kept from its core takes many datagrams
//! at once that did not come at once, and congestion control goes by when they came. Reads the control messages that
//! the backends receive; sets nothing but the socket's option.

use std::io;

use socket2::Socket;

use super::clock::Clock;
use super::udp::set_option;
use crate::base::time::{Duration, Instant};

/// A `cmsghdr` and a `timespec`, in the unit that keeps both aligned.
pub(super) type StampControl = [u64; 4];

/// The kernel's stamps are of the wall clock, which can be set: an age beyond this is none.
const AGE_MAX: Duration = Duration::from_secs(1);

pub(super) fn enable(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1i32)
}

/// Both clocks at one moment, by which stamps are turned into [`Instant`]s: read once for many datagrams.
pub(super) struct Moment {
    wall: Duration,
    mono: Instant,
}

impl Moment {
    pub(super) fn read(clock: &Clock) -> Moment {
        Moment { wall: clock.wall_since_epoch(), mono: clock.mono() }
    }

    /// When the datagram came that `control` was received with; None where nothing credible says so.
    pub(super) fn arrival(&self, control: &StampControl, len: usize) -> Option<Instant> {
        let age = self.wall.checked_sub(stamp(control, len)?)?;
        (age <= AGE_MAX).then(|| self.mono - age)
    }
}

/// Only the first control message is looked at: no other option is on.
fn stamp(control: &StampControl, len: usize) -> Option<Duration> {
    let [message_len, level_and_type, seconds, nanos] = *control;
    let [a, b, c, d, e, f, g, h] = level_and_type.to_ne_bytes();
    let head = (i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h]));
    let whole = size_of::<StampControl>();
    if len < whole || message_len != whole as u64 || head != (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) {
        return None;
    }
    Some(Duration::new(seconds, u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(level: i32, kind: i32, seconds: u64, nanos: u64) -> StampControl {
        let ([a, b, c, d], [e, f, g, h]) = (level.to_ne_bytes(), kind.to_ne_bytes());
        [32, u64::from_ne_bytes([a, b, c, d, e, f, g, h]), seconds, nanos]
    }

    #[test]
    fn a_stamp_counts_back_from_now_unless_the_clock_was_set() {
        let moment = Moment { wall: Duration::new(1_000, 500), mono: Instant::from_nanos(5_000_000_000) };
        let of = |seconds, nanos| moment.arrival(&control(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, seconds, nanos), 32);
        assert_eq!(of(1_000, 500), Some(moment.mono));
        assert_eq!(of(1_000, 0), Some(Instant::from_nanos(4_999_999_500)));
        assert_eq!(of(999, 990_000_500), Some(Instant::from_nanos(4_990_000_000)));
        assert_eq!([of(1_000, 501), of(998, 0), of(1 << 62, 0), of(999, 1_000_000_000)], [None; 4]);
    }

    #[test]
    fn what_is_no_stamp_is_none() {
        let moment = Moment { wall: Duration::new(1_000, 0), mono: Instant::from_nanos(5_000_000_000) };
        let good = control(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, 1_000, 0);
        assert!(moment.arrival(&good, 32).is_some());
        assert_eq!((moment.arrival(&good, 24), moment.arrival(&good, 0)), (None, None));
        assert_eq!(moment.arrival(&control(libc::SOL_UDP, libc::SCM_TIMESTAMPNS, 1_000, 0), 32), None);
    }
}
