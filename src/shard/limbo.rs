//! Packets that came before the producer they belong to: a browser sends as soon as it has applied the answer, and only
//! then tells signalling. They were authenticated; they wait, few and shortly, decrypted, in order of arrival.

use std::collections::VecDeque;

use crate::base::limits::{LIMBO_MAX, LIMBO_PACKETS_MAX};
use crate::base::time::Instant;

#[derive(Default)]
pub(super) struct Limbo {
    waiting: VecDeque<Waiting>,
}

pub(super) struct Waiting {
    pub arrived: Instant,
    /// Its transport-wide number is in the arrival log already.
    pub noted: bool,
    pub packet: Box<[u8]>,
}

impl Limbo {
    /// Returns how many packets had to go: this one when there is no room, and those that waited too long.
    pub(super) fn keep(&mut self, arrived: Instant, noted: bool, packet: &[u8]) -> u64 {
        let mut dropped = self.expire(arrived);
        if self.waiting.len() >= LIMBO_PACKETS_MAX {
            dropped += 1;
        } else {
            self.waiting.push_back(Waiting { arrived, noted, packet: packet.into() });
        }
        dropped
    }

    /// All that is still young enough, and how many were not. The room is free again.
    pub(super) fn take(&mut self, now: Instant) -> (VecDeque<Waiting>, u64) {
        let dropped = self.expire(now);
        (std::mem::take(&mut self.waiting), dropped)
    }

    fn expire(&mut self, now: Instant) -> u64 {
        let before = self.waiting.len();
        while self.waiting.front().is_some_and(|first| now.since(first.arrived) > LIMBO_MAX) {
            self.waiting.pop_front();
        }
        (before - self.waiting.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_small_and_short() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let mut limbo = Limbo::default();
        for n in 0..LIMBO_PACKETS_MAX {
            assert_eq!(limbo.keep(at(n as u64), false, &[n as u8]), 0);
        }
        assert_eq!(limbo.keep(at(70), false, b"one too many"), 1);
        let (young, dropped) = limbo.take(at(510));
        assert_eq!((young.len(), dropped), (54, 10));
        assert_eq!(young[0].packet[0], 10);
        assert_eq!(limbo.take(at(510)).0.len(), 0);
    }
}
