//! The window of the newest [`WindowOf::WIDTH`] numbers of one stream, a bit each for those seen (RFC 3711 section
//! 3.3.2). It decides nothing: SRTP uses it against replay of incoming packets and against a second use of an outgoing
//! index, `media::seen_window` to tell late packets from repeated ones, and the bus of a cluster against replay of
//! messages.

/// The window of 1,024 numbers.
pub type Window = WindowOf<16>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    New,
    Already,
    /// Behind the window: unknown.
    Unknown,
}

/// A packet in order needs the first two fields, which share a cache line with the owner's fields before them.
#[derive(Clone, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct WindowOf<const WORDS: usize> {
    highest: u64,
    /// The word of `highest`, which goes into the ring when the next one begins.
    newest: u64,
    /// A ring: the word of `index` is at `index / 64 % WORDS`. The newest word's place holds the word that is WORDS
    /// words older.
    older: [u64; WORDS],
}

impl<const WORDS: usize> WindowOf<WORDS> {
    pub const WIDTH: usize = 64 * WORDS;

    /// A window whose first number has just been seen.
    pub fn starting_at(first: u64) -> Self {
        WindowOf { highest: first, newest: bit(first), older: [0; WORDS] }
    }

    /// A window for which everything up to `highest` counts as seen.
    pub fn closed_up_to(highest: u64) -> Self {
        WindowOf { highest, newest: u64::MAX >> (63 - highest % 64), older: [u64::MAX; WORDS] }
    }

    pub fn highest(&self) -> u64 {
        self.highest
    }

    pub fn check(&self, index: u64) -> Seen {
        if index > self.highest {
            return Seen::New;
        }
        if self.highest - index >= Self::WIDTH as u64 {
            return Seen::Unknown;
        }
        let word = if index / 64 == self.highest / 64 { self.newest } else { self.older[Self::place(index / 64)] };
        if word & bit(index) != 0 { Seen::Already } else { Seen::New }
    }

    /// Marks a number for which [`Window::check`] said [`Seen::New`].
    pub fn commit(&mut self, index: u64) {
        if index <= self.highest {
            match index / 64 == self.highest / 64 {
                true => self.newest |= bit(index),
                false => self.older[Self::place(index / 64)] |= bit(index),
            }
            return;
        }
        let (left, entered) = (self.highest / 64, index / 64);
        if left != entered {
            self.older[Self::place(left)] = self.newest;
            (left + 1..entered).take(WORDS).for_each(|skipped| self.older[Self::place(skipped)] = 0);
            self.newest = 0;
        }
        self.newest |= bit(index);
        self.highest = index;
    }

    fn place(word: u64) -> usize {
        word as usize % WORDS
    }
}

fn bit(index: u64) -> u64 {
    1 << (index % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};
    use std::collections::BTreeSet;

    fn walk(window: &mut Window, seen: &mut BTreeSet<u64>, steps: usize, rng: &mut StdRng) {
        for _ in 0..steps {
            let highest = window.highest();
            let index = match rng.random_range(0..100) {
                0 => highest + rng.random_range(0..5_000),
                1 => highest + rng.random_range(0..70),
                2..12 => highest.saturating_sub(rng.random_range(0..2_000)),
                _ => (highest + rng.random_range(0..6)).saturating_sub(rng.random_range(0..6)),
            };
            let expected = if highest >= index && highest - index >= 1_024 {
                Seen::Unknown
            } else if seen.contains(&index) {
                Seen::Already
            } else {
                Seen::New
            };
            assert_eq!(window.check(index), expected, "{index} at {highest}");
            if expected == Seen::New {
                window.commit(index);
                seen.insert(index);
            }
            assert_eq!(window.highest(), *seen.last().unwrap());
        }
    }

    #[test]
    fn it_agrees_with_a_set_that_forgets_nothing() {
        let mut rng = StdRng::seed_from_u64(5);
        for start in [0, 1, 63, 64, 1_023, 1_024, 70_000] {
            walk(&mut Window::starting_at(start), &mut BTreeSet::from([start]), 50_000, &mut rng);
        }
    }

    #[test]
    fn a_closed_window_admits_only_what_is_newer() {
        let mut window = Window::closed_up_to(10);
        assert_eq!(window.check(10), Seen::Already);
        assert_eq!(window.check(0), Seen::Already);
        assert_eq!(window.check(12), Seen::New);
        window.commit(12);
        assert_eq!(window.check(11), Seen::New);
        assert_eq!(window.check(u64::MAX), Seen::New);
        let mut rng = StdRng::seed_from_u64(6);
        for highest in [0, 62, 63, 64, 1_023, 5_000] {
            walk(&mut Window::closed_up_to(highest), &mut (0..=highest).collect(), 5_000, &mut rng);
        }
    }
}
