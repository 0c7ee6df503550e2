//! The size of a lane's datagrams: 1,232 bytes pass wherever IPv6 does, more is tried by padded pings and given up where
//! full datagrams are lost while small ones arrive.

use crate::base::time::{Duration, Instant};

/// UDP payload of the smallest packet that each link of IPv6 carries.
pub(super) const SIZE_MIN: usize = 1_232;
/// Ethernet's less a tunnel's, and Ethernet's less IPv6 and UDP headers.
const TRIED: [usize; 2] = [1_400, 1_452];
pub(super) const SIZE_MAX: usize = 1_452;
const AGAIN: Duration = Duration::from_secs(600);
const ANSWER: Duration = Duration::from_millis(300);
const TRIES: u8 = 3;
const FULL_LOST_MAX: u8 = 3;

#[derive(Debug)]
pub(super) struct LaneSize {
    used: usize,
    probe: Option<Probing>,
    /// When the next size is tried.
    next: Instant,
    full_lost: u8,
    small_arrived: bool,
    pings: u32,
}

#[derive(Debug)]
struct Probing {
    size: usize,
    tries: u8,
    ping: Option<u32>,
    due: Instant,
}

/// A ping that fills a datagram of this size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SizeProbe {
    pub(super) size: usize,
    pub(super) ping: u32,
}

impl LaneSize {
    pub(super) fn new(now: Instant) -> LaneSize {
        LaneSize { used: SIZE_MIN, probe: None, next: now, full_lost: 0, small_arrived: false, pings: 0 }
    }

    /// Bytes of UDP payload.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    pub(super) fn due(&self) -> Instant {
        self.probe.as_ref().map_or(self.next, |probe| probe.due)
    }

    pub(super) fn probe(&mut self, now: Instant) -> Option<SizeProbe> {
        if self.due() > now {
            return None;
        }
        if self.probe.as_ref().is_some_and(|probe| probe.tries >= TRIES) {
            // What does not pass now may after a change of routes.
            (self.probe, self.next) = (None, now + AGAIN);
            return None;
        }
        let larger = TRIED.into_iter().find(|size| *size > self.used);
        let Some(size) = larger else {
            self.next = now + AGAIN;
            return None;
        };
        let probe = self.probe.get_or_insert(Probing { size, tries: 0, ping: None, due: now });
        self.pings = self.pings.wrapping_add(1);
        (probe.tries, probe.ping, probe.due) = (probe.tries + 1, Some(self.pings), now + ANSWER);
        Some(SizeProbe { size: probe.size, ping: self.pings })
    }

    pub(super) fn on_pong(&mut self, now: Instant, ping: u32) {
        if let Some(probe) = self.probe.take_if(|probe| probe.ping == Some(ping)) {
            (self.used, self.full_lost, self.next) = (probe.size, 0, now);
        }
    }

    pub(super) fn on_arrived(&mut self, bytes: usize) {
        match bytes > SIZE_MIN {
            true => self.full_lost = 0,
            false => self.small_arrived |= self.full_lost > 0,
        }
    }

    /// Three full ones in a row, with small ones between: the path has become narrow.
    pub(super) fn on_lost(&mut self, now: Instant, bytes: usize) {
        if bytes <= SIZE_MIN {
            return;
        }
        if self.full_lost == 0 {
            self.small_arrived = false;
        }
        self.full_lost = self.full_lost.saturating_add(1);
        if self.full_lost >= FULL_LOST_MAX && self.small_arrived {
            (self.used, self.probe, self.full_lost, self.next) = (SIZE_MIN, None, 0, now + AGAIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    /// The size after probing a path that carries `most`, and how many pings that took.
    fn probed(size: &mut LaneSize, from: u64, most: usize) -> (usize, u32) {
        let mut pings = 0;
        for millis in from..from + 5_000 {
            if let Some(probe) = size.probe(at(millis)) {
                pings += 1;
                if probe.size <= most {
                    size.on_pong(at(millis), probe.ping);
                }
            }
        }
        (size.used(), pings)
    }

    #[test]
    fn as_much_as_passes_is_used_and_what_does_not_is_tried_again_later() {
        for (most, used, pings) in [(1_232, 1_232, 3), (1_400, 1_400, 4), (1_452, 1_452, 2)] {
            let mut size = LaneSize::new(at(0));
            assert_eq!(probed(&mut size, 0, most), (used, pings));
            assert!(size.due() >= at(600_000));
            assert_eq!(probed(&mut size, 700_000, SIZE_MAX).0, SIZE_MAX);
        }
        let mut size = LaneSize::new(at(0));
        let probe = size.probe(at(0)).unwrap();
        size.on_pong(at(0), probe.ping + 1);
        assert_eq!(size.used(), SIZE_MIN, "of another ping");
    }

    #[test]
    fn full_ones_lost_while_small_ones_arrive_make_it_narrow() {
        let mut size = LaneSize::new(at(0));
        probed(&mut size, 0, SIZE_MAX);
        for _ in 0..10 {
            size.on_lost(at(9), 1_452);
        }
        assert_eq!(size.used(), SIZE_MAX, "everything is lost");
        size.on_arrived(1_452);
        size.on_lost(at(9), 1_452);
        size.on_arrived(100);
        size.on_lost(at(9), 100);
        size.on_lost(at(9), 1_452);
        assert_eq!(size.used(), SIZE_MAX);
        size.on_lost(at(9), 1_452);
        assert_eq!((size.used(), size.due()), (SIZE_MIN, at(600_009)));
    }
}
