//! Limbo: packets that came before their producer. A browser sends as soon as it has applied the answer, and only then
//! tells signalling. Its media was authenticated and waits, little and shortly, decrypted, in order of arrival. Of all
//! other packets, which are probes for bandwidth, only the transport-wide numbers wait, for feedback, until a producer
//! names their extension id. One per transport; `binding` fills it.

use std::collections::VecDeque;

use crate::base::limits::{EARLY_NUMBERS_MAX, EARLY_NUMBERS_WAIT, LIMBO_MAX, LIMBO_PACKETS_MAX};
use crate::base::time::Instant;

/// Elements of two bytes in one packet that may be its transport-wide number.
const CANDIDATES_MAX: usize = 4;

#[derive(Default)]
pub(super) struct Limbo {
    waiting: VecDeque<Waiting>,
    early: VecDeque<EarlyNumbers>,
}

pub(super) struct Waiting {
    pub arrived: Instant,
    pub packet: Box<[u8]>,
}

/// The numbers of a packet that came before the id of their extension was known.
struct EarlyNumbers {
    arrived: Instant,
    /// By the publisher's ids; 0: none.
    numbers: [(u8, u16); CANDIDATES_MAX],
}

impl Limbo {
    /// Returns how many packets were dropped: this one when there is no room, and those that waited too long.
    pub(super) fn keep(&mut self, arrived: Instant, packet: &[u8]) -> u64 {
        let dropped = self.expire(arrived);
        if self.waiting.len() >= LIMBO_PACKETS_MAX {
            return dropped + 1;
        }
        self.waiting.push_back(Waiting { arrived, packet: packet.into() });
        dropped
    }

    /// The waiting packets, for the caller to find their producers. The room is free again.
    pub(super) fn take(&mut self) -> VecDeque<Waiting> {
        std::mem::take(&mut self.waiting)
    }

    /// Returns the packets that still belong to none.
    pub(super) fn put_back(&mut self, waiting: VecDeque<Waiting>) {
        self.waiting = waiting;
    }

    /// Keeps the numbers of a packet that may be its transport-wide one, whatever becomes of it.
    pub(super) fn note(&mut self, arrived: Instant, candidates: impl Iterator<Item = (u8, u16)>) {
        let mut numbers = [(0, 0); CANDIDATES_MAX];
        numbers.iter_mut().zip(candidates).for_each(|(number, candidate)| *number = candidate);
        if numbers[0].0 == 0 {
            return;
        }
        if self.early.len() >= EARLY_NUMBERS_MAX {
            self.early.pop_front();
        }
        self.early.push_back(EarlyNumbers { arrived, numbers });
    }

    /// All numbers that came under `id`, in order of arrival. The room is empty then.
    pub(super) fn numbers(&mut self, id: u8) -> impl Iterator<Item = (Instant, u16)> + use<> {
        std::mem::take(&mut self.early).into_iter().filter_map(move |EarlyNumbers { arrived, numbers }| {
            numbers.iter().find(|(known, _)| *known == id).map(|(_, number)| (arrived, *number))
        })
    }

    /// Drops packets that waited too long; returns their number. An empty room takes no memory.
    pub(super) fn expire(&mut self, now: Instant) -> u64 {
        let before = self.waiting.len();
        while self.waiting.pop_front_if(|first| now.since(first.arrived) >= LIMBO_MAX).is_some() {}
        while self.early.pop_front_if(|first| now.since(first.arrived) >= EARLY_NUMBERS_WAIT).is_some() {}
        let dropped = before - self.waiting.len();
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        if self.early.is_empty() {
            self.early = VecDeque::new();
        }
        dropped as u64
    }

    /// When [`Limbo::expire`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let waiting = self.waiting.front().map(|first| first.arrived + LIMBO_MAX);
        let early = self.early.front().map(|first| first.arrived + EARLY_NUMBERS_WAIT);
        [waiting, early].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn it_is_small_and_short() {
        let mut limbo = Limbo::default();
        for n in 0..LIMBO_PACKETS_MAX {
            assert_eq!(limbo.keep(at(n as u64), &[n as u8]), 0);
        }
        assert_eq!(limbo.keep(at(70), b"one too many"), 1);
        assert_eq!(limbo.deadline(), Some(at(500)));
        assert_eq!(limbo.expire(at(509)), 10);
        let young = limbo.take();
        assert_eq!((young.len(), young[0].packet[0]), (54, 10));
        assert_eq!((limbo.take().len(), limbo.deadline()), (0, None));
        limbo.put_back(young);
        assert_eq!((limbo.deadline(), limbo.expire(at(600))), (Some(at(510)), 54));
        assert_eq!((limbo.waiting.capacity(), limbo.deadline()), (0, None));
    }

    #[test]
    fn numbers_wait_for_their_id_in_order_and_not_for_ever() {
        let mut limbo = Limbo::default();
        limbo.note(at(0), [].into_iter());
        assert_eq!(limbo.deadline(), None, "it had none");
        for n in 0..EARLY_NUMBERS_MAX as u16 + 3 {
            limbo.note(at(n.into()), [(7, 9), (3, n)].into_iter().skip(usize::from(n % 2)));
        }
        assert_eq!(limbo.expire(at(2_004)), 0, "they are no packets");
        let numbers: Vec<_> = limbo.numbers(3).collect();
        assert_eq!((numbers.len(), numbers[0]), (EARLY_NUMBERS_MAX - 2, (at(5), 5)));
        assert_eq!((limbo.numbers(3).count(), limbo.early.capacity(), limbo.deadline()), (0, 0, None));
    }
}
