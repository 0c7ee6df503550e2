//! Orders, reliable and in their sequence: sent again in a new datagram after 1.5 round trips, acknowledged all at once by
//! the number before which everything has come. Of one thing only the newest word is kept for sending again.

use std::collections::{BTreeMap, VecDeque};

use crate::base::limits::{LANE_ORDERS_AHEAD_MAX, LANE_ORDERS_MAX};
use crate::base::seq::Seq;
use crate::base::time::{Duration, Instant};
use crate::wire::lane::{LaneHandle, LaneOrder, order_bytes};

const RESEND_MIN: Duration = Duration::from_millis(20);

/// What a newer word makes pointless: an earlier one of the same kind about the same handle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Supersedes {
    Nothing,
    Want(LaneHandle),
    Paused(LaneHandle),
    Withheld(LaneHandle),
}

#[derive(Debug)]
struct Waiting {
    body: Box<[u8]>,
    about: Supersedes,
    sent: Option<Instant>,
}

/// The orders that this end gives.
#[derive(Default, Debug)]
pub(super) struct OrdersOut {
    /// The number of the first that waits.
    first: u16,
    waiting: VecDeque<Waiting>,
}

impl OrdersOut {
    /// False: the other end has acknowledged none of so many, and the lane is of no use.
    pub(super) fn push(&mut self, order: &LaneOrder<'_>) -> bool {
        let about = match order {
            LaneOrder::Want { handle, .. } => Supersedes::Want(*handle),
            LaneOrder::Paused { handle, .. } => Supersedes::Paused(*handle),
            LaneOrder::Withheld { handle, .. } => Supersedes::Withheld(*handle),
            _ => Supersedes::Nothing,
        };
        if about != Supersedes::Nothing {
            for earlier in self.waiting.iter_mut().filter(|earlier| earlier.about == about) {
                earlier.body = order_bytes(&LaneOrder::Nothing).into();
                earlier.about = Supersedes::Nothing;
            }
        }
        let room = self.waiting.len() < LANE_ORDERS_MAX;
        if room {
            self.waiting.push_back(Waiting { body: order_bytes(order).into(), about, sent: None });
        }
        room
    }

    /// Everything before `number` has come.
    pub(super) fn acknowledged(&mut self, number: u16) {
        let count = usize::from(number.wrapping_sub(self.first));
        if count <= self.waiting.iter().take_while(|waiting| waiting.sent.is_some()).count() {
            self.waiting.drain(..count);
            self.first = number;
        }
    }

    /// When the next one is to be sent.
    pub(super) fn due(&self, rtt: Duration) -> Option<Instant> {
        self.waiting
            .iter()
            .take(LANE_ORDERS_AHEAD_MAX)
            .map(|waiting| waiting.sent.map_or(Instant::ZERO, |sent| sent + wait(rtt)))
            .min()
    }

    /// Gives those that are due to `sink`, which says whether there was room.
    pub(super) fn send(&mut self, now: Instant, rtt: Duration, mut sink: impl FnMut(u16, &[u8]) -> bool) {
        let first = self.first;
        // The other end keeps no more before one that is missing.
        for (at, waiting) in (0u16..).zip(self.waiting.iter_mut().take(LANE_ORDERS_AHEAD_MAX)) {
            let due = waiting.sent.is_none_or(|sent| sent + wait(rtt) <= now);
            if due && !sink(first.wrapping_add(at), &waiting.body) {
                return;
            }
            if due {
                waiting.sent = Some(now);
            }
        }
    }
}

fn wait(rtt: Duration) -> Duration {
    (rtt * 3 / 2).max(RESEND_MIN)
}

/// The orders of the other end.
#[derive(Default, Debug)]
pub(super) struct OrdersIn {
    /// The number of the next.
    next: u16,
    early: BTreeMap<u16, Box<[u8]>>,
    ready: VecDeque<Box<[u8]>>,
}

impl OrdersIn {
    /// Takes an order whatever came before it. One that is too far ahead is sent again.
    pub(super) fn on_order(&mut self, number: u16, body: &[u8]) {
        let ahead = Seq(number).ahead_of(Seq(self.next));
        if ahead < 0 || ahead as usize >= LANE_ORDERS_AHEAD_MAX {
            return;
        }
        self.early.entry(number).or_insert_with(|| body.into());
        while let Some(body) = self.early.remove(&self.next) {
            self.ready.push_back(body);
            self.next = self.next.wrapping_add(1);
        }
    }

    /// Everything before this number has come.
    pub(super) fn before(&self) -> u16 {
        self.next
    }

    pub(super) fn pop(&mut self) -> Option<Box<[u8]>> {
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    const RTT: Duration = Duration::from_millis(40);

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn keyframe(index: u16) -> LaneOrder<'static> {
        LaneOrder::KeyFrame { handle: LaneHandle { index, generation: 0 }, encoding: None, first: false }
    }

    #[test]
    fn they_come_once_and_in_their_order_over_loss_and_the_wrap() {
        let mut rng = StdRng::seed_from_u64(1);
        let (mut out, mut into) = (OrdersOut::default(), OrdersIn::default());
        (out.first, into.next) = (65_000, 65_000);
        let (mut given, mut taken) = (0u16, Vec::new());
        for millis in 0..20_000u64 {
            if millis % 10 == 0 && given < 1_500 {
                assert!(out.push(&keyframe(given)));
                given += 1;
            }
            let mut under_way = Vec::new();
            out.send(at(millis), RTT, |number, body| {
                under_way.push((number, body.to_vec()));
                true
            });
            under_way.reverse();
            under_way.retain(|_| rng.random_range(0..10) > 2);
            under_way.iter().for_each(|(number, body)| into.on_order(*number, body));
            while let Some(body) = into.pop() {
                taken.push(body);
            }
            if rng.random_range(0..10) > 2 {
                out.acknowledged(into.before());
            }
        }
        let expected: Vec<Box<[u8]>> = (0..1_500).map(|index| order_bytes(&keyframe(index)).into()).collect();
        assert!(taken == expected && out.due(RTT).is_none(), "{} came", taken.len());
    }

    #[test]
    fn only_the_newest_word_is_repeated_and_after_a_while() {
        let mut out = OrdersOut::default();
        let handle = LaneHandle { index: 1, generation: 0 };
        let sent = |out: &mut OrdersOut, millis| {
            let mut sent = Vec::new();
            out.send(at(millis), RTT, |number, body| {
                sent.push((number, format!("{:?}", LaneOrder::parse(body).unwrap().unwrap())));
                true
            });
            sent
        };
        out.push(&LaneOrder::Paused { handle, paused: true });
        assert_eq!((sent(&mut out, 0).len(), out.due(RTT)), (1, Some(at(60))));
        out.push(&LaneOrder::Paused { handle, paused: false });
        let later = sent(&mut out, 60);
        assert_eq!(later[0], (0, "Nothing".to_owned()));
        assert!(later[1].1.contains("paused: false"));
        assert!(sent(&mut out, 119).is_empty());
        out.acknowledged(7);
        assert_eq!(sent(&mut out, 120).len(), 2, "what was never sent is not acknowledged");
        out.acknowledged(2);
        assert_eq!(out.due(RTT), None);
    }

    #[test]
    fn both_ends_are_bounded() {
        let mut out = OrdersOut::default();
        assert!((0..LANE_ORDERS_MAX).all(|_| out.push(&keyframe(1))) && !out.push(&keyframe(1)));
        let mut into = OrdersIn::default();
        (1..u16::MAX).for_each(|number| into.on_order(number, b"x"));
        assert!(into.early.len() < LANE_ORDERS_AHEAD_MAX && into.pop().is_none());
        into.on_order(0, b"x");
        assert_eq!(into.before(), LANE_ORDERS_AHEAD_MAX as u16);
    }
}
