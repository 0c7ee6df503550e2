//! The arrivals of a lane's datagrams, and when the other end is told of them: 10 ms after the first that wants it, at
//! 256 datagrams, or at once where three came beyond a gap. Each number is told twice, so that a lost message of feedback
//! hides nothing.

use crate::base::limits::LANE_ARRIVALS_MAX;
use crate::base::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(10);
const DATAGRAMS: u64 = 256;
const BEYOND_GAP: u64 = 3;
/// Numbers in one message: with two bytes each it fits the smallest datagram.
const TOLD_MAX: u64 = 448;
const MISSING: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct LaneArrivals {
    /// By the low bits of the number; in microseconds.
    arrivals: Box<[u64; LANE_ARRIVALS_MAX]>,
    /// One more than the highest; 0 before the first.
    end: u64,
    highest_at: Instant,
    /// Told for the last time, told once.
    told_twice: u64,
    told: u64,
    /// Beyond this a gap has been told of at once.
    gap_told: u64,
    due: Option<Instant>,
}

impl Default for LaneArrivals {
    fn default() -> Self {
        LaneArrivals {
            arrivals: Box::new([MISSING; LANE_ARRIVALS_MAX]),
            end: 0,
            highest_at: Instant::ZERO,
            told_twice: 0,
            told: 0,
            gap_told: 0,
            due: None,
        }
    }
}

fn place(number: u64) -> usize {
    number as usize % LANE_ARRIVALS_MAX
}

impl LaneArrivals {
    /// Notes a datagram; its number never came before.
    pub(super) fn on_datagram(&mut self, arrived: Instant, number: u64) {
        if number >= self.end {
            let from = self.end.max(number.saturating_sub(LANE_ARRIVALS_MAX as u64 - 1));
            (from..number).for_each(|missing| self.arrivals[place(missing)] = MISSING);
            self.end = number + 1;
            self.highest_at = arrived;
        } else if self.end - number > LANE_ARRIVALS_MAX as u64 {
            return;
        } else {
            // A late one is told again from here on.
            self.told_twice = self.told_twice.min(number);
        }
        self.arrivals[place(number)] = arrived.as_micros().min(MISSING - 1);
    }

    /// The datagram that came last has something in it that is to be acknowledged.
    pub(super) fn owe(&mut self, now: Instant) {
        let soon = now + INTERVAL;
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
        let many = self.end - self.told.min(self.end) >= DATAGRAMS;
        if many || self.has_fresh_gap() {
            self.due = Some(now);
        }
    }

    /// Exactly three came beyond a number that is missing and was not told of.
    fn has_fresh_gap(&mut self) -> bool {
        let Some(at) = self.end.checked_sub(BEYOND_GAP + 1) else { return false };
        let came = |number: u64| self.arrivals[place(number)] != MISSING;
        let fresh = at >= self.gap_told && !came(at) && (at + 1..self.end).all(came);
        if fresh {
            self.gap_told = at + 1;
        }
        fresh
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What is to be told, where something is due: the first number, and each from there on with its arrival.
    pub(super) fn tell(&mut self, now: Instant) -> Option<(u64, impl Iterator<Item = (u16, Option<u64>)>)> {
        self.due.take_if(|due| *due <= now)?;
        let oldest = self.end.saturating_sub(TOLD_MAX.min(LANE_ARRIVALS_MAX as u64));
        let from = self.told_twice.max(oldest);
        (self.told_twice, self.told) = (self.told.min(self.end), self.end);
        let arrivals = &self.arrivals;
        let numbers = (from..self.end).map(move |number| {
            let at = arrivals[place(number)];
            (number as u16, (at != MISSING).then_some(at))
        });
        Some((from, numbers))
    }

    /// How long ago the highest number came, in steps of 8 µs.
    pub(super) fn held(&self, now: Instant) -> u16 {
        u16::try_from(now.since(self.highest_at).as_micros() / 8).unwrap_or(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn told(arrivals: &mut LaneArrivals, millis: u64) -> Vec<(u16, bool)> {
        arrivals
            .tell(at(millis))
            .into_iter()
            .flat_map(|(_, numbers)| numbers)
            .map(|(n, at)| (n, at.is_some()))
            .collect()
    }

    #[test]
    fn each_number_is_told_twice_and_soon() {
        let mut arrivals = LaneArrivals::default();
        for number in [0, 1] {
            arrivals.on_datagram(at(number), number);
            arrivals.owe(at(number));
        }
        assert_eq!(arrivals.due(), Some(at(10)));
        assert!(told(&mut arrivals, 9).is_empty());
        assert_eq!(told(&mut arrivals, 10), [(0, true), (1, true)]);
        assert_eq!((arrivals.due(), arrivals.held(at(11))), (None, 1_250));
        arrivals.on_datagram(at(20), 3);
        arrivals.owe(at(20));
        assert_eq!(told(&mut arrivals, 30), [(0, true), (1, true), (2, false), (3, true)]);
        arrivals.on_datagram(at(31), 2);
        arrivals.owe(at(31));
        assert_eq!(told(&mut arrivals, 41), [(2, true), (3, true)], "late, and told again");
        arrivals.on_datagram(at(50), 4);
        assert_eq!(arrivals.due(), None, "a datagram of feedback alone wants none");
    }

    #[test]
    fn three_beyond_a_gap_and_many_are_told_at_once() {
        let mut arrivals = LaneArrivals::default();
        let mut come = |number: u64| {
            arrivals.on_datagram(at(5), number);
            arrivals.owe(at(5));
            let due = arrivals.due();
            if due == Some(at(5)) {
                told(&mut arrivals, 5);
            }
            due == Some(at(5))
        };
        assert_eq!([0, 2, 3, 4, 5].map(&mut come), [false, false, false, true, false]);
        let many: Vec<u64> = (6..400).filter(|number| come(*number)).collect();
        assert_eq!(many, [260]);
    }

    #[test]
    fn a_long_silence_of_many_numbers_is_one_message() {
        let mut arrivals = LaneArrivals::default();
        for number in [3, 1 << 40] {
            arrivals.on_datagram(at(1), number);
            arrivals.owe(at(1));
        }
        let mut came = |millis| -> (usize, Vec<u16>) {
            let told = told(&mut arrivals, millis);
            let came = told.iter().filter(|(_, came)| *came).map(|(number, _)| *number).collect();
            arrivals.on_datagram(at(12), 5);
            arrivals.owe(at(12));
            (told.len(), came)
        };
        assert_eq!([came(11), came(22)], [(448, vec![0]), (448, vec![0])], "what is far behind is nothing");
    }
}
